/* Decoding of field values: unfolding and encoded words (RFC 2047, with the language suffix of RFC 2231). */
#include <errno.h>
#include <iconv.h>

#include "base/json.h"
#include "message/header.h"

#define CHARSET_MAX 40

struct word {
	struct tr_str charset, text;
	bool base64;
	size_t len; /* all of it */
};

/* An encoded word at the start of text? */
static bool
find_word(struct tr_str text, struct word *out)
{
	const char *charset, *encoding, *at, *end = text.data + text.len, *star;

	if (text.len < 8 || text.data[0] != '=' || text.data[1] != '?')
		return false;
	at = text.data + 2;
	charset = at;
	while (at < end && *at != '?' && *at > ' ')
		at++;
	if (at == charset || end - at < 4 || at[0] != '?' || at[2] != '?')
		return false;
	out->charset = (struct tr_str){charset, (size_t)(at - charset)};
	star = memchr(charset, '*', out->charset.len);
	if (star != NULL)
		out->charset.len = (size_t)(star - charset);
	encoding = at + 1;
	if (*encoding != 'b' && *encoding != 'B' && *encoding != 'q' && *encoding != 'Q')
		return false;
	out->base64 = *encoding == 'b' || *encoding == 'B';
	at += 3;
	out->text.data = at;
	while (at < end && *at != '?' && *at != ' ' && *at != '\t')
		at++;
	if (end - at < 2 || at[0] != '?' || at[1] != '=')
		return false;
	out->text.len = (size_t)(at - out->text.data);
	out->len = (size_t)(at + 2 - text.data);
	return true;
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

static bool
decode_q(struct tr_str text, struct tr_buf *out)
{
	for (size_t i = 0; i < text.len; i++) {
		char c = text.data[i];

		if (c == '=') {
			int high = i + 2 < text.len ? hex_digit(text.data[i + 1]) : -1;
			int low = i + 2 < text.len ? hex_digit(text.data[i + 2]) : -1;

			if (high < 0 || low < 0)
				return false;
			tr_buf_addc(out, (char)(high << 4 | low));
			i += 2;
		} else {
			tr_buf_addc(out, c == '_' ? ' ' : c);
		}
	}
	return true;
}

static int
base64_digit(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

static bool
decode_base64(struct tr_str text, struct tr_buf *out)
{
	uint32_t bits = 0;
	int have = 0;

	while (text.len > 0 && text.data[text.len - 1] == '=')
		text.len--;
	if (text.len % 4 == 1)
		return false;
	for (size_t i = 0; i < text.len; i++) {
		int digit = base64_digit(text.data[i]);

		if (digit < 0)
			return false;
		bits = (bits << 6 | (uint32_t)digit) & 0xffffff;
		have += 6;
		if (have >= 8) {
			have -= 8;
			tr_buf_addc(out, (char)(bits >> have & 0xff));
		}
	}
	return true;
}

static bool
by_iconv(struct tr_str charset, struct tr_str bytes, struct tr_buf *out)
{
	char name[CHARSET_MAX + 1], chunk[256], *in = (char *)bytes.data; /* iconv() does not write to it */
	size_t in_left = bytes.len, start = out->len;
	bool ok = true;
	iconv_t cd;

	if (charset.len > CHARSET_MAX)
		return false;
	for (size_t i = 0; i < charset.len; i++) { /* no "//TRANSLIT" from outside */
		if (charset.data[i] == '/' || charset.data[i] == ',')
			return false;
		name[i] = charset.data[i];
	}
	name[charset.len] = '\0';
	cd = iconv_open("UTF-8", name);
	if (cd == (iconv_t)-1)
		return false;
	for (bool flush = false; ok;) {
		char *to = chunk;
		size_t left = sizeof chunk;
		size_t n = iconv(cd, flush ? NULL : &in, flush ? NULL : &in_left, &to, &left);

		tr_buf_add(out, chunk, sizeof chunk - left);
		if (n == (size_t)-1) {
			ok = errno == E2BIG && left < sizeof chunk;
		} else if (flush) {
			break;
		} else {
			flush = true;
		}
	}
	iconv_close(cd);
	if (!ok && !out->failed)
		out->len = start;
	return ok;
}

/* Adds bytes of that charset as UTF-8; false: nothing was added. */
static bool
to_utf8(struct tr_str charset, struct tr_str bytes, struct tr_buf *out)
{
	if (tr_str_ieq(charset, TR_STR("utf-8")) || tr_str_ieq(charset, TR_STR("utf8"))) {
		if (!tr_utf8_valid(bytes))
			return false;
		tr_buf_add_str(out, bytes);
		return true;
	}
	if (tr_str_ieq(charset, TR_STR("us-ascii")) || tr_str_ieq(charset, TR_STR("ascii"))) {
		for (size_t i = 0; i < bytes.len; i++)
			if ((unsigned char)bytes.data[i] >= 0x80)
				return false;
		tr_buf_add_str(out, bytes);
		return true;
	}
	if (tr_str_ieq(charset, TR_STR("iso-8859-1")) || tr_str_ieq(charset, TR_STR("latin1"))) {
		for (size_t i = 0; i < bytes.len; i++) {
			unsigned char c = (unsigned char)bytes.data[i];

			if (c >= 0x80)
				tr_buf_addc(out, (char)(0xc0 | c >> 6));
			tr_buf_addc(out, (char)(c >= 0x80 ? 0x80 | (c & 0x3f) : c));
		}
		return true;
	}
	return by_iconv(charset, bytes, out);
}

/* Encoded words of one charset in a row: decoded together, because some writers cut characters in two. */
struct run {
	struct tr_buf bytes;
	struct tr_str charset;
	struct tr_str raw; /* as written, the blanks between included */
};

static void
end_run(struct run *run, struct tr_buf *out)
{
	if (run->raw.data == NULL)
		return;
	if (!to_utf8(run->charset, (struct tr_str){run->bytes.data, run->bytes.len}, out))
		tr_buf_add_str(out, run->raw);
	if (run->bytes.failed)
		out->failed = true;
	run->raw = (struct tr_str){NULL, 0};
	tr_buf_clear(&run->bytes);
}

static bool
is_blank(char c)
{
	return c == ' ' || c == '\t';
}

static void
decode_words(struct tr_str text, struct tr_buf *out)
{
	struct run run = {.raw = {NULL, 0}};
	size_t at = 0;

	while (at < text.len) {
		struct word word;
		size_t gap = at, kept = run.bytes.len;
		bool joined;

		if (run.raw.data != NULL) /* blanks between two encoded words do not count */
			while (gap < text.len && is_blank(text.data[gap]))
				gap++;
		if (!find_word((struct tr_str){text.data + gap, text.len - gap}, &word)) {
			end_run(&run, out);
			do {
				tr_buf_addc(out, text.data[at++]);
			} while (at < text.len && text.data[at] != '=');
			continue;
		}
		joined = run.raw.data != NULL && tr_str_ieq(run.charset, word.charset);
		if (!joined) {
			end_run(&run, out);
			kept = 0;
		}
		if (!(word.base64 ? decode_base64 : decode_q)(word.text, &run.bytes)) {
			if (!run.bytes.failed)
				run.bytes.len = kept;
			end_run(&run, out);
			tr_buf_add(out, text.data + at, gap + word.len - at);
			at = gap + word.len;
			continue;
		}
		if (!joined) {
			run.charset = word.charset;
			run.raw.data = text.data + gap;
		}
		at = gap + word.len;
		run.raw.len = (size_t)(text.data + at - run.raw.data);
	}
	end_run(&run, out);
	if (run.bytes.failed)
		out->failed = true;
	tr_buf_free(&run.bytes);
}

void
tr_header_decode(struct tr_str value, struct tr_buf *out)
{
	struct tr_buf flat = {0};

	while (value.len > 0 && (is_blank(value.data[0]) || value.data[0] == '\r' || value.data[0] == '\n')) {
		value.data++;
		value.len--;
	}
	while (value.len > 0 && (is_blank(value.data[value.len - 1]) || value.data[value.len - 1] == '\r' ||
					value.data[value.len - 1] == '\n'))
		value.len--;
	if (value.len == 0)
		return;
	if (memchr(value.data, '\n', value.len) != NULL) { /* unfold: the line end goes, the blank stays */
		for (size_t i = 0; i < value.len; i++) {
			if (value.data[i] == '\r' && i + 1 < value.len && value.data[i + 1] == '\n')
				continue;
			if (value.data[i] != '\n')
				tr_buf_addc(&flat, value.data[i]);
		}
		if (flat.failed)
			out->failed = true;
		value = (struct tr_str){flat.data, flat.len};
	}
	if (value.len >= 2 && memmem(value.data, value.len, "=?", 2) != NULL)
		decode_words(value, out);
	else
		tr_buf_add_str(out, value);
	tr_buf_free(&flat);
}
