/* Loggers and the way of one event through them. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "record/internal.h"

#define FORMS_ON_STACK 16

int
tr_recorder_new(struct tr_spool *spool, const struct tr_record_ops *ops, void *ops_arg, struct tr_recorder **out)
{
	struct tr_recorder *recorder = calloc(1, sizeof *recorder);
	uint8_t uuid[16];

	*out = NULL;
	if (recorder == NULL)
		return TR_ENOMEM;
	recorder->spool = spool;
	recorder->ops = *ops;
	recorder->ops_arg = ops_arg;
	tr_uuid4(uuid); /* until the node's own is known */
	tr_uuid_hyphenated(uuid, recorder->nodeid);
	pthread_mutex_init(&recorder->lock, NULL);
	*out = recorder;
	return TR_OK;
}

int
tr_recorder_attach(struct tr_recorder *recorder, struct tr_spool *spool)
{
	int err = TR_OK;

	recorder->spool = spool;
	recorder->sealed = true;
	for (uint32_t i = 0; err == TR_OK && i < recorder->count; i++) {
		struct tr_logger *logger = recorder->loggers[i];
		if (logger->kind == TR_LOGGER_HOOK)
			err = tr_spool_account(spool, logger->name, &logger->account);
		else if (logger->kind == TR_LOGGER_FILE)
			err = tr_spool_watch(
				spool, logger->name, &logger->config.min_free_space, &logger->config.min_free_inodes);
	}
	return err;
}

void
tr_recorder_set_dead(struct tr_recorder *recorder, struct tr_dead_store *dead)
{
	recorder->dead = dead;
	for (uint32_t i = 0; i < recorder->count; i++) {
		const struct tr_logger *logger = recorder->loggers[i];

		if (logger->kind == TR_LOGGER_HOOK)
			tr_dead_configure(dead, logger->account, &logger->config.dead);
	}
}

void
tr_recorder_set_nodeid(struct tr_recorder *recorder, const char *uuid)
{
	snprintf(recorder->nodeid, sizeof recorder->nodeid, "%s", uuid);
}

/* --- adding loggers -------------------------------------------------------------------------------------- */

static int
intern_capture(struct tr_recorder *recorder, const char *const *meta, const char *const *headers, uint32_t *out)
{
	struct tr_capture *captures;

	for (uint32_t i = 0; i < recorder->capture_count; i++) {
		if (tr_same_list(recorder->captures[i].meta, meta) &&
			tr_same_list(recorder->captures[i].headers, headers)) {
			*out = i;
			return TR_OK;
		}
	}
	captures = realloc(recorder->captures, (recorder->capture_count + 1) * sizeof *captures);
	if (captures == NULL)
		return TR_ENOMEM;
	recorder->captures = captures;
	captures[recorder->capture_count] = (struct tr_capture){meta, headers};
	*out = recorder->capture_count++;
	return TR_OK;
}

static int
intern_form(struct tr_recorder *recorder, uint32_t capture, const char *template_text, uint32_t *out)
{
	struct tr_form *forms;

	for (uint32_t i = 0; i < recorder->form_count; i++) {
		if (recorder->forms[i].capture == capture &&
			tr_same_text(recorder->forms[i].template_text, template_text)) {
			*out = i;
			return TR_OK;
		}
	}
	forms = realloc(recorder->forms, (recorder->form_count + 1) * sizeof *forms);
	if (forms == NULL)
		return TR_ENOMEM;
	recorder->forms = forms;
	forms[recorder->form_count] = (struct tr_form){capture, template_text};
	*out = recorder->form_count++;
	return TR_OK;
}

static int
intern_forms(struct tr_recorder *recorder, struct tr_logger *logger)
{
	static const char *const none[] = {NULL};
	bool plain = logger->kind == TR_LOGGER_DISPOSITION; /* handlers read the message itself */
	uint32_t capture, json;
	int err = intern_capture(recorder, plain ? none : (const char *const *)logger->meta,
		plain ? none : (const char *const *)logger->headers, &capture);

	/* templates are rendered from the JSON of the same captures */
	if (err == TR_OK)
		err = intern_form(recorder, capture, NULL, &json);
	for (int type = 0; err == TR_OK && type < TR_EVENT_TYPES; type++)
		err = intern_form(
			recorder, capture, plain ? NULL : logger->per_record[type].template_text, &logger->form[type]);
	return err;
}

