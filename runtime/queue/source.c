/* Sources and pools: the process-wide cache of what policy says about them. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "queue/engine.h"
#include "queue/sched.h"
#include "queue/worker.h"

#define TTL_MIN_NS TR_NS_PER_S /* a ttl of 0 would ask without end */
#define FORGET_NS (600 * TR_NS_PER_S)
#define ASK_MAX 16 /* sources asked for in one go */

/* --- tables -------------------------------------------------------------------------------------------------- */

static struct named **
bucket_of(struct named **table, struct tr_str name)
{
	return &table[tr_hash(name.data, name.len) % NAMED_BUCKETS];
}

/* The entry of that name; made, of `size` bytes, if there is none. NULL: no memory. */
static struct named *
entry_locked(struct tr_engine *engine, struct named **table, struct tr_str name, size_t size)
{
	struct named **bucket = bucket_of(table, name), *entry;

	for (entry = *bucket; entry != NULL; entry = entry->next) {
		if (tr_str_eq(tr_str(entry->name), name))
			return entry;
	}
	entry = calloc(1, size);
	if (entry == NULL)
		return NULL;
	entry->engine = engine;
	entry->name = strndup(name.len > 0 ? name.data : "", name.len);
	if (entry->name == NULL) {
		free(entry);
		return NULL;
	}
	entry->next = *bucket;
	*bucket = entry;
	return entry;
}

static struct tr_source *
source_locked(struct tr_engine *engine, struct tr_str name)
{
	return (struct tr_source *)entry_locked(engine, engine->sources, name, sizeof(struct tr_source));
}

static struct tr_pool *
pool_locked(struct tr_engine *engine, struct tr_str name)
{
	return (struct tr_pool *)entry_locked(engine, engine->pools, name, sizeof(struct tr_pool));
}

static void
source_free(struct tr_source *source)
{
	tr_source_config_unref(source->config);
	free(source->failed_at_ns);
	free(source->named.error);
	free(source->named.name);
	free(source);
}

static void
pool_free(struct tr_pool *pool)
{
	tr_pool_config_unref(pool->config);
	free(pool->named.error);
	free(pool->named.name);
	free(pool);
}

struct tr_source *
source_get(struct tr_engine *engine, struct tr_str name)
{
	struct tr_source *source;

	pthread_mutex_lock(&engine->source_lock);
	source = source_locked(engine, name);
	if (source != NULL)
		atomic_fetch_add_explicit(&source->refs, 1, memory_order_relaxed);
	pthread_mutex_unlock(&engine->source_lock);
	return source;
}

struct tr_source *
source_ref(struct tr_source *source)
{
	if (source != NULL)
		atomic_fetch_add_explicit(&source->refs, 1, memory_order_relaxed);
	return source;
}

void
source_unref(struct tr_source *source)
{
	if (source != NULL)
		atomic_fetch_sub_explicit(&source->refs, 1, memory_order_release); /* the housekeeping frees it */
}

void
sources_housekeeping(struct tr_engine *engine)
{
	int64_t now_ns = tr_mono_ns();

	pthread_mutex_lock(&engine->source_lock);
	for (uint32_t i = 0; i < NAMED_BUCKETS; i++) {
		for (struct named **at = &engine->sources[i]; *at != NULL;) {
			struct tr_source *source = (struct tr_source *)*at;

			if (source->named.asking || now_ns < source->named.until_ns + FORGET_NS ||
				atomic_load_explicit(&source->refs, memory_order_acquire) != 0) {
				at = &source->named.next;
				continue;
			}
			*at = source->named.next;
			source_free(source);
		}
		for (struct named **at = &engine->pools[i]; *at != NULL;) {
			struct tr_pool *pool = (struct tr_pool *)*at;

			if (pool->named.asking || now_ns < pool->named.until_ns + FORGET_NS ||
				atomic_load_explicit(&pool->refs, memory_order_acquire) != 0) {
				at = &pool->named.next;
				continue;
			}
			*at = pool->named.next;
			pool_free(pool);
		}
	}
	pthread_mutex_unlock(&engine->source_lock);
}

