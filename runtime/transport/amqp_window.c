/* A window: what a connection publishes at once, and the confirms that it waits for. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "transport/amqp_internal.h"

#define CHANNEL TR_AMQP_CHANNEL
#define DRAIN_EVERY 64 /* messages published between two looks at what the broker says */

struct window {
	struct tr_amqp_connection *connection;
	struct tr_amqp_slot **slots; /* those being published, in order; their tags go up from `base` */
	struct tr_amqp_batch **owners;
	uint32_t count, published, told;
	uint64_t base;
	int64_t limit_ns;    /* publish_timeout of its calls */
	int64_t deadline_ns; /* real */
	bool blamed; /* it ended for what one of its messages is, or asks for: see why_code; 0: rabbitmq-c says so */
};

/* The answer's text is kept with the call that it is for. */
static void
tell(struct window *window, uint32_t i, enum tr_amqp_status status, int err, uint16_t code, amqp_bytes_t text)
{
	struct tr_amqp_slot *slot = window->slots[i];

	if (slot->told)
		return;
	slot->told = true;
	window->told++;
	if (slot->status == TR_AMQP_RETURNED)
		return; /* whatever comes after: it was not routed */
	slot->status = status;
	slot->err = err;
	slot->reply_code = code;
	if (text.len == 0)
		return;
	slot->text.bytes = amqp_pool_alloc(&window->owners[i]->memory, text.len);
	if (slot->text.bytes == NULL)
		return;
	memcpy(slot->text.bytes, text.bytes, text.len);
	slot->text.len = text.len;
}

static void
tell_rest(struct window *window)
{
	const struct tr_amqp_connection *connection = window->connection;

	for (uint32_t i = 0; i < window->count; i++)
		tell(window, i, TR_AMQP_FAILED, connection->why_err, connection->why_code,
			amqp_cstring_bytes(connection->why));
}

/* An ack or nack of `tag`, or of all up to it. What was returned stays so. */
static void
confirmed(struct window *window, uint64_t tag, bool multiple, enum tr_amqp_status status)
{
	uint64_t from = multiple ? window->base : tag;

	for (uint64_t at = from < window->base ? window->base : from;
		at <= tag && at < window->base + window->published; at++) {
		uint32_t i = (uint32_t)(at - window->base);

		tell(window, i, status, 0, 0,
			status == TR_AMQP_NACKED ? amqp_cstring_bytes("the broker has nacked the message")
						 : amqp_empty_bytes);
	}
}

/* A message came back before its confirm. Which one: the first like it that is not confirmed; of two that are alike in
 * all this neither can be routed. */
static bool
returned(struct window *window, const amqp_basic_return_t *why)
{
	struct tr_amqp_connection *connection = window->connection;
	uint16_t code = why->reply_code;
	char text[256], exchange[256];
	amqp_message_t message;
	amqp_rpc_reply_t reply;
	char routing_key[256];
	size_t key_len = why->routing_key.len < sizeof routing_key ? why->routing_key.len : sizeof routing_key;
	size_t exchange_len = why->exchange.len < sizeof exchange ? why->exchange.len : sizeof exchange;

	/* the frame's memory may go when the message is read */
	memcpy(routing_key, why->routing_key.bytes, key_len);
	memcpy(exchange, why->exchange.bytes, exchange_len);
	snprintf(text, sizeof text, "returned by the broker: %u %.*s", code, (int)why->reply_text.len,
		(const char *)why->reply_text.bytes);
	reply = amqp_read_message(connection->state, CHANNEL, &message, 0);
	if (reply.reply_type != AMQP_RESPONSE_NORMAL) {
		tr_amqp_why_reply(connection, "returned message of", reply);
		return false;
	}
	for (uint32_t i = 0; i < window->published; i++) {
		struct tr_amqp_slot *slot = window->slots[i];

		if (slot->told || slot->status == TR_AMQP_RETURNED || !(slot->mandatory || slot->immediate) ||
			slot->routing_key.len != key_len || slot->exchange.len != exchange_len ||
			memcmp(slot->routing_key.bytes, routing_key, key_len) != 0 ||
			memcmp(slot->exchange.bytes, exchange, exchange_len) != 0 ||
			slot->payload.len != message.body.len ||
			(message.body.len > 0 && memcmp(slot->payload.data, message.body.bytes, message.body.len) != 0))
			continue;
		tell(window, i, TR_AMQP_RETURNED, 0, code, amqp_cstring_bytes(text));
		slot->told = false; /* its confirm comes */
		window->told--;
		break;
	}
	amqp_destroy_message(&message);
	return true;
}

/* Does a broker that closes with this code mean one message, and not its own end or the way we talk? */
static bool
blames_message(uint16_t code)
{
	return code == AMQP_CONTENT_TOO_LARGE || code == AMQP_ACCESS_REFUSED || code == AMQP_NOT_FOUND ||
	       code == AMQP_PRECONDITION_FAILED || code == AMQP_NOT_IMPLEMENTED;
}

