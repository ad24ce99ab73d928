/* Ready queues: their table, names and sources, and their configuration by policy. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "queue/admin.h"
#include "queue/engine.h"
#include "queue/ready.h"
#include "queue/sched.h"
#include "queue/session.h"
#include "queue/worker.h"

/* --- table ---------------------------------------------------------------------------------------------------- */

static void
make_metrics(struct tr_ready *ready, const char *protocol)
{
	static const struct {
		enum tr_metric_kind kind;
		const char *name, *help;
	} kinds[READY_METRICS] = {
		[M_DELIVERED] = {TR_COUNTER, "total_messages_delivered", "deliveries"},
		[M_TRANSFAIL] = {TR_COUNTER, "total_messages_transfail", "transient failures"},
		[M_FAIL] = {TR_COUNTER, "total_messages_fail", "permanent failures"},
		[M_CONNECTIONS_TOTAL] = {TR_COUNTER, "total_connection_count", "connections ever opened"},
		[M_READY_FULL] = {TR_COUNTER, "ready_full", "times the ready queue was full"},
		[M_READY_COUNT] = {TR_GAUGE, "ready_count", "messages in the ready queue"},
		[M_CONNECTIONS] = {TR_GAUGE, "connection_count", "open connections"},
	};
	struct tr_buf service = {0};

	tr_buf_addf(&service, "%s:%s", protocol, ready->name);
	tr_buf_addc(&service, '\0');
	for (int i = 0; i < READY_METRICS; i++) {
		ready->metrics[0][i] = tr_metric_get(kinds[i].kind, kinds[i].name, kinds[i].help, "service",
			service.failed ? ready->name : service.data, NULL);
		ready->metrics[1][i] =
			tr_metric_get(kinds[i].kind, kinds[i].name, kinds[i].help, "service", protocol, NULL);
	}
	tr_buf_free(&service);
}

static bool
ends_with(struct tr_str text, struct tr_str end)
{
	return text.len >= end.len && memcmp(text.data + text.len - end.len, end.data, end.len) == 0;
}

static struct tr_ready *
ready_new(struct tr_sched *sched, struct tr_str name, const char *site, const char *source, struct tr_str routing)
{
	struct tr_engine *engine = sched->engine;
	struct tr_ready *ready = calloc(1, sizeof *ready);

	if (ready == NULL)
		return NULL;
	ready->engine = engine;
	ready->home = sched->home;
	ready->name = strndup(name.data, name.len);
	ready->site = strdup(site);
	ready->source = strdup(source);
	ready->routing_domain = strndup(routing.len > 0 ? routing.data : "", routing.len);
	ready->workers = calloc(engine->worker_count, sizeof *ready->workers);
	if (ready->name == NULL || ready->site == NULL || ready->source == NULL || ready->routing_domain == NULL ||
		ready->workers == NULL) {
		free(ready->name);
		free(ready->site);
		free(ready->source);
		free(ready->routing_domain);
		free(ready->workers);
		free(ready);
		return NULL;
	}
	ready->queue = tr_queue_config_ref(sched->config);
	ready->hook = sched->config->protocol == TR_PROTO_LUA &&
		      (ends_with(sched->parts.domain, TR_STR(".log_hook")) || atomic_load(&sched->log_records));
	atomic_init(&ready->state, READY_RESOLVING);
	atomic_init(&ready->suspended, admin_ready_suspended(engine, ready->name, NULL));
	pthread_mutex_init(&ready->lock, NULL);
	ready->expiry_ms = INT64_MAX;
	ready->waiting_end = &ready->waiting;
	ready->kick_mail.fn = ready_kick_arrived;
	ready->used_at_ns = tr_mono_ns();
	make_metrics(ready, sched->config->protocol == TR_PROTO_LUA ? "lua" : "smtp_client");
	atomic_fetch_add_explicit(&engine->ready_total, 1, memory_order_relaxed);
	return ready;
}

void
ready_free(struct tr_ready *ready)
{
	struct tr_message *message;

	tr_timer_stop(tr_loop_wheel(ready->home->loop), &ready->timer);
	while ((message = list_pop(&ready->messages)) != NULL)
		tr_message_free(message);
	atomic_fetch_sub_explicit(&ready->engine->ready_total, 1, memory_order_relaxed);
	for (int i = 0; i < READY_METRICS; i++) {
		tr_metric_unref(ready->metrics[0][i]);
		tr_metric_unref(ready->metrics[1][i]);
	}
	permit_unwait(ready);
	limits_unref(ready->limits);
	if (ready->alarm_metric != NULL)
		tr_metric_unref(ready->alarm_metric);
	tr_queue_config_unref(ready->queue);
	tr_path_config_unref(ready->path);
	free(ready->error);
	pthread_mutex_destroy(&ready->lock);
	source_unref(ready->via);
	free(ready->name);
	free(ready->site);
	free(ready->source);
	free(ready->routing_domain);
	free(ready->workers);
	free(ready);
}

