/* The Redis client and the shared limits, with a real redis-server on a socket in a directory of the test. Without the
 * program these tests are skipped. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <hiredis/hiredis.h>

#include "base/clock.h"
#include "message/message.h"
#include "transport/redis_shaping.h"

#define LIMIT_NS (20 * TR_NS_PER_S)
#define BASE_US INT64_C(1795000000000000) /* some moment of the server; the local clock starts there */

static char dir[64], path[96];
static pid_t server;
static struct tr_loop *loop;
static struct tr_redis_shaping *shared;
static const struct tr_shaping_backend *backend;

/* --- the server ------------------------------------------------------------------------------------ */

static void
start_server(const char *option, const char *value)
{
	struct redisContext *context = NULL;
	int64_t until_ns = tr_mono_ns() + LIMIT_NS;

	server = fork();
	if (server == 0) {
		int null = open("/dev/null", O_RDWR);

		dup2(null, 1);
		dup2(null, 2);
		execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--dir", dir,
			option, value, NULL);
		_exit(127);
	}
	for (;;) {
		context = redisConnectUnix(path);
		if (context != NULL && context->err == 0)
			break;
		redisFree(context);
		assert_true(tr_mono_ns() < until_ns);
		usleep(2000); /* for a condition: the server's socket */
	}
	redisFree(context);
}

static void
stop_server(int signal)
{
	if (server > 0) {
		kill(server, signal);
		waitpid(server, NULL, 0);
	}
	server = 0;
	unlink(path);
}

static bool
is_missing(void)
{
	if (system("command -v redis-server >/dev/null") == 0)
		return false;
	print_message("redis-server is not installed\n");
	return true;
}

static int
setup(void **state)
{
	strcpy(dir, "/tmp/tailrace-redis.XXXXXX");
	if (is_missing() || mkdtemp(dir) == NULL)
		return 0;
	snprintf(path, sizeof path, "%s/redis.sock", dir);
	if (tr_loop_new(&loop) != TR_OK)
		return -1;
	tr_loop_enter(loop);
	return 0;
}

static int
teardown(void **state)
{
	char command[96];

	if (loop == NULL)
		return 0;
	tr_redis_shaping_free(shared);
	shared = NULL;
	tr_loop_turn(loop); /* the end of the turn frees its streams */
	stop_server(SIGKILL);
	tr_loop_free(loop);
	loop = NULL;
	assert_int_equal(tr_hold_count(), 0);
	snprintf(command, sizeof command, "rm -rf %s", dir);
	return system(command);
}

static void
make_shared(const char *query, int64_t response_timeout_ns)
{
	char url[256];
	const char *why;
	struct tr_redis_settings settings;

	snprintf(url, sizeof url, "unix:%s%s", path, query);
	assert_int_equal(tr_redis_parse_url(tr_str(url), &settings, &why), TR_OK);
	settings.connect_timeout_ns = settings.wait_timeout_ns = LIMIT_NS;
	settings.response_timeout_ns = response_timeout_ns;
	assert_int_equal(tr_redis_shaping_new(&settings, false, &shared), TR_OK);
	tr_redis_free_settings(&settings);
	backend = tr_redis_shaping_backend(shared);
}

#define NEED_SERVER()       \
	if (loop == NULL) { \
		skip();     \
		return;     \
	}

/* --- operations -------------------------------------------------------------------------------------- */

struct asked {
	struct tr_shared_op op;
	struct tr_rate_spec spec;
	bool answered;
};

static void
then(struct tr_shared_op *op)
{
	tr_container_of(op, struct asked, op)->answered = true;
}

static bool
is_answered(void *arg)
{
	return ((struct asked *)arg)->answered;
}

static void
begin(struct asked *asked)
{
	asked->op.then = then;
	asked->answered = false;
	assert_int_equal(backend->start(backend->arg, loop, &asked->op), TR_OK);
	assert_false(asked->answered); /* never from inside */
}

static void
await(struct asked *asked)
{
	assert_true(tr_loop_run_until(loop, is_answered, asked, LIMIT_NS));
	assert_null(asked->op.flight);
}

