#include "transport/http_lua.h"

#include <curl/curl.h>
#include <math.h>
#include <stdlib.h>

#include "base/diag.h"
#include "base/json.h"
#include "base/options.h"
#include "message/message_lua.h"
#include "policy/policy.h"
#include "transport/http.h"
#include "transport/http_post_lua.h"
#include "transport/http_poster.h"

#define CLIENT_TYPE "tr.http.client"
#define DEFAULT_TIMEOUT_NS (60 * TR_NS_PER_S)
#define DEFAULT_IDLE_NS (90 * TR_NS_PER_S)
#define DEFAULT_RESPONSE_BYTES (8 * 1024 * 1024)

/* One request on its way. On the C heap: LuaJIT's lua_yield() keeps only the results. */
struct perform_op {
	struct tr_http_call call;
	struct tr_ticket ticket;
	lua_State *main;
	struct tr_bytes bytes;   /* body of a message, shared; empty: the body is a string of the table */
	int anchor;              /* registry reference of the request table, which holds URL, headers and body */
	struct tr_str headers[]; /* name, value ...: point into strings of the anchored table */
};

struct client_box *
http_check_client(lua_State *L, int idx)
{
	return luaL_checkudata(L, idx, CLIENT_TYPE);
}

static int
l_client_gc(lua_State *L)
{
	struct client_box *box = http_check_client(L, 1);

	tr_http_client_unref(box->client);
	box->client = NULL;
	tr_http_poster_unref(box->poster);
	box->poster = NULL;
	return 0;
}

/* The reference ignores unknown keys here; a slip in a name should be seen all the same. */
static void
warn_unknown(lua_State *L, int idx)
{
	static const char *const names[] = {"user_agent", "timeout", "pool_idle_timeout", "connection_verbose",
		"accept_invalid_certs", "redirects", "max_response_bytes", "truncate_response",
		"deny_private_addresses", "allow_addresses", NULL};

	lua_pushnil(L);
	while (lua_next(L, idx) != 0) {
		const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;
		bool known = false;

		for (size_t i = 0; names[i] != NULL && key != NULL && !known; i++)
			known = strcmp(names[i], key) == 0;
		if (!known) {
			const char *nearest = key != NULL ? tr_nearest(key, names) : NULL;

			tr_log(TR_LEVEL_WARN, "lua", "kumo.http.build_client: unknown field '%s' is ignored%s%s%s",
				key != NULL ? key : luaL_typename(L, -2), nearest != NULL ? " (did you mean '" : "",
				nearest != NULL ? nearest : "", nearest != NULL ? "'?)" : "");
		}
		lua_pop(L, 1);
	}
}

/* The list is a userdata on the stack's top: collected when the call is over. */
static void
read_guard(lua_State *L, int idx, const char *fn, struct tr_guard *guard)
{
	static const char key[] = "allow_addresses";
	struct tr_cidr *list;
	uint32_t count;
	char hint[64];

	guard->deny_private = tr_opt_bool(L, idx, "deny_private_addresses", false);
	lua_getfield(L, idx, key);
	if (lua_isnil(L, -1))
		return;
	if (!lua_istable(L, -1))
		luaL_error(L, "%s: %s: list expected, got %s", fn, key, luaL_typename(L, -1));
	if (!guard->deny_private)
		luaL_error(L, "%s: %s has no effect without deny_private_addresses", fn, key);
	count = (uint32_t)lua_objlen(L, -1);
	list = lua_newuserdata(L, (count > 0 ? count : 1) * sizeof *list);
	for (uint32_t i = 0; i < count; i++) {
		struct tr_str text = {NULL, 0};

		lua_rawgeti(L, -2, (int)i + 1);
		if (lua_type(L, -1) == LUA_TSTRING)
			text.data = lua_tolstring(L, -1, &text.len);
		if (text.data == NULL || tr_cidr_parse(text, &list[i], hint) != TR_OK)
			luaL_error(L, "%s: %s[%d]: an address or a block such as '10.0.0.0/8' expected, got %s%s%s", fn,
				key, (int)i + 1, text.data != NULL ? text.data : luaL_typename(L, -1),
				text.data != NULL && hint[0] != '\0' ? "; did you mean " : "",
				text.data != NULL ? hint : "");
		lua_pop(L, 1);
	}
	guard->allow = list;
	guard->allow_count = count;
}

