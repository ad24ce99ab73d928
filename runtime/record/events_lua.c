/* What the recorder asks the policy (struct tr_record_ops): events that decide about records, and templates. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/diag.h"
#include "base/metrics.h"
#include "message/message_lua.h"
#include "record/record_lua.h"

static int should_enqueue_id; /* of tr_event_id() */

static struct tr_host *
host_of(struct tr_worker *worker)
{
	return tr_worker_data(worker);
}

static int
push_decision(lua_State *L, void *arg)
{
	const struct tr_decision *decision = arg;

	tr_message_push(L, decision->record);
	lua_pushstring(L, decision->hook);
	return 2;
}

static void
decision_ended(void *arg, const struct tr_task_result *result)
{
	struct tr_decision *decision = arg;

	tr_message_revoke(decision->record);
	if (result->status == TR_OK) /* what is not nil and not false keeps it; no handler answered: dropped */
		decision->then(decision, result->count > 0 && lua_toboolean(result->L, -result->count), NULL);
	else if (result->status == TR_ECANCELED)
		decision->then(decision, false, tr_record_cancelled);
	else
		decision->then(
			decision, false, result->text != NULL ? result->text : "should_enqueue_log_record failed");
}

static bool
known_queue(void *arg, struct tr_worker *worker, const char *hook, struct tr_known *out)
{
	return tr_record_known_queue(host_of(worker), hook, out);
}

static void
decide(void *arg, struct tr_worker *worker, struct tr_decision *decision)
{
	struct tr_task_call call = {.push = push_decision,
		.push_arg = decision,
		.end = decision_ended,
		.end_arg = decision,
		.ids = "log record",
		.id = decision->record->id};
	struct tr_known known;
	int err;

	if (known_queue(arg, worker, decision->hook, &known)) {
		err = tr_meta_set(&decision->record->meta, TR_STR("queue"), known.json);
		decision->then(decision, err == TR_OK, err == TR_OK ? NULL : "out of memory");
		return;
	}
	if (!tr_event_handled(host_of(worker), should_enqueue_id)) {
		decision->then(decision, false, NULL);
		return;
	}
	err = tr_event_fire(host_of(worker), "should_enqueue_log_record", &call, NULL);
	if (err != TR_OK) /* at the end of the process it stays undecided, and is no error of the policy */
		decision->then(decision, false, err == TR_ECANCELED ? tr_record_cancelled : "out of memory");
}

struct disposition {
	struct tr_message *message; /* the owner's; read only by convention of the event */
	struct tr_str json;         /* valid until the arguments are pushed */
	char *event;
	void (*then)(void *arg);
	void *then_arg;
};

static int
push_disposition(lua_State *L, void *arg)
{
	const struct disposition *disposition = arg;
	size_t error_at;

	tr_message_push(L, disposition->message);
	if (tr_json_push(L, disposition->json, true, &error_at) != TR_OK)
		return luaL_error(L, "the record is not valid JSON at byte %d", (int)error_at);
	return 2;
}

static void
disposition_ended(void *arg, const struct tr_task_result *result)
{
	struct disposition *disposition = arg;
	void (*then)(void *) = disposition->then;
	void *then_arg = disposition->then_arg;

	if (result->status != TR_OK)
		tr_log(TR_LEVEL_ERROR, "record", "%s: %s", disposition->event, result->text);
	free(disposition->event);
	free(disposition);
	then(then_arg);
}

static void
dispose(void *arg, struct tr_worker *worker, const struct tr_message *message, const char *hook,
	struct tr_str record_json, void (*then)(void *then_arg), void *then_arg)
{
	struct disposition *disposition = calloc(1, sizeof *disposition);
	struct tr_task_call call = {
		.push = push_disposition, .push_arg = disposition, .end = disposition_ended, .end_arg = disposition};

	if (disposition != NULL && asprintf(&disposition->event, "log_disposition_%s", hook) >= 0) {
		disposition->message = (struct tr_message *)message;
		disposition->json = record_json;
		disposition->then = then;
		disposition->then_arg = then_arg;
		if (tr_event_fire(host_of(worker), disposition->event, &call, NULL) == TR_OK)
			return;
		free(disposition->event);
	}
	free(disposition);
	tr_log(TR_LEVEL_ERROR, "record", "log_disposition_%s: out of memory", hook);
	then(then_arg);
}

