/* JSON text to Lua values and back. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "policy/internal.h"

#define MAX_DEPTH 128
#define ARRAY "tr.array"

/* --- reading --------------------------------------------------------------------------------- */

struct parser {
	lua_State *L;
	const char *start, *at, *end;
	bool null_sentinel;
	struct tr_buf scratch; /* for strings with escapes */
};

static bool parse_value(struct parser *p, int depth);

static void
skip_space(struct parser *p)
{
	while (p->at < p->end && (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r'))
		p->at++;
}

static bool
literal(struct parser *p, const char *text)
{
	size_t len = strlen(text);

	if ((size_t)(p->end - p->at) < len || memcmp(p->at, text, len) != 0)
		return false;
	p->at += len;
	return true;
}

static bool
parse_string(struct parser *p)
{
	const char *from = p->at; /* the opening quote */
	bool escaped = false;

	for (p->at++; p->at < p->end && *p->at != '"'; p->at++) {
		if ((unsigned char)*p->at < 0x20)
			return false;
		if (*p->at == '\\') {
			escaped = true;
			if (++p->at == p->end)
				return false;
		}
	}
	if (p->at == p->end)
		return false;
	p->at++;
	if (!escaped) {
		lua_pushlstring(p->L, from + 1, p->at - from - 2);
		return true;
	}
	tr_buf_clear(&p->scratch);
	if (tr_json_unescape((struct tr_str){from, p->at - from}, &p->scratch) != TR_OK || p->scratch.failed) {
		p->at = from;
		return false;
	}
	lua_pushlstring(p->L, p->scratch.data ? p->scratch.data : "", p->scratch.len);
	return true;
}

static bool
digits(struct parser *p)
{
	const char *from = p->at;

	while (p->at < p->end && *p->at >= '0' && *p->at <= '9')
		p->at++;
	return p->at > from;
}

static bool
parse_number(struct parser *p)
{
	const char *from = p->at;
	char text[64];
	bool plain = true;

	if (*p->at == '-')
		p->at++;
	if (p->at < p->end && *p->at == '0')
		p->at++;
	else if (!digits(p))
		return false;
	if (p->at < p->end && *p->at == '.') {
		plain = false;
		p->at++;
		if (!digits(p))
			return false;
	}
	if (p->at < p->end && (*p->at == 'e' || *p->at == 'E')) {
		plain = false;
		p->at++;
		if (p->at < p->end && (*p->at == '+' || *p->at == '-'))
			p->at++;
		if (!digits(p))
			return false;
	}
	size_t len = p->at - from;
	if (plain && len <= 15) { /* exact in a double */
		int64_t value = 0;
		for (const char *c = from + (*from == '-'); c < p->at; c++)
			value = value * 10 + (*c - '0');
		lua_pushnumber(p->L, (lua_Number)(*from == '-' ? -value : value));
	} else if (len < sizeof text) {
		memcpy(text, from, len);
		text[len] = '\0';
		lua_pushnumber(p->L, strtod(text, NULL));
	} else {
		lua_pushlstring(p->L, from, len);
		double value = strtod(lua_tostring(p->L, -1), NULL);
		lua_pop(p->L, 1);
		lua_pushnumber(p->L, value);
	}
	return true;
}

static bool
parse_array(struct parser *p, int depth)
{
	int i = 0;

	p->at++;
	lua_newtable(p->L);
	luaL_getmetatable(p->L, ARRAY);
	lua_setmetatable(p->L, -2);
	skip_space(p);
	if (p->at < p->end && *p->at == ']') {
		p->at++;
		return true;
	}
	for (;;) {
		if (!parse_value(p, depth + 1))
			return false;
		lua_rawseti(p->L, -2, ++i);
		skip_space(p);
		if (p->at == p->end)
			return false;
		if (*p->at == ']') {
			p->at++;
			return true;
		}
		if (*p->at != ',')
			return false;
		p->at++;
	}
}

static bool
parse_object(struct parser *p, int depth)
{
	p->at++;
	lua_newtable(p->L);
	skip_space(p);
	if (p->at < p->end && *p->at == '}') {
		p->at++;
		return true;
	}
	for (;;) {
		skip_space(p);
		if (p->at == p->end || *p->at != '"' || !parse_string(p))
			return false;
		skip_space(p);
		if (p->at == p->end || *p->at != ':')
			return false;
		p->at++;
		if (!parse_value(p, depth + 1))
			return false;
		lua_rawset(p->L, -3);
		skip_space(p);
		if (p->at == p->end)
			return false;
		if (*p->at == '}') {
			p->at++;
			return true;
		}
		if (*p->at != ',')
			return false;
		p->at++;
	}
}

static bool
parse_value(struct parser *p, int depth)
{
	skip_space(p);
	if (p->at == p->end || depth > MAX_DEPTH)
		return false;
	luaL_checkstack(p->L, 6, "JSON is nested too deep");
	switch (*p->at) {
	case '{':
		return parse_object(p, depth);
	case '[':
		return parse_array(p, depth);
	case '"':
		return parse_string(p);
	case 't':
		lua_pushboolean(p->L, 1);
		return literal(p, "true");
	case 'f':
		lua_pushboolean(p->L, 0);
		return literal(p, "false");
	case 'n':
		if (p->null_sentinel)
			lua_pushlightuserdata(p->L, NULL);
		else
			lua_pushnil(p->L);
		return literal(p, "null");
	default:
		return (*p->at == '-' || (*p->at >= '0' && *p->at <= '9')) && parse_number(p);
	}
}

int
tr_json_push(lua_State *L, struct tr_str json, bool null_sentinel, size_t *error_at)
{
	struct parser p = {L, json.data, json.data, json.data + json.len, null_sentinel, {0}};
	int top = lua_gettop(L);
	bool good = parse_value(&p, 1);

	if (good) {
		skip_space(&p);
		good = p.at == p.end;
	}
	tr_buf_free(&p.scratch);
	if (good)
		return TR_OK;
	lua_settop(L, top);
	if (error_at != NULL)
		*error_at = p.at - p.start;
	return TR_EINVAL;
}

/* --- writing --------------------------------------------------------------------------------- */

struct writer {
	lua_State *L;
	struct tr_buf *out;
	bool pretty, lenient;
	const char *what;
};

static bool write_value(struct writer *w, int idx, int depth);

static void
write_number(struct tr_buf *out, double value)
{
	char text[40];

	if (!isfinite(value)) {
		tr_buf_addz(out, "null");
	} else if (value == floor(value) && fabs(value) < 9e15) {
		tr_buf_add_i64(out, (int64_t)value);
	} else {
		for (int digits_ = 15; digits_ <= 17; digits_++) { /* the fewest that read back the same */
			snprintf(text, sizeof text, "%.*g", digits_, value);
			if (strtod(text, NULL) == value)
				break;
		}
		tr_buf_addz(out, text);
	}
}

static void
new_line(struct writer *w, int depth)
{
	if (!w->pretty)
		return;
	tr_buf_addc(w->out, '\n');
	for (int i = 0; i < depth; i++)
		tr_buf_addz(w->out, "  ");
}

/* Elements of the array at idx; 0 and false: it is an object. */
static bool
is_array(lua_State *L, int idx, size_t *len)
{
	bool marked = false;

	*len = lua_objlen(L, idx);
	if (lua_getmetatable(L, idx)) {
		luaL_getmetatable(L, ARRAY);
		marked = lua_rawequal(L, -1, -2);
		lua_pop(L, 2);
	}
	if (marked)
		return true;
	if (*len == 0)
		return false;
	size_t count = 0;
	lua_pushnil(L);
	while (lua_next(L, idx)) {
		lua_pop(L, 1);
		double key = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : 0;
		if (key < 1 || key > (double)*len || key != floor(key)) {
			lua_pop(L, 1);
			return false;
		}
		count++;
	}
	return count == *len;
}

/* Adds the key at idx as a string; false: a type that JSON has no key for. */
static bool
write_key(struct writer *w, int idx)
{
	size_t len;
	const char *text;

	if (lua_type(w->L, idx) == LUA_TSTRING) {
		text = lua_tolstring(w->L, idx, &len);
		tr_json_add_string(w->out, (struct tr_str){text, len});
	} else if (lua_type(w->L, idx) == LUA_TNUMBER) { /* no lua_tolstring: it would change the key under lua_next */
		tr_buf_addc(w->out, '"');
		write_number(w->out, lua_tonumber(w->L, idx));
		tr_buf_addc(w->out, '"');
	} else if (lua_type(w->L, idx) == LUA_TBOOLEAN) {
		tr_buf_addz(w->out, lua_toboolean(w->L, idx) ? "\"true\"" : "\"false\"");
	} else if (w->lenient) {
		tr_buf_addf(w->out, "\"<%s>\"", luaL_typename(w->L, idx));
	} else {
		w->what = "a table key that is no string or number";
		return false;
	}
	tr_buf_addc(w->out, ':');
	if (w->pretty)
		tr_buf_addc(w->out, ' ');
	return true;
}

struct key {
	const char *text; /* owned by the table; NULL: not a string */
	size_t len;
	double number;
};

static int
key_order(const void *left, const void *right)
{
	const struct key *a = left, *b = right;

	if (a->text == NULL || b->text == NULL)
		return a->text != NULL ? 1 : b->text != NULL ? -1 : (a->number > b->number) - (a->number < b->number);
	int order = memcmp(a->text, b->text, a->len < b->len ? a->len : b->len);
	return order != 0 ? order : (a->len > b->len) - (a->len < b->len);
}

static bool
write_sorted(struct writer *w, int idx, int depth)
{
	lua_State *L = w->L;
	size_t count = 0, at = 0;
	bool good = true;

	for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1))
		count++;
	struct key *keys =
		lua_newuserdata(L, (count + 1) * sizeof *keys); /* the collector frees it, also after a throw */
	for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
		struct key *key = &keys[at++];
		int type = lua_type(L, -2);
		*key = (struct key){0};
		if (type == LUA_TSTRING) {
			key->text = lua_tolstring(L, -2, &key->len);
		} else if (type == LUA_TNUMBER) {
			key->number = lua_tonumber(L, -2);
		} else {
			w->what = "a table key that is no string or number";
			lua_pop(L, 3);
			return false;
		}
	}
	qsort(keys, count, sizeof *keys, key_order);
	tr_buf_addc(w->out, '{');
	for (at = 0; at < count && good; at++) {
		if (keys[at].text != NULL)
			lua_pushlstring(L, keys[at].text, keys[at].len);
		else
			lua_pushnumber(L, keys[at].number);
		lua_pushvalue(L, -1);
		lua_rawget(L, idx);
		if (at > 0)
			tr_buf_addc(w->out, ',');
		new_line(w, depth);
		good = write_key(w, lua_gettop(L) - 1) && write_value(w, lua_gettop(L), depth + 1);
		lua_pop(L, 2);
	}
	lua_pop(L, 1);
	if (count > 0)
		new_line(w, depth - 1);
	tr_buf_addc(w->out, '}');
	return good;
}

