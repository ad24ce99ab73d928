/* NATS: connections against a server of the test that does what it is told to. */
#include <poll.h>

#include "nats_fixture.h"

/* --- a server ------------------------------------------------------------------------------------------------ */

enum mode {
	ACK,     /* each message */
	SILENT,  /* takes messages and says nothing */
	DEAF,    /* takes no byte any more after the first message */
	HANG_UP, /* after the tenth message of a connection */
	MUTE,    /* after the first message of a connection: not even a PONG */
	RESET,   /* at the second PING after the first message of a connection */
	NONSENSE /* answers what was not asked, then what makes no sense */
};
static int64_t ping_ns = 60 * TR_NS_PER_S;
static struct {
	int listener;
	uint16_t port;
	pthread_t thread;
	_Atomic int mode;
	_Atomic uint32_t messages, connections;
	_Atomic bool stop;
} server;

static bool
read_line(FILE *in, char *line, size_t size)
{
	return fgets(line, (int)size, in) != NULL;
}

static void
say(int fd, const char *text)
{
	if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
		return; /* the client is gone, and the next read says so */
}

/* One client, until it goes or hangs up. */
static void
serve(int fd)
{
	FILE *in = fdopen(fd, "r+");
	char line[1024], answer[1200], payload[8192];
	uint32_t here = 0, pings = 0;

	assert_non_null(in);
	setvbuf(in, NULL, _IONBF, 0);
	say(fd, "INFO {\"server_id\":\"T\",\"version\":\"2.9.10\",\"proto\":1,\"headers\":true,\"max_payload\":4096,"
		"\"host\":\"127.0.0.1\",\"port\":1}\r\n");
	while (read_line(in, line, sizeof line)) {
		char subject[200], reply[300];
		size_t len;

		if (server.mode == MUTE && here > 0)
			continue;
		if (strncmp(line, "PING", 4) == 0) {
			if (server.mode == RESET && here > 0 && ++pings == 2) {
				setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
				break;
			}
			say(fd, "PONG\r\n");
		} else if (sscanf(line, "PUB %199s %299s", subject, reply) == 2) {
			const char *body = "{\"stream\":\"T\",\"seq\":1}";

			len = strtoul(strrchr(line, ' ') + 1, NULL, 10) + 2; /* with its line end */
			if (len > sizeof payload || fread(payload, 1, len, in) != len)
				break;
			server.messages++;
			here++;
			while (server.mode == DEAF)
				poll(NULL, 0, 1);
			if (server.mode == SILENT)
				continue;
			if (server.mode == HANG_UP && here == 10)
				break;
			if (server.mode == NONSENSE) {
				char *dot = strrchr(reply, '.');

				snprintf(answer, sizeof answer, "MSG %.*s.ffff-0 1 2\r\n{}\r\nMSG %.*s.x 1 2\r\n{}\r\n",
					(int)(dot - reply), reply, (int)(dot - reply), reply);
				say(fd, answer);
				body = "nonsense";
			}
			snprintf(answer, sizeof answer, "MSG %s 1 %zu\r\n%s\r\n", reply, strlen(body), body);
			say(fd, answer);
		}
	}
	fclose(in);
}

static void *
server_main(void *arg)
{
	for (;;) {
		int fd = accept(server.listener, NULL, NULL);

		if (server.stop || fd < 0) {
			if (fd >= 0)
				close(fd);
			return NULL;
		}
		server.connections++;
		serve(fd);
	}
}

static void
server_start(enum mode mode)
{
	server.mode = mode;
	server.messages = server.connections = 0;
	server.stop = false;
	server.port = 0;
	server.listener = listen_at(INADDR_LOOPBACK, &server.port, 16);
	assert_int_equal(pthread_create(&server.thread, NULL, server_main, NULL), 0);
}

/* After the client is gone. */
static void
server_end(void)
{
	server.stop = true;
	shutdown(server.listener, SHUT_RDWR);
	pthread_join(server.thread, NULL);
	close(server.listener);
}

/* --- calls --------------------------------------------------------------------------------------------------- */

