/* JSON both ways and option tables. */
#include "fixture.h"

static lua_State *L;

static int
make(void **state)
{
	*state = fixture_new("", NULL);
	L = tr_host_state(((struct fixture *)*state)->host);
	return 0;
}

static int
drop(void **state)
{
	assert_int_equal(lua_gettop(L), 0);
	fixture_free(*state);
	return 0;
}

static void
json_round_trips(void **state)
{
	static const char *const texts[] = {
		"null",
		"true",
		"1",
		"-1",
		"0.1",
		"1e+300",
		"9007199254740991",
		"-0.5",
		"\"\"",
		"\"a\\\"b\\\\c\\n\\u0001\"",
		"\"\xc3\xa9\"",
		"[]",
		"{}",
		"[1,2,[3]]",
		"{\"a\":[]}",
		"{\"a\":{\"b\":[{},[]]}}",
		"[false,\"x\"]",
		"1764000000123",
	};

	for (size_t i = 0; i < TR_COUNT(texts); i++) {
		struct tr_buf out = {0};
		size_t at;
		const char *what;
		assert_int_equal(tr_json_push(L, tr_str(texts[i]), false, &at), TR_OK);
		assert_int_equal(tr_json_from_lua(L, -1, &out, &what), TR_OK);
		tr_buf_addc(&out, '\0');
		assert_string_equal(out.data, texts[i]);
		tr_buf_free(&out);
		lua_pop(L, 1);
	}
}

static void
json_errors_have_a_place(void **state)
{
	static const struct {
		const char *text;
		size_t at;
	} cases[] = {{"", 0}, {"[1,]", 3}, {"{\"a\" 1}", 5}, {"[1 2]", 3}, {"tru", 0}, {"\"abc", 4}, {"01", 1},
		{"{\"a\":1,}", 7}, {"1 x", 2}, {"-", 1}, {"\"\\q\"", 0}, {"[", 1}, {"nulll", 4}};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		size_t at = 99;
		assert_int_equal(tr_json_push(L, tr_str(cases[i].text), false, &at), TR_EINVAL);
		assert_int_equal(at, cases[i].at);
		assert_int_equal(lua_gettop(L), 0);
	}
	char deep[600];
	size_t at;
	memset(deep, '[', 300);
	memset(deep + 300, ']', 300);
	assert_int_equal(tr_json_push(L, (struct tr_str){deep, 600}, false, &at), TR_EINVAL);
	assert_int_equal(tr_json_push(L, (struct tr_str){deep + 172, 256}, false, &at), TR_OK);
	lua_pop(L, 1);
}

static void
json_null_is_absent_or_a_sentinel(void **state)
{
	size_t at;

	assert_int_equal(tr_json_push(L, TR_STR("{\"a\":null,\"b\":1}"), false, &at), TR_OK);
	lua_getfield(L, -1, "a");
	assert_true(lua_isnil(L, -1));
	lua_pop(L, 2);
	assert_int_equal(tr_json_push(L, TR_STR("{\"a\":null}"), true, &at), TR_OK);
	lua_getfield(L, -1, "a");
	assert_true(lua_islightuserdata(L, -1));
	assert_null(lua_touserdata(L, -1));
	struct tr_buf out = {0};
	assert_int_equal(tr_json_from_lua(L, -2, &out, NULL), TR_OK);
	assert_int_equal(out.len, 10);
	assert_memory_equal(out.data, "{\"a\":null}", 10);
	tr_buf_free(&out);
	lua_pop(L, 2);
}

static void
lua_values_become_json(void **state)
{
	static const struct {
		const char *lua, *json; /* json NULL: an error */
	} cases[] = {
		{"{1, 2, 3}", "[1,2,3]"},
		{"{[1] = 1, [3] = 3}", NULL}, /* which of the two keys comes first is open: see below */
		{"{}", "{}"},
		{"{x = 1/0}", "{\"x\":null}"},
		{"{[2] = 'b'}", "{\"2\":\"b\"}"},
		{"2^53", "9007199254740992"},
		{"-0.0", "0"},
		{"1e15", "1000000000000000"},
		{"0.1 + 0.2", "0.30000000000000004"},
		{"'\\255'", "\"\xef\xbf\xbd\""},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		char code[128];
		struct tr_buf out = {0};
		snprintf(code, sizeof code, "return %s", cases[i].lua);
		assert_int_equal(luaL_dostring(L, code), 0);
		assert_int_equal(tr_json_from_lua(L, -1, &out, NULL), TR_OK);
		tr_buf_addc(&out, '\0');
		if (cases[i].json != NULL)
			assert_string_equal(out.data, cases[i].json);
		else
			assert_int_equal(out.data[0], '{');
		tr_buf_free(&out);
		lua_pop(L, 1);
	}
	static const struct {
		const char *lua, *what;
	} bad[] = {{"print", "function"}, {"{print}", "function"},
		{"{[true] = {[{}] = 1}}", "a table key that is no string or number"},
		{"(function() local t = {} t[1] = t return t end)()", "a table nested deeper than 128 (or in itself)"},
		{"io.stdout", "userdata"}};
	for (size_t i = 0; i < TR_COUNT(bad); i++) {
		char code[128];
		struct tr_buf out = {0};
		const char *what = NULL;
		snprintf(code, sizeof code, "return %s", bad[i].lua);
		assert_int_equal(luaL_dostring(L, code), 0);
		assert_int_equal(tr_json_from_lua(L, -1, &out, &what), TR_EINVAL);
		assert_string_equal(what, bad[i].what);
		assert_int_equal(lua_gettop(L), 1);
		tr_buf_free(&out);
		lua_pop(L, 1);
	}
}

