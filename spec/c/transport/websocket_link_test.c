/* A websocket over a real socket, plain and with TLS: a thread plays the server. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "transport/websocket_link.h"
#include "websocket_peer.h"

/* --- bed -------------------------------------------------------------------------------------------------------- */

struct bed {
	struct server server;
	struct tr_loop *loop;
	struct tr_ws_links *links;
	struct tr_ws_link *link;
	struct tr_ws_settings settings;
	char url[64];
	int changes;
	enum tr_ws_state wanted;
};

static void
changed(struct tr_ws_link *link, void *arg)
{
	((struct bed *)arg)->changes++;
}

static void
bed_init(struct bed *bed, const char *steps)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof addr;

	memset(bed, 0, sizeof *bed);
	bed->server.steps = steps;
	bed->server.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(bed->server.fd, (struct sockaddr *)&addr, sizeof addr), 0);
	assert_int_equal(listen(bed->server.fd, 1), 0);
	getsockname(bed->server.fd, (struct sockaddr *)&addr, &len);
	bed->server.port = ntohs(addr.sin_port);
	snprintf(bed->url, sizeof bed->url, "ws://127.0.0.1:%d/a/b?c=d", bed->server.port);
	bed->settings = (struct tr_ws_settings){60 * TR_NS_PER_S, 60 * TR_NS_PER_S, 1 << 24};
	assert_int_equal(tr_loop_new(&bed->loop), TR_OK);
	tr_loop_enter(bed->loop);
	assert_int_equal(tr_ws_links_new(bed->loop, &bed->links), TR_OK);
}

static void
bed_open(struct bed *bed)
{
	const char *why;

	assert_int_equal(pthread_create(&bed->server.thread, NULL, serve, &bed->server), 0);
	assert_int_equal(tr_ws_link_open(bed->links, bed->url, &bed->settings, changed, bed, &bed->link, &why), TR_OK);
}

static void
bed_fini(struct bed *bed)
{
	tr_ws_link_free(bed->link);
	assert_int_equal(tr_hold_count(), 0);
	pthread_join(bed->server.thread, NULL);
	close(bed->server.fd);
	tr_ws_links_free(bed->links);
	tr_loop_free(bed->loop);
}

static bool
is_in_state(void *arg)
{
	const struct bed *bed = arg;

	return tr_ws_link_state(bed->link) == bed->wanted || tr_ws_link_state(bed->link) == TR_WS_CLOSED;
}

static void
wait_state(struct bed *bed, enum tr_ws_state state)
{
	const char *text;

	bed->wanted = state;
	assert_true(tr_loop_run_until(bed->loop, is_in_state, bed, 60 * TR_NS_PER_S));
	tr_ws_link_error(bed->link, &text);
	if (tr_ws_link_state(bed->link) != state)
		fail_msg("it ended: %s", text);
}

static void
assert_end(struct bed *bed, int err, const char *expected)
{
	const char *text;

	wait_state(bed, TR_WS_CLOSED);
	assert_int_equal(tr_ws_link_error(bed->link, &text), err);
	if (strstr(text, expected) == NULL)
		fail_msg("\"%s\" lacks \"%s\"", text, expected);
}

static bool
has_message(void *arg)
{
	const struct bed *bed = arg;

	return tr_ws_link_waiting(bed->link) || tr_ws_link_state(bed->link) == TR_WS_CLOSED;
}

static void
assert_message(struct bed *bed, const char *data, size_t len)
{
	struct tr_ws_message *message;

	assert_true(tr_loop_run_until(bed->loop, has_message, bed, 60 * TR_NS_PER_S));
	message = tr_ws_link_take(bed->link);
	assert_non_null(message);
	assert_int_equal(message->len, len);
	assert_memory_equal(message->data, data, len);
	free(message);
}

static bool
server_ended(void *arg)
{
	return atomic_load(&((struct bed *)arg)->server.ended);
}

static void
wait_server(struct bed *bed)
{
	assert_true(tr_loop_run_until(bed->loop, server_ended, bed, 60 * TR_NS_PER_S));
}

/* --- tests -------------------------------------------------------------------------------------------------------- */

static void
talks_both_ways(void **state)
{
	struct bed bed;
	struct tr_str head;

	bed_init(&bed, "RWFFFWFH");
	bed.server.texts[0] = (struct tr_str){"\x81\x02hi\x89\x01p\x01\x01"
					      "a\x80\x01z",
		13};
	bed.server.texts[1] = (struct tr_str){"\x88\x05\x03\xe8"
					      "bye",
		7};
	bed_open(&bed);
	wait_state(&bed, TR_WS_OPEN);
	assert_int_equal(tr_ws_link_answer(bed.link, &head), 101);
	assert_non_null(memmem(head.data, head.len, "X-Mark: 7\r\n", 11));
	assert_message(&bed, "hi", 2);
	assert_message(&bed, "az", 2);
	assert_int_equal(tr_ws_link_send(bed.link, false, TR_STR("text")), TR_OK);
	assert_int_equal(tr_ws_link_send(bed.link, true, TR_STR("bytes")), TR_OK);
	assert_end(&bed, TR_ECLOSED, "closed by the peer: 1000 bye");
	assert_int_equal(tr_ws_link_send(bed.link, false, TR_STR("late")), TR_ECLOSED);
	wait_server(&bed);
	assert_string_equal(bed.server.got, "Ap 1text 2bytes 8\x03\xe8 ");
	assert_non_null(strstr(bed.server.request, "GET /a/b?c=d HTTP/1.1\r\n"));
	assert_non_null(strstr(bed.server.request, "\r\nHost: 127.0.0.1:"));
	bed_fini(&bed);
}

