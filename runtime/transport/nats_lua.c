/* tr.nats: the binding behind lua/kumo/nats.lua, whose names say more. */
#include "transport/nats_lua.h"

#include <stdlib.h>
#include <string.h>

#include "message/message_lua.h"
#include "policy/policy.h"
#include "transport/nats_settings_lua.h"

#define CLIENT_TYPE "tr.nats.client"
#define CALL_TYPE "tr.nats.call"
#define PUBLISH "client:publish"
#define HEADERS_MAX 64

static const struct tr_key message_keys[] = {
	{"subject", 's', true},
	{"payload", '*', true},
	{"headers", 't', false},
	{"await_ack", 'b', false},
};

struct box {
	struct tr_nats_connection *connection; /* NULL: closed */
};
/* Owns the call while it is being filled, so that raising leaks nothing. */
struct call_box {
	struct tr_nats_call *call; /* NULL: started, or none */
};

/* --- clients ---------------------------------------------------------------------------------------------------- */

/* check(config, auth) raises what open() would */
static int
l_check(lua_State *L)
{
	struct tr_nats_settings settings;

	nats_read_settings(L, &settings);
	return 0;
}

/* subject_error(text) -> what is wrong with it as a subject, or nothing */
static int
l_subject_error(lua_State *L)
{
	struct tr_str subject;
	const char *wrong;

	subject.data = luaL_checklstring(L, 1, &subject.len);
	wrong = tr_nats_check_subject(subject);
	if (wrong == NULL)
		return 0;
	lua_pushstring(L, wrong);
	return 1;
}

/* open(config, auth) -> client; it connects with its first call, or in the background */
static int
l_open(lua_State *L)
{
	struct tr_nats *nats = tr_service(L, TR_SERVICE_NATS);
	struct tr_nats_settings settings;
	struct box *box;
	int err;

	if (nats == NULL)
		return luaL_error(L, "NATS is not available here");
	nats_read_settings(L, &settings);
	box = lua_newuserdata(L, sizeof *box);
	box->connection = NULL;
	luaL_getmetatable(L, CLIENT_TYPE);
	lua_setmetatable(L, -2);
	err = tr_nats_open(nats, &settings, &box->connection);
	if (err != TR_OK)
		return luaL_error(L, CONNECT ": %s", tr_err_text(err));
	return 1;
}

static int
l_close(lua_State *L)
{
	struct box *box = luaL_checkudata(L, 1, CLIENT_TYPE);

	tr_nats_unref(box->connection);
	box->connection = NULL;
	return 0;
}

/* --- messages --------------------------------------------------------------------------------------------------- */

static int
l_call_gc(lua_State *L)
{
	struct call_box *box = lua_touserdata(L, 1);

	if (box->call != NULL)
		tr_nats_call_free(box->call);
	box->call = NULL;
	return 0;
}

/* A new call in a box on the stack. Raises. */
static struct call_box *
push_call(lua_State *L, const struct box *client, uint32_t count)
{
	struct call_box *box;

	if (client->connection == NULL)
		luaL_error(L, "client was closed");
	box = lua_newuserdata(L, sizeof *box);
	box->call = NULL;
	luaL_getmetatable(L, CALL_TYPE);
	lua_setmetatable(L, -2);
	box->call = tr_nats_call_new(client->connection, count);
	if (box->call == NULL)
		luaL_error(L, PUBLISH ": out of memory");
	return box;
}

/* Of the table at idx, which keeps the strings; nil: none. Raises. */
static uint32_t
read_headers(lua_State *L, int idx, struct tr_str headers[2 * HEADERS_MAX])
{
	uint32_t count = 0;

	if (lua_isnil(L, idx))
		return 0;
	lua_pushnil(L);
	while (lua_next(L, idx) != 0) {
		struct tr_str *header = &headers[2 * count];
		const char *wrong;

		if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
			luaL_error(L, PUBLISH ": headers: strings by name expected, got %s by %s", luaL_typename(L, -1),
				luaL_typename(L, -2));
		if (count == HEADERS_MAX)
			luaL_error(L, PUBLISH ": headers: at most %d", HEADERS_MAX);
		header[0].data = lua_tolstring(L, -2, &header[0].len);
		header[1].data = lua_tolstring(L, -1, &header[1].len);
		wrong = tr_nats_check_header(header[0], header[1]);
		if (wrong != NULL)
			luaL_error(L, PUBLISH ": headers: '%s': %s", header[0].data, wrong);
		count++;
		lua_pop(L, 1);
	}
	return count;
}

