/* What sessions learn of their endpoint: the gate of its ready queue, failures to connect in a row, and answers that
 * only a person can mend. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "queue/engine.h"
#include "queue/outcome.h"
#include "queue/ready.h"
#include "queue/sched.h"
#include "queue/session.h"
#include "queue/worker.h"

enum gate_word { GATE_NOTHING, GATE_SUCCESS, GATE_FAILURE };

#define GATE_LINES_NS (60 * TR_NS_PER_S) /* an outage of hours, or one that comes and goes, fills no log */
#define GATE_TEXT 300                    /* bytes of an answer in such a line */

/* As much of an answer as goes into a line, without line ends behind it. */
static struct tr_str
one_line(struct tr_str text)
{
	if (text.len > GATE_TEXT)
		text.len = GATE_TEXT;
	while (text.len > 0 && (unsigned char)text.data[text.len - 1] <= ' ')
		text.len--;
	return text;
}

/* The last failure, for tr_why(). */
static void
keep_text_locked(struct tr_ready *ready, struct tr_str text)
{
	size_t len;

	text = one_line(text);
	len = text.len < sizeof ready->gate_text - 1 ? text.len : sizeof ready->gate_text - 1;
	for (size_t i = 0; i < len; i++)
		ready->gate_text[i] = (unsigned char)text.data[i] < ' ' ? ' ' : text.data[i];
	ready->gate_text[len] = '\0';
}

/* What a person should read about a closing (wait_ns > 0) or an opening; empty: nothing. */
static void
gate_line_locked(struct tr_ready *ready, int64_t wait_ns, struct tr_str text, struct tr_buf *line)
{
	int64_t now_ns = tr_mono_ns();

	if (wait_ns > 0 && ready->gate.closings <= 1)
		ready->gate_shut_at_ns = now_ns;
	if (wait_ns <= 0) {
		if (ready->gate_told)
			tr_buf_addf(line, "gate open again after %.1f s",
				(double)(now_ns - ready->gate_shut_at_ns) / TR_NS_PER_S);
		ready->gate_told = false;
		return;
	}
	if (ready->gate_told_at_ns != 0 && now_ns - ready->gate_told_at_ns < GATE_LINES_NS && wait_ns < GATE_LINES_NS) {
		ready->gate_untold++;
		return;
	}
	tr_buf_addf(line, "gate closed for %.1f s", (double)wait_ns / TR_NS_PER_S);
	if (ready->gate_untold > 0)
		tr_buf_addf(line, " (closed %u times since the last line)", ready->gate_untold);
	text = one_line(text);
	if (text.len > 0) {
		tr_buf_addz(line, ": ");
		for (size_t i = 0; i < text.len; i++)
			tr_buf_addc(line, (unsigned char)text.data[i] < ' ' ? ' ' : text.data[i]);
	}
	ready->gate_told = true;
	ready->gate_untold = 0;
	ready->gate_told_at_ns = now_ns;
}

static void
tell_gate(struct session *session, enum gate_word word, bool at_once, int64_t retry_after_ns, struct tr_str text)
{
	struct tr_buf line = {0};
	struct tr_ready *ready = session->pub.ready;
	struct tr_worker *worker = session->pub.worker;
	double random = tr_worker_random(worker);
	enum tr_gate_state before, after;
	bool probing = session->pub.probing, paced;
	int64_t wait_ns = 0;

	pthread_mutex_lock(&ready->lock);
	before = ready->gate.state;
	paced = tr_gate_is_paced(&ready->gate);
	if (before == TR_GATE_PROBING && !probing)
		word = GATE_NOTHING; /* it began before the closing: the probe decides */
	if (paced && (!session->counted || session->took_at_ns < ready->gate.stepped_at_ns) && !at_once &&
		retry_after_ns < 0)
		word = GATE_NOTHING; /* it began at another pace */
	session_uncount_locked(session);
	if (word == GATE_FAILURE)
		keep_text_locked(ready, text);
	if (word == GATE_SUCCESS)
		tr_gate_success(&ready->gate, tr_mono_ns());
	else if (word == GATE_FAILURE &&
		 tr_gate_failure(&ready->gate, &ready->path->gate, tr_mono_ns(), at_once, retry_after_ns, random))
		wait_ns = ready->gate.opened_for_ns;
	else if (word == GATE_NOTHING && probing)
		tr_gate_abandon(&ready->gate);
	after = ready->gate.state;
	paced = paced || tr_gate_is_paced(&ready->gate);
	if (wait_ns > 0 || (after == TR_GATE_OPEN && before != TR_GATE_OPEN))
		gate_line_locked(ready, wait_ns, text, &line);
	pthread_mutex_unlock(&ready->lock);
	session->pub.probing = false;
	if (line.len > 0)
		tr_log(wait_ns > 0 ? TR_LEVEL_WARN : TR_LEVEL_INFO, "queue", "%s: %.*s", ready->name, (int)line.len,
			line.data);
	tr_buf_free(&line);
	if (wait_ns > 0 || before != after || word == GATE_FAILURE || paced)
		ready_kick(ready);
}

/* The answers that repair needs a person for: credentials, an address that is wrong. */
static bool
is_denial(const struct tr_response *response)
{
	struct tr_str text = response->content;

	if (response->code == 401 || response->code == 403 || response->code == 404)
		return true;
	/* an HTTP answer that a connection object passed on begins with its status */
	return text.len >= 4 && memcmp(text.data, "40", 2) == 0 && strchr("134", text.data[2]) != NULL &&
	       text.data[3] == ' ';
}