int
sources_init(struct tr_engine *engine)
{
	pthread_mutex_init(&engine->source_lock, NULL);
	engine->sources = calloc(NAMED_BUCKETS, sizeof *engine->sources);
	engine->pools = calloc(NAMED_BUCKETS, sizeof *engine->pools);
	return engine->sources != NULL && engine->pools != NULL ? TR_OK : TR_ENOMEM;
}

void
sources_free(struct tr_engine *engine)
{
	for (uint32_t i = 0; i < NAMED_BUCKETS; i++) {
		while (engine->sources != NULL && engine->sources[i] != NULL) {
			struct named *source = engine->sources[i];

			engine->sources[i] = source->next;
			source_free((struct tr_source *)source);
		}
		while (engine->pools != NULL && engine->pools[i] != NULL) {
			struct named *pool = engine->pools[i];

			engine->pools[i] = pool->next;
			pool_free((struct tr_pool *)pool);
		}
	}
	free(engine->sources);
	free(engine->pools);
	pthread_mutex_destroy(&engine->source_lock);
}

/* --- resolving ------------------------------------------------------------------------------------------------ */

enum known { KNOWN, ASK, WAIT, FAILED };

static enum known
known_locked(const struct named *entry, int64_t now_ns)
{
	if (entry->asking)
		return WAIT;
	if (now_ns >= entry->until_ns)
		return ASK;
	return entry->error != NULL ? FAILED : KNOWN;
}

static void
wait_arrived(struct tr_mail *mail)
{
	pool_resolve(tr_container_of(mail, struct tr_sched, pool_mail));
}

static void
wait_locked(struct named *entry, struct tr_sched *sched)
{
	sched->pool_mail.fn = wait_arrived;
	sched->pool_next = entry->waiters;
	entry->waiters = sched;
}

static char *
error_of(const char *kind, const char *name, const char *why)
{
	struct tr_buf text = {0};

	tr_buf_addf(&text, "%s '%s': %s", kind, name, why);
	tr_buf_addc(&text, '\0');
	if (text.failed) {
		tr_buf_free(&text);
		return NULL;
	}
	return text.data;
}

/* One look at the pool and its sources: how it stands; for ASK with whom to ask, marked as asked. */
static enum known
look(struct tr_sched *sched, struct tr_pool **ask_pool, struct tr_source **ask_sources, uint32_t *asks,
	struct tr_pool_config **found, char **error)
{
	struct tr_engine *engine = sched->engine;
	int64_t now_ns = tr_mono_ns();
	struct tr_pool *pool = pool_locked(engine, tr_str(sched->pending->egress_pool));
	struct named *wait = NULL;
	enum known known = pool == NULL ? FAILED : known_locked(&pool->named, now_ns);

	*asks = 0;
	*ask_pool = NULL;
	switch (known) {
	case ASK:
		pool->named.asking = true;
		*ask_pool = pool;
		return ASK;
	case WAIT:
		wait_locked(&pool->named, sched);
		return WAIT;
	case FAILED:
		*error = error_of(
			"egress_pool", sched->pending->egress_pool, pool != NULL ? pool->named.error : "out of memory");
		return FAILED;
	case KNOWN:
		break;
	}
	for (uint32_t i = 0; i < pool->config->count; i++) {
		const char *name = pool->config->entries[i].name;
		struct tr_source *source;

		if (strcmp(name, "unspecified") == 0)
			continue;
		source = source_locked(engine, tr_str(name));
		switch (source == NULL ? FAILED : known_locked(&source->named, now_ns)) {
		case ASK:
			if (*asks < ASK_MAX) {
				source->named.asking = true;
				ask_sources[(*asks)++] = source;
			}
			break;
		case WAIT:
			wait = &source->named;
			break;
		case FAILED:
			known = FAILED;
			free(*error);
			*error =
				error_of("egress_source", name, source != NULL ? source->named.error : "out of memory");
			break;
		case KNOWN:
			break;
		}
	}
	if (*asks > 0)
		return ASK;
	if (known == FAILED)
		return FAILED;
	if (wait != NULL) {
		wait_locked(wait, sched);
		return WAIT;
	}
	*found = tr_pool_config_ref(pool->config);
	return KNOWN;
}