static void
set_spec(struct asked *asked, const char *key, const char *text)
{
	const char *why;

	assert_int_equal(tr_rate_spec_parse(tr_str(text), &asked->spec, &why), TR_OK);
	asked->op = (struct tr_shared_op){
		.kind = TR_SHARED_THROTTLE, .key = tr_str(key), .spec = &asked->spec, .quantity = 1};
}

static void
set_lease(struct asked *asked, enum tr_shared_kind kind, uint8_t number, uint64_t limit, int64_t duration_ns)
{
	asked->op =
		(struct tr_shared_op){.kind = kind, .key = TR_STR("limit"), .limit = limit, .duration_ns = duration_ns};
	memset(asked->op.lease, number, sizeof asked->op.lease);
}

static bool
lease(enum tr_shared_kind kind, uint8_t number, uint64_t limit, int64_t duration_ns, int64_t *retry_after_ns)
{
	struct asked asked = {0};

	set_lease(&asked, kind, number, limit, duration_ns);
	begin(&asked);
	await(&asked);
	assert_int_equal(asked.op.err, TR_OK);
	if (retry_after_ns != NULL)
		*retry_after_ns = asked.op.retry_after_ns;
	return asked.op.granted;
}

/* --- tests ---------------------------------------------------------------------------------------------- */

static void
reads_urls(void **state)
{
	static const struct {
		const char *url, *host, *path, *user, *password;
		unsigned port, db;
	} good[] = {
		{"redis://127.0.0.1", "127.0.0.1", NULL, NULL, NULL, 6379, 0},
		{"redis://:secret@redis.example:6380/3", "redis.example", NULL, NULL, "secret", 6380, 3},
		{"redis://bob:p%40ss@[::1]:7000/", "::1", NULL, "bob", "p@ss", 7000, 0},
		{"redis://bob:a@b@h", "h", NULL, "bob", "a@b", 6379, 0},
		{"redis://[::1]", "::1", NULL, NULL, NULL, 6379, 0},
		{"unix:/run/redis.sock", NULL, "/run/redis.sock", NULL, NULL, 0, 0},
		{"redis+unix:///run/redis.sock?db=4", NULL, "/run/redis.sock", NULL, NULL, 0, 4},
		{"rediss://:s@h/1", "h", NULL, NULL, "s", 6379, 1},
		{"rediss://h:7#insecure", "h", NULL, NULL, NULL, 7, 0},
	};
	static const char *const bad[] = {"", "redis:", "redis://", "redis://:6379", "redis://h:0", "redis://h:65536",
		"redis://h:x", "redis://h/x", "redis://[::1", "redis://[::1]x", "rediss://h#x", "redis://h:7#insecure",
		"http://h", "h:6379", "unix:relative", "unix:/a?x=1"};
	struct tr_redis_settings settings;
	const char *why;

	for (size_t i = 0; i < TR_COUNT(good); i++) {
		assert_int_equal(tr_redis_parse_url(tr_str(good[i].url), &settings, &why), TR_OK);
		const char *const got[] = {settings.host, settings.path, settings.user, settings.password};
		const char *const want[] = {good[i].host, good[i].path, good[i].user, good[i].password};

		for (size_t k = 0; k < TR_COUNT(got); k++) {
			assert_int_equal(got[k] == NULL, want[k] == NULL);
			if (want[k] != NULL)
				assert_string_equal(got[k], want[k]);
		}
		assert_int_equal(settings.port, good[i].port);
		assert_int_equal(settings.tls, strncmp(good[i].url, "rediss", 6) == 0);
		assert_int_equal(settings.tls_insecure, strchr(good[i].url, '#') != NULL);
		assert_int_equal(settings.db, good[i].db);
		tr_redis_free_settings(&settings);
	}
	for (size_t i = 0; i < TR_COUNT(bad); i++) {
		why = NULL;
		assert_int_equal(tr_redis_parse_url(tr_str(bad[i]), &settings, &why), TR_EINVAL);
		assert_non_null(why);
	}
}

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
		set_spec(&asked, "t:3:3:60", "3/min");
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
	assert_in_range(asked.op.result.retry_after_ns, 15 * TR_NS_PER_S, 20 * TR_NS_PER_S);
	/* The key is in its database, and goes by itself. */
	struct redisContext *context = redisConnectUnix(path);
	struct redisReply *reply = redisCommand(context, "SELECT 2");

	freeReplyObject(reply);
	reply = redisCommand(context, "PTTL t:3:3:60");
	assert_in_range(reply->integer, 55000, 60002);
	freeReplyObject(reply);
	/* What another program has written there does not stop the throttle. */
	reply = redisCommand(context, "SET t:3:3:60 1795000000");
	freeReplyObject(reply);
	begin(&asked);
	await(&asked);
	assert_false(asked.op.result.throttled);
	/* A key of another type is an error of the server, which is told. */
	reply = redisCommand(context, "DEL t:3:3:60");
	freeReplyObject(reply);
	reply = redisCommand(context, "LPUSH t:3:3:60 x");
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
	assert_true(lease(TR_SHARED_ACQUIRE, 1, 2, 30 * TR_NS_PER_S, NULL));
	assert_true(lease(TR_SHARED_ACQUIRE, 1, 2, 30 * TR_NS_PER_S, NULL)); /* the same one */
	assert_true(lease(TR_SHARED_ACQUIRE, 2, 2, 60 * TR_NS_PER_S, NULL));
	assert_false(lease(TR_SHARED_ACQUIRE, 3, 2, 60 * TR_NS_PER_S, &retry_ns));
	assert_in_range(retry_ns, 25 * TR_NS_PER_S, 30 * TR_NS_PER_S);
	assert_true(lease(TR_SHARED_ACQUIRE, 3, 3, 60 * TR_NS_PER_S, NULL)); /* a wider limit of the same name */
	assert_true(lease(TR_SHARED_EXTEND, 1, 0, 60 * TR_NS_PER_S, NULL));
	assert_false(lease(TR_SHARED_EXTEND, 9, 0, 60 * TR_NS_PER_S, NULL));
	lease(TR_SHARED_RELEASE, 1, 0, 0, NULL);
	assert_false(lease(TR_SHARED_EXTEND, 1, 0, 60 * TR_NS_PER_S, NULL));
	lease(TR_SHARED_RELEASE, 2, 0, 0, NULL);
	assert_true(lease(TR_SHARED_ACQUIRE, 4, 2, TR_NS_PER_MS, NULL)); /* its holder dies at once */
	for (int64_t until_ns = tr_mono_ns() + LIMIT_NS; !lease(TR_SHARED_ACQUIRE, 5, 2, LIMIT_NS, NULL);)
		assert_true(tr_mono_ns() < until_ns);
	assert_false(lease(TR_SHARED_EXTEND, 4, 0, LIMIT_NS, NULL)); /* too late */
	context = redisConnectUnix(path);
	reply = redisCommand(context, "PTTL limit");
	assert_in_range(reply->integer, 50000, 61001);
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

