/* `require 'tr.scripted'`: the network of a script (net/scripted.h) with its peers in Lua. Each connection is a task
 * that runs the function given to new(): it reads and writes, may wait, and ends the connection by ending.
 * lua/scripted.lua speaks HTTP and SMTP on it. */
#include "net/scripted_lua.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "net/scripted.h"
#include "policy/policy.h"

#define NETWORK_TYPE "tr.scripted"
#define CONN_TYPE "tr.scripted.conn"
#define LINGER_NS (5 * TR_NS_PER_S)
#define INPUT_LIMIT (256 * 1024)

struct network;

struct peer {
	int refs;                  /* its task, and the userdata */
	struct peer *next, **prev; /* of the network, while the task lives */
	struct network *network;   /* NULL: the task has ended, or the network has */
	struct tr_scripted_end end;
	struct tr_task *task; /* NULL: it has not waited yet, or has ended */
	struct tr_ticket ticket;
	struct tr_timer timer; /* of a read with a time limit */
	struct tr_loop *loop;
	bool waiting; /* in read() */
	bool ended;   /* the client has closed, or reset */
	bool closed;  /* the stream is not ours any more */
	bool timed;   /* the read's time is over */
};

struct network {
	struct tr_scripted *script; /* NULL: closed */
	struct tr_host *host;
	struct peer *peers;
	int serve_ref; /* the function that plays peers */
};

static struct network *
check_network(lua_State *L)
{
	struct network *network = luaL_checkudata(L, 1, NETWORK_TYPE);

	if (network->script == NULL)
		luaL_error(L, "this network has been closed");
	return network;
}

/* --- connections ------------------------------------------------------------------------------------------------ */

static int
push_input(lua_State *L, void *arg)
{
	struct peer *peer = arg;
	struct tr_buf *in = peer->closed ? NULL : tr_stream_input(peer->end.stream);

	if (in != NULL && in->len > 0) {
		lua_pushlstring(L, in->data, in->len);
		tr_buf_consume(in, in->len);
		return 1;
	}
	lua_pushnil(L);
	lua_pushstring(L, peer->timed && !peer->ended ? "timeout" : "closed");
	return 2;
}

static void
wake(struct peer *peer)
{
	if (!peer->waiting)
		return;
	peer->waiting = false;
	tr_timer_stop(tr_loop_wheel(peer->loop), &peer->timer);
	tr_task_wake(&peer->ticket, push_input, peer, false);
}

static void
peer_data(struct tr_stream *stream, void *arg)
{
	wake(arg);
}

static void
peer_closed(struct tr_stream *stream, int err, void *arg)
{
	struct peer *peer = arg;

	peer->ended = true;
	wake(peer);
}

static const struct tr_stream_handlers peer_handlers = {peer_data, NULL, peer_closed};

static void
read_timed_out(struct tr_timer *timer)
{
	struct peer *peer = tr_container_of(timer, struct peer, timer);

	peer->timed = true;
	wake(peer);
}

static void
read_cancel(void *op)
{
	struct peer *peer = op;

	peer->waiting = false;
	tr_timer_stop(tr_loop_wheel(peer->loop), &peer->timer);
}

static struct peer *
check_conn(lua_State *L)
{
	return *(struct peer **)luaL_checkudata(L, 1, CONN_TYPE);
}

/* conn:read([seconds]) -> the bytes that have come, at least one; nil, 'closed' or 'timeout' */
static int
l_read(lua_State *L)
{
	struct peer *peer = check_conn(L);
	lua_Number limit_s = luaL_optnumber(L, 2, -1);
	struct tr_task *task = tr_task_check(L);

	luaL_argcheck(L, limit_s < 1e9 && !isnan(limit_s), 2, "seconds expected");
	if (peer->waiting)
		return luaL_error(L, "read: another task reads from this connection");
	peer->timed = limit_s == 0;
	if (peer->closed || peer->ended || peer->timed || tr_stream_input(peer->end.stream)->len > 0)
		return push_input(L, peer);
	peer->waiting = true;
	if (limit_s > 0)
		tr_timer_start(
			tr_loop_wheel(peer->loop), &peer->timer, (int64_t)(limit_s * TR_NS_PER_S), read_timed_out);
	tr_task_describe(task, "a scripted endpoint's client");
	return tr_task_park(task, L, read_cancel, peer, &peer->ticket);
}

