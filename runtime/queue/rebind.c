/* An administrator's rebind: what waits in some queues gets other metadata, and goes where that leads. Each worker
 * first collects the stubs of its own queues, so that none is met twice, then loads and changes them batch by batch. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "queue/admin.h"
#include "queue/engine.h"
#include "queue/outcome.h"
#include "queue/sched.h"
#include "queue/worker.h"

/* Shared by the walks of all workers. */
struct rebind {
	_Atomic uint32_t refs;
	struct admin_rule *criteria;
	struct tr_rebind request; /* its strings are owned here */
	char **data;
};

struct rebind_walk {
	struct sweep sweep;
	struct tr_mail mail;
	struct rebind_walk *next; /* worker's */
	struct tr_worker *worker;
	struct rebind *rebind; /* NULL: spool_message_enumerated */
	struct slot_list found;
	struct tr_load load;
	uint32_t slots[JUDGE_MAX];
	struct tr_message *messages[JUDGE_MAX];
	int status[JUDGE_MAX];
	struct message_list todo;
	struct tr_message *current; /* with the policy */
	struct slot_list back;      /* nothing changed: to where they were */
	struct outcome_op *op;
	bool answered, looping;
};

static void
rebind_unref(struct rebind *rebind)
{
	if (atomic_fetch_sub(&rebind->refs, 1) != 1)
		return;
	for (char **text = rebind->data; text != NULL && *text != NULL; text++)
		free(*text);
	free(rebind->data);
	if (rebind->criteria != NULL)
		admin_rule_free(rebind->criteria);
	free(rebind);
}

static void
walk_free(struct rebind_walk *walk)
{
	struct tr_message *message;

	while ((message = list_pop(&walk->todo)) != NULL)
		tr_message_free(message);
	if (walk->rebind != NULL)
		rebind_unref(walk->rebind);
	free(walk);
}

void
rebinds_free(struct tr_worker *worker)
{
	while (worker->rebinds != NULL) {
		struct rebind_walk *walk = worker->rebinds;

		worker->rebinds = walk->next;
		sweep_stop(&walk->sweep);
		walk_free(walk);
	}
}

static void
walk_end(struct rebind_walk *walk)
{
	struct rebind_walk **at = &walk->worker->rebinds;

	while (*at != walk)
		at = &(*at)->next;
	*at = walk->next;
	walk_free(walk);
}

/* --- one message ---------------------------------------------------------------------------------------------- */

static void
emit_rebind(struct outcome_op *op, const struct rebind *rebind, const struct tr_message *message, const char *old)
{
	struct tr_buf text = {0};
	struct tr_event event;

	tr_buf_addf(&text, "Rebound from %s to %s: %s", old, message->queue, rebind->criteria->reason);
	op_event_init(&event, TR_EV_ADMIN_REBIND, message);
	event.response = (struct tr_response){250, {0, 0, 0}, {text.data, text.len}, {NULL, 0}};
	tr_outbox_emit(&op->outbox, &event);
	tr_buf_free(&text);
}

/* The moment for what is to be tried at once; the message's own schedule still holds. */
static int64_t
due_now_ms(const struct tr_message *message)
{
	int64_t now_ms = tr_wall_ms();

	return message->schedule != NULL ? tr_schedule_adjust(message->schedule, now_ms) : now_ms;
}

static void
settle(struct rebind_walk *walk, struct tr_message *message)
{
	static const struct tr_rebind enumeration = {.suppress_logging = true};
	const struct tr_rebind *request = walk->rebind != NULL ? &walk->rebind->request : &enumeration;
	const struct tr_stub *stub = tr_spool_stub(walk->worker->engine->spool, message->slot);
	struct tr_buf name = {0};
	const char *error = NULL;
	char *queue = NULL;
	int err = tr_message_queue_name(message, &name, &error);

	if (err != TR_OK)
		tr_log(TR_LEVEL_ERROR, "queue", "rebind: a message stays in %s: %s", message->queue,
			error != NULL ? error : tr_err_text(err));
	else if (message->queue == NULL || !tr_str_eq(tr_str(message->queue), (struct tr_str){name.data, name.len}))
		queue = strndup(name.len > 0 ? name.data : "", name.len);
	tr_buf_free(&name);
	if (walk->op == NULL)
		walk->op = op_new(walk->worker);
	if (walk->op == NULL || (queue == NULL && !request->always_flush && !(message->flags & TR_MSG_DIRTY) &&
					message->due_ms == tr_stub_due_ms(stub))) {
		free(queue);
		slots_add(walk->worker->engine->spool, &walk->back, message->slot);
		tr_message_free(message);
		return;
	}
	if (queue == NULL) {
		op_keep(walk->op, message, request->always_flush ? due_now_ms(message) : message->due_ms);
		return;
	}
	char *old = message->queue;
	message->queue = queue;
	if (walk->rebind != NULL)
		message->due_ms = due_now_ms(message);
	if (!request->suppress_logging)
		emit_rebind(walk->op, walk->rebind, message, old != NULL ? old : "");
	if (!tr_message_in_room(message, old))
		free(old);
	walk->op->spec.reasons[0] = walk->rebind != NULL ? "AdminRebind" : "Enumerated";
	op_move(walk->op, message);
}

