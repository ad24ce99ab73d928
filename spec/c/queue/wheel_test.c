/* The wheel of stubs against a sorted model. Slots are real ones of a spool's table. */
#include "rig.h"

static uint64_t state_word = 88172645463325252u;

static uint64_t
next_random(void)
{
	state_word ^= state_word << 13;
	state_word ^= state_word >> 7;
	state_word ^= state_word << 17;
	return state_word;
}

#define SLOTS 3000
static uint32_t slots[SLOTS];
static struct tr_spool *spool;

static void
make_slots(struct rig *rig)
{
	struct tr_message *messages[SLOTS];

	spool = rig->spool;
	for (uint32_t i = 0; i < SLOTS; i++) {
		messages[i] = rig_message("wheel.example", i);
		messages[i]->due_ms = tr_wall_ms() + INT64_C(90) * 86400 * 1000;
		rig_put_message(rig, tr_engine_worker(rig->engine, 0), messages[i]);
		slots[i] = messages[i]->slot;
	}
}

static int64_t due_of_slot[1 << 16];

/* One in `share` times, if it is in the wheel. */
static uint32_t
taken_out(struct slot_wheel *wheel, uint32_t i, uint32_t share)
{
	const struct tr_stub *stub = tr_spool_stub(spool, slots[i]);

	if (next_random() % share != 0 || place_of(stub) != PLACE_WHEEL)
		return 0;
	slot_wheel_remove(wheel, slots[i]);
	assert_int_equal(place_of(stub), PLACE_NONE);
	return 1;
}

static void
each_comes_out_when_due_and_in_order(void **state)
{
	static const int64_t spans_ms[] = {
		50, 1000, 70000, INT64_C(20) * 3600 * 1000, INT64_C(80) * 86400 * 1000, INT64_C(3000) * 86400 * 1000};
	struct rig rig;
	struct slot_wheel wheel;

	rig_init(&rig);
	rig_open(&rig);
	make_slots(&rig);
	rig_run(&rig, TR_NS_PER_S);
	spool = rig.spool;
	tr_engine_stop(rig.engine, tr_mono_ns() + TR_NS_PER_S, rig_stopped, &rig);
	assert_true(tr_loop_run_until(rig.loops[0], rig_is_stopped, &rig, MINUTE_NS));
	for (size_t round = 0; round < TR_COUNT(spans_ms); round++) {
		int64_t now_ms, last_ms = 0;
		uint32_t out = 0; /* came out, or was taken out of the middle */

		slot_wheel_init(&wheel, spool);
		now_ms = wheel.now_ms + (int64_t)(next_random() % 100000);
		assert_int_equal(slot_wheel_pop(&wheel, now_ms), TR_NO_SLOT);
		for (uint32_t i = 0; i < SLOTS; i++) {
			int64_t due_ms = now_ms + (int64_t)(next_random() % (uint64_t)spans_ms[round]);

			due_of_slot[slots[i]] = due_ms;
			tr_stub_set(tr_spool_stub(spool, slots[i]), due_ms + wheel.offset_ms, 0, 0);
			slot_wheel_add(&wheel, slots[i]);
		}
		for (uint32_t i = 0; i < SLOTS; i++)
			out += taken_out(&wheel, i, 3);
		while (out < SLOTS) {
			int64_t next_ms = slot_wheel_next_ms(&wheel);
			uint32_t slot;

			assert_true(next_ms != INT64_MAX);
			assert_true(next_ms >= now_ms);
			now_ms = next_ms;
			while ((slot = slot_wheel_pop(&wheel, now_ms)) != TR_NO_SLOT) {
				assert_true(due_of_slot[slot] == now_ms);
				assert_true(due_of_slot[slot] >= last_ms);
				last_ms = due_of_slot[slot];
				out += 1 + taken_out(&wheel, (uint32_t)(next_random() % SLOTS), 4);
			}
		}
		assert_int_equal(wheel.count, 0);
		assert_int_equal(slot_wheel_next_ms(&wheel), INT64_MAX);
	}
	/* past moments come at once; a rebase moves all; detaching takes all out */
	slot_wheel_init(&wheel, spool);
	for (uint32_t i = 0; i < 100; i++) {
		tr_stub_set(tr_spool_stub(spool, slots[i]), wheel.now_ms + wheel.offset_ms + 3600000, 0, 0);
		slot_wheel_add(&wheel, slots[i]);
	}
	assert_int_equal(slot_wheel_pop(&wheel, wheel.now_ms + 1000), TR_NO_SLOT);
	slot_wheel_rebase(&wheel, wheel.offset_ms + 7200000);
	for (uint32_t i = 0; i < 50; i++)
		assert_int_not_equal(slot_wheel_pop(&wheel, wheel.now_ms), TR_NO_SLOT);
	for (uint32_t level = 0; level < SLOT_LEVELS; level++) {
		for (uint32_t index = 0; index < SLOT_BUCKETS; index++)
			slot_wheel_detach(&wheel, level, index);
	}
	assert_int_equal(wheel.count, 0);
	tr_spool_close(rig.spool);
	tr_engine_free(rig.engine);
	tr_loop_enter(NULL);
	tr_loop_free(rig.loops[0]);
	tr_clock_real();
	{
		char command[128];

		snprintf(command, sizeof command, "rm -rf %s", rig.dir);
		assert_int_equal(system(command), 0);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_comes_out_when_due_and_in_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
