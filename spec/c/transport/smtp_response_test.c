/* Replies of SMTP servers, whole and broken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "transport/smtp_response.h"

static void
whole_replies_are_read(void **state)
{
	static const struct {
		const char *input, *text;
		int code;
		size_t used;
	} cases[] = {
		{"250 ok\r\n", "ok", 250, 8},
		{"250\r\n", "", 250, 5},
		{"250 \r\n", "", 250, 6},
		{"250-a\r\n250-\r\n250 b\r\n", "a\n\nb", 250, 20},
		{"250-a\r\n250\r\n", "a\n", 250, 12},
		{"550 5.1.1 no\n", "5.1.1 no", 550, 13},
		{"354 go\r\n250 next\r\n", "go", 354, 8},
	};
	struct tr_buf text = {0};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_smtpc_reply reply;
		const char *why;
		size_t used = 0;

		assert_int_equal(tr_smtpc_reply_parse(tr_str(cases[i].input), &text, &reply, &used, &why), TR_OK);
		assert_int_equal(reply.code, cases[i].code);
		assert_int_equal(used, cases[i].used);
		assert_true(tr_str_eq(reply.text, tr_str(cases[i].text)));
		/* Nothing is decided before the last byte. */
		for (size_t len = 0; len < cases[i].used; len++)
			assert_int_equal(
				tr_smtpc_reply_parse((struct tr_str){cases[i].input, len}, &text, &reply, &used, &why),
				TR_EAGAIN);
	}
	tr_buf_free(&text);
}

static void
rubbish_is_refused(void **state)
{
	static const char *const cases[] = {"hello\r\n", "\r\n", "25\r\n", "2x0 ok\r\n", "250_ok\r\n", "150 no\r\n",
		"650 no\r\n", "250-a\r\n251 b\r\n", "250-a\r\nb\r\n", "SSH-2.0", "\x16\x03\x01"};
	struct tr_buf text = {0};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_smtpc_reply reply;
		const char *why = NULL;
		size_t used;

		assert_int_equal(tr_smtpc_reply_parse(tr_str(cases[i]), &text, &reply, &used, &why), TR_EPROTO);
		assert_non_null(why);
	}
	tr_buf_free(&text);
}

static void
lines_and_replies_are_bounded(void **state)
{
	struct tr_buf input = {0}, text = {0};
	struct tr_smtpc_reply reply;
	const char *why;
	size_t used;
	int err;

	tr_buf_addz(&input, "250 ");
	while (input.len < TR_SMTPC_LINE_MAX - 2)
		tr_buf_addc(&input, 'x');
	tr_buf_addz(&input, "\r\n");
	assert_int_equal(
		tr_smtpc_reply_parse((struct tr_str){input.data, input.len}, &text, &reply, &used, &why), TR_OK);
	assert_int_equal(tr_smtpc_reply_parse((struct tr_str){input.data, input.len - 1}, &text, &reply, &used, &why),
		TR_EAGAIN);
	input.len -= 2;
	tr_buf_addz(&input, "xx");
	assert_int_equal(
		tr_smtpc_reply_parse((struct tr_str){input.data, input.len}, &text, &reply, &used, &why), TR_EPROTO);
	tr_buf_clear(&input);
	do {
		tr_buf_addz(&input, "250-0123456789\r\n");
		err = tr_smtpc_reply_parse((struct tr_str){input.data, input.len}, &text, &reply, &used, &why);
	} while (err == TR_EAGAIN && input.len < 2 * TR_SMTPC_REPLY_MAX);
	assert_int_equal(err, TR_EPROTO);
	assert_in_range(input.len, TR_SMTPC_REPLY_MAX - 16, TR_SMTPC_REPLY_MAX + 16);
	tr_buf_free(&input);
	tr_buf_free(&text);
}

static void
offers_are_whole_words_of_later_lines(void **state)
{
	struct tr_smtpc_offers offers;

	tr_smtpc_offers_parse(tr_str("mx PIPELINING\npipelining\nSIZE 1000\nX8BITMIME\nSMTPUTF8"), &offers);
	assert_true(offers.pipelining && offers.size && offers.smtputf8);
	assert_false(offers.eightbit);
	tr_smtpc_offers_parse(tr_str("PIPELINING"), &offers);
	assert_false(offers.pipelining);
	tr_smtpc_offers_parse(tr_str("mx\n8BITMIME\nPIPELININGX"), &offers);
	assert_true(offers.eightbit);
	assert_false(offers.pipelining || offers.size || offers.smtputf8);
}

static void
too_many_recipients_is_recognized(void **state)
{
	static const struct {
		int code;
		const char *text;
		bool sure, ambiguous;
	} cases[] = {
		{452, "4.5.3 too many", true, false},
		{550, "4.5.3 too many", true, false},
		{452, "4.5.3", true, false},
		{452, "4.5.31 other", false, false},
		{452, "4.2.2 full", false, false},
		{452, "too many recipients", false, true},
		{552, "too much", false, true},
		{552, "5.2.2 quota", false, false},
		{450, "later", false, false},
		{452, "4.5 x", false, true},
		{452, "", false, true},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_smtpc_reply reply = {.code = cases[i].code, .text = tr_str(cases[i].text)};
		bool ambiguous;

		assert_int_equal(tr_smtpc_too_many(&reply, &ambiguous), cases[i].sure);
		assert_int_equal(ambiguous, cases[i].ambiguous);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whole_replies_are_read),
		cmocka_unit_test(rubbish_is_refused),
		cmocka_unit_test(lines_and_replies_are_bounded),
		cmocka_unit_test(offers_are_whole_words_of_later_lines),
		cmocka_unit_test(too_many_recipients_is_recognized),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
