/* `tailrace queue NAME` and `tailrace throttle SPEC`: what a policy answers for a queue, and what a rate means, without
 * a running node. lua/ask.lua does the work. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/diag.h"
#include "cli/args.h"
#include "cli/cli.h"
#include "cli/tool.h"

#define LIMIT_NS (60 * TR_NS_PER_S) /* of loading, and of each event */

struct question {
	const char *command;
	const char *text; /* argument of the entry */
	bool json;
};

static int
push(lua_State *L, void *arg)
{
	const struct question *question = arg;

	lua_pushstring(L, question->text);
	lua_pushboolean(L, question->json);
	return 2;
}

/* TR_EXIT_OK, or the status to exit with after a message. */
static int
step(struct tr_tool *tool, struct question *question, const char *entry, const char *event)
{
	struct tr_task_call call = {.entry = entry, .event = event, .push = push, .push_arg = question};

	if (tr_tool_call(tool, &call, LIMIT_NS) != TR_OK) {
		fprintf(stderr, "tailrace %s: out of memory\n", question->command);
		return TR_EXIT_OSERR;
	}
	if (tool->status == TR_OK)
		return TR_EXIT_OK;
	fprintf(stderr, "tailrace %s: %.*s\n", question->command, (int)tool->out.len,
		tool->out.data != NULL ? tool->out.data : "out of memory");
	return TR_EXIT_CONFIG;
}

static int
ask(struct tr_tool *tool, struct question *question, const char *policy, const char *entry, const char *event)
{
	struct question part = {question->command, "ask", false};
	int status = step(tool, &part, "use", NULL);

	for (int i = 0; status == TR_EXIT_OK && policy != NULL && i < 3; i++) {
		static const char *const events[] = {NULL, "pre_init", "init"};
		part.text = i == 0 ? policy : events[i];
		status = step(tool, &part, i == 0 ? "ask_load" : "ask_fire", events[i]);
	}
	if (status == TR_EXIT_OK)
		status = step(tool, question, entry, event);
	if (status != TR_EXIT_OK)
		return status;
	status = (int)tool->number;
	if (fwrite(tool->out.data, 1, tool->out.len, status == TR_EXIT_OK ? stdout : stderr) != tool->out.len)
		return TR_EXIT_IOERR;
	return status;
}

static int
run(struct question *question, const char *policy, const char *entry, const char *event)
{
	struct tr_host_config config = {.validating = true, .policy = policy};
	struct tr_tool tool = {0};
	int status;

	if (tr_watchdog_start() != TR_OK || tr_tool_init(&tool, &config) != TR_OK) {
		fprintf(stderr,
			"tailrace %s: cannot make a Lua state: out of memory, or the runtime's own files are "
			"not there\n",
			question->command);
		status = TR_EXIT_OSERR;
	} else {
		tool.run.validating = true;
		status = ask(&tool, question, policy, entry, event);
	}
	tr_tool_fini(&tool);
	tr_watchdog_stop();
	return status;
}

int
tr_cmd_queue(int argc, char **argv)
{
	const char *policy = NULL;
	struct tr_arg_list rest = {0};
	struct question question = {.command = "queue"};
	const struct tr_arg options[] = {
		{"policy", "FILE", TR_ARG_TEXT, &policy, 0, 0, "the policy; without it, the runtime's defaults"},
		{"json", NULL, TR_ARG_FLAG, &question.json, 0, 0, "print the answer as JSON"},
		{NULL, NULL, 0, NULL, 0, 0, NULL},
	};
	const struct tr_args args = {
		"queue",
		"NAME [--policy FILE]",
		"Prints the configuration that a policy answers for a queue: CAMPAIGN:TENANT@DOMAIN!ROUTING_DOMAIN, "
		"all but\nthe domain may be left out. Runs the policy (pre_init and init, too) without opening "
		"anything.",
		options,
		"Exit status: 0, 78 the policy is wrong.",
		&rest,
	};
	int status = tr_args_parse(&args, argc, argv);

	if (status == TR_ARGS_RUN && rest.count != 1)
		status = tr_args_error(&args, "one NAME is required");
	if (status == TR_ARGS_RUN && policy != NULL && access(policy, R_OK) != 0) {
		fprintf(stderr, "tailrace queue: the policy %s cannot be read\n", policy);
		status = TR_EXIT_CONFIG;
	}
	if (status == TR_ARGS_RUN)
		question.text = rest.items[0];
	tr_arg_list_free(&rest);
	if (status != TR_ARGS_RUN)
		return status;
	tr_log_filter("error");
	return run(&question, policy, "ask_queue", "get_queue_config");
}

int
tr_cmd_throttle(int argc, char **argv)
{
	struct tr_arg_list rest = {0};
	struct question question = {.command = "throttle"};
	const struct tr_arg options[] = {{NULL, NULL, 0, NULL, 0, 0, NULL}};
	const struct tr_args args = {
		"throttle",
		"RATE",
		"Says what a rate means: its burst, and how much it is by second, minute, hour and day. A rate is "
		"[local:]QUANTITY/UNIT[,max_burst=N],\ne.g. 100/h or local:5/s,max_burst=1.",
		options,
		"Exit status: 0, 65 this is no rate.",
		&rest,
	};
	int status = tr_args_parse(&args, argc, argv);

	if (status == TR_ARGS_RUN && rest.count != 1)
		status = tr_args_error(&args, "one RATE is required");
	if (status == TR_ARGS_RUN)
		question.text = rest.items[0];
	tr_arg_list_free(&rest);
	if (status != TR_ARGS_RUN)
		return status;
	tr_log_filter("error");
	return run(&question, NULL, "ask_throttle", NULL);
}
