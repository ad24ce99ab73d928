/* kumo.inject_message, and receive() for lua/inject.lua. */
#include <stdio.h>
#include <stdlib.h>

#include "ingress/http_server_lua.h"
#include "ingress/receive.h"
#include "message/message_lua.h"
#include "policy/policy.h"

struct outcome {
	char id[33];
	bool queued, dropped, refused;
	char *error; /* malloc'ed; NULL: none */
};

struct receive_op {
	struct tr_ticket ticket;
	struct tr_receive *receive; /* while it is under way */
	bool raises;                /* inject_message: one message, failure raises */
	bool ended;                 /* before the task was parked */
	bool parked;
	int status;
	char peer[64];
	uint32_t count;
	struct outcome outcomes[];
};

static void
op_free(struct receive_op *op)
{
	for (uint32_t i = 0; i < op->count; i++)
		free(op->outcomes[i].error);
	free(op);
}

static int
push_failure(lua_State *L, const struct receive_op *op)
{
	const char *why =
		op->count > 0 && op->outcomes[0].error != NULL ? op->outcomes[0].error : tr_err_text(op->status);

	lua_pushfstring(L, "kumo.inject_message: %s", why);
	return 1;
}

static int
push_outcomes(lua_State *L, void *arg)
{
	const struct receive_op *op = arg;

	if (op->status != TR_OK)
		return tr_push_error(L, op->status, "%s", tr_err_text(op->status));
	lua_createtable(L, (int)op->count, 0);
	for (uint32_t i = 0; i < op->count; i++) {
		const struct outcome *outcome = &op->outcomes[i];

		lua_createtable(L, 0, 4);
		lua_pushstring(L, outcome->id);
		lua_setfield(L, -2, "id");
		lua_pushboolean(L, outcome->queued);
		lua_setfield(L, -2, "queued");
		lua_pushboolean(L, outcome->dropped);
		lua_setfield(L, -2, "dropped");
		if (outcome->error != NULL || outcome->refused) { /* there may be no memory for its text */
			lua_pushstring(L, outcome->error != NULL ? outcome->error : "out of memory");
			lua_setfield(L, -2, "error");
		}
		lua_rawseti(L, -2, (int)i + 1);
	}
	return 1;
}

static int
push_result(lua_State *L, void *arg)
{
	const struct receive_op *op = arg;

	if (!op->raises)
		return push_outcomes(L, arg);
	return op->status != TR_OK ? push_failure(L, op) : 0;
}

static void
received(struct tr_receive *receive, int status)
{
	struct receive_op *op = receive->owner;

	op->receive = NULL;
	op->status = status;
	for (uint32_t i = 0; i < op->count; i++) {
		struct tr_receive_item *item = &receive->items[i];
		struct outcome *outcome = &op->outcomes[i];

		memcpy(outcome->id, item->id, sizeof outcome->id);
		outcome->queued = item->queued;
		outcome->dropped = item->dropped;
		outcome->refused = item->refused;
		outcome->error = item->error;
		item->error = NULL;
	}
	op->ended = true;
	if (!op->parked)
		return;
	tr_task_wake(&op->ticket, push_result, op, op->raises && status != TR_OK);
	op_free(op);
}

static void
receive_cancel(void *arg)
{
	struct receive_op *op = arg;

	tr_receive_forget(op->receive); /* what was taken in stays taken in */
	op_free(op);
}

/* Starts it with the messages in receive->items and waits. */
static int
run(lua_State *L, struct tr_task *task, struct tr_receive *receive, bool raises, const char *peer)
{
	struct receive_op *op = calloc(1, sizeof *op + receive->count * sizeof op->outcomes[0]);

	if (op == NULL) {
		tr_receive_free(receive);
		return luaL_error(L, "out of memory");
	}
	op->count = receive->count;
	op->raises = raises;
	op->receive = receive;
	if (peer != NULL) {
		snprintf(op->peer, sizeof op->peer, "%s", peer);
		receive->has_peer = true;
		receive->peer_name = TR_STR("");
		receive->peer_addr = tr_str(op->peer);
	}
	receive->owner = op;
	tr_receive_start(receive, received);
	if (op->ended) {
		bool failed = op->raises && op->status != TR_OK;
		int results = push_result(L, op);

		op_free(op);
		return failed ? lua_error(L) : results;
	}
	op->parked = true;
	tr_task_describe(task, "commit of %u messages", op->count);
	return tr_task_park(task, L, receive_cancel, op, &op->ticket);
}

