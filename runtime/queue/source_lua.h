/* Sources and pools of policy. */
#ifndef TR_QUEUE_SOURCE_LUA_H
#define TR_QUEUE_SOURCE_LUA_H

#include "policy/policy.h"
#include "queue/queue.h"

void tr_source_lua_ops(struct tr_queue_ops *ops); /* resolve_pool, resolve_source */
/* The module table of tr.queue, with its `kumo`, is on top of the stack: its functions are added. */
void tr_source_lua_register(lua_State *L);

#endif
