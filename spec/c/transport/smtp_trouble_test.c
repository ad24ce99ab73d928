/* The SMTP client when hosts are down, silent, rude or gone. */
#include "smtp_fixture.h"

#include "transport/smtp_client_internal.h"

#define OFFERS "250-peer\r\n250 PIPELINING\r\n"
#define HELLO ">220 peer\r\n", "<EHLO me.test", ">" OFFERS
#define PLAIN_HELLO ">220 peer\r\n", "<EHLO me.test", ">250 peer\r\n"
#define GROUP "<MAIL", "<RCPT", "<DATA"
#define ONE_OK GROUP, ">250 2.1.0 ok\r\n250 ok\r\n354 go\r\n", "<.", ">250 2.0.0 queued as 1\r\n"
#define SCRIPT(...)               \
	(const char *const[])     \
	{                         \
		__VA_ARGS__, NULL \
	}
#define SHORT_NS (50 * TR_NS_PER_MS)

static struct tr_message *
any_message(struct fixture *fix)
{
	return message(fix, "a@x.test", "b@y.test", "", "x\r\n");
}

/* --- connecting ---------------------------------------------------------------------------------------- */

static void
the_first_candidate_that_works_is_taken(void **state)
{
	struct fixture *fix = set_up(SCRIPT(">554 5.7.1 go away\r\n", "<QUIT", "H"));

	fix->peer.scripts[1] = SCRIPT(">220 peer\r\n", "<EHLO", ">502 5.5.1 what?\r\n", "<QUIT", "H");
	fix->peer.scripts[2] = SCRIPT(HELLO, ONE_OK, "H");
	fix->hosts[3] = (struct tr_smtpc_host){.name = "[127.0.0.1]"}; /* the default port */
	fix->hosts[2] = (struct tr_smtpc_host){.name = "127.0.0.1", .port = (uint16_t)fix->peer.port};
	fix->hosts[1] = fix->hosts[2];
	fix->hosts[0] = (struct tr_smtpc_host){.name = "localhost", .port = (uint16_t)peer_dead_port()};
	fix->config.port = (uint16_t)fix->peer.port;
	fix->config.host_count = 4;
	renew(fix);
	assert_int_equal(connect_now(fix), TR_OK);
	assert_string_equal(tr_smtpc_peer_name(fix->smtp), "[127.0.0.1]");
	assert_non_null(strstr(tr_smtpc_error(fix->smtp), "localhost [127.0.0.1:"));
	assert_non_null(strstr(tr_smtpc_error(fix->smtp), "]: connection refused, "));
	assert_non_null(strstr(tr_smtpc_error(fix->smtp), "]: the connection was answered by 554 5.7.1 go away, "));
	assert_non_null(strstr(tr_smtpc_error(fix->smtp), "]: EHLO was answered by 502 5.5.1 what?"));
	assert_int_equal(send_now(fix, any_message(fix)), TR_OK);
	expect(fix, 0, "D 250 2.0.0 queued as 1|.");
	tear_down_as(fix, NULL, "x\r\n");
}

static void
no_candidate_left_says_why(void **state)
{
	struct fixture *fix = set_up(SCRIPT("H"));
	char want[128];

	fix->config.host_count = 2;
	fix->hosts[0].port = (uint16_t)peer_dead_port();
	fix->hosts[1] = (struct tr_smtpc_host){.name = "256.1.1.1..bad", .port = 1};
	renew(fix);
	assert_int_equal(connect_now(fix), TR_ECLOSED);
	snprintf(want, sizeof want,
		"127.0.0.1 [127.0.0.1:%d]: connection refused, 256.1.1.1..bad: no address of that name",
		fix->hosts[0].port);
	assert_string_equal(tr_smtpc_error(fix->smtp), want);
	assert_false(tr_smtpc_usable(fix->smtp));
	tear_down_as(fix, NULL, NULL);
}

