#include "transport/smtp_plan.h"

#include <stdlib.h>

#define CANDIDATES_MAX 128 /* addresses of a plan */
#define TEXT_MAX 1024      /* bytes of what a record says */

struct target { /* one name to look up */
	struct tr_smtp_plan *plan;
	struct tr_dns_query *query;
	const char *name;
	uint16_t preference, port;
	struct tr_sockaddr *addrs;
	size_t count;
	const char *why; /* literal: it has no address */
};

struct tr_smtp_plan {
	struct tr_dns *dns;
	struct tr_smtp_plan_config config;
	void (*then)(void *arg, const struct tr_smtp_plan_result *result);
	void *arg;
	struct tr_mx_query *mx_query;
	struct tr_mx *mx; /* referenced; its names are the targets' */
	struct target *targets;
	size_t target_count, pending;
	struct tr_defer later; /* nothing is to be looked up, or memory is short */
	struct tr_buf text;
	struct tr_smtpc_host *candidates;
	size_t candidate_count;
};

static void
plan_free(struct tr_smtp_plan *plan)
{
	tr_loop_undefer(tr_dns_loop(plan->dns), &plan->later);
	tr_mx_cancel(plan->mx_query);
	for (size_t i = 0; i < plan->target_count; i++) {
		tr_dns_cancel(plan->targets[i].query);
		free(plan->targets[i].addrs);
	}
	free(plan->targets);
	free(plan->candidates);
	tr_mx_unref(plan->mx);
	tr_buf_free(&plan->text);
	free(plan);
}

static void
tell(struct tr_smtp_plan *plan, enum tr_smtp_plan_kind kind)
{
	struct tr_smtp_plan_result result = {
		.kind = kind, .hosts = plan->candidates, .host_count = plan->candidate_count};

	tr_buf_addc(&plan->text, '\0');
	result.text = plan->text.failed ? "KumoMTA internal: out of memory" : plan->text.data;
	plan->then(plan->arg, &result);
	plan_free(plan);
}

/* --- candidates ----------------------------------------------------------------------------------------------- */

static bool
is_in(const struct tr_cidr *blocks, size_t count, const struct tr_sockaddr *addr)
{
	for (size_t i = 0; i < count; i++) {
		if (tr_cidr_contains(&blocks[i], addr))
			return true;
	}
	return false;
}

static bool
is_known(const struct tr_smtp_plan *plan, const struct tr_smtpc_host *host)
{
	for (size_t i = 0; i < plan->candidate_count; i++) {
		const struct tr_smtpc_host *other = &plan->candidates[i];

		if (other->port == host->port && other->addr.len == host->addr.len &&
			memcmp(&other->addr.ss, &host->addr.ss, host->addr.len) == 0)
			return true;
	}
	return false;
}

static void
shuffle(struct tr_smtp_plan *plan, size_t from)
{
	for (size_t left = plan->candidate_count - from; left > 1; left--) {
		size_t pick = (size_t)(plan->config.random(plan->config.random_arg) * (double)left);
		struct tr_smtpc_host *a = &plan->candidates[from + left - 1], *b = &plan->candidates[from + pick];
		struct tr_smtpc_host swap = *a;

		*a = *b;
		*b = swap;
	}
}

/* Addresses in the order of preference, any order within one. What is skipped is counted; the first prohibited one, if
 * there is any, is *bad. */
static void
collect(struct tr_smtp_plan *plan, size_t *skipped, struct tr_smtpc_host *bad)
{
	const struct tr_smtp_plan_config *config = &plan->config;
	size_t group = 0;

	for (size_t i = 0; i < plan->target_count; i++) {
		const struct target *target = &plan->targets[i];

		if (plan->mx != NULL && i > 0 && target->preference != plan->targets[i - 1].preference) {
			shuffle(plan, group);
			group = plan->candidate_count;
		}
		for (size_t j = 0; j < target->count; j++) {
			struct tr_smtpc_host host = {target->name, target->port, target->addrs[j]};

			if (bad->name == NULL && is_in(config->prohibited, config->prohibited_count, &host.addr))
				*bad = host;
			if (is_in(config->skip, config->skip_count, &host.addr))
				++*skipped;
			else if (plan->candidate_count < CANDIDATES_MAX && !is_known(plan, &host))
				plan->candidates[plan->candidate_count++] = host;
		}
	}
	if (plan->mx != NULL)
		shuffle(plan, group);
}

static void
say_no_hosts(struct tr_smtp_plan *plan)
{
	const char *between = ": ";

	tr_buf_addz(&plan->text, "KumoMTA internal: MX didn't resolve to any hosts");
	for (size_t i = 0; i < plan->target_count && plan->text.len < TEXT_MAX; i++) {
		tr_buf_addf(&plan->text, "%s%s: %s", between, plan->targets[i].name,
			plan->targets[i].why != NULL ? plan->targets[i].why : "no address of that name");
		between = ", ";
	}
}

