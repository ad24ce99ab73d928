/* The message object of policies: contract/message.md section 2. Headers are in header_lua.c, when and in
 * what order it goes in due_lua.c. */
#include "message/message_lua.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/options.h"
#include "message/schedule.h"
#include "policy/policy.h"

#define MESSAGE "tr.message"

struct box {
	const void *mark;           /* its own type's: no other userdata holds this address */
	struct tr_message *message; /* NULL: stale */
	struct box *next;           /* an earlier handle of the same message */
	bool owned;                 /* freed with the box */
};

static const char box_mark;
static char boxes_key;        /* registry: weak table, address of a box that owns its message -> its userdata */
static char meta_key;         /* registry: the metatable, found without making a string of its name */
static const char *names[64]; /* of all methods, for "did you mean"; the same in each state */

static void
handle_gone(struct tr_message *message)
{
	for (struct box *box = message->handle, *next; box != NULL; box = next) {
		next = box->next;
		box->message = NULL;
		box->next = NULL;
		box->owned = false;
	}
}

/* --- handles ------------------------------------------------------------------------------------------ */

/* The box at idx, or NULL: by its mark, as looking the metatable up by name costs more than most methods do. */
static struct box *
test_box(lua_State *L, int idx)
{
	struct box *box = lua_type(L, idx) == LUA_TUSERDATA ? lua_touserdata(L, idx) : NULL;

	return box != NULL && lua_objlen(L, idx) == sizeof *box && box->mark == &box_mark ? box : NULL;
}

static void
attach(struct box *box, struct tr_message *message)
{
	box->message = message;
	box->next = message->handle;
	message->handle = box;
	message->handle_gone = handle_gone;
}

static void
detach(struct box *box, struct tr_message *message)
{
	struct box *first = message->handle, **at = &first;

	while (*at != NULL && *at != box)
		at = &(*at)->next;
	if (*at != NULL)
		*at = box->next;
	message->handle = first;
	if (first == NULL)
		message->handle_gone = NULL;
}

static int
l_gc(lua_State *L)
{
	struct box *box = test_box(L, 1);
	struct tr_message *message;
	bool owned;

	if (box == NULL)
		return 0;
	message = box->message;
	owned = box->owned;
	box->message = NULL;
	box->owned = false;
	if (message == NULL)
		return 0;
	detach(box, message);
	if (owned)
		tr_message_free(message);
	return 0;
}

static void
push_boxes(lua_State *L)
{
	lua_pushlightuserdata(L, &boxes_key);
	lua_rawget(L, LUA_REGISTRYINDEX);
}

static void make_metatable(lua_State *L);

/* A new, empty box on the stack. */
static struct box *
new_box(lua_State *L)
{
	struct box *box = lua_newuserdata(L, sizeof *box);

	*box = (struct box){.mark = &box_mark};
	make_metatable(L);
	lua_setmetatable(L, -2);
	return box;
}

/* The box on top of the stack owns its message: it is what later handles are, so that the message lasts as long as any
 * of them. */
static void
own(lua_State *L, struct box *box)
{
	box->owned = true; /* from here on the collector frees it, whatever raises */
	push_boxes(L);
	lua_pushlightuserdata(L, box);
	lua_pushvalue(L, -3);
	lua_rawset(L, -3);
	lua_pop(L, 1);
}

/* A message that others own gets a new handle each time (two of them are equal): finding an old one would take a table
 * of all, and nearly all are pushed once. */
void
tr_message_push(lua_State *L, struct tr_message *message)
{
	struct box *box = message->handle;

	luaL_checkstack(L, 6, "message handle");
	while (box != NULL && !box->owned)
		box = box->next;
	if (box != NULL) {
		push_boxes(L);
		lua_pushlightuserdata(L, box);
		lua_rawget(L, -2);
		lua_remove(L, -2);
		if (lua_touserdata(L, -1) == box)
			return;
		lua_pop(L,
			1); /* unreachable, about to be collected with its message: the caller must not have had it */
	}
	box = new_box(L);
	attach(box, message);
}

