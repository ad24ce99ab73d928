#include "base/json.h"

#define DEPTH_MAX 128

/* Length of the valid UTF-8 sequence at `at` (RFC 3629: no overlong forms, no surrogates), 0 if there is none. */
static size_t
sequence_len(const unsigned char *at, size_t left)
{
	unsigned char first = at[0], low = 0x80, high = 0xbf;
	size_t len;

	if (first < 0x80)
		return 1;
	if (first < 0xc2 || first > 0xf4)
		return 0;
	if (first < 0xe0)
		len = 2;
	else if (first < 0xf0)
		len = 3;
	else
		len = 4;
	if (first == 0xe0)
		low = 0xa0;
	else if (first == 0xed)
		high = 0x9f;
	else if (first == 0xf0)
		low = 0x90;
	else if (first == 0xf4)
		high = 0x8f;
	if (left < len || at[1] < low || at[1] > high)
		return 0;
	for (size_t i = 2; i < len; i++) {
		if ((at[i] & 0xc0) != 0x80)
			return 0;
	}
	return len;
}

bool
tr_utf8_valid(struct tr_str str)
{
	const unsigned char *at = (const unsigned char *)str.data;
	size_t left = str.len;

	while (left > 0) {
		uint64_t word;
		size_t len;

		if (left >= 8) { /* eight ASCII bytes at once */
			memcpy(&word, at, 8);
			if ((word & UINT64_C(0x8080808080808080)) == 0) {
				at += 8;
				left -= 8;
				continue;
			}
		}
		len = sequence_len(at, left);
		if (len == 0)
			return false;
		at += len;
		left -= len;
	}
	return true;
}

/* --- writing ---------------------------------------------------------------------------------------- */

