/* The functions that lua/host.lua gets as a table: what cannot be said in Lua. Policies do not see them. */
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/json.h"
#include "base/options.h"
#include "policy/internal.h"

/* --- sleep ------------------------------------------------------------------------------------ */

struct sleep_op {
	struct tr_timer timer;
	struct tr_ticket ticket;
	struct tr_loop *loop;
};

static void
sleep_done(struct tr_timer *timer)
{
	struct sleep_op *op = tr_container_of(timer, struct sleep_op, timer);
	struct tr_ticket ticket = op->ticket;

	free(op); /* before the wake, which runs Lua and may do anything */
	tr_task_wake(&ticket, NULL, NULL, false);
}

static void
sleep_cancel(void *arg)
{
	struct sleep_op *op = arg;

	tr_timer_stop(tr_loop_wheel(op->loop), &op->timer);
	free(op);
}

static int
l_sleep(lua_State *L)
{
	lua_Number delay_s = luaL_checknumber(L, 1);
	struct tr_task *task = tr_task_check(L);
	struct sleep_op *op;

	luaL_argcheck(L, delay_s >= 0 && delay_s < 9.2e9, 1, "seconds >= 0 expected");
	op = calloc(1, sizeof *op);
	if (op == NULL)
		return luaL_error(L, "sleep: out of memory");
	op->loop = tr_host_loop(task->host);
	tr_task_describe(task, "sleep %g s", delay_s);
	tr_timer_start(tr_loop_wheel(op->loop), &op->timer, (int64_t)(delay_s * TR_NS_PER_S), sleep_done);
	return tr_task_park(task, L, sleep_cancel, op, &op->ticket);
}

/* --- latch: tasks of one host wait until another one opens it ------------------------------------ */

#define LATCH "tr.latch"

struct waiter {
	struct waiter *next, **prev;
	struct latch *latch; /* holds a reference */
	struct tr_timer timer;
	struct tr_ticket ticket;
};

struct latch {
	int refs; /* the Lua handle, each waiter, a queued defer */
	bool open;
	struct waiter *first, **last;
	struct tr_loop *loop;
	struct tr_defer defer;
};

static void
latch_unref(struct latch *latch)
{
	if (--latch->refs == 0)
		free(latch);
}

static struct tr_ticket
waiter_free(struct waiter *waiter)
{
	struct latch *latch = waiter->latch;
	struct tr_ticket ticket = waiter->ticket;

	tr_timer_stop(tr_loop_wheel(latch->loop), &waiter->timer);
	*waiter->prev = waiter->next;
	if (waiter->next != NULL)
		waiter->next->prev = waiter->prev;
	else
		latch->last = waiter->prev;
	free(waiter);
	latch_unref(latch);
	return ticket;
}

static void
waiter_cancel(void *arg)
{
	waiter_free(arg);
}

static int
push_bool(lua_State *L, void *arg)
{
	lua_pushboolean(L, arg != NULL);
	return 1;
}

static void
waiter_late(struct tr_timer *timer)
{
	struct tr_ticket ticket = waiter_free(tr_container_of(timer, struct waiter, timer));

	tr_task_wake(&ticket, push_bool, NULL, false);
}

static void
latch_wake(struct tr_defer *defer)
{
	struct latch *latch = tr_container_of(defer, struct latch, defer);

	while (latch->first != NULL) {
		struct tr_ticket ticket = waiter_free(latch->first);
		tr_task_wake(&ticket, push_bool, latch, false);
	}
	latch_unref(latch);
}

static struct latch *
check_latch(lua_State *L)
{
	return *(struct latch **)luaL_checkudata(L, 1, LATCH);
}

static int
l_latch_new(lua_State *L)
{
	struct latch **handle = lua_newuserdata(L, sizeof(struct latch *));

	*handle = NULL;
	luaL_getmetatable(L, LATCH);
	lua_setmetatable(L, -2);
	*handle = calloc(1, sizeof **handle);
	if (*handle == NULL)
		return luaL_error(L, "out of memory");
	(*handle)->refs = 1;
	(*handle)->last = &(*handle)->first;
	(*handle)->loop = tr_host_loop(tr_host_of(L));
	return 1;
}

