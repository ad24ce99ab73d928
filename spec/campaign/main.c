/* `tailrace-campaign`: the whole life of messages in the real engine, with each file operation, each allocation of ours
 * and each of Lua's failing in turn. Cases run in child processes, so that a crash or a hang is one case that is wrong
 * and the sweep goes on behind it. What happens in a case: campaign.lua. How to run it: docs/reliability.md. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "chunks.h"
#include "cli/cli.h"
#include "cli/script.h"
#include "disk.h"
#include "faults.h"
#include "memory.h"
#include "policy/policy.h"

#define CASES_A_CHILD 100 /* a leak is told at the end of a child */
#define EXIT_SANITIZER 23

struct sweep {
	const char *kind, *life, *sample, *option, *each; /* as campaign.lua takes them */
	uint64_t from, to;
	unsigned jobs;
	bool source, bare;
};

const char *__asan_default_options(void);

/* The sanitizer asks for it, and would else end with 1, as errors do. */
const char *
__asan_default_options(void)
{
	return "exitcode=23";
}

/* A child of a process that ends, ends. */
static pid_t
fork_bound(void)
{
	pid_t parent = getpid(), pid;

	fflush(NULL);
	pid = fork();
	if (pid < 0) {
		perror("tailrace-campaign: fork");
		exit(TR_EXIT_OSERR);
	}
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(TR_EXIT_OSERR);
	}
	return pid;
}

/* --- a child ----------------------------------------------------------------------------------------------------- */

static int
child(const struct sweep *sweep, uint64_t from, uint64_t to)
{
	static char lives[] = TR_SOURCE_DIR "/spec/campaign/campaign.lua",
		    modules_of_policies[] = TR_SOURCE_DIR "/spec/campaign/modules.lua", first[24], last[24];
	bool libraries = strcmp(sweep->kind, "libraries") == 0;
	static const struct tr_module modules[] = {
		{"tr.campaign", luaopen_tr_campaign}, {"tr.sim_disk", luaopen_tr_sim_disk}, {NULL, NULL}};
	struct tr_script_config script = {.program = "tailrace-campaign",
		.modules = modules,
		.limit_ns = TR_SCRIPT_LIMIT_NS,
		.host = memory_script_host};
	char *argv[] = {libraries ? modules_of_policies : lives, (char *)sweep->kind, first, last,
		(char *)sweep->sample, (char *)sweep->option, (char *)sweep->life, (char *)sweep->each};
	int status;

	snprintf(first, sizeof first, "%llu", (unsigned long long)from);
	snprintf(last, sizeof last, "%llu", (unsigned long long)to);
	signal(SIGPIPE, SIG_IGN);
	chunks_from_source(sweep->source);
	if (sweep->bare)
		memory_without_reserve();
	if (!libraries)
		disk_install(1);
	status = tr_script_run(&script, (int)(sizeof argv / sizeof *argv), argv);
	if (!libraries)
		disk_uninstall();
	return status;
}

/* Runs cases [from, to) in one; returns its status as of waitpid(). */
static int
run_child(const struct sweep *sweep, uint64_t from, uint64_t to, bool quiet)
{
	int status = 0, null;
	pid_t pid;

	atomic_store(&campaign_seat->next, from);
	atomic_store(&campaign_seat->done, false);
	snprintf(campaign_seat->what, sizeof campaign_seat->what, "(the start)");
	pid = fork_bound();
	if (pid == 0) {
		if (quiet && (null = open("/dev/null", O_WRONLY | O_CLOEXEC)) >= 0)
			dup2(null, STDERR_FILENO);
		exit(child(sweep, from, to));
	}
	if (waitpid(pid, &status, 0) != pid) {
		perror("tailrace-campaign: waitpid");
		exit(TR_EXIT_OSERR);
	}
	return status;
}

static bool
leaks(int status)
{
	return WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SANITIZER && atomic_load(&campaign_seat->done);
}

/* --- a job: children, one after the other ------------------------------------------------------------------------
 */

/* Which of the cases [from, to), which leak together, do so. Returns how many. */
static unsigned
name_leaks(const struct sweep *sweep, uint64_t from, uint64_t to)
{
	uint64_t middle = from + (to - from) / 2;
	unsigned found = 0;

	if (to - from == 1) {
		fprintf(stderr, "LEAK in %s\n", campaign_seat->what); /* of the child that has just ended */
		return 1;
	}
	if (leaks(run_child(sweep, from, middle, true)))
		found += name_leaks(sweep, from, middle);
	if (leaks(run_child(sweep, middle, to, true)))
		found += name_leaks(sweep, middle, to);
	return found;
}