/* conn:write(bytes) -> true if the connection is there */
static int
l_write(lua_State *L)
{
	struct peer *peer = check_conn(L);
	size_t len;
	const char *bytes = luaL_checklstring(L, 2, &len);

	if (!peer->closed)
		tr_stream_write(peer->end.stream, bytes, len);
	lua_pushboolean(L, !peer->closed && !peer->ended);
	return 1;
}

static void
close_peer(struct peer *peer, bool reset)
{
	if (peer->closed)
		return;
	peer->closed = true;
	if (reset)
		tr_scripted_reset(&peer->end);
	else
		tr_stream_close(peer->end.stream, LINGER_NS);
}

static int
l_close(lua_State *L)
{
	close_peer(check_conn(L), false);
	return 0;
}

static int
l_reset(lua_State *L)
{
	close_peer(check_conn(L), true);
	return 0;
}

/* conn:client() -> "ip:port" that it comes from */
static int
l_client(lua_State *L)
{
	char text[64];

	lua_pushlstring(L, text, tr_sockaddr_text(&check_conn(L)->end.client, true, text));
	return 1;
}

static void
leave_network(struct peer *peer)
{
	if (peer->network == NULL)
		return;
	*peer->prev = peer->next;
	if (peer->next != NULL)
		peer->next->prev = peer->prev;
	peer->network = NULL;
}

static void
unref(struct peer *peer)
{
	if (--peer->refs == 0)
		free(peer);
}

static int
l_conn_gc(lua_State *L)
{
	struct peer **box = lua_touserdata(L, 1), *peer = *box;

	*box = NULL;
	if (peer == NULL)
		return 0;
	if (peer->refs == 1 && peer->network == NULL) /* nobody else holds it: of a client, mostly closed by now */
		close_peer(peer, false);
	unref(peer);
	return 0;
}

/* --- peers -------------------------------------------------------------------------------------------------------- */

/* What went wrong is with lua/scripted.lua, which catches all but a cancellation. */
static void
served(void *arg, const struct tr_task_result *result)
{
	struct peer *peer = arg;

	peer->task = NULL;
	close_peer(peer, false);
	leave_network(peer);
	unref(peer);
}

static int
push_serving(lua_State *L, void *arg)
{
	struct peer *peer = arg, **box;
	char text[64];

	tr_ref_push(L, peer->network->serve_ref);
	box = lua_newuserdata(L, sizeof(struct peer *));
	*box = peer;
	peer->refs++;
	luaL_getmetatable(L, CONN_TYPE);
	lua_setmetatable(L, -2);
	lua_pushlstring(L, text, tr_sockaddr_text(&peer->end.at, true, text));
	return 3;
}

static void
accepted(void *arg, const struct tr_scripted_end *end)
{
	struct network *network = arg;
	struct peer *peer = calloc(1, sizeof *peer);
	struct tr_task_call call = {.event = "scripted endpoint",
		.entry = "scripted",
		.push = push_serving,
		.push_arg = peer,
		.end = served,
		.end_arg = peer};
	struct tr_task *task = NULL;

	if (peer == NULL) {
		tr_stream_abort(end->stream);
		return;
	}
	peer->refs = 2; /* the task's, and ours until it waits */
	peer->end = *end;
	peer->loop = tr_host_loop(network->host);
	peer->network = network;
	peer->next = network->peers;
	peer->prev = &network->peers;
	if (peer->next != NULL)
		peer->next->prev = &peer->next;
	network->peers = peer;
	tr_stream_set_input_limit(end->stream, INPUT_LIMIT);
	tr_stream_set_handlers(end->stream, &peer_handlers, peer);
	if (tr_task_start(network->host, &call, &task) != TR_OK)
		served(peer, NULL);
	else
		peer->task = task;
	unref(peer); /* NOLINT(clang-analyzer-unix.Malloc): it had two */
}

