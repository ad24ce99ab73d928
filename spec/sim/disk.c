/* What fails, dies and stays of the disk in memory: for the test. */
#include "disk.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "disk_store.h"

#define RULES_MAX 16

const char *const disk_op_names[DISK_OPS] = {"open", "close", "read", "write", "sync", "truncate", "allocate", "rename",
	"unlink", "mkdir", "sync_dir", "stat", "list", "space", "lock", "chmod"};

struct world disk_world;
uint64_t disk_bytes, disk_bound = UINT64_MAX, disk_random, disk_next_number = 1;
struct descriptor *disk_fds;
int disk_fd_count;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards those and all below */
static struct world image;
static bool ghost; /* there is an image */
static int64_t died_at_ns;
static bool died_by_cut;
static struct disk_rule rules[RULES_MAX];
static uint64_t calls[DISK_OPS], faults;

bool
disk_dead(void)
{
	return ghost;
}

void
disk_die(bool cut, uint64_t seed)
{
	uint64_t random = seed;

	if (ghost)
		return; /* dead already */
	world_copy(&disk_world, &image);
	ghost = true;
	died_at_ns = tr_mono_ns();
	died_by_cut = cut;
	if (!cut)
		return;
	cut_names(&image, &random);
	for (size_t i = 0; i < image.name_count; i++)
		file_cut(image.names[i].file, &random);
}

static void
fds_die(void)
{
	for (int i = 0; i < disk_fd_count; i++) {
		file_unref(disk_fds[i].file);
		disk_fds[i].file = NULL;
	}
}

/* --- an operation ------------------------------------------------------------------------------------------ */

struct verdict
disk_begin(enum disk_op op)
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
		faults++;
		if (rule->times != UINT64_MAX && --rule->times == 0)
			rule->mask = 0;
	}
	if (verdict.dies && !ghost) {
		verdict.written = next_random(&disk_random) & 1;
		if (!verdict.written && (op & DISK_WRITE) == 0)
			disk_die(verdict.cut, next_random(&disk_random));
	}
	return verdict;
}

int
disk_end(struct verdict verdict, int result)
{
	if (verdict.dies && !ghost)
		disk_die(verdict.cut, next_random(&disk_random));
	pthread_mutex_unlock(&lock);
	return result;
}

/* --- for the test ------------------------------------------------------------------------------------------ */

static void
reset_locked(uint64_t seed)
{
	fds_die();
	world_free(&disk_world);
	world_free(&image);
	ghost = false;
	memset(rules, 0, sizeof rules);
	memset(calls, 0, sizeof calls);
	faults = 0;
	disk_bound = UINT64_MAX;
	disk_bytes = 0;
	disk_next_number = 1;
	disk_random = seed;
	set_name(&disk_world, "/sim", file_new(true, 0755));
}

void
disk_reset(uint64_t seed)
{
	pthread_mutex_lock(&lock);
	reset_locked(seed);
	pthread_mutex_unlock(&lock);
}

void
disk_install(uint64_t seed)
{
	disk_reset(seed);
	tr_file = &disk_table;
}

void
disk_uninstall(void)
{
	pthread_mutex_lock(&lock);
	reset_locked(0);
	world_free(&disk_world);
	for (int i = 0; i < disk_fd_count; i++)
		check(!disk_fds[i].used, "uninstalled with open files");
	free(disk_fds);
	disk_fds = NULL;
	disk_fd_count = 0;
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
	disk_bound = bytes;
	pthread_mutex_unlock(&lock);
}

uint64_t
disk_used(void)
{
	uint64_t bytes;

	pthread_mutex_lock(&lock);
	bytes = disk_bytes;
	pthread_mutex_unlock(&lock);
	return bytes;
}

void
disk_kill(void)
{
	pthread_mutex_lock(&lock);
	disk_die(false, 0);
	pthread_mutex_unlock(&lock);
}

void
disk_cut(uint64_t seed)
{
	pthread_mutex_lock(&lock);
	disk_die(true, seed);
	pthread_mutex_unlock(&lock);
}

void
disk_write_back(void)
{
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < disk_world.name_count; i++)
		file_synced(disk_world.names[i].file);
	for (size_t i = 0; i < disk_world.change_count; i++)
		forget_change(&disk_world.changes[i]);
	disk_world.change_count = 0;
	pthread_mutex_unlock(&lock);
}

uint64_t
disk_lost(const char *name)
{
	uint64_t count = 0;

	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < disk_world.name_count; i++) {
		const struct file *file = disk_world.names[i].file;

		if (strncmp(strrchr(disk_world.names[i].path, '/') + 1, name, strlen(name)) != 0)
			continue;
		for (size_t k = file->dirty_from; k < file->dirty_to; k++)
			count += file->sectors[k] == LOST;
	}
	pthread_mutex_unlock(&lock);
	return count;
}

void
disk_forgive(void)
{
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < disk_world.name_count; i++) {
		struct file *file = disk_world.names[i].file;

		for (size_t k = file->dirty_from; k < file->dirty_to; k++)
			file->sectors[k] = file->sectors[k] == LOST ? DIRTY : file->sectors[k];
	}
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

bool
disk_death(int64_t *at_ns, bool *cut)
{
	bool is;

	pthread_mutex_lock(&lock);
	is = ghost;
	*at_ns = died_at_ns;
	*cut = died_by_cut;
	pthread_mutex_unlock(&lock);
	return is;
}

void
disk_revive(void)
{
	pthread_mutex_lock(&lock);
	if (ghost) {
		fds_die();
		world_free(&disk_world);
		disk_world = image;
		image = (struct world){0};
		ghost = false;
		disk_bytes = bytes_of(&disk_world);
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

uint64_t
disk_faults(void)
{
	uint64_t count;

	pthread_mutex_lock(&lock);
	count = faults;
	pthread_mutex_unlock(&lock);
	return count;
}

void
disk_calls_clear(void)
{
	pthread_mutex_lock(&lock);
	memset(calls, 0, sizeof calls);
	faults = 0;
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
	for (size_t i = 0; i < disk_world.name_count; i++) {
		const struct name *name = &disk_world.names[i];
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
	for (int i = 0; i < disk_fd_count; i++)
		count += disk_fds[i].used;
	pthread_mutex_unlock(&lock);
	return count;
}
