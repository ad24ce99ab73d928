/* Look-ups that ask a name server: what it says, what it does not say, and what is asked of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "dns_peer.h"
#include "net/dns.h"

#define LIMIT_NS (60 * TR_NS_PER_S)
#define PATIENT_NS (3600 * TR_NS_PER_S) /* of a try whose reply must not be late, however slow the machine is */
#define HASTY_NS (30 * TR_NS_PER_MS)
#define ENOUGH 8 /* tries, each as long as all before it: seconds in all */

static struct tr_loop *loop;
static struct tr_dns *dns;
static struct dns_peer peer;

struct got {
	int calls, err;
	enum tr_dns_status status;
	size_t count;
	char first[64], why[64];
};

static void on_script(struct dns_peer *server, const struct dns_question *question, struct tr_buf *reply);

static void
use_peer(struct tr_resolver *resolver, int64_t try_ns, uint32_t attempts)
{
	char servers[64];

	assert_non_null(resolver);
	snprintf(servers, sizeof servers, "127.0.0.1:%u", peer.port);
	resolver->servers = strdup(servers);
	resolver->search = strdup("search.test");
	resolver->hosts_file = false;
	resolver->try_ns = try_ns;
	resolver->attempts = attempts;
	assert_int_equal(tr_resolver_ready(resolver), TR_OK);
	assert_int_equal(tr_resolvers_set(tr_dns_resolvers(dns), NULL, resolver), TR_OK);
}

static int
setup(void **state)
{
	if (tr_loop_new(&loop) != TR_OK || tr_dns_new(loop, &dns) != TR_OK || !peer_start(&peer, loop, on_script))
		return -1;
	use_peer(tr_resolver_new(TR_RESOLVER_SERVERS), PATIENT_NS, 2);
	return 0;
}

static int
teardown(void **state)
{
	peer_stop(&peer);
	tr_dns_free(dns);
	tr_loop_free(loop);
	return tr_hold_count();
}

static void
on_script(struct dns_peer *server, const struct dns_question *q, struct tr_buf *reply)
{
	if (strcmp(q->name, "silent.test") == 0)
		return;
	if (strcmp(q->name, "slow.test") == 0 && server->questions == 1)
		return; /* lost: asked again */
	if (strcmp(q->name, "fails.test") == 0) {
		put_head(reply, q->id, 0x8182, 0, 0, q->name, q->type);
	} else if (strcmp(q->name, "gone.test") == 0) {
		put_head(reply, q->id, 0x8183, 0, 1, q->name, q->type);
		put_soa(reply, "test", 20, 20);
	} else if (strcmp(q->name, "lies.test") == 0) { /* an answer to another question, then the right one */
		if (server->questions == 1) {
			put_head(reply, q->id, 0x8180, 1, 0, "bank.test", q->type);
			put_a(reply, "bank.test", 60, "203.0.113.66");
		} else {
			put_head(reply, q->id, 0x8180, 1, 0, q->name, q->type);
			put_a(reply, q->name, 60, "192.0.2.2");
		}
	} else if (strcmp(q->name, "long.test") == 0 && !q->tcp) { /* too long for a datagram */
		put_head(reply, q->id, 0x8380, 0, 0, q->name, q->type);
	} else if (strcmp(q->name, "long.test") == 0) {
		put_head(reply, q->id, 0x8180, 1000, 0, q->name, q->type);
		for (int i = 0; i < 1000; i++) {
			char addr[32];

			snprintf(addr, sizeof addr, "192.0.%d.%d", i / 250, i % 250);
			put_a(reply, q->name, 60, addr);
		}
	} else if (strcmp(q->name, "loop.test") == 0) {
		put_head(reply, q->id, 0x8180, 2, 0, q->name, q->type);
		put_named(reply, q->name, TR_DNS_CNAME, 60, -1, "other.test");
		put_named(reply, "other.test", TR_DNS_CNAME, 60, -1, q->name);
	} else if (strncmp(q->name, "alias", 5) == 0) { /* alias1 -> alias2 -> ... for ever, one reply each */
		char next[32];

		snprintf(next, sizeof next, "alias%d.test", atoi(q->name + 5) + 1);
		put_head(reply, q->id, 0x8180, 1, 0, q->name, q->type);
		put_named(reply, q->name, TR_DNS_CNAME, 60, -1, next);
	} else if (strcmp(q->name, "start.test") == 0) { /* only the alias is told */
		put_head(reply, q->id, 0x8180, 1, 0, q->name, q->type);
		put_named(reply, q->name, TR_DNS_CNAME, 60, -1, "a.test");
	} else if (strcmp(q->name, "rubbish.test") == 0) {
		put_head(reply, q->id, 0x8180, 3, 0, q->name, q->type);
		tr_buf_add(reply, "\xc0", 1);
	} else if (strcmp(q->name, "short.search.test") == 0 || strcmp(q->name, "a.test") == 0) {
		put_head(reply, q->id, 0x8180, q->type == TR_DNS_A ? 2 : 0, 0, q->name, q->type);
		if (q->type == TR_DNS_A) {
			put_a(reply, q->name, 60, "192.0.2.1");
			put_a(reply, q->name, 60, "192.0.2.2");
		}
	} else {
		put_head(reply, q->id, 0x8183, 0, 0, q->name, q->type);
	}
}

