/* Growing byte buffers and shared immutable bytes. */
#ifndef TR_BUF_H
#define TR_BUF_H

#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>

#include "base/base.h"

/* A borrowed run of bytes; not NUL-terminated. */
struct tr_str {
	const char *data;
	size_t len;
};
#define TR_STR(literal) ((struct tr_str){(literal), sizeof(literal) - 1})
static inline struct tr_str
tr_str(const char *z)
{
	return (struct tr_str){z, z ? strlen(z) : 0};
}
static inline bool
tr_str_eq(struct tr_str a, struct tr_str b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}
/* Whether `text` begins so; then what is behind it is left. */
static inline bool
tr_str_take(struct tr_str *text, const char *prefix)
{
	size_t len = strlen(prefix);

	if (text->len < len || memcmp(text->data, prefix, len) != 0)
		return false;
	text->data += len;
	text->len -= len;
	return true;
}
bool tr_str_ieq(struct tr_str a, struct tr_str b); /* ASCII case does not count */

/* Zero-initialised is empty. An allocation that fails sets `failed`, and everything after it is
 * dropped, so a builder checks once at the end. */
struct tr_buf {
	char *data;
	size_t len, cap;
	bool failed;
};
void tr_buf_free(struct tr_buf *buf);                /* back to empty */
void tr_buf_clear(struct tr_buf *buf);               /* keeps the memory */
char *tr_buf_grow(struct tr_buf *buf, size_t extra); /* as reserve, when there is no room */
/* Room for `extra` bytes behind what there is; NULL: failed. */
static inline char *
tr_buf_reserve(struct tr_buf *buf, size_t extra)
{
	return buf->data != NULL && !buf->failed && extra <= buf->cap - buf->len ? buf->data + buf->len
										 : tr_buf_grow(buf, extra);
}
static inline void
tr_buf_add(struct tr_buf *buf, const void *data, size_t len)
{
	char *at = tr_buf_reserve(buf, len);

	if (at == NULL || len == 0)
		return;
	memcpy(at, data, len);
	buf->len += len;
}
static inline void
tr_buf_add_str(struct tr_buf *buf, struct tr_str str)
{
	tr_buf_add(buf, str.data, str.len);
}
static inline void
tr_buf_addz(struct tr_buf *buf, const char *z)
{
	tr_buf_add(buf, z, strlen(z));
}
static inline void
tr_buf_addc(struct tr_buf *buf, char c)
{
	char *at = tr_buf_reserve(buf, 1);

	if (at == NULL)
		return;
	*at = c;
	buf->len++;
}
void tr_buf_addf(struct tr_buf *buf, const char *fmt, ...) TR_PRINTF(2, 3);
void tr_buf_add_u64(struct tr_buf *buf, uint64_t value); /* decimal */
void tr_buf_add_i64(struct tr_buf *buf, int64_t value);
void tr_buf_consume(struct tr_buf *buf, size_t len); /* drops bytes from the front */
/* Little-endian integers and counted strings, for stored frames. */
void tr_buf_put_u8(struct tr_buf *buf, uint8_t value);
void tr_buf_put_u16(struct tr_buf *buf, uint16_t value);
void tr_buf_put_u32(struct tr_buf *buf, uint32_t value);
void tr_buf_put_u64(struct tr_buf *buf, uint64_t value);
void tr_buf_put_varint(struct tr_buf *buf, uint64_t value);     /* LEB128 */
void tr_buf_put_bytes(struct tr_buf *buf, struct tr_str bytes); /* varint length, bytes */

/* A reader over stored bytes: after the first overrun `failed` is set and all reads give 0/empty. */
struct tr_reader {
	const char *at, *end;
	bool failed;
};
uint8_t tr_read_u8(struct tr_reader *reader);
uint16_t tr_read_u16(struct tr_reader *reader);
uint32_t tr_read_u32(struct tr_reader *reader);
uint64_t tr_read_u64(struct tr_reader *reader);
uint64_t tr_read_varint(struct tr_reader *reader);
struct tr_str tr_read_bytes(struct tr_reader *reader); /* borrowed from the source */

/* Immutable bytes shared by reference count; any thread. */
struct tr_blob {
	_Atomic uint32_t refs;
	size_t len;
	char data[]; /* data[len] is a NUL for debugging and C string users */
};
struct tr_blob *tr_blob_new(const void *data, size_t len); /* NULL: no memory; data NULL: uninitialised */
static inline struct tr_blob *
tr_blob_ref(struct tr_blob *blob)
{
	if (blob != NULL)
		atomic_fetch_add_explicit(&blob->refs, 1, memory_order_relaxed);
	return blob;
}
void tr_blob_unref(struct tr_blob *blob); /* NULL is fine */
/* Bytes held by all blobs of the process, for budgets and metrics. */
size_t tr_blob_total_bytes(void);

/* FNV-like 64-bit hash of bytes, the same in every run. */
uint64_t tr_hash(const void *data, size_t len);
/* CRC32C (Castagnoli), hardware where the CPU has it; chainable from 0. */
#ifndef TR_UNCHECKED
uint32_t tr_crc32c(uint32_t crc, const void *data, size_t len);
#else /* what the checks cost: `sh spec/bench/run.sh checks` */
static inline uint32_t
tr_crc32c(uint32_t crc, const void *data, size_t len)
{
	return UINT32_C(0xbe7c4000);
}
#endif
/* The same by tables alone: what CPUs without the instruction use, and tests compare with. */
uint32_t tr_crc32c_table(uint32_t crc, const void *data, size_t len);

#endif
