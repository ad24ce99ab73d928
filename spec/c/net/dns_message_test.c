#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dns_peer.h"

static struct tr_buf reply;

static int
teardown(void **state)
{
	tr_buf_free(&reply);
	return 0;
}

static struct tr_dns_answer *
parse(const char *name, enum tr_dns_type type)
{
	struct tr_dns_answer *answer = tr_dns_message_parse(reply.data, reply.len, name, type);

	assert_non_null(answer);
	return answer;
}

static void
mx_records_are_read(void **state)
{
	struct tr_dns_answer *answer;

	put_head(&reply, 1, 0x8180, 2, 0, "A.test", TR_DNS_MX);
	put_named(&reply, "a.TEST", TR_DNS_MX, 300, 10, "MX1.a.test");
	put_named(&reply, "a.test", TR_DNS_MX, 60, 0, "");
	answer = parse("a.test", TR_DNS_MX);
	assert_int_equal(answer->status, TR_DNS_OK);
	assert_int_equal(answer->count, 2);
	assert_int_equal(answer->ttl_s, 60); /* the shortest */
	assert_int_equal(answer->records[0].preference, 10);
	assert_string_equal(answer->records[0].name.data, "mx1.a.test");
	assert_int_equal(answer->records[1].name.len, 0);
	assert_false(answer->secure);
	tr_dns_answer_unref(answer);
}

static void
aliases_are_followed(void **state)
{
	struct tr_dns_answer *answer;

	put_head(&reply, 1, 0x81a0, 4, 0, "a.test", TR_DNS_A);
	put_a(&reply, "c.test", 300, "192.0.2.1"); /* in any order */
	put_named(&reply, "b.test", TR_DNS_CNAME, 20, -1, "c.test");
	put_named(&reply, "a.test", TR_DNS_CNAME, 100, -1, "b.test");
	put_a(&reply, "other.test", 300, "192.0.2.9"); /* nobody asked */
	answer = parse("a.test", TR_DNS_A);
	assert_int_equal(answer->count, 1);
	assert_int_equal(answer->ttl_s, 20);
	assert_string_equal(answer->alias, "c.test");
	assert_true(answer->secure);
	tr_dns_answer_unref(answer);
}

static void
a_loop_of_aliases_fails(void **state)
{
	struct tr_dns_answer *answer;

	put_head(&reply, 1, 0x8180, 2, 0, "a.test", TR_DNS_A);
	put_named(&reply, "a.test", TR_DNS_CNAME, 100, -1, "b.test");
	put_named(&reply, "b.test", TR_DNS_CNAME, 100, -1, "a.test");
	answer = parse("a.test", TR_DNS_A);
	assert_int_equal(answer->status, TR_DNS_FAILED);
	assert_string_equal(answer->why, "a loop of CNAMEs");
	tr_dns_answer_unref(answer);
}

static void
no_holds_as_long_as_the_zone_says(void **state)
{
	struct tr_dns_answer *answer;

	put_head(&reply, 1, 0x8183, 0, 1, "a.test", TR_DNS_MX);
	put_soa(&reply, "test", 500, 30);
	answer = parse("a.test", TR_DNS_MX);
	assert_int_equal(answer->status, TR_DNS_NXDOMAIN);
	assert_true(answer->has_soa);
	assert_int_equal(answer->ttl_s, 30);
	tr_dns_answer_unref(answer);
	tr_buf_clear(&reply);
	put_head(&reply, 1, 0x8180, 0, 0, "a.test", TR_DNS_MX);
	answer = parse("a.test", TR_DNS_MX);
	assert_int_equal(answer->status, TR_DNS_NODATA);
	assert_false(answer->has_soa);
	tr_dns_answer_unref(answer);
}

