/* Name look-ups by c-ares on a worker's loop. Addresses only for now: MX look-ups, caches and the test resolver have
 * their place here. One thread per object. */
#ifndef TR_DNS_H
#define TR_DNS_H

#include "base/loop.h"
#include "net/address.h"

struct tr_dns;
int tr_dns_new(struct tr_loop *loop, struct tr_dns **out);
void tr_dns_free(struct tr_dns *dns);
struct tr_dns_query;
/* A and AAAA records of a name (and /etc/hosts): then(arg, err, addrs, count); err TR_ENOENT: no such name;
 * TR_ETIMEDOUT, TR_EPROTO otherwise. Addresses (port 0) are borrowed. A literal address answers at once. NULL: no
 * memory. */
struct tr_dns_query *tr_dns_addr(struct tr_dns *dns, const char *name, int64_t timeout_ns,
	void (*then)(void *arg, int err, const struct tr_sockaddr *addrs, size_t count), void *arg);
void tr_dns_cancel(struct tr_dns_query *query); /* then() is not called */

#endif
