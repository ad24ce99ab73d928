/* Sessions, gates, hooks of policy, administrators' rules, stop. */
#include "rig.h"

static struct tr_outcome script;

static int64_t
scripted(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	*outcome = script;
	return 0;
}

static void
endpoint(int code)
{
	script = (struct tr_outcome){.kind = code < 300                  ? TR_OUT_DELIVERED
					     : code < 500 || code == 503 ? TR_OUT_TRANSIENT
									 : TR_OUT_BOUNCED,
		.response = {code, {0, 0, 0}, TR_STR("scripted"), {NULL, 0}},
		.retry_after_ns = -1,
		.gate_counts = true};
}

static void
put_records(struct rig *rig, const char *queue, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		struct tr_message *message = rig_message(queue, i);

		message->flags |= TR_MSG_LOG_RECORD;
		rig_put_message(rig, tr_engine_worker(rig->engine, 0), message);
	}
}

static void
gate_closes_after_five_probes_and_reopens(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.send = scripted;
	rig_open(&rig);
	endpoint(503);
	put_records(&rig, "down.log_hook", 100);
	rig_run(&rig, TR_NS_PER_S / 2);
	assert_int_equal(rig.calls, 5);
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 5);
	assert_int_equal(rig_figures(&rig).ready, 95); /* no attempt for what was not tried */
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.calls, 6); /* the probe: one batch */
	rig_run(&rig, 10 * MINUTE_NS);
	assert_in_range(rig.calls, 12, 24); /* backoff up to a minute */
	endpoint(200);
	rig_run(&rig, 73 * TR_NS_PER_S);
	assert_true(rig.sent >= 70);
	rig_run(&rig, 2 * HOUR_NS);
	assert_int_equal(rig.sent, 100);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static void
retry_after_is_a_floor(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.send = scripted;
	rig_open(&rig);
	endpoint(429);
	script.retry_after_ns = 300 * TR_NS_PER_S;
	put_records(&rig, "busy.log_hook", 10);
	rig_run(&rig, 299 * TR_NS_PER_S);
	assert_int_equal(rig.calls, 1);
	endpoint(200);
	rig_run(&rig, 2 * TR_NS_PER_S);
	assert_int_equal(rig.sent, 9);
	rig_run(&rig, HOUR_NS);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static int64_t
dead_or_alive(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	if (strstr(tr_ready_name(session->session->ready).data, "dead") != NULL)
		return -1;
	return TR_NS_PER_MS;
}

static void
one_hanging_queue_does_not_slow_another(void **state)
{
	struct rig rig;
	int64_t start_ns;

	rig_init(&rig);
	rig.send = dead_or_alive;
	rig_open(&rig);
	put_records(&rig, "dead.log_hook", 30000);
	rig_run(&rig, TR_NS_PER_S);
	start_ns = tr_mono_ns();
	put_records(&rig, "alive.log_hook", 1000);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.sent, 1000);
	assert_true(rig.sent_at_ns - start_ns < 300 * TR_NS_PER_MS); /* ten sessions, 1 ms each: 100 ms */
	assert_int_equal(rig_check(&rig), 30000);
	rig_fini(&rig);
}

static void
to_second(struct rig *rig, struct tr_message *message)
{
	tr_meta_set(&message->meta, TR_STR("queue"), TR_STR("\"second.example\""));
	message->flags |= TR_MSG_DIRTY;
}

