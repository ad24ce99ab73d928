#ifndef TR_TESTING_H
#define TR_TESTING_H

#include <lua.h>

#include "queue/queue.h"

int luaopen_tr_testing(lua_State *L);
/* testing_look.c: pushes a table of them by name. */
void tr_push_figures(lua_State *L, const struct tr_queue_figures *figures);

#endif
