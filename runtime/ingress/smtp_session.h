/* One SMTP client's connection (contract/smtp.md part 2): dialogue, events, transactions. Its worker's thread only.
 * Policy is asked through a table of functions, so nothing here knows of Lua. STARTTLS, AUTH, XCLIENT and the PROXY
 * header have their place in smtp_command.c and smtp_dialogue.c. */
#ifndef TR_SMTP_SESSION_H
#define TR_SMTP_SESSION_H

#include "base/metrics.h"
#include "ingress/smtp_params.h"
#include "net/stream.h"
#include "queue/queue.h"

struct tr_smtp_session;

enum tr_smtp_event {
	TR_SMTP_ON_PARAMETERS, /* smtp_server_get_dynamic_parameters(LISTENER, CONN_META) */
	TR_SMTP_ON_CONNECT,    /* smtp_server_connection_accepted(CONN_META) */
	TR_SMTP_ON_EHLO,       /* smtp_server_ehlo(DOMAIN, CONN_META[, EXTENSIONS]) */
	TR_SMTP_ON_MAIL,       /* smtp_server_mail_from(ADDR, CONN_META) */
	TR_SMTP_ON_RCPT,       /* smtp_server_rcpt_to(ADDR, CONN_META) */
	TR_SMTP_ON_DOMAIN,     /* get_listener_domain(DOMAIN, LISTENER, CONN_META) */
	TR_SMTP_ON_DATA,       /* smtp_server_data(MESSAGE, CONN_META) */
	TR_SMTP_ON_SPLIT,      /* smtp_server_split_transaction(MESSAGE, CONN_META) */
	TR_SMTP_ON_MESSAGE,    /* smtp_server_message_received(MESSAGE, CONN_META) */
	TR_SMTP_ON_REPLY,      /* smtp_server_rewrite_response(CODE, TEXT, COMMAND|nil, CONN_META) */
	TR_SMTP_EVENTS,
};
const char *tr_smtp_event_name(enum tr_smtp_event event);

struct tr_smtp_call {
	enum tr_smtp_event event;
	struct tr_str text;              /* domain, or the reply's text */
	struct tr_str command;           /* ON_REPLY; .data NULL: nil */
	int code;                        /* ON_REPLY */
	const struct tr_str *extensions; /* ON_EHLO; NULL: HELO */
	uint32_t extension_count;
	const struct tr_addr *addr;
	struct tr_message *message;
};

struct tr_smtp_split {
	uint32_t batch; /* ascending from 0 */
	struct tr_str rcpt;
};
/* How an event ended. Everything in it is borrowed for the call, but params. */
struct tr_smtp_answer {
	int reject_code; /* >= 0: kumo.reject or kumo.disconnect */
	struct tr_str reject_text;
	int disconnect;    /* 0 after 421 only, 1 with an additional 421, 2 always */
	const char *error; /* another error, with traceback; NULL: none */
	/* results */
	struct tr_smtp_params *params; /* ON_PARAMETERS: taken over by the session; NULL: as they are */
	const struct tr_str *lines;    /* ON_EHLO: replacement; NULL: as they are */
	uint32_t line_count;
	const struct tr_smtp_domain *domain; /* ON_DOMAIN; NULL: nil */
	const struct tr_smtp_split *split;   /* ON_SPLIT; NULL: nil */
	uint32_t split_count;
	int code;           /* ON_REPLY; 0: as it is */
	struct tr_str text; /* ON_REPLY; .data NULL: as it is */
};

struct tr_smtp_ops {
	/* NULL until the engine stands. */
	struct tr_engine *(*engine)(void *arg);
	bool (*wants)(void *arg, struct tr_worker *worker, enum tr_smtp_event event); /* one bit */
	/* Ends with tr_smtp_session_answer(), once, maybe before it returns; not after cancel(). */
	void (*fire)(void *arg, struct tr_smtp_session *session, const struct tr_smtp_call *call);
	void (*late)(void *arg, struct tr_smtp_session *session);   /* before cancel(): the time is up. NULL: none */
	void (*cancel)(void *arg, struct tr_smtp_session *session); /* what fire() has started and not ended */
	void (*gone)(
		void *arg, struct tr_smtp_session *session); /* the session ends: what policy holds of it is stale */
};

/* Of a listener: shared by its sessions. */
struct tr_smtp_shared {
	const struct tr_smtp_ops *ops;
	void *ops_arg;
	struct tr_smtp_params *params;
	char text[64]; /* "127.0.0.1:2525" as bound */
	_Atomic uint32_t sessions;
	_Atomic bool stopping;
	/* This worker has no session that could make room: the others shall look. NULL: there are none. */
	void (*make_room)(struct tr_smtp_shared *shared, struct tr_worker *here);
	struct tr_metric *connections[2], *opened[2], *denied[2], *messages[2],
		*rejections[2]; /* all listeners; this one */
};

/* The sessions of a listener on one worker; its thread only. */
struct tr_smtp_crowd {
	struct tr_smtp_session *first;
	struct tr_smtp_crowd *next; /* of the thread, while it has sessions */
	int64_t slot_at_ns;         /* monotonic: when the next work that leads nowhere may be done (smtp_pace.c) */
};

/* Starts a session on this worker; takes fd. It belongs to itself; it is found in `crowd` until it ends. */
void tr_smtp_session_start(
	struct tr_smtp_shared *shared, struct tr_worker *worker, int fd, struct tr_smtp_crowd *crowd);
/* Of all sessions of this thread that are slow, the one that holds most of the intake budget gives it back and is
 * refused. False: there is none. */
bool tr_smtp_make_room(void);
/* Of all sessions of this thread outside of a transaction, the one that has been silent longest is closed, if that is
 * long. False: there is none. */
bool tr_smtp_make_place(void);
/* The answer of fire(). */
void tr_smtp_session_answer(struct tr_smtp_session *session, const struct tr_smtp_answer *answer);
/* No new transaction: a session that waits for its client says 421 and closes; one that works closes after its reply.
 */
void tr_smtp_session_stop(struct tr_smtp_session *session);
void tr_smtp_session_abort(struct tr_smtp_session *session);                   /* at once */
struct tr_smtp_session *tr_smtp_session_next(struct tr_smtp_session *session); /* in its list */

/* For the binding. */
struct tr_worker *tr_smtp_session_worker(struct tr_smtp_session *session);
struct tr_smtp_params *tr_smtp_session_params(struct tr_smtp_session *session);
/* tr_smtp_params_for() of this connection's addresses. */
struct tr_smtp_params *tr_smtp_session_params_for(struct tr_smtp_session *session, struct tr_smtp_params *from);
struct tr_meta *tr_smtp_session_meta(
	struct tr_smtp_session *session); /* the connection's, filled when first asked for; NULL: no memory */
const struct tr_sockaddr *tr_smtp_session_peer(struct tr_smtp_session *session);
const char *tr_smtp_session_local(
	struct tr_smtp_session *session);                     /* "ip:port" of our end; valid until the next call */
void **tr_smtp_session_slot(struct tr_smtp_session *session); /* the binding's own pointer */

#endif
