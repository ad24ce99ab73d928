/* An answer of HTTP/1.1, read as its bytes come. No I/O, no clock; what is not complete stays with the caller. */
#ifndef TR_HTTP1_PARSE_H
#define TR_HTTP1_PARSE_H

#include "base/buf.h"

enum tr_http1_state {
	TR_HTTP1_STATUS,
	TR_HTTP1_HEADER,
	TR_HTTP1_LENGTH, /* body, `left` bytes to come */
	TR_HTTP1_CLOSE,  /* body up to the end of the connection */
	TR_HTTP1_CHUNK,  /* the line before a chunk */
	TR_HTTP1_DATA,   /* a chunk, `left` bytes to come */
	TR_HTTP1_DATA_END,
	TR_HTTP1_TRAILER,
	TR_HTTP1_DONE,
};

struct tr_http1_parser {
	enum tr_http1_state state;
	int status; /* of the last status line */
	bool http10, chunked, has_length;
	bool close, keep; /* options of the Connection header */
	bool odd;         /* the connection must not be used again */
	bool truncate;
	uint64_t left;       /* of a body or chunk; while the head is read: Content-Length */
	size_t scanned;      /* bytes of an incomplete line that have no LF */
	size_t head_bytes;   /* so far, of all heads and trailers */
	struct tr_buf *head; /* borrowed: header lines of the last answer, without status line and blank line */
	struct tr_buf *body; /* borrowed */
	size_t max_body;     /* a longer one is an error, or with `truncate` cut off */
	const char *why;     /* after an error; static */
};

/* Empties `head` and `body`, which must last as long as the parser is fed. */
void tr_http1_parser_init(
	struct tr_http1_parser *parser, struct tr_buf *head, struct tr_buf *body, size_t max_body, bool truncate);
/* Reads from `data`; *used bytes of it are done with, the others must be offered again with more behind them (all of
 * them, when the state is DONE, belong to no answer). TR_OK; TR_EPROTO, TR_ETOOBIG, TR_ENOMEM with `why`: the end. */
int tr_http1_feed(struct tr_http1_parser *parser, const char *data, size_t len, size_t *used);
/* The connection ended in order; whether the answer is complete. */
bool tr_http1_eof(struct tr_http1_parser *parser);
/* After a complete answer: may the connection carry another request? */
static inline bool
tr_http1_reusable(const struct tr_http1_parser *parser)
{
	return !parser->odd && !parser->close && (!parser->http10 || parser->keep);
}

#endif
