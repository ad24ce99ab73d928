#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>

static char
lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

bool
tr_str_ieq(struct tr_str a, struct tr_str b)
{
	if (a.len != b.len)
		return false;
	for (size_t i = 0; i < a.len; i++) {
		if (lower(a.data[i]) != lower(b.data[i]))
			return false;
	}
	return true;
}

void
tr_buf_free(struct tr_buf *buf)
{
	free(buf->data);
	*buf = (struct tr_buf){0};
}

void
tr_buf_clear(struct tr_buf *buf)
{
	buf->len = 0;
	buf->failed = false;
}

char *
tr_buf_grow(struct tr_buf *buf, size_t extra)
{
	size_t cap = buf->cap;
	char *data;

	if (buf->failed)
		return NULL;
	if (buf->data != NULL && extra <= cap - buf->len)
		return buf->data + buf->len;
	if (extra > PTRDIFF_MAX - buf->len) {
		buf->failed = true;
		return NULL;
	}
	if (cap < 64)
		cap = 64;
	while (cap < buf->len + extra)
		cap = cap > PTRDIFF_MAX / 2 ? PTRDIFF_MAX : cap * 2;
	data = realloc(buf->data, cap);
	if (data == NULL) {
		buf->failed = true;
		return NULL;
	}
	buf->data = data;
	buf->cap = cap;
	return data + buf->len;
}

void
tr_buf_addf(struct tr_buf *buf, const char *fmt, ...)
{
	char *at = tr_buf_reserve(buf, 64);
	va_list args;
	int len;

	if (at == NULL)
		return;
	va_start(args, fmt);
	len = vsnprintf(at, buf->cap - buf->len, fmt, args);
	va_end(args);
	if (len >= 0 && (size_t)len >= buf->cap - buf->len) { /* room for its NUL is needed, too */
		at = tr_buf_reserve(buf, (size_t)len + 1);
		if (at == NULL)
			return;
		va_start(args, fmt);
		len = vsnprintf(at, (size_t)len + 1, fmt, args);
		va_end(args);
	}
	if (len < 0) {
		buf->failed = true;
		return;
	}
	buf->len += (size_t)len;
}

void
tr_buf_add_u64(struct tr_buf *buf, uint64_t value)
{
	char digits[20];
	size_t at = sizeof digits;

	do {
		digits[--at] = (char)('0' + value % 10);
		value /= 10;
	} while (value > 0);
	tr_buf_add(buf, digits + at, sizeof digits - at);
}

void
tr_buf_add_i64(struct tr_buf *buf, int64_t value)
{
	if (value < 0)
		tr_buf_addc(buf, '-');
	tr_buf_add_u64(buf, value < 0 ? -(uint64_t)value : (uint64_t)value);
}

void
tr_buf_consume(struct tr_buf *buf, size_t len)
{
	if (len >= buf->len) {
		buf->len = 0;
		return;
	}
	if (len == 0)
		return;
	buf->len -= len;
	memmove(buf->data, buf->data + len, buf->len);
}

static void
put_le(struct tr_buf *buf, uint64_t value, size_t bytes)
{
	char *at = tr_buf_reserve(buf, bytes);

	if (at == NULL)
		return;
	for (size_t i = 0; i < bytes; i++)
		at[i] = (char)(value >> (8 * i) & 255);
	buf->len += bytes;
}

void
tr_buf_put_u8(struct tr_buf *buf, uint8_t value)
{
	put_le(buf, value, 1);
}

void
tr_buf_put_u16(struct tr_buf *buf, uint16_t value)
{
	put_le(buf, value, 2);
}

void
tr_buf_put_u32(struct tr_buf *buf, uint32_t value)
{
	put_le(buf, value, 4);
}

void
tr_buf_put_u64(struct tr_buf *buf, uint64_t value)
{
	put_le(buf, value, 8);
}

void
tr_buf_put_varint(struct tr_buf *buf, uint64_t value)
{
	char *start = tr_buf_reserve(buf, 10), *at = start;

	if (start == NULL)
		return;
	for (; value >= 128; value >>= 7)
		*at++ = (char)(value | 128);
	*at++ = (char)value;
	buf->len += (size_t)(at - start);
}

void
tr_buf_put_bytes(struct tr_buf *buf, struct tr_str bytes)
{
	char *at = bytes.len < 128 ? tr_buf_reserve(buf, bytes.len + 1) : NULL;

	if (at != NULL) { /* the length is one byte: nearly always */
		*at = (char)bytes.len;
		if (bytes.len > 0)
			memcpy(at + 1, bytes.data, bytes.len);
		buf->len += bytes.len + 1;
		return;
	}
	tr_buf_put_varint(buf, bytes.len);
	tr_buf_add_str(buf, bytes);
}

/* --- reading ------------------------------------------------------------------------------------ */

static uint64_t
read_le(struct tr_reader *reader, size_t bytes)
{
	uint64_t value = 0;

	if (reader->failed || (size_t)(reader->end - reader->at) < bytes) {
		reader->failed = true;
		return 0;
	}
	for (size_t i = 0; i < bytes; i++)
		value |= (uint64_t)(unsigned char)reader->at[i] << (8 * i);
	reader->at += bytes;
	return value;
}

uint8_t
tr_read_u8(struct tr_reader *reader)
{
	return (uint8_t)read_le(reader, 1);
}

uint16_t
tr_read_u16(struct tr_reader *reader)
{
	return (uint16_t)read_le(reader, 2);
}

uint32_t
tr_read_u32(struct tr_reader *reader)
{
	return (uint32_t)read_le(reader, 4);
}

uint64_t
tr_read_u64(struct tr_reader *reader)
{
	return read_le(reader, 8);
}

uint64_t
tr_read_varint(struct tr_reader *reader)
{
	uint64_t value = 0;

	for (int shift = 0; !reader->failed && reader->at < reader->end && shift < 64; shift += 7) {
		unsigned char byte = (unsigned char)*reader->at++;

		if (shift == 63 && byte > 1)
			break; /* more than 64 bits */
		value |= (uint64_t)(byte & 127) << shift;
		if (byte < 128)
			return value;
	}
	reader->failed = true;
	return 0;
}

struct tr_str
tr_read_bytes(struct tr_reader *reader)
{
	uint64_t len = tr_read_varint(reader);
	struct tr_str bytes = {"", 0};

	if (reader->failed)
		return bytes;
	if (len > (size_t)(reader->end - reader->at)) {
		reader->failed = true;
		return bytes;
	}
	bytes.data = reader->at;
	bytes.len = (size_t)len;
	reader->at += len;
	return bytes;
}
