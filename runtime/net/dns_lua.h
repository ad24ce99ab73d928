/* The module "tr.dns": what lua/kumo/dns.lua is made of. Needs TR_SERVICE_DNS. */
#ifndef TR_DNS_LUA_H
#define TR_DNS_LUA_H

#include "policy/policy.h"

int luaopen_tr_dns(lua_State *L);

#endif
