/* The power goes at each change of the disk while segments are given up, recycled and copied forward. */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/diag.h"
#include "bed.c"
#include "fault.h"

static void
quiet(void *arg, enum tr_level level, const char *target, const char *text)
{
	(void)arg, (void)level, (void)target, (void)text;
}

static bool
dead(struct bed *bed)
{
	return bed->crashing && tr_spool_pressure(bed->spool);
}

/* Two messages stay at the oldest end; the others come and go, so that the log moves through several segments. */
static void
script(struct bed *bed)
{
	for (int i = 0; i < 14 && !dead(bed); i++) {
		uint32_t index = bed_put(bed, 700 + bed_random(bed, 300), true, 1);

		bed_wait(bed);
		if (i < 2 || dead(bed) || !bed->messages[index].live || bed->messages[index].doubtful)
			continue;
		bed_done(bed, index, TR_COL_DELIVERED);
		bed_wait(bed);
	}
}

static void
bed_begin(struct bed *bed)
{
	tr_clock_virtual(INT64_C(1790000000) * TR_NS_PER_S);
	tr_log_sink(quiet, NULL);
	bed_init(bed, 4096);
	bed->config.floor_bytes = 2 * 4096;
	fault_install();
	bed_open(bed);
	fault_reset();
}

static void
bed_end(struct bed *bed)
{
	bed_fini(bed);
	fault_uninstall();
	tr_log_sink(NULL, NULL);
	tr_clock_real();
}

static void
power_cut_while_segments_go(void **state)
{
	struct tr_spool_figures figures;
	uint64_t calls, renames;
	struct bed bed;

	bed_begin(&bed);
	script(&bed);
	tr_spool_figures(bed.spool, &figures);
	assert_true(figures.segments < 4); /* of more that the script fills */
	assert_true(figures.copied_bytes > 0);
	bed_close(&bed);
	calls = fault_calls(FAULT_CHANGES);
	renames = fault_calls(FAULT_RENAME | FAULT_UNLINK);
	assert_true(renames > 3);
	bed_end(&bed);
	for (uint64_t nth = 1; nth <= calls; nth++) {
		bed_begin(&bed);
		fault_fail(FAULT_CHANGES, nth, EIO, true);
		bed.crashing = true;
		script(&bed);
		bed_close(&bed);
		fault_power_cut(nth);
		bed.crashing = false;
		bed_open(&bed);
		bed_check(&bed);
		bed_end(&bed);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(power_cut_while_segments_go),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