static void
on_answer(void *arg, struct tr_dns_answer *answer)
{
	struct got *got = arg;

	got->calls++;
	got->status = answer->status;
	got->err = answer->err;
	got->count = answer->count;
	snprintf(got->why, sizeof got->why, "%s", answer->why != NULL ? answer->why : "");
	if (answer->count > 0)
		inet_ntop(AF_INET, &answer->records[0].v4, got->first, sizeof got->first);
}

static void
on_found(void *arg, const struct tr_dns_found *found)
{
	struct got *got = arg;

	got->calls++;
	got->status = found->status;
	got->err = found->err;
	got->count = found->count;
	snprintf(got->why, sizeof got->why, "%s", found->why != NULL ? found->why : "");
	if (found->count > 0)
		tr_sockaddr_text(&found->addrs[0], false, got->first);
}

static bool
is_answered(void *arg)
{
	return ((struct got *)arg)->calls > 0;
}

static struct got
look_up(const char *name)
{
	struct got got = {0};

	assert_non_null(tr_dns_ask(dns, NULL, name, TR_DNS_A, LIMIT_NS, on_answer, &got));
	assert_int_equal(got.calls, 0); /* never inside the call */
	assert_true(tr_loop_run_until(loop, is_answered, &got, LIMIT_NS));
	assert_int_equal(got.calls, 1);
	return got;
}

static void
answers_are_kept(void **state)
{
	struct got got = look_up("A.test.");

	assert_int_equal(got.status, TR_DNS_OK);
	assert_int_equal(got.count, 2);
	assert_string_equal(got.first, "192.0.2.1");
	got = look_up("a.test");
	assert_int_equal(got.count, 2);
	assert_int_equal(peer.questions, 1);
	got = look_up("gone.test");
	assert_int_equal(got.status, TR_DNS_NXDOMAIN);
	assert_int_equal(got.err, TR_ENOENT);
	look_up("gone.test");
	assert_int_equal(peer.questions, 2);
}

static void
equal_questions_are_asked_once(void **state)
{
	struct got got[10] = {{0}};

	for (size_t i = 0; i < TR_COUNT(got); i++)
		assert_non_null(tr_dns_ask(dns, NULL, "a.test", TR_DNS_A, LIMIT_NS, on_answer, &got[i]));
	for (size_t i = 0; i < TR_COUNT(got); i++) {
		assert_true(tr_loop_run_until(loop, is_answered, &got[i], LIMIT_NS));
		assert_int_equal(got[i].count, 2);
	}
	assert_int_equal(peer.questions, 1);
}

static void
who_leaves_does_not_end_it_for_the_others(void **state)
{
	struct got gone = {0}, stays = {0};
	struct tr_dns_query *query = tr_dns_ask(dns, NULL, "a.test", TR_DNS_A, LIMIT_NS, on_answer, &gone);

	assert_non_null(tr_dns_ask(dns, NULL, "a.test", TR_DNS_A, LIMIT_NS, on_answer, &stays));
	tr_dns_cancel(query);
	assert_true(tr_loop_run_until(loop, is_answered, &stays, LIMIT_NS));
	assert_int_equal(stays.count, 2);
	assert_int_equal(gone.calls, 0);
}

static void
a_lost_question_is_asked_again(void **state)
{
	use_peer(tr_resolver_new(TR_RESOLVER_SERVERS), HASTY_NS, ENOUGH);
	/* the second time the script knows no such name */
	assert_int_equal(look_up("slow.test").status, TR_DNS_NXDOMAIN);
	assert_true(peer.questions >= 2);
}

static void
silence_ends_at_the_deadline(void **state)
{
	struct got got = {0};

	/* its tries would take hours */
	assert_non_null(tr_dns_ask(dns, NULL, "silent.test", TR_DNS_A, 10 * TR_NS_PER_MS, on_answer, &got));
	assert_true(tr_loop_run_until(loop, is_answered, &got, LIMIT_NS));
	assert_int_equal(got.status, TR_DNS_FAILED);
	assert_int_equal(got.err, TR_ETIMEDOUT);
	/* without one, the tries come to an end */
	use_peer(tr_resolver_new(TR_RESOLVER_SERVERS), HASTY_NS, 2);
	got = look_up("silent.test");
	assert_int_equal(got.err, TR_ETIMEDOUT);
}

static void
a_failing_server_is_a_failure(void **state)
{
	struct got got = look_up("fails.test");

	assert_int_equal(got.status, TR_DNS_FAILED);
	assert_string_equal(got.why, "SERVFAIL, or no server can be reached");
	assert_int_equal(got.err, TR_EPROTO);
}

static void
an_answer_to_another_question_is_not_believed(void **state)
{
	struct got got;

	use_peer(tr_resolver_new(TR_RESOLVER_SERVERS), HASTY_NS, ENOUGH);
	got = look_up("lies.test");
	assert_int_equal(got.status, TR_DNS_OK);
	assert_string_equal(got.first, "192.0.2.2");
	assert_int_equal(look_up("bank.test").status, TR_DNS_NXDOMAIN); /* nor remembered */
}

