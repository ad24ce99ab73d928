/* `tailrace check`: loads a policy as a start does, opens and writes nothing, and tells everything that is wrong.
 * lua/check.lua holds what is looked for; here are the steps, each with a limit that no policy can get around. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/diag.h"
#include "cli/args.h"
#include "cli/cli.h"
#include "cli/tool.h"

#define MEMORY_LIMIT (512LL << 20) /* bytes of one Lua state */
#define GRACE_S 3                  /* between asking a step to end and ending the process */

struct check {
	const char *policy;
	double limit_s; /* of a step */
	bool json, strict;
	struct tr_tool tool;
};

/* --- a step that does not wait ----------------------------------------------------------------------------- */

static const char *volatile step_name;
static volatile sig_atomic_t asked;
static pthread_t lua_thread;

/* Asks what runs to end; a function in C that never comes back leaves nothing but to say where that was. */
static void
too_long(int number)
{
	static const char before[] =
		"tailrace check: nothing can be said about the policy: it does not come back from ";
	const char *name = step_name;

	if (!pthread_equal(pthread_self(), lua_thread)) { /* the kernel takes any thread that does not block it */
		pthread_kill(lua_thread, number);
		return;
	}
	if (!asked++) {
		tr_watch_cancel();
		return;
	}
	if (write(STDERR_FILENO, before, sizeof before - 1) < 0 || write(STDERR_FILENO, name, strlen(name)) < 0 ||
		write(STDERR_FILENO, "\n", 1) < 0)
		_exit(TR_EXIT_CONFIG);
	_exit(TR_EXIT_CONFIG);
}

static void
set_alarm(double first_s, double then_s)
{
	struct itimerval timer = {
		.it_value = {(time_t)first_s, (suseconds_t)((first_s - (double)(time_t)first_s) * 1e6)},
		.it_interval = {(time_t)then_s, 0},
	};

	setitimer(ITIMER_REAL, &timer, NULL);
}

/* --- steps --------------------------------------------------------------------------------------------------- */

struct texts {
	const char *text[2];
	double number;
	bool has_number;
};

static int
push_texts(lua_State *L, void *arg)
{
	const struct texts *texts = arg;
	int count = 0;

	for (size_t i = 0; i < TR_COUNT(texts->text) && texts->text[i] != NULL; i++, count++) {
		lua_pushstring(L, texts->text[i]);
		if (i == 0 && texts->has_number) {
			lua_pushnumber(L, texts->number);
			count++;
		}
	}
	return count;
}

/* Runs an entry of lua/check.lua. What it raises or is cut off from becomes a finding. TR_OK or TR_ENOMEM. */
static int
step(struct check *check, const char *entry, const char *event, const char *name, const char *arg)
{
	struct texts texts = {.text = {arg}};
	struct tr_task_call call = {.entry = entry,
		.event = event,
		.push = push_texts,
		.push_arg = &texts,
		.limit_ns = (int64_t)(check->limit_s * 1e9)};
	struct tr_buf why = {0};
	int err;

	step_name = name;
	asked = 0;
	set_alarm(check->limit_s + 1, GRACE_S);
	err = tr_tool_call(&check->tool, &call, (int64_t)(check->limit_s * 1e9));
	set_alarm(0, 0);
	if (err != TR_OK || check->tool.status == TR_OK)
		return err;
	texts = (struct texts){.text = {name, NULL},
		.number = check->tool.status == TR_EINVAL ? 0 : check->limit_s,
		.has_number = true};
	tr_buf_add(&why, check->tool.out.data, check->tool.out.len);
	tr_buf_addc(&why, '\0');
	texts.text[1] = why.data;
	call = (struct tr_task_call){.entry = "check_cut", .push = push_texts, .push_arg = &texts};
	err = why.failed ? TR_ENOMEM : tr_tool_call(&check->tool, &call, 0);
	tr_buf_free(&why);
	return err;
}

