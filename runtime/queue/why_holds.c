/* What holds a message, a scheduled queue or a ready queue, written as JSON. Each thing that can hold is looked at
 * where it is decided; nothing is kept for this. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "queue/admin.h"
#include "queue/engine.h"
#include "queue/ready.h"
#include "queue/sched.h"
#include "queue/session.h"
#include "queue/why_holds.h"
#include "queue/worker.h"

#define LOOK_MAX 100000 /* stubs of the wheel that are looked at for the next due time */

struct holds {
	struct tr_buf *json;
	bool any;
};

static void
begin_holds(struct holds *holds, struct tr_buf *json)
{
	*holds = (struct holds){json, false};
	tr_json_add_key(json, "holds");
	tr_buf_addc(json, '[');
}

/* wait_ns -1: it is not known for how long. */
static void __attribute__((format(printf, 4, 5)))
add_hold(struct holds *holds, const char *kind, int64_t wait_ns, const char *format, ...)
{
	struct tr_buf *json = holds->json;
	char text[600];
	va_list args;
	int len;

	va_start(args, format);
	len = vsnprintf(text, sizeof text, format, args);
	va_end(args);
	if (len < 0 || (size_t)len >= sizeof text)
		len = (int)strlen(text);
	if (holds->any)
		tr_buf_addc(json, ',');
	holds->any = true;
	tr_buf_addz(json, "{\"kind\":");
	tr_json_add_string(json, tr_str(kind));
	tr_buf_addz(json, ",\"text\":");
	tr_json_add_string(json, (struct tr_str){text, (size_t)len});
	if (wait_ns >= 0)
		tr_buf_addf(json, ",\"seconds\":%.3f}", (double)wait_ns / 1e9);
	else
		tr_buf_addz(json, ",\"seconds\":null}");
}

static void
end_holds(struct holds *holds)
{
	tr_buf_addc(holds->json, ']');
}

static double
seconds(int64_t ns)
{
	return (double)tr_max_i64(ns, 0) / 1e9;
}

static const char *
s_of(uint64_t count)
{
	return count == 1 ? "" : "s";
}

static const char *
waits(uint64_t count)
{
	return count == 1 ? "s" : "";
}

/* --- ready queue: all under its lock ------------------------------------------------------------------------- */

static void
add_gate(struct holds *holds, const struct tr_ready *ready, int64_t now_ns)
{
	const struct tr_gate *gate = &ready->gate;

	if (ready->path->gate.failures_to_close == 0)
		return;
	if (gate->state == TR_GATE_CLOSED)
		add_hold(holds, "gate", tr_max_i64(gate->reopen_at_ns - now_ns, 0),
			"the gate is closed for %.1f s more, after %u failure%s in a row; the last: %s",
			seconds(gate->reopen_at_ns - now_ns), gate->failures, s_of(gate->failures),
			ready->gate_text[0] != '\0' ? ready->gate_text : "(no text)");
	else if (gate->state == TR_GATE_PROBING)
		add_hold(holds, "gate", -1, "the gate is closed, and a probe is under way; the last failure: %s",
			ready->gate_text[0] != '\0' ? ready->gate_text : "(no text)");
	else if (tr_gate_is_paced(gate))
		add_hold(holds, "gate", tr_max_i64(gate->next_at_ns - now_ns, 0),
			"the gate opens bit by bit: an attempt every %.1f ms; %u under way of at most %u",
			(double)gate->interval_ns / 1e6, ready->gate_under_way, gate->concurrent);
	if (ready->gate_alarm)
		add_hold(holds, "alarm", -1,
			"the endpoint refuses everything (%u time%s in a row): its address or credentials need to be "
			"put right: %s",
			ready->denied, s_of(ready->denied), ready->gate_text);
}

