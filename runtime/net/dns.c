#include "net/dns.h"

#include <ares.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "net/dns_internal.h"
#include "net/mx.h"

/* --- queries ---------------------------------------------------------------------------------------------- */

/* Nobody waits for it any more. */
static void
settle(struct tr_dns_query *query)
{
	struct tr_dns *dns = query->dns;

	*query->prev = query->next;
	if (query->next != NULL)
		query->next->prev = query->prev;
	tr_timer_stop(tr_loop_wheel(dns->loop), &query->timeout);
	tr_loop_undefer(dns->loop, &query->later);
	for (int i = 0; i < 2; i++) {
		wait_leave(&query->waits[i]);
		tr_dns_answer_unref(query->answers[i]);
	}
	tr_resolver_unref(query->resolver);
	tr_hold_drop();
	free(query);
}

static void
tell_found(struct tr_dns_query *query, const struct tr_dns_found *found)
{
	struct tr_dns_query told = {
		.then_found = query->then_found, .then_addrs = query->then_addrs, .arg = query->arg};

	settle(query);
	if (told.then_found != NULL)
		told.then_found(told.arg, found);
	else
		told.then_addrs(told.arg, found->err, found->addrs, found->count);
}

static void
tell_answer(struct tr_dns_query *query, struct tr_dns_answer *answer)
{
	void (*then)(void *, struct tr_dns_answer *) = query->then_answer;
	void *arg = query->arg;

	tr_dns_answer_ref(answer);
	settle(query);
	then(arg, answer);
	tr_dns_answer_unref(answer);
}

static void
add_addrs(struct tr_sockaddr *addrs, size_t *count, const struct tr_dns_answer *answer, enum tr_dns_type type)
{
	for (uint32_t i = 0; answer != NULL && i < answer->count; i++) {
		struct tr_sockaddr *addr = &addrs[(*count)++];

		if (type == TR_DNS_A) {
			struct sockaddr_in *in = (struct sockaddr_in *)&addr->ss;

			in->sin_family = AF_INET;
			in->sin_addr = answer->records[i].v4;
			addr->len = sizeof *in;
		} else {
			struct sockaddr_in6 *in = (struct sockaddr_in6 *)&addr->ss;

			in->sin6_family = AF_INET6;
			in->sin6_addr = answer->records[i].v6;
			addr->len = sizeof *in;
		}
	}
}

static void
finish_addrs(struct tr_dns_query *query)
{
	struct tr_dns_found found = {.status = TR_DNS_OK, .secure = true};
	struct tr_sockaddr *addrs;
	size_t most = 1;

	for (int i = 0; i < query->parts; i++)
		most += query->answers[i] != NULL ? query->answers[i]->count : 0;
	addrs = calloc(most, sizeof *addrs);
	for (int i = 0; i < query->parts && addrs != NULL; i++) {
		const struct tr_dns_answer *answer = query->answers[i];

		if (answer == NULL) {
			found.err = TR_ENOMEM;
			continue;
		}
		add_addrs(addrs, &found.count, answer, query->types[i]);
		found.secure = found.secure && answer->secure;
	}
	found.addrs = addrs;
	if (addrs == NULL || (found.count == 0 && found.err == TR_ENOMEM)) {
		found = (struct tr_dns_found){TR_DNS_FAILED, TR_ENOMEM, "out of memory", false, NULL, 0};
	} else if (found.count > 0) {
		found.err = TR_OK;
	} else {
		const struct tr_dns_answer *worst = NULL;

		/* a failure may hide addresses; no data in one family says more than no such name in the other */
		for (int i = 0; i < query->parts; i++) {
			const struct tr_dns_answer *answer = query->answers[i];

			if (answer == NULL)
				continue; /* then found.err says so, above */
			if (worst == NULL || answer->status == TR_DNS_FAILED ||
				(worst->status == TR_DNS_NXDOMAIN && answer->status == TR_DNS_NODATA))
				worst = answer;
		}
		found.status = worst != NULL ? worst->status : TR_DNS_FAILED;
		found.err = worst != NULL ? worst->err : TR_ENOMEM;
		found.why = found.status == TR_DNS_NODATA ? "no address of that name"
			    : worst != NULL               ? worst->why
							  : "out of memory";
	}
	tell_found(query, &found);
	free(addrs);
}

static void ask_part(struct tr_dns_query *query, enum tr_dns_type type);

