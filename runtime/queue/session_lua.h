/* The Lua side of a session: what lua/session.lua calls, and the part of tr_queue_ops that starts, wakes and stops
 * it. */
#ifndef TR_SESSION_LUA_H
#define TR_SESSION_LUA_H

#include "policy/policy.h"
#include "queue/queue.h"

void tr_session_lua_register(lua_State *L); /* the metatable */
int tr_session_lua_open(struct tr_host *host, struct tr_session *session);
void tr_session_lua_wake(struct tr_session *session);
/* For the log: its messages' ids; `whole`: with what it waits for and where its Lua stands. */
void tr_session_lua_describe(struct tr_session *session, bool whole, struct tr_buf *out);
void tr_session_lua_cancel(struct tr_session *session);

/* For built-in connections (SMTP): the session behind the userdata at idx, and the message in hand; raise when it is
 * over. */
struct tr_session *tr_session_lua_check(lua_State *L, int idx);
struct tr_message *tr_session_lua_hand(lua_State *L, int idx);
/* One outcome for all in hand; nothing is in hand any more. */
void tr_session_lua_report(lua_State *L, int idx, const struct tr_outcome *outcome);
/* Reports outcomes per recipient of the one message in hand; it is in hand no more. */
void tr_session_lua_report_rcpts(lua_State *L, int idx, const struct tr_outcome *outcomes);
/* tr_session_tell_rcpts() of the one message in hand; it is in hand no more. */
bool tr_session_lua_tell_rcpts(lua_State *L, int idx, const struct tr_outcome *outcomes, struct tr_telling *telling);
/* The message that was told is in hand again. */
void tr_session_lua_put(struct tr_session *session, struct tr_message *message);
/* Calls fn(arg) when the session ends, however it does (a cancelled one runs no more Lua); one per session, NULL:
 * none. */
void tr_session_lua_on_end(struct tr_session *session, void (*fn)(void *arg), void *arg);

#endif
