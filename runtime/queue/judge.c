/* Checks that a message passes before it goes on, and the throttle_insert_ready_queue handler. */
#include "base/clock.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "queue/admin.h"
#include "queue/engine.h"
#include "queue/outcome.h"
#include "queue/ready.h"
#include "queue/sched.h"
#include "queue/worker.h"

static struct outcome_op *
end_op(struct judge *judge)
{
	if (judge->end != NULL && tr_change_is_long(&judge->end->outbox.change)) {
		op_submit(judge->end);
		judge->end = NULL;
	}
	if (judge->end == NULL)
		judge->end = op_new(judge->worker);
	return judge->end;
}

static bool
rule_of(struct tr_engine *engine, enum tr_admin_kind kind, const struct tr_sched *sched, struct admin_verdict *out)
{
	return atomic_load_explicit(&engine->rule_count[kind], memory_order_relaxed) != 0 &&
	       admin_check(engine, kind, sched, out, kind == TR_ADMIN_BOUNCE ? 1 : 0, NULL);
}

static void
bounce(struct outcome_op *op, struct tr_message *message, const struct admin_verdict *verdict)
{
	if (!verdict->suppress) {
		struct tr_buf text = {0};
		struct tr_event event;

		tr_buf_addf(&text, "Administrator bounced with reason: %s", verdict->reason);
		op_event_init(&event, TR_EV_ADMIN_BOUNCE, message);
		event.site = TR_STR("localhost");
		event.response = (struct tr_response){551, {5, 7, 1}, {text.data, text.len}, {NULL, 0}};
		tr_outbox_emit(&op->outbox, &event);
		tr_buf_free(&text);
	}
	op_end(op, message, TR_COL_BOUNCED, TR_REASON_ADMIN_BOUNCE);
}

bool
judge_message(
	struct judge *judge, struct tr_sched *sched, struct tr_message *message, enum judge_mode mode, int64_t now_ms)
{
	struct tr_engine *engine = judge->worker->engine;
	struct admin_verdict verdict;
	enum { GO, BOUNCE, DROP, PARK, SUSPENDED, EXPIRED, BROKEN } found = GO;

	if (rule_of(engine, TR_ADMIN_BOUNCE, sched, &verdict))
		found = BOUNCE;
	else if (mode == JUDGE_INSERT)
		return true;
	else if (mode == JUDGE_PROMOTE && sched->drains)
		found = DROP;
	else if (mode == JUDGE_PROMOTE && sched->parks && (message->flags & TR_MSG_LOG_RECORD))
		found = PARK;
	else if (message_expiry_ms(sched, message) <= now_ms)
		found = EXPIRED;
	else if (sched->config != NULL &&
		 rule_of(engine, TR_ADMIN_SUSPEND, sched, NULL)) /* else nobody knows its delays */
		found = SUSPENDED;
	else if (mode == JUDGE_PROMOTE && sched->lane_count == 1 && sched->lanes[0].ready != NULL &&
		 atomic_load(&sched->lanes[0].ready->state) == READY_ERROR)
		found = BROKEN;
	else if (mode == JUDGE_PROMOTE && sched->site_error != NULL && sched->config != NULL && site_needed(sched)) {
		found = BROKEN;
		judge->no_site = sched->site_error;
	}
	if (found == GO)
		return true;
	if (found != SUSPENDED && found != BROKEN && end_op(judge) == NULL) {
		judge->no_memory = true; /* it goes on as if nothing were; the next check sees it again */
		return true;
	}
	if (!judge->in_flight)
		count_move(engine, IN_READY, IN_FLIGHT, 1);
	switch (found) {
	case BOUNCE:
		bounce(judge->end, message, &verdict);
		break;
	case DROP:
		op_end(judge->end, message, TR_COL_DROPPED, TR_REASON_NULL_QUEUE);
		break;
	case PARK:
		op_park(judge->end, message);
		break;
	case EXPIRED:
		op_expire(judge->end, message, "localhost", 0);
		break;
	case SUSPENDED:
		list_add(&judge->suspended, message);
		break;
	case BROKEN:
		list_add(&judge->broken, message);
		break;
	case GO:
		break;
	}
	return false;
}