static void
a_host_must_greet_in_time_and_in_form(void **state)
{
	const struct {
		const char *const *script;
		const char *reason;
	} cases[] = {
		{SCRIPT("H"), "timed out waiting 0.05s for the banner"},
		{SCRIPT(">220-wait\r\n", "H"), "timed out waiting 0.05s for the banner"},
		{SCRIPT(">220 peer\r\n", "<EHLO", "H"), "timed out waiting 0.05s for the reply to EHLO"},
		{SCRIPT(">220 pe"), "connection closed by the peer while waiting for the banner"},
		{SCRIPT("R"), "connection closed by the peer while waiting for the banner"},
		{SCRIPT(">SSH-2.0-x\r\n", "H"), "a reply that does not begin with a code"},
		{SCRIPT(">220 a\r\n250 b\r\n", "H"), "more than one reply came"},
		{SCRIPT(">421 4.3.2 busy\r\n", "<QUIT", "H"), "the connection was answered by 421 4.3.2 busy"},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct fixture *fix = set_up(cases[i].script);

		if (strstr(cases[i].reason, "for the banner") != NULL)
			fix->config.banner_timeout_ns = strstr(cases[i].reason, "timed") != NULL ? SHORT_NS : LIMIT_NS;
		else if (strstr(cases[i].reason, "timed") != NULL)
			fix->config.ehlo_timeout_ns = SHORT_NS;
		renew(fix);
		assert_int_equal(connect_now(fix), TR_ECLOSED);
		/* a reset may be there before the end of the connect is seen */
		if (cases[i].script[0][0] != 'R' || strstr(tr_smtpc_error(fix->smtp), "reset by peer") == NULL)
			assert_non_null(strstr(tr_smtpc_error(fix->smtp), cases[i].reason));
		tear_down_as(fix, NULL, NULL);
	}
}

/* --- the dialogue breaks -------------------------------------------------------------------------------- */

static void
a_broken_dialogue_is_transient(void **state)
{
#define FAILED "T 400 KumoMTA internal: failed to send message: 127.0.0.1 ["
	const struct {
		const char *const *script;
		const char *start, *part;
	} cases[] = {
		{SCRIPT(HELLO, GROUP), FAILED,
			"]: connection closed by the peer while waiting for the reply to MAIL FROM|"},
		{SCRIPT(HELLO, GROUP, ">250 ok\r\n25"), FAILED,
			"closed by the peer while waiting for the reply to RCPT TO|"},
		{SCRIPT(HELLO, GROUP, ">250 ok\r\n250 ok\r\n", "R"), FAILED,
			"closed by the peer while waiting for the reply to DATA|"},
		{SCRIPT(HELLO, GROUP, ">250 ok\r\n250 ok\r\n354 go\r\n", "<."), FAILED,
			"waiting for the reply to the message|"},
		{SCRIPT(HELLO, GROUP, ">250 ok\r\nhello\r\n", "H"), FAILED,
			"a reply that does not begin with a code while waiting for the reply to RCPT TO|"},
		{SCRIPT(HELLO, GROUP, ">250-ok\r\n550 no\r\n", "H"), FAILED, "a reply with several codes"},
		{SCRIPT(HELLO, GROUP, ">250 ok\r\n250 ok\r\n354 go\r\n250 taken\r\n", "H"), FAILED,
			"an answer before the question"},
		/* 421 explains the end that follows it. */
		{SCRIPT(HELLO, GROUP, ">421 4.3.2 bye\r\n"), "T 421 4.3.2 bye|MAIL FROM:<a@x.test>", ""},
		{SCRIPT(HELLO, GROUP, ">421 4.3.2 bye\r\n503 x\r\n503 x\r\n", "H"),
			"T 421 4.3.2 bye|MAIL FROM:<a@x.test>", ""},
		{SCRIPT(HELLO, GROUP, ">250 ok\r\n421 4.3.2 bye\r\n"), "T 421 4.3.2 bye|RCPT TO:<b@y.test>", ""},
		{SCRIPT(HELLO, GROUP, ">250 ok\r\n250 ok\r\n421 4.3.2 bye\r\n"), "T 421 4.3.2 bye|DATA", ""},
		{SCRIPT(PLAIN_HELLO, "<MAIL", ">421 bye\r\n"), "T 421 bye|MAIL FROM:<a@x.test>", ""},
		/* A refusal of MAIL stands although the rest of the replies is missing. */
		{SCRIPT(HELLO, GROUP, ">550 no\r\n"), "B 550 no|MAIL FROM:<a@x.test>", ""},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct fixture *fix = set_up(cases[i].script);
		char got[1024];

		fix->config.rset_timeout_ns = SHORT_NS; /* of those who stay after 421 */
		renew(fix);
		assert_int_equal(connect_now(fix), TR_OK);
		assert_int_equal(send_now(fix, any_message(fix)), TR_OK);
		expect_start(fix, 0, cases[i].start);
		result_text(fix, 0, got, sizeof got);
		assert_non_null(strstr(got, cases[i].part));
		if (strncmp(cases[i].start, "T 421", 5) != 0)
			assert_false(tr_smtpc_usable(fix->smtp));
		tear_down_as(fix, NULL, NULL);
	}
}

