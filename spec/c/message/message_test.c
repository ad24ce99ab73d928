#include "message/message.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/clock.h"

static void
queue_names(void **state)
{
	static const struct {
		const char *rcpt, *campaign, *tenant, *routing, *queue, *want;
	} cases[] = {
		{"u@Dest.Test", NULL, NULL, NULL, NULL, "dest.test"},
		{"u@Dest.Test", NULL, "\"T\"", NULL, NULL, "T@dest.test"},
		{"u@dest.test", "\"c\"", "\"t\"", NULL, NULL, "c:t@dest.test"},
		{"u@dest.test", "\"c\"", NULL, NULL, NULL, "c:@dest.test"},
		{"u@dest.test", "\"c\"", "\"\"", NULL, NULL, "c:@dest.test"},
		{"u@dest.test", NULL, "\"\"", NULL, NULL, "@dest.test"},
		{"u@dest.test", NULL, NULL, "\"R.test\"", NULL, "dest.test!R.test"},
		{"u@dest.test", "\"c\"", "\"t\"", "\"r\"", NULL, "c:t@dest.test!r"},
		{"u@dest.test", "null", "null", "null", "null", "dest.test"},
		{"u@dest.test", "\"c\"", "\"t\"", NULL, "\"a b\\n\"", "a b\n"},
		{NULL, NULL, NULL, NULL, "\"webhook.hook\"", "webhook.hook"},
		{"postmaster", NULL, "\"t\"", NULL, NULL, "t@"},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_message *message = tr_message_new();
		struct tr_buf out = {0};
		const char *error;

		if (cases[i].rcpt != NULL)
			assert_int_equal(tr_message_add_rcpt(message, tr_str(cases[i].rcpt)), TR_OK);
		if (cases[i].campaign != NULL)
			tr_meta_set(&message->meta, TR_STR("campaign"), tr_str(cases[i].campaign));
		if (cases[i].tenant != NULL)
			tr_meta_set(&message->meta, TR_STR("tenant"), tr_str(cases[i].tenant));
		if (cases[i].routing != NULL)
			tr_meta_set(&message->meta, TR_STR("routing_domain"), tr_str(cases[i].routing));
		if (cases[i].queue != NULL)
			tr_meta_set(&message->meta, TR_STR("queue"), tr_str(cases[i].queue));
		assert_int_equal(tr_message_queue_name(message, &out, &error), TR_OK);
		if (!tr_str_eq((struct tr_str){out.data, out.len}, tr_str(cases[i].want)))
			fail_msg("case %zu: %.*s", i, (int)out.len, out.data);
		tr_buf_free(&out);
		tr_message_free(message);
	}
}

static void
queue_name_errors(void **state)
{
	struct tr_message *message = tr_message_new();
	struct tr_buf out = {0};
	const char *error;

	assert_int_equal(tr_message_queue_name(message, &out, &error), TR_ENOENT);
	tr_message_add_rcpt(message, TR_STR("u@d"));
	tr_meta_set(&message->meta, TR_STR("tenant"), TR_STR("5"));
	assert_int_equal(tr_message_queue_name(message, &out, &error), TR_EINVAL);
	assert_string_equal(error, "expected 'tenant' to be a string value, got a number");
	tr_meta_set(&message->meta, TR_STR("tenant"), TR_STR("null"));
	tr_meta_set(&message->meta, TR_STR("queue"), TR_STR("{}"));
	assert_int_equal(tr_message_queue_name(message, &out, &error), TR_EINVAL);
	assert_string_equal(error, "expected 'queue' to be a string value, got an object");
	assert_int_equal(out.len, 0);
	tr_buf_free(&out);
	tr_message_free(message);
}

static void
queue_name_parts(void **state)
{
	static const struct {
		const char *name, *campaign, *tenant, *domain, *routing;
	} cases[] = {
		{"d.test", NULL, NULL, "d.test", NULL},
		{"foo.com:2025", NULL, NULL, "foo.com:2025", NULL},
		{"t@d", NULL, "t", "d", NULL},
		{"c:t@d!r", "c", "t", "d", "r"},
		{"c:@d", "c", "", "d", NULL},
		{":@", "", "", "", NULL},
		{"a:b:c@d@e!f!g", "a", "b:c", "d@e", "f!g"},
		{"d!", NULL, NULL, "d", ""},
		{"", NULL, NULL, "", NULL},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_queue_name got;

		tr_queue_name_parse(tr_str(cases[i].name), &got);
		assert_int_equal(got.has_campaign, cases[i].campaign != NULL);
		assert_int_equal(got.has_tenant, cases[i].tenant != NULL);
		assert_int_equal(got.has_routing, cases[i].routing != NULL);
		assert_true(tr_str_eq(got.campaign, tr_str(cases[i].campaign)));
		assert_true(tr_str_eq(got.tenant, tr_str(cases[i].tenant)));
		assert_true(tr_str_eq(got.domain, tr_str(cases[i].domain)));
		assert_true(tr_str_eq(got.routing_domain, tr_str(cases[i].routing)));
	}
}

