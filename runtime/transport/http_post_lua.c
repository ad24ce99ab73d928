/* Posts of messages' bytes, from where they lie, for connections that send many records: part of tr.http. */
#include "transport/http_post_lua.h"

#include <string.h>

#include "base/json.h"
#include "message/message_lua.h"
#include "policy/policy.h"
#include "transport/http_poster.h"

#define POSTER_TYPE "tr.http.poster"

/* On the C heap: lua_yield() keeps only the results. */
struct post_op {
	struct tr_http_post post; /* first */
	struct tr_ticket ticket;
};

void
http_push_lossy(lua_State *L, struct tr_str text)
{
	luaL_Buffer out;
	size_t at = 0;

	if (tr_utf8_valid(text)) {
		lua_pushlstring(L, text.data, text.len);
		return;
	}
	luaL_buffinit(L, &out);
	while (at < text.len) {
		size_t len = 1;

		while (len < 4 && at + len <= text.len && !tr_utf8_valid((struct tr_str){text.data + at, len}))
			len++;
		if (at + len <= text.len && tr_utf8_valid((struct tr_str){text.data + at, len})) {
			luaL_addlstring(&out, text.data + at, len);
			at += len;
		} else {
			luaL_addlstring(&out, "\xEF\xBF\xBD", 3);
			at++;
		}
	}
	luaL_pushresult(&out);
}

/* --- posters ------------------------------------------------------------------------------------------------ */

/* The one that post_message of a client uses: its last, if URL and type are the same. */
static struct tr_http_poster *
poster_of(struct client_box *box, struct tr_str url, struct tr_str type)
{
	struct tr_http_poster *poster = box->poster;

	if (poster != NULL && tr_str_eq(poster->url, url) && tr_str_eq(poster->headers[1], type))
		return poster;
	poster = tr_http_poster_new(box->client, 1);
	if (poster == NULL)
		return NULL;
	tr_buf_add_str(&poster->text, url);
	tr_buf_addc(&poster->text, '\0');
	tr_buf_add_str(&poster->text, type);
	tr_buf_addc(&poster->text, '\0');
	tr_http_poster_show(poster, url.data);
	if (poster->text.failed) {
		tr_http_poster_unref(poster);
		return NULL;
	}
	poster->url = (struct tr_str){poster->text.data, url.len};
	poster->headers[0] = TR_STR("Content-Type");
	poster->headers[1] = (struct tr_str){poster->text.data + url.len + 1, type.len};
	poster->header_count = 1;
	tr_http_poster_ready(poster); /* needs no memory without secrets */
	tr_http_poster_unref(box->poster);
	box->poster = poster;
	return poster;
}

/* --- the life of a post ------------------------------------------------------------------------------------- */

static int
push_post_answer(lua_State *L, void *arg)
{
	struct tr_http_call *call = arg;
	struct tr_str head = {call->head.data, call->head.len}, retry_after;
	const char *reason = tr_http_reason(call->status);

	if (call->err != TR_OK)
		return http_push_answer(L, arg);
	lua_pushinteger(L, call->status);
	if (reason != NULL)
		lua_pushstring(L, reason);
	else
		lua_pushnil(L);
	http_push_lossy(L, (struct tr_str){call->content.len > 0 ? call->content.data : "", call->content.len});
	retry_after =
		call->status >= 300 && head.len > 0 ? tr_http_header(head, "retry-after") : (struct tr_str){NULL, 0};
	if (retry_after.data == NULL)
		return 3;
	lua_pushlstring(L, retry_after.data, retry_after.len);
	return 4;
}

static void
post_done(struct tr_http_call *call)
{
	struct post_op *op = tr_container_of(call, struct post_op, post.call);

	tr_task_wake(&op->ticket, push_post_answer, call, false);
	tr_http_post_end(&op->post);
}

static void
post_cancel(void *arg)
{
	struct post_op *op = arg;

	tr_http_cancel(&op->post.call);
	tr_http_post_end(&op->post);
}

/* --- body --------------------------------------------------------------------------------------------------- */

