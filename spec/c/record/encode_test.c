/* The JSON of a record, byte for byte, and what is captured into it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/json.h"
#include "record/internal.h"

#define EVENT_ID "00112233445566778899aabbccddeeff"
#define NODE "0b9c1c52-8e4b-4f55-9d0e-5a3d8c1f2e77"

static struct tr_message *
message(const char *hex_id, const char *created, const char *sender, const char *const *rcpts, size_t size)
{
	struct tr_message *m = tr_message_new();
	char *body = calloc(1, size + 1);

	assert_non_null(m);
	memset(body, 'x', size);
	assert_int_equal(tr_uuid_from_hex(tr_str(hex_id), m->id), TR_OK);
	assert_int_equal(tr_rfc3339_parse(created, strlen(created), &m->created_ns), TR_OK);
	assert_int_equal(tr_message_set_sender(m, tr_str(sender)), TR_OK);
	for (size_t i = 0; rcpts[i] != NULL; i++)
		assert_int_equal(tr_message_add_rcpt(m, tr_str(rcpts[i])), TR_OK);
	if (size > 0)
		assert_int_equal(tr_message_set_data(m, (struct tr_str){body, size}), TR_OK);
	free(body);
	return m;
}

static int64_t
at(const char *text)
{
	int64_t ns;

	assert_int_equal(tr_rfc3339_parse(text, strlen(text), &ns), TR_OK);
	return ns;
}

static void
check_json(const struct tr_event *event, const struct tr_capture *capture, const char *expected)
{
	struct tr_buf out = {0};
	size_t error_at;

	tr_record_encode(event, NODE, EVENT_ID, capture, &out);
	assert_int_equal(tr_json_check((struct tr_str){out.data, out.len}, &error_at), TR_OK);
	tr_buf_addc(&out, '\0');
	assert_false(out.failed);
	assert_string_equal(out.data, expected);
	tr_buf_free(&out);
}

/* The four examples of the compatibility contract's section 6, with the event_id. */

static void
delivery_by_a_hook(void **state)
{
	const char *rcpts[] = {"ann@dest.test", NULL};
	struct tr_message *m = message(
		"5c0f3a4e6f1b11f0a1b20242ac120002", "2026-07-25T17:20:11.900123400Z", "news@shop.test", rcpts, 911);
	struct tr_event event = {
		.type = TR_EV_DELIVERY,
		.when_ns = at("2026-07-25T17:20:12.250314159Z"),
		.message = m,
		.queue = TR_STR("webhook.log_hook"),
		.site = TR_STR("unspecified->webhook.log_hook@lua:make.webhook.log_hook"),
		.response = {.code = 200, .content = TR_STR("200 OK: stored")},
		.has_peer = true,
		.peer_name = TR_STR("Lua via make.webhook.log_hook"),
		.peer_addr = TR_STR("0.0.0.0"),
		.egress_pool = TR_STR("unspecified"),
		.egress_source = TR_STR("unspecified"),
		.delivery_protocol = TR_STR("Lua"),
		.session_id = TR_STR("f3b5d2c4-1c7e-4b0a-9a64-6d1c2b7e9f10"),
		.num_attempts = -1,
	};

	tr_meta_set_string(&m->meta, TR_STR("reception_protocol"), TR_STR("LogRecord"));
	check_json(&event, NULL,
		"{\"type\":\"Delivery\",\"id\":\"5c0f3a4e6f1b11f0a1b20242ac120002\",\"event_id\":\"" EVENT_ID
		"\",\"sender\":\"news@shop.test\",\"recipient\":\"ann@dest.test\",\"queue\":\"webhook.log_hook\","
		"\"site\":"
		"\"unspecified->webhook.log_hook@lua:make.webhook.log_hook\",\"size\":911,\"response\":{\"code\":200,"
		"\"enhanced_code\":null,\"content\":\"200 OK: "
		"stored\",\"command\":null},\"peer_address\":{\"name\":\"Lua via "
		"make.webhook.log_hook\",\"addr\":\"0.0.0.0\"},\"timestamp\":1785000012,\"event_time\":\"2026-07-25T17:"
		"20:12."
		"250314159Z\",\"created\":1785000011,\"created_time\":\"2026-07-25T17:20:11.900123400Z\",\"num_"
		"attempts\":0,"
		"\"bounce_classification\":\"Uncategorized\",\"egress_pool\":\"unspecified\",\"egress_source\":"
		"\"unspecified\","
		"\"source_address\":null,\"feedback_report\":null,\"meta\":{},\"headers\":{},\"delivery_protocol\":"
		"\"Lua\","
		"\"reception_protocol\":\"LogRecord\",\"nodeid\":\"" NODE
		"\",\"session_id\":\"f3b5d2c4-1c7e-4b0a-9a64-6d1c2b7e9f10\"}");
	tr_message_free(m);
}

