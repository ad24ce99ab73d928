/* The Kafka producer against librdkafka's mock cluster, which answers, refuses, hangs up and goes down as told. */
#include "kafka_fixture.h"

static void
is_any(uint32_t index, const rd_kafka_message_t *message)
{
}

/* --- tests ------------------------------------------------------------------------------------------------------ */

static void
is_whole(uint32_t index, const rd_kafka_message_t *message)
{
	rd_kafka_headers_t *headers;
	const char *name;
	const void *value;
	size_t len;

	assert_memory_equal(message->payload, "pay\0load", 8);
	assert_int_equal(message->len, 8);
	assert_int_equal(message->key_len, 3);
	assert_memory_equal(message->key, "key", 3);
	assert_int_equal(rd_kafka_message_headers(message, &headers), 0);
	assert_int_equal(rd_kafka_header_cnt(headers), 2);
	assert_int_equal(rd_kafka_header_get_all(headers, 0, &name, &value, &len), 0);
	assert_string_equal(name, "event_id");
	assert_memory_equal(value, "abc", 3);
}

/* One after the other, so that each may have the list of the one before: of the same shape or not. */
static const struct tr_str shapes[][4] = {
	{{"event_id", 8}, {"one", 3}, {"attempt", 7}, {"1", 1}},
	{{"event_id", 8}, {"two", 3}, {"attempt", 7}, {"2", 1}},
	{{"event_id", 8}, {"3\0", 3}, {"attempt", 7}, {"10", 2}},
	{{"event_id", 8}, {"fou", 3}, {"attempts", 8}, {"11", 2}},
	{{"event", 5}, {"fiv", 3}, {"attempt", 7}, {"12", 2}},
	{{"event", 5}, {"six", 3}, {NULL, 0}, {NULL, 0}},
	{{"event", 5}, {"", 0}, {"attempt", 7}, {"", 0}},
	{{"event", 5}, {"", 0}, {"attempt", 7}, {NULL, 0}},
	{{NULL, 0}, {NULL, 0}, {NULL, 0}, {NULL, 0}},
	{{"event", 5}, {"ten", 3}, {"attempt", 7}, {"13", 2}},
};

static uint32_t
header_count_of(uint32_t shape)
{
	return (shapes[shape][0].data != NULL) + (shapes[shape][2].data != NULL);
}

static void
is_shape(uint32_t index, const rd_kafka_message_t *message)
{
	rd_kafka_headers_t *headers;

	if (header_count_of(index) == 0) {
		assert_int_equal(rd_kafka_message_headers(message, &headers), RD_KAFKA_RESP_ERR__NOENT);
		return;
	}
	assert_int_equal(rd_kafka_message_headers(message, &headers), 0);
	assert_int_equal(rd_kafka_header_cnt(headers), header_count_of(index));
	for (uint32_t i = 0; i < header_count_of(index); i++) {
		const struct tr_str *header = &shapes[index][2 * i];
		const char *name;
		const void *value;
		size_t len;

		assert_int_equal(rd_kafka_header_get_all(headers, i, &name, &value, &len), 0);
		assert_string_equal(name, header[0].data);
		assert_int_equal(len, header[1].len);
		assert_int_equal(value != NULL, header[1].data != NULL);
		if (len > 0)
			assert_memory_equal(value, header[1].data, len);
	}
}

static void
check_headers(struct tr_kafka_producer *producer)
{
	for (uint32_t i = 0; i < TR_COUNT(shapes); i++) {
		struct tr_kafka_record record = {.topic = TR_STR("events"),
			.payload = TR_STR("x"),
			.headers = shapes[i],
			.header_count = header_count_of(i),
			.partition = 3,
			.timeout_ns = TR_NS_PER_S};
		struct tr_kafka_call *call = tr_kafka_call_new(producer, 1);
		struct tr_kafka_result result;
		bool done = false;

		assert_int_equal(tr_kafka_call_add(call, &record), TR_OK);
		call->done = told;
		call->owner = &done;
		tr_kafka_call_start(call);
		wait_true(&done);
		tr_kafka_call_result(call, 0, &result);
		assert_int_equal(result.err, 0);
		tr_kafka_call_free(call);
	}
	consume(3, TR_COUNT(shapes), is_shape);
}

