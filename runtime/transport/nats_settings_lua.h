/* Part of tr.nats: what a client's configuration says. */
#ifndef TR_NATS_SETTINGS_LUA_H
#define TR_NATS_SETTINGS_LUA_H

#include <lua.h>

#include "transport/nats.h"

#define CONNECT "kumo.nats.connect" /* the name in errors */

/* The configuration at 1, and what its key sources hold at 2, into settings that borrow from them. Raises. */
void nats_read_settings(lua_State *L, struct tr_nats_settings *out);

#endif
