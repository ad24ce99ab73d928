/* Option tables of bindings: known keys, types, defaults. The phrase ", while processing " is relied on by
 * policies (contract/lua-modules.md 1.1). */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/options.h"
#include "policy/internal.h"

#define MAX_KEYS 128
#define MAX_DEPTH 8 /* of tables in error texts */

void
tr_type(lua_State *L, const char *name, lua_CFunction gc, const luaL_Reg *methods)
{
	luaL_newmetatable(L, name);
	lua_pushcfunction(L, gc);
	lua_setfield(L, -2, "__gc");
	if (methods != NULL) {
		lua_newtable(L);
		luaL_register(L, NULL, methods);
		lua_setfield(L, -2, "__index");
	}
	lua_pop(L, 1);
}

void
tr_metatable(lua_State *L, const char *name, const luaL_Reg *meta, const luaL_Reg *methods)
{
	luaL_getmetatable(L, name);
	if (!lua_isnil(L, -1))
		return;
	lua_pop(L, 1);
	lua_newtable(L);
	luaL_setfuncs(L, meta, 0);
	if (methods != NULL) {
		lua_newtable(L);
		luaL_setfuncs(L, methods, 0);
		lua_setfield(L, -2, "__index");
	}
	lua_pushvalue(L, -1);
	lua_setfield(L, LUA_REGISTRYINDEX, name); /* last: it is there as a whole, or not at all */
}

int
tr_push_error(lua_State *L, int err, const char *fmt, ...)
{
	va_list args;

	lua_pushnil(L);
	va_start(args, fmt);
	/* lua_pushvfstring knows few formats: this one takes all of printf's */
	char text[512];
	vsnprintf(text, sizeof text, fmt, args);
	va_end(args);
	lua_pushstring(L, text);
	lua_pushstring(L, tr_err_name(err));
	return 3;
}

/* May a value of this key be seen in logs? */
static bool
is_secret(const char *key)
{
	static const char *const parts[] = {"password", "secret", "token", "key_data"};

	for (size_t i = 0; i < TR_COUNT(parts); i++) {
		if (strstr(key, parts[i]) != NULL)
			return true;
	}
	return false;
}

/* Pushes the value at idx; of a table a copy in which "..." stands for secrets. */
static void
push_shown(lua_State *L, int idx, int depth)
{
	luaL_checkstack(L, 6, "options");
	if (!lua_istable(L, idx)) {
		lua_pushvalue(L, idx);
		return;
	}
	if (depth > MAX_DEPTH) {
		lua_pushliteral(L, "...");
		return;
	}
	lua_newtable(L);
	for (lua_pushnil(L); lua_next(L, idx) != 0;) { /* copy, key, value */
		int value = lua_gettop(L);

		lua_pushvalue(L, value - 1);
		if (lua_type(L, value - 1) == LUA_TSTRING && is_secret(lua_tostring(L, value - 1)))
			lua_pushliteral(L, "...");
		else
			push_shown(L, value, depth + 1);
		lua_rawset(L, value - 2);
		lua_settop(L, value - 1);
	}
}

/* Raises "FUNCTION: TEXT, while processing {json}"; TEXT is on top of the stack. */
static void
fail(lua_State *L, int idx, const char *function)
{
	struct tr_buf json = {0};

	idx = idx < 0 ? lua_gettop(L) + 1 + idx : idx;
	push_shown(L, idx, 1);
	tr_json_write(L, lua_gettop(L), &json, false, true, NULL);
	lua_pop(L, 1);
	luaL_where(L, 1);
	lua_pushstring(L, function);
	lua_pushliteral(L, ": ");
	lua_pushvalue(L, -4);
	lua_pushliteral(L, ", while processing ");
	lua_pushlstring(L, json.data ? json.data : "", json.len);
	tr_buf_free(&json);
	lua_concat(L, 6);
	lua_error(L);
}