static void
a_record_arrives_whole(void **state)
{
	struct tr_kafka_producer *producer = producer_with(NULL, NULL, NULL, NULL);
	const struct tr_str headers[] = {TR_STR("event_id"), TR_STR("abc"), TR_STR("attempt"), TR_STR("1")};
	struct tr_kafka_record record = {.topic = TR_STR("events"),
		.key = TR_STR("key"),
		.payload = {"pay\0load", 8},
		.headers = headers,
		.header_count = 2,
		.partition = 2,
		.timeout_ns = TR_NS_PER_S};
	struct tr_kafka_call *call = tr_kafka_call_new(producer, 1);
	struct tr_kafka_result result;
	bool done = false;

	assert_int_equal(tr_kafka_call_add(call, &record), TR_OK);
	call->done = told;
	call->owner = &done;
	tr_kafka_call_start(call);
	assert_false(done);
	assert_int_equal(tr_hold_count(), 1);
	wait_true(&done);
	tr_kafka_call_result(call, 0, &result);
	assert_int_equal(result.err, 0);
	assert_int_equal(result.partition, 2);
	assert_int_equal(result.offset, 0);
	tr_kafka_call_free(call);
	consume(2, 1, is_whole);
	check_headers(producer);
	tr_kafka_unref(producer);
}

static void
a_batch_keeps_its_order_through_errors(void **state)
{
	struct tr_kafka_producer *producer = producer_with("batch.num.messages", "50", NULL, NULL);
	struct tr_kafka_call *call;
	bool done;

	/* leaders move, brokers hang up, queues are full on their side: all is sent again, once */
	rd_kafka_mock_push_request_errors(cluster, PRODUCE, 6, RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
		RD_KAFKA_RESP_ERR__TRANSPORT, RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
		RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, RD_KAFKA_RESP_ERR__TRANSPORT,
		RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND);
	call = numbers(producer, 1000, 1, 10 * TR_NS_PER_S, &done);
	tr_kafka_call_start(call);
	wait_true(&done);
	assert_int_equal(failures(call, 0), 1000);
	tr_kafka_call_free(call);
	tr_kafka_unref(producer);
	consume(1, 1000, is_number);
}

static void
one_that_is_too_large_fails_alone(void **state)
{
	struct tr_kafka_producer *producer = producer_with("message.max.bytes", "2000", NULL, NULL);
	struct tr_kafka_call *call = tr_kafka_call_new(producer, 3);
	struct tr_kafka_result result;
	char *large = calloc(1, 5000), name[64];
	bool done = false;

	for (int i = 0; i < 3; i++) {
		struct tr_kafka_record record = {.topic = TR_STR("events"),
			.payload = {large, i == 1 ? 5000 : 10},
			.partition = -1,
			.timeout_ns = TR_NS_PER_S};
		assert_int_equal(tr_kafka_call_add(call, &record), TR_OK);
	}
	free(large);
	call->done = told;
	call->owner = &done;
	tr_kafka_call_start(call);
	wait_true(&done);
	assert_int_equal(failures(call, 0), 2);
	tr_kafka_call_result(call, 1, &result);
	assert_int_equal(result.err, RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE);
	assert_true(tr_kafka_error_is_permanent(result.err));
	tr_kafka_error_name(result.err, name);
	assert_string_equal(name, "MessageSizeTooLarge");
	tr_kafka_call_free(call);
	tr_kafka_unref(producer);
}

/* A broker judges a batch as a whole. `errors`: its answers to the requests that follow, the first is for the batch. */
static void
refuse(const rd_kafka_resp_err_t *errors, size_t count, uint32_t too_large)
{
	struct tr_kafka_producer *producer = producer_with("linger.ms", "100", NULL, NULL);
	struct tr_kafka_call *call;
	struct tr_kafka_result result;
	bool done;

	call = numbers(producer, 1, 2, TR_NS_PER_S, &done); /* so that nothing but the batch is asked for */
	tr_kafka_call_start(call);
	wait_true(&done);
	tr_kafka_call_free(call);
	rd_kafka_mock_push_request_errors_array(cluster, PRODUCE, count, errors);
	call = numbers(producer, 10, 2, TR_NS_PER_S, &done);
	tr_kafka_call_start(call);
	wait_true(&done);
	assert_int_equal(failures(call, 0), too_large < 10 ? 9 : 10);
	if (too_large < 10) {
		tr_kafka_call_result(call, too_large, &result);
		assert_int_equal(result.err, errors[count - 1]);
		assert_true(tr_kafka_error_is_permanent(result.err));
	}
	tr_kafka_call_free(call);
	tr_kafka_unref(producer);
	consume(2, too_large < 10 ? 10 : 11, is_any);
}

static void
a_refused_batch_is_sent_one_by_one(void **state)
{
	static const rd_kafka_resp_err_t errors[] = {RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE};

	refuse(errors, 1, 10);
}

