/* One SMTP (or LMTP greeting) connection to the first of its candidate hosts that answers, and the sending of messages
 * over it. Callback style on one loop, one thread. It knows nothing of queues: each recipient gets a result, and the
 * caller (smtp_client_lua.c) makes outcomes of them. Rules: RFC 5321, RFC 2920 (pipelining), contract smtp.md part 3.
 *
 * One operation at a time: connect, then send, send ... The callback of an operation runs from the loop, never inside
 * the call that started it, and is its last act, so it may start the next one or free the object. */
#ifndef TR_SMTP_CLIENT_H
#define TR_SMTP_CLIENT_H

#include "message/message.h"
#include "net/dns.h"
#include "net/stream.h"
#include "transport/dial.h"

struct tr_smtpc_host {
	const char *name;        /* host name or literal address, also with brackets */
	uint16_t port;           /* 0: that of the configuration */
	struct tr_sockaddr addr; /* where it is, without its port; len 0: the name is looked up */
};

/* Where the next message goes when the connection is lost: to the next candidate, to the same address, nowhere. */
enum tr_smtpc_reconnect { TR_SMTPC_NEXT_HOST, TR_SMTPC_SAME_HOST, TR_SMTPC_TERMINATE };

/* All times in nanoseconds, > 0. */
struct tr_smtpc_config {
	int64_t connect_timeout_ns, banner_timeout_ns, ehlo_timeout_ns, mail_from_timeout_ns, rcpt_to_timeout_ns,
		data_timeout_ns, data_dot_timeout_ns, rset_timeout_ns;
	uint32_t max_recipients_per_batch; /* RCPTs of a transaction, >= 1 */
	uint16_t port;                     /* for hosts that name none */
	bool enable_pipelining, enable_rset, use_lmtp, ignore_8bit_checks;
	enum tr_smtpc_reconnect reconnect;
	uint16_t remote_port;              /* goes before every other port; 0: none */
	struct tr_dial_config dial;        /* source address and proxy; its strings are borrowed for good */
	const char *ehlo_name;             /* what we call ourselves */
	const struct tr_smtpc_host *hosts; /* candidates in order; each may have several addresses */
	size_t host_count;
};

struct tr_smtpc;

/* Copies the configuration. Loop and resolver must outlive the object. TR_OK, TR_EINVAL (no host) or TR_ENOMEM. */
int tr_smtpc_new(struct tr_loop *loop, struct tr_dns *dns, const struct tr_smtpc_config *config, struct tr_smtpc **out);
/* As tr_smtpc_cancel(), and frees it: an operation under way is forgotten, its callback is not called. NULL is fine. */
void tr_smtpc_free(struct tr_smtpc *smtp);
/* Forgets the operation under way and drops the connection at once; an idle one with QUIT. */
void tr_smtpc_cancel(struct tr_smtpc *smtp);
/* QUIT, and the end of the connection: it lingers at most rset_timeout for the peer to take it. */
void tr_smtpc_close(struct tr_smtpc *smtp);

/* Ends with TR_OK, or TR_ECLOSED when no candidate is left: tr_smtpc_error() says why each failed. */
typedef void tr_smtpc_done_fn(void *arg, int status);
void tr_smtpc_connect(struct tr_smtpc *smtp, tr_smtpc_done_fn *done, void *arg);
/* Candidates are left behind the one of the moment: after tr_smtpc_close() tr_smtpc_connect() goes on to them. */
bool tr_smtpc_has_next(const struct tr_smtpc *smtp);
/* "HOST [ADDR]: REASON, HOST2 [ADDR2]: REASON2"; NUL-terminated, at most some 2 KiB. */
const char *tr_smtpc_error(const struct tr_smtpc *smtp);

/* Sends the message to all its recipients, in as many transactions as it takes. The message is borrowed until the end.
 * Status: TR_OK: each recipient has a result. TR_EAGAIN: the connection was found lost before the message was tried,
 * and no candidate is left: nothing was sent, no attempt was made. */
void tr_smtpc_send(struct tr_smtpc *smtp, const struct tr_message *message, tr_smtpc_done_fn *done, void *arg);
/* After an operation: whether another message may go over this connection. */
bool tr_smtpc_usable(const struct tr_smtpc *smtp);

enum tr_smtpc_kind { TR_SMTPC_DELIVERED, TR_SMTPC_BOUNCED, TR_SMTPC_TRANSIENT };
struct tr_smtpc_result {
	enum tr_smtpc_kind kind;
	int code;
	struct tr_str text; /* after the code, lines joined by '\n', enhanced code still in it */
	struct tr_str
		command; /* "MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA", ".", "RSET"; .data NULL: none was answered */
	bool said;       /* by the peer (or a local refusal like it), not a time-out or a broken connection */
	bool of_host; /* what failed is the host or the way to it, not an answer to this message: 421, silence, RSET */
};
/* Of message->rcpts[index], after a send that ended with TR_OK; texts are borrowed until the next send. */
void tr_smtpc_result(const struct tr_smtpc *smtp, uint32_t index, struct tr_smtpc_result *out);
/* Policy's other code (200 to 599) for what the peer said to this recipient: kind and text follow. */
void tr_smtpc_rewrite(struct tr_smtpc *smtp, uint32_t index, int code);

/* Of the connection that is or was last open; "" before. NUL-terminated, owned by smtp. */
const char *tr_smtpc_peer_name(const struct tr_smtpc *smtp); /* host as configured */
const char *tr_smtpc_peer_addr(const struct tr_smtpc *smtp); /* ip:port */
const char *tr_smtpc_local_addr(const struct tr_smtpc *smtp);
/* Why the last connect failed, if it was for the source address or its proxy; TR_DIAL_TARGET: it was not. */
enum tr_dial_trouble tr_smtpc_trouble(const struct tr_smtpc *smtp);
/* What it waits for, for reports: "smtp: the reply to RCPT TO of mx.test". Owned by smtp, until the next call. */
const char *tr_smtpc_waits_for(struct tr_smtpc *smtp);

#endif
