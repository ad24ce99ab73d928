#include "disk_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void
check(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "disk: %s\n", what);
	abort();
}

void *
must(void *memory)
{
	check(memory != NULL, "out of memory");
	return memory;
}

char *
copy_text(const char *text)
{
	return must(strdup(text));
}

uint64_t
next_random(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

/* --- files ------------------------------------------------------------------------------------------------ */

struct file *
file_new(bool is_dir, int mode)
{
	struct file *file = must(calloc(1, sizeof *file));

	file->number = disk_next_number++;
	file->is_dir = is_dir;
	file->mode = mode;
	file->lock_fd = -1;
	return file;
}

void
file_unref(struct file *file)
{
	if (file == NULL || --file->refs > 0)
		return;
	free(file->now);
	free(file->safe);
	free(file->sectors);
	free(file);
}

struct file *
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
void
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

void
file_resize(struct file *file, size_t len)
{
	if (!file->gone)
		disk_bytes += len - file->len;
	if (len < file->len) {
		memset(file->now + len, 0, file->len - len);
		file_touched(file, len, file->len);
	} else {
		file_room(file, len);
		file_touched(file, file->len, len);
	}
	file->len = len;
}

void
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
void
file_sync_failed(struct file *file)
{
	for (size_t i = file->dirty_from; i < file->dirty_to; i++) {
		if (file->sectors[i] == DIRTY)
			file->sectors[i] = LOST;
	}
}

/* What a power cut leaves of it. */
void
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

struct file *
find(const struct world *world, const char *path)
{
	size_t at = place_of(world, path);

	return at < world->name_count && strcmp(world->names[at].path, path) == 0 ? world->names[at].file : NULL;
}

/* The name takes a reference; what stood there loses one. file = NULL: no such name any more. */
void
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
char *
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

bool
has_dir(const struct world *world, const char *path)
{
	char *dir = dir_of(path);
	struct file *file = find(world, dir);
	bool is = dir[0] == '\0' || (file != NULL && file->is_dir);

	free(dir);
	return is;
}

/* Takes the reference to `before`. */
void
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

void
forget_change(struct change *change)
{
	free(change->dir);
	free(change->path);
	free(change->from);
	file_unref(change->before);
}

/* `from`, and of a directory all below it, gets the name `to`. */
void
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

void
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

void
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
void
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

uint64_t
bytes_of(const struct world *world)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < world->name_count; i++)
		sum += world->names[i].file->len;
	return sum;
}
