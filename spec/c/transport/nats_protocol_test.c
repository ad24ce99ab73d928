/* NATS: what is said to a server and what is made of its words, against peers that say what a test gives them. */
#include "nats_fixture.h"

#define INFO "INFO {\"server_id\":\"T\",\"headers\":true,\"max_payload\":4096}\r\n"
#define ACK "{\"stream\":\"T\",\"seq\":7}"

/* --- a peer ------------------------------------------------------------------------------------------------------- */

struct peer {
	const char *greeting; /* at once */
	const char *after;    /* once it has answered the first PING */
	bool in_pieces;       /* byte by byte */
	bool mute; /* answers only the first PING of a connection, and those before the first message of all */
	_Atomic bool hangs_up; /* at the first message */
	int listener;
	uint16_t port;
	pthread_t thread;
	_Atomic uint32_t connections, messages;
	_Atomic uint32_t pings; /* of the connection that is open */
	_Atomic bool stop;
	pthread_mutex_t lock;
	char heard[65536]; /* lock: what the client said, of all connections */
	size_t heard_len;
};

static void
say(const struct peer *peer, int fd, const char *text)
{
	size_t len = strlen(text), step = peer->in_pieces ? 1 : len;

	for (size_t at = 0; at < len; at += step) {
		if (send(fd, text + at, step, MSG_NOSIGNAL) < 0)
			return; /* it is gone, and the next read says so */
	}
}

static void
keep(struct peer *peer, const char *text, size_t len)
{
	pthread_mutex_lock(&peer->lock);
	if (len < sizeof peer->heard - peer->heard_len) {
		memcpy(peer->heard + peer->heard_len, text, len);
		peer->heard_len += len;
	}
	pthread_mutex_unlock(&peer->lock);
}

static bool
heard(struct peer *peer, const char *text)
{
	bool found;

	pthread_mutex_lock(&peer->lock);
	found = memmem(peer->heard, peer->heard_len, text, strlen(text)) != NULL;
	pthread_mutex_unlock(&peer->lock);
	return found;
}

static void
serve(struct peer *peer, int fd)
{
	char line[4096], payload[8192], answer[1024];
	FILE *in = fdopen(fd, "r");
	bool greeted = false;

	peer->pings = 0;
	say(peer, fd, peer->greeting);
	while (fgets(line, sizeof line, in) != NULL) {
		char subject[200], reply[300];

		keep(peer, line, strlen(line));
		if (strncmp(line, "PING", 4) == 0) {
			peer->pings++;
			if (!greeted || !peer->mute || peer->messages == 0)
				say(peer, fd, "PONG\r\n");
			if (!greeted && peer->after != NULL)
				say(peer, fd, peer->after);
			greeted = true;
		} else if (sscanf(line, "PUB %199s %299s", subject, reply) == 2 ||
			   sscanf(line, "HPUB %199s %299s", subject, reply) == 2) {
			size_t len = strtoul(strrchr(line, ' ') + 1, NULL, 10) + 2;

			if (len > sizeof payload || fread(payload, 1, len, in) != len || peer->hangs_up)
				break;
			keep(peer, payload, len);
			peer->messages++;
			snprintf(answer, sizeof answer, "MSG %s 1 %zu\r\n%s\r\n", reply, sizeof ACK - 1, ACK);
			say(peer, fd, answer);
		}
	}
	fclose(in);
}

static void *
peer_main(void *arg)
{
	struct peer *peer = arg;

	for (;;) {
		int fd = accept(peer->listener, NULL, NULL);

		if (peer->stop || fd < 0) {
			if (fd >= 0)
				close(fd);
			return NULL;
		}
		peer->connections++;
		serve(peer, fd);
	}
}

static void
peer_start(struct peer *peer)
{
	pthread_mutex_init(&peer->lock, NULL);
	peer->listener = listen_at(INADDR_LOOPBACK, &peer->port, 16);
	assert_int_equal(pthread_create(&peer->thread, NULL, peer_main, peer), 0);
}