void
ready_unref(struct tr_ready *ready)
{
	atomic_fetch_sub_explicit(&ready->refs, 1, memory_order_release); /* the home's housekeeping frees it */
}

static struct tr_ready **
bucket_of(struct tr_engine *engine, struct tr_str name)
{
	return &engine->ready_buckets[tr_hash(name.data, name.len) & engine->ready_mask];
}

struct tr_ready *
ready_find(struct tr_engine *engine, struct tr_str name)
{
	struct tr_ready *ready;

	pthread_mutex_lock(&engine->ready_lock);
	ready = *bucket_of(engine, name);
	while (ready != NULL && (!tr_str_eq(tr_str(ready->name), name) || atomic_load(&ready->state) == READY_REPLACED))
		ready = ready->hash_next;
	if (ready != NULL)
		atomic_fetch_add_explicit(&ready->refs, 1, memory_order_relaxed);
	pthread_mutex_unlock(&engine->ready_lock);
	return ready;
}

void
lanes_drop(struct tr_sched *sched)
{
	for (uint32_t i = 0; i < sched->lane_count; i++) {
		struct lane *lane = &sched->lanes[i];

		if (lane->ready == NULL)
			continue;
		ready_unwait(lane);
		ready_release(lane->ready, lane->held + lane->coming);
		lane->held = lane->coming = 0;
		ready_unref(lane->ready);
		lane->ready = NULL;
	}
}

/* The ready queue of one lane. */
static int
route_lane(struct lane *lane, const char *site, struct tr_str routing)
{
	struct tr_sched *sched = lane->sched;
	struct tr_engine *engine = sched->engine;
	const struct tr_queue_config *config = sched->config;
	const char *source = lane->source != NULL ? lane->source->named.name : "unspecified";
	struct tr_buf name = {0};
	struct tr_ready *ready;
	bool made = false;

	tr_buf_addf(&name, "%s->%s@%s%s", source, site, config->protocol == TR_PROTO_LUA ? "lua:" : "smtp_client",
		config->protocol == TR_PROTO_LUA && config->constructor != NULL ? config->constructor : "");
	if (name.failed) {
		tr_buf_free(&name);
		return TR_ENOMEM;
	}
	ready = ready_find(engine, (struct tr_str){name.data, name.len});
	if (ready == NULL) {
		struct tr_ready *fresh = ready_new(sched, (struct tr_str){name.data, name.len}, site, source, routing);

		ready = fresh;
		if (fresh != NULL) {
			struct tr_ready **bucket = bucket_of(engine, (struct tr_str){name.data, name.len});

			fresh->via = source_ref(lane->source);
			atomic_init(&fresh->refs, 1);
			pthread_mutex_lock(&engine->ready_lock);
			for (ready = *bucket; ready != NULL; ready = ready->hash_next) { /* another worker was faster */
				if (strcmp(ready->name, fresh->name) == 0 &&
					atomic_load(&ready->state) != READY_REPLACED)
					break;
			}
			if (ready != NULL) {
				atomic_fetch_add_explicit(&ready->refs, 1, memory_order_relaxed);
			} else {
				fresh->hash_next = *bucket;
				*bucket = fresh;
				ready = fresh;
				made = true;
			}
			pthread_mutex_unlock(&engine->ready_lock);
			if (!made)
				ready_free(fresh);
		}
	}
	tr_buf_free(&name);
	if (ready == NULL)
		return TR_ENOMEM;
	lane->ready = ready;
	if (made)
		ready_resolve(ready);
	return TR_OK;
}

int
ready_route(struct tr_sched *sched)
{
	const struct tr_queue_config *config = sched->config;
	struct tr_str routing = sched->parts.has_routing ? sched->parts.routing_domain : sched->parts.domain;
	struct tr_buf site = {0};
	int err = TR_OK;

	if (config->protocol == TR_PROTO_SMTP && config->mx_count > 0) {
		tr_buf_addz(&site, "mx_list:");
		for (uint32_t i = 0; i < config->mx_count; i++) {
			if (i > 0)
				tr_buf_addc(&site, ',');
			tr_buf_addz(&site, config->mx_list[i].label);
		}
	} else if (site_needed(sched) && sched->site != NULL) {
		tr_buf_addz(&site, sched->site);
	} else {
		tr_buf_add_str(&site, routing);
	}
	tr_buf_addc(&site, '\0');
	if (site.failed)
		err = TR_ENOMEM;
	else
		lanes_drop(sched);
	for (uint32_t i = 0; i < sched->lane_count && err == TR_OK; i++)
		err = route_lane(&sched->lanes[i], site.data, routing);
	tr_buf_free(&site);
	return err;
}

