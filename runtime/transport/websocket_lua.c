#include "transport/websocket_lua.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "policy/policy.h"
#include "transport/http.h"
#include "transport/websocket_link.h"

#define STREAM_TYPE "tr.websocket"
#define LINKS_TYPE "tr.websocket.links"
#define DEFAULT_TIMEOUT_NS (60 * TR_NS_PER_S)
#define DEFAULT_PING_NS (30 * TR_NS_PER_S)
#define DEFAULT_MESSAGE_BYTES (16 * 1024 * 1024)
#define BACKLOG_BYTES (256 * 1024) /* send() waits while more is not yet with the kernel */

enum wait_kind { WAIT_OPEN, WAIT_RECV, WAIT_BATCH, WAIT_SEND, WAIT_CLOSE };
enum { READER, WRITER, ROLES }; /* one task each may wait */

struct stream;

/* A task that waits for something of a stream. On the C heap: LuaJIT's lua_yield() keeps only the results. */
struct wait {
	struct stream *stream; /* a reference */
	enum wait_kind kind;
	struct tr_timer timer; /* running if there is a deadline */
	struct tr_ticket ticket;
	bool late; /* the deadline has come */
};

struct stream {
	uint32_t refs; /* the Lua object and each wait */
	struct tr_loop *loop;
	struct tr_ws_link *link; /* NULL: the opening failed */
	int64_t timeout_ns;
	struct wait *wait[ROLES];
	char url[]; /* for texts: without user and password */
};

struct links_box {
	struct tr_ws_links *links;
};

static int
role_of(enum wait_kind kind)
{
	return kind == WAIT_SEND || kind == WAIT_CLOSE ? WRITER : READER;
}

static void
stream_unref(struct stream *stream)
{
	if (--stream->refs > 0)
		return;
	tr_ws_link_free(stream->link);
	free(stream);
}

static struct stream *
check_stream(lua_State *L)
{
	struct stream **box = luaL_checkudata(L, 1, STREAM_TYPE);

	if (*box == NULL)
		luaL_error(L, "websocket: the stream was collected");
	return *box;
}

static int
l_stream_gc(lua_State *L)
{
	struct stream **box = luaL_checkudata(L, 1, STREAM_TYPE);

	if (*box != NULL)
		stream_unref(*box);
	*box = NULL;
	return 0;
}

/* --- what a wait gives: each pushes its results, or one error value to be raised ---------------------------- */

static int
push_closed(lua_State *L, const struct stream *stream)
{
	const char *text;
	int err = tr_ws_link_error(stream->link, &text);

	return tr_push_error(L, err, "websocket (%s): %s", stream->url, text);
}

static int
push_late(lua_State *L, const struct stream *stream)
{
	return tr_push_error(L, TR_ETIMEDOUT, "websocket (%s): operation timed out", stream->url);
}

static void
push_message(lua_State *L, struct tr_ws_message *message)
{
	lua_pushlstring(L, message->data, message->len);
	free(message);
}

static int
push_batch(lua_State *L, struct stream *stream)
{
	struct tr_ws_message *message;
	int count = 0;

	lua_newtable(L);
	tr_json_set_array(L, -1);
	while ((message = tr_ws_link_take(stream->link)) != NULL) {
		push_message(L, message);
		lua_rawseti(L, -2, ++count);
	}
	return count;
}

/* Whether what `kind` waits for is there. */
static bool
is_ready(const struct stream *stream, enum wait_kind kind)
{
	enum tr_ws_state state = tr_ws_link_state(stream->link);

	if (state == TR_WS_CLOSED)
		return true;
	switch (kind) {
	case WAIT_OPEN:
		return state != TR_WS_OPENING;
	case WAIT_RECV:
		return tr_ws_link_waiting(stream->link);
	case WAIT_SEND:
		return tr_ws_link_backlog(stream->link) <= BACKLOG_BYTES;
	case WAIT_BATCH: /* all of its time */
	case WAIT_CLOSE:
		break;
	}
	return false;
}

struct outcome {
	struct stream *stream;
	enum wait_kind kind;
	bool late;
};