static void
the_record_to_blame_for_a_refused_batch_is_found(void **state)
{
	static const rd_kafka_resp_err_t errors[] = {RD_KAFKA_RESP_ERR_INVALID_RECORD, RD_KAFKA_RESP_ERR_NO_ERROR,
		RD_KAFKA_RESP_ERR_NO_ERROR, RD_KAFKA_RESP_ERR_NO_ERROR, RD_KAFKA_RESP_ERR_INVALID_RECORD};

	refuse(errors, 5, 3);
}

/* The producer for records alone has met a fatal error meanwhile: there is a new one. */
static void
records_are_sent_alone_after_a_fatal_error(void **state)
{
	static const rd_kafka_resp_err_t errors[] = {RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE};
	struct tr_kafka_producer *producer = producer_with("linger.ms", "100", NULL, NULL);
	struct tr_kafka_call *call;
	bool done;

	for (int round = 0; round < 2; round++) {
		rd_kafka_mock_push_request_errors_array(cluster, PRODUCE, 1, errors);
		call = numbers(producer, 5, 2, TR_NS_PER_S, &done);
		tr_kafka_call_start(call);
		wait_true(&done);
		assert_int_equal(failures(call, 0), 5);
		tr_kafka_call_free(call);
		assert_non_null(producer->solo);
		assert_int_equal(producer->solo->calls, 0);
		rd_kafka_test_fatal_error(producer->solo->rk, RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, "test");
	}
	tr_kafka_unref(producer);
}

/* While it is sent alone. */
static void
a_refused_batch_may_be_given_up(void **state)
{
	static const rd_kafka_resp_err_t errors[] = {RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE};
	struct tr_kafka_producer *producer = producer_with("linger.ms", "100", NULL, NULL);
	struct tr_kafka_call *call;
	bool done;

	rd_kafka_mock_push_request_errors_array(cluster, PRODUCE, 1, errors);
	call = numbers(producer, 10, 2, TR_NS_PER_S, &done);
	tr_kafka_call_start(call);
	while (producer->solo == NULL)
		tr_loop_turn(loop);
	assert_false(done);
	tr_kafka_call_cancel(call);
	tr_kafka_unref(producer);
}

static void
brokers_that_are_down_time_out_and_come_back(void **state)
{
	struct tr_kafka_producer *producer = producer_with("message.timeout.ms", "600", NULL, NULL);
	struct tr_kafka_call *call;
	bool done;

	rd_kafka_mock_broker_set_down(cluster, -1);
	call = numbers(producer, 5, -1, TR_NS_PER_S, &done);
	tr_kafka_call_start(call);
	wait_true(&done);
	assert_int_equal(failures(call, RD_KAFKA_RESP_ERR__MSG_TIMED_OUT), 5);
	assert_false(tr_kafka_error_is_permanent(RD_KAFKA_RESP_ERR__MSG_TIMED_OUT));
	tr_kafka_call_free(call);
	rd_kafka_mock_broker_set_up(cluster, -1);
	for (int tries = 0;; tries++) { /* it comes back after a pause of librdkafka's own */
		call = numbers(producer, 5, -1, TR_NS_PER_S, &done);
		tr_kafka_call_start(call);
		wait_true(&done);
		uint32_t delivered = failures(call, 0);
		tr_kafka_call_free(call);
		if (delivered == 5)
			break;
		assert_true(tries < 50);
	}
	tr_kafka_unref(producer);
}

/* A producer may know that no broker is there before its events are listened to: later ones must be heard all the same.
 */
static void
what_happens_at_once_is_heard(void **state)
{
	enum { COUNT = 20 };
	struct tr_kafka_producer *producers[COUNT];
	struct tr_kafka_call *calls[COUNT];
	bool done[COUNT];

	for (int i = 0; i < COUNT; i++) {
		char id[16], error[TR_KAFKA_ERROR_MAX];
		const struct tr_str pairs[] = {TR_STR("bootstrap.servers"), TR_STR("127.0.0.1:1"),
			TR_STR("message.timeout.ms"), TR_STR("300"), TR_STR("client.id"),
			{id, (size_t)snprintf(id, sizeof id, "c%d", i)}};

		assert_int_equal(tr_kafka_open(kafka, pairs, 3, &producers[i], error), TR_OK);
		calls[i] = numbers(producers[i], 1, -1, TR_NS_PER_S, &done[i]);
		tr_kafka_call_start(calls[i]);
	}
	for (int i = 0; i < COUNT; i++) {
		wait_true(&done[i]);
		assert_int_equal(failures(calls[i], RD_KAFKA_RESP_ERR__MSG_TIMED_OUT), 1);
		tr_kafka_call_free(calls[i]);
		tr_kafka_unref(producers[i]);
	}
}