static void
requeue_hook_moves_to_another_queue(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.send = scripted;
	rig.requeue = to_second;
	rig_open(&rig);
	endpoint(451);
	script.gate_counts = false;
	rig_put(&rig, "first.example", 7);
	rig_run(&rig, TR_NS_PER_MS * 100);
	/* tried in the first, moved, tried in the second at once, then on the schedule */
	assert_int_equal(rig.calls, 2);
	assert_string_equal(rig.last_site, "unspecified->second.example@lua:make.test");
	rig_close(&rig); /* the move is stored */
	rig_open(&rig);
	endpoint(200);
	rig_run(&rig, 2 * HOUR_NS);
	assert_int_equal(rig.sent, 1);
	assert_string_equal(rig.last_site, "unspecified->second.example@lua:make.test");
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static int64_t throttle_until_ms;

static void
throttle(struct rig *rig, struct tr_message *message)
{
	if (tr_wall_ms() < throttle_until_ms)
		message->due_ms = throttle_until_ms;
}

static void
throttle_hook_delays_without_an_attempt(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.promote = throttle;
	rig_open(&rig);
	throttle_until_ms = tr_wall_ms() + 90000;
	for (uint32_t i = 0; i < 10; i++)
		rig_put(&rig, "calm.example", i);
	rig_run(&rig, MINUTE_NS);
	assert_int_equal(rig.sent, 0);
	assert_int_equal(rig.events[TR_EV_DELAYED], 10);
	assert_int_equal(rig_figures(&rig).timers, 10);
	rig_run(&rig, 31 * TR_NS_PER_S);
	assert_int_equal(rig.sent, 10);
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 0);
	assert_int_equal(tr_metric_read("delayed_due_to_throttle_insert_ready", "queue", "calm.example", NULL), 10);
	assert_int_equal(tr_metric_read("total_messages_delivered", "service",
				 "lua:unspecified->calm.example@lua:make.test", NULL),
		10);
	rig_fini(&rig);
}

static void
bounce_sweeps_line_timers_and_new_mail(void **state)
{
	struct rig rig;
	struct tr_admin_match match = {.domain = "bad.example"};
	struct tr_message *later;
	char id[37];

	rig_init(&rig);
	rig.send = dead_or_alive;
	rig_open(&rig);
	for (uint32_t i = 0; i < 3000; i++)
		rig_put(&rig, "dead:x@dead.example", i);
	for (uint32_t i = 0; i < 3000; i++)
		rig_put(&rig, "dead:x@bad.example", i);
	later = rig_message("bad.example", 1);
	later->due_ms = tr_wall_ms() + 3600000;
	rig_put_message(&rig, tr_engine_worker(rig.engine, 0), later);
	rig.queue_error = NULL;
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(
		tr_admin_add(rig.engine, TR_ADMIN_BOUNCE, &match, NULL, "no more", 300 * TR_NS_PER_S, false, true, id),
		TR_OK);
	rig_run(&rig, 10 * TR_NS_PER_S);
	rig_put(&rig, "bad.example", 5);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.events[TR_EV_ADMIN_BOUNCE], 3002 - rig.sent);
	assert_int_equal(rig.last_code, 551);
	assert_string_equal(rig.last_text, "Administrator bounced with reason: no more");
	assert_int_equal(rig_check(&rig), 3000);
	rig_run(&rig, 310 * TR_NS_PER_S); /* the rule is over */
	rig_put(&rig, "bad.example", 6);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.events[TR_EV_ADMIN_BOUNCE] + rig.sent, 3003);
	assert_false(tr_admin_delete(rig.engine, TR_ADMIN_BOUNCE, id));
	rig_fini(&rig);
}

static void
suspended_queue_fails_on_promotion_and_waits_in_line(void **state)
{
	struct rig rig;
	struct tr_admin_match match = {.domain = "quiet.example"};
	char id[37];

	rig_init(&rig);
	rig_open(&rig);
	assert_int_equal(
		tr_admin_add(rig.engine, TR_ADMIN_SUSPEND, &match, NULL, "night", HOUR_NS, false, false, id), TR_OK);
	rig_put(&rig, "quiet.example", 1);
	rig_run(&rig, MINUTE_NS);
	assert_int_equal(rig.sent, 0);
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 1);
	assert_int_equal(rig.last_code, 451);
	assert_string_equal(rig.last_site, "quiet.example");
	assert_int_equal(rig_figures(&rig).timers, 1);
	assert_true(tr_admin_delete(rig.engine, TR_ADMIN_SUSPEND, id));
	rig_run(&rig, 21 * MINUTE_NS);
	assert_int_equal(rig.sent, 1);
	rig_fini(&rig);
}

static int64_t
half_a_second(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	return TR_NS_PER_S / 2;
}

