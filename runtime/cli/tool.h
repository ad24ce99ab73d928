/* A Lua host for commands that look at a policy without serving: a loop, transports, shaping, but no spool, no queues,
 * no listeners. Also the module `tr.tool`, what such commands ask of files. Main thread only. */
#ifndef TR_TOOL_H
#define TR_TOOL_H

#include "cli/transports.h"
#include "ingress/run.h"

struct tr_shaping;

struct tr_tool {
	struct tr_loop *loop;
	struct tr_host *host;
	struct tr_transports transports;
	struct tr_shaping *shaping;
	struct tr_run run; /* what `init` configures */
	bool ended;        /* the task of the last tr_tool_call() */
	int status;        /* of it: see struct tr_task_result */
	struct tr_buf out; /* the texts that it returned, one after the other; or the text of its error */
	int64_t number;    /* its last result, if that is a number */
};

/* Fills in loop, share_dir and modules of the config. TR_OK; TR_ENOMEM, TR_EIO (the runtime's own files: see the log).
 * tr_tool_fini() is due in any case. */
int tr_tool_init(struct tr_tool *tool, struct tr_host_config *config);
/* Runs call->entry to its end: push, push_arg, event and ids are the caller's. After limit_ns (0: none) of waiting it
 * is cancelled, and `out` tells what it waits for. TR_OK: see the fields above; TR_ENOMEM. */
int tr_tool_call(struct tr_tool *tool, struct tr_task_call *call, int64_t limit_ns);
void tr_tool_fini(struct tr_tool *tool); /* zeroed is fine */
/* From now on SIGINT ends the process with 130, after a line that names the command and the step it was in; *step
 * (NULL: none yet) is read in the signal's handler. */
void tr_tool_interruptible(const char *command, const char *volatile *step);

int luaopen_tr_tool(lua_State *L);

#endif
