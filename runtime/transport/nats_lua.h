#ifndef TR_NATS_LUA_H
#define TR_NATS_LUA_H

#include <lua.h>

/* { open, connect }: the binding behind lua/kumo/nats.lua. */
int luaopen_tr_nats(lua_State *L);

#endif
