/* Many runs of the simulation, each in a process of its own, so that one is like another whatever was before it, and
 * one that dies is told with its seed. */
#ifndef SIM_RUNS_H
#define SIM_RUNS_H

#include <stdbool.h>
#include <stdint.h>

struct sim_options {
	uint64_t seed;     /* of the first run; the others follow */
	uint64_t runs;     /* UINT64_MAX: until the time is over */
	double days;       /* of a run */
	double real_s;     /* the last run begins before that; 0: no bound */
	double patience_s; /* a run may take so long in real time */
	bool trace;        /* print what happens */
	bool twice;        /* each run a second time: its digest must be the same */
	bool verbose;      /* a line a run */
	const char *program;
};

/* Runs them. run(arg, seed, days, policy, trace) is called in the child, in an empty working directory of its own, and
 * gives the exit status. Prints what failed, and a line of sums at the end. Returns the program's exit status. */
int sim_runs(
	const struct sim_options *options, int (*run)(void *arg, uint64_t seed, double days, bool trace), void *arg);

#endif
