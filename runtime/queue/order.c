/* Keys of a queue and what waits behind each; what a change ends, until its home has heard of it. */
#include "queue/order.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "queue/budget.h"
#include "queue/engine.h"
#include "queue/outcome.h"
#include "queue/sched.h"
#include "queue/worker.h"

/* --- the table: linear probing, removal by shifting back -------------------------------------------------- */

static struct order_key *
find(const struct order *order, uint32_t hash)
{
	if (order == NULL || order->keys == NULL)
		return NULL;
	for (uint32_t i = hash & order->mask;; i = (i + 1) & order->mask) {
		if (order->keys[i].hash == hash)
			return &order->keys[i];
		if (order->keys[i].hash == 0)
			return NULL;
	}
}

static struct order_key *
place_for(struct order *order, uint32_t hash)
{
	uint32_t i = hash & order->mask;

	while (order->keys[i].hash != 0)
		i = (i + 1) & order->mask;
	return &order->keys[i];
}

static bool
resize(struct order *order, uint32_t size)
{
	struct order_key *old = order->keys, *keys = calloc(size, sizeof *keys);
	uint32_t count = old == NULL ? 0 : order->mask + 1;

	if (keys == NULL)
		return false;
	order->keys = keys;
	order->mask = size - 1;
	order->at = 0;
	for (uint32_t i = 0; i < count; i++)
		if (old[i].hash != 0)
			*place_for(order, old[i].hash) = old[i];
	free(old);
	return true;
}

/* A key that is not there yet; NULL: no memory. */
static struct order_key *
add(struct tr_sched *sched, uint32_t hash)
{
	struct order *order = sched->order;
	struct order_key *key;

	if (order == NULL) {
		order = sched->order = calloc(1, sizeof *order);
		if (order == NULL)
			return NULL;
	}
	if ((order->keys == NULL || order->used >= order->mask - order->mask / 4) &&
		!resize(order, order->keys == NULL ? 64 : (order->mask + 1) * 2) &&
		(order->keys == NULL || order->used + 1 > order->mask))
		return NULL;
	key = place_for(order, hash);
	*key = (struct order_key){hash, TR_NO_SLOT, 0};
	order->used++;
	return key;
}

static void
erase(struct order *order, struct order_key *key)
{
	uint32_t hole = (uint32_t)(key - order->keys);

	for (uint32_t i = (hole + 1) & order->mask; order->keys[i].hash != 0; i = (i + 1) & order->mask) {
		uint32_t wanted = order->keys[i].hash & order->mask;

		if (((i - wanted) & order->mask) < ((i - hole) & order->mask))
			continue; /* it is not beyond the hole seen from where it wants to be */
		order->keys[hole] = order->keys[i];
		hole = i;
	}
	order->keys[hole] = (struct order_key){0};
	order->used--;
	if (order->mask > 4096 && order->used < order->mask / 8)
		(void)resize(order, (order->mask + 1) / 2); /* else it stays as large as it is */
}

/* --- what waits behind a key: in the order of seq -------------------------------------------------------------- */

/* It comes before `before`; TR_NO_SLOT: behind the last. */
static void
link_before(struct tr_sched *sched, struct order_key *key, uint32_t slot, uint32_t before)
{
	struct tr_spool *spool = sched->engine->spool;
	struct tr_stub *stub = tr_spool_stub(spool, slot);
	uint32_t last = key->head == TR_NO_SLOT ? slot : tr_spool_stub(spool, key->head)->prev;

	stub->next = before;
	if (before == TR_NO_SLOT) {
		stub->prev = last;
		if (last != slot)
			tr_spool_stub(spool, last)->next = slot;
	} else {
		struct tr_stub *younger = tr_spool_stub(spool, before);

		stub->prev = younger->prev;
		if (before != key->head)
			tr_spool_stub(spool, younger->prev)->next = slot;
		younger->prev = slot;
	}
	if (before == key->head)
		key->head = slot;
	tr_spool_stub(spool, key->head)->prev = before == TR_NO_SLOT ? slot : last;
	place_set(stub, PLACE_BEHIND);
	atomic_fetch_add_explicit(&sched->behind, 1, memory_order_relaxed);
}

