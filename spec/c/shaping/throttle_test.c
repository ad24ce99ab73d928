#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/clock.h"
#include "shaping/internal.h"

#define START_NS (100 * TR_NS_PER_S)

static uint64_t seed;

static uint64_t
random_below(uint64_t n)
{
	seed = seed * 6364136223846793005 + 1442695040888963407;
	return (seed >> 20) % n;
}

static struct tr_shaping *
new_shaping(void)
{
	struct tr_shaping *shaping;

	assert_int_equal(tr_shaping_new(&shaping), TR_OK);
	return shaping;
}

static struct tr_throttle *
get(struct tr_shaping *shaping, const char *name, const char *text)
{
	struct tr_rate_spec spec;
	struct tr_throttle *throttle;
	const char *why;

	assert_int_equal(tr_rate_spec_parse(tr_str(text), &spec, &why), TR_OK);
	assert_int_equal(tr_throttle_get(shaping, tr_str(name), &spec, &throttle), TR_OK);
	return throttle;
}

static void
takes_the_burst_and_then_one_an_interval(void **state)
{
	static const struct {
		const char *spec;
		int burst;
		int64_t interval_ns;
	} cases[] = {
		{"10/s", 10, TR_NS_PER_S / 10},
		{"1000/s,max_burst=1", 1, TR_NS_PER_MS},
		{"5000/s,max_burst=3", 3, TR_NS_PER_MS / 5},
		{"60/min,max_burst=100", 100, TR_NS_PER_S},
		{"1/day", 1, 86400 * TR_NS_PER_S},
		{"1,000,000/s,max_burst=2", 2, 1000},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_shaping *shaping = new_shaping();
		struct tr_throttle *throttle = get(shaping, "x", cases[i].spec);
		struct tr_throttle_result result;
		int64_t now_ns = START_NS;

		for (int n = 0; n < cases[i].burst; n++) {
			assert_true(tr_throttle_check(throttle, now_ns, 1, &result));
			assert_false(result.throttled);
			assert_int_equal(result.limit, cases[i].burst);
			assert_int_equal(result.remaining, cases[i].burst - n - 1);
			assert_int_equal(result.retry_after_ns, 0);
			assert_int_equal(result.reset_after_ns, (n + 1) * cases[i].interval_ns);
		}
		for (int n = 0; n < 3; n++) {
			assert_false(tr_throttle_check(throttle, now_ns, 1, &result));
			assert_true(result.throttled);
			assert_int_equal(result.remaining, 0);
			assert_int_equal(result.retry_after_ns, cases[i].interval_ns);
			assert_false(tr_throttle_check(throttle, now_ns + cases[i].interval_ns - 1, 1, &result));
			assert_int_equal(result.retry_after_ns, 1);
			now_ns += cases[i].interval_ns;
			assert_true(tr_throttle_check(throttle, now_ns, 1, &result));
		}
		tr_throttle_unref(throttle);
		tr_shaping_free(shaping);
	}
}

/* The model: a bucket that is filled token by token, counted in 1/(quantity * 16) ns so that nothing is rounded. */
struct model {
	uint64_t quantity, burst;
	__int128 period, level, full; /* level: what is in the bucket */
	int64_t at_ns;
};

static void
model_pass(struct model *model, int64_t now_ns)
{
	model->level += (__int128)(now_ns - model->at_ns) * (__int128)model->quantity;
	if (model->level > model->full)
		model->level = model->full;
	model->at_ns = now_ns;
}

