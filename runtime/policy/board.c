/* What the Lua states of all workers share without a cache: small texts under names, counts of what happened in a
 * stretch of time; and tasks that Lua starts. lua/kumo/shaping and kumo.spawn_task are made of it. */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/buf.h"
#include "policy/internal.h"

/* --- texts ----------------------------------------------------------------------------------- */

struct note {
	struct note *next;
	char *name, *text;
	size_t len;
	uint64_t version;
};

static pthread_mutex_t notes_lock = PTHREAD_MUTEX_INITIALIZER;
static struct note *notes;
static _Atomic uint64_t notes_version; /* of the last change of any */

static struct note *
find_note(const char *name)
{
	struct note *note = notes;

	while (note != NULL && strcmp(note->name, name) != 0)
		note = note->next;
	return note;
}

/* board_version() -> number: something has changed if it has. Costs one load. */
static int
l_version(lua_State *L)
{
	lua_pushnumber(L, (lua_Number)atomic_load_explicit(&notes_version, memory_order_acquire));
	return 1;
}

/* board_get(name) -> text or nil, version */
static int
l_get(lua_State *L)
{
	const char *name = luaL_checkstring(L, 1);
	struct tr_buf text = {0};
	uint64_t version = 0;
	struct note *note;

	pthread_mutex_lock(&notes_lock);
	note = find_note(name);
	if (note != NULL) {
		tr_buf_add(&text, note->text, note->len);
		version = note->version;
	}
	pthread_mutex_unlock(&notes_lock);
	if (note == NULL || text.failed)
		lua_pushnil(L);
	else
		lua_pushlstring(L, text.data != NULL ? text.data : "", text.len);
	tr_buf_free(&text);
	lua_pushnumber(L, (lua_Number)version);
	return 2;
}

/* board_swap(name, version, text) -> true; false: somebody else was faster. The version of what is not there is 0. */
static int
l_swap(lua_State *L)
{
	const char *name = luaL_checkstring(L, 1);
	uint64_t version = (uint64_t)luaL_checknumber(L, 2);
	size_t len;
	const char *text = luaL_checklstring(L, 3, &len);
	char *copy = malloc(len + 1);
	struct note *note;
	bool swapped = false;

	if (copy == NULL)
		return luaL_error(L, "out of memory");
	memcpy(copy, text, len + 1);
	pthread_mutex_lock(&notes_lock);
	note = find_note(name);
	if (note == NULL && version == 0) {
		note = calloc(1, sizeof *note);
		if (note != NULL)
			note->name = strdup(name);
		if (note != NULL && note->name != NULL) {
			note->next = notes;
			notes = note;
		} else {
			free(note);
			note = NULL;
		}
	}
	if (note != NULL && note->version == version) {
		char *old = note->text;
		note->text = copy;
		note->len = len;
		note->version = atomic_fetch_add(&notes_version, 1) + 1;
		copy = old;
		swapped = true;
	}
	pthread_mutex_unlock(&notes_lock);
	free(copy);
	lua_pushboolean(L, swapped);
	return 1;
}

/* --- counts ------------------------------------------------------------------------------------ */

#define TALLIES 4096     /* of all keys; the one not used for longest goes first */
#define TALLY_MAX 10000u /* events that one key can remember: 80 KB */

struct tally {
	char *key;
	uint64_t hash;
	uint32_t limit, count, first; /* ring of moments */
	double *at_s, last_s;
};

static pthread_mutex_t tallies_lock = PTHREAD_MUTEX_INITIALIZER;
static struct tally tallies[TALLIES];
static size_t tally_count;

