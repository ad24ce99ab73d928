/* Shared by runtime/transport/smtp_*.c only. */
#ifndef TR_SMTP_CLIENT_INTERNAL_H
#define TR_SMTP_CLIENT_INTERNAL_H

#include "transport/smtp_client.h"
#include "transport/smtp_response.h"

#define TR_SMTPC_ADDRS_MAX 16 /* addresses of one host that are tried */

enum smtp_step { /* what the connection waits for */
	SMTP_CLOSED,
	SMTP_RESOLVE,
	SMTP_CONNECT,
	SMTP_BANNER,
	SMTP_EHLO,
	SMTP_IDLE,
	SMTP_RSET,
	SMTP_MAIL,
	SMTP_RCPT,
	SMTP_DATA,
	SMTP_DOT,      /* the body is being written, or its reply is awaited */
	SMTP_LONE_DOT, /* ends a DATA that was granted to nobody; the reply says nothing */
};

/* Something that was said about recipients. Index 0 of smtp->said is always "out of memory". */
struct smtp_said {
	int code;
	bool by_peer;                                      /* or a local refusal like it: policy may rewrite it */
	size_t text_at, text_len, command_at, command_len; /* in smtp->texts; command_len 0: none */
};

enum smtp_rcpt_state {
	SMTP_WAITING,  /* for a transaction */
	SMTP_ASKED,    /* RCPT is not answered yet */
	SMTP_ACCEPTED, /* 250 */
	SMTP_ODD,      /* another 2xx: good only together with a 250 for somebody else */
	SMTP_REFUSED,  /* `said` holds why */
	SMTP_FINISHED, /* `said` is its result */
};
struct smtp_rcpt {
	uint32_t said;
	uint8_t state;      /* enum smtp_rcpt_state */
	uint8_t tries;      /* transactions that named it */
	bool too_many;      /* its refusal means "later in another transaction" */
	bool too_many_once; /* ... perhaps: it is believed once */
	bool sent;          /* the body went out for it */
	bool rewritten;     /* by policy: the code alone decides */
};

struct smtp_host {
	char *name;
	uint16_t port;
	struct tr_sockaddr addr; /* len 0: not known */
};

struct tr_smtpc {
	struct tr_loop *loop;
	struct tr_dns *dns;
	struct tr_smtpc_config config; /* its strings and hosts are `ehlo_name` and `hosts` below */
	char *ehlo_name;
	struct smtp_host *hosts;
	size_t host_count, host_at; /* host_at: the next to be looked up */
	struct tr_sockaddr addrs[TR_SMTPC_ADDRS_MAX];
	size_t addr_count, addr_at;
	struct tr_dns_query *query;
	struct tr_dial *connecting;
	enum tr_dial_trouble trouble;
	struct tr_stream *stream; /* NULL: no connection */
	enum smtp_step step;
	struct tr_smtpc_offers offers;
	const char *host; /* name of the candidate of the moment, in hosts */
	char peer_addr[64], local_addr[64];
	struct tr_buf error; /* why candidates failed */
	struct tr_buf reply; /* joined lines of the reply being handled */
	char waits_for[160];

	/* The operation under way. */
	tr_smtpc_done_fn *done;
	void *done_arg;
	int status; /* for done */
	struct tr_defer finisher;

	/* The message under way, and results of the last one. */
	const struct tr_message *message;
	struct smtp_rcpt *rcpts;
	uint32_t rcpt_cap, rcpt_count;
	struct smtp_said *said;
	uint32_t said_cap, said_count;
	struct tr_buf texts;
	bool eightbit;    /* its bytes are not all ASCII */
	bool utf8_sender; /* its sender is not ASCII */
	bool reconnected; /* the message has moved to another connection already */
	bool answered;    /* the peer has said something about it */

	/* The transaction under way. */
	uint32_t *batch; /* indices of its recipients; rcpt_cap entries */
	uint32_t batch_count, batch_at, accepted, odd;
	uint32_t verdict; /* index in said that decides for all; 0: none */
	uint32_t goodbye; /* a 421, in case that the connection ends now; 0: none */
	bool pipelined;
	struct tr_buf out; /* a group of commands */

	/* The connection. */
	uint64_t transactions;    /* begun on it */
	bool spoiled;             /* the last transaction failed: RSET is due */
	bool unusable;            /* no further message over it */
	struct tr_timer progress; /* of a long body */
	size_t backlog;           /* at its last look */
};

/* smtp_client.c */
void tr_smtpc_finish(struct tr_smtpc *smtp, int status); /* ends the operation, later in this turn */
void tr_smtpc_drop(struct tr_smtpc *smtp);               /* aborts the connection and all that leads to it */
void tr_smtpc_attach(struct tr_smtpc *smtp, struct tr_stream *stream);
int64_t tr_smtpc_step_timeout_ns(const struct tr_smtpc *smtp);
const char *tr_smtpc_step_name(enum smtp_step step);

/* smtp_connect.c */
/* The connection is lost, and the message was not tried: on as the configuration says. */
void tr_smtpc_reconnect(struct tr_smtpc *smtp);
void tr_smtpc_connect_next(struct tr_smtpc *smtp);
void tr_smtpc_candidate_failed(struct tr_smtpc *smtp, const char *fmt, ...) TR_PRINTF(2, 3);
void tr_smtpc_connect_reply(struct tr_smtpc *smtp, const struct tr_smtpc_reply *reply);

/* smtp_transmit.c */
void tr_smtpc_message_begin(struct tr_smtpc *smtp); /* on a connection that is ready */
void tr_smtpc_transmit_reply(struct tr_smtpc *smtp, const struct tr_smtpc_reply *reply);
/* The connection is of no use any more: err as of tr_stream_handlers.closed, or TR_EPROTO with why. */
void tr_smtpc_transmit_broken(struct tr_smtpc *smtp, int err, const char *why);

/* smtp_result.c: said entries. Each returns the index; 0 when memory is short. */
uint32_t tr_smtpc_say(
	struct tr_smtpc *smtp, int code, bool by_peer, struct tr_str text, const char *command, struct tr_str address);
uint32_t tr_smtpc_sayf(struct tr_smtpc *smtp, int code, bool by_peer, const char *fmt, ...) TR_PRINTF(4, 5);
void tr_smtpc_results_clear(struct tr_smtpc *smtp);

/* smtp_body.c */
bool tr_smtpc_is_ascii(struct tr_str bytes);
/* Writes head, body and the final dot, dots doubled at line starts, a missing line end added. */
void tr_smtpc_write_body(struct tr_stream *stream, const struct tr_bytes *head, const struct tr_bytes *body);

#endif
