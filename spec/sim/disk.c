#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"

#define SECTOR 512
#define RULES_MAX 16
#define FIRST_FD (1 << 24) /* no real descriptor is that high */
#define UNBOUND_BYTES (UINT64_C(1) << 40)

enum { CLEAN, DIRTY, LOST }; /* a sector: as on the disk, not synced, not synced and a sync of it has failed */

struct file {
	uint64_t number;
	uint32_t refs;     /* names, descriptors, name changes that may be undone */
	bool is_dir, gone; /* gone: it has no name, and its bytes do not count */
	int mode;
	int lock_fd; /* -1: nobody */
	size_t cap;  /* of now, safe; a multiple of SECTOR */
	char *now, *safe;
	size_t len, safe_len; /* zeros behind, up to cap */
	uint8_t *sectors;
	size_t dirty_from, dirty_to; /* sectors that are not CLEAN lie in here */
	struct file *copy;           /* while a world is copied */
};

struct name {
	char *path;
	struct file *file;
};

/* A change of names since the last sync of `dir`. Undone in reverse order. */
struct change {
	enum { NAME_MADE, NAME_MOVED, NAME_GONE } kind;
	char *dir, *path;
	char *from;          /* moved: where it was */
	struct file *before; /* what stood at `path` before; NULL: nothing */
};

struct world {
	struct name *names; /* sorted by path */
	size_t name_count, name_cap;
	struct change *changes;
	size_t change_count, change_cap;
};

struct descriptor {
	struct file *file; /* NULL: free, or dead */
	bool used, writes;
};

const char *const disk_op_names[DISK_OPS] = {"open", "close", "read", "write", "sync", "truncate", "allocate", "rename",
	"unlink", "mkdir", "sync_dir", "stat", "list", "space", "lock", "chmod"};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards all below */
static struct world disk, image;
static bool ghost; /* there is an image */
static struct disk_rule rules[RULES_MAX];
static uint64_t calls[DISK_OPS];
static uint64_t capacity = UINT64_MAX;
static uint64_t used; /* bytes of all files of `disk` that have a name */
static uint64_t random_state, next_number = 1;
static struct descriptor *fds;
static int fd_count;

static void
check(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "disk: %s\n", what);
	abort();
}

static void *
must(void *memory)
{
	check(memory != NULL, "out of memory");
	return memory;
}

static char *
copy_text(const char *text)
{
	return must(strdup(text));
}

static uint64_t
next_random(uint64_t *state) /* splitmix64 */
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

/* --- files ------------------------------------------------------------------------------------------------ */

static struct file *
file_new(bool is_dir, int mode)
{
	struct file *file = must(calloc(1, sizeof *file));

	file->number = next_number++;
	file->is_dir = is_dir;
	file->mode = mode;
	file->lock_fd = -1;
	return file;
}

static void
file_unref(struct file *file)
{
	if (file == NULL || --file->refs > 0)
		return;
	free(file->now);
	free(file->safe);
	free(file->sectors);
	free(file);
}

static struct file *
file_ref(struct file *file)
{
	if (file != NULL)
		file->refs++;
	return file;
}

static void
file_room(struct file *file, size_t len)
{
	size_t cap = file->cap == 0 ? 8 * SECTOR : file->cap;

	if (len <= file->cap)
		return;
	while (cap < len)
		cap *= 2;
	file->now = must(realloc(file->now, cap));
	file->safe = must(realloc(file->safe, cap));
	file->sectors = must(realloc(file->sectors, cap / SECTOR));
	memset(file->now + file->cap, 0, cap - file->cap);
	memset(file->safe + file->cap, 0, cap - file->cap);
	memset(file->sectors + file->cap / SECTOR, CLEAN, (cap - file->cap) / SECTOR);
	file->cap = cap;
}