static void
fail_unknown(lua_State *L, int idx, const char *function, const char *name, const struct tr_key *keys, size_t count)
{
	const char *names[MAX_KEYS + 1];
	luaL_Buffer text;

	for (size_t i = 0; i < count && i < MAX_KEYS; i++)
		names[i] = keys[i].name;
	names[count < MAX_KEYS ? count : MAX_KEYS] = NULL;
	const char *near = tr_nearest(name, names);
	luaL_buffinit(L, &text);
	luaL_addstring(&text, "unknown field '");
	luaL_addstring(&text, name);
	luaL_addstring(&text, "', expected one of ");
	for (size_t i = 0; i < count; i++) {
		luaL_addstring(&text, i > 0 ? ", '" : "'");
		luaL_addstring(&text, keys[i].name);
		luaL_addstring(&text, "'");
	}
	if (near != NULL) {
		luaL_addstring(&text, " (did you mean '");
		luaL_addstring(&text, near);
		luaL_addstring(&text, "'?)");
	}
	luaL_pushresult(&text);
	fail(L, idx, function);
}

/* NULL: the value on top of the stack fits; else what was expected. */
static const char *
misfit(lua_State *L, char type)
{
	int64_t ns;
	size_t len;
	const char *text;
	int got = lua_type(L, -1);
	double number = got == LUA_TNUMBER ? lua_tonumber(L, -1) : 0;

	switch (type) {
	case 's':
		return got == LUA_TSTRING || got == LUA_TNUMBER ? NULL : "string";
	case 'b':
		return got == LUA_TBOOLEAN ? NULL : "boolean";
	case 'n':
		return got == LUA_TNUMBER ? NULL : "number";
	case 'i':
		return got == LUA_TNUMBER && number >= 0 && number == floor(number) && number <= 9007199254740992.0
			       ? NULL
			       : "integer >= 0";
	case 'd':
		if (got == LUA_TNUMBER)
			return number >= 0 && number < 9.2e9 ? NULL
							     : "duration (seconds >= 0, or text such as '5 minutes')";
		text = got == LUA_TSTRING ? lua_tolstring(L, -1, &len) : NULL;
		return text != NULL && tr_duration_parse(text, len, &ns) == TR_OK
			       ? NULL
			       : "duration (seconds >= 0, or text such as '5 minutes')";
	case 't':
		return got == LUA_TTABLE || got == LUA_TUSERDATA ? NULL : "table";
	case 'f':
		return got == LUA_TFUNCTION ? NULL : "function";
	default:
		return NULL;
	}
}

void
tr_check_options(lua_State *L, int idx, const char *function, const struct tr_key *keys, size_t count)
{
	if (idx < 0 && idx > LUA_REGISTRYINDEX)
		idx = lua_gettop(L) + idx + 1;
	if (lua_type(L, idx) != LUA_TTABLE)
		luaL_error(L, "%s: table of options expected, got %s", function, luaL_typename(L, idx));
	luaL_checkstack(L, 16, function);
	lua_pushnil(L);
	while (lua_next(L, idx)) {
		const struct tr_key *key = NULL;
		if (lua_type(L, -2) != LUA_TSTRING) {
			lua_pushvalue(L, -2);
			fail_unknown(L, idx, function, lua_isnumber(L, -1) ? lua_tostring(L, -1) : luaL_typename(L, -1),
				keys, count);
		}
		const char *name = lua_tostring(L, -2);
		for (size_t i = 0; i < count && key == NULL; i++)
			if (strcmp(keys[i].name, name) == 0)
				key = &keys[i];
		if (key == NULL) {
			fail_unknown(L, idx, function, name, keys, count);
			return;
		}
		const char *expected = misfit(L, key->type);
		if (expected != NULL) {
			lua_pushfstring(L, "field '%s': %s expected, got %s", name, expected,
				lua_type(L, -1) == LUA_TNUMBER ? lua_tostring(L, -1) : luaL_typename(L, -1));
			fail(L, idx, function);
		}
		lua_pop(L, 1);
	}
	for (size_t i = 0; i < count; i++) {
		if (!keys[i].required)
			continue;
		lua_getfield(L, idx, keys[i].name);
		if (lua_isnil(L, -1)) {
			lua_pushfstring(L, "missing field '%s'", keys[i].name);
			fail(L, idx, function);
		}
		lua_pop(L, 1);
	}
}

