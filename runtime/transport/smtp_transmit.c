/* One message over a connection, in transactions: [RSET] MAIL RCPT... DATA body. With pipelining the commands of a
 * transaction go out in one write, and the same steps then read the replies. */
#include <stdlib.h>

#include "transport/smtp_client_internal.h"

#define TRIES_MAX 3            /* transactions that may name a recipient answered by "too many recipients" */
#define LONG_BODY (256 * 1024) /* bytes: from here on the time-out runs from the last progress */

static void transaction_begin(struct tr_smtpc *smtp);

/* --- writing ---------------------------------------------------------------------------------------------- */

static void
add_mail(struct tr_smtpc *smtp)
{
	const struct tr_message *message = smtp->message;
	bool utf8 = smtp->utf8_sender;

	for (uint32_t i = 0; i < smtp->batch_count && !utf8; i++)
		utf8 = !tr_smtpc_is_ascii(tr_addr_str(&message->rcpts[smtp->batch[i]]));
	tr_buf_addz(&smtp->out, "MAIL FROM:<");
	tr_buf_add_str(&smtp->out, tr_addr_str(&message->sender));
	tr_buf_addc(&smtp->out, '>');
	if (smtp->offers.size) {
		tr_buf_addz(&smtp->out, " SIZE=");
		tr_buf_add_u64(&smtp->out, message->head.len + message->body.len);
	}
	if (smtp->offers.eightbit && (smtp->eightbit || utf8))
		tr_buf_addz(&smtp->out, " BODY=8BITMIME");
	if (smtp->offers.smtputf8 && utf8)
		tr_buf_addz(&smtp->out, " SMTPUTF8");
	tr_buf_addz(&smtp->out, "\r\n");
}

static void
add_rcpt(struct tr_smtpc *smtp, uint32_t at)
{
	tr_buf_addz(&smtp->out, "RCPT TO:<");
	tr_buf_add_str(&smtp->out, tr_addr_str(&smtp->message->rcpts[smtp->batch[at]]));
	tr_buf_addz(&smtp->out, ">\r\n");
}

static void
add_command(struct tr_smtpc *smtp, enum smtp_step step)
{
	if (step == SMTP_RSET)
		tr_buf_addz(&smtp->out, "RSET\r\n");
	else if (step == SMTP_MAIL)
		add_mail(smtp);
	else if (step == SMTP_RCPT)
		add_rcpt(smtp, smtp->batch_at);
	else
		tr_buf_addz(&smtp->out, "DATA\r\n");
}

static bool
write_out(struct tr_smtpc *smtp)
{
	if (smtp->out.failed) {
		tr_buf_free(&smtp->out);
		tr_smtpc_transmit_broken(smtp, TR_ENOMEM, NULL);
		return false;
	}
	tr_stream_write(smtp->stream, smtp->out.data, smtp->out.len);
	tr_buf_clear(&smtp->out);
	return true;
}

/* The reply of this step is awaited now; its command goes out unless it has. */
static void
go_to(struct tr_smtpc *smtp, enum smtp_step step)
{
	smtp->step = step;
	if (!smtp->pipelined) {
		add_command(smtp, step);
		if (!write_out(smtp))
			return;
	}
	/* After a 421 the end of the connection is awaited rather than a reply. */
	tr_stream_deadline(smtp->stream,
		smtp->goodbye != 0 && smtp->pipelined ? smtp->config.rset_timeout_ns : tr_smtpc_step_timeout_ns(smtp));
}

/* A peer that takes a long body slowly is not one that is silent. */
static void
look_at_progress(struct tr_timer *timer)
{
	struct tr_smtpc *smtp = tr_container_of(timer, struct tr_smtpc, progress);
	size_t backlog = smtp->stream != NULL ? tr_stream_backlog(smtp->stream) : 0;

	if (smtp->stream == NULL || smtp->step != SMTP_DOT)
		return;
	if (backlog < smtp->backlog)
		tr_stream_deadline(smtp->stream, smtp->config.data_dot_timeout_ns);
	smtp->backlog = backlog;
	if (backlog > 0)
		tr_timer_start(tr_loop_wheel(smtp->loop), timer,
			tr_max_i64(smtp->config.data_dot_timeout_ns / 4, TR_NS_PER_MS), look_at_progress);
}

