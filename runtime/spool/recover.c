/* The pass over the log at start-up: what lives, where, due when, and the ledger. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "spool/internal.h"

struct seq_entry {
	uint64_t seq;  /* 0: free */
	uint32_t slot; /* TR_NO_SLOT: done */
};

struct recovery {
	struct tr_spool *spool;
	struct names *queues;
	struct seq_entry *map; /* open addressing by seq */
	uint64_t cap, used;
	uint64_t max_seq;
};

/* --- queue names -------------------------------------------------------------------------------------------- */

void
names_fini(struct names *names)
{
	for (uint32_t i = 0; i < names->count; i++)
		free((char *)names->names[i].data);
	free(names->names);
	free(names->table);
	*names = (struct names){0};
}

static bool
names_grow(struct names *names)
{
	uint32_t cap = names->cap * 2 + 64, table_cap = 4;
	struct tr_str *list = realloc(names->names, cap * sizeof *list);
	uint32_t *table;

	if (list == NULL)
		return false;
	names->names = list;
	while (table_cap < cap * 2)
		table_cap *= 2;
	table = calloc(table_cap, sizeof *table);
	if (table == NULL)
		return false;
	for (uint32_t i = 0; i < names->count; i++) {
		uint32_t at = (uint32_t)tr_hash(list[i].data, list[i].len) & (table_cap - 1);

		while (table[at] != 0)
			at = (at + 1) & (table_cap - 1);
		table[at] = i + 1;
	}
	free(names->table);
	names->table = table;
	names->cap = cap;
	names->table_cap = table_cap;
	return true;
}

uint32_t
names_intern(struct names *names, struct tr_str name)
{
	uint32_t at;
	char *copy;

	if (names->count > 0 && tr_str_eq(names->names[names->last], name)) /* neighbours mostly share it */
		return names->last;
	if (names->count == names->cap && !names_grow(names))
		return UINT32_MAX;
	at = (uint32_t)tr_hash(name.data, name.len) & (names->table_cap - 1);
	while (names->table[at] != 0) {
		if (tr_str_eq(names->names[names->table[at] - 1], name))
			return names->last = names->table[at] - 1;
		at = (at + 1) & (names->table_cap - 1);
	}
	copy = malloc(name.len + 1);
	if (copy == NULL)
		return UINT32_MAX;
	if (name.len > 0)
		memcpy(copy, name.data, name.len);
	copy[name.len] = '\0';
	names->names[names->count] = (struct tr_str){copy, name.len};
	names->table[at] = names->count + 1;
	return names->last = names->count++;
}

/* --- seq -> slot -------------------------------------------------------------------------------------------- */

static struct seq_entry *
map_find(const struct recovery *rec, uint64_t seq)
{
	uint64_t at = seq & (rec->cap - 1); /* they come in order: neighbours in the log are neighbours here */

	while (rec->map[at].seq != 0 && rec->map[at].seq != seq)
		at = (at + 1) & (rec->cap - 1);
	return &rec->map[at];
}

static int
map_grow(struct recovery *rec)
{
	struct seq_entry *old = rec->map;
	uint64_t old_cap = rec->cap, live = 0, cap = 4096;

	for (uint64_t i = 0; i < old_cap; i++)
		live += old[i].seq != 0 && old[i].slot != TR_NO_SLOT;
	while (cap < live * 4) /* the done ones go */
		cap *= 2;
	rec->map = calloc(cap, sizeof *rec->map);
	if (rec->map == NULL) {
		rec->map = old;
		return TR_ENOMEM;
	}
	rec->cap = cap;
	rec->used = live;
	for (uint64_t i = 0; i < old_cap; i++)
		if (old[i].seq != 0 && old[i].slot != TR_NO_SLOT)
			*map_find(rec, old[i].seq) = old[i];
	free(old);
	return TR_OK;
}

static struct tr_stub *
live_stub(struct recovery *rec, uint64_t seq, struct seq_entry **entry)
{
	*entry = map_find(rec, seq);
	return (*entry)->seq == 0 || (*entry)->slot == TR_NO_SLOT ? NULL : tr_spool_stub(rec->spool, (*entry)->slot);
}

/* --- frames -------------------------------------------------------------------------------------------------- */

static void
kill_slot(struct tr_spool *spool, uint32_t slot)
{
	struct tr_stub *stub = tr_spool_stub(spool, slot);

	segment_died(
		spool, atomic_load_explicit(&stub->loc, memory_order_relaxed), frame_bytes(slot_length(spool, slot)));
}

