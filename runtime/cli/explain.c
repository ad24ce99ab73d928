/* `tailrace explain DOMAIN`: runs the policy without opening anything (no spool, no listener) and prints what is in
 * force for the path of a domain: each value with the line that set it and what it overrode. lua/kumo/explain.lua does
 * the work. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/diag.h"
#include "cli/args.h"
#include "cli/cli.h"
#include "cli/server.h"
#include "cli/transports.h"
#include "ingress/run.h"
#include "policy/policy.h"
#include "shaping/shaping.h"

#define LIMIT_NS (300 * TR_NS_PER_S) /* a policy may fetch data while it loads */

struct question {
	const char *domain, *source;
	bool json;
	struct tr_loop *loop;
	bool ended;
	char *error;                    /* malloc'ed */
	struct tr_buf answer, problems; /* what is printed on standard output and error */
};

static bool
has_ended(void *arg)
{
	return ((struct question *)arg)->ended;
}

/* Waits for a step; TR_EXIT_OK, or the status to exit with after a message. */
static int
finish(struct question *question, const char *what)
{
	if (!question->ended && !tr_loop_run_until(question->loop, has_ended, question, LIMIT_NS)) {
		fprintf(stderr, "tailrace explain: %s did not end within %d s\n", what, (int)(LIMIT_NS / TR_NS_PER_S));
		return TR_EXIT_UNAVAILABLE;
	}
	question->ended = false;
	if (question->error == NULL)
		return TR_EXIT_OK;
	fprintf(stderr, "tailrace explain: %s: %s\n", what, question->error);
	return TR_EXIT_CONFIG;
}

static void
loaded(void *arg, const char *error)
{
	struct question *question = arg;

	question->ended = true;
	if (error != NULL)
		question->error = strdup(error);
}

static void
fired(void *arg, const struct tr_task_result *result)
{
	loaded(arg, result->status == TR_OK ? NULL : result->text);
}

static int
fire(struct tr_host *host, struct question *question, const char *event)
{
	struct tr_task_call call = {.end = fired, .end_arg = question};

	if (tr_event_fire(host, event, &call, NULL) != TR_OK) {
		fprintf(stderr, "tailrace explain: out of memory\n");
		return TR_EXIT_OSERR;
	}
	return finish(question, event);
}

static int
push_question(lua_State *L, void *arg)
{
	const struct question *question = arg;

	lua_pushstring(L, question->domain);
	lua_pushstring(L, question->source);
	lua_pushboolean(L, question->json);
	return 3;
}

static void
answered(void *arg, const struct tr_task_result *result)
{
	struct question *question = arg;

	if (result->status == TR_OK && result->count == 2) {
		tr_buf_addz(&question->answer, lua_tostring(result->L, -2));
		tr_buf_addz(&question->problems, lua_tostring(result->L, -1));
	}
	fired(arg, result);
}

static int
ask(struct tr_host *host, struct question *question)
{
	struct tr_task_call call = {.event = "explain",
		.entry = "explain",
		.push = push_question,
		.push_arg = question,
		.end = answered,
		.end_arg = question};
	int status;

	if (tr_task_start(host, &call, NULL) != TR_OK) {
		fprintf(stderr, "tailrace explain: out of memory\n");
		return TR_EXIT_OSERR;
	}
	status = finish(question, question->domain);
	if (status == TR_EXIT_OK) {
		fwrite(question->problems.data, 1, question->problems.len, stderr);
		if (fwrite(question->answer.data, 1, question->answer.len, stdout) != question->answer.len ||
			fflush(stdout) != 0)
			status = TR_EXIT_IOERR;
	}
	return status;
}

