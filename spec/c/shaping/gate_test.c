
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
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