static void
a_full_queue_is_back_pressure(void **state)
{
	struct tr_kafka_producer *producer = producer_with("queue.buffering.max.messages", "10", NULL, NULL);
	struct tr_kafka_call *first, *second;
	bool first_done, second_done;

	first = numbers(producer, 300, 3, 30 * TR_NS_PER_S, &first_done);
	second = numbers(producer, 20, 0, 30 * TR_NS_PER_S, &second_done);
	tr_kafka_call_start(first);
	tr_kafka_call_start(second);
	wait_true(&first_done);
	wait_true(&second_done);
	assert_int_equal(failures(first, 0), 300);
	assert_int_equal(failures(second, 0), 20);
	tr_kafka_call_free(first);
	tr_kafka_call_free(second);
	tr_kafka_unref(producer);
	consume(3, 300, is_number);
}

static void
who_waits_too_long_for_room_is_told(void **state)
{
	struct tr_kafka_producer *producer =
		producer_with("queue.buffering.max.messages", "10", "message.timeout.ms", "1500");
	struct tr_kafka_call *call;
	bool done;

	rd_kafka_mock_broker_set_down(cluster, -1);
	call = numbers(producer, 25, -1, 100 * TR_NS_PER_MS, &done);
	tr_kafka_call_start(call);
	wait_true(&done);
	assert_int_equal(failures(call, RD_KAFKA_RESP_ERR__QUEUE_FULL), 15);
	assert_int_equal(failures(call, RD_KAFKA_RESP_ERR__MSG_TIMED_OUT), 10);
	tr_kafka_call_free(call);
	tr_kafka_unref(producer);
}

static void
calls_may_be_given_up(void **state)
{
	struct tr_kafka_producer *producer = producer_with("queue.buffering.max.messages", "10", NULL, NULL);
	struct tr_kafka_call *cancelled, *waiting, *abandoned;
	bool done;

	rd_kafka_mock_broker_set_down(cluster, -1);
	cancelled = numbers(producer, 5, -1, TR_NS_PER_S, &done);
	tr_kafka_call_start(cancelled);
	waiting = numbers(producer, 50, -1, TR_NS_PER_S, &done);
	tr_kafka_call_start(waiting);
	abandoned = numbers(producer, 3, -1, TR_NS_PER_S, &done);
	tr_kafka_call_free(abandoned); /* never started */
	tr_kafka_call_cancel(waiting);
	tr_kafka_call_cancel(cancelled);
	assert_int_equal(tr_hold_count(), 0);
	rd_kafka_mock_broker_set_up(cluster, -1);
	tr_kafka_call_start(abandoned = numbers(producer, 1, -1, 10 * TR_NS_PER_S, &done));
	wait_true(&done); /* it comes after what was given up, whose reports find nobody */
	assert_int_equal(failures(abandoned, 0), 1);
	tr_kafka_call_free(abandoned);
	abandoned = numbers(producer, 5, -1, TR_NS_PER_S, &done);
	tr_kafka_call_start(abandoned); /* under way at the end */
	tr_kafka_unref(producer);
	tr_kafka_free(kafka);
	assert_false(done);
	tr_kafka_call_cancel(abandoned);
	assert_int_equal(tr_kafka_new(loop, &kafka), TR_OK);
}

static void
a_configuration_has_one_producer(void **state)
{
	struct tr_kafka_producer *one = producer_with("acks", "1", "retries", "2"), *same, *other;

	same = producer_with("retries", "2", "acks", "1");
	other = producer_with("retries", "3", "acks", "1");
	assert_ptr_equal(one, same);
	assert_ptr_not_equal(one, other);
	tr_kafka_unref(one);
	tr_kafka_unref(same);
	same = producer_with("retries", "2", "acks", "1"); /* it was kept */
	assert_ptr_equal(one, same);
	tr_kafka_unref(same);
	tr_kafka_unref(other);
}

/* Each has threads: a name made from a message must not cost some for a minute. */
static void
unused_producers_are_few(void **state)
{
	uint32_t count = 0;
	char name[24];

	for (int i = 0; i < 40; i++) {
		snprintf(name, sizeof name, "client%d", i);
		tr_kafka_unref(producer_with("client.id", name, NULL, NULL));
	}
	for (struct tr_kafka_producer *each = kafka->producers; each != NULL; each = each->next)
		count++;
	assert_int_equal(count, 8);
	tr_kafka_unref(producer_with("client.id", "client39", NULL, NULL)); /* the last is there still */
	count = 0;
	for (struct tr_kafka_producer *each = kafka->producers; each != NULL; each = each->next)
		count++;
	assert_int_equal(count, 8);
}

