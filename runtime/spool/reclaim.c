/* Reclaiming, from the oldest end only: a segment in which nothing lives goes; when the log is larger than twice
 * what lives (and the floor), the live frames of the oldest segment are copied forward, some at a time. */
#include <inttypes.h>
#include <stdlib.h>

#include "spool/internal.h"

#define STEP_MIN (UINT64_C(256) << 10)
#define WINDOW (UINT64_C(1) << 20)

/* What is retired can be written over only after a group has told the log's new beginning (apply() in group.c). */
static void
retire_dead(struct tr_spool *spool)
{
	while (spool->oldest <= spool->newest) {
		struct segment *oldest = spool->ring[spool->oldest & (spool->ring_cap - 1)];

		if (oldest != NULL && (oldest == spool->current || oldest->live > 0))
			return;
		if (group_settle(spool) != TR_OK) { /* copies and ends that replace it may be in no other place yet */
			spool->compact_credit = 0;
			return;
		}
		ring_remove_oldest(spool);
		if (oldest == NULL)
			continue;
		atomic_fetch_sub_explicit(&spool->n.live_bytes, oldest->live_bytes, memory_order_relaxed);
		oldest->next = spool->retired;
		spool->retired = oldest;
		spool->copy_ordinal = 0;
	}
}

static bool
wanted(const struct tr_spool *spool)
{
	uint64_t log = atomic_load_explicit(&spool->n.log_bytes, memory_order_relaxed);
	uint64_t live = atomic_load_explicit(&spool->n.live_bytes, memory_order_relaxed);

	return spool->oldest < spool->newest && spool->current != NULL && log > spool->config.floor_bytes &&
	       log > 2 * live && spool->compact_credit > 0 && !atomic_load(&spool->failing);
}

struct window {
	char *data;
	uint64_t at, len, cap; /* offset in the segment, bytes read, room */
};

/* Makes `len` bytes from `at` on available; what is read beyond is for the neighbours. */
static int
ensure(struct window *window, const struct segment *segment, uint64_t at, uint64_t len)
{
	uint64_t want = len > WINDOW ? len : WINDOW;
	ssize_t n;

	if (window->data != NULL && at >= window->at && at + len <= window->at + window->len)
		return TR_OK;
	if (want > segment->bytes - at)
		want = segment->bytes - at;
	if (len > want)
		return TR_ECORRUPT;
	if (want > window->cap) {
		free(window->data);
		window->data = malloc(want);
		window->cap = window->data == NULL ? 0 : want;
		if (window->data == NULL)
			return TR_ENOMEM;
	}
	n = tr_file_read_all(segment->fd, window->data, want, (off_t)(SEG_HEADER + at));
	if (n < 0 && want > len) /* a bad place among the neighbours is not its own */
		n = tr_file_read_all(segment->fd, window->data, len, (off_t)(SEG_HEADER + at));
	window->at = at;
	window->len = n < 0 ? 0 : (uint64_t)n;
	return n < 0 ? TR_EIO : (uint64_t)n < len ? TR_ECORRUPT : TR_OK;
}

/* Copies one live frame's payload with what its stub says now. The payload is malloc'ed. */
static int
fetch(struct tr_spool *spool, struct window *window, struct segment *segment, uint32_t slot, struct moved *moved)
{
	struct tr_stub *stub = tr_spool_stub(spool, slot);
	struct frame_header header;
	struct put_prefix prefix;
	uint64_t at;
	char *payload;
	int err;

	moved->slot = slot;
	moved->from = atomic_load_explicit(&stub->loc, memory_order_relaxed);
	at = loc_offset(moved->from, segment_align(segment->bytes));
	err = ensure(window, segment, at, FRAME_HEADER);
	if (err != TR_OK)
		return err;
	memcpy(&header, window->data + (at - window->at), sizeof header);
	if (!frame_valid(&header, segment->generation, segment->salt, segment->bytes - at) ||
		header.type != FRAME_PUT || header.seq != stub->seq || header.length < sizeof prefix)
		return TR_ECORRUPT;
	err = ensure(window, segment, at, FRAME_HEADER + header.length);
	if (err != TR_OK)
		return err;
	payload = malloc(header.length);
	if (payload == NULL)
		return TR_ENOMEM;
	memcpy(payload, window->data + (at - window->at) + FRAME_HEADER, header.length);
	if (tr_crc32c(0, payload, header.length) != header.payload_crc) {
		free(payload);
		return TR_ECORRUPT;
	}
	memcpy(&prefix, payload, sizeof prefix);
	prefix.due_ms = tr_stub_due_ms(stub);
	prefix.flags = tr_stub_flags(stub);
	prefix.attempts = tr_stub_attempts(stub);
	prefix.account = tr_stub_account(stub);
	prefix.created_ms = tr_stub_created_ms(stub);
	prefix.column = TR_COL_NONE;
	memcpy(payload, &prefix, sizeof prefix);
	moved->seq = header.seq;
	moved->payload = (struct tr_str){payload, header.length};
	moved->crc = tr_crc32c(0, payload, header.length);
	return TR_OK;
}

