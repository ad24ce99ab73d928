/* One state change and the log records that it causes: committed together. */
#include "queue/engine.h"
#include "queue/worker.h"

static void
finish(struct tr_outbox *outbox, int status)
{
	struct tr_engine *engine = outbox->worker->engine;
	struct tr_message *record = outbox->records;
	bool ordered = false;

	outbox->records = NULL;
	while (record != NULL) {
		struct tr_message *next = record->next;

		record->next = NULL;
		ordered |= (record->flags & TR_MSG_ORDERED) != 0;
		if (status == TR_OK)
			tr_queue_insert(outbox->worker, record, "Received");
		else
			tr_message_free(record); /* its slot was given back with the refusal */
		record = next;
	}
	if (ordered)
		worker_flush(outbox->worker); /* before what they tell of can go on, and cause the next one elsewhere */
	outbox->done(outbox, status);         /* may free it */
	busy_drop(engine);
}

static void
committed(struct tr_change *change, int status)
{
	finish(tr_container_of(change, struct tr_outbox, change), status);
}

void
tr_outbox_init(struct tr_outbox *outbox, struct tr_worker *worker, void (*done)(struct tr_outbox *outbox, int status),
	void *owner)
{
	tr_change_init(&outbox->change, worker->engine->spool, worker->loop, committed, outbox);
	outbox->worker = worker;
	outbox->records = NULL;
	outbox->records_end = &outbox->records;
	outbox->pending = 0;
	outbox->submitted = false;
	outbox->done = done;
	outbox->owner = owner;
	outbox->abandoned = NULL;
}

void
tr_outbox_emit(struct tr_outbox *outbox, const struct tr_event *event)
{
	struct tr_engine *engine = outbox->worker->engine;

	if (engine->ops.emit != NULL)
		engine->ops.emit(engine->ops_arg, outbox, event);
}

void
tr_outbox_add_record(struct tr_outbox *outbox, struct tr_message *record)
{
	record->next = NULL;
	*outbox->records_end = record;
	outbox->records_end = &record->next;
}

void
tr_outbox_hold(struct tr_outbox *outbox)
{
	outbox->pending++;
}

static void
empties_done(struct tr_defer *defer)
{
	struct tr_worker *worker = tr_container_of(defer, struct tr_worker, empty_defer);
	struct tr_mail *mail = worker->empty;

	worker->empty = NULL;
	worker->empty_end = &worker->empty;
	while (mail != NULL) {
		struct tr_outbox *outbox = tr_container_of(mail, struct tr_outbox, change.mail);

		mail = mail->next;
		finish(outbox, TR_OK);
	}
}

static void
hand_over(struct tr_outbox *outbox)
{
	struct tr_worker *worker = outbox->worker;

	if (outbox->change.count > 0 || outbox->change.failed) {
		tr_spool_submit(&outbox->change);
		return;
	}
	tr_change_abandon(&outbox->change); /* it may own memory */
	outbox->change.mail.next = NULL;
	*worker->empty_end = &outbox->change.mail;
	worker->empty_end = &outbox->change.mail.next;
	tr_loop_defer(worker->loop, &worker->empty_defer, empties_done);
}

void
tr_outbox_release(struct tr_outbox *outbox)
{
	if (--outbox->pending == 0 && outbox->submitted)
		hand_over(outbox);
}

void
tr_outbox_submit(struct tr_outbox *outbox)
{
	busy_add(outbox->worker->engine); /* whoever made it: a stop waits for its answer */
	outbox->submitted = true;
	if (outbox->pending == 0)
		hand_over(outbox);
}

void
tr_outbox_abandon(struct tr_outbox *outbox)
{
	if (outbox->abandoned != NULL)
		outbox->abandoned(outbox);
	while (outbox->records != NULL) {
		struct tr_message *record = outbox->records;

		outbox->records = record->next;
		tr_message_free(record);
	}
	tr_change_abandon(&outbox->change);
}
