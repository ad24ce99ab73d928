/* The commands of an SMTP session (contract/smtp.md 1.2 to 1.4). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "ingress/smtp_internal.h"

#define RCPT_BYTES 1024 /* of the intake budget for a recipient: it is likely to become a message of its own */

/* --- relaying --------------------------------------------------------------------------------------------------- */

static const struct tr_smtp_domain *
find_domain(struct tr_smtp_session *session, const char *name)
{
	for (uint8_t i = 0; i < session->domain_count; i++) {
		if (strcmp(session->domains[i].name, name) == 0)
			return &session->domains[i].domain;
	}
	return NULL;
}

/* Keeps what policy said; the oldest one makes room. TR_OK or TR_ENOMEM. */
static int
keep_domain(struct tr_smtp_session *session, const char *name, const struct tr_smtp_domain *domain)
{
	struct tr_smtp_domain_entry entry = {.name = strdup(name)}, *at;

	if (session->domains == NULL)
		session->domains = calloc(TR_SMTP_DOMAINS, sizeof *session->domains);
	if (session->domains == NULL || entry.name == NULL)
		goto fail;
	if (domain != NULL) {
		entry.domain.relay_to = domain->relay_to;
		for (uint32_t i = 0; i < domain->relay_from.count; i++) {
			if (tr_cidr_list_add(&entry.domain.relay_from, &domain->relay_from.items[i]) != TR_OK)
				goto fail;
		}
	}
	if (session->domain_count < TR_SMTP_DOMAINS) {
		at = &session->domains[session->domain_count++];
	} else {
		at = &session->domains[session->domain_next];
		session->domain_next = (uint8_t)((session->domain_next + 1) % TR_SMTP_DOMAINS);
		free(at->name);
		tr_cidr_list_fini(&at->domain.relay_from);
	}
	*at = entry;
	return TR_OK;
fail:
	free(entry.name);
	tr_cidr_list_fini(&entry.domain.relay_from);
	return TR_ENOMEM;
}

static void relay_step(struct tr_smtp_session *session);

static void
domain_answered(struct tr_smtp_session *session, const struct tr_smtp_answer *answer)
{
	if (answer->reject_code >= 0 || answer->error != NULL) {
		tr_smtp_trouble(session,
			answer->error != NULL ? answer->error : "get_listener_domain: a rejection has no meaning here");
		return;
	}
	if (keep_domain(session, session->relay_names[session->relay_asked], answer->domain) != TR_OK) {
		tr_smtp_trouble(session, "out of memory");
		return;
	}
	relay_step(session);
}

static void
relay_step(struct tr_smtp_session *session)
{
	const struct tr_sockaddr *peer = tr_stream_peer(session->stream);
	const struct tr_smtp_domain *sender, *rcpt;
	bool allowed;

	for (uint8_t i = 0; i < 2; i++) {
		if (find_domain(session, session->relay_names[i]) != NULL)
			continue;
		struct tr_smtp_call call = {.event = TR_SMTP_ON_DOMAIN, .text = tr_str(session->relay_names[i])};
		session->relay_asked = i;
		tr_smtp_fire(session, &call, domain_answered);
		return;
	}
	sender = find_domain(session, session->relay_names[0]);
	rcpt = find_domain(session, session->relay_names[1]);
	allowed = tr_cidr_list_contains(&session->params->relay_hosts, peer) ||
		  tr_cidr_list_contains(&sender->relay_from, peer) || rcpt->relay_to;
	session->relay_then(session, allowed);
}

void
tr_smtp_relay_check(struct tr_smtp_session *session, struct tr_str sender_domain, struct tr_str rcpt_domain,
	void (*then)(struct tr_smtp_session *session, bool allowed))
{
	if (!tr_smtp_wants(session, TR_SMTP_ON_DOMAIN)) {
		then(session, tr_cidr_list_contains(&session->params->relay_hosts, tr_stream_peer(session->stream)));
		return;
	}
	free(session->relay_names[0]);
	free(session->relay_names[1]);
	session->relay_names[0] = strndup(sender_domain.data, sender_domain.len);
	session->relay_names[1] = strndup(rcpt_domain.data, rcpt_domain.len);
	session->relay_then = then;
	if (session->relay_names[0] == NULL || session->relay_names[1] == NULL)
		tr_smtp_trouble(session, "out of memory");
	else
		relay_step(session);
}