/* --- ids ------------------------------------------------------------------------------------------ */

#define PER_THREAD 20000
#define THREADS 4
static uint8_t ids[THREADS * PER_THREAD][16];

static void *
make_ids(void *arg)
{
	uint8_t(*to)[16] = arg;

	for (int i = 0; i < PER_THREAD; i++)
		tr_uuid1_at(tr_wall_ns(), to[i]);
	return NULL;
}

static int
compare_ids(const void *a, const void *b)
{
	return memcmp(a, b, 16);
}

static void
ids_differ_over_threads(void **state)
{
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, make_ids, ids + i * PER_THREAD), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	qsort(ids, TR_COUNT(ids), 16, compare_ids);
	for (size_t i = 1; i < TR_COUNT(ids); i++)
		assert_true(memcmp(ids[i - 1], ids[i], 16) != 0);
}

static void
ids_differ_over_clock_steps(void **state)
{
	tr_clock_virtual(INT64_C(1800000000) * TR_NS_PER_S);
	for (int i = 0; i < PER_THREAD; i++) {
		tr_uuid1_at(tr_wall_ns(), ids[i]);
		if (i % 1000 == 0)
			tr_clock_step(i % 2000 == 0 ? -3600 * TR_NS_PER_S : 3600 * TR_NS_PER_S);
		if (i % 1000 == 500)
			tr_clock_step(-TR_NS_PER_MS);
	}
	tr_clock_real();
	qsort(ids, PER_THREAD, 16, compare_ids);
	for (size_t i = 1; i < PER_THREAD; i++)
		assert_true(memcmp(ids[i - 1], ids[i], 16) != 0);
}

static void
ids_hold_the_time(void **state)
{
	int64_t moment = INT64_C(1785000010) * TR_NS_PER_S + 123456700;
	uint8_t id[16], back[16];
	char hex[33], text[37];

	tr_clock_virtual(moment + 7200 * TR_NS_PER_S); /* later than any other test */
	tr_uuid1_at(tr_wall_ns(), id);
	assert_true(tr_uuid1_wall_ns(id) == moment + 7200 * TR_NS_PER_S);
	tr_clock_real();
	tr_uuid_hex(id, hex);
	assert_int_equal(strlen(hex), 32);
	assert_int_equal(hex[12], '1');
	assert_true(strchr("89ab", hex[16]) != NULL);
	assert_int_equal(tr_uuid_from_hex(tr_str(hex), back), TR_OK);
	assert_memory_equal(id, back, 16);
	tr_uuid_hyphenated(id, text);
	assert_int_equal(strlen(text), 36);
	assert_int_equal(text[8], '-');
	memset(back, 0, 16);
	assert_int_equal(tr_uuid_from_hex(tr_str(text), back), TR_OK);
	assert_memory_equal(id, back, 16);
	assert_int_equal(tr_uuid_from_hex(TR_STR("12"), back), TR_EINVAL);
	assert_int_equal(tr_uuid_from_hex(TR_STR("0123456789abcdef0123456789abcdeg"), back), TR_EINVAL);
	assert_int_equal(tr_uuid_from_hex(TR_STR("0123456789abcdef0123456789abcdef0"), back), TR_EINVAL);
	tr_uuid4(id);
	tr_uuid4(back);
	assert_true(memcmp(id, back, 16) != 0);
	assert_int_equal(id[6] >> 4, 4);
	assert_int_equal(id[8] >> 6, 2);
	/* a known one: RFC 9562 appendix A.1, 2022-02-22T19:22:22Z */
	assert_int_equal(tr_uuid_from_hex(TR_STR("C232AB00-9414-11EC-B3C8-9F6BDECED846"), id), TR_OK);
	assert_true(tr_uuid1_wall_ns(id) == INT64_C(1645557742) * TR_NS_PER_S);
}

