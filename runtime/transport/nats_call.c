/* What is published to NATS: messages in calls, in line for a connection, told by their acknowledgements. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "transport/nats_internal.h"

#define GRACE_NS TR_NS_PER_S /* for a connect to see its own deadline */

/* --- results ---------------------------------------------------------------------------------------------------- */

void
tr_nats_leave_line(struct tr_nats_batch *batch)
{
	struct tr_nats_connection *connection = batch->connection;

	if (batch->stage != TR_NATS_LINE)
		return;
	for (struct tr_nats_batch **at = &connection->line; *at != NULL; at = &(*at)->line_next) {
		if (*at != batch)
			continue;
		*at = batch->line_next;
		if (*at == NULL)
			connection->line_end = at;
		break;
	}
	batch->stage = TR_NATS_SENT;
}

static void
give_back(struct tr_nats *nats, struct tr_nats_batch *batch)
{
	batch->stage = TR_NATS_DONE;
	batch->line_next = NULL;
	*nats->done_end = batch;
	nats->done_end = &batch->line_next;
	tr_loop_defer(nats->loop, &nats->later, tr_nats_done);
}

void
tr_nats_release(struct tr_nats_connection *connection, struct tr_nats_slot *slot)
{
	struct tr_nats_entry *entry;

	if (slot->entry == TR_NATS_NO_ENTRY)
		return;
	entry = &connection->entries[slot->entry];
	entry->batch = NULL;
	entry->generation++;
	entry->next_free = connection->free_entry;
	connection->free_entry = slot->entry;
	slot->entry = TR_NATS_NO_ENTRY;
	connection->in_flight--;
	tr_metric_add(connection->nats->in_flight, -1);
}

void
tr_nats_tell(struct tr_nats_batch *batch, uint32_t index, const struct tr_nats_result *result, struct tr_buf *memory)
{
	struct tr_nats_slot *slot = &batch->slots[index];
	struct tr_nats *nats = batch->connection->nats;

	tr_nats_release(batch->connection, slot);
	slot->told = true;
	slot->result = *result;
	slot->memory = *memory;
	*memory = (struct tr_buf){0};
	if (batch->added > 0)
		tr_metric_add(result->err == TR_OK ? nats->acked : nats->failed, 1);
	if (--batch->pending == 0) {
		tr_nats_leave_line(batch);
		give_back(nats, batch);
	}
}

void
tr_nats_tell_error(struct tr_nats_batch *batch, uint32_t index, int err, bool permanent, const char *fmt, ...)
{
	struct tr_nats_result result = {.err = err, .permanent = permanent, .text = TR_STR("out of memory")};
	struct tr_buf memory = {0};
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof text, fmt, args);
	va_end(args);
	tr_buf_addz(&memory, text);
	if (!memory.failed)
		result.text = (struct tr_str){memory.data, memory.len};
	tr_nats_tell(batch, index, &result, &memory);
}

void
tr_nats_fail_sent(struct tr_nats_connection *connection, struct tr_str subject, int err, const char *text)
{
	for (uint32_t i = 0; i < connection->settings.pending_max && connection->in_flight > 0; i++) {
		struct tr_nats_entry *entry = &connection->entries[i];
		const struct tr_nats_slot *slot;

		if (entry->batch == NULL)
			continue;
		slot = &entry->batch->slots[entry->index];
		if (subject.data != NULL &&
			!tr_str_ieq(subject, (struct tr_str){entry->batch->text.data + slot->at, slot->subject_len}))
			continue;
		tr_nats_tell_error(entry->batch, entry->index, err, false, "%s", text);
	}
}

static void
fail_rest(struct tr_nats_batch *batch, int err, const char *text)
{
	for (uint32_t i = 0, count = batch->pub.count; i < count; i++) {
		if (!batch->slots[i].told)
			tr_nats_tell_error(batch, i, err, false, "%s", text);
	}
}

void
tr_nats_fail_line(struct tr_nats_connection *connection, int err, const char *text)
{
	while (connection->line != NULL) {
		struct tr_nats_batch *batch = connection->line;

		/* what was sent of it may still be acknowledged */
		tr_nats_leave_line(batch);
		for (uint32_t i = batch->sent, count = batch->pub.count; i < count; i++) {
			if (!batch->slots[i].told)
				tr_nats_tell_error(batch, i, err, false, "%s", text);
		}
	}
}

/* --- calls --------------------------------------------------------------------------------------------------- */

static struct tr_nats_batch *
batch_of(struct tr_nats_call *call)
{
	return (struct tr_nats_batch *)call;
}

struct tr_nats_call *
tr_nats_call_new(struct tr_nats_connection *connection, uint32_t count)
{
	struct tr_nats_batch *batch = calloc(1, sizeof *batch + count * sizeof batch->slots[0]);

	if (batch == NULL)
		return NULL;
	batch->pub.count = count;
	batch->connection = connection;
	for (uint32_t i = 0; i < count; i++)
		batch->slots[i].entry = TR_NATS_NO_ENTRY;
	connection->refs++;
	return &batch->pub;
}

