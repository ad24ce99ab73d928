/* Reading a segment while it grows: whole lines only, at most so many, until its damage. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include <cmocka.h>

#include "record/segment_reader.h"

struct bed {
	int fd; /* of the writer; the file has no name */
	ZSTD_CCtx *zstd;
	struct tr_segment_reader *reader;
};

static void
bed_init(struct bed *bed)
{
	char path[] = "/tmp/tr-segment-XXXXXX";

	bed->fd = mkstemp(path);
	assert_true(bed->fd >= 0);
	bed->zstd = ZSTD_createCCtx();
	assert_int_equal(tr_segment_reader_new(open(path, O_RDONLY), &bed->reader), TR_OK);
	unlink(path);
}

static void
bed_fini(struct bed *bed)
{
	tr_segment_reader_free(bed->reader);
	ZSTD_freeCCtx(bed->zstd);
	close(bed->fd);
}

static void
write_text(struct bed *bed, const char *text)
{
	char data[1024];
	ZSTD_inBuffer in = {text, strlen(text), 0};
	ZSTD_outBuffer out = {data, sizeof data, 0};

	assert_int_equal(ZSTD_compressStream2(bed->zstd, &out, &in, ZSTD_e_flush), 0);
	assert_int_equal(write(bed->fd, data, out.pos), out.pos);
}

static void
check_read(struct bed *bed, size_t max, const char *text, size_t count, enum tr_segment_state state)
{
	struct tr_segment_lines lines;

	tr_segment_reader_read(bed->reader, max, &lines);
	assert_int_equal(lines.text.len, strlen(text));
	assert_memory_equal(lines.text.data != NULL ? lines.text.data : "", text, strlen(text));
	assert_int_equal(lines.count, count);
	assert_int_equal(lines.state, state);
	assert_true((lines.damage != NULL) == (state == TR_SEGMENT_DAMAGED));
	tr_buf_free(&lines.text);
}

static void
test_grows(void **state)
{
	struct bed bed;

	bed_init(&bed);
	check_read(&bed, 9, "", 0, TR_SEGMENT_END);
	write_text(&bed, "one\ntw");
	check_read(&bed, 9, "one\n", 1, TR_SEGMENT_END);
	assert_int_equal(tr_segment_reader_begun(bed.reader).len, 2);
	write_text(&bed, "o\nthree\n\nfive\n");
	check_read(&bed, 2, "two\nthree\n", 2, TR_SEGMENT_MORE);
	check_read(&bed, 9, "\nfive\n", 2, TR_SEGMENT_END);
	assert_int_equal(tr_segment_reader_begun(bed.reader).len, 0);
	assert_int_equal(fchmod(bed.fd, 0444), 0);
	check_read(&bed, 9, "", 0, TR_SEGMENT_FINISHED);
	bed_fini(&bed);
}

static void
test_damage(void **state)
{
	struct bed bed;

	bed_init(&bed);
	write_text(&bed, "one\ntwo\nthr");
	check_read(&bed, 1, "one\n", 1, TR_SEGMENT_MORE);
	assert_int_equal(write(bed.fd, "no zstd at all, but long enough", 31), 31);
	check_read(&bed, 9, "two\n", 1, TR_SEGMENT_DAMAGED);
	bed_fini(&bed);
}

/* What zstd has decoded before the damage, though both came with one read. */
static void
test_damage_right_after(void **state)
{
	struct bed bed;

	bed_init(&bed);
	write_text(&bed, "one\n");
	write_text(&bed, "two\nthr");
	assert_int_equal(write(bed.fd, "no zstd at all, but long enough", 31), 31);
	check_read(&bed, 9, "one\ntwo\n", 2, TR_SEGMENT_DAMAGED);
	bed_fini(&bed);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_grows),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_damage_right_after),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
