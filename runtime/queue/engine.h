/* The engine: what all workers have in common, and the counts of messages by where they are. Part of the room. */
#ifndef TR_QUEUE_ENGINE_H
#define TR_QUEUE_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>

#include "queue/dead.h"
#include "queue/queue.h"

#define OP_MAX 1000 /* messages in one change */
#define HOUSEKEEPING_NS (10 * TR_NS_PER_S)
#define ERROR_TTL_NS (60 * TR_NS_PER_S) /* contract/events.md section 6 */
#define STRIPES 64
#define CHUNK 1024
#define CHUNKS 4096
#define NO_SCHED UINT32_MAX /* stub->queue of what is in no scheduled queue */

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

#endif