/* latch:wait([seconds]) -> true when opened, false when the time is over. */
static int
l_latch_wait(lua_State *L)
{
	struct latch *latch = check_latch(L);
	lua_Number limit_s = luaL_optnumber(L, 2, -1);
	struct tr_task *task;
	struct waiter *waiter;

	if (latch->open) {
		lua_pushboolean(L, 1);
		return 1;
	}
	task = tr_task_check(L);
	waiter = calloc(1, sizeof *waiter);
	if (waiter == NULL)
		return luaL_error(L, "out of memory");
	waiter->latch = latch;
	latch->refs++;
	waiter->prev = latch->last;
	*latch->last = waiter;
	latch->last = &waiter->next;
	if (limit_s >= 0 && limit_s < 9.2e9)
		tr_timer_start(
			tr_loop_wheel(latch->loop), &waiter->timer, (int64_t)(limit_s * TR_NS_PER_S), waiter_late);
	tr_task_describe(task, "another task's result");
	return tr_task_park(task, L, waiter_cancel, waiter, &waiter->ticket);
}

static void
latch_open(struct latch *latch)
{
	latch->open = true;
	if (latch->first != NULL && !latch->defer.queued) {
		latch->refs++;
		tr_loop_defer(latch->loop, &latch->defer, latch_wake);
	}
}

static int
l_latch_open(lua_State *L)
{
	latch_open(check_latch(L));
	return 0;
}

static int
l_latch_gc(lua_State *L)
{
	struct latch **handle = luaL_checkudata(L, 1, LATCH);
	struct latch *latch = *handle;

	*handle = NULL;
	if (latch != NULL) {
		latch_open(latch); /* nobody else can any more */
		latch_unref(latch);
	}
	return 0;
}

/* --- small things ---------------------------------------------------------------------------------- */

static int
l_isyieldable(lua_State *L)
{
	lua_pushboolean(L, lua_isyieldable(L));
	return 1;
}

/* block(1) and block(-1) stand around the resume of a policy's coroutine by code that cannot yield. */
static int
l_block(lua_State *L)
{
	struct tr_task *task = tr_host_of(L)->current;

	if (task != NULL)
		task->blocked += (int)luaL_checkinteger(L, 1);
	return 0;
}

static int
l_current(lua_State *L)
{
	lua_pushlightuserdata(L, tr_host_of(L)->current);
	return 1;
}

/* Remembers (error, traceback) of the last coroutine of the policy that failed. */
static int
l_remember(lua_State *L)
{
	lua_createtable(L, 2, 0);
	lua_pushvalue(L, 1);
	lua_rawseti(L, -2, 1);
	lua_pushvalue(L, 2);
	lua_rawseti(L, -2, 2);
	lua_setfield(L, LUA_REGISTRYINDEX, "tr.inner");
	return 0;
}

static int
l_handled(lua_State *L)
{
	tr_event_mark(tr_host_of(L), luaL_checkstring(L, 1));
	return 0;
}

static const char *const level_names[] = {"trace", "debug", "info", "warn", "error", NULL};

static int
l_log(lua_State *L)
{
	enum tr_level level = (enum tr_level)luaL_checkoption(L, 1, NULL, level_names);

	tr_log(level, "lua", "%s", luaL_checkstring(L, 2));
	return 0;
}

static int
l_log_enabled(lua_State *L)
{
	lua_pushboolean(L, tr_log_enabled((enum tr_level)luaL_checkoption(L, 1, NULL, level_names), "lua"));
	return 1;
}

static int
l_log_filter(lua_State *L)
{
	lua_pushboolean(L, tr_log_filter(luaL_checkstring(L, 1)) == TR_OK);
	return 1;
}

static int
l_wall(lua_State *L)
{
	lua_pushnumber(L, (lua_Number)tr_wall_ns() / TR_NS_PER_S);
	return 1;
}

static int
l_mono(lua_State *L)
{
	lua_pushnumber(L, (lua_Number)tr_mono_ns() / TR_NS_PER_S);
	return 1;
}

/* json_parse(text, null_sentinel) -> value, or nil and the 1-based position of the error. */
static int
l_json_parse(lua_State *L)
{
	struct tr_str text;
	size_t error_at;

	text.data = luaL_checklstring(L, 1, &text.len);
	lua_pushboolean(L, 1);
	if (tr_json_push(L, text, lua_toboolean(L, 2), &error_at) == TR_OK)
		return 2; /* true, value */
	lua_pushboolean(L, 0);
	lua_pushinteger(L, (lua_Integer)error_at + 1);
	return 2;
}

