/* Sources and pools: which source a message takes, and what happens when it cannot. */
#include "sources.h"

static void
weights_are_kept_to_the_message(void **state)
{
	struct rig rig;

	begin(&rig);
	for (uint32_t i = 0; i < 1000; i++)
		rig_put(&rig, "x.example", i);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.sent, 1000);
	assert_int_equal(by_source[0], 500);
	assert_int_equal(by_source[1], 250);
	assert_int_equal(by_source[2], 250);
	ready_unref(ready_named(&rig, "a->x.example@lua:make.test"));
	assert_int_equal(rig.pools_asked, 1);
	assert_int_equal(rig.sources_asked, 3);
	rig_fini(&rig);
}

static void
each_record_has_the_pool_of_its_queue(void **state)
{
	static const uint32_t weights[] = {1};
	struct rig rig;

	begin(&rig);
	use_pool("a", weights);
	for (int i = 0; i < 2; i++) {
		rig_put(&rig, "x.example", 1);
		rig_run(&rig, TR_NS_PER_S);
		assert_string_equal(rig.last_pool, "p");
		rig_put(&rig, "tenant@x.example", 2);
		rig_run(&rig, TR_NS_PER_S);
		assert_string_equal(rig.last_site, "a->x.example@lua:make.test");
		assert_string_equal(rig.last_pool, "q");
	}
	assert_int_equal(rig.sent, 4);
	rig_fini(&rig);
}

/* Also when they come from the disk: more than the ready queues hold. */
static void
weights_are_kept_after_a_restart(void **state)
{
	struct rig rig;

	begin(&rig);
	rig.source_delay_ns = HOUR_NS; /* nothing goes before */
	for (uint32_t i = 0; i < 2000; i++)
		rig_put(&rig, "x.example", i);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.sent, 0);
	assert_int_equal(rig_check(&rig), 2000);
	rig_run(&rig, HOUR_NS);
	assert_int_equal(rig.sent, 2000);
	assert_true(by_source[0] > 950 && by_source[0] < 1050);
	assert_int_equal(by_source[0] + by_source[1] + by_source[2], 2000);
	rig_close(&rig);
	rig_open(&rig);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

/* The contract's words, as they stand: every step is taken. */
static uint32_t
model_pick(const uint32_t *weights, const bool *in, uint32_t count, uint32_t *index, uint32_t *weight)
{
	uint32_t most = 0, divisor = 0, candidates = 0, only = UINT32_MAX;

	for (uint32_t i = 0; i < count; i++) {
		uint32_t a = weights[i], b = divisor;

		while (b != 0) {
			uint32_t rest = a % b;

			a = b;
			b = rest;
		}
		divisor = a;
		most = weights[i] > most ? weights[i] : most;
		candidates += in[i];
		if (in[i])
			only = i;
	}
	if (candidates <= 1)
		return only;
	for (;;) {
		*index = (*index + 1) % count;
		if (*index == 0) {
			*weight = *weight > divisor ? *weight - divisor : 0;
			if (*weight == 0)
				*weight = most;
		}
		if (in[*index] && weights[*index] >= *weight)
			return *index;
	}
}

static void
turns_are_those_of_the_model(void **state)
{
	uint32_t seed = 12345;

	for (int round = 0; round < 300; round++) {
		struct tr_sched sched = {.turn = {0, 0, 0, 0}};
		struct lane lanes[8] = {{NULL}};
		uint32_t weights[8], index = 0, weight = 0, count, divisor = 0;
		bool in[8];

#define RANDOM(n) (seed = seed * 1664525 + 1013904223, (seed >> 8) % (n))
		count = 1 + RANDOM(8);
		sched.lanes = lanes;
		sched.lane_count = count;
		for (uint32_t i = 0; i < count; i++) {
			uint32_t a, b = divisor;

			lanes[i].weight = weights[i] = (1 + RANDOM(6)) * (round % 3 == 0 ? 50 : 1);
			for (a = weights[i]; b != 0;) {
				uint32_t rest = a % b;

				a = b;
				b = rest;
			}
			divisor = a;
			sched.turn.most = weights[i] > sched.turn.most ? weights[i] : sched.turn.most;
		}
		sched.turn.gcd = divisor;
		for (int step = 0; step < 500; step++) {
			uint32_t want;
			struct lane *got;

			for (uint32_t i = 0; i < count; i++) {
				in[i] = step % 50 < 25 || RANDOM(3) > 0;
				lanes[i].out = in[i] ? LANE_IN : LANE_FULL;
			}
			want = model_pick(weights, in, count, &index, &weight);
			got = lane_pick(&sched);
			assert_true(want == UINT32_MAX ? got == NULL : got == &lanes[want]);
		}
	}
}

