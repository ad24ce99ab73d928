/* A ready queue, and what holds its sessions back. Part of the room. Who may touch what is said at each field: `home`:
 * only its home worker; `lock`: under the lock named. */
#ifndef TR_QUEUE_READY_H
#define TR_QUEUE_READY_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/metrics.h"
#include "queue/lane.h"

/* --- limits: what holds sessions back beside connection_limit (limits.c, permit.c, pace.c) ------------ */
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

/* --- ready queue ---------------------------------------------------------------------------------------------- */
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

#endif
