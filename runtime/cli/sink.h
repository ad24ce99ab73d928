/* Inside of `tailrace sink`: what its HTTP and SMTP halves share. One thread, one loop. */
#ifndef TR_CLI_SINK_H
#define TR_CLI_SINK_H

#include <ev.h>

#include "base/buf.h"
#include "base/loop.h"
#include "cli/http_frame.h"
#include "cli/id_set.h"
#include "cli/progress.h"
#include "cli/socket.h"

enum {
	TR_SINK_READ_BYTES = 256 * 1024, /* one read */
	TR_SINK_MAX_BODY_BYTES = 256 * 1024 * 1024,
	TR_SINK_MAX_SHARES = 16,
	TR_SINK_CODES = 600,
};
#define TR_SINK_IDLE_NS (600 * TR_NS_PER_S) /* a connection that is silent this long is closed */

struct tr_sink_share {
	int code;       /* 100 to 599 */
	double percent; /* > 0; the shares of one place sum up to 100 at most */
};
struct tr_sink_shares {
	struct tr_sink_share share[TR_SINK_MAX_SHARES];
	int count;
};

enum tr_sink_stage { TR_STAGE_CONNECT, TR_STAGE_MAIL, TR_STAGE_RCPT, TR_STAGE_DATA, TR_STAGE_DOT, TR_STAGES };
extern const char *const tr_sink_stage_names[TR_STAGES];

enum tr_sink_state {
	TR_SINK_OPEN,
	TR_SINK_SLOW,    /* an answer is held back by the timer; nothing is read */
	TR_SINK_HUNG,    /* what comes is thrown away */
	TR_SINK_CLOSING, /* close when `out` is sent */
	TR_SINK_RESET,   /* reset at the end of the callback */
};

/* A connection, whichever protocol it speaks (sink_conn.c); the first member of the protocol's own. */
struct tr_sink_conn {
	struct ev_io io;
	struct tr_sink *sink;
	const struct tr_sink_protocol *protocol;
	struct tr_sink_conn *next, **prev;
	struct tr_timer timer; /* SLOW: the answer; else the idle deadline */
	struct tr_buf in;      /* what is not complete; empty most of the time */
	struct tr_buf out;     /* answers that the socket did not take */
	int64_t active_ns;     /* last read, for the idle deadline */
	enum tr_sink_state state;
	int fd;
};

struct tr_sink_protocol {
	size_t size; /* of the connection */
	/* Handles what is complete of `data` while the state is OPEN; answers go to sink->reply. How many bytes it was.
	 */
	size_t (*take)(struct tr_sink_conn *conn, const char *data, size_t len);
	/* Answers what was held back; the state to go on in. */
	enum tr_sink_state (*slow_over)(struct tr_sink_conn *conn);
	size_t (*want)(const struct tr_sink_conn *conn); /* bytes of one read behind what is in `in`; NULL: the usual */
	bool (*failed)(const struct tr_sink_conn *conn); /* for memory */
	void (*fini)(struct tr_sink_conn *conn);         /* its own part */
	size_t idle_bytes; /* idle connections should be small: an empty `in` with more room goes */
	bool deaf_at_end;  /* nothing is read any more when --until is reached */
};

struct tr_sink_listener {
	struct ev_io io;
	struct tr_sink *sink;
	struct tr_cli_addr addr;
	struct tr_timer pause;                      /* no descriptor left: try again later */
	void (*open)(struct tr_sink *sink, int fd); /* takes fd */
	int fd;                                     /* -1: not in use */
};

struct tr_sink {
	struct tr_loop *loop;
	struct ev_loop *ev;
	struct tr_wheel *wheel;
	struct tr_sink_listener http, smtp;
	struct ev_signal sigint, sigterm;

	/* what was asked for */
	struct tr_sink_shares status, stage[TR_STAGES];
	double slow_percent, reset_percent, garbage_percent;
	int64_t slow_ns, retry_after_s, until, idle_exit_ns;
	bool hang, quiet, json, show, record_data;
	const char *count_ids; /* the field, or NULL */
	uint64_t random;       /* state of the generator */

