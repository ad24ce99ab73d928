/* tr.toml: TOML text as Lua values, and for TOML and JSON the line of each value. lua/kumo/serde.lua and
 * lua/kumo/shaping make functions for policies of it.
 *
 * Places: a table beside the value. places[key] is the line of a plain value, or the places of a table or array;
 * places[0] is the line of the table's own key, places[-1] the list of its keys in the order of the file. */
#include "base/json.h"
#include "base/toml.h"
#include "policy/library.h"
#include "policy/policy.h"

#define DOCUMENT "tr.toml_document"

enum { PLACE_LINE = 0, PLACE_ORDER = -1 };

/* --- TOML --------------------------------------------------------------------------------------- */

struct reader {
	lua_State *L;
	const struct tr_toml *doc;
	size_t at;
	bool places;
};

static void read_value(struct reader *r, const struct tr_toml_item *item, uint32_t key_line);

/* Beside a value its places; without them a nil, so that the stack looks the same. */
static void
push_container(struct reader *r, uint32_t line, bool is_array)
{
	lua_State *L = r->L;

	luaL_checkstack(L, 12, "too deep");
	lua_newtable(L);
	if (is_array)
		tr_json_set_array(L, -1);
	if (!r->places) {
		lua_pushnil(L);
		return;
	}
	lua_newtable(L);
	lua_pushinteger(L, line);
	lua_rawseti(L, -2, PLACE_LINE);
	if (!is_array) {
		lua_newtable(L);
		lua_rawseti(L, -2, PLACE_ORDER);
	}
}

/* Stack: container, its places, key, value, places of the value. Leaves the first two. */
static void
store(struct reader *r)
{
	lua_State *L = r->L;

	if (r->places) {
		lua_pushvalue(L, -3);
		lua_insert(L, -2); /* container, places, key, value, key, place */
		lua_rawset(L, -5);
	} else {
		lua_pop(L, 1);
	}
	lua_rawset(L, -4);
}

static void
read_table(struct reader *r, uint32_t line)
{
	struct tr_toml_item item;
	lua_State *L = r->L;
	int count = 0;

	push_container(r, line, false);
	while (tr_toml_next(r->doc, &r->at, &item) && item.type == TR_TOML_KEY) {
		uint32_t key_line = item.line;

		lua_pushlstring(L, item.text, item.text_len);
		if (r->places) {
			lua_rawgeti(L, -2, PLACE_ORDER);
			lua_pushvalue(L, -2);
			lua_rawseti(L, -2, ++count);
			lua_pop(L, 1);
		}
		tr_toml_next(r->doc, &r->at, &item);
		read_value(r, &item, key_line);
		store(r);
	}
}

static void
read_array(struct reader *r, uint32_t line)
{
	struct tr_toml_item item;

	push_container(r, line, true);
	for (int i = 1; tr_toml_next(r->doc, &r->at, &item) && item.type != TR_TOML_END; i++) {
		lua_pushinteger(r->L, i);
		read_value(r, &item, item.line);
		store(r);
	}
}

/* Pushes the value and its place. */
static void
read_value(struct reader *r, const struct tr_toml_item *item, uint32_t key_line)
{
	lua_State *L = r->L;

	switch (item->type) {
	case TR_TOML_TABLE:
		read_table(r, key_line);
		return;
	case TR_TOML_ARRAY:
		read_array(r, key_line);
		return;
	case TR_TOML_INTEGER:
		lua_pushnumber(L, (lua_Number)item->integer);
		break;
	case TR_TOML_REAL:
		lua_pushnumber(L, item->real);
		break;
	case TR_TOML_BOOL:
		lua_pushboolean(L, item->boolean);
		break;
	case TR_TOML_STRING:
	case TR_TOML_TIME:
	case TR_TOML_KEY: /* not a value: read_table() has taken it */
	case TR_TOML_END:
		lua_pushlstring(L, item->text, item->text_len);
		break;
	}
	if (r->places)
		lua_pushinteger(L, key_line);
	else
		lua_pushnil(L);
}