static void
reception_with_captured_fields(void **state)
{
	const char *rcpts[] = {"ann@dest.test", NULL};
	const char *const meta[] = {"tenant", NULL}, *const headers[] = {"subject", "x-t*", NULL};
	struct tr_capture capture = {meta, headers};
	struct tr_message *m =
		message("5bf2c1d06f1b11f0a1b20242ac120002", "2026-07-25T17:20:10.080Z", "news@shop.test", rcpts, 0);
	struct tr_event event = {
		.type = TR_EV_RECEPTION,
		.when_ns = at("2026-07-25T17:20:10.100250Z"),
		.message = m,
		.response = {.code = 250},
		.has_peer = true,
		.peer_addr = TR_STR("10.1.2.3"),
		.num_attempts = -1,
	};

	m->queue = strdup("spring:shop@dest.test");
	tr_meta_set_string(&m->meta, TR_STR("reception_protocol"), TR_STR("HTTP"));
	tr_meta_set_string(&m->meta, TR_STR("tenant"), TR_STR("shop"));
	tr_message_set_data(m, TR_STR("Subject: Hello\r\nX-Tag: a\r\nx-TAG: b\r\n\r\nX-Tag: body\r\n"));
	check_json(&event, &capture,
		"{\"type\":\"Reception\",\"id\":\"5bf2c1d06f1b11f0a1b20242ac120002\",\"event_id\":\"" EVENT_ID
		"\",\"sender\":\"news@shop.test\",\"recipient\":\"ann@dest.test\",\"queue\":\"spring:shop@dest.test\","
		"\"site\":\"\","
		"\"size\":51,\"response\":{\"code\":250,\"enhanced_code\":null,\"content\":\"\",\"command\":null},"
		"\"peer_address\":{"
		"\"name\":\"\",\"addr\":\"10.1.2.3\"},\"timestamp\":1785000010,\"event_time\":\"2026-07-25T17:20:10."
		"100250Z\","
		"\"created\":1785000010,\"created_time\":\"2026-07-25T17:20:10.080Z\",\"num_attempts\":0,\"bounce_"
		"classification\":"
		"\"Uncategorized\",\"egress_pool\":null,\"egress_source\":null,\"source_address\":null,\"feedback_"
		"report\":null,"
		"\"meta\":{\"tenant\":\"shop\"},\"headers\":{\"Subject\":\"Hello\",\"X-Tag\":[\"a\",\"b\"]},\"delivery_"
		"protocol\":"
		"null,\"reception_protocol\":\"HTTP\",\"nodeid\":\"" NODE "\"}");
	tr_message_free(m);
}

