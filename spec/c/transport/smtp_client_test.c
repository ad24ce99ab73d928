/* The SMTP client against a scripted peer: what goes over the wire, and what becomes of each recipient. */
#include "smtp_fixture.h"

#define OFFERS "250-peer\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES\r\n"
#define HELLO ">220 peer\r\n", "<EHLO me.test", ">" OFFERS
#define PLAIN_HELLO ">220 peer\r\n", "<EHLO me.test", ">250 peer\r\n"
#define ONE_OK "<MAIL", "<RCPT", "<DATA", ">250 2.1.0 ok\r\n250 ok\r\n354 go\r\n", "<.", ">250 2.0.0 queued as 1\r\n"
#define RSET_ONE_OK \
	"<RSET", "<MAIL", "<RCPT", "<DATA", ">250 reset\r\n250 ok\r\n250 ok\r\n354 go\r\n", "<.", ">250 queued\r\n"
#define BYE ">421 bye\r\n", "H"
#define SCRIPT(...)               \
	(const char *const[])     \
	{                         \
		__VA_ARGS__, NULL \
	}

/* --- the happy path ------------------------------------------------------------------------------------- */

static void
a_pipelined_message_is_one_group(void **state)
{
	struct fixture *fix = set_up(SCRIPT(HELLO, "<MAIL", "<RCPT", "<RCPT", "<DATA",
		">250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n", "<.", ">250 2.0.0 queued as 1\r\n", "<QUIT", "H"));

	assert_int_equal(connect_now(fix), TR_OK);
	assert_string_equal(tr_smtpc_peer_name(fix->smtp), "127.0.0.1");
	assert_int_equal(
		send_now(fix, message(fix, "a@x.test", "b@y.test,c@y.test", "X: 1\r\n", "Subject: t\r\n\r\nhello\r\n")),
		TR_OK);
	expect(fix, 0, "D 250 2.0.0 queued as 1|.");
	expect(fix, 1, "D 250 2.0.0 queued as 1|.");
	assert_true(tr_smtpc_usable(fix->smtp));
	tr_smtpc_close(fix->smtp);
	tear_down_as(fix, "EHLO me.test\nMAIL FROM:<a@x.test>\nRCPT TO:<b@y.test>\nRCPT TO:<c@y.test>\nDATA\nQUIT\n",
		"X: 1\r\nSubject: t\r\n\r\nhello\r\n");
}

static void
without_pipelining_each_reply_is_awaited(void **state)
{
	for (int offered = 0; offered < 2; offered++) {
		struct fixture *fix = set_up(SCRIPT(">220 peer\r\n", "<EHLO", offered ? ">" OFFERS : ">250 peer\r\n",
			"<MAIL", "?", ">250 ok\r\n", "<RCPT", "?", ">250 ok\r\n", "<DATA", "?", ">354 go\r\n", "<.",
			"?", ">250 queued\r\n", "H"));

		fix->config.enable_pipelining = !offered;
		renew(fix);
		assert_int_equal(connect_now(fix), TR_OK);
		assert_int_equal(send_now(fix, message(fix, "", "b@y.test", "", "x\r\n")), TR_OK);
		expect(fix, 0, "D 250 queued|.");
		tear_down_as(fix, "EHLO me.test\nMAIL FROM:<>\nRCPT TO:<b@y.test>\nDATA\n", "x\r\n");
	}
}

static void
lmtp_greets_with_lhlo_and_size_is_told(void **state)
{
	struct fixture *fix = set_up(SCRIPT(
		">220 peer\r\n", "<LHLO me.test", ">250-peer\r\n250-SIZE 1000\r\n250 PIPELINING\r\n", ONE_OK, "H"));

	fix->config.use_lmtp = true;
	renew(fix);
	assert_int_equal(connect_now(fix), TR_OK);
	assert_int_equal(send_now(fix, message(fix, "a@x.test", "b@y.test", "X: 1\r\n", "body\r\n")), TR_OK);
	expect(fix, 0, "D 250 2.0.0 queued as 1|.");
	tear_down_as(fix, "LHLO me.test\nMAIL FROM:<a@x.test> SIZE=12\nRCPT TO:<b@y.test>\nDATA\n", "X: 1\r\nbody\r\n");
}

