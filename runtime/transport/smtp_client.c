#include <stdio.h>
#include <stdlib.h>

#include "transport/smtp_client_internal.h"

/* --- the one operation -------------------------------------------------------------------------------- */

static void
run_done(struct tr_defer *defer)
{
	struct tr_smtpc *smtp = tr_container_of(defer, struct tr_smtpc, finisher);
	tr_smtpc_done_fn *done = smtp->done;

	smtp->done = NULL;
	done(smtp->done_arg, smtp->status); /* may start the next operation or free smtp */
}

void
tr_smtpc_finish(struct tr_smtpc *smtp, int status)
{
	smtp->message = NULL;
	smtp->status = status;
	tr_loop_defer(smtp->loop, &smtp->finisher, run_done);
}

void
tr_smtpc_drop(struct tr_smtpc *smtp)
{
	tr_dns_cancel(smtp->query);
	smtp->query = NULL;
	tr_dial_cancel(smtp->connecting);
	smtp->connecting = NULL;
	if (smtp->stream != NULL)
		tr_stream_abort(smtp->stream);
	smtp->stream = NULL;
	tr_timer_stop(tr_loop_wheel(smtp->loop), &smtp->progress);
	smtp->step = SMTP_CLOSED;
	smtp->unusable = true;
}

/* --- the stream ------------------------------------------------------------------------------------------ */

const char *
tr_smtpc_step_name(enum smtp_step step)
{
	static const char *const names[] = {
		[SMTP_CLOSED] = "nothing",
		[SMTP_RESOLVE] = "the addresses",
		[SMTP_CONNECT] = "the connection",
		[SMTP_BANNER] = "the banner",
		[SMTP_EHLO] = "the reply to EHLO",
		[SMTP_IDLE] = "work",
		[SMTP_RSET] = "the reply to RSET",
		[SMTP_MAIL] = "the reply to MAIL FROM",
		[SMTP_RCPT] = "the reply to RCPT TO",
		[SMTP_DATA] = "the reply to DATA",
		[SMTP_DOT] = "the reply to the message",
		[SMTP_LONE_DOT] = "the reply to an empty message",
	};
	return names[step];
}

int64_t
tr_smtpc_step_timeout_ns(const struct tr_smtpc *smtp)
{
	switch (smtp->step) {
	case SMTP_BANNER:
		return smtp->config.banner_timeout_ns;
	case SMTP_EHLO:
		return smtp->config.ehlo_timeout_ns;
	case SMTP_RSET:
		return smtp->config.rset_timeout_ns;
	case SMTP_MAIL:
		return smtp->config.mail_from_timeout_ns;
	case SMTP_RCPT:
		return smtp->config.rcpt_to_timeout_ns;
	case SMTP_DATA:
		return smtp->config.data_timeout_ns;
	case SMTP_DOT:
	case SMTP_LONE_DOT:
		return smtp->config.data_dot_timeout_ns;
	default:
		return smtp->config.connect_timeout_ns;
	}
}

static void
broken(struct tr_smtpc *smtp, int err, const char *why)
{
	const char *what = tr_smtpc_step_name(smtp->step);

	if (smtp->step == SMTP_IDLE) {
		tr_smtpc_drop(smtp); /* seen when the next message comes */
	} else if (smtp->step > SMTP_IDLE) {
		tr_smtpc_transmit_broken(smtp, err, why);
	} else if (err == TR_ETIMEDOUT) {
		tr_smtpc_candidate_failed(
			smtp, "timed out waiting %gs for %s", (double)tr_smtpc_step_timeout_ns(smtp) / 1e9, what);
	} else {
		tr_smtpc_candidate_failed(smtp, "%s while waiting for %s",
			why != NULL ? why : (err == TR_ECLOSED ? "connection closed by the peer" : tr_err_text(err)),
			what);
	}
}

static void
stream_data(struct tr_stream *stream, void *arg)
{
	struct tr_smtpc *smtp = arg;

	while (smtp->stream == stream) {
		struct tr_buf *in = tr_stream_input(stream);
		struct tr_smtpc_reply reply;
		const char *why;
		size_t used;
		int err;

		if (in->len == 0)
			return;
		if (smtp->step == SMTP_IDLE) { /* nobody asked */
			smtp->unusable = true;
			return;
		}
		err = tr_smtpc_reply_parse((struct tr_str){in->data, in->len}, &smtp->reply, &reply, &used, &why);
		if (err == TR_EAGAIN)
			return;
		if (err != TR_OK) {
			broken(smtp, err, why);
			return;
		}
		tr_buf_consume(in, used);
		if (smtp->step < SMTP_IDLE)
			tr_smtpc_connect_reply(smtp, &reply);
		else
			tr_smtpc_transmit_reply(smtp, &reply);
	}
}

static void
stream_closed(struct tr_stream *stream, int err, void *arg)
{
	broken(arg, err, NULL);
}

static const struct tr_stream_handlers handlers = {.data = stream_data, .closed = stream_closed};

void
tr_smtpc_attach(struct tr_smtpc *smtp, struct tr_stream *stream)
{
	smtp->stream = stream;
	tr_stream_set_handlers(stream, &handlers, smtp);
}

