/* Keys and what waits behind them, against a model: some thousand records of some hundred keys that come, end, and are
 * taken out of the middle. */
#include "rig.h"

#define SLOTS 4000
#define KEYS 300

static uint64_t state_word = 88172645463325252u;
static uint32_t slots[SLOTS], key_of[SLOTS];
static enum { OUTSIDE, UNDER_WAY, BEHIND } where[SLOTS];

static uint32_t
next_random(uint32_t below)
{
	state_word ^= state_word << 13;
	state_word ^= state_word >> 7;
	state_word ^= state_word << 17;
	return (uint32_t)(state_word % below);
}

/* The oldest that waits behind a key; SLOTS: none. */
static uint32_t
oldest_of(uint32_t key)
{
	uint32_t i = 0;

	while (i < SLOTS && (key_of[i] != key || where[i] != BEHIND))
		i++;
	return i;
}

static bool
is_busy(uint32_t key)
{
	for (uint32_t i = 0; i < SLOTS; i++)
		if (key_of[i] == key && where[i] == UNDER_WAY)
			return true;
	return false;
}

static void
come(struct tr_sched *sched, uint32_t i)
{
	bool free = !is_busy(key_of[i]);

	assert_int_equal(order_try(sched, slots[i]), free);
	if (!free)
		order_wait(sched, slots[i]);
	where[i] = free ? UNDER_WAY : BEHIND;
}

static void
end(struct tr_sched *sched, uint32_t i)
{
	const struct tr_stub *stub = tr_spool_stub(sched->engine->spool, slots[i]);
	uint32_t next = oldest_of(key_of[i]), line = sched->line.count;

	order_release(sched, stub->order, stub->seq);
	where[i] = OUTSIDE;
	if (next < SLOTS) {
		assert_int_equal(sched->line.count, line + 1);
		assert_int_equal(line_pop(sched), slots[next]);
		where[next] = UNDER_WAY;
	} else {
		assert_int_equal(sched->line.count, line);
	}
}

static void
one_of_a_key_is_under_way_and_the_oldest_is_the_next(void **state)
{
	struct rig rig;
	struct tr_sched *sched;

	rig_init(&rig);
	rig_open(&rig);
	for (uint32_t i = 0; i < SLOTS; i++) {
		struct tr_message *message = rig_message("order.example", i);

		message->due_ms =
			tr_wall_ms() + INT64_C(90) * 86400 * 1000; /* the engine itself does nothing with them */
		rig_put_message(&rig, tr_engine_worker(rig.engine, 0), message);
		slots[i] = message->slot;
	}
	rig_run(&rig, TR_NS_PER_S);
	sched = sched_get(rig.engine, TR_STR("keys.example"));
	assert_non_null(sched);
	for (uint32_t i = 0; i < SLOTS; i++) {
		struct tr_stub *stub = tr_spool_stub(rig.spool, slots[i]);

		if (place_of(stub) == PLACE_WHEEL)
			slot_wheel_remove(&tr_engine_worker(rig.engine, 0)->wheel, slots[i]);
		tr_stub_set(stub, 0, TR_MSG_ORDERED, 0);
		key_of[i] = 1 + next_random(KEYS);
		stub->order = key_of[i] * 64; /* all want the same places of a small table */
	}
	for (uint32_t round = 0; round < 12000; round++) {
		uint32_t i = next_random(SLOTS);

		if (where[i] == OUTSIDE) {
			come(sched, i);
		} else if (where[i] == UNDER_WAY) {
			end(sched, i);
		} else if (next_random(4) == 0) {
			order_remove(sched, slots[i]);
			where[i] = OUTSIDE;
		}
	}
	for (uint32_t i = 0; i < SLOTS; i++)
		while (where[i] == UNDER_WAY || (where[i] == BEHIND && is_busy(key_of[i])))
			for (uint32_t j = 0; j < SLOTS; j++)
				if (where[j] == UNDER_WAY && key_of[j] == key_of[i])
					end(sched, j);
	assert_int_equal(atomic_load(&sched->behind), 0);
	assert_int_equal(sched->order->used, 0);
	for (uint32_t i = 0; i < SLOTS; i++) { /* as a start finds them: not in their order */
		order_recover(sched, slots[i * 7 % SLOTS]);
		where[i * 7 % SLOTS] = BEHIND;
	}
	order_start(sched);
	for (uint32_t slot; (slot = line_pop(sched)) != TR_NO_SLOT;) {
		uint32_t i = 0;

		while (slots[i] != slot)
			i++;
		assert_int_equal(oldest_of(key_of[i]), i);
		where[i] = UNDER_WAY;
	}
	for (uint32_t key = 1; key <= KEYS; key++)
		assert_int_equal(is_busy(key), oldest_of(key) < SLOTS || is_busy(key));
	sched_count(sched, -1);
	rig_close(&rig);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_of_a_key_is_under_way_and_the_oldest_is_the_next),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