static void
small_a(struct rig *rig, const char *name, struct tr_path_config *config)
{
	if (name[0] == 'a')
		config->max_ready = 10;
}

static int64_t
a_hangs(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	counted(rig, session, outcome);
	return index_of(session->session->ready) == 0 ? HOUR_NS : 0;
}

static void
a_full_source_is_passed_over(void **state)
{
	struct rig rig;

	begin(&rig);
	rig.path_config = small_a;
	rig.send = a_hangs;
	for (uint32_t i = 0; i < 2000; i++)
		rig_put(&rig, "x.example", i);
	rig_run(&rig, 10 * TR_NS_PER_S);
	assert_true(by_source[0] <= 32);
	assert_true(rig.sent > 1900);
	assert_int_equal(rig.sent + rig_figures(&rig).ready + rig_figures(&rig).in_flight, 2000);
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 0);
	rig_run(&rig, 2 * HOUR_NS);
	assert_int_equal(rig.sent, 2000);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static void
all_small(struct rig *rig, const char *name, struct tr_path_config *config)
{
	config->max_ready = 5;
	config->connection_limit = 1;
}

static int64_t
slow(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	counted(rig, session, outcome);
	return 100 * TR_NS_PER_MS;
}

static void
with_all_full_they_wait_in_line(void **state)
{
	struct rig rig;

	begin(&rig);
	rig.path_config = all_small;
	rig.send = slow;
	for (uint32_t i = 0; i < 600; i++)
		rig_put(&rig, "x.example", i);
	rig_run(&rig, TR_NS_PER_S);
	assert_true(rig_figures(&rig).line > 500);
	assert_int_equal(rig_figures(&rig).timers, 0);
	rig_run(&rig, 30 * TR_NS_PER_S);
	assert_int_equal(rig.sent, 600);
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 0);
	for (int i = 0; i < 3; i++)
		assert_true(by_source[i] > 150); /* each as fast as it is: no lane stays empty while others are full */
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static void
an_empty_pool_fails_each_attempt(void **state)
{
	struct rig rig;

	begin(&rig);
	entry_count = 0;
	rig_put(&rig, "x.example", 1);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 1);
	assert_int_equal(rig.last_code, 451);
	assert_string_equal(rig.last_site, "");
	assert_int_equal(rig_figures(&rig).timers, 1);
	rig_run(&rig, 11 * MINUTE_NS);
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 2);
	rig_run(&rig, 11 * MINUTE_NS); /* the second delay is twice as long */
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 2);
	entries[0].weight = 1; /* seen at the next refresh of the queue */
	entry_count = 1;
	rig_run(&rig, 20 * MINUTE_NS);
	assert_int_equal(rig.sent, 1);
	assert_int_equal(by_source[0], 1);
	rig_fini(&rig);
}

static void
one_entry_of_weight_0_is_no_source(void **state)
{
	static const uint32_t none[] = {0, 3};
	struct rig rig;

	begin(&rig);
	use_pool("ab", none);
	for (uint32_t i = 0; i < 10; i++)
		rig_put(&rig, "x.example", i);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(by_source[1], 10);
	rig_fini(&rig);
}

/* --- suspension ------------------------------------------------------------------------------------------------ */

static uint32_t unplumbed_tries;

/* Source a cannot be bound, as a transport would tell. */
static int64_t
a_is_unplumbed(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	if (index_of(session->session->ready) == 0) {
		unplumbed_tries++;
		if (tr_ready_source_failed(session->session->ready, TR_SOURCE_UNPLUMBED, "no such address")) {
			outcome->kind = TR_OUT_REQUEUE;
			outcome->reason = "SourceIsUnhealthyAndSuspended";
		} else {
			rig_fail(outcome, 400);
		}
		return 0;
	}
	return counted(rig, session, outcome);
}

