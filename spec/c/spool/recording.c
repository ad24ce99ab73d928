/* Included by spool_campaign_test.c, see recording.h. */
#include "recording.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define HEADER 4096
#define FRAME 32
#define ACCOUNTS 4

static const char *const account_names[ACCOUNTS] = {"mail", "webhook", "audit", "dead:webhook"}; /* by number */

#define NEED(condition)                                                                 \
	do {                                                                            \
		if (!(condition)) {                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
			abort();                                                        \
		}                                                                       \
	} while (0)

uint64_t
rec_random(struct random *random, uint64_t below)
{
	uint64_t z = random->state += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (z ^ (z >> 31)) % below;
}

/* --- files ------------------------------------------------------------------------------------------------------- */

struct rec_file *
rec_dir_find(const struct rec_dir *dir, bool data, const char *name)
{
	for (uint32_t i = 0; i < dir->count; i++)
		if (dir->files[i].data == data && strcmp(dir->files[i].name, name) == 0)
			return (struct rec_file *)&dir->files[i];
	return NULL;
}

struct rec_file *
rec_dir_add(struct rec_dir *dir, bool data, const char *name, const void *bytes, size_t len)
{
	struct rec_file *file = rec_dir_find(dir, data, name);
	unsigned char *copy = malloc(len + 1);

	NEED(copy != NULL);
	if (file == NULL) {
		NEED(dir->count < TR_COUNT(dir->files));
		file = &dir->files[dir->count++];
	} else {
		free(file->bytes);
	}
	if (len > 0)
		memcpy(copy, bytes, len);
	*file = (struct rec_file){.data = data, .bytes = copy, .len = len};
	snprintf(file->name, sizeof file->name, "%s", name);
	return file;
}

void
rec_dir_remove(struct rec_dir *dir, struct rec_file *file)
{
	free(file->bytes);
	*file = dir->files[--dir->count];
}

void
rec_dir_copy(struct rec_dir *to, const struct rec_dir *from)
{
	to->count = 0;
	for (uint32_t i = 0; i < from->count; i++)
		rec_dir_add(to, from->files[i].data, from->files[i].name, from->files[i].bytes, from->files[i].len);
}

void
rec_dir_fini(struct rec_dir *dir)
{
	while (dir->count > 0)
		free(dir->files[--dir->count].bytes);
}

static void
load_part(struct rec_dir *dir, const char *path, bool data)
{
	char name[400];
	struct dirent *entry;
	DIR *list;

	snprintf(name, sizeof name, "%s/%s", path, data ? "data" : "meta");
	list = opendir(name);
	NEED(list != NULL);
	while ((entry = readdir(list)) != NULL) {
		struct stat st;
		unsigned char *bytes;
		int fd;

		snprintf(name, sizeof name, "%.200s/%s/%.60s", path, data ? "data" : "meta", entry->d_name);
		if (stat(name, &st) != 0 || !S_ISREG(st.st_mode) || strcmp(entry->d_name, "lock") == 0)
			continue;
		bytes = malloc((size_t)st.st_size + 1);
		fd = open(name, O_RDONLY | O_CLOEXEC);
		NEED(bytes != NULL && fd >= 0 && read(fd, bytes, (size_t)st.st_size) == st.st_size);
		close(fd);
		rec_dir_add(dir, data, entry->d_name, bytes, (size_t)st.st_size);
		free(bytes);
	}
	closedir(list);
}

void
rec_dir_load(struct rec_dir *dir, const char *path)
{
	dir->count = 0;
	load_part(dir, path, false);
	load_part(dir, path, true);
}

void
rec_dir_save(const struct rec_dir *dir, const char *path)
{
	char name[400];

	for (int i = 0; i < 3; i++) {
		snprintf(name, sizeof name, "%s%s", path, i == 0 ? "" : i == 1 ? "/meta" : "/data");
		mkdir(name, 0700);
	}
	for (uint32_t i = 0; i < dir->count; i++) {
		const struct rec_file *file = &dir->files[i];
		int fd;

		snprintf(name, sizeof name, "%.200s/%s/%s", path, file->data ? "data" : "meta", file->name);
		if (file->dir) {
			NEED(mkdir(name, 0700) == 0);
			continue;
		}
		fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		NEED(fd >= 0 && write(fd, file->bytes, file->len) == (ssize_t)file->len);
		close(fd);
	}
}