static void
all_answered(struct tr_defer *later)
{
	struct tr_dns_query *query = tr_container_of(later, struct tr_dns_query, later);

	if (query->kind == ASKS_LITERAL) {
		struct tr_sockaddr literal = query->literal; /* the query goes before its owner is told */
		struct tr_dns_found found = {.status = TR_DNS_OK, .addrs = &literal, .count = 1};

		tell_found(query, &found);
	} else if (query->kind == ASKS_RECORDS) {
		tell_answer(query, query->answers[0]);
	} else if (query->parts == 1 && (query->answers[0] == NULL || query->answers[0]->count == 0) &&
		   (query->strategy == TR_IP_V4_THEN_V6 || query->strategy == TR_IP_V6_THEN_V4)) {
		query->pending = 1;
		ask_part(query, query->types[0] == TR_DNS_A ? TR_DNS_AAAA : TR_DNS_A);
	} else {
		finish_addrs(query);
	}
}

void
query_answered(struct wait *wait, struct tr_dns_answer *answer)
{
	struct tr_dns_query *query = wait->query;

	query->answers[wait->part] = answer;
	if (--query->pending == 0)
		tr_loop_defer(query->dns->loop, &query->later, all_answered);
}

/* One more part of the query; `pending` counts it already. */
static void
ask_part(struct tr_dns_query *query, enum tr_dns_type type)
{
	struct tr_dns *dns = query->dns;
	struct wait *wait = &query->waits[query->parts];
	struct tr_dns_answer *answer;

	wait->query = query;
	wait->part = query->parts;
	query->types[query->parts++] = type;
	if (!query->is_name) {
		query_answered(wait, tr_dns_answer_new(TR_DNS_NXDOMAIN, TR_ENOENT, "not a domain name"));
		return;
	}
	answer = tr_dns_cache_get(query->resolver->cache, type, query->name, tr_mono_ns());
	tr_metric_add(answer != NULL ? dns->resolvers->hits : dns->resolvers->misses, 1);
	if (answer != NULL) {
		query_answered(wait, answer);
		return;
	}
	flight_join(query, wait, type);
}

static void
timed_out(struct tr_timer *timer)
{
	struct tr_dns_query *query = tr_container_of(timer, struct tr_dns_query, timeout);
	static const struct tr_dns_found found = {TR_DNS_FAILED, TR_ETIMEDOUT, "timed out", false, NULL, 0};
	struct tr_dns_answer *answer;

	tr_metric_add(query->dns->resolvers->failures, 1);
	if (query->kind != ASKS_RECORDS) {
		tell_found(query, &found);
		return;
	}
	answer = tr_dns_answer_new(TR_DNS_FAILED, TR_ETIMEDOUT, "timed out");
	tell_answer(query, answer);
	tr_dns_answer_unref(answer);
}

static struct tr_dns_query *
query_new(struct tr_dns *dns, struct tr_resolver *resolver, const char *name, int64_t timeout_ns, void *arg)
{
	char normal[TR_DNS_NAME_MAX];
	int err = tr_dns_name_normal(tr_str(name), normal);
	bool is_name = err == TR_OK;
	struct tr_dns_query *query =
		err != TR_ENOMEM ? calloc(1, sizeof *query + (is_name ? strlen(normal) : 0) + 1) : NULL;

	if (query == NULL)
		return NULL;
	query->is_name = is_name;
	if (is_name)
		memcpy(query->name, normal, strlen(normal) + 1);
	query->dns = dns;
	query->resolver = resolver != NULL ? tr_resolver_ref(resolver) : tr_resolvers_get(dns->resolvers, NULL);
	query->arg = arg;
	query->next = dns->queries;
	query->prev = &dns->queries;
	if (query->next != NULL)
		query->next->prev = &query->next;
	dns->queries = query;
	tr_hold_take();
	tr_timer_start(tr_loop_wheel(dns->loop), &query->timeout, timeout_ns, timed_out);
	return query;
}

struct tr_dns_query *
tr_dns_ask(struct tr_dns *dns, struct tr_resolver *resolver, const char *name, enum tr_dns_type type,
	int64_t timeout_ns, void (*then)(void *arg, struct tr_dns_answer *answer), void *arg)
{
	struct tr_dns_query *query = query_new(dns, resolver, name, timeout_ns, arg);

	if (query == NULL)
		return NULL;
	query->kind = ASKS_RECORDS;
	query->then_answer = then;
	query->pending = 1;
	ask_part(query, type);
	return query;
}

/* "192.0.2.1", "::1", and both in brackets, with "IPv6:" or without. */
static bool
is_literal(const char *name, struct tr_sockaddr *out)
{
	struct tr_str text = tr_str(name);

	if (text.len > 2 && text.data[0] == '[' && text.data[text.len - 1] == ']')
		text = (struct tr_str){text.data + 1, text.len - 2};
	if (text.len > 5 && tr_str_ieq((struct tr_str){text.data, 5}, TR_STR("IPv6:")))
		text = (struct tr_str){text.data + 5, text.len - 5};
	if (text.len == 0 || text.data[0] == '/' || tr_sockaddr_parse(text, 1, out) != TR_OK ||
		tr_sockaddr_port(out) != 1)
		return false;
	tr_sockaddr_set_port(out, 0);
	return true;
}

