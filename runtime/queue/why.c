/* Asks what holds a queue or a message now, for a person: tr_why(). */
#include <stdlib.h>
#include <string.h>

#include "queue/engine.h"
#include "queue/ready.h"
#include "queue/sched.h"
#include "queue/why_holds.h"
#include "queue/worker.h"

#define CANDIDATES_MAX 1024

struct why {
	struct tr_mail mail;
	struct tr_load load;
	struct tr_defer defer;
	struct tr_worker *from;
	struct tr_sched *sched; /* referenced */
	bool found;
	void (*then)(void *arg, struct tr_str json);
	void *arg;
	struct tr_buf json;
	/* of a message */
	bool message;
	uint8_t id[16];
	uint32_t *slots;
	struct tr_message **messages;
	int *status;
};

static void
answer(struct why *why)
{
	struct tr_engine *engine = why->from->engine;

	why->then(why->arg, why->found && !why->json.failed ? (struct tr_str){why->json.data, why->json.len}
							    : (struct tr_str){NULL, 0});
	if (why->sched != NULL)
		sched_count(why->sched, -1);
	for (uint32_t i = 0; why->messages != NULL && i < why->load.count; i++)
		tr_message_free(why->messages[i]);
	free(why->slots);
	free(why->messages);
	free(why->status);
	tr_buf_free(&why->json);
	free(why);
	busy_drop(engine);
}

static void
answer_arrived(struct tr_mail *mail)
{
	answer(tr_container_of(mail, struct why, mail));
}

static void
answer_deferred(struct tr_defer *defer)
{
	answer(tr_container_of(defer, struct why, defer));
}

static void
at_home(struct tr_mail *mail)
{
	struct why *why = tr_container_of(mail, struct why, mail);

	why->found = true;
	if (why->message)
		tr_buf_addz(&why->json, ",\"queue\":");
	why_sched(&why->json, why->sched);
	if (why->message)
		tr_buf_addc(&why->json, '}');
	why->mail.fn = answer_arrived;
	tr_loop_post(why->from->loop, &why->mail);
}

static void
ask_home(struct why *why)
{
	why->mail.fn = at_home;
	tr_loop_post(why->sched->home->loop, &why->mail);
}

/* One message: what its stub says, then its queue. */
static void
tell_message(struct why *why, const struct tr_message *message, uint32_t slot)
{
	struct tr_engine *engine = why->from->engine;
	const struct tr_stub *stub = tr_spool_stub(engine->spool, slot);

	why_message(&why->json, message, stub);
	if (stub->queue != NO_SCHED && !(message->flags & (TR_MSG_POLICY_ERROR | TR_MSG_UNDECIDED)) &&
		message->queue != NULL)
		why->sched = sched_find(engine, tr_str(message->queue));
	if (why->sched != NULL) {
		ask_home(why);
		return;
	}
	tr_buf_addc(&why->json, '}');
	why->found = true;
	answer(why);
}

static void
loaded(struct tr_load *load)
{
	struct why *why = tr_container_of(load, struct why, load);

	for (uint32_t i = 0; i < load->count; i++) {
		if (why->messages[i] != NULL && memcmp(why->messages[i]->id, why->id, sizeof why->id) == 0) {
			tell_message(why, why->messages[i], why->slots[i]);
			return;
		}
	}
	answer(why);
}

/* False: there is no such message, or no memory. */
static bool
ask_message(struct why *why)
{
	struct tr_spool *spool = why->from->engine->spool;

	why->slots = calloc(CANDIDATES_MAX, sizeof *why->slots);
	why->messages = calloc(CANDIDATES_MAX, sizeof(struct tr_message *));
	why->status = calloc(CANDIDATES_MAX, sizeof *why->status);
	if (why->slots == NULL || why->messages == NULL || why->status == NULL)
		return false;
	why->message = true;
	why->load.loop = why->from->loop;
	why->load.done = loaded;
	why->load.slots = why->slots;
	why->load.messages = why->messages;
	why->load.status = why->status;
	why->load.envelope_only = true;
	why->load.not_ours = true;
	why->load.count = tr_spool_find(spool, tr_uuid1_wall_ns(why->id) / TR_NS_PER_MS, why->slots, CANDIDATES_MAX);
	if (why->load.count == 0)
		return false;
	tr_spool_load(spool, &why->load);
	return true;
}

void
tr_why(struct tr_worker *worker, struct tr_str name, void (*then)(void *arg, struct tr_str json), void *arg)
{
	struct tr_engine *engine = worker->engine;
	struct why *why = calloc(1, sizeof *why);
	struct tr_ready *ready;

	if (why == NULL || stopping(engine)) {
		free(why);
		then(arg, (struct tr_str){NULL, 0});
		return;
	}
	why->from = worker;
	why->then = then;
	why->arg = arg;
	busy_add(engine);
	why->sched = sched_find(engine, name);
	if (why->sched != NULL) {
		ask_home(why);
		return;
	}
	ready = ready_find(engine, name);
	if (ready != NULL) {
		why_ready(&why->json, ready);
		ready_unref(ready);
		why->found = true;
	} else if (tr_uuid_from_hex(name, why->id) == TR_OK && ask_message(why)) {
		return;
	}
	tr_loop_defer(worker->loop, &why->defer, answer_deferred);
}
