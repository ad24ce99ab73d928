/* The objects of kumo.make_queue_config and kumo.make_egress_path, for the bindings of this room. */
#ifndef TR_QUEUE_CONFIG_LUA_H
#define TR_QUEUE_CONFIG_LUA_H

#include "policy/policy.h"
#include "queue/config.h"

int l_make_queue_config(lua_State *L);
int l_make_egress_path(lua_State *L);
int l_config_kind(lua_State *L);             /* config_kind(value) -> "queue", "path" or nil */
void tr_queue_config_register(lua_State *L); /* the metatables */
/* The configuration behind the object at idx (borrowed), or NULL if it is something else. */
struct tr_queue_config *tr_queue_config_at(lua_State *L, int idx);
struct tr_path_config *tr_path_config_at(lua_State *L, int idx);
/* The path at idx with what its maker did not set taken from the log_hook class: a new configuration; NULL: no
 * memory. */
struct tr_path_config *tr_path_config_for_hook(lua_State *L, int idx);

/* Shared by the readers of options; they raise, naming `function`. */
char *config_copy_string(lua_State *L, int idx, const char *key); /* malloc'ed; NULL: not given */
uint32_t config_opt_u32(lua_State *L, int idx, const char *function, const char *key, uint32_t def, uint32_t min);
/* Reads `protocol` of the options at idx (protocol_lua.c). */
void config_read_protocol(lua_State *L, int idx, struct tr_queue_config *config);

#endif
