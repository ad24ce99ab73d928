#include "places.h"

#include <execinfo.h>
#include <lua.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"

#define FRAMES 20    /* nearest to the allocation; further up everything is a turn of the loop */
#define OWN_FRAMES 3 /* places_note(), fails(), the allocator */
#define SEATS (1 << 17)
#define NUMBERS_MAX (1 << 17)

static struct {
	uint64_t hash; /* 0: free */
	unsigned count;
} * seats;
static struct {
	uint32_t numbers[NUMBERS_MAX];
	size_t count;
} * chosen[2];
static unsigned most;

void
places_begin(unsigned each)
{
	most = each;
	free(seats);
	seats = calloc(SEATS, sizeof *seats);
	for (int i = 0; i < 2; i++) {
		free(chosen[i]);
		chosen[i] = calloc(1, sizeof *chosen[i]);
		if (seats == NULL || chosen[i] == NULL)
			abort();
	}
}

static uint64_t
mix(uint64_t hash, uint64_t value)
{
	hash = (hash ^ value) * UINT64_C(0x9e3779b97f4a7c15);
	return hash ^ hash >> 29;
}

/* Which line of Lua runs: a string of LuaJIT's is the same as long as its chunk lives, so its bytes are taken. */
static uint64_t
line_of_lua(lua_State *L, uint64_t hash)
{
	lua_Debug at;

	for (int level = 0; level < 2 && L != NULL && lua_getstack(L, level, &at) == 1; level++) {
		lua_getinfo(L, "Sl", &at);
		hash = mix(hash, tr_hash(at.short_src, strlen(at.short_src)));
		hash = mix(hash, (uint64_t)(at.currentline + 1));
	}
	return hash;
}

void
places_note(enum memory_kind kind, uint64_t n)
{
	void *frames[FRAMES + OWN_FRAMES];
	int count = backtrace(frames, FRAMES + OWN_FRAMES);
	uint64_t hash = line_of_lua(memory_lua(), (uint64_t)kind + 1);
	size_t at;

	for (int i = OWN_FRAMES; i < count; i++)
		hash = mix(hash, (uintptr_t)frames[i]);
	hash |= 1;
	for (at = hash >> 20 & (SEATS - 1); seats[at].hash != 0 && seats[at].hash != hash; at = (at + 1) & (SEATS - 1))
		;
	seats[at].hash = hash;
	if (seats[at].count++ < most && chosen[kind]->count < NUMBERS_MAX)
		chosen[kind]->numbers[chosen[kind]->count++] = (uint32_t)n;
}

const uint32_t *
places_chosen(enum memory_kind kind, size_t *count)
{
	*count = chosen[kind]->count;
	return chosen[kind]->numbers;
}
