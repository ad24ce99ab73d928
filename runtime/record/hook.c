/* Records for hooks: decided by policy in the turn of their cause, or stored undecided in the same change and decided
 * later.
 *
 * A record whose handler did not answer at once is a `struct tr_waiting`. It is stored by the change of its cause; its
 * answer, when it has come and that change is committed, makes a change of its own. */
#include <stdlib.h>

#include "base/diag.h"
#include "base/pool.h"
#include "record/internal.h"

#define PUMP_TURNS 32 /* handlers started in a row: sockets and timers of the worker wait for them */

const char tr_record_cancelled[] = "cancelled";

struct tr_waiting {
	struct tr_mail mail;     /* to its worker, when it is its turn */
	struct tr_waiting *next; /* the hook's waiting list, or the list of a watched change */
	struct tr_waiting *in_change;
	struct tr_recorder *recorder;
	struct tr_logger *hook;
	struct tr_worker *worker;
	struct tr_message *record; /* owned; NULL once it was handed on */
	struct tr_decision decision;
	struct tr_outbox outbox;           /* of the decision */
	char *error;                       /* owned text when raised */
	enum { PARK, KEEP, DROP } settled; /* what outbox says */
	uint32_t slot;                     /* of the record, which outbox may end */
	bool in_call, answered, keep, raised, cancelled;
	bool committed; /* the record is in the log */
	bool refused;   /* the change of its cause was refused: the record never was */
	bool leaves;    /* too many wait: once stored it leaves the memory until there is room */
	bool raw;       /* no handler to be asked: park it once it is stored */
};

/* The change of a cause that holds records which are not decided: its end must be known here too. */
struct watch {
	void (*done)(struct tr_outbox *outbox, int status); /* the cause's own */
	void *owner;
	struct tr_waiting *first, *last;
};

static void settle(struct tr_waiting *waiting);
static void pump(struct tr_logger *hook, struct tr_worker *worker);

static void
waiting_free(struct tr_waiting *waiting)
{
	tr_message_free(waiting->record);
	free(waiting->error);
	tr_pool_put(waiting, sizeof *waiting);
}

static struct tr_waiting *
waiting_new(struct tr_recorder *recorder, struct tr_logger *hook, struct tr_worker *worker, struct tr_message *record)
{
	struct tr_waiting *waiting = tr_pool_zero(sizeof *waiting);

	if (waiting == NULL)
		return NULL;
	waiting->recorder = recorder;
	waiting->hook = hook;
	waiting->worker = worker;
	waiting->record = record;
	return waiting;
}

/* --- the change of the cause ------------------------------------------------------------------------------ */

/* What was stored with it goes on, or ends with it; the change is its owner's alone again. */
static void
unwatch(struct tr_outbox *outbox, int status)
{
	struct watch *watch = outbox->owner;
	struct tr_waiting *waiting = watch->first;

	outbox->owner = watch->owner;
	outbox->done = watch->done;
	outbox->abandoned = NULL;
	free(watch);
	while (waiting != NULL) {
		struct tr_waiting *next = waiting->in_change;

		if (waiting->leaves) {
			atomic_fetch_sub_explicit(&waiting->hook->leaving, 1, memory_order_relaxed);
			if (status == TR_OK) {
				tr_queue_leave_undecided(waiting->worker, waiting->record);
				waiting->record = NULL;
			}
			waiting_free(waiting);
		} else if (status == TR_OK) {
			waiting->committed = true;
			if (waiting->answered)
				settle(waiting);
		} else {
			waiting->refused = true;
			if (waiting->answered)
				waiting_free(waiting);
			/* else its handler runs or it stands in the list: it ends there */
		}
		waiting = next;
	}
}

static void
watched_done(struct tr_outbox *outbox, int status)
{
	unwatch(outbox, status);
	if (outbox->done != NULL)
		outbox->done(outbox, status); /* may free the outbox */
}

static void
watched_abandoned(struct tr_outbox *outbox)
{
	unwatch(outbox, TR_ECANCELED);
}

