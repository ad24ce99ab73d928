/* The module "tr.redis". */
#ifndef TR_REDIS_LUA_H
#define TR_REDIS_LUA_H

#include <lua.h>

int luaopen_tr_redis(lua_State *L);

#endif
