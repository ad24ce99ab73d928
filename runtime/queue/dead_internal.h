/* Shared by dead.c and dead_job.c. */
#ifndef TR_DEAD_INTERNAL_H
#define TR_DEAD_INTERNAL_H

#include "base/metrics.h"
#include "queue/dead.h"
#include "queue/engine.h"
#include "queue/slots.h"

#define PREFIX "dead:" /* of the account */
#define NO_ACCOUNT UINT16_MAX

struct dead_work;
struct dead_account {
	struct slot_list list;           /* lock: the oldest first; of a hook's own account: what is parked */
	struct dead_work *owner;         /* lock: the job that goes through it */
	struct dead_work *first, **last; /* lock: those that wait for it, in turn */
	bool unsorted;                   /* lock: some are not in the order of their seq, which pages go by */
	uint64_t bytes;                  /* lock */
	uint16_t other; /* lock: the dead account of a hook's and the reverse; NO_ACCOUNT: not known yet */
	struct tr_dead_bounds bounds; /* lock; of a hook's account */
};
/* Names of the queues that letters came from, so that they go back without being read: stub->order of a letter is the
 * place of its queue here and one; 0: it was never noted, and the letter is read. Names stay: there are few of them. */
#define DEAD_QUEUES_MAX 4096
struct dead_queues {
	char *names[DEAD_QUEUES_MAX];
	uint16_t table[2 * DEAD_QUEUES_MAX]; /* open addressing, by the name: its place and one; 0: free */
	uint32_t count, last;                /* last: the one looked up before */
};
struct tr_dead_store {
	struct tr_spool *spool;
	struct tr_engine *engine; /* NULL: of a stopped spool */
	pthread_mutex_t lock;
	struct tr_metric *refused; /* counter */
	uint64_t trimmed;          /* lock: dropped since the last line about that */
	bool trimming;             /* lock: a change is under way */
	uint64_t count;            /* lock; all letters */
	struct dead_queues queues; /* lock; a name does not change */
	struct dead_account accounts[TR_ACCOUNTS_MAX];
};

/* What is under way: a stop of the engine waits for it, and what can end early should. */
static inline bool
dead_stopping(const struct tr_dead_store *store)
{
	return store->engine != NULL && stopping(store->engine);
}
static inline void
dead_busy_add(struct tr_dead_store *store)
{
	if (store->engine != NULL)
		busy_add(store->engine);
}
static inline void
dead_busy_drop(struct tr_dead_store *store)
{
	if (store->engine != NULL)
		busy_drop(store->engine);
}
static inline bool
dead_is_letter(const struct tr_stub *stub)
{
	return (tr_stub_flags(stub) & TR_MSG_DEAD) != 0;
}
/* When it died, or came. */
static inline int64_t
dead_when_ms(const struct tr_stub *stub)
{
	return dead_is_letter(stub) ? tr_stub_due_ms(stub) : tr_stub_created_ms(stub);
}
/* Name of an account without the prefix; false: there is none. */
bool dead_hook_name(struct tr_dead_store *store, uint16_t account, char out[64]);
int dead_other(struct tr_dead_store *store, uint16_t account, uint16_t *out);
bool dead_is_of(struct tr_dead_store *store, uint16_t account, const char *hook);
/* lock held: takes out the oldest, TR_NO_SLOT: none; puts one back as the oldest */
uint32_t dead_pop(struct tr_dead_store *store, struct dead_account *account);
/* lock held: the letters are in the order of their seq, unless there is no memory for that */
void dead_sort(struct tr_dead_store *store, struct dead_account *account);
/* The queue that a letter came from; NULL: not known without reading it. */
const char *dead_queue(struct tr_dead_store *store, const struct tr_stub *letter);
void dead_put_back(struct tr_dead_store *store, struct dead_account *account, uint32_t slot);

#endif
