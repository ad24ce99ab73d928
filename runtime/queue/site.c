/* The site of a queue: what its next hop is called, so that all domains with the same mail exchangers share a ready
 * queue. Whoever knows DNS is asked by resolve_site and answers with tr_sched_site(). Source: contract smtp.md
 * section 3.1, queues.md section 1. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "queue/engine.h"
#include "queue/outcome.h"
#include "queue/sched.h"
#include "queue/worker.h"

static bool
is_hook_name(struct tr_str domain)
{
	const struct tr_str end = TR_STR(".log_hook");

	return domain.len >= end.len && memcmp(domain.data + domain.len - end.len, end.data, end.len) == 0;
}

bool
site_needed(const struct tr_sched *sched)
{
	return sched->config->protocol == TR_PROTO_SMTP && sched->config->mx_count == 0 &&
	       sched->engine->ops.resolve_site != NULL && !is_hook_name(sched->parts.domain);
}

static void
ask(struct tr_sched *sched)
{
	struct tr_engine *engine = sched->engine;

	sched->site_asking = true;
	sched_count(sched, 1); /* while it is being looked up */
	engine->ops.resolve_site(engine->ops_arg, sched->home, sched);
}

bool
site_known(struct tr_sched *sched)
{
	if (!site_needed(sched))
		return true;
	if (atomic_load_explicit(&sched->site_stale, memory_order_relaxed) &&
		atomic_exchange(&sched->site_stale, false))
		sched->site_until_ns = 0;
	if (!sched->site_asking && tr_mono_ns() >= sched->site_until_ns)
		ask(sched); /* may be answered at once */
	if (sched->site_asking) {
		if (sched->incoming.count > FRESH_MAX)
			sched_spill(sched, &sched->incoming, false);
		return false;
	}
	if (sched->site_error == NULL)
		return true;
	/* Each message fails as it is promoted: judge_message() sees to it. */
	sched_spill(sched, &sched->fresh, true);
	sched_spill(sched, &sched->incoming, false);
	if (sched->line.count > 0)
		load_start(sched, JUDGE_MAX);
	return false;
}

void
tr_sched_site(struct tr_sched *sched, const char *site, int64_t until_ns, const char *error)
{
	bool same = site != NULL && sched->site != NULL && strcmp(sched->site, site) == 0;
	char *text = same ? sched->site : strdup(site != NULL ? site : error != NULL ? error : "no answer");

	sched->site_asking = false;
	sched->site_until_ns = until_ns;
	if (!same) { /* what was on the way to the ready queue of the old site waits in the line again */
		lanes_drop(sched);
		sched_spill(sched, &sched->fresh, true);
		free(sched->site);
	}
	free(sched->site_error);
	sched->site = site != NULL ? text : NULL;
	sched->site_error = site != NULL ? NULL : text;
	if (text == NULL) { /* the domain is its site meanwhile */
		tr_log(TR_LEVEL_ERROR, "queue", "queue %s: no memory for the name of its site", sched->name);
		sched->site_until_ns = tr_mono_ns() + TR_NS_PER_S;
	}
	sched_activate(sched);
	sched_count(sched, -1);
}

void
tr_queue_forget_site(struct tr_worker *worker, struct tr_str queue)
{
	struct tr_sched *sched = sched_find(worker->engine, queue);

	if (sched == NULL)
		return;
	atomic_store(&sched->site_stale, true);
	sched_count(sched, -1);
}
