/* What an operator sees of queues and sessions: contract/http-admin.md section 3. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/json.h"
#include "queue/admin.h"
#include "queue/engine.h"
#include "queue/order.h"
#include "queue/ready.h"
#include "queue/sched.h"
#include "queue/session.h"
#include "queue/worker.h"

static void
add_time(struct tr_buf *json, const char *key, int64_t wall_ns)
{
	char text[32];

	tr_json_add_key(json, key);
	tr_rfc3339(wall_ns, text);
	tr_json_add_string(json, tr_str(text));
}

static void
add_text(struct tr_buf *json, const char *key, const char *value)
{
	tr_json_add_key(json, key);
	if (value != NULL)
		tr_json_add_string(json, tr_str(value));
	else
		tr_buf_addz(json, "null");
}

static void
add_duration(struct tr_buf *json, const char *key, int64_t ns)
{
	char text[64];

	tr_json_add_key(json, key);
	tr_duration_format(ns, text);
	tr_json_add_string(json, tr_str(text));
}

/* --- scheduled queue ------------------------------------------------------------------------------------------- */

#define INSPECT_MAX 1000 /* messages read at most: a line may hold millions */

struct inspect {
	struct tr_mail mail;
	struct tr_load load;
	struct tr_worker *from;
	struct tr_sched *sched; /* referenced */
	uint32_t limit;
	bool want_body;
	void (*then)(void *arg, struct tr_str json);
	void *arg;
	struct tr_buf json;
	bool found;
	uint32_t *slots;
	uint64_t *seqs; /* to see that a slot still holds the same message */
	struct tr_message **messages;
	int *status;
};

static void
inspect_answer(struct tr_mail *mail)
{
	struct inspect *op = tr_container_of(mail, struct inspect, mail);

	if (op->found && !op->json.failed)
		op->then(op->arg, (struct tr_str){op->json.data, op->json.len});
	else
		op->then(op->arg, (struct tr_str){NULL, 0});
	if (op->sched != NULL)
		sched_count(op->sched, -1);
	for (uint32_t i = 0; op->messages != NULL && i < op->load.count; i++)
		tr_message_free(op->messages[i]);
	tr_buf_free(&op->json);
	free(op->slots);
	free(op->seqs);
	free(op->messages);
	free(op->status);
	free(op);
}

static void
inspect_send(struct inspect *op)
{
	op->mail.fn = inspect_answer;
	tr_loop_post(op->from->loop, &op->mail);
}

void
inspect_envelope(struct tr_buf *json, const struct tr_message *message, bool want_body)
{
	tr_json_add_key(json, "sender");
	tr_json_add_string(json, tr_addr_str(&message->sender));
	tr_buf_addc(json, ',');
	tr_json_add_key(json, "recipient");
	if (message->rcpt_count != 1)
		tr_buf_addc(json, '[');
	for (uint32_t i = 0; i < message->rcpt_count; i++) {
		if (i > 0)
			tr_buf_addc(json, ',');
		tr_json_add_string(json, tr_addr_str(&message->rcpts[i]));
	}
	if (message->rcpt_count != 1)
		tr_buf_addc(json, ']');
	tr_buf_addc(json, ',');
	tr_json_add_key(json, "meta");
	tr_meta_json(&message->meta, json);
	if (want_body) {
		struct tr_bytes data = {0};

		if (tr_message_data(message, &data) == TR_OK) {
			tr_buf_addc(json, ',');
			tr_json_add_key(json, "data");
			tr_json_add_string(json, tr_bytes_str(&data));
			tr_bytes_fini(&data);
		}
	}
}

static void
add_message(struct inspect *op, const struct tr_message *message, uint32_t slot)
{
	struct tr_buf *json = &op->json;
	const struct tr_stub *stub = tr_spool_stub(op->sched->engine->spool, slot);
	char id[33];

	tr_uuid_hex(message->id, id);
	tr_buf_addc(json, '{');
	add_text(json, "id", id);
	tr_buf_addc(json, ',');
	tr_json_add_key(json, "message");
	tr_buf_addc(json, '{');
	inspect_envelope(json, message, op->want_body);
	tr_buf_addz(json, "},");
	add_time(json, "due", tr_stub_due_ms(stub) * TR_NS_PER_MS);
	tr_buf_addc(json, ',');
	tr_json_add_key(json, "num_attempts");
	tr_buf_add_u64(json, tr_stub_attempts(stub));
	tr_buf_addc(json, '}');
}

