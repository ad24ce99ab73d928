#include "message/header.h"

#define FOLD_AT 75
#define HARD_LIMIT 900

/* Offset behind the line that starts at `at`; *text_end before its line end. */
static size_t
line_end(struct tr_str message, size_t at, size_t *text_end)
{
	const char *lf = memchr(message.data + at, '\n', message.len - at);
	size_t end = lf != NULL ? (size_t)(lf - message.data) : message.len;

	*text_end = lf != NULL && end > at && message.data[end - 1] == '\r' ? end - 1 : end;
	return lf != NULL ? end + 1 : end;
}

static bool
is_blank(char c)
{
	return c == ' ' || c == '\t';
}

/* Length of the field name of a line, blanks before the colon (obsolete syntax) left out; *colon is its
 * offset. 0: not a field. */
static size_t
name_len(const char *line, size_t len, size_t *colon)
{
	size_t name = 0, i;

	while (name < len && line[name] > ' ' && line[name] < 0x7f && line[name] != ':')
		name++;
	for (i = name; i < len && is_blank(line[i]);)
		i++;
	if (i >= len || line[i] != ':')
		return 0;
	*colon = i;
	return name;
}

bool
tr_header_next(struct tr_str message, size_t *at, struct tr_header *out)
{
	size_t start = *at, text_end, next, colon = 0;

	if (start >= message.len)
		return false;
	next = line_end(message, start, &text_end);
	if (text_end == start) /* the blank line */
		return false;
	*out = (struct tr_header){.start = start};
	out->name = (struct tr_str){message.data + start, name_len(message.data + start, text_end - start, &colon)};
	out->value.data = out->name.len > 0 ? message.data + start + colon + 1 : message.data + start;
	while (next < message.len && is_blank(message.data[next])) /* folds */
		next = line_end(message, next, &text_end);
	out->value.len = (size_t)(message.data + text_end - out->value.data);
	out->end = next;
	*at = next;
	return true;
}

size_t
tr_header_end(struct tr_str message)
{
	size_t at = 0;
	struct tr_header header;

	while (tr_header_next(message, &at, &header))
		;
	return at < message.len ? at : SIZE_MAX;
}

bool
tr_header_find(struct tr_str message, struct tr_str name, struct tr_header *out)
{
	size_t at = 0;

	while (tr_header_next(message, &at, out))
		if (out->name.len > 0 && tr_str_ieq(out->name, name))
			return true;
	return false;
}

bool
tr_header_name_matches(struct tr_str name, struct tr_str pattern)
{
	if (pattern.len > 0 && pattern.data[pattern.len - 1] == '*') {
		pattern.len--;
		if (name.len < pattern.len)
			return false;
		name.len = pattern.len;
	}
	return tr_str_ieq(name, pattern);
}

/* --- writing ----------------------------------------------------------------------------------------- */

static bool
line_break(char c)
{
	return c == '\r' || c == '\n';
}

/* Adds ASCII text, folded before blanks so that lines stay within 75, and cut at 900 where a word is longer. */
static void
add_folded(struct tr_str value, size_t column, struct tr_buf *out)
{
	size_t at = 0;
	bool has_text = false; /* on this line: a line of nothing but blanks is not allowed */

	while (at < value.len) {
		size_t gap = at, word;

		while (gap < value.len && (is_blank(value.data[gap]) || line_break(value.data[gap])))
			gap++;
		word = gap;
		while (word < value.len && !is_blank(value.data[word]) && !line_break(value.data[word]))
			word++;
		if (gap > at && has_text && word > gap && column + (word - at) > FOLD_AT) {
			tr_buf_addz(out, "\r\n");
			column = 0;
		}
		for (; at < gap; at++, column++) /* a line end of the caller's must not end the field */
			tr_buf_addc(out, line_break(value.data[at]) ? ' ' : value.data[at]);
		for (; at < word; at++, column++) {
			if (column >= HARD_LIMIT) {
				tr_buf_addz(out, "\r\n ");
				column = 1;
			}
			tr_buf_addc(out, value.data[at]);
		}
		has_text = true;
	}
}

