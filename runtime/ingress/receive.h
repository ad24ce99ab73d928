/* Taking messages in: what every listener does once it has complete messages. All queues are resolved, then all
 * messages and their Reception records are stored in ONE change, then the messages go into their queues. The client is
 * answered after that. No Lua. Own worker's thread only.
 *
 * A message for the queue "null" is counted (accepted and dropped), has its Reception record, and is not stored. */
#ifndef TR_RECEIVE_H
#define TR_RECEIVE_H

#include "queue/queue.h"

enum tr_receive_flag {
	TR_RECEIVE_ALL_OR_NONE =
		1 << 0, /* a queue that cannot be resolved refuses everything (SMTP: 421); else such a message
			   is logged as Reception and Bounce 500, and the others go on (HTTP) */
	TR_RECEIVE_SILENT = 1 << 1,      /* no Reception records (kumo.inject_message) */
	TR_RECEIVE_NULL_SILENT = 1 << 2, /* none for the queue "null" (HTTP) */
};

struct tr_receive_item {
	struct tr_message *message; /* the caller's until tr_receive_start(), which takes it; NULL afterwards */
	bool log_only;              /* a Reception record, and nothing is queued (SMTP: not relayable, a report) */
	/* results, in then() */
	char id[33]; /* of the message */
	bool queued;
	bool refused; /* its queue cannot be had; `error` says why */
	bool dropped; /* queue "null", or log_only */
	char *error;  /* malloc'ed, freed with the receive; NULL: queued or dropped */
	/* ours */
	struct tr_receive *receive;
	char *queue;
};

struct tr_receive {
	struct tr_worker *worker;
	unsigned flags; /* enum tr_receive_flag */
	/* Of the Reception records; strings are borrowed until then(). All optional. */
	bool has_peer;
	struct tr_str peer_name, peer_addr, tls_cipher, tls_protocol, session_id;
	void *owner;
	uint32_t count;
	/* ours */
	void (*then)(struct tr_receive *receive, int status);
	struct tr_outbox outbox;
	uint32_t pending;
	struct tr_receive_item items[];
};

/* Zeroed, for `count` >= 1 messages; fill in items[].message and what else is known. NULL: no memory. */
struct tr_receive *tr_receive_new(struct tr_worker *worker, uint32_t count);
/* Frees one that was not started, with its messages. NULL is fine. */
void tr_receive_free(struct tr_receive *receive);
/* Takes it and its messages; Lua handles of them become stale. `then` is called once, maybe from here, and *receive is
 * freed when it returns. status:
 *   TR_OK      committed (items tell about each message); also when none of them could be queued
 *   TR_EINVAL  nothing stored: a queue cannot be resolved and TR_RECEIVE_ALL_OR_NONE is set (items[].error)
 *   TR_ENOSPC, TR_EIO, TR_EMFILE, TR_ENOMEM, TR_ETOOBIG   nothing stored: refuse for now */
void tr_receive_start(struct tr_receive *receive, void (*then)(struct tr_receive *receive, int status));
/* Nobody waits any more: what is under way goes on, then() is not called. Not from then(). */
void tr_receive_forget(struct tr_receive *receive);

/* Why nothing may come in now: "shutting down", "waiting for spool startup", "storage is too full ..."; NULL: it may.
 */
const char *tr_receive_closed(struct tr_engine *engine);

#endif
