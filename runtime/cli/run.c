/* tailrace run: the runtime as a service. */
#include <ev.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/pulse.h"
#include "cli/args.h"
#include "cli/cli.h"
#include "cli/server.h"
#include "ingress/intake.h"

/* After the deadline of a stop, for a worker that cannot be interrupted. */
#define GRACE_NS(deadline_ns) tr_min_i64(5 * TR_NS_PER_S, tr_max_i64((deadline_ns) / 4, 2 * TR_NS_PER_S))

#define LUA_MIB 1024 /* of each worker: more than policies need, and less than a machine has */

struct signals {
	struct tr_server *server;
	int64_t deadline_ns;
	ev_signal term, intr, hup, usr1;
};

static void
asked_to_stop(struct ev_loop *loop, ev_signal *watcher, int events)
{
	struct signals *signals = watcher->data;

	tr_server_stop(signals->server, signals->deadline_ns);
}

static void
asked_to_report(struct ev_loop *loop, ev_signal *watcher, int events)
{
	struct signals *signals = watcher->data;

	tr_log(TR_LEVEL_INFO, "report", "asked what is under way");
	tr_server_report(signals->server);
}

/* libev's handler could only tell a loop that turns: the watchdog is told, too. */
static void
arrived(int number)
{
	if (number != SIGUSR1)
		tr_watchdog_stop_asked();
	ev_feed_signal(number);
}

/* SIGUSR1 before there is a loop: a long start (the policy, the log) is no reason to die of a question. */
static void
asked_while_starting(int number)
{
	static const char text[] = "tailrace run: still starting: the policy, or the reading of the spool\n";
	ssize_t n = write(STDERR_FILENO, text, sizeof text - 1);

	(void)number;
	(void)n; /* nobody is left to be told */
}

static void
watch(struct ev_loop *loop, ev_signal *watcher, int number, struct signals *signals)
{
	struct sigaction action = {.sa_handler = arrived, .sa_flags = SA_RESTART};

	ev_signal_init(watcher, number == SIGUSR1 ? asked_to_report : asked_to_stop, number);
	watcher->data = signals;
	ev_signal_start(loop, watcher);
	ev_unref(loop);
	sigfillset(&action.sa_mask);
	sigaction(number, &action, NULL);
}

/* The last commit is under way: no signal must end the process before it, and without watchers they would. */
static void
unwatch(struct ev_loop *loop, struct signals *signals)
{
	ev_signal *const watchers[] = {&signals->term, &signals->intr, &signals->hup, &signals->usr1};
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	for (size_t i = 0; i < TR_COUNT(watchers); i++) {
		ev_ref(loop);
		ev_signal_stop(loop, watchers[i]);
		signal(watchers[i]->signum, SIG_IGN);
	}
}

static void
raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
			tr_log(TR_LEVEL_WARN, "run", "the limit of open files stays at its soft value");
	}
}

