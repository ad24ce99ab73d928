#include "fault.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

#define SECTOR 512
#define RULES_MAX 8
#define FDS_MAX 4096
#define OPS 16

struct rule {
	unsigned mask; /* 0: unused */
	uint64_t left; /* calls until it fails; 1: the next */
	int errnum;
	bool sticky;
};

/* What a sector held when it was last durable. */
struct old_sector {
	int64_t index;
	bool lost; /* its write-back failed: a later sync does not write it */
	char data[SECTOR];
};

/* A file that was opened for writing, by inode. */
struct file {
	struct file *next;
	dev_t dev;
	ino_t ino;
	char *path;
	int64_t durable_len;
	struct old_sector *old;
	size_t old_count, old_cap;
	size_t lost_count;
	uint8_t *changed; /* bitmap of sectors that are in `old` */
	size_t changed_bytes;
};

/* A change of names since the last sync of `dir`. Undone in reverse order. */
struct name_op {
	enum { NAME_MADE, NAME_MOVED, NAME_GONE } kind;
	char *dir, *path;
	char *from;  /* moved: where it was */
	char *grave; /* what stood at `path` before, kept aside; NULL: nothing */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards all below */
static struct rule rules[RULES_MAX];
static uint64_t calls[OPS];
static bool short_writes;
static uint64_t budget = UINT64_MAX; /* bytes that files may still grow by */
static uint64_t budget_total;
static struct file *files;
static struct {
	struct file *file;
	bool dead;
} fds[FDS_MAX];
static struct name_op *names;
static size_t name_count, name_cap;
static char graveyard[256];
static unsigned grave_count;

static void
check(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "fault: %s: %s\n", what, strerror(errno));
	abort();
}

static char *
copy(const char *text)
{
	char *mine = strdup(text);

	check(mine != NULL, "strdup");
	return mine;
}

/* Counts the call; 0 or the -errno it is to fail with. Takes the lock in any case. */
static int
begin(enum fault_op op)
{
	int err = 0;

	pthread_mutex_lock(&lock);
	calls[__builtin_ctz(op)]++;
	for (size_t i = 0; i < RULES_MAX; i++) {
		struct rule *rule = &rules[i];

		if ((rule->mask & op) == 0)
			continue;
		if (rule->left > 1) {
			rule->left--;
			continue;
		}
		if (err == 0)
			err = -rule->errnum;
		if (!rule->sticky)
			rule->mask = 0;
	}
	return err;
}

static int
end(int result)
{
	pthread_mutex_unlock(&lock);
	return result;
}

/* --- what is durable: bytes ---------------------------------------------------------------------------- */

static void
forget_old(struct file *file)
{
	free(file->old);
	free(file->changed);
	file->old = NULL;
	file->changed = NULL;
	file->old_count = file->old_cap = file->lost_count = file->changed_bytes = 0;
}

static void
forget_file(struct file *file)
{
	for (struct file **at = &files; *at != NULL; at = &(*at)->next) {
		if (*at != file)
			continue;
		*at = file->next;
		break;
	}
	for (size_t fd = 0; fd < FDS_MAX; fd++) {
		if (fds[fd].file == file)
			fds[fd].file = NULL;
	}
	forget_old(file);
	free(file->path);
	free(file);
}

static struct file *
find_file(const struct stat *st)
{
	struct file *file = files;

	while (file != NULL && (file->dev != st->st_dev || file->ino != st->st_ino))
		file = file->next;
	return file;
}

static void
track(int fd, const char *path, bool made)
{
	struct stat st;
	struct file *file;

	check(fd < FDS_MAX && fstat(fd, &st) == 0, "fstat of a new descriptor");
	file = find_file(&st);
	if (file != NULL && made) { /* the inode number is used again */
		forget_file(file);
		file = NULL;
	}
	if (file == NULL) {
		file = calloc(1, sizeof *file);
		check(file != NULL, "calloc");
		file->dev = st.st_dev;
		file->ino = st.st_ino;
		file->path = copy(path);
		file->durable_len = made ? 0 : st.st_size;
		file->next = files;
		files = file;
	}
	fds[fd].file = file;
	fds[fd].dead = false;
}

static struct file *
file_of(int fd)
{
	return fd >= 0 && fd < FDS_MAX ? fds[fd].file : NULL;
}

