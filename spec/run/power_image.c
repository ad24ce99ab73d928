/* power_image RECORD OUT COUNT SEED: of a recording of power_shim.c, COUNT directories OUT/1 ... as a power cut at a
 * random point would have left them: all that was synced, and of the rest a random part, by sectors of 512 bytes; names
 * whose directory was not synced are there up to a random one. OUT/N/sent-FD has what was sent on a descriptor before.
 * Prints a line for each: number, point, records. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "power.h"

#define SECTOR 512
#define FILES 65536

struct op {
	struct power_record record;
	const char *data;
};

static struct op *ops;
static size_t op_count, op_cap;
static uint64_t random_state;

static void
need(bool holds, const char *what)
{
	if (holds)
		return;
	perror(what);
	exit(1);
}

static uint64_t
random_below(uint64_t below)
{
	uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (z ^ (z >> 31)) % below;
}

static void
read_record(const char *path)
{
	int fd = open(path, O_RDONLY);
	struct stat st;
	const char *bytes;
	size_t at = 0;

	need(fd >= 0 && fstat(fd, &st) == 0, path);
	bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	need(bytes != MAP_FAILED, path);
	while (at + sizeof(struct power_record) <= (size_t)st.st_size) {
		struct op op;

		memcpy(&op.record, bytes + at, sizeof op.record);
		op.data = bytes + at + sizeof op.record;
		at += sizeof op.record + op.record.len;
		if (at > (size_t)st.st_size)
			break; /* it was killed in the middle of a record */
		if (op_count == op_cap) {
			op_cap = op_cap * 2 + 1024;
			ops = realloc(ops, op_cap * sizeof *ops);
			need(ops != NULL, "memory");
		}
		ops[op_count++] = op;
	}
}

/* --- what is durable at a point ----------------------------------------------------------------------------------- */

static size_t file_upto[FILES]; /* operations on a file before that one are durable */

static size_t
begin_of(uint64_t number, size_t before)
{
	for (size_t i = before; i-- > 0;)
		if ((ops[i].record.kind == POWER_SYNC || ops[i].record.kind == POWER_SYNC_DIR) &&
			ops[i].record.at == number)
			return i;
	exit(1);
}

/* Of the directory of a name: operations on its names before that one are durable. */
static size_t
names_upto(const char *name, size_t len, size_t point)
{
	const char *slash = memrchr(name, '/', len);
	size_t dir_len = slash == NULL ? 0 : (size_t)(slash - name), upto = 0;

	for (size_t i = 0; i < point; i++) {
		size_t begin;

		if (ops[i].record.kind != POWER_SYNCED)
			continue;
		begin = begin_of(ops[i].record.at, i);
		if (ops[begin].record.kind == POWER_SYNC_DIR && ops[begin].record.len == dir_len &&
			memcmp(ops[begin].data, name, dir_len) == 0 && begin > upto)
			upto = begin;
	}
	return upto;
}

static void
find_durable(size_t point)
{
	memset(file_upto, 0, sizeof file_upto);
	for (size_t i = 0; i < point; i++) {
		size_t begin;

		if (ops[i].record.kind != POWER_SYNCED)
			continue;
		begin = begin_of(ops[i].record.at, i);
		if (ops[begin].record.kind == POWER_SYNC && begin > file_upto[ops[begin].record.file])
			file_upto[ops[begin].record.file] = begin;
	}
}

/* --- one image -----------------------------------------------------------------------------------------------------
 */

static char root[4096];

static void
path_of(const char *name, size_t len, char out[8192])
{
	snprintf(out, 8192, "%s/%.*s", root, (int)len, name);
}

static int
content(uint32_t file)
{
	static int fds[FILES];
	static char made[FILES];
	char path[8192];

	if (!made[file]) {
		snprintf(path, sizeof path, "%s/content-%u", root, file);
		fds[file] = open(path, O_RDWR | O_CREAT, 0600);
		need(fds[file] >= 0, path);
		made[file] = 1;
	}
	return fds[file];
}

/* Writes a part of an operation to the file's content. */
static void
apply_part(const struct op *op, uint64_t from, uint64_t len)
{
	int fd = content(op->record.file);
	uint64_t at = op->record.at + from;
	struct stat st;

	if (op->record.kind == POWER_WRITE) {
		need(pwrite(fd, op->data + from, len, (off_t)at) == (ssize_t)len, "pwrite");
		return;
	}
	need(fstat(fd, &st) == 0, "fstat"); /* zeros: only ever behind the end */
	if ((uint64_t)st.st_size < at + len)
		need(ftruncate(fd, (off_t)(at + len)) == 0, "ftruncate");
}