static void
lmtp_has_one_recipient_a_transaction(void **state)
{
	struct fixture *fix = set_up(SCRIPT(">220 peer\r\n", "<LHLO me.test", ">250-peer\r\n250 PIPELINING\r\n", ONE_OK,
		"<RSET", "<MAIL", "<RCPT TO:<c", "<DATA", ">250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n", "<.",
		">452 mailbox full\r\n", "H"));

	fix->config.use_lmtp = true;
	fix->config.max_recipients_per_batch = 100;
	renew(fix);
	assert_int_equal(connect_now(fix), TR_OK);
	assert_int_equal(send_now(fix, message(fix, "a@x.test", "b@y.test,c@y.test", "X: 1\r\n", "body\r\n")), TR_OK);
	expect(fix, 0, "D 250 2.0.0 queued as 1|.");
	expect(fix, 1, "T 452 mailbox full|.");
	tear_down_as(fix, NULL, NULL);
}

/* --- body bytes ------------------------------------------------------------------------------------------- */

static void
bodies_arrive_as_they_are(void **state)
{
	static const struct {
		const char *head, *body, *seen; /* seen NULL: head and body */
	} cases[] = {
		{"", "", NULL},
		{"", ".\r\n", NULL},
		{"", "..\r\n.a\r\n.\r\nx.\r\n", NULL},
		{"", ".", ".\r\n"},
		{"", "no end", "no end\r\n"},
		{"", "a\r\n\r\n.\r\n", NULL},
		{"A: b\r\n", ".c\r\n", NULL},
		{"A: b\r\n", "", NULL},
		{"A: b", ".c\r\n", NULL},
		{"", "lf only\n", "lf only\r\n"},
		{"", "lf\n.dot\nend\n", "lf\n.dot\nend\r\n"},
		{"", "cr\r", "cr\r\r\n"},
		{"x\r", "\n", NULL},
		{"", "\n", "\r\n"},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct fixture *fix = set_up(SCRIPT(HELLO, ONE_OK, "H"));
		char seen[256];

		snprintf(seen, sizeof seen, "%s%s", cases[i].head, cases[i].body);
		assert_int_equal(connect_now(fix), TR_OK);
		assert_int_equal(
			send_now(fix, message(fix, "a@x.test", "b@y.test", cases[i].head, cases[i].body)), TR_OK);
		expect(fix, 0, "D 250 2.0.0 queued as 1|.");
		tear_down_as(fix, NULL, cases[i].seen != NULL ? cases[i].seen : seen);
	}
}

static void
a_long_body_with_dots_arrives(void **state)
{
	struct fixture *fix = set_up(SCRIPT(HELLO, ONE_OK, "H"));
	struct tr_buf body = {0};

	for (int i = 0; body.len < (4 << 20); i++)
		tr_buf_addf(
			&body, "%s line %d of a body that does not fit a socket buffer\r\n", i % 50 == 0 ? "." : "", i);
	tr_buf_addc(&body, '\0');
	assert_int_equal(connect_now(fix), TR_OK);
	assert_int_equal(send_now(fix, message(fix, "a@x.test", "b@y.test", "", body.data)), TR_OK);
	expect(fix, 0, "D 250 2.0.0 queued as 1|.");
	tear_down_as(fix, NULL, body.data);
	tr_buf_free(&body);
}

