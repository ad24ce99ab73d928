/* Records for hooks that are answered for late or never, over a kill, too; with a real spool. The queues are a double.
 */
#include "recorder_bed.h"

static void
late_answers(void **state)
{
	struct bed bed;
	struct cause causes[3];

	bed_init(&bed);
	bed.mode = WAIT;
	add_hook(&bed, "h");
	for (int i = 0; i < 3; i++)
		emit(&bed, &causes[i], TR_EV_RECEPTION, 0);
	settle(&bed);
	for (int i = 0; i < 3; i++)
		assert_int_equal(causes[i].status, TR_OK); /* nobody waits for a handler */
	check_account(&bed, "h", 3, 3, 0, 0, 3);
	answer(&bed, 0, true, NULL);
	answer(&bed, 1, false, NULL);
	answer(&bed, 2, false, "late.lua:1: boom");
	assert_int_equal(bed.worker.inserted_count + bed.worker.parked_count, 0);
	settle(&bed);
	assert_int_equal(bed.worker.inserted_count, 1);
	assert_false(bed.worker.inserted->flags & TR_MSG_UNDECIDED);
	assert_int_equal(bed.worker.parked_count, 1);
	check_account(&bed, "h", 3, 3, 0, 1, 2);
	bed_fini(&bed);
}

static void
an_answer_before_the_commit_waits_for_it(void **state)
{
	struct bed bed;
	struct cause cause;

	bed_init(&bed);
	bed.mode = WAIT;
	add_hook(&bed, "h");
	emit(&bed, &cause, TR_EV_RECEPTION, 0);
	answer(&bed, 0, true, NULL);
	assert_int_equal(bed.worker.under_way, 1); /* the cause's change alone */
	settle(&bed);
	assert_int_equal(bed.worker.inserted_count, 1);
	check_account(&bed, "h", 1, 1, 0, 0, 1);
	bed_fini(&bed);
}

static void
handlers_are_bounded_and_go_on_in_order(void **state)
{
	struct bed bed;
	struct cause causes[5];
	struct tr_logger_config config = config_of(TR_LOGGER_HOOK, "h");
	int64_t before = tr_metric_read("log_hook_backlog_count", "logger", "h", NULL);

	bed_init(&bed);
	bed.mode = WAIT;
	config.back_pressure = 2;
	add(&bed, &config);
	for (int i = 0; i < 5; i++)
		emit(&bed, &causes[i], TR_EV_RECEPTION, 0);
	settle(&bed);
	assert_int_equal(bed.asked, 2);
	assert_int_equal(tr_metric_read("log_hook_backlog_count", "logger", "h", NULL) - before, 3);
	check_account(&bed, "h", 5, 5, 0, 0, 5);
	answer(&bed, 1, true, NULL);
	assert_int_equal(bed.asked, 3);
	assert_true(bed.pending[2]->record->seq > bed.pending[1]->record->seq);
	bed.mode = KEEP; /* the rest answers at once, as soon as it is its turn */
	answer(&bed, 0, true, NULL);
	assert_int_equal(bed.asked, 5);
	answer(&bed, 2, true, NULL);
	settle(&bed);
	assert_int_equal(bed.worker.inserted_count, 5);
	check_account(&bed, "h", 5, 5, 0, 0, 5);
	bed_fini(&bed);
}

/* Behind a full line in memory there is the spool. */
static void
a_long_line_is_taken_in_pieces(void **state)
{
	enum { RECORDS = 120 };
	struct bed bed;
	struct cause causes[RECORDS + 1];
	struct tr_logger_config config = config_of(TR_LOGGER_HOOK, "h");
	uint32_t before;

	bed_init(&bed);
	bed.mode = WAIT;
	config.back_pressure = 1;
	add(&bed, &config);
	for (int i = 0; i <= RECORDS; i++)
		emit(&bed, &causes[i], TR_EV_RECEPTION, 0);
	settle(&bed);
	assert_int_equal(bed.asked, 1);
	bed.mode = KEEP; /* the others answer at once */
	answer(&bed, 0, true, NULL);
	assert_in_range(bed.asked, 2, RECORDS / 2);
	while (bed.asked <= RECORDS) {
		before = bed.asked;
		tr_loop_turn(bed.loop);
		assert_in_range(bed.asked - before, 0, RECORDS / 2); /* other work of the loop comes between */
	}
	settle(&bed);
	assert_int_equal(bed.worker.inserted_count, RECORDS + 1);
	check_account(&bed, "h", RECORDS + 1, RECORDS + 1, 0, 0, RECORDS + 1);
	bed_fini(&bed);
}