static void
send_body(struct tr_smtpc *smtp)
{
	smtp->step = SMTP_DOT;
	for (uint32_t i = 0; i < smtp->batch_count; i++) {
		struct smtp_rcpt *rcpt = &smtp->rcpts[smtp->batch[i]];

		rcpt->sent = rcpt->state == SMTP_ACCEPTED || rcpt->state == SMTP_ODD;
	}
	tr_smtpc_write_body(smtp->stream, &smtp->message->head, &smtp->message->body);
	tr_stream_deadline(smtp->stream, smtp->config.data_dot_timeout_ns);
	smtp->backlog = tr_stream_backlog(smtp->stream);
	if (smtp->backlog >= LONG_BODY)
		tr_timer_start(tr_loop_wheel(smtp->loop), &smtp->progress,
			tr_max_i64(smtp->config.data_dot_timeout_ns / 4, TR_NS_PER_MS), look_at_progress);
}

/* --- the end of a transaction ------------------------------------------------------------------------------ */

static void
finish_rcpt(struct smtp_rcpt *rcpt, uint32_t said)
{
	rcpt->said = said;
	rcpt->state = SMTP_FINISHED;
}

/* Everybody who still waits for a transaction gets the same. */
static void
finish_waiting(struct tr_smtpc *smtp, uint32_t said)
{
	for (uint32_t i = 0; i < smtp->rcpt_count; i++) {
		if (smtp->rcpts[i].state == SMTP_WAITING)
			finish_rcpt(&smtp->rcpts[i], said);
	}
}

static void
message_over(struct tr_smtpc *smtp)
{
	tr_timer_stop(tr_loop_wheel(smtp->loop), &smtp->progress);
	if (smtp->stream != NULL) {
		smtp->step = SMTP_IDLE;
		tr_stream_deadline(smtp->stream, 0);
		tr_stream_pause(smtp->stream); /* an idle connection is looked at when it is needed */
		if (smtp->goodbye != 0 || tr_stream_input(smtp->stream)->len > 0)
			smtp->unusable = true;
	}
	tr_smtpc_finish(smtp, TR_OK);
}

/* "Too many recipients" for all but the first of several: they have another transaction at once (T28: not for ever). */
static bool
goes_again(const struct tr_smtpc *smtp, uint32_t at)
{
	const struct smtp_rcpt *rcpt = &smtp->rcpts[smtp->batch[at]];

	if (at == 0 || smtp->batch_count == 1 || smtp->goodbye != 0)
		return false;
	return rcpt->too_many ? rcpt->tries < TRIES_MAX : rcpt->too_many_once && rcpt->tries < 2;
}

static void
finish_odd(struct tr_smtpc *smtp, struct smtp_rcpt *rcpt)
{
	struct smtp_said said = smtp->said[rcpt->said < smtp->said_count ? rcpt->said : 0];
	char text[256];
	size_t len = said.text_len < sizeof text ? said.text_len : sizeof text;

	if (rcpt->said == 0 || rcpt->said >= smtp->said_count) {
		finish_rcpt(rcpt, 0);
		return;
	}
	memcpy(text, smtp->texts.data + said.text_at, len);
	finish_rcpt(rcpt, tr_smtpc_sayf(smtp, 400, false,
				  "KumoMTA internal: failed to send message: nothing was sent: RCPT TO was answered by "
				  "%d instead of 250: %.*s",
				  said.code, (int)len, text));
}