static void
eight_bit_needs_an_offer(void **state)
{
	static const struct {
		bool offered, ignore;
		const char *from, *to, *body, *result, *mail;
	} cases[] = {
		{true, false, "a@x.test", "b@y.test", "gr\xc3\xbc\xc3\x9f\r\n", "D",
			"MAIL FROM:<a@x.test> BODY=8BITMIME\n"},
		{true, false, "\xc3\xbc@x.test", "b@y.test", "x\r\n", "D",
			"MAIL FROM:<\xc3\xbc@x.test> BODY=8BITMIME SMTPUTF8\n"},
		{true, false, "a@x.test", "\xc3\xbc@y.test", "x\r\n", "D",
			"MAIL FROM:<a@x.test> BODY=8BITMIME SMTPUTF8\n"},
		{true, false, "a@x.test", "b@y.test", "x\r\n", "D", "MAIL FROM:<a@x.test>\n"},
		{false, false, "a@x.test", "b@y.test", "gr\xc3\xbc\xc3\x9f\r\n", "B 554 5.6.3", NULL},
		{false, false, "\xc3\xbc@x.test", "b@y.test", "x\r\n", "B 554 5.6.7", NULL},
		{false, false, "a@x.test", "\xc3\xbc@y.test", "x\r\n", "B 554 5.6.7", NULL},
		{false, true, "\xc3\xbc@x.test", "\xc3\xbc@y.test", "gr\xc3\xbc\xc3\x9f\r\n", "D",
			"MAIL FROM:<\xc3\xbc@x.test>\n"},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct fixture *fix =
			set_up(cases[i].mail == NULL
					? SCRIPT(">220 peer\r\n", "<EHLO", ">250-peer\r\n250 PIPELINING\r\n", "H")
					: SCRIPT(">220 peer\r\n", "<EHLO",
						  cases[i].offered ? ">" OFFERS : ">250-peer\r\n250 PIPELINING\r\n",
						  ONE_OK, "H"));

		fix->config.ignore_8bit_checks = cases[i].ignore;
		renew(fix);
		assert_int_equal(connect_now(fix), TR_OK);
		assert_int_equal(send_now(fix, message(fix, cases[i].from, cases[i].to, "", cases[i].body)), TR_OK);
		expect_start(fix, 0, cases[i].result);
		assert_true(tr_smtpc_usable(fix->smtp));
		finish(fix);
		if (cases[i].mail != NULL)
			assert_non_null(strstr(fix->peer.lines, cases[i].mail));
		else
			assert_null(strstr(fix->peer.lines, "MAIL"));
		release(fix);
	}
}

static void
only_the_recipient_that_needs_utf8_bounces(void **state)
{
	struct fixture *fix = set_up(SCRIPT(">220 peer\r\n", "<EHLO", ">250-peer\r\n250 PIPELINING\r\n", ONE_OK, "H"));

	assert_int_equal(connect_now(fix), TR_OK);
	assert_int_equal(send_now(fix, message(fix, "a@x.test", "\xc3\xbc@y.test,b@y.test", "", "x\r\n")), TR_OK);
	expect_start(fix, 0, "B 554 5.6.7");
	expect_start(fix, 1, "D 250");
	tear_down_as(fix, "EHLO me.test\nMAIL FROM:<a@x.test>\nRCPT TO:<b@y.test>\nDATA\n", "x\r\n");
}

/* --- answers --------------------------------------------------------------------------------------------- */

static void
each_recipient_has_its_own_answer(void **state)
{
	for (int pipelined = 0; pipelined < 2; pipelined++) {
		struct fixture *fix = set_up(
			pipelined ? SCRIPT(HELLO, "<MAIL", "<RCPT", "<RCPT", "<RCPT", "<DATA",
					    ">250 ok\r\n250 ok\r\n550-5.1.1 no\r\n550 5.1.1 such user\r\n450 4.2.0 "
					    "later\r\n354 go\r\n",
					    "<.", ">250 queued\r\n", "H")
				  : SCRIPT(PLAIN_HELLO, "<MAIL", ">250 ok\r\n", "<RCPT", ">250 ok\r\n", "<RCPT",
					    ">550-5.1.1 no\r\n550 5.1.1 such user\r\n", "<RCPT", ">450 4.2.0 later\r\n",
					    "<DATA", ">354 go\r\n", "<.", ">250 queued\r\n", "H"));

		assert_int_equal(connect_now(fix), TR_OK);
		assert_int_equal(
			send_now(fix, message(fix, "a@x.test", "b@y.test,c@y.test,d@y.test", "", "x\r\n")), TR_OK);
		expect(fix, 0, "D 250 queued|.");
		expect(fix, 1, "B 550 5.1.1 no\n5.1.1 such user|RCPT TO:<c@y.test>");
		expect(fix, 2, "T 450 4.2.0 later|RCPT TO:<d@y.test>");
		assert_true(tr_smtpc_usable(fix->smtp));
		tear_down_as(fix, NULL, "x\r\n");
	}
}