struct filter {
	struct tr_message *message;
	const char *event; /* the logger's */
	void (*then)(void *arg, bool write);
	void *then_arg;
};

static struct tr_metric *filter_failures; /* kept for the life of the process, so that the count is */
static pthread_once_t filter_failures_once = PTHREAD_ONCE_INIT;

static void
make_filter_failures(void)
{
	filter_failures = tr_metric_get(TR_COUNTER, "tailrace_log_filter_failures_total",
		"records that local logs lack because a filter raised, or was cut off by the stop", NULL);
}

/* Local logs are best effort, but what they lack is said and counted. */
static void
unfiltered(const char *event, int status, const char *text)
{
	pthread_once(&filter_failures_once, make_filter_failures);
	tr_metric_add(filter_failures, 1);
	if (status == TR_ECANCELED)
		tr_log(TR_LEVEL_WARN, "record",
			"a record is missing in a local log: its filter '%s' was cut off by the stop", event);
	else
		tr_log(TR_LEVEL_ERROR, "record", "a record is missing in a local log: its filter '%s': %s", event,
			text);
}

static int
push_filter(lua_State *L, void *arg)
{
	tr_message_push(L, ((struct filter *)arg)->message);
	return 1;
}

static void
filter_ended(void *arg, const struct tr_task_result *result)
{
	struct filter filter = *(struct filter *)arg;

	free(arg);
	if (result->status != TR_OK)
		unfiltered(filter.event, result->status, result->text);
	filter.then(filter.then_arg,
		result->status == TR_OK && result->count > 0 && lua_toboolean(result->L, -result->count));
}

static void
run_filter(void *arg, struct tr_worker *worker, const struct tr_message *message, const char *event,
	void (*then)(void *then_arg, bool write), void *then_arg)
{
	struct filter *filter = malloc(sizeof *filter);
	struct tr_task_call call = {.push = push_filter, .push_arg = filter, .end = filter_ended, .end_arg = filter};

	if (filter != NULL) {
		*filter = (struct filter){(struct tr_message *)message, event, then, then_arg};
		if (tr_event_fire(host_of(worker), event, &call, NULL) == TR_OK)
			return;
		free(filter);
	}
	unfiltered(event, TR_ENOMEM, tr_err_text(TR_ENOMEM));
	then(then_arg, false);
}

struct rendering {
	const char *template_text;
	struct tr_str json;
	struct tr_buf *out;
	int err;
};

static int
push_rendering(lua_State *L, void *arg)
{
	const struct rendering *rendering = arg;
	size_t error_at;

	lua_pushstring(L, rendering->template_text);
	if (tr_json_push(L, rendering->json, false, &error_at) != TR_OK)
		return luaL_error(L, "the record is not valid JSON at byte %d", (int)error_at);
	lua_pushlstring(L, rendering->json.data, rendering->json.len);
	return 3;
}

static void
rendering_ended(void *arg, const struct tr_task_result *result)
{
	struct rendering *rendering = arg;
	const char *text;
	size_t len;

	if (result->status != TR_OK) {
		tr_log(TR_LEVEL_ERROR, "record", "template of a log record: %s", result->text);
		return;
	}
	text = result->count > 0 ? lua_tolstring(result->L, -result->count, &len) : NULL;
	if (text == NULL)
		return;
	tr_buf_add(rendering->out, text, len);
	rendering->err = rendering->out->failed ? TR_ENOMEM : TR_OK;
}

/* Entry "render_log_record" of lua/kumo/record.lua, which never waits: it has ended when the call returns. */
static int
render(void *arg, struct tr_worker *worker, const char *template_text, struct tr_str record_json, struct tr_buf *out)
{
	struct rendering rendering = {template_text, record_json, out, TR_EINVAL};
	struct tr_task_call call = {.event = "template",
		.entry = "render_log_record",
		.push = push_rendering,
		.push_arg = &rendering,
		.end = rendering_ended,
		.end_arg = &rendering};

	if (tr_task_start(host_of(worker), &call, NULL) != TR_OK)
		return TR_ENOMEM;
	return rendering.err;
}

void
tr_record_lua_ops(struct tr_record_ops *ops)
{
	should_enqueue_id = tr_event_id("should_enqueue_log_record");
	*ops = (struct tr_record_ops){known_queue, decide, dispose, run_filter, render};
}
