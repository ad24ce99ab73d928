/* Shared by session_lua.c (the session's life), session_wait_lua.c (what it waits for) and session_outcome_lua.c (what
 * becomes of its messages). */
#ifndef TR_SESSION_HAND_LUA_H
#define TR_SESSION_HAND_LUA_H

#include "queue/session_lua.h"

struct tr_aside {
	struct tr_aside *next;
	struct tr_message *list;
	uint32_t count;
};

/* What one session has in hand, and what its task waits for. */
struct tr_hand {
	struct tr_session *session; /* NULL: ended */
	struct tr_host *host;
	struct tr_message *list, **list_end; /* in hand */
	uint32_t count;
	struct tr_aside *aside;  /* parts of a batch that wait while others are tried; the last put away is the first */
	struct tr_task *task;    /* while it waits or runs */
	struct tr_ticket ticket; /* of the wait in take/wait/settle */
	bool waiting;            /* parked in wait, settle, pace or extend */
	bool asks;               /* in the last two: it asks again, so it is told nothing */
	struct tr_timer timeout; /* of that wait */
	struct tr_timer watchdog;  /* of the phase */
	bool aborted;              /* by the watchdog */
	struct tr_defer waker;     /* wakes from inside queue code are put off */
	void (*on_end)(void *arg); /* of a built-in connection; NULL: none */
	void *on_end_arg;
};

struct tr_hand *tr_hand_check(lua_State *L, int idx); /* of the session at idx; raises when it is over */
/* All in hand as a list, which is the caller's; nothing is in hand any more. */
struct tr_message *tr_hand_let_go(struct tr_hand *hand);
/* Gives back what is in hand: not tried, attempts stay. */
void tr_hand_give_back(struct tr_hand *hand, const char *reason);
/* The last part that was put away is in hand again, behind what is; false: there is none. */
bool tr_hand_resume(struct tr_hand *hand);
/* Indices of the names of phases. */
enum {
	TR_PHASE_IDLE = 1,
	TR_PHASE_ACCUMULATING = 2,
	TR_PHASE_DELIVERING = 4,
	TR_PHASE_THROTTLED = 6
};                                                       /* indices into phases */
void tr_hand_set_phase(struct tr_hand *hand, int phase); /* the watchdog counts from here */
extern const luaL_Reg tr_session_wait_methods[];         /* {NULL, NULL} at the end */
extern const luaL_Reg tr_session_outcome_methods[];      /* {NULL, NULL} at the end */

#endif