void
pool_resolve(struct tr_sched *sched)
{
	struct tr_engine *engine = sched->engine;

	for (;;) {
		struct tr_source *ask_sources[ASK_MAX];
		struct tr_pool *ask_pool;
		struct tr_pool_config *found = NULL;
		char *error = NULL;
		uint32_t asks;
		enum known known = FAILED;

		if (stopping(engine)) { /* policy is not asked any more */
			error = strdup("shutting down");
			asks = 0;
			ask_pool = NULL;
		} else {
			pthread_mutex_lock(&engine->source_lock);
			known = look(sched, &ask_pool, ask_sources, &asks, &found, &error);
			pthread_mutex_unlock(&engine->source_lock);
		}
		switch (known) {
		case WAIT:
			return; /* the answer comes here again */
		case ASK:
			free(error);
			if (ask_pool != NULL && engine->ops.resolve_pool != NULL)
				engine->ops.resolve_pool(engine->ops_arg, sched->home, ask_pool);
			else if (ask_pool != NULL)
				tr_pool_configured(ask_pool, NULL, "there is no policy to ask");
			for (uint32_t i = 0; i < asks; i++) {
				if (engine->ops.resolve_source != NULL)
					engine->ops.resolve_source(engine->ops_arg, sched->home, ask_sources[i]);
				else
					tr_source_configured(ask_sources[i], NULL, "there is no policy to ask");
			}
			continue; /* they may have been answered at once */
		case FAILED:
		case KNOWN:
			sched_pool_known(sched, found, known == KNOWN ? NULL : error != NULL ? error : "out of memory");
			free(error);
			return;
		}
	}
}

/* --- answers ---------------------------------------------------------------------------------------------------- */

static struct tr_sched *
answered_locked(struct named *entry, bool well, int64_t ttl_ns, const char *error)
{
	struct tr_sched *waiters = entry->waiters;

	entry->asking = false;
	entry->waiters = NULL;
	free(entry->error);
	entry->error = NULL;
	if (!well) {
		entry->error = strdup(error != NULL ? error : "no answer");
		if (entry->error == NULL)
			entry->error = calloc(1, 1); /* an empty text is an error, too */
	}
	entry->until_ns = tr_mono_ns() + (well ? tr_max_i64(ttl_ns, TTL_MIN_NS) : ERROR_TTL_NS);
	return waiters;
}

static void
tell(struct tr_sched *waiters)
{
	while (waiters != NULL) {
		struct tr_sched *next = waiters->pool_next;

		tr_loop_post(waiters->home->loop, &waiters->pool_mail);
		waiters = next;
	}
}

static void
source_set(struct tr_source *source, struct tr_source_config *config, const char *error, bool was_asked)
{
	struct tr_engine *engine = source->named.engine;
	struct tr_source_config *old = config;
	struct tr_sched *waiters = NULL;

	pthread_mutex_lock(&engine->source_lock);
	if (source->named.asking == was_asked) { /* else its own answer is on the way, and counts */
		if (config != NULL) {
			old = source->config;
			source->config = config;
		}
		waiters = answered_locked(&source->named, config != NULL, config != NULL ? config->ttl_ns : 0, error);
	}
	pthread_mutex_unlock(&engine->source_lock);
	tr_source_config_unref(old);
	tell(waiters);
}

