/* Shared by smtp_client_lua.c (a connection's life and waits) and smtp_outcome_lua.c (what became of a message). */
#ifndef TR_SMTP_CONN_LUA_H
#define TR_SMTP_CONN_LUA_H

#include "policy/policy.h"
#include "queue/session_lua.h"
#include "transport/smtp_plan.h"

#define CONN_TYPE "tr.smtp.connection"

/* On the C heap: it outlives the userdata while a task is parked on it. */
struct conn {
	struct tr_smtpc *smtp;     /* NULL: where to connect to is not known yet */
	struct tr_smtp_plan *plan; /* under way */
	struct tr_host *host;
	struct tr_session *session;      /* that has it; NULL: it has ended */
	struct tr_source_config *source; /* referenced; NULL: `unspecified` */
	struct tr_ticket ticket;         /* of the operation under way */
	bool busy;                       /* an operation is under way, and holds the connection */
	bool orphan;                     /* the userdata is gone */
	uint32_t rcpt_count;             /* of the message that was sent last; 0: no results to report */
	enum tr_smtp_plan_kind verdict;  /* why there is nothing to connect to; TR_PLAN_READY: there is */
	struct tr_buf text;              /* of the verdict */
	char *domain;                    /* whose MX are looked up */
	struct tr_smtpc_host *hosts;     /* of the mx_list, for the plan */
	struct tr_telling telling;       /* of tell() */
	struct tr_defer told;            /* it has ended */
	bool told_ok;                    /* and the message is in hand again */
};

struct box {
	struct conn *conn; /* NULL: closed */
};

struct conn *smtp_conn_check(lua_State *L); /* of the userdata at 1; raises when it is closed */
/* Parks the task on an operation that is under way. */
int smtp_conn_park(lua_State *L, struct conn *conn, struct tr_task *task);
void smtp_conn_cancelled(void *conn);
/* The operation has ended; push gets what smtp_conn_push_ok() gets. Runs Lua: its last act. */
void smtp_conn_wake(struct conn *conn, int (*push)(lua_State *L, void *arg), int status);
int smtp_conn_push_ok(lua_State *L, void *arg); /* whether the status was TR_OK */
void smtp_conn_connected(void *conn, int status);
extern const luaL_Reg smtp_outcome_methods[]; /* {NULL, NULL} at the end */

#endif