static void
agrees_with_a_bucket_of_tokens(void **state)
{
	for (int round = 0; round < 500; round++) {
		struct tr_shaping *shaping = new_shaping();
		struct tr_rate_spec spec = {.quantity = 1 + random_below(round % 2 ? 20 : 100000),
			.period_ns = (int64_t)(1 + random_below(100)) * TR_NS_PER_S};
		struct tr_throttle *throttle;
		struct tr_throttle_result result;
		struct model model;
		int64_t now_ns = START_NS;
		uint64_t charged = 0;
		double interval_ns;

		spec.burst = random_below(2) ? spec.quantity : 1 + random_below(50);
		assert_int_equal(tr_throttle_get(shaping, TR_STR("m"), &spec, &throttle), TR_OK);
		interval_ns = (double)spec.period_ns / (double)spec.quantity;
		/* a token is period / quantity ns: in units of ns/quantity it is the period */
		model = (struct model){.quantity = spec.quantity,
			.burst = spec.burst,
			.period = spec.period_ns,
			.full = (__int128)spec.period_ns * (__int128)spec.burst,
			.at_ns = now_ns};
		model.level = model.full;
		for (int call = 0; call < 400; call++) {
			uint64_t n = random_below(8) ? 1 : 1 + random_below(spec.burst);
			double missing, slack;

			if (random_below(3) == 0)
				now_ns += (int64_t)(interval_ns * (double)random_below(3000) / 1000.0);
			if (random_below(100) == 0)
				now_ns += (int64_t)(interval_ns * (double)random_below(2 * spec.burst));
			model_pass(&model, now_ns);
			missing = (double)(model.period * (__int128)n - model.level) / (double)spec.quantity;
			bool got = tr_throttle_check(throttle, now_ns, n, &result);
			/* Rounding of the interval: 1/32 ns a token of the bucket, and of each charge so far. */
			slack = 2 + (double)(spec.burst + charged + n) / 31;
			if (missing < -slack)
				assert_true(got);
			if (missing > slack)
				assert_false(got);
			if (got) {
				model.level -= model.period * (__int128)n;
				charged += n;
			} else {
				assert_true((double)result.retry_after_ns > missing - slack &&
					    (double)result.retry_after_ns < missing + slack);
			}
			assert_int_equal(result.limit, spec.burst);
			assert_true(result.remaining <= spec.burst);
			assert_true(got || result.retry_after_ns > 0);
		}
		tr_throttle_unref(throttle);
		tr_shaping_free(shaping);
	}
}

static void
what_was_promised_is_kept(void **state)
{
	for (int round = 0; round < 300; round++) {
		struct tr_shaping *shaping = new_shaping();
		struct tr_rate_spec spec = {.quantity = 1 + random_below(3000000),
			.period_ns = (int64_t)(1 + random_below(60)) * TR_NS_PER_S,
			.burst = 1 + random_below(5)};
		struct tr_throttle *throttle;
		struct tr_throttle_result result;
		int64_t now_ns = START_NS;

		assert_int_equal(tr_throttle_get(shaping, TR_STR("p"), &spec, &throttle), TR_OK);
		for (int call = 0; call < 200; call++) {
			if (tr_throttle_check(throttle, now_ns, 1, &result))
				continue;
			if (result.retry_after_ns > 1)
				assert_false(
					tr_throttle_check(throttle, now_ns + result.retry_after_ns - 1, 1, &result));
			assert_int_equal(result.retry_after_ns > 0, 1);
			now_ns += result.retry_after_ns;
			while (!tr_throttle_check(throttle, now_ns, 1, &result))
				now_ns += result.retry_after_ns;
			if (random_below(10) == 0) { /* full again after reset_after */
				now_ns += result.reset_after_ns;
				for (uint64_t i = 0; i < spec.burst; i++)
					assert_true(tr_throttle_check(throttle, now_ns, 1, &result));
				assert_false(tr_throttle_check(throttle, now_ns, 1, &result));
			}
		}
		tr_throttle_unref(throttle);
		tr_shaping_free(shaping);
	}
}