static struct box *
check_box(lua_State *L, int idx, const char *function)
{
	struct box *box = test_box(L, idx);

	if (box == NULL)
		luaL_error(L, "%s: message expected, got %s (call it as msg:%s(...))", function, luaL_typename(L, idx),
			function);
	else if (box->message == NULL)
		luaL_error(L,
			"message is no longer owned by this handler: %s must be called before the handler that got the "
			"message returns, or before the message is handed on; keep what you need in a variable",
			function);
	return box;
}

struct tr_message *
tr_message_check(lua_State *L, int idx, const char *function)
{
	return check_box(L, idx, function)->message;
}

struct tr_message *
tr_message_take(lua_State *L, int idx, const char *function)
{
	struct box *box = check_box(L, idx, function);
	struct tr_message *message = box->message;

	if (!box->owned)
		return NULL;
	box->owned = false;
	tr_message_revoke(message);
	return message;
}

static void
check_err(lua_State *L, int err, const char *function)
{
	if (err != TR_OK)
		luaL_error(L, "%s: %s", function, err == TR_ENOMEM ? "out of memory" : tr_err_text(err));
}

/* --- envelope, identity, queue ---------------------------------------------------------------------------- */

static int
l_id(lua_State *L)
{
	const struct tr_message *message = tr_message_check(L, 1, "id");
	char hex[33];

	tr_uuid_hex(message->id, hex);
	lua_pushlstring(L, hex, 32);
	return 1;
}

static int
l_sender(lua_State *L)
{
	tr_addr_push(L, &tr_message_check(L, 1, "sender")->sender);
	return 1;
}

/* Raises about the address at idx. */
static int
bad_address(lua_State *L, int idx, int err, const char *function)
{
	struct tr_str text = tr_addr_text(L, idx);

	if (err == TR_ENOMEM)
		return luaL_error(L, "%s: out of memory", function);
	if (text.data == NULL)
		return luaL_error(L, "%s: an address (string or EnvelopeAddress) expected, got %s", function,
			luaL_typename(L, idx));
	return luaL_error(
		L, "%s: '%s' is not a valid address (local@domain, with or without <>, expected)", function, text.data);
}

static int
l_set_sender(lua_State *L)
{
	struct tr_message *message = tr_message_check(L, 1, "set_sender");
	struct tr_str text = tr_addr_text(L, 2);
	int err = text.data == NULL ? TR_EINVAL : tr_message_set_sender(message, text);

	return err == TR_OK ? 0 : bad_address(L, 2, err, "set_sender");
}

static void
push_recipients(lua_State *L, const struct tr_message *message)
{
	lua_createtable(L, (int)message->rcpt_count, 0);
	tr_json_set_array(L, -1);
	for (uint32_t i = 0; i < message->rcpt_count; i++) {
		tr_addr_push(L, &message->rcpts[i]);
		lua_rawseti(L, -2, (int)i + 1);
	}
}

static int
l_recipient(lua_State *L)
{
	const struct tr_message *message = tr_message_check(L, 1, "recipient");

	if (message->rcpt_count == 0)
		lua_pushnil(L);
	else if (message->rcpt_count == 1)
		tr_addr_push(L, &message->rcpts[0]);
	else
		push_recipients(L, message);
	return 1;
}

static int
l_recipient_list(lua_State *L)
{
	push_recipients(L, tr_message_check(L, 1, "recipient_list"));
	return 1;
}

