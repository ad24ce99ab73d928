/* What the cases of a sweep share with the process that watches them, and the Lua module `tr.campaign`. Of allocations
 * that fail see spec/sim/memory.h. */
#ifndef CAMPAIGN_FAULTS_H
#define CAMPAIGN_FAULTS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <lua.h>

#define CAMPAIGN_JOBS_MAX 64

struct campaign_seat {         /* of one job */
	_Atomic uint64_t next; /* the case under way is the one before */
	_Atomic bool done;     /* the process under way has run all its cases */
	char what[400];        /* the case under way, for the one that watches */
};

/* In memory that the processes which run the cases share with those that watch them. */
struct campaign_board {
	_Atomic uint64_t total;  /* cases of the sweep; UINT64_MAX: not counted yet */
	_Atomic uint64_t taken;  /* the cases before have a process that runs them, or has */
	_Atomic uint64_t cases;  /* that were run */
	_Atomic uint64_t faults; /* that were injected */
	_Atomic uint64_t served; /* by the reserve of Lua's memory: see policy/memory.c */
	_Atomic uint64_t wrong;  /* cases in which something was not as promised */
	struct campaign_seat seats[CAMPAIGN_JOBS_MAX];
};

extern struct campaign_board *campaign_board;
extern struct campaign_seat *campaign_seat; /* this process's */
int luaopen_tr_campaign(lua_State *L);

#endif
