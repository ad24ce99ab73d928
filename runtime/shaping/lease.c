/* Named sets of concurrent uses: a counter, and those who wait for a place. */
#include <stdlib.h>
#include <string.h>

#include "shaping/internal.h"

struct tr_lease_set {
	struct named named;
	const struct tr_shaping *shaping;
	_Atomic uint64_t held;
	_Atomic uint32_t waiting;  /* in the list; written under the lock */
	_Atomic uint32_t promised; /* places kept for those who were told */
	pthread_mutex_t lock;      /* guards the list; told() runs under it */
	struct tr_lease_waiter *first, **last;
	char key[];
};

static struct named *
make(struct tr_str key, const void *seed)
{
	struct tr_lease_set *set = calloc(1, sizeof *set + key.len + 1);

	if (set == NULL)
		return NULL;
	memcpy(set->key, key.data, key.len);
	set->shaping = seed;
	set->last = &set->first;
	pthread_mutex_init(&set->lock, NULL);
	set->named.key = set->key;
	set->named.key_len = (uint32_t)key.len;
	return &set->named;
}

static bool
keep(struct named *named)
{
	return atomic_load_explicit(&((struct tr_lease_set *)named)->held, memory_order_relaxed) > 0;
}

void
lease_set_destroy(void *thing)
{
	struct tr_lease_set *set = thing;

	pthread_mutex_destroy(&set->lock);
	free(set);
}

static const struct kind kind = {.make = make, .keep = keep, .destroy = lease_set_destroy};

int
tr_lease_set_get(struct tr_shaping *shaping, struct tr_str name, bool local, struct tr_lease_set **out)
{
	*out = (struct tr_lease_set *)table_get(&shaping->leases, &kind, name, local ? 'l' : 's', shaping);
	return *out != NULL ? TR_OK : TR_ENOMEM;
}

struct tr_lease_set *
tr_lease_set_ref(struct tr_lease_set *set)
{
	atomic_fetch_add_explicit(&set->named.refs, 1, memory_order_relaxed);
	return set;
}

void
tr_lease_set_unref(struct tr_lease_set *set)
{
	if (set != NULL)
		named_unref(&set->named, &kind);
}

struct tr_str
tr_lease_set_name(const struct tr_lease_set *set)
{
	return (struct tr_str){set->named.key, set->named.key_len};
}

bool
tr_lease_set_is_shared(const struct tr_lease_set *set)
{
	return set->named.tag == 's' && tr_shaping_backend(set->shaping) != NULL;
}

uint64_t
tr_lease_set_count(const struct tr_lease_set *set)
{
	return atomic_load_explicit(&set->held, memory_order_relaxed);
}

static bool
acquire(struct tr_lease_set *set, uint64_t limit)
{
	uint64_t held = atomic_load_explicit(&set->held, memory_order_relaxed);

	do {
		if (held >= limit)
			return false;
	} while (!atomic_compare_exchange_weak(&set->held, &held, held + 1));
	return true;
}

bool
tr_lease_acquire(struct tr_lease_set *set, uint64_t limit)
{
	/* while a place is kept for somebody the others stand in line, though there may be more: so they take turns */
	if (limit != UINT64_MAX && atomic_load(&set->promised) > 0)
		return false;
	return acquire(set, limit);
}

static void
take_out(struct tr_lease_set *set, struct tr_lease_waiter *waiter)
{
	*waiter->prev = waiter->next;
	if (waiter->next != NULL)
		waiter->next->prev = waiter->prev;
	else
		set->last = waiter->prev;
	waiter->queued = false;
	atomic_fetch_sub(&set->waiting, 1);
}

void
tr_lease_tell(struct tr_lease_set *set)
{
	if (atomic_load(&set->waiting) == 0)
		return;
	pthread_mutex_lock(&set->lock);
	uint64_t held = atomic_load(&set->held) + atomic_load(&set->promised);
	for (struct tr_lease_waiter *waiter = set->first; waiter != NULL; waiter = waiter->next) {
		if (held < waiter->limit) { /* one who could not take it would leave the others asleep */
			take_out(set, waiter);
			if (waiter->promise)
				atomic_fetch_add(&set->promised, 1);
			waiter->told(waiter);
			break;
		}
	}
	pthread_mutex_unlock(&set->lock);
}

void
tr_lease_release(struct tr_lease_set *set)
{
	/* Sequentially consistent with `waiting` in tr_lease_wait(): either the waiter sees the free place (or that
	 * nothing is promised any more), or the waiter is seen here. */
	atomic_fetch_sub(&set->held, 1);
	tr_lease_tell(set);
}

bool
tr_lease_claim(struct tr_lease_set *set, uint64_t limit)
{
	bool got;

	atomic_fetch_sub(&set->promised, 1);
	got = acquire(set, limit);
	tr_lease_tell(set);
	return got;
}

void
tr_lease_decline(struct tr_lease_set *set)
{
	atomic_fetch_sub(&set->promised, 1);
	tr_lease_tell(set);
}

bool
tr_lease_wait(struct tr_lease_set *set, uint64_t limit, struct tr_lease_waiter *waiter)
{
	bool full;

	pthread_mutex_lock(&set->lock);
	if (!waiter->queued) {
		waiter->next = NULL;
		waiter->prev = set->last;
		*set->last = waiter;
		set->last = &waiter->next;
		waiter->queued = true;
		atomic_fetch_add(&set->waiting, 1);
	}
	waiter->limit = limit;
	full = atomic_load(&set->promised) > 0 || atomic_load(&set->held) >= limit;
	if (!full)
		take_out(set, waiter);
	pthread_mutex_unlock(&set->lock);
	return full;
}

void
tr_lease_unwait(struct tr_lease_set *set, struct tr_lease_waiter *waiter)
{
	pthread_mutex_lock(&set->lock);
	if (waiter->queued)
		take_out(set, waiter);
	pthread_mutex_unlock(&set->lock);
}