/* The connection is in order, or gone after a verdict. */
static void
transaction_over(struct tr_smtpc *smtp)
{
	bool waiting = false;

	tr_timer_stop(tr_loop_wheel(smtp->loop), &smtp->progress);
	smtp->spoiled = smtp->verdict != 0 || smtp->accepted == 0;
	for (uint32_t i = 0; i < smtp->batch_count; i++) {
		struct smtp_rcpt *rcpt = &smtp->rcpts[smtp->batch[i]];

		if (smtp->verdict != 0) {
			rcpt->too_many = rcpt->too_many_once = false;
			finish_rcpt(rcpt, smtp->verdict);
		} else if (rcpt->state == SMTP_REFUSED) {
			if (goes_again(smtp, i))
				rcpt->state = SMTP_WAITING;
			else
				rcpt->state = SMTP_FINISHED;
		} else if (rcpt->state == SMTP_ODD) { /* without a 250 for anybody no body went out */
			finish_odd(smtp, rcpt);
		}
	}
	for (uint32_t i = 0; i < smtp->rcpt_count && !waiting; i++)
		waiting = smtp->rcpts[i].state == SMTP_WAITING;
	if (waiting && smtp->stream != NULL && smtp->goodbye == 0) {
		transaction_begin(smtp);
		return;
	}
	if (waiting)
		finish_waiting(smtp, smtp->goodbye != 0 ? smtp->goodbye
							: tr_smtpc_sayf(smtp, 400, false,
								  "KumoMTA internal: failed to send message: the "
								  "connection to %s ended before this recipient's turn",
								  tr_smtpc_peer_name(smtp)));
	message_over(smtp);
}

/* MAIL, DATA, RSET or the message as a whole was answered by something else than success. A 2xx is no success when
 * nothing was sent, and must not look like one. */
static void
set_verdict(struct tr_smtpc *smtp, const struct tr_smtpc_reply *reply, const char *command, struct tr_str address)
{
	struct tr_buf text = {0};

	if (smtp->verdict != 0)
		return;
	if (reply->code > 299 || smtp->step == SMTP_DOT) {
		smtp->verdict = tr_smtpc_say(smtp, reply->code, true, reply->text, command, address);
	} else {
		tr_buf_addf(&text, "KumoMTA internal: failed to send message: %s was answered by %d: ", command,
			reply->code);
		tr_buf_add_str(&text, reply->text);
		smtp->verdict = tr_smtpc_say(
			smtp, 400, false, (struct tr_str){text.data ? text.data : "", text.len}, command, address);
		tr_buf_free(&text);
	}
	if (smtp->verdict == 0) /* no memory for its text: entry 0 would mean "no verdict" */
		tr_smtpc_transmit_broken(smtp, TR_ENOMEM, NULL);
}

void
tr_smtpc_transmit_broken(struct tr_smtpc *smtp, int err, const char *why)
{
	enum smtp_step step = smtp->step;
	bool body_left = smtp->stream != NULL && step == SMTP_DOT && tr_stream_backlog(smtp->stream) > 0;
	double waited_s = (double)tr_smtpc_step_timeout_ns(smtp) / 1e9;
	uint32_t said = smtp->goodbye;

	tr_smtpc_drop(smtp);
	if (step == SMTP_LONE_DOT) { /* all is known already */
		transaction_over(smtp);
		return;
	}
	if (said == 0 && smtp->transactions > 1 && !smtp->answered && !smtp->reconnected && step < SMTP_DOT &&
		(err == TR_ECLOSED || err == TR_EIO)) {
		/* The peer had given up a connection that was idle. The message was not tried. */
		tr_smtpc_reconnect(smtp);
		return;
	}
	if (said != 0)
		;
	else if (err == TR_ETIMEDOUT && !body_left)
		said = tr_smtpc_sayf(smtp, 421, false,
			"4.4.2 KumoMTA internal: failed to send message to %s [%s]: Timed Out waiting %gs for %s",
			tr_smtpc_peer_name(smtp), smtp->peer_addr, waited_s, tr_smtpc_step_name(step));
	else
		said = tr_smtpc_sayf(smtp, 400, false,
			"KumoMTA internal: failed to send message: %s [%s]: %s while %s%s", tr_smtpc_peer_name(smtp),
			smtp->peer_addr,
			why != NULL ? why : (err == TR_ECLOSED ? "connection closed by the peer" : tr_err_text(err)),
			body_left ? "sending the message" : "waiting for ", body_left ? "" : tr_smtpc_step_name(step));
	for (uint32_t i = 0; i < smtp->batch_count; i++) { /* what RCPT was told stays true */
		struct smtp_rcpt *rcpt = &smtp->rcpts[smtp->batch[i]];

		if (smtp->verdict != 0)
			finish_rcpt(rcpt, smtp->verdict);
		else if (rcpt->state == SMTP_REFUSED)
			rcpt->state = SMTP_FINISHED;
		else if (rcpt->state != SMTP_FINISHED) {
			rcpt->sent = false;
			finish_rcpt(rcpt, said);
		}
	}
	finish_waiting(smtp, said);
	message_over(smtp);
}