static void
pool_set(struct tr_pool *pool, struct tr_pool_config *config, const char *error, bool was_asked)
{
	struct tr_engine *engine = pool->named.engine;
	struct tr_pool_config *old = config;
	struct tr_sched *waiters = NULL;

	pthread_mutex_lock(&engine->source_lock);
	if (pool->named.asking == was_asked) {
		if (config != NULL) {
			old = pool->config;
			pool->config = config;
		}
		waiters = answered_locked(&pool->named, config != NULL, config != NULL ? config->ttl_ns : 0, error);
	}
	pthread_mutex_unlock(&engine->source_lock);
	tr_pool_config_unref(old);
	tell(waiters);
}

void
tr_source_configured(struct tr_source *source, struct tr_source_config *config, const char *error)
{
	if (config == NULL)
		tr_log(TR_LEVEL_ERROR, "queue", "source %s is not defined%s: %s", source->named.name,
			source->config != NULL ? ", what sends from it keeps the old definition" : "",
			error != NULL ? error : "no answer");
	source_set(source, config, error, true);
}

void
tr_pool_configured(struct tr_pool *pool, struct tr_pool_config *config, const char *error)
{
	if (config == NULL)
		tr_log(TR_LEVEL_ERROR, "queue", "pool %s is not defined%s: %s", pool->named.name,
			pool->config != NULL ? ", queues that have it keep the old definition" : "",
			error != NULL ? error : "no answer");
	pool_set(pool, config, error, true);
}

struct tr_str
tr_source_name(const struct tr_source *source)
{
	return tr_str(source->named.name);
}

struct tr_str
tr_pool_name(const struct tr_pool *pool)
{
	return tr_str(pool->named.name);
}

/* --- for policy that asks --------------------------------------------------------------------------------------- */

struct tr_source_config *
tr_engine_cached_source(struct tr_engine *engine, struct tr_str name, char **error)
{
	struct tr_source_config *config = NULL;
	struct tr_source *source;

	*error = NULL;
	pthread_mutex_lock(&engine->source_lock);
	source = source_locked(engine, name);
	if (source != NULL && tr_mono_ns() < source->named.until_ns) {
		if (source->named.error != NULL)
			*error = strdup(source->named.error);
		else
			config = tr_source_config_ref(source->config);
	}
	pthread_mutex_unlock(&engine->source_lock);
	return config;
}

struct tr_pool_config *
tr_engine_cached_pool(struct tr_engine *engine, struct tr_str name, char **error)
{
	struct tr_pool_config *config = NULL;
	struct tr_pool *pool;

	*error = NULL;
	pthread_mutex_lock(&engine->source_lock);
	pool = pool_locked(engine, name);
	if (pool != NULL && tr_mono_ns() < pool->named.until_ns) {
		if (pool->named.error != NULL)
			*error = strdup(pool->named.error);
		else
			config = tr_pool_config_ref(pool->config);
	}
	pthread_mutex_unlock(&engine->source_lock);
	return config;
}

void
tr_engine_cache_source(struct tr_engine *engine, struct tr_str name, struct tr_source_config *config, const char *error)
{
	struct tr_source *source = source_get(engine, name);

	if (source == NULL) {
		tr_source_config_unref(config);
		return;
	}
	source_set(source, config, error, false);
	source_unref(source);
}

void
tr_engine_cache_pool(struct tr_engine *engine, struct tr_str name, struct tr_pool_config *config, const char *error)
{
	struct tr_pool *pool;

	pthread_mutex_lock(&engine->source_lock);
	pool = pool_locked(engine, name);
	if (pool != NULL)
		atomic_fetch_add_explicit(&pool->refs, 1, memory_order_relaxed);
	pthread_mutex_unlock(&engine->source_lock);
	if (pool == NULL) {
		tr_pool_config_unref(config);
		return;
	}
	pool_set(pool, config, error, false);
	atomic_fetch_sub_explicit(&pool->refs, 1, memory_order_release);
}