static bool
write_table(struct writer *w, int idx, int depth)
{
	lua_State *L = w->L;
	size_t len;
	bool good = true, first = true;

	if (depth > MAX_DEPTH) {
		w->what = "a table nested deeper than 128 (or in itself)";
		return false;
	}
	luaL_checkstack(L, 8, "table is nested too deep");
	if (is_array(L, idx, &len)) {
		tr_buf_addc(w->out, '[');
		for (size_t i = 1; i <= len && good; i++) {
			if (i > 1)
				tr_buf_addc(w->out, ',');
			new_line(w, depth);
			lua_rawgeti(L, idx, (int)i);
			good = write_value(w, lua_gettop(L), depth + 1);
			lua_pop(L, 1);
		}
		if (len > 0)
			new_line(w, depth - 1);
		tr_buf_addc(w->out, ']');
		return good;
	}
	if (w->pretty)
		return write_sorted(w, idx, depth);
	tr_buf_addc(w->out, '{');
	lua_pushnil(L);
	while (lua_next(L, idx)) {
		if (!first)
			tr_buf_addc(w->out, ',');
		first = false;
		if (!write_key(w, lua_gettop(L) - 1) || !write_value(w, lua_gettop(L), depth + 1)) {
			lua_pop(L, 2);
			return false;
		}
		lua_pop(L, 1);
	}
	tr_buf_addc(w->out, '}');
	return true;
}

