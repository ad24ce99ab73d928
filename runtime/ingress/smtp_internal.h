/* Shared by smtp_session.c (input, events, life), smtp_pace.c (what a session may cost), smtp_reply.c, smtp_dialogue.c
 * (commands) and smtp_transaction.c (from the end of the text to the answer). */
#ifndef TR_SMTP_INTERNAL_H
#define TR_SMTP_INTERNAL_H

#include "base/clock.h"
#include "ingress/receive.h"
#include "ingress/smtp_command.h"
#include "ingress/smtp_session.h"

#define TR_SMTP_PRESSURE_NS (5 * TR_NS_PER_MS) /* how often a session looks whether the spool takes again */
#define TR_SMTP_DOMAINS 17                     /* cached answers of get_listener_domain a session */

enum tr_smtp_state {
	TR_SMTP_AT_COMMAND,
	TR_SMTP_AT_TEXT, /* after 354 */
	TR_SMTP_AT_WORK, /* the text has ended: until its reply */
};

enum tr_smtp_after {   /* what follows a reply */
	TR_SMTP_GO_ON, /* close after 421 */
	TR_SMTP_CLOSE,
	TR_SMTP_FOLLOW, /* with an additional 421 */
};

struct tr_smtp_domain_entry {
	char *name;
	struct tr_smtp_domain domain;
};

struct tr_smtp_intake; /* smtp_transaction.c */

struct tr_smtp_text { /* what DATA brings; lives from 354 to the reply */
	struct tr_smtp_data scan;
	struct tr_buf body; /* until it moves to the blob */
	struct tr_blob *blob;
	struct tr_body_file *file; /* above the spool's bound */
	int64_t counted;           /* bytes of the intake budget */
	bool no_memory, no_space;  /* collecting ended */
	int64_t window_at_ns;      /* how fast it comes: so many bytes since then */
	int64_t window_bytes;
	uint64_t lines_seen; /* when the deadline was last renewed */
	/* processing */
	struct tr_message **messages; /* one a batch; owned */
	bool *relayable;
	uint32_t count, at;
};

typedef void tr_smtp_then(struct tr_smtp_session *session, const struct tr_smtp_answer *answer);

struct tr_smtp_session {
	struct tr_smtp_shared *shared;
	struct tr_worker *worker;
	struct tr_smtp_params *params;
	struct tr_stream *stream;
	struct tr_smtp_crowd *crowd;
	struct tr_smtp_session *next, **prev; /* crowd->first */
	void *slot;                           /* the binding's */
	/* the dialogue */
	uint8_t state;   /* enum tr_smtp_state */
	bool waiting;    /* for policy, a commit or a timer: nothing is read */
	bool processing; /* inside the loop over the input */
	bool skipping;   /* the rest of a line that was too long */
	bool draining;   /* waits until the client has taken its replies */
	bool paused;     /* waits for the timer */
	bool pacing;     /* because of the rate of work that leads nowhere */
	bool stopping;
	bool dead;
	bool greeted; /* the banner is out */
	bool has_meta;
	bool ehlo_set;
	tr_smtp_then *then; /* of the event that is under way */
	struct tr_timer
		timer;      /* data_processing_timeout, or looking again after back-pressure or a wait for its turn */
	uint32_t fruitless; /* units of work since a message was stored: smtp_pace.c */
	int64_t paid;       /* units of it that may be done now */
	uint64_t doomed_bytes;   /* of a line or text that will be refused, less than a unit */
	struct tr_defer release; /* frees it once no call of ours is on the stack */
	char *ehlo;              /* domain of EHLO or HELO; NULL: none */
	struct tr_str command; /* the line that is being answered; .data NULL: none; in the input, or in command_kept */
	char *command_kept;
	char *trouble; /* text of the error that is being answered with 421; NULL: none */
	bool helo;     /* the last greeting was HELO */
	struct tr_meta meta;
	char session_id[37]; /* "": not made yet */
	/* the reply that is being rewritten */
	int reply_code;
	uint8_t reply_after;
	struct tr_buf reply;
	/* the transaction */
	bool in_mail;
	bool close_mail; /* the reply ends the transaction */
	struct tr_addr sender;
	struct tr_addr *rcpts;
	uint32_t rcpt_count, rcpt_cap;
	struct tr_addr rcpt; /* being checked */
	uint64_t rcpts_seen; /* of the connection */
	int64_t rcpt_bytes;  /* of the intake budget */
	int64_t heard_at_ns; /* monotonic: the start, or the last command */
	struct tr_smtp_text *text;
	struct tr_smtp_intake *intake; /* at the spool; it outlives us if it must */
	/* relaying */
	struct tr_smtp_domain_entry *domains; /* TR_SMTP_DOMAINS of them; NULL until one is asked for */
	uint8_t domain_count, domain_next;
	void (*relay_then)(struct tr_smtp_session *session, bool allowed);
	char *relay_names[2]; /* domains of sender and recipient, while policy is asked */
	uint8_t relay_asked;
	/* the loop over the messages of a transaction */
	bool stepping;
	void (*step)(struct tr_smtp_session *session); /* to be run next */
};