/* Bytes [at, end) are not on the disk as they are now. */
static void
file_touched(struct file *file, size_t at, size_t end)
{
	size_t first = at / SECTOR, last = (end + SECTOR - 1) / SECTOR;

	if (first >= last)
		return;
	memset(file->sectors + first, DIRTY, last - first);
	if (file->dirty_to == file->dirty_from) {
		file->dirty_from = first;
		file->dirty_to = last;
	}
	if (first < file->dirty_from)
		file->dirty_from = first;
	if (last > file->dirty_to)
		file->dirty_to = last;
}

static void
file_resize(struct file *file, size_t len)
{
	if (!file->gone)
		used += len - file->len;
	if (len < file->len) {
		memset(file->now + len, 0, file->len - len);
		file_touched(file, len, file->len);
	} else {
		file_room(file, len);
		file_touched(file, file->len, len);
	}
	file->len = len;
}

static void
file_synced(struct file *file)
{
	size_t from = file->dirty_from, to = file->dirty_to;

	file->dirty_from = file->dirty_to = 0;
	for (size_t i = from; i < to; i++) {
		if (file->sectors[i] == DIRTY) {
			memcpy(file->safe + i * SECTOR, file->now + i * SECTOR, SECTOR);
			file->sectors[i] = CLEAN;
		} else if (file->sectors[i] == LOST) {
			if (file->dirty_to == 0)
				file->dirty_from = i;
			file->dirty_to = i + 1;
		}
	}
	file->safe_len = file->len;
	if (file->safe_len < file->cap) /* a shorter file: what was behind is gone there, too */
		memset(file->safe + file->safe_len, 0, file->cap - file->safe_len);
}

/* The kernel forgets that the pages are dirty, so a later sync does not write them. */
static void
file_sync_failed(struct file *file)
{
	for (size_t i = file->dirty_from; i < file->dirty_to; i++) {
		if (file->sectors[i] == DIRTY)
			file->sectors[i] = LOST;
	}
}

/* What a power cut leaves of it. */
static void
file_cut(struct file *file, uint64_t *random)
{
	size_t len = file->len;

	if (len > file->safe_len) { /* growth that was not synced: none, some or all of it stays */
		uint64_t pick = next_random(random) % 3;

		if (pick == 0)
			len = file->safe_len;
		else if (pick == 1)
			len = file->safe_len + (size_t)(next_random(random) % (file->len - file->safe_len + 1));
	} else if (len < file->safe_len && (next_random(random) & 1)) {
		len = file->safe_len; /* the truncation did not happen */
	}
	for (size_t i = file->dirty_from; i < file->dirty_to; i++) {
		bool stays = next_random(random) & 1;

		if (len > file->len && (i + 1) * SECTOR > file->len) /* no truncation: all of it is there again */
			stays = false;
		if (file->sectors[i] == LOST || (file->sectors[i] == DIRTY && !stays))
			memcpy(file->now + i * SECTOR, file->safe + i * SECTOR, SECTOR);
		file->sectors[i] = CLEAN;
	}
	if (len < file->cap)
		memset(file->now + len, 0, file->cap - len);
	if (file->cap > 0)
		memcpy(file->safe, file->now, file->cap);
	file->len = file->safe_len = len;
	file->dirty_from = file->dirty_to = 0;
}

/* --- names ------------------------------------------------------------------------------------------------ */

