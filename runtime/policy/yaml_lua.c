/* tr.yaml: YAML text as Lua values, read by libyaml with the scalars of YAML 1.2's core schema. lua/kumo/yaml.lua makes
 * kumo.serde.yaml_parse of it. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "policy/library.h"
#include "policy/policy.h"

#define READER "tr.yaml_reader"
#define DEPTH_MAX 128
#define NODES_MAX 1000000 /* copies for aliases included: a few lines of them can stand for billions */

enum { STACK_ANCHORS = 3 };

struct reader { /* a userdata: what libyaml holds is freed whatever Lua raises */
	yaml_parser_t parser;
	yaml_event_t event;
	bool open, has_event;
	int nodes;
	char error[200];
};

static void
drop_event(struct reader *r)
{
	if (r->has_event)
		yaml_event_delete(&r->event);
	r->has_event = false;
}

static int
l_gc(lua_State *L)
{
	struct reader *r = luaL_checkudata(L, 1, READER);

	drop_event(r);
	if (r->open)
		yaml_parser_delete(&r->parser);
	r->open = false;
	return 0;
}

/* Raises a text without a place in Lua. */
static int
fail(lua_State *L, const char *text, yaml_mark_t mark)
{
	lua_pushfstring(L, "%s at line %d column %d", text, (int)mark.line + 1, (int)mark.column + 1);
	return lua_error(L);
}

static int
fail_event(lua_State *L, const struct reader *r, const char *text)
{
	return fail(L, text, r->event.start_mark);
}

static void
next_event(lua_State *L, struct reader *r)
{
	drop_event(r);
	if (yaml_parser_parse(&r->parser, &r->event)) {
		r->has_event = true;
		return;
	}
	snprintf(r->error, sizeof r->error, "%s", r->parser.problem != NULL ? r->parser.problem : "out of memory");
	if (r->parser.error == YAML_READER_ERROR) /* has no mark, only an offset */
		luaL_error(L, "%s at byte %d", r->error, (int)r->parser.problem_offset + 1);
	fail(L, r->error, r->parser.problem_mark);
}

/* --- scalars ----------------------------------------------------------------------------------------- */

static bool
is_one_of(const char *text, const char *const *names)
{
	for (; *names != NULL; names++)
		if (strcmp(text, *names) == 0)
			return true;
	return false;
}

/* YAML 1.2 section 10.3.2; with 0b, as the reference. */
static bool
to_integer(const char *text, lua_Number *out)
{
	const char *digits = text + (*text == '-' || *text == '+');
	int base = 10;
	lua_Number value = 0;

	if (digits[0] == '0' && digits[1] == 'x')
		base = 16;
	else if (digits[0] == '0' && digits[1] == 'o')
		base = 8;
	else if (digits[0] == '0' && digits[1] == 'b')
		base = 2;
	if (base != 10)
		digits += 2;
	if (*digits == '\0' || (base == 10 && digits[0] == '0' && digits[1] != '\0')) /* 007 is a text */
		return false;
	for (const char *at = digits; *at != '\0'; at++) {
		int digit = *at >= '0' && *at <= '9'       ? *at - '0'
			    : isxdigit((unsigned char)*at) ? tolower((unsigned char)*at) - 'a' + 10
							   : 99;
		if (digit >= base)
			return false;
		value = value * base + digit;
	}
	if (base == 10) /* correctly rounded beyond 2^53 */
		value = strtod(digits, NULL);
	*out = *text == '-' ? -value : value;
	return true;
}

static bool
to_real(const char *text, lua_Number *out)
{
	static const char *const nans[] = {".nan", ".NaN", ".NAN", NULL};
	static const char *const infinities[] = {".inf", ".Inf", ".INF", NULL};
	const char *digits = text + (*text == '-' || *text == '+');
	bool any = false;
	const char *at = digits;

	if (is_one_of(text, nans)) {
		*out = NAN;
		return true;
	}
	if (is_one_of(digits, infinities)) {
		*out = *text == '-' ? -INFINITY : INFINITY;
		return true;
	}
	if (digits[0] == '0' && isdigit((unsigned char)digits[1]))
		return false;
	for (; isdigit((unsigned char)*at); at++)
		any = true;
	if (*at == '.')
		for (at++; isdigit((unsigned char)*at); at++)
			any = true;
	if (any && (*at == 'e' || *at == 'E')) {
		at += 1 + (at[1] == '-' || at[1] == '+');
		any = isdigit((unsigned char)*at);
		while (isdigit((unsigned char)*at))
			at++;
	}
	if (!any || *at != '\0')
		return false;
	*out = strtod(text, NULL);
	return true;
}

