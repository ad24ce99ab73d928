/* librdkafka's mock cluster (topic "events", 4 partitions on 3 brokers), a loop and producers of the cluster, for the
 * tests of the Kafka producer. */
#ifndef KAFKA_FIXTURE_H
#define KAFKA_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* clang-format off: the second needs the first */
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
/* clang-format on */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/diag.h"
#include "transport/kafka_internal.h"

#define PRODUCE 0 /* the request's number in Kafka's protocol */
#define LIMIT_NS (60 * TR_NS_PER_S)

static struct tr_loop *loop;
static struct tr_kafka *kafka;
static rd_kafka_t *host; /* of the cluster */
static rd_kafka_mock_cluster_t *cluster;

static inline void
quiet(void *arg, enum tr_level level, const char *target, const char *text)
{
}

static inline int
setup(void **state)
{
	char error[512];

	tr_log_sink(quiet, NULL);
	assert_int_equal(tr_loop_new(&loop), TR_OK);
	tr_loop_enter(loop);
	assert_int_equal(tr_kafka_new(loop, &kafka), TR_OK);
	host = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), error, sizeof error);
	assert_non_null(host);
	cluster = rd_kafka_mock_cluster_new(host, 3);
	assert_non_null(cluster);
	assert_int_equal(rd_kafka_mock_topic_create(cluster, "events", 4, 3), 0);
	return 0;
}

static inline int
teardown(void **state)
{
	tr_kafka_free(kafka);
	rd_kafka_mock_cluster_destroy(cluster);
	rd_kafka_destroy(host);
	assert_int_equal(tr_hold_count(), 0);
	tr_loop_free(loop);
	tr_log_sink(NULL, NULL);
	return 0;
}

/* --- helpers ------------------------------------------------------------------------------------------------ */

/* A producer of this cluster with up to two more properties. */
static inline struct tr_kafka_producer *
producer_with(const char *name1, const char *value1, const char *name2, const char *value2)
{
	const struct tr_str pairs[] = {TR_STR("bootstrap.servers"), tr_str(rd_kafka_mock_cluster_bootstraps(cluster)),
		TR_STR("linger.ms"), TR_STR("1"), tr_str(name1), tr_str(value1), tr_str(name2), tr_str(value2)};
	uint32_t count = name2 != NULL ? 4 : name1 != NULL ? 3 : 2;
	struct tr_kafka_producer *producer;
	char error[TR_KAFKA_ERROR_MAX];

	if (tr_kafka_open(kafka, pairs, count, &producer, error) != TR_OK)
		fail_msg("%s", error);
	return producer;
}

static inline void
told(struct tr_kafka_call *call)
{
	*(bool *)call->owner = true;
}

static inline bool
is_true(void *arg)
{
	return *(bool *)arg;
}

static inline void
wait_true(bool *flag)
{
	assert_true(tr_loop_run_until(loop, is_true, flag, LIMIT_NS));
}

/* A call of `count` records "0", "1" ... for a partition; its owner is *flag. */
static inline struct tr_kafka_call *
numbers(struct tr_kafka_producer *producer, uint32_t count, int32_t partition, int64_t timeout_ns, bool *flag)
{
	struct tr_kafka_call *call = tr_kafka_call_new(producer, count);

	for (uint32_t i = 0; i < count; i++) {
		char text[16];
		struct tr_kafka_record record = {
			.topic = TR_STR("events"), .partition = partition, .timeout_ns = timeout_ns};

		record.payload = (struct tr_str){text, (size_t)snprintf(text, sizeof text, "%u", i)};
		assert_int_equal(tr_kafka_call_add(call, &record), TR_OK);
	}
	*flag = false;
	call->owner = flag;
	call->done = told;
	return call;
}

static inline uint32_t
failures(struct tr_kafka_call *call, int err)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < call->count; i++) {
		struct tr_kafka_result result;

		tr_kafka_call_result(call, i, &result);
		count += result.err == err;
	}
	return count;
}

/* Reads a partition from its start; `seen` is asked for each message until it has had `count`. */
static inline void
consume(int32_t partition, uint32_t count, void (*seen)(uint32_t index, const rd_kafka_message_t *message))
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	char error[512];
	rd_kafka_t *consumer;

	rd_kafka_conf_set(conf, "bootstrap.servers", rd_kafka_mock_cluster_bootstraps(cluster), error, sizeof error);
	rd_kafka_conf_set(conf, "group.id", "test", error, sizeof error);
	consumer = rd_kafka_new(RD_KAFKA_CONSUMER, conf, error, sizeof error);
	assert_non_null(consumer);
	rd_kafka_topic_partition_list_add(list, "events", partition)->offset = RD_KAFKA_OFFSET_BEGINNING;
	assert_int_equal(rd_kafka_assign(consumer, list), 0);
	for (uint32_t i = 0; i < count;) {
		rd_kafka_message_t *message = rd_kafka_consumer_poll(consumer, 30000);

		assert_non_null(message);
		if (message->err == 0)
			seen(i++, message);
		rd_kafka_message_destroy(message);
	}
	rd_kafka_topic_partition_list_destroy(list);
	rd_kafka_consumer_close(consumer);
	rd_kafka_destroy(consumer);
}

static inline void
is_number(uint32_t index, const rd_kafka_message_t *message)
{
	char text[16];
	int len = snprintf(text, sizeof text, "%u", index);

	assert_int_equal(message->len, len);
	assert_memory_equal(message->payload, text, (size_t)len);
}

#endif
