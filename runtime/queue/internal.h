/* What the files of this room share. Who may touch what is said at each field:
 *   home   only the scheduled queue's (or ready queue's) home worker
 *   lock   under the lock named
 *   own    only that worker's thread */
#ifndef TR_QUEUE_INTERNAL_H
#define TR_QUEUE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "queue/budget.h"
#include "queue/dead.h"
#include "queue/lane.h"
#include "queue/order.h"
#include "queue/queue.h"
#include "queue/slots.h"

#define LOAD_MAX 512        /* messages in one load */
#define JUDGE_MAX 256       /* messages in one load that only ends or moves them */
#define OP_MAX 1000         /* messages in one change */
#define SWEEP_MAX 512       /* stubs looked at per turn by a sweep */
#define FRESH_MAX 64        /* messages kept in memory while the path is being resolved */
#define UNSETTLED_MAX 16384 /* messages per worker whose outcome is not committed yet */
#define HOUSEKEEPING_NS (10 * TR_NS_PER_S)
#define ERROR_TTL_NS (60 * TR_NS_PER_S) /* contract/events.md section 6 */
#define STRIPES 64
#define CHUNK 1024
#define CHUNKS 4096
#define NO_SCHED UINT32_MAX /* stub->queue of what is in no scheduled queue */

/* --- scheduled queue -------------------------------------------------------------------------------------- */
struct resolve_waiter {
	struct tr_mail mail;
	struct tr_defer defer;
	struct resolve_waiter *next;
	struct tr_worker *worker; /* who asked */
	struct tr_sched *sched;   /* referenced */
	void (*then)(void *arg, const char *error);
	void *arg;
	char *error;
};

struct tr_sched {
	struct tr_engine *engine;
	struct tr_worker *home;
	struct tr_sched *hash_next;              /* stripe lock */
	struct tr_sched *home_next, **home_prev; /* home list lock */
	uint64_t hash;
	uint32_t index;
	char *name;
	struct tr_queue_name parts;        /* borrowed from name */
	struct tr_metric *metric;          /* scheduled_count */
	struct tr_metric *full_metric;     /* delayed_due_to_ready_queue_full */
	struct tr_metric *throttle_metric; /* delayed_due_to_throttle_insert_ready; home; NULL until it happens */
	pthread_mutex_t lock;              /* config and error, for other workers */
	struct tr_queue_config *config;    /* home writes under lock, others read under lock */
	char *error;                       /* the same; NULL: none */
	int64_t error_until_ns;
	_Atomic bool configured;
	_Atomic bool log_records;   /* log records were put in */
	_Atomic int64_t max_age_ms; /* of config; INT64_MAX without */
	_Atomic int64_t count;      /* messages of it wherever they are, and references; 0: may be reaped */
	_Atomic int64_t waiting;    /* line, timers and behind a key */
	_Atomic uint32_t behind;    /* behind a key; home writes */
	/* home */
	bool resolving, active, parks, drains; /* parks: log records may not be sent; drains: protocol is null */
	bool told_full;                        /* ready_full was counted for this stretch */
	bool rate_waits;                       /* some have no token of max_message_rate */
	struct sched_rate *rate;               /* rate.c; NULL: no max_message_rate */
	struct budget *budget;                 /* budget.c; NULL: none was ever set */
	struct order *order;                   /* order.c; NULL: no record of it ever had a key */
	bool site_asking;                      /* site.c */
	char *site;                            /* of an SMTP queue without mx_list; NULL: not known or not needed */
	char *site_error;                      /* why it is not known: text of records; NULL: no failure */
	int64_t site_until_ns;                 /* the one or the other holds until then */
	_Atomic bool site_stale;               /* not even until then; any */
	struct tr_sched *active_next;
	struct slot_list line;
	int64_t line_expiry_ms; /* wall; nothing in the line expires before; INT64_MAX: nothing */
	uint32_t sweep_at;      /* next slot of the expiry sweep; TR_NO_SLOT: none runs */
	bool sweep_queued;
	struct tr_sched *sweep_next;
	struct message_list incoming; /* in memory, not judged */
	struct message_list fresh;    /* in memory, judged, on the way to the ready queue */
	struct message_list hooking;  /* waiting for the throttle_insert_ready_queue handler; the first is in it */
	bool hook_running, hook_answered, hook_waiting;
	bool loading;
	int64_t blocked_until_ns; /* the spool could not be read */
	struct resolve_waiter *waiters;
	struct tr_timer timer; /* tries again: I/O error, policy error, suspension */
	int64_t resolved_at_ns, inserted_at_ns;
	uint32_t epoch;     /* of the engine when resolved */
	struct lane *lanes; /* lane_count of them, >= 1; one source needs no memory: &only */
	uint32_t lane_count;
	struct lane only;
	bool no_sources;             /* the pool is empty */
	struct lane_turn turn;       /* of the round robin */
	struct tr_pool_config *pool; /* referenced; NULL: `unspecified` */
	/* while its pool is being resolved */
	struct tr_queue_config *pending;
	struct tr_mail pool_mail;
	struct tr_sched *pool_next; /* engine->source_lock */
	/* any */
	struct tr_sched *kick_next; /* belongs to whoever set kicked */
	struct tr_mail kick_mail;
	_Atomic bool kicked;
};
/* Finds or makes; one is added to its count. NULL: no memory or index. Any thread. */
struct tr_sched *sched_get(struct tr_engine *engine, struct tr_str name);
struct tr_sched *sched_find(struct tr_engine *engine, struct tr_str name); /* the same without making; NULL: none */
void sched_count(struct tr_sched *sched, int64_t n);
struct tr_sched *sched_at(const struct tr_engine *engine, uint32_t index); /* NULL for NO_SCHED */
static inline struct tr_sched *sched_of(const struct tr_engine *engine, const struct tr_message *message);
struct tr_queue_config *sched_config_ref(struct tr_sched *sched);
void sched_resolve(struct tr_sched *sched);
void sched_reap(struct tr_sched *sched);     /* home; if nothing uses it */
void sched_free(struct tr_sched *sched);     /* engine's end */
void sched_activate(struct tr_sched *sched); /* home: pump in this turn */
/* any thread: the same; kicked was set by the caller, under the ready queue's lock */
void sched_kick_marked(struct tr_sched *sched);
void sched_kick_arrived(struct tr_mail *mail);
void sched_pump(struct tr_sched *sched);
/* home: a message in memory, counted already */
void sched_insert(struct tr_sched *sched, struct tr_message *message, const char *reason);
/* home: slots whose last change is committed, to the line or the timers by their due time. */
void sched_return(struct tr_worker *worker, struct slot_list *slots, bool front);
void sched_spill(
	struct tr_sched *sched, struct message_list *list, bool front); /* memory is freed, stubs wait in the line */
