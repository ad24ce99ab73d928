/* Damaged logs: torn tails at every byte, flipped bytes, segments that are gone, versions of another time; and what
 * check and repair make of them. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "disk_bed.h"
#include "spool/tool.h"

static void
segment_path(const struct bed *bed, uint64_t number, char out[160])
{
	snprintf(out, 160, "%s/log-%016llx.seg", bed->meta, (unsigned long long)number);
}

static void
patch(const char *path, off_t at, const void *bytes, size_t len)
{
	int fd = tr_file->open(path, O_RDWR, 0);

	assert_true(fd >= 0);
	assert_int_equal(tr_file_write_all(fd, bytes, len, at), 0);
	tr_file->close(fd);
}

static void
flip(const char *path, off_t at, int bit)
{
	int fd = tr_file->open(path, O_RDWR, 0);
	char byte;

	assert_true(fd >= 0);
	assert_int_equal(tr_file_read_all(fd, &byte, 1, at), 1);
	byte ^= (char)(1 << bit);
	assert_int_equal(tr_file_write_all(fd, &byte, 1, at), 0);
	tr_file->close(fd);
}

/* As a kill leaves it: closed without the closing group. Returns where the last group of the newest segment
 * starts and ends. */
static void
last_group(const struct bed *bed, uint64_t number, uint64_t *start, uint64_t *end)
{
	char path[160], *bytes;
	const unsigned char *frame;
	size_t len;
	uint64_t at = 4096, group = 4096;
	uint32_t generation = 0;

	segment_path(bed, number, path);
	assert_int_equal(tr_file_slurp(path, &bytes, &len), 0);
	*start = *end = 4096;
	for (;;) {
		uint32_t length, gen;

		if (at + 32 > len)
			break;
		frame = (const unsigned char *)bytes + at;
		memcpy(&length, frame + 4, 4);
		memcpy(&gen, frame + 8, 4);
		if (generation == 0)
			generation = gen;
		if (gen != generation || gen == 0 || frame[0] == 0 || frame[0] > 7)
			break;
		at += (32 + length + 7) / 8 * 8 + frame[2] * 8u;
		if (frame[0] == 7) {
			*start = group;
			*end = group = at;
		}
	}
	free(bytes);
}

static void
torn_at_every_byte(void **state)
{
	struct bed bed;
	uint64_t start, end, last_byte;
	uint32_t ended, first;
	char path[160], *bytes;
	size_t len;

	bed_in_memory(&bed, 65536);
	bed_open(&bed);
	for (int i = 0; i < 5; i++)
		bed_put(&bed, 200, true, 1);
	bed_wait(&bed);
	ended = bed_pick(&bed);
	first = bed_outbox(&bed, ended, 2);
	bed_wait(&bed);
	bed_save(&bed); /* a copy while it runs is what a kill leaves */
	bed_close(&bed);
	bed_restore(&bed);
	last_group(&bed, 1, &start, &end);
	assert_true(end > start + 200);
	segment_path(&bed, 1, path);
	assert_int_equal(tr_file_slurp(path, &bytes, &len), 0);
	for (last_byte = end; bytes[last_byte - 1] == 0;)
		last_byte--;
	free(bytes);
	for (uint64_t cut = start; cut < end; cut++) {
		char zeros[4096] = {0};
		bool whole;

		bed_restore(&bed);
		if (cut + sizeof zeros > end)
			patch(path, (off_t)cut, zeros, end - cut);
		else
			for (uint64_t at = cut; at < end; at += sizeof zeros)
				patch(path, (off_t)at, zeros, end - at < sizeof zeros ? end - at : sizeof zeros);
		for (uint32_t i = 0; i < bed.count; i++) { /* the last change may be there or not, but whole */
			if (i == ended || i >= first)
				bed.messages[i].doubtful = true;
		}
		bed_open(&bed);
		whole = bed.messages[ended].slot == TR_NO_SLOT;
		assert_int_equal(whole, cut >= last_byte); /* what was cut away was zero already */
		if (!whole && cut > start)
			assert_true(bed.recovery.torn_bytes > 0 || cut < start + 32);
		bed_check(&bed);
		bed_close(&bed);
	}
	bed_end(&bed);
}

/* A log of several segments, closed. */
static void
fill(struct bed *bed, int messages)
{
	bed_open(bed);
	for (int i = 0; i < messages; i++) {
		bed_put(bed, bed_random(bed, 800), true, 1);
		bed_wait(bed);
		if (i % 5 == 4) {
			bed_done(bed, bed_pick(bed), TR_COL_DELIVERED);
			bed_wait(bed);
		}
	}
	bed_close(bed);
	bed_save(bed);
}

