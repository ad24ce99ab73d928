#include "net/resolver.h"

#include <pthread.h>
#include <stdlib.h>

#define TRY_NS (2 * TR_NS_PER_S) /* one server, one try; a query's own time-out stands above it */
#define ATTEMPTS 3
#define CACHE_SIZE 65536
#define MX_LIMIT 128
#define FAILED_NS (5 * TR_NS_PER_S) /* a server that fails is not asked the same again at once */

const char tr_ip_strategy_names[] = "Ipv4AndIpv6, Ipv4Only, Ipv6Only, Ipv6ThenIpv4, Ipv4ThenIpv6";

int
tr_ip_strategy_parse(struct tr_str text, enum tr_ip_strategy *out)
{
	static const char *const names[] = {
		[TR_IP_V4_AND_V6] = "Ipv4AndIpv6",
		[TR_IP_V4_ONLY] = "Ipv4Only",
		[TR_IP_V6_ONLY] = "Ipv6Only",
		[TR_IP_V6_THEN_V4] = "Ipv6ThenIpv4",
		[TR_IP_V4_THEN_V6] = "Ipv4ThenIpv6",
	};

	for (size_t i = 0; i < TR_COUNT(names); i++) {
		if (tr_str_eq(text, tr_str(names[i]))) {
			*out = (enum tr_ip_strategy)i;
			return TR_OK;
		}
	}
	return TR_EINVAL;
}

struct tr_resolver *
tr_resolver_new(enum tr_resolver_kind kind)
{
	struct tr_resolver *resolver = calloc(1, sizeof *resolver);

	if (resolver == NULL)
		return NULL;
	atomic_init(&resolver->refs, 1);
	resolver->kind = kind;
	resolver->edns = resolver->recursion = true;
	resolver->hosts_file = kind == TR_RESOLVER_SYSTEM || kind == TR_RESOLVER_SERVERS;
	resolver->attempts = ATTEMPTS;
	resolver->try_ns = TRY_NS;
	resolver->ndots = 1;
	resolver->positive_min_ns = resolver->negative_min_ns = TR_NS_PER_S;
	resolver->positive_max_ns = 86400 * TR_NS_PER_S;
	resolver->negative_max_ns = 60 * TR_NS_PER_S;
	resolver->cache_size = CACHE_SIZE;
	return resolver;
}

int
tr_resolver_ready(struct tr_resolver *resolver)
{
	return tr_dns_cache_new(resolver->cache_size, &resolver->cache);
}

struct tr_resolver *
tr_resolver_ref(struct tr_resolver *resolver)
{
	if (resolver != NULL)
		atomic_fetch_add_explicit(&resolver->refs, 1, memory_order_relaxed);
	return resolver;
}

