/* The watchdog interrupts Lua that does not end, in its own host only. */
#include <pthread.h>

#include "fixture.h"

/* ThreadSanitizer delivers signals in calls of libc only. */
#ifdef __SANITIZE_THREAD__
#define SPIN "while true do io.stdout:write('') end"
#else
#define SPIN "while true do end"
#endif

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char lines[4096];

static void
keep_line(void *arg, enum tr_level level, const char *target, const char *text)
{
	pthread_mutex_lock(&mutex);
	if (strcmp(target, "watchdog") == 0)
		snprintf(lines, sizeof lines, "%s", text);
	pthread_mutex_unlock(&mutex);
}

static bool
has_line(void *arg)
{
	pthread_mutex_lock(&mutex);
	bool found = strstr(lines, arg) != NULL;
	pthread_mutex_unlock(&mutex);
	return found;
}

static const struct tr_host_config LIMITS = {.handler_limit_ns = 200 * TR_NS_PER_MS};

static int
begin(void **state)
{
	lines[0] = '\0';
	tr_log_sink(keep_line, NULL);
	return tr_watchdog_start();
}

static int
end(void **state)
{
	tr_watchdog_stop();
	tr_log_sink(NULL, NULL);
	return 0;
}

static void
an_endless_loop_ends_with_a_traceback(void **state)
{
	struct fixture *f = fixture_new("local kumo = require 'kumo'\n"
					"local function spin() " SPIN " end\n"
					"kumo.on('e', function() local x = spin() return x end)\n"
					"kumo.on('ok', function() return 1 end)",
		&LIMITS);
	struct timespec pause = {0, 10 * TR_NS_PER_MS};

	fixture_fire(f, "e", NULL, 0, "message 42");
	assert_int_equal(f->ended, 1);
	assert_int_equal(f->status, TR_EINVAL);
	assert_non_null(strstr(f->text, ":2: handler ran longer than 0.2 s without waiting"));
	assert_non_null(strstr(f->text, "spin"));
	assert_non_null(strstr(f->text, "in event 'e', message 42"));
	for (int i = 0; i < 500 && !has_line("event e message 42"); i++)
		nanosleep(&pause, NULL);
	assert_true(has_line("event e message 42"));
	fixture_fire(f, "ok", NULL, 0, NULL); /* the host is as good as before */
	assert_string_equal(f->result, "1");
	fixture_free(f);
}

static void
a_loop_that_catches_the_error_is_interrupted_again(void **state)
{
	struct fixture *f =
		fixture_new("local kumo = require 'kumo'\n"
			    "kumo.on('e', function() local n = 0 while n < 3 do pcall(function() " SPIN " end) "
			    "n = n + 1 end return n end)",
			&LIMITS);

	fixture_fire(f, "e", NULL, 0, NULL);
	assert_int_equal(f->status, TR_OK);
	assert_string_equal(f->result, "3");
	fixture_free(f);
}

struct busy {
	struct tr_host *host;
	_Atomic bool stop;
	_Atomic int runs;
	int failed;
};

static void
busy_end(void *arg, const struct tr_task_result *result)
{
	struct busy *busy = arg;

	busy->failed += result->status != TR_OK;
}

static void *
busy_thread(void *arg)
{
	struct busy *busy = arg;

	while (!atomic_load(&busy->stop)) {
		struct tr_task_call call = {.end = busy_end, .end_arg = busy};
		tr_event_fire(busy->host, "ok", &call, NULL);
		atomic_fetch_add(&busy->runs, 1);
	}
	return NULL;
}

static void
another_host_goes_on_meanwhile(void **state)
{
	static const char policy[] = "local kumo = require 'kumo'\nkumo.on('ok', function() return 1 end)\n"
				     "kumo.on('e', function() " SPIN " end)";
	struct fixture *a = fixture_new(policy, &LIMITS);
	struct fixture *b = fixture_new(policy, &LIMITS);
	struct busy busy = {.host = b->host};
	pthread_t thread;

	pthread_create(&thread, NULL, busy_thread, &busy);
	while (atomic_load(&busy.runs) == 0)
		sched_yield();
	int before = atomic_load(&busy.runs);
	fixture_fire(a, "e", NULL, 0, NULL);
	assert_int_equal(a->status, TR_EINVAL);
	assert_true(atomic_load(&busy.runs) > before);
	atomic_store(&busy.stop, true);
	pthread_join(thread, NULL);
	assert_int_equal(busy.failed, 0);
	fixture_free(b);
	fixture_free(a);
}

/* The handler, which the watchdog has seen, stops its whole process for longer than it may run. */
static void
a_pause_of_the_process_is_not_the_handlers(void **state)
{
	static const struct tr_host_config limits = {.handler_limit_ns = TR_NS_PER_S};
	char policy[512];
	struct fixture *f;

	snprintf(policy, sizeof policy,
		"local kumo = require 'kumo'\nkumo.on('e', function()\n"
		"os.execute('sleep 0.25; (sleep 1.5; kill -CONT %d) & kill -STOP %d')\n"
		"local n = 0 for i = 1, 1e7 do n = n + 1 end return n end)",
		(int)getpid(), (int)getpid());
	f = fixture_new(policy, &limits);
	fixture_fire(f, "e", NULL, 0, NULL);
	assert_int_equal(f->status, TR_OK);
	assert_string_equal(f->result, "10000000");
	fixture_free(f);
}

static void
pattern_functions_are_bounded(void **state)
{
	struct fixture *f = fixture_new("local kumo = require 'kumo'\nkumo.on('e', function()\n"
					"local big = ('x'):rep(17 * 1024 * 1024)\n"
					"local out = {}\n"
					"for i, fn in ipairs({'find', 'match', 'gmatch', 'gsub'}) do\n"
					"  local ok, err = pcall(string[fn], big, 'y', '')\n"
					"  out[i] = not ok and err:match('at most %d+ are allowed') or 'allowed'\nend\n"
					"out[5] = tostring(pcall(string.rep, 'x', 65 * 1024 * 1024))\n"
					"out[6] = tostring(pcall(string.rep, 'x', 1e300))\n"
					"return table.concat(out, '|') end)",
		NULL);

	fixture_fire(f, "e", NULL, 0, NULL);
	assert_string_equal(f->result, "at most 16777216 are allowed|at most 16777216 are allowed|at most 16777216 are "
				       "allowed|at most 16777216 are allowed|false|false");
	fixture_free(f);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_endless_loop_ends_with_a_traceback),
		cmocka_unit_test(a_loop_that_catches_the_error_is_interrupted_again),
		cmocka_unit_test(another_host_goes_on_meanwhile),
		cmocka_unit_test(a_pause_of_the_process_is_not_the_handlers),
		cmocka_unit_test(pattern_functions_are_bounded),
	};

	return cmocka_run_group_tests(tests, begin, end);
}