/* --- stored form ------------------------------------------------------------------------------------ */

static struct tr_message *
sample(void)
{
	struct tr_message *message = tr_message_new();

	assert_non_null(message);
	assert_int_equal(tr_message_set_sender(message, TR_STR("<news@shop.test>")), TR_OK);
	for (int i = 0; i < 5; i++) {
		char text[32];

		snprintf(text, sizeof text, "user%d@dest.test", i);
		assert_int_equal(tr_message_add_rcpt(message, tr_str(text)), TR_OK);
	}
	assert_int_equal(tr_meta_set(&message->meta, TR_STR("tenant"), TR_STR("\"t\"")), TR_OK);
	message->hook = 3;
	tr_bytes_set(&message->head, tr_blob_new("Received: x\r\n", 13));
	tr_bytes_set(&message->body, tr_blob_new("A: b\r\n\r\nbody", 12));
	message->schedule = calloc(1, sizeof *message->schedule);
	*message->schedule = (struct tr_schedule){.first_attempt_ms = 5,
		.expires_ms = 1785000010123,
		.dow_mask = 3,
		.start_s = 3600,
		.end_s = 86399,
		.tz = "Europe/Berlin"};
	return message;
}

static struct tr_blob *
stored(const struct tr_message *message)
{
	struct tr_buf out = {0};
	struct tr_blob *blob;

	tr_message_encode_envelope(message, &out);
	if (message->body_file == 0)
		tr_buf_add(&out, message->body.data, message->body.len);
	assert_false(out.failed);
	blob = tr_blob_new(out.data, out.len);
	tr_buf_free(&out);
	return blob;
}

static void
stored_and_back(void **state)
{
	struct tr_message *message = sample(), *back;
	struct tr_blob *blob = stored(message);

	assert_int_equal(tr_message_decode(blob, (struct tr_str){blob->data, blob->len}, &back), TR_OK);
	assert_memory_equal(back->id, message->id, 16);
	assert_true(back->created_ns == message->created_ns);
	assert_int_equal(back->hook, 3);
	assert_string_equal(back->sender.email, "news@shop.test");
	assert_int_equal(back->rcpt_count, 5);
	assert_string_equal(back->rcpts[4].email, "user4@dest.test");
	assert_true(tr_str_eq(tr_addr_domain(&back->rcpts[4]), TR_STR("dest.test")));
	assert_true(tr_str_eq(tr_meta_get(&back->meta, TR_STR("tenant")), TR_STR("\"t\"")));
	assert_memory_equal(back->schedule, message->schedule, sizeof *back->schedule);
	assert_true(tr_str_eq(tr_bytes_str(&back->head), TR_STR("Received: x\r\n")));
	assert_true(tr_str_eq(tr_bytes_str(&back->body), TR_STR("A: b\r\n\r\nbody")));
	/* the body is the frame's own memory */
	assert_ptr_equal(back->body.blob, blob);
	assert_true(back->body.data == blob->data + blob->len - 12);
	assert_int_equal(back->slot, TR_NO_SLOT);
	assert_int_equal(back->flags & TR_MSG_DIRTY, 0);
	tr_blob_unref(blob); /* the message keeps it alive */
	assert_int_equal(tr_message_add_rcpt(back, TR_STR("more@dest.test")), TR_OK);
	for (int i = 0; i < 3; i++)
		assert_int_equal(tr_message_add_rcpt(back, TR_STR("more@dest.test")), TR_OK);
	assert_string_equal(back->rcpts[4].email, "user4@dest.test");
	tr_message_free(back);
	tr_message_free(message);
}

static void
bare_and_body_file(void **state)
{
	struct tr_message *message = tr_message_new(), *back;
	struct tr_blob *blob = stored(message);

	assert_int_equal(tr_message_decode(blob, (struct tr_str){blob->data, blob->len}, &back), TR_OK);
	assert_int_equal(back->rcpt_count, 0);
	assert_int_equal(back->sender.len, 0);
	assert_int_equal(back->hook, 0xffff);
	assert_null(back->schedule);
	assert_int_equal(tr_message_size(back), 0);
	tr_message_free(back);
	tr_blob_unref(blob);
	tr_bytes_set(&message->body, tr_blob_new("abc", 3));
	message->body_file = 77;
	blob = stored(message);
	assert_int_equal(tr_message_decode(blob, (struct tr_str){blob->data, blob->len}, &back), TR_OK);
	assert_true(back->body_file == 77);
	assert_int_equal(back->body.len, 0);
	tr_message_free(back);
	tr_blob_unref(blob);
	tr_message_free(message);
}

