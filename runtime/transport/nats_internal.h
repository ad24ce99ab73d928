/* Shared by nats.c and nats_call.c (calls, connections), nats_link.c (connecting), nats_read.c and
 * nats_wire.c (the protocol), nats_login.c (who we are). All on one loop. Sources: the NATS client protocol, ADR-4
 * (headers), ADR-40 (what a client does), the nkeys encoding. */
#ifndef TR_NATS_INTERNAL_H
#define TR_NATS_INTERNAL_H

#include "base/metrics.h"
#include "net/dns.h"
#include "net/stream.h"
#include "net/tls_client.h"
#include "transport/nats.h"

#define TR_NATS_NO_ENTRY UINT32_MAX
#define TR_NATS_PORT 4222
#define TR_NATS_VERSION "1.0.0" /* of this client; servers show it */

struct tr_nats_slot {                     /* one message of a call */
	size_t at;                        /* in the call's text: the subject, then the headers as on the wire */
	uint32_t subject_len, header_len; /* header_len 0: no headers */
	struct tr_bytes payload;
	bool await_ack;
	bool told;
	uint32_t entry; /* of the connection's table while its acknowledgement is awaited */
	struct tr_nats_result result;
	struct tr_buf memory; /* texts of the result */
};

enum tr_nats_stage { TR_NATS_BUILDING, TR_NATS_LINE, TR_NATS_SENT, TR_NATS_DONE };
struct tr_nats_batch {           /* a call with its messages */
	struct tr_nats_call pub; /* first */
	struct tr_nats_connection *connection;
	struct tr_nats_batch *next, **prev; /* all that were started */
	struct tr_timer timer;
	int64_t limit_ns; /* of the timer */
	uint32_t added;
	struct tr_buf text;
	enum tr_nats_stage stage;
	struct tr_nats_batch *line_next; /* in line, or done */
	uint32_t sent;                   /* the first so many were written, or told before */
	uint32_t pending;                /* not told */
	bool cancelled;                  /* freed when it is done */
	struct tr_nats_slot slots[];
};

/* What the subject of an acknowledgement names. */
struct tr_nats_entry {
	struct tr_nats_batch *batch; /* NULL: free */
	uint32_t index;
	uint32_t generation; /* a late acknowledgement is for nobody */
	uint32_t next_free;
};

struct tr_nats_server { /* texts in one block behind it */
	struct tr_nats_server *next;
	const char *host, *user, *password; /* of the URL; user without password: a token; NULL: none */
	const char *shown;                  /* nats://host:port */
	const char *tls_name;               /* what its certificate must be for; NULL: host */
	uint16_t port;
	bool found; /* told by a server, not by the settings; login and tls_name are those of a server of the settings
		     */
	bool told;  /* of a found one: in the list that is being read */
};

enum tr_nats_state {
	TR_NATS_DOWN,      /* connects when it is asked for */
	TR_NATS_RESOLVING, /* timer: all of it, up to the server's PONG */
	TR_NATS_CONNECTING,
	TR_NATS_INFO, /* the server's first line */
	TR_NATS_SECURING,
	TR_NATS_GREETING, /* PONG, or why not */
	TR_NATS_UP,       /* timer: the next PING */
	TR_NATS_PAUSING,  /* timer: the next round */
	TR_NATS_DEAD,     /* max_reconnects have failed: nothing is sent any more */
};

struct tr_nats_connection {
	struct tr_nats *nats;
	struct tr_nats_connection *next, **prev;
	uint32_t refs; /* of clients and calls */
	struct tr_timer idle;
	char *id; /* the settings, canonical */
	struct tr_nats_settings settings;
	char *texts;
	/* calls */
	struct tr_nats_batch *line, **line_end;
	struct tr_nats_entry *entries;
	uint32_t free_entry, in_flight;
	/* connecting */
	enum tr_nats_state state;
	struct tr_nats_server *servers, *server; /* server: that which is tried, or is used */
	struct tr_sockaddr addrs[8];
	size_t addr_count, addr_at;
	struct tr_dns_query *query;
	struct tr_connect *connecting;
	struct tr_timer timer;
	bool was_connected;
	int64_t up_at_ns;
	uint32_t failures; /* rounds in a row */
	uint32_t pauses;   /* in a row, for the length of the next */
	int why_err;       /* of the last trouble */
	char why[300];
	char said[200]; /* the server's last -ERR */
	/* the wire */
	struct tr_stream *stream;
	struct tr_tls *tls; /* NULL: plain */
	struct tr_buf plain, out;
	char inbox[256]; /* what acknowledgements are sent to, without .ENTRY-GENERATION */
	size_t inbox_len;
	int64_t max_payload;
	uint32_t pings; /* not answered */
	struct tr_timer stall;
	uint64_t written, taken; /* bytes of this stream; taken: by the kernel, when stall looked */
};

