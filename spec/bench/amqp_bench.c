/* Plain rabbitmq-c for the AMQP bench and the soak.
 *
 *   amqp_bench publish HOST PORT QUEUE COUNT WINDOW   the yardstick: COUNT persistent, mandatory messages of 900 bytes
 *                                                     through the default exchange, WINDOW of them and then a wait for
 *                                                     all their confirms, as a session does with a batch
 *   amqp_bench drain HOST PORT QUEUE FILE             appends what the queue holds to FILE, each message a line
 *   amqp_bench count HOST PORT QUEUE                  prints how many messages the queue holds
 *   amqp_bench purge HOST PORT QUEUE                  empties it
 *
 * The result of `publish` is one line of key=value. */
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

static int
publish(amqp_connection_state_t connection, const char *queue_name, uint64_t count, uint64_t window)
{
	amqp_basic_properties_t props = {
		._flags = AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG,
		.delivery_mode = AMQP_DELIVERY_PERSISTENT,
	};
	char body[BODY_BYTES], id[40];
	amqp_bytes_t payload = {sizeof body, body}, queue = amqp_cstring_bytes(queue_name);
	amqp_rpc_reply_t reply;
	double cpu, seconds;
	int64_t began_ns;

	if (window == 0 || window > MAX_WINDOW)
		return fail("WINDOW", "1 to 100000 expected");
	amqp_confirm_select(connection, CHANNEL);
	reply = amqp_get_rpc_reply(connection);
	if (reply.reply_type != AMQP_RESPONSE_NORMAL)
		return failed_reply("confirm.select", reply);
	memset(body, 'x', sizeof body);
	props.content_type = amqp_cstring_bytes("application/json");
	cpu = measure_cpu_us();
	began_ns = tr_mono_ns();
	for (uint64_t sent = 0; sent < count;) {
		uint64_t first = sent + 1;

		for (uint64_t i = 0; i < window && sent < count; i++) {
			int status;

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
	return 0;
}

static int
drain(amqp_connection_state_t connection, const char *queue_name, const char *path)
{
	FILE *file = fopen(path, "a");
	uint64_t count = 0;

	if (file == NULL)
		return fail(path, "cannot be written");
	for (;;) {
		amqp_rpc_reply_t reply =
			amqp_basic_get(connection, CHANNEL, amqp_cstring_bytes(queue_name), /* no_ack */ 1);
		amqp_message_t message;

		if (reply.reply_type != AMQP_RESPONSE_NORMAL)
			return failed_reply("basic.get", reply);
		if (reply.reply.id == AMQP_BASIC_GET_EMPTY_METHOD)
			break;
		reply = amqp_read_message(connection, CHANNEL, &message, 0);
		if (reply.reply_type != AMQP_RESPONSE_NORMAL)
			return failed_reply("basic.get", reply);
		fwrite(message.body.bytes, 1, message.body.len, file);
		putc('\n', file);
		amqp_destroy_message(&message);
		amqp_maybe_release_buffers(connection);
		count++;
	}
	printf("records=%llu\n", (unsigned long long)count);
	return fclose(file) == 0 ? 0 : fail(path, "cannot be written");
}

static int
count(amqp_connection_state_t connection, const char *queue_name)
{
	amqp_queue_declare_ok_t *queue = amqp_queue_declare(connection, CHANNEL, amqp_cstring_bytes(queue_name),
		/* passive */ 1, 1, 0, 0, amqp_empty_table);

	if (queue == NULL)
		return failed_reply("queue.declare", amqp_get_rpc_reply(connection));
	printf("%u\n", queue->message_count);
	return 0;
}

static int
purge(amqp_connection_state_t connection, const char *queue_name)
{
	return amqp_queue_purge(connection, CHANNEL, amqp_cstring_bytes(queue_name)) != NULL
		       ? 0
		       : failed_reply("queue.purge", amqp_get_rpc_reply(connection));
}

int
main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	amqp_connection_state_t connection = amqp_new_connection();
	amqp_rpc_reply_t reply;
	int status;

	if (!(argc == 7 && strcmp(mode, "publish") == 0) && !(argc == 6 && strcmp(mode, "drain") == 0) &&
		!(argc == 5 && (strcmp(mode, "count") == 0 || strcmp(mode, "purge") == 0))) {
		fputs("usage: amqp_bench publish HOST PORT QUEUE COUNT WINDOW | drain HOST PORT QUEUE FILE |\n"
		      "       count HOST PORT QUEUE | purge HOST PORT QUEUE\n",
			stderr);
		return 64;
	}
	status = amqp_socket_open(amqp_tcp_socket_new(connection), argv[2], atoi(argv[3]));
	if (status != AMQP_STATUS_OK)
		return fail(argv[2], amqp_error_string2(status));
	reply = amqp_login(connection, "/", 0, FRAME_BYTES, HEARTBEAT_S, AMQP_SASL_METHOD_PLAIN, "guest", "guest");
	if (reply.reply_type != AMQP_RESPONSE_NORMAL)
		return failed_reply("login", reply);
	amqp_channel_open(connection, CHANNEL);
	reply = amqp_get_rpc_reply(connection);
	if (reply.reply_type != AMQP_RESPONSE_NORMAL)
		return failed_reply("channel", reply);
	if (mode[0] == 'd')
		status = drain(connection, argv[4], argv[5]);
	else if (mode[0] == 'c')
		status = count(connection, argv[4]);
	else if (strcmp(mode, "purge") == 0)
		status = purge(connection, argv[4]);
	else
		status = publish(connection, argv[4], strtoull(argv[5], NULL, 10), strtoull(argv[6], NULL, 10));
	amqp_connection_close(connection, AMQP_REPLY_SUCCESS);
	amqp_destroy_connection(connection);
	return status;
}
