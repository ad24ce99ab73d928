/* The module "tr.shaping". */
#ifndef TR_THROTTLE_LUA_H
#define TR_THROTTLE_LUA_H

#include <lua.h>

int luaopen_tr_shaping(lua_State *L);

#endif
