#include "policy/memo.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "policy/policy.h"

struct entry {
	struct entry *chain;         /* of its bucket */
	struct entry *newer, *older; /* by last use */
	uint64_t hash, epoch;
	int64_t expires_ns; /* monotonic */
	bool error;
	size_t key_len, value_len;
	char bytes[]; /* key, value */
};

struct tr_memo {
	struct tr_memo *next;
	int refs; /* under caches_mutex; the list holds one */
	char *name;
	struct tr_memo_config config;
	pthread_mutex_t mutex; /* guards what follows */
	struct entry **buckets;
	size_t bucket_count, count;
	struct entry *newest, *oldest;
	struct tr_metric *lookups, *hits, *misses, *populated;
};

static pthread_mutex_t caches_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct tr_memo *caches;
static _Atomic uint64_t epoch;

uint64_t
tr_config_epoch(void)
{
	return atomic_load(&epoch);
}

uint64_t
tr_config_epoch_bump(void)
{
	return atomic_fetch_add(&epoch, 1) + 1;
}

static void
destroy(struct tr_memo *memo)
{
	for (struct entry *entry = memo->newest, *older; entry != NULL; entry = older) {
		older = entry->older;
		free(entry);
	}
	if (memo->lookups != NULL) {
		tr_metric_unref(memo->lookups);
		tr_metric_unref(memo->hits);
		tr_metric_unref(memo->misses);
		tr_metric_unref(memo->populated);
	}
	pthread_mutex_destroy(&memo->mutex);
	free(memo->buckets);
	free(memo->name);
	free(memo);
}

static void
unref_locked(struct tr_memo *memo)
{
	if (--memo->refs == 0)
		destroy(memo);
}

void
tr_memo_unref(struct tr_memo *memo)
{
	if (memo == NULL)
		return;
	pthread_mutex_lock(&caches_mutex);
	unref_locked(memo);
	pthread_mutex_unlock(&caches_mutex);
}

static struct tr_memo *
make(const char *name, const struct tr_memo_config *config)
{
	struct tr_memo *memo = calloc(1, sizeof *memo);

	if (memo == NULL)
		return NULL;
	pthread_mutex_init(&memo->mutex, NULL);
	memo->config = *config;
	memo->bucket_count = 64; /* a power of two; chains are short up to the usual capacities */
	while (memo->bucket_count < config->capacity && memo->bucket_count < 65536)
		memo->bucket_count *= 2;
	memo->name = strdup(name);
	memo->buckets = calloc(memo->bucket_count, sizeof(struct entry *));
	memo->refs = 1;
	if (memo->name == NULL || memo->buckets == NULL) {
		destroy(memo);
		return NULL;
	}
	memo->lookups = tr_metric_get(
		TR_COUNTER, "memoize_cache_lookup_count", "look-ups in a memoize cache", "cache_name", name, NULL);
	memo->hits = tr_metric_get(
		TR_COUNTER, "memoize_cache_hit_count", "look-ups that found a value", "cache_name", name, NULL);
	memo->misses = tr_metric_get(
		TR_COUNTER, "memoize_cache_miss_count", "look-ups that found none", "cache_name", name, NULL);
	memo->populated = tr_metric_get(TR_COUNTER, "memoize_cache_populated_count", "values put into a memoize cache",
		"cache_name", name, NULL);
	return memo;
}

struct tr_memo *
tr_memo_open(const char *name, const struct tr_memo_config *config)
{
	struct tr_memo *memo, **at;

	pthread_mutex_lock(&caches_mutex);
	for (at = &caches; (memo = *at) != NULL && strcmp(memo->name, name) != 0; at = &memo->next)
		;
	if (memo != NULL &&
		(memo->config.ttl_ns != config->ttl_ns || memo->config.capacity != config->capacity ||
			memo->config.with_epoch != config->with_epoch || memo->config.stale != config->stale)) {
		*at = memo->next;
		unref_locked(memo);
		memo = NULL;
	}
	if (memo == NULL && (memo = make(name, config)) != NULL) {
		memo->next = caches;
		caches = memo;
	}
	if (memo != NULL)
		memo->refs++;
	pthread_mutex_unlock(&caches_mutex);
	return memo;
}