/* --- reading --------------------------------------------------------------------------------------------------------
 */

static uint32_t
u32(const unsigned char *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof value);
	return value;
}

static uint64_t
u64(const unsigned char *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof value);
	return value;
}

/* Notes the frames of whole groups of one segment of the undamaged spool, up to `limit` (in the file). */
static void
read_frames(struct recording *rec, struct rec_segment *segment, uint64_t limit)
{
	const unsigned char *bytes = segment->file->bytes;
	uint64_t at = HEADER;
	uint32_t group = 0, whole;

	segment->first = whole = rec->frame_count;
	while (at + FRAME <= limit) {
		const unsigned char *frame = bytes + at;
		uint32_t length = u32(frame + 4);

		if (u32(frame + 8) != segment->generation || u32(frame + 24) != segment->salt ||
			at + FRAME + length > limit)
			break;
		if (tr_crc32c(0, frame, 28) != u32(frame + 28) ||
			tr_crc32c(0, frame + FRAME, length) != u32(frame + 12))
			break;
		if (rec->frame_count == rec->frame_cap) {
			rec->frame_cap = rec->frame_cap * 2 + 1024;
			rec->frames = realloc(rec->frames, rec->frame_cap * sizeof *rec->frames);
			NEED(rec->frames != NULL);
		}
		rec->frames[rec->frame_count++] = (struct rec_frame){.segment = (uint32_t)(segment - rec->segments),
			.group = group,
			.type = frame[0],
			.seq = u64(frame + 16),
			.at = at,
			.len = FRAME + length,
			.payload = frame + FRAME,
			.payload_len = length};
		at += (FRAME + length + 7) / 8 * 8 + frame[2] * 8u;
		if (frame[0] == 7) {
			group++;
			whole = rec->frame_count;
		}
	}
	rec->frame_count = whole;
	segment->frames = whole - segment->first;
}

static int
by_number(const void *a, const void *b)
{
	const struct rec_segment *x = a, *y = b;

	return x->number < y->number ? -1 : x->number > y->number;
}

static void
read_segments(struct recording *rec)
{
	for (uint32_t i = 0; i < rec->dir.count; i++) {
		const struct rec_file *file = &rec->dir.files[i];
		const unsigned char *head = file->bytes;

		if (file->data || strncmp(file->name, "log-", 4) != 0 || file->len < HEADER ||
			memcmp(head, "TAILLOG", 8) != 0)
			continue;
		NEED(rec->segment_count < TR_COUNT(rec->segments));
		rec->segments[rec->segment_count++] = (struct rec_segment){.number = u64(head + 16),
			.bytes = u64(head + 24),
			.prev = u64(head + 32),
			.prev_end = u64(head + 40),
			.oldest = u64(head + 48),
			.generation = u32(head + 64),
			.salt = u32(head + 68),
			.file = file};
	}
	qsort(rec->segments, rec->segment_count, sizeof rec->segments[0], by_number);
	for (uint32_t i = 0; i < rec->segment_count; i++) {
		struct rec_segment *segment = &rec->segments[i];
		uint64_t limit = segment->file->len;

		if (i + 1 < rec->segment_count && rec->segments[i + 1].prev == segment->number)
			limit = HEADER + rec->segments[i + 1].prev_end;
		read_frames(rec, segment, limit);
	}
}

/* What lies behind a file's end reads as zeros. */
static bool
same(const struct rec_file *was, const struct rec_file *is, uint64_t at, uint64_t len)
{
	for (uint64_t i = at; i < at + len; i++)
		if ((i < is->len ? is->bytes[i] : 0) != (i < was->len ? was->bytes[i] : 0))
			return false;
	return true;
}

/* A segment as the damaged directory has it. */
struct found {
	const struct rec_segment *segment;
	const struct rec_file *file;
	bool header, any_header; /* of the file; of another copy at least */
	bool chosen;
	uint64_t limit; /* in the file; 0: not known */
};

static bool
is_named(const struct rec_file *file, uint64_t number)
{
	char name[40];

	snprintf(name, sizeof name, "log-%016llx.seg", (unsigned long long)number);
	return strcmp(file->name, name) == 0;
}

