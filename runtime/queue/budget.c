/* Budgets of what waits, and shedding the oldest of it: from the line, the timers, behind a key, or a ready queue. What
 * a session has in hand stays. */
#include "queue/budget.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "queue/engine.h"
#include "queue/order.h"
#include "queue/outcome.h"
#include "queue/ready.h"
#include "queue/sched.h"
#include "queue/worker.h"

#define TOLD_EVERY_NS (60 * TR_NS_PER_S)

static struct tr_str
limits_text(const struct tr_queue_config *config, char out[96])
{
	int len = 0;

	if (config->max_waiting > 0)
		len += snprintf(out, 96, "%llu records", (unsigned long long)config->max_waiting);
	if (config->max_waiting_bytes > 0)
		len += snprintf(out + len, 96 - (size_t)len, "%s%llu bytes", len > 0 ? ", " : "",
			(unsigned long long)config->max_waiting_bytes);
	return (struct tr_str){out, (size_t)len};
}

static bool
is_over(const struct budget *budget, const struct tr_queue_config *config)
{
	return (config->max_waiting > 0 && budget->count > (int64_t)config->max_waiting) ||
	       (config->max_waiting_bytes > 0 && budget->bytes > (int64_t)config->max_waiting_bytes);
}

/* --- arrivals ---------------------------------------------------------------------------------------------------- */

static struct arrival *
arrival_at(struct budget *budget, uint32_t i)
{
	return &budget->arrivals[(budget->first + i) & (budget->cap - 1)];
}

static struct tr_stub *
live(struct tr_sched *sched, const struct arrival *arrival)
{
	struct tr_stub *stub = tr_spool_stub(sched->engine->spool, arrival->slot);

	return tr_stub_is(stub, arrival->seq, sched->index) && (tr_stub_owners(stub) & STUB_COUNTED) != 0 ? stub : NULL;
}

static void
drop_stale(struct tr_sched *sched)
{
	struct budget *budget = sched->budget;

	while (budget->length > 0 && live(sched, arrival_at(budget, 0)) == NULL) {
		budget->first = (budget->first + 1) & (budget->cap - 1);
		budget->length--;
	}
}

/* Those that have ended in the middle are taken out; then there is room, or the ring becomes larger. */
static bool
make_room(struct tr_sched *sched)
{
	struct budget *budget = sched->budget;
	uint32_t kept = 0, cap;
	struct arrival *grown;

	for (uint32_t i = 0; i < budget->length; i++)
		if (live(sched, arrival_at(budget, i)) != NULL)
			*arrival_at(budget, kept++) = *arrival_at(budget, i);
	budget->length = kept;
	if (budget->cap > 0 && kept < budget->cap / 2)
		return true;
	cap = budget->cap > 0 ? budget->cap * 2 : 256;
	grown = malloc(cap * sizeof *grown);
	if (grown == NULL)
		return kept < budget->cap;
	for (uint32_t i = 0; i < kept; i++)
		grown[i] = *arrival_at(budget, i);
	free(budget->arrivals);
	budget->arrivals = grown;
	budget->cap = cap;
	budget->first = 0;
	return true;
}

static void
note(struct tr_sched *sched, uint32_t slot)
{
	struct budget *budget = sched->budget;

	if (!sched->config->shed_oldest)
		return;
	if (budget->length == budget->cap && !make_room(sched)) {
		if (!budget->full)
			tr_log(TR_LEVEL_ERROR, "queue", "%s: no memory to note which records are the oldest",
				sched->name);
		budget->full = true;
		return;
	}
	*arrival_at(budget, budget->length++) =
		(struct arrival){slot, (uint32_t)tr_spool_stub(sched->engine->spool, slot)->seq};
}

/* --- counting ------------------------------------------------------------------------------------------------------
 */

void
budget_add(struct tr_sched *sched, uint32_t slot)
{
	struct budget *budget = sched->budget;
	struct tr_stub *stub = tr_spool_stub(sched->engine->spool, slot);

	if (sched->config == NULL || (tr_stub_owners(stub) & STUB_COUNTED) != 0)
		return;
	tr_stub_set_owners(stub, (uint16_t)(tr_stub_owners(stub) | STUB_COUNTED));
	budget->count++;
	budget->bytes += stub->size;
	note(sched, slot);
	if (is_over(budget, sched->config))
		sched_activate(sched);
}

void
budget_left(struct tr_sched *sched, uint32_t size)
{
	if (sched->budget == NULL)
		return;
	sched->budget->count--;
	sched->budget->bytes -= size;
}

static int
compare(const void *a, const void *b)
{
	const struct tr_stub *x = *(const struct tr_stub *const *)a, *y = *(const struct tr_stub *const *)b;

	return (x->seq > y->seq) - (x->seq < y->seq);
}

