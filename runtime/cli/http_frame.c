#include "cli/http_frame.h"

#include <strings.h>

enum { MAX_HEAD_BYTES = 64 * 1024, MAX_CHUNK_LINE_BYTES = 1024 };

static bool
is_name(const char *line, size_t name_len, const char *name, size_t want)
{
	return name_len == want && strncasecmp(line, name, want) == 0;
}

/* Whether a comma list has the (lower case) token. */
static bool
has_token(struct tr_str list, const char *token)
{
	size_t want = strlen(token);

	for (size_t at = 0; at + want <= list.len; at++) {
		bool starts =
			at == 0 || list.data[at - 1] == ',' || list.data[at - 1] == ' ' || list.data[at - 1] == '\t';
		size_t end = at + want;

		if (starts && strncasecmp(list.data + at, token, want) == 0 &&
			(end == list.len || list.data[end] == ',' || list.data[end] == ' ' || list.data[end] == '\t'))
			return true;
	}
	return false;
}

static int
read_length(struct tr_str value, int64_t *out)
{
	int64_t length = 0;

	if (value.len == 0 || value.len > 15)
		return TR_EPROTO;
	for (size_t i = 0; i < value.len; i++) {
		if (value.data[i] < '0' || value.data[i] > '9')
			return TR_EPROTO;
		length = length * 10 + (value.data[i] - '0');
	}
	if (*out >= 0 && *out != length)
		return TR_EPROTO; /* two lengths that differ: nobody knows where the body ends */
	*out = length;
	return TR_OK;
}

static int
read_field(struct tr_http_head *head, struct tr_str name, struct tr_str value)
{
	switch (name.len) { /* the names that matter differ in length, but for the 10 */
	case 14:
		if (is_name(name.data, name.len, "content-length", 14))
			return read_length(value, &head->content_length);
		break;
	case 17:
		if (is_name(name.data, name.len, "transfer-encoding", 17))
			head->chunked = has_token(value, "chunked");
		break;
	case 10:
		if (is_name(name.data, name.len, "connection", 10)) {
			if (has_token(value, "close"))
				head->keep_alive = false;
			else if (has_token(value, "keep-alive"))
				head->keep_alive = true;
		}
		break;
	case 6:
		if (is_name(name.data, name.len, "expect", 6))
			head->expect_continue = has_token(value, "100-continue");
		break;
	default:
		break;
	}
	return TR_OK;
}

/* The first line: "METHOD TARGET HTTP/1.x" or "HTTP/1.x CODE REASON". */
static int
read_start(const char *line, size_t len, bool is_response, struct tr_http_head *out)
{
	const char *version;

	if (is_response) {
		version = line;
		if (len < 12 || line[8] != ' ' || line[9] < '1' || line[9] > '9')
			return TR_EPROTO;
		out->status = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
		if (out->status < 100 || out->status > 599)
			return TR_EPROTO;
	} else {
		const char *space = memchr(line, ' ', len);

		if (space == NULL || space == line || len < 14)
			return TR_EPROTO;
		version = line + len - 8;
		out->target_at = (size_t)(space + 1 - line);
		if (version[-1] != ' ' || version - 1 <= space)
			return TR_EPROTO;
		out->target_len = (size_t)(version - 1 - (space + 1));
	}
	if (memcmp(version, "HTTP/1.", 7) != 0)
		return TR_EPROTO;
	out->keep_alive = version[7] != '0';
	return TR_OK;
}

/* Splits "Name: value", white space around the value taken off. false: no colon. */
static bool
split_field(const char *line, size_t len, struct tr_str *name, struct tr_str *value)
{
	const char *colon = memchr(line, ':', len);

	if (colon == NULL)
		return false;
	*name = (struct tr_str){line, (size_t)(colon - line)};
	colon++;
	const char *end = line + len;

	while (colon < end && (*colon == ' ' || *colon == '\t'))
		colon++;
	while (end > colon && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	*value = (struct tr_str){colon, (size_t)(end - colon)};
	return true;
}

/* The line at *at, without its end; *at moves behind it. false: no end of line yet. */
static bool
next_line(const char *data, size_t len, size_t *at, struct tr_str *line)
{
	const char *start = data + *at;
	const char *end = memchr(start, '\n', len - *at);

	if (end == NULL)
		return false;
	*at = (size_t)(end + 1 - data);
	if (end > start && end[-1] == '\r')
		end--;
	*line = (struct tr_str){start, (size_t)(end - start)};
	return true;
}

int
tr_http_head(const char *data, size_t len, bool is_response, struct tr_http_head *out)
{
	size_t at = 0;
	struct tr_str line, name, value;
	int rc;

	*out = (struct tr_http_head){.content_length = -1};
	if (!next_line(data, len, &at, &line))
		return len > MAX_HEAD_BYTES ? TR_ETOOBIG : TR_EAGAIN;
	rc = read_start(line.data, line.len, is_response, out);
	if (rc != TR_OK)
		return rc;
	out->fields_at = at;
	for (;;) {
		if (!next_line(data, len, &at, &line))
			return len > MAX_HEAD_BYTES ? TR_ETOOBIG : TR_EAGAIN;
		if (line.len == 0)
			break;
		if (!split_field(line.data, line.len, &name, &value))
			return TR_EPROTO;
		rc = read_field(out, name, value);
		if (rc != TR_OK)
			return rc;
	}
	out->len = at;
	return TR_OK;
}

bool
tr_http_field(const char *data, const struct tr_http_head *head, size_t *at, struct tr_str *name, struct tr_str *value)
{
	struct tr_str line;

	return next_line(data, head->len, at, &line) && line.len > 0 && split_field(line.data, line.len, name, value);
}

static bool
read_hex(struct tr_str line, size_t *out)
{
	size_t digits = 0, size = 0;

	for (; digits < line.len; digits++) {
		char c = line.data[digits];
		int digit = c >= '0' && c <= '9'                 ? c - '0'
			    : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
								 : -1;

		if (digit < 0)
			break;
		if (digits == 12)
			return false;
		size = size * 16 + (size_t)digit;
	}
	*out = size;
	return digits > 0 && (digits == line.len || line.data[digits] == ';' || line.data[digits] == ' ');
}

int
tr_http_chunks(const char *data, size_t len, size_t *at, struct tr_buf *body, size_t max_bytes)
{
	struct tr_str line;
	size_t size;

	for (;;) {
		size_t next = *at;

		if (!next_line(data, len, &next, &line))
			return len - *at > MAX_CHUNK_LINE_BYTES ? TR_EPROTO : TR_EAGAIN;
		if (!read_hex(line, &size))
			return TR_EPROTO;
		if (size == 0) { /* the last chunk, then trailer lines up to an empty one */
			while (next_line(data, len, &next, &line)) {
				if (line.len == 0) {
					*at = next;
					return TR_OK;
				}
			}
			return len - *at > MAX_HEAD_BYTES ? TR_ETOOBIG : TR_EAGAIN;
		}
		if (size > max_bytes || body->len + size > max_bytes)
			return TR_ETOOBIG;
		if (len - next < size + 2)
			return TR_EAGAIN;
		if (data[next + size] != '\r' || data[next + size + 1] != '\n')
			return TR_EPROTO;
		tr_buf_add(body, data + next, size);
		*at = next + size + 2;
	}
}
