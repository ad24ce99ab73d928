/* The memoize cache: expiry, bounds, several threads, and tasks that ask for one key at the same time. */
#include <pthread.h>

#include "fixture.h"
#include "policy/memo.h"

static enum tr_memo_state
get(struct tr_memo *memo, const char *key, char out[64])
{
	struct tr_buf buf = {0};
	enum tr_memo_state state = tr_memo_get(memo, tr_str(key), &buf);

	snprintf(out, 64, "%.*s", (int)buf.len, buf.data ? buf.data : "");
	tr_buf_free(&buf);
	return state;
}

static void
entries_expire(void **state)
{
	struct tr_memo_config config = {.ttl_ns = 10 * TR_NS_PER_S, .capacity = 4};
	char out[64];

	tr_clock_virtual(WALL_NS);
	struct tr_memo *memo = tr_memo_open("test.expire", &config);
	assert_int_equal(get(memo, "k", out), TR_MEMO_MISS);
	assert_int_equal(tr_memo_put(memo, tr_str("k"), tr_str("v"), false, -1), TR_OK);
	assert_int_equal(tr_memo_put(memo, tr_str("e"), tr_str("bad"), true, 60 * TR_NS_PER_S), TR_OK);
	assert_int_equal(get(memo, "k", out), TR_MEMO_VALUE);
	assert_string_equal(out, "v");
	tr_clock_advance(11 * TR_NS_PER_S);
	assert_int_equal(get(memo, "k", out), TR_MEMO_MISS);
	assert_int_equal(get(memo, "e", out), TR_MEMO_ERROR);
	assert_string_equal(out, "bad");
	tr_clock_advance(50 * TR_NS_PER_S);
	assert_int_equal(get(memo, "e", out), TR_MEMO_MISS);
	tr_memo_unref(memo);
	tr_clock_real();
}

static void
stale_values_are_kept_where_they_are_wanted(void **state)
{
	struct tr_memo_config config = {.ttl_ns = TR_NS_PER_S, .capacity = 4, .stale = true};
	char out[64];

	tr_clock_virtual(WALL_NS);
	struct tr_memo *memo = tr_memo_open("test.stale", &config);
	tr_memo_put(memo, tr_str("k"), tr_str("old"), false, -1);
	tr_clock_advance(2 * TR_NS_PER_S);
	assert_int_equal(get(memo, "k", out), TR_MEMO_STALE);
	assert_string_equal(out, "old");
	tr_memo_put(memo, tr_str("k"), tr_str(""), false, -1);
	assert_int_equal(get(memo, "k", out), TR_MEMO_VALUE);
	assert_string_equal(out, "");
	tr_memo_unref(memo);
	tr_clock_real();
}

static void
the_least_recently_used_goes(void **state)
{
	struct tr_memo_config config = {.ttl_ns = TR_NS_PER_S * 1000, .capacity = 3};
	struct tr_memo *memo = tr_memo_open("test.lru", &config);
	char out[64], key[16];

	for (int i = 0; i < 1000; i++) {
		snprintf(key, sizeof key, "k%d", i);
		tr_memo_put(memo, tr_str(key), tr_str(key), false, -1);
		assert_int_equal(get(memo, "k0", out), TR_MEMO_VALUE); /* in use: it stays */
	}
	assert_int_equal(get(memo, "k999", out), TR_MEMO_VALUE);
	assert_int_equal(get(memo, "k998", out), TR_MEMO_VALUE);
	assert_int_equal(get(memo, "k997", out), TR_MEMO_MISS);
	tr_memo_unref(memo);
}

static void *
hammer(void *arg)
{
	struct tr_memo_config config = {.ttl_ns = TR_NS_PER_S * 1000, .capacity = 50};
	char key[16], out[64];

	for (int i = 0; i < 2000; i++) {
		config.capacity = i % 500 == 499 ? 51 : 50; /* now and then it is replaced under the others */
		struct tr_memo *memo = tr_memo_open("test.threads", &config);
		snprintf(key, sizeof key, "k%d", i % 70);
		if (get(memo, key, out) == TR_MEMO_VALUE)
			assert_string_equal(out, key);
		else
			tr_memo_put(memo, tr_str(key), tr_str(key), false, -1);
		tr_memo_unref(memo);
	}
	return arg;
}

static void
threads_share_it(void **state)
{
	pthread_t threads[3];

	for (size_t i = 0; i < TR_COUNT(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, hammer, NULL), 0);
	for (size_t i = 0; i < TR_COUNT(threads); i++)
		pthread_join(threads[i], NULL);
}

static const char POLICY[] = "local kumo, t = require 'kumo', require 't'\ncalls = 0\n"
			     "local f = kumo.memoize(function(k) calls = calls + 1 return k .. t.park() end, "
			     "{name = 'test.lua', ttl = 5, capacity = 10, populate_timeout = 20})\n"
			     "kumo.on('e', function(k) return f(k), calls end)\n";

static void
callers_of_a_key_wait_for_the_one_that_populates(void **state)
{
	struct fixture *f = fixture_new(POLICY, NULL);

	assert_string_equal(f->load_error, "");
	for (int i = 0; i < 3; i++)
		fixture_fire(f, "e", "k", 0, NULL);
	assert_int_equal(f->ended, 0);
	assert_int_equal(tr_host_task_count(f->host), 3);
	fixture_wake(f, "1", false);
	tr_loop_advance(f->loop, TR_NS_PER_MS);
	assert_int_equal(f->ended, 3);
	assert_string_equal(f->result, "k1|1");
	tr_loop_advance(f->loop, 6 * TR_NS_PER_S); /* over its ttl: populated anew */
	fixture_fire(f, "e", "k", 0, NULL);
	assert_int_equal(f->ended, 3);
	/* Another one waits for it and gives up; a third finds the populating task cancelled and takes over. */
	fixture_fire(f, "e", "k", 0, NULL);
	tr_loop_advance(f->loop, 21 * TR_NS_PER_S);
	assert_int_equal(f->ended, 4);
	assert_int_equal(f->status, TR_EINVAL);
	assert_non_null(strstr(f->text, "waited 20 s for cache 'test.lua'"));
	struct tr_ticket first = f->ticket;
	fixture_fire(f, "e", "k", 0, NULL);
	tr_task_cancel(first.task);
	assert_int_equal(f->ended, 5);
	assert_int_equal(f->status, TR_ECANCELED);
	tr_loop_advance(f->loop, TR_NS_PER_MS);
	assert_true(fixture_wake(f, "3", false));
	assert_int_equal(f->ended, 6);
	assert_string_equal(f->result, "k3|3");
	fixture_free(f);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(entries_expire),
		cmocka_unit_test(stale_values_are_kept_where_they_are_wanted),
		cmocka_unit_test(the_least_recently_used_goes),
		cmocka_unit_test(threads_share_it),
		cmocka_unit_test(callers_of_a_key_wait_for_the_one_that_populates),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
