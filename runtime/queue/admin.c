/* Administrators' rules: bounces and suspensions, in memory only, each with its own end. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/json.h"
#include "queue/admin.h"
#include "queue/engine.h"
#include "queue/order.h"
#include "queue/outcome.h"
#include "queue/ready.h"
#include "queue/sched.h"
#include "queue/session.h"
#include "queue/worker.h"

void
admin_rule_free(struct admin_rule *rule)
{
	free(rule->campaign);
	free(rule->tenant);
	free(rule->domain);
	free(rule->routing_domain);
	free(rule->ready_name);
	free(rule->reason);
	for (char **name = rule->queue_names; name != NULL && *name != NULL; name++)
		free(*name);
	free(rule->queue_names);
	for (uint32_t i = 0; i < rule->queues; i++)
		free(rule->by_queue[i].queue);
	free(rule->by_queue);
	free(rule);
}

static bool
part_matches(const char *want, bool has, struct tr_str part)
{
	return want == NULL || (has && tr_str_eq(tr_str(want), part));
}

bool
admin_rule_matches(const struct admin_rule *rule, const struct tr_sched *sched)
{
	const struct tr_queue_name *parts = &sched->parts;

	if (rule->queue_names != NULL && rule->queue_names[0] != NULL) {
		for (char **name = rule->queue_names; *name != NULL; name++) {
			if (strcmp(*name, sched->name) == 0)
				return true;
		}
		return false;
	}
	return part_matches(rule->campaign, parts->has_campaign, parts->campaign) &&
	       part_matches(rule->tenant, parts->has_tenant, parts->tenant) &&
	       part_matches(rule->domain, true, parts->domain) &&
	       part_matches(rule->routing_domain, parts->has_routing, parts->routing_domain);
}

static void
add_hits(struct admin_rule *rule, const char *queue, uint64_t hits)
{
	struct admin_hit *more;

	rule->hits += hits;
	for (uint32_t i = 0; i < rule->queues; i++) {
		if (strcmp(rule->by_queue[i].queue, queue) == 0) {
			rule->by_queue[i].count += hits;
			return;
		}
	}
	if (rule->queues >= 1000)
		return; /* the total stays true */
	more = realloc(rule->by_queue, (rule->queues + 1) * sizeof *more);
	if (more == NULL)
		return;
	rule->by_queue = more;
	more[rule->queues].queue = strdup(queue);
	more[rule->queues].count = hits;
	if (more[rule->queues].queue != NULL)
		rule->queues++;
}

bool
admin_check(struct tr_engine *engine, enum tr_admin_kind kind, const struct tr_sched *sched, struct admin_verdict *out,
	uint64_t hits, int64_t *until_ns)
{
	struct admin_rule *rule;
	int64_t now_ns = tr_mono_ns();

	if (atomic_load_explicit(&engine->rule_count[kind], memory_order_relaxed) == 0)
		return false;
	pthread_mutex_lock(&engine->admin_lock);
	for (rule = engine->rules; rule != NULL; rule = rule->next) {
		if (rule->kind == kind && rule->expires_at_ns > now_ns && admin_rule_matches(rule, sched))
			break;
	}
	if (rule != NULL) {
		if (hits > 0)
			add_hits(rule, sched->name, hits);
		if (out != NULL) {
			size_t len = strlen(rule->reason);

			len = len < sizeof out->reason ? len : sizeof out->reason - 1;
			memcpy(out->reason, rule->reason, len);
			out->reason[len] = '\0';
			out->suppress = rule->suppress;
		}
		if (until_ns != NULL)
			*until_ns = rule->expires_at_ns;
	}
	pthread_mutex_unlock(&engine->admin_lock);
	return rule != NULL;
}

bool
admin_ready_suspended(struct tr_engine *engine, const char *name, int64_t *until_ns)
{
	return admin_ready_verdict(engine, name, NULL, until_ns);
}

