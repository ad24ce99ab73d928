/* Limits that are shared through Redis, with a real redis-server: decisions and leases. */
#include "redis_server.h"

/* Puts `by` in the place of `what`; frees `text`. */
static char *
replace(char *text, const char *what, const char *by)
{
	const char *at = strstr(text, what);
	char *out = NULL;

	assert_non_null(at);
	assert_true(asprintf(&out, "%.*s%s%s", (int)(at - text), text, by, at + strlen(what)) > 0);
	free(text);
	return out;
}

/* The script with its time given from outside; its keys must not expire by the time of the machine. */
static char *
timed_script(void)
{
	char *script = replace(strdup(tr_redis_throttle_script), "redis.call('TIME')", "{ARGV[4], ARGV[5]}");

	return replace(script, "math.ceil(ahead / 1000) + 1", "1000000000");
}

static uint64_t seed;

static uint64_t
random_below(uint64_t n)
{
	seed = seed * 6364136223846793005 + 1442695040888963407;
	return (seed >> 20) % n;
}

static void
decides_as_the_local_algorithm(void **state)
{
	struct redisContext *context;
	struct tr_shaping *local;
	char *script = timed_script();
	int checked = 0;

	NEED_SERVER();
	start_server("--appendonly", "no");
	context = redisConnectUnix(path);
	assert_int_equal(tr_shaping_new(&local), TR_OK);
	for (int round = 0; round < 60; round++) {
		struct tr_rate_spec spec = {.quantity = 1 + random_below(round % 3 ? 50 : 2000000),
			.period_ns = (int64_t)(1 + random_below(round % 5 ? 60 : 86400)) * TR_NS_PER_S};
		struct tr_throttle *throttle;
		char name[24], interval[40], burst[24], quantity[24], s[24], us[24];
		int64_t now_us = BASE_US + TR_NS_PER_S + (int64_t)random_below(1000000000);
		double interval_us;

		spec.burst = random_below(2) ? spec.quantity : 1 + random_below(30);
		interval_us = tr_rate_interval_us(&spec);
		snprintf(name, sizeof name, "k%d", round);
		snprintf(interval, sizeof interval, "%.17g", interval_us);
		snprintf(burst, sizeof burst, "%llu", (unsigned long long)spec.burst);
		assert_int_equal(tr_throttle_get(local, tr_str(name), &spec, &throttle), TR_OK);
		for (int call = 0; call < 150; call++, checked++) {
			struct tr_throttle_result result;
			uint64_t n = random_below(6) ? 1 : 1 + random_below(2 * spec.burst);
			double left, reset_us, retry_us;
			/* what doubles lose over days */
			double slack_ns = (double)spec.burst * interval_us * 1e-10;
			int allowed;

			if (random_below(3) == 0)
				now_us += (int64_t)(interval_us * (double)random_below(3000) / 1000.0);
			if (random_below(40) == 0)
				now_us += (int64_t)(interval_us * (double)random_below(2 * spec.burst));
			snprintf(quantity, sizeof quantity, "%llu", (unsigned long long)n);
			snprintf(s, sizeof s, "%lld", (long long)(now_us / 1000000));
			snprintf(us, sizeof us, "%lld", (long long)(now_us % 1000000));
			struct redisReply *reply = redisCommand(
				context, "EVAL %s 1 %s %s %s %s %s %s", script, name, interval, burst, quantity, s, us);
			assert_non_null(reply);
			if (reply->type != REDIS_REPLY_STRING)
				print_message("%s\n", reply->str ? reply->str : "no string");
			assert_int_equal(reply->type, REDIS_REPLY_STRING);
			assert_int_equal(
				sscanf(reply->str, "%d %lf %lf %lf", &allowed, &left, &reset_us, &retry_us), 4);
			bool got = tr_throttle_check(throttle, (now_us - BASE_US) * 1000, n, &result);
			if (allowed != got || (slack_ns < 0.01 && (uint64_t)left != result.remaining))
				print_message("round %d call %d: %s n %s burst %s interval %s, here %d, %llu left, "
					      "full in %lld ns\n",
					round, call, reply->str, quantity, burst, interval, got,
					(unsigned long long)result.remaining, (long long)result.reset_after_ns);
			assert_int_equal(allowed, got);
			if (slack_ns < 0.01)
				assert_int_equal((uint64_t)left, result.remaining);
			assert_true(reset_us * 1e3 > (double)result.reset_after_ns - 1.1 - slack_ns &&
				    reset_us * 1e3 < (double)result.reset_after_ns + 0.1 + slack_ns);
			assert_true(retry_us * 1e3 > (double)result.retry_after_ns - 1.1 - slack_ns &&
				    retry_us * 1e3 < (double)result.retry_after_ns + 0.1 + slack_ns);
			freeReplyObject(reply);
		}
		tr_throttle_unref(throttle);
	}
	assert_int_equal(checked, 60 * 150);
	tr_shaping_free(local);
	redisFree(context);
	free(script);
}