static void
link_in(struct tr_sched *sched, struct order_key *key, uint32_t slot)
{
	struct tr_spool *spool = sched->engine->spool;
	uint64_t seq = tr_spool_stub(spool, slot)->seq;
	uint32_t before = TR_NO_SLOT, at = key->head == TR_NO_SLOT ? TR_NO_SLOT : tr_spool_stub(spool, key->head)->prev;

	while (at != TR_NO_SLOT && tr_spool_stub(spool, at)->seq > seq) { /* nearly always the last is older */
		before = at;
		at = at == key->head ? TR_NO_SLOT : tr_spool_stub(spool, at)->prev;
	}
	link_before(sched, key, slot, before);
}

static void
unlink_slot(struct tr_sched *sched, struct order_key *key, uint32_t slot)
{
	struct tr_spool *spool = sched->engine->spool;
	struct tr_stub *stub = tr_spool_stub(spool, slot);

	if (slot == key->head) {
		key->head = stub->next;
		if (key->head != TR_NO_SLOT)
			tr_spool_stub(spool, key->head)->prev = stub->prev;
	} else {
		tr_spool_stub(spool, stub->prev)->next = stub->next;
		tr_spool_stub(spool, stub->next != TR_NO_SLOT ? stub->next : key->head)->prev = stub->prev;
	}
	stub->next = stub->prev = TR_NO_SLOT;
	place_set(stub, PLACE_NONE);
	atomic_fetch_sub_explicit(&sched->behind, 1, memory_order_relaxed);
}

/* --- entering and leaving ----------------------------------------------------------------------------------------- */

bool
order_try(struct tr_sched *sched, uint32_t slot)
{
	const struct tr_stub *stub = tr_spool_stub(sched->engine->spool, slot);
	struct order_key *key = find(sched->order, stub->order);

	if (key != NULL)
		return key->seq == stub->seq;
	key = add(sched, stub->order);
	if (key == NULL) {
		tr_log(TR_LEVEL_ERROR, "queue", "%s: no memory for a key: the order of a record is not kept",
			sched->name);
		return true;
	}
	key->seq = stub->seq;
	return true;
}

void
order_wait(struct tr_sched *sched, uint32_t slot)
{
	link_in(sched, find(sched->order, tr_spool_stub(sched->engine->spool, slot)->order), slot);
}

/* The oldest of those that wait goes on: to the line, or where it has to wait for its time. */
static void
promote(struct tr_sched *sched, struct order_key *key)
{
	struct tr_engine *engine = sched->engine;
	struct tr_worker *worker = sched->home;
	int64_t now_ms = tr_wall_ms();

	while (key->head != TR_NO_SLOT) {
		uint32_t slot = key->head;
		struct tr_stub *stub = tr_spool_stub(engine->spool, slot);

		unlink_slot(sched, key, slot);
		if (stub_expiry_ms(sched, stub) <= now_ms && worker->started) { /* all that are too old end at once */
			count_move(engine, IN_LINE, IN_FLIGHT, 1);
			atomic_fetch_sub_explicit(&sched->waiting, 1, memory_order_relaxed);
			judge_slot(worker, slot);
			judge_start(worker);
			continue;
		}
		key->seq = stub->seq;
		if (tr_stub_due_ms(stub) > now_ms) {
			worker_check_clock(worker);
			slot_wheel_add(&worker->wheel, slot);
			count_move(engine, IN_LINE, IN_TIMERS, 1);
			worker_arm_wheel(worker);
		} else {
			line_add(sched, slot, false);
			sched_activate(sched);
		}
		return;
	}
	erase(sched->order, key);
}