/* Bytes that go out as they are; all else is looked at one by one. */
static bool
is_plain(unsigned char c)
{
	return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

/* Eight at once; may say no for some that are plain. */
static bool
eight_plain(const unsigned char *at)
{
	const uint64_t ones = UINT64_C(0x0101010101010101);
	uint64_t word, quote, back;

	memcpy(&word, at, sizeof word);
	quote = word ^ ones * '"';
	back = word ^ ones * '\\';
	return (((word - ones * 0x20) | (quote - ones) | (back - ones) | word) & ones * 0x80) == 0;
}

static void
add_escape(struct tr_buf *buf, unsigned char c)
{
	static const char hex[] = "0123456789abcdef";
	char text[6] = {'\\', 0, '0', '0', hex[c >> 4], hex[c & 15]};

	switch (c) {
	case '"':
	case '\\':
		text[1] = (char)c;
		break;
	case '\b':
		text[1] = 'b';
		break;
	case '\f':
		text[1] = 'f';
		break;
	case '\n':
		text[1] = 'n';
		break;
	case '\r':
		text[1] = 'r';
		break;
	case '\t':
		text[1] = 't';
		break;
	default:
		text[1] = 'u';
		tr_buf_add(buf, text, 6);
		return;
	}
	tr_buf_add(buf, text, 2);
}

void
tr_json_add_string(struct tr_buf *buf, struct tr_str str)
{
	/* NULL is an empty text, too, and nothing may be added to it */
	const unsigned char *at = (const unsigned char *)(str.len > 0 ? str.data : ""), *end = at + str.len, *run = at;

	tr_buf_reserve(buf, str.len + 2);
	tr_buf_addc(buf, '"');
	while (end - at >= 8 && eight_plain(at))
		at += 8;
	while (at < end && is_plain(*at))
		at++;
	if (at == end && !buf->failed && buf->cap - buf->len > str.len) { /* nothing to escape: one copy */
		if (str.len > 0)
			memcpy(buf->data + buf->len, str.data, str.len);
		buf->data[buf->len + str.len] = '"';
		buf->len += str.len + 1;
		return;
	}
	while (at < end) {
		size_t len;

		if (is_plain(*at)) {
			at++;
			continue;
		}
		len = *at >= 0x80 ? sequence_len(at, (size_t)(end - at)) : 0;
		if (len > 0) {
			at += len;
			continue;
		}
		tr_buf_add(buf, run, (size_t)(at - run));
		if (*at >= 0x80)
			tr_buf_add(buf, "\xef\xbf\xbd", 3);
		else
			add_escape(buf, *at);
		run = ++at;
	}
	if (run < end)
		tr_buf_add(buf, run, (size_t)(end - run));
	tr_buf_addc(buf, '"');
}

void
tr_json_add_key(struct tr_buf *buf, const char *key)
{
	tr_buf_addc(buf, '"');
	tr_buf_addz(buf, key);
	tr_buf_add(buf, "\":", 2);
}

/* --- checking ------------------------------------------------------------------------------------------ */

struct scan {
	const char *start, *at, *end;
};

static void
skip_blanks(struct scan *scan)
{
	while (scan->at < scan->end &&
		(*scan->at == ' ' || *scan->at == '\n' || *scan->at == '\r' || *scan->at == '\t'))
		scan->at++;
}

static bool
accept(struct scan *scan, char c)
{
	if (scan->at == scan->end || *scan->at != c)
		return false;
	scan->at++;
	return true;
}

static int
hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Reads the four digits after \u; -1 if they are not there. */
static int
read_hex4(struct scan *scan)
{
	int value = 0;

	for (int i = 0; i < 4; i++) {
		int digit = scan->at < scan->end ? hex_value(*scan->at) : -1;

		if (digit < 0)
			return -1;
		value = value * 16 + digit;
		scan->at++;
	}
	return value;
}

static bool
check_string(struct scan *scan)
{
	if (!accept(scan, '"'))
		return false;
	while (scan->at < scan->end) {
		unsigned char c = (unsigned char)*scan->at;

		if (is_plain(c)) {
			scan->at++;
		} else if (c == '"') {
			scan->at++;
			return true;
		} else if (c == '\\') {
			scan->at++;
			if (scan->at == scan->end || *scan->at == '\0' || strchr("\"\\/bfnrtu", *scan->at) == NULL)
				return false;
			if (*scan->at++ == 'u' && read_hex4(scan) < 0)
				return false;
		} else {
			size_t len = c < 0x20 ? 0
					      : sequence_len((const unsigned char *)scan->at,
							(size_t)(scan->end - scan->at));
			if (len == 0)
				return false;
			scan->at += len;
		}
	}
	return false;
}

static bool
check_digits(struct scan *scan)
{
	const char *first = scan->at;

	while (scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9')
		scan->at++;
	return scan->at > first;
}

static bool
check_number(struct scan *scan)
{
	accept(scan, '-');
	if (!accept(scan, '0') && !check_digits(scan))
		return false;
	if (accept(scan, '.') && !check_digits(scan))
		return false;
	if (accept(scan, 'e') || accept(scan, 'E')) {
		if (!accept(scan, '+'))
			accept(scan, '-');
		return check_digits(scan);
	}
	return true;
}

static bool
check_word(struct scan *scan, const char *word)
{
	size_t len = strlen(word);

	if ((size_t)(scan->end - scan->at) < len || memcmp(scan->at, word, len) != 0)
		return false;
	scan->at += len;
	return true;
}

static bool
check_scalar(struct scan *scan)
{
	if (scan->at == scan->end)
		return false;
	switch (*scan->at) {
	case '"':
		return check_string(scan);
	case 't':
		return check_word(scan, "true");
	case 'f':
		return check_word(scan, "false");
	case 'n':
		return check_word(scan, "null");
	default:
		return check_number(scan);
	}
}

static bool
check_key(struct scan *scan)
{
	skip_blanks(scan);
	if (!check_string(scan))
		return false;
	skip_blanks(scan);
	return accept(scan, ':');
}

static bool
check_value(struct scan *scan)
{
	char closing[DEPTH_MAX]; /* of the containers around us */
	int depth = 0;

	for (;;) {
		skip_blanks(scan);
		if (scan->at < scan->end && (*scan->at == '{' || *scan->at == '[')) {
			char open = *scan->at;

			if (depth == DEPTH_MAX)
				return false;
			scan->at++;
			closing[depth++] = open == '{' ? '}' : ']';
			skip_blanks(scan);
			if (!accept(scan, closing[depth - 1])) {
				if (open == '{' && !check_key(scan))
					return false;
				continue;
			}
			depth--;
		} else if (!check_scalar(scan)) {
			return false;
		}
		/* a value is complete */
		for (;;) {
			if (depth == 0)
				return true;
			skip_blanks(scan);
			if (accept(scan, ','))
				break;
			if (!accept(scan, closing[depth - 1]))
				return false;
			depth--;
		}
		if (closing[depth - 1] == '}' && !check_key(scan))
			return false;
	}
}

int
tr_json_check(struct tr_str text, size_t *error_at)
{
	const char *start = text.data != NULL ? text.data : "";
	struct scan scan = {start, start, start + text.len};
	bool ok = check_value(&scan);

	if (ok) {
		skip_blanks(&scan);
		ok = scan.at == scan.end;
	}
	if (ok)
		return TR_OK;
	if (error_at != NULL)
		*error_at = (size_t)(scan.at - scan.start);
	return TR_EINVAL;
}

/* --- walking -------------------------------------------------------------------------------------------- */

/* Behind the closing quote of the string at `at`. */
static void
skip_string(struct scan *scan)
{
	for (scan->at++; scan->at < scan->end && *scan->at != '"'; scan->at++) {
		if (*scan->at == '\\' && scan->at + 1 < scan->end)
			scan->at++;
	}
	if (scan->at < scan->end)
		scan->at++;
}

static void
skip_value(struct scan *scan)
{
	size_t depth = 0;

	if (scan->at < scan->end && *scan->at != '"' && *scan->at != '{' && *scan->at != '[') {
		while (scan->at < scan->end && strchr(",]} \n\r\t", *scan->at) == NULL)
			scan->at++;
		return;
	}
	while (scan->at < scan->end) {
		char c = *scan->at;

		if (c == '"') {
			skip_string(scan);
		} else {
			scan->at++;
			if (c == '{' || c == '[')
				depth++;
			else if ((c == '}' || c == ']') && depth > 0)
				depth--;
		}
		if (depth == 0)
			return;
	}
}

bool
tr_json_next(struct tr_str container, size_t *at, struct tr_str *key, struct tr_str *value)
{
	struct scan scan = {container.data, container.data + *at, container.data + container.len};
	struct scan open = {container.data, container.data, container.data + container.len};
	bool object;

	skip_blanks(&open);
	if (open.at == open.end || (*open.at != '{' && *open.at != '['))
		return false;
	object = *open.at == '{';
	if (*at == 0)
		scan.at = open.at + 1;
	skip_blanks(&scan);
	if (accept(&scan, ','))
		skip_blanks(&scan);
	if (scan.at == scan.end || *scan.at == '}' || *scan.at == ']')
		return false;
	*key = (struct tr_str){"", 0};
	if (object) {
		const char *first = scan.at + 1;

		if (*scan.at != '"')
			return false;
		skip_string(&scan);
		if (scan.at - first < 1)
			return false;
		*key = (struct tr_str){first, (size_t)(scan.at - 1 - first)};
		skip_blanks(&scan);
		if (!accept(&scan, ':'))
			return false;
		skip_blanks(&scan);
	}
	value->data = scan.at;
	skip_value(&scan);
	value->len = (size_t)(scan.at - value->data);
	*at = (size_t)(scan.at - scan.start);
	return value->len > 0;
}

enum tr_json_type
tr_json_type(struct tr_str value)
{
	struct scan scan = {value.data, value.data, value.data + value.len};

	skip_blanks(&scan);
	if (scan.at == scan.end)
		return TR_JSON_NULL;
	switch (*scan.at) {
	case '{':
		return TR_JSON_OBJECT;
	case '[':
		return TR_JSON_ARRAY;
	case '"':
		return TR_JSON_STRING;
	case 't':
	case 'f':
		return TR_JSON_BOOL;
	case 'n':
		return TR_JSON_NULL;
	default:
		return TR_JSON_NUMBER;
	}
}

struct tr_str
tr_json_get(struct tr_str object, const char *name)
{
	struct tr_str key, value, wanted = tr_str(name), none = {NULL, 0};
	size_t at = 0;

	if (object.data == NULL || tr_json_type(object) != TR_JSON_OBJECT)
		return none;
	while (tr_json_next(object, &at, &key, &value)) {
		if (tr_str_eq(key, wanted))
			return value;
		if (memchr(key.data, '\\', key.len) != NULL) {
			struct tr_buf plain = {0};
			struct tr_str quoted = {key.data - 1, key.len + 2};
			bool same = tr_json_unescape(quoted, &plain) == TR_OK && !plain.failed &&
				    tr_str_eq((struct tr_str){plain.data, plain.len}, wanted);

			tr_buf_free(&plain);
			if (same)
				return value;
		}
	}
	return none;
}

static void
add_code_point(struct tr_buf *out, uint32_t point)
{
	char text[4];
	size_t len = 0;

	if (point < 0x80) {
		text[len++] = (char)point;
	} else if (point < 0x800) {
		text[len++] = (char)(0xc0 | point >> 6);
		text[len++] = (char)(0x80 | (point & 63));
	} else if (point < 0x10000) {
		text[len++] = (char)(0xe0 | point >> 12);
		text[len++] = (char)(0x80 | (point >> 6 & 63));
		text[len++] = (char)(0x80 | (point & 63));
	} else {
		text[len++] = (char)(0xf0 | point >> 18);
		text[len++] = (char)(0x80 | (point >> 12 & 63));
		text[len++] = (char)(0x80 | (point >> 6 & 63));
		text[len++] = (char)(0x80 | (point & 63));
	}
	tr_buf_add(out, text, len);
}

/* After the \u. A surrogate without its partner becomes U+FFFD: the grammar allows it, UTF-8 does not. */
static bool
unescape_unicode(struct scan *scan, struct tr_buf *out)
{
	int unit = read_hex4(scan);

	if (unit < 0)
		return false;
	if (unit >= 0xd800 && unit <= 0xdbff && scan->end - scan->at >= 2 && scan->at[0] == '\\' &&
		scan->at[1] == 'u') {
		struct scan ahead = {scan->start, scan->at + 2, scan->end};
		int second = read_hex4(&ahead);

		if (second >= 0xdc00 && second <= 0xdfff) {
			scan->at = ahead.at;
			add_code_point(out, 0x10000 + ((uint32_t)(unit - 0xd800) << 10) + (uint32_t)(second - 0xdc00));
			return true;
		}
	}
	add_code_point(out, unit >= 0xd800 && unit <= 0xdfff ? 0xfffd : (uint32_t)unit);
	return true;
}

int
tr_json_unescape(struct tr_str value, struct tr_buf *out)
{
	static const char names[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
	struct scan scan = {value.data, value.data + 1, value.data + value.len - 1};

	if (value.len < 2 || value.data[0] != '"' || value.data[value.len - 1] != '"')
		return TR_EINVAL;
	if (memchr(scan.at, '\\', value.len - 2) == NULL && memchr(scan.at, '"', value.len - 2) == NULL) {
		tr_buf_add(out, scan.at, value.len - 2); /* as nearly all are */
		return TR_OK;
	}
	while (scan.at < scan.end) {
		const char *run = scan.at, *name;

		while (scan.at < scan.end && *scan.at != '\\' && *scan.at != '"')
			scan.at++;
		tr_buf_add(out, run, (size_t)(scan.at - run));
		if (scan.at == scan.end)
			break;
		if (!accept(&scan, '\\') || scan.at == scan.end || *scan.at == '\0')
			return TR_EINVAL;
		if (accept(&scan, 'u')) {
			if (!unescape_unicode(&scan, out))
				return TR_EINVAL;
			continue;
		}
		name = strchr(names, *scan.at++);
		if (name == NULL)
			return TR_EINVAL;
		tr_buf_addc(out, bytes[name - names]);
	}
	return TR_OK;
}
