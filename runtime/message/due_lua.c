/* The methods of messages that say when they go, and in what order: contract/message.md sections 2.1 and 4; order keys
 * are ours. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/json.h"
#include "message/message_lua.h"
#include "message/schedule.h"
#include "policy/policy.h"

static int
l_num_attempts(lua_State *L)
{
	lua_pushinteger(L, tr_message_check(L, 1, "num_attempts")->attempts);
	return 1;
}

static int
l_increment_num_attempts(lua_State *L)
{
	struct tr_message *message = tr_message_check(L, 1, "increment_num_attempts");

	if (message->attempts < UINT16_MAX)
		message->attempts++;
	return 0;
}

/* Moves the due time (0: now) into what the schedule allows. */
static void
adjust_due(struct tr_message *message)
{
	int64_t from = message->due_ms != 0 ? message->due_ms : tr_wall_ms(), to;

	if (message->schedule == NULL)
		return;
	to = tr_schedule_adjust(message->schedule, from);
	if (to != from)
		message->due_ms = to;
}

static int
l_set_due(lua_State *L)
{
	struct tr_message *message = tr_message_check(L, 1, "set_due");
	int64_t wall_ns = 0;

	if (!lua_isnoneornil(L, 2)) {
		struct tr_str when = tr_message_lua_text(L, 2, "set_due", "when");

		if (tr_rfc3339_parse(when.data, when.len, &wall_ns) != TR_OK)
			return luaL_error(L,
				"set_due: '%s' is not an RFC 3339 time (nil or 2026-11-25T18:22:10Z expected)",
				when.data);
	}
	message->due_ms = tr_max_i64(wall_ns / TR_NS_PER_MS, 0);
	adjust_due(message);
	if (message->due_ms == 0) {
		lua_pushnil(L);
	} else {
		char text[32];
		size_t len = tr_rfc3339(message->due_ms * TR_NS_PER_MS, text);

		lua_pushlstring(L, text, len);
	}
	return 1;
}

int
tr_message_lua_schedule(lua_State *L, struct tr_message *message, struct tr_str json, const char *function)
{
	struct tr_schedule parsed, *schedule;
	struct tr_buf *text;
	const char *error;
	size_t error_at;

	if (tr_schedule_parse(json, &parsed, &error) != TR_OK)
		return luaL_error(L, "%s: %s", function, error);
	text = tr_lua_scratch(L);
	tr_schedule_json(&parsed, text);
	if (text->failed || tr_json_push(L, (struct tr_str){text->data, text->len}, false, &error_at) != TR_OK)
		return luaL_error(L, "%s: out of memory", function);
	schedule = message->schedule != NULL ? message->schedule : malloc(sizeof *schedule);
	if (schedule == NULL)
		return luaL_error(L, "%s: out of memory", function);
	*schedule = parsed;
	message->schedule = schedule;
	message->flags |= TR_MSG_DIRTY;
	adjust_due(message);
	return 1;
}

static int
l_set_scheduling(lua_State *L)
{
	struct tr_message *message = tr_message_check(L, 1, "set_scheduling");
	struct tr_buf *json;
	const char *what = NULL;

	if (lua_isnoneornil(L, 2)) { /* an earlier due time does not come back */
		free(message->schedule);
		message->schedule = NULL;
		message->flags |= TR_MSG_DIRTY;
		lua_pushnil(L);
		return 1;
	}
	if (lua_type(L, 2) != LUA_TTABLE)
		return luaL_error(L, "set_scheduling: table or nil expected, got %s", luaL_typename(L, 2));
	json = tr_lua_scratch(L);
	if (tr_json_from_lua(L, 2, json, &what) != TR_OK || json->failed)
		return luaL_error(L, "set_scheduling: a value cannot be used (%s); all are strings",
			what ? what : "out of memory");
	return tr_message_lua_schedule(L, message, (struct tr_str){json->data, json->len}, "set_scheduling");
}

/* --- order ------------------------------------------------------------------------------------------------------ */

/* msg:order_key() -> text or nil */
static int
l_order_key(lua_State *L)
{
	const struct tr_message *message = tr_message_check(L, 1, "order_key");
	struct tr_buf *key = tr_lua_scratch(L);

	if (!(message->flags & TR_MSG_ORDERED) || tr_meta_get_string(&message->meta, TR_STR("order_key"), key) != TR_OK)
		return 0;
	lua_pushlstring(L, key->len > 0 ? key->data : "", key->len);
	return 1;
}

/* msg:set_order_key(key): a log record goes after those of its queue that came before it with the same key. nil: none.
 */
static int
l_set_order_key(lua_State *L)
{
	struct tr_message *message = tr_message_check(L, 1, "set_order_key");
	struct tr_str key = {NULL, 0};
	int err;

	if (!(message->flags & TR_MSG_LOG_RECORD))
		return luaL_error(L, "set_order_key: only log records have one, and this message is none");
	if (message->slot != TR_NO_SLOT && !(message->flags & (TR_MSG_UNDECIDED | TR_MSG_POLICY_ERROR)))
		return luaL_error(L, "set_order_key: the record is in its queue already: in should_enqueue_log_record");
	if (lua_type(L, 2) == LUA_TNUMBER) {
		lua_pushvalue(L, 2); /* a copy, which becomes a text */
		key.data = lua_tolstring(L, -1, &key.len);
	} else if (lua_type(L, 2) == LUA_TSTRING) {
		key.data = lua_tolstring(L, 2, &key.len);
	} else if (!lua_isnoneornil(L, 2)) {
		return luaL_error(L, "set_order_key: key: string, number or nil expected, got %s", luaL_typename(L, 2));
	}
	if (key.data != NULL && !tr_utf8_valid(key))
		return luaL_error(L, "set_order_key: key is not valid UTF-8");
	err = tr_message_set_order(message, key);
	if (err != TR_OK)
		return luaL_error(L, "set_order_key: %s", tr_err_text(err));
	return 0;
}

const luaL_Reg tr_message_due_methods[] = {
	{"num_attempts", l_num_attempts},
	{"increment_num_attempts", l_increment_num_attempts},
	{"set_due", l_set_due},
	{"set_scheduling", l_set_scheduling},
	{"order_key", l_order_key},
	{"set_order_key", l_set_order_key},
	{NULL, NULL},
};
