/* Reading messages back: from the line of one queue towards the ready queue, and those that only end. */
#include <stdlib.h>

#include "base/clock.h"
#include "queue/engine.h"
#include "queue/outcome.h"
#include "queue/sched.h"
#include "queue/worker.h"

struct load_op {
	struct tr_load load;
	struct tr_worker *worker;
	struct tr_sched *sched; /* its messages keep it; NULL: a mixed load of worker->judging */
	uint32_t *slots;
	struct tr_message **messages;
	int *status;
};

static struct load_op *
load_new(struct tr_worker *worker, uint32_t max, void (*done)(struct tr_load *load))
{
	struct load_op *op = calloc(1, sizeof *op);

	if (op == NULL)
		return NULL;
	op->slots = calloc(max, sizeof *op->slots);
	op->messages = calloc(max, sizeof *op->messages);
	op->status = calloc(max, sizeof *op->status);
	if (op->slots == NULL || op->messages == NULL || op->status == NULL) {
		free(op->slots);
		free(op->messages);
		free(op->status);
		free(op);
		return NULL;
	}
	op->worker = worker;
	op->load.loop = worker->loop;
	op->load.done = done;
	op->load.slots = op->slots;
	op->load.messages = op->messages;
	op->load.status = op->status;
	return op;
}

static void
load_free(struct load_op *op)
{
	struct tr_engine *engine = op->worker->engine;

	free(op->slots);
	free(op->messages);
	free(op->status);
	free(op);
	busy_drop(engine);
}

/* NULL: damaged (given up in *judge) or unreadable now (in *again). */
static struct tr_message *
loaded(struct load_op *op, uint32_t at, struct judge *judge, struct slot_list *again)
{
	struct tr_engine *engine = op->worker->engine;
	struct tr_message *message = op->messages[at];
	struct tr_stub *stub;

	if (message != NULL && op->status[at] >= 0) {
		stub = tr_spool_stub(engine->spool, op->slots[at]);
		stub_note(stub, message);
		message->owner_data = NULL;
		return message;
	}
	if (op->status[at] == TR_ECORRUPT) {
		if (judge->end == NULL)
			judge->end = op_new(op->worker);
		if (judge->end != NULL) {
			op_lost(judge->end, op->slots[at]);
			return NULL;
		}
	}
	slots_add(engine->spool, again, op->slots[at]);
	return NULL;
}

/* Those that cannot be read now go behind the others: a bad place on the disk must hold nothing but what lies there. If
 * nothing can be read it is the disk that has to be waited for. */
static void
read_later(struct tr_sched *sched, struct slot_list *again, uint32_t of)
{
	if (again->count == of) {
		sched->blocked_until_ns = tr_mono_ns() + TR_NS_PER_S;
		sched_retry_in(sched, TR_NS_PER_S);
	}
	sched_return(sched->home, again, false);
}

static void
line_loaded(struct tr_load *load)
{
	struct load_op *op = tr_container_of(load, struct load_op, load);
	struct tr_sched *sched = op->sched;
	struct tr_engine *engine = sched->engine;
	struct judge judge = {.worker = op->worker, .in_flight = true};
	struct slot_list again = SLOT_LIST_EMPTY;
	int64_t now_ms = tr_wall_ms(), on = 0;
	uint32_t coming = 0;
	bool hook = engine->ops.wants_promote != NULL && engine->ops.wants_promote(engine->ops_arg, op->worker);

	sched->loading = false;
	for (uint32_t i = 0; i < load->count; i++) {
		struct tr_message *message = loaded(op, i, &judge, &again);

		if (message == NULL || !judge_message(&judge, sched, message, JUDGE_PROMOTE, now_ms))
			continue;
		list_add(hook ? &sched->hooking : &sched->fresh, message);
		on++;
	}
	count_move(engine, IN_FLIGHT, IN_READY, on);
	for (uint32_t i = 0; i < sched->lane_count; i++) {
		coming += sched->lanes[i].coming;
		sched->lanes[i].held += sched->lanes[i].coming;
		sched->lanes[i].coming = 0;
	}
	if (coming > 0) /* they were on their way to the lanes, each with a token */
		rate_give_back(sched, load->count - (uint32_t)on);
	if (again.count > 0)
		read_later(sched, &again, load->count);
	if (stopping(engine)) {
		sched_spill(sched, &sched->fresh, true);
		if (!sched->hook_waiting) /* the handler has the first of them; hook_answered() goes on */
			sched_spill(sched, &sched->hooking, true);
	}
	judge_finish(&judge, NULL);
	if (sched->hooking.count > 0)
		hook_start(sched);
	sched_activate(sched);
	load_free(op);
}

bool
load_start(struct tr_sched *sched, uint32_t max)
{
	struct tr_engine *engine = sched->engine;
	struct load_op *op;

	if (sched->loading || tr_mono_ns() < sched->blocked_until_ns)
		return false;
	op = load_new(sched->home, max, line_loaded);
	if (op == NULL) {
		sched_retry_in(sched, TR_NS_PER_S);
		return false;
	}
	op->sched = sched;
	while (op->load.count < max && sched->line.count > 0)
		op->slots[op->load.count++] = line_pop(sched);
	count_move(engine, IN_LINE, IN_FLIGHT, op->load.count);
	atomic_fetch_sub_explicit(&sched->waiting, op->load.count, memory_order_relaxed);
	sched->loading = true;
	busy_add(engine);
	tr_spool_load(engine->spool, &op->load);
	return true;
}

/* --- those that come due under a rule, or expired where they wait ------------------------------------------- */

static void
judging_loaded(struct tr_load *load)
{
	struct load_op *op = tr_container_of(load, struct load_op, load);
	struct tr_worker *worker = op->worker;
	struct tr_engine *engine = worker->engine;
	struct judge judge = {.worker = worker, .in_flight = true};
	struct slot_list back = SLOT_LIST_EMPTY;
	int64_t now_ms = tr_wall_ms();
	bool any = false;

	worker->judge_loading = false;
	for (uint32_t i = 0; i < load->count; i++) {
		struct tr_message *message = loaded(op, i, &judge, &back);

		if (message == NULL)
			continue;
		any = true;
		if (judge_message(&judge, sched_of(engine, message), message, JUDGE_TAKE, now_ms)) {
			slots_add(engine->spool, &back, message->slot);
			tr_message_free(message);
		}
	}
	judge_finish(&judge, NULL);
	if (back.count > 0)
		sched_return(worker, &back, true);
	load_free(op);
	if (any)
		judge_start(worker);
}

void
judge_slot(struct tr_worker *worker, uint32_t slot)
{
	slots_add(worker->engine->spool, &worker->judging, slot);
}

void
judge_start(struct tr_worker *worker)
{
	struct tr_engine *engine = worker->engine;
	struct load_op *op;

	if (worker->judge_loading || worker->judging.count == 0 || stopping(engine))
		return;
	op = load_new(worker, JUDGE_MAX, judging_loaded);
	if (op == NULL)
		return; /* the housekeeping tries again */
	while (op->load.count < JUDGE_MAX && worker->judging.count > 0)
		op->slots[op->load.count++] = slots_pop(engine->spool, &worker->judging);
	worker->judge_loading = true;
	busy_add(engine);
	tr_spool_load(engine->spool, &op->load);
}
