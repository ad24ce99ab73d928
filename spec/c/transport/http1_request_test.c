/* The client for plain http on loopback: where a request goes, its head, and the trace of it. */
#include "base/diag.h"
#include "http_peer.h"

/* --- places ---------------------------------------------------------------------------------------------- */

static void
finds_a_name(void **state)
{
	static const struct script scripts[] = {{"RWRWH", {OK_2, OK_2}}};
	struct fixture fix;
	char host[64];

	set_up(&fix, scripts, 1, &plain);
	snprintf(fix.url, sizeof fix.url, "http://localhost:%d", fix.server.port);
	snprintf(host, sizeof host, "GET / HTTP/1.1\r\nHost: localhost:%d\r\nAccept: */*\r\n\r\n", fix.server.port);
	expect_ok(&fix, TR_HTTP_GET, fix.url, ""); /* also where ::1, at which nobody listens, comes first */
	expect_ok(&fix, TR_HTTP_GET, fix.url, "");
	assert_int_equal(fix.server.connections, 1);
	assert_string_equal(fix.server.seen[1], host);
	tear_down(&fix);
}

static void
leaves_a_name_that_is_not_found_to_libcurl(void **state)
{
	struct tr_http_call call;
	struct fixture fix;
	char url[128];

	snprintf(url, sizeof url, "http://%0100d/x", 0); /* no label may be so long: the network is not asked */
	memset(url + 7, 'a', 100);
	set_up(&fix, NULL, 0, &plain);
	run(&fix, &call, TR_HTTP_POST, url, "x");
	assert_int_equal(call.err, TR_ENOENT);
	assert_has(&call.error, "resolve host");
	tr_http_call_fini(&call);
	tear_down(&fix);
}

static void
gives_https_to_libcurl(void **state)
{
	char text[200];
	struct script scripts[] = {{"RWH", {text}}, {"rC", {NULL}}};
	struct tr_http_call call;
	struct fixture fix;

	set_up(&fix, scripts, 2, &plain);
	snprintf(text, sizeof text, "HTTP/1.1 307 x\r\nLocation: https://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n",
		fix.server.port);
	run(&fix, &call, TR_HTTP_POST, fix.url, "x"); /* who does not speak TLS at the other end */
	assert_int_not_equal(call.err, TR_OK);
	assert_true(call.redirecting);
	assert_has(&call.error, "SSL");
	assert_int_equal(fix.server.connections, 2);
	tr_http_call_fini(&call);
	tear_down(&fix);
}

static void
gives_headers_with_rules_of_their_own_to_libcurl(void **state)
{
	static const struct script scripts[] = {{"RWH", {OK_2}}};
	static const struct tr_str headers[] = {
		{"Host", 4}, {"virtual.example", 15}, {"Accept", 6}, {"text/plain", 10}};
	struct tr_http_call call = {0};
	struct fixture fix;
	int done = 0;

	set_up(&fix, scripts, 1, &plain);
	call = (struct tr_http_call){.client = fix.client,
		.url = fix.url,
		.headers = headers,
		.header_count = 2,
		.done = call_done,
		.owner = &done};
	assert_int_equal(tr_http_start(fix.http, &call), TR_OK);
	assert_true(tr_loop_run_until(fix.loop, is_one, &done, LIMIT_NS));
	assert_int_equal(call.status, 200);
	assert_string_equal(
		fix.server.seen[0], "GET /in HTTP/1.1\r\nHost: virtual.example\r\nAccept: text/plain\r\n\r\n");
	tr_http_call_fini(&call);
	tear_down(&fix);
}