static void
get_metrics(struct tr_logger *logger, const char *label)
{
	logger->full = tr_metric_get(TR_COUNTER, "log_submit_full",
		"submissions of a record that found the logger's queue full", "logger", label, NULL);
	logger->latency = tr_metric_get(TR_HISTOGRAM, "log_submit_latency",
		"seconds that full queues held up submissions", "logger", label, NULL);
	logger->lost = tr_metric_get(TR_COUNTER, "tailrace_log_records_lost_total",
		"records that a logger could not write or store", "logger", label, NULL);
	if (logger->kind != TR_LOGGER_HOOK)
		return;
	logger->backlog = tr_metric_get(TR_COUNTER, "log_hook_backlog_count",
		"records that had to wait for their turn at should_enqueue_log_record", "logger", logger->name, NULL);
	logger->policy_errors = tr_metric_get(TR_COUNTER, "tailrace_policy_errors_total",
		"records that were parked because policy raised or named no queue", "hook", logger->name, NULL);
}

static int
prepare(struct tr_recorder *recorder, struct tr_logger *logger, const struct tr_logger_config *config, char **error)
{
	static const char *const prefixes[] = {
		[TR_LOGGER_FILE] = "dir", [TR_LOGGER_HOOK] = "hook", [TR_LOGGER_DISPOSITION] = "hook"};
	struct tr_buf label = {0};
	int err;

	tr_buf_addf(&label, "%s-%s%c", prefixes[logger->kind], logger->name, 0);
	if (label.failed)
		return TR_ENOMEM;
	get_metrics(logger, label.data);
	err = intern_forms(recorder, logger);
	if (err == TR_OK && logger->kind == TR_LOGGER_HOOK && recorder->spool != NULL)
		err = tr_spool_account(recorder->spool, logger->name, &logger->account);
	if (err == TR_OK && logger->kind == TR_LOGGER_HOOK && recorder->dead != NULL)
		tr_dead_configure(recorder->dead, logger->account, &config->dead);
	if (err == TR_OK && logger->kind == TR_LOGGER_FILE && recorder->logs == NULL)
		err = tr_local_logs_new(&recorder->logs);
	if (err == TR_OK && logger->kind == TR_LOGGER_FILE)
		err = tr_local_logs_add(recorder->logs, config, label.data, &logger->file, error);
	tr_buf_free(&label);
	return err;
}

static void
set_error(char **error, const char *fmt, const char *name)
{
	if (error != NULL && *error == NULL && asprintf(error, fmt, name) < 0)
		*error = NULL;
}

static bool
taken(const struct tr_recorder *recorder, const struct tr_logger_config *config)
{
	return config->kind != TR_LOGGER_FILE && tr_recorder_has_hook(recorder, tr_str(config->name));
}

static int
add(struct tr_recorder *recorder, const struct tr_logger_config *config, char **error)
{
	struct tr_logger *logger, **loggers;
	int err;

	if (recorder->sealed) {
		set_error(error, "loggers are configured in the events pre_init and init, not later%s", "");
		return TR_EINVAL;
	}
	if (taken(recorder, config)) {
		set_error(error, "there is a log hook named '%s' already", config->name);
		return TR_EEXIST;
	}
	loggers = realloc(recorder->loggers, (recorder->count + 1) * sizeof *loggers);
	if (loggers == NULL)
		return TR_ENOMEM;
	recorder->loggers = loggers;
	logger = tr_logger_new(config);
	if (logger == NULL)
		return TR_ENOMEM;
	logger->index = (uint16_t)recorder->count;
	recorder->dispositions |= logger->kind == TR_LOGGER_DISPOSITION;
	err = prepare(recorder, logger, config, error);
	/* On an error the logger is kept for its captures and forms, which may be in the lists by now, but switched
	 * off. */
	loggers[recorder->count++] = logger;
	for (int type = 0; type < TR_EVENT_TYPES; type++) {
		if (err != TR_OK)
			logger->per_record[type].enable = false;
		if (tr_logger_enabled(logger, (enum tr_event_type)type))
			atomic_fetch_or_explicit(&recorder->wants, 1u << type, memory_order_relaxed);
	}
	if (err != TR_OK)
		logger->name[0] = '\0';
	else if (config->deferred_spool)
		tr_log(TR_LEVEL_INFO, "record",
			"hook %s: deferred_spool is accepted and not needed: records are stored with their cause",
			logger->name);
	return err;
}

