/* The parser of answers: each case as a whole, cut in two at every byte, and byte by byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "transport/http1_parse.h"

#define MAX_BODY 20

struct good_case {
	const char *name, *bytes, *body;
	int status;
	const char *head;
	bool reusable;
	int rest; /* bytes behind the answer, or one of: */
};
enum {
	BY_EOF = -1,
	CUT = -2
}; /* complete only with the end of the connection; body bounded, the rest does not count */

struct bad_case {
	const char *name, *bytes;
	int err;
	const char *why; /* a part of it */
};

#define H "HTTP/1.1 200 OK\r\n"
#define CHUNKED "Transfer-Encoding: chunked\r\n"

static const struct good_case good_cases[] = {
	{"a length", H "Content-Length: 2\r\n\r\nok", "ok", 200, "Content-Length: 2\r\n", true, 0},
	{"names in any case, blanks around", H "CONTENT-LENGTH:\t 2 \t\r\n\r\nok", "ok", 200,
		"CONTENT-LENGTH:\t 2 \t\r\n", true, 0},
	{"no body", "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "", 503, "Content-Length: 0\r\n", true, 0},
	{"no reason", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "", 200, "Content-Length: 0\r\n", true, 0},
	{"an empty reason", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", "", 200, "Content-Length: 0\r\n", true, 0},
	{"an unknown status", "HTTP/1.1 999 x\r\nContent-Length: 0\r\n\r\n", "", 999, "Content-Length: 0\r\n", true, 0},
	{"several headers", H "A: 1\r\nB:\r\nContent-Length: 1\r\nC: 2\r\n\r\nx", "x", 200,
		"A: 1\r\nB:\r\nContent-Length: 1\r\nC: 2\r\n", true, 0},
	{"204 has no body", "HTTP/1.1 204 x\r\nA: 1\r\n\r\n", "", 204, "A: 1\r\n", true, 0},
	{"204 with a length", "HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\n", "", 204, "Content-Length: 5\r\n", false,
		0},
	{"304 tells the length of what it does not send", "HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n", "", 304,
		"Content-Length: 5\r\n", true, 0},
	{"100 before it", "HTTP/1.1 100 Continue\r\nX: 1\r\n\r\n" H "Content-Length: 2\r\n\r\nok", "ok", 200,
		"Content-Length: 2\r\n", true, 0},
	{"103 twice before it", "HTTP/1.1 103 x\r\n\r\nHTTP/1.1 103 x\r\nLink: y\r\n\r\n" H "Content-Length: 0\r\n\r\n",
		"", 200, "Content-Length: 0\r\n", true, 0},
	{"connection: close", H "Connection: close\r\nContent-Length: 0\r\n\r\n", "", 200,
		"Connection: close\r\nContent-Length: 0\r\n", false, 0},
	{"connection: a list", H "Connection: foo ,Close\r\nContent-Length: 0\r\n\r\n", "", 200,
		"Connection: foo ,Close\r\nContent-Length: 0\r\n", false, 0},
	{"HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "", 200, "Content-Length: 0\r\n", false, 0},
	{"HTTP/1.0 that stays", "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n", "", 200,
		"Connection: Keep-Alive\r\nContent-Length: 0\r\n", true, 0},
	{"up to the end of the connection", H "\r\nsome text", "some text", 200, "", false, BY_EOF},
	{"nothing up to the end of the connection", H "\r\n", "", 200, "", false, BY_EOF},
	{"bytes behind a body", H "Content-Length: 2\r\n\r\nokHTTP", "ok", 200, "Content-Length: 2\r\n", true, 4},
	{"bytes behind no body", "HTTP/1.1 204 x\r\n\r\nabc", "", 204, "", true, 3},
	{"chunks", H CHUNKED "\r\n3\r\nabc\r\n0A\r\n0123456789\r\n0\r\n\r\n", "abc0123456789", 200, CHUNKED, true, 0},
	{"no chunk", H CHUNKED "\r\n0\r\n\r\n", "", 200, CHUNKED, true, 0},
	{"chunk extensions", H CHUNKED "\r\n1;a=\"b\"\r\nx\r\n1 ; c\r\ny\r\n000;d\r\n\r\n", "xy", 200, CHUNKED, true,
		0},
	{"trailers are no headers", H CHUNKED "\r\n1\r\nx\r\n0\r\nContent-Length: 9\r\nA: b\r\n\r\nrest", "x", 200,
		CHUNKED, true, 4},
	{"chunks look like lines", H CHUNKED "\r\n4\r\n\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n", 200, CHUNKED, true, 0},
	{"a bare LF ends a line", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "ok", 200, "Content-Length: 2\n", false,
		0},
	{"a bare LF ends a chunk", H CHUNKED "\r\n1\nx\n0\n\n", "x", 200, CHUNKED, false, 0},
	{"the same length twice", H "Content-Length: 2\r\nContent-Length: 2\r\n\r\nok", "ok", 200,
		"Content-Length: 2\r\nContent-Length: 2\r\n", false, 0},
	{"length and chunks: the chunks count", H "Content-Length: 3\r\n" CHUNKED "\r\n1\r\nx\r\n0\r\n\r\n", "x", 200,
		"Content-Length: 3\r\n" CHUNKED, false, 0},
	{"HTTP/1.0 with chunks", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" CHUNKED "\r\n0\r\n\r\n", "", 200,
		"Connection: keep-alive\r\n" CHUNKED, false, 0},
	{"a body as long as may be", H "Content-Length: 20\r\n\r\n01234567890123456789", "01234567890123456789", 200,
		"Content-Length: 20\r\n", true, 0},
	{"a cut body", H "Content-Length: 25\r\n\r\n0123456789012345678901234", "01234567890123456789", 200,
		"Content-Length: 25\r\n", false, CUT},
	{"a cut body of chunks", H CHUNKED "\r\n19\r\n0123456789012345678901234\r\n0\r\n\r\n", "01234567890123456789",
		200, CHUNKED, false, CUT},
	{"a cut body without an end", H "\r\n0123456789012345678901234", "01234567890123456789", 200, "", false, CUT},
	{"a body that fits where it may be cut", H "Content-Length: 2\r\n\r\nok", "ok", 200, "Content-Length: 2\r\n",
		true, CUT},
};

static const struct bad_case bad_cases[] = {
	{"101", "HTTP/1.1 101 x\r\n\r\n", TR_EPROTO, "101"},
	{"a body above the bound", H "Content-Length: 21\r\n\r\n", TR_ETOOBIG, "max_response_bytes"},
	{"chunks above the bound", H CHUNKED "\r\n15\r\n012345678901234567890\r\n", TR_ETOOBIG, "max_response_bytes"},
	{"a body without an end above the bound", H "\r\n012345678901234567890", TR_ETOOBIG, "max_response_bytes"},
	{"garbage", "\x01\x02 this is no HTTP\r\n\r\n", TR_EPROTO, "HTTP/0.9"},
	{"garbage without a line's end", "SSH-2.0-x", TR_EPROTO, "HTTP/0.9"},
	{"another protocol", "HTTX/1.1 200 OK\r\n\r\n", TR_EPROTO, "HTTP/0.9"},
	{"HTTP/2.0", "HTTP/2.0 200 OK\r\n\r\n", TR_EPROTO, "version"},
	{"HTTP/1.2", "HTTP/1.2 200 OK\r\n\r\n", TR_EPROTO, "version"},
	{"no status", "HTTP/1.1\r\n\r\n", TR_EPROTO, "version"},
	{"a short status", "HTTP/1.1 20\r\n\r\n", TR_EPROTO, ""},
	{"a long status", "HTTP/1.1 2000 OK\r\n\r\n", TR_EPROTO, "status"},
	{"a status of letters", "HTTP/1.1 2x0 OK\r\n\r\n", TR_EPROTO, "status"},
	{"a status below 100", "HTTP/1.1 099 OK\r\n\r\n", TR_EPROTO, "status"},
	{"an empty line first", "\r\n" H "\r\n", TR_EPROTO, "HTTP/0.9"},
	{"a folded line", H "A: 1\r\n 2\r\nContent-Length: 0\r\n\r\n", TR_EPROTO, "header line"},
	{"a folded first line", H " A: 1\r\n\r\n", TR_EPROTO, "header line"},
	{"a blank before the colon", H "Content-Length : 5\r\n\r\n", TR_EPROTO, "header line"},
	{"a line without a colon", H "Content-Length 5\r\n\r\n", TR_EPROTO, "header line"},
	{"a line without a name", H ": 5\r\n\r\n", TR_EPROTO, "header line"},
	{"a lone CR in a value", H "A: 1\rContent-Length: 5\r\n\r\n", TR_EPROTO, "lone CR"},
	{"a lone CR in the status line", "HTTP/1.1 200 OK\rA: b\r\n\r\n", TR_EPROTO, "lone CR"},
	{"two CR", H "A: 1\r\r\n\r\n", TR_EPROTO, "lone CR"},
	{"a signed length", H "Content-Length: +5\r\n\r\n", TR_EPROTO, "Content-Length"},
	{"a negative length", H "Content-Length: -5\r\n\r\n", TR_EPROTO, "Content-Length"},
	{"a length in hexadecimal", H "Content-Length: 0x5\r\n\r\n", TR_EPROTO, "Content-Length"},
	{"an empty length", H "Content-Length: \r\n\r\n", TR_EPROTO, "Content-Length"},
	{"a list of lengths", H "Content-Length: 5, 5\r\n\r\n", TR_EPROTO, "Content-Length"},
	{"a length with a blank in it", H "Content-Length: 5 5\r\n\r\n", TR_EPROTO, "Content-Length"},
	{"a length that overflows", H "Content-Length: 18446744073709551617\r\n\r\n", TR_EPROTO, "Content-Length"},
	{"two lengths", H "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", TR_EPROTO, "conflicting"},
	{"another coding", H "Transfer-Encoding: gzip, chunked\r\n\r\n", TR_EPROTO, "Transfer-Encoding"},
	{"chunked twice", H CHUNKED CHUNKED "\r\n", TR_EPROTO, "Transfer-Encoding"},
	{"an almost-chunked coding", H "Transfer-Encoding: xchunked\r\n\r\n", TR_EPROTO, "Transfer-Encoding"},
	{"no chunk size", H CHUNKED "\r\n\r\n", TR_EPROTO, "hexadecimal"},
	{"a bad chunk size", H CHUNKED "\r\nzz\r\n", TR_EPROTO, "hexadecimal"},
	{"a signed chunk size", H CHUNKED "\r\n-1\r\n", TR_EPROTO, "hexadecimal"},
	{"a chunk size of 0x", H CHUNKED "\r\n0x5\r\n", TR_EPROTO, "hexadecimal"},
	{"a chunk size with something behind", H CHUNKED "\r\n5 5\r\n", TR_EPROTO, "hexadecimal"},
	{"a chunk size that overflows", H CHUNKED "\r\n10000000000000005\r\n", TR_EPROTO, "too large"},
	{"a chunk longer than its size", H CHUNKED "\r\n1\r\nxyz\r\n0\r\n\r\n", TR_EPROTO, "chunk"},
	{"a chunk line with a lone CR", H CHUNKED "\r\n1\rfoo\r\nx\r\n", TR_EPROTO, "lone CR"},
	{"a bad trailer", H CHUNKED "\r\n0\r\nno trailer\r\n\r\n", TR_EPROTO, "header line"},
};

struct result {
	struct tr_http1_parser parser;
	struct tr_buf head, body;
	int err;
	size_t rest;
	bool early; /* complete without the end of the connection */
};

static void
begin(struct result *result, bool truncate)
{
	memset(result, 0, sizeof *result);
	tr_http1_parser_init(&result->parser, &result->head, &result->body, MAX_BODY, truncate);
}

/* As a connection does it: what is left is offered again with what comes. In memory of exactly its length, so that
 * AddressSanitizer sees a read behind its end. */
static void
offer(struct result *result, struct tr_buf *in, const char *data, size_t len)
{
	size_t used = 0;
	char *exact;

	if (result->err != 0)
		return;
	tr_buf_add(in, data, len);
	exact = malloc(in->len > 0 ? in->len : 1);
	memcpy(exact, in->data, in->len);
	result->err = tr_http1_feed(&result->parser, exact, in->len, &used);
	free(exact);
	assert_true(used <= in->len);
	tr_buf_consume(in, used);
}

static bool
has(const char *text, const char *part)
{
	return text != NULL && strstr(text, part) != NULL;
}

static void
check_good(const struct good_case *one, struct result *result, const char *how, size_t at)
{
	if (result->err != 0 || result->early != (one->rest != BY_EOF) || !tr_http1_eof(&result->parser) ||
		result->parser.status != one->status || tr_http1_reusable(&result->parser) != one->reusable ||
		(one->rest >= 0 && result->rest != (size_t)one->rest) ||
		!tr_str_eq((struct tr_str){result->head.data, result->head.len}, tr_str(one->head)) ||
		!tr_str_eq((struct tr_str){result->body.data, result->body.len}, tr_str(one->body)))
		fail_msg("%s, %s %zu: %s, state %d, status %d, reusable %d, rest %zu, head \"%.*s\", body \"%.*s\"",
			one->name, how, at, result->err != 0 ? result->parser.why : "good", (int)result->parser.state,
			result->parser.status, tr_http1_reusable(&result->parser), result->rest, (int)result->head.len,
			result->head.len > 0 ? result->head.data : "", (int)result->body.len,
			result->body.len > 0 ? result->body.data : "");
	tr_buf_free(&result->head);
	tr_buf_free(&result->body);
}

static void
check_bad(const struct bad_case *one, struct result *result, const char *how, size_t at)
{
	if (result->err != one->err || !has(result->parser.why, one->why))
		fail_msg("%s, %s %zu: %s (%s)", one->name, how, at, tr_err_name(result->err),
			result->parser.why != NULL ? result->parser.why : "");
	tr_buf_free(&result->head);
	tr_buf_free(&result->body);
}

/* In two pieces, the first of `cut` bytes; cut == len: byte by byte. */
static void
feed_cut(struct result *result, const char *bytes, size_t len, size_t cut)
{
	struct tr_buf in = {0};

	if (cut < len) {
		offer(result, &in, bytes, cut);
		offer(result, &in, bytes + cut, len - cut);
	}
	for (size_t at = 0; at < len && cut == len; at++)
		offer(result, &in, bytes + at, 1);
	result->rest = in.len;
	result->early = result->parser.state == TR_HTTP1_DONE;
	tr_buf_free(&in);
}

static void
reads_answers_however_they_come(void **state)
{
	for (size_t i = 0; i < TR_COUNT(good_cases); i++) {
		const struct good_case *one = &good_cases[i];
		size_t len = strlen(one->bytes);

		for (size_t cut = 0; cut <= len; cut++) {
			struct result result;

			begin(&result, one->rest == CUT);
			feed_cut(&result, one->bytes, len, cut);
			check_good(one, &result, cut < len ? "cut at" : "byte by byte", cut);
		}
	}
}

static void
refuses_what_is_none(void **state)
{
	for (size_t i = 0; i < TR_COUNT(bad_cases); i++) {
		const struct bad_case *one = &bad_cases[i];
		size_t len = strlen(one->bytes);

		for (size_t cut = 0; cut <= len; cut++) {
			struct result result;

			begin(&result, false);
			feed_cut(&result, one->bytes, len, cut);
			check_bad(one, &result, cut < len ? "cut at" : "byte by byte", cut);
		}
	}
}

/* No beginning of a good answer is taken for a whole one, except where the end of the connection is the end. */
static void
no_beginning_is_complete(void **state)
{
	for (size_t i = 0; i < TR_COUNT(good_cases); i++) {
		const struct good_case *one = &good_cases[i];

		if (one->rest < 0)
			continue;
		for (size_t cut = 0; cut < strlen(one->bytes) - (size_t)one->rest; cut++) {
			struct result result;

			begin(&result, false);
			feed_cut(&result, one->bytes, cut, 0);
			assert_int_equal(result.err, 0);
			if (tr_http1_eof(&result.parser))
				fail_msg("%s: complete after %zu bytes", one->name, cut);
			tr_buf_free(&result.head);
			tr_buf_free(&result.body);
		}
	}
}

static void
refuses_a_nul(void **state)
{
	static const char bytes[] = H "A: 1\0Content-Length: 5\r\n\r\n";
	struct result result;

	begin(&result, false);
	feed_cut(&result, bytes, sizeof bytes - 1, 0);
	check_bad(&(struct bad_case){"a NUL", bytes, TR_EPROTO, "NUL"}, &result, "whole", 0);
}

/* Feeds `first`, then `again` for ever; it must end with an error, and soon. */
static void
assert_bounded(const char *first, const char *again, int err, const char *why)
{
	struct result result;
	struct tr_buf in = {0};
	size_t fed = 0, most = 0;

	begin(&result, false);
	offer(&result, &in, first, strlen(first));
	while (result.err == 0 && fed < 4 << 20) {
		size_t used = 0;

		tr_buf_addz(&in, again);
		fed += strlen(again);
		result.err = tr_http1_feed(&result.parser, in.data, in.len, &used);
		tr_buf_consume(&in, used);
		most = in.len > most ? in.len : most;
	}
	assert_int_equal(result.err, err);
	assert_true(has(result.parser.why, why));
	assert_true(fed <= 300 * 1024 && most <= 300 * 1024 && result.head.len <= 300 * 1024);
	tr_buf_free(&in);
	tr_buf_free(&result.head);
	tr_buf_free(&result.body);
}

static void
bounds_what_has_no_end(void **state)
{
	static const char text[] = "0123456789012345678901234567890123456789012345678901234567890123456789";

	assert_bounded("HTTP/1.1 200 ", text, TR_ETOOBIG, "header is too large");
	assert_bounded(H "A: ", text, TR_ETOOBIG, "header is too large");
	assert_bounded(H, "Name: 012345678901234567890123456789\r\n", TR_ETOOBIG, "header is too large");
	assert_bounded(
		H CHUNKED "\r\n0\r\n", "Name: 012345678901234567890123456789\r\n", TR_ETOOBIG, "header is too large");
	assert_bounded("", "HTTP/1.1 100 Continue\r\n\r\n", TR_ETOOBIG, "header is too large");
	assert_bounded(H CHUNKED "\r\n1;", text, TR_EPROTO, "no end");
	assert_bounded(H CHUNKED "\r\n1\r\nx", text, TR_EPROTO, "no end");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_answers_however_they_come),
		cmocka_unit_test(refuses_what_is_none),
		cmocka_unit_test(no_beginning_is_complete),
		cmocka_unit_test(refuses_a_nul),
		cmocka_unit_test(bounds_what_has_no_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