static bool
watch_change(struct tr_outbox *outbox, struct tr_waiting *waiting)
{
	struct watch *watch = outbox->owner;

	if (outbox->done != watched_done) {
		watch = calloc(1, sizeof *watch);
		if (watch == NULL)
			return false;
		watch->done = outbox->done;
		watch->owner = outbox->owner;
		outbox->owner = watch;
		outbox->done = watched_done;
		outbox->abandoned = watched_abandoned;
	}
	if (watch->last != NULL)
		watch->last->in_change = waiting;
	else
		watch->first = waiting;
	watch->last = waiting;
	return true;
}

static int
put_new(struct tr_outbox *outbox, struct tr_message *record, struct tr_str queue)
{
	int err = tr_change_put(&outbox->change, record, queue, TR_COL_ACCEPTED, 1);

	if (err != TR_OK)
		return err;
	return tr_change_count(&outbox->change, record->account, TR_COL_OFFERED, TR_REASON_NONE, 1);
}

/* A record that cannot be part of the change: the change must not be stored without it. But one that is too large for
 * the log will be so for ever: what comes in with it is refused, and what happened must be stored nevertheless. */
static void
refuse(struct tr_outbox *outbox, struct tr_logger *hook, int err)
{
	bool whole = err != TR_ETOOBIG || outbox->change.intake;

	if (whole && outbox->change.failed)
		return; /* told for another record of it */
	if (whole)
		tr_change_fail(&outbox->change, err);
	else
		tr_metric_add(hook->lost, 1);
	tr_log(TR_LEVEL_ERROR, "record", "hook %s: a record cannot be stored: %s%s", hook->name, tr_err_text(err),
		whole ? "; nor is what it tells of" : "; it is lost");
}

/* --- asking policy -------------------------------------------------------------------------------------------- */

static void
answer(struct tr_decision *decision, bool keep, const char *error)
{
	struct tr_waiting *waiting = tr_container_of(decision, struct tr_waiting, decision);
	struct tr_logger *hook = waiting->hook;
	struct tr_worker *worker = waiting->worker;

	bool stopping = error == tr_record_cancelled;

	waiting->answered = true;
	waiting->keep = keep;
	if (stopping) {
		waiting->cancelled = true;
	} else if (error != NULL) {
		waiting->raised = true;
		waiting->error = strdup(error);
	}
	if (waiting->in_call)
		return;
	atomic_fetch_sub_explicit(&hook->running, 1, memory_order_relaxed);
	if (waiting->refused)
		waiting_free(waiting);
	else if (waiting->committed)
		settle(waiting);
	/* else the change of its cause is under way: watched_done goes on */
	if (!stopping) /* the policy host is going: it can answer nothing more */
		pump(hook, worker);
}

/* Returns true if it answered at once. */
static bool
ask(struct tr_waiting *waiting)
{
	struct tr_recorder *recorder = waiting->recorder;

	waiting->in_call = true;
	waiting->decision = (struct tr_decision){waiting->record, waiting->hook->name, answer};
	recorder->ops.decide(recorder->ops_arg, waiting->worker, &waiting->decision);
	waiting->in_call = false;
	if (!waiting->answered)
		atomic_fetch_add_explicit(&waiting->hook->running, 1, memory_order_relaxed);
	return waiting->answered;
}

static bool
must_wait(struct tr_logger *hook)
{
	return atomic_load_explicit(&hook->waiting, memory_order_relaxed) > 0 ||
	       atomic_load_explicit(&hook->running, memory_order_relaxed) >= hook->back_pressure;
}

/* Others before it are in the spool, or the line is full: its place is behind them. */
static bool
must_leave(struct tr_logger *hook, struct tr_worker *worker)
{
	return atomic_load_explicit(&hook->waiting, memory_order_relaxed) >= TR_WAITING_MAX ||
	       atomic_load_explicit(&hook->leaving, memory_order_relaxed) > 0 ||
	       tr_queue_undecided(tr_worker_engine(worker), hook->account) > 0;
}

