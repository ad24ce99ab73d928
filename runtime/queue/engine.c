/* The engine: what all workers share, recovery, figures. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "queue/admin.h"
#include "queue/dead.h"
#include "queue/engine.h"
#include "queue/order.h"
#include "queue/outcome.h"
#include "queue/ready.h"
#include "queue/sched.h"
#include "queue/worker.h"

static void
collect(void *arg)
{
	struct tr_engine *engine = arg;

	for (uint32_t i = 0; i < engine->worker_count; i++) {
		struct tr_worker *worker = &engine->workers[i];

		pthread_mutex_lock(&worker->home_lock);
		for (struct tr_sched *sched = worker->homes; sched != NULL; sched = sched->home_next)
			tr_metric_set(sched->metric, atomic_load_explicit(&sched->waiting, memory_order_relaxed));
		pthread_mutex_unlock(&worker->home_lock);
	}
	tr_metric_set(engine->dead_metric, (int64_t)tr_dead_count(engine->dead));
	pthread_mutex_lock(&engine->ready_lock);
	for (int pass = 0; pass < 2; pass++) { /* sums start from 0 */
		for (uint32_t i = 0; i <= engine->ready_mask; i++) {
			for (struct tr_ready *ready = engine->ready_buckets[i]; ready != NULL;
				ready = ready->hash_next) {
				if (pass == 0) {
					tr_metric_set(ready->metrics[1][M_READY_COUNT], 0);
					tr_metric_set(ready->metrics[1][M_CONNECTIONS], 0);
					continue;
				}
				pthread_mutex_lock(&ready->lock);
				tr_metric_set(ready->metrics[0][M_READY_COUNT], ready->messages.count);
				tr_metric_set(ready->metrics[0][M_CONNECTIONS], ready->sessions);
				tr_metric_add(ready->metrics[1][M_READY_COUNT], ready->messages.count);
				tr_metric_add(ready->metrics[1][M_CONNECTIONS], ready->sessions);
				pthread_mutex_unlock(&ready->lock);
			}
		}
	}
	pthread_mutex_unlock(&engine->ready_lock);
	tr_metric_set(engine->sched_metrics[0],
		atomic_load(&engine->counts[IN_LINE]) + atomic_load(&engine->counts[IN_TIMERS]));
	tr_metric_set(engine->sched_metrics[1], atomic_load(&engine->sched_total));
}

int
tr_engine_new(const struct tr_engine_config *config, struct tr_engine **out)
{
	struct tr_engine *engine = calloc(1, sizeof *engine);
	int err = TR_ENOMEM;

	*out = NULL;
	if (config->workers == 0 || config->spool == NULL || config->ops == NULL || config->loops == NULL) {
		free(engine);
		return TR_EINVAL;
	}
	if (engine == NULL)
		return TR_ENOMEM;
	engine->spool = config->spool;
	engine->ops = *config->ops;
	engine->ops_arg = config->ops_arg;
	engine->ready_bytes = config->ready_bytes > 0 ? config->ready_bytes : 256 * 1024 * 1024;
	engine->worker_count = config->workers;
	engine->shaping = config->shaping;
	if (engine->shaping == NULL) {
		if (tr_shaping_new(&engine->own_shaping) != TR_OK) {
			free(engine);
			return TR_ENOMEM;
		}
		engine->shaping = engine->own_shaping;
	}
	for (int i = 0; i < STRIPES; i++)
		pthread_mutex_init(&engine->stripes[i].lock, NULL);
	pthread_mutex_init(&engine->index_lock, NULL);
	pthread_mutex_init(&engine->ready_lock, NULL);
	pthread_mutex_init(&engine->admin_lock, NULL);
	if (sources_init(engine) != TR_OK || tr_dead_new(engine->spool, &engine->dead) != TR_OK)
		goto fail;
	dead_attach(engine->dead, engine);
	engine->ready_mask = 1023;
	engine->ready_buckets = calloc(engine->ready_mask + 1, sizeof *engine->ready_buckets);
	engine->workers = calloc(config->workers, sizeof *engine->workers);
	engine->fallback = tr_queue_config_new();
	if (engine->workers == NULL || engine->ready_buckets == NULL || engine->fallback == NULL)
		goto fail;
	for (uint32_t i = 0; i < config->workers; i++) {
		err = worker_init(&engine->workers[i], engine, config->loops[i], i, config->seed);
		if (err != TR_OK)
			goto fail;
	}
	engine->sched_metrics[0] =
		tr_metric_get(TR_GAUGE, "scheduled_count_total", "messages in all scheduled queues", NULL);
	engine->suspension_metric = tr_metric_get(
		TR_COUNTER, "source_suspensions", "times that a source was suspended because it did not work", NULL);
	engine->sched_metrics[1] = tr_metric_get(TR_GAUGE, "scheduled_queue_count", "scheduled queues", NULL);
	engine->dead_metric = tr_metric_get(TR_GAUGE, "tailrace_dead_letters", "dead letters of all hooks", NULL);
	tr_metrics_add_collector(collect, engine);
	*out = engine;
	return TR_OK;
fail:
	for (uint32_t i = 0; engine->workers != NULL && i < config->workers; i++)
		worker_fini(&engine->workers[i]);
	tr_queue_config_unref(engine->fallback);
	sources_free(engine);
	tr_dead_free(engine->dead);
	free(engine->workers);
	free(engine->ready_buckets);
	tr_shaping_free(engine->own_shaping);
	free(engine);
	return err;
}

