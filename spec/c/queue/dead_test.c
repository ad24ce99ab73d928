/* Dead letters under the real engine: bounds, changes that are full, a stop while they are gone through. */
#include <errno.h>
#include <sched.h>

#include "rig.h"

#include "disk.h"
#include "queue/dead_internal.h"

/* --- a hook ---------------------------------------------------------------------------------------------- */

#define HOOK_QUEUE "h.log_hook"

static uint16_t account;
static size_t body_bytes;

static void
begin(struct rig *rig)
{
	rig_init(rig);
	rig_open(rig);
	assert_int_equal(tr_spool_account(rig->spool, "h", &account), TR_OK);
	body_bytes = 100;
}

static struct tr_message *
record(uint32_t number)
{
	struct tr_message *message = rig_message(HOOK_QUEUE, number);
	char *text = calloc(1, body_bytes + 1);

	memset(text, 'x', body_bytes);
	tr_bytes_fini(&message->body);
	tr_bytes_set(&message->body, tr_blob_new(text, body_bytes));
	free(text);
	message->flags |= TR_MSG_LOG_RECORD;
	message->account = account;
	return message;
}

static int64_t
refuse(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	outcome->kind = TR_OUT_BOUNCED;
	outcome->response = (struct tr_response){550, {5, 6, 0}, TR_STR("no"), {NULL, 0}};
	return 0;
}

static void
in_batches(struct rig *rig, const char *name, struct tr_queue_config *config)
{
	config->batch_size = 100;
}

static void
put_records(struct rig *rig, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		rig_put_message(rig, tr_engine_worker(rig->engine, 0), record(i));
		if (i % 20 == 19)
			rig_run(rig, TR_NS_PER_MS);
	}
}

static int64_t
column(struct rig *rig, const char *name, enum tr_column column)
{
	struct tr_ledger ledger;
	int64_t value = -1;

	assert_int_equal(tr_spool_ledger(rig->spool, &ledger), TR_OK);
	for (uint32_t i = 0; i < ledger.count; i++)
		if (strcmp(ledger.accounts[i].name, name) == 0)
			value = ledger.accounts[i].columns[column];
	tr_ledger_fini(&ledger);
	return value;
}

static uint64_t
letters(struct rig *rig)
{
	return tr_dead_count(tr_engine_dead(rig->engine));
}

/* --- bounds ------------------------------------------------------------------------------------------------ */

/* However many die between two looks, the bound holds after the second. */
static void
the_bound_holds_however_many_die(void **state)
{
	struct rig rig;
	struct tr_dead_bounds bounds = {.max_count = 10};

	begin(&rig);
	rig.queue_config = in_batches;
	rig.send = refuse;
	tr_dead_configure(tr_engine_dead(rig.engine), account, &bounds);
	put_records(&rig, 1800);
	rig_run(&rig, 21 * TR_NS_PER_S);
	assert_int_equal(letters(&rig), 10);
	assert_int_equal(column(&rig, "h", TR_COL_DEAD), 1800);
	assert_int_equal(column(&rig, "dead:h", TR_COL_DROPPED), 1790);
	rig_fini(&rig);
}

/* They are the hook's from the start on, not from its first new letter. */
static void
bounds_hold_for_what_a_former_run_left(void **state)
{
	struct rig rig;
	struct tr_dead_bounds bounds = {.max_count = 2};

	begin(&rig);
	rig.send = refuse;
	put_records(&rig, 5);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(letters(&rig), 5);
	rig_close(&rig);
	rig_open(&rig);
	tr_dead_configure(tr_engine_dead(rig.engine), account, &bounds);
	rig_run(&rig, 11 * TR_NS_PER_S);
	assert_int_equal(letters(&rig), 2);
	rig_fini(&rig);
}

/* --- dying --------------------------------------------------------------------------------------------------- */

static void
one_connection(struct rig *rig, const char *name, struct tr_path_config *config)
{
	config->connection_limit = 1;
}

static int64_t
refuse_after_the_first(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	if (rig->calls == 1)
		return TR_NS_PER_S; /* meanwhile a whole batch comes together */
	return refuse(rig, session, outcome);
}

