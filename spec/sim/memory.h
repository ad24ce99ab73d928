/* Allocations that fail on demand. The linker (CMakeLists.txt, --wrap) sends the runtime's malloc(), calloc(),
 * realloc(), strdup() and the like here; Lua states but the script's have an allocator of ours. What the script itself
 * needs, other threads unless asked for, and libraries (libev could only abort) never fail. */
#ifndef SIM_MEMORY_H
#define SIM_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

enum memory_kind { MEMORY_C, MEMORY_LUA };

struct tr_host;
/* The script's host: from now on new Lua states get our allocator, and this thread's allocations count. NULL: no
 * longer. */
void memory_script_host(struct tr_host *host);

/* Those of all threads count. Of C only: states of Lua are not for this. */
void memory_watch_all(void);

/* So many allocations go well, then so many fail. Counts from 0. With MEMORY_TRACE in the environment each failure
 * prints where it was. */
void memory_arm(enum memory_kind kind, uint64_t after, uint64_t times);
uint64_t memory_disarm(enum memory_kind kind); /* allocations since memory_arm() */
void memory_calm(void);                        /* nothing fails any more, though it counts on */
bool memory_armed(void);                       /* some will still fail */
void memory_on_failure(void (*fn)(void));      /* called for each; it must not allocate */
/* Called for each allocation that counts, the nth from 0; it must not be one of many threads, nor allocate. NULL: none.
 */
void memory_on_each(void (*fn)(enum memory_kind kind, uint64_t n));
/* The reserve of a host (policy/memory.c) has nothing: LuaJIT itself gets NULL. */
void memory_without_reserve(void);
void memory_on_reserve(void (*fn)(void)); /* called for each piece that it gives; it must not allocate */
/* The state whose Lua runs in this thread, resumed by tr_task; NULL: none. */
struct lua_State *memory_lua(void);
/* Whether an allocation of this thread counts now: for those who let others fail than ours. */
bool memory_counts(void);
/* 1: what follows is the script's, and does not fail; returns what it was, to be given back afterwards. */
int memory_exempt(int level);

#endif
