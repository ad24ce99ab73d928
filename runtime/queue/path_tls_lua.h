#ifndef TR_PATH_TLS_LUA_H
#define TR_PATH_TLS_LUA_H

#include "policy/policy.h"

/* Raises if an option of TLS or AUTH in the table at idx (> 0) has a value that cannot be meant. */
void config_check_path_tls(lua_State *L, int idx);

#endif
