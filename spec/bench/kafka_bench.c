/* Kafka for the benches and the soak, without a broker of its own on the machine:
 *
 *   kafka_bench cluster [BROKERS]                 librdkafka's mock cluster in a process of its own; says
 *                                                 "bootstrap HOST:PORT,..." and obeys lines on standard input:
 *                                                 "down ID", "up ID"; ends with its input
 *   kafka_bench plain BOOTSTRAP TOPIC COUNT       the yardstick: a plain librdkafka loop with the settings of new_kafka
 *   kafka_bench consume BOOTSTRAP TOPIC FILE      appends each payload as a line until SIGTERM or SIGINT
 *   kafka_bench count BOOTSTRAP TOPIC             prints how many records its partitions have got
 *
 * The result of `plain` is one line of key=value. */
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <signal.h>
#include <string.h>

#include "base/clock.h"
#include "measure.h"

enum { BODY_BYTES = 900, PARTITIONS = 4, POLL_MS = 100 };
#define FLUSH_MS 60000

static volatile sig_atomic_t ended;

static int
fail(const char *what, const char *why)
{
	fprintf(stderr, "kafka_bench: %s: %s\n", what, why);
	return 1;
}

static rd_kafka_conf_t *
configuration(const char *const *pairs)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char error[512];

	for (; pairs[0] != NULL; pairs += 2) {
		if (rd_kafka_conf_set(conf, pairs[0], pairs[1], error, sizeof error) != RD_KAFKA_CONF_OK)
			exit(fail(pairs[0], error));
	}
	return conf;
}

/* --- a cluster ------------------------------------------------------------------------------------------------ */

static int
run_cluster(int brokers)
{
	const char *const pairs[] = {"client.id", "cluster", NULL};
	char error[512], line[64];
	rd_kafka_t *host = rd_kafka_new(RD_KAFKA_PRODUCER, configuration(pairs), error, sizeof error);
	rd_kafka_mock_cluster_t *cluster;
	int id;

	if (host == NULL)
		return fail("cluster", error);
	cluster = rd_kafka_mock_cluster_new(host, brokers);
	if (cluster == NULL)
		return fail("cluster", "librdkafka cannot make one");
	rd_kafka_mock_topic_create(cluster, "events", PARTITIONS, brokers);
	rd_kafka_mock_topic_create(cluster, "others", PARTITIONS, brokers); /* of those that a bench compares with */
	printf("bootstrap %s\n", rd_kafka_mock_cluster_bootstraps(cluster));
	fflush(stdout);
	while (fgets(line, sizeof line, stdin) != NULL) {
		if (sscanf(line, "down %d", &id) == 1)
			rd_kafka_mock_broker_set_down(cluster, id);
		else if (sscanf(line, "up %d", &id) == 1)
			rd_kafka_mock_broker_set_up(cluster, id);
		else
			fail(line, "\"down ID\" or \"up ID\" expected");
	}
	rd_kafka_mock_cluster_destroy(cluster);
	rd_kafka_destroy(host);
	return 0;
}

/* --- the yardstick -------------------------------------------------------------------------------------------- */

static uint64_t delivered, refused;

static void
on_report(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
	if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
		delivered++;
	else
		refused++;
}