/* Adds the message of the table at idx. Raises. */
static void
read_message(lua_State *L, int idx, struct tr_nats_call *call)
{
	struct tr_nats_message message = {0};
	struct tr_str headers[2 * HEADERS_MAX];
	struct tr_bytes bytes = {0};
	const char *wrong;
	int err;

	tr_check_options(L, idx, PUBLISH, message_keys, TR_COUNT(message_keys));
	message.subject.data = tr_opt_string(L, idx, "subject", NULL, &message.subject.len);
	wrong = tr_nats_check_subject(message.subject);
	if (wrong != NULL)
		luaL_error(L, PUBLISH ": subject: %s", wrong);
	message.await_ack = tr_opt_bool(L, idx, "await_ack", true);
	message.headers = headers;
	lua_getfield(L, idx, "headers");
	message.header_count = read_headers(L, lua_gettop(L), headers);
	lua_pop(L, 1);
	lua_getfield(L, idx, "payload");
	if (lua_isuserdata(L, -1)) {
		if (tr_message_data(tr_message_check(L, lua_gettop(L), PUBLISH ": payload"), &bytes) != TR_OK)
			luaL_error(L, PUBLISH ": out of memory");
		message.bytes = &bytes;
	} else if (lua_isstring(L, -1)) {
		message.payload.data = lua_tolstring(L, -1, &message.payload.len); /* on the stack */
	} else {
		luaL_error(L, PUBLISH ": payload: string expected, got %s", luaL_typename(L, -1));
	}
	err = tr_nats_call_add(call, &message);
	tr_bytes_fini(&bytes);
	lua_pop(L, 1);
	if (err != TR_OK)
		luaL_error(L, PUBLISH ": out of memory");
}

/* --- calls ------------------------------------------------------------------------------------------------------- */

/* On the C heap: lua_yield() keeps only the results. */
struct publish_op {
	struct tr_nats_call *call;
	int (*push)(lua_State *L, void *call);
	bool raise; /* push gives the error of the only message */
	struct tr_ticket ticket;
};

static void
set_text(lua_State *L, const char *key, struct tr_str text)
{
	lua_pushlstring(L, text.data != NULL ? text.data : "", text.len);
	lua_setfield(L, -2, key);
}

static int
push_error(lua_State *L, void *call)
{
	struct tr_nats_result result;

	tr_nats_call_result(call, 0, &result);
	lua_pushlstring(L, result.text.data, result.text.len);
	return 1;
}

static int
push_ack(lua_State *L, void *call)
{
	struct tr_nats_result result;

	tr_nats_call_result(call, 0, &result);
	lua_createtable(L, 0, 5);
	if (result.stream.len == 0)
		return 1; /* none was awaited */
	set_text(L, "stream", result.stream);
	set_text(L, "domain", result.domain);
	set_text(L, "value", result.value);
	lua_pushnumber(L, (lua_Number)result.sequence);
	lua_setfield(L, -2, "sequence");
	lua_pushboolean(L, result.duplicate);
	lua_setfield(L, -2, "duplicate");
	return 1;
}

static int
push_failures(lua_State *L, void *arg)
{
	const struct tr_nats_call *call = arg;
	int failed = 0;

	lua_newtable(L);
	for (uint32_t i = 0; i < call->count; i++) {
		struct tr_nats_result result;

		tr_nats_call_result(call, i, &result);
		if (result.err == TR_OK)
			continue;
		lua_createtable(L, 0, 5);
		lua_pushinteger(L, (lua_Integer)i + 1);
		lua_setfield(L, -2, "index");
		set_text(L, "text", result.text);
		lua_pushboolean(L, result.permanent);
		lua_setfield(L, -2, "permanent");
		lua_pushinteger(L, (lua_Integer)result.code);
		lua_setfield(L, -2, "err_code");
		lua_pushstring(L, tr_err_name(result.err));
		lua_setfield(L, -2, "code");
		lua_rawseti(L, -2, ++failed);
	}
	return 1;
}

