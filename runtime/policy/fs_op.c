#include "policy/fs_op.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATHS_MAX 100000 /* of a directory or a pattern */
#define DEPTH_MAX 64     /* of directories under `**` */

void
tr_fs_file_unref(struct tr_fs_file *file)
{
	if (file == NULL || --file->refs > 0)
		return;
	if (file->fd >= 0)
		close(file->fd);
	free(file);
}

void
tr_fs_op_free(struct tr_offload *offload)
{
	struct tr_fs_op *op = tr_container_of(offload, struct tr_fs_op, offload);

	if (op->file != NULL)
		op->file->busy = false;
	tr_fs_file_unref(op->file);
	tr_buf_free(&op->buf);
	free(op->path);
	free(op);
}

static void
read_bytes(struct tr_fs_op *op, int fd)
{
	int64_t left = op->number < 0 ? TR_FS_READ_MAX + 1 : op->number;
	struct stat stat;

	if (fstat(fd, &stat) == 0 && S_ISREG(stat.st_mode) && op->number < 0)
		tr_buf_reserve(&op->buf, (size_t)tr_min_i64(stat.st_size + 1, TR_FS_READ_MAX)); /* in one piece */
	while (left > 0) {
		size_t want =
			(size_t)tr_min_i64(left, op->buf.cap - op->buf.len > 65536 ? op->buf.cap - op->buf.len : 65536);
		char *at = tr_buf_reserve(&op->buf, want);
		ssize_t got = at != NULL ? read(fd, at, want) : -1;

		if (at == NULL)
			errno = ENOMEM;
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			op->errnum = errno;
		if (got <= 0)
			return;
		op->buf.len += (size_t)got;
		left -= got;
	}
	if (op->number < 0)
		op->text = "more than 256 MiB: read it in parts";
}

static void
write_bytes(struct tr_fs_op *op)
{
	for (size_t at = 0; at < op->buf.len;) {
		ssize_t done = write(op->file->fd, op->buf.data + at, op->buf.len - at);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0) {
			op->errnum = errno;
			return;
		}
		at += (size_t)done;
	}
}

static void
add_path(struct tr_fs_op *op, const char *dir, const char *name)
{
	if (op->count >= PATHS_MAX) {
		op->text = "more than 100000 paths";
		return;
	}
	if (dir[0] != '\0')
		tr_buf_addf(&op->buf, "%s%s%s", dir, dir[strlen(dir) - 1] == '/' ? "" : "/", name);
	else
		tr_buf_addz(&op->buf, name);
	tr_buf_addc(&op->buf, '\0');
	op->count++;
}

static void
list_directory(struct tr_fs_op *op)
{
	DIR *dir = opendir(op->path);
	const struct dirent *entry;

	if (dir == NULL) {
		op->errnum = errno;
		return;
	}
	while (errno = 0,
		op->text == NULL && (entry = readdir(dir)) != NULL) { /* NOLINT(concurrency-mt-unsafe): own DIR */
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			add_path(op, op->path, entry->d_name);
	}
	op->errnum = errno;
	closedir(dir);
}

static bool
is_directory(const char *path, bool follow)
{
	struct stat stat_;

	return (follow ? stat(path, &stat_) : lstat(path, &stat_)) == 0 && S_ISDIR(stat_.st_mode);
}

/* Adds what lies in `dir` ("": the working directory) and matches the rest of the pattern. A directory that cannot be
 * read holds nothing, as in a shell. */
