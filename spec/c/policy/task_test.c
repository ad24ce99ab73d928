/* Tasks: start, park, wake, cancel, deadlines, and waits through whatever a policy puts around them. */
#include "fixture.h"

static const char PRELUDE[] = "local kumo, t = require 'kumo', require 't'\n";

static struct fixture *
with(const char *policy)
{
	char text[8192];

	snprintf(text, sizeof text, "%s%s", PRELUDE, policy);
	struct fixture *f = fixture_new(text, NULL);
	if (f->load_error[0] != '\0')
		fail_msg("%s", f->load_error);
	assert_true(f->loaded);
	return f;
}

static void
runs_to_its_end(void **state)
{
	struct fixture *f = with("kumo.on('e', function(a) return a .. '!', nil, _KUMO_CURRENT_EVENT end)");

	assert_null(fixture_fire(f, "e", "x", 0, NULL));
	assert_int_equal(f->ended, 1);
	assert_int_equal(f->status, TR_OK);
	assert_string_equal(f->result, "x!|nil|e");
	for (int i = 0; i < 1000; i++)
		fixture_fire(f, "e", "y", 0, NULL);
	assert_int_equal(f->ended, 1001);
	assert_int_equal(tr_host_task_count(f->host), 0);
	fixture_free(f);
}

static void
parks_and_goes_on_with_the_results(void **state)
{
	struct fixture *f = with("kumo.on('e', function() local a = t.park() local b = t.park() return a, b end)");

	assert_non_null(fixture_fire(f, "e", NULL, 0, NULL));
	assert_int_equal(tr_host_task_count(f->host), 1);
	struct tr_ticket first = f->ticket;
	assert_true(fixture_wake(f, "one", false));
	assert_int_equal(f->ended, 0);
	assert_false(tr_task_wake(&first, NULL, NULL, false)); /* stale: it waits again */
	assert_true(fixture_wake(f, "two", false));
	assert_string_equal(f->result, "one|two");
	assert_false(fixture_wake(f, "three", false));
	assert_int_equal(f->cancelled, 0);
	assert_int_equal(tr_host_task_count(f->host), 0);
	fixture_free(f);
}

static void
a_stale_ticket_does_not_wake_the_next_user_of_the_coroutine(void **state)
{
	struct fixture *f = with("kumo.on('e', function() return t.park() end)");

	fixture_fire(f, "e", NULL, 0, NULL);
	struct tr_ticket old = f->ticket;
	assert_true(fixture_wake(f, "one", false));
	struct tr_task *task = fixture_fire(f, "e", NULL, 0, NULL);
	assert_ptr_equal(task, old.task); /* the pool gave the same one */
	assert_false(tr_task_wake(&old, NULL, NULL, false));
	assert_true(fixture_wake(f, "two", false));
	assert_string_equal(f->result, "two");
	fixture_free(f);
}

static void
a_wake_can_raise_inside_pcall(void **state)
{
	static const char *const bodies[] = {
		"local ok, err = pcall(t.park) return ok, err",
		"local ok, err = pcall(function() return t.park() end) return ok, err",
		"local ok, err = pcall(function() local x = t.park() return x end) return ok, err",
		"return xpcall(t.park, function(e) return e end)",
		"local co = coroutine.create(t.park) return coroutine.resume(co)",
		"local co = coroutine.create(function() return t.park() end) return coroutine.resume(co)",
		"return pcall(coroutine.wrap(function() return (t.park()) end))",
		"local co = coroutine.wrap(function() return pcall(t.park) end) return co()",
	};

	for (size_t i = 0; i < TR_COUNT(bodies); i++) {
		char policy[512];
		snprintf(policy, sizeof policy, "kumo.on('e', function() %s end)", bodies[i]);
		struct fixture *f = with(policy);
		fixture_fire(f, "e", NULL, 0, NULL);
		assert_int_equal(f->ended, 0);
		assert_true(fixture_wake(f, "broken", true));
		assert_int_equal(f->ended, 1);
		assert_int_equal(f->status, TR_OK);
		assert_int_equal(f->count, 2);
		assert_memory_equal(f->result, "false|", 6);
		assert_non_null(strstr(f->result, "broken"));
		fixture_free(f);
	}
}

static void
an_uncaught_raise_ends_the_task_with_a_traceback(void **state)
{
	struct fixture *f = with("local function inner() return (t.park()) end\n"
				 "kumo.on('e', function() inner() return 1 end)");

	fixture_fire(f, "e", NULL, 0, "message 77");
	assert_true(fixture_wake(f, "broken", true));
	assert_int_equal(f->status, TR_EINVAL);
	assert_int_equal(f->reject_code, -1);
	assert_non_null(strstr(f->text, ":2: broken"));
	assert_non_null(strstr(f->text, "stack traceback"));
	assert_non_null(strstr(f->text, "in event 'e', message 77"));
	fixture_fire(f, "e", NULL, 0, NULL); /* a fresh coroutine */
	assert_true(fixture_wake(f, "fine", false));
	assert_string_equal(f->result, "1");
	fixture_free(f);
}