/* Where `path` is among the names, or where it would stand. */
static size_t
place_of(const struct world *world, const char *path)
{
	size_t low = 0, high = world->name_count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (strcmp(world->names[middle].path, path) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct file *
find(const struct world *world, const char *path)
{
	size_t at = place_of(world, path);

	return at < world->name_count && strcmp(world->names[at].path, path) == 0 ? world->names[at].file : NULL;
}

/* The name takes a reference; what stood there loses one. file = NULL: no such name any more. */
static void
set_name(struct world *world, const char *path, struct file *file)
{
	size_t at = place_of(world, path);
	bool there = at < world->name_count && strcmp(world->names[at].path, path) == 0;

	if (file_ref(file) != NULL)
		file->gone = false;
	if (there) {
		file_unref(world->names[at].file);
		world->names[at].file = file;
		if (file != NULL)
			return;
		free(world->names[at].path);
		memmove(&world->names[at], &world->names[at + 1], (world->name_count - at - 1) * sizeof *world->names);
		world->name_count--;
		return;
	}
	if (file == NULL)
		return;
	if (world->name_count == world->name_cap) {
		world->name_cap = world->name_cap * 2 + 32;
		world->names = must(realloc(world->names, world->name_cap * sizeof *world->names));
	}
	memmove(&world->names[at + 1], &world->names[at], (world->name_count - at) * sizeof *world->names);
	world->names[at] = (struct name){copy_text(path), file};
	world->name_count++;
}

/* "/sim//a/./b/" -> "/sim/a/b"; malloc'ed. NULL: not ours. */
static char *
clean_path(const char *path)
{
	char *clean;
	size_t len = 0;

	if (strncmp(path, DISK_ROOT, sizeof DISK_ROOT - 1) != 0 && strcmp(path, "/sim") != 0)
		return NULL;
	clean = must(malloc(strlen(path) + 2));
	while (*path != '\0') {
		size_t part;

		while (*path == '/')
			path++;
		part = strcspn(path, "/");
		if (part > 0 && !(part == 1 && *path == '.')) {
			clean[len++] = '/';
			memcpy(clean + len, path, part);
			len += part;
		}
		path += part;
	}
	clean[len] = '\0';
	return clean;
}

/* malloc'ed; "" for the root of the disk */
static char *
dir_of(const char *path)
{
	char *dir = copy_text(path);

	*strrchr(dir, '/') = '\0';
	return dir;
}

static bool
has_dir(const struct world *world, const char *path)
{
	char *dir = dir_of(path);
	struct file *file = find(world, dir);
	bool is = dir[0] == '\0' || (file != NULL && file->is_dir);

	free(dir);
	return is;
}

/* Takes the reference to `before`. */
static void
add_change(struct world *world, int kind, const char *path, const char *from, struct file *before)
{
	if (world->change_count == world->change_cap) {
		world->change_cap = world->change_cap * 2 + 16;
		world->changes = must(realloc(world->changes, world->change_cap * sizeof *world->changes));
	}
	world->changes[world->change_count++] = (struct change){.kind = kind,
		.dir = dir_of(path),
		.path = copy_text(path),
		.from = from != NULL ? copy_text(from) : NULL,
		.before = before};
}

static void
forget_change(struct change *change)
{
	free(change->dir);
	free(change->path);
	free(change->from);
	file_unref(change->before);
}

/* `from`, and of a directory all below it, gets the name `to`. */
static void
move_names(struct world *world, const char *from, const char *to)
{
	size_t len = strlen(from);

	for (size_t i = 0; i < world->name_count;) {
		const char *path = world->names[i].path;
		struct file *file = world->names[i].file;
		char *moved;

		if (strncmp(path, from, len) != 0 || (path[len] != '\0' && path[len] != '/')) {
			i++;
			continue;
		}
		moved = must(malloc(strlen(to) + strlen(path + len) + 1));
		strcpy(moved, to);
		strcat(moved, path + len);
		file_ref(file);
		set_name(world, path, NULL);
		set_name(world, moved, file);
		file_unref(file);
		free(moved);
		i = 0; /* the order has changed */
	}
}

static void
remove_names(struct world *world, const char *path)
{
	size_t len = strlen(path);

	for (size_t i = 0; i < world->name_count;) {
		const char *name = world->names[i].path;

		if (strncmp(name, path, len) == 0 && (name[len] == '\0' || name[len] == '/'))
			set_name(world, name, NULL);
		else
			i++;
	}
}

static void
undo_change(struct world *world, const struct change *change)
{
	if (change->kind == NAME_MADE)
		remove_names(world, change->path);
	if (change->kind == NAME_MOVED && find(world, change->path) != NULL)
		move_names(world, change->path, change->from);
	if (change->before != NULL)
		set_name(world, change->path, change->before);
}

/* --- the whole disk ---------------------------------------------------------------------------------------- */

static void
world_free(struct world *world)
{
	for (size_t i = 0; i < world->name_count; i++) {
		file_unref(world->names[i].file);
		free(world->names[i].path);
	}
	for (size_t i = 0; i < world->change_count; i++)
		forget_change(&world->changes[i]);
	free(world->names);
	free(world->changes);
	*world = (struct world){0};
}

static struct file *
copy_file(struct file *file)
{
	struct file *copy = file->copy;

	if (copy != NULL)
		return copy;
	copy = file->copy = must(malloc(sizeof *copy));
	*copy = *file;
	copy->refs = 0;
	copy->lock_fd = -1; /* its process is gone */
	copy->copy = NULL;
	if (file->cap > 0) {
		copy->now = must(malloc(file->cap));
		copy->safe = must(malloc(file->cap));
		copy->sectors = must(malloc(file->cap / SECTOR));
		memcpy(copy->now, file->now, file->cap);
		memcpy(copy->safe, file->safe, file->cap);
		memcpy(copy->sectors, file->sectors, file->cap / SECTOR);
	}
	return copy;
}

static void
world_copy(struct world *from, struct world *to)
{
	*to = (struct world){0};
	for (size_t i = 0; i < from->name_count; i++)
		set_name(to, from->names[i].path, copy_file(from->names[i].file));
	for (size_t i = 0; i < from->change_count; i++) {
		const struct change *change = &from->changes[i];

		add_change(to, (int)change->kind, change->path, change->from,
			change->before != NULL ? file_ref(copy_file(change->before)) : NULL);
	}
	for (size_t i = 0; i < from->name_count; i++)
		from->names[i].file->copy = NULL;
	for (size_t i = 0; i < from->change_count; i++) {
		if (from->changes[i].before != NULL)
			from->changes[i].before->copy = NULL;
	}
}

/* The names of each directory: a random number of the first changes stays. */
static void
cut_names(struct world *world, uint64_t *random)
{
	size_t count = world->change_count;
	bool *undone = must(calloc(count + 1, sizeof *undone)), *seen = must(calloc(count + 1, sizeof *seen));

	for (size_t i = 0; i < count; i++) {
		uint64_t in_dir = 0, stay;

		if (seen[i])
			continue;
		for (size_t j = i; j < count; j++)
			in_dir += strcmp(world->changes[i].dir, world->changes[j].dir) == 0;
		stay = next_random(random) % (in_dir + 1);
		for (size_t j = i; j < count; j++) {
			if (strcmp(world->changes[i].dir, world->changes[j].dir) != 0)
				continue;
			seen[j] = true;
			undone[j] = stay == 0;
			stay -= stay > 0;
		}
	}
	for (size_t i = count; i-- > 0;) {
		if (undone[i])
			undo_change(world, &world->changes[i]);
	}
	for (size_t i = 0; i < count; i++)
		forget_change(&world->changes[i]);
	world->change_count = 0;
	free(undone);
	free(seen);
}

static void
kill_locked(bool cut, uint64_t seed)
{
	uint64_t random = seed;

	if (ghost)
		return; /* dead already */
	world_copy(&disk, &image);
	ghost = true;
	if (!cut)
		return;
	cut_names(&image, &random);
	for (size_t i = 0; i < image.name_count; i++)
		file_cut(image.names[i].file, &random);
}

static uint64_t
bytes_of(const struct world *world)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < world->name_count; i++)
		sum += world->names[i].file->len;
	return sum;
}

