/* Stubs: slabs of 4096 with a free list, and the few extras that do not fit a stub. */
#include <stdlib.h>

#include "spool/internal.h"

int
slots_init(struct tr_spool *spool)
{
	/* 1 MiB of address space; pages that are never used stay unbacked */
	spool->chunks = calloc(SLOT_CHUNKS, sizeof *spool->chunks);
	spool->free_slot = TR_NO_SLOT;
	return spool->chunks == NULL ? TR_ENOMEM : TR_OK;
}

void
slots_fini(struct tr_spool *spool)
{
	if (spool->chunks != NULL)
		for (uint32_t i = 0; i < spool->chunk_count; i++)
			free(spool->chunks[i]);
	free(spool->chunks);
	free(spool->extras);
}

struct tr_stub *
tr_spool_stub(const struct tr_spool *spool, uint32_t slot)
{
	struct slot_chunk *chunk = atomic_load_explicit(&spool->chunks[slot / SLOT_CHUNK], memory_order_acquire);

	return &chunk->stubs[slot % SLOT_CHUNK];
}

void
tr_stub_set(struct tr_stub *stub, int64_t due_ms, uint16_t flags, uint16_t attempts)
{
	uint64_t tries = atomic_load_explicit(&stub->tries, memory_order_relaxed);
	uint64_t kept = atomic_load_explicit(&stub->when, memory_order_relaxed) & TR_STUB_OWNERS;

	atomic_store_explicit(
		&stub->when, (uint64_t)due_ms << 16 | (flags & (uint16_t)~TR_STUB_OWNERS) | kept, memory_order_relaxed);
	atomic_store_explicit(&stub->tries, (tries & ~UINT64_C(0xffff)) | attempts, memory_order_relaxed);
}

uint32_t
tr_spool_find(struct tr_spool *spool, int64_t created_ms, uint32_t *slots, uint32_t max)
{
	uint32_t count = 0, chunks;

	pthread_mutex_lock(&spool->slots_mu);
	chunks = spool->chunk_count;
	pthread_mutex_unlock(&spool->slots_mu);
	for (uint32_t slot = 0; slot < chunks * SLOT_CHUNK && count < max; slot++) {
		const struct tr_stub *stub = tr_spool_stub(spool, slot);

		if (tr_stub_created_ms(stub) == created_ms &&
			atomic_load_explicit(&stub->loc, memory_order_relaxed) != LOC_NONE)
			slots[count++] = slot;
	}
	return count;
}

static bool
add_chunk(struct tr_spool *spool)
{
	struct slot_chunk *chunk;
	uint32_t base = spool->chunk_count * SLOT_CHUNK;

	if (spool->chunk_count == SLOT_CHUNKS)
		return false;
	chunk = calloc(1, sizeof *chunk);
	if (chunk == NULL)
		return false;
	for (uint32_t i = 0; i < SLOT_CHUNK; i++)
		chunk->stubs[i].next = i + 1 < SLOT_CHUNK ? base + i + 1 : TR_NO_SLOT;
	atomic_store_explicit(&spool->chunks[spool->chunk_count++], chunk, memory_order_release);
	spool->free_slot = base;
	atomic_fetch_add_explicit(&spool->n.chunks, 1, memory_order_relaxed);
	return true;
}

uint32_t
slot_new(struct tr_spool *spool)
{
	struct tr_stub *stub;
	uint32_t slot;

	pthread_mutex_lock(&spool->slots_mu);
	if (spool->free_slot == TR_NO_SLOT && !add_chunk(spool)) {
		pthread_mutex_unlock(&spool->slots_mu);
		return TR_NO_SLOT;
	}
	slot = spool->free_slot;
	stub = tr_spool_stub(spool, slot);
	spool->free_slot = stub->next;
	pthread_mutex_unlock(&spool->slots_mu);
	tr_stub_set_seq(stub, 0); /* no memset(): see there */
	tr_stub_set_queue(stub, 0);
	atomic_store_explicit(&stub->when, 0, memory_order_relaxed);
	atomic_store_explicit(&stub->tries, 0, memory_order_relaxed);
	stub->size = stub->order = 0;
	stub->account = stub->units = 0;
	atomic_store_explicit(&stub->loc, LOC_NONE, memory_order_relaxed);
	stub->next = stub->prev = TR_NO_SLOT;
	return slot;
}

void
slot_free_many(struct tr_spool *spool, const uint32_t *slots, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		extra_drop(spool, slots[i]);
	pthread_mutex_lock(&spool->slots_mu);
	for (uint32_t i = 0; i < count; i++) {
		struct tr_stub *stub = tr_spool_stub(spool, slots[i]);

		tr_stub_set_seq(stub, 0);
		stub->next = spool->free_slot;
		spool->free_slot = slots[i];
	}
	pthread_mutex_unlock(&spool->slots_mu);
}

void
slot_free(struct tr_spool *spool, uint32_t slot)
{
	slot_free_many(spool, &slot, 1);
}

/* --- extras: a bit in the chunk says that a slot has one, so that most never look ----------------- */