/* Slots of what waits and what is on its way in memory; those in a ready queue or with a session come into it when they
 * come back. NULL with *count > 0: no memory. */
static uint32_t *
all_waiting(struct tr_sched *sched, uint32_t *count)
{
	struct tr_spool *spool = sched->engine->spool;
	const struct message_list *lists[] = {&sched->incoming, &sched->fresh, &sched->hooking};
	const struct slot_wheel *wheel = &sched->home->wheel;
	int64_t waiting = atomic_load(&sched->waiting);
	uint32_t *slots, found = 0, most = (uint32_t)(waiting > 0 ? waiting : 0);

	for (size_t i = 0; i < TR_COUNT(lists); i++)
		most += lists[i]->count;
	*count = most;
	slots = most > 0 ? malloc(most * sizeof *slots) : NULL;
	if (slots == NULL)
		return NULL;
	for (size_t i = 0; i < TR_COUNT(lists); i++)
		for (struct tr_message *message = lists[i]->head; message != NULL && found < most;
			message = message->next)
			slots[found++] = message->slot;
	for (uint32_t slot = sched->line.head; slot != TR_NO_SLOT && found < most;
		slot = tr_spool_stub(spool, slot)->next)
		slots[found++] = slot;
	found += order_list(sched, slots + found, most - found);
	for (uint32_t at = 0; at < SLOT_LEVELS * SLOT_BUCKETS && found < most; at++) {
		uint32_t slot = wheel->head[at / SLOT_BUCKETS][at % SLOT_BUCKETS];

		for (; slot != TR_NO_SLOT && found < most; slot = tr_spool_stub(spool, slot)->next)
			if (tr_spool_stub(spool, slot)->queue == sched->index)
				slots[found++] = slot;
	}
	*count = found;
	return slots;
}

struct by_seq {
	const struct tr_stub *stub;
	uint32_t slot;
};

static void
adopt(struct tr_sched *sched)
{
	struct tr_spool *spool = sched->engine->spool;
	uint32_t count, records = 0, *slots = all_waiting(sched, &count);
	struct by_seq *all = slots != NULL ? malloc(count * sizeof *all) : NULL;

	if (count > 0 && all == NULL)
		tr_log(TR_LEVEL_ERROR, "queue", "%s: no memory to count what waits: its budget knows only what comes",
			sched->name);
	for (uint32_t i = 0; all != NULL && i < count; i++) {
		const struct tr_stub *stub = tr_spool_stub(spool, slots[i]);

		if (tr_stub_flags(stub) & TR_MSG_LOG_RECORD)
			all[records++] = (struct by_seq){stub, slots[i]};
	}
	if (records > 0)
		qsort(all, records, sizeof *all, compare);
	sched->budget->length = 0;
	for (uint32_t i = 0; i < records; i++) {
		if (tr_stub_owners(all[i].stub) & STUB_COUNTED)
			note(sched, all[i].slot); /* it is counted, but the rule was another one */
		else
			budget_add(sched, all[i].slot);
	}
	free(all);
	free(slots);
}

void
budget_set(struct tr_sched *sched)
{
	struct tr_queue_config *config = sched->config;
	bool wanted = config->max_waiting > 0 || config->max_waiting_bytes > 0;

	if (sched->budget == NULL) {
		if (!wanted)
			return;
		sched->budget = calloc(1, sizeof *sched->budget);
		if (sched->budget == NULL) {
			tr_log(TR_LEVEL_ERROR, "queue", "%s: no memory for its budget", sched->name);
			return;
		}
		sched->budget->shed = tr_metric_get(TR_COUNTER, "tailrace_records_shed",
			"log records dropped as the oldest of too many", "queue", sched->name, NULL);
		sched->budget->over = tr_metric_get(TR_GAUGE, "tailrace_over_budget",
			"1 while more log records wait than the queue's budget allows", "queue", sched->name, NULL);
		adopt(sched);
	} else if (config->shed_oldest && sched->budget->length == 0) {
		adopt(sched);
	} else if (!config->shed_oldest) {
		sched->budget->length = 0;
	}
	if (is_over(sched->budget, config))
		sched_activate(sched);
}

void
budget_free(struct tr_sched *sched)
{
	struct budget *budget = sched->budget;

	if (budget == NULL)
		return;
	tr_metric_unref(budget->shed);
	tr_metric_unref(budget->over);
	free(budget->arrivals);
	free(budget);
	sched->budget = NULL;
}

/* --- shedding --------------------------------------------------------------------------------------------------------
 */

static void
uncount(struct tr_sched *sched, struct tr_stub *stub)
{
	tr_stub_set_owners(stub, (uint16_t)(tr_stub_owners(stub) & ~STUB_COUNTED));
	budget_left(sched, stub->size);
}

