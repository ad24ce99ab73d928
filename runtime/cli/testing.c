/* `require 'tr.testing'`, for specs: a whole runtime inside the process of the spec, on the loop of the spec, under the
 * virtual clock. The engine is the one of `tailrace run`; only time is replaced, and on demand the network
 * (net/scripted.h). One at a time. What takes time parks the task that asks, so that other tasks of the spec (scripted
 * endpoints) go on. */
#include "cli/testing.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/testing_internal.h"

#define LIMIT_NS (60 * TR_NS_PER_S) /* of virtual time, for what should end at once */
#define SEGMENT_BYTES (1 << 20)     /* to be filled with zeros at each start */
#define DEFAULT_WALL_S 1785000000

static struct tr_testing *running; /* the clock is the process's */
static char running_key;           /* in the registry: so that it is not collected */

struct tr_testing *
tr_testing_check(lua_State *L)
{
	struct tr_testing *runtime = luaL_checkudata(L, 1, TR_TESTING_TYPE);

	if (runtime->server == NULL || runtime->stopping)
		luaL_error(L, "this runtime has been stopped");
	return runtime;
}

/* --- start --- */

struct start {
	struct tr_defer defer;
	struct tr_ticket ticket;
	struct tr_testing *runtime;
	struct tr_server_config config; /* its texts are ours */
	struct tr_spool_config sizes;
	char *policy, *offline;
	char *error; /* malloc'ed; NULL: none, or no memory for it */
	bool failed, cancelled;
};

static void
free_start(struct start *start)
{
	free(start->policy);
	free(start->offline);
	free(start->error);
	free(start);
}

static int
remove_entry(const char *path, const struct stat *about, int type, struct FTW *ftw)
{
	return remove(path);
}

/* "DIR/tailrace-test.XXXXXX"; NULL: errno. */
static char *
make_temporary(void)
{
	const char *dir = getenv("TMPDIR");
	char *path;

	if (asprintf(&path, "%s/tailrace-test.XXXXXX", dir != NULL && dir[0] != '\0' ? dir : "/tmp") < 0)
		return NULL;
	if (mkdtemp(path) != NULL)
		return path;
	free(path);
	return NULL;
}

