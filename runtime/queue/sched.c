/* Scheduled queues: the pump that moves messages on to the ready queue, and what comes in and back. The table is in
 * sched_table.c. */
#include "queue/sched.h"
#include "base/clock.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "queue/admin.h"
#include "queue/budget.h"
#include "queue/engine.h"
#include "queue/order.h"
#include "queue/outcome.h"
#include "queue/ready.h"
#include "queue/worker.h"

/* --- pumping -------------------------------------------------------------------------------------------- */

static void
pump_all(struct tr_defer *defer)
{
	struct tr_worker *worker = tr_container_of(defer, struct tr_worker, pump_defer);
	struct tr_sched *sched = worker->active;

	worker->active = NULL;
	worker->active_end = &worker->active;
	while (sched != NULL) {
		struct tr_sched *next = sched->active_next;

		sched->active = false;
		sched_pump(sched);
		sched = next;
	}
	worker_arm_wheel(worker);
}

void
sched_activate(struct tr_sched *sched)
{
	struct tr_worker *worker = sched->home;

	if (sched->active || !worker->started)
		return;
	sched->active = true;
	sched->active_next = NULL;
	*worker->active_end = sched;
	worker->active_end = &sched->active_next;
	tr_loop_defer(worker->loop, &worker->pump_defer, pump_all);
}

void
sched_kick_arrived(struct tr_mail *mail)
{
	struct tr_sched *sched = tr_container_of(mail, struct tr_sched, kick_mail);

	atomic_store(&sched->kicked, false);
	sched_activate(sched);
}

void
sched_kick_marked(struct tr_sched *sched)
{
	if (tr_loop_current() == sched->home->loop) {
		atomic_store(&sched->kicked, false);
		sched_activate(sched);
	} else {
		tr_loop_post(sched->home->loop, &sched->kick_mail);
	}
}

static void
retry_due(struct tr_timer *timer)
{
	sched_activate(tr_container_of(timer, struct tr_sched, timer));
}

void
sched_retry_in(struct tr_sched *sched, int64_t delay_ns)
{
	int64_t due_ns = tr_mono_ns() + delay_ns;

	if (!tr_timer_running(&sched->timer) || sched->timer.due_ns > due_ns)
		tr_timer_start_at(tr_loop_wheel(sched->home->loop), &sched->timer, due_ns, retry_due);
}

uint32_t
judge_incoming(struct tr_sched *sched)
{
	uint32_t count = sched->incoming.count, on = 0;
	struct judge judge = {.worker = sched->home};
	int64_t now_ms = tr_wall_ms();
	struct tr_message *message;
	bool hook = sched->engine->ops.wants_promote != NULL &&
		    sched->engine->ops.wants_promote(sched->engine->ops_arg, sched->home);

	while ((message = list_pop(&sched->incoming)) != NULL) {
		if (judge_message(&judge, sched, message, JUDGE_PROMOTE, now_ms)) {
			list_add(hook ? &sched->hooking : &sched->fresh, message);
			on++;
		}
		/* judge_message() moves what it takes from IN_READY to IN_FLIGHT */
	}
	judge_finish(&judge, NULL);
	if (sched->hooking.count > 0)
		hook_start(sched);
	return count - on;
}

