#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "transport/smtp_client.h"
#include "wires.h"

static void
say(struct wire_conn *conn, const char *text)
{
	wire_say(conn, text, strlen(text));
}

static void
serve(struct wire_conn *conn)
{
	char line[1024];

	say(conn, "220 peer ready\r\n");
	while (wire_line(conn, line, sizeof line)) {
		if (strncmp(line, "EHLO", 4) == 0) {
			say(conn, "250-peer\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n");
		} else if (strcmp(line, "DATA") == 0) {
			say(conn, "354 go ahead\r\n");
			do {
				if (!wire_line(conn, line, sizeof line))
					return;
			} while (strcmp(line, ".") != 0);
			say(conn, "250 2.0.0 taken\r\n");
		} else if (strcmp(line, "QUIT") == 0) {
			say(conn, "221 2.0.0 bye\r\n");
			return;
		} else {
			say(conn, strstr(line, "no@") != NULL ? "550 5.1.1 no\r\n" : "250 2.0.0 fine\r\n");
		}
	}
}

struct end {
	bool ended;
	int status;
};

static void
ended(void *arg, int status)
{
	*(struct end *)arg = (struct end){true, status};
}

/* A message of two recipients, one of which is refused. Returns whether all went as it should. */
static bool
send_one(struct tr_loop *loop, struct tr_smtpc *smtp, const struct tr_message *message)
{
	struct end end = {false, 0};
	struct tr_smtpc_result results[2];

	if (!tr_smtpc_usable(smtp)) {
		tr_smtpc_close(smtp);
		tr_smtpc_connect(smtp, ended, &end);
		if (!wire_wait(loop, &end.ended))
			wire_wrong("connecting does not end");
		if (end.status != TR_OK)
			return false;
		end.ended = false;
	}
	tr_smtpc_send(smtp, message, ended, &end);
	if (!wire_wait(loop, &end.ended))
		wire_wrong("the message does not end");
	if (end.status != TR_OK)
		return false;
	for (uint32_t i = 0; i < 2; i++) {
		tr_smtpc_result(smtp, i, &results[i]);
		if (results[i].code < 200 || results[i].code > 599)
			wire_wrong("recipient %u: code %d", i, results[i].code);
	}
	if (results[0].kind == TR_SMTPC_BOUNCED)
		wire_wrong("bounced: %d %.*s", results[0].code, (int)results[0].text.len, results[0].text.data);
	if (results[1].kind == TR_SMTPC_DELIVERED)
		wire_wrong("delivered to nobody");
	return results[0].kind == TR_SMTPC_DELIVERED && results[1].kind == TR_SMTPC_BOUNCED;
}

static void
run_smtp(struct tr_loop *loop)
{
	struct tr_smtpc_host host = {.name = "127.0.0.1"};
	const struct tr_smtpc_config config = {
		.connect_timeout_ns = WIRE_LIMIT_NS,
		.banner_timeout_ns = WIRE_LIMIT_NS,
		.ehlo_timeout_ns = WIRE_LIMIT_NS,
		.mail_from_timeout_ns = WIRE_LIMIT_NS,
		.rcpt_to_timeout_ns = WIRE_LIMIT_NS,
		.data_timeout_ns = WIRE_LIMIT_NS,
		.data_dot_timeout_ns = WIRE_LIMIT_NS,
		.rset_timeout_ns = WIRE_LIMIT_NS,
		.max_recipients_per_batch = 100,
		.port = 25,
		.enable_pipelining = true,
		.enable_rset = true,
		.ehlo_name = "me.test",
		.hosts = &host,
		.host_count = 1,
	};
	static const char head[] = "Subject: x\r\n", body[] = "hello\r\n.dots\r\n";
	struct tr_message *message = tr_message_new();
	struct wire_peer peer;
	struct tr_smtpc *smtp;
	struct tr_dns *dns;
	bool well = false;

	wire_peer_start(&peer, serve, false);
	host.port = peer.port;
	tr_message_set_sender(message, TR_STR("a@b.test"));
	tr_message_add_rcpt(message, TR_STR("yes@c.test"));
	tr_message_add_rcpt(message, TR_STR("no@c.test"));
	tr_bytes_set(&message->head, tr_blob_new(head, sizeof head - 1));
	tr_bytes_set(&message->body, tr_blob_new(body, sizeof body - 1));
	wire_begin();
	WIRE_MAKE(tr_dns_new(loop, &dns));
	WIRE_MAKE(tr_smtpc_new(loop, dns, &config, &smtp));
	for (int i = 0; i < 2; i++)
		(void)send_one(loop, smtp, message);
	wire_calm();
	for (int i = 0; i < 3 && !well; i++) { /* its candidates may be used up: a session begins with a new one */
		if (i == 1) {
			tr_smtpc_free(smtp);
			WIRE_MAKE(tr_smtpc_new(loop, dns, &config, &smtp));
		}
		well = send_one(loop, smtp, message);
	}
	if (!well)
		wire_wrong("it does not work after the faults either: %s", tr_smtpc_error(smtp));
	tr_smtpc_free(smtp);
	tr_dns_free(dns);
	tr_message_free(message);
}

const struct wire wire_smtp = {"smtp", run_smtp};
