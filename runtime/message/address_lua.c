/* EnvelopeAddress: user, domain, email, tostring. Contract/message.md section 5. */
#include "message/message_lua.h"
#include "policy/policy.h"

#define ADDRESS "tr.address"

static char scratch_key; /* its address is the registry key */

static int
scratch_gc(lua_State *L)
{
	tr_buf_free(lua_touserdata(L, 1));
	return 0;
}

struct tr_buf *
tr_lua_scratch(lua_State *L)
{
	struct tr_buf *buf;

	lua_pushlightuserdata(L, &scratch_key);
	lua_rawget(L, LUA_REGISTRYINDEX);
	buf = lua_touserdata(L, -1);
	lua_pop(L, 1);
	if (buf == NULL) {
		lua_pushlightuserdata(L, &scratch_key);
		buf = lua_newuserdata(L, sizeof *buf);
		*buf = (struct tr_buf){0};
		lua_createtable(L, 0, 1);
		lua_pushcfunction(L, scratch_gc);
		lua_setfield(L, -2, "__gc");
		lua_setmetatable(L, -2);
		lua_rawset(L, LUA_REGISTRYINDEX);
	}
	if (buf->failed || buf->cap > 256 * 1024) /* one big message must not keep its size for ever */
		tr_buf_free(buf);
	buf->failed = false;
	tr_buf_clear(buf);
	return buf;
}

struct tr_str
tr_addr_text(lua_State *L, int idx)
{
	const struct tr_addr *addr;
	struct tr_str text = {NULL, 0};

	if (lua_type(L, idx) == LUA_TSTRING) {
		text.data = lua_tolstring(L, idx, &text.len);
	} else if ((addr = luaL_testudata(L, idx, ADDRESS)) != NULL) {
		text = tr_addr_str(addr);
		if (text.data == NULL)
			text.data = "";
	}
	return text;
}

static int
l_index(lua_State *L)
{
	const struct tr_addr *addr = luaL_checkudata(L, 1, ADDRESS);
	const char *key = luaL_checkstring(L, 2);
	struct tr_str part;

	if (strcmp(key, "email") == 0) {
		part = tr_addr_str(addr);
	} else if (strcmp(key, "domain") == 0) {
		part = tr_addr_domain(addr);
	} else if (strcmp(key, "user") == 0) {
		struct tr_buf *user = tr_lua_scratch(L);

		tr_addr_user(addr, user);
		if (user->failed)
			return luaL_error(L, "EnvelopeAddress.user: out of memory");
		part = (struct tr_str){user->data, user->len};
	} else {
		return luaL_error(L, "EnvelopeAddress has no field '%s', expected one of user, domain, email", key);
	}
	lua_pushlstring(L, part.len > 0 ? part.data : "", part.len);
	return 1;
}

static int
l_tostring(lua_State *L)
{
	const struct tr_addr *addr = luaL_checkudata(L, 1, ADDRESS);

	lua_pushlstring(L, addr->len > 0 ? addr->email : "", addr->len);
	return 1;
}

static int
l_gc(lua_State *L)
{
	tr_addr_fini(luaL_checkudata(L, 1, ADDRESS));
	return 0;
}

void
tr_addr_push(lua_State *L, const struct tr_addr *addr)
{
	static const luaL_Reg meta[] = {{"__index", l_index}, {"__tostring", l_tostring}, {"__gc", l_gc}, {NULL, NULL}};
	struct tr_addr *copy = lua_newuserdata(L, sizeof *copy);

	*copy = (struct tr_addr){0};
	tr_metatable(L, ADDRESS, meta, NULL);
	lua_setmetatable(L, -2);
	if (tr_addr_copy(addr, copy) != TR_OK)
		luaL_error(L, "EnvelopeAddress: out of memory");
}
