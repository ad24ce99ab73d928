/* Binding of one session for lua/session.lua. The messages that a session has taken are "in hand" here, on the C side,
 * until their outcome is reported, so that a cancelled or failed task cannot lose them. */
#include "queue/session_hand_lua.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/json.h"
#include "message/message_lua.h"

#define SESSION_TYPE "tr.session"

struct box {
	const void *mark;     /* its own type's: no other userdata holds this address */
	struct tr_hand *hand; /* NULL: ended */
};

static const char box_mark;

/* Called for each step of each message: by the mark, as a metatable's name would be looked up and compared. */
struct tr_hand *
tr_hand_check(lua_State *L, int idx)
{
	struct box *box = lua_type(L, idx) == LUA_TUSERDATA ? lua_touserdata(L, idx) : NULL;

	if (box == NULL || lua_objlen(L, idx) != sizeof *box || box->mark != &box_mark) {
		luaL_typerror(L, idx, SESSION_TYPE);
		return NULL; /* not reached: it raises */
	}
	if (box->hand == NULL || box->hand->session == NULL)
		luaL_error(L, "the session has ended");
	return box->hand;
}

struct tr_session *
tr_session_lua_check(lua_State *L, int idx)
{
	return tr_hand_check(L, idx)->session;
}

struct tr_message *
tr_session_lua_hand(lua_State *L, int idx)
{
	return tr_hand_check(L, idx)->list;
}

void
tr_session_lua_on_end(struct tr_session *session, void (*fn)(void *arg), void *arg)
{
	struct tr_hand *hand = session->task;

	hand->on_end = fn;
	hand->on_end_arg = arg;
}

/* The watchdog ended the task: whether the peer has it nobody knows. Attempts stay, and a while passes. */
static void
give_back_stuck(struct tr_hand *hand)
{
	uint32_t count = hand->count;
	struct tr_outcome outcome = {
		.kind = TR_OUT_REQUEUE,
		.reason = "DispatcherDrop",
		.retry_after_ns = 1 + (int64_t)(tr_worker_random(hand->session->worker) * 59e9),
		.response = {451, {4, 4, 1}, TR_STR("no progress within the watchdog timeout"), {NULL, 0}},
		.delivery_protocol = hand->session->queue->protocol == TR_PROTO_LUA ? TR_STR("Lua") : TR_STR("ESMTP"),
	};

	if (count > 0)
		tr_session_report(hand->session, tr_hand_let_go(hand), count, &outcome);
}

/* The session loop itself failed. The messages in hand may be why, so it counts as an attempt: else they would come
 * first again, for ever. */
static void
give_back_failed(struct tr_hand *hand, const char *text)
{
	uint32_t count = hand->count;
	struct tr_buf content = {0};

	if (count == 0)
		return;
	tr_buf_addf(&content, "KumoMTA internal: the session failed: %.*s", (int)strcspn(text, "\n"), text);
	struct tr_outcome outcome = {
		.kind = TR_OUT_TRANSIENT,
		.retry_after_ns = -1,
		.gate_counts = true,
		.response = {.code = 400, .content = {content.data, content.len}},
		.delivery_protocol = hand->session->queue->protocol == TR_PROTO_LUA ? TR_STR("Lua") : TR_STR("ESMTP"),
	};
	tr_session_report(hand->session, tr_hand_let_go(hand), count, &outcome);
	tr_buf_free(&content);
}

/* --- taking --------------------------------------------------------------------------------------- */

static uint32_t
take(struct tr_hand *hand, uint32_t max, uint64_t max_bytes, enum tr_take *why)
{
	struct tr_message *list = NULL;
	uint32_t got = tr_session_take(hand->session, max, max_bytes, &list, why);

	if (got == 0)
		return 0;
	*hand->list_end = list;
	while (*hand->list_end != NULL)
		hand->list_end = &(*hand->list_end)->next;
	hand->count += got;
	return got;
}

/* session:take(max, max_bytes) -> count in hand, or 0, why ("empty", "gate", "close"). Adds to what is in hand. */
static int
l_take(lua_State *L)
{
	static const char *const names[] = {"got", "empty", "gate", "close"};
	struct tr_hand *hand = tr_hand_check(L, 1);
	lua_Integer max = luaL_checkinteger(L, 2);
	lua_Number max_bytes = luaL_optnumber(L, 3, 0);
	enum tr_take why = TR_TAKE_EMPTY;

	luaL_argcheck(L, max >= 1, 2, "at least 1 expected");
	if (take(hand, (uint32_t)max, (uint64_t)max_bytes, &why) > 0) {
		lua_pushinteger(L, hand->count);
		return 1;
	}
	lua_pushinteger(L, hand->count);
	lua_pushstring(L, names[why]);
	return 2;
}

/* session:next(max, min, max_bytes) -> count in hand, with the phase DeliveringMessage begun; or nothing: wait for what
 * is missing (settle, take, wait). What was taken stays in hand. The way of a busy session: one call a round. */