static void
back_to_real(struct tr_testing *runtime)
{
	if (runtime->temporary != NULL)
		nftw(runtime->temporary, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
	free(runtime->temporary);
	runtime->temporary = NULL;
	running = NULL;
	tr_log_sink(NULL, NULL);
	tr_log_filter("info");
	tr_uuid_repeatable(0);
	if (runtime->was_virtual)
		return;
	tr_loop_orderly(runtime->loop, false);
	tr_clock_real();
}

static int
push_started(lua_State *L, void *arg)
{
	const struct start *start = arg;

	if (start->failed) {
		lua_pushstring(L, start->error != NULL ? start->error : "out of memory");
		return 1;
	}
	lua_pushlightuserdata(L, &running_key);
	lua_rawget(L, LUA_REGISTRYINDEX);
	return 1;
}

static int
push_install(lua_State *L, void *arg)
{
	const struct start *start = arg;

	lua_pushfstring(
		L, "require('tr.host').internal('test.inside').install(%s)", start->config.scripted ? "true" : "false");
	return 1;
}

/* Before the policy is loaded: what stands in for the libraries of brokers, and for os.exit. */
static void
prepared(void *arg, struct tr_server *server)
{
	struct tr_task_call call = {.entry = "evaluate", .push = push_install, .push_arg = arg};

	tr_task_start(tr_server_host(server), &call, NULL); /* it does not wait; an error is logged */
}

/* From the loop, so that no Lua is under way below: the policy's start runs turns of its own. */
static void
start_now(struct tr_defer *defer)
{
	struct start *start = tr_container_of(defer, struct start, defer);
	struct tr_testing *runtime = start->runtime;

	runtime->server = tr_server_boot(&start->config, &start->error);
	start->failed = runtime->server == NULL;
	if (start->failed)
		back_to_real(runtime);
	if (!start->cancelled)
		tr_task_wake(&start->ticket, push_started, start, start->failed);
	free_start(start);
}

static void
start_cancel(void *op)
{
	((struct start *)op)->cancelled = true; /* it ends by itself; the collector stops the runtime */
}

static uint64_t
scramble(uint64_t seed)
{
	seed = (seed ^ (seed >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	return seed ^ (seed >> 31);
}

/* The table at the top of the stack, if it is one. */
static void
take_sizes(lua_State *L, struct tr_spool_config *sizes)
{
	static const struct tr_key keys[] = {{"segment_bytes", 'i', false}, {"change_bytes", 'i', false},
		{"group_bytes", 'i', false}, {"pending_bytes", 'i', false}, {"reserve_bytes", 'i', false},
		{"floor_bytes", 'i', false}, {"body_file_bytes", 'i', false}, {"first_segment", 'i', false},
		{"first_generation", 'i', false}};
	int idx = lua_gettop(L);

	tr_check_options(L, idx, "testing.start: spool_sizes", keys, TR_COUNT(keys));
	sizes->segment_bytes = (uint64_t)tr_opt_int(L, idx, "segment_bytes", SEGMENT_BYTES);
	sizes->change_bytes = (uint64_t)tr_opt_int(L, idx, "change_bytes", 0);
	sizes->group_bytes = (uint64_t)tr_opt_int(L, idx, "group_bytes", 0);
	sizes->pending_bytes = (uint64_t)tr_opt_int(L, idx, "pending_bytes", 0);
	sizes->reserve_bytes = (uint64_t)tr_opt_int(L, idx, "reserve_bytes", 0);
	sizes->floor_bytes = (uint64_t)tr_opt_int(L, idx, "floor_bytes", 0);
	sizes->body_file_bytes = (uint32_t)tr_opt_int(L, idx, "body_file_bytes", 0);
	sizes->first_segment = (uint64_t)tr_opt_int(L, idx, "first_segment", 0);
	sizes->first_generation = (uint32_t)tr_opt_int(L, idx, "first_generation", 0);
}

/* testing.start{policy=, seed=, clock='virtual'|'real', wall=unix seconds, offline=dir, scripted=, log='warn',
 * spool_sizes={segment_bytes=, ...}} */
static int
l_start(lua_State *L)
{
	static const struct tr_key keys[] = {{"policy", 's', true}, {"seed", 'i', false}, {"clock", 's', false},
		{"wall", 'i', false}, {"offline", 's', false}, {"scripted", 'b', false}, {"log", 's', false},
		{"spool_sizes", 't', false}};
	static const char *const levels[] = {"trace", "debug", "info", "warn", "error"};
	struct tr_task *task = tr_task_check(L);
	struct tr_testing *runtime;
	struct start *start;
	struct tr_spool_config sizes = {0};
	const char *text, *level;
	char filter[16];
	bool keeps, offline, sized;

	luaL_checktype(L, 1, LUA_TTABLE);
	tr_check_options(L, 1, "testing.start", keys, TR_COUNT(keys));
	if (running != NULL)
		return luaL_error(L, "testing.start: another runtime is not stopped yet");
	lua_getfield(L, 1, "log");
	keeps = !lua_isnil(L, -1);
	lua_pop(L, 1);
	lua_getfield(L, 1, "spool_sizes");
	sized = !lua_isnil(L, -1);
	if (sized)
		take_sizes(L, &sizes);
	lua_pop(L, 1);
	level = tr_opt_string(L, 1, "log", "error", NULL);
	text = tr_opt_string(L, 1, "clock", "virtual", NULL);
	if (strcmp(text, "virtual") != 0 && strcmp(text, "real") != 0)
		return luaL_error(L, "testing.start: clock: 'virtual' or 'real' expected, got '%s'", text);
	runtime = lua_newuserdata(L, sizeof *runtime);
	*runtime = (struct tr_testing){.loop = tr_host_loop(tr_host_of(L)), .log_level = TR_LEVEL_ERROR + 1};
	luaL_getmetatable(L, TR_TESTING_TYPE);
	lua_setmetatable(L, -2);
	for (size_t i = 0; i < TR_COUNT(levels); i++) {
		if (strcmp(level, levels[i]) == 0)
			runtime->log_level = (enum tr_level)i;
	}
	if (runtime->log_level > TR_LEVEL_ERROR)
		return luaL_error(
			L, "testing.start: log: 'error', 'warn', 'info', 'debug' or 'trace' expected, got '%s'", level);
	lua_pushlightuserdata(L, &running_key);
	lua_pushvalue(L, -2);
	lua_rawset(L, LUA_REGISTRYINDEX);

	start = calloc(1, sizeof *start);
	if (start != NULL) {
		text = tr_opt_string(L, 1, "policy", NULL, NULL);
		start->policy = strdup(text);
		text = tr_opt_string(L, 1, "offline", NULL, NULL);
		if (text != NULL && strcmp(text, "temporary") == 0) {
			text = runtime->temporary = make_temporary();
			if (text == NULL) {
				free_start(start);
				return luaL_error(
					L, "no directory for the spool can be made in $TMPDIR: %s", strerror(errno));
			}
		}
		start->offline = text != NULL ? strdup(text) : NULL;
	}
	if (start == NULL || start->policy == NULL || (text != NULL && start->offline == NULL)) {
		if (start != NULL)
			free_start(start);
		return luaL_error(L, "out of memory");
	}
	start->runtime = runtime;
	offline = start->offline != NULL;
	start->config = (struct tr_server_config){
		.policy = start->policy,
		.workers = 1,
		.segment_bytes = SEGMENT_BYTES,
		.seed = (uint64_t)tr_opt_int(L, 1, "seed", 1),
		.spool_dir = start->offline,
		.loop = runtime->loop,
		.scripted = tr_opt_bool(L, 1, "scripted", false),
		.record = tr_testing_record_made,
		.record_arg = runtime,
		.prepared = offline || tr_opt_bool(L, 1, "scripted", false) ? prepared : NULL,
		.prepared_arg = start,
	};
	if (sized) {
		start->sizes = sizes;
		start->config.spool_sizes = &start->sizes;
	}
	running = runtime;
	runtime->echo = getenv("TAILRACE_LOG") != NULL;
	if (!runtime->echo) { /* days of outages would fill the terminal */
		snprintf(filter, sizeof filter, "%s", levels[runtime->log_level]);
		tr_log_filter(filter);
	}
	if (keeps) /* else errors are printed */
		tr_log_sink(tr_testing_line_logged, runtime);
	runtime->was_virtual = tr_clock_is_virtual();
	if (strcmp(tr_opt_string(L, 1, "clock", "virtual", NULL), "virtual") == 0 && !runtime->was_virtual) {
		tr_clock_virtual_from_here(tr_opt_int(L, 1, "wall", DEFAULT_WALL_S) * TR_NS_PER_S);
		tr_loop_orderly(runtime->loop, start->config.scripted);
	}
	if (start->config.scripted)
		tr_uuid_repeatable(scramble(start->config.seed + 1));
	tr_loop_defer(runtime->loop, &start->defer, start_now);
	tr_task_describe(task, "the start of a runtime");
	return tr_task_park(task, L, start_cancel, start, &start->ticket);
}

/* --- stop --- */

struct stop {
	struct tr_defer defer;
	struct tr_timer limit;
	struct tr_ticket ticket;
	struct tr_testing *runtime;
	struct tr_buf ledger;
	bool balances, cancelled, cut;
};

static int
push_stopped(lua_State *L, void *arg)
{
	const struct stop *stop = arg;

	lua_pushboolean(L, stop->balances);
	lua_pushlstring(L, stop->ledger.data ? stop->ledger.data : "", stop->ledger.len);
	return 2;
}

static void
finish(struct tr_testing *runtime, struct tr_buf *ledger, bool *balances)
{
	struct tr_server *server = runtime->server;

	*balances = tr_server_free(server, ledger) == TR_OK;
	runtime->server = NULL;
	back_to_real(runtime);
}

/* From the loop: the end runs turns of its own. */
static void
stop_now(struct tr_defer *defer)
{
	struct stop *stop = tr_container_of(defer, struct stop, defer);

	tr_timer_stop(tr_loop_wheel(stop->runtime->loop), &stop->limit);
	finish(stop->runtime, &stop->ledger, &stop->balances);
	if (!stop->cancelled)
		tr_task_wake(&stop->ticket, push_stopped, stop, false);
	tr_buf_free(&stop->ledger);
	free(stop);
}

static void
server_stopped(void *arg)
{
	struct stop *stop = arg;

	tr_loop_defer(stop->runtime->loop, &stop->defer, stop_now);
}

static void
stop_limit(struct tr_timer *timer)
{
	struct stop *stop = tr_container_of(timer, struct stop, limit);

	if (!stop->cut) {
		stop->cut = true;
		tr_timer_start(tr_loop_wheel(stop->runtime->loop), timer, LIMIT_NS, stop_limit);
		tr_server_stop(stop->runtime->server, 0); /* may end it at once */
	} else {
		server_stopped(stop);
	}
}

static void
stop_cancel(void *op)
{
	((struct stop *)op)->cancelled = true;
}

/* runtime:stop([seconds]) -> true if the ledger balances, ledger as text. */
static int
l_stop(lua_State *L)
{
	struct tr_testing *runtime = tr_testing_check(L);
	lua_Number deadline_s = luaL_optnumber(L, 2, 20);
	struct tr_task *task = tr_task_check(L);
	struct stop *stop;
	int result;

	luaL_argcheck(L, deadline_s >= 0 && deadline_s < 1e9, 2, "seconds >= 0 expected");
	stop = calloc(1, sizeof *stop);
	if (stop == NULL)
		return luaL_error(L, "out of memory");
	stop->runtime = runtime;
	runtime->stopping = true;
	tr_server_on_stopped(runtime->server, server_stopped, stop);
	tr_timer_start(tr_loop_wheel(runtime->loop), &stop->limit, (int64_t)(deadline_s * 1e9) + LIMIT_NS, stop_limit);
	tr_server_stop(runtime->server, (int64_t)(deadline_s * 1e9));
	tr_task_describe(task, "the stop of a runtime");
	result = tr_task_park(task, L, stop_cancel, stop, &stop->ticket);
	return result;
}

static bool
has_stopped(void *arg)
{
	return tr_server_stopped(arg);
}

/* Only of one that was forgotten; the state is mostly being closed. */
static int
l_gc(lua_State *L)
{
	struct tr_testing *runtime = lua_touserdata(L, 1);
	bool balances;

	if (runtime->server != NULL) {
		tr_server_stop(runtime->server, 0);
		tr_loop_run_until(runtime->loop, has_stopped, runtime->server, LIMIT_NS);
		finish(runtime, NULL, &balances);
	}
	tr_buf_free(&runtime->records);
	tr_buf_free(&runtime->log);
	free(runtime->temporary);
	return 0;
}

int
luaopen_tr_testing(lua_State *L)
{
	static const luaL_Reg methods[] = {
		{"advance", tr_testing_advance},
		{"step_clock", tr_testing_step_clock},
		{"receive", tr_testing_receive},
		{"event", tr_testing_event},
		{"eval", tr_testing_eval},
		{"ledger", tr_testing_ledger},
		{"balances", tr_testing_balances},
		{"figures", tr_testing_figures},
		{"spool", tr_testing_spool},
		{"tasks", tr_testing_tasks},
		{"take_records", tr_testing_take_records},
		{"take_log", tr_testing_take_log},
		{"stop", l_stop},
		{NULL, NULL},
	};

	luaL_newmetatable(L, TR_TESTING_TYPE);
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