static int
run_plain(const char *bootstrap, const char *topic, uint64_t count)
{
	const char *const pairs[] = {"bootstrap.servers", bootstrap, "enable.idempotence", "true", "message.timeout.ms",
		"30000", "linger.ms", "5", NULL};
	rd_kafka_conf_t *conf = configuration(pairs);
	char error[512], body[BODY_BYTES], id[40];
	rd_kafka_t *rk;
	double cpu;
	int64_t began_ns;
	double seconds;

	rd_kafka_conf_set_dr_msg_cb(conf, on_report);
	rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof error);
	if (rk == NULL)
		return fail("plain", error);
	memset(body, 'x', sizeof body);
	cpu = measure_cpu_us();
	began_ns = tr_mono_ns();
	for (uint64_t i = 0; i < count; i++) {
		rd_kafka_headers_t *headers = rd_kafka_headers_new(2); /* as new_kafka: event_id and attempt */
		rd_kafka_resp_err_t err;

		snprintf(id, sizeof id, "%032llx", (unsigned long long)i);
		rd_kafka_header_add(headers, "event_id", -1, id, 32);
		rd_kafka_header_add(headers, "attempt", -1, "1", 1);
		for (;;) {
			err = rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
				RD_KAFKA_V_VALUE(body, sizeof body), RD_KAFKA_V_HEADERS(headers), RD_KAFKA_V_END);
			if (err != RD_KAFKA_RESP_ERR__QUEUE_FULL)
				break;
			rd_kafka_poll(rk, POLL_MS);
		}
		if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
			return fail("produce", rd_kafka_err2str(err));
		rd_kafka_poll(rk, 0);
	}
	rd_kafka_flush(rk, FLUSH_MS);
	seconds = (double)(tr_mono_ns() - began_ns) / 1e9;
	printf("records=%llu refused=%llu seconds=%.3f rate=%.0f cpu_us=%.2f\n", (unsigned long long)delivered,
		(unsigned long long)refused, seconds, (double)count / seconds,
		(measure_cpu_us() - cpu) / (double)count);
	rd_kafka_destroy(rk);
	return delivered == count ? 0 : 1;
}

/* --- a consumer ------------------------------------------------------------------------------------------------ */

static void
on_signal(int number)
{
	ended = number;
}

static int
run_consumer(const char *bootstrap, const char *topic, const char *path)
{
	const char *const pairs[] = {"bootstrap.servers", bootstrap, "group.id", "consumer", "auto.offset.reset",
		"earliest", "enable.auto.commit", "false", NULL};
	char error[512];
	rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, configuration(pairs), error, sizeof error);
	rd_kafka_topic_partition_list_t *partitions = rd_kafka_topic_partition_list_new(PARTITIONS);
	FILE *file = fopen(path, "a");

	if (rk == NULL || file == NULL)
		return fail(path, rk == NULL ? error : "cannot be written");
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	for (int32_t i = 0; i < PARTITIONS; i++)
		rd_kafka_topic_partition_list_add(partitions, topic, i)->offset = RD_KAFKA_OFFSET_BEGINNING;
	rd_kafka_poll_set_consumer(rk);
	rd_kafka_assign(rk, partitions);
	puts("consuming");
	fflush(stdout);
	while (!ended) {
		rd_kafka_message_t *message = rd_kafka_consumer_poll(rk, POLL_MS);

		if (message == NULL) {
			fflush(file);
			continue;
		}
		if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
			fwrite(message->payload, 1, message->len, file);
			putc('\n', file);
		}
		rd_kafka_message_destroy(message);
	}
	rd_kafka_topic_partition_list_destroy(partitions);
	rd_kafka_consumer_close(rk);
	rd_kafka_destroy(rk);
	return fclose(file) == 0 ? 0 : fail(path, "cannot be written");
}

static int
run_count(const char *bootstrap, const char *topic)
{
	const char *const pairs[] = {"bootstrap.servers", bootstrap, NULL};
	char error[512];
	rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, configuration(pairs), error, sizeof error);
	int64_t sum = 0, low, high;

	if (rk == NULL)
		return fail("count", error);
	for (int32_t i = 0; i < PARTITIONS; i++) {
		rd_kafka_resp_err_t err = rd_kafka_query_watermark_offsets(rk, topic, i, &low, &high, FLUSH_MS);

		if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
			return fail(topic, rd_kafka_err2str(err));
		sum += high;
	}
	printf("%lld\n", (long long)sum);
	rd_kafka_destroy(rk);
	return 0;
}

int
main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";

	if (strcmp(mode, "cluster") == 0)
		return run_cluster(argc > 2 ? atoi(argv[2]) : 3);
	if (strcmp(mode, "plain") == 0 && argc == 5)
		return run_plain(argv[2], argv[3], strtoull(argv[4], NULL, 10));
	if (strcmp(mode, "consume") == 0 && argc == 5)
		return run_consumer(argv[2], argv[3], argv[4]);
	if (strcmp(mode, "count") == 0 && argc == 4)
		return run_count(argv[2], argv[3]);
	fputs("usage: kafka_bench cluster [BROKERS] | plain BOOTSTRAP TOPIC COUNT | consume BOOTSTRAP TOPIC FILE |\n"
	      "       count BOOTSTRAP TOPIC\n",
		stderr);
	return 64;
}