static void
wait_in_line(struct tr_waiting *waiting)
{
	struct tr_logger *hook = waiting->hook;

	tr_metric_add(hook->backlog, 1);
	pthread_mutex_lock(&hook->lock);
	waiting->next = NULL;
	if (hook->last != NULL)
		hook->last->next = waiting;
	else
		hook->first = waiting;
	hook->last = waiting;
	atomic_fetch_add_explicit(&hook->waiting, 1, memory_order_relaxed);
	pthread_mutex_unlock(&hook->lock);
}

static struct tr_waiting *
next_in_line(struct tr_logger *hook)
{
	struct tr_waiting *waiting = NULL;

	pthread_mutex_lock(&hook->lock);
	if (hook->first != NULL && atomic_load_explicit(&hook->running, memory_order_relaxed) < hook->back_pressure) {
		waiting = hook->first;
		hook->first = waiting->next;
		if (hook->first == NULL)
			hook->last = NULL;
		waiting->next = NULL;
		atomic_fetch_sub_explicit(&hook->waiting, 1, memory_order_relaxed);
	}
	pthread_mutex_unlock(&hook->lock);
	return waiting;
}

/* On its worker: asks, and goes on as far as it can. */
static void
take_turn(struct tr_waiting *waiting)
{
	if (waiting->refused) {
		waiting_free(waiting);
		return;
	}
	if (ask(waiting) && waiting->committed)
		settle(waiting);
}

static void
turn_mail(struct tr_mail *mail)
{
	struct tr_waiting *waiting = tr_container_of(mail, struct tr_waiting, mail);
	struct tr_logger *hook = waiting->hook;
	struct tr_worker *worker = waiting->worker;

	atomic_fetch_sub_explicit(&hook->running, 1, memory_order_relaxed); /* the slot that pump() kept for it */
	take_turn(waiting);
	pump(hook, worker);
}

static void
pump(struct tr_logger *hook, struct tr_worker *worker)
{
	struct tr_waiting *waiting;
	int turns = 0;

	while (atomic_load_explicit(&hook->waiting, memory_order_relaxed) > 0 &&
		(waiting = next_in_line(hook)) != NULL) {
		bool here = waiting->worker == worker;

		if (here && turns++ < PUMP_TURNS) {
			take_turn(waiting);
			continue;
		}
		atomic_fetch_add_explicit(&hook->running, 1, memory_order_relaxed);
		waiting->mail.fn = turn_mail;
		tr_loop_post(tr_worker_loop(waiting->worker), &waiting->mail);
		if (here) /* enough for this turn of the loop: its mail goes on in the next */
			return;
	}
	if (atomic_load_explicit(&hook->waiting, memory_order_relaxed) < TR_WAITING_MAX / 2 &&
		tr_queue_undecided(tr_worker_engine(worker), hook->account) > 0)
		tr_queue_decide_more(tr_worker_engine(worker));
}

/* --- the change of the decision ------------------------------------------------------------------------------ */

static void
decided(struct tr_outbox *outbox, int status)
{
	struct tr_waiting *waiting = tr_container_of(outbox, struct tr_waiting, outbox);

	if (status != TR_OK) {
		tr_log(TR_LEVEL_ERROR, "record", "hook %s: a decision cannot be stored (%s): policy is asked again",
			waiting->hook->name, tr_err_text(status));
		tr_queue_ask_again(waiting->worker, waiting->slot); /* it is in the log as it was */
		if (waiting->settled == KEEP)
			waiting->record = NULL; /* the outbox ended it */
	} else if (waiting->settled == KEEP) {
		waiting->record = NULL; /* in its queue */
	} else if (waiting->settled == PARK) {
		tr_queue_park(waiting->worker, waiting->record);
		waiting->record = NULL;
	}
	waiting_free(waiting);
}

