#ifndef TR_RUN_LUA_H
#define TR_RUN_LUA_H

#include "ingress/run.h"
#include "policy/policy.h"

/* The service, or an error naming the function when called outside pre_init and init. */
struct tr_run *tr_run_check(lua_State *L, const char *function);

/* `require 'tr.run'`: kumo.define_spool. */
int luaopen_tr_run(lua_State *L);

#endif