static void
suspended_ready_queue_gives_back(void **state)
{
	struct rig rig;
	const char *name = "unspecified->calm.example@lua:make.test";
	uint64_t sent;
	char id[37];

	rig_init(&rig);
	rig.send = half_a_second;
	rig_open(&rig);
	for (uint32_t i = 0; i < 200; i++)
		rig_put(&rig, "calm.example", i);
	rig_run(&rig, TR_NS_PER_S / 10);
	assert_int_equal(
		tr_admin_add(rig.engine, TR_ADMIN_SUSPEND_READY, NULL, name, "night", MINUTE_NS, false, false, id),
		TR_OK);
	rig_run(&rig, TR_NS_PER_S);
	sent = rig.sent; /* what was under way */
	assert_true(sent < 200);
	assert_int_equal(rig_figures(&rig).ready, 0);
	assert_int_equal(rig_figures(&rig).sessions, 0);
	assert_int_equal(rig_figures(&rig).line, 200 - sent);
	rig_run(&rig, 30 * TR_NS_PER_S);
	assert_int_equal(rig.sent, sent);
	rig_run(&rig, MINUTE_NS);
	assert_int_equal(rig.sent, 200);
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 0);
	rig_fini(&rig);
}

static uint32_t batch_size = 1;

static void
batches(struct rig *rig, const char *name, struct tr_queue_config *config)
{
	config->batch_size = batch_size;
	config->refresh_interval_ns = 60 * TR_NS_PER_S;
}

static uint32_t largest;

static int64_t
slow_batch(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	largest = session->held_count;
	return TR_NS_PER_S;
}

static void
changed_protocol_replaces_the_ready_queue(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.send = slow_batch;
	rig.queue_config = batches;
	rig_open(&rig);
	batch_size = 1;
	put_records(&rig, "grow.log_hook", 5000);
	rig_run(&rig, 5 * TR_NS_PER_S);
	assert_int_equal(largest, 1);
	batch_size = 50;
	rig_run(&rig, 75 * TR_NS_PER_S);
	assert_int_equal(largest, 50);
	rig_run(&rig, 5 * MINUTE_NS);
	assert_int_equal(rig.sent, 5000);
	assert_int_equal(rig_figures(&rig).readies, 1);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static void
sessions_follow_the_curve(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.send = dead_or_alive;
	rig_open(&rig);
	for (uint32_t i = 0; i < 512; i++)
		rig_put(&rig, "dead.example", i);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.peak, 32); /* the limit, at a length of 256 and more */
	rig_fini(&rig);
}

static struct tr_outcome by_rcpt[3];

static int64_t
per_recipient(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	struct tr_message *message = session->held;

	if (message->rcpt_count == 1) /* the second round */
		return 0;
	for (int i = 0; i < 3; i++)
		by_rcpt[i] = (struct tr_outcome){.kind = (enum tr_outcome_kind)i,
			.response = {i == 0   ? 250
				     : i == 1 ? 550
					      : 451,
				{0, 0, 0}, TR_STR("x"), {NULL, 0}},
			.retry_after_ns = -1};
	session->held = NULL;
	session->held_count = 0;
	tr_session_report_rcpts(session->session, message, by_rcpt);
	tr_loop_defer(session->loop, &session->defer, rig_step);
	return -1;
}

static void
recipients_have_their_own_outcomes(void **state)
{
	struct rig rig;
	struct tr_message *message;

	rig_init(&rig);
	rig.send = per_recipient;
	rig_open(&rig);
	message = rig_message("three.example", 1);
	assert_int_equal(tr_message_add_rcpt(message, TR_STR("b@three.example")), TR_OK);
	assert_int_equal(tr_message_add_rcpt(message, TR_STR("c@three.example")), TR_OK);
	rig_put_message(&rig, tr_engine_worker(rig.engine, 0), message);
	rig_run(&rig, MINUTE_NS);
	assert_int_equal(rig.events[TR_EV_DELIVERY], 1);
	assert_int_equal(rig.events[TR_EV_BOUNCE], 1);
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 1);
	assert_int_equal(rig_column(&rig, TR_COL_DELIVERED), 1);
	assert_int_equal(rig_column(&rig, TR_COL_BOUNCED), 1);
	assert_int_equal(rig_check(&rig), 1);
	rig_run(&rig, HOUR_NS);
	assert_int_equal(rig_column(&rig, TR_COL_DELIVERED), 2);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static int named, named_lines;

