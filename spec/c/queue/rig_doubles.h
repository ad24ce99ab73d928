/* What stands in the place of policy and transports in the rig of the queue's tests: scripted answers and sessions. */
#ifndef QUEUE_RIG_DOUBLES_H
#define QUEUE_RIG_DOUBLES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

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

#define WALL0 (INT64_C(1790000000) * TR_NS_PER_S)
#define MINUTE_NS (60 * TR_NS_PER_S)
#define HOUR_NS (60 * MINUTE_NS)
#define RIG_WORKERS 4

struct rig;
struct rig_session {
	struct rig *rig;
	struct tr_session *session;
	struct tr_loop *loop;
	struct tr_defer defer;
	struct tr_timer timer; /* idle, or the send that hangs */
	struct tr_message *held;
	uint32_t held_count;
	struct tr_outcome outcome;
	bool waiting, pacing; /* pacing: for a rate, with messages in hand */
};

struct rig {
	char dir[64], sub[80];
	struct tr_spool *spool;
	struct tr_engine *engine;
	struct tr_loop *loops[RIG_WORKERS];
	uint32_t workers;
	uint64_t seed;
	struct tr_shaping *shaping; /* NULL: the engine's own */
	/* script */
	void (*queue_config)(struct rig *rig, const char *name, struct tr_queue_config *config);
	void (*path_config)(struct rig *rig, const char *name, struct tr_path_config *config);
	/* What became of a batch; -1: it hangs until cancelled. >= 0: after so many ns. */
	int64_t (*send)(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome);
	/* The pool's or source's definition, or NULL and *error; NULL: there are none. */
	struct tr_pool_config *(*pool)(struct rig *rig, const char *name, const char **error);
	struct tr_source_config *(*source)(struct rig *rig, const char *name, const char **error);
	int64_t source_delay_ns; /* until its answer comes */
	int64_t oversleep_ns;    /* so much too late does a session wake for its slot of a rate */
	/* Answers with tr_sched_site(), now or later; NULL: each domain is a site of its own. */
	void (*site)(struct rig *rig, struct tr_sched *sched);
	_Atomic uint32_t sites_asked;
	_Atomic uint32_t pools_asked, sources_asked;
	const char *queue_error;
	bool no_path, no_handler;
	void (*requeue)(struct rig *rig, struct tr_message *message);
	void (*promote)(struct rig *rig, struct tr_message *message);
	void *data;
	/* seen */
	_Atomic uint64_t events[TR_EVENT_TYPES];
	char last_text[256], last_site[128], last_pool[64];
	int last_code;
	_Atomic uint64_t sent, opened, cancelled, calls;
	_Atomic uint64_t live, peak, leases_lost;
	uint32_t order[4096]; /* numbers of the messages in order of sending */
	uint32_t order_count;
	_Atomic int64_t sent_at_ns;
	_Atomic uint32_t under_way, put_all;
	bool stopped;
	bool records; /* a delivery of mail makes a record in webhook.log_hook */
};

static inline void rig_step(struct tr_defer *defer);

static inline void
rig_resolve_queue(void *arg, struct tr_worker *worker, struct tr_sched *sched)
{
	struct rig *rig = arg;
	struct tr_queue_config *config;

	if (rig->queue_error != NULL) {
		tr_sched_configured(sched, NULL, rig->queue_error);
		return;
	}
	config = tr_queue_config_new();
	config->protocol = TR_PROTO_LUA;
	config->constructor = strdup("make.test");
	if (rig->queue_config != NULL)
		rig->queue_config(rig, tr_sched_name(sched).data, config);
	tr_sched_configured(sched, config, NULL);
}

static inline void
rig_resolve_path(void *arg, struct tr_worker *worker, struct tr_ready *ready)
{
	struct rig *rig = arg;
	struct tr_path_config *config;

	if (rig->no_path) {
		tr_ready_configured(ready, NULL, "no such path");
		return;
	}
	config = tr_path_config_new(tr_ready_is_hook(ready));
	if (rig->path_config != NULL)
		rig->path_config(rig, tr_ready_name(ready).data, config);
	tr_ready_configured(ready, config, NULL);
}

