/* The message text after DATA: finds its end, takes the dots of transparency away, watches sizes and line ends. Works
 * on whatever pieces arrive, with the same result for every way to cut the same bytes. No Lua, no memory of its own.
 *
 * Only CRLF "." CRLF ends the text (or "." CRLF right at its start). A lone CR or LF never ends a line of the dialogue,
 * whatever is done with it: so what one server takes for two messages is never one here, nor the other way round. */
#ifndef TR_SMTP_DATA_H
#define TR_SMTP_DATA_H

#include "base/buf.h"

enum tr_smtp_line_ends { TR_SMTP_LINES_DENY, TR_SMTP_LINES_ALLOW, TR_SMTP_LINES_FIX };

struct tr_smtp_data {
	enum tr_smtp_line_ends line_ends;
	size_t line_limit;  /* bytes between line ends */
	uint64_t max_bytes; /* of the text without transparency */
	/* results */
	uint64_t bytes;                /* text so far; not counted any further once too_big */
	uint64_t lines;                /* complete lines so far */
	bool too_big, long_line, lone; /* lone: a CR or LF on its own was seen */
	/* ours */
	uint8_t state;
	size_t line_len;
};

void tr_smtp_data_init(
	struct tr_smtp_data *data, enum tr_smtp_line_ends line_ends, size_t line_limit, uint64_t max_bytes);
/* Reads a piece and hands the text on in runs as long as possible (not after too_big or long_line, nor after lone with
 * DENY). Returns how many bytes were used: all, or fewer with *ended set, and what follows are commands. */
size_t tr_smtp_data_scan(struct tr_smtp_data *data, const char *piece, size_t len,
	void (*emit)(void *arg, const char *run, size_t len), void *arg, bool *ended);

#endif