static void
fds_die(void)
{
	for (int i = 0; i < fd_count; i++) {
		file_unref(fds[i].file);
		fds[i].file = NULL;
	}
}

/* --- an operation ------------------------------------------------------------------------------------------ */

struct verdict {
	int err;      /* 0 or -errno */
	bool brief;   /* comes short */
	bool dies;    /* the process is killed within it */
	bool cut;     /* by the power going */
	bool written; /* the image has what it does */
};

/* Counts the call. Takes the lock in any case. */
static struct verdict
begin(enum disk_op op)
{
	struct verdict verdict = {0};

	pthread_mutex_lock(&lock);
	calls[__builtin_ctz(op)]++;
	for (size_t i = 0; i < RULES_MAX; i++) {
		struct disk_rule *rule = &rules[i];

		if ((rule->mask & op) == 0)
			continue;
		if (rule->after > 0) {
			rule->after--;
			continue;
		}
		if (verdict.err == 0)
			verdict.err = -rule->errnum;
		verdict.brief |= rule->brief;
		verdict.dies |= rule->kill || rule->cut;
		verdict.cut |= rule->cut;
		if (rule->times != UINT64_MAX && --rule->times == 0)
			rule->mask = 0;
	}
	if (verdict.dies && !ghost) {
		verdict.written = next_random(&random_state) & 1;
		if (!verdict.written && (op & DISK_WRITE) == 0)
			kill_locked(verdict.cut, next_random(&random_state));
	}
	return verdict;
}

