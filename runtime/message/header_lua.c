/* The header methods of messages: contract/message.md section 2.4. */
#include "base/json.h"
#include "message/header.h"
#include "message/message_lua.h"
#include "policy/policy.h"

/* The bytes to search for headers. While our own trace fields stand apart in head, they are joined into a string
 * on the Lua stack, which keeps it until the method returns. */
static struct tr_str
whole(lua_State *L, const struct tr_message *message, const char *function)
{
	struct tr_buf *joined;
	struct tr_str text;

	if (message->head.len == 0)
		return message->body.data != NULL ? tr_bytes_str(&message->body) : TR_STR("");
	joined = tr_lua_scratch(L);
	tr_buf_add_str(joined, tr_bytes_str(&message->head));
	tr_buf_add_str(joined, tr_bytes_str(&message->body));
	if (joined->failed)
		luaL_error(L, "%s: out of memory", function);
	lua_pushlstring(L, joined->data, joined->len);
	text.data = lua_tolstring(L, -1, &text.len);
	return text;
}

/* The name of a field that is to be written. */
static struct tr_str
check_name(lua_State *L, int idx, const char *function)
{
	struct tr_str name = tr_message_lua_text(L, idx, function, "name");

	for (size_t i = 0; i < name.len; i++)
		if (name.data[i] <= ' ' || name.data[i] > '~' || name.data[i] == ':')
			luaL_error(L, "%s: '%s' is not a header name (printable ASCII without blanks and ':')",
				function, name.data);
	if (name.len == 0)
		luaL_error(L, "%s: the header name is empty", function);
	return name;
}

static void
push_value(lua_State *L, struct tr_str raw, const char *function)
{
	struct tr_buf *value = tr_lua_scratch(L);

	tr_header_decode(raw, value);
	if (value->failed)
		luaL_error(L, "%s: out of memory", function);
	lua_pushlstring(L, value->len > 0 ? value->data : "", value->len);
}

static int
l_get_first_named_header_value(lua_State *L)
{
	static const char function[] = "get_first_named_header_value";
	const struct tr_message *message = tr_message_check(L, 1, function);
	struct tr_str name = tr_message_lua_text(L, 2, function, "name");
	struct tr_header header;

	if (tr_header_find(whole(L, message, function), name, &header))
		push_value(L, header.value, function);
	else
		lua_pushnil(L);
	return 1;
}

int
tr_l_raw_header(lua_State *L)
{
	static const char function[] = "get_address_header";
	const struct tr_message *message = tr_message_check(L, 1, function);
	struct tr_str name = tr_message_lua_text(L, 2, function, "name");
	struct tr_header header;

	if (tr_header_find(whole(L, message, function), name, &header))
		lua_pushlstring(L, header.value.data, header.value.len);
	else
		lua_pushnil(L);
	return 1;
}

int
tr_l_decode_header(lua_State *L)
{
	struct tr_str raw;

	raw.data = luaL_checklstring(L, 1, &raw.len);
	push_value(L, raw, "decode_header");
	return 1;
}

static int
l_get_all_named_header_values(lua_State *L)
{
	static const char function[] = "get_all_named_header_values";
	const struct tr_message *message = tr_message_check(L, 1, function);
	struct tr_str name = tr_message_lua_text(L, 2, function, "name");
	struct tr_str text = whole(L, message, function);
	struct tr_header header;
	size_t at = 0;
	int count = 0;

	lua_newtable(L);
	tr_json_set_array(L, -1);
	while (tr_header_next(text, &at, &header)) {
		if (header.name.len == 0 || !tr_str_ieq(header.name, name))
			continue;
		push_value(L, header.value, function);
		lua_rawseti(L, -2, ++count);
	}
	return 1;
}