static struct tr_nats_connection *
connection_to(uint16_t port, uint32_t pending_max, int64_t request_timeout_ns)
{
	return open_at("127.0.0.1", port,
		(struct tr_nats_settings){.pending_max = pending_max,
			.connect_timeout_ns = LIMIT_NS,
			.ping_interval_ns = ping_ns,
			.request_timeout_ns = request_timeout_ns});
}

static struct tr_nats_call *
start(struct tr_nats_connection *connection, uint32_t count, bool *done)
{
	struct tr_nats_message message = {.subject = TR_STR("a.b"), .payload = TR_STR("payload"), .await_ack = true};
	static char large[4000];
	struct tr_nats_call *call = tr_nats_call_new(connection, count > 0 ? count : 1);

	assert_non_null(call);
	if (server.mode == DEAF)
		message.payload = (struct tr_str){large, sizeof large};
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(tr_nats_call_add(call, &message), TR_OK);
	call_start(call, done);
	assert_false(*done);
	return call;
}

/* How many ended with this. */
static uint32_t
count_of(const struct tr_nats_call *call, int err)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < call->count; i++) {
		struct tr_nats_result result;

		tr_nats_call_result(call, i, &result);
		count += result.err == err;
		assert_true(result.err == TR_OK || result.text.len > 0);
	}
	return count;
}

static void
test_acknowledged(void **state)
{
	struct tr_nats_connection *connection;
	struct tr_nats_call *probe, *call;
	bool probed, done;

	server_start(ACK);
	connection = connection_to(server.port, 7, LIMIT_NS);
	probe = start(connection, 0, &probed);
	call = start(connection, 100, &done);
	assert_true(tr_loop_run_until(loop, is_done, &done, LIMIT_NS));
	assert_true(probed);
	assert_int_equal(count_of(probe, TR_OK), 1);
	assert_int_equal(count_of(call, TR_OK), 100);
	assert_int_equal(server.messages, 100);
	assert_int_equal(server.connections, 1);
	tr_nats_call_free(probe);
	tr_nats_call_free(call);
	tr_nats_unref(connection);
	tr_nats_free(nats);
	server_end();
	assert_int_equal(tr_nats_new(loop, NULL, &nats), TR_OK);
}

static void
test_shared(void **state)
{
	struct tr_nats_connection *a = connection_to(1, 7, LIMIT_NS), *b = connection_to(1, 7, LIMIT_NS),
				  *c = connection_to(1, 8, LIMIT_NS);

	assert_ptr_equal(a, b);
	assert_ptr_not_equal(a, c);
	tr_nats_unref(a);
	tr_nats_unref(b);
	tr_nats_unref(c);
}

static void
test_refused(void **state)
{
	struct tr_nats_connection *connection;
	struct tr_nats_call *call;
	bool done;
	uint16_t port = 0;
	int fd = listen_at(INADDR_LOOPBACK, &port, 1);

	shutdown(fd, SHUT_RDWR); /* the port is ours, and nobody listens */
	connection = connection_to(port, 7, LIMIT_NS);
	call = start(connection, 3, &done);
	assert_true(tr_loop_run_until(loop, is_done, &done, LIMIT_NS));
	assert_int_equal(count_of(call, TR_EREFUSED), 3);
	tr_nats_call_free(call);
	tr_nats_unref(connection);
	close(fd);
}

static bool
has_four_or_is_done(void *done)
{
	return server.messages >= 4 || *(bool *)done;
}

