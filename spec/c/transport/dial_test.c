/* Dialling from a source address and by proxies: against a scripted proxy on loopback. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "transport/dial.h"

#define WAIT_NS (120 * TR_NS_PER_S)

/* What the proxy waits for (hex) and answers. */
struct line {
	const char *want, *answer;
};

struct fixture {
	struct tr_loop *loop;
	struct tr_dns *dns;
	struct tr_listener *listener;
	struct tr_stream *accepted;
	char server[64];
	const struct line *lines;
	char from[64]; /* whom the proxy was called by */
	struct tr_dial_config config;
	struct tr_sockaddr to;
	struct tr_dial *dial;
	bool ended;
	struct tr_stream *stream;
	enum tr_dial_trouble trouble;
	char text[256], input[64];
};

static size_t
unhex(const char *hex, unsigned char *out)
{
	size_t len = 0;
	unsigned value;

	for (; hex[0] != '\0'; hex += hex[0] == ' ' ? 1 : 2) {
		if (hex[0] == ' ')
			continue;
		assert_int_equal(sscanf(hex, "%2x", &value), 1);
		out[len++] = (unsigned char)value;
	}
	return len;
}

static void
proxy_data(struct tr_stream *stream, void *arg)
{
	struct fixture *fix = arg;
	struct tr_buf *in = tr_stream_input(stream);
	unsigned char want[256], answer[256];

	while (fix->lines->want != NULL) {
		size_t len = unhex(fix->lines->want, want);

		if (in->len < len)
			return;
		assert_memory_equal(in->data, want, len);
		tr_buf_consume(in, len);
		if (fix->lines->answer == NULL) {
			tr_stream_close(stream, 0);
			fix->accepted = NULL;
			fix->lines++;
			return;
		}
		tr_stream_write(stream, answer, unhex(fix->lines->answer, answer));
		fix->lines++;
	}
	assert_int_equal(in->len, 0);
}

static void
proxy_closed(struct tr_stream *stream, int err, void *arg)
{
	((struct fixture *)arg)->accepted = NULL;
	tr_stream_abort(stream);
}

static void
accepted(void *arg, int fd, const struct tr_sockaddr *peer)
{
	static const struct tr_stream_handlers handlers = {proxy_data, NULL, proxy_closed};
	struct fixture *fix = arg;

	tr_sockaddr_text(peer, false, fix->from);
	fix->accepted = tr_stream_new(fix->loop, fd, &handlers, fix);
	assert_non_null(fix->accepted);
}

static int
set_up(void **state)
{
	struct fixture *fix = calloc(1, sizeof *fix);
	struct tr_sockaddr at;
	int errnum;

	assert_int_equal(tr_loop_new(&fix->loop), TR_OK);
	tr_loop_enter(fix->loop);
	assert_int_equal(tr_dns_new(fix->loop, &fix->dns), TR_OK);
	assert_int_equal(tr_sockaddr_parse(TR_STR("127.0.0.1:0"), 0, &at), TR_OK);
	assert_int_equal(tr_listener_new(fix->loop, &at, accepted, fix, &fix->listener, &errnum), TR_OK);
	tr_sockaddr_text(tr_listener_local(fix->listener), true, fix->server);
	fix->config = (struct tr_dial_config){.server = fix->server, .timeout_ns = 60 * TR_NS_PER_S};
	assert_int_equal(tr_dial_address("192.0.2.9", &fix->config.proxy_source), TR_OK);
	assert_int_equal(tr_sockaddr_parse(TR_STR("198.51.100.7:25"), 0, &fix->to), TR_OK);
	*state = fix;
	return 0;
}

static int
tear_down(void **state)
{
	struct fixture *fix = *state;

	tr_dial_cancel(fix->dial);
	if (fix->stream != NULL)
		tr_stream_abort(fix->stream);
	if (fix->accepted != NULL)
		tr_stream_abort(fix->accepted);
	tr_listener_free(fix->listener);
	tr_loop_turn(fix->loop);
	tr_dns_free(fix->dns);
	tr_loop_enter(NULL);
	tr_loop_free(fix->loop);
	free(fix);
	return 0;
}

static void
peer_data(struct tr_stream *stream, void *arg)
{
	struct fixture *fix = arg;
	struct tr_buf *in = tr_stream_input(stream);

	snprintf(fix->input, sizeof fix->input, "%.*s", (int)in->len, in->data);
}

static void
peer_closed(struct tr_stream *stream, int err, void *arg)
{
}

static void
dialled(void *arg, const struct tr_dial_result *result)
{
	static const struct tr_stream_handlers handlers = {peer_data, NULL, peer_closed};
	struct fixture *fix = arg;

	fix->dial = NULL;
	fix->ended = true;
	fix->stream = result->stream;
	fix->trouble = result->trouble;
	snprintf(fix->text, sizeof fix->text, "%s", result->text);
	if (result->stream == NULL)
		return;
	tr_stream_set_handlers(result->stream, &handlers, fix);
	if (tr_stream_input(result->stream)->len > 0) {
		tr_stream_pause(result->stream);
		tr_stream_resume(result->stream);
	}
}

