/* Listeners, and the events of SMTP sessions: what policy sees of them. */
#include "ingress/smtp_server_lua.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "ingress/run_lua.h"
#include "ingress/smtp_listener.h"
#include "message/message_lua.h"
#include "policy/policy.h"

#define CONN_META "tr.conn_meta"
#define LISTENER_FUNCTION "kumo.start_esmtp_listener"
#define PARAMETERS_FUNCTION "smtp_server_get_dynamic_parameters"

/* --- what a session has here ------------------------------------------------------------------------------------- */

struct fired {                           /* one event under way */
	struct tr_smtp_session *session; /* NULL: nobody waits any more */
	enum tr_smtp_event event;
	struct tr_task *task; /* once it waits */
	bool starting, ended;
};

struct conn_meta {                       /* userdata */
	struct tr_smtp_session *session; /* NULL: the connection has ended */
};

struct binding {
	struct conn_meta *conn_meta; /* kept by `ref` */
	int ref;
	struct fired *fired;
};

static _Atomic int event_ids[TR_SMTP_EVENTS];

static struct binding *
get_binding(struct tr_smtp_session *session)
{
	void **slot = tr_smtp_session_slot(session);

	if (*slot == NULL) {
		struct binding *binding = calloc(1, sizeof *binding);

		if (binding != NULL)
			binding->ref = LUA_NOREF;
		*slot = binding;
	}
	return *slot;
}

static struct tr_host *
host_of(struct tr_smtp_session *session)
{
	return tr_worker_data(tr_smtp_session_worker(session));
}

/* --- conn_meta ------------------------------------------------------------------------------------------------------
 */

static struct tr_meta *
check_conn_meta(lua_State *L, const char *function)
{
	struct conn_meta *self = luaL_checkudata(L, 1, CONN_META);
	struct tr_meta *meta;

	if (self->session == NULL)
		luaL_error(L, "conn_meta:%s: the connection has ended", function);
	meta = tr_smtp_session_meta(self->session);
	if (meta == NULL)
		luaL_error(L, "conn_meta:%s: out of memory", function);
	return meta;
}

static int
l_get_meta(lua_State *L)
{
	struct tr_meta *meta = check_conn_meta(L, "get_meta");
	struct tr_str key, value;
	size_t error_at;

	key.data = luaL_checklstring(L, 2, &key.len);
	value = tr_meta_get(meta, key);
	if (value.data == NULL || tr_json_push(L, value, false, &error_at) != TR_OK)
		lua_pushnil(L);
	return 1;
}

static int
l_set_meta(lua_State *L)
{
	struct tr_meta *meta = check_conn_meta(L, "set_meta");
	struct tr_buf *json = tr_lua_scratch(L);
	const char *what = NULL;
	struct tr_str key;
	int err;

	key.data = luaL_checklstring(L, 2, &key.len);
	luaL_checkany(L, 3);
	if (tr_json_from_lua(L, 3, json, &what) != TR_OK)
		return luaL_error(L, "conn_meta:set_meta: %s", what != NULL ? what : "out of memory");
	err = json->failed ? TR_ENOMEM : tr_meta_set(meta, key, (struct tr_str){json->data, json->len});
	return err == TR_OK ? 0 : luaL_error(L, "conn_meta:set_meta: %s", tr_err_text(err));
}

/* Nobody has authenticated: AUTH comes with TLS. */
static int
l_auth_info(lua_State *L)
{
	struct tr_meta *meta = check_conn_meta(L, "auth_info");
	struct tr_buf *peer = tr_lua_scratch(L);
	struct tr_sockaddr addr;
	char ip[64];

	lua_createtable(L, 0, 3);
	if (tr_meta_get_string(meta, TR_STR("received_from"), peer) == TR_OK &&
		tr_sockaddr_parse((struct tr_str){peer->data, peer->len}, 0, &addr) == TR_OK) {
		tr_sockaddr_text(&addr, false, ip);
		lua_pushstring(L, ip);
		lua_setfield(L, -2, "peer_address");
	}
	lua_newtable(L);
	tr_json_set_array(L, -1);
	lua_setfield(L, -2, "identities");
	lua_newtable(L);
	tr_json_set_array(L, -1);
	lua_setfield(L, -2, "groups");
	return 1;
}