/* Pushes a plain scalar as what it looks like. False: as nothing but a text. */
static bool
push_plain(lua_State *L, const char *text)
{
	static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
	static const char *const trues[] = {"true", "True", "TRUE", NULL};
	static const char *const falses[] = {"false", "False", "FALSE", NULL};
	lua_Number number;

	if (is_one_of(text, nulls))
		lua_pushnil(L);
	else if (is_one_of(text, trues) || is_one_of(text, falses))
		lua_pushboolean(L, tolower((unsigned char)text[0]) == 't');
	else if (to_integer(text, &number) || to_real(text, &number))
		lua_pushnumber(L, number);
	else
		return false;
	return true;
}

static void
push_scalar(lua_State *L, struct reader *r)
{
	const char *text = (const char *)r->event.data.scalar.value;
	const char *tag = (const char *)r->event.data.scalar.tag;
	size_t len = r->event.data.scalar.length;
	bool plain = r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE && strlen(text) == len;
	int type;

	if (tag == NULL && plain && push_plain(L, text))
		return;
	if (tag == NULL || strcmp(tag, YAML_STR_TAG) == 0 || strcmp(tag, "!") == 0) {
		lua_pushlstring(L, text, len);
		return;
	}
	if (strlen(text) != len || !push_plain(L, text))
		lua_pushlstring(L, text, len);
	type = lua_type(L, -1);
	if ((strcmp(tag, YAML_INT_TAG) == 0 && type == LUA_TNUMBER &&
		    lua_tonumber(L, -1) == floor(lua_tonumber(L, -1))) ||
		(strcmp(tag, YAML_FLOAT_TAG) == 0 && type == LUA_TNUMBER) ||
		(strcmp(tag, YAML_BOOL_TAG) == 0 && type == LUA_TBOOLEAN) ||
		(strcmp(tag, YAML_NULL_TAG) == 0 && type == LUA_TNIL))
		return;
	fail_event(L, r, "a tag that is not known, or does not fit its value");
}

/* --- values -------------------------------------------------------------------------------------------- */

/* Pushes a copy: what an alias stands for may be changed without the rest. */
static void
push_copy(lua_State *L, struct reader *r, int idx, int depth)
{
	if (++r->nodes > NODES_MAX || depth > DEPTH_MAX)
		fail_event(L, r, "aliases stand for more than 1000000 values");
	if (!lua_istable(L, idx)) {
		lua_pushvalue(L, idx);
		return;
	}
	luaL_checkstack(L, 8, "too deep");
	lua_newtable(L);
	int copy = lua_gettop(L);
	if (lua_getmetatable(L, idx))
		lua_setmetatable(L, copy);
	for (lua_pushnil(L); lua_next(L, idx) != 0; lua_pop(L, 1)) {
		int value = lua_gettop(L);
		lua_pushvalue(L, value - 1);
		push_copy(L, r, value, depth + 1);
		lua_rawset(L, copy);
	}
}

static void push_node(lua_State *L, struct reader *r, int depth);

static void
push_sequence(lua_State *L, struct reader *r, int depth)
{
	lua_newtable(L);
	tr_json_set_array(L, -1);
	for (int i = 1;; i++) {
		next_event(L, r);
		if (r->event.type == YAML_SEQUENCE_END_EVENT)
			return;
		push_node(L, r, depth + 1);
		lua_rawseti(L, -2, i);
	}
}

static void
push_mapping(lua_State *L, struct reader *r, int depth)
{
	lua_newtable(L);
	for (;;) {
		next_event(L, r);
		if (r->event.type == YAML_MAPPING_END_EVENT)
			return;
		yaml_mark_t mark = r->event.start_mark;
		push_node(L, r, depth + 1);
		int type = lua_type(L, -1);
		if (type != LUA_TSTRING && type != LUA_TNUMBER && type != LUA_TBOOLEAN)
			fail(L, "a key must be a text, a number or a boolean", mark);
		if (type == LUA_TNUMBER && isnan(lua_tonumber(L, -1)))
			fail(L, "NaN cannot be a key", mark);
		lua_pushvalue(L, -1);
		lua_rawget(L, -3);
		if (!lua_isnil(L, -1))
			fail(L, "the key is there already", mark);
		lua_pop(L, 1);
		next_event(L, r);
		push_node(L, r, depth + 1);
		lua_rawset(L, -3);
	}
}