/* More letters than one change can hold: each is stored all the same. */
static void
a_batch_larger_than_a_change_dies_whole(void **state)
{
	struct rig rig;

	begin(&rig);
	body_bytes = 60000; /* a hundred: 6 MB; half a segment has 2 */
	rig.queue_config = in_batches;
	rig.path_config = one_connection;
	rig.send = refuse_after_the_first;
	rig_put(&rig, HOOK_QUEUE, 0);
	rig_run(&rig, 10 * TR_NS_PER_MS);
	put_records(&rig, 100);
	rig_run(&rig, 2 * TR_NS_PER_S);
	assert_int_equal(rig.calls, 2);
	assert_int_equal(letters(&rig), 100);
	assert_int_equal(rig_figures(&rig).parked, 0);
	assert_int_equal(column(&rig, "dead:h", TR_COL_ACCEPTED), 100);
	assert_int_equal(column(&rig, "h", TR_COL_BOUNCED), 0);
	rig_fini(&rig);
}

/* --- jobs ------------------------------------------------------------------------------------------------------ */

static bool job_ended;
static uint32_t seen;

static uint64_t last_seq;

static void
job_each(struct tr_dead_job *job, const struct tr_message *message, struct tr_str info)
{
	seen++;
	assert_true(message->seq > last_seq); /* pages go by it */
	last_seq = message->seq;
}

static void
job_done(struct tr_dead_job *job)
{
	job_ended = true;
}

static uint32_t moved_count, replayed_count; /* where they were, and written anew */

static void
job_moved(struct tr_dead_job *job, const char *queue, const uint32_t *slots, uint32_t count)
{
	struct rig *rig = job->owner;

	moved_count += count;
	tr_queue_insert_stored(tr_engine_worker(rig->engine, 0), tr_str(queue), slots, count);
}

static void
job_replayed(struct tr_dead_job *job, struct tr_message *message)
{
	struct rig *rig = job->owner;

	replayed_count++;
	tr_queue_insert(tr_engine_worker(rig->engine, 0), message, "Received");
}

/* Whatever order their changes were committed in. */
static void
letters_are_seen_in_the_order_of_their_seq(void **state)
{
	struct rig rig;
	struct tr_dead_job job = {.action = TR_DEAD_LOOK, .each = job_each, .done = job_done};
	struct tr_dead_store *store;
	uint16_t dead;

	begin(&rig);
	rig.send = refuse;
	put_records(&rig, 200);
	rig_run(&rig, TR_NS_PER_S);
	store = tr_engine_dead(rig.engine);
	assert_int_equal(dead_other(store, account, &dead), TR_OK);
	for (int i = 0; i < 150; i += 50) { /* as if the changes of the first ones had been the last */
		uint32_t slot;

		pthread_mutex_lock(&store->lock);
		slot = dead_pop(store, &store->accounts[dead]);
		pthread_mutex_unlock(&store->lock);
		tr_dead_add(store, slot, TR_STR(HOOK_QUEUE));
	}
	seen = 0;
	last_seq = 0;
	job_ended = false;
	assert_int_equal(tr_dead_start(store, rig.loops[0], &job), TR_OK);
	rig_run(&rig, TR_NS_PER_S);
	assert_true(job_ended);
	assert_int_equal(seen, 200);
	rig_fini(&rig);
}

/* A job that is under way when the engine stops ends early, and before the engine says that it has stopped. */
static void
a_stop_waits_for_a_job(void **state)
{
	struct rig rig;
	struct tr_dead_job job = {.action = TR_DEAD_LOOK, .each = job_each, .done = job_done};

	begin(&rig);
	rig.queue_config = in_batches;
	rig.send = refuse;
	put_records(&rig, 5000);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(letters(&rig), 5000);
	job_ended = false;
	seen = 0;
	last_seq = 0;
	assert_int_equal(tr_dead_start(tr_engine_dead(rig.engine), rig.loops[0], &job), TR_OK);
	tr_engine_stop(rig.engine, tr_mono_ns() + 20 * TR_NS_PER_S, rig_stopped, &rig);
	assert_true(tr_loop_run_until(rig.loops[0], rig_is_stopped, &rig, 60 * TR_NS_PER_S));
	assert_true(job_ended);
	assert_true(job.cut);
	assert_true(seen < 5000);
	assert_int_equal(letters(&rig), 5000);
	assert_int_equal(tr_dead_start(tr_engine_dead(rig.engine), rig.loops[0], &job), TR_ECANCELED);
	rig_fini(&rig);
}