/* One line when it begins, and the metric until something else is answered. */
static void
tell_denial(struct tr_ready *ready, const struct tr_outcome *outcome)
{
	bool denied = outcome->kind == TR_OUT_TRANSIENT && is_denial(&outcome->response), changed;

	pthread_mutex_lock(&ready->lock);
	ready->denied = denied ? ready->denied + 1 : 0;
	denied = ready->denied >= ready->path->gate.failures_to_close;
	changed = denied != ready->gate_alarm;
	ready->gate_alarm = denied;
	if (changed && ready->alarm_metric == NULL)
		ready->alarm_metric = tr_metric_get(TR_GAUGE, "tailrace_endpoint_alarm",
			"1: the endpoint answers 401, 403 or 404 again and again", "queue", ready->name, NULL);
	if (changed)
		tr_metric_set(ready->alarm_metric, denied);
	pthread_mutex_unlock(&ready->lock);
	if (!changed)
		return;
	if (denied) {
		struct tr_str text = one_line(outcome->response.content);

		tr_log(TR_LEVEL_ERROR, "queue",
			"%s: the endpoint refuses everything: its address or credentials need to be put right; the "
			"records "
			"wait: %.*s",
			ready->name, (int)text.len, text.len > 0 ? text.data : "");
	} else {
		tr_log(TR_LEVEL_INFO, "queue", "%s: the endpoint does not refuse everything any more", ready->name);
	}
}

void
endpoint_outcome(struct session *session, const struct tr_outcome *outcome)
{
	struct tr_ready *ready = session->pub.ready;

	if (session->pub.path->gate.failures_to_close == 0 && !session->counted)
		return;
	if (outcome->kind != TR_OUT_REQUEUE && (ready->denied > 0 || outcome->kind == TR_OUT_TRANSIENT))
		tell_denial(ready, outcome);
	if (outcome->kind == TR_OUT_DELIVERED ||
		(outcome->kind == TR_OUT_BOUNCED && (outcome->gate_counts || session->pub.probing))) {
		/* an open gate without failures has nothing to learn: no lock in the common case */
		if (atomic_exchange(&ready->gate_dirty, false) || session->pub.probing || session->counted)
			tell_gate(session, GATE_SUCCESS, false, -1, TR_STR(""));
	} else if (outcome->kind == TR_OUT_TRANSIENT &&
		   (outcome->gate_counts || outcome->gate_at_once || outcome->retry_after_ns >= 0)) {
		ready->gate_dirty = true;
		tell_gate(session, GATE_FAILURE, outcome->gate_at_once, outcome->retry_after_ns,
			outcome->response.content);
	} else if (session->pub.probing || session->counted) {
		tell_gate(session, GATE_NOTHING, false, -1, TR_STR(""));
	}
}

void
tr_session_connected(struct tr_session *session)
{
	struct tr_ready *ready = session->ready;

	pthread_mutex_lock(&ready->lock);
	ready->failures = 0;
	pthread_mutex_unlock(&ready->lock);
}

/* Too many failures in a row: all that is ready waits for its next attempt. */
static void
delay_ready(struct tr_ready *ready, struct tr_worker *worker)
{
	struct retry_spec spec = {.increment = true,
		.explained = true,
		.delay_ns = -1,
		.reasons = {"TooManyConnectionFailures", "LoggedTransientFailure"}};
	struct message_list all, list = {NULL, NULL, 0};

	pthread_mutex_lock(&ready->lock);
	all = ready->messages;
	ready->messages = (struct message_list){NULL, NULL, 0};
	atomic_fetch_sub_explicit(&ready->engine->ready_used, (int64_t)ready->bytes, memory_order_relaxed);
	ready->bytes = 0;
	ready->expiry_ms = INT64_MAX;
	pthread_mutex_unlock(&ready->lock);
	count_move(ready->engine, IN_READY, IN_FLIGHT, all.count);
	ready_metric(ready, M_TRANSFAIL, all.count);
	while (all.head != NULL) {
		struct outcome_op *op = op_new(worker);

		if (op == NULL) {
			ready_return_to_lines(worker, &all, true); /* the next failure does it */
			break;
		}
		spec.response = (struct tr_response){
			451, {4, 4, 1}, TR_STR("KumoMTA internal: too many connection failures in a row"), {NULL, 0}};
		while (all.head != NULL && list.count < OP_MAX && !tr_change_is_long(&op->outbox.change)) {
			struct tr_message *message = list_pop(&all);
			const struct tr_queue_config *config;
			struct tr_event event;

			op_event_init(&event, TR_EV_TRANSIENT_FAILURE, message);
			event.site = tr_str(ready->name);
			config = op_config(op, sched_of(ready->engine, message));
			event.egress_pool = tr_str(config->egress_pool != NULL ? config->egress_pool : "unspecified");
			event.egress_source = tr_str(ready->source);
			event.response = spec.response;
			tr_outbox_emit(&op->outbox, &event);
			list_add(&list, message);
		}
		op_retry(op, &list, &spec);
	}
	ready_kick(ready);
}

void
tr_session_connect_failed(struct tr_session *pub, bool at_once, struct tr_str text)
{
	struct session *session = session_of(pub);
	struct tr_ready *ready = pub->ready;
	bool delay;

	pthread_mutex_lock(&ready->lock);
	delay = ready->failures++ > ready->path->consecutive_failures_before_delay &&
		ready->path->gate.failures_to_close == 0;
	keep_text_locked(ready, text);
	pthread_mutex_unlock(&ready->lock);
	if (pub->path->gate.failures_to_close != 0) {
		ready->gate_dirty = true;
		tell_gate(session, GATE_FAILURE, at_once, -1, text);
	}
	if (delay)
		delay_ready(ready, pub->worker);
}
