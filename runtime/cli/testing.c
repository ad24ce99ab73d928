/* `require 'tr.testing'`, for specs: a whole runtime inside the process of the spec, on a loop of its own, under the
 * virtual clock. The engine is the one of `tailrace run`; only time is replaced. One at a time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/json.h"
#include "cli/server.h"
#include "cli/testing.h"
#include "ingress/receive.h"

#define RUNTIME_TYPE "tr.testing"
#define LIMIT_NS (60 * TR_NS_PER_S) /* of virtual time, for what should end at once */
#define SEGMENT_BYTES (1 << 20)     /* to be filled with zeros at each start */
#define DEFAULT_WALL_S 1785000000

struct runtime {
	struct tr_server *server; /* NULL: stopped */
};

static struct tr_server *running; /* the clock is process-wide */

static struct tr_server *
check(lua_State *L)
{
	struct runtime *runtime = luaL_checkudata(L, 1, RUNTIME_TYPE);

	if (runtime->server == NULL)
		luaL_error(L, "this runtime has been stopped");
	return runtime->server;
}

/* testing.start{policy=FILE, seed=N, clock='virtual'|'real', wall=unix seconds} */
static int
l_start(lua_State *L)
{
	static const struct tr_key keys[] = {
		{"policy", 's', true}, {"seed", 'i', false}, {"clock", 's', false}, {"wall", 'i', false}};
	struct tr_loop *outer = tr_loop_current();
	struct tr_server_config config = {.workers = 1, .segment_bytes = SEGMENT_BYTES};
	struct runtime *runtime;
	char *error = NULL;

	luaL_checktype(L, 1, LUA_TTABLE);
	tr_check_options(L, 1, "testing.start", keys, TR_COUNT(keys));
	if (running != NULL)
		return luaL_error(L, "testing.start: another runtime is not stopped yet");
	config.policy = tr_opt_string(L, 1, "policy", NULL, NULL);
	config.seed = (uint64_t)tr_opt_int(L, 1, "seed", 1);
	runtime = lua_newuserdata(L, sizeof *runtime);
	runtime->server = NULL;
	luaL_getmetatable(L, RUNTIME_TYPE);
	lua_setmetatable(L, -2);
	if (getenv("TAILRACE_LOG") == NULL)
		tr_log_filter("error"); /* days of outages would fill the terminal; $TAILRACE_LOG shows them */
	if (strcmp(tr_opt_string(L, 1, "clock", "virtual", NULL), "virtual") == 0)
		tr_clock_virtual(tr_opt_int(L, 1, "wall", DEFAULT_WALL_S) * TR_NS_PER_S);
	runtime->server = tr_server_boot(&config, &error);
	tr_loop_enter(outer);
	if (runtime->server == NULL) {
		tr_clock_real();
		tr_log_filter("info");
		lua_pushstring(L, error ? error : "out of memory");
		free(error);
		return lua_error(L);
	}
	running = runtime->server;
	return 1;
}

/* runtime:advance(seconds): virtual time passes; everything due in it happens. */
static int
l_advance(lua_State *L)
{
	struct tr_server *server = check(L);
	lua_Number seconds = luaL_checknumber(L, 2);
	struct tr_loop *outer = tr_loop_current();

	luaL_argcheck(L, seconds >= 0, 2, "seconds >= 0 expected");
	tr_loop_enter(tr_server_loop(server));
	tr_loop_advance(tr_server_loop(server), (int64_t)(seconds * 1e9));
	tr_loop_enter(outer);
	return 0;
}

/* runtime:step_clock(seconds): the wall clock jumps, monotonic time does not. */
static int
l_step_clock(lua_State *L)
{
	check(L);
	tr_clock_step((int64_t)(luaL_checknumber(L, 2) * 1e9));
	return 0;
}

struct reception {
	bool ended;
	int status;
	char id[33];
	char error[256];
};