static void
what_librdkafka_refuses_is_named(void **state)
{
	static const struct {
		const char *name, *value, *expected;
	} cases[] = {
		{"bootstrap.server", "x", "bootstrap.server"},
		{"linger.ms", "soon", "linger.ms"},
		{"compression.type", "best", "compression.type"},
	};
	struct tr_kafka_producer *producer;
	char error[TR_KAFKA_ERROR_MAX];

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		const struct tr_str pairs[] = {tr_str(cases[i].name), tr_str(cases[i].value)};

		assert_int_equal(tr_kafka_open(kafka, pairs, 1, &producer, error), TR_EINVAL);
		assert_null(producer);
		assert_non_null(strstr(error, cases[i].expected));
	}
	const struct tr_str conflict[] = {TR_STR("enable.idempotence"), TR_STR("true"), TR_STR("acks"), TR_STR("1")};
	assert_int_equal(tr_kafka_open(kafka, conflict, 2, &producer, error), TR_EINVAL);
	assert_non_null(strstr(error, "acks"));
}

static void
after_a_fatal_error_there_is_a_new_one(void **state)
{
	struct tr_kafka_producer *producer = producer_with(NULL, NULL, NULL, NULL), *fresh;
	struct tr_kafka_call *call;
	bool done;

	rd_kafka_test_fatal_error(producer->rk, RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, "for the test");
	assert_true(tr_kafka_is_fatal(producer));
	call = numbers(producer, 2, -1, TR_NS_PER_S, &done);
	tr_kafka_call_start(call);
	wait_true(&done);
	assert_int_equal(failures(call, RD_KAFKA_RESP_ERR__FATAL), 2);
	tr_kafka_call_free(call);
	fresh = producer_with(NULL, NULL, NULL, NULL);
	assert_ptr_not_equal(fresh, producer);
	tr_kafka_unref(producer);
	call = numbers(fresh, 2, -1, 10 * TR_NS_PER_S, &done);
	tr_kafka_call_start(call);
	wait_true(&done);
	assert_int_equal(failures(call, 0), 2);
	tr_kafka_call_free(call);
	tr_kafka_unref(fresh);
}

static void
names_of_errors(void **state)
{
	static const struct {
		int err;
		const char *name;
	} cases[] = {
		{RD_KAFKA_RESP_ERR__MSG_TIMED_OUT, "MessageTimedOut"},
		{RD_KAFKA_RESP_ERR__QUEUE_FULL, "QueueFull"},
		{RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, "UnknownTopicOrPartition"},
		{RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION, "UnknownPartition"},
		{RD_KAFKA_RESP_ERR__TRANSPORT, "BrokerTransportFailure"},
		{RD_KAFKA_RESP_ERR__PURGE_QUEUE, "PurgeQueue"},
	};
	char name[64];

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		tr_kafka_error_name(cases[i].err, name);
		assert_string_equal(name, cases[i].name);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_record_arrives_whole, setup, teardown),
		cmocka_unit_test_setup_teardown(a_batch_keeps_its_order_through_errors, setup, teardown),
		cmocka_unit_test_setup_teardown(one_that_is_too_large_fails_alone, setup, teardown),
		cmocka_unit_test_setup_teardown(a_refused_batch_is_sent_one_by_one, setup, teardown),
		cmocka_unit_test_setup_teardown(the_record_to_blame_for_a_refused_batch_is_found, setup, teardown),
		cmocka_unit_test_setup_teardown(records_are_sent_alone_after_a_fatal_error, setup, teardown),
		cmocka_unit_test_setup_teardown(a_refused_batch_may_be_given_up, setup, teardown),
		cmocka_unit_test_setup_teardown(brokers_that_are_down_time_out_and_come_back, setup, teardown),
		cmocka_unit_test_setup_teardown(what_happens_at_once_is_heard, setup, teardown),
		cmocka_unit_test_setup_teardown(a_full_queue_is_back_pressure, setup, teardown),
		cmocka_unit_test_setup_teardown(who_waits_too_long_for_room_is_told, setup, teardown),
		cmocka_unit_test_setup_teardown(calls_may_be_given_up, setup, teardown),
		cmocka_unit_test_setup_teardown(a_configuration_has_one_producer, setup, teardown),
		cmocka_unit_test_setup_teardown(unused_producers_are_few, setup, teardown),
		cmocka_unit_test_setup_teardown(what_librdkafka_refuses_is_named, setup, teardown),
		cmocka_unit_test_setup_teardown(after_a_fatal_error_there_is_a_new_one, setup, teardown),
		cmocka_unit_test(names_of_errors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
