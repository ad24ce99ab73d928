/* Inside of `tailrace inject`: what its SMTP and HTTP halves share. One thread, one loop. */
#ifndef TR_CLI_INJECT_H
#define TR_CLI_INJECT_H

#include <ev.h>

#include "base/buf.h"
#include "base/loop.h"
#include "cli/args.h"
#include "cli/latency.h"
#include "cli/progress.h"
#include "cli/socket.h"

enum { TR_INJECT_CODES = 600 };

/* A message to send, made once: CRLF line ends, dots doubled, `. CR LF` at the end (SMTP), or the JSON string
 * (HTTP). A generated one has no headers of its own. */
struct tr_inject_body {
	struct tr_buf bytes;
	int64_t size;         /* of the message itself, undoubled, without the headers that go before it */
	int64_t header_bytes; /* of those headers: exact for a file, near for a generated message */
	bool generated;       /* From, To, Subject, Date and Message-ID go before it */
	bool has_8bit;
};

struct tr_inject_domain {
	const char *name;
	size_t len;
	double weight; /* > 0 */
};

struct tr_inject {
	struct tr_loop *loop;
	struct ev_loop *ev;
	struct tr_wheel *wheel;
	struct ev_signal sigint, sigterm;

	/* what was asked for */
	struct tr_cli_addr target;
	bool http, keep_going, quiet, json;
	char host[128], path[512]; /* HTTP: of the URL */
	const char *from, *to;
	int64_t count; /* of messages (HTTP: recipients); INT64_MAX: until the duration ends */
	int64_t connections, rcpts_per_message, messages_per_connection, batch;
	double rate; /* a second; 0: as fast as it goes */
	int64_t duration_ns, timeout_ns;
	struct tr_buf headers; /* of --header, with line ends */
	struct tr_inject_body *bodies;
	size_t body_count;
	struct tr_inject_domain *domains;
	size_t domain_count;
	double weights;
	uint64_t random;

	int64_t open;                   /* connections not yet ended for good */
	struct tr_inject_conn *waiting; /* for the rate, linked by next_waiting */
	struct tr_timer pace, tick, end;
	struct tr_buf ids; /* lines not yet written */
	int ids_fd;        /* -1: none */
	off_t ids_at;
	struct tr_turn_hook flush;
	struct tr_progress progress;
	char run_id[24]; /* makes Message-IDs differ from run to run */
	char date[40];
	int64_t date_s;
	bool stopping; /* nothing more is started */
	bool failed;   /* gave up: trouble without --keep-going */

	/* what happened */
	int64_t started_ns, ended_ns;
	int64_t started;     /* messages given out, less those given back */
	int64_t next_number; /* the counter of %d */
	int64_t accepted, refused, unknown, partial, bytes, recipients, recipients_refused, ids_written, ids_failures;
	int64_t connects, connect_failures, lost_connections;
	int64_t codes[TR_INJECT_CODES];
	struct tr_latency latency;
};

enum tr_inject_state {
	TR_INJECT_OVER,  /* ended for good */
	TR_INJECT_PAUSE, /* waits to connect again */
	TR_INJECT_CONNECTING,
	TR_INJECT_UP,
};

/* A connection, whichever protocol it speaks (inject_conn.c); the first member of the protocol's own. */
struct tr_inject_conn {
	struct tr_inject *inject;
	const struct tr_inject_protocol *protocol;
	struct tr_inject_conn *next_waiting;
	bool is_waiting; /* for the rate */
	struct ev_io io;
	struct tr_timer timer;             /* the pause, or the deadline of an answer */
	struct tr_buf in;                  /* answers, perhaps half of one */
	struct tr_buf out;                 /* to send */
	size_t out_at;                     /* sent of it */
	const struct tr_inject_body *body; /* sent behind `out` when body_left > 0 */
	size_t body_left;
	enum tr_inject_state state;
	int fd;            /* -1: none */
	int attempt;       /* to connect, since the last success: the protocol sets it to 0 */
	int64_t sent_here; /* messages on this connection */
	int64_t begun_ns;  /* of what is under way */
};