static int
l_next(lua_State *L)
{
	struct tr_hand *hand = tr_hand_check(L, 1);
	lua_Integer max = lua_tointeger(L, 2);
	enum tr_take why;

	if (tr_session_must_settle(hand->session) || tr_session_is_paced(hand->session) || hand->count > 0 || max < 1 ||
		take(hand, (uint32_t)max, (uint64_t)lua_tonumber(L, 4), &why) < (uint32_t)lua_tointeger(L, 3))
		return 0;
	tr_hand_set_phase(hand, TR_PHASE_DELIVERING);
	lua_pushinteger(L, hand->count);
	return 1;
}

/* session:message() -> handle of the first message in hand. */
static int
l_message(lua_State *L)
{
	struct tr_hand *hand = tr_hand_check(L, 1);

	if (hand->list == NULL)
		return luaL_error(L, "no message in hand");
	tr_message_push(L, hand->list);
	return 1;
}

/* session:batch() -> array of handles of all in hand. */
static int
l_batch(lua_State *L)
{
	struct tr_hand *hand = tr_hand_check(L, 1);
	int i = 1;

	lua_createtable(L, (int)hand->count, 0);
	for (struct tr_message *message = hand->list; message != NULL; message = message->next) {
		tr_message_push(L, message);
		lua_rawseti(L, -2, i++);
	}
	return 1;
}

/* session:count() -> messages in hand. */
static int
l_count(lua_State *L)
{
	lua_pushinteger(L, tr_hand_check(L, 1)->count);
	return 1;
}

/* --- state ------------------------------------------------------------------------------------------ */

static int
l_connected(lua_State *L)
{
	tr_session_connected(tr_hand_check(L, 1)->session);
	return 0;
}

/* session:connect_failed(at_once, text) */
static int
l_connect_failed(lua_State *L)
{
	tr_session_connect_failed(tr_hand_check(L, 1)->session, lua_toboolean(L, 2), tr_str(luaL_optstring(L, 3, "")));
	return 0;
}

/* session:feeding() -> domain, tenant or nil, campaign or nil: arguments of a constructor. */
static int
l_feeding(lua_State *L)
{
	struct tr_hand *hand = tr_hand_check(L, 1);
	struct tr_buf name = {0};
	struct tr_queue_name parts;

	tr_session_feeding(hand->session, &name);
	tr_queue_name_parse((struct tr_str){name.data, name.len}, &parts);
	tr_queue_name_push(L, &parts);
	tr_buf_free(&name);
	return 3;
}

static void
set_number(lua_State *L, const char *key, double value)
{
	lua_pushnumber(L, value);
	lua_setfield(L, -2, key);
}

/* session:config() -> table: protocol, constructor, batch sizes, times in seconds, limits. */
static int
l_config(lua_State *L)
{
	struct tr_session *session = tr_hand_check(L, 1)->session;
	const struct tr_queue_config *queue = session->queue;
	const struct tr_path_config *path = session->path;

	lua_createtable(L, 0, 10);
	lua_pushstring(L, queue->protocol == TR_PROTO_LUA ? "custom_lua" : "smtp");
	lua_setfield(L, -2, "protocol");
	if (queue->constructor != NULL) {
		lua_pushstring(L, queue->constructor);
		lua_setfield(L, -2, "constructor");
	}
	set_number(L, "batch_size", queue->protocol == TR_PROTO_LUA ? queue->batch_size : 1);
	set_number(L, "min_batch_size", queue->protocol == TR_PROTO_LUA ? queue->min_batch_size : 1);
	set_number(L, "max_batch_latency_s", (double)queue->max_batch_latency_ns / 1e9);
	set_number(L, "max_batch_bytes", (double)queue->max_batch_bytes);
	set_number(L, "idle_timeout_s", (double)path->idle_timeout_ns / 1e9);
	set_number(L, "max_deliveries", path->max_deliveries_per_connection);
	return 1;
}

void
tr_session_lua_register(lua_State *L)
{
	static const luaL_Reg methods[] = {
		{"take", l_take},
		{"next", l_next},
		{"message", l_message},
		{"batch", l_batch},
		{"count", l_count},
		{"connected", l_connected},
		{"connect_failed", l_connect_failed},
		{"feeding", l_feeding},
		{"config", l_config},
		{NULL, NULL},
	};

	luaL_newmetatable(L, SESSION_TYPE);
	lua_newtable(L);
	luaL_setfuncs(L, methods, 0);
	luaL_setfuncs(L, tr_session_wait_methods, 0);
	luaL_setfuncs(L, tr_session_outcome_methods, 0);
	lua_setfield(L, -2, "__index");
	lua_pop(L, 1);
}

/* --- life --------------------------------------------------------------------------------------------- */

static int
push_session(lua_State *L, void *arg)
{
	struct tr_hand *hand = arg;
	struct box *box = lua_newuserdata(L, sizeof *box);

	*box = (struct box){&box_mark, hand};
	luaL_getmetatable(L, SESSION_TYPE);
	lua_setmetatable(L, -2);
	lua_pushlightuserdata(L, hand); /* so that the end can make the box stale */
	lua_pushvalue(L, -2);
	lua_rawset(L, LUA_REGISTRYINDEX);
	return 1;
}