/* What a policy calls it: "max_message_rate 10/m", or the name of an additional rate and its spec. */
static void
rate_name(const struct tr_throttle *throttle, char *out, size_t size)
{
	static const char own[] = "kumomta.max_message_rate.";
	struct tr_str key = tr_throttle_key(throttle);
	size_t len = key.len;
	char spec[96];

	for (int colons = 0; len > 0 && colons < 3; len--) /* NAME:QUANTITY:BURST:PERIOD */
		colons += key.data[len - 1] == ':';
	tr_rate_spec_format(tr_throttle_spec(throttle), spec);
	if (key.len >= sizeof own - 1 && memcmp(key.data, own, sizeof own - 1) == 0)
		snprintf(out, size, "max_message_rate %s", spec);
	else
		snprintf(out, size, "message rate '%.*s' %s", (int)len, key.data, spec);
}

static void
add_rates(struct holds *holds, const struct tr_ready *ready, int64_t now_ns)
{
	uint32_t pacing = 0;

	for (const struct session *session = ready->all; session != NULL; session = session->ready_next)
		pacing += session->pacing;
	if (ready->limits == NULL)
		return;
	for (uint32_t i = 0; i < ready->limits->message_count; i++) {
		struct tr_throttle *throttle = ready->limits->messages[i];
		int64_t wait_ns = limits_next_token_ns(throttle, now_ns);
		char name[300];

		rate_name(throttle, name, sizeof name);
		if (tr_throttle_is_shared(throttle))
			wait_ns = ready->paced_until_ns > now_ns ? ready->paced_until_ns - now_ns : 0;
		if (wait_ns > 0 && pacing > 0)
			add_hold(holds, "rate", wait_ns,
				"%s: %u connection%s wait%s for a token, the first that nobody has taken is there in "
				"%.3f s",
				name, pacing, s_of(pacing), waits(pacing), seconds(wait_ns));
		else if (wait_ns > 0)
			add_hold(holds, "rate", wait_ns, "%s: the next token is there in %.3f s", name,
				seconds(wait_ns));
		else if (pacing > 0 && tr_throttle_is_shared(throttle))
			add_hold(holds, "rate", -1, "%s, shared with other nodes: %u connection%s wait%s", name, pacing,
				s_of(pacing), waits(pacing));
	}
	if (ready->paced_until_ns > now_ns)
		add_hold(holds, "rate", ready->paced_until_ns - now_ns,
			"a message rate: nothing is sent for %.1f s more, longer than idle_timeout",
			seconds(ready->paced_until_ns - now_ns));
}

/* The name of a limit or rate that is shared with other nodes; NULL: none is. */
static const char *
what_is_shared(const struct tr_ready *ready)
{
	const struct ready_limits *limits = ready->limits;

	for (uint32_t i = 0; limits != NULL && i < limits->message_count; i++) {
		if (tr_throttle_is_shared(limits->messages[i]))
			return "a message rate";
	}
	for (uint32_t i = 0; limits != NULL && i < limits->selection_count; i++) {
		if (tr_throttle_is_shared(limits->selection[i]))
			return "a rate of source selection";
	}
	if (limits != NULL && limits->connection != NULL && tr_throttle_is_shared(limits->connection))
		return "max_connection_rate";
	return limits != NULL && limits->shared_leases ? "a connection limit" : NULL;
}

/* Whether what other nodes share with this one is known. */
static void
add_backend(struct holds *holds, struct tr_engine *engine, const char *what)
{
	const struct tr_shaping_backend *backend = tr_shaping_backend(engine->shaping);
	char text[256];

	if (what == NULL || backend == NULL || backend->is_down == NULL || !backend->is_down(backend->arg, text))
		return;
	if (backend->fallback_local)
		add_hold(holds, "backend", -1,
			"%s is shared with other nodes, and Redis does not answer (%s): fallback = 'local' is in "
			"force, "
			"this node decides by itself",
			what, text);
	else
		add_hold(holds, "backend", -1,
			"%s is shared with other nodes, and Redis does not answer (%s): it waits for that", what, text);
}

/* Connections whose peers hold them up. */
static void
add_peers(struct holds *holds, const struct tr_ready *ready)
{
	const char *text = NULL;
	uint32_t count = 0;

	for (const struct session *session = ready->all; session != NULL; session = session->ready_next) {
		if (session->held_up[0] == '\0')
			continue;
		count++;
		text = session->held_up;
	}
	if (count > 0)
		add_hold(holds, "peer", -1, "%u connection%s wait%s: %s", count, s_of(count), waits(count), text);
}

