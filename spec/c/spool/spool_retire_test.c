/* The power goes at each change of the disk while segments are given up, recycled and copied forward. */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "disk_bed.h"

enum { COUNT = 24, STAYS = 4, SEEDS = 3 };

/* A spool of a dozen segments. */
static void
bed_begin(struct bed *bed)
{
	bed_in_memory(bed, 4096);
	bed->config.floor_bytes = 2 * 4096;
	bed_open(bed);
	for (int i = 0; i < COUNT; i++) {
		bed_put(bed, 1000 + bed_random(bed, 400), true, 1);
		bed_wait(bed);
	}
	disk_heal();
	disk_calls_clear();
}

/* All messages but one end at once, so that more segments go than are kept as spares; that one is copied forward. */
static void
script(struct bed *bed)
{
	for (uint32_t i = 0; i < COUNT; i++)
		if (i != STAYS)
			bed_done(bed, i, TR_COL_DELIVERED);
	bed_wait(bed);
	for (int i = 0; i < 4 && !dead(bed); i++) {
		bed_put(bed, 1000, true, 1);
		bed_wait(bed);
	}
}

static void
power_cut_while_segments_go(void **state)
{
	struct tr_spool_figures figures;
	uint64_t calls;
	struct bed bed;

	bed_begin(&bed);
	script(&bed);
	for (int i = 0; i < 5000000;
		i++) { /* the commit thread copies between the groups; the clock is a virtual one */
		tr_spool_figures(bed.spool, &figures);
		if (figures.copied_bytes > 0)
			break;
		sched_yield();
	}
	assert_true(figures.copied_bytes > 0);
	assert_true(figures.segments < 6);
	bed_close(&bed);
	calls = disk_calls(DISK_CHANGES);
	assert_true(disk_calls(DISK_UNLINK) > 3);
	bed_end(&bed);
	for (uint64_t nth = 1; nth <= calls; nth++) {
		for (uint64_t seed = 1; seed <= SEEDS; seed++) {
			bed_begin(&bed);
			disk_fail_nth(DISK_CHANGES, nth, EIO, true);
			bed.crashing = true;
			script(&bed);
			bed_close(&bed);
			disk_cut(seed * 1000 + nth);
			disk_revive();
			bed.crashing = false;
			bed_open(&bed);
			assert_int_equal(bed.recovery.damaged_frames, 0); /* what went is not missed */
			bed_check(&bed);
			bed_end(&bed);
		}
	}
}

/* After a start of a log in which nothing lives, all its segments may go: but only when the first group of the new one,
 * which has the ledger, is on disk. Its header alone must not say so. Found by tailrace-sim. */
static void
power_cut_in_the_first_group_after_a_start_keeps_the_ledger(void **state)
{
	uint64_t calls = 30;

	for (uint64_t nth = 1; nth <= calls; nth++) {
		struct tr_ledger ledger;
		struct bed bed;

		bed_begin(&bed);
		for (uint32_t i = 0; i < COUNT; i++)
			bed_done(&bed, i, TR_COL_DELIVERED);
		bed_wait(&bed);
		bed_close(&bed);
		bed_open(&bed);
		disk_fail_nth(DISK_CHANGES, nth, EIO, true);
		bed.crashing = true;
		bed_put(&bed, 1000, true, 1);
		bed_wait(&bed);
		bed_close(&bed);
		disk_cut(nth);
		disk_revive();
		bed.crashing = false;
		bed_open(&bed);
		assert_int_equal(tr_spool_ledger(bed.spool, &ledger), TR_OK);
		assert_int_equal(ledger.accounts[TR_ACCOUNT_MAIL].columns[TR_COL_DELIVERED], COUNT);
		tr_ledger_fini(&ledger);
		bed_check(&bed);
		bed_end(&bed);
	}
}

