/* kumo.http's mechanism against a scripted server, on both ways of carrying a request: what must not differ. */
#include "http_peer.h"

/* --- good answers ------------------------------------------------------------------------------------- */

static void
posts_over_one_connection(void **state)
{
	static const struct script scripts[] = {{"RWRWRWH", {OK_2, OK_2, OK_2}}};
	struct fixture fix;
	struct tr_http_call call;

	set_up(&fix, scripts, 1, &plain);
	for (int i = 0; i < 3; i++) {
		run(&fix, &call, TR_HTTP_POST, fix.url, "hello");
		assert_int_equal(call.err, TR_OK);
		assert_int_equal(call.status, 200);
		assert_text(&call.content, "ok");
		tr_http_call_fini(&call);
	}
	assert_int_equal(fix.server.connections, 1);
	assert_non_null(strstr(fix.server.seen[2], "POST /in HTTP/1.1\r\n"));
	assert_non_null(strstr(fix.server.seen[2], "\r\n\r\nhello"));
	assert_non_null(strstr(fix.server.seen[2], "\r\nAccept: */*\r\n"));
	assert_null(strcasestr(fix.server.seen[2], "expect:"));
	assert_null(strcasestr(fix.server.seen[2], "content-type:"));
	assert_null(strcasestr(fix.server.seen[2], "user-agent:"));
	tear_down(&fix);
}

static void
sends_no_expect_for_a_large_body(void **state)
{
	static const struct script scripts[] = {{"RWH", {OK_2}}};
	struct fixture fix;
	struct tr_http_call call;
	char *body = malloc(3000001);

	memset(body, 'x', 3000000);
	body[3000000] = '\0';
	set_up(&fix, scripts, 1, &plain);
	run(&fix, &call, TR_HTTP_POST, fix.url, body);
	assert_int_equal(call.status, 200);
	assert_null(strcasestr(fix.server.seen[0], "expect:"));
	tr_http_call_fini(&call);
	tear_down(&fix);
	free(body);
}

static void
reads_chunks_and_headers(void **state)
{
	static const struct script scripts[] = {
		{"RWWH", {"HTTP/1.1 100 Continue\r\nX-Early: 1\r\n\r\nHTTP/1.1 503 busy\r\nRetry-After:  7 "
			  "\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
				 "2\r\nde\r\n0\r\n\r\n"}}};
	struct fixture fix;
	struct tr_http_call call;
	struct tr_str head;

	set_up(&fix, scripts, 1, &plain);
	run(&fix, &call, TR_HTTP_GET, fix.url, "");
	assert_int_equal(call.status, 503);
	assert_text(&call.content, "abcde");
	head = (struct tr_str){call.head.data, call.head.len};
	assert_true(tr_str_eq(tr_http_header(head, "retry-after"), TR_STR("7")));
	assert_null(tr_http_header(head, "x-early").data);
	tr_http_call_fini(&call);
	tear_down(&fix);
}

static void
opens_anew_after_connection_close(void **state)
{
	static const struct script scripts[] = {
		{"RWC", {"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"}}, {"RWH", {OK_2}}};
	struct fixture fix;
	struct tr_http_call call;

	set_up(&fix, scripts, 2, &plain);
	for (int i = 0; i < 2; i++) {
		run(&fix, &call, TR_HTTP_POST, fix.url, "x");
		assert_int_equal(call.status, 200);
		tr_http_call_fini(&call);
	}
	assert_int_equal(fix.server.connections, 2);
	tear_down(&fix);
}