/* The policy as at a start, but nothing is bound or opened: `init` may configure resolvers and more. */
static int
run(struct tr_host *host, struct question *question, const char *policy)
{
	struct tr_run config = {.configuring = true, .validating = true};
	int status = TR_EXIT_OK;

	tr_host_set_service(host, TR_SERVICE_RUN, &config);
	if (policy != NULL) {
		tr_host_load(host, loaded, question);
		status = finish(question, policy);
		if (status == TR_EXIT_OK)
			status = fire(host, question, "pre_init");
		if (status == TR_EXIT_OK)
			status = fire(host, question, "init");
	}
	config.configuring = false;
	if (status == TR_EXIT_OK)
		status = ask(host, question);
	tr_host_set_service(host, TR_SERVICE_RUN, NULL);
	tr_run_fini(&config);
	return status;
}

int
tr_cmd_explain(int argc, char **argv)
{
	const char *policy = NULL, *source = "unspecified", *filter = "error";
	struct tr_arg_list rest = {0};
	struct question question = {0};
	const struct tr_arg options[] = {
		{"source", "NAME", TR_ARG_TEXT, &source, 0, 0, "egress source; default unspecified"},
		{"policy", "FILE", TR_ARG_TEXT, &policy, 0, 0,
			"the policy; without it, the runtime's defaults are shown"},
		{"json", NULL, TR_ARG_FLAG, &question.json, 0, 0, "print the answer as JSON"},
		{"log", "FILTER", TR_ARG_TEXT, &filter, 0, 0, "diagnostics, e.g. info; default error"},
		{NULL, NULL, 0, NULL, 0, 0, NULL},
	};
	const struct tr_args args = {
		"explain",
		"DOMAIN [--source NAME] [--policy FILE]",
		"Prints what is in force for the path of a domain: the names of its queue and ready queue, and each "
		"value "
		"with\nthe line that set it and what it overrode. Runs the policy (pre_init and init, too) without "
		"opening anything.",
		options,
		"Exit status: 0, 78 the policy or a shaping file is wrong.",
		&rest,
	};
	struct tr_transports transports = {0};
	struct tr_shaping *shaping = NULL;
	struct tr_host *host = NULL;
	int status = tr_args_parse(&args, argc, argv);

	if (status == TR_ARGS_RUN && rest.count != 1)
		status = tr_args_error(&args, "one DOMAIN is required");
	if (status == TR_ARGS_RUN && tr_log_filter(filter) != TR_OK)
		status = tr_args_error(&args, "--log %s: expected a level or target=level,...", filter);
	if (status == TR_ARGS_RUN && policy != NULL && access(policy, R_OK) != 0) {
		fprintf(stderr, "tailrace explain: the policy %s cannot be read\n", policy);
		status = TR_EXIT_CONFIG;
	}
	if (status == TR_ARGS_RUN)
		question.domain = rest.items[0];
	tr_arg_list_free(&rest);
	if (status != TR_ARGS_RUN)
		return status;
	question.source = source;
	if (tr_loop_new(&question.loop) != TR_OK) {
		fputs("tailrace explain: cannot make an event loop\n", stderr);
		return TR_EXIT_OSERR;
	}
	tr_loop_enter(question.loop);
	struct tr_host_config config = {
		.loop = question.loop,
		.share_dir = tr_share_dir(),
		.policy = policy,
		.modules = tr_modules,
		.validating = true,
		.handler_limit_ns = LIMIT_NS,
	};
	if (tr_host_new(&config, &host) == TR_OK &&
		tr_transports_init(&transports, question.loop, host, NULL) == TR_OK &&
		tr_shaping_new(&shaping) == TR_OK) {
		tr_host_set_service(host, TR_SERVICE_SHAPING, shaping);
		status = run(host, &question, policy);
	} else {
		fprintf(stderr, "tailrace explain: cannot make a Lua state (share directory %s)\n", tr_share_dir());
		status = TR_EXIT_UNAVAILABLE;
	}
	tr_host_free(host);
	tr_shaping_free(shaping);
	tr_transports_fini(&transports);
	tr_loop_free(question.loop);
	tr_buf_free(&question.answer);
	tr_buf_free(&question.problems);
	free(question.error);
	return status;
}
