/* `tailrace lua FILE [ARGS]`: runs a Lua script inside the runtime, on a loop of its own, with `kumo` and everything a
 * policy has, but no queues. Specs run so: `tailrace lua /usr/bin/busted spec`. */
#include <ev.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/diag.h"
#include "cli/cli.h"
#include "cli/server.h"
#include "cli/transports.h"
#include "policy/policy.h"
#include "shaping/shaping.h"

#define SCRIPT_LIMIT_NS (3600 * TR_NS_PER_S) /* a script may compute for long */

struct script {
	const char *command; /* "lua", for messages */
	int argc;
	char **argv; /* argv[0] is the file */
	struct tr_loop *loop;
	struct tr_host *host;
	struct tr_task *task; /* NULL: it does not wait */
	int status;           /* of the process */
	bool ended;
	bool reports; /* at Ctrl-C, what waited */
};

/* --- Ctrl-C ---------------------------------------------------------------------------------------------------- */

static struct ev_loop *signal_loop;
static ev_async signal_wake;
static volatile sig_atomic_t signals, last_signal;

static void
on_signal(int number)
{
	last_signal = number;
	if (signals++ > 0) /* the first was in vain: a function in C that does not end */
		_exit(128 + number);
	tr_watch_cancel(); /* what runs; else, or if that was a policy's handler, the loop ends what waits */
	ev_async_send(signal_loop, &signal_wake);
}

static void
signal_woken(struct ev_loop *ev, ev_async *watcher, int revents)
{
	struct script *script = watcher->data;
	struct tr_buf text = {0};

	if (script->ended || script->task == NULL)
		return;
	if (script->reports) {
		tr_host_report(script->host, &text);
		fprintf(stderr, "tailrace %s: interrupted. What waited:\n%.*s", script->command, (int)text.len,
			text.data != NULL ? text.data : "");
		tr_buf_free(&text);
	}
	tr_task_cancel(script->task);
}

static void
watch_signals(struct script *script)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

	signal_loop = tr_loop_ev(script->loop);
	ev_async_init(&signal_wake, signal_woken);
	signal_wake.data = script;
	ev_async_start(signal_loop, &signal_wake);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

static void
ignore_signals(void)
{
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	ev_async_stop(signal_loop, &signal_wake);
}

/* --- the script --------------------------------------------------------------------------------------------------- */

static int
push_args(lua_State *L, void *arg)
{
	const struct script *script = arg;

	luaL_checkstack(L, script->argc, "too many arguments");
	for (int i = 0; i < script->argc; i++)
		lua_pushstring(L, script->argv[i]);
	return script->argc;
}

/* What was raised may hold data: its control characters do not reach the terminal. */
static void
tell(const char *command, const char *what, const char *text)
{
	fprintf(stderr, "tailrace %s: %s", command, what);
	for (const unsigned char *at = (const unsigned char *)text; *at != '\0'; at++) {
		if ((*at < ' ' && *at != '\n' && *at != '\t') || *at == 0x7f)
			fprintf(stderr, "\\x%02x", *at);
		else
			fputc(*at, stderr);
	}
	fputc('\n', stderr);
}

static void
script_end(void *arg, const struct tr_task_result *result)
{
	struct script *script = arg;

	script->ended = true;
	script->task = NULL;
	if (result->status == TR_ECANCELED) {
		if (signals > 0 && script->reports)
			tell(script->command, "interrupted: ", result->text);
		script->status = last_signal != 0 ? 128 + last_signal : TR_EXIT_INTERRUPTED;
	} else if (result->status != TR_OK) {
		if (!lua_isnil(result->L, -1)) /* error() without a value only sets the exit status, as in lua(1) */
			tell(script->command, "", result->text);
		script->status = TR_EXIT_FAILED;
	}
	tr_loop_stop(script->loop);
}

static void
run(struct tr_host *host, struct script *script)
{
	/* "main": the one event in which handlers may be registered. */
	struct tr_task_call call = {.event = "main",
		.entry = "script",
		.push = push_args,
		.push_arg = script,
		.end = script_end,
		.end_arg = script};
	struct tr_task *task = NULL;

	if (tr_task_start(host, &call, &task) != TR_OK) {
		fprintf(stderr, "tailrace %s: out of memory\n", script->command);
		script->status = TR_EXIT_OSERR;
	} else if (!script->ended) {
		script->task = task;
		tr_loop_run(script->loop);
	}
}

int
tr_run_script(const char *command, int argc, char **argv, int64_t limit_ns)
{
	struct script script = {.command = command, .argc = argc, .argv = argv, .reports = limit_ns < SCRIPT_LIMIT_NS};
	struct tr_host *host = NULL;
	struct tr_transports transports = {0};
	struct tr_shaping *shaping = NULL;

	if (tr_loop_new(&script.loop) != TR_OK) {
		fprintf(stderr, "tailrace %s: cannot make an event loop\n", command);
		return TR_EXIT_OSERR;
	}
	tr_loop_enter(script.loop);
	struct tr_host_config config = {
		.loop = script.loop,
		.share_dir = tr_share_dir(),
		.modules = tr_modules,
		.handler_limit_ns = limit_ns,
	};
	if (tr_host_new(&config, &host) == TR_OK && tr_transports_init(&transports, script.loop, host, NULL) == TR_OK &&
		tr_shaping_new(&shaping) == TR_OK) {
		tr_host_set_service(host, TR_SERVICE_SHAPING, shaping);
		script.host = host;
		watch_signals(&script);
		run(host, &script);
		ignore_signals();
	} else {
		script.status = TR_EXIT_UNAVAILABLE;
	}
	tr_host_free(host);
	tr_shaping_free(shaping);
	tr_transports_fini(&transports);
	tr_loop_free(script.loop);
	return script.status;
}

int
tr_cmd_lua(int argc, char **argv)
{
	if (argc < 2 || strcmp(argv[1], "--help") == 0) {
		fputs("Usage: tailrace lua FILE [ARGUMENTS]\n\nRuns a Lua script inside the runtime: it may require "
		      "'kumo', wait and\n"
		      "make requests. `arg` holds the arguments. The exit status is that of os.exit, 0 at the end of "
		      "the\n"
		      "script, 1 after an error.\n",
			argc < 2 ? stderr : stdout);
		return argc < 2 ? TR_EXIT_USAGE : TR_EXIT_OK;
	}
	return tr_run_script("lua", argc - 1, argv + 1, SCRIPT_LIMIT_NS);
}
