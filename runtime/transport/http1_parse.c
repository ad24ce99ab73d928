/* Reading an answer of HTTP/1.1 (RFC 9112). What does not decide where the answer ends is let pass, but marked `odd`,
 * and its connection is not used again; what would let two readers disagree about the end is an error. */
#include "transport/http1_parse.h"

enum {
	MAX_HEAD_BYTES = 256 * 1024, /* all header lines of one answer, those of 1xx before it and trailers included */
	MAX_CHUNK_LINE = 4096,       /* a chunk's size with its extensions */
};

/* RFC 9110 section 5.6.2 */
static const bool token[256] = {['!'] = 1,
	['#'] = 1,
	['$'] = 1,
	['%'] = 1,
	['&'] = 1,
	['\''] = 1,
	['*'] = 1,
	['+'] = 1,
	['-'] = 1,
	['.'] = 1,
	['^'] = 1,
	['_'] = 1,
	['`'] = 1,
	['|'] = 1,
	['~'] = 1,
	['0' ... '9'] = 1,
	['A' ... 'Z'] = 1,
	['a' ... 'z'] = 1};

static int
bad(struct tr_http1_parser *parser, int err, const char *why)
{
	parser->why = why;
	return err;
}

static void
begin_answer(struct tr_http1_parser *parser)
{
	tr_buf_clear(parser->head);
	parser->state = TR_HTTP1_STATUS;
	parser->close = parser->keep = parser->chunked = parser->has_length = false;
	parser->left = 0;
}

void
tr_http1_parser_init(
	struct tr_http1_parser *parser, struct tr_buf *head, struct tr_buf *body, size_t max_body, bool truncate)
{
	*parser = (struct tr_http1_parser){.head = head, .body = body, .max_body = max_body, .truncate = truncate};
	tr_buf_clear(body);
	begin_answer(parser);
}

/* --- lines ---------------------------------------------------------------------------------------------- */

/* The line at `at`, without its end, which is skipped in *next. NULL: it is not complete, or (err set) it is none. */
static const char *
line_end(struct tr_http1_parser *parser, const char *at, const char *end, const char **next, int *err)
{
	const char *stop = memchr(at + parser->scanned, '\n', (size_t)(end - at) - parser->scanned);

	*err = TR_OK;
	if (stop == NULL) {
		parser->scanned = (size_t)(end - at);
		return NULL;
	}
	parser->scanned = 0;
	*next = stop + 1;
	if (stop > at && stop[-1] == '\r')
		stop--;
	else
		parser->odd = true; /* RFC 9112 section 2.2: may be taken as a line's end */
	if (memchr(at, '\r', (size_t)(stop - at)) != NULL || memchr(at, '\0', (size_t)(stop - at)) != NULL) {
		*err = bad(parser, TR_EPROTO, "Weird server reply: a line has a NUL or a lone CR");
		return NULL;
	}
	return stop;
}