static struct tr_dns_query *
ask_addrs(struct tr_dns *dns, struct tr_resolver *resolver, const char *name, const enum tr_ip_strategy *strategy,
	int64_t timeout_ns, void (*then_found)(void *arg, const struct tr_dns_found *found),
	void (*then_addrs)(void *arg, int err, const struct tr_sockaddr *addrs, size_t count), void *arg)
{
	struct tr_dns_query *query = query_new(dns, resolver, name, timeout_ns, arg);

	if (query == NULL)
		return NULL;
	query->then_found = then_found;
	query->then_addrs = then_addrs;
	query->strategy = strategy != NULL ? *strategy : query->resolver->strategy;
	if (is_literal(name, &query->literal)) {
		query->kind = ASKS_LITERAL;
		tr_loop_defer(dns->loop, &query->later, all_answered);
		return query;
	}
	query->kind = ASKS_ADDRS;
	if (query->strategy == TR_IP_V4_AND_V6) {
		query->pending = 2;
		ask_part(query, TR_DNS_A);
		ask_part(query, TR_DNS_AAAA);
	} else {
		query->pending = 1;
		ask_part(query, query->strategy == TR_IP_V4_ONLY || query->strategy == TR_IP_V4_THEN_V6 ? TR_DNS_A
													: TR_DNS_AAAA);
	}
	return query;
}

struct tr_dns_query *
tr_dns_addrs(struct tr_dns *dns, struct tr_resolver *resolver, const char *name, const enum tr_ip_strategy *strategy,
	int64_t timeout_ns, void (*then)(void *arg, const struct tr_dns_found *found), void *arg)
{
	return ask_addrs(dns, resolver, name, strategy, timeout_ns, then, NULL, arg);
}

struct tr_dns_query *
tr_dns_addr(struct tr_dns *dns, const char *name, int64_t timeout_ns,
	void (*then)(void *arg, int err, const struct tr_sockaddr *addrs, size_t count), void *arg)
{
	return ask_addrs(dns, NULL, name, NULL, timeout_ns, NULL, then, arg);
}

void
tr_dns_cancel(struct tr_dns_query *query)
{
	if (query != NULL)
		settle(query);
}

/* --- life --------------------------------------------------------------------------------------------------- */

int
tr_dns_new_shared(struct tr_loop *loop, struct tr_resolvers *resolvers, struct tr_dns **out)
{
	struct tr_dns *dns = calloc(1, sizeof *dns);
	int status;

	*out = NULL;
	if (dns == NULL)
		return TR_ENOMEM;
	status = ares_library_init(ARES_LIB_INIT_ALL);
	if (status != ARES_SUCCESS) {
		tr_log(TR_LEVEL_ERROR, "dns", "c-ares cannot be used: %s", ares_strerror(status));
		free(dns);
		return status == ARES_ENOMEM ? TR_ENOMEM : TR_EIO;
	}
	dns->loop = loop;
	dns->resolvers = tr_resolvers_ref(resolvers);
	*out = dns;
	return TR_OK;
}

int
tr_dns_new(struct tr_loop *loop, struct tr_dns **out)
{
	struct tr_resolvers *resolvers;
	int err = tr_resolvers_new(&resolvers);

	*out = NULL;
	if (err != TR_OK)
		return err;
	err = tr_dns_new_shared(loop, resolvers, out);
	tr_resolvers_unref(resolvers);
	return err;
}

void
tr_dns_free(struct tr_dns *dns)
{
	if (dns == NULL)
		return;
	while (dns->mx_line.all != NULL)
		tr_mx_cancel(dns->mx_line.all);
	dns->freeing = true;
	while (dns->queries != NULL) /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): they leave the list */
		settle(dns->queries);
	while (dns->channels != NULL) {
		struct channel *channel = dns->channels;

		dns->channels = channel->next;
		tr_dns_channel_free(channel->channel); /* its flights end */
		tr_resolver_unref(channel->resolver);
		free(channel);
	}
	tr_resolvers_unref(dns->resolvers);
	ares_library_cleanup();
	free(dns);
}

struct tr_loop *
tr_dns_loop(const struct tr_dns *dns)
{
	return dns->loop;
}

struct tr_resolvers *
tr_dns_resolvers(const struct tr_dns *dns)
{
	return dns->resolvers;
}

struct tr_mx_line *
tr_dns_mx_line(struct tr_dns *dns)
{
	return &dns->mx_line;
}