/* Runs cases [from, to); returns the first that was not run. */
static uint64_t
watch(const struct sweep *sweep, uint64_t from, uint64_t to)
{
	uint64_t cases = atomic_load(&campaign_board->cases), wrong, faults, next;
	int status = run_child(sweep, from, to, false);

	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return to;
	atomic_fetch_add(&campaign_board->wrong, 1);
	next = atomic_load(&campaign_seat->next);
	if (leaks(status)) {
		wrong = atomic_load(&campaign_board->wrong);
		faults = atomic_load(&campaign_board->faults);
		cases = atomic_load(&campaign_board->cases);
		if (name_leaks(sweep, from, next) == 0)
			fprintf(stderr, "LEAK after --%s cases %llu to %llu together\n", sweep->kind,
				(unsigned long long)from, (unsigned long long)next - 1);
		atomic_store(&campaign_board->wrong, wrong); /* they were run before */
		atomic_store(&campaign_board->faults, faults);
		atomic_store(&campaign_board->cases, cases);
		return to;
	}
	if (atomic_load(&campaign_seat->done)) {
		fprintf(stderr, "BAD END after --%s cases %llu to %llu\n", sweep->kind, (unsigned long long)from,
			(unsigned long long)next - 1);
		return to;
	}
	fprintf(stderr, "%s in %s\n",
		WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? "HANG"
		: WIFSIGNALED(status)                              ? strsignal(WTERMSIG(status))
								   : "END OF THE PROCESS",
		campaign_seat->what);
	if (next <= from)
		exit(TR_EXIT_FAILED); /* it does not even start */
	return next;
}

/* Takes cases until there are none. */
static void
job(const struct sweep *sweep, struct campaign_seat *seat)
{
	campaign_seat = seat;
	for (;;) {
		uint64_t at = atomic_fetch_add(&campaign_board->taken, CASES_A_CHILD);
		uint64_t end = at + CASES_A_CHILD < sweep->to ? at + CASES_A_CHILD : sweep->to;

		if (at >= end || at >= atomic_load(&campaign_board->total))
			return;
		while (at < end && at < atomic_load(&campaign_board->total))
			at = watch(sweep, at, end);
	}
}

/* --- all of it ---------------------------------------------------------------------------------------------------
 */

static void
show_progress(const struct sweep *sweep, bool terminal, double real_s)
{
	uint64_t total = atomic_load(&campaign_board->total), to = sweep->to < total ? sweep->to : total;
	uint64_t cases = atomic_load(&campaign_board->cases);

	if (total == UINT64_MAX || to <= sweep->from || cases == 0)
		return;
	to -= sweep->from;
	fprintf(stderr, "%s--%s: %llu of %llu cases, %llu wrong, %.0f s, %.0f s to go%s", terminal ? "\r" : "",
		sweep->kind, (unsigned long long)cases, (unsigned long long)to,
		(unsigned long long)atomic_load(&campaign_board->wrong), real_s,
		real_s / (double)cases * (double)(to > cases ? to - cases : 0), terminal ? "\033[K" : "\n");
}

static double
real_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Returns whether all jobs have come to their end. */
static bool
run_jobs(const struct sweep *sweep)
{
	static const struct timespec pause = {0, 50000000};
	bool terminal = isatty(STDERR_FILENO), well = true;
	double began = real_s(), told = began;
	unsigned left = sweep->jobs;
	int status;

	for (unsigned i = 0; i < sweep->jobs; i++) {
		if (fork_bound() == 0) {
			job(sweep, &campaign_board->seats[i]);
			_exit(TR_EXIT_OK);
		}
	}
	while (left > 0) {
		pid_t pid = waitpid(-1, &status, WNOHANG);

		if (pid > 0) {
			left--;
			well = well && WIFEXITED(status) && WEXITSTATUS(status) == TR_EXIT_OK;
			continue;
		}
		nanosleep(&pause, NULL);
		if (real_s() - told < (terminal ? 1 : 60))
			continue;
		told = real_s();
		show_progress(sweep, terminal, told - began);
	}
	if (terminal)
		fputs("\r\033[K", stderr);
	return well;
}

static void
usage(FILE *out)
{
	fputs("Usage: tailrace-campaign --io|--malloc|--lua|--libraries [OPTIONS]\n\n"
	      "Lives of messages with each file operation, allocation or allocation of Lua failing in turn; and what "
	      "policies call, with\nthose of the libraries behind it failing.\n\n"
	      "  --life NAME   mail (the default), or batch\n"
	      "  --sample N    so many cases, spread over all (60)\n"
	      "  --full        all cases\n"
	      "  --places N    of allocations that the same functions and lines of Lua call for, N each\n"
	      "  --case N      only this one of all\n"
	      "  --from N      from this one on\n"
	      "  --jobs N      processes side by side, at most 64 (1)\n"
	      "  --source      with --lua: allocations of Lua's parser, too. Else Lua's files are compiled once\n"
	      "  --bare        with --lua: there is no reserve, LuaJIT itself is told. That of Debian 12 may crash\n"
	      "  --verbose     the log of each case\n\n"
	      "The exit status is 1 if a case went wrong. MEMORY_TRACE=1 in the environment prints where each "
	      "failure "
	      "was.\n",
		out);
}

