/* Changes larger than a segment: each is one group in a segment of its own, whole or absent, whatever fails. */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "disk_bed.h"
#include "spool/internal.h"
#include "spool/tool.h"

enum { SEGMENT = 4096, RECORDS = 12 };

/* Mails with their records, ends with theirs, each several segments large, and small ones between. */
static void
script(struct bed *bed)
{
	for (int i = 0; i < 2 && !dead(bed); i++) {
		bed_put(bed, 200, true, 1);
		bed_many(bed, UINT32_MAX, RECORDS, 900 + 100 * (size_t)i);
		bed_put(bed, 100, false, 1);
		bed_wait(bed);
		if (dead(bed))
			return;
		bed_many(bed, bed_pick(bed), RECORDS, 1200);
		bed_wait(bed);
		for (int k = 0; k < 6 && !dead(bed); k++) { /* what lives in large segments is copied forward */
			bed_done(bed, bed_pick(bed), TR_COL_DELIVERED);
			bed_wait(bed);
		}
	}
}

struct files {
	const char *dir;
	uint32_t logs, large;
};

static int
note_file(void *arg, const char *name)
{
	struct files *files = arg;
	char path[160];
	struct stat st;

	snprintf(path, sizeof path, "%s/%s", files->dir, name);
	if (strstr(name, ".seg") == NULL || tr_file->stat(path, &st) < 0)
		return 0;
	files->logs += strncmp(name, "log-", 4) == 0;
	files->large += st.st_size > SEG_HEADER + SEGMENT;
	return 0;
}

static struct files
files_of(struct bed *bed)
{
	struct files files = {.dir = bed->meta};

	assert_int_equal(tr_file->list(bed->meta, note_file, &files), 0);
	return files;
}

static void
check_sound(struct bed *bed)
{
	struct tr_buf out = {0};
	char *error = NULL;

	assert_int_equal(tr_spool_check(bed->meta, bed->data, false, &out, &error), TR_OK);
	assert_null(error);
	tr_buf_free(&out);
}

static void
they_come_back_whole(void **state)
{
	struct tr_spool_figures figures;
	struct tr_buf out = {0};
	char *error = NULL;
	struct bed bed;

	bed_in_memory(&bed, SEGMENT);
	bed_open(&bed);
	script(&bed);
	assert_int_equal(bed.refused, 0);
	bed_check(&bed);
	bed_close(&bed);
	assert_true(files_of(&bed).large > 2);
	check_sound(&bed);
	bed_open(&bed);
	assert_int_equal(bed.recovery.damaged_frames, 0);
	bed_check(&bed);
	bed_close(&bed);
	assert_int_equal(tr_spool_repair(bed.meta, bed.data, NULL, &out, &error), TR_OK);
	tr_buf_free(&out);
	check_sound(&bed);
	bed.config.segment_bytes = 8 * SEGMENT; /* a repaired log may be written on with any size */
	bed_open(&bed);
	bed_check(&bed);
	script(&bed);
	bed_close(&bed);
	bed.config.segment_bytes = SEGMENT;
	bed_open(&bed);
	bed_check(&bed);
	for (uint32_t pick; (pick = bed_pick(&bed)) != UINT32_MAX; bed_wait(&bed))
		bed_done(&bed, pick, TR_COL_DELIVERED);
	bed_put(&bed, 3000, true, 1); /* it tells that the others are no part of the log any more */
	bed_wait(&bed);
	do { /* the keeper's thread removes the files */
		sched_yield();
		tr_spool_figures(bed.spool, &figures);
	} while (figures.segments > 2 || files_of(&bed).large > 0);
	bed_check(&bed);
	bed_end(&bed);
}

