/* What goes out on a connection: publishes as frames, many in one write. rabbitmq-c writes each of the three frames of
 * a message by itself, which costs more than all else about a message; over TLS it still does, its sockets cannot be
 * written to from here. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "transport/amqp_internal.h"

#define HEAD 7   /* bytes of a frame before its payload: type, channel, length */
#define METHOD 9 /* of a basic.publish beside its names: class, method, reserved, two lengths, bits */
#define END 0xce
#define WRITE_AT (64 * 1024) /* bytes that are worth a write */

static char *
put(char *at, uint64_t value, int bytes)
{
	for (int i = bytes - 1; i >= 0; i--)
		*at++ = (char)(value >> (8 * i));
	return at;
}

static char *
put_head(char *at, uint8_t type, size_t len)
{
	return put(put(put(at, type, 1), TR_AMQP_CHANNEL, 2), len, 4);
}

static char *
put_short(char *at, amqp_bytes_t text)
{
	*at++ = (char)text.len;
	if (text.len > 0)
		memcpy(at, text.bytes, text.len);
	return at + text.len;
}

/* basic.publish. */
static char *
put_method(char *at, const struct tr_amqp_slot *slot)
{
	at = put_head(at, AMQP_FRAME_METHOD, METHOD + slot->exchange.len + slot->routing_key.len);
	at = put(at, AMQP_BASIC_PUBLISH_METHOD, 4); /* class and method */
	at = put(at, 0, 2);                         /* reserved */
	at = put_short(put_short(at, slot->exchange), slot->routing_key);
	return put(put(at, (uint64_t)slot->mandatory | (uint64_t)slot->immediate << 1, 1), END, 1);
}

/* The message's size and properties. Returns how many bytes; < 0: what rabbitmq-c says, they fit into no frame, say. */
static int
put_header(char *start, size_t frame_max, const struct tr_amqp_slot *slot)
{
	char *at = start + HEAD;
	amqp_bytes_t room;
	int len;

	at = put(at, AMQP_BASIC_CLASS, 2);
	at = put(at, 0, 2); /* weight */
	at = put(at, slot->payload.len, 8);
	room = (amqp_bytes_t){frame_max - (size_t)(at - start) - 1, at};
	len = amqp_encode_properties(AMQP_BASIC_CLASS, (void *)(uintptr_t)&slot->properties, room); /* only read */
	if (len < 0)
		return len;
	at += len;
	put_head(start, AMQP_FRAME_HEADER, (size_t)(at - start) - HEAD);
	return (int)(put(at, END, 1) - start);
}

/* rabbitmq-c must not be called before all is written: it might put a heartbeat into the middle of a frame. */
int
tr_amqp_write(struct tr_amqp_connection *connection, int64_t deadline_ns)
{
	struct tr_buf *out = &connection->out;
	int fd = amqp_get_sockfd(connection->state);
	size_t done = 0;

	while (done < out->len) {
		ssize_t len = send(fd, out->data + done, out->len - done, MSG_NOSIGNAL | MSG_DONTWAIT);
		struct pollfd room = {.fd = fd, .events = POLLOUT};
		int64_t left_ns;

		if (len >= 0) {
			done += (size_t)len;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return AMQP_STATUS_SOCKET_ERROR;
		left_ns = deadline_ns - tr_amqp_real_ns();
		if (left_ns <= 0)
			return AMQP_STATUS_TIMEOUT;
		poll(&room, 1, (int)tr_min_i64(left_ns / TR_NS_PER_MS + 1, INT32_MAX));
	}
	tr_buf_clear(out);
	return AMQP_STATUS_OK;
}

/* The frames of the message's bytes. */
static int
put_body(struct tr_amqp_connection *connection, const struct tr_bytes *body, size_t most, int64_t deadline_ns)
{
	struct tr_buf *out = &connection->out;

	for (size_t from = 0, len; from < body->len; from += len) {
		int status = out->len >= WRITE_AT ? tr_amqp_write(connection, deadline_ns) : AMQP_STATUS_OK;
		char *at;

		if (status != AMQP_STATUS_OK)
			return status;
		len = body->len - from < most ? body->len - from : most;
		at = tr_buf_reserve(out, HEAD + len + 1);
		if (at == NULL)
			return AMQP_STATUS_NO_MEMORY;
		at = put_head(at, AMQP_FRAME_BODY, len);
		memcpy(at, body->data + from, len);
		put(at + len, END, 1);
		out->len += HEAD + len + 1;
	}
	return AMQP_STATUS_OK;
}

int
tr_amqp_put(struct tr_amqp_connection *connection, const struct tr_amqp_slot *slot, int64_t deadline_ns)
{
	size_t frame_max = connection->frame_max;
	struct tr_buf *out = &connection->out;
	char *at, *end;
	int len;

	at = tr_buf_reserve(out, HEAD + METHOD + slot->exchange.len + slot->routing_key.len + 1 + frame_max);
	if (at == NULL)
		return AMQP_STATUS_NO_MEMORY;
	end = put_method(at, slot);
	len = put_header(end, frame_max, slot);
	if (len < 0)
		return len;
	out->len += (size_t)(end + len - at);
	return put_body(connection, &slot->payload, frame_max - HEAD - 1, deadline_ns);
}
