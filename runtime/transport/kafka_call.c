/* What Kafka producers send: records in calls, offered to librdkafka in order, told by their delivery reports. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/pool.h"
#include "transport/kafka_internal.h"

#define ALONE_SAID_NS (60 * TR_NS_PER_S) /* between two lines about refused batches */

/* --- headers --------------------------------------------------------------------------------------------- */

/* A list costs librdkafka an allocation for each header and two more, as much time as all else about a record. Those of
 * one hook have the same names and mostly values of the same length (an event_id, a batch_id, one digit of attempts):
 * what comes back with the report gets new values in place. The list is ours then, it was made by
 * rd_kafka_headers_new() in this thread and librdkafka keeps a copy of each value in it, so that writing through its
 * const pointer is sound. */
static bool
rewrite(rd_kafka_headers_t *headers, const struct tr_kafka_record *from)
{
	for (uint32_t i = 0; i < from->header_count; i++) {
		struct tr_str name = from->headers[2 * (size_t)i], value = from->headers[2 * (size_t)i + 1];
		const char *old_name;
		const void *old_value;
		size_t old_len;

		if (rd_kafka_header_get_all(headers, i, &old_name, &old_value, &old_len) !=
				RD_KAFKA_RESP_ERR_NO_ERROR ||
			old_len != value.len || old_value == NULL || value.data == NULL ||
			strncmp(old_name, name.data, name.len) != 0 || old_name[name.len] != '\0')
			return false;
		memcpy((void *)(uintptr_t)old_value, value.data, value.len);
	}
	return rd_kafka_header_cnt(headers) == from->header_count;
}

/* Those of a record; NULL: none. */
static rd_kafka_headers_t *
headers_of(struct tr_kafka_producer *producer, const struct tr_kafka_record *from)
{
	rd_kafka_headers_t *headers;

	if (from->header_count == 0)
		return NULL;
	if (producer->spare_count > 0) {
		headers = producer->spares[--producer->spare_count];
		if (rewrite(headers, from))
			return headers;
		rd_kafka_headers_destroy(headers); /* of another hook, or of a record that was tried ten times */
	}
	headers = rd_kafka_headers_new(from->header_count);
	for (uint32_t i = 0; i < from->header_count; i++) {
		const struct tr_str *header = &from->headers[2 * (size_t)i];

		rd_kafka_header_add(
			headers, header[0].data, (ssize_t)header[0].len, header[1].data, (ssize_t)header[1].len);
	}
	return headers;
}

/* Keeps what librdkafka has no use for any more. */
static void
keep_headers(struct tr_kafka_producer *producer, rd_kafka_headers_t *headers)
{
	if (producer->spares == NULL)
		producer->spares = malloc(TR_KAFKA_SPARES * sizeof(rd_kafka_headers_t *));
	if (producer->spares != NULL && producer->spare_count < TR_KAFKA_SPARES)
		producer->spares[producer->spare_count++] = headers;
	else
		rd_kafka_headers_destroy(headers);
}

void
tr_kafka_drop_spares(struct tr_kafka_producer *producer)
{
	while (producer->spare_count > 0)
		rd_kafka_headers_destroy(producer->spares[--producer->spare_count]);
	free(producer->spares);
	producer->spares = NULL;
}

/* --- calls ----------------------------------------------------------------------------------------------- */

static size_t
size_of(uint32_t count)
{
	return sizeof(struct tr_kafka_batch) + count * sizeof(struct tr_kafka_slot);
}

struct tr_kafka_call *
tr_kafka_call_new(struct tr_kafka_producer *producer, uint32_t count)
{
	struct tr_kafka_batch *call = tr_pool_get(size_of(count));

	if (call == NULL)
		return NULL;
	*call = (struct tr_kafka_batch){0}; /* tr_kafka_call_add() fills the records */
	call->pub.count = count;
	call->producer = producer;
	producer->refs++;
	return &call->pub;
}

static struct tr_kafka_batch *
call_of(struct tr_kafka_call *pub)
{
	return (struct tr_kafka_batch *)pub;
}

