/* Stop: nothing new is taken, sends may end, the rest is cancelled by name; complete when nothing is under way. */
#include "base/clock.h"
#include "base/diag.h"
#include "queue/engine.h"
#include "queue/ready.h"
#include "queue/sched.h"
#include "queue/session.h"
#include "queue/worker.h"

static void
told(struct tr_mail *mail)
{
	struct tr_engine *engine = tr_container_of(mail, struct tr_engine, stopped_mail);

	engine->stopped(engine->stopped_arg);
}

static void
tell(struct tr_engine *engine)
{
	if (atomic_exchange(&engine->stop_told, true))
		return;
	engine->stopped_mail.fn = told;
	tr_loop_post(engine->workers[0].loop, &engine->stopped_mail);
}

void
busy_drop(struct tr_engine *engine)
{
	if (atomic_fetch_sub_explicit(&engine->busy, 1, memory_order_acq_rel) == 1 && stopping(engine) &&
		engine->stopped != NULL)
		tell(engine);
}

/* One line for all that are cancelled with this one for the same reason: a line each would meet the bound of lines a
 * second, and whole queues would go unnamed. */
static void
name(struct session *session)
{
	struct tr_session *pub = &session->pub;
	const struct tr_engine *engine = pub->worker->engine;
	struct tr_buf others = {0}, what = {0};
	uint32_t count = 0, held = 0;

	for (struct session *other = pub->worker->sessions; other != NULL; other = other->worker_next) {
		if (other == session || other->named || other->cancelled || other->held == 0 ||
			other->pub.ready != pub->ready || other->pub.path != pub->path ||
			strcmp(other->pub.phase, pub->phase) != 0)
			continue;
		other->named = true;
		count++;
		held += other->held;
		tr_buf_addf(&others, "%s %s", count > 1 ? ";" : "", other->pub.uuid_text);
		if (engine->ops.describe_session != NULL)
			engine->ops.describe_session(engine->ops_arg, &other->pub, false, &others);
	}
	session->named = true;
	if (engine->ops.describe_session != NULL)
		engine->ops.describe_session(engine->ops_arg, pub, true, &what);
	if (count == 0)
		tr_log(TR_LEVEL_WARN, "queue", "%s: session %s is cancelled while %s with %u messages: %.*s",
			pub->ready->name, pub->uuid_text, pub->phase, session->held, (int)what.len,
			what.len > 0 ? what.data : "");
	else
		tr_log(TR_LEVEL_WARN, "queue",
			"%s: session %s is cancelled while %s with %u messages, so are %u more with %u:%.*s; the first "
			"one: %.*s",
			pub->ready->name, pub->uuid_text, pub->phase, session->held, count, held, (int)others.len,
			others.len > 0 ? others.data : "", (int)what.len, what.len > 0 ? what.data : "");
	tr_buf_free(&others);
	tr_buf_free(&what);
}

static void
cancel(struct session *session)
{
	struct tr_engine *engine = session->pub.worker->engine;

	if (session->cancelled)
		return;
	if (session->held > 0 && !session->named)
		name(session);
	session->cancelled = true;
	atomic_fetch_add_explicit(&session->refs, 1, memory_order_relaxed); /* it may end in the call */
	engine->ops.cancel_session(engine->ops_arg, &session->pub);
	session_unref(session);
}

static void
cancel_due(struct tr_timer *timer)
{
	cancel(tr_container_of(timer, struct session, cancel));
}

/* One second after the deadline: what has not ended by then never will. */
static void
give_up(struct tr_timer *timer)
{
	struct tr_worker *worker = tr_container_of(timer, struct tr_worker, stop_timer);
	struct tr_engine *engine = worker->engine;

	for (struct session *session = worker->sessions; session != NULL; session = session->worker_next)
		tr_log(TR_LEVEL_ERROR, "queue", "%s: session %s did not end; its messages stay in the spool",
			session->pub.ready->name, session->pub.uuid_text);
	if (worker->index == 0)
		tell(engine);
}

static int64_t
shutdown_timeout(const struct tr_path_config *path)
{
	return path->system_shutdown_timeout_ns > 0 ? path->system_shutdown_timeout_ns
						    : path->mail_from_timeout_ns + path->rcpt_to_timeout_ns +
							      path->data_timeout_ns + path->data_dot_timeout_ns;
}

