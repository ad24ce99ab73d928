/* The file operations of the disk in memory. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "disk_store.h"

#define FIRST_FD (1 << 24) /* no real descriptor is that high */
#define UNBOUND_BYTES (UINT64_C(1) << 40)

static struct descriptor *
descriptor_of(int fd)
{
	check(fd >= FIRST_FD && fd - FIRST_FD < disk_fd_count && disk_fds[fd - FIRST_FD].used,
		"a descriptor that is not open");
	return &disk_fds[fd - FIRST_FD];
}

static int
new_fd(struct file *file, bool writes)
{
	int i = 0;

	while (i < disk_fd_count && disk_fds[i].used)
		i++;
	if (i == disk_fd_count) {
		disk_fds = must(realloc(disk_fds, (size_t)(disk_fd_count + 16) * sizeof *disk_fds));
		memset(disk_fds + disk_fd_count, 0, 16 * sizeof *disk_fds);
		disk_fd_count += 16;
	}
	disk_fds[i] = (struct descriptor){file_ref(file), true, writes};
	return FIRST_FD + i;
}

/* How many of `grow` more bytes there is room for. */
static uint64_t
room_for(uint64_t grow)
{
	if (disk_bound == UINT64_MAX || disk_bytes + grow <= disk_bound)
		return grow;
	return disk_bound > disk_bytes ? disk_bound - disk_bytes : 0;
}

static int
open_locked(const char *path, int flags, int mode)
{
	struct file *file = find(&disk_world, path);
	bool writes = (flags & O_ACCMODE) != O_RDONLY;

	if (file != NULL && (flags & O_CREAT) && (flags & O_EXCL))
		return -EEXIST;
	if (file == NULL) {
		if (!(flags & O_CREAT) || !has_dir(&disk_world, path))
			return -ENOENT;
		file = file_new(false, mode);
		set_name(&disk_world, path, file);
		add_change(&disk_world, NAME_MADE, path, NULL, NULL);
	}
	if (file->is_dir && writes)
		return -EISDIR;
	if (!file->is_dir && (flags & O_DIRECTORY))
		return -ENOTDIR;
	if (writes && (flags & O_TRUNC))
		file_resize(file, 0);
	return new_fd(file, writes);
}

static int
disk_open(const char *path, int flags, int mode)
{
	char *clean = clean_path(path);
	struct verdict verdict;
	int fd;

	if (clean == NULL)
		return tr_file_real.open(path, flags, mode);
	verdict = disk_begin(DISK_OPEN);
	fd = verdict.err < 0 ? verdict.err : open_locked(clean, flags, mode);
	free(clean);
	return disk_end(verdict, fd);
}

static int
disk_close(int fd)
{
	struct verdict verdict;
	struct descriptor *descriptor;

	if (fd < FIRST_FD)
		return tr_file_real.close(fd);
	verdict = disk_begin(DISK_CLOSE);
	descriptor = descriptor_of(fd);
	if (descriptor->file != NULL && descriptor->file->lock_fd == fd)
		descriptor->file->lock_fd = -1;
	file_unref(descriptor->file);
	*descriptor = (struct descriptor){0};
	return disk_end(verdict, verdict.err);
}

static ssize_t
disk_pread(int fd, void *data, size_t len, off_t at)
{
	struct verdict verdict;
	const struct file *file;

	if (fd < FIRST_FD)
		return tr_file_real.pread(fd, data, len, at);
	verdict = disk_begin(DISK_READ);
	file = descriptor_of(fd)->file;
	if (verdict.err < 0 || file == NULL)
		return disk_end(verdict, verdict.err < 0 ? verdict.err : -EIO);
	if (file->is_dir)
		return disk_end(verdict, -EISDIR);
	if (verdict.brief && len > 1)
		len = 1 + len / 3;
	if ((size_t)at >= file->len)
		len = 0;
	else if (len > file->len - (size_t)at)
		len = file->len - (size_t)at;
	if (len > 0)
		memcpy(data, file->now + at, len);
	disk_end(verdict, 0);
	return (ssize_t)len;
}

