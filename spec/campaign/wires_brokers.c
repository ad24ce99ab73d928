/* clang-format off: the second needs the first */
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
/* clang-format on */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp_peer.h"
#include "base/clock.h"
#include "transport/amqp.h"
#include "transport/kafka.h"
#include "transport/nats.h"
#include "wires.h"

#define MESSAGES 3

/* --- NATS -------------------------------------------------------------------------------------------------------- */

static void
say_text(struct wire_conn *conn, const char *text)
{
	wire_say(conn, text, strlen(text));
}

static bool nats_tls; /* it begins behind the first line */

static void
serve_nats(struct wire_conn *conn)
{
	static const char body[] = "{\"stream\":\"T\",\"seq\":1}";
	char line[1024], payload[256], text[512];

	snprintf(text, sizeof text,
		"INFO {\"server_id\":\"T\",\"version\":\"2.9.10\",\"proto\":1,\"headers\":true,\"max_payload\":4096,"
		"\"tls_required\":%s,\"host\":\"127.0.0.1\",\"port\":1}\r\n",
		nats_tls ? "true" : "false");
	say_text(conn, text);
	if (nats_tls && !wire_secure(conn))
		return;
	while (wire_line(conn, line, sizeof line)) {
		char subject[200], reply[300];
		size_t len;

		if (strncmp(line, "PING", 4) == 0) {
			say_text(conn, "PONG\r\n");
		} else if (sscanf(line, "PUB %199s %299s", subject, reply) == 2 ||
			   sscanf(line, "HPUB %199s %299s", subject, reply) == 2) {
			len = strtoul(strrchr(line, ' ') + 1, NULL, 10) + 2; /* with its line end */
			if (len > sizeof payload || !wire_read(conn, payload, len))
				return;
			snprintf(text, sizeof text, "MSG %s 1 %zu\r\n%s\r\n", reply, sizeof body - 1, body);
			say_text(conn, text);
		}
	}
}

static void
nats_done(struct tr_nats_call *call)
{
	*(bool *)call->owner = true;
}

static bool
publish_nats(struct tr_loop *loop, struct tr_nats_connection *connection)
{
	static const struct tr_str headers[] = {{"Nats-Msg-Id", 11}, {"x", 1}};
	const struct tr_nats_message message = {.subject = TR_STR("a.b"),
		.payload = TR_STR("payload"),
		.headers = headers,
		.header_count = 1,
		.await_ack = true};
	struct tr_nats_call *call = tr_nats_call_new(connection, MESSAGES);
	bool ended = false, well = true;

	if (call == NULL)
		return false;
	for (int i = 0; i < MESSAGES; i++) {
		if (tr_nats_call_add(call, &message) != TR_OK) {
			tr_nats_call_free(call);
			return false;
		}
	}
	call->done = nats_done;
	call->owner = &ended;
	tr_nats_call_start(call);
	if (!wire_wait(loop, &ended))
		wire_wrong("the call does not end");
	for (uint32_t i = 0; i < call->count; i++) {
		struct tr_nats_result result;

		tr_nats_call_result(call, i, &result);
		if (result.err != TR_OK && result.err != TR_ENOMEM && result.text.len == 0 && wire_tells())
			wire_wrong("message %u ended as %s, and no text tells why", i, tr_err_name(result.err));
		if (result.permanent)
			wire_wrong("message %u is given up: %.*s", i, (int)result.text.len, result.text.data);
		well = well && result.err == TR_OK;
	}
	tr_nats_call_free(call);
	return well;
}

static void
life_of_nats(struct tr_loop *loop, bool tls)
{
	struct tr_nats_settings settings = {.server_count = 1,
		.pending_max = 7,
		.connect_timeout_ns = WIRE_STEP_NS,
		.ping_interval_ns = 60 * TR_NS_PER_S,
		.request_timeout_ns = WIRE_STEP_NS};
	struct tr_nats_connection *connection;
	struct wire_peer peer;
	struct tr_nats *nats;
	char url[64];
	bool well = false;

	nats_tls = settings.tls = tls;
	wire_peer_start(&peer, serve_nats, false);
	if (tls)
		settings.ca_file = tr_str(wire_ca());
	snprintf(url, sizeof url, "nats://127.0.0.1:%u", peer.port);
	settings.servers[0] = tr_str(url);
	wire_begin();
	WIRE_MAKE(tr_nats_new(loop, NULL, &nats));
	WIRE_MAKE(tr_nats_open(nats, &settings, &connection));
	(void)publish_nats(loop, connection);
	wire_calm();
	for (int i = 0; i < 3 && !well; i++) /* it may have to connect again */
		well = publish_nats(loop, connection);
	if (!well)
		wire_wrong("it does not work after the faults either");
	tr_nats_unref(connection);
	tr_nats_free(nats);
}