static int
l_set_recipient(lua_State *L)
{
	struct tr_message *message = tr_message_check(L, 1, "set_recipient");
	struct tr_message parsed = {0}; /* a list with one bad entry must change nothing */
	int count = lua_type(L, 2) == LUA_TTABLE ? (int)lua_objlen(L, 2) : 0, err = TR_OK;

	lua_settop(L, 2);
	if (lua_type(L, 2) == LUA_TTABLE && count == 0)
		return luaL_error(L, "set_recipient: the list of recipients is empty; give at least one address");
	for (int i = 1; i <= (count > 0 ? count : 1) && err == TR_OK; i++) {
		struct tr_str text;

		lua_settop(L, 2);
		if (count > 0)
			lua_rawgeti(L, 2, i);
		text = tr_addr_text(L, -1);
		err = text.data == NULL ? TR_EINVAL : tr_message_add_rcpt(&parsed, text);
	}
	if (err != TR_OK) {
		tr_message_clear_rcpts(&parsed);
		return bad_address(L, lua_gettop(L), err, "set_recipient");
	}
	tr_message_clear_rcpts(message);
	message->rcpts = parsed.rcpts;
	message->rcpt_count = parsed.rcpt_count;
	message->flags |= TR_MSG_DIRTY;
	return 0;
}

static int
l_queue_name(lua_State *L)
{
	const struct tr_message *message = tr_message_check(L, 1, "queue_name");
	struct tr_buf *name = tr_lua_scratch(L);
	const char *error;

	if (tr_message_queue_name(message, name, &error) != TR_OK)
		return luaL_error(L, "queue_name: %s", error);
	lua_pushlstring(L, name->len > 0 ? name->data : "", name->len);
	return 1;
}

/* event_id of a log record; nothing for other messages. Ours. */
static int
l_event_id(lua_State *L)
{
	struct tr_str id = tr_message_event_id(tr_message_check(L, 1, "event_id"));

	if (id.data == NULL)
		return 0;
	lua_pushlstring(L, id.data, id.len);
	return 1;
}

/* --- meta ------------------------------------------------------------------------------------------------- */

/* A name or text that must be UTF-8. */
struct tr_str
tr_message_lua_text(lua_State *L, int idx, const char *function, const char *what)
{
	struct tr_str text = {NULL, 0};

	if (lua_type(L, idx) != LUA_TSTRING)
		luaL_error(L, "%s: %s: string expected, got %s", function, what, luaL_typename(L, idx));
	text.data = lua_tolstring(L, idx, &text.len);
	if (!tr_utf8_valid(text))
		luaL_error(L, "%s: %s is not valid UTF-8", function, what);
	return text;
}

/* A log record is stored once, as the body; its meta value is read from there. */
static bool
record_is_body(const struct tr_message *message)
{
	return (message->flags & (TR_MSG_LOG_RECORD | TR_MSG_TEMPLATE)) == TR_MSG_LOG_RECORD;
}

static int
l_get_meta(lua_State *L)
{
	const struct tr_message *message = tr_message_check(L, 1, "get_meta");
	struct tr_str name = tr_message_lua_text(L, 2, "get_meta", "name");
	struct tr_str json = tr_meta_get(&message->meta, name);
	size_t error_at;

	if (json.data == NULL && record_is_body(message) && tr_str_eq(name, TR_STR("log_record")))
		json = tr_bytes_str(&message->body);
	if (json.data == NULL) {
		lua_pushnil(L);
		return 1;
	}
	if (tr_json_push(L, json, false, &error_at) != TR_OK)
		return luaL_error(
			L, "get_meta: the stored value of '%s' is not valid JSON at byte %d", name.data, (int)error_at);
	return 1;
}

static int
l_set_meta(lua_State *L)
{
	struct tr_message *message = tr_message_check(L, 1, "set_meta");
	struct tr_str name = tr_message_lua_text(L, 2, "set_meta", "name");
	struct tr_buf *json = tr_lua_scratch(L);
	const char *what = NULL;

	lua_settop(L, 3); /* no value is nil */
	if (lua_isnil(L, 3)) {
		tr_buf_addz(json, "null");
	} else {
		if (lua_type(L, 3) == LUA_TSTRING)
			tr_message_lua_text(L, 3, "set_meta", "value");
		if (tr_json_from_lua(L, 3, json, &what) != TR_OK)
			return luaL_error(L,
				"set_meta: the value of '%s' cannot be stored as JSON (%s); use nil, booleans, "
				"numbers, strings "
				"and tables of these",
				name.data, what != NULL ? what : luaL_typename(L, 3));
	}
	check_err(L,
		json->failed ? TR_ENOMEM : tr_meta_set(&message->meta, name, (struct tr_str){json->data, json->len}),
		"set_meta");
	message->flags |= TR_MSG_DIRTY;
	return 0;
}

