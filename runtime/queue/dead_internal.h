/* Shared by dead.c and dead_job.c. */
#ifndef TR_DEAD_INTERNAL_H
#define TR_DEAD_INTERNAL_H

#include "queue/dead.h"
#include "queue/internal.h"

#define PREFIX "dead:" /* of the account */
#define NO_ACCOUNT UINT16_MAX

struct dead_account {
	struct slot_list list; /* lock: the oldest first */
	uint64_t bytes;        /* lock */
	uint16_t other;        /* lock: the dead account of a hook's and the reverse; NO_ACCOUNT: not known yet */
	struct tr_dead_bounds bounds; /* lock; of a hook's account */
};
struct tr_dead_store {
	struct tr_spool *spool;
	pthread_mutex_t lock;
	uint64_t count; /* lock; all */
	struct dead_account accounts[TR_ACCOUNTS_MAX];
};

int dead_other(struct tr_dead_store *store, uint16_t account, uint16_t *out);
bool dead_is_of(struct tr_dead_store *store, uint16_t account, const char *hook);
/* lock held: takes out the oldest, TR_NO_SLOT: none; puts one back as the oldest */
uint32_t dead_pop(struct tr_dead_store *store, struct dead_account *account);
void dead_put_back(struct tr_dead_store *store, struct dead_account *account, uint32_t slot);

#endif