static void
run_nats(struct tr_loop *loop)
{
	life_of_nats(loop, false);
}

static void
run_natss(struct tr_loop *loop)
{
	life_of_nats(loop, true);
}

/* --- AMQP -------------------------------------------------------------------------------------------------------- */

static void
say_step(struct wire_conn *conn, char step, uint64_t *tag)
{
	struct amqp_bytes out = {.len = 0};

	make_step(step, tag, 0, &out);
	wire_say(conn, out.data, out.len);
}

static void
serve_amqp(struct wire_conn *conn)
{
	uint8_t head[8], frame[4096];
	uint64_t tag = 0;

	if (!wire_read(conn, head, 8))
		return;
	say_step(conn, 's', &tag);
	while (wire_read(conn, head, 7)) {
		struct amqp_bytes out = {.len = 0};
		uint32_t len;

		memcpy(&len, head + 3, 4);
		len = ntohl(len) + 1;
		if (len > sizeof frame || !wire_read(conn, frame, len))
			return;
		if (head[0] == 3) /* the payload is one frame */
			say_step(conn, 'a', &tag);
		if (head[0] != 1)
			continue;
		switch (frame[1] << 8 | frame[3]) { /* class and method */
		case 10 << 8 | 11:
			say_step(conn, 't', &tag);
			break;
		case 10 << 8 | 40:
			say_step(conn, 'o', &tag);
			break;
		case 20 << 8 | 10:
			say_step(conn, 'c', &tag);
			break;
		case 85 << 8 | 10:
			say_step(conn, 'f', &tag);
			break;
		case 10 << 8 | 50:
			end_frame(&out, begin_method(&out, 0, 10, 51));
			wire_say(conn, out.data, out.len);
			return;
		default:
			break;
		}
	}
}

static void
amqp_done(struct tr_amqp_call *call)
{
	*(bool *)call->owner = true;
}

static bool
publish_amqp(struct tr_loop *loop, struct tr_amqp *amqp, const struct tr_amqp_settings *settings)
{
	const struct tr_amqp_message message = {
		.exchange = TR_STR(""), .routing_key = TR_STR("events"), .payload = TR_STR("hello")};
	struct tr_amqp_pool *pool;
	struct tr_amqp_call *call = NULL;
	bool ended = false, well = true;

	if (tr_amqp_pool(amqp, settings, &pool) != TR_OK || (call = tr_amqp_call_new(pool, MESSAGES)) == NULL)
		return false;
	for (int i = 0; i < MESSAGES; i++) {
		if (tr_amqp_call_add(call, &message) != TR_OK) {
			tr_amqp_call_free(call);
			return false;
		}
	}
	call->done = amqp_done;
	call->owner = &ended;
	tr_amqp_call_start(call);
	if (!wire_wait(loop, &ended))
		wire_wrong("the call does not end");
	for (uint32_t i = 0; i < call->count; i++) {
		struct tr_amqp_result result;

		tr_amqp_call_result(call, i, &result);
		if (result.status != TR_AMQP_ACKED && result.err != TR_ENOMEM && result.text.len == 0 && wire_tells())
			wire_wrong("message %u ended as %s, and no text tells why", i, tr_err_name(result.err));
		if (result.permanent)
			wire_wrong("message %u is given up: %.*s", i, (int)result.text.len, result.text.data);
		well = well && result.status == TR_AMQP_ACKED;
	}
	tr_amqp_call_free(call);
	return well;
}