/* How many acknowledged messages are missing, and how many ended ones came back. */
static void
count_loss(struct bed *bed, uint32_t *lost, uint32_t *back)
{
	*lost = *back = 0;
	for (uint32_t i = 0; i < bed->count; i++) {
		bool there = bed->messages[i].slot != TR_NO_SLOT;

		*lost += bed->messages[i].live && !there;
		*back += !bed->messages[i].live && there;
		bed->messages[i].doubtful = bed->messages[i].live != there;
	}
}

static void
flipped_bits_cost_no_more_than_their_frame(void **state)
{
	struct bed bed;
	uint32_t hits = 0;

	bed_in_memory(&bed, 16384);
	fill(&bed, 60);
	for (int round = 0; round < 300; round++) {
		uint64_t number = 1 + bed_random(&bed, 3), start, end;
		uint32_t lost, back;
		char path[160];

		bed_restore(&bed);
		segment_path(&bed, number, path);
		last_group(&bed, number, &start, &end);
		flip(path, (off_t)bed_random(&bed, end), (int)bed_random(&bed, 8));
		bed.damaged = true;
		bed_open(&bed);
		count_loss(&bed, &lost, &back);
		assert_true(lost + back <= 1);
		assert_true(lost + back == 0 || bed.recovery.damaged_frames > 0);
		hits += lost + back;
		bed_check(&bed); /* every other message is whole, and the ledger balances */
		bed_close(&bed);
		bed_open(&bed); /* and stays so */
		bed_check(&bed);
		bed_close(&bed);
		bed_restore(&bed);
	}
	assert_true(hits > 20);
	bed_end(&bed);
}

static void
a_missing_segment_is_reported(void **state)
{
	for (uint64_t number = 1; number <= 3; number++) {
		struct bed bed;
		uint32_t lost, back;
		char path[160];

		tr_log_sink(quiet, NULL);
		bed_init(&bed, 16384);
		fill(&bed, 120);
		segment_path(&bed, number, path);
		assert_int_equal(unlink(path), 0);
		bed.damaged = true;
		bed_open(&bed);
		assert_true(bed.recovery.damaged_frames > 0);
		count_loss(&bed, &lost, &back);
		assert_true(lost > 5 && lost < 60);
		bed_check(&bed);
		bed_fini(&bed);
		tr_log_sink(NULL, NULL);
	}
}

/* Of a log that has one segment, as a kill leaves it. */
static void
a_lost_ledger_takes_no_names(void **state)
{
	struct tr_ledger ledger;
	struct bed bed;
	uint16_t account;
	char path[160];

	tr_log_sink(quiet, NULL);
	bed_init(&bed, 65536);
	bed_open(&bed);
	assert_int_equal(tr_spool_account(bed.spool, "hook", &account), TR_OK);
	for (int i = 0; i < 3; i++) {
		bed_put(&bed, 200, true, 1);
		bed_wait(&bed);
	}
	bed_save(&bed);
	bed_close(&bed);
	bed_restore(&bed);
	segment_path(&bed, 1, path);
	flip(path, 4096 + 32 + 10, 3);
	bed.damaged = true;
	bed_open(&bed);
	assert_true(bed.recovery.damaged_frames > 0);
	assert_int_equal(tr_spool_ledger(bed.spool, &ledger), TR_OK);
	assert_string_equal(ledger.accounts[account].name, "hook");
	tr_ledger_fini(&ledger);
	bed_check(&bed);
	bed_fini(&bed);
	tr_log_sink(NULL, NULL);
}

/* Many segments end at once: more than are kept as spares, so that files go while the newest header still names them.
 */
static void
what_was_given_up_is_not_missing(void **state)
{
	struct bed bed;
	uint32_t index[80];

	bed_init(&bed, 65536);
	bed_open(&bed);
	for (int i = 0; i < 80; i++) {
		index[i] = bed_put(&bed, 14000, true, 1);
		bed_wait(&bed);
	}
	for (int i = 0; i < 80; i++)
		bed_done(&bed, index[i], TR_COL_DELIVERED);
	bed_wait(&bed);
	bed_close(&bed);
	bed_open(&bed);
	assert_int_equal(bed.recovery.damaged_frames, 0);
	bed_check(&bed);
	bed_fini(&bed);
}

