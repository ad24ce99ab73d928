/* A hierarchical wheel of stubs with 1 ms ticks: what a waiting message costs is its two links. An entry stands on the
 * level of the highest byte in which its moment differs from now, so that it comes down a level when that byte is
 * reached. Order within a millisecond is that of arrival. */
#include "base/clock.h"
#include "queue/slots.h"

void
slot_wheel_init(struct slot_wheel *wheel, struct tr_spool *spool)
{
	memset(wheel, 0, sizeof *wheel);
	memset(wheel->head, 0xff, sizeof wheel->head); /* TR_NO_SLOT */
	memset(wheel->tail, 0xff, sizeof wheel->tail);
	wheel->spool = spool;
	wheel->now_ms = tr_mono_ns() / TR_NS_PER_MS;
	wheel->offset_ms = tr_wall_ms() - wheel->now_ms;
}

static int64_t
due_of(const struct slot_wheel *wheel, uint32_t slot)
{
	return tr_stub_due_ms(tr_spool_stub(wheel->spool, slot)) - wheel->offset_ms;
}

static void
place(struct slot_wheel *wheel, uint32_t slot)
{
	struct tr_stub *stub = tr_spool_stub(wheel->spool, slot);
	int64_t due = tr_min_i64(due_of(wheel, slot), wheel->now_ms + (INT64_C(1) << 39));
	uint32_t level = 0, index;
	uint64_t differs;

	if (due < wheel->now_ms)
		due = wheel->now_ms;
	for (differs = (uint64_t)(due ^ wheel->now_ms); differs >= SLOT_BUCKETS && level < SLOT_LEVELS - 1;
		differs >>= 8)
		level++;
	index = (uint32_t)(due >> (8 * level)) & (SLOT_BUCKETS - 1);
	stub->next = TR_NO_SLOT;
	stub->prev = wheel->tail[level][index];
	if (wheel->head[level][index] == TR_NO_SLOT)
		wheel->head[level][index] = slot;
	else
		tr_spool_stub(wheel->spool, wheel->tail[level][index])->next = slot;
	wheel->tail[level][index] = slot;
	wheel->bits[level][index / 64] |= UINT64_C(1) << (index % 64);
}

void
slot_wheel_add(struct slot_wheel *wheel, uint32_t slot)
{
	place(wheel, slot);
	place_set(tr_spool_stub(wheel->spool, slot), PLACE_WHEEL);
	wheel->count++;
}

/* The bucket whose first or last one the slot is. Mostly found at once; a due time beyond the levels, or one that had
 * passed, may be elsewhere. */
static void
find_bucket(const struct slot_wheel *wheel, uint32_t slot, uint32_t *level, uint32_t *index)
{
	int64_t due = due_of(wheel, slot);

	for (*level = 0; *level < SLOT_LEVELS; (*level)++) {
		*index = (uint32_t)(due >> (8 * *level)) & (SLOT_BUCKETS - 1);
		if (wheel->head[*level][*index] == slot || wheel->tail[*level][*index] == slot)
			return;
	}
	for (*level = 0; *level < SLOT_LEVELS; (*level)++)
		for (*index = 0; *index < SLOT_BUCKETS; (*index)++)
			if (wheel->head[*level][*index] == slot || wheel->tail[*level][*index] == slot)
				return;
}

void
slot_wheel_remove(struct slot_wheel *wheel, uint32_t slot)
{
	struct tr_stub *stub = tr_spool_stub(wheel->spool, slot);
	uint32_t level = SLOT_LEVELS, index = 0;

	if (stub->prev == TR_NO_SLOT || stub->next == TR_NO_SLOT)
		find_bucket(wheel, slot, &level, &index);
	if (stub->prev == TR_NO_SLOT)
		wheel->head[level][index] = stub->next;
	else
		tr_spool_stub(wheel->spool, stub->prev)->next = stub->next;
	if (stub->next == TR_NO_SLOT)
		wheel->tail[level][index] = stub->prev;
	else
		tr_spool_stub(wheel->spool, stub->next)->prev = stub->prev;
	if (level < SLOT_LEVELS && wheel->head[level][index] == TR_NO_SLOT)
		wheel->bits[level][index / 64] &= ~(UINT64_C(1) << (index % 64));
	stub->next = stub->prev = TR_NO_SLOT;
	place_set(stub, PLACE_NONE);
	wheel->count--;
}

/* First bucket of a level that holds something, from `from` on; SLOT_BUCKETS: none. */
static uint32_t
first_used(const struct slot_wheel *wheel, uint32_t level, uint32_t from)
{
	for (uint32_t word = from / 64; word < SLOT_BUCKETS / 64; word++) {
		uint64_t bits = wheel->bits[level][word];

		if (word == from / 64)
			bits &= ~UINT64_C(0) << (from % 64);
		if (bits != 0)
			return word * 64 + (uint32_t)__builtin_ctzll(bits);
	}
	return SLOT_BUCKETS;
}

