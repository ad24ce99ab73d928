/* Where an HTTP/1 request or response ends: heads and chunked bodies, found in a buffer without copying. Offsets
 * count from the start of the buffer, so that it may move between calls. No state, no I/O. */
#ifndef TR_CLI_HTTP_FRAME_H
#define TR_CLI_HTTP_FRAME_H

#include "base/buf.h"

struct tr_http_head {
	size_t len;                   /* of the head with its empty line */
	size_t target_at, target_len; /* request: the target of the request line */
	size_t fields_at;             /* where the header lines start */
	int status;                   /* response: the code; request: 0 */
	int64_t content_length;       /* -1: not given */
	bool chunked, keep_alive, expect_continue;
};

/* Reads a head. TR_OK, TR_EAGAIN (incomplete), TR_ETOOBIG (over 64 KiB), TR_EPROTO. */
int tr_http_head(const char *data, size_t len, bool is_response, struct tr_http_head *out);
/* The next header line of a head: *at starts as fields_at. false at the end. */
bool tr_http_field(
	const char *data, const struct tr_http_head *head, size_t *at, struct tr_str *name, struct tr_str *value);
/* Decodes the chunks that have arrived whole, from *at on (set it to head.len at first), into body.
 * TR_OK: the end was reached, *at is behind it; TR_EAGAIN: *at is where to go on; TR_EPROTO; TR_ETOOBIG (max). */
int tr_http_chunks(const char *data, size_t len, size_t *at, struct tr_buf *body, size_t max_bytes);

#endif