static void
counts_right_over_ten_seconds(void **state)
{
	static const uint64_t rates[] = {7, 100, 999, 1000, 30011, 300007, 1000000};

	for (size_t i = 0; i < TR_COUNT(rates); i++) {
		struct tr_shaping *shaping = new_shaping();
		struct tr_rate_spec spec = {.quantity = rates[i], .burst = 1, .period_ns = TR_NS_PER_S};
		struct tr_throttle *throttle;
		struct tr_throttle_result result;
		int64_t now_ns = START_NS, end_ns = now_ns + 10 * TR_NS_PER_S, window_ns = now_ns;
		uint64_t sent = 0, window = 0, most = 0;

		assert_int_equal(tr_throttle_get(shaping, TR_STR("a"), &spec, &throttle), TR_OK);
		while (now_ns < end_ns) {
			if (now_ns - window_ns >= 100 * TR_NS_PER_MS) {
				window_ns += 100 * TR_NS_PER_MS;
				window = 0;
			}
			if (tr_throttle_check(throttle, now_ns, 1, &result)) {
				sent++;
				if (++window > most)
					most = window;
			} else {
				now_ns += result.retry_after_ns;
			}
		}
		assert_in_range(sent, rates[i] * 10 - rates[i] / 10, rates[i] * 10 + rates[i] / 10 + 1);
		assert_in_range(most, 1, rates[i] / 10 + 2); /* the share of the window, and the burst of one */
		tr_throttle_unref(throttle);
		tr_shaping_free(shaping);
	}
}

static void
overdraws_for_more_than_the_bucket(void **state)
{
	struct tr_shaping *shaping = new_shaping();
	struct tr_throttle *throttle = get(shaping, "big", "10/s,max_burst=5");
	struct tr_throttle_result result;

	assert_true(tr_throttle_check(throttle, START_NS, 1, &result));
	assert_false(tr_throttle_check(throttle, START_NS, 20, &result)); /* not full */
	assert_int_equal(result.retry_after_ns, TR_NS_PER_S / 10);
	assert_true(tr_throttle_check(throttle, START_NS + TR_NS_PER_S / 10, 20, &result));
	assert_int_equal(result.remaining, 0);
	assert_false(tr_throttle_check(throttle, START_NS + TR_NS_PER_S / 10, 1, &result));
	assert_int_equal(result.retry_after_ns, 16 * TR_NS_PER_S / 10); /* 20 tokens owed, 5 of them the bucket's */
	tr_throttle_unref(throttle);
	tr_shaping_free(shaping);
}

static void
bears_absurd_numbers(void **state)
{
	struct tr_shaping *shaping = new_shaping();
	struct tr_throttle *throttle = get(shaping, "slow", "1/106000d,max_burst=18446744073709551605");
	struct tr_throttle_result result;

	for (int i = 0; i < 5; i++)
		tr_throttle_check(throttle, START_NS, UINT64_MAX, &result);
	assert_true(result.throttled);
	assert_true(result.retry_after_ns > 0);
	assert_true(tr_throttle_reserve(throttle, INT64_MAX, INT64_MAX) != 0);
	assert_true(tr_throttle_reserve(throttle, -5, -5) < 0);
	tr_throttle_unref(throttle);
	throttle = get(shaping, "fast", "18446744073709551605/s,max_burst=1");
	assert_true(tr_throttle_check(throttle, START_NS, 1, &result));
	assert_false(tr_throttle_check(throttle, START_NS, 1, &result));
	assert_int_equal(result.retry_after_ns, 1);
	tr_throttle_unref(throttle);
	tr_shaping_free(shaping);
}