static void
add_connections(struct holds *holds, const struct tr_ready *ready, int64_t now_ns)
{
	int64_t after_ns = ready->permit_after_ns > now_ns ? ready->permit_after_ns - now_ns : -1;

	if (ready->lease_set != NULL || after_ns >= 0) {
		if (ready->hindrance == LEASES && ready->lease_set != NULL) {
			struct tr_str name = tr_lease_set_name(ready->lease_set);

			add_hold(holds, "connection_limit", after_ns,
				"connection limit '%.*s' is used up: this process holds %llu of it, this queue %u",
				(int)name.len, name.data, (unsigned long long)tr_lease_set_count(ready->lease_set),
				ready->sessions);
		} else if (ready->hindrance == CONNECTION_RATE) {
			char spec[96] = "";

			if (ready->limits != NULL && ready->limits->connection != NULL)
				tr_rate_spec_format(tr_throttle_spec(ready->limits->connection), spec);
			add_hold(holds, "connection_rate", after_ns,
				"max_connection_rate %s: the next connection may open in %.3f s", spec,
				seconds(after_ns));
		} else if (ready->hindrance == BACKEND) {
			add_hold(holds, "backend", after_ns, "the shared limits cannot be asked: %s",
				ready->hindered_by);
		}
	}
	if (ready->open_after_ns > now_ns)
		add_hold(holds, "failed_connections", ready->open_after_ns - now_ns,
			"connections ended at once; the next one opens in %.1f s",
			seconds(ready->open_after_ns - now_ns));
	if (ready->sessions >= ready->path->connection_limit && ready->idle == 0)
		add_hold(holds, "connection_limit", -1, "%s%u connection%s that connection_limit allows %s busy",
			ready->sessions == 1 ? "the " : "all ", ready->sessions, s_of(ready->sessions),
			ready->sessions == 1 ? "is" : "are");
	if (ready->failures > 0)
		add_hold(holds, "failed_connections", -1, "%u failure%s to connect in a row%s%s", ready->failures,
			s_of(ready->failures), ready->gate_text[0] != '\0' ? "; the last: " : "", ready->gate_text);
}

static void
add_ready_holds(struct holds *holds, const struct tr_ready *ready, int64_t now_ns)
{
	struct admin_verdict verdict = {0};
	int state = atomic_load(&ready->state);
	int64_t until_ns = 0;

	if (stopping(ready->engine))
		add_hold(holds, "stopping", -1, "the process is stopping");
	if (state == READY_RESOLVING)
		add_hold(holds, "path", -1, "its path configuration is being asked for");
	else if (state == READY_ERROR)
		add_hold(holds, "path", tr_max_i64(ready->error_until_ns - now_ns, 0),
			"get_egress_path_config failed (%s); it is asked again in %.0f s",
			ready->error != NULL ? ready->error : "no answer", seconds(ready->error_until_ns - now_ns));
	else if (state == READY_REPLACED)
		add_hold(holds, "replaced", -1, "its protocol has changed: it ends, its messages go elsewhere");
	if (ready->path == NULL)
		return;
	if (atomic_load(&ready->suspended) && admin_ready_verdict(ready->engine, ready->name, &verdict, &until_ns))
		add_hold(holds, "suspension", tr_max_i64(until_ns - now_ns, 0),
			"this ready queue is suspended for %.0f s more: %s", seconds(until_ns - now_ns),
			verdict.reason);
	until_ns = tr_ready_source_suspended_until(ready);
	if (until_ns > now_ns)
		add_hold(holds, "suspension", until_ns - now_ns, "the source %s is suspended for %.0f s more",
			ready->source, seconds(until_ns - now_ns));
	add_gate(holds, ready, now_ns);
	add_rates(holds, ready, now_ns);
	add_backend(holds, ready->engine, what_is_shared(ready));
	add_peers(holds, ready);
	add_connections(holds, ready, now_ns);
	if (ready->messages.count + ready->reserved >= ready->path->max_ready)
		add_hold(holds, "ready_full", -1, "the ready queue is full: max_ready = %u; the others wait in line",
			ready->path->max_ready);
	if (tr_spool_pressure(ready->engine->spool))
		add_hold(holds, "spool", -1, "too much waits to be written to the spool");
}