static int
l_client(lua_State *L)
{
	static const char fn[] = "kumo.http.build_client";
	struct tr_http *http = tr_service(L, TR_SERVICE_HTTP);
	struct tr_http_settings settings = {0};
	struct client_box *box;
	int64_t bytes;
	int err;

	luaL_checktype(L, 1, LUA_TTABLE);
	if (http == NULL)
		return luaL_error(L, "%s: HTTP is not available here", fn);
	warn_unknown(L, 1);
	settings.user_agent = tr_opt_string(L, 1, "user_agent", NULL, NULL);
	settings.timeout_ns = tr_opt_duration_ns(L, 1, fn, "timeout", DEFAULT_TIMEOUT_NS);
	settings.idle_ns = tr_opt_duration_ns(L, 1, fn, "pool_idle_timeout", DEFAULT_IDLE_NS);
	settings.verbose = tr_opt_bool(L, 1, "connection_verbose", false);
	settings.accept_invalid_certs = tr_opt_bool(L, 1, "accept_invalid_certs", false);
	settings.redirects = tr_opt_bool(L, 1, "redirects", true);
	bytes = tr_opt_int(L, 1, "max_response_bytes", DEFAULT_RESPONSE_BYTES);
	if (bytes < 1)
		return luaL_error(L, "%s: max_response_bytes must be at least 1", fn);
	settings.max_response_bytes = (size_t)bytes;
	settings.truncate_response = tr_opt_bool(L, 1, "truncate_response", false);
	read_guard(L, 1, fn, &settings.guard);
	if (settings.timeout_ns < 1)
		settings.timeout_ns = 1;
	box = lua_newuserdata(L, sizeof *box);
	*box = (struct client_box){0};
	luaL_getmetatable(L, CLIENT_TYPE);
	lua_setmetatable(L, -2);
	err = tr_http_client_new(http, &settings, &box->client);
	if (err != TR_OK)
		return luaL_error(L, "%s: %s", fn, tr_err_text(err));
	return 1;
}

/* --- perform ---------------------------------------------------------------------------------------- */

static void
op_free(struct perform_op *op)
{
	tr_unref(op->main, op->anchor);
	tr_http_client_unref(op->call.client);
	tr_http_call_fini(&op->call);
	tr_bytes_fini(&op->bytes);
	free(op);
}

int
http_push_answer(lua_State *L, void *arg)
{
	struct tr_http_call *call = arg;

	if (call->err != TR_OK) {
		const char *what = call->redirecting ? "error following redirect for url"
				   : call->building  ? "builder error for url"
						     : "error sending request for url";

		int front;
		const char *rest = tr_http_url_shown(call->url, &front);

		return tr_push_error(L, call->err, "%s (%.*s%s): %.*s", what, front, call->url, rest,
			(int)call->error.len, call->error.len > 0 ? call->error.data : "");
	}
	lua_pushinteger(L, call->status);
	lua_pushlstring(L, call->head.len > 0 ? call->head.data : "", call->head.len);
	lua_pushlstring(L, call->content.len > 0 ? call->content.data : "", call->content.len);
	return 3;
}

static void
perform_done(struct tr_http_call *call)
{
	struct perform_op *op = tr_container_of(call, struct perform_op, call);

	/* http_push_answer() copies the answer into Lua before any Lua code runs; op must last until the wake returns.
	 */
	tr_task_wake(&op->ticket, http_push_answer, call, false);
	op_free(op);
}

static void
perform_cancel(void *arg)
{
	struct perform_op *op = arg;

	tr_http_cancel(&op->call);
	op_free(op);
}

static const char *
field_string(lua_State *L, int idx, const char *name, size_t *len)
{
	const char *text;

	lua_getfield(L, idx, name);
	text = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, len) : NULL;
	lua_pop(L, 1); /* the table keeps it */
	return text;
}

/* perform(client, request) -> status, head, body | nil, message, code
 * request: {_method=, _url=, _headers={name, value, ...}, _body=string|nil, _message=handle|nil, _timeout=seconds|nil};
 * must not change meanwhile. */
