/* What tasks do: for a stop at its deadline, for whoever asks, for a handler that is past its limit. */
#include "base/clock.h"
#include "base/diag.h"
#include "policy/internal.h"

#define INTERRUPTS_MAX 3 /* errors that a handler may catch before it is ended without being asked */

struct trace {
	lua_State *at;
	struct tr_buf *out;
};

static int
add_trace(lua_State *L)
{
	const struct trace *trace = lua_touserdata(L, 1);
	const char *text;
	size_t len;

	luaL_traceback(L, trace->at, NULL, 0);
	text = lua_tolstring(L, -1, &len);
	tr_buf_add(trace->out, text, len);
	return 0;
}

static void
report(struct tr_task *task, lua_State *at, int64_t now_ns, struct tr_buf *out)
{
	lua_State *L = task->host->L;
	char full[TR_IDS_BYTES];
	const char *ids = tr_task_ids(task, full);
	struct trace trace = {at, out};

	tr_buf_addf(out, "%s event=%s %s", task->state == TASK_WAITING ? "waiting" : "running",
		task->event ? task->event : "(none)", ids ? ids : "");
	if (task->waiting_since_ns != 0)
		tr_buf_addf(out, " age=%.3fs", (double)(now_ns - task->waiting_since_ns) / TR_NS_PER_S);
	if (task->what_now != NULL && task->cancel != NULL)
		tr_buf_addf(out, " for %s", task->what_now(task->op));
	else if (task->what[0] != '\0')
		tr_buf_addf(out, " for %s", task->what);
	tr_buf_addc(out, '\n');
	if (task->details != NULL)
		task->details(task->end_arg, out);
	if (lua_cpcall(L, add_trace, &trace) != 0) {
		tr_buf_addz(out, "(no memory for a traceback)");
		lua_pop(L, 1);
	}
	tr_buf_addc(out, '\n');
}

/* Where it is: in a coroutine that the policy has made, maybe. */
static lua_State *
place(const struct tr_task *task)
{
	return task->parked != NULL && task->state == TASK_WAITING ? task->parked : task->L;
}

void
tr_task_report(struct tr_task *task, struct tr_buf *out)
{
	report(task, place(task), tr_mono_ns(), out);
}

void
tr_host_report(struct tr_host *host, struct tr_buf *out)
{
	for (struct tr_task *task = host->current; task != NULL; task = task->outer)
		tr_task_report(task, out);
	for (struct tr_task *task = host->waiting; task != NULL; task = task->next)
		tr_task_report(task, out);
}

uint32_t
tr_host_hang_report(struct tr_host *host, uint32_t max, void (*each)(void *arg, struct tr_str text), void *arg)
{
	struct tr_buf text = {0};
	uint32_t count = 0;

	for (struct tr_task *task = host->current != NULL ? host->current : host->waiting; task != NULL;) {
		bool waits = task->state == TASK_WAITING;

		tr_buf_clear(&text);
		if (!waits || task->details == NULL || task->details(task->end_arg, &text)) {
			tr_buf_clear(&text);
			if (count++ < max) {
				tr_task_report(task, &text);
				each(arg, (struct tr_str){text.data, text.len});
			}
		}
		task = waits ? task->next : task->outer != NULL ? task->outer : host->waiting;
	}
	tr_buf_free(&text);
	return count;
}

bool
tr_task_interrupted(struct tr_host *host, lua_State *L)
{
	uint64_t stretch = atomic_load_explicit(&host->stretch, memory_order_relaxed);
	struct tr_buf text = {0};

	if (host->current == NULL)
		return false;
	if (host->reported == stretch)
		return ++host->interrupts > INTERRUPTS_MAX;
	host->reported = stretch;
	host->interrupts = 1;
	report(host->current, L, tr_mono_ns(), &text);
	tr_log(TR_LEVEL_ERROR, "watchdog", "worker %u: interrupted after %.1f s without waiting: %.*s", host->worker,
		(double)atomic_load_explicit(&host->run_limit_ns, memory_order_relaxed) / TR_NS_PER_S, (int)text.len,
		text.len > 0 ? text.data : "");
	tr_buf_free(&text);
	return false;
}