static void
waits_pass_through_whatever_stands_around_them(void **state)
{
	static const struct {
		const char *body, *result;
	} cases[] = {
		{"return select(2, pcall(t.park))", "v"},
		{"local co = coroutine.wrap(function(a) local v = t.park() coroutine.yield(a .. v) return 'end' end) "
		 "return co('a'), co()",
			"av|end"},
		{"local outer = coroutine.wrap(function() local inner = coroutine.wrap(function() return t.park() end) "
		 "return inner() end) return outer()",
			"v"},
		{"return (('abc'):gsub('b', function(x) return x .. t.park() end))", "abvc"},
		{"local l = {3, 1, 2} local first table.sort(l, function(a, b) first = first or t.park() return a < b "
		 "end) "
		 "return first, table.concat(l)",
			"v|123"},
		{"local o = setmetatable({}, {__index = function(_, k) return k .. t.park() end}) return o.k", "kv"},
		{"local o = setmetatable({}, {__add = function(a, b) return t.park() end}) return o + 1", "v"},
		{"for x in (function() return t.park() end) do return x end", "v"},
		{"package.preload.waits = function() return {v = t.park()} end return require('waits').v", "v"},
		{"local s = '' for k, x in pairs(setmetatable({}, {__pairs = function() local done return function() "
		 "if not done then done = true return 'k', t.park() end end end})) do s = s .. k .. x end return s",
			"kv"},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		char policy[1024];
		snprintf(policy, sizeof policy, "kumo.on('e', function() %s end)", cases[i].body);
		struct fixture *f = with(policy);
		fixture_fire(f, "e", NULL, 0, NULL);
		if (f->ended != 0)
			fail_msg("case %zu did not wait: %s %s", i, f->result, f->text);
		assert_true(fixture_wake(f, "v", false));
		assert_int_equal(f->ended, 1);
		if (f->status != TR_OK)
			fail_msg("case %zu: %s", i, f->text);
		assert_string_equal(f->result, cases[i].result);
		fixture_free(f);
	}
}

static bool
two_have_ended(void *arg)
{
	const struct fixture *f = arg;

	return f->ended == 2;
}

static void
a_module_that_waits_is_loaded_once_for_two(void **state)
{
	struct fixture *f = with("local loads = 0\n"
				 "package.preload.waits = function() loads = loads + 1 return {v = t.park()} end\n"
				 "kumo.on('e', function() return require('waits').v, loads end)");

	fixture_fire(f, "e", NULL, 0, NULL);
	struct tr_ticket loader = f->ticket;
	fixture_fire(f, "e", NULL, 0, NULL);
	assert_int_equal(f->ended, 0);
	f->ticket = loader;
	assert_true(fixture_wake(f, "v", false));
	assert_true(tr_loop_run_until(tr_host_loop(f->host), two_have_ended, f, TR_NS_PER_S));
	assert_int_equal(f->status, TR_OK);
	assert_string_equal(f->result, "v|1");
	fixture_free(f);
}

static void
a_wait_that_cannot_be_suspended_is_an_error_that_names_the_event(void **state)
{
	struct fixture *f = with(
		"kumo.on('e', function() return string.format('%s', setmetatable({}, {__tostring = t.park})) end)\n"
		"kumo.on('f', function() return string.format('%s', setmetatable({}, {__tostring = function() "
		"return coroutine.wrap(function() return t.park() end)() end})) end)");

	assert_null(fixture_fire(f, "e", NULL, 0, NULL));
	assert_int_equal(f->status, TR_EINVAL);
	assert_non_null(strstr(f->text, "cannot wait here, in event 'e'"));
	assert_null(fixture_fire(f, "f", NULL, 0, NULL));
	assert_non_null(strstr(f->text, "cannot wait here, in event 'f'"));
	assert_int_equal(tr_host_task_count(f->host), 0);
	fixture_free(f);
}

static void
a_task_starts_others_and_keeps_its_event(void **state)
{
	struct fixture *f = with(
		"local seen = {}\n"
		"kumo.on('inner', function(a) seen[#seen + 1] = _KUMO_CURRENT_EVENT if a == 'wait' then t.park() end "
		"end)\n"
		"kumo.on('e', function() t.fire('inner') seen[#seen + 1] = _KUMO_CURRENT_EVENT t.fire('inner', 'wait') "
		"seen[#seen + 1] = _KUMO_CURRENT_EVENT return table.concat(seen, ' ') end)\n"
		"kumo.on('deep', function() t.fire('deep') end)");

	fixture_fire(f, "e", NULL, 0, NULL);
	assert_int_equal(f->ended, 2); /* e and the first inner */
	assert_string_equal(f->result, "inner e inner e");
	assert_int_equal(tr_host_task_count(f->host), 1);
	assert_true(fixture_wake(f, NULL, false));
	assert_int_equal(f->ended, 3);
	fixture_free(f);
}