static int
l_perform(lua_State *L)
{
	static const char *const methods[] = {"GET", "POST", "PUT", NULL};
	struct client_box *box = http_check_client(L, 1);
	struct tr_http *http = tr_service(L, TR_SERVICE_HTTP);
	struct tr_task *task = tr_task_check(L);
	const struct tr_message *message = NULL;
	struct tr_str body = {NULL, 0};
	const char *url, *rest, *method_name;
	enum tr_http_method method;
	struct perform_op *op;
	double timeout_s;
	size_t len, count;
	int err, front;

	luaL_checktype(L, 2, LUA_TTABLE);
	lua_settop(L, 2);
	url = field_string(L, 2, "_url", &len);
	method_name = field_string(L, 2, "_method", &len);
	body.data = field_string(L, 2, "_body", &body.len);
	luaL_argcheck(
		L, url != NULL && method_name != NULL && box->client != NULL && http != NULL, 2, "request expected");
	for (method = TR_HTTP_GET; strcmp(methods[method], method_name) != 0; method++) {
		if (methods[method + 1] == NULL)
			return luaL_error(L, "method %s is not supported", method_name);
	}
	lua_getfield(L, 2, "_message");
	if (!lua_isnil(L, -1))
		message = tr_message_check(L, -1, "send");
	lua_getfield(L, 2, "_timeout");
	timeout_s = lua_tonumber(L, -1);
	lua_getfield(L, 2, "_headers");
	luaL_argcheck(L, lua_istable(L, -1), 2, "headers expected");
	count = lua_objlen(L, -1);
	for (size_t i = 1; i <= count; i++) { /* no number may become a string that nobody holds */
		lua_rawgeti(L, -1, (int)i);
		luaL_argcheck(L, lua_type(L, -1) == LUA_TSTRING, 2, "headers must be strings");
		lua_pop(L, 1);
	}
	op = calloc(1, sizeof *op + count * sizeof op->headers[0]);
	if (op == NULL)
		return luaL_error(L, "send: out of memory");
	for (size_t i = 0; i < count; i++) {
		lua_rawgeti(L, -1, (int)i + 1);
		op->headers[i].data = lua_tolstring(L, -1, &op->headers[i].len);
		lua_pop(L, 1);
	}
	if (message != NULL) {
		if (tr_message_data(message, &op->bytes) != TR_OK) {
			free(op);
			return luaL_error(L, "send: out of memory");
		}
		body = tr_bytes_str(&op->bytes);
	}
	op->call.client = tr_http_client_ref(box->client);
	op->call.method = method;
	op->call.url = url;
	op->call.headers = op->headers;
	op->call.header_count = (uint32_t)(count / 2);
	op->call.body = body;
	op->call.timeout_ns = timeout_s > 0 ? (int64_t)(fmin(timeout_s, 1e9) * 1e9) : 0;
	op->call.done = perform_done;
	op->main = tr_host_state(tr_host_of(L));
	lua_pushvalue(L, 2);
	op->anchor = tr_ref(L);
	rest = tr_http_url_shown(url, &front);
	err = tr_http_start(http, &op->call);
	if (err != TR_OK) {
		op_free(op);
		return tr_push_error(
			L, err, "error sending request for url (%.*s%s): %s", front, url, rest, tr_err_text(err));
	}
	tr_task_describe(task, "http %s %.*s%s", method_name, front, url, rest);
	return tr_task_park(task, L, perform_cancel, op, &op->ticket);
}

/* --- small helpers of lua/kumo/http.lua ------------------------------------------------------------- */

static int
l_reason(lua_State *L)
{
	const char *reason = tr_http_reason((int)luaL_checkinteger(L, 1));

	if (reason == NULL)
		return 0;
	lua_pushstring(L, reason);
	return 1;
}

static int
l_header_ok(lua_State *L)
{
	struct tr_str name, value;

	name.data = luaL_checklstring(L, 1, &name.len);
	value.data = luaL_checklstring(L, 2, &value.len);
	lua_pushboolean(L, tr_http_header_ok(name, value));
	return 1;
}

static int
l_header(lua_State *L)
{
	struct tr_str head, value;

	head.data = luaL_checklstring(L, 1, &head.len);
	value = tr_http_header(head, luaL_checkstring(L, 2));
	if (value.data == NULL)
		return 0;
	lua_pushlstring(L, value.data, value.len);
	return 1;
}

