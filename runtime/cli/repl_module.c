/* The C module tr.repl, and calls of lua/repl.lua from C. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/diag.h"
#include "cli/repl.h"
#include "cli/repl_socket.h"
#include "cli/server_internal.h"
#include "cli/testing.h"
#include "ingress/run_lua.h"
#include "queue/queue.h"

static _Thread_local struct tr_repl_sink *sinks;

void
tr_repl_sink_add(struct tr_repl_sink *sink)
{
	sink->next = sinks;
	sinks = sink;
}

void
tr_repl_sink_remove(struct tr_repl_sink *sink)
{
	for (struct tr_repl_sink **at = &sinks; *at != NULL; at = &(*at)->next) {
		if (*at == sink) {
			*at = sink->next;
			return;
		}
	}
}

static struct tr_repl_sink *
find_sink(uint32_t id)
{
	struct tr_repl_sink *sink = sinks;

	while (sink != NULL && sink->id != id)
		sink = sink->next;
	return sink;
}

/* --- calls ---------------------------------------------------------------------------------------------------------
 */

static int
install(lua_State *L)
{
	lua_getglobal(L, "require");
	lua_pushliteral(L, "tr.host");
	lua_call(L, 1, 1);
	lua_getfield(L, -1, "internal");
	lua_pushliteral(L, "repl");
	lua_call(L, 1, 0);
	return 0;
}

int
tr_repl_install(struct tr_host *host)
{
	lua_State *L = tr_host_state(host);

	if (lua_cpcall(L, install, NULL) == 0)
		return TR_OK;
	tr_log(TR_LEVEL_ERROR, "repl", "the prompt does not load: %s",
		lua_tostring(L, -1) ? lua_tostring(L, -1) : "(no text)");
	lua_pop(L, 1);
	return TR_EIO;
}

static void
set_text(lua_State *L, const char *key, const char *text)
{
	if (text == NULL)
		return;
	lua_pushstring(L, text);
	lua_setfield(L, -2, key);
}

static int
push_call(lua_State *L, void *arg)
{
	const struct tr_repl_call *call = arg;

	lua_pushstring(L, call->op);
	lua_pushinteger(L, call->id);
	if (call->has_options) {
		lua_newtable(L);
		lua_pushboolean(L, call->terminal);
		lua_setfield(L, -2, "terminal");
		lua_pushboolean(L, call->colour);
		lua_setfield(L, -2, "colour");
		lua_pushboolean(L, call->script);
		lua_setfield(L, -2, "script");
		lua_pushinteger(L, call->width);
		lua_setfield(L, -2, "width");
		lua_pushinteger(L, call->workers);
		lua_setfield(L, -2, "workers");
		set_text(L, "policy", call->policy);
		set_text(L, "peer", call->peer);
		return 3;
	}
	if (!call->has_text) {
		lua_pushinteger(L, call->width);
		return 3;
	}
	lua_pushlstring(L, call->text.data, call->text.len);
	lua_pushboolean(L, call->last);
	return 4;
}

static void
call_ended(void *arg, const struct tr_task_result *result)
{
	struct tr_repl_call *call = arg;

	call->ended = true;
	call->task = NULL;
	call->status = result->status;
	if (result->status != TR_OK) {
		tr_buf_addz(&call->error, result->text);
	} else if (result->count > 0 && lua_type(result->L, -result->count) == LUA_TSTRING) {
		size_t len;
		const char *text = lua_tolstring(result->L, -result->count, &len);
		tr_buf_add(&call->result, text, len);
		if (result->count > 1 && lua_type(result->L, -result->count + 1) == LUA_TSTRING)
			snprintf(call->prompt, sizeof call->prompt, "%s", lua_tostring(result->L, -result->count + 1));
	}
	tr_buf_addc(&call->result, '\0'); /* read as a text */
	tr_buf_addc(&call->error, '\0');
	if (call->end != NULL)
		call->end(call);
}

