/* The line editor of the prompt: libedit, with a history file that several sessions share. Main thread only. */
#ifndef TR_REPL_EDIT_H
#define TR_REPL_EDIT_H

#include "base/buf.h"

struct tr_edit;

struct tr_edit_config {
	const char *history; /* file, made when it is not there; NULL: none is kept */
	bool colour;
	/* Fills in what to insert at the cursor and then, each behind a line end, what there is to choose from. `line`
	 * is what stands before the cursor. */
	void (*complete)(void *arg, struct tr_str line, struct tr_buf *out);
	/* The terminal has another width now. */
	void (*resized)(void *arg, int columns);
	void *arg;
	int fd; /* watched while a line is edited: TR_EDIT_WAKE when it can be read; -1: none */
};

enum tr_edit_end {
	TR_EDIT_LINE,
	TR_EDIT_ABORT, /* Ctrl-C: what was typed is thrown away */
	TR_EDIT_END,   /* Ctrl-D in an empty line, or the terminal is gone */
	TR_EDIT_WAKE,
};

/* TR_OK, TR_EIO (the terminal cannot be used), TR_ENOMEM. */
int tr_edit_new(const struct tr_edit_config *config, struct tr_edit **out);
void tr_edit_free(struct tr_edit *edit); /* gives the terminal back; NULL is fine */
/* Reads a line, which is added to *line with its line end. The prompt is printable text. */
enum tr_edit_end tr_edit_read(struct tr_edit *edit, const char *prompt, struct tr_buf *line);
/* Puts an input (of one line or more) into the history and its file. One that begins with a blank is not kept. */
void tr_edit_remember(struct tr_edit *edit, struct tr_str input);
int tr_edit_columns(void); /* of the terminal on standard output; 80 if it does not say */

#endif
