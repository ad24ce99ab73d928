#include "transport/redis.h"

#include <hiredis/hiredis.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "base/clock.h"
#include "net/dns.h"
#include "net/stream.h"
#include "net/tls_client.h"
#include "transport/redis_wire.h"

#define BACKOFF_NS (100 * TR_NS_PER_MS) /* first pause after a failure; doubles */
#define BACKOFF_MAX_NS (5 * TR_NS_PER_S)
#define STEADY_NS TR_NS_PER_S /* a connection that lived that long is made again without a pause */
#define REPLY_MAX (16 << 20)  /* bytes of an incomplete answer: nothing that we ask for is near it */
#define INPUT_MAX (256 << 10)

enum state {
	IDLE,      /* never asked */
	RESOLVING, /* looks up the name */
	CONNECTING,
	SECURING, /* the handshake of TLS */
	GREETING, /* has sent AUTH, SELECT and PING */
	UP,
	DOWN, /* waits before it tries again */
};

struct tr_redis {
	struct tr_loop *loop;
	struct tr_redis_settings settings;
	void (*changed)(void *arg, bool up, const char *error);
	void *arg;
	enum state state;
	bool told_up, told_down;
	struct tr_dns *dns; /* made when a name is to be looked up */
	struct tr_dns_query *query;
	struct tr_connect *connecting;
	struct tr_stream *stream;
	struct tr_tls *tls; /* NULL: plain */
	struct redisReader *reader;
	uint32_t greetings;                  /* answers still expected */
	struct tr_redis_call *first, **last; /* in the order of their answers */
	struct tr_buf early;                 /* commands that wait for the connection */
	struct tr_timer deadline;            /* of the first call, or of the greeting */
	struct tr_timer retry;
	struct tr_defer fail_later;
	struct tr_redis_call *failed, **failed_last; /* started while down */
	int64_t backoff_ns, up_at_ns;
	uint64_t random;
	int err; /* why it is down */
	char error[256];
	int inside; /* callbacks of ours on the stack */
	bool dead;  /* freed inside of them */
};

static void begin(struct tr_redis *redis);
static void lost(struct tr_redis *redis, int err, const char *fmt, ...) TR_PRINTF(3, 4);

int
tr_redis_new(struct tr_loop *loop, const struct tr_redis_settings *settings,
	void (*changed)(void *arg, bool up, const char *error), void *arg, struct tr_redis **out)
{
	struct tr_redis *redis = calloc(1, sizeof *redis);

	*out = NULL;
	if (redis == NULL)
		return TR_ENOMEM;
	if (tr_redis_copy_settings(settings, &redis->settings) != TR_OK) {
		free(redis);
		return TR_ENOMEM;
	}
	redis->loop = loop;
	redis->changed = changed;
	redis->arg = arg;
	redis->last = &redis->first;
	redis->failed_last = &redis->failed;
	redis->backoff_ns = BACKOFF_NS;
	redis->random = (uint64_t)tr_mono_ns() ^ (uint64_t)(uintptr_t)redis;
	*out = redis;
	return TR_OK;
}

static void
drop_connection(struct tr_redis *redis)
{
	tr_dns_cancel(redis->query);
	redis->query = NULL;
	if (redis->connecting != NULL)
		tr_connect_cancel(redis->connecting);
	redis->connecting = NULL;
	if (redis->stream != NULL)
		tr_stream_close(redis->stream, 0);
	redis->stream = NULL;
	tr_tls_free(redis->tls);
	redis->tls = NULL;
	if (redis->reader != NULL)
		redisReaderFree(redis->reader);
	redis->reader = NULL;
	redis->greetings = 0;
	tr_timer_stop(tr_loop_wheel(redis->loop), &redis->deadline);
}

static void
dispose(struct tr_redis *redis)
{
	tr_buf_free(&redis->early);
	tr_redis_free_settings(&redis->settings);
	free(redis);
}

/* Callbacks of our caller run between enter() and leave(), and may free the object. */
static void
enter(struct tr_redis *redis)
{
	redis->inside++;
}

