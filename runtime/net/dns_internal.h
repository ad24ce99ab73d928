/* Shared by runtime/net/dns.c and dns_flight.c: queries, and the questions under way that they wait for. */
#ifndef TR_NET_DNS_INTERNAL_H
#define TR_NET_DNS_INTERNAL_H

#include "net/dns.h"
#include "net/dns_channel.h"

struct channel { /* of a resolver that was used here */
	struct channel *next;
	struct tr_resolver *resolver; /* referenced */
	struct tr_dns_channel *channel;
	uint32_t flights;
};

struct tr_dns {
	struct tr_loop *loop;
	struct tr_resolvers *resolvers;
	struct channel *channels;
	struct tr_dns_query *queries;
	struct flight *flights;
	struct tr_mx_line mx_line;
	bool freeing;
};

/* A place in a flight. */
struct wait {
	struct wait *next, **prev; /* prev NULL: none */
	struct tr_dns_query *query;
	int part;
};

/* A question under way, for all that asked it. It outlives them: c-ares cannot take back a single one. */
struct flight {
	struct flight *next, **prev;
	struct tr_dns *dns;
	struct tr_resolver *resolver; /* referenced */
	struct channel *channel;      /* that has the question; NULL: none */
	uint32_t child;               /* of an aggregate: who is asked */
	uint32_t aliases;
	uint32_t alias_ttl_s;
	char *alias; /* what is asked instead of the name; NULL: the name */
	enum tr_dns_type type;
	struct wait *waits;
	char name[];
};

enum query_kind { ASKS_RECORDS, ASKS_ADDRS, ASKS_LITERAL };

/* A query ends by its answer, its time-out or its cancel, and is freed then. */
struct tr_dns_query {
	struct tr_dns_query *next, **prev;
	struct tr_dns *dns;
	struct tr_resolver *resolver; /* referenced */
	struct tr_timer timeout;
	struct tr_defer later;
	enum query_kind kind;
	enum tr_ip_strategy strategy;
	struct tr_sockaddr literal;
	enum tr_dns_type types[2];
	struct wait waits[2];
	struct tr_dns_answer *answers[2];
	int parts, pending; /* begun, and not answered yet */
	void (*then_answer)(void *arg, struct tr_dns_answer *answer);
	void (*then_found)(void *arg, const struct tr_dns_found *found);
	void (*then_addrs)(void *arg, int err, const struct tr_sockaddr *addrs, size_t count);
	void *arg;
	bool is_name; /* `name` is one */
	char name[];  /* normal */
};

/* Joins the question for query->name under way, or begins it; memory short: answered with NULL. */
void flight_join(struct tr_dns_query *query, struct wait *wait, enum tr_dns_type type);
void wait_leave(struct wait *wait);
/* dns.c: the part that waited has its answer; takes the reference; NULL: no memory. */
void query_answered(struct wait *wait, struct tr_dns_answer *answer);

#endif