void
why_ready(struct tr_buf *json, struct tr_ready *ready)
{
	struct holds holds;
	int64_t now_ns = tr_mono_ns();

	pthread_mutex_lock(&ready->lock);
	tr_buf_addz(json, "{\"name\":");
	tr_json_add_string(json, tr_str(ready->name));
	tr_buf_addf(json, ",\"kind\":\"ready\",\"ready\":%u,\"connections\":%u,\"idle\":%u,\"connection_limit\":%u,",
		ready->messages.count, ready->sessions, ready->idle,
		ready->path != NULL ? ready->path->connection_limit : 0);
	begin_holds(&holds, json);
	add_ready_holds(&holds, ready, now_ns);
	end_holds(&holds);
	tr_buf_addc(json, '}');
	pthread_mutex_unlock(&ready->lock);
}

/* --- scheduled queue, at home -------------------------------------------------------------------------------- */

/* The earliest due time of its messages that wait for one; INT64_MAX: none was found. */
static int64_t
next_due_ms(const struct tr_sched *sched)
{
	struct tr_spool *spool = sched->engine->spool;
	const struct slot_wheel *wheel = &sched->home->wheel;
	int64_t due_ms = INT64_MAX;
	uint32_t looked = 0;

	for (uint32_t at = 0; at < SLOT_LEVELS * SLOT_BUCKETS && looked < LOOK_MAX; at++) {
		uint32_t slot = wheel->head[at / SLOT_BUCKETS][at % SLOT_BUCKETS];

		for (; slot != TR_NO_SLOT && looked < LOOK_MAX; slot = tr_spool_stub(spool, slot)->next, looked++)
			if (tr_spool_stub(spool, slot)->queue == sched->index)
				due_ms = tr_min_i64(due_ms, tr_stub_due_ms(tr_spool_stub(spool, slot)));
	}
	return due_ms;
}