static void
fails_fast_and_comes_back(void **state)
{
	struct asked asked = {0};
	int64_t start_ns;

	NEED_SERVER();
	start_server("--appendonly", "no");
	make_shared("", LIMIT_NS);
	set_spec(&asked, "t", "1000/s");
	begin(&asked);
	await(&asked);
	assert_int_equal(asked.op.err, TR_OK);
	stop_server(SIGKILL);
	start_ns = tr_mono_ns();
	for (int i = 0; i < 50; i++) { /* each is told at once what is wrong */
		begin(&asked);
		await(&asked);
		assert_int_not_equal(asked.op.err, TR_OK);
		assert_non_null(strstr(asked.op.error, "redis.sock: "));
	}
	assert_true(tr_mono_ns() - start_ns < 5 * TR_NS_PER_S);
	start_server("--appendonly", "no");
	do {
		begin(&asked);
		await(&asked);
		assert_true(tr_mono_ns() - start_ns < LIMIT_NS);
	} while (asked.op.err != TR_OK);
	/* A server that was away while nobody asked is not noticed. */
	stop_server(SIGTERM);
	start_server("--appendonly", "no");
	begin(&asked);
	await(&asked);
	assert_int_equal(asked.op.err, TR_OK);
}

static void
gives_up_a_server_that_does_not_answer(void **state)
{
	struct asked asked[20] = {0};

	NEED_SERVER();
	start_server("--appendonly", "no");
	make_shared("", 100 * TR_NS_PER_MS);
	set_spec(&asked[0], "t", "1000/s");
	begin(&asked[0]);
	await(&asked[0]);
	assert_int_equal(asked[0].op.err, TR_OK);
	kill(server, SIGSTOP);
	for (size_t i = 0; i < TR_COUNT(asked); i++) {
		set_spec(&asked[i], "t", "1000/s");
		begin(&asked[i]);
	}
	for (size_t i = 0; i < TR_COUNT(asked); i++) {
		await(&asked[i]);
		assert_int_equal(asked[i].op.err, TR_ETIMEDOUT);
	}
	assert_non_null(strstr(asked[0].op.error, "no answer within 0.1 s"));
	kill(server, SIGCONT);
	for (int64_t until_ns = tr_mono_ns() + LIMIT_NS;;) {
		begin(&asked[0]);
		await(&asked[0]);
		if (asked[0].op.err == TR_OK)
			break;
		assert_true(tr_mono_ns() < until_ns);
	}
}