int
tr_recorder_add(struct tr_recorder *recorder, const struct tr_logger_config *config, char **error)
{
	int err;

	if (error != NULL)
		*error = NULL;
	pthread_mutex_lock(&recorder->lock);
	err = add(recorder, config, error);
	pthread_mutex_unlock(&recorder->lock);
	if (err != TR_OK)
		set_error(error, "the logger cannot be added: %s", tr_err_text(err));
	return err;
}

int
tr_recorder_find(struct tr_recorder *recorder, const struct tr_logger_config *config, uint32_t from)
{
	int found = -1;

	pthread_mutex_lock(&recorder->lock);
	for (uint32_t i = from; i < recorder->count && found < 0; i++)
		if (tr_logger_same(recorder->loggers[i], config))
			found = (int)i;
	pthread_mutex_unlock(&recorder->lock);
	return found;
}

bool
tr_recorder_has_hook(const struct tr_recorder *recorder, struct tr_str name)
{
	for (uint32_t i = 0; i < recorder->count; i++) {
		const struct tr_logger *logger = recorder->loggers[i];

		if (logger->kind != TR_LOGGER_FILE && tr_str_eq(tr_str(logger->name), name))
			return true;
	}
	return false;
}

bool
tr_recorder_wants(const struct tr_recorder *recorder, enum tr_event_type type)
{
	return (atomic_load_explicit(&recorder->wants, memory_order_relaxed) & (1u << type)) != 0;
}

void
tr_recorder_tick(struct tr_recorder *recorder)
{
	if (recorder->logs != NULL)
		tr_local_logs_tick(recorder->logs);
}

void
tr_recorder_free(struct tr_recorder *recorder)
{
	if (recorder == NULL)
		return;
	tr_local_logs_free(recorder->logs); /* first: it uses the loggers' files */
	for (uint32_t i = 0; i < recorder->count; i++)
		tr_logger_free(recorder->loggers[i]);
	free(recorder->loggers);
	free(recorder->captures);
	free(recorder->forms);
	pthread_mutex_destroy(&recorder->lock);
	free(recorder);
}

/* --- one event ------------------------------------------------------------------------------------------------ */

/* What was made of an event so far. Each form is made once, when the first logger asks for it. */
struct lines {
	struct tr_recorder *recorder;
	struct tr_outbox *outbox;
	const struct tr_event *event;
	int64_t now_ns; /* wall */
	char event_id[33];
	struct tr_blob **made; /* by form; NULL: not yet, or failed */
	bool *failed;
};

static struct tr_blob *
finish_line(struct tr_buf *buf)
{
	if (buf->len == 0 || buf->data[buf->len - 1] != '\n')
		tr_buf_addc(buf, '\n');
	return buf->failed ? NULL : tr_blob_new(buf->data, buf->len);
}

static uint32_t
json_form(const struct tr_recorder *recorder, uint32_t form)
{
	uint32_t i = 0;

	while (recorder->forms[i].capture != recorder->forms[form].capture || recorder->forms[i].template_text != NULL)
		i++;
	return i;
}

static struct tr_blob *get_line(struct lines *lines, uint32_t form);

static struct tr_blob *
render(struct lines *lines, uint32_t form)
{
	struct tr_recorder *recorder = lines->recorder;
	struct tr_blob *json = get_line(lines, json_form(recorder, form)), *line = NULL;
	struct tr_buf text = {0};

	if (json != NULL &&
		recorder->ops.render(recorder->ops_arg, lines->outbox->worker, recorder->forms[form].template_text,
			(struct tr_str){json->data, json->len - 1}, &text) == TR_OK)
		line = finish_line(&text);
	tr_buf_free(&text);
	return line;
}