/* --- life -------------------------------------------------------------------------------------------------- */

int
tr_smtpc_new(struct tr_loop *loop, struct tr_dns *dns, const struct tr_smtpc_config *config, struct tr_smtpc **out)
{
	struct tr_smtpc *smtp;

	*out = NULL;
	if (config->host_count == 0)
		return TR_EINVAL;
	smtp = calloc(1, sizeof *smtp);
	if (smtp == NULL)
		return TR_ENOMEM;
	smtp->loop = loop;
	smtp->dns = dns;
	smtp->config = *config;
	smtp->ehlo_name = strdup(config->ehlo_name);
	smtp->config.ehlo_name = smtp->ehlo_name;
	smtp->config.hosts = NULL;
	/* LMTP answers a message once a recipient (RFC 2033 section 4.2), and one answer is read here: a second
	 * recipient's failure would be taken for its delivery */
	if (smtp->config.max_recipients_per_batch == 0 || smtp->config.use_lmtp)
		smtp->config.max_recipients_per_batch = 1;
	smtp->hosts = calloc(config->host_count, sizeof *smtp->hosts);
	if (smtp->ehlo_name == NULL || smtp->hosts == NULL)
		goto fail;
	for (; smtp->host_count < config->host_count; smtp->host_count++) {
		struct smtp_host *host = &smtp->hosts[smtp->host_count];

		host->name = strdup(config->hosts[smtp->host_count].name);
		host->port = config->hosts[smtp->host_count].port;
		host->addr = config->hosts[smtp->host_count].addr;
		if (host->name == NULL)
			goto fail;
	}
	smtp->unusable = true;
	*out = smtp;
	return TR_OK;
fail:
	tr_smtpc_free(smtp);
	return TR_ENOMEM;
}

void
tr_smtpc_cancel(struct tr_smtpc *smtp)
{
	if (smtp->stream != NULL && smtp->step == SMTP_IDLE) { /* nothing is cut off: the peer may know that we go */
		tr_stream_write(smtp->stream, "QUIT\r\n", 6);
		tr_stream_close(smtp->stream, 0);
		smtp->stream = NULL;
	}
	tr_loop_undefer(smtp->loop, &smtp->finisher);
	smtp->done = NULL;
	smtp->message = NULL;
	tr_smtpc_drop(smtp);
}

void
tr_smtpc_free(struct tr_smtpc *smtp)
{
	if (smtp == NULL)
		return;
	tr_smtpc_cancel(smtp);
	for (size_t i = 0; i < smtp->host_count; i++)
		free(smtp->hosts[i].name);
	free(smtp->hosts);
	free(smtp->ehlo_name);
	free(smtp->rcpts);
	free(smtp->batch);
	free(smtp->said);
	tr_buf_free(&smtp->texts);
	tr_buf_free(&smtp->error);
	tr_buf_free(&smtp->reply);
	tr_buf_free(&smtp->out);
	free(smtp);
}

void
tr_smtpc_close(struct tr_smtpc *smtp)
{
	if (smtp->stream != NULL && smtp->step == SMTP_IDLE) {
		tr_stream_write(smtp->stream, "QUIT\r\n", 6);
		tr_stream_close(smtp->stream, smtp->config.rset_timeout_ns);
		smtp->stream = NULL;
	}
	tr_smtpc_cancel(smtp);
}

void
tr_smtpc_connect(struct tr_smtpc *smtp, tr_smtpc_done_fn *done, void *arg)
{
	smtp->done = done;
	smtp->done_arg = arg;
	tr_buf_clear(&smtp->error);
	smtp->trouble = TR_DIAL_TARGET;
	tr_smtpc_connect_next(smtp);
}

bool
tr_smtpc_has_next(const struct tr_smtpc *smtp)
{
	return smtp->addr_at < smtp->addr_count || smtp->host_at < smtp->host_count;
}

enum tr_dial_trouble
tr_smtpc_trouble(const struct tr_smtpc *smtp)
{
	return smtp->trouble;
}

bool
tr_smtpc_usable(const struct tr_smtpc *smtp)
{
	return smtp->stream != NULL && smtp->step == SMTP_IDLE && !smtp->unusable;
}

const char *
tr_smtpc_error(const struct tr_smtpc *smtp)
{
	struct tr_buf *error = (struct tr_buf *)&smtp->error; /* the NUL is no part of the text */

	if (tr_buf_reserve(error, 1) == NULL)
		return "out of memory";
	error->data[error->len] = '\0';
	return error->data;
}

const char *
tr_smtpc_peer_name(const struct tr_smtpc *smtp)
{
	return smtp->host != NULL ? smtp->host : "";
}

const char *
tr_smtpc_peer_addr(const struct tr_smtpc *smtp)
{
	return smtp->peer_addr;
}

const char *
tr_smtpc_local_addr(const struct tr_smtpc *smtp)
{
	return smtp->local_addr;
}

const char *
tr_smtpc_waits_for(struct tr_smtpc *smtp)
{
	snprintf(smtp->waits_for, sizeof smtp->waits_for, "smtp: %s of %.90s", tr_smtpc_step_name(smtp->step),
		tr_smtpc_peer_name(smtp));
	return smtp->waits_for;
}
