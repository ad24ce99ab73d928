/* Limits of connections: local leases, and those of other nodes. */
#include "limits_bed.h"

static void
add_limit(struct tr_path_config *config, const char *name, uint64_t limit)
{
	config->limits = realloc(config->limits, (config->limit_count + 1) * sizeof *config->limits);
	config->limits[config->limit_count++] = (struct tr_named_limit){strdup(name), {limit, false}};
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

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_set_of_leases_is_shared_and_passed_on),
		cmocka_unit_test(a_refresh_keeps_the_turn_for_a_lease),
		cmocka_unit_test(the_later_moment_is_kept_too),
		cmocka_unit_test(leases_of_other_nodes_are_taken_extended_and_given_back),
		cmocka_unit_test(a_place_of_another_node_is_asked_for_again),
		cmocka_unit_test(a_lost_lease_ends_the_session),
		cmocka_unit_test(without_its_backend_nothing_opens_or_the_local_limit_holds),
		cmocka_unit_test(stop_ends_a_question_under_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
