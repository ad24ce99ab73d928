#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef IOV_MAX
#define IOV_MAX 1024
#endif

#define DIRECT_ALIGN 4096 /* of place, length and memory of a direct write: enough for every disk */

/* The value of `call`, or -errno; again after a signal. */
#define RETRIED(call)                                  \
	({                                             \
		ssize_t result_;                       \
		do                                     \
			result_ = (call);              \
		while (result_ < 0 && errno == EINTR); \
		result_ < 0 ? -errno : result_;        \
	})

static int
real_open(const char *path, int flags, int mode)
{
	return (int)RETRIED(open(path, flags | O_CLOEXEC, mode));
}

static int
real_close(int fd)
{
	/* on Linux the descriptor is gone even after EINTR */
	return close(fd) < 0 && errno != EINTR ? -errno : 0;
}

static ssize_t
real_pread(int fd, void *data, size_t len, off_t at)
{
	return RETRIED(pread(fd, data, len, at));
}

static ssize_t
real_pwritev(int fd, const struct iovec *iov, int count, off_t at)
{
	return RETRIED(pwritev(fd, iov, count, at));
}

static int
real_fdatasync(int fd)
{
	return (int)RETRIED(fdatasync(fd));
}

static int
real_truncate(int fd, off_t len)
{
	return (int)RETRIED(ftruncate(fd, len));
}

/* Zeros from `at` to `len`, or as far as a direct write goes; -errno. */
static off_t
write_zeros(int fd, off_t at, off_t len)
{
	static _Alignas(DIRECT_ALIGN) char zeros[64 * 1024];
	struct iovec iov[16];
	int count = 0;
	ssize_t n;

	for (off_t left = len - at; left > 0 && count < (int)TR_COUNT(iov); left -= (off_t)iov[count++].iov_len)
		iov[count] = (struct iovec){zeros, (size_t)tr_min_i64(left, (int64_t)sizeof zeros)};
	n = RETRIED(pwritev(fd, iov, count, at));
	return n > 0 ? at + n : n < 0 ? n : -EIO;
}

/* Past the page cache: 64 MiB of zeros that nobody reads would take its memory and the processor's time from those who
 * work. Returns how far it came: the whole way, or to where the file system (tmpfs, for one) or the alignment ends it.
 */
static off_t
write_zeros_directly(int fd, off_t at, off_t len)
{
	int flags = fcntl(fd, F_GETFL);

	if (at % DIRECT_ALIGN != 0 || flags < 0 || fcntl(fd, F_SETFL, flags | O_DIRECT) < 0)
		return at;
	len -= len % DIRECT_ALIGN;
	while (at < len) {
		off_t end = write_zeros(fd, at, len);

		if (end < 0)
			break; /* the ordinary way will tell */
		at = end;
	}
	return fcntl(fd, F_SETFL, flags) < 0 ? -errno : at;
}

static int
real_allocate(int fd, off_t len)
{
	struct stat st;
	off_t at;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_size >= len)
		return 0;
	/* In one piece if the file system can; its blocks count as unwritten until the zeros are there, and a
	 * later sync would have to write that state, too. */
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE, st.st_size, len - st.st_size) < 0 && errno == ENOSPC)
		return -ENOSPC;
	at = write_zeros_directly(fd, st.st_size, len);
	while (at >= 0 && at < len)
		at = write_zeros(fd, at, len);
	return at < 0 ? (int)at : 0;
}

static int
real_rename(const char *from, const char *to)
{
	return (int)RETRIED(rename(from, to));
}

static int
real_unlink(const char *path)
{
	return (int)RETRIED(unlink(path));
}

static int
real_mkdir(const char *path, int mode)
{
	return (int)RETRIED(mkdir(path, (mode_t)mode));
}

static int
real_sync_dir(const char *path)
{
	int fd = real_open(path, O_RDONLY | O_DIRECTORY, 0), err;

	if (fd < 0)
		return fd;
	err = (int)RETRIED(fsync(fd));
	real_close(fd);
	return err;
}

static int
real_stat(const char *path, struct stat *out)
{
	return (int)RETRIED(stat(path, out));
}

static int
real_list(const char *path, int (*each)(void *arg, const char *name), void *arg)
{
	DIR *dir = opendir(path);
	int result = 0;

	if (dir == NULL)
		return -errno;
	while (result == 0) {
		struct dirent *entry;

		errno = 0;
		entry = readdir(dir);
		if (entry == NULL) {
			result = -errno;
			break;
		}
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			result = each(arg, entry->d_name);
	}
	closedir(dir);
	return result;
}

