/* Shared by the files of runtime/policy only. */
#ifndef TR_POLICY_INTERNAL_H
#define TR_POLICY_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "policy/memory.h"
#include "policy/policy.h"

enum task_state { TASK_IDLE, TASK_RUNNING, TASK_WAITING, TASK_DONE };

/* Owned by its host until tr_host_free(): a ticket may always be looked at. */
struct tr_task {
	struct tr_host *host;
	lua_State *L; /* the pooled coroutine; NULL after an error took it */
	int ref;      /* keeps L */
	enum task_state state;
	uint32_t generation;          /* counts waits begun and ended */
	struct tr_task *next, **prev; /* idle or bare: next only; waiting: list of the host */
	struct tr_task *outer;        /* who ran when this one was resumed */
	const char *event;            /* of the caller until the first wait, then in `text`; NULL: none */
	const char *ids;              /* the same */
	const uint8_t *id;            /* of the caller, until the first wait: tr_task_ids() adds it to ids */
	char *text;                   /* owned copies of event and ids; the memory is reused */
	size_t text_cap;
	void (*end)(void *arg, const struct tr_task_result *result);
	void *end_arg;
	bool (*details)(void *arg, struct tr_buf *out); /* with end_arg; NULL: none */
	int64_t deadline_ns;                            /* from the start; 0: none */
	int64_t limit_ns;                               /* of one run, if it is less than the host's; 0: the host's */
	int64_t deadline_at_ns;                         /* monotonic; 0: none */
	int64_t waiting_since_ns;                       /* monotonic moment of the first wait; 0: none yet */
	struct tr_timer deadline;
	lua_State *parked;        /* the coroutine that yielded: L or one that the policy made */
	void (*cancel)(void *op); /* set while an operation is armed */
	void *op;
	int blocked; /* > 0: a policy coroutine runs above a frame that cannot yield */
	int ending;  /* TR_ECANCELED or TR_ETIMEDOUT once it is to end; else 0 */
	char what[96];
	const char *(*what_now)(void *op);             /* asked in place of `what`; NULL: none */
	void (*troubled)(void *arg, const char *text); /* NULL: nobody listens */
};

struct latch; /* library.c */

struct tr_host {
	lua_State *L; /* main state: runs only set-up and protected helpers */
	struct tr_memory memory;
	struct tr_loop *loop;
	char *share_dir, *policy;
	bool validating, closing;
	uint32_t worker;
	void *service[TR_SERVICES];

	struct tr_task *current; /* innermost running; outer ones by task->outer */
	struct tr_task *idle;    /* with a coroutine */
	struct tr_task *bare;    /* without */
	struct tr_task *waiting;
	struct tr_task **all; /* every task, for tr_host_free() */
	size_t all_count, all_cap, live;
	int depth; /* nested resumes */

	int ref_free;                          /* ref.c: first of the free slots; 0: none */
	int ref_last;                          /* the highest that was ever made */
	int body_ref, entry_ref, dispatch_ref; /* from host.lua */
	int raise_ref;                         /* slot of the value that a wake raises */
	int push_ref;                          /* tr_l_push_protected */
	int text_ref;                          /* error.c: makes an error's text */
	int anchor_ref;                        /* anchor.c */
	struct tr_anchor {
		char *text;
		int ref;
	} * anchors; /* NULL: none yet */
	uint32_t anchor_next;
	lua_State *raise_in; /* where the hook has to raise it; NULL: nothing to raise */
	char *event_name;    /* what _KUMO_CURRENT_EVENT holds; NULL: unset */
	size_t event_cap;
	uint64_t handled[4]; /* bit tr_event_id() */

	/* Watchdog: see watchdog.c. */
	struct tr_host *next_watched;
	int64_t limit_ns;             /* of tasks without one of their own */
	_Atomic int64_t run_limit_ns; /* of the stretch that runs */
	_Atomic uint64_t stretch;     /* odd: Lua runs; one more at each start and end of a stretch */
	pthread_t thread;             /* that runs it; written before `stretch` turns odd */
	_Atomic bool interrupt;       /* the hook has to raise "ran too long" */
	_Atomic bool cancel;          /* the hook has to cancel the innermost task: tr_watch_cancel() */
	char *cut_at;                 /* traceback of where a task was cut off; malloc'ed; NULL: none */
	const char *cut_why;          /* what it did */
	_Atomic int named;            /* 1: stuck[] is filled */
	char stuck[256];              /* event and ids, filled by the signal handler */
	uint64_t seen;                /* watchdog thread only: stretch at its last look ... */
	int64_t seen_for_ns;          /* ... and how long it has been that */
	int64_t refused_for_ns;       /* since it was interrupted; -1: it was not */
	bool told;
	uint64_t reported; /* the stretch that was interrupted last */
	int interrupts;    /* so many times */
};

