/* A connection that was kept for a minute, and whose peer has gone meanwhile: in order, by a reset, while the next
 * request was on its way, or without a word. What has no answer is told, nothing is sent twice by the client, and what
 * its caller sends again arrives on another connection. */
#include <sched.h>

#include "http_peer.h"

static bool with_curl; /* it has a clock of its own: no minute passes for it */

static struct tr_http_call
posted(struct fixture *fix, const char *body)
{
	struct tr_http_call call;

	run(fix, &call, TR_HTTP_POST, fix->url, body);
	return call;
}

/* libcurl may open a connection more, and finds there that the request is not to be sent again. */
enum { SCRIPTS = 3 };
#define AFTER                \
	{"RWH", {OK_2}},     \
	{                    \
		"RWH",       \
		{            \
			OK_2 \
		}            \
	}

static void
begin(struct fixture *fix, const struct script *scripts, const struct tr_http_settings *settings)
{
	if (!with_curl)
		tr_clock_virtual(1700000000 * TR_NS_PER_S);
	set_up(fix, scripts, SCRIPTS, settings);
	expect_ok(fix, TR_HTTP_POST, fix->url, "first");
}

static void
idle(struct fixture *fix)
{
	if (!with_curl)
		tr_loop_advance(fix->loop, 60 * TR_NS_PER_S);
}

static void
end(struct fixture *fix)
{
	assert_true(fix->server.connections == 2 || (with_curl && fix->server.connections == 3));
	tear_down(fix);
	tr_clock_real();
}

static void
gone_before_the_next_request(void **state)
{
	static const char *const ends[] = {"RWwC", "RWwX"};

	for (size_t i = 0; i < TR_COUNT(ends); i++) {
		const struct script scripts[SCRIPTS] = {{ends[i], {OK_2}}, AFTER};
		struct fixture fix;

		begin(&fix, scripts, &plain);
		fix.server.go = true;
		while (fix.server.closed < 1)
			sched_yield();
		idle(&fix);
		expect_ok(&fix, TR_HTTP_POST, fix.url, "second"); /* nothing of it was lost: no failure to tell */
		assert_int_equal(fix.server.requests, 2);
		end(&fix);
	}
}

static void
gone_when_the_next_request_comes(void **state)
{
	static const struct {
		const char *steps;
		int requests; /* that came whole */
	} ends[] = {{"RWRC", 2}, {"RWRX", 2}, {"RWrX", 1}};

	for (size_t i = 0; i < TR_COUNT(ends); i++) {
		const struct script scripts[SCRIPTS] = {{ends[i].steps, {OK_2}}, AFTER};
		struct tr_http_call call;
		struct fixture fix;

		begin(&fix, scripts, &plain);
		idle(&fix);
		call = posted(&fix, "second");
		if (call.err != TR_ECLOSED)
			fail_msg("%s: %s", ends[i].steps, tr_err_name(call.err));
		assert_has(&call.error, "after the request was sent"); /* it may have it */
		tr_http_call_fini(&call);
		assert_int_equal(fix.server.requests, ends[i].requests);
		expect_ok(&fix, TR_HTTP_POST, fix.url, "second");
		assert_int_equal(fix.server.requests, ends[i].requests + 1);
		end(&fix);
	}
}

/* No answer, no end: as behind a firewall that has forgotten the connection. */
static void
silent_when_the_next_request_comes(void **state)
{
	static const struct script scripts[SCRIPTS] = {{"RWRE", {OK_2}}, AFTER};
	struct tr_http_settings hasty = plain;
	struct tr_http_client *patient;
	struct tr_http_call call = {.method = TR_HTTP_POST, .body = TR_STR("second"), .done = call_done};
	struct fixture fix;
	int done = 0;

	if (with_curl)
		hasty.timeout_ns = 300 * TR_NS_PER_MS;
	begin(&fix, scripts, &plain);
	idle(&fix);
	patient = fix.client;
	assert_int_equal(tr_http_client_new(fix.http, &hasty, &fix.client), TR_OK);
	call.client = fix.client;
	call.url = fix.url;
	call.owner = &done;
	assert_int_equal(tr_http_start(fix.http, &call), TR_OK);
	while (fix.server.requests < 2 && done == 0)
		tr_loop_turn(fix.loop);
	if (!with_curl) {
		assert_int_equal(done, 0);
		tr_clock_advance(hasty.timeout_ns + TR_NS_PER_MS);
	}
	while (done == 0)
		tr_loop_turn(fix.loop);
	assert_int_equal(call.err, TR_ETIMEDOUT);
	tr_http_call_fini(&call);
	tr_http_client_unref(fix.client);
	fix.client = patient;
	expect_ok(&fix, TR_HTTP_POST, fix.url, "second"); /* not on that connection */
	end(&fix);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gone_before_the_next_request),
		cmocka_unit_test(gone_when_the_next_request_comes),
		cmocka_unit_test(silent_when_the_next_request_comes),
	};
	int failed;

	signal(SIGPIPE, SIG_IGN);
	unsetenv("TAILRACE_HTTP");
	failed = cmocka_run_group_tests_name("own client", tests, NULL, NULL);
	setenv("TAILRACE_HTTP", "curl", 1);
	with_curl = true;
	return failed + cmocka_run_group_tests_name("libcurl", tests, NULL, NULL);
}
