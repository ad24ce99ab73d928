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

#define CLIENT_TYPE "tr.http.client"
#define DEFAULT_TIMEOUT_NS (60 * TR_NS_PER_S)
#define DEFAULT_IDLE_NS (90 * TR_NS_PER_S)
#define DEFAULT_RESPONSE_BYTES (8 * 1024 * 1024)

struct client_box {
	struct tr_http_client *client; /* NULL: collected */
	struct prepared *prepared;     /* of its last post_message; NULL: none */
};

/* One request on its way. On the C heap: LuaJIT's lua_yield() keeps only the results. */
struct perform_op {
	struct tr_http_call call;
	struct tr_ticket ticket;
	lua_State *main;
	struct tr_bytes bytes;   /* body of a message, shared; empty: the body is a string of the table */
	int anchor;              /* registry reference of the request table, which holds URL, headers and body */
	struct tr_str headers[]; /* name, value ...: point into strings of the anchored table */
};

static void prepared_unref(struct prepared *prepared);

static struct client_box *
check_client(lua_State *L, int idx)
{
	return luaL_checkudata(L, idx, CLIENT_TYPE);
}

static int
l_client_gc(lua_State *L)
{
	struct client_box *box = check_client(L, 1);

	tr_http_client_unref(box->client);
	box->client = NULL;
	prepared_unref(box->prepared);
	box->prepared = NULL;
	return 0;
}

/* The reference ignores unknown keys here; a slip in a name should be seen all the same. */
static void
warn_unknown(lua_State *L, int idx)
{
	static const char *const names[] = {"user_agent", "timeout", "pool_idle_timeout", "connection_verbose",
		"accept_invalid_certs", "redirects", "max_response_bytes", "truncate_response", NULL};

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
	luaL_unref(op->main, LUA_REGISTRYINDEX, op->anchor);
	tr_http_client_unref(op->call.client);
	tr_http_call_fini(&op->call);
	tr_bytes_fini(&op->bytes);
	free(op);
}

