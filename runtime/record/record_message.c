/* A log record as a message: built from the event, named for its queue, marked when policy could not decide it. */
#include <stdlib.h>

#include "base/diag.h"
#include "record/internal.h"

static int
set_envelope(struct tr_message *record, const struct tr_event *event)
{
	static const struct tr_addr nobody = {.email = (char *)""};
	const struct tr_message *message = event->message;
	const struct tr_addr *sender = event->sender != NULL ? event->sender
				       : message != NULL     ? &message->sender
							     : &nobody;
	uint32_t count = event->rcpts != NULL ? event->rcpt_count : message != NULL ? message->rcpt_count : 0;
	uint32_t slots =
		count > 0 ? count : 1; /* a record about nobody has one empty recipient: handlers may ask for it */
	int err = tr_message_copy_addr(record, sender->email != NULL ? sender : &nobody, &record->sender);

	if (err != TR_OK)
		return err;
	if (tr_message_new_rcpts(record, slots) == NULL)
		return TR_ENOMEM;
	for (uint32_t i = 0; i < slots; i++) {
		const struct tr_addr *from = i >= count             ? &nobody
					     : event->rcpts != NULL ? event->rcpts[i]
								    : &message->rcpts[i];

		err = tr_message_copy_addr(record, from, &record->rcpts[i]);
		if (err != TR_OK)
			return err;
		record->rcpt_count = i + 1;
	}
	return TR_OK;
}

static int
set_meta(struct tr_message *record, const struct tr_logger *hook, const struct tr_event *event, struct tr_blob *line,
	struct tr_blob *json)
{
	const struct tr_meta *meta = event->meta != NULL      ? event->meta
				     : event->message != NULL ? &event->message->meta
							      : NULL;
	int err = TR_OK;

	if (meta != NULL)
		err = tr_capture_meta(meta, (const char *const *)hook->meta, &record->meta);
	if (err != TR_OK)
		return err;
	if (line != json) {
		record->flags |= TR_MSG_TEMPLATE;
		err = tr_meta_set(&record->meta, TR_STR("log_record"), (struct tr_str){json->data, json->len - 1});
	} else {
		tr_meta_remove(&record->meta, TR_STR("log_record")); /* it is the body */
	}
	if (err != TR_OK)
		return err;
	return tr_meta_set(&record->meta, TR_STR("reception_protocol"), TR_STR("\"LogRecord\""));
}

struct tr_message *
tr_record_message(const struct tr_logger *hook, const struct tr_event *event, struct tr_blob *line,
	struct tr_blob *json, int64_t now_ns)
{
	struct tr_message *record = tr_message_new_record(now_ns);

	if (record == NULL)
		return NULL;
	record->flags |= TR_MSG_LOG_RECORD;
	record->hook = hook->index;
	record->account = hook->account;
	tr_bytes_set(&record->body, tr_blob_ref(line));
	if (set_envelope(record, event) == TR_OK && set_meta(record, hook, event, line, json) == TR_OK)
		return record;
	tr_message_free(record);
	return NULL;
}

/* Names the queue that the policy chose. On an error *error is a text for the record's policy_error. */
int
tr_record_choose_queue(struct tr_message *record, const char **error)
{
	struct tr_buf *name = tr_record_scratch();
	int err = tr_message_queue_name(record, name, error);

	if (err == TR_OK && name->failed)
		err = TR_ENOMEM;
	else if (err == TR_OK && name->len == 0)
		err = TR_ENOENT; /* of an empty recipient */
	if (err == TR_OK)
		err = tr_message_set_queue(record, (struct tr_str){name->data, name->len});
	if (err == TR_ENOENT)
		*error = "should_enqueue_log_record answered true, but no meta `queue` is set and the record has no "
			 "recipient";
	else if (err != TR_OK && *error == NULL)
		*error = "the queue's name cannot be made: out of memory";
	return err;
}

void
tr_record_mark_parked(struct tr_logger *hook, struct tr_message *record, const char *error)
{
	struct tr_str id;

	record->flags = (uint16_t)((record->flags & ~TR_MSG_UNDECIDED) | TR_MSG_POLICY_ERROR);
	/* Without memory for the text it is parked all the same; the log line below has it. */
	(void)tr_meta_set_string(&record->meta, TR_STR("policy_error"), tr_str(error));
	tr_metric_add(hook->policy_errors, 1);
	id = tr_message_event_id(record);
	tr_log(TR_LEVEL_ERROR, "record", "hook %s: event %.*s is parked: %s", hook->name, (int)id.len,
		id.data != NULL ? id.data : "", error);
}

void
tr_record_unmark(struct tr_message *record)
{
	record->flags &= (uint16_t) ~(TR_MSG_UNDECIDED | TR_MSG_POLICY_ERROR);
	tr_meta_remove(&record->meta, TR_STR("policy_error"));
}
