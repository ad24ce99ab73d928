/* `tailrace lua FILE [ARGS]`: runs a Lua script inside the runtime, on a loop of its own, with `kumo` and everything a
 * policy has, but no queues. Specs run so: `tailrace lua /usr/bin/busted spec`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "cli/cli.h"
#include "cli/server.h"
#include "cli/transports.h"
#include "policy/policy.h"
#include "shaping/shaping.h"

struct script {
	int argc;
	char **argv; /* argv[0] is the file */
	struct tr_loop *loop;
	int status; /* of the process */
	bool ended;
};

static int
push_args(lua_State *L, void *arg)
{
	const struct script *script = arg;

	luaL_checkstack(L, script->argc, "too many arguments");
	for (int i = 0; i < script->argc; i++)
		lua_pushstring(L, script->argv[i]);
	return script->argc;
}

static void
script_end(void *arg, const struct tr_task_result *result)
{
	struct script *script = arg;

	script->ended = true;
	if (result->status != TR_OK) {
		if (!lua_isnil(result->L, -1)) /* error() without a value only sets the exit status, as in lua(1) */
			fprintf(stderr, "tailrace lua: %s\n", result->text);
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

	if (tr_task_start(host, &call, NULL) != TR_OK) {
		fputs("tailrace lua: out of memory\n", stderr);
		script->status = TR_EXIT_OSERR;
	} else if (!script->ended) {
		tr_loop_run(script->loop);
	}
}

int
tr_cmd_lua(int argc, char **argv)
{
	struct script script = {.argc = argc - 1, .argv = argv + 1};
	struct tr_host *host = NULL;
	struct tr_transports transports = {0};
	struct tr_shaping *shaping = NULL;

	if (argc < 2 || strcmp(argv[1], "--help") == 0) {
		fputs("Usage: tailrace lua FILE [ARGUMENTS]\n\nRuns a Lua script inside the runtime: it may require "
		      "'kumo', wait and\n"
		      "make requests. `arg` holds the arguments. The exit status is that of os.exit, 0 at the end of "
		      "the\n"
		      "script, 1 after an error.\n",
			argc < 2 ? stderr : stdout);
		return argc < 2 ? TR_EXIT_USAGE : TR_EXIT_OK;
	}
	if (tr_loop_new(&script.loop) != TR_OK) {
		fputs("tailrace lua: cannot make an event loop\n", stderr);
		return TR_EXIT_OSERR;
	}
	tr_loop_enter(script.loop);
	struct tr_host_config config = {
		.loop = script.loop,
		.share_dir = tr_share_dir(),
		.modules = tr_modules,
		.handler_limit_ns = 3600 * TR_NS_PER_S, /* a script may compute for long */
	};
	if (tr_host_new(&config, &host) == TR_OK && tr_transports_init(&transports, script.loop, host, NULL) == TR_OK &&
		tr_shaping_new(&shaping) == TR_OK) {
		tr_host_set_service(host, TR_SERVICE_SHAPING, shaping);
		run(host, &script);
	} else {
		script.status = TR_EXIT_UNAVAILABLE;
	}
	tr_host_free(host);
	tr_shaping_free(shaping);
	tr_transports_fini(&transports);
	tr_loop_free(script.loop);
	return script.status;
}
