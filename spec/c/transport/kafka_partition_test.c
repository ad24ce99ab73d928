/* A partition without a leader and a topic that is deleted, under load: each record ends by its own outcome, none of
 * another partition fails with it, and what is sent again is there once. */
#include "kafka_fixture.h"

#define PARTITIONS 4
#define MANY 2000

static bool is_there[MANY]; /* told as delivered */

/* Starts a call of the records `from` to `to` that are not told as delivered yet, number i to partition i % 4. */
static struct tr_kafka_call *
start(struct tr_kafka_producer *producer, uint32_t from, uint32_t to, bool *flag)
{
	struct tr_kafka_call *call;
	uint32_t count = 0;

	for (uint32_t i = from; i < to; i++)
		count += !is_there[i];
	call = tr_kafka_call_new(producer, count);
	for (uint32_t i = from; i < to; i++) {
		char text[16];
		struct tr_kafka_record record = {.topic = TR_STR("events"), .timeout_ns = LIMIT_NS};

		if (is_there[i])
			continue;
		record.partition = (int32_t)i % PARTITIONS;
		record.payload = (struct tr_str){text, (size_t)snprintf(text, sizeof text, "%u", i / PARTITIONS)};
		assert_int_equal(tr_kafka_call_add(call, &record), TR_OK);
	}
	*flag = false;
	call->owner = flag;
	call->done = told;
	tr_kafka_call_start(call);
	return call;
}

/* Ends it. Returns how many failed. `lost` -1: any partition may have failed, else only that one. */
static uint32_t
finish(struct tr_kafka_call *call, uint32_t from, uint32_t to, bool *flag, int lost)
{
	uint32_t failed = 0, at = 0;

	wait_true(flag);
	for (uint32_t i = from; i < to; i++) {
		struct tr_kafka_result result;
		char name[64];

		if (is_there[i])
			continue;
		tr_kafka_call_result(call, at++, &result);
		is_there[i] = result.err == 0;
		failed += result.err != 0;
		if (result.err == 0) {
			assert_int_equal(result.partition, i % PARTITIONS);
			continue;
		}
		tr_kafka_error_name(result.err, name);
		if (tr_kafka_error_is_permanent(result.err) || (lost >= 0 && (int)i % PARTITIONS != lost))
			fail_msg("record %u of partition %u: %s", i, i % PARTITIONS, name);
	}
	assert_int_equal(at, call->count);
	tr_kafka_call_free(call);
	return failed;
}

static uint8_t seen[MANY];
static int32_t reading;

static void
see(uint32_t index, const rd_kafka_message_t *message)
{
	unsigned long number = strtoul((const char *)message->payload, NULL, 10) * PARTITIONS + (unsigned long)reading;

	assert_true(number < MANY);
	seen[number]++;
}

/* Each is in its partition, once. */
static void
expect_all(uint32_t count)
{
	char error[512];
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *reader;

	rd_kafka_conf_set(conf, "bootstrap.servers", rd_kafka_mock_cluster_bootstraps(cluster), error, sizeof error);
	reader = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof error);
	assert_non_null(reader);
	memset(seen, 0, sizeof seen);
	for (int32_t partition = 0; partition < PARTITIONS; partition++) {
		int64_t low, high;

		reading = partition;
		consume(partition, count / PARTITIONS, see);
		assert_int_equal(rd_kafka_query_watermark_offsets(reader, "events", partition, &low, &high, 30000), 0);
		assert_int_equal(high - low, count / PARTITIONS);
	}
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(seen[i], 1);
	rd_kafka_destroy(reader);
}

static void
a_partition_without_a_leader_fails_alone(void **state)
{
	struct tr_kafka_producer *producer = producer_with("message.timeout.ms", "2000", NULL, NULL);
	struct tr_kafka_call *call;
	bool done;

	memset(is_there, 0, sizeof is_there);
	call = start(producer, 0, 400, &done);
	assert_int_equal(finish(call, 0, 400, &done, 1), 0);
	rd_kafka_mock_partition_set_leader(cluster, "events", 1, -1);
	call = start(producer, 400, 800, &done);
	assert_int_equal(finish(call, 400, 800, &done, 1), 100);     /* and no other */
	rd_kafka_mock_partition_set_leader(cluster, "events", 1, 2); /* another one than before */
	for (int tries = 0; tries < 20; tries++) { /* librdkafka asks for the leader in pauses of its own */
		call = start(producer, 400, 800, &done);
		if (finish(call, 400, 800, &done, 1) == 0)
			break;
	}
	tr_kafka_unref(producer);
	expect_all(800);
}

static bool
never(void *arg)
{
	return false;
}

/* Brokers answer that they do not know it, to those that ask and to those that send. */
static void
a_topic_may_be_deleted_under_load(void **state)
{
	enum { CALLS = 20, EACH = MANY / CALLS };
	struct tr_kafka_producer *producer =
		producer_with("topic.metadata.propagation.max.ms", "100", "message.timeout.ms", "2000");
	struct tr_kafka_call *calls[CALLS];
	rd_kafka_resp_err_t errors[2 * CALLS];
	bool done[CALLS];
	uint32_t failed = 0;

	memset(is_there, 0, sizeof is_there);
	for (size_t i = 0; i < TR_COUNT(errors); i++)
		errors[i] = RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
	for (uint32_t i = 0; i < CALLS; i++) {
		if (i == CALLS / 2) { /* with the first ones told, others under way, and the rest to come */
			wait_true(&done[0]);
			rd_kafka_mock_topic_set_error(cluster, "events", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
			rd_kafka_mock_push_request_errors_array(cluster, PRODUCE, TR_COUNT(errors), errors);
		}
		calls[i] = start(producer, i * EACH, (i + 1) * EACH, &done[i]);
	}
	for (uint32_t i = 0; i < CALLS; i++)
		failed += finish(calls[i], i * EACH, (i + 1) * EACH, &done[i], -1);
	assert_true(failed >= EACH);
	rd_kafka_mock_clear_request_errors(cluster, PRODUCE);
	rd_kafka_mock_topic_set_error(cluster, "events", RD_KAFKA_RESP_ERR_NO_ERROR); /* created again */
	for (int64_t until_ns = tr_mono_ns() + LIMIT_NS; failed > 0 && tr_mono_ns() < until_ns;) {
		tr_loop_run_until(loop, never, NULL, 50 * TR_NS_PER_MS); /* as a queue waits before it tries again */
		calls[0] = start(producer, 0, MANY, &done[0]);
		failed = finish(calls[0], 0, MANY, &done[0], -1);
	}
	assert_int_equal(failed, 0);
	tr_kafka_unref(producer);
	expect_all(MANY);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_partition_without_a_leader_fails_alone, setup, teardown),
		cmocka_unit_test_setup_teardown(a_topic_may_be_deleted_under_load, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
