/* Undecided records that wait in the spool: after a start, and when policy is slower than the events. They are loaded
 * as runtime/record has room for them, in order within an account, accounts in turn. */
#include <stdlib.h>

#include "base/diag.h"
#include "queue/engine.h"
#include "queue/outcome.h"
#include "queue/worker.h"

struct decide_load {
	struct tr_load load;
	struct tr_worker *worker;
	uint16_t account;
	uint32_t slots[64];
	struct tr_message *messages[64];
	int status[64];
};

static void
left(const struct decide_load *op)
{
	atomic_fetch_sub_explicit(&op->worker->engine->undecided_of[op->account], 1, memory_order_relaxed);
}

static void
decide_loaded(struct tr_load *load)
{
	struct decide_load *op = tr_container_of(load, struct decide_load, load);
	struct tr_worker *worker = op->worker;
	struct tr_engine *engine = worker->engine;
	struct outcome_op *lost = NULL;
	bool any = false;

	worker->undecided_loading = false;
	for (uint32_t i = 0; i < load->count; i++) {
		if (op->status[i] >= 0 && op->messages[i] != NULL) {
			any = true;
			left(op);
			count_add(engine, IN_UNDECIDED, -1); /* record's from here; it comes back by insert or park */
			engine->ops.decide(engine->ops_arg, worker, op->messages[i]);
		} else if (op->status[i] == TR_ECORRUPT && (lost != NULL || (lost = op_new(worker)) != NULL)) {
			left(op);
			count_move(engine, IN_UNDECIDED, IN_FLIGHT, 1);
			op_lost(lost, op->slots[i]);
		} else {
			slots_add(engine->spool, &worker->undecided[op->account], op->slots[i]);
			atomic_fetch_add_explicit(&worker->undecided_count, 1, memory_order_relaxed);
		}
	}
	if (lost != NULL)
		op_submit(lost);
	free(op);
	busy_drop(engine);
	if (any) /* what cannot be read now is tried again by the housekeeping */
		worker_decide(worker);
}

/* The next account in turn that has undecided ones and room for them; false: none. */
static bool
choose(struct tr_worker *worker, uint32_t *room)
{
	struct tr_engine *engine = worker->engine;

	for (uint32_t i = 0; i < TR_ACCOUNTS_MAX; i++) {
		uint32_t account = worker->undecided_account = (worker->undecided_account + 1) % TR_ACCOUNTS_MAX;

		if (worker->undecided[account].count == 0)
			continue;
		*room = engine->ops.decide_room == NULL ? UINT32_MAX
							: engine->ops.decide_room(engine->ops_arg, (uint16_t)account);
		if (*room > 0)
			return true;
	}
	return false;
}

void
worker_decide(struct tr_worker *worker)
{
	struct tr_engine *engine = worker->engine;
	struct slot_list *list;
	struct decide_load *op;
	uint32_t room;

	if (worker->undecided_loading || stopping(engine) || engine->ops.decide == NULL ||
		atomic_load_explicit(&worker->undecided_count, memory_order_relaxed) == 0 || !choose(worker, &room))
		return;
	list = &worker->undecided[worker->undecided_account];
	op = calloc(1, sizeof *op);
	if (op == NULL)
		return; /* the housekeeping tries again */
	op->worker = worker;
	op->account = (uint16_t)worker->undecided_account;
	op->load.loop = worker->loop;
	op->load.done = decide_loaded;
	op->load.slots = op->slots;
	op->load.messages = op->messages;
	op->load.status = op->status;
	while (op->load.count < TR_COUNT(op->slots) && op->load.count < room && list->count > 0)
		op->slots[op->load.count++] = slots_pop(engine->spool, list);
	atomic_fetch_sub_explicit(&worker->undecided_count, op->load.count, memory_order_relaxed);
	worker->undecided_loading = true;
	busy_add(engine);
	tr_spool_load(engine->spool, &op->load);
}

void
worker_undecided_start(struct tr_worker *worker)
{
	for (uint32_t i = 0; i < TR_ACCOUNTS_MAX; i++) {
		if (!slots_sort(worker->engine->spool, &worker->undecided[i]))
			tr_log(TR_LEVEL_ERROR, "queue",
				"no memory to sort what policy has to decide: the log's order stays");
	}
}

void
worker_undecided_add(struct tr_worker *worker, uint32_t slot)
{
	struct tr_engine *engine = worker->engine;
	uint16_t account = tr_spool_stub(engine->spool, slot)->account;

	slots_add(engine->spool, &worker->undecided[account], slot);
	atomic_fetch_add_explicit(&worker->undecided_count, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&engine->undecided_of[account], 1, memory_order_relaxed);
}

void
tr_queue_leave_undecided(struct tr_worker *worker, struct tr_message *message)
{
	count_add(worker->engine, IN_UNDECIDED, 1);
	worker_undecided_add(worker, message->slot);
	tr_message_free(message);
	worker_decide(worker); /* there may be room by now, and nobody else to see it */
}

void
tr_queue_ask_again(struct tr_worker *worker, uint32_t slot)
{
	struct tr_engine *engine = worker->engine;
	uint16_t account = tr_spool_stub(engine->spool, slot)->account;

	count_add(engine, IN_UNDECIDED, 1);
	slots_add(engine->spool, &worker->ask_again, slot);
	atomic_fetch_add_explicit(&engine->undecided_of[account], 1, memory_order_relaxed); /* newer ones stay behind */
}

void
worker_ask_again(struct tr_worker *worker)
{
	struct tr_spool *spool = worker->engine->spool;
	bool touched[TR_ACCOUNTS_MAX] = {false};

	if (worker->ask_again.count == 0)
		return;
	while (worker->ask_again.count > 0) {
		uint32_t slot = slots_pop(spool, &worker->ask_again);
		uint16_t account = tr_spool_stub(spool, slot)->account;

		slots_add(spool, &worker->undecided[account], slot);
		atomic_fetch_add_explicit(&worker->undecided_count, 1, memory_order_relaxed);
		touched[account] = true;
	}
	for (uint32_t i = 0; i < TR_ACCOUNTS_MAX; i++) {
		if (touched[i]) /* they are older than what waits; without memory the order is lost */
			(void)slots_sort(spool, &worker->undecided[i]);
	}
}

uint32_t
tr_queue_undecided(const struct tr_engine *engine, uint16_t account)
{
	return atomic_load_explicit(&engine->undecided_of[account], memory_order_relaxed);
}

static void
decide_arrived(struct tr_mail *mail)
{
	struct tr_worker *worker = tr_container_of(mail, struct tr_worker, decide_mail);

	atomic_store(&worker->decide_posted, false);
	worker_decide(worker);
}

void
tr_queue_decide_more(struct tr_engine *engine)
{
	for (uint32_t i = 0; i < engine->worker_count && !stopping(engine); i++) {
		struct tr_worker *worker = &engine->workers[i];

		if (atomic_load_explicit(&worker->undecided_count, memory_order_relaxed) == 0 ||
			atomic_exchange(&worker->decide_posted, true))
			continue;
		worker->decide_mail.fn = decide_arrived;
		tr_loop_post(worker->loop, &worker->decide_mail);
	}
}
