/* What becomes of messages: one op holds a list of them, their records and their change, and moves them on once it is
 * committed. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/pool.h"
#include "queue/budget.h"
#include "queue/dead.h"
#include "queue/engine.h"
#include "queue/order.h"
#include "queue/outcome.h"
#include "queue/sched.h"
#include "queue/session.h"
#include "queue/worker.h"

#define ENVELOPE_BYTES (64 * 1024) /* of a log record and what is stored beside it, with much to spare */

int64_t
message_units(const struct tr_message *message)
{
	if (message->flags & TR_MSG_LOG_RECORD)
		return 1;
	return message->rcpt_count > 0 ? message->rcpt_count : 1;
}

int64_t
message_expiry_ms(const struct tr_sched *sched, const struct tr_message *message)
{
	int64_t max_age_ms = atomic_load_explicit(&sched->max_age_ms, memory_order_relaxed);

	if (message->schedule != NULL && message->schedule->expires_ms > 0)
		return message->schedule->expires_ms;
	return max_age_ms == INT64_MAX ? INT64_MAX : message->created_ns / TR_NS_PER_MS + max_age_ms;
}

void
op_event_init(struct tr_event *event, enum tr_event_type type, const struct tr_message *message)
{
	memset(event, 0, sizeof *event);
	event->type = type;
	event->when_ns = tr_wall_ns();
	event->message = message;
	event->site = TR_STR("");
	event->num_attempts = -1;
}

static void
op_done(struct tr_outbox *outbox, int status)
{
	struct outcome_op *op = tr_container_of(outbox, struct outcome_op, outbox);
	struct tr_worker *worker = op->worker;
	struct tr_message *message = op->telling_message;
	struct tr_telling *telling = op->telling;

	if (message != NULL && (status != TR_OK || telling == NULL)) {
		list_add(&op->kept, message);
		message = NULL;
	}
	if (status == TR_OK)
		op_settle(op);
	else
		op_set_back(op, status);
	leavers_drop(op->leavers, worker->engine->spool); /* they stay */
	worker->unsettled -= op->count;
	sessions_settled(worker);
	tr_queue_config_unref(op->config);
	tr_buf_free(&op->line);
	tr_pool_put(op, sizeof *op);
	busy_drop(worker->engine);
	if (telling != NULL) {
		telling->op = NULL;
		if (message != NULL)
			session_of(telling->session)->held++;
		telling->told(telling, message);
	}
}

struct outcome_op *
op_new(struct tr_worker *worker)
{
	struct outcome_op *op = tr_pool_zero(sizeof *op);

	if (op == NULL)
		return NULL;
	op->worker = worker;
	op->lost = op->died = SLOT_LIST_EMPTY;
	tr_outbox_init(&op->outbox, worker, op_done, op);
	busy_add(worker->engine);
	return op;
}

/* What cannot be part of the change fails all of it: then all are tried again, and none is half told. */
static void
must(struct outcome_op *op, int err)
{
	if (err != TR_OK)
		op->outbox.change.failed = true;
}

static void
op_count(struct outcome_op *op)
{
	op->count++;
	op->worker->unsettled++;
}

/* It ends or leaves its queue: whoever waits behind it goes on once that is committed. */
static void
op_leaves(struct outcome_op *op, struct tr_sched *sched, uint32_t slot)
{
	const struct tr_stub *stub = tr_spool_stub(op->worker->engine->spool, slot);

	if (sched == NULL || (!(tr_stub_flags(stub) & TR_MSG_ORDERED) && !(tr_stub_owners(stub) & STUB_COUNTED)))
		return;
	must(op, leavers_add(&op->leavers, sched, slot));
	if (atomic_load_explicit(&sched->behind, memory_order_relaxed) > 0)
		op->outbox.change.urgent = true; /* somebody waits */
}

/* --- ends ----------------------------------------------------------------------------------------------------- */

void
op_end(struct outcome_op *op, struct tr_message *message, enum tr_column column, enum tr_reason reason)
{
	op_count(op);
	tr_message_revoke(message);
	op_leaves(op, sched_of(op->worker->engine, message), message->slot);
	must(op, tr_change_done(&op->outbox.change, message->slot, column, reason,
			 op->units > 0 ? op->units : message_units(message)));
	list_add(&op->ended, message);
}