static void
reserves_slots_in_turn(void **state)
{
	struct tr_shaping *shaping = new_shaping();
	struct tr_throttle *throttle = get(shaping, "r", "100/s,max_burst=2");
	struct tr_throttle_result result;

	assert_int_equal(tr_throttle_reserve(throttle, START_NS, TR_NS_PER_S), 0);
	assert_int_equal(tr_throttle_reserve(throttle, START_NS, TR_NS_PER_S), 0);
	for (int i = 1; i <= 5; i++)
		assert_int_equal(tr_throttle_reserve(throttle, START_NS, TR_NS_PER_S), i * 10 * TR_NS_PER_MS);
	assert_int_equal(tr_throttle_reserve(throttle, START_NS, 30 * TR_NS_PER_MS), -60 * TR_NS_PER_MS);
	assert_int_equal(tr_throttle_reserve(throttle, START_NS, 60 * TR_NS_PER_MS), 60 * TR_NS_PER_MS);
	tr_throttle_give_back(throttle, START_NS);
	assert_int_equal(tr_throttle_reserve(throttle, START_NS, TR_NS_PER_S), 60 * TR_NS_PER_MS);
	assert_false(tr_throttle_check(throttle, START_NS + 60 * TR_NS_PER_MS, 1, &result));
	assert_int_equal(result.retry_after_ns, 10 * TR_NS_PER_MS);
	/* A full bucket does not get fuller. */
	for (int i = 0; i < 10; i++)
		tr_throttle_give_back(throttle, START_NS + 10 * TR_NS_PER_S);
	for (int i = 0; i < 2; i++)
		assert_int_equal(tr_throttle_reserve(throttle, START_NS + 10 * TR_NS_PER_S, 0), 0);
	assert_true(tr_throttle_reserve(throttle, START_NS + 10 * TR_NS_PER_S, 0) < 0);
	tr_throttle_unref(throttle);
	tr_shaping_free(shaping);
}

static void
one_object_a_key(void **state)
{
	struct tr_shaping *shaping = new_shaping();
	struct tr_throttle *a = get(shaping, "n", "10/s"), *b = get(shaping, "n", "10/s");
	struct tr_throttle *other = get(shaping, "n", "10/s,max_burst=3"), *local = get(shaping, "n", "local:10/s");
	char name[400];

	assert_ptr_equal(a, b);
	assert_ptr_not_equal(a, other);
	assert_ptr_not_equal(a, local);
	assert_true(tr_str_eq(tr_throttle_key(a), TR_STR("n:10:10:1")));
	assert_true(tr_str_eq(tr_throttle_key(other), TR_STR("n:10:3:1")));
	assert_false(tr_throttle_is_shared(a));
	static const struct tr_shaping_backend backend = {0};
	tr_shaping_set_backend(shaping, &backend);
	assert_true(tr_throttle_is_shared(a));
	assert_false(tr_throttle_is_shared(local));
	memset(name, 'x', sizeof name);
	name[sizeof name - 1] = '\0';
	struct tr_throttle *lengthy = get(shaping, name, "1/min");
	assert_int_equal(tr_throttle_key(lengthy).len, strlen(name) + strlen(":1:1:60"));
	tr_throttle_unref(lengthy);
	tr_throttle_unref(a);
	tr_throttle_unref(tr_throttle_ref(b));
	tr_throttle_unref(b);
	tr_throttle_unref(other);
	tr_throttle_unref(local);
	tr_throttle_unref(NULL);
	tr_shaping_free(shaping);
}

static void
keeps_the_state_until_full_and_no_longer(void **state)
{
	struct tr_shaping *shaping = new_shaping();
	struct tr_throttle *throttle;
	struct tr_throttle_result result;
	char name[32];

	tr_clock_virtual(0);
	throttle = get(shaping, "kept", "1/min");
	assert_true(tr_throttle_check(throttle, tr_mono_ns(), 1, &result));
	tr_throttle_unref(throttle);
	assert_int_equal(table_count(&shaping->throttles), 1);
	throttle = get(shaping, "kept", "1/min"); /* the same state */
	assert_false(tr_throttle_check(throttle, tr_mono_ns(), 1, &result));
	tr_throttle_unref(throttle);
	tr_clock_advance(61 * TR_NS_PER_S);
	throttle = get(shaping, "kept", "1/min");
	tr_throttle_unref(throttle); /* full: goes with its last reference */
	assert_int_equal(table_count(&shaping->throttles), 0);
	/* A million tenants come and go, a thousand a minute: the table holds a few minutes' worth of them. */
	size_t most = 0;
	for (int i = 0; i < 100000; i++) {
		snprintf(name, sizeof name, "tenant-%d", i);
		throttle = get(shaping, name, "1/min");
		assert_true(tr_throttle_check(throttle, tr_mono_ns(), 1, &result));
		tr_throttle_unref(throttle);
		tr_clock_advance(60 * TR_NS_PER_MS);
		if (i % 1000 == 0 && table_count(&shaping->throttles) > most)
			most = table_count(&shaping->throttles);
	}
	assert_in_range(most, 1000, 3000);
	tr_clock_real();
	tr_shaping_free(shaping);
}

