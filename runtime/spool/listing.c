/* Which files make the log: by the headers they carry, not by their names alone. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "spool/internal.h"

struct listing {
	struct tr_spool *spool;
	struct segment **found;
	size_t count, cap;
	struct segment **others; /* no part of the log */
	uint64_t *other_bytes;
	size_t other_count, other_cap;
	uint64_t headless;
	char **error;
	int err;
};

/* The number in a log segment's name; 0: it is no such name. */
static uint64_t
named_number(const char *name)
{
	uint64_t number = strncmp(name, "log-", 4) == 0 ? strtoull(name + 4, NULL, 16) : 0;
	char again[40];

	segment_log_name(number, again);
	return strcmp(again, name) == 0 ? number : 0;
}

/* A frame whose generation and salt are not known: its own. */
static bool
frame_at(const char *bytes, uint64_t len, uint64_t at, struct frame_header *header)
{
	if (len - at < FRAME_HEADER)
		return false;
	memcpy(header, bytes + at, sizeof *header);
	return frame_valid(header, header->generation, header->salt, len - at);
}

/* The first frame is the ledger, which carries the segment's number, as does each end of a group. What lies in the
 * payload of a frame is not looked at: a mail may hold anything. */
static bool
tells_number(const char *bytes, uint64_t len, uint64_t number, struct frame_header *header)
{
	struct end_payload end;
	uint64_t at = 0, told;

	if (frame_at(bytes, len, 0, header) && header->type == FRAME_LEDGER && header->length >= sizeof told) {
		memcpy(&told, bytes + FRAME_HEADER, sizeof told);
		if (told == number)
			return true;
	}
	while (at + FRAME_HEADER <= len) {
		if (!frame_at(bytes, len, at, header)) {
			at += 8;
			continue;
		}
		if (header->type == FRAME_END && header->length == sizeof end) {
			memcpy(&end, bytes + at + FRAME_HEADER, sizeof end);
			if (end.number == (uint32_t)number && tr_crc32c(0, &end, sizeof end) == header->payload_crc)
				return true;
		}
		at += frame_bytes(header->length);
	}
	return false;
}

/* The first frame is the ledger of another segment: of this one no group was ever written over it. */
static bool
is_stale(const char *bytes, uint64_t len, uint64_t number)
{
	struct frame_header header;
	uint64_t told;

	if (!frame_at(bytes, len, 0, &header) || header.type != FRAME_LEDGER || header.length < sizeof told)
		return false;
	memcpy(&told, bytes + FRAME_HEADER, sizeof told);
	return told != number && tr_crc32c(0, bytes + FRAME_HEADER, header.length) == header.payload_crc;
}

/* STALE: a recycled file that was about to become this segment when the process ended. */
enum identity { NOTHING, KNOWN, UNKNOWN, STALE, UNREADABLE, NO_MEMORY };

/* What a file without a sound header is. NOTHING: no segment, or one that was never written. */
static enum identity
identify(struct segment *segment, uint64_t file_bytes)
{
	uint64_t number = named_number(segment->name), len = file_bytes > SEG_HEADER ? file_bytes - SEG_HEADER : 0;
	enum identity identity = NOTHING;
	struct frame_header header;
	char *bytes;

	if (number == 0 || len == 0)
		return NOTHING;
	if (len > SEG_LARGEST)
		len = SEG_LARGEST;
	bytes = calloc(1, len);
	if (bytes == NULL)
		return NO_MEMORY;
	if (tr_file_read_all(segment->fd, bytes, len, SEG_HEADER) < 0) {
		identity = UNREADABLE;
	} else if (tells_number(bytes, len, number, &header)) {
		segment->number = number;
		segment->bytes = len;
		segment->generation = header.generation;
		segment->salt = header.salt;
		segment->prev = UINT64_MAX; /* not known */
		segment->oldest = 0;
		identity = KNOWN;
	} else if (is_stale(bytes, len, number)) {
		identity = STALE;
	}
	for (uint64_t i = 0; i < len && identity == NOTHING; i++)
		identity = bytes[i] != 0 ? UNKNOWN : NOTHING;
	free(bytes);
	return identity;
}