static void
a_suspended_source_hands_over_to_the_others(void **state)
{
	struct rig rig;
	struct tr_ready *ready;

	begin(&rig);
	unplumbed = (struct tr_suspend_rule){1, 0, 5 * MINUTE_NS};
	unplumbed_tries = 0;
	rig.send = a_is_unplumbed;
	for (uint32_t i = 0; i < 400; i++)
		rig_put(&rig, "x.example", i);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.sent, 400);
	assert_true(unplumbed_tries >= 1 && unplumbed_tries <= 32);
	assert_int_equal(by_source[1] + by_source[2], 400);
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE] + rig.events[TR_EV_DELAYED], 0);
	ready = ready_named(&rig, "a->x.example@lua:make.test");
	assert_true(tr_ready_source_suspended_until(ready) > tr_mono_ns() + 4 * MINUTE_NS);
	ready_unref(ready);
	unplumbed_tries = 0;
	rig_run(&rig, 5 * MINUTE_NS);
	rig.send = counted;
	for (uint32_t i = 0; i < 400; i++)
		rig_put(&rig, "x.example", i);
	rig_run(&rig, TR_NS_PER_S);
	assert_true(by_source[0] >= 199 && by_source[0] <= 201);
	assert_int_equal(unplumbed_tries, 0);
	rig_fini(&rig);
}

static void
b_is_small(struct rig *rig, const char *name, struct tr_path_config *config)
{
	if (name[0] == 'b') {
		config->max_ready = 5;
		config->connection_limit = 1;
	}
}

static int64_t
a_is_unplumbed_and_b_hangs(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	return index_of(session->session->ready) == 1 ? HOUR_NS : a_is_unplumbed(rig, session, outcome);
}

static int64_t
b_hangs(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	return index_of(session->session->ready) == 1 ? HOUR_NS : counted(rig, session, outcome);
}

/* The end of a suspension is noticed though the other sources have no room and let nothing go. */
static void
a_source_goes_on_after_its_suspension_while_others_are_full(void **state)
{
	static const uint32_t weights[] = {1, 1};
	struct rig rig;

	begin(&rig);
	use_pool("ab", weights);
	unplumbed = (struct tr_suspend_rule){1, 0, 330 * TR_NS_PER_S}; /* between two refreshes */
	rig.path_config = b_is_small;
	rig.send = a_is_unplumbed_and_b_hangs;
	for (uint32_t i = 0; i < 100; i++)
		rig_put(&rig, "x.example", i);
	rig_run(&rig, TR_NS_PER_S);
	rig.send = b_hangs;
	assert_true(rig_figures(&rig).line > 80);
	rig_run(&rig, 331 * TR_NS_PER_S);
	if (rig_figures(&rig).line > 0 || by_source[0] < 80)
		fail_msg("%lu in line, %lu from a", rig_figures(&rig).line, by_source[0]);
	rig_run(&rig, 12 * HOUR_NS);
	rig_check(&rig);
	rig_fini(&rig);
}

static void
a_threshold_counts_within_its_period(void **state)
{
	struct rig rig;
	struct tr_ready *ready;

	begin(&rig);
	unplumbed = (struct tr_suspend_rule){3, MINUTE_NS, 5 * MINUTE_NS};
	rig_put(&rig, "x.example", 1);
	rig_put(&rig, "x.example", 2);
	rig_put(&rig, "x.example", 3);
	rig_run(&rig, TR_NS_PER_S);
	ready = ready_named(&rig, "a->x.example@lua:make.test");
	assert_false(tr_ready_source_failed(ready, TR_SOURCE_UNPLUMBED, "t"));
	assert_false(tr_ready_source_failed(ready, TR_SOURCE_UNPLUMBED, "t"));
	assert_false(tr_ready_source_failed(ready, TR_SOURCE_PROXY, "t")); /* another rule */
	rig_run(&rig, 61 * TR_NS_PER_S);
	assert_false(tr_ready_source_failed(ready, TR_SOURCE_UNPLUMBED, "t")); /* the first two are too old */
	rig_run(&rig, 20 * TR_NS_PER_S);
	assert_false(tr_ready_source_failed(ready, TR_SOURCE_UNPLUMBED, "t"));
	assert_int_equal(tr_ready_source_suspended_until(ready), 0);
	assert_true(tr_ready_source_failed(ready, TR_SOURCE_UNPLUMBED, "t"));
	assert_true(tr_ready_source_failed(ready, TR_SOURCE_UNPLUMBED, "t")); /* it is */
	rig_run(&rig, 5 * MINUTE_NS);
	assert_int_equal(tr_ready_source_suspended_until(ready), 0);
	assert_false(tr_ready_source_failed(ready, TR_SOURCE_UNPLUMBED, "t")); /* counted anew */
	ready_unref(ready);
	rig_fini(&rig);
}

