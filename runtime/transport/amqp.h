/* Publishing over AMQP 0-9-1 by rabbitmq-c. No Lua. Own thread only, but for what amqp_connection.c does in threads of
 * its own: rabbitmq-c blocks. See docs/transports.md.
 *
 * Connections are pooled by their settings, a worker for itself. Each runs in a thread, has one channel in confirm mode
 * and takes what waits for it as one window: it publishes all of it, then waits for the confirms, so that many callers
 * share one round trip. A message is published when the broker has confirmed it, and not when it was handed over. */
#ifndef TR_AMQP_H
#define TR_AMQP_H

#include <amqp.h>

#include "base/loop.h"
#include "message/message.h"

struct tr_amqp; /* one a worker */
struct tr_amqp_pool;

int tr_amqp_new(struct tr_loop *loop, struct tr_amqp **out); /* TR_OK, TR_ENOMEM, TR_EIO */
/* Gives up what is under way without calling done(), closes the connections and waits at most 5 s for their threads.
 * NULL is fine. */
void tr_amqp_free(struct tr_amqp *amqp);

#define TR_AMQP_HOSTS_MAX 16
struct tr_amqp_host {
	struct tr_str name; /* also the TLS server name */
	uint16_t port;
};
/* All texts are copied; .data NULL: not given. */
struct tr_amqp_settings {
	struct tr_amqp_host hosts[TR_AMQP_HOSTS_MAX]; /* tried in order, from the one that worked last */
	uint32_t host_count;
	struct tr_str username, password, vhost, connection_name;
	uint16_t heartbeat_s; /* 0: off */
	bool tls;
	struct tr_str ca_file; /* not given: the system's */
	struct tr_str cert_file, key_file;
	uint32_t pool_size;         /* connections, >= 1 */
	int64_t connect_timeout_ns; /* a host's TCP, TLS and login; > 0, as the others */
	int64_t wait_timeout_ns;    /* for a free connection; this and the next are no part of a pool */
	int64_t publish_timeout_ns; /* from the first byte to the last confirm of a window */
	int64_t idle_timeout_ns;    /* an unused connection is closed */
};
/* The pool of these settings, made when it is new. It lives while it has calls or connections; without, until the next
 * new pool. TR_OK, TR_ENOMEM. */
int tr_amqp_pool(struct tr_amqp *amqp, const struct tr_amqp_settings *settings, struct tr_amqp_pool **out);

/* --- publishing --------------------------------------------------------------------------------------------- */

enum tr_amqp_status {
	TR_AMQP_ACKED,
	TR_AMQP_NACKED,   /* the broker could not take care of it */
	TR_AMQP_RETURNED, /* mandatory and unroutable: reply_code and text say why; it was confirmed as well */
	TR_AMQP_FAILED,   /* connection, channel, time-out: err and text; it may have arrived all the same */
};
struct tr_amqp_result {
	enum tr_amqp_status status;
	int err;             /* FAILED: TR_EREFUSED, TR_ETIMEDOUT, TR_EIO, TR_EPROTO (said by the broker) ... */
	uint16_t reply_code; /* of AMQP (312, 404 ...); 0: none */
	bool permanent;      /* the broker refused this very message, and would again: too large */
	struct tr_str text;  /* borrowed from the call */
};
struct tr_amqp_call {
	void (*done)(struct tr_amqp_call *call); /* once, from the loop, when each message has its result */
	void *owner;
	uint32_t count;
	int64_t wait_timeout_ns, publish_timeout_ns; /* > 0; preset: the pool's first settings */
	/* A broker that says that it takes no messages for now (RabbitMQ that is low on disk or memory) is waited for
	 * as long as its heartbeats come: none of these times runs meanwhile. What it has not read yet it may still
	 * take after its connection is cut, so that to try again would double it. */
	bool patient;
	/* Patient: from the loop; what the broker says, NULL: it takes messages again. May be NULL. */
	void (*held_up)(struct tr_amqp_call *call, const char *text);
};
struct tr_amqp_message {
	struct tr_str exchange, routing_key; /* at most 255 bytes each */
	bool mandatory, immediate;
	bool probe; /* nothing is published: acked once there is a connection; the only message of its call */
	struct tr_str payload;
	const struct tr_bytes *bytes; /* not NULL: the payload, shared instead of copied */
	/* Texts and tables in it are from tr_amqp_call_text() and tr_amqp_call_pool(). */
	amqp_basic_properties_t properties;
};
/* Room for `count` messages (> 0). NULL: no memory. The caller adds each, then starts it or frees it. */
struct tr_amqp_call *tr_amqp_call_new(struct tr_amqp_pool *pool, uint32_t count);
amqp_pool_t *tr_amqp_call_pool(struct tr_amqp_call *call);
/* A copy that lives as long as the call; .bytes NULL: no memory. */
amqp_bytes_t tr_amqp_call_text(struct tr_amqp_call *call, struct tr_str text);
int tr_amqp_call_add(struct tr_amqp_call *call, const struct tr_amqp_message *message); /* TR_OK, TR_ENOMEM */
void tr_amqp_call_start(struct tr_amqp_call *call);
void tr_amqp_call_result(const struct tr_amqp_call *call, uint32_t index, struct tr_amqp_result *out);
void tr_amqp_call_free(struct tr_amqp_call *call);   /* after done(), or instead of start */
void tr_amqp_call_cancel(struct tr_amqp_call *call); /* instead of done(): nobody waits any more. Frees it */

#endif