static void
answers_throttles(void **state)
{
	struct asked asked = {0};

	NEED_SERVER();
	start_server("--appendonly", "no");
	make_shared("?db=2", LIMIT_NS);
	for (int i = 0; i < 3; i++) {
		set_spec(&asked, "t:3:3:3600", "3/h");
		begin(&asked);
		await(&asked);
		assert_int_equal(asked.op.err, TR_OK);
		assert_false(asked.op.result.throttled);
		assert_int_equal(asked.op.result.limit, 3);
		assert_int_equal(asked.op.result.remaining, 2 - i);
	}
	begin(&asked);
	await(&asked);
	assert_true(asked.op.result.throttled);
	assert_in_range(asked.op.result.retry_after_ns, 1100 * TR_NS_PER_S, 1200 * TR_NS_PER_S);
	/* The key is in its database, and goes by itself. */
	struct redisContext *context = redisConnectUnix(path);
	struct redisReply *reply = redisCommand(context, "SELECT 2");

	freeReplyObject(reply);
	reply = redisCommand(context, "PTTL t:3:3:3600");
	assert_in_range(reply->integer, 3500000, 3600002);
	freeReplyObject(reply);
	/* What another program has written there does not stop the throttle. */
	reply = redisCommand(context, "SET t:3:3:3600 1795000000");
	freeReplyObject(reply);
	begin(&asked);
	await(&asked);
	assert_false(asked.op.result.throttled);
	/* A key of another type is an error of the server, which is told. */
	reply = redisCommand(context, "DEL t:3:3:3600");
	freeReplyObject(reply);
	reply = redisCommand(context, "LPUSH t:3:3:3600 x");
	freeReplyObject(reply);
	begin(&asked);
	await(&asked);
	assert_int_equal(asked.op.err, TR_EIO);
	assert_non_null(strstr(asked.op.error, "WRONGTYPE"));
	redisFree(context);
}

static void
pipelines_and_loads_its_scripts_again(void **state)
{
	static struct asked asked[300];
	struct redisContext *context;
	uint32_t taken = 0;

	NEED_SERVER();
	start_server("--appendonly", "no");
	make_shared("", LIMIT_NS);
	for (int round = 0; round < 2; round++) {
		for (size_t i = 0; i < TR_COUNT(asked); i++) {
			set_spec(&asked[i], "p:100:100:86400", "100/d");
			begin(&asked[i]);
		}
		for (size_t i = 0; i < TR_COUNT(asked); i++) {
			await(&asked[i]);
			assert_int_equal(asked[i].op.err, TR_OK);
			taken += !asked[i].op.result.throttled;
		}
		context = redisConnectUnix(path);
		freeReplyObject(redisCommand(context, "SCRIPT FLUSH"));
		redisFree(context);
	}
	assert_int_equal(taken, 100);
}

