/* Reading one segment: groups whose end frame fits are good at once. A group that does not fit is kept until it
 * is known whether it was committed: a later good group, or the next segment's header, says so (then what is
 * intact of it counts and the rest is damage); at the log's end nothing does, and it is a torn tail. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "spool/internal.h"

#define READ_BYTES (UINT64_C(1) << 20)
#define PIECE 4096 /* what one unreadable place costs */

enum kind { GOOD_FRAME, BAD_PAYLOAD, HOLE, GROUP_END };

struct pending {
	uint64_t offset, len;
	enum kind kind;
};

struct walk {
	struct scan *scan;
	struct segment *segment;
	uint64_t loaded, limit;
	uint32_t pending; /* entries */
	int err;          /* of reading or the caller's */
};

/* Places that cannot be read become zeros, so damage. A device that reads nothing at all is no damage: what a start
 * made of it would be lost, so that fails. Tools take what they get. */
static void
read_pieces(struct walk *walk, char *at, uint64_t want, int err)
{
	uint64_t lost = 0;

	for (uint64_t i = 0; i < want; i += PIECE) {
		uint64_t len = want - i < PIECE ? want - i : PIECE;
		ssize_t n = tr_file_read_all(walk->segment->fd, at + i, len, (off_t)(SEG_HEADER + walk->loaded + i));

		lost += n < 0 ? len : 0;
		memset(at + i + (n < 0 ? 0 : n), 0, len - (uint64_t)(n < 0 ? 0 : n));
	}
	if (lost == 0)
		return;
	tr_log(TR_LEVEL_ERROR, "spool", "%s: %" PRIu64 " of %" PRIu64 " bytes at offset %" PRIu64 " cannot be read: %s",
		walk->segment->name, lost, want, walk->loaded, strerror(-err));
	if (lost == want && !walk->scan->salvage)
		walk->err = TR_EIO;
}

/* Reads on until `to` bytes are in the window. */
static void
ensure(struct walk *walk, uint64_t to)
{
	struct scan *scan = walk->scan;

	while (walk->loaded < to) {
		uint64_t want = walk->limit - walk->loaded < READ_BYTES ? walk->limit - walk->loaded : READ_BYTES;
		char *at = scan->data + walk->loaded;
		ssize_t n = tr_file_read_all(walk->segment->fd, at, want, (off_t)(SEG_HEADER + walk->loaded));

		if (n < 0) {
			read_pieces(walk, at, want, (int)n);
		} else if ((uint64_t)n < want) {
			memset(at + n, 0, want - (uint64_t)n);
		}
		walk->loaded += want;
		scan->bytes += want;
	}
}

static void
header_at(struct walk *walk, uint64_t pos, struct frame_header *out)
{
	memcpy(out, walk->scan->data + pos, sizeof *out);
}

static bool
valid_at(struct walk *walk, uint64_t pos, struct frame_header *header)
{
	if (pos + FRAME_HEADER > walk->limit)
		return false;
	ensure(walk, pos + FRAME_HEADER);
	header_at(walk, pos, header);
	return frame_valid(header, walk->segment->generation, walk->segment->salt, walk->limit - pos);
}

static void
push(struct walk *walk, uint64_t offset, uint64_t len, enum kind kind)
{
	struct scan *scan = walk->scan;
	struct pending *pending = scan->pending;

	if (walk->pending == scan->pending_cap) {
		uint32_t cap = scan->pending_cap * 2 + 256;

		pending = realloc(pending, cap * sizeof *pending);
		if (pending == NULL) {
			walk->err = TR_ENOMEM;
			return;
		}
		scan->pending = pending;
		scan->pending_cap = cap;
	}
	pending[walk->pending++] = (struct pending){offset, len, kind};
}

static void
deliver(struct walk *walk, const struct pending *pending)
{
	struct scan *scan = walk->scan;
	struct scan_frame frame = {.segment = walk->segment, .offset = pending->offset};

	if (pending->kind == GROUP_END)
		return;
	if (pending->kind == GOOD_FRAME) {
		header_at(walk, pending->offset, &frame.header);
		frame.payload = (struct tr_str){scan->data + pending->offset + FRAME_HEADER, frame.header.length};
		scan->frames++;
		walk->err = scan->frame(scan->arg, &frame);
		return;
	}
	scan->damaged_frames++;
	scan->damaged_bytes += pending->len;
	scan->damage(scan->arg, walk->segment, pending->offset, pending->len, scan->data + pending->offset);
}

/* Everything that waits was committed. */
static void
flush(struct walk *walk)
{
	struct pending *pending = walk->scan->pending;

	for (uint32_t i = 0; i < walk->pending && walk->err == TR_OK; i++)
		deliver(walk, &pending[i]);
	walk->pending = 0;
}

