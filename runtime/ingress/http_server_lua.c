#include "ingress/http_server_lua.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/diag.h"
#include "ingress/http_server.h"
#include "ingress/run_lua.h"
#include "net/address.h"
#include "policy/policy.h"

#define DEFAULT_BODY_LIMIT (2 * 1024 * 1024)

/* One kumo.start_http_listener. On worker 0: its requests run in that worker's state. */
struct listener {
	struct tr_run_part part;
	struct tr_http_server *server;
	struct tr_host *host;
	char *hostname;
	char *listen; /* as configured: part of the resource's name */
	struct tr_cidr *trusted;
	uint32_t trusted_count;
	char name[112];
};

struct visit { /* one request in Lua */
	struct listener *listener;
	struct tr_http_request *request;
};

/* --- requests ---------------------------------------------------------------------------------------- */

static bool
is_trusted(void *arg, const char *peer)
{
	const struct listener *listener = arg;
	struct tr_sockaddr addr;

	if (tr_sockaddr_parse(tr_str(peer), 1, &addr) != TR_OK) {
		char text[72]; /* a bare IPv6 address */

		snprintf(text, sizeof text, "[%s]:1", peer);
		if (tr_sockaddr_parse(tr_str(text), 1, &addr) != TR_OK)
			return false;
	}
	for (uint32_t i = 0; i < listener->trusted_count; i++) {
		if (tr_cidr_contains(&listener->trusted[i], &addr))
			return true;
	}
	return false;
}

/* Strangers have nothing to do here but to ask whether we live and, with a password, to inject: lua/http_server.lua
 * says the same, once a whole request is there. */
static bool
admits(void *arg, const struct tr_http_request *request)
{
	const char *path = tr_http_request_path(request);

	(void)arg;
	if (tr_http_request_is_known(request) || strcmp(path, "/api/check-liveness/v1") == 0)
		return true;
	return strcmp(path, "/api/inject/v1") == 0 && tr_http_request_header(request, "authorization") != NULL;
}

static void
push_pair(void *arg, struct tr_str name, struct tr_str value)
{
	lua_State *L = arg;

	lua_pushlstring(L, name.data, name.len);
	lua_pushlstring(L, value.data, value.len);
	lua_rawset(L, -3);
}

static void
set_string(lua_State *L, const char *key, const char *value)
{
	if (value == NULL)
		return;
	lua_pushstring(L, value);
	lua_setfield(L, -2, key);
}

static int
push_visit(lua_State *L, void *arg)
{
	const struct visit *visit = arg;
	const struct tr_http_request *request = visit->request;
	struct tr_str body = tr_http_request_body(request);

	lua_createtable(L, 0, 12);
	set_string(L, "method", tr_http_request_method(request));
	set_string(L, "path", tr_http_request_path(request));
	set_string(L, "peer", tr_http_request_peer(request));
	set_string(L, "local_ip", tr_http_request_local(request));
	set_string(L, "content_type", tr_http_request_header(request, "content-type"));
	set_string(L, "content_encoding", tr_http_request_header(request, "content-encoding"));
	set_string(L, "authorization", tr_http_request_header(request, "authorization"));
	set_string(L, "hostname", visit->listener->hostname);
	set_string(L, "listen", visit->listener->listen);
	lua_pushlstring(L, body.data, body.len);
	lua_setfield(L, -2, "body");
	lua_pushboolean(L, tr_http_request_is_known(request));
	lua_setfield(L, -2, "trusted");
	lua_newtable(L);
	tr_http_request_query(request, push_pair, L);
	lua_setfield(L, -2, "query");
	return 1;
}

static void
answer_error(struct tr_http_request *request, int status, const char *text)
{
	struct tr_buf body = {0};

	tr_buf_addf(&body, "Error: %.*s\n", (int)strcspn(text, "\n"), text);
	tr_http_request_answer(request, status, "text/plain; charset=utf-8", NULL, NULL,
		(struct tr_str){body.data != NULL ? body.data : "", body.len});
	tr_buf_free(&body);
}