static int
end(struct verdict verdict, int result)
{
	if (verdict.dies && !ghost)
		kill_locked(verdict.cut, next_random(&random_state));
	pthread_mutex_unlock(&lock);
	return result;
}

static struct descriptor *
descriptor_of(int fd)
{
	check(fd >= FIRST_FD && fd - FIRST_FD < fd_count && fds[fd - FIRST_FD].used, "a descriptor that is not open");
	return &fds[fd - FIRST_FD];
}

static int
new_fd(struct file *file, bool writes)
{
	int i = 0;

	while (i < fd_count && fds[i].used)
		i++;
	if (i == fd_count) {
		fds = must(realloc(fds, (size_t)(fd_count + 16) * sizeof *fds));
		memset(fds + fd_count, 0, 16 * sizeof *fds);
		fd_count += 16;
	}
	fds[i] = (struct descriptor){file_ref(file), true, writes};
	return FIRST_FD + i;
}

/* How many of `grow` more bytes there is room for. */
static uint64_t
room_for(uint64_t grow)
{
	if (capacity == UINT64_MAX || used + grow <= capacity)
		return grow;
	return capacity > used ? capacity - used : 0;
}

static int
open_locked(const char *path, int flags, int mode)
{
	struct file *file = find(&disk, path);
	bool writes = (flags & O_ACCMODE) != O_RDONLY;

	if (file != NULL && (flags & O_CREAT) && (flags & O_EXCL))
		return -EEXIST;
	if (file == NULL) {
		if (!(flags & O_CREAT) || !has_dir(&disk, path))
			return -ENOENT;
		file = file_new(false, mode);
		set_name(&disk, path, file);
		add_change(&disk, NAME_MADE, path, NULL, NULL);
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
	verdict = begin(DISK_OPEN);
	fd = verdict.err < 0 ? verdict.err : open_locked(clean, flags, mode);
	free(clean);
	return end(verdict, fd);
}

static int
disk_close(int fd)
{
	struct verdict verdict;
	struct descriptor *descriptor;

	if (fd < FIRST_FD)
		return tr_file_real.close(fd);
	verdict = begin(DISK_CLOSE);
	descriptor = descriptor_of(fd);
	if (descriptor->file != NULL && descriptor->file->lock_fd == fd)
		descriptor->file->lock_fd = -1;
	file_unref(descriptor->file);
	*descriptor = (struct descriptor){0};
	return end(verdict, verdict.err);
}

static ssize_t
disk_pread(int fd, void *data, size_t len, off_t at)
{
	struct verdict verdict;
	const struct file *file;

	if (fd < FIRST_FD)
		return tr_file_real.pread(fd, data, len, at);
	verdict = begin(DISK_READ);
	file = descriptor_of(fd)->file;
	if (verdict.err < 0 || file == NULL)
		return end(verdict, verdict.err < 0 ? verdict.err : -EIO);
	if (file->is_dir)
		return end(verdict, -EISDIR);
	if (verdict.brief && len > 1)
		len = 1 + len / 3;
	if ((size_t)at >= file->len)
		len = 0;
	else if (len > file->len - (size_t)at)
		len = file->len - (size_t)at;
	if (len > 0)
		memcpy(data, file->now + at, len);
	end(verdict, 0);
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
	verdict = begin(DISK_WRITE);
	descriptor = descriptor_of(fd);
	if (verdict.err < 0 || descriptor->file == NULL)
		return end(verdict, verdict.err < 0 ? verdict.err : -EIO);
	if (!descriptor->writes)
		return end(verdict, -EBADF);
	for (int i = 0; i < count; i++)
		len += iov[i].iov_len;
	if (verdict.brief && len > 1)
		len = 1 + len / 3;
	if ((size_t)at + len > descriptor->file->len) {
		size_t grow = (size_t)at + len - descriptor->file->len, given = (size_t)room_for(grow);

		if (grow > given && grow - given >= len)
			return end(verdict, -ENOSPC);
		len -= grow - given;
	}
	if (verdict.dies && !verdict.written && !ghost && len > 0) { /* some of it, then the end */
		write_locked(descriptor->file, iov, count, (size_t)at, (size_t)(next_random(&random_state) % len));
		kill_locked(verdict.cut, next_random(&random_state));
	}
	write_locked(descriptor->file, iov, count, (size_t)at, len);
	end(verdict, 0);
	return (ssize_t)len;
}

static int
disk_fdatasync(int fd)
{
	struct verdict verdict;
	struct file *file;

	if (fd < FIRST_FD)
		return tr_file_real.fdatasync(fd);
	verdict = begin(DISK_SYNC);
	file = descriptor_of(fd)->file;
	if (file == NULL)
		return end(verdict, -EIO);
	if (verdict.err < 0)
		file_sync_failed(file);
	else
		file_synced(file);
	return end(verdict, verdict.err);
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
	verdict = begin(DISK_TRUNCATE);
	return end(verdict, resize_locked(fd, verdict, len, false));
}

static int
disk_allocate(int fd, off_t len)
{
	struct verdict verdict;

	if (fd < FIRST_FD)
		return tr_file_real.allocate(fd, len);
	verdict = begin(DISK_ALLOCATE);
	return end(verdict, resize_locked(fd, verdict, len, true));
}

/* Its bytes do not count any more, though it may be open. */
static void
lose_name(struct file *file)
{
	used -= file->len;
	file->gone = true;
}

static int
rename_locked(const char *from, const char *to)
{
	struct file *file = find(&disk, from), *before = find(&disk, to);

	if (file == NULL || !has_dir(&disk, to))
		return -ENOENT;
	if (file == before)
		return 0;
	if (before != NULL && (before->is_dir || file->is_dir))
		return before->is_dir ? -EISDIR : -ENOTDIR;
	if (before != NULL)
		lose_name(before);
	add_change(&disk, NAME_MOVED, to, from, file_ref(before));
	move_names(&disk, from, to);
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
		verdict = begin(DISK_RENAME);
		err = end(verdict, verdict.err < 0 ? verdict.err : rename_locked(clean_from, clean_to));
	}
	free(clean_from);
	free(clean_to);
	return err;
}

