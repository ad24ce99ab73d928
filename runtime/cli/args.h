/* The option parser of all commands: `--name value`, `--name=value`, flags, repeated options, `--` and
 * `--help`. Set-up code of the main thread: it prints its errors itself. */
#ifndef TR_ARGS_H
#define TR_ARGS_H

#include "base/base.h"

/* Values of a repeated option, or the arguments that are no options; in order, borrowed from argv. */
struct tr_arg_list {
	const char **items; /* free with tr_arg_list_free() */
	size_t count;
};
void tr_arg_list_free(struct tr_arg_list *list);

enum tr_arg_kind {
	TR_ARG_FLAG, /* out: bool * */
	TR_ARG_TEXT, /* out: const char **, borrowed from argv */
	TR_ARG_INT,  /* out: int64_t * */
	TR_ARG_SIZE, /* out: int64_t *; bytes, with k, M or G for powers of 1024 */
	TR_ARG_REAL, /* out: double * */
	TR_ARG_LIST, /* out: struct tr_arg_list *; may be repeated, all others may not */
};

struct tr_arg {
	const char *name;  /* without the dashes; NULL ends the table */
	const char *value; /* what the help calls the value; NULL for a flag */
	enum tr_arg_kind kind;
	void *out;       /* holds the default before, the value after */
	double min, max; /* numbers: the range allowed; both 0: any that is >= 0 */
	const char *help;
};

struct tr_args {
	const char *command;  /* "sink" */
	const char *synopsis; /* what follows "Usage: tailrace sink " */
	const char *about;    /* a paragraph, or NULL */
	const struct tr_arg *options;
	const char *notes;        /* printed after the options, or NULL */
	struct tr_arg_list *rest; /* NULL: other arguments are refused */
};

#define TR_ARGS_RUN (-1)
/* Fills in the values. Returns TR_ARGS_RUN, or the status to exit with: 0 after --help, 64 (usage) after an
 * error, which was printed and names the nearest option if one is near, 71 without memory. */
int tr_args_parse(const struct tr_args *args, int argc, char **argv);

/* Prints `tailrace COMMAND: TEXT` and a hint to --help on standard error; returns 64. */
int tr_args_error(const struct tr_args *args, const char *fmt, ...) TR_PRINTF(2, 3);

#endif
