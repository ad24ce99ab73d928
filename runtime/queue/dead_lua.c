/* tr.dead: the binding behind lua/dead.lua. */
#include "queue/dead_lua.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "policy/policy.h"
#include "queue/dead.h"
#include "queue/queue.h"

#define ANSWER_MAX (64 * 1024 * 1024) /* bytes of one list */
#define IDS_MAX 10000

/* A spool that no node runs on. */
struct offline {
	struct tr_spool *spool; /* NULL: closed */
	struct tr_dead_store *store;
};
#define OFFLINE_TYPE "tr.dead.spool"

struct job_op {
	struct tr_dead_job job;
	struct tr_worker *worker; /* NULL: offline; what is replayed waits for the next start */
	struct tr_ticket ticket;
	bool payload, cancelled;
	struct tr_buf json;
	uint64_t shown;
	char *texts; /* hook and reason */
	uint8_t ids[][16];
};

static void
op_free(struct job_op *op)
{
	tr_buf_free(&op->json);
	free(op->texts);
	free(op);
}

static void
each(struct tr_dead_job *job, const struct tr_message *message, struct tr_str info)
{
	struct job_op *op = tr_container_of(job, struct job_op, job);

	if (op->json.len > ANSWER_MAX)
		return; /* `shown` tells that it is not all */
	if (op->shown++ > 0)
		tr_buf_addc(&op->json, ',');
	tr_dead_json(&op->json, message, info, op->payload);
}

static void
moved(struct tr_dead_job *job, const char *queue, const uint32_t *slots, uint32_t count)
{
	tr_queue_insert_stored(tr_container_of(job, struct job_op, job)->worker, tr_str(queue), slots, count);
}

static void
replayed(struct tr_dead_job *job, struct tr_message *message)
{
	struct job_op *op = tr_container_of(job, struct job_op, job);

	if (op->worker != NULL)
		tr_queue_insert(op->worker, message, "Received");
	else
		tr_message_free(message);
}

static void
again(struct tr_dead_job *job, uint32_t slot)
{
	tr_queue_decide_again(tr_container_of(job, struct job_op, job)->worker, slot);
}

static int
push_done(lua_State *L, void *arg)
{
	struct job_op *op = arg;

	if (op->json.failed)
		return tr_push_error(L, TR_ENOMEM, "out of memory");
	if (op->job.cut)
		return tr_push_error(
			L, TR_ECANCELED, "the node stops: %d letters are done, the others stay", (int)op->job.matched);
	lua_pushnumber(L, (lua_Number)op->job.matched);
	lua_pushnumber(L, (lua_Number)op->job.unreadable);
	lua_pushnumber(L, (lua_Number)op->job.parked);
	if (op->job.action == TR_DEAD_LOOK) {
		tr_buf_addc(&op->json, ']');
		lua_pushlstring(L, op->json.data, op->json.len);
		lua_pushnumber(L, (lua_Number)op->shown);
		return 5;
	}
	if (op->job.refused == 0)
		return 3;
	lua_pushnumber(L, (lua_Number)op->job.refused);
	lua_pushstring(L, tr_err_text(op->job.refused_err));
	return 5;
}

static void
done(struct tr_dead_job *job)
{
	struct job_op *op = tr_container_of(job, struct job_op, job);

	if (!op->cancelled)
		tr_task_wake(&op->ticket, push_done, op, false);
	op_free(op);
}

/* The job goes on: what it has begun to move must be finished. */
static void
cancel(void *arg)
{
	((struct job_op *)arg)->cancelled = true;
}

/* The store of the spool at idx, or of the running node. Raises. */
static struct tr_dead_store *
check_store(lua_State *L, int idx)
{
	struct tr_engine *engine = tr_service(L, TR_SERVICE_ENGINE);
	struct offline *offline = lua_isnoneornil(L, idx) ? NULL : luaL_checkudata(L, idx, OFFLINE_TYPE);
	struct tr_dead_store *store = offline != NULL ? offline->store : engine != NULL ? tr_engine_dead(engine) : NULL;

	if (store == NULL)
		luaL_error(L, offline != NULL ? "the spool is closed" : "there are no queues here");
	return store;
}

static int64_t
field_ms(lua_State *L, const char *key)
{
	lua_Number seconds;

	lua_getfield(L, 1, key);
	seconds = lua_tonumber(L, -1);
	lua_pop(L, 1);
	return (int64_t)(seconds * 1e3);
}

static void
read_ids(lua_State *L, struct job_op *op)
{
	lua_getfield(L, 1, "ids");
	for (uint32_t i = 0; i < op->job.id_count; i++) {
		struct tr_str text = {NULL, 0};

		lua_rawgeti(L, -1, (int)i + 1);
		text.data = lua_tolstring(L, -1, &text.len);
		if (text.data == NULL || tr_uuid_from_hex(text, op->ids[i]) != TR_OK)
			memset(op->ids[i], 0xff, 16); /* nobody's */
		lua_pop(L, 1);
	}
	lua_pop(L, 1);
}

/* run{action = "look"|"replay"|"purge", kind = "all"|"letters"|"parked", hook=, ids=, since_s=, until_s=, reason=,
 * after_seq=, limit=, payload=}, spool or nil: the running node's) -> matched, unreadable, parked, then of look: json,
 * shown; of the others, if the disk refused: refused, text | nil, message, code. Checked by lua/dead.lua. */
