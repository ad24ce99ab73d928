/* `tailrace test [PATHS]`: busted inside the runtime, with kumo.test. What busted's own command line knows is passed
 * on. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/script.h"
#include "cli/server.h"

#define LIMIT_S 10 /* of a test between two waits: an endless loop is interrupted */

static void
usage(FILE *out)
{
	fprintf(out,
		"Usage: tailrace test [--limit SECONDS] [OPTIONS OF BUSTED] [PATHS]\n\n"
		"Runs tests of policies: the files named *_spec.lua in PATHS (spec, or else the current directory), "
		"with\n"
		"busted, inside the runtime. Tests may wait; 'kumo.test' gives them engines under a virtual clock, "
		"see\n"
		"docs/testing.md. 'tailrace test --help-busted' lists busted's options: -o TAP, --filter, --tags, "
		"--list ...\n\n"
		"  --limit SECONDS  how long a test may compute without waiting (%d); then it is interrupted\n\n"
		"Exit status: 0 all tests passed, 1 some did not, 69 there is no busted, 130 interrupted.\n",
		LIMIT_S);
}

int
tr_cmd_test(int argc, char **argv)
{
	struct tr_script_config config = {
		.program = "tailrace test", .limit_ns = LIMIT_S * TR_NS_PER_S, .signals = true, .reports = true};
	char **args = calloc((size_t)argc + 2, sizeof *args), *runner = NULL;
	int count = 1, status = TR_EXIT_OSERR;

	if (args == NULL || asprintf(&runner, "%s/lua/test/runner.lua", tr_share_dir()) < 0) {
		free(args);
		fputs("tailrace test: out of memory\n", stderr);
		return TR_EXIT_OSERR;
	}
	args[0] = runner;
	for (int i = 1; i < argc; i++) {
		const char *number = NULL;
		char *end;
		double seconds;

		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			usage(stdout);
			status = TR_EXIT_OK;
			goto done;
		}
		if (strncmp(argv[i], "--limit=", 8) == 0)
			number = argv[i] + 8;
		else if (strcmp(argv[i], "--limit") == 0)
			number = i + 1 < argc ? argv[++i] : "";
		if (number == NULL) {
			args[count++] = argv[i];
			continue;
		}
		seconds = strtod(number, &end);
		if (end == number || *end != '\0' || !(seconds >= 0.1 && seconds <= 86400)) {
			fprintf(stderr, "tailrace test: --limit: seconds from 0.1 to 86400 expected, got '%s'\n",
				number);
			status = TR_EXIT_USAGE;
			goto done;
		}
		config.limit_ns = (int64_t)(seconds * TR_NS_PER_S);
	}
	if (tr_watchdog_start() != TR_OK) {
		fputs("tailrace test: the watchdog's thread cannot be started\n", stderr);
		goto done;
	}
	status = tr_script_run(&config, count, args);
	tr_watchdog_stop();
done:
	free(args);
	free(runner);
	return status;
}
