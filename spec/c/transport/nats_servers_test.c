/* NATS: which servers a connection knows and goes to. */
#include "nats_fixture.h"

static void
test_servers(void **state)
{
	static const struct {
		const char *url, *shown, *host, *user, *password;
		uint16_t port;
	} cases[] = {
		{"nats://h", "nats://h:4222", "h", NULL, NULL, 4222},
		{"h:1", "nats://h:1", "h", NULL, NULL, 1},
		{"nats://u:p@h:65535/", "nats://h:65535", "h", "u", "p", 65535},
		{"nats://t%20k%40@h", "nats://h:4222", "h", "t k@", NULL, 4222},
		{"nats://u:p%zz%4@h", "nats://h:4222", "h", "u", "p%zz%4", 4222},
		{"nats://[::1]:7", "nats://[::1]:7", "::1", NULL, NULL, 7},
		{"nats://[::1]", "nats://[::1]:4222", "::1", NULL, NULL, 4222},
		{"nats://::1", "nats://[::1]:4222", "::1", NULL, NULL, 4222},
		{"nats://h:65536", "nats://h:0", "h", NULL, NULL, 0}, /* cannot be connected to */
		{"nats://h:x", "nats://h:0", "h", NULL, NULL, 0},
	};
	struct tr_nats_connection connection = {.nats = nats, .settings = {.retain_order = true}};
	const struct tr_nats_server *server;

	for (size_t i = 0; i < TR_COUNT(cases); i++)
		connection.settings.servers[connection.settings.server_count++] = tr_str(cases[i].url);
	assert_int_equal(tr_nats_link_init(&connection), TR_OK);
	server = connection.servers;
	for (size_t i = 0; i < TR_COUNT(cases); i++, server = server->next) {
		assert_string_equal(server->shown, cases[i].shown);
		assert_string_equal(server->host, cases[i].host);
		assert_int_equal(server->port, cases[i].port);
		assert_true((server->user == NULL) == (cases[i].user == NULL));
		assert_true((server->password == NULL) == (cases[i].password == NULL));
		if (cases[i].user != NULL)
			assert_string_equal(server->user, cases[i].user);
		if (cases[i].password != NULL)
			assert_string_equal(server->password, cases[i].password);
	}
	assert_null(server);
	tr_nats_link_fini(&connection);
}

static size_t
count_servers(const struct tr_nats_connection *connection)
{
	size_t count = 0;

	for (const struct tr_nats_server *server = connection->servers; server != NULL; server = server->next)
		count++;
	return count;
}

/* What servers tell of their cluster: it has an end, and servers that have gone go. */
static void
test_told(void **state)
{
	struct tr_nats_connection connection = {.nats = nats,
		.settings = {.retain_order = true,
			.server_count = 2,
			.servers = {TR_STR("nats://u:p@cluster.test"), TR_STR("nats://10.0.0.1:4222")}}};
	struct tr_nats_server *server;

	assert_int_equal(tr_nats_link_init(&connection), TR_OK);
	assert_int_equal(strlen(connection.inbox), connection.inbox_len);
	connection.server = connection.servers; /* by which we know the others */
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 200; i++) {
			char address[32];

			snprintf(address, sizeof address, "10.0.%d.%d:4222", round, i % 150);
			tr_nats_link_found(&connection, tr_str(address));
		}
		tr_nats_link_found_all(&connection);
		assert_int_equal(count_servers(&connection), 2 + 64);
	}
	for (server = connection.servers->next->next; server->next != NULL; server = server->next)
		assert_memory_equal(server->host, "10.0.2.", 7);
	/* an address takes the name of the certificate, too */
	assert_string_equal(server->user, "u");
	assert_string_equal(server->password, "p");
	assert_string_equal(server->tls_name, "cluster.test");
	/* the one in use stays, though it is told no more; what it tells has its login, and a name stands for itself */
	connection.server = server;
	tr_nats_link_found(&connection, TR_STR("x:y@other.test:1"));
	tr_nats_link_found(&connection, TR_STR("10.0.0.1:4222"));
	tr_nats_link_found_all(&connection);
	assert_int_equal(count_servers(&connection), 4);
	assert_ptr_equal(connection.servers->next->next, server);
	server = server->next;
	assert_string_equal(server->host, "other.test");
	assert_string_equal(server->user, "u");
	assert_null(server->tls_name);
	assert_string_equal(server->password, "p");
	tr_nats_link_fini(&connection);
}