/* --- replies ------------------------------------------------------------------------------------------------- */

static void
rcpt_reply(struct tr_smtpc *smtp, const struct tr_smtpc_reply *reply)
{
	uint32_t index = smtp->batch[smtp->batch_at];
	struct smtp_rcpt *rcpt = &smtp->rcpts[index];

	rcpt->too_many = rcpt->too_many_once = false;
	if (reply->code == 250) {
		rcpt->state = SMTP_ACCEPTED;
		smtp->accepted++;
	} else {
		rcpt->said = tr_smtpc_say(
			smtp, reply->code, true, reply->text, "RCPT TO", tr_addr_str(&smtp->message->rcpts[index]));
		rcpt->state = reply->code <= 299 ? SMTP_ODD : SMTP_REFUSED;
		if (rcpt->state == SMTP_ODD)
			smtp->odd++;
		else
			rcpt->too_many = tr_smtpc_too_many(reply, &rcpt->too_many_once);
		if (reply->code == 421)
			smtp->goodbye = rcpt->said;
	}
	if (++smtp->batch_at < smtp->batch_count)
		go_to(smtp, SMTP_RCPT);
	else if (smtp->pipelined || (smtp->verdict == 0 && smtp->accepted > 0))
		go_to(smtp, SMTP_DATA);
	else
		transaction_over(smtp);
}

static void
data_reply(struct tr_smtpc *smtp, const struct tr_smtpc_reply *reply)
{
	bool wanted = smtp->verdict == 0 && smtp->accepted > 0;

	if (reply->code != 354) {
		if (wanted)
			set_verdict(smtp, reply, "DATA", (struct tr_str){NULL, 0});
		if (smtp->step == SMTP_DATA) /* else the verdict could not be kept */
			transaction_over(smtp);
	} else if (tr_stream_input(smtp->stream)->len > 0) {
		tr_smtpc_transmit_broken(
			smtp, TR_EPROTO, "an answer before the question"); /* never taken for the dot's */
	} else if (wanted) {
		send_body(smtp);
	} else if (smtp->accepted + smtp->odd > 0) { /* a dot would deliver an empty message to them */
		tr_smtpc_drop(smtp);
		transaction_over(smtp);
	} else {
		smtp->step = SMTP_LONE_DOT;
		tr_stream_write(smtp->stream, ".\r\n", 3);
		tr_stream_deadline(smtp->stream, smtp->config.data_dot_timeout_ns);
	}
}

