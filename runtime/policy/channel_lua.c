/* tr.channel: policy/channel.h for lua/kumo/mpsc.lua, which makes kumo.mpsc of it. */
#include <math.h>
#include <stdlib.h>

#include "policy/channel.h"
#include "policy/internal.h"
#include "policy/library.h"

#define CHANNEL "tr.channel"

struct wait_op {
	struct tr_channel_waiter waiter;
	struct tr_timer deadline;
	struct tr_ticket ticket;
	struct tr_channel *channel; /* a reference */
	struct tr_defer defer;
	bool alone; /* the task does not wait any more: then() only frees */
	bool woken; /* then() came, the task will go on in this turn */
};

static struct tr_channel *
check_channel(lua_State *L)
{
	return *(struct tr_channel **)luaL_checkudata(L, 1, CHANNEL);
}

static int
l_open(lua_State *L)
{
	const char *name = luaL_checkstring(L, 1);
	lua_Number limit = luaL_optnumber(L, 2, 0);
	struct tr_channel **handle = lua_newuserdata(L, sizeof(struct tr_channel *));

	*handle = NULL;
	luaL_getmetatable(L, CHANNEL);
	lua_setmetatable(L, -2);
	*handle = tr_channel_open(name, (size_t)limit);
	return *handle != NULL ? 1 : luaL_error(L, "out of memory");
}

static int
l_gc(lua_State *L)
{
	struct tr_channel **handle = luaL_checkudata(L, 1, CHANNEL);

	tr_channel_unref(*handle);
	*handle = NULL;
	return 0;
}

/* channel:send(value) -> "ok", "full", "closed"; nil: a value that cannot be kept. */
static int
l_send(lua_State *L)
{
	struct tr_channel *channel = check_channel(L);
	struct tr_buf bytes = {0};
	int err;

	lua_settop(L, 2);
	err = tr_freeze(L, 2, &bytes) ? tr_channel_send(channel, (struct tr_str){bytes.data, bytes.len}) : TR_EINVAL;
	tr_buf_free(&bytes);
	if (err == TR_EINVAL || err == TR_ENOMEM)
		return 0;
	lua_pushstring(L, err == TR_OK ? "ok" : err == TR_EAGAIN ? "full" : "closed");
	return 1;
}

/* channel:receive() -> "ok", value; "empty"; "closed" */
static int
l_receive(lua_State *L)
{
	struct tr_channel *channel = check_channel(L);
	struct tr_buf bytes = {0};
	int err = tr_channel_receive(channel, &bytes);
	struct tr_str text;

	if (err != TR_OK) {
		lua_pushstring(L, err == TR_EAGAIN ? "empty" : "closed");
		return 1;
	}
	lua_pushliteral(L, "ok");
	lua_pushlstring(L, bytes.data != NULL ? bytes.data : "", bytes.len); /* owned while thawing may raise */
	tr_buf_free(&bytes);
	text.data = lua_tolstring(L, -1, &text.len);
	tr_thaw(L, text);
	lua_remove(L, -2);
	return 2;
}

static void
free_op(struct wait_op *op)
{
	tr_channel_unref(op->channel);
	free(op);
}

static void
stop(struct wait_op *op)
{
	tr_timer_stop(tr_loop_wheel(op->waiter.loop), &op->deadline);
	tr_loop_undefer(op->waiter.loop, &op->defer);
	op->alone = true;
	if (op->woken || tr_channel_leave(&op->waiter))
		free_op(op);
}

static int
push_bool(lua_State *L, void *arg)
{
	lua_pushboolean(L, *(bool *)arg);
	return 1;
}

static void
late(struct tr_timer *timer)
{
	struct wait_op *op = tr_container_of(timer, struct wait_op, deadline);
	struct tr_ticket ticket = op->ticket;
	bool changed = false;

	stop(op);
	tr_task_wake(&ticket, push_bool, &changed, false);
}

static void
go_on(struct tr_defer *defer)
{
	struct wait_op *op = tr_container_of(defer, struct wait_op, defer);
	struct tr_ticket ticket = op->ticket;
	bool changed = true;

	stop(op);
	tr_task_wake(&ticket, push_bool, &changed, false);
}

/* The task goes on later in the turn, so that the hold of the mail is not out while it runs. */
static void
then(struct tr_channel_waiter *waiter)
{
	struct wait_op *op = tr_container_of(waiter, struct wait_op, waiter);

	op->woken = true;
	if (op->alone)
		free_op(op);
	else
		tr_loop_defer(waiter->loop, &op->defer, go_on);
}

static void
cancelled(void *arg)
{
	stop(arg);
}

/* channel:wait("send" or "receive", [seconds]) -> true: try again; false: the time is over; nil: another one receives
 */
static int
l_wait(lua_State *L)
{
	static const char *const kinds[] = {"send", "receive", NULL};
	struct tr_channel *channel = check_channel(L);
	bool receives = luaL_checkoption(L, 2, NULL, kinds) == 1;
	lua_Number limit_s = luaL_optnumber(L, 3, -1);
	struct tr_task *task = tr_task_check(L);
	struct tr_loop *loop = tr_host_loop(tr_host_of(L));
	struct wait_op *op = calloc(1, sizeof *op);
	int err;

	if (op == NULL)
		return luaL_error(L, "out of memory");
	err = tr_channel_wait(channel, &op->waiter, receives, loop, then);
	if (err != TR_OK) {
		free(op);
		if (err == TR_EEXIST)
			return 0;
		lua_pushboolean(L, 1);
		return 1;
	}
	op->channel = tr_channel_ref(channel);
	if (limit_s >= 0 && limit_s < 9.2e9)
		tr_timer_start(tr_loop_wheel(loop), &op->deadline, (int64_t)(limit_s * TR_NS_PER_S), late);
	tr_task_describe(task, receives ? "something in a channel" : "room in a channel");
	return tr_task_park(task, L, cancelled, op, &op->ticket);
}

static int
l_length(lua_State *L)
{
	lua_pushnumber(L, (lua_Number)tr_channel_length(check_channel(L)));
	return 1;
}

static int
l_closed(lua_State *L)
{
	lua_pushboolean(L, tr_channel_closed(check_channel(L)));
	return 1;
}

static int
l_close(lua_State *L)
{
	tr_channel_close(check_channel(L));
	return 0;
}

int
luaopen_tr_channel(lua_State *L)
{
	static const luaL_Reg functions[] = {{"open", l_open}, {NULL, NULL}};
	static const luaL_Reg methods[] = {
		{"send", l_send},
		{"receive", l_receive},
		{"wait", l_wait},
		{"length", l_length},
		{"closed", l_closed},
		{"close", l_close},
		{"__gc", l_gc},
		{NULL, NULL},
	};

	luaL_newmetatable(L, CHANNEL);
	lua_pushvalue(L, -1);
	lua_setfield(L, -2, "__index");
	luaL_register(L, NULL, methods);
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
