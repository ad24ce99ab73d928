/* Getting a connection to a name with several addresses. The resolver is the test's own: it stands in for net/dns.c. */
#include "http_peer.h"

#include "base/loop.h"
#include "net/dns.h"

struct tr_dns {
	struct tr_loop *loop;
};

struct tr_dns_query {
	struct tr_defer later;
	struct tr_dns *dns;
	void (*then)(void *arg, int err, const struct tr_sockaddr *addrs, size_t count);
	void *arg;
};

static const char *const *answer; /* addresses, then NULL */
static int queries;

int
tr_dns_new(struct tr_loop *loop, struct tr_dns **out)
{
	*out = calloc(1, sizeof **out);
	(*out)->loop = loop;
	return TR_OK;
}

void
tr_dns_free(struct tr_dns *dns)
{
	free(dns);
}

static void
tell(struct tr_defer *later)
{
	struct tr_dns_query *query = tr_container_of(later, struct tr_dns_query, later), copy = *query;
	struct tr_sockaddr addrs[8];
	size_t count = 0;

	for (; answer[count] != NULL; count++)
		assert_int_equal(tr_sockaddr_parse(tr_str(answer[count]), 1, &addrs[count]), TR_OK);
	free(query);
	copy.then(copy.arg, TR_OK, addrs, count);
}

struct tr_dns_query *
tr_dns_addr(struct tr_dns *dns, const char *name, int64_t timeout_ns,
	void (*then)(void *arg, int err, const struct tr_sockaddr *addrs, size_t count), void *arg)
{
	struct tr_dns_query *query = calloc(1, sizeof *query);

	assert_string_equal(name, "Several.test");
	queries++;
	query->dns = dns;
	query->then = then;
	query->arg = arg;
	tr_loop_defer(dns->loop, &query->later, tell);
	return query;
}

void
tr_dns_cancel(struct tr_dns_query *query)
{
	if (query == NULL)
		return;
	tr_loop_undefer(query->dns->loop, &query->later);
	free(query);
}

/* An address of loopback at which connecting hangs: its queue is full. */
struct full {
	int fd, fillers[4];
};

static void
fill(struct full *full, const char *address, int port)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};

	inet_pton(AF_INET, address, &addr.sin_addr);
	full->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(full->fd, (struct sockaddr *)&addr, sizeof addr), 0);
	assert_int_equal(listen(full->fd, 0), 0);
	for (size_t i = 0; i < TR_COUNT(full->fillers); i++) {
		full->fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		(void)connect(full->fillers[i], (struct sockaddr *)&addr, sizeof addr);
	}
}

static void
empty(struct full *full)
{
	for (size_t i = 0; i < TR_COUNT(full->fillers); i++)
		close(full->fillers[i]);
	close(full->fd);
}

static void
start(struct fixture *fix, const struct script *scripts, int count, const char *const *addresses)
{
	queries = 0;
	answer = addresses;
	set_up(fix, scripts, count, &plain);
	snprintf(fix->url, sizeof fix->url, "http://Several.test:%d/in", fix->server.port);
}

static void
expect(struct fixture *fix, int err, const char *cause)
{
	struct tr_http_call call;

	run(fix, &call, TR_HTTP_POST, fix->url, "x");
	if (call.err != err)
		fail_msg("%s: %.*s", tr_err_name(call.err), (int)call.error.len, call.error.data);
	if (err != TR_OK)
		assert_has(&call.error, cause);
	tr_http_call_fini(&call);
}

#define CLOSE_2 "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"

static void
tries_the_next_address_when_one_refuses(void **state)
{
	static const char *const addresses[] = {"127.0.0.3", "127.0.0.2", "127.0.0.1", NULL};
	static const struct script scripts[] = {{"RWRWH", {OK_2, OK_2}}};
	struct fixture fix;

	start(&fix, scripts, 1, addresses);
	expect(&fix, TR_OK, "");
	expect(&fix, TR_OK, "");
	assert_int_equal(queries, 1);
	assert_int_equal(fix.server.connections, 1);
	tear_down(&fix);
}

static void
tries_the_next_address_while_one_hangs(void **state)
{
	static const char *const addresses[] = {"127.0.0.2", "127.0.0.1", NULL};
	static const struct script scripts[] = {{"RWH", {OK_2}}};
	struct fixture fix;
	struct full full;
	int64_t took_ns;

	start(&fix, scripts, 1, addresses);
	fill(&full, "127.0.0.2", fix.server.port);
	took_ns = -tr_mono_ns();
	expect(&fix, TR_OK, "");
	took_ns += tr_mono_ns();
	assert_true(took_ns >= 200 * TR_NS_PER_MS);
	empty(&full);
	tear_down(&fix);
}