static void
dot_reply(struct tr_smtpc *smtp, const struct tr_smtpc_reply *reply)
{
	uint32_t said;

	if (tr_stream_backlog(smtp->stream) > 0) { /* it cannot have got the message, and reads no commands now */
		smtp->unusable = true;
		if (reply->code <= 299) {
			tr_smtpc_transmit_broken(smtp, TR_EPROTO, "an answer before the end of the message");
			return;
		}
	}
	if (reply->code > 299) {
		set_verdict(smtp, reply, ".", (struct tr_str){NULL, 0});
		if (smtp->step != SMTP_DOT)
			return;
		if (smtp->unusable)
			tr_smtpc_drop(smtp);
		transaction_over(smtp);
		return;
	}
	said = tr_smtpc_say(smtp, reply->code, true, reply->text, ".", (struct tr_str){NULL, 0});
	if (said == 0) { /* the message is delivered: a text must not change that, so one is made of what there is */
		tr_smtpc_results_clear(smtp);
		said = tr_smtpc_say(smtp, reply->code, true, (struct tr_str){"", 0}, NULL, (struct tr_str){NULL, 0});
	}
	for (uint32_t i = 0; i < smtp->batch_count; i++) {
		struct smtp_rcpt *rcpt = &smtp->rcpts[smtp->batch[i]];

		if (rcpt->sent)
			finish_rcpt(rcpt, said);
	}
	transaction_over(smtp);
}

void
tr_smtpc_transmit_reply(struct tr_smtpc *smtp, const struct tr_smtpc_reply *reply)
{
	struct tr_str none = {NULL, 0};
	bool failed;

	smtp->answered = true;
	switch (smtp->step) {
	case SMTP_RSET:
	case SMTP_MAIL:
		failed = reply->code != 250;
		if (failed && smtp->step == SMTP_RSET)
			set_verdict(smtp, reply, "RSET", none);
		else if (failed)
			set_verdict(smtp, reply, "MAIL FROM", tr_addr_str(&smtp->message->sender));
		if (smtp->step == SMTP_CLOSED)
			break;
		if (failed && reply->code == 421)
			smtp->goodbye = smtp->verdict;
		if (failed && !smtp->pipelined)
			transaction_over(smtp);
		else
			go_to(smtp, smtp->step == SMTP_RSET ? SMTP_MAIL : SMTP_RCPT);
		break;
	case SMTP_RCPT:
		rcpt_reply(smtp, reply);
		break;
	case SMTP_DATA:
		data_reply(smtp, reply);
		break;
	case SMTP_DOT:
		dot_reply(smtp, reply);
		break;
	case SMTP_LONE_DOT:
		transaction_over(smtp);
		break;
	default: /* a reply that came after the end: the connection is out of step */
		smtp->unusable = true;
		break;
	}
}

/* --- the start ------------------------------------------------------------------------------------------------- */

static void
transaction_begin(struct tr_smtpc *smtp)
{
	bool rset = smtp->transactions > 0 && (smtp->config.enable_rset || smtp->spoiled);
	uint32_t most = smtp->config.max_recipients_per_batch;

	smtp->batch_count = smtp->batch_at = smtp->accepted = smtp->odd = 0;
	smtp->verdict = smtp->goodbye = 0;
	for (uint32_t i = 0; i < smtp->rcpt_count && smtp->batch_count < most; i++) {
		struct smtp_rcpt *rcpt = &smtp->rcpts[i];

		if (rcpt->state != SMTP_WAITING)
			continue;
		rcpt->state = SMTP_ASKED;
		rcpt->tries++;
		smtp->batch[smtp->batch_count++] = i;
	}
	smtp->transactions++;
	smtp->pipelined = smtp->config.enable_pipelining && smtp->offers.pipelining;
	tr_buf_clear(&smtp->out);
	if (smtp->pipelined) {
		smtp->step = rset ? SMTP_RSET : SMTP_MAIL;
		if (rset)
			add_command(smtp, SMTP_RSET);
		add_mail(smtp);
		for (uint32_t i = 0; i < smtp->batch_count; i++)
			add_rcpt(smtp, i);
		add_command(smtp, SMTP_DATA);
		if (!write_out(smtp))
			return;
	}
	go_to(smtp, rset ? SMTP_RSET : SMTP_MAIL);
}

