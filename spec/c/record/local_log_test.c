/* Local log segments: names, rotation by size and age, read-only marks, back-pressure, failing files. Virtual clock.
 * The outbox is a counter here: these tests need nothing of the queues. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <zstd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/file.h"
#include "base/loop.h"
#include "record/internal.h"

void
tr_outbox_hold(struct tr_outbox *outbox)
{
	outbox->pending++;
}

void
tr_outbox_release(struct tr_outbox *outbox)
{
	outbox->pending--;
}

struct bed {
	char dir[64];
	struct tr_loop *loop;
	struct tr_local_logs *logs;
	struct tr_local_file *file;
	struct tr_logger_config config;
	struct tr_outbox outbox;
};

static void
bed_init(struct bed *bed)
{
	*bed = (struct bed){.config = {.kind = TR_LOGGER_FILE, .max_file_size = 1000000, .back_pressure = 1000}};
	snprintf(bed->dir, sizeof bed->dir, "/tmp/tr-local-XXXXXX");
	assert_non_null(mkdtemp(bed->dir));
	tr_clock_virtual(INT64_C(1785000012250000000)); /* 2026-07-25 17:20:12.250 */
	assert_int_equal(tr_loop_new(&bed->loop), TR_OK);
	tr_loop_enter(bed->loop);
	assert_int_equal(tr_local_logs_new(&bed->logs), TR_OK);
	bed->config.log_dir = bed->dir;
	for (int type = 0; type < TR_EVENT_TYPES; type++)
		bed->config.per_record[type].enable = true;
	bed->outbox.change.loop = bed->loop;
}

static void
bed_open(struct bed *bed)
{
	char *error = NULL;

	assert_int_equal(tr_local_logs_add(bed->logs, &bed->config, "dir-test", &bed->file, &error), TR_OK);
	assert_null(error);
}

static void
remove_dir(const char *path)
{
	char command[128];

	snprintf(command, sizeof command, "rm -rf '%s'", path);
	assert_int_equal(system(command), 0);
}

static void
bed_fini(struct bed *bed)
{
	tr_local_logs_free(bed->logs);
	tr_loop_free(bed->loop);
	tr_clock_real();
	remove_dir(bed->dir);
	assert_int_equal(bed->outbox.pending, 0);
}

static bool
idle(void *arg)
{
	return tr_hold_count() == 0;
}

/* Until the thread has written all and its mail has been read. */
static void
settle(struct bed *bed)
{
	assert_true(tr_loop_run_until(bed->loop, idle, NULL, 0) ||
		    tr_loop_run_until(bed->loop, idle, NULL, 10 * TR_NS_PER_S));
}

static void
put(struct bed *bed, enum tr_event_type type, const char *text)
{
	struct tr_blob *line = tr_blob_new(text, strlen(text));

	tr_local_file_write(bed->file, type, line, &bed->outbox);
	tr_blob_unref(line);
}

/* Sorted names of the files in a directory. */
static int
names(const char *dir, char out[16][80])
{
	struct dirent **entries;
	int count = scandir(dir, &entries, NULL, alphasort), kept = 0;

	assert_true(count >= 0);
	for (int i = 0; i < count; i++) {
		if (entries[i]->d_name[0] != '.' && kept < 16)
			snprintf(out[kept++], 80, "%.79s", entries[i]->d_name);
		free(entries[i]);
	}
	free(entries);
	return kept;
}

static void
check_segment(const char *dir, const char *name, const char *content, bool finished)
{
	char path[160], text[65536];
	char *bytes;
	size_t len;
	struct stat stat_of;
	ZSTD_DCtx *zstd = ZSTD_createDCtx();
	ZSTD_outBuffer out = {text, sizeof text, 0};
	ZSTD_inBuffer in;
	size_t left;

	snprintf(path, sizeof path, "%s/%s", dir, name);
	assert_int_equal(tr_file_slurp(path, &bytes, &len), 0);
	in = (ZSTD_inBuffer){bytes, len, 0};
	left = ZSTD_decompressStream(zstd, &out, &in);
	assert_false(ZSTD_isError(left));
	assert_int_equal(left == 0, finished); /* the frame is ended, with its checksum */
	text[out.pos] = '\0';
	assert_string_equal(text, content);
	assert_int_equal(stat(path, &stat_of), 0);
	assert_int_equal((stat_of.st_mode & 0222) == 0, finished);
	free(bytes);
	ZSTD_freeDCtx(zstd);
}

static void
shutdown_finishes_a_segment(void **state)
{
	struct bed bed;
	char list[16][80];

	bed_init(&bed);
	bed_open(&bed);
	assert_int_equal(names(bed.dir, list), 0); /* opened by the first record */
	put(&bed, TR_EV_RECEPTION, "one\n");
	put(&bed, TR_EV_DELIVERY, "two\n");
	settle(&bed);
	tr_local_logs_free(bed.logs);
	assert_int_equal(names(bed.dir, list), 1);
	assert_string_equal(list[0], "20260725-172012.250");
	check_segment(bed.dir, list[0], "one\ntwo\n", true);
	assert_int_equal(tr_local_logs_new(&bed.logs), TR_OK);
	bed_fini(&bed);
}