static void
sends_headers_as_given(void **state)
{
	static const struct script scripts[] = {{"RWH", {OK_2}}};
	static const struct tr_str headers[] = {{"X-A", 3}, {"1", 1}, {"X-A", 3}, {"2", 1}, {"X-Empty", 7}, {"", 0},
		{"Content-Type", 12}, {"application/json", 16}};
	struct tr_http_settings settings = plain;
	struct fixture fix;
	struct tr_http_call call = {0};
	int done = 0;

	settings.user_agent = "unit/1";
	set_up(&fix, scripts, 1, &settings);
	call = (struct tr_http_call){.client = fix.client,
		.method = TR_HTTP_PUT,
		.url = fix.url,
		.headers = headers,
		.header_count = 4,
		.body = TR_STR("{}"),
		.done = call_done,
		.owner = &done};
	assert_int_equal(tr_http_start(fix.http, &call), TR_OK);
	assert_true(tr_loop_run_until(fix.loop, is_one, &done, LIMIT_NS));
	assert_int_equal(call.status, 200);
	assert_non_null(strstr(fix.server.seen[0], "PUT /in HTTP/1.1\r\n"));
	assert_non_null(
		strstr(fix.server.seen[0], "\r\nX-A: 1\r\nX-A: 2\r\nX-Empty:\r\nContent-Type: application/json\r\n"));
	assert_non_null(strstr(fix.server.seen[0], "\r\nUser-Agent: unit/1\r\n"));
	tr_http_call_fini(&call);
	tear_down(&fix);
}

/* --- bad answers ---------------------------------------------------------------------------------------- */

struct bad_case {
	const char *name;
	struct script script;
	int err;
	const char *cause;
};