static inline void
rig_resolve_pool(void *arg, struct tr_worker *worker, struct tr_pool *pool)
{
	struct rig *rig = arg;
	const char *error = "no such pool";
	struct tr_pool_config *config = rig->pool != NULL ? rig->pool(rig, tr_pool_name(pool).data, &error) : NULL;

	rig->pools_asked++;
	tr_pool_configured(pool, config, error);
}

static inline void
rig_answer_source(struct rig *rig, struct tr_source *source)
{
	const char *error = "no such source";
	struct tr_source_config *config =
		rig->source != NULL ? rig->source(rig, tr_source_name(source).data, &error) : NULL;

	tr_source_configured(source, config, error);
}

struct rig_late {
	struct tr_timer timer;
	struct rig *rig;
	struct tr_source *source;
};

static inline void
rig_late_due(struct tr_timer *timer)
{
	struct rig_late *late = tr_container_of(timer, struct rig_late, timer);

	rig_answer_source(late->rig, late->source);
	free(late);
}

static inline void
rig_resolve_source(void *arg, struct tr_worker *worker, struct tr_source *source)
{
	struct rig *rig = arg;
	struct rig_late *late;

	rig->sources_asked++;
	if (rig->source_delay_ns == 0) {
		rig_answer_source(rig, source);
		return;
	}
	late = calloc(1, sizeof *late);
	late->rig = rig;
	late->source = source;
	tr_timer_start(tr_loop_wheel(tr_worker_loop(worker)), &late->timer, rig->source_delay_ns, rig_late_due);
}

static inline void
rig_end(struct rig_session *session)
{
	tr_timer_stop(tr_loop_wheel(session->loop), &session->timer);
	tr_loop_undefer(session->loop, &session->defer);
	session->rig->live--;
	tr_session_end(session->session);
	free(session);
}

static inline void
rig_idle_over(struct tr_timer *timer)
{
	struct rig_session *session = tr_container_of(timer, struct rig_session, timer);

	session->waiting = false;
	tr_session_unwait(session->session);
	rig_end(session);
}

static inline void
rig_report(struct rig_session *session)
{
	struct tr_message *held = session->held;
	uint32_t count = session->held_count;

	session->held = NULL;
	session->held_count = 0;
	session->pacing = false;
	if (session->outcome.kind == TR_OUT_DELIVERED) {
		session->rig->sent += count;
		session->rig->sent_at_ns = tr_mono_ns();
	}
	tr_session_report(session->session, held, count, &session->outcome);
	tr_loop_defer(session->loop, &session->defer, rig_step);
}

static inline void
rig_send_over(struct tr_timer *timer)
{
	rig_report(tr_container_of(timer, struct rig_session, timer));
}

static inline void
rig_send(struct rig_session *session)
{
	struct rig *rig = session->rig;
	int64_t delay_ns;

	rig->calls++;
	session->session->phase = "DeliveringMessage";
	session->outcome = (struct tr_outcome){.kind = TR_OUT_DELIVERED,
		.response = {200, {0, 0, 0}, TR_STR("ok"), {NULL, 0}},
		.retry_after_ns = -1,
		.gate_counts = true,
		.delivery_protocol = TR_STR("Lua")};
	delay_ns = rig->send != NULL ? rig->send(rig, session, &session->outcome) : 0;
	if (delay_ns == 0)
		rig_report(session);
	else if (delay_ns > 0)
		tr_timer_start(tr_loop_wheel(session->loop), &session->timer, delay_ns, rig_send_over);
}

static inline void
rig_slot_due(struct tr_timer *timer)
{
	struct rig_session *session = tr_container_of(timer, struct rig_session, timer);

	session->waiting = false;
	tr_loop_defer(session->loop, &session->defer, rig_step);
}

