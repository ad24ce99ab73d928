/* What becomes of the messages of an outcome once its change is stored, or refused for want of memory. */
#include "base/clock.h"
#include "base/diag.h"
#include "queue/dead.h"
#include "queue/engine.h"
#include "queue/order.h"
#include "queue/outcome.h"
#include "queue/ready.h"
#include "queue/sched.h"
#include "queue/worker.h"

/* Messages of one queue mostly come in runs: one subtraction each. */
struct run {
	struct tr_sched *sched;
	int64_t count;
};

static void
run_add(struct run *run, struct tr_sched *sched)
{
	if (run->sched != sched) {
		if (run->sched != NULL)
			sched_count(run->sched, -run->count);
		run->sched = sched;
		run->count = 0;
	}
	run->count++; /* without a queue there is nothing to count down */
}

static void
run_end(struct run *run)
{
	if (run->sched != NULL)
		sched_count(run->sched, -run->count);
	run->sched = NULL;
}

void
op_settle(struct outcome_op *op)
{
	struct tr_worker *worker = op->worker;
	struct tr_engine *engine = worker->engine;
	struct slot_list local = SLOT_LIST_EMPTY;
	struct run run = {NULL, 0};
	struct tr_message *message;

	count_add(engine, IN_FLIGHT, -(int64_t)(op->ended.count + op->dead.count + op->lost.count + op->moved.count));
	while ((message = list_pop(&op->dead)) != NULL) {
		run_add(&run, message->owner_data);
		tr_dead_add(engine->dead, message->slot, tr_str(message->queue != NULL ? message->queue : ""));
		tr_message_free(message);
	}
	while ((message = list_pop(&op->ended)) != NULL) {
		run_add(&run, sched_of(engine, message));
		tr_message_free(message);
	}
	while (op->lost.count > 0) {
		uint32_t slot = slots_pop(engine->spool, &op->lost);

		run_add(&run, sched_at(engine, tr_spool_stub(engine->spool, slot)->queue));
	}
	count_move(engine, IN_FLIGHT, IN_PARKED, op->parked.count);
	while ((message = list_pop(&op->parked)) != NULL) {
		run_add(&run, sched_of(engine, message));
		tr_dead_add(engine->dead, message->slot, tr_str(message->queue != NULL ? message->queue : ""));
		tr_message_free(message);
	}
	while ((message = list_pop(&op->kept)) != NULL) {
		struct tr_sched *sched = sched_of(engine, message);
		uint32_t slot = message->slot;

		tr_message_free(message);
		if (sched->home == worker)
			slots_add(engine->spool, &local, slot);
		else
			worker_post_slot(worker, sched->home, slot, false);
	}
	while ((message = list_pop(&op->moved)) != NULL) {
		run_add(&run, sched_of(engine, message));
		tr_queue_insert(
			worker, message, op->spec.reasons[0] != NULL ? op->spec.reasons[0] : "LoggedTransientFailure");
	}
	run_end(&run);
	leavers_go(op->leavers, worker);
	op->leavers = NULL;
	if (local.count > 0)
		sched_return(worker, &local, false);
}

/* A stub that ends or leaves nothing after all: back to where it waited. Damaged ones are read again in a second, when
 * there may be memory to record it. */
static void
set_back(struct outcome_op *op, uint32_t slot, bool damaged, struct slot_list *local)
{
	struct tr_worker *worker = op->worker;
	struct tr_engine *engine = worker->engine;
	const struct tr_stub *stub = tr_spool_stub(engine->spool, slot);
	struct tr_sched *sched = sched_at(engine, stub->queue);

	if (sched == NULL) { /* it was undecided, or parked: that is all that is counted without a queue and not read */
		count_move(engine, IN_FLIGHT, IN_UNDECIDED, 1);
		worker_undecided_add(worker, slot);
	} else if (sched->home == worker) {
		if (damaged) {
			sched->blocked_until_ns = tr_mono_ns() + TR_NS_PER_S;
			sched_retry_in(sched, TR_NS_PER_S);
		}
		slots_add(engine->spool, local, slot);
	} else {
		worker_post_slot(worker, sched->home, slot, true);
	}
}

/* Nothing of it is stored: all wait again as they did. */
void
op_set_back(struct outcome_op *op, int status)
{
	struct tr_engine *engine = op->worker->engine;
	struct message_list *lists[] = {&op->ended, &op->kept, &op->moved, &op->parked};
	struct slot_list local = SLOT_LIST_EMPTY;

	tr_log(TR_LEVEL_ERROR, "queue", "outcomes of %u messages could not be stored (%s): they are tried again",
		op->count, tr_err_text(status));
	for (size_t i = 0; i < TR_COUNT(lists); i++) {
		struct message_list back = {NULL, NULL, 0};
		struct tr_message *message;

		while ((message = list_pop(lists[i])) != NULL) {
			struct tr_stub *stub = tr_spool_stub(engine->spool, message->slot);

			message->flags &= ~TR_MSG_DIRTY; /* the stored form is what there is */
			if (lists[i] == &op->parked)     /* op_park() marked it: it is judged again */
				tr_stub_set(stub, message->due_ms,
					(uint16_t)(tr_stub_flags(stub) & ~TR_MSG_POLICY_ERROR), message->attempts);
			if (stub->queue != NO_SCHED) {
				list_add(&back, message);
				continue;
			}
			list_add(&op->worker->stranded, message); /* it has no line to wait in */
			count_move(engine, IN_FLIGHT, IN_PARKED, 1);
		}
		ready_return_to_lines(op->worker, &back, true);
	}
	while (op->dead.head != NULL) /* their new slots are taken back; what died waits as it did before */
		tr_message_free(list_pop(&op->dead));
	while (op->died.count > 0)
		set_back(op, slots_pop(engine->spool, &op->died), false, &local);
	while (op->lost.count > 0)
		set_back(op, slots_pop(engine->spool, &op->lost), true, &local);
	if (local.count > 0)
		sched_return(op->worker, &local, true);
}