/* header_next(head, at) -> at, name, value | nothing */
static int
l_header_next(lua_State *L)
{
	struct tr_str head, name, value;
	size_t at = (size_t)luaL_checkinteger(L, 2);

	head.data = luaL_checklstring(L, 1, &head.len);
	if (!tr_http_header_next(head, &at, &name, &value))
		return 0;
	lua_pushinteger(L, (lua_Integer)at);
	lua_pushlstring(L, name.data, name.len);
	lua_pushlstring(L, value.data, value.len);
	return 3;
}

static int
l_base64(lua_State *L)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t len;
	const unsigned char *in = (const unsigned char *)luaL_checklstring(L, 1, &len);
	luaL_Buffer out;

	luaL_buffinit(L, &out);
	for (size_t i = 0; i < len; i += 3) {
		uint32_t bits = (uint32_t)in[i] << 16 | (i + 1 < len ? (uint32_t)in[i + 1] << 8 : 0) |
				(i + 2 < len ? in[i + 2] : 0);

		luaL_addchar(&out, digits[bits >> 18]);
		luaL_addchar(&out, digits[bits >> 12 & 63]);
		luaL_addchar(&out, i + 1 < len ? digits[bits >> 6 & 63] : '=');
		luaL_addchar(&out, i + 2 < len ? digits[bits & 63] : '=');
	}
	luaL_pushresult(&out);
	return 1;
}

static int
l_utf8_lossy(lua_State *L)
{
	struct tr_str text;

	text.data = luaL_checklstring(L, 1, &text.len);
	http_push_lossy(L, text);
	return 1;
}

/* url_shown(url) -> url without its user and password */
static int
l_url_shown(lua_State *L)
{
	const char *url = luaL_checkstring(L, 1), *rest;
	int front;

	rest = tr_http_url_shown(url, &front);
	lua_pushlstring(L, url, (size_t)front);
	lua_pushstring(L, rest);
	lua_concat(L, 2);
	return 1;
}

/* url_check(url) -> true | nil, message */
static int
l_url_check(lua_State *L)
{
	const char *text = luaL_checkstring(L, 1);
	CURLU *url = curl_url();
	CURLUcode code =
		url != NULL ? curl_url_set(url, CURLUPART_URL, text, CURLU_NON_SUPPORT_SCHEME) : CURLUE_OUT_OF_MEMORY;

	curl_url_cleanup(url);
	if (code != CURLUE_OK)
		return tr_push_error(
			L, code == CURLUE_OUT_OF_MEMORY ? TR_ENOMEM : TR_EINVAL, "%s", curl_url_strerror(code));
	lua_pushboolean(L, 1);
	return 1;
}

/* url_denied(client, url) -> the address that the URL names itself and the client's guard does not allow | nothing */
static int
l_url_denied(lua_State *L)
{
	struct client_box *box = http_check_client(L, 1);
	const char *url = luaL_checkstring(L, 2);
	char text[64];

	if (box->client == NULL || !tr_http_url_denied(box->client, url, text))
		return 0;
	lua_pushstring(L, text);
	return 1;
}

static int
l_duration_s(lua_State *L)
{
	int64_t ns = tr_check_duration_ns(L, 1, "request:timeout", "timeout");

	lua_pushnumber(L, (double)tr_max_i64(ns, 1) / 1e9);
	return 1;
}

static int
l_random_hex(lua_State *L)
{
	uint8_t id[16];
	char hex[33];

	tr_uuid4(id);
	tr_uuid_hex(id, hex);
	lua_pushstring(L, hex);
	return 1;
}

int
luaopen_tr_http(lua_State *L)
{
	static const luaL_Reg functions[] = {{"client", l_client}, {"perform", l_perform}, {"reason", l_reason},
		{"header_ok", l_header_ok}, {"header", l_header}, {"header_next", l_header_next}, {"base64", l_base64},
		{"utf8_lossy", l_utf8_lossy}, {"url_check", l_url_check}, {"url_shown", l_url_shown},
		{"url_denied", l_url_denied}, {"duration_s", l_duration_s}, {"random_hex", l_random_hex}, {NULL, NULL}};

	tr_type(L, CLIENT_TYPE, l_client_gc, NULL);
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	http_post_register(L);
	return 1;
}
