/* Outcomes told by sessions: records and ledger. */
#include <stdlib.h>

#include "base/diag.h"
#include "queue/engine.h"
#include "queue/outcome.h"
#include "queue/ready.h"
#include "queue/sched.h"
#include "queue/session.h"

/* --- whole messages --------------------------------------------------------------------------------------------- */

static void
fill_event(struct tr_event *event, const struct session *session, const struct tr_outcome *outcome)
{
	const struct tr_ready *ready = session->pub.ready;
	static const enum tr_event_type types[] = {
		[TR_OUT_DELIVERED] = TR_EV_DELIVERY,
		[TR_OUT_BOUNCED] = TR_EV_BOUNCE,
		[TR_OUT_TRANSIENT] = TR_EV_TRANSIENT_FAILURE,
		[TR_OUT_REQUEUE] = TR_EV_DELAYED,
	};

	op_event_init(event, types[outcome->kind], NULL);
	event->site = tr_str(ready->name);
	event->response = outcome->response;
	event->has_peer = outcome->has_peer;
	event->peer_name = outcome->peer_name;
	event->peer_addr = outcome->peer_addr;
	event->egress_pool =
		ready->queue->egress_pool != NULL ? tr_str(ready->queue->egress_pool) : TR_STR("unspecified");
	event->egress_source = tr_str(ready->source);
	event->source_address = outcome->source_address;
	event->proxy_server = outcome->proxy_server;
	event->proxy_protocol = outcome->proxy_protocol;
	event->delivery_protocol = outcome->delivery_protocol;
	event->provider =
		session->pub.path->provider != NULL ? tr_str(session->pub.path->provider) : (struct tr_str){NULL, 0};
	event->tls_cipher = outcome->tls_cipher;
	event->tls_protocol = outcome->tls_protocol;
	event->session_id = tr_str(session->pub.uuid_text);
}

/* Queues with different pools may share a source: each record has the pool of its own. */
static void
name_pool(struct tr_event *event, struct outcome_op *op, const struct tr_ready *ready)
{
	const struct tr_queue_config *config;

	if (ready->via == NULL && ready->queue->egress_pool == NULL)
		return;
	config = op_config(op, sched_of(ready->engine, event->message));
	event->egress_pool = tr_str(config->egress_pool != NULL ? config->egress_pool : "unspecified");
}

/* Not tried: back to where they came from, in order. */
static void
put_back(struct session *session, struct message_list *list)
{
	struct tr_ready *ready = session->pub.ready;
	struct tr_engine *engine = ready->engine;
	int64_t expiry_ms = INT64_MAX;
	uint64_t bytes = 0;
	uint32_t count = list->count;
	bool back = false;

	for (struct tr_message *message = list->head; message != NULL; message = message->next) {
		tr_message_revoke(message);
		message->owner_data = NULL;
		bytes += tr_spool_stub(engine->spool, message->slot)->size;
		expiry_ms = tr_min_i64(expiry_ms, message_expiry_ms(sched_of(engine, message), message));
	}
	pthread_mutex_lock(&ready->lock);
	if (!stopping(engine) && atomic_load(&ready->state) == READY_OK && !atomic_load(&ready->suspended) &&
		tr_ready_source_suspended_until(ready) == 0) {
		list_append(list, &ready->messages);
		ready->messages = *list;
		ready->bytes += bytes;
		ready->expiry_ms = tr_min_i64(ready->expiry_ms, expiry_ms);
		*list = (struct message_list){NULL, NULL, 0};
		back = true;
	}
	pthread_mutex_unlock(&ready->lock);
	if (!back) {
		ready_return_to_lines(session->pub.worker, list, true);
		return;
	}
	atomic_fetch_add_explicit(&engine->ready_used, (int64_t)bytes, memory_order_relaxed);
	count_move(engine, IN_FLIGHT, IN_READY, count);
	ready_kick(ready);
}