void sched_retry_in(struct tr_sched *sched, int64_t delay_ns);
void rate_set(struct tr_sched *sched);  /* home: as the configuration says */
void rate_drop(struct tr_sched *sched); /* home: none */
/* Tokens for up to `want` messages; if fewer are given the queue is pumped again in time. sched->rate is not NULL. */
uint32_t rate_take(struct tr_sched *sched, uint32_t want);
int64_t rate_next_token_ns(const struct tr_sched *sched, int64_t now_ns); /* home; while rate_waits. 0: not known */
bool rate_is_shared(const struct tr_sched *sched);                        /* with other nodes */
void rate_give_back(struct tr_sched *sched, uint32_t count);              /* tokens of messages that did not go */
void rate_admit(struct tr_sched *sched); /* incoming ones without a token go to the line */
void line_add(struct tr_sched *sched, uint32_t slot, bool front);
uint32_t line_pop(struct tr_sched *sched);
void line_remove(struct tr_sched *sched, uint32_t slot);
void line_check_expiry(struct tr_sched *sched, int64_t now_ms);
int64_t stub_expiry_ms(const struct tr_sched *sched, const struct tr_stub *stub);

/* --- limits: what holds sessions back beside connection_limit (limits.c, permit.c, pace.c) ---------------------------
 */
struct ready_lease {
	struct tr_lease_set *set; /* referenced */
	uint64_t limit;
};
/* Of a path's configuration; shared and immutable. */
struct ready_limits {
	_Atomic uint32_t refs;
	struct tr_shaping *shaping;
	struct ready_lease *leases;     /* lowest limit first */
	struct tr_throttle **messages;  /* slowest first */
	struct tr_throttle **selection; /* of the source */
	struct tr_throttle *connection; /* NULL: none */
	uint32_t lease_count, message_count, selection_count;
	bool shared_leases;
	int64_t lease_ns; /* how long a lease lives that nobody extends */
};
/* *out NULL with TR_OK: the path has none. TR_ENOMEM. */
int limits_new(const struct tr_ready *ready, const struct tr_path_config *path, struct ready_limits **out);
struct ready_limits *limits_ref(struct ready_limits *limits); /* NULL is fine for both */
void limits_unref(struct ready_limits *limits);
bool limits_same_rates(const struct ready_limits *a, const struct ready_limits *b); /* of messages; NULL is fine */
/* Until the next token is there; 0: now. Takes none; of a shared one only this process' part is known. */
int64_t limits_next_token_ns(struct tr_throttle *throttle, int64_t now_ns);
/* Home of a scheduled queue that picks this source: takes a token of each selection rate, or none and false with the
 * time to the next. */