static void
with_all_suspended_new_ones_fail_and_old_ones_wait(void **state)
{
	static const uint32_t weights[] = {1};
	struct rig rig;

	begin(&rig);
	use_pool("a", weights);
	unplumbed = (struct tr_suspend_rule){1, 0, 5 * MINUTE_NS};
	rig.send = a_is_unplumbed;
	rig_put(&rig, "x.example", 1);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig_figures(&rig).line, 1); /* it was in a session's hand: untried */
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 0);
	rig_put(&rig, "x.example", 2);
	rig_run(&rig, TR_NS_PER_S);
	rig.send = counted;
	rig_run(&rig, 5 * MINUTE_NS);
	assert_true(rig.sent >= 1);
	rig_run(&rig, HOUR_NS);
	assert_int_equal(rig.sent, 2);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static void
a_ready_queue_suspended_by_the_administrator_is_passed_over(void **state)
{
	struct rig rig;
	char id[37];

	begin(&rig);
	rig_put(&rig, "x.example", 1);
	rig_run(&rig, TR_NS_PER_S);
	memset(by_source, 0, sizeof by_source);
	assert_int_equal(tr_admin_add(rig.engine, TR_ADMIN_SUSPEND_READY, NULL, "a->x.example@lua:make.test", "test",
				 HOUR_NS, false, false, id),
		TR_OK);
	for (uint32_t i = 0; i < 100; i++)
		rig_put(&rig, "x.example", i);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(by_source[0], 0);
	assert_int_equal(by_source[1], 50);
	assert_int_equal(by_source[2], 50);
	rig_fini(&rig);
}

/* --- errors and refresh --------------------------------------------------------------------------------------------
 */

static const char *resolve_error;
static bool resolve_answered;

static void
resolved(void *arg, const char *error)
{
	static char text[256];

	resolve_answered = true;
	resolve_error = NULL;
	if (error != NULL) {
		snprintf(text, sizeof text, "%s", error);
		resolve_error = text;
	}
}

static void
resolve(struct rig *rig, const char *name)
{
	resolve_answered = false;
	tr_queue_resolve(tr_engine_worker(rig->engine, 0), tr_str(name), resolved, NULL);
	rig_run(rig, TR_NS_PER_S);
	assert_true(resolve_answered);
}

static void
an_unknown_source_refuses_the_queue_for_a_minute(void **state)
{
	struct rig rig;

	begin(&rig);
	source_error = "get_egress_source returned nil";
	resolve(&rig, "x.example");
	assert_non_null(resolve_error);
	assert_non_null(strstr(resolve_error, "egress_source 'c': get_egress_source returned nil"));
	assert_int_equal(rig.sources_asked, 3);
	source_error = NULL;
	resolve(&rig, "y.example"); /* another queue of the same pool: remembered */
	assert_non_null(resolve_error);
	assert_int_equal(rig.sources_asked, 3);
	rig_run(&rig, 61 * TR_NS_PER_S);
	resolve(&rig, "x.example");
	assert_null(resolve_error);
	assert_int_equal(rig.sources_asked, 6);
	assert_int_equal(rig.pools_asked, 2);
	rig_fini(&rig);
}