/* Asks the rates as lua/session.lua does. */
static inline void
rig_pace(struct rig_session *session)
{
	const char *error;
	int64_t wait_ns;
	enum tr_go go = tr_session_pace(session->session, &wait_ns, &error);

	session->pacing = go == TR_GO_WAIT;
	if (go == TR_GO) {
		rig_send(session);
	} else if (go == TR_GO_WAIT) {
		session->session->phase = "Throttled";
		session->waiting = true;
		tr_timer_start(tr_loop_wheel(session->loop), &session->timer,
			tr_min_i64(wait_ns, 24 * HOUR_NS) + session->rig->oversleep_ns, rig_slot_due);
	} else {
		session->outcome = (struct tr_outcome){.kind = go == TR_GO_BACK ? TR_OUT_REQUEUE : TR_OUT_TRANSIENT,
			.retry_after_ns = -1,
			.reason = "MessageRateThrottle",
			.response = {400, {0, 0, 0}, tr_str(error != NULL ? error : ""), {NULL, 0}}};
		rig_report(session);
	}
}

static inline void
rig_step(struct tr_defer *defer)
{
	struct rig_session *session = tr_container_of(defer, struct rig_session, defer);
	struct rig *rig = session->rig;
	struct tr_wheel *wheel = tr_loop_wheel(session->loop);
	enum tr_take why;
	enum tr_go go;
	int64_t wait_ns;

	if (session->pacing) {
		rig_pace(session);
		return;
	}
	go = tr_session_extend(session->session, &wait_ns);
	if (go == TR_GO_WAIT) {
		session->waiting = true; /* its answer wakes it */
		return;
	}
	if (go == TR_GO_GONE) {
		rig->leases_lost++;
		rig_end(session);
		return;
	}
	session->held_count =
		tr_session_take(session->session, session->session->queue->batch_size, 0, &session->held, &why);
	if (session->held_count > 0) {
		rig_pace(session);
		return;
	}
	session->session->phase = "Idle";
	if (why != TR_TAKE_EMPTY) {
		rig_end(session);
	} else if (tr_session_wait(session->session)) {
		session->waiting = true;
		tr_timer_start(wheel, &session->timer, session->session->path->idle_timeout_ns, rig_idle_over);
	} else {
		tr_loop_defer(session->loop, &session->defer, rig_step);
	}
}

static inline int
rig_open_session(void *arg, struct tr_worker *worker, struct tr_session *session)
{
	struct rig *rig = arg;
	struct rig_session *mine = calloc(1, sizeof *mine);
	uint64_t live;

	rig->opened++;
	live = ++rig->live;
	if (live > rig->peak)
		rig->peak = live;
	mine->rig = rig;
	mine->session = session;
	mine->loop = tr_worker_loop(worker);
	session->task = mine;
	tr_session_connected(session);
	tr_loop_defer(mine->loop, &mine->defer, rig_step);
	return TR_OK;
}

static inline void
rig_wake_session(void *arg, struct tr_session *session)
{
	struct rig_session *mine = session->task;

	if (!mine->waiting)
		return;
	mine->waiting = false;
	tr_timer_stop(tr_loop_wheel(mine->loop), &mine->timer);
	tr_loop_defer(mine->loop, &mine->defer, rig_step);
}

static inline void
rig_cancel_session(void *arg, struct tr_session *session)
{
	struct rig *rig = arg;
	struct rig_session *mine = session->task;

	rig->cancelled++;
	if (mine->held_count > 0) {
		struct tr_outcome outcome = {.kind = TR_OUT_REQUEUE, .retry_after_ns = -1, .reason = "DispatcherDrop"};

		tr_session_report(session, mine->held, mine->held_count, &outcome);
		mine->held = NULL;
	}
	rig_end(mine);
}

static inline struct tr_message *
rig_message(const char *queue, uint32_t number)
{
	struct tr_message *message = tr_message_new();
	char text[64];
	struct tr_blob *body;

	assert_int_equal(tr_message_set_sender(message, TR_STR("a@example.com")), TR_OK);
	snprintf(text, sizeof text, "n%u@example.net", number);
	assert_int_equal(tr_message_add_rcpt(message, tr_str(text)), TR_OK);
	message->queue = strdup(queue);
	snprintf(text, sizeof text, "\"%s\"", queue);
	assert_int_equal(tr_meta_set(&message->meta, TR_STR("queue"), tr_str(text)), TR_OK);
	body = tr_blob_new("Subject: x\r\n\r\nhello\r\n", 21);
	tr_bytes_set(&message->body, body);
	return message;
}