static void
count_names(void *arg, enum tr_level level, const char *target, const char *text)
{
	static const char one[] = "is cancelled while DeliveringMessage with 1 messages";
	const char *at = strstr(text, one);
	unsigned more = 0, held = 0;

	if (at == NULL)
		return;
	if (sscanf(at + sizeof one - 1, ", so are %u more with %u:", &more, &held) == 2)
		assert_int_equal(more, held); /* each has one message */
	named += 1 + (int)more;
	named_lines++;
}

static void
stop_names_busy_sessions_and_keeps_its_deadline(void **state)
{
	struct rig rig;
	int64_t start_ns;

	rig_init(&rig);
	rig.send = dead_or_alive;
	rig_open(&rig);
	for (uint32_t i = 0; i < 10; i++)
		rig_put(&rig, "dead.example", i);
	rig_run(&rig, TR_NS_PER_S);
	start_ns = tr_mono_ns();
	named = named_lines = 0;
	tr_log_sink(count_names, NULL);
	tr_engine_stop(rig.engine, start_ns + 20 * TR_NS_PER_S, rig_stopped, &rig);
	assert_true(tr_loop_run_until(rig.loops[0], rig_is_stopped, &rig, MINUTE_NS));
	tr_log_sink(NULL, NULL);
	assert_int_equal(named, rig.peak);
	assert_int_equal(named_lines, 1);
	assert_int_equal(rig.cancelled, rig.peak);
	assert_in_range(tr_mono_ns() - start_ns, 20 * TR_NS_PER_S, 21 * TR_NS_PER_S);
	assert_int_equal(rig_check(&rig), 10);
	rig_fini(&rig);
}

static int64_t
fails_to_connect(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	tr_session_connect_failed(session->session, false, TR_STR("refused"));
	rig_fail(outcome, 400);
	outcome->gate_counts = false;
	return 0;
}

static void
three_failures(struct rig *rig, const char *name, struct tr_path_config *config)
{
	config->consecutive_failures_before_delay = 3;
	config->connection_limit = 1;
	config->gate.failures_to_close = 0;
}

static void
connection_failures_in_a_row_delay_all(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.send = fails_to_connect;
	rig.path_config = three_failures;
	rig_open(&rig);
	for (uint32_t i = 0; i < 100; i++)
		rig_put(&rig, "refused.example", i);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.calls, 5); /* failure number N + 2 */
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 100);
	assert_int_equal(rig_figures(&rig).timers, 100);
	rig_fini(&rig);
}

static void
count_resolved(void *arg, const char *error)
{
	(*(int *)arg) += error == NULL ? 1 : 100;
}

static void
resolve_answers_at_once_or_with_the_cached_error(void **state)
{
	struct rig rig;
	int seen = 0;

	rig_init(&rig);
	rig_open(&rig);
	tr_queue_resolve(tr_engine_worker(rig.engine, 0), TR_STR("null"), count_resolved, &seen);
	assert_int_equal(seen, 1);
	tr_queue_resolve(tr_engine_worker(rig.engine, 0), TR_STR("a.example"), count_resolved, &seen);
	rig_run(&rig, TR_NS_PER_MS);
	assert_int_equal(seen, 2);
	rig.queue_error = "boom";
	tr_queue_resolve(tr_engine_worker(rig.engine, 0), TR_STR("b.example"), count_resolved, &seen);
	rig_run(&rig, TR_NS_PER_MS);
	assert_int_equal(seen, 102);
	rig.queue_error = NULL;
	tr_queue_resolve(tr_engine_worker(rig.engine, 0), TR_STR("b.example"), count_resolved, &seen);
	assert_int_equal(seen, 202); /* cached 60 s */
	rig_run(&rig, 61 * TR_NS_PER_S);
	tr_queue_resolve(tr_engine_worker(rig.engine, 0), TR_STR("b.example"), count_resolved, &seen);
	rig_run(&rig, TR_NS_PER_MS);
	assert_int_equal(seen, 203);
	rig_fini(&rig);
}

