/* tr.amqp: the binding behind lua/kumo/amqp.lua, whose names say more. */
#include "transport/amqp_lua.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "message/message_lua.h"
#include "policy/policy.h"
#include "transport/amqp_settings_lua.h"

#define SHORT_MAX 255 /* bytes of a short string on the wire */
#define DEPTH_MAX 16  /* of nested headers */

static const struct tr_key message_keys[] = {
	{"connection", 't', false}, /* read by the caller */
	{"routing_key", 's', false},
	{"payload", '*', false},
	{"exchange", 's', false},
	{"mandatory", 'b', false},
	{"immediate", 'b', false},
	{"probe", 'b', false}, /* of lua/kumo/amqp.lua */
	{"app_id", 's', false},
	{"cluster_id", 's', false},
	{"content_encoding", 's', false},
	{"content_type", 's', false},
	{"correlation_id", 's', false},
	{"expiration", 's', false},
	{"message_id", 's', false},
	{"message_type", 's', false},
	{"reply_to", 's', false},
	{"user_id", 's', false},
	{"delivery_mode", 'i', false},
	{"priority", 'i', false},
	{"timestamp", 'i', false},
	{"headers", 't', false},
};

/* --- connection --------------------------------------------------------------------------------------------- */

/* The pool that the table at idx describes. Raises. */
static struct tr_amqp_pool *
read_connection(lua_State *L, int idx, struct tr_amqp *amqp, struct tr_amqp_settings *out)
{
	struct tr_amqp_pool *pool;
	int err;

	amqp_read_settings(L, idx, out);
	err = tr_amqp_pool(amqp, out, &pool);
	if (err != TR_OK)
		luaL_error(L, PUBLISH ": %s", tr_err_text(err));
	return pool;
}

/* check(connection) raises what publish() would */
static int
l_check(lua_State *L)
{
	struct tr_amqp_settings settings;

	luaL_checktype(L, 1, LUA_TTABLE);
	amqp_read_settings(L, 1, &settings);
	return 0;
}

/* --- messages ------------------------------------------------------------------------------------------------ */

/* Owns the call while it is being filled, so that raising leaks nothing. */
struct box {
	struct tr_amqp_call *call; /* NULL: started, or none */
};
#define BOX_TYPE "tr.amqp.call"

static int
l_box_gc(lua_State *L)
{
	struct box *box = lua_touserdata(L, 1);

	if (box->call != NULL)
		tr_amqp_call_free(box->call);
	box->call = NULL;
	return 0;
}

static amqp_bytes_t
copy_text(lua_State *L, struct tr_amqp_call *call, struct tr_str text)
{
	amqp_bytes_t copy = tr_amqp_call_text(call, text);

	if (copy.bytes == NULL)
		luaL_error(L, PUBLISH ": out of memory");
	return copy;
}

static struct tr_str
opt_short(lua_State *L, int idx, const char *key)
{
	struct tr_str text = {NULL, 0};

	text.data = tr_opt_string(L, idx, key, NULL, &text.len);
	if (text.data != NULL && text.len > SHORT_MAX)
		luaL_error(L, PUBLISH ": %s: at most %d bytes, got %d", key, SHORT_MAX, (int)text.len);
	return text;
}

static amqp_field_value_t read_field(lua_State *L, struct tr_amqp_call *call, int depth);

/* The table on top of the stack: a list, or fields by name. */
static amqp_field_value_t
read_table(lua_State *L, struct tr_amqp_call *call, int depth)
{
	int idx = lua_gettop(L);
	size_t list = lua_objlen(L, idx), count = 0;
	amqp_field_value_t out = {.kind = list > 0 ? AMQP_FIELD_KIND_ARRAY : AMQP_FIELD_KIND_TABLE};

	luaL_checkstack(L, 4, "headers");
	if (depth > DEPTH_MAX)
		luaL_error(L, PUBLISH ": headers: nested more than %d deep", DEPTH_MAX);
	for (lua_pushnil(L); lua_next(L, idx) != 0; lua_pop(L, 1))
		count++;
	if (list > 0 && count != list)
		luaL_error(L, PUBLISH ": headers: a table is either a list or has names");
	if (count == 0)
		return out;
	if (list > 0) {
		out.value.array.entries =
			amqp_pool_alloc(tr_amqp_call_pool(call), count * sizeof *out.value.array.entries);
		out.value.array.num_entries = (int)count;
		for (size_t i = 0; out.value.array.entries != NULL && i < count; i++) {
			lua_rawgeti(L, idx, (int)i + 1);
			out.value.array.entries[i] = read_field(L, call, depth);
			lua_pop(L, 1);
		}
		if (out.value.array.entries == NULL)
			luaL_error(L, PUBLISH ": out of memory");
		return out;
	}
	out.value.table.entries = amqp_pool_alloc(tr_amqp_call_pool(call), count * sizeof *out.value.table.entries);
	if (out.value.table.entries == NULL)
		luaL_error(L, PUBLISH ": out of memory");
	out.value.table.num_entries = (int)count;
	count = 0;
	for (lua_pushnil(L); lua_next(L, idx) != 0; lua_pop(L, 1)) {
		struct tr_str name;

		if (lua_type(L, -2) != LUA_TSTRING)
			luaL_error(L, PUBLISH ": headers: names must be strings");
		name.data = lua_tolstring(L, -2, &name.len);
		if (name.len > 128)
			luaL_error(L, PUBLISH ": headers: a name has at most 128 bytes");
		out.value.table.entries[count].key = copy_text(L, call, name);
		out.value.table.entries[count++].value = read_field(L, call, depth);
	}
	return out;
}