/* One recipient; `replies` to MAIL, RCPT, DATA and the dot; NULL: not reached, or not of interest. */
static void
each_stage_may_refuse(void **state)
{
	static const struct {
		const char *mail, *rcpt, *data, *dot, *result;
	} cases[] = {
		{"550 no", "503 x", "503 x", NULL, "B 550 no|MAIL FROM:<a@x.test>"},
		{"451 later", "503 x", "503 x", NULL, "T 451 later|MAIL FROM:<a@x.test>"},
		{"503 x", "503 x", "503 x", NULL, "T 503 x|MAIL FROM:<a@x.test>"},
		{"251 odd", "503 x", "503 x", NULL,
			"T 400 KumoMTA internal: failed to send message: MAIL FROM was answered by 251: odd|MAIL "
			"FROM:<a@x.test>"},
		{"354 odd", "503 x", "503 x", NULL, "T 354 odd|MAIL FROM:<a@x.test>"},
		{"250 ok", "550 no", "554 none", NULL, "B 550 no|RCPT TO:<b@y.test>"},
		{"250 ok", "452 full", "554 none", NULL, "T 452 full|RCPT TO:<b@y.test>"},
		{"250 ok", "552 4.5.3 x", "554 none", NULL, "T 552 4.5.3 x|RCPT TO:<b@y.test>"},
		{"250 ok", "552 5.2.2 x", "554 none", NULL, "B 552 5.2.2 x|RCPT TO:<b@y.test>"},
		{"250 ok", "251 odd", "554 none", NULL,
			"T 400 KumoMTA internal: failed to send message: nothing was sent: RCPT TO was answered by 251 "
			"instead of 250: odd|"},
		{"250 ok", "250 ok", "554 no", NULL, "B 554 no|DATA"},
		{"250 ok", "250 ok", "451 no", NULL, "T 451 no|DATA"},
		{"250 ok", "250 ok", "250 no", NULL,
			"T 400 KumoMTA internal: failed to send message: DATA was answered by 250: no|DATA"},
		{"250 ok", "250 ok", "354 go", "554 5.7.1 spam", "B 554 5.7.1 spam|."},
		{"250 ok", "250 ok", "354 go", "451 later", "T 451 later|."},
		{"250 ok", "250 ok", "354 go", "503 x", "T 503 x|."},
		{"250 ok", "250 ok", "354 go", "251 taken", "D 251 taken|."},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		for (int pipelined = 0; pipelined < 2; pipelined++) {
			char mail[64], rcpt[64], data[64], dot[64];
			bool mailed = strncmp(cases[i].mail, "250", 3) == 0,
			     given = strncmp(cases[i].rcpt, "250", 3) == 0;
			struct fixture *fix;

			snprintf(mail, sizeof mail, ">%s\r\n", cases[i].mail);
			snprintf(rcpt, sizeof rcpt, ">%s\r\n", cases[i].rcpt);
			snprintf(data, sizeof data, ">%s\r\n", cases[i].data);
			snprintf(dot, sizeof dot, ">%s\r\n", cases[i].dot != NULL ? cases[i].dot : "");
			/* One expression: a compound literal lives as long as its block. */
			fix = set_up(
				pipelined && cases[i].dot != NULL ? SCRIPT(HELLO, "<MAIL", "<RCPT", "<DATA", mail, rcpt,
									    data, "<.", dot, RSET_ONE_OK, "H")
				: pipelined
					? SCRIPT(HELLO, "<MAIL", "<RCPT", "<DATA", mail, rcpt, data, RSET_ONE_OK, "H")
				: !mailed ? SCRIPT(PLAIN_HELLO, "<MAIL", mail, "<RSET", BYE)
				: !given  ? SCRIPT(PLAIN_HELLO, "<MAIL", mail, "<RCPT", rcpt, "<RSET", BYE)
				: cases[i].dot == NULL
					? SCRIPT(PLAIN_HELLO, "<MAIL", mail, "<RCPT", rcpt, "<DATA", data, "<RSET", BYE)
					: SCRIPT(PLAIN_HELLO, "<MAIL", mail, "<RCPT", rcpt, "<DATA", data, "<.", dot,
						  "<RSET", BYE));
			assert_int_equal(connect_now(fix), TR_OK);
			assert_int_equal(send_now(fix, message(fix, "a@x.test", "b@y.test", "", "x\r\n")), TR_OK);
			expect(fix, 0, cases[i].result);
			assert_true(tr_smtpc_usable(fix->smtp));
			assert_int_equal(send_now(fix, message(fix, "a@x.test", "b@y.test", "", "x\r\n")), TR_OK);
			expect(fix, 0, pipelined ? "D 250 queued|." : "T 421 bye|RSET");
			tear_down_as(fix, NULL, NULL);
		}
	}
}