static struct tr_str
trimmed(const char *at, const char *end)
{
	while (at < end && (*at == ' ' || *at == '\t'))
		at++;
	while (end > at && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	return (struct tr_str){at, (size_t)(end - at)};
}

static int
status_line(struct tr_http1_parser *parser, const char *at, const char *end)
{
	size_t len = (size_t)(end - at);

	if (len < 12 || memcmp(at, "HTTP/1.", 7) != 0 || (at[7] != '0' && at[7] != '1') || at[8] != ' ')
		return bad(parser, TR_EPROTO, "Unsupported protocol: the answer's HTTP version is neither 1.1 nor 1.0");
	for (int i = 9; i < 12; i++) {
		if (at[i] < '0' || at[i] > '9')
			return bad(parser, TR_EPROTO, "Weird server reply: the status is no number");
	}
	if (at[9] == '0' || (len > 12 && at[12] != ' '))
		return bad(parser, TR_EPROTO, "Weird server reply: the status is no number from 100 to 999");
	parser->http10 = at[7] == '0';
	parser->status = (at[9] - '0') * 100 + (at[10] - '0') * 10 + (at[11] - '0');
	parser->state = TR_HTTP1_HEADER;
	return TR_OK;
}

static int
content_length(struct tr_http1_parser *parser, struct tr_str value)
{
	uint64_t length = 0;

	for (size_t i = 0; i < value.len; i++) {
		if (value.data[i] < '0' || value.data[i] > '9' || i >= 18)
			return bad(parser, TR_EPROTO, "Weird server reply: Invalid Content-Length: value");
		length = length * 10 + (uint64_t)(value.data[i] - '0');
	}
	if (value.len == 0 || (parser->has_length && parser->left != length))
		return bad(parser, TR_EPROTO,
			value.len == 0 ? "Weird server reply: Invalid Content-Length: value"
				       : "Weird server reply: conflicting Content-Length: values");
	parser->odd = parser->odd || parser->has_length;
	parser->has_length = true;
	parser->left = length;
	return TR_OK;
}

static void
connection(struct tr_http1_parser *parser, struct tr_str value)
{
	const char *at = value.data, *end = value.data + value.len;

	while (at < end) {
		const char *comma = memchr(at, ',', (size_t)(end - at));
		struct tr_str option = trimmed(at, comma != NULL ? comma : end);

		parser->close = parser->close || tr_str_ieq(option, TR_STR("close"));
		parser->keep = parser->keep || tr_str_ieq(option, TR_STR("keep-alive"));
		at = comma != NULL ? comma + 1 : end;
	}
}

static int
header_line(struct tr_http1_parser *parser, const char *at, const char *end)
{
	const char *colon = at;
	struct tr_str name, value;

	while (colon < end && token[(unsigned char)*colon])
		colon++;
	if (colon == at || colon == end || *colon != ':') /* also a line folded into the one before */
		return bad(parser, TR_EPROTO, "Weird server reply: a header line is none");
	name = (struct tr_str){at, (size_t)(colon - at)};
	if ((name.len != 10 && name.len != 14 && name.len != 17) || parser->state == TR_HTTP1_TRAILER)
		return TR_OK;
	value = trimmed(colon + 1, end);
	if (tr_str_ieq(name, TR_STR("content-length")))
		return content_length(parser, value);
	if (tr_str_ieq(name, TR_STR("connection")))
		connection(parser, value);
	if (tr_str_ieq(name, TR_STR("transfer-encoding"))) {
		if (parser->chunked || !tr_str_ieq(value, TR_STR("chunked")))
			return bad(parser, TR_EPROTO, "Weird server reply: unsupported Transfer-Encoding");
		parser->chunked = true;
	}
	return TR_OK;
}

/* The blank line has come: what follows? RFC 9112 section 6.3. */
static int
head_end(struct tr_http1_parser *parser)
{
	if (parser->status == 101)
		return bad(parser, TR_EPROTO, "Weird server reply: 101 without having been asked for");
	if (parser->status < 200) {
		parser->odd = parser->odd || parser->chunked || parser->has_length;
		begin_answer(parser);
		return TR_OK;
	}
	/* Who sends both may mean one reader to see an end where the other sees none. */
	parser->odd = parser->odd || (parser->chunked && (parser->has_length || parser->http10));
	if (parser->status == 204 || parser->status == 304) {
		parser->odd = parser->odd || parser->chunked || (parser->status == 204 && parser->left > 0);
		parser->state = TR_HTTP1_DONE;
	} else if (parser->chunked) {
		parser->state = TR_HTTP1_CHUNK;
	} else if (!parser->has_length) {
		parser->state = TR_HTTP1_CLOSE;
	} else {
		if (parser->left > parser->max_body && !parser->truncate)
			return bad(parser, TR_ETOOBIG, "response body exceeds max_response_bytes");
		parser->state = parser->left > 0 ? TR_HTTP1_LENGTH : TR_HTTP1_DONE;
	}
	return TR_OK;
}

static int
chunk_line(struct tr_http1_parser *parser, const char *at, const char *end)
{
	uint64_t size = 0;
	int digits = 0;

	for (; at < end; at++, digits++) {
		int digit = *at >= '0' && *at <= '9'   ? *at - '0'
			    : *at >= 'a' && *at <= 'f' ? *at - 'a' + 10
			    : *at >= 'A' && *at <= 'F' ? *at - 'A' + 10
						       : -1;

		if (digit < 0)
			break;
		if (digits >= 15)
			return bad(
				parser, TR_EPROTO, "Failure when receiving data from the peer: a chunk is too large");
		size = size * 16 + (uint64_t)digit;
	}
	while (at < end && (*at == ' ' || *at == '\t'))
		at++;
	if (digits == 0 || (at < end && *at != ';'))
		return bad(parser, TR_EPROTO,
			"Failure when receiving data from the peer: Illegal or missing hexadecimal sequence in "
			"chunked-encoding");
	parser->left = size;
	parser->state = size > 0 ? TR_HTTP1_DATA : TR_HTTP1_TRAILER;
	return TR_OK;
}

/* --- bytes ---------------------------------------------------------------------------------------------- */

static int
keep_header(struct tr_http1_parser *parser, const char *from, const char *to)
{
	tr_buf_add(parser->head, from, (size_t)(to - from));
	return parser->head->failed ? bad(parser, TR_ENOMEM, "out of memory") : TR_OK;
}

static int
count_head(struct tr_http1_parser *parser, size_t len)
{
	parser->head_bytes += len;
	return parser->head_bytes > MAX_HEAD_BYTES ? bad(parser, TR_ETOOBIG, "response header is too large") : TR_OK;
}

/* Complete lines of status, headers and trailers, up to the end of the head, of the trailer, or of the bytes. */
static int
take_head(struct tr_http1_parser *parser, const char **pos, const char *end)
{
	const char *at = *pos, *kept = at; /* header lines from `kept` on are not yet in the head */
	const char *next, *stop;
	int err = TR_OK;

	while (at < end && err == TR_OK) {
		if (parser->state == TR_HTTP1_STATUS && memcmp(at, "HTTP/", (size_t)tr_min_i64(5, end - at)) != 0)
			return bad(parser, TR_EPROTO, "Unsupported protocol: Received HTTP/0.9 when not allowed");
		stop = line_end(parser, at, end, &next, &err);
		if (stop == NULL) { /* the beginning of a line counts, too, but is not yet added up */
			if (err == TR_OK && parser->head_bytes + parser->scanned > MAX_HEAD_BYTES)
				err = bad(parser, TR_ETOOBIG, "response header is too large");
			break;
		}
		err = count_head(parser, (size_t)(next - at));
		if (err != TR_OK)
			break;
		if (parser->state == TR_HTTP1_STATUS) {
			err = status_line(parser, at, stop);
			kept = next;
		} else if (stop > at) {
			err = header_line(parser, at, stop);
		} else if (parser->state == TR_HTTP1_TRAILER) {
			parser->state = TR_HTTP1_DONE;
			*pos = next;
			return TR_OK;
		} else {
			err = keep_header(parser, kept, at);
			if (err == TR_OK)
				err = head_end(parser);
			kept = next;
			if (parser->state != TR_HTTP1_STATUS) {
				*pos = next;
				return err;
			}
		}
		at = next;
	}
	*pos = at;
	if (err == TR_OK && parser->state == TR_HTTP1_HEADER && at > kept)
		err = keep_header(parser, kept, at);
	return err;
}

static int
take_body(struct tr_http1_parser *parser, const char **pos, const char *end)
{
	size_t len = (size_t)(end - *pos), room = parser->max_body - parser->body->len;

	if (parser->state != TR_HTTP1_CLOSE && len > parser->left)
		len = (size_t)parser->left;
	if (len > room && !parser->truncate)
		return bad(parser, TR_ETOOBIG, "response body exceeds max_response_bytes");
	tr_buf_add(parser->body, *pos, len < room ? len : room);
	if (parser->body->failed)
		return bad(parser, TR_ENOMEM, "out of memory");
	*pos += len;
	if (len > room) { /* the answer is known; its rest is not read */
		parser->odd = true;
		parser->state = TR_HTTP1_DONE;
		return TR_OK;
	}
	if (parser->state == TR_HTTP1_CLOSE)
		return TR_OK;
	parser->left -= len;
	if (parser->left == 0)
		parser->state = parser->state == TR_HTTP1_DATA ? TR_HTTP1_DATA_END : TR_HTTP1_DONE;
	return TR_OK;
}

/* A line of the chunked coding: a size, or the end of a chunk's data. */
static int
take_chunk_line(struct tr_http1_parser *parser, const char **pos, const char *end, bool *more)
{
	const char *at = *pos, *next, *stop;
	int err;

	stop = line_end(parser, at, end, &next, &err);
	if (stop == NULL) {
		*more = true;
		if (err == TR_OK && parser->scanned > (parser->state == TR_HTTP1_CHUNK ? MAX_CHUNK_LINE : 1))
			err = bad(parser, TR_EPROTO, "Failure when receiving data from the peer: a chunk has no end");
		return err;
	}
	*pos = next;
	if (parser->state == TR_HTTP1_CHUNK)
		return chunk_line(parser, at, stop);
	if (stop > at)
		return bad(parser, TR_EPROTO,
			"Failure when receiving data from the peer: a chunk is longer than its size");
	parser->state = TR_HTTP1_CHUNK;
	return TR_OK;
}

int
tr_http1_feed(struct tr_http1_parser *parser, const char *data, size_t len, size_t *used)
{
	const char *at = data, *end = data + len;
	bool more = false;
	int err = TR_OK;

	while (err == TR_OK && !more && at < end && parser->state != TR_HTTP1_DONE) {
		switch (parser->state) {
		case TR_HTTP1_LENGTH:
		case TR_HTTP1_CLOSE:
		case TR_HTTP1_DATA:
			err = take_body(parser, &at, end);
			break;
		case TR_HTTP1_CHUNK:
		case TR_HTTP1_DATA_END:
			err = take_chunk_line(parser, &at, end, &more);
			break;
		default:
			err = take_head(parser, &at, end);
			more = parser->state == TR_HTTP1_STATUS || parser->state == TR_HTTP1_HEADER ||
			       parser->state == TR_HTTP1_TRAILER;
			break;
		}
	}
	*used = (size_t)(at - data);
	return err;
}

bool
tr_http1_eof(struct tr_http1_parser *parser)
{
	if (parser->state == TR_HTTP1_CLOSE) {
		parser->odd = true;
		parser->state = TR_HTTP1_DONE;
	}
	return parser->state == TR_HTTP1_DONE;
}
