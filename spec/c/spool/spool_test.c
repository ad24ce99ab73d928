/* The spool's everyday life: put, load, state, done, recover; outbox; body files; locks. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "bed.c"

static void
round_trip(void **state)
{
	struct bed bed;
	uint32_t index[20];

	bed_init(&bed, 65536);
	bed_open(&bed);
	for (int i = 0; i < 20; i++)
		index[i] = bed_put(&bed, (size_t)i * 400, true, i + 1);
	bed_wait(&bed);
	assert_int_equal(bed.ok, 20);
	bed_check(&bed);
	bed_done(&bed, index[3], TR_COL_DELIVERED);
	bed_done(&bed, index[19], TR_COL_BOUNCED);
	bed_state(&bed, index[5], 1800000000123, 7);
	bed_outbox(&bed, index[6], 3);
	bed_wait(&bed);
	bed_check(&bed);
	for (int i = 0; i < 3; i++) { /* a restart changes nothing */
		bed_close(&bed);
		bed_open(&bed);
		assert_int_equal(bed.recovery.messages, 20);
		assert_int_equal(bed.recovery.damaged_frames, 0);
		assert_int_equal(bed.recovery.torn_bytes, 0);
		bed_check(&bed);
	}
	bed_fini(&bed);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
