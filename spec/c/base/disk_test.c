/* The disk in memory itself: tests that trust it must be able to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "disk.h"

#define SECTOR 512
#define SECTORS 64
#define SEEDS 40

static const char dir[] = "/sim/t", path[] = "/sim/t/f", other[] = "/sim/t/g";
static char block[SECTORS * SECTOR];

static int
setup(void **state)
{
	disk_install(1);
	return tr_file_mkdirs(dir, 0700) == 0 && tr_file->sync_dir("/sim") == 0 ? 0 : -1;
}

static int
teardown(void **state)
{
	disk_uninstall();
	return 0;
}

/* The power goes and comes back. */
static void
power_cut(uint64_t seed)
{
	disk_cut(seed);
	disk_revive();
}

static int
must_open(int flags)
{
	int fd = tr_file->open(path, flags | O_RDWR, 0600);

	assert_true(fd >= 0);
	return fd;
}

static void
fill(int fd, char c, off_t at, size_t len)
{
	memset(block, c, sizeof block);
	assert_int_equal(tr_file_write_all(fd, block, len, at), 0);
}

static bool
exists(const char *name)
{
	struct stat st;

	return tr_file->stat(name, &st) == 0;
}

/* A durable file of SECTORS sectors of 'a'. */
static void
make_durable(void)
{
	int fd = must_open(O_CREAT | O_TRUNC);

	fill(fd, 'a', 0, sizeof block);
	assert_int_equal(tr_file->fdatasync(fd), 0);
	assert_int_equal(tr_file->sync_dir(dir), 0);
	tr_file->close(fd);
}

static void
calls_fail_as_told(void **state)
{
	int fd = must_open(O_CREAT);

	disk_calls_clear();
	disk_fail_nth(DISK_SYNC | DISK_TRUNCATE, 2, ENOSPC, false);
	assert_int_equal(tr_file->fdatasync(fd), 0);
	assert_int_equal(tr_file->truncate(fd, 0), -ENOSPC);
	assert_int_equal(tr_file->truncate(fd, 0), 0);
	disk_fail_nth(DISK_SYNC, 1, EIO, true);
	assert_int_equal(tr_file->fdatasync(fd), -EIO);
	assert_int_equal(tr_file->fdatasync(fd), -EIO);
	assert_int_equal(disk_calls(DISK_SYNC), 3);
	assert_int_equal(disk_calls(DISK_SYNC | DISK_TRUNCATE), 5);
	disk_heal();
	disk_calls_clear();
	assert_int_equal(tr_file->fdatasync(fd), 0);
	assert_int_equal(disk_calls(DISK_ANY), 1);
	tr_file->close(fd);
}

static void
the_disk_can_be_full(void **state)
{
	struct tr_file_space space;
	int fd = must_open(O_CREAT);
	struct stat st;

	disk_capacity(1000);
	memset(block, 'x', sizeof block);
	assert_int_equal(tr_file_write_all(fd, block, 600, 0), 0);
	assert_int_equal(tr_file_write_all(fd, block, 600, 0), 0); /* no growth */
	assert_int_equal(tr_file_write_all(fd, block, 600, 600), -ENOSPC);
	assert_int_equal(tr_file->stat(path, &st), 0);
	assert_int_equal(st.st_size, 1000); /* it came short first */
	assert_int_equal(tr_file->space(dir, &space), 0);
	assert_true(space.free_bytes == 0 && space.total_bytes == 1000);
	assert_int_equal(tr_file->allocate(fd, 1001), -ENOSPC);
	assert_int_equal(tr_file->truncate(fd, 500), 0);
	assert_int_equal(tr_file->allocate(fd, 900), 0);
	assert_int_equal(tr_file_write_all(fd, block, 101, 900), -ENOSPC);
	tr_file->close(fd);
	assert_int_equal(tr_file->unlink(path), 0);
	assert_int_equal(tr_file->space(dir, &space), 0);
	assert_true(space.free_bytes == 1000);
}

