/* Limits of connections and rates of messages: local ones, and those of a scripted backend in the place of other nodes.
 */
#include "rig.h"

/* --- a backend ---------------------------------------------------------------------------------------------- */

static struct {
	struct tr_loop *loop;
	struct tr_shared_op *ops[256]; /* under way */
	uint32_t count;
	struct tr_timer timer;
	bool fails, refuses_extend, refuses_start;
	uint64_t held, acquired, released, extended, tokens, cancelled;
	uint64_t most;    /* leases at once */
	int64_t retry_ns; /* of a refused token; 0: all are granted */
} net;

static void
answer_all(struct tr_timer *timer)
{
	while (net.count > 0) {
		struct tr_shared_op *op = net.ops[0];

		net.count--;
		memmove(net.ops, net.ops + 1, net.count * sizeof *net.ops);
		op->flight = NULL;
		op->err = net.fails ? TR_EIO : TR_OK;
		if (net.fails)
			snprintf(op->error, sizeof op->error, "nobody is there");
		else if (op->kind == TR_SHARED_ACQUIRE && net.held < op->limit) {
			op->granted = true;
			net.acquired++;
			if (++net.held > net.most)
				net.most = net.held;
		} else if (op->kind == TR_SHARED_ACQUIRE) {
			op->retry_after_ns = HOUR_NS;
		} else if (op->kind == TR_SHARED_EXTEND) {
			op->granted = !net.refuses_extend;
			net.extended++;
		} else if (op->kind == TR_SHARED_RELEASE) {
			net.held--;
			net.released++;
		} else {
			op->result.throttled = net.retry_ns > 0;
			op->result.retry_after_ns = net.retry_ns;
			net.tokens += net.retry_ns == 0;
		}
		op->then(op);
	}
}

static int
net_start(void *arg, struct tr_loop *loop, struct tr_shared_op *op)
{
	if (net.refuses_start)
		return TR_EIO;
	assert_true(net.count < TR_COUNT(net.ops));
	op->flight = &net;
	net.ops[net.count++] = op;
	net.loop = loop;
	if (!tr_timer_running(&net.timer))
		tr_timer_start(tr_loop_wheel(loop), &net.timer, TR_NS_PER_MS, answer_all);
	return TR_OK;
}

static void
net_cancel(void *arg, struct tr_shared_op *op)
{
	for (uint32_t i = 0; i < net.count; i++) {
		if (net.ops[i] != op)
			continue;
		net.count--;
		memmove(net.ops + i, net.ops + i + 1, (net.count - i) * sizeof *net.ops);
		net.cancelled++;
	}
	op->flight = NULL;
	if (net.count == 0 && net.loop != NULL)
		tr_timer_stop(tr_loop_wheel(net.loop), &net.timer);
}

static void
net_free(void *arg)
{
}

static struct tr_shaping_backend backend = {.start = net_start, .cancel = net_cancel, .free = net_free};

static void
open_shared(struct rig *rig)
{
	memset(&net, 0, sizeof net);
	backend.fallback_local = false;
	assert_int_equal(tr_shaping_new(&rig->shaping), TR_OK);
	tr_shaping_set_backend(rig->shaping, &backend);
	rig_open(rig);
}

static void
close_shared(struct rig *rig)
{
	struct tr_shaping *shaping = rig->shaping;

	rig_fini(rig);
	assert_int_equal(net.count, 0);
	tr_shaping_free(shaping);
}

/* --- paths -------------------------------------------------------------------------------------------------------- */

static struct tr_rate_spec
rate(const char *text)
{
	struct tr_rate_spec spec;
	const char *why;

	assert_int_equal(tr_rate_spec_parse(tr_str(text), &spec, &why), TR_OK);
	return spec;
}

static void
add_limit(struct tr_path_config *config, const char *name, uint64_t limit)
{
	config->limits = realloc(config->limits, (config->limit_count + 1) * sizeof *config->limits);
	config->limits[config->limit_count++] = (struct tr_named_limit){strdup(name), {limit, false}};
}