static void
a_421_to_one_recipient_is_told_to_all_whom_the_end_hits(void **state)
{
	struct fixture *fix = set_up(SCRIPT(
		HELLO, "<MAIL", "<RCPT", "<RCPT", "<RCPT", "<DATA", ">250 ok\r\n250 ok\r\n550 no\r\n421 bye\r\n"));

	fix->config.max_recipients_per_batch = 3;
	renew(fix);
	assert_int_equal(connect_now(fix), TR_OK);
	assert_int_equal(
		send_now(fix, message(fix, "a@x.test", "b@y.test,c@y.test,d@y.test,e@y.test", "", "x\r\n")), TR_OK);
	expect(fix, 0, "T 421 bye|RCPT TO:<d@y.test>");
	expect(fix, 1, "B 550 no|RCPT TO:<c@y.test>");
	expect(fix, 2, "T 421 bye|RCPT TO:<d@y.test>");
	expect(fix, 3, "T 421 bye|RCPT TO:<d@y.test>"); /* was to be in the next transaction */
	assert_false(tr_smtpc_usable(fix->smtp));
	tear_down_as(fix, NULL, NULL);
}

static void
silence_ends_with_the_timeout_of_the_step(void **state)
{
	const struct {
		const char *const *script;
		size_t timeout; /* offset in the configuration */
		const char *step;
	} cases[] = {
		{SCRIPT(HELLO, GROUP, "H"), offsetof(struct tr_smtpc_config, mail_from_timeout_ns), "MAIL FROM"},
		{SCRIPT(HELLO, GROUP, ">250 ok\r\n", "H"), offsetof(struct tr_smtpc_config, rcpt_to_timeout_ns),
			"RCPT TO"},
		{SCRIPT(HELLO, GROUP, ">250 ok\r\n250 ok\r\n", "H"), offsetof(struct tr_smtpc_config, data_timeout_ns),
			"DATA"},
		{SCRIPT(HELLO, GROUP, ">250 ok\r\n250 ok\r\n354 go\r\n", "<.", "H"),
			offsetof(struct tr_smtpc_config, data_dot_timeout_ns), "the message"},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct fixture *fix = set_up(cases[i].script);
		char got[1024], want[256];

		*(int64_t *)((char *)&fix->config + cases[i].timeout) = SHORT_NS;
		renew(fix);
		assert_int_equal(connect_now(fix), TR_OK);
		assert_int_equal(send_now(fix, any_message(fix)), TR_OK);
		snprintf(want, sizeof want, "Timed Out waiting 0.05s for the reply to %s|", cases[i].step);
		expect_start(fix, 0, "T 421 4.4.2 KumoMTA internal: failed to send message to 127.0.0.1 [");
		result_text(fix, 0, got, sizeof got);
		assert_non_null(strstr(got, want));
		assert_false(tr_smtpc_usable(fix->smtp));
		tear_down_as(fix, NULL, NULL);
	}
}