static void
make_conn_meta_type(lua_State *L)
{
	static const luaL_Reg none[] = {{NULL, NULL}};
	static const luaL_Reg methods[] = {
		{"get_meta", l_get_meta}, {"set_meta", l_set_meta}, {"auth_info", l_auth_info}, {NULL, NULL}};

	tr_metatable(L, CONN_META, none, methods);
	lua_pop(L, 1);
}

/* The same object for the life of the connection. May raise. */
static void
push_conn_meta(lua_State *L, struct tr_smtp_session *session)
{
	struct binding *binding = get_binding(session);
	struct conn_meta *self;

	if (binding->ref != LUA_NOREF) {
		tr_ref_push(L, binding->ref);
		return;
	}
	self = lua_newuserdata(L, sizeof *self);
	self->session = NULL;
	luaL_getmetatable(L, CONN_META);
	lua_setmetatable(L, -2);
	lua_pushvalue(L, -1);
	binding->ref = tr_ref(L);
	binding->conn_meta = self;
	self->session = session;
}

/* --- arguments -------------------------------------------------------------------------------------------------------
 */

struct push {
	struct tr_smtp_session *session;
	const struct tr_smtp_call *call;
};

static int
push_args(lua_State *L, void *arg)
{
	const struct push *push = arg;
	const struct tr_smtp_call *call = push->call;
	int top = lua_gettop(L);

	switch (call->event) {
	case TR_SMTP_ON_PARAMETERS:
		lua_pushstring(L, tr_smtp_session_local(push->session));
		break;
	case TR_SMTP_ON_CONNECT:
	case TR_SMTP_EVENTS:
		break;
	case TR_SMTP_ON_EHLO:
		lua_pushlstring(L, call->text.data, call->text.len);
		push_conn_meta(L, push->session);
		if (call->extensions == NULL)
			return lua_gettop(L) - top;
		lua_createtable(L, (int)call->extension_count, 0);
		for (uint32_t i = 0; i < call->extension_count; i++) {
			lua_pushlstring(L, call->extensions[i].data, call->extensions[i].len);
			lua_rawseti(L, -2, (int)i + 1);
		}
		return lua_gettop(L) - top;
	case TR_SMTP_ON_MAIL:
	case TR_SMTP_ON_RCPT:
		tr_addr_push(L, call->addr);
		break;
	case TR_SMTP_ON_DOMAIN:
		lua_pushlstring(L, call->text.data, call->text.len);
		lua_pushstring(L, tr_smtp_session_local(push->session));
		break;
	case TR_SMTP_ON_DATA:
	case TR_SMTP_ON_SPLIT:
	case TR_SMTP_ON_MESSAGE:
		tr_message_push(L, call->message);
		break;
	case TR_SMTP_ON_REPLY:
		lua_pushinteger(L, call->code);
		lua_pushlstring(L, call->text.data, call->text.len);
		if (call->command.data != NULL)
			lua_pushlstring(L, call->command.data, call->command.len);
		else
			lua_pushnil(L);
		break;
	}
	push_conn_meta(L, push->session);
	return lua_gettop(L) - top;
}

/* --- results: none of this may raise
 * ------------------------------------------------------------------------------------ */

struct parse {
	const struct tr_smtp_params *base;
	struct tr_smtp_params *params;
};

static int
parse_parameters(lua_State *L)
{
	struct parse *parse = lua_touserdata(L, 1);

	parse->params = tr_smtp_params_ref(tr_smtp_params_check(L, 2, PARAMETERS_FUNCTION, parse->base, NULL));
	return 0;
}

/* In the state's own stack: the task's coroutine has ended. */
static void
read_parameters(
	struct tr_smtp_session *session, lua_State *from, int idx, struct tr_smtp_answer *answer, char error[512])
{
	lua_State *L = tr_host_state(host_of(session));
	struct parse parse = {.base = tr_smtp_session_params(session)};
	int top = lua_gettop(L);

