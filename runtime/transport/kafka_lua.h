#ifndef TR_KAFKA_LUA_H
#define TR_KAFKA_LUA_H

#include <lua.h>

/* { open }: the binding behind lua/kumo/kafka.lua. */
int luaopen_tr_kafka(lua_State *L);

#endif