/* What this host cannot take is refused here, in the words a host would use. */
static void
check_eightbit(struct tr_smtpc *smtp)
{
	uint32_t said = 0;

	if (smtp->config.ignore_8bit_checks)
		return;
	if (smtp->eightbit && !smtp->offers.eightbit)
		said = tr_smtpc_sayf(smtp, 554, true,
			"5.6.3 KumoMTA internal: the message is 8-bit and %s does not offer 8BITMIME", smtp->host);
	else if (smtp->utf8_sender && !smtp->offers.smtputf8)
		said = tr_smtpc_sayf(smtp, 554, true,
			"5.6.7 KumoMTA internal: the sender's address is not ASCII and %s does not offer SMTPUTF8",
			smtp->host);
	if (said != 0) {
		finish_waiting(smtp, said);
		return;
	}
	for (uint32_t i = 0; i < smtp->rcpt_count && !smtp->offers.smtputf8; i++) {
		if (tr_smtpc_is_ascii(tr_addr_str(&smtp->message->rcpts[i])))
			continue;
		if (said == 0)
			said = tr_smtpc_sayf(smtp, 554, true,
				"5.6.7 KumoMTA internal: the recipient's address is not ASCII and %s does not offer "
				"SMTPUTF8",
				smtp->host);
		finish_rcpt(&smtp->rcpts[i], said);
	}
}

void
tr_smtpc_message_begin(struct tr_smtpc *smtp)
{
	bool any = false;

	tr_smtpc_results_clear(smtp);
	for (uint32_t i = 0; i < smtp->rcpt_count; i++)
		smtp->rcpts[i] = (struct smtp_rcpt){.state = SMTP_WAITING};
	smtp->answered = false;
	smtp->batch_count = 0;
	smtp->verdict = smtp->goodbye = 0;
	check_eightbit(smtp);
	for (uint32_t i = 0; i < smtp->rcpt_count && !any; i++)
		any = smtp->rcpts[i].state == SMTP_WAITING;
	if (any)
		transaction_begin(smtp);
	else
		message_over(smtp);
}

static bool
room_for(struct tr_smtpc *smtp, uint32_t count)
{
	struct smtp_rcpt *rcpts;
	uint32_t *batch;

	if (count <= smtp->rcpt_cap)
		return true;
	rcpts = realloc(smtp->rcpts, count * sizeof *rcpts);
	if (rcpts == NULL)
		return false;
	smtp->rcpts = rcpts;
	batch = realloc(smtp->batch, count * sizeof *batch);
	if (batch == NULL)
		return false;
	smtp->batch = batch;
	smtp->rcpt_cap = count;
	return true;
}

void
tr_smtpc_send(struct tr_smtpc *smtp, const struct tr_message *message, tr_smtpc_done_fn *done, void *arg)
{
	smtp->done = done;
	smtp->done_arg = arg;
	smtp->message = message;
	if (!room_for(smtp, message->rcpt_count)) {
		tr_smtpc_finish(smtp, TR_EAGAIN); /* nothing was tried */
		return;
	}
	smtp->rcpt_count = message->rcpt_count;
	smtp->eightbit =
		!tr_smtpc_is_ascii(tr_bytes_str(&message->head)) || !tr_smtpc_is_ascii(tr_bytes_str(&message->body));
	smtp->utf8_sender = !tr_smtpc_is_ascii(tr_addr_str(&message->sender));
	smtp->reconnected = false;
	if (smtp->stream == NULL || smtp->step != SMTP_IDLE || tr_stream_input(smtp->stream)->len > 0 ||
		tr_stream_stale(smtp->stream)) { /* the peer has hung up, or has something to say: 421 or anything */
		tr_smtpc_drop(smtp);
		tr_smtpc_reconnect(smtp);
		return;
	}
	tr_stream_resume(smtp->stream);
	tr_smtpc_message_begin(smtp);
}