/* The file that carries a segment: by its header, or by its name and its ledger or the end of a group. Of several the
 * one of its name. */
static void
find_file(const struct recording *rec, const struct rec_dir *dir, struct found *found)
{
	const struct rec_segment *segment = found->segment;

	for (uint32_t i = 0; i < dir->count; i++) {
		const struct rec_file *file = &dir->files[i];
		size_t len = strlen(file->name);

		if (file->data || file->dir || len < 5 || strcmp(file->name + len - 4, ".seg") != 0 || file->len < 128)
			continue;
		if (!same(segment->file, file, 0, 128))
			continue;
		if (found->file == NULL || is_named(file, segment->number) ||
			(!is_named(found->file, segment->number) && strcmp(file->name, found->file->name) < 0))
			found->file = file;
		found->header = found->any_header = true;
	}
	if (found->file != NULL && is_named(found->file, segment->number))
		return;
	for (uint32_t i = 0; i < dir->count; i++) {
		const struct rec_file *file = &dir->files[i];
		bool told = segment->frames > 0 && same(segment->file, file, HEADER, FRAME + 8);

		for (uint32_t k = 0; k < segment->frames && !told; k++) {
			const struct rec_frame *frame = &rec->frames[segment->first + k];

			told = frame->type == 7 && same(segment->file, file, frame->at, frame->len);
		}
		if (!file->data && !file->dir && is_named(file, segment->number) && told) {
			found->file = file;
			found->header = false;
		}
	}
}

/* The messages are kept by seq. */
static struct rec_message *
message_of(struct rec_reading *out, uint64_t seq)
{
	NEED(seq < 1 << 20);
	if (seq >= out->cap) {
		uint32_t cap = (uint32_t)seq * 2 + 256;

		out->messages = realloc(out->messages, cap * sizeof *out->messages);
		NEED(out->messages != NULL);
		memset(out->messages + out->cap, 0, (cap - out->cap) * sizeof *out->messages);
		out->cap = cap;
	}
	if (seq >= out->count)
		out->count = (uint32_t)seq + 1;
	out->messages[seq].seq = seq;
	return &out->messages[seq];
}

/* Which accounts a ledger, or a frame of an account, names: a name stands behind its length. */
static void
note_names(struct rec_reading *out, const struct rec_frame *frame)
{
	for (uint32_t i = 0; i < ACCOUNTS; i++) {
		char name[66];
		int len = snprintf(name, sizeof name, "%c%s", (char)strlen(account_names[i]), account_names[i]);

		out->named[i] = out->named[i] || memmem(frame->payload, frame->payload_len, name, (size_t)len) != NULL;
	}
}

static void
apply_frame(struct rec_reading *out, const struct rec_frame *frame, uint64_t number)
{
	const unsigned char *at = frame->payload;
	struct rec_message *message;

	if (frame->type == 5 || frame->type == 6)
		note_names(out, frame);
	if (frame->type > 3)
		return;
	message = message_of(out, frame->seq);
	if (frame->type == 1) {
		uint32_t queue_len = u32(at + 28);

		message->live = true;
		message->segment = number;
		memcpy(&message->due_ms, at + 8, 8);
		memcpy(&message->attempts, at + 16, 2);
		memcpy(&message->flags, at + 18, 2);
		memcpy(&message->account, at + 20, 2);
		memcpy(&message->units, at + 32, 8);
		memcpy(&message->body_file, at + 40, 8);
		memcpy(&message->body_len, at + 48, 8);
		snprintf(message->queue, sizeof message->queue, "%.*s", (int)queue_len, (const char *)at + 56);
	} else if (frame->type == 2) {
		if (message->live) {
			memcpy(&message->due_ms, at, 8);
			memcpy(&message->attempts, at + 8, 2);
			memcpy(&message->flags, at + 10, 2);
		}
	} else {
		message->live = false;
	}
}

