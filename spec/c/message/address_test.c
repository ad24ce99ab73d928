#include "message/address.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void
good_addresses(void **state)
{
	static const struct {
		const char *text, *email, *user, *domain;
	} cases[] = {
		{"", "", "", ""},
		{"<>", "", "", ""},
		{"a@b", "a@b", "a", "b"},
		{"<Ann.Lee+x@Dest.Test>", "Ann.Lee+x@Dest.Test", "Ann.Lee+x", "Dest.Test"},
		{"postMASTER", "Postmaster", "postmaster", ""},
		{"<Postmaster>", "Postmaster", "postmaster", ""},
		{"postmaster@d.test", "postmaster@d.test", "postmaster", "d.test"},
		{"\"a b\"@d.test", "\"a b\"@d.test", "a b", "d.test"},
		{"<\"a\\\"b@c>\"@d.test>", "\"a\\\"b@c>\"@d.test", "a\"b@c>", "d.test"},
		{"\"\"@d.test", "\"\"@d.test", "", "d.test"},
		{"<@r1.test,@r2.test:u@d.test>", "u@d.test", "u", "d.test"},
		{"@r1.test:u@d.test", "u@d.test", "u", "d.test"},
		{"u@[192.0.2.1]", "u@[192.0.2.1]", "u", "[192.0.2.1]"},
		{"u@[IPv6:2001:db8::1]", "u@[IPv6:2001:db8::1]", "u", "[IPv6:2001:db8::1]"},
		{"u@[tag:x.y]", "u@[tag:x.y]", "u", "[tag:x.y]"},
		{"j\xc3\xbcrg@m\xc3\xbcller.test", "j\xc3\xbcrg@m\xc3\xbcller.test", "j\xc3\xbcrg",
			"m\xc3\xbcller.test"},
		{"u@a_b.test", "u@a_b.test", "u", "a_b.test"},
		{"{}|~!#$%&'*+-/=?^_`@d", "{}|~!#$%&'*+-/=?^_`@d", "{}|~!#$%&'*+-/=?^_`", "d"},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_addr addr, copy;
		struct tr_buf user = {0};

		assert_int_equal(tr_addr_parse(tr_str(cases[i].text), &addr), TR_OK);
		assert_string_equal(addr.email, cases[i].email);
		assert_int_equal(addr.len, strlen(cases[i].email));
		assert_true(tr_str_eq(tr_addr_domain(&addr), tr_str(cases[i].domain)));
		assert_int_equal(tr_addr_copy(&addr, &copy), TR_OK);
		tr_addr_fini(&addr);
		tr_addr_user(&copy, &user);
		assert_true(tr_str_eq((struct tr_str){user.data, user.len}, tr_str(cases[i].user)));
		assert_string_equal(copy.email, cases[i].email);
		tr_buf_free(&user);
		tr_addr_fini(&copy);
	}
}

static void
bad_addresses(void **state)
{
	static const char *const cases[] = {
		"a",
		"a@",
		"@b",
		"a@b@c",
		"a b@c",
		"<a@b",
		"a@b>",
		"<",
		">",
		"<<a@b>>",
		"a..b@c",
		".a@b",
		"a.@b",
		"a@-b",
		"a@b-",
		"a@b..c",
		"a@b.",
		"a@.b",
		"a@[1.2.3]",
		"a@[IPv6:xyz]",
		"a@[]",
		"a@[1.2.3.4",
		"\"a@b",
		"\"a\"b@c",
		"\"a\n\"@c",
		"\"a\\\"@c",
		"a\r\n@b",
		"a\xff@b",
		"a@b\xc3",
		"@r1,u@d",
		"@r1:",
		"@:u@d",
		"@r1,@r2u@d",
		" a@b",
		"a@b ",
		"a,b@c",
		"postmaster2",
		"<postmaster",
		"a@b c",
		"(x)a@b",
	};
	struct tr_addr addr;

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		int err = tr_addr_parse(tr_str(cases[i]), &addr);

		if (err != TR_EINVAL)
			fail_msg("%s was taken as %s", cases[i], addr.email);
	}
	assert_int_equal(tr_addr_parse((struct tr_str){"a\0b@c", 5}, &addr), TR_EINVAL);
}

static void
lengths_are_bounded(void **state)
{
	char text[3000];
	struct tr_addr addr;

	memset(text, 'x', sizeof text);
	memcpy(text + 512, "@d", 2);
	assert_int_equal(tr_addr_parse((struct tr_str){text, 514}, &addr), TR_OK);
	tr_addr_fini(&addr);
	memset(text, 'x', sizeof text);
	memcpy(text + 513, "@d", 2);
	assert_int_equal(tr_addr_parse((struct tr_str){text, 515}, &addr), TR_EINVAL);
	memset(text, 'x', sizeof text);
	memcpy(text, "u@", 2);
	assert_int_equal(tr_addr_parse((struct tr_str){text, 2 + 63}, &addr), TR_OK);
	tr_addr_fini(&addr);
	assert_int_equal(tr_addr_parse((struct tr_str){text, 2 + 64}, &addr), TR_EINVAL);
	for (size_t i = 2; i < sizeof text; i++)
		text[i] = i % 2 == 0 ? 'x' : '.';
	assert_int_equal(tr_addr_parse((struct tr_str){text, 2 + 255}, &addr), TR_OK);
	tr_addr_fini(&addr);
	assert_int_equal(tr_addr_parse((struct tr_str){text, 2 + 257}, &addr), TR_EINVAL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_addresses),
		cmocka_unit_test(bad_addresses),
		cmocka_unit_test(lengths_are_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