static void
synced_bytes_survive_and_others_may(void **state)
{
	size_t old = 0, new = 0;

	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		make_durable();
		int fd = must_open(0);

		fill(fd, 'b', 0, sizeof block / 2);
		assert_int_equal(tr_file->fdatasync(fd), 0);
		fill(fd, 'c', 10 * SECTOR, 20 * SECTOR); /* over the synced 'b's: unsynced */
		power_cut(seed);
		assert_int_equal(tr_file->fdatasync(fd), -EIO); /* the old descriptor is dead */
		assert_int_equal(tr_file_write_all(fd, "x", 1, 0), -EIO);
		tr_file->close(fd);

		fd = must_open(0);
		assert_int_equal(tr_file_read_all(fd, block, sizeof block, 0), sizeof block);
		for (size_t i = 0; i < SECTORS; i++) {
			char c = block[i * SECTOR];

			for (size_t j = 0; j < SECTOR; j++) /* sectors are whole */
				assert_int_equal(block[i * SECTOR + j], c);
			if (i >= 10 && i < 30) {
				assert_true(c == 'b' || c == 'c');
				old += c == 'b';
				new += c == 'c';
			} else {
				assert_int_equal(c, i < SECTORS / 2 ? 'b' : 'a');
			}
		}
		tr_file->close(fd);
	}
	assert_true(old > SEEDS && new > SEEDS);
}

static void
the_same_seed_gives_the_same_disk(void **state)
{
	char *images[2];
	size_t len;

	for (int i = 0; i < 2; i++) {
		make_durable();
		int fd = must_open(0);

		fill(fd, 'c', 100, 9000);
		power_cut(7);
		tr_file->close(fd);
		assert_int_equal(tr_file_slurp(path, &images[i], &len), 0);
		assert_int_equal(len, sizeof block);
	}
	assert_memory_equal(images[0], images[1], len);
	free(images[0]);
	free(images[1]);
}

static void
growth_and_truncation_may_be_undone(void **state)
{
	bool grown = false, partly = false, holed = false, cut = false, uncut = false;

	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		char *data;
		size_t len;

		make_durable();
		int fd = must_open(0);
		fill(fd, 'b', sizeof block, 10 * SECTOR);
		power_cut(seed);
		tr_file->close(fd);
		assert_int_equal(tr_file_slurp(path, &data, &len), 0);
		assert_in_range(len, sizeof block, sizeof block + 10 * SECTOR);
		for (size_t i = 0; i < len; i++) {
			assert_true(
				data[i] == (i < sizeof block ? 'a' : 'b') || (i >= sizeof block && data[i] == '\0'));
			holed |= data[i] == '\0';
		}
		grown |= len == sizeof block + 10 * SECTOR;
		partly |= len > sizeof block && len < sizeof block + 10 * SECTOR;
		free(data);

		make_durable();
		fd = must_open(0);
		assert_int_equal(tr_file->truncate(fd, 700), 0);
		power_cut(seed);
		tr_file->close(fd);
		assert_int_equal(tr_file_slurp(path, &data, &len), 0);
		assert_true(len == 700 || len == sizeof block);
		for (size_t i = 0; i < len; i++)
			assert_int_equal(data[i], 'a');
		cut |= len == 700;
		uncut |= len != 700;
		free(data);
	}
	assert_true(grown && partly && holed && cut && uncut);
}

static void
a_failed_sync_loses_what_it_did_not_write(void **state)
{
	char *data;
	size_t len;

	make_durable();
	int fd = must_open(0);

	fill(fd, 'b', 0, 4 * SECTOR);
	disk_fail_nth(DISK_SYNC, 1, EIO, false);
	assert_int_equal(tr_file->fdatasync(fd), -EIO);
	fill(fd, 'c', 0, SECTOR);
	assert_int_equal(tr_file->fdatasync(fd), 0); /* writes the 'c's; the 'b's are believed to be on disk */
	power_cut(1);
	tr_file->close(fd);
	assert_int_equal(tr_file_slurp(path, &data, &len), 0);
	assert_int_equal(data[0], 'c');
	assert_int_equal(data[SECTOR], 'a');
	assert_int_equal(data[4 * SECTOR - 1], 'a');
	free(data);
}