static void
what_is_too_long_comes_by_tcp(void **state)
{
	struct got got = look_up("long.test");

	assert_int_equal(got.status, TR_DNS_OK);
	assert_int_equal(got.count, TR_DNS_RECORDS_MAX);
	assert_int_equal(peer.tcp_questions, 1);
}

static void
loops_and_rubbish_fail(void **state)
{
	assert_string_equal(look_up("loop.test").why, "a loop of CNAMEs");
	assert_string_equal(look_up("alias1.test").why, "a loop of CNAMEs");
	assert_true(peer.questions < 15);
	assert_int_equal(look_up("rubbish.test").status, TR_DNS_FAILED);
}

static void
an_alias_alone_is_followed(void **state)
{
	struct got got = look_up("start.test");

	assert_string_equal(got.first, "192.0.2.1");
	assert_int_equal(peer.questions, 2);
}

static void
short_names_are_searched(void **state)
{
	struct got got = {0};
	enum tr_ip_strategy v4 = TR_IP_V4_ONLY;

	assert_non_null(tr_dns_addrs(dns, NULL, "short", &v4, LIMIT_NS, on_found, &got));
	assert_true(tr_loop_run_until(loop, is_answered, &got, LIMIT_NS));
	assert_string_equal(got.first, "192.0.2.1");
}

static void
strategies_ask_what_they_need(void **state)
{
	static const struct {
		enum tr_ip_strategy strategy;
		int questions;
		size_t count;
	} cases[] = {{TR_IP_V4_AND_V6, 2, 2}, {TR_IP_V4_ONLY, 1, 2}, {TR_IP_V6_ONLY, 1, 0}, {TR_IP_V6_THEN_V4, 2, 2},
		{TR_IP_V4_THEN_V6, 1, 2}};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct got got = {0};

		use_peer(tr_resolver_new(TR_RESOLVER_SERVERS), PATIENT_NS, 2); /* with an empty cache */
		peer.questions = 0;
		assert_non_null(tr_dns_addrs(dns, NULL, "a.test", &cases[i].strategy, LIMIT_NS, on_found, &got));
		assert_true(tr_loop_run_until(loop, is_answered, &got, LIMIT_NS));
		assert_int_equal(peer.questions, cases[i].questions);
		assert_int_equal(got.count, cases[i].count);
		assert_int_equal(got.status, cases[i].count > 0 ? TR_DNS_OK : TR_DNS_NODATA);
	}
}

static void
an_aggregate_asks_one_after_the_other(void **state)
{
	struct tr_resolver *both = tr_resolver_new(TR_RESOLVER_AGGREGATE), *zones = tr_resolver_new(TR_RESOLVER_TEST);
	char error[256];

	assert_int_equal(tr_zones_new(&zones->zones), TR_OK);
	assert_int_equal(tr_zones_add(zones->zones, TR_STR("z.test. 60 A 192.0.2.9"), false, error), TR_OK);
	assert_int_equal(tr_resolver_ready(zones), TR_OK);
	both->children = calloc(2, sizeof *both->children);
	both->children[0] = zones;
	both->children[1] = tr_resolvers_get(tr_dns_resolvers(dns), NULL);
	both->child_count = 2;
	assert_int_equal(tr_resolver_ready(both), TR_OK);
	assert_int_equal(tr_resolvers_set(tr_dns_resolvers(dns), NULL, both), TR_OK);
	assert_string_equal(look_up("z.test").first, "192.0.2.9");
	assert_int_equal(peer.questions, 0);
	assert_string_equal(look_up("a.test").first, "192.0.2.1");
	assert_int_equal(look_up("gone.test").status, TR_DNS_NXDOMAIN);
}

static void
freeing_forgets_what_is_under_way(void **state)
{
	struct got got = {0};

	assert_non_null(tr_dns_ask(dns, NULL, "silent.test", TR_DNS_A, LIMIT_NS, on_answer, &got));
	assert_non_null(tr_dns_addrs(dns, NULL, "silent.test", NULL, LIMIT_NS, on_found, &got));
	for (int i = 0; i < 3; i++)
		tr_loop_turn(loop);
	tr_dns_free(dns);
	dns = NULL;
	assert_int_equal(got.calls, 0);
	assert_int_equal(tr_hold_count(), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(answers_are_kept),
		TEST(equal_questions_are_asked_once),
		TEST(who_leaves_does_not_end_it_for_the_others),
		TEST(a_lost_question_is_asked_again),
		TEST(silence_ends_at_the_deadline),
		TEST(a_failing_server_is_a_failure),
		TEST(an_answer_to_another_question_is_not_believed),
		TEST(what_is_too_long_comes_by_tcp),
		TEST(loops_and_rubbish_fail),
		TEST(an_alias_alone_is_followed),
		TEST(short_names_are_searched),
		TEST(strategies_ask_what_they_need),
		TEST(an_aggregate_asks_one_after_the_other),
		TEST(freeing_forgets_what_is_under_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
