/* The mail exchangers of a domain: their order, and the name of the site that they make. Source: RFC 5321 section 5.1,
 * RFC 7505 (null MX), contract smtp.md section 3.1. */
#ifndef TR_NET_MX_H
#define TR_NET_MX_H

#include "net/dns.h"

struct tr_mx_host {
	uint16_t preference;
	char *name; /* lower case, without the dot at the end; "" for a null MX */
};

/* Immutable, shared by reference (tr_mx_unref); any thread. */
struct tr_mx {
	struct tr_dns_item item;   /* first; item.expires_ns: until when it holds */
	enum tr_dns_status status; /* TR_DNS_OK, TR_DNS_NXDOMAIN, TR_DNS_FAILED */
	int err;                   /* of what is not OK */
	const char *why;           /* the same, a literal: "NXDOMAIN" */
	bool is_mx;                /* it has MX records; else the domain is its own host */
	bool is_literal;           /* "[192.0.2.1]": hosts is the bare address */
	bool is_null;              /* takes no mail */
	bool secure;
	char *domain;             /* as it was asked for, normal */
	char *site;               /* "(a|b).mx.test"; of a literal its address */
	struct tr_mx_host *hosts; /* by preference, then by name; each once */
	uint32_t count;
};
static inline struct tr_mx *
tr_mx_ref(struct tr_mx *mx)
{
	return mx != NULL ? tr_dns_item_ref(&mx->item) : NULL;
}
static inline void
tr_mx_unref(struct tr_mx *mx)
{
	if (mx != NULL)
		tr_dns_item_unref(&mx->item);
}

struct tr_mx_query;
/* Looks them up or finds them in the cache: then(arg, mx), from the loop, once; mx is borrowed, NULL: no memory.
 * resolver NULL: that of the runtime. At most mx_limit of the runtime's are under way, each for at most mx_timeout_ns;
 * the rest waits in order. NULL: no memory. */
struct tr_mx_query *tr_mx_find(struct tr_dns *dns, struct tr_resolver *resolver, const char *domain,
	void (*then)(void *arg, struct tr_mx *mx), void *arg);
void tr_mx_cancel(struct tr_mx_query *query); /* NULL is fine */

/* The site of hosts in their order: labels from the right, equal ones once, others as (a|b), with `?` where a host has
 * none. The caller frees it; NULL: no memory. */
char *tr_mx_site(const struct tr_mx_host *hosts, uint32_t count);

#endif