static int
l_get_all_headers(lua_State *L)
{
	static const char function[] = "get_all_headers";
	const struct tr_message *message = tr_message_check(L, 1, function);
	struct tr_str text = whole(L, message, function);
	struct tr_header header;
	size_t at = 0;
	int count = 0;

	lua_newtable(L);
	tr_json_set_array(L, -1);
	while (tr_header_next(text, &at, &header)) {
		if (header.name.len == 0)
			continue;
		lua_createtable(L, 2, 0);
		tr_json_set_array(L, -1);
		lua_pushlstring(L, header.name.data, header.name.len);
		lua_rawseti(L, -2, 1);
		push_value(L, header.value, function);
		lua_rawseti(L, -2, 2);
		lua_rawseti(L, -2, ++count);
	}
	return 1;
}

static int
l_append_header(lua_State *L)
{
	struct tr_message *message = tr_message_check(L, 1, "append_header");
	struct tr_str name = check_name(L, 2, "append_header");
	struct tr_str value = tr_message_lua_text(L, 3, "append_header", "value");
	bool encode = lua_toboolean(L, 4);
	struct tr_str text = whole(L, message, "append_header");
	size_t end = tr_header_end(text);
	struct tr_buf *edited;

	if (end == SIZE_MAX)
		return luaL_error(L, "append_header: the message has no blank line between header and body");
	edited = tr_lua_scratch(L);
	tr_buf_add(edited, text.data, end);
	tr_header_write(name, value, encode, edited);
	tr_buf_add(edited, text.data + end, text.len - end);
	if (edited->failed)
		return luaL_error(L, "append_header: out of memory");
	tr_message_lua_replace(L, message, (struct tr_str){edited->data, edited->len}, "append_header");
	return 0;
}

/* Goes into the head, so that the body stays shared and is not copied. */
static int
l_prepend_header(lua_State *L)
{
	struct tr_message *message = tr_message_check(L, 1, "prepend_header");
	struct tr_str name = check_name(L, 2, "prepend_header");
	struct tr_str value = tr_message_lua_text(L, 3, "prepend_header", "value");
	struct tr_buf *head = tr_lua_scratch(L);
	struct tr_blob *blob;

	tr_header_write(name, value, lua_toboolean(L, 4), head);
	tr_buf_add_str(head, tr_bytes_str(&message->head));
	blob = head->failed ? NULL : tr_blob_new(head->data, head->len);
	if (blob == NULL)
		return luaL_error(L, "prepend_header: out of memory");
	tr_bytes_set(&message->head, blob);
	message->flags |= TR_MSG_DIRTY;
	return 0;
}

/* True if the name is in the list of strings at idx. */
static bool
listed(lua_State *L, int idx, struct tr_str name, bool patterns)
{
	int count = (int)lua_objlen(L, idx);
	bool found = false;

	for (int i = 1; i <= count && !found; i++) {
		struct tr_str entry;

		lua_rawgeti(L, idx, i);
		entry.data = lua_tolstring(L, -1, &entry.len);
		found = patterns ? tr_header_name_matches(name, entry) : tr_str_ieq(name, entry);
		lua_pop(L, 1);
	}
	return found;
}

/* An optional list of names at idx, checked; false when there is none or it is empty. */
static bool
check_names(lua_State *L, int idx, const char *function)
{
	int count;

	if (lua_isnoneornil(L, idx))
		return false;
	if (lua_type(L, idx) != LUA_TTABLE)
		luaL_error(L, "%s: a list of header names expected, got %s", function, luaL_typename(L, idx));
	count = (int)lua_objlen(L, idx);
	for (int i = 1; i <= count; i++) {
		lua_rawgeti(L, idx, i);
		tr_message_lua_text(L, -1, function, "header name");
		lua_pop(L, 1);
	}
	return count > 0;
}

