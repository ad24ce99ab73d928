/* Segment files and the ring that finds them by the number in a stub's `loc`. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "spool/internal.h"

#define AGAIN_BYTES (UINT64_C(1) << 20)
#define RING_MAX (UINT64_C(1) << 22) /* segments between the oldest and the newest */

char *
spool_path(const char *dir, const char *name)
{
	char *path;

	return asprintf(&path, "%s/%s", dir, name) < 0 ? NULL : path;
}

void
segment_log_name(uint64_t number, char out[40])
{
	snprintf(out, 40, "log-%016" PRIx64 ".seg", number);
}

struct segment *
segment_new(const char *name)
{
	struct segment *segment = calloc(1, sizeof *segment);

	if (segment == NULL)
		return NULL;
	segment->fd = -1;
	segment->refs = 1;
	snprintf(segment->name, sizeof segment->name, "%s", name);
	return segment;
}

void
segment_unref(struct tr_spool *spool, struct segment *segment)
{
	uint32_t refs;

	if (segment == NULL)
		return;
	pthread_mutex_lock(&spool->segs_mu);
	refs = --segment->refs;
	pthread_mutex_unlock(&spool->segs_mu);
	if (refs > 0)
		return;
	if (segment->fd >= 0)
		tr_file->close(segment->fd);
	free(segment->slots);
	free(segment);
}

static uint32_t
header_crc(const struct seg_header *header)
{
	struct seg_header copy = *header;

	copy.crc = 0;
	return tr_crc32c(0, &copy, sizeof copy);
}

void
segment_header(const struct segment *segment, struct seg_header *out)
{
	*out = (struct seg_header){
		.magic = "TAILLOG",
		.version = SEG_VERSION,
		.number = segment->number,
		.bytes = segment->bytes,
		.prev = segment->prev,
		.prev_end = segment->prev_end,
		.oldest = segment->oldest,
		.created_ms = (uint64_t)tr_wall_ms(),
		.generation = segment->generation,
		.salt = segment->salt,
		.log = segment->log,
	};
	out->crc = header_crc(out);
}

int
segment_open(struct tr_spool *spool, struct segment *segment, uint64_t *file_bytes, int flags)
{
	char *path = spool_path(spool->meta, segment->name);
	struct seg_header header;
	struct stat st;
	ssize_t n;

	if (path == NULL)
		return TR_ENOMEM;
	n = tr_file->stat(path, &st);
	if (n == 0 && !S_ISREG(st.st_mode))
		n = -ENOENT; /* a directory or a pipe of that name */
	if (n == 0)
		n = segment->fd = tr_file->open(path, flags | O_CLOEXEC, 0600);
	free(path);
	if (n < 0)
		return n == -ENOENT ? TR_ENOENT : disk_error(n);
	*file_bytes = (uint64_t)st.st_size;
	n = tr_file_read_all(segment->fd, &header, sizeof header, 0);
	if (n < 0)
		return TR_EIO;
	if ((size_t)n < sizeof header || memcmp(header.magic, "TAILLOG", 8) != 0 || header.crc != header_crc(&header))
		return TR_ECORRUPT;
	if (header.version < SEG_VERSION_OLDEST || header.version > SEG_VERSION)
		return TR_EVERSION;
	segment->number = header.number;
	segment->bytes = header.bytes;
	segment->prev = header.prev;
	segment->prev_end = header.prev_end;
	segment->oldest = header.oldest;
	segment->generation = header.generation;
	segment->salt = header.salt;
	segment->log = header.log;
	return TR_OK;
}

int
segment_write_again(struct tr_spool *spool, const struct segment *segment, uint64_t at, uint64_t len)
{
	char *bytes = malloc(AGAIN_BYTES);
	int err = bytes == NULL ? -ENOMEM : 0;

	for (uint64_t done = 0; done < len && err == 0; done += AGAIN_BYTES) {
		uint64_t part = len - done < AGAIN_BYTES ? len - done : AGAIN_BYTES;
		ssize_t n = tr_file_read_all(segment->fd, bytes, part, (off_t)(at + done));

		if (n > 0)
			err = tr_file_write_all(segment->fd, bytes, (size_t)n, (off_t)(at + done));
	}
	free(bytes);
	if (err < 0)
		atomic_fetch_add_explicit(&spool->n.write_errors, 1, memory_order_relaxed);
	return err;
}

/* A process whose last group, or last header, could not be synced has left it in the page cache, where this one has
 * found it. But since that sync has failed the kernel takes those pages for written: syncing them again would do
 * nothing, and a power cut would take what goes on from here as if it were on disk. */
int
segment_keep(struct tr_spool *spool, const struct segment *segment, bool newest)
{
	int err = 0;

	if (newest)
		err = segment_write_again(spool, segment, 0, SEG_HEADER);
	if (newest && err == 0)
		err = segment_write_again(spool, segment, SEG_HEADER + segment->tail, segment->end - segment->tail);
	if (err < 0) /* a full disk may refuse even that, and a start goes on all the same */
		tr_log(TR_LEVEL_WARN, "spool",
			"%s: its end cannot be written once more (%s): if a sync of it has failed before, a power cut "
			"may take it",
			segment->name, strerror(-err));
	return tr_file->fdatasync(segment->fd);
}