static void
another_version_is_refused_and_not_touched(void **state)
{
	struct tr_spool *spool;
	struct bed bed;
	char path[160], *error = NULL;
	uint32_t version = 99, crc;
	char header[128];
	int fd;

	bed_init(&bed, 16384);
	fill(&bed, 10);
	segment_path(&bed, 1, path);
	fd = open(path, O_RDWR);
	assert_int_equal(pread(fd, header, sizeof header, 0), sizeof header);
	memcpy(header + 8, &version, 4);
	memset(header + 12, 0, 4);
	crc = tr_crc32c(0, header, sizeof header);
	memcpy(header + 12, &crc, 4);
	assert_int_equal(pwrite(fd, header, sizeof header, 0), sizeof header);
	close(fd);
	assert_int_equal(run("(cd '%s' && ls -l && cat *.seg) | cksum > '%s/before'", bed.meta, bed.dir), 0);
	assert_int_equal(tr_spool_open(&bed.config, &spool, &error), TR_EVERSION);
	assert_non_null(strstr(error, bed.meta));
	free(error);
	assert_int_equal(run("(cd '%s' && ls -l && cat *.seg) | cksum | cmp - '%s/before'", bed.meta, bed.dir), 0);
	bed_fini(&bed);
}

static bool
sound(const struct bed *bed, const char *meta, const char *data)
{
	struct tr_buf out = {0};
	char *error = NULL;
	int err = tr_spool_check(meta, data, false, &out, &error);

	assert_true(err == TR_OK || err == TR_ECORRUPT);
	assert_null(error);
	assert_true(out.len > 0);
	tr_buf_free(&out);
	return err == TR_OK;
}

static int
count_line(void *arg, struct tr_str line)
{
	assert_true(line.len > 10 && line.data[0] == '{');
	++*(uint32_t *)arg;
	return 0;
}

static void
repair_makes_a_sound_spool_of_it(void **state)
{
	struct bed bed;

	tr_log_sink(quiet, NULL);
	bed_init(&bed, 16384);
	fill(&bed, 60);
	assert_true(sound(&bed, bed.meta, bed.data));
	for (int round = 0; round < 8; round++) {
		char path[160], target[160], meta[80], *error = NULL;
		uint32_t lost, back, lines = 0;
		uint64_t start, end;
		struct tr_buf out = {0};

		bed_restore(&bed);
		for (int hit = 0; hit < 3; hit++) {
			uint64_t number = 1 + bed_random(&bed, 3);

			segment_path(&bed, number, path);
			last_group(&bed, number, &start, &end);
			flip(path, (off_t)(4096 + bed_random(&bed, end - 4096)), (int)bed_random(&bed, 8));
		}
		snprintf(target, sizeof target, "%s/repaired", bed.dir);
		run("rm -rf '%s'", target);
		assert_int_equal(tr_spool_repair(bed.meta, bed.data, round % 2 ? target : NULL, &out, &error), TR_OK);
		assert_null(error);
		tr_buf_free(&out);
		memcpy(meta, bed.meta, sizeof meta);
		if (round % 2) {
			snprintf(bed.meta, sizeof bed.meta, "%.70s/meta", target);
			snprintf(bed.data, sizeof bed.data, "%.70s/data", target);
		}
		assert_true(sound(&bed, bed.meta, bed.data));
		assert_int_equal(tr_spool_dump(bed.meta, bed.data, true, count_line, &lines, &error), TR_OK);
		bed.damaged = true;
		bed_open(&bed);
		assert_int_equal(bed.recovery.damaged_frames, 0);
		assert_int_equal(lines, bed.recovery.messages);
		count_loss(&bed, &lost, &back);
		assert_true(lost + back <= 6);
		bed_check(&bed);
		bed_close(&bed);
		memcpy(bed.meta, meta, sizeof meta);
		snprintf(bed.data, sizeof bed.data, "%s/data", bed.dir);
	}
	bed_fini(&bed);
	tr_log_sink(NULL, NULL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(torn_at_every_byte),
		cmocka_unit_test(flipped_bits_cost_no_more_than_their_frame),
		cmocka_unit_test(a_missing_segment_is_reported),
		cmocka_unit_test(a_lost_ledger_takes_no_names),
		cmocka_unit_test(what_was_given_up_is_not_missing),
		cmocka_unit_test(another_version_is_refused_and_not_touched),
		cmocka_unit_test(repair_makes_a_sound_spool_of_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