static void
ended(void *arg, const struct tr_task_result *result)
{
	struct tr_hand *hand = arg;
	struct tr_session *session = hand->session;
	struct tr_wheel *wheel = tr_loop_wheel(tr_host_loop(hand->host));
	lua_State *L = tr_host_state(hand->host);

	while (tr_hand_resume(hand))
		;
	if (hand->aborted) {
		give_back_stuck(hand);
	} else if (result->status != TR_OK && result->status != TR_ECANCELED) {
		tr_log(TR_LEVEL_ERROR, "session", "%.*s: %s", (int)tr_ready_name(session->ready).len,
			tr_ready_name(session->ready).data, result->text);
		session->failed_itself = true;
		give_back_failed(hand, result->text);
	} else {
		tr_hand_give_back(hand, "DispatcherDrop");
	}
	tr_timer_stop(wheel, &hand->timeout);
	tr_timer_stop(wheel, &hand->watchdog);
	tr_loop_undefer(tr_host_loop(hand->host), &hand->waker);
	lua_pushlightuserdata(L, hand);
	lua_rawget(L, LUA_REGISTRYINDEX);
	struct box *box = lua_touserdata(L, -1);
	lua_pop(L, 1);
	if (box != NULL) { /* else to set it to nil would need memory */
		box->hand = NULL;
		lua_pushlightuserdata(L, hand);
		lua_pushnil(L);
		lua_rawset(L, LUA_REGISTRYINDEX);
	}
	if (hand->on_end != NULL)
		hand->on_end(hand->on_end_arg);
	hand->session = NULL;
	session->task = NULL;
	free(hand);
	tr_session_end(session);
}

#define IDS_MAX 10 /* named in a report */

/* Whose messages it has: the mail's or record's id, and the event's. */
static void
name_messages(const struct tr_hand *hand, struct tr_buf *out)
{
	uint32_t count = 0, all = hand->count;

	for (const struct tr_message *message = hand->list; message != NULL && count < IDS_MAX;
		message = message->next) {
		struct tr_str event = tr_message_event_id(message);
		char id[33];

		tr_uuid_hex(message->id, id);
		tr_buf_addf(out, "%s%s", count++ > 0 ? ", " : ": ", id);
		if (event.data != NULL)
			tr_buf_addf(out, " (event %.*s)", (int)event.len, event.data);
	}
	for (const struct tr_aside *aside = hand->aside; aside != NULL; aside = aside->next)
		all += aside->count;
	if (all > count)
		tr_buf_addf(out, " and %u more", all - count);
}

static bool
details(void *arg, struct tr_buf *out)
{
	const struct tr_hand *hand = arg;
	struct tr_str ready = tr_ready_name(hand->session->ready);

	tr_buf_addf(out, "\t%.*s: %s", (int)ready.len, ready.data, hand->session->phase);
	if (hand->count > 0 || hand->aside != NULL) {
		tr_buf_addz(out, ", messages");
		name_messages(hand, out);
	}
	tr_buf_addc(out, '\n');
	return hand->count > 0 || hand->aside != NULL || !hand->waiting;
}

void
tr_session_lua_describe(struct tr_session *session, bool whole, struct tr_buf *out)
{
	const struct tr_hand *hand = session->task;

	if (hand == NULL || hand->task == NULL)
		return;
	if (whole)
		tr_task_report(hand->task, out);
	else
		name_messages(hand, out);
}

static void
troubled(void *arg, const char *text)
{
	struct tr_hand *hand = arg;

	if (hand->session != NULL)
		tr_session_held_up(hand->session, text);
}

int
tr_session_lua_open(struct tr_host *host, struct tr_session *session)
{
	struct tr_hand *hand = calloc(1, sizeof *hand);
	struct tr_task *task = NULL;
	int err;

	if (hand == NULL)
		return TR_ENOMEM;
	hand->session = session;
	hand->host = host;
	hand->list_end = &hand->list;
	session->task = hand;
	struct tr_task_call call = {
		/* a policy's own connection is what its constructor does: named so where it hangs or raises */
		.event = session->queue->protocol == TR_PROTO_LUA && session->queue->constructor != NULL
				 ? session->queue->constructor
				 : "session",
		.entry = "session",
		.push = push_session,
		.push_arg = hand,
		.end = ended,
		.end_arg = hand,
		.ids = session->uuid_text,
		.details = details,
		.troubled = troubled,
	};
	err = tr_task_start(host, &call, &task);
	if (err != TR_OK) {
		session->task = NULL;
		free(hand);
		return err;
	}
	if (task != NULL) /* else it has ended, and hand and session are gone */
		hand->task = task;
	return TR_OK;
}

void
tr_session_lua_cancel(struct tr_session *session)
{
	struct tr_hand *hand = session->task;

	if (hand != NULL && hand->task != NULL)
		tr_task_cancel(hand->task);
}