enum tr_inject_loss {
	TR_INJECT_NOT_UP,
	TR_INJECT_BROKEN,
	TR_INJECT_IDLE,    /* nothing was asked: a server may end that */
	TR_INJECT_GOODBYE, /* as it should be */
};
struct tr_inject_protocol {
	void (*start)(struct tr_inject_conn *conn);               /* something may be sent now, or it is time to end */
	void (*connected)(struct tr_inject_conn *conn);           /* the deadline of the connect goes on */
	void (*received)(struct tr_inject_conn *conn);            /* there is more in `in` */
	enum tr_inject_loss (*lost)(struct tr_inject_conn *conn); /* what was under way is counted, or given back */
};

void tr_inject_conn_init(
	struct tr_inject_conn *conn, struct tr_inject *inject, const struct tr_inject_protocol *protocol);
void tr_inject_conn_fini(struct tr_inject_conn *conn);
/* Hangs up if need be and connects, or ends where the run is over. */
void tr_inject_connect(struct tr_inject_conn *conn);
/* The connection is of no more use; it is made again if the run goes on. */
void tr_inject_lost(struct tr_inject_conn *conn, const char *why);
/* Sends what is there to send. false: the connection is lost, and may be another one by now. */
bool tr_inject_flush(struct tr_inject_conn *conn);
/* Waits so long for an answer. */
void tr_inject_arm(struct tr_inject_conn *conn, int64_t delay_ns);
/* Ends it for good. */
void tr_inject_end(struct tr_inject_conn *conn);

/* Asks for messages (or `count` of one request). Returns how many may be sent now; 0: none now, start() is called
 * when there is, or the run is over: then tr_inject_over() is true. */
int64_t tr_inject_take(struct tr_inject_conn *conn, int64_t count);
/* Those were not sent after all. */
void tr_inject_give_back(struct tr_inject *inject, int64_t count);
bool tr_inject_over(const struct tr_inject *inject);
/* A connection has ended for good; the last one ends the run. */
void tr_inject_conn_over(struct tr_inject_conn *conn);
/* Gives up if --keep-going is not set: prints the text and stops the run. Returns whether to go on. */
bool tr_inject_trouble(struct tr_inject *inject, const char *fmt, ...) TR_PRINTF(2, 3);

/* Adds the next recipient's address. */
void tr_inject_add_rcpt(struct tr_inject *inject, struct tr_buf *out);
/* The body of message `number`. */
const struct tr_inject_body *tr_inject_body_of(struct tr_inject *inject, int64_t number);
/* Adds the headers that go before the body; `first_rcpt` is for To. */
void tr_inject_add_headers(struct tr_inject *inject, const struct tr_inject_body *body, int64_t number,
	struct tr_str first_rcpt, struct tr_buf *out);
/* Keeps the ids of a `250 OK ids=A B` answer. */
void tr_inject_add_ids(struct tr_inject *inject, struct tr_str line);
/* The pause before another attempt to connect: doubles from 50 ms to 2 s. */
int64_t tr_inject_backoff_ns(int attempt);

/* inject_message.c: reads or makes the bodies. -1, or the status to exit with. */
int tr_inject_load_files(struct tr_inject *inject, const struct tr_arg_list *files);
int tr_inject_generate(struct tr_inject *inject, int64_t size_bytes);
/* inject_report.c */
void tr_inject_report(struct tr_inject *inject);

/* inject_smtp.c, inject_http.c: an array of `connections`, started; false: no memory. */
bool tr_inject_smtp_start(struct tr_inject *inject);
void tr_inject_smtp_free(struct tr_inject *inject);
bool tr_inject_http_start(struct tr_inject *inject);
void tr_inject_http_free(struct tr_inject *inject);

#endif
