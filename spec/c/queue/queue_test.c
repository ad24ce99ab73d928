/* The life of messages: delivery, retries, age, overflow, restart. */
#include <errno.h>

#include "disk.h"
#include "rig.h"

static int64_t
note_order(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	for (struct tr_message *message = session->held; message != NULL; message = message->next)
		rig->order[rig->order_count++ % 4096] = rig_number(message);
	return 0;
}

static void
delivers_in_order(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.send = note_order;
	rig_open(&rig);
	for (uint32_t i = 0; i < 500; i++)
		rig_put(&rig, "one.example", i);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.sent, 500);
	assert_int_equal(rig.events[TR_EV_DELIVERY], 500);
	for (uint32_t i = 0; i < 500; i++)
		assert_int_equal(rig.order[i], i);
	assert_int_equal(rig_check(&rig), 0);
	assert_int_equal(rig_column(&rig, TR_COL_DELIVERED), 500);
	assert_string_equal(rig.last_site, "unspecified->one.example@lua:make.test");
	rig_run(&rig, HOUR_NS); /* everything idle goes away */
	assert_int_equal(rig_figures(&rig).scheds, 0);
	assert_int_equal(rig_figures(&rig).readies, 0);
	assert_int_equal(rig_figures(&rig).sessions, 0);
	rig_fini(&rig);
}

static int64_t attempts_ns[64];
static uint32_t attempt_count;

static int64_t
always_451(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	if (attempt_count < 64)
		attempts_ns[attempt_count++] = tr_wall_ns();
	rig_fail(outcome, 451);
	return 0;
}

static void
mail_path(struct rig *rig, const char *name, struct tr_path_config *config)
{
	config->gate.failures_to_close = 0;
}

static void
retries_on_the_contract_schedule(void **state)
{
	for (uint64_t seed = 1; seed <= 3; seed++) {
		struct rig rig;
		int64_t expected_ns = 20 * MINUTE_NS;

		rig_init(&rig);
		rig.seed = seed;
		rig.send = always_451;
		rig.path_config = mail_path;
		rig_open(&rig);
		attempt_count = 0;
		rig_put(&rig, "slow.example", 1);
		rig_run(&rig, 48 * HOUR_NS);
		/* 0, 20 min, 40, 80 ... : 48 hours hold attempts at sums of 20 * (2^n - 1) min */
		assert_int_equal(attempt_count, 8);
		for (uint32_t i = 1; i < attempt_count; i++) {
			int64_t delay_ns = attempts_ns[i] - attempts_ns[i - 1];

			assert_in_range(delay_ns, expected_ns - 31 * TR_NS_PER_S, expected_ns + 31 * TR_NS_PER_S);
			expected_ns *= 2;
		}
		assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 8);
		assert_int_equal(rig.events[TR_EV_DELAYED], 0);
		assert_int_equal(rig_figures(&rig).timers, 1);
		rig_fini(&rig);
	}
}

