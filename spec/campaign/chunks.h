/* What makes a life the same each time, and short. Files of Lua are compiled once for all the states of a process: this
 * takes the place of luaL_loadfile(), so also of what `require` does. Without it half of a life is the compiling of the
 * same files, and half of Lua's allocations are its parser's. LuaJIT gets the same hash seed for each state. */
#ifndef CAMPAIGN_CHUNKS_H
#define CAMPAIGN_CHUNKS_H

#include <stdbool.h>

/* Whether each state compiles for itself again. */
void chunks_from_source(bool on);

#endif