/* Takes a stub from where it waits. */
static void
shed_slot(struct outcome_op *op, struct tr_sched *sched, uint32_t slot)
{
	struct tr_stub *stub = tr_spool_stub(sched->engine->spool, slot);

	switch (place_of(stub)) {
	case PLACE_LINE:
		line_remove(sched, slot);
		count_move(sched->engine, IN_LINE, IN_FLIGHT, 1);
		break;
	case PLACE_WHEEL:
		slot_wheel_remove(&sched->home->wheel, slot);
		count_move(sched->engine, IN_TIMERS, IN_FLIGHT, 1);
		break;
	default:
		order_remove(sched, slot);
		count_move(sched->engine, IN_LINE, IN_FLIGHT, 1);
		break;
	}
	atomic_fetch_sub_explicit(&sched->waiting, 1, memory_order_relaxed);
	uncount(sched, stub);
	op_drop(op, slot, TR_REASON_SHED);
}

/* Those of the ready queues that are older than what waits outside of them. */
static void
shed_ready(struct outcome_op *op, struct tr_sched *sched, uint64_t before_seq)
{
	struct tr_message *message;

	for (uint32_t i = 0; i < sched->lane_count; i++) {
		struct message_list list = {NULL, NULL, 0};

		while (sched->lanes[i].ready != NULL && is_over(sched->budget, sched->config) && op->count < OP_MAX) {
			ready_shed(sched->lanes[i].ready, sched, before_seq, 1, &list);
			message = list_pop(&list);
			if (message == NULL)
				break;
			count_move(sched->engine, IN_READY, IN_FLIGHT, 1);
			uncount(sched, tr_spool_stub(sched->engine->spool, message->slot));
			op_end(op, message, TR_COL_DROPPED, TR_REASON_SHED);
		}
	}
}

static uint32_t
shed(struct tr_sched *sched)
{
	struct budget *budget = sched->budget;
	struct outcome_op *op = op_new(sched->home);
	bool in_memory = false, asked = false;
	uint32_t count;

	if (op == NULL) {
		sched_retry_in(sched, TR_NS_PER_S);
		return 0;
	}
	drop_stale(sched);
	for (uint32_t i = 0; i < budget->length && is_over(budget, sched->config) && op->count < OP_MAX; i++) {
		const struct tr_stub *stub = live(sched, arrival_at(budget, i));

		if (stub == NULL)
			continue;
		if (place_of(stub) == PLACE_NONE) {
			in_memory = true;
			continue;
		}
		if (in_memory && !asked) {
			asked = true;
			shed_ready(op, sched, stub->seq);
			i--; /* this one, if there is still too much */
			continue;
		}
		shed_slot(op, sched, arrival_at(budget, i)->slot);
	}
	if (in_memory && !asked && is_over(budget, sched->config))
		shed_ready(op, sched, UINT64_MAX);
	drop_stale(sched);
	count = op->count;
	op_submit(op);
	return count;
}

static void
tell(struct tr_sched *sched)
{
	struct budget *budget = sched->budget;
	const struct tr_queue_config *config = sched->config;
	int64_t now_ns = tr_mono_ns();
	char limits[96];

	if (budget->told && (budget->untold == 0 || now_ns - budget->told_at_ns < TOLD_EVERY_NS))
		return;
	limits_text(config, limits);
	if (config->shed_oldest)
		tr_log(TR_LEVEL_WARN, "queue",
			"%s: more records wait than its budget (%s): the oldest %llu are dropped", sched->name, limits,
			(unsigned long long)budget->untold);
	else
		tr_log(TR_LEVEL_WARN, "queue", "%s: more records wait than its budget (%s): they stay, on disk",
			sched->name, limits);
	budget->told = true;
	budget->untold = 0;
	budget->told_at_ns = now_ns;
}

void
budget_check(struct tr_sched *sched)
{
	struct budget *budget = sched->budget;
	const struct tr_queue_config *config = sched->config;
	bool over;

	if (config == NULL)
		return;
	over = is_over(budget, config);
	if (over && config->shed_oldest) {
		uint32_t count = shed(sched);

		tr_metric_add(budget->shed, count);
		budget->untold += count;
		over = is_over(budget, config);
		if (over && count == OP_MAX)
			sched_activate(sched);
		if (count > 0)
			tell(sched);
	} else if (over || budget->untold > 0) {
		tell(sched);
	} else if (budget->told &&
		   (config->max_waiting == 0 ||
			   budget->count < (int64_t)(config->max_waiting - config->max_waiting / 10)) &&
		   (config->max_waiting_bytes == 0 ||
			   budget->bytes < (int64_t)(config->max_waiting_bytes - config->max_waiting_bytes / 10))) {
		budget->told = false;
		tr_log(TR_LEVEL_INFO, "queue", "%s: what waits is within its budget again", sched->name);
	}
	tr_metric_set(budget->over, over);
}
