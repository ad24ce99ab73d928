#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/options.h"
#include "queue/config_view_lua.h"

void
config_warn_once(const char *function, const char *key, const char *effect)
{
	static _Atomic uint64_t warned[64]; /* by hash: a lost warning after a collision is harmless */
	uint64_t hash = tr_hash(key, strlen(key));
	_Atomic uint64_t *word = &warned[(hash >> 6) % TR_COUNT(warned)];
	uint64_t bit = UINT64_C(1) << (hash & 63);

	if (effect != NULL && (atomic_fetch_or(word, bit) & bit) == 0)
		tr_log(TR_LEVEL_WARN, "config", "%s: option '%s': %s", function, key, effect);
}

int
config_opt_enum(lua_State *L, int idx, const char *function, const char *key, const char *const *names, int def)
{
	const char *text = tr_opt_string(L, idx, key, NULL, NULL);
	luaL_Buffer list;

	if (text == NULL)
		return def;
	for (int i = 0; names[i] != NULL; i++) {
		if (strcmp(text, names[i]) == 0)
			return i;
	}
	luaL_buffinit(L, &list);
	for (int i = 0; names[i] != NULL; i++) {
		if (i > 0)
			luaL_addstring(&list, ", ");
		luaL_addstring(&list, names[i]);
	}
	luaL_pushresult(&list);
	return luaL_error(L, "%s: %s = '%s': expected one of %s", function, key, text, lua_tostring(L, -1));
}

bool
config_read_rate(lua_State *L, const char *function, const char *what, struct tr_rate_spec *out)
{
	const char *why = NULL, *text;
	size_t len;

	if (lua_type(L, -1) != LUA_TSTRING)
		luaL_error(L, "%s: %s: a text such as \"100/min\" is expected, got %s", function, what,
			luaL_typename(L, -1));
	text = lua_tolstring(L, -1, &len);
	if (tr_rate_spec_parse((struct tr_str){text, len}, out, &why) != TR_OK)
		luaL_error(L, "%s: %s = '%s': %s", function, what, text, why);
	lua_pop(L, 1);
	return true;
}

bool
config_opt_rate(lua_State *L, int idx, const char *function, const char *key, struct tr_rate_spec *out)
{
	lua_getfield(L, idx, key);
	if (lua_isnil(L, -1)) {
		lua_pop(L, 1);
		return false;
	}
	return config_read_rate(L, function, key, out);
}

/* 10, "10", "local:10", { limit = 10, force_local = true } */
bool
config_read_limit(lua_State *L, const char *function, const char *what, struct tr_limit_spec *out)
{
	bool local = false;
	const char *text;
	size_t len;

	if (lua_istable(L, -1)) {
		static const struct tr_key keys[] = {{"limit", '*', true}, {"force_local", 'b', false}};

		lua_pushfstring(L, "%s: %s", function, what);
		tr_check_options(L, lua_gettop(L) - 1, lua_tostring(L, -1), keys, TR_COUNT(keys));
		lua_pop(L, 1);
		local = tr_opt_bool(L, lua_gettop(L), "force_local", false);
		lua_getfield(L, -1, "limit");
		lua_replace(L, -2);
	}
	if (lua_type(L, -1) != LUA_TSTRING && lua_type(L, -1) != LUA_TNUMBER)
		luaL_error(L, "%s: %s: a number or a text such as \"local:10\" is expected, got %s", function, what,
			luaL_typename(L, -1));
	lua_pushvalue(L, -1); /* a copy: lua_tolstring would change the caller's number */
	text = lua_tolstring(L, -1, &len);
	if (tr_limit_spec_parse((struct tr_str){text, len}, out) != TR_OK || out->limit > UINT32_MAX)
		luaL_error(L, "%s: %s = '%s': a whole number of at least 1 is expected, as in 10 or \"local:10\"",
			function, what, text);
	out->local = out->local || local;
	lua_pop(L, 2);
	return true;
}

/* --- views ---------------------------------------------------------------------------------- */

static void
set_duration(lua_State *L, const char *key, int64_t ns)
{
	char text[64];
	size_t len = tr_duration_format(ns, text);

	lua_pushlstring(L, text, len);
	lua_setfield(L, -2, key);
}

void
config_push_view(lua_State *L, int idx, const struct tr_key *keys, size_t count, size_t stride)
{
	lua_newtable(L);
	for (size_t i = 0; i < count; i++) {
		const struct tr_key *key = (const struct tr_key *)((const char *)keys + i * stride);
		lua_getfield(L, idx, key->name);
		if (lua_isnil(L, -1)) {
			lua_pop(L, 1);
			continue;
		}
		if (key->type == 'd') {
			int64_t ns = tr_check_duration_ns(L, -1, "view", key->name);
			lua_pop(L, 1);
			set_duration(L, key->name, ns);
		} else {
			lua_setfield(L, -2, key->name);
		}
	}
}