static void
rotates_by_size(void **state)
{
	struct bed bed;
	char list[16][80];

	bed_init(&bed);
	bed.config.max_file_size = 8; /* checked after each record */
	bed_open(&bed);
	put(&bed, TR_EV_RECEPTION, "1234\n");
	put(&bed, TR_EV_RECEPTION, "5678\n");
	put(&bed, TR_EV_RECEPTION, "abcd\n");
	settle(&bed);
	assert_int_equal(names(bed.dir, list), 2);
	assert_string_equal(list[0], "20260725-172012.250");
	assert_string_equal(list[1], "20260725-172012.250000001"); /* the same moment: the next free name */
	check_segment(bed.dir, list[0], "1234\n5678\n", true);
	tr_loop_advance(bed.loop, 2 * TR_NS_PER_S);
	tr_local_logs_tick(bed.logs);
	settle(&bed);
	check_segment(bed.dir, list[1], "abcd\n", false); /* visible within a second or so, and open */
	bed_fini(&bed);
}

static void
rotates_by_age(void **state)
{
	struct bed bed;
	char list[16][80];

	bed_init(&bed);
	bed.config.max_segment_duration_ns = 3600 * TR_NS_PER_S;
	bed_open(&bed);
	put(&bed, TR_EV_RECEPTION, "old\n");
	settle(&bed);
	tr_loop_advance(bed.loop, 3599 * TR_NS_PER_S);
	tr_local_logs_tick(bed.logs);
	settle(&bed);
	assert_int_equal(names(bed.dir, list), 1);
	check_segment(bed.dir, list[0], "old\n", false);
	tr_loop_advance(bed.loop, TR_NS_PER_S);
	tr_local_logs_tick(bed.logs); /* idle, but old */
	settle(&bed);
	check_segment(bed.dir, list[0], "old\n", true);
	put(&bed, TR_EV_RECEPTION, "new\n");
	settle(&bed);
	tr_loop_advance(bed.loop, 7200 * TR_NS_PER_S);
	put(&bed, TR_EV_RECEPTION, "newer\n"); /* without a tick: the record itself finds the segment too old */
	settle(&bed);
	assert_int_equal(names(bed.dir, list), 3);
	assert_string_equal(list[1], "20260725-182012.250");
	assert_string_equal(list[2], "20260725-202012.250");
	check_segment(bed.dir, list[1], "new\n", true);
	bed_fini(&bed);
}

static void
types_may_have_their_own_series(void **state)
{
	struct bed bed;
	char list[16][80], other[96];
	struct tr_per_record *bounce = &bed.config.per_record[TR_EV_BOUNCE];

	bed_init(&bed);
	snprintf(other, sizeof other, "%s/deep/er", bed.dir);
	bounce->suffix = "_bounces";
	bounce->segment_header = "# bounces\n";
	bed.config.per_record[TR_EV_OOB].log_dir = other;
	bed.config.per_record[TR_EV_EXPIRATION].suffix = "_bounces"; /* shares the series, has no header of its own */
	bed_open(&bed);
	put(&bed, TR_EV_RECEPTION, "r\n");
	put(&bed, TR_EV_BOUNCE, "b\n");
	put(&bed, TR_EV_EXPIRATION, "e\n");
	put(&bed, TR_EV_OOB, "o\n");
	settle(&bed);
	tr_local_logs_free(bed.logs);
	assert_int_equal(names(bed.dir, list), 3);
	check_segment(bed.dir, "20260725-172012.250", "r\n", true);
	check_segment(bed.dir, "20260725-172012.250_bounces", "# bounces\nb\ne\n", true);
	check_segment(other, "20260725-172012.250", "o\n", true);
	assert_int_equal(tr_local_logs_new(&bed.logs), TR_OK);
	bed_fini(&bed);
}

static void
old_files_are_finished_at_start(void **state)
{
	struct bed bed;
	char path[96];
	struct stat stat_of;
	const char *files[] = {"20260101-000000", ".hidden", "anything"};

	bed_init(&bed);
	for (size_t i = 0; i < TR_COUNT(files); i++) {
		snprintf(path, sizeof path, "%s/%s", bed.dir, files[i]);
		close(open(path, O_CREAT | O_WRONLY, 0644));
	}
	snprintf(path, sizeof path, "%s/sub", bed.dir);
	assert_int_equal(mkdir(path, 0755), 0);
	bed_open(&bed);
	for (size_t i = 0; i < TR_COUNT(files); i++) {
		snprintf(path, sizeof path, "%s/%s", bed.dir, files[i]);
		assert_int_equal(stat(path, &stat_of), 0);
		assert_int_equal((stat_of.st_mode & 0222) == 0, files[i][0] != '.');
	}
	snprintf(path, sizeof path, "%s/sub", bed.dir);
	assert_int_equal(stat(path, &stat_of), 0);
	assert_int_not_equal(stat_of.st_mode & 0222, 0);
	bed_fini(&bed);
}

