/* A walk over all that waits in the queues at home on one worker, some hundred stubs a turn: queue by queue through the
 * lines, then bucket by bucket through the wheel, from the far levels to the near ones, since entries only ever come
 * nearer. Each queue looked at keeps its place by a reference. */
#include "queue/admin.h"
#include "queue/engine.h"
#include "queue/order.h"
#include "queue/sched.h"
#include "queue/worker.h"

static void turn(struct tr_timer *timer);

void
sweep_start(struct sweep *sweep, struct tr_worker *worker)
{
	sweep->worker = worker;
	sweep->lines_done = false;
	sweep->level = SLOT_LEVELS - 1;
	sweep->index = 0;
	sweep->pending = TR_NO_SLOT;
	pthread_mutex_lock(&worker->home_lock);
	sweep->sched = worker->homes;
	if (sweep->sched != NULL)
		sched_count(sweep->sched, 1);
	pthread_mutex_unlock(&worker->home_lock);
	tr_timer_start(tr_loop_wheel(worker->loop), &sweep->timer, 0, turn);
}

void
sweep_stop(struct sweep *sweep)
{
	tr_timer_stop(tr_loop_wheel(sweep->worker->loop), &sweep->timer);
}

static uint32_t
take_line(struct sweep *sweep, struct tr_sched *sched, uint32_t most)
{
	uint32_t moved = 0;

	uint32_t slot;

	while (moved < most && sched->line.count > 0) {
		sweep->take(sweep, line_pop(sched));
		moved++;
	}
	while (moved < most && (slot = order_take(sched)) != TR_NO_SLOT) {
		sweep->take(sweep, slot);
		moved++;
	}
	count_move(sched->engine, IN_LINE, IN_FLIGHT, moved);
	atomic_fetch_sub_explicit(&sched->waiting, moved, memory_order_relaxed);
	return moved;
}

static uint32_t
look_at_bucket(struct sweep *sweep, uint32_t most)
{
	struct tr_worker *worker = sweep->worker;
	struct tr_engine *engine = worker->engine;
	uint32_t looked = 0;
	int64_t moved = 0;

	while (looked < most && sweep->pending != TR_NO_SLOT) {
		uint32_t slot = sweep->pending;
		struct tr_stub *stub = tr_spool_stub(engine->spool, slot);
		struct tr_sched *sched = sched_at(engine, stub->queue);

		sweep->pending = stub->next;
		looked++;
		if (sweep->wants(sweep, sched)) {
			sweep->take(sweep, slot);
			atomic_fetch_sub_explicit(&sched->waiting, 1, memory_order_relaxed);
			moved++;
		} else {
			slot_wheel_add(&worker->wheel, slot);
		}
	}
	count_move(engine, IN_TIMERS, IN_FLIGHT, moved);
	return looked;
}

static void
turn(struct tr_timer *timer)
{
	struct sweep *sweep = tr_container_of(timer, struct sweep, timer);
	struct tr_worker *worker = sweep->worker;
	uint32_t left = SWEEP_MAX;

	while (left > 0 && sweep->sched != NULL) {
		struct tr_sched *sched = sweep->sched;

		left--;
		if (sweep->wants(sweep, sched)) {
			uint32_t moved = take_line(sweep, sched, left);

			left -= moved;
			if (sched->line.count + atomic_load(&sched->behind) > 0 && moved > 0)
				break; /* goes on here */
		}
		pthread_mutex_lock(&worker->home_lock);
		sweep->sched = sched->home_next;
		if (sweep->sched != NULL)
			sched_count(sweep->sched, 1);
		pthread_mutex_unlock(&worker->home_lock);
		sched_count(sched, -1);
	}
	sweep->lines_done = sweep->sched == NULL;
	while (left > 0 && sweep->lines_done && sweep->level >= 0) {
		if (sweep->pending == TR_NO_SLOT) {
			sweep->pending = slot_wheel_detach(&worker->wheel, (uint32_t)sweep->level, sweep->index);
			if (++sweep->index == SLOT_BUCKETS) {
				sweep->index = 0;
				sweep->level--;
			}
			if (sweep->pending == TR_NO_SLOT)
				continue;
		}
		left -= look_at_bucket(sweep, left);
	}
	if (sweep->lines_done && sweep->level < 0)
		look_at_bucket(sweep, left);
	if (sweep->turn != NULL)
		sweep->turn(sweep);
	worker_arm_wheel(worker);
	if (sweep->lines_done && sweep->level < 0 && sweep->pending == TR_NO_SLOT) {
		sweep->ended(sweep); /* may free it */
		return;
	}
	tr_timer_start(tr_loop_wheel(worker->loop), &sweep->timer, TR_NS_PER_MS, turn);
}
