/* What was said about the recipients of a message, and what it means for them. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "transport/smtp_client_internal.h"

#define TEXT_MAX 2048 /* bytes of a reply that are kept for each recipient */

static const struct smtp_said no_memory = {.code = 400};
static const char no_memory_text[] = "KumoMTA internal: failed to send message: out of memory";

void
tr_smtpc_results_clear(struct tr_smtpc *smtp)
{
	if (smtp->texts.failed)
		tr_buf_free(&smtp->texts);
	tr_buf_clear(&smtp->texts);
	smtp->said_count = 1; /* 0 is no_memory, which needs no entry */
}

static uint32_t
add(struct tr_smtpc *smtp, const struct smtp_said *said)
{
	if (smtp->texts.failed)
		return 0;
	if (smtp->said_count >= smtp->said_cap) {
		uint32_t cap = smtp->said_cap > 0 ? smtp->said_cap * 2 : 8;
		struct smtp_said *grown = realloc(smtp->said, cap * sizeof *grown);

		if (grown == NULL)
			return 0;
		smtp->said = grown;
		smtp->said_cap = cap;
	}
	smtp->said[smtp->said_count] = *said;
	return smtp->said_count++;
}

uint32_t
tr_smtpc_say(
	struct tr_smtpc *smtp, int code, bool by_peer, struct tr_str text, const char *command, struct tr_str address)
{
	struct smtp_said said = {.code = code, .by_peer = by_peer, .text_at = smtp->texts.len};

	if (text.len > TEXT_MAX)
		text.len = TEXT_MAX;
	said.text_len = text.len;
	tr_buf_add_str(&smtp->texts, text);
	said.command_at = smtp->texts.len;
	if (command != NULL) {
		tr_buf_addz(&smtp->texts, command);
		if (address.data != NULL) {
			tr_buf_addz(&smtp->texts, ":<");
			tr_buf_add_str(&smtp->texts, address);
			tr_buf_addc(&smtp->texts, '>');
		}
	}
	said.command_len = smtp->texts.len - said.command_at;
	return add(smtp, &said);
}

uint32_t
tr_smtpc_sayf(struct tr_smtpc *smtp, int code, bool by_peer, const char *fmt, ...)
{
	char text[1024];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof text, fmt, args);
	va_end(args);
	return tr_smtpc_say(smtp, code, by_peer, tr_str(text), NULL, (struct tr_str){NULL, 0});
}

static const struct smtp_said *
said_of(const struct tr_smtpc *smtp, const struct smtp_rcpt *rcpt)
{
	return rcpt->said > 0 && rcpt->said < smtp->said_count ? &smtp->said[rcpt->said] : &no_memory;
}

/* The table of contract smtp.md 3.4, without its trap: a 2xx is a delivery only if something was sent. */
static enum tr_smtpc_kind
kind_of(const struct smtp_rcpt *rcpt, int code)
{
	if (code >= 200 && code <= 299)
		return rcpt->sent || rcpt->rewritten ? TR_SMTPC_DELIVERED : TR_SMTPC_TRANSIENT;
	if ((code >= 300 && code <= 499) || code == 503)
		return TR_SMTPC_TRANSIENT;
	return (rcpt->too_many || rcpt->too_many_once) && !rcpt->rewritten ? TR_SMTPC_TRANSIENT : TR_SMTPC_BOUNCED;
}

void
tr_smtpc_result(const struct tr_smtpc *smtp, uint32_t index, struct tr_smtpc_result *out)
{
	const struct smtp_rcpt *rcpt = &smtp->rcpts[index];
	const struct smtp_said *said = said_of(smtp, rcpt);

	*out = (struct tr_smtpc_result){.kind = kind_of(rcpt, said->code), .code = said->code, .said = said->by_peer};
	if (said == &no_memory) {
		out->text = TR_STR(no_memory_text);
		return;
	}
	out->text = (struct tr_str){smtp->texts.data + said->text_at, said->text_len};
	if (said->command_len > 0)
		out->command = (struct tr_str){smtp->texts.data + said->command_at, said->command_len};
	out->of_host = out->kind == TR_SMTPC_TRANSIENT &&
		       (said->code == 421 || said->command_len == 0 || tr_str_eq(out->command, TR_STR("RSET")));
}

void
tr_smtpc_rewrite(struct tr_smtpc *smtp, uint32_t index, int code)
{
	struct smtp_rcpt *rcpt = &smtp->rcpts[index];
	struct smtp_said said = *said_of(smtp, rcpt);
	int old = said.code;
	size_t from = said.text_at, from_command = said.command_at;

	if (old == code || !said.by_peer)
		return;
	if (tr_buf_reserve(&smtp->texts, said.text_len + said.command_len + 96) == NULL) {
		rcpt->said = 0;
		return;
	}
	said.code = code;
	said.text_at = smtp->texts.len; /* no growth from here on: the sources stay where they are */
	tr_buf_add(&smtp->texts, smtp->texts.data + from, said.text_len);
	tr_buf_addf(&smtp->texts, " (kumomta: status was rewritten from %d -> %d)", old, code);
	said.text_len = smtp->texts.len - said.text_at;
	said.command_at = smtp->texts.len;
	tr_buf_add(&smtp->texts, smtp->texts.data + from_command, said.command_len);
	rcpt->said = add(smtp, &said);
	rcpt->rewritten = true;
}
