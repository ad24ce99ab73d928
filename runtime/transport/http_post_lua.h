/* Shared by http_lua.c (clients, requests) and http_post_lua.c (posts of messages' bytes). */
#ifndef TR_HTTP_POST_LUA_H
#define TR_HTTP_POST_LUA_H

#include <lua.h>

#include "base/buf.h"

struct tr_http_client;
struct tr_http_poster;

struct client_box {
	struct tr_http_client *client; /* NULL: collected */
	struct tr_http_poster *poster; /* of its last post_message; NULL: none */
};
struct client_box *http_check_client(lua_State *L, int idx); /* raises */
/* Pushes the text with every byte that is no valid UTF-8 replaced by U+FFFD. */
void http_push_lossy(lua_State *L, struct tr_str text);
/* Of a struct tr_http_call: status, head, content; or nil, message, code. */
int http_push_answer(lua_State *L, void *arg);
/* Adds post_message, post_messages, poster and post to the table on top. */
void http_post_register(lua_State *L);

#endif
