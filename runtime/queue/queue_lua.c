#include "queue/queue_lua.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/json.h"
#include "message/message_lua.h"
#include "queue/config_lua.h"
#include "queue/session_lua.h"
#include "queue/source_lua.h"

#define NAME_BYTES 300 /* of a queue in reports */

static struct tr_host *
host_of(struct tr_worker *worker)
{
	return tr_worker_data(worker);
}

/* Fixed event ids, asked once. */
static struct {
	int queue_config, path_config, throttle_insert, requeue, rebind;
} ids;

static void
push_optional(lua_State *L, bool has, struct tr_str str)
{
	if (has)
		lua_pushlstring(L, str.data ? str.data : "", str.len);
	else
		lua_pushnil(L);
}

/* --- get_queue_config ------------------------------------------------------------------------- */

static int
push_queue_parts(lua_State *L, void *arg)
{
	struct tr_queue_name parts;

	tr_sched_parts(arg, &parts);
	tr_queue_name_push(L, &parts);
	push_optional(L, parts.has_routing, parts.routing_domain);
	return 4;
}

static void
answer_queue(struct tr_sched *sched, struct tr_queue_config *config)
{
	tr_sched_configured(sched, config, config ? NULL : "out of memory");
}

static void
queue_config_ended(void *arg, const struct tr_task_result *result)
{
	struct tr_sched *sched = arg;
	struct tr_queue_config *config;

	if (result->status != TR_OK) {
		tr_sched_configured(sched, NULL, result->text); /* which logs it */
		return;
	}
	if (result->count == 0) {
		answer_queue(sched, tr_queue_config_new());
		return;
	}
	config = tr_queue_config_at(result->L, -result->count);
	if (config == NULL) {
		struct tr_buf text = {0};
		tr_buf_addf(&text,
			"get_queue_config returned %s; the object of kumo.make_queue_config{...} is expected, or no "
			"value "
			"for the next handler",
			luaL_typename(result->L, -result->count));
		tr_buf_addc(&text, '\0');
		tr_sched_configured(sched, NULL, text.failed ? "out of memory" : text.data);
		tr_buf_free(&text);
		return;
	}
	tr_sched_configured(sched, tr_queue_config_ref(config), NULL);
}

static void
resolve_queue(void *arg, struct tr_worker *worker, struct tr_sched *sched)
{
	char name[NAME_BYTES];
	struct tr_task_call call = {
		.push = push_queue_parts, .push_arg = sched, .end = queue_config_ended, .end_arg = sched, .ids = name};
	int err;

	if (!tr_event_handled(host_of(worker), ids.queue_config)) {
		answer_queue(sched, tr_queue_config_new());
		return;
	}
	snprintf(name, sizeof name, "queue %.*s", (int)tr_sched_name(sched).len, tr_sched_name(sched).data);
	err = tr_event_fire(host_of(worker), "get_queue_config", &call, NULL);
	if (err != TR_OK)
		tr_sched_configured(sched, NULL, tr_err_text(err));
}

/* --- get_egress_path_config ---------------------------------------------------------------------- */

static int
push_path(lua_State *L, void *arg)
{
	struct tr_ready *ready = arg;

	push_optional(L, true, tr_ready_routing_domain(ready));
	push_optional(L, true, tr_ready_source(ready));
	push_optional(L, true, tr_ready_site(ready));
	return 3;
}

static void
path_config_ended(void *arg, const struct tr_task_result *result)
{
	struct tr_ready *ready = arg;
	struct tr_path_config *config = NULL;
	int first = -result->count;

	if (result->status != TR_OK) {
		tr_ready_configured(ready, NULL, result->text); /* which logs it */
		return;
	}
	config = result->count > 0 ? tr_path_config_at(result->L, first) : NULL;
	if (config == NULL) {
		char error[160];

		snprintf(error, sizeof error,
			"get_egress_path_config must return the object of kumo.make_egress_path{...}, got %s",
			result->count > 0 ? luaL_typename(result->L, first) : "no value");
		tr_ready_configured(ready, NULL, error);
		return;
	}
	config = tr_ready_is_hook(ready) ? tr_path_config_for_hook(result->L, first) : tr_path_config_ref(config);
	tr_ready_configured(ready, config, config ? NULL : "out of memory");
}

static void
resolve_path(void *arg, struct tr_worker *worker, struct tr_ready *ready)
{
	char name[NAME_BYTES];
	struct tr_task_call call = {
		.push = push_path, .push_arg = ready, .end = path_config_ended, .end_arg = ready, .ids = name};
	int err;

	if (!tr_event_handled(host_of(worker), ids.path_config)) {
		struct tr_path_config *config = tr_path_config_new(tr_ready_is_hook(ready));
		tr_ready_configured(ready, config, config ? NULL : "out of memory");
		return;
	}
	snprintf(name, sizeof name, "ready queue %.*s", (int)tr_ready_name(ready).len, tr_ready_name(ready).data);
	err = tr_event_fire(host_of(worker), "get_egress_path_config", &call, NULL);
	if (err != TR_OK)
		tr_ready_configured(ready, NULL, tr_err_text(err));
}