static void
transient_failure_of_two_recipients(void **state)
{
	const char *rcpts[] = {"a@x.test", "b@x.test", NULL};
	struct tr_message *m = message("5c10aa026f1b11f0a1b20242ac120002", "2026-07-25T17:20:19.500Z", "", rcpts, 1203);
	struct tr_event event = {
		.type = TR_EV_TRANSIENT_FAILURE,
		.when_ns = at("2026-07-25T17:20:20Z"),
		.message = m,
		.site = TR_STR("unspecified->webhook.log_hook@lua:make.webhook.log_hook"),
		.response = {.code = 450, .content = TR_STR("503 Service Unavailable:\r\nbusy")},
		.has_peer = true,
		.peer_name = TR_STR("Lua via make.webhook.log_hook"),
		.peer_addr = TR_STR("0.0.0.0"),
		.egress_pool = TR_STR("unspecified"),
		.egress_source = TR_STR("unspecified"),
		.delivery_protocol = TR_STR("Lua"),
		.provider = TR_STR("hooks"),
		.session_id = TR_STR("77d0c3aa-52a1-4e39-8b68-04f1f7d4a9d2"),
		.num_attempts = -1,
	};

	m->attempts = 1;
	tr_meta_set_string(&m->meta, TR_STR("queue"), TR_STR("webhook.log_hook")); /* computed: m->queue is not set */
	tr_meta_set_string(&m->meta, TR_STR("reception_protocol"), TR_STR("LogRecord"));
	check_json(&event, NULL,
		"{\"type\":\"TransientFailure\",\"id\":\"5c10aa026f1b11f0a1b20242ac120002\",\"event_id\":\"" EVENT_ID
		"\",\"sender\":\"\",\"recipient\":[\"a@x.test\",\"b@x.test\"],\"queue\":\"webhook.log_hook\",\"site\":"
		"\"unspecified->"
		"webhook.log_hook@lua:make.webhook.log_hook\",\"size\":1203,\"response\":{\"code\":450,\"enhanced_"
		"code\":null,"
		"\"content\":\"503 Service Unavailable: busy\",\"command\":null},\"peer_address\":{\"name\":\"Lua via "
		"make.webhook.log_hook\",\"addr\":\"0.0.0.0\"},\"timestamp\":1785000020,\"event_time\":\"2026-07-25T17:"
		"20:20Z\","
		"\"created\":1785000019,\"created_time\":\"2026-07-25T17:20:19.500Z\",\"num_attempts\":1,\"bounce_"
		"classification\":"
		"\"Uncategorized\",\"egress_pool\":\"unspecified\",\"egress_source\":\"unspecified\",\"source_"
		"address\":null,"
		"\"feedback_report\":null,\"meta\":{},\"headers\":{},\"delivery_protocol\":\"Lua\",\"reception_"
		"protocol\":"
		"\"LogRecord\",\"nodeid\":\"" NODE
		"\",\"provider_name\":\"hooks\",\"session_id\":\"77d0c3aa-52a1-4e39-8b68-04f1f7d4a9d2\"}");
	tr_message_free(m);
}

static void
rejection_without_a_message(void **state)
{
	struct tr_addr sender;
	struct tr_meta meta = {0};
	const char *const all[] = {"*", NULL};
	struct tr_capture capture = {all, all};
	struct tr_event event = {
		.type = TR_EV_REJECTION,
		.when_ns = at("2026-07-25T17:20:30.018273645Z"),
		.sender = &sender,
		.response = {550, {5, 7, 1}, TR_STR("relaying not permitted"), TR_STR("RCPT TO:<u@else.test>")},
		.has_peer = true,
		.peer_name = TR_STR("bad.test"),
		.peer_addr = TR_STR("192.0.2.9"),
		.session_id = TR_STR("3f0d8a1c-9f0e-4d0b-bb0c-6a3a5e7f1c21"),
		.meta = &meta,
		.num_attempts = -1,
	};

	assert_int_equal(tr_addr_parse(TR_STR("spam@bad.test"), &sender), TR_OK);
	check_json(&event, &capture,
		"{\"type\":\"Rejection\",\"id\":\"\",\"event_id\":\"" EVENT_ID
		"\",\"sender\":\"spam@bad.test\",\"recipient\":\"\",\"queue\":\"\",\"site\":\"\",\"size\":0,"
		"\"response\":{\"code\":550,"
		"\"enhanced_code\":{\"class\":5,\"subject\":7,\"detail\":1},\"content\":\"relaying not "
		"permitted\",\"command\":\"RCPT "
		"TO:<u@else.test>\"},\"peer_address\":{\"name\":\"bad.test\",\"addr\":\"192.0.2.9\"},\"timestamp\":"
		"1785000030,"
		"\"event_time\":\"2026-07-25T17:20:30.018273645Z\",\"created\":1785000030,\"created_time\":\"2026-07-"
		"25T17:20:30."
		"018273645Z\",\"num_attempts\":0,\"bounce_classification\":\"Uncategorized\",\"egress_pool\":null,"
		"\"egress_source\":"
		"null,\"source_address\":null,\"feedback_report\":null,\"meta\":{},\"headers\":{},\"delivery_"
		"protocol\":null,"
		"\"reception_protocol\":null,\"nodeid\":\"" NODE
		"\",\"session_id\":\"3f0d8a1c-9f0e-4d0b-bb0c-6a3a5e7f1c21\"}");
	tr_addr_fini(&sender);
}

