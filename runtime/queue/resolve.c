/* Asking policy for a queue's configuration, and putting messages into queues by name. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "queue/budget.h"
#include "queue/engine.h"
#include "queue/order.h"
#include "queue/outcome.h"
#include "queue/ready.h"
#include "queue/sched.h"
#include "queue/worker.h"

static bool
is_null(struct tr_str name)
{
	return tr_str_eq(name, TR_STR("null"));
}

/* --- waiters ---------------------------------------------------------------------------------------------- */

static void
waiter_answer(struct resolve_waiter *waiter)
{
	waiter->then(waiter->arg, waiter->error);
	sched_count(waiter->sched, -1);
	free(waiter->error);
	free(waiter);
}

static void
waiter_deferred(struct tr_defer *defer)
{
	waiter_answer(tr_container_of(defer, struct resolve_waiter, defer));
}

static void
waiter_mailed(struct tr_mail *mail)
{
	waiter_answer(tr_container_of(mail, struct resolve_waiter, mail));
}

/* Home: sends an answer to the worker that asked. */
static void
waiter_send(struct resolve_waiter *waiter)
{
	struct tr_sched *sched = waiter->sched;

	if (waiter->error == NULL && sched->error != NULL && sched->config == NULL) {
		waiter->error = strdup(sched->error);
		if (waiter->error == NULL)
			waiter->error = calloc(1, 1); /* an empty text is an error, too */
	}
	if (waiter->worker == sched->home) {
		tr_loop_defer(waiter->worker->loop, &waiter->defer, waiter_deferred);
	} else {
		waiter->mail.fn = waiter_mailed;
		tr_loop_post(waiter->worker->loop, &waiter->mail);
	}
}

static void
waiter_add(struct resolve_waiter *waiter)
{
	struct tr_sched *sched = waiter->sched;

	if (sched->config != NULL || (sched->error != NULL && tr_mono_ns() < sched->error_until_ns)) {
		waiter_send(waiter);
		return;
	}
	if (stopping(sched->engine) && !sched->resolving) { /* policy is not asked any more */
		waiter->error = strdup("shutting down");
		waiter_send(waiter);
		return;
	}
	waiter->next = sched->waiters;
	sched->waiters = waiter;
	sched_resolve(sched);
}

static void
waiter_arrived(struct tr_mail *mail)
{
	waiter_add(tr_container_of(mail, struct resolve_waiter, mail));
}

void
tr_queue_resolve(struct tr_worker *worker, struct tr_str name, void (*then)(void *arg, const char *error), void *arg)
{
	struct tr_sched *sched;
	struct resolve_waiter *waiter;

	if (is_null(name)) {
		then(arg, NULL);
		return;
	}
	sched = sched_get(worker->engine, name);
	if (sched == NULL) {
		then(arg, "out of memory for a queue");
		return;
	}
	if (atomic_load_explicit(&sched->configured, memory_order_acquire)) {
		sched_count(sched, -1);
		then(arg, NULL);
		return;
	}
	pthread_mutex_lock(&sched->lock);
	if (sched->error != NULL && tr_mono_ns() < sched->error_until_ns) {
		char *error = strdup(sched->error);

		pthread_mutex_unlock(&sched->lock);
		sched_count(sched, -1);
		then(arg, error != NULL ? error : "out of memory");
		free(error);
		return;
	}
	pthread_mutex_unlock(&sched->lock);
	waiter = calloc(1, sizeof *waiter);
	if (waiter == NULL) {
		sched_count(sched, -1);
		then(arg, "out of memory");
		return;
	}
	waiter->worker = worker;
	waiter->sched = sched;
	waiter->then = then;
	waiter->arg = arg;
	if (sched->home == worker) {
		waiter_add(waiter);
	} else {
		waiter->mail.fn = waiter_arrived;
		tr_loop_post(sched->home->loop, &waiter->mail);
	}
}

/* --- asking and the answer --------------------------------------------------------------------------------- */