static void
pump(struct tr_sched *sched)
{
	struct tr_engine *engine = sched->engine;
	struct tr_worker *worker = sched->home;
	struct lane *lane = sched->lanes;
	struct tr_ready *ready;
	int64_t until_ns = 0;
	int state;

	if (sched->incoming.count + sched->fresh.count + sched->line.count == 0 && !lanes_hold(sched)) {
		if (!sched->loading)
			lanes_release(sched); /* room that came too late */
		return;
	}
	if (sched->config == NULL) {
		if (tr_mono_ns() >= sched->error_until_ns)
			sched_resolve(sched); /* policy may answer at once */
		else
			sched_retry_in(sched, sched->error_until_ns - tr_mono_ns());
	}
	if (sched->config == NULL) {
		if (sched->incoming.count > FRESH_MAX || !sched->resolving)
			sched_spill(sched, &sched->incoming, false);
		return;
	}
	line_check_expiry(sched, tr_wall_ms());
	if (sched->drains) {
		judge_incoming(sched);
		if (sched->line.count > 0)
			load_start(sched, JUDGE_MAX);
		return;
	}
	if (atomic_load_explicit(&engine->rule_count[TR_ADMIN_SUSPEND], memory_order_relaxed) != 0 &&
		admin_check(engine, TR_ADMIN_SUSPEND, sched, NULL, 0, &until_ns)) {
		judge_incoming(sched); /* each a TransientFailure: it came due under the rule */
		sched_spill(sched, &sched->fresh, true);
		sched_retry_in(sched, until_ns - tr_mono_ns());
		lanes_release(sched);
		return;
	}
	if (sched->no_sources) {
		lanes_refuse(sched);
		return;
	}
	if (!site_known(sched))
		return;
	if (lanes_stale(sched) && ready_route(sched) != TR_OK) {
		sched_retry_in(sched, TR_NS_PER_S);
		return;
	}
	if (sched->lane_count > 1 || lane_is_special(lane)) {
		lanes_pump(sched);
		return;
	}
	ready = lane->ready;
	state = atomic_load(&ready->state);
	if (state == READY_RESOLVING) {
		if (sched->incoming.count > FRESH_MAX)
			sched_spill(sched, &sched->incoming, false);
		ready_reserve(lane, 0); /* to be told when the answer is there */
		return;
	}
	if (sched->rate != NULL)
		rate_admit(sched);
	rate_give_back(sched, judge_incoming(sched));
	if (state == READY_ERROR) { /* contract/events.md section 6: transient, then asked again */
		sched_spill(sched, &sched->fresh, true);
		if (sched->line.count > 0)
			load_start(sched, JUDGE_MAX);
		ready_kick(ready);
		return;
	}
	if (sched->fresh.count > 0 || lane->held > 0) {
		uint32_t held = lane->held;

		lane->held = 0;
		ready_push(lane, &sched->fresh, held, sched->line.count > 0);
		if (sched->fresh.count > 0) {
			tr_metric_add(sched->full_metric, sched->fresh.count);
			if (!sched->told_full)
				ready_metric(ready, M_READY_FULL, 1);
			sched->told_full = true;
			rate_give_back(sched, sched->fresh.count);
			sched_spill(sched, &sched->fresh, true);
		} else if (sched->line.count == 0) {
			sched->told_full = false;
		}
		ready_balance(ready, worker);
	}
	if (sched->line.count > 0 && !sched->loading && sched->hooking.count == 0 && sched->fresh.count == 0 &&
		tr_mono_ns() >= sched->blocked_until_ns) {
		uint32_t want = sched->line.count < LOAD_MAX ? sched->line.count : LOAD_MAX;
		uint32_t places = ready_reserve(lane, want);

		if (places == 0)
			sched->told_full = atomic_load(&ready->state) == READY_OK;
		if (sched->rate != NULL && places > 0) {
			uint32_t allowed = rate_take(sched, places);

			ready_release(ready, places - allowed);
			places = allowed;
		}
		lane->coming = places;
		if (places > 0 && !load_start(sched, places)) {
			lane->coming = 0;
			rate_give_back(sched, places);
			ready_release(ready, places);
		}
	}
}

void
sched_pump(struct tr_sched *sched)
{
	bool came = sched->incoming.count > 0;

	if (!sched->home->started || stopping(sched->engine))
		return;
	if (sched->budget != NULL)
		budget_check(sched);
	pump(sched);
	if (sched->budget != NULL && came)
		budget_check(sched); /* what has just come has a place now, from which it can be dropped */
}

/* --- in and back ------------------------------------------------------------------------------------------- */

void
sched_spill(struct tr_sched *sched, struct message_list *list, bool front)
{
	struct tr_engine *engine = sched->engine;
	struct outcome_op *save = NULL, *tell = NULL;
	struct slot_list slots = SLOT_LIST_EMPTY;
	struct tr_message *message;
	bool full = (sched->told_full || sched->rate_waits) && !stopping(engine);
	uint32_t moved = 0, saved = 0;

	while ((message = list_pop(list)) != NULL) {
		/* a message of mail gets one Delayed record when it meets a full ready queue; records of records would
		 * only swell a hook's backlog */
		if (full && !(message->flags & TR_MSG_LOG_RECORD) && message->owner_data == sched &&
			engine->ops.emit != NULL && (tell != NULL || (tell = op_new(sched->home)) != NULL)) {
			const char *const reasons[] = {
				"Received", sched->told_full ? "ReadyQueueWasFull" : "MessageRateThrottle", NULL};

			emit_delayed(tell, message, reasons, tr_wall_ms());
		}
		message->owner_data = NULL;
		if (message->flags & TR_MSG_DIRTY) {
			if (save == NULL)
				save = op_new(sched->home);
			if (save != NULL) {
				saved++;
				op_save(save, message);
				continue;
			}
		}
		slots_add(engine->spool, &slots, message->slot);
		tr_message_free(message);
		moved++;
	}
	while (slots.count > 0) {
		uint32_t slot;

		if (!front) {
			slot = slots_pop(engine->spool, &slots);
		} else { /* from the tail, so that the order stays */
			slot = slots.tail;
			slots_remove(engine->spool, &slots, slot);
		}
		line_add(sched, slot, front);
	}
	count_move(engine, IN_READY, IN_LINE, moved);
	count_move(engine, IN_READY, IN_FLIGHT, saved);
	atomic_fetch_add_explicit(&sched->waiting, moved, memory_order_relaxed);
	if (save != NULL)
		op_submit(save);
	if (tell != NULL)
		op_submit(tell);
}