bool ready_source_selection(struct tr_ready *ready, int64_t now_ns, int64_t *retry_after_ns);

/* --- ready queue --------------------------------------------------------------------------------------------- */
enum hindrance { FREE, LEASES, CONNECTION_RATE, BACKEND }; /* of opening the next session */
enum ready_metric {
	M_DELIVERED,
	M_TRANSFAIL,
	M_FAIL,
	M_CONNECTIONS_TOTAL,
	M_READY_FULL,
	M_READY_COUNT, /* gauges: set by the collector for each queue, summed for the protocol */
	M_CONNECTIONS,
	READY_METRICS,
};
enum ready_state { READY_RESOLVING, READY_OK, READY_ERROR, READY_REPLACED };
struct ready_worker {
	struct session *idle;
	uint32_t sessions;
};
struct tr_ready {
	struct tr_engine *engine;
	struct tr_worker *home;
	struct tr_ready *hash_next; /* engine->ready_lock */
	char *name, *site, *source, *routing_domain;
	struct tr_source *via; /* referenced; NULL: `unspecified` */
	_Atomic bool selects;  /* its path has rates of source selection */
	bool hook;
	struct tr_queue_config *queue; /* immutable */
	_Atomic uint32_t refs;         /* scheduled queues, sessions, loads; 0: may be reaped */
	_Atomic int state;             /* written under lock */
	_Atomic bool suspended;
	pthread_mutex_t lock; /* all below unless said otherwise */
	struct tr_path_config *path;
	struct ready_limits *limits; /* NULL: none; home writes */
	int64_t paced_until_ns;      /* a message rate: nothing is taken before. 0: none refused lately */
	int64_t permit_after_ns;     /* no session is opened before: a rate, or a set shared with other nodes */
	enum hindrance hindrance;    /* why, and what it is */
	char hindered_by[128];
	int64_t hindrance_told_ns;           /* the last line about a backend that fails */
	struct tr_lease_waiter lease_waiter; /* for a place in lease_set */
	struct tr_lease_set *lease_set;      /* referenced, and then so is this queue; NULL: waits for none */
	_Atomic bool lease_told;             /* there is one; home has not heard of it yet */
	struct tr_lease_set *lease_turn;     /* referenced: a place is kept for the next session; NULL: none */
	char *error;                         /* of the path, as policy said; NULL: none */
	int64_t error_until_ns;
	struct message_list messages;
	uint64_t bytes;
	uint32_t reserved;                   /* places promised to loads and waiting queues */
	int64_t expiry_ms;                   /* wall; none of `messages` expires before */
	struct lane *waiting, **waiting_end; /* for room, in turn */
	uint32_t waiting_count;
	struct tr_gate gate;
	_Atomic bool gate_dirty; /* a failure was told since the last success */
	uint32_t gate_under_way; /* attempts that began while the gate was paced */
	_Atomic uint32_t denied; /* 401, 403, 404 in a row; an alarm from gate_failures on */
	bool gate_alarm;
	struct tr_metric *alarm_metric; /* NULL until the first */
	char gate_text[300];            /* of the last failure */
	bool gate_told;                 /* the log says that it is closed */
	uint32_t gate_untold;           /* closings since the last line about one */
	int64_t gate_told_at_ns;        /* that line */
	int64_t gate_shut_at_ns;        /* first closing since it was open */
	bool probe_coming;              /* a session was opened or woken for the probe */
	uint32_t failures;              /* connection failures in a row */
	uint32_t sessions, idle;
	int64_t open_after_ns; /* sessions that fail at once: not before */
	struct session *all;   /* every session */
	struct ready_worker *workers;
	/* home */
	struct tr_timer timer;
	bool resolving;
	int64_t resolved_at_ns, used_at_ns;
	uint32_t epoch;
	struct tr_mail kick_mail;
	_Atomic bool kicked;
	/* metrics */
	struct tr_metric *metrics[2][READY_METRICS]; /* of this queue; of all of its protocol */
};
static inline void
ready_metric(struct tr_ready *ready, enum ready_metric metric, int64_t n)
{
	tr_metric_add(ready->metrics[0][metric], n);
	tr_metric_add(ready->metrics[1][metric], n);
}
int ready_route(struct tr_sched *sched); /* home of sched: finds or makes the lanes' ready queues; TR_OK or TR_ENOMEM */
static inline bool
lanes_hold(const struct tr_sched *sched)
{
	bool held = sched->lanes[0].held > 0;

	for (uint32_t i = 1; i < sched->lane_count && !held; i++)
		held = sched->lanes[i].held > 0;
	return held;
}
/* home, in site.c: may it be routed? False while its site is looked up, and when there is none: then its messages are
 * on the way to judge_message(), which fails them. */
