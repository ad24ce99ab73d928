#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>

#include "net/dns_zone.h"

static struct tr_zones *zones;
static char error[256];

static int
setup(void **state)
{
	return tr_zones_new(&zones);
}

static int
teardown(void **state)
{
	tr_zones_free(zones);
	return 0;
}

static void
add(const char *text)
{
	int err = tr_zones_add(zones, tr_str(text), false, error);

	if (err != TR_OK)
		fail_msg("%s", error);
}

static struct tr_dns_answer *
ask(const char *name, enum tr_dns_type type)
{
	struct tr_dns_answer *answer = tr_zones_ask(zones, name, type);

	assert_non_null(answer);
	return answer;
}

static void
assert_status(const char *name, enum tr_dns_type type, enum tr_dns_status status)
{
	struct tr_dns_answer *answer = ask(name, type);

	assert_int_equal(answer->status, status);
	tr_dns_answer_unref(answer);
}

static void
assert_first(const char *name, enum tr_dns_type type, const char *text)
{
	struct tr_dns_answer *answer = ask(name, type);
	char addr[64];

	assert_int_equal(answer->status, TR_DNS_OK);
	if (type == TR_DNS_A || type == TR_DNS_AAAA) {
		inet_ntop(type == TR_DNS_A ? AF_INET : AF_INET6, &answer->records[0].v6, addr, sizeof addr);
		assert_string_equal(addr, text);
	} else {
		assert_string_equal(answer->records[0].text.data, text);
	}
	tr_dns_answer_unref(answer);
}

static void
a_master_file_is_read(void **state)
{
	struct tr_dns_answer *answer;

	add("$ORIGIN Example.COM.\n"
	    "$TTL 1h\n"
	    "@ IN SOA ns.example.com. admin.example.com. ( 2026 ; serial\n"
	    "      1h 10m 1w 30 )\n"
	    "  NS ns\n"
	    "  600 IN MX 10 mx1\n"
	    "  IN 700 MX 20 mx.other.test. ; a comment\n"
	    "\n"
	    "ns A 192.0.2.53\n"
	    "mx1 A 192.0.2.1\n"
	    "    AAAA 2001:db8::1\n"
	    "txt TXT \"v=spf1 \" \"-all; \\\"quoted\\\"\" \n"
	    "www CNAME web\n"
	    "web CNAME mx1.example.com.\n"
	    "1.2.0.192.in-addr.arpa. PTR mx1\n");
	answer = ask("example.com", TR_DNS_MX);
	assert_int_equal(answer->count, 2);
	assert_int_equal(answer->ttl_s, 600);
	assert_string_equal(answer->records[0].name.data, "mx1.example.com");
	assert_string_equal(answer->records[1].name.data, "mx.other.test");
	tr_dns_answer_unref(answer);
	assert_first("mx1.example.com", TR_DNS_AAAA, "2001:db8::1");
	assert_first("txt.example.com", TR_DNS_TXT, "v=spf1 -all; \"quoted\"");
	assert_first("www.example.com", TR_DNS_A, "192.0.2.1");
	assert_first("1.2.0.192.in-addr.arpa", TR_DNS_PTR, "mx1.example.com");
	assert_first("example.com", TR_DNS_NS, "ns.example.com");
}

static void
no_is_told_apart(void **state)
{
	struct tr_dns_answer *answer;

	add("a.b.test. 5 A 192.0.2.1\ntest. SOA ns. root. 1 2 3 4 17\n");
	assert_status("a.b.test", TR_DNS_MX, TR_DNS_NODATA);
	assert_status("b.test", TR_DNS_A, TR_DNS_NODATA); /* something is below it */
	assert_status("c.test", TR_DNS_A, TR_DNS_NXDOMAIN);
	assert_status("xb.test", TR_DNS_A, TR_DNS_NXDOMAIN);
	answer = ask("c.test", TR_DNS_A);
	assert_true(answer->has_soa);
	assert_int_equal(answer->ttl_s, 17);
	tr_dns_answer_unref(answer);
}

static void
wildcards_stand_for_what_does_not_exist(void **state)
{
	add("$ORIGIN test.\n*.w 5 MX 1 mx\nreal.w A 192.0.2.1\n");
	assert_first("x.w.test", TR_DNS_MX, "mx.test");
	assert_first("x.y.w.test", TR_DNS_MX, "mx.test");
	assert_status("real.w.test", TR_DNS_MX, TR_DNS_NODATA);
	assert_status("below.real.w.test", TR_DNS_MX, TR_DNS_NXDOMAIN);
}

static void
loops_and_servfail_fail(void **state)
{
	add("$ORIGIN test.\na CNAME b\nb CNAME a\nc A 192.0.2.1\n");
	assert_status("a.test", TR_DNS_A, TR_DNS_FAILED);
	assert_int_equal(tr_zones_add_servfail(zones, TR_STR("C.test.")), TR_OK);
	assert_status("c.test", TR_DNS_A, TR_DNS_FAILED);
	assert_status("x.c.test", TR_DNS_A, TR_DNS_FAILED);
}

static void
a_secure_zone_says_so(void **state)
{
	struct tr_dns_answer *answer;

	assert_int_equal(tr_zones_add(zones, TR_STR("a.test. MX 1 mx.test."), true, error), TR_OK);
	answer = ask("a.test", TR_DNS_MX);
	assert_true(answer->secure);
	tr_dns_answer_unref(answer);
}

static void
mistakes_are_named_with_their_line(void **state)
{
	static const char *const cases[][2] = {
		{"a.test. A 192.0.2.1\n\nb.test. A nonsense\n", "line 3: not an address 'nonsense'"},
		{"a A 192.0.2.1", "line 1: a name without its dot at the end, and no $ORIGIN 'a'"},
		{"$ORIGIN test.\n  @ MX 10 mx", "line 2: a type of A AAAA CNAME MX NS PTR SOA TXT expected, got '@'"},
		{"$ORIGIN test.\na MX mx", "line 2: MX: a preference and a host expected, got 'mx'"},
		{"$ORIGIN test.\na TXT \"open", "line 2: a text without its closing '\"'"},
		{"$ORIGIN test.\na SOA ( 1", "line 2: a '(' without ')'"},
		{"$INCLUDE file", "line 1: $ORIGIN name or $TTL seconds expected, got '$INCLUDE'"},
		{"$ORIGIN test.\na A", "line 2: a record without its data"},
		{"$ORIGIN test.\na 60", "line 2: a record without a type"},
		{"$ORIGIN test.\na CNAME b c", "line 2: one name expected behind the type, got 'b'"},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		assert_int_equal(tr_zones_add(zones, tr_str(cases[i][0]), false, error), TR_EINVAL);
		assert_string_equal(error, cases[i][1]);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(a_master_file_is_read),
		TEST(no_is_told_apart),
		TEST(wildcards_stand_for_what_does_not_exist),
		TEST(loops_and_servfail_fail),
		TEST(a_secure_zone_says_so),
		TEST(mistakes_are_named_with_their_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