static void
a_full_queue_holds_the_outbox(void **state)
{
	struct bed bed;
	char list[16][80];
	int64_t before = tr_metric_read("log_submit_full", "logger", "dir-test", NULL);

	bed_init(&bed);
	bed.config.back_pressure = 1000000;
	bed_open(&bed);
	tr_local_logs_set_bound(bed.logs, 1); /* byte: whatever is queued makes the next one wait */
	for (int i = 0; i < 2000; i++)
		put(&bed, TR_EV_RECEPTION, "x\n");
	assert_int_equal(bed.outbox.pending, tr_metric_read("log_submit_full", "logger", "dir-test", NULL) - before);
	assert_true(bed.outbox.pending > 0); /* releases come by mail, so none has run yet */
	settle(&bed);
	assert_int_equal(bed.outbox.pending, 0);
	assert_int_equal(names(bed.dir, list), 1);
	bed_fini(&bed);
}

/* --- failing files ---------------------------------------------------------------------------------------------------
 */

static _Atomic int fail_writes, fail_opens;

static ssize_t
failing_pwritev(int fd, const struct iovec *iov, int count, off_t at)
{
	return atomic_load(&fail_writes) ? -ENOSPC : tr_file_real.pwritev(fd, iov, count, at);
}

static int
failing_open(const char *path, int flags, int mode)
{
	return atomic_load(&fail_opens) ? -EMFILE : tr_file_real.open(path, flags, mode);
}

static void
quiet(void *arg, enum tr_level level, const char *target, const char *text)
{
	(*(_Atomic int *)arg)++;
}

static void
failures_are_counted_and_logging_goes_on(void **state)
{
	struct bed bed;
	char list[16][80];
	struct tr_file_ops ops = tr_file_real;
	int64_t before = tr_metric_read("tailrace_log_records_lost_total", "logger", "dir-test", NULL);
	_Atomic int lines = 0;

	ops.pwritev = failing_pwritev;
	ops.open = failing_open;
	tr_file = &ops;
	bed_init(&bed);
	tr_log_sink(quiet, &lines);
	bed_open(&bed);
	atomic_store(&fail_opens, 1);
	put(&bed, TR_EV_RECEPTION, "lost\n");
	settle(&bed);
	assert_int_equal(tr_metric_read("tailrace_log_records_lost_total", "logger", "dir-test", NULL) - before, 1);
	atomic_store(&fail_opens, 0);
	put(&bed, TR_EV_RECEPTION, "also lost\n");
	settle(&bed);
	atomic_store(&fail_writes, 1);
	tr_loop_advance(bed.loop, 2 * TR_NS_PER_S);
	put(&bed, TR_EV_RECEPTION, "with it\n"); /* the flush after it fails */
	settle(&bed);
	assert_int_equal(tr_metric_read("tailrace_log_records_lost_total", "logger", "dir-test", NULL) - before, 3);
	assert_int_equal(lines, 2);
	atomic_store(&fail_writes, 0);
	put(&bed, TR_EV_RECEPTION, "kept\n"); /* in a segment of its own */
	settle(&bed);
	tr_local_logs_free(bed.logs);
	assert_int_equal(names(bed.dir, list), 2);
	check_segment(bed.dir, list[1], "kept\n", true);
	assert_int_equal(tr_local_logs_new(&bed.logs), TR_OK);
	tr_log_sink(NULL, NULL);
	bed_fini(&bed);
	tr_file = &tr_file_real;
}

static void
a_directory_that_cannot_be_made(void **state)
{
	struct bed bed;
	char path[96];
	char *error = NULL;

	bed_init(&bed);
	snprintf(path, sizeof path, "%s/file", bed.dir);
	close(open(path, O_CREAT | O_WRONLY, 0644));
	snprintf(path, sizeof path, "%s/file/logs", bed.dir);
	bed.config.log_dir = path;
	assert_int_equal(tr_local_logs_add(bed.logs, &bed.config, "dir-test", &bed.file, &error), TR_EIO);
	assert_non_null(error);
	assert_non_null(strstr(error, path));
	free(error);
	bed_fini(&bed);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shutdown_finishes_a_segment),
		cmocka_unit_test(rotates_by_size),
		cmocka_unit_test(rotates_by_age),
		cmocka_unit_test(types_may_have_their_own_series),
		cmocka_unit_test(old_files_are_finished_at_start),
		cmocka_unit_test(a_full_queue_holds_the_outbox),
		cmocka_unit_test(failures_are_counted_and_logging_goes_on),
		cmocka_unit_test(a_directory_that_cannot_be_made),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
