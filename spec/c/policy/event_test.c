/* Events: registration, chaining by the number of returned values, rejections, error texts. */
#include "fixture.h"

static struct fixture *
with(const char *policy)
{
	char text[8192];

	snprintf(text, sizeof text, "local kumo, t = require 'kumo', require 't'\n%s", policy);
	return fixture_new(text, NULL);
}

static void
chaining_counts_returned_values(void **state)
{
	static const struct {
		const char *first, *second, *result;
		int count;
	} cases[] = {
		{"", "return 2", "2", 1},
		{"return", "return 2", "2", 1},
		{"return nil", "return 2", "nil", 1},
		{"return false", "return 2", "false", 1},
		{"return 1, 5", "return 2", "1|5", 2},
		{"return (function() end)()", "return 2", "2", 1},
		{"t.park()", "return 2", "2", 1},
		{"", "", "", 0},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		char policy[512];
		snprintf(policy, sizeof policy,
			"kumo.on('requeue_message', function(a) %s end)\nkumo.on('requeue_message', function(a) "
			"assert(a == 'arg') %s "
			"end)",
			cases[i].first, cases[i].second);
		struct fixture *f = with(policy);
		assert_string_equal(f->load_error, "");
		if (fixture_fire(f, "requeue_message", "arg", 0, NULL) != NULL)
			fixture_wake(f, NULL, false);
		assert_int_equal(f->ended, 1);
		assert_int_equal(f->status, TR_OK);
		assert_int_equal(f->count, cases[i].count);
		assert_string_equal(f->result, cases[i].result);
		fixture_free(f);
	}
}

static void
an_error_stops_the_chain(void **state)
{
	struct fixture *f = with("later = 0\nkumo.on('requeue_message', function() error('first') end)\n"
				 "kumo.on('requeue_message', function() later = later + 1 end)\n"
				 "kumo.on('count', function() return later end)");

	fixture_fire(f, "requeue_message", NULL, 0, NULL);
	assert_int_equal(f->status, TR_EINVAL);
	assert_non_null(strstr(f->text, ":3: first"));
	fixture_fire(f, "count", NULL, 0, NULL);
	assert_string_equal(f->result, "0");
	fixture_free(f);
}

static void
an_event_without_handlers_returns_nothing(void **state)
{
	struct fixture *f = with("kumo.on('known', function() end)");

	fixture_fire(f, "unknown", NULL, 0, NULL);
	assert_int_equal(f->status, TR_OK);
	assert_int_equal(f->count, 0);
	assert_true(tr_event_handled(f->host, tr_event_id("known")));
	assert_false(tr_event_handled(f->host, tr_event_id("unknown")));
	assert_int_equal(tr_event_id("known"), tr_event_id("known"));
	fixture_free(f);
}

static void
a_single_event_has_one_handler(void **state)
{
	struct fixture *f = with("kumo.on('e', function() end)\nkumo.on('e', function() end)");

	assert_non_null(strstr(f->load_error, "e event already has a handler defined at "));
	assert_non_null(strstr(f->load_error, ":2\n"));
	fixture_free(f);
}

static void
registration_ends_with_the_load(void **state)
{
	struct fixture *f = with("kumo.on('e', function() kumo.on('late', function() end) end)");

	fixture_fire(f, "e", NULL, 0, NULL);
	assert_int_equal(f->status, TR_EINVAL);
	assert_non_null(strstr(f->text, "'late'"));
	assert_non_null(strstr(f->text, "from within the event handler 'e'"));
	fixture_free(f);
	f = with("kumo.on(1, function() end)");
	assert_non_null(strstr(f->load_error, "string expected"));
	fixture_free(f);
	f = with("kumo.on('e', 1)");
	assert_non_null(strstr(f->load_error, "function expected"));
	fixture_free(f);
}

static void
registrars_are_call_stacks(void **state)
{
	struct fixture *f = with(
		"local function helper() kumo.on('get_queue_config', function() end) end\nhelper()\nhelper()\n"
		"kumo.on('e', function() local r = kumo.get_event_registrars('get_queue_config')\n"
		"return #r, (r[1][1]:match(':%d+$')), (r[1][2]:match(':%d+$')), kumo.get_event_registrars('x') end)");

	assert_string_equal(f->load_error, "");
	fixture_fire(f, "e", NULL, 0, NULL);
	assert_string_equal(f->result, "2|:2|:3|nil");
	fixture_free(f);
}