static int
l_run(lua_State *L)
{
	static const char *const actions[] = {"look", "replay", "purge", NULL};
	static const char *const kinds[] = {"all", "letters", "parked", NULL};
	struct tr_task *task = tr_task_check(L);
	struct tr_dead_store *store = check_store(L, 2);
	bool offline = !lua_isnoneornil(L, 2);
	size_t count, hook_len, reason_len;
	const char *hook, *reason;
	struct job_op *op;
	int action, kind, err;

	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	lua_getfield(L, 1, "action");
	action = luaL_checkoption(L, -1, NULL, actions);
	lua_getfield(L, 1, "kind");
	kind = luaL_checkoption(L, -1, "all", kinds);
	hook = tr_opt_string(L, 1, "hook", NULL, &hook_len);
	reason = tr_opt_string(L, 1, "reason", NULL, &reason_len);
	lua_getfield(L, 1, "ids");
	count = lua_istable(L, -1) ? lua_objlen(L, -1) : 0;
	if (count > IDS_MAX)
		return luaL_error(L, "at most %d ids", IDS_MAX);
	op = calloc(1, sizeof *op + count * sizeof op->ids[0]);
	if (op == NULL)
		return luaL_error(L, "out of memory");
	op->job.id_count = (uint32_t)count;
	op->job.ids = lua_istable(L, -1) ? (const uint8_t(*)[16])op->ids : NULL;
	lua_pop(L, 3);
	op->texts = malloc((hook != NULL ? hook_len : 0) + (reason != NULL ? reason_len : 0) + 2);
	if (op->texts == NULL) {
		op_free(op);
		return luaL_error(L, "out of memory");
	}
	if (hook != NULL)
		op->job.hook = memcpy(op->texts, hook, hook_len + 1);
	if (reason != NULL)
		op->job.reason = memcpy(op->texts + (hook != NULL ? hook_len : 0) + 1, reason, reason_len + 1);
	op->job.action = (enum tr_dead_action)action;
	op->job.kind = (enum tr_dead_kind)kind;
	op->job.since_ms = field_ms(L, "since_s");
	op->job.until_ms = field_ms(L, "until_s");
	op->job.after_seq = (uint64_t)tr_opt_int(L, 1, "after_seq", 0);
	op->job.limit = (uint64_t)tr_opt_int(L, 1, "limit", 0);
	op->payload = tr_opt_bool(L, 1, "payload", false);
	read_ids(L, op);
	op->job.each = each;
	op->job.replayed = replayed;
	op->job.done = done;
	op->worker = offline ? NULL : tr_service(L, TR_SERVICE_WORKER);
	if (op->worker != NULL) {
		op->job.again = again;
		op->job.moved = moved;
	}
	tr_buf_addc(&op->json, '[');
	err = tr_dead_start(store, tr_host_loop(tr_host_of(L)), &op->job);
	if (err != TR_OK) {
		op_free(op);
		return tr_push_error(L, err, "%s", tr_err_text(err));
	}
	tr_task_describe_text(task, "dead letters", "");
	return tr_task_park(task, L, cancel, op, &op->ticket);
}

/* hooks(spool or nil) -> JSON array of names */
static int
l_hooks(lua_State *L)
{
	struct tr_dead_store *store = check_store(L, 1);
	struct tr_buf json = {0};

	tr_dead_hooks(store, &json);
	lua_pushlstring(L, json.failed ? "[]" : json.data, json.failed ? 2 : json.len);
	tr_buf_free(&json);
	return 1;
}

/* --- a stopped node's spool --------------------------------------------------------------------------- */

static void
recovered(void *arg, const struct tr_recovered *message)
{
	struct offline *offline = arg;

	if (message->flags & (TR_MSG_DEAD | TR_MSG_POLICY_ERROR))
		tr_dead_add(offline->store, message->slot, message->queue);
}

/* open(meta, data) -> spool | nil, message, code */
static int
l_open(lua_State *L)
{
	struct tr_spool_config config = {.meta_path = luaL_checkstring(L, 1), .data_path = luaL_checkstring(L, 2)};
	struct offline *offline = lua_newuserdata(L, sizeof *offline);
	struct tr_recovery stats;
	char *error = NULL;
	int err;

	*offline = (struct offline){NULL, NULL};
	luaL_getmetatable(L, OFFLINE_TYPE);
	lua_setmetatable(L, -2);
	err = tr_spool_open(&config, &offline->spool, &error);
	if (err == TR_OK)
		err = tr_dead_new(offline->spool, &offline->store);
	if (err == TR_OK)
		err = tr_spool_recover(offline->spool, recovered, offline, &stats);
	if (err != TR_OK) {
		int results =
			tr_push_error(L, err, "%s: %s", config.meta_path, error != NULL ? error : tr_err_text(err));

		free(error);
		return results;
	}
	return 1;
}

/* spool:close() commits what waits; no job may be under way. */
static int
l_close(lua_State *L)
{
	struct offline *offline = luaL_checkudata(L, 1, OFFLINE_TYPE);

	tr_dead_free(offline->store);
	offline->store = NULL;
	if (offline->spool != NULL)
		tr_spool_close(offline->spool);
	offline->spool = NULL;
	return 0;
}

int
luaopen_tr_dead(lua_State *L)
{
	static const luaL_Reg functions[] = {{"run", l_run}, {"open", l_open}, {"hooks", l_hooks}, {NULL, NULL}};

	luaL_newmetatable(L, OFFLINE_TYPE);
	lua_pushcfunction(L, l_close);
	lua_setfield(L, -2, "__gc");
	lua_newtable(L);
	lua_pushcfunction(L, l_close);
	lua_setfield(L, -2, "close");
	lua_setfield(L, -2, "__index");
	lua_pop(L, 1);
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