/* Kept whole under META/damaged: what of it counts cannot be told, but people may want it. */
static void
set_aside(struct tr_spool *spool, struct segment *segment, const char *why, enum tr_level level)
{
	char to_name[80], *dir = spool_path(spool->meta, "damaged"), *from, *to;
	int err = spool->read_only || dir == NULL ? 0 : tr_file_mkdirs(dir, 0700);
	struct stat st;

	from = spool_path(spool->meta, segment->name);
	snprintf(to_name, sizeof to_name, "damaged/%s", segment->name);
	to = spool_path(spool->meta, to_name);
	for (int i = 1; i < 1000 && to != NULL && tr_file->stat(to, &st) >= 0; i++) { /* kept at an earlier start */
		free(to);
		snprintf(to_name, sizeof to_name, "damaged/%s.%d", segment->name, i);
		to = spool_path(spool->meta, to_name);
	}
	if (from == NULL || to == NULL)
		err = -ENOMEM;
	else if (!spool->read_only && err >= 0)
		err = tr_file->rename(from, to);
	if (spool->read_only)
		tr_log(level, "spool", "%s/%s %s", spool->meta, segment->name, why);
	else
		tr_log(level, "spool", "%s/%s %s; %s%s", spool->meta, segment->name, why,
			err < 0 ? "it cannot be set aside and stays" : "the file is kept as ", err < 0 ? "" : to_name);
	free(dir);
	free(from);
	free(to);
	segment_unref(spool, segment);
}

static void
drop_file(struct tr_spool *spool, struct segment *segment)
{
	char *path = spool->read_only ? NULL : spool_path(spool->meta, segment->name);

	if (path != NULL)
		tr_file->unlink(path);
	free(path);
	segment_unref(spool, segment);
}

/* A later segment must not find its name taken, for one of the two files would be lost: a spare with a log's name,
 * which a crash in the middle of current_begin() leaves, is kept only if that is past. */
void
spare_keep(struct tr_spool *spool, struct segment *segment)
{
	uint64_t named = strncmp(segment->name, "log-", 4) == 0 ? strtoull(segment->name + 4, NULL, 16) : 0;

	if (named >= spool->next_number)
		drop_file(spool, segment);
	else
		spare_give(spool, segment);
}

/* A file that is no part of the log. */
static void
make_spare(struct tr_spool *spool, struct segment *segment, uint64_t file_bytes)
{
	segment->bytes = spool->config.segment_bytes;
	if (spool->read_only || file_bytes != SEG_HEADER + spool->config.segment_bytes)
		drop_file(spool, segment);
	else
		spare_keep(spool, segment);
}

static int
keep_other(struct listing *listing, struct segment *segment, uint64_t file_bytes)
{
	if (listing->other_count == listing->other_cap) {
		size_t cap = listing->other_cap * 2 + 16;
		struct segment **others = realloc(listing->others, cap * sizeof *others);
		uint64_t *bytes = realloc(listing->other_bytes, cap * sizeof *bytes);

		listing->others = others != NULL ? others : listing->others;
		listing->other_bytes = bytes != NULL ? bytes : listing->other_bytes;
		if (others == NULL || bytes == NULL) {
			segment_unref(listing->spool, segment);
			return TR_ENOMEM;
		}
		listing->other_cap = cap;
	}
	listing->others[listing->other_count] = segment;
	listing->other_bytes[listing->other_count++] = file_bytes;
	return TR_OK;
}

/* A segment without a sound header. TR_OK: it is read without; TR_EAGAIN: it was set aside; else the start fails, as a
 * device that does not read, or a want of memory, is no damage. Tools take what they get. */
static int
tell_headless(struct listing *listing, struct segment *segment, enum identity identity)
{
	struct tr_spool *spool = listing->spool;

	if (identity == NO_MEMORY || (identity == UNREADABLE && !spool->read_only))
		return identity == NO_MEMORY ? TR_ENOMEM : TR_EIO;
	if (identity == STALE) { /* if more is missing than its beginning, the chain of the others tells */
		set_aside(spool, segment, "was never begun: it has what an older one had", TR_LEVEL_WARN);
		return TR_EAGAIN;
	}
	listing->headless++;
	if (identity != KNOWN) {
		set_aside(spool, segment, "has neither header nor ledger: its messages are lost", TR_LEVEL_ERROR);
		return TR_EAGAIN;
	}
	tr_log(TR_LEVEL_ERROR, "spool", "%s/%s has lost its header: its frames are read without", spool->meta,
		segment->name);
	return TR_OK;
}