bool
config_view_lacks(lua_State *L, const char *key)
{
	bool absent;

	lua_getfield(L, -1, key);
	absent = lua_isnil(L, -1);
	lua_pop(L, 1);
	return absent;
}

void
config_default_duration(lua_State *L, const char *key, int64_t ns)
{
	if (config_view_lacks(L, key))
		set_duration(L, key, ns);
}

void
config_default_text(lua_State *L, const char *key, const char *text)
{
	if (!config_view_lacks(L, key))
		return;
	lua_pushstring(L, text);
	lua_setfield(L, -2, key);
}

void
config_default_number(lua_State *L, const char *key, uint32_t value)
{
	if (!config_view_lacks(L, key))
		return;
	lua_pushnumber(L, value);
	lua_setfield(L, -2, key);
}

void
config_default_bool(lua_State *L, const char *key, bool value)
{
	if (!config_view_lacks(L, key))
		return;
	lua_pushboolean(L, value);
	lua_setfield(L, -2, key);
}

void
config_set_environment(lua_State *L, const struct tr_key *keys, size_t count, size_t stride)
{
	lua_createtable(L, 2, 0);
	lua_insert(L, -2);
	lua_rawseti(L, -2, ENV_VIEW);
	config_push_view(L, 1, keys, count, stride);
	lua_rawseti(L, -2, ENV_GIVEN);
	lua_setfenv(L, 2);
	lua_settop(L, 2);
}

struct config_box *
config_new_box(lua_State *L, const char *type)
{
	struct config_box *box = lua_newuserdata(L, sizeof *box);

	box->config = NULL;
	luaL_getmetatable(L, type);
	lua_setmetatable(L, -2);
	return box;
}

struct tr_queue_config *
tr_queue_config_at(lua_State *L, int idx)
{
	struct config_box *box = luaL_testudata(L, idx, QUEUE_TYPE);

	return box ? box->config : NULL;
}

struct tr_path_config *
tr_path_config_at(lua_State *L, int idx)
{
	struct config_box *box = luaL_testudata(L, idx, PATH_TYPE);

	return box ? box->config : NULL;
}

int
l_config_kind(lua_State *L)
{
	if (tr_queue_config_at(L, 1) != NULL)
		lua_pushliteral(L, "queue");
	else if (tr_path_config_at(L, 1) != NULL)
		lua_pushliteral(L, "path");
	else
		lua_pushnil(L);
	return 1;
}

/* --- metatables -------------------------------------------------------------------------------- */

static void
push_env_view(lua_State *L)
{
	lua_getfenv(L, 1);
	lua_rawgeti(L, -1, ENV_VIEW);
}

static int
l_index(lua_State *L)
{
	push_env_view(L);
	lua_pushvalue(L, 2);
	lua_rawget(L, -2);
	return 1;
}

static int
l_newindex(lua_State *L)
{
	return luaL_error(L, "a configuration object is read-only: set '%s' in the table given to kumo.make_*",
		lua_tostring(L, 2));
}

static int
l_pairs(lua_State *L)
{
	lua_getglobal(L, "next");
	push_env_view(L);
	lua_remove(L, -2);
	lua_pushnil(L);
	return 3;
}

static int
l_len(lua_State *L)
{
	lua_Integer n = 0;

	push_env_view(L);
	for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1))
		n++;
	lua_pushinteger(L, n);
	return 1;
}

static int
l_queue_gc(lua_State *L)
{
	struct config_box *box = lua_touserdata(L, 1);

	tr_queue_config_unref(box->config);
	box->config = NULL;
	return 0;
}

static int
l_path_gc(lua_State *L)
{
	struct config_box *box = lua_touserdata(L, 1);

	tr_path_config_unref(box->config);
	box->config = NULL;
	return 0;
}

void
config_register_type(lua_State *L, const char *type, lua_CFunction gc)
{
	static const luaL_Reg shared[] = {
		{"__index", l_index},
		{"__newindex", l_newindex},
		{"__pairs", l_pairs},
		{"__len", l_len},
		{NULL, NULL},
	};

	luaL_newmetatable(L, type);
	luaL_setfuncs(L, shared, 0);
	lua_pushcfunction(L, gc);
	lua_setfield(L, -2, "__gc");
	lua_pop(L, 1);
}

void
tr_queue_config_register(lua_State *L)
{
	config_register_type(L, QUEUE_TYPE, l_queue_gc);
	config_register_type(L, PATH_TYPE, l_path_gc);
}
