/* Replies of an SMTP session: rewritten by policy, written, recorded when they refuse. */
#include <stdio.h>
#include <stdlib.h>

#include "base/diag.h"
#include "ingress/smtp_internal.h"

void
tr_smtp_write_lines(struct tr_smtp_session *session, int code, struct tr_str text)
{
	struct tr_buf out = {0};

	for (;;) { /* CR and LF of policy's texts must not become lines of their own without a code */
		const char *lf = text.len > 0 ? memchr(text.data, '\n', text.len) : NULL;
		struct tr_str line = {text.data, lf != NULL ? (size_t)(lf - text.data) : text.len};

		char head[4] = {(char)('0' + code / 100 % 10), (char)('0' + code / 10 % 10), (char)('0' + code % 10),
			lf != NULL ? '-' : ' '};

		tr_buf_add(&out, head, sizeof head);
		for (size_t i = 0; i < line.len; i++)
			if (line.data[i] != '\r' && line.data[i] != '\0')
				tr_buf_addc(&out, line.data[i]);
		tr_buf_add(&out, "\r\n", 2);
		if (lf == NULL)
			break;
		text.data += line.len + 1;
		text.len -= line.len + 1;
	}
	if (out.failed) /* half an answer would be taken for a whole one */
		tr_smtp_session_abort(session);
	else
		tr_stream_write(session->stream, out.data, out.len);
	tr_buf_free(&out);
}

/* --- records of refusals ---------------------------------------------------------------------------------------- */

static void
recorded(struct tr_outbox *outbox, int status)
{
	if (status != TR_OK)
		tr_log(TR_LEVEL_WARN, "smtp_server", "a Rejection record was not stored: %s", tr_err_text(status));
	free(outbox);
}

static void
record(struct tr_smtp_session *session, int code, struct tr_str text)
{
	static struct tr_addr nobody = {.email = (char *)""};
	const struct tr_addr *last = session->rcpt_count > 0 ? &session->rcpts[session->rcpt_count - 1] : NULL;
	struct tr_outbox *outbox = malloc(sizeof *outbox);
	char peer[64];

	for (int i = 0; i < 2; i++)
		tr_metric_add(session->shared->rejections[i], 1);
	if (outbox == NULL) {
		tr_log(TR_LEVEL_ERROR, "smtp_server", "a Rejection record was not made: out of memory");
		return;
	}
	tr_sockaddr_text(tr_stream_peer(session->stream), false, peer);
	struct tr_event event = {
		.type = TR_EV_REJECTION,
		.sender = session->in_mail ? &session->sender : &nobody,
		.rcpts = last != NULL && session->in_mail ? &last : NULL,
		.rcpt_count = last != NULL && session->in_mail ? 1 : 0,
		.response = {.code = code, .content = text, .command = session->command},
		.has_peer = true,
		.peer_name = tr_str(session->ehlo != NULL ? session->ehlo : ""),
		.peer_addr = tr_str(peer),
		.queue = TR_STR(""),
		.site = TR_STR(""),
		.session_id = tr_str(tr_smtp_session_uuid(session)),
		.meta = tr_smtp_session_meta(session),
	};
	static const struct tr_meta no_meta;
	if (event.meta == NULL)
		event.meta = &no_meta;
	if (session->trouble != NULL)
		event.response.command = tr_str(session->trouble);
	else if (session->state == TR_SMTP_AT_WORK)
		event.response.command = TR_STR("DATA");
	tr_response_split_enhanced(&event.response);
	tr_outbox_init(outbox, session->worker, recorded, NULL);
	outbox->change.intake = true; /* a full disk may refuse it: the client has its answer all the same */
	tr_outbox_emit(outbox, &event);
	tr_outbox_submit(outbox);
}

/* --- replies ------------------------------------------------------------------------------------------------------ */

static void
finish(struct tr_smtp_session *session, int code, struct tr_str text, enum tr_smtp_after after)
{
	bool quiet = code == 421 && text.len >= 6 && memcmp(text.data, "4.3.2 ", 6) == 0;

	tr_smtp_write_lines(session, code, text);
	if (session->dead) /* out of memory: it has no answer, and nothing was answered */
		return;
	if (code >= 400 && code <= 599)
		tr_smtp_charge(session, true);
	if (code >= 400 && code <= 599 && !quiet)
		record(session, code, text);
	if (session->close_mail)
		tr_smtp_clear_mail(session);
	free(session->command_kept);
	free(session->trouble);
	session->command_kept = session->trouble = NULL;
	session->command = (struct tr_str){NULL, 0};
	if (session->state == TR_SMTP_AT_WORK) {
		tr_smtp_text_free(session);
		session->state = TR_SMTP_AT_COMMAND;
	} else if (session->text != NULL) { /* the answer to DATA, if policy has not made a refusal of it */
		if (code == 354)
			session->state = TR_SMTP_AT_TEXT;
		else
			tr_smtp_text_free(session);
	}
	if (after == TR_SMTP_FOLLOW && code != 421) {
		struct tr_buf line = {0};

		tr_buf_addf(&line, "%s disconnecting due to previous error", session->params->hostname);
		if (!line.failed)
			tr_smtp_write_lines(session, 421, (struct tr_str){line.data, line.len});
		tr_buf_free(&line);
	}
	if (after != TR_SMTP_GO_ON || code == 421)
		tr_smtp_close(session);
	else
		tr_smtp_go_on(session);
}

