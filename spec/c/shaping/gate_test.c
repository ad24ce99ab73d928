
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shaping/gate.h"

static const struct tr_gate_rules rules = {5, TR_NS_PER_S, 60 * TR_NS_PER_S, 3600 * TR_NS_PER_S};

static void
closes_after_failures_in_a_row(void **state)
{
	struct tr_gate gate = {0};
	int64_t wait_ns;

	for (int i = 0; i < 4; i++)
		assert_false(tr_gate_failure(&gate, &rules, 0, false, -1, 0.5));
	tr_gate_success(&gate, 0);
	for (int i = 0; i < 4; i++)
		assert_false(tr_gate_failure(&gate, &rules, 0, false, -1, 0.5));
	assert_true(tr_gate_enter(&gate, 0, &wait_ns));
	assert_true(tr_gate_failure(&gate, &rules, 0, false, -1, 0.5));
	assert_int_equal(gate.state, TR_GATE_CLOSED);
	assert_false(tr_gate_enter(&gate, TR_NS_PER_S / 2, &wait_ns));
	assert_int_equal(wait_ns, TR_NS_PER_S / 2);
}

static void
lets_one_probe_through(void **state)
{
	struct tr_gate gate = {0};
	int64_t wait_ns;

	assert_true(tr_gate_failure(&gate, &rules, 0, true, -1, 0.5));
	assert_true(tr_gate_enter(&gate, TR_NS_PER_S, &wait_ns));
	assert_false(tr_gate_enter(&gate, TR_NS_PER_S, &wait_ns));
	assert_int_equal(wait_ns, INT64_MAX);
	tr_gate_abandon(&gate);
	assert_true(tr_gate_enter(&gate, TR_NS_PER_S, &wait_ns));
	tr_gate_success(&gate, 0);
	assert_int_equal(gate.state, TR_GATE_OPEN);
	assert_int_equal(gate.closings, 0);
}

static void
doubles_the_wait_up_to_the_cap(void **state)
{
	struct tr_gate gate = {0};
	int64_t now_ns = 0, wait_ns;

	for (int i = 0; i < 10; i++) {
		int64_t expected_ns = i < 6 ? TR_NS_PER_S << i : 60 * TR_NS_PER_S;

		assert_true(tr_gate_failure(&gate, &rules, now_ns, true, -1, 0.5));
		assert_int_equal(gate.reopen_at_ns - now_ns, expected_ns);
		now_ns = gate.reopen_at_ns;
		assert_true(tr_gate_enter(&gate, now_ns, &wait_ns));
	}
}

static void
jitter_stays_within_a_fifth(void **state)
{
	struct tr_gate low = {0}, high = {0};

	tr_gate_failure(&low, &rules, 0, true, -1, 0.0);
	tr_gate_failure(&high, &rules, 0, true, -1, 0.999);
	assert_int_equal(low.reopen_at_ns, TR_NS_PER_S * 8 / 10);
	assert_true(high.reopen_at_ns > TR_NS_PER_S * 119 / 100 && high.reopen_at_ns < TR_NS_PER_S * 12 / 10);
}

static void
retry_after_is_a_floor_with_a_cap(void **state)
{
	struct tr_gate gate = {0};

	assert_true(tr_gate_failure(&gate, &rules, 0, false, 120 * TR_NS_PER_S, 0.0));
	assert_int_equal(gate.reopen_at_ns, 120 * TR_NS_PER_S);
	/* a late failure of another session may only lengthen it */
	assert_false(tr_gate_failure(&gate, &rules, 0, false, 60 * TR_NS_PER_S, 0.0));
	assert_int_equal(gate.reopen_at_ns, 120 * TR_NS_PER_S);
	assert_false(tr_gate_failure(&gate, &rules, 0, false, INT64_C(1000000) * TR_NS_PER_S, 0.0));
	assert_int_equal(gate.reopen_at_ns, 3600 * TR_NS_PER_S);
	tr_gate_success(&gate, 0); /* began before the closing */
	assert_int_equal(gate.state, TR_GATE_CLOSED);
}

static void
zero_never_closes(void **state)
{
	struct tr_gate gate = {0};
	struct tr_gate_rules off = rules;

	off.failures_to_close = 0;
	for (int i = 0; i < 100; i++)
		assert_false(tr_gate_failure(&gate, &off, 0, true, 0, 0.5));
	assert_int_equal(gate.state, TR_GATE_OPEN);
}

