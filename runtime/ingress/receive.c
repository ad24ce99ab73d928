#include "ingress/receive.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/diag.h"

struct tr_receive *
tr_receive_new(struct tr_worker *worker, uint32_t count)
{
	struct tr_receive *receive = calloc(1, sizeof *receive + count * sizeof receive->items[0]);

	if (receive == NULL)
		return NULL;
	receive->worker = worker;
	receive->count = count;
	return receive;
}

void
tr_receive_free(struct tr_receive *receive)
{
	if (receive == NULL)
		return;
	for (uint32_t i = 0; i < receive->count; i++) {
		tr_message_free(receive->items[i].message);
		free(receive->items[i].queue);
		free(receive->items[i].error);
	}
	free(receive);
}

void
tr_receive_forget(struct tr_receive *receive)
{
	receive->then = NULL;
}

static void
finish(struct tr_receive *receive, int status)
{
	if (receive->then != NULL)
		receive->then(receive, status);
	else if (status != TR_OK)
		tr_log(TR_LEVEL_WARN, "receive", "%u messages whose client is gone were not stored: %s", receive->count,
			tr_err_text(status));
	tr_receive_free(receive);
}

static void
set_error(struct tr_receive_item *item, const char *text)
{
	item->refused = true;
	if (item->error == NULL)
		item->error = strdup(text);
}

static bool
is_null_queue(const struct tr_receive_item *item)
{
	return item->queue != NULL && strcmp(item->queue, "null") == 0;
}

/* --- storing ---------------------------------------------------------------------------------------- */

/* The files of bodies that were refused; messages of one transaction share one. */
static void
forget_bodies(struct tr_receive *receive)
{
	struct tr_spool *spool = tr_engine_spool(tr_worker_engine(receive->worker));

	for (uint32_t i = 0; i < receive->count; i++) {
		const struct tr_message *message = receive->items[i].message;
		bool seen = message == NULL || message->body_file == 0;

		for (uint32_t j = 0; j < i && !seen; j++) {
			const struct tr_message *other = receive->items[j].message;

			seen = other != NULL && other->body_file == message->body_file;
		}
		if (!seen)
			tr_body_file_forget(spool, message->body_file);
	}
}

static void
committed(struct tr_outbox *outbox, int status)
{
	struct tr_receive *receive = outbox->owner;

	if (status != TR_OK) {
		forget_bodies(receive);
		for (uint32_t i = 0; i < receive->count; i++)
			receive->items[i].queued = receive->items[i].dropped = false;
		finish(receive, status);
		return;
	}
	for (uint32_t i = 0; i < receive->count; i++) {
		struct tr_receive_item *item = &receive->items[i];
		struct tr_message *message = item->message;

		if (!item->queued)
			continue;
		item->message = NULL;
		tr_queue_insert(receive->worker, message, "Received");
	}
	finish(receive, TR_OK);
}

static void
emit(struct tr_receive *receive, const struct tr_receive_item *item, enum tr_event_type type, int code,
	struct tr_str text)
{
	struct tr_event event = {
		.type = type,
		.message = item->message,
		.response = {.code = code, .content = text},
		.has_peer = receive->has_peer,
		.peer_name = receive->peer_name,
		.peer_addr = receive->peer_addr,
		.tls_cipher = receive->tls_cipher,
		.tls_protocol = receive->tls_protocol,
		.session_id = receive->session_id,
		.num_attempts = -1,
	};

	if (item->queue == NULL) /* "if it cannot be computed: the error text" */
		event.queue = tr_str(item->error != NULL ? item->error : "");
	tr_outbox_emit(&receive->outbox, &event);
}