/* The virtual clock stands still while a request is under way: the pace is one of real packets. */
static void
tries_the_next_address_under_the_virtual_clock(void **state)
{
	tr_clock_virtual(1700000000 * TR_NS_PER_S);
	{
		static const char *const addresses[] = {"127.0.0.2", "127.0.0.1", NULL};
		static const struct script scripts[] = {{"RWH", {OK_2}}};
		struct fixture fix;
		struct full full;

		start(&fix, scripts, 1, addresses);
		fill(&full, "127.0.0.2", fix.server.port);
		expect(&fix, TR_OK, "");
		empty(&full);
		tear_down(&fix);
	}
	tr_clock_real();
}

static void
ends_at_the_deadline_while_all_hang(void **state)
{
	static const char *const addresses[] = {"127.0.0.2", "127.0.0.3", NULL};
	struct tr_http_call call = {0};
	struct full full[2];
	struct fixture fix;
	int done = 0;

	start(&fix, NULL, 0, addresses);
	fill(&full[0], "127.0.0.2", fix.server.port);
	fill(&full[1], "127.0.0.3", fix.server.port);
	call = (struct tr_http_call){.client = fix.client,
		.url = fix.url,
		.timeout_ns = 300 * TR_NS_PER_MS,
		.done = call_done,
		.owner = &done};
	assert_int_equal(tr_http_start(fix.http, &call), TR_OK);
	assert_true(tr_loop_run_until(fix.loop, is_one, &done, LIMIT_NS));
	assert_int_equal(call.err, TR_ETIMEDOUT);
	tr_http_call_fini(&call);
	empty(&full[0]);
	empty(&full[1]);
	tear_down(&fix);
}

static void
names_the_last_refusal(void **state)
{
	static const char *const addresses[] = {"127.0.0.2", "127.0.0.3", NULL};
	struct fixture fix;

	start(&fix, NULL, 0, addresses);
	expect(&fix, TR_EREFUSED, "Failed to connect to Several.test port");
	expect(&fix, TR_EREFUSED, ": Connection refused");
	assert_int_equal(queries, 2); /* nothing is kept of what did not connect */
	tear_down(&fix);
}

/* The address is kept while a connection to it lives, and no longer. */
static void
asks_again_when_no_connection_is_left(void **state)
{
	static const char *const addresses[] = {"127.0.0.1", NULL};
	static const struct script scripts[] = {{"RWC", {CLOSE_2}}, {"RWRH", {OK_2}}, {"RWH", {OK_2}}};
	struct fixture fix;
	struct tr_http_call slow = {0};
	int done = 0;

	start(&fix, scripts, 3, addresses);
	expect(&fix, TR_OK, "");
	assert_int_equal(queries, 1);
	expect(&fix, TR_OK, "");
	assert_int_equal(queries, 2);
	slow = (struct tr_http_call){.client = fix.client, .url = fix.url, .done = call_done, .owner = &done};
	assert_int_equal(tr_http_start(fix.http, &slow), TR_OK); /* takes the one connection */
	while (atomic_load(&fix.server.requests) < 3)
		tr_loop_turn(fix.loop);
	expect(&fix, TR_OK, "");
	assert_int_equal(queries, 2);
	tr_http_cancel(&slow);
	tr_http_call_fini(&slow);
	tear_down(&fix);
}

/* The place has moved while an old connection still lives. */
static void
asks_again_when_the_kept_address_refuses(void **state)
{
	static const char *const addresses[] = {"127.0.0.1", NULL}, *const others[] = {"127.0.0.2", NULL};
	static const struct script scripts[] = {{"RE", {NULL}}};
	struct tr_http_call slow = {0};
	struct fixture fix;
	int done = 0;

	start(&fix, scripts, 1, addresses);
	slow = (struct tr_http_call){.client = fix.client, .url = fix.url, .done = call_done, .owner = &done};
	assert_int_equal(tr_http_start(fix.http, &slow), TR_OK);
	while (atomic_load(&fix.server.requests) < 1)
		tr_loop_turn(fix.loop);
	shutdown(fix.server.fd, SHUT_RDWR);
	answer = others;
	expect(&fix, TR_EREFUSED, "refused");
	assert_int_equal(queries, 2);
	assert_int_equal(done, 0);
	tr_http_cancel(&slow);
	tr_http_call_fini(&slow);
	tear_down(&fix);
}

