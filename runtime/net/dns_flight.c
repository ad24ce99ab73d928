/* Questions under way: each is asked once, whoever waits for it; aliases are followed, the resolvers of an aggregate
 * asked in their order. What comes out is cached. */
#include <stdlib.h>

#include "base/clock.h"
#include "net/dns_internal.h"
#include "net/scripted.h"

#define ALIAS_MAX 8            /* questions that the aliases of one name may cost */
#define CACHED_MAX (16 * 1024) /* bytes of an answer; a longer one is not worth its place */

static void flight_go(struct flight *flight);

void
wait_leave(struct wait *wait)
{
	if (wait->prev == NULL)
		return;
	*wait->prev = wait->next;
	if (wait->next != NULL)
		wait->next->prev = wait->prev;
	wait->prev = NULL;
}

static size_t
size_of(const struct tr_dns_answer *answer, enum tr_dns_type type)
{
	size_t size = answer->count * sizeof *answer->records;

	for (uint32_t i = 0; i < answer->count && type != TR_DNS_A && type != TR_DNS_AAAA; i++)
		size += answer->records[i].text.len;
	return size;
}

/* Takes the answer's reference. */
static void
flight_end(struct flight *flight, struct tr_dns_answer *answer)
{
	struct tr_dns *dns = flight->dns;

	*flight->prev = flight->next;
	if (flight->next != NULL)
		flight->next->prev = flight->prev;
	if (answer != NULL && !dns->freeing) {
		if (flight->alias != NULL && flight->alias_ttl_s < answer->ttl_s)
			answer->ttl_s = flight->alias_ttl_s;
		tr_resolver_date(flight->resolver, answer, tr_mono_ns());
		if (size_of(answer, flight->type) <= CACHED_MAX)
			tr_dns_cache_put(flight->resolver->cache, flight->type, flight->name, &answer->item);
		if (answer->status == TR_DNS_FAILED)
			tr_metric_add(dns->resolvers->failures, 1);
	}
	while (flight->waits != NULL) {
		struct wait *wait = flight->waits;

		wait_leave(wait);
		query_answered(wait, tr_dns_answer_ref(answer));
	}
	tr_dns_answer_unref(answer);
	tr_resolver_unref(flight->resolver);
	free(flight->alias);
	free(flight);
}

/* Takes the answer's reference. */
static void
flight_answered(void *arg, struct tr_dns_answer *answer)
{
	struct flight *flight = arg;
	const struct tr_resolver *resolver = flight->resolver;
	bool more = resolver->kind == TR_RESOLVER_AGGREGATE && flight->child + 1 < resolver->child_count;

	if (flight->channel != NULL)
		flight->channel->flights--;
	flight->channel = NULL;
	if (answer == NULL || flight->dns->freeing || answer->status == TR_DNS_OK) {
		flight_end(flight, answer);
		return;
	}
	if (answer->status == TR_DNS_NODATA && answer->alias != NULL && !answer->has_soa) {
		/* the server knows the alias alone: an authority that is not asked recursively */
		char *alias = flight->aliases < ALIAS_MAX ? strdup(answer->alias) : NULL;

		if (alias != NULL) {
			if (flight->alias == NULL || answer->ttl_s < flight->alias_ttl_s)
				flight->alias_ttl_s = answer->ttl_s;
			free(flight->alias);
			flight->alias = alias;
			flight->aliases++;
			tr_dns_answer_unref(answer);
			flight_go(flight);
			return;
		}
		answer->status = TR_DNS_FAILED;
		answer->err = TR_EPROTO;
		answer->why = "a loop of CNAMEs";
	}
	if (more) {
		tr_dns_answer_unref(answer);
		free(flight->alias);
		flight->alias = NULL;
		flight->aliases = 0;
		flight->child++;
		flight_go(flight);
		return;
	}
	flight_end(flight, answer);
}

static void
channels_prune(struct tr_dns *dns)
{
	for (struct channel **at = &dns->channels; *at != NULL;) {
		struct channel *channel = *at;

		/* two references are ours: nobody can ask it any more */
		if (channel->flights > 0 || atomic_load_explicit(&channel->resolver->refs, memory_order_acquire) > 2) {
			at = &channel->next;
			continue;
		}
		*at = channel->next;
		tr_dns_channel_free(channel->channel);
		tr_resolver_unref(channel->resolver);
		free(channel);
	}
}