/* The part of the change for one message. */
static int
add(struct tr_receive *receive, struct tr_receive_item *item)
{
	struct tr_change *change = &receive->outbox.change;
	struct tr_message *message = item->message;
	int64_t units = message->rcpt_count > 0 ? message->rcpt_count : 1;
	int err = TR_OK;

	if (item->refused) { /* contract/events.md section 6: Reception, then Bounce 500 */
		struct tr_buf text = {0};

		if (receive->flags & TR_RECEIVE_SILENT)
			return TR_OK;
		emit(receive, item, TR_EV_RECEPTION, 250, TR_STR(""));
		tr_buf_addf(&text, "KumoMTA internal: failed to insert the message into its queue: %s",
			item->error != NULL ? item->error : "out of memory");
		emit(receive, item, TR_EV_BOUNCE, 500, (struct tr_str){text.data, text.len});
		tr_buf_free(&text);
		return TR_OK;
	}
	if (item->log_only || is_null_queue(item)) {
		bool silent = (receive->flags & TR_RECEIVE_NULL_SILENT) && !item->log_only;

		item->dropped = true;
		if (!item->log_only) { /* what is only logged was not accepted */
			err = tr_change_count(change, TR_ACCOUNT_MAIL, TR_COL_ACCEPTED, TR_REASON_NONE, units);
			if (err == TR_OK)
				err = tr_change_count(
					change, TR_ACCOUNT_MAIL, TR_COL_DROPPED, TR_REASON_NULL_QUEUE, units);
		}
		if (err == TR_OK && !silent && !(receive->flags & TR_RECEIVE_SILENT))
			emit(receive, item, TR_EV_RECEPTION, 250, TR_STR(""));
		return err;
	}
	message->account = TR_ACCOUNT_MAIL;
	err = tr_change_put(change, message, tr_str(item->queue), TR_COL_ACCEPTED, units);
	if (err == TR_OK && !(receive->flags & TR_RECEIVE_SILENT))
		emit(receive, item, TR_EV_RECEPTION, 250, TR_STR(""));
	item->queued = err == TR_OK;
	return err;
}

static void
store(struct tr_receive *receive)
{
	int err = TR_OK;

	for (uint32_t i = 0; i < receive->count && (receive->flags & TR_RECEIVE_ALL_OR_NONE); i++) {
		if (receive->items[i].refused)
			err = TR_EINVAL;
	}
	if (err != TR_OK) {
		forget_bodies(receive);
		finish(receive, err);
		return;
	}
	tr_outbox_init(&receive->outbox, receive->worker, committed, receive);
	receive->outbox.change.urgent = true;
	receive->outbox.change.intake = true;
	for (uint32_t i = 0; i < receive->count && err == TR_OK; i++)
		err = add(receive, &receive->items[i]);
	if (err != TR_OK)
		tr_change_fail(&receive->outbox.change, err);
	tr_outbox_submit(&receive->outbox); /* also what failed: whoever has put a part of it is told */
}

/* --- queues ------------------------------------------------------------------------------------------- */

static void
settle(struct tr_receive *receive)
{
	if (--receive->pending == 0)
		store(receive);
}

static void
resolved(void *arg, const char *error)
{
	struct tr_receive_item *item = arg;

	if (error != NULL)
		set_error(item, error);
	settle(item->receive);
}

/* Fills item->queue and message->queue. */
static int
name_queue(struct tr_receive_item *item)
{
	struct tr_buf name = {0};
	const char *error = NULL;
	int err = tr_message_queue_name(item->message, &name, &error);

	if (err == TR_OK) {
		tr_buf_addc(&name, '\0');
		item->queue = name.failed ? NULL : strdup(name.data);
		err = item->queue != NULL ? tr_message_set_queue(item->message, tr_str(item->queue)) : TR_ENOMEM;
	} else if (err != TR_ENOMEM) {
		set_error(item, error != NULL ? error : "the message has neither a recipient nor a queue");
		err = TR_OK;
	}
	tr_buf_free(&name);
	return err;
}

void
tr_receive_start(struct tr_receive *receive, void (*then)(struct tr_receive *receive, int status))
{
	int err = TR_OK;

	receive->then = then;
	for (uint32_t i = 0; i < receive->count && err == TR_OK; i++) {
		struct tr_receive_item *item = &receive->items[i];

		item->receive = receive;
		tr_message_revoke(item->message);
		tr_uuid_hex(item->message->id, item->id);
		err = name_queue(item);
	}
	if (err != TR_OK) {
		forget_bodies(receive);
		finish(receive, err);
		return;
	}
	receive->pending = 1; /* ours, so that answers that come at once do not end it early */
	for (uint32_t i = 0; i < receive->count; i++) {
		struct tr_receive_item *item = &receive->items[i];

		if (item->refused || item->log_only)
			continue;
		receive->pending++;
		tr_queue_resolve(receive->worker, tr_str(item->queue), resolved, item);
	}
	settle(receive);
}

const char *
tr_receive_closed(struct tr_engine *engine)
{
	const char *why = NULL;

	if (engine == NULL)
		return "waiting for spool startup";
	if (!tr_engine_is_open(engine))
		return "shutting down";
	return tr_spool_accepts(tr_engine_spool(engine), &why) ? NULL : why != NULL ? why : "storage is too full";
}
