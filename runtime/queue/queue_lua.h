/* Policy's side of the queues: the events that configure and steer them. */
#ifndef TR_QUEUE_LUA_H
#define TR_QUEUE_LUA_H

#include "policy/policy.h"
#include "queue/queue.h"

/* Fills everything of ops that policy answers (all but emit and decide, which are the recorder's). The worker's data
 * (tr_worker_set_data) must be its struct tr_host. */
void tr_queue_lua_ops(struct tr_queue_ops *ops);
int luaopen_tr_queue(lua_State *L);   /* functions of kumo */
int luaopen_tr_session(lua_State *L); /* internals of lua/session.lua */

#endif
