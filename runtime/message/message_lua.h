/* Messages and envelope addresses in Lua. A message is a handle: it becomes stale when the owner lets go
 * (tr_message_revoke), and using it then raises. One Lua state: a message is revoked before it changes workers. */
#ifndef TR_MESSAGE_LUA_H
#define TR_MESSAGE_LUA_H

#include <lauxlib.h>
#include <lua.h>

#include "message/message.h"

/* Pushes the handle of a message that somebody else owns; the same one while it lives. May raise (memory). */
void tr_message_push(lua_State *L, struct tr_message *message);
/* The message of the handle at idx. Raises, naming `function`, for other values and stale handles. */
struct tr_message *tr_message_check(lua_State *L, int idx, const char *function);
/* Takes the message out of a handle that owns it (kumo.make_message): it is the caller's then, and the handle is
 * stale. NULL when the handle only borrows its message: somebody owns it already. Raises like tr_message_check. */
struct tr_message *tr_message_take(lua_State *L, int idx, const char *function);

/* Pushes an EnvelopeAddress, a copy. Raises when memory is short. */
void tr_addr_push(lua_State *L, const struct tr_addr *addr);
/* A string or an EnvelopeAddress as text, borrowed from the value; .data NULL for anything else. Never raises. */
struct tr_str tr_addr_text(lua_State *L, int idx);

/* queue_name_lua.c: pushes the domain, the tenant or nil, the campaign or nil. */
void tr_queue_name_push(lua_State *L, const struct tr_queue_name *name);

/* A buffer of this Lua state, emptied: so that a raise leaks nothing. Valid until the next call of it. */
struct tr_buf *tr_lua_scratch(lua_State *L);

/* { kumo = {make_message}, methods = (of all messages), raw_header, decode_header } */
int luaopen_tr_message(lua_State *L);

/* header_lua.c: the part of the methods that handles headers, {NULL, NULL} at the end. */
extern const luaL_Reg tr_message_header_methods[];
/* due_lua.c: that which says when a message goes. */
extern const luaL_Reg tr_message_due_methods[];
/* The text at idx, valid UTF-8. Raises. */
struct tr_str tr_message_lua_text(lua_State *L, int idx, const char *function, const char *what);
int tr_l_raw_header(lua_State *L);    /* raw_header(msg, name) -> value with its folds, or nil */
int tr_l_decode_header(lua_State *L); /* decode_header(raw) -> text: unfolded, RFC 2047 decoded */
/* New content by the policy. A log record's JSON, which was the old body, is kept as its meta value. Raises. */
void tr_message_lua_replace(lua_State *L, struct tr_message *message, struct tr_str bytes, const char *function);
/* Text of an RFC 3339 moment or a schedule table of JSON text applied to the message, pushed as a table. Raises. */
int tr_message_lua_schedule(lua_State *L, struct tr_message *message, struct tr_str json, const char *function);

#endif