static void
names_survive_when_synced(void **state)
{
	int made = 0, moved = 0, gone = 0;

	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		make_durable();
		tr_file->close(must_open(0));
		assert_int_equal(tr_file->rename(path, other), 0);
		tr_file->close(must_open(O_CREAT));
		power_cut(seed);
		if (exists(other)) { /* the first change stayed, perhaps the second */
			moved++;
			made += exists(path);
		} else {
			assert_true(exists(path));
		}
		tr_file->unlink(path);
		tr_file->unlink(other);

		make_durable();
		assert_int_equal(tr_file->unlink(path), 0);
		power_cut(seed);
		if (exists(path)) {
			char *data;
			size_t len;

			assert_int_equal(tr_file_slurp(path, &data, &len), 0);
			assert_int_equal(len, sizeof block);
			free(data);
		} else {
			gone++;
		}

		make_durable();
		assert_int_equal(tr_file->rename(path, other), 0);
		assert_int_equal(tr_file->sync_dir(dir), 0);
		power_cut(seed);
		assert_true(exists(other) && !exists(path));
		assert_int_equal(tr_file->unlink(other), 0);
		assert_int_equal(tr_file->sync_dir(dir), 0);
		power_cut(seed);
		assert_false(exists(other));
	}
	assert_true(moved > made && made > 0 && moved < SEEDS && gone > 0 && gone < SEEDS);
}

static void
a_replaced_file_may_come_back(void **state)
{
	bool back = false, replaced = false;

	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		char *data;
		size_t len;

		make_durable();
		int fd = tr_file->open(other, O_RDWR | O_CREAT, 0600);
		assert_int_equal(tr_file_write_all(fd, "new", 3, 0), 0);
		assert_int_equal(tr_file->fdatasync(fd), 0);
		tr_file->close(fd);
		assert_int_equal(tr_file->sync_dir(dir), 0);
		assert_int_equal(tr_file->rename(other, path), 0);
		power_cut(seed);
		assert_int_equal(tr_file_slurp(path, &data, &len), 0);
		assert_true(len == sizeof block || (len == 3 && memcmp(data, "new", 3) == 0));
		back |= len == sizeof block;
		replaced |= len == 3;
		assert_int_equal(exists(other), len != 3);
		free(data);
		tr_file->unlink(path);
		tr_file->unlink(other);
	}
	assert_true(back && replaced);
}

static void
an_unsynced_directory_takes_its_files_along(void **state)
{
	bool kept = false, lost = false;

	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		char sub[300], inner[400];

		snprintf(sub, sizeof sub, "%s/sub%d", dir, (int)seed);
		snprintf(inner, sizeof inner, "%s/x", sub);
		assert_int_equal(tr_file->mkdir(sub, 0700), 0);
		int fd = tr_file->open(inner, O_RDWR | O_CREAT, 0600);
		assert_int_equal(tr_file->fdatasync(fd), 0);
		assert_int_equal(tr_file->sync_dir(sub), 0);
		tr_file->close(fd);
		power_cut(seed);
		assert_int_equal(exists(inner), exists(sub));
		kept |= exists(sub);
		lost |= !exists(sub);
	}
	assert_true(kept && lost);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(calls_fail_as_told, setup, teardown),
		cmocka_unit_test_setup_teardown(the_disk_can_be_full, setup, teardown),
		cmocka_unit_test_setup_teardown(synced_bytes_survive_and_others_may, setup, teardown),
		cmocka_unit_test_setup_teardown(the_same_seed_gives_the_same_disk, setup, teardown),
		cmocka_unit_test_setup_teardown(growth_and_truncation_may_be_undone, setup, teardown),
		cmocka_unit_test_setup_teardown(a_failed_sync_loses_what_it_did_not_write, setup, teardown),
		cmocka_unit_test_setup_teardown(names_survive_when_synced, setup, teardown),
		cmocka_unit_test_setup_teardown(a_replaced_file_may_come_back, setup, teardown),
		cmocka_unit_test_setup_teardown(an_unsynced_directory_takes_its_files_along, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