void
sched_resolve(struct tr_sched *sched)
{
	struct tr_engine *engine = sched->engine;

	if (sched->resolving || stopping(engine))
		return;
	sched->resolving = true;
	sched->epoch = atomic_load(&engine->epoch);
	sched_count(sched, 1);              /* while policy has it */
	if (is_null(tr_str(sched->name))) { /* stored before a crash came between it and its drop */
		struct tr_queue_config *config = tr_queue_config_new();

		if (config != NULL)
			config->protocol = TR_PROTO_NULL;
		tr_sched_configured(sched, config, "out of memory");
		return;
	}
	engine->ops.resolve_queue(engine->ops_arg, sched->home, sched);
}

static void
take_config(struct tr_sched *sched, struct tr_queue_config *config)
{
	struct tr_engine *engine = sched->engine;
	struct tr_queue_config *old;
	int64_t max_age_ms = config->max_age_ns / TR_NS_PER_MS;
	int64_t old_max_age_ms = atomic_load_explicit(&sched->max_age_ms, memory_order_relaxed);

	pthread_mutex_lock(&sched->lock);
	old = sched->config;
	sched->config = config;
	free(sched->error);
	sched->error = NULL;
	pthread_mutex_unlock(&sched->lock);
	atomic_store_explicit(&sched->max_age_ms, max_age_ms, memory_order_relaxed);
	sched->drains = config->protocol == TR_PROTO_NULL;
	sched->parks = config->protocol == TR_PROTO_SMTP ||
		       (config->protocol == TR_PROTO_LUA && engine->ops.has_handler != NULL &&
			       !engine->ops.has_handler(engine->ops_arg, sched->home, config->constructor));
	if (old != NULL && sched->lanes[0].ready != NULL && tr_queue_config_protocol_differs(old, config)) {
		/* the ready queue that this queue made goes, too; one that it only shares stays with its maker */
		for (uint32_t i = 0; i < sched->lane_count; i++) {
			struct tr_ready *ready = sched->lanes[i].ready;

			if (ready != NULL && !tr_queue_config_protocol_differs(old, ready->queue))
				ready_replace(ready, sched->home);
		}
		lanes_drop(sched);
		sched_spill(sched, &sched->fresh, true); /* judged under the old one */
	}
	rate_set(sched);
	budget_set(sched);
	tr_queue_config_unref(old);
	if (sched->line.count > 0 && max_age_ms != old_max_age_ms) {
		sched->line_expiry_ms = 0;
		line_check_expiry(sched, tr_wall_ms());
	}
	atomic_store_explicit(&sched->configured, true, memory_order_release);
}

/* The answer is complete. pool: reference taken over. */
static void
configured(struct tr_sched *sched, struct tr_queue_config *config, struct tr_pool_config *pool, const char *error)
{
	struct resolve_waiter *waiter = sched->waiters, *reversed = NULL;

	sched->resolving = false;
	sched->resolved_at_ns = tr_mono_ns();
	if (config != NULL) {
		take_config(sched, config);
		if (lanes_set(sched, pool) != TR_OK)
			tr_log(TR_LEVEL_ERROR, "queue", "queue %s: no memory for its pool, the old one stays",
				sched->name);
	} else if (sched->config == NULL) {
		char *text = strdup(error != NULL ? error : "no configuration");

		pthread_mutex_lock(&sched->lock);
		free(sched->error);
		sched->error = text;
		sched->error_until_ns = tr_mono_ns() + ERROR_TTL_NS;
		pthread_mutex_unlock(&sched->lock);
		tr_log(TR_LEVEL_ERROR, "queue", "queue %s has no configuration: %s", sched->name,
			error != NULL ? error : "no answer");
	} else {
		tr_log(TR_LEVEL_WARN, "queue", "queue %s keeps its configuration: %s", sched->name,
			error != NULL ? error : "no answer");
	}
	sched->waiters = NULL;
	while (waiter != NULL) { /* they were put in front */
		struct resolve_waiter *next = waiter->next;

		waiter->next = reversed;
		reversed = waiter;
		waiter = next;
	}
	while (reversed != NULL) {
		waiter = reversed;
		reversed = reversed->next;
		waiter_send(waiter);
	}
	sched_activate(sched);
	sched_count(sched, -1);
}