/* A JSON array of the messages of the list at idx; their line ends, which the array does not need, are left out. */
static void
join(lua_State *L, int idx, struct tr_buf *out)
{
	size_t count = lua_objlen(L, idx);

	tr_buf_clear(out);
	tr_buf_addc(out, '[');
	for (size_t i = 1; i <= count; i++) {
		const struct tr_message *message;
		struct tr_str body;

		lua_rawgeti(L, idx, (int)i);
		message = tr_message_check(L, -1, "post_messages"); /* was checked: does not raise */
		lua_pop(L, 1);
		body = tr_bytes_str(&message->body);
		while (body.len > 0 && (body.data[body.len - 1] == '\n' || body.data[body.len - 1] == '\r'))
			body.len--;
		if (i > 1)
			tr_buf_addc(out, ',');
		tr_buf_add_str(out, tr_bytes_str(&message->head));
		tr_buf_add_str(out, body);
	}
	tr_buf_addc(out, ']');
}

/* --- posting ------------------------------------------------------------------------------------------------ */

/* Posts the message, or the messages of the list, at idx. Raises, or parks. */
static int
post(lua_State *L, struct tr_http_poster *poster, int idx, bool many, const char *fn)
{
	struct tr_http *http = tr_service(L, TR_SERVICE_HTTP);
	struct tr_task *task = tr_task_check(L);
	const struct tr_message *message = NULL;
	struct tr_http_post *to;
	struct post_op *op;
	int err;

	if (many) {
		luaL_checktype(L, idx, LUA_TTABLE);
		for (size_t i = lua_objlen(L, idx); i > 0; i--) {
			lua_rawgeti(L, idx, (int)i);
			tr_message_check(L, -1, fn);
			lua_pop(L, 1);
		}
	} else {
		message = tr_message_check(L, idx, fn);
	}
	to = poster != NULL ? tr_http_post_new(poster, sizeof *op) : NULL;
	if (to == NULL)
		return luaL_error(L, "%s: out of memory", fn);
	/* nothing below raises until the request is on its way */
	if (many) {
		join(L, idx, &to->joined);
		err = to->joined.failed ? TR_ENOMEM : TR_OK;
		to->call.body = (struct tr_str){to->joined.data, to->joined.len};
	} else {
		err = tr_message_data(message, &to->bytes);
		to->call.body = tr_bytes_str(&to->bytes);
	}
	to->call.headers = poster->headers;
	to->call.header_count = poster->header_count;
	to->call.headers_id = poster->headers_id;
	if (err == TR_OK)
		err = tr_http_post_seal(to, message, many ? (uint32_t)lua_objlen(L, idx) : 1);
	if (err != TR_OK) {
		tr_http_post_end(to);
		return luaL_error(L, "%s: out of memory", fn);
	}
	to->call.method = TR_HTTP_POST;
	to->call.url = poster->url.data;
	to->call.done = post_done;
	err = tr_http_start(http, &to->call);
	if (err != TR_OK) {
		int front;
		const char *rest = tr_http_url_shown(poster->url.data, &front);
		int results = tr_push_error(L, err, "error sending request for url (%.*s%s): %s", front,
			poster->url.data, rest, tr_err_text(err));

		tr_http_post_end(to);
		return results;
	}
	tr_task_describe_text(task, "http POST ", poster->text.data + poster->shown_at);
	op = tr_container_of(to, struct post_op, post);
	return tr_task_park(task, L, post_cancel, op, &op->ticket);
}

static int
l_post_to(lua_State *L, bool many)
{
	const char *fn = many ? "post_messages" : "post_message";
	struct client_box *box = http_check_client(L, 1);
	struct tr_str url, type = TR_STR("application/json");

	url.data = luaL_checklstring(L, 2, &url.len);
	if (!lua_isnoneornil(L, 4)) {
		type.data = luaL_checklstring(L, 4, &type.len);
		if (!tr_http_header_ok(TR_STR("Content-Type"), type))
			return luaL_error(L, "%s: the content type has a control byte", fn);
	}
	if (box->client == NULL || tr_service(L, TR_SERVICE_HTTP) == NULL)
		return luaL_error(L, "%s: HTTP is not available here", fn);
	return post(L, poster_of(box, url, type), 3, many, fn);
}

/* post_message(client, url, message, content_type) -> status, reason, text, retry_after | nil, message, code */
static int
l_post_message(lua_State *L)
{
	return l_post_to(L, false);
}

/* post_messages(client, url, list, content_type): the same with a JSON array of the messages as the body */
static int
l_post_messages(lua_State *L)
{
	return l_post_to(L, true);
}