/* The value on top of the stack: contract/amqp.md section 1.1, headers. */
static amqp_field_value_t
read_field(lua_State *L, struct tr_amqp_call *call, int depth)
{
	amqp_field_value_t out = {0};
	lua_Number number;
	struct tr_str text;

	switch (lua_type(L, -1)) {
	case LUA_TBOOLEAN:
		out.kind = AMQP_FIELD_KIND_BOOLEAN;
		out.value.boolean = lua_toboolean(L, -1);
		return out;
	case LUA_TNUMBER:
		number = lua_tonumber(L, -1);
		if (number == floor(number) && fabs(number) < 9e15) {
			out.kind = AMQP_FIELD_KIND_I64;
			out.value.i64 = (int64_t)number;
		} else {
			out.kind = AMQP_FIELD_KIND_F64;
			out.value.f64 = number;
		}
		return out;
	case LUA_TSTRING:
		text.data = lua_tolstring(L, -1, &text.len);
		out.kind = AMQP_FIELD_KIND_UTF8;
		out.value.bytes = copy_text(L, call, text);
		return out;
	case LUA_TTABLE:
		return read_table(L, call, depth + 1);
	default:
		luaL_error(L, PUBLISH ": headers: strings, numbers, booleans and tables of them expected, got %s",
			luaL_typename(L, -1));
		return out;
	}
}

static void
read_properties(lua_State *L, int idx, struct tr_amqp_call *call, amqp_basic_properties_t *out)
{
	const struct {
		const char *key;
		amqp_flags_t flag;
		amqp_bytes_t *value;
	} texts[] = {
		{"app_id", AMQP_BASIC_APP_ID_FLAG, &out->app_id},
		{"cluster_id", AMQP_BASIC_CLUSTER_ID_FLAG, &out->cluster_id},
		{"content_encoding", AMQP_BASIC_CONTENT_ENCODING_FLAG, &out->content_encoding},
		{"content_type", AMQP_BASIC_CONTENT_TYPE_FLAG, &out->content_type},
		{"correlation_id", AMQP_BASIC_CORRELATION_ID_FLAG, &out->correlation_id},
		{"expiration", AMQP_BASIC_EXPIRATION_FLAG, &out->expiration},
		{"message_id", AMQP_BASIC_MESSAGE_ID_FLAG, &out->message_id},
		{"message_type", AMQP_BASIC_TYPE_FLAG, &out->type},
		{"reply_to", AMQP_BASIC_REPLY_TO_FLAG, &out->reply_to},
		{"user_id", AMQP_BASIC_USER_ID_FLAG, &out->user_id},
	};
	int64_t number;

	for (size_t i = 0; i < TR_COUNT(texts); i++) {
		struct tr_str text = opt_short(L, idx, texts[i].key);

		if (text.data == NULL)
			continue;
		*texts[i].value = copy_text(L, call, text);
		out->_flags |= texts[i].flag;
	}
	number = tr_opt_int(L, idx, "delivery_mode", -1);
	if (number > 255)
		luaL_error(L, PUBLISH ": delivery_mode: 0 to 255 expected");
	if (number >= 0) {
		out->delivery_mode = (uint8_t)number;
		out->_flags |= AMQP_BASIC_DELIVERY_MODE_FLAG;
	}
	number = tr_opt_int(L, idx, "priority", -1);
	if (number > 255)
		luaL_error(L, PUBLISH ": priority: 0 to 255 expected");
	if (number >= 0) {
		out->priority = (uint8_t)number;
		out->_flags |= AMQP_BASIC_PRIORITY_FLAG;
	}
	number = tr_opt_int(L, idx, "timestamp", -1);
	if (number >= 0) {
		out->timestamp = (uint64_t)number;
		out->_flags |= AMQP_BASIC_TIMESTAMP_FLAG;
	}
	lua_getfield(L, idx, "headers");
	if (!lua_isnil(L, -1)) {
		amqp_field_value_t value = read_table(L, call, 1);

		if (value.kind != AMQP_FIELD_KIND_TABLE)
			luaL_error(L, PUBLISH ": headers: values by name expected, got a list");
		out->headers = value.value.table;
		out->_flags |= AMQP_BASIC_HEADERS_FLAG;
	}
	lua_pop(L, 1);
}