static void
concurrent_questions_share_one_answer(void **state)
{
	struct rig rig;

	begin(&rig);
	rig.source_delay_ns = 5 * TR_NS_PER_S;
	for (uint32_t i = 0; i < 50; i++) {
		char name[32];

		snprintf(name, sizeof name, "d%u.example", i);
		rig_put(&rig, name, i);
	}
	rig_run(&rig, 4 * TR_NS_PER_S);
	assert_int_equal(rig.sent, 0);
	rig_run(&rig, 2 * TR_NS_PER_S);
	assert_int_equal(rig.sent, 50);
	assert_int_equal(rig.sources_asked, 3);
	assert_int_equal(rig.pools_asked, 1);
	rig_fini(&rig);
}

static void
a_refresh_takes_the_new_pool_and_an_error_keeps_the_old(void **state)
{
	static const uint32_t weights[] = {1, 1};
	struct rig rig;

	begin(&rig);
	rig_put(&rig, "x.example", 1);
	rig_run(&rig, TR_NS_PER_S);
	use_pool("bd", weights);
	rig_put(&rig, "x.example", 2);
	rig_run(&rig, TR_NS_PER_S); /* not yet */
	assert_int_equal(by_source[3], 0);
	rig_run(&rig, 3 * MINUTE_NS);
	memset(by_source, 0, sizeof by_source);
	for (uint32_t i = 0; i < 10; i++)
		rig_put(&rig, "x.example", i);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(by_source[1], 5);
	assert_int_equal(by_source[3], 5);
	pool_error = "no more";
	rig_run(&rig, 3 * MINUTE_NS);
	for (uint32_t i = 0; i < 10; i++)
		rig_put(&rig, "x.example", i);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(by_source[1], 10);
	assert_int_equal(by_source[3], 10);
	rig_fini(&rig);
}

/* The places of a load that is under way belong to lanes that go. */
static void
a_refresh_while_the_line_moves_loses_nothing(void **state)
{
	static const uint32_t weights[] = {1, 1, 5};
	struct rig rig;

	begin(&rig);
	rig.path_config = all_small;
	rig.send = slow;
	for (uint32_t i = 0; i < 6000; i++)
		rig_put(&rig, "x.example", i);
	rig_run(&rig, 30 * TR_NS_PER_S);
	use_pool("cda", weights);
	rig_run(&rig, 10 * MINUTE_NS);
	assert_int_equal(rig.sent, 6000);
	assert_true(by_source[3] > 0);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static void
no_path_from_b(struct rig *rig, const char *name, struct tr_path_config *config)
{
	config->max_ready = 100;
}

static void
an_error_of_the_path_is_a_failed_attempt(void **state)
{
	struct rig rig;

	begin(&rig);
	rig.path_config = no_path_from_b;
	rig.no_path = true;
	rig_put(&rig, "x.example", 1);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 1);
	assert_int_equal(rig.last_code, 451);
	rig.no_path = false;
	rig_run(&rig, 11 * MINUTE_NS);
	assert_int_equal(rig.sent, 1);
	rig_fini(&rig);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(weights_are_kept_to_the_message),
		cmocka_unit_test(each_record_has_the_pool_of_its_queue),
		cmocka_unit_test(weights_are_kept_after_a_restart),
		cmocka_unit_test(turns_are_those_of_the_model),
		cmocka_unit_test(a_full_source_is_passed_over),
		cmocka_unit_test(with_all_full_they_wait_in_line),
		cmocka_unit_test(an_empty_pool_fails_each_attempt),
		cmocka_unit_test(one_entry_of_weight_0_is_no_source),
		cmocka_unit_test(a_suspended_source_hands_over_to_the_others),
		cmocka_unit_test(a_source_goes_on_after_its_suspension_while_others_are_full),
		cmocka_unit_test(a_threshold_counts_within_its_period),
		cmocka_unit_test(with_all_suspended_new_ones_fail_and_old_ones_wait),
		cmocka_unit_test(a_ready_queue_suspended_by_the_administrator_is_passed_over),
		cmocka_unit_test(an_unknown_source_refuses_the_queue_for_a_minute),
		cmocka_unit_test(concurrent_questions_share_one_answer),
		cmocka_unit_test(a_refresh_takes_the_new_pool_and_an_error_keeps_the_old),
		cmocka_unit_test(a_refresh_while_the_line_moves_loses_nothing),
		cmocka_unit_test(an_error_of_the_path_is_a_failed_attempt),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
