/* The object of one process, and the tables of its named things. */
#include <stdlib.h>
#include <string.h>

#include "shaping/internal.h"

int
tr_shaping_new(struct tr_shaping **out)
{
	struct tr_shaping *shaping = calloc(1, sizeof *shaping);

	*out = NULL;
	if (shaping == NULL)
		return TR_ENOMEM;
	if (table_init(&shaping->throttles) != TR_OK) {
		free(shaping);
		return TR_ENOMEM;
	}
	if (table_init(&shaping->leases) != TR_OK) {
		table_fini(&shaping->throttles, NULL);
		free(shaping);
		return TR_ENOMEM;
	}
	*out = shaping;
	return TR_OK;
}

void
tr_shaping_free(struct tr_shaping *shaping)
{
	if (shaping == NULL)
		return;
	const struct tr_shaping_backend *backend = tr_shaping_backend(shaping);
	if (backend != NULL && backend->free != NULL)
		backend->free(backend->arg);
	table_fini(&shaping->throttles, free);
	table_fini(&shaping->leases, lease_set_destroy);
	free(shaping);
}

void
tr_shaping_set_backend(struct tr_shaping *shaping, const struct tr_shaping_backend *backend)
{
	atomic_store_explicit(&shaping->backend, backend, memory_order_release);
}

const struct tr_shaping_backend *
tr_shaping_backend(const struct tr_shaping *shaping)
{
	return atomic_load_explicit(&shaping->backend, memory_order_acquire);
}

void
tr_shaping_close(struct tr_shaping *shaping)
{
	atomic_store_explicit(&shaping->closing, true, memory_order_relaxed);
}

bool
tr_shaping_is_closing(const struct tr_shaping *shaping)
{
	return atomic_load_explicit(&shaping->closing, memory_order_relaxed);
}

/* --- tables ------------------------------------------------------------------------------------- */

#define FIRST_BUCKETS 8

static uint32_t
hash_key(struct tr_str key, char tag)
{
	uint64_t hash = 0xcbf29ce484222325 ^ (uint8_t)tag; /* FNV-1a: keys are short and come from configuration */

	for (size_t i = 0; i < key.len; i++)
		hash = (hash ^ (uint8_t)key.data[i]) * 0x100000001b3;
	return (uint32_t)(hash ^ (hash >> 32));
}

int
table_init(struct table *table)
{
	memset(table, 0, sizeof *table);
	for (int i = 0; i < STRIPES; i++) {
		struct stripe *stripe = &table->stripe[i];

		stripe->buckets = calloc(FIRST_BUCKETS, sizeof(struct named *));
		stripe->mask = FIRST_BUCKETS - 1;
		if (stripe->buckets == NULL) {
			while (i-- > 0) {
				pthread_mutex_destroy(&table->stripe[i].lock);
				free((void *)table->stripe[i].buckets);
			}
			return TR_ENOMEM;
		}
		pthread_mutex_init(&stripe->lock, NULL);
	}
	return TR_OK;
}

void
table_fini(struct table *table, void (*destroy)(void *thing))
{
	for (int i = 0; i < STRIPES; i++) {
		struct stripe *stripe = &table->stripe[i];

		for (uint32_t at = 0; at <= stripe->mask; at++) {
			while (stripe->buckets[at] != NULL) {
				struct named *thing = stripe->buckets[at];

				stripe->buckets[at] = thing->next;
				destroy(thing);
			}
		}
		free((void *)stripe->buckets);
		pthread_mutex_destroy(&stripe->lock);
	}
}

static struct stripe *
stripe_of(struct table *table, uint32_t hash)
{
	return &table->stripe[hash % STRIPES];
}

static struct named **
bucket_of(struct stripe *stripe, uint32_t hash)
{
	return &stripe->buckets[hash / STRIPES & stripe->mask];
}

/* Without memory the buckets stay as they are: slower, and right. */
static void
grow(struct stripe *stripe)
{
	uint32_t mask = stripe->mask * 2 + 1;
	struct named **old = stripe->buckets, **buckets = calloc((size_t)mask + 1, sizeof(struct named *));

	if (buckets == NULL)
		return;
	stripe->buckets = buckets;
	for (uint32_t at = 0; at <= stripe->mask; at++) {
		for (struct named *thing = old[at], *next; thing != NULL; thing = next) {
			struct named **bucket = &buckets[thing->hash / STRIPES & mask];

			next = thing->next;
			thing->next = *bucket;
			*bucket = thing;
		}
	}
	stripe->mask = mask;
	free((void *)old);
}

/* Two buckets a new entry: what nobody refers to and need not be kept is gone before the table has grown by half. */
static void
sweep(struct stripe *stripe, const struct kind *kind)
{
	for (int i = 0; i < 2; i++) {
		struct named **link = &stripe->buckets[stripe->sweep_at++ & stripe->mask];

		while (*link != NULL) {
			struct named *thing = *link;

			if (atomic_load_explicit(&thing->refs, memory_order_acquire) > 0 || kind->keep(thing)) {
				link = &thing->next;
				continue;
			}
			*link = thing->next;
			stripe->count--;
			kind->destroy(thing);
		}
	}
}

struct named *
table_get(struct table *table, const struct kind *kind, struct tr_str key, char tag, const void *seed)
{
	uint32_t hash = hash_key(key, tag);
	struct stripe *stripe = stripe_of(table, hash);
	struct named *thing;

	pthread_mutex_lock(&stripe->lock);
	for (thing = *bucket_of(stripe, hash); thing != NULL; thing = thing->next) {
		if (thing->hash == hash && thing->tag == tag && thing->key_len == key.len &&
			memcmp(thing->key, key.data, key.len) == 0) {
			atomic_fetch_add_explicit(&thing->refs, 1, memory_order_relaxed);
			goto done;
		}
	}
	sweep(stripe, kind);
	thing = kind->make(key, seed);
	if (thing == NULL)
		goto done;
	if (stripe->count > stripe->mask)
		grow(stripe);
	thing->stripe = stripe;
	thing->hash = hash;
	thing->tag = tag;
	atomic_init(&thing->refs, 1);
	thing->next = *bucket_of(stripe, hash);
	*bucket_of(stripe, hash) = thing;
	stripe->count++;
done:
	pthread_mutex_unlock(&stripe->lock);
	return thing;
}

void
named_unref(struct named *thing, const struct kind *kind)
{
	struct stripe *stripe = thing->stripe;
	uint32_t refs = atomic_load_explicit(&thing->refs, memory_order_relaxed);

	while (refs > 1) {
		if (atomic_compare_exchange_weak_explicit(
			    &thing->refs, &refs, refs - 1, memory_order_release, memory_order_relaxed))
			return;
	}
	pthread_mutex_lock(&stripe->lock); /* nobody can find it while its last reference goes */
	if (atomic_fetch_sub_explicit(&thing->refs, 1, memory_order_acq_rel) == 1 && !kind->keep(thing)) {
		struct named **link = bucket_of(stripe, thing->hash);

		while (*link != thing)
			link = &(*link)->next;
		*link = thing->next;
		stripe->count--;
		kind->destroy(thing);
	}
	pthread_mutex_unlock(&stripe->lock);
}

size_t
table_count(struct table *table)
{
	size_t count = 0;

	for (int i = 0; i < STRIPES; i++) {
		pthread_mutex_lock(&table->stripe[i].lock);
		count += table->stripe[i].count;
		pthread_mutex_unlock(&table->stripe[i].lock);
	}
	return count;
}