static bool
has_ended(void *arg)
{
	struct fixture *fix = arg;

	return fix->ended && (fix->stream == NULL || fix->lines == NULL || fix->lines->want == NULL);
}

static bool
has_input(void *arg)
{
	return ((struct fixture *)arg)->input[0] != '\0';
}

static void
dial(struct fixture *fix, enum tr_proxy_kind kind, const struct line *lines)
{
	fix->config.kind = kind;
	fix->lines = lines;
	fix->dial = tr_dial_start(fix->loop, fix->dns, &fix->config, &fix->to, dialled, fix);
	assert_non_null(fix->dial);
	assert_false(fix->ended);
	assert_true(tr_loop_run_until(fix->loop, has_ended, fix, WAIT_NS));
}

static void
a_source_address_is_bound(void **state)
{
	struct fixture *fix = *state;

	fix->to = *tr_listener_local(fix->listener);
	assert_int_equal(tr_dial_address("127.0.0.3", &fix->config.source), TR_OK);
	dial(fix, TR_PROXY_NONE, NULL);
	assert_non_null(fix->stream);
	while (fix->from[0] == '\0')
		tr_loop_turn(fix->loop);
	assert_string_equal(fix->from, "127.0.0.3");
}

static void
an_address_of_another_machine_is_told(void **state)
{
	struct fixture *fix = *state;

	fix->to = *tr_listener_local(fix->listener);
	assert_int_equal(tr_dial_address("192.0.2.77", &fix->config.source), TR_OK);
	dial(fix, TR_PROXY_NONE, NULL);
	assert_null(fix->stream);
	assert_int_equal(fix->trouble, TR_DIAL_UNPLUMBED);
	assert_string_equal(fix->text, "the source address cannot be used: 192.0.2.77");
}

static void
families_must_agree(void **state)
{
	struct fixture *fix = *state;

	assert_int_equal(tr_dial_address("::1", &fix->config.source), TR_OK);
	dial(fix, TR_PROXY_NONE, NULL);
	assert_int_equal(fix->trouble, TR_DIAL_TARGET);
	assert_string_equal(fix->text, "the source address is of the other address family");
	fix->ended = false;
	fix->config.source.len = 0;
	assert_int_equal(tr_dial_address("::1", &fix->config.proxy_source), TR_OK);
	dial(fix, TR_PROXY_SOCKS5, NULL);
	assert_int_equal(fix->trouble, TR_DIAL_TARGET);
	assert_string_equal(fix->text, "the proxy's source address is of the other address family");
}

static void
haproxy_gets_its_header(void **state)
{
	/* signature, version 2 PROXY, TCP over IPv4, 12 bytes: from, to, ports */
	static const struct line lines[] = {
		{"0d0a0d0a000d0a515549540a 21 11 000c c0000209 c6336407 0000 0019", "3232300d0a"}, {NULL, NULL}};
	struct fixture *fix = *state;

	dial(fix, TR_PROXY_HAPROXY, lines);
	assert_non_null(fix->stream);
	assert_true(tr_loop_run_until(fix->loop, has_input, fix, WAIT_NS));
	assert_string_equal(fix->input, "220\r\n");
}

static void
haproxy_takes_ipv6(void **state)
{
	static const struct line lines[] = {{"0d0a0d0a000d0a515549540a 21 21 0024 20010db8000000000000000000000001 "
					     "20010db8000000000000000000000002 0000 0019",
						    ""},
		{NULL, NULL}};
	struct fixture *fix = *state;

	assert_int_equal(tr_dial_address("2001:db8::1", &fix->config.proxy_source), TR_OK);
	assert_int_equal(tr_sockaddr_parse(TR_STR("[2001:db8::2]:25"), 0, &fix->to), TR_OK);
	dial(fix, TR_PROXY_HAPROXY, lines);
	assert_non_null(fix->stream);
}

static void
socks5_binds_and_connects(void **state)
{
	static const struct line lines[] = {
		{"05 01 00", "05 00"},
		{"05 02 00 01 c0000209 0000", "05 00 00 01 c0000209 1234"},
		{"05 01 00 01 c6336407 0019", "05 00 00 03 04 74657374 0019 3232300d0a"}, /* and the banner with it */
		{NULL, NULL},
	};
	struct fixture *fix = *state;

	dial(fix, TR_PROXY_SOCKS5, lines);
	assert_non_null(fix->stream);
	assert_true(tr_loop_run_until(fix->loop, has_input, fix, WAIT_NS));
	assert_string_equal(fix->input, "220\r\n");
}