static void
received(struct tr_receive *receive, int status)
{
	struct reception *reception = receive->owner;

	reception->ended = true;
	reception->status = status;
	memcpy(reception->id, receive->items[0].id, sizeof reception->id);
	snprintf(reception->error, sizeof reception->error, "%s",
		receive->items[0].error ? receive->items[0].error
		: status == TR_OK       ? ""
					: tr_err_text(status));
}

static bool
reception_ended(void *arg)
{
	return ((struct reception *)arg)->ended;
}

static void
fill_message(lua_State *L, struct tr_message *message, struct tr_receive *receive)
{
	size_t len;
	const char *text = tr_opt_string(L, 2, "from", "sender@example.com", &len);
	int err = tr_message_set_sender(message, (struct tr_str){text, len});

	if (err == TR_OK) {
		text = tr_opt_string(L, 2, "to", "rcpt@example.org", &len);
		err = tr_message_add_rcpt(message, (struct tr_str){text, len});
	}
	if (err == TR_OK) {
		text = tr_opt_string(L, 2, "data", "Subject: test\r\n\r\ntest\r\n", &len);
		err = tr_message_set_data(message, (struct tr_str){text, len});
	}
	if (err == TR_OK)
		err = tr_meta_set_string(&message->meta, TR_STR("reception_protocol"), TR_STR("ESMTP"));
	lua_getfield(L, 2, "meta");
	if (lua_istable(L, -1)) {
		for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1)) {
			struct tr_str key = tr_str(lua_tostring(L, -2));
			tr_meta_set_string(&message->meta, key, tr_str(lua_tostring(L, -1)));
		}
	}
	lua_pop(L, 1);
	if (err != TR_OK) {
		tr_receive_free(receive);
		luaL_error(L, "receive: %s", tr_err_text(err));
	}
}

/* runtime:receive{from=, to=, data=, meta=} -> id once it is committed; nil, text if it was refused. */
static int
l_receive(lua_State *L)
{
	struct tr_server *server = check(L);
	struct tr_loop *outer = tr_loop_current();
	struct reception reception = {0};
	struct tr_receive *receive;

	luaL_checktype(L, 2, LUA_TTABLE);
	receive = tr_receive_new(tr_engine_worker(tr_server_engine(server), 0), 1);
	if (receive == NULL)
		return luaL_error(L, "out of memory");
	receive->items[0].message = tr_message_new();
	if (receive->items[0].message == NULL) {
		tr_receive_free(receive);
		return luaL_error(L, "out of memory");
	}
	fill_message(L, receive->items[0].message, receive);
	receive->flags = TR_RECEIVE_ALL_OR_NONE;
	receive->owner = &reception;
	tr_loop_enter(tr_server_loop(server));
	tr_receive_start(receive, received);
	if (!tr_loop_run_until(tr_server_loop(server), reception_ended, &reception, LIMIT_NS)) {
		tr_receive_forget(receive);
		tr_loop_enter(outer);
		return luaL_error(L, "receive: no answer within a minute");
	}
	tr_loop_enter(outer);
	if (reception.status != TR_OK || reception.error[0] != '\0') {
		lua_pushnil(L);
		lua_pushstring(L, reception.error);
		return 2;
	}
	lua_pushstring(L, reception.id);
	return 1;
}

struct eval {
	const char *code;
	struct tr_buf out;
	const char *what;
};

static int
run_code(lua_State *L)
{
	struct eval *eval = lua_touserdata(L, 1);

	if (luaL_loadstring(L, eval->code) != 0)
		return lua_error(L);
	lua_call(L, 0, 1);
	if (tr_json_from_lua(L, -1, &eval->out, &eval->what) != TR_OK)
		return luaL_error(L, "the result has a %s", eval->what);
	return 0;
}

/* runtime:eval(code) -> the JSON-able value that the chunk returns in the policy's state. It must not wait. */
static int
l_eval(lua_State *L)
{
	struct tr_server *server = check(L);
	lua_State *inner = tr_host_state(tr_server_host(server));
	struct eval eval = {.code = luaL_checkstring(L, 2)};
	size_t at;

	if (lua_cpcall(inner, run_code, &eval) != 0) {
		lua_pushfstring(L, "eval: %s", lua_tostring(inner, -1) ? lua_tostring(inner, -1) : "an error object");
		lua_pop(inner, 1);
		tr_buf_free(&eval.out);
		return lua_error(L);
	}
	tr_json_push(L, (struct tr_str){eval.out.data, eval.out.len}, false, &at);
	tr_buf_free(&eval.out);
	return 1;
}

