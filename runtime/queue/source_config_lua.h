/* The objects of kumo.make_egress_source and kumo.make_egress_pool. */
#ifndef TR_QUEUE_SOURCE_CONFIG_LUA_H
#define TR_QUEUE_SOURCE_CONFIG_LUA_H

#include "policy/policy.h"
#include "queue/queue.h"

/* The definition behind the object at idx (borrowed), or NULL if it is something else. */
struct tr_source_config *source_config_at(lua_State *L, int idx);
struct tr_pool_config *pool_config_at(lua_State *L, int idx);
/* Pushes a table with what the definition says. */
void source_push_view(lua_State *L, const struct tr_source_config *config);
void pool_push_view(lua_State *L, const struct tr_pool_config *config);
/* Their types, and the makers for the field `kumo` of the table on top of the stack. */
void source_config_register(lua_State *L);

#endif