static const struct bad_case bad_cases[] = {
	{"reset after the body", {"RX", {NULL}}, TR_ECLOSED, ""},
	{"closed without an answer", {"RC", {NULL}}, TR_ECLOSED, "Empty reply"},
	{"half a status line", {"RWC", {"HTTP/1.1 20"}}, 0, ""},
	{"half a body", {"RWC", {"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"}}, TR_ECLOSED,
		"6 bytes remaining"},
	{"half a chunk", {"RWC", {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf"}}, TR_ECLOSED, ""},
	{"garbage", {"RWC", {"\x01\x02 this is no HTTP\r\n\r\n"}}, TR_EPROTO, ""},
	{"bad chunk size", {"RWC", {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"}}, 0, "hexadecimal"},
	{"body above the bound", {"RWH", {"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\nx"}}, TR_ETOOBIG, ""},
};

static void
names_bad_answers(void **state)
{
	for (size_t i = 0; i < TR_COUNT(bad_cases); i++) {
		struct fixture fix;
		struct tr_http_call call;

		set_up(&fix, &bad_cases[i].script, 1, &plain);
		run(&fix, &call, TR_HTTP_POST, fix.url, "x");
		print_message("%s: %s: %.*s\n", bad_cases[i].name, tr_err_name(call.err), (int)call.error.len,
			call.error.data);
		if (bad_cases[i].err != 0)
			assert_int_equal(call.err, bad_cases[i].err);
		assert_int_not_equal(call.err, TR_OK);
		assert_int_equal(call.status, 0);
		assert_has(&call.error, bad_cases[i].cause);
		tr_http_call_fini(&call);
		tear_down(&fix);
	}
}

static void
bounds_a_chunked_body(void **state)
{
	static const struct script scripts[] = {
		{"RWH", {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n0123456789a\r\n"}}};
	struct tr_http_settings settings = plain;
	struct fixture fix;
	struct tr_http_call call;

	settings.max_response_bytes = 10;
	set_up(&fix, scripts, 1, &settings);
	run(&fix, &call, TR_HTTP_GET, fix.url, "");
	assert_int_equal(call.err, TR_ETOOBIG);
	assert_has(&call.error, "max_response_bytes");
	tr_http_call_fini(&call);
	tear_down(&fix);
}

static void
keeps_the_beginning_of_a_long_body_if_told(void **state)
{
	static const struct script scripts[] = {
		{"RWH", {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n0123456789a\r\n"}},
		{"RWH", {"HTTP/1.1 503 Busy\r\nContent-Length: 9999999\r\n\r\n0123456789abc"}},
	};
	static const int status[] = {200, 503};
	struct tr_http_settings settings = plain;
	struct fixture fix;
	struct tr_http_call call;

	settings.max_response_bytes = 10;
	settings.truncate_response = true;
	set_up(&fix, scripts, 2, &settings);
	for (size_t i = 0; i < TR_COUNT(status); i++) { /* each on a connection of its own: the rest is not read */
		run(&fix, &call, TR_HTTP_GET, fix.url, "");
		assert_int_equal(call.err, TR_OK);
		assert_int_equal(call.status, status[i]);
		assert_int_equal(call.content.len, 10);
		assert_memory_equal(call.content.data, "0123456789", 10);
		tr_http_call_fini(&call);
	}
	tear_down(&fix);
}

static void
refuses_a_huge_header(void **state)
{
	static char text[400000];
	static const struct script scripts[] = {{"RWH", {text}}};
	struct fixture fix;
	struct tr_http_call call;
	size_t at = (size_t)sprintf(text, "HTTP/1.1 200 OK\r\n");

	while (at < sizeof text - 200)
		at += (size_t)sprintf(text + at, "X-Long: %0100d\r\n", 7);
	strcpy(text + at, "\r\n");
	set_up(&fix, scripts, 1, &plain);
	run(&fix, &call, TR_HTTP_GET, fix.url, "");
	assert_int_not_equal(call.err, TR_OK);
	assert_has(&call.error, "too large");
	tr_http_call_fini(&call);
	tear_down(&fix);
}

static void
names_a_refused_connection(void **state)
{
	struct fixture fix;
	struct tr_http_call call;

	set_up(&fix, NULL, 0, &plain);
	shutdown(fix.server.fd, SHUT_RDWR); /* the port is ours, and nobody listens */
	run(&fix, &call, TR_HTTP_POST, fix.url, "x");
	assert_int_equal(call.err, TR_EREFUSED);
	assert_has(&call.error, "Connection refused");
	tr_http_call_fini(&call);
	tear_down(&fix);
}

static void
refuses_bad_urls(void **state)
{
	static const char *const urls[] = {"", "http://", "nonsense", "file:///etc/passwd", "http://a b/", "ftp://h/"};
	struct fixture fix;
	struct tr_http_call call;

	set_up(&fix, NULL, 0, &plain);
	for (size_t i = 0; i < TR_COUNT(urls); i++) {
		if (strcmp(urls[i], "nonsense") == 0) /* a host name to curl */
			continue;
		run(&fix, &call, TR_HTTP_GET, urls[i], "");
		assert_int_equal(call.err, TR_EINVAL);
		assert_true(call.building);
		tr_http_call_fini(&call);
	}
	tear_down(&fix);
}

static void
never_sends_a_post_twice(void **state)
{
	/* The second request arrives whole on the reused connection, which then ends without an answer. */
	static const struct script scripts[] = {{"RWRC", {OK_2}}, {"RWH", {OK_2}}};
	struct fixture fix;
	struct tr_http_call call;

	set_up(&fix, scripts, 2, &plain);
	run(&fix, &call, TR_HTTP_POST, fix.url, "first");
	assert_int_equal(call.status, 200);
	tr_http_call_fini(&call);
	run(&fix, &call, TR_HTTP_POST, fix.url, "second");
	assert_int_equal(call.err, TR_ECLOSED);
	assert_has(&call.error, "after the request was sent");
	tr_http_call_fini(&call);
	assert_int_equal(fix.server.requests, 2);
	tear_down(&fix);
}

static void
repeats_a_get(void **state)
{
	static const struct script scripts[] = {{"RWRC", {OK_2}}, {"RWH", {OK_2}}};
	struct fixture fix;
	struct tr_http_call call;

	set_up(&fix, scripts, 2, &plain);
	for (int i = 0; i < 2; i++) {
		run(&fix, &call, TR_HTTP_GET, fix.url, "");
		assert_int_equal(call.status, 200);
		tr_http_call_fini(&call);
	}
	assert_int_equal(fix.server.requests, 3);
	tear_down(&fix);
}

static void
uses_a_fresh_connection_when_the_idle_one_was_closed(void **state)
{
	static const struct script scripts[] = {{"RWC", {OK_2}}, {"RWH", {OK_2}}};
	struct fixture fix;
	struct tr_http_call call;

	set_up(&fix, scripts, 2, &plain);
	run(&fix, &call, TR_HTTP_POST, fix.url, "x");
	assert_int_equal(call.err, TR_OK);
	tr_http_call_fini(&call);
	while (atomic_load(&fix.server.closed) == 0)
		tr_loop_turn(fix.loop);
	tr_loop_turn(fix.loop);
	run(&fix, &call, TR_HTTP_POST, fix.url, "x");
	assert_int_equal(call.err, TR_OK);
	tr_http_call_fini(&call);
	assert_int_equal(fix.server.connections, 2);
	tear_down(&fix);
}

/* --- waiting -------------------------------------------------------------------------------------------- */

static void
ends_at_its_deadline(void **state)
{
	static const struct script scripts[] = {
		{"RH", {NULL}}, {"RWH", {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"}}};
	struct tr_http_settings settings = plain;
	struct fixture fix;
	struct tr_http_call call;

	settings.timeout_ns = 50 * TR_NS_PER_MS;
	set_up(&fix, scripts, 2, &settings);
	for (int i = 0; i < 2; i++) { /* no answer at all; a body that never ends */
		run(&fix, &call, TR_HTTP_POST, fix.url, "x");
		assert_int_equal(call.err, TR_ETIMEDOUT);
		assert_has(&call.error, "timed out after 0.05 s");
		tr_http_call_fini(&call);
	}
	tear_down(&fix);
}

static void
waits_in_the_wheel_under_the_virtual_clock(void **state)
{
	static const struct script scripts[] = {{"RH", {NULL}}};
	struct fixture fix;
	struct tr_http_call call = {0};
	int done = 0;

	tr_clock_virtual(1700000000 * TR_NS_PER_S);
	set_up(&fix, scripts, 1, &plain);
	call = (struct tr_http_call){.client = fix.client,
		.method = TR_HTTP_POST,
		.url = fix.url,
		.body = TR_STR("x"),
		.done = call_done,
		.owner = &done};
	assert_int_equal(tr_http_start(fix.http, &call), TR_OK);
	assert_int_equal(tr_hold_count(), 1);
	while (atomic_load(&fix.server.requests) == 0)
		tr_loop_turn(fix.loop);
	tr_clock_advance(TIMEOUT_NS + TR_NS_PER_MS);
	while (done == 0)
		tr_loop_turn(fix.loop);
	assert_int_equal(call.err, TR_ETIMEDOUT);
	tr_http_call_fini(&call);
	tear_down(&fix);
	tr_clock_real();
}

static void
can_be_cancelled(void **state)
{
	static const struct script scripts[] = {{"RH", {NULL}}};
	struct fixture fix;
	struct tr_http_call call = {0};
	int done = 0;

	set_up(&fix, scripts, 1, &plain);
	call = (struct tr_http_call){.client = fix.client,
		.method = TR_HTTP_POST,
		.url = fix.url,
		.body = TR_STR("x"),
		.done = call_done,
		.owner = &done};
	assert_int_equal(tr_http_start(fix.http, &call), TR_OK);
	while (atomic_load(&fix.server.requests) == 0)
		tr_loop_turn(fix.loop);
	tr_http_cancel(&call);
	tr_http_cancel(&call);
	assert_int_equal(done, 0);
	tr_http_call_fini(&call);
	tear_down(&fix);
}

static void
free_cancels(void **state)
{
	static const struct script scripts[] = {{"RH", {NULL}}};
	struct fixture fix;
	struct tr_http_call call = {0};
	int done = 0;

	set_up(&fix, scripts, 1, &plain);
	call = (struct tr_http_call){
		.client = fix.client, .method = TR_HTTP_GET, .url = fix.url, .done = call_done, .owner = &done};
	assert_int_equal(tr_http_start(fix.http, &call), TR_OK);
	while (atomic_load(&fix.server.requests) == 0)
		tr_loop_turn(fix.loop);
	tr_http_free(fix.http);
	assert_int_equal(done, 0);
	assert_int_equal(tr_hold_count(), 0);
	tr_http_client_unref(fix.client);
	tr_http_call_fini(&call);
	stop_server(&fix.server);
	tr_loop_free(fix.loop);
}

/* --- redirects ------------------------------------------------------------------------------------------ */

static void
follow_one(int status, enum tr_http_method method, const char *expected, const char *body)
{
	char text[200];
	struct script scripts[] = {{"RWRWH", {text, OK_2}}};
	struct fixture fix;
	struct tr_http_call call;

	snprintf(text, sizeof text, "HTTP/1.1 %d x\r\nLocation: /next?a=1\r\nContent-Length: 3\r\n\r\nold", status);
	set_up(&fix, scripts, 1, &plain);
	run(&fix, &call, method, fix.url, "body");
	assert_int_equal(call.status, 200);
	assert_text(&call.content, "ok");
	assert_int_equal(strncmp(fix.server.seen[1], expected, strlen(expected)), 0);
	assert_string_equal(strstr(fix.server.seen[1], "\r\n\r\n") + 4, body);
	tr_http_call_fini(&call);
	tear_down(&fix);
}

static void
follows_redirects(void **state)
{
	follow_one(301, TR_HTTP_POST, "GET /next?a=1 ", "");
	follow_one(302, TR_HTTP_POST, "GET /next?a=1 ", "");
	follow_one(303, TR_HTTP_POST, "GET /next?a=1 ", "");
	follow_one(303, TR_HTTP_PUT, "GET /next?a=1 ", "");
	follow_one(302, TR_HTTP_PUT, "PUT /next?a=1 ", "body");
	follow_one(307, TR_HTTP_POST, "POST /next?a=1 ", "body");
	follow_one(308, TR_HTTP_POST, "POST /next?a=1 ", "body");
}

static void
follows_no_redirect_when_told(void **state)
{
	static const struct script scripts[] = {
		{"RWH", {"HTTP/1.1 307 x\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n"}}};
	struct tr_http_settings settings = plain;
	struct fixture fix;
	struct tr_http_call call;

	settings.redirects = false;
	set_up(&fix, scripts, 1, &settings);
	run(&fix, &call, TR_HTTP_POST, fix.url, "x");
	assert_int_equal(call.status, 307);
	assert_int_equal(fix.server.requests, 1);
	tr_http_call_fini(&call);
	tear_down(&fix);
}

static void
stops_after_ten_redirects(void **state)
{
#define AGAIN "HTTP/1.1 307 x\r\nLocation: /in\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
	struct script scripts[12];
	struct fixture fix;
	struct tr_http_call call;

	for (int i = 0; i < 12; i++)
		scripts[i] = (struct script){"RWC", {AGAIN}};
	set_up(&fix, scripts, 12, &plain);
	run(&fix, &call, TR_HTTP_POST, fix.url, "x");
	assert_int_equal(call.err, TR_EPROTO);
	assert_true(call.redirecting);
	assert_has(&call.error, "too many redirects");
	assert_int_equal(fix.server.requests, 11);
	tr_http_call_fini(&call);
	tear_down(&fix);
}

static void
drops_credentials_on_another_port(void **state)
{
	static const struct script second[] = {{"RWH", {OK_2}}};
	static const struct tr_str headers[] = {{"Authorization", 13}, {"Bearer x", 8}, {"X-Keep", 6}, {"1", 1}};
	char text[200];
	struct script scripts[] = {{"RWH", {text}}};
	struct server other;
	struct fixture fix;
	struct tr_http_call call = {0};
	int done = 0;

	start_server(&other, second, 1);
	snprintf(text, sizeof text, "HTTP/1.1 307 x\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n",
		other.port);
	set_up(&fix, scripts, 1, &plain);
	call = (struct tr_http_call){.client = fix.client,
		.method = TR_HTTP_POST,
		.url = fix.url,
		.headers = headers,
		.header_count = 2,
		.body = TR_STR("x"),
		.done = call_done,
		.owner = &done};
	assert_int_equal(tr_http_start(fix.http, &call), TR_OK);
	assert_true(tr_loop_run_until(fix.loop, is_one, &done, LIMIT_NS));
	assert_int_equal(call.status, 200);
	assert_non_null(strstr(fix.server.seen[0], "\r\nAuthorization: Bearer x\r\n"));
	assert_null(strstr(other.seen[0], "Authorization"));
	assert_non_null(strstr(other.seen[0], "\r\nX-Keep: 1\r\n"));
	tr_http_call_fini(&call);
	tear_down(&fix);
	stop_server(&other);
}

/* --- header text ------------------------------------------------------------------------------------------ */

static void
checks_headers(void **state)
{
	assert_true(tr_http_header_ok(TR_STR("X-A"), TR_STR("any \xC3\xA4 text\t")));
	assert_true(tr_http_header_ok(TR_STR("X-A"), TR_STR("")));
	assert_false(tr_http_header_ok(TR_STR(""), TR_STR("v")));
	assert_false(tr_http_header_ok(TR_STR("X A"), TR_STR("v")));
	assert_false(tr_http_header_ok(TR_STR("X:"), TR_STR("v")));
	assert_false(tr_http_header_ok(TR_STR("X"), TR_STR("a\r\nB: c")));
	assert_false(tr_http_header_ok(TR_STR("X"), TR_STR("a\0b")));
	assert_string_equal(tr_http_reason(503), "Service Unavailable");
	assert_null(tr_http_reason(299));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(posts_over_one_connection),
		cmocka_unit_test(sends_no_expect_for_a_large_body),
		cmocka_unit_test(reads_chunks_and_headers),
		cmocka_unit_test(opens_anew_after_connection_close),
		cmocka_unit_test(sends_headers_as_given),
		cmocka_unit_test(names_bad_answers),
		cmocka_unit_test(bounds_a_chunked_body),
		cmocka_unit_test(keeps_the_beginning_of_a_long_body_if_told),
		cmocka_unit_test(refuses_a_huge_header),
		cmocka_unit_test(names_a_refused_connection),
		cmocka_unit_test(refuses_bad_urls),
		cmocka_unit_test(never_sends_a_post_twice),
		cmocka_unit_test(repeats_a_get),
		cmocka_unit_test(uses_a_fresh_connection_when_the_idle_one_was_closed),
		cmocka_unit_test(ends_at_its_deadline),
		cmocka_unit_test(waits_in_the_wheel_under_the_virtual_clock),
		cmocka_unit_test(can_be_cancelled),
		cmocka_unit_test(free_cancels),
		cmocka_unit_test(follows_redirects),
		cmocka_unit_test(follows_no_redirect_when_told),
		cmocka_unit_test(stops_after_ten_redirects),
		cmocka_unit_test(drops_credentials_on_another_port),
		cmocka_unit_test(checks_headers),
	};

	int failed;

	signal(SIGPIPE, SIG_IGN);
	failed = cmocka_run_group_tests_name("own client", tests, NULL, NULL);
	setenv("TAILRACE_HTTP", "curl", 1);
	return failed + cmocka_run_group_tests_name("libcurl", tests, NULL, NULL);
}
