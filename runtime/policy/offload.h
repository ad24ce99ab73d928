/* For bindings whose work would stall the worker: it runs in a thread of base/work.h while the task waits. Where the
 * caller cannot wait (a callback of C code, a program without tasks) it runs at once. */
#ifndef TR_POLICY_OFFLOAD_H
#define TR_POLICY_OFFLOAD_H

#include "base/work.h"
#include "policy/policy.h"

#define TR_OFFLOAD_LIMIT_NS (60 * TR_NS_PER_S) /* of file operations: longer, and the disk is gone */

/* Embed it first in an operation from calloc(); the functions are set by the binding. Lua is not touched by run(), and
 * free() may run when the state is gone. */
struct tr_offload {
	struct tr_work work;
	struct tr_timer deadline;
	struct tr_ticket ticket;
	struct tr_loop *loop;
	int64_t limit_ns;
	bool waiting;
	void (*run)(struct tr_offload *op);
	int (*push)(lua_State *L, struct tr_offload *op); /* the results; may raise */
	void (*interrupt)(struct tr_offload *op); /* nobody waits any more, run() should end; any moment; may be NULL */
	void (*free)(struct tr_offload *op);
};

/* Takes `op`. `return tr_offload(...)` must be the binding's last act: results of push(), or nil, message, "ETIMEDOUT"
 * when limit_ns are over (> 0). `what` and `more` name it in reports. */
int tr_offload(lua_State *L, struct tr_offload *op, int64_t limit_ns, const char *what, const char *more);

#endif
