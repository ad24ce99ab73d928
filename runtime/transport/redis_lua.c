/* kumo.configure_redis_throttles: contract egress-path.md section 6. */
#include "transport/redis_lua.h"

#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "base/options.h"
#include "policy/policy.h"
#include "transport/redis_shaping.h"

#define CONNECT_TIMEOUT_NS (30 * TR_NS_PER_S) /* as documented for the reference */
#define WAIT_TIMEOUT_NS (30 * TR_NS_PER_S)
#define RESPONSE_TIMEOUT_NS (5 * TR_NS_PER_S) /* the reference waits for ever */

static const char configure[] = "kumo.configure_redis_throttles";

static const struct tr_key keys[] = {
	/* the last one is not for `redis.open` */
	{"node", '*', true},
	{"cluster", 'b', false},
	{"read_from_replicas", 'b', false},
	{"username", 's', false},
	{"password", 's', false},
	{"pool_size", 'i', false},
	{"connect_timeout", 'd', false},
	{"wait_timeout", 'd', false},
	{"response_timeout", 'd', false},
	{"recycle_timeout", 'd', false},
	{"fallback", 's', false},
};

struct configure_op {
	struct tr_redis_call call;
	struct tr_redis_shaping *shaping;
	struct tr_shaping *owner;
	struct tr_ticket ticket;
	const char *error; /* during push_error only */
};

/* Copies the table without the keys that nobody knows: the reference ignores them, so a policy may have some. They are
 * named, since a slip of the pen in `password` is not meant. */
static void
push_known(lua_State *L, int idx, const char *function, size_t count)
{
	const char *names[TR_COUNT(keys) + 1] = {NULL};

	for (size_t i = 0; i < count; i++)
		names[i] = keys[i].name;
	lua_newtable(L);
	for (lua_pushnil(L); lua_next(L, idx) != 0; lua_pop(L, 1)) {
		const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;
		const char *near = name ? tr_nearest(name, names) : NULL;

		if (near != NULL && strcmp(near, name) == 0) {
			lua_pushvalue(L, -2);
			lua_pushvalue(L, -2);
			lua_settable(L, -5);
		} else if (near != NULL) {
			tr_log(TR_LEVEL_WARN, "redis", "%s: unknown field '%s' is ignored: did you mean '%s'?",
				function, name, near);
		} else {
			tr_log(TR_LEVEL_WARN, "redis", "%s: unknown field '%s' is ignored", function,
				name ? name : luaL_typename(L, -2));
		}
	}
}

/* The one URL of `node`. Raises. */
static struct tr_str
check_node(lua_State *L, const char *function, int idx)
{
	struct tr_str url;
	bool cluster;

	lua_getfield(L, idx, "node");
	cluster = tr_opt_bool(L, idx, "cluster", lua_istable(L, -1) && lua_objlen(L, -1) > 1);
	if (lua_istable(L, -1)) {
		lua_rawgeti(L, -1, 1);
		lua_replace(L, -2); /* the table keeps it */
	}
	if (lua_type(L, -1) != LUA_TSTRING)
		luaL_error(L, "%s: node: a URL such as 'redis://127.0.0.1:6379' is expected, got %s", function,
			luaL_typename(L, -1));
	if (cluster)
		luaL_error(L,
			"%s: a Redis cluster is not supported: each limit is one key, and one server answers some "
			"100,000 "
			"questions a second, so a cluster would gain nothing but its fail-over: give the URL of one "
			"server or of a proxy in front of them (with cluster = false the first of a list is taken)",
			function);
	url.data = lua_tolstring(L, -1, &url.len);
	lua_pop(L, 1);
	return url;
}

static char *
copy_text(lua_State *L, const char *function, struct tr_redis_settings *settings, const char *text)
{
	char *copy = strdup(text);

	if (copy == NULL) {
		tr_redis_free_settings(settings);
		luaL_error(L, "%s: out of memory", function);
	}
	return copy;
}

static int64_t
check_timeout(lua_State *L, const char *function, int idx, const char *key, int64_t def)
{
	int64_t ns = tr_opt_duration_ns(L, idx, function, key, def);

	if (ns < TR_NS_PER_MS)
		luaL_error(L, "%s: %s must be at least a millisecond", function, key);
	return ns;
}

/* Raises with nothing to free. The texts of *out are the caller's. */
static void
read_settings(lua_State *L, const char *function, int idx, struct tr_redis_settings *out)
{
	struct tr_str url = check_node(L, function, idx);
	int64_t connect_ns = check_timeout(L, function, idx, "connect_timeout", CONNECT_TIMEOUT_NS);
	int64_t wait_ns = check_timeout(L, function, idx, "wait_timeout", WAIT_TIMEOUT_NS);
	int64_t response_ns = check_timeout(L, function, idx, "response_timeout", RESPONSE_TIMEOUT_NS);
	const char *user = tr_opt_string(L, idx, "username", NULL, NULL);
	const char *password = tr_opt_string(L, idx, "password", NULL, NULL);
	const char *why;
	int err;

	if (tr_opt_int(L, idx, "pool_size", 1) == 0)
		luaL_error(L, "%s: pool_size must be at least 1", function);
	err = tr_redis_parse_url(url, out, &why);
	if (err == TR_ENOMEM)
		luaL_error(L, "%s: out of memory", function);
	if (err != TR_OK) /* without the URL, which may hold a password */
		luaL_error(L, "%s: node: %s", function, why);
	out->connect_timeout_ns = connect_ns;
	out->wait_timeout_ns = wait_ns;
	out->response_timeout_ns = response_ns;
	if (user != NULL) {
		free(out->user);
		out->user = copy_text(L, function, out, user);
	}
	if (password != NULL) {
		free(out->password);
		out->password = NULL;
		out->password = copy_text(L, function, out, password);
	}
}

