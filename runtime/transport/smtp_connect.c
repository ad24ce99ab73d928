/* Candidates one after the other: look up, connect, banner, EHLO. The first that gets through is the connection. */
#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "transport/smtp_client_internal.h"

#define ERROR_MAX 2048 /* bytes of all reasons together */

static void
note_failure(struct tr_smtpc *smtp, const char *text)
{
	if (smtp->error.len + strlen(text) + 100 > ERROR_MAX)
		return;
	if (smtp->error.len > 0)
		tr_buf_addz(&smtp->error, ", ");
	tr_buf_addz(&smtp->error, smtp->host);
	if (smtp->addr_at > 0)
		tr_buf_addf(&smtp->error, " [%s]", smtp->peer_addr);
	tr_buf_addf(&smtp->error, ": %s", text);
}

void
tr_smtpc_candidate_failed(struct tr_smtpc *smtp, const char *fmt, ...)
{
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof text, fmt, args);
	va_end(args);
	note_failure(smtp, text);
	tr_smtpc_drop(smtp);
	tr_smtpc_connect_next(smtp);
}

static void
connected(void *arg, const struct tr_dial_result *result)
{
	struct tr_smtpc *smtp = arg;

	smtp->connecting = NULL;
	if (result->stream != NULL) {
		smtp->step = SMTP_BANNER;
		tr_smtpc_attach(smtp, result->stream);
		tr_stream_deadline(result->stream, smtp->config.banner_timeout_ns);
		if (tr_stream_input(result->stream)->len > 0) { /* a proxy's answer and the banner came together */
			tr_stream_pause(result->stream);
			tr_stream_resume(result->stream);
		}
		return;
	}
	smtp->trouble = result->trouble;
	if (result->trouble != TR_DIAL_TARGET) { /* true of all candidates */
		smtp->host_at = smtp->host_count;
		smtp->addr_at = smtp->addr_count;
	}
	tr_smtpc_candidate_failed(smtp, "%s", result->text);
}

static void
take_addrs(struct tr_smtpc *smtp, const struct tr_sockaddr *addrs, size_t count)
{
	uint16_t port = smtp->hosts[smtp->host_at - 1].port;

	if (smtp->config.remote_port != 0)
		port = smtp->config.remote_port;
	else if (port == 0)
		port = smtp->config.port;

	smtp->addr_count = count < TR_SMTPC_ADDRS_MAX ? count : TR_SMTPC_ADDRS_MAX;
	smtp->addr_at = 0;
	for (size_t i = 0; i < smtp->addr_count; i++) {
		smtp->addrs[i] = addrs[i];
		tr_sockaddr_set_port(&smtp->addrs[i], port);
	}
	tr_smtpc_connect_next(smtp);
}

static void
resolved(void *arg, int err, const struct tr_sockaddr *addrs, size_t count)
{
	struct tr_smtpc *smtp = arg;

	smtp->query = NULL;
	if (err != TR_OK || count == 0)
		tr_smtpc_candidate_failed(smtp, "%s",
			err == TR_ENOENT || err == TR_OK ? "no address of that name" : "the name look-up failed");
	else
		take_addrs(smtp, addrs, count);
}

/* The next address of this host, or the next host, or the end. */
void
tr_smtpc_connect_next(struct tr_smtpc *smtp)
{
	if (smtp->addr_at < smtp->addr_count) {
		const struct tr_sockaddr *addr = &smtp->addrs[smtp->addr_at++];

		tr_sockaddr_text(addr, true, smtp->peer_addr);
		smtp->step = SMTP_CONNECT;
		smtp->config.dial.timeout_ns = smtp->config.connect_timeout_ns;
		smtp->connecting = tr_dial_start(smtp->loop, smtp->dns, &smtp->config.dial, addr, connected, smtp);
		if (smtp->connecting != NULL)
			return;
	} else if (smtp->host_at < smtp->host_count) {
		const struct smtp_host *host = &smtp->hosts[smtp->host_at++];

		smtp->host = host->name;
		smtp->addr_count = smtp->addr_at = 0;
		if (host->addr.len > 0) {
			take_addrs(smtp, &host->addr, 1);
			return;
		}
		smtp->step = SMTP_RESOLVE;
		smtp->query = tr_dns_addr(smtp->dns, smtp->host, smtp->config.connect_timeout_ns, resolved, smtp);
		if (smtp->query != NULL)
			return;
	} else {
		smtp->step = SMTP_CLOSED;
		tr_smtpc_finish(smtp, smtp->message != NULL ? TR_EAGAIN : TR_ECLOSED);
		return;
	}
	note_failure(smtp, "out of memory");
	smtp->step = SMTP_CLOSED;
	tr_smtpc_finish(smtp, smtp->message != NULL ? TR_EAGAIN : TR_ECLOSED);
}

