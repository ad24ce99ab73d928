/* The file of the prompt's history: one input a line, its line ends written as \n. Sessions add to it one after the
 * other (a lock beside the file), so that none loses what another one typed. */
#ifndef TR_REPL_HISTORY_H
#define TR_REPL_HISTORY_H

#include "base/buf.h"

#define TR_HISTORY_INPUTS 2000       /* kept; the file is made shorter when it holds twice as many */
#define TR_HISTORY_INPUT_BYTES 16384 /* a longer input is not kept */

/* Path of the file: $XDG_STATE_HOME/tailrace/repl_history, else below ~/.local/state; its directory is made. malloc'ed;
 * NULL: there is no place for it. */
char *tr_history_path(void);
/* Calls see() for each of the newest TR_HISTORY_INPUTS, oldest first; shortens the file if it is too long. */
void tr_history_load(const char *path, void (*see)(void *arg, const char *input), void *arg);
/* Adds one. False: it could not be written. */
bool tr_history_add(const char *path, struct tr_str input);

#endif
