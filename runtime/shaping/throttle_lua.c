/* `require 'tr.shaping'`: throttles for policies. lua/kumo/throttle.lua makes kumo.make_throttle of it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "policy/policy.h"
#include "shaping/shaping.h"
#include "shaping/throttle_lua.h"

#define THROTTLE "tr.shaping.throttle"

struct box {
	struct tr_throttle *throttle; /* referenced; NULL: collected */
};

static struct tr_shaping *
check_shaping(lua_State *L, const char *function)
{
	struct tr_shaping *shaping = tr_service(L, TR_SERVICE_SHAPING);

	if (shaping == NULL)
		luaL_error(L, "%s: there are no throttles in this program", function);
	return shaping;
}

static struct tr_throttle *
check_throttle(lua_State *L)
{
	struct box *box = luaL_checkudata(L, 1, THROTTLE);

	luaL_argcheck(L, box->throttle != NULL, 1, "throttle expected");
	return box->throttle;
}

/* throttle(key, spec) -> object. key: the whole name. Raises for a bad spec. */
static int
l_throttle(lua_State *L)
{
	struct tr_shaping *shaping = check_shaping(L, "make_throttle");
	struct tr_str name, text;
	struct tr_rate_spec spec;
	const char *why;
	struct box *box;

	name.data = luaL_checklstring(L, 1, &name.len);
	text.data = luaL_checklstring(L, 2, &text.len);
	if (tr_rate_spec_parse(text, &spec, &why) != TR_OK)
		return luaL_error(L, "'%s' is not a throttle: %s", text.data, why);
	box = lua_newuserdata(L, sizeof *box);
	box->throttle = NULL;
	luaL_getmetatable(L, THROTTLE);
	lua_setmetatable(L, -2);
	if (tr_throttle_get(shaping, name, &spec, &box->throttle) != TR_OK)
		return luaL_error(L, "out of memory");
	return 1;
}

static void
set_duration(lua_State *L, const char *key, int64_t ns)
{
	int64_t seconds = ns / TR_NS_PER_S;

	lua_createtable(L, 0, 2);
	lua_pushnumber(L, (lua_Number)seconds);
	lua_setfield(L, -2, "secs");
	lua_pushnumber(L, (lua_Number)(ns % TR_NS_PER_S));
	lua_setfield(L, -2, "nanos");
	lua_setfield(L, -2, key);
}

static void
push_result(lua_State *L, const struct tr_throttle_result *result)
{
	lua_createtable(L, 0, 5);
	lua_pushboolean(L, result->throttled);
	lua_setfield(L, -2, "throttled");
	lua_pushnumber(L, (lua_Number)result->limit);
	lua_setfield(L, -2, "limit");
	lua_pushnumber(L, (lua_Number)result->remaining);
	lua_setfield(L, -2, "remaining");
	set_duration(L, "reset_after", result->reset_after_ns);
	if (result->throttled)
		set_duration(L, "retry_after", result->retry_after_ns);
}

/* --- a decision of the backend ----------------------------------------------------------------------- */

struct check_op {
	struct tr_shared_op op;
	struct tr_shaping *shaping;
	struct tr_throttle *throttle; /* referenced */
	struct tr_ticket ticket;
};

static void
check_free(struct check_op *check)
{
	tr_throttle_unref(check->throttle);
	free(check);
}

static int
push_answer(lua_State *L, void *arg)
{
	struct check_op *check = arg;

	if (check->op.err == TR_OK) {
		push_result(L, &check->op.result);
	} else {
		struct tr_str key = tr_throttle_key(check->throttle);

		lua_pushfstring(L, "throttle '%s': %s", key.data,
			check->op.error[0] ? check->op.error : tr_err_text(check->op.err));
	}
	return 1;
}

static void
fall_back(struct check_op *check)
{
	if (check->op.err == TR_OK || !tr_shaping_backend(check->shaping)->fallback_local)
		return;
	check->op.err = TR_OK;
	tr_throttle_check(check->throttle, tr_mono_ns(), check->op.quantity, &check->op.result);
}

static void
answered(struct tr_shared_op *op)
{
	struct check_op *check = tr_container_of(op, struct check_op, op);

	fall_back(check);
	tr_task_wake(&check->ticket, push_answer, check, check->op.err != TR_OK);
	check_free(check);
}

static void
check_cancel(void *arg)
{
	struct check_op *check = arg;

	tr_shared_cancel(check->shaping, &check->op);
	check_free(check);
}

