/* The LuaJIT host of one worker: the Lua state, tasks (pooled coroutines), events, and the helpers
 * that bindings use. One thread; Lua values never leave it.
 *
 * Rules: C enters Lua only through tr_task_start() and tr_task_wake(). C never calls policy code and goes
 * on after it: what must follow runs in the task's `end` callback, or in Lua. */
#ifndef TR_POLICY_H
#define TR_POLICY_H

#include <lauxlib.h>
#include <lua.h>

#ifdef __clang_analyzer__ /* which must know that these do not return: Lua's headers do not say it */
int luaL_error(lua_State *L, const char *fmt, ...) __attribute__((noreturn));
int luaL_argerror(lua_State *L, int arg, const char *text) __attribute__((noreturn));
int lua_error(lua_State *L) __attribute__((noreturn));
#endif
#include <lualib.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/loop.h"

struct tr_host;
struct tr_task;

struct tr_module { /* a C module: require(name) calls open */
	const char *name;
	lua_CFunction open;
};

/* What bindings find by tr_service(): one pointer each, set before the policy is loaded. */
enum tr_service_id {
	TR_SERVICE_ENGINE,   /* struct tr_engine of runtime/queue */
	TR_SERVICE_WORKER,   /* struct tr_worker of runtime/queue: this thread's part */
	TR_SERVICE_RECORDER, /* struct tr_recorder of runtime/record */
	TR_SERVICE_SPOOL,
	TR_SERVICE_HTTP, /* struct tr_http of runtime/transport */
	TR_SERVICE_SMTP,
	TR_SERVICE_RUN, /* struct tr_run of runtime/cli: what init has configured */
	TR_SERVICE_DNS,
	TR_SERVICE_AMQP,     /* struct tr_amqp of runtime/transport */
	TR_SERVICE_KAFKA,    /* struct tr_kafka of runtime/transport */
	TR_SERVICE_NATS,     /* struct tr_nats of runtime/transport */
	TR_SERVICE_SHAPING,  /* struct tr_shaping of runtime/shaping */
	TR_SERVICE_DECLARED, /* of runtime/record/declare_lua.c: the hooks whose queue is known */
	TR_SERVICE_OFFLINE,  /* not NULL: nothing outside of the process is to be written, local logs are not opened */
	TR_SERVICES,
};

struct tr_host_config {
	struct tr_loop *loop;
	const char *share_dir;           /* holds lua/ and policy-extras/ */
	const char *policy;              /* file, NULL: none */
	const struct tr_module *modules; /* ends with {NULL, NULL} */
	bool jit;                        /* off: an endless loop can be interrupted */
	bool validating;                 /* sets the global _VALIDATING_CONFIG */
	int64_t handler_limit_ns;        /* longest run between two waits before the watchdog raises; 0: 5 s */
	uint32_t worker;                 /* number, for names and metrics */
	int64_t memory_limit;      /* bytes at which running Lua gets an error; 0: none. Four times as much: refused */
	bool measured;             /* the metrics tell its memory, by `worker` */
	const char *memory_remedy; /* what the error of that tells to do; literal; NULL: nothing */
};

/* Makes the state with all libraries, coroutine wrappers and `require 'kumo'`, but runs no policy yet.
 * TR_OK, TR_ENOMEM, TR_EIO (share_dir lacks its files: see the log). */
int tr_host_new(const struct tr_host_config *config, struct tr_host **out);
/* Cancels all tasks and closes the state. */
void tr_host_free(struct tr_host *host);
/* Bytes that its Lua has, and how often something was interrupted for want of memory. Any thread. */
size_t tr_host_memory(const struct tr_host *host);
uint64_t tr_host_memory_interrupts(const struct tr_host *host);

/* Evaluates the policy file in a task (it may wait). `end(arg, error)`: error NULL when it loaded, else the message
 * with file:line and traceback (borrowed). */
