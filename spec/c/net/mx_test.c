/* Mail exchangers from the zones of a test resolver, under the virtual clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "net/mx.h"

#define LIMIT_NS (60 * TR_NS_PER_S)

static const char ZONE[] = "$ORIGIN test.\n"
			   "$TTL 100\n"
			   "ordered MX 20 b.site\n"
			   "ordered MX 10 z.site\n"
			   "ordered MX 10 A.site\n"
			   "ordered MX 30 b.site\n"
			   "null 100 MX 0 .\n"
			   "mixed MX 5 mx\n"
			   "mixed MX 0 .\n"
			   "plain A 192.0.2.1\n"
			   "alias CNAME ordered\n"
			   "short 1 MX 1 mx\n";

static struct tr_loop *loop;
static struct tr_dns *dns;

struct got {
	int calls;
	struct tr_mx *mx;
};

static void
use_zone(const char *text)
{
	struct tr_resolver *resolver = tr_resolver_new(TR_RESOLVER_TEST);
	char error[256];

	assert_non_null(resolver);
	assert_int_equal(tr_zones_new(&resolver->zones), TR_OK);
	if (tr_zones_add(resolver->zones, tr_str(text), false, error) != TR_OK)
		fail_msg("%s", error);
	assert_int_equal(tr_zones_add_servfail(resolver->zones, TR_STR("broken.test")), TR_OK);
	assert_int_equal(tr_resolver_ready(resolver), TR_OK);
	assert_int_equal(tr_resolvers_set(tr_dns_resolvers(dns), NULL, resolver), TR_OK);
}

static int
setup(void **state)
{
	tr_clock_virtual(INT64_C(1785000000) * TR_NS_PER_S);
	if (tr_loop_new(&loop) != TR_OK || tr_dns_new(loop, &dns) != TR_OK)
		return -1;
	use_zone(ZONE);
	return 0;
}

static int
teardown(void **state)
{
	tr_dns_free(dns);
	tr_loop_free(loop);
	tr_clock_real();
	return tr_hold_count();
}

static void
on_mx(void *arg, struct tr_mx *mx)
{
	struct got *got = arg;

	got->calls++;
	got->mx = tr_mx_ref(mx);
}

static bool
is_answered(void *arg)
{
	return ((struct got *)arg)->calls > 0;
}

/* The caller unrefs. */
static struct tr_mx *
find(const char *domain)
{
	struct got got = {0};

	assert_non_null(tr_mx_find(dns, NULL, domain, on_mx, &got));
	assert_int_equal(got.calls, 0); /* never inside the call */
	assert_true(tr_loop_run_until(loop, is_answered, &got, LIMIT_NS));
	assert_int_equal(got.calls, 1);
	assert_non_null(got.mx);
	return got.mx;
}

static void
hosts_are_ordered_by_preference_and_name(void **state)
{
	struct tr_mx *mx = find("Ordered.TEST.");

	assert_int_equal(mx->status, TR_DNS_OK);
	assert_true(mx->is_mx);
	assert_int_equal(mx->count, 3); /* b.site once, where it is wanted most */
	assert_string_equal(mx->hosts[0].name, "a.site.test");
	assert_string_equal(mx->hosts[1].name, "z.site.test");
	assert_string_equal(mx->hosts[2].name, "b.site.test");
	assert_int_equal(mx->hosts[2].preference, 20);
	assert_string_equal(mx->site, "(a|z|b).site.test");
	assert_string_equal(mx->domain, "ordered.test");
	tr_mx_unref(mx);
	mx = find("alias.test");
	assert_string_equal(mx->site, "(a|z|b).site.test");
	tr_mx_unref(mx);
}

static void
without_mx_a_domain_is_its_own_host(void **state)
{
	struct tr_mx *mx = find("plain.test");

	assert_int_equal(mx->status, TR_DNS_OK);
	assert_false(mx->is_mx);
	assert_int_equal(mx->count, 1);
	assert_string_equal(mx->hosts[0].name, "plain.test");
	assert_string_equal(mx->site, "plain.test");
	tr_mx_unref(mx);
}

static void
a_null_mx_is_one_that_stands_alone(void **state)
{
	struct tr_mx *mx = find("null.test");

	assert_true(mx->is_null);
	assert_string_equal(mx->site, "");
	tr_mx_unref(mx);
	mx = find("mixed.test");
	assert_false(mx->is_null);
	assert_int_equal(mx->count, 1);
	assert_string_equal(mx->hosts[0].name, "mx.test");
	tr_mx_unref(mx);
}

