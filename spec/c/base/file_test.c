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

static char dir[200], path[300];

static const char *
in_dir(const char *name)
{
	snprintf(path, sizeof path, "%s/%s", dir, name);
	return path;
}

static int
setup(void **state)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(dir, sizeof dir, "%s/tr-file-XXXXXX", tmp != NULL ? tmp : "/tmp");
	return mkdtemp(dir) == NULL;
}

static int
teardown(void **state)
{
	char command[300];

	snprintf(command, sizeof command, "rm -rf '%s'", dir);
	return system(command);
}

static void
bytes_are_written_and_read(void **state)
{
	struct iovec iov[3000];
	char *data;
	size_t len;
	char byte[2] = "ab";
	int fd = tr_file->open(in_dir("f"), O_RDWR | O_CREAT, 0600);

	assert_true(fd >= 0);
	for (size_t i = 0; i < TR_COUNT(iov); i++) /* more than IOV_MAX, some empty */
		iov[i] = (struct iovec){&byte[i % 2], i % 5 != 0};
	assert_int_equal(tr_file_writev_all(fd, iov, TR_COUNT(iov), 3), 0);
	assert_int_equal(tr_file_write_all(fd, "xyz", 3, 0), 0);
	assert_int_equal(tr_file_slurp(path, &data, &len), 0);
	assert_int_equal(len, 3 + 2400);
	assert_memory_equal(data, "xyzbabaa", 8);
	assert_int_equal(data[len], '\0');
	free(data);
	char part[10];
	assert_int_equal(tr_file_read_all(fd, part, 10, 2400), 3); /* less only at the end */
	assert_int_equal(tr_file->fdatasync(fd), 0);
	assert_int_equal(tr_file->truncate(fd, 4), 0);
	assert_int_equal(tr_file_read_all(fd, part, 10, 0), 4);
	assert_int_equal(tr_file->close(fd), 0);
	assert_int_equal(tr_file->close(fd), -EBADF);
	assert_int_equal(tr_file_slurp(in_dir("none"), &data, &len), -ENOENT);
	assert_int_equal(tr_file_slurp("/proc/self/status", &data, &len), 0); /* its size is told as 0 */
	assert_true(len > 0);
	free(data);
}

static void
short_writes_are_completed(void **state)
{
	char out[1000], in[1000];
	struct iovec iov[2] = {{out, 300}, {out + 300, 700}};

	for (size_t i = 0; i < sizeof out; i++)
		out[i] = (char)(i * 7);
	disk_install(1);
	disk_fail(&(struct disk_rule){.mask = DISK_WRITE, .times = UINT64_MAX, .brief = true});
	int fd = tr_file->open("/sim/f", O_RDWR | O_CREAT, 0600);
	assert_int_equal(tr_file_writev_all(fd, iov, 2, 5), 0);
	assert_true(disk_calls(DISK_WRITE) > 3);
	assert_int_equal(tr_file_read_all(fd, in, sizeof in, 5), 1000);
	assert_memory_equal(in, out, sizeof in);
	disk_fail_nth(DISK_WRITE, 2, EIO, false);
	assert_int_equal(tr_file_write_all(fd, out, sizeof out, 0), -EIO);
	tr_file->close(fd);
	disk_uninstall();
}

static void
allocated_space_is_written(void **state)
{
	struct stat st;
	char bytes[4];
	int fd = tr_file->open(in_dir("f"), O_RDWR | O_CREAT, 0600);

	assert_int_equal(tr_file_write_all(fd, "abc", 3, 0), 0);
	assert_int_equal(tr_file->allocate(fd, 300001), 0);
	assert_int_equal(tr_file->fdatasync(fd), 0);
	assert_int_equal(tr_file->stat(path, &st), 0);
	assert_int_equal(st.st_size, 300001);
	assert_true(st.st_blocks * 512 >= 300001); /* no hole */
	assert_int_equal(tr_file_read_all(fd, bytes, 4, 0), 4);
	assert_memory_equal(bytes, "abc\0", 4);
	assert_int_equal(tr_file->allocate(fd, 10), 0); /* never shorter */
	assert_int_equal(tr_file->stat(path, &st), 0);
	assert_int_equal(st.st_size, 300001);
	tr_file->close(fd);
}