/* --- greeting ------------------------------------------------------------------------------------------------------
 */

static void
connect_answered(struct tr_smtp_session *session, const struct tr_smtp_answer *answer)
{
	if (tr_smtp_refused(session, answer))
		return;
	tr_smtp_replyf(session, 220, TR_SMTP_GO_ON, "%s %s", session->params->hostname, session->params->banner);
	session->greeted = true;
}

static void
parameters_answered(struct tr_smtp_session *session, const struct tr_smtp_answer *answer)
{
	struct tr_smtp_call call = {.event = TR_SMTP_ON_CONNECT};

	if (tr_smtp_refused(session, answer))
		return;
	if (answer->params != NULL) {
		tr_smtp_params_unref(session->params);
		session->params = answer->params;
		tr_smtp_size_input(session);
		/* what a handler has set on the connection before stays */
		if (session->has_meta) {
			struct tr_str host = tr_str(session->params->hostname);
			if (tr_meta_set_string(&session->meta, TR_STR("hostname"), host) != TR_OK ||
				tr_meta_copy(&session->params->meta, &session->meta) != TR_OK) {
				tr_smtp_trouble(session, "out of memory");
				return;
			}
		}
	}
	tr_smtp_fire(session, &call, connect_answered);
}

/* Why a session cannot begin, in the words of contract/smtp.md 1.3; NULL: it can. */
static const char *
closed_text(struct tr_smtp_session *session)
{
	struct tr_engine *engine = tr_worker_engine(session->worker);
	const char *why = NULL;

	if (session->stopping || !tr_engine_is_open(engine))
		return "shutting down";
	if (tr_spool_accepts(tr_engine_spool(engine), &why))
		return NULL;
	return "disk is too full. Try later";
}

void
tr_smtp_greet(struct tr_smtp_session *session)
{
	struct tr_smtp_call call = {.event = TR_SMTP_ON_PARAMETERS};
	const char *why = closed_text(session);

	if (why != NULL) {
		for (int i = 0; i < 2; i++)
			tr_metric_add(session->shared->denied[i], 1);
		tr_smtp_replyf(session, 421, TR_SMTP_CLOSE, "4.3.2 %s %s", session->params->hostname, why);
		return;
	}
	tr_smtp_fire(session, &call, parameters_answered);
}

/* --- commands --------------------------------------------------------------------------------------------------------
 */

static void
ehlo_answered(struct tr_smtp_session *session, const struct tr_smtp_answer *answer)
{
	struct tr_buf text = {0};
	char size[32];

	if (tr_smtp_refused(session, answer))
		return;
	if (session->helo) {
		tr_smtp_replyf(session, 250, TR_SMTP_GO_ON, "Hello %s!", session->ehlo);
		return;
	}
	snprintf(size, sizeof size, "SIZE %" PRIu64, session->params->max_message_size);
	tr_buf_addf(&text, "%s Aloha %s", session->params->hostname, session->ehlo);
	if (answer->lines != NULL) {
		for (uint32_t i = 0; i < answer->line_count; i++) {
			tr_buf_addc(&text, '\n');
			tr_buf_add_str(&text, answer->lines[i]);
		}
	} else { /* STARTTLS and AUTH PLAIN have their place here */
		tr_buf_addf(&text, "\nPIPELINING\nENHANCEDSTATUSCODES\n8BITMIME\nSMTPUTF8\n%s", size);
	}
	tr_buf_addc(&text, '\0');
	if (text.failed)
		tr_smtp_trouble(session, "out of memory");
	else
		tr_smtp_reply(session, 250, text.data, TR_SMTP_GO_ON);
	tr_buf_free(&text);
}