static void
texts_are_joined_and_may_hold_any_byte(void **state)
{
	static const char data[] = "\3a\0b\2cd";
	struct tr_dns_answer *answer;

	put_head(&reply, 1, 0x8180, 1, 0, "a.test", TR_DNS_TXT);
	put_rr(&reply, "a.test", TR_DNS_TXT, 1, data, sizeof data - 1);
	answer = parse("a.test", TR_DNS_TXT);
	assert_int_equal(answer->records[0].text.len, 5);
	assert_memory_equal(answer->records[0].text.data, "a\0bcd", 5);
	tr_dns_answer_unref(answer);
}

static void
odd_bytes_of_names_are_escaped(void **state)
{
	static const char data[] = "\0\1\4a. \1\0"; /* preference 1, the label "a. \1" */
	struct tr_dns_answer *answer;

	put_head(&reply, 1, 0x8180, 1, 0, "a.test", TR_DNS_MX);
	put_rr(&reply, "a.test", TR_DNS_MX, 1, data, sizeof data - 1);
	answer = parse("a.test", TR_DNS_MX);
	assert_string_equal(answer->records[0].name.data, "a\\.\\032\\001");
	tr_dns_answer_unref(answer);
}

static void
what_makes_no_sense_fails(void **state)
{
	static const struct {
		uint16_t flags;
		const char *name;
		uint16_t type;
		const char *why;
	} cases[] = {
		{0x0100, "a.test", TR_DNS_A, "a malformed reply"}, /* a question */
		{0x8180, "b.test", TR_DNS_A, "a malformed reply"}, /* to another one */
		{0x8180, "a.test", TR_DNS_AAAA, "a malformed reply"},
		{0x8182, "a.test", TR_DNS_A, "SERVFAIL"},
		{0x8185, "a.test", TR_DNS_A, "REFUSED"},
		{0x8380, "a.test", TR_DNS_A, "a truncated reply"},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_dns_answer *answer;

		tr_buf_clear(&reply);
		put_head(&reply, 1, cases[i].flags, 0, 0, cases[i].name, cases[i].type);
		answer = parse("a.test", TR_DNS_A);
		assert_int_equal(answer->status, TR_DNS_FAILED);
		assert_string_equal(answer->why, cases[i].why);
		tr_dns_answer_unref(answer);
	}
}

static void
a_name_that_points_at_itself_ends(void **state)
{
	struct tr_dns_answer *answer;

	put_head(&reply, 1, 0x8180, 1, 0, "a.test", TR_DNS_A);
	put16(&reply, 0xc000 | (uint32_t)reply.len); /* the owner */
	put16(&reply, TR_DNS_A);
	put16(&reply, 1);
	put32(&reply, 1);
	put16(&reply, 0);
	answer = parse("a.test", TR_DNS_A);
	assert_int_equal(answer->status, TR_DNS_FAILED);
	tr_dns_answer_unref(answer);
}

/* Cut at every length, and with every byte changed: an answer or a failure, never more (AddressSanitizer watches). */
static void
damage_is_survived(void **state)
{
	struct tr_buf copy = {0};

	put_head(&reply, 1, 0x8180, 3, 1, "a.test", TR_DNS_MX);
	put_named(&reply, "a.test", TR_DNS_CNAME, 100, -1, "b.test");
	put_named(&reply, "b.test", TR_DNS_MX, 300, 10, "mx.b.test");
	put16(&reply, 0xc00c);
	tr_buf_add(&reply, "\0\17\0\1\0\0\0\1\0\4\0\5\xc0\x0c", 14);
	put_soa(&reply, "test", 500, 30);
	for (size_t len = 0; len <= reply.len; len++) {
		char *exact = malloc(len > 0 ? len : 1); /* its end is the end of memory */

		memcpy(exact, reply.data, len);
		tr_dns_answer_unref(tr_dns_message_parse(exact, len, "a.test", TR_DNS_MX));
		free(exact);
	}
	for (size_t at = 0; at < reply.len; at++) {
		for (int value = 0; value < 256; value += at < 12 ? 1 : 5) {
			tr_buf_clear(&copy);
			tr_buf_add(&copy, reply.data, reply.len);
			copy.data[at] = (char)value;
			tr_dns_answer_unref(tr_dns_message_parse(copy.data, copy.len, NULL, TR_DNS_MX));
		}
	}
	tr_buf_free(&copy);
}

