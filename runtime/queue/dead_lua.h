#ifndef TR_DEAD_LUA_H
#define TR_DEAD_LUA_H

#include <lua.h>

/* { run }: the binding behind lua/dead.lua. */
int luaopen_tr_dead(lua_State *L);

#endif