static bool
check_fallback(lua_State *L, int idx)
{
	const char *text = tr_opt_string(L, idx, "fallback", "hold", NULL);

	if (strcmp(text, "hold") != 0 && strcmp(text, "local") != 0)
		luaL_error(L, "%s: fallback = '%s': 'hold' (wait for Redis) or 'local' (each node for itself) expected",
			configure, text);
	return text[0] == 'l';
}

static void
name_idle_options(lua_State *L, const char *function, int idx)
{
	static const char *const idle[] = {"pool_size", "recycle_timeout", "read_from_replicas"};

	for (size_t i = 0; i < TR_COUNT(idle); i++) {
		lua_getfield(L, idx, idle[i]);
		if (lua_toboolean(L, -1))
			tr_log(TR_LEVEL_INFO, "redis",
				"%s: %s has no effect: each worker keeps one connection, and pipelines on it", function,
				idle[i]);
		lua_pop(L, 1);
	}
}

void
tr_redis_check_settings(lua_State *L, const char *name, int idx, struct tr_redis_settings *out)
{
	int top = lua_gettop(L);

	luaL_checktype(L, idx, LUA_TTABLE);
	push_known(L, idx, name, TR_COUNT(keys) - 1);
	tr_check_options(L, top + 1, name, keys, TR_COUNT(keys) - 1);
	name_idle_options(L, name, top + 1);
	read_settings(L, name, top + 1, out);
	lua_settop(L, top);
}

static int
push_error(lua_State *L, void *arg)
{
	lua_pushfstring(L, "%s: %s", configure, ((struct configure_op *)arg)->error);
	return 1;
}

static void
answered(struct tr_redis_call *call, const struct redisReply *reply)
{
	struct configure_op *op = tr_container_of(call, struct configure_op, call);

	op->error = reply == NULL                           ? call->error
		    : reply->type == REDIS_REPLY_ERROR      ? reply->str
		    : tr_shaping_backend(op->owner) != NULL ? "redis already configured for throttles"
							    : NULL;
	if (op->error == NULL) {
		tr_shaping_set_backend(op->owner, tr_redis_shaping_backend(op->shaping));
		op->shaping = NULL;
		tr_task_wake(&op->ticket, NULL, NULL, false);
	} else {
		tr_task_wake(&op->ticket, push_error, op, true);
	}
	tr_redis_shaping_free(op->shaping);
	free(op);
}

static void
nobody_waits(struct tr_redis_call *call, const struct redisReply *reply)
{
}

/* The task ends first: the ping goes with its connection. */
static void
cancel(void *arg)
{
	struct configure_op *op = arg;

	op->call.then = nobody_waits;
	tr_redis_shaping_free(op->shaping);
	free(op);
}

static int
l_configure(lua_State *L)
{
	struct tr_shaping *owner = tr_service(L, TR_SERVICE_SHAPING);
	struct tr_redis_settings settings;
	struct configure_op *op;
	struct tr_task *task;
	bool fallback;
	int err;

	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	if (owner == NULL || tr_service(L, TR_SERVICE_ENGINE) != NULL)
		return luaL_error(L, "%s: may only be called while the event 'init' runs", configure);
	if (tr_shaping_backend(owner) != NULL)
		return luaL_error(L, "%s: redis already configured for throttles", configure);
	task = tr_task_check(L);
	push_known(L, 1, configure, TR_COUNT(keys));
	tr_check_options(L, 2, configure, keys, TR_COUNT(keys));
	fallback = check_fallback(L, 2);
	name_idle_options(L, configure, 2);
	read_settings(L, configure, 2, &settings);
	if (tr_service(L, TR_SERVICE_OFFLINE) != NULL) { /* what the process takes must not count for production */
		tr_redis_free_settings(&settings);
		return 0;
	}
	op = calloc(1, sizeof *op);
	err = op ? tr_redis_shaping_new(&settings, fallback, &op->shaping) : TR_ENOMEM;
	tr_redis_free_settings(&settings);
	if (err == TR_OK) {
		op->owner = owner;
		op->call.then = answered;
		err = tr_redis_shaping_ping(op->shaping, tr_host_loop(tr_host_of(L)), &op->call);
	}
	if (err != TR_OK) {
		if (op != NULL)
			tr_redis_shaping_free(op->shaping);
		free(op);
		return luaL_error(L, "%s: %s", configure, tr_err_text(err));
	}
	tr_task_describe_text(task, configure, "");
	return tr_task_park(task, L, cancel, op, &op->ticket);
}

int
luaopen_tr_redis(lua_State *L)
{
	static const luaL_Reg kumo[] = {{"configure_redis_throttles", l_configure}, {NULL, NULL}};

	lua_newtable(L);
	tr_redis_add_client(L);
	lua_newtable(L);
	luaL_setfuncs(L, kumo, 0);
	lua_setfield(L, -2, "kumo");
	return 1;
}