static void
data_failures_replace_those_of_recipients(void **state)
{
	struct fixture *fix = set_up(SCRIPT(HELLO, "<MAIL", "<RCPT", "<RCPT", "<DATA",
		">250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n", "<.", ">451 later\r\n", "H"));

	assert_int_equal(connect_now(fix), TR_OK);
	assert_int_equal(send_now(fix, message(fix, "a@x.test", "b@y.test,c@y.test", "", "x\r\n")), TR_OK);
	expect(fix, 0, "T 451 later|.");
	expect(fix, 1, "T 451 later|.");
	tear_down_as(fix, NULL, NULL);
}

static void
a_data_granted_to_nobody_gets_a_lone_dot(void **state)
{
	struct fixture *fix = set_up(SCRIPT(HELLO, "<MAIL", "<RCPT", "<RCPT", "<DATA",
		">250 ok\r\n550 b\r\n450 c\r\n354 go\r\n", "<.", ">250 ok\r\n", RSET_ONE_OK, "H"));

	assert_int_equal(connect_now(fix), TR_OK);
	assert_int_equal(send_now(fix, message(fix, "a@x.test", "b@y.test,c@y.test", "", "secret\r\n")), TR_OK);
	expect(fix, 0, "B 550 b|RCPT TO:<b@y.test>");
	expect(fix, 1, "T 450 c|RCPT TO:<c@y.test>");
	assert_int_equal(send_now(fix, message(fix, "a@x.test", "b@y.test", "", "next\r\n")), TR_OK);
	expect(fix, 0, "D 250 queued|.");
	tear_down_as(fix, NULL, "next\r\n");
}

static void
no_empty_message_is_ended_for_those_who_were_accepted(void **state)
{
	/* MAIL fails, or nobody has exactly 250, and yet DATA is granted: a dot would deliver an empty message. */
	static const char *const replies[] = {">550 no\r\n250 ok\r\n354 go\r\n", ">250 ok\r\n251 odd\r\n354 go\r\n"};
	static const char *const results[] = {"B 550 no", "T 400 "};

	for (size_t i = 0; i < TR_COUNT(replies); i++) {
		struct fixture *fix =
			set_up(SCRIPT(HELLO, "<MAIL", "<RCPT", "<DATA", replies[i], "<.", ">250 ok\r\n", "H"));

		assert_int_equal(connect_now(fix), TR_OK);
		assert_int_equal(send_now(fix, message(fix, "a@x.test", "b@y.test", "", "x\r\n")), TR_OK);
		expect_start(fix, 0, results[i]);
		assert_false(tr_smtpc_usable(fix->smtp));
		finish(fix);
		assert_null(fix->peer.data);
		release(fix);
	}
}

static void
a_251_beside_a_250_is_delivered(void **state)
{
	struct fixture *fix = set_up(SCRIPT(HELLO, "<MAIL", "<RCPT", "<RCPT", "<DATA",
		">250 ok\r\n251 will forward\r\n250 ok\r\n354 go\r\n", "<.", ">250 queued\r\n", "H"));

	assert_int_equal(connect_now(fix), TR_OK);
	assert_int_equal(send_now(fix, message(fix, "a@x.test", "b@y.test,c@y.test", "", "x\r\n")), TR_OK);
	expect(fix, 0, "D 250 queued|.");
	expect(fix, 1, "D 250 queued|.");
	tear_down_as(fix, NULL, NULL);
}

