/* Addresses that a client's guard does not allow: for both carriers. */
#include "http_peer.h"

#include "base/loop.h"

static struct tr_cidr loopback[2], other[1]; /* 127.0.0.1 and ::1; a block without them */

static struct tr_http_settings
guarded(const struct tr_cidr *allow, uint32_t count)
{
	struct tr_http_settings settings = plain;

	settings.guard = (struct tr_guard){.deny_private = true, .allow = allow, .allow_count = count};
	return settings;
}

static void
expect_denied(struct fixture *fix, const char *url)
{
	struct tr_http_call call;

	run(fix, &call, TR_HTTP_POST, url, "x");
	if (call.err != TR_EACCES)
		fail_msg("%s: %s: %.*s", url, tr_err_name(call.err), (int)call.error.len, call.error.data);
	assert_has(&call.error, "not allowed to connect to ");
	assert_false(call.building);
	tr_http_call_fini(&call);
}

static void
refuses_every_way_to_name_this_machine(void **state)
{
	static const char *const hosts[] = {"127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0.0.0.0",
		"0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "localhost", "LOCALHOST",
		"user:secret@127.0.0.1", "169.254.169.254", "10.0.0.1", "100.64.0.1", "[fe80::1]", "[fd00::1]",
		"[64:ff9b::7f00:1]", "[2002:7f00:1::]"};
	struct tr_http_settings settings = guarded(other, 1);
	struct fixture fix;

	set_up(&fix, NULL, 0, &settings);
	for (size_t i = 0; i < TR_COUNT(hosts); i++) {
		char url[128];

		snprintf(url, sizeof url, "http://%s:%d/in", hosts[i], fix.server.port);
		expect_denied(&fix, url);
		snprintf(url, sizeof url, "https://%s:%d/in", hosts[i], fix.server.port);
		expect_denied(&fix, url);
	}
	assert_int_equal(fix.server.connections, 0);
	tear_down(&fix);
}

static void
allows_what_is_listed(void **state)
{
	static const struct script scripts[] = {{"RWRWH", {OK_2, OK_2}}, {"RWH", {OK_2}}};
	struct tr_http_settings settings = guarded(loopback, 2);
	struct fixture fix;
	char url[64];

	set_up(&fix, scripts, 2, &settings);
	settings.guard.allow = NULL; /* it was copied */
	expect_ok(&fix, TR_HTTP_POST, fix.url, "x");
	expect_ok(&fix, TR_HTTP_POST, fix.url, "x");
	snprintf(url, sizeof url, "http://localhost:%d/in", fix.server.port);
	expect_ok(&fix, TR_HTTP_POST, url, "x");
	assert_int_equal(fix.server.connections, 2);
	tear_down(&fix);
}

static void
looks_at_where_a_redirect_leads(void **state)
{
	static const char *const places[] = {
		"http://127.0.0.2:%d/x", "http://[::ffff:127.0.0.2]:%d/", "https://127.0.0.2:%d/"};

	for (size_t i = 0; i < TR_COUNT(places); i++) {
		struct tr_http_settings settings = guarded(loopback, 2);
		struct script script = {"RWH", {NULL}};
		struct tr_http_call call;
		struct fixture fix;
		char place[64], answer[200];

		set_up(&fix, &script, 1, &settings);
		snprintf(place, sizeof place, places[i], fix.server.port);
		snprintf(answer, sizeof answer, "HTTP/1.1 307 There\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n",
			place);
		script.texts[0] = answer;
		run(&fix, &call, TR_HTTP_POST, fix.url, "x");
		assert_int_equal(call.err, TR_EACCES);
		assert_true(call.redirecting);
		assert_has(&call.error, "127.0.0.2");
		tr_http_call_fini(&call);
		tear_down(&fix);
	}
}

/* Connections are shared by all clients of a worker: one that a client without a guard has opened is none of the
 * other's. */
static void
takes_no_open_connection_of_another_client(void **state)
{
	static const struct script scripts[] = {{"RWH", {OK_2}}, {"RWH", {OK_2}}};
	static const char *const hosts[] = {"127.0.0.1", "localhost"};

	for (size_t i = 0; i < TR_COUNT(hosts); i++) {
		struct tr_http_settings settings = guarded(NULL, 0);
		struct tr_http_client *open;
		struct fixture fix;
		char url[64];

		set_up(&fix, scripts, 1, &plain);
		snprintf(url, sizeof url, "http://%s:%d/in", hosts[i], fix.server.port);
		expect_ok(&fix, TR_HTTP_POST, url, "x");
		open = fix.client;
		assert_int_equal(tr_http_client_new(fix.http, &settings, &fix.client), TR_OK);
		expect_denied(&fix, url);
		assert_int_equal(fix.server.connections, 1);
		assert_int_equal(fix.server.requests, 1);
		tr_http_client_unref(open);
		tear_down(&fix);
	}
}

static void
uses_no_proxy(void **state)
{
	struct tr_http_settings settings = guarded(NULL, 0);
	char proxy[64];
	struct fixture fix, peer;

	set_up(&peer, NULL, 0, &plain);
	snprintf(proxy, sizeof proxy, "http://127.0.0.1:%d", peer.server.port);
	setenv("http_proxy", proxy, 1);
	setenv("https_proxy", proxy, 1);
	set_up(&fix, NULL, 0, &settings);
	expect_denied(&fix, "http://127.0.0.1:1/");
	expect_denied(&fix, "https://127.0.0.1:1/");
	assert_int_equal(peer.server.connections, 0);
	tear_down(&fix);
	unsetenv("http_proxy");
	unsetenv("https_proxy");
	tr_loop_enter(peer.loop);
	tear_down(&peer);
}

static void
knows_addresses_in_urls(void **state)
{
	static const struct {
		const char *url, *address; /* NULL: nothing is wrong with it */
	} cases[] = {{"http://127.0.0.1/", "127.0.0.1"}, {"https://2130706433:8443/x", "127.0.0.1"},
		{"http://u:p@[::1]/", "::1"}, {"http://0x7f.1/", "127.0.0.1"}, {"http://localhost/", NULL},
		{"http://8.8.8.8/", NULL}, {"http://192.0.2.77/", NULL}, {"nonsense", NULL}, {"", NULL}};
	struct tr_http_settings settings = guarded(other, 1);
	struct fixture fix;

	set_up(&fix, NULL, 0, &settings);
	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		char text[64];
		bool denied = tr_http_url_denied(fix.client, cases[i].url, text);

		if (denied != (cases[i].address != NULL))
			fail_msg("%s", cases[i].url);
		if (denied)
			assert_string_equal(text, cases[i].address);
	}
	tear_down(&fix);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refuses_every_way_to_name_this_machine),
		cmocka_unit_test(allows_what_is_listed),
		cmocka_unit_test(looks_at_where_a_redirect_leads),
		cmocka_unit_test(takes_no_open_connection_of_another_client),
		cmocka_unit_test(uses_no_proxy),
		cmocka_unit_test(knows_addresses_in_urls),
	};
	int failed;

	tr_cidr_parse(TR_STR("127.0.0.1"), &loopback[0], NULL);
	tr_cidr_parse(TR_STR("::1"), &loopback[1], NULL);
	tr_cidr_parse(TR_STR("192.0.2.0/24"), &other[0], NULL);
	signal(SIGPIPE, SIG_IGN);
	unsetenv("TAILRACE_HTTP");
	failed = cmocka_run_group_tests_name("own client", tests, NULL, NULL);
	setenv("TAILRACE_HTTP", "curl", 1);
	return failed + cmocka_run_group_tests_name("libcurl", tests, NULL, NULL);
}
