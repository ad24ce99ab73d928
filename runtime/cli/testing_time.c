/* Time of a runtime under test: it passes when a spec says so, and the wall clock can be set. */
#include <stdlib.h>

#include "base/clock.h"
#include "cli/testing_internal.h"

/* Time passes, and then everything that has become due in it happens. */
struct wait {
	struct tr_timer timer;
	struct tr_idle idle;
	struct tr_ticket ticket;
	struct tr_loop *loop;
};

static void
wait_over(struct tr_idle *idle)
{
	struct wait *wait = tr_container_of(idle, struct wait, idle);
	struct tr_ticket ticket = wait->ticket;

	free(wait);
	tr_task_wake(&ticket, NULL, NULL, false);
}

static void
time_passed(struct tr_timer *timer)
{
	struct wait *wait = tr_container_of(timer, struct wait, timer);

	tr_loop_idle(wait->loop, &wait->idle, wait_over);
}

static void
wait_cancel(void *op)
{
	struct wait *wait = op;

	tr_timer_stop(tr_loop_wheel(wait->loop), &wait->timer);
	tr_loop_unidle(wait->loop, &wait->idle);
	free(wait);
}

/* runtime:advance(seconds): time passes; everything due in it happens. */
int
tr_testing_advance(lua_State *L)
{
	struct tr_testing *runtime = tr_testing_check(L);
	lua_Number seconds = luaL_checknumber(L, 2);
	struct tr_task *task = tr_task_check(L);
	struct wait *wait;

	luaL_argcheck(L, seconds >= 0 && seconds < 9e9, 2, "seconds >= 0 expected");
	wait = calloc(1, sizeof *wait);
	if (wait == NULL)
		return luaL_error(L, "out of memory");
	wait->loop = runtime->loop;
	if (seconds > 0)
		tr_timer_start(tr_loop_wheel(wait->loop), &wait->timer, (int64_t)(seconds * 1e9), time_passed);
	else
		tr_loop_idle(wait->loop, &wait->idle, wait_over);
	tr_task_describe(task, "%.3f s of time", seconds);
	return tr_task_park(task, L, wait_cancel, wait, &wait->ticket);
}

/* runtime:step_clock(seconds): the wall clock jumps, monotonic time does not. */
int
tr_testing_step_clock(lua_State *L)
{
	tr_testing_check(L);
	if (!tr_clock_is_virtual())
		return luaL_error(L, "step_clock: only the virtual clock can be set");
	tr_clock_step((int64_t)(luaL_checknumber(L, 2) * 1e9));
	return 0;
}