void tr_host_load(struct tr_host *host, void (*end)(void *arg, const char *error), void *arg);

struct tr_host *tr_host_of(lua_State *L);
lua_State *tr_host_state(struct tr_host *host);
struct tr_loop *tr_host_loop(struct tr_host *host);
void tr_host_set_service(struct tr_host *host, enum tr_service_id id, void *service);
void *tr_host_service(struct tr_host *host, enum tr_service_id id);
static inline void *
tr_service(lua_State *L, enum tr_service_id id)
{
	return tr_host_service(tr_host_of(L), id);
}

/* --- references ------------------------------------------------------------------------------ */

/* Pops a value and keeps it until tr_unref(); > 0, or LUA_REFNIL for nil. Raises without memory; the references that
 * were taken before stay as they are, which luaL_ref() does not promise. L: any coroutine of the host. */
int tr_ref(lua_State *L);
/* Needs no memory. LUA_NOREF and LUA_REFNIL are fine. */
void tr_unref(lua_State *L, int ref);
/* Needs no memory, but a free slot of the stack. LUA_NOREF and LUA_REFNIL: nil. */
static inline void
tr_ref_push(lua_State *L, int ref)
{
	lua_rawgeti(L, LUA_REGISTRYINDEX, ref);
}

/* --- tasks --------------------------------------------------------------------------------- */

/* How a task ended. status TR_OK: `count` results lie on top of L's stack. Otherwise the error: `L` has the error value
 * on top (any type), `text` is its text with traceback, event and ids (borrowed), and `reject_code` >= 0 if it is (or
 * wraps) a kumo.reject, whose text is `reject_text`. L is valid during the call only; the callback must not leave the
 * stack changed. */
struct tr_task_result {
	int status; /* TR_OK; TR_EINVAL raised; TR_ECANCELED; TR_ETIMEDOUT deadline */
	lua_State *L;
	int count;
	const char *text;
	int reject_code;
	const char *reject_text; /* borrowed; NULL if none */
	int disconnect;          /* enum tr_disconnect */
};
enum tr_disconnect { TR_DISCONNECT_IF_421, TR_DISCONNECT_FOLLOW_421, TR_DISCONNECT_FORCE };

struct tr_task_call {
	const char *event; /* name for _KUMO_CURRENT_EVENT, tracebacks and metrics; copied if the task waits */
	const char *entry; /* name of a function in lua/host.lua's `entry` table, e.g. "dispatch", "session" */
	int (*push)(lua_State *L, void *arg); /* pushes the arguments, returns their number; may raise; NULL: none */
	void *push_arg;
	void (*end)(void *arg, const struct tr_task_result *result); /* once; NULL: errors are logged */
	void *end_arg;
	int64_t deadline_ns; /* from now; 0: none */
	int64_t limit_ns;    /* longest run between two waits, if it is less than the host's; 0: the host's */
	const char *ids;     /* "message 5c0f... event 77..." for tracebacks; copied; may be NULL */
	const uint8_t *id;   /* 16 bytes that `ids` ends with, as hex digits after a blank; copied; NULL: none */
	/* For reports: more about it, called with end_arg: lines that begin with a tab. False: it only waits for work,
	 * and a hang report leaves it out. NULL: nothing. */
	bool (*details)(void *arg, struct tr_buf *out);
	void (*troubled)(
		void *arg, const char *text); /* as tr_task_trouble() says, with end_arg; NULL: nobody listens */
};
/* Runs the call until it ends or waits. If it ended before the return, `end` has been called already. *out (may be
 * NULL) is the task if it waits, else NULL. TR_OK; else `end` is not called: TR_ENOMEM (also when handlers start each
 * other more than 150 deep), TR_ECANCELED (the host is being freed). For a rejection `text` is its code and text,
 * without traceback. */
int tr_task_start(struct tr_host *host, const struct tr_task_call *call, struct tr_task **out);