static void
add_rate(struct tr_path_config *config, const char *name, const char *text)
{
	config->message_rates =
		realloc(config->message_rates, (config->message_rate_count + 1) * sizeof *config->message_rates);
	config->message_rates[config->message_rate_count++] = (struct tr_named_rate){strdup(name), rate(text)};
}

static int64_t
slow(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	return TR_NS_PER_S;
}

static void
put(struct rig *rig, const char *queue, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		rig_put(rig, queue, i);
}

static void
three_connections(struct rig *rig, const char *name, struct tr_path_config *config)
{
	config->connection_limit = 3;
}

static void
a_set_of_four(struct rig *rig, const char *name, struct tr_path_config *config)
{
	add_limit(config, "set", 4);
	config->idle_timeout_ns = TR_NS_PER_S;
}

/* --- tests ------------------------------------------------------------------------------------------------------- */

static void
a_set_of_leases_is_shared_and_passed_on(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.path_config = a_set_of_four;
	rig.send = slow;
	rig_open(&rig);
	put(&rig, "a.example", 40);
	put(&rig, "b.example", 40);
	rig_run(&rig, 30 * TR_NS_PER_S);
	assert_int_equal(rig.peak, 4);
	assert_int_equal(rig.sent, 80); /* 4 a second */
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static void
a_set_of_one(struct rig *rig, const char *name, struct tr_path_config *config)
{
	add_limit(config, "set", 1);
	config->idle_timeout_ns = TR_NS_PER_S;
}

static char first_of_others;

static int64_t
a_takes_75_s(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	char name = strstr(tr_ready_name(session->session->ready).data, "->")[2];

	if (name == 'a')
		return 75 * TR_NS_PER_S;
	if (first_of_others == 0)
		first_of_others = name;
	return 0;
}

/* A path that is asked for again while its queue waits for a place costs it no turn. */
static void
a_refresh_keeps_the_turn_for_a_lease(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.path_config = a_set_of_one;
	rig.send = a_takes_75_s;
	first_of_others = 0;
	rig_open(&rig);
	put(&rig, "a.example", 1);
	rig_run(&rig, TR_NS_PER_S);
	put(&rig, "b.example", 1);
	rig_run(&rig, 11 * TR_NS_PER_S);
	put(&rig, "c.example", 1);
	rig_run(&rig, 61 * TR_NS_PER_S);
	assert_int_equal(rig.sent, 0);
	rig_run(&rig, 20 * TR_NS_PER_S);
	assert_int_equal(rig.sent, 3);
	assert_int_equal(first_of_others, 'b');
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static void
one_connection(struct rig *rig, const char *name, struct tr_path_config *config)
{
	config->connection_limit = 1;
}

/* Of two moments that a ready queue waits for the later one is not forgotten. */
static void
the_later_moment_is_kept_too(void **state)
{
	static const char name[] = "unspecified->a.example@lua:make.test";
	struct rig rig;
	struct tr_ready *ready;
	char id[37];

	rig_init(&rig);
	rig.path_config = one_connection;
	rig.send = slow;
	rig_open(&rig);
	put(&rig, "a.example", 3);
	rig_run(&rig, TR_NS_PER_S / 2);
	assert_int_equal(rig_figures(&rig).ready, 2);
	assert_int_equal(
		tr_admin_add(rig.engine, TR_ADMIN_SUSPEND_READY, NULL, name, "test", 5 * TR_NS_PER_S, false, false, id),
		TR_OK);
	ready = ready_find(rig.engine, tr_str(name));
	assert_non_null(ready);
	pthread_mutex_lock(&ready->lock);
	ready->open_after_ns = tr_mono_ns() + TR_NS_PER_S;
	pthread_mutex_unlock(&ready->lock);
	ready_kick(ready);
	ready_unref(ready);
	rig_run(&rig, 2 * TR_NS_PER_S);
	assert_int_equal(rig.sent, 1);
	rig_run(&rig, 6 * TR_NS_PER_S); /* before anybody makes his round */
	assert_int_equal(rig.sent, 3);
	rig_fini(&rig);
}

static void
leases_of_other_nodes_are_taken_extended_and_given_back(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.path_config = three_connections;
	rig.send = slow;
	open_shared(&rig);
	put(&rig, "a.example", 300);
	rig_run(&rig, 10 * TR_NS_PER_S);
	assert_int_equal(rig.peak, 3);
	assert_int_equal(net.most, 3);
	assert_in_range(net.extended, 20, 31); /* once a second each */
	assert_in_range(rig.sent, 24, 30);
	rig_run(&rig, HOUR_NS);
	assert_int_equal(rig.sent, 300);
	assert_int_equal(net.held, 0);
	assert_int_equal(net.acquired, net.released);
	close_shared(&rig);
}

static void
a_place_of_another_node_is_asked_for_again(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.path_config = three_connections;
	open_shared(&rig);
	net.held = 3; /* elsewhere */
	put(&rig, "a.example", 5);
	rig_run(&rig, 5 * TR_NS_PER_S);
	assert_int_equal(rig.sent, 0);
	assert_int_equal(rig_figures(&rig).sessions, 0);
	net.held = 2;
	rig_run(&rig, 2 * TR_NS_PER_S);
	assert_int_equal(rig.sent, 5);
	net.held--; /* that of the idle session stays its own */
	rig_run(&rig, MINUTE_NS);
	close_shared(&rig);
}

static void
a_lost_lease_ends_the_session(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.path_config = three_connections;
	rig.send = slow;
	open_shared(&rig);
	put(&rig, "a.example", 30);
	rig_run(&rig, 3 * TR_NS_PER_S);
	net.refuses_extend = true;
	rig_run(&rig, 3 * TR_NS_PER_S);
	assert_true(rig.leases_lost >= 1);
	net.refuses_extend = false;
	rig_run(&rig, HOUR_NS);
	assert_int_equal(rig.sent, 30);
	assert_int_equal(rig_check(&rig), 0);
	close_shared(&rig);
}

static void
without_its_backend_nothing_opens_or_the_local_limit_holds(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.path_config = three_connections;
	rig.send = slow;
	open_shared(&rig);
	net.fails = true;
	put(&rig, "a.example", 300);
	rig_run(&rig, MINUTE_NS);
	assert_int_equal(rig.opened, 0);
	assert_int_equal(rig_figures(&rig).timers, 0);
	backend.fallback_local = true;
	rig_run(&rig, 10 * TR_NS_PER_S);
	assert_int_equal(rig.peak, 3);
	assert_true(rig.sent > 10);
	net.fails = false;
	net.held = 3; /* what the fallback took the backend never saw */
	backend.fallback_local = false;
	rig_run(&rig, 2 * HOUR_NS);
	assert_int_equal(rig.sent, 300);
	close_shared(&rig);
}

static void
stop_ends_a_question_under_way(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.path_config = three_connections;
	open_shared(&rig);
	put(&rig, "a.example", 3);
	rig_run(&rig, 0);
	for (int i = 0; i < 100 && net.count == 0; i++)
		rig_run(&rig, TR_NS_PER_MS / 10);
	assert_true(net.count > 0);
	close_shared(&rig);
	assert_int_equal(net.cancelled, 1);
}

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
		cmocka_unit_test(a_set_of_leases_is_shared_and_passed_on),
		cmocka_unit_test(a_refresh_keeps_the_turn_for_a_lease),
		cmocka_unit_test(the_later_moment_is_kept_too),
		cmocka_unit_test(leases_of_other_nodes_are_taken_extended_and_given_back),
		cmocka_unit_test(a_place_of_another_node_is_asked_for_again),
		cmocka_unit_test(a_lost_lease_ends_the_session),
		cmocka_unit_test(without_its_backend_nothing_opens_or_the_local_limit_holds),
		cmocka_unit_test(stop_ends_a_question_under_way),
		cmocka_unit_test(a_message_rate_is_exact),
		cmocka_unit_test(a_long_wait_closes_the_queue),
		cmocka_unit_test(a_shared_rate_is_asked_and_waited_for),
		cmocka_unit_test(a_shared_rate_that_fails_holds_what_is_ready),
		cmocka_unit_test(connections_are_charged),
		cmocka_unit_test(a_selection_takes_all_tokens_or_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