/* parse(text, places) -> true, value, places or nil; false, message, line, column (0: not at one place). */
static int
l_parse(lua_State *L)
{
	struct reader reader = {.L = L, .places = lua_toboolean(L, 2)};
	struct tr_toml_error error;
	struct tr_toml_item root;
	struct tr_toml **doc;
	size_t len;
	const char *text = luaL_checklstring(L, 1, &len);

	lua_settop(L, 2);
	doc = lua_newuserdata(L, sizeof(struct tr_toml *)); /* frees it whatever happens */
	*doc = NULL;
	luaL_getmetatable(L, DOCUMENT);
	lua_setmetatable(L, -2);
	if (tr_toml_parse(text, len, doc, &error) != TR_OK) {
		lua_pushboolean(L, 0);
		lua_pushstring(L, error.text);
		lua_pushinteger(L, error.line);
		lua_pushinteger(L, error.column);
		return 4;
	}
	reader.doc = *doc;
	lua_pushboolean(L, 1);
	tr_toml_next(*doc, &reader.at, &root);
	read_value(&reader, &root, 1);
	tr_toml_free(*doc);
	*doc = NULL;
	return 3;
}

static int
l_gc(lua_State *L)
{
	struct tr_toml **doc = luaL_checkudata(L, 1, DOCUMENT);

	tr_toml_free(*doc);
	*doc = NULL;
	return 0;
}

/* --- JSON ---------------------------------------------------------------------------------------- */

struct lines { /* counts newlines up to a place; places are asked for in order */
	const char *at;
	int line;
};

static int
line_of(struct lines *lines, const char *place)
{
	const char *newline;

	while ((newline = memchr(lines->at, '\n', (size_t)(place - lines->at))) != NULL) {
		lines->line++;
		lines->at = newline + 1;
	}
	return lines->line;
}

/* Pushes the place of a value of valid JSON; `key_line` is that of its key. */
static void
json_place(lua_State *L, struct lines *lines, struct tr_str value, int key_line, int depth)
{
	enum tr_json_type type = tr_json_type(value);
	struct tr_str key, member;
	struct tr_buf name = {0};
	size_t at = 0;
	int count = 0;

	if ((type != TR_JSON_OBJECT && type != TR_JSON_ARRAY) || depth > 128) {
		lua_pushinteger(L, key_line);
		return;
	}
	luaL_checkstack(L, 12, "too deep");
	lua_newtable(L);
	lua_pushinteger(L, key_line);
	lua_rawseti(L, -2, PLACE_LINE);
	lua_newtable(L);
	while (tr_json_next(value, &at, &key, &member)) {
		int line = line_of(lines, type == TR_JSON_OBJECT ? key.data : member.data);

		count++;
		if (type == TR_JSON_OBJECT) {
			/* the key stands between its quotes */
			tr_buf_clear(&name);
			if (tr_json_unescape((struct tr_str){key.data - 1, key.len + 2}, &name) != TR_OK) {
				tr_buf_free(&name);
				luaL_error(L, "out of memory");
			}
			lua_pushlstring(L, name.data != NULL ? name.data : "", name.len);
			lua_pushvalue(L, -1);
			lua_rawseti(L, -3, count);
		} else {
			lua_pushinteger(L, count);
		}
		json_place(L, lines, member, line, depth + 1);
		lua_rawset(L, -4);
	}
	tr_buf_free(&name);
	if (type == TR_JSON_OBJECT)
		lua_rawseti(L, -2, PLACE_ORDER);
	else
		lua_pop(L, 1);
}

/* json_places(text) -> places; the text must be valid JSON. */
static int
l_json_places(lua_State *L)
{
	struct tr_str text;
	size_t error_at;
	struct lines lines = {.line = 1};

	text.data = luaL_checklstring(L, 1, &text.len);
	if (tr_json_check(text, &error_at) != TR_OK)
		return luaL_error(L, "json_places: valid JSON expected");
	lines.at = text.data;
	while (text.len > 0 && strchr(" \t\r\n", text.data[0]) != NULL) {
		text.data++;
		text.len--;
	}
	json_place(L, &lines, text, line_of(&lines, text.data), 1);
	return 1;
}

int
luaopen_tr_toml(lua_State *L)
{
	static const luaL_Reg functions[] = {{"parse", l_parse}, {"json_places", l_json_places}, {NULL, NULL}};

	luaL_newmetatable(L, DOCUMENT);
	lua_pushcfunction(L, l_gc);
	lua_setfield(L, -2, "__gc");
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