/* A record that had a moment to expire at is as new as any other after a replay. */
static void
a_replayed_record_does_not_expire_at_once(void **state)
{
	struct rig rig;
	struct tr_dead_job job = {.action = TR_DEAD_REPLAY,
		.moved = job_moved,
		.replayed = job_replayed,
		.done = job_done,
		.owner = &rig};
	struct tr_message *message;

	begin(&rig);
	rig.send = refuse;
	message = record(0);
	message->schedule = calloc(1, sizeof *message->schedule);
	message->schedule->expires_ms = tr_wall_ms() + 60000;
	rig_put_message(&rig, tr_engine_worker(rig.engine, 0), message);
	rig_run(&rig, HOUR_NS);
	assert_int_equal(letters(&rig), 1);
	rig.send = NULL;
	assert_int_equal(tr_dead_start(tr_engine_dead(rig.engine), rig.loops[0], &job), TR_OK);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(job.matched, 1);
	assert_int_equal(letters(&rig), 0);
	assert_int_equal(rig.sent, 1);
	rig_fini(&rig);
}

static struct {
	uint32_t sent;
	char queue[30][24];
} went; /* by the number in the body */

static int64_t
note_queue(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	for (const struct tr_message *message = session->held; message != NULL; message = message->next) {
		uint32_t number = (uint32_t)message->body.len - 100;

		assert_true(number < TR_COUNT(went.queue));
		assert_string_equal(went.queue[number], ""); /* none comes twice */
		assert_int_equal(message->attempts, 0);
		assert_null(tr_meta_get(&message->meta, TR_STR("dead_letter")).data);
		snprintf(went.queue[number], sizeof went.queue[0], "%s", message->queue);
		went.sent++;
	}
	outcome->kind = TR_OUT_DELIVERED;
	return 0;
}

/* In one page: those that are moved where they lie, those with a key, and those whose queue was not noted. */
static void
letters_go_back_to_the_queues_that_they_came_from(void **state)
{
	struct rig rig;
	struct tr_dead_job job = {.action = TR_DEAD_REPLAY,
		.moved = job_moved,
		.replayed = job_replayed,
		.done = job_done,
		.owner = &rig};
	struct tr_dead_store *store;
	uint32_t slot, at = 0;
	uint16_t dead;

	begin(&rig);
	rig.send = refuse;
	for (uint32_t i = 0; i < 30; i++) {
		struct tr_message *message;
		char name[24];

		body_bytes = 100 + i;
		message = record(i);
		snprintf(name, sizeof name, "%c.log_hook", 'a' + (int)(i % 3));
		assert_int_equal(tr_message_set_queue(message, tr_str(name)), TR_OK);
		if (i % 5 == 0)
			assert_int_equal(tr_message_set_order(message, TR_STR("k")), TR_OK);
		rig_put_message(&rig, tr_engine_worker(rig.engine, 0), message);
	}
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(letters(&rig), 30);
	store = tr_engine_dead(rig.engine);
	assert_int_equal(dead_other(store, account, &dead), TR_OK);
	for (slot = store->accounts[dead].list.head; slot != TR_NO_SLOT; slot = tr_spool_stub(rig.spool, slot)->next) {
		struct tr_stub *stub = tr_spool_stub(rig.spool, slot);

		assert_string_equal(dead_queue(store, stub) + 1, ".log_hook");
		if (at++ >= 20)
			stub->order = 0;
	}
	memset(&went, 0, sizeof went);
	moved_count = replayed_count = 0;
	rig.send = note_queue;
	assert_int_equal(tr_dead_start(store, rig.loops[0], &job), TR_OK);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(job.matched, 30);
	assert_int_equal(moved_count + replayed_count, 30);
	assert_true(moved_count >= 14 && moved_count <= 20);
	assert_int_equal(went.sent, 30);
	for (uint32_t i = 0; i < 30; i++)
		assert_int_equal(went.queue[i][0], 'a' + (int)(i % 3));
	assert_int_equal(letters(&rig), 0);
	assert_int_equal(column(&rig, "h", TR_COL_MOVED_IN), 30);
	assert_int_equal(column(&rig, "dead:h", TR_COL_MOVED_OUT), 30);
	rig_fini(&rig);
}

