/* A window: what a connection has published, and the confirms that it waits for. It goes on: calls that come are
 * published while confirms of earlier ones are still to come, and each goes back as soon as it has its own. */
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/diag.h"
#include "transport/amqp_internal.h"

#define CHANNEL TR_AMQP_CHANNEL
#define DRAIN_EVERY 64 /* messages published between two looks at what the broker says */

struct window {
	struct tr_amqp_connection *connection;
	struct tr_amqp_run *first, **end; /* oldest first */
	bool blamed; /* it ended for what one of its messages is, or asks for: see why_code; 0: rabbitmq-c says so */
};

static struct tr_amqp_slot *
slot_of(const struct tr_amqp_run *run, uint32_t i)
{
	return &run->batch->slots[run->first + i];
}

/* All of a call. */
static struct tr_amqp_run *
add_run(struct window *window, struct tr_amqp_batch *batch)
{
	struct tr_amqp_run *run = &batch->run;

	*run = (struct tr_amqp_run){.batch = batch, .count = batch->pub.count};
	*window->end = run;
	window->end = &run->next;
	return run;
}

/* The answer's text is kept with the call that it is for. */
static void
tell(struct tr_amqp_run *run, uint32_t i, enum tr_amqp_status status, int err, uint16_t code, amqp_bytes_t text)
{
	struct tr_amqp_slot *slot = slot_of(run, i);

	if (slot->told)
		return;
	slot->told = true;
	run->told++;
	if (slot->status == TR_AMQP_RETURNED)
		return; /* whatever comes after: it was not routed */
	slot->status = status;
	slot->err = err;
	slot->reply_code = code;
	if (text.len == 0)
		return;
	slot->text.bytes = amqp_pool_alloc(&run->batch->memory, text.len);
	if (slot->text.bytes == NULL)
		return;
	memcpy(slot->text.bytes, text.bytes, text.len);
	slot->text.len = text.len;
}

static void
tell_rest(struct tr_amqp_connection *connection, struct tr_amqp_run *run)
{
	for (uint32_t i = 0; i < run->count; i++)
		tell(run, i, TR_AMQP_FAILED, connection->why_err, connection->why_code,
			amqp_cstring_bytes(connection->why));
}

/* An ack or nack of `tag`, or of all up to it. What was returned stays so. */
static void
confirmed(struct window *window, uint64_t tag, bool multiple, enum tr_amqp_status status)
{
	for (struct tr_amqp_run *run = window->first; run != NULL && run->base <= tag; run = run->next) {
		uint64_t from = multiple || tag < run->base ? run->base : tag;

		for (uint64_t at = from; at <= tag && at < run->base + run->published; at++)
			tell(run, (uint32_t)(at - run->base), status, 0, 0,
				status == TR_AMQP_NACKED ? amqp_cstring_bytes("the broker has nacked the message")
							 : amqp_empty_bytes);
	}
}

