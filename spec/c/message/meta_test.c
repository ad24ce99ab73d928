#include "message/meta.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void
expect(const struct tr_meta *meta, const char *key, const char *json)
{
	struct tr_str got = tr_meta_get(meta, tr_str(key));

	if (json == NULL)
		assert_null(got.data);
	else if (got.data == NULL || !tr_str_eq(got, tr_str(json)))
		fail_msg("%s: expected %s, got %.*s", key, json, (int)got.len, got.data ? got.data : "");
}

static void
set_get_and_null(void **state)
{
	struct tr_meta meta = {0};
	struct tr_buf out = {0};

	expect(&meta, "a", NULL);
	assert_int_equal(tr_meta_set(&meta, TR_STR("a"), TR_STR("1")), TR_OK);
	assert_int_equal(tr_meta_set_string(&meta, TR_STR("b"), TR_STR("x\"y\n")), TR_OK);
	assert_int_equal(tr_meta_set(&meta, TR_STR("n"), TR_STR("null")), TR_OK);
	assert_int_equal(tr_meta_set(&meta, TR_STR("a"), TR_STR("{\"k\":[]}")), TR_OK);
	expect(&meta, "a", "{\"k\":[]}");
	expect(&meta, "n", "null");
	expect(&meta, "A", NULL); /* case counts */
	assert_int_equal(meta.count, 3);
	assert_int_equal(tr_meta_get_string(&meta, TR_STR("b"), &out), TR_OK);
	assert_true(tr_str_eq((struct tr_str){out.data, out.len}, TR_STR("x\"y\n")));
	assert_int_equal(tr_meta_get_string(&meta, TR_STR("n"), &out), TR_ENOENT);
	assert_int_equal(tr_meta_get_string(&meta, TR_STR("zz"), &out), TR_ENOENT);
	assert_int_equal(tr_meta_get_string(&meta, TR_STR("a"), &out), TR_EINVAL);
	/* a value may come from the same meta */
	assert_int_equal(tr_meta_set(&meta, TR_STR("a"), tr_meta_get(&meta, TR_STR("a"))), TR_OK);
	expect(&meta, "a", "{\"k\":[]}");
	tr_buf_free(&out);
	tr_meta_fini(&meta);
}

static void
order_json_and_copy(void **state)
{
	struct tr_meta meta = {0}, other = {0};
	struct tr_buf out = {0};

	for (int i = 9; i >= 0; i--) {
		char key[16], value[16];

		snprintf(key, sizeof key, "k%d", i);
		snprintf(value, sizeof value, "%d", i * i);
		assert_int_equal(tr_meta_set(&meta, tr_str(key), tr_str(value)), TR_OK);
	}
	assert_int_equal(tr_meta_set(&other, TR_STR("k3"), TR_STR("true")), TR_OK);
	assert_int_equal(tr_meta_set(&other, TR_STR("o"), TR_STR("null")), TR_OK);
	assert_int_equal(tr_meta_copy(&meta, &other), TR_OK);
	tr_meta_json(&other, &out);
	assert_true(tr_str_eq(
		(struct tr_str){out.data, out.len}, TR_STR("{\"k3\":9,\"o\":null,\"k9\":81,\"k8\":64,\"k7\":49,\"k6\":"
							   "36,\"k5\":25,\"k4\":16,\"k2\":4,\"k1\":1,"
							   "\"k0\":0}")));
	tr_buf_free(&out);
	tr_meta_fini(&meta);
	tr_meta_fini(&other);
}

static void
stored_form(void **state)
{
	struct tr_meta meta = {0}, back = {0};
	struct tr_buf out = {0};
	struct tr_reader reader;

	assert_int_equal(tr_meta_set(&meta, TR_STR("tenant"), TR_STR("\"shop\"")), TR_OK);
	assert_int_equal(tr_meta_set(&meta, TR_STR(""), TR_STR("null")), TR_OK);
	tr_meta_encode(&meta, &out);
	reader = (struct tr_reader){out.data, out.data + out.len, false};
	assert_int_equal(tr_meta_decode(&reader, &back), TR_OK);
	assert_ptr_equal(reader.at, reader.end);
	expect(&back, "tenant", "\"shop\"");
	expect(&back, "", "null");
	tr_meta_fini(&back);
	for (size_t len = 0; len < out.len; len++) {
		char *cut = malloc(len + 1); /* its own allocation, so that an overrun is seen */

		memcpy(cut, out.data, len);
		reader = (struct tr_reader){cut, cut + len, false};
		assert_int_equal(tr_meta_decode(&reader, &back), TR_ECORRUPT);
		free(cut);
	}
	reader = (struct tr_reader){"\xff\xff\xff\xff\x0f", NULL, false};
	reader.end = reader.at + 5;
	assert_int_equal(tr_meta_decode(&reader, &back), TR_ECORRUPT); /* a count far beyond the frame */
	tr_buf_free(&out);
	tr_meta_fini(&meta);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(set_get_and_null),
		cmocka_unit_test(order_json_and_copy),
		cmocka_unit_test(stored_form),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
