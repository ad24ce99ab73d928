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

struct tr_smtp_params {
	_Atomic uint32_t refs;
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

/* What get_listener_domain said; {0}: nothing. */
struct tr_smtp_domain {
	bool relay_to;
	struct tr_cidr_list relay_from;
};

#endif