static void
do_ehlo(struct tr_smtp_session *session, const struct tr_smtp_command *command)
{
	char *ehlo = strndup(command->text.data, command->text.len), size[32];
	struct tr_str extensions[] = {
		TR_STR("PIPELINING"), TR_STR("ENHANCEDSTATUSCODES"), TR_STR("8BITMIME"), TR_STR("SMTPUTF8"), {size, 0}};
	struct tr_smtp_call call = {.event = TR_SMTP_ON_EHLO, .text = command->text};

	extensions[4].len = (size_t)snprintf(size, sizeof size, "SIZE %" PRIu64, session->params->max_message_size);
	tr_smtp_clear_mail(session); /* RFC 5321 4.1.4 */
	free(session->ehlo);
	session->ehlo = ehlo;
	session->helo = command->verb == TR_SMTP_HELO;
	if (ehlo == NULL || (session->has_meta &&
				    tr_meta_set_string(&session->meta, TR_STR("ehlo_domain"), tr_str(ehlo)) != TR_OK)) {
		tr_smtp_trouble(session, "out of memory");
		return;
	}
	if (!session->helo) {
		call.extensions = extensions;
		call.extension_count = TR_COUNT(extensions);
	}
	tr_smtp_fire(session, &call, ehlo_answered);
}

/* The spool takes no more: for now, or for good. True: the client has been told. */
static bool
spool_refuses(struct tr_smtp_session *session)
{
	const char *host = session->params->hostname, *why = NULL;

	if (!tr_engine_is_open(tr_worker_engine(session->worker))) {
		tr_smtp_replyf(session, 421, TR_SMTP_CLOSE, "4.3.2 %s shutting down", host);
		return true;
	}
	if (tr_spool_accepts(tr_smtp_spool(session), &why))
		return false;
	tr_smtp_replyf(session, 452, TR_SMTP_GO_ON, "4.3.1 %s disk is too full. Try later", host);
	return true;
}

static void
mail_answered(struct tr_smtp_session *session, const struct tr_smtp_answer *answer)
{
	if (answer->reject_code >= 0 || answer->error != NULL) {
		tr_smtp_refused(session, answer);
		if (!session->dead)
			tr_addr_fini(&session->sender);
		return;
	}
	session->in_mail = true;
	tr_smtp_replyf(session, 250, TR_SMTP_GO_ON, "OK <%s>", session->sender.email);
}

static void
do_mail(struct tr_smtp_session *session, struct tr_smtp_command *command)
{
	struct tr_smtp_call call = {.event = TR_SMTP_ON_MAIL};

	if (session->in_mail) {
		tr_smtp_reply(session, 503, "5.5.0 MAIL FROM already issued; you must RSET first", TR_SMTP_GO_ON);
		return;
	}
	if (spool_refuses(session))
		return;
	if (command->has_size && command->size > session->params->max_message_size) {
		tr_smtp_reply(session, 552, "5.3.4 message too big", TR_SMTP_GO_ON);
		return;
	}
	tr_addr_fini(&session->sender);
	session->sender = command->addr;
	command->addr = (struct tr_addr){0};
	call.addr = &session->sender;
	tr_smtp_fire(session, &call, mail_answered);
}

static void
rcpt_answered(struct tr_smtp_session *session, const struct tr_smtp_answer *answer)
{
	uint32_t count = session->rcpt_count;

	if (answer->reject_code >= 0 || answer->error != NULL) {
		tr_smtp_refused(session, answer);
		tr_addr_fini(&session->rcpt);
		return;
	}
	if ((count & (count - 1)) == 0) { /* grows as the list of a message does: it becomes that */
		struct tr_addr *rcpts = realloc(session->rcpts, (count == 0 ? 1 : (size_t)count * 2) * sizeof *rcpts);

		if (rcpts == NULL) {
			tr_addr_fini(&session->rcpt);
			tr_smtp_trouble(session, "out of memory");
			return;
		}
		session->rcpts = rcpts;
	}
	if (!tr_smtp_take_memory(session, RCPT_BYTES + (int64_t)session->rcpt.len)) {
		tr_addr_fini(&session->rcpt);
		tr_smtp_replyf(
			session, 452, TR_SMTP_GO_ON, "4.3.1 %s out of memory. Try later", session->params->hostname);
		return;
	}
	session->rcpt_bytes += RCPT_BYTES + (int64_t)session->rcpt.len;
	session->rcpts[count] = session->rcpt;
	session->rcpt = (struct tr_addr){0};
	session->rcpt_count++;
	tr_smtp_replyf(session, 250, TR_SMTP_GO_ON, "OK <%s>", session->rcpts[count].email);
}

