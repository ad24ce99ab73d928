/* One message by its id, as the spool has it: contract/http-admin.md, inspect-message. There is no index by id: the id
 * tells the moment of creation, the stubs know theirs, and the few of that millisecond are read. */
#include <stdlib.h>

#include "base/json.h"
#include "message/schedule.h"
#include "queue/admin.h"
#include "queue/engine.h"
#include "queue/worker.h"

#define CANDIDATES_MAX 1024

struct look {
	struct tr_load load;
	struct tr_defer defer;
	struct tr_worker *worker;
	uint8_t id[16];
	bool want_body;
	void (*then)(void *arg, struct tr_str json);
	void *arg;
	uint32_t slots[CANDIDATES_MAX];
	struct tr_message *messages[CANDIDATES_MAX];
	int status[CANDIDATES_MAX];
};

static void
answer(struct look *look, const struct tr_message *message)
{
	struct tr_engine *engine = look->worker->engine;
	struct tr_buf json = {0};
	char id[33];

	if (message != NULL) {
		tr_uuid_hex(message->id, id);
		tr_buf_addz(&json, "{\"id\":");
		tr_json_add_string(&json, tr_str(id));
		tr_buf_addz(&json, ",\"message\":{");
		inspect_envelope(&json, message, look->want_body);
		if (message->schedule != NULL) {
			tr_buf_addz(&json, ",\"scheduling\":");
			tr_schedule_json(message->schedule, &json);
		}
		tr_buf_addz(&json, "}}");
	}
	look->then(look->arg,
		message != NULL && !json.failed ? (struct tr_str){json.data, json.len} : (struct tr_str){NULL, 0});
	tr_buf_free(&json);
	for (uint32_t i = 0; i < look->load.count; i++)
		tr_message_free(look->messages[i]);
	free(look);
	busy_drop(engine);
}

static void
loaded(struct tr_load *load)
{
	struct look *look = tr_container_of(load, struct look, load);
	uint32_t i = 0;

	while (i < load->count && (look->messages[i] == NULL || memcmp(look->messages[i]->id, look->id, 16) != 0))
		i++;
	if (i == load->count) {
		answer(look, NULL);
		return;
	}
	if (look->want_body && load->envelope_only) { /* once more, with the body's own file */
		uint32_t slot = look->slots[i];

		for (i = 0; i < load->count; i++)
			tr_message_free(look->messages[i]);
		look->slots[0] = slot;
		look->messages[0] = NULL;
		load->count = 1;
		load->envelope_only = false;
		tr_spool_load(look->worker->engine->spool, load);
		return;
	}
	answer(look, look->messages[i]);
}

static void
none_found(struct tr_defer *defer)
{
	answer(tr_container_of(defer, struct look, defer), NULL);
}

void
tr_message_inspect(struct tr_worker *worker, const uint8_t id[16], bool want_body,
	void (*then)(void *arg, struct tr_str json), void *arg)
{
	struct tr_spool *spool = worker->engine->spool;
	struct look *look = calloc(1, sizeof *look);

	if (look == NULL || stopping(worker->engine)) {
		free(look);
		then(arg, (struct tr_str){NULL, 0});
		return;
	}
	look->worker = worker;
	look->want_body = want_body;
	look->then = then;
	look->arg = arg;
	memcpy(look->id, id, 16);
	busy_add(worker->engine);
	look->load.loop = worker->loop;
	look->load.done = loaded;
	look->load.slots = look->slots;
	look->load.messages = look->messages;
	look->load.status = look->status;
	look->load.envelope_only = true;
	look->load.not_ours = true; /* whoever has it goes on with it */
	look->load.count = tr_spool_find(spool, tr_uuid1_wall_ns(id) / TR_NS_PER_MS, look->slots, CANDIDATES_MAX);
	if (look->load.count > 0)
		tr_spool_load(spool, &look->load);
	else
		tr_loop_defer(worker->loop, &look->defer, none_found);
}