extern char tr_park_key, tr_cancel_key; /* addresses: what a park yields, what a cancel raises */

/* library.c: pushes the table of functions that host.lua gets. */
void tr_library_push(struct tr_host *host);
/* frozen.c: a value (nil, boolean, number, string, tables of these) as bytes that any state can read; false: it cannot
 * be, or there is no memory. The caller frees out. */
bool tr_freeze(lua_State *L, int idx, struct tr_buf *out);
void tr_thaw(lua_State *L, struct tr_str bytes); /* pushes it; may raise; the bytes must stay until then */
/* frozen.c, timelib.c: add their functions to the table on top of the stack. */
void tr_frozen_library(lua_State *L);
void tr_board_library(lua_State *L);
void tr_time_library(lua_State *L);
/* error.c: text with traceback, event and ids of the error on top of task->L. Keeps the stack. */
void tr_error_text(struct tr_task *task, struct tr_buf *out);
/* error.c: makes the metatable of rejections. */
void tr_rejection_init(lua_State *L);
int tr_l_reject(lua_State *L);
/* anchor.c: pushes a string where nothing is protected. False: no memory, and nothing is pushed. */
bool tr_anchor_push(struct tr_host *host, lua_State *L, const char *text);
void tr_anchor_init(lua_State *L);
void tr_anchors_free(struct tr_host *host);
/* event.c: marks `name` as handled in this host. */
void tr_event_mark(struct tr_host *host, const char *name);
/* task_name.c */
#define TR_IDS_BYTES 128
/* Sets _KUMO_CURRENT_EVENT, raw: a policy may have made globals strict. */
void tr_event_name_set(struct tr_host *host, const char *event);
/* The ids in full, made in `text` if need be; NULL: none. Safe in a signal handler. */
const char *tr_task_ids(const struct tr_task *task, char text[TR_IDS_BYTES]);
/* Keeps event and ids beyond the start call. */
void tr_task_keep_names(struct tr_task *task);
/* task_hook.c: raises what is on top of host->L in the parked code: at the first instruction that the coroutine which
 * parked runs, i.e. where its host call returns. lua_resume() itself cannot raise. */
void tr_task_resume_raising(struct tr_task *task);
void tr_task_hook(lua_State *L, lua_Debug *ar);
void tr_task_hook_off(struct tr_host *host); /* unless memory waits for it */
/* task.c: resumes with `nargs` values on top of task->L. True if the task waits, false if it has ended. */
bool tr_task_resume(struct tr_task *task, int nargs);
void tr_tasks_free(struct tr_host *host);
int tr_l_push_args(lua_State *L);
int tr_l_push_protected(lua_State *L); /* pushes what a wake gives to its task; argument: struct push_call */
int tr_event_start(struct tr_host *host, const struct tr_task_call *call, const char *name, struct tr_task **out);
/* report.c: the error that follows may be caught, and tells its own text only: this logs where it ran, and for whom.
 * Once a stretch. True: it has caught that error again and again. */
bool tr_task_interrupted(struct tr_host *host, lua_State *L);
/* watchdog.c */
void tr_watch_add(struct tr_host *host);
void tr_watch_remove(struct tr_host *host);
void tr_watch_enter(struct tr_host *host);
void tr_watch_leave(struct tr_host *host);
/* Fills in "event NAME IDS" of what runs in this thread, "" if that is no Lua. For the handler of a signal in it. */
void tr_watch_name(char *out, size_t size);
/* stuck.c: threads that do not go on. From the watchdog's thread. */
void tr_stuck_init(void);
/* ending: the time of a stop is over, so that a thread that hangs ends the process. */
void tr_stuck_look(int64_t since_ns, bool ending);
void tr_stuck_answer(void); /* in the handler of the signal that tr_stuck_look() sends to a stuck thread */
_Noreturn void tr_watch_end(const char *fmt, ...)
	TR_PRINTF(1, 2); /* the process, with the status of a stop that hangs */
/* json.c: as tr_json_from_lua; `pretty` sorts keys and indents by 2; `lenient` writes what cannot be encoded as
 * "<type>". */
int tr_json_write(lua_State *L, int idx, struct tr_buf *out, bool pretty, bool lenient, const char **what);

#endif