/* With all clients gone. */
static void
peer_end(struct peer *peer)
{
	tr_nats_free(nats);
	assert_int_equal(tr_nats_new(loop, NULL, &nats), TR_OK);
	peer->stop = true;
	shutdown(peer->listener, SHUT_RDWR);
	pthread_join(peer->thread, NULL);
	close(peer->listener);
	pthread_mutex_destroy(&peer->lock);
}

static struct tr_nats_connection *
connection_to(uint16_t port, int64_t ping_interval_ns)
{
	return open_at("127.0.0.1", port,
		(struct tr_nats_settings){.pending_max = 100,
			.connect_timeout_ns = LIMIT_NS,
			.ping_interval_ns = ping_interval_ns,
			.request_timeout_ns = LIMIT_NS});
}

/* `count` messages with a header, of so many bytes. */
static struct tr_nats_call *
publish(struct tr_nats_connection *connection, uint32_t count, size_t bytes)
{
	static char body[8192];
	const struct tr_str headers[] = {TR_STR("x"), TR_STR("y z")};
	struct tr_nats_message message = {.subject = TR_STR("a.b"),
		.payload = {body, bytes},
		.headers = headers,
		.header_count = 1,
		.await_ack = true};
	struct tr_nats_call *call = tr_nats_call_new(connection, count);
	bool done;

	memset(body, 'p', sizeof body);
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(tr_nats_call_add(call, &message), TR_OK);
	call_start(call, &done);
	assert_true(tr_loop_run_until(loop, is_done, &done, LIMIT_NS));
	return call;
}

/* The first message's; frees the call. */
static int
err_of(struct tr_nats_call *call, const char *text)
{
	struct tr_nats_result result;

	tr_nats_call_result(call, 0, &result);
	if (text != NULL && memmem(result.text.data, result.text.len, text, strlen(text)) == NULL)
		fail_msg("'%s' is not in '%.*s'", text, (int)result.text.len, result.text.data);
	tr_nats_call_free(call);
	return result.err;
}

/* Words of a server in place of its greeting, or behind it. */
static void
test_words(void **state)
{
	char *endless = malloc(400000);
	memset(endless, 'x', 399999);
	memcpy(endless, "INFO ", 5);
	endless[399999] = '\0';
	char *ended = strdup(endless);
	assert_non_null(ended);
	memcpy(ended + 399997, "\r\n", 2);
	const struct {
		const char *greeting, *text;
	} cases[] = {
		{"220 mx.example.com ESMTP\r\n", "does not speak as a NATS server"},
		{"-ERR 'Authorization Violation'\r\n", "Authorization Violation"},
		{"INFO [1]\r\n", "INFO is no JSON object"},
		{"INFO {\r\n", "INFO is no JSON object"},
		{endless, "a line that is too long"},
		{ended, "a line that is too long"},
		{INFO "HELLO\r\n", "makes no sense"},
		{INFO "MSG\r\n", "makes no sense"},
		{INFO "MSG a 1 99999999999999999999\r\n", "makes no sense"},
		{INFO "HMSG a 1 9 8\r\n12345678\r\n", "makes no sense"},
		{INFO "MSG a b c d e f g\r\n", "makes no sense"},
		{INFO "MSG a 1 2\r\n12x\r\n", "not as long as it says"},
		{INFO "-ERR 'maximum connections exceeded'\r\n", "maximum connections exceeded"},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct peer peer = {.greeting = cases[i].greeting};
		struct tr_nats_connection *connection;

		peer_start(&peer);
		connection = connection_to(peer.port, 60 * TR_NS_PER_S);
		assert_int_equal(err_of(publish(connection, 1, 10), cases[i].text), TR_EPROTO);
		tr_nats_unref(connection);
		peer_end(&peer);
	}
	free(endless);
	free(ended);
}

