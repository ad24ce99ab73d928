/* A redis-server on a socket in a directory of the test, and operations on it. Without the program the tests that want
 * it are skipped. */
#ifndef REDIS_SERVER_H
#define REDIS_SERVER_H

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

#define LIMIT_NS (60 * TR_NS_PER_S)
#define BASE_US INT64_C(1795000000000000) /* some moment of the server; the local clock starts there */

static char dir[64], path[96];
static pid_t server;
static struct tr_loop *loop;
static struct tr_redis_shaping *shared;
static const struct tr_shaping_backend *backend;

/* --- the server ------------------------------------------------------------------------------------ */

static inline void
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

static inline void
stop_server(int signal)
{
	if (server > 0) {
		kill(server, signal);
		waitpid(server, NULL, 0);
	}
	server = 0;
	unlink(path);
}

static inline bool
is_missing(void)
{
	if (system("command -v redis-server >/dev/null") == 0)
		return false;
	print_message("redis-server is not installed\n");
	return true;
}

static inline int
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

static inline int
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

static inline void
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

static inline void
then(struct tr_shared_op *op)
{
	tr_container_of(op, struct asked, op)->answered = true;
}

static inline bool
is_answered(void *arg)
{
	return ((struct asked *)arg)->answered;
}

static inline void
begin(struct asked *asked)
{
	asked->op.then = then;
	asked->answered = false;
	assert_int_equal(backend->start(backend->arg, loop, &asked->op), TR_OK);
	assert_false(asked->answered); /* never from inside */
}

static inline void
await(struct asked *asked)
{
	assert_true(tr_loop_run_until(loop, is_answered, asked, LIMIT_NS));
	assert_null(asked->op.flight);
}

static inline void
set_spec(struct asked *asked, const char *key, const char *text)
{
	const char *why;

	assert_int_equal(tr_rate_spec_parse(tr_str(text), &asked->spec, &why), TR_OK);
	asked->op = (struct tr_shared_op){
		.kind = TR_SHARED_THROTTLE, .key = tr_str(key), .spec = &asked->spec, .quantity = 1};
}

static inline void
set_lease(struct asked *asked, enum tr_shared_kind kind, uint8_t number, uint64_t limit, int64_t duration_ns)
{
	asked->op =
		(struct tr_shared_op){.kind = kind, .key = TR_STR("limit"), .limit = limit, .duration_ns = duration_ns};
	memset(asked->op.lease, number, sizeof asked->op.lease);
}

static inline bool
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

#endif
