/* What lua/admin.lua is made of: rules of the queues, looking into them, metrics, the ledger. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "ingress/http_server_lua.h"
#include "policy/policy.h"
#include "queue/queue.h"

enum { MAX_QUEUE_NAMES = 1000, MAX_REBIND_DATA = 100 };

static struct tr_engine *
check_engine(lua_State *L)
{
	struct tr_engine *engine = tr_service(L, TR_SERVICE_ENGINE);

	if (engine == NULL)
		luaL_error(L, "waiting for spool startup");
	return engine;
}

static int
push_buf(lua_State *L, struct tr_buf *buf)
{
	bool failed = buf->failed;

	if (!failed)
		lua_pushlstring(L, buf->len > 0 ? buf->data : "", buf->len);
	tr_buf_free(buf);
	return failed ? luaL_error(L, "out of memory") : 1;
}

/* --- rules ------------------------------------------------------------------------------------------ */

static const char *const kinds[] = {"bounce", "suspend", "suspend_ready", NULL};

static enum tr_admin_kind
check_kind(lua_State *L)
{
	static const enum tr_admin_kind values[] = {TR_ADMIN_BOUNCE, TR_ADMIN_SUSPEND, TR_ADMIN_SUSPEND_READY};

	return values[luaL_checkoption(L, 1, NULL, kinds)];
}

/* The string stays referenced by the table. */
static const char *
field(lua_State *L, const char *name)
{
	const char *text;

	lua_getfield(L, 2, name);
	text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
	lua_pop(L, 1);
	return text;
}

static bool
flag(lua_State *L, const char *name)
{
	bool set;

	lua_getfield(L, 2, name);
	set = lua_toboolean(L, -1);
	lua_pop(L, 1);
	return set;
}

/* admin_add(kind, {campaign=, tenant=, domain=, routing_domain=, queue_names=, name=, reason=, duration=,
 * suppress_logging=, sweep=})
 * -> id | nil, message, code. The table was checked by the caller; duration in seconds. */
static int
l_admin_add(lua_State *L)
{
	struct tr_engine *engine = check_engine(L);
	enum tr_admin_kind kind = check_kind(L);
	const char *names[MAX_QUEUE_NAMES + 1];
	struct tr_admin_match match = {0};
	double duration_s;
	size_t count = 0;
	char id[37];
	int err;

	luaL_checktype(L, 2, LUA_TTABLE);
	match.campaign = field(L, "campaign");
	match.tenant = field(L, "tenant");
	match.domain = field(L, "domain");
	match.routing_domain = field(L, "routing_domain");
	lua_getfield(L, 2, "queue_names");
	if (lua_istable(L, -1))
		count = lua_objlen(L, -1);
	if (count > MAX_QUEUE_NAMES)
		return luaL_error(L, "queue_names: at most %d names", (int)MAX_QUEUE_NAMES);
	for (size_t i = 0; i < count; i++) {
		lua_rawgeti(L, -1, (int)i + 1);
		names[i] = luaL_checkstring(L, -1);
		lua_pop(L, 1);
	}
	lua_pop(L, 1);
	names[count] = NULL;
	if (count > 0)
		match.queue_names = names;
	lua_getfield(L, 2, "duration");
	duration_s = luaL_checknumber(L, -1);
	lua_pop(L, 1);
	luaL_argcheck(L, duration_s >= 0 && duration_s <= 3e9, 2, "duration must be between 0 and 95 years");
	err = tr_admin_add(engine, kind, &match, field(L, "name"), field(L, "reason"), (int64_t)(duration_s * 1e9),
		flag(L, "suppress_logging"), flag(L, "sweep"), id);
	if (err != TR_OK)
		return tr_push_error(L, err, "%s", tr_err_text(err));
	lua_pushstring(L, id);
	return 1;
}

/* admin_rebind({campaign=, tenant=, domain=, routing_domain=, reason=, data={k=v}, trigger_rebind_event=,
 * always_flush=, suppress_logging=}) -> true | nil, message, code. The table was checked by the caller. */
static int
l_admin_rebind(lua_State *L)
{
	struct tr_engine *engine = check_engine(L);
	const char *data[2 * MAX_REBIND_DATA + 1];
	struct tr_rebind request = {.data = data};
	size_t count = 0;
	int err;

	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	lua_pushnil(L);
	lua_insert(L, 1); /* field() and flag() look at index 2 */
	request.match.campaign = field(L, "campaign");
	request.match.tenant = field(L, "tenant");
	request.match.domain = field(L, "domain");
	request.match.routing_domain = field(L, "routing_domain");
	request.reason = field(L, "reason");
	request.trigger_event = flag(L, "trigger_rebind_event");
	request.always_flush = flag(L, "always_flush");
	request.suppress_logging = flag(L, "suppress_logging");
	lua_getfield(L, 2, "data");
	luaL_checktype(L, -1, LUA_TTABLE);
	for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1)) {
		if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
			return luaL_error(L, "data: names and values are strings");
		if (count == 2 * MAX_REBIND_DATA)
			return luaL_error(L, "data: at most %d values", (int)MAX_REBIND_DATA);
		data[count++] = lua_tostring(L, -2);
		data[count++] = lua_tostring(L, -1);
	}
	data[count] = NULL;
	err = tr_admin_rebind(engine, &request);
	if (err != TR_OK)
		return tr_push_error(L, err, "%s", tr_err_text(err));
	lua_pushboolean(L, 1);
	return 1;
}

static int
l_admin_delete(lua_State *L)
{
	struct tr_engine *engine = check_engine(L);

	lua_pushboolean(L, tr_admin_delete(engine, check_kind(L), luaL_checkstring(L, 2)));
	return 1;
}

