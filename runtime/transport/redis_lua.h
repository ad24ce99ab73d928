/* The module "tr.redis": kumo.configure_redis_throttles, and the client behind the module `redis`. */
#ifndef TR_REDIS_LUA_H
#define TR_REDIS_LUA_H

#include <lua.h>

struct tr_redis_settings;

int luaopen_tr_redis(lua_State *L);

/* Between the files of the module. Settings from the table at idx, which stays as it is; raises in the name of
 * `function`. The texts of *out are the caller's: tr_redis_free_settings(). */
void tr_redis_check_settings(lua_State *L, const char *function, int idx, struct tr_redis_settings *out);
/* Adds `open` to the table on top of the stack. */
void tr_redis_add_client(lua_State *L);

#endif