static int
push_answer(lua_State *L, void *arg)
{
	struct tr_http_call *call = arg;

	if (call->err != TR_OK) {
		const char *what = call->redirecting ? "error following redirect for url"
				   : call->building  ? "builder error for url"
						     : "error sending request for url";

		return tr_push_error(L, call->err, "%s (%s): %.*s", what, call->url, (int)call->error.len,
			call->error.len > 0 ? call->error.data : "");
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

	/* push_answer() copies the answer into Lua before any Lua code runs; op must last until the wake returns. */
	tr_task_wake(&op->ticket, push_answer, call, false);
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
	struct client_box *box = check_client(L, 1);
	struct tr_http *http = tr_service(L, TR_SERVICE_HTTP);
	struct tr_task *task = tr_task_check(L);
	const struct tr_message *message = NULL;
	struct tr_str body = {NULL, 0};
	const char *url, *method_name;
	enum tr_http_method method;
	struct perform_op *op;
	double timeout_s;
	size_t len, count;
	int err;

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
	op->anchor = luaL_ref(L, LUA_REGISTRYINDEX);
	err = tr_http_start(http, &op->call);
	if (err != TR_OK) {
		op_free(op);
		return tr_push_error(L, err, "error sending request for url (%s): %s", url, tr_err_text(err));
	}
	tr_task_describe(task, "http %s %s", method_name, url);
	return tr_task_park(task, L, perform_cancel, op, &op->ticket);
}

/* Pushes the text with every byte that is no valid UTF-8 replaced by U+FFFD. */
static void
push_lossy(lua_State *L, struct tr_str text)
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

/* --- post_message, post_messages ------------------------------------------------------------------- */

/* What the posts of a client to one URL share. Counted: by the client and by each of its posts under way. */
struct prepared {
	uint32_t refs;
	struct post_op *idle;     /* finished, kept for their buffers */
	struct tr_str headers[2]; /* Content-Type */
	uint64_t headers_id;
	struct tr_str url; /* NUL-terminated */
	char text[];
};

struct post_op {
	struct tr_http_call call;
	struct tr_ticket ticket;
	struct prepared *prepared;
	struct tr_bytes bytes; /* body of the one message, shared */
	struct tr_buf joined;  /* body of several */
	struct post_op *next;  /* idle */
};

#define POST_KEPT_BYTES (256 * 1024) /* a larger buffer is not kept for the next post */

static void
post_free(struct post_op *op)
{
	tr_http_call_fini(&op->call);
	tr_buf_free(&op->joined);
	free(op);
}

static void
prepared_unref(struct prepared *prepared)
{
	if (prepared == NULL || --prepared->refs > 0)
		return;
	while (prepared->idle != NULL) {
		struct post_op *op = prepared->idle;

		prepared->idle = op->next;
		post_free(op);
	}
	free(prepared);
}

static struct prepared *
prepared_get(struct client_box *box, struct tr_str url, struct tr_str type)
{
	static _Atomic uint64_t ids;
	struct prepared *prepared = box->prepared;

	if (prepared != NULL && tr_str_eq(prepared->url, url) && tr_str_eq(prepared->headers[1], type))
		return prepared;
	prepared = calloc(1, sizeof *prepared + url.len + 1 + type.len);
	if (prepared == NULL)
		return NULL;
	prepared->refs = 1;
	prepared->headers_id = atomic_fetch_add_explicit(&ids, 1, memory_order_relaxed) + 1;
	memcpy(prepared->text, url.data, url.len);
	memcpy(prepared->text + url.len + 1, type.data, type.len);
	prepared->url = (struct tr_str){prepared->text, url.len};
	prepared->headers[0] = TR_STR("Content-Type");
	prepared->headers[1] = (struct tr_str){prepared->text + url.len + 1, type.len};
	prepared_unref(box->prepared);
	box->prepared = prepared;
	return prepared;
}

static void
post_end(struct post_op *op)
{
	struct prepared *prepared = op->prepared;

	tr_http_client_unref(op->call.client);
	op->call.client = NULL;
	tr_bytes_fini(&op->bytes);
	if (op->joined.cap > POST_KEPT_BYTES)
		tr_buf_free(&op->joined);
	if (op->call.content.cap > POST_KEPT_BYTES)
		tr_buf_free(&op->call.content);
	op->next = prepared->idle;
	prepared->idle = op;
	prepared_unref(prepared);
}

static struct post_op *
post_new(struct client_box *box, struct prepared *prepared)
{
	struct post_op *op = prepared->idle;

	if (op != NULL)
		prepared->idle = op->next;
	else
		op = calloc(1, sizeof *op);
	if (op == NULL)
		return NULL;
	op->prepared = prepared;
	prepared->refs++;
	op->call.client = tr_http_client_ref(box->client);
	return op;
}

static int
push_post_answer(lua_State *L, void *arg)
{
	struct tr_http_call *call = arg;
	struct tr_str head = {call->head.data, call->head.len}, retry_after;
	const char *reason = tr_http_reason(call->status);

	if (call->err != TR_OK)
		return push_answer(L, arg);
	lua_pushinteger(L, call->status);
	if (reason != NULL)
		lua_pushstring(L, reason);
	else
		lua_pushnil(L);
	push_lossy(L, (struct tr_str){call->content.len > 0 ? call->content.data : "", call->content.len});
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
	struct post_op *op = tr_container_of(call, struct post_op, call);

	tr_task_wake(&op->ticket, push_post_answer, call, false);
	post_end(op);
}

static void
post_cancel(void *arg)
{
	struct post_op *op = arg;

	tr_http_cancel(&op->call);
	post_end(op);
}

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

static int
l_post(lua_State *L, bool many)
{
	const char *fn = many ? "post_messages" : "post_message";
	struct client_box *box = check_client(L, 1);
	struct tr_http *http = tr_service(L, TR_SERVICE_HTTP);
	struct tr_task *task = tr_task_check(L);
	const struct tr_message *message = NULL;
	struct tr_str url, type = TR_STR("application/json");
	struct prepared *prepared;
	struct post_op *op;
	int err;

	url.data = luaL_checklstring(L, 2, &url.len);
	if (!lua_isnoneornil(L, 4)) {
		type.data = luaL_checklstring(L, 4, &type.len);
		if (!tr_http_header_ok(TR_STR("Content-Type"), type))
			return luaL_error(L, "%s: the content type has a control byte", fn);
	}
	if (many) {
		luaL_checktype(L, 3, LUA_TTABLE);
		for (size_t i = lua_objlen(L, 3); i > 0; i--) {
			lua_rawgeti(L, 3, (int)i);
			tr_message_check(L, -1, fn);
			lua_pop(L, 1);
		}
	} else {
		message = tr_message_check(L, 3, fn);
	}
	if (box->client == NULL || http == NULL)
		return luaL_error(L, "%s: HTTP is not available here", fn);
	prepared = prepared_get(box, url, type);
	op = prepared != NULL ? post_new(box, prepared) : NULL;
	if (op == NULL)
		return luaL_error(L, "%s: out of memory", fn);
	/* nothing below raises until the request is on its way */
	if (many) {
		join(L, 3, &op->joined);
		err = op->joined.failed ? TR_ENOMEM : TR_OK;
		op->call.body = (struct tr_str){op->joined.data, op->joined.len};
	} else {
		err = tr_message_data(message, &op->bytes);
		op->call.body = tr_bytes_str(&op->bytes);
	}
	if (err != TR_OK) {
		post_end(op);
		return luaL_error(L, "%s: out of memory", fn);
	}
	op->call.method = TR_HTTP_POST;
	op->call.url = prepared->url.data;
	op->call.headers = prepared->headers;
	op->call.header_count = 1;
	op->call.headers_id = prepared->headers_id;
	op->call.done = post_done;
	err = tr_http_start(http, &op->call);
	if (err != TR_OK) {
		post_end(op);
		return tr_push_error(
			L, err, "error sending request for url (%s): %s", lua_tostring(L, 2), tr_err_text(err));
	}
	tr_task_describe_text(task, "http POST ", prepared->url.data);
	return tr_task_park(task, L, post_cancel, op, &op->ticket);
}

/* post_message(client, url, message, content_type) -> status, reason, text, retry_after | nil, message, code */
static int
l_post_message(lua_State *L)
{
	return l_post(L, false);
}

/* post_messages(client, url, list, content_type): the same with a JSON array of the messages as the body */
static int
l_post_messages(lua_State *L)
{
	return l_post(L, true);
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
l_utf8_valid(lua_State *L)
{
	struct tr_str text;

	text.data = luaL_checklstring(L, 1, &text.len);
	lua_pushboolean(L, tr_utf8_valid(text));
	return 1;
}

static int
l_utf8_lossy(lua_State *L)
{
	struct tr_str text;

	text.data = luaL_checklstring(L, 1, &text.len);
	push_lossy(L, text);
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
		return tr_push_error(L, TR_EINVAL, "%s", curl_url_strerror(code));
	lua_pushboolean(L, 1);
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
	static const luaL_Reg functions[] = {{"client", l_client}, {"perform", l_perform},
		{"post_message", l_post_message}, {"post_messages", l_post_messages}, {"reason", l_reason},
		{"header_ok", l_header_ok}, {"header", l_header}, {"header_next", l_header_next}, {"base64", l_base64},
		{"utf8_valid", l_utf8_valid}, {"utf8_lossy", l_utf8_lossy}, {"url_check", l_url_check},
		{"duration_s", l_duration_s}, {"random_hex", l_random_hex}, {NULL, NULL}};

	luaL_newmetatable(L, CLIENT_TYPE);
	lua_pushcfunction(L, l_client_gc);
	lua_setfield(L, -2, "__gc");
	lua_pop(L, 1);
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