/* A worker: its own loop, its own connection, the same backend. */
struct worker {
	pthread_t thread;
	struct asked asked[100];
	uint32_t taken, failed;
	struct tr_loop *loop;
};

static bool
all_are_answered(void *arg)
{
	struct worker *worker = arg;

	for (size_t i = 0; i < TR_COUNT(worker->asked); i++) {
		if (!worker->asked[i].answered)
			return false;
	}
	return true;
}

static void *
work(void *arg)
{
	struct worker *worker = arg;

	tr_loop_enter(worker->loop);
	for (int round = 0; round < 5; round++) {
		for (size_t i = 0; i < TR_COUNT(worker->asked); i++) {
			struct asked *asked = &worker->asked[i];
			const char *why;

			tr_rate_spec_parse(TR_STR("300/d"), &asked->spec, &why);
			asked->op = (struct tr_shared_op){.kind = TR_SHARED_THROTTLE,
				.key = TR_STR("w:300:300:86400"),
				.spec = &asked->spec,
				.quantity = 1,
				.then = then};
			asked->answered = false;
			if (backend->start(backend->arg, worker->loop, &asked->op) != TR_OK)
				abort();
		}
		if (!tr_loop_run_until(worker->loop, all_are_answered, worker, LIMIT_NS))
			abort();
		for (size_t i = 0; i < TR_COUNT(worker->asked); i++) {
			worker->failed += worker->asked[i].op.err != TR_OK;
			worker->taken += worker->asked[i].op.err == TR_OK && !worker->asked[i].op.result.throttled;
		}
	}
	return NULL;
}

static void
serves_all_workers(void **state)
{
	static struct worker workers[3];
	uint32_t taken = 0;

	NEED_SERVER();
	start_server("--appendonly", "no");
	make_shared("", LIMIT_NS);
	for (size_t i = 0; i < TR_COUNT(workers); i++) {
		assert_int_equal(tr_loop_new(&workers[i].loop), TR_OK);
		assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	}
	for (size_t i = 0; i < TR_COUNT(workers); i++) {
		pthread_join(workers[i].thread, NULL);
		assert_int_equal(workers[i].failed, 0);
		taken += workers[i].taken;
	}
	assert_int_equal(taken, 300);
	tr_redis_shaping_free(shared);
	shared = NULL;
	for (size_t i = 0; i < TR_COUNT(workers); i++) {
		tr_loop_enter(workers[i].loop);
		tr_loop_turn(workers[i].loop);
		tr_loop_free(workers[i].loop);
	}
	tr_loop_enter(loop);
}

static void
says_why_it_is_not_let_in(void **state)
{
	struct asked asked = {0};

	NEED_SERVER();
	start_server("--requirepass", "secret");
	make_shared("", LIMIT_NS);
	set_spec(&asked, "t", "1000/s");
	begin(&asked);
	await(&asked);
	assert_int_equal(asked.op.err, TR_EIO);
	assert_non_null(strstr(asked.op.error, "NOAUTH"));
}

