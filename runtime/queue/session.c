/* The sessions' side: opening, taking, waiting, ending. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "queue/engine.h"
#include "queue/outcome.h"
#include "queue/ready.h"
#include "queue/sched.h"
#include "queue/session.h"
#include "queue/worker.h"

/* --- life --------------------------------------------------------------------------------------------------- */

static void open_arrived(struct tr_mail *mail);
static void wake_arrived(struct tr_mail *mail);

struct session *
session_new_locked(struct tr_ready *ready, struct tr_worker *worker)
{
	struct session *session = calloc(1, sizeof *session);

	if (session == NULL)
		return NULL;
	session->pub.ready = ready;
	session->pub.worker = worker;
	tr_uuid4(session->pub.uuid);
	tr_uuid_hyphenated(session->pub.uuid, session->pub.uuid_text);
	session->pub.path = tr_path_config_ref(ready->path);
	session->pub.queue = tr_queue_config_ref(ready->queue);
	session->pub.started_at_ns = session->pub.phase_at_ns = tr_mono_ns();
	session->pub.phase = "Starting";
	session->open_mail.fn = open_arrived;
	session->wake_mail.fn = wake_arrived;
	atomic_init(&session->refs, 1);
	atomic_fetch_add_explicit(&ready->refs, 1, memory_order_relaxed);
	session->ready_next = ready->all;
	session->ready_prev = &ready->all;
	if (ready->all != NULL)
		ready->all->ready_prev = &session->ready_next;
	ready->all = session;
	ready->sessions++;
	ready->workers[worker->index].sessions++;
	atomic_fetch_add_explicit(&ready->engine->session_total, 1, memory_order_relaxed);
	busy_add(ready->engine);
	return session;
}

void
session_unref(struct session *session)
{
	/* each holder drops its own. NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
	if (atomic_fetch_sub_explicit(&session->refs, 1, memory_order_acq_rel) == 1)
		free(session); /* NOLINT(clang-analyzer-unix.Malloc) */
}

/* It is not one of those that an opening gate lets start any more. */
void
session_uncount_locked(struct session *session)
{
	if (!session->counted)
		return;
	session->counted = false;
	session->pub.ready->gate_under_way--;
}

/* Off the ready queue and the worker: nothing finds it any more. */
static void
retire(struct session *session)
{
	struct tr_ready *ready = session->pub.ready;
	struct tr_engine *engine = ready->engine;

	session->ended = true;
	if (session->worker_prev != NULL) {
		*session->worker_prev = session->worker_next;
		if (session->worker_next != NULL)
			session->worker_next->worker_prev = session->worker_prev;
	}
	tr_timer_stop(tr_loop_wheel(session->pub.worker->loop), &session->cancel);
	pthread_mutex_lock(&ready->lock);
	session_unidle_locked(session);
	session_uncount_locked(session);
	*session->ready_prev = session->ready_next;
	if (session->ready_next != NULL)
		session->ready_next->ready_prev = session->ready_prev;
	ready->sessions--;
	ready->workers[session->pub.worker->index].sessions--;
	if (session->pub.probing)
		tr_gate_abandon(&ready->gate);
	if (session->for_probe)
		ready->probe_coming = false;
	pthread_mutex_unlock(&ready->lock);
	session->pub.probing = false;
	pace_end(session);
	permit_end(session);
	limits_unref(session->limits);
	session->limits = NULL;
	tr_path_config_unref((struct tr_path_config *)session->pub.path);
	tr_queue_config_unref((struct tr_queue_config *)session->pub.queue);
	session->pub.path = NULL;
	session->pub.queue = NULL;
	atomic_fetch_sub_explicit(&engine->session_total, 1, memory_order_relaxed);
}

static void
failed_open(struct tr_ready *ready)
{
	pthread_mutex_lock(&ready->lock);
	ready->open_after_ns = tr_mono_ns() + TR_NS_PER_S;
	pthread_mutex_unlock(&ready->lock);
	ready_kick(ready);
}

