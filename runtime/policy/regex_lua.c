/* tr.regex: PCRE2 patterns on UTF-8 text. lua/kumo/regex.lua makes kumo.regex of it. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <pthread.h>

#include "base/json.h"
#include "policy/library.h"
#include "policy/policy.h"

#define REGEX "tr.regex"
#define MATCH_LIMIT 1000000 /* backtracking steps, some 10 ms: a match cannot be interrupted */

struct regex { /* a userdata */
	pcre2_code *code;
	pcre2_match_data *data;
};

static pcre2_match_context *match_context; /* made once, never changed; shared by all threads */

static int
l_compile(lua_State *L)
{
	size_t len;
	const char *pattern = luaL_checklstring(L, 1, &len);
	PCRE2_SIZE at;
	int code;

	struct regex *regex = lua_newuserdata(L, sizeof *regex);
	*regex = (struct regex){0};
	luaL_getmetatable(L, REGEX);
	lua_setmetatable(L, -2);
	regex->code = pcre2_compile(
		(PCRE2_SPTR)pattern, len, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &at, NULL);
	if (regex->code == NULL) {
		char text[256];
		pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text);
		lua_pushnil(L);
		lua_pushfstring(L, "%s at position %d of the pattern '%s'", text, (int)at + 1, pattern);
		return 2;
	}
	pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE); /* without it the match is only slower */
	regex->data = pcre2_match_data_create_from_pattern(regex->code, NULL);
	if (regex->data == NULL)
		return luaL_error(L, "out of memory");
	return 1;
}

/* exec(regex, text, from, nonempty) -> {first, last, first of group 1, last ...} with 1-based bounds (false where a
 * group did not take part), nil for no match, or nil and an error text. `nonempty`: an empty match at `from` does not
 * count. */
static int
l_exec(lua_State *L)
{
	struct regex *regex = luaL_checkudata(L, 1, REGEX);
	struct tr_str text;
	uint32_t flags = lua_toboolean(L, 4) ? PCRE2_NOTEMPTY_ATSTART : 0;

	text.data = luaL_checklstring(L, 2, &text.len);
	size_t from = (size_t)luaL_optinteger(L, 3, 1) - 1;
	if (from > text.len) {
		lua_pushnil(L);
		return 1;
	}
	if (from == 0 && !tr_utf8_valid(text)) {
		lua_pushnil(L);
		lua_pushliteral(L, "the text is not valid UTF-8");
		return 2;
	}
	int count = pcre2_match(regex->code, (PCRE2_SPTR)text.data, text.len, from, flags | PCRE2_NO_UTF_CHECK,
		regex->data, match_context);
	if (count == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter has no such bound */
		count = pcre2_match(regex->code, (PCRE2_SPTR)text.data, text.len, from,
			flags | PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, regex->data, match_context);
	if (count == PCRE2_ERROR_NOMATCH) {
		lua_pushnil(L);
		return 1;
	}
	if (count < 0) {
		char message[256];
		pcre2_get_error_message(count, (PCRE2_UCHAR *)message, sizeof message);
		lua_pushnil(L);
		lua_pushstring(L, message);
		return 2;
	}
	const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(regex->data);
	uint32_t groups = pcre2_get_ovector_count(regex->data);
	lua_createtable(L, (int)groups * 2, 0);
	for (uint32_t i = 0; i < groups; i++) {
		if ((int)i < count && bounds[2 * i] != PCRE2_UNSET) {
			lua_pushinteger(L, (lua_Integer)bounds[2 * i] + 1);
			lua_rawseti(L, -2, (int)i * 2 + 1);
			lua_pushinteger(L, (lua_Integer)bounds[2 * i + 1]);
		} else {
			lua_pushboolean(L, 0);
			lua_rawseti(L, -2, (int)i * 2 + 1);
			lua_pushboolean(L, 0);
		}
		lua_rawseti(L, -2, (int)i * 2 + 2);
	}
	return 1;
}

/* names(regex) -> {name = number of the group} */
static int
l_names(lua_State *L)
{
	struct regex *regex = luaL_checkudata(L, 1, REGEX);
	uint32_t count = 0, size = 0;
	PCRE2_SPTR table = NULL;

	pcre2_pattern_info(regex->code, PCRE2_INFO_NAMECOUNT, &count);
	pcre2_pattern_info(regex->code, PCRE2_INFO_NAMEENTRYSIZE, &size);
	pcre2_pattern_info(regex->code, PCRE2_INFO_NAMETABLE, &table);
	lua_newtable(L);
	for (uint32_t i = 0; i < count; i++, table += size) {
		lua_pushinteger(L, table[0] << 8 | table[1]);
		lua_setfield(L, -2, (const char *)table + 2);
	}
	return 1;
}

static int
l_gc(lua_State *L)
{
	struct regex *regex = luaL_checkudata(L, 1, REGEX);

	pcre2_match_data_free(regex->data);
	pcre2_code_free(regex->code);
	*regex = (struct regex){0};
	return 0;
}

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void
make_context(void)
{
	match_context = pcre2_match_context_create(NULL);
	if (match_context != NULL)
		pcre2_set_match_limit(match_context, MATCH_LIMIT);
}

int
luaopen_tr_regex(lua_State *L)
{
	static const luaL_Reg functions[] = {
		{"compile", l_compile}, {"exec", l_exec}, {"names", l_names}, {NULL, NULL}};

	pthread_once(&once, make_context);
	if (match_context == NULL)
		return luaL_error(L, "out of memory");
	luaL_newmetatable(L, REGEX);
	lua_pushcfunction(L, l_gc);
	lua_setfield(L, -2, "__gc");
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
