/* Code in the state of the policy under test, as a task there; the caller's task waits if it does. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cli/testing_internal.h"

struct eval {
	struct tr_ticket ticket;
	const char *code; /* borrowed until it has started */
	struct tr_buf out;
	char *error; /* NULL: none, or no memory for it */
	bool failed, ended, parked, cancelled;
};

static int
push_code(lua_State *L, void *arg)
{
	lua_pushstring(L, ((const struct eval *)arg)->code);
	return 1;
}

static void
free_eval(struct eval *eval)
{
	tr_buf_free(&eval->out);
	free(eval->error);
	free(eval);
}

static int
push_value(lua_State *L, void *arg)
{
	const struct eval *eval = arg;
	size_t at;

	if (eval->failed) {
		lua_pushfstring(L, "eval: %s", eval->error != NULL ? eval->error : "out of memory");
		return 1;
	}
	if (tr_json_push(L, (struct tr_str){eval->out.data, eval->out.len}, false, &at) != TR_OK)
		lua_pushnil(L);
	return 1;
}

static void
evaluated(void *arg, const struct tr_task_result *result)
{
	struct eval *eval = arg;
	const char *what = NULL;

	if (result->status != TR_OK) {
		eval->failed = true;
		eval->error = strdup(result->text);
	} else if (result->count == 0) {
		tr_buf_addz(&eval->out, "null");
	} else if (tr_json_from_lua(result->L, -result->count, &eval->out, &what) != TR_OK) {
		eval->failed = true;
		if (asprintf(&eval->error, "the result has a %s", what) < 0)
			eval->error = NULL;
	}
	eval->failed |= eval->out.failed;
	eval->ended = true;
	if (!eval->parked)
		return;
	if (!eval->cancelled)
		tr_task_wake(&eval->ticket, push_value, eval, eval->failed);
	free_eval(eval);
}

static void
eval_cancel(void *op)
{
	((struct eval *)op)->cancelled = true;
}

/* runtime:eval(code) -> the JSON-able value that the chunk returns in the policy's state. It may wait. */
int
tr_testing_eval(lua_State *L)
{
	struct tr_testing *runtime = tr_testing_check(L);
	const char *code = luaL_checkstring(L, 2);
	struct tr_task *task = tr_task_check(L);
	struct eval *eval = calloc(1, sizeof *eval);
	struct tr_task_call call = {.event = "eval",
		.entry = "evaluate",
		.push = push_code,
		.push_arg = eval,
		.end = evaluated,
		.end_arg = eval};

	if (eval == NULL)
		return luaL_error(L, "out of memory");
	eval->code = code;
	if (tr_task_start(tr_server_host(runtime->server), &call, NULL) != TR_OK) {
		free_eval(eval);
		return luaL_error(L, "eval: out of memory");
	}
	if (eval->ended) {
		bool failed = eval->failed;

		push_value(L, eval);
		free_eval(eval);
		return failed ? lua_error(L) : 1;
	}
	eval->parked = true;
	tr_task_describe(task, "code in the policy");
	return tr_task_park(task, L, eval_cancel, eval, &eval->ticket);
}