/* --- smtp_session.c ---------------------------------------------------------------------------------- */
/* Asks policy and goes on with `then`; at once if there is no handler. */
void tr_smtp_fire(struct tr_smtp_session *session, const struct tr_smtp_call *call, tr_smtp_then *then);
/* Lets the dialogue go on after something that was waited for. */
void tr_smtp_go_on(struct tr_smtp_session *session);
void tr_smtp_wait(struct tr_smtp_session *session);
/* Closes after what has been written is sent. */
void tr_smtp_close(struct tr_smtp_session *session);
bool tr_smtp_wants(struct tr_smtp_session *session, enum tr_smtp_event event);
const char *tr_smtp_session_uuid(struct tr_smtp_session *session);
void tr_smtp_clear_mail(struct tr_smtp_session *session);
void tr_smtp_size_input(struct tr_smtp_session *session);
struct tr_spool *tr_smtp_spool(struct tr_smtp_session *session);

/* --- smtp_pace.c ----------------------------------------------------------------------------------------- */
void tr_smtp_crowd_add(struct tr_smtp_session *session, struct tr_smtp_crowd *crowd);
void tr_smtp_crowd_remove(struct tr_smtp_session *session);
/* Work that may lead to a message is free; the rest has a rate, which all sessions of a worker share. */
void tr_smtp_charge(struct tr_smtp_session *session, bool refused);     /* a command */
void tr_smtp_charge_bytes(struct tr_smtp_session *session, size_t len); /* input that is thrown away */
/* Waits, and goes on by itself. */
void tr_smtp_pause(struct tr_smtp_session *session, int64_t ns);
/* False: it is paused until it is its turn. */
bool tr_smtp_may_go_on(struct tr_smtp_session *session);
/* Takes memory for what a client sends; others may have to make room. False: there is none. */
bool tr_smtp_take_memory(struct tr_smtp_session *session, int64_t bytes);

/* --- smtp_reply.c ---------------------------------------------------------------------------------------- */
/* The answer to a command, the last act of whatever handles it: rewritten by policy, written, recorded if it is a
 * refusal. */
void tr_smtp_reply(struct tr_smtp_session *session, int code, const char *text, enum tr_smtp_after after);
void tr_smtp_replyf(struct tr_smtp_session *session, int code, enum tr_smtp_after after, const char *fmt, ...)
	TR_PRINTF(4, 5);
/* A refusal or error of an event becomes the reply: true, then nothing else is to be done. */
bool tr_smtp_refused(struct tr_smtp_session *session, const struct tr_smtp_answer *answer);
/* Lines of a reply, not rewritten. */
void tr_smtp_write_lines(struct tr_smtp_session *session, int code, struct tr_str text);
/* Our own trouble: 421 4.3.0, and close. `error` goes to the log and the record. */
void tr_smtp_trouble(struct tr_smtp_session *session, const char *error);

/* --- smtp_dialogue.c ------------------------------------------------------------------------------------- */
void tr_smtp_greet(struct tr_smtp_session *session);
void tr_smtp_do_line(struct tr_smtp_session *session, struct tr_str line);
/* then(session, allowed): may this sender's mail go to that domain through us? contract/smtp.md 1.2. */
void tr_smtp_relay_check(struct tr_smtp_session *session, struct tr_str sender_domain, struct tr_str rcpt_domain,
	void (*then)(struct tr_smtp_session *session, bool allowed));

/* --- smtp_transaction.c ---------------------------------------------------------------------------------- */
int tr_smtp_text_begin(struct tr_smtp_session *session); /* TR_OK, TR_ENOMEM */
void tr_smtp_text_add(void *session, const char *run, size_t len);
void tr_smtp_text_end(struct tr_smtp_session *session);
void tr_smtp_text_free(struct tr_smtp_session *session); /* NULL text is fine */
void tr_smtp_text_give_up(struct tr_smtp_text *text);    /* the memory goes; its end is still waited for */
/* The client is gone: what is at the spool goes on alone. */
void tr_smtp_intake_leave(struct tr_smtp_session *session);

/* --- smtp_batch.c ---------------------------------------------------------------------------------------- */
/* Add to text->messages, which has room. `base` has no recipients. TR_OK, TR_ENOMEM, TR_EINVAL (no address). */
int tr_smtp_split_as_told(struct tr_smtp_text *text, struct tr_message *base, const struct tr_smtp_answer *answer);
int tr_smtp_split_by_default(
	struct tr_smtp_text *text, struct tr_message *base, bool domains, const struct tr_addr *from, uint32_t count);

/* --- smtp_trace.c -------------------------------------------------------------------------------------- */
void tr_smtp_received_header(struct tr_smtp_session *session, const struct tr_message *message, struct tr_buf *out);
void tr_smtp_supplemental_header(struct tr_smtp_session *session, const struct tr_message *message, struct tr_buf *out);

#endif