static void
one_job_takes_no_more_than_its_limit(void **state)
{
	struct rig rig;
	struct tr_dead_job job = {.action = TR_DEAD_REPLAY,
		.limit = 4500,
		.moved = job_moved,
		.replayed = job_replayed,
		.done = job_done,
		.owner = &rig};

	begin(&rig);
	rig.queue_config = in_batches;
	rig.send = refuse;
	put_records(&rig, 5000);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(letters(&rig), 5000);
	rig.send = NULL;
	assert_int_equal(tr_dead_start(tr_engine_dead(rig.engine), rig.loops[0], &job), TR_OK);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(job.matched, 4500);
	assert_int_equal(letters(&rig), 500);
	job = (struct tr_dead_job){.action = TR_DEAD_PURGE, .limit = 499, .done = job_done};
	assert_int_equal(tr_dead_start(tr_engine_dead(rig.engine), rig.loops[0], &job), TR_OK);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(job.matched, 499);
	assert_int_equal(letters(&rig), 1);
	assert_int_equal(rig.sent, 4500);
	rig_fini(&rig);
}

/* The disk refuses the change with one page while the next one is read ahead: no letter is lost, none is sent. */
static void
a_refused_replay_keeps_all_letters(void **state)
{
	struct rig rig;
	struct tr_dead_job job = {.action = TR_DEAD_REPLAY,
		.moved = job_moved,
		.replayed = job_replayed,
		.done = job_done,
		.owner = &rig};

	rig_init(&rig);
	disk_install(1);
	strcpy(rig.sub, "/sim/spool");
	rig_open(&rig);
	assert_int_equal(tr_spool_account(rig.spool, "h", &account), TR_OK);
	rig.queue_config = in_batches;
	rig.send = refuse;
	put_records(&rig, 5000);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(letters(&rig), 5000);
	rig.send = NULL;
	job_ended = false;
	disk_fail_nth(DISK_WRITE, 1, EIO, true);
	assert_int_equal(tr_dead_start(tr_engine_dead(rig.engine), rig.loops[0], &job), TR_OK);
	rig_run(&rig, 10 * TR_NS_PER_S);
	assert_true(job_ended);
	assert_true(job.refused > 0 && job.refused < 5000);
	assert_int_equal(job.matched, 0);
	assert_int_equal(letters(&rig), 5000);
	assert_int_equal(rig.sent, 0);
	disk_heal();
	while (!tr_spool_accepts(rig.spool, NULL)) /* the commit thread tries in real time */
		sched_yield();
	job = (struct tr_dead_job){.action = TR_DEAD_REPLAY,
		.moved = job_moved,
		.replayed = job_replayed,
		.done = job_done,
		.owner = &rig};
	assert_int_equal(tr_dead_start(tr_engine_dead(rig.engine), rig.loops[0], &job), TR_OK);
	rig_run(&rig, 10 * TR_NS_PER_S);
	assert_int_equal(job.matched, 5000);
	assert_int_equal(letters(&rig), 0);
	assert_int_equal(rig.sent, 5000);
	rig_fini(&rig);
	disk_uninstall();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_bound_holds_however_many_die),
		cmocka_unit_test(bounds_hold_for_what_a_former_run_left),
		cmocka_unit_test(a_batch_larger_than_a_change_dies_whole),
		cmocka_unit_test(letters_are_seen_in_the_order_of_their_seq),
		cmocka_unit_test(a_stop_waits_for_a_job),
		cmocka_unit_test(a_replayed_record_does_not_expire_at_once),
		cmocka_unit_test(letters_go_back_to_the_queues_that_they_came_from),
		cmocka_unit_test(one_job_takes_no_more_than_its_limit),
		cmocka_unit_test(a_refused_replay_keeps_all_letters),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