bool
admin_ready_verdict(struct tr_engine *engine, const char *name, struct admin_verdict *out, int64_t *until_ns)
{
	struct admin_rule *rule;
	int64_t now_ns = tr_mono_ns();

	if (atomic_load_explicit(&engine->rule_count[TR_ADMIN_SUSPEND_READY], memory_order_relaxed) == 0)
		return false;
	pthread_mutex_lock(&engine->admin_lock);
	for (rule = engine->rules; rule != NULL; rule = rule->next) {
		if (rule->kind == TR_ADMIN_SUSPEND_READY && rule->expires_at_ns > now_ns &&
			strcmp(rule->ready_name, name) == 0)
			break;
	}
	if (rule != NULL && until_ns != NULL)
		*until_ns = rule->expires_at_ns;
	if (rule != NULL && out != NULL)
		snprintf(out->reason, sizeof out->reason, "%s", rule->reason);
	pthread_mutex_unlock(&engine->admin_lock);
	return rule != NULL;
}

/* --- telling the workers ------------------------------------------------------------------------------------- */

struct sweep_mail {
	struct tr_mail mail;
	struct tr_worker *worker;
	bool bounce; /* act on what waits; else only wake the queues */
};

/* A bounce sweep of one worker. */
struct bounce_sweep {
	struct sweep sweep;
	bool again; /* another rule came meanwhile */
};

static bool
is_bounced(struct sweep *sweep, const struct tr_sched *sched)
{
	return admin_check(sched->engine, TR_ADMIN_BOUNCE, sched, NULL, 0, NULL);
}

static void
bounce_slot(struct sweep *sweep, uint32_t slot)
{
	judge_slot(sweep->worker, slot);
}

static void
bounces_found(struct sweep *sweep)
{
	judge_start(sweep->worker);
}

static void bounces_ended(struct sweep *sweep);

static void
bounces_begin(struct bounce_sweep *bounces, struct tr_worker *worker)
{
	bounces->again = false;
	bounces->sweep.wants = is_bounced;
	bounces->sweep.take = bounce_slot;
	bounces->sweep.turn = bounces_found;
	bounces->sweep.ended = bounces_ended;
	sweep_start(&bounces->sweep, worker);
}

static void
bounces_ended(struct sweep *sweep)
{
	struct bounce_sweep *bounces = tr_container_of(sweep, struct bounce_sweep, sweep);
	struct tr_worker *worker = sweep->worker;

	if (bounces->again && !stopping(worker->engine)) {
		bounces_begin(bounces, worker);
		return;
	}
	worker->bounces = NULL;
	free(bounces);
}

static void
sweep_arrived(struct tr_mail *mail)
{
	struct sweep_mail *order = tr_container_of(mail, struct sweep_mail, mail);
	struct tr_worker *worker = order->worker;

	if (!order->bounce) {
		pthread_mutex_lock(&worker->home_lock);
		for (struct tr_sched *sched = worker->homes; sched != NULL; sched = sched->home_next)
			sched_activate(sched);
		pthread_mutex_unlock(&worker->home_lock);
	} else if (worker->bounces != NULL) {
		worker->bounces->again = true;
	} else if ((worker->bounces = calloc(1, sizeof *worker->bounces)) != NULL) {
		bounces_begin(worker->bounces, worker);
	} else {
		tr_log(TR_LEVEL_ERROR, "queue",
			"no memory for a bounce sweep: messages are bounced when they come due");
	}
	free(order);
}

static void
tell_workers(struct tr_engine *engine, bool bounce)
{
	for (uint32_t i = 0; i < engine->worker_count; i++) {
		struct sweep_mail *order = calloc(1, sizeof *order);

		if (order == NULL) {
			tr_log(TR_LEVEL_ERROR, "queue", "no memory to tell a worker of an administrator's rule");
			continue;
		}
		order->mail.fn = sweep_arrived;
		order->worker = &engine->workers[i];
		order->bounce = bounce;
		tr_loop_post(engine->workers[i].loop, &order->mail);
	}
}

static void
suspend_ready(struct tr_engine *engine, const char *name, bool on)
{
	struct tr_ready *ready = ready_find(engine, tr_str(name));
	struct tr_worker *here = worker_here(engine);

	if (ready == NULL)
		return;
	atomic_store(&ready->suspended, on);
	if (on && here != NULL)
		ready_drain(ready, here);
	if (on)
		sessions_close_all(ready, here);
	ready_kick(ready);
	ready_unref(ready);
}

/* --- rules ---------------------------------------------------------------------------------------------------- */

static bool
copy_text(char **to, const char *from)
{
	*to = from != NULL ? strdup(from) : NULL;
	return from == NULL || *to != NULL;
}