void
tr_resolver_unref(struct tr_resolver *resolver)
{
	if (resolver == NULL || atomic_fetch_sub_explicit(&resolver->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (uint32_t i = 0; i < resolver->child_count; i++)
		tr_resolver_unref(resolver->children[i]);
	free(resolver->children);
	tr_zones_free(resolver->zones);
	tr_dns_cache_free(resolver->cache);
	free(resolver->servers);
	free(resolver->search);
	free(resolver);
}

void
tr_resolver_date(const struct tr_resolver *resolver, struct tr_dns_answer *answer, int64_t now_ns)
{
	int64_t life_ns = answer->ttl_s * TR_NS_PER_S;

	if (answer->status == TR_DNS_OK) {
		life_ns = tr_max_i64(tr_min_i64(life_ns, resolver->positive_max_ns), resolver->positive_min_ns);
	} else if (answer->status == TR_DNS_FAILED) {
		life_ns = tr_min_i64(FAILED_NS, resolver->negative_max_ns);
	} else {
		if (!answer->has_soa)
			life_ns = resolver->negative_max_ns;
		life_ns = tr_max_i64(tr_min_i64(life_ns, resolver->negative_max_ns), resolver->negative_min_ns);
	}
	answer->item.expires_ns = now_ns + life_ns;
}

/* --- by name ------------------------------------------------------------------------------------------- */

struct named {
	struct named *next;
	struct tr_resolver *resolver;
	char name[];
};

struct resolvers_private {
	pthread_mutex_t lock;
	struct tr_resolver *first; /* of the runtime */
	struct named *named;
};

int
tr_resolvers_new(struct tr_resolvers **out)
{
	struct tr_resolvers *resolvers = calloc(1, sizeof *resolvers);
	struct resolvers_private *own = calloc(1, sizeof *own);
	struct tr_resolver *first = tr_resolver_new(TR_RESOLVER_SYSTEM);

	*out = NULL;
	if (resolvers == NULL || own == NULL || first == NULL || tr_resolver_ready(first) != TR_OK) {
		tr_resolver_unref(first);
		free(own);
		free(resolvers);
		return TR_ENOMEM;
	}
	atomic_init(&resolvers->refs, 1);
	atomic_init(&resolvers->mx_limit, MX_LIMIT);
	atomic_init(&resolvers->mx_timeout_ns, 5 * TR_NS_PER_S);
	atomic_init(&resolvers->mx_negative_ns, 300 * TR_NS_PER_S);
	resolvers->own = own;
	pthread_mutex_init(&own->lock, NULL);
	own->first = first;
	resolvers->hits = tr_metric_get(TR_COUNTER, "tailrace_dns_cache_hit", "questions answered by the cache", NULL);
	resolvers->misses =
		tr_metric_get(TR_COUNTER, "tailrace_dns_cache_miss", "questions that the cache could not answer", NULL);
	resolvers->queries =
		tr_metric_get(TR_COUNTER, "tailrace_dns_queries", "questions that a resolver was asked", NULL);
	resolvers->failures = tr_metric_get(
		TR_COUNTER, "tailrace_dns_failures", "questions that ended by a time-out or an error", NULL);
	resolvers->mx_hits =
		tr_metric_get(TR_COUNTER, "dns_mx_resolve_cache_hit", "MX look-ups answered by the cache", NULL);
	resolvers->mx_misses = tr_metric_get(
		TR_COUNTER, "dns_mx_resolve_cache_miss", "MX look-ups that the cache could not answer", NULL);
	resolvers->mx_running_metric =
		tr_metric_get(TR_GAUGE, "dns_mx_resolve_in_progress", "MX look-ups under way", NULL);
	resolvers->mx_ok = tr_metric_get(TR_COUNTER, "dns_mx_resolve_status_ok", "MX look-ups with a result", NULL);
	resolvers->mx_fail =
		tr_metric_get(TR_COUNTER, "dns_mx_resolve_status_fail", "MX look-ups without a result", NULL);
	*out = resolvers;
	return TR_OK;
}

struct tr_resolvers *
tr_resolvers_ref(struct tr_resolvers *resolvers)
{
	atomic_fetch_add_explicit(&resolvers->refs, 1, memory_order_relaxed);
	return resolvers;
}

void
tr_resolvers_unref(struct tr_resolvers *resolvers)
{
	if (resolvers == NULL || atomic_fetch_sub_explicit(&resolvers->refs, 1, memory_order_acq_rel) != 1)
		return;
	struct tr_metric *metrics[] = {resolvers->hits, resolvers->misses, resolvers->queries, resolvers->failures,
		resolvers->mx_hits, resolvers->mx_misses, resolvers->mx_running_metric, resolvers->mx_ok,
		resolvers->mx_fail};

	for (size_t i = 0; i < TR_COUNT(metrics); i++)
		tr_metric_unref(metrics[i]);
	while (resolvers->own->named != NULL) {
		struct named *named = resolvers->own->named;

		resolvers->own->named = named->next;
		tr_resolver_unref(named->resolver);
		free(named);
	}
	tr_resolver_unref(resolvers->own->first);
	pthread_mutex_destroy(&resolvers->own->lock);
	free(resolvers->own);
	free(resolvers);
}

struct tr_resolver *
tr_resolvers_get(struct tr_resolvers *resolvers, const char *name)
{
	struct resolvers_private *own = resolvers->own;
	struct tr_resolver *found;
	struct named *at;

	pthread_mutex_lock(&own->lock);
	found = own->first;
	if (name != NULL) {
		for (at = own->named; at != NULL && strcmp(at->name, name) != 0; at = at->next)
			;
		found = at != NULL ? at->resolver : NULL;
	}
	tr_resolver_ref(found);
	pthread_mutex_unlock(&own->lock);
	return found;
}

int
tr_resolvers_set(struct tr_resolvers *resolvers, const char *name, struct tr_resolver *resolver)
{
	struct resolvers_private *own = resolvers->own;
	struct tr_resolver **at = &own->first, *old = NULL;
	struct named *named = NULL;

	if (name != NULL) {
		named = calloc(1, sizeof *named + strlen(name) + 1);
		if (named == NULL) {
			tr_resolver_unref(resolver);
			return TR_ENOMEM;
		}
		memcpy(named->name, name, strlen(name) + 1);
	}
	pthread_mutex_lock(&own->lock);
	for (struct named *each = own->named; named != NULL && each != NULL; each = each->next) {
		if (strcmp(each->name, name) != 0)
			continue;
		free(named);
		named = NULL;
		at = &each->resolver;
	}
	if (named != NULL) {
		named->next = own->named;
		own->named = named;
		at = &named->resolver;
	}
	old = *at;
	*at = resolver;
	pthread_mutex_unlock(&own->lock);
	tr_resolver_unref(old);
	return TR_OK;
}
