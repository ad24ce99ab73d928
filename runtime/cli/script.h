/* Runs a script in Lua in a host of its own, on a loop of its own: with everything that a policy has, but no queues. */
#ifndef TR_CLI_SCRIPT_H
#define TR_CLI_SCRIPT_H

#include "policy/policy.h"

#define TR_SCRIPT_LIMIT_NS (3600 * TR_NS_PER_S) /* a script may compute for long */

struct tr_script_config {
	const char *program;             /* before errors */
	const struct tr_module *modules; /* before the runtime's own, at most 8, ended by one without a name; or NULL */
	int64_t limit_ns;                /* between two waits, if the watchdog runs */
	bool jit, orderly;               /* orderly: tr_loop_orderly() */
	bool signals;                    /* SIGINT and SIGTERM end the script; the second one the process */
	bool reports;                    /* then it is said what waited */
	/* Called with the host before the script begins, with NULL when it has ended; or NULL. */
	void (*host)(struct tr_host *host);
};

/* argv[0]: the script; the others are its arguments. Returns when it has ended, with an exit status; errors are told.
 */
int tr_script_run(const struct tr_script_config *config, int argc, char **argv);

#endif