static struct entry **
find(struct tr_memo *memo, uint64_t hash, struct tr_str key)
{
	struct entry **at = &memo->buckets[hash & (memo->bucket_count - 1)];

	while (*at != NULL && ((*at)->hash != hash || !tr_str_eq((struct tr_str){(*at)->bytes, (*at)->key_len}, key)))
		at = &(*at)->chain;
	return at;
}

static void
unlink_use(struct tr_memo *memo, struct entry *entry)
{
	*(entry->newer != NULL ? &entry->newer->older : &memo->newest) = entry->older;
	*(entry->older != NULL ? &entry->older->newer : &memo->oldest) = entry->newer;
}

static void
link_newest(struct tr_memo *memo, struct entry *entry)
{
	entry->newer = NULL;
	entry->older = memo->newest;
	*(memo->newest != NULL ? &memo->newest->newer : &memo->oldest) = entry;
	memo->newest = entry;
}

static void
drop(struct tr_memo *memo, struct entry **at)
{
	struct entry *entry = *at;

	if (entry == NULL)
		return;
	*at = entry->chain;
	unlink_use(memo, entry);
	memo->count--;
	free(entry);
}

enum tr_memo_state
tr_memo_get(struct tr_memo *memo, struct tr_str key, struct tr_buf *out)
{
	enum tr_memo_state state = TR_MEMO_MISS;

	tr_metric_add(memo->lookups, 1);
	pthread_mutex_lock(&memo->mutex);
	struct entry **at = find(memo, tr_hash(key.data, key.len), key);
	struct entry *entry = *at;
	if (entry != NULL) {
		bool fresh = tr_mono_ns() < entry->expires_ns &&
			     (!memo->config.with_epoch || entry->epoch == tr_config_epoch());
		if (fresh)
			state = entry->error ? TR_MEMO_ERROR : TR_MEMO_VALUE;
		else if (memo->config.stale && !entry->error)
			state = TR_MEMO_STALE;
		if (state == TR_MEMO_MISS) {
			drop(memo, at);
		} else {
			unlink_use(memo, entry);
			link_newest(memo, entry);
			tr_buf_add(out, entry->bytes + entry->key_len, entry->value_len);
		}
	}
	pthread_mutex_unlock(&memo->mutex);
	tr_metric_add(state == TR_MEMO_VALUE || state == TR_MEMO_ERROR ? memo->hits : memo->misses, 1);
	return state;
}

int
tr_memo_put(struct tr_memo *memo, struct tr_str key, struct tr_str value, bool error, int64_t ttl_ns)
{
	struct entry *entry = malloc(sizeof *entry + key.len + value.len);

	pthread_mutex_lock(&memo->mutex);
	uint64_t hash = tr_hash(key.data, key.len);
	struct entry **at = find(memo, hash, key);
	if (*at != NULL)
		drop(memo, at);
	if (entry != NULL) {
		if (ttl_ns < 0)
			ttl_ns = memo->config.ttl_ns;
		int64_t now_ns = tr_mono_ns();
		*entry = (struct entry){.hash = hash,
			.epoch = tr_config_epoch(),
			.error = error,
			.key_len = key.len,
			.value_len = value.len};
		entry->expires_ns = ttl_ns > INT64_MAX - now_ns ? INT64_MAX : now_ns + ttl_ns;
		memcpy(entry->bytes, key.data, key.len);
		if (value.len > 0)
			memcpy(entry->bytes + key.len, value.data, value.len);
		while (memo->count >= memo->config.capacity && memo->oldest != NULL) {
			struct entry *old = memo->oldest;
			drop(memo, find(memo, old->hash, (struct tr_str){old->bytes, old->key_len}));
		}
		at = &memo->buckets[hash & (memo->bucket_count - 1)];
		entry->chain = *at;
		*at = entry;
		link_newest(memo, entry);
		memo->count++;
	}
	pthread_mutex_unlock(&memo->mutex);
	tr_metric_add(memo->populated, 1);
	return entry != NULL ? TR_OK : TR_ENOMEM;
}
