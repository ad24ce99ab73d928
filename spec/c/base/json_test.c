#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#include "base/json.h"

static void
assert_text(const struct tr_buf *buf, struct tr_str expected)
{
	assert_false(buf->failed);
	assert_int_equal(buf->len, expected.len);
	assert_memory_equal(buf->data, expected.data, expected.len);
}

static void
strings_are_escaped(void **state)
{
	static const struct {
		struct tr_str in, out;
	} cases[] = {
		{{"", 0}, {"\"\"", 2}},
		{TR_STR("plain /text\x7f"), TR_STR("\"plain /text\x7f\"")},
		{TR_STR("a\"b\\c\b\f\n\r\t"), TR_STR("\"a\\\"b\\\\c\\b\\f\\n\\r\\t\"")},
		{{"\0\x1f", 2}, TR_STR("\"\\u0000\\u001f\"")},
		{TR_STR("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x93\xa7"),
			TR_STR("\"gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x93\xa7\"")},
		{TR_STR("x\xffy"), TR_STR("\"x\xef\xbf\xbdy\"")},
		{TR_STR("\xc3"), TR_STR("\"\xef\xbf\xbd\"")},                                 /* cut short */
		{TR_STR("\xc0\x80"), TR_STR("\"\xef\xbf\xbd\xef\xbf\xbd\"")},                 /* overlong */
		{TR_STR("\xed\xa0\x80"), TR_STR("\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"")}, /* surrogate */
		{TR_STR("\xe2\x82\n"), TR_STR("\"\xef\xbf\xbd\xef\xbf\xbd\\n\"")},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_buf buf = {0};
		size_t at;

		tr_json_add_string(&buf, cases[i].in);
		assert_text(&buf, cases[i].out);
		assert_int_equal(tr_json_check((struct tr_str){buf.data, buf.len}, &at), TR_OK);
		if (tr_utf8_valid(cases[i].in)) { /* and back */
			struct tr_buf plain = {0};

			assert_int_equal(tr_json_unescape((struct tr_str){buf.data, buf.len}, &plain), TR_OK);
			assert_int_equal(plain.len, cases[i].in.len);
			if (plain.len > 0)
				assert_memory_equal(plain.data, cases[i].in.data, plain.len);
			tr_buf_free(&plain);
		}
		tr_buf_free(&buf);
	}
	struct tr_buf buf = {0};
	tr_json_add_key(&buf, "id");
	assert_text(&buf, TR_STR("\"id\":"));
	tr_buf_free(&buf);
}

static void
utf8_is_told_from_other_bytes(void **state)
{
	static const char *const good[] = {"", "ascii only, longer than eight bytes", "\xc2\x80", "\xdf\xbf",
		"\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"};
	static const char *const bad[] = {"\x80", "\xbf", "\xc1\xbf", "\xc2", "\xc2\x20", "\xe0\x9f\xbf", "\xe1\x80",
		"\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "12345678\xc2"};

	for (size_t i = 0; i < TR_COUNT(good); i++)
		assert_true(tr_utf8_valid(tr_str(good[i])));
	for (size_t i = 0; i < TR_COUNT(bad); i++)
		assert_false(tr_utf8_valid(tr_str(bad[i])));
}

static void
texts_are_checked(void **state)
{
	static const char *const good[] = {"null", " true ", "false", "0", "-0.5e+10", "1E5", "\"\\u00e9\\/\"", "[]",
		"{}", "[1,[2,{}],\"x\"]", "{\"a\":{\"b\":[null]},\"c\":1}\n", "\"\\ud800\""};
	static const struct {
		const char *text;
		size_t at;
	} bad[] = {{"", 0}, {"nul", 0}, {"01", 1}, {"1.", 2}, {"-", 1}, {"1e", 2}, {"\"a", 2}, {"\"\\x\"", 2},
		{"\"\\u12g4\"", 5}, {"\"\t\"", 1}, {"\"\xff\"", 1}, {"[1,]", 3}, {"[1 2]", 3}, {"{\"a\"}", 4},
		{"{a:1}", 1}, {"{\"a\":1,}", 7}, {"[1}", 2}, {"1 2", 2}, {"[", 1}, {"{", 1}, {"{\"a\":", 5}};
	char deep[600];
	size_t at;

	for (size_t i = 0; i < TR_COUNT(good); i++)
		assert_int_equal(tr_json_check(tr_str(good[i]), &at), TR_OK);
	for (size_t i = 0; i < TR_COUNT(bad); i++) {
		assert_int_equal(tr_json_check(tr_str(bad[i].text), &at), TR_EINVAL);
		assert_int_equal(at, bad[i].at);
	}
	for (size_t depth = 128; depth <= 129; depth++) {
		memset(deep, '[', depth);
		memset(deep + depth, ']', depth);
		assert_int_equal(
			tr_json_check((struct tr_str){deep, 2 * depth}, &at), depth == 128 ? TR_OK : TR_EINVAL);
	}
	assert_int_equal(tr_json_check((struct tr_str){NULL, 0}, NULL), TR_EINVAL);
}

static void
containers_are_walked(void **state)
{
	struct tr_str object =
		TR_STR(" { \"a\" : 1 ,\"b\\n\":\"x,}\\\"\", \"c\":[1,{\"d\":\"]\"}] , \"e\":{}, \"f\":null}");
	static const struct {
		const char *key, *value;
		enum tr_json_type type;
	} members[] = {{"a", "1", TR_JSON_NUMBER}, {"b\\n", "\"x,}\\\"\"", TR_JSON_STRING},
		{"c", "[1,{\"d\":\"]\"}]", TR_JSON_ARRAY}, {"e", "{}", TR_JSON_OBJECT}, {"f", "null", TR_JSON_NULL}};
	struct tr_str key, value;
	size_t at = 0, count = 0;

	while (tr_json_next(object, &at, &key, &value)) {
		assert_true(count < TR_COUNT(members));
		assert_true(tr_str_eq(key, tr_str(members[count].key)));
		assert_true(tr_str_eq(value, tr_str(members[count].value)));
		assert_int_equal(tr_json_type(value), members[count].type);
		count++;
	}
	assert_int_equal(count, TR_COUNT(members));

	at = count = 0;
	while (tr_json_next(TR_STR("[ true, \"b\" ,[] ]"), &at, &key, &value)) {
		assert_int_equal(key.len, 0);
		count++;
	}
	assert_int_equal(count, 3);
	at = 0;
	assert_false(tr_json_next(TR_STR("{}"), &at, &key, &value));
	assert_false(tr_json_next(TR_STR("17"), &at, &key, &value));

	assert_true(tr_str_eq(tr_json_get(object, "a"), TR_STR("1")));
	assert_true(tr_str_eq(tr_json_get(object, "b\n"), TR_STR("\"x,}\\\"\"")));
	assert_null(tr_json_get(object, "d").data);
	assert_null(tr_json_get(TR_STR("[1]"), "d").data);
	assert_null(tr_json_get((struct tr_str){NULL, 0}, "d").data);
}

static void
walking_what_is_cut_short_ends(void **state)
{
	struct tr_str whole = TR_STR("{\"a\":[1,\"\\\\\"],\"b\":\"x\\\"\"}");

	for (size_t len = 0; len < whole.len; len++) { /* no read behind the end, no endless loop */
		char *text = test_malloc(len > 0 ? len : 1);
		struct tr_str key, value;
		size_t at = 0;
		int turns = 0;

		memcpy(text, whole.data, len);
		while (tr_json_next((struct tr_str){text, len}, &at, &key, &value)) {
			assert_true(value.data + value.len <= text + len);
			assert_true(++turns < 10);
		}
		test_free(text);
	}
}

static void
strings_are_unescaped(void **state)
{
	static const struct {
		const char *in, *out; /* out NULL: TR_EINVAL */
	} cases[] = {
		{"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t"},
		{"\"\\u0041\\u00fc\\u20ac\\uD83D\\uDCE7\"", "A\xc3\xbc\xe2\x82\xac\xf0\x9f\x93\xa7"},
		{"\"\\ud83d\"", "\xef\xbf\xbd"},
		{"\"\\udce7x\"", "\xef\xbf\xbdx"},
		{"\"\\ud83d\\u0041\"", "\xef\xbf\xbd"
				       "A"},
		{"\"\\ud83", NULL},
		{"\"\\u12\"", NULL},
		{"\"\\q\"", NULL},
		{"\"\\\"", NULL},
		{"\"", NULL},
		{"plain", NULL},
		{"\"a\"b\"", NULL},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_buf out = {0};
		int err = tr_json_unescape(tr_str(cases[i].in), &out);

		assert_int_equal(err, cases[i].out != NULL ? TR_OK : TR_EINVAL);
		if (cases[i].out != NULL)
			assert_text(&out, tr_str(cases[i].out));
		tr_buf_free(&out);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(strings_are_escaped),
		cmocka_unit_test(utf8_is_told_from_other_bytes),
		cmocka_unit_test(texts_are_checked),
		cmocka_unit_test(containers_are_walked),
		cmocka_unit_test(walking_what_is_cut_short_ends),
		cmocka_unit_test(strings_are_unescaped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