/* What rabbitmq-c refuses to encode: headers that fit into no frame, say. */
static bool
cannot_encode(int status)
{
	return status == AMQP_STATUS_TABLE_TOO_BIG || status == AMQP_STATUS_BAD_AMQP_DATA ||
	       status == AMQP_STATUS_INVALID_PARAMETER;
}

/* False: nothing more comes over this connection. */
static bool
handle(struct window *window, const amqp_frame_t *frame)
{
	struct tr_amqp_connection *connection = window->connection;
	const amqp_method_t *method = &frame->payload.method;

	if (frame->frame_type != AMQP_FRAME_METHOD)
		return true;
	switch (method->id) {
	case AMQP_BASIC_ACK_METHOD: {
		const amqp_basic_ack_t *ack = method->decoded;
		confirmed(window, ack->delivery_tag, ack->multiple, TR_AMQP_ACKED);
		return true;
	}
	case AMQP_BASIC_NACK_METHOD: {
		const amqp_basic_nack_t *nack = method->decoded;
		confirmed(window, nack->delivery_tag, nack->multiple, TR_AMQP_NACKED);
		return true;
	}
	case AMQP_BASIC_RETURN_METHOD:
		return returned(window, method->decoded);
	case AMQP_CONNECTION_BLOCKED_METHOD: {
		const amqp_connection_blocked_t *blocked = method->decoded;
		connection->blocked = true;
		tr_log(TR_LEVEL_WARN, "amqp", "%s takes no messages for now: %.*s", connection->peer,
			(int)blocked->reason.len, (const char *)blocked->reason.bytes);
		return true;
	}
	case AMQP_CONNECTION_UNBLOCKED_METHOD:
		connection->blocked = false;
		tr_log(TR_LEVEL_INFO, "amqp", "%s takes messages again", connection->peer);
		return true;
	case AMQP_CHANNEL_CLOSE_METHOD: {
		const amqp_channel_close_t *closed = method->decoded;
		tr_amqp_why(connection, TR_EPROTO, closed->reply_code, "%s closed the channel: %u %.*s",
			connection->peer, closed->reply_code, (int)closed->reply_text.len,
			(const char *)closed->reply_text.bytes);
		window->blamed = blames_message(closed->reply_code);
		return false;
	}
	case AMQP_CONNECTION_CLOSE_METHOD: {
		const amqp_connection_close_t *closed = method->decoded;
		tr_amqp_why(connection, TR_EPROTO, closed->reply_code, "%s closed the connection: %u %.*s",
			connection->peer, closed->reply_code, (int)closed->reply_text.len,
			(const char *)closed->reply_text.bytes);
		window->blamed = blames_message(closed->reply_code);
		return false;
	}
	default:
		return true;
	}
}

/* Handles what has come; waits for the first frame until the deadline if `wait`. False: the connection is lost. */
static bool
listen_to_broker(struct window *window, bool wait)
{
	struct tr_amqp_connection *connection = window->connection;
	amqp_frame_t frame;
	bool first = true;

	for (;;) {
		struct timeval limit = tr_amqp_timeval(wait && first ? window->deadline_ns - tr_amqp_real_ns() : 0);
		int status = amqp_simple_wait_frame_noblock(connection->state, &frame, &limit);

		if (status == AMQP_STATUS_TIMEOUT && !(wait && first))
			return true;
		if (status == AMQP_STATUS_TIMEOUT) {
			tr_amqp_why(connection, TR_ETIMEDOUT, 0, "deadline has elapsed: %s has not confirmed%s",
				connection->peer, connection->blocked ? ", it has blocked publishers" : "");
			return false;
		}
		if (status != AMQP_STATUS_OK) {
			tr_amqp_why_status(connection, "lost the connection to", status);
			return false;
		}
		if (!handle(window, &frame))
			return false;
		first = false;
		if (window->told == window->count)
			return true;
	}
}

/* Publishes the window's slots and waits for their confirms. False: the connection is of no use any more, and those
 * without an answer are not told yet. */
static bool
run_window(struct window *window)
{
	struct tr_amqp_connection *connection = window->connection;

	if (window->count == 1 && window->slots[0]->probe)
		tell(window, 0, TR_AMQP_ACKED, 0, 0, amqp_empty_bytes);
	window->base = connection->tag + 1;
	window->deadline_ns = tr_amqp_real_ns() + window->limit_ns;
	while (window->told < window->count && window->published < window->count) {
		const struct tr_amqp_slot *slot = window->slots[window->published];
		int status = amqp_basic_publish(connection->state, CHANNEL, slot->exchange, slot->routing_key,
			slot->mandatory, slot->immediate, &slot->properties,
			(amqp_bytes_t){slot->payload.len, (void *)slot->payload.data});

		if (status != AMQP_STATUS_OK) {
			tr_amqp_why_status(connection, "cannot publish to", status);
			window->blamed = cannot_encode(status);
			if (!window->blamed)
				listen_to_broker(window, false); /* it may have said why */
			return false;
		}
		connection->tag++;
		window->published++;
		if (window->published % DRAIN_EVERY == 0 && !listen_to_broker(window, false))
			return false;
	}
	while (window->told < window->count) {
		if (!listen_to_broker(window, true))
			return false;
	}
	amqp_maybe_release_buffers(connection->state);
	return true;
}