static void
a_flood_of_records_is_cut(void **state)
{
	struct tr_dns_answer *answer;

	put_head(&reply, 1, 0x8180, 2000, 0, "a.test", TR_DNS_A);
	for (int i = 0; i < 2000; i++)
		put_a(&reply, "a.test", 300, "192.0.2.1");
	answer = parse("a.test", TR_DNS_A);
	assert_int_equal(answer->status, TR_DNS_OK);
	assert_int_equal(answer->count, TR_DNS_RECORDS_MAX);
	tr_dns_answer_unref(answer);
}

/* Pointers that point at pointers: each name would cost thousands of steps, in thousands of records. */
static void
a_name_of_pointers_only_fails(void **state)
{
	struct tr_dns_answer *answer;
	size_t first;

	put_head(&reply, 1, 0x8180, 2, 0, "a.test", TR_DNS_A);
	first = reply.len + 11; /* of the data, behind a root as the owner */
	put_rr(&reply, "", TR_DNS_TXT, 60, "", 0);
	reply.len -= 2;
	put16(&reply, 600);
	put16(&reply, 0); /* the root, where the first points to */
	for (size_t i = 1; i < 300; i++)
		put16(&reply, (uint16_t)(0xc000 | (first + 2 * (i - 1))));
	put16(&reply, (uint16_t)(0xc000 | (reply.len - 2))); /* an owner */
	put16(&reply, TR_DNS_A);
	put16(&reply, 1);
	put32(&reply, 60);
	put16(&reply, 4);
	put32(&reply, 0x7f000001);
	answer = parse("a.test", TR_DNS_A);
	assert_int_equal(answer->status, TR_DNS_FAILED);
	tr_dns_answer_unref(answer);
}

static void
names_are_made_normal(void **state)
{
	static const char *const cases[][2] = {{"Example.COM.", "example.com"}, {".", ""},
		{"b\xc3\xbc"
		 "cher.test",
			"xn--bcher-kva.test"},
		{"_dmarc.a.test", "_dmarc.a.test"}, {"a..b", NULL}, {"", NULL}, {".a", NULL}, {"a b", NULL},
		{"a:25", NULL}, {"[192.0.2.1", NULL}, {"\xff\xfe", NULL},
		{"a123456789012345678901234567890123456789012345678901234567890123.test", NULL}};
	char out[TR_DNS_NAME_MAX];

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		int err = tr_dns_name_normal(tr_str(cases[i][0]), out);

		assert_int_equal(err, cases[i][1] != NULL ? TR_OK : TR_EINVAL);
		if (cases[i][1] != NULL)
			assert_string_equal(out, cases[i][1]);
	}
	assert_int_equal(tr_dns_name_reverse(TR_STR("192.0.2.1"), true, out), TR_OK);
	assert_string_equal(out, "1.2.0.192.in-addr.arpa");
	assert_int_equal(tr_dns_name_reverse(TR_STR("::1"), false, out), TR_OK);
	assert_string_equal(out, "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0");
	assert_int_equal(tr_dns_name_reverse(TR_STR("a.test"), true, out), TR_EINVAL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, NULL, teardown)
		TEST(mx_records_are_read),
		TEST(aliases_are_followed),
		TEST(a_loop_of_aliases_fails),
		TEST(no_holds_as_long_as_the_zone_says),
		TEST(texts_are_joined_and_may_hold_any_byte),
		TEST(odd_bytes_of_names_are_escaped),
		TEST(what_makes_no_sense_fails),
		TEST(a_name_that_points_at_itself_ends),
		TEST(a_name_of_pointers_only_fails),
		TEST(damage_is_survived),
		TEST(a_flood_of_records_is_cut),
		TEST(names_are_made_normal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