/* One head for all calls of an id, whatever changes beside it. */
static void
keeps_the_head_of_an_id(void **state)
{
	static const struct script scripts[] = {{"RWRWRWRWRWRWH", {OK_2, OK_2, OK_2, OK_2, OK_2, OK_2}}};
	static const struct tr_str a[] = {{"Content-Type", 12}, {"a/a", 3}}, b[] = {{"Accept", 6}, {"b/b", 3}};
	static const struct {
		enum tr_http_method method;
		const struct tr_str *headers;
		uint64_t id;
		const char *path, *body, *expected;
	} steps[] = {
		{TR_HTTP_POST, a, 1, "/1", "0123456789",
			"POST /1 HTTP/1.1\r\nHost: %s\r\nUser-Agent: me\r\nAccept: */*\r\nContent-Type: a/a\r\n"
			"Content-Length: 10\r\n\r\n0123456789"},
		{TR_HTTP_POST, a, 1, "/1", "",
			"POST /1 HTTP/1.1\r\nHost: %s\r\nUser-Agent: me\r\nAccept: */*\r\nContent-Type: a/a\r\n"
			"Content-Length: 0\r\n\r\n"},
		{TR_HTTP_PUT, a, 1, "/2?x=y", "z",
			"PUT /2?x=y HTTP/1.1\r\nHost: %s\r\nUser-Agent: me\r\nAccept: */*\r\nContent-Type: a/a\r\n"
			"Content-Length: 1\r\n\r\nz"},
		{TR_HTTP_PUT, a, 1, "/3", "z",
			"PUT /3 HTTP/1.1\r\nHost: %s\r\nUser-Agent: me\r\nAccept: */*\r\nContent-Type: a/a\r\n"
			"Content-Length: 1\r\n\r\nz"},
		{TR_HTTP_GET, a, 1, "/3", "z",
			"GET /3 HTTP/1.1\r\nHost: %s\r\nUser-Agent: me\r\nAccept: */*\r\nContent-Type: a/a\r\n\r\n"},
		{TR_HTTP_GET, b, 2, "/3", "z", "GET /3 HTTP/1.1\r\nHost: %s\r\nUser-Agent: me\r\nAccept: b/b\r\n\r\n"},
	};
	struct tr_http_settings settings = plain;
	struct fixture fix;

	settings.user_agent = "me";
	set_up(&fix, scripts, 1, &settings);
	for (size_t i = 0; i < TR_COUNT(steps); i++) {
		struct tr_http_call call = {0};
		char url[100], host[32], expected[400];
		int done = 0;

		snprintf(host, sizeof host, "127.0.0.1:%d", fix.server.port);
		snprintf(url, sizeof url, "http://%s%s", host, steps[i].path);
		snprintf(expected, sizeof expected, steps[i].expected, host);
		call = (struct tr_http_call){.client = fix.client,
			.method = steps[i].method,
			.url = url,
			.headers = steps[i].headers,
			.header_count = 1,
			.headers_id = steps[i].id,
			.body = tr_str(steps[i].body),
			.done = call_done,
			.owner = &done};
		assert_int_equal(tr_http_start(fix.http, &call), TR_OK);
		assert_true(tr_loop_run_until(fix.loop, is_one, &done, LIMIT_NS));
		assert_int_equal(call.status, 200);
		assert_string_equal(fix.server.seen[i], expected);
		tr_http_call_fini(&call);
	}
	assert_int_equal(fix.server.connections, 1);
	tear_down(&fix);
}

/* What a redirect leaves out is there again in the next call of the id. */
static void
a_redirect_changes_no_later_head(void **state)
{
	static const struct script second[] = {{"RWRWH", {OK_2, OK_2}}};
	static const struct tr_str headers[] = {{"Authorization", 13}, {"Bearer x", 8}};
	char text[200];
	struct script scripts[] = {{"RWRWH", {text, text}}};
	struct server other;
	struct fixture fix;

	start_server(&other, second, 1);
	snprintf(text, sizeof text, "HTTP/1.1 307 x\r\nLocation: http://127.0.0.1:%d/in\r\nContent-Length: 0\r\n\r\n",
		other.port);
	set_up(&fix, scripts, 1, &plain);
	for (int i = 0; i < 2; i++) {
		struct tr_http_call call = {0};
		int done = 0;

		call = (struct tr_http_call){.client = fix.client,
			.method = TR_HTTP_POST,
			.url = fix.url,
			.headers = headers,
			.header_count = 1,
			.headers_id = 7,
			.body = TR_STR("x"),
			.done = call_done,
			.owner = &done};
		assert_int_equal(tr_http_start(fix.http, &call), TR_OK);
		assert_true(tr_loop_run_until(fix.loop, is_one, &done, LIMIT_NS));
		assert_int_equal(call.status, 200);
		assert_non_null(strstr(fix.server.seen[i], "\r\nAuthorization: Bearer x\r\n"));
		assert_null(strstr(other.seen[i], "Authorization"));
		tr_http_call_fini(&call);
	}
	tear_down(&fix);
	stop_server(&other);
}

/* --- trace ------------------------------------------------------------------------------------------------ */

static char traced[8192];

static void
keep_trace(void *arg, enum tr_level level, const char *target, const char *text)
{
	size_t len = strlen(traced);

	if (strcmp(target, "http") == 0)
		snprintf(traced + len, sizeof traced - len, "%s\n", text);
}

static void
traces_what_goes_over_the_wire(void **state)
{
	static const struct script scripts[] = {{"RWH", {OK_2}}};
	struct tr_http_settings settings = plain;
	struct fixture fix;

	settings.verbose = true;
	traced[0] = '\0';
	assert_int_equal(tr_log_filter("trace"), TR_OK);
	tr_log_sink(keep_trace, NULL);
	set_up(&fix, scripts, 1, &settings);
	expect_ok(&fix, TR_HTTP_POST, fix.url, "payload");
	tear_down(&fix);
	tr_log_sink(NULL, NULL);
	assert_int_equal(tr_log_filter("info"), TR_OK);
	assert_non_null(strstr(traced, "bytes: POST /in HTTP/1.1..Host: "));
	assert_non_null(strstr(traced, " > body 7 bytes: payload\n"));
	assert_non_null(strstr(traced, " < 40 bytes: HTTP/1.1 200 OK..Content-Length: 2....ok\n"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_a_name),
		cmocka_unit_test(leaves_a_name_that_is_not_found_to_libcurl),
		cmocka_unit_test(gives_https_to_libcurl),
		cmocka_unit_test(gives_headers_with_rules_of_their_own_to_libcurl),
		cmocka_unit_test(keeps_the_head_of_an_id),
		cmocka_unit_test(a_redirect_changes_no_later_head),
		cmocka_unit_test(traces_what_goes_over_the_wire),
	};

	signal(SIGPIPE, SIG_IGN);
	unsetenv("TAILRACE_HTTP");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