static void
rcpt_checked(struct tr_smtp_session *session, bool allowed)
{
	const struct tr_smtp_params *params = session->params;
	struct tr_smtp_call call = {.event = TR_SMTP_ON_RCPT, .addr = &session->rcpt};
	char peer[64];

	if (!allowed) {
		tr_sockaddr_text(tr_stream_peer(session->stream), true, peer);
		tr_smtp_replyf(session, 550, TR_SMTP_GO_ON, "5.7.1 relaying not permitted for %s", peer);
	} else if (session->rcpt_count >= params->max_recipients_per_message) {
		tr_smtp_reply(session, 452, "4.5.3 too many recipients", TR_SMTP_GO_ON);
	} else if (session->rcpts_seen >= params->max_messages_per_connection && session->rcpt_count > 0) {
		tr_smtp_reply(session, 452, "4.5.3 too many recipients on this connection", TR_SMTP_GO_ON);
	} else if (session->rcpts_seen >= params->max_messages_per_connection) {
		tr_smtp_replyf(session, 421, TR_SMTP_CLOSE, "4.5.3 %s too many recipients on this connection",
			params->hostname);
	} else {
		session->rcpts_seen++;
		tr_smtp_fire(session, &call, rcpt_answered);
		return;
	}
	tr_addr_fini(&session->rcpt);
}

static void
do_rcpt(struct tr_smtp_session *session, struct tr_smtp_command *command)
{
	if (!session->in_mail) {
		tr_smtp_reply(session, 503, "5.5.0 MAIL FROM must be issued first", TR_SMTP_GO_ON);
		return;
	}
	tr_addr_fini(&session->rcpt);
	session->rcpt = command->addr;
	command->addr = (struct tr_addr){0};
	tr_smtp_relay_check(session, tr_addr_domain(&session->sender), tr_addr_domain(&session->rcpt), rcpt_checked);
}

static void
do_data(struct tr_smtp_session *session)
{
	if (!session->in_mail) {
		tr_smtp_reply(session, 503, "5.5.0 MAIL FROM must be issued first", TR_SMTP_GO_ON);
	} else if (session->rcpt_count == 0) {
		tr_smtp_reply(session, 503, "5.5.0 RCPT TO must be issued first", TR_SMTP_GO_ON);
	} else if (!spool_refuses(session)) {
		if (tr_smtp_text_begin(session) != TR_OK)
			tr_smtp_trouble(session, "out of memory");
		else
			tr_smtp_reply(session, 354, "Send body; end with CRLF.CRLF", TR_SMTP_GO_ON);
	}
}

void
tr_smtp_do_line(struct tr_smtp_session *session, struct tr_str line)
{
	struct tr_smtp_command command;
	int code;
	const char *refusal = tr_smtp_command_parse(line, &command, &code);

	if (refusal != NULL) {
		tr_smtp_reply(session, code, refusal, TR_SMTP_GO_ON);
		return;
	}
	if (command.verb != TR_SMTP_RCPT && command.verb != TR_SMTP_DATA)
		tr_smtp_charge(session, false);
	switch (command.verb) {
	case TR_SMTP_EHLO:
	case TR_SMTP_HELO:
		do_ehlo(session, &command);
		break;
	case TR_SMTP_MAIL:
		do_mail(session, &command);
		break;
	case TR_SMTP_RCPT:
		do_rcpt(session, &command);
		break;
	case TR_SMTP_DATA:
		do_data(session);
		break;
	case TR_SMTP_RSET:
		tr_smtp_clear_mail(session);
		tr_smtp_reply(session, 250, "Reset state", TR_SMTP_GO_ON);
		break;
	case TR_SMTP_NOOP:
		tr_smtp_reply(session, 250, "the goggles do nothing", TR_SMTP_GO_ON);
		break;
	case TR_SMTP_QUIT:
		tr_smtp_reply(session, 221, "So long, and thanks for all the fish!", TR_SMTP_CLOSE);
		break;
	case TR_SMTP_OTHER:
		tr_smtp_reply(session, 502, "5.5.1 Command unimplemented", TR_SMTP_GO_ON);
		break;
	}
	tr_addr_fini(&command.addr);
}