static bool
is_text(amqp_bytes_t text, const void *data, size_t len)
{
	return text.len == len && (len == 0 || memcmp(text.bytes, data, len) == 0);
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
	for (struct tr_amqp_run *run = window->first; run != NULL; run = run->next) {
		for (uint32_t i = 0; i < run->published; i++) {
			struct tr_amqp_slot *slot = slot_of(run, i);

			if (slot->told || slot->status == TR_AMQP_RETURNED || !(slot->mandatory || slot->immediate) ||
				!is_text(slot->routing_key, routing_key, key_len) ||
				!is_text(slot->exchange, exchange, exchange_len) ||
				!is_text((amqp_bytes_t){slot->payload.len, (void *)slot->payload.data},
					message.body.bytes, message.body.len))
				continue;
			tell(run, i, TR_AMQP_RETURNED, 0, code, amqp_cstring_bytes(text));
			slot->told = false; /* its confirm comes */
			run->told--;
			amqp_destroy_message(&message);
			return true;
		}
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

static void
set_blocked(struct tr_amqp_connection *connection, const amqp_connection_blocked_t *why)
{
	char text[600];

	snprintf(text, sizeof text, "%s takes no messages for now: %.*s", connection->peer, (int)why->reason.len,
		(const char *)why->reason.bytes);
	tr_log(TR_LEVEL_WARN, "amqp", "%s", text);
	connection->blocked = true;
	tr_amqp_set_held_up(connection, text);
}

/* What is patient has all of its time from now on. */
static void
set_unblocked(struct window *window)
{
	struct tr_amqp_connection *connection = window->connection;

	tr_log(TR_LEVEL_INFO, "amqp", "%s takes messages again", connection->peer);
	connection->blocked = false;
	for (struct tr_amqp_run *run = window->first; run != NULL; run = run->next) {
		if (run->batch->pub.patient)
			run->deadline_ns = tr_amqp_real_ns() + run->batch->pub.publish_timeout_ns;
	}
	tr_amqp_set_held_up(connection, NULL);
}

/* Only heartbeats tell a broker that has blocked us from one that is gone. */
static bool
is_held_up(const struct tr_amqp_connection *connection, const struct tr_amqp_run *run)
{
	return connection->blocked && run->batch->pub.patient && amqp_get_heartbeat(connection->state) > 0;
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
	case AMQP_CONNECTION_BLOCKED_METHOD:
		set_blocked(connection, method->decoded);
		return true;
	case AMQP_CONNECTION_UNBLOCKED_METHOD:
		set_unblocked(window);
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

/* Handles what has come. False: the connection is lost. */
static bool
listen_to_broker(struct window *window)
{
	struct tr_amqp_connection *connection = window->connection;
	amqp_frame_t frame;

	for (;;) {
		struct timeval now = {0, 0};
		int status = amqp_simple_wait_frame_noblock(connection->state, &frame, &now);

		if (status == AMQP_STATUS_TIMEOUT) {
			amqp_maybe_release_buffers(connection->state);
			return true;
		}
		if (status != AMQP_STATUS_OK) {
			tr_amqp_why_status(connection, "lost the connection to", status);
			return false;
		}
		if (!handle(window, &frame))
			return false;
	}
}

/* --- publishing ---------------------------------------------------------------------------------------------- */

static bool
too_late(struct tr_amqp_connection *connection)
{
	tr_amqp_why(connection, TR_ETIMEDOUT, 0, "deadline has elapsed: %s has not confirmed%s", connection->peer,
		connection->blocked ? ", it has blocked publishers" : "");
	return false;
}

/* It could not be published: the status says why, or the broker does. */
static bool
failed(struct window *window, int status)
{
	struct tr_amqp_connection *connection = window->connection;

	tr_amqp_why_status(connection, "cannot publish to", status);
	window->blamed = cannot_encode(status);
	if (!window->blamed && listen_to_broker(window) && status == AMQP_STATUS_TIMEOUT)
		too_late(connection);
	return false;
}

static int
publish_one(struct tr_amqp_connection *connection, const struct tr_amqp_slot *slot, int64_t deadline_ns)
{
	if (!connection->pool->settings.tls)
		return tr_amqp_put(connection, slot, deadline_ns);
	return amqp_basic_publish(connection->state, CHANNEL, slot->exchange, slot->routing_key, slot->mandatory,
		slot->immediate, &slot->properties, (amqp_bytes_t){slot->payload.len, (void *)slot->payload.data});
}

/* Waits for the broker, or for a wake if it may be woken. False: the connection is of no use any more. */
static bool
await(struct window *window)
{
	struct tr_amqp_connection *connection = window->connection;
	bool patient = is_held_up(connection, window->first);
	int64_t left_ns = patient ? TR_NS_PER_S : window->first->deadline_ns - tr_amqp_real_ns();
	int64_t beat_ns = connection->pool->settings.heartbeat_s * TR_NS_PER_S / 2;
	struct pollfd fds[2] = {{.fd = amqp_get_sockfd(connection->state), .events = POLLIN},
		{.fd = connection->wake_fd, .events = POLLIN}};

	if (left_ns <= 0)
		return too_late(connection);
	if (beat_ns > 0) /* rabbitmq-c sends it when it is called */
		left_ns = tr_min_i64(left_ns, tr_max_i64(beat_ns, TR_NS_PER_S));
	poll(fds, 2, (int)tr_min_i64(left_ns / TR_NS_PER_MS + 1, INT32_MAX));
	if (fds[1].revents & POLLIN)
		tr_amqp_drain_wakes(connection);
	return listen_to_broker(window);
}

/* Publishes a run of the window. False: the connection is of no use any more. */
static bool
publish_run(struct window *window, struct tr_amqp_run *run)
{
	struct tr_amqp_connection *connection = window->connection;
	int status;

	run->base = connection->tag + 1;
	run->deadline_ns = tr_amqp_real_ns() + run->batch->pub.publish_timeout_ns;
	if (run->count == 1 && slot_of(run, 0)->probe)
		tell(run, 0, TR_AMQP_ACKED, 0, 0, amqp_empty_bytes);
	while (run->told < run->count && run->published < run->count) {
		if (is_held_up(connection, run)) { /* more would only lie in the socket */
			if (!await(window))
				return false;
			continue;
		}
		status = publish_one(connection, slot_of(run, run->published), run->deadline_ns);
		if (status != AMQP_STATUS_OK)
			return failed(window, status);
		connection->tag++;
		run->published++;
		if (run->published % DRAIN_EVERY > 0)
			continue;
		status = tr_amqp_write(connection, run->deadline_ns);
		if (status != AMQP_STATUS_OK)
			return failed(window, status);
		if (!listen_to_broker(window))
			return false;
	}
	status = tr_amqp_write(connection, run->deadline_ns);
	return status == AMQP_STATUS_OK || failed(window, status);
}

/* Adds the calls to the window and publishes them, if the connection is `ok`. False: it is of no use any more. */
static bool
publish_calls(struct window *window, struct tr_amqp_batch *calls, bool ok)
{
	for (struct tr_amqp_batch *batch = calls; batch != NULL; batch = batch->line_next) {
		struct tr_amqp_run *run = add_run(window, batch); /* in any case */

		ok = ok && publish_run(window, run);
	}
	return ok;
}

/* Those that are told all go back. */
static void
give_back_told(struct window *window)
{
	struct tr_amqp_batch *told = NULL, **told_end = &told;
	struct tr_amqp_run **at = &window->first, *run;

	while ((run = *at) != NULL) {
		if (run->told < run->count) {
			at = &run->next;
			continue;
		}
		*at = run->next;
		*told_end = run->batch;
		told_end = &run->batch->line_next;
	}
	window->end = at;
	*told_end = NULL;
	if (told != NULL)
		tr_amqp_give_back(window->connection, told, window->first != NULL ? window->first->batch : NULL);
}

/* Publishes what there is for the window by now, or waits. False: the connection is of no use any more. */
static bool
go_on(struct window *window)
{
	struct tr_amqp_connection *connection = window->connection;
	struct tr_amqp *amqp = connection->pool->amqp;
	struct tr_amqp_batch *calls;
	bool ok;

	pthread_mutex_lock(&amqp->lock);
	calls = tr_amqp_take(connection);
	if (calls == NULL)
		tr_amqp_join_idle(connection);
	pthread_mutex_unlock(&amqp->lock);
	if (calls != NULL)
		return publish_calls(window, calls, true);
	ok = await(window);
	pthread_mutex_lock(&amqp->lock);
	tr_amqp_leave_idle(connection);
	pthread_mutex_unlock(&amqp->lock);
	return ok;
}

/* --- parting --------------------------------------------------------------------------------------------------- */

/* One message by itself, on a fresh connection if need be, so that a refusal is its own. False: there is no connection
 * for those behind it. */
static bool
publish_alone(struct tr_amqp_connection *connection, struct tr_amqp_batch *batch, uint32_t i)
{
	struct tr_amqp_run one = {.batch = batch, .first = i, .count = 1};
	struct window window = {.connection = connection, .first = &one, .end = &one.next};
	struct tr_amqp_slot *slot = &batch->slots[i];
	bool ok;

	if (connection->state == NULL && !tr_amqp_connect(connection))
		return false;
	slot->status = TR_AMQP_ACKED;
	ok = publish_run(&window, &one);
	while (ok && one.told == 0)
		ok = await(&window);
	if (ok)
		return true;
	tr_amqp_disconnect(connection);
	if (!window.blamed)
		return false;
	tell_rest(connection, &one);
	/* too large, a property that the broker rejects, or nothing that can be sent at all */
	slot->permanent = connection->why_code == AMQP_PRECONDITION_FAILED ||
			  connection->why_code == AMQP_CONTENT_TOO_LARGE || connection->why_code == 0;
	return true;
}

/* The window ended for one of its messages: which one shows when each is alone. An exchange that is not there, or is
 * forbidden, is not asked for again. False: enough of it. */
static bool
part_run(struct tr_amqp_connection *connection, struct tr_amqp_run *run, const struct tr_amqp_slot **refused,
	int64_t deadline_ns)
{
	for (uint32_t i = 0; i < run->count; i++) {
		struct tr_amqp_slot *slot = slot_of(run, i);

		if (slot->told || slot->status == TR_AMQP_RETURNED)
			continue;
		if (tr_amqp_real_ns() >= deadline_ns) {
			tr_amqp_why(connection, TR_ETIMEDOUT, 0,
				"deadline has elapsed: %s has refused others of the batch", connection->peer);
			return false;
		}
		if (*refused != NULL && is_text(slot->exchange, (*refused)->exchange.bytes, (*refused)->exchange.len)) {
			tell(run, i, TR_AMQP_FAILED, (*refused)->err, (*refused)->reply_code, (*refused)->text);
			continue;
		}
		if (!publish_alone(connection, run->batch, run->first + i))
			return false;
		if (slot->status == TR_AMQP_FAILED &&
			(slot->reply_code == AMQP_NOT_FOUND || slot->reply_code == AMQP_ACCESS_REFUSED))
			*refused = slot;
	}
	return true;
}

/* Not for longer than a window may take. */
static void
part(struct window *window)
{
	int64_t deadline_ns = tr_amqp_real_ns() + window->first->batch->pub.publish_timeout_ns;
	const struct tr_amqp_slot *refused = NULL;

	for (struct tr_amqp_run *run = window->first; run != NULL; run = run->next) {
		if (!part_run(window->connection, run, &refused, deadline_ns))
			return;
	}
}

void
tr_amqp_publish(struct tr_amqp_connection *connection, struct tr_amqp_batch *calls)
{
	struct window window = {.connection = connection, .end = &window.first};
	bool ok = connection->state != NULL || tr_amqp_connect(connection);

	tr_amqp_will_look(connection, ok);
	ok = publish_calls(&window, calls, ok);
	while (ok && (give_back_told(&window), window.first != NULL))
		ok = go_on(&window);
	if (ok)
		return;
	tr_amqp_will_look(connection, false);
	tr_amqp_disconnect(connection);
	if (window.blamed)
		part(&window);
	for (struct tr_amqp_run *run = window.first; run != NULL; run = run->next) {
		tell_rest(connection, run);
		run->told = run->count; /* those that were alone were told, too */
	}
	give_back_told(&window);
	tr_amqp_will_look(connection, true);
}

/* Between two windows: heartbeats, and what a broker says to an idle client. */
void
tr_amqp_look_after(struct tr_amqp_connection *connection)
{
	struct window nothing = {.connection = connection, .end = &nothing.first};

	if (connection->state == NULL)
		return;
	if (!listen_to_broker(&nothing)) {
		tr_log(TR_LEVEL_INFO, "amqp", "%s", connection->why);
		tr_amqp_disconnect(connection);
	}
}