/* --- configuration ----------------------------------------------------------------------------------------------- */

void
ready_resolve(struct tr_ready *ready)
{
	if (ready->resolving || stopping(ready->engine))
		return;
	ready->resolving = true;
	ready->epoch = atomic_load(&ready->engine->epoch);
	atomic_fetch_add_explicit(&ready->refs, 1, memory_order_relaxed);
	ready->engine->ops.resolve_path(ready->engine->ops_arg, ready->home, ready);
}

/* It waits for a place that the new limits name, too: then it keeps its turn. */
static bool
waits_rightly_locked(const struct tr_ready *ready)
{
	const struct ready_limits *limits = ready->limits;

	if (ready->lease_set == NULL || !ready->lease_waiter.promise)
		return false;
	for (uint32_t i = 0; limits != NULL && i < limits->lease_count; i++) {
		if (limits->leases[i].set == ready->lease_set && limits->leases[i].limit == ready->lease_waiter.limit)
			return true;
	}
	return false;
}

void
tr_ready_configured(struct tr_ready *ready, struct tr_path_config *config, const char *error)
{
	struct tr_path_config *old = NULL;
	struct ready_limits *limits = NULL;
	struct message_list excess = {NULL, NULL, 0};
	struct tr_sched *chain;
	bool waits_on = false;

	if (config != NULL && limits_new(ready, config, &limits) != TR_OK) {
		tr_path_config_unref(config);
		config = NULL;
		error = "out of memory";
	}
	ready->resolving = false;
	ready->resolved_at_ns = tr_mono_ns();
	char *why = config == NULL ? strdup(error != NULL ? error : "no answer") : NULL;
	pthread_mutex_lock(&ready->lock);
	if (config != NULL) {
		struct ready_limits *before = ready->limits;

		old = ready->path;
		ready->path = config;
		ready->limits = limits;
		limits = before;
		ready->permit_after_ns = 0; /* what was refused by the old ones may be asked again */
		if (!limits_same_rates(limits, ready->limits))
			ready->paced_until_ns = 0;
		waits_on = waits_rightly_locked(ready);
		if (!waits_on)
			ready->hindrance = FREE;
		atomic_store(&ready->selects, config->selection_rate.quantity > 0 || config->selection_rate_count > 0);
		if (config->gate.failures_to_close == 0)
			ready->gate = (struct tr_gate){0};
		if (atomic_load(&ready->state) != READY_REPLACED)
			atomic_store(&ready->state, READY_OK);
		if (ready->messages.count > config->max_ready) { /* contract/queues.md section 7: from the tail */
			struct message_list keep = {NULL, NULL, 0};

			while (keep.count < config->max_ready)
				list_add(&keep, list_pop(&ready->messages));
			excess = ready->messages;
			ready->messages = keep;
			for (struct tr_message *message = excess.head; message != NULL; message = message->next) {
				uint32_t size = tr_spool_stub(ready->engine->spool, message->slot)->size;

				ready->bytes -= size;
				atomic_fetch_sub_explicit(&ready->engine->ready_used, size, memory_order_relaxed);
			}
		}
	} else if (ready->path == NULL) {
		ready->error_until_ns = tr_mono_ns() + ERROR_TTL_NS;
		if (atomic_load(&ready->state) != READY_REPLACED)
			atomic_store(&ready->state, READY_ERROR);
	}
	char *old_error = ready->error;
	ready->error = why;
	why = old_error;
	chain = ready_grant_locked(ready);
	pthread_mutex_unlock(&ready->lock);
	if (config == NULL)
		tr_log(TR_LEVEL_ERROR, "queue", "%s: no path configuration%s: %s", ready->name,
			ready->path != NULL ? ", the old one stays" : "", error != NULL ? error : "no answer");
	ready_kick_chain(chain);
	free(why);
	if (config != NULL && !waits_on)
		permit_unwait(ready);
	limits_unref(limits);
	tr_path_config_unref(old);
	if (excess.count > 0)
		ready_return_to_lines(ready->home, &excess, false);
	ready_balance(ready, ready->home);
	ready_unref(ready);
}

struct tr_str
tr_ready_name(const struct tr_ready *ready)
{
	return tr_str(ready->name);
}

struct tr_str
tr_ready_site(const struct tr_ready *ready)
{
	return tr_str(ready->site);
}

struct tr_str
tr_ready_source(const struct tr_ready *ready)
{
	return tr_str(ready->source);
}

struct tr_str
tr_ready_routing_domain(const struct tr_ready *ready)
{
	return tr_str(ready->routing_domain);
}

bool
tr_ready_is_hook(const struct tr_ready *ready)
{
	return ready->hook;
}
