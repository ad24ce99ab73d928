/* Which source sends a message: the candidates of a queue's pool in weighted turn, and what becomes of messages that no
 * source takes. Contract: egress-path.md section 2, queues.md section 4 step 6. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "queue/engine.h"
#include "queue/outcome.h"
#include "queue/ready.h"
#include "queue/sched.h"

#define NO_SOURCES "KumoMTA internal: the pool has no sources"

/* --- lanes --------------------------------------------------------------------------------------------------- */

static uint32_t
gcd(uint32_t a, uint32_t b)
{
	while (b != 0) {
		uint32_t rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

static uint32_t
used_entries(const struct tr_pool_config *pool)
{
	uint32_t used = 0;

	for (uint32_t i = 0; i < pool->count; i++)
		used += pool->entries[i].weight > 0;
	return used;
}

static bool
is_unspecified(const char *name)
{
	return strcmp(name, "unspecified") == 0;
}

static int
fill_lanes(struct tr_sched *sched, struct lane *lanes, const struct tr_pool_config *pool)
{
	struct lane *lane = lanes;

	for (uint32_t i = 0; i < pool->count; i++) {
		const struct tr_pool_entry *entry = &pool->entries[i];

		if (entry->weight == 0)
			continue;
		lane->sched = sched;
		lane->weight = entry->weight;
		if (!is_unspecified(entry->name)) {
			lane->source = source_get(sched->engine, tr_str(entry->name));
			if (lane->source == NULL)
				return TR_ENOMEM;
		}
		lane++;
	}
	return TR_OK;
}

int
lanes_set(struct tr_sched *sched, struct tr_pool_config *pool)
{
	struct lane one = {.sched = sched, .weight = 1}, *lanes = &one;
	uint32_t count = pool != NULL ? used_entries(pool) : 1;
	int err = TR_OK;

	if (tr_pool_config_same(pool, sched->pool)) { /* the turn goes on where it was */
		tr_pool_config_unref(sched->pool);
		sched->pool = pool;
		return TR_OK;
	}
	if (count > 1)
		lanes = calloc(count, sizeof *lanes);
	if (lanes == NULL)
		err = TR_ENOMEM;
	else if (pool != NULL && count > 0)
		err = fill_lanes(sched, lanes, pool);
	if (err != TR_OK) {
		for (uint32_t i = 0; lanes != NULL && i < count; i++)
			source_unref(lanes[i].source);
		if (lanes != &one)
			free(lanes);
		tr_pool_config_unref(pool);
		return err;
	}
	lanes_drop(sched);
	sched_spill(sched, &sched->fresh, true); /* chosen anew */
	for (uint32_t i = 0; i < sched->lane_count; i++)
		source_unref(sched->lanes[i].source);
	for (uint32_t i = 0; i < sched->lane_count; i++)
		selection_drop(&sched->lanes[i]);
	if (sched->lanes != &sched->only)
		free(sched->lanes);
	sched->only = one;
	sched->lanes = lanes != &one ? lanes : &sched->only;
	sched->lane_count = count > 1 ? count : 1;
	sched->no_sources = count == 0;
	sched->turn = (struct lane_turn){0, 0, 0, 0};
	for (uint32_t i = 0; i < sched->lane_count; i++) {
		sched->turn.gcd = gcd(sched->lanes[i].weight, sched->turn.gcd);
		if (sched->lanes[i].weight > sched->turn.most)
			sched->turn.most = sched->lanes[i].weight;
	}
	tr_pool_config_unref(sched->pool);
	sched->pool = pool;
	return TR_OK;
}

bool
lanes_stale(const struct tr_sched *sched)
{
	for (uint32_t i = 0; i < sched->lane_count; i++) {
		const struct tr_ready *ready = sched->lanes[i].ready;

		if (ready == NULL || atomic_load(&ready->state) == READY_REPLACED)
			return true;
	}
	return false;
}

void
lanes_release(struct tr_sched *sched)
{
	for (uint32_t i = 0; i < sched->lane_count; i++) {
		struct lane *lane = &sched->lanes[i];

		if (lane->ready == NULL)
			continue;
		ready_unwait(lane);
		ready_release(lane->ready, lane->held);
		lane->held = 0;
	}
}

bool
lanes_idle(struct tr_sched *sched)
{
	bool idle = true;

	for (uint32_t i = 0; i < sched->lane_count && idle; i++) {
		struct lane *lane = &sched->lanes[i];

		if (lane->ready == NULL)
			continue;
		pthread_mutex_lock(&lane->ready->lock);
		idle = !lane->waiting && lane->granted == 0;
		pthread_mutex_unlock(&lane->ready->lock);
	}
	return idle;
}

/* --- turns ----------------------------------------------------------------------------------------------------- */

/* Interleaved weighted round robin: the index goes round, at each wrap the weight that an entry must have falls by the
 * greatest common divisor, from the greatest weight down and again. Rounds in which no candidate has enough are passed
 * over at once. */
struct lane *
lane_pick(struct tr_sched *sched)
{
	struct lane_turn *turn = &sched->turn;
	struct lane *last = NULL;
	uint32_t candidates = 0, most = 0;

	for (uint32_t i = 0; i < sched->lane_count; i++) {
		struct lane *lane = &sched->lanes[i];

		if (lane->out != LANE_IN)
			continue;
		candidates++;
		last = lane;
		if (lane->weight > most)
			most = lane->weight;
	}
	if (candidates <= 1)
		return last;
	for (;;) {
		struct lane *lane;

		turn->index = (turn->index + 1) % sched->lane_count;
		if (turn->index == 0) {
			turn->weight = turn->weight > turn->gcd ? turn->weight - turn->gcd : turn->most;
			if (turn->weight > most) /* all weights are multiples of the divisor */
				turn->weight = most;
		}
		lane = &sched->lanes[turn->index];
		if (lane->out == LANE_IN && lane->weight >= turn->weight)
			return lane;
	}
}

/* --- messages ---------------------------------------------------------------------------------------------------- */

static enum lane_out
lane_state(const struct lane *lane, int64_t now_ns)
{
	if (atomic_load(&lane->ready->suspended))
		return LANE_SUSPENDED;
	if (lane->source != NULL && atomic_load(&lane->source->suspended_until_ns) > now_ns)
		return LANE_SUSPENDED;
	return LANE_IN;
}

bool
lane_is_special(const struct lane *lane)
{
	return atomic_load_explicit(&lane->ready->suspended, memory_order_relaxed) ||
	       atomic_load_explicit(&lane->ready->selects, memory_order_relaxed) ||
	       (lane->source != NULL && lane_state(lane, tr_mono_ns()) != LANE_IN);
}

/* None takes them: a failed attempt of each. They are counted IN_READY. */
static void
fail_all(struct tr_sched *sched, struct message_list *list, const char *text)
{
	struct tr_engine *engine = sched->engine;
	struct retry_spec spec = {
		.increment = true, .explained = true, .delay_ns = -1, .reasons = {"LoggedTransientFailure"}};

	spec.response = (struct tr_response){451, {4, 4, 4}, tr_str(text), {NULL, 0}};
	while (list->head != NULL) {
		struct outcome_op *op = op_new(sched->home);
		struct message_list part = {NULL, NULL, 0};

		if (op == NULL) {
			ready_return_to_lines(sched->home, list, false);
			return;
		}
		while (list->head != NULL && !tr_change_is_long(&op->outbox.change)) {
			struct tr_message *message = list_pop(list);
			struct tr_event event;

			op_event_init(&event, TR_EV_TRANSIENT_FAILURE, message);
			event.response = spec.response;
			event.egress_pool = tr_str(sched->pool != NULL ? sched->pool->name : "unspecified");
			tr_outbox_emit(&op->outbox, &event);
			list_add(&part, message);
		}
		count_move(engine, IN_READY, IN_FLIGHT, part.count);
		op_retry(op, &part, &spec);
	}
}

/* The candidates, and how much all of them weigh. */
static uint64_t
look_at_lanes(struct tr_sched *sched, int64_t now_ns)
{
	uint64_t weight = 0;

	for (uint32_t i = 0; i < sched->lane_count; i++) {
		struct lane *lane = &sched->lanes[i];

		lane->out = lane_state(lane, now_ns);
		if (lane->out == LANE_IN)
			weight += lane->weight;
	}
	return weight;
}

static uint32_t
share_of(const struct lane *lane, uint32_t of, uint64_t weight)
{
	return (uint32_t)(((uint64_t)of * lane->weight + weight - 1) / weight);
}

/* The lane of the next of `left` messages, with a place for it; NULL: there is none. */
static struct lane *
take_lane(struct tr_sched *sched, uint32_t left, uint64_t weight, int64_t now_ns)
{
	struct lane *lane;

	while ((lane = lane_pick(sched)) != NULL) {
		if (atomic_load(&lane->ready->state) == READY_ERROR)
			break;
		if (lane->held == 0)
			lane->held = ready_try(lane, share_of(lane, left, weight));
		if (lane->held == 0) {
			lane->out = LANE_FULL;
			continue;
		}
		if (atomic_load_explicit(&lane->ready->selects, memory_order_relaxed)) {
			lane->out = selection_take(lane, left, now_ns);
			if (lane->out != LANE_IN)
				continue;
		}
		break;
	}
	return lane;
}

static bool
any_lane(const struct tr_sched *sched, enum lane_out out)
{
	for (uint32_t i = 0; i < sched->lane_count; i++) {
		if (sched->lanes[i].out == out)
			return true;
	}
	return false;
}

/* Fresh ones to the ready queues, each to that of its source. */
static void
choose(struct tr_sched *sched, uint64_t weight, int64_t now_ns)
{
	struct message_list back = {NULL, NULL, 0}, failed = back, broken = back;
	struct tr_message *message;
	uint32_t left = sched->fresh.count;
	bool full = false;

	while ((message = list_pop(&sched->fresh)) != NULL) {
		struct lane *lane = take_lane(sched, left--, weight, now_ns);

		if (lane == NULL) {
			bool was_waiting = message->owner_data == NULL;

			if (any_lane(sched, LANE_FULL))
				full = true;
			if (full || any_lane(sched, LANE_ASKING) ||
				(was_waiting && weight == 0)) /* what waits, waits for the end of a suspension, too */
				list_add(&back, message);
			else
				list_add(&failed, message);
		} else if (atomic_load(&lane->ready->state) == READY_ERROR) {
			list_add(&broken, message);
			ready_kick(lane->ready); /* asked again in time */
		} else {
			lane->held--;
			list_add(&lane->picked, message);
		}
	}
	for (uint32_t i = 0; i < sched->lane_count; i++) {
		struct lane *lane = &sched->lanes[i];
		uint32_t held = lane->held + lane->picked.count;

		lane->held = 0;
		if (held == 0)
			continue;
		ready_push(lane, &lane->picked, held, false);
		if (lane->picked.count > 0) { /* it was suspended or replaced meanwhile */
			list_append(&lane->picked, &back);
			back = lane->picked;
			lane->picked = (struct message_list){NULL, NULL, 0};
		}
		ready_balance(lane->ready, sched->home);
	}
	if (full) {
		tr_metric_add(sched->full_metric, back.count);
		for (uint32_t i = 0; i < sched->lane_count && !sched->told_full; i++) {
			if (sched->lanes[i].out == LANE_FULL)
				ready_metric(sched->lanes[i].ready, M_READY_FULL, 1);
		}
	}
	sched->told_full = full || (sched->told_full && sched->line.count > 0);
	rate_give_back(sched, back.count);
	if (back.count > 0)
		sched_spill(sched, &back, true);
	fail_all(sched, &failed,
		any_lane(sched, LANE_SUSPENDED) || any_lane(sched, LANE_THROTTLED)
			? "KumoMTA internal: all sources of the pool are suspended or throttled"
			: NO_SOURCES);
	fail_all(sched, &broken, "KumoMTA internal: the path's configuration could not be resolved");
}

/* Places for the next load from the line: each lane its share of them. Returns how many messages to load. */
static uint32_t
reserve(struct tr_sched *sched, uint32_t want, uint64_t weight, int64_t now_ns)
{
	uint64_t places = 0;

	for (uint32_t i = 0; i < sched->lane_count; i++) {
		struct lane *lane = &sched->lanes[i];

		if (lane_state(lane, now_ns) != LANE_IN) { /* each suspension's end goes on: the others may be shut */
			int64_t until_ns = lane->source != NULL ? atomic_load(&lane->source->suspended_until_ns) : 0;

			if (until_ns > now_ns)
				sched_retry_in(sched, until_ns - now_ns);
			else
				ready_reserve(lane, 0);
		} else if (weight == 0) { /* one has just ended */
			sched_activate(sched);
		} else if (selection_asks(lane)) {
			continue;
		} else if (atomic_load(&lane->ready->state) == READY_ERROR) {
			places += share_of(lane, want, weight); /* they fail */
		} else {
			lane->coming = ready_reserve(lane, selection_most(lane, share_of(lane, want, weight)));
			places += lane->coming;
		}
	}
	return places < want ? (uint32_t)places : want;
}

/* Whether it waits for room, and not for an answer or the end of a suspension. */
static bool
any_waiting(const struct tr_sched *sched)
{
	for (uint32_t i = 0; i < sched->lane_count; i++) {
		if (sched->lanes[i].out == LANE_IN && !selection_asks(&sched->lanes[i]))
			return true;
	}
	return any_lane(sched, LANE_FULL);
}

void
lanes_pump(struct tr_sched *sched)
{
	int64_t now_ns = tr_mono_ns();
	uint64_t weight;
	uint32_t places;

	for (uint32_t i = 0; i < sched->lane_count; i++) {
		struct lane *lane = &sched->lanes[i];

		if (atomic_load(&lane->ready->state) != READY_RESOLVING)
			continue;
		if (sched->incoming.count > FRESH_MAX)
			sched_spill(sched, &sched->incoming, false);
		ready_reserve(lane, 0); /* to be told when the answer is there */
		return;
	}
	if (sched->rate != NULL)
		rate_admit(sched);
	rate_give_back(sched, judge_incoming(sched));
	weight = look_at_lanes(sched, now_ns);
	choose(sched, weight, now_ns);
	if (sched->line.count == 0 || sched->loading || sched->hooking.count > 0 || now_ns < sched->blocked_until_ns)
		return;
	places = reserve(sched, sched->line.count < LOAD_MAX ? sched->line.count : LOAD_MAX, weight, now_ns);
	if (places == 0) {
		sched->told_full = any_waiting(sched);
		return;
	}
	if (sched->rate != NULL)
		places = rate_take(sched, places);
	if (places > 0 && load_start(sched, places))
		return;
	rate_give_back(sched, places);
	for (uint32_t i = 0; i < sched->lane_count; i++) {
		struct lane *lane = &sched->lanes[i];
		uint32_t coming = lane->coming;

		lane->coming = 0;
		ready_release(lane->ready, coming);
	}
}

void
lanes_refuse(struct tr_sched *sched)
{
	judge_incoming(sched);
	fail_all(sched, &sched->fresh, NO_SOURCES);
	if (sched->line.count > 0)
		load_start(sched, JUDGE_MAX); /* what is due fails like what comes */
}