/* Pushes what a call gives that is ready or late; one error value if raises() says so. */
static int
push_outcome(lua_State *L, void *arg)
{
	struct outcome *outcome = arg;
	struct stream *stream = outcome->stream;
	struct tr_ws_message *message;

	switch (outcome->kind) {
	case WAIT_RECV:
		message = tr_ws_link_take(stream->link);
		if (message == NULL)
			break;
		push_message(L, message);
		return 1;
	case WAIT_BATCH:
		if (push_batch(L, stream) == 0 && tr_ws_link_state(stream->link) == TR_WS_CLOSED) {
			const char *text;

			tr_ws_link_error(stream->link, &text);
			lua_pop(L, 1);
			lua_pushfstring(L, "websocket closed (%s): %s", stream->url, text);
		}
		return 1;
	case WAIT_CLOSE:
		if (tr_ws_link_state(stream->link) == TR_WS_CLOSED) {
			const char *text;

			if (tr_ws_link_error(stream->link, &text) != TR_ECLOSED)
				break;
			lua_pushboolean(L, 1);
			return 1;
		}
		break;
	case WAIT_SEND:
		if (outcome->late || tr_ws_link_state(stream->link) == TR_WS_CLOSED)
			break;
		lua_pushboolean(L, 1);
		return 1;
	case WAIT_OPEN:
		if (tr_ws_link_opened(stream->link)) {
			struct tr_str head;

			lua_pushinteger(L, tr_ws_link_answer(stream->link, &head));
			lua_pushlstring(L, head.data, head.len);
			return 2;
		}
		break;
	}
	return tr_ws_link_state(stream->link) == TR_WS_CLOSED ? push_closed(L, stream) : push_late(L, stream);
}

/* A batch raises only if it is closed with nothing collected: known before anything is pushed. */
static bool
raises(const struct outcome *outcome)
{
	return outcome->kind == WAIT_BATCH && tr_ws_link_state(outcome->stream->link) == TR_WS_CLOSED &&
	       !tr_ws_link_waiting(outcome->stream->link);
}

/* --- waiting -------------------------------------------------------------------------------------------------- */

/* Takes it out; the reference of the stream goes to the caller. */
static struct stream *
wait_end(struct wait *wait)
{
	struct stream *stream = wait->stream;

	tr_timer_stop(tr_loop_wheel(stream->loop), &wait->timer);
	stream->wait[role_of(wait->kind)] = NULL;
	free(wait);
	return stream;
}

static void
wake(struct wait *wait)
{
	struct outcome outcome = {wait->stream, wait->kind, wait->late};
	struct tr_ticket ticket = wait->ticket;
	struct stream *stream = wait_end(wait); /* before the wake, which runs Lua and may wait again */

	tr_task_wake(&ticket, push_outcome, &outcome, raises(&outcome));
	stream_unref(stream);
}

static void
late(struct tr_timer *timer)
{
	struct wait *wait = tr_container_of(timer, struct wait, timer);

	wait->late = true;
	wake(wait);
}

static void
changed(struct tr_ws_link *link, void *arg)
{
	struct stream *stream = arg;

	stream->refs++; /* what is woken may drop it */
	for (int role = 0; role < ROLES; role++) {
		struct wait *wait = stream->wait[role];

		if (wait != NULL && is_ready(stream, wait->kind))
			wake(wait);
	}
	stream_unref(stream);
}

static void
cancelled(void *op)
{
	stream_unref(wait_end(op));
}

/* Parks the running task. timeout_ns < 0: no deadline. The last act of a binding. */
static int
park(lua_State *L, struct tr_task *task, struct stream *stream, enum wait_kind kind, int64_t timeout_ns,
	const char *what)
{
	struct wait *wait;

	if (stream->wait[role_of(kind)] != NULL)
		return luaL_error(L, "websocket: another task waits in a %s of this stream",
			role_of(kind) == READER ? "recv" : "send or close");
	wait = calloc(1, sizeof *wait);
	if (wait == NULL)
		return luaL_error(L, "websocket: out of memory");
	wait->stream = stream;
	wait->kind = kind;
	stream->refs++;
	stream->wait[role_of(kind)] = wait;
	if (timeout_ns >= 0)
		tr_timer_start(tr_loop_wheel(stream->loop), &wait->timer, timeout_ns, late);
	tr_task_describe(task, "websocket %s %s", what, stream->url);
	return tr_task_park(task, L, cancelled, wait, &wait->ticket);
}