static bool
leave(struct tr_redis *redis)
{
	if (--redis->inside > 0 || !redis->dead)
		return !redis->dead;
	dispose(redis);
	return false;
}

static void
fail_list(struct tr_redis *redis, struct tr_redis_call *call, int err, const char *error)
{
	char text[256];

	snprintf(text, sizeof text, "%s", error); /* a callback may lead to another error */
	for (struct tr_redis_call *next; call != NULL; call = next) {
		next = call->next;
		call->err = err;
		call->error = text;
		call->then(call, NULL);
	}
}

void
tr_redis_free(struct tr_redis *redis)
{
	struct tr_redis_call *calls;

	if (redis == NULL || redis->dead)
		return;
	redis->dead = true;
	enter(redis);
	drop_connection(redis);
	tr_dns_free(redis->dns);
	redis->dns = NULL;
	tr_timer_stop(tr_loop_wheel(redis->loop), &redis->retry);
	tr_loop_undefer(redis->loop, &redis->fail_later);
	*redis->last = redis->failed;
	calls = redis->first;
	redis->first = redis->failed = NULL;
	fail_list(redis, calls, TR_ECANCELED, "the connection was closed");
	leave(redis);
}

/* --- failure ------------------------------------------------------------------------------------------ */

static void
try_again(struct tr_timer *timer)
{
	begin(tr_container_of(timer, struct tr_redis, retry));
}

static void
fail_those(struct tr_defer *defer)
{
	struct tr_redis *redis = tr_container_of(defer, struct tr_redis, fail_later);
	struct tr_redis_call *calls = redis->failed;

	redis->failed = NULL;
	redis->failed_last = &redis->failed;
	enter(redis);
	fail_list(redis, calls, redis->err, redis->error);
	leave(redis);
}

/* The connection failed, or the attempt of one. What was under way is told later in this turn. */
static void
lost(struct tr_redis *redis, int err, const char *fmt, ...)
{
	bool again = redis->state == UP && tr_mono_ns() - redis->up_at_ns > STEADY_NS;
	va_list args;
	int len;

	len = (int)tr_redis_name(&redis->settings, redis->error);
	va_start(args, fmt);
	len += snprintf(redis->error + len, sizeof redis->error - (size_t)len, ": ");
	if (len < (int)sizeof redis->error)
		vsnprintf(redis->error + len, sizeof redis->error - (size_t)len, fmt, args);
	va_end(args);
	redis->err = err;
	drop_connection(redis);
	tr_buf_free(&redis->early);
	if (redis->first != NULL) {
		*redis->failed_last = redis->first;
		redis->failed_last = redis->last;
		redis->first = NULL;
		redis->last = &redis->first;
		tr_loop_defer(redis->loop, &redis->fail_later, fail_those);
	}
	if (again) {
		begin(redis);
	} else {
		redis->random = redis->random * 6364136223846793005 + 1442695040888963407;
		redis->state = DOWN;
		tr_timer_start(tr_loop_wheel(redis->loop), &redis->retry,
			redis->backoff_ns / 2 + (int64_t)((redis->random >> 33) % (uint64_t)redis->backoff_ns),
			try_again);
		redis->backoff_ns = tr_min_i64(redis->backoff_ns * 2, BACKOFF_MAX_NS);
		if (!redis->told_down && redis->changed != NULL) {
			redis->told_down = true;
			redis->told_up = false;
			redis->changed(redis->arg, false, redis->error);
		}
	}
}

/* False: the connection is lost. */
static bool
send_bytes(struct tr_redis *redis, const char *data, size_t len)
{
	struct tr_buf wire = {0};
	int err;

	if (redis->tls == NULL) {
		tr_stream_write(redis->stream, data, len);
		return true;
	}
	err = tr_tls_write(redis->tls, data, len, &wire);
	if (err == TR_OK)
		tr_stream_write(redis->stream, wire.data, wire.len);
	tr_buf_free(&wire);
	if (err != TR_OK)
		lost(redis, err, "%s", err == TR_ENOMEM ? "out of memory" : tr_tls_error(redis->tls));
	return err == TR_OK;
}