/* --- batches --------------------------------------------------------------------------------------------------- */

static void next_batch(struct rebind_walk *walk);
static void work(struct rebind_walk *walk);

static void
policy_answered(void *arg, const char *error)
{
	struct rebind_walk *walk = arg;
	struct tr_message *message = walk->current;

	walk->current = NULL;
	walk->answered = true;
	if (error != NULL)
		tr_log(TR_LEVEL_ERROR, "queue", "%s: %s; what it has changed stays",
			walk->rebind != NULL ? "rebind_message" : "spool_message_enumerated", error);
	tr_message_revoke(message);
	settle(walk, message);
	if (!walk->looping)
		work(walk);
}

static void
apply_data(struct rebind_walk *walk, struct tr_message *message)
{
	char **data = walk->rebind->data;

	for (; data[0] != NULL; data += 2) {
		if (tr_meta_set_string(&message->meta, tr_str(data[0]), tr_str(data[1])) != TR_OK) {
			tr_log(TR_LEVEL_ERROR, "queue", "rebind: no memory for the metadata of a message in %s",
				message->queue);
			return;
		}
		message->flags |= TR_MSG_DIRTY;
	}
}

static void
work(struct rebind_walk *walk)
{
	struct tr_worker *worker = walk->worker;
	struct tr_engine *engine = worker->engine;
	struct tr_message *message;

	walk->looping = true;
	while ((message = list_pop(&walk->todo)) != NULL) {
		if (walk->rebind != NULL && !walk->rebind->request.trigger_event) {
			apply_data(walk, message);
			settle(walk, message);
			continue;
		}
		walk->current = message;
		walk->answered = false;
		if (walk->rebind == NULL)
			engine->ops.enumerated(engine->ops_arg, worker, message, policy_answered, walk);
		else
			engine->ops.rebind(engine->ops_arg, worker, message, (const char *const *)walk->rebind->data,
				policy_answered, walk);
		if (!walk->answered) {
			walk->looping = false;
			return; /* policy_answered() goes on */
		}
	}
	walk->looping = false;
	if (walk->back.count > 0)
		sched_return(worker, &walk->back, true);
	if (walk->op != NULL)
		op_submit(walk->op);
	walk->op = NULL;
	next_batch(walk);
	busy_drop(engine); /* last: a stop may be complete */
}

static void
batch_loaded(struct tr_load *load)
{
	struct rebind_walk *walk = tr_container_of(load, struct rebind_walk, load);
	struct tr_engine *engine = walk->worker->engine;

	for (uint32_t i = 0; i < load->count; i++) {
		struct tr_message *message = walk->messages[i];

		if (message != NULL && walk->status[i] >= 0) {
			message->owner_data = NULL;
			list_add(&walk->todo, message);
		} else if (walk->status[i] == TR_ECORRUPT &&
			   (walk->op != NULL || (walk->op = op_new(walk->worker)) != NULL)) {
			op_lost(walk->op, walk->slots[i]);
		} else {
			tr_log(TR_LEVEL_ERROR, "queue", "a message could not be read (%s): it stays where it is",
				tr_err_text(walk->status[i]));
			slots_add(engine->spool, &walk->back, walk->slots[i]);
		}
	}
	work(walk);
}

static void
next_batch(struct rebind_walk *walk)
{
	struct tr_engine *engine = walk->worker->engine;

	if (stopping(engine) && walk->found.count > 0) {
		tr_log(TR_LEVEL_WARN, "queue", "%u messages were not looked at before the stop: they stay as they were",
			walk->found.count);
		sched_return(walk->worker, &walk->found, true);
	}
	if (walk->found.count == 0) {
		walk_end(walk);
		return;
	}
	walk->load.count = 0;
	while (walk->load.count < JUDGE_MAX && walk->found.count > 0)
		walk->slots[walk->load.count++] = slots_pop(engine->spool, &walk->found);
	memset(walk->messages, 0, sizeof walk->messages);
	busy_add(engine);
	tr_spool_load(engine->spool, &walk->load);
}