/* The value of an option; the program ends if it is no number: a typing error must not look like a sound case. */
static uint64_t
number(const char *name, const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 10);

	if (*text < '0' || *text > '9' || *end != '\0') {
		fprintf(stderr, "tailrace-campaign: %s: a number expected, not \"%s\"\n", name, text);
		exit(TR_EXIT_USAGE);
	}
	return value;
}

/* Reads the options; returns an exit status, or -1 to go on. */
static int
read_options(int argc, char **argv, struct sweep *sweep)
{
	for (int i = 1; i < argc; i++) {
		const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
		bool has_value = false;

		if (strcmp(name, "--io") == 0 || strcmp(name, "--malloc") == 0 || strcmp(name, "--lua") == 0 ||
			strcmp(name, "--libraries") == 0) {
			sweep->kind = name + 2;
		} else if (strcmp(name, "--full") == 0) {
			sweep->sample = "0";
		} else if (strcmp(name, "--verbose") == 0) {
			sweep->option = "verbose";
		} else if (strcmp(name, "--source") == 0) {
			sweep->source = true;
		} else if (strcmp(name, "--bare") == 0) {
			sweep->bare = true;
		} else if (strcmp(name, "--help") == 0) {
			usage(stdout);
			return TR_EXIT_OK;
		} else if (value == NULL) {
			sweep->kind = NULL;
			break;
		} else {
			has_value = true;
			if (strcmp(name, "--sample") == 0) {
				number(name, value);
				sweep->sample = value;
			} else if (strcmp(name, "--life") == 0) {
				sweep->life = value;
			} else if (strcmp(name, "--places") == 0) {
				number(name, value);
				sweep->each = value;
				sweep->sample = "0";
			} else if (strcmp(name, "--from") == 0) {
				sweep->from = number(name, value);
			} else if (strcmp(name, "--jobs") == 0) {
				sweep->jobs = (unsigned)number(name, value);
			} else if (strcmp(name, "--case") == 0) {
				sweep->from = number(name, value);
				sweep->to = sweep->from + 1;
				sweep->sample = "0";
			} else {
				sweep->kind = NULL;
				break;
			}
		}
		i += has_value;
	}
	if (sweep->kind == NULL || sweep->jobs < 1 || sweep->jobs > CAMPAIGN_JOBS_MAX ||
		(strcmp(sweep->life, "mail") != 0 && strcmp(sweep->life, "batch") != 0)) {
		usage(stderr);
		return TR_EXIT_USAGE;
	}
	return -1;
}

int
main(int argc, char **argv)
{
	struct sweep sweep = {.life = "mail", .sample = "60", .option = "", .each = "0", .to = UINT64_MAX, .jobs = 1};
	struct campaign_board *board;
	int persona, status = read_options(argc, argv, &sweep);
	bool well;

	if (status >= 0)
		return status;
	/* Tables that are keyed by addresses differ with them: the same case shall be the same again. */
	persona = personality(0xffffffff);
	if (persona >= 0 && !(persona & ADDR_NO_RANDOMIZE) && personality((unsigned)persona | ADDR_NO_RANDOMIZE) >= 0)
		execv("/proc/self/exe", argv);
	board = campaign_board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (board == MAP_FAILED) {
		perror("tailrace-campaign");
		return TR_EXIT_OSERR;
	}
	atomic_store(&board->total, UINT64_MAX);
	atomic_store(&board->taken, sweep.from);
	well = run_jobs(&sweep);
	if (well && atomic_load(&board->cases) == 0 && atomic_load(&board->wrong) == 0) {
		fprintf(stderr, "tailrace-campaign: no case %llu: --%s has %llu\n", (unsigned long long)sweep.from,
			sweep.kind, (unsigned long long)atomic_load(&board->total));
		return TR_EXIT_USAGE;
	}
	printf("%s: %llu cases, %llu faults", sweep.kind, (unsigned long long)atomic_load(&board->cases),
		(unsigned long long)atomic_load(&board->faults));
	if (strcmp(sweep.kind, "lua") == 0)
		printf(" (the reserve gave %llu times)", (unsigned long long)atomic_load(&board->served));
	printf(", %llu wrong\n", (unsigned long long)atomic_load(&board->wrong));
	return well && atomic_load(&board->wrong) == 0 ? TR_EXIT_OK : TR_EXIT_FAILED;
}
