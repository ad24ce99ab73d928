/* The commands of the program: `tailrace NAME ...` calls main(argc, argv) with argv[0] = NAME. Each
 * command has a file of its own and a line in the table of main.c. The result is the exit status. */
#ifndef TR_CLI_H
#define TR_CLI_H

#include "base/base.h"

/* Exit statuses, as in sysexits.h. */
enum tr_exit {
	TR_EXIT_OK = 0,
	TR_EXIT_FAILED = 1,        /* it ran, and the answer is no */
	TR_EXIT_USAGE = 64,        /* the command line */
	TR_EXIT_DATAERR = 65,      /* an input file */
	TR_EXIT_NOINPUT = 66,      /* an input file that cannot be read */
	TR_EXIT_UNAVAILABLE = 69,  /* an address that cannot be bound or reached */
	TR_EXIT_STUCK = 70,        /* a stop was over its deadline, and a thread did not go on */
	TR_EXIT_OSERR = 71,        /* no memory, no descriptors */
	TR_EXIT_IOERR = 74,        /* an output file that cannot be written */
	TR_EXIT_CONFIG = 78,       /* the policy */
	TR_EXIT_INTERRUPTED = 130, /* Ctrl-C */
};

/* What policies have by this name, or the topics for "". commands ends with NULL: names for "did you mean". */
int tr_help_reference(const char *name, const char *const *commands);

int tr_cmd_run(int argc, char **argv);
int tr_cmd_sink(int argc, char **argv);
int tr_cmd_inject(int argc, char **argv);
int tr_cmd_check(int argc, char **argv);
int tr_cmd_explain(int argc, char **argv);
int tr_cmd_logs(int argc, char **argv);
int tr_cmd_queue(int argc, char **argv);
int tr_cmd_throttle(int argc, char **argv);
int tr_cmd_plan(int argc, char **argv);
int tr_cmd_dead(int argc, char **argv);
int tr_cmd_why(int argc, char **argv);
int tr_cmd_repl(int argc, char **argv);
int tr_cmd_lua(int argc, char **argv);
int tr_cmd_test(int argc, char **argv);
int tr_cmd_spool(int argc, char **argv);

#endif
