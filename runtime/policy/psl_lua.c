/* tr.psl: the public suffix list, as libpsl has it built in. For kumo.string. */
#include <libpsl.h>

#include "policy/library.h"
#include "policy/policy.h"

/* registrable(domain) -> its end, e.g. "example.co.uk", or nil. Lower case, ASCII or UTF-8, no dot at the end. */
static int
l_registrable(lua_State *L)
{
	lua_pushstring(L, psl_registrable_domain(psl_builtin(), luaL_checkstring(L, 1)));
	return 1;
}

/* suffix(domain) -> its end, e.g. "co.uk", or nil */
static int
l_suffix(lua_State *L)
{
	lua_pushstring(L, psl_unregistrable_domain(psl_builtin(), luaL_checkstring(L, 1)));
	return 1;
}

int
luaopen_tr_psl(lua_State *L)
{
	static const luaL_Reg functions[] = {{"registrable", l_registrable}, {"suffix", l_suffix}, {NULL, NULL}};

	if (psl_builtin() == NULL)
		return luaL_error(L, "libpsl has no list built in");
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