void
tr_session_report(struct tr_session *pub, struct tr_message *messages, uint32_t count, const struct tr_outcome *outcome)
{
	struct session *session = session_of(pub);
	struct tr_ready *ready = pub->ready;
	struct message_list list = {NULL, NULL, 0};
	struct outcome_op *op;
	struct tr_event event;
	int64_t units = 0;

	while (count > OP_MAX) { /* a change has its bound */
		struct tr_message *rest = messages;

		for (uint32_t i = 0; i < OP_MAX && rest != NULL; i++)
			rest = rest->next;
		tr_session_report(pub, messages, OP_MAX, outcome);
		messages = rest;
		count -= OP_MAX;
	}
	while (messages != NULL && list.count < count) {
		struct tr_message *next = messages->next;

		units += message_units(messages);
		list_add(&list, messages);
		messages = next;
	}
	session->held -= list.count;
	endpoint_outcome(session, outcome);
	if (outcome->kind == TR_OUT_REQUEUE && outcome->retry_after_ns <= 0) {
		put_back(session, &list);
		return;
	}
	op = op_new(pub->worker);
	if (op == NULL) {
		tr_log(TR_LEVEL_ERROR, "queue", "%s: no memory for the outcome of %u messages: they are sent again",
			ready->name, list.count);
		ready_return_to_lines(pub->worker, &list, true);
		return;
	}
	fill_event(&event, session, outcome);
	if (outcome->kind != TR_OUT_REQUEUE || outcome->response.code != 0) {
		for (struct tr_message *message = list.head; message != NULL; message = message->next) {
			event.message = message;
			name_pool(&event, op, ready);
			tr_outbox_emit(&op->outbox, &event);
		}
	}
	switch (outcome->kind) {
	case TR_OUT_DELIVERED:
	case TR_OUT_BOUNCED: {
		bool good = outcome->kind == TR_OUT_DELIVERED;
		struct tr_message *message;

		*(good ? &pub->delivered : &pub->failed) += list.count;
		ready_metric(ready, good ? M_DELIVERED : M_FAIL, units);
		while ((message = list_pop(&list)) != NULL) {
			if (good)
				op_end(op, message, TR_COL_DELIVERED, TR_REASON_NONE);
			else
				op_die(op, message, TR_COL_BOUNCED, "rejected", &outcome->response);
		}
		op_submit(op);
		break;
	}
	case TR_OUT_TRANSIENT: {
		struct retry_spec spec = {.increment = true,
			.explained = true,
			.delay_ns = -1,
			.reasons = {"LoggedTransientFailure"},
			.response = outcome->response};

		if (outcome->reason != NULL) {
			spec.reasons[0] = outcome->reason;
			spec.reasons[1] = "LoggedTransientFailure";
		}
		pub->transient += list.count;
		ready_metric(ready, M_TRANSFAIL, units);
		op_retry(op, &list, &spec);
		break;
	}
	case TR_OUT_REQUEUE: {
		struct retry_spec spec = {.delay_ns = outcome->retry_after_ns,
			.explained = outcome->response.code != 0,
			.response = outcome->response,
			.reasons = {outcome->reason != NULL ? outcome->reason : "DispatcherDrop"}};

		op_retry(op, &list, &spec);
		break;
	}
	}
}

/* --- by recipient ------------------------------------------------------------------------------------------------- */

static bool
same_outcome(const struct tr_outcome *a, const struct tr_outcome *b)
{
	return a->kind == b->kind && a->response.code == b->response.code &&
	       memcmp(a->response.enhanced, b->response.enhanced, sizeof a->response.enhanced) == 0 &&
	       tr_str_eq(a->response.content, b->response.content) &&
	       tr_str_eq(a->response.command, b->response.command);
}

/* Memory for telling the outcomes of a message; owned by who asked for it. */
struct telling_room {
	const struct tr_addr **group;
	bool *told;
	struct outcome_op *op;
};

static bool
telling_room(struct session *session, uint32_t total, struct telling_room *out)
{
	out->group = calloc(total > 0 ? total : 1, sizeof *out->group);
	out->told = calloc(total > 0 ? total : 1, sizeof *out->told);
	out->op = out->group != NULL && out->told != NULL && total > 0 ? op_new(session->pub.worker) : NULL;
	if (out->op != NULL)
		return true;
	free(out->group);
	free(out->told);
	return false;
}

/* The records; number[kind] becomes how many recipients had it. */
static void
tell_rcpts(struct session *session, const struct tr_message *message, const struct tr_outcome *outcomes,
	struct telling_room *room, uint32_t number[TR_OUT_REQUEUE + 1])
{
	struct tr_session *pub = &session->pub;
	struct tr_ready *ready = pub->ready;
	uint32_t total = message->rcpt_count;

	for (uint32_t i = 0; i < total; i++) {
		struct tr_event event;
		uint32_t count = 0;

		number[outcomes[i].kind]++;
		if (room->told[i] || outcomes[i].kind == TR_OUT_REQUEUE)
			continue;
		for (uint32_t j = i; j < total; j++) {
			if (room->told[j] || !same_outcome(&outcomes[i], &outcomes[j]))
				continue;
			room->told[j] = true;
			room->group[count++] = &message->rcpts[j];
		}
		fill_event(&event, session, &outcomes[i]);
		event.message = message;
		name_pool(&event, room->op, ready);
		event.rcpts = room->group;
		event.rcpt_count = count;
		tr_outbox_emit(&room->op->outbox, &event);
	}
	endpoint_outcome(session, &outcomes[0]);
	ready_metric(ready, M_DELIVERED, number[TR_OUT_DELIVERED]);
	ready_metric(ready, M_FAIL, number[TR_OUT_BOUNCED]);
	ready_metric(ready, M_TRANSFAIL, number[TR_OUT_TRANSIENT]);
	pub->delivered += number[TR_OUT_DELIVERED] == total;
	pub->failed += number[TR_OUT_BOUNCED] > 0;
	pub->transient += number[TR_OUT_TRANSIENT] > 0;
}

