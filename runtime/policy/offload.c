#include "policy/offload.h"

#include "policy/internal.h"

static void
stop_waiting(struct tr_offload *op)
{
	tr_timer_stop(tr_loop_wheel(op->loop), &op->deadline);
	op->waiting = false;
	if (tr_work_take_back(&op->work))
		op->free(op);
	else if (op->interrupt != NULL)
		op->interrupt(op);
}

static void
cancelled(void *arg)
{
	stop_waiting(arg);
}

static int
push_results(lua_State *L, void *arg)
{
	struct tr_offload *op = arg;

	if (op->work.skipped)
		return tr_push_error(L, TR_ECANCELED, "the process ends");
	return op->push(L, op);
}

static int
push_late(lua_State *L, void *arg)
{
	return tr_push_error(L, TR_ETIMEDOUT, "timed out after %g s", (double)*(int64_t *)arg / TR_NS_PER_S);
}

static void
too_late(struct tr_timer *timer)
{
	struct tr_offload *op = tr_container_of(timer, struct tr_offload, deadline);
	struct tr_ticket ticket = op->ticket;
	int64_t limit_ns = op->limit_ns;

	stop_waiting(op);
	tr_task_wake(&ticket, push_late, &limit_ns, false);
}

static void
ended(struct tr_work *work)
{
	struct tr_offload *op = tr_container_of(work, struct tr_offload, work);

	if (op->waiting) {
		tr_timer_stop(tr_loop_wheel(op->loop), &op->deadline);
		op->waiting = false;
		tr_task_wake(&op->ticket, push_results, op, false);
	}
	op->free(op);
}

static void
run(struct tr_work *work)
{
	struct tr_offload *op = tr_container_of(work, struct tr_offload, work);

	op->run(op);
}

/* Owned by Lua while push() may raise. */
static int
l_run_now(lua_State *L)
{
	struct tr_offload *op = lua_touserdata(L, 1);

	lua_settop(L, 0);
	return op->push(L, op);
}

static int
run_now(lua_State *L, struct tr_offload *op)
{
	int top = lua_gettop(L), err;

	op->run(op);
	lua_pushcfunction(L, l_run_now);
	lua_pushlightuserdata(L, op);
	err = lua_pcall(L, 1, LUA_MULTRET, 0);
	op->free(op);
	if (err != 0)
		return lua_error(L);
	return lua_gettop(L) - top;
}

int
tr_offload(lua_State *L, struct tr_offload *op, int64_t limit_ns, const char *what, const char *more)
{
	struct tr_host *host = tr_host_of(L);
	struct tr_task *task = host->current;

	op->loop = host->loop;
	op->limit_ns = limit_ns;
	if (task != NULL && task->ending != 0) {
		op->free(op);
		lua_pushlightuserdata(L, &tr_cancel_key);
		return lua_error(L);
	}
	if (task == NULL || task->blocked > 0 || !lua_isyieldable(L) ||
		tr_work_start(op->loop, &op->work, run, ended) != TR_OK)
		return run_now(L, op);
	op->waiting = true;
	tr_task_describe_text(task, what, more);
	tr_timer_start(tr_loop_wheel(op->loop), &op->deadline, limit_ns, too_late);
	return tr_task_park(task, L, cancelled, op, &op->ticket);
}
