/* Which name servers are asked and how: resolvers, shared by all workers. A resolver is immutable and has its own
 * cache, so a new configuration starts with an empty one. Any thread. */
#ifndef TR_NET_RESOLVER_H
#define TR_NET_RESOLVER_H

#include "base/metrics.h"
#include "net/dns_cache.h"
#include "net/dns_zone.h"

enum tr_resolver_kind {
	TR_RESOLVER_SYSTEM,    /* /etc/resolv.conf and /etc/hosts */
	TR_RESOLVER_SERVERS,   /* those of `servers` */
	TR_RESOLVER_TEST,      /* zones in memory: no descriptor, no waiting */
	TR_RESOLVER_AGGREGATE, /* others, one after the other until one has an answer */
};
enum tr_ip_strategy { TR_IP_V4_AND_V6, TR_IP_V4_ONLY, TR_IP_V6_ONLY, TR_IP_V6_THEN_V4, TR_IP_V4_THEN_V6 };
/* "Ipv4AndIpv6" ...; TR_EINVAL. */
int tr_ip_strategy_parse(struct tr_str text, enum tr_ip_strategy *out);
extern const char tr_ip_strategy_names[]; /* for error texts */

struct tr_resolver {
	_Atomic uint32_t refs;
	enum tr_resolver_kind kind;
	/* SERVERS and SYSTEM */
	char *servers;          /* "192.0.2.1:53,[2001:db8::1]:5353"; NULL: those of the system */
	char *search;           /* suffixes of short names, separated by blanks; NULL: those of the system */
	struct in_addr bind_v4; /* 0: any; c-ares binds all of its sockets alike */
	struct in6_addr bind_v6;
	bool has_bind_v6;
	bool tcp_only, udp_only, edns, recursion, rotate, hosts_file;
	uint32_t attempts; /* >= 1 of each server */
	int64_t try_ns;    /* of the first; they grow */
	uint32_t ndots;    /* names with fewer dots are tried with the suffixes */
	/* all */
	enum tr_ip_strategy strategy;
	int64_t positive_min_ns, positive_max_ns, negative_min_ns, negative_max_ns;
	uint32_t cache_size;
	struct tr_zones *zones;        /* TEST */
	struct tr_resolver **children; /* AGGREGATE; referenced */
	uint32_t child_count;
	/* made by tr_resolver_ready() */
	struct tr_dns_cache *cache;
};

/* With defaults, to be filled and made ready by its maker; then immutable. NULL: no memory. */
struct tr_resolver *tr_resolver_new(enum tr_resolver_kind kind);
int tr_resolver_ready(struct tr_resolver *resolver); /* TR_OK or TR_ENOMEM */
struct tr_resolver *tr_resolver_ref(struct tr_resolver *resolver);
void tr_resolver_unref(struct tr_resolver *resolver); /* NULL is fine */
/* How long an answer may be kept. */
void tr_resolver_date(const struct tr_resolver *resolver, struct tr_dns_answer *answer, int64_t now_ns);

/* The resolvers of a runtime by name, and what holds for all MX look-ups. */
struct tr_resolvers {
	_Atomic uint32_t refs;
	_Atomic uint32_t mx_limit; /* look-ups at once, >= 1 */
	_Atomic uint32_t mx_running;
	_Atomic int64_t mx_timeout_ns, mx_negative_ns;
	struct tr_metric *hits, *misses, *queries, *failures; /* of answers */
	struct tr_metric *mx_hits, *mx_misses, *mx_running_metric, *mx_ok, *mx_fail;
	struct resolvers_private *own;
};
int tr_resolvers_new(struct tr_resolvers **out); /* with a resolver of the system; TR_OK or TR_ENOMEM */
struct tr_resolvers *tr_resolvers_ref(struct tr_resolvers *resolvers);
void tr_resolvers_unref(struct tr_resolvers *resolvers);
/* Referenced. name NULL: the one of the runtime. NULL: there is none of that name. */
struct tr_resolver *tr_resolvers_get(struct tr_resolvers *resolvers, const char *name);
/* Sets or replaces one; takes the reference in any case. TR_OK or TR_ENOMEM. */
int tr_resolvers_set(struct tr_resolvers *resolvers, const char *name, struct tr_resolver *resolver);

#endif