static int
unlink_locked(const char *path)
{
	struct file *file = find(&disk, path);

	if (file == NULL)
		return -ENOENT;
	if (file->is_dir)
		return -EISDIR;
	lose_name(file);
	add_change(&disk, NAME_GONE, path, NULL, file_ref(file));
	set_name(&disk, path, NULL);
	return 0;
}

static int
mkdir_locked(const char *path, int mode)
{
	if (find(&disk, path) != NULL)
		return -EEXIST;
	if (!has_dir(&disk, path))
		return -ENOENT;
	set_name(&disk, path, file_new(true, mode));
	add_change(&disk, NAME_MADE, path, NULL, NULL);
	return 0;
}

static int
sync_dir_locked(const char *path)
{
	struct file *file = find(&disk, path);
	size_t kept = 0;

	if (file == NULL)
		return -ENOENT;
	if (!file->is_dir)
		return -ENOTDIR;
	for (size_t i = 0; i < disk.change_count; i++) {
		if (strcmp(disk.changes[i].dir, path) == 0)
			forget_change(&disk.changes[i]);
		else
			disk.changes[kept++] = disk.changes[i];
	}
	disk.change_count = kept;
	return 0;
}

static int
stat_locked(const char *path, struct stat *out)
{
	const struct file *file = find(&disk, path);

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
	struct file *file = find(&disk, path);

	if (file == NULL)
		return -ENOENT;
	file->mode = mode;
	return 0;
}