/* --- threads ---------------------------------------------------------------------------------------- */

#define THREADS 4
#define CALLS 20000

struct runner {
	struct tr_shaping *shaping;
	pthread_t thread;
	uint32_t index;
	uint64_t taken;
};

static void *
take(void *arg)
{
	struct runner *runner = arg;
	struct tr_throttle_result result;

	for (int i = 0; i < CALLS; i++) {
		struct tr_throttle *throttle = get(runner->shaping, "race", "1000/s,max_burst=50");

		/* each thread has a clock of its own that stands still: what is taken in all is the bucket */
		if (i % 3 == 0 && tr_throttle_reserve(throttle, START_NS, 0) == 0) {
			if (i % 2)
				tr_throttle_give_back(throttle, START_NS);
			else
				runner->taken++;
		} else if (tr_throttle_check(throttle, START_NS, 1, &result)) {
			runner->taken++;
		}
		tr_throttle_unref(throttle);
	}
	return NULL;
}

static void
never_gives_more_than_there_is(void **state)
{
	struct runner runners[THREADS];
	uint64_t taken = 0;
	struct tr_shaping *shaping = new_shaping();
	struct tr_throttle *held = get(shaping, "race", "1000/s,max_burst=50");

	for (uint32_t i = 0; i < THREADS; i++) {
		runners[i] = (struct runner){.shaping = shaping, .index = i};
		assert_int_equal(pthread_create(&runners[i].thread, NULL, take, &runners[i]), 0);
	}
	for (uint32_t i = 0; i < THREADS; i++) {
		pthread_join(runners[i].thread, NULL);
		taken += runners[i].taken;
	}
	assert_int_equal(taken, 50);
	tr_throttle_unref(held);
	tr_shaping_free(shaping);
}

static void *
come_and_go(void *arg)
{
	struct runner *runner = arg;
	struct tr_throttle_result result;
	char name[16];

	for (int i = 0; i < CALLS; i++) {
		snprintf(name, sizeof name, "k%d", i * (int)(runner->index + 1) % 37);
		struct tr_throttle *throttle = get(runner->shaping, name, "1000000/s");
		tr_throttle_check(throttle, tr_mono_ns(), 1, &result);
		tr_throttle_unref(throttle);
	}
	return NULL;
}

static void
registry_under_threads(void **state)
{
	struct runner runners[THREADS];
	struct tr_shaping *shaping = new_shaping();

	for (uint32_t i = 0; i < THREADS; i++) {
		runners[i] = (struct runner){.shaping = shaping, .index = i};
		assert_int_equal(pthread_create(&runners[i].thread, NULL, come_and_go, &runners[i]), 0);
	}
	for (uint32_t i = 0; i < THREADS; i++)
		pthread_join(runners[i].thread, NULL);
	assert_in_range(table_count(&shaping->throttles), 0, 37);
	tr_shaping_free(shaping);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(takes_the_burst_and_then_one_an_interval),
		cmocka_unit_test(agrees_with_a_bucket_of_tokens),
		cmocka_unit_test(what_was_promised_is_kept),
		cmocka_unit_test(counts_right_over_ten_seconds),
		cmocka_unit_test(overdraws_for_more_than_the_bucket),
		cmocka_unit_test(bears_absurd_numbers),
		cmocka_unit_test(reserves_slots_in_turn),
		cmocka_unit_test(one_object_a_key),
		cmocka_unit_test(keeps_the_state_until_full_and_no_longer),
		cmocka_unit_test(never_gives_more_than_there_is),
		cmocka_unit_test(registry_under_threads),
	};

	seed = getenv("TAILRACE_SEED") ? strtoull(getenv("TAILRACE_SEED"), NULL, 10) : (uint64_t)tr_wall_ns();
	print_message("TAILRACE_SEED=%llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests_name("throttle", tests, NULL, NULL);
}