void
sched_pool_known(struct tr_sched *sched, struct tr_pool_config *pool, const char *error)
{
	struct tr_queue_config *config = sched->pending;

	sched->pending = NULL;
	if (pool == NULL && sched->config == NULL) {
		tr_queue_config_unref(config);
		config = NULL;
	} else if (pool == NULL) { /* contract/events.md section 6: the new configuration with the old pool */
		tr_log(TR_LEVEL_WARN, "queue", "queue %s keeps its pool: %s", sched->name, error);
		pool = tr_pool_config_ref(sched->pool);
	}
	configured(sched, config, pool, error);
}

void
tr_sched_configured(struct tr_sched *sched, struct tr_queue_config *config, const char *error)
{
	if (config == NULL || config->egress_pool == NULL || strcmp(config->egress_pool, "unspecified") == 0 ||
		config->protocol == TR_PROTO_NULL) {
		configured(sched, config, NULL, error);
		return;
	}
	sched->pending = config;
	pool_resolve(sched);
}

/* --- insert -------------------------------------------------------------------------------------------------- */

void
tr_queue_insert(struct tr_worker *worker, struct tr_message *message, const char *reason)
{
	struct tr_engine *engine = worker->engine;
	struct tr_str name = tr_str(message->queue != NULL ? message->queue : "");
	struct tr_sched *sched;

	tr_message_revoke(message);
	if (is_null(name)) {
		struct outcome_op *op = op_new(worker);

		tr_stub_set_queue(tr_spool_stub(engine->spool, message->slot), NO_SCHED);
		count_add(engine, IN_FLIGHT, 1);
		if (op == NULL) {
			list_add(&worker->stranded, message);
			count_move(engine, IN_FLIGHT, IN_PARKED, 1);
			return;
		}
		op_end(op, message, TR_COL_DROPPED, TR_REASON_NULL_QUEUE);
		op_submit(op);
		return;
	}
	sched = sched_get(engine, name);
	if (sched == NULL) {
		tr_log(TR_LEVEL_ERROR, "queue", "no memory for queue %s: its message has to wait", message->queue);
		count_add(engine, IN_PARKED, 1);
		list_add(&worker->stranded, message);
		return;
	}
	count_add(engine, IN_READY, 1);
	tr_stub_set_queue(tr_spool_stub(engine->spool, message->slot), sched->index);
	if (sched->home == worker)
		sched_insert(sched, message, reason);
	else
		worker_post_message(worker, sched->home, message, reason);
}

void
tr_queue_insert_stored(struct tr_worker *worker, struct tr_str queue, const uint32_t *slots, uint32_t count)
{
	struct tr_engine *engine = worker->engine;
	struct tr_sched *sched = sched_get(engine, queue);
	struct slot_list here = SLOT_LIST_EMPTY;

	if (sched == NULL) {
		tr_log(TR_LEVEL_ERROR, "queue", "no memory for queue %.*s: %u records wait for a restart",
			(int)queue.len, queue.data, count);
		count_add(engine, IN_PARKED, count);
		return;
	}
	sched_count(sched, (int64_t)count - 1);
	count_add(engine, IN_FLIGHT, count);
	atomic_store_explicit(&sched->log_records, true, memory_order_relaxed);
	for (uint32_t i = 0; i < count; i++) {
		struct tr_stub *stub = tr_spool_stub(engine->spool, slots[i]);

		tr_stub_set_queue(stub, sched->index);
		stub->order = 0;
		if (sched->home == worker)
			slots_add(engine->spool, &here, slots[i]);
		else
			worker_post_slot(worker, sched->home, slots[i], false);
	}
	if (here.count > 0)
		sched_return(worker, &here, false);
}
