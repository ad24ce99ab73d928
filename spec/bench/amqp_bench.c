/* The yardstick of the AMQP bench: a plain rabbitmq-c loop on one connection.
 *
 *   amqp_bench HOST PORT QUEUE COUNT WINDOW
 *
 * Publishes COUNT persistent, mandatory messages of 900 bytes to QUEUE by the default exchange, WINDOW of them and then
 * a wait for all their confirms, as a session does with a batch. The result is one line of key=value. */
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdbool.h>
#include <string.h>

#include "base/clock.h"
#include "measure.h"

enum { BODY_BYTES = 900, CHANNEL = 1, FRAME_BYTES = 131072, HEARTBEAT_S = 60, MAX_WINDOW = 100000 };

static int
fail(const char *what, const char *why)
{
	fprintf(stderr, "amqp_bench: %s: %s\n", what, why);
	return 1;
}

static int
failed_reply(const char *what, amqp_rpc_reply_t reply)
{
	return fail(what, reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION ? amqp_error_string2(reply.library_error)
									      : "refused by the broker");
}

/* Waits for the confirms of messages first..last; they come in any order, and one may stand for all up to it. */
static int
await_confirms(amqp_connection_state_t connection, uint64_t first, uint64_t last)
{
	static bool confirmed[MAX_WINDOW];
	uint64_t missing = last - first + 1;

	memset(confirmed, 0, sizeof confirmed);
	while (missing > 0) {
		const amqp_basic_ack_t *ack;
		amqp_frame_t frame;
		int status;

		amqp_maybe_release_buffers(connection);
		status = amqp_simple_wait_frame(connection, &frame);
		if (status != AMQP_STATUS_OK)
			return fail("confirm", amqp_error_string2(status));
		if (frame.frame_type != AMQP_FRAME_METHOD)
			continue;
		if (frame.payload.method.id != AMQP_BASIC_ACK_METHOD)
			return fail("confirm", amqp_method_name(frame.payload.method.id));
		ack = frame.payload.method.decoded;
		for (uint64_t tag = ack->multiple ? first : ack->delivery_tag; tag <= ack->delivery_tag; tag++) {
			missing -= !confirmed[tag - first];
			confirmed[tag - first] = true;
		}
	}
	return 0;
}

int
main(int argc, char **argv)
{
	amqp_connection_state_t connection = amqp_new_connection();
	amqp_basic_properties_t props = {
		._flags = AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG,
		.delivery_mode = AMQP_DELIVERY_PERSISTENT,
	};
	char body[BODY_BYTES], id[40];
	amqp_bytes_t payload = {sizeof body, body}, queue;
	uint64_t count, window;
	amqp_rpc_reply_t reply;
	double cpu, seconds;
	int64_t began_ns;
	int status;

	if (argc != 6) {
		fputs("usage: amqp_bench HOST PORT QUEUE COUNT WINDOW\n", stderr);
		return 64;
	}
	status = amqp_socket_open(amqp_tcp_socket_new(connection), argv[1], atoi(argv[2]));
	if (status != AMQP_STATUS_OK)
		return fail(argv[1], amqp_error_string2(status));
	reply = amqp_login(connection, "/", 0, FRAME_BYTES, HEARTBEAT_S, AMQP_SASL_METHOD_PLAIN, "guest", "guest");
	if (reply.reply_type != AMQP_RESPONSE_NORMAL)
		return failed_reply("login", reply);
	amqp_channel_open(connection, CHANNEL);
	amqp_confirm_select(connection, CHANNEL);
	reply = amqp_get_rpc_reply(connection);
	if (reply.reply_type != AMQP_RESPONSE_NORMAL)
		return failed_reply("channel", reply);
	memset(body, 'x', sizeof body);
	queue = amqp_cstring_bytes(argv[3]);
	count = strtoull(argv[4], NULL, 10);
	window = strtoull(argv[5], NULL, 10);
	if (window == 0 || window > MAX_WINDOW)
		return fail(argv[5], "1 to 100000 expected");
	props.content_type = amqp_cstring_bytes("application/json");
	cpu = measure_cpu_us();
	began_ns = tr_mono_ns();
	for (uint64_t sent = 0; sent < count;) {
		uint64_t first = sent + 1;

		for (uint64_t i = 0; i < window && sent < count; i++) {
			sent++;
			snprintf(id, sizeof id, "%032llx", (unsigned long long)sent);
			props.message_id = amqp_cstring_bytes(id);
			status =
				amqp_basic_publish(connection, CHANNEL, amqp_empty_bytes, queue, 1, 0, &props, payload);
			if (status != AMQP_STATUS_OK)
				return fail("publish", amqp_error_string2(status));
		}
		if (await_confirms(connection, first, sent) != 0)
			return 1;
	}
	seconds = (double)(tr_mono_ns() - began_ns) / 1e9;
	printf("records=%llu seconds=%.3f rate=%.0f cpu_us=%.2f\n", (unsigned long long)count, seconds,
		(double)count / seconds, (measure_cpu_us() - cpu) / (double)count);
	amqp_connection_close(connection, AMQP_REPLY_SUCCESS);
	amqp_destroy_connection(connection);
	return 0;
}
