/* Scheduled queues: the table, by name and by index, and the life of one. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "queue/budget.h"
#include "queue/engine.h"
#include "queue/order.h"
#include "queue/ready.h"
#include "queue/sched.h"
#include "queue/worker.h"

struct tr_sched *
sched_at(const struct tr_engine *engine, uint32_t index)
{
	struct tr_sched **chunk;

	if (index == NO_SCHED)
		return NULL;
	chunk = atomic_load_explicit(&engine->chunks[index / CHUNK], memory_order_acquire);
	return chunk[index % CHUNK];
}

static int
index_take(struct tr_engine *engine, struct tr_sched *sched)
{
	int err = TR_OK;
	struct tr_sched **chunk;

	pthread_mutex_lock(&engine->index_lock);
	if (engine->index_free_count > 0) {
		sched->index = engine->index_free[--engine->index_free_count];
	} else if (engine->index_next < CHUNK * CHUNKS) {
		sched->index = engine->index_next++;
	} else {
		err = TR_EAGAIN;
		goto out;
	}
	chunk = atomic_load_explicit(&engine->chunks[sched->index / CHUNK], memory_order_relaxed);
	if (chunk == NULL) {
		chunk = calloc(CHUNK, sizeof *chunk);
		if (chunk == NULL) {
			engine->index_next--;
			err = TR_ENOMEM;
			goto out;
		}
		atomic_store_explicit(&engine->chunks[sched->index / CHUNK], chunk, memory_order_release);
	}
	chunk[sched->index % CHUNK] = sched;
out:
	pthread_mutex_unlock(&engine->index_lock);
	return err;
}

static void
index_give(struct tr_engine *engine, uint32_t index)
{
	pthread_mutex_lock(&engine->index_lock);
	engine->chunks[index / CHUNK][index % CHUNK] = NULL;
	if (engine->index_free_count == engine->index_free_cap) {
		uint32_t cap = engine->index_free_cap ? engine->index_free_cap * 2 : 64;
		uint32_t *more = realloc(engine->index_free, cap * sizeof *more);

		if (more != NULL) {
			engine->index_free = more;
			engine->index_free_cap = cap;
		}
	}
	if (engine->index_free_count < engine->index_free_cap) /* else: that number is not used again */
		engine->index_free[engine->index_free_count++] = index;
	pthread_mutex_unlock(&engine->index_lock);
}

static struct tr_sched *
sched_new(struct tr_engine *engine, struct tr_str name, uint64_t hash)
{
	struct tr_sched *sched = calloc(1, sizeof *sched);
	struct tr_str route;

	if (sched == NULL)
		return NULL;
	sched->name = strndup(name.data == NULL ? "" : name.data, name.len);
	sched->engine = engine;
	if (sched->name == NULL || index_take(engine, sched) != TR_OK) {
		free(sched->name);
		free(sched);
		return NULL;
	}
	sched->hash = hash;
	tr_queue_name_parse(tr_str(sched->name), &sched->parts);
	route = sched->parts.has_routing ? sched->parts.routing_domain : sched->parts.domain;
	sched->home = &engine->workers[tr_hash(route.data, route.len) % engine->worker_count];
	pthread_mutex_init(&sched->lock, NULL);
	sched->lanes = &sched->only;
	sched->lane_count = 1;
	sched->only.sched = sched;
	sched->only.weight = 1;
	atomic_init(&sched->max_age_ms, INT64_MAX);
	sched->line = SLOT_LIST_EMPTY;
	sched->line_expiry_ms = INT64_MAX;
	sched->sweep_at = TR_NO_SLOT;
	sched->inserted_at_ns = tr_mono_ns();
	sched->kick_mail.fn = sched_kick_arrived;
	sched->metric = tr_metric_get(
		TR_GAUGE, "scheduled_count", "messages in the scheduled queue", "queue", sched->name, NULL);
	sched->full_metric = tr_metric_get(TR_COUNTER, "delayed_due_to_ready_queue_full",
		"messages that wait because the ready queue was full", "queue", sched->name, NULL);
	pthread_mutex_lock(&sched->home->home_lock);
	sched->home_next = sched->home->homes;
	sched->home_prev = &sched->home->homes;
	if (sched->home_next != NULL)
		sched->home_next->home_prev = &sched->home_next;
	sched->home->homes = sched;
	pthread_mutex_unlock(&sched->home->home_lock);
	atomic_fetch_add_explicit(&engine->sched_total, 1, memory_order_relaxed);
	return sched;
}