/* Each call of the script that changes the disk fails once. */
static void
every_call_may_fail(void **state)
{
	static const struct {
		unsigned mask;
		int errnum;
		bool brief;
	} faults[] = {{DISK_WRITE, ENOSPC, true}, {DISK_SYNC, EIO, false}, {DISK_ALLOCATE, ENOSPC, false},
		{DISK_OPEN | DISK_RENAME | DISK_SYNC_DIR | DISK_UNLINK, EIO, false}};

	for (size_t i = 0; i < TR_COUNT(faults); i++) {
		uint64_t calls = 1;

		for (uint64_t nth = 0; nth <= calls; nth++) {
			struct bed bed;

			bed_in_memory(&bed, SEGMENT);
			bed_open(&bed);
			disk_heal();
			disk_calls_clear();
			if (nth > 0 && faults[i].brief)
				disk_fail(&(struct disk_rule){.mask = DISK_WRITE, .times = UINT64_MAX, .brief = true});
			if (nth > 0)
				disk_fail_nth(faults[i].mask, nth, faults[i].errnum, false);
			script(&bed);
			bed_check(&bed);
			bed_close(&bed);
			if (nth == 0)
				calls = disk_calls(faults[i].mask);
			disk_heal();
			bed_open(&bed);
			assert_int_equal(bed.recovery.damaged_frames, 0);
			bed_check(&bed);
			bed_end(&bed);
		}
		assert_true(calls > 5);
	}
}

/* The power goes at each change of the disk. */
static void
power_cut_anywhere(void **state)
{
	uint64_t calls = 1;

	for (uint64_t nth = 0; nth <= calls; nth++) {
		struct bed bed;

		bed_in_memory(&bed, SEGMENT);
		bed_open(&bed);
		disk_heal();
		disk_calls_clear();
		if (nth > 0)
			disk_fail_nth(DISK_CHANGES, nth, EIO, true);
		bed.crashing = nth > 0;
		script(&bed);
		bed_close(&bed);
		if (nth == 0)
			calls = disk_calls(DISK_CHANGES);
		if (nth > 0)
			disk_cut(nth);
		disk_revive();
		bed.crashing = false;
		bed_open(&bed);
		assert_int_equal(bed.recovery.damaged_frames, 0);
		bed_check(&bed);
		script(&bed);
		bed_check(&bed);
		bed_end(&bed);
	}
	assert_true(calls > 50);
}

/* The process ends in the middle of the write. */
static void
killed_in_the_middle(void **state)
{
	for (uint64_t nth = 0; nth < 12; nth++) {
		struct bed bed;

		bed_in_memory(&bed, SEGMENT);
		disk_reset(nth);
		bed_open(&bed);
		disk_fail(&(struct disk_rule){
			.mask = DISK_WRITE | DISK_ALLOCATE, .after = nth, .times = 1, .kill = true});
		bed.crashing = true;
		for (int i = 0; i < 3 && !disk_is_ghost(); i++) {
			bed_many(&bed, UINT32_MAX, RECORDS, 1000);
			bed_wait(&bed);
		}
		for (uint32_t i = 0; i < bed.count; i++) /* answered by a ghost, maybe */
			bed.messages[i].doubtful = true, bed.messages[i].with = i / RECORDS * RECORDS;
		bed_close(&bed);
		disk_revive();
		bed.crashing = false;
		bed_open(&bed);
		assert_int_equal(bed.recovery.damaged_frames, 0);
		bed_check(&bed);
		bed_end(&bed);
	}
}

/* No space for the one large segment: what comes in is refused whole, and smaller mail is taken all the same. */
static void
without_space_intake_is_refused_whole(void **state)
{
	struct tr_spool_figures figures;
	struct bed bed;

	bed_in_memory(&bed, SEGMENT);
	bed_open(&bed);
	bed_put(&bed, 100, true, 1);
	bed_wait(&bed);
	do {
		sched_yield();
		tr_spool_figures(bed.spool, &figures);
	} while (figures.free_segments < 3);
	disk_capacity(disk_used() + 3 * SEGMENT);
	bed_many(&bed, UINT32_MAX, RECORDS, 1000);
	bed_wait(&bed);
	assert_int_equal(bed.last_status, TR_ENOSPC);
	assert_true(tr_spool_accepts(bed.spool, NULL));
	bed_put(&bed, 100, true, 1);
	bed_wait(&bed);
	assert_int_equal(bed.last_status, TR_OK);
	bed_check(&bed);
	disk_capacity(UINT64_MAX);
	bed_many(&bed, UINT32_MAX, RECORDS, 1000);
	bed_wait(&bed);
	assert_int_equal(bed.last_status, TR_OK);
	bed_close(&bed);
	disk_heal();
	bed_open(&bed);
	bed_check(&bed);
	bed_end(&bed);
}

