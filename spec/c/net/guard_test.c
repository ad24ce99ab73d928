#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "net/guard.h"

static struct tr_sockaddr
address(const char *text)
{
	struct tr_sockaddr addr;

	if (tr_sockaddr_parse(tr_str(text), 80, &addr) != TR_OK)
		fail_msg("%s is no address", text);
	return addr;
}

/* First and last of each block, and its neighbours. */
static void
knows_what_is_public(void **state)
{
	static const char *const public[] = {"1.0.0.0", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0",
		"126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0",
		"192.0.1.0", "192.0.3.0", "192.88.98.255", "192.88.100.0", "192.167.255.255", "192.169.0.0",
		"198.17.255.255", "198.20.0.0", "198.51.99.255", "198.51.101.0", "203.0.112.255", "203.0.114.0",
		"223.255.255.255", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1",
		"2001:200::", "2001:db7::", "2001:db9::", "2a00:1450::1", "2606:4700::1111", "3fff:1000::"};
	static const char *const private[] = {"0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0",
		"100.127.255.255", "127.0.0.0", "127.0.0.1", "127.255.255.255", "169.254.0.0", "169.254.169.254",
		"169.254.255.255", "172.16.0.0", "172.31.255.255", "192.0.0.0", "192.0.0.255", "192.0.2.1",
		"192.88.99.1", "192.168.0.0", "192.168.255.255", "198.18.0.0", "198.19.255.255", "198.51.100.1",
		"203.0.113.255", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "::", "::1",
		"::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:0:0", "::ffff:169.254.169.254",
		"::ffff:10.1.2.3", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::8.8.8.8", "100::1",
		"2001::1", "2001:1ff:ffff::", "2001:db8::1", "2001:db8:ffff::", "2002:a00:1::1",
		"2002:7f00:1::", "3fff::1", "3fff:fff::1", "4000::1", "5f00::1", "fc00::1", "fdff:ffff::1", "fe80::1",
		"febf::1", "fec0::1", "ff02::1"};
	struct tr_sockaddr addr;

	for (size_t i = 0; i < TR_COUNT(public); i++) {
		addr = address(public[i]);
		if (!tr_address_is_public(&addr))
			fail_msg("%s is public", public[i]);
	}
	for (size_t i = 0; i < TR_COUNT(private); i++) {
		addr = address(private[i]);
		if (tr_address_is_public(&addr))
			fail_msg("%s is not public", private[i]);
	}
	addr = address("/run/x.sock");
	assert_false(tr_address_is_public(&addr));
}

static void
allows_what_is_listed(void **state)
{
	static const struct {
		const char *text;
		bool off, none, listed; /* allowed by no guard, by one without a list, by one with the list below */
	} cases[] = {
		{"8.8.8.8", true, true, true},
		{"127.0.0.1", true, false, false},
		{"10.1.2.3", true, false, true},
		{"10.2.2.3", true, false, false},
		{"::ffff:10.1.2.3", true, false, true},
		{"fd00:1::5", true, false, true},
		{"fd00:2::5", true, false, false},
	};
	struct tr_cidr allow[2];
	struct tr_guard off = {0}, none = {.deny_private = true};
	struct tr_guard listed = {.deny_private = true, .allow = allow, .allow_count = 2};

	assert_int_equal(tr_cidr_parse(TR_STR("10.1.0.0/16"), &allow[0], NULL), TR_OK);
	assert_int_equal(tr_cidr_parse(TR_STR("fd00:1::/32"), &allow[1], NULL), TR_OK);
	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_sockaddr addr = address(cases[i].text);

		if (tr_guard_allows(&off, &addr) != cases[i].off || tr_guard_allows(&none, &addr) != cases[i].none ||
			tr_guard_allows(&listed, &addr) != cases[i].listed)
			fail_msg("%s", cases[i].text);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(knows_what_is_public),
		cmocka_unit_test(allows_what_is_listed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