/* --- parts ---------------------------------------------------------------------------------------------------- */

/* The member of a record as text; the caller frees it. */
static char *
member(const struct tr_event *event, const struct tr_capture *capture, const char *name)
{
	struct tr_buf out = {0};
	struct tr_str value;
	char *copy;
	size_t error_at;

	tr_record_encode(event, NODE, EVENT_ID, capture, &out);
	assert_int_equal(tr_json_check((struct tr_str){out.data, out.len}, &error_at), TR_OK);
	value = tr_json_get((struct tr_str){out.data, out.len}, name);
	copy = value.data != NULL ? strndup(value.data, value.len) : NULL;
	tr_buf_free(&out);
	return copy;
}

static void
check_member(const struct tr_event *event, const struct tr_capture *capture, const char *name, const char *expected)
{
	char *value = member(event, capture, name);

	if (expected == NULL)
		assert_null(value);
	else
		assert_string_equal(value, expected);
	free(value);
}

static void
optional_fields(void **state)
{
	const char *rcpts[] = {NULL};
	struct tr_message *m =
		message("5c10aa026f1b11f0a1b20242ac120002", "2026-07-25T17:20:19Z", "a@b.test", rcpts, 0);
	struct tr_addr one;
	const struct tr_addr *only[] = {&one};
	struct tr_event event = {.type = TR_EV_DELIVERY, .message = m, .num_attempts = 7};

	check_member(&event, NULL, "recipient", "[]");
	check_member(&event, NULL, "size", "0");
	check_member(&event, NULL, "num_attempts", "7");
	check_member(&event, NULL, "peer_address", "null");
	check_member(&event, NULL, "tls_cipher", NULL);
	check_member(&event, NULL, "tls_protocol_version", NULL);
	check_member(&event, NULL, "provider_name", NULL);
	check_member(&event, NULL, "session_id", NULL);
	event.tls_cipher = TR_STR("TLS_AES_256_GCM_SHA384");
	event.tls_protocol = TR_STR("TLSv1.3");
	event.source_address = TR_STR("192.0.2.1:4711");
	check_member(&event, NULL, "tls_cipher", "\"TLS_AES_256_GCM_SHA384\"");
	check_member(&event, NULL, "tls_protocol_version", "\"TLSv1.3\"");
	check_member(&event, NULL, "source_address", "{\"address\":\"192.0.2.1:4711\"}");
	assert_int_equal(tr_addr_parse(TR_STR("only@one.test"), &one), TR_OK);
	event.rcpts = only; /* of a transaction with several recipients, those that the event is about */
	event.rcpt_count = 1;
	check_member(&event, NULL, "recipient", "\"only@one.test\"");
	tr_addr_fini(&one);
	tr_message_free(m);
}