/* The string stays valid as long as the table holds it (a number's text: until the table's value changes). */
const char *
tr_opt_string(lua_State *L, int idx, const char *key, const char *def, size_t *len)
{
	const char *text;

	lua_getfield(L, idx, key);
	if (lua_type(L, -1) == LUA_TNUMBER) { /* keep its text in the table, so that it is not collected */
		lua_tolstring(L, -1, NULL);
		lua_pushvalue(L, -1);
		lua_setfield(L, idx < 0 && idx > LUA_REGISTRYINDEX ? idx - 2 : idx, key);
	}
	text = lua_tolstring(L, -1, len);
	lua_pop(L, 1);
	if (text == NULL) {
		if (len != NULL)
			*len = def ? strlen(def) : 0;
		return def;
	}
	return text;
}

bool
tr_opt_bool(lua_State *L, int idx, const char *key, bool def)
{
	lua_getfield(L, idx, key);
	bool value = lua_isnil(L, -1) ? def : lua_toboolean(L, -1);
	lua_pop(L, 1);
	return value;
}

int64_t
tr_opt_int(lua_State *L, int idx, const char *key, int64_t def)
{
	lua_getfield(L, idx, key);
	int64_t value = lua_isnil(L, -1) ? def : (int64_t)lua_tonumber(L, -1);
	lua_pop(L, 1);
	return value;
}

int64_t
tr_check_duration_ns(lua_State *L, int idx, const char *function, const char *what)
{
	int64_t ns = 0;
	size_t len;

	if (lua_type(L, idx) == LUA_TNUMBER) {
		double seconds = lua_tonumber(L, idx);
		if (!(seconds >= 0 && seconds < 9.2e9)) /* 290 years: what int64_t nanoseconds hold */
			luaL_error(L, "%s: %s: seconds >= 0 expected, got %f", function, what, seconds);
		return (int64_t)(seconds * TR_NS_PER_S);
	}
	if (lua_type(L, idx) != LUA_TSTRING)
		luaL_error(L, "%s: %s: duration expected (seconds, or text such as '5 minutes'), got %s", function,
			what, luaL_typename(L, idx));
	const char *text = lua_tolstring(L, idx, &len);
	if (tr_duration_parse(text, len, &ns) != TR_OK)
		luaL_error(L, "%s: %s: '%s' is not a duration such as '5 minutes', '1m 30s' or '500ms'", function, what,
			text);
	return ns;
}

int64_t
tr_opt_duration_ns(lua_State *L, int idx, const char *function, const char *key, int64_t def)
{
	lua_getfield(L, idx, key);
	int64_t ns = lua_isnil(L, -1) ? def : tr_check_duration_ns(L, -1, function, key);
	lua_pop(L, 1);
	return ns;
}

#define SPACE_MAX 9e18 /* of bytes or inodes: what an int64_t holds */

/* 0 is a limit, too: any free space is enough. Only what is not given takes the default. */
static struct tr_space_limit
space_limit(double number, bool percent)
{
	if (number == 0)
		return (struct tr_space_limit){-1, 0};
	return percent ? (struct tr_space_limit){number, 0} : (struct tr_space_limit){0, (uint64_t)number};
}

void
tr_opt_space_limit(lua_State *L, int idx, const char *function, const char *key, struct tr_space_limit *out)
{
	lua_getfield(L, idx, key);
	if (lua_type(L, -1) == LUA_TNUMBER && lua_tonumber(L, -1) >= 0 && lua_tonumber(L, -1) <= SPACE_MAX) {
		*out = space_limit(lua_tonumber(L, -1), false);
	} else if (lua_type(L, -1) == LUA_TSTRING) {
		const char *text = lua_tostring(L, -1);
		char *end;
		double value = strtod(text, &end);
		if (end != text && value >= 0 && strcmp(end, "%") == 0 && value <= 100)
			*out = space_limit(value, true);
		else if (end != text && value >= 0 && value <= SPACE_MAX && *end == '\0')
			*out = space_limit(value, false);
		else
			luaL_error(L, "%s: %s = '%s': a share such as \"10%%\" or a number is expected", function, key,
				text);
	} else if (lua_type(L, -1) == LUA_TNUMBER) {
		luaL_error(L, "%s: %s: a number from 0 to %f is expected, got %f", function, key, SPACE_MAX,
			lua_tonumber(L, -1));
	} else if (!lua_isnil(L, -1)) {
		luaL_error(L, "%s: %s: a share such as \"10%%\" or a number is expected, got %s", function, key,
			luaL_typename(L, -1));
	}
	lua_pop(L, 1);
}
