/* What the makers of configuration objects share (config_lua.c): an object is a userdata with, in its environment
 * table, the readable view of it and what was given. All run under a Lua call and raise, naming `function`. */
#ifndef TR_CONFIG_VIEW_LUA_H
#define TR_CONFIG_VIEW_LUA_H

#include "queue/config_lua.h"
#include "shaping/spec.h"

#define QUEUE_TYPE "tr.queue_config"
#define PATH_TYPE "tr.path_config"

enum { ENV_VIEW = 1, ENV_GIVEN };
struct config_box {
	void *config;
};
void config_register_type(lua_State *L, const char *type, lua_CFunction gc); /* the metatable: a read-only view */
struct config_box *config_new_box(lua_State *L, const char *type);           /* pushed; config NULL */

/* Once a process and option: it is not acted on, as `effect` says; NULL: no warning. */
void config_warn_once(const char *function, const char *key, const char *effect);
/* One of `names` (NULL-terminated); raises with the list otherwise. Returns its index, or def when the key is
 * absent. */
int config_opt_enum(lua_State *L, int idx, const char *function, const char *key, const char *const *names, int def);
/* False: the key is absent. `what` names the value in errors; the value is on top of the stack and is popped. */
bool config_opt_rate(lua_State *L, int idx, const char *function, const char *key, struct tr_rate_spec *out);
bool config_read_rate(lua_State *L, const char *function, const char *what, struct tr_rate_spec *out);
bool config_read_limit(lua_State *L, const char *function, const char *what, struct tr_limit_spec *out);

/* The view: what was given, durations as text. Pushed. */
void config_push_view(lua_State *L, int idx, const struct tr_key *keys, size_t count, size_t stride);
/* What was not given, in the view on top of the stack. */
void config_default_duration(lua_State *L, const char *key, int64_t ns);
void config_default_text(lua_State *L, const char *key, const char *text);
void config_default_number(lua_State *L, const char *key, uint32_t value);
void config_default_bool(lua_State *L, const char *key, bool value);
bool config_view_lacks(lua_State *L, const char *key);
/* The view on the stack becomes part of the environment of the box at 2; options are at 1. */
void config_set_environment(lua_State *L, const struct tr_key *keys, size_t count, size_t stride);

#endif
