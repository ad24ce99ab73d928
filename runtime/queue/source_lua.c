/* The events that define sources and pools, and what is cached of their answers. */
#include "queue/source_lua.h"

#include <stdio.h>
#include <stdlib.h>

#include "queue/source_config_lua.h"

static int
push_source_name(lua_State *L, void *arg)
{
	struct tr_str name = tr_source_name(arg);

	lua_pushlstring(L, name.data, name.len);
	return 1;
}

static int
push_pool_name(lua_State *L, void *arg)
{
	struct tr_str name = tr_pool_name(arg);

	lua_pushlstring(L, name.data, name.len);
	return 1;
}

/* What the handler gave instead of the object. */
static const char *
wrong(const struct tr_task_result *result, const char *event, const char *maker, char text[256])
{
	snprintf(text, 256, "%s returned %s; the object of %s{...} is expected", event,
		result->count > 0 ? luaL_typename(result->L, -result->count) : "no value", maker);
	return text;
}

static void
source_ended(void *arg, const struct tr_task_result *result)
{
	struct tr_source_config *config = NULL;
	char text[256];

	if (result->status != TR_OK) {
		tr_source_configured(arg, NULL, result->text);
		return;
	}
	if (result->count > 0)
		config = source_config_at(result->L, -result->count);
	tr_source_configured(
		arg, tr_source_config_ref(config), wrong(result, "get_egress_source", "kumo.make_egress_source", text));
}

static void
pool_ended(void *arg, const struct tr_task_result *result)
{
	struct tr_pool_config *config = NULL;
	char text[256];

	if (result->status != TR_OK) {
		tr_pool_configured(arg, NULL, result->text);
		return;
	}
	if (result->count > 0)
		config = pool_config_at(result->L, -result->count);
	tr_pool_configured(
		arg, tr_pool_config_ref(config), wrong(result, "get_egress_pool", "kumo.make_egress_pool", text));
}

static void
resolve_source(void *arg, struct tr_worker *worker, struct tr_source *source)
{
	struct tr_host *host = tr_worker_data(worker);
	struct tr_task_call call = {
		.push = push_source_name, .push_arg = source, .end = source_ended, .end_arg = source};
	int err;

	if (!tr_event_handled(host, tr_event_id("get_egress_source"))) {
		tr_source_configured(
			source, NULL, "there is no handler: kumo.on('get_egress_source', function(name) ... end)");
		return;
	}
	err = tr_event_fire(host, "get_egress_source", &call, NULL);
	if (err != TR_OK)
		tr_source_configured(source, NULL, tr_err_text(err));
}

static void
resolve_pool(void *arg, struct tr_worker *worker, struct tr_pool *pool)
{
	struct tr_host *host = tr_worker_data(worker);
	struct tr_task_call call = {.push = push_pool_name, .push_arg = pool, .end = pool_ended, .end_arg = pool};
	int err;

	if (!tr_event_handled(host, tr_event_id("get_egress_pool"))) {
		tr_pool_configured(
			pool, NULL, "there is no handler: kumo.on('get_egress_pool', function(name) ... end)");
		return;
	}
	err = tr_event_fire(host, "get_egress_pool", &call, NULL);
	if (err != TR_OK)
		tr_pool_configured(pool, NULL, tr_err_text(err));
}

void
tr_source_lua_ops(struct tr_queue_ops *ops)
{
	ops->resolve_pool = resolve_pool;
	ops->resolve_source = resolve_source;
}

/* --- for kumo.invoke_get_* (lua/kumo/invoke.lua) -------------------------------------------------------------------
 */

static struct tr_engine *
engine_of(lua_State *L)
{
	return tr_service(L, TR_SERVICE_ENGINE);
}

static struct tr_str
name_at(lua_State *L)
{
	struct tr_str name;

	name.data = luaL_checklstring(L, 1, &name.len);
	return name;
}

/* The view on top of the stack, if there is one; else nil and the text, which is freed; NULL: nothing, policy must be
 * asked. */
static int
push_cached(lua_State *L, bool has, char *error)
{
	if (has)
		return 1;
	if (error == NULL)
		return 0;
	lua_pushnil(L);
	lua_pushstring(L, error);
	free(error);
	return 2;
}

/* cached_source(name) -> table | nil, error text, or nothing if policy must be asked */
static int
l_cached_source(lua_State *L)
{
	struct tr_str name = name_at(L);
	struct tr_source_config *config;
	char *error = NULL;

	if (engine_of(L) == NULL)
		return 0;
	config = tr_engine_cached_source(engine_of(L), name, &error);
	if (config != NULL)
		source_push_view(L, config);
	tr_source_config_unref(config);
	return push_cached(L, config != NULL, error);
}

static int
l_cached_pool(lua_State *L)
{
	struct tr_str name = name_at(L);
	struct tr_pool_config *config;
	char *error = NULL;

	if (engine_of(L) == NULL)
		return 0;
	config = tr_engine_cached_pool(engine_of(L), name, &error);
	if (config != NULL)
		pool_push_view(L, config);
	tr_pool_config_unref(config);
	return push_cached(L, config != NULL, error);
}

/* cache_source(name, object | nil, error text) -> the object's view as a table */
static int
l_cache_source(lua_State *L)
{
	struct tr_str name = name_at(L);
	struct tr_source_config *config = source_config_at(L, 2);
	const char *error = config == NULL ? luaL_checkstring(L, 3) : NULL;

	if (engine_of(L) != NULL)
		tr_engine_cache_source(engine_of(L), name, tr_source_config_ref(config), error);
	if (config != NULL)
		source_push_view(L, config);
	else
		lua_pushnil(L);
	return 1;
}

static int
l_cache_pool(lua_State *L)
{
	struct tr_str name = name_at(L);
	struct tr_pool_config *config = pool_config_at(L, 2);
	const char *error = config == NULL ? luaL_checkstring(L, 3) : NULL;

	if (engine_of(L) != NULL)
		tr_engine_cache_pool(engine_of(L), name, tr_pool_config_ref(config), error);
	if (config != NULL)
		pool_push_view(L, config);
	else
		lua_pushnil(L);
	return 1;
}

void
tr_source_lua_register(lua_State *L)
{
	static const luaL_Reg functions[] = {
		{"cached_source", l_cached_source},
		{"cached_pool", l_cached_pool},
		{"cache_source", l_cache_source},
		{"cache_pool", l_cache_pool},
		{NULL, NULL},
	};

	source_config_register(L);
	luaL_setfuncs(L, functions, 0);
}