void
sched_free(struct tr_sched *sched)
{
	struct tr_engine *engine = sched->engine;
	struct message_list *lists[] = {&sched->incoming, &sched->fresh, &sched->hooking};
	struct tr_message *message;

	tr_timer_stop(tr_loop_wheel(sched->home->loop), &sched->timer);
	pthread_mutex_lock(&sched->home->home_lock);
	*sched->home_prev = sched->home_next;
	if (sched->home_next != NULL)
		sched->home_next->home_prev = sched->home_prev;
	pthread_mutex_unlock(&sched->home->home_lock);
	for (size_t i = 0; i < TR_COUNT(lists); i++) {
		while ((message = list_pop(lists[i])) != NULL)
			tr_message_free(message);
	}
	while (sched->waiters != NULL) {
		struct resolve_waiter *waiter = sched->waiters;

		sched->waiters = waiter->next;
		free(waiter->error);
		free(waiter);
	}
	for (uint32_t i = 0; i < sched->lane_count; i++) {
		if (sched->lanes[i].ready != NULL)
			ready_unref(sched->lanes[i].ready);
		selection_drop(&sched->lanes[i]);
		source_unref(sched->lanes[i].source);
	}
	rate_drop(sched);
	order_free(sched);
	budget_free(sched);
	tr_pool_config_unref(sched->pool);
	tr_queue_config_unref(sched->pending);
	if (sched->lanes != &sched->only)
		free(sched->lanes);
	index_give(engine, sched->index);
	tr_queue_config_unref(sched->config);
	tr_metric_unref(sched->metric);
	tr_metric_unref(sched->full_metric);
	if (sched->throttle_metric != NULL)
		tr_metric_unref(sched->throttle_metric);
	pthread_mutex_destroy(&sched->lock);
	atomic_fetch_sub_explicit(&engine->sched_total, 1, memory_order_relaxed);
	free(sched->site);
	free(sched->site_error);
	free(sched->error);
	free(sched->name);
	free(sched);
}

static struct tr_sched *
look_up(struct tr_engine *engine, struct tr_str name, bool make)
{
	uint64_t hash = tr_hash(name.data, name.len);
	struct stripe *stripe = &engine->stripes[hash % STRIPES];
	struct tr_sched *sched;

	pthread_mutex_lock(&stripe->lock);
	sched = stripe->buckets == NULL ? NULL : stripe->buckets[(hash / STRIPES) & stripe->mask];
	while (sched != NULL && (sched->hash != hash || !tr_str_eq(tr_str(sched->name), name)))
		sched = sched->hash_next;
	if (sched == NULL && make) {
		if (stripe->buckets == NULL || stripe->used > stripe->mask) { /* grow to twice */
			uint32_t size = stripe->buckets == NULL ? 16 : (stripe->mask + 1) * 2;
			struct tr_sched **buckets = calloc(size, sizeof *buckets);

			if (buckets != NULL) {
				for (uint32_t i = 0; stripe->buckets != NULL && i <= stripe->mask; i++) {
					struct tr_sched *at = stripe->buckets[i], *next;

					for (; at != NULL; at = next) {
						struct tr_sched **to = &buckets[(at->hash / STRIPES) & (size - 1)];

						next = at->hash_next;
						at->hash_next = *to;
						*to = at;
					}
				}
				free(stripe->buckets);
				stripe->buckets = buckets;
				stripe->mask = size - 1;
			}
		}
		sched = stripe->buckets == NULL ? NULL : sched_new(engine, name, hash);
		if (sched != NULL) {
			struct tr_sched **to = &stripe->buckets[(hash / STRIPES) & stripe->mask];

			sched->hash_next = *to;
			*to = sched;
			stripe->used++;
		}
	}
	if (sched != NULL)
		atomic_fetch_add_explicit(&sched->count, 1, memory_order_relaxed);
	pthread_mutex_unlock(&stripe->lock);
	return sched;
}

struct tr_sched *
sched_get(struct tr_engine *engine, struct tr_str name)
{
	return look_up(engine, name, true);
}

struct tr_sched *
sched_find(struct tr_engine *engine, struct tr_str name)
{
	return look_up(engine, name, false);
}

void
sched_count(struct tr_sched *sched, int64_t n)
{
	atomic_fetch_add_explicit(&sched->count, n, n < 0 ? memory_order_release : memory_order_relaxed);
}

void
sched_reap(struct tr_sched *sched)
{
	struct stripe *stripe = &sched->engine->stripes[sched->hash % STRIPES];
	struct tr_sched **at;
	bool idle;

	pthread_mutex_lock(&stripe->lock);
	idle = lanes_idle(sched) && atomic_load_explicit(&sched->count, memory_order_acquire) == 0 &&
	       !atomic_load(&sched->kicked) && !sched->active && !sched->resolving && sched->waiters == NULL;
	if (idle) {
		at = &stripe->buckets[(sched->hash / STRIPES) & stripe->mask];
		while (*at != sched)
			at = &(*at)->hash_next;
		*at = sched->hash_next;
		stripe->used--;
	}
	pthread_mutex_unlock(&stripe->lock);
	if (idle)
		sched_free(sched);
}

struct tr_str
tr_sched_name(const struct tr_sched *sched)
{
	return tr_str(sched->name);
}

void
tr_sched_parts(const struct tr_sched *sched, struct tr_queue_name *out)
{
	*out = sched->parts;
}

struct tr_queue_config *
sched_config_ref(struct tr_sched *sched)
{
	struct tr_queue_config *config;

	pthread_mutex_lock(&sched->lock);
	config = tr_queue_config_ref(sched->config);
	pthread_mutex_unlock(&sched->lock);
	return config;
}