void
sched_insert(struct tr_sched *sched, struct tr_message *message, const char *reason)
{
	struct tr_engine *engine = sched->engine;
	struct tr_stub *stub = tr_spool_stub(engine->spool, message->slot);
	int64_t now_ms = message->due_ms > 0 ? tr_wall_ms() : 0; /* 0: due at once */

	tr_stub_set_queue(stub, sched->index);
	if (!sched->active) /* once a turn is exact enough */
		sched->inserted_at_ns = tr_mono_ns();
	stub_note(stub, message);
	tr_stub_set(stub, message->due_ms, message->flags & ~TR_MSG_DIRTY, message->attempts);
	if (message->flags & TR_MSG_LOG_RECORD)
		atomic_store_explicit(&sched->log_records, true, memory_order_relaxed);
	if (sched->budget != NULL && (message->flags & TR_MSG_LOG_RECORD))
		budget_add(sched, message->slot);
	if ((message->flags & TR_MSG_ORDERED) && !order_try(sched, message->slot)) {
		order_wait(sched, message->slot);
		count_move(engine, IN_READY, IN_LINE, 1);
		atomic_fetch_add_explicit(&sched->waiting, 1, memory_order_relaxed);
		tr_message_free(message);
		return;
	}
	if (message->due_ms > now_ms) {
		struct judge judge = {.worker = sched->home};

		if (!judge_message(&judge, sched, message, JUDGE_INSERT, now_ms)) {
			judge_finish(&judge, NULL);
			return;
		}
		if (engine->ops.emit != NULL && !stopping(engine)) {
			const char *reasons[] = {reason, "ScheduledForLater", NULL};
			struct outcome_op *tell = op_new(sched->home);

			if (tell != NULL) {
				emit_delayed(tell, message, reasons, message->due_ms);
				op_submit(tell);
			}
		}
		worker_check_clock(sched->home);
		slot_wheel_add(&sched->home->wheel, message->slot);
		count_move(engine, IN_READY, IN_TIMERS, 1);
		atomic_fetch_add_explicit(&sched->waiting, 1, memory_order_relaxed);
		worker_arm_wheel(sched->home);
		if (message->flags & TR_MSG_DIRTY)
			tr_log(TR_LEVEL_DEBUG, "queue", "a changed message was put in without being stored");
		tr_message_free(message);
		return;
	}
	message->owner_data = sched; /* new here: the mark of sched_spill() */
	if (!sched->home->started || stopping(engine) || sched->line.count > 0 || sched->loading ||
		sched->hooking.count > 0) {
		struct message_list one = {NULL, NULL, 0};

		list_add(&one, message);
		sched_spill(sched, &one, false);
	} else {
		list_add(&sched->incoming, message);
	}
	sched_activate(sched);
}

void
sched_return(struct tr_worker *worker, struct slot_list *slots, bool front)
{
	struct tr_engine *engine = worker->engine;
	int64_t now_ms = tr_wall_ms(), to_line = 0, to_timers = 0;
	uint32_t next;

	/* in the order that they have, whatever end they go to */
	for (uint32_t slot = slots->head; slot != TR_NO_SLOT; slot = next) {
		const struct tr_stub *stub = tr_spool_stub(engine->spool, slot);

		next = stub->next;
		struct tr_sched *sched = sched_at(engine, stub->queue);

		if (!(tr_stub_flags(stub) & TR_MSG_ORDERED) || order_try(sched, slot))
			continue;
		slots_remove(engine->spool, slots, slot);
		order_wait(sched, slot);
		atomic_fetch_add_explicit(&sched->waiting, 1, memory_order_relaxed);
		to_line++;
	}
	while (slots->count > 0) {
		uint32_t slot = front ? slots->tail : slots->head;
		struct tr_stub *stub = tr_spool_stub(engine->spool, slot);
		struct tr_sched *sched = sched_at(engine, stub->queue);

		slots_remove(engine->spool, slots, slot);
		if (sched->budget != NULL && (tr_stub_flags(stub) & TR_MSG_LOG_RECORD))
			budget_add(sched, slot); /* if it is not counted: it was under way when the budget was set */
		if (tr_stub_due_ms(stub) > now_ms) {
			worker_check_clock(worker);
			slot_wheel_add(&worker->wheel, slot);
			to_timers++;
		} else {
			line_add(sched, slot, front);
			to_line++;
		}
		atomic_fetch_add_explicit(&sched->waiting, 1, memory_order_relaxed);
		sched_activate(sched);
	}
	count_move(engine, IN_FLIGHT, IN_LINE, to_line);
	count_move(engine, IN_FLIGHT, IN_TIMERS, to_timers);
	worker_arm_wheel(worker);
}