static int
channel_of(struct tr_dns *dns, struct tr_resolver *resolver, struct channel **out)
{
	struct channel *channel = dns->channels;
	int err;

	while (channel != NULL && channel->resolver != resolver)
		channel = channel->next;
	*out = channel;
	if (channel != NULL)
		return TR_OK;
	channels_prune(dns);
	channel = calloc(1, sizeof *channel);
	err = channel != NULL ? tr_dns_channel_new(dns->loop, resolver, &channel->channel) : TR_ENOMEM;
	if (err != TR_OK) {
		free(channel);
		return err;
	}
	channel->resolver = tr_resolver_ref(resolver);
	channel->next = dns->channels;
	dns->channels = *out = channel;
	return TR_OK;
}

static bool
is_short(const struct tr_resolver *resolver, const char *name)
{
	uint32_t dots = 0;

	for (; *name != '\0'; name++)
		dots += *name == '.';
	return dots < resolver->ndots;
}

/* The flight may be gone afterwards. */
static void
flight_go(struct flight *flight)
{
	struct tr_resolver *resolver = flight->resolver;
	const char *name = flight->alias != NULL ? flight->alias : flight->name;
	bool addrs = flight->type == TR_DNS_A || flight->type == TR_DNS_AAAA;
	struct tr_dns_answer *answer = NULL;
	int err;

	if (resolver->kind == TR_RESOLVER_AGGREGATE && resolver->child_count > 0)
		resolver = resolver->children[flight->child];
	tr_metric_add(flight->dns->resolvers->queries, 1);
	if (tr_scripted_on()) {
		bool last = resolver->kind != TR_RESOLVER_TEST;

		answer = tr_scripted_ask(name, flight->type, last);
		if (answer != NULL) {
			flight_answered(flight, answer);
			return;
		}
	}
	if (resolver->kind == TR_RESOLVER_TEST) {
		flight_answered(flight, tr_zones_ask(resolver->zones, name, flight->type));
		return;
	}
	if (resolver->kind == TR_RESOLVER_AGGREGATE) {
		flight_end(flight, tr_dns_answer_new(TR_DNS_FAILED, TR_EPROTO, "a resolver without servers"));
		return;
	}
	err = channel_of(flight->dns, resolver, &flight->channel);
	if (err != TR_OK) { /* without memory it is nobody's answer, and nothing to keep */
		flight_end(flight, err == TR_ENOMEM
					   ? NULL
					   : tr_dns_answer_new(TR_DNS_FAILED, TR_EIO, "the resolver cannot be set up"));
		return;
	}
	flight->channel->flights++;
	if (addrs && resolver->hosts_file)
		err = tr_dns_channel_hosts(flight->channel->channel, name, flight->type, &answer);
	if (answer != NULL || err != TR_OK)
		flight_answered(flight, answer);
	else
		tr_dns_channel_ask(flight->channel->channel, name, flight->type, addrs && is_short(resolver, name),
			flight_answered, flight);
}

void
flight_join(struct tr_dns_query *query, struct wait *wait, enum tr_dns_type type)
{
	struct tr_dns *dns = query->dns;
	struct flight *flight;
	bool fresh = false;

	for (flight = dns->flights; flight != NULL; flight = flight->next) {
		if (flight->type == type && flight->resolver == query->resolver &&
			strcmp(flight->name, query->name) == 0)
			break;
	}
	if (flight == NULL) {
		flight = calloc(1, sizeof *flight + strlen(query->name) + 1);
		if (flight == NULL) {
			query_answered(wait, NULL);
			return;
		}
		flight->dns = dns;
		flight->resolver = tr_resolver_ref(query->resolver);
		flight->type = type;
		memcpy(flight->name, query->name, strlen(query->name) + 1);
		flight->next = dns->flights;
		flight->prev = &dns->flights;
		if (flight->next != NULL)
			flight->next->prev = &flight->next;
		dns->flights = flight;
		fresh = true;
	}
	wait->next = flight->waits;
	wait->prev = &flight->waits;
	if (wait->next != NULL)
		wait->next->prev = &wait->next;
	flight->waits = wait;
	if (fresh)
		flight_go(flight);
}
