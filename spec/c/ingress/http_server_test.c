/* The HTTP listener with a handler in C; the client is libcurl's multi of runtime/transport on the same loop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "ingress/http_server.h"
#include "transport/http.h"

struct fixture {
	struct tr_loop *loop;
	struct tr_http_server *server;
	struct tr_http *http;
	struct tr_http_client *client;
	struct tr_http_request *waiting; /* of the handler that answers later */
	bool later;
	int handled;
	struct tr_buf query;
	char seen[200];
	char url[100];
};

static void
add_query(void *arg, struct tr_str name, struct tr_str value)
{
	tr_buf_addf(arg, "%.*s=%.*s;", (int)name.len, name.data, (int)value.len, value.data);
}

static void
handle(void *arg, struct tr_http_request *request)
{
	struct fixture *fix = arg;
	struct tr_str body = tr_http_request_body(request);
	const char *type = tr_http_request_header(request, "content-type");

	fix->handled++;
	tr_http_request_query(request, add_query, &fix->query);
	snprintf(fix->seen, sizeof fix->seen, "%s %s %s %zu %s %s", tr_http_request_method(request),
		tr_http_request_path(request), type != NULL ? type : "-", body.len, tr_http_request_peer(request),
		tr_http_request_local(request));
	if (fix->later)
		fix->waiting = request;
	else
		tr_http_request_answer(request, 201, "text/plain", "X-A", "1", TR_STR("made"));
}

static void
set_up(struct fixture *fix)
{
	struct tr_http_server_config config = {
		.listen = "127.0.0.1:0", .body_limit = 1000, .handle = handle, .arg = fix};
	static const struct tr_http_settings settings = {
		.timeout_ns = 60 * TR_NS_PER_S, .idle_ns = 90 * TR_NS_PER_S, .max_response_bytes = 1 << 20};

	memset(fix, 0, sizeof *fix);
	assert_int_equal(tr_loop_new(&fix->loop), TR_OK);
	tr_loop_enter(fix->loop);
	config.loop = fix->loop;
	assert_int_equal(tr_http_server_new(&config, &fix->server, NULL), TR_OK);
	assert_int_equal(tr_http_new(fix->loop, &fix->http), TR_OK);
	assert_int_equal(tr_http_client_new(fix->http, &settings, &fix->client), TR_OK);
	snprintf(fix->url, sizeof fix->url, "http://%s/api/x%%20y?a=1%%262&b", tr_http_server_address(fix->server));
}

static void
tear_down(struct fixture *fix)
{
	tr_http_client_unref(fix->client);
	tr_http_free(fix->http);
	tr_http_server_free(fix->server);
	tr_buf_free(&fix->query);
	tr_loop_free(fix->loop);
	assert_int_equal(tr_hold_count(), 0);
}

static void
call_done(struct tr_http_call *call)
{
	++*(int *)call->owner;
}

static bool
is_one(void *arg)
{
	return *(int *)arg == 1;
}

static void
post(struct fixture *fix, struct tr_http_call *call, struct tr_str body, int *done)
{
	static const struct tr_str headers[] = {{"Content-Type", 12}, {"application/json", 16}};

	*done = 0;
	*call = (struct tr_http_call){.client = fix->client,
		.method = TR_HTTP_POST,
		.url = fix->url,
		.headers = headers,
		.header_count = 1,
		.body = body,
		.done = call_done,
		.owner = done};
	assert_int_equal(tr_http_start(fix->http, call), TR_OK);
}

static void
hands_on_a_whole_request(void **state)
{
	struct fixture fix;
	struct tr_http_call call;
	int done;

	set_up(&fix);
	for (int i = 0; i < 3; i++) {
		post(&fix, &call, TR_STR("{\"a\":1}"), &done);
		assert_true(tr_loop_run_until(fix.loop, is_one, &done, 120 * TR_NS_PER_S));
		assert_int_equal(call.err, TR_OK);
		assert_int_equal(call.status, 201);
		assert_int_equal(call.content.len, 4);
		assert_true(
			tr_str_eq(tr_http_header((struct tr_str){call.head.data, call.head.len}, "x-a"), TR_STR("1")));
		tr_http_call_fini(&call);
	}
	assert_string_equal(fix.seen, "POST /api/x y application/json 7 127.0.0.1 127.0.0.1");
	assert_int_equal(strncmp(fix.query.data, "a=1&2;b=;", 9), 0);
	tear_down(&fix);
}

static bool
is_waiting(void *arg)
{
	return ((struct fixture *)arg)->waiting != NULL;
}

static void
answers_later(void **state)
{
	struct fixture fix;
	struct tr_http_call call;
	int done;

	set_up(&fix);
	fix.later = true;
	post(&fix, &call, TR_STR("x"), &done);
	assert_true(tr_loop_run_until(fix.loop, is_waiting, &fix, 120 * TR_NS_PER_S));
	for (int i = 0; i < 20; i++)
		tr_loop_turn(fix.loop);
	assert_int_equal(done, 0);
	assert_int_equal(tr_http_server_busy(fix.server), 1);
	tr_http_request_answer(fix.waiting, 200, NULL, NULL, NULL, TR_STR("late"));
	assert_true(tr_loop_run_until(fix.loop, is_one, &done, 120 * TR_NS_PER_S));
	assert_int_equal(call.status, 200);
	assert_int_equal(tr_http_server_busy(fix.server), 0);
	tr_http_call_fini(&call);
	tear_down(&fix);
}

