/* References keep their values whatever allocation fails: of taking one, and of what libraries put into the registry.
 */
#include "fixture.h"

#define REFS 5000

static lua_Alloc real;
static int left = -1; /* allocations that succeed before one fails; -1: none fails */

static void *
failing(void *arg, void *ptr, size_t old_size, size_t new_size)
{
	if (new_size > old_size && left >= 0 && left-- == 0)
		return NULL;
	return real(arg, ptr, old_size, new_size);
}

struct take {
	lua_State *L; /* that takes it */
	int value, ref;
};

static int
take(lua_State *L)
{
	struct take *take = lua_touserdata(L, 1);

	lua_pushinteger(take->L, take->value);
	take->ref = tr_ref(take->L);
	return 0;
}

/* As a library in C does it. */
static int
strange(lua_State *L)
{
	struct take *take = lua_touserdata(L, 1);
	char name[32];

	snprintf(name, sizeof name, "library %d", take->value);
	luaL_newmetatable(L, name);
	lua_pushinteger(L, -take->value);
	take->ref = luaL_ref(L, LUA_REGISTRYINDEX);
	return 0;
}

static void
have_their_values(lua_State *L, const int *refs, int count)
{
	for (int i = 0; i < count; i++) {
		tr_ref_push(L, refs[i]);
		assert_int_equal(lua_tointeger(L, -1), i + 1);
		lua_pop(L, 1);
	}
}

/* Calls it with each of its allocations failing, then with none; returns how many failed. */
static int
with_failures(lua_State *L, lua_CFunction call, struct take *arg, const int *refs, int count)
{
	int failed = 0, top = lua_gettop(arg->L);

	for (;; failed++) {
		left = failed;
		int err = lua_cpcall(L, call, arg);
		bool over = left >= 0; /* it has fewer */

		left = -1;
		lua_settop(arg->L, top);
		if (err == 0 && over)
			return failed;
		assert_int_equal(err, LUA_ERRMEM);
		lua_settop(L, top);
		if (failed > 0) /* the first is the function of the call */
			have_their_values(L, refs, count);
	}
}

static void
stay_whatever_allocation_fails(void **state)
{
	struct fixture *f = fixture_new("", NULL);
	lua_State *L = tr_host_state(f->host), *co;
	static int refs[REFS];
	int failures = 0;
	void *arg;

	lua_settop(L, 0);
	co = lua_newthread(L);
	lua_gc(L, LUA_GCSTOP, 0);
	real = lua_getallocf(L, &arg);
	lua_setallocf(L, failing, arg);
	for (int i = 0; i < REFS; i++) {
		struct take one = {L, i + 1, LUA_NOREF};

		lua_settop(L, 1);
		lua_settop(co, 0);
		one.L = i % 2 ? co : L;
		if (i > REFS / 2 && i % 100 == 50) /* they make room, too */
			with_failures(L, strange, &(struct take){L, i + 1, 0}, refs, i);
		failures += with_failures(L, take, &one, refs, i) - 1;
		assert_true(one.ref > 0);
		refs[i] = one.ref;
	}
	assert_true(failures > 2); /* it has grown on the way */
	lua_setallocf(L, real, arg);
	have_their_values(L, refs, REFS);
	fixture_free(f);
}

static void
are_used_again(void **state)
{
	struct fixture *f = fixture_new("", NULL);
	lua_State *L = tr_host_state(f->host);
	static int refs[REFS];
	size_t size;

	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < REFS; i++) {
			lua_pushinteger(L, i + 1);
			refs[i] = tr_ref(L);
		}
		have_their_values(L, refs, REFS);
		if (round == 0)
			size = lua_objlen(L, LUA_REGISTRYINDEX);
		assert_int_equal(lua_objlen(L, LUA_REGISTRYINDEX), size);
		for (int i = 0; i < REFS; i++)
			tr_unref(L, refs[(i * 7) % REFS]);
	}
	lua_pushnil(L);
	assert_int_equal(tr_ref(L), LUA_REFNIL);
	tr_unref(L, LUA_REFNIL);
	tr_unref(L, LUA_NOREF);
	fixture_free(f);
}

static int
nothing(lua_State *L)
{
	return 0;
}

static int
make_type(lua_State *L)
{
	static const luaL_Reg meta[] = {{"__gc", nothing}, {"__tostring", nothing}, {NULL, NULL}};
	static const luaL_Reg methods[] = {{"one", nothing}, {"two", nothing}, {NULL, NULL}};

	tr_metatable(L, "tr.test", meta, methods);
	return 0;
}

static void
metatables_are_whole_or_not_there(void **state)
{
	struct fixture *f = fixture_new("", NULL);
	lua_State *L = tr_host_state(f->host);
	int failures = 0;
	void *arg;

	lua_settop(L, 0);
	lua_gc(L, LUA_GCSTOP, 0);
	real = lua_getallocf(L, &arg);
	lua_setallocf(L, failing, arg);
	for (bool done = false; !done; failures++) {
		left = failures;
		done = lua_cpcall(L, make_type, NULL) == 0;
		left = -1;
		lua_settop(L, 0);
		luaL_getmetatable(L, "tr.test");
		assert_int_equal(lua_istable(L, 1), done);
	}
	lua_setallocf(L, real, arg);
	assert_true(failures > 6);
	lua_getfield(L, 1, "__gc");
	lua_getfield(L, 1, "__tostring");
	lua_getfield(L, 1, "__index");
	lua_getfield(L, -1, "two");
	assert_true(lua_iscfunction(L, 2) && lua_iscfunction(L, 3) && lua_iscfunction(L, 5));
	fixture_free(f);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stay_whatever_allocation_fails),
		cmocka_unit_test(are_used_again),
		cmocka_unit_test(metatables_are_whole_or_not_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