/* fail: so many syncs in a row do; the kernel takes what they left for written, and a later one does not write it */
static void
cut_without_flush(uint64_t fail)
{
	for (uint64_t seed = 1; seed <= 40; seed++) {
		struct bed bed;

		bed_begin(&bed);
		bed_close(&bed);
		bed.config.no_flush = true;
		bed.config.pace_ns = 1;
		bed_open(&bed);
		disk_write_back();
		for (uint32_t i = 0; i < COUNT; i++)
			if (i != STAYS)
				bed_done(&bed, i, TR_COL_DELIVERED);
		bed_wait(&bed);
		if (fail > 0)
			disk_fail(&(struct disk_rule){
				.mask = DISK_SYNC, .after = seed % 16, .times = fail, .errnum = EIO});
		for (uint64_t i = 0, more = fail > 0 ? 1 + seed % 4 : 4 + seed % 20; more > 0; i++) {
			more -= fail == 0 || disk_faults() > 0;
			bed_put(&bed, 1000, true, 1);
			bed_wait(&bed);
			tr_loop_advance(bed.loop, 2 * TR_NS_PER_S);
			if (i % 2)
				bed_done(&bed, bed.count - 1, TR_COL_DELIVERED);
		}
		bed_wait(&bed);
		disk_cut(seed);
		bed_close(&bed);
		disk_revive();
		for (uint32_t i = 0; i < bed.count; i++)
			bed.messages[i].doubtful = i != STAYS;
		bed.damaged = true;
		bed_open(&bed);
		bed_check_messages(&bed);
		bed_end(&bed);
	}
}

/* Without flush a power cut may take what the kernel has not written yet, and no more: what lay on disk is not given up
 * before what replaces it is there, too. */
static void
no_flush_cut_takes_no_more_than_the_kernel_had_in_hand(void **state)
{
	cut_without_flush(0);
}

static void
no_flush_cut_takes_no_more_after_a_sync_that_failed(void **state)
{
	cut_without_flush(1);
	cut_without_flush(3);
}

struct numbers {
	unsigned long long least, most;
};

static int
note_number(void *arg, const char *name)
{
	struct numbers *numbers = arg;
	unsigned long long number = strncmp(name, "log-", 4) == 0 ? strtoull(name + 4, NULL, 16) : 0;

	if (number > 0 && (numbers->least == 0 || number < numbers->least))
		numbers->least = number;
	if (number > numbers->most)
		numbers->most = number;
	return 0;
}

/* A segment that was given up gets its new name before its new header: a crash in between leaves an old segment with
 * the name of the next one. Found by tailrace-sim: the next start kept it as a spare, another spare got the same name,
 * and what was written to one of the two was lost. */
static void
no_spare_keeps_the_name_of_the_next_segment(void **state)
{
	struct numbers numbers = {0, 0};
	char from[128], to[128];
	struct bed bed;

	bed_begin(&bed);
	for (uint32_t i = 0; i < 4;
		i++) { /* in the newest segment, whose header names the first one as the log's beginning */
		bed_done(&bed, i, TR_COL_DELIVERED);
		bed_wait(&bed);
	}
	bed_close(&bed);
	assert_int_equal(tr_file->list(bed.meta, note_number, &numbers), 0);
	assert_true(numbers.most > numbers.least + 4);
	snprintf(from, sizeof from, "%s/log-%016llx.seg", bed.meta, numbers.least);
	snprintf(to, sizeof to, "%s/log-%016llx.seg", bed.meta, numbers.most + 1);
	assert_int_equal(tr_file->rename(from, to), 0);
	bed_open(&bed);
	bed_check(&bed);
	for (int i = 0; i < COUNT; i++) {
		bed_put(&bed, 1000, true, 1);
		bed_wait(&bed);
	}
	bed_close(&bed);
	bed_open(&bed);
	assert_int_equal(bed.recovery.damaged_frames, 0);
	bed_check(&bed);
	bed_end(&bed);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(power_cut_while_segments_go),
		cmocka_unit_test(power_cut_in_the_first_group_after_a_start_keeps_the_ledger),
		cmocka_unit_test(no_flush_cut_takes_no_more_than_the_kernel_had_in_hand),
		cmocka_unit_test(no_flush_cut_takes_no_more_after_a_sync_that_failed),
		cmocka_unit_test(no_spare_keeps_the_name_of_the_next_segment),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