static void
test_silence(void **state)
{
	struct tr_nats_connection *connection;
	struct tr_nats_call *call, *cancelled;
	struct tr_nats_result result;
	bool done, never;

	for (int64_t timeout_ns = 300 * TR_NS_PER_MS;; timeout_ns *= 4) { /* within which four are to be sent */
		server_start(SILENT);
		connection = connection_to(server.port, 4, timeout_ns);
		call = start(connection, 6, &done);
		cancelled = start(connection, 6, &never);
		assert_true(tr_loop_run_until(loop, has_four_or_is_done, &done, LIMIT_NS));
		tr_nats_call_cancel(cancelled); /* while it is in line */
		assert_true(tr_loop_run_until(loop, is_done, &done, LIMIT_NS));
		if (server.messages >= 4 || timeout_ns > 10 * TR_NS_PER_S)
			break;
		tr_nats_call_free(call);
		tr_nats_free(nats);
		server_end();
		assert_int_equal(tr_nats_new(loop, NULL, &nats), TR_OK);
	}
	assert_int_equal(count_of(call, TR_ETIMEDOUT), 6);
	tr_nats_call_result(call, 0, &result);
	assert_non_null(strstr(result.text.data, "no acknowledgement"));
	tr_nats_call_result(call, 5, &result);
	assert_non_null(strstr(result.text.data, "not sent")); /* there was room for four */
	tr_nats_call_free(call);
	call = start(connection, 6, &never); /* under way at the end */
	tr_nats_call_cancel(call);
	call = start(connection, 6, &never);
	tr_nats_free(nats);
	server_end();
	assert_false(never);
	assert_int_equal(tr_nats_new(loop, NULL, &nats), TR_OK);
	tr_nats_call_cancel(call); /* it belonged to the one that is gone */
}

/* The thread hangs in its socket: nobody who waits has to wait for it. */
static void
test_deaf(void **state)
{
	struct tr_nats_connection *connection;
	struct tr_nats_call *call, *cancelled;
	int64_t started_ns;
	bool done, never;

	nats->write_ns = 1500 * TR_NS_PER_MS; /* the calls wait less than that, the end waits more */
	server_start(DEAF);
	connection = connection_to(server.port, 10000, 300 * TR_NS_PER_MS);
	cancelled = start(connection, 5000, &never); /* 20 MB: more than sockets hold */
	call = start(connection, 10, &done);
	assert_true(tr_loop_run_until(loop, is_done, &done, LIMIT_NS));
	assert_int_equal(count_of(call, TR_ETIMEDOUT), 10); /* and not what the write ends with */
	tr_nats_call_free(call);
	assert_true(tr_loop_run_until(loop, is_done, &never, LIMIT_NS));
	assert_int_equal(count_of(cancelled, TR_OK), 0);
	tr_nats_call_free(cancelled);
	cancelled = start(connection, 10, &never);
	tr_nats_call_cancel(cancelled);
	tr_nats_unref(connection);
	started_ns = tr_mono_ns();
	tr_nats_free(nats);
	assert_true(tr_mono_ns() - started_ns < LIMIT_NS); /* nothing waits for the connection */
	assert_false(never);
	server.mode = ACK;
	server_end();
	assert_int_equal(tr_nats_new(loop, NULL, &nats), TR_OK);
}

static void
test_hung_up(void **state)
{
	struct tr_nats_connection *connection;
	struct tr_nats_call *call;
	struct tr_nats_result result;
	bool done;

	server_start(HANG_UP);
	connection = connection_to(server.port, 100, LIMIT_NS);
	call = start(connection, 10, &done);
	assert_true(tr_loop_run_until(loop, is_done, &done, LIMIT_NS));
	assert_true(count_of(call, TR_OK) <= 9);
	tr_nats_call_result(call, 9, &result);
	assert_int_equal(result.err, TR_ECLOSED);
	assert_non_null(strstr(result.text.data, "may have arrived"));
	assert_false(result.permanent);
	tr_nats_call_free(call);
	server.mode = ACK; /* it connects again by itself */
	call = start(connection, 20, &done);
	assert_true(tr_loop_run_until(loop, is_done, &done, LIMIT_NS));
	assert_int_equal(count_of(call, TR_OK), 20);
	tr_nats_call_free(call);
	tr_nats_unref(connection);
	tr_nats_free(nats);
	server_end();
	assert_int_equal(tr_nats_new(loop, NULL, &nats), TR_OK);
}

/* Idle for longer than the pings' interval, and the server is gone: by a reset, or without a word. The connection knows
 * it without a message that would be lost, and the next one goes over another. */