void
session_refused(struct session *session)
{
	struct tr_ready *ready = session->pub.ready;
	struct tr_engine *engine = session->pub.worker->engine;

	retire(session);
	if (!stopping(engine))
		ready_kick(ready); /* who looked while it was counted opened nothing in its place */
	ready_unref(ready);
	session_unref(session);
	busy_drop(engine);
}

void
session_permitted(struct session *session)
{
	struct tr_worker *worker = session->pub.worker;
	struct tr_ready *ready = session->pub.ready;
	struct tr_engine *engine = worker->engine;
	int err = TR_ECANCELED;

	if (!stopping(engine)) {
		ready_metric(ready, M_CONNECTIONS_TOTAL, 1);
		err = engine->ops.open_session(engine->ops_arg, worker, &session->pub);
	}
	if (err == TR_OK)
		return;
	if (!stopping(engine))
		tr_log(TR_LEVEL_WARN, "queue", "%s: a session could not be started: %s", ready->name, tr_err_text(err));
	retire(session);
	if (!stopping(engine))
		failed_open(ready);
	ready_unref(ready);
	session_unref(session);
	busy_drop(engine);
}

static void
open_now(struct session *session)
{
	struct tr_worker *worker = session->pub.worker;
	enum permit_answer answer = PERMIT_GRANTED;

	session->worker_next = worker->sessions;
	session->worker_prev = &worker->sessions;
	if (worker->sessions != NULL)
		worker->sessions->worker_prev = &session->worker_next;
	worker->sessions = session;
	if (!stopping(worker->engine))
		answer = permit_ask(session);
	if (answer == PERMIT_GRANTED)
		session_permitted(session);
	else if (answer == PERMIT_REFUSED)
		session_refused(session);
}