static void
done(struct tr_nats_call *call)
{
	struct publish_op *op = call->owner;
	struct tr_nats_result first;
	bool raise;

	tr_nats_call_result(call, 0, &first);
	raise = op->raise && first.err != TR_OK;
	tr_task_wake(&op->ticket, raise ? push_error : op->push, call, raise);
	tr_nats_call_free(call);
	free(op);
}

static void
cancel(void *arg)
{
	struct publish_op *op = arg;

	tr_nats_call_cancel(op->call);
	free(op);
}

static int
start(lua_State *L, struct tr_task *task, struct call_box *box, int (*push)(lua_State *L, void *call), bool raise)
{
	struct publish_op *op = malloc(sizeof *op);

	if (op == NULL)
		return luaL_error(L, PUBLISH ": out of memory");
	*op = (struct publish_op){.call = box->call, .push = push, .raise = raise};
	op->call->owner = op; /* nothing below raises */
	op->call->done = done;
	box->call = NULL;
	tr_nats_call_start(op->call);
	tr_task_describe(task, "nats acknowledgements of %u messages", op->call->count);
	return tr_task_park(task, L, cancel, op, &op->ticket);
}

static int
push_nothing(lua_State *L, void *call)
{
	return 0;
}

/* connect(client): waits until it is connected; raises */
static int
l_connect(lua_State *L)
{
	struct box *client = luaL_checkudata(L, 1, CLIENT_TYPE);
	struct tr_task *task = tr_task_check(L);

	return start(L, task, push_call(L, client, 1), push_nothing, true);
}

/* publish(client, message) -> { stream =, sequence =, domain =, duplicate =, value = }; raises */
static int
l_publish(lua_State *L)
{
	struct box *client = luaL_checkudata(L, 1, CLIENT_TYPE);
	struct tr_task *task = tr_task_check(L);
	struct call_box *box;

	luaL_checktype(L, 2, LUA_TTABLE);
	lua_settop(L, 2);
	box = push_call(L, client, 1);
	read_message(L, 2, box->call);
	return start(L, task, box, push_ack, true);
}

/* publish_batch(client, list) -> list of what failed: { index =, text =, permanent =, err_code =, code = } */
static int
l_publish_batch(lua_State *L)
{
	struct box *client = luaL_checkudata(L, 1, CLIENT_TYPE);
	struct tr_task *task = tr_task_check(L);
	struct call_box *box;
	size_t count;

	luaL_checktype(L, 2, LUA_TTABLE);
	lua_settop(L, 2);
	count = lua_objlen(L, 2);
	box = push_call(L, client, count > 0 ? (uint32_t)count : 1);
	if (count == 0) {
		lua_newtable(L);
		return 1;
	}
	for (size_t i = 1; i <= count; i++) {
		lua_rawgeti(L, 2, (int)i);
		if (!lua_istable(L, -1))
			return luaL_error(
				L, PUBLISH "_batch: message %d: table expected, got %s", (int)i, luaL_typename(L, -1));
		read_message(L, lua_gettop(L), box->call);
		lua_pop(L, 1);
	}
	box->call->brief = true;
	return start(L, task, box, push_failures, false);
}

/* --- messages of a queue ----------------------------------------------------------------------------------------- */

static int
push_messages_sent(lua_State *L, void *arg)
{
	const struct tr_nats_call *call = arg;

	for (uint32_t i = 0; i < call->count; i++) {
		struct tr_nats_result result;

		tr_nats_call_result(call, i, &result);
		if (result.err != TR_OK)
			return push_failures(L, arg);
	}
	return 0;
}