bool site_known(struct tr_sched *sched);
bool site_needed(const struct tr_sched *sched);                            /* it has a configuration */
struct tr_ready *ready_find(struct tr_engine *engine, struct tr_str name); /* referenced; NULL */
void ready_unref(struct tr_ready *ready);
void ready_resolve(struct tr_ready *ready); /* home */
/* Pushes what there is room for, `held` places being reserved already (the unused are given back); the rest stays in
 * *list, and the lane is put in the line for room if `more`. */
void ready_push(struct lane *lane, struct message_list *list, uint32_t held, bool more);
uint32_t ready_reserve(struct lane *lane, uint32_t want); /* 0: it waits for room, and is kicked then */
uint32_t ready_try(struct lane *lane, uint32_t want);     /* the same without waiting */
void ready_release(struct tr_ready *ready, uint32_t places);
/* Takes out up to `max` messages of that queue that are older (seq) than that. Counted IN_READY still. */
void ready_shed(struct tr_ready *ready, const struct tr_sched *sched, uint64_t before_seq, uint32_t max,
	struct message_list *out);
void ready_unwait(struct lane *lane);
struct tr_sched *ready_grant_locked(struct tr_ready *ready); /* chain by kick_next, kicked is set */
void ready_kick_chain(struct tr_sched *chain);
/* Opens and wakes sessions as wanted; not under the lock. worker: the caller's, NULL: not on a worker. */
bool ready_balance(struct tr_ready *ready, struct tr_worker *worker); /* true: one was opened */
void ready_kick_arrived(struct tr_mail *mail);
void ready_kick(struct tr_ready *ready); /* any thread: home looks after timers, grants and sessions */
void ready_drain(struct tr_ready *ready, struct tr_worker *worker); /* messages back to the front of the lines */
void ready_replace(struct tr_ready *ready, struct tr_worker *worker);
void ready_free(struct tr_ready *ready);
void ready_housekeeping(struct tr_worker *worker);
/* Messages in memory back to the front of their lines, on any worker; in_flight: how they are counted now, else
 * IN_READY. */
void ready_return_to_lines(struct tr_worker *worker, struct message_list *list, bool in_flight);

/* --- session ---------------------------------------------------------------------------------------------------- */
struct session {
	struct tr_session pub;                      /* first */
	struct session *ready_next, **ready_prev;   /* ready->lock: ready->all */
	struct session *idle_next, **idle_prev;     /* ready->lock */
	struct session *worker_next, **worker_prev; /* own */
	struct session *act_next;                   /* own: worker's list of what to open or wake */
	struct tr_mail open_mail, wake_mail;
	_Atomic bool wake_posted;
	_Atomic uint32_t refs;
	bool ended, saw_empty, settling; /* own */
	bool for_probe;                  /* ready->lock */
	uint64_t taken;
	uint32_t held;          /* messages with it now */
	struct tr_timer cancel; /* at stop */
	bool cancelled;
	bool named;                  /* in the line of another one, which is cancelled with it */
	bool pacing;                 /* ready->lock: waits for a rate with messages in hand */
	bool counted;                /* ready->lock: in gate_under_way */
	int64_t took_at_ns;          /* own: when it was counted */
	struct ready_limits *limits; /* own: of the last take; referenced */
	struct permit *permit;       /* own: leases; NULL: none */
	struct pace *pace;           /* own: a wait for a rate; NULL: none yet */
	char held_up[200];           /* own writes, under ready->lock: by its peer, and why; "": it is not */
	int64_t late_ns;             /* own: so much after its slot the last batch went out; 0: idle since then */
};
static inline struct session *
session_of(struct tr_session *session)
{
	return (struct session *)session;
}
/* Makes one for `worker`; ready->lock is held. NULL: no memory. */
struct session *session_new_locked(struct tr_ready *ready, struct tr_worker *worker);
/* True if no wake was on its way: then act_next is the caller's, who must call session_act(). Takes a reference for it.
 */