/* check(throttle, [quantity]) -> result. Waits if the throttle is shared; raises if it cannot be asked. */
static int
l_check(lua_State *L)
{
	struct tr_throttle *throttle = check_throttle(L);
	lua_Integer quantity = luaL_optinteger(L, 2, 1);
	struct tr_throttle_result result;
	struct check_op *check;
	struct tr_task *task;
	int err;

	luaL_argcheck(L, quantity >= 1 && quantity <= INT32_MAX, 2, "1 to 2147483647 expected");
	if (!tr_throttle_is_shared(throttle)) {
		tr_throttle_check(throttle, tr_mono_ns(), (uint32_t)quantity, &result);
		push_result(L, &result);
		return 1;
	}
	task = tr_task_check(L);
	check = calloc(1, sizeof *check);
	if (check == NULL)
		return luaL_error(L, "out of memory");
	check->shaping = tr_service(L, TR_SERVICE_SHAPING);
	check->throttle = tr_throttle_ref(throttle);
	check->op.kind = TR_SHARED_THROTTLE;
	check->op.key = tr_throttle_key(throttle);
	check->op.spec = tr_throttle_spec(throttle);
	check->op.quantity = (uint32_t)quantity;
	check->op.then = answered;
	err = tr_shared_start(check->shaping, tr_host_loop(tr_host_of(L)), &check->op);
	if (err != TR_OK) {
		check->op.err = err;
		fall_back(check);
		push_answer(L, check);
		err = check->op.err;
		check_free(check);
		return err == TR_OK ? 1 : lua_error(L);
	}
	tr_task_describe_text(task, "throttle ", tr_throttle_key(throttle).data);
	return tr_task_park(task, L, check_cancel, check, &check->ticket);
}

/* --- what explain() and the waits need ------------------------------------------------------------------ */

/* spec(throttle) -> { text=, quantity=, burst=, period= (s), has_burst=, is_local=, shared=, key= } */
static int
l_spec(lua_State *L)
{
	struct tr_throttle *throttle = check_throttle(L);
	const struct tr_rate_spec *spec = tr_throttle_spec(throttle);
	int64_t period_s = spec->period_ns / TR_NS_PER_S;
	char text[96];

	tr_rate_spec_format(spec, text);
	lua_createtable(L, 0, 8);
	lua_pushstring(L, text);
	lua_setfield(L, -2, "text");
	lua_pushnumber(L, (lua_Number)spec->quantity);
	lua_setfield(L, -2, "quantity");
	lua_pushnumber(L, (lua_Number)spec->burst);
	lua_setfield(L, -2, "burst");
	lua_pushnumber(L, (lua_Number)period_s);
	lua_setfield(L, -2, "period");
	lua_pushboolean(L, spec->has_burst);
	lua_setfield(L, -2, "has_burst");
	lua_pushboolean(L, spec->local);
	lua_setfield(L, -2, "is_local");
	lua_pushboolean(L, tr_throttle_is_shared(throttle));
	lua_setfield(L, -2, "shared");
	lua_pushlstring(L, tr_throttle_key(throttle).data, tr_throttle_key(throttle).len);
	lua_setfield(L, -2, "key");
	return 1;
}

/* moment({secs=, nanos=}) -> RFC 3339 text of the first millisecond that is not before it, for msg:set_due(). */
static int
l_moment(lua_State *L)
{
	char text[32];
	double secs, nanos;
	int64_t wall_ns;

	luaL_checktype(L, 1, LUA_TTABLE);
	lua_getfield(L, 1, "secs");
	secs = lua_tonumber(L, -1);
	lua_getfield(L, 1, "nanos");
	nanos = lua_tonumber(L, -1);
	luaL_argcheck(L, secs >= 0 && secs < 4e9 && nanos >= 0 && nanos < 1e9, 1, "duration expected");
	wall_ns = tr_wall_ns() + (int64_t)secs * TR_NS_PER_S + (int64_t)nanos + TR_NS_PER_MS - 1;
	wall_ns -= wall_ns % TR_NS_PER_MS;
	lua_pushlstring(L, text, tr_rfc3339(wall_ns, text));
	return 1;
}

/* closing() -> true once the runtime stops: nobody should begin a long wait. */
static int
l_closing(lua_State *L)
{
	lua_pushboolean(L, tr_shaping_is_closing(check_shaping(L, "throttle")));
	return 1;
}

static int
l_gc(lua_State *L)
{
	struct box *box = lua_touserdata(L, 1);

	tr_throttle_unref(box->throttle);
	box->throttle = NULL;
	return 0;
}

static int
l_tostring(lua_State *L)
{
	lua_pushfstring(L, "throttle %s", tr_throttle_key(check_throttle(L)).data);
	return 1;
}

int
luaopen_tr_shaping(lua_State *L)
{
	static const luaL_Reg functions[] = {
		{"throttle", l_throttle},
		{"check", l_check},
		{"spec", l_spec},
		{"moment", l_moment},
		{"closing", l_closing},
		{NULL, NULL},
	};

	lua_newtable(L);
	luaL_setfuncs(L, functions, 0);
	luaL_newmetatable(L, THROTTLE);
	lua_pushcfunction(L, l_gc);
	lua_setfield(L, -2, "__gc");
	lua_pushcfunction(L, l_tostring);
	lua_setfield(L, -2, "__tostring");
	lua_newtable(L); /* lua/kumo/throttle.lua fills it */
	lua_pushvalue(L, -1);
	lua_setfield(L, -3, "__index");
	lua_setfield(L, -3, "methods");
	lua_pop(L, 1);
	lua_newtable(L);
	lua_setfield(L, -2, "kumo"); /* nothing of this is for policies as it is */
	return 1;
}