/* All that a server says comes in single bytes; what it asks for is answered. */
static void
test_pieces(void **state)
{
	struct peer peer = {.greeting = "info  {\"headers\":true,\"max_payload\":4096}\r\n",
		.in_pieces = true,
		.after = "+OK\r\nPING\r\nMSG a.b 1 3\r\nabc\r\nHMSG a.b 1 12 14\r\nNATS/1.0\r\n\r\nab\r\nINFO {}\r\n"};
	struct tr_nats_connection *connection;
	struct tr_nats_call *call;

	peer_start(&peer);
	connection = connection_to(peer.port, 60 * TR_NS_PER_S);
	call = publish(connection, 30, 10);
	for (uint32_t i = 0; i < 30; i++) {
		struct tr_nats_result result;

		tr_nats_call_result(call, i, &result);
		assert_int_equal(result.err, TR_OK);
		assert_int_equal(result.sequence, 7);
		assert_int_equal(result.stream.len, 1);
	}
	tr_nats_call_free(call);
	assert_true(heard(&peer, "PONG\r\n"));
	assert_true(heard(&peer, "NATS/1.0\r\nx: y z\r\n\r\npppppppppp\r\n"));
	assert_true(heard(&peer, " 20 30\r\n")); /* bytes of the headers, and of all */
	assert_int_equal(peer.connections, 1);
	tr_nats_unref(connection);
	peer_end(&peer);
}

static void
test_too_large(void **state)
{
	struct peer peer = {.greeting = INFO};
	struct tr_nats_connection *connection;
	struct tr_nats_result result;
	struct tr_nats_call *call;

	peer_start(&peer);
	connection = connection_to(peer.port, 60 * TR_NS_PER_S);
	call = publish(connection, 1, 4096 - 20 + 1); /* its headers count */
	tr_nats_call_result(call, 0, &result);
	assert_true(result.permanent);
	assert_int_equal(err_of(call, "larger than the server's max_payload"), TR_ETOOBIG);
	assert_int_equal(err_of(publish(connection, 1, 4096 - 20), NULL), TR_OK);
	assert_int_equal(peer.connections, 1);
	tr_nats_unref(connection);
	peer_end(&peer);
}

/* A limit that is none refuses nothing. */
static void
test_no_limit(void **state)
{
	static const char *const limits[] = {"0", "-1", "\"1\"", "1e3", "null", "99999999999999999999"};

	for (size_t i = 0; i < TR_COUNT(limits); i++) {
		struct tr_nats_connection *connection;
		char greeting[100];
		struct peer peer = {.greeting = greeting};

		snprintf(greeting, sizeof greeting, "INFO {\"max_payload\":%s}\r\n", limits[i]);
		peer_start(&peer);
		connection = connection_to(peer.port, 60 * TR_NS_PER_S);
		assert_int_equal(err_of(publish(connection, 1, 10), NULL), TR_OK);
		tr_nats_unref(connection);
		peer_end(&peer);
	}
}

static bool
was_pinged(void *arg)
{
	return ((struct peer *)arg)->pings >= 8; /* after two without an answer it would not be there */
}

static bool
is_back(void *arg)
{
	return ((struct peer *)arg)->connections >= 2;
}

/* A server that answers PINGs is kept; one that does not is left, though nothing is published. */
static void
test_pings(void **state)
{
	struct peer peer = {.greeting = INFO};
	struct tr_nats_connection *connection;

	peer_start(&peer);
	connection = connection_to(peer.port, 20 * TR_NS_PER_MS);
	tr_nats_call_free(publish(connection, 1, 10));
	assert_true(tr_loop_run_until(loop, was_pinged, &peer, LIMIT_NS)); /* on one connection */
	tr_nats_unref(connection);
	peer_end(&peer);

	peer = (struct peer){.greeting = INFO, .mute = true};
	peer_start(&peer);
	connection = connection_to(peer.port, 5 * TR_NS_PER_MS);
	while (err_of(publish(connection, 1, 10), NULL) != TR_OK) /* a peer on a slow machine is as one that is mute */
		;
	assert_true(tr_loop_run_until(loop, is_back, &peer, LIMIT_NS));
	tr_nats_unref(connection);
	peer_end(&peer);
}