/* It must not take the space that is to be left free either, though the disk has it. */
static void
intake_leaves_the_free_space(void **state)
{
	struct tr_file_space space;
	struct bed bed;

	bed_in_memory(&bed, SEGMENT);
	disk_capacity(1 << 20);
	assert_int_equal(tr_file->space("/sim", &space), 0);
	bed.config.min_free_space.bytes = space.free_bytes - 12 * SEGMENT;
	bed_open(&bed);
	bed_put(&bed, 100, true, 1);
	bed_wait(&bed);
	assert_int_equal(bed.last_status, TR_OK);
	bed_many(&bed, UINT32_MAX, RECORDS, 3500);
	bed_wait(&bed);
	assert_int_equal(bed.last_status, TR_ENOSPC);
	bed_many(&bed, 0, RECORDS, 3500); /* an outcome may */
	bed_wait(&bed);
	assert_int_equal(bed.last_status, TR_OK);
	bed_check(&bed);
	bed_close(&bed);
	bed_open(&bed);
	bed_check(&bed);
	bed_end(&bed);
}

/* On a full disk an outcome takes the place of the spares; one that is larger still waits until there is space. */
static void
an_outcome_finds_space_or_waits_for_it(void **state)
{
	struct tr_spool_figures figures;
	uint32_t first;
	struct bed bed;

	bed_in_memory(&bed, SEGMENT);
	bed.config.reserve_bytes = 8 * SEGMENT;
	bed_open(&bed);
	first = bed_put(&bed, 100, true, 1);
	bed_put(&bed, 100, true, 1);
	bed_wait(&bed);
	do {
		sched_yield();
		tr_spool_figures(bed.spool, &figures);
	} while (figures.free_segments < 9);
	disk_capacity(disk_used());
	bed_many(&bed, first, RECORDS, 1000);
	bed_wait(&bed);
	assert_int_equal(bed.last_status, TR_OK);
	tr_spool_figures(bed.spool, &figures);
	assert_true(figures.free_segments < 9);
	bed_many(&bed, first + 1, 60, 2000); /* the reserve is smaller: it stays */
	while (!tr_spool_pressure(bed.spool))
		if (!tr_loop_turn(bed.loop))
			sched_yield();
	assert_false(tr_spool_accepts(bed.spool, NULL));
	tr_spool_figures(bed.spool, &figures);
	assert_true(figures.free_segments > 1);
	disk_capacity(UINT64_MAX);
	bed_wait(&bed);
	assert_int_equal(bed.last_status, TR_OK);
	assert_true(tr_spool_accepts(bed.spool, NULL));
	bed_check(&bed);
	bed_close(&bed);
	disk_heal();
	bed_open(&bed);
	bed_check(&bed);
	bed_end(&bed);
}

/* Offsets in a segment over 64 MiB are told in larger steps. */
static void
more_than_64_mib(void **state)
{
	struct bed bed;

	bed_in_memory(&bed, 1 << 20);
	bed_open(&bed);
	bed_put(&bed, 10, true, 1);
	bed_wait(&bed);
	bed_many(&bed, 0, 70, (1 << 20) - 100);
	bed_wait(&bed);
	assert_int_equal(bed.last_status, TR_OK);
	bed_put(&bed, 10, true, 1);
	bed_wait(&bed);
	bed_close(&bed);
	bed_open(&bed);
	assert_int_equal(bed.recovery.damaged_frames, 0);
	bed_check(&bed);
	for (int i = 0; i < 60; i++) { /* the rest is copied forward */
		bed_done(&bed, bed_pick(&bed), TR_COL_DELIVERED);
		bed_wait(&bed);
	}
	bed_check(&bed);
	bed_end(&bed);
}

static void
done(struct tr_change *change, int status)
{
	*(int *)change->owner = status;
}

static bool
is_told(void *arg)
{
	return *(int *)arg != 1;
}