static int
put(struct recovery *rec, const struct scan_frame *frame)
{
	struct tr_spool *spool = rec->spool;
	struct put_prefix prefix;
	struct tr_str queue, opaque;
	struct seq_entry *entry;
	struct tr_stub *stub;
	uint32_t name, ordinal;
	int err;

	if (!put_parse(frame->payload, &prefix, &queue, &opaque)) {
		tr_log(TR_LEVEL_ERROR, "spool", "%s: the message frame at offset %" PRIu64 " makes no sense",
			frame->segment->name, frame->offset);
		atomic_fetch_add_explicit(&spool->n.damaged_frames, 1, memory_order_relaxed);
		return TR_OK;
	}
	if (rec->used * 2 >= rec->cap && (err = map_grow(rec)) != TR_OK)
		return err;
	name = names_intern(rec->queues, queue);
	if (name == UINT32_MAX || segment_reserve(spool, frame->segment, 1) != TR_OK)
		return TR_ENOMEM;
	stub = live_stub(rec, frame->header.seq, &entry);
	if (stub != NULL) {
		kill_slot(spool, entry->slot);
	} else {
		uint32_t slot = slot_new(spool);

		if (slot == TR_NO_SLOT)
			return TR_ENOMEM;
		rec->used += entry->seq == 0;
		*entry = (struct seq_entry){frame->header.seq, slot};
		stub = tr_spool_stub(spool, slot);
	}
	err = slot_measure(spool, entry->slot, prefix.units, frame->header.length, prefix.body_file, prefix.body_len);
	if (err != TR_OK)
		return err;
	ordinal = segment_born(frame->segment, entry->slot, frame_bytes(frame->header.length), spool);
	stub->seq = frame->header.seq;
	stub->account = prefix.account;
	stub->queue = name;
	stub->order = prefix.order;
	atomic_store_explicit(&stub->loc, loc_make(frame->segment, frame->offset, ordinal), memory_order_relaxed);
	atomic_store_explicit(&stub->tries, (uint64_t)prefix.created_ms << 16, memory_order_relaxed);
	tr_stub_set(stub, prefix.due_ms, prefix.flags, prefix.attempts);
	if (frame->header.seq > rec->max_seq)
		rec->max_seq = frame->header.seq;
	ledger_count(spool, prefix.account, prefix.column, TR_REASON_NONE, prefix.units);
	return TR_OK;
}

static int
on_frame(void *arg, const struct scan_frame *frame)
{
	struct recovery *rec = arg;
	struct tr_spool *spool = rec->spool;
	struct count_payload count = {0};
	struct state_payload state;
	struct move_payload move;
	struct seq_entry *entry;
	struct tr_stub *stub;
	bool sound = true;

	if (frame->header.type == FRAME_DONE || frame->header.type == FRAME_COUNT) {
		sound = frame->payload.len == sizeof count;
		if (sound)
			memcpy(&count, frame->payload.data, sizeof count);
		if (!count_is_sane(count.units, FRAME_UNITS_MAX)) {
			sound = false;
			count = (struct count_payload){0};
		}
	}
	switch (frame->header.type) {
	case FRAME_PUT:
		return put(rec, frame);
	case FRAME_STATE:
		sound = frame->payload.len == sizeof state;
		stub = sound ? live_stub(rec, frame->header.seq, &entry) : NULL;
		if (stub != NULL) {
			memcpy(&state, frame->payload.data, sizeof state);
			tr_stub_set(stub, state.due_ms, state.flags, state.attempts);
		}
		break;
	case FRAME_MOVE:
		sound = frame->payload.len == sizeof move;
		if (sound)
			memcpy(&move, frame->payload.data, sizeof move);
		if (!sound || move.to >= TR_ACCOUNTS_MAX || !count_is_sane(move.units, FRAME_UNITS_MAX)) {
			sound = false;
			break;
		}
		if (live_stub(rec, frame->header.seq, &entry) != NULL)
			stub_move(spool, entry->slot, &move);
		ledger_count(spool, move.from, TR_COL_MOVED_OUT, TR_REASON_NONE, move.units);
		ledger_count(spool, move.to, TR_COL_MOVED_IN, TR_REASON_NONE, move.units);
		break;
	case FRAME_DONE:
		if (live_stub(rec, frame->header.seq, &entry) != NULL) {
			kill_slot(spool, entry->slot);
			slot_free(spool, entry->slot);
			entry->slot = TR_NO_SLOT;
		}
		ledger_count(spool, count.account, count.column, count.reason, count.units);
		break;
	case FRAME_COUNT:
		ledger_count(spool, count.account, count.column, count.reason, count.units);
		break;
	case FRAME_LEDGER:
		sound = ledger_decode(spool, frame->payload);
		break;
	case FRAME_ACCOUNT:
		sound = account_decode(spool, frame->payload);
		break;
	default:
		sound = false;
		break;
	}
	if (!sound) {
		tr_log(TR_LEVEL_ERROR, "spool", "%s: the frame at offset %" PRIu64 " makes no sense",
			frame->segment->name, frame->offset);
		atomic_fetch_add_explicit(&spool->n.damaged_frames, 1, memory_order_relaxed);
	}
	return TR_OK;
}

