/* Sizes that are set otherwise at the next start, over a log that has wrapped: larger, smaller, back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "bed.c"

/* Some life: most of it ends, so that segments are recycled. */
static void
churn(struct bed *bed)
{
	for (int i = 0; i < 24; i++) {
		bed_put(bed, bed_random(bed, 1200), i % 2, 1);
		bed_wait(bed);
		if (bed_live(bed) > 12) {
			bed_done(bed, bed_pick(bed), TR_COL_DELIVERED);
			bed_wait(bed);
		}
	}
}

static void
each_start_may_have_other_sizes(void **state)
{
	static const uint64_t sizes[] = {16384, 65536, 4096, 1 << 20, 8192, 4096, 32768};
	struct bed bed;

	bed_init(&bed, sizes[0]);
	for (size_t i = 0; i < TR_COUNT(sizes); i++) {
		bed.config.segment_bytes = sizes[i];
		bed.config.floor_bytes = (i % 3 + 2) * sizes[i];
		bed.config.reserve_bytes = i % 2 ? sizes[i] : 4 * sizes[i];
		bed.config.body_file_bytes = i % 2 ? 512 : 0;
		bed.config.group_bytes = i % 3 ? 2048 : 0;
		bed_open(&bed);
		assert_int_equal(bed.recovery.damaged_frames, 0);
		assert_int_equal(bed.recovery.torn_bytes, 0);
		assert_int_equal(bed.refused, 0);
		bed_check(&bed); /* what was stored under the other sizes */
		churn(&bed);
		bed_check(&bed);
		bed_close(&bed);
	}
	bed_open(&bed);
	bed_check(&bed);
	bed_fini(&bed);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_start_may_have_other_sizes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