void
tr_smtpc_reconnect(struct tr_smtpc *smtp)
{
	smtp->reconnected = true;
	tr_buf_clear(&smtp->error);
	if (smtp->config.reconnect == TR_SMTPC_TERMINATE) {
		smtp->step = SMTP_CLOSED;
		tr_smtpc_finish(smtp, TR_EAGAIN);
		return;
	}
	if (smtp->config.reconnect == TR_SMTPC_SAME_HOST && smtp->addr_at > 0)
		smtp->addr_at--; /* once: what fails now goes on to the next */
	tr_smtpc_connect_next(smtp);
}

/* Through: what STARTTLS and AUTH add stands between EHLO's reply and this. */
static void
ready(struct tr_smtpc *smtp)
{
	tr_sockaddr_text(smtp->config.dial.kind != TR_PROXY_NONE ? &smtp->config.dial.proxy_source
								 : tr_stream_local(smtp->stream),
		true, smtp->local_addr);
	smtp->transactions = 0;
	smtp->spoiled = smtp->unusable = false;
	smtp->step = SMTP_IDLE;
	tr_stream_deadline(smtp->stream, 0);
	if (smtp->message != NULL) { /* it came here from a connection that was lost */
		tr_smtpc_message_begin(smtp);
		return;
	}
	tr_stream_pause(smtp->stream);
	tr_smtpc_finish(smtp, TR_OK);
}

/* A host that says no is told goodbye before the next one is tried. */
static void
refused(struct tr_smtpc *smtp, const struct tr_smtpc_reply *reply)
{
	char text[256];
	size_t len = reply->text.len < sizeof text - 1 ? reply->text.len : sizeof text - 1;

	memcpy(text, reply->text.data, len);
	text[len] = '\0';
	for (size_t i = 0; i < len; i++) {
		if ((unsigned char)text[i] < ' ')
			text[i] = ' ';
	}
	tr_stream_write(smtp->stream, "QUIT\r\n", 6);
	tr_stream_close(smtp->stream, smtp->config.rset_timeout_ns);
	smtp->stream = NULL;
	tr_smtpc_candidate_failed(smtp, "%s was answered by %d %s",
		smtp->step == SMTP_BANNER ? "the connection" : (smtp->config.use_lmtp ? "LHLO" : "EHLO"), reply->code,
		text);
}

void
tr_smtpc_connect_reply(struct tr_smtpc *smtp, const struct tr_smtpc_reply *reply)
{
	if (reply->code != (smtp->step == SMTP_BANNER ? 220 : 250)) {
		refused(smtp, reply);
		return;
	}
	if (tr_stream_input(smtp->stream)->len > 0) {
		tr_smtpc_candidate_failed(smtp, "more than one reply came");
		return;
	}
	if (smtp->step == SMTP_EHLO) {
		tr_smtpc_offers_parse(reply->text, &smtp->offers);
		ready(smtp);
		return;
	}
	smtp->step = SMTP_EHLO;
	tr_buf_clear(&smtp->out);
	tr_buf_addf(&smtp->out, "%s %s\r\n", smtp->config.use_lmtp ? "LHLO" : "EHLO", smtp->ehlo_name);
	if (smtp->out.failed) {
		tr_buf_free(&smtp->out);
		tr_smtpc_candidate_failed(smtp, "out of memory");
		return;
	}
	tr_stream_write(smtp->stream, smtp->out.data, smtp->out.len);
	tr_stream_deadline(smtp->stream, smtp->config.ehlo_timeout_ns);
}