int
tr_repl_start(struct tr_host *host, struct tr_repl_call *call, int64_t limit_ns, int64_t deadline_ns)
{
	/* "main": the one event in which handlers may be registered. */
	struct tr_task_call task = {.event = "main",
		.entry = "repl",
		.push = push_call,
		.push_arg = call,
		.end = call_ended,
		.end_arg = call,
		.limit_ns = limit_ns,
		.deadline_ns = deadline_ns,
		.ids = "at the prompt"};
	struct tr_task *waiting = NULL;
	int err = tr_task_start(host, &task, &waiting);

	if (waiting != NULL) /* else the call may be gone */
		call->task = waiting;
	return err;
}

void
tr_repl_call_fini(struct tr_repl_call *call)
{
	tr_buf_free(&call->result);
	tr_buf_free(&call->error);
}

void
tr_repl_why_cut(const struct tr_repl_call *call, const char *waited_for, struct tr_buf *out)
{
	const char *at = strstr(call->error.data, "\nstack traceback:\n");

	tr_buf_addz(out, call->status == TR_ETIMEDOUT ? "out of time" : "interrupted");
	if (at == NULL && waited_for != NULL && waited_for[0] != '\0')
		tr_buf_addf(out, " while it waited for %s", waited_for);
	tr_buf_addc(out, '\n');
	for (at = at != NULL ? strchr(at + 1, '\n') : NULL; at != NULL; at = strchr(at, '\n')) {
		const char *line = ++at;
		size_t len = strcspn(line, "\n");
		const char *ours[] = {"lua/host.lua:", "lua/standard.lua:", "lua/repl.lua:",
			"[C]: in function 'raw_xpcall'", "[C]: in function 'fn'"};
		bool skip = len == 0;

		for (size_t i = 0; i < TR_COUNT(ours); i++)
			skip = skip || memmem(line, len, ours[i], strlen(ours[i])) != NULL;
		if (skip)
			continue;
		while (len > 0 && (*line == '\t' || *line == ' ')) {
			line++;
			len--;
		}
		tr_buf_addz(out, "  ");
		tr_buf_add(out, line, len);
		tr_buf_addc(out, '\n');
	}
}

/* --- functions of the module -----------------------------------------------------------------------------------------
 */

/* write(id, text) */
static int
l_write(lua_State *L)
{
	struct tr_repl_sink *sink = find_sink((uint32_t)luaL_checkinteger(L, 1));
	struct tr_str text;

	text.data = luaL_checklstring(L, 2, &text.len);
	if (sink != NULL) /* else: a task that outlived its session */
		sink->write(sink, text);
	return 0;
}

static char trace_key; /* its address: of the traceback that keep_trace() took last, in the registry */

/* keep_trace(err) -> err: the handler of xpcall. In C, because it has to run where the stack has just overflowed. */
static int
l_keep_trace(lua_State *L)
{
	lua_settop(L, 1);
	luaL_traceback(L, L, NULL, 1);
	lua_pushlightuserdata(L, &trace_key);
	lua_insert(L, -2);
	lua_rawset(L, LUA_REGISTRYINDEX);
	return 1;
}

/* take_trace() -> text | nil */
static int
l_take_trace(lua_State *L)
{
	lua_pushlightuserdata(L, &trace_key);
	lua_rawget(L, LUA_REGISTRYINDEX);
	lua_pushlightuserdata(L, &trace_key);
	lua_pushnil(L);
	lua_rawset(L, LUA_REGISTRYINDEX);
	return 1;
}

/* exit(code): the process is to end when this input has; for scripts. */
static int
l_exit(lua_State *L)
{
	if (sinks != NULL) {
		sinks->exits = true;
		sinks->exit_code = (int)luaL_checkinteger(L, 1);
	}
	return 0;
}

/* set_live(bool): the real network is asked, or not any more */
static int
l_set_live(lua_State *L)
{
	if (sinks != NULL)
		sinks->live = lua_toboolean(L, 1);
	return 0;
}

/* tasks() -> text: each task of this state with what it waits for */
static int
l_tasks(lua_State *L)
{
	struct tr_buf out = {0};

	tr_host_report(tr_host_of(L), &out);
	lua_pushlstring(L, out.data ? out.data : "", out.len);
	tr_buf_free(&out);
	return 1;
}

/* real_s() -> seconds of the real clock, whatever the virtual one says: for :time. */
static int
l_real_s(lua_State *L)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	lua_pushnumber(L, (lua_Number)now.tv_sec + (lua_Number)now.tv_nsec / 1e9);
	return 1;
}