static void
match(struct tr_fs_op *op, const char *dir, const char *pattern, int depth)
{
	const char *slash = strchr(pattern, '/');
	char segment[256];
	size_t len = slash ? (size_t)(slash - pattern) : strlen(pattern);
	const char *rest = slash ? slash + strspn(slash, "/") : pattern + len;
	bool any_depth = len == 2 && memcmp(pattern, "**", 2) == 0;
	const struct dirent *entry;
	struct tr_buf path = {0};
	DIR *handle;

	if (len >= sizeof segment || depth > DEPTH_MAX || op->text != NULL)
		return;
	memcpy(segment, any_depth ? "*" : pattern, any_depth ? 1 : len);
	segment[any_depth ? 1 : len] = '\0';
	if (any_depth && *rest != '\0')
		match(op, dir, rest, depth + 1);               /* `**` as no directory at all */
	if (!any_depth && strpbrk(segment, "*?[\\") == NULL) { /* no pattern: no need to read the directory */
		tr_buf_addf(&path, "%s%s%s", dir, dir[0] == '\0' || dir[strlen(dir) - 1] == '/' ? "" : "/", segment);
		tr_buf_addc(&path, '\0');
		if (path.failed)
			op->errnum = ENOMEM;
		else if (*rest != '\0')
			match(op, path.data, rest, depth + 1);
		else if (access(path.data, F_OK) == 0)
			add_path(op, dir, segment);
		tr_buf_free(&path);
		return;
	}
	handle = opendir(dir[0] != '\0' ? dir : ".");
	while (handle != NULL && op->text == NULL && op->errnum == 0 &&
		(entry = readdir(handle)) != NULL) { /* NOLINT(concurrency-mt-unsafe): own DIR */
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
			fnmatch(segment, entry->d_name, FNM_PERIOD) != 0)
			continue;
		if (*rest == '\0')
			add_path(op, dir, entry->d_name);
		if (*rest == '\0' && !any_depth)
			continue;
		tr_buf_clear(&path);
		tr_buf_addf(
			&path, "%s%s%s", dir, dir[0] == '\0' || dir[strlen(dir) - 1] == '/' ? "" : "/", entry->d_name);
		tr_buf_addc(&path, '\0');
		if (path.failed)
			op->errnum = ENOMEM;
		else if (is_directory(path.data, !any_depth)) /* `**` follows no links: they may lead round */
			match(op, path.data, any_depth ? pattern : rest, depth + 1);
	}
	if (handle != NULL)
		closedir(handle);
	tr_buf_free(&path);
}

static void
run_glob(struct tr_fs_op *op)
{
	struct tr_buf pattern = op->buf;
	const char *at = pattern.data;

	op->buf = (struct tr_buf){0};
	if (at[0] == '/') /* from the root, whatever the base is */
		match(op, "/", at + strspn(at, "/"), 0);
	else
		match(op, strcmp(op->path, ".") == 0 ? "" : op->path, at, 0);
	tr_buf_free(&pattern);
}

/* A pipe could block its thread for ever. */
static int
open_file(struct tr_fs_op *op, int flags)
{
	int fd = open(op->path, flags | O_CLOEXEC | O_NONBLOCK, 0666);
	struct stat stat;

	if (fd < 0) {
		op->errnum = errno;
	} else if (fstat(fd, &stat) == 0 && (S_ISFIFO(stat.st_mode) || S_ISSOCK(stat.st_mode))) {
		op->text = "a pipe or socket is not a file";
		close(fd);
		fd = -1;
	}
	return fd;
}

void
tr_fs_op_run(struct tr_offload *offload)
{
	struct tr_fs_op *op = tr_container_of(offload, struct tr_fs_op, offload);
	int fd;

	switch (op->kind) {
	case TR_FS_OPEN:
		op->file->fd = open_file(op, op->flags);
		break;
	case TR_FS_READ:
		read_bytes(op, op->file->fd);
		break;
	case TR_FS_WRITE:
		write_bytes(op);
		break;
	case TR_FS_SEEK:
		op->number = lseek(op->file->fd, op->number, op->whence);
		op->errnum = op->number < 0 ? errno : 0;
		break;
	case TR_FS_SYNC:
		op->errnum = fdatasync(op->file->fd) != 0 && errno != EINVAL ? errno : 0; /* EINVAL: a pipe */
		break;
	case TR_FS_LOAD:
		fd = open_file(op, O_RDONLY);
		if (fd >= 0) {
			read_bytes(op, fd);
			close(fd);
		}
		break;
	case TR_FS_STAT:
		op->errnum = (op->follow ? stat(op->path, &op->stat) : lstat(op->path, &op->stat)) != 0 ? errno : 0;
		break;
	case TR_FS_LIST:
		list_directory(op);
		break;
	case TR_FS_GLOB:
		run_glob(op);
		break;
	}
}
