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
#include "libraries.h"
#include "memory.h"

#define CASE_S 120 /* real seconds */
#define EXIT_SANITIZER 23

static const struct wire *const wires[] = {&wire_begin_all, &wire_dns, &wire_http, &wire_https, &wire_listener,
	&wire_smtp, &wire_ws, &wire_wss, &wire_redis, &wire_rediss, &wire_nats, &wire_natss, &wire_amqp, &wire_amqps,
	&wire_kafka};
static const uint64_t windows[] = {1, 50};

#define OURS UINT32_MAX

static unsigned own_count; /* cases that ended in what is a library's own */

static struct {
	uint32_t library; /* whose allocations: OURS, or libraries_name() */
	uint64_t after, times;
} plan = {.library = OURS};
static bool calm;     /* the case is over its faults */
static struct board { /* shared with the children */
	_Atomic uint64_t count, faults;
	_Atomic uint64_t libraries[LIBRARIES_MAX]; /* allocations of each */
} * board;

const char *__asan_default_options(void);

/* The sanitizer asks for it, and would else end with 1, as what is wrong does. */
const char *
__asan_default_options(void)
{
	return "exitcode=23";
}

/* --- a case ------------------------------------------------------------------------------------------------------ */

static void
count_failure(void)
{
	atomic_fetch_add(&board->faults, 1);
}

void
wire_begin(void)
{
	if (plan.library == OURS)
		memory_arm(MEMORY_C, plan.after, plan.times);
	else
		libraries_arm(plan.library, plan.after, plan.times);
}

bool
wire_is_calm(void)
{
	return calm;
}