/* The servers in a random order, unless it is to be kept: over many connections each is the first one. */
static void
test_order(void **state)
{
	bool first[4] = {false};

	for (int i = 0; i < 400; i++) {
		struct tr_nats_connection connection = {.nats = nats,
			.settings = {.server_count = 4,
				.servers = {TR_STR("nats://0"), TR_STR("nats://1"), TR_STR("nats://2"),
					TR_STR("nats://3")}}};

		assert_int_equal(tr_nats_link_init(&connection), TR_OK);
		first[connection.servers->host[0] - '0'] = true;
		tr_nats_link_fini(&connection);
	}
	assert_true(first[0] && first[1] && first[2] && first[3]);
}

/* --- several addresses -------------------------------------------------------------------------------------------- */

/* Greets one client. */
static void *
greet_one(void *arg)
{
	static const char info[] = "INFO {}\r\n", pong[] = "PONG\r\n";
	int fd = accept(*(int *)arg, NULL, NULL);
	FILE *in = fdopen(fd, "r");
	char line[1024];

	if (in == NULL)
		return NULL;
	if (send(fd, info, sizeof info - 1, MSG_NOSIGNAL) > 0) {
		while (fgets(line, sizeof line, in) != NULL) {
			if (strcmp(line, "PING\r\n") == 0 && send(fd, pong, sizeof pong - 1, MSG_NOSIGNAL) < 0)
				break;
		}
	}
	fclose(in);
	return NULL;
}

static struct tr_dns *
dns_with(const char *zone)
{
	struct tr_resolver *resolver = tr_resolver_new(TR_RESOLVER_TEST);
	struct tr_dns *dns;
	char error[256];

	assert_int_equal(tr_dns_new(loop, &dns), TR_OK);
	assert_int_equal(tr_zones_new(&resolver->zones), TR_OK);
	assert_int_equal(tr_zones_add(resolver->zones, tr_str(zone), false, error), TR_OK);
	assert_int_equal(tr_resolver_ready(resolver), TR_OK);
	assert_int_equal(tr_resolvers_set(tr_dns_resolvers(dns), NULL, resolver), TR_OK);
	return dns;
}

/* One at which connecting hangs, its queue being full, leaves time for the other. */
static void
test_addresses(void **state)
{
	struct tr_dns *dns = dns_with("two.test. A 127.0.0.2\ntwo.test. A 127.0.0.1\n");
	struct tr_nats_connection *connection;
	struct tr_nats_result result;
	struct tr_nats_call *call;
	uint16_t port = 0;
	int listener = listen_at(INADDR_LOOPBACK, &port, 16), full = listen_at(INADDR_LOOPBACK + 1, &port, 0),
	    fillers[4];
	struct sockaddr_in at = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1), .sin_port = htons(port)};
	pthread_t thread;
	bool done;

	assert_int_equal(pthread_create(&thread, NULL, greet_one, &listener), 0);
	for (size_t i = 0; i < TR_COUNT(fillers); i++) {
		fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		(void)connect(fillers[i], (struct sockaddr *)&at, sizeof at);
	}
	tr_nats_free(nats);
	assert_int_equal(tr_nats_new(loop, dns, &nats), TR_OK);
	connection = open_at("two.test", port,
		(struct tr_nats_settings){.pending_max = 1,
			.connect_timeout_ns = 3 * TR_NS_PER_S, /* the other has half of it */
			.ping_interval_ns = LIMIT_NS,
			.request_timeout_ns = LIMIT_NS});
	call = tr_nats_call_new(connection, 1); /* is done when it is connected */
	call_start(call, &done);
	assert_true(tr_loop_run_until(loop, is_done, &done, LIMIT_NS));
	tr_nats_call_result(call, 0, &result);
	shutdown(listener, SHUT_RDWR); /* nobody may have come */
	if (result.err != TR_OK)
		fail_msg("%.*s", (int)result.text.len, result.text.data);
	tr_nats_call_free(call);
	tr_nats_unref(connection);
	tr_nats_free(nats); /* before its resolver */
	assert_int_equal(tr_nats_new(loop, NULL, &nats), TR_OK);
	pthread_join(thread, NULL);
	for (size_t i = 0; i < TR_COUNT(fillers); i++)
		close(fillers[i]);
	close(full);
	close(listener);
	tr_dns_free(dns);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_servers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_told, setup, teardown),
		cmocka_unit_test_setup_teardown(test_order, setup, teardown),
		cmocka_unit_test_setup_teardown(test_addresses, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
