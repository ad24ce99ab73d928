/* Shared by runtime/net/dns*.c only: c-ares on a worker's loop, one channel a resolver. */
#ifndef TR_NET_DNS_CHANNEL_H
#define TR_NET_DNS_CHANNEL_H

#include "base/loop.h"
#include "net/resolver.h"

struct tr_dns_channel; /* one thread */

/* Takes a reference of the resolver (SYSTEM or SERVERS). TR_OK, TR_ENOMEM, TR_EIO (logged). */
int tr_dns_channel_new(struct tr_loop *loop, struct tr_resolver *resolver, struct tr_dns_channel **out);
/* Ends all questions with TR_DNS_FAILED, TR_ECANCELED. */
void tr_dns_channel_free(struct tr_dns_channel *channel);

/* then(arg, answer), perhaps inside the call; takes the answer's reference over; NULL: no memory. `name` is normal.
 * search: the suffixes of short names are tried. */
void tr_dns_channel_ask(struct tr_dns_channel *channel, const char *name, enum tr_dns_type type, bool search,
	void (*then)(void *arg, struct tr_dns_answer *answer), void *arg);
/* What the hosts file says about a name: addresses, TR_DNS_NODATA if it has only the other family; *out is NULL if it
 * says nothing. TR_OK, TR_ENOMEM: it may say something. */
int tr_dns_channel_hosts(
	struct tr_dns_channel *channel, const char *name, enum tr_dns_type type, struct tr_dns_answer **out);

#endif
