/* Shared by testing.c (life, time, code), testing_feed.c (what comes in) and testing_look.c. */
#ifndef TR_TESTING_INTERNAL_H
#define TR_TESTING_INTERNAL_H

#include "base/diag.h"
#include "cli/server.h"

struct tr_testing {
	struct tr_server *server; /* NULL: stopped, or not started yet */
	struct tr_loop *loop;
	struct tr_buf records; /* a line each, not yet taken */
	struct tr_buf log;
	enum tr_level log_level; /* kept from here on */
	bool echo;               /* $TAILRACE_LOG: lines are printed, too */
	bool was_virtual;        /* the clock, at the start: it stays so, and the loop's order, too */
	bool stopping;
	char *temporary; /* directory that goes with it; NULL: none */
};

/* The runtime at index 1; raises if it has been stopped. */
struct tr_testing *tr_testing_check(lua_State *L);
int tr_testing_receive(lua_State *L);
int tr_testing_event(lua_State *L);
int tr_testing_ledger(lua_State *L);
int tr_testing_balances(lua_State *L);
int tr_testing_figures(lua_State *L);
int tr_testing_spool(lua_State *L);
int tr_testing_tasks(lua_State *L);

#endif