/* --- content ------------------------------------------------------------------------------------------------ */

static int
l_get_data(lua_State *L)
{
	const struct tr_message *message = tr_message_check(L, 1, "get_data");
	struct tr_buf *joined;

	if (message->head.len == 0) {
		lua_pushlstring(L, message->body.len > 0 ? message->body.data : "", message->body.len);
		return 1;
	}
	joined = tr_lua_scratch(L);
	tr_buf_add_str(joined, tr_bytes_str(&message->head));
	tr_buf_add_str(joined, tr_bytes_str(&message->body));
	if (joined->failed)
		return luaL_error(L, "get_data: out of memory");
	lua_pushlstring(L, joined->data, joined->len);
	return 1;
}

void
tr_message_lua_replace(lua_State *L, struct tr_message *message, struct tr_str bytes, const char *function)
{
	if (record_is_body(message)) {
		if (tr_meta_get(&message->meta, TR_STR("log_record")).data == NULL)
			check_err(L, tr_meta_set(&message->meta, TR_STR("log_record"), tr_bytes_str(&message->body)),
				function);
		message->flags |= TR_MSG_TEMPLATE;
	}
	check_err(L, tr_message_set_data(message, bytes), function);
}

static int
l_set_data(lua_State *L)
{
	struct tr_message *message = tr_message_check(L, 1, "set_data");
	struct tr_str bytes = {NULL, 0};

	if (lua_type(L, 2) != LUA_TSTRING)
		return luaL_error(L, "set_data: string expected, got %s", luaL_typename(L, 2));
	bytes.data = lua_tolstring(L, 2, &bytes.len);
	tr_message_lua_replace(L, message, bytes, "set_data");
	return 0;
}

/* --- module ------------------------------------------------------------------------------------------------------ */

static int
l_tostring(lua_State *L)
{
	const struct box *box = luaL_checkudata(L, 1, MESSAGE);
	char hex[33];

	if (box->message == NULL) {
		lua_pushliteral(L, "message (no longer owned)");
		return 1;
	}
	tr_uuid_hex(box->message->id, hex);
	lua_pushfstring(L, "message %s", hex);
	return 1;
}

/* Two handles of one message. */
static int
l_eq(lua_State *L)
{
	const struct box *a = test_box(L, 1), *b = test_box(L, 2);

	lua_pushboolean(L, a != NULL && b != NULL && a->message != NULL && a->message == b->message);
	return 1;
}

/* Last resort of the method table. */
static int
l_no_method(lua_State *L)
{
	const char *key = lua_tostring(L, 2), *near = key != NULL ? tr_nearest(key, names) : NULL;

	if (near != NULL)
		return luaL_error(L, "message has no method '%s' (did you mean '%s'?)", key, near);
	return luaL_error(
		L, "message has no method '%s', or it is not supported", key != NULL ? key : luaL_typename(L, 2));
}

static const luaL_Reg methods[] = {
	{"id", l_id},
	{"sender", l_sender},
	{"set_sender", l_set_sender},
	{"recipient", l_recipient},
	{"recipient_list", l_recipient_list},
	{"set_recipient", l_set_recipient},
	{"queue_name", l_queue_name},
	{"event_id", l_event_id},
	{"get_meta", l_get_meta},
	{"set_meta", l_set_meta},
	{"get_data", l_get_data},
	{"set_data", l_set_data},
	{NULL, NULL},
};

static pthread_once_t names_once = PTHREAD_ONCE_INIT;

