/* What the files of runtime/shaping share. */
#ifndef TR_SHAPING_INTERNAL_H
#define TR_SHAPING_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "shaping/shaping.h"

#define STRIPES 16

/* First member of what stands in a table. */
struct named {
	struct named *next;    /* of its bucket */
	struct stripe *stripe; /* whose lock guards the table around it */
	_Atomic uint32_t refs; /* 0 becomes 1, and 1 becomes 0, under that lock only */
	uint32_t hash;
	uint32_t key_len;
	char tag;        /* a part of the key: 'l' local, 's' shared once there is a backend */
	const char *key; /* key_len bytes and a NUL, in the thing's own memory */
};

struct stripe {
	pthread_mutex_t lock;
	struct named **buckets; /* mask + 1 of them */
	uint32_t mask, count;
	uint32_t sweep_at; /* the bucket that the next new entry sweeps */
};

struct table {
	struct stripe stripe[STRIPES]; /* by hash */
};

struct kind {
	struct named *(*make)(struct tr_str key, const void *seed); /* sets key and key_len; NULL: no memory */
	bool (*keep)(struct named *thing); /* it has state that must outlive its last reference */
	void (*destroy)(void *thing);
};

struct tr_shaping {
	struct table throttles, leases;
	const struct tr_shaping_backend *_Atomic backend;
	_Atomic bool closing;
};

int table_init(struct table *table); /* TR_OK; TR_ENOMEM: nothing to undo */
/* destroy() may be NULL for an empty table. */
void table_fini(struct table *table, void (*destroy)(void *thing));
/* With a reference for the caller; NULL: no memory. */
struct named *table_get(struct table *table, const struct kind *kind, struct tr_str key, char tag, const void *seed);
void named_unref(struct named *thing, const struct kind *kind);
size_t table_count(struct table *table); /* for tests */

void lease_set_destroy(void *thing);

#endif
