/* The module "tr.http_server": kumo.start_http_listener, kumo.inject_message, kumo.bump_config_epoch, and what
 * lua/http_server.lua, lua/inject.lua and lua/admin.lua are made of. Needs TR_SERVICE_RUN to listen, TR_SERVICE_WORKER
 * and TR_SERVICE_ENGINE for the rest. */
#ifndef TR_HTTP_SERVER_LUA_H
#define TR_HTTP_SERVER_LUA_H

#include <lua.h>

int luaopen_tr_http_server(lua_State *L);

/* Parts of it: each adds its functions to the module table on top of the stack, and to its field `kumo`. */
void tr_receive_lua_add(lua_State *L);
void tr_admin_lua_add(lua_State *L);

#endif