/* --- throttle_insert_ready_queue --------------------------------------------------------------------- */

struct promotion {
	struct tr_message *message;
	void (*then)(void *arg, const char *error);
	void *then_arg;
};

static int
push_promotion(lua_State *L, void *arg)
{
	tr_message_push(L, ((struct promotion *)arg)->message);
	return 1;
}

static void
promotion_ended(void *arg, const struct tr_task_result *result)
{
	struct promotion promotion = *(struct promotion *)arg;

	free(arg);
	tr_message_revoke(promotion.message);
	promotion.then(promotion.then_arg, result->status == TR_OK ? NULL : result->text);
}

static bool
wants_promote(void *arg, struct tr_worker *worker)
{
	return tr_event_handled(host_of(worker), ids.throttle_insert);
}

/* Fires an event that gets a message and answers nothing; who asked for it logs an error. */
static void
fire_for_message(struct tr_worker *worker, const char *event, struct tr_message *message,
	void (*then)(void *then_arg, const char *error), void *then_arg)
{
	struct promotion *promotion = malloc(sizeof *promotion);
	struct tr_task_call call = {.push = push_promotion,
		.push_arg = promotion,
		.end = promotion_ended,
		.end_arg = promotion,
		.ids = "message",
		.id = message->id};

	if (promotion == NULL) {
		then(then_arg, "out of memory");
		return;
	}
	*promotion = (struct promotion){message, then, then_arg};
	if (tr_event_fire(host_of(worker), event, &call, NULL) != TR_OK) {
		free(promotion);
		then(then_arg, "out of memory");
	}
}

static void
promote(void *arg, struct tr_worker *worker, struct tr_message *message,
	void (*then)(void *then_arg, const char *error), void *then_arg)
{
	fire_for_message(worker, "throttle_insert_ready_queue", message, then, then_arg);
}

/* --- requeue_message ------------------------------------------------------------------------------------ */

struct requeue {
	struct tr_message *message;
	struct tr_str response;
	const char *const *reasons;
	bool increment;
	int64_t delay_ns;
	void (*then)(void *arg, int reject_code, const char *reject_text);
	void *then_arg;
};

static int
push_requeue(lua_State *L, void *arg)
{
	struct requeue *requeue = arg;

	tr_message_push(L, requeue->message);
	lua_pushlstring(L, requeue->response.data, requeue->response.len);
	lua_newtable(L);
	for (int i = 0; requeue->reasons[i] != NULL; i++) {
		lua_pushstring(L, requeue->reasons[i]);
		lua_rawseti(L, -2, i + 1);
	}
	lua_pushboolean(L, requeue->increment);
	if (requeue->delay_ns < 0)
		lua_pushnil(L);
	else
		lua_pushnumber(L, (double)requeue->delay_ns / 1e9);
	return 5;
}

static void
requeue_ended(void *arg, const struct tr_task_result *result)
{
	struct requeue requeue = *(struct requeue *)arg;

	free(arg);
	tr_message_revoke(requeue.message);
	if (result->status != TR_OK && result->reject_code < 0)
		tr_log(TR_LEVEL_ERROR, "queue", "requeue_message: %s", result->text);
	requeue.then(requeue.then_arg, result->status == TR_OK ? -1 : result->reject_code, result->reject_text);
}

static bool
wants_requeue(void *arg, struct tr_worker *worker)
{
	return tr_event_handled(host_of(worker), ids.requeue);
}

static void
requeue_message(void *arg, struct tr_worker *worker, struct tr_message *message, struct tr_str response,
	const char *const *reasons, bool increment, int64_t delay_ns,
	void (*then)(void *then_arg, int reject_code, const char *reject_text), void *then_arg)
{
	struct requeue *requeue = malloc(sizeof *requeue);
	/* entry "requeue" of lua/host.lua turns the seconds into a TimeDelta, then dispatches */
	struct tr_task_call call = {
		.event = "requeue_message",
		.entry = "requeue",
		.push = push_requeue,
		.push_arg = requeue,
		.end = requeue_ended,
		.end_arg = requeue,
		.ids = "message",
		.id = message->id,
	};

	if (requeue == NULL) {
		tr_log(TR_LEVEL_ERROR, "queue", "requeue_message: out of memory, the handler was not asked");
		then(then_arg, -1, NULL);
		return;
	}
	*requeue = (struct requeue){message, response, reasons, increment, delay_ns, then, then_arg};
	if (tr_task_start(host_of(worker), &call, NULL) != TR_OK) {
		free(requeue);
		tr_log(TR_LEVEL_ERROR, "queue", "requeue_message: out of memory, the handler was not asked");
		then(then_arg, -1, NULL);
	}
}

/* --- rebind_message --------------------------------------------------------------------------------------- */

struct rebinding {
	struct tr_message *message;
	const char *const *data;
	void (*then)(void *arg, const char *error);
	void *then_arg;
};