#define WORD_MAX 75   /* RFC 2047 section 2 */
#define WORD_FRAME 12 /* "=?UTF-8?Q?" and "?=" */

static bool
q_plain(unsigned char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '!' || c == '*' ||
	       c == '+' || c == '-' || c == '/' || c == '.' || c == ',' || c == ' ';
}

static size_t
q_len(struct tr_str text)
{
	size_t len = 0;

	for (size_t i = 0; i < text.len; i++)
		len += q_plain((unsigned char)text.data[i]) ? 1 : 3;
	return len;
}

static void
add_base64(struct tr_str text, struct tr_buf *out)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	for (size_t i = 0; i < text.len; i += 3) {
		size_t left = text.len - i;
		uint32_t bits = (uint32_t)(unsigned char)text.data[i] << 16;

		if (left > 1)
			bits |= (uint32_t)(unsigned char)text.data[i + 1] << 8;
		if (left > 2)
			bits |= (unsigned char)text.data[i + 2];
		tr_buf_addc(out, digits[bits >> 18]);
		tr_buf_addc(out, digits[bits >> 12 & 63]);
		tr_buf_addc(out, left > 1 ? digits[bits >> 6 & 63] : '=');
		tr_buf_addc(out, left > 2 ? digits[bits & 63] : '=');
	}
}

static void
add_q(struct tr_str text, struct tr_buf *out)
{
	for (size_t i = 0; i < text.len; i++) {
		unsigned char c = (unsigned char)text.data[i];

		if (c == ' ')
			tr_buf_addc(out, '_');
		else if (q_plain(c))
			tr_buf_addc(out, (char)c);
		else
			tr_buf_addf(out, "=%02X", c);
	}
}

/* Adds UTF-8 as encoded words, one a line, none of them ending within a character. */
static void
add_encoded(struct tr_str value, size_t column, struct tr_buf *out)
{
	bool base64 = q_len(value) > (value.len + 2) / 3 * 4;
	size_t at = 0;

	while (at < value.len) {
		size_t end = at, room;

		if (column + WORD_FRAME + 12 > WORD_MAX || at > 0) { /* 12: a 4-byte character in Q */
			tr_buf_addz(out, "\r\n ");
			column = 1;
		}
		room = WORD_MAX + 1 - WORD_FRAME - column; /* + 1: a continued line may have 76 with its blank */
		if (room > WORD_MAX - WORD_FRAME)
			room = WORD_MAX - WORD_FRAME;
		while (end < value.len) {
			size_t next = end + 1;

			while (next < value.len && ((unsigned char)value.data[next] & 0xc0) == 0x80)
				next++;
			struct tr_str part = {value.data + at, next - at};
			if ((base64 ? (part.len + 2) / 3 * 4 : q_len(part)) > room && end > at)
				break;
			end = next;
		}
		tr_buf_addz(out, base64 ? "=?UTF-8?B?" : "=?UTF-8?Q?");
		(base64 ? add_base64 : add_q)((struct tr_str){value.data + at, end - at}, out);
		tr_buf_addz(out, "?=");
		column = WORD_MAX;
		at = end;
	}
}

void
tr_header_write(struct tr_str name, struct tr_str value, bool encode, struct tr_buf *out)
{
	bool ascii = true;

	tr_buf_add_str(out, name);
	tr_buf_addz(out, ": ");
	for (size_t i = 0; i < value.len && ascii; i++)
		ascii = (unsigned char)value.data[i] < 0x80;
	if (!encode)
		tr_buf_add_str(out, value);
	else if (ascii)
		add_folded(value, name.len + 2, out);
	else
		add_encoded(value, name.len + 2, out);
	tr_buf_addz(out, "\r\n");
}
