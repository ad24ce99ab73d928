/* `tailrace lua FILE [ARGS]`: runs a Lua script inside the runtime. Specs run so: `tailrace lua /usr/bin/busted spec`.
 */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/script.h"

int
tr_cmd_lua(int argc, char **argv)
{
	const struct tr_script_config config = {
		.program = "tailrace lua", .limit_ns = TR_SCRIPT_LIMIT_NS, .signals = true};

	if (argc < 2 || strcmp(argv[1], "--help") == 0) {
		fputs("Usage: tailrace lua FILE [ARGUMENTS]\n\nRuns a Lua script inside the runtime: it may require "
		      "'kumo', wait and\n"
		      "make requests. `arg` holds the arguments. The exit status is that of os.exit, 0 at the end of "
		      "the\n"
		      "script, 1 after an error.\n",
			argc < 2 ? stderr : stdout);
		return argc < 2 ? TR_EXIT_USAGE : TR_EXIT_OK;
	}
	return tr_script_run(&config, argc - 1, argv + 1);
}
