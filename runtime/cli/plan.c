/* `tailrace plan`: what a policy's queues can take of a given load, and what gives way first. Runs the policy without
 * opening anything, as `tailrace explain` does; lua/plan.lua and lua/plan/ do the work. */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "base/diag.h"
#include "cli/args.h"
#include "cli/cli.h"
#include "cli/tool.h"

#define LIMIT_NS (300 * TR_NS_PER_S) /* a policy may fetch data while it loads */

struct plan {
	const char *policy, *mails, *outage, *duration, *svg;
	int64_t mail_size, event_size, seed;
	struct tr_arg_list events, latencies, domains;
	bool simulate, json;
	struct tr_tool tool;
};

static void
set_list(lua_State *L, const char *key, const struct tr_arg_list *list)
{
	lua_createtable(L, (int)list->count, 0);
	for (size_t i = 0; i < list->count; i++) {
		lua_pushstring(L, list->items[i]);
		lua_rawseti(L, -2, (int)i + 1);
	}
	lua_setfield(L, -2, key);
}

static void
set_text(lua_State *L, const char *key, const char *text)
{
	lua_pushstring(L, text);
	lua_setfield(L, -2, key);
}

static int
push_plan(lua_State *L, void *arg)
{
	const struct plan *plan = arg;

	lua_createtable(L, 0, 14);
	set_text(L, "policy", plan->policy);
	set_text(L, "mails", plan->mails);
	set_text(L, "outage", plan->outage);
	set_text(L, "duration", plan->duration);
	set_text(L, "svg", plan->svg);
	lua_pushnumber(L, (lua_Number)plan->mail_size);
	lua_setfield(L, -2, "mail_size");
	lua_pushnumber(L, (lua_Number)plan->event_size);
	lua_setfield(L, -2, "event_size");
	lua_pushnumber(L, (lua_Number)plan->seed);
	lua_setfield(L, -2, "seed");
	set_list(L, "events", &plan->events);
	set_list(L, "latencies", &plan->latencies);
	set_list(L, "domains", &plan->domains);
	lua_pushboolean(L, plan->simulate || plan->svg != NULL);
	lua_setfield(L, -2, "simulate");
	lua_pushboolean(L, plan->json);
	lua_setfield(L, -2, "json");
	lua_pushboolean(L, isatty(STDOUT_FILENO));
	lua_setfield(L, -2, "terminal");
	return 1;
}

static const char *volatile step_name; /* for a Ctrl-C */

/* Runs a step; TR_EXIT_OK, or the status to exit with after a message. */
static int
step(struct plan *plan, struct tr_task_call *call, const char *what)
{
	step_name = what;
	if (tr_tool_call(&plan->tool, call, LIMIT_NS) != TR_OK) {
		fputs("tailrace plan: out of memory\n", stderr);
		return TR_EXIT_OSERR;
	}
	if (plan->tool.status == TR_OK)
		return TR_EXIT_OK;
	fprintf(stderr, "tailrace plan: %s: %.*s\n", what, (int)plan->tool.out.len, plan->tool.out.data);
	return TR_EXIT_CONFIG;
}

static int
push_text(lua_State *L, void *arg)
{
	lua_pushstring(L, arg);
	return 1;
}

static int
run(struct plan *plan)
{
	struct tr_task_call use = {.entry = "use", .push = push_text, .push_arg = (char[]){"plan"}};
	struct tr_task_call options = {.entry = "plan_options", .push = push_plan, .push_arg = plan};
	struct tr_task_call load = {.entry = "load", .push = push_text, .push_arg = (char *)plan->policy};
	struct tr_task_call pre_init = {
		.entry = "dispatch", .event = "pre_init", .push = push_text, .push_arg = (char[]){"pre_init"}};
	struct tr_task_call init = {
		.entry = "dispatch", .event = "init", .push = push_text, .push_arg = (char[]){"init"}};
	struct tr_task_call answer = {.entry = "plan", .event = "plan"};
	int status = step(plan, &use, "start");

	if (status == TR_EXIT_OK)
		status = step(plan, &options, "options");
	if (status == TR_EXIT_OK)
		status = (int)plan->tool.number; /* it has said what is wrong */
	plan->tool.run.configuring = true;
	if (status == TR_EXIT_OK)
		status = step(plan, &load, plan->policy);
	if (status == TR_EXIT_OK)
		status = step(plan, &pre_init, "pre_init");
	if (status == TR_EXIT_OK)
		status = step(plan, &init, "init");
	plan->tool.run.configuring = false;
	if (status == TR_EXIT_OK)
		status = step(plan, &answer, "plan");
	if (status != TR_EXIT_OK)
		return status;
	if (fwrite(plan->tool.out.data, 1, plan->tool.out.len, stdout) != plan->tool.out.len || fflush(stdout) != 0)
		return TR_EXIT_IOERR;
	return (int)plan->tool.number;
}

