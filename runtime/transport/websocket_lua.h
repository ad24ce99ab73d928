/* The module "tr.websocket": what kumo.http.connect_websocket is made of. */
#ifndef TR_WEBSOCKET_LUA_H
#define TR_WEBSOCKET_LUA_H

#include <lua.h>

int luaopen_tr_websocket(lua_State *L);

#endif
