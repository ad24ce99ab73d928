/* Lists of stubs, and the waiting line of a scheduled queue with the sweep that finds what expired in it. */
#include <stdlib.h>

#include "base/clock.h"
#include "queue/engine.h"
#include "queue/order.h"
#include "queue/outcome.h"
#include "queue/sched.h"
#include "queue/worker.h"

void
slots_add(struct tr_spool *spool, struct slot_list *list, uint32_t slot)
{
	struct tr_stub *stub = tr_spool_stub(spool, slot);

	stub->next = TR_NO_SLOT;
	stub->prev = list->tail;
	if (list->tail == TR_NO_SLOT)
		list->head = slot;
	else
		tr_spool_stub(spool, list->tail)->next = slot;
	list->tail = slot;
	list->count++;
}

void
slots_add_front(struct tr_spool *spool, struct slot_list *list, uint32_t slot)
{
	struct tr_stub *stub = tr_spool_stub(spool, slot);

	stub->prev = TR_NO_SLOT;
	stub->next = list->head;
	if (list->head == TR_NO_SLOT)
		list->tail = slot;
	else
		tr_spool_stub(spool, list->head)->prev = slot;
	list->head = slot;
	list->count++;
}

void
slots_remove(struct tr_spool *spool, struct slot_list *list, uint32_t slot)
{
	struct tr_stub *stub = tr_spool_stub(spool, slot);

	if (stub->prev == TR_NO_SLOT)
		list->head = stub->next;
	else
		tr_spool_stub(spool, stub->prev)->next = stub->next;
	if (stub->next == TR_NO_SLOT)
		list->tail = stub->prev;
	else
		tr_spool_stub(spool, stub->next)->prev = stub->prev;
	stub->next = stub->prev = TR_NO_SLOT;
	list->count--;
}

uint32_t
slots_pop(struct tr_spool *spool, struct slot_list *list)
{
	uint32_t slot = list->head;

	if (slot != TR_NO_SLOT)
		slots_remove(spool, list, slot);
	return slot;
}

struct by_seq {
	uint64_t seq;
	uint32_t slot;
};

static int
compare(const void *a, const void *b)
{
	uint64_t x = ((const struct by_seq *)a)->seq, y = ((const struct by_seq *)b)->seq;

	return (x > y) - (x < y);
}

bool
slots_sort(struct tr_spool *spool, struct slot_list *list)
{
	uint32_t count = list->count, slot;
	struct by_seq *all = count > 1 ? malloc(count * sizeof *all) : NULL;

	if (all == NULL)
		return count <= 1;
	for (uint32_t i = 0; i < count; i++) {
		slot = slots_pop(spool, list);
		all[i] = (struct by_seq){tr_spool_stub(spool, slot)->seq, slot};
	}
	qsort(all, count, sizeof *all, compare);
	for (uint32_t i = 0; i < count; i++)
		slots_add(spool, list, all[i].slot);
	free(all);
	return true;
}

/* --- the line: counts of the engine and of the queue are the callers' ---------------------------------- */

/* A message's own `expires` is kept in the stub (stub_note()) and goes before max_age; that of an ordered one is seen
 * when it is loaded. */
int64_t
stub_expiry_ms(const struct tr_sched *sched, const struct tr_stub *stub)
{
	int64_t max_age_ms = atomic_load_explicit(&sched->max_age_ms, memory_order_relaxed);

	if (stub->order != 0 && !(tr_stub_flags(stub) & TR_MSG_ORDERED))
		return (int64_t)stub->order * 1000;
	return max_age_ms == INT64_MAX ? INT64_MAX : tr_stub_created_ms(stub) + max_age_ms;
}