static void
a_peer_that_stops_taking_the_body_is_an_io_error(void **state)
{
	struct fixture *fix = set_up(SCRIPT(HELLO, GROUP, ">250 ok\r\n250 ok\r\n354 go\r\n", "P"));
	struct tr_blob *blob = tr_blob_new(NULL, 16 << 20);
	struct tr_message *large = message(fix, "a@x.test", "b@y.test", "", "");

	memset(blob->data, 'x', blob->len);
	tr_bytes_set(&large->body, blob);
	fix->config.data_dot_timeout_ns = SHORT_NS;
	renew(fix);
	assert_int_equal(connect_now(fix), TR_OK);
	assert_int_equal(send_now(fix, large), TR_OK);
	expect_start(fix, 0, "T 400 KumoMTA internal: failed to send message: 127.0.0.1 [");
	tear_down_as(fix, NULL, NULL);
}

static void
a_slow_taker_of_the_body_is_given_time(void **state)
{
	const int64_t step_ns = TR_NS_PER_S; /* a quarter of the time-out */
	struct fixture *fix;
	struct tr_blob *blob = tr_blob_new(NULL, 24 << 20);
	struct tr_message *large;

	tr_clock_virtual(INT64_C(1764000000) * TR_NS_PER_S);
	fix = set_up(SCRIPT(HELLO, GROUP, ">250 ok\r\n250 ok\r\n354 go\r\n", "A"));
	large = message(fix, "a@x.test", "b@y.test", "", "");
	memset(blob->data, 'x', blob->len);
	tr_bytes_set(&large->body, blob);
	fix->config.data_dot_timeout_ns = 4 * step_ns;
	renew(fix);
	assert_int_equal(connect_now(fix), TR_OK);
	fix->ended = 0;
	tr_smtpc_send(fix->smtp, large, ended, fix);
	while (fix->smtp->step != SMTP_DOT)
		tr_loop_turn(fix->loop);
	for (int i = 0; i < 12; i++) { /* three times the time-out */
		size_t before = tr_stream_backlog(fix->smtp->stream);

		while (fix->ended == 0 && tr_stream_backlog(fix->smtp->stream) >= before) {
			if (atomic_load(&fix->peer.allowed) <= 0)
				atomic_store(&fix->peer.allowed, 64 << 10);
			tr_loop_turn(fix->loop);
		}
		tr_clock_advance(step_ns + TR_NS_PER_MS);
		tr_loop_turn(fix->loop);
		assert_int_equal(fix->ended, 0);
	}
	atomic_store(&fix->peer.allowed, 0);
	for (int i = 0; i < 20 && fix->ended == 0; i++) { /* now it takes nothing */
		tr_clock_advance(step_ns + TR_NS_PER_MS);
		tr_loop_turn(fix->loop);
	}
	assert_int_equal(fix->ended, 1);
	expect_start(fix, 0, "T 400 KumoMTA internal: failed to send message: 127.0.0.1 [");
	tear_down_as(fix, NULL, NULL);
	tr_clock_real();
}

/* --- connections that have been idle ------------------------------------------------------------------------ */

static void
an_idle_connection_that_ended_is_no_attempt(void **state)
{
	const struct {
		const char *const *script;
	} cases[] = {
		{SCRIPT(HELLO, ONE_OK)},
		{SCRIPT(HELLO, ONE_OK, "R")},
		{SCRIPT(HELLO, ONE_OK, ">421 4.4.2 idle too long\r\n")},
		{SCRIPT(HELLO, ONE_OK, ">250 what nobody asked for\r\n")},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		for (int more = 0; more < 2; more++) {
			struct fixture *fix = set_up(cases[i].script);

			fix->peer.scripts[1] = SCRIPT(HELLO, ONE_OK, "H");
			fix->hosts[1] = fix->hosts[0];
			fix->config.host_count = 1 + (size_t)more;
			renew(fix);
			assert_int_equal(connect_now(fix), TR_OK);
			assert_int_equal(send_now(fix, any_message(fix)), TR_OK);
			expect(fix, 0, "D 250 2.0.0 queued as 1|.");
			await_closed(fix, 1);
			if (more) { /* the next candidate gets it */
				assert_int_equal(send_now(fix, any_message(fix)), TR_OK);
				expect(fix, 0, "D 250 2.0.0 queued as 1|.");
				assert_true(tr_smtpc_usable(fix->smtp));
			} else {
				assert_int_equal(send_now(fix, any_message(fix)), TR_EAGAIN);
				assert_false(tr_smtpc_usable(fix->smtp));
			}
			tear_down_as(fix, NULL, NULL);
		}
	}
}