/* --- the network ----------------------------------------------------------------------------------------------------
 */

/* scripted.new(serve) -> network. serve(conn, address) runs as a task for each connection. */
static int
l_new(lua_State *L)
{
	struct network *network;
	int err;

	luaL_checktype(L, 1, LUA_TFUNCTION);
	network = lua_newuserdata(L, sizeof *network);
	*network = (struct network){.host = tr_host_of(L), .serve_ref = LUA_NOREF};
	luaL_getmetatable(L, NETWORK_TYPE);
	lua_setmetatable(L, -2);
	err = tr_scripted_new(tr_host_loop(network->host), accepted, network, &network->script);
	if (err == TR_EINVAL)
		return luaL_error(L, "the network of this process is scripted already: close that one first");
	if (err != TR_OK)
		return luaL_error(L, "out of memory");
	lua_pushvalue(L, 1);
	network->serve_ref = tr_ref(L);
	return 1;
}

static enum tr_scripted_kind
check_kind(lua_State *L, int idx)
{
	static const char *const names[] = {"real", "open", "refused", "silent", NULL};

	return (enum tr_scripted_kind)luaL_checkoption(L, idx, NULL, names);
}

static struct tr_sockaddr
check_address(lua_State *L, int idx, uint16_t default_port)
{
	struct tr_sockaddr addr;
	size_t len;
	const char *text = luaL_checklstring(L, idx, &len);

	if (len == 0 || text[0] == '/' || tr_sockaddr_parse((struct tr_str){text, len}, default_port, &addr) != TR_OK)
		luaL_error(L, "bad argument #%d (%s expected, got '%s')", idx - 1,
			default_port == 0 ? "\"address:port\"" : "an address", text);
	return addr;
}

/* network:set(address, kind) */
static int
l_set(lua_State *L)
{
	struct network *network = check_network(L);
	struct tr_sockaddr at = check_address(L, 2, 0);

	if (tr_scripted_set(network->script, &at, check_kind(L, 3)) != TR_OK)
		return luaL_error(L, "out of memory");
	return 0;
}

static int
l_otherwise(lua_State *L)
{
	tr_scripted_otherwise(check_network(L)->script, check_kind(L, 2));
	return 0;
}

/* network:name(name[, address]) -> the name's first address */
static int
l_name(lua_State *L)
{
	struct network *network = check_network(L);
	bool given = !lua_isnoneornil(L, 3);
	struct tr_sockaddr addr, first;
	char name[TR_DNS_NAME_MAX], text[64];

	if (tr_dns_name_normal(tr_str(luaL_checkstring(L, 2)), name) != TR_OK)
		return luaL_argerror(L, 2, "a host name expected");
	if (given) {
		addr = check_address(L, 3, 1);
		tr_sockaddr_set_port(&addr, 0);
	}
	if (tr_scripted_name(network->script, name, given ? &addr : NULL, &first) != TR_OK)
		return luaL_error(L, "out of memory");
	lua_pushlstring(L, text, tr_sockaddr_text(&first, false, text));
	return 1;
}

/* network:zone(text): a master file */
static int
l_zone(lua_State *L)
{
	struct network *network = check_network(L);
	struct tr_str text;
	char error[256];

	text.data = luaL_checklstring(L, 2, &text.len);
	switch (tr_scripted_zone(network->script, text, error)) {
	case TR_OK:
		return 0;
	case TR_EINVAL:
		return luaL_error(L, "zone: %s", error);
	default:
		return luaL_error(L, "out of memory");
	}
}

/* network:no_name(name) */
static int
l_no_name(lua_State *L)
{
	struct network *network = check_network(L);
	static const struct tr_sockaddr none = {.len = 0};
	char name[TR_DNS_NAME_MAX];

	if (tr_dns_name_normal(tr_str(luaL_checkstring(L, 2)), name) != TR_OK)
		return luaL_argerror(L, 2, "a host name expected");
	if (tr_scripted_name(network->script, name, &none, NULL) != TR_OK)
		return luaL_error(L, "out of memory");
	return 0;
}

