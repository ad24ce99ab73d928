/* What happened to a message: the input of a log record. All strings are borrowed for the call that takes it. */
#ifndef TR_QUEUE_EVENT_H
#define TR_QUEUE_EVENT_H

#include "message/message.h"

enum tr_event_type {
	TR_EV_RECEPTION,
	TR_EV_DELIVERY,
	TR_EV_BOUNCE,
	TR_EV_TRANSIENT_FAILURE,
	TR_EV_EXPIRATION,
	TR_EV_ADMIN_BOUNCE,
	TR_EV_OOB,
	TR_EV_FEEDBACK,
	TR_EV_REJECTION,
	TR_EV_ADMIN_REBIND,
	TR_EV_DEFERRED_INJECTION_REBIND,
	TR_EV_DELAYED,
	TR_EV_XFER_OUT,
	TR_EV_XFER_IN,
	TR_EVENT_TYPES,
};
const char *tr_event_type_name(enum tr_event_type type); /* "TransientFailure" */
int tr_event_type_from_name(struct tr_str name);         /* -1: unknown */

struct tr_response {
	int code;
	int enhanced[3];       /* enhanced[0] == 0: none */
	struct tr_str content; /* may hold line ends: the record has blanks there */
	struct tr_str command; /* .data NULL: null */
};
/* Splits "5.1.1 text" off a peer's reply text; only class 2, 4, 5 and a following blank. */
void tr_response_split_enhanced(struct tr_response *response);
/* `550 5.1.1 text`: the one-line form for requeue_message and classifiers. */
void tr_response_line(const struct tr_response *response, struct tr_buf *out);

struct tr_event {
	enum tr_event_type type;
	int64_t when_ns;                    /* wall; 0: now */
	const struct tr_message *message;   /* NULL: Rejection without a message */
	const struct tr_addr *sender;       /* NULL: the message's */
	const struct tr_addr *const *rcpts; /* the recipients concerned; NULL: all of the message's */
	uint32_t rcpt_count;
	struct tr_str queue; /* .data NULL: the message's queue */
	struct tr_str site;
	struct tr_response response;
	bool has_peer;
	struct tr_str peer_name, peer_addr;
	struct tr_str egress_pool, egress_source, source_address; /* .data NULL: null */
	struct tr_str proxy_server, proxy_protocol;               /* of source_address; .data NULL: absent */
	struct tr_str delivery_protocol;                          /* .data NULL: null */
	struct tr_str provider;                                   /* .data NULL: absent */
	struct tr_str tls_cipher, tls_protocol;                   /* .data NULL: absent */
	struct tr_str session_id;                                 /* hyphenated UUID; .data NULL: absent */
	const struct tr_meta *meta; /* NULL: the message's (Rejection: the connection's) */
	int num_attempts;           /* -1: the message's */
};

#endif
