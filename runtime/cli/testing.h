#ifndef TR_TESTING_H
#define TR_TESTING_H

#include <lua.h>

int luaopen_tr_testing(lua_State *L);

#endif