/* Results: status, body, content type or nil, name and value of one more header or nil. */
static void
visit_ended(void *arg, const struct tr_task_result *result)
{
	struct visit visit = *(struct visit *)arg;
	lua_State *L = result->L;
	int first = L != NULL ? lua_gettop(L) - result->count + 1 : 0;

	free(arg);
	if (result->status == TR_ECANCELED) {
		answer_error(visit.request, 503, "shutting down");
	} else if (result->status != TR_OK) {
		tr_log(TR_LEVEL_ERROR, "http_server", "%s", result->text);
		answer_error(visit.request, 500, result->reject_text != NULL ? result->reject_text : result->text);
	} else if (result->count < 2 || lua_type(L, first) != LUA_TNUMBER || lua_type(L, first + 1) != LUA_TSTRING) {
		answer_error(visit.request, 500, "the handler gave no answer");
	} else {
		struct tr_str body;
		const char *text[3] = {NULL, NULL, NULL};

		body.data = lua_tolstring(L, first + 1, &body.len);
		for (int i = 0; i < 3 && i + 2 < result->count; i++)
			text[i] = lua_type(L, first + 2 + i) == LUA_TSTRING ? lua_tostring(L, first + 2 + i) : NULL;
		tr_http_request_answer(visit.request, (int)lua_tointeger(L, first), text[0], text[1], text[2], body);
	}
}

static void
handle(void *arg, struct tr_http_request *request)
{
	struct listener *listener = arg;
	struct visit *visit = malloc(sizeof *visit);
	char ids[200];
	struct tr_task_call call = {.event = "http_request",
		.entry = "http_request",
		.push = push_visit,
		.push_arg = visit,
		.end = visit_ended,
		.end_arg = visit,
		.ids = ids};

	if (visit == NULL) {
		answer_error(request, 503, "out of memory");
		return;
	}
	*visit = (struct visit){listener, request};
	snprintf(ids, sizeof ids, "%s %.100s from %s", tr_http_request_method(request), tr_http_request_path(request),
		tr_http_request_peer(request));
	if (tr_task_start(listener->host, &call, NULL) != TR_OK) {
		free(visit);
		answer_error(request, 503, "out of memory");
	}
}

/* --- the part of the run ------------------------------------------------------------------------------- */

static void
part_stop(struct tr_run_part *part)
{
	tr_http_server_stop(tr_container_of(part, struct listener, part)->server);
}

static bool
part_busy(struct tr_run_part *part)
{
	return tr_http_server_busy(tr_container_of(part, struct listener, part)->server) > 0;
}

static void
part_abort(struct tr_run_part *part)
{
	tr_http_server_abort(tr_container_of(part, struct listener, part)->server);
}

static void
listener_free(struct listener *listener)
{
	tr_http_server_free(listener->server);
	free(listener->hostname);
	free(listener->listen);
	free(listener->trusted);
	free(listener);
}

static void
part_free(struct tr_run_part *part)
{
	listener_free(tr_container_of(part, struct listener, part));
}

/* --- kumo.start_http_listener ---------------------------------------------------------------------------- */

#define FUNCTION "kumo.start_http_listener"

static int
parse_trusted(lua_State *L, struct listener *listener, const char **what)
{
	size_t count;

	lua_getfield(L, 1, "trusted_hosts");
	count = lua_istable(L, -1) ? lua_objlen(L, -1) : 2;
	listener->trusted = calloc(count + 1, sizeof listener->trusted[0]);
	if (listener->trusted == NULL)
		return TR_ENOMEM;
	for (size_t i = 0; i < count; i++) {
		const char *text = i == 0 ? "127.0.0.1" : "::1";

		if (lua_istable(L, -1)) {
			lua_rawgeti(L, -1, (int)i + 1);
			text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
			lua_pop(L, 1); /* the list keeps it */
		}
		if (tr_cidr_parse(tr_str(text), &listener->trusted[i], NULL) != TR_OK) {
			*what = text;
			return TR_EINVAL;
		}
		listener->trusted_count++;
	}
	lua_pop(L, 1);
	return TR_OK;
}

