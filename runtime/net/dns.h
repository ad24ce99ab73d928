/* Name look-ups of one worker: by c-ares on its loop, from /etc/hosts, or from the zones of a test resolver; answers
 * are cached by the resolver that gave them (net/resolver.h), and equal questions that are under way are one. Each
 * query has its deadline in the worker's wheel. One thread per object.
 *
 * A query's callback runs from the loop, never inside the call that started it, once, and not after tr_dns_cancel(). */
#ifndef TR_DNS_H
#define TR_DNS_H

#include "base/loop.h"
#include "net/address.h"
#include "net/resolver.h"

struct tr_dns;
struct tr_dns_query;

int tr_dns_new(struct tr_loop *loop, struct tr_dns **out); /* with resolvers of its own; TR_OK, TR_ENOMEM, TR_EIO */
/* With the resolvers of a runtime, which many workers share; takes a reference of its own. */
int tr_dns_new_shared(struct tr_loop *loop, struct tr_resolvers *resolvers, struct tr_dns **out);
void tr_dns_free(struct tr_dns *dns); /* queries under way are forgotten; NULL is fine */
struct tr_loop *tr_dns_loop(const struct tr_dns *dns);
struct tr_resolvers *tr_dns_resolvers(const struct tr_dns *dns);

/* Records of one type. resolver NULL: that of the runtime. The answer is borrowed; a time-out is a TR_DNS_FAILED with
 * TR_ETIMEDOUT. `name` need not be normal. NULL: no memory. */
struct tr_dns_query *tr_dns_ask(struct tr_dns *dns, struct tr_resolver *resolver, const char *name,
	enum tr_dns_type type, int64_t timeout_ns, void (*then)(void *arg, struct tr_dns_answer *answer), void *arg);

struct tr_dns_found {
	enum tr_dns_status status;
	int err;         /* TR_OK; TR_ENOENT: no such name or no address; TR_ETIMEDOUT, TR_EPROTO ... */
	const char *why; /* literal; NULL when status is TR_DNS_OK */
	bool secure;
	const struct tr_sockaddr *addrs; /* port 0; in the order of the strategy */
	size_t count;
};
/* Addresses of a name, from /etc/hosts too; a literal address ("::1", "[192.0.2.1]", "[IPv6:::1]") answers for itself.
 * strategy NULL: the resolver's. What is found is borrowed. NULL: no memory. */
struct tr_dns_query *tr_dns_addrs(struct tr_dns *dns, struct tr_resolver *resolver, const char *name,
	const enum tr_ip_strategy *strategy, int64_t timeout_ns,
	void (*then)(void *arg, const struct tr_dns_found *found), void *arg);
/* The same with what most callers need: err as in tr_dns_found. */
struct tr_dns_query *tr_dns_addr(struct tr_dns *dns, const char *name, int64_t timeout_ns,
	void (*then)(void *arg, int err, const struct tr_sockaddr *addrs, size_t count), void *arg);

void tr_dns_cancel(struct tr_dns_query *query); /* NULL is fine */

/* For net/mx.c: the MX look-ups of this worker that are under way, and those that wait for a place. */
struct tr_mx_line {
	struct tr_mx_query *all;
	struct tr_mx_query *first, **end; /* end: nothing while first is NULL */
	uint32_t running;
};
struct tr_mx_line *tr_dns_mx_line(struct tr_dns *dns);

#endif
