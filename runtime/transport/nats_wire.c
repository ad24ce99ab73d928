/* What is written to a NATS server. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "transport/nats_internal.h"

enum {
	BACKLOG_STOP = 256 * 1024, /* bytes that the kernel has not taken: no more is written until it has */
	PINGS_MAX = 2,             /* not answered: the connection is dead */
	/* What a server takes in a line if nobody has set its max_control_line, which it does not tell; of us in a line
	 * beside subject and inbox. */
	CONTROL_LINE = 4096,
	LINE_MORE = 96,
};

static void stalled(struct tr_timer *timer);

void
tr_nats_wire_flush(struct tr_nats_connection *connection)
{
	struct tr_buf *out = &connection->out, wire = {0};
	struct tr_wheel *wheel = tr_loop_wheel(connection->nats->loop);

	if (connection->stream == NULL || out->len == 0)
		return;
	if (connection->tls != NULL) {
		if (out->failed || tr_tls_write(connection->tls, out->data, out->len, &wire) != TR_OK)
			wire.failed = true;
		tr_buf_clear(out);
		out = &wire;
	}
	if (out->failed) {
		tr_buf_free(out);
		tr_buf_free(&connection->out);
		tr_nats_link_lost(connection, TR_ENOMEM, "the connection was closed: out of memory");
		return;
	}
	tr_stream_write(connection->stream, out->data, out->len);
	connection->written += out->len;
	if (out == &wire)
		tr_buf_free(&wire);
	else if (out->cap > 2 * BACKLOG_STOP)
		tr_buf_free(out);
	else
		tr_buf_clear(out);
	if (!tr_timer_running(&connection->stall)) {
		connection->taken = connection->written - tr_stream_backlog(connection->stream);
		tr_timer_start(wheel, &connection->stall, connection->nats->write_ns, stalled);
	}
}

static void
say(struct tr_nats_connection *connection, const char *text)
{
	tr_buf_addz(&connection->out, text);
	tr_nats_wire_flush(connection);
}

/* Who asks and does not take the answers gets no more of them: they would fill the memory. */
void
tr_nats_wire_pong(struct tr_nats_connection *connection)
{
	if (tr_stream_backlog(connection->stream) < BACKLOG_STOP)
		say(connection, "PONG\r\n");
}

/* Since the timer was started there were bytes to send; has the kernel taken any? */
static void
stalled(struct tr_timer *timer)
{
	struct tr_nats_connection *connection = tr_container_of(timer, struct tr_nats_connection, stall);
	size_t backlog = tr_stream_backlog(connection->stream);
	uint64_t taken = connection->written - backlog;

	if (backlog == 0)
		return;
	if (taken == connection->taken) {
		tr_nats_link_lost(connection, TR_ECLOSED, "the connection was closed: the server takes no bytes");
		return;
	}
	connection->taken = taken;
	tr_timer_start(tr_loop_wheel(connection->nats->loop), timer, connection->nats->write_ns, stalled);
}

static char *
hex(char *at, uint32_t number)
{
	int shift = 28;

	while (shift > 0 && number >> shift == 0)
		shift -= 4;
	for (; shift >= 0; shift -= 4)
		*at++ = "0123456789abcdef"[number >> shift & 15];
	return at;
}

static char *
decimal(char *at, uint64_t number)
{
	char text[20], *first = text + sizeof text;

	do
		*--first = (char)('0' + number % 10);
	while ((number /= 10) > 0);
	memcpy(at, first, (size_t)(text + sizeof text - first));
	return at + (text + sizeof text - first);
}

/* [H]PUB subject [reply] [header bytes] bytes */
static void
add_message(struct tr_nats_connection *connection, const struct tr_nats_batch *batch, const struct tr_nats_slot *slot,
	uint32_t generation)
{
	static const char verb[] = {'P', 'U', 'B', ' '};
	const char *text = batch->text.data + slot->at;
	struct tr_buf *out = &connection->out;
	size_t total = slot->header_len + slot->payload.len;
	char *start = tr_buf_reserve(out, slot->subject_len + connection->inbox_len + total + LINE_MORE), *at = start;

	if (at == NULL)
		return; /* tr_nats_wire_flush() sees it */
	if (slot->header_len > 0)
		*at++ = 'H';
	memcpy(at, verb, sizeof verb);
	at += sizeof verb;
	memcpy(at, text, slot->subject_len);
	at += slot->subject_len;
	*at++ = ' ';
	if (slot->entry != TR_NATS_NO_ENTRY) {
		memcpy(at, connection->inbox, connection->inbox_len);
		at += connection->inbox_len;
		*at++ = '.';
		at = hex(at, slot->entry);
		*at++ = '-';
		at = hex(at, generation);
		*at++ = ' ';
	}
	if (slot->header_len > 0) {
		at = decimal(at, slot->header_len);
		*at++ = ' ';
	}
	at = decimal(at, total);
	*at++ = '\r';
	*at++ = '\n';
	memcpy(at, text + slot->subject_len, slot->header_len);
	at += slot->header_len;
	if (slot->payload.len > 0)
		memcpy(at, slot->payload.data, slot->payload.len);
	at += slot->payload.len;
	*at++ = '\r';
	*at++ = '\n';
	out->len += (size_t)(at - start);
}