/* --- methods ---------------------------------------------------------------------------------------------------- */

/* recv([timeout]) -> text | nil, message, code */
static int
l_recv(lua_State *L)
{
	struct stream *stream = check_stream(L);
	int64_t timeout_ns = lua_isnoneornil(L, 2) ? -1 : tr_check_duration_ns(L, 2, "stream:recv", "timeout");
	struct tr_task *task = tr_task_check(L);
	struct outcome outcome = {stream, WAIT_RECV, false};

	if (stream->wait[READER] == NULL && is_ready(stream, WAIT_RECV))
		return push_outcome(L, &outcome);
	return park(L, task, stream, WAIT_RECV, timeout_ns, "recv");
}

/* recv_batch(duration) -> list; raises "websocket closed" */
static int
l_recv_batch(lua_State *L)
{
	struct stream *stream = check_stream(L);
	int64_t wait_ns = tr_check_duration_ns(L, 2, "stream:recv_batch", "duration");
	struct tr_task *task = tr_task_check(L);
	struct outcome outcome = {stream, WAIT_BATCH, false};

	if (stream->wait[READER] == NULL && is_ready(stream, WAIT_BATCH)) {
		bool raise = raises(&outcome);

		push_outcome(L, &outcome);
		return raise ? lua_error(L) : 1;
	}
	return park(L, task, stream, WAIT_BATCH, wait_ns, "recv_batch");
}

/* send(text, [kind]) -> true | nil, message, code */
static int
l_send(lua_State *L)
{
	static const char *const kinds[] = {"text", "binary", NULL};
	struct stream *stream = check_stream(L);
	struct tr_task *task = tr_task_check(L);
	struct tr_str payload;
	bool binary;
	int err;

	payload.data = luaL_checklstring(L, 2, &payload.len);
	binary = luaL_checkoption(L, 3, "text", kinds) == 1;
	luaL_argcheck(L, binary || tr_utf8_valid(payload), 2, "a text must be UTF-8; say 'binary' for other bytes");
	if (stream->wait[WRITER] != NULL)
		return luaL_error(L, "websocket: another task waits in a send or close of this stream");
	err = tr_ws_link_send(stream->link, binary, payload);
	if (tr_ws_link_state(stream->link) == TR_WS_CLOSED)
		return push_closed(L, stream);
	if (err != TR_OK)
		return tr_push_error(L, err, "websocket (%s): %s", stream->url,
			err == TR_ECLOSED ? "it is being closed" : tr_err_text(err));
	if (is_ready(stream, WAIT_SEND)) {
		lua_pushboolean(L, 1);
		return 1;
	}
	return park(L, task, stream, WAIT_SEND, stream->timeout_ns, "send");
}

/* close() -> true | nil, message, code */
static int
l_close(lua_State *L)
{
	struct stream *stream = check_stream(L);
	struct tr_task *task = tr_task_check(L);

	if (stream->wait[WRITER] != NULL)
		return luaL_error(L, "websocket: another task waits in a send or close of this stream");
	tr_ws_link_close(stream->link);
	if (is_ready(stream, WAIT_CLOSE)) {
		lua_pushboolean(L, 1); /* it is closed, for whatever reason */
		return 1;
	}
	return park(L, task, stream, WAIT_CLOSE, -1, "close"); /* the link's own deadline ends it */
}

/* --- opening --------------------------------------------------------------------------------------------------- */

static int
l_links_gc(lua_State *L)
{
	struct links_box *box = luaL_checkudata(L, 1, LINKS_TYPE);

	tr_ws_links_free(box->links);
	box->links = NULL;
	return 0;
}

