/* The names of a scripted network, and their addresses; also what a master file says of others. Part of scripted.c. */
#ifndef TR_NET_SCRIPTED_NAMES_H
#define TR_NET_SCRIPTED_NAMES_H

#include "net/address.h"
#include "net/dns_zone.h"

struct tr_scripted_names { /* zeros: none */
	struct tr_scripted_named *first;
	struct tr_zones *zones; /* NULL: none */
	uint32_t own;           /* addresses given out */
};
void tr_scripted_names_fini(struct tr_scripted_names *names);
/* As tr_scripted_name() and tr_scripted_zone(). */
int tr_scripted_names_add(
	struct tr_scripted_names *names, const char *name, const struct tr_sockaddr *addr, struct tr_sockaddr *out);
int tr_scripted_names_zone(struct tr_scripted_names *names, struct tr_str text, char error[256]);
/* False: the name is not known here. *out is NULL if there is no memory for the answer. */
bool tr_scripted_names_ask(
	const struct tr_scripted_names *names, const char *name, enum tr_dns_type type, struct tr_dns_answer **out);

/* One of the addresses that stand for what has none: 198.18.0.0/16 and `host`. */
void tr_scripted_own_addr(uint32_t host, uint16_t port, struct tr_sockaddr *out);
bool tr_scripted_same(const struct tr_sockaddr *a, const struct tr_sockaddr *b); /* address and port */

#endif