	char *scratch;       /* TR_SINK_READ_BYTES: where reads of all connections land */
	struct tr_buf reply; /* answers of the connection being handled */
	struct tr_buf text;  /* short-lived */
	struct tr_buf plain; /* the body at hand, if it came compressed */
	struct tr_buf lines; /* of --record, not yet written */
	int record_fd;       /* -1: none */
	off_t record_at;
	struct tr_id_set ids;
	struct tr_progress progress;
	struct tr_timer tick, grace;
	struct tr_sink_conn *conns;
	bool ending; /* --until is reached: nothing more is accepted */
	int exit_status;

	/* what happened */
	int64_t started_ns, first_ns, last_ns; /* first and last request or message; 0: none */
	int64_t http_connections, http_requests, http_bytes, http_bad, http_continues;
	int64_t records, refused_records, malformed_bodies;
	int64_t status_count[TR_SINK_CODES];
	int64_t ids_seen, ids_duplicate, ids_missing, ids_uncounted;
	int64_t resets, garbage, slow, hung, idle_closed, accept_failures, record_failures;
	int64_t smtp_connections, smtp_messages, smtp_refused, smtp_recipients, smtp_bytes;
	int64_t stage_count[TR_STAGES][TR_SINK_CODES];
};

/* A number from 0 to below 100. */
double tr_sink_percent(struct tr_sink *sink);
static inline bool
tr_sink_chance(struct tr_sink *sink, double percent)
{
	return percent > 0 && tr_sink_percent(sink) < percent;
}
/* The code that the shares choose, or `other`. */
int tr_sink_choose(struct tr_sink *sink, const struct tr_sink_shares *shares, int other);

/* Something arrived: for rates and --idle-exit. */
void tr_sink_touch(struct tr_sink *sink);
/* Looks whether --until is reached, after records or messages were counted as accepted. */
void tr_sink_check_until(struct tr_sink *sink);
/* Writes the lines of --record; to be called before the answer leaves, so that whoever saw the answer finds the line.
 */
void tr_sink_write_record(struct tr_sink *sink);

/* The reason phrase of an HTTP status. Static. */
const char *tr_sink_reason(int status);

/* Takes what is in `out` and then sink->reply to the socket as far as it goes; the rest lands in `out`. false: the
 * connection is dead. */
bool tr_sink_send(struct tr_sink *sink, int fd, struct tr_buf *out);

/* sink_conn.c. Takes fd; NULL: no memory, which is counted. */
struct tr_sink_conn *tr_sink_open(struct tr_sink *sink, const struct tr_sink_protocol *protocol, int fd);
/* The end of every callback: answers leave, the state is acted upon. The connection may be gone after it. */
void tr_sink_settle(struct tr_sink_conn *conn);
void tr_sink_close_all(struct tr_sink *sink);

/* sink_http.c, sink_smtp.c; they take fd */
void tr_sink_http_open(struct tr_sink *sink, int fd);
void tr_sink_smtp_open(struct tr_sink *sink, int fd);

/* sink_packed.c: the body as it was before gzip or zstd, in sink->plain; another, or a broken one, as it is. */
struct tr_str tr_sink_plain(
	struct tr_sink *sink, const char *data, const struct tr_http_head *head, struct tr_str body);

/* sink_show.c: one line for people on standard output. `valid`: the record is JSON. Status 0: there is no answer. */
void tr_sink_show_record(struct tr_sink *sink, struct tr_str record, bool valid, int status);
void tr_sink_show_mail(
	struct tr_sink *sink, struct tr_str from, struct tr_str first_rcpt, int rcpts, int64_t size, int code);
/* sink_report.c: the counts at the end, as text or JSON on standard output, and the progress line. */
void tr_sink_report(struct tr_sink *sink);
void tr_sink_detail(struct tr_sink *sink, char *out, size_t size);

#endif