static bool
write_value(struct writer *w, int idx, int depth)
{
	lua_State *L = w->L;
	size_t len;
	const char *text;

	switch (lua_type(L, idx)) {
	case LUA_TNIL:
		tr_buf_addz(w->out, "null");
		return true;
	case LUA_TBOOLEAN:
		tr_buf_addz(w->out, lua_toboolean(L, idx) ? "true" : "false");
		return true;
	case LUA_TNUMBER:
		write_number(w->out, lua_tonumber(L, idx));
		return true;
	case LUA_TSTRING:
		text = lua_tolstring(L, idx, &len);
		tr_json_add_string(w->out, (struct tr_str){text, len});
		return true;
	case LUA_TTABLE:
		return write_table(w, idx, depth);
	case LUA_TLIGHTUSERDATA:
		if (lua_touserdata(L, idx) == NULL) {
			tr_buf_addz(w->out, "null");
			return true;
		}
		/* fall through */
	default:
		if (w->lenient) {
			tr_buf_addf(w->out, "\"<%s>\"", luaL_typename(L, idx));
			return true;
		}
		w->what = luaL_typename(L, idx);
		return false;
	}
}

int
tr_json_write(lua_State *L, int idx, struct tr_buf *out, bool pretty, bool lenient, const char **what)
{
	struct writer w = {L, out, pretty, lenient, NULL};
	int top = lua_gettop(L);

	if (idx < 0 && idx > LUA_REGISTRYINDEX)
		idx = top + idx + 1;
	bool good = write_value(&w, idx, 1);
	lua_settop(L, top);
	if (what != NULL)
		*what = w.what;
	if (good && out->failed)
		return TR_ENOMEM;
	return good ? TR_OK : TR_EINVAL;
}

int
tr_json_from_lua(lua_State *L, int idx, struct tr_buf *out, const char **what)
{
	return tr_json_write(L, idx, out, false, false, what);
}

void
tr_json_set_array(lua_State *L, int idx)
{
	lua_pushvalue(L, idx);
	luaL_newmetatable(L, ARRAY); /* the same one if it exists */
	lua_setmetatable(L, -2);
	lua_pop(L, 1);
}