static void
many_waiting_records_leave_the_memory(void **state)
{
	static struct cause causes[1 + TR_WAITING_MAX + 10];
	struct tr_logger_config config = config_of(TR_LOGGER_HOOK, "h");
	struct bed bed;

	bed_init(&bed);
	bed.mode = WAIT;
	config.back_pressure = 1;
	add(&bed, &config);
	for (size_t i = 0; i < TR_COUNT(causes); i++) {
		emit(&bed, &causes[i], TR_EV_RECEPTION, 0);
		settle(&bed);
	}
	assert_int_equal(bed.asked, 1);
	assert_int_equal(bed.worker.left_count, 10);
	check_account(&bed, "h", TR_COUNT(causes), TR_COUNT(causes), 0, 0, TR_COUNT(causes));
	assert_int_equal(tr_recorder_room(bed.recorder, 1), 0);
	bed.mode = KEEP;
	answer(&bed, 0, true, NULL);
	settle(&bed);
	assert_int_equal(bed.asked, 1 + TR_WAITING_MAX);
	assert_int_equal(bed.worker.inserted_count, 1 + TR_WAITING_MAX);
	assert_true(bed.worker.asked_for_more > 0);
	assert_int_equal(tr_recorder_room(bed.recorder, 1), TR_WAITING_MAX);
	bed_fini(&bed);
}

/* The policy of the worker that holds a record decides about it, whoever made room. */
static void
waiting_records_of_another_worker(void **state)
{
	struct bed bed;
	struct cause mine, theirs;
	struct tr_logger_config config = config_of(TR_LOGGER_HOOK, "h");
	struct tr_worker other;

	bed_init(&bed);
	bed.mode = WAIT;
	config.back_pressure = 1;
	add(&bed, &config);
	emit(&bed, &mine, TR_EV_RECEPTION, 0);
	other = bed.worker; /* on the same thread and loop here */
	other.inserted = other.parked = NULL;
	other.under_way = 0;
	bed.emitter = &other;
	emit(&bed, &theirs, TR_EV_RECEPTION, 0);
	settle(&bed);
	assert_int_equal(bed.asked, 1);
	bed.mode = KEEP;
	answer(&bed, 0, true, NULL);
	assert_int_equal(bed.asked, 1); /* it goes there by mail */
	settle(&bed);
	assert_int_equal(bed.asked, 2);
	assert_int_equal(bed.worker.inserted_count, 1);
	assert_int_equal(other.inserted_count, 1);
	free_list(other.inserted);
	check_account(&bed, "h", 2, 2, 0, 0, 2);
	bed_fini(&bed);
}

/* At the stop the host cancels its tasks; nothing new is asked, and the next start decides. */
static void
cancelled_handlers_leave_records_undecided(void **state)
{
	struct bed bed;
	struct cause causes[2];
	struct tr_logger_config config = config_of(TR_LOGGER_HOOK, "h");

	bed_init(&bed);
	bed.mode = WAIT;
	config.back_pressure = 1;
	add(&bed, &config);
	emit(&bed, &causes[0], TR_EV_RECEPTION, 0);
	emit(&bed, &causes[1], TR_EV_RECEPTION, 0);
	settle(&bed);
	answer(&bed, 0, false, tr_record_cancelled);
	settle(&bed);
	assert_int_equal(bed.asked, 1);
	check_account(&bed, "h", 2, 2, 0, 0, 2);
	bed_stop(&bed);
	bed_start(&bed);
	assert_int_equal(bed.recovered_count, 2);
	for (int i = 0; i < 2; i++)
		assert_true(bed.recovered[i].flags & TR_MSG_UNDECIDED);
	bed_fini(&bed);
}