static void
retry_all(struct judge *judge, struct message_list *list, const char *text, const char *site)
{
	struct retry_spec spec = {
		.increment = true, .explained = true, .delay_ns = -1, .reasons = {"LoggedTransientFailure"}};

	spec.response = (struct tr_response){451, {4, 4, 4}, tr_str(text), {NULL, 0}};
	while (list->head != NULL) {
		struct outcome_op *op = op_new(judge->worker);
		struct message_list part = {NULL, NULL, 0};

		if (op == NULL) {
			ready_return_to_lines(judge->worker, list, true);
			return;
		}
		while (list->head != NULL && !tr_change_is_long(&op->outbox.change)) {
			struct tr_message *message = list_pop(list);
			struct tr_event event;

			op_event_init(&event, TR_EV_TRANSIENT_FAILURE, message);
			event.site = tr_str(site != NULL ? site : message->queue);
			event.response = spec.response;
			tr_outbox_emit(&op->outbox, &event);
			list_add(&part, message);
		}
		op_retry(op, &part, &spec);
	}
}

void
judge_finish(struct judge *judge, const struct tr_ready *ready)
{
	if (judge->end != NULL)
		op_submit(judge->end);
	judge->end = NULL;
	if (judge->suspended.count > 0)
		retry_all(judge, &judge->suspended,
			"KumoMTA internal: scheduled queue is suspended by the administrator",
			ready != NULL ? ready->name : NULL);
	if (judge->broken.count > 0)
		retry_all(judge, &judge->broken,
			judge->no_site != NULL ? judge->no_site
					       : "KumoMTA internal: the path's configuration could not be resolved",
			"");
}

/* --- throttle_insert_ready_queue -------------------------------------------------------------------------- */

static void
hook_answered(void *arg, const char *error)
{
	struct tr_sched *sched = arg;
	struct tr_engine *engine = sched->engine;
	struct tr_message *message = list_pop(&sched->hooking);
	struct message_list one = {NULL, NULL, 0};

	sched->hook_answered = true;
	sched->hook_waiting = false;
	tr_message_revoke(message);
	if (stopping(engine)) { /* cancelled or not: they wait as they did, and policy is asked after the restart */
		list_add(&one, message);
		list_append(&one, &sched->hooking);
		sched_spill(sched, &one, true);
		return;
	}
	if (error != NULL || message->due_ms > tr_wall_ms()) {
		struct retry_spec spec = {
			.delay_ns = -1, .use_due = true, .reasons = {"ThrottledByThrottleInsertReadyQueue"}};
		struct outcome_op *op;

		spec.response = (struct tr_response){451, {4, 4, 1},
			TR_STR("KumoMTA internal: throttled by throttle_insert_ready_queue event"), {NULL, 0}};
		if (error != NULL) {
			tr_log(TR_LEVEL_ERROR, "queue",
				"throttle_insert_ready_queue for queue %s: %s; tried again in a minute", sched->name,
				error);
			spec.use_due = false;
			spec.delay_ns = 60 * TR_NS_PER_S;
			spec.reasons[0] = "FailedToInsertIntoReadyQueue";
		}
		if (sched->throttle_metric == NULL)
			sched->throttle_metric = tr_metric_get(TR_COUNTER, "delayed_due_to_throttle_insert_ready",
				"messages put off by throttle_insert_ready_queue", "queue", sched->name, NULL);
		tr_metric_add(sched->throttle_metric, 1);
		list_add(&one, message);
		op = op_new(sched->home);
		if (op != NULL) {
			count_move(engine, IN_READY, IN_FLIGHT, 1);
			op_retry(op, &one, &spec);
		} else {
			ready_return_to_lines(sched->home, &one, false);
		}
	} else {
		list_add(&sched->fresh, message);
	}
	if (!sched->hook_running) /* it answered later */
		hook_start(sched);
	if (sched->hooking.count == 0)
		sched_activate(sched);
}

void
hook_start(struct tr_sched *sched)
{
	struct tr_engine *engine = sched->engine;

	if (sched->hook_running || sched->hook_waiting)
		return;
	sched->hook_running = true;
	while (sched->hooking.head != NULL) {
		sched->hook_answered = false;
		sched->hook_waiting = true;
		engine->ops.promote(engine->ops_arg, sched->home, sched->hooking.head, hook_answered, sched);
		if (!sched->hook_answered)
			break;
	}
	sched->hook_running = false;
}