static void
counts_leases_by_the_clock_of_the_server(void **state)
{
	int64_t retry_ns = 0;
	struct redisContext *context;
	struct redisReply *reply;

	NEED_SERVER();
	start_server("--appendonly", "no");
	make_shared("", LIMIT_NS);
	assert_true(lease(TR_SHARED_ACQUIRE, 1, 2, 300 * TR_NS_PER_S, NULL));
	assert_true(lease(TR_SHARED_ACQUIRE, 1, 2, 300 * TR_NS_PER_S, NULL)); /* the same one */
	assert_true(lease(TR_SHARED_ACQUIRE, 2, 2, 600 * TR_NS_PER_S, NULL));
	assert_false(lease(TR_SHARED_ACQUIRE, 3, 2, 600 * TR_NS_PER_S, &retry_ns));
	assert_in_range(retry_ns, 200 * TR_NS_PER_S, 300 * TR_NS_PER_S);
	assert_true(lease(TR_SHARED_ACQUIRE, 3, 3, 600 * TR_NS_PER_S, NULL)); /* a wider limit of the same name */
	assert_true(lease(TR_SHARED_EXTEND, 1, 0, 600 * TR_NS_PER_S, NULL));
	assert_false(lease(TR_SHARED_EXTEND, 9, 0, 600 * TR_NS_PER_S, NULL));
	lease(TR_SHARED_RELEASE, 1, 0, 0, NULL);
	assert_false(lease(TR_SHARED_EXTEND, 1, 0, 600 * TR_NS_PER_S, NULL));
	lease(TR_SHARED_RELEASE, 2, 0, 0, NULL);
	assert_true(lease(TR_SHARED_ACQUIRE, 4, 2, TR_NS_PER_MS, NULL)); /* its holder dies at once */
	for (int64_t until_ns = tr_mono_ns() + LIMIT_NS; !lease(TR_SHARED_ACQUIRE, 5, 2, LIMIT_NS, NULL);)
		assert_true(tr_mono_ns() < until_ns);
	assert_false(lease(TR_SHARED_EXTEND, 4, 0, LIMIT_NS, NULL)); /* too late */
	context = redisConnectUnix(path);
	reply = redisCommand(context, "PTTL limit");
	assert_in_range(reply->integer, 500000, 601001);
	freeReplyObject(reply);
	redisFree(context);
}

static void
what_is_cancelled_is_given_back(void **state)
{
	struct asked asked = {0};
	struct redisContext *context;
	long long count = 1;

	NEED_SERVER();
	start_server("--appendonly", "no");
	make_shared("", LIMIT_NS);
	lease(TR_SHARED_ACQUIRE, 1, 5, LIMIT_NS, NULL);
	lease(TR_SHARED_RELEASE, 1, 0, 0, NULL);
	set_lease(&asked, TR_SHARED_ACQUIRE, 2, 5, LIMIT_NS);
	begin(&asked);
	backend->cancel(backend->arg, &asked.op);
	backend->cancel(backend->arg, &asked.op);      /* nothing happens */
	lease(TR_SHARED_EXTEND, 9, 0, LIMIT_NS, NULL); /* a round trip later it was granted */
	lease(TR_SHARED_EXTEND, 9, 0, LIMIT_NS, NULL); /* and now given back */
	assert_false(asked.answered);
	context = redisConnectUnix(path);
	struct redisReply *reply = redisCommand(context, "EXISTS limit");

	count = reply->integer;
	freeReplyObject(reply);
	redisFree(context);
	assert_int_equal(count, 0);
	set_lease(&asked, TR_SHARED_ACQUIRE, 3, 5, LIMIT_NS);
	begin(&asked); /* teardown frees the backend meanwhile */
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(decides_as_the_local_algorithm, setup, teardown),
		cmocka_unit_test_setup_teardown(answers_throttles, setup, teardown),
		cmocka_unit_test_setup_teardown(pipelines_and_loads_its_scripts_again, setup, teardown),
		cmocka_unit_test_setup_teardown(counts_leases_by_the_clock_of_the_server, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_cancelled_is_given_back, setup, teardown),
	};

	signal(SIGPIPE, SIG_IGN);
	seed = getenv("TAILRACE_SEED") ? strtoull(getenv("TAILRACE_SEED"), NULL, 10) : (uint64_t)tr_wall_ns();
	print_message("TAILRACE_SEED=%llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests_name("redis", tests, NULL, NULL);
}