static int
l_admin_list(lua_State *L)
{
	struct tr_engine *engine = check_engine(L);
	enum tr_admin_kind kind = check_kind(L);
	struct tr_buf json = {0};

	tr_admin_list(engine, kind, &json);
	return push_buf(L, &json);
}

/* until_s(rfc3339) -> seconds from now, maybe negative | nil, message, code */
static int
l_until_s(lua_State *L)
{
	size_t len;
	const char *text = luaL_checklstring(L, 1, &len);
	int64_t at_ns;

	if (tr_rfc3339_parse(text, len, &at_ns) != TR_OK)
		return tr_push_error(L, TR_EINVAL, "'%s' is not a moment as in RFC 3339", text);
	lua_pushnumber(L, (double)(at_ns - tr_wall_ns()) / 1e9);
	return 1;
}

static int
l_bump_epoch(lua_State *L)
{
	tr_engine_bump_epoch(check_engine(L));
	return 0;
}

/* --- looking into queues ------------------------------------------------------------------------------- */

struct inspect_op {
	struct tr_ticket ticket;
	struct tr_str json; /* of the answer, borrowed while it is pushed */
	bool parked, ended, cancelled;
	char *copy; /* an answer that came at once */
};

static int
push_inspection(lua_State *L, void *arg)
{
	const struct inspect_op *op = arg;

	if (op->json.data == NULL)
		lua_pushnil(L);
	else
		lua_pushlstring(L, op->json.data, op->json.len);
	return 1;
}

static void
inspected(void *arg, struct tr_str json)
{
	struct inspect_op *op = arg;

	if (op->cancelled) {
		free(op);
		return;
	}
	op->json = json;
	op->ended = true;
	if (op->parked) {
		tr_task_wake(&op->ticket, push_inspection, op, false);
		free(op);
	} else if (json.data != NULL) {
		op->copy = malloc(json.len + 1);
		if (op->copy != NULL)
			memcpy(op->copy, json.data, json.len);
		op->json.data = op->copy;
	}
}

/* The engine still answers: the op waits for that. */
static void
inspect_cancel(void *arg)
{
	((struct inspect_op *)arg)->cancelled = true;
}

/* inspect("sched" | "ready" | "message" | "why", name or id, [limit], [want_body]) -> JSON | nil: there is none */
static int
l_inspect(lua_State *L)
{
	static const char *const whats[] = {"sched", "ready", "message", "why", NULL};
	uint8_t id[16];
	struct tr_task *task = tr_task_check(L);
	struct tr_worker *worker = tr_service(L, TR_SERVICE_WORKER);
	int what = luaL_checkoption(L, 1, NULL, whats);
	lua_Number limit = luaL_optnumber(L, 3, UINT32_MAX);
	struct tr_str name;
	struct inspect_op *op;

	name.data = luaL_checklstring(L, 2, &name.len);
	luaL_argcheck(L, limit >= 0, 3, "limit >= 0 expected");
	if (what == 2 && tr_uuid_from_hex(name, id) != TR_OK) {
		lua_pushnil(L);
		return 1;
	}
	if (worker == NULL)
		return luaL_error(L, "waiting for spool startup");
	op = calloc(1, sizeof *op);
	if (op == NULL)
		return luaL_error(L, "out of memory");
	if (what == 0)
		tr_queue_inspect(worker, name, limit > UINT32_MAX ? UINT32_MAX : (uint32_t)limit, lua_toboolean(L, 4),
			inspected, op);
	else if (what == 1)
		tr_ready_inspect(worker, name, inspected, op);
	else if (what == 3)
		tr_why(worker, name, inspected, op);
	else
		tr_message_inspect(worker, id, lua_toboolean(L, 4), inspected, op);
	if (op->ended) {
		int results = push_inspection(L, op);

		free(op->copy);
		free(op);
		return results;
	}
	op->parked = true;
	tr_task_describe(task, "inspection of a queue");
	return tr_task_park(task, L, inspect_cancel, op, &op->ticket);
}

/* --- figures ------------------------------------------------------------------------------------------- */

static int
l_metrics(lua_State *L)
{
	static const char *const forms[] = {"text", "json", NULL};
	int form = luaL_checkoption(L, 1, NULL, forms);
	const char *prefix = luaL_optstring(L, 2, "");
	struct tr_buf out = {0};

	if (form == 0)
		tr_metrics_text(&out, prefix);
	else
		tr_metrics_json(&out, prefix);
	return push_buf(L, &out);
}

static int
l_ledger(lua_State *L)
{
	struct tr_spool *spool = tr_service(L, TR_SERVICE_SPOOL);
	struct tr_ledger ledger = {0};
	struct tr_buf out = {0};
	int err = spool != NULL ? tr_spool_ledger(spool, &ledger) : TR_EAGAIN;

	if (err != TR_OK)
		return luaL_error(L, "%s", spool != NULL ? tr_err_text(err) : "waiting for spool startup");
	tr_ledger_json(&ledger, &out);
	tr_ledger_fini(&ledger);
	return push_buf(L, &out);
}

void
tr_admin_lua_add(lua_State *L)
{
	static const luaL_Reg functions[] = {{"admin_add", l_admin_add}, {"admin_delete", l_admin_delete},
		{"admin_list", l_admin_list}, {"admin_rebind", l_admin_rebind}, {"inspect", l_inspect},
		{"metrics", l_metrics}, {"ledger", l_ledger}, {"until_s", l_until_s}, {NULL, NULL}};

	luaL_setfuncs(L, functions, 0);
	lua_getfield(L, -1, "kumo");
	lua_pushcfunction(L, l_bump_epoch);
	lua_setfield(L, -2, "bump_config_epoch");
	lua_pop(L, 1);
}