/* An operation on one path. */
#define ON_PATH(op, real, locked)                                     \
	char *clean = clean_path(path);                               \
	struct verdict verdict;                                       \
	int err;                                                      \
                                                                      \
	if (clean == NULL)                                            \
		return real;                                          \
	verdict = begin(op);                                          \
	err = end(verdict, verdict.err < 0 ? verdict.err : (locked)); \
	free(clean);                                                  \
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
	uint64_t total = capacity == UINT64_MAX ? UNBOUND_BYTES : capacity;

	*out = (struct tr_file_space){.free_bytes = total > used ? total - used : 0,
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
	const struct file *file = find(&disk, dir);
	size_t len = strlen(dir), room = 1, at = 0;
	char *all;

	if (file == NULL || !file->is_dir)
		return NULL;
	for (size_t i = 0; i < disk.name_count; i++)
		room += strlen(disk.names[i].path) + 1;
	all = must(malloc(room));
	for (size_t i = 0; i < disk.name_count; i++) {
		const char *path = disk.names[i].path;

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
	verdict = begin(DISK_LIST);
	err = verdict.err;
	if (err == 0 && (all = names_in(clean)) == NULL)
		err = -ENOENT;
	end(verdict, 0); /* `each` may do file operations */
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
	verdict = begin(DISK_LOCK);
	file = descriptor_of(fd)->file;
	if (verdict.err < 0 || file == NULL)
		return end(verdict, verdict.err < 0 ? verdict.err : -EIO);
	if (file->lock_fd >= 0 && file->lock_fd != fd)
		return end(verdict, -EWOULDBLOCK);
	file->lock_fd = fd;
	return end(verdict, 0);
}

static const struct tr_file_ops table = {
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

/* --- for the test ------------------------------------------------------------------------------------------ */

static void
reset_locked(uint64_t seed)
{
	fds_die();
	world_free(&disk);
	world_free(&image);
	ghost = false;
	memset(rules, 0, sizeof rules);
	memset(calls, 0, sizeof calls);
	capacity = UINT64_MAX;
	used = 0;
	next_number = 1;
	random_state = seed;
	set_name(&disk, "/sim", file_new(true, 0755));
}

void
disk_reset(uint64_t seed)
{
	pthread_mutex_lock(&lock);
	reset_locked(seed);
	pthread_mutex_unlock(&lock);
}

void
tr_sim_disk_install(void)
{
	disk_reset(1);
	tr_file = &table;
}

void
tr_sim_disk_uninstall(void)
{
	pthread_mutex_lock(&lock);
	reset_locked(0);
	world_free(&disk);
	for (int i = 0; i < fd_count; i++)
		check(!fds[i].used, "uninstalled with open files");
	free(fds);
	fds = NULL;
	fd_count = 0;
	tr_file = &tr_file_real;
	pthread_mutex_unlock(&lock);
}

void
disk_fail(const struct disk_rule *rule)
{
	size_t i = 0;

	pthread_mutex_lock(&lock);
	while (i < RULES_MAX && rules[i].mask != 0)
		i++;
	check(i < RULES_MAX && rule->mask != 0 && rule->times > 0 && rule->errnum >= 0, "no room, or a bad rule");
	rules[i] = *rule;
	pthread_mutex_unlock(&lock);
}

void
disk_fail_nth(unsigned mask, uint64_t nth, int errnum, bool for_ever)
{
	struct disk_rule rule = {.mask = mask, .after = nth - 1, .times = for_ever ? UINT64_MAX : 1, .errnum = errnum};

	disk_fail(&rule);
}

void
disk_heal(void)
{
	pthread_mutex_lock(&lock);
	memset(rules, 0, sizeof rules);
	pthread_mutex_unlock(&lock);
}

void
disk_capacity(uint64_t bytes)
{
	pthread_mutex_lock(&lock);
	capacity = bytes;
	pthread_mutex_unlock(&lock);
}

uint64_t
disk_used(void)
{
	uint64_t bytes;

	pthread_mutex_lock(&lock);
	bytes = used;
	pthread_mutex_unlock(&lock);
	return bytes;
}

void
disk_kill(void)
{
	pthread_mutex_lock(&lock);
	kill_locked(false, 0);
	pthread_mutex_unlock(&lock);
}

void
disk_cut(uint64_t seed)
{
	pthread_mutex_lock(&lock);
	kill_locked(true, seed);
	pthread_mutex_unlock(&lock);
}

bool
disk_is_ghost(void)
{
	bool is;

	pthread_mutex_lock(&lock);
	is = ghost;
	pthread_mutex_unlock(&lock);
	return is;
}

void
disk_revive(void)
{
	pthread_mutex_lock(&lock);
	if (ghost) {
		fds_die();
		world_free(&disk);
		disk = image;
		image = (struct world){0};
		ghost = false;
		used = bytes_of(&disk);
		memset(rules, 0, sizeof rules);
	}
	pthread_mutex_unlock(&lock);
}

uint64_t
disk_calls(unsigned mask)
{
	uint64_t sum = 0;

	pthread_mutex_lock(&lock);
	for (int op = 0; op < DISK_OPS; op++)
		sum += mask >> op & 1 ? calls[op] : 0;
	pthread_mutex_unlock(&lock);
	return sum;
}

void
disk_calls_clear(void)
{
	pthread_mutex_lock(&lock);
	memset(calls, 0, sizeof calls);
	pthread_mutex_unlock(&lock);
}

static uint64_t
mix(uint64_t hash, const void *data, size_t len)
{
	const char *at = data;

	for (; len >= 8; at += 8, len -= 8) {
		uint64_t word;

		memcpy(&word, at, 8);
		hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
		hash ^= hash >> 29;
	}
	for (; len > 0; at++, len--)
		hash = (hash ^ (uint8_t)*at) * UINT64_C(0x100000001b3);
	return hash ^ hash >> 32;
}

uint64_t
disk_digest(void)
{
	uint64_t hash = 1;

	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < disk.name_count; i++) {
		const struct name *name = &disk.names[i];
		uint64_t len = name->file->len;

		hash = mix(hash, name->path, strlen(name->path) + 1);
		hash = mix(hash, &len, sizeof len);
		hash = mix(hash, name->file->now, name->file->len);
	}
	pthread_mutex_unlock(&lock);
	return hash;
}

size_t
disk_open_files(void)
{
	size_t count = 0;

	pthread_mutex_lock(&lock);
	for (int i = 0; i < fd_count; i++)
		count += fds[i].used;
	pthread_mutex_unlock(&lock);
	return count;
}