static void
literals_are_addresses(void **state)
{
	static const char *const cases[][2] = {{"[192.0.2.1]", "192.0.2.1"}, {"[IPv6:2001:DB8::1]", "2001:db8::1"},
		{"[192.0.2.1]:25", NULL}, {"[nonsense]", NULL}, {"[]", NULL}, {"a b.test", NULL}, {"", NULL}};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_mx *mx = find(cases[i][0]);

		assert_int_equal(mx->is_literal, cases[i][1] != NULL);
		assert_int_equal(mx->status, cases[i][1] != NULL ? TR_DNS_OK : TR_DNS_NXDOMAIN);
		if (cases[i][1] != NULL) {
			assert_string_equal(mx->site, cases[i][1]);
			assert_string_equal(mx->hosts[0].name, cases[i][1]);
		}
		tr_mx_unref(mx);
	}
}

/* Seconds until what is known of a domain is asked anew. */
static int64_t
life_s(const char *domain)
{
	struct tr_mx *mx = find(domain);
	int64_t left_ns = mx->item.expires_ns - tr_mono_ns();

	tr_mx_unref(mx);
	return left_ns / TR_NS_PER_S;
}

static void
answers_hold_for_their_time(void **state)
{
	struct tr_mx *mx;

	assert_int_equal(life_s("ordered.test"), 100);
	assert_int_equal(life_s("short.test"), 1);
	assert_int_equal(life_s("gone.test"), 300);
	assert_int_equal(life_s("broken.test"), 60);
	atomic_store(&tr_dns_resolvers(dns)->mx_negative_ns, 7 * TR_NS_PER_S);
	assert_int_equal(life_s("away.test"), 7);
	tr_loop_advance(loop, 50 * TR_NS_PER_S);
	assert_int_equal(life_s("ordered.test"), 50); /* from the cache */
	tr_loop_advance(loop, 51 * TR_NS_PER_S);
	assert_int_equal(life_s("ordered.test"), 100);
	mx = find("broken.test");
	assert_int_equal(mx->status, TR_DNS_FAILED);
	assert_string_equal(mx->why, "SERVFAIL");
	tr_mx_unref(mx);
	assert_true(tr_metric_read("dns_mx_resolve_cache_hit", NULL) > 0);
	assert_int_equal(tr_metric_read("dns_mx_resolve_in_progress", NULL), 0);
}

static void
no_more_than_the_limit_are_under_way(void **state)
{
	struct got got[6] = {{0}};
	struct tr_mx_query *queries[6];
	char domain[32];

	atomic_store(&tr_dns_resolvers(dns)->mx_limit, 2);
	for (int i = 0; i < 6; i++) {
		snprintf(domain, sizeof domain, "d%d.test", i);
		queries[i] = tr_mx_find(dns, NULL, domain, on_mx, &got[i]);
		assert_non_null(queries[i]);
	}
	assert_int_equal(tr_metric_read("dns_mx_resolve_in_progress", NULL), 2);
	tr_mx_cancel(queries[3]); /* from the middle of the line */
	tr_mx_cancel(queries[5]); /* its end */
	tr_mx_cancel(queries[0]); /* under way: its place goes to the next */
	assert_int_equal(tr_metric_read("dns_mx_resolve_in_progress", NULL), 2);
	assert_true(tr_loop_run_until(loop, is_answered, &got[4], LIMIT_NS));
	for (int i = 0; i < 6; i++) {
		assert_int_equal(got[i].calls, i == 1 || i == 2 || i == 4);
		tr_mx_unref(got[i].mx);
	}
	assert_int_equal(tr_metric_read("dns_mx_resolve_in_progress", NULL), 0);
}

static void
freeing_forgets_them(void **state)
{
	struct got got = {0};

	atomic_store(&tr_dns_resolvers(dns)->mx_limit, 1);
	tr_mx_find(dns, NULL, "a.test", on_mx, &got);
	tr_mx_find(dns, NULL, "b.test", on_mx, &got);
	tr_mx_find(dns, NULL, "[192.0.2.1]", on_mx, &got);
	tr_dns_free(dns);
	dns = NULL;
	assert_int_equal(got.calls, 0);
}

