#include "cli/script.h"

#include <ev.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/diag.h"
#include "cli/cli.h"
#include "cli/server.h"
#include "cli/transports.h"
#include "shaping/shaping.h"

#define MODULES_MAX 64

struct script {
	const struct tr_script_config *config;
	int argc;
	char **argv;
	struct tr_loop *loop;
	struct tr_host *host;
	struct tr_task *task; /* NULL: it does not wait */
	int status;           /* of the process */
	bool ended;
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
	if (script->config->reports) {
		tr_host_report(script->host, &text);
		fprintf(stderr, "%s: interrupted. What waited:\n%.*s", script->config->program, (int)text.len,
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
tell(const char *program, const char *what, const char *text)
{
	fprintf(stderr, "%s: %s", program, what);
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
	if (result->status == TR_ECANCELED && script->config->signals) {
		if (signals > 0 && script->config->reports)
			tell(script->config->program, "interrupted: ", result->text);
		script->status = last_signal != 0 ? 128 + last_signal : TR_EXIT_INTERRUPTED;
	} else if (result->status != TR_OK) {
		if (!lua_isnil(result->L, -1)) /* error() without a value only sets the exit status, as in lua(1) */
			tell(script->config->program, "", result->text);
		script->status = TR_EXIT_FAILED;
	}
	tr_loop_stop(script->loop);
}

static int
failed(const struct script *script, int status)
{
	fprintf(stderr, "%s: the script cannot be started: out of memory, or the runtime's own files are not there\n",
		script->config->program);
	return status;
}

static void
run(struct script *script)
{
	/* "main": the one event in which handlers may be registered. */
	struct tr_task_call call = {.event = "main",
		.entry = "script",
		.push = push_args,
		.push_arg = script,
		.end = script_end,
		.end_arg = script};
	struct tr_task *task = NULL;

	if (script->config->signals)
		watch_signals(script);
	if (script->config->host != NULL)
		script->config->host(script->host);
	if (tr_task_start(script->host, &call, &task) != TR_OK) {
		script->status = failed(script, TR_EXIT_OSERR);
	} else if (!script->ended) {
		script->task = task;
		tr_loop_run(script->loop);
	}
	if (script->config->host != NULL)
		script->config->host(NULL);
	if (script->config->signals)
		ignore_signals();
}

int
tr_script_run(const struct tr_script_config *config, int argc, char **argv)
{
	struct script script = {.config = config, .argc = argc, .argv = argv};
	struct tr_module modules[MODULES_MAX] = {{NULL, NULL}};
	struct tr_host_config host_config = {.share_dir = tr_share_dir(),
		.modules = modules,
		.jit = config->jit,
		.handler_limit_ns = config->limit_ns};
	struct tr_transports transports = {0};
	struct tr_shaping *shaping = NULL;
	size_t count = 0;

	for (const struct tr_module *own = config->modules; own != NULL && own->name != NULL; own++)
		modules[count++] = *own;
	for (const struct tr_module *module = tr_modules; module->name != NULL && count + 1 < MODULES_MAX; module++)
		modules[count++] = *module;
	if (tr_loop_new(&script.loop) != TR_OK)
		return failed(&script, TR_EXIT_OSERR);
	tr_loop_orderly(script.loop, config->orderly);
	tr_loop_enter(script.loop);
	host_config.loop = script.loop;
	if (tr_host_new(&host_config, &script.host) != TR_OK ||
		tr_transports_init(&transports, script.loop, script.host, NULL) != TR_OK ||
		tr_shaping_new(&shaping) != TR_OK) {
		script.status = failed(&script, TR_EXIT_UNAVAILABLE);
	} else {
		tr_host_set_service(script.host, TR_SERVICE_SHAPING, shaping);
		run(&script);
	}
	tr_host_free(script.host);
	tr_shaping_free(shaping);
	tr_transports_fini(&transports);
	tr_loop_free(script.loop);
	return script.status;
}
