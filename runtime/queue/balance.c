/* How many sessions a ready queue wants, and on which worker they run. */
#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "queue/engine.h"
#include "queue/ready.h"
#include "queue/session.h"
#include "queue/worker.h"

/* contract/queues.md section 7 */
static uint32_t
wanted_locked(const struct tr_ready *ready)
{
	uint32_t length = ready->messages.count;
	double most, limit;

	if (ready->paced_until_ns != 0) /* the first to come back tells whether the rate lets more go */
		return length == 0 || ready->paced_until_ns > tr_mono_ns() || atomic_load(&ready->state) != READY_OK ||
				       atomic_load(&ready->suspended) || stopping(ready->engine)
			       ? 0
			       : 1;
	if (length == 0 || atomic_load(&ready->state) != READY_OK || atomic_load(&ready->suspended) ||
		stopping(ready->engine))
		return 0;
	limit = ready->path->connection_limit;
	if (length >= 400) /* the curve has reached the limit */
		return length < ready->path->connection_limit ? length : ready->path->connection_limit;
	most = ceil(limit * (1 - exp(-0.023 * length)));
	return most < length ? (uint32_t)most : length;
}

/* The worker with the fewest sessions of this ready queue; `here` among equals, so that one session needs no wake. */
static struct tr_worker *
least_locked(const struct tr_ready *ready, const struct tr_worker *here)
{
	struct tr_engine *engine = ready->engine;
	uint32_t best = here != NULL ? here->index : 0;

	for (uint32_t i = 0; i < engine->worker_count; i++) {
		if (ready->workers[i].sessions < ready->workers[best].sessions)
			best = i;
	}
	return &engine->workers[best];
}

struct plan {
	struct session *open, *wake; /* by act_next */
	bool timer;
};

static void
plan_wake(struct tr_ready *ready, struct session *session, struct plan *plan)
{
	session_unidle_locked(session);
	if (!session_claim_wake(session))
		return; /* one is on its way */
	session->act_next = plan->wake;
	plan->wake = session;
}

static bool
plan_open(struct tr_ready *ready, struct tr_worker *here, struct plan *plan, bool probe)
{
	struct session *session;

	if (ready->lease_set != NULL && !tr_lease_set_is_shared(ready->lease_set))
		return false; /* told when a place is free; other nodes do not tell */
	if (ready->open_after_ns > tr_mono_ns() || ready->permit_after_ns > tr_mono_ns()) {
		plan->timer = true;
		return false;
	}
	session = session_new_locked(ready, least_locked(ready, here));
	if (session == NULL) {
		ready->open_after_ns = tr_mono_ns() + TR_NS_PER_S;
		plan->timer = true;
		return false;
	}
	session->for_probe = probe;
	session->act_next = plan->open;
	plan->open = session;
	return true;
}

/* One session for the probe, once its time has come. */
static void
plan_probe(struct tr_ready *ready, struct tr_worker *here, struct plan *plan)
{
	if (ready->gate.state == TR_GATE_PROBING || ready->probe_coming || ready->messages.count == 0)
		return;
	if (tr_mono_ns() < ready->gate.reopen_at_ns) {
		plan->timer = true;
		return;
	}
	for (uint32_t i = 0; i < ready->engine->worker_count; i++) {
		uint32_t at = (i + (here != NULL ? here->index : 0)) % ready->engine->worker_count;
		struct session *idle = ready->workers[at].idle;

		if (idle != NULL) {
			idle->for_probe = ready->probe_coming = true;
			plan_wake(ready, idle, plan);
			return;
		}
	}
	if (ready->sessions < ready->path->connection_limit)
		ready->probe_coming = plan_open(ready, here, plan, true);
}

static void
plan_sessions(struct tr_ready *ready, struct tr_worker *here, struct plan *plan)
{
	uint32_t wanted = wanted_locked(ready), busy = ready->sessions - ready->idle;

	if (wanted == 0) {
		plan->timer = ready->messages.count > 0 && ready->paced_until_ns > tr_mono_ns();
		return;
	}
	if (tr_gate_is_paced(&ready->gate)) { /* as many as may start now */
		uint32_t room = tr_gate_room(&ready->gate, tr_mono_ns());
		uint32_t most = ready->gate.concurrent > ready->gate_under_way
					? ready->gate.concurrent - ready->gate_under_way
					: 0;

		room = room < most ? room : most;
		/* a moment that has passed needs no timer: an outcome brings the next one on */
		plan->timer = ready->gate.next_at_ns > tr_mono_ns();
		if (room == 0)
			return;
		if (wanted > busy && wanted - busy > room)
			wanted = busy + room;
	} else if (ready->path->gate.failures_to_close != 0 && ready->gate.state != TR_GATE_OPEN) {
		plan_probe(ready, here, plan);
		return;
	}
	while (here != NULL && busy < wanted && ready->workers[here->index].idle != NULL) {
		plan_wake(ready, ready->workers[here->index].idle, plan);
		busy++;
	}
	while (busy < wanted && ready->sessions < wanted && plan_open(ready, here, plan, false))
		busy++;
	for (uint32_t i = 0; i < ready->engine->worker_count && busy < wanted; i++) {
		while (busy < wanted && ready->workers[i].idle != NULL) {
			plan_wake(ready, ready->workers[i].idle, plan);
			busy++;
		}
	}
}

bool
ready_balance(struct tr_ready *ready, struct tr_worker *here)
{
	struct plan plan = {NULL, NULL, false};
	bool opened;

	pthread_mutex_lock(&ready->lock);
	plan_sessions(ready, here, &plan);
	pthread_mutex_unlock(&ready->lock);
	opened = plan.open != NULL;
	while (plan.open != NULL) {
		struct session *session = plan.open;

		plan.open = session->act_next;
		session_act(session, here, true);
	}
	while (plan.wake != NULL) {
		struct session *session = plan.wake;

		plan.wake = session->act_next;
		session_act(session, here, false);
	}
	if (plan.timer && !(here == ready->home && tr_timer_running(&ready->timer)))
		ready_kick(ready);
	return opened;
}