int
tr_kafka_call_add(struct tr_kafka_call *pub, const struct tr_kafka_record *from)
{
	struct tr_kafka_batch *call = call_of(pub);
	struct tr_kafka_slot *record = &call->records[call->added];

	*record = (struct tr_kafka_slot){.call = call,
		.has_key = from->key.data != NULL,
		.key_len = from->key.len,
		.partition = from->partition,
		.timeout_ns = from->timeout_ns,
		.result = {0, -1, -1}};
	if (call->added > 0 && /* the topic of the one before is there already */
		tr_str_eq(tr_str(call->text.data + record[-1].topic_at), from->topic)) {
		record->topic_at = record[-1].topic_at;
	} else {
		record->topic_at = call->text.len;
		tr_buf_add_str(&call->text, from->topic);
		tr_buf_addc(&call->text, '\0');
	}
	record->key_at = call->text.len;
	if (from->key.data != NULL)
		tr_buf_add_str(&call->text, from->key);
	if (from->bytes != NULL) {
		record->payload = *from->bytes;
		*from->bytes = (struct tr_bytes){0};
	} else if (tr_bytes_copy(&record->payload, from->payload) != TR_OK) {
		return TR_ENOMEM;
	}
	call->added++; /* what it holds is freed with the call */
	record->headers = headers_of(call->producer, from);
	return call->text.failed ? TR_ENOMEM : TR_OK;
}

void
tr_kafka_call_result(const struct tr_kafka_call *pub, uint32_t index, struct tr_kafka_result *out)
{
	*out = ((const struct tr_kafka_batch *)pub)->records[index].result;
}

void
tr_kafka_call_free(struct tr_kafka_call *pub)
{
	struct tr_kafka_batch *call = call_of(pub);
	struct tr_kafka_producer *producer = call->producer;

	for (uint32_t i = 0; i < call->added; i++) {
		if (call->records[i].headers != NULL)
			rd_kafka_headers_destroy(call->records[i].headers);
		tr_bytes_fini(&call->records[i].payload);
	}
	tr_buf_free(&call->text);
	tr_pool_put(call, size_of(pub->count));
	tr_kafka_unref(producer);
}

/* Nothing of librdkafka or of the loop points to it any more. */
static void
call_unlink(struct tr_kafka_batch *call)
{
	struct tr_kafka_producer *producer = call->producer;

	if (call->prev == NULL)
		return;
	*call->prev = call->next;
	if (call->next != NULL)
		call->next->prev = call->prev;
	call->prev = NULL;
	producer->calls--;
	if (call->held)
		tr_hold_drop();
	call->held = false;
	if (producer->kafka != NULL) {
		tr_timer_stop(tr_loop_wheel(producer->kafka->loop), &call->timer);
		tr_loop_undefer(producer->kafka->loop, &call->defer);
	}
}

static void
call_ended(struct tr_defer *defer)
{
	struct tr_kafka_batch *call = tr_container_of(defer, struct tr_kafka_batch, defer);

	call_unlink(call);
	if (call->cancelled)
		tr_kafka_call_free(&call->pub);
	else
		call->pub.done(&call->pub);
}

/* Refused by the broker for what its request held: that may be another record's fault. */
static bool
is_verdict_on_batch(rd_kafka_resp_err_t err)
{
	return err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE || err == RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE ||
	       err == RD_KAFKA_RESP_ERR_INVALID_RECORD || err == RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP ||
	       err == RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE;
}

static void
record_told(struct tr_kafka_slot *record, int err, int32_t partition, int64_t offset)
{
	struct tr_kafka_batch *call = record->call;
	struct tr_kafka *kafka = call->producer->kafka;

	record->result = (struct tr_kafka_result){err, partition, offset};
	if (err != 0) /* who reads reports counts those that are delivered */
		tr_metric_add(kafka->failed, 1);
	if (--call->pending == 0)
		tr_loop_defer(kafka->loop, &call->defer, call_ended);
}

/* --- producing ------------------------------------------------------------------------------------------- */

/* The handle of a topic, which saves librdkafka a search under its lock for each record. NULL: there is none of that
 * name.
 */
static rd_kafka_topic_t *
topic_of(struct tr_kafka_producer *producer, const char *name)
{
	if (producer->topic != NULL && strcmp(rd_kafka_topic_name(producer->topic), name) == 0)
		return producer->topic;
	if (producer->topic != NULL)
		rd_kafka_topic_destroy(producer->topic);
	producer->topic = rd_kafka_topic_new(producer->rk, name, NULL);
	return producer->topic;
}