/* One message by itself, on a fresh connection if need be, so that a refusal is its own. False: there is no connection
 * for those behind it. */
static bool
publish_alone(struct window *all, uint32_t i)
{
	struct tr_amqp_connection *connection = all->connection;
	struct window one = {.connection = connection,
		.limit_ns = all->limit_ns,
		.slots = &all->slots[i],
		.owners = &all->owners[i],
		.count = 1,
		.blamed = false};

	if (connection->state == NULL && !tr_amqp_connect(connection))
		return false;
	all->slots[i]->status = TR_AMQP_ACKED;
	if (run_window(&one))
		return true;
	tr_amqp_disconnect(connection);
	if (!one.blamed)
		return false;
	tell_rest(&one);
	/* too large, a property that the broker rejects, or nothing that can be sent at all */
	all->slots[i]->permanent = connection->why_code == AMQP_PRECONDITION_FAILED ||
				   connection->why_code == AMQP_CONTENT_TOO_LARGE || connection->why_code == 0;
	return true;
}

/* The window ended for one of its messages: which one shows when each is alone. Not for longer than a window may take,
 * and an exchange that is not there, or is forbidden, is not asked for again. */
static void
part(struct window *window)
{
	struct tr_amqp_connection *connection = window->connection;
	int64_t deadline_ns = tr_amqp_real_ns() + window->limit_ns;
	const struct tr_amqp_slot *refused = NULL;

	for (uint32_t i = 0; i < window->count; i++) {
		struct tr_amqp_slot *slot = window->slots[i];

		if (slot->told || slot->status == TR_AMQP_RETURNED)
			continue;
		if (tr_amqp_real_ns() >= deadline_ns) {
			tr_amqp_why(connection, TR_ETIMEDOUT, 0,
				"deadline has elapsed: %s has refused others of the batch", connection->peer);
			return;
		}
		if (refused != NULL && slot->exchange.len == refused->exchange.len &&
			memcmp(slot->exchange.bytes, refused->exchange.bytes, slot->exchange.len) == 0) {
			tell(window, i, TR_AMQP_FAILED, refused->err, refused->reply_code, refused->text);
			continue;
		}
		if (!publish_alone(window, i))
			return;
		if (slot->status == TR_AMQP_FAILED &&
			(slot->reply_code == AMQP_NOT_FOUND || slot->reply_code == AMQP_ACCESS_REFUSED))
			refused = slot;
	}
}

void
tr_amqp_publish(struct tr_amqp_connection *connection, struct tr_amqp_batch *first)
{
	struct window window = {.connection = connection, .limit_ns = first->pub.publish_timeout_ns};
	uint32_t at = 0;

	for (struct tr_amqp_batch *batch = first; batch != NULL; batch = batch->line_next)
		window.count += batch->pub.count;
	window.slots = malloc(window.count * sizeof *window.slots);
	window.owners = malloc(window.count * sizeof *window.owners);
	if (window.slots == NULL || window.owners == NULL) {
		for (struct tr_amqp_batch *batch = first; batch != NULL; batch = batch->line_next) {
			for (uint32_t i = 0; i < batch->pub.count; i++) {
				batch->slots[i].told = true;
				batch->slots[i].status = TR_AMQP_FAILED;
				batch->slots[i].err = TR_ENOMEM;
				batch->slots[i].text = amqp_cstring_bytes("out of memory");
			}
		}
	} else {
		for (struct tr_amqp_batch *batch = first; batch != NULL; batch = batch->line_next) {
			for (uint32_t i = 0; i < batch->pub.count; i++) {
				window.slots[at] = &batch->slots[i];
				window.owners[at++] = batch;
			}
		}
		if ((connection->state == NULL && !tr_amqp_connect(connection)) || !run_window(&window)) {
			tr_amqp_disconnect(connection);
			if (window.blamed)
				part(&window);
			tell_rest(&window);
		}
	}
	free(window.slots);
	free(window.owners);
}

/* Between two windows: heartbeats, and what a broker says to an idle client. */
void
tr_amqp_look_after(struct tr_amqp_connection *connection)
{
	struct window nothing = {.connection = connection, .count = 1};

	if (connection->state == NULL)
		return;
	if (!listen_to_broker(&nothing, false)) {
		tr_log(TR_LEVEL_INFO, "amqp", "%s", connection->why);
		tr_amqp_disconnect(connection);
		return;
	}
	amqp_maybe_release_buffers(connection->state);
}
