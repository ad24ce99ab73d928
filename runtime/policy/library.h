/* Bindings of runtime/policy for the program's list of modules: "tr.bytes" and "tr.regex". */
#ifndef TR_POLICY_LIBRARY_H
#define TR_POLICY_LIBRARY_H

#include <lua.h>

int luaopen_tr_bytes(lua_State *L); /* encodings, digests, random bytes: OpenSSL */
int luaopen_tr_regex(lua_State *L); /* PCRE2 */

#endif