/* Letters are stored whole, and a change has its bound: the op itself, or another that is submitted with it. */
static struct outcome_op *
with_room(struct outcome_op *op, size_t body_len)
{
	size_t need = body_len + ENVELOPE_BYTES;
	struct outcome_op *more = op->more != NULL ? op->more : op;

	if (more->outbox.change.count == 0 || tr_change_room(&more->outbox.change) >= need)
		return more;
	more = op_new(op->worker);
	if (more == NULL)
		return op; /* if it is too much for it the record ends without a letter */
	more->more = op->more;
	op->more = more;
	return more;
}

void
op_die(struct outcome_op *op, struct tr_message *message, enum tr_column column, const char *reason,
	const struct tr_response *response)
{
	struct tr_engine *engine = op->worker->engine;
	struct tr_sched *sched = sched_of(engine, message);
	uint32_t slot = message->slot; /* which is another one then */
	struct tr_buf line = {0};
	int err = TR_ENOENT;

	if (tr_dead_wanted(engine->dead, message)) {
		op = with_room(op, message->body_file == 0 ? message->body.len : 0);
		tr_response_line(response, &line);
		err = line.failed ? TR_ENOMEM
				  : tr_dead_put(engine->dead, &op->outbox.change, message, reason,
					    (struct tr_str){line.len > 0 ? line.data : "", line.len});
		tr_buf_free(&line);
		if (err == TR_ENOMEM)
			op->outbox.change.failed = true; /* not now: it is refused, and the record tried again */
		else if (err != TR_OK)
			tr_log(TR_LEVEL_ERROR, "queue", "a log record in %s cannot be kept as a dead letter: %s",
				message->queue, tr_err_text(err));
	}
	if (err != TR_OK) {
		op_end(op, message, column, TR_REASON_NONE);
		return;
	}
	op_count(op);
	tr_message_revoke(message);
	op_leaves(op, sched, slot);
	message->owner_data = sched;
	list_add(&op->dead, message);
	slots_add(engine->spool, &op->died, slot);
}

void
op_drop(struct outcome_op *op, uint32_t slot, enum tr_reason reason)
{
	struct tr_engine *engine = op->worker->engine;
	const struct tr_stub *stub = tr_spool_stub(engine->spool, slot);

	op_count(op);
	op_leaves(op, sched_at(engine, stub->queue), slot);
	must(op, tr_change_done(&op->outbox.change, slot, TR_COL_DROPPED, reason, stub->units));
	slots_add(engine->spool, &op->lost, slot);
}

void
op_lost(struct outcome_op *op, uint32_t slot)
{
	tr_log(TR_LEVEL_ERROR, "queue", "message %llu is damaged in the spool and was given up",
		(unsigned long long)tr_spool_stub(op->worker->engine->spool, slot)->seq);
	op_drop(op, slot, TR_REASON_DAMAGED);
}

static void
store_again(struct outcome_op *op, struct tr_message *message)
{
	int err;

	message->flags &= ~TR_MSG_DIRTY;
	err = tr_change_put(&op->outbox.change, message, tr_str(message->queue), TR_COL_NONE, message_units(message));
	if (err == TR_OK)
		return;
	tr_log(TR_LEVEL_ERROR, "queue", "a change of a message in %s could not be stored: %s", message->queue,
		tr_err_text(err));
	must(op,
		tr_change_state(&op->outbox.change, message->slot, message->due_ms, message->attempts, message->flags));
}

void
op_park(struct outcome_op *op, struct tr_message *message)
{
	op_count(op);
	tr_message_revoke(message);
	tr_log(TR_LEVEL_WARN, "queue", "a log record in queue %s is parked: its hook or constructor is gone",
		message->queue);
	op_leaves(op, sched_of(op->worker->engine, message), message->slot);
	message->flags |= TR_MSG_POLICY_ERROR;
	(void)tr_meta_set_string(&message->meta, TR_STR("policy_error"),
		TR_STR("nothing may send it: its queue has no constructor of the policy")); /* told above, too */
	tr_stub_set(tr_spool_stub(op->worker->engine->spool, message->slot), message->due_ms, message->flags,
		message->attempts);
	store_again(op, message);
	list_add(&op->parked, message);
}

void
op_save(struct outcome_op *op, struct tr_message *message)
{
	op_count(op);
	tr_message_revoke(message);
	store_again(op, message);
	list_add(&op->kept, message);
}

void
op_tell(struct outcome_op *op, struct tr_message *message, struct tr_telling *telling)
{
	op_count(op);
	tr_message_revoke(message);
	if (message->flags & TR_MSG_DIRTY)
		store_again(op, message);
	op->telling_message = message;
	op->telling = telling;
	telling->op = op;
}