static int
count_name(void *arg, const char *name)
{
	++*(int *)arg;
	assert_true(strcmp(name, "f") == 0 || strcmp(name, "sub") == 0);
	return *(int *)arg == 100 ? 17 : 0;
}

static void
names_are_made_moved_and_listed(void **state)
{
	int count = 0;
	struct stat st;
	int fd;

	assert_int_equal(tr_file_mkdirs(in_dir("sub/a//b"), 0700), 0);
	assert_int_equal(tr_file_mkdirs(path, 0700), 0);
	assert_int_equal(tr_file->stat(path, &st), 0);
	assert_true(S_ISDIR(st.st_mode));
	fd = tr_file->open(in_dir("e"), O_RDWR | O_CREAT | O_EXCL, 0600);
	assert_true(fd >= 0);
	assert_true((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
	assert_int_equal(tr_file->lock(fd), 0);
	int other = tr_file->open(path, O_RDWR, 0);
	assert_int_equal(tr_file->lock(other), -EWOULDBLOCK);
	tr_file->close(other);
	tr_file->close(fd);
	assert_int_equal(tr_file->open(path, O_RDWR | O_CREAT | O_EXCL, 0600), -EEXIST);
	assert_int_equal(tr_file_mkdirs(in_dir("e/x"), 0700), -ENOTDIR);
	assert_int_equal(tr_file_mkdirs(in_dir("e"), 0700), -ENOTDIR);
	char from[300];
	snprintf(from, sizeof from, "%s", in_dir("e"));
	assert_int_equal(tr_file->rename(from, in_dir("f")), 0);
	assert_int_equal(tr_file->chmod(path, 0640), 0);
	assert_int_equal(tr_file->stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0640);
	assert_int_equal(tr_file->sync_dir(dir), 0);
	assert_int_equal(tr_file->list(dir, count_name, &count), 0);
	assert_int_equal(count, 2);
	count = 99;
	assert_int_equal(tr_file->list(dir, count_name, &count), 17); /* stops at what `each` says */
	assert_int_equal(tr_file->unlink(path), 0);
	assert_int_equal(tr_file->unlink(path), -ENOENT);
	assert_int_equal(tr_file->list(path, count_name, &count), -ENOENT);
}

static void
space_limits_are_kept(void **state)
{
	struct tr_file_space space;
	static const struct {
		struct tr_space_limit limit;
		uint64_t free_units, total_units;
		bool ok;
	} cases[] = {
		{{10, 0}, 10, 100, true}, {{10, 0}, 9, 100, false},
		{{10, 0}, 0, 0, true}, /* not counted by the file system */
		{{0, 1000}, 1000, 100000, true}, {{0, 1000}, 999, 100000, false}, {{0, 0}, 0, 100, true},
		{{-1, 0}, 0, 100, true}, /* none, and not "not given" */
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++)
		assert_int_equal(tr_space_ok(&cases[i].limit, cases[i].free_units, cases[i].total_units), cases[i].ok);
	assert_int_equal(tr_file->space(dir, &space), 0);
	assert_true(space.total_bytes > 0 && space.free_bytes <= space.total_bytes);
	assert_int_equal(tr_file->space(in_dir("none"), &space), -ENOENT);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(bytes_are_written_and_read, setup, teardown),
		cmocka_unit_test_setup_teardown(short_writes_are_completed, setup, teardown),
		cmocka_unit_test_setup_teardown(allocated_space_is_written, setup, teardown),
		cmocka_unit_test_setup_teardown(names_are_made_moved_and_listed, setup, teardown),
		cmocka_unit_test_setup_teardown(space_limits_are_kept, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
