/* A recorder with a real spool, for recorder_test.c: the queues and the policy are doubles. */
#ifndef RECORDER_BED_H
#define RECORDER_BED_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/json.h"
#include "record/internal.h"

/* --- the double of runtime/queue -------------------------------------------------------------------------------- */

struct tr_worker {
	struct tr_loop *loop;
	struct tr_spool *spool;
	struct tr_message *inserted, *parked; /* newest first */
	uint32_t inserted_count, parked_count;
	uint32_t under_way;                  /* outboxes */
	uint32_t left_count, asked_for_more; /* undecided ones that went to the spool; calls of decide_more */
	uint32_t again[4], again_count;      /* slots that are to be decided again */
	bool refuse;                         /* changes of decisions */
};

struct tr_loop *
tr_worker_loop(struct tr_worker *worker)
{
	return worker->loop;
}

static void
committed(struct tr_change *change, int status)
{
	struct tr_outbox *outbox = tr_container_of(change, struct tr_outbox, change);
	struct tr_worker *worker = outbox->worker;

	while (outbox->records != NULL) {
		struct tr_message *record = outbox->records;

		outbox->records = record->next;
		if (status != TR_OK) {
			tr_message_free(record);
			continue;
		}
		record->next = worker->inserted;
		worker->inserted = record;
		worker->inserted_count++;
	}
	worker->under_way--;
	outbox->done(outbox, status);
}