static void
deadline_due(struct tr_timer *timer)
{
	struct tr_redis *redis = tr_container_of(timer, struct tr_redis, deadline);

	bool answer = redis->state == UP || redis->state == GREETING;

	lost(redis, TR_ETIMEDOUT, "no %s within %.3g s",
		answer                     ? "answer"
		: redis->state == SECURING ? "end of the TLS handshake"
					   : "connection",
		(double)(answer                     ? redis->settings.response_timeout_ns
			 : redis->state == SECURING ? redis->settings.connect_timeout_ns
						    : redis->settings.wait_timeout_ns) /
			1e9);
}

/* The first call's deadline: those behind it come later or have the same reason to fail. */
static void
watch_first(struct tr_redis *redis)
{
	if (redis->state == GREETING || redis->state == SECURING)
		return;
	if (redis->first == NULL)
		tr_timer_stop(tr_loop_wheel(redis->loop), &redis->deadline);
	else if (!tr_timer_running(&redis->deadline) || redis->deadline.due_ns != redis->first->deadline_ns)
		tr_timer_start_at(
			tr_loop_wheel(redis->loop), &redis->deadline, redis->first->deadline_ns, deadline_due);
}

/* --- answers -------------------------------------------------------------------------------------------- */

static void
is_up(struct tr_redis *redis)
{
	int64_t now_ns = tr_mono_ns();

	redis->state = UP;
	redis->up_at_ns = now_ns;
	redis->backoff_ns = BACKOFF_NS;
	tr_timer_stop(tr_loop_wheel(redis->loop), &redis->deadline);
	for (struct tr_redis_call *call = redis->first; call != NULL; call = call->next)
		call->deadline_ns = now_ns + redis->settings.response_timeout_ns;
	if (redis->early.len > 0 && !send_bytes(redis, redis->early.data, redis->early.len))
		return;
	tr_buf_clear(&redis->early);
	if (!redis->told_up && redis->changed != NULL) {
		redis->told_up = true;
		redis->told_down = false;
		redis->changed(redis->arg, true, NULL);
	}
}

/* False: the connection is gone. */
static bool
greeted(struct tr_redis *redis, const struct redisReply *reply)
{
	if (reply->type == REDIS_REPLY_ERROR) {
		lost(redis, TR_EIO, "%s", reply->str);
		return false;
	}
	if (--redis->greetings == 0)
		is_up(redis);
	return redis->stream != NULL;
}

static bool
answer(struct tr_redis *redis, const struct redisReply *reply)
{
	struct tr_redis_call *call = redis->first;

	if (redis->state == GREETING)
		return greeted(redis, reply);
	if (call == NULL) {
		lost(redis, TR_EPROTO, "an answer that nobody asked for");
		return false;
	}
	redis->first = call->next;
	if (redis->first == NULL)
		redis->last = &redis->first;
	call->err = TR_OK;
	call->error = NULL;
	call->then(call, reply);
	return true;
}

static void greet(struct tr_redis *redis);

/* Takes what came to the reader. False: the connection is lost. *ended: the server has said its last word. */
static bool
read_input(struct tr_redis *redis, struct tr_stream *stream, bool *fed, bool *ended)
{
	struct tr_buf *input = tr_stream_input(stream), plain = {0}, wire = {0};
	int err;

	*fed = true;
	if (redis->tls == NULL) {
		*fed = redisReaderFeed(redis->reader, input->data, input->len) == REDIS_OK;
		tr_buf_consume(input, input->len);
		return true;
	}
	err = tr_tls_feed(redis->tls, input->data, input->len, &plain, &wire);
	tr_buf_consume(input, input->len);
	if (wire.len > 0)
		tr_stream_write(stream, wire.data, wire.len);
	if ((err == TR_OK || err == TR_ECLOSED) && plain.len > 0)
		*fed = redisReaderFeed(redis->reader, plain.data, plain.len) == REDIS_OK;
	tr_buf_free(&plain);
	tr_buf_free(&wire);
	*ended = err == TR_ECLOSED;
	if (err != TR_OK && err != TR_ECLOSED) {
		lost(redis, err, "%s", err == TR_ENOMEM ? "out of memory" : tr_tls_error(redis->tls));
		return false;
	}
	if (redis->state == SECURING && tr_tls_is_ready(redis->tls)) {
		redis->state = GREETING;
		greet(redis);
	}
	return redis->stream == stream;
}