static void
strings_are_escaped_and_lines_joined(void **state)
{
	const struct {
		const char *content, *json;
	} cases[] = {
		{"a\r\nb\rc\nd", "\"a b c d\""},
		{"\r\r\n\n", "\"   \""},
		{"quote \" and \\ here", "\"quote \\\" and \\\\ here\""},
		{"12345678", "\"12345678\""},
		{"1234567\"", "\"1234567\\\"\""},
		{"123456789\\", "\"123456789\\\\\""},
		{"tab\tand \x01", "\"tab\\tand \\u0001\""},
		{"gr\xc3\xbcn", "\"gr\xc3\xbcn\""},
		{"bad \xff byte", "\"bad \xef\xbf\xbd byte\""},
		{"del \x7f", "\"del \x7f\""},
		{"", "\"\""},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_event event = {
			.type = TR_EV_REJECTION, .response = {.code = 550, .content = tr_str(cases[i].content)}};
		char *response = member(&event, NULL, "response"), *start, *end;

		start = strstr(response, "\"content\":") + 10;
		end = strstr(response, ",\"command\"");
		*end = '\0';
		assert_string_equal(start, cases[i].json);
		free(response);
	}
}

static void
times_have_the_fewest_digits(void **state)
{
	const struct {
		int64_t ns;
		const char *text;
	} cases[] = {
		{INT64_C(1785000012250314159), "\"2026-07-25T17:20:12.250314159Z\""},
		{INT64_C(1785000012250314000), "\"2026-07-25T17:20:12.250314Z\""},
		{INT64_C(1785000012250000000), "\"2026-07-25T17:20:12.250Z\""},
		{INT64_C(1785000012000000000), "\"2026-07-25T17:20:12Z\""},
		{INT64_C(1785000012000000001), "\"2026-07-25T17:20:12.000000001Z\""},
		{INT64_C(1785000013000000001), "\"2026-07-25T17:20:13.000000001Z\""},
		{INT64_C(1), "\"1970-01-01T00:00:00.000000001Z\""},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_event event = {.type = TR_EV_REJECTION, .when_ns = cases[i].ns};

		check_member(&event, NULL, "event_time", cases[i].text);
	}
}

static void
queue_that_cannot_be_computed(void **state)
{
	const char *rcpts[] = {"a@b.test", NULL};
	struct tr_message *m = message("5c10aa026f1b11f0a1b20242ac120002", "2026-07-25T17:20:19Z", "", rcpts, 0);
	struct tr_event event = {.type = TR_EV_RECEPTION, .message = m};

	tr_meta_set(&m->meta, TR_STR("tenant"), TR_STR("42"));
	char *value = member(&event, NULL, "queue");
	assert_non_null(strstr(value, "tenant")); /* the error text, contract section 1 */
	free(value);
	tr_message_free(m);
}

static void
captured_meta(void **state)
{
	const char *rcpts[] = {"a@b.test", NULL};
	const char *const exact[] = {"tenant", "gone", "missing", "Number", NULL};
	const char *const prefix[] = {"x_*", "tenant", NULL};
	const char *const all[] = {"*", NULL};
	const char *const literal[] = {"t*t", NULL};
	struct tr_message *m = message("5c10aa026f1b11f0a1b20242ac120002", "2026-07-25T17:20:19Z", "", rcpts, 0);
	struct tr_event event = {.type = TR_EV_RECEPTION, .message = m};

	tr_meta_set(&m->meta, TR_STR("tenant"), TR_STR("\"shop\""));
	tr_meta_set(&m->meta, TR_STR("gone"), TR_STR("null"));
	tr_meta_set(&m->meta, TR_STR("x_null"), TR_STR("null"));
	tr_meta_set(&m->meta, TR_STR("x_list"), TR_STR("[1,{\"a\":true}]"));
	tr_meta_set(&m->meta, TR_STR("number"), TR_STR("4711"));
	check_member(&event, &(struct tr_capture){exact, NULL}, "meta", "{\"tenant\":\"shop\"}");
	check_member(&event, &(struct tr_capture){prefix, NULL}, "meta",
		"{\"tenant\":\"shop\",\"x_null\":null,\"x_list\":[1,{\"a\":true}]}");
	check_member(&event, &(struct tr_capture){all, NULL}, "meta",
		"{\"tenant\":\"shop\",\"gone\":null,\"x_null\":null,\"x_list\":[1,{\"a\":true}],\"number\":4711}");
	check_member(&event, &(struct tr_capture){literal, NULL}, "meta", "{}");
	tr_message_free(m);
}

