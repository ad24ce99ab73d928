#ifndef TR_NET_SCRIPTED_LUA_H
#define TR_NET_SCRIPTED_LUA_H

#include <lua.h>

int luaopen_tr_scripted(lua_State *L);

#endif