/* What the table at idx says but its payload. Raises. */
static void
read_fields(lua_State *L, int idx, struct tr_amqp_call *call, struct tr_amqp_message *out)
{
	tr_check_options(L, idx, PUBLISH, message_keys, TR_COUNT(message_keys));
	out->probe = tr_opt_bool(L, idx, "probe", false);
	out->exchange = opt_short(L, idx, "exchange");
	out->routing_key = opt_short(L, idx, "routing_key");
	if (out->routing_key.data == NULL && !out->probe)
		luaL_error(L, PUBLISH ": routing_key: string expected, got nothing");
	out->mandatory = tr_opt_bool(L, idx, "mandatory", false);
	out->immediate = tr_opt_bool(L, idx, "immediate", false);
	read_properties(L, idx, call, &out->properties);
}

/* Adds the message of the table at idx. Raises. */
static void
read_message(lua_State *L, int idx, struct tr_amqp_call *call)
{
	struct tr_amqp_message message = {0};
	struct tr_bytes bytes = {0};
	int err;

	read_fields(L, idx, call, &message);
	lua_getfield(L, idx, "payload");
	if (lua_isuserdata(L, -1)) {
		if (tr_message_data(tr_message_check(L, lua_gettop(L), PUBLISH ": payload"), &bytes) != TR_OK)
			luaL_error(L, PUBLISH ": out of memory");
		message.bytes = &bytes;
	} else if (lua_isstring(L, -1)) {
		message.payload.data = lua_tolstring(L, -1, &message.payload.len); /* on the stack */
	} else if (!message.probe) {
		luaL_error(L, PUBLISH ": payload: string expected, got %s",
			lua_isnil(L, -1) ? "nothing" : luaL_typename(L, -1));
	}
	err = tr_amqp_call_add(call, &message);
	tr_bytes_fini(&bytes);
	lua_pop(L, 1);
	if (err != TR_OK)
		luaL_error(L, PUBLISH ": out of memory");
}

/* The template's headers and `attempt`. False: no memory. */
static bool
add_attempt(struct tr_amqp_call *call, const amqp_table_t *common, uint32_t attempt, amqp_table_t *out)
{
	int count = common->num_entries;

	out->entries = amqp_pool_alloc(tr_amqp_call_pool(call), ((size_t)count + 1) * sizeof *out->entries);
	if (out->entries == NULL)
		return false;
	if (count > 0)
		memcpy(out->entries, common->entries, (size_t)count * sizeof *out->entries);
	out->entries[count].key = amqp_cstring_bytes("attempt");
	out->entries[count].value.kind = AMQP_FIELD_KIND_I64;
	out->entries[count].value.value.i64 = attempt;
	out->num_entries = count + 1;
	return true;
}

/* Adds the kumo.Message objects of the list at index 2 as the template at index 3 says, each with its event_id as the
 * message id and its attempt as a header. Raises. */
static void
read_messages(lua_State *L, struct tr_amqp_call *call)
{
	struct tr_amqp_message template = {0};

	read_fields(L, 3, call, &template);
	template.properties._flags |= AMQP_BASIC_HEADERS_FLAG;
	for (uint32_t i = 1; i <= call->count; i++) {
		struct tr_amqp_message message = template;
		const struct tr_message *source;
		struct tr_bytes bytes = {0};
		struct tr_str event_id;
		int err = TR_OK;

		lua_rawgeti(L, 2, (int)i);
		source = tr_message_check(L, -1, PUBLISH ": payload");
		event_id = tr_message_event_id(source);
		if (event_id.data != NULL) {
			message.properties.message_id = tr_amqp_call_text(call, event_id);
			message.properties._flags |= AMQP_BASIC_MESSAGE_ID_FLAG;
		}
		message.bytes = &bytes;
		if ((event_id.data != NULL && message.properties.message_id.bytes == NULL) ||
			!add_attempt(
				call, &template.properties.headers, source->attempts + 1u, &message.properties.headers))
			err = TR_ENOMEM;
		if (err == TR_OK)
			err = tr_message_data(source, &bytes);
		if (err == TR_OK)
			err = tr_amqp_call_add(call, &message);
		tr_bytes_fini(&bytes);
		lua_pop(L, 1);
		if (err != TR_OK)
			luaL_error(L, PUBLISH ": out of memory");
	}
}