int
tr_cmd_run(int argc, char **argv)
{
	const char *policy = NULL, *user = NULL, *repl_socket = NULL, *filter = getenv("TAILRACE_LOG");
	int64_t workers = 0, seed = 0, intake_mib = TR_INTAKE_BYTES >> 20, segment_bytes = 0;
	int64_t lua_mib = LUA_MIB;
	double deadline_s = 20, handler_s = 5;
	bool jit = false, print_ledger = false;
	const struct tr_arg options[] = {
		{"policy", "FILE", TR_ARG_TEXT, &policy, 0, 0, "the policy to run (required)"},
		{"workers", "N", TR_ARG_INT, &workers, 0, 256, "worker threads; 0, the default: one per core"},
		{"user", "NAME", TR_ARG_TEXT, &user, 0, 0, "become this user once the listeners are bound"},
		{"stop-timeout", "SECONDS", TR_ARG_REAL, &deadline_s, 0, 3600,
			"deadline of an orderly stop (SIGTERM); default 20"},
		{"handler-limit", "SECONDS", TR_ARG_REAL, &handler_s, 0, 3600,
			"longest that Lua may run without waiting; default 5"},
		{"log", "FILTER", TR_ARG_TEXT, &filter, 0, 0,
			"diagnostics, e.g. info or info,lua=trace; also $TAILRACE_LOG"},
		{"jit", NULL, TR_ARG_FLAG, &jit, 0, 0,
			"compile policy code (an endless loop can then not be interrupted)"},
		{"repl-socket", "PATH", TR_ARG_TEXT, &repl_socket, 0, 0,
			"a socket for `tailrace repl --attach PATH`, for this user and root only"},
		{"intake-memory", "MIB", TR_ARG_INT, &intake_mib, 1, INT32_MAX,
			"bound for all that is being received: envelopes, texts, HTTP bodies; default 512"},
		{"lua-memory", "MIB", TR_ARG_INT, &lua_mib, 0, INT32_MAX,
			"bound for the Lua of each worker, at which a handler is interrupted; default 1024, 0: none"},
		{"ledger", NULL, TR_ARG_FLAG, &print_ledger, 0, 0, "print the ledger on standard output at the end"},
		{"segment-size", "BYTES", TR_ARG_SIZE, &segment_bytes, 64 << 10, 64 << 20,
			"of the spool's new segments, a power of two; default 64M. It takes nine of them at least"},
		{"seed", "N", TR_ARG_INT, &seed, 0, 0, "seed of the jitter"},
		{NULL, NULL, 0, NULL, 0, 0, NULL},
	};
	const struct tr_args args = {
		"run",
		"--policy FILE [OPTIONS]",
		"Runs the policy: mail and events in, queues, deliveries out. SIGTERM stops in order, a second one at "
		"once;\nSIGUSR1 logs what is under way.",
		options,
		"Exit status: 0 stopped in order, 70 something hung beyond the deadline of the stop, 78 the policy is "
		"wrong\n"
		"(nothing was started), 1 otherwise.",
		NULL,
	};
	struct sigaction asked = {.sa_handler = asked_while_starting, .sa_flags = SA_RESTART};
	struct signals signals = {0};
	struct tr_pulse pulse; /* not before the log was read, which takes as long as it is */
	struct tr_buf ledger = {0};
	char *error = NULL;
	struct ev_loop *loop;
	int status = tr_args_parse(&args, argc, argv);

	if (status != TR_ARGS_RUN)
		return status;
	if (policy == NULL)
		return tr_args_error(&args, "--policy FILE is required");
	if (filter != NULL && tr_log_filter(filter) != TR_OK)
		return tr_args_error(&args,
			"--log %s: expected a level (error, warn, info, debug, trace) or target=level,...", filter);
	if ((segment_bytes & (segment_bytes - 1)) != 0)
		return tr_args_error(&args, "--segment-size %" PRId64 ": a power of two expected", segment_bytes);
	if (access(policy, R_OK) != 0) {
		fprintf(stderr, "tailrace run: the policy %s cannot be read\n", policy);
		return TR_EXIT_CONFIG;
	}
	signal(SIGPIPE, SIG_IGN);
	sigaction(SIGUSR1, &asked, NULL);
	raise_file_limit();
	tr_intake_set_limit(intake_mib << 20);
	if (tr_watchdog_start() != TR_OK) {
		fprintf(stderr, "tailrace run: the watchdog thread cannot be started\n");
		return TR_EXIT_OSERR;
	}
	signals.server = tr_server_boot(&(struct tr_server_config){.policy = policy,
						.workers = (uint32_t)workers,
						.seed = (uint64_t)seed,
						.jit = jit,
						.handler_limit_ns = (int64_t)(handler_s * 1e9),
						.lua_memory = lua_mib << 20,
						.segment_bytes = (uint64_t)segment_bytes,
						.user = user,
						.repl_socket = repl_socket},
		&error);
	if (signals.server == NULL) {
		fprintf(stderr, "tailrace run: %s\n", error ? error : "out of memory");
		free(error);
		tr_watchdog_stop();
		return TR_EXIT_CONFIG;
	}
	signals.deadline_ns = (int64_t)(deadline_s * 1e9);
	tr_watchdog_stuck_after(2 * (int64_t)((handler_s > 0 ? handler_s : 5) * 1e9));
	tr_watchdog_stops(signals.deadline_ns + GRACE_NS(signals.deadline_ns), TR_EXIT_STUCK);
	tr_pulse_enter(&pulse, "worker 0", TR_PULSE_LOOP);
	loop = tr_loop_ev(tr_server_loop(signals.server));
	watch(loop, &signals.term, SIGTERM, &signals);
	watch(loop, &signals.intr, SIGINT, &signals);
	watch(loop, &signals.hup, SIGHUP, &signals);
	watch(loop, &signals.usr1, SIGUSR1, &signals);
	tr_log(TR_LEVEL_INFO, "run", "initialization complete");
	tr_server_run(signals.server);
	unwatch(loop, &signals);
	status = tr_server_free(signals.server, &ledger) == TR_OK ? TR_EXIT_OK : TR_EXIT_FAILED;
	tr_pulse_leave(&pulse);
	tr_watchdog_stop();
	if (print_ledger)
		fwrite(ledger.data, 1, ledger.len, stdout);
	tr_buf_free(&ledger);
	tr_log(TR_LEVEL_INFO, "run", "stopped");
	return status;
}