static void
write_locked(struct file *file, const struct iovec *iov, int count, size_t at, size_t len)
{
	size_t end_at = at + len;

	if (end_at > file->len)
		file_resize(file, end_at);
	file_touched(file, at, end_at);
	for (int i = 0; i < count && len > 0; i++) {
		size_t part = iov[i].iov_len < len ? iov[i].iov_len : len;

		if (part > 0)
			memcpy(file->now + at, iov[i].iov_base, part);
		at += part;
		len -= part;
	}
}

static ssize_t
disk_pwritev(int fd, const struct iovec *iov, int count, off_t at)
{
	struct verdict verdict;
	struct descriptor *descriptor;
	size_t len = 0;

	if (fd < FIRST_FD)
		return tr_file_real.pwritev(fd, iov, count, at);
	verdict = disk_begin(DISK_WRITE);
	descriptor = descriptor_of(fd);
	if (verdict.err < 0 || descriptor->file == NULL)
		return disk_end(verdict, verdict.err < 0 ? verdict.err : -EIO);
	if (!descriptor->writes)
		return disk_end(verdict, -EBADF);
	for (int i = 0; i < count; i++)
		len += iov[i].iov_len;
	if (verdict.brief && len > 1)
		len = 1 + len / 3;
	if ((size_t)at + len > descriptor->file->len) {
		size_t grow = (size_t)at + len - descriptor->file->len, given = (size_t)room_for(grow);

		if (grow > given && grow - given >= len)
			return disk_end(verdict, -ENOSPC);
		len -= grow - given;
	}
	if (verdict.dies && !verdict.written && !disk_dead() && len > 0) { /* some of it, then the end */
		write_locked(descriptor->file, iov, count, (size_t)at, (size_t)(next_random(&disk_random) % len));
		disk_die(verdict.cut, next_random(&disk_random));
	}
	write_locked(descriptor->file, iov, count, (size_t)at, len);
	disk_end(verdict, 0);
	return (ssize_t)len;
}

static int
disk_fdatasync(int fd)
{
	struct verdict verdict;
	struct file *file;

	if (fd < FIRST_FD)
		return tr_file_real.fdatasync(fd);
	verdict = disk_begin(DISK_SYNC);
	file = descriptor_of(fd)->file;
	if (file == NULL)
		return disk_end(verdict, -EIO);
	if (verdict.err < 0)
		file_sync_failed(file);
	else
		file_synced(file);
	return disk_end(verdict, verdict.err);
}

static int
resize_locked(int fd, struct verdict verdict, off_t len, bool only_grow)
{
	struct file *file = descriptor_of(fd)->file;

	if (verdict.err < 0 || file == NULL)
		return verdict.err < 0 ? verdict.err : -EIO;
	if (only_grow && (size_t)len <= file->len)
		return 0;
	if ((size_t)len > file->len && only_grow && room_for((size_t)len - file->len) < (size_t)len - file->len)
		return -ENOSPC;
	file_resize(file, (size_t)len);
	return 0;
}

static int
disk_truncate(int fd, off_t len)
{
	struct verdict verdict;

	if (fd < FIRST_FD)
		return tr_file_real.truncate(fd, len);
	verdict = disk_begin(DISK_TRUNCATE);
	return disk_end(verdict, resize_locked(fd, verdict, len, false));
}

static int
disk_allocate(int fd, off_t len)
{
	struct verdict verdict;

	if (fd < FIRST_FD)
		return tr_file_real.allocate(fd, len);
	verdict = disk_begin(DISK_ALLOCATE);
	return disk_end(verdict, resize_locked(fd, verdict, len, true));
}

/* Its bytes do not count any more, though it may be open. */
static void
lose_name(struct file *file)
{
	disk_bytes -= file->len;
	file->gone = true;
}

