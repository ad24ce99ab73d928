/* The client part of "tr.redis", for lua/kumo/redis.lua: commands on one pipelined connection, a connection each
 * handle. What the server did is told as nil, message, code. */
#include <hiredis/hiredis.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "policy/policy.h"
#include "transport/redis.h"
#include "transport/redis_lua.h"

#define CLIENT "tr.redis_client"
#define ARGUMENTS_MAX 1000000

struct client {
	struct tr_redis *redis; /* NULL: closed */
	struct tr_metric *good, *bad;
};

struct query_op {
	struct tr_redis_call call;
	struct tr_ticket ticket;
	struct tr_metric *good, *bad; /* of the client, whose calls all end before it goes */
	int64_t started_ns;
	bool alone; /* the task does not wait any more */
	const struct redisReply *reply;
};

/* Contract nats-redis-sqlite.md section 2; the connection speaks version 2 of the protocol, which has no more types. */
static void
push_reply(lua_State *L, const struct redisReply *reply)
{
	luaL_checkstack(L, 4, "a reply nested too deep");
	switch (reply->type) {
	case REDIS_REPLY_INTEGER:
		lua_pushnumber(L, (lua_Number)reply->integer);
		break;
	case REDIS_REPLY_STATUS:
		if (reply->len == 2 && memcmp(reply->str, "OK", 2) == 0) {
			lua_pushboolean(L, 1);
			break;
		}
		lua_pushlstring(L, reply->str, reply->len);
		break;
	case REDIS_REPLY_STRING:
	case REDIS_REPLY_ERROR: /* inside of an answer of EXEC */
		lua_pushlstring(L, reply->str, reply->len);
		break;
	case REDIS_REPLY_ARRAY:
		lua_createtable(L, (int)reply->elements, 0);
		tr_json_set_array(L, -1);
		for (size_t i = 0; i < reply->elements; i++) {
			push_reply(L, reply->element[i]);
			lua_rawseti(L, -2, (int)i + 1);
		}
		break;
	default:
		lua_pushnil(L);
	}
}

/* true and the reply, which may be nil; or nil, message, code. */
static int
push_answer(lua_State *L, void *arg)
{
	const struct query_op *op = arg;

	if (op->reply == NULL)
		return tr_push_error(L, op->call.err, "%s", op->call.error);
	if (op->reply->type == REDIS_REPLY_ERROR)
		return tr_push_error(L, TR_EINVAL, "%s", op->reply->str);
	lua_pushboolean(L, 1);
	push_reply(L, op->reply);
	return 2;
}

static void
answered(struct tr_redis_call *call, const struct redisReply *reply)
{
	struct query_op *op = tr_container_of(call, struct query_op, call);
	bool good = reply != NULL && reply->type != REDIS_REPLY_ERROR;

	tr_metric_observe_ns(good ? op->good : op->bad, tr_mono_ns() - op->started_ns);
	op->reply = reply;
	if (!op->alone)
		tr_task_wake(&op->ticket, push_answer, op, false);
	free(op);
}

static void
cancelled(void *arg)
{
	((struct query_op *)arg)->alone = true;
}

/* open(options, service) -> client. Connects with the first command. */
static int
l_open(lua_State *L)
{
	struct tr_redis_settings settings = {0};
	const char *service = luaL_checkstring(L, 2);
	struct client *client;
	int err;

	client = lua_newuserdata(L, sizeof *client);
	*client = (struct client){0};
	luaL_getmetatable(L, CLIENT);
	lua_setmetatable(L, -2);
	tr_redis_check_settings(L, "redis.open", 1, &settings);
	client->good = tr_metric_get(TR_HISTOGRAM, "redis_operation_latency", "time of commands to Redis", "service",
		service, "operation", "query", "status", "ok", NULL);
	client->bad = tr_metric_get(TR_HISTOGRAM, "redis_operation_latency", "time of commands to Redis", "service",
		service, "operation", "query", "status", "error", NULL);
	err = tr_redis_new(tr_host_loop(tr_host_of(L)), &settings, NULL, NULL, &client->redis);
	tr_redis_free_settings(&settings);
	return err == TR_OK ? 1 : luaL_error(L, "redis.open: %s", tr_err_text(err));
}

/* client:query(list of strings) */
static int
l_query(lua_State *L)
{
	struct client *client = luaL_checkudata(L, 1, CLIENT);
	struct tr_task *task = tr_task_check(L);
	struct tr_str *argv;
	struct query_op *op;
	size_t argc;
	int err = TR_ENOMEM;

	luaL_checktype(L, 2, LUA_TTABLE);
	lua_settop(L, 2);
	argc = lua_objlen(L, 2);
	luaL_argcheck(L, argc >= 1 && argc <= ARGUMENTS_MAX, 2, "1 to 1000000 arguments expected");
	if (client->redis == NULL)
		return luaL_error(L, "the connection is closed");
	argv = lua_newuserdata(L, argc * sizeof *argv); /* index 3 */
	for (size_t i = 0; i < argc; i++) {
		lua_rawgeti(L, 2, (int)i + 1);
		argv[i].data = luaL_checklstring(L, -1, &argv[i].len);
		lua_pop(L, 1); /* the table keeps it */
	}
	op = calloc(1, sizeof *op);
	if (op != NULL) {
		op->call.then = answered;
		op->started_ns = tr_mono_ns();
		err = tr_redis_start(client->redis, &op->call, (int)argc, argv);
	}
	if (err != TR_OK) {
		free(op);
		return luaL_error(L, "redis:query: %s", tr_err_text(err));
	}
	op->good = client->good;
	op->bad = client->bad;
	tr_task_describe_text(task, "redis ", argv[0].data);
	return tr_task_park(task, L, cancelled, op, &op->ticket);
}

static int
l_close(lua_State *L)
{
	struct client *client = luaL_checkudata(L, 1, CLIENT);
	struct tr_redis *redis = client->redis;

	client->redis = NULL;
	tr_redis_free(redis); /* who waits is told */
	if (client->good != NULL)
		tr_metric_unref(client->good);
	if (client->bad != NULL)
		tr_metric_unref(client->bad);
	client->good = client->bad = NULL;
	return 0;
}

void
tr_redis_add_client(lua_State *L)
{
	static const luaL_Reg methods[] = {{"query", l_query}, {"close", l_close}, {"__gc", l_close}, {NULL, NULL}};

	luaL_newmetatable(L, CLIENT);
	lua_pushvalue(L, -1);
	lua_setfield(L, -2, "__index");
	luaL_register(L, NULL, methods);
	lua_pop(L, 1);
	lua_pushcfunction(L, l_open);
	lua_setfield(L, -2, "open");
}