void
tr_engine_free(struct tr_engine *engine)
{
	if (engine == NULL)
		return;
	atomic_store(&engine->stopping, true);
	tr_metrics_remove_collector(collect, engine);
	for (uint32_t i = 0; i < engine->worker_count; i++) {
		while (engine->workers[i].homes != NULL)
			sched_free(engine->workers[i].homes);
	}
	for (uint32_t i = 0; i <= engine->ready_mask; i++) {
		while (engine->ready_buckets[i] != NULL) {
			struct tr_ready *ready = engine->ready_buckets[i];

			engine->ready_buckets[i] = ready->hash_next;
			ready_free(ready);
		}
	}
	admin_free(engine);
	for (uint32_t i = 0; i < engine->worker_count; i++)
		worker_fini(&engine->workers[i]);
	for (int i = 0; i < STRIPES; i++) {
		pthread_mutex_destroy(&engine->stripes[i].lock);
		free(engine->stripes[i].buckets);
	}
	for (int i = 0; i < CHUNKS; i++)
		free(engine->chunks[i]);
	pthread_mutex_destroy(&engine->index_lock);
	pthread_mutex_destroy(&engine->ready_lock);
	pthread_mutex_destroy(&engine->admin_lock);
	tr_metric_unref(engine->sched_metrics[0]);
	tr_metric_unref(engine->sched_metrics[1]);
	tr_metric_unref(engine->suspension_metric);
	sources_free(engine);
	tr_dead_free(engine->dead);
	tr_metric_unref(engine->dead_metric);
	tr_queue_config_unref(engine->fallback);
	free(engine->index_free);
	free(engine->ready_buckets);
	free(engine->workers);
	tr_shaping_free(engine->own_shaping);
	free(engine);
}

struct tr_worker *
tr_engine_worker(struct tr_engine *engine, uint32_t index)
{
	return index < engine->worker_count ? &engine->workers[index] : NULL;
}

struct tr_engine *
tr_worker_engine(struct tr_worker *worker)
{
	return worker->engine;
}

struct tr_loop *
tr_worker_loop(struct tr_worker *worker)
{
	return worker->loop;
}

uint32_t
tr_worker_index(const struct tr_worker *worker)
{
	return worker->index;
}

struct tr_spool *
tr_engine_spool(struct tr_engine *engine)
{
	return engine->spool;
}

struct tr_dead_store *
tr_engine_dead(struct tr_engine *engine)
{
	return engine->dead;
}

void
tr_worker_set_data(struct tr_worker *worker, void *data)
{
	worker->data = data;
}

void *
tr_worker_data(const struct tr_worker *worker)
{
	return worker->data;
}

/* --- recovery ------------------------------------------------------------------------------------------------ */

