/* A client, its loop and its scripted peer, for the tests of the SMTP client. */
#ifndef SMTP_FIXTURE_H
#define SMTP_FIXTURE_H

#include <sched.h>

#include "smtp_peer.h"

#include "base/clock.h"
#include "transport/smtp_client.h"

#define LIMIT_NS (60 * TR_NS_PER_S) /* of what takes milliseconds unless the machine is busy */

struct fixture {
	struct peer peer;
	struct tr_loop *loop;
	struct tr_dns *dns;
	struct tr_smtpc_host hosts[4];
	struct tr_smtpc_config config;
	struct tr_smtpc *smtp;
	struct tr_message *message; /* the last one */
	int ended, status;
};

/* The client again, after a change of the configuration. */
static inline void
renew(struct fixture *fix)
{
	tr_smtpc_free(fix->smtp);
	assert_int_equal(tr_smtpc_new(fix->loop, fix->dns, &fix->config, &fix->smtp), TR_OK);
}

/* Further scripts may be put into fix->peer.scripts before the first connection. */
static inline struct fixture *
set_up(const char *const *script)
{
	struct fixture *fix = calloc(1, sizeof *fix);

	assert_non_null(fix);
	fix->peer.scripts[0] = script;
	peer_start(&fix->peer);
	assert_int_equal(tr_loop_new(&fix->loop), TR_OK);
	tr_loop_enter(fix->loop);
	assert_int_equal(tr_dns_new(fix->loop, &fix->dns), TR_OK);
	fix->hosts[0] = (struct tr_smtpc_host){.name = "127.0.0.1", .port = (uint16_t)fix->peer.port};
	fix->config = (struct tr_smtpc_config){
		.connect_timeout_ns = LIMIT_NS,
		.banner_timeout_ns = LIMIT_NS,
		.ehlo_timeout_ns = LIMIT_NS,
		.mail_from_timeout_ns = LIMIT_NS,
		.rcpt_to_timeout_ns = LIMIT_NS,
		.data_timeout_ns = LIMIT_NS,
		.data_dot_timeout_ns = LIMIT_NS,
		.rset_timeout_ns = LIMIT_NS,
		.max_recipients_per_batch = 100,
		.port = 25,
		.enable_pipelining = true,
		.enable_rset = true,
		.ehlo_name = "me.test",
		.hosts = fix->hosts,
		.host_count = 1,
	};
	renew(fix);
	return fix;
}

static inline struct tr_message *
message(struct fixture *fix, const char *from, const char *to, const char *head, const char *body)
{
	struct tr_message *made = tr_message_new();
	const char *at = to;

	assert_non_null(made);
	assert_int_equal(tr_message_set_sender(made, tr_str(from)), TR_OK);
	while (*at != '\0') {
		size_t len = strcspn(at, ",");

		assert_int_equal(tr_message_add_rcpt(made, (struct tr_str){at, len}), TR_OK);
		at += len + (at[len] == ',');
	}
	if (head[0] != '\0')
		tr_bytes_set(&made->head, tr_blob_new(head, strlen(head)));
	if (body[0] != '\0')
		tr_bytes_set(&made->body, tr_blob_new(body, strlen(body)));
	tr_message_free(fix->message);
	fix->message = made;
	return made;
}

static inline void
ended(void *arg, int status)
{
	struct fixture *fix = arg;

	fix->ended++;
	fix->status = status;
}

static inline bool
has_ended(void *arg)
{
	return ((struct fixture *)arg)->ended > 0;
}

static inline int
connect_now(struct fixture *fix)
{
	fix->ended = 0;
	tr_smtpc_connect(fix->smtp, ended, fix);
	assert_int_equal(fix->ended, 0); /* never inside the call */
	assert_true(tr_loop_run_until(fix->loop, has_ended, fix, LIMIT_NS));
	assert_int_equal(fix->ended, 1);
	return fix->status;
}

static inline int
send_now(struct fixture *fix, const struct tr_message *sent)
{
	fix->ended = 0;
	tr_smtpc_send(fix->smtp, sent, ended, fix);
	assert_int_equal(fix->ended, 0);
	assert_true(tr_loop_run_until(fix->loop, has_ended, fix, LIMIT_NS));
	assert_int_equal(fix->ended, 1);
	return fix->status;
}

/* "D 250 2.0.0 queued|." : kind, code, text, command. */
static inline void
result_text(struct fixture *fix, uint32_t index, char *out, size_t room)
{
	struct tr_smtpc_result result;

	tr_smtpc_result(fix->smtp, index, &result);
	snprintf(out, room, "%c %d %.*s|%.*s", "DBT"[result.kind], result.code, (int)result.text.len, result.text.data,
		(int)result.command.len, result.command.data != NULL ? result.command.data : "");
}

static inline void
expect(struct fixture *fix, uint32_t index, const char *want)
{
	char got[1024];

	result_text(fix, index, got, sizeof got);
	assert_string_equal(got, want);
}

static inline void
expect_start(struct fixture *fix, uint32_t index, const char *want)
{
	char got[1024];

	result_text(fix, index, got, sizeof got);
	got[strlen(want)] = '\0';
	assert_string_equal(got, want);
}

/* The peer has ended its nth connection: a fact of the kernel, so no turn of our loop is needed. */
static inline void
await_closed(struct fixture *fix, int count)
{
	while (atomic_load(&fix->peer.closed) < count)
		sched_yield();
}

static inline bool
nothing_left(void *arg)
{
	return tr_hold_count() == 0;
}

/* Ends client and peer; what the peer has seen can be looked at until release(). */
static inline void
finish(struct fixture *fix)
{
	tr_smtpc_free(fix->smtp);
	assert_true(tr_loop_run_until(fix->loop, nothing_left, NULL, LIMIT_NS));
	tr_loop_turn(fix->loop);
	tr_dns_free(fix->dns);
	tr_loop_free(fix->loop);
	tr_message_free(fix->message);
	peer_stop(&fix->peer);
	assert_string_equal(fix->peer.error, "");
}

static inline void
release(struct fixture *fix)
{
	free(fix->peer.data);
	free(fix);
}

/* NULL: not of interest. */
static inline void
tear_down_as(struct fixture *fix, const char *lines, const char *data)
{
	finish(fix);
	if (lines != NULL)
		assert_string_equal(fix->peer.lines, lines);
	if (data != NULL) {
		assert_int_equal(fix->peer.data_len, strlen(data));
		assert_memory_equal(fix->peer.data, data, strlen(data));
	}
	release(fix);
}

#endif
