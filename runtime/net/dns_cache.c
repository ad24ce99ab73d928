#include "net/dns_cache.h"

#include <pthread.h>
#include <stdlib.h>

#define STRIPES 16

struct entry {
	struct entry *hash_next;
	struct entry *older, *newer; /* by use */
	struct tr_dns_item *item;
	uint64_t hash;
	uint32_t kind;
	char name[];
};

struct stripe {
	pthread_mutex_t lock;
	struct entry **buckets; /* NULL until the first put */
	struct entry *oldest, *newest;
	uint32_t count;
};

struct tr_dns_cache {
	uint32_t most, mask; /* of a stripe */
	struct stripe stripes[STRIPES];
};

int
tr_dns_cache_new(uint32_t most, struct tr_dns_cache **out)
{
	struct tr_dns_cache *cache = calloc(1, sizeof *cache);

	*out = cache;
	if (cache == NULL)
		return TR_ENOMEM;
	cache->most = most / STRIPES + (most % STRIPES != 0);
	for (cache->mask = 1; cache->mask < cache->most && cache->mask < 1u << 20; cache->mask *= 2)
		;
	cache->mask--;
	for (int i = 0; i < STRIPES; i++)
		pthread_mutex_init(&cache->stripes[i].lock, NULL);
	return TR_OK;
}

static void
unlink_use(struct stripe *stripe, struct entry *entry)
{
	*(entry->older != NULL ? &entry->older->newer : &stripe->oldest) = entry->newer;
	*(entry->newer != NULL ? &entry->newer->older : &stripe->newest) = entry->older;
}

static void
link_use(struct stripe *stripe, struct entry *entry)
{
	entry->newer = NULL;
	entry->older = stripe->newest;
	*(stripe->newest != NULL ? &stripe->newest->newer : &stripe->oldest) = entry;
	stripe->newest = entry;
}

/* Out of the stripe; its item is the caller's to unref. */
static struct tr_dns_item *
take_out(struct tr_dns_cache *cache, struct stripe *stripe, struct entry *entry)
{
	struct entry **at = &stripe->buckets[entry->hash / STRIPES & cache->mask];
	struct tr_dns_item *item = entry->item;

	while (*at != entry)
		at = &(*at)->hash_next;
	*at = entry->hash_next;
	unlink_use(stripe, entry);
	stripe->count--;
	free(entry);
	return item;
}

void
tr_dns_cache_free(struct tr_dns_cache *cache)
{
	if (cache == NULL)
		return;
	for (int i = 0; i < STRIPES; i++) {
		struct stripe *stripe = &cache->stripes[i];

		while (stripe->oldest != NULL)
			tr_dns_item_unref(take_out(cache, stripe, stripe->oldest));
		free(stripe->buckets);
		pthread_mutex_destroy(&stripe->lock);
	}
	free(cache);
}

static uint64_t
hash_of(uint32_t kind, const char *name)
{
	return tr_hash(name, strlen(name)) ^ (uint64_t)kind * UINT64_C(0x9e3779b97f4a7c15);
}

static struct entry *
find(const struct tr_dns_cache *cache, const struct stripe *stripe, uint64_t hash, uint32_t kind, const char *name)
{
	struct entry *entry = stripe->buckets != NULL ? stripe->buckets[hash / STRIPES & cache->mask] : NULL;

	while (entry != NULL && (entry->hash != hash || entry->kind != kind || strcmp(entry->name, name) != 0))
		entry = entry->hash_next;
	return entry;
}

void *
tr_dns_cache_get(struct tr_dns_cache *cache, uint32_t kind, const char *name, int64_t now_ns)
{
	uint64_t hash = hash_of(kind, name);
	struct stripe *stripe = &cache->stripes[hash % STRIPES];
	struct tr_dns_item *item = NULL, *old = NULL;
	struct entry *entry;

	pthread_mutex_lock(&stripe->lock);
	entry = find(cache, stripe, hash, kind, name);
	if (entry != NULL && entry->item->expires_ns <= now_ns) {
		old = take_out(cache, stripe, entry);
	} else if (entry != NULL) {
		item = tr_dns_item_ref(entry->item);
		unlink_use(stripe, entry);
		link_use(stripe, entry);
	}
	pthread_mutex_unlock(&stripe->lock);
	tr_dns_item_unref(old);
	return item;
}

void
tr_dns_cache_put(struct tr_dns_cache *cache, uint32_t kind, const char *name, struct tr_dns_item *item)
{
	uint64_t hash = hash_of(kind, name);
	struct stripe *stripe = &cache->stripes[hash % STRIPES];
	size_t len = strlen(name) + 1;
	struct tr_dns_item *old = NULL;
	struct entry *entry, *fresh;

	if (cache->most == 0)
		return;
	fresh = calloc(1, sizeof *fresh + len);
	if (fresh == NULL)
		return;
	memcpy(fresh->name, name, len);
	fresh->hash = hash;
	fresh->kind = kind;
	fresh->item = tr_dns_item_ref(item);
	pthread_mutex_lock(&stripe->lock);
	if (stripe->buckets == NULL)
		stripe->buckets = calloc((size_t)cache->mask + 1, sizeof(struct entry *));
	if (stripe->buckets == NULL) {
		pthread_mutex_unlock(&stripe->lock);
		tr_dns_item_unref(fresh->item);
		free(fresh);
		return;
	}
	entry = find(cache, stripe, hash, kind, name);
	if (entry != NULL)
		old = take_out(cache, stripe, entry);
	else if (stripe->count >= cache->most)
		old = take_out(cache, stripe, stripe->oldest);
	fresh->hash_next = stripe->buckets[hash / STRIPES & cache->mask];
	stripe->buckets[hash / STRIPES & cache->mask] = fresh;
	link_use(stripe, fresh);
	stripe->count++;
	pthread_mutex_unlock(&stripe->lock);
	tr_dns_item_unref(old);
}

uint32_t
tr_dns_cache_count(struct tr_dns_cache *cache)
{
	uint32_t count = 0;

	for (int i = 0; i < STRIPES; i++) {
		pthread_mutex_lock(&cache->stripes[i].lock);
		count += cache->stripes[i].count;
		pthread_mutex_unlock(&cache->stripes[i].lock);
	}
	return count;
}