/* The finished line, borrowed; NULL if it cannot be made (no memory, or a template that raised). */
static struct tr_blob *
get_line(struct lines *lines, uint32_t form)
{
	const struct tr_form *want = &lines->recorder->forms[form];
	struct tr_blob *line;

	if (lines->made[form] != NULL || lines->failed[form])
		return lines->made[form];
	if (want->template_text != NULL) {
		line = render(lines, form);
	} else {
		struct tr_buf *buf = tr_record_scratch();

		tr_record_encode(lines->event, lines->recorder->nodeid, lines->event_id,
			&lines->recorder->captures[want->capture], buf);
		line = finish_line(buf);
	}
	lines->made[form] = line;
	lines->failed[form] = line == NULL;
	return line;
}

static void
lost(struct tr_logger *logger, const char *event_id)
{
	tr_metric_add(logger->lost, 1);
	tr_log(TR_LEVEL_ERROR, "record", "%s: event %s is not logged: its line cannot be made", logger->name, event_id);
}

struct filtered { /* a record of a local log whose filter has not answered yet */
	struct tr_logger *logger;
	enum tr_event_type type;
	struct tr_blob *line; /* owned; NULL while the filter runs in this turn */
	struct tr_outbox *outbox;
	bool in_call, answered, write;
};

static void
filter_answer(void *arg, bool write)
{
	struct filtered *filtered = arg;
	struct tr_outbox *outbox = filtered->outbox;

	filtered->answered = true;
	filtered->write = write;
	if (filtered->in_call)
		return;
	if (write && filtered->line != NULL)
		tr_local_file_write(filtered->logger->file, filtered->type, filtered->line, outbox);
	tr_blob_unref(filtered->line);
	free(filtered);
	tr_outbox_release(outbox);
}

/* True if the record is to be written now. A filter that waits holds the outbox. */
static bool
filter(struct lines *lines, struct tr_logger *logger)
{
	struct tr_recorder *recorder = lines->recorder;
	const struct tr_event *event = lines->event;
	struct filtered *filtered;
	bool write;

	if (logger->filter_event == NULL || event->message == NULL || event->type == TR_EV_REJECTION)
		return true;
	filtered = calloc(1, sizeof *filtered);
	if (filtered == NULL) {
		lost(logger, lines->event_id);
		return false;
	}
	*filtered = (struct filtered){logger, event->type, NULL, lines->outbox, true, false, false};
	recorder->ops.filter(recorder->ops_arg, lines->outbox->worker, event->message, logger->filter_event,
		filter_answer, filtered);
	filtered->in_call = false;
	if (!filtered->answered) {
		tr_outbox_hold(lines->outbox);
		filtered->line = tr_blob_ref(
			get_line(lines, logger->form[event->type])); /* the event is ours for this call only */
		if (filtered->line == NULL)
			lost(logger, lines->event_id);
		return false;
	}
	write = filtered->write;
	free(filtered);
	return write;
}

static void
emit_file(struct lines *lines, struct tr_logger *logger)
{
	enum tr_event_type type = lines->event->type;
	struct tr_blob *line;

	if (!filter(lines, logger))
		return;
	line = get_line(lines, logger->form[type]);
	if (line != NULL)
		tr_local_file_write(logger->file, type, line, lines->outbox);
	else
		lost(logger, lines->event_id);
}

static void
emit_hook(struct lines *lines, struct tr_logger *logger)
{
	uint32_t form = logger->form[lines->event->type];
	struct tr_blob *json = get_line(lines, json_form(lines->recorder, form));

	if (json == NULL) {
		lost(logger, lines->event_id);
		lines->outbox->change.failed = true; /* what happened must not be stored without its record */
		return;
	}
	tr_hook_emit(lines->recorder, logger, lines->outbox, lines->event, get_line(lines, form), json, lines->now_ns);
}