void
order_release(struct tr_sched *sched, uint32_t hash, uint64_t seq)
{
	struct order_key *key = find(sched->order, hash);

	if (key != NULL && key->seq == seq) /* else it waited behind another one itself */
		promote(sched, key);
}

void
order_remove(struct tr_sched *sched, uint32_t slot)
{
	struct order_key *key = find(sched->order, tr_spool_stub(sched->engine->spool, slot)->order);

	if (key != NULL)
		unlink_slot(sched, key, slot);
}

uint32_t
order_take(struct tr_sched *sched)
{
	struct order *order = sched->order;

	if (order == NULL || atomic_load_explicit(&sched->behind, memory_order_relaxed) == 0)
		return TR_NO_SLOT;
	for (uint32_t i = 0; i <= order->mask; i++, order->at++) {
		struct order_key *key = &order->keys[order->at & order->mask];
		uint32_t slot = key->head;

		if (key->hash == 0 || slot == TR_NO_SLOT)
			continue;
		unlink_slot(sched, key, slot);
		return slot;
	}
	return TR_NO_SLOT;
}

uint32_t
order_list(const struct tr_sched *sched, uint32_t *slots, uint32_t max)
{
	const struct order *order = sched->order;
	uint32_t count = 0;

	for (uint32_t i = 0; order != NULL && order->keys != NULL && i <= order->mask && count < max; i++) {
		uint32_t slot = order->keys[i].hash == 0 ? TR_NO_SLOT : order->keys[i].head;

		for (; slot != TR_NO_SLOT && count < max; slot = tr_spool_stub(sched->engine->spool, slot)->next)
			slots[count++] = slot;
	}
	return count;
}

/* --- start-up ------------------------------------------------------------------------------------------------------
 */

void
order_recover(struct tr_sched *sched, uint32_t slot)
{
	uint32_t hash = tr_spool_stub(sched->engine->spool, slot)->order;
	struct order_key *key = find(sched->order, hash);

	if (key == NULL)
		key = add(sched, hash);
	if (key == NULL) {
		tr_log(TR_LEVEL_ERROR, "queue", "%s: no memory for a key: the order of a record is not kept",
			sched->name);
		line_add(sched, slot, false);
		return;
	}
	link_before(sched, key, slot, TR_NO_SLOT); /* as the log has them: order_start() sorts */
}

void
order_claim(struct tr_sched *sched, uint32_t slot)
{
	const struct tr_stub *stub = tr_spool_stub(sched->engine->spool, slot);
	struct order_key *key = find(sched->order, stub->order);

	if (key == NULL)
		key = add(sched, stub->order);
	if (key != NULL && (key->seq == 0 || stub->seq < key->seq))
		key->seq = stub->seq;
}

struct by_seq {
	uint64_t seq;
	uint32_t slot, hash;
};

static int
compare(const void *a, const void *b)
{
	uint64_t x = ((const struct by_seq *)a)->seq, y = ((const struct by_seq *)b)->seq;

	return (x > y) - (x < y);
}

/* All that wait, the oldest first: each becomes the one under way, or is linked behind. */
void
order_start(struct tr_sched *sched)
{
	struct tr_spool *spool = sched->engine->spool;
	uint32_t count = atomic_load(&sched->behind), found = 0, slot;
	struct by_seq *all = count > 0 ? malloc(count * sizeof *all) : NULL;

	if (count > 0 && all == NULL)
		tr_log(TR_LEVEL_ERROR, "queue", "%s: no memory to sort what waits by its keys: the log's order stays",
			sched->name);
	while (all != NULL && found < count && (slot = order_take(sched)) != TR_NO_SLOT) {
		const struct tr_stub *stub = tr_spool_stub(spool, slot);

		all[found++] = (struct by_seq){stub->seq, slot, stub->order};
	}
	if (all != NULL)
		qsort(all, found, sizeof *all, compare);
	for (uint32_t i = 0; i < found; i++)
		link_before(sched, find(sched->order, all[i].hash), all[i].slot, TR_NO_SLOT);
	for (uint32_t i = 0; i < found; i++) { /* in the order of the oldest of each key */
		struct order_key *key = find(sched->order, all[i].hash);

		if (key != NULL && key->seq == 0)
			promote(sched, key);
	}
	free(all);
	for (uint32_t i = 0;
		all == NULL && sched->order != NULL && sched->order->keys != NULL && i <= sched->order->mask; i++)
		if (sched->order->keys[i].hash != 0 && sched->order->keys[i].seq == 0)
			promote(sched, &sched->order->keys[i]);
}