static void
can_be_cancelled_at_each_step(void **state)
{
	static const char *const addresses[] = {"127.0.0.2", "127.0.0.3", NULL};
	struct tr_http_call call = {0};
	struct full full;
	struct fixture fix;
	int done = 0;

	start(&fix, NULL, 0, addresses);
	fill(&full, "127.0.0.3", fix.server.port);
	for (int turns = 0; turns < 4; turns++) { /* while it asks, while it connects to the one, to the other */
		call = (struct tr_http_call){.client = fix.client, .url = fix.url, .done = call_done, .owner = &done};
		assert_int_equal(tr_http_start(fix.http, &call), TR_OK);
		for (int i = 0; i < turns; i++)
			tr_loop_turn(fix.loop);
		tr_http_cancel(&call);
	}
	assert_int_equal(done, 0);
	tr_http_call_fini(&call);
	empty(&full);
	tear_down(&fix);
}

static const struct tr_http_settings *
with_guard(const char *allow)
{
	static struct tr_http_settings settings;
	static struct tr_cidr block;

	assert_int_equal(tr_cidr_parse(tr_str(allow), &block, NULL), TR_OK);
	settings = plain;
	settings.guard = (struct tr_guard){.deny_private = true, .allow = &block, .allow_count = 1};
	return &settings;
}

static void
use_client(struct fixture *fix, const struct tr_http_settings *settings)
{
	tr_http_client_unref(fix->client);
	assert_int_equal(tr_http_client_new(fix->http, settings, &fix->client), TR_OK);
}

static void
leaves_out_addresses_that_are_not_allowed(void **state)
{
	static const char *const addresses[] = {"127.0.0.2", "10.0.0.1", "127.0.0.1", "169.254.169.254", NULL};
	static const char *const others[] = {"::1", "127.0.0.2", NULL};
	static const struct script scripts[] = {{"RWC", {CLOSE_2}}};
	struct fixture fix;

	start(&fix, scripts, 1, addresses);
	use_client(&fix, with_guard("127.0.0.1"));
	expect(&fix, TR_OK, "");
	answer = others;
	expect(&fix, TR_EACCES, "not allowed to connect to 127.0.0.2: it is no public address");
	assert_int_equal(queries, 2);
	tear_down(&fix);
}

/* A name that first leads to a public address and then to this machine ("DNS rebinding"): the address that is connected
 * to is the one that was looked at. */
static void
is_not_led_astray_by_a_second_answer(void **state)
{
	static const char *const first[] = {"127.0.0.1", NULL}, *const second[] = {"127.0.0.2", NULL};
	static const struct script scripts[] = {{"RWRWC", {OK_2, CLOSE_2}}};
	struct fixture fix;

	start(&fix, scripts, 1, first);
	use_client(&fix, with_guard("127.0.0.1"));
	expect(&fix, TR_OK, "");
	answer = second;
	expect(&fix, TR_OK, ""); /* over the connection that is open */
	expect(&fix, TR_EACCES, "127.0.0.2");
	assert_int_equal(fix.server.connections, 1);
	tear_down(&fix);
}

/* The kept address is one that another client has connected to. */
static void
looks_at_the_kept_address_too(void **state)
{
	static const char *const first[] = {"127.0.0.1", NULL}, *const second[] = {"127.0.0.2", NULL};
	static const struct script scripts[] = {{"RWH", {OK_2}}};
	struct fixture fix;

	start(&fix, scripts, 1, first);
	expect(&fix, TR_OK, "");
	use_client(&fix, with_guard("127.0.0.2"));
	answer = second;
	expect(&fix, TR_EREFUSED, "refused"); /* 127.0.0.2 is allowed, and nobody listens there */
	assert_int_equal(queries, 2);
	assert_int_equal(fix.server.requests, 1);
	tear_down(&fix);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tries_the_next_address_when_one_refuses),
		cmocka_unit_test(tries_the_next_address_while_one_hangs),
		cmocka_unit_test(tries_the_next_address_under_the_virtual_clock),
		cmocka_unit_test(ends_at_the_deadline_while_all_hang),
		cmocka_unit_test(names_the_last_refusal),
		cmocka_unit_test(asks_again_when_no_connection_is_left),
		cmocka_unit_test(asks_again_when_the_kept_address_refuses),
		cmocka_unit_test(can_be_cancelled_at_each_step),
		cmocka_unit_test(leaves_out_addresses_that_are_not_allowed),
		cmocka_unit_test(is_not_led_astray_by_a_second_answer),
		cmocka_unit_test(looks_at_the_kept_address_too),
	};

	signal(SIGPIPE, SIG_IGN);
	unsetenv("TAILRACE_HTTP");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
