#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "net/dns.h"
#include "net/scripted.h"

#define LIMIT_NS (10 * TR_NS_PER_S)

static struct tr_loop *loop;
static struct tr_scripted *script;
static struct tr_scripted_end accepted_end;
static int accepted_count;

struct end { /* one side of a connection, as its owner sees it */
	struct tr_stream *stream;
	char got[64];
	size_t len;
	int connected, err, errnum, closed, closed_err;
};

static void
on_data(struct tr_stream *stream, void *arg)
{
	struct end *end = arg;
	struct tr_buf *in = tr_stream_input(stream);

	memcpy(end->got + end->len, in->data, in->len);
	end->len += in->len;
	tr_buf_consume(in, in->len);
}

static void
on_closed(struct tr_stream *stream, int err, void *arg)
{
	struct end *end = arg;

	end->closed++;
	end->closed_err = err;
}

static const struct tr_stream_handlers handlers = {on_data, NULL, on_closed};

static void
on_accepted(void *arg, const struct tr_scripted_end *end)
{
	accepted_end = *end;
	accepted_count++;
}

static void
on_connected(void *arg, struct tr_stream *stream, int err, int errnum)
{
	struct end *end = arg;

	end->connected++;
	end->stream = stream;
	end->err = err;
	end->errnum = errnum;
	if (stream != NULL)
		tr_stream_set_handlers(stream, &handlers, end);
}

static int
setup(void **state)
{
	tr_clock_virtual(INT64_C(1795630930) * TR_NS_PER_S);
	accepted_count = 0;
	memset(&accepted_end, 0, sizeof accepted_end);
	if (tr_loop_new(&loop) != TR_OK)
		return -1;
	tr_loop_enter(loop);
	return tr_scripted_new(loop, on_accepted, NULL, &script);
}

static int
teardown(void **state)
{
	tr_scripted_free(script);
	for (int i = 0; i < 3; i++)
		tr_loop_turn(loop);
	tr_loop_free(loop);
	tr_clock_real();
	return tr_hold_count();
}

static struct tr_sockaddr
at(const char *text)
{
	struct tr_sockaddr addr;

	assert_int_equal(tr_sockaddr_parse(tr_str(text), 0, &addr), TR_OK);
	return addr;
}

static void
place(const char *text, enum tr_scripted_kind kind)
{
	struct tr_sockaddr addr = at(text);

	assert_int_equal(tr_scripted_set(script, &addr, kind), TR_OK);
}

/* Connects, with a time-out of 30 s, and lets `seconds` pass. */
static void
connect_to(const char *text, struct end *end, int64_t seconds)
{
	struct tr_sockaddr addr = at(text);

	memset(end, 0, sizeof *end);
	assert_non_null(tr_stream_connect(loop, &addr, NULL, 30 * TR_NS_PER_S, on_connected, end));
	tr_loop_advance(loop, seconds * TR_NS_PER_S);
}

static void
bytes_go_both_ways_and_hold_no_time(void **state)
{
	struct end client, peer = {0};
	int64_t start_ns = tr_mono_ns();
	char text[64];

	place("10.0.0.1:25", TR_SCRIPTED_OPEN);
	connect_to("10.0.0.1:25", &client, 0);
	assert_int_equal(client.connected, 1);
	assert_int_equal(accepted_count, 1);
	assert_int_equal(tr_hold_count(), 0);
	peer.stream = accepted_end.stream;
	tr_stream_set_handlers(peer.stream, &handlers, &peer);
	tr_stream_write(client.stream, "EHLO", 4);
	tr_stream_write(peer.stream, "220 hello", 9);
	tr_loop_advance(loop, 3600 * TR_NS_PER_S);
	assert_true(tr_mono_ns() == start_ns + 3600 * TR_NS_PER_S);
	assert_memory_equal(peer.got, "EHLO", 4);
	assert_memory_equal(client.got, "220 hello", 9);
	tr_sockaddr_text(tr_stream_peer(client.stream), true, text);
	assert_string_equal(text, "10.0.0.1:25");
	tr_sockaddr_text(tr_stream_peer(peer.stream), true, text);
	assert_string_equal(text, "198.18.255.254:40000");
	tr_stream_close(peer.stream, TR_NS_PER_S);
	tr_loop_advance(loop, 1);
	assert_int_equal(client.closed, 1);
	assert_int_equal(client.closed_err, TR_ECLOSED);
	assert_memory_equal(client.got, "220 hello", 9);
	tr_stream_abort(client.stream);
}

static void
a_reset_is_one(void **state)
{
	struct end client;

	place("10.0.0.1:25", TR_SCRIPTED_OPEN);
	connect_to("10.0.0.1:25", &client, 0);
	tr_stream_write(accepted_end.stream, "half", 4);
	tr_scripted_reset(&accepted_end);
	tr_loop_advance(loop, 1);
	assert_int_equal(client.closed, 1);
	assert_int_equal(client.closed_err, TR_ECLOSED);
	assert_memory_equal(client.got, "half", 4);
	tr_stream_abort(client.stream);
}

static void
what_is_silent_takes_the_time_out(void **state)
{
	struct end client;

	place("10.0.0.1:25", TR_SCRIPTED_SILENT);
	connect_to("10.0.0.1:25", &client, 29);
	assert_int_equal(client.connected, 0);
	tr_loop_advance(loop, 2 * TR_NS_PER_S);
	assert_int_equal(client.connected, 1);
	assert_null(client.stream);
	assert_int_equal(client.err, TR_ETIMEDOUT);
}