static int
real_space(const char *path, struct tr_file_space *out)
{
	struct statvfs st;
	int err = (int)RETRIED(statvfs(path, &st));

	if (err < 0)
		return err;
	/* What the system keeps for root is neither free nor part of the total, as in df. */
	uint64_t used = st.f_blocks - st.f_bfree;

	out->free_bytes = (uint64_t)st.f_bavail * st.f_frsize;
	out->total_bytes = (used + st.f_bavail) * st.f_frsize;
	out->free_inodes = st.f_favail;
	out->total_inodes = st.f_files;
	return 0;
}

static int
real_lock(int fd)
{
	return (int)RETRIED(flock(fd, LOCK_EX | LOCK_NB));
}

static int
real_chmod(const char *path, int mode)
{
	return (int)RETRIED(chmod(path, (mode_t)mode));
}

const struct tr_file_ops tr_file_real = {
	.open = real_open,
	.close = real_close,
	.pread = real_pread,
	.pwritev = real_pwritev,
	.fdatasync = real_fdatasync,
	.truncate = real_truncate,
	.allocate = real_allocate,
	.rename = real_rename,
	.unlink = real_unlink,
	.mkdir = real_mkdir,
	.sync_dir = real_sync_dir,
	.stat = real_stat,
	.list = real_list,
	.space = real_space,
	.lock = real_lock,
	.chmod = real_chmod,
};

#ifndef TR_UNCHECKED
const struct tr_file_ops *tr_file = &tr_file_real;
#endif

int
tr_file_writev_all(int fd, struct iovec *iov, int count, off_t at)
{
	while (count > 0) {
		ssize_t n;

		if (iov->iov_len == 0) {
			iov++;
			count--;
			continue;
		}
		n = tr_file->pwritev(fd, iov, count < IOV_MAX ? count : IOV_MAX, at);
		if (n == -EINTR)
			continue;
		if (n < 0)
			return (int)n;
		if (n == 0)
			return -EIO; /* no progress and no reason: do not spin */
		at += n;
		while (count > 0 && (size_t)n >= iov->iov_len) {
			n -= (ssize_t)iov->iov_len;
			iov++;
			count--;
		}
		if (n > 0) {
			iov->iov_base = (char *)iov->iov_base + n;
			iov->iov_len -= (size_t)n;
		}
	}
	return 0;
}

int
tr_file_write_all(int fd, const void *data, size_t len, off_t at)
{
	struct iovec iov = {(void *)data, len};

	return tr_file_writev_all(fd, &iov, 1, at);
}

ssize_t
tr_file_read_all(int fd, void *data, size_t len, off_t at)
{
	size_t got = 0;

	while (got < len) {
		ssize_t n = tr_file->pread(fd, (char *)data + got, len - got, at + (off_t)got);

		if (n == -EINTR)
			continue;
		if (n < 0)
			return n;
		if (n == 0)
			break;
		got += (size_t)n;
	}
	return (ssize_t)got;
}

int
tr_file_mkdirs(const char *path, int mode)
{
	char *part = strdup(path);
	size_t len;
	int err = 0;

	if (part == NULL)
		return -ENOMEM;
	len = strlen(part);
	for (size_t i = 1; i <= len && err == 0; i++) {
		if ((part[i] != '/' && part[i] != '\0') || part[i - 1] == '/')
			continue;
		char kept = part[i];
		struct stat st;

		part[i] = '\0';
		err = tr_file->mkdir(part, mode);
		/* EROFS and the like of an existing parent do not matter */
		if (err < 0 && tr_file->stat(part, &st) == 0)
			err = S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
		part[i] = kept;
	}
	free(part);
	return err;
}

int
tr_file_slurp(const char *path, char **out, size_t *len)
{
	size_t cap = 4096, got = 0;
	char *data = NULL;
	int fd = tr_file->open(path, O_RDONLY, 0), err = 0;

	*out = NULL;
	if (fd < 0)
		return fd;
	for (;;) { /* until the end, whatever stat says: it may be a pipe of /proc or still grow */
		char *more = realloc(data, cap + 1);
		ssize_t n;

		if (more == NULL) {
			err = -ENOMEM;
			break;
		}
		data = more;
		n = tr_file_read_all(fd, data + got, cap - got, (off_t)got);
		if (n < 0) {
			err = (int)n;
			break;
		}
		got += (size_t)n;
		if (got < cap)
			break;
		cap *= 2;
	}
	tr_file->close(fd);
	if (err < 0) {
		free(data);
		return err;
	}
	data[got] = '\0';
	*out = data;
	if (len != NULL)
		*len = got;
	return 0;
}

bool
tr_space_ok(const struct tr_space_limit *limit, uint64_t free_units, uint64_t total_units)
{
	if (limit->percent > 0) /* a total of 0: the file system does not count them (inodes of btrfs) */
		return total_units == 0 || (double)free_units * 100. >= limit->percent * (double)total_units;
	return free_units >= limit->bytes || (total_units == 0 && free_units == 0);
}
