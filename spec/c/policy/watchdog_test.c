/* The watchdog interrupts Lua that does not end, in its own host only; it tells of threads that hang. */
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include <time.h>

#include "base/pulse.h"
#include "fixture.h"

/* ThreadSanitizer delivers signals in calls of libc only. */
#ifdef __SANITIZE_THREAD__
#define SPIN "while true do io.stdout:write('') end"
#else
#define SPIN "while true do end"
#endif

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char lines[65536];

static void
keep_line(void *arg, enum tr_level level, const char *target, const char *text)
{
	pthread_mutex_lock(&mutex);
	if (strcmp(target, "watchdog") == 0)
		snprintf(lines + strlen(lines), sizeof lines - strlen(lines), "%s\n", text);
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

/* --- threads that hang ------------------------------------------------------------------------------------------ */

static void
wait_for_line(const char *text)
{
	static const struct timespec pause = {0, 10 * TR_NS_PER_MS};

	for (int i = 0; i < 6000 && !has_line((void *)text); i++)
		nanosleep(&pause, NULL);
	assert_true(has_line((void *)text));
}

struct hanging {
	_Atomic int go; /* 1: the next piece of work, 2: the end */
	_Atomic bool began;
	bool rests;
	const char *name;
	pthread_t thread;
};

static void *
hanging_thread(void *arg)
{
	struct hanging *hanging = arg;
	struct tr_pulse pulse;

	tr_pulse_enter(&pulse, hanging->name, "has not moved");
	if (hanging->rests)
		tr_pulse_rest();
	atomic_store(&hanging->began, true);
	while (atomic_load(&hanging->go) == 0)
		sched_yield(); /* a call of libc, so that ThreadSanitizer delivers signals */
	tr_pulse_work();
	while (atomic_load(&hanging->go) != 2)
		tr_pulse_work();
	tr_pulse_leave(&pulse);
	return NULL;
}

static void
a_thread_that_hangs_is_told_of_until_it_goes_on(void **state)
{
	struct hanging rests = {.rests = true, .name = "the first"}, hangs = {.name = "the second"};

	pthread_create(&rests.thread, NULL, hanging_thread, &rests);
	while (!atomic_load(&rests.began))
		sched_yield();
	tr_watchdog_stuck_after(300 * TR_NS_PER_MS);
	pthread_create(&hangs.thread, NULL, hanging_thread, &hangs);
	wait_for_line("the second has not moved for ");
	assert_true(has_line(" s on a processor)"));
	assert_true(has_line("native stack:"));
	atomic_store(&hangs.go, 1);
	wait_for_line("the second goes on, after ");
	assert_false(has_line("the first")); /* it has waited for longer than the other has worked */
	atomic_store(&rests.go, 2);
	atomic_store(&hangs.go, 2);
	pthread_join(rests.thread, NULL);
	pthread_join(hangs.thread, NULL);
	tr_watchdog_stuck_after(10 * TR_NS_PER_S);
}

/* Status of a process in which a thread hangs and which is then asked to stop by a signal that no thread takes. */
static int
end_of_a_stop(bool hangs)
{
	int status, ready[2];
	char byte = 0;

	assert_int_equal(pipe(ready), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct hanging hanging = {.rests = !hangs, .name = "it"};
		sigset_t term;

		sigemptyset(&term);
		sigaddset(&term, SIGTERM);
		pthread_sigmask(SIG_BLOCK, &term, NULL);
		tr_watchdog_start();
		tr_watchdog_stuck_after(hangs ? TR_NS_PER_S : 60 * TR_NS_PER_S);
		tr_watchdog_stops(100 * TR_NS_PER_MS, 70);
		pthread_create(&hanging.thread, NULL, hanging_thread, &hanging);
		if (write(ready[1], &byte, 1) != 1)
			_exit(2);
		if (!hangs) { /* the watchdog sees the signal, and ends nothing */
			wait_for_line("by a signal that no thread takes");
			tr_watchdog_stop();
			_exit(3);
		}
		pthread_join(hanging.thread, NULL);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	assert_int_equal(kill(pid, SIGTERM), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void
a_stop_whose_signal_is_not_taken_ends_what_hangs(void **state)
{
	assert_int_equal(end_of_a_stop(true), 70);
}

static void
a_stop_waits_for_what_does_not_hang(void **state)
{
	assert_int_equal(end_of_a_stop(false), 3);
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
		cmocka_unit_test(a_thread_that_hangs_is_told_of_until_it_goes_on),
		cmocka_unit_test(pattern_functions_are_bounded),
	};
	const struct CMUnitTest forking[] = {
		/* before this process has a watchdog */
		cmocka_unit_test(a_stop_whose_signal_is_not_taken_ends_what_hangs),
		cmocka_unit_test(a_stop_waits_for_what_does_not_hang),
	};

	tr_log_sink(keep_line, NULL);
	return cmocka_run_group_tests(forking, NULL, NULL) + cmocka_run_group_tests(tests, begin, end);
}
