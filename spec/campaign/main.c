/* `tailrace-campaign`: the whole life of messages in the real engine, with each file operation, each allocation of ours
 * and each of Lua's failing in turn. Cases run in a child process, so that a crash or a hang is one case that is wrong
 * and the sweep goes on behind it. What happens in a case: campaign.lua. How to run it: docs/reliability.md. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/loop.h"
#include "cli/cli.h"
#include "disk.h"
#include "faults.h"
#include "memory.h"
#include "policy/policy.h"
#include "script.h"

#define CASES_A_CHILD 100 /* a leak is told at the end of a child */
#define START_S 1785000000
#define EXIT_LEAK 23 /* of the sanitizers */

/* --- a child ----------------------------------------------------------------------------------------------------- */

static int
child(const char *kind, uint64_t from, uint64_t to, const char *sample, const char *option)
{
	static char path[] = TR_SOURCE_DIR "/spec/campaign/campaign.lua", first[24], last[24];
	static const struct tr_module modules[] = {
		{"tr.campaign", luaopen_tr_campaign}, {"tr.sim_disk", luaopen_tr_sim_disk}, {NULL, NULL}};
	struct script_config script = {.program = "tailrace-campaign", .modules = modules, .host = memory_script_host};
	char *argv[] = {path, (char *)kind, first, last, (char *)sample, (char *)option};
	int status;

	snprintf(first, sizeof first, "%llu", (unsigned long long)from);
	snprintf(last, sizeof last, "%llu", (unsigned long long)to);
	signal(SIGPIPE, SIG_IGN);
	disk_install(1);
	status = script_run(&script, 6, argv);
	disk_uninstall();
	return status;
}

/* --- the one that watches ------------------------------------------------------------------------------------------
 */

/* Runs cases [from, to); returns whether all went well. *next: the first that was not run. */
static bool
watch(const char *kind, uint64_t from, uint64_t to, const char *sample, const char *option, uint64_t *next)
{
	struct campaign_board *board = campaign_board;
	int status = 0;
	pid_t pid;

	atomic_store(&board->next, from);
	atomic_store(&board->done, false);
	snprintf(board->what, sizeof board->what, "(the start)");
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		exit(child(kind, from, to, sample, option));
	if (pid < 0 || waitpid(pid, &status, 0) != pid) {
		perror("tailrace-campaign: fork");
		exit(TR_EXIT_OSERR);
	}
	*next = to;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return true;
	atomic_fetch_add(&board->wrong, 1);
	if (atomic_load(&board->done)) {
		fprintf(stderr, "%s after %s cases %llu to %llu\n",
			WIFEXITED(status) && WEXITSTATUS(status) == EXIT_LEAK ? "LEAK" : "BAD END", kind,
			(unsigned long long)from, (unsigned long long)atomic_load(&board->next) - 1);
		return false;
	}
	fprintf(stderr, "%s in %s\n",
		WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? "HANG"
		: WIFSIGNALED(status)                              ? strsignal(WTERMSIG(status))
								   : "END OF THE PROCESS",
		board->what);
	if (atomic_load(&board->next) > from)
		*next = atomic_load(&board->next);
	else
		exit(TR_EXIT_FAILED); /* it does not even start */
	return false;
}

static void
usage(FILE *out)
{
	fputs("Usage: tailrace-campaign --io|--malloc|--lua [--full | --sample N] [--case N] [--from N] [--verbose]\n\n"
	      "Lives of messages with each file operation, allocation or allocation of Lua failing in turn: a sample "
	      "of "
	      "N cases\n"
	      "(60), or all. --case N runs one of all. The exit status is 1 if a case went wrong.\n",
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

int
main(int argc, char **argv)
{
	const char *kind = NULL, *sample = "60", *option = "";
	uint64_t from = 0, to = UINT64_MAX;
	struct campaign_board *board;

	for (int i = 1; i < argc; i++) {
		const char *name = argv[i];

		if (strcmp(name, "--io") == 0 || strcmp(name, "--malloc") == 0 || strcmp(name, "--lua") == 0) {
			kind = name + 2;
		} else if (strcmp(name, "--full") == 0) {
			sample = "0";
		} else if (strcmp(name, "--verbose") == 0) {
			option = "verbose";
		} else if (strcmp(name, "--sample") == 0 && i + 1 < argc) {
			sample = argv[++i];
			number(name, sample);
		} else if (strcmp(name, "--from") == 0 && i + 1 < argc) {
			from = number(name, argv[++i]);
		} else if (strcmp(name, "--case") == 0 && i + 1 < argc) {
			from = number(name, argv[++i]);
			to = from + 1;
			sample = "0";
		} else {
			usage(strcmp(name, "--help") == 0 ? stdout : stderr);
			return strcmp(name, "--help") == 0 ? TR_EXIT_OK : TR_EXIT_USAGE;
		}
	}
	if (kind == NULL) {
		usage(stderr);
		return TR_EXIT_USAGE;
	}
	board = campaign_board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (board == MAP_FAILED) {
		perror("tailrace-campaign");
		return TR_EXIT_OSERR;
	}
	atomic_store(&board->total, UINT64_MAX);
	for (uint64_t at = from; at < to && at < atomic_load(&board->total);) {
		uint64_t end = at + CASES_A_CHILD < to ? at + CASES_A_CHILD : to;

		watch(kind, at, end, sample, option, &at);
	}
	if (atomic_load(&board->cases) == 0 && atomic_load(&board->wrong) == 0) {
		fprintf(stderr, "tailrace-campaign: no case %llu: %s has %llu\n", (unsigned long long)from, kind,
			(unsigned long long)atomic_load(&board->total));
		return TR_EXIT_USAGE;
	}
	printf("%s: %llu cases, %llu faults, %llu wrong\n", kind, (unsigned long long)atomic_load(&board->cases),
		(unsigned long long)atomic_load(&board->faults), (unsigned long long)atomic_load(&board->wrong));
	return atomic_load(&board->wrong) > 0 ? TR_EXIT_FAILED : TR_EXIT_OK;
}