static void
socks5_gives_user_and_password(void **state)
{
	static const struct line lines[] = {
		{"05 02 00 02", "05 02"},
		{"01 02 6d65 03 707773", "01 00"},
		{"05 02 00 01 c0000209 0000", "05 00 00 01 c0000209 1234"},
		{"05 01 00 01 c6336407 0019", "05 00 00 01 c0000209 1234"},
		{NULL, NULL},
	};
	struct fixture *fix = *state;

	fix->config.username = "me";
	fix->config.password = "pws";
	dial(fix, TR_PROXY_SOCKS5, lines);
	assert_non_null(fix->stream);
}

static void
refusals_have_their_culprit(void **state)
{
	static const struct {
		struct line lines[4];
		enum tr_dial_trouble trouble;
		const char *text;
	} cases[] = {
		{{{"05 01 00", "05 ff"}}, TR_DIAL_PROXY, "it takes no method of ours"},
		{{{"05 01 00", "05 02"}}, TR_DIAL_PROXY, "it takes no method of ours"},
		{{{"05 01 00", NULL}}, TR_DIAL_PROXY, "it closed the connection"},
		{{{"05 01 00", "05 00"}, {"05 02 00 01 c0000209 0000", "05 02 00 01 00000000 0000"}}, TR_DIAL_PROXY,
			"binding the source address: not allowed by its rules"},
		{{{"05 01 00", "05 00"}, {"05 02 00 01 c0000209 0000", "48 54 54 50 2f 31"}}, TR_DIAL_PROXY,
			"its answer makes no sense"},
		{{{"05 01 00", "05 00"}, {"05 02 00 01 c0000209 0000", "05 00 00 01 c0000209 1234"},
			 {"05 01 00 01 c6336407 0019", "05 05 00 01 00000000 0000"}},
			TR_DIAL_TARGET, "connection refused, says the proxy"},
		{{{"05 01 00", "05 00"}, {"05 02 00 01 c0000209 0000", "05 00 00 01 c0000209 1234"},
			 {"05 01 00 01 c6336407 0019", "05 01 00 01 00000000 0000"}},
			TR_DIAL_PROXY, "connecting: general failure"},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct fixture *fix;
		void *own = NULL;

		set_up(&own);
		fix = own;
		dial(fix, TR_PROXY_SOCKS5, cases[i].lines);
		assert_null(fix->stream);
		assert_int_equal(fix->trouble, cases[i].trouble);
		if (strstr(fix->text, cases[i].text) == NULL)
			fail_msg("case %zu: %s", i, fix->text);
		assert_int_equal(strncmp(fix->text, "proxy 127.0.0.1:", 16) == 0, fix->trouble == TR_DIAL_PROXY);
		tear_down(&own);
	}
}

static void
a_proxy_that_is_not_there_is_told(void **state)
{
	struct fixture *fix = *state;

	fix->config.server = "127.0.0.1:1";
	dial(fix, TR_PROXY_HAPROXY, NULL);
	assert_int_equal(fix->trouble, TR_DIAL_PROXY);
	assert_string_equal(fix->text, "proxy 127.0.0.1:1: connection refused");
}

static void
a_silent_proxy_is_not_waited_for_without_end(void **state)
{
	static const struct line lines[] = {{"05 01 00 ff", ""}, {NULL, NULL}}; /* one byte more than comes */
	struct fixture *fix = *state;

	fix->config.timeout_ns = 50 * TR_NS_PER_MS;
	dial(fix, TR_PROXY_SOCKS5, lines);
	assert_int_equal(fix->trouble, TR_DIAL_PROXY);
	assert_non_null(strstr(fix->text, "no answer in time"));
}

static void
cancelled_at_any_step_it_leaves_nothing(void **state)
{
	static const struct line lines[] = {{"05 01 00", "05 00"},
		{"05 02 00 01 c0000209 0000", "05 00 00 01 c0000209 1234"},
		{"05 01 00 01 c6336407 0019 ff", ""}, /* one byte more than comes */
		{NULL, NULL}};

	for (int turns = 0; turns < 8; turns++) {
		struct fixture *fix;
		void *own = NULL;

		set_up(&own);
		fix = own;
		fix->config.kind = TR_PROXY_SOCKS5;
		fix->lines = lines;
		fix->dial = tr_dial_start(fix->loop, fix->dns, &fix->config, &fix->to, dialled, fix);
		for (int i = 0; i < turns; i++)
			tr_loop_turn(fix->loop);
		assert_false(fix->ended);
		tear_down(&own);
	}
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(a_source_address_is_bound),
		TEST(an_address_of_another_machine_is_told),
		TEST(families_must_agree),
		TEST(haproxy_gets_its_header),
		TEST(haproxy_takes_ipv6),
		TEST(socks5_binds_and_connects),
		TEST(socks5_gives_user_and_password),
		cmocka_unit_test(refusals_have_their_culprit),
		TEST(a_proxy_that_is_not_there_is_told),
		TEST(a_silent_proxy_is_not_waited_for_without_end),
		cmocka_unit_test(cancelled_at_any_step_it_leaves_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