/* The answer has come and the record is in the log. */
static void
settle(struct tr_waiting *waiting)
{
	struct tr_message *record = waiting->record;
	struct tr_change *change = &waiting->outbox.change;
	const char *error = waiting->error;
	int err = TR_OK;

	waiting->slot = record->slot;
	tr_message_revoke(record);
	if (waiting->cancelled) { /* stopping: stored undecided, asked for again at the next start */
		waiting_free(waiting);
		return;
	}
	if (waiting->raw) {
		tr_queue_park(waiting->worker, record);
		waiting->record = NULL;
		waiting_free(waiting);
		return;
	}
	tr_outbox_init(&waiting->outbox, waiting->worker, decided, waiting);
	tr_record_unmark(record); /* of an earlier try */
	if (!waiting->raised && !waiting->keep) {
		waiting->settled = DROP;
		err = tr_change_done(change, record->slot, TR_COL_DROPPED, TR_REASON_POLICY, 1);
	} else if (!waiting->raised && tr_record_choose_queue(record, &error) == TR_OK) {
		waiting->settled = KEEP;
		err = tr_change_put(change, record, tr_str(record->queue), TR_COL_NONE, 1);
		if (err == TR_OK)
			tr_outbox_add_record(&waiting->outbox, record);
	} else {
		waiting->settled = PARK;
		tr_record_mark_parked(
			waiting->hook, record, error != NULL ? error : "an error without memory for its text");
		err = tr_change_put(change, record, TR_STR(""), TR_COL_NONE, 1);
	}
	if (err != TR_OK) {
		waiting->settled = DROP; /* the record is still ours */
		tr_outbox_abandon(&waiting->outbox);
		decided(&waiting->outbox, err);
		return;
	}
	tr_outbox_submit(&waiting->outbox);
}

/* --- entries ------------------------------------------------------------------------------------------------------ */

/* Stores it undecided or parked within the change of its cause. */
static void
store_waiting(struct tr_waiting *waiting, struct tr_outbox *outbox)
{
	int err = put_new(outbox, waiting->record, TR_STR(""));

	if (err == TR_OK && !watch_change(outbox, waiting))
		err = TR_ENOMEM;
	if (err == TR_OK)
		return;
	refuse(outbox, waiting->hook, err);
	waiting->refused = true;
}

/* Decided in this turn: the usual case. */
static void
store_decided(struct tr_waiting *waiting, struct tr_outbox *outbox)
{
	struct tr_message *record = waiting->record;
	struct tr_logger *hook = waiting->hook;
	const char *error = waiting->error;
	int err;

	tr_message_revoke(record);
	if (waiting->cancelled) {
		record->flags |= TR_MSG_UNDECIDED;
		store_waiting(waiting, outbox);
		if (waiting->refused)
			waiting_free(waiting);
		return;
	}
	if (!waiting->raised && !waiting->keep) {
		err = tr_change_count(&outbox->change, hook->account, TR_COL_OFFERED, TR_REASON_NONE, 1);
		if (err == TR_OK)
			err = tr_change_count(&outbox->change, hook->account, TR_COL_FILTERED, TR_REASON_POLICY, 1);
	} else if (!waiting->raised && tr_record_choose_queue(record, &error) == TR_OK) {
		err = put_new(outbox, record, tr_str(record->queue));
		if (err == TR_OK) {
			tr_outbox_add_record(outbox, record);
			waiting->record = NULL;
		}
	} else {
		tr_record_mark_parked(hook, record, error != NULL ? error : "an error without memory for its text");
		waiting->raw = true;
		store_waiting(waiting, outbox);
		if (waiting->refused)
			waiting_free(waiting);
		return;
	}
	if (err != TR_OK)
		refuse(outbox, hook, err);
	waiting_free(waiting);
}

