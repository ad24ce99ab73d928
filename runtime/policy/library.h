/* Bindings of runtime/policy for the list of modules in runtime/cli/modules.c. */
#ifndef TR_POLICY_LIBRARY_H
#define TR_POLICY_LIBRARY_H

#include <lua.h>

int luaopen_tr_bytes(lua_State *L); /* encodings, digests, random bytes: OpenSSL */
int luaopen_tr_channel(lua_State *L);
int luaopen_tr_sqlite(lua_State *L);
int luaopen_tr_psl(lua_State *L);
int luaopen_tr_dkim(lua_State *L);
int luaopen_tr_series(lua_State *L);
int luaopen_tr_fs(lua_State *L);    /* files, on threads */
int luaopen_tr_regex(lua_State *L); /* PCRE2 */
int luaopen_tr_toml(lua_State *L);  /* TOML, and the lines of TOML and JSON */
int luaopen_tr_yaml(lua_State *L);  /* libyaml */

#endif