	lua_pushcfunction(L, parse_parameters);
	lua_pushlightuserdata(L, &parse);
	lua_pushvalue(from, idx);
	lua_xmove(from, L, 1);
	if (lua_pcall(L, 2, 0, 0) != 0) {
		snprintf(error, 512, "%s", lua_isstring(L, -1) ? lua_tostring(L, -1) : "out of memory");
		answer->error = error;
	}
	if (parse.params != NULL) {
		answer->params = tr_smtp_session_params_for(session, parse.params);
		tr_smtp_params_unref(parse.params);
		if (answer->params == NULL)
			answer->error = "out of memory";
	}
	lua_settop(L, top);
}

static const char *
read_lines(lua_State *L, int idx, struct tr_smtp_answer *answer, struct tr_str **owned)
{
	size_t count = lua_objlen(L, idx);
	struct tr_str *lines = calloc(count + 1, sizeof *lines);

	*owned = lines;
	if (lines == NULL)
		return "out of memory";
	for (size_t i = 0; i < count; i++) {
		lua_rawgeti(L, idx, (int)i + 1);
		bool ok = lua_type(L, -1) == LUA_TSTRING;
		if (ok)
			lines[i].data = lua_tolstring(L, -1, &lines[i].len);
		lua_pop(L, 1); /* the list keeps it */
		if (!ok || memchr(lines[i].data, '\n', lines[i].len) != NULL)
			return "smtp_server_ehlo: a list of single lines is expected";
	}
	answer->lines = lines;
	answer->line_count = (uint32_t)count;
	return NULL;
}

static const char *
read_split(lua_State *L, int idx, struct tr_smtp_answer *answer, struct tr_smtp_split **owned)
{
	static const char expected[] =
		"smtp_server_split_transaction: a list of lists of addresses (strings or address objects) is expected";
	size_t count = lua_objlen(L, idx), used = 0;

	*owned = calloc(1, sizeof **owned);
	if (*owned == NULL)
		return "out of memory";
	for (size_t i = 0; i < count; i++) {
		lua_rawgeti(L, idx, (int)i + 1);
		if (!lua_istable(L, -1)) {
			lua_pop(L, 1);
			return expected;
		}
		size_t rcpts = lua_objlen(L, -1);
		struct tr_smtp_split *grown = realloc(*owned, (used + rcpts + 1) * sizeof *grown);
		if (grown == NULL) {
			lua_pop(L, 1);
			return "out of memory";
		}
		*owned = grown;
		for (size_t j = 0; j < rcpts; j++) {
			lua_rawgeti(L, -1, (int)j + 1);
			struct tr_str rcpt = tr_addr_text(L, -1);
			lua_pop(L, 1);
			if (rcpt.data == NULL) {
				lua_pop(L, 1);
				return expected;
			}
			grown[used++] = (struct tr_smtp_split){(uint32_t)i, rcpt};
		}
		lua_pop(L, 1);
	}
	answer->split = *owned;
	answer->split_count = (uint32_t)used;
	return NULL;
}

static const char *
read_reply(lua_State *L, int first, int count, struct tr_smtp_answer *answer)
{
	if (count >= 1 && lua_type(L, first) == LUA_TNUMBER) {
		double code = lua_tonumber(L, first);
		if (!(code >= 200 && code <= 599 && code == (int)code))
			return "smtp_server_rewrite_response: a code from 200 to 599 is expected";
		answer->code = (int)code;
	} else if (count >= 1 && !lua_isnil(L, first)) {
		return "smtp_server_rewrite_response: a number or nil is expected as the first result";
	}
	if (count >= 2 && lua_type(L, first + 1) == LUA_TSTRING)
		answer->text.data = lua_tolstring(L, first + 1, &answer->text.len);
	else if (count >= 2 && !lua_isnil(L, first + 1))
		return "smtp_server_rewrite_response: a string or nil is expected as the second result";
	return NULL;
}