/* network:connect(address[, client]) -> a connection as of a client, or nil, text. It belongs to the calling task. */
static int
l_connect(lua_State *L)
{
	struct network *network = check_network(L);
	struct tr_sockaddr to = check_address(L, 2, 0), client;
	bool named = !lua_isnoneornil(L, 3);
	struct peer *peer, **box;

	if (named) {
		client = check_address(L, 3, 1);
		if (tr_sockaddr_port(&client) == 1)
			tr_sockaddr_set_port(&client, 0);
	}
	box = lua_newuserdata(L, sizeof(struct peer *));
	*box = NULL;
	luaL_getmetatable(L, CONN_TYPE);
	lua_setmetatable(L, -2);
	peer = calloc(1, sizeof *peer);
	if (peer == NULL)
		return luaL_error(L, "out of memory");
	if (tr_scripted_dial(network->script, &to, named ? &client : NULL, &peer->end) != TR_OK) {
		free(peer);
		lua_pushnil(L);
		lua_pushliteral(L, "connection refused");
		return 2;
	}
	peer->refs = 1;
	peer->loop = tr_host_loop(network->host);
	*box = peer;
	tr_stream_set_input_limit(peer->end.stream, INPUT_LIMIT);
	tr_stream_set_handlers(peer->end.stream, &peer_handlers, peer);
	return 1;
}

/* network:listeners() -> text of lines, or nil: where this process listens */
static int
l_listeners(lua_State *L)
{
	char *text = tr_scripted_listeners(check_network(L)->script);

	lua_pushstring(L, text);
	free(text);
	return 1;
}

/* network:strays() -> text of lines, or nil: what was asked for in vain since the last call */
static int
l_strays(lua_State *L)
{
	char *text = tr_scripted_strays(check_network(L)->script);

	lua_pushstring(L, text); /* NULL gives nil */
	free(text);
	return 1;
}

static void
close_network(struct network *network)
{
	tr_scripted_free(network->script);
	network->script = NULL;
	while (network->peers != NULL) {
		struct peer *peer = network->peers;

		leave_network(peer);
		if (!peer->closed) {
			peer->closed = true;
			tr_stream_abort(peer->end.stream);
		}
		if (peer->task != NULL)
			tr_task_cancel(peer->task);
	}
}

static int
l_network_close(lua_State *L)
{
	struct network *network = luaL_checkudata(L, 1, NETWORK_TYPE);

	close_network(network);
	tr_unref(L, network->serve_ref);
	network->serve_ref = LUA_NOREF;
	return 0;
}

int
luaopen_tr_scripted(lua_State *L)
{
	static const luaL_Reg conn[] = {{"read", l_read}, {"write", l_write}, {"close", l_close}, {"reset", l_reset},
		{"client", l_client}, {NULL, NULL}};
	static const luaL_Reg network[] = {{"set", l_set}, {"otherwise", l_otherwise}, {"name", l_name},
		{"zone", l_zone}, {"no_name", l_no_name}, {"strays", l_strays}, {"connect", l_connect},
		{"listeners", l_listeners}, {"close", l_network_close}, {NULL, NULL}};

	luaL_newmetatable(L, CONN_TYPE);
	lua_newtable(L);
	luaL_setfuncs(L, conn, 0);
	lua_setfield(L, -2, "__index");
	lua_pushcfunction(L, l_conn_gc);
	lua_setfield(L, -2, "__gc");
	luaL_newmetatable(L, NETWORK_TYPE);
	lua_newtable(L);
	luaL_setfuncs(L, network, 0);
	lua_setfield(L, -2, "__index");
	lua_pushcfunction(L, l_network_close);
	lua_setfield(L, -2, "__gc");
	lua_settop(L, 0);
	lua_newtable(L);
	lua_pushcfunction(L, l_new);
	lua_setfield(L, -2, "new");
	return 1;
}