static void
on_damage(void *arg, struct segment *segment, uint64_t offset, uint64_t len, const char *bytes)
{
	struct recovery *rec = arg;

	if (!rec->spool->read_only)
		damage_keep(rec->spool, segment, offset, len, bytes);
	if (rec->spool->on_damage != NULL)
		rec->spool->on_damage(rec->spool->on_damage_arg, segment, offset, len);
}

/* Segments before the beginning that the last group told were given up before a crash kept their names. */
static void
drop_before(struct tr_spool *spool, uint64_t oldest)
{
	while (spool->oldest <= spool->newest && spool->oldest < oldest) {
		struct segment *segment = spool->ring[spool->oldest & (spool->ring_cap - 1)];

		for (uint32_t i = 0; segment != NULL && i < segment->puts; i++) {
			uint32_t slot = segment->slots[i];

			if (slot == TR_NO_SLOT)
				continue; /* its end was in a segment that is gone */
			kill_slot(spool, slot);
			slot_free(spool, slot);
		}
		ring_remove_oldest(spool);
		if (segment != NULL)
			spare_keep(spool, segment);
	}
}

/* Segments that the log needs and that are not there. One that an end frame gave up may be unlinked while the headers
 * of later ones still name it: what counts is the beginning that the last group told. */
static uint64_t
count_missing(const struct tr_spool *spool, uint64_t oldest)
{
	uint64_t missing = 0, number;

	for (number = spool->oldest; number <= spool->newest; number++) {
		const struct segment *segment = spool->ring[number & (spool->ring_cap - 1)];

		if (segment != NULL && segment->oldest > oldest)
			oldest = segment->oldest;
	}
	for (number = spool->oldest; number <= spool->newest; number++) {
		const struct segment *segment = spool->ring[number & (spool->ring_cap - 1)];
		uint64_t prev = segment != NULL ? segment->prev : 0;

		if (prev != 0 && prev != UINT64_MAX && prev >= oldest)
			missing += prev < spool->oldest || spool->ring[prev & (spool->ring_cap - 1)] == NULL;
	}
	return missing;
}

/* Accounts whose names were lost: their messages are there, and go by a name that tells. */
static void
name_accounts(struct tr_spool *spool)
{
	for (uint32_t i = 0; i < spool->account_count; i++) {
		char name[24];

		if (spool->accounts[i].name[0] != '\0')
			continue;
		snprintf(name, sizeof name, "lost-%u", i);
		tr_log(TR_LEVEL_ERROR, "spool", "the damage has hit the name of ledger account %u: it is called %s", i,
			name);
		memcpy(spool->accounts[i].name, name, sizeof name);
	}
}

static void
trim(struct segment *segment)
{
	uint32_t *slots = segment->puts == 0 ? NULL : realloc(segment->slots, segment->puts * sizeof *slots);

	if (slots != NULL) {
		segment->slots = slots;
		segment->cap = segment->puts;
	}
}

int
recover_pass(struct tr_spool *spool, struct tr_recovery *stats, struct names *queues)
{
	struct recovery rec = {.spool = spool, .queues = queues};
	struct scan scan = {.frame = on_frame, .damage = on_damage, .arg = &rec, .salvage = spool->read_only};
	uint64_t number = spool->oldest;
	int err = map_grow(&rec);

	for (; err == TR_OK && number <= spool->newest; number++) {
		struct segment *segment = spool->ring[number & (spool->ring_cap - 1)];

		if (segment == NULL)
			continue;
		err = scan_segment(&scan, segment);
		trim(segment);
		stats->segments++;
		spool->last_number = segment->number;
		spool->last_end = segment->end;
	}
	free(rec.map);
	scan_fini(&scan);
	if (err != TR_OK)
		return err;
	name_accounts(spool);
	drop_before(spool, scan.oldest);
	spool->told = spool->oldest;
	spool->missing = count_missing(spool, scan.oldest);
	atomic_store(&spool->n.slot_bytes, 0);
	for (number = spool->oldest; number <= spool->newest; number++) {
		struct segment *segment = spool->ring[number & (spool->ring_cap - 1)];

		if (segment != NULL)
			atomic_fetch_add(&spool->n.slot_bytes, segment->cap * sizeof *segment->slots);
	}
	atomic_store(&spool->next_seq, rec.max_seq + 1);
	atomic_fetch_add(&spool->n.damaged_frames, scan.damaged_frames + spool->missing + spool->headless);
	stats->frames = scan.frames;
	stats->bytes = scan.bytes;
	stats->damaged_frames = atomic_load(&spool->n.damaged_frames);
	stats->damaged_bytes = scan.damaged_bytes;
	stats->torn_bytes = scan.torn_bytes;
	stats->messages = atomic_load(&spool->n.live_messages);
	return TR_OK;
}