static void
expires_when_the_next_attempt_would_be_too_late(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.send = always_451;
	rig.path_config = mail_path;
	rig_open(&rig);
	attempt_count = 0;
	rig_put(&rig, "slow.example", 1);
	rig_run(&rig, 8 * 24 * HOUR_NS);
	assert_int_equal(rig.events[TR_EV_EXPIRATION], 1);
	assert_int_equal(rig_column(&rig, TR_COL_EXPIRED), 1);
	assert_int_equal(rig.last_code, 551);
	assert_non_null(strstr(rig.last_text, "Next delivery time would be at"));
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static void
short_lived(struct rig *rig, const char *name, struct tr_queue_config *config)
{
	config->max_age_ns = HOUR_NS;
}

static void
small_ready(struct rig *rig, const char *name, struct tr_path_config *config)
{
	config->max_ready = 10;
	config->connection_limit = 2;
	config->gate.failures_to_close = 0;
}

static int64_t
hangs(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	return -1;
}

static void
expires_in_line_and_ready_queue(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.send = hangs;
	rig.queue_config = short_lived;
	rig.path_config = small_ready;
	rig_open(&rig);
	for (uint32_t i = 0; i < 1000; i++)
		rig_put(&rig, "slow.example", i);
	rig_run(&rig, 59 * MINUTE_NS);
	assert_int_equal(rig_figures(&rig).in_flight, 1); /* of a limit of 2, contract/queues.md section 7 wants 1 */
	assert_int_equal(rig_figures(&rig).ready, 9);
	assert_int_equal(rig_figures(&rig).line, 990);
	assert_int_equal(rig.events[TR_EV_EXPIRATION], 0);
	assert_int_equal(rig.events[TR_EV_DELAYED], 990); /* once each */
	rig_run(&rig, 2 * MINUTE_NS);
	assert_int_equal(rig.events[TR_EV_EXPIRATION], 999);
	assert_int_equal(rig_check(&rig), 1);
	rig_fini(&rig);
}

static void
expires_in_the_timers(void **state)
{
	struct rig rig;
	struct tr_message *message;

	rig_init(&rig);
	rig.queue_config = short_lived;
	rig_open(&rig);
	message = rig_message("later.example", 1);
	message->due_ms = tr_wall_ms() + 2 * 3600 * 1000;
	rig_put_message(&rig, tr_engine_worker(rig.engine, 0), message);
	rig_run(&rig, MINUTE_NS);
	assert_int_equal(rig.events[TR_EV_DELAYED], 1);
	assert_non_null(strstr(rig.last_text, "Context: Received, ScheduledForLater. Next due in"));
	assert_int_equal(rig_figures(&rig).timers, 1);
	rig_run(&rig, 2 * HOUR_NS);
	assert_int_equal(rig.sent, 0);
	assert_int_equal(rig.events[TR_EV_EXPIRATION], 1);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static int64_t
slow_then_note(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	note_order(rig, session, outcome);
	return 10 * TR_NS_PER_MS;
}

static void
one_session(struct rig *rig, const char *name, struct tr_path_config *config)
{
	config->max_ready = 10;
	config->connection_limit = 1;
}

static void
overflow_waits_in_order_without_attempts(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.send = slow_then_note;
	rig.path_config = one_session;
	rig_open(&rig);
	for (uint32_t i = 0; i < 2000; i++)
		rig_put(&rig, "full.example", i);
	rig_run(&rig, 5 * TR_NS_PER_S);
	assert_true(rig_figures(&rig).line > 1000);
	rig_run(&rig, 30 * TR_NS_PER_S);
	assert_int_equal(rig.sent, 2000);
	assert_int_equal(rig.peak, 1);
	for (uint32_t i = 0; i < 2000; i++)
		assert_int_equal(rig.order[i], i);
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 0);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static void
queues_that_share_a_ready_queue_take_turns(void **state)
{
	struct rig rig;
	uint32_t first = 0, joined = 0;

	rig_init(&rig);
	rig.send = slow_then_note;
	rig.path_config = one_session;
	rig_open(&rig);
	for (uint32_t i = 0; i < 1000; i++)
		rig_put(&rig, "a@both.example", i);
	rig_run(&rig, TR_NS_PER_S / 10);
	for (uint32_t i = 1000; i < 2000; i++)
		rig_put(&rig, "b@both.example", i);
	rig_run(&rig, 10 * TR_NS_PER_S);
	assert_in_range(rig.sent, 900, 1100);
	while (joined < rig.sent && rig.order[joined] < 1000) /* how long the disk takes for b does not matter */
		joined++;
	assert_in_range(joined, 0, rig.sent / 2);
	for (uint32_t i = joined; i < rig.sent; i++)
		first += rig.order[i] < 1000;
	assert_in_range(first, (rig.sent - joined) * 40 / 100, (rig.sent - joined) * 60 / 100);
	rig_run(&rig, 15 * TR_NS_PER_S);
	assert_int_equal(rig.sent, 2000);
	assert_int_equal(rig_figures(&rig).readies, 1);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static void
restart_keeps_due_times_and_attempts(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.send = always_451;
	rig.path_config = mail_path;
	rig_open(&rig);
	attempt_count = 0;
	rig_put(&rig, "slow.example", 1);
	rig_run(&rig, HOUR_NS + 10 * MINUTE_NS); /* two retries are over, the next comes at 140 min */
	assert_int_equal(attempt_count, 3);
	rig_close(&rig);
	rig_open(&rig);
	rig_run(&rig, HOUR_NS);
	assert_int_equal(attempt_count, 3);
	rig_run(&rig, 11 * MINUTE_NS);
	assert_int_equal(attempt_count, 4);
	assert_in_range(
		attempts_ns[3] - attempts_ns[2], 80 * MINUTE_NS - 31 * TR_NS_PER_S, 80 * MINUTE_NS + 31 * TR_NS_PER_S);
	rig_run(&rig, 161 * MINUTE_NS);
	assert_int_equal(attempt_count, 5);
	rig_fini(&rig);
}

static void
a_clock_that_is_set_moves_no_retry(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.send = always_451;
	rig.path_config = mail_path;
	rig_open(&rig);
	attempt_count = 0;
	rig_put(&rig, "slow.example", 1);
	rig_run(&rig, MINUTE_NS);
	assert_int_equal(attempt_count, 1);
	tr_clock_step(HOUR_NS);
	rig_run(&rig, 15 * MINUTE_NS);
	assert_int_equal(attempt_count, 1); /* 20 minutes after the first, as they are counted in between */
	rig_run(&rig, 10 * MINUTE_NS);
	assert_int_equal(attempt_count, 2);
	tr_clock_step(-2 * HOUR_NS);
	rig_run(&rig, 30 * MINUTE_NS);
	assert_int_equal(attempt_count, 2);
	rig_run(&rig, 10 * MINUTE_NS);
	assert_int_equal(attempt_count, 3);
	rig_fini(&rig);
}

static void
queue_without_configuration_waits(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.queue_error = "boom";
	rig_open(&rig);
	for (uint32_t i = 0; i < 10; i++)
		rig_put(&rig, "odd.example", i);
	rig_run(&rig, 5 * MINUTE_NS);
	assert_int_equal(rig.sent, 0);
	assert_int_equal(rig_check(&rig), 10);
	rig.queue_error = NULL;
	rig_run(&rig, 2 * MINUTE_NS);
	assert_int_equal(rig.sent, 10);
	rig_fini(&rig);
}

static void
path_error_is_transient(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.no_path = true;
	rig_open(&rig);
	for (uint32_t i = 0; i < 10; i++)
		rig_put(&rig, "odd.example", i);
	rig_run(&rig, MINUTE_NS);
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 10);
	assert_int_equal(rig_figures(&rig).timers, 10);
	rig.no_path = false;
	rig_run(&rig, HOUR_NS);
	assert_int_equal(rig.sent, 10);
	rig_fini(&rig);
}

static void
log_records_are_never_sent_as_mail(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.no_handler = true;
	rig_open(&rig);
	for (uint32_t i = 0; i < 10; i++) {
		struct tr_message *message = rig_message("gone.log_hook", i);

		message->flags |= TR_MSG_LOG_RECORD;
		rig_put_message(&rig, tr_engine_worker(rig.engine, 0), message);
	}
	rig_run(&rig, MINUTE_NS);
	assert_int_equal(rig.sent, 0);
	assert_int_equal(rig_figures(&rig).parked, 10);
	rig_close(&rig);
	rig_open(&rig);
	rig_run(&rig, MINUTE_NS);
	assert_int_equal(rig_figures(&rig).parked, 10);
	assert_int_equal(rig_check(&rig), 10);
	rig_fini(&rig);
}

static void
null_queue_drops(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig_open(&rig);
	rig_put(&rig, "null", 1);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig_column(&rig, TR_COL_DROPPED), 1);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static void
a_waiting_message_costs_its_stub(void **state)
{
	struct rig rig;
	struct tr_spool_figures figures;

	rig_init(&rig);
	rig.send = hangs;
	rig.path_config = one_session;
	rig_open(&rig);
	for (uint32_t i = 0; i < 100000; i++) {
		struct tr_message *message = rig_message("deep.log_hook", i);

		message->flags |= TR_MSG_LOG_RECORD;
		rig_put_message(&rig, tr_engine_worker(rig.engine, 0), message);
		if (i % 1000 == 999)
			rig_run(&rig, 20 * TR_NS_PER_MS);
	}
	rig_run(&rig, TR_NS_PER_S);
	tr_spool_figures(rig.spool, &figures);
	assert_int_equal(rig_check(&rig), 100000);
	assert_true(rig_figures(&rig).line >= 100000 - 11);
	assert_true(sizeof(struct tr_stub) <= 64);
	assert_true(figures.stub_bytes <= 64 * 110000);
	assert_true(tr_blob_total_bytes() < 64 * 1024); /* nothing else of them is in memory */
	rig_fini(&rig);
}

static void
unreadable_spool_is_tried_again(void **state)
{
	struct rig rig;

	rig_init(&rig);
	disk_install(1);
	strcpy(rig.sub, "/sim/spool");
	rig.send = note_order;
	rig.queue_error = "boom"; /* all go to the line */
	rig_open(&rig);
	for (uint32_t i = 0; i < 100; i++)
		rig_put(&rig, "disk.example", i);
	rig_run(&rig, 30 * TR_NS_PER_S);
	assert_int_equal(rig_figures(&rig).line, 100);
	disk_fail_nth(DISK_READ, 1, EIO, true);
	rig.queue_error = NULL;
	rig_run(&rig, MINUTE_NS);
	assert_int_equal(rig.sent, 0);
	assert_int_equal(rig_check(&rig), 100);
	disk_heal();
	rig_run(&rig, 2 * TR_NS_PER_S);
	assert_int_equal(rig.sent, 100);
	for (uint32_t i = 0; i < 100; i++)
		assert_int_equal(rig.order[i], i);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
	disk_uninstall();
}

static int
damage_one(void *arg, const char *name)
{
	struct rig *rig = arg;
	char path[400], *data, *at;
	size_t len;

	snprintf(path, sizeof path, "%s/%s", rig->sub, name);
	if (tr_file_slurp(path, &data, &len) != 0)
		return 0;
	at = memmem(data, len, "n50@example.net", 15);
	if (at != NULL) {
		FILE *file = fopen(path, "r+");

		assert_non_null(file);
		assert_int_equal(fseek(file, at - data, SEEK_SET), 0);
		assert_int_equal(fputc('N', file), 'N');
		assert_int_equal(fclose(file), 0);
	}
	free(data);
	return 0;
}

static void
damaged_message_is_dropped_by_name(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.queue_error = "boom";
	rig_open(&rig);
	for (uint32_t i = 0; i < 100; i++)
		rig_put(&rig, "disk.example", i);
	rig_run(&rig, 30 * TR_NS_PER_S);
	tr_file->list(rig.sub, damage_one, &rig);
	rig.queue_error = NULL;
	rig_run(&rig, MINUTE_NS);
	assert_int_equal(rig.sent, 99);
	assert_int_equal(rig_column(&rig, TR_COL_DROPPED), 1);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(delivers_in_order),
		cmocka_unit_test(retries_on_the_contract_schedule),
		cmocka_unit_test(expires_when_the_next_attempt_would_be_too_late),
		cmocka_unit_test(expires_in_line_and_ready_queue),
		cmocka_unit_test(expires_in_the_timers),
		cmocka_unit_test(overflow_waits_in_order_without_attempts),
		cmocka_unit_test(queues_that_share_a_ready_queue_take_turns),
		cmocka_unit_test(restart_keeps_due_times_and_attempts),
		cmocka_unit_test(a_clock_that_is_set_moves_no_retry),
		cmocka_unit_test(queue_without_configuration_waits),
		cmocka_unit_test(path_error_is_transient),
		cmocka_unit_test(log_records_are_never_sent_as_mail),
		cmocka_unit_test(null_queue_drops),
		cmocka_unit_test(unreadable_spool_is_tried_again),
		cmocka_unit_test(damaged_message_is_dropped_by_name),
		cmocka_unit_test(a_waiting_message_costs_its_stub),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