/* A peer on the socket that is no Redis: says `text` to whoever connects. */
struct impostor {
	pthread_t thread;
	int fd;
	const char *text;
	_Atomic bool ends;
};

static void *
talk_nonsense(void *arg)
{
	struct impostor *impostor = arg;

	for (;;) {
		int fd = accept(impostor->fd, NULL, NULL);
		char bytes[512];

		if (fd < 0 || impostor->ends)
			return NULL;
		if (read(fd, bytes, sizeof bytes) > 0 && write(fd, impostor->text, strlen(impostor->text)) > 0)
			while (read(fd, bytes, sizeof bytes) > 0) {
			}
		close(fd);
	}
}

static void
sees_that_a_peer_is_no_redis(void **state)
{
	static const struct {
		const char *text, *error;
	} cases[] = {
		{"220 mx.example.org ESMTP\r\n", "this is not a Redis server"},
		{"HTTP/1.1 400 Bad Request\r\n\r\n", "this is not a Redis server"},
		{"+PONG\r\n+PONG\r\n", "the answer makes no sense"},
		{"+PONG\r\n-ERR no\r\n+PONG\r\n", "ERR no"},
		{"+PONG\r\n:17\r\n", "the answer makes no sense"},
		{"+PONG\r\n$9\r\n1 x 2 3 4\r\n", "the answer makes no sense"},
		{"+PONG\r\n*-1\r\n", "the answer makes no sense"},
		{"-LOADING the dataset\r\n", "LOADING the dataset"},
		{"", "closed"},
	};

	NEED_SERVER();
	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct impostor impostor = {.text = cases[i].text};
		struct sockaddr_un un = {.sun_family = AF_UNIX};
		struct asked asked = {0};

		strcpy(un.sun_path, path);
		impostor.fd = socket(AF_UNIX, SOCK_STREAM, 0);
		assert_int_equal(bind(impostor.fd, (struct sockaddr *)&un, sizeof un), 0);
		assert_int_equal(listen(impostor.fd, 5), 0);
		assert_int_equal(pthread_create(&impostor.thread, NULL, talk_nonsense, &impostor), 0);
		make_shared("", 2 * TR_NS_PER_S);
		set_spec(&asked, "t", "1000/s");
		begin(&asked);
		await(&asked);
		assert_int_not_equal(asked.op.err, TR_OK);
		if (strstr(asked.op.error, cases[i].error) == NULL)
			print_message("case %zu: %s\n", i, asked.op.error);
		assert_non_null(strstr(asked.op.error, cases[i].error));
		tr_redis_shaping_free(shared);
		shared = NULL;
		impostor.ends = true;
		shutdown(impostor.fd, SHUT_RDWR);
		pthread_join(impostor.thread, NULL);
		close(impostor.fd);
		unlink(path);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_urls),
		cmocka_unit_test_setup_teardown(decides_as_the_local_algorithm, setup, teardown),
		cmocka_unit_test_setup_teardown(answers_throttles, setup, teardown),
		cmocka_unit_test_setup_teardown(pipelines_and_loads_its_scripts_again, setup, teardown),
		cmocka_unit_test_setup_teardown(counts_leases_by_the_clock_of_the_server, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_cancelled_is_given_back, setup, teardown),
		cmocka_unit_test_setup_teardown(fails_fast_and_comes_back, setup, teardown),
		cmocka_unit_test_setup_teardown(gives_up_a_server_that_does_not_answer, setup, teardown),
		cmocka_unit_test_setup_teardown(serves_all_workers, setup, teardown),
		cmocka_unit_test_setup_teardown(says_why_it_is_not_let_in, setup, teardown),
		cmocka_unit_test_setup_teardown(sees_that_a_peer_is_no_redis, setup, teardown),
	};

	signal(SIGPIPE, SIG_IGN);
	seed = getenv("TAILRACE_SEED") ? strtoull(getenv("TAILRACE_SEED"), NULL, 10) : (uint64_t)tr_wall_ns();
	print_message("TAILRACE_SEED=%llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests_name("redis", tests, NULL, NULL);
}
