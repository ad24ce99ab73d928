#include "faults.h"

#include <execinfo.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "base/diag.h"
#include "libraries.h"
#include "memory.h"
#include "places.h"

#define LOG_BYTES (64 << 10) /* of the log's last lines, for a report */

void __real_tr_log_sink(void (*sink)(void *arg, enum tr_level level, const char *target, const char *text), void *arg);
/* what the linker asks for */
void __wrap_tr_log_sink(void (*sink)(void *arg, enum tr_level level, const char *target, const char *text), void *arg);

struct campaign_board *campaign_board;
struct campaign_seat *campaign_seat;
static uint64_t lines[TR_LEVEL_ERROR + 1];
static char log_text[LOG_BYTES + 1];
static size_t log_len;

static void
count_failure(void)
{
	atomic_fetch_add(&campaign_board->faults, 1);
}

static void
count_served(void)
{
	atomic_fetch_add(&campaign_board->served, 1);
}

/* --- the log: without memory ------------------------------------------------------------------------------------- */

static void
line_logged(void *arg, enum tr_level level, const char *target, const char *text)
{
	int len;

	(void)arg;
	lines[level]++;
	if (strstr(text, "outside of a protected call") != NULL) { /* it aborts now */
		void *frames[24];

		fprintf(stderr, "%s\n", text);
		backtrace_symbols_fd(frames, backtrace(frames, 24), STDERR_FILENO);
	}
	if (log_len > LOG_BYTES / 2) {
		memmove(log_text, log_text + log_len / 2, log_len - log_len / 2);
		log_len -= log_len / 2;
	}
	len = snprintf(log_text + log_len, LOG_BYTES - log_len, "%s %s: %.1000s\n",
		level == TR_LEVEL_ERROR  ? "ERROR"
		: level == TR_LEVEL_WARN ? "WARN"
					 : "info",
		target, text);
	log_len += (size_t)tr_min_i64(len, (int64_t)(LOG_BYTES - log_len - 1));
}

/* Nobody else gets them: to keep lines needs memory. */
void
__wrap_tr_log_sink(void (*sink)(void *arg, enum tr_level level, const char *target, const char *text), void *arg)
{
	(void)sink, (void)arg;
}

/* --- the module ----------------------------------------------------------------------------------------------------
 */

static void
arm_library(const char *name, uint64_t after, uint64_t times)
{
	static bool taken;
	unsigned library = 0;

	if (!taken)
		libraries_take();
	taken = true;
	libraries_watch_all();
	libraries_on_failure(count_failure);
	while (name != NULL && libraries_name(library) != NULL && strcmp(libraries_name(library), name) != 0)
		library++;
	libraries_arm(library, after, times);
}

/* arm('malloc' | 'lua' | a library | nil, after, times): so many allocations go well, then so many fail. Counts from 0.
 * Of libraries, it counts those of all. */
static int
l_arm(lua_State *L)
{
	const char *what = luaL_optstring(L, 1, NULL);

	if (what == NULL || strncmp(what, "lib", 3) == 0) {
		arm_library(what, (uint64_t)luaL_checknumber(L, 2), (uint64_t)luaL_checknumber(L, 3));
		return 0;
	}
	memory_on_failure(count_failure);
	memory_on_reserve(count_served);
	memory_arm(strcmp(luaL_checkstring(L, 1), "lua") == 0 ? MEMORY_LUA : MEMORY_C, (uint64_t)luaL_checknumber(L, 2),
		(uint64_t)luaL_checknumber(L, 3));
	return 0;
}

/* disarm() -> allocations since arm: malloc's, Lua's */
static int
l_disarm(lua_State *L)
{
	lua_pushnumber(L, (lua_Number)memory_disarm(MEMORY_C));
	lua_pushnumber(L, (lua_Number)memory_disarm(MEMORY_LUA));
	return 2;
}

/* disarm_libraries() -> table: allocations since arm, by the library's name; without those that abort */
static int
l_disarm_libraries(lua_State *L)
{
	libraries_calm();
	lua_newtable(L);
	for (unsigned i = 0; libraries_name(i) != NULL; i++) {
		if (libraries_allocated(i) == 0 || libraries_aborts(i))
			continue;
		lua_pushnumber(L, (lua_Number)libraries_allocated(i));
		lua_setfield(L, -2, libraries_name(i));
	}
	return 1;
}

