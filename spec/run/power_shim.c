/* LD_PRELOAD: records what a process does with the files below $TAILRACE_RECORD_DIR, in order, and what it sends to
 * anybody, in $TAILRACE_RECORD. power_image.c makes of it what a power cut at any point would have left. All threads'
 * records are in one order: a write or a send is done and noted under one lock; of a sync, its beginning and its end
 * are noted. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "power.h"

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))
#define FILES 65536
#define FDS 65536
#define MOST_OF_A_SEND 16384 /* of the body of a large mail nobody wants more */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int record_fd = -1;
static char *names[FILES]; /* by file number; NULL: unlinked, or none */
static uint32_t file_count = 1;
static uint32_t files[FDS]; /* by descriptor; 0: not ours */
static char *dirs[FDS];     /* a directory of ours */
static uint64_t syncs;

/* The part of a path below the directory; NULL: elsewhere. */
static const char *
below(const char *path)
{
	const char *dir = getenv("TAILRACE_RECORD_DIR");
	size_t len = dir == NULL ? 0 : strlen(dir);

	if (len == 0 || strncmp(path, dir, len) != 0 || (path[len] != '/' && path[len] != '\0'))
		return NULL;
	return path[len] == '/' ? path + len + 1 : path + len;
}

static void
put(const void *data, size_t len)
{
	const char *at = data;

	while (len > 0) {
		ssize_t n = REAL(write)(record_fd, at, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			abort();
		at += n;
		len -= (size_t)n;
	}
}

/* With the mutex held. Keeps errno. */
static void
note(uint32_t kind, uint32_t file, uint64_t at, uint64_t size, const void *data, size_t len)
{
	struct power_record record = {kind, file, at, size, (uint32_t)len, 0};
	int saved = errno;

	if (record_fd < 0) {
		const char *path = getenv("TAILRACE_RECORD");

		record_fd = path == NULL ? -1 : REAL(open)(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (record_fd < 0)
			abort();
	}
	put(&record, sizeof record);
	put(data, len);
	errno = saved;
}

static uint32_t
find(const char *name)
{
	for (uint32_t i = 1; i < file_count; i++)
		if (names[i] != NULL && strcmp(names[i], name) == 0)
			return i;
	return 0;
}

/* there: before the call. */
static void
note_open(int fd, const char *name, int flags, bool there)
{
	uint32_t file;
	struct stat st;

	if (fd < 0 || fd >= FDS)
		return;
	if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
		free(dirs[fd]);
		dirs[fd] = strdup(name);
		return;
	}
	if (flags & O_DIRECTORY)
		return;
	file = find(name);
	if (file == 0) {
		if (file_count == FILES)
			abort();
		file = file_count++;
		names[file] = strdup(name);
		note(POWER_CREATE, file, 0, there, name, strlen(name));
	}
	if (there && flags & O_TRUNC) {
		note(POWER_TRUNCATE, file, 0, 0, NULL, 0);
	}
	files[fd] = file;
}

int
open(const char *path, int flags, ...)
{
	const char *name = below(path);
	struct stat st;
	va_list args;
	int mode, fd;
	bool there;

	va_start(args, flags);
	mode = flags & O_CREAT ? va_arg(args, int) : 0;
	va_end(args);
	if (name == NULL)
		return REAL(open)(path, flags, mode);
	pthread_mutex_lock(&mutex);
	there = stat(path, &st) == 0;
	fd = REAL(open)(path, flags, mode);
	note_open(fd, name, flags, there);
	pthread_mutex_unlock(&mutex);
	return fd;
}

int
close(int fd)
{
	if (fd >= 0 && fd < FDS && (files[fd] != 0 || dirs[fd] != NULL)) {
		pthread_mutex_lock(&mutex);
		files[fd] = 0;
		free(dirs[fd]);
		dirs[fd] = NULL;
		pthread_mutex_unlock(&mutex);
	}
	return REAL(close)(fd);
}

static bool
all_zero(const struct iovec *iov, int count)
{
	for (int i = 0; i < count; i++) {
		const char *data = iov[i].iov_base;
		size_t len = iov[i].iov_len;

		if (len > 0 && (data[0] != 0 || memcmp(data, data + 1, len - 1) != 0))
			return false;
	}
	return true;
}

static char *
join(const struct iovec *iov, int count, size_t len)
{
	char *bytes = malloc(len + 1);
	size_t at = 0;

	if (bytes == NULL)
		abort();
	for (int i = 0; i < count && at < len; i++) {
		size_t n = iov[i].iov_len < len - at ? iov[i].iov_len : len - at;

		memcpy(bytes + at, iov[i].iov_base, n);
		at += n;
	}
	return bytes;
}

static void
note_bytes(uint32_t kind, uint32_t file, off_t at, const struct iovec *iov, int count, ssize_t n)
{
	char *bytes;

	if (n <= 0)
		return;
	if (kind == POWER_WRITE && all_zero(iov, count)) {
		note(POWER_ZEROS, file, (uint64_t)at, (uint64_t)n, NULL, 0);
		return;
	}
	bytes = join(iov, count, (size_t)n);
	note(kind, file, (uint64_t)at, 0, bytes, (size_t)n);
	free(bytes);
}

static uint32_t
file_of(int fd)
{
	return fd >= 0 && fd < FDS ? files[fd] : 0;
}

ssize_t
pwritev(int fd, const struct iovec *iov, int count, off_t at)
{
	ssize_t n;

	if (file_of(fd) == 0)
		return REAL(pwritev)(fd, iov, count, at);
	pthread_mutex_lock(&mutex);
	n = REAL(pwritev)(fd, iov, count, at);
	note_bytes(POWER_WRITE, file_of(fd), at, iov, count, n);
	pthread_mutex_unlock(&mutex);
	return n;
}

ssize_t
pwrite(int fd, const void *data, size_t len, off_t at)
{
	struct iovec iov = {(void *)data, len};

	return pwritev(fd, &iov, 1, at);
}

int
ftruncate(int fd, off_t len)
{
	int result;

	if (file_of(fd) == 0)
		return REAL(ftruncate)(fd, len);
	pthread_mutex_lock(&mutex);
	result = REAL(ftruncate)(fd, len);
	if (result == 0)
		note(POWER_TRUNCATE, file_of(fd), 0, (uint64_t)len, NULL, 0);
	pthread_mutex_unlock(&mutex);
	return result;
}

static int
sync_with(int fd, int (*real)(int fd))
{
	uint32_t file = file_of(fd);
	const char *dir = fd >= 0 && fd < FDS ? dirs[fd] : NULL;
	uint64_t number;
	int result;

	if (file == 0 && dir == NULL)
		return real(fd);
	pthread_mutex_lock(&mutex);
	number = ++syncs;
	if (file != 0)
		note(POWER_SYNC, file, number, 0, NULL, 0);
	else
		note(POWER_SYNC_DIR, 0, number, 0, dir, strlen(dir));
	pthread_mutex_unlock(&mutex);
	result = real(fd);
	if (result == 0) {
		pthread_mutex_lock(&mutex);
		note(POWER_SYNCED, 0, number, 0, NULL, 0);
		pthread_mutex_unlock(&mutex);
	}
	return result;
}

int
fdatasync(int fd)
{
	return sync_with(fd, REAL(fdatasync));
}

int
fsync(int fd)
{
	return sync_with(fd, REAL(fsync));
}

int
rename(const char *from, const char *to)
{
	const char *a = below(from), *b = below(to);
	char both[8192];
	int result;

	if (a == NULL || b == NULL)
		return REAL(rename)(from, to);
	pthread_mutex_lock(&mutex);
	result = REAL(rename)(from, to);
	if (result == 0) {
		uint32_t gone = find(b), file = find(a);
		int len = snprintf(both, sizeof both, "%s%c%s", a, 0, b);

		if (gone != 0) {
			free(names[gone]);
			names[gone] = NULL;
		}
		if (file != 0) {
			free(names[file]);
			names[file] = strdup(b);
		}
		note(POWER_RENAME, file, 0, 0, both, (size_t)len);
	}
	pthread_mutex_unlock(&mutex);
	return result;
}

int
unlink(const char *path)
{
	const char *name = below(path);
	int result;

	if (name == NULL)
		return REAL(unlink)(path);
	pthread_mutex_lock(&mutex);
	result = REAL(unlink)(path);
	if (result == 0) {
		uint32_t file = find(name);

		if (file != 0) {
			free(names[file]);
			names[file] = NULL;
		}
		note(POWER_UNLINK, file, 0, 0, name, strlen(name));
	}
	pthread_mutex_unlock(&mutex);
	return result;
}

int
mkdir(const char *path, mode_t mode)
{
	const char *name = below(path);
	int result;

	if (name == NULL)
		return REAL(mkdir)(path, mode);
	pthread_mutex_lock(&mutex);
	result = REAL(mkdir)(path, mode);
	if (result == 0)
		note(POWER_MKDIR, 0, 0, 0, name, strlen(name));
	pthread_mutex_unlock(&mutex);
	return result;
}

/* --- what is sent ------------------------------------------------------------------------------------------------ */

static ssize_t
send_iov(int fd, const struct msghdr *msg, int flags)
{
	struct sockaddr_storage name;
	socklen_t len = sizeof name;
	ssize_t n;

	if (getsockname(fd, (struct sockaddr *)&name, &len) != 0 || name.ss_family != AF_INET)
		return REAL(sendmsg)(fd, msg, flags);
	pthread_mutex_lock(&mutex);
	n = REAL(sendmsg)(fd, msg, flags);
	note_bytes(POWER_SEND, (uint32_t)fd, 0, msg->msg_iov, (int)msg->msg_iovlen,
		n > MOST_OF_A_SEND ? MOST_OF_A_SEND : n);
	pthread_mutex_unlock(&mutex);
	return n;
}

ssize_t
sendmsg(int fd, const struct msghdr *msg, int flags)
{
	return send_iov(fd, msg, flags);
}

ssize_t
send(int fd, const void *data, size_t len, int flags)
{
	struct iovec iov = {(void *)data, len};

	return send_iov(fd, &(struct msghdr){.msg_iov = &iov, .msg_iovlen = 1}, flags);
}