/* --- the way back --------------------------------------------------------------------------------------- */

struct endpoint {
	double rate, burst, tokens; /* a bucket, as proxies limit their clients; rate 0: none */
	uint32_t fails_every;       /* 0: never */
	double fails_share;         /* at random */
	uint64_t random;
	int64_t at_ns;
	uint64_t good, bad, calls;
};

static bool
asks(struct endpoint *endpoint, int64_t now_ns)
{
	bool good = true;

	endpoint->calls++;
	if (endpoint->rate > 0) {
		endpoint->tokens += (double)(now_ns - endpoint->at_ns) / 1e9 * endpoint->rate;
		if (endpoint->tokens > endpoint->burst)
			endpoint->tokens = endpoint->burst;
		endpoint->at_ns = now_ns;
		good = endpoint->tokens >= 1;
		endpoint->tokens -= good;
	}
	if (endpoint->fails_every > 0 && endpoint->calls % endpoint->fails_every == 0)
		good = false;
	endpoint->random = endpoint->random * 6364136223846793005U + 1442695040888963407U;
	if ((double)(endpoint->random >> 33) / (double)(1U << 31) < endpoint->fails_share)
		good = false;
	*(good ? &endpoint->good : &endpoint->bad) += 1;
	return good;
}

/* Attempts as fast as the gate lets them, at most one every half a millisecond. */
static void
use(struct tr_gate *gate, struct endpoint *endpoint, int64_t *now_ns, int64_t span_ns)
{
	int64_t end_ns = *now_ns + span_ns, wait_ns;

	while (*now_ns < end_ns) {
		if (!tr_gate_enter(gate, *now_ns, &wait_ns)) {
			*now_ns += tr_max_i64((wait_ns + TR_NS_PER_MS - 1) / TR_NS_PER_MS, 1) * TR_NS_PER_MS;
			continue;
		}
		if (asks(endpoint, *now_ns))
			tr_gate_success(gate, *now_ns);
		else
			tr_gate_failure(gate, &rules, *now_ns, false, -1, 0.5);
		*now_ns += TR_NS_PER_MS / 2;
	}
}

static void
a_limit_is_found_and_used(void **state)
{
	static const struct {
		double rate, burst;
	} limits[] = {{5, 1}, {20, 1}, {100, 1}, {100, 5}, {100, 100}, {150, 10}};

	for (size_t i = 0; i < TR_COUNT(limits); i++) {
		struct endpoint endpoint = {
			.rate = limits[i].rate, .burst = limits[i].burst, .tokens = limits[i].burst};
		struct tr_gate gate = {0};
		int64_t now_ns = 0;

		use(&gate, &endpoint, &now_ns, 5 * TR_NS_PER_S);
		endpoint.good = endpoint.bad = 0;
		use(&gate, &endpoint, &now_ns, 20 * TR_NS_PER_S);
		if ((double)endpoint.good < 0.7 * 20 * limits[i].rate || endpoint.bad * 3 > endpoint.good)
			fail_msg("limit of %g/s, burst %g: %lu good, %lu bad", limits[i].rate, limits[i].burst,
				endpoint.good, endpoint.bad);
	}
}

static void
one_failure_in_seven_keeps_the_pace(void **state)
{
	struct endpoint endpoint = {.fails_every = 7};
	struct tr_gate gate = {0};
	int64_t now_ns = 0, wait_ns;

	use(&gate, &endpoint, &now_ns, 5 * TR_NS_PER_S);
	assert_int_equal(endpoint.calls, 10000); /* never closed */
	for (int i = 0; i < 5; i++)
		tr_gate_failure(&gate, &rules, now_ns, false, -1, 0.5);
	assert_int_equal(gate.state, TR_GATE_CLOSED);
	use(&gate, &endpoint, &now_ns, 6 * TR_NS_PER_S);
	assert_int_equal(gate.interval_ns, 0); /* wide open again */
	assert_true(tr_gate_enter(&gate, now_ns, &wait_ns));
}

/* Slowing down is of no use to an endpoint that fails whatever the pace: by steps back alone it would get 2/s. That is
 * found out by chance, too, so a few of the seeds may take longer. */