/* Recipients that have ended leave the message, and are counted. True: some did. */
static bool
drop_ended(struct outcome_op *op, struct tr_message *message, const struct tr_outcome *outcomes,
	const uint32_t number[TR_OUT_REQUEUE + 1])
{
	uint32_t total = message->rcpt_count, kept = 0;

	for (uint32_t i = 0; i < total; i++) {
		if (outcomes[i].kind == TR_OUT_TRANSIENT || outcomes[i].kind == TR_OUT_REQUEUE)
			message->rcpts[kept++] = message->rcpts[i];
		else
			tr_addr_fini(&message->rcpts[i]);
	}
	message->rcpt_count = kept;
	if (kept == total)
		return false;
	message->flags |= TR_MSG_DIRTY;
	if (number[TR_OUT_DELIVERED] > 0)
		tr_change_count(&op->outbox.change, message->account, TR_COL_DELIVERED, TR_REASON_NONE,
			number[TR_OUT_DELIVERED]);
	if (number[TR_OUT_BOUNCED] > 0)
		tr_change_count(
			&op->outbox.change, message->account, TR_COL_BOUNCED, TR_REASON_NONE, number[TR_OUT_BOUNCED]);
	return true;
}

void
tr_session_report_rcpts(struct tr_session *pub, struct tr_message *message, const struct tr_outcome *outcomes)
{
	struct session *session = session_of(pub);
	struct tr_ready *ready = pub->ready;
	uint32_t total = message->rcpt_count, number[TR_OUT_REQUEUE + 1] = {0};
	const struct tr_outcome *transient = NULL;
	struct message_list one = {NULL, NULL, 0};
	struct telling_room room;
	struct outcome_op *op;
	bool reduced;

	session->held--;
	if (!telling_room(session, total, &room)) {
		tr_log(TR_LEVEL_ERROR, "queue", "%s: no memory for an outcome: the message is sent again", ready->name);
		list_add(&one, message);
		ready_return_to_lines(pub->worker, &one, true);
		return;
	}
	op = room.op;
	tell_rcpts(session, message, outcomes, &room, number);
	for (uint32_t i = 0; i < total && transient == NULL; i++) {
		if (outcomes[i].kind == TR_OUT_TRANSIENT)
			transient = &outcomes[i];
	}
	if (number[TR_OUT_TRANSIENT] + number[TR_OUT_REQUEUE] == 0) {
		/* all ended: the message goes into one column, the others are counted beside it */
		if (number[TR_OUT_DELIVERED] > 0 && number[TR_OUT_BOUNCED] > 0)
			tr_change_count(&op->outbox.change, message->account, TR_COL_BOUNCED, TR_REASON_NONE,
				number[TR_OUT_BOUNCED]);
		op->units = number[TR_OUT_DELIVERED] > 0 ? number[TR_OUT_DELIVERED] : number[TR_OUT_BOUNCED];
		op_end(op, message, number[TR_OUT_DELIVERED] > 0 ? TR_COL_DELIVERED : TR_COL_BOUNCED, TR_REASON_NONE);
		op->units = 0;
		op_submit(op);
		goto out;
	}
	reduced = drop_ended(op, message, outcomes, number);
	list_add(&one, message);
	if (transient != NULL) {
		struct retry_spec spec = {.increment = true,
			.explained = true,
			.delay_ns = -1,
			.reasons = {"LoggedTransientFailure"},
			.response = transient->response};

		op_retry(op, &one, &spec);
	} else if (!reduced) {
		op_submit(op);
		put_back(session, &one);
	} else {
		op_save(op, message);
		op_submit(op);
	}
out:
	free(room.group);
	free(room.told);
}

bool
tr_session_tell_rcpts(struct tr_session *pub, struct tr_message *message, const struct tr_outcome *outcomes,
	struct tr_telling *telling)
{
	struct session *session = session_of(pub);
	uint32_t number[TR_OUT_REQUEUE + 1] = {0};
	struct telling_room room;

	if (!telling_room(session, message->rcpt_count, &room))
		return false;
	tell_rcpts(session, message, outcomes, &room, number);
	drop_ended(room.op, message, outcomes, number);
	session->held--;
	telling->session = pub;
	op_tell(room.op, message, telling);
	op_submit(room.op);
	free(room.group);
	free(room.told);
	return true;
}

void
tr_session_untell(struct tr_telling *telling)
{
	if (telling->op != NULL)
		telling->op->telling = NULL;
	telling->op = NULL;
}