void
order_free(struct tr_sched *sched)
{
	if (sched->order == NULL)
		return;
	free(sched->order->keys);
	free(sched->order);
	sched->order = NULL;
}

/* --- those that leave ------------------------------------------------------------------------------------------------
 */

int
leavers_add(struct leavers **list, struct tr_sched *sched, uint32_t slot)
{
	struct tr_stub *stub = tr_spool_stub(sched->engine->spool, slot);
	uint16_t owners = tr_stub_owners(stub);
	uint32_t hash = (tr_stub_flags(stub) & TR_MSG_ORDERED) != 0 ? stub->order : 0;
	struct leavers **at = list, *block;

	while (*at != NULL && (*at)->home != sched->home)
		at = &(*at)->next;
	block = *at;
	if (block == NULL || block->count == block->cap) {
		uint32_t cap = block == NULL ? 4 : block->cap * 2;
		struct leavers *grown = realloc(block, sizeof *block + cap * sizeof block->items[0]);

		if (grown == NULL)
			return TR_ENOMEM;
		if (block == NULL) {
			grown->home = sched->home;
			grown->next = NULL;
			grown->count = 0;
		}
		grown->cap = cap;
		*at = block = grown;
	}
	block->items[block->count++] = (struct leaver){.sched = sched,
		.seq = stub->seq,
		.hash = hash,
		.size = (owners & STUB_COUNTED) != 0 ? stub->size : 0,
		.slot = slot};
	tr_stub_set_owners(stub, (uint16_t)(owners & ~STUB_COUNTED));
	sched_count(sched, 1);
	return TR_OK;
}

static void
released(struct leavers *block)
{
	for (uint32_t i = 0; i < block->count; i++) {
		struct leaver *leaver = &block->items[i];

		if (leaver->size > 0)
			budget_left(leaver->sched, leaver->size);
		if (leaver->hash != 0)
			order_release(leaver->sched, leaver->hash, leaver->seq);
		sched_count(leaver->sched, -1);
	}
	free(block);
}

static void
leavers_arrived(struct tr_mail *mail)
{
	struct leavers *block = tr_container_of(mail, struct leavers, mail);
	struct tr_engine *engine = block->home->engine;

	released(block);
	busy_drop(engine);
}

void
leavers_go(struct leavers *list, struct tr_worker *here)
{
	while (list != NULL) {
		struct leavers *block = list;

		list = block->next;
		if (block->home == here) {
			released(block);
			continue;
		}
		block->mail.fn = leavers_arrived;
		busy_add(here->engine);
		tr_loop_post(block->home->loop, &block->mail);
	}
}

void
leavers_drop(struct leavers *list, struct tr_spool *spool)
{
	while (list != NULL) {
		struct leavers *block = list;

		list = block->next;
		for (uint32_t i = 0; i < block->count; i++) {
			struct tr_stub *stub = tr_spool_stub(spool, block->items[i].slot);

			if (block->items[i].size > 0)
				tr_stub_set_owners(stub, (uint16_t)(tr_stub_owners(stub) | STUB_COUNTED));
			sched_count(block->items[i].sched, -1);
		}
		free(block);
	}
}