static void
records_follow_their_cause(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.records = true;
	rig_open(&rig);
	for (uint32_t i = 0; i < 300; i++)
		rig_put(&rig, "mail.example", i);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.sent, 600);
	assert_int_equal(rig_column(&rig, TR_COL_ACCEPTED), 600);
	assert_int_equal(rig_column(&rig, TR_COL_DELIVERED), 600);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static void
outbox_waits_while_it_is_held(void **state)
{
	struct rig rig;
	struct rig_put *put = calloc(1, sizeof *put);

	rig_init(&rig);
	rig_open(&rig);
	put->rig = &rig;
	put->message = rig_message("held.example", 1);
	rig.under_way++;
	tr_outbox_init(&put->outbox, tr_engine_worker(rig.engine, 0), rig_put_done, put);
	assert_int_equal(
		tr_change_put(&put->outbox.change, put->message, TR_STR("held.example"), TR_COL_ACCEPTED, 1), TR_OK);
	tr_outbox_hold(&put->outbox);
	tr_outbox_hold(&put->outbox);
	tr_outbox_submit(&put->outbox);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.under_way, 1);
	tr_outbox_release(&put->outbox);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.under_way, 1);
	tr_outbox_release(&put->outbox);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.sent, 1);
	rig_fini(&rig);
}

static char inspected[4096];

static void
keep_json(void *arg, struct tr_str json)
{
	snprintf(inspected, sizeof inspected, "%.*s", (int)json.len, json.data != NULL ? json.data : "");
}

static void
inspection_shows_what_waits(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.send = scripted;
	rig_open(&rig);
	endpoint(451);
	rig_put(&rig, "look.example", 42);
	rig_run(&rig, MINUTE_NS);
	tr_queue_inspect(tr_engine_worker(rig.engine, 0), TR_STR("look.example"), 10, true, keep_json, NULL);
	rig_run(&rig, TR_NS_PER_S);
	assert_non_null(strstr(inspected, "\"recipient\":\"n42@example.net\""));
	assert_non_null(strstr(inspected, "\"num_attempts\":1"));
	assert_non_null(strstr(inspected, "\"num_scheduled\":1"));
	tr_ready_inspect(
		tr_engine_worker(rig.engine, 0), TR_STR("unspecified->look.example@lua:make.test"), keep_json, NULL);
	assert_non_null(strstr(inspected, "\"ready_count\":0"));
	tr_queue_inspect(tr_engine_worker(rig.engine, 0), TR_STR("nobody.example"), 10, false, keep_json, NULL);
	assert_string_equal(inspected, "");
	rig_fini(&rig);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gate_closes_after_five_probes_and_reopens),
		cmocka_unit_test(retry_after_is_a_floor),
		cmocka_unit_test(one_hanging_queue_does_not_slow_another),
		cmocka_unit_test(requeue_hook_moves_to_another_queue),
		cmocka_unit_test(throttle_hook_delays_without_an_attempt),
		cmocka_unit_test(bounce_sweeps_line_timers_and_new_mail),
		cmocka_unit_test(suspended_queue_fails_on_promotion_and_waits_in_line),
		cmocka_unit_test(suspended_ready_queue_gives_back),
		cmocka_unit_test(changed_protocol_replaces_the_ready_queue),
		cmocka_unit_test(sessions_follow_the_curve),
		cmocka_unit_test(recipients_have_their_own_outcomes),
		cmocka_unit_test(stop_names_busy_sessions_and_keeps_its_deadline),
		cmocka_unit_test(connection_failures_in_a_row_delay_all),
		cmocka_unit_test(resolve_answers_at_once_or_with_the_cached_error),
		cmocka_unit_test(records_follow_their_cause),
		cmocka_unit_test(outbox_waits_while_it_is_held),
		cmocka_unit_test(inspection_shows_what_waits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
