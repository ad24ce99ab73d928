/* `tailrace-sim`: a whole Tailrace, one seed, a virtual clock, a disk in memory and peers out of a script, for
 * simulated days. The libraries are those of `tailrace`; what happens and what must come of it is in the Lua files
 * beside this. How to run it: docs/reliability.md. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "cli/cli.h"
#include "cli/script.h"
#include "disk.h"
#include "memory_lua.h"
#include "policy/policy.h"
#include "runs.h"

#define START_S 1785000000 /* of the virtual clock: 2026-07-25 17:20 UTC */

/* --- tr.sim ------------------------------------------------------------------------------------------------------ */

static uint64_t trace_digest; /* FNV-1a, 64 bits */

/* sim.digest_reset() */
static int
l_digest_reset(lua_State *L)
{
	trace_digest = UINT64_C(14695981039346656037);
	return 0;
}

/* sim.digest_add(text) */
static int
l_digest_add(lua_State *L)
{
	size_t len;
	const char *text = luaL_checklstring(L, 1, &len);

	for (size_t i = 0; i < len; i++)
		trace_digest = (trace_digest ^ (unsigned char)text[i]) * UINT64_C(1099511628211);
	return 0;
}

/* sim.digest() -> 16 hexadecimal digits of all texts since digest_reset() */
static int
l_digest(lua_State *L)
{
	char text[17];

	snprintf(text, sizeof text, "%016llx", (unsigned long long)trace_digest);
	lua_pushstring(L, text);
	return 1;
}

static lua_Number
seconds_of(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (lua_Number)now.tv_sec + (lua_Number)now.tv_nsec / 1e9;
}

/* sim.real() -> seconds of the real clock, and of this process's CPU time */
static int
l_real(lua_State *L)
{
	lua_pushnumber(L, seconds_of(CLOCK_REALTIME));
	lua_pushnumber(L, seconds_of(CLOCK_PROCESS_CPUTIME_ID));
	return 2;
}

static int
luaopen_tr_sim(lua_State *L)
{
	static const luaL_Reg functions[] = {{"digest_reset", l_digest_reset}, {"digest_add", l_digest_add},
		{"digest", l_digest}, {"real", l_real}, {NULL, NULL}};

	lua_newtable(L);
	luaL_setfuncs(L, functions, 0);
	return 1;
}

/* --- a run ------------------------------------------------------------------------------------------------------- */

/* In a process of its own. */
static int
one_run(void *arg, uint64_t seed, double days, bool trace)
{
	static char path[] = TR_SOURCE_DIR "/spec/sim/main.lua";
	char seed_text[24], days_text[32], policy[64], trace_text[] = "trace";
	char *args[] = {path, seed_text, days_text, policy, trace ? trace_text : NULL};
	static const struct tr_module modules[] = {{"tr.sim", luaopen_tr_sim}, {"tr.sim_disk", luaopen_tr_sim_disk},
		{"tr.sim_memory", luaopen_tr_sim_memory}, {NULL, NULL}};
	struct tr_script_config script = {.program = "tailrace-sim",
		.modules = modules,
		.limit_ns = TR_SCRIPT_LIMIT_NS,
		.jit = true,
		.orderly = true,
		.host = sim_memory_host};
	int status;

	snprintf(seed_text, sizeof seed_text, "%llu", (unsigned long long)seed);
	snprintf(days_text, sizeof days_text, "%.6f", days);
	snprintf(policy, sizeof policy, "%s/policy.lua", (const char *)arg);
	signal(SIGPIPE, SIG_IGN);
	disk_install(1);
	tr_clock_virtual(START_S * TR_NS_PER_S);
	status = tr_script_run(&script, trace ? 5 : 4, args);
	disk_uninstall();
	return status;
}

static void
usage(FILE *out)
{
	fputs("Usage: tailrace-sim [OPTIONS]\n\nRuns a whole Tailrace in simulated time, network and disk, with mail, "
	      "failures and kills that follow from\na seed, and compares it with a model.\n\n"
	      "  --seed N     of the first run; the others follow it. Default: from the clock\n"
	      "  --runs N     how many (1, or as many as fit into the time)\n"
	      "  --days D     simulated days of a run before everything is mended (3)\n"
	      "  --minutes M, --hours N   runs begin for so long\n"
	      "  --twice      each run twice: it must be the same\n"
	      "  --trace      print all that happens, and its digest\n"
	      "  --verbose    a line for each run\n\n"
	      "The last line has the sums. Exit status: 0 all is well, 1 a run failed; the command that repeats it is "
	      "printed.\n",
		out);
}

/* The value behind an option; NaN: none. */
static double
number(int argc, char **argv, int *i)
{
	char *end;
	double value;

	if (*i + 1 >= argc)
		return NAN;
	value = strtod(argv[++*i], &end);
	return end == argv[*i] || *end != '\0' || value < 0 ? NAN : value;
}

int
main(int argc, char **argv)
{
	struct sim_options options = {
		.seed = (uint64_t)time(NULL) % 100000000 * 10, .days = 3, .patience_s = 300, .program = argv[0]};
	char dir[] = "/tmp/tailrace-sim.XXXXXX", path[64];
	int status;

	for (int i = 1; i < argc; i++) {
		const char *name = argv[i];
		double value = 0;

		if (strcmp(name, "--trace") == 0)
			options.trace = true;
		else if (strcmp(name, "--twice") == 0)
			options.twice = true;
		else if (strcmp(name, "--verbose") == 0)
			options.verbose = true;
		else if (strcmp(name, "--seed") == 0)
			options.seed = (uint64_t)(value = number(argc, argv, &i));
		else if (strcmp(name, "--runs") == 0)
			options.runs = (uint64_t)(value = number(argc, argv, &i));
		else if (strcmp(name, "--days") == 0)
			options.days = value = number(argc, argv, &i);
		else if (strcmp(name, "--minutes") == 0)
			options.real_s = 60 * (value = number(argc, argv, &i));
		else if (strcmp(name, "--hours") == 0)
			options.real_s = 3600 * (value = number(argc, argv, &i));
		else {
			usage(strcmp(name, "--help") == 0 ? stdout : stderr);
			return strcmp(name, "--help") == 0 ? TR_EXIT_OK : TR_EXIT_USAGE;
		}
		if (isnan(value)) {
			fprintf(stderr, "tailrace-sim: %s: a number expected\n", name);
			return TR_EXIT_USAGE;
		}
	}
	if (options.runs == 0)
		options.runs = options.real_s > 0 ? UINT64_MAX : 1;
	if (mkdtemp(dir) == NULL) {
		perror("tailrace-sim: /tmp");
		return TR_EXIT_OSERR;
	}
	status = sim_runs(&options, one_run, dir);
	snprintf(path, sizeof path, "%s/policy.lua", dir);
	unlink(path);
	rmdir(dir);
	return status;
}
