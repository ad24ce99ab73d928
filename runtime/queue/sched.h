/* A scheduled queue: its line and timers, its rate, its way to the ready queues. Part of the room. Who may touch what
 * is said at each field: `home`: only its home worker; `lock`: under the lock named. */
#ifndef TR_QUEUE_SCHED_H
#define TR_QUEUE_SCHED_H

#include "queue/engine.h"
#include "queue/lane.h"
#include "queue/slots.h"

#define LOAD_MAX 512  /* messages in one load */
#define JUDGE_MAX 256 /* messages in one load that only ends or moves them */
#define FRESH_MAX 64  /* messages kept in memory while the path is being resolved */

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
static inline struct tr_sched *
sched_of(const struct tr_engine *engine, const struct tr_message *message)
{
	return sched_at(engine, tr_spool_stub(engine->spool, message->slot)->queue);
}
struct tr_queue_config *sched_config_ref(struct tr_sched *sched);
void sched_resolve(struct tr_sched *sched);
void sched_refresh_all(struct tr_worker *worker);
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
bool site_needed(const struct tr_sched *sched); /* it has a configuration */

#endif