/* False: there is no room now. */
static bool
produce(struct tr_kafka_producer *producer, struct tr_kafka_slot *record)
{
	struct tr_kafka_batch *call = record->call;
	rd_kafka_topic_t *topic = topic_of(producer, call->text.data + record->topic_at);
	rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR__INVALID_ARG;

	if (topic != NULL)
		err = rd_kafka_producev(producer->rk, RD_KAFKA_V_RKT(topic), RD_KAFKA_V_PARTITION(record->partition),
			RD_KAFKA_V_MSGFLAGS(0), RD_KAFKA_V_VALUE((void *)record->payload.data, record->payload.len),
			RD_KAFKA_V_KEY(record->has_key ? call->text.data + record->key_at : NULL, record->key_len),
			RD_KAFKA_V_HEADERS(record->headers), RD_KAFKA_V_OPAQUE(record), RD_KAFKA_V_END);
	if (err == RD_KAFKA_RESP_ERR__QUEUE_FULL)
		return false;
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR) {
		record_told(record, err, -1, -1);
		return true;
	}
	record->headers = NULL;
	call->inside++;
	return true;
}

/* Offers what is left of the call; false: it has to wait for room. */
static bool
call_push(struct tr_kafka_batch *call)
{
	struct tr_metric *in_flight = call->producer->kafka->in_flight;
	uint32_t before = call->inside;
	bool all = true;

	while (all && call->produced < call->pub.count) {
		struct tr_kafka_slot *record = &call->records[call->produced];

		/* an err: it could wait no longer */
		all = record->result.err != 0 || produce(call->producer, record);
		if (all)
			call->produced++;
	}
	tr_metric_add(in_flight, (int64_t)call->inside - before);
	return all;
}

void
tr_kafka_line_pump(struct tr_kafka_producer *producer)
{
	struct tr_kafka_batch *call;

	while ((call = producer->line) != NULL) {
		if (!call->cancelled && !call_push(call))
			return;
		producer->line = call->wait_next;
		if (producer->line == NULL)
			producer->line_end = &producer->line;
		call->waiting = false;
		tr_timer_stop(tr_loop_wheel(producer->kafka->loop), &call->timer);
	}
}

static void
line_remove(struct tr_kafka_batch *call)
{
	struct tr_kafka_producer *producer = call->producer;

	for (struct tr_kafka_batch **at = &producer->line; call->waiting && *at != NULL; at = &(*at)->wait_next) {
		if (*at != call)
			continue;
		*at = call->wait_next;
		if (*at == NULL)
			producer->line_end = at;
		call->waiting = false;
		break;
	}
}

static void
waited_too_long(struct tr_timer *timer)
{
	struct tr_kafka_batch *call = tr_container_of(timer, struct tr_kafka_batch, timer);
	struct tr_kafka_producer *producer = call->producer;
	int64_t waited_ns = tr_mono_ns() - call->started_ns, next_ns = INT64_MAX;
	bool left = false;

	for (uint32_t i = call->produced; i < call->pub.count; i++) {
		struct tr_kafka_slot *record = &call->records[i];

		if (record->result.err != 0)
			continue;
		if (record->timeout_ns <= waited_ns) {
			record_told(record, RD_KAFKA_RESP_ERR__QUEUE_FULL, -1, -1);
		} else {
			next_ns = tr_min_i64(next_ns, record->timeout_ns);
			left = true;
		}
	}
	if (left)
		tr_timer_start_at(tr_loop_wheel(producer->kafka->loop), &call->timer, call->started_ns + next_ns,
			waited_too_long);
	else
		line_remove(call);
	tr_kafka_line_pump(producer); /* it may have been in the way of smaller ones */
}

void
tr_kafka_call_start(struct tr_kafka_call *pub)
{
	struct tr_kafka_batch *call = call_of(pub);
	struct tr_kafka_producer *producer = call->producer;
	struct tr_kafka *kafka = producer->kafka;

	call->pending = call->pub.count;
	call->started_ns = tr_mono_ns();
	call->next = kafka->calls;
	call->prev = &kafka->calls;
	if (kafka->calls != NULL)
		kafka->calls->prev = &call->next;
	kafka->calls = call;
	producer->calls++;
	call->held = true;
	tr_hold_take(); /* brokers live in real time */
	if (producer->line != NULL || !call_push(call)) {
		int64_t least_ns = INT64_MAX;

		for (uint32_t i = call->produced; i < call->pub.count; i++)
			least_ns = tr_min_i64(least_ns, call->records[i].timeout_ns);
		call->waiting = true;
		call->wait_next = NULL;
		*producer->line_end = call;
		producer->line_end = &call->wait_next;
		tr_timer_start_at(
			tr_loop_wheel(kafka->loop), &call->timer, call->started_ns + least_ns, waited_too_long);
	}
}