static struct tr_worker *
check_open(lua_State *L, const char *function)
{
	struct tr_worker *worker = tr_service(L, TR_SERVICE_WORKER);
	const char *why = tr_receive_closed(tr_service(L, TR_SERVICE_ENGINE));

	if (worker == NULL || why != NULL)
		luaL_error(L, "%s: %s", function, why != NULL ? why : "waiting for spool startup");
	return worker;
}

/* receive(messages, peer_ip) -> {{id=, queued=, dropped=, error=}, ...} | nil, message, code. HTTP's rules. Takes the
 * messages. */
static int
l_receive(lua_State *L)
{
	struct tr_task *task = tr_task_check(L);
	struct tr_worker *worker = check_open(L, "inject");
	const char *peer = luaL_checkstring(L, 2);
	struct tr_receive *receive;
	size_t count;

	luaL_checktype(L, 1, LUA_TTABLE);
	count = lua_objlen(L, 1);
	luaL_argcheck(L, count > 0 && count <= 1000000, 1, "messages expected");
	for (size_t i = 1; i <= count; i++) {
		lua_rawgeti(L, 1, (int)i);
		tr_message_check(L, -1, "inject"); /* raises before anything was taken */
		lua_pop(L, 1);
	}
	receive = tr_receive_new(worker, (uint32_t)count);
	if (receive == NULL)
		return luaL_error(L, "inject: out of memory");
	receive->flags = TR_RECEIVE_NULL_SILENT;
	for (size_t i = 0; i < count; i++) {
		lua_rawgeti(L, 1, (int)i + 1);
		receive->items[i].message = tr_message_take(L, -1, "inject");
		lua_pop(L, 1);
		if (receive->items[i].message == NULL) {
			tr_receive_free(receive);
			return luaL_error(L, "inject: message %d belongs to somebody else", (int)i + 1);
		}
	}
	return run(L, task, receive, false, peer);
}

/* kumo.inject_message(message, [deferred_spool]): waits for the commit; it is stored in any case. */
static int
l_inject_message(lua_State *L)
{
	static const char fn[] = "kumo.inject_message";
	struct tr_task *task = tr_task_check(L);
	struct tr_worker *worker = check_open(L, fn);
	struct tr_receive *receive;

	tr_message_check(L, 1, fn);
	receive = tr_receive_new(worker, 1);
	if (receive == NULL)
		return luaL_error(L, "%s: out of memory", fn);
	receive->flags = TR_RECEIVE_SILENT | TR_RECEIVE_ALL_OR_NONE;
	receive->items[0].message = tr_message_take(L, 1, fn);
	if (receive->items[0].message == NULL) {
		tr_receive_free(receive);
		return luaL_error(L, "%s: only a message made by kumo.make_message can be injected", fn);
	}
	return run(L, task, receive, true, NULL);
}

/* closed() -> reason why nothing may come in | nil */
static int
l_closed(lua_State *L)
{
	const char *why = tr_receive_closed(tr_service(L, TR_SERVICE_ENGINE));

	if (why == NULL)
		return 0;
	lua_pushstring(L, why);
	return 1;
}

void
tr_receive_lua_add(lua_State *L)
{
	lua_pushcfunction(L, l_receive);
	lua_setfield(L, -2, "receive");
	lua_pushcfunction(L, l_closed);
	lua_setfield(L, -2, "closed");
	lua_getfield(L, -1, "kumo");
	lua_pushcfunction(L, l_inject_message);
	lua_setfield(L, -2, "inject_message");
	lua_pop(L, 1);
}