/* json_encode(value, pretty) -> text, or nil and the type that cannot be encoded. */
static int
l_json_encode(lua_State *L)
{
	struct tr_buf out = {0};
	const char *what = NULL;

	luaL_checkany(L, 1);
	int err = tr_json_write(L, 1, &out, lua_toboolean(L, 2), false, &what);
	if (err == TR_OK)
		lua_pushlstring(L, out.data, out.len);
	tr_buf_free(&out);
	if (err == TR_OK)
		return 1;
	lua_pushnil(L);
	lua_pushstring(L, what != NULL ? what : "too large a value");
	return 2;
}

static int
l_array(lua_State *L)
{
	luaL_checktype(L, 1, LUA_TTABLE);
	tr_json_set_array(L, 1);
	lua_settop(L, 1);
	return 1;
}

/* nearest(name, list) -> the likely meant one, or nil. */
static int
l_nearest(lua_State *L)
{
	const char *name = luaL_checkstring(L, 1);
	const char *names[513];
	size_t count = 0;

	for (; count < TR_COUNT(names) - 1; count++) {
		lua_rawgeti(L, 2, (int)count + 1);
		names[count] = lua_tostring(L, -1); /* the table keeps it */
		lua_pop(L, 1);
		if (names[count] == NULL)
			break;
	}
	names[count] = NULL;
	lua_pushstring(L, tr_nearest(name, names));
	return 1;
}

static int
l_utf8_valid(lua_State *L)
{
	struct tr_str text;

	text.data = luaL_checklstring(L, 1, &text.len);
	lua_pushboolean(L, tr_utf8_valid(text));
	return 1;
}

/* False in programs without queues, and before they are open. */
static int
l_has_engine(lua_State *L)
{
	lua_pushboolean(L, tr_service(L, TR_SERVICE_ENGINE) != NULL);
	return 1;
}

static int
l_cpus(lua_State *L)
{
	long count = sysconf(_SC_NPROCESSORS_ONLN);

	lua_pushinteger(L, count > 0 ? count : 1);
	return 1;
}

/* newproxy with a metatable of ours: an object for the policy that is a userdata. */
static int
l_userdata(lua_State *L)
{
	luaL_checktype(L, 1, LUA_TTABLE);
	lua_newuserdata(L, 0);
	lua_pushvalue(L, 1);
	lua_setmetatable(L, -2);
	return 1;
}

void
tr_library_push(struct tr_host *host)
{
	static const luaL_Reg functions[] = {
		{"push_args", tr_l_push_args},
		{"isyieldable", l_isyieldable},
		{"block", l_block},
		{"current", l_current},
		{"remember", l_remember},
		{"sleep", l_sleep},
		{"latch", l_latch_new},
		{"handled", l_handled},
		{"reject", tr_l_reject},
		{"log", l_log},
		{"log_enabled", l_log_enabled},
		{"log_filter", l_log_filter},
		{"wall", l_wall},
		{"mono", l_mono},
		{"json_parse", l_json_parse},
		{"json_encode", l_json_encode},
		{"array", l_array},
		{"nearest", l_nearest},
		{"utf8_valid", l_utf8_valid},
		{"cpus", l_cpus},
		{"has_engine", l_has_engine},
		{"userdata", l_userdata},
		{NULL, NULL},
	};
	static const luaL_Reg latch[] = {
		{"wait", l_latch_wait}, {"open", l_latch_open}, {"__gc", l_latch_gc}, {NULL, NULL}};
	lua_State *L = host->L;

	luaL_newmetatable(L, LATCH);
	lua_pushvalue(L, -1);
	lua_setfield(L, -2, "__index");
	luaL_register(L, NULL, latch);
	lua_pop(L, 1);

	lua_newtable(L);
	luaL_register(L, NULL, functions);
	tr_frozen_library(L);
	tr_board_library(L);
	tr_time_library(L);
	lua_pushlightuserdata(L, &tr_park_key);
	lua_setfield(L, -2, "PARK");
	lua_pushlightuserdata(L, &tr_cancel_key);
	lua_setfield(L, -2, "CANCELLED");
	lua_pushlightuserdata(L, NULL);
	lua_setfield(L, -2, "NULL");
	lua_pushstring(L, host->share_dir);
	lua_setfield(L, -2, "share_dir");
	lua_pushstring(L, host->policy);
	lua_setfield(L, -2, "policy");
	lua_pushboolean(L, host->validating);
	lua_setfield(L, -2, "validating");
	lua_pushinteger(L, host->worker);
	lua_setfield(L, -2, "worker");
}