void
op_move(struct outcome_op *op, struct tr_message *message)
{
	op_count(op);
	tr_message_revoke(message);
	op_leaves(op, sched_of(op->worker->engine, message), message->slot);
	store_again(op, message);
	list_add(&op->moved, message);
}

void
op_keep(struct outcome_op *op, struct tr_message *message, int64_t due_ms)
{
	struct tr_stub *stub = tr_spool_stub(op->worker->engine->spool, message->slot);

	message->due_ms = due_ms;
	op_count(op);
	tr_message_revoke(message);
	stub_note(stub, message);
	if (message->flags & TR_MSG_DIRTY)
		store_again(op, message);
	else
		must(op, tr_change_state(&op->outbox.change, message->slot, due_ms, message->attempts, message->flags));
	tr_stub_set(stub, due_ms, message->flags, message->attempts);
	list_add(&op->kept, message);
}

const struct tr_queue_config *
op_config(struct outcome_op *op, struct tr_sched *sched)
{
	if (op->config_of != sched) {
		tr_queue_config_unref(op->config);
		op->config = sched_config_ref(sched);
		op->config_of = sched;
	}
	return op->config != NULL ? op->config : op->worker->engine->fallback;
}

void
op_expire(struct outcome_op *op, struct tr_message *message, const char *site, int64_t due_ms)
{
	struct tr_sched *sched = sched_of(op->worker->engine, message);
	struct tr_buf text = {0};
	struct tr_event event;
	char due[32], expiry[32];

	tr_rfc3339(message_expiry_ms(sched, message) * TR_NS_PER_MS, expiry);
	op_event_init(&event, TR_EV_EXPIRATION, message);
	if (due_ms > 0) { /* after an attempt */
		const struct tr_queue_config *config = op_config(op, sched);

		event.egress_pool = tr_str(config->egress_pool != NULL ? config->egress_pool : "unspecified");
		event.provider = tr_str(config->provider);
		tr_rfc3339(due_ms * TR_NS_PER_MS, due);
		tr_buf_addf(&text, "Next delivery time would be at %s which exceeds the expiry time %s", due, expiry);
	} else {
		tr_buf_addf(&text, "Delivery time has passed the expiry time %s", expiry);
	}
	event.site = tr_str(site);
	event.response = (struct tr_response){551, {5, 4, 7}, {text.data, text.len}, {NULL, 0}};
	tr_outbox_emit(&op->outbox, &event);
	op_die(op, message, TR_COL_EXPIRED, "expired", &event.response);
	tr_buf_free(&text);
}

void
emit_delayed(struct outcome_op *op, const struct tr_message *message, const char *const *reasons, int64_t due_ms)
{
	struct tr_buf text = {0};
	struct tr_event event;
	char due[32], in[64];
	const char *last = NULL;

	tr_buf_addz(&text, "Context: ");
	for (; *reasons != NULL; reasons++) {
		if (last != NULL && strcmp(last, *reasons) == 0)
			continue;
		if (last != NULL)
			tr_buf_addz(&text, ", ");
		tr_buf_addz(&text, *reasons);
		last = *reasons;
	}
	tr_rfc3339(due_ms * TR_NS_PER_MS, due);
	tr_duration_format(tr_max_i64(due_ms - tr_wall_ms(), 0) * TR_NS_PER_MS, in);
	tr_buf_addf(&text, ". Next due in %s at %s", in, due);
	op_event_init(&event, TR_EV_DELAYED, message);
	event.response = (struct tr_response){400, {0, 0, 0}, {text.data, text.len}, {NULL, 0}};
	tr_outbox_emit(&op->outbox, &event);
	tr_buf_free(&text);
}

/* --- again later ------------------------------------------------------------------------------------------------ */

/* The hook may have named another queue. True if so: the message went there. */
static bool
moved(struct outcome_op *op, struct tr_message *message)
{
	struct tr_buf name = {0};
	const char *error = NULL;
	int64_t now_ms = tr_wall_ms();
	int err;

	if (tr_message_queue_name(message, &name, &error) != TR_OK) {
		tr_log(TR_LEVEL_ERROR, "queue", "a message stays in %s: %s", message->queue,
			error != NULL ? error : "no memory");
		tr_buf_free(&name);
		return false;
	}
	if (message->queue != NULL && tr_str_eq(tr_str(message->queue), (struct tr_str){name.data, name.len})) {
		tr_buf_free(&name);
		return false;
	}
	err = tr_message_set_queue(message, (struct tr_str){name.data, name.len});
	tr_buf_free(&name);
	if (err != TR_OK)
		return false;
	if (message->attempts < UINT16_MAX)
		message->attempts++;
	message->due_ms = 0;
	if (message->schedule != NULL) {
		int64_t allowed_ms = tr_schedule_adjust(message->schedule, now_ms);

		message->due_ms = allowed_ms > now_ms ? allowed_ms : 0;
	}
	op_move(op, message);
	return true;
}