/* The answer to RSET or to the group does not come: told in time, and the next message has the next candidate. */
static void
an_idle_connection_that_is_silent_is_given_up(void **state)
{
	struct fixture *fix = set_up(SCRIPT(HELLO, ONE_OK, "H"));

	fix->peer.scripts[1] = SCRIPT(HELLO, ONE_OK, "H");
	fix->config.rset_timeout_ns = SHORT_NS;
	renew(fix);
	assert_int_equal(connect_now(fix), TR_OK);
	assert_int_equal(send_now(fix, any_message(fix)), TR_OK);
	expect(fix, 0, "D 250 2.0.0 queued as 1|.");
	assert_int_equal(send_now(fix, any_message(fix)), TR_OK);
	expect_start(fix, 0, "T 421 4.4.2 KumoMTA internal: failed to send message to 127.0.0.1 [");
	assert_false(tr_smtpc_usable(fix->smtp));
	fix->config.rset_timeout_ns = LIMIT_NS;
	renew(fix);
	assert_int_equal(connect_now(fix), TR_OK);
	assert_int_equal(send_now(fix, any_message(fix)), TR_OK);
	expect(fix, 0, "D 250 2.0.0 queued as 1|.");
	tear_down_as(fix, NULL, NULL);
}

static void
the_strategy_says_where_the_next_message_goes(void **state)
{
	/* one candidate: the next host is none, the same host is there, and a session that is to end ends */
	const struct {
		enum tr_smtpc_reconnect strategy;
		size_t hosts;
		int expected;
	} cases[] = {
		{TR_SMTPC_NEXT_HOST, 1, TR_EAGAIN},
		{TR_SMTPC_SAME_HOST, 1, TR_OK},
		{TR_SMTPC_TERMINATE, 2, TR_EAGAIN},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct fixture *fix = set_up(SCRIPT(HELLO, ONE_OK));

		fix->peer.scripts[1] = SCRIPT(HELLO, ONE_OK, "H");
		fix->hosts[1] = fix->hosts[0];
		fix->config.host_count = cases[i].hosts;
		fix->config.reconnect = cases[i].strategy;
		renew(fix);
		assert_int_equal(connect_now(fix), TR_OK);
		assert_int_equal(send_now(fix, any_message(fix)), TR_OK);
		await_closed(fix, 1);
		assert_int_equal(send_now(fix, any_message(fix)), cases[i].expected);
		assert_int_equal(tr_smtpc_usable(fix->smtp), cases[i].expected == TR_OK);
		tear_down_as(fix, NULL, NULL);
	}
}

static void
an_end_without_a_word_moves_the_message_once(void **state)
{
	/* The peer hangs up while the commands are under way: neither connection has said anything about the message.
	 */
	struct fixture *fix = set_up(SCRIPT(HELLO, ONE_OK, "<RSET", "R"));

	fix->peer.scripts[1] = SCRIPT(HELLO, GROUP, "R");
	fix->peer.scripts[2] = SCRIPT(HELLO, ONE_OK, "H");
	fix->hosts[1] = fix->hosts[2] = fix->hosts[0];
	fix->config.host_count = 3;
	renew(fix);
	assert_int_equal(connect_now(fix), TR_OK);
	assert_int_equal(send_now(fix, any_message(fix)), TR_OK);
	assert_int_equal(send_now(fix, any_message(fix)), TR_OK);
	expect_start(fix, 0, "T 400 KumoMTA internal: failed to send message: ");
	tear_down_as(fix, NULL, NULL);
}