/* The bound: what does not fit leaves nothing behind, and what ends or counts always fits. */
static void
a_change_has_its_bound(void **state)
{
	struct tr_message *messages[9] = {NULL};
	struct tr_change change;
	char body[1001];
	struct bed bed;
	int status = 1, err = TR_OK, count = 0;

	memset(body, 'x', 1000);
	body[1000] = '\0';
	bed_in_memory(&bed, SEGMENT);
	bed.config.change_bytes = 8000;
	bed_open(&bed);
	tr_change_init(&change, bed.spool, bed.loop, done, &status);
	while (count < 9 && err == TR_OK) {
		struct tr_message *message = messages[count++] = tr_message_new();

		assert_int_equal(tr_message_set_sender(message, TR_STR("a@example.com")), TR_OK);
		assert_int_equal(tr_message_set_data(message, tr_str(body)), TR_OK);
		err = tr_change_put(&change, message, TR_STR("q"), TR_COL_ACCEPTED, 1);
	}
	assert_int_equal(err, TR_ETOOBIG);
	assert_true(count > 4);
	assert_int_equal(messages[count - 1]->slot, TR_NO_SLOT);
	assert_int_equal(tr_change_room(&change), 0);
	for (int i = 0; i < 100; i++)
		assert_int_equal(tr_change_count(&change, 0, TR_COL_ACCEPTED, TR_REASON_NONE, i), TR_OK);
	assert_int_equal(tr_change_count(&change, 0, TR_COL_DROPPED, TR_REASON_NULL_QUEUE, 4950), TR_OK);
	tr_spool_submit(&change);
	assert_true(tr_loop_run_until(bed.loop, is_told, &status, 60 * TR_NS_PER_S));
	assert_int_equal(status, TR_OK);
	tr_change_init(&change, bed.spool, bed.loop, done, &status);
	assert_int_equal(tr_change_count(&change, 0, TR_COL_ACCEPTED, TR_REASON_NONE, 1), TR_OK);
	tr_change_fail(&change, TR_ETOOBIG);
	tr_change_fail(&change, TR_ENOMEM); /* the first counts */
	status = 1;
	tr_spool_submit(&change);
	assert_true(tr_loop_run_until(bed.loop, is_told, &status, 60 * TR_NS_PER_S));
	assert_int_equal(status, TR_ETOOBIG);
	while (count > 0)
		tr_message_free(messages[--count]);
	bed_check(&bed); /* the ledger */
	bed_end(&bed);
}

/* Of a thread with a pulse: operations that can take long, and those that came without a new beat. */
static _Atomic uint32_t long_ones, unmarked;

static void
note_long(void)
{
	static _Thread_local uint64_t last;
	uint64_t beat;

	if (tr_pulse_mine == NULL)
		return;
	beat = atomic_load(&tr_pulse_mine->beat);
	long_ones++;
	unmarked += beat == last || beat % 2 == 0;
	last = beat;
}

static const struct tr_file_ops *under;

static ssize_t
noted_write(int fd, const struct iovec *iov, int count, off_t at)
{
	if (count > 1) /* of a group; the others are one page */
		note_long();
	return under->pwritev(fd, iov, count, at);
}

static int
noted_sync(int fd)
{
	note_long();
	return under->fdatasync(fd);
}

static int
noted_allocate(int fd, off_t len)
{
	note_long();
	return under->allocate(fd, len);
}

/* A large group on a slow disk is no thread that hangs: each of its operations shows. */
static void
each_operation_shows(void **state)
{
	struct tr_file_ops ops;
	struct bed bed;

	bed_in_memory(&bed, SEGMENT);
	under = tr_file;
	ops = *under;
	ops.pwritev = noted_write;
	ops.fdatasync = noted_sync;
	ops.allocate = noted_allocate;
	tr_file = &ops;
	bed_open(&bed);
	bed_many(&bed, UINT32_MAX, 70, 100000); /* a file is filled in two steps for it */
	bed_wait(&bed);
	bed_check(&bed);
	bed_close(&bed);
	tr_file = under;
	assert_true(long_ones > 10);
	assert_int_equal(unmarked, 0);
	bed_open(&bed);
	bed_end(&bed);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(they_come_back_whole),
		cmocka_unit_test(every_call_may_fail),
		cmocka_unit_test(power_cut_anywhere),
		cmocka_unit_test(killed_in_the_middle),
		cmocka_unit_test(without_space_intake_is_refused_whole),
		cmocka_unit_test(intake_leaves_the_free_space),
		cmocka_unit_test(an_outcome_finds_space_or_waits_for_it),
		cmocka_unit_test(more_than_64_mib),
		cmocka_unit_test(a_change_has_its_bound),
		cmocka_unit_test(each_operation_shows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