/* Copies a text behind the poster's others. The places are fixed once all are there: the buffer may move. */
static struct tr_str
copy(struct tr_http_poster *poster, struct tr_str text)
{
	struct tr_str at = {(const char *)poster->text.len, text.len}; /* an offset until then */

	tr_buf_add_str(&poster->text, text);
	tr_buf_addc(&poster->text, '\0');
	return at;
}

static struct tr_str
list_text(lua_State *L, int idx, int i)
{
	struct tr_str text;

	lua_rawgeti(L, idx, i);
	text.data = lua_tolstring(L, -1, &text.len); /* the list keeps it */
	lua_pop(L, 1);
	return text;
}

/* poster(client, {url =, headers = {name, value, ...}, identify =, secrets = {key, ...}, compression = "gzip"|"zstd"}):
 * what lua/kumo/http.lua has checked. */
static int
l_poster(lua_State *L)
{
	static const char *const compressions[] = {"none", "gzip", "zstd", NULL};
	struct client_box *box = http_check_client(L, 1);
	struct tr_http_poster **slot, *poster;
	size_t pairs, url_len;
	const char *url;

	luaL_checktype(L, 2, LUA_TTABLE);
	lua_settop(L, 2);
	if (box->client == NULL || tr_service(L, TR_SERVICE_HTTP) == NULL)
		return luaL_error(L, "poster: HTTP is not available here");
	url = tr_opt_string(L, 2, "url", "", &url_len);
	lua_getfield(L, 2, "headers");     /* 3 */
	lua_getfield(L, 2, "secrets");     /* 4 */
	lua_getfield(L, 2, "compression"); /* 5 */
	pairs = lua_objlen(L, 3) / 2;
	slot = lua_newuserdata(L, sizeof *slot);
	*slot = NULL;
	luaL_getmetatable(L, POSTER_TYPE);
	lua_setmetatable(L, -2);
	poster = *slot = tr_http_poster_new(box->client, (uint32_t)pairs);
	if (poster == NULL)
		return luaL_error(L, "poster: out of memory");
	poster->compression = (enum tr_http_compression)luaL_checkoption(L, 5, "none", compressions);
	poster->identify = tr_opt_bool(L, 2, "identify", false);
	poster->url = copy(poster, (struct tr_str){url, url_len});
	for (size_t i = 0; i < 2 * pairs; i++)
		poster->headers[i] = copy(poster, list_text(L, 3, (int)i + 1));
	poster->header_count = (uint32_t)pairs;
	for (size_t i = 0; lua_istable(L, 4) && i < lua_objlen(L, 4) && i < TR_HTTP_SECRETS_MAX; i++)
		poster->secrets[poster->secret_count++] = copy(poster, list_text(L, 4, (int)i + 1));
	tr_http_poster_show(poster, url);
	if (poster->text.failed || tr_http_poster_ready(poster) != TR_OK)
		return luaL_error(L, "poster: out of memory");
	poster->url.data = poster->text.data + (size_t)poster->url.data;
	for (size_t i = 0; i < 2 * pairs; i++)
		poster->headers[i].data = poster->text.data + (size_t)poster->headers[i].data;
	for (uint32_t i = 0; i < poster->secret_count; i++)
		poster->secrets[i].data = poster->text.data + (size_t)poster->secrets[i].data;
	return 1;
}

static int
l_poster_gc(lua_State *L)
{
	struct tr_http_poster **slot = luaL_checkudata(L, 1, POSTER_TYPE);

	tr_http_poster_unref(*slot);
	*slot = NULL;
	return 0;
}

/* post(poster, message or list) -> as post_message */
static int
l_post(lua_State *L)
{
	struct tr_http_poster **slot = luaL_checkudata(L, 1, POSTER_TYPE);

	if (*slot == NULL)
		return luaL_error(L, "post: it is closed");
	return post(L, *slot, 2, lua_istable(L, 2), "post");
}

void
http_post_register(lua_State *L)
{
	static const luaL_Reg functions[] = {{"post_message", l_post_message}, {"post_messages", l_post_messages},
		{"poster", l_poster}, {"post", l_post}, {NULL, NULL}};

	tr_type(L, POSTER_TYPE, l_poster_gc, NULL);
	luaL_register(L, NULL, functions);
}
