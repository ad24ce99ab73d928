#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ingress/smtp_command.h"

#define LINE(literal)                          \
	{                                      \
		(literal), sizeof(literal) - 1 \
	}

static void
reads_commands(void **state)
{
	static const struct {
		struct tr_str line;
		enum tr_smtp_verb verb;
		const char *arg; /* domain or address */
		uint64_t size;
	} cases[] = {
		{LINE("EHLO mx.example.com"), TR_SMTP_EHLO, "mx.example.com", 0},
		{LINE("ehlo  [127.0.0.1] "), TR_SMTP_EHLO, "[127.0.0.1]", 0},
		{LINE("HELO x"), TR_SMTP_HELO, "x", 0},
		{LINE("MAIL FROM:<a@b.test>"), TR_SMTP_MAIL, "a@b.test", 0},
		{LINE("mail from: <a@b.test>"), TR_SMTP_MAIL, "a@b.test", 0},
		{LINE("MAIL FROM:<>"), TR_SMTP_MAIL, "", 0},
		{LINE("MAIL FROM:<> SIZE=12345 BODY=8BITMIME"), TR_SMTP_MAIL, "", 12345},
		{LINE("MAIL FROM:<a@b.test> BODY=8BITMIME size=7 SMTPUTF8"), TR_SMTP_MAIL, "a@b.test", 7},
		{LINE("MAIL FROM:<a@b.test> RET=HDRS ENVID=x"), TR_SMTP_MAIL, "a@b.test", 0},
		{LINE("MAIL FROM:<\"a>b c\"@d.test> SIZE=1"), TR_SMTP_MAIL, "\"a>b c\"@d.test", 1},
		{LINE("RCPT TO:<j\xc3\xb6rg@d\xc3\xb6main.test>"), TR_SMTP_RCPT, "j\xc3\xb6rg@d\xc3\xb6main.test", 0},
		{LINE("RCPT TO:<@relay.test:u@d.test> NOTIFY=NEVER"), TR_SMTP_RCPT, "u@d.test", 0},
		{LINE("RCPT TO:<Postmaster>"), TR_SMTP_RCPT, "Postmaster", 0},
		{LINE("DATA"), TR_SMTP_DATA, NULL, 0},
		{LINE("data "), TR_SMTP_DATA, NULL, 0},
		{LINE("RSET"), TR_SMTP_RSET, NULL, 0},
		{LINE("NOOP whatever"), TR_SMTP_NOOP, NULL, 0},
		{LINE("QUIT"), TR_SMTP_QUIT, NULL, 0},
		{LINE("VRFY a"), TR_SMTP_OTHER, NULL, 0},
		{LINE("STARTTLS"), TR_SMTP_OTHER, NULL, 0},
		{LINE("AUTH PLAIN AGEAYg=="), TR_SMTP_OTHER, NULL, 0},
		{LINE("BDAT 10 LAST"), TR_SMTP_OTHER, NULL, 0},
		{LINE("GET / HTTP/1.1"), TR_SMTP_OTHER, NULL, 0},
		{LINE("MAILFROM:<a@b.test>"), TR_SMTP_OTHER, NULL, 0},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_smtp_command command;
		int code;

		assert_null(tr_smtp_command_parse(cases[i].line, &command, &code));
		assert_int_equal(command.verb, cases[i].verb);
		if (command.verb == TR_SMTP_MAIL || command.verb == TR_SMTP_RCPT) {
			assert_string_equal(command.addr.email, cases[i].arg);
			tr_addr_fini(&command.addr);
		} else if (cases[i].arg != NULL) {
			assert_true(tr_str_eq(command.text, tr_str(cases[i].arg)));
		}
		assert_int_equal(command.size, cases[i].size);
		assert_int_equal(command.has_size, cases[i].size != 0);
	}
}

static void
refuses_what_is_no_command(void **state)
{
	static const char syntax[] = "Syntax error in command or arguments";
	static const char sender[] = "5.1.7 Bad sender's mailbox address syntax";
	static const char rcpt[] = "5.1.3 Invalid recipient address syntax";
	static const struct {
		struct tr_str line;
		const char *why;
	} cases[] = {
		{LINE(""), syntax},
		{LINE("   "), syntax},
		{LINE("EHLO"), syntax},
		{LINE("EHLO a b"), syntax},
		{LINE("DATA now"), syntax},
		{LINE("QUIT\0"), syntax},
		{LINE("NO\rOP"), syntax},
		{LINE("MAIL"), syntax},
		{LINE("MAIL TO:<a@b.test>"), syntax},
		{LINE("MAIL FROM:<a@b.test>SIZE=1"), syntax},
		{LINE("MAIL FROM:"), sender},
		{LINE("MAIL FROM:<a@b.test"), sender},
		{LINE("MAIL FROM:<a b@c.test>"), sender},
		{LINE("MAIL FROM:<@>"), sender},
		{LINE("MAIL FROM:<a@b.test> SIZE="), "5.5.4 SIZE is not a number"},
		{LINE("MAIL FROM:<a@b.test> SIZE=1x"), "5.5.4 SIZE is not a number"},
		{LINE("RCPT TO:<>"), rcpt},
		{LINE("RCPT TO:"), rcpt},
		{LINE("RCPT TO:<a@b.test\0>"), syntax},
		{LINE("RCPT TO:<a@"), rcpt},
		{LINE("NOOP \xff"), "5.5.2 Invalid UTF-8 in command"},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_smtp_command command;
		const char *why;
		int code = 0;

		why = tr_smtp_command_parse(cases[i].line, &command, &code);
		assert_non_null(why);
		assert_string_equal(why, cases[i].why);
		assert_int_equal(code, 501);
	}
}

static void
a_huge_size_does_not_wrap(void **state)
{
	struct tr_smtp_command command;
	int code;

	assert_null(tr_smtp_command_parse(TR_STR("MAIL FROM:<> SIZE=99999999999999999999999999"), &command, &code));
	assert_true(command.size > UINT64_C(1) << 40);
	tr_addr_fini(&command.addr);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_commands),
		cmocka_unit_test(refuses_what_is_no_command),
		cmocka_unit_test(a_huge_size_does_not_wrap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