static void
a_third_that_fails_at_random_is_no_limit(void **state)
{
	static const double shares[] = {0.2, 0.25, 0.32};

	for (size_t i = 0; i < TR_COUNT(shares); i++) {
		int slow = 0;

		for (uint64_t seed = 1; seed <= 40; seed++) {
			struct endpoint endpoint = {.fails_share = shares[i], .random = seed * 977};
			struct tr_gate gate = {0};
			int64_t now_ns = 0;

			tr_gate_failure(&gate, &rules, now_ns, true, -1, 0.5);
			use(&gate, &endpoint, &now_ns, 120 * TR_NS_PER_S);
			endpoint.good = 0;
			use(&gate, &endpoint, &now_ns, 120 * TR_NS_PER_S);
			slow += endpoint.good < 120 * 25;
		}
		if (slow > 8)
			fail_msg("share %g: %d of 40 are slow", shares[i], slow);
	}
}

/* Half of what stands behind a balancer is dead: five failures in a row are nothing there. It gets most of what it can
 * take once that is found out, and closes all the same when the rest dies, too. */
static void
a_half_that_fails_at_random_is_no_limit_either(void **state)
{
	static const struct {
		double share, least; /* of failures; of what it can take, on average */
	} cases[] = {{0.3, 0.7}, {0.4, 0.6}, {0.5, 0.35}};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		double sum = 0, most = 120 * 2000 * (1 - cases[i].share);

		for (uint64_t seed = 1; seed <= 10; seed++) {
			struct endpoint endpoint = {.fails_share = cases[i].share, .random = seed * 977};
			struct endpoint dead = {.fails_every = 1};
			struct tr_gate gate = {0};
			int64_t now_ns = 0;

			use(&gate, &endpoint, &now_ns, 120 * TR_NS_PER_S);
			endpoint.good = 0;
			use(&gate, &endpoint, &now_ns, 120 * TR_NS_PER_S);
			sum += (double)endpoint.good / most;
			use(&gate, &dead, &now_ns, 120 * TR_NS_PER_S); /* ten attempts at the slowest pace */
			assert_true(dead.calls < 60);
			assert_int_not_equal(gate.state, TR_GATE_OPEN);
		}
		if (sum / 10 < cases[i].least)
			fail_msg("share %g: %g of what it can take", cases[i].share, sum / 10);
	}
}

static void
it_opens_bit_by_bit(void **state)
{
	struct endpoint endpoint = {0};
	struct tr_gate gate = {0};
	int64_t now_ns = 0;

	tr_gate_failure(&gate, &rules, now_ns, true, -1, 0.5);
	now_ns = gate.reopen_at_ns;
	use(&gate, &endpoint, &now_ns, 150 * TR_NS_PER_MS);
	assert_in_range(endpoint.calls, 2, 4); /* the probe, one at once, one after 0.1 s */
	assert_true(tr_gate_is_paced(&gate));
	use(&gate, &endpoint, &now_ns, 4 * TR_NS_PER_S);
	assert_false(tr_gate_is_paced(&gate));
	assert_int_equal(tr_gate_room(&gate, now_ns), UINT32_MAX);
}

static void
an_endpoint_that_dies_on_the_way_closes_it(void **state)
{
	struct endpoint good = {0}, dead = {.fails_every = 1};
	struct tr_gate gate = {0};
	int64_t now_ns = 0;

	tr_gate_failure(&gate, &rules, now_ns, true, -1, 0.5);
	now_ns = gate.reopen_at_ns;
	use(&gate, &good, &now_ns, 500 * TR_NS_PER_MS);
	assert_true(tr_gate_is_paced(&gate));
	use(&gate, &dead, &now_ns, 10 * TR_NS_PER_S);
	assert_in_range(dead.calls, 10, 20); /* twice five, then probes */
	assert_int_not_equal(gate.state, TR_GATE_OPEN);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(closes_after_failures_in_a_row),
		cmocka_unit_test(lets_one_probe_through),
		cmocka_unit_test(doubles_the_wait_up_to_the_cap),
		cmocka_unit_test(jitter_stays_within_a_fifth),
		cmocka_unit_test(retry_after_is_a_floor_with_a_cap),
		cmocka_unit_test(zero_never_closes),
		cmocka_unit_test(a_limit_is_found_and_used),
		cmocka_unit_test(one_failure_in_seven_keeps_the_pace),
		cmocka_unit_test(a_third_that_fails_at_random_is_no_limit),
		cmocka_unit_test(a_half_that_fails_at_random_is_no_limit_either),
		cmocka_unit_test(it_opens_bit_by_bit),
		cmocka_unit_test(an_endpoint_that_dies_on_the_way_closes_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
