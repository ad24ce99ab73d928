/* What may wait of the log records of a scheduled queue: options max_waiting, max_waiting_bytes and overflow of its
 * configuration. Only the queue's home thread calls this. Part of the room. See docs/log-hooks.md. */
#ifndef TR_QUEUE_BUDGET_H
#define TR_QUEUE_BUDGET_H

#include "base/metrics.h"
#include "queue/queue.h"

#define STUB_COUNTED (1 << 15) /* of TR_STUB_OWNERS: its queue's budget counts it */

struct arrival {
	uint32_t slot, seq; /* the low half of its seq: an entry of what has ended is stale */
};
struct budget {
	int64_t count, bytes; /* of records that have not ended, wherever they are */
	/* with overflow = 'shed_oldest': all of them as they came, a ring of cap places; cap is a power of two */
	struct arrival *arrivals;
	uint32_t first, length, cap;
	bool full;                     /* an arrival could not be noted: it is shed when a start has counted anew */
	bool told;                     /* that there is too much; until there is not */
	uint64_t untold;               /* shed since the last line about it */
	int64_t told_at_ns;            /* that line */
	struct tr_metric *shed, *over; /* counter; gauge, 0 or 1 */
};

/* The configuration was set: what waits already is counted, too. */
void budget_set(struct tr_sched *sched);
void budget_free(struct tr_sched *sched);
/* A record came. sched->budget is not NULL. */
void budget_add(struct tr_sched *sched, uint32_t slot);
void budget_left(struct tr_sched *sched, uint32_t size); /* one that was counted has ended */
/* In the pump: sheds what is too much, or tells. */
void budget_check(struct tr_sched *sched);

#endif