static void
data(struct tr_stream *stream, void *arg)
{
	struct tr_redis *redis = arg;
	void *reply = NULL;
	bool alive, ended = false;

	if (!read_input(redis, stream, &alive, &ended))
		return;
	enter(redis);
	while (alive && redis->stream == stream && !redis->dead) {
		if (redisReaderGetReply(redis->reader, &reply) != REDIS_OK) {
			alive = false;
		} else if (reply == NULL) {
			break;
		} else {
			alive = answer(redis, reply) || redis->stream != stream;
			freeReplyObject(reply);
		}
	}
	if (!leave(redis) || redis->stream != stream)
		return;
	if (!alive && redis->reader->err == REDIS_ERR_OOM) {
		lost(redis, TR_ENOMEM, "out of memory");
	} else if (!alive) {
		lost(redis, TR_EPROTO, "this is not a Redis server: %s", redis->reader->errstr);
	} else if (redis->reader->len - redis->reader->pos > REPLY_MAX) {
		lost(redis, TR_EPROTO, "an answer of more than %d MiB", REPLY_MAX >> 20);
	} else if (ended) {
		lost(redis, TR_ECLOSED, "the server closed the connection");
	} else {
		watch_first(redis);
		if (redis->state == UP && redis->first == NULL)
			tr_stream_pause(stream); /* nothing is under way: virtual time may go on */
	}
}

static void
closed(struct tr_stream *stream, int err, void *arg)
{
	lost(arg, err, "%s", err == TR_ECLOSED ? "the server closed the connection" : tr_err_text(err));
}

/* --- connecting ------------------------------------------------------------------------------------------ */

static void
greet(struct tr_redis *redis)
{
	const struct tr_redis_settings *settings = &redis->settings;
	struct tr_buf text = {0};
	bool whole, sent;

	redis->greetings += tr_redis_greeting(settings, &text);
	whole = !text.failed;
	sent = whole && send_bytes(redis, text.data, text.len);
	if (text.data != NULL)
		explicit_bzero(text.data, text.len);
	tr_buf_free(&text);
	if (!whole) /* the server would wait for the rest */
		lost(redis, TR_ENOMEM, "out of memory");
	if (sent)
		tr_timer_start(
			tr_loop_wheel(redis->loop), &redis->deadline, settings->response_timeout_ns, deadline_due);
}

/* The first words of TLS. */
static void
secure(struct tr_redis *redis)
{
	struct tr_buf plain = {0}, wire = {0};

	redis->tls = tr_tls_new(redis->settings.host, !redis->settings.tls_insecure);
	if (redis->tls == NULL || tr_tls_feed(redis->tls, NULL, 0, &plain, &wire) != TR_OK) {
		tr_buf_free(&wire);
		lost(redis, TR_ENOMEM, "TLS cannot be used: no memory, or no certificates to check it by");
		return;
	}
	redis->state = SECURING;
	tr_stream_write(redis->stream, wire.data, wire.len);
	tr_buf_free(&wire);
	tr_timer_start(tr_loop_wheel(redis->loop), &redis->deadline, redis->settings.connect_timeout_ns, deadline_due);
}

static void
connected(void *arg, struct tr_stream *stream, int err, int errnum)
{
	static const struct tr_stream_handlers handlers = {data, NULL, closed};
	struct tr_redis *redis = arg;

	redis->connecting = NULL;
	if (stream == NULL) {
		lost(redis, err, "%s", errnum != 0 ? strerror(errnum) : tr_err_text(err));
		return;
	}
	redis->stream = stream;
	redis->reader = redisReaderCreate();
	if (redis->reader == NULL) {
		lost(redis, TR_ENOMEM, "out of memory");
		return;
	}
	tr_stream_set_input_limit(stream, INPUT_MAX);
	tr_stream_set_handlers(stream, &handlers, redis);
	if (redis->settings.tls) {
		secure(redis);
		return;
	}
	redis->state = GREETING;
	greet(redis);
}