static inline uint32_t
rig_number(const struct tr_message *message)
{
	return (uint32_t)strtoul(message->rcpts[0].email + 1, NULL, 10);
}

static inline void
rig_emit(void *arg, struct tr_outbox *outbox, const struct tr_event *event)
{
	struct rig *rig = arg;

	rig->events[event->type]++;
	if (rig->records && event->type == TR_EV_DELIVERY && !(event->message->flags & TR_MSG_LOG_RECORD)) {
		struct tr_message *record = rig_message("webhook.log_hook", rig_number(event->message));

		record->flags |= TR_MSG_LOG_RECORD;
		assert_int_equal(
			tr_change_put(&outbox->change, record, tr_str(record->queue), TR_COL_ACCEPTED, 1), TR_OK);
		tr_outbox_add_record(outbox, record);
	}
	if (rig->workers > 1)
		return;
	rig->last_code = event->response.code;
	snprintf(rig->last_text, sizeof rig->last_text, "%.*s", (int)event->response.content.len,
		event->response.content.data);
	snprintf(rig->last_pool, sizeof rig->last_pool, "%.*s", (int)event->egress_pool.len,
		event->egress_pool.data != NULL ? event->egress_pool.data : "");
	snprintf(rig->last_site, sizeof rig->last_site, "%.*s", (int)event->site.len, event->site.data);
}

static inline bool
rig_wants_requeue(void *arg, struct tr_worker *worker)
{
	return ((struct rig *)arg)->requeue != NULL;
}

static inline void
rig_requeue(void *arg, struct tr_worker *worker, struct tr_message *message, struct tr_str response,
	const char *const *reasons, bool increment, int64_t delay_ns,
	void (*then)(void *then_arg, int reject_code, const char *reject_text), void *then_arg)
{
	struct rig *rig = arg;

	rig->requeue(rig, message);
	then(then_arg, -1, NULL);
}

static inline bool
rig_wants_promote(void *arg, struct tr_worker *worker)
{
	return ((struct rig *)arg)->promote != NULL;
}

static inline void
rig_promote(void *arg, struct tr_worker *worker, struct tr_message *message,
	void (*then)(void *then_arg, const char *error), void *then_arg)
{
	struct rig *rig = arg;

	rig->promote(rig, message);
	then(then_arg, NULL);
}

static inline void
rig_decide(void *arg, struct tr_worker *worker, struct tr_message *message)
{
	tr_queue_park(worker, message); /* as record does when the policy raises again */
}

static inline bool
rig_has_handler(void *arg, struct tr_worker *worker, const char *name)
{
	return !((struct rig *)arg)->no_handler;
}

static inline void
rig_resolve_site(void *arg, struct tr_worker *worker, struct tr_sched *sched)
{
	struct rig *rig = arg;

	rig->sites_asked++;
	if (rig->site != NULL)
		rig->site(rig, sched);
	else
		tr_sched_site(sched, tr_sched_name(sched).data, INT64_MAX, NULL);
}

static const struct tr_queue_ops rig_ops = {
	.resolve_queue = rig_resolve_queue,
	.resolve_site = rig_resolve_site,
	.resolve_path = rig_resolve_path,
	.resolve_pool = rig_resolve_pool,
	.resolve_source = rig_resolve_source,
	.open_session = rig_open_session,
	.wake_session = rig_wake_session,
	.cancel_session = rig_cancel_session,
	.wants_promote = rig_wants_promote,
	.promote = rig_promote,
	.wants_requeue = rig_wants_requeue,
	.requeue = rig_requeue,
	.emit = rig_emit,
	.decide = rig_decide,
	.has_handler = rig_has_handler,
};

#endif