static int
list_one(void *arg, const char *name)
{
	struct listing *listing = arg;
	struct tr_spool *spool = listing->spool;
	size_t len = strlen(name);
	struct segment *segment;
	uint64_t file_bytes;
	int err;

	if (len < 5 || len >= sizeof segment->name || strcmp(name + len - 4, ".seg") != 0)
		return 0;
	segment = segment_new(name);
	if (segment == NULL)
		return listing->err = TR_ENOMEM, -ENOMEM;
	if (strncmp(name, "spare-", 6) == 0) {
		uint64_t serial = strtoull(name + 6, NULL, 16);

		if (serial >= spool->spare_serial)
			spool->spare_serial = serial + 1;
	}
	err = segment_open(spool, segment, &file_bytes, spool->read_only ? O_RDONLY : O_RDWR);
	if (err == TR_ENOENT) {
		segment_unref(spool, segment);
		return 0;
	}
	if (err == TR_OK && (segment->bytes < 4096 || segment->bytes > SEG_LARGEST))
		err = TR_EVERSION; /* whole, and not as we write it */
	if (err == TR_ECORRUPT) {
		enum identity identity = identify(segment, file_bytes);

		if (identity == NOTHING) {
			listing->err = keep_other(listing, segment, file_bytes);
			return listing->err == TR_OK ? 0 : -ENOMEM;
		}
		err = tell_headless(listing, segment, identity);
		if (err == TR_EAGAIN)
			return 0;
	}
	if (err == TR_OK && listing->count == listing->cap) {
		size_t cap = listing->cap * 2 + 64;
		struct segment **found = realloc(listing->found, cap * sizeof *found);

		if (found == NULL) {
			err = TR_ENOMEM;
		} else {
			listing->found = found;
			listing->cap = cap;
		}
	}
	if (err == TR_OK) {
		listing->found[listing->count++] = segment;
		return 0;
	}
	segment_unref(spool, segment);
	listing->err = err;
	if (asprintf(listing->error, "%s/%s: %s", spool->meta, name,
		    err == TR_EVERSION
			    ? "written by another version of tailrace; start that version, or move the spool away"
			    : tr_err_text(err)) < 0)
		*listing->error = NULL;
	return -EIO;
}

/* Of several that carry one number the last counts: the one of that name, if there is one. */
static int
by_number(const void *a, const void *b)
{
	const struct segment *x = *(struct segment *const *)a, *y = *(struct segment *const *)b;

	bool x_named = named_number(x->name) == x->number, y_named = named_number(y->name) == y->number;

	if (x->number != y->number)
		return x->number < y->number ? -1 : 1;
	if (x_named != y_named)
		return y_named ? -1 : 1;
	if (x->generation != y->generation)
		return x->generation < y->generation ? -1 : 1;
	return strcmp(y->name, x->name);
}

/* Which log the directory holds: that of most segments, above all of those that bear their names. A new one gets a
 * number of its own. */
static uint64_t
find_log(const struct listing *listing)
{
	uint64_t log = 0;
	size_t most = 0;

	for (size_t i = 0; i < listing->count; i++) {
		const struct segment *segment = listing->found[i];
		size_t votes = 0;

		for (size_t k = 0; k < listing->count && segment->log != 0; k++) {
			const struct segment *other = listing->found[k];

			if (other->log == segment->log)
				votes += named_number(other->name) == other->number ? 3 : 1;
		}
		if (votes > most) {
			most = votes;
			log = segment->log;
		}
	}
	if (log != 0)
		return log;
	if (listing->spool->config.inline_io || getrandom(&log, sizeof log, 0) != sizeof log || log == 0)
		log = (uint64_t)tr_wall_ns() | 1;
	return log;
}

