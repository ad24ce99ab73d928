/* Shared by testing.c (start and stop), testing_time.c, testing_feed.c (what comes in), testing_kept.c (what comes
 * out), testing_eval.c (code in the policy) and testing_look.c (counts). */
#ifndef TR_TESTING_INTERNAL_H
#define TR_TESTING_INTERNAL_H

#include "base/diag.h"
#include "cli/server.h"

#define TR_TESTING_TYPE "tr.testing"

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

/* What the server and the log (any thread, under its lock) tell; `arg`: the runtime. */
void tr_testing_record_made(void *arg, const struct tr_event *event, struct tr_str json);
void tr_testing_line_logged(void *arg, enum tr_level level, const char *target, const char *text);

int tr_testing_advance(lua_State *L);
int tr_testing_step_clock(lua_State *L);
int tr_testing_take_records(lua_State *L);
int tr_testing_take_log(lua_State *L);
int tr_testing_eval(lua_State *L);
int tr_testing_receive(lua_State *L);
int tr_testing_event(lua_State *L);
int tr_testing_ledger(lua_State *L);
int tr_testing_balances(lua_State *L);
int tr_testing_figures(lua_State *L);
int tr_testing_spool(lua_State *L);
int tr_testing_tasks(lua_State *L);

#endif