static void
policy_may_rewrite_an_answer(void **state)
{
	struct fixture *fix = set_up(SCRIPT(HELLO, "<MAIL", "<RCPT", "<RCPT", "<RCPT", "<DATA",
		">250 ok\r\n550 b\r\n450 c\r\n550 d\r\n554 none\r\n", "H"));

	assert_int_equal(connect_now(fix), TR_OK);
	assert_int_equal(send_now(fix, message(fix, "a@x.test", "b@y.test,c@y.test,d@y.test", "", "x\r\n")), TR_OK);
	tr_smtpc_rewrite(fix->smtp, 0, 451);
	tr_smtpc_rewrite(fix->smtp, 1, 550);
	tr_smtpc_rewrite(fix->smtp, 2, 550);
	expect(fix, 0, "T 451 b (kumomta: status was rewritten from 550 -> 451)|RCPT TO:<b@y.test>");
	expect(fix, 1, "B 550 c (kumomta: status was rewritten from 450 -> 550)|RCPT TO:<c@y.test>");
	expect(fix, 2, "B 550 d|RCPT TO:<d@y.test>");
	tear_down_as(fix, NULL, NULL);
}

/* --- several transactions ------------------------------------------------------------------------------------ */

static void
rset_goes_before_every_message_but_the_first(void **state)
{
	struct fixture *fix = set_up(SCRIPT(HELLO, ONE_OK, RSET_ONE_OK, "<RSET", "<MAIL", "<RCPT", "<DATA",
		">550 5.0.0 no\r\n503 x\r\n503 x\r\n503 x\r\n", "<RSET", "<MAIL", "<RCPT", "<DATA",
		">503 x\r\n250 ok\r\n250 ok\r\n354 go\r\n", "H"));

	assert_int_equal(connect_now(fix), TR_OK);
	for (int i = 0; i < 4; i++) {
		static const char *const results[] = {
			"D 250 2.0.0 queued as 1|.", "D 250 queued|.", "B 550 5.0.0 no|RSET", "T 503 x|RSET"};

		assert_int_equal(send_now(fix, message(fix, "a@x.test", "b@y.test", "", "x\r\n")), TR_OK);
		expect(fix, 0, results[i]);
		assert_int_equal(
			tr_smtpc_usable(fix->smtp), i < 3); /* the last one was granted a DATA that must not end */
	}
	tear_down_as(fix, NULL, NULL);
}

static void
without_enable_rset_only_after_a_failure(void **state)
{
	struct fixture *fix = set_up(SCRIPT(HELLO, ONE_OK, ONE_OK, "<MAIL", "<RCPT", "<DATA",
		">250 ok\r\n550 no\r\n554 none\r\n", RSET_ONE_OK, ONE_OK, "H"));

	fix->config.enable_rset = false;
	renew(fix);
	assert_int_equal(connect_now(fix), TR_OK);
	for (int i = 0; i < 5; i++) {
		assert_int_equal(send_now(fix, message(fix, "a@x.test", "b@y.test", "", "x\r\n")), TR_OK);
		expect_start(fix, 0, i == 2 ? "B 550" : "D 250");
	}
	tear_down_as(fix, NULL, NULL);
}

static void
recipients_are_sent_in_batches(void **state)
{
	struct fixture *fix = set_up(SCRIPT(HELLO, "<MAIL", "<RCPT TO:<b", "<RCPT TO:<c", "<DATA",
		">250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n", "<.", ">250 one\r\n", "<RSET", "<MAIL", "<RCPT TO:<d",
		"<RCPT TO:<e", "<DATA", ">250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n", "<.", ">451 two\r\n",
		"<RSET", "<MAIL", "<RCPT TO:<f", "<DATA", ">250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n", "<.",
		">250 three\r\n", "H"));
	static const char *const results[] = {
		"D 250 one|.", "D 250 one|.", "T 451 two|.", "T 451 two|.", "D 250 three|."};

	fix->config.max_recipients_per_batch = 2;
	renew(fix);
	assert_int_equal(connect_now(fix), TR_OK);
	assert_int_equal(
		send_now(fix, message(fix, "a@x.test", "b@y.test,c@y.test,d@y.test,e@y.test,f@y.test", "", "x\r\n")),
		TR_OK);
	for (uint32_t i = 0; i < 5; i++)
		expect(fix, i, results[i]);
	tear_down_as(fix, NULL, NULL);
}