static bool
is_dead(int fd)
{
	return fd >= 0 && fd < FDS_MAX && fds[fd].dead;
}

static bool
is_changed(const struct file *file, int64_t index)
{
	return (size_t)(index / 8) < file->changed_bytes && (file->changed[index / 8] >> index % 8 & 1) != 0;
}

static struct old_sector *
add_old(struct file *file, int64_t index)
{
	if ((size_t)(index / 8) >= file->changed_bytes) {
		size_t bytes = (size_t)(index / 8) * 2 + 64;

		file->changed = realloc(file->changed, bytes);
		check(file->changed != NULL, "realloc");
		memset(file->changed + file->changed_bytes, 0, bytes - file->changed_bytes);
		file->changed_bytes = bytes;
	}
	file->changed[index / 8] |= (uint8_t)(1 << index % 8);
	if (file->old_count == file->old_cap) {
		file->old_cap = file->old_cap * 2 + 16;
		file->old = realloc(file->old, file->old_cap * sizeof *file->old);
		check(file->old != NULL, "realloc");
	}
	struct old_sector *old = &file->old[file->old_count++];
	memset(old, 0, sizeof *old);
	old->index = index;
	return old;
}

/* Before bytes [at, at + len) change: keeps what they were. */
static void
keep_old(int fd, off_t at, int64_t len)
{
	struct file *file = file_of(fd);
	char link[64];
	int reader = -1;

	if (file == NULL || len <= 0)
		return;
	int64_t first = at / SECTOR, last = (at + len - 1) / SECTOR;

	for (size_t i = 0; i < file->old_count && file->lost_count > 0; i++) { /* written again: a new chance */
		if (file->old[i].lost && file->old[i].index >= first && file->old[i].index <= last) {
			file->old[i].lost = false;
			file->lost_count--;
		}
	}
	for (int64_t index = first; index <= last && index * SECTOR < file->durable_len; index++) {
		if (is_changed(file, index))
			continue;
		if (reader < 0) { /* fd may be write-only */
			snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
			reader = open(link, O_RDONLY | O_CLOEXEC);
			check(reader >= 0, "open to read old bytes");
		}
		check(pread(reader, add_old(file, index)->data, SECTOR, index * SECTOR) >= 0, "read old bytes");
	}
	if (reader >= 0)
		close(reader);
}

static int64_t
size_of(int fd)
{
	struct stat st;

	check(fstat(fd, &st) == 0, "fstat");
	return st.st_size;
}

static void
synced(int fd)
{
	struct file *file = file_of(fd);
	size_t kept = 0;

	if (file == NULL)
		return;
	if (file->lost_count == 0) {
		forget_old(file);
	} else {
		memset(file->changed, 0, file->changed_bytes);
		for (size_t i = 0; i < file->old_count; i++) {
			int64_t index = file->old[i].index;

			if (!file->old[i].lost)
				continue;
			file->changed[index / 8] |= (uint8_t)(1 << index % 8);
			file->old[kept++] = file->old[i];
		}
		file->old_count = kept;
	}
	file->durable_len = size_of(fd);
}

/* The kernel forgets that the pages are dirty, so a later sync does not write them. */
static void
sync_failed(int fd)
{
	struct file *file = file_of(fd);

	if (file == NULL)
		return;
	for (int64_t index = (file->durable_len + SECTOR - 1) / SECTOR; index * SECTOR < size_of(fd); index++) {
		if (!is_changed(file, index))
			add_old(file, index); /* zeros */
	}
	for (size_t i = 0; i < file->old_count; i++)
		file->old[i].lost = true;
	file->lost_count = file->old_count;
}

/* --- what is durable: names ------------------------------------------------------------------------------ */

static char *
dir_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *dir = copy(slash == NULL ? "." : path);

	if (slash != NULL)
		dir[slash == path ? 1 : slash - path] = '\0';
	return dir;
}

static void
forget_name(struct name_op *op)
{
	if (op->grave != NULL)
		unlink(op->grave);
	free(op->dir);
	free(op->path);
	free(op->from);
	free(op->grave);
}

