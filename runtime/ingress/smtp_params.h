/* The settings of a listener or a session, and what policy says about a domain. Shared by reference count, immutable
 * once shared. No Lua. */
#ifndef TR_SMTP_PARAMS_H
#define TR_SMTP_PARAMS_H

#include <stdatomic.h>

#include "ingress/smtp_data.h"
#include "message/meta.h"
#include "net/address.h"

struct tr_cidr_list {
	struct tr_cidr *items; /* owned */
	uint32_t count;
};
int tr_cidr_list_add(struct tr_cidr_list *list, const struct tr_cidr *cidr); /* TR_OK, TR_ENOMEM */
bool tr_cidr_list_contains(const struct tr_cidr_list *list, const struct tr_sockaddr *addr);
void tr_cidr_list_fini(struct tr_cidr_list *list);

/* Which settings a table named: the others are not replaced when it is laid over another. */
enum tr_smtp_setting {
	TR_SMTP_HOSTNAME = 1 << 0,
	TR_SMTP_BANNER = 1 << 1,
	TR_SMTP_RELAY_HOSTS = 1 << 2,
	TR_SMTP_BATCH_HANDLING = 1 << 3,
	TR_SMTP_TRACE_HEADERS = 1 << 4,
	TR_SMTP_CLIENT_TIMEOUT = 1 << 5,
	TR_SMTP_PROCESSING_TIMEOUT = 1 << 6,
	TR_SMTP_MAX_MESSAGES = 1 << 7,
	TR_SMTP_MAX_RECIPIENTS = 1 << 8,
	TR_SMTP_MAX_SIZE = 1 << 9,
	TR_SMTP_BUFFER_SIZE = 1 << 10,
	TR_SMTP_LINE_ENDS = 1 << 11,
	TR_SMTP_LINE_LIMIT = 1 << 12,
};

/* `peer` and `via`: settings for some clients, or for some of our own addresses. */
struct tr_smtp_block {
	struct tr_cidr cidr;
	bool via;                      /* cidr is of our address, else of the peer's */
	struct tr_smtp_params *params; /* owned; only what is in params->set counts, and meta, and blocks inside */
	struct tr_smtp_block *next;
};

struct tr_smtp_params {
	_Atomic uint32_t refs;
	uint32_t set;                 /* enum tr_smtp_setting; of a block */
	struct tr_smtp_block *blocks; /* owned; not copied by tr_smtp_params_copy() */
	char *hostname, *banner;
	struct tr_cidr_list relay_hosts;
	bool by_domain; /* batch_handling = BatchByDomain */
	bool received_header, supplemental_header;
	char *header_name;                                     /* of the supplemental header */
	char **include_meta;                                   /* NULL-terminated; NULL: none */
	int64_t client_timeout_ns, data_processing_timeout_ns; /* > 0 */
	uint64_t max_messages_per_connection;                  /* accepted recipients of a connection */
	uint64_t max_recipients_per_message;
	uint64_t max_message_size; /* bytes */
	size_t data_buffer_size;   /* bytes read at a time during DATA */
	enum tr_smtp_line_ends line_ends;
	size_t line_limit;   /* CRLF excluded */
	struct tr_meta meta; /* merged into the connection's */
};
struct tr_smtp_params *tr_smtp_params_new(void); /* the defaults of contract/smtp.md 1.1; NULL: no memory */
struct tr_smtp_params *tr_smtp_params_copy(const struct tr_smtp_params *from); /* NULL: no memory */
struct tr_smtp_params *tr_smtp_params_ref(struct tr_smtp_params *params);
void tr_smtp_params_unref(struct tr_smtp_params *params); /* NULL is fine */
/* What holds for a connection: `from`, then the `peer` block with the longest prefix that holds the peer, then the
 * `via` block of our address, and the blocks inside of these. A reference to `from` itself if it has no blocks. NULL:
 * no memory. */
struct tr_smtp_params *tr_smtp_params_for(
	struct tr_smtp_params *from, const struct tr_sockaddr *peer, const struct tr_sockaddr *local);

/* What get_listener_domain said; {0}: nothing. */
struct tr_smtp_domain {
	bool relay_to;
	struct tr_cidr_list relay_from;
};

#endif