/* What a raise must not leak is freed by the caller, which raises with the text in `message`. */
static int
start(lua_State *L, struct tr_run *run, struct listener *listener, char message[300])
{
	struct tr_http_server_config config = {.loop = tr_host_loop(listener->host),
		.handle = handle,
		.knows = is_trusted,
		.admits = admits,
		.arg = listener};
	const char *what = "";
	char *error = NULL, host[256] = "localhost";
	int err = parse_trusted(L, listener, &what);

	if (err == TR_EINVAL)
		snprintf(message, 300, "trusted_hosts: '%s' is no address or CIDR block", what);
	if (err != TR_OK)
		return err;
	gethostname(host, sizeof host - 1);
	listener->hostname = strdup(tr_opt_string(L, 1, "hostname", host, NULL));
	listener->listen = strdup(tr_opt_string(L, 1, "listen", "127.0.0.1:8000", NULL));
	if (listener->hostname == NULL || listener->listen == NULL)
		return TR_ENOMEM;
	config.listen = listener->listen;
	config.body_limit = (size_t)tr_opt_int(L, 1, "request_body_limit", DEFAULT_BODY_LIMIT);
	if (run->validating) {
		struct tr_sockaddr addr;

		err = tr_sockaddr_parse(tr_str(listener->listen), 0, &addr);
	} else {
		err = tr_http_server_new(&config, &listener->server, &error);
	}
	if (err != TR_OK)
		snprintf(message, 300, "%s",
			error != NULL      ? error
			: err == TR_EINVAL ? "listen: an address such as '127.0.0.1:8000' is expected"
					   : tr_err_text(err));
	free(error);
	return err;
}

/* start_http_listener(options) -> address, as bound; nil while validating */
static int
l_start_http_listener(lua_State *L)
{
	static const struct tr_key keys[] = {
		{"listen", 's', false},
		{"hostname", 's', false},
		{"use_tls", 'b', false},
		{"tls_certificate", '*', false},
		{"tls_private_key", '*', false},
		{"trusted_hosts", 't', false},
		{"request_body_limit", 'i', false},
	};
	struct tr_run *run = tr_run_check(L, FUNCTION);
	struct listener *listener;
	char message[300] = "out of memory";

	luaL_checktype(L, 1, LUA_TTABLE);
	tr_check_options(L, 1, FUNCTION, keys, TR_COUNT(keys));
	if (tr_opt_bool(L, 1, "use_tls", false))
		return luaL_error(
			L, "%s: use_tls is not supported by Tailrace yet: put a TLS proxy before it", FUNCTION);
	listener = calloc(1, sizeof *listener);
	if (listener == NULL)
		return luaL_error(L, "%s: out of memory", FUNCTION);
	listener->host = tr_host_of(L);
	if (start(L, run, listener, message) != TR_OK) {
		listener_free(listener);
		return luaL_error(L, "%s: %s", FUNCTION, message);
	}
	if (run->validating) {
		listener_free(listener);
		return 0;
	}
	snprintf(listener->name, sizeof listener->name, "http listener %s", tr_http_server_address(listener->server));
	listener->part = (struct tr_run_part){
		.name = listener->name, .stop = part_stop, .busy = part_busy, .abort = part_abort, .free = part_free};
	tr_run_add(run, &listener->part);
	tr_log(TR_LEVEL_INFO, "http_server", "%s is open", listener->name);
	lua_pushstring(L, tr_http_server_address(listener->server));
	return 1;
}

int
luaopen_tr_http_server(lua_State *L)
{
	lua_newtable(L);
	lua_newtable(L);
	lua_pushcfunction(L, l_start_http_listener);
	lua_setfield(L, -2, "start_http_listener");
	lua_setfield(L, -2, "kumo");
	tr_receive_lua_add(L);
	tr_admin_lua_add(L);
	return 1;
}
