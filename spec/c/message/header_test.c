#include "message/header.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void
expect_str(struct tr_str got, const char *want)
{
	if (!tr_str_eq(got, tr_str(want)))
		fail_msg("expected [%s], got [%.*s]", want, (int)got.len, got.data ? got.data : "");
}

static void
walking(void **state)
{
	struct tr_str text = TR_STR("Subject: one\r\n two\r\nnot a field\r\nX-A :  v\nEmpty:\r\n\r\nBody: no\r\n");
	struct tr_header header;
	size_t at = 0;

	assert_true(tr_header_next(text, &at, &header));
	expect_str(header.name, "Subject");
	expect_str(header.value, " one\r\n two");
	assert_int_equal(header.start, 0);
	assert_int_equal(header.end, 20);
	assert_true(tr_header_next(text, &at, &header));
	expect_str(header.name, "");
	expect_str(header.value, "not a field");
	assert_true(tr_header_next(text, &at, &header));
	expect_str(header.name, "X-A");
	expect_str(header.value, "  v");
	assert_true(tr_header_next(text, &at, &header));
	expect_str(header.name, "Empty");
	expect_str(header.value, "");
	assert_false(tr_header_next(text, &at, &header));
	assert_int_equal(tr_header_end(text), header.end);
	assert_true(memcmp(text.data + header.end, "\r\nBody", 6) == 0);
	assert_true(tr_header_find(text, TR_STR("x-a"), &header));
	assert_false(tr_header_find(text, TR_STR("body"), &header));
	assert_int_equal(tr_header_end(TR_STR("A: b\r\n")), SIZE_MAX);
	assert_int_equal(tr_header_end(TR_STR("A: b")), SIZE_MAX);
	assert_int_equal(tr_header_end(TR_STR("\r\nx")), 0);
	assert_int_equal(tr_header_end(TR_STR("")), SIZE_MAX);
	assert_int_equal(tr_header_end(TR_STR("A: b\n\nx")), 5);
}

static void
every_prefix_is_walked_within_its_bytes(void **state)
{
	static const char text[] = "A: b\r\n c\r\nJunk\r\n: x\r\nB: =?utf-8?Q?=C3=BC?=\r\n\r\nbody";

	for (size_t len = 0; len < sizeof text; len++) {
		char *copy = malloc(len + 1);
		struct tr_str part = {copy, len};
		struct tr_header header;
		size_t at = 0, before = 0;

		memcpy(copy, text, len);
		while (tr_header_next(part, &at, &header)) {
			struct tr_buf out = {0};

			assert_int_equal(header.start, before);
			assert_true(header.end > header.start && header.end <= len);
			tr_header_decode(header.value, &out);
			tr_buf_free(&out);
			before = header.end;
		}
		free(copy);
	}
}

static void
decoding(void **state)
{
	static const struct {
		const char *raw, *want;
	} cases[] = {
		{" plain ", "plain"},
		{"a\r\n b\r\n\tc", "a b\tc"},
		{"", ""},
		{" \r\n ", ""},
		{"=?UTF-8?B?w7xiZXI=?=", "\xc3\xbc"
					 "ber"},
		{"=?utf-8?q?=C3=BC_ber?= x", "\xc3\xbc ber x"},
		{"=?utf-8*de?Q?a?=", "a"},
		{"=?iso-8859-1?Q?=FCber?=", "\xc3\xbc"
					    "ber"},
		{"=?ISO-8859-15?Q?=A4?=", "\xe2\x82\xac"},
		{"=?windows-1252?Q?=80?=", "\xe2\x82\xac"},
		{"=?us-ascii?Q?a=3Db?=", "a=b"},
		/* blanks between encoded words do not count, those beside text do */
		{"=?utf-8?Q?a?= =?utf-8?Q?b?=", "ab"},
		{"=?utf-8?Q?a?=\r\n =?iso-8859-1?Q?=E4?= z", "a\xc3\xa4 z"},
		{"x =?utf-8?Q?a?= y", "x a y"},
		/* a character cut in two */
		{"=?utf-8?Q?=C3?= =?utf-8?Q?=BC?=", "\xc3\xbc"},
		{"=?utf-8?B?w7w?=", "\xc3\xbc"},
		/* what is broken stays */
		{"=?utf-8?Q?=C3?=", "=?utf-8?Q?=C3?="},
		{"=?utf-8?Q?=C3?=  =?utf-8?Q?=41?=", "=?utf-8?Q?=C3?=  =?utf-8?Q?=41?="},
		{"=?utf-8?Q?=G1?= =?utf-8?Q?a?=", "=?utf-8?Q?=G1?= a"},
		{"=?utf-8?Q?=4?=", "=?utf-8?Q?=4?="},
		{"=?utf-8?Q?a=41?=", "aA"},
		{"=?utf-8?B?w?=", "=?utf-8?B?w?="},
		{"=?utf-8?B?w%xx?=", "=?utf-8?B?w%xx?="},
		{"=?us-ascii?Q?=C3?=", "=?us-ascii?Q?=C3?="},
		{"=?no-such?Q?a?=", "=?no-such?Q?a?="},
		{"=?utf-8//TRANSLIT?Q?a?=", "=?utf-8//TRANSLIT?Q?a?="},
		{"=?utf-8?X?a?=", "=?utf-8?X?a?="},
		{"=?utf-8?Q?a", "=?utf-8?Q?a"},
		{"=?utf-8?Q?a b?=", "=?utf-8?Q?a b?="},
		{"=?", "=?"},
		{"a =? b = c", "a =? b = c"},
		{"\xff raw", "\xff raw"},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_buf out = {0};

		tr_header_decode(tr_str(cases[i].raw), &out);
		expect_str((struct tr_str){out.data, out.len}, cases[i].want);
		tr_buf_free(&out);
	}
}

