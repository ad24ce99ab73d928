/* What happens every ten seconds and when the epoch changes: queues are reaped or their configuration is asked again.
 */
#include "base/clock.h"
#include "queue/engine.h"
#include "queue/ready.h"
#include "queue/sched.h"
#include "queue/worker.h"

static void
look_after(struct tr_sched *sched, int64_t now_ns)
{
	uint32_t epoch = atomic_load(&sched->engine->epoch);
	int64_t now_ms = tr_wall_ms();
	const struct tr_queue_config *config = sched->config;
	int64_t reap_ns = config != NULL ? config->reap_interval_ns : ERROR_TTL_NS;

	line_check_expiry(sched, now_ms);
	if (atomic_load_explicit(&sched->count, memory_order_acquire) == 0 &&
		now_ns - sched->inserted_at_ns >= reap_ns) {
		sched_reap(sched);
		return;
	}
	if (config == NULL) {
		if (sched->line.count + sched->incoming.count > 0)
			sched_activate(sched);
		return;
	}
	if (config->refresh_on_epoch ? sched->epoch != epoch
				     : now_ns - sched->resolved_at_ns >= config->refresh_interval_ns)
		sched_resolve(sched);
}

void
sched_refresh_all(struct tr_worker *worker)
{
	int64_t now_ns = tr_mono_ns();
	struct tr_sched *next;

	/* only this worker takes queues out of the list; others add at the front under its lock */
	pthread_mutex_lock(&worker->home_lock);
	next = worker->homes;
	pthread_mutex_unlock(&worker->home_lock);
	while (next != NULL) {
		struct tr_sched *sched = next;

		pthread_mutex_lock(&worker->home_lock);
		next = sched->home_next;
		pthread_mutex_unlock(&worker->home_lock);
		look_after(sched, now_ns);
	}
}

static void
epoch_arrived(struct tr_mail *mail)
{
	struct tr_worker *worker = tr_container_of(mail, struct tr_worker, epoch_mail);

	atomic_store(&worker->epoch_posted, false);
	sched_refresh_all(worker);
	ready_housekeeping(worker);
}

void
tr_engine_bump_epoch(struct tr_engine *engine)
{
	atomic_fetch_add(&engine->epoch, 1);
	for (uint32_t i = 0; i < engine->worker_count; i++) {
		struct tr_worker *worker = &engine->workers[i];

		if (atomic_exchange(&worker->epoch_posted, true))
			continue;
		worker->epoch_mail.fn = epoch_arrived;
		tr_loop_post(worker->loop, &worker->epoch_mail);
	}
}