static void
inspect_write(struct inspect *op)
{
	struct tr_sched *sched = op->sched;
	struct tr_buf *json = &op->json;
	const struct tr_queue_config *config = sched->config;
	bool first = true;

	op->found = true;
	tr_buf_addc(json, '{');
	add_text(json, "queue_name", sched->name);
	tr_buf_addc(json, ',');
	tr_json_add_key(json, "messages");
	tr_buf_addc(json, '[');
	for (uint32_t i = 0; i < op->load.count; i++) {
		if (op->messages[i] == NULL || tr_spool_stub(sched->engine->spool, op->slots[i])->seq != op->seqs[i])
			continue;
		if (!first)
			tr_buf_addc(json, ',');
		first = false;
		add_message(op, op->messages[i], op->slots[i]);
	}
	tr_buf_addz(json, "],");
	tr_json_add_key(json, "num_scheduled");
	tr_buf_add_i64(json, atomic_load_explicit(&sched->waiting, memory_order_relaxed));
	tr_buf_addc(json, ',');
	tr_json_add_key(json, "queue_config");
	if (config != NULL) {
		tr_buf_addc(json, '{');
		add_duration(json, "retry_interval", config->retry_interval_ns);
		tr_buf_addc(json, ',');
		if (config->max_retry_interval_ns > 0) {
			add_duration(json, "max_retry_interval", config->max_retry_interval_ns);
			tr_buf_addc(json, ',');
		}
		add_duration(json, "max_age", config->max_age_ns);
		tr_buf_addc(json, ',');
		add_text(json, "egress_pool", config->egress_pool);
		tr_buf_addc(json, ',');
		add_text(json, "protocol",
			config->protocol == TR_PROTO_LUA    ? config->constructor
			: config->protocol == TR_PROTO_SMTP ? "smtp"
							    : "null");
		tr_buf_addc(json, '}');
	} else {
		tr_buf_addz(json, "null");
	}
	tr_buf_addc(json, ',');
	tr_json_add_key(json, "delayed_metric");
	tr_buf_add_i64(json, atomic_load_explicit(&sched->full_metric->value, memory_order_relaxed));
	tr_buf_addc(json, ',');
	add_time(json, "now", tr_wall_ns());
	tr_buf_addc(json, ',');
	add_time(json, "last_changed", tr_wall_ns() - (tr_mono_ns() - sched->inserted_at_ns));
	tr_buf_addc(json, '}');
	inspect_send(op);
}

static void
inspect_loaded(struct tr_load *load)
{
	inspect_write(tr_container_of(load, struct inspect, load));
}

/* Home: picks the first messages of the line and of the timers. */
static void
inspect_home(struct tr_mail *mail)
{
	struct inspect *op = tr_container_of(mail, struct inspect, mail);
	struct tr_sched *sched = op->sched;
	struct tr_spool *spool = sched->engine->spool;
	struct slot_wheel *wheel = &sched->home->wheel;
	uint32_t want = op->limit < INSPECT_MAX ? op->limit : INSPECT_MAX;
	uint64_t looked = 0;

	op->slots = calloc(want + 1, sizeof *op->slots);
	op->seqs = calloc(want + 1, sizeof *op->seqs);
	op->messages = calloc(want + 1, sizeof *op->messages);
	op->status = calloc(want + 1, sizeof *op->status);
	if (op->slots == NULL || op->seqs == NULL || op->messages == NULL || op->status == NULL) {
		inspect_send(op);
		return;
	}
	for (uint32_t slot = sched->line.head; slot != TR_NO_SLOT && op->load.count < want;
		slot = tr_spool_stub(spool, slot)->next)
		op->slots[op->load.count++] = slot;
	op->load.count += order_list(sched, op->slots + op->load.count, want - op->load.count);
	for (uint32_t at = 0; at < SLOT_LEVELS * SLOT_BUCKETS && op->load.count < want && looked < 100000; at++) {
		uint32_t slot = wheel->head[at / SLOT_BUCKETS][at % SLOT_BUCKETS];

		for (; slot != TR_NO_SLOT && op->load.count < want; slot = tr_spool_stub(spool, slot)->next) {
			looked++;
			if (tr_spool_stub(spool, slot)->queue == sched->index)
				op->slots[op->load.count++] = slot;
		}
	}
	for (uint32_t i = 0; i < op->load.count; i++)
		op->seqs[i] = tr_spool_stub(spool, op->slots[i])->seq;
	if (op->load.count == 0) {
		inspect_write(op);
		return;
	}
	op->load.loop = sched->home->loop;
	op->load.done = inspect_loaded;
	op->load.slots = op->slots;
	op->load.messages = op->messages;
	op->load.status = op->status;
	op->load.envelope_only = !op->want_body;
	op->load.not_ours = true; /* sessions take them as before */
	tr_spool_load(spool, &op->load);
}

void
tr_queue_inspect(struct tr_worker *worker, struct tr_str name, uint32_t limit, bool want_body,
	void (*then)(void *arg, struct tr_str json), void *arg)
{
	struct inspect *op = calloc(1, sizeof *op);
	struct tr_sched *sched = sched_find(worker->engine, name);

	if (op == NULL || sched == NULL) {
		if (sched != NULL)
			sched_count(sched, -1);
		free(op);
		then(arg, (struct tr_str){NULL, 0});
		return;
	}
	op->from = worker;
	op->sched = sched;
	op->limit = limit;
	op->want_body = want_body;
	op->then = then;
	op->arg = arg;
	op->mail.fn = inspect_home;
	tr_loop_post(sched->home->loop, &op->mail);
}