/* Those of this Lua state, made when first needed; the registry keeps them until it ends. */
static struct tr_ws_links *
links_of(lua_State *L)
{
	struct links_box *box;
	int err;

	lua_getfield(L, LUA_REGISTRYINDEX, LINKS_TYPE " of this state");
	box = lua_touserdata(L, -1);
	lua_pop(L, 1);
	if (box != NULL)
		return box->links;
	box = lua_newuserdata(L, sizeof *box);
	box->links = NULL;
	luaL_getmetatable(L, LINKS_TYPE);
	lua_setmetatable(L, -2);
	err = tr_ws_links_new(tr_host_loop(tr_host_of(L)), &box->links);
	if (err != TR_OK)
		luaL_error(L, "websocket: %s", tr_err_text(err));
	lua_setfield(L, LUA_REGISTRYINDEX, LINKS_TYPE " of this state");
	return box->links;
}

/* new(url, [options]) -> stream. Begins to connect; raises for a bad URL or option. */
static int
l_new(lua_State *L)
{
	static const char fn[] = "kumo.http.connect_websocket";
	static const struct tr_key keys[] = {
		{"timeout", 'd', false}, {"ping_interval", 'd', false}, {"max_message_bytes", 'i', false}};
	size_t len;
	const char *url = luaL_checklstring(L, 1, &len), *rest, *why;
	struct tr_ws_settings settings = {DEFAULT_TIMEOUT_NS, DEFAULT_PING_NS, DEFAULT_MESSAGE_BYTES};
	struct tr_ws_links *links;
	struct stream **box, *stream;
	int64_t bytes;
	int err, front;

	if (!lua_isnoneornil(L, 2)) {
		luaL_checktype(L, 2, LUA_TTABLE);
		tr_check_options(L, 2, fn, keys, TR_COUNT(keys));
		settings.timeout_ns = tr_opt_duration_ns(L, 2, fn, "timeout", DEFAULT_TIMEOUT_NS);
		settings.ping_ns = tr_opt_duration_ns(L, 2, fn, "ping_interval", DEFAULT_PING_NS);
		bytes = tr_opt_int(L, 2, "max_message_bytes", DEFAULT_MESSAGE_BYTES);
		if (settings.timeout_ns < 1 || settings.ping_ns < TR_NS_PER_MS || bytes < 1)
			return luaL_error(
				L, "%s: timeout, ping_interval and max_message_bytes must be greater than 0", fn);
		settings.max_message_bytes = (size_t)bytes;
	}
	links = links_of(L);
	box = lua_newuserdata(L, sizeof(struct stream *));
	*box = NULL;
	luaL_getmetatable(L, STREAM_TYPE);
	lua_setmetatable(L, -2);
	stream = calloc(1, sizeof *stream + len + 1);
	if (stream == NULL)
		return luaL_error(L, "%s: out of memory", fn);
	rest = tr_http_url_shown(url, &front);
	snprintf(stream->url, len + 1, "%.*s%s", front, url, rest);
	stream->refs = 1;
	stream->loop = tr_host_loop(tr_host_of(L));
	stream->timeout_ns = settings.timeout_ns;
	err = tr_ws_link_open(links, url, &settings, changed, stream, &stream->link, &why);
	if (err != TR_OK) {
		lua_pushfstring(L, "%s (%s): %s", fn, stream->url, why);
		free(stream);
		return lua_error(L);
	}
	*box = stream;
	return 1;
}

/* opened(stream) -> status, head | nil, message, code. Waits until it is open. */
static int
l_opened(lua_State *L)
{
	struct stream *stream = check_stream(L);
	struct tr_task *task = tr_task_check(L);
	struct outcome outcome = {stream, WAIT_OPEN, false};

	if (is_ready(stream, WAIT_OPEN))
		return push_outcome(L, &outcome);
	return park(L, task, stream, WAIT_OPEN, -1, "connect"); /* the link's own deadline ends it */
}

int
luaopen_tr_websocket(lua_State *L)
{
	static const luaL_Reg functions[] = {{"new", l_new}, {"opened", l_opened}, {NULL, NULL}};
	static const luaL_Reg methods[] = {
		{"recv", l_recv}, {"recv_batch", l_recv_batch}, {"send", l_send}, {"close", l_close}, {NULL, NULL}};

	tr_type(L, LINKS_TYPE, l_links_gc, NULL);
	tr_type(L, STREAM_TYPE, l_stream_gc, methods);
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
