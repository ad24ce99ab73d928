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

struct job_op {
	struct tr_dead_job job;
	struct tr_worker *worker;
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
replayed(struct tr_dead_job *job, struct tr_message *message)
{
	tr_queue_insert(tr_container_of(job, struct job_op, job)->worker, message, "Received");
}

static int
push_done(lua_State *L, void *arg)
{
	struct job_op *op = arg;

	if (op->json.failed)
		return tr_push_error(L, TR_ENOMEM, "out of memory");
	lua_pushnumber(L, (lua_Number)op->job.matched);
	lua_pushnumber(L, (lua_Number)op->job.unreadable);
	if (op->job.action != TR_DEAD_LOOK)
		return 2;
	tr_buf_addc(&op->json, ']');
	lua_pushlstring(L, op->json.data, op->json.len);
	lua_pushnumber(L, (lua_Number)op->shown);
	return 4;
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

/* run{action = "look"|"replay"|"purge", hook=, ids=, since_s=, until_s=, reason=, after_seq=, limit=, payload=} ->
 * matched, unreadable, json, shown | nil, message, code. Checked by lua/dead.lua. */
static int
l_run(lua_State *L)
{
	static const char *const actions[] = {"look", "replay", "purge", NULL};
	struct tr_engine *engine = tr_service(L, TR_SERVICE_ENGINE);
	struct tr_task *task = tr_task_check(L);
	size_t count, hook_len, reason_len;
	const char *hook, *reason;
	struct job_op *op;
	int action, err;

	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	if (engine == NULL)
		return luaL_error(L, "there are no queues here");
	lua_getfield(L, 1, "action");
	action = luaL_checkoption(L, -1, NULL, actions);
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
	lua_pop(L, 2);
	op->texts = malloc((hook != NULL ? hook_len : 0) + (reason != NULL ? reason_len : 0) + 2);
	if (op->texts == NULL) {
		op_free(op);
		return luaL_error(L, "out of memory");
	}
	if (hook != NULL)
		op->job.hook = strcpy(op->texts, hook);
	if (reason != NULL)
		op->job.reason = strcpy(op->texts + (hook != NULL ? hook_len : 0) + 1, reason);
	op->job.action = (enum tr_dead_action)action;
	op->job.since_ms = field_ms(L, "since_s");
	op->job.until_ms = field_ms(L, "until_s");
	op->job.after_seq = (uint64_t)tr_opt_int(L, 1, "after_seq", 0);
	op->job.limit = (uint64_t)tr_opt_int(L, 1, "limit", 0);
	op->payload = tr_opt_bool(L, 1, "payload", false);
	read_ids(L, op);
	op->job.each = each;
	op->job.replayed = replayed;
	op->job.done = done;
	op->worker = tr_service(L, TR_SERVICE_WORKER);
	tr_buf_addc(&op->json, '[');
	err = tr_dead_start(tr_engine_dead(engine), tr_worker_loop(op->worker), &op->job);
	if (err != TR_OK) {
		op_free(op);
		return tr_push_error(L, err, "%s", tr_err_text(err));
	}
	tr_task_describe_text(task, "dead letters", "");
	return tr_task_park(task, L, cancel, op, &op->ticket);
}

int
luaopen_tr_dead(lua_State *L)
{
	static const luaL_Reg functions[] = {{"run", l_run}, {NULL, NULL}};

	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
