/* References: values that C keeps, each in a slot of Lua's registry.
 *
 * Not luaL_ref(): it makes a slot when it needs one, and LuaJIT may put it into the hash part of the registry. When
 * that is full LuaJIT makes the array part larger and the hash part anew; if there is no memory for the latter, the
 * array is larger already, and hides what the hash part has for those indexes: references that were taken long before
 * become nil, and when the hash part is made anew later, they come back over what has taken their place.
 *
 * Here slots are made in blocks that end at a power of two. LuaJIT has moved all of a block into the array part before
 * the block is full, and only then its slots are handed out: from there on nothing moves them, and to take a reference
 * of a block, or to give one back, needs no memory. */
#include "policy/internal.h"

#define FIRST_BLOCK 1024 /* slots, 8 bytes each; a multiple of what the registry's hash part has room for */

/* Makes the next block, as large as all before it. Raises without memory; what the attempt has made until then is given
 * up, as it may come back: as many slots as the hash part had room for. */
static void
add_block(struct tr_host *host, lua_State *L)
{
	int used = (int)lua_objlen(L, LUA_REGISTRYINDEX), end = FIRST_BLOCK, first = 0;

	if (used > host->ref_last) /* others, libraries in C, have used luaL_ref() */
		host->ref_last = used;
	while (end < used + end / 4)
		end *= 2;
	while ((int)lua_objlen(L, LUA_REGISTRYINDEX) < end) {
		lua_pushinteger(L, first); /* each holds the next free one; 0: none */
		int slot = luaL_ref(L, LUA_REGISTRYINDEX);
		if (slot > host->ref_last)
			host->ref_last = first = slot;
	}
	if (first == 0)
		luaL_error(L, "not enough memory");
	host->ref_free = first;
}

int
tr_ref(lua_State *L)
{
	struct tr_host *host = tr_host_of(L);
	int slot;

	if (lua_isnil(L, -1)) {
		lua_pop(L, 1);
		return LUA_REFNIL;
	}
	if (host->ref_free == 0)
		add_block(host, L);
	slot = host->ref_free;
	lua_rawgeti(L, LUA_REGISTRYINDEX, slot);
	host->ref_free = (int)lua_tointeger(L, -1);
	lua_pop(L, 1);
	lua_rawseti(L, LUA_REGISTRYINDEX, slot);
	return slot;
}

void
tr_unref(lua_State *L, int ref)
{
	struct tr_host *host = tr_host_of(L);

	if (ref < 0)
		return;
	lua_pushinteger(L, host->ref_free);
	lua_rawseti(L, LUA_REGISTRYINDEX, ref);
	host->ref_free = ref;
}