int
tr_cmd_plan(int argc, char **argv)
{
	const char *filter = "error,watchdog=off";
	struct tr_arg_list rest = {0};
	struct plan plan = {.mails = "1000000/h",
		.outage = "30m",
		.duration = "2m",
		.mail_size = 10240,
		.event_size = 900,
		.seed = 1};
	const struct tr_arg options[] = {
		{"policy", "FILE", TR_ARG_TEXT, &plan.policy, 0, 0, "the policy (required, may stand alone)"},
		{"mails", "RATE", TR_ARG_TEXT, &plan.mails, 0, 0, "mails that come in; default 1000000/h"},
		{"events", "TYPE=N", TR_ARG_LIST, &plan.events, 0, 0,
			"events of a type for each mail; repeat. Default Reception=1, Delivery=1"},
		{"latency", "NAME=TIME", TR_ARG_LIST, &plan.latencies, 0, 0,
			"how long a hook's endpoint takes for a request, or `mail` (the next hops) for a message; "
			"repeat. "
			"Default 20ms and 200ms"},
		{"domain", "D[:WEIGHT]", TR_ARG_LIST, &plan.domains, 0, 0,
			"where the mail goes; repeat. Default example.com"},
		{"mail-size", "BYTES", TR_ARG_SIZE, &plan.mail_size, 1, 1e9, "of a mail; default 10k"},
		{"event-size", "BYTES", TR_ARG_SIZE, &plan.event_size, 1, 1e6, "of a record; default 900"},
		{"outage", "TIME", TR_ARG_TEXT, &plan.outage, 0, 0,
			"of an endpoint, to see what it leaves; default 30m"},
		{"simulate", NULL, TR_ARG_FLAG, &plan.simulate, 0, 0,
			"run the load through the real engine, too, under a virtual clock"},
		{"duration", "TIME", TR_ARG_TEXT, &plan.duration, 0, 0, "of the simulated load; default 2m"},
		{"svg", "FILE", TR_ARG_TEXT, &plan.svg, 0, 0, "write the simulated queue depths as a drawing"},
		{"seed", "N", TR_ARG_INT, &plan.seed, 0, 4294967295.0, "of the simulation; default 1"},
		{"json", NULL, TR_ARG_FLAG, &plan.json, 0, 0, "print one JSON document"},
		{"log", "FILTER", TR_ARG_TEXT, &filter, 0, 0, "diagnostics, e.g. info; default error"},
		{NULL, NULL, 0, NULL, 0, 0, NULL},
	};
	const struct tr_args args = {
		"plan",
		"[--policy] FILE [--mails RATE] [--events TYPE=N ...] [--latency NAME=TIME ...]",
		"Computes what the queues of a policy can take under their shaping, beside what a load asks of them, "
		"and\nnames what gives way first and the setting to change. Runs the policy (pre_init and init, too) "
		"without\nopening anything.",
		options,
		"Exit status: 0 all queues keep up, 1 one does not, 78 the policy cannot be loaded.",
		&rest,
	};
	struct tr_host_config config = {.validating = true};
	int status = tr_args_parse(&args, argc, argv);

	if (status == TR_ARGS_RUN && plan.policy == NULL && rest.count == 1)
		plan.policy = rest.items[0];
	else if (status == TR_ARGS_RUN && rest.count > 0)
		status = tr_args_error(&args, "one policy is planned at a time");
	tr_arg_list_free(&rest);
	if (status == TR_ARGS_RUN && plan.policy == NULL)
		status = tr_args_error(&args, "--policy FILE is required");
	if (status == TR_ARGS_RUN && tr_log_filter(filter) != TR_OK)
		status = tr_args_error(&args, "--log %s: expected a level or target=level,...", filter);
	if (status == TR_ARGS_RUN && plan.policy != NULL && access(plan.policy, R_OK) != 0) {
		fprintf(stderr, "tailrace plan: the policy %s cannot be read\n", plan.policy);
		status = TR_EXIT_CONFIG;
	}
	if (status == TR_ARGS_RUN) {
		signal(SIGPIPE, SIG_IGN);
		tr_tool_interruptible("plan", &step_name);
		config.policy = plan.policy;
		if (tr_tool_init(&plan.tool, &config) != TR_OK) {
			fputs("tailrace plan: cannot make a Lua state: out of memory, or the runtime's own files are "
			      "not there\n",
				stderr);
			status = TR_EXIT_OSERR;
		} else {
			plan.tool.run.validating = true;
			status = run(&plan);
		}
		tr_tool_fini(&plan.tool);
	}
	tr_arg_list_free(&plan.events);
	tr_arg_list_free(&plan.latencies);
	tr_arg_list_free(&plan.domains);
	return status;
}
