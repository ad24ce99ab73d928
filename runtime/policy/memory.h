/* What a host's Lua gets of memory: see memory.c. Part of struct tr_host, and of the thread that runs it. */
#ifndef TR_POLICY_MEMORY_H
#define TR_POLICY_MEMORY_H

#include <lua.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TR_MEMORY_RESERVES 4 /* the one that gives, and older ones of which something is still in use */

struct tr_host;
struct tr_metric;
struct tr_reserve;

struct tr_memory {
	lua_Alloc alloc; /* LuaJIT's own */
	void *alloc_arg;
	_Atomic size_t used; /* bytes that Lua has; others may read it */
	size_t slow_at;      /* more than that in use: look closer. 0 while something is in a reserve */
	size_t limit;        /* bytes; 0: none */
	size_t mark;         /* more than that in use: collect, and raise if the limit is passed. SIZE_MAX: no limit */
	const char *remedy;  /* added to that error; borrowed; NULL: none */
	struct tr_reserve *reserve[TR_MEMORY_RESERVES]; /* the newest first */
	size_t short_at;                                /* as much of the reserve in use: raise (again) */
	size_t wanted;                                  /* > 0: what grows in one piece will not find this much */
	unsigned alarm;                                 /* enum tr_memory_alarm: the hook has to look */
	bool refused;                                   /* something over four times the limit; to be told */
	bool raised;                                    /* since the last task ended */
	uint64_t raised_in;                             /* stretch, and how often in it */
	int times;
	int64_t told_at_ns;                                 /* monotonic; 0: never */
	_Atomic uint64_t interrupts;                        /* errors that were raised for want of memory */
	struct tr_metric *bytes_metric, *interrupts_metric; /* NULL: not measured */
};

enum tr_memory_alarm { TR_MEMORY_OVER = 1, TR_MEMORY_SHORT = 2, TR_MEMORY_AGAIN = 4 };

/* Takes over the state's allocator; limit 0: none. False: no memory for the reserve. */
bool tr_memory_init(struct tr_host *host, size_t limit, const char *remedy);
/* While the state ends, before LuaJIT frees its own arena. Puts its allocator back, unless some of it is in a reserve.
 */
void tr_memory_release(struct tr_host *host, lua_State *L);
void tr_memory_fini(struct tr_host *host);    /* after lua_close() */
void tr_memory_measure(struct tr_host *host); /* until tr_memory_fini(): the metrics tell of it */
/* For the hook: collects, and returns 0 if there is memory now; else OVER or SHORT, which it must raise, with AGAIN
 * where nothing may catch it. */
unsigned tr_memory_look(struct tr_host *host, lua_State *L);
/* After a task in which that was raised has ended: takes back what it has let go of. */
void tr_memory_relieve(struct tr_host *host);

#endif
