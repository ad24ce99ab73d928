/* Sources and pools of policy. */
#ifndef TR_QUEUE_SOURCE_LUA_H
#define TR_QUEUE_SOURCE_LUA_H

#include "policy/policy.h"
#include "queue/queue.h"

void tr_source_lua_ops(struct tr_queue_ops *ops); /* resolve_pool, resolve_source */
/* The module table of tr.queue, with its `kumo`, is on top of the stack: its functions are added. */
void tr_source_lua_register(lua_State *L);
/* The definition behind the object at idx (borrowed), or NULL if it is something else. */
struct tr_source_config *tr_source_config_at(lua_State *L, int idx);
struct tr_pool_config *tr_pool_config_at(lua_State *L, int idx);

#endif