static void
what_is_not_scripted_is_refused_and_told_once(void **state)
{
	struct end client;
	char *strays;

	place("10.0.0.2:25", TR_SCRIPTED_REFUSED);
	for (int i = 0; i < 2; i++) {
		connect_to("10.0.0.1:25", &client, 0);
		assert_int_equal(client.err, TR_EREFUSED);
		assert_int_equal(client.errnum, ECONNREFUSED);
	}
	connect_to("10.0.0.2:25", &client, 0);
	assert_int_equal(client.err, TR_EREFUSED);
	strays = tr_scripted_strays(script);
	assert_string_equal(strays, "10.0.0.1:25");
	free(strays);
	assert_null(tr_scripted_strays(script));
	tr_scripted_otherwise(script, TR_SCRIPTED_OPEN);
	connect_to("10.0.0.9:25", &client, 0);
	assert_int_equal(client.err, TR_OK);
	tr_stream_abort(client.stream);
	tr_stream_abort(accepted_end.stream);
}

struct answer {
	int count, err;
	char text[64];
};

static void
answered(void *arg, int err, const struct tr_sockaddr *addrs, size_t count)
{
	struct answer *answer = arg;

	answer->err = err;
	answer->count = (int)count;
	if (count > 0)
		tr_sockaddr_text(&addrs[0], false, answer->text);
}

static void
names_are_the_scripts(void **state)
{
	static const struct tr_sockaddr none;
	struct tr_sockaddr addr = at("10.0.0.1:1"), own;
	struct answer answer = {0};
	struct tr_dns *dns;
	char *strays;

	tr_sockaddr_set_port(&addr, 0);
	assert_int_equal(tr_scripted_name(script, "mx.test", &addr, NULL), TR_OK);
	assert_int_equal(tr_scripted_name(script, "own.test", NULL, &own), TR_OK);
	assert_int_equal(tr_scripted_name(script, "gone.test", &none, NULL), TR_OK);
	assert_int_equal(tr_dns_new(loop, &dns), TR_OK);
	assert_non_null(tr_dns_addr(dns, "MX.test", LIMIT_NS, answered, &answer));
	tr_loop_advance(loop, 1);
	assert_string_equal(answer.text, "10.0.0.1");
	assert_non_null(tr_dns_addr(dns, "own.test", LIMIT_NS, answered, &answer));
	tr_loop_advance(loop, 1);
	assert_string_equal(answer.text, "198.18.0.1");
	assert_non_null(tr_dns_addr(dns, "gone.test", LIMIT_NS, answered, &answer));
	tr_loop_advance(loop, 1);
	assert_int_equal(answer.err, TR_ENOENT);
	assert_null(tr_scripted_strays(script));
	assert_non_null(tr_dns_addr(dns, "stray.test", LIMIT_NS, answered, &answer));
	tr_loop_advance(loop, 1);
	assert_int_equal(answer.err, TR_ENOENT);
	strays = tr_scripted_strays(script);
	assert_string_equal(strays, "name stray.test");
	free(strays);
	tr_dns_free(dns);
}

static struct end server;

static void
taken(void *arg, int fd, const struct tr_sockaddr *peer)
{
	server.stream = tr_stream_new(loop, fd, &handlers, &server);
}

static void
a_listener_is_reached_inside_of_the_script(void **state)
{
	struct tr_sockaddr any = at("0.0.0.0:25"), local = at("127.0.0.1:25"), other = at("10.0.0.1:25"),
			   from = at("203.0.113.5:4000");
	struct tr_scripted_end end;
	struct tr_listener *listener;
	struct end client = {0};
	char text[64], *strays;
	int errnum;

	memset(&server, 0, sizeof server);
	assert_int_equal(tr_listener_new(loop, &any, taken, NULL, &listener, &errnum), TR_OK);
	assert_int_equal(tr_scripted_dial(script, &other, NULL, &end), TR_EREFUSED); /* not this machine */
	assert_int_equal(tr_scripted_dial(script, &local, &from, &end), TR_OK);
	client.stream = end.stream;
	tr_stream_set_handlers(client.stream, &handlers, &client);
	tr_stream_write(client.stream, "hi", 2);
	tr_loop_advance(loop, 3600 * TR_NS_PER_S); /* the listener's end holds no time either */
	assert_non_null(server.stream);
	assert_memory_equal(server.got, "hi", 2);
	tr_sockaddr_text(tr_stream_peer(server.stream), true, text);
	assert_string_equal(text, "203.0.113.5:4000");
	assert_int_equal(tr_scripted_dial(script, &local, &from, &end), TR_OK);
	tr_listener_free(listener); /* with a connection that it has not got yet */
	tr_loop_advance(loop, 1);
	tr_stream_abort(end.stream);
	tr_stream_abort(client.stream);
	tr_stream_abort(server.stream);
	strays = tr_scripted_strays(script);
	assert_string_equal(strays, "10.0.0.1:25");
	free(strays);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(bytes_go_both_ways_and_hold_no_time, setup, teardown),
		cmocka_unit_test_setup_teardown(a_reset_is_one, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_silent_takes_the_time_out, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_not_scripted_is_refused_and_told_once, setup, teardown),
		cmocka_unit_test_setup_teardown(names_are_the_scripts, setup, teardown),
		cmocka_unit_test_setup_teardown(a_listener_is_reached_inside_of_the_script, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