static void
an_end_after_a_word_counts(void **state)
{
	struct fixture *fix =
		set_up(SCRIPT(HELLO, ONE_OK, "<RSET", "<MAIL", "<RCPT", "<DATA", ">250 reset\r\n250 ok\r\n"));

	fix->peer.scripts[1] = SCRIPT(HELLO, ONE_OK, "H");
	fix->hosts[1] = fix->hosts[0];
	fix->config.host_count = 2;
	renew(fix);
	assert_int_equal(connect_now(fix), TR_OK);
	assert_int_equal(send_now(fix, any_message(fix)), TR_OK);
	assert_int_equal(send_now(fix, any_message(fix)), TR_OK);
	expect_start(fix, 0, "T 400 KumoMTA internal: failed to send message: ");
	tear_down_as(fix, NULL, NULL);
}

static void
virtual_time_passes_while_a_connection_is_idle(void **state)
{
	struct fixture *fix = set_up(SCRIPT(HELLO, ONE_OK, "H"));

	assert_int_equal(connect_now(fix), TR_OK);
	assert_int_equal(tr_hold_count(), 0);
	assert_int_equal(send_now(fix, any_message(fix)), TR_OK);
	assert_int_equal(tr_hold_count(), 0);
	tear_down_as(fix, NULL, NULL);
}

/* --- being given up -------------------------------------------------------------------------------------------- */

static void
cancelling_leaves_nothing_behind(void **state)
{
	for (int stage = 0; stage < 3; stage++) {
		struct fixture *fix = set_up(stage == 1 ? SCRIPT("H") : SCRIPT(HELLO, GROUP, ">250 ok\r\n", "H"));

		fix->ended = 0;
		if (stage == 0) { /* during the look-up and the connect */
			tr_smtpc_connect(fix->smtp, ended, fix);
		} else if (stage == 1) {
			tr_smtpc_connect(fix->smtp, ended, fix);
			for (int i = 0; i < 10; i++)
				tr_loop_turn(fix->loop);
		} else {
			assert_int_equal(connect_now(fix), TR_OK);
			fix->ended = 0;
			tr_smtpc_send(fix->smtp, any_message(fix), ended, fix);
			tr_loop_turn(fix->loop);
		}
		tr_smtpc_cancel(fix->smtp);
		for (int i = 0; i < 10; i++)
			tr_loop_turn(fix->loop);
		assert_int_equal(fix->ended, 0);
		assert_int_equal(tr_hold_count(), 0);
		assert_false(tr_smtpc_usable(fix->smtp));
		tear_down_as(fix, NULL, NULL);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_first_candidate_that_works_is_taken),
		cmocka_unit_test(no_candidate_left_says_why),
		cmocka_unit_test(a_host_must_greet_in_time_and_in_form),
		cmocka_unit_test(a_broken_dialogue_is_transient),
		cmocka_unit_test(a_421_to_one_recipient_is_told_to_all_whom_the_end_hits),
		cmocka_unit_test(silence_ends_with_the_timeout_of_the_step),
		cmocka_unit_test(a_peer_that_stops_taking_the_body_is_an_io_error),
		cmocka_unit_test(a_slow_taker_of_the_body_is_given_time),
		cmocka_unit_test(an_idle_connection_that_ended_is_no_attempt),
		cmocka_unit_test(an_idle_connection_that_is_silent_is_given_up),
		cmocka_unit_test(the_strategy_says_where_the_next_message_goes),
		cmocka_unit_test(an_end_without_a_word_moves_the_message_once),
		cmocka_unit_test(an_end_after_a_word_counts),
		cmocka_unit_test(virtual_time_passes_while_a_connection_is_idle),
		cmocka_unit_test(cancelling_leaves_nothing_behind),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