static void
we_close(void **state)
{
	struct bed bed;

	bed_init(&bed, "RFWH");
	bed.server.texts[0] = (struct tr_str){"\x81\x04last\x88\x02\x03\xe8", 10};
	bed_open(&bed);
	wait_state(&bed, TR_WS_OPEN);
	tr_ws_link_close(bed.link);
	assert_int_equal(tr_ws_link_state(bed.link), TR_WS_CLOSING);
	assert_int_equal(tr_ws_link_send(bed.link, false, TR_STR("late")), TR_ECLOSED);
	assert_end(&bed, TR_ECLOSED, "closed by the peer: 1000");
	assert_message(&bed, "last", 4); /* what came before the end can be read after it */
	wait_server(&bed);
	assert_string_equal(bed.server.got, "8\x03\xe8 ");
	bed_fini(&bed);
}

static void
a_close_that_is_not_answered(void **state)
{
	struct bed bed;
	char expected[100];

	for (int seconds = 1; seconds <= 32; seconds *= 4) { /* in which it must also be opened */
		bed_init(&bed, "RH");
		bed.settings.timeout_ns = seconds * TR_NS_PER_S / 2;
		bed_open(&bed);
		bed.wanted = TR_WS_OPEN;
		assert_true(tr_loop_run_until(bed.loop, is_in_state, &bed, 60 * TR_NS_PER_S));
		if (tr_ws_link_state(bed.link) == TR_WS_OPEN)
			break;
		assert_end(&bed, TR_ETIMEDOUT, "timed out");
		bed_fini(&bed);
	}
	wait_state(&bed, TR_WS_OPEN);
	tr_ws_link_close(bed.link);
	snprintf(expected, sizeof expected, "the peer did not answer the close within %g s",
		(double)bed.settings.timeout_ns / TR_NS_PER_S);
	assert_end(&bed, TR_ETIMEDOUT, expected);
	bed_fini(&bed);
}

static void
an_answer_with_another_status(void **state)
{
	struct bed bed;
	struct tr_str head;

	bed_init(&bed, "N");
	bed_open(&bed);
	assert_end(&bed, TR_EPROTO, "HTTP error: 404 Not Found");
	assert_int_equal(tr_ws_link_answer(bed.link, &head), 404);
	assert_non_null(memmem(head.data, head.len, "X-Why: gone", 11));
	bed_fini(&bed);
}

static void
a_broken_rule_is_answered_by_its_code(void **state)
{
	struct bed bed;

	bed_init(&bed, "RWFH");
	bed.server.texts[0] = (struct tr_str){"\x81\x02ok\x83\x00", 6};
	bed_open(&bed);
	assert_end(&bed, TR_EPROTO, "an unknown opcode");
	assert_message(&bed, "ok", 2);
	wait_server(&bed);
	assert_string_equal(bed.server.got, "8\x03\xea"
					    "an unknown opcode ");
	bed_fini(&bed);
}

static void
a_connection_that_breaks(void **state)
{
	struct bed bed;

	bed_init(&bed, "R");
	bed_open(&bed);
	assert_end(&bed, TR_ECLOSED, "without a closing handshake");
	bed_fini(&bed);

	bed_init(&bed, "");
	bed_open(&bed);
	wait_state(&bed, TR_WS_CLOSED);
	bed_fini(&bed);
}

static void
nobody_listens(void **state)
{
	struct bed bed;
	const char *why;

	bed_init(&bed, "");
	shutdown(bed.server.fd, SHUT_RDWR); /* the port stays ours */
	assert_int_equal(tr_ws_link_open(bed.links, bed.url, &bed.settings, changed, &bed, &bed.link, &why), TR_OK);
	assert_end(&bed, TR_EREFUSED, "refused");
	close(bed.server.fd);
	tr_ws_link_free(bed.link);
	tr_ws_links_free(bed.links);
	tr_loop_free(bed.loop);
}

static void
a_server_that_does_not_answer(void **state)
{
	struct bed bed;

	bed_init(&bed, "H");
	bed.settings.timeout_ns = TR_NS_PER_S / 2;
	bed_open(&bed);
	assert_end(&bed, TR_ETIMEDOUT, "operation timed out after 0.5 s");
	bed_fini(&bed);
}