void
tr_kafka_call_cancel(struct tr_kafka_call *pub)
{
	struct tr_kafka_batch *call = call_of(pub);

	line_remove(call);
	call->cancelled = true;
	if (call->inside == 0) {
		call_unlink(call);
		tr_kafka_call_free(pub);
		return;
	}
	if (call->producer->kafka == NULL)
		return; /* its producer did not end: librdkafka may still read the payloads */
	for (uint32_t i = call->produced; i < call->pub.count; i++) { /* the rest is not offered any more */
		if (call->records[i].result.err == 0)
			record_told(&call->records[i], RD_KAFKA_RESP_ERR__PURGE_QUEUE, -1, -1);
	}
	call->produced = call->pub.count;
	if (call->held)
		tr_hold_drop();
	call->held = false;
}

/* --- reports --------------------------------------------------------------------------------------------- */

static void
say_alone(struct tr_kafka_producer *producer, const rd_kafka_message_t *message)
{
	int64_t now_ns = tr_mono_ns();

	if (producer->alone_said_ns != 0 && now_ns - producer->alone_said_ns < ALONE_SAID_NS)
		return;
	producer->alone_said_ns = now_ns;
	tr_log(TR_LEVEL_WARN, "kafka",
		"%s: topic %s refused a batch: %s; its records are sent one by one to find which is to blame "
		"(if it is the size of batches, set batch.size below the topic's max.message.bytes)",
		rd_kafka_name(producer->rk), rd_kafka_topic_name(message->rkt), rd_kafka_err2str(message->err));
}

/* Sends what the broker has refused once more, alone in its request. False: it stays refused. */
static bool
send_alone(struct tr_kafka_producer *producer, struct tr_kafka_slot *record, const rd_kafka_message_t *message)
{
	struct tr_kafka_producer *solo;
	uint32_t before;

	if (producer->is_solo || record->call->cancelled || !is_verdict_on_batch(message->err))
		return false;
	record->call->inside--;
	solo = tr_kafka_solo(producer);
	if (solo == NULL) { /* not the record's fault: it is tried again by who sent it */
		record_told(record, RD_KAFKA_RESP_ERR__QUEUE_FULL, -1, -1);
		return true;
	}
	say_alone(producer, message);
	before = record->call->inside;
	if (!produce(solo, record)) {
		record_told(record, RD_KAFKA_RESP_ERR__QUEUE_FULL, -1, -1);
	} else if (record->call->inside > before) { /* it has it; else it is told already */
		solo->calls++;
		tr_metric_add(producer->kafka->in_flight, 1);
	}
	return true;
}

void
tr_kafka_reports(struct tr_kafka_producer *producer, rd_kafka_event_t *event)
{
	struct tr_kafka *kafka = producer->kafka;
	const rd_kafka_message_t *message;
	int64_t reports = 0, delivered = 0;

	while ((message = rd_kafka_event_message_next(event)) != NULL) {
		struct tr_kafka_slot *record = message->_private;
		rd_kafka_headers_t *headers;

		reports++;
		/* NOLINTNEXTLINE: a report's message is ours as long as the event is */
		if (rd_kafka_message_detach_headers((rd_kafka_message_t *)(uintptr_t)message, &headers) ==
			RD_KAFKA_RESP_ERR_NO_ERROR)
			record->headers = headers;
		if (send_alone(producer, record, message))
			continue;
		if (record->headers != NULL)
			keep_headers(producer, record->headers);
		record->headers = NULL;
		if (producer->is_solo)
			producer->calls--;
		record->call->inside--;
		delivered += message->err == RD_KAFKA_RESP_ERR_NO_ERROR;
		record_told(record, message->err, message->partition, message->offset);
	}
	tr_metric_add(kafka->in_flight, -reports);
	tr_metric_add(kafka->delivered, delivered);
}

void
tr_kafka_calls_give_up(struct tr_kafka *kafka, bool ended)
{
	struct tr_kafka_batch *call, *next;

	for (call = kafka->calls; call != NULL; call = next) {
		next = call->next;
		tr_metric_add(kafka->in_flight, -(int64_t)call->inside);
		if (ended)
			call->inside = 0;
		tr_timer_stop(tr_loop_wheel(kafka->loop), &call->timer);
		tr_loop_undefer(kafka->loop, &call->defer);
		call->prev = NULL;
		call->producer->calls--;
		if (call->held)
			tr_hold_drop();
		call->held = false;
		if (call->cancelled && ended)
			tr_kafka_call_free(&call->pub);
	}
	kafka->calls = NULL;
}
