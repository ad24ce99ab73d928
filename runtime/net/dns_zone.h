/* Zones of the test resolver: master files (RFC 1035 section 5) as text, asked in memory. Filled by one thread, then
 * immutable and read by any. */
#ifndef TR_NET_DNS_ZONE_H
#define TR_NET_DNS_ZONE_H

#include "net/dns_answer.h"

struct tr_zones;

int tr_zones_new(struct tr_zones **out); /* TR_OK or TR_ENOMEM */
void tr_zones_free(struct tr_zones *zones);
/* Adds the records of a master file: A AAAA CNAME MX NS PTR SOA TXT, $ORIGIN, $TTL, "@", "*", parentheses. `secure`: as
 * if DNSSEC had been checked. TR_EINVAL with what is wrong and where in `error`; TR_ENOMEM. */
int tr_zones_add(struct tr_zones *zones, struct tr_str text, bool secure, char error[256]);
/* Questions about that name, and what is below it, fail. TR_OK, TR_EINVAL (no name), TR_ENOMEM. */
int tr_zones_add_servfail(struct tr_zones *zones, struct tr_str name);
/* `name` as of tr_dns_name_normal(). CNAMEs are followed. NULL: no memory. */
struct tr_dns_answer *tr_zones_ask(const struct tr_zones *zones, const char *name, enum tr_dns_type type);

#endif
