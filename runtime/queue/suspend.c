/* A source that does not work is left alone for a while. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "queue/engine.h"
#include "queue/ready.h"
#include "queue/worker.h"

struct tr_source_config *
tr_ready_source_config(struct tr_ready *ready)
{
	struct tr_source_config *config;

	if (ready->via == NULL)
		return NULL;
	pthread_mutex_lock(&ready->engine->source_lock);
	config = tr_source_config_ref(ready->via->config);
	pthread_mutex_unlock(&ready->engine->source_lock);
	return config;
}

int64_t
tr_ready_source_suspended_until(const struct tr_ready *ready)
{
	int64_t until_ns = ready->via != NULL ? atomic_load(&ready->via->suspended_until_ns) : 0;

	return until_ns > tr_mono_ns() ? until_ns : 0;
}

/* True if it is the failure that is too much. */
static bool
too_many_locked(struct tr_source *source, const struct tr_suspend_rule *rule, int64_t now_ns)
{
	if (rule->failures == 0)
		return false;
	if (rule->failures == 1)
		return true;
	if (source->failures_cap != rule->failures) { /* another rule: counting starts anew */
		int64_t *ring = calloc(rule->failures, sizeof *ring);

		if (ring == NULL)
			return false;
		free(source->failed_at_ns);
		source->failed_at_ns = ring;
		source->failures_cap = rule->failures;
		source->failures_at = source->failures = 0;
	}
	source->failed_at_ns[source->failures_at] = now_ns;
	source->failures_at = (source->failures_at + 1) % source->failures_cap;
	if (source->failures < source->failures_cap)
		source->failures++;
	if (source->failures < source->failures_cap ||
		now_ns - source->failed_at_ns[source->failures_at] >= rule->period_ns)
		return false;
	source->failures = source->failures_at = 0; /* after the pause it has as many again */
	return true;
}

/* What waits in the ready queues of a source goes back, to be sent from others. */
static void
drain_source(struct tr_engine *engine, const struct tr_source *source, struct tr_worker *worker)
{
	struct tr_ready **found = NULL;
	uint32_t count = 0, cap = 0;

	pthread_mutex_lock(&engine->ready_lock);
	for (uint32_t i = 0; i <= engine->ready_mask; i++) {
		for (struct tr_ready *ready = engine->ready_buckets[i]; ready != NULL; ready = ready->hash_next) {
			if (ready->via != source)
				continue;
			if (count == cap) {
				uint32_t more = cap ? cap * 2 : 64;
				struct tr_ready **grown = realloc(found, more * sizeof *grown);

				if (grown == NULL)
					break; /* the others find out by their own failures */
				found = grown;
				cap = more;
			}
			atomic_fetch_add_explicit(&ready->refs, 1, memory_order_relaxed);
			found[count++] = ready;
		}
	}
	pthread_mutex_unlock(&engine->ready_lock);
	for (uint32_t i = 0; i < count; i++) {
		ready_drain(found[i], worker);
		ready_unref(found[i]);
	}
	free(found);
}

bool
tr_ready_source_failed(struct tr_ready *ready, enum tr_source_trouble trouble, const char *text)
{
	struct tr_engine *engine = ready->engine;
	struct tr_source *source = ready->via;
	struct tr_worker *worker = worker_here(engine);
	int64_t now_ns = tr_mono_ns(), duration_ns = 0;
	char duration[64];

	if (source == NULL)
		return false;
	pthread_mutex_lock(&engine->source_lock);
	if (source->config != NULL && atomic_load(&source->suspended_until_ns) <= now_ns) {
		const struct tr_suspend_rule *rule =
			trouble == TR_SOURCE_UNPLUMBED ? &source->config->unplumbed : &source->config->proxy_unhealthy;

		if (too_many_locked(source, rule, now_ns)) {
			duration_ns = rule->duration_ns;
			atomic_store(&source->suspended_until_ns, now_ns + duration_ns);
		}
	}
	pthread_mutex_unlock(&engine->source_lock);
	if (duration_ns > 0) {
		tr_duration_format(duration_ns, duration);
		tr_log(TR_LEVEL_WARN, "queue", "source %s is suspended for %s: %s", source->named.name, duration, text);
		tr_metric_add(engine->suspension_metric, 1);
		if (worker != NULL)
			drain_source(engine, source, worker);
	}
	return atomic_load(&source->suspended_until_ns) > now_ns;
}