/* figures() -> counts of the queues of all workers */
static int
l_figures(lua_State *L)
{
	struct tr_engine *engine = tr_service(L, TR_SERVICE_ENGINE);
	struct tr_queue_figures figures = {0};

	if (engine != NULL)
		tr_engine_figures(engine, &figures);
	tr_push_figures(L, &figures);
	return 1;
}

/* --- emit: a log record of an event that did not happen
 * ---------------------------------------------------------------- */

struct emission {
	struct tr_outbox outbox;
	struct tr_message *message;
	struct tr_addr sender, rcpt;
	struct tr_ticket ticket;
	bool parked, ended, forgotten;
	int status;
};

static void
emission_free(struct emission *emission)
{
	tr_message_free(emission->message);
	free(emission);
}

static int
push_status(lua_State *L, void *arg)
{
	const struct emission *emission = arg;

	lua_pushboolean(L, emission->status == TR_OK);
	if (emission->status == TR_OK)
		return 1;
	lua_pushstring(L, tr_err_text(emission->status));
	return 2;
}

static void
emitted(struct tr_outbox *outbox, int status)
{
	struct emission *emission = tr_container_of(outbox, struct emission, outbox);

	emission->ended = true;
	emission->status = status;
	if (emission->forgotten) {
		emission_free(emission);
	} else if (emission->parked) {
		tr_task_wake(&emission->ticket, push_status, emission, false);
		emission_free(emission);
	}
}

static void
emission_cancel(void *arg)
{
	((struct emission *)arg)->forgotten = true;
}

static struct tr_str
text_field(lua_State *L, const char *key)
{
	struct tr_str text = {NULL, 0};

	lua_getfield(L, 1, key);
	if (lua_type(L, -1) == LUA_TSTRING)
		text.data = lua_tolstring(L, -1, &text.len);
	lua_pop(L, 1); /* the table keeps it */
	return text;
}

static int
int_field(lua_State *L, const char *key, int def)
{
	int value = def;

	lua_getfield(L, 1, key);
	if (lua_type(L, -1) == LUA_TNUMBER)
		value = (int)lua_tonumber(L, -1);
	lua_pop(L, 1);
	return value;
}

static int
fill_message(lua_State *L, struct tr_message *message)
{
	struct tr_str recipient = text_field(L, "recipient"), data = text_field(L, "data"),
		      queue = text_field(L, "queue");
	int err = tr_message_set_sender(message, text_field(L, "sender"));

	if (err == TR_OK)
		err = tr_message_add_rcpt(message, recipient);
	if (err == TR_OK)
		err = tr_message_set_data(message, data);
	if (err == TR_OK && queue.data != NULL)
		err = tr_meta_set_string(&message->meta, TR_STR("queue"), queue);
	lua_getfield(L, 1, "meta");
	if (lua_istable(L, -1)) {
		for (lua_pushnil(L); err == TR_OK && lua_next(L, -2) != 0; lua_pop(L, 1)) {
			size_t key_len, len;
			const char *key, *value;

			if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
				return TR_EINVAL;
			key = lua_tolstring(L, -2, &key_len);
			value = lua_tolstring(L, -1, &len);
			err = tr_meta_set_string(
				&message->meta, (struct tr_str){key, key_len}, (struct tr_str){value, len});
		}
	}
	lua_pop(L, 1);
	message->attempts = (uint16_t)int_field(L, "num_attempts", 0);
	return err;
}

/* emit(fields) -> true, once the hooks' records are stored; false and why. Fields: type, sender, recipient, data,
 * queue, meta, num_attempts, site, code, content, command, peer_name, peer_addr, egress_pool, egress_source,
 * delivery_protocol, provider, session_id. */