static bool
extra_bit(const struct tr_spool *spool, uint32_t slot)
{
	const struct slot_chunk *chunk = atomic_load_explicit(&spool->chunks[slot / SLOT_CHUNK], memory_order_acquire);

	return atomic_load_explicit(&chunk->has_extra[slot % SLOT_CHUNK / 64], memory_order_acquire) >> (slot % 64) & 1;
}

static void
extra_bit_set(struct tr_spool *spool, uint32_t slot, bool on)
{
	struct slot_chunk *chunk = atomic_load_explicit(&spool->chunks[slot / SLOT_CHUNK], memory_order_acquire);
	_Atomic uint64_t *word = &chunk->has_extra[slot % SLOT_CHUNK / 64];

	if (on)
		atomic_fetch_or(word, UINT64_C(1) << (slot % 64));
	else
		atomic_fetch_and(word, ~(UINT64_C(1) << (slot % 64)));
}

static uint32_t
extra_home(const struct tr_spool *spool, uint32_t slot)
{
	return (slot * 2654435761u) & (spool->extra_cap - 1);
}

/* Its place, or the empty place where it would go. */
static struct extra *
extra_find(const struct tr_spool *spool, uint32_t slot)
{
	uint32_t i = extra_home(spool, slot);

	while (spool->extras[i].used && spool->extras[i].slot != slot)
		i = (i + 1) & (spool->extra_cap - 1);
	return &spool->extras[i];
}

static int
extra_grow(struct tr_spool *spool)
{
	uint32_t old_cap = spool->extra_cap;
	struct extra *old = spool->extras, *extras;

	extras = calloc(old_cap == 0 ? 64 : (size_t)old_cap * 2, sizeof *extras);
	if (extras == NULL)
		return TR_ENOMEM;
	spool->extras = extras;
	spool->extra_cap = old_cap == 0 ? 64 : old_cap * 2;
	for (uint32_t i = 0; i < old_cap; i++)
		if (old[i].used)
			*extra_find(spool, old[i].slot) = old[i];
	free(old);
	return TR_OK;
}

bool
extra_get(const struct tr_spool *spool, uint32_t slot, struct extra *out)
{
	struct tr_spool *own = (struct tr_spool *)spool; /* for the lock alone */

	if (!extra_bit(spool, slot))
		return false;
	pthread_mutex_lock(&own->extra_mu);
	*out = *extra_find(spool, slot);
	pthread_mutex_unlock(&own->extra_mu);
	return out->used;
}

int
extra_set(struct tr_spool *spool, const struct extra *extra)
{
	struct extra *place;
	int err = TR_OK;

	pthread_mutex_lock(&spool->extra_mu);
	if (spool->extra_used * 2 >= spool->extra_cap)
		err = extra_grow(spool);
	if (err == TR_OK) {
		place = extra_find(spool, extra->slot);
		spool->extra_used += !place->used;
		*place = *extra;
		place->used = true;
		extra_bit_set(spool, extra->slot, true);
	}
	pthread_mutex_unlock(&spool->extra_mu);
	return err;
}

void
extra_drop(struct tr_spool *spool, uint32_t slot)
{
	uint32_t mask, hole, i;

	if (!extra_bit(spool, slot))
		return;
	pthread_mutex_lock(&spool->extra_mu);
	mask = spool->extra_cap - 1;
	hole = (uint32_t)(extra_find(spool, slot) - spool->extras);
	spool->extras[hole].used = false;
	spool->extra_used--;
	for (i = (hole + 1) & mask; spool->extras[i].used; i = (i + 1) & mask) { /* close the gap */
		uint32_t home = extra_home(spool, spool->extras[i].slot);

		if (((i - home) & mask) >= ((i - hole) & mask)) {
			spool->extras[hole] = spool->extras[i];
			spool->extras[i].used = false;
			hole = i;
		}
	}
	extra_bit_set(spool, slot, false);
	pthread_mutex_unlock(&spool->extra_mu);
}

int64_t
slot_units(const struct tr_spool *spool, uint32_t slot)
{
	struct extra extra;

	return extra_get(spool, slot, &extra) ? extra.units : tr_spool_stub(spool, slot)->units;
}

uint64_t
slot_length(const struct tr_spool *spool, uint32_t slot)
{
	struct extra extra;

	return extra_get(spool, slot, &extra) ? extra.frame : tr_spool_stub(spool, slot)->size;
}

int
slot_measure(
	struct tr_spool *spool, uint32_t slot, int64_t units, uint64_t length, uint64_t body_file, uint64_t body_len)
{
	struct tr_stub *stub = tr_spool_stub(spool, slot);
	struct extra extra = {.slot = slot, .units = units, .body_file = body_file, .frame = length};

	if (units < 0 || units >= UINT16_MAX || body_file != 0) {
		int err = extra_set(spool, &extra);

		if (err != TR_OK)
			return err;
	} else {
		extra_drop(spool, slot);
	}
	stub->units = units < 0 ? 0 : units > UINT16_MAX ? UINT16_MAX : (uint16_t)units;
	stub->size = length + body_len > UINT32_MAX ? UINT32_MAX : (uint32_t)(length + body_len);
	return TR_OK;
}