static void
a_silent_peer_is_asked_and_then_given_up(void **state)
{
	struct bed bed;

	bed_init(&bed, "RFH");
	bed.settings.ping_ns = TR_NS_PER_S / 5;
	bed_open(&bed);
	assert_end(&bed, TR_ETIMEDOUT, "a ping was not answered");
	bed_fini(&bed); /* which ends the server, too */
	assert_int_equal(bed.server.got[0], '9');
}

static void
urls(void **state)
{
	static const char *const cases[][2] = {
		{"http://h/", "a URL that begins with ws:// or wss:// is expected"},
		{"ws://u:p@h/", "a user name in the URL is not supported"},
		{"ws://h/#f", "the URL of a websocket has no fragment"},
		{"ws://h:x/", "Port number"},
		{"ws://h/\r\nX: y", "Bad path"},
	};
	struct bed bed;
	const char *why;

	bed_init(&bed, "");
	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		assert_int_equal(tr_ws_link_open(bed.links, cases[i][0], &bed.settings, changed, &bed, &bed.link, &why),
			TR_EINVAL);
		if (strstr(why, cases[i][1]) == NULL)
			fail_msg("\"%s\" lacks \"%s\"", why, cases[i][1]);
	}
	close(bed.server.fd);
	tr_ws_links_free(bed.links);
	tr_loop_free(bed.loop);
}

/* More than may be queued: the peer has to wait until it is taken, and nothing is lost. */
static void
a_reader_that_is_slow(void **state)
{
	struct bed bed;
	char zeros[1000] = {0};
	int count = 0;

	bed_init(&bed, "RZH");
	bed.server.large = 20 * 1004 * 1000;
	bed_open(&bed);
	wait_state(&bed, TR_WS_OPEN);
	for (int i = 0; i < 2000; i++)
		tr_loop_turn(bed.loop);
	assert_false(atomic_load(&bed.server.ended));
	for (; count < 20 * 1000; count++)
		assert_message(&bed, zeros, sizeof zeros);
	bed_fini(&bed);
}

/* Bytes in both directions that are more than buffers hold, over the transport as it is. */
static void
echo_large(struct bed *bed)
{
	size_t len = 12000000;
	char *data = malloc(len);

	for (size_t i = 0; i < len; i++)
		data[i] = (char)(i * 31 >> 3);
	wait_state(bed, TR_WS_OPEN);
	assert_int_equal(tr_ws_link_send(bed->link, true, (struct tr_str){data, len}), TR_OK);
	assert_int_equal(tr_ws_link_send(bed->link, true, (struct tr_str){data, 300}), TR_OK);
	assert_message(bed, data, len);
	assert_message(bed, data, 300);
	assert_int_equal(tr_ws_link_backlog(bed->link), 0);
	free(data);
}

static void
large_messages(void **state)
{
	struct bed bed;

	bed_init(&bed, "REEH");
	bed.server.large = 12000000;
	bed_open(&bed);
	echo_large(&bed);
	bed_fini(&bed);
}

static void
over_tls(void **state)
{
	char path[] = "/tmp/tailrace-ws-XXXXXX";
	struct bed bed;
	SSL_CTX *tls;
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	close(fd);
	tls = make_tls(path);

	unsetenv("SSL_CERT_FILE"); /* nobody vouches for it */
	bed_init(&bed, "REEH");
	bed.server.tls = tls;
	snprintf(bed.url, sizeof bed.url, "wss://127.0.0.1:%d/", bed.server.port);
	bed_open(&bed);
	assert_end(&bed, TR_EPROTO, "certificate");
	bed_fini(&bed);
	assert_string_equal(bed.server.request, ""); /* it was told nothing */

	setenv("SSL_CERT_FILE", path, 1);
	bed_init(&bed, "REEH");
	bed.server.tls = tls;
	bed.server.large = 12000000;
	snprintf(bed.url, sizeof bed.url, "wss://127.0.0.1:%d/", bed.server.port);
	bed_open(&bed);
	echo_large(&bed);
	bed_fini(&bed);

	bed_init(&bed, "REEH"); /* another name than the certificate's */
	bed.server.tls = tls;
	snprintf(bed.url, sizeof bed.url, "wss://localhost:%d/", bed.server.port);
	bed_open(&bed);
	assert_end(&bed, TR_EPROTO, "certificate");
	bed_fini(&bed);

	unsetenv("SSL_CERT_FILE");
	SSL_CTX_free(tls);
	unlink(path);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(talks_both_ways),
		cmocka_unit_test(we_close),
		cmocka_unit_test(a_close_that_is_not_answered),
		cmocka_unit_test(an_answer_with_another_status),
		cmocka_unit_test(a_broken_rule_is_answered_by_its_code),
		cmocka_unit_test(a_connection_that_breaks),
		cmocka_unit_test(nobody_listens),
		cmocka_unit_test(a_server_that_does_not_answer),
		cmocka_unit_test(a_silent_peer_is_asked_and_then_given_up),
		cmocka_unit_test(urls),
		cmocka_unit_test(a_reader_that_is_slow),
		cmocka_unit_test(large_messages),
		cmocka_unit_test(over_tls),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