/* The entry for a key with room for `limit` moments; NULL: no memory. */
static struct tally *
find_tally(const char *key, size_t len, uint32_t limit)
{
	uint64_t hash = tr_hash(key, len);
	struct tally *found = NULL, *oldest = NULL;

	for (size_t i = 0; i < tally_count && found == NULL; i++) {
		if (tallies[i].hash == hash && strcmp(tallies[i].key, key) == 0)
			found = &tallies[i];
		else if (oldest == NULL || tallies[i].last_s < oldest->last_s)
			oldest = &tallies[i];
	}
	if (found != NULL && found->limit == limit)
		return found;
	double *at_s = malloc(limit * sizeof *at_s);
	char *copy = strdup(key);
	if (at_s == NULL || copy == NULL) {
		free(at_s);
		free(copy);
		return NULL;
	}
	if (found == NULL)
		found = tally_count < TALLIES ? &tallies[tally_count++] : oldest;
	free(found->at_s);
	free(found->key);
	*found = (struct tally){copy, hash, limit, 0, 0, at_s, 0};
	return found;
}

/* tally(key, limit, window_s, now_s) -> how many of the last `limit` events of the key, this one included, lie within
 * the window that ends now. */
static int
l_tally(lua_State *L)
{
	size_t len;
	const char *key = luaL_checklstring(L, 1, &len);
	lua_Number limit = luaL_checknumber(L, 2), window_s = luaL_checknumber(L, 3), now_s = luaL_checknumber(L, 4);
	struct tally *tally;
	uint32_t within = 0;

	luaL_argcheck(L, limit >= 1 && limit <= TALLY_MAX, 2, "1 to 10000 expected");
	pthread_mutex_lock(&tallies_lock);
	tally = find_tally(key, len, (uint32_t)limit);
	if (tally != NULL) {
		if (tally->count < tally->limit)
			tally->at_s[(tally->first + tally->count++) % tally->limit] = now_s;
		else
			tally->at_s[tally->first++ % tally->limit] = now_s;
		tally->first %= tally->limit;
		tally->last_s = now_s;
		for (uint32_t i = 0; i < tally->count; i++)
			within += tally->at_s[i] > now_s - window_s && tally->at_s[i] <= now_s;
	}
	pthread_mutex_unlock(&tallies_lock);
	if (tally == NULL)
		return luaL_error(L, "out of memory");
	lua_pushnumber(L, within);
	return 1;
}

/* --- tasks ---------------------------------------------------------------------------------------- */

static int
push_spawned(lua_State *L, void *arg)
{
	int ref = *(int *)arg;

	tr_ref_push(L, ref);
	tr_unref(L, ref);
	return 1;
}

/* spawn(fn, event): a task of its own in this state. It runs until its first wait before this returns. Errors are
 * logged. */
static int
l_spawn(lua_State *L)
{
	struct tr_task_call call = {.event = luaL_checkstring(L, 2), .entry = "spawned", .push = push_spawned};
	int ref;

	luaL_checktype(L, 1, LUA_TFUNCTION);
	lua_pushvalue(L, 1);
	ref = tr_ref(L);
	call.push_arg = &ref;
	int err = tr_task_start(tr_host_of(L), &call, NULL);
	if (err != TR_OK) {
		tr_unref(L, ref);
		return luaL_error(L, "a task cannot be started: %s", tr_err_text(err));
	}
	return 0;
}

/* changes() -> number: it is another one after a new epoch or a change of the board. */
static int
l_changes(lua_State *L)
{
	uint64_t board = atomic_load_explicit(&notes_version, memory_order_acquire);

	lua_pushnumber(L, (lua_Number)(board + tr_config_epoch()));
	return 1;
}

static int
l_epoch(lua_State *L)
{
	lua_pushnumber(L, (lua_Number)tr_config_epoch());
	return 1;
}

/* Adds its functions to the table on top of the stack. */
void
tr_board_library(lua_State *L)
{
	static const luaL_Reg functions[] = {
		{"board_version", l_version},
		{"board_get", l_get},
		{"board_swap", l_swap},
		{"tally", l_tally},
		{"spawn", l_spawn},
		{"epoch", l_epoch},
		{"changes", l_changes},
		{NULL, NULL},
	};

	luaL_register(L, NULL, functions);
}