/* Pushes the value that begins with the event at hand. */
static void
push_node(lua_State *L, struct reader *r, int depth)
{
	const yaml_event_t *event = &r->event;
	const char *anchor = NULL, *tag = NULL;

	if (++r->nodes > NODES_MAX)
		fail_event(L, r, "more than 1000000 values");
	if (depth > DEPTH_MAX)
		fail_event(L, r, "nested deeper than 128");
	luaL_checkstack(L, 10, "too deep");
	switch (event->type) {
	case YAML_ALIAS_EVENT:
		lua_getfield(L, STACK_ANCHORS, (const char *)event->data.alias.anchor);
		if (lua_isnil(L, -1))
			fail_event(L, r, "an alias of an anchor that is not known (yet)");
		lua_rawgeti(L, -1, 1); /* in a table of its own: it may be nil */
		push_copy(L, r, lua_gettop(L), depth);
		lua_replace(L, -3);
		lua_pop(L, 1);
		return;
	case YAML_SCALAR_EVENT:
		anchor = (const char *)event->data.scalar.anchor;
		break;
	case YAML_SEQUENCE_START_EVENT:
		anchor = (const char *)event->data.sequence_start.anchor;
		tag = (const char *)event->data.sequence_start.tag;
		break;
	case YAML_MAPPING_START_EVENT:
		anchor = (const char *)event->data.mapping_start.anchor;
		tag = (const char *)event->data.mapping_start.tag;
		break;
	default:
		fail_event(L, r, "a value is expected");
	}
	if (tag != NULL && strcmp(tag, YAML_SEQ_TAG) != 0 && strcmp(tag, YAML_MAP_TAG) != 0)
		fail_event(L, r, "a tag that is not known, or does not fit its value");
	if (anchor != NULL)
		lua_pushstring(L, anchor); /* the event goes before it is needed */
	if (event->type == YAML_SCALAR_EVENT)
		push_scalar(L, r);
	else if (event->type == YAML_SEQUENCE_START_EVENT)
		push_sequence(L, r, depth);
	else
		push_mapping(L, r, depth);
	if (anchor != NULL) { /* anchor, value */
		lua_insert(L, -2);
		lua_createtable(L, 1, 0);
		lua_pushvalue(L, -3);
		lua_rawseti(L, -2, 1);
		lua_rawset(L, STACK_ANCHORS);
	}
}

/* parse(text) -> value; raises a text without a place in Lua. Stack: text, reader, anchors. */
static int
l_parse(lua_State *L)
{
	size_t len;
	const char *text = luaL_checklstring(L, 1, &len);
	struct reader *r;

	lua_settop(L, 1);
	r = lua_newuserdata(L, sizeof *r);
	memset(r, 0, sizeof *r);
	luaL_getmetatable(L, READER);
	lua_setmetatable(L, -2);
	lua_newtable(L);
	if (!yaml_parser_initialize(&r->parser))
		return luaL_error(L, "out of memory");
	r->open = true;
	yaml_parser_set_input_string(&r->parser, (const unsigned char *)text, len);
	yaml_parser_set_encoding(&r->parser, YAML_UTF8_ENCODING);
	next_event(L, r); /* start of the stream */
	next_event(L, r);
	if (r->event.type == YAML_STREAM_END_EVENT) {
		lua_pushnil(L);
		return 1;
	}
	next_event(L, r); /* behind the start of the document */
	push_node(L, r, 1);
	next_event(L, r); /* its end */
	next_event(L, r);
	if (r->event.type != YAML_STREAM_END_EVENT)
		fail_event(L, r, "a second document begins");
	return 1;
}

int
luaopen_tr_yaml(lua_State *L)
{
	static const luaL_Reg functions[] = {{"parse", l_parse}, {NULL, NULL}};

	luaL_newmetatable(L, READER);
	lua_pushcfunction(L, l_gc);
	lua_setfield(L, -2, "__gc");
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
