/* `tailrace help NAME`: the reference of what policies have. lua/reference_text.lua writes it. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/diag.h"
#include "cli/cli.h"
#include "cli/tool.h"

struct question {
	const char *name, *const *commands;
};

static int
push_question(lua_State *L, void *arg)
{
	const struct question *question = arg;

	lua_pushstring(L, question->name);
	lua_pushboolean(L, isatty(STDOUT_FILENO) && getenv("NO_COLOR") == NULL);
	lua_newtable(L);
	for (int i = 0; question->commands[i] != NULL; i++) {
		lua_pushstring(L, question->commands[i]);
		lua_rawseti(L, -2, i + 1);
	}
	return 3;
}

static int
push_module(lua_State *L, void *arg)
{
	lua_pushliteral(L, "reference_text");
	return 1;
}

int
tr_help_reference(const char *name, const char *const *commands)
{
	struct question question = {name, commands};
	struct tr_host_config config = {0};
	struct tr_task_call use = {.entry = "use", .push = push_module};
	struct tr_task_call help = {.entry = "help", .push = push_question, .push_arg = &question};
	struct tr_tool tool = {0};
	int status = TR_EXIT_OSERR, err;

	tr_log_filter("error");
	err = tr_tool_init(&tool, &config);
	if (err == TR_OK)
		err = tr_tool_call(&tool, &use, 0);
	if (err == TR_OK && tool.status == TR_OK)
		err = tr_tool_call(&tool, &help, 0);
	if (err != TR_OK || tool.status != TR_OK) {
		fprintf(stderr, "tailrace help: the reference cannot be read: %.*s\n", (int)tool.out.len,
			tool.out.data != NULL ? tool.out.data : "");
	} else {
		status = (int)tool.number;
		fwrite(tool.out.data, 1, tool.out.len, status == TR_EXIT_OK ? stdout : stderr);
	}
	tr_tool_fini(&tool);
	return status;
}