void
tr_outbox_init(struct tr_outbox *outbox, struct tr_worker *worker, void (*done)(struct tr_outbox *outbox, int status),
	void *owner)
{
	*outbox = (struct tr_outbox){.worker = worker, .done = done, .owner = owner};
	outbox->records_end = &outbox->records;
	tr_change_init(&outbox->change, worker->spool, worker->loop, committed, outbox);
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

void
tr_outbox_submit(struct tr_outbox *outbox)
{
	outbox->submitted = true;
	if (outbox->pending > 0)
		return;
	outbox->worker->under_way++;
	if (outbox->worker->refuse)
		tr_change_fail(&outbox->change, TR_ENOMEM);
	tr_spool_submit(&outbox->change);
}

void
tr_outbox_release(struct tr_outbox *outbox)
{
	if (--outbox->pending == 0 && outbox->submitted)
		tr_outbox_submit(outbox);
}

void
tr_outbox_abandon(struct tr_outbox *outbox)
{
	tr_change_abandon(&outbox->change);
}

struct tr_engine *
tr_worker_engine(struct tr_worker *worker)
{
	return (struct tr_engine *)worker;
}

void
tr_queue_leave_undecided(struct tr_worker *worker, struct tr_message *message)
{
	assert_true(message->flags & TR_MSG_UNDECIDED);
	worker->left_count++;
	tr_message_free(message);
}

void
tr_queue_ask_again(struct tr_worker *worker, uint32_t slot)
{
	assert_true(worker->again_count < TR_COUNT(worker->again));
	worker->again[worker->again_count++] = slot;
}

uint32_t
tr_queue_undecided(const struct tr_engine *engine, uint16_t account)
{
	return ((const struct tr_worker *)engine)->left_count;
}

void
tr_queue_decide_more(struct tr_engine *engine)
{
	((struct tr_worker *)engine)->asked_for_more++;
}

void
tr_dead_configure(struct tr_dead_store *store, uint16_t hook_account, const struct tr_dead_bounds *bounds)
{
	fail(); /* there is no store of dead letters here */
}

void
tr_queue_park(struct tr_worker *worker, struct tr_message *message)
{
	assert_true(message->flags & TR_MSG_POLICY_ERROR);
	message->next = worker->parked;
	worker->parked = message;
	worker->parked_count++;
}

/* --- the double of policy ---------------------------------------------------------------------------------------- */

enum mode { KEEP, DROP, RAISE, WAIT, NO_QUEUE, BAD_QUEUE };

struct bed {
	char dir[64], path[96];
	struct tr_loop *loop;
	struct tr_spool *spool;
	struct tr_recorder *recorder;
	struct tr_worker worker, *emitter; /* emitter NULL: worker */
	struct tr_spool_config config;
	enum mode mode;
	struct tr_decision *pending[64];
	uint32_t asked, waiting;
	void (*dispose_then)(void *arg);
	void *dispose_arg;
	bool dispose_waits, refuse;
	char disposed[2048], hooks[128];
	void (*filter_then)(void *arg, bool write);
	void *filter_arg;
	int filter; /* -1 waits, else the answer */
	bool render_fails;
	const char *declared; /* the hook whose queue is known; NULL: none is */
	struct tr_recovered recovered[64];
	uint32_t recovered_count;
};

static void
set_queue(struct tr_message *record)
{
	assert_int_equal(tr_meta_set(&record->meta, TR_STR("queue"), TR_STR("\"h.log_hook\"")), TR_OK);
}

static bool
fake_known(void *arg, struct tr_worker *worker, const char *hook, struct tr_known *out)
{
	struct bed *bed = arg;

	*out = (struct tr_known){TR_STR("known.log_hook"), TR_STR("\"known.log_hook\"")};
	return bed->declared != NULL && strcmp(bed->declared, hook) == 0;
}

static void
fake_decide(void *arg, struct tr_worker *worker, struct tr_decision *decision)
{
	struct bed *bed = arg;
	struct tr_message *record = decision->record;

	bed->asked++;
	snprintf(bed->hooks + strlen(bed->hooks), sizeof bed->hooks - strlen(bed->hooks), "%s ", decision->hook);
	switch (bed->mode) {
	case KEEP:
		set_queue(record);
		decision->then(decision, true, NULL);
		break;
	case NO_QUEUE:
		decision->then(decision, true, NULL);
		break;
	case BAD_QUEUE:
		tr_meta_set(&record->meta, TR_STR("queue"), TR_STR("4711"));
		decision->then(decision, true, NULL);
		break;
	case DROP:
		decision->then(decision, false, NULL);
		break;
	case RAISE:
		decision->then(decision, false, "policy.lua:7: boom\nstack traceback: ...");
		break;
	case WAIT:
		bed->pending[bed->waiting++] = decision;
		break;
	}
}

static void
fake_dispose(void *arg, struct tr_worker *worker, const struct tr_message *message, const char *hook,
	struct tr_str record_json, void (*then)(void *then_arg), void *then_arg)
{
	struct bed *bed = arg;

	snprintf(bed->disposed, sizeof bed->disposed, "%.*s", (int)record_json.len, record_json.data);
	if (!bed->dispose_waits) {
		then(then_arg);
		return;
	}
	bed->dispose_then = then;
	bed->dispose_arg = then_arg;
}

static void
fake_filter(void *arg, struct tr_worker *worker, const struct tr_message *message, const char *event,
	void (*then)(void *then_arg, bool write), void *then_arg)
{
	struct bed *bed = arg;

	assert_string_equal(event, "my_filter");
	if (bed->filter >= 0) {
		then(then_arg, bed->filter != 0);
		return;
	}
	bed->filter_then = then;
	bed->filter_arg = then_arg;
}

static int
fake_render(
	void *arg, struct tr_worker *worker, const char *template_text, struct tr_str record_json, struct tr_buf *out)
{
	struct bed *bed = arg;

	if (bed->render_fails)
		return TR_EINVAL;
	tr_buf_addf(out, "%s:%zu", template_text, record_json.len);
	return TR_OK;
}

/* --- bed ------------------------------------------------------------------------------------------------------------
 */

static void
silent(void *arg, enum tr_level level, const char *target, const char *text)
{
}

static void
found(void *arg, const struct tr_recovered *message)
{
	struct bed *bed = arg;

	bed->recovered[bed->recovered_count] = *message;
	bed->recovered[bed->recovered_count].queue.data = NULL; /* borrowed */
	bed->recovered_count++;
}

static void
bed_start(struct bed *bed)
{
	struct tr_record_ops ops = {fake_known, fake_decide, fake_dispose, fake_filter, fake_render};
	struct tr_recovery stats;
	char *error = NULL;

	bed->config.meta_path = bed->config.data_path = bed->path;
	bed->config.segment_bytes = 65536;
	bed->config.min_free_space.bytes = bed->config.min_free_inodes.bytes = 1;
	assert_int_equal(tr_spool_open(&bed->config, &bed->spool, &error), TR_OK);
	bed->recovered_count = 0;
	assert_int_equal(tr_spool_recover(bed->spool, found, bed, &stats), TR_OK);
	bed->worker = (struct tr_worker){.loop = bed->loop, .spool = bed->spool};
	assert_int_equal(tr_recorder_new(bed->spool, &ops, bed, &bed->recorder), TR_OK);
	tr_recorder_set_nodeid(bed->recorder, "0b9c1c52-8e4b-4f55-9d0e-5a3d8c1f2e77");
}

static void
bed_init(struct bed *bed)
{
	*bed = (struct bed){.mode = KEEP};
	snprintf(bed->dir, sizeof bed->dir, "/tmp/tr-record-XXXXXX");
	assert_non_null(mkdtemp(bed->dir));
	snprintf(bed->path, sizeof bed->path, "%s/spool", bed->dir);
	tr_clock_virtual(INT64_C(1785000012250000000));
	tr_log_sink(silent, NULL);
	assert_int_equal(tr_loop_new(&bed->loop), TR_OK);
	tr_loop_enter(bed->loop);
	bed_start(bed);
}

static void
free_list(struct tr_message *list)
{
	while (list != NULL) {
		struct tr_message *next = list->next;

		tr_message_free(list);
		list = next;
	}
}

static void
bed_stop(struct bed *bed)
{
	tr_recorder_free(bed->recorder);
	free_list(bed->worker.inserted);
	free_list(bed->worker.parked);
	tr_spool_close(bed->spool);
}

static void
run(const char *command, const char *a, const char *b)
{
	char line[256];

	snprintf(line, sizeof line, "%s '%s' '%s'", command, a, b);
	assert_int_equal(system(line), 0);
}

static void
bed_fini(struct bed *bed)
{
	bed_stop(bed);
	tr_loop_free(bed->loop);
	tr_log_sink(NULL, NULL);
	tr_clock_real();
	run("rm -rf", bed->dir, bed->dir);
}

static bool
nothing_under_way(void *arg)
{
	return ((struct bed *)arg)->worker.under_way == 0 && tr_hold_count() == 0;
}

static void
settle(struct bed *bed)
{
	assert_true(tr_loop_run_until(bed->loop, nothing_under_way, bed, 20 * TR_NS_PER_S));
}

static struct tr_logger_config
config_of(enum tr_logger_kind kind, const char *name)
{
	struct tr_logger_config config = {.kind = kind, .name = name, .back_pressure = 100, .max_file_size = 1000000};

	for (int type = 0; type < TR_EVENT_TYPES; type++)
		config.per_record[type].enable = true;
	return config;
}

static void
add(struct bed *bed, const struct tr_logger_config *config)
{
	char *error = NULL;

	assert_int_equal(tr_recorder_add(bed->recorder, config, &error), TR_OK);
	assert_null(error);
}

static void
add_hook(struct bed *bed, const char *name)
{
	struct tr_logger_config config = config_of(TR_LOGGER_HOOK, name);

	add(bed, &config);
}

struct cause {
	struct tr_outbox outbox;
	struct tr_message *message;
	int status; /* 1: not done */
};

static void
cause_done(struct tr_outbox *outbox, int status)
{
	struct cause *cause = tr_container_of(outbox, struct cause, outbox);

	assert_ptr_equal(outbox->owner, cause); /* whatever stood between is gone again */
	cause->status = status;
}

static struct tr_message *
sample(void)
{
	struct tr_message *message = tr_message_new();

	tr_message_set_sender(message, TR_STR("news@shop.test"));
	tr_message_add_rcpt(message, TR_STR("ann@dest.test"));
	tr_message_add_rcpt(message, TR_STR("bob@dest.test"));
	tr_meta_set(&message->meta, TR_STR("tenant"), TR_STR("\"shop\""));
	tr_meta_set(&message->meta, TR_STR("log_record"), TR_STR("\"not this\""));
	tr_meta_set(&message->meta, TR_STR("reception_protocol"), TR_STR("\"ESMTP\""));
	tr_message_set_data(message, TR_STR("Subject: hello\r\n\r\nbody\r\n"));
	return message;
}

/* One event, its change handed over. */
static void
emit(struct bed *bed, struct cause *cause, enum tr_event_type type, uint16_t flags)
{
	struct tr_event event = {.type = type, .response = {.code = 250}, .num_attempts = -1};

	cause->status = 1;
	cause->message = type == TR_EV_REJECTION ? NULL : sample();
	if (cause->message != NULL)
		cause->message->flags |= flags;
	event.message = cause->message;
	tr_outbox_init(&cause->outbox, bed->emitter != NULL ? bed->emitter : &bed->worker, cause_done, cause);
	/* the cause's own part of the change */
	assert_int_equal(
		tr_change_count(&cause->outbox.change, TR_ACCOUNT_MAIL, TR_COL_ACCEPTED, TR_REASON_NONE, 1), TR_OK);
	assert_int_equal(
		tr_change_count(&cause->outbox.change, TR_ACCOUNT_MAIL, TR_COL_DELIVERED, TR_REASON_NONE, 1), TR_OK);
	tr_recorder_emit(bed->recorder, &cause->outbox, &event);
	tr_message_free(cause->message); /* nothing of the event may be used after emit */
	if (bed->refuse)
		cause->outbox.change.failed = true;
	tr_outbox_submit(&cause->outbox);
}

static void
answer(struct bed *bed, uint32_t i, bool keep, const char *error)
{
	if (keep)
		set_queue(bed->pending[i]->record);
	bed->pending[i]->then(bed->pending[i], keep, error);
}

static void
check_account(struct bed *bed, const char *name, int64_t offered, int64_t accepted, int64_t filtered, int64_t dropped,
	int64_t waiting)
{
	struct tr_ledger ledger;
	struct tr_buf text = {0};
	const struct tr_account *account = NULL;

	assert_int_equal(tr_spool_ledger(bed->spool, &ledger), TR_OK);
	for (uint32_t i = 0; i < ledger.count; i++)
		if (strcmp(ledger.accounts[i].name, name) == 0)
			account = &ledger.accounts[i];
	assert_non_null(account);
	assert_int_equal(account->columns[TR_COL_OFFERED], offered);
	assert_int_equal(account->columns[TR_COL_ACCEPTED], accepted);
	assert_int_equal(account->columns[TR_COL_FILTERED], filtered);
	assert_int_equal(account->filtered[TR_REASON_POLICY], filtered);
	assert_int_equal(account->columns[TR_COL_DROPPED], dropped);
	assert_int_equal(account->dropped[TR_REASON_POLICY], dropped);
	assert_int_equal(account->waiting, waiting);
	if (!tr_ledger_balances(&ledger, &text))
		fail_msg("%.*s", (int)text.len, text.data);
	tr_buf_free(&text);
	tr_ledger_fini(&ledger);
}

#endif