/* --- ready queue ------------------------------------------------------------------------------------------------- */

static const char *const gate_names[] = {"open", "closed", "probing"};

static void
add_session(struct tr_buf *json, const struct session *session, int64_t now_ns)
{
	const struct tr_session *pub = &session->pub;

	tr_buf_addc(json, '{');
	add_text(json, "session_id", pub->uuid_text);
	tr_buf_addc(json, ',');
	add_time(json, "started_at", tr_wall_ns() - (now_ns - pub->started_at_ns));
	tr_buf_addc(json, ',');
	add_duration(json, "age", now_ns - pub->started_at_ns);
	tr_buf_addc(json, '}');
}

void
tr_ready_inspect(struct tr_worker *worker, struct tr_str name, void (*then)(void *arg, struct tr_str json), void *arg)
{
	struct tr_ready *ready = ready_find(worker->engine, name);
	struct tr_buf json = {0};
	int64_t now_ns = tr_mono_ns();
	bool first = true;

	if (ready == NULL) {
		then(arg, (struct tr_str){NULL, 0});
		return;
	}
	tr_buf_addc(&json, '{');
	add_text(&json, "queue_name", ready->name);
	tr_buf_addc(&json, ',');
	add_text(&json, "egress_source", ready->source);
	tr_buf_addc(&json, ',');
	add_text(&json, "egress_pool", ready->queue->egress_pool != NULL ? ready->queue->egress_pool : "unspecified");
	tr_buf_addc(&json, ',');
	add_text(&json, "protocol", ready->queue->protocol == TR_PROTO_LUA ? "lua" : "smtp_client");
	tr_buf_addc(&json, ',');
	pthread_mutex_lock(&ready->lock);
	tr_json_add_key(&json, "state");
	tr_buf_addf(&json,
		"{\"ready_count\":%u,\"connection_count\":%u,\"suspended\":%s,\"gate\":\"%s\",\"gate_failures\":%u,",
		ready->messages.count, ready->sessions,
		atomic_load(&ready->suspended) || tr_ready_source_suspended_until(ready) != 0 ? "true" : "false",
		gate_names[ready->gate.state], ready->gate.failures);
	add_duration(&json, "gate_wait",
		tr_max_i64(ready->gate.state == TR_GATE_CLOSED ? ready->gate.reopen_at_ns - now_ns : 0, 0));
	tr_buf_addz(&json, "},");
	tr_json_add_key(&json, "path_config");
	if (ready->path != NULL)
		tr_buf_addf(&json, "{\"connection_limit\":%u,\"max_ready\":%u,\"max_deliveries_per_connection\":%u}",
			ready->path->connection_limit, ready->path->max_ready,
			ready->path->max_deliveries_per_connection);
	else
		tr_buf_addz(&json, "null");
	tr_buf_addc(&json, ',');
	tr_json_add_key(&json, "dispatchers");
	tr_buf_addc(&json, '[');
	for (struct session *session = ready->all; session != NULL; session = session->ready_next) {
		if (!first)
			tr_buf_addc(&json, ',');
		first = false;
		add_session(&json, session, now_ns);
	}
	tr_buf_addz(&json, "],");
	pthread_mutex_unlock(&ready->lock);
	add_time(&json, "now", tr_wall_ns());
	tr_buf_addc(&json, '}');
	then(arg, json.failed ? (struct tr_str){NULL, 0} : (struct tr_str){json.data, json.len});
	tr_buf_free(&json);
	ready_unref(ready);
}

/* A line for each ready queue: one for each session would meet the bound of lines a second. The sessions' counts and
 * phases are their workers': a worker reports its own, others only by name and age. */
void
tr_engine_report(struct tr_engine *engine, struct tr_buf *out)
{
	struct tr_worker *here = worker_here(engine);
	int64_t now_ns = tr_mono_ns();

	pthread_mutex_lock(&engine->ready_lock);
	for (uint32_t i = 0; i <= engine->ready_mask; i++) {
		for (struct tr_ready *ready = engine->ready_buckets[i]; ready != NULL; ready = ready->hash_next) {
			pthread_mutex_lock(&ready->lock);
			if (ready->all != NULL)
				tr_buf_addf(out, "%s:", ready->name);
			for (struct session *session = ready->all; session != NULL; session = session->ready_next) {
				tr_buf_addf(out, " session %s, %.1f s old", session->pub.uuid_text,
					(double)(now_ns - session->pub.started_at_ns) / 1e9);
				if (session->pub.worker == here)
					tr_buf_addf(out, ", %s with %u messages", session->pub.phase, session->held);
				tr_buf_addc(out, session->ready_next != NULL ? ';' : '\n');
			}
			pthread_mutex_unlock(&ready->lock);
		}
	}
	pthread_mutex_unlock(&engine->ready_lock);
}