static int
rename_locked(const char *from, const char *to)
{
	struct file *file = find(&disk_world, from), *before = find(&disk_world, to);

	if (file == NULL || !has_dir(&disk_world, to))
		return -ENOENT;
	if (file == before)
		return 0;
	if (before != NULL && (before->is_dir || file->is_dir))
		return before->is_dir ? -EISDIR : -ENOTDIR;
	if (before != NULL)
		lose_name(before);
	add_change(&disk_world, NAME_MOVED, to, from, file_ref(before));
	move_names(&disk_world, from, to);
	return 0;
}

static int
disk_rename(const char *from, const char *to)
{
	char *clean_from = clean_path(from), *clean_to = clean_path(to);
	struct verdict verdict;
	int err;

	if (clean_from == NULL || clean_to == NULL) {
		err = clean_from == clean_to ? tr_file_real.rename(from, to) : -EXDEV;
	} else {
		verdict = disk_begin(DISK_RENAME);
		err = disk_end(verdict, verdict.err < 0 ? verdict.err : rename_locked(clean_from, clean_to));
	}
	free(clean_from);
	free(clean_to);
	return err;
}

static int
unlink_locked(const char *path)
{
	struct file *file = find(&disk_world, path);

	if (file == NULL)
		return -ENOENT;
	if (file->is_dir)
		return -EISDIR;
	lose_name(file);
	add_change(&disk_world, NAME_GONE, path, NULL, file_ref(file));
	set_name(&disk_world, path, NULL);
	return 0;
}

static int
mkdir_locked(const char *path, int mode)
{
	if (find(&disk_world, path) != NULL)
		return -EEXIST;
	if (!has_dir(&disk_world, path))
		return -ENOENT;
	set_name(&disk_world, path, file_new(true, mode));
	add_change(&disk_world, NAME_MADE, path, NULL, NULL);
	return 0;
}

static int
sync_dir_locked(const char *path)
{
	struct file *file = find(&disk_world, path);
	size_t kept = 0;

	if (file == NULL)
		return -ENOENT;
	if (!file->is_dir)
		return -ENOTDIR;
	for (size_t i = 0; i < disk_world.change_count; i++) {
		if (strcmp(disk_world.changes[i].dir, path) == 0)
			forget_change(&disk_world.changes[i]);
		else
			disk_world.changes[kept++] = disk_world.changes[i];
	}
	disk_world.change_count = kept;
	return 0;
}

static int
stat_locked(const char *path, struct stat *out)
{
	const struct file *file = find(&disk_world, path);

	if (file == NULL)
		return -ENOENT;
	*out = (struct stat){.st_dev = 1, /* NOLINT: a device of its own */
		.st_ino = file->number,
		.st_mode = (mode_t)file->mode | (file->is_dir ? S_IFDIR : S_IFREG),
		.st_nlink = 1,
		.st_size = (off_t)file->len,
		.st_blksize = SECTOR,
		.st_blocks = (blkcnt_t)(file->len / SECTOR)};
	return 0;
}

static int
chmod_locked(const char *path, int mode)
{
	struct file *file = find(&disk_world, path);

	if (file == NULL)
		return -ENOENT;
	file->mode = mode;
	return 0;
}

/* An operation on one path. */
#define ON_PATH(op, real, locked)                                          \
	char *clean = clean_path(path);                                    \
	struct verdict verdict;                                            \
	int err;                                                           \
                                                                           \
	if (clean == NULL)                                                 \
		return real;                                               \
	verdict = disk_begin(op);                                          \
	err = disk_end(verdict, verdict.err < 0 ? verdict.err : (locked)); \
	free(clean);                                                       \
	return err

static int
disk_unlink(const char *path)
{
	ON_PATH(DISK_UNLINK, tr_file_real.unlink(path), unlink_locked(clean));
}

static int
disk_mkdir(const char *path, int mode)
{
	ON_PATH(DISK_MKDIR, tr_file_real.mkdir(path, mode), mkdir_locked(clean, mode));
}

