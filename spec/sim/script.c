#include "script.h"

#include <lauxlib.h>
#include <stdio.h>

#include "base/loop.h"
#include "cli/cli.h"
#include "cli/server.h"
#include "cli/transports.h"
#include "shaping/shaping.h"

#define LIMIT_NS (3600 * TR_NS_PER_S)
#define MODULES_MAX 64

struct script {
	const struct script_config *config;
	int argc;
	char **argv;
	struct tr_loop *loop;
	bool ended;
	int status;
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
		if (!lua_isnil(result->L, -1)) /* error() without a value only sets the exit status */
			fprintf(stderr, "%s: %s\n", script->config->program, result->text);
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
run(struct script *script, struct tr_host *host)
{
	struct tr_task_call call = {.event = "main",
		.entry = "script",
		.push = push_args,
		.push_arg = script,
		.end = script_end,
		.end_arg = script};

	if (script->config->host != NULL)
		script->config->host(host);
	if (tr_task_start(host, &call, NULL) != TR_OK)
		script->status = failed(script, TR_EXIT_OSERR);
	else if (!script->ended)
		tr_loop_run(script->loop);
	if (script->config->host != NULL)
		script->config->host(NULL);
}

int
script_run(const struct script_config *config, int argc, char **argv)
{
	struct script script = {.config = config, .argc = argc, .argv = argv};
	struct tr_module modules[MODULES_MAX] = {{NULL, NULL}};
	struct tr_host_config host_config = {
		.share_dir = tr_share_dir(), .modules = modules, .jit = config->jit, .handler_limit_ns = LIMIT_NS};
	struct tr_transports transports = {0};
	struct tr_shaping *shaping = NULL;
	struct tr_host *host = NULL;
	size_t count = 0;

	for (const struct tr_module *module = config->modules; module->name != NULL; module++)
		modules[count++] = *module;
	for (const struct tr_module *module = tr_modules; module->name != NULL && count + 1 < MODULES_MAX; module++)
		modules[count++] = *module;
	if (tr_loop_new(&script.loop) != TR_OK)
		return failed(&script, TR_EXIT_OSERR);
	tr_loop_orderly(script.loop, config->orderly);
	tr_loop_enter(script.loop);
	host_config.loop = script.loop;
	if (tr_host_new(&host_config, &host) != TR_OK ||
		tr_transports_init(&transports, script.loop, host, NULL) != TR_OK ||
		tr_shaping_new(&shaping) != TR_OK) {
		script.status = failed(&script, TR_EXIT_UNAVAILABLE);
	} else {
		tr_host_set_service(host, TR_SERVICE_SHAPING, shaping);
		run(&script, host);
	}
	tr_host_free(host);
	tr_shaping_free(shaping);
	tr_transports_fini(&transports);
	tr_loop_free(script.loop);
	return script.status;
}
