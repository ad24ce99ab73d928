/* Runs a script in Lua in a host of its own, with all that `tailrace lua` gives it and modules of the program's. */
#ifndef SIM_SCRIPT_H
#define SIM_SCRIPT_H

#include "policy/policy.h"

struct script_config {
	const char *program;             /* before errors */
	const struct tr_module *modules; /* of the program, at most 8; ended by one without a name */
	bool jit, orderly;               /* orderly: tr_loop_orderly() */
	void (*host)(struct tr_host *
			host); /* called with the host before the script begins, with NULL when it has ended; or NULL */
};

/* argv[0]: the script; the others are its arguments. Returns when it has ended, with an exit status; errors are told.
 */
int script_run(const struct script_config *config, int argc, char **argv);

#endif