struct segment *
ring_get(const struct tr_spool *spool, uint64_t loc)
{
	uint64_t number;
	struct segment *segment;

	if (loc >= LOC_LOST || spool->ring_cap == 0)
		return NULL;
	number = spool->oldest + (((loc >> 40) - spool->oldest) & 0xffffff);
	segment = spool->ring[number & (spool->ring_cap - 1)];
	return segment != NULL && segment->number == number ? segment : NULL;
}

int
ring_add(struct tr_spool *spool, struct segment *segment)
{
	bool empty = spool->newest < spool->oldest;
	uint64_t oldest = empty ? segment->number : spool->oldest;
	uint64_t span = segment->number - oldest + 1, cap = spool->ring_cap > 0 ? spool->ring_cap : 64;
	struct segment **ring = spool->ring;

	if (span > RING_MAX)
		return TR_ETOOBIG;
	while (cap < span)
		cap *= 2;
	if (cap != spool->ring_cap) {
		ring = calloc(cap, sizeof *ring);
		if (ring == NULL)
			return TR_ENOMEM;
	}
	pthread_mutex_lock(&spool->segs_mu);
	if (ring != spool->ring) {
		for (uint64_t i = 0; i < spool->ring_cap; i++)
			if (spool->ring[i] != NULL)
				ring[spool->ring[i]->number & (cap - 1)] = spool->ring[i];
		free(spool->ring);
		spool->ring = ring;
		spool->ring_cap = cap;
	}
	spool->ring[segment->number & (cap - 1)] = segment;
	spool->oldest = oldest;
	spool->newest = segment->number;
	pthread_mutex_unlock(&spool->segs_mu);
	atomic_fetch_add_explicit(&spool->n.segments, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&spool->n.log_bytes, segment->bytes, memory_order_relaxed);
	return TR_OK;
}

void
ring_remove_oldest(struct tr_spool *spool)
{
	struct segment **place = &spool->ring[spool->oldest & (spool->ring_cap - 1)], *segment = *place;

	pthread_mutex_lock(&spool->segs_mu);
	*place = NULL;
	do { /* numbers may be missing */
		spool->oldest++;
	} while (spool->oldest <= spool->newest && spool->ring[spool->oldest & (spool->ring_cap - 1)] == NULL);
	pthread_mutex_unlock(&spool->segs_mu);
	if (segment == NULL)
		return;
	atomic_fetch_sub_explicit(&spool->n.segments, 1, memory_order_relaxed);
	atomic_fetch_sub_explicit(&spool->n.log_bytes, segment->bytes, memory_order_relaxed);
}

void
ring_remove_newest(struct tr_spool *spool)
{
	struct segment **place = &spool->ring[spool->newest & (spool->ring_cap - 1)], *segment = *place;

	pthread_mutex_lock(&spool->segs_mu);
	*place = NULL;
	do {
		spool->newest--;
	} while (spool->newest >= spool->oldest && spool->ring[spool->newest & (spool->ring_cap - 1)] == NULL);
	pthread_mutex_unlock(&spool->segs_mu);
	atomic_fetch_sub_explicit(&spool->n.segments, 1, memory_order_relaxed);
	atomic_fetch_sub_explicit(&spool->n.log_bytes, segment->bytes, memory_order_relaxed);
}

int
segment_reserve(struct tr_spool *spool, struct segment *segment, uint32_t more)
{
	uint32_t cap = segment->cap == 0 ? 64 : segment->cap;
	uint32_t *slots;

	while (cap - segment->puts < more)
		cap *= 2;
	if (cap == segment->cap)
		return TR_OK;
	slots = realloc(segment->slots, cap * sizeof *slots);
	if (slots == NULL)
		return TR_ENOMEM;
	atomic_fetch_add_explicit(&spool->n.slot_bytes, (cap - segment->cap) * sizeof *slots, memory_order_relaxed);
	segment->slots = slots;
	segment->cap = cap;
	return TR_OK;
}

uint32_t
segment_born(struct segment *segment, uint32_t slot, uint64_t bytes, struct tr_spool *spool)
{
	uint32_t ordinal = segment->puts++;

	segment->slots[ordinal] = slot;
	segment->live++;
	segment->live_bytes += bytes;
	atomic_fetch_add_explicit(&spool->n.live_messages, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&spool->n.live_bytes, bytes, memory_order_relaxed);
	return ordinal;
}

void
segment_died(struct tr_spool *spool, uint64_t loc, uint64_t bytes)
{
	struct segment *segment = ring_get(spool, loc);
	uint32_t ordinal = loc_ordinal(loc);

	if (segment == NULL || ordinal >= segment->puts || segment->slots[ordinal] == TR_NO_SLOT)
		return;                  /* its segment is gone already */
	if (bytes > segment->live_bytes) /* its length was lost with its bytes */
		bytes = segment->live_bytes;
	segment->slots[ordinal] = TR_NO_SLOT;
	segment->live--;
	segment->live_bytes -= bytes;
	atomic_fetch_sub_explicit(&spool->n.live_messages, 1, memory_order_relaxed);
	atomic_fetch_sub_explicit(&spool->n.live_bytes, bytes, memory_order_relaxed);
	spool->compact_credit += 2 * bytes;
}