static void
rejections_are_found_where_they_are_wrapped(void **state)
{
	static const struct {
		const char *body, *text;
		int code, disconnect;
	} cases[] = {
		{"kumo.reject(421, 'busy')", "busy", 421, TR_DISCONNECT_IF_421},
		{"kumo.disconnect(500, 'go')", "go", 500, TR_DISCONNECT_FORCE},
		{"kumo.disconnect(500, 'go', 'FollowWith421')", "go", 500, TR_DISCONNECT_FOLLOW_421},
		{"local ok, err = pcall(kumo.reject, 450, 'x') error(err)", "x", 450, 0},
		{"local ok, err = pcall(kumo.reject, 450, 'x') error({cause = {cause = err}})", "x", 450, 0},
		{"coroutine.wrap(function() kumo.reject(0, '') end)()", "", 0, 0},
		{"t.park() kumo.reject(65535, 'y')", "y", 65535, 0},
		{"local ok, err = pcall(kumo.reject, 450, 'x') error(tostring(err))", "", -1, 0},
		{"kumo.reject(65536, 'x')", "", -1, 0},
		{"kumo.reject(450)", "", -1, 0},
		{"kumo.disconnect(450, 'x', 'Never')", "", -1, 0},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		char policy[512];
		snprintf(policy, sizeof policy, "kumo.on('e', function() %s end)", cases[i].body);
		struct fixture *f = with(policy);
		if (fixture_fire(f, "e", NULL, 0, NULL) != NULL)
			fixture_wake(f, NULL, false);
		assert_int_equal(f->status, TR_EINVAL);
		assert_int_equal(f->reject_code, cases[i].code);
		if (cases[i].code >= 0) {
			assert_string_equal(f->reject_text, cases[i].text);
			assert_int_equal(f->disconnect, cases[i].disconnect);
		}
		fixture_free(f);
	}
}

static void
tracebacks_cross_coroutines(void **state)
{
	struct fixture *f = with("local function culprit() local x = nil; return x.y end\n"
				 "kumo.on('e', function() local v = coroutine.wrap(function() local r = culprit() "
				 "return r end)() return v end)");

	fixture_fire(f, "e", NULL, 0, NULL);
	assert_non_null(strstr(f->text, ":2: attempt to index local 'x'"));
	const char *inner = strstr(f->text, "in a coroutine of the policy");
	assert_non_null(inner);
	assert_non_null(strstr(inner, "culprit"));
	fixture_free(f);
}

static void
any_value_may_be_raised(void **state)
{
	struct fixture *f = with(
		"kumo.on('e', function(a) if a == 'nil' then error(nil) elseif a == 'table' then error({code = 5}) "
		"else error(setmetatable({}, {__tostring = function() error('again') end})) end end)");

	fixture_fire(f, "e", "nil", 0, NULL);
	assert_non_null(strstr(f->text, "nil\n"));
	fixture_fire(f, "e", "table", 0, NULL);
	assert_non_null(strstr(f->text, "an error that is a table: {\"code\":5}\n"));
	fixture_fire(f, "e", "x", 0, NULL);
	assert_non_null(strstr(f->text, "cannot be shown"));
	assert_int_equal(f->ended, 3);
	fixture_free(f);
}

static void
missing_names_of_kumo_say_so(void **state)
{
	struct fixture *f = with("kumo.on('e', function() return select(2, pcall(function() return kumo.jsonl end)),"
				 "select(2, pcall(function() return kumo.log_eror end)), kumo.zzzzzzzzzzzz end)");

	assert_string_equal(f->load_error, "");
	fixture_fire(f, "e", NULL, 0, NULL);
	assert_non_null(strstr(f->result, "kumo.jsonl is not supported by Tailrace"));
	assert_non_null(strstr(f->result, "did you mean kumo.log_error?"));
	assert_non_null(strstr(f->result, "|nil"));
	fixture_free(f);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(chaining_counts_returned_values),
		cmocka_unit_test(an_error_stops_the_chain),
		cmocka_unit_test(an_event_without_handlers_returns_nothing),
		cmocka_unit_test(a_single_event_has_one_handler),
		cmocka_unit_test(registration_ends_with_the_load),
		cmocka_unit_test(registrars_are_call_stacks),
		cmocka_unit_test(rejections_are_found_where_they_are_wrapped),
		cmocka_unit_test(tracebacks_cross_coroutines),
		cmocka_unit_test(any_value_may_be_raised),
		cmocka_unit_test(missing_names_of_kumo_say_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