/* Takes an entry for its acknowledgement; returns the generation. */
static uint32_t
take_entry(struct tr_nats_connection *connection, struct tr_nats_batch *batch, uint32_t index)
{
	struct tr_nats_slot *slot = &batch->slots[index];
	struct tr_nats_entry *entry = &connection->entries[connection->free_entry];

	slot->entry = connection->free_entry;
	connection->free_entry = entry->next_free;
	entry->batch = batch;
	entry->index = index;
	connection->in_flight++;
	tr_metric_add(connection->nats->in_flight, 1);
	return entry->generation;
}

static void
send_one(struct tr_nats_connection *connection, struct tr_nats_batch *batch)
{
	uint32_t index = batch->sent++, generation = 0;
	struct tr_nats_slot *slot = &batch->slots[index];
	int64_t total = (int64_t)slot->header_len + (int64_t)slot->payload.len;

	/* the server would end the connection for it, and with it what others have under way */
	if (total > connection->max_payload) {
		tr_nats_tell_error(
			batch, index, TR_ETOOBIG, true, "the message is larger than the server's max_payload");
		return;
	}
	if (slot->subject_len + connection->inbox_len + LINE_MORE > CONTROL_LINE) {
		tr_nats_tell_error(batch, index, TR_ETOOBIG, true,
			"the subject is too long: servers take lines of at most %d bytes", CONTROL_LINE);
		return;
	}
	if (slot->await_ack)
		generation = take_entry(connection, batch, index);
	add_message(connection, batch, slot, generation);
	if (!slot->await_ack && !connection->out.failed) {
		struct tr_nats_result result = {.err = TR_OK};
		struct tr_buf none = {0};

		tr_nats_tell(batch, index, &result, &none);
	}
}

/* Does one thing for the first in line. False: there is nothing to do. */
static bool
step(struct tr_nats_connection *connection)
{
	struct tr_nats_batch *batch = connection->line;
	const struct tr_nats_slot *slot;

	if (batch == NULL || connection->out.failed)
		return false;
	if (batch->sent == batch->pub.count) {
		tr_nats_leave_line(batch);
		return true;
	}
	slot = &batch->slots[batch->sent];
	if (slot->told) {
		batch->sent++;
	} else if (batch->added == 0) { /* a probe */
		struct tr_nats_result ok = {.err = TR_OK};
		struct tr_buf none = {0};

		batch->sent++;
		tr_nats_tell(batch, 0, &ok, &none);
	} else if (slot->await_ack && connection->in_flight >= connection->settings.pending_max) {
		return false;
	} else if (tr_stream_backlog(connection->stream) + connection->out.len >= BACKLOG_STOP) {
		tr_nats_wire_flush(connection);
		if (connection->stream != NULL)
			tr_stream_want_drained(connection->stream);
		return false;
	} else {
		send_one(connection, batch);
	}
	return true;
}

void
tr_nats_wire_pump(struct tr_nats_connection *connection)
{
	while (connection->state == TR_NATS_UP && step(connection))
		;
	if (connection->state == TR_NATS_UP)
		tr_nats_wire_flush(connection);
	tr_nats_wire_rest(connection);
}

void
tr_nats_wire_ping(struct tr_nats_connection *connection)
{
	if (connection->pings >= PINGS_MAX) {
		tr_nats_link_lost(connection, TR_ECLOSED, "the connection was lost: the server does not answer");
		return;
	}
	if (tr_clock_is_virtual() && connection->in_flight == 0 && connection->line == NULL)
		return; /* virtual time does not wait for the answer */
	connection->pings++;
	say(connection, "PING\r\n");
}

void
tr_nats_wire_rest(struct tr_nats_connection *connection)
{
	if (connection->stream != NULL)
		tr_stream_rest(connection->stream,
			connection->state == TR_NATS_UP && connection->in_flight == 0 && connection->line == NULL);
}
