/* `tailrace-wires`: transports over real sockets, with each allocation of ours failing in turn, once and 50 in a row:
 * see wires.h. Each case is a process. How to run it: docs/reliability.md. */
#include "wires.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "cli/cli.h"
#include "memory.h"

#define CASE_S 60 /* real seconds */

static const struct wire *const wires[] = {
	&wire_http, &wire_https, &wire_listener, &wire_smtp, &wire_nats, &wire_amqp, &wire_kafka};
static const uint64_t windows[] = {1, 50};

static struct {
	uint64_t after, times;
} plan;
static struct board { /* shared with the children */
	_Atomic uint64_t count, faults;
} * board;

/* --- a case ------------------------------------------------------------------------------------------------------ */

static void
count_failure(void)
{
	atomic_fetch_add(&board->faults, 1);
}

void
wire_begin(void)
{
	memory_arm(MEMORY_C, plan.after, plan.times);
}

void
wire_calm(void)
{
	memory_calm();
	atomic_store(&board->count, memory_disarm(MEMORY_C));
}

bool
wire_tells(void)
{
	return plan.times <= 1;
}

void
wire_wrong(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	_exit(TR_EXIT_FAILED);
}

static bool
is_true(void *arg)
{
	return *(const bool *)arg;
}

bool
wire_wait(struct tr_loop *loop, const bool *flag)
{
	return tr_loop_run_until(loop, is_true, (void *)flag, WIRE_LIMIT_NS);
}

static void
line_logged(void *arg, enum tr_level level, const char *target, const char *text)
{
	if (getenv("WIRES_LOG") != NULL)
		fprintf(stderr, "%s: %s\n", target, text);
}

static void
run_case(const struct wire *wire)
{
	struct tr_loop *loop;

	alarm(CASE_S);
	signal(SIGPIPE, SIG_IGN);
	tr_log_sink(line_logged, NULL);
	if (tr_loop_new(&loop) != TR_OK)
		exit(TR_EXIT_OSERR);
	tr_loop_enter(loop);
	memory_watch_all();
	memory_on_failure(count_failure);
	wire->run(loop);
	if (tr_hold_count() != 0)
		wire_wrong("%d holds are left", tr_hold_count());
	tr_loop_free(loop);
	exit(TR_EXIT_OK);
}

/* Returns whether it went well; says so if not. */
static bool
watch(const struct wire *wire, uint64_t after, uint64_t times)
{
	int status = 0;
	pid_t pid;

	plan.after = after;
	plan.times = times;
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		run_case(wire);
	if (pid < 0 || waitpid(pid, &status, 0) != pid) {
		perror("tailrace-wires: fork");
		exit(TR_EXIT_OSERR);
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) == TR_EXIT_OK)
		return true;
	fprintf(stderr, "WRONG: tailrace-wires --case %s %llu %llu: %s\n", wire->name, (unsigned long long)after,
		(unsigned long long)times,
		WIFEXITED(status)             ? "its end"
		: WTERMSIG(status) == SIGALRM ? "a hang"
					      : strsignal(WTERMSIG(status)));
	return false;
}

/* --- all of them ------------------------------------------------------------------------------------------------- */

/* Every `step`th allocation of a wire. Returns the number of cases that went wrong. */
static unsigned
sweep(const struct wire *wire, uint64_t sample)
{
	uint64_t total, step, cases = 0, faults = atomic_load(&board->faults);
	unsigned wrong = 0;

	if (!watch(wire, UINT64_MAX, 0))
		return 1;
	total = atomic_load(&board->count);
	step = sample > 0 && total > sample ? total / sample : 1;
	for (uint64_t after = 0; after < total; after += step) {
		for (size_t i = 0; i < TR_COUNT(windows); i++, cases++)
			wrong += !watch(wire, after, windows[i]);
	}
	printf("%s: %llu allocations of ours, %llu cases, %llu faults, %u wrong\n", wire->name,
		(unsigned long long)total, (unsigned long long)cases,
		(unsigned long long)(atomic_load(&board->faults) - faults), wrong);
	return wrong;
}

static int
usage(FILE *out, int status)
{
	fputs("Usage: tailrace-wires [--full | --sample N] [NAME ...]\n"
	      "       tailrace-wires --case NAME N TIMES\n\n"
	      "Transports over loopback with each of our allocations failing, or N of each transport's (10). NAME: "
	      "http, "
	      "https,\n"
	      "listener, smtp, nats, amqp, kafka. --case lets TIMES of them fail after N. MEMORY_TRACE=1 in the "
	      "environment prints\n"
	      "where, WIRES_LOG=1 the log. The exit status is 1 if a case went wrong.\n",
		out);
	return status;
}

static bool
want(const char *name, bool wanted[TR_COUNT(wires)])
{
	for (size_t i = 0; i < TR_COUNT(wires); i++) {
		if (strcmp(name, wires[i]->name) == 0)
			return wanted[i] = true;
	}
	return false;
}

int
main(int argc, char **argv)
{
	const char *after = NULL, *times = NULL;
	bool wanted[TR_COUNT(wires)] = {false}, all = true;
	uint64_t sample = 10;
	unsigned wrong = 0;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--full") == 0) {
			sample = 0;
		} else if (strcmp(argv[i], "--sample") == 0 && i + 1 < argc) {
			sample = strtoull(argv[++i], NULL, 10);
		} else if (strcmp(argv[i], "--case") == 0 && i + 3 < argc) {
			if (!want(argv[++i], wanted))
				return usage(stderr, TR_EXIT_USAGE);
			all = false;
			after = argv[++i];
			times = argv[++i];
		} else if (strcmp(argv[i], "--help") == 0) {
			return usage(stdout, TR_EXIT_OK);
		} else if (want(argv[i], wanted)) {
			all = false;
		} else {
			return usage(stderr, TR_EXIT_USAGE);
		}
	}
	board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (board == MAP_FAILED) {
		perror("tailrace-wires");
		return TR_EXIT_OSERR;
	}
	for (size_t i = 0; i < TR_COUNT(wires); i++) {
		if (!all && !wanted[i])
			continue;
		if (after != NULL)
			wrong += !watch(wires[i], strtoull(after, NULL, 10), strtoull(times, NULL, 10));
		else
			wrong += sweep(wires[i], sample);
	}
	return wrong > 0 ? TR_EXIT_FAILED : TR_EXIT_OK;
}