void
worker_stop(struct tr_worker *worker)
{
	struct tr_engine *engine = worker->engine;
	int64_t now_ns = tr_mono_ns();
	struct tr_wheel *wheel = tr_loop_wheel(worker->loop);
	struct tr_sched *homes;

	tr_timer_stop(wheel, &worker->wheel_timer);
	tr_timer_stop(wheel, &worker->housekeeping);
	tr_timer_stop(wheel, &worker->sweep_timer);
	tr_timer_stop(wheel, &worker->pressure_timer);
	pthread_mutex_lock(&worker->home_lock);
	homes = worker->homes; /* others may still put one in front: it has nothing in memory */
	for (struct tr_sched *sched = homes; sched != NULL; sched = sched->home_next) {
		tr_timer_stop(wheel, &sched->timer);
		sched_count(sched, 1); /* stays while it is worked on */
	}
	pthread_mutex_unlock(&worker->home_lock);
	for (struct tr_sched *sched = homes; sched != NULL; sched = sched->home_next) {
		sched_spill(sched, &sched->incoming, true);
		sched_spill(sched, &sched->fresh, true);
	}
	for (struct session *session = worker->sessions; session != NULL; session = session->worker_next) {
		int64_t due_ns = tr_min_i64(now_ns + shutdown_timeout(session->pub.path), engine->stop_deadline_ns);

		tr_timer_start_at(wheel, &session->cancel, due_ns, cancel_due);
		pthread_mutex_lock(&session->pub.ready->lock);
		session_unidle_locked(session);
		pthread_mutex_unlock(&session->pub.ready->lock);
		session->settling = false;
		if (session_claim_wake(session))
			session_act(session, worker, false);
	}
	tr_timer_start_at(wheel, &worker->stop_timer, engine->stop_deadline_ns + TR_NS_PER_S, give_up);
}

/* What is in memory of the ready queues at home here: unsaved changes are stored. */
static void
drain_readies(struct tr_worker *worker)
{
	struct tr_engine *engine = worker->engine;

	for (uint32_t i = 0; i <= engine->ready_mask; i++) {
		struct tr_ready *ready;

		pthread_mutex_lock(&engine->ready_lock);
		ready = engine->ready_buckets[i];
		if (ready != NULL)
			atomic_fetch_add_explicit(&ready->refs, 1, memory_order_relaxed);
		pthread_mutex_unlock(&engine->ready_lock);
		while (ready != NULL) {
			struct tr_ready *next;

			if (ready->home == worker) {
				tr_timer_stop(tr_loop_wheel(worker->loop), &ready->timer);
				ready_drain(ready, worker);
			}
			pthread_mutex_lock(&engine->ready_lock);
			next = ready->hash_next;
			if (next != NULL)
				atomic_fetch_add_explicit(&next->refs, 1, memory_order_relaxed);
			pthread_mutex_unlock(&engine->ready_lock);
			ready_unref(ready);
			ready = next;
		}
	}
}

static void
stop_arrived(struct tr_mail *mail)
{
	struct tr_worker *worker = tr_container_of(mail, struct tr_worker, stop_mail);

	worker_stop(worker);
	drain_readies(worker);
	busy_drop(worker->engine);
}

/* Asked again: the new deadline holds for what still runs. */
static void
hurry_arrived(struct tr_mail *mail)
{
	struct tr_worker *worker = tr_container_of(mail, struct tr_worker, hurry_mail);
	struct tr_engine *engine = worker->engine;
	struct tr_wheel *wheel = tr_loop_wheel(worker->loop);

	for (struct session *session = worker->sessions; session != NULL; session = session->worker_next)
		if (!session->cancelled)
			tr_timer_start_at(wheel, &session->cancel, engine->stop_deadline_ns, cancel_due);
	tr_timer_start_at(wheel, &worker->stop_timer, engine->stop_deadline_ns + TR_NS_PER_S, give_up);
	busy_drop(engine);
}

static void
hurry(struct tr_engine *engine, int64_t deadline_ns)
{
	if (engine->hurried)
		return;
	engine->hurried = true;
	engine->stop_deadline_ns = deadline_ns;
	for (uint32_t i = 0; i < engine->worker_count; i++) {
		busy_add(engine);
		engine->workers[i].hurry_mail.fn = hurry_arrived;
		tr_loop_post(engine->workers[i].loop, &engine->workers[i].hurry_mail);
	}
}

void
tr_engine_stop(struct tr_engine *engine, int64_t deadline_ns, void (*stopped)(void *arg), void *arg)
{
	if (engine->stopped != NULL) {
		if (deadline_ns < engine->stop_deadline_ns)
			hurry(engine, deadline_ns);
		return;
	}
	engine->stopped = stopped;
	engine->stopped_arg = arg;
	engine->stop_deadline_ns = deadline_ns;
	for (uint32_t i = 0; i < engine->worker_count; i++)
		busy_add(engine); /* until each has heard of it */
	atomic_store_explicit(&engine->stopping, true, memory_order_release);
	for (uint32_t i = 0; i < engine->worker_count; i++) {
		engine->workers[i].stop_mail.fn = stop_arrived;
		tr_loop_post(engine->workers[i].loop, &engine->workers[i].stop_mail);
	}
}