static void
decide(struct outcome_op *op, struct tr_message *message, int reject_code, const char *reject_text, bool hooked)
{
	struct tr_engine *engine = op->worker->engine;
	const struct retry_spec *spec = &op->spec;
	struct tr_sched *sched = sched_of(engine, message);
	const struct tr_queue_config *config = op_config(op, sched);
	struct tr_schedule *schedule = message->schedule;
	int64_t now_ms = tr_wall_ms(), due_ms = now_ms, age_ms = now_ms - message->created_ns / TR_NS_PER_MS;
	int64_t max_age_ms = config->max_age_ns / TR_NS_PER_MS;
	bool expired;

	if (reject_code >= 0) {
		struct tr_event event;

		op_event_init(&event, TR_EV_BOUNCE, message);
		event.response = (struct tr_response){
			reject_code, {0, 0, 0}, tr_str(reject_text != NULL ? reject_text : ""), {NULL, 0}};
		tr_outbox_emit(&op->outbox, &event);
		op_die(op, message, TR_COL_BOUNCED, "rejected", &event.response);
		return;
	}
	if (hooked && moved(op, message))
		return;
	if (spec->use_due)
		due_ms = message->due_ms;
	else if (spec->increment)
		due_ms = now_ms +
			 tr_retry_delay_ns(config, message->attempts, tr_worker_random(op->worker)) / TR_NS_PER_MS;
	else if (spec->delay_ns > 0)
		due_ms = now_ms + spec->delay_ns / TR_NS_PER_MS;
	age_ms += due_ms - now_ms;
	if (schedule != NULL)
		due_ms = tr_schedule_adjust(schedule, due_ms);
	if (spec->increment && schedule != NULL && schedule->expires_ms > 0)
		expired = due_ms >= schedule->expires_ms;
	else
		expired = spec->increment ? age_ms > max_age_ms : age_ms >= max_age_ms;
	if (expired && spec->increment && message->attempts < UINT16_MAX)
		message->attempts++; /* the attempt that failed counts in the record */
	if (expired) {
		op_expire(op, message, "", due_ms);
		return;
	}
	if (spec->increment && message->attempts < UINT16_MAX)
		message->attempts++;
	if (!spec->explained)
		emit_delayed(op, message, spec->reasons, due_ms);
	op_keep(op, message, due_ms);
}

static void run_todo(struct outcome_op *op);

static void
hook_answered(void *arg, int reject_code, const char *reject_text)
{
	struct outcome_op *op = arg;
	struct tr_message *message = op->current;

	op->current = NULL;
	op->answered = true;
	decide(op, message, reject_code, reject_text, true);
	if (!op->looping)
		run_todo(op);
}

static void
run_todo(struct outcome_op *op)
{
	struct tr_engine *engine = op->worker->engine;
	bool hook = engine->ops.wants_requeue != NULL && engine->ops.wants_requeue(engine->ops_arg, op->worker);

	op->looping = true;
	for (;;) {
		struct tr_message *message = list_pop(&op->todo);

		if (message == NULL)
			break;
		if (!hook) {
			decide(op, message, -1, NULL, false);
			continue;
		}
		op->current = message;
		op->answered = false;
		engine->ops.requeue(engine->ops_arg, op->worker, message, (struct tr_str){op->line.data, op->line.len},
			op->spec.reasons, op->spec.increment, op->spec.delay_ns, hook_answered, op);
		if (!op->answered) {
			op->looping = false;
			return; /* hook_answered() goes on */
		}
	}
	op->looping = false;
	op_submit(op);
}

void
op_retry(struct outcome_op *op, struct message_list *list, const struct retry_spec *spec)
{
	struct tr_engine *engine = op->worker->engine;

	op->spec = *spec;
	if (engine->ops.wants_requeue != NULL && engine->ops.wants_requeue(engine->ops_arg, op->worker))
		tr_response_line(&spec->response, &op->line);
	op->spec.response = (struct tr_response){0};
	list_append(&op->todo, list);
	run_todo(op);
}

void
op_submit(struct outcome_op *op)
{
	struct outcome_op *more;

	for (; op != NULL; op = more) {
		more = op->more;
		tr_outbox_submit(&op->outbox);
	}
}