static bool
texts_equal(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static bool
same_criteria(const struct admin_rule *a, const struct admin_rule *b)
{
	char **x = a->queue_names, **y = b->queue_names;

	for (; x != NULL && y != NULL && *x != NULL && *y != NULL; x++, y++) {
		if (strcmp(*x, *y) != 0)
			return false;
	}
	if ((x != NULL && *x != NULL) || (y != NULL && *y != NULL))
		return false;
	return a->kind == b->kind && texts_equal(a->campaign, b->campaign) && texts_equal(a->tenant, b->tenant) &&
	       texts_equal(a->domain, b->domain) && texts_equal(a->routing_domain, b->routing_domain) &&
	       texts_equal(a->ready_name, b->ready_name);
}

struct admin_rule *
admin_rule_new(const struct tr_admin_match *match, const char *ready_name, const char *reason)
{
	struct admin_rule *rule = calloc(1, sizeof *rule);
	size_t names = 0;
	bool fine;

	if (rule == NULL)
		return NULL;
	fine = copy_text(&rule->reason, reason != NULL ? reason : "") && copy_text(&rule->ready_name, ready_name);
	if (match != NULL)
		fine = fine && copy_text(&rule->campaign, match->campaign) && copy_text(&rule->tenant, match->tenant) &&
		       copy_text(&rule->domain, match->domain) &&
		       copy_text(&rule->routing_domain, match->routing_domain);
	while (match != NULL && match->queue_names != NULL && match->queue_names[names] != NULL)
		names++;
	if (fine && names > 0) {
		rule->queue_names = calloc(names + 1, sizeof *rule->queue_names);
		fine = rule->queue_names != NULL;
		for (size_t i = 0; fine && i < names; i++)
			fine = copy_text(&rule->queue_names[i], match->queue_names[i]);
	}
	if (fine)
		return rule;
	admin_rule_free(rule);
	return NULL;
}

int
tr_admin_add(struct tr_engine *engine, enum tr_admin_kind kind, const struct tr_admin_match *match,
	const char *ready_name, const char *reason, int64_t duration_ns, bool suppress_logging, bool sweep, char id[37])
{
	struct admin_rule *rule, **at;
	uint8_t uuid[16];

	if (kind == TR_ADMIN_SUSPEND_READY && ready_name == NULL)
		return TR_EINVAL;
	rule = admin_rule_new(match, ready_name, reason);
	if (rule == NULL)
		return TR_ENOMEM;
	rule->kind = kind;
	rule->suppress = suppress_logging;
	rule->expires_at_ns = tr_mono_ns() + duration_ns;
	tr_uuid4(uuid);
	tr_uuid_hyphenated(uuid, rule->id);
	pthread_mutex_lock(&engine->admin_lock);
	for (at = &engine->rules; *at != NULL; at = &(*at)->next) {
		if (same_criteria(*at, rule)) {
			struct admin_rule *old = *at;

			memcpy(rule->id, old->id, sizeof rule->id);
			*at = old->next;
			atomic_fetch_sub(&engine->rule_count[kind], 1);
			admin_rule_free(old);
			break;
		}
	}
	rule->next = engine->rules;
	engine->rules = rule;
	atomic_fetch_add(&engine->rule_count[kind], 1);
	memcpy(id, rule->id, sizeof rule->id);
	pthread_mutex_unlock(&engine->admin_lock);
	if (kind == TR_ADMIN_SUSPEND_READY)
		suspend_ready(engine, ready_name, true);
	else if (kind == TR_ADMIN_BOUNCE && sweep)
		tell_workers(engine, true);
	return TR_OK;
}

bool
tr_admin_delete(struct tr_engine *engine, enum tr_admin_kind kind, const char *id)
{
	struct admin_rule *rule = NULL;

	pthread_mutex_lock(&engine->admin_lock);
	for (struct admin_rule **at = &engine->rules; *at != NULL; at = &(*at)->next) {
		if ((*at)->kind != kind || strcmp((*at)->id, id) != 0)
			continue;
		rule = *at;
		*at = rule->next;
		atomic_fetch_sub(&engine->rule_count[kind], 1);
		break;
	}
	pthread_mutex_unlock(&engine->admin_lock);
	if (rule == NULL)
		return false;
	if (kind == TR_ADMIN_SUSPEND_READY)
		suspend_ready(engine, rule->ready_name, admin_ready_suspended(engine, rule->ready_name, NULL));
	else if (kind == TR_ADMIN_SUSPEND)
		tell_workers(engine, false); /* lines go on */
	admin_rule_free(rule);
	return true;
}

void
admin_housekeeping(struct tr_worker *worker)
{
	struct tr_engine *engine = worker->engine;
	struct admin_rule *gone = NULL;
	int64_t now_ns = tr_mono_ns();

	judge_start(worker); /* in case it had no memory */
	if (worker->index != 0)
		return;
	pthread_mutex_lock(&engine->admin_lock);
	for (struct admin_rule **at = &engine->rules; *at != NULL;) {
		struct admin_rule *rule = *at;

		if (rule->expires_at_ns > now_ns) {
			at = &rule->next;
			continue;
		}
		*at = rule->next;
		atomic_fetch_sub(&engine->rule_count[rule->kind], 1);
		rule->next = gone;
		gone = rule;
	}
	pthread_mutex_unlock(&engine->admin_lock);
	while (gone != NULL) {
		struct admin_rule *rule = gone;

		gone = rule->next;
		if (rule->kind == TR_ADMIN_SUSPEND)
			tell_workers(engine, false);
		admin_rule_free(rule);
	}
}

static void
add_member(struct tr_buf *json, const char *key, const char *value)
{
	if (value == NULL)
		return;
	tr_json_add_key(json, key);
	tr_json_add_string(json, tr_str(value));
	tr_buf_addc(json, ',');
}

void
tr_admin_list(struct tr_engine *engine, enum tr_admin_kind kind, struct tr_buf *json)
{
	int64_t now_ns = tr_mono_ns();
	bool first = true;

	tr_buf_addc(json, '[');
	pthread_mutex_lock(&engine->admin_lock);
	for (struct admin_rule *rule = engine->rules; rule != NULL; rule = rule->next) {
		char left[64];

		if (rule->kind != kind || rule->expires_at_ns <= now_ns)
			continue;
		tr_buf_addz(json, first ? "{" : ",{");
		first = false;
		add_member(json, "id", rule->id);
		add_member(json, "campaign", rule->campaign);
		add_member(json, "tenant", rule->tenant);
		add_member(json, "domain", rule->domain);
		add_member(json, "routing_domain", rule->routing_domain);
		add_member(json, "name", rule->ready_name);
		add_member(json, "reason", rule->reason);
		if (rule->queue_names != NULL) {
			tr_json_add_key(json, "queue_names");
			for (char **name = rule->queue_names; *name != NULL; name++) {
				tr_buf_addc(json, name == rule->queue_names ? '[' : ',');
				tr_json_add_string(json, tr_str(*name));
			}
			tr_buf_addz(json, "],");
		}
		if (kind == TR_ADMIN_BOUNCE) {
			tr_json_add_key(json, "bounced");
			tr_buf_addc(json, '{');
			for (uint32_t i = 0; i < rule->queues; i++) {
				if (i > 0)
					tr_buf_addc(json, ',');
				tr_json_add_string(json, tr_str(rule->by_queue[i].queue));
				tr_buf_addc(json, ':');
				tr_buf_add_u64(json, rule->by_queue[i].count);
			}
			tr_buf_addz(json, "},");
			tr_json_add_key(json, "total_bounced");
			tr_buf_add_u64(json, rule->hits);
			tr_buf_addc(json, ',');
		}
		tr_duration_format((rule->expires_at_ns - now_ns) / TR_NS_PER_S * TR_NS_PER_S, left);
		tr_json_add_key(json, "duration");
		tr_json_add_string(json, tr_str(left));
		tr_buf_addc(json, '}');
	}
	pthread_mutex_unlock(&engine->admin_lock);
	tr_buf_addc(json, ']');
}

void
admin_free(struct tr_engine *engine)
{
	while (engine->rules != NULL) {
		struct admin_rule *rule = engine->rules;

		engine->rules = rule->next;
		admin_rule_free(rule);
	}
	for (uint32_t i = 0; i < engine->worker_count; i++) {
		struct tr_worker *worker = &engine->workers[i];

		if (worker->bounces != NULL)
			sweep_stop(&worker->bounces->sweep);
		free(worker->bounces);
		worker->bounces = NULL;
		rebinds_free(worker);
	}
}
