/* Lua values as bytes that another state can read (frozen), and the functions of the memoize cache for
 * lua/kumo/memoize.lua. */
#include "policy/internal.h"
#include "policy/memo.h"

#define MAX_DEPTH 64
#define MEMO "tr.memo"

/* One byte of kind, then: d a double, s counted bytes, { or [ (an array of the host) pairs up to an N. */
static bool
freeze(lua_State *L, int idx, struct tr_buf *out, int depth)
{
	size_t len;
	double number;
	uint64_t bits;

	switch (lua_type(L, idx)) {
	case LUA_TNIL:
		tr_buf_put_u8(out, 'N');
		return true;
	case LUA_TBOOLEAN:
		tr_buf_put_u8(out, lua_toboolean(L, idx) ? 'T' : 'F');
		return true;
	case LUA_TNUMBER:
		number = lua_tonumber(L, idx);
		memcpy(&bits, &number, sizeof bits);
		tr_buf_put_u8(out, 'd');
		tr_buf_put_u64(out, bits);
		return true;
	case LUA_TSTRING:
		tr_buf_put_u8(out, 's');
		const char *text = lua_tolstring(L, idx, &len);
		tr_buf_put_bytes(out, (struct tr_str){text, len});
		return true;
	case LUA_TTABLE:
		break;
	default:
		return false;
	}
	if (depth > MAX_DEPTH || !lua_checkstack(L, 6))
		return false;
	bool array = false;
	if (lua_getmetatable(L, idx)) {
		luaL_getmetatable(L, "tr.array");
		array = lua_rawequal(L, -1, -2);
		lua_pop(L, 2);
	}
	tr_buf_put_u8(out, array ? '[' : '{');
	lua_pushnil(L);
	while (lua_next(L, idx)) {
		int top = lua_gettop(L);
		if (!freeze(L, top - 1, out, depth + 1) || !freeze(L, top, out, depth + 1)) {
			lua_pop(L, 2);
			return false;
		}
		lua_pop(L, 1);
	}
	tr_buf_put_u8(out, 'N');
	return true;
}

/* Pushes the next value; the bytes are our own, so they are well-formed. */
static void
thaw(lua_State *L, struct tr_reader *in)
{
	uint8_t kind = tr_read_u8(in);
	struct tr_str text;
	double number;
	uint64_t bits;

	luaL_checkstack(L, 6, "cached value");
	switch (kind) {
	case 'T':
	case 'F':
		lua_pushboolean(L, kind == 'T');
		return;
	case 'd':
		bits = tr_read_u64(in);
		memcpy(&number, &bits, sizeof number);
		lua_pushnumber(L, number);
		return;
	case 's':
		text = tr_read_bytes(in);
		lua_pushlstring(L, text.data, text.len);
		return;
	case '{':
	case '[':
		lua_newtable(L);
		if (kind == '[')
			tr_json_set_array(L, lua_gettop(L));
		for (;;) {
			thaw(L, in);
			if (lua_isnil(L, -1))
				break;
			thaw(L, in);
			lua_rawset(L, -3);
		}
		lua_pop(L, 1);
		return;
	default:
		lua_pushnil(L);
	}
}

static struct tr_memo *
check_memo(lua_State *L)
{
	return *(struct tr_memo **)luaL_checkudata(L, 1, MEMO);
}

/* memo_open(name, ttl_s, capacity, with_epoch, stale) */
static int
l_open(lua_State *L)
{
	struct tr_memo_config config = {
		.ttl_ns = tr_check_duration_ns(L, 2, "kumo.memoize", "ttl"),
		.capacity = (size_t)luaL_checknumber(L, 3),
		.with_epoch = lua_toboolean(L, 4),
		.stale = lua_toboolean(L, 5),
	};
	struct tr_memo **handle = lua_newuserdata(L, sizeof(struct tr_memo *));

	*handle = NULL;
	luaL_getmetatable(L, MEMO);
	lua_setmetatable(L, -2);
	*handle = tr_memo_open(luaL_checkstring(L, 1), &config);
	return *handle != NULL ? 1 : luaL_error(L, "out of memory");
}

static int
l_gc(lua_State *L)
{
	struct tr_memo **handle = luaL_checkudata(L, 1, MEMO);

	tr_memo_unref(*handle);
	*handle = NULL;
	return 0;
}

/* memo_get(cache, key) -> "miss" | "value", value | "stale", value | "error", text */
static int
l_get(lua_State *L)
{
	static const char *const names[] = {"miss", "value", "error", "stale"};
	struct tr_memo *memo = check_memo(L);
	struct tr_str key;
	struct tr_buf bytes = {0};

	key.data = luaL_checklstring(L, 2, &key.len);
	enum tr_memo_state state = tr_memo_get(memo, key, &bytes);
	if (bytes.failed)
		state = TR_MEMO_MISS;
	lua_pushstring(L, names[state]);
	lua_pushlstring(L, bytes.data ? bytes.data : "", bytes.len); /* anchored: thaw may throw */
	tr_buf_free(&bytes);
	if (state == TR_MEMO_MISS) {
		lua_pop(L, 1);
		return 1;
	}
	size_t len;
	const char *text = lua_tolstring(L, -1, &len);
	struct tr_reader in = {text, text + len, false};
	thaw(L, &in);
	lua_remove(L, -2);
	return 2;
}

/* memo_put(cache, key, value, is_error, ttl_s or nil) -> true, or false: the value cannot be kept. */
static int
l_put(lua_State *L)
{
	struct tr_memo *memo = check_memo(L);
	struct tr_str key;
	struct tr_buf bytes = {0};
	double ttl_s = luaL_optnumber(L, 5, -1);

	key.data = luaL_checklstring(L, 2, &key.len);
	bool good = freeze(L, 3, &bytes, 1) && !bytes.failed;
	if (good)
		good = tr_memo_put(memo, key, (struct tr_str){bytes.data, bytes.len}, lua_toboolean(L, 4),
			       ttl_s < 0 ? -1 : (int64_t)(ttl_s * TR_NS_PER_S)) == TR_OK;
	tr_buf_free(&bytes);
	lua_settop(L, 5);
	lua_pushboolean(L, good);
	return 1;
}

static int
l_epoch_bump(lua_State *L)
{
	lua_pushnumber(L, (lua_Number)tr_config_epoch_bump());
	return 1;
}

bool
tr_freeze(lua_State *L, int idx, struct tr_buf *out)
{
	return freeze(L, idx, out, 1) && !out->failed;
}

void
tr_thaw(lua_State *L, struct tr_str bytes)
{
	struct tr_reader in = {bytes.data, bytes.data + bytes.len, false};

	thaw(L, &in);
}

/* Adds its functions to the table on top of the stack. */
void
tr_frozen_library(lua_State *L)
{
	static const luaL_Reg functions[] = {{"memo_open", l_open}, {"memo_get", l_get}, {"memo_put", l_put},
		{"epoch_bump", l_epoch_bump}, {NULL, NULL}};

	luaL_newmetatable(L, MEMO);
	lua_pushcfunction(L, l_gc);
	lua_setfield(L, -2, "__gc");
	lua_pop(L, 1);
	luaL_register(L, NULL, functions);
}