void
tr_engine_recovered(struct tr_engine *engine, const struct tr_recovered *message)
{
	struct tr_stub *stub = tr_spool_stub(engine->spool, message->slot);
	struct tr_sched *sched;

	if (!(message->flags & TR_MSG_ORDERED))
		stub->order = 0;
	stub->queue = NO_SCHED;
	if (message->flags & TR_MSG_DEAD) {
		tr_dead_add(engine->dead, message->slot, message->queue);
		return;
	}
	/* What was parked is decided again, too: the policy may have been mended, or the hook be back. All of a hook by
	 * one worker, in order. */
	if (message->flags & (TR_MSG_UNDECIDED | TR_MSG_POLICY_ERROR)) {
		struct tr_worker *worker = &engine->workers[stub->account % engine->worker_count];

		worker_undecided_add(worker, message->slot);
		count_add(engine, IN_UNDECIDED, 1);
		return;
	}
	sched = sched_get(engine, message->queue);
	if (sched == NULL) {
		tr_log(TR_LEVEL_ERROR, "queue", "no memory for queue %.*s: a message waits for a restart",
			(int)message->queue.len, message->queue.data);
		count_add(engine, IN_PARKED, 1);
		return;
	}
	stub->queue = sched->index;
	if (message->flags & TR_MSG_LOG_RECORD)
		atomic_store_explicit(&sched->log_records, true, memory_order_relaxed);
	if (engine->ops.wants_enumerated != NULL && engine->ops.wants_enumerated(engine->ops_arg)) {
		slots_add(engine->spool, &sched->home->enumerated, message->slot);
		count_add(engine, IN_FLIGHT, 1);
		if (message->flags & TR_MSG_ORDERED)
			order_claim(sched, message->slot);
		return;
	}
	if (message->flags & TR_MSG_ORDERED) {
		order_recover(sched, message->slot);
		count_add(engine, IN_LINE, 1);
	} else if (tr_stub_due_ms(stub) > tr_wall_ms()) {
		slot_wheel_add(&sched->home->wheel, message->slot);
		count_add(engine, IN_TIMERS, 1);
	} else {
		line_add(sched, message->slot, false);
		count_add(engine, IN_LINE, 1);
	}
	atomic_fetch_add_explicit(&sched->waiting, 1, memory_order_relaxed);
}

static void
start_arrived(struct tr_mail *mail)
{
	worker_start(tr_container_of(mail, struct tr_worker, start_mail));
}

void
tr_engine_start(struct tr_engine *engine)
{
	if (atomic_exchange(&engine->started, true))
		return;
	for (uint32_t i = 0; i < engine->worker_count; i++) {
		engine->workers[i].start_mail.fn = start_arrived;
		tr_loop_post(engine->workers[i].loop, &engine->workers[i].start_mail);
	}
}

/* --- figures --------------------------------------------------------------------------------------------------- */

static uint64_t
figure(const struct tr_engine *engine, enum count_kind kind)
{
	int64_t value = atomic_load_explicit(&engine->counts[kind], memory_order_relaxed);

	return value > 0 ? (uint64_t)value : 0; /* another thread may stand between two halves of a move */
}

void
tr_engine_figures(const struct tr_engine *engine, struct tr_queue_figures *out)
{
	out->scheds = (uint64_t)atomic_load_explicit(&engine->sched_total, memory_order_relaxed);
	out->readies = (uint64_t)atomic_load_explicit(&engine->ready_total, memory_order_relaxed);
	out->sessions = (uint64_t)atomic_load_explicit(&engine->session_total, memory_order_relaxed);
	out->line = figure(engine, IN_LINE);
	out->timers = figure(engine, IN_TIMERS);
	out->ready = figure(engine, IN_READY);
	out->in_flight = figure(engine, IN_FLIGHT);
	out->undecided = figure(engine, IN_UNDECIDED);
	out->parked = figure(engine, IN_PARKED);
}

bool
tr_engine_is_open(const struct tr_engine *engine)
{
	return atomic_load_explicit(&engine->started, memory_order_acquire) && !stopping(engine);
}