static void
finish(struct tr_smtp_plan *plan)
{
	struct tr_smtpc_host bad = {0};
	size_t skipped = 0;
	char addr[64];

	plan->candidates = calloc(CANDIDATES_MAX, sizeof *plan->candidates);
	if (plan->candidates == NULL) {
		tr_buf_addz(&plan->text, "KumoMTA internal: out of memory");
		tell(plan, TR_PLAN_UNKNOWN);
		return;
	}
	collect(plan, &skipped, &bad);
	if (bad.name != NULL) {
		tr_sockaddr_text(&bad.addr, false, addr);
		tr_buf_addf(&plan->text, "KumoMTA internal: %s [%s] is among the hosts and in prohibited_hosts",
			bad.name, addr);
		tell(plan, TR_PLAN_PROHIBITED);
	} else if (plan->candidate_count > 0) {
		tell(plan, TR_PLAN_READY);
	} else if (skipped > 0) {
		tr_buf_addf(&plan->text, "KumoMTA internal: all %zu addresses of the hosts are in skip_hosts", skipped);
		tell(plan, TR_PLAN_SKIPPED);
	} else {
		say_no_hosts(plan);
		tell(plan, TR_PLAN_NO_HOSTS);
	}
}

static void
finish_later(struct tr_defer *later)
{
	finish(tr_container_of(later, struct tr_smtp_plan, later));
}

/* --- look-ups ------------------------------------------------------------------------------------------------------
 */

static void
addrs_found(void *arg, const struct tr_dns_found *found)
{
	struct target *target = arg;

	target->query = NULL;
	target->why = found->status == TR_DNS_OK ? NULL : found->why;
	if (found->count > 0) {
		target->addrs = calloc(found->count, sizeof *target->addrs);
		if (target->addrs != NULL) {
			memcpy(target->addrs, found->addrs, found->count * sizeof *target->addrs);
			target->count = found->count;
		} else {
			target->why = "out of memory";
		}
	}
	if (--target->plan->pending == 0)
		finish(target->plan);
}

static void
look_up(struct tr_smtp_plan *plan)
{
	plan->pending = 1;
	for (size_t i = 0; i < plan->target_count; i++) {
		struct target *target = &plan->targets[i];

		target->query = tr_dns_addrs(plan->dns, NULL, target->name, &plan->config.strategy,
			plan->config.timeout_ns, addrs_found, target);
		if (target->query != NULL)
			plan->pending++;
		else
			target->why = "out of memory";
	}
	if (--plan->pending == 0)
		tr_loop_defer(tr_dns_loop(plan->dns), &plan->later, finish_later);
}

static bool
make_targets(struct tr_smtp_plan *plan, size_t count)
{
	plan->targets = calloc(count > 0 ? count : 1, sizeof *plan->targets);
	if (plan->targets == NULL)
		return false;
	plan->target_count = count;
	for (size_t i = 0; i < count; i++)
		plan->targets[i].plan = plan;
	return true;
}

static void
mx_found(void *arg, struct tr_mx *mx)
{
	struct tr_smtp_plan *plan = arg;

	plan->mx_query = NULL;
	if (mx == NULL || mx->status != TR_DNS_OK) {
		tr_buf_addf(&plan->text, "KumoMTA internal: MX look-up of %s failed: %s", plan->config.domain,
			mx != NULL ? mx->why : "out of memory");
		tell(plan, TR_PLAN_UNKNOWN);
		return;
	}
	if (plan->config.site != NULL && strcmp(plan->config.site, mx->site) != 0) {
		tr_buf_addf(&plan->text, "KumoMTA internal: the MX of %s have changed", plan->config.domain);
		tell(plan, TR_PLAN_MOVED);
		return;
	}
	if (mx->is_null) {
		tr_buf_addz(&plan->text, "Recipient address has a null MX");
		tell(plan, TR_PLAN_NULL_MX);
		return;
	}
	plan->mx = tr_mx_ref(mx);
	if (!make_targets(plan, mx->count)) {
		tr_buf_addz(&plan->text, "KumoMTA internal: out of memory");
		tell(plan, TR_PLAN_UNKNOWN);
		return;
	}
	for (uint32_t i = 0; i < mx->count; i++) {
		plan->targets[i].name = mx->hosts[i].name;
		plan->targets[i].preference = mx->hosts[i].preference;
	}
	look_up(plan);
}

struct tr_smtp_plan *
tr_smtp_plan_start(struct tr_dns *dns, const struct tr_smtp_plan_config *config,
	void (*then)(void *arg, const struct tr_smtp_plan_result *result), void *arg)
{
	struct tr_smtp_plan *plan = calloc(1, sizeof *plan);

	if (plan == NULL)
		return NULL;
	plan->dns = dns;
	plan->config = *config;
	plan->then = then;
	plan->arg = arg;
	if (config->domain != NULL) {
		plan->mx_query = tr_mx_find(dns, NULL, config->domain, mx_found, plan);
		if (plan->mx_query != NULL)
			return plan;
	} else if (make_targets(plan, config->host_count)) {
		for (size_t i = 0; i < config->host_count; i++) {
			plan->targets[i].name = config->hosts[i].name;
			plan->targets[i].port = config->hosts[i].port;
		}
		look_up(plan);
		return plan;
	}
	plan_free(plan);
	return NULL;
}

void
tr_smtp_plan_cancel(struct tr_smtp_plan *plan)
{
	if (plan != NULL)
		plan_free(plan);
}