static void
damage(void **state)
{
	struct tr_message *message = sample(), *back;
	struct tr_blob *blob = stored(message);
	uint32_t random = 12345;

	for (size_t len = 0; len < blob->len; len++) {
		struct tr_blob *cut = tr_blob_new(blob->data, len);

		assert_int_equal(tr_message_decode(cut, (struct tr_str){cut->data, cut->len}, &back), TR_ECORRUPT);
		assert_null(back);
		assert_int_equal(cut->refs, 1); /* nothing keeps a reference to a bad frame */
		tr_blob_unref(cut);
	}
	{
		struct tr_blob *longer = tr_blob_new(NULL, blob->len + 1);

		memcpy(longer->data, blob->data, blob->len);
		longer->data[blob->len] = 'x';
		assert_int_equal(
			tr_message_decode(longer, (struct tr_str){longer->data, longer->len}, &back), TR_ECORRUPT);
		tr_blob_unref(longer);
	}
	for (int i = 0; i < 20000; i++) { /* any byte wrong: an error or another message, never a crash */
		struct tr_blob *bad = tr_blob_new(blob->data, blob->len);

		random = random * 1664525 + 1013904223;
		bad->data[(random >> 8) % bad->len] ^= (char)(1 + (random >> 24) % 255);
		if (tr_message_decode(bad, (struct tr_str){bad->data, bad->len}, &back) == TR_OK)
			tr_message_free(back);
		assert_int_equal(bad->refs, 1);
		tr_blob_unref(bad);
	}
	tr_blob_unref(blob);
	tr_message_free(message);
}

/* --- the object -------------------------------------------------------------------------------------- */

static int gone_calls;

static void
gone(struct tr_message *message)
{
	assert_non_null(message->handle);
	gone_calls++;
}

static void
split_data_and_handles(void **state)
{
	struct tr_message *message = sample(), *part;
	struct tr_bytes data;

	part = tr_message_split(message);
	assert_non_null(part);
	assert_true(memcmp(part->id, message->id, 16) != 0);
	assert_ptr_equal(part->body.blob, message->body.blob);
	assert_int_equal(part->rcpt_count, 5);
	assert_memory_equal(part->schedule, message->schedule, sizeof *part->schedule);
	assert_true(part->flags & TR_MSG_DIRTY);
	assert_int_equal(tr_message_data(part, &data), TR_OK);
	assert_true(tr_str_eq(tr_bytes_str(&data), TR_STR("Received: x\r\nA: b\r\n\r\nbody")));
	assert_int_equal(tr_message_size(part), data.len);
	tr_bytes_fini(&data);
	assert_int_equal(tr_message_set_data(part, TR_STR("new")), TR_OK);
	assert_int_equal(tr_message_data(part, &data), TR_OK);
	assert_ptr_equal(data.blob, part->body.blob); /* no copy without a head */
	assert_true(tr_str_eq(tr_bytes_str(&data), TR_STR("new")));
	tr_bytes_fini(&data);
	assert_true(tr_str_eq(tr_bytes_str(&message->body), TR_STR("A: b\r\n\r\nbody")));
	tr_message_clear_rcpts(part);
	assert_int_equal(tr_message_add_rcpt(part, TR_STR("bad")), TR_EINVAL);
	assert_int_equal(part->rcpt_count, 0);
	assert_int_equal(tr_message_set_sender(part, TR_STR("bad")), TR_EINVAL);
	assert_string_equal(part->sender.email, "news@shop.test");
	part->handle = &data;
	part->handle_gone = gone;
	tr_message_revoke(part);
	tr_message_revoke(part);
	assert_int_equal(gone_calls, 1);
	part->handle = &data;
	part->handle_gone = gone;
	tr_message_free(part);
	assert_int_equal(gone_calls, 2);
	tr_message_free(message);
	tr_message_free(NULL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(queue_names),
		cmocka_unit_test(queue_name_errors),
		cmocka_unit_test(queue_name_parts),
		cmocka_unit_test(ids_differ_over_threads),
		cmocka_unit_test(ids_differ_over_clock_steps),
		cmocka_unit_test(ids_hold_the_time),
		cmocka_unit_test(stored_and_back),
		cmocka_unit_test(bare_and_body_file),
		cmocka_unit_test(damage),
		cmocka_unit_test(split_data_and_handles),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