/* Is the group that ends here whole? */
static bool
group_whole(struct walk *walk, const struct end_payload *end)
{
	struct pending *pending = walk->scan->pending;
	uint32_t first = walk->pending, crc = 0;

	while (first > 0 && pending[first - 1].offset >= end->start)
		first--;
	if (walk->pending - first != end->count)
		return false;
	for (uint32_t i = first; i < walk->pending; i++) {
		struct frame_header header;

		if (pending[i].kind != GOOD_FRAME)
			return false;
		header_at(walk, pending[i].offset, &header);
		crc = tr_crc32c(crc, &header.header_crc, sizeof header.header_crc);
	}
	return crc == end->crc;
}

/* Takes the frame at pos; returns where the next one begins. */
static uint64_t
step(struct walk *walk, uint64_t pos, const struct frame_header *header, uint64_t *good)
{
	struct scan *scan = walk->scan;
	uint64_t len = frame_bytes(header->length) + 8u * header->pad;
	const char *payload;
	bool sound;

	ensure(walk, pos + FRAME_HEADER + header->length);
	payload = scan->data + pos + FRAME_HEADER;
	sound = tr_crc32c(0, payload, header->length) == header->payload_crc;
	if (header->type != FRAME_END) {
		push(walk, pos, frame_bytes(header->length), sound ? GOOD_FRAME : BAD_PAYLOAD);
	} else if (!sound || header->length != sizeof(struct end_payload)) {
		push(walk, pos, frame_bytes(header->length), BAD_PAYLOAD);
	} else {
		struct end_payload end;

		memcpy(&end, payload, sizeof end);
		if (group_whole(walk, &end)) {
			flush(walk);
			scan->groups++;
			*good = pos + len;
			walk->segment->tail = end.start;
			if (end.oldest > scan->oldest)
				scan->oldest = end.oldest;
		} else {
			push(walk, pos, len, GROUP_END);
		}
	}
	return pos + len;
}

int
scan_segment(struct scan *scan, struct segment *segment)
{
	struct walk walk = {.scan = scan, .segment = segment, .limit = segment->bytes};
	struct frame_header header;
	uint64_t pos = 0, good = 0, frames_end = 0, next;

	if (segment->limit_known && segment->limit < walk.limit)
		walk.limit = segment->limit;
	if (walk.limit > scan->cap) {
		free(scan->data);
		scan->data = malloc(walk.limit);
		scan->cap = scan->data == NULL ? 0 : walk.limit;
		if (scan->data == NULL)
			return TR_ENOMEM;
	}
	while (pos < walk.limit && walk.err == TR_OK) {
		if (valid_at(&walk, pos, &header)) {
			pos = frames_end = step(&walk, pos, &header, &good);
			continue;
		}
		for (next = pos + 8; next < walk.limit && walk.err == TR_OK && !valid_at(&walk, next, &header);)
			next += 8;
		if (next < walk.limit) /* else it is the unused rest, or known below to be damage */
			push(&walk, pos, next - pos, HOLE);
		else
			break;
		pos = next;
	}
	if (walk.err != TR_OK)
		return walk.err;
	if (segment->limit_known) {
		if (pos < walk.limit) {
			ensure(&walk, walk.limit);
			push(&walk, pos, walk.limit - pos, HOLE);
		}
		flush(&walk);
		good = walk.limit;
	} else if (frames_end > good) {
		scan->torn_bytes += frames_end - good;
	}
	segment->end = good;
	return walk.err;
}

void
scan_fini(struct scan *scan)
{
	free(scan->data);
	free(scan->pending);
}

void
damage_keep(struct tr_spool *spool, struct segment *segment, uint64_t offset, uint64_t len, const char *bytes)
{
	char name[96], *path, *own = NULL;
	int fd, err = 0;

	snprintf(name, sizeof name, "damaged/%016" PRIx64 "-%08" PRIx64 ".bin", segment->number, offset);
	path = spool_path(spool->meta, "damaged");
	if (path != NULL)
		tr_file_mkdirs(path, 0700);
	free(path);
	path = spool_path(spool->meta, name);
	if (bytes == NULL && (own = malloc(len)) != NULL) {
		ssize_t n = tr_file_read_all(segment->fd, own, len, (off_t)(SEG_HEADER + offset));

		len = n < 0 ? 0 : (uint64_t)n;
		bytes = own;
	}
	fd = path == NULL || bytes == NULL ? -1 : tr_file->open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd >= 0) { /* else it was kept at an earlier start, or cannot be: the log line tells the place */
		err = tr_file_write_all(fd, bytes, len, 0);
		tr_file->close(fd);
	}
	tr_log(TR_LEVEL_ERROR, "spool", "%s: %" PRIu64 " damaged bytes at offset %" PRIu64 "%s%s", segment->name, len,
		offset, fd >= 0 && err >= 0 ? ", kept as " : "", fd >= 0 && err >= 0 ? name : "");
	free(path);
	free(own);
}