static void
writing_as_is(void **state)
{
	struct tr_buf out = {0};

	tr_header_write(TR_STR("X-A"), TR_STR("v\r\n w"), false, &out);
	expect_str((struct tr_str){out.data, out.len}, "X-A: v\r\n w\r\n");
	tr_buf_free(&out);
}

/* Each line of a written field, and what reading it back gives. */
static void
round_trip(const char *value, size_t line_max)
{
	struct tr_buf out = {0}, back = {0};
	struct tr_header header;
	size_t at = 0;

	tr_header_write(TR_STR("X-Long-Name"), tr_str(value), true, &out);
	for (size_t i = 0, line = 0; i < out.len; i++) {
		assert_true((unsigned char)out.data[i] < 0x80);
		line = out.data[i] == '\n' ? 0 : line + 1;
		if (line > line_max + 1) /* + 1: CR */
			fail_msg("line too long in %.*s", (int)out.len, out.data);
	}
	assert_true(tr_header_next((struct tr_str){out.data, out.len}, &at, &header));
	assert_int_equal(at, out.len);
	tr_header_decode(header.value, &back);
	expect_str((struct tr_str){back.data, back.len}, value);
	tr_buf_free(&out);
	tr_buf_free(&back);
}

static void
writing_encoded(void **state)
{
	struct tr_buf text = {0}, out = {0};

	round_trip("short", 75);
	round_trip("one two three four five six seven eight nine ten eleven twelve thirteen fourteen  fifteen sixteen",
		75);
	round_trip("gr\xc3\xbc\xc3\x9f"
		   "e an alle, die dies mit vielen W\xc3\xb6rtern = lesen_und \"schreiben\" (ja?) bis zum Ende",
		76);
	for (int i = 0; i < 60; i++)
		tr_buf_addz(&text, i % 2 ? "\xe6\x97\xa5" : "\xf0\x9f\x98\x80");
	tr_buf_addc(&text, '\0');
	round_trip(text.data, 76);
	tr_buf_clear(&text);
	for (int i = 0; i < 2000; i++) /* a word that cannot be folded is cut at 900 */
		tr_buf_addc(&text, 'x');
	tr_header_write(TR_STR("W"), (struct tr_str){text.data, text.len}, true, &out);
	for (size_t i = 0, line = 0, xs = 0; i < out.len; i++) {
		line = out.data[i] == '\n' ? 0 : line + 1;
		xs += out.data[i] == 'x';
		assert_true(line <= 901);
		if (i + 1 == out.len)
			assert_int_equal(xs, 2000);
	}
	tr_buf_clear(&out);
	tr_header_write(TR_STR("I"), TR_STR("a\r\nEvil: b"), true, &out); /* no second field */
	expect_str((struct tr_str){out.data, out.len}, "I: a  Evil: b\r\n");
	tr_buf_free(&out);
	tr_buf_free(&text);
}

static void
names(void **state)
{
	assert_true(tr_header_name_matches(TR_STR("X-Foo"), TR_STR("x-foo")));
	assert_true(tr_header_name_matches(TR_STR("X-Foo"), TR_STR("x-*")));
	assert_true(tr_header_name_matches(TR_STR("Any"), TR_STR("*")));
	assert_false(tr_header_name_matches(TR_STR("X"), TR_STR("x-*")));
	assert_false(tr_header_name_matches(TR_STR("X-Foo"), TR_STR("x-fo")));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(walking),
		cmocka_unit_test(every_prefix_is_walked_within_its_bytes),
		cmocka_unit_test(decoding),
		cmocka_unit_test(writing_as_is),
		cmocka_unit_test(writing_encoded),
		cmocka_unit_test(names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
