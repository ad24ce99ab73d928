/* `tr.sim_memory`, the Lua binding of memory.h, and whose memory never fails though the engine asks for it: that of the
 * script's ears, which keep the records and the lines of the log that it is told. */
#include <string.h>

#include "base/diag.h"
#include "cli/server.h"
#include "memory.h"
#include "memory_lua.h"
#include "record/record.h"

typedef void log_fn(void *arg, enum tr_level level, const char *target, const char *text);
typedef void record_fn(void *arg, const struct tr_event *event, struct tr_str json);

void __real_tr_log_sink(log_fn *sink, void *arg);
struct tr_server *__real_tr_server_boot(const struct tr_server_config *config, char **error);
/* what the linker asks for */
void __real_tr_record_encode(const struct tr_event *event, const char *nodeid, const char event_id[33],
	const struct tr_capture *capture, struct tr_buf *out);
void __wrap_tr_log_sink(log_fn *sink, void *arg);
void __wrap_tr_record_encode(const struct tr_event *event, const char *nodeid, const char event_id[33],
	const struct tr_capture *capture, struct tr_buf *out);
struct tr_server *__wrap_tr_server_boot(const struct tr_server_config *config, char **error);

static struct tr_host *script_host;
static log_fn *log_sink;
static record_fn *record_sink;
static void *log_arg, *record_arg;
static uint64_t failures;

static void
line_logged(void *arg, enum tr_level level, const char *target, const char *text)
{
	int outer = memory_exempt(1);

	(void)arg;
	log_sink(log_arg, level, target, text);
	memory_exempt(outer);
}

void
__wrap_tr_log_sink(log_fn *sink, void *arg)
{
	log_sink = sink;
	log_arg = arg;
	__real_tr_log_sink(sink != NULL ? line_logged : NULL, NULL);
}

static void
record_made(void *arg, const struct tr_event *event, struct tr_str json)
{
	int outer = memory_exempt(1);

	(void)arg;
	record_sink(record_arg, event, json);
	memory_exempt(outer);
}

/* The lines for the script are those with all metadata and headers: no hook of the simulation asks for that. */
void
__wrap_tr_record_encode(const struct tr_event *event, const char *nodeid, const char event_id[33],
	const struct tr_capture *capture, struct tr_buf *out)
{
	int outer;

	if (capture->meta == NULL || capture->meta[0] == NULL || strcmp(capture->meta[0], "*") != 0) {
		__real_tr_record_encode(event, nodeid, event_id, capture, out);
		return;
	}
	outer = memory_exempt(1);
	__real_tr_record_encode(event, nodeid, event_id, capture, out);
	memory_exempt(outer);
}

struct tr_server *
__wrap_tr_server_boot(const struct tr_server_config *config, char **error)
{
	struct tr_server_config own = *config;

	record_sink = own.record;
	record_arg = own.record_arg;
	if (own.record != NULL)
		own.record = record_made;
	return __real_tr_server_boot(&own, error);
}

void
sim_memory_host(struct tr_host *host)
{
	script_host = host;
	if (host == NULL)
		memory_script_host(NULL);
}

static void
count_failure(void)
{
	failures++;
}

/* use(): from the next start on allocations can fail, which costs a little */
static int
l_use(lua_State *L)
{
	(void)L;
	memory_script_host(script_host);
	memory_on_failure(count_failure);
	return 0;
}

/* fail('malloc' | 'lua', after, times): so many allocations go well, then so many fail */
static int
l_fail(lua_State *L)
{
	memory_arm(strcmp(luaL_checkstring(L, 1), "lua") == 0 ? MEMORY_LUA : MEMORY_C, (uint64_t)luaL_checknumber(L, 2),
		(uint64_t)luaL_checknumber(L, 3));
	return 0;
}

/* calm(): nothing fails any more */
static int
l_calm(lua_State *L)
{
	(void)L;
	memory_disarm(MEMORY_C);
	memory_disarm(MEMORY_LUA);
	memory_calm();
	return 0;
}

/* will_fail() -> some will */
static int
l_will_fail(lua_State *L)
{
	lua_pushboolean(L, memory_armed());
	return 1;
}

/* failures() -> how many have failed */
static int
l_failures(lua_State *L)
{
	lua_pushnumber(L, (lua_Number)failures);
	return 1;
}

int
luaopen_tr_sim_memory(lua_State *L)
{
	static const luaL_Reg functions[] = {{"use", l_use}, {"fail", l_fail}, {"calm", l_calm},
		{"will_fail", l_will_fail}, {"failures", l_failures}, {NULL, NULL}};

	lua_newtable(L);
	luaL_setfuncs(L, functions, 0);
	return 1;
}