void
line_add(struct tr_sched *sched, uint32_t slot, bool front)
{
	struct tr_spool *spool = sched->engine->spool;
	int64_t expiry_ms = stub_expiry_ms(sched, tr_spool_stub(spool, slot));

	if (front)
		slots_add_front(spool, &sched->line, slot);
	else
		slots_add(spool, &sched->line, slot);
	place_set(tr_spool_stub(spool, slot), PLACE_LINE);
	if (expiry_ms < sched->line_expiry_ms)
		sched->line_expiry_ms = expiry_ms;
	if (front && sched->sweep_at != TR_NO_SLOT)
		sched->sweep_at = sched->line.head; /* looks again rather than misses one */
}

void
line_remove(struct tr_sched *sched, uint32_t slot)
{
	struct tr_spool *spool = sched->engine->spool;

	if (sched->sweep_at == slot)
		sched->sweep_at = tr_spool_stub(spool, slot)->next;
	slots_remove(spool, &sched->line, slot);
	place_set(tr_spool_stub(spool, slot), PLACE_NONE);
}

uint32_t
line_pop(struct tr_sched *sched)
{
	uint32_t slot = sched->line.head;

	if (slot != TR_NO_SLOT)
		line_remove(sched, slot);
	return slot;
}

static void sweep_turn(struct tr_timer *timer);

/* A slice of the expiry sweep of one line. True when it is through. */
static bool
sweep_slice(struct tr_sched *sched, int64_t now_ms)
{
	struct tr_worker *worker = sched->home;
	struct tr_spool *spool = sched->engine->spool;
	uint32_t moved = 0;

	for (uint32_t looked = 0; looked < SWEEP_MAX && sched->sweep_at != TR_NO_SLOT; looked++) {
		uint32_t slot = sched->sweep_at;
		struct tr_stub *stub = tr_spool_stub(spool, slot);
		int64_t expiry_ms = stub_expiry_ms(sched, stub);

		sched->sweep_at = stub->next;
		if (expiry_ms <= now_ms) {
			line_remove(sched, slot);
			judge_slot(worker, slot);
			moved++;
		} else if (expiry_ms < sched->line_expiry_ms) {
			sched->line_expiry_ms = expiry_ms;
		}
	}
	count_move(sched->engine, IN_LINE, IN_FLIGHT, moved);
	atomic_fetch_sub_explicit(&sched->waiting, moved, memory_order_relaxed);
	return sched->sweep_at == TR_NO_SLOT;
}

static void
sweep_turn(struct tr_timer *timer)
{
	struct tr_worker *worker = tr_container_of(timer, struct tr_worker, sweep_timer);
	struct tr_sched *sched = worker->sweeping;

	if (sched == NULL)
		return;
	worker->sweeping = sched->sweep_next;
	if (!sweep_slice(sched, tr_wall_ms())) {
		struct tr_sched **end = &worker->sweeping; /* in turn with the others */

		while (*end != NULL)
			end = &(*end)->sweep_next;
		sched->sweep_next = NULL;
		*end = sched;
	} else {
		sched->sweep_queued = false;
		sched_count(sched, -1);
	}
	judge_start(worker);
	if (worker->sweeping != NULL)
		tr_timer_start(tr_loop_wheel(worker->loop), &worker->sweep_timer, TR_NS_PER_MS, sweep_turn);
}

void
line_check_expiry(struct tr_sched *sched, int64_t now_ms)
{
	struct tr_worker *worker = sched->home;

	if (sched->line_expiry_ms > now_ms || sched->sweep_queued || sched->line.count == 0 ||
		tr_mono_ns() < sched->blocked_until_ns)
		return;
	sched->line_expiry_ms = INT64_MAX; /* the sweep finds the new one */
	sched->sweep_at = sched->line.head;
	sched->sweep_queued = true;
	sched->sweep_next = worker->sweeping;
	worker->sweeping = sched;
	sched_count(sched, 1);
	if (!tr_timer_running(&worker->sweep_timer))
		tr_timer_start(tr_loop_wheel(worker->loop), &worker->sweep_timer, 0, sweep_turn);
}