static void
add_name(int kind, const char *path, const char *from, char *grave)
{
	if (name_count == name_cap) {
		name_cap = name_cap * 2 + 16;
		names = realloc(names, name_cap * sizeof *names);
		check(names != NULL, "realloc");
	}
	names[name_count++] = (struct name_op){.kind = kind,
		.dir = dir_of(path),
		.path = copy(path),
		.from = from != NULL ? copy(from) : NULL,
		.grave = grave};
}

/* A second name for what stands at `path`, so that its end can be undone; NULL if there is nothing. */
static char *
dig_grave(const char *path)
{
	char grave[320];

	snprintf(grave, sizeof grave, "%s/%u", graveyard, grave_count++);
	if (link(path, grave) < 0) {
		check(errno == ENOENT || errno == EPERM, "link into the graveyard (is it on another disk?)");
		return NULL;
	}
	return copy(grave);
}

/* The paths of tracked files follow a rename, of a directory above them, too. */
static void
move_paths(const char *from, const char *to)
{
	size_t len = strlen(from);

	for (struct file *file = files; file != NULL; file = file->next) {
		if (strncmp(file->path, from, len) != 0 || (file->path[len] != '\0' && file->path[len] != '/'))
			continue;
		char *path = malloc(strlen(to) + strlen(file->path + len) + 1);
		check(path != NULL, "malloc");
		strcpy(path, to);
		strcat(path, file->path + len);
		free(file->path);
		file->path = path;
	}
}