/* Somebody has put them there. In a log they would do harm: they tell another beginning. */
static void
set_foreign_aside(struct listing *listing)
{
	size_t kept = 0;

	for (size_t i = 0; i < listing->count; i++) {
		struct segment *segment = listing->found[i];

		if (segment->log == 0 || segment->log == listing->spool->log)
			listing->found[kept++] = segment;
		else
			set_aside(listing->spool, segment, "is of another spool's log, and no part of this one",
				TR_LEVEL_ERROR);
	}
	listing->count = kept;
}

/* From the newest back along the headers' `prev`; what is not on that way is put to the others (and NULL in the
 * list). */
static void
choose(struct listing *listing, uint64_t oldest)
{
	const struct segment *after = NULL; /* the chosen one after it */

	for (size_t i = listing->count; i-- > 0;) {
		struct segment *segment = listing->found[i];
		bool known = after != NULL && after->prev != UINT64_MAX;

		if (after != NULL && segment->number == after->number) { /* we never make one */
			set_aside(listing->spool, segment, "is another copy of a segment of the log, and no part of it",
				TR_LEVEL_ERROR);
			listing->found[i] = NULL;
			continue;
		}
		/* given up by a failing disk, or before the log's beginning */
		if (segment->number < oldest || (known && segment->number > after->prev)) {
			int err = keep_other(listing, segment, SEG_HEADER + segment->bytes);

			listing->err = listing->err == TR_OK ? err : listing->err;
			listing->found[i] = NULL;
			continue;
		}
		if (known && segment->number == after->prev) {
			segment->limit = after->prev_end;
			segment->limit_known = true;
		}
		after = segment;
	}
}

static int
check_versions_only(void *arg, const char *name)
{
	/* before anything is touched: a newer version may use files of ours in its own way */
	struct tr_spool *spool = *(struct tr_spool **)arg;
	size_t len = strlen(name);
	struct segment *segment;
	uint64_t file_bytes;
	int err;

	if (len < 5 || len >= sizeof segment->name || strcmp(name + len - 4, ".seg") != 0)
		return 0;
	segment = segment_new(name);
	if (segment == NULL)
		return -ENOMEM;
	err = segment_open(spool, segment, &file_bytes, O_RDONLY);
	segment_unref(spool, segment);
	return err == TR_EVERSION ? -EPROTONOSUPPORT : 0;
}

int
listing_read(struct tr_spool *spool, uint64_t *headless_count, char **error)
{
	struct listing listing = {.spool = spool, .error = error};
	uint64_t oldest = 0;
	int err = tr_file->list(spool->meta, check_versions_only, &spool);

	*headless_count = 0;
	if (err == -EPROTONOSUPPORT) {
		if (asprintf(error,
			    "%s: written by another version of tailrace; start that version, or move the spool away",
			    spool->meta) < 0)
			*error = NULL;
		return TR_EVERSION;
	}
	if (err < 0) {
		if (asprintf(error, "%s: cannot be listed: %s", spool->meta, tr_errno_text(err)) < 0)
			*error = NULL;
		return disk_error(err);
	}
	err = tr_file->list(spool->meta, list_one, &listing);
	if (listing.err == TR_OK && err < 0)
		listing.err = disk_error(err);
	spool->log = find_log(&listing);
	set_foreign_aside(&listing);
	if (listing.count > 0)
		qsort(listing.found, listing.count, sizeof *listing.found, by_number);
	for (size_t i = 0; i < listing.count; i++)
		if (listing.found[i]->oldest > oldest)
			oldest = listing.found[i]->oldest;
	if (oldest == 0 && listing.count > 0)
		oldest = listing.found[0]->number;
	choose(&listing, oldest);
	for (size_t i = 0; i < listing.count; i++) {
		struct segment *segment = listing.found[i];

		if (segment == NULL)
			continue;
		if (listing.err == TR_OK)
			listing.err = ring_add(spool, segment);
		if (listing.err != TR_OK)
			segment_unref(spool, segment);
	}
	spool->next_number = spool->newest < spool->oldest ? spool->config.first_segment : spool->newest + 1;
	for (size_t i = 0; i < listing.other_count; i++) {
		if (listing.err == TR_OK)
			make_spare(spool, listing.others[i], listing.other_bytes[i]);
		else
			segment_unref(spool, listing.others[i]);
	}
	free(listing.others);
	free(listing.other_bytes);
	free(listing.found);
	*headless_count = listing.headless;
	return listing.err;
}
