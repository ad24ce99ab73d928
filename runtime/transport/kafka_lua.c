/* tr.kafka: the binding behind lua/kumo/kafka.lua, whose names say more. */
#include "transport/kafka_lua.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "message/message_lua.h"
#include "policy/policy.h"
#include "transport/kafka.h"

#define PRODUCER_TYPE "tr.kafka.producer"
#define ENQUEUE_NS (60 * TR_NS_PER_S) /* contract/kafka.md section 2: timeout */
#define HEADERS_MAX 64

struct box {
	struct tr_kafka_producer *producer; /* NULL: closed */
	int config;                         /* registry reference: the list it was opened with */
};

/* A call under way. On the C heap: lua_yield() keeps only the results. */
struct send_op {
	struct tr_kafka_call *call;
	struct tr_ticket ticket;
};

static struct box *
check_box(lua_State *L, int idx)
{
	return luaL_checkudata(L, idx, PRODUCER_TYPE);
}

static int
l_gc(lua_State *L)
{
	struct box *box = check_box(L, 1);

	tr_kafka_unref(box->producer);
	box->producer = NULL;
	tr_unref(L, box->config);
	box->config = LUA_NOREF;
	return 0;
}

/* The list at idx (name, value ...), whose strings it keeps; in a userdata on the stack's top. */
static struct tr_str *
push_pairs(lua_State *L, int idx)
{
	uint32_t count = (uint32_t)lua_objlen(L, idx);
	struct tr_str *pairs = lua_newuserdata(L, (count + 1) * sizeof *pairs);

	for (uint32_t i = 0; i < count; i++) {
		lua_rawgeti(L, idx, (int)i + 1);
		pairs[i].data = lua_tolstring(L, -1, &pairs[i].len); /* the list keeps it */
		lua_pop(L, 1);
	}
	return pairs;
}

/* Opens what the list at idx (name, value ...) says. Raises. */
static struct tr_kafka_producer *
open_list(lua_State *L, int idx)
{
	struct tr_kafka *kafka = tr_service(L, TR_SERVICE_KAFKA);
	uint32_t count = (uint32_t)lua_objlen(L, idx);
	char error[TR_KAFKA_ERROR_MAX];
	struct tr_kafka_producer *producer;
	struct tr_str *pairs;

	if (kafka == NULL)
		luaL_error(L, "Kafka is not available here");
	pairs = push_pairs(L, idx);
	if (tr_kafka_open(kafka, pairs, count / 2, &producer, error) != TR_OK)
		luaL_error(L, "kumo.kafka.build_producer: %s", error);
	lua_pop(L, 1);
	return producer;
}

/* open({name, value, ...}) -> producer */
static int
l_open(lua_State *L)
{
	struct box *box;

	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	box = lua_newuserdata(L, sizeof *box);
	*box = (struct box){NULL, LUA_NOREF};
	luaL_getmetatable(L, PRODUCER_TYPE);
	lua_setmetatable(L, -2);
	box->producer = open_list(L, 1);
	lua_pushvalue(L, 1);
	box->config = tr_ref(L);
	return 1;
}

/* check({name, value, ...}) -> nothing, or what is wrong */
static int
l_check(lua_State *L)
{
	char error[TR_KAFKA_ERROR_MAX];

	luaL_checktype(L, 1, LUA_TTABLE);
	if (tr_kafka_check(push_pairs(L, 1), (uint32_t)lua_objlen(L, 1) / 2, error) == TR_OK)
		return 0;
	lua_pushstring(L, error);
	return 1;
}

static int
l_close(lua_State *L)
{
	return l_gc(L);
}

/* The producer of an open handle; one that met a fatal error is made anew. */
static struct tr_kafka_producer *
check_producer(lua_State *L, struct box *box)
{
	if (box->producer == NULL)
		luaL_error(L, "client was closed");
	if (tr_kafka_is_fatal(box->producer)) {
		struct tr_kafka_producer *fresh;

		tr_ref_push(L, box->config);
		fresh = open_list(L, lua_gettop(L));
		lua_pop(L, 1);
		tr_kafka_unref(box->producer);
		box->producer = fresh;
	}
	return box->producer;
}

/* --- records ---------------------------------------------------------------------------------------------------- */

/* A record of the table at idx, whose strings stay on the stack or in the table. Raises. */
struct reading {
	struct tr_kafka_record record;
	struct tr_bytes bytes; /* of a message given as payload; to be finished */
	struct tr_str headers[2 * HEADERS_MAX];
};