static void
a_refused_change_takes_its_records_along(void **state)
{
	struct bed bed;
	struct cause causes[7];
	struct tr_logger_config config = config_of(TR_LOGGER_HOOK, "h");
	struct tr_spool_figures figures;

	bed_init(&bed);
	config.back_pressure = 2;
	add(&bed, &config);
	bed.refuse = true; /* what an intake is told when the disk is full, without a full disk */
	bed.mode = KEEP;
	emit(&bed, &causes[0], TR_EV_RECEPTION, 0);
	bed.mode = RAISE;
	emit(&bed, &causes[1], TR_EV_RECEPTION, 0);
	bed.mode = WAIT;
	emit(&bed, &causes[2], TR_EV_RECEPTION, 0);
	answer(&bed, 0, true, NULL); /* before the refusal */
	emit(&bed, &causes[3], TR_EV_RECEPTION, 0);
	settle(&bed);
	assert_int_not_equal(causes[0].status, TR_OK);
	answer(&bed, 1, true, NULL); /* after it */
	emit(&bed, &causes[4], TR_EV_RECEPTION, 0);
	emit(&bed, &causes[5], TR_EV_RECEPTION, 0);
	emit(&bed, &causes[6], TR_EV_RECEPTION, 0); /* in the waiting line */
	settle(&bed);
	assert_int_equal(bed.waiting, 4);
	answer(&bed, 2, true, NULL);
	answer(&bed, 3, false, "boom");
	settle(&bed);
	assert_int_equal(bed.worker.inserted_count + bed.worker.parked_count, 0);
	tr_spool_figures(bed.spool, &figures);
	assert_int_equal(figures.live_messages, 0);
	bed.refuse = false;
	bed.mode = KEEP;
	emit(&bed, &causes[0], TR_EV_RECEPTION, 0);
	settle(&bed);
	assert_int_equal(bed.worker.inserted_count, 1);
	check_account(&bed, "h", 1, 1, 0, 0, 1);
	bed_fini(&bed);
}

/* --- over an end ---------------------------------------------------------------------------------------------- */

static bool
load_done_check(void *arg)
{
	return *(bool *)arg;
}

static void
load_done(struct tr_load *load)
{
	*(bool *)load->owner = true;
}

static struct tr_message *
load(struct bed *bed, uint32_t slot)
{
	struct tr_message *message = NULL;
	bool done = false;
	int status = 0;
	struct tr_load op = {
		.loop = bed->loop,
		.done = load_done,
		.owner = &done,
		.count = 1,
		.slots = &slot,
		.messages = &message,
		.status = &status,
	};

	tr_spool_load(bed->spool, &op);
	assert_true(tr_loop_run_until(bed->loop, load_done_check, &done, 20 * TR_NS_PER_S));
	assert_int_equal(status, TR_OK);
	return message;
}

/* Killed between the commit of the cause and the answer: the log as it is at that moment is what the next start finds.
 */
static void
kill_between_commit_and_decision(struct bed *bed)
{
	char copy[96];

	snprintf(copy, sizeof copy, "%s/copy", bed->dir);
	run("cp -a", bed->path, copy);
	while (bed->waiting > 0) { /* the killed process' memory */
		bed->waiting--;
		bed->pending[bed->waiting]->then(bed->pending[bed->waiting], false, tr_record_cancelled);
	}
	bed_stop(bed);
	snprintf(bed->path, sizeof bed->path, "%s", copy);
	bed_start(bed);
}