static void
life_of_amqp(struct tr_loop *loop, bool tls)
{
	struct tr_amqp_settings settings = {.host_count = 1,
		.username = TR_STR("guest"),
		.password = TR_STR("guest"),
		.vhost = TR_STR("/"),
		.connection_name = TR_STR("wires"),
		.pool_size = 1,
		.connect_timeout_ns = WIRE_STEP_NS,
		.wait_timeout_ns = WIRE_STEP_NS,
		.publish_timeout_ns = WIRE_STEP_NS,
		.idle_timeout_ns = TR_NS_PER_S};
	struct wire_peer peer;
	struct tr_amqp *amqp;
	bool well = false;

	wire_peer_start(&peer, serve_amqp, tls);
	settings.tls = tls;
	if (tls)
		settings.ca_file = tr_str(wire_ca());
	settings.hosts[0] = (struct tr_amqp_host){TR_STR("localhost"), peer.port};
	wire_begin();
	WIRE_MAKE(tr_amqp_new(loop, &amqp));
	(void)publish_amqp(loop, amqp, &settings);
	wire_calm();
	for (int i = 0; i < 3 && !well; i++)
		well = publish_amqp(loop, amqp, &settings);
	if (!well)
		wire_wrong("it does not work after the faults either");
	tr_amqp_free(amqp);
}

static void
run_amqp(struct tr_loop *loop)
{
	life_of_amqp(loop, false);
}

static void
run_amqps(struct tr_loop *loop)
{
	life_of_amqp(loop, true);
}

/* --- Kafka ------------------------------------------------------------------------------------------------------- */

static void
kafka_done(struct tr_kafka_call *call)
{
	*(bool *)call->owner = true;
}

static bool
publish_kafka(struct tr_loop *loop, struct tr_kafka_producer *producer)
{
	struct tr_kafka_record record = {.topic = TR_STR("events"),
		.partition = -1,
		.key = TR_STR("k"),
		.payload = TR_STR("payload"),
		.timeout_ns = 10 * TR_NS_PER_S};
	struct tr_kafka_call *call = tr_kafka_call_new(producer, MESSAGES);
	bool ended = false, well = true;

	if (call == NULL)
		return false;
	for (int i = 0; i < MESSAGES; i++) {
		if (tr_kafka_call_add(call, &record) != TR_OK) {
			tr_kafka_call_free(call);
			return false;
		}
	}
	call->done = kafka_done;
	call->owner = &ended;
	tr_kafka_call_start(call);
	if (!wire_wait(loop, &ended))
		wire_wrong("the call does not end");
	for (uint32_t i = 0; i < call->count; i++) {
		struct tr_kafka_result result;

		tr_kafka_call_result(call, i, &result);
		well = well && result.err == TR_OK;
	}
	tr_kafka_call_free(call);
	return well;
}

/* librdkafka's own cluster; its threads are not ours. */
static void
run_kafka(struct tr_loop *loop)
{
	char error[512], why[TR_KAFKA_ERROR_MAX];
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *host = rd_kafka_conf_set(conf, "log_level", "0", error, sizeof error) == RD_KAFKA_CONF_OK
				   ? rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof error)
				   : NULL;
	rd_kafka_mock_cluster_t *cluster = rd_kafka_mock_cluster_new(host, 1);
	const struct tr_str pairs[] = {TR_STR("bootstrap.servers"), tr_str(rd_kafka_mock_cluster_bootstraps(cluster)),
		TR_STR("linger.ms"), TR_STR("1")};
	struct tr_kafka_producer *producer;
	struct tr_kafka *kafka;

	rd_kafka_mock_topic_create(cluster, "events", 1, 1);
	wire_begin();
	WIRE_MAKE(tr_kafka_new(loop, &kafka));
	WIRE_MAKE(tr_kafka_open(kafka, pairs, 2, &producer, why));
	(void)publish_kafka(loop, producer);
	wire_calm();
	if (!publish_kafka(loop, producer))
		wire_wrong("it does not work after the faults either");
	tr_kafka_unref(producer);
	tr_kafka_free(kafka);
	rd_kafka_mock_cluster_destroy(cluster);
	rd_kafka_destroy(host);
}

const struct wire wire_nats = {"nats", run_nats}, wire_natss = {"natss", run_natss}, wire_amqp = {"amqp", run_amqp},
		  wire_amqps = {"amqps", run_amqps}, wire_kafka = {"kafka", run_kafka};