static void
fill_names(void)
{
	size_t count = 0;

	for (const luaL_Reg *reg = methods; reg->name != NULL && count + 1 < TR_COUNT(names); reg++)
		names[count++] = reg->name;
	for (const luaL_Reg *reg = tr_message_header_methods; reg->name != NULL && count + 1 < TR_COUNT(names); reg++)
		names[count++] = reg->name;
	for (const luaL_Reg *reg = tr_message_due_methods; reg->name != NULL && count + 1 < TR_COUNT(names); reg++)
		names[count++] = reg->name;
}

/* Pushes the metatable; makes it and the table of boxes at the first call in a state. */
static void
make_metatable(lua_State *L)
{
	static const luaL_Reg meta[] = {{"__gc", l_gc}, {"__tostring", l_tostring}, {"__eq", l_eq}, {NULL, NULL}};

	lua_pushlightuserdata(L, &meta_key);
	lua_rawget(L, LUA_REGISTRYINDEX);
	if (!lua_isnil(L, -1))
		return;
	lua_pop(L, 1);
	luaL_newmetatable(L, MESSAGE);
	pthread_once(&names_once, fill_names);
	luaL_setfuncs(L, meta, 0);
	lua_createtable(L, 0, 32);
	luaL_setfuncs(L, methods, 0);
	luaL_setfuncs(L, tr_message_header_methods, 0);
	luaL_setfuncs(L, tr_message_due_methods, 0);
	lua_createtable(L, 0, 1);
	lua_pushcfunction(L, l_no_method);
	lua_setfield(L, -2, "__index");
	lua_setmetatable(L, -2);
	lua_setfield(L, -2, "__index");
	lua_pushlightuserdata(L, &boxes_key);
	lua_newtable(L);
	lua_createtable(L, 0, 1);
	lua_pushliteral(L, "v");
	lua_setfield(L, -2, "__mode");
	lua_setmetatable(L, -2);
	lua_rawset(L, LUA_REGISTRYINDEX);
	lua_pushlightuserdata(L, &meta_key); /* last: what has failed before is made anew by the next call */
	lua_pushvalue(L, -2);
	lua_rawset(L, LUA_REGISTRYINDEX);
}

static int
l_make_message(lua_State *L)
{
	struct tr_str sender = tr_addr_text(L, 1), rcpt = tr_addr_text(L, 2), body = {NULL, 0};
	struct tr_message *message;
	struct box *box;
	int err;

	if (lua_type(L, 3) != LUA_TSTRING)
		return luaL_error(L, "make_message: body: string expected, got %s", luaL_typename(L, 3));
	body.data = lua_tolstring(L, 3, &body.len);
	box = new_box(L);
	message = tr_message_new();
	if (message == NULL)
		return luaL_error(L, "make_message: out of memory");
	attach(box, message);
	own(L, box);
	err = sender.data == NULL ? TR_EINVAL : tr_message_set_sender(message, sender);
	if (err != TR_OK)
		return bad_address(L, 1, err, "make_message: sender");
	err = rcpt.data == NULL ? TR_EINVAL : tr_message_add_rcpt(message, rcpt);
	if (err != TR_OK)
		return bad_address(L, 2, err, "make_message: recipient");
	check_err(L, tr_message_set_data(message, body), "make_message");
	return 1;
}

int
luaopen_tr_message(lua_State *L)
{
	static const luaL_Reg functions[] = {
		{"raw_header", tr_l_raw_header}, {"decode_header", tr_l_decode_header}, {NULL, NULL}};

	lua_newtable(L);
	luaL_setfuncs(L, functions, 0);
	make_metatable(L);
	lua_getfield(L, -1, "__index");
	lua_setfield(L, -3, "methods"); /* lua/message.lua adds to them */
	lua_pop(L, 1);
	lua_createtable(L, 0, 1);
	lua_pushcfunction(L, l_make_message);
	lua_setfield(L, -2, "make_message");
	lua_setfield(L, -2, "kumo");
	return 1;
}