static void
undecided_records_survive_a_kill(void **state)
{
	struct bed bed;
	struct cause causes[2];

	bed_init(&bed);
	bed.mode = WAIT;
	add_hook(&bed, "first"); /* so that indices of hooks differ between the runs */
	add_hook(&bed, "h");
	emit(&bed, &causes[0], TR_EV_RECEPTION, 0);
	settle(&bed);
	kill_between_commit_and_decision(&bed);
	assert_int_equal(bed.recovered_count, 2);
	add_hook(&bed, "h");
	bed.mode = KEEP;
	bed.hooks[0] = '\0';
	for (uint32_t i = 0; i < bed.recovered_count; i++) {
		assert_true(bed.recovered[i].flags & TR_MSG_UNDECIDED);
		tr_recorder_decide(bed.recorder, &bed.worker, load(&bed, bed.recovered[i].slot));
	}
	settle(&bed);
	assert_string_equal(bed.hooks, "h ");
	assert_int_equal(bed.worker.inserted_count, 1);
	assert_int_equal(bed.worker.inserted->body.data[0], '{');
	assert_int_equal(bed.worker.parked_count, 1); /* its hook is gone */
	assert_non_null(tr_meta_get(&bed.worker.parked->meta, TR_STR("policy_error")).data);
	check_account(&bed, "h", 1, 1, 0, 0, 1);
	check_account(&bed, "first", 1, 1, 0, 0, 1);
	bed_fini(&bed);
}

/* A decision that cannot be stored, whatever it is, is asked for again. */
static void
refused_decisions_are_asked_for_again(void **state)
{
	static const char *const errors[] = {NULL, NULL, "boom"}; /* keep, drop, park */
	struct bed bed;

	bed_init(&bed);
	bed.mode = WAIT;
	add_hook(&bed, "h");
	for (uint32_t i = 0; i < 3; i++) {
		struct cause cause;

		emit(&bed, &cause, TR_EV_RECEPTION, 0);
		settle(&bed);
		bed.worker.refuse = true;
		answer(&bed, i, i == 0, errors[i]);
		settle(&bed);
		bed.worker.refuse = false;
		assert_int_equal(bed.worker.again_count, i + 1);
	}
	check_account(&bed, "h", 3, 3, 0, 0, 3);
	assert_int_equal(bed.worker.inserted_count + bed.worker.parked_count, 0);
	bed.mode = KEEP;
	for (uint32_t i = 0; i < 3; i++) {
		struct tr_message *record = load(&bed, bed.worker.again[i]);

		assert_true(record->flags & TR_MSG_UNDECIDED);
		tr_recorder_decide(bed.recorder, &bed.worker, record);
	}
	settle(&bed);
	assert_int_equal(bed.worker.inserted_count, 3);
	check_account(&bed, "h", 3, 3, 0, 0, 3);
	bed_fini(&bed);
}

static void
parked_records_can_be_decided_again(void **state)
{
	struct bed bed;
	struct cause cause;
	struct tr_message *parked;

	bed_init(&bed);
	bed.mode = RAISE;
	add_hook(&bed, "h");
	emit(&bed, &cause, TR_EV_RECEPTION, 0);
	settle(&bed);
	parked = bed.worker.parked;
	bed.worker.parked = NULL;
	bed.mode = KEEP; /* the policy is repaired */
	tr_recorder_decide(bed.recorder, &bed.worker, parked);
	settle(&bed);
	assert_int_equal(bed.worker.inserted_count, 1);
	assert_null(tr_meta_get(&bed.worker.inserted->meta, TR_STR("policy_error")).data);
	assert_false(bed.worker.inserted->flags & TR_MSG_POLICY_ERROR);
	check_account(&bed, "h", 1, 1, 0, 0, 1);
	bed_fini(&bed);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(late_answers),
		cmocka_unit_test(an_answer_before_the_commit_waits_for_it),
		cmocka_unit_test(handlers_are_bounded_and_go_on_in_order),
		cmocka_unit_test(a_long_line_is_taken_in_pieces),
		cmocka_unit_test(many_waiting_records_leave_the_memory),
		cmocka_unit_test(waiting_records_of_another_worker),
		cmocka_unit_test(cancelled_handlers_leave_records_undecided),
		cmocka_unit_test(a_refused_change_takes_its_records_along),
		cmocka_unit_test(undecided_records_survive_a_kill),
		cmocka_unit_test(refused_decisions_are_asked_for_again),
		cmocka_unit_test(parked_records_can_be_decided_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