/* Adds the messages of the list at index 2, each a table. Raises. */
static void
read_list(lua_State *L, struct tr_amqp_call *call)
{
	for (uint32_t i = 1; i <= call->count; i++) {
		lua_rawgeti(L, 2, (int)i);
		if (!lua_istable(L, -1))
			luaL_error(L, PUBLISH ": table expected, got %s", luaL_typename(L, -1));
		read_message(L, lua_gettop(L), call);
		lua_pop(L, 1);
	}
}

/* --- publish -------------------------------------------------------------------------------------------------- */

/* On the C heap: lua_yield() keeps only the results. */
struct publish_op {
	struct tr_amqp_call *call;
	struct tr_ticket ticket;
	bool troubled; /* its task was told that the broker takes nothing */
};

static void
held_up(struct tr_amqp_call *call, const char *text)
{
	struct publish_op *op = call->owner;

	op->troubled = text != NULL;
	tr_task_trouble(op->ticket.task, text);
}

static int
push_results(lua_State *L, void *arg)
{
	static const char *const statuses[] = {"Ack", "Nack", "Returned", "Failed"};
	const struct tr_amqp_call *call = arg;
	int failed = 0;

	lua_newtable(L);
	for (uint32_t i = 0; i < call->count; i++) {
		struct tr_amqp_result result;

		tr_amqp_call_result(call, i, &result);
		if (result.status == TR_AMQP_ACKED)
			continue;
		lua_createtable(L, 0, 6);
		lua_pushinteger(L, (lua_Integer)i + 1);
		lua_setfield(L, -2, "index");
		lua_pushstring(L, statuses[result.status]);
		lua_setfield(L, -2, "status");
		lua_pushlstring(L, result.text.data, result.text.len);
		lua_setfield(L, -2, "text");
		lua_pushinteger(L, result.reply_code);
		lua_setfield(L, -2, "reply_code");
		lua_pushboolean(L, result.permanent);
		lua_setfield(L, -2, "permanent");
		if (result.status == TR_AMQP_FAILED) {
			lua_pushstring(L, tr_err_name(result.err));
			lua_setfield(L, -2, "code");
		}
		lua_rawseti(L, -2, ++failed);
	}
	return 1;
}

static void
published(struct tr_amqp_call *call)
{
	struct publish_op *op = call->owner;

	if (op->troubled)
		tr_task_trouble(op->ticket.task, NULL);
	tr_task_wake(&op->ticket, push_results, call, false);
	tr_amqp_call_free(call);
	free(op);
}

static void
cancel(void *arg)
{
	struct publish_op *op = arg;

	tr_amqp_call_cancel(op->call);
	free(op);
}

/* publish(connection, list [, template]) -> list of what failed: { index =, status =, text =, reply_code =, permanent
 * =, code = } */
static int
l_publish(lua_State *L)
{
	struct tr_amqp *amqp = tr_service(L, TR_SERVICE_AMQP);
	struct tr_task *task = tr_task_check(L);
	struct tr_amqp_settings settings;
	struct tr_amqp_pool *pool;
	struct publish_op *op;
	struct box *box;
	size_t count;

	luaL_checktype(L, 1, LUA_TTABLE);
	luaL_checktype(L, 2, LUA_TTABLE);
	lua_settop(L, 3);
	if (amqp == NULL)
		return luaL_error(L, "AMQP is not available here");
	pool = read_connection(L, 1, amqp, &settings);
	count = lua_objlen(L, 2);
	if (count == 0) {
		lua_newtable(L);
		return 1;
	}
	box = lua_newuserdata(L, sizeof *box);
	box->call = NULL;
	luaL_getmetatable(L, BOX_TYPE);
	lua_setmetatable(L, -2);
	box->call = tr_amqp_call_new(pool, (uint32_t)count);
	if (box->call == NULL)
		return luaL_error(L, PUBLISH ": out of memory");
	box->call->wait_timeout_ns = settings.wait_timeout_ns;
	box->call->publish_timeout_ns = settings.publish_timeout_ns;
	if (lua_istable(L, 3))
		read_messages(L, box->call);
	else
		read_list(L, box->call);
	op = malloc(sizeof *op);
	if (op == NULL)
		return luaL_error(L, PUBLISH ": out of memory");
	op->call = box->call; /* nothing below raises */
	op->call->owner = op;
	op->call->done = published;
	op->call->patient = lua_istable(L, 3); /* log records: nobody waits for the answer, and none is to come twice */
	op->call->held_up = held_up;
	op->troubled = false;
	box->call = NULL;
	tr_amqp_call_start(op->call);
	tr_task_describe(task, "amqp confirms of %u messages", op->call->count);
	return tr_task_park(task, L, cancel, op, &op->ticket);
}

int
luaopen_tr_amqp(lua_State *L)
{
	static const luaL_Reg functions[] = {{"publish", l_publish}, {"check", l_check}, {NULL, NULL}};

	tr_type(L, BOX_TYPE, l_box_gc, NULL);
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