/* In decimal, at the end of the five places; not by snprintf(), which costs as much as the rest of the headers. */
static struct tr_str
digits(char text[5], uint32_t number)
{
	char *end = text + 5, *at = end;

	do
		*--at = (char)('0' + number % 10);
	while ((number /= 10) > 0 && at > text);
	return (struct tr_str){at, (size_t)(end - at)};
}

/* Adds the message with its event_id and attempt behind the headers that all have: what `publish` holds. Raises. */
static void
add_message(lua_State *L, const struct tr_message *message, struct tr_nats_message *publish, struct tr_str *headers,
	uint32_t common, char attempt[5], struct tr_nats_call *call)
{
	struct tr_str event_id = tr_message_event_id(message), *header = &headers[2 * (size_t)common];
	struct tr_bytes bytes = {0};
	int err;

	publish->header_count = common;
	if (event_id.data != NULL && tr_nats_check_header(TR_STR("Nats-Msg-Id"), event_id) == NULL) {
		*header++ = TR_STR("Nats-Msg-Id");
		*header++ = event_id;
		publish->header_count++;
	}
	*header++ = TR_STR("attempt");
	*header = digits(attempt, message->attempts + 1u);
	publish->header_count++;
	publish->bytes = &bytes;
	err = tr_message_data(message, &bytes);
	if (err == TR_OK)
		err = tr_nats_call_add(call, publish);
	tr_bytes_fini(&bytes);
	if (err != TR_OK)
		luaL_error(L, PUBLISH "_messages: out of memory");
}

/* publish_messages(client, subject, messages, headers) -> nothing, or a list of what failed as publish_batch */
static int
l_publish_messages(lua_State *L)
{
	struct box *client = luaL_checkudata(L, 1, CLIENT_TYPE);
	struct tr_task *task = tr_task_check(L);
	struct tr_nats_message publish = {.await_ack = true};
	struct tr_str headers[2 * HEADERS_MAX];
	char attempt[5]; /* 65,536 at most */
	struct call_box *box;
	const char *wrong;
	uint32_t common;
	size_t count;

	publish.subject.data = luaL_checklstring(L, 2, &publish.subject.len);
	luaL_checktype(L, 3, LUA_TTABLE);
	lua_settop(L, 4);
	if (!lua_isnil(L, 4))
		luaL_checktype(L, 4, LUA_TTABLE);
	wrong = tr_nats_check_subject(publish.subject);
	if (wrong != NULL)
		return luaL_error(L, PUBLISH "_messages: subject: %s", wrong);
	common = read_headers(L, 4, headers);
	if (common > HEADERS_MAX - 2)
		return luaL_error(L, PUBLISH "_messages: headers: at most %d", HEADERS_MAX - 2);
	for (uint32_t i = 0; i < common; i++) { /* one for all: the stream would keep the first and say yes to each */
		if (tr_str_eq(headers[2 * (size_t)i], TR_STR("Nats-Msg-Id")))
			return luaL_error(L, PUBLISH "_messages: headers: 'Nats-Msg-Id' is each message's own");
	}
	publish.headers = headers;
	count = lua_objlen(L, 3);
	box = push_call(L, client, count > 0 ? (uint32_t)count : 1);
	if (count == 0)
		return 0;
	for (size_t i = 1; i <= count; i++) { /* what raises does so before anything is on its way */
		lua_rawgeti(L, 3, (int)i);
		add_message(
			L, tr_message_check(L, -1, PUBLISH "_messages"), &publish, headers, common, attempt, box->call);
		lua_pop(L, 1);
	}
	box->call->brief = true;
	return start(L, task, box, push_messages_sent, false);
}

int
luaopen_tr_nats(lua_State *L)
{
	static const luaL_Reg methods[] = {{"publish", l_publish}, {"publish_batch", l_publish_batch},
		{"publish_messages", l_publish_messages}, {"close", l_close}, {NULL, NULL}};
	static const luaL_Reg functions[] = {{"open", l_open}, {"check", l_check}, {"subject_error", l_subject_error},
		{"connect", l_connect}, {NULL, NULL}};

	tr_type(L, CALL_TYPE, l_call_gc, NULL);
	tr_type(L, CLIENT_TYPE, l_close, methods);
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
