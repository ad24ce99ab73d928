/* Publishing to NATS, with and without JetStream. A client of our own: plain TCP or TLS, user and password, token, JWT
 * with its key; servers of a cluster. No Lua, one loop, own thread only. See docs/transports.md.
 *
 * Connections are shared by their settings, a worker for itself. A message is published when the stream has
 * acknowledged it, and not when it was written. Acknowledgements come to an inbox of the connection. */
#ifndef TR_NATS_H
#define TR_NATS_H

#include "base/loop.h"
#include "message/message.h"

struct tr_dns;
struct tr_nats;            /* one a worker */
struct tr_nats_connection; /* counted */

/* dns is borrowed; NULL: one of its own. TR_OK, TR_ENOMEM. */
int tr_nats_new(struct tr_loop *loop, struct tr_dns *dns, struct tr_nats **out);
/* Gives up what is under way without calling done(), and closes the connections. NULL is fine. Counters and gauges of
 * the process are in the metrics: nats_messages, nats_in_flight, nats_connections. */
void tr_nats_free(struct tr_nats *nats);

#define TR_NATS_SERVERS_MAX 32
/* All texts are copied; .data NULL: not given. */
struct tr_nats_settings {
	struct tr_str servers[TR_NATS_SERVERS_MAX]; /* nats://host:port */
	uint32_t server_count;
	struct tr_str username, password, token;
	struct tr_str credentials; /* a file with a user's JWT and seed */
	struct tr_str name, inbox_prefix;
	bool tls;
	struct tr_str ca_file; /* not given: the system's */
	struct tr_str cert_file, key_file;
	bool no_echo, ignore_discovered, retain_order;
	bool retry_connect;      /* a first connect that fails is tried again, instead of failing what waits for it */
	uint32_t max_reconnects; /* in a row, then the connection is dead; 0: no limit */
	uint32_t pending_max;    /* messages without their acknowledgement, >= 1; more wait here */
	int64_t connect_timeout_ns; /* of a server; > 0, as the others */
	int64_t ping_interval_ns;
	int64_t request_timeout_ns; /* of a call, from its start to its last acknowledgement */
};
/* The connection of these settings; a new one connects with its first call. TR_OK, TR_ENOMEM. */
int tr_nats_open(struct tr_nats *nats, const struct tr_nats_settings *settings, struct tr_nats_connection **out);
/* Without references it is kept for a minute for the next who asks. NULL is fine. */
void tr_nats_unref(struct tr_nats_connection *connection);

/* --- publishing --------------------------------------------------------------------------------------------- */

struct tr_nats_result {
	int err; /* TR_OK: acknowledged, or written where no acknowledgement is awaited. TR_ECLOSED, TR_ETIMEDOUT:
		  * it may have arrived all the same. TR_EREFUSED: no server. TR_ENOENT: no stream takes the subject.
		  * TR_ETOOBIG. TR_EPROTO: the server or the stream said no */
	bool permanent;     /* this very message is refused, and would be again */
	uint32_t code;      /* JetStream's err_code; 0: none */
	struct tr_str text; /* of an error; as the others borrowed from the call */
	struct tr_str stream, domain, value;
	uint64_t sequence;
	bool duplicate;
};
struct tr_nats_call {
	void (*done)(struct tr_nats_call *call); /* once, from the loop, when each message has its result */
	void *owner;
	uint32_t count;
	bool brief; /* of those that are acknowledged only that is told: no stream, no sequence */
};
struct tr_nats_message {
	struct tr_str subject; /* valid, see tr_nats_check_subject() */
	struct tr_str payload;
	const struct tr_bytes *bytes; /* not NULL: the payload, shared instead of copied */
	const struct tr_str *headers; /* name, value ...; valid, see tr_nats_check_header() */
	uint32_t header_count;        /* pairs */
	bool await_ack;
};
/* Room for `count` messages (> 0); the caller adds each, then starts it or frees it. A call to which nothing was added
 * is a probe: it is done when there is a connection. NULL: no memory. */
struct tr_nats_call *tr_nats_call_new(struct tr_nats_connection *connection, uint32_t count);
/* Copies what it is given but `bytes`. TR_OK, TR_ENOMEM. */
int tr_nats_call_add(struct tr_nats_call *call, const struct tr_nats_message *message);
void tr_nats_call_start(struct tr_nats_call *call); /* done() never comes from inside here */
void tr_nats_call_result(const struct tr_nats_call *call, uint32_t index, struct tr_nats_result *out);
void tr_nats_call_free(struct tr_nats_call *call);   /* after done(), or instead of start */
void tr_nats_call_cancel(struct tr_nats_call *call); /* instead of done(): nobody waits any more. Frees it */

/* --- texts (nats_ack.c) ------------------------------------------------------------------------------------- */

/* NULL: fine; else what is wrong with it. */
const char *tr_nats_check_subject(struct tr_str subject);
const char *tr_nats_check_header(struct tr_str name, struct tr_str value);

/* What a stream answers: {"stream":"S","seq":1,...} or {"error":{"err_code":...}}. Texts of *out lie in *memory, which
 * the caller frees with tr_buf_free(); it is empty before. What makes no sense is an error of TR_EPROTO in *out. */
void tr_nats_parse_ack(struct tr_str body, struct tr_nats_result *out, struct tr_buf *memory);

#endif