struct tr_nats {
	struct tr_loop *loop;
	struct tr_dns *dns;
	bool own_dns;
	struct tr_nats_connection *connections;
	struct tr_nats_batch *calls;
	bool ending;
	int64_t write_ns; /* a server that takes no byte for so long is given up */
	struct tr_defer later;
	struct tr_nats_batch *done, **done_end;
	struct tr_metric *acked, *failed, *in_flight, *connects;
};

/* nats.c: tells owners what is done. */
void tr_nats_done(struct tr_defer *later);

/* --- nats_call.c -------------------------------------------------------------------------------------------------- */

/* The result of a slot that is not told; takes its memory. With the last one the batch is done. */
void tr_nats_tell(
	struct tr_nats_batch *batch, uint32_t index, const struct tr_nats_result *result, struct tr_buf *memory);
void tr_nats_tell_error(struct tr_nats_batch *batch, uint32_t index, int err, bool permanent, const char *fmt, ...)
	TR_PRINTF(5, 6);
/* All that were sent and are not acknowledged. subject.data not NULL: those of it only. */
void tr_nats_fail_sent(struct tr_nats_connection *connection, struct tr_str subject, int err, const char *text);
void tr_nats_fail_line(struct tr_nats_connection *connection, int err, const char *text);
/* Its messages are all sent, or told. */
void tr_nats_leave_line(struct tr_nats_batch *batch);
/* Its acknowledgement, if any, is not awaited any more. */
void tr_nats_release(struct tr_nats_connection *connection, struct tr_nats_slot *slot);
/* It is under way no longer. */
void tr_nats_batch_unlink(struct tr_nats_batch *batch);
void tr_nats_batch_free(struct tr_nats_batch *batch);

/* --- nats_link.c -------------------------------------------------------------------------------------------------- */

/* Reads the servers of the settings. TR_OK, TR_ENOMEM. */
int tr_nats_link_init(struct tr_nats_connection *connection);
void tr_nats_link_fini(struct tr_nats_connection *connection);
/* Connects if it is down and nothing is tried. */
void tr_nats_link_want(struct tr_nats_connection *connection);
/* Nobody refers to it: it is not connected again until somebody does. */
void tr_nats_link_forget(struct tr_nats_connection *connection);
/* This server will not do: the next one, or a pause. */
void tr_nats_link_failed(struct tr_nats_connection *connection, int err, const char *fmt, ...) TR_PRINTF(3, 4);
/* The connection is up. */
void tr_nats_link_up(struct tr_nats_connection *connection);
/* It was up and is not any more. */
void tr_nats_link_lost(struct tr_nats_connection *connection, int err, const char *fmt, ...) TR_PRINTF(3, 4);
/* A server of the cluster that was told, "host:port"; at the end of a list: those that it does not name any more go. */
void tr_nats_link_found(struct tr_nats_connection *connection, struct tr_str address);
void tr_nats_link_found_all(struct tr_nats_connection *connection);

/* --- nats_read.c -------------------------------------------------------------------------------------------------- */

/* Takes the stream, on which the server speaks first. */
void tr_nats_read_start(struct tr_nats_connection *connection, struct tr_stream *stream);
void tr_nats_read_end(struct tr_nats_connection *connection, int64_t linger_ns); /* no stream is fine */

/* --- nats_wire.c -------------------------------------------------------------------------------------------------- */

/* Writes what may be written of the line. */
void tr_nats_wire_pump(struct tr_nats_connection *connection);
/* Hands on what was put together in connection->out. It may find the connection lost. */
void tr_nats_wire_flush(struct tr_nats_connection *connection);
void tr_nats_wire_pong(struct tr_nats_connection *connection);
void tr_nats_wire_ping(struct tr_nats_connection *connection);
/* Virtual time does not stand still while nothing is under way. */
void tr_nats_wire_rest(struct tr_nats_connection *connection);

/* --- nats_login.c ------------------------------------------------------------------------------------------------- */

/* Adds the line CONNECT {...} for this server and what it said of itself. TR_OK, TR_ENOMEM, or TR_EINVAL with the
 * reason in why: the credentials file. */
int tr_nats_login(const struct tr_nats_settings *settings, const struct tr_nats_server *server, struct tr_str info,
	struct tr_buf *out, char why[256]);

/* --- nats_ack.c --------------------------------------------------------------------------------------------------- */

/* True of what a stream says when all is well and it has nothing else to tell, {"stream":"S","seq":1}; false: read it.
 */
bool tr_nats_plain_ack(struct tr_str body);

#endif