void
wire_calm(void)
{
	calm = true;
	memory_calm();
	libraries_calm();
	atomic_store(&board->count, memory_disarm(MEMORY_C));
	for (unsigned i = 0; libraries_name(i) != NULL; i++)
		atomic_store(&board->libraries[i], libraries_allocated(i));
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

static bool
is_never(void *arg)
{
	return false;
}

void
wire_pause(struct tr_loop *loop, int64_t ns)
{
	(void)tr_loop_run_until(loop, is_never, NULL, ns);
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
	libraries_on_failure(count_failure);
	wire->run(loop);
	if (tr_hold_count() != 0)
		wire_wrong("%d holds are left", tr_hold_count());
	tr_loop_free(loop);
	exit(TR_EXIT_OK);
}

/* What libraries do by themselves, so that nobody here could do better: libcurl 7.88 frees the name of a TLS session
 * twice that it had no memory to keep (Curl_ssl_addsessionid()); librabbitmq 0.11 forgets a block that its pool has no
 * memory to note (amqp_pool_alloc()), and the buffer of a connection that cannot be made (amqp_new_connection());
 * libcrypto 3.0 a name of an algorithm that it cannot note, when it begins. */
static const struct {
	const char *library, *wire;
	bool leak; /* which only a sanitizer tells of */
} faults_of_theirs[] = {{"libcurl", "https", false}, {"librabbitmq", "amqp", true}, {"librabbitmq", "amqps", true},
	{"libcrypto", "begin", true}};

static bool
is_its_own(const struct wire *wire, uint32_t library, int status)
{
	bool died = WIFSIGNALED(status) && WTERMSIG(status) != SIGALRM;
	bool accused = WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SANITIZER;

	if (library == OURS)
		return false;
	for (size_t i = 0; i < TR_COUNT(faults_of_theirs); i++) {
		if (strcmp(faults_of_theirs[i].library, libraries_name(library)) == 0 &&
			strcmp(faults_of_theirs[i].wire, wire->name) == 0)
			return accused || (died && !faults_of_theirs[i].leak);
	}
	return (died || accused) && libraries_aborts(library);
}

/* Returns whether it went well, or ended in what is the library's own; says so if not. */
static bool
watch(const struct wire *wire, uint32_t library, uint64_t after, uint64_t times)
{
	int status = 0;
	bool own;
	pid_t pid;

	plan.library = library;
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
	own = is_its_own(wire, library, status);
	own_count += own;
	fprintf(stderr, "%s: tailrace-wires%s%s --case %s %llu %llu: %s\n", own ? "THE LIBRARY'S OWN" : "WRONG",
		library == OURS ? "" : " --library ", library == OURS ? "" : libraries_name(library), wire->name,
		(unsigned long long)after, (unsigned long long)times,
		WIFEXITED(status)             ? "its end"
		: WTERMSIG(status) == SIGALRM ? "a hang"
					      : strsignal(WTERMSIG(status)));
	return own;
}

/* --- all of them ------------------------------------------------------------------------------------------------- */

/* Every `step`th allocation of a wire. Returns the number of cases that went wrong. */
static unsigned
sweep(const struct wire *wire, uint32_t library, uint64_t total, uint64_t sample)
{
	uint64_t step = sample > 0 && total > sample ? total / sample : 1, cases = 0;
	uint64_t faults = atomic_load(&board->faults);
	unsigned wrong = 0, before = own_count;

	for (uint64_t after = sample > 0 ? step / 2 : 0; after < total; after += step) {
		for (size_t i = 0; i < TR_COUNT(windows); i++, cases++)
			wrong += !watch(wire, library, after, windows[i]);
	}
	printf("%s: %llu allocations of %s, %llu cases, %llu faults, %u wrong", wire->name, (unsigned long long)total,
		library == OURS ? "ours" : libraries_name(library), (unsigned long long)cases,
		(unsigned long long)(atomic_load(&board->faults) - faults), wrong);
	if (own_count > before)
		printf(", %u of its own", own_count - before);
	putchar('\n');
	fflush(stdout);
	return wrong;
}

/* Of each library that the wire needs, or of the one of that name. */
static unsigned
sweep_libraries(const struct wire *wire, const char *only, uint64_t sample)
{
	uint64_t totals[LIBRARIES_MAX];
	unsigned wrong = 0;

	if (!watch(wire, 0, UINT64_MAX, 0))
		return 1;
	for (unsigned i = 0; libraries_name(i) != NULL; i++)
		totals[i] = atomic_load(&board->libraries[i]);
	for (unsigned i = 0; libraries_name(i) != NULL; i++) {
		if (totals[i] > 0 && (*only != '\0' ? strcmp(only, libraries_name(i)) == 0 : !libraries_aborts(i)))
			wrong += sweep(wire, i, totals[i], sample);
	}
	return wrong;
}

static unsigned
sweep_ours(const struct wire *wire, uint64_t sample)
{
	return watch(wire, OURS, UINT64_MAX, 0) ? sweep(wire, OURS, atomic_load(&board->count), sample) : 1;
}

static int
usage(FILE *out, int status)
{
	fputs("Usage: tailrace-wires [--libraries | --library LIBRARY] [--full | --sample N] [NAME ...]\n"
	      "       tailrace-wires [--library LIBRARY] --case NAME N TIMES\n\n"
	      "Transports over loopback with each of our allocations failing, or N of each transport's (10). NAME:",
		out);
	for (size_t i = 0; i < TR_COUNT(wires); i++)
		fprintf(out, " %s", wires[i]->name);
	fputs(".\n--libraries: those of the libraries in place of ours, one library after the other; --library: of "
	      "one, "
	      "such as libcurl.\n--case lets TIMES of them fail after N. MEMORY_TRACE=1 in the environment prints "
	      "where, "
	      "WIRES_LOG=1 the log.\nThe exit status is 1 if a case went wrong.\n",
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

static uint32_t
library_of(const char *name)
{
	unsigned i = 0;

	if (name == NULL)
		return OURS;
	while (libraries_name(i) != NULL && strcmp(libraries_name(i), name) != 0)
		i++;
	if (libraries_name(i) != NULL)
		return i;
	fprintf(stderr, "tailrace-wires: no library %s\n", name);
	exit(TR_EXIT_USAGE);
}

int
main(int argc, char **argv)
{
	const char *after = NULL, *times = NULL, *library = NULL; /* "": all */
	bool wanted[TR_COUNT(wires)] = {false}, all = true;
	uint64_t sample = 10;
	uint32_t of = OURS;
	unsigned wrong = 0;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--full") == 0) {
			sample = 0;
		} else if (strcmp(argv[i], "--sample") == 0 && i + 1 < argc) {
			sample = strtoull(argv[++i], NULL, 10);
		} else if (strcmp(argv[i], "--libraries") == 0) {
			library = "";
		} else if (strcmp(argv[i], "--library") == 0 && i + 1 < argc) {
			library = argv[++i];
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
	libraries_take();
	if (after != NULL || (library != NULL && *library != '\0'))
		of = library_of(library);
	for (size_t i = 0; i < TR_COUNT(wires); i++) {
		if (!all && !wanted[i])
			continue;
		if (after != NULL)
			wrong += !watch(wires[i], of, strtoull(after, NULL, 10), strtoull(times, NULL, 10));
		else if (library != NULL)
			wrong += sweep_libraries(wires[i], library, sample);
		else
			wrong += sweep_ours(wires[i], sample);
	}
	return wrong > 0 ? TR_EXIT_FAILED : TR_EXIT_OK;
}