static void
read_text(lua_State *L, int idx, const char *key, bool required, struct tr_str *out)
{
	lua_getfield(L, idx, key);
	if (lua_type(L, -1) == LUA_TSTRING || lua_type(L, -1) == LUA_TNUMBER) {
		if (lua_type(L, -1) == LUA_TNUMBER) { /* the text must outlive the pop */
			lua_tostring(L, -1);
			lua_pushvalue(L, -1);
			lua_setfield(L, idx, key);
		}
		out->data = lua_tolstring(L, -1, &out->len);
	} else if (!lua_isnil(L, -1) || required) {
		luaL_error(L, "kafka record: %s: string expected, got %s", key,
			lua_isnil(L, -1) ? "nothing" : luaL_typename(L, -1));
	}
	lua_pop(L, 1);
}

static void
read_headers(lua_State *L, int idx, struct reading *reading)
{
	uint32_t count = 0;

	lua_getfield(L, idx, "headers");
	if (lua_isnil(L, -1)) {
		lua_pop(L, 1);
		return;
	}
	if (!lua_istable(L, -1))
		luaL_error(L, "kafka record: headers: table of strings expected, got %s", luaL_typename(L, -1));
	lua_pushnil(L);
	while (lua_next(L, -2) != 0) {
		if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
			luaL_error(L, "kafka record: headers: strings by name expected, got %s by %s",
				luaL_typename(L, -1), luaL_typename(L, -2));
		if (count == HEADERS_MAX)
			luaL_error(L, "kafka record: headers: at most %d", HEADERS_MAX);
		reading->headers[2 * count].data = lua_tolstring(L, -2, &reading->headers[2 * count].len);
		reading->headers[2 * count + 1].data = lua_tolstring(L, -1, &reading->headers[2 * count + 1].len);
		count++;
		lua_pop(L, 1);
	}
	lua_pop(L, 1);
	reading->record.headers = reading->headers;
	reading->record.header_count = count;
}

static void
read_record(lua_State *L, int idx, struct reading *reading)
{
	struct tr_kafka_record *record = &reading->record;
	bool is_message;

	*record = (struct tr_kafka_record){.partition = -1, .timeout_ns = ENQUEUE_NS};
	if (!lua_istable(L, idx))
		luaL_error(L, "kafka record: table expected, got %s", luaL_typename(L, idx));
	read_text(L, idx, "topic", true, &record->topic);
	if (record->topic.len == 0)
		luaL_error(L, "kafka record: topic: must not be empty");
	if (memchr(record->topic.data, '\0', record->topic.len) != NULL)
		luaL_error(L, "kafka record: topic: has a NUL byte");
	read_text(L, idx, "key", false, &record->key);
	lua_getfield(L, idx, "partition");
	if (!lua_isnil(L, -1)) {
		lua_Number partition = lua_isnumber(L, -1) ? lua_tonumber(L, -1) : NAN;

		if (!(partition >= INT32_MIN && partition <= INT32_MAX) || partition != floor(partition))
			luaL_error(L, "kafka record: partition: 32-bit integer expected");
		record->partition = (int32_t)partition;
	}
	lua_pop(L, 1);
	lua_getfield(L, idx, "timeout");
	if (!lua_isnil(L, -1))
		record->timeout_ns = tr_check_duration_ns(L, -1, "kafka record", "timeout");
	lua_pop(L, 1);
	read_headers(L, idx, reading);
	lua_getfield(L, idx, "payload");
	is_message = lua_isuserdata(L, -1);
	if (is_message && tr_message_data(tr_message_check(L, lua_gettop(L), "kafka record: payload"), &reading->bytes))
		luaL_error(L, "kafka record: out of memory");
	lua_pop(L, 1);
	if (is_message)
		record->bytes = &reading->bytes;
	else
		read_text(L, idx, "payload", true, &record->payload);
}

/* --- sending ---------------------------------------------------------------------------------------------------- */

static int
push_production_error(lua_State *L, int err)
{
	char name[64];

	tr_kafka_error_name(err, name);
	lua_pushfstring(L, "Message production error: %s (%s)", name, tr_kafka_error_text(err));
	return 1;
}

static int
push_sent(lua_State *L, void *arg)
{
	struct tr_kafka_result result;

	tr_kafka_call_result(arg, 0, &result);
	if (result.err != 0)
		return push_production_error(L, result.err);
	lua_pushinteger(L, result.partition);
	lua_pushnumber(L, (lua_Number)result.offset);
	return 2;
}

