/* RFC 5322 header fields of raw message bytes: walking, decoding, editing. A message without the
 * blank line is all header. Lines may end with CRLF or LF. */
#ifndef TR_HEADER_H
#define TR_HEADER_H

#include "base/buf.h"

struct tr_header {
	struct tr_str name;  /* as spelt */
	struct tr_str value; /* raw: after the colon, folds included, without the final line end */
	size_t start, end;   /* the whole field's bytes, line ends included */
};

/* Next field from *at (start with 0); false at the end of the header. Lines that are no field are
 * given with an empty name, so that editing keeps them. */
bool tr_header_next(struct tr_str message, size_t *at, struct tr_header *out);
/* Offset of the blank line (so that bytes before it are the header); SIZE_MAX when there is none. */
size_t tr_header_end(struct tr_str message);
/* First field of that name, any case. */
bool tr_header_find(struct tr_str message, struct tr_str name, struct tr_header *out);
/* Unfolded, RFC 2047 decoded (UTF-8, ISO-8859-x, Windows-1252, US-ASCII; other charsets by iconv),
 * trimmed. What cannot be decoded stays as it is. */
void tr_header_decode(struct tr_str value, struct tr_buf *out);
/* Writes `name: value` CRLF; with `encode`, ASCII is folded at 75 (hard 900), non-ASCII RFC 2047 encoded. */
void tr_header_write(struct tr_str name, struct tr_str value, bool encode, struct tr_buf *out);
/* pattern: exact, or a prefix with a trailing '*'; any case. */
bool tr_header_name_matches(struct tr_str name, struct tr_str pattern);

#endif
