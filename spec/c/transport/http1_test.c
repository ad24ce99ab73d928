/* The client for plain http on loopback: the life of its connections. What it shares with libcurl is in http_test.c. */
#include <sched.h>

#include "http_peer.h"

#define CLOSE_2 "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"

static void
wait_for(_Atomic int *count, int least)
{
	while (atomic_load(count) < least)
		sched_yield();
}

static void
begin(struct fixture *fix, struct tr_http_call *call, const char *url, const char *body, int *done)
{
	memset(call, 0, sizeof *call);
	call->client = fix->client;
	call->method = TR_HTTP_POST;
	call->url = url;
	call->body = tr_str(body);
	call->done = call_done;
	call->owner = done;
	*done = 0;
	assert_int_equal(tr_http_start(fix->http, call), TR_OK);
}

/* --- which connections carry a second request ------------------------------------------------------------ */

struct reuse_case {
	const char *name;
	struct script first;
	int connections; /* after two requests */
};

static const struct reuse_case reuse_cases[] = {
	{"kept", {"RWRWH", {OK_2, OK_2}}, 1},
	{"kept after chunks",
		{"RWRWH", {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nA: b\r\n\r\n", OK_2}},
		1},
	{"kept after 100", {"RWRWH", {"HTTP/1.1 100 Continue\r\n\r\n" OK_2, OK_2}}, 1},
	{"kept after byte by byte", {"RBRWH", {OK_2, OK_2}}, 1},
	{"HTTP/1.0", {"RWH", {"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"}}, 2},
	{"HTTP/1.0 keep-alive",
		{"RWRWH", {"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", OK_2}}, 1},
	{"connection: close", {"RWH", {CLOSE_2}}, 2},
	{"up to the end", {"RWC", {"HTTP/1.1 200 OK\r\n\r\nok"}}, 2},
	{"bytes behind the answer", {"RWH", {OK_2 "HTTP/1.1 200"}}, 2},
	{"bare LF", {"RWH", {"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"}}, 2},
	{"length and chunks",
		{"RWH", {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: "
			 "chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"}},
		2},
};

static void
uses_good_connections_again(void **state)
{
	for (size_t i = 0; i < TR_COUNT(reuse_cases); i++) {
		const struct reuse_case *one = &reuse_cases[i];
		struct script scripts[2] = {one->first, {"RWH", {OK_2}}};
		struct fixture fix;

		set_up(&fix, scripts, 2, &plain);
		expect_ok(&fix, TR_HTTP_POST, fix.url, "first");
		expect_ok(&fix, TR_HTTP_POST, fix.url, "second");
		if (fix.server.connections != one->connections)
			fail_msg("%s: %d connections", one->name, fix.server.connections);
		tear_down(&fix);
	}
}

static void
closes_an_idle_connection_that_talks(void **state)
{
	static const struct script scripts[] = {{"RWRWE", {OK_2, OK_2 OK_2}}, {"RWH", {OK_2}}};
	struct fixture fix;

	set_up(&fix, scripts, 2, &plain);
	expect_ok(&fix, TR_HTTP_POST, fix.url, "x");
	expect_ok(&fix, TR_HTTP_POST, fix.url, "x");
	expect_ok(&fix, TR_HTTP_POST, fix.url, "x"); /* the answer that nobody asked for is not taken for this one's */
	assert_int_equal(fix.server.connections, 2);
	wait_for(&fix.server.closed, 1);
	tear_down(&fix);
}

/* The loop has not looked since: it is asked of the socket. */
static void
sees_a_closed_connection_without_a_turn(void **state)
{
	static const char *const ends[] = {"RWC", "RWX"};

	for (size_t i = 0; i < TR_COUNT(ends); i++) {
		const struct script scripts[] = {{ends[i], {OK_2}}, {"RWH", {OK_2}}};
		struct fixture fix;
		int64_t until_ns;

		set_up(&fix, scripts, 2, &plain);
		expect_ok(&fix, TR_HTTP_POST, fix.url, "x");
		wait_for(&fix.server.closed, 1);
		until_ns = tr_mono_ns() + TR_NS_PER_MS; /* what was seen before does not count any more */
		while (tr_mono_ns() < until_ns)
			sched_yield();
		expect_ok(&fix, TR_HTTP_POST, fix.url, "x");
		assert_int_equal(fix.server.connections, 2);
		tear_down(&fix);
	}
}

/* A peer that ends each connection after its answer without saying so: after the first time the socket is asked even
 * where the loop has looked a moment ago. */
static void
learns_that_a_peer_ends_its_connections(void **state)
{
	static const struct script scripts[] = {
		{"RWC", {OK_2}}, {"RWC", {OK_2}}, {"RWC", {OK_2}}, {"RWC", {OK_2}}, {"RWH", {OK_2}}};
	struct fixture fix;

	set_up(&fix, scripts, 5, &plain);
	for (int i = 0; i < 5; i++) {
		expect_ok(&fix, TR_HTTP_POST, fix.url, "x");
		wait_for(&fix.server.closed, i < 4 ? i + 1 : 4);
		if (i == 0)
			tr_loop_turn(fix.loop);
	}
	assert_int_equal(fix.server.connections, 5);
	tear_down(&fix);
}

static void
closes_idle_connections_in_time(void **state)
{
	static const struct script scripts[] = {{"RWE", {OK_2}}, {"RWH", {OK_2}}};
	struct tr_http_settings settings = plain;
	struct fixture fix;

	tr_clock_virtual(1700000000 * TR_NS_PER_S);
	settings.idle_ns = 5 * TR_NS_PER_S;
	set_up(&fix, scripts, 2, &settings);
	expect_ok(&fix, TR_HTTP_POST, fix.url, "x");
	tr_loop_advance(fix.loop, 4 * TR_NS_PER_S);
	assert_int_equal(fix.server.closed, 0);
	tr_loop_advance(fix.loop, 2 * TR_NS_PER_S);
	wait_for(&fix.server.closed, 1);
	expect_ok(&fix, TR_HTTP_POST, fix.url, "x");
	tear_down(&fix);
	tr_clock_real();
}

static void
a_client_does_not_use_what_is_idle_too_long_for_it(void **state)
{
	static const struct script scripts[] = {{"RWRWH", {OK_2, OK_2}}};
	struct tr_http_settings hasty = plain;
	struct tr_http_client *patient;
	struct tr_http_call call;
	struct fixture fix;
	int done;

	tr_clock_virtual(1700000000 * TR_NS_PER_S);
	hasty.idle_ns = TR_NS_PER_S;
	set_up(&fix, scripts, 1, &plain);
	expect_ok(&fix, TR_HTTP_POST, fix.url, "x");
	tr_loop_advance(fix.loop, 2 * TR_NS_PER_S);
	patient = fix.client;
	assert_int_equal(tr_http_client_new(fix.http, &hasty, &fix.client), TR_OK);
	begin(&fix, &call, fix.url, "hasty", &done); /* on a connection of its own, which the server leaves waiting */
	for (int i = 0; i < 10; i++)
		tr_loop_turn(fix.loop);
	tr_http_cancel(&call);
	tr_http_call_fini(&call);
	tr_http_client_unref(fix.client);
	fix.client = patient;
	expect_ok(&fix, TR_HTTP_POST, fix.url, "patient");
	assert_non_null(strstr(fix.server.seen[1], "patient"));
	assert_int_equal(fix.server.connections, 1);
	tear_down(&fix);
	tr_clock_real();
}

enum { MANY = 300, KEPT = 256 };

static int
ended_by_client(struct server *server)
{
	int count = 0;
	char byte;

	for (int i = 0; i < MANY; i++)
		count += recv(server->held[i], &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
	return count;
}

static void
keeps_a_bounded_number_of_idle_connections(void **state)
{
	static struct script scripts[MANY];
	static struct tr_http_call calls[MANY];
	static int done[MANY];
	struct fixture fix;

	for (int i = 0; i < MANY; i++)
		scripts[i] = (struct script){"RWH", {OK_2}};
	set_up(&fix, scripts, MANY, &plain);
	for (int i = 0; i < MANY; i++)
		begin(&fix, &calls[i], fix.url, "x", &done[i]);
	assert_int_equal(tr_http_in_flight(fix.http), MANY);
	for (int i = 0; i < MANY; i++) {
		assert_true(tr_loop_run_until(fix.loop, is_one, &done[i], LIMIT_NS));
		assert_int_equal(calls[i].status, 200);
		tr_http_call_fini(&calls[i]);
	}
	wait_for(&fix.server.held_count, MANY);
	while (ended_by_client(&fix.server) < MANY - KEPT)
		sched_yield();
	assert_int_equal(ended_by_client(&fix.server), MANY - KEPT);
	tear_down(&fix);
}

/* --- the end of a connection within a request ------------------------------------------------------------ */

static void
takes_an_answer_that_comes_before_the_body_was_sent(void **state)
{
	static const struct script scripts[] = {
		{"rWH", {"HTTP/1.1 413 x\r\nContent-Length: 2\r\n\r\nno"}}, {"RWH", {OK_2}}};
	size_t len = 30000000; /* more than the kernel takes */
	char *body = malloc(len + 1);
	struct tr_http_call call;
	struct fixture fix;

	memset(body, 'x', len);
	body[len] = '\0';
	set_up(&fix, scripts, 2, &plain);
	run(&fix, &call, TR_HTTP_POST, fix.url, body);
	assert_int_equal(call.err, TR_OK);
	assert_int_equal(call.status, 413);
	assert_text(&call.content, "no");
	tr_http_call_fini(&call);
	expect_ok(&fix, TR_HTTP_POST, fix.url, "x");
	assert_int_equal(fix.server.connections, 2);
	tear_down(&fix);
	free(body);
}

static void
sends_a_body_that_the_kernel_takes_in_pieces(void **state)
{
	static const struct script scripts[] = {{"RWRWH", {OK_2, OK_2}}};
	char *body = malloc(20000001);
	struct fixture fix;

	memset(body, 'x', 20000000);
	body[20000000] = '\0';
	set_up(&fix, scripts, 1, &plain);
	expect_ok(&fix, TR_HTTP_POST, fix.url, body);
	expect_ok(&fix, TR_HTTP_PUT, fix.url, body);
	assert_int_equal(fix.server.connections, 1);
	tear_down(&fix);
	free(body);
}

static void
reads_a_long_answer(void **state)
{
	static char text[500100];
	static const struct script scripts[] = {{"RWRWH", {text, OK_2}}};
	struct tr_http_call call;
	struct fixture fix;
	int head = sprintf(text, "HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n");

	memset(text + head, 'y', 500000);
	set_up(&fix, scripts, 1, &plain);
	run(&fix, &call, TR_HTTP_GET, fix.url, "");
	assert_int_equal(call.err, TR_OK);
	assert_int_equal(call.content.len, 500000);
	assert_memory_equal(call.content.data, text + head, 500000);
	tr_http_call_fini(&call);
	expect_ok(&fix, TR_HTTP_GET, fix.url, "");
	assert_int_equal(fix.server.connections, 1);
	tear_down(&fix);
}

struct end_case {
	const char *name;
	struct script script;
	const char *cause;
};

static const struct end_case end_cases[] = {
	{"reset within the head", {"RWX", {"HTTP/1.1 200 OK\r\nA: b"}}, ""},
	{"closed within the head", {"RWC", {"HTTP/1.1 200 OK\r\nA: b\r\n"}}, "partial"},
	{"closed within a body", {"RWC", {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"}}, "5 bytes remaining"},
	{"closed between chunks", {"RWC", {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"}},
		"outstanding"},
	{"closed within the trailer", {"RWC", {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n"}},
		"outstanding"},
	{"closed after 100", {"RWC", {"HTTP/1.1 100 Continue\r\n\r\n"}}, "partial"},
};

/* On a fresh connection and on one that was used before: something was answered, so nothing is sent again. */
static void
names_an_early_end(void **state)
{
	for (size_t i = 0; i < 2 * TR_COUNT(end_cases); i++) {
		const struct end_case *one = &end_cases[i / 2];
		struct script script = one->script;
		char steps[16];
		struct tr_http_call call;
		struct fixture fix;

		if (i % 2 == 1) {
			snprintf(steps, sizeof steps, "RW%s", one->script.steps);
			script = (struct script){steps, {OK_2, one->script.texts[0]}};
		}
		set_up(&fix, &script, 1, &plain);
		if (i % 2 == 1)
			expect_ok(&fix, TR_HTTP_GET, fix.url, "");
		run(&fix, &call, TR_HTTP_GET, fix.url, "");
		if (call.err != TR_ECLOSED)
			fail_msg(
				"%s: %s, %.*s", one->name, tr_err_name(call.err), (int)call.error.len, call.error.data);
		assert_int_equal(call.status, 0);
		assert_has(&call.error, one->cause);
		tr_http_call_fini(&call);
		assert_int_equal(fix.server.connections, 1);
		tear_down(&fix);
	}
}

static void
ends_at_its_deadline_while_the_body_waits(void **state)
{
	static const struct script scripts[] = {{"H", {NULL}}};
	struct tr_http_settings settings = plain;
	char *body = malloc(30000001);
	struct tr_http_call call;
	struct fixture fix;

	memset(body, 'x', 30000000);
	body[30000000] = '\0';
	settings.timeout_ns = 50 * TR_NS_PER_MS;
	set_up(&fix, scripts, 1, &settings);
	run(&fix, &call, TR_HTTP_POST, fix.url, body);
	assert_int_equal(call.err, TR_ETIMEDOUT);
	assert_has(&call.error, "timed out after 0.05 s");
	tr_http_call_fini(&call);
	tear_down(&fix);
	free(body);
}

/* Before it is connected, before a name is found, after a failure that was not yet told. */
static void
can_be_cancelled_early(void **state)
{
	static const struct script scripts[] = {{"RWH", {OK_2}}};
	struct tr_http_call call;
	struct fixture fix;
	char url[64];
	int done;

	set_up(&fix, NULL, 0, &plain);
	snprintf(url, sizeof url, "http://localhost:%d/in", fix.server.port);
	begin(&fix, &call, fix.url, "x", &done);
	tr_http_cancel(&call);
	begin(&fix, &call, url, "x", &done);
	tr_http_cancel(&call);
	begin(&fix, &call, "http://255.255.255.255:1/", "x", &done);
	tr_http_cancel(&call);
	tr_loop_turn(fix.loop);
	assert_int_equal(done, 0);
	tr_http_call_fini(&call);
	tear_down(&fix);

	set_up(&fix, scripts, 1, &plain); /* freed while they are under way */
	begin(&fix, &call, url, "x", &done);
	tr_http_free(fix.http);
	assert_int_equal(done, 0);
	tr_http_call_fini(&call);
	tr_http_client_unref(fix.client);
	stop_server(&fix.server);
	tr_loop_free(fix.loop);
	assert_int_equal(tr_hold_count(), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(uses_good_connections_again),
		cmocka_unit_test(closes_an_idle_connection_that_talks),
		cmocka_unit_test(sees_a_closed_connection_without_a_turn),
		cmocka_unit_test(learns_that_a_peer_ends_its_connections),
		cmocka_unit_test(closes_idle_connections_in_time),
		cmocka_unit_test(a_client_does_not_use_what_is_idle_too_long_for_it),
		cmocka_unit_test(keeps_a_bounded_number_of_idle_connections),
		cmocka_unit_test(takes_an_answer_that_comes_before_the_body_was_sent),
		cmocka_unit_test(sends_a_body_that_the_kernel_takes_in_pieces),
		cmocka_unit_test(reads_a_long_answer),
		cmocka_unit_test(names_an_early_end),
		cmocka_unit_test(ends_at_its_deadline_while_the_body_waits),
		cmocka_unit_test(can_be_cancelled_early),
	};

	signal(SIGPIPE, SIG_IGN);
	unsetenv("TAILRACE_HTTP");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
