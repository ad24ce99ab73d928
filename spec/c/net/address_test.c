#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "net/address.h"

static void
reads_and_writes_addresses(void **state)
{
	static const struct {
		const char *text;
		uint16_t port; /* default */
		const char *full, *bare;
	} cases[] = {
		{"127.0.0.1:25", 0, "127.0.0.1:25", "127.0.0.1"},
		{"127.0.0.1", 2525, "127.0.0.1:2525", "127.0.0.1"},
		{"127.0.0.1:0", 0, "127.0.0.1:0", "127.0.0.1"},
		{"[::1]:25", 0, "[::1]:25", "::1"},
		{"[::1]", 25, "[::1]:25", "::1"},
		{"2001:db8::1", 25, "[2001:db8::1]:25", "2001:db8::1"},
		{"0.0.0.0:65535", 0, "0.0.0.0:65535", "0.0.0.0"},
		{"/run/x.sock", 0, "/run/x.sock", "/run/x.sock"},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_sockaddr addr;
		char text[64];

		assert_int_equal(tr_sockaddr_parse(tr_str(cases[i].text), cases[i].port, &addr), TR_OK);
		assert_int_equal(tr_sockaddr_text(&addr, true, text), strlen(cases[i].full));
		assert_string_equal(text, cases[i].full);
		tr_sockaddr_text(&addr, false, text);
		assert_string_equal(text, cases[i].bare);
	}
}

static void
refuses_what_is_no_address(void **state)
{
	static const char *const cases[] = {"", "127.0.0.1", "localhost:25", "127.0.0.1:", "127.0.0.1:65536",
		"127.0.0.1:-1", "127.0.0.1:2x", "[::1]", "[::1", "[::1]25", "[127.0.0.1]:25", "::1", "1.2.3:25",
		"127.0.0.1:25:25", ":25", "127.0.0.1 :25"};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_sockaddr addr;

		assert_int_equal(tr_sockaddr_parse(tr_str(cases[i]), 0, &addr), TR_EINVAL);
	}
}

static void
a_port_can_be_changed(void **state)
{
	struct tr_sockaddr addr;

	assert_int_equal(tr_sockaddr_parse(tr_str("[::1]:25"), 0, &addr), TR_OK);
	tr_sockaddr_set_port(&addr, 587);
	assert_int_equal(tr_sockaddr_port(&addr), 587);
}

static void
blocks_contain_their_addresses(void **state)
{
	static const struct {
		const char *block, *addr;
		bool in;
	} cases[] = {
		{"10.0.0.0/8", "10.255.1.2", true},
		{"10.0.0.0/8", "11.0.0.1", false},
		{"0.0.0.0/0", "192.0.2.1", true},
		{"0.0.0.0/0", "::1", false},
		{"127.0.0.1", "127.0.0.1", true},
		{"127.0.0.1", "127.0.0.2", false},
		{"192.168.4.0/22", "192.168.7.255", true},
		{"192.168.4.0/22", "192.168.8.0", false},
		{"::1", "::1", true},
		{"2001:db8::/33", "2001:db8:7fff::1", true},
		{"2001:db8::/33", "2001:db8:8000::1", false},
		{"::/0", "2001:db8::1", true},
		{"10.0.0.0/8", "::ffff:10.1.2.3", true}, /* a v4 peer on a v6 socket */
		{"::/0", "::ffff:10.1.2.3", false},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_cidr cidr;
		struct tr_sockaddr addr;

		assert_int_equal(tr_cidr_parse(tr_str(cases[i].block), &cidr, NULL), TR_OK);
		assert_int_equal(tr_sockaddr_parse(tr_str(cases[i].addr), 1, &addr), TR_OK);
		assert_int_equal(tr_cidr_contains(&cidr, &addr), cases[i].in);
	}
}

static void
bad_blocks_are_refused_with_a_hint(void **state)
{
	static const char *const cases[][2] = {{"10.1.2.3/8", "10.0.0.0/8"}, {"2001:db8::1/64", "2001:db8::/64"},
		{"10.0.0.0/33", ""}, {"10.0.0.0/", ""}, {"10.0.0.0/8x", ""}, {"host", ""}, {"", ""}, {"::1/129", ""}};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_cidr cidr;
		char hint[64];

		assert_int_equal(tr_cidr_parse(tr_str(cases[i][0]), &cidr, hint), TR_EINVAL);
		assert_string_equal(hint, cases[i][1]);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_and_writes_addresses),
		cmocka_unit_test(refuses_what_is_no_address),
		cmocka_unit_test(a_port_can_be_changed),
		cmocka_unit_test(blocks_contain_their_addresses),
		cmocka_unit_test(bad_blocks_are_refused_with_a_hint),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