/* keep: of a thousand sectors that were not synced, how many the disk has all the same. */
static void
apply(const struct op *op, bool durable, uint64_t keep)
{
	uint64_t len = op->record.kind == POWER_ZEROS ? op->record.size : op->record.len, done = 0;

	if (op->record.kind == POWER_TRUNCATE) {
		if (durable || random_below(1000) < keep)
			need(ftruncate(content(op->record.file), (off_t)op->record.size) == 0, "ftruncate");
		return;
	}
	if (durable) {
		apply_part(op, 0, len);
		return;
	}
	while (done < len) {
		uint64_t part = SECTOR - (op->record.at + done) % SECTOR;

		if (op->record.kind == POWER_ZEROS)
			part = 65536;
		if (part > len - done)
			part = len - done;
		if (random_below(1000) < keep)
			apply_part(op, done, part);
		done += part;
	}
}

static void
apply_name(const struct op *op)
{
	const char *second = op->record.len == 0 ? op->data : op->data + strnlen(op->data, op->record.len) + 1;
	char from[8192], to[8192];

	path_of(op->data, strnlen(op->data, op->record.len), from);
	switch (op->record.kind) {
	case POWER_CREATE:
		if (op->record.size != 0)
			break; /* it is there */
		content(op->record.file);
		snprintf(to, sizeof to, "%s/content-%u", root, op->record.file);
		unlink(from);
		need(link(to, from) == 0, from);
		break;
	case POWER_RENAME:
		path_of(second, (size_t)(op->data + op->record.len - second), to);
		need(rename(from, to) == 0, from);
		break;
	case POWER_UNLINK:
		need(unlink(from) == 0, from);
		break;
	default:
		need(mkdir(from, 0700) == 0, from);
	}
}

static bool
is_name(uint32_t kind)
{
	return kind == POWER_CREATE || kind == POWER_RENAME || kind == POWER_UNLINK || kind == POWER_MKDIR;
}

static void
apply_names(size_t point, uint64_t keep)
{
	static const char *const part[] = {"meta/", "data/", ""};

	for (int i = 2; i >= 0; i--) { /* the directories first */
		size_t upto = names_upto(part[i], strlen(part[i]), point);
		bool stopped = false;

		for (size_t k = 0; k < point && !stopped; k++) {
			const struct op *op = &ops[k];
			const char *slash = op->record.len == 0 ? NULL : memchr(op->data, '/', op->record.len);

			if (!is_name(op->record.kind) || op->record.len == 0 || (i == 2) != (slash == NULL) ||
				(i < 2 && strncmp(op->data, part[i], strlen(part[i])) != 0))
				continue;
			stopped = k >= upto && i < 2 && random_below(1000) >= keep;
			if (!stopped)
				apply_name(op);
		}
	}
}

/* OUT is a copy of what was there at the start: contents that were there are found by the file's number, too. */
static void
find_contents(size_t point)
{
	for (size_t i = 0; i < point; i++) {
		const struct op *op = &ops[i];
		char from[8192], to[8192];

		if (op->record.kind != POWER_CREATE || op->record.size == 0)
			continue;
		path_of(op->data, op->record.len, from);
		snprintf(to, sizeof to, "%s/content-%u", root, op->record.file);
		need(link(from, to) == 0, from);
	}
}

static void
write_sent(size_t point)
{
	for (size_t i = 0; i < point; i++) {
		char path[8192];
		FILE *file;

		if (ops[i].record.kind != POWER_SEND)
			continue;
		snprintf(path, sizeof path, "%s/sent-%u", root, ops[i].record.file);
		file = fopen(path, "ab");
		need(file != NULL, path);
		fwrite(ops[i].data, 1, ops[i].record.len, file);
		fclose(file);
	}
}

/* A point that is worth it: mostly just after something was said to somebody, or around a sync. */
static size_t
choose_point(void)
{
	size_t point = 1 + random_below(op_count);
	uint64_t dice = random_below(4);

	if (random_below(4) == 0 && point > 300)
		return 1 + random_below(300); /* the start */
	while (dice < 3 && point < op_count) {
		uint32_t kind = ops[point - 1].record.kind;

		if ((dice == 0 && kind == POWER_SEND) || (dice == 1 && kind == POWER_WRITE) ||
			(dice == 2 && kind == POWER_RENAME))
			break;
		point++;
	}
	return point;
}

int
main(int argc, char **argv)
{
	static const uint64_t keeps[] = {0, 1000, 500, 900, 100}; /* of a thousand sectors */
	uint64_t keep;
	size_t point;

	if (argc != 5)
		return 64;
	read_record(argv[1]);
	need(op_count > 0, argv[1]);
	random_state = strtoull(argv[4], NULL, 10) * 1000003 + strtoull(argv[3], NULL, 10);
	point = choose_point();
	keep = keeps[random_below(5)];
	snprintf(root, sizeof root, "%s", argv[2]);
	find_durable(point);
	find_contents(point);
	for (size_t i = 0; i < point; i++)
		if (ops[i].record.kind >= POWER_WRITE && ops[i].record.kind <= POWER_TRUNCATE)
			apply(&ops[i], i < file_upto[ops[i].record.file], keep);
	apply_names(point, keep);
	write_sent(point);
	printf("point %zu of %zu\n", point, op_count);
	return 0;
}
