/* Part of tr.amqp: what the table of a connection says. */
#ifndef TR_AMQP_SETTINGS_LUA_H
#define TR_AMQP_SETTINGS_LUA_H

#include <lua.h>

#include "transport/amqp.h"

#define PUBLISH "kumo.amqp.basic_publish" /* the name in errors, whoever calls */

/* What the table at idx says, borrowed from it. Raises. */
void amqp_read_settings(lua_State *L, int idx, struct tr_amqp_settings *out);

#endif
