/* The Redis client: its URLs, and servers that are slow, gone, strangers or shared by many workers. */
#include "redis_server.h"

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
	assert_true(tr_mono_ns() - start_ns < LIMIT_NS); /* of which each would take all, if it waited */
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

/* In time: the machine may be slower than that for a while. */
static void
ask_until_it_answers(struct asked *asked)
{
	int64_t until_ns = tr_mono_ns() + LIMIT_NS;

	set_spec(asked, "t", "1000/s");
	do {
		assert_true(tr_mono_ns() < until_ns);
		begin(asked);
		await(asked);
	} while (asked->op.err != TR_OK);
}

static void
gives_up_a_server_that_does_not_answer(void **state)
{
	struct asked asked[20] = {0};

	NEED_SERVER();
	start_server("--appendonly", "no");
	make_shared("", 100 * TR_NS_PER_MS);
	ask_until_it_answers(&asked[0]);
	kill(server, SIGSTOP);
	assert_int_equal(waitpid(server, NULL, WUNTRACED), server); /* it has stopped: kill returns earlier */
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
	ask_until_it_answers(&asked[0]);
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
		make_shared("", LIMIT_NS);
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
		cmocka_unit_test_setup_teardown(fails_fast_and_comes_back, setup, teardown),
		cmocka_unit_test_setup_teardown(gives_up_a_server_that_does_not_answer, setup, teardown),
		cmocka_unit_test_setup_teardown(serves_all_workers, setup, teardown),
		cmocka_unit_test_setup_teardown(says_why_it_is_not_let_in, setup, teardown),
		cmocka_unit_test_setup_teardown(sees_that_a_peer_is_no_redis, setup, teardown),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("redis trouble", tests, NULL, NULL);
}