/* Fires event `name` through lua/host.lua's dispatcher (chaining rules of contract/events.md section 2): entry
 * "dispatch" with `name` put before the arguments. */
int tr_event_fire(struct tr_host *host, const char *name, struct tr_task_call *call, struct tr_task **out);
/* True if the policy has a handler: O(1), from C, for the fixed events; tr_event_id() once, then the bit. */
int tr_event_id(const char *name); /* small integer, the same for a name in all hosts; -1: more than 256 names */
bool tr_event_handled(const struct tr_host *host, int id);

/* For bindings that wait. tr_task_check raises where the running code cannot yield. */
struct tr_task *tr_task_check(lua_State *L);
struct tr_ticket { /* task + generation: a stale wake is refused */
	struct tr_task *task;
	uint32_t generation;
};
/* Parks the running task: `return tr_task_park(...)` must be the binding's last act. cancel(op) runs if the task ends
 * first; exactly one of wake and cancel happens. Takes no hold: the operation behind it does if it is outside the
 * timers. */
int tr_task_park(struct tr_task *task, lua_State *L, void (*cancel)(void *op), void *op, struct tr_ticket *ticket);
/* Ends the wait: pushes results with `push` (NULL: none) and goes on at once. With raise, the one value that push gives
 * is raised as an error instead. A stale ticket is ignored and false is returned. */
bool tr_task_wake(const struct tr_ticket *ticket, int (*push)(lua_State *L, void *arg), void *arg, bool raise);
/* Cancels (raises an uncatchable "cancelled" in it, runs its cancel hook, closes). Safe from callbacks, not from
 * itself. */
void tr_task_cancel(struct tr_task *task);
/* For the hang report: each live task with event, ids, seconds since it started, what it waits for, traceback. */
void tr_host_report(struct tr_host *host, struct tr_buf *out);
/* The hang report: the same of those that do not only wait for work, at most `max` of them. Returns how many there are.
 */
uint32_t tr_host_hang_report(
	struct tr_host *host, uint32_t max, void (*each)(void *arg, struct tr_str text), void *arg);
/* The same of one. Not of the running one. */
void tr_task_report(struct tr_task *task, struct tr_buf *out);
size_t tr_host_task_count(const struct tr_host *host);
/* Names what the task waits for in reports ("http POST http://...", "sleep 3 s"); copied. */
void tr_task_describe(struct tr_task *task, const char *fmt, ...) TR_PRINTF(2, 3);
/* Has `what_now` asked for it whenever a report is made while the task is parked, with the operation of its park. */
void tr_task_describe_by(struct tr_task *task, const char *(*what_now)(void *op));
void tr_task_describe_text(struct tr_task *task, const char *what, const char *more); /* the two in a row; cheap */

/* For bindings: what the task waits for is held up by its peer, which has said so, and comes in the end: no reason to
 * end it, but people should hear why. NULL: that is over. Own thread. */
void tr_task_trouble(struct tr_task *task, const char *text);

/* The configuration epoch of the process: memoize caches that ask for it forget when it moves. Any thread. */
uint64_t tr_config_epoch(void);
uint64_t tr_config_epoch_bump(void); /* returns the new one */

/* --- watchdog --------------------------------------------------------------------------------- */
/* A process-wide thread that watches hosts: a worker that runs Lua for longer than its limit is named in the log
 * (event, ids) and interrupted by an error with a traceback. Start once before workers; stop last. */
int tr_watchdog_start(void);
void tr_watchdog_stop(void);
/* A thread with a pulse (base/pulse.h) that is at one piece of work for longer than this is told of, once, with what it
 * does, and again when it goes on. Default: 10 s. */
void tr_watchdog_stuck_after(int64_t ns);
/* What a stop means, once one can be asked for: `ns` after it was, the process ends with `status` at once, without an
 * orderly stop, if a host is in one stretch of Lua that was interrupted a second ago and does not end (a function in C
 * cannot be), if a thread with a pulse is stuck by the rule above, and in any case a minute later. A SIGTERM, SIGINT
 * or SIGHUP that no thread takes for a second counts as asked. */
