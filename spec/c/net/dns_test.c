#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "net/dns.h"

#define LIMIT_NS (60 * TR_NS_PER_S)

static struct tr_loop *loop;
static struct tr_dns *dns;

struct answer {
	int calls, err;
	size_t count;
	char first[64];
};

static int
setup(void **state)
{
	return tr_loop_new(&loop) == TR_OK ? tr_dns_new(loop, &dns) : -1;
}

static int
teardown(void **state)
{
	tr_dns_free(dns);
	tr_loop_free(loop);
	return tr_hold_count();
}

static void
on_answer(void *arg, int err, const struct tr_sockaddr *addrs, size_t count)
{
	struct answer *answer = arg;

	answer->calls++;
	answer->err = err;
	answer->count = count;
	if (count > 0)
		tr_sockaddr_text(&addrs[0], true, answer->first);
}

static bool
answered(void *arg)
{
	return ((struct answer *)arg)->calls > 0;
}

static void
literals_need_no_look_up(void **state)
{
	static const char *const cases[][2] = {{"127.0.0.1", "127.0.0.1:0"}, {"::1", "[::1]:0"},
		{"[192.0.2.7]", "192.0.2.7:0"}, {"[IPv6:2001:db8::1]", "[2001:db8::1]:0"}};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct answer answer = {0};

		assert_non_null(tr_dns_addr(dns, cases[i][0], LIMIT_NS, on_answer, &answer));
		assert_int_equal(answer.calls, 0); /* never inside the call */
		assert_true(tr_loop_run_until(loop, answered, &answer, LIMIT_NS));
		assert_int_equal(answer.err, TR_OK);
		assert_string_equal(answer.first, cases[i][1]);
	}
}

static void
names_of_the_hosts_file_are_found(void **state)
{
	struct answer answer = {0};

	assert_non_null(tr_dns_addr(dns, "localhost", LIMIT_NS, on_answer, &answer));
	assert_int_equal(answer.calls, 0);
	assert_true(tr_loop_run_until(loop, answered, &answer, LIMIT_NS));
	assert_int_equal(answer.err, TR_OK);
	assert_true(answer.count >= 1);
	assert_true(strcmp(answer.first, "127.0.0.1:0") == 0 || strcmp(answer.first, "[::1]:0") == 0);
}

static void
a_cancelled_query_is_silent(void **state)
{
	struct answer answer = {0};

	tr_dns_cancel(tr_dns_addr(dns, "127.0.0.1", LIMIT_NS, on_answer, &answer));
	tr_dns_cancel(tr_dns_addr(dns, "localhost", LIMIT_NS, on_answer, &answer));
	for (int i = 0; i < 5; i++)
		tr_loop_turn(loop);
	assert_int_equal(answer.calls, 0);
	assert_int_equal(tr_hold_count(), 0);
}

static void
a_bad_name_has_no_address(void **state)
{
	struct answer answer = {0};

	assert_non_null(tr_dns_addr(dns, "a..b", LIMIT_NS, on_answer, &answer));
	assert_true(tr_loop_run_until(loop, answered, &answer, LIMIT_NS));
	assert_int_equal(answer.err, TR_ENOENT);
	assert_int_equal(answer.count, 0);
}

/* Queries that are under way when the object goes: no call, no leak, no hold. */
static void
freeing_ends_what_is_under_way(void **state)
{
	struct answer answer = {0};

	assert_non_null(tr_dns_addr(dns, "::1", LIMIT_NS, on_answer, &answer));
	assert_non_null(tr_dns_addr(dns, "localhost", LIMIT_NS, on_answer, &answer));
	tr_dns_free(dns);
	dns = NULL;
	assert_int_equal(answer.calls, 0);
	assert_int_equal(tr_hold_count(), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(literals_need_no_look_up),
		TEST(names_of_the_hosts_file_are_found),
		TEST(a_cancelled_query_is_silent),
		TEST(a_bad_name_has_no_address),
		TEST(freeing_ends_what_is_under_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