static void
test_gone_while_idle(void **state)
{
	static const enum mode ends[] = {RESET, MUTE};
	struct tr_nats_connection *connection;
	struct tr_nats_call *call;
	bool done;

	ping_ns = 300 * TR_NS_PER_MS;
	for (size_t i = 0; i < TR_COUNT(ends); i++) {
		server_start(ends[i]);
		connection = connection_to(server.port, 100, LIMIT_NS);
		call = start(connection, 1, &done);
		assert_true(tr_loop_run_until(loop, is_done, &done, LIMIT_NS));
		assert_int_equal(count_of(call, TR_OK), 1);
		tr_nats_call_free(call);
		while (server.connections < 2) { /* nothing wakes the loop for that */
			tr_loop_turn(loop);
			poll(NULL, 0, 1);
		}
		server.mode = ACK;
		call = start(connection, 5, &done);
		assert_true(tr_loop_run_until(loop, is_done, &done, LIMIT_NS));
		assert_int_equal(count_of(call, TR_OK), 5);
		assert_int_equal(server.messages, 6);
		assert_int_equal(server.connections, 2);
		tr_nats_call_free(call);
		tr_nats_unref(connection);
		tr_nats_free(nats);
		server_end();
		assert_int_equal(tr_nats_new(loop, NULL, &nats), TR_OK);
	}
	ping_ns = 60 * TR_NS_PER_S;
}

/* What is published before that is known is told as soon as it is, not when its own time is over; then it arrives. */
static void
test_published_to_one_that_is_gone(void **state)
{
	struct tr_nats_connection *connection;
	struct tr_nats_call *call;
	struct tr_nats_result result;
	bool done;

	ping_ns = 300 * TR_NS_PER_MS;
	server_start(MUTE);
	connection = connection_to(server.port, 100, LIMIT_NS);
	call = start(connection, 4, &done);
	assert_true(tr_loop_run_until(loop, is_done, &done, LIMIT_NS));
	assert_int_equal(count_of(call, TR_OK), 1);
	assert_int_equal(count_of(call, TR_ECLOSED), 3);
	tr_nats_call_result(call, 3, &result);
	assert_non_null(strstr(result.text.data, "does not answer; it may have arrived"));
	assert_false(result.permanent);
	tr_nats_call_free(call);
	server.mode = ACK;
	call = start(connection, 3, &done);
	assert_true(tr_loop_run_until(loop, is_done, &done, LIMIT_NS));
	assert_int_equal(count_of(call, TR_OK), 3);
	assert_int_equal(server.messages, 4);
	tr_nats_call_free(call);
	tr_nats_unref(connection);
	tr_nats_free(nats);
	server_end();
	assert_int_equal(tr_nats_new(loop, NULL, &nats), TR_OK);
	ping_ns = 60 * TR_NS_PER_S;
}

static void
test_nonsense(void **state)
{
	struct tr_nats_connection *connection;
	struct tr_nats_call *call;
	bool done;

	server_start(NONSENSE);
	connection = connection_to(server.port, 100, LIMIT_NS);
	call = start(connection, 5, &done);
	assert_true(tr_loop_run_until(loop, is_done, &done, LIMIT_NS));
	assert_int_equal(count_of(call, TR_EPROTO), 5);
	tr_nats_call_free(call);
	tr_nats_unref(connection);
	tr_nats_free(nats);
	server_end();
	assert_int_equal(tr_nats_new(loop, NULL, &nats), TR_OK);
}

static void
test_never_started(void **state)
{
	struct tr_nats_connection *connection = connection_to(1, 4, LIMIT_NS);
	struct tr_nats_call *call = tr_nats_call_new(connection, 3);
	const struct tr_str headers[] = {TR_STR("a"), TR_STR("b")};
	const struct tr_nats_message message = {.subject = TR_STR("x"),
		.payload = TR_STR("y"),
		.headers = headers,
		.header_count = 1,
		.await_ack = true};

	assert_int_equal(tr_nats_call_add(call, &message), TR_OK);
	tr_nats_call_free(call);
	tr_nats_unref(connection);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_acknowledged, setup, teardown),
		cmocka_unit_test_setup_teardown(test_shared, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_silence, setup, teardown),
		cmocka_unit_test_setup_teardown(test_deaf, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hung_up, setup, teardown),
		cmocka_unit_test_setup_teardown(test_gone_while_idle, setup, teardown),
		cmocka_unit_test_setup_teardown(test_published_to_one_that_is_gone, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nonsense, setup, teardown),
		cmocka_unit_test_setup_teardown(test_never_started, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
