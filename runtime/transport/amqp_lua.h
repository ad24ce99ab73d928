#ifndef TR_AMQP_LUA_H
#define TR_AMQP_LUA_H

#include <lua.h>

/* { publish }: the binding behind lua/kumo/amqp.lua. */
int luaopen_tr_amqp(lua_State *L);

#endif
