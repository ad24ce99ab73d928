/* Fuzzes the parser of HTTP answers, in pieces whose lengths the input's first byte gives. Beside what the sanitizers
 * see: the same bytes must give the same answer in pieces and as a whole. */
#include <stdlib.h>

#include "transport/http1_parse.h"

enum { MAX_BODY = 64 };

struct result {
	struct tr_http1_parser parser;
	struct tr_buf head, body;
	int err;
	size_t rest;
};

static void
parse(struct result *result, const char *data, size_t len, size_t step, bool truncate)
{
	struct tr_buf in = {0};

	memset(result, 0, sizeof *result);
	tr_http1_parser_init(&result->parser, &result->head, &result->body, MAX_BODY, truncate);
	for (size_t at = 0; at < len && result->err == TR_OK; at += step) {
		size_t used = 0;

		tr_buf_add(&in, data + at, step < len - at ? step : len - at);
		result->err = tr_http1_feed(&result->parser, in.data, in.len, &used);
		if (used > in.len)
			abort();
		tr_buf_consume(&in, used);
	}
	result->rest = in.len;
	tr_buf_free(&in);
	if (result->body.len > MAX_BODY)
		abort();
}

static bool
same(const struct tr_buf *a, const struct tr_buf *b)
{
	return tr_str_eq((struct tr_str){a->data, a->len}, (struct tr_str){b->data, b->len});
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct result whole, pieces;

	if (len < 2)
		return 0;
	parse(&whole, (const char *)data + 1, len - 1, len, data[0] & 0x80);
	parse(&pieces, (const char *)data + 1, len - 1, 1 + (data[0] & 0x7f), data[0] & 0x80);
	if (whole.err != pieces.err)
		abort();
	if (whole.err == TR_OK && (whole.parser.state != pieces.parser.state || !same(&whole.head, &pieces.head) ||
					  !same(&whole.body, &pieces.body)))
		abort();
	if (whole.err == TR_OK && whole.parser.state == TR_HTTP1_DONE && !whole.parser.odd &&
		(whole.rest != pieces.rest || tr_http1_reusable(&whole.parser) != tr_http1_reusable(&pieces.parser)))
		abort();
	tr_buf_free(&whole.head);
	tr_buf_free(&whole.body);
	tr_buf_free(&pieces.head);
	tr_buf_free(&pieces.body);
	return 0;
}
