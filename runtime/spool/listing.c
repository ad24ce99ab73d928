/* Which files make the log: by the headers they carry, not by their names alone. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

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

/* A log segment whose header is damaged: its first frame is the ledger, which carries the number. */
static bool
headless(struct segment *segment, uint64_t file_bytes)
{
	struct frame_header header;
	uint64_t number, told;
	char again[40];

	if (strncmp(segment->name, "log-", 4) != 0 || file_bytes <= SEG_HEADER + FRAME_HEADER)
		return false;
	number = strtoull(segment->name + 4, NULL, 16);
	segment_log_name(number, again);
	if (strcmp(again, segment->name) != 0 ||
		tr_file_read_all(segment->fd, &header, sizeof header, SEG_HEADER) != sizeof header ||
		!frame_valid(&header, header.generation, header.salt, file_bytes - SEG_HEADER) ||
		header.type != FRAME_LEDGER ||
		tr_file_read_all(segment->fd, &told, sizeof told, SEG_HEADER + FRAME_HEADER) != sizeof told ||
		told != number)
		return false;
	segment->number = number;
	segment->bytes = file_bytes - SEG_HEADER;
	segment->generation = header.generation;
	segment->salt = header.salt;
	segment->prev = UINT64_MAX; /* not known */
	segment->oldest = 0;
	return true;
}

/* A log segment of which header and ledger make no sense, but which is not the empty one of a crash at its birth. */
static bool
nameless(struct segment *segment, uint64_t file_bytes)
{
	char head[512] = {0}, first[512] = {0};

	if (strncmp(segment->name, "log-", 4) != 0 || file_bytes <= SEG_HEADER)
		return false;
	(void)tr_file_read_all(segment->fd, head, sizeof head, 0); /* unreadable counts as empty */
	(void)tr_file_read_all(segment->fd, first, sizeof first, SEG_HEADER);
	for (size_t i = 0; i < sizeof head; i++)
		if (head[i] != 0 || first[i] != 0)
			return true;
	return false;
}

/* Kept whole: which of its bytes count cannot be told without the header, but people may want them. */
static void
set_aside(struct tr_spool *spool, struct segment *segment)
{
	char to_name[64], *dir = spool_path(spool->meta, "damaged"), *from, *to;
	int err = spool->read_only || dir == NULL ? 0 : tr_file_mkdirs(dir, 0700);

	snprintf(to_name, sizeof to_name, "damaged/%s", segment->name);
	from = spool_path(spool->meta, segment->name);
	to = spool_path(spool->meta, to_name);
	if (!spool->read_only && from != NULL && to != NULL && err >= 0)
		err = tr_file->rename(from, to);
	tr_log(TR_LEVEL_ERROR, "spool", "%s/%s has neither header nor ledger: its messages are lost; %s%s", spool->meta,
		segment->name, err < 0 ? "it cannot be set aside and stays" : "the file is kept as ",
		err < 0 ? "" : to_name);
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

/* A file that is no part of the log. */
static void
make_spare(struct tr_spool *spool, struct segment *segment, uint64_t file_bytes)
{
	uint64_t named = strncmp(segment->name, "log-", 4) == 0 ? strtoull(segment->name + 4, NULL, 16) : 0;

	/* A later segment must not find its name taken: a spare with a log's name is kept only if that is past. */
	if (spool->read_only || file_bytes != SEG_HEADER + spool->config.segment_bytes || named >= spool->next_number) {
		drop_file(spool, segment);
		return;
	}
	segment->bytes = spool->config.segment_bytes;
	spare_give(spool, segment);
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
	if (err == TR_ECORRUPT && headless(segment, file_bytes)) {
		listing->headless++;
		err = TR_OK;
	} else if (err == TR_ECORRUPT && nameless(segment, file_bytes)) {
		set_aside(spool, segment);
		return 0;
	} else if (err == TR_ECORRUPT) {
		listing->err = keep_other(listing, segment, file_bytes);
		return listing->err == TR_OK ? 0 : -ENOMEM;
	}
	if (err == TR_OK && (segment->bytes < 4096 || segment->bytes > UINT64_C(64) << 20))
		err = TR_EVERSION; /* whole, and not as we write it */
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

static int
by_number(const void *a, const void *b)
{
	const struct segment *x = *(struct segment *const *)a, *y = *(struct segment *const *)b;

	if (x->number != y->number)
		return x->number < y->number ? -1 : 1;
	return x->generation < y->generation ? -1 : x->generation > y->generation;
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

		/* given up by a failing disk, a copy of lower generation, or before the log's beginning */
		if (segment->number < oldest || (after != NULL && segment->number >= after->number) ||
			(known && segment->number > after->prev)) {
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
	err = tr_file->list(spool->meta, list_one, &listing);
	if (listing.err == TR_OK && err < 0)
		listing.err = TR_EIO;
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
