/* The module "tr.http": what lua/kumo/http.lua is made of. Needs TR_SERVICE_HTTP. */
#ifndef TR_HTTP_LUA_H
#define TR_HTTP_LUA_H

#include <lua.h>

int luaopen_tr_http(lua_State *L);

#endif