/* Of the terminal on standard output; 0: it is none, or does not say. */
static int
columns(void)
{
	struct winsize size;

	return isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

static int
push_finish(lua_State *L, void *arg)
{
	const struct check *check = arg;
	const char *missing = tr_run_missing_spool(&check->tool.run);

	lua_pushstring(L, missing != NULL ? missing : "");
	lua_pushboolean(L, check->json);
	lua_pushboolean(L, isatty(STDOUT_FILENO) && getenv("NO_COLOR") == NULL);
	lua_pushboolean(L, check->strict);
	lua_pushinteger(L, columns());
	return 5;
}

static int
run(struct check *check)
{
	struct tr_tool *tool = &check->tool;
	struct tr_task_call use = {.entry = "use", .push = push_texts, .push_arg = &(struct texts){.text = {"check"}}};
	struct tr_task_call finish = {.entry = "check_finish", .push = push_finish, .push_arg = check};
	int err = tr_tool_call(tool, &use, 0);

	if (err == TR_OK && tool->status == TR_OK)
		err = step(check, "check_begin", NULL, "begin", check->policy);
	if (err == TR_OK && tool->status == TR_OK)
		err = step(check, "check_load", NULL, "load", check->policy);
	if (err == TR_OK)
		err = step(check, "check_fire", "pre_init", "pre_init", "pre_init");
	if (err == TR_OK)
		err = step(check, "check_fire", "init", "init", "init");
	if (err == TR_OK)
		err = step(check, "check_log_hooks", "get_queue_config", "get_queue_config", NULL);
	if (err == TR_OK)
		err = step(check, "check_fire", "validate_config", "validate_config", "validate_config");
	if (err == TR_OK)
		err = tr_tool_call(tool, &finish, 0);
	if (err == TR_OK && tool->status == TR_OK) {
		if (fwrite(tool->out.data, 1, tool->out.len, stdout) != tool->out.len || fflush(stdout) != 0)
			return TR_EXIT_IOERR;
		return (int)tool->number;
	}
	fprintf(stderr, "tailrace check: %.*s\n", (int)tool->out.len,
		tool->out.data ? tool->out.data : "out of memory");
	return TR_EXIT_OSERR;
}

int
tr_cmd_check(int argc, char **argv)
{
	const char *filter = "error,watchdog=off";
	struct tr_arg_list rest = {0};
	struct check check = {.limit_s = 60};
	const struct tr_arg options[] = {
		{"policy", "FILE", TR_ARG_TEXT, &check.policy, 0, 0, "the policy (required, may stand alone)"},
		{"json", NULL, TR_ARG_FLAG, &check.json, 0, 0, "print one JSON document"},
		{"strict", NULL, TR_ARG_FLAG, &check.strict, 0, 0, "warnings fail, too"},
		{"timeout", "SECONDS", TR_ARG_REAL, &check.limit_s, 0.01, 3600,
			"of loading, and of each event that is fired; default 60"},
		{"log", "FILTER", TR_ARG_TEXT, &filter, 0, 0, "diagnostics, e.g. info; default error"},
		{NULL, NULL, 0, NULL, 0, 0, NULL},
	};
	const struct tr_args args = {
		"check",
		"[--policy] FILE [--json] [--strict]",
		"Loads the policy, fires pre_init, init and validate_config, and reads the text of each file that it "
		"reaches.\nTells all that is wrong, with file and line. Opens no port, writes nothing.",
		options,
		"Exit status: 0 nothing is wrong (there may be warnings), 1 something is, 78 the policy cannot be "
		"loaded.",
		&rest,
	};
	struct sigaction action = {.sa_handler = too_long, .sa_flags = SA_RESTART};
	struct tr_host_config config = {.validating = true, .memory_limit = MEMORY_LIMIT};
	int status = tr_args_parse(&args, argc, argv);

	if (status == TR_ARGS_RUN && check.policy == NULL && rest.count == 1)
		check.policy = rest.items[0];
	else if (status == TR_ARGS_RUN && rest.count > 0)
		status = tr_args_error(&args, "one policy is checked at a time");
	tr_arg_list_free(&rest);
	if (status == TR_ARGS_RUN && check.policy == NULL)
		status = tr_args_error(&args, "--policy FILE is required");
	if (status == TR_ARGS_RUN && tr_log_filter(filter) != TR_OK)
		status = tr_args_error(&args, "--log %s: expected a level or target=level,...", filter);
	if (status != TR_ARGS_RUN)
		return status;
	signal(SIGPIPE, SIG_IGN);
	tr_tool_interruptible("check", &step_name);
	lua_thread = pthread_self();
	sigemptyset(&action.sa_mask);
	config.policy = check.policy;
	if (sigaction(SIGALRM, &action, NULL) != 0 || tr_watchdog_start() != TR_OK ||
		tr_tool_init(&check.tool, &config) != TR_OK) {
		fprintf(stderr,
			"tailrace check: cannot make a Lua state: out of memory, or the runtime's own files are "
			"not there\n");
		status = TR_EXIT_OSERR;
	} else {
		check.tool.run.validating = true;
		status = run(&check);
	}
	tr_tool_fini(&check.tool);
	tr_watchdog_stop();
	return status;
}