/* The usual case of a hook whose queue is declared: nobody has to be asked. False: somebody has to. */
static bool
store_known(struct tr_recorder *recorder, struct tr_logger *hook, struct tr_outbox *outbox, struct tr_message *record)
{
	struct tr_known known;
	int err;

	if (recorder->ops.known_queue == NULL ||
		!recorder->ops.known_queue(recorder->ops_arg, outbox->worker, hook->name, &known))
		return false;
	err = tr_meta_set(&record->meta, TR_STR("queue"), known.json);
	if (err == TR_OK)
		err = tr_message_set_queue(record, known.name);
	if (err == TR_OK)
		err = put_new(outbox, record, known.name);
	if (err == TR_OK) {
		tr_outbox_add_record(outbox, record);
	} else {
		refuse(outbox, hook, err);
		tr_message_free(record);
	}
	return true;
}

void
tr_hook_emit(struct tr_recorder *recorder, struct tr_logger *hook, struct tr_outbox *outbox,
	const struct tr_event *event, struct tr_blob *line, struct tr_blob *json, int64_t now_ns)
{
	struct tr_message *record = tr_record_message(hook, event, line != NULL ? line : json, json, now_ns);
	bool leave = must_leave(hook, outbox->worker), wait = must_wait(hook);
	struct tr_waiting *waiting;

	if (record != NULL && line != NULL && !leave && !wait && store_known(recorder, hook, outbox, record))
		return;
	waiting = record != NULL ? waiting_new(recorder, hook, outbox->worker, record) : NULL;
	if (waiting == NULL) {
		tr_message_free(record);
		refuse(outbox, hook, TR_ENOMEM);
		return;
	}
	if (line == NULL) {
		waiting->answered = waiting->raised = true;
		waiting->error = strdup("the template of this hook cannot be rendered");
		store_decided(waiting, outbox);
	} else if (leave) {
		record->flags |= TR_MSG_UNDECIDED;
		waiting->leaves = true;
		tr_metric_add(hook->backlog, 1);
		store_waiting(waiting, outbox);
		if (waiting->refused)
			waiting_free(waiting);
		else
			atomic_fetch_add_explicit(&hook->leaving, 1, memory_order_relaxed);
	} else if (wait) {
		record->flags |= TR_MSG_UNDECIDED;
		store_waiting(waiting, outbox);
		if (waiting->refused)
			waiting_free(waiting);
		else
			wait_in_line(waiting);
	} else if (ask(waiting)) {
		store_decided(waiting, outbox);
	} else {
		record->flags |= TR_MSG_UNDECIDED;
		store_waiting(waiting, outbox); /* refused: it ends with the handler's answer */
	}
}

static struct tr_logger *
hook_of_account(struct tr_recorder *recorder, uint16_t account)
{
	for (uint32_t i = 0; i < recorder->count; i++)
		if (recorder->loggers[i]->kind == TR_LOGGER_HOOK && recorder->loggers[i]->account == account)
			return recorder->loggers[i];
	return NULL;
}

uint32_t
tr_recorder_room(struct tr_recorder *recorder, uint16_t account)
{
	const struct tr_logger *hook = hook_of_account(recorder, account);
	uint32_t waiting = hook == NULL ? 0 : atomic_load_explicit(&hook->waiting, memory_order_relaxed);

	return waiting < TR_WAITING_MAX ? TR_WAITING_MAX - waiting : 0;
}

void
tr_recorder_decide(struct tr_recorder *recorder, struct tr_worker *worker, struct tr_message *record)
{
	struct tr_logger *hook = hook_of_account(recorder, record->account);
	struct tr_waiting *waiting;

	if (hook == NULL) {
		tr_record_park_orphan(worker, record);
		return;
	}
	record->hook = hook->index;
	waiting = waiting_new(recorder, hook, worker, record);
	if (waiting == NULL) {
		tr_record_ask_later(worker, record);
		return;
	}
	waiting->committed = true;
	if (must_wait(hook))
		wait_in_line(waiting);
	else if (ask(waiting))
		settle(waiting);
}

void
tr_hook_drop_waiting(struct tr_logger *hook)
{
	struct tr_waiting *waiting = hook->first;

	while (waiting != NULL) {
		struct tr_waiting *next = waiting->next;

		waiting_free(waiting);
		waiting = next;
	}
	hook->first = hook->last = NULL;
}
