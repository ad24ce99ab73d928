/* The log stays small: under churn, with a backlog at its oldest end, over restarts and counters that wrap. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/clock.h"
#include "bed.c"

/* Waits until reclaiming has nothing left to do. */
static bool
within_bound(void *arg)
{
	struct bed *bed = arg;
	struct tr_spool_figures figures;
	uint64_t bound;

	tr_spool_figures(bed->spool, &figures);
	bound = 2 * figures.live_bytes;
	if (bound < bed->config.floor_bytes)
		bound = bed->config.floor_bytes;
	return figures.log_bytes <= bound + 2 * bed->config.segment_bytes;
}

static void
churn(struct bed *bed, int rounds, uint32_t backlog)
{
	for (int i = 0; i < rounds; i++) {
		bed_put(bed, bed_random(bed, 1000), i % 2, 1 + (int64_t)bed_random(bed, 3));
		if (i % 7 == 0 && bed_live(bed) > 0 && bed_pick(bed) != UINT32_MAX) {
			uint32_t index = bed_pick(bed);

			bed_state(bed, index, 1800000000000 + i, (uint16_t)(i % 100));
		}
		bed_wait(bed);
		while (bed_live(bed) > backlog) {
			bed_done(bed, bed_pick(bed), TR_COL_DELIVERED);
			bed_wait(bed);
		}
	}
}

static void
stays_within_twice_what_lives(void **state)
{
	static const uint64_t sizes[] = {4096, 16384, 65536};

	for (size_t i = 0; i < TR_COUNT(sizes); i++) {
		struct tr_spool_figures figures;
		struct bed bed;

		bed_init(&bed, sizes[i]);
		bed.config.floor_bytes = 4 * sizes[i];
		bed_open(&bed);
		for (int round = 0; round < 4; round++) {
			churn(&bed, 250, 20 + 20 * (uint32_t)round);
			if (sizes[i] > 4096) /* 4 KiB hold two or three messages: half of it is waste */
				assert_true(tr_loop_run_until(bed.loop, within_bound, &bed, 60 * TR_NS_PER_S));
			bed_check(&bed);
			bed_close(&bed);
			bed_open(&bed);
			assert_int_equal(bed.recovery.damaged_frames, 0);
			bed_check(&bed);
		}
		tr_spool_figures(bed.spool, &figures);
		assert_true(figures.segments < 200);
		bed_fini(&bed);
	}
}

/* Messages that nobody ends lie at the oldest end; others come and go. */
static void
copies_a_backlog_forward(void **state)
{
	struct tr_spool_figures figures;
	struct bed bed;
	uint32_t index;

	bed_init(&bed, 16384);
	bed.config.floor_bytes = 2 * 16384;
	bed_open(&bed);
	for (int i = 0; i < 30; i++)
		bed_put(&bed, 600, true, 1);
	bed_wait(&bed);
	bed_state(&bed, 4, 1900000000000, 99);
	bed_wait(&bed);
	for (int i = 0; i < 400; i++) {
		index = bed_put(&bed, 500, true, 1);
		bed_wait(&bed);
		bed_done(&bed, index, TR_COL_DELIVERED);
		bed_wait(&bed);
	}
	assert_true(tr_loop_run_until(bed.loop, within_bound, &bed, 60 * TR_NS_PER_S));
	tr_spool_figures(bed.spool, &figures);
	assert_true(figures.copied_bytes > 30 * 600);
	assert_int_equal(figures.live_messages, 30);
	bed_check(&bed);
	bed_close(&bed);
	bed_open(&bed);
	bed_check(&bed); /* with the due time and attempts of message 4 */
	bed_fini(&bed);
}

static void
counters_wrap(void **state)
{
	static const uint64_t firsts[] = {0xfffff0, 0xfffffffffff0};

	for (size_t i = 0; i < TR_COUNT(firsts); i++) {
		struct bed bed;

		bed_init(&bed, 8192);
		bed.config.first_segment = firsts[i];
		bed.config.first_generation = UINT32_MAX - 2;
		bed.config.floor_bytes = 4 * 8192;
		bed_open(&bed);
		for (int round = 0; round < 3; round++) {
			churn(&bed, 150, 15);
			bed_check(&bed);
			bed_close(&bed);
			bed_open(&bed);
			bed_check(&bed);
		}
		bed_fini(&bed);
	}
}

static void
memory_of_a_waiting_record(void **state)
{
	struct tr_spool_figures figures;
	struct bed bed;

	assert_int_equal(sizeof(struct tr_stub), 64 - 4 - 4);
	bed_init(&bed, 1 << 20);
	bed_open(&bed);
	for (int i = 0; i < 4096 * 3; i++)
		bed_put(&bed, 100, false, 1);
	bed_wait(&bed);
	bed_close(&bed);
	bed_open(&bed);
	tr_spool_figures(bed.spool, &figures);
	assert_int_equal(figures.live_messages, 4096 * 3);
	assert_true(figures.stub_bytes <= 64 * figures.live_messages);
	bed_fini(&bed);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stays_within_twice_what_lives),
		cmocka_unit_test(copies_a_backlog_forward),
		cmocka_unit_test(counters_wrap),
		cmocka_unit_test(memory_of_a_waiting_record),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