static void
too_many_recipients_go_again_at_once(void **state)
{
	struct fixture *fix = set_up(SCRIPT(HELLO, "<MAIL", "<RCPT", "<RCPT", "<RCPT", "<DATA",
		">250 ok\r\n250 ok\r\n452 4.5.3 too many\r\n452 too many\r\n354 go\r\n", "<.", ">250 one\r\n", "<RSET",
		"<MAIL", "<RCPT TO:<c@", "<RCPT TO:<d@", "<DATA", ">250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n",
		"<.", ">250 two\r\n", "H"));

	assert_int_equal(connect_now(fix), TR_OK);
	assert_int_equal(send_now(fix, message(fix, "a@x.test", "b@y.test,c@y.test,d@y.test", "", "x\r\n")), TR_OK);
	expect(fix, 0, "D 250 one|.");
	expect(fix, 1, "D 250 two|.");
	expect(fix, 2, "D 250 two|.");
	tear_down_as(fix, NULL, NULL);
}

static void
too_many_recipients_for_ever_end_as_transient(void **state)
{
	/* The first of a transaction is an ordinary failure; the others have at most three transactions. */
	struct fixture *fix = set_up(SCRIPT(HELLO, "<MAIL", "<RCPT TO:<b", "<RCPT", "<RCPT", "<RCPT", "<RCPT", "<DATA",
		">250 ok\r\n552 4.5.3 1\r\n552 4.5.3 1\r\n552 4.5.3 1\r\n552 4.5.3 1\r\n452 perhaps\r\n554 none\r\n",
		"<RSET", "<MAIL", "<RCPT TO:<c", "<RCPT", "<RCPT", "<RCPT TO:<f", "<DATA",
		">250 ok\r\n250 ok\r\n552 4.5.3 2\r\n552 4.5.3 2\r\n552 4.5.3 2\r\n452 again\r\n554 none\r\n", "<RSET",
		"<MAIL", "<RCPT TO:<d", "<RCPT TO:<e", "<DATA",
		">250 ok\r\n250 ok\r\n552 4.5.3 3\r\n552 4.5.3 3\r\n554 none\r\n", "H"));
	static const char *const results[] = {
		"T 552 4.5.3 1", "T 552 4.5.3 2", "T 552 4.5.3 3", "T 552 4.5.3 3", "T 452 again"};

	assert_int_equal(connect_now(fix), TR_OK);
	assert_int_equal(
		send_now(fix, message(fix, "a@x.test", "b@y.test,c@y.test,d@y.test,e@y.test,f@y.test", "", "x\r\n")),
		TR_OK);
	for (uint32_t i = 0; i < 5; i++)
		expect_start(fix, i, results[i]);
	tear_down_as(fix, NULL, NULL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_pipelined_message_is_one_group),
		cmocka_unit_test(without_pipelining_each_reply_is_awaited),
		cmocka_unit_test(lmtp_greets_with_lhlo_and_size_is_told),
		cmocka_unit_test(lmtp_has_one_recipient_a_transaction),
		cmocka_unit_test(bodies_arrive_as_they_are),
		cmocka_unit_test(a_long_body_with_dots_arrives),
		cmocka_unit_test(eight_bit_needs_an_offer),
		cmocka_unit_test(only_the_recipient_that_needs_utf8_bounces),
		cmocka_unit_test(each_recipient_has_its_own_answer),
		cmocka_unit_test(each_stage_may_refuse),
		cmocka_unit_test(data_failures_replace_those_of_recipients),
		cmocka_unit_test(a_data_granted_to_nobody_gets_a_lone_dot),
		cmocka_unit_test(no_empty_message_is_ended_for_those_who_were_accepted),
		cmocka_unit_test(a_251_beside_a_250_is_delivered),
		cmocka_unit_test(policy_may_rewrite_an_answer),
		cmocka_unit_test(rset_goes_before_every_message_but_the_first),
		cmocka_unit_test(without_enable_rset_only_after_a_failure),
		cmocka_unit_test(recipients_are_sent_in_batches),
		cmocka_unit_test(too_many_recipients_go_again_at_once),
		cmocka_unit_test(too_many_recipients_for_ever_end_as_transient),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