static int
push_rebinding(lua_State *L, void *arg)
{
	struct rebinding *rebinding = arg;

	tr_message_push(L, rebinding->message);
	lua_newtable(L);
	for (const char *const *data = rebinding->data; data[0] != NULL; data += 2) {
		lua_pushstring(L, data[1]);
		lua_setfield(L, -2, data[0]);
	}
	return 2;
}

static void
rebinding_ended(void *arg, const struct tr_task_result *result)
{
	struct rebinding rebinding = *(struct rebinding *)arg;

	free(arg);
	tr_message_revoke(rebinding.message);
	rebinding.then(rebinding.then_arg, result->status == TR_OK ? NULL : result->text);
}

static void
rebind_message(void *arg, struct tr_worker *worker, struct tr_message *message, const char *const *data,
	void (*then)(void *then_arg, const char *error), void *then_arg)
{
	struct rebinding *rebinding;
	struct tr_task_call call = {
		.push = push_rebinding, .end = rebinding_ended, .ids = "message", .id = message->id};

	if (!tr_event_handled(host_of(worker), ids.rebind)) {
		then(then_arg, "there is no handler: kumo.on('rebind_message', function(message, data) ... end)");
		return;
	}
	rebinding = malloc(sizeof *rebinding);
	if (rebinding == NULL) {
		then(then_arg, "out of memory");
		return;
	}
	*rebinding = (struct rebinding){message, data, then, then_arg};
	call.push_arg = call.end_arg = rebinding;
	if (tr_event_fire(host_of(worker), "rebind_message", &call, NULL) != TR_OK) {
		free(rebinding);
		then(then_arg, "out of memory");
	}
}

/* --- spool_message_enumerated ----------------------------------------------------------------------------------- */

static void
enumerated(void *arg, struct tr_worker *worker, struct tr_message *message,
	void (*then)(void *then_arg, const char *error), void *then_arg)
{
	fire_for_message(worker, "spool_message_enumerated", message, then, then_arg);
}

/* --- sessions and handlers ------------------------------------------------------------------------------- */

static int
open_session(void *arg, struct tr_worker *worker, struct tr_session *session)
{
	return tr_session_lua_open(host_of(worker), session);
}

static void
wake_session(void *arg, struct tr_session *session)
{
	tr_session_lua_wake(session);
}

static void
cancel_session(void *arg, struct tr_session *session)
{
	tr_session_lua_cancel(session);
}

static void
describe_session(void *arg, struct tr_session *session, bool whole, struct tr_buf *out)
{
	(void)arg;
	tr_session_lua_describe(session, whole, out);
}

static bool
has_handler(void *arg, struct tr_worker *worker, const char *name)
{
	return tr_event_handled(host_of(worker), tr_event_id(name));
}

void
tr_queue_lua_ops(struct tr_queue_ops *ops)
{
	ids.queue_config = tr_event_id("get_queue_config");
	ids.path_config = tr_event_id("get_egress_path_config");
	ids.throttle_insert = tr_event_id("throttle_insert_ready_queue");
	ids.requeue = tr_event_id("requeue_message");
	ids.rebind = tr_event_id("rebind_message");
	ops->resolve_queue = resolve_queue;
	ops->resolve_path = resolve_path;
	ops->open_session = open_session;
	ops->wake_session = wake_session;
	ops->cancel_session = cancel_session;
	ops->describe_session = describe_session;
	ops->wants_promote = wants_promote;
	ops->promote = promote;
	ops->wants_requeue = wants_requeue;
	ops->requeue = requeue_message;
	ops->rebind = rebind_message;
	ops->enumerated = enumerated;
	ops->has_handler = has_handler;
	tr_source_lua_ops(ops);
}

/* --- module ------------------------------------------------------------------------------------------------ */

/* find_rejection(err) -> code, text; nothing if err is no rejection and wraps none. */
static int
l_find_rejection(lua_State *L)
{
	int code, disconnect;
	const char *text;

	luaL_checkany(L, 1);
	if (!tr_is_rejection(L, 1, &code, &text, &disconnect))
		return 0;
	lua_pushinteger(L, code);
	lua_pushstring(L, text);
	return 2;
}

int
luaopen_tr_queue(lua_State *L)
{
	static const luaL_Reg kumo[] = {
		{"make_queue_config", l_make_queue_config},
		{"make_egress_path", l_make_egress_path},
		{NULL, NULL},
	};
	static const luaL_Reg functions[] = {
		{"config_kind", l_config_kind},
		{NULL, NULL},
	};

	tr_queue_config_register(L);
	lua_newtable(L);
	luaL_setfuncs(L, functions, 0);
	lua_newtable(L);
	luaL_setfuncs(L, kumo, 0);
	lua_setfield(L, -2, "kumo");
	tr_source_lua_register(L);
	return 1;
}

int
luaopen_tr_session(lua_State *L)
{
	static const luaL_Reg functions[] = {
		{"find_rejection", l_find_rejection},
		{NULL, NULL},
	};

	tr_session_lua_register(L);
	lua_newtable(L);
	luaL_setfuncs(L, functions, 0);
	return 1;
}