static inline bool
session_claim_wake(struct session *session)
{
	if (atomic_exchange(&session->wake_posted, true))
		return false;
	atomic_fetch_add_explicit(&session->refs, 1, memory_order_relaxed);
	return true;
}
void session_act(struct session *session, struct tr_worker *worker, bool open); /* later, on its worker */
void session_permitted(struct session *session); /* own: the answer of permit_ask() that came later */
void session_refused(struct session *session);   /* the other one: it is gone */
enum permit_answer { PERMIT_GRANTED, PERMIT_REFUSED, PERMIT_LATER };
/* Own: leases and a token of the connection rate for a session that is to be opened. */
enum permit_answer permit_ask(struct session *session);
bool permit_pending(const struct session *session);
void permit_end(struct session *session);   /* own: a question is cancelled, leases go back */
void permit_unwait(struct tr_ready *ready); /* home: does not wait for a place any more */
/* Home: true if a place was free that this queue waited for; then permit_settle() says whether a session was opened. */
bool permit_told(struct tr_ready *ready);
void permit_settle(struct tr_ready *ready, bool opened);
void pace_end(struct session *session); /* own: a question is cancelled, slots go back */
void releases_free(struct tr_worker *worker);
void session_unidle_locked(struct session *session);
void session_uncount_locked(struct session *session);
bool ready_held_back_locked(const struct tr_ready *ready);
void session_unref(struct session *session);
void sessions_settled(struct tr_worker *worker);
void sessions_close_all(struct tr_ready *ready, struct tr_worker *worker); /* wakes the idle: reason to end */

/* --- worker ----------------------------------------------------------------------------------------------------------
 */
enum post_kind { POST_INSERT, POST_RETURN, POST_FRONT };
struct post {
	struct tr_mail mail;
	struct tr_worker *to;
	enum post_kind kind;
	const char *reason;
	struct message_list messages;
	struct slot_list slots;
};
struct post_chain {
	struct post *first, *last;
};
struct tr_worker {
	struct tr_engine *engine;
	struct tr_loop *loop;
	uint32_t index;
	void *data;
	uint64_t random[2];
	struct tr_turn_hook turn_hook;
	struct post_chain *posts; /* by worker */
	bool posted;
	struct slot_wheel wheel;
	struct tr_timer wheel_timer, housekeeping, sweep_timer, pressure_timer, stop_timer;
	struct tr_sched *active, **active_end;
	struct tr_defer pump_defer;
	struct tr_sched *sweeping;
	pthread_mutex_t home_lock; /* list of the queues at home here, for figures */
	struct tr_sched *homes;
	struct session *sessions;
	struct session *act_open, **act_open_end, *act_wake, **act_wake_end;
	struct tr_defer act_defer;
	struct tr_mail *empty, **empty_end; /* outboxes submitted without content, by change.mail */
	struct tr_defer empty_defer;
	struct slot_list judging;
	bool judge_loading;
	struct slot_list enumerated;      /* recovered, to be shown to spool_message_enumerated; IN_FLIGHT */
	struct slot_list *undecided;      /* by account, TR_ACCOUNTS_MAX of them */
	_Atomic uint32_t undecided_count; /* in all of them */
	uint32_t undecided_account;       /* whose turn it is */
	bool undecided_loading;
	struct slot_list ask_again; /* counted in undecided_of; the housekeeping hands them on */
	/* For want of memory in no queue, or not with the worker of theirs; IN_PARKED. The housekeeping tries again. */
	struct message_list stranded;
	struct slot_list unposted;
	struct tr_mail decide_mail;
	_Atomic bool decide_posted;
	uint64_t unsettled; /* messages with an uncommitted outcome */
	bool started;
	struct release *releases;     /* permit.c: leases on their way back to other nodes */
	struct bounce_sweep *bounces; /* admin.c */
	struct rebind_walk *rebinds;  /* rebind.c */
	struct tr_mail start_mail, stop_mail, hurry_mail, epoch_mail;
	_Atomic bool epoch_posted;
	struct { /* last queue looked up */
		struct tr_sched *sched;
	} last;
};
void worker_post_message(struct tr_worker *from, struct tr_worker *to, struct tr_message *message, const char *reason);
void worker_post_slot(struct tr_worker *from, struct tr_worker *to, uint32_t slot, bool front);
void worker_flush(struct tr_worker *worker); /* what would be posted at the end of the turn */
void worker_arm_wheel(struct tr_worker *worker);
bool worker_check_clock(struct tr_worker *worker); /* before a due time is put into the wheel; true: it was set */
void worker_start(struct tr_worker *worker);
int worker_init(
	struct tr_worker *worker, struct tr_engine *engine, struct tr_loop *loop, uint32_t index, uint64_t seed);