static const struct tr_key KEYS[] = {
	{"name", 's', true},
	{"limit", 'i', false},
	{"ttl", 'd', false},
	{"strict", 'b', false},
	{"fn", 'f', false},
};

static int
l_check(lua_State *state)
{
	tr_check_options(state, 1, "kumo.make", KEYS, TR_COUNT(KEYS));
	lua_pushfstring(state, "%s %d %d %d", tr_opt_string(state, 1, "name", "none", NULL),
		(int)tr_opt_int(state, 1, "limit", 7),
		(int)(tr_opt_duration_ns(state, 1, "kumo.make", "ttl", 0) / TR_NS_PER_MS),
		tr_opt_bool(state, 1, "strict", true));
	return 1;
}

static void
option_tables_are_checked(void **state)
{
	static const struct {
		const char *lua, *text; /* the beginning after the position */
		bool good;
	} cases[] = {
		{"{name = 'a'}", "a 7 0 1", true},
		{"{name = 'a', limit = 3, ttl = '1m 30s', strict = false}", "a 3 90000 0", true},
		{"{name = 5, ttl = 0.25}", "5 7 250 1", true},
		{"{}", "kumo.make: missing field 'name', while processing {}", false},
		{"{name = 'a', limt = 3}",
			"kumo.make: unknown field 'limt', expected one of 'name', 'limit', 'ttl', 'strict', 'fn' (did "
			"you mean 'limit'?), while processing {",
			false},
		{"{name = 'a', [1] = 3}",
			"kumo.make: unknown field '1', expected one of 'name', 'limit', 'ttl', 'strict', 'fn', while "
			"processing {",
			false},
		{"{name = true}",
			"kumo.make: field 'name': string expected, got boolean, while processing {\"name\":true}",
			false},
		{"{name = 'a', limit = 1.5}",
			"kumo.make: field 'limit': integer >= 0 expected, got 1.5, while processing {", false},
		{"{name = 'a', limit = -1}", "kumo.make: field 'limit': integer >= 0 expected", false},
		{"{name = 'a', ttl = '60'}",
			"kumo.make: field 'ttl': duration (seconds >= 0, or text such as '5 minutes') expected, got "
			"string, while processing {",
			false},
		{"{name = 'a', ttl = -1}", "kumo.make: field 'ttl': duration", false},
		{"{fn = print}", "kumo.make: missing field 'name', while processing {\"fn\":\"<function>\"}", false},
		{"nil", "kumo.make: table of options expected, got nil", false},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		char code[128];
		snprintf(code, sizeof code, "return check(%s)", cases[i].lua);
		lua_pushcfunction(L, l_check);
		lua_setglobal(L, "check");
		int err = luaL_dostring(L, code);
		assert_int_equal(err == 0, cases[i].good);
		const char *text = strstr(lua_tostring(L, -1), cases[i].text);
		if (text == NULL)
			fail_msg("%s gave %s", cases[i].lua, lua_tostring(L, -1));
		lua_pop(L, 1);
	}
}

static void
errors_as_values_have_a_code(void **state)
{
	assert_int_equal(tr_push_error(L, TR_ETIMEDOUT, "no answer of %s in %d s", "peer", 3), 3);
	assert_true(lua_isnil(L, -3));
	assert_string_equal(lua_tostring(L, -2), "no answer of peer in 3 s");
	assert_string_equal(lua_tostring(L, -1), "ETIMEDOUT");
	lua_pop(L, 3);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(json_round_trips, make, drop),
		cmocka_unit_test_setup_teardown(json_errors_have_a_place, make, drop),
		cmocka_unit_test_setup_teardown(json_null_is_absent_or_a_sentinel, make, drop),
		cmocka_unit_test_setup_teardown(lua_values_become_json, make, drop),
		cmocka_unit_test_setup_teardown(option_tables_are_checked, make, drop),
		cmocka_unit_test_setup_teardown(errors_as_values_have_a_code, make, drop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
