/* Two bits for each unit of 16 bytes: whether it is taken, and whether it is the last of its piece. Pieces are found
 * from the lowest address on, so that the pages in use stay few. */
#include "policy/reserve.h"

#include <stdint.h>
#include <sys/mman.h>

#define UNIT 16
#define WORD 64 /* units of a word of bits */

struct tr_reserve {
	size_t mapped; /* bytes, with this */
	size_t words, used;
	size_t first; /* word: those before it have nothing free */
	char *base;
	uint64_t *taken, *last;
};

struct tr_reserve *
tr_reserve_new(size_t bytes)
{
	size_t words = (bytes + UNIT * WORD - 1) / (UNIT * WORD);
	size_t head = (sizeof(struct tr_reserve) + 2 * words * sizeof(uint64_t) + UNIT - 1) / UNIT * UNIT;
	size_t mapped = head + words * UNIT * WORD;
	struct tr_reserve *reserve = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (reserve == MAP_FAILED)
		return NULL;
	reserve->mapped = mapped;
	reserve->words = words;
	reserve->taken = (uint64_t *)(reserve + 1);
	reserve->last = reserve->taken + words;
	reserve->base = (char *)reserve + head;
	return reserve;
}

void
tr_reserve_free(struct tr_reserve *reserve)
{
	if (reserve != NULL)
		munmap(reserve, reserve->mapped);
}

size_t
tr_reserve_bytes(const struct tr_reserve *reserve)
{
	return reserve->words * WORD * UNIT;
}

size_t
tr_reserve_used(const struct tr_reserve *reserve)
{
	return reserve->used;
}

bool
tr_reserve_holds(const struct tr_reserve *reserve, const void *ptr)
{
	return (uintptr_t)ptr - (uintptr_t)reserve->base < tr_reserve_bytes(reserve);
}

static size_t
unit_of(const struct tr_reserve *reserve, const void *ptr)
{
	return (size_t)((const char *)ptr - reserve->base) / UNIT;
}

static size_t
units(size_t bytes)
{
	return bytes / UNIT + (bytes % UNIT != 0);
}

/* The end of the piece that begins there: the unit behind it. */
static size_t
end_of(const struct tr_reserve *reserve, size_t at)
{
	uint64_t bits = reserve->last[at / WORD] & UINT64_MAX << at % WORD;

	for (at /= WORD; bits == 0; bits = reserve->last[at])
		at++;
	return at * WORD + (size_t)__builtin_ctzll(bits) + 1;
}

/* Sets, or clears, the bits of [at, end). */
static void
mark(uint64_t *bits, size_t at, size_t end, bool on)
{
	while (at < end) {
		size_t next = (at / WORD + 1) * WORD < end ? (at / WORD + 1) * WORD : end;
		uint64_t mask = UINT64_MAX << at % WORD;

		if (next % WORD != 0)
			mask &= UINT64_MAX >> (WORD - next % WORD);
		if (on)
			bits[at / WORD] |= mask;
		else
			bits[at / WORD] &= ~mask;
		at = next;
	}
}

/* The first of `count` free units in a row from `at` on; the number of all: none. */
static size_t
find(const struct tr_reserve *reserve, size_t at, size_t count)
{
	size_t all = reserve->words * WORD, begin = at;

	while (at < all && at - begin < count) {
		uint64_t word = reserve->taken[at / WORD] >> at % WORD;

		if (word == 0) {
			at = (at / WORD + 1) * WORD;
		} else if (word & 1) {
			at += ~word == 0 ? WORD : (size_t)__builtin_ctzll(~word);
			begin = at;
		} else {
			at += (size_t)__builtin_ctzll(word);
		}
	}
	return at - begin >= count ? begin : all;
}

void *
tr_reserve_take(struct tr_reserve *reserve, size_t bytes)
{
	size_t count = units(bytes), at;

	if (bytes > tr_reserve_bytes(reserve) - reserve->used)
		return NULL;
	while (reserve->first < reserve->words && reserve->taken[reserve->first] == UINT64_MAX)
		reserve->first++;
	at = find(reserve, reserve->first * WORD, count);
	if (at == reserve->words * WORD)
		return NULL;
	mark(reserve->taken, at, at + count, true);
	mark(reserve->last, at + count - 1, at + count, true);
	reserve->used += count * UNIT;
	return reserve->base + at * UNIT;
}

void
tr_reserve_give(struct tr_reserve *reserve, void *ptr)
{
	size_t at = unit_of(reserve, ptr), end = end_of(reserve, at);

	mark(reserve->taken, at, end, false);
	mark(reserve->last, end - 1, end, false);
	reserve->used -= (end - at) * UNIT;
	if (at / WORD < reserve->first)
		reserve->first = at / WORD;
	if (reserve->used == 0) { /* whole pages behind the head; that it fails does no harm */
		uintptr_t page = ((uintptr_t)reserve->base + 4095) & ~(uintptr_t)4095;

		madvise((void *)page, (uintptr_t)reserve + reserve->mapped - page, MADV_DONTNEED);
	}
}

bool
tr_reserve_resize(struct tr_reserve *reserve, void *ptr, size_t bytes)
{
	size_t at = unit_of(reserve, ptr), end = end_of(reserve, at), to = at + units(bytes);

	if (to > end) {
		if (to > reserve->words * WORD || find(reserve, end, to - end) != end)
			return false;
		mark(reserve->taken, end, to, true);
	} else {
		mark(reserve->taken, to, end, false);
		if (to / WORD < reserve->first)
			reserve->first = to / WORD;
	}
	mark(reserve->last, end - 1, end, false);
	mark(reserve->last, to - 1, to, true);
	reserve->used = reserve->used - (end - at) * UNIT + (to - at) * UNIT;
	return true;
}

size_t
tr_reserve_length(const struct tr_reserve *reserve, const void *ptr)
{
	size_t at = unit_of(reserve, ptr);

	return (end_of(reserve, at) - at) * UNIT;
}