static int
push_batch_sent(lua_State *L, void *arg)
{
	const struct tr_kafka_call *call = arg;
	int failed = 0;

	lua_newtable(L); /* failed */
	lua_newtable(L); /* errors */
	lua_newtable(L); /* permanent */
	for (uint32_t i = 0; i < call->count; i++) {
		struct tr_kafka_result result;

		tr_kafka_call_result(call, i, &result);
		if (result.err == 0)
			continue;
		failed++;
		lua_pushinteger(L, (lua_Integer)i + 1);
		lua_rawseti(L, -4, failed);
		push_production_error(L, result.err);
		lua_rawseti(L, -3, failed);
		lua_pushboolean(L, tr_kafka_error_is_permanent(result.err));
		lua_rawseti(L, -2, failed);
	}
	return 3;
}

static void
op_cancel(void *arg)
{
	struct send_op *op = arg;

	tr_kafka_call_cancel(op->call);
	free(op);
}

static void
op_done(struct tr_kafka_call *call, int (*push)(lua_State *L, void *arg), bool raise)
{
	struct send_op *op = call->owner;

	tr_task_wake(&op->ticket, push, call, raise);
	tr_kafka_call_free(call);
	free(op);
}

static void
sent(struct tr_kafka_call *call)
{
	struct tr_kafka_result result;

	tr_kafka_call_result(call, 0, &result);
	op_done(call, push_sent, result.err != 0);
}

static void
batch_sent(struct tr_kafka_call *call)
{
	op_done(call, push_batch_sent, false);
}

/* Adds the record of the table at idx. False: no memory. Raises nothing: the record was read. */
static bool
add(struct tr_kafka_call *call, struct reading *reading)
{
	int err = tr_kafka_call_add(call, &reading->record);

	tr_bytes_fini(&reading->bytes);
	return err == TR_OK;
}

static int
start(lua_State *L, struct tr_task *task, struct tr_kafka_call *call, void (*done)(struct tr_kafka_call *call))
{
	struct send_op *op = malloc(sizeof *op);

	if (op == NULL) {
		tr_kafka_call_free(call);
		return luaL_error(L, "kafka: out of memory");
	}
	op->call = call;
	call->owner = op;
	call->done = done;
	tr_kafka_call_start(call);
	tr_task_describe(task, "kafka delivery reports of %u records", call->count);
	return tr_task_park(task, L, op_cancel, op, &op->ticket);
}

/* send(producer, record) -> partition, offset; raises */
static int
l_send(lua_State *L)
{
	struct box *box = check_box(L, 1);
	struct tr_task *task = tr_task_check(L);
	struct reading reading = {0};
	struct tr_kafka_producer *producer;
	struct tr_kafka_call *call;

	lua_settop(L, 2);
	producer = check_producer(L, box); /* may raise: before the record holds a message's bytes */
	read_record(L, 2, &reading);
	call = tr_kafka_call_new(producer, 1);
	if (call == NULL || !add(call, &reading)) {
		tr_bytes_fini(&reading.bytes);
		if (call != NULL)
			tr_kafka_call_free(call);
		return luaL_error(L, "kafka: out of memory");
	}
	return start(L, task, call, sent);
}

/* send_batch(producer, list) -> failed, errors, permanent */
static int
l_send_batch(lua_State *L)
{
	struct box *box = check_box(L, 1);
	struct tr_task *task = tr_task_check(L);
	struct tr_kafka_producer *producer = check_producer(L, box);
	struct reading reading = {0};
	struct tr_kafka_call *call;
	size_t count;

	luaL_checktype(L, 2, LUA_TTABLE);
	lua_settop(L, 2);
	count = lua_objlen(L, 2);
	if (count == 0) {
		for (int i = 0; i < 3; i++)
			lua_newtable(L);
		return 3;
	}
	/* all are looked at first: a bad one must not leave the earlier ones on their way without a result */
	for (size_t i = 1; i <= count; i++) {
		lua_rawgeti(L, 2, (int)i);
		read_record(L, 3, &reading);
		tr_bytes_fini(&reading.bytes);
		lua_settop(L, 2);
	}
	call = tr_kafka_call_new(producer, (uint32_t)count);
	for (size_t i = 1; call != NULL && i <= count; i++) {
		lua_rawgeti(L, 2, (int)i);
		read_record(L, 3, &reading);
		lua_settop(L, 2);
		if (!add(call, &reading)) {
			tr_kafka_call_free(call);
			call = NULL;
		}
	}
	if (call == NULL)
		return luaL_error(L, "kafka: out of memory");
	return start(L, task, call, batch_sent);
}

/* --- messages --------------------------------------------------------------------------------------------------- */