static void
refuses_a_large_body(void **state)
{
	struct fixture fix;
	struct tr_http_call call;
	char body[1001];
	int done;

	memset(body, 'x', sizeof body);
	set_up(&fix);
	post(&fix, &call, (struct tr_str){body, 1001}, &done);
	assert_true(tr_loop_run_until(fix.loop, is_one, &done, 120 * TR_NS_PER_S));
	assert_int_equal(call.status, 413);
	assert_int_equal(fix.handled, 0);
	tr_http_call_fini(&call);
	post(&fix, &call, (struct tr_str){body, 1000}, &done);
	assert_true(tr_loop_run_until(fix.loop, is_one, &done, 120 * TR_NS_PER_S));
	assert_int_equal(call.status, 201);
	tr_http_call_fini(&call);
	tear_down(&fix);
}

static void
outlives_a_client_that_goes(void **state)
{
	struct fixture fix;
	struct tr_http_call call;
	int done;

	set_up(&fix);
	fix.later = true;
	post(&fix, &call, TR_STR("x"), &done);
	assert_true(tr_loop_run_until(fix.loop, is_waiting, &fix, 120 * TR_NS_PER_S));
	tr_http_cancel(&call);
	for (int i = 0; i < 20; i++)
		tr_loop_turn(fix.loop);
	tr_http_request_answer(fix.waiting, 200, NULL, NULL, NULL, TR_STR("late"));
	for (int i = 0; i < 20; i++)
		tr_loop_turn(fix.loop);
	tr_http_call_fini(&call);
	tear_down(&fix);
}

static void
can_be_freed_with_an_open_request(void **state)
{
	struct fixture fix;
	struct tr_http_call call;
	int done;

	set_up(&fix);
	fix.later = true;
	post(&fix, &call, TR_STR("x"), &done);
	assert_true(tr_loop_run_until(fix.loop, is_waiting, &fix, 120 * TR_NS_PER_S));
	tr_http_server_free(fix.server);
	fix.server = NULL;
	tr_http_request_answer(fix.waiting, 200, NULL, NULL, NULL, TR_STR("nobody"));
	assert_true(tr_loop_run_until(fix.loop, is_one, &done, 120 * TR_NS_PER_S));
	assert_int_equal(call.err, TR_ECLOSED);
	tr_http_call_fini(&call);
	tear_down(&fix);
}

static void
stop_takes_no_new_connection(void **state)
{
	struct fixture fix;
	struct tr_http_call call;
	int done;

	set_up(&fix);
	tr_http_server_stop(fix.server);
	post(&fix, &call, TR_STR("x"), &done);
	assert_true(tr_loop_run_until(fix.loop, is_one, &done, 120 * TR_NS_PER_S));
	assert_int_equal(call.err, TR_EREFUSED);
	tr_http_call_fini(&call);
	tear_down(&fix);
}

static void
refuses_bad_addresses(void **state)
{
	static const char *const bad[] = {"", "127.0.0.1", "localhost:1", "127.0.0.1:x", ":80", "127.0.0.1:70000"};
	struct tr_http_server *server;
	struct tr_loop *loop;
	char *error;

	assert_int_equal(tr_loop_new(&loop), TR_OK);
	for (size_t i = 0; i < TR_COUNT(bad); i++) {
		struct tr_http_server_config config = {
			.loop = loop, .listen = bad[i], .body_limit = 1, .handle = handle};

		assert_int_equal(tr_http_server_new(&config, &server, &error), TR_EINVAL);
		assert_null(server);
	}
	tr_loop_free(loop);
}

static void
names_a_taken_port(void **state)
{
	struct tr_http_server_config config = {.body_limit = 1, .handle = handle};
	struct tr_http_server *second;
	struct fixture fix;
	char *error = NULL;

	set_up(&fix);
	config.loop = fix.loop;
	config.listen = tr_http_server_address(fix.server);
	assert_int_equal(tr_http_server_new(&config, &second, &error), TR_EIO);
	assert_null(second);
	assert_non_null(strstr(error, "Address already in use"));
	assert_non_null(strstr(error, config.listen));
	free(error);
	tear_down(&fix);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hands_on_a_whole_request),
		cmocka_unit_test(answers_later),
		cmocka_unit_test(refuses_a_large_body),
		cmocka_unit_test(outlives_a_client_that_goes),
		cmocka_unit_test(can_be_freed_with_an_open_request),
		cmocka_unit_test(stop_takes_no_new_connection),
		cmocka_unit_test(refuses_bad_addresses),
		cmocka_unit_test(names_a_taken_port),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