/* Its bytes are gone for good: whoever loads it hears so and ends it. */
static void
lose(struct tr_spool *spool, struct segment *segment, uint32_t slot)
{
	struct tr_stub *stub = tr_spool_stub(spool, slot);
	uint64_t loc = atomic_exchange(&stub->loc, LOC_LOST);
	uint64_t offset = loc_offset(loc, segment_align(segment->bytes));

	tr_log(TR_LEVEL_ERROR, "spool",
		"%s: the frame of message %" PRIu64 " at offset %" PRIu64 " is damaged; the message is lost",
		segment->name, stub->seq, offset);
	atomic_fetch_add_explicit(&spool->n.damaged_frames, 1, memory_order_relaxed);
	damage_keep(spool, segment, offset, PUT_ALIGN, NULL);
	segment_died(spool, loc, 0);
}

/* It may be readable later, so it is not given up; but what lies behind it cannot go before it, and the log grows. */
static void
tell_unreadable(const struct tr_spool *spool, struct segment *segment, uint32_t slot)
{
	const struct tr_stub *stub = tr_spool_stub(spool, slot);

	if (!segment->holds_log)
		tr_log(TR_LEVEL_ERROR, "spool",
			"%s/%s: the frame of message %" PRIu64 " at offset %" PRIu64
			" cannot be read: nothing behind it can be reclaimed until it can, or a start takes it for "
			"damage",
			spool->meta, segment->name, stub->seq,
			loc_offset(
				atomic_load_explicit(&stub->loc, memory_order_relaxed), segment_align(segment->bytes)));
	segment->holds_log = true;
}

static uint64_t
step_bytes(const struct tr_spool *spool)
{
	uint64_t step = 2 * spool->last_group_bytes, most = spool->config.segment_bytes / 4;

	if (step < STEP_MIN)
		step = STEP_MIN;
	return step > most ? most : step;
}

/* Copies forward from the oldest segment; false when that must wait. */
static bool
copy_some(struct tr_spool *spool)
{
	struct segment *segment = spool->ring[spool->oldest & (spool->ring_cap - 1)];
	struct window window = {0};
	struct moved *moved = NULL;
	uint32_t count = 0, cap = 0;
	uint64_t bytes = 0, most = step_bytes(spool);
	int err = TR_OK;

	while (err == TR_OK && spool->copy_ordinal < segment->puts && bytes < most) {
		uint32_t slot = segment->slots[spool->copy_ordinal];

		if (slot == TR_NO_SLOT) {
			spool->copy_ordinal++;
			continue;
		}
		if (count == cap) {
			struct moved *bigger = realloc(moved, (cap = cap * 2 + 64) * sizeof *moved);

			if (bigger == NULL)
				break;
			moved = bigger;
		}
		err = fetch(spool, &window, segment, slot, &moved[count]);
		if (err == TR_ECORRUPT) {
			lose(spool, segment, slot);
			spool->copy_ordinal++;
			err = TR_OK;
		} else if (err == TR_EIO) {
			tell_unreadable(spool, segment, slot);
		} else if (err == TR_OK) {
			uint64_t more = frame_bytes(moved[count].payload.len) + 2 * PUT_ALIGN;

			if (count > 0 && bytes + more > group_room_fresh(spool)) {
				free((char *)moved[count].payload.data);
				break;
			}
			bytes += more;
			count++;
			spool->copy_ordinal++;
		}
	}
	free(window.data);
	if (count > 0) {
		/* with a full disk the reserve may be used where that frees more than it takes */
		bool outcome = segment->live_bytes < segment->bytes / 4;
		int written = group_write(spool, NULL, moved, count, outcome);

		err = written != TR_OK ? written : err;
		if (written != TR_OK)
			spool->copy_ordinal = 0; /* they are still where they were */
	}
	for (uint32_t i = 0; i < count; i++)
		free((char *)moved[i].payload.data);
	free(moved);
	if (spool->copy_ordinal >= segment->puts)
		spool->copy_ordinal = 0;
	return err == TR_OK;
}

bool
reclaim_step(struct tr_spool *spool)
{
	uint64_t before = spool->oldest;

	retire_dead(spool);
	if (wanted(spool)) {
		if (!copy_some(spool)) {
			spool->compact_credit = 0; /* until something comes or goes again */
			return false;
		}
		retire_dead(spool);
		return true;
	}
	if (spool->retired != NULL && atomic_load(&spool->full)) /* space waits for the group that frees it */
		return group_write(spool, NULL, NULL, 0, true) == TR_OK;
	return before != spool->oldest && wanted(spool);
}