static void
add_sched_holds(struct holds *holds, struct tr_sched *sched)
{
	int64_t now_ns = tr_mono_ns(), until_ns = 0;
	uint32_t behind = atomic_load_explicit(&sched->behind, memory_order_relaxed);
	int64_t timers = atomic_load_explicit(&sched->waiting, memory_order_relaxed) - sched->line.count - behind;
	struct admin_verdict verdict = {0};

	if (admin_check(sched->engine, TR_ADMIN_SUSPEND, sched, &verdict, 0, &until_ns))
		add_hold(holds, "suspension", tr_max_i64(until_ns - now_ns, 0),
			"this queue is suspended for %.0f s more: %s", seconds(until_ns - now_ns), verdict.reason);
	if (sched->config == NULL && sched->error != NULL)
		add_hold(holds, "configuration", tr_max_i64(sched->error_until_ns - now_ns, 0),
			"it has no configuration (%s); it is asked again in %.0f s", sched->error,
			seconds(sched->error_until_ns - now_ns));
	else if (sched->resolving)
		add_hold(holds, "configuration", -1, "its configuration is being asked for%s",
			sched->pending != NULL ? ": its pool" : "");
	if (sched->no_sources)
		add_hold(holds, "source", -1, "its pool '%s' has no source",
			sched->config != NULL && sched->config->egress_pool != NULL ? sched->config->egress_pool
										    : "unspecified");
	if (sched->site_asking)
		add_hold(holds, "site", -1, "its mail exchangers are being looked up");
	if (sched->site_error != NULL)
		add_hold(holds, "site", tr_max_i64(sched->site_until_ns - now_ns, 0), "%s", sched->site_error);
	if (sched->parks && atomic_load(&sched->log_records))
		add_hold(holds, "policy", -1,
			"log records are parked: nothing here may send them (is the constructor's handler gone?)");
	if (sched->rate_waits) {
		int64_t wait_ns = rate_next_token_ns(sched, now_ns);
		char spec[96];

		tr_rate_spec_format(&sched->config->message_rate, spec);
		if (wait_ns > 0)
			add_hold(holds, "rate", wait_ns,
				"max_message_rate %s of the queue: the next token is there in %.3f s", spec,
				seconds(wait_ns));
		else
			add_hold(holds, "rate", -1, "max_message_rate %s of the queue lets no more go now", spec);
	}
	if (rate_is_shared(sched))
		add_backend(holds, sched->engine, "max_message_rate of the queue");
	if (sched->hooking.count > 0)
		add_hold(holds, "policy", -1, "throttle_insert_ready_queue runs for the first of %u message%s",
			sched->hooking.count, s_of(sched->hooking.count));
	if (sched->blocked_until_ns > now_ns)
		add_hold(holds, "spool", sched->blocked_until_ns - now_ns, "the spool could not be read");
	if (behind > 0)
		add_hold(holds, "order", -1, "%u records wait behind others with the same order key", behind);
	if (timers > 0) {
		int64_t due_ms = next_due_ms(sched), wait_ns = -1;
		char when[32] = "later";

		if (due_ms != INT64_MAX) {
			tr_rfc3339(due_ms * TR_NS_PER_MS, when);
			wait_ns = tr_max_i64((due_ms - tr_wall_ms()) * TR_NS_PER_MS, 0);
		}
		add_hold(holds, "due", wait_ns, "%lld message%s wait%s for %s time, the next is due %s%s",
			(long long)timers, s_of((uint64_t)timers), waits((uint64_t)timers),
			timers == 1 ? "its" : "their", due_ms != INT64_MAX ? "at " : "", when);
	}
}

void
why_sched(struct tr_buf *json, struct tr_sched *sched)
{
	struct holds holds;
	bool first = true;

	tr_buf_addz(json, "{\"name\":");
	tr_json_add_string(json, tr_str(sched->name));
	tr_buf_addf(json, ",\"kind\":\"queue\",\"line\":%u,\"waiting\":%lld,", sched->line.count,
		(long long)atomic_load_explicit(&sched->waiting, memory_order_relaxed));
	begin_holds(&holds, json);
	add_sched_holds(&holds, sched);
	end_holds(&holds);
	tr_buf_addz(json, ",\"ready_queues\":[");
	for (uint32_t i = 0; i < sched->lane_count; i++) {
		if (sched->lanes[i].ready == NULL)
			continue;
		if (!first)
			tr_buf_addc(json, ',');
		first = false;
		why_ready(json, sched->lanes[i].ready);
	}
	tr_buf_addz(json, "]}");
}

/* --- message ------------------------------------------------------------------------------------------------- */

void
why_message(struct tr_buf *json, const struct tr_message *message, const struct tr_stub *stub)
{
	int64_t wait_ms = tr_stub_due_ms(stub) - tr_wall_ms();
	struct holds holds;
	char id[33], when[32];

	tr_uuid_hex(message->id, id);
	tr_buf_addf(
		json, "{\"name\":\"%s\",\"kind\":\"message\",\"attempts\":%u,", id, (unsigned)tr_stub_attempts(stub));
	begin_holds(&holds, json);
	if (message->flags & TR_MSG_POLICY_ERROR)
		add_hold(&holds, "policy", -1,
			"it is parked: the policy failed for it; it is decided again at the next start, when the "
			"policy is mended");
	else if (message->flags & TR_MSG_UNDECIDED)
		add_hold(&holds, "policy", -1, "should_enqueue_log_record has not decided about it yet");
	if (wait_ms > 0) {
		tr_rfc3339(tr_stub_due_ms(stub) * TR_NS_PER_MS, when);
		add_hold(&holds, "due", wait_ms * TR_NS_PER_MS, "it is due at %s, in %.1f s", when,
			(double)wait_ms / 1e3);
	}
	end_holds(&holds);
}