static void
answer_from(struct tr_smtp_session *session, enum tr_smtp_event event, const struct tr_task_result *result)
{
	struct tr_smtp_answer answer = {.reject_code = -1};
	lua_State *L = result->L;
	int first = L != NULL ? lua_gettop(L) - result->count + 1 : 0;
	bool some = result->status == TR_OK && result->count > 0 && !lua_isnil(L, first);
	struct tr_str *lines = NULL;
	struct tr_smtp_split *split = NULL;
	char error[512];

	if (result->status != TR_OK && result->reject_code >= 0) {
		answer.reject_code = result->reject_code;
		answer.reject_text = tr_str(result->reject_text != NULL ? result->reject_text : "");
		answer.disconnect = result->disconnect;
	} else if (result->status != TR_OK) {
		answer.error = result->text != NULL ? result->text : tr_err_text(result->status);
	} else if (event == TR_SMTP_ON_REPLY) {
		answer.error = read_reply(L, first, result->count, &answer);
	} else if (some && event == TR_SMTP_ON_PARAMETERS) {
		read_parameters(session, L, first, &answer, error);
	} else if (some && event == TR_SMTP_ON_DOMAIN) {
		answer.domain = tr_smtp_domain_test(L, first);
		if (answer.domain == NULL)
			answer.error = "get_listener_domain: a result of kumo.make_listener_domain or nil is expected";
	} else if (some && (event == TR_SMTP_ON_EHLO || event == TR_SMTP_ON_SPLIT)) {
		if (!lua_istable(L, first))
			answer.error = "a list or nil is expected as the result";
		else if (event == TR_SMTP_ON_EHLO)
			answer.error = read_lines(L, first, &answer, &lines);
		else
			answer.error = read_split(L, first, &answer, &split);
	}
	tr_smtp_session_answer(session, &answer);
	free(lines);
	free(split);
}

/* --- firing
 * ------------------------------------------------------------------------------------------------------------------ */

static void
event_ended(void *arg, const struct tr_task_result *result)
{
	struct fired *fired = arg;
	struct tr_smtp_session *session = fired->session;
	enum tr_smtp_event event = fired->event;

	if (session != NULL)
		get_binding(session)->fired = NULL;
	fired->ended = true;
	if (!fired->starting)
		free(fired);
	if (session != NULL)
		answer_from(session, event, result);
}

static void
fail(struct tr_smtp_session *session, const char *error)
{
	struct tr_smtp_answer answer = {.reject_code = -1, .error = error};

	tr_smtp_session_answer(session, &answer);
}

static bool
details(void *arg, struct tr_buf *out)
{
	const struct fired *fired = arg;
	char peer[64];

	if (fired->session == NULL)
		return true;
	tr_sockaddr_text(tr_smtp_session_peer(fired->session), true, peer);
	tr_buf_addf(out, "\tclient %s at %s\n", peer, tr_smtp_session_local(fired->session));
	return true;
}

static void
fire(void *arg, struct tr_smtp_session *session, const struct tr_smtp_call *call)
{
	struct binding *binding = get_binding(session);
	struct fired *fired = binding != NULL ? calloc(1, sizeof *fired) : NULL;
	struct push push = {session, call};
	struct tr_task *task = NULL;
	char ids[48] = "message ";
	struct tr_task_call start = {
		.push = push_args,
		.push_arg = &push,
		.end = event_ended,
		.end_arg = fired,
		.details = details,
		/* once the text has come, the session's own timer counts over all events */
		.deadline_ns = call->message == NULL ? tr_smtp_session_params(session)->data_processing_timeout_ns : 0,
	};

	if (fired == NULL) {
		fail(session, "out of memory");
		return;
	}
	if (call->message != NULL) {
		tr_uuid_hex(call->message->id, ids + 8);
		start.ids = ids;
	}
	fired->session = session;
	fired->event = call->event;
	fired->starting = true;
	binding->fired = fired;
	if (tr_event_fire(host_of(session), tr_smtp_event_name(call->event), &start, &task) != TR_OK) {
		binding->fired = NULL;
		free(fired);
		fail(session, "out of memory");
		return;
	}
	fired->starting = false;
	fired->task = task;
	if (fired->ended)
		free(fired);
}