static bool
same_dir(const char *a, const char *b)
{
	struct stat sa, sb;

	return stat(a, &sa) == 0 && stat(b, &sb) == 0 && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

static void
names_synced(const char *dir)
{
	size_t kept = 0;

	for (size_t i = 0; i < name_count; i++) {
		if (same_dir(names[i].dir, dir))
			forget_name(&names[i]);
		else
			names[kept++] = names[i];
	}
	name_count = kept;
}

static int
remove_any(const char *path, const struct stat *st, int type, struct FTW *walk)
{
	return remove(path);
}

static void
undo_name(struct name_op *op)
{
	if (op->kind == NAME_MADE)
		nftw(op->path, remove_any, 16, FTW_DEPTH | FTW_PHYS); /* not there any more: fine */
	if (op->kind == NAME_MOVED && rename(op->path, op->from) == 0)
		move_paths(op->path, op->from);
	if (op->grave != NULL)
		check(rename(op->grave, op->path) == 0 || errno == ENOENT, "rename from the graveyard");
}

/* --- the table ---------------------------------------------------------------------------------------------- */

static uint64_t
take_budget(uint64_t wanted)
{
	uint64_t given = wanted < budget ? wanted : budget;

	if (budget != UINT64_MAX)
		budget -= given;
	return given;
}

static void
give_budget(int64_t bytes)
{
	if (budget != UINT64_MAX && bytes > 0)
		budget += (uint64_t)bytes;
}

static int
truncate_locked(int fd, off_t len)
{
	int64_t size = size_of(fd);
	int err;

	if (len < size)
		keep_old(fd, len, size - len);
	err = tr_file_real.truncate(fd, len);
	if (err == 0)
		give_budget(size - len);
	return err;
}

static int
fault_open(const char *path, int flags, int mode)
{
	struct stat st;
	int fd = begin(FAULT_OPEN);

	if (fd < 0)
		return end(fd);
	bool writes = (flags & O_ACCMODE) != O_RDONLY;
	bool was_there = stat(path, &st) == 0;

	fd = tr_file_real.open(path, writes ? flags & ~O_TRUNC : flags, mode);
	if (fd < 0)
		return end(fd);
	if (fd < FDS_MAX) {
		fds[fd].file = NULL;
		fds[fd].dead = false;
	}
	if (!was_there && (flags & O_CREAT) != 0)
		add_name(NAME_MADE, path, NULL, NULL);
	if (writes)
		track(fd, path, !was_there);
	if (writes && (flags & O_TRUNC) != 0) {
		int err = truncate_locked(fd, 0);

		if (err < 0) {
			fds[fd].file = NULL;
			tr_file_real.close(fd);
			return end(err);
		}
	}
	return end(fd);
}

static int
fault_close(int fd)
{
	int err = begin(FAULT_CLOSE), real;

	if (fd >= 0 && fd < FDS_MAX) {
		fds[fd].file = NULL;
		fds[fd].dead = false;
	}
	real = tr_file_real.close(fd);
	return end(err < 0 ? err : real);
}

static ssize_t
fault_pread(int fd, void *data, size_t len, off_t at)
{
	int err = begin(FAULT_PREAD);

	if (err == 0 && is_dead(fd))
		err = -EIO;
	end(0); /* reads of several threads go on beside each other */
	return err < 0 ? err : tr_file_real.pread(fd, data, len, at);
}

static ssize_t
fault_pwritev(int fd, const struct iovec *iov, int count, off_t at)
{
	int err = begin(FAULT_PWRITEV);
	struct iovec *part;
	size_t len = 0, left;
	ssize_t n;

	if (err == 0 && is_dead(fd))
		err = -EIO;
	if (err < 0)
		return end(err);
	for (int i = 0; i < count; i++)
		len += iov[i].iov_len;
	if (short_writes && len > 1)
		len = 1 + len / 3;
	int64_t size = size_of(fd), end_at = at + (int64_t)len;

	if (end_at > size && len > 0) {
		uint64_t grow = (uint64_t)(end_at - size), given = take_budget(grow);

		if (grow - given >= len) {
			give_budget((int64_t)given);
			return end(-ENOSPC);
		}
		len -= (size_t)(grow - given);
	}
	keep_old(fd, at, (int64_t)len);
	part = malloc((size_t)(count > 0 ? count : 1) * sizeof *part);
	check(part != NULL, "malloc");
	left = len;
	int parts = 0;
	for (; parts < count && left > 0; parts++) {
		part[parts] = iov[parts];
		if (part[parts].iov_len > left)
			part[parts].iov_len = left;
		left -= part[parts].iov_len;
	}
	n = tr_file_real.pwritev(fd, part, parts, at);
	free(part);
	pthread_mutex_unlock(&lock);
	return n;
}

static int
fault_fdatasync(int fd)
{
	int err = begin(FAULT_FDATASYNC);

	if (is_dead(fd))
		return end(-EIO);
	if (err < 0) {
		sync_failed(fd);
		return end(err);
	}
	/* nothing has to reach the real disk: the cut is ours */
	synced(fd);
	return end(0);
}

static int
fault_truncate(int fd, off_t len)
{
	int err = begin(FAULT_TRUNCATE);

	if (err == 0 && is_dead(fd))
		err = -EIO;
	return end(err < 0 ? err : truncate_locked(fd, len));
}

static int
fault_allocate(int fd, off_t len)
{
	int err = begin(FAULT_ALLOCATE);
	int64_t size;

	if (err == 0 && is_dead(fd))
		err = -EIO;
	if (err < 0)
		return end(err);
	size = size_of(fd);
	if (len > size) {
		uint64_t grow = (uint64_t)(len - size), given = take_budget(grow);

		if (given < grow) {
			give_budget((int64_t)given);
			return end(-ENOSPC);
		}
	}
	return end(tr_file_real.allocate(fd, len));
}

static int
fault_rename(const char *from, const char *to)
{
	int err = begin(FAULT_RENAME);
	char *grave;

	if (err < 0)
		return end(err);
	grave = dig_grave(to);
	err = tr_file_real.rename(from, to);
	if (err < 0) {
		if (grave != NULL)
			unlink(grave);
		free(grave);
		return end(err);
	}
	add_name(NAME_MOVED, to, from, grave);
	move_paths(from, to);
	return end(0);
}

static int
fault_unlink(const char *path)
{
	int err = begin(FAULT_UNLINK);
	struct stat st = {0};
	char *grave;

	if (err < 0)
		return end(err);
	if (stat(path, &st) < 0)
		st.st_size = 0;
	grave = dig_grave(path);
	err = tr_file_real.unlink(path);
	if (err < 0) {
		if (grave != NULL)
			unlink(grave);
		free(grave);
		return end(err);
	}
	give_budget(st.st_size);
	add_name(NAME_GONE, path, NULL, grave);
	return end(0);
}

static int
fault_mkdir(const char *path, int mode)
{
	int err = begin(FAULT_MKDIR);

	if (err == 0)
		err = tr_file_real.mkdir(path, mode);
	if (err == 0)
		add_name(NAME_MADE, path, NULL, NULL);
	return end(err);
}

static int
fault_sync_dir(const char *path)
{
	int err = begin(FAULT_SYNC_DIR);
	struct stat st;

	if (err == 0 && stat(path, &st) < 0)
		err = -errno;
	if (err == 0)
		names_synced(path);
	return end(err);
}

static int
fault_stat(const char *path, struct stat *out)
{
	int err = begin(FAULT_STAT);

	return end(err < 0 ? err : tr_file_real.stat(path, out));
}

static int
fault_list(const char *path, int (*each)(void *arg, const char *name), void *arg)
{
	int err = begin(FAULT_LIST);

	end(0); /* `each` may do file operations */
	return err < 0 ? err : tr_file_real.list(path, each, arg);
}

static int
fault_space(const char *path, struct tr_file_space *out)
{
	int err = begin(FAULT_SPACE);

	if (err == 0)
		err = tr_file_real.space(path, out);
	if (err == 0 && budget != UINT64_MAX) {
		out->free_bytes = budget;
		out->total_bytes = budget > budget_total ? budget : budget_total;
	}
	return end(err);
}

static int
fault_lock(int fd)
{
	int err = begin(FAULT_LOCK);

	return end(err < 0 ? err : tr_file_real.lock(fd));
}

static int
fault_chmod(const char *path, int mode)
{
	int err = begin(FAULT_CHMOD);

	return end(err < 0 ? err : tr_file_real.chmod(path, mode));
}

static const struct tr_file_ops fault_ops = {
	.open = fault_open,
	.close = fault_close,
	.pread = fault_pread,
	.pwritev = fault_pwritev,
	.fdatasync = fault_fdatasync,
	.truncate = fault_truncate,
	.allocate = fault_allocate,
	.rename = fault_rename,
	.unlink = fault_unlink,
	.mkdir = fault_mkdir,
	.sync_dir = fault_sync_dir,
	.stat = fault_stat,
	.list = fault_list,
	.space = fault_space,
	.lock = fault_lock,
	.chmod = fault_chmod,
};

/* --- the test's side ---------------------------------------------------------------------------------------- */

static void
forget_all(void)
{
	while (files != NULL)
		forget_file(files);
	for (size_t i = 0; i < name_count; i++)
		forget_name(&names[i]);
	free(names);
	names = NULL;
	name_count = name_cap = 0;
}

static void
reset_locked(void)
{
	memset(rules, 0, sizeof rules);
	memset(calls, 0, sizeof calls);
	short_writes = false;
	budget = UINT64_MAX;
}

void
fault_install(void)
{
	const char *tmp = getenv("TMPDIR");

	pthread_mutex_lock(&lock);
	reset_locked();
	forget_all();
	memset(fds, 0, sizeof fds);
	if (graveyard[0] == '\0') {
		snprintf(graveyard, sizeof graveyard, "%s/tr-fault-XXXXXX", tmp != NULL ? tmp : "/tmp");
		check(mkdtemp(graveyard) != NULL, "mkdtemp");
	}
	pthread_mutex_unlock(&lock);
	tr_file = &fault_ops;
}

void
fault_uninstall(void)
{
	tr_file = &tr_file_real;
	pthread_mutex_lock(&lock);
	reset_locked();
	forget_all();
	memset(fds, 0, sizeof fds);
	if (graveyard[0] != '\0')
		check(rmdir(graveyard) == 0, "rmdir of the graveyard");
	graveyard[0] = '\0';
	pthread_mutex_unlock(&lock);
}

void
fault_fail(unsigned mask, uint64_t nth, int errnum, bool sticky)
{
	size_t i = 0;

	pthread_mutex_lock(&lock);
	while (i < RULES_MAX && rules[i].mask != 0)
		i++;
	errno = ENOBUFS;
	check(i < RULES_MAX && nth > 0 && errnum > 0, "no rule left, or a bad one");
	rules[i] = (struct rule){mask, nth, errnum, sticky};
	pthread_mutex_unlock(&lock);
}

uint64_t
fault_calls(unsigned mask)
{
	uint64_t sum = 0;

	pthread_mutex_lock(&lock);
	for (int op = 0; op < OPS; op++)
		sum += mask >> op & 1 ? calls[op] : 0;
	pthread_mutex_unlock(&lock);
	return sum;
}

void
fault_reset(void)
{
	pthread_mutex_lock(&lock);
	reset_locked();
	pthread_mutex_unlock(&lock);
}

void
fault_short_writes(bool on)
{
	pthread_mutex_lock(&lock);
	short_writes = on;
	pthread_mutex_unlock(&lock);
}

void
fault_disk_budget(uint64_t bytes)
{
	pthread_mutex_lock(&lock);
	budget = budget_total = bytes;
	pthread_mutex_unlock(&lock);
}

static uint64_t
next_random(uint64_t *state) /* splitmix64 */
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

/* The names of each directory: a random number of the first changes stays. */
static void
cut_names(uint64_t *random)
{
	bool *undone = calloc(name_count + 1, sizeof *undone);
	bool *seen = calloc(name_count + 1, sizeof *seen);

	check(undone != NULL && seen != NULL, "calloc");
	for (size_t i = 0; i < name_count; i++) {
		uint64_t in_dir = 0, stay;

		if (seen[i])
			continue;
		for (size_t j = i; j < name_count; j++)
			in_dir += strcmp(names[i].dir, names[j].dir) == 0;
		stay = next_random(random) % (in_dir + 1);
		for (size_t j = i; j < name_count; j++) {
			if (strcmp(names[i].dir, names[j].dir) != 0)
				continue;
			seen[j] = true;
			undone[j] = stay == 0;
			stay -= stay > 0;
		}
	}
	for (size_t i = name_count; i-- > 0;) {
		if (undone[i])
			undo_name(&names[i]);
	}
	free(undone);
	free(seen);
}

static void
write_back(int fd, const void *data, size_t len, off_t at)
{
	check(pwrite(fd, data, len, at) == (ssize_t)len, "pwrite");
}

/* Growth that was not synced: some of the length stays, and of that some sectors were never written. */
static void
cut_growth(int fd, int64_t durable_len, int64_t size, uint64_t *random)
{
	static const char zeros[SECTOR];
	int64_t len = size;

	switch (next_random(random) % 3) {
	case 0:
		len = durable_len;
		break;
	case 1:
		len = durable_len + (int64_t)(next_random(random) % (uint64_t)(size - durable_len + 1));
		break;
	default:
		break;
	}
	check(ftruncate(fd, len) == 0, "ftruncate");
	for (int64_t at = durable_len; at < len;) {
		int64_t next = tr_min_i64((at / SECTOR + 1) * SECTOR, len);

		if (next_random(random) & 1)
			write_back(fd, zeros, (size_t)(next - at), at);
		at = next;
	}
}

static void
cut_file(struct file *file, uint64_t *random)
{
	int fd = open(file->path, O_RDWR | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return; /* its name is gone */
	check(fstat(fd, &st) == 0, "fstat");
	if (st.st_dev != file->dev || st.st_ino != file->ino) {
		close(fd);
		return; /* another file has taken its name */
	}
	int64_t len = st.st_size;
	bool regrow = len < file->durable_len && (next_random(random) & 1); /* the truncation did not happen */

	if (regrow)
		check(ftruncate(fd, file->durable_len) == 0, "ftruncate");
	if (len > file->durable_len)
		cut_growth(fd, file->durable_len, len, random);
	int64_t end_at = regrow ? file->durable_len : size_of(fd);

	for (size_t i = 0; i < file->old_count; i++) {
		const struct old_sector *old = &file->old[i];
		int64_t at = old->index * SECTOR;
		bool whole = regrow && at + SECTOR > len;
		bool coin = next_random(random) & 1;

		if (at < end_at && (old->lost || whole || coin)) {
			/* the durable part only, but all of a sector whose growth was lost, too */
			int64_t stop = old->lost ? end_at : tr_min_i64(end_at, file->durable_len);

			if (stop > at)
				write_back(fd, old->data, (size_t)tr_min_i64(stop - at, SECTOR), at);
		}
	}
	close(fd);
}

void
fault_power_cut(uint64_t seed)
{
	uint64_t random = seed;

	pthread_mutex_lock(&lock);
	reset_locked();
	cut_names(&random);
	for (struct file *file = files; file != NULL; file = file->next)
		cut_file(file, &random);
	for (size_t fd = 0; fd < FDS_MAX; fd++)
		fds[fd].dead = fds[fd].file != NULL;
	forget_all();
	pthread_mutex_unlock(&lock);
}
