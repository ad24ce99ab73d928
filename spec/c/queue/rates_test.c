/* Rates of messages, connections and selections of a source: local ones, and those of other nodes. */
#include "limits_bed.h"

static void
ten_a_second(struct rig *rig, const char *name, struct tr_path_config *config)
{
	config->connection_limit = 4;
	config->message_rate = rate("10/s,max_burst=1");
	add_rate(config, "both", "1000/s");
}

static void
a_message_rate_is_exact(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.path_config = ten_a_second;
	rig_open(&rig);
	put(&rig, "a.example", 500);
	rig_run(&rig, 10 * TR_NS_PER_S);
	assert_in_range(rig.sent, 99, 102);
	rig_run(&rig, 10 * TR_NS_PER_S);
	assert_in_range(rig.sent, 199, 202);
	assert_int_equal(rig.events[TR_EV_DELAYED], 0);
	rig_fini(&rig);
}

static void
one_an_hour(struct rig *rig, const char *name, struct tr_path_config *config)
{
	config->message_rate = rate("1/h,max_burst=1");
}

static void
a_long_wait_closes_the_queue(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.path_config = one_an_hour;
	rig_open(&rig);
	put(&rig, "a.example", 100);
	rig_run(&rig, MINUTE_NS);
	assert_int_equal(rig.sent, 1);
	assert_int_equal(rig.live, 0);
	assert_int_equal(rig_figures(&rig).in_flight, 0);
	uint64_t opened = rig.opened;
	rig_run(&rig, 10 * HOUR_NS);
	assert_in_range(rig.sent, 10, 11);
	assert_true(rig.opened - opened <= 30); /* one comes to look at a time */
	rig_fini(&rig);
}

static void
a_shared_rate_is_asked_and_waited_for(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.path_config = ten_a_second;
	open_shared(&rig);
	backend.fallback_local = false;
	put(&rig, "a.example", 20);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.sent, 20);
	assert_int_equal(net.tokens, 40); /* two rates */
	net.retry_ns = 2 * TR_NS_PER_S;
	put(&rig, "a.example", 3);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.sent, 20);
	net.retry_ns = 0;
	rig_run(&rig, 2 * TR_NS_PER_S);
	assert_int_equal(rig.sent, 23);
	net.retry_ns = HOUR_NS; /* longer than idle_timeout: the queue closes */
	put(&rig, "a.example", 3);
	rig_run(&rig, MINUTE_NS);
	assert_int_equal(rig_figures(&rig).in_flight, 0);
	net.retry_ns = 0;
	rig_run(&rig, HOUR_NS);
	assert_int_equal(rig.sent, 26);
	close_shared(&rig);
}

static void
only_the_rate_is_shared(struct rig *rig, const char *name, struct tr_path_config *config)
{
	config->connection_limit_local = true;
	config->message_rate = rate("10/s");
}

static void
a_shared_rate_that_fails_holds_what_is_ready(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.path_config = only_the_rate_is_shared;
	open_shared(&rig);
	net.fails = true;
	put(&rig, "a.example", 2);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.sent, 0);
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 0); /* no attempt is counted */
	assert_int_equal(rig_figures(&rig).ready + rig_figures(&rig).line, 2);
	net.fails = false;
	net.refuses_start = true;
	rig_run(&rig, MINUTE_NS);
	assert_int_equal(rig.sent, 0);
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 0);
	net.refuses_start = false;
	rig_run(&rig, 3 * TR_NS_PER_S);
	assert_int_equal(rig.sent, 2);
	net.fails = true;
	backend.fallback_local = true;
	put(&rig, "a.example", 2);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.sent, 4);
	close_shared(&rig);
}

static void
two_a_second(struct rig *rig, const char *name, struct tr_path_config *config)
{
	config->connection_rate = rate("2/s,max_burst=1");
	config->idle_timeout_ns = TR_NS_PER_S / 100;
	config->connection_limit = 32;
}

static void
connections_are_charged(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.path_config = two_a_second;
	rig.send = slow;
	rig_open(&rig);
	put(&rig, "a.example", 900);
	rig_run(&rig, 5 * TR_NS_PER_S + 100 * TR_NS_PER_MS);
	assert_in_range(rig.opened, 10, 12);
	rig_fini(&rig);
}

static void
selection_rates(struct rig *rig, const char *name, struct tr_path_config *config)
{
	config->selection_rate = rate("2/min");
	config->selection_rates = calloc(1, sizeof *config->selection_rates);
	config->selection_rates[config->selection_rate_count++] =
		(struct tr_named_rate){strdup("other"), rate("1/s,max_burst=1")};
}

static void
a_selection_takes_all_tokens_or_none(void **state)
{
	struct rig rig;
	struct tr_ready *ready;
	int64_t retry_ns, now_ns;

	rig_init(&rig);
	rig_open(&rig);
	rig_put(&rig, "a.example", 1);
	rig_run(&rig, TR_NS_PER_S);
	ready = ready_find(rig.engine, TR_STR("unspecified->a.example@lua:make.test"));
	assert_non_null(ready);
	now_ns = tr_mono_ns();
	assert_true(ready_source_selection(ready, now_ns, &retry_ns)); /* none is asked for */
	struct tr_path_config *path = tr_path_config_new(false);
	selection_rates(&rig, NULL, path);
	atomic_fetch_add(&ready->refs, 1); /* of an answer */
	tr_ready_configured(ready, path, NULL);
	assert_true(ready_source_selection(ready, now_ns, &retry_ns));
	assert_false(ready_source_selection(ready, now_ns, &retry_ns)); /* `other`; the token of the first goes back */
	assert_int_equal(retry_ns, TR_NS_PER_S);
	assert_true(ready_source_selection(ready, now_ns + TR_NS_PER_S, &retry_ns));
	assert_false(ready_source_selection(ready, now_ns + 2 * TR_NS_PER_S, &retry_ns)); /* 2/min */
	assert_in_range(retry_ns, 27 * TR_NS_PER_S, 30 * TR_NS_PER_S);
	ready_unref(ready);
	rig_fini(&rig);
}

static void
a_hundred_a_second(struct rig *rig, const char *name, struct tr_path_config *config)
{
	config->connection_limit = 1;
	add_rate(config, "rate", "100/s,max_burst=1");
}

static void
what_a_session_oversleeps_is_not_lost_to_the_rate(void **state)
{
	static const struct {
		int64_t oversleep_ns;
		uint64_t least, most; /* sent in ten seconds */
	} cases[] = {
		{0, 999, 1001}, {15 * TR_NS_PER_MS, 990, 1002}, {20 * TR_NS_PER_MS, 990, 1002},
		{50 * TR_NS_PER_MS, 400, 990}, /* there is an end to catching up */
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct rig rig;

		rig_init(&rig);
		rig.path_config = a_hundred_a_second;
		rig.oversleep_ns = cases[i].oversleep_ns;
		rig_open(&rig);
		put(&rig, "a.example", 1200);
		rig_run(&rig, 10 * TR_NS_PER_S);
		assert_in_range(rig.sent, cases[i].least, cases[i].most);
		rig_fini(&rig);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_a_session_oversleeps_is_not_lost_to_the_rate),
		cmocka_unit_test(a_message_rate_is_exact),
		cmocka_unit_test(a_long_wait_closes_the_queue),
		cmocka_unit_test(a_shared_rate_is_asked_and_waited_for),
		cmocka_unit_test(a_shared_rate_that_fails_holds_what_is_ready),
		cmocka_unit_test(connections_are_charged),
		cmocka_unit_test(a_selection_takes_all_tokens_or_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