/* --- collecting ------------------------------------------------------------------------------------------------- */

static bool
is_wanted(struct sweep *sweep, const struct tr_sched *sched)
{
	return admin_rule_matches(tr_container_of(sweep, struct rebind_walk, sweep)->rebind->criteria, sched);
}

static void
collect(struct sweep *sweep, uint32_t slot)
{
	struct rebind_walk *walk = tr_container_of(sweep, struct rebind_walk, sweep);

	slots_add(walk->worker->engine->spool, &walk->found, slot);
}

static void
collected(struct sweep *sweep)
{
	next_batch(tr_container_of(sweep, struct rebind_walk, sweep));
}

static void
walk_arrived(struct tr_mail *mail)
{
	struct rebind_walk *walk = tr_container_of(mail, struct rebind_walk, mail);
	struct tr_worker *worker = walk->worker;

	walk->next = worker->rebinds;
	worker->rebinds = walk;
	sweep_start(&walk->sweep, worker);
}

static struct rebind_walk *
walk_new(struct tr_worker *worker, struct rebind *rebind)
{
	struct rebind_walk *walk = calloc(1, sizeof *walk);

	if (walk == NULL)
		return NULL;
	if (rebind != NULL)
		atomic_fetch_add(&rebind->refs, 1);
	walk->rebind = rebind;
	walk->worker = worker;
	walk->found = walk->back = SLOT_LIST_EMPTY;
	walk->sweep.worker = worker;
	walk->sweep.wants = is_wanted;
	walk->sweep.take = collect;
	walk->sweep.ended = collected;
	walk->load.loop = worker->loop;
	walk->load.done = batch_loaded;
	walk->load.slots = walk->slots;
	walk->load.messages = walk->messages;
	walk->load.status = walk->status;
	walk->mail.fn = walk_arrived;
	return walk;
}

void
worker_enumerate(struct tr_worker *worker)
{
	struct rebind_walk *walk;

	if (worker->enumerated.count == 0)
		return;
	walk = walk_new(worker, NULL);
	if (walk == NULL) {
		tr_log(TR_LEVEL_ERROR, "queue", "no memory to show %u messages to spool_message_enumerated",
			worker->enumerated.count);
		sched_return(worker, &worker->enumerated, false);
		return;
	}
	walk->found = worker->enumerated;
	worker->enumerated = SLOT_LIST_EMPTY;
	walk->next = worker->rebinds;
	worker->rebinds = walk;
	next_batch(walk);
}

static bool
copy_data(struct rebind *rebind, const char *const *data)
{
	size_t count = 0;

	while (data[count] != NULL)
		count++;
	rebind->data = calloc(count + 1, sizeof *rebind->data);
	for (size_t i = 0; rebind->data != NULL && i < count; i++) {
		rebind->data[i] = strdup(data[i]);
		if (rebind->data[i] == NULL)
			return false;
	}
	return rebind->data != NULL;
}

int
tr_admin_rebind(struct tr_engine *engine, const struct tr_rebind *request)
{
	struct rebind *rebind = calloc(1, sizeof *rebind);
	struct rebind_walk *walks = NULL;

	if (rebind == NULL)
		return TR_ENOMEM;
	atomic_init(&rebind->refs, 1);
	rebind->criteria = admin_rule_new(&request->match, NULL, request->reason);
	rebind->request = *request;
	if (rebind->criteria == NULL || !copy_data(rebind, request->data)) {
		rebind_unref(rebind);
		return TR_ENOMEM;
	}
	for (uint32_t i = 0; i < engine->worker_count; i++) { /* all or none */
		struct rebind_walk *walk = walk_new(&engine->workers[i], rebind);

		if (walk == NULL) {
			while ((walk = walks) != NULL) {
				walks = walk->next;
				walk_free(walk);
			}
			/* Each walk held a reference of its own. NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
			rebind_unref(rebind);
			return TR_ENOMEM;
		}
		walk->next = walks;
		walks = walk;
	}
	while (walks != NULL) {
		struct rebind_walk *walk = walks;

		walks = walk->next;
		tr_loop_post(walk->worker->loop, &walk->mail);
	}
	rebind_unref(rebind);
	return TR_OK;
}