static int64_t
next_bucket(const struct slot_wheel *wheel, uint32_t *level, uint32_t *index)
{
	for (uint32_t l = 0; l < SLOT_LEVELS; l++) {
		uint32_t now_index = (uint32_t)(wheel->now_ms >> (8 * l)) & (SLOT_BUCKETS - 1);
		uint32_t from = l == 0 ? now_index : now_index + 1;
		uint32_t used = from < SLOT_BUCKETS ? first_used(wheel, l, from) : SLOT_BUCKETS;

		if (used < SLOT_BUCKETS) {
			*level = l;
			*index = used;
			return (wheel->now_ms >> (8 * (l + 1)) << (8 * (l + 1))) + ((int64_t)used << (8 * l));
		}
	}
	return INT64_MAX;
}

int64_t
slot_wheel_next_ms(const struct slot_wheel *wheel)
{
	uint32_t level, index;

	return next_bucket(wheel, &level, &index);
}

static uint32_t
take_bucket(struct slot_wheel *wheel, uint32_t level, uint32_t index)
{
	uint32_t head = wheel->head[level][index];

	wheel->head[level][index] = wheel->tail[level][index] = TR_NO_SLOT;
	wheel->bits[level][index / 64] &= ~(UINT64_C(1) << (index % 64));
	return head;
}

static void
place_all(struct slot_wheel *wheel, uint32_t slot)
{
	while (slot != TR_NO_SLOT) {
		uint32_t next = tr_spool_stub(wheel->spool, slot)->next;

		place(wheel, slot);
		slot = next;
	}
}

uint32_t
slot_wheel_pop(struct slot_wheel *wheel, int64_t now_ms)
{
	uint32_t level, index;

	for (;;) {
		int64_t at = next_bucket(wheel, &level, &index);

		if (at > now_ms) {
			if (now_ms > wheel->now_ms)
				wheel->now_ms = now_ms;
			return TR_NO_SLOT;
		}
		if (at > wheel->now_ms)
			wheel->now_ms = at;
		if (level == 0) {
			uint32_t slot = wheel->head[0][index];
			struct tr_stub *stub = tr_spool_stub(wheel->spool, slot);

			wheel->head[0][index] = stub->next;
			if (stub->next == TR_NO_SLOT)
				take_bucket(wheel, 0, index);
			else
				tr_spool_stub(wheel->spool, stub->next)->prev = TR_NO_SLOT;
			stub->next = TR_NO_SLOT;
			place_set(stub, PLACE_NONE);
			wheel->count--;
			return slot;
		}
		place_all(wheel, take_bucket(wheel, level, index));
	}
}

uint32_t
slot_wheel_detach(struct slot_wheel *wheel, uint32_t level, uint32_t index)
{
	uint32_t head = take_bucket(wheel, level, index);

	for (uint32_t slot = head; slot != TR_NO_SLOT; slot = tr_spool_stub(wheel->spool, slot)->next) {
		place_set(tr_spool_stub(wheel->spool, slot), PLACE_NONE);
		wheel->count--;
	}
	return head;
}

/* shift_ms: how far the due times of what was tried already move with the clock. */
static void
move(struct slot_wheel *wheel, int64_t offset_ms, int64_t shift_ms)
{
	uint32_t all = TR_NO_SLOT;

	for (uint32_t level = 0; level < SLOT_LEVELS; level++) {
		for (uint32_t index = 0; index < SLOT_BUCKETS; index++) {
			uint32_t tail = wheel->tail[level][index];
			uint32_t head = take_bucket(wheel, level, index);

			if (head == TR_NO_SLOT)
				continue;
			tr_spool_stub(wheel->spool, tail)->next = all;
			all = head;
		}
	}
	for (uint32_t slot = all; shift_ms != 0 && slot != TR_NO_SLOT; slot = tr_spool_stub(wheel->spool, slot)->next) {
		struct tr_stub *stub = tr_spool_stub(wheel->spool, slot);

		if (tr_stub_attempts(stub) > 0)
			tr_stub_set(stub, tr_stub_due_ms(stub) + shift_ms, tr_stub_flags(stub), tr_stub_attempts(stub));
	}
	wheel->offset_ms = offset_ms;
	place_all(wheel, all);
}

void
slot_wheel_rebase(struct slot_wheel *wheel, int64_t offset_ms)
{
	move(wheel, offset_ms, 0);
}

void
slot_wheel_step(struct slot_wheel *wheel, int64_t offset_ms)
{
	move(wheel, offset_ms, offset_ms - wheel->offset_ms);
}