static void
connect_to(struct tr_redis *redis, const struct tr_sockaddr *to)
{
	redis->state = CONNECTING;
	redis->connecting =
		tr_stream_connect(redis->loop, to, NULL, redis->settings.connect_timeout_ns, connected, redis);
	if (redis->connecting == NULL)
		lost(redis, TR_ENOMEM, "out of memory");
}

static void
found(void *arg, int err, const struct tr_sockaddr *addrs, size_t count)
{
	struct tr_redis *redis = arg;
	struct tr_sockaddr to;

	redis->query = NULL;
	if (err != TR_OK || count == 0) {
		lost(redis, err != TR_OK ? err : TR_ENOENT, "its name is not found");
		return;
	}
	to = addrs[0];
	tr_sockaddr_set_port(&to, redis->settings.port);
	connect_to(redis, &to);
}

static void
begin(struct tr_redis *redis)
{
	struct tr_sockaddr to = {0};

	tr_timer_stop(tr_loop_wheel(redis->loop), &redis->retry);
	if (redis->settings.path != NULL) {
		struct sockaddr_un *un = (struct sockaddr_un *)&to.ss;

		un->sun_family = AF_UNIX;
		memcpy(un->sun_path, redis->settings.path, strlen(redis->settings.path) + 1);
		to.len = sizeof *un;
		connect_to(redis, &to);
		return;
	}
	if (tr_sockaddr_parse(tr_str(redis->settings.host), redis->settings.port, &to) == TR_OK) {
		connect_to(redis, &to);
		return;
	}
	redis->state = RESOLVING;
	if (redis->dns == NULL && tr_dns_new(redis->loop, &redis->dns) != TR_OK) {
		lost(redis, TR_ENOMEM, "out of memory");
		return;
	}
	redis->query = tr_dns_addr(redis->dns, redis->settings.host, redis->settings.connect_timeout_ns, found, redis);
	if (redis->query == NULL)
		lost(redis, TR_ENOMEM, "out of memory");
}

/* --- commands --------------------------------------------------------------------------------------------- */

int
tr_redis_start(struct tr_redis *redis, struct tr_redis_call *call, int argc, const struct tr_str *argv)
{
	struct tr_buf text = {0};
	int64_t now_ns = tr_mono_ns();

	call->next = NULL;
	if (redis->dead)
		return TR_ECLOSED;
	if (redis->state == UP && redis->first == NULL && tr_stream_stale(redis->stream)) {
		drop_connection(redis);
		redis->state = IDLE;
	}
	if (redis->state == DOWN) {
		*redis->failed_last = call;
		redis->failed_last = &call->next;
		tr_loop_defer(redis->loop, &redis->fail_later, fail_those);
		return TR_OK;
	}
	tr_redis_command(redis->state == UP ? &text : &redis->early, argc, argv);
	if (text.failed || redis->early.failed) {
		tr_buf_free(&text);
		if (redis->early.failed)
			lost(redis, TR_ENOMEM, "out of memory"); /* it may hold a part of a command */
		return TR_ENOMEM;
	}
	call->deadline_ns =
		now_ns + (redis->state == UP ? redis->settings.response_timeout_ns : redis->settings.wait_timeout_ns);
	*redis->last = call;
	redis->last = &call->next;
	if (redis->state == UP) {
		if (send_bytes(redis, text.data, text.len)) { /* else `call` is told, as all */
			tr_stream_resume(redis->stream);
			watch_first(redis);
		}
		tr_buf_free(&text);
	} else {
		if (redis->state == IDLE)
			begin(redis);
		if (redis->state != DOWN)
			watch_first(redis);
	}
	return TR_OK;
}