/* One segment: which of its frames count, and what they do. */
static void
read_found(const struct recording *rec, const struct found *found, struct rec_reading *out, uint64_t *oldest)
{
	const struct rec_segment *segment = found->segment;
	const struct rec_frame *frames = &rec->frames[segment->first];
	uint32_t proven = 0; /* frames that are known to be committed */

	for (uint32_t i = 0, start = 0; i < segment->frames; i++) {
		bool whole = true;

		if (frames[i].type != 7)
			continue;
		for (uint32_t k = start; k <= i; k++)
			whole = whole && same(segment->file, found->file, frames[k].at, frames[k].len);
		if (whole) {
			proven = i + 1;
			if (u64(frames[i].payload + 16) > *oldest)
				*oldest = u64(frames[i].payload + 16);
		}
		start = i + 1;
	}
	if (found->limit != 0)
		proven = segment->frames;
	for (uint32_t i = 0; i < proven; i++) {
		if (!same(segment->file, found->file, frames[i].at, frames[i].len)) {
			out->damaged++;
			out->ledger_sound = out->ledger_sound && frames[i].type == 7;
			continue;
		}
		if (frames[i].type == 5)
			out->ledger_sound = true;
		apply_frame(out, &frames[i], segment->number);
	}
	if (proven < segment->frames) {
		out->silent = true;
		out->ledger_sound = false;
	}
}

static void
check_bodies(const struct recording *rec, const struct rec_dir *dir, struct rec_reading *out)
{
	for (uint32_t i = 0; i < out->count; i++) {
		struct rec_message *message = &out->messages[i];
		const struct rec_file *was, *is;
		char name[40];

		if (!message->live || message->body_file == 0)
			continue;
		snprintf(name, sizeof name, "body-%016llx.bin", (unsigned long long)message->body_file);
		was = rec_dir_find(&rec->dir, true, name);
		is = rec_dir_find(dir, true, name);
		message->body_lost = was == NULL || was->len != message->body_len + 16 || is == NULL || is->dir ||
				     is->len < message->body_len ||
				     (is->len != message->body_len && is->len < was->len) ||
				     memcmp(was->bytes, is->bytes, is->len < was->len ? is->len : was->len) != 0;
		out->damaged += message->body_lost;
	}
}

void
rec_read(const struct recording *rec, const struct rec_dir *dir, struct rec_reading *out)
{
	struct found found[TR_COUNT(rec->segments)] = {0};
	uint64_t oldest = 0, told;
	const struct found *after = NULL;
	uint32_t count = rec->segment_count;

	*out = (struct rec_reading){.ledger_sound = true};
	for (uint32_t i = 0; i < count; i++) {
		found[i].segment = &rec->segments[i];
		find_file(rec, dir, &found[i]);
		if (found[i].any_header && found[i].segment->oldest > oldest)
			oldest = found[i].segment->oldest;
	}
	for (uint32_t i = count; i-- > 0;) { /* from the newest back along `prev` */
		if (found[i].file == NULL || found[i].segment->number < oldest ||
			(after != NULL && after->header && found[i].segment->number > after->segment->prev))
			continue;
		found[i].chosen = true;
		if (after != NULL && after->header && after->segment->prev == found[i].segment->number)
			found[i].limit = HEADER + after->segment->prev_end;
		after = &found[i];
	}
	told = oldest;
	for (uint32_t i = 0; i < count; i++)
		if (found[i].chosen)
			read_found(rec, &found[i], out, &told);
		else
			out->ledger_sound = false;  /* until the next ledger */
	for (uint32_t i = 0; i < out->count; i++) { /* given up before */
		if (out->messages[i].live && out->messages[i].segment < told)
			out->messages[i].live = false;
	}
	for (uint32_t i = 0; i < count; i++) {
		if (found[i].chosen && !found[i].header)
			out->damaged++;
		if (!found[i].chosen && found[i].segment->number >= told && i + 1 < count) {
			bool later = false;

			for (uint32_t k = i + 1; k < count; k++)
				later = later || found[k].chosen;
			out->damaged += later;
			out->silent = out->silent || !later;
		}
		if (!found[i].chosen && i + 1 == count)
			out->silent = true;
	}
	check_bodies(rec, dir, out);
	for (uint32_t i = 0; i < out->count; i++)
		if (out->messages[i].live)
			out->waiting[out->messages[i].account % TR_COUNT(out->waiting)] += out->messages[i].units;
}

void
rec_reading_fini(struct rec_reading *reading)
{
	free(reading->messages);
	*reading = (struct rec_reading){0};
}

void
rec_fini(struct recording *rec)
{
	rec_dir_fini(&rec->dir);
	rec_dir_fini(&rec->older);
	free(rec->frames);
	free(rec);
}