/* A worker of its own: it looks up the same domains as the other, while the resolver is replaced. */
static void *
look_up_many(void *arg)
{
	struct tr_resolvers *resolvers = arg;
	struct tr_loop *own_loop;
	struct tr_dns *own;
	long failed = 0;

	if (tr_loop_new(&own_loop) != TR_OK || tr_dns_new_shared(own_loop, resolvers, &own) != TR_OK)
		return (void *)1;
	for (int i = 0; i < 2000; i++) {
		static const char *const domains[] = {"ordered.test", "null.test", "gone.test", "alias.test"};
		struct got got = {0};

		if (tr_mx_find(own, NULL, domains[i % 4], on_mx, &got) == NULL ||
			!tr_loop_run_until(own_loop, is_answered, &got, LIMIT_NS) || got.mx == NULL ||
			(got.mx->status == TR_DNS_OK) != (i % 4 != 2))
			failed++;
		tr_mx_unref(got.mx);
	}
	tr_dns_free(own);
	tr_loop_free(own_loop);
	return (void *)failed;
}

static void
workers_share_resolvers(void **state)
{
	struct tr_resolvers *resolvers = tr_resolvers_ref(tr_dns_resolvers(dns));
	pthread_t threads[2];
	void *failed;

	tr_clock_real();
	for (size_t i = 0; i < TR_COUNT(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, look_up_many, resolvers), 0);
	for (int i = 0; i < 20; i++)
		use_zone(ZONE);
	for (size_t i = 0; i < TR_COUNT(threads); i++) {
		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
	tr_resolvers_unref(resolvers);
}

static void
a_site_is_named_by_its_hosts(void **state)
{
	static const struct {
		const char *hosts[8];
		const char *site;
	} cases[] = {
		{{"gmail-smtp-in.l.google.com", "alt1.gmail-smtp-in.l.google.com", "alt2.gmail-smtp-in.l.google.com",
			 "alt3.gmail-smtp-in.l.google.com", "alt4.gmail-smtp-in.l.google.com"},
			"(alt1|alt2|alt3|alt4)?.gmail-smtp-in.l.google.com"},
		{{"a.mx.example", "b.mx.example"}, "(a|b).mx.example"},
		{{"only.example"}, "only.example"},
		{{"mx.one.example", "mx.two.example"}, "mx.(one|two).example"},
		{{"a.x.test", "b.y.test", "a.y.test"}, "(a|b).(x|y).test"},
		{{"a.test", "a.org"}, "a.(test|org)"},
		{{"mail.a.test", "a.test"}, "(mail)?.a.test"},
		{{""}, ""},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_mx_host hosts[8] = {{0}};
		uint32_t count = 0;
		char *site;

		while (count < 8 && cases[i].hosts[count] != NULL) {
			hosts[count].name = (char *)cases[i].hosts[count];
			count++;
		}
		site = tr_mx_site(hosts, count);
		assert_string_equal(site, cases[i].site);
		free(site);
	}
}

/* Names of 127 labels, all of them different: an answer may bring 256, and whoever sends mail may choose them. */
static void
a_site_of_many_long_names_is_cheap(void **state)
{
	enum { HOSTS = 256, LABELS = 127 };
	static struct tr_mx_host hosts[HOSTS];
	static char names[HOSTS][2 * LABELS];
	struct timespec began, ended;
	char *site;

	for (int i = 0; i < HOSTS; i++) {
		for (int j = 0; j < LABELS; j++) {
			names[i][2 * j] = (char)(i == 0 ? '!' : i);
			names[i][2 * j + 1] = j < LABELS - 1 ? '.' : '\0';
		}
		if (i == '.')
			names[i][0] = '\0';
		hosts[i].name = names[i];
	}
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &began);
	site = tr_mx_site(hosts, HOSTS);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ended);
	assert_non_null(site);
	assert_int_equal(strlen(site), LABELS * (3 + 254 + 253) + LABELS - 1);
	assert_true((double)(ended.tv_sec - began.tv_sec) + (double)(ended.tv_nsec - began.tv_nsec) / 1e9 < 0.5);
	free(site);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(a_site_of_many_long_names_is_cheap),
		TEST(hosts_are_ordered_by_preference_and_name),
		TEST(without_mx_a_domain_is_its_own_host),
		TEST(a_null_mx_is_one_that_stands_alone),
		TEST(literals_are_addresses),
		TEST(answers_hold_for_their_time),
		TEST(no_more_than_the_limit_are_under_way),
		TEST(freeing_forgets_them),
		TEST(workers_share_resolvers),
		TEST(a_site_is_named_by_its_hosts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