int
tr_nats_call_add(struct tr_nats_call *call, const struct tr_nats_message *message)
{
	struct tr_nats_batch *batch = batch_of(call);
	struct tr_nats_slot *slot = &batch->slots[batch->added];
	struct tr_buf *text = &batch->text;

	slot->at = text->len;
	slot->subject_len = (uint32_t)message->subject.len;
	tr_buf_add_str(text, message->subject);
	if (message->header_count > 0)
		tr_buf_addz(text, "NATS/1.0\r\n");
	for (uint32_t i = 0; i < message->header_count; i++) {
		tr_buf_add_str(text, message->headers[2 * i]);
		tr_buf_add(text, ": ", 2);
		tr_buf_add_str(text, message->headers[2 * i + 1]);
		tr_buf_add(text, "\r\n", 2);
	}
	if (message->header_count > 0)
		tr_buf_add(text, "\r\n", 2);
	slot->header_len = (uint32_t)(text->len - slot->at) - slot->subject_len;
	slot->await_ack = message->await_ack;
	if (message->bytes != NULL) {
		tr_bytes_share(&slot->payload, message->bytes);
	} else if (tr_bytes_copy(&slot->payload, message->payload) != TR_OK) {
		return TR_ENOMEM;
	}
	batch->added++; /* what it holds is freed with the call */
	return text->failed ? TR_ENOMEM : TR_OK;
}

void
tr_nats_call_result(const struct tr_nats_call *call, uint32_t index, struct tr_nats_result *out)
{
	*out = ((const struct tr_nats_batch *)call)->slots[index].result;
}

void
tr_nats_batch_free(struct tr_nats_batch *batch)
{
	struct tr_nats_connection *connection = batch->connection;

	for (uint32_t i = 0; i < batch->pub.count; i++) {
		tr_bytes_fini(&batch->slots[i].payload);
		tr_buf_free(&batch->slots[i].memory);
	}
	tr_buf_free(&batch->text);
	free(batch);
	tr_nats_unref(connection);
}

void
tr_nats_batch_unlink(struct tr_nats_batch *batch)
{
	if (batch->prev == NULL)
		return;
	*batch->prev = batch->next;
	if (batch->next != NULL)
		batch->next->prev = batch->prev;
	batch->prev = NULL;
	if (batch->connection != NULL)
		tr_timer_stop(tr_loop_wheel(batch->connection->nats->loop), &batch->timer);
}

void
tr_nats_call_free(struct tr_nats_call *call)
{
	tr_nats_batch_free(batch_of(call));
}

void
tr_nats_call_cancel(struct tr_nats_call *call)
{
	struct tr_nats_batch *batch = batch_of(call);

	if (batch->connection == NULL) { /* tr_nats_free() has given it up */
		tr_nats_batch_free(batch);
		return;
	}
	batch->cancelled = true;
	if (batch->stage == TR_NATS_DONE)
		return;                                            /* it is freed with the others that are done */
	fail_rest(batch, TR_ECANCELED, tr_err_text(TR_ECANCELED)); /* with the last it is among the done */
	tr_nats_wire_pump(batch->connection);
}

static void
waited_too_long(struct tr_timer *timer)
{
	struct tr_nats_batch *batch = tr_container_of(timer, struct tr_nats_batch, timer);
	struct tr_nats_connection *connection = batch->connection;
	double limit_s = (double)batch->limit_ns / (double)TR_NS_PER_S;

	for (uint32_t i = 0, count = batch->pub.count; i < count; i++) {
		const struct tr_nats_slot *slot = &batch->slots[i];

		if (slot->told)
			continue;
		if (slot->entry != TR_NATS_NO_ENTRY)
			tr_nats_tell_error(batch, i, TR_ETIMEDOUT, false,
				"deadline has elapsed: no acknowledgement within %g s", limit_s);
		else if (connection->state != TR_NATS_UP)
			tr_nats_tell_error(batch, i, TR_ETIMEDOUT, false,
				"deadline has elapsed: not connected within %g s: %s", limit_s,
				connection->why[0] != '\0' ? connection->why : "the server does not answer");
		else
			tr_nats_tell_error(batch, i, TR_ETIMEDOUT, false,
				"deadline has elapsed: not sent within %g s: %u messages are on their way", limit_s,
				connection->in_flight);
	}
	tr_nats_wire_pump(connection); /* there may be room for others */
}

void
tr_nats_call_start(struct tr_nats_call *call)
{
	struct tr_nats_batch *batch = batch_of(call);
	struct tr_nats_connection *connection = batch->connection;
	struct tr_nats *nats = connection->nats;

	batch->next = nats->calls;
	batch->prev = &nats->calls;
	if (nats->calls != NULL)
		nats->calls->prev = &batch->next;
	nats->calls = batch;
	batch->limit_ns =
		batch->added > 0
			? connection->settings.request_timeout_ns
			: connection->settings.connect_timeout_ns * connection->settings.server_count + GRACE_NS;
	tr_timer_start(tr_loop_wheel(nats->loop), &batch->timer, batch->limit_ns, waited_too_long);
	batch->pending = call->count;
	batch->stage = TR_NATS_LINE;
	batch->line_next = NULL;
	*connection->line_end = batch;
	connection->line_end = &batch->line_next;
	if (connection->state == TR_NATS_DEAD)
		tr_nats_fail_line(connection, connection->why_err, connection->why);
	else if (connection->state == TR_NATS_UP)
		tr_nats_wire_pump(connection);
	else
		tr_nats_link_want(connection);
}