/* It is about to be cancelled, as it takes too long. */
static void
late(void *arg, struct tr_smtp_session *session)
{
	struct binding *binding = get_binding(session);
	struct fired *fired = binding != NULL ? binding->fired : NULL;
	struct tr_buf text = {0};

	if (fired == NULL || fired->task == NULL)
		return;
	tr_task_report(fired->task, &text);
	tr_log(TR_LEVEL_WARN, "smtp_server", "data_processing_timeout: a handler is cancelled: %.*s", (int)text.len,
		text.len > 0 ? text.data : "");
	tr_buf_free(&text);
}

static void
cancel(void *arg, struct tr_smtp_session *session)
{
	struct binding *binding = get_binding(session);
	struct fired *fired = binding != NULL ? binding->fired : NULL;

	if (fired == NULL)
		return;
	binding->fired = NULL;
	fired->session = NULL;
	if (fired->task != NULL)
		tr_task_cancel(fired->task); /* ends in event_ended() */
}

static void
gone(void *arg, struct tr_smtp_session *session)
{
	void **slot = tr_smtp_session_slot(session);
	struct binding *binding = *slot;

	*slot = NULL;
	if (binding == NULL)
		return;
	if (binding->conn_meta != NULL)
		binding->conn_meta->session = NULL;
	tr_unref(tr_host_state(host_of(session)), binding->ref);
	free(binding);
}

static bool
wants(void *arg, struct tr_worker *worker, enum tr_smtp_event event)
{
	return tr_event_handled(tr_worker_data(worker), atomic_load_explicit(&event_ids[event], memory_order_relaxed));
}

static struct tr_engine *
engine(void *arg)
{
	return tr_host_service(arg, TR_SERVICE_ENGINE);
}

static const struct tr_smtp_ops ops = {engine, wants, fire, late, cancel, gone};

/* --- kumo.start_esmtp_listener
 * -------------------------------------------------------------------------------------------------- */

/* start_esmtp_listener(options) -> address as bound; nothing while validating */
static int
l_start_esmtp_listener(lua_State *L)
{
	struct tr_run *run = tr_run_check(L, LISTENER_FUNCTION);
	struct tr_smtp_listen_options options;
	struct tr_smtp_params *params;
	struct tr_run_part *part;
	char text[64];
	int errnum, err;

	lua_settop(L, 1);
	params = tr_smtp_params_check(L, 1, LISTENER_FUNCTION, NULL, &options);
	if (run->validating && !run->scripted)
		return 0;
	struct tr_smtp_listener_config config = {
		.loop = tr_host_loop(tr_host_of(L)),
		.listen = options.listen,
		.max_connections = options.max_connections,
		.params = tr_smtp_params_ref(params), /* the guard on the stack has its own */
		.ops = &ops,
		.ops_arg = tr_host_of(L),
	};
	err = tr_smtp_listener_new(&config, &part, &errnum);
	if (err != TR_OK) {
		tr_sockaddr_text(&options.listen, true, text);
		return luaL_error(
			L, "%s: listen = '%s' cannot be bound: %s", LISTENER_FUNCTION, text, tr_errno_text(errnum));
	}
	if (tr_opt_bool(L, 1, "deferred_spool", false))
		tr_log(TR_LEVEL_INFO, "smtp_server",
			"%s: deferred_spool is accepted, but messages are stored before they are answered for",
			part->name);
	tr_run_add(run, part);
	tr_log(TR_LEVEL_INFO, "smtp_server", "%s is open", part->name);
	lua_pushstring(L, strrchr(part->name, ' ') + 1);
	return 1;
}

int
luaopen_tr_smtp_server(lua_State *L)
{
	static const luaL_Reg kumo[] = {
		{"start_esmtp_listener", l_start_esmtp_listener},
		{"make_listener_domain", tr_l_make_listener_domain},
		{NULL, NULL},
	};

	for (int i = 0; i < TR_SMTP_EVENTS; i++)
		atomic_store(&event_ids[i], tr_event_id(tr_smtp_event_name((enum tr_smtp_event)i)));
	make_conn_meta_type(L);
	lua_newtable(L);
	lua_newtable(L);
	luaL_setfuncs(L, kumo, 0);
	lua_setfield(L, -2, "kumo");
	return 1;
}
