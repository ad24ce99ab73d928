/* `require 'tr.sim_memory'`. */
#ifndef SIM_MEMORY_LUA_H
#define SIM_MEMORY_LUA_H

#include "policy/policy.h"

void sim_memory_host(struct tr_host *host); /* the script's; NULL: it ends */
int luaopen_tr_sim_memory(lua_State *L);

#endif