static int
push_messages_sent(lua_State *L, void *arg)
{
	const struct tr_kafka_call *call = arg;

	for (uint32_t i = 0; i < call->count; i++) {
		struct tr_kafka_result result;

		tr_kafka_call_result(call, i, &result);
		if (result.err != 0)
			return push_batch_sent(L, arg);
	}
	return 0;
}

static void
messages_sent(struct tr_kafka_call *call)
{
	op_done(call, push_messages_sent, false);
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

/* Adds the message with its event_id and attempt behind the headers that all have. */
static bool
add_message(const struct tr_message *message, struct tr_kafka_call *call, struct reading *reading)
{
	struct tr_str event_id = tr_message_event_id(message);
	struct tr_str *header = &reading->headers[2 * (size_t)reading->record.header_count];
	uint32_t common = reading->record.header_count;
	char attempt[5]; /* 65,536 at most */
	bool ok;

	if (event_id.data != NULL) {
		*header++ = TR_STR("event_id");
		*header++ = event_id;
		reading->record.header_count++;
	}
	*header++ = TR_STR("attempt");
	*header = digits(attempt, message->attempts + 1u);
	reading->record.header_count++;
	ok = tr_message_data(message, &reading->bytes) == TR_OK && add(call, reading);
	reading->record.header_count = common;
	return ok;
}

/* The key of message i: from the list at index 4, if there is one. Raises for what is no text. */
static void
read_key(lua_State *L, size_t i, struct tr_str *out)
{
	*out = (struct tr_str){NULL, 0};
	if (lua_isnil(L, 4))
		return;
	lua_rawgeti(L, 4, (int)i);
	if (lua_type(L, -1) == LUA_TSTRING)
		out->data = lua_tolstring(L, -1, &out->len); /* the list keeps it */
	else if (lua_toboolean(L, -1))
		luaL_error(L, "kafka: key: string expected, got %s", luaL_typename(L, -1));
	lua_pop(L, 1);
}

/* send_messages(producer, topic, messages, keys, headers) -> nothing, or failed, errors, permanent */
static int
l_send_messages(lua_State *L)
{
	struct box *box = check_box(L, 1);
	struct tr_task *task = tr_task_check(L);
	struct tr_kafka_producer *producer = check_producer(L, box);
	struct reading reading = {.record = {.partition = -1, .timeout_ns = ENQUEUE_NS}};
	const struct tr_message **messages;
	struct tr_kafka_call *call;
	size_t count;

	reading.record.topic.data = luaL_checklstring(L, 2, &reading.record.topic.len);
	luaL_checktype(L, 3, LUA_TTABLE);
	lua_settop(L, 5);
	if (!lua_isnil(L, 4))
		luaL_checktype(L, 4, LUA_TTABLE);
	if (!lua_isnil(L, 5)) {
		lua_newtable(L);
		lua_pushvalue(L, 5);
		lua_setfield(L, -2, "headers");
		read_headers(L, 6, &reading);
		lua_settop(L, 5);
	}
	if (reading.record.header_count > HEADERS_MAX - 2)
		return luaL_error(L, "kafka record: headers: at most %d", HEADERS_MAX - 2);
	reading.record.headers = reading.headers;
	reading.record.bytes = &reading.bytes;
	count = lua_objlen(L, 3);
	if (count == 0)
		return 0;
	messages = lua_newuserdata(L, count * sizeof(const struct tr_message *));
	for (size_t i = 1; i <= count; i++) { /* what raises does so before anything is on its way */
		lua_rawgeti(L, 3, (int)i);
		messages[i - 1] = tr_message_check(L, -1, "send_messages");
		lua_pop(L, 1);
		read_key(L, i, &reading.record.key);
	}
	call = tr_kafka_call_new(producer, (uint32_t)count);
	for (size_t i = 1; call != NULL && i <= count; i++) {
		read_key(L, i, &reading.record.key);
		if (!add_message(messages[i - 1], call, &reading)) {
			tr_kafka_call_free(call);
			call = NULL;
		}
	}
	if (call == NULL)
		return luaL_error(L, "kafka: out of memory");
	return start(L, task, call, messages_sent);
}

int
luaopen_tr_kafka(lua_State *L)
{
	static const luaL_Reg methods[] = {{"send", l_send}, {"send_batch", l_send_batch},
		{"send_messages", l_send_messages}, {"close", l_close}, {NULL, NULL}};
	static const luaL_Reg functions[] = {{"open", l_open}, {"check", l_check}, {NULL, NULL}};

	tr_type(L, PRODUCER_TYPE, l_gc, methods);
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
