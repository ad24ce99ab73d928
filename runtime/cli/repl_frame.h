/* What travels between `tailrace repl --attach` and a process: a length of four bytes (least significant first, of what
 * follows it), a kind of one byte, a text.
 *   from the client: 'E' an input, after a byte: '1' nothing can follow it, '0' more may, '2' it is a script; 'C' a
 * line to complete; 'I' interrupt; 'W' columns, and 1 or 0 for a terminal and for colours: first of all, and when they
 * change from the process: 'H' version, pid, workers, policy (a line each); 'O' output; 'R' status, a line end, the
 * next prompt; 'C' completion; 'X' why it closes */
#ifndef TR_REPL_FRAME_H
#define TR_REPL_FRAME_H

#include "base/buf.h"

#define TR_REPL_FRAME_MAX (1 << 20) /* of one text */

struct tr_repl_frame {
	char kind;
	struct tr_str text; /* in the buffer */
	size_t size;        /* to consume afterwards */
};
/* 1: *out is the first frame; 0: it is not there in full; TR_EINVAL: too long. */
int tr_repl_frame_next(const struct tr_buf *in, struct tr_repl_frame *out);
void tr_repl_frame_add(struct tr_buf *out, char kind, struct tr_str text);

#endif