static void
cancel_runs_the_hook_and_cannot_be_caught(void **state)
{
	struct fixture *f = with("kumo.on('e', function() while true do pcall(coroutine.wrap(function() "
				 "xpcall(t.park, print) end)) end end)");
	struct tr_task *task = fixture_fire(f, "e", NULL, 0, NULL);

	assert_non_null(task);
	tr_task_cancel(task);
	assert_int_equal(f->cancelled, 1);
	assert_int_equal(f->ended, 1);
	assert_int_equal(f->status, TR_ECANCELED);
	assert_false(fixture_wake(f, "late", false));
	fixture_free(f);
}

static void
freeing_the_host_cancels_what_waits(void **state)
{
	struct fixture *f = with("kumo.on('e', function() t.park() end)");
	struct tr_host *host = f->host;

	fixture_fire(f, "e", NULL, 0, NULL);
	tr_host_free(host);
	f->host = NULL;
	assert_int_equal(f->cancelled, 1);
	assert_int_equal(f->status, TR_ECANCELED);
	fixture_free(f);
}

static void
a_deadline_ends_the_task(void **state)
{
	struct fixture *f = with("kumo.on('e', function() kumo.sleep(10) return 'late' end)");

	fixture_fire(f, "e", NULL, 3 * TR_NS_PER_S, "message 5");
	tr_loop_advance(f->loop, 2 * TR_NS_PER_S);
	assert_int_equal(f->ended, 0);
	tr_loop_advance(f->loop, 2 * TR_NS_PER_S);
	assert_int_equal(f->ended, 1);
	assert_int_equal(f->status, TR_ETIMEDOUT);
	assert_non_null(strstr(f->text, "deadline exceeded in event 'e' (message 5)"));
	fixture_fire(f, "e", NULL, 30 * TR_NS_PER_S, NULL);
	tr_loop_advance(f->loop, 11 * TR_NS_PER_S);
	assert_string_equal(f->result, "late");
	tr_loop_advance(f->loop, 60 * TR_NS_PER_S); /* its deadline is gone with it */
	assert_int_equal(f->ended, 2);
	fixture_free(f);
}

static void
the_report_says_who_waits_for_what(void **state)
{
	struct fixture *f = with("kumo.on('e', function() kumo.sleep(3) end)");
	struct tr_buf out = {0};

	fixture_fire(f, "e", NULL, 0, "message 5");
	tr_loop_advance(f->loop, TR_NS_PER_S);
	tr_host_report(f->host, &out);
	tr_buf_addc(&out, '\0');
	assert_non_null(strstr(out.data, "waiting event=e message 5 age=1.000s for sleep 3 s"));
	assert_non_null(strstr(out.data, "traceback"));
	tr_buf_free(&out);
	fixture_free(f);
}

static void
the_policy_file_may_wait(void **state)
{
	struct fixture *f =
		fixture_new("local kumo = require 'kumo' kumo.sleep(1) kumo.on('e', function() return 1 end)", NULL);

	assert_false(f->loaded);
	tr_loop_advance(f->loop, 2 * TR_NS_PER_S);
	assert_true(f->loaded);
	assert_string_equal(f->load_error, "");
	fixture_fire(f, "e", NULL, 0, NULL);
	assert_string_equal(f->result, "1");
	fixture_free(f);
	f = fixture_new("local x = nil\nx.y = 1", NULL);
	assert_true(f->loaded);
	assert_non_null(strstr(f->load_error, ":2: attempt to index local 'x'"));
	fixture_free(f);
	f = fixture_new("local x = = 1", NULL);
	assert_non_null(strstr(f->load_error, ":1:"));
	fixture_free(f);
}

static void
clocks_of_a_policy_are_ours(void **state)
{
	struct fixture *f = with("kumo.on('e', function() local a, b = os.time(), os.clock() kumo.sleep(90) "
				 "return a, os.time() - a, math.floor(os.clock() - b + .5), os.date('!%Y-%m-%d') end)");

	fixture_fire(f, "e", NULL, 0, NULL);
	tr_loop_advance(f->loop, 91 * TR_NS_PER_S);
	assert_string_equal(f->result, "1764000000|90|90|2025-11-24");
	fixture_free(f);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(runs_to_its_end),
		cmocka_unit_test(parks_and_goes_on_with_the_results),
		cmocka_unit_test(a_stale_ticket_does_not_wake_the_next_user_of_the_coroutine),
		cmocka_unit_test(a_wake_can_raise_inside_pcall),
		cmocka_unit_test(an_uncaught_raise_ends_the_task_with_a_traceback),
		cmocka_unit_test(waits_pass_through_whatever_stands_around_them),
		cmocka_unit_test(a_module_that_waits_is_loaded_once_for_two),
		cmocka_unit_test(a_wait_that_cannot_be_suspended_is_an_error_that_names_the_event),
		cmocka_unit_test(a_task_starts_others_and_keeps_its_event),
		cmocka_unit_test(cancel_runs_the_hook_and_cannot_be_caught),
		cmocka_unit_test(freeing_the_host_cancels_what_waits),
		cmocka_unit_test(a_deadline_ends_the_task),
		cmocka_unit_test(the_report_says_who_waits_for_what),
		cmocka_unit_test(the_policy_file_may_wait),
		cmocka_unit_test(clocks_of_a_policy_are_ours),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