static void
rewritten(struct tr_smtp_session *session, const struct tr_smtp_answer *answer)
{
	struct tr_buf text = session->reply;
	struct tr_str final = {text.data, text.len};
	int code = session->reply_code;

	session->reply = (struct tr_buf){0}; /* whatever follows may reply again */
	if (answer->reject_code >= 0 || answer->error != NULL) {
		tr_log(TR_LEVEL_ERROR, "smtp_server", "smtp_server_rewrite_response: %s",
			answer->error != NULL ? answer->error : "rejections have no meaning here");
	} else {
		if (answer->code >= 200 && answer->code <= 599)
			code = answer->code;
		if (answer->text.data != NULL)
			final = answer->text;
	}
	finish(session, code, final, session->reply_after);
	tr_buf_free(&text);
}

void
tr_smtp_reply(struct tr_smtp_session *session, int code, const char *text, enum tr_smtp_after after)
{
	if (!session->greeted || !tr_smtp_wants(session, TR_SMTP_ON_REPLY)) {
		finish(session, code, tr_str(text), after);
		return;
	}
	tr_buf_clear(&session->reply);
	tr_buf_addz(&session->reply, text);
	session->reply_code = code;
	session->reply_after = after;
	struct tr_smtp_call call = {
		.event = TR_SMTP_ON_REPLY,
		.code = code,
		.text = {session->reply.data, session->reply.len},
		.command = session->command,
	};
	tr_smtp_fire(session, &call, rewritten);
}

void
tr_smtp_replyf(struct tr_smtp_session *session, int code, enum tr_smtp_after after, const char *fmt, ...)
{
	char small[512], *text = small;
	va_list args;
	int len;

	va_start(args, fmt);
	len = vsnprintf(small, sizeof small, fmt, args);
	va_end(args);
	if (len >= (int)sizeof small) {
		va_start(args, fmt);
		if (vasprintf(&text, fmt, args) < 0)
			text = small; /* cut */
		va_end(args);
	}
	tr_smtp_reply(session, code, text, after);
	if (text != small)
		free(text);
}

void
tr_smtp_trouble(struct tr_smtp_session *session, const char *error)
{
	const char *host = session->params->hostname, *why = NULL;

	tr_log(TR_LEVEL_ERROR, "smtp_server", "%s: %s", session->shared->text, error);
	free(session->trouble);
	session->trouble = strdup(error);
	if (tr_spool_accepts(tr_smtp_spool(session), &why))
		tr_smtp_replyf(session, 421, TR_SMTP_CLOSE, "4.3.0 %s technical difficulties", host);
	else
		tr_smtp_replyf(
			session, 421, TR_SMTP_CLOSE, "4.3.2 %s the spool is not accepting writes. Try later", host);
}

bool
tr_smtp_refused(struct tr_smtp_session *session, const struct tr_smtp_answer *answer)
{
	static const enum tr_smtp_after after[] = {TR_SMTP_GO_ON, TR_SMTP_FOLLOW, TR_SMTP_CLOSE};

	if (answer->reject_code < 0 && answer->error == NULL)
		return false;
	if (answer->reject_code < 0) {
		tr_smtp_trouble(session, answer->error);
		return true;
	}
	if (answer->reject_code < 200 || answer->reject_code > 599) {
		char text[96];

		snprintf(text, sizeof text, "the policy rejected with %d, which is no SMTP reply code",
			answer->reject_code);
		tr_smtp_trouble(session, text);
		return true;
	}
	/* the text is borrowed from policy, whose turn ends here: a copy, as rewriting may wait */
	char *text = strndup(answer->reject_text.data != NULL ? answer->reject_text.data : "", answer->reject_text.len);
	tr_smtp_reply(session, answer->reject_code, text != NULL ? text : "refused",
		session->greeted ? after[answer->disconnect] : TR_SMTP_CLOSE);
	free(text);
	return true;
}