/* PINGs without end, of a server that reads no answer, fill no memory. */
static void
test_flood(void **state)
{
	static const char greeting[] = "INFO {}\r\nPONG\r\n";
	static char pings[6 * 2000];
	struct tr_nats_connection *connection = connection_to(1, 60 * TR_NS_PER_S);
	size_t most = 0;
	int fds[2];

	for (size_t i = 0; i < sizeof pings; i += 6)
		memcpy(pings + i, "PING\r\n", 6);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &(int){4096}, sizeof(int)), 0);
	connection->server = connection->servers;
	tr_nats_read_start(connection, tr_stream_new(loop, fds[0], NULL, NULL)); /* as if it had connected */
	assert_int_equal(send(fds[1], greeting, sizeof greeting - 1, 0), sizeof greeting - 1);
	for (size_t sent = 0; sent < 200 * sizeof pings;) {
		ssize_t n = send(fds[1], pings + sent % 6, sizeof pings - sent % 6, 0);

		sent += n > 0 ? (size_t)n : 0;
		tr_loop_turn(loop);
		if (tr_stream_backlog(connection->stream) > most)
			most = tr_stream_backlog(connection->stream);
	}
	assert_int_equal(connection->state, TR_NATS_UP);
	assert_in_range(most, 1024, 512 * 1024);
	tr_nats_unref(connection);
	close(fds[1]);
}

/* The other servers of a cluster are those that one tells. */
static void
test_found(void **state)
{
	struct peer other = {.greeting = INFO}, peer = {.hangs_up = true};
	struct tr_nats_connection *connection;
	char greeting[200];

	peer_start(&other);
	snprintf(greeting, sizeof greeting,
		"INFO {\"headers\":true,\"max_payload\":4096,\"connect_urls\":[\"127.0.0.1:%u\",7]}\r\n", other.port);
	peer.greeting = greeting;
	peer_start(&peer);
	connection = connection_to(peer.port, 60 * TR_NS_PER_S);
	assert_int_equal(err_of(publish(connection, 1, 10), "may have arrived"), TR_ECLOSED);
	shutdown(peer.listener, SHUT_RDWR); /* and it does not come back */
	assert_int_equal(err_of(publish(connection, 1, 10), NULL), TR_OK);
	assert_int_equal(other.connections, 1);
	tr_nats_unref(connection);
	peer_end(&peer);
	peer_end(&other);
}

/* After a loss the other server has its turn, unless one is preferred. */
static void
test_the_other_first(void **state)
{
	for (int preferred = 0; preferred < 2; preferred++) {
		struct peer peers[2] = {{.greeting = INFO, .hangs_up = true}, {.greeting = INFO, .hangs_up = true}};
		struct tr_nats_settings settings = {.server_count = 2,
			.retain_order = preferred == 1,
			.pending_max = 1,
			.connect_timeout_ns = LIMIT_NS,
			.ping_interval_ns = LIMIT_NS,
			.request_timeout_ns = LIMIT_NS};
		struct tr_nats_connection *connection;
		char urls[2][64];

		for (int i = 0; i < 2; i++) {
			peer_start(&peers[i]);
			snprintf(urls[i], sizeof urls[i], "nats://127.0.0.1:%u", peers[i].port);
			settings.servers[i] = tr_str(urls[i]);
		}
		assert_int_equal(tr_nats_open(nats, &settings, &connection), TR_OK);
		for (int i = 0; i < 2; i++)
			assert_int_equal(err_of(publish(connection, 1, 10), "may have arrived"), TR_ECLOSED);
		assert_int_equal(peers[0].connections, preferred ? 2 : 1);
		assert_int_equal(peers[1].connections, preferred ? 0 : 1);
		tr_nats_unref(connection);
		peer_end(&peers[0]);
		peer_end(&peers[1]);
	}
}

/* What may not be published to another subject is no end. */
static void
test_not_permitted(void **state)
{
	struct peer peer = {.greeting = INFO, .after = "-ERR 'Permissions Violation for Publish to \"other\"'\r\n"};
	struct tr_nats_connection *connection;

	peer_start(&peer);
	connection = connection_to(peer.port, 60 * TR_NS_PER_S);
	assert_int_equal(err_of(publish(connection, 1, 10), NULL), TR_OK);
	assert_int_equal(peer.connections, 1);
	tr_nats_unref(connection);
	peer_end(&peer);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_words, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pieces, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_large, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_limit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pings, setup, teardown),
		cmocka_unit_test_setup_teardown(test_flood, setup, teardown),
		cmocka_unit_test_setup_teardown(test_found, setup, teardown),
		cmocka_unit_test_setup_teardown(test_the_other_first, setup, teardown),
		cmocka_unit_test_setup_teardown(test_not_permitted, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