void worker_fini(struct tr_worker *worker);
void worker_decide(struct tr_worker *worker); /* undecided ones */
/* Those of the log, into the order in which they came to be: what keys they will have nobody knows before. */
void worker_undecided_start(struct tr_worker *worker);
void worker_ask_again(struct tr_worker *worker);    /* those whose decision was refused */
void worker_insert_again(struct tr_worker *worker); /* those that were stranded */
void worker_undecided_add(struct tr_worker *worker, uint32_t slot);
struct tr_worker *worker_here(struct tr_engine *engine); /* whose loop runs in this thread; NULL: none */
void worker_stop(struct tr_worker *worker);
void sched_refresh_all(struct tr_worker *worker);

/* --- engine
 * ------------------------------------------------------------------------------------------------------------- */
enum count_kind { IN_LINE, IN_TIMERS, IN_READY, IN_FLIGHT, IN_UNDECIDED, IN_PARKED, COUNT_KINDS };
struct stripe {
	pthread_mutex_t lock;
	struct tr_sched **buckets;
	uint32_t mask, used;
};
struct tr_engine {
	_Atomic uint32_t undecided_of[TR_ACCOUNTS_MAX]; /* records that wait undecided in the spool, by account */
	struct tr_spool *spool;
	struct tr_dead_store *dead;
	struct tr_metric *dead_metric;
	struct tr_queue_ops ops;
	void *ops_arg;
	struct tr_worker *workers;
	uint32_t worker_count;
	struct tr_shaping *shaping, *own_shaping; /* own: made here, freed here */
	uint64_t ready_bytes;
	_Atomic int64_t ready_used;
	_Atomic int64_t counts[COUNT_KINDS];
	_Atomic int64_t sched_total, ready_total, session_total;
	_Atomic int64_t busy; /* sessions, ops, loads: what stop waits for */
	_Atomic bool started, stopping;
	_Atomic uint32_t epoch;
	struct stripe stripes[STRIPES];
	pthread_mutex_t index_lock;
	_Atomic(struct tr_sched **) chunks[CHUNKS];
	uint32_t index_next;
	uint32_t *index_free;
	uint32_t index_free_count, index_free_cap;
	pthread_mutex_t ready_lock;
	struct tr_ready **ready_buckets;
	uint32_t ready_mask;
	pthread_mutex_t source_lock; /* innermost, with no other */
	struct named **sources, **pools;
	struct tr_metric *suspension_metric;
	pthread_mutex_t admin_lock;
	struct admin_rule *rules;
	_Atomic uint32_t rule_count[3];
	/* stop */
	int64_t stop_deadline_ns; /* monotonic */
	void (*stopped)(void *arg);
	void *stopped_arg;
	_Atomic bool stop_told;
	bool hurried; /* worker 0: the deadline was brought nearer */
	struct tr_mail stopped_mail;
	struct tr_metric *sched_metrics[2];
	struct tr_queue_config *fallback; /* for a queue that policy has not answered for */
};
static inline void
count_move(struct tr_engine *engine, enum count_kind from, enum count_kind to, int64_t n)
{
	if (n == 0)
		return;
	atomic_fetch_sub_explicit(&engine->counts[from], n, memory_order_relaxed);
	atomic_fetch_add_explicit(&engine->counts[to], n, memory_order_relaxed);
}
static inline void
count_add(struct tr_engine *engine, enum count_kind kind, int64_t n)
{
	atomic_fetch_add_explicit(&engine->counts[kind], n, memory_order_relaxed);
}
static inline void
busy_add(struct tr_engine *engine)
{
	atomic_fetch_add_explicit(&engine->busy, 1, memory_order_relaxed);
}
void busy_drop(struct tr_engine *engine); /* may tell that the stop is complete */
static inline bool
stopping(const struct tr_engine *engine)
{
	return atomic_load_explicit(&engine->stopping, memory_order_acquire);
}
static inline struct tr_sched *
sched_of(const struct tr_engine *engine, const struct tr_message *message)
{
	return sched_at(engine, tr_spool_stub(engine->spool, message->slot)->queue);
}

#include "queue/admin.h"
#include "queue/outcome.h"

#endif