static void
wake_now(struct session *session)
{
	struct tr_engine *engine = session->pub.worker->engine;

	atomic_store(&session->wake_posted, false);
	if (!session->ended && !permit_pending(session))
		engine->ops.wake_session(engine->ops_arg, &session->pub);
	else if (!session->ended && stopping(engine))
		session_refused(session); /* there is nothing to wait for */
	/* the wake's own reference. NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
	session_unref(session);
}

static void
open_arrived(struct tr_mail *mail)
{
	open_now(tr_container_of(mail, struct session, open_mail));
}

static void
wake_arrived(struct tr_mail *mail)
{
	wake_now(tr_container_of(mail, struct session, wake_mail));
}

static void
act_all(struct tr_defer *defer)
{
	struct tr_worker *worker = tr_container_of(defer, struct tr_worker, act_defer);
	struct session *open = worker->act_open, *wake = worker->act_wake;

	worker->act_open = worker->act_wake = NULL;
	worker->act_open_end = &worker->act_open;
	worker->act_wake_end = &worker->act_wake;
	while (wake != NULL) {
		struct session *next = wake->act_next;

		wake_now(wake);
		wake = next;
	}
	while (open != NULL) {
		struct session *next = open->act_next;

		open_now(open);
		open = next;
	}
}

/* A wake was claimed by session_claim_wake(). `here`: the caller's worker. */
void
session_act(struct session *session, struct tr_worker *here, bool open)
{
	struct tr_worker *worker = session->pub.worker;

	if (worker != here) {
		tr_loop_post(worker->loop, open ? &session->open_mail : &session->wake_mail);
		return;
	}
	session->act_next = NULL;
	if (open) {
		*worker->act_open_end = session;
		worker->act_open_end = &session->act_next;
	} else {
		*worker->act_wake_end = session;
		worker->act_wake_end = &session->act_next;
	}
	tr_loop_defer(worker->loop, &worker->act_defer, act_all);
}

void
tr_session_held_up(struct tr_session *pub, const char *text)
{
	struct session *session = session_of(pub);

	pthread_mutex_lock(&pub->ready->lock);
	snprintf(session->held_up, sizeof session->held_up, "%s", text != NULL ? text : "");
	pub->phase_at_ns = tr_mono_ns();
	pthread_mutex_unlock(&pub->ready->lock);
}

bool
tr_session_is_held_up(const struct tr_session *pub)
{
	return ((const struct session *)pub)->held_up[0] != '\0';
}

void
tr_session_end(struct tr_session *pub)
{
	struct session *session = session_of(pub);
	struct tr_ready *ready = pub->ready;
	struct tr_worker *worker = pub->worker;
	bool useless = session->taken == 0 && !session->saw_empty;

	retire(session);
	if ((useless || pub->failed_itself) && !stopping(worker->engine))
		failed_open(ready); /* it ended before it took anything, or by a defect: not again at once */
	else
		ready_balance(ready, worker);
	ready_unref(ready);
	session_unref(session);
	busy_drop(worker->engine);
}

void
sessions_close_all(struct tr_ready *ready, struct tr_worker *worker)
{
	struct session *wake = NULL;

	pthread_mutex_lock(&ready->lock);
	for (uint32_t i = 0; i < ready->engine->worker_count; i++) {
		while (ready->workers[i].idle != NULL) {
			struct session *session = ready->workers[i].idle;

			session_unidle_locked(session);
			if (!session_claim_wake(session))
				continue;
			session->act_next = wake;
			wake = session;
		}
	}
	for (struct session *session = ready->all; session != NULL; session = session->ready_next) {
		if (!session->pacing || !session_claim_wake(session))
			continue;
		session->act_next = wake;
		wake = session;
	}
	pthread_mutex_unlock(&ready->lock);
	while (wake != NULL) {
		struct session *session = wake;

		wake = session->act_next;
		session_act(session, worker, false);
	}
}

/* --- taking ---------------------------------------------------------------------------------------------------- */

static void
pressure_over(struct tr_timer *timer)
{
	struct tr_worker *worker = tr_container_of(timer, struct tr_worker, pressure_timer);

	if (stopping(worker->engine))
		return;
	if (tr_spool_pressure(worker->engine->spool)) {
		tr_timer_start(tr_loop_wheel(worker->loop), timer, 5 * TR_NS_PER_MS, pressure_over);
		return;
	}
	for (struct session *session = worker->sessions; session != NULL; session = session->worker_next)
		ready_balance(session->pub.ready, worker);
}

/* Nothing else tells that the commits have caught up: the sessions here are looked after until it is so. */
static void
await_pressure(struct tr_worker *worker)
{
	if (!tr_timer_running(&worker->pressure_timer) && !stopping(worker->engine))
		tr_timer_start(tr_loop_wheel(worker->loop), &worker->pressure_timer, 5 * TR_NS_PER_MS, pressure_over);
}

/* Why nothing may be taken now; TR_TAKE_GOT: it may. */
static enum tr_take
may_take_locked(struct session *session)
{
	struct tr_ready *ready = session->pub.ready;
	int64_t wait_ns;

	if (session->for_probe) { /* it has come: whatever it finds, the next probe may be sent for */
		session->for_probe = false;
		ready->probe_coming = false;
	}
	if (stopping(ready->engine) || atomic_load(&ready->state) != READY_OK || atomic_load(&ready->suspended))
		return TR_TAKE_CLOSE;
	if (ready->messages.count == 0)
		return TR_TAKE_EMPTY;
	if (tr_spool_pressure(ready->engine->spool)) {
		await_pressure(session->pub.worker);
		return TR_TAKE_EMPTY;
	}
	if (ready->paced_until_ns != 0 && ready->paced_until_ns > tr_mono_ns())
		return TR_TAKE_EMPTY;
	if (tr_gate_is_paced(&ready->gate)) {
		if (session->counted)
			return TR_TAKE_GOT;
		if (ready->gate_under_way >= ready->gate.concurrent ||
			!tr_gate_enter(&ready->gate, tr_mono_ns(), &wait_ns)) {
			ready_kick(ready); /* it wakes somebody when the next one may start */
			return TR_TAKE_EMPTY;
		}
		session->counted = true;
		session->took_at_ns = tr_mono_ns();
		ready->gate_under_way++;
	} else if (ready->path->gate.failures_to_close != 0 && ready->gate.state != TR_GATE_OPEN) {
		if (session->pub.probing)
			return TR_TAKE_GATE; /* its one batch is under way or was without an outcome */
		if (!tr_gate_enter(&ready->gate, tr_mono_ns(), &wait_ns))
			return TR_TAKE_GATE;
		session->pub.probing = true;
	}
	return TR_TAKE_GOT;
}

uint32_t
tr_session_take(struct tr_session *pub, uint32_t max, uint64_t max_bytes, struct tr_message **list, enum tr_take *why)
{
	struct session *session = session_of(pub);
	struct tr_ready *ready = pub->ready;
	struct tr_engine *engine = ready->engine;
	struct message_list got = {NULL, NULL, 0}, good = {NULL, NULL, 0};
	struct judge judge = {.worker = pub->worker};
	struct tr_sched *chain;
	struct tr_message *message;
	uint64_t bytes = 0;
	struct ready_limits *old = NULL;
	int64_t now_ms;
	bool more = true;

	*list = NULL;
	do {
		pthread_mutex_lock(&ready->lock);
		session_unidle_locked(session);
		if (session->limits != ready->limits) {
			limits_unref(old);
			old = session->limits;
			session->limits = limits_ref(ready->limits);
		}
		*why = may_take_locked(session);
		if (*why != TR_TAKE_GOT) {
			pthread_mutex_unlock(&ready->lock);
			session->saw_empty = true; /* it got an answer: no failed opening */
			session->late_ns = 0;
			break;
		}
		uint64_t freed = 0;
		while (got.count < max && (message = ready->messages.head) != NULL) {
			uint32_t size = tr_spool_stub(engine->spool, message->slot)->size;

			if (got.count > 0 && max_bytes > 0 && bytes + size > max_bytes) {
				more = false;
				break;
			}
			bytes += size;
			freed += size;
			list_pop(&ready->messages);
			list_add(&got, message);
		}
		ready->bytes -= freed;
		atomic_fetch_sub_explicit(&engine->ready_used, (int64_t)freed, memory_order_relaxed);
		chain = ready_grant_locked(ready);
		pthread_mutex_unlock(&ready->lock);
		ready_kick_chain(chain);
		now_ms = tr_wall_ms();
		while ((message = list_pop(&got)) != NULL) {
			if (judge_message(&judge, sched_of(engine, message), message, JUDGE_TAKE, now_ms))
				list_add(&good, message);
		}
		if (max == 0)
			break;
	} while (good.count == 0 && more);
	limits_unref(old);
	judge_finish(&judge, ready);
	count_move(engine, IN_READY, IN_FLIGHT, good.count);
	session->taken += good.count;
	session->held += good.count;
	*list = good.head;
	if (good.count > 0)
		*why = TR_TAKE_GOT;
	else if (*why == TR_TAKE_GOT)
		*why = TR_TAKE_EMPTY;
	return good.count;
}

/* --- waiting ---------------------------------------------------------------------------------------------------- */

void
session_unidle_locked(struct session *session)
{
	struct tr_ready *ready = session->pub.ready;

	if (!session->pub.idle_queued)
		return;
	*session->idle_prev = session->idle_next;
	if (session->idle_next != NULL)
		session->idle_next->idle_prev = session->idle_prev;
	session->pub.idle_queued = false;
	session->pub.idle = false;
	ready->idle--;
}

/* Nothing may be taken now, though there is something: who may, or when, is a matter of the home's timer. */
bool
ready_held_back_locked(const struct tr_ready *ready)
{
	int64_t now_ns;

	if (ready->paced_until_ns != 0 && ready->paced_until_ns > tr_mono_ns())
		return true;
	if (ready->path->gate.failures_to_close == 0)
		return false;
	if (!tr_gate_is_paced(&ready->gate))
		return ready->gate.state != TR_GATE_OPEN;
	now_ns = tr_mono_ns();
	return ready->gate_under_way >= ready->gate.concurrent || tr_gate_room(&ready->gate, now_ns) == 0;
}

bool
tr_session_wait(struct tr_session *pub)
{
	struct session *session = session_of(pub);
	struct tr_ready *ready = pub->ready;
	struct ready_worker *place = &ready->workers[pub->worker->index];
	bool idle = true;

	pthread_mutex_lock(&ready->lock);
	if (stopping(ready->engine) || atomic_load(&ready->state) != READY_OK || atomic_load(&ready->suspended))
		idle = false;
	else if (ready->messages.count > 0 && tr_spool_pressure(ready->engine->spool))
		await_pressure(pub->worker); /* they came after the take, and who put them in saw a busy session */
	else if (ready->messages.count > 0 && !ready_held_back_locked(ready))
		idle = false;
	if (idle && session->held == 0 && session->counted) {
		session_uncount_locked(session);
		ready_kick(ready); /* another may start in its place */
	}
	if (idle && !pub->idle_queued) { /* the last to come is the first to be woken: its connection is the warmest */
		session->idle_next = place->idle;
		session->idle_prev = &place->idle;
		if (place->idle != NULL)
			place->idle->idle_prev = &session->idle_next;
		place->idle = session;
		pub->idle_queued = pub->idle = true;
		ready->idle++;
	}
	pthread_mutex_unlock(&ready->lock);
	return idle;
}

void
tr_session_unwait(struct tr_session *pub)
{
	pthread_mutex_lock(&pub->ready->lock);
	session_unidle_locked(session_of(pub));
	pthread_mutex_unlock(&pub->ready->lock);
	session_of(pub)->settling = false;
}

void
tr_session_feeding(const struct tr_session *pub, struct tr_buf *name)
{
	const struct tr_ready *ready = pub->ready;
	struct tr_engine *engine = ready->engine;

	for (uint32_t i = 0; i < engine->worker_count; i++) {
		struct tr_worker *worker = &engine->workers[i];

		if (worker != pub->worker && worker != ready->home)
			continue; /* the maker's worker is the likeliest; its list is short to search */
		pthread_mutex_lock(&worker->home_lock);
		for (struct tr_sched *sched = worker->homes; sched != NULL; sched = sched->home_next) {
			struct tr_str routing =
				sched->parts.has_routing ? sched->parts.routing_domain : sched->parts.domain;

			if (tr_str_eq(routing, tr_str(ready->routing_domain))) {
				tr_buf_addz(name, sched->name);
				pthread_mutex_unlock(&worker->home_lock);
				return;
			}
		}
		pthread_mutex_unlock(&worker->home_lock);
	}
	tr_buf_addz(name, ready->routing_domain);
}

bool
tr_session_must_settle(const struct tr_session *pub)
{
	return pub->worker->unsettled > UNSETTLED_MAX;
}

bool
tr_session_wait_settled(struct tr_session *pub)
{
	if (!tr_session_must_settle(pub))
		return false;
	session_of(pub)->settling = true;
	return true;
}

void
sessions_settled(struct tr_worker *worker)
{
	if (worker->unsettled > UNSETTLED_MAX / 2)
		return;
	for (struct session *session = worker->sessions; session != NULL; session = session->worker_next) {
		if (!session->settling)
			continue;
		session->settling = false;
		if (session_claim_wake(session))
			session_act(session, worker, false);
	}
}