static void
captured_headers(void **state)
{
	const char *rcpts[] = {"a@b.test", NULL};
	const char *const names[] = {"SUBJECT", "x-*", "Subject", "Absent", NULL};
	const char *const all[] = {"*", NULL};
	struct tr_message *m = message("5c10aa026f1b11f0a1b20242ac120002", "2026-07-25T17:20:19Z", "", rcpts, 0);
	struct tr_event event = {.type = TR_EV_RECEPTION, .message = m};

	tr_bytes_set(&m->head, tr_blob_new("Received: here\r\n", 16)); /* our own trace, before the body */
	tr_message_set_data(m, TR_STR("X-One: 1\nsubJect: =?utf-8?q?gr=C3=BCn?=\n\tfolded\nx-two: 2\nX-TWO: "
				      "\"3\"\nFrom: a@b.test\n\nX-Not: x\n"));
	check_member(&event, &(struct tr_capture){NULL, names}, "headers",
		"{\"X-One\":\"1\",\"subJect\":\"gr\xc3\xbcn\\tfolded\",\"x-two\":[\"2\",\"\\\"3\\\"\"]}");
	event.type = TR_EV_REJECTION;
	check_member(&event, &(struct tr_capture){NULL, all}, "headers", "{}");
	tr_message_free(m);
}

/* Names are matched by a table: a message made of fields costs a pass, not a pass for each field. */
static void
thousands_of_headers(void **state)
{
	const char *rcpts[] = {"a@b.test", NULL};
	const char *const all[] = {"*", NULL};
	struct tr_message *m = message("5c10aa026f1b11f0a1b20242ac120002", "2026-07-25T17:20:19Z", "", rcpts, 0);
	struct tr_event event = {.type = TR_EV_RECEPTION, .message = m};
	struct tr_buf data = {0};
	char *headers;
	size_t at_byte = 0, keys = 0;
	struct tr_str key, value;

	for (int i = 0; i < 20000; i++)
		tr_buf_addf(&data, "X-%d: %d\r\n", i % 10000, i);
	tr_buf_addz(&data, "\r\n");
	tr_message_set_data(m, (struct tr_str){data.data, data.len});
	headers = member(&event, &(struct tr_capture){NULL, all}, "headers");
	while (tr_json_next(tr_str(headers), &at_byte, &key, &value)) {
		char expected[64];

		snprintf(expected, sizeof expected, "[\"%zu\",\"%zu\"]", keys, keys + 10000);
		assert_true(tr_str_eq(value, tr_str(expected)));
		keys++;
	}
	assert_int_equal(keys, 10000);
	free(headers);
	tr_buf_free(&data);
	tr_message_free(m);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(delivery_by_a_hook),
		cmocka_unit_test(reception_with_captured_fields),
		cmocka_unit_test(transient_failure_of_two_recipients),
		cmocka_unit_test(rejection_without_a_message),
		cmocka_unit_test(optional_fields),
		cmocka_unit_test(strings_are_escaped_and_lines_joined),
		cmocka_unit_test(times_have_the_fewest_digits),
		cmocka_unit_test(queue_that_cannot_be_computed),
		cmocka_unit_test(captured_meta),
		cmocka_unit_test(captured_headers),
		cmocka_unit_test(thousands_of_headers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
