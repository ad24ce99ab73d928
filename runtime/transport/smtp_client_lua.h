/* The module "tr.smtp_client": the connection object that lua/smtp_client.lua gives to the session loop. Needs
 * TR_SERVICE_DNS. */
#ifndef TR_SMTP_CLIENT_LUA_H
#define TR_SMTP_CLIENT_LUA_H

#include <lua.h>

int luaopen_tr_smtp_client(lua_State *L);

#endif
