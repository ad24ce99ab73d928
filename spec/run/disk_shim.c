/* LD_PRELOAD: a disk that fails on command. While the file $TAILRACE_FAULT exists, operations on what lies in
 * $TAILRACE_FAULT_DIR fail as its text says: "ERRNO CALL...", with CALL one of write, sync, names (open to create,
 * rename, unlink, mkdir). E.g. "5 sync" or "28 write names" or "30 names". With the call `space`, whatever the number,
 * the disk says that one unit in a thousand is free. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))

/* The errno that `call` on `path` is to fail with; 0: none. */
static int
fault(const char *path, const char *call)
{
	const char *dir = getenv("TAILRACE_FAULT_DIR"), *file = getenv("TAILRACE_FAULT");
	char text[128] = "";
	int fd, saved = errno;

	if (dir == NULL || file == NULL || strncmp(path, dir, strlen(dir)) != 0)
		return 0;
	fd = REAL(open)(file, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		if (read(fd, text, sizeof text - 1) < 0)
			text[0] = '\0';
		close(fd);
	}
	errno = saved;
	return strstr(text, call) != NULL ? atoi(text) : 0;
}

static int
fault_fd(int fd, const char *call)
{
	char link[64], path[4096];
	ssize_t n;

	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof path - 1);
	if (n < 0)
		return 0;
	path[n] = '\0';
	return fault(path, call);
}

#define FAIL_IF(error)                  \
	do {                            \
		int error_ = (error);   \
		if (error_ != 0) {      \
			errno = error_; \
			return -1;      \
		}                       \
	} while (0)

int
statvfs(const char *path, struct statvfs *st)
{
	int result = REAL(statvfs)(path, st);

	if (result == 0 && fault(path, "space") != 0)
		st->f_bfree = st->f_bavail = st->f_blocks / 1000;
	return result;
}

ssize_t
pwritev(int fd, const struct iovec *iov, int count, off_t at)
{
	FAIL_IF(fault_fd(fd, "write"));
	return REAL(pwritev)(fd, iov, count, at);
}

ssize_t
pwrite(int fd, const void *data, size_t len, off_t at)
{
	FAIL_IF(fault_fd(fd, "write"));
	return REAL(pwrite)(fd, data, len, at);
}

int
fallocate(int fd, int mode, off_t at, off_t len)
{
	FAIL_IF(fault_fd(fd, "write"));
	return REAL(fallocate)(fd, mode, at, len);
}

int
fdatasync(int fd)
{
	FAIL_IF(fault_fd(fd, "sync"));
	return REAL(fdatasync)(fd);
}

int
fsync(int fd)
{
	FAIL_IF(fault_fd(fd, "sync"));
	return REAL(fsync)(fd);
}

int
open(const char *path, int flags, ...)
{
	va_list args;
	int mode;

	va_start(args, flags);
	mode = flags & O_CREAT ? va_arg(args, int) : 0;
	va_end(args);
	if (flags & O_CREAT)
		FAIL_IF(fault(path, "names"));
	return REAL(open)(path, flags, mode);
}

int
rename(const char *from, const char *to)
{
	FAIL_IF(fault(to, "names"));
	return REAL(rename)(from, to);
}

int
unlink(const char *path)
{
	FAIL_IF(fault(path, "names"));
	return REAL(unlink)(path);
}

int
mkdir(const char *path, mode_t mode)
{
	FAIL_IF(fault(path, "names"));
	return REAL(mkdir)(path, mode);
}
