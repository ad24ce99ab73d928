/* Records that keep an order: of those of a scheduled queue with one key (TR_MSG_ORDERED) one is under way, wherever it
 * is - in the line, on a timer, in a ready queue, with a session -, and the others wait behind it as stubs, in no line.
 * Only the queue's home thread calls this. Part of the room. */
#ifndef TR_QUEUE_ORDER_H
#define TR_QUEUE_ORDER_H

#include "queue/queue.h"

struct order_key {
	uint32_t hash; /* of the key, stub->order; 0: a free place. Two keys with one hash are as one */
	uint32_t head; /* the first that waits; its stub->prev is the last one */
	uint64_t seq;  /* of the one that is under way; 0: none yet, before order_start() */
};
struct order {
	struct order_key *keys; /* mask + 1 of them; open addressing */
	uint32_t mask, used;
	uint32_t at; /* where order_take() goes on */
};

/* True: it goes on, and the key is its own; also of one that comes back. False: another one is under way. */
bool order_try(struct tr_sched *sched, uint32_t slot);
/* It waits behind that one from now on; the caller counts it as IN_LINE. */
void order_wait(struct tr_sched *sched, uint32_t slot);
/* The record of that key that was under way has ended, or left the queue: the next goes on. */
void order_release(struct tr_sched *sched, uint32_t hash, uint64_t seq);
/* Takes out one that waits behind another one; TR_NO_SLOT: none. Counted IN_LINE still. */
uint32_t order_take(struct tr_sched *sched);
void order_remove(struct tr_sched *sched, uint32_t slot); /* the same with that one */
/* Up to max of them. */
uint32_t order_list(const struct tr_sched *sched, uint32_t *slots, uint32_t max);
/* Start-up: each recovered record of a key, in any order; then order_start() lets the oldest of each key go on. claim:
 * one that is on its way through policy, and will come back by order_try(). */
void order_recover(struct tr_sched *sched, uint32_t slot);
void order_claim(struct tr_sched *sched, uint32_t slot);
void order_start(struct tr_sched *sched);
void order_free(struct tr_sched *sched);

/* --- those that leave ------------------------------------------------------------------------------------------- */
/* What a change ends may hold a key: its home is told once that is committed. */
struct leaver {
	struct tr_sched *sched; /* referenced */
	uint64_t seq;
	uint32_t hash; /* 0: it has no key */
	uint32_t size; /* stored bytes, if its queue counts it (budget.c); else 0 */
	uint32_t slot; /* for a refusal */
};
struct leavers { /* of one home */
	struct tr_mail mail;
	struct tr_worker *home;
	struct leavers *next;
	uint32_t count, cap;
	struct leaver items[];
};
/* A record of `sched` ends or leaves it by the change that is being made. *list is one block for each home. TR_OK,
 * TR_ENOMEM. */
int leavers_add(struct leavers **list, struct tr_sched *sched, uint32_t slot);
/* Committed: keys are released. `here`: the caller's worker. */
void leavers_go(struct leavers *list, struct tr_worker *here);
void leavers_drop(struct leavers *list, struct tr_spool *spool); /* refused: all stay */

#endif