void tr_watchdog_stops(int64_t ns, int status);
/* Safe in a signal handler. Asked again: it may take 2 s more at most. */
void tr_watchdog_stop_asked(void);
/* For the handler of a signal (Ctrl-C) in the thread that runs Lua: what runs is cancelled at its next instruction, as
 * by tr_task_cancel(); its result's text then has the traceback of where it was. False: no Lua runs in this thread. A
 * function in C (string.find, say) cannot be interrupted: it ends first. */
bool tr_watch_cancel(void);

/* --- helpers for bindings ------------------------------------------------------------------------ */
/* Makes the metatable of a userdata type known to luaL_checkudata(). `methods` NULL: it has none. */
void tr_type(lua_State *L, const char *name, lua_CFunction gc, const luaL_Reg *methods);
/* Pushes the metatable of objects, made at the first call in a state, not when its module is opened. methods: of its
 * __index, or NULL. Raises without memory, and then the next call makes it: one that was left half made would stay so.
 */
void tr_metatable(lua_State *L, const char *name, const luaL_Reg *meta, const luaL_Reg *methods);
/* Pushes `nil, message, code` and returns 3. */
int tr_push_error(lua_State *L, int err, const char *fmt, ...) TR_PRINTF(3, 4);
/* Raises a text prefixed with where the Lua caller stands, as luaL_error. */
/* JSON text -> Lua value pushed. null gives nil inside objects (absent) or, with null_sentinel, a NULL light userdata;
 * arrays carry the array metatable so that an empty one encodes as []. TR_EINVAL pushes nothing and sets *error_at.
 * Integers up to 2^53 exact. */
int tr_json_push(lua_State *L, struct tr_str json, bool null_sentinel, size_t *error_at);
/* Lua value at idx -> JSON text added to out. Tables: array metatable or 1..n keys -> array; {} -> {}; userdata with
 * __pairs as an object (through Lua only: raises here); integral numbers without fraction; NaN and infinities null.
 * TR_EINVAL: *what (static text) says which type cannot be encoded. Depth at most 128. */
int tr_json_from_lua(lua_State *L, int idx, struct tr_buf *out, const char **what);
void tr_json_set_array(lua_State *L, int idx); /* gives the table the array metatable */

/* Option tables. Each key of the table must be in `keys`; otherwise raises `FUNCTION: unknown field 'x', expected one
 * of ... (did you mean 'y'?), while processing {json}`. */
struct tr_key {
	const char *name;
	char type; /* s string, b boolean, n number, i integer >= 0, d duration, t table, f function, * any */
	bool required;
};
void tr_check_options(lua_State *L, int idx, const char *function, const struct tr_key *keys, size_t count);
/* After the check: values with defaults. */
const char *tr_opt_string(lua_State *L, int idx, const char *key, const char *def, size_t *len);
bool tr_opt_bool(lua_State *L, int idx, const char *key, bool def);
int64_t tr_opt_int(lua_State *L, int idx, const char *key, int64_t def);
/* Duration key: number of seconds >= 0 or a text; ns. Raises with the function and key for a bad one. */
int64_t tr_opt_duration_ns(lua_State *L, int idx, const char *function, const char *key, int64_t def);
/* "10%", a number of bytes or inodes, or their digits; *out stays if the key is absent. */
void tr_opt_space_limit(lua_State *L, int idx, const char *function, const char *key, struct tr_space_limit *out);
/* A duration value at idx. */
int64_t tr_check_duration_ns(lua_State *L, int idx, const char *function, const char *what);

/* A rejection (kumo.reject): raised by l_reject in policy; test and read for others. */
bool tr_is_rejection(lua_State *L, int idx, int *code, const char **text, int *disconnect);

#endif