static void
disposed(void *arg)
{
	tr_outbox_release(arg);
}

static void
emit_disposition(struct lines *lines, struct tr_logger *logger)
{
	struct tr_recorder *recorder = lines->recorder;
	struct tr_blob *json = get_line(lines, logger->form[lines->event->type]);

	if (json == NULL) {
		lost(logger, lines->event_id);
		return;
	}
	tr_outbox_hold(lines->outbox);
	recorder->ops.dispose(recorder->ops_arg, lines->outbox->worker, lines->event->message, logger->name,
		(struct tr_str){json->data, json->len - 1}, disposed, lines->outbox);
}

static void
emit_to(struct lines *lines, bool dispositions)
{
	struct tr_recorder *recorder = lines->recorder;
	const struct tr_event *event = lines->event;
	/* Never records about records for hooks, whatever policy says: that would not end. */
	bool about_record = event->message != NULL && (event->message->flags & TR_MSG_LOG_RECORD) != 0;

	for (uint32_t i = 0; i < recorder->count; i++) {
		struct tr_logger *logger = recorder->loggers[i];

		if (!tr_logger_enabled(logger, event->type) || (logger->kind == TR_LOGGER_DISPOSITION) != dispositions)
			continue;
		if (logger->kind == TR_LOGGER_FILE)
			emit_file(lines, logger);
		else if (about_record)
			continue;
		else if (logger->kind == TR_LOGGER_HOOK)
			emit_hook(lines, logger);
		else if (event->message != NULL && event->type != TR_EV_OOB && event->type != TR_EV_REJECTION)
			emit_disposition(lines, logger);
	}
}

static void
show(struct lines *lines)
{
	static const char *const all[] = {"*", NULL};
	static const struct tr_capture capture = {all, all};
	struct tr_recorder *recorder = lines->recorder;
	struct tr_buf *buf = tr_record_scratch();

	tr_record_encode(lines->event, recorder->nodeid, lines->event_id, &capture, buf);
	if (!buf->failed)
		recorder->tap(recorder->tap_arg, lines->event, (struct tr_str){buf->data, buf->len});
}

void
tr_recorder_set_tap(struct tr_recorder *recorder,
	void (*tap)(void *arg, const struct tr_event *event, struct tr_str json), void *arg)
{
	recorder->tap = tap;
	recorder->tap_arg = arg;
	atomic_store(&recorder->wants, UINT32_MAX);
}

void
tr_recorder_emit(struct tr_recorder *recorder, struct tr_outbox *outbox, const struct tr_event *event)
{
	struct tr_blob *made_small[FORMS_ON_STACK] = {NULL};
	bool failed_small[FORMS_ON_STACK] = {false};
	struct tr_event fixed = *event;
	struct lines lines = {.recorder = recorder,
		.outbox = outbox,
		.event = &fixed,
		.now_ns = tr_wall_ns(),
		.made = made_small,
		.failed = failed_small};
	uint8_t uuid[16];
	void *large = NULL;

	if (!tr_recorder_wants(recorder, event->type))
		return;
	if (recorder->form_count > FORMS_ON_STACK) {
		large = calloc(recorder->form_count, sizeof *lines.made + sizeof *lines.failed);
		if (large == NULL) {
			tr_log(TR_LEVEL_ERROR, "record",
				"out of memory: the change is refused, as its records cannot be made");
			outbox->change.failed = true;
			return;
		}
		lines.made = large;
		lines.failed = (bool *)(lines.made + recorder->form_count);
	}
	if (fixed.when_ns == 0)
		fixed.when_ns = lines.now_ns; /* the same for all loggers */
	tr_uuid1_at(lines.now_ns, uuid);
	tr_uuid_hex(uuid, lines.event_id);
	if (recorder->tap != NULL)
		show(&lines);
	if (recorder->dispositions)
		emit_to(&lines, true); /* these may do things before the rest is stored */
	emit_to(&lines, false);
	for (uint32_t i = 0; i < recorder->form_count; i++)
		tr_blob_unref(lines.made[i]);
	free(large);
}
