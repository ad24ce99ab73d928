/* The prompt: what its parts share. repl.c evaluates in this process, repl_attach.c in a live one; repl_loop.c reads
 * inputs for both. */
#ifndef TR_REPL_H
#define TR_REPL_H

#include <signal.h>

#include "base/buf.h"
#include "policy/policy.h"

enum tr_repl_status {
	TR_REPL_OK,
	TR_REPL_ERROR,      /* told already */
	TR_REPL_INCOMPLETE, /* more lines are needed */
	TR_REPL_QUIT,
};

struct tr_repl_ops {
	/* Evaluates an input and shows what came of it. `last`: there is no more, so it cannot be incomplete. */
	enum tr_repl_status (*eval)(void *arg, struct tr_str input, bool last);
	/* See struct tr_edit_config. */
	void (*complete)(void *arg, struct tr_str line, struct tr_buf *out);
	void (*resized)(void *arg, int columns);
	/* What stands before an input; of a following line, without what it says. */
	const char *(*prompt)(void *arg);
	/* `fd` can be read while nothing is evaluated. TR_REPL_QUIT: the other end is gone. NULL: there is no fd. */
	enum tr_repl_status (*wake)(void *arg);
};

/* Reads inputs from the terminal until :quit, Ctrl-D or SIGTERM; the exit status. fd: -1, or what wake() is for. */
int tr_repl_loop(const struct tr_repl_ops *ops, void *arg, int fd, bool colour);
/* Standard output is a terminal that may be sent colours (NO_COLOR, TERM=dumb). */
bool tr_repl_colour(void);
/* Puts raw text on standard output. */
void tr_repl_print(struct tr_str text);

/* Set by SIGTERM and SIGHUP, which tr_repl_signals() takes: the prompt ends in order. */
extern volatile sig_atomic_t tr_repl_ends;
/* SIGINT calls interrupt() in the main thread's handler, except while a line is edited. */
void tr_repl_signals(void (*interrupt)(void));

/* --- repl_module.c: the C module tr.repl and what is behind it, one per Lua state ------------------------------------
 */

/* Where a session's output goes, in the thread of its state. */
struct tr_repl_sink {
	struct tr_repl_sink *next; /* in the thread's list, while it is there */
	uint32_t id;
	void (*write)(struct tr_repl_sink *sink, struct tr_str text);
	bool live;  /* the real network is asked: set by Lua */
	bool exits; /* os.exit was called in a script: the process is to end with exit_code */
	int exit_code;
};
void tr_repl_sink_add(struct tr_repl_sink *sink);
void tr_repl_sink_remove(struct tr_repl_sink *sink);

/* One call of a function of lua/repl.lua as a task. */
struct tr_repl_call {
	const char *op; /* "prepare", "open", "eval" ... */
	uint32_t id;
	struct tr_str text;
	bool has_text, last;
	/* prepare, attach: fields of tr.repl.Session */
	bool has_options, terminal, colour, script;
	int width, workers;
	const char *policy, *peer;
	/* what came of it */
	void (*end)(struct tr_repl_call *call); /* once, maybe before start returns; may free the call */
	void *owner;
	struct tr_task *task; /* while it waits */
	bool ended;
	int status;           /* TR_OK, TR_ECANCELED, TR_ETIMEDOUT, TR_EINVAL: error has its text */
	struct tr_buf result; /* the text that it returned */
	char prompt[32];      /* the second one: of a session in a live process */
	struct tr_buf error;
};
/* Loads lua/repl.lua in a state, once. TR_OK, or TR_EIO with a line in the log. */
int tr_repl_install(struct tr_host *host);
/* Starts it. limit_ns: of one run of Lua, and deadline_ns: of all; 0: none. TR_OK or TR_ENOMEM: end is not called. */
int tr_repl_start(struct tr_host *host, struct tr_repl_call *call, int64_t limit_ns, int64_t deadline_ns);
void tr_repl_call_fini(struct tr_repl_call *call);
/* The text to show for a call that was interrupted or ended by its limits. */
void tr_repl_why_cut(const struct tr_repl_call *call, const char *waited_for, struct tr_buf *out);
int luaopen_tr_repl(lua_State *L);

/* --- repl_attach.c
 * ---------------------------------------------------------------------------------------------------- */
/* `tailrace repl --attach PATH`; the exit status. Without a terminal, the inputs are evaluated, or else the script. */
struct tr_arg_list;
int tr_repl_attach(const char *path, const struct tr_arg_list *inputs, struct tr_str script, bool terminal);

#endif
