/* The watchdog interrupts Lua that does not end, in its own host only. */
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>

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

#define PATIENCE_NS (60 * TR_NS_PER_S)
#define BRIEF_NS (200 * TR_NS_PER_MS)

static int64_t
real_ns(void) /* the fixture's clock is virtual */
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * TR_NS_PER_S + now.tv_nsec;
}

/* With a limit of its own: all else may take the host's, for the machine may be slow. */
static void
fire_briefly(struct fixture *f, const char *event)
{
	struct tr_task_call call = {.end = fixture_end, .end_arg = f, .limit_ns = BRIEF_NS};

	assert_int_equal(tr_event_fire(f->host, event, &call, NULL), TR_OK);
}

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
		&(struct tr_host_config){.handler_limit_ns = 500 * TR_NS_PER_MS});
	int64_t until_ns;

	fixture_fire(f, "e", NULL, 0, "message 42");
	assert_int_equal(f->ended, 1);
	assert_int_equal(f->status, TR_EINVAL);
	assert_non_null(strstr(f->text, ":2: handler ran longer than 0.5 s without waiting"));
	assert_non_null(strstr(f->text, "spin"));
	assert_non_null(strstr(f->text, "in event 'e', message 42"));
	for (until_ns = real_ns() + PATIENCE_NS; !has_line("event e message 42");) {
		assert_true(real_ns() < until_ns);
		sched_yield();
	}
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
			NULL);

	fire_briefly(f, "e");
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

static struct busy busy;

/* In a stretch of Lua of this thread's host: the other one has begun and ended one meanwhile. */
static void
await_two_runs(void)
{
	int before = atomic_load(&busy.runs);

	while (atomic_load(&busy.runs) < before + 2)
		sched_yield();
}

static void
another_host_goes_on_meanwhile(void **state)
{
	static const char policy[] =
		"local kumo, t = require 'kumo', require 't'\nkumo.on('ok', function() return 1 end)\n"
		"kumo.on('long', function() t.hook() return 2 end)\n"
		"kumo.on('e', function() " SPIN " end)";
	static const struct tr_host_config patient = {.handler_limit_ns = PATIENCE_NS};
	struct fixture *a = fixture_new(policy, &patient);
	struct fixture *b = fixture_new(policy, &patient);
	pthread_t thread;

	busy = (struct busy){.host = b->host};
	fixture_hook = await_two_runs;
	pthread_create(&thread, NULL, busy_thread, &busy);
	fixture_fire(a, "long", NULL, 0, NULL);
	assert_string_equal(a->result, "2");
	fire_briefly(a, "e");
	assert_int_equal(a->status, TR_EINVAL);
	atomic_store(&busy.stop, true);
	pthread_join(thread, NULL);
	assert_int_equal(busy.failed, 0);
	fixture_free(b);
	fixture_free(a);
}

/* How often the watchdog's thread has gone to sleep: after each look. */
static long
count_sleeps(void)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;
	long sleeps = -1;

	assert_non_null(dir);
	while (sleeps < 0 && (entry = readdir(dir)) != NULL) {
		char path[300], line[128];
		bool found = false;
		FILE *file;

		snprintf(path, sizeof path, "/proc/self/task/%s/status", entry->d_name);
		if ((file = fopen(path, "r")) == NULL)
			continue;
		while (fgets(line, sizeof line, file) != NULL) {
			found = found || strcmp(line, "Name:\twatchdog\n") == 0;
			if (found)
				(void)sscanf(line, "voluntary_ctxt_switches: %ld", &sleeps);
		}
		fclose(file);
	}
	closedir(dir);
	assert_true(sleeps >= 0);
	return sleeps;
}

static void
await_a_look(void)
{
	long before = count_sleeps();

	while (count_sleeps() < before + 2) /* the first may be of one that had begun */
		sched_yield();
}

/* The watchdog has seen the handler when its whole process stops, and looks at it again afterwards. */
static void
stop_for_a_while(void)
{
	char command[200];
	int pid = (int)getpid();

	await_a_look();
	snprintf(command, sizeof command,
		"kill -STOP %d; until grep -q '^State:.T' /proc/%d/status; do :; done; sleep 1.5; kill -CONT %d", pid,
		pid, pid);
	assert_int_equal(system(command), 0);
	await_a_look();
}

static void
a_pause_of_the_process_is_not_the_handlers(void **state)
{
	static const struct tr_host_config limits = {.handler_limit_ns = TR_NS_PER_S};
	int64_t own_ns;

	fixture_hook = stop_for_a_while;
	do {
		struct fixture *f = fixture_new("local kumo, t = require 'kumo', require 't'\n"
						"kumo.on('e', function() t.hook() return 1 end)",
			&limits);

		own_ns = -real_ns() - 1500 * TR_NS_PER_MS;
		fixture_fire(f, "e", NULL, 0, NULL);
		own_ns += real_ns();
		if (own_ns < limits.handler_limit_ns) {
			assert_int_equal(f->status, TR_OK);
			assert_string_equal(f->result, "1");
		}
		fixture_free(f);
	} while (own_ns >= limits.handler_limit_ns); /* it did run too long, on a slow machine */
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