/* calm(): nothing fails any more, though it counts on */
static int
l_calm(lua_State *L)
{
	(void)L;
	memory_calm();
	return 0;
}

/* catch_log(): lines go nowhere and are counted from 0 */
static int
l_catch_log(lua_State *L)
{
	(void)L;
	memset(lines, 0, sizeof lines);
	log_len = 0;
	__real_tr_log_sink(line_logged, NULL);
	return 0;
}

/* log() -> lines of warnings and errors since catch_log(), the last lines as text */
static int
l_log(lua_State *L)
{
	lua_pushnumber(L, (lua_Number)(lines[TR_LEVEL_WARN] + lines[TR_LEVEL_ERROR]));
	lua_pushlstring(L, log_text, log_len);
	return 2;
}

/* choose(most): of the allocations until disarm(), those are noted that are called for from a place that fewer than
 * `most` before were: the C functions, and the line of Lua. */
static int
l_choose(lua_State *L)
{
	places_begin((unsigned)luaL_checknumber(L, 1));
	memory_on_each(places_note);
	return 0;
}

/* chosen('malloc' | 'lua') -> their numbers, from 0; ends choose() */
static int
l_chosen(lua_State *L)
{
	size_t count;
	const uint32_t *numbers =
		places_chosen(strcmp(luaL_checkstring(L, 1), "lua") == 0 ? MEMORY_LUA : MEMORY_C, &count);

	memory_on_each(NULL);
	lua_createtable(L, (int)count, 0);
	for (size_t i = 0; i < count; i++) {
		lua_pushnumber(L, numbers[i]);
		lua_rawseti(L, -2, (int)i + 1);
	}
	return 1;
}

/* total(count): how many cases the sweep has */
static int
l_total(lua_State *L)
{
	atomic_store(&campaign_board->total, (uint64_t)luaL_checknumber(L, 1));
	return 0;
}

/* begin(index, text): a case; whoever watches gives it so many seconds */
static int
l_begin(lua_State *L)
{
	snprintf(campaign_seat->what, sizeof campaign_seat->what, "%s", luaL_checkstring(L, 2));
	atomic_store(&campaign_seat->next, (uint64_t)luaL_checknumber(L, 1) + 1);
	atomic_fetch_add(&campaign_board->cases, 1);
	alarm((unsigned)luaL_checknumber(L, 3));
	return 0;
}

/* done(): all cases of this process were run */
static int
l_done(lua_State *L)
{
	(void)L;
	atomic_store(&campaign_seat->done, true);
	alarm(120); /* for what ends now */
	return 0;
}

/* faults(count): so many more were injected */
static int
l_faults(lua_State *L)
{
	atomic_fetch_add(&campaign_board->faults, (uint64_t)luaL_checknumber(L, 1));
	return 0;
}

/* wrong(text): the case under way has shown something that must not be */
static int
l_wrong(lua_State *L)
{
	atomic_fetch_add(&campaign_board->wrong, 1);
	fprintf(stderr, "WRONG %s\n%s\n", campaign_seat->what, luaL_checkstring(L, 1));
	return 0;
}

/* cpu() -> seconds of this process */
static int
l_cpu(lua_State *L)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	lua_pushnumber(L, (lua_Number)now.tv_sec + (lua_Number)now.tv_nsec / 1e9);
	return 1;
}

int
luaopen_tr_campaign(lua_State *L)
{
	static const luaL_Reg functions[] = {
		{"arm", l_arm},
		{"disarm", l_disarm},
		{"disarm_libraries", l_disarm_libraries},
		{"calm", l_calm},
		{"choose", l_choose},
		{"chosen", l_chosen},
		{"catch_log", l_catch_log},
		{"log", l_log},
		{"total", l_total},
		{"begin", l_begin},
		{"done", l_done},
		{"faults", l_faults},
		{"wrong", l_wrong},
		{"cpu", l_cpu},
		{NULL, NULL},
	};

	lua_newtable(L);
	luaL_setfuncs(L, functions, 0);
	return 1;
}
