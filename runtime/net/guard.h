/* Which addresses an outgoing connection may go to: so that a URL which others have a say in (a customer's webhook)
 * does not lead to machines of our own network. It is asked about the address that is about to be connected to, never
 * about a name: what a name resolves to can change between two look-ups. Arithmetic on immutable values; any thread. */
#ifndef TR_NET_GUARD_H
#define TR_NET_GUARD_H

#include "net/address.h"

struct tr_guard {
	bool deny_private;           /* false: every address is allowed */
	const struct tr_cidr *allow; /* allowed all the same; borrowed */
	uint32_t allow_count;
};

/* Can the public Internet reach it? False for what IANA's registries of special-purpose addresses (RFC 6890) call not
 * globally reachable: loopback, private, shared (CGNAT), link-local, unique local, documentation ... ; for multicast;
 * for what is no IP address; and for an IPv6 address that stands for such an IPv4 address (mapped, NAT64, 6to4). */
bool tr_address_is_public(const struct tr_sockaddr *addr);

static inline bool
tr_guard_allows(const struct tr_guard *guard, const struct tr_sockaddr *addr)
{
	if (!guard->deny_private)
		return true;
	for (uint32_t i = 0; i < guard->allow_count; i++) {
		if (tr_cidr_contains(&guard->allow[i], addr))
			return true;
	}
	return tr_address_is_public(addr);
}

#endif