/* Removes the fields for which the name is `name`, or is in the list at `list`, or begins with X-. */
static void
remove_headers(lua_State *L, struct tr_message *message, struct tr_str name, int list, const char *function)
{
	struct tr_str text = whole(L, message, function);
	struct tr_buf *kept = tr_lua_scratch(L);
	struct tr_header header;
	size_t at = 0;
	bool removed = false;

	while (tr_header_next(text, &at, &header)) {
		bool hit = header.name.len > 0 &&
			   (name.data != NULL  ? tr_str_ieq(header.name, name)
				   : list != 0 ? listed(L, list, header.name, false)
					       : tr_header_name_matches(header.name, TR_STR("X-*")));

		if (!hit)
			tr_buf_add(kept, text.data + header.start, header.end - header.start);
		removed = removed || hit;
	}
	if (!removed)
		return;
	tr_buf_add(kept, text.data + at, text.len - at);
	if (kept->failed)
		luaL_error(L, "%s: out of memory", function);
	tr_message_lua_replace(L, message, (struct tr_str){kept->data, kept->len}, function);
}

static int
l_remove_all_named_headers(lua_State *L)
{
	static const char function[] = "remove_all_named_headers";
	struct tr_message *message = tr_message_check(L, 1, function);

	remove_headers(L, message, tr_message_lua_text(L, 2, function, "name"), 0, function);
	return 0;
}

static int
l_remove_x_headers(lua_State *L)
{
	struct tr_message *message = tr_message_check(L, 1, "remove_x_headers");
	bool list = check_names(L, 2, "remove_x_headers");

	remove_headers(L, message, (struct tr_str){NULL, 0}, list ? 2 : 0, "remove_x_headers");
	return 0;
}

static int
l_import_x_headers(lua_State *L)
{
	static const char function[] = "import_x_headers";
	struct tr_message *message = tr_message_check(L, 1, function);
	bool list = check_names(L, 2, function);
	struct tr_str text = whole(L, message, function);
	struct tr_header header;
	size_t at = 0;

	while (tr_header_next(text, &at, &header)) {
		struct tr_str value, key;
		struct tr_buf *buf;
		int err;

		if (header.name.len == 0 ||
			!(list ? listed(L, 2, header.name, true) : tr_header_name_matches(header.name, TR_STR("X-*"))))
			continue;
		push_value(L, header.value, function); /* the buffer is used again for the key */
		value.data = lua_tolstring(L, -1, &value.len);
		buf = tr_lua_scratch(L);
		for (size_t i = 0; i < header.name.len; i++) {
			char c = header.name.data[i];

			tr_buf_addc(buf, c >= 'A' && c <= 'Z' ? (char)(c + 32) : c == '-' ? '_' : c);
		}
		key = (struct tr_str){buf->data, buf->len};
		err = buf->failed ? TR_ENOMEM : tr_meta_set_string(&message->meta, key, value);
		if (err != TR_OK)
			return luaL_error(L, "%s: out of memory", function);
		message->flags |= TR_MSG_DIRTY;
		lua_pop(L, 1);
	}
	return 0;
}

static int
l_import_scheduling_header(lua_State *L)
{
	static const char function[] = "import_scheduling_header";
	struct tr_message *message = tr_message_check(L, 1, function);
	struct tr_str name = tr_message_lua_text(L, 2, function, "name"), json;
	bool remove = lua_toboolean(L, 3);
	struct tr_header header;

	if (!tr_header_find(whole(L, message, function), name, &header)) {
		lua_pushnil(L);
		return 1;
	}
	push_value(L, header.value, function);
	json.data = lua_tolstring(L, -1, &json.len);
	tr_message_lua_schedule(L, message, json, function);
	if (remove) {
		int result = lua_gettop(L);

		remove_headers(L, message, name, 0, function);
		lua_settop(L, result);
	}
	return 1;
}

const luaL_Reg tr_message_header_methods[] = {
	{"get_first_named_header_value", l_get_first_named_header_value},
	{"get_all_named_header_values", l_get_all_named_header_values},
	{"get_all_headers", l_get_all_headers},
	{"append_header", l_append_header},
	{"prepend_header", l_prepend_header},
	{"remove_all_named_headers", l_remove_all_named_headers},
	{"remove_x_headers", l_remove_x_headers},
	{"import_x_headers", l_import_x_headers},
	{"import_scheduling_header", l_import_scheduling_header},
	{NULL, NULL},
};