static int
l_emit(lua_State *L)
{
	struct tr_task *task = tr_task_check(L);
	struct tr_worker *worker = tr_service(L, TR_SERVICE_WORKER);
	struct emission *emission;
	int type, err;

	luaL_checktype(L, 1, LUA_TTABLE);
	type = tr_event_type_from_name(text_field(L, "type"));
	luaL_argcheck(L, type >= 0, 1, "type: name of a record's type expected");
	if (worker == NULL)
		return luaL_error(L, "emit: there are no queues");
	emission = calloc(1, sizeof *emission);
	if (emission != NULL)
		emission->message = tr_message_new();
	if (emission == NULL || emission->message == NULL) {
		free(emission);
		return luaL_error(L, "emit: out of memory");
	}
	err = fill_message(L, emission->message);
	if (err != TR_OK) {
		emission_free(emission);
		return luaL_error(L, "emit: sender, recipient, data or meta: %s", tr_err_text(err));
	}
	struct tr_event event = {
		.type = (enum tr_event_type)type,
		.message = emission->message,
		.queue = text_field(L, "queue"),
		.site = text_field(L, "site"),
		.response = {.code = int_field(L, "code", 250),
			.content = text_field(L, "content"),
			.command = text_field(L, "command")},
		.peer_name = text_field(L, "peer_name"),
		.peer_addr = text_field(L, "peer_addr"),
		.egress_pool = text_field(L, "egress_pool"),
		.egress_source = text_field(L, "egress_source"),
		.delivery_protocol = text_field(L, "delivery_protocol"),
		.provider = text_field(L, "provider"),
		.session_id = text_field(L, "session_id"),
		.num_attempts = -1,
	};
	event.has_peer = event.peer_addr.data != NULL;
	if (event.response.content.data == NULL)
		event.response.content = TR_STR("");
	tr_response_split_enhanced(&event.response);
	tr_outbox_init(&emission->outbox, worker, emitted, emission);
	tr_outbox_emit(&emission->outbox, &event);
	tr_outbox_submit(&emission->outbox);
	if (emission->ended) {
		int results = push_status(L, emission);
		emission_free(emission);
		return results;
	}
	emission->parked = true;
	tr_task_describe(task, "commit of a record");
	return tr_task_park(task, L, emission_cancel, emission, &emission->ticket);
}

/* kumo.start_repl_socket{path=, time_limit=, timeout=} */
static int
l_start_repl_socket(lua_State *L)
{
	static const char fn[] = "kumo.start_repl_socket";
	static const struct tr_key keys[] = {{"path", 's', true}, {"time_limit", 'd', false}, {"timeout", 'd', false}};
	struct tr_run *run = tr_run_check(L, fn);
	struct tr_repl_socket_config config;
	char *error = NULL;
	int err;

	luaL_checktype(L, 1, LUA_TTABLE);
	tr_check_options(L, 1, fn, keys, TR_COUNT(keys));
	config.path = tr_opt_string(L, 1, "path", NULL, NULL);
	config.run_ns = tr_opt_duration_ns(L, 1, fn, "time_limit", TR_REPL_RUN_NS);
	config.timeout_ns = tr_opt_duration_ns(L, 1, fn, "timeout", TR_REPL_TIMEOUT_NS);
	if (config.path[0] != '/')
		return luaL_error(L, "%s: path = '%s': an absolute path is expected", fn, config.path);
	if (config.run_ns <= 0 || config.run_ns > 5 * TR_NS_PER_S)
		return luaL_error(L, "%s: time_limit: more than 0 and at most 5s expected", fn);
	if (run->validating)
		return 0;
	err = tr_repl_socket_open(tr_container_of(run, struct tr_server, run), &config, &error);
	if (err != TR_OK) {
		lua_pushfstring(L, "%s: %s", fn, error != NULL ? error : tr_err_text(err));
		free(error);
		luaL_where(L, 1);
		lua_insert(L, -2);
		lua_concat(L, 2);
		return lua_error(L);
	}
	return 0;
}

int
luaopen_tr_repl(lua_State *L)
{
	static const luaL_Reg functions[] = {{"write", l_write}, {"exit", l_exit}, {"set_live", l_set_live},
		{"real_s", l_real_s}, {"tasks", l_tasks}, {"figures", l_figures}, {"emit", l_emit},
		{"keep_trace", l_keep_trace}, {"take_trace", l_take_trace}, {NULL, NULL}};

	lua_newtable(L);
	luaL_setfuncs(L, functions, 0);
	lua_newtable(L); /* what becomes part of kumo */
	lua_pushcfunction(L, l_start_repl_socket);
	lua_setfield(L, -2, "start_repl_socket");
	lua_setfield(L, -2, "kumo");
	return 1;
}