/* runtime:ledger() -> table by account, as in /api/tailrace/ledger. */
static int
l_ledger(lua_State *L)
{
	struct tr_ledger ledger = {0};
	struct tr_buf json = {0};
	size_t at;

	if (tr_spool_ledger(tr_server_spool(check(L)), &ledger) != TR_OK)
		return luaL_error(L, "out of memory");
	tr_ledger_json(&ledger, &json);
	tr_ledger_fini(&ledger);
	tr_json_push(L, (struct tr_str){json.data, json.len}, false, &at);
	tr_buf_free(&json);
	return 1;
}

/* runtime:figures() -> counts of the queues. */
static int
l_figures(lua_State *L)
{
	struct tr_queue_figures figures;

	tr_engine_figures(tr_server_engine(check(L)), &figures);
	struct {
		const char *key;
		uint64_t value;
	} fields[] = {{"line", figures.line}, {"timers", figures.timers}, {"ready", figures.ready},
		{"in_flight", figures.in_flight}, {"undecided", figures.undecided}, {"parked", figures.parked},
		{"sessions", figures.sessions}};
	lua_createtable(L, 0, (int)TR_COUNT(fields));
	for (size_t i = 0; i < TR_COUNT(fields); i++) {
		lua_pushnumber(L, (lua_Number)fields[i].value);
		lua_setfield(L, -2, fields[i].key);
	}
	return 1;
}

static bool
has_stopped(void *arg)
{
	return tr_server_stopped(arg);
}

/* runtime:stop([seconds]) -> true if the ledger balances, ledger as text. */
static int
l_stop(lua_State *L)
{
	struct runtime *runtime = luaL_checkudata(L, 1, RUNTIME_TYPE);
	struct tr_server *server = check(L);
	lua_Number deadline_s = luaL_optnumber(L, 2, 20);
	struct tr_loop *outer = tr_loop_current();
	struct tr_buf ledger = {0};
	bool balances;

	tr_loop_enter(tr_server_loop(server));
	tr_server_stop(server, (int64_t)(deadline_s * 1e9));
	if (!tr_loop_run_until(tr_server_loop(server), has_stopped, server, (int64_t)(deadline_s * 1e9) + LIMIT_NS))
		tr_server_stop(server, 0);
	balances = tr_server_free(server, &ledger) == TR_OK;
	runtime->server = running = NULL;
	tr_loop_enter(outer);
	tr_clock_real();
	if (getenv("TAILRACE_LOG") == NULL)
		tr_log_filter("info");
	lua_pushboolean(L, balances);
	lua_pushlstring(L, ledger.data ? ledger.data : "", ledger.len);
	tr_buf_free(&ledger);
	return 2;
}

static int
l_gc(lua_State *L)
{
	struct runtime *runtime = lua_touserdata(L, 1);

	if (runtime->server != NULL) {
		lua_settop(L, 1);
		l_stop(L);
	}
	return 0;
}

int
luaopen_tr_testing(lua_State *L)
{
	static const luaL_Reg methods[] = {
		{"advance", l_advance},
		{"step_clock", l_step_clock},
		{"receive", l_receive},
		{"eval", l_eval},
		{"ledger", l_ledger},
		{"figures", l_figures},
		{"stop", l_stop},
		{NULL, NULL},
	};

	luaL_newmetatable(L, RUNTIME_TYPE);
	lua_newtable(L);
	luaL_setfuncs(L, methods, 0);
	lua_setfield(L, -2, "__index");
	lua_pushcfunction(L, l_gc);
	lua_setfield(L, -2, "__gc");
	lua_newtable(L);
	lua_pushcfunction(L, l_start);
	lua_setfield(L, -2, "start");
	return 1;
}
