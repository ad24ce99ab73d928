/* A bounded cache of answers by name and kind, shared by all threads: stripes with a lock each, the least recently used
 * goes first. */
#ifndef TR_NET_DNS_CACHE_H
#define TR_NET_DNS_CACHE_H

#include "net/dns_answer.h"

struct tr_dns_cache;

int tr_dns_cache_new(uint32_t most, struct tr_dns_cache **out); /* most: items, 0: keeps none; TR_OK or TR_ENOMEM */
void tr_dns_cache_free(struct tr_dns_cache *cache);             /* NULL is fine */
/* Referenced for the caller; NULL: not there, or it has expired. */
void *tr_dns_cache_get(struct tr_dns_cache *cache, uint32_t kind, const char *name, int64_t now_ns);
/* Takes a reference of its own; replaces what was there. Without memory it keeps nothing. */
void tr_dns_cache_put(struct tr_dns_cache *cache, uint32_t kind, const char *name, struct tr_dns_item *item);
uint32_t tr_dns_cache_count(struct tr_dns_cache *cache);

#endif
