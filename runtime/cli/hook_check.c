#include "cli/hook_check.h"

#include <stdlib.h>
#include <string.h>

#include "base/diag.h"

#define ASK_LIMIT_NS (30 * TR_NS_PER_S) /* get_queue_config may fetch what it answers with */

struct check {
	bool ended;
	int err;
	char *fault;
};

static bool
has_ended(void *arg)
{
	return ((struct check *)arg)->ended;
}

static void
checked(void *arg, const struct tr_task_result *result)
{
	struct check *check = arg;

	check->ended = true;
	if (result->status != TR_OK) {
		tr_log(TR_LEVEL_WARN, "run", "the log hooks cannot be checked: %s", result->text);
	} else if (result->count > 0 && lua_type(result->L, -result->count) == LUA_TSTRING) {
		check->err = TR_EINVAL;
		check->fault = strdup(lua_tostring(result->L, -result->count));
	}
}

int
tr_check_hooks(struct tr_host *host, char **error)
{
	struct check *check = calloc(1, sizeof *check); /* outlives a task that does not end */
	struct tr_task_call call = {.event = "get_queue_config",
		.entry = "check_hooks",
		.end = checked,
		.end_arg = check,
		.deadline_ns = ASK_LIMIT_NS};
	int err;

	if (check == NULL)
		return TR_ENOMEM;
	err = tr_task_start(host, &call, NULL);
	if (err == TR_OK && !check->ended &&
		!tr_loop_run_until(tr_host_loop(host), has_ended, check, 2 * ASK_LIMIT_NS)) {
		tr_log(TR_LEVEL_WARN, "run", "the log hooks cannot be checked: get_queue_config does not answer");
		return TR_OK;
	}
	if (err == TR_OK) {
		err = check->err;
		if (check->fault != NULL)
			*error = check->fault;
	}
	free(check);
	return err;
}