static int
disk_sync_dir(const char *path)
{
	ON_PATH(DISK_SYNC_DIR, tr_file_real.sync_dir(path), sync_dir_locked(clean));
}

static int
disk_stat(const char *path, struct stat *out)
{
	ON_PATH(DISK_STAT, tr_file_real.stat(path, out), stat_locked(clean, out));
}

static int
disk_chmod(const char *path, int mode)
{
	ON_PATH(DISK_CHMOD, tr_file_real.chmod(path, mode), chmod_locked(clean, mode));
}

static int
space_locked(struct tr_file_space *out)
{
	uint64_t total = disk_bound == UINT64_MAX ? UNBOUND_BYTES : disk_bound;

	*out = (struct tr_file_space){.free_bytes = total > disk_bytes ? total - disk_bytes : 0,
		.total_bytes = total,
		.free_inodes = 1000000,
		.total_inodes = 1000000};
	return 0;
}

static int
disk_space(const char *path, struct tr_file_space *out)
{
	ON_PATH(DISK_SPACE, tr_file_real.space(path, out), space_locked(out));
}

/* The names directly in it, each with a NUL, then an empty one; malloc'ed. NULL: no such directory. */
static char *
names_in(const char *dir)
{
	const struct file *file = find(&disk_world, dir);
	size_t len = strlen(dir), room = 1, at = 0;
	char *all;

	if (file == NULL || !file->is_dir)
		return NULL;
	for (size_t i = 0; i < disk_world.name_count; i++)
		room += strlen(disk_world.names[i].path) + 1;
	all = must(malloc(room));
	for (size_t i = 0; i < disk_world.name_count; i++) {
		const char *path = disk_world.names[i].path;

		if (strncmp(path, dir, len) != 0 || path[len] != '/' || strchr(path + len + 1, '/') != NULL)
			continue;
		strcpy(all + at, path + len + 1);
		at += strlen(all + at) + 1;
	}
	all[at] = '\0';
	return all;
}

static int
disk_list(const char *path, int (*each)(void *arg, const char *name), void *arg)
{
	char *clean = clean_path(path), *all = NULL;
	struct verdict verdict;
	int err;

	if (clean == NULL)
		return tr_file_real.list(path, each, arg);
	verdict = disk_begin(DISK_LIST);
	err = verdict.err;
	if (err == 0 && (all = names_in(clean)) == NULL)
		err = -ENOENT;
	disk_end(verdict, 0); /* `each` may do file operations */
	for (const char *name = all; err == 0 && *name != '\0'; name += strlen(name) + 1)
		err = each(arg, name);
	free(all);
	free(clean);
	return err;
}

static int
disk_lock(int fd)
{
	struct verdict verdict;
	struct file *file;

	if (fd < FIRST_FD)
		return tr_file_real.lock(fd);
	verdict = disk_begin(DISK_LOCK);
	file = descriptor_of(fd)->file;
	if (verdict.err < 0 || file == NULL)
		return disk_end(verdict, verdict.err < 0 ? verdict.err : -EIO);
	if (file->lock_fd >= 0 && file->lock_fd != fd)
		return disk_end(verdict, -EWOULDBLOCK);
	file->lock_fd = fd;
	return disk_end(verdict, 0);
}

const struct tr_file_ops disk_table = {
	.open = disk_open,
	.close = disk_close,
	.pread = disk_pread,
	.pwritev = disk_pwritev,
	.fdatasync = disk_fdatasync,
	.truncate = disk_truncate,
	.allocate = disk_allocate,
	.rename = disk_rename,
	.unlink = disk_unlink,
	.mkdir = disk_mkdir,
	.sync_dir = disk_sync_dir,
	.stat = disk_stat,
	.list = disk_list,
	.space = disk_space,
	.lock = disk_lock,
	.chmod = disk_chmod,
};
