/* Stubs and how they are linked: places, the wheel of timers, lists. Part of the room. */
#ifndef TR_QUEUE_SLOTS_H
#define TR_QUEUE_SLOTS_H

#include "message/message.h"
#include "spool/spool.h"

/* --- what the queues keep in a stub ---------------------------------------------------------------------------------
 */
/* Where a stub waits, for those who take it out of the middle; the home's. */
enum place { PLACE_NONE, PLACE_LINE = 1 << 13, PLACE_WHEEL = 2 << 13, PLACE_BEHIND = 3 << 13, PLACE_MASK = 3 << 13 };
static inline enum place
place_of(const struct tr_stub *stub)
{
	return (enum place)(tr_stub_owners(stub) & PLACE_MASK);
}
static inline void
place_set(struct tr_stub *stub, enum place place)
{
	tr_stub_set_owners(stub, (uint16_t)((tr_stub_owners(stub) & ~PLACE_MASK) | place));
}
/* stub->order: the key of an ordered message, of others their own `expires` in wall seconds. */
static inline void
stub_note(struct tr_stub *stub, const struct tr_message *message)
{
	if (message->flags & TR_MSG_ORDERED)
		stub->order = message->order;
	else
		stub->order = message->schedule != NULL ? (uint32_t)(message->schedule->expires_ms / 1000) : 0;
}

/* --- the wheel of slots ------------------------------------------------------------------------------ */
#define SLOT_LEVELS 5 /* 2^40 ms: 34 years */
#define SLOT_BUCKETS 256
struct slot_wheel { /* own */
	struct tr_spool *spool;
	int64_t now_ms;    /* monotonic ms that it has been run to */
	int64_t offset_ms; /* wall - monotonic at the last rebase */
	uint64_t count;
	uint64_t bits[SLOT_LEVELS][SLOT_BUCKETS / 64]; /* which buckets hold something */
	uint32_t head[SLOT_LEVELS][SLOT_BUCKETS], tail[SLOT_LEVELS][SLOT_BUCKETS];
};
void slot_wheel_init(struct slot_wheel *wheel, struct tr_spool *spool);
void slot_wheel_add(struct slot_wheel *wheel, uint32_t slot);
/* Earliest monotonic ms at which something may be due; INT64_MAX: empty. */
int64_t slot_wheel_next_ms(const struct slot_wheel *wheel);
/* Unlinks one that is due at now_ms, or TR_NO_SLOT. */
uint32_t slot_wheel_pop(struct slot_wheel *wheel, int64_t now_ms);
/* The wall clock was stepped: all due times are placed anew. */
void slot_wheel_rebase(struct slot_wheel *wheel, int64_t offset_ms);
/* The wall clock was set: as rebase, but a retry comes after the delay that it was given; only what was never tried (a
 * date of its own) keeps to the clock. */
void slot_wheel_step(struct slot_wheel *wheel, int64_t offset_ms);
void slot_wheel_remove(struct slot_wheel *wheel, uint32_t slot); /* one that is PLACE_WHEEL */
/* Takes all of a bucket (level, index) out as a list by stub->next; TR_NO_SLOT: empty. */
uint32_t slot_wheel_detach(struct slot_wheel *wheel, uint32_t level, uint32_t index);

/* --- lists of slots -------------------------------------------------------------------- */
struct slot_list { /* by stub->next */
	uint32_t head, tail, count;
};
#define SLOT_LIST_EMPTY ((struct slot_list){TR_NO_SLOT, TR_NO_SLOT, 0})
void slots_add(struct tr_spool *spool, struct slot_list *list, uint32_t slot);
void slots_add_front(struct tr_spool *spool, struct slot_list *list, uint32_t slot);
void slots_remove(struct tr_spool *spool, struct slot_list *list, uint32_t slot); /* needs prev */
uint32_t slots_pop(struct tr_spool *spool, struct slot_list *list);
/* By seq: the order in which they came to be. The log's is another one where something was copied forward, or came from
 * two workers. false: no memory, the order stays. */
bool slots_sort(struct tr_spool *spool, struct slot_list *list);

#endif
