/* Tasks: pooled coroutines that start, park, wake and end. The start of a task that does not wait
 * allocates nothing and formats nothing. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "message/message.h"
#include "policy/internal.h"

/* Nested resumes use the C stack: a policy whose handlers start each other for ever ends here. */
#define MAX_DEPTH 150

char tr_park_key, tr_cancel_key;

/* --- pool ------------------------------------------------------------------------------------ */

static int
make_coroutine(lua_State *L)
{
	struct tr_task *task = lua_touserdata(L, 1);
	lua_State *co = lua_newthread(L);

	task->ref = tr_ref(L);
	tr_ref_push(co, task->host->body_ref);
	task->L = co;
	return 0;
}

static struct tr_task *
take(struct tr_host *host)
{
	struct tr_task *task = host->idle;

	if (task != NULL) {
		host->idle = task->next;
		return task;
	}
	task = host->bare;
	if (task != NULL) {
		host->bare = task->next;
	} else {
		if (host->all_count == host->all_cap) {
			size_t cap = host->all_cap ? host->all_cap * 2 : 64;
			struct tr_task **all = realloc(host->all, cap * sizeof(struct tr_task *));
			if (all == NULL)
				return NULL;
			host->all = all;
			host->all_cap = cap;
		}
		task = calloc(1, sizeof *task);
		if (task == NULL)
			return NULL;
		task->host = host;
		task->ref = LUA_NOREF;
		host->all[host->all_count++] = task;
	}
	if (lua_cpcall(host->L, make_coroutine, task) != 0) {
		lua_pop(host->L, 1);
		task->next = host->bare;
		host->bare = task;
		return NULL;
	}
	return task;
}

static void
give_back(struct tr_task *task)
{
	struct tr_host *host = task->host;
	struct tr_task **list = task->L != NULL ? &host->idle : &host->bare;

	task->state = TASK_IDLE;
	task->next = *list;
	*list = task;
}

static void
unlink_waiting(struct tr_task *task)
{
	*task->prev = task->next;
	if (task->next != NULL)
		task->next->prev = task->prev;
	task->prev = NULL;
}

void
tr_tasks_free(struct tr_host *host)
{
	while (host->waiting != NULL)
		tr_task_cancel(host->waiting);
	for (size_t i = 0; i < host->all_count; i++) {
		free(host->all[i]->text);
		free(host->all[i]);
	}
	free(host->all);
	host->all = NULL;
	host->all_count = 0;
	host->idle = host->bare = NULL;
}

/* --- run --------------------------------------------------------------------------------------- */

static void
stop_wait(struct tr_task *task)
{
	void (*cancel)(void *op) = task->cancel;
	void *op = task->op;

	task->cancel = NULL;
	task->op = NULL;
	task->generation++;
	if (cancel != NULL)
		cancel(op);
}

static void
log_failure(struct tr_task *task, const struct tr_task_result *result)
{
	char full[TR_IDS_BYTES];
	const char *ids = tr_task_ids(task, full);

	if (result->status == TR_ECANCELED)
		tr_log(TR_LEVEL_DEBUG, "lua", "cancelled: event %s %s", task->event ? task->event : "(none)",
			ids ? ids : "");
	else
		tr_log(TR_LEVEL_ERROR, "lua", "%s", result->text);
}

static void
finish(struct tr_task *task, int status)
{
	struct tr_host *host = task->host;
	struct tr_task_result result = {.L = task->L, .reject_code = -1};
	struct tr_buf text = {0};
	char full[TR_IDS_BYTES];

	if (task->cancel != NULL) /* parked inside a coroutine that could not pass it on */
		stop_wait(task);
	task->state = TASK_DONE;
	task->generation++;
	if (task->deadline_at_ns != 0)
		tr_timer_stop(tr_loop_wheel(host->loop), &task->deadline);
	if (task->waiting_since_ns != 0)
		host->live--;
	if (status == LUA_YIELD) {
		result.count = lua_gettop(task->L);
	} else {
		bool cancelled = lua_touserdata(task->L, -1) == &tr_cancel_key;
		result.status = cancelled && task->ending ? task->ending : TR_EINVAL;
		if (tr_is_rejection(task->L, -1, &result.reject_code, &result.reject_text, &result.disconnect)) {
			/* An ordinary outcome, and a frequent one: no traceback. */
			tr_buf_addf(&text, "%d %s", result.reject_code, result.reject_text);
		} else if (cancelled) {
			tr_buf_addz(&text, task->ending == TR_ETIMEDOUT ? "deadline exceeded"
					   : task->ending != 0          ? "cancelled"
									: host->cut_why);
			if (task->event != NULL)
				tr_buf_addf(&text, " in event '%s'", task->event);
			if (task->ids != NULL)
				tr_buf_addf(&text, " (%s)", tr_task_ids(task, full));
			if (host->cut_at != NULL)
				tr_buf_addf(&text, "\n%s", host->cut_at);
		} else {
			tr_error_text(task, &text);
		}
		tr_buf_addc(&text, '\0');
		result.text = text.failed ? "out of memory" : text.data;
	}
	if (task->end != NULL)
		task->end(task->end_arg, &result);
	else if (result.status != TR_OK)
		log_failure(task, &result);
	tr_buf_free(&text);
	if (status == LUA_YIELD) {
		lua_settop(task->L, 0);
	} else {
		free(host->cut_at);
		host->cut_at = NULL;
		tr_unref(host->L, task->ref);
		task->ref = LUA_NOREF;
		task->L = NULL;
	}
	if (host->memory.raised)
		tr_memory_relieve(host);
	give_back(task);
}

bool
tr_task_resume(struct tr_task *task, int nargs)
{
	struct tr_host *host = task->host;
	struct tr_task *outer = host->current;

	task->outer = outer;
	task->state = TASK_RUNNING;
	host->current = task;
	tr_event_name_set(host, task->event);
	if (host->depth++ == 0) {
		atomic_store_explicit(&host->run_limit_ns,
			task->limit_ns > 0 && task->limit_ns < host->limit_ns ? task->limit_ns : host->limit_ns,
			memory_order_relaxed);
		tr_watch_enter(host);
	}
	int status = lua_resume(task->L, nargs);
	if (--host->depth == 0)
		tr_watch_leave(host);
	host->current = outer;
	if (outer != NULL)
		tr_event_name_set(host, outer->event);
	if (status == LUA_YIELD && task->state == TASK_WAITING) {
		task->prev = &host->waiting;
		task->next = host->waiting;
		if (task->next != NULL)
			task->next->prev = &task->next;
		host->waiting = task;
		return true;
	}
	finish(task, status);
	return false;
}

/* The arguments are pushed inside the coroutine, so that a raising push is an error of the task. */
int
tr_l_push_args(lua_State *L)
{
	const struct tr_task_call *call = lua_touserdata(L, 1);

	lua_settop(L, 0);
	return call->push != NULL ? call->push(L, call->push_arg) : 0;
}

int
tr_event_start(struct tr_host *host, const struct tr_task_call *call, const char *name, struct tr_task **out)
{
	struct tr_task *task;

	if (out != NULL)
		*out = NULL;
	if (host->depth >= MAX_DEPTH) {
		tr_log(TR_LEVEL_ERROR, "lua", "event %s: handlers start each other more than %d deep",
			call->event ? call->event : "(none)", MAX_DEPTH);
		return TR_ENOMEM;
	}
	if (host->closing)
		return TR_ECANCELED;
	task = take(host);
	if (task == NULL)
		return TR_ENOMEM;
	task->event = call->event;
	task->ids = call->ids;
	task->id = call->id;
	task->end = call->end;
	task->end_arg = call->end_arg;
	task->details = call->details;
	task->troubled = call->troubled;
	task->deadline_ns = call->deadline_ns;
	task->limit_ns = call->limit_ns;
	task->deadline_at_ns = 0;
	task->waiting_since_ns = 0;
	task->cancel = NULL;
	task->blocked = 0;
	task->ending = 0;
	task->what[0] = '\0';
	task->what_now = NULL;
	task->generation++;
	tr_ref_push(task->L, name != NULL ? host->dispatch_ref : host->entry_ref);
	if (!tr_anchor_push(host, task->L, name != NULL ? name : call->entry)) {
		lua_pop(task->L, 1);
		give_back(task);
		return TR_ENOMEM;
	}
	if (name == NULL) {
		lua_rawget(task->L, -2);
		lua_remove(task->L, -2);
		lua_pushnil(task->L);
	}
	lua_pushlightuserdata(task->L, (void *)call);
	if (tr_task_resume(task, 3) && out != NULL)
		*out = task;
	return TR_OK;
}

int
tr_task_start(struct tr_host *host, const struct tr_task_call *call, struct tr_task **out)
{
	return tr_event_start(host, call, NULL, out);
}

/* --- wait ---------------------------------------------------------------------------------------- */

struct tr_task *
tr_task_check(lua_State *L)
{
	struct tr_task *task = tr_host_of(L)->current;

	if (task == NULL) {
		luaL_error(L, "cannot wait here: no task is running");
		return NULL;
	}
	if (task->ending != 0) {
		lua_pushlightuserdata(L, &tr_cancel_key);
		lua_error(L);
	}
	if (!lua_isyieldable(L) || task->blocked > 0)
		luaL_error(L,
			"cannot wait here, in event '%s': a function in C (a metamethod, string.format, "
			"table.concat or the like) called this code and cannot be suspended",
			task->event ? task->event : "(none)");
	return task;
}

static void
deadline_passed(struct tr_timer *timer)
{
	struct tr_task *task = tr_container_of(timer, struct tr_task, deadline);

	if (task->ending == 0) {
		struct tr_buf text = {0};

		task->ending = TR_ETIMEDOUT;
		tr_task_report(task, &text);
		tr_log(TR_LEVEL_WARN, "lua", "a handler did not end within %.1f s and is cancelled: %.*s",
			(double)task->deadline_ns / TR_NS_PER_S, (int)text.len, text.len > 0 ? text.data : "");
		tr_buf_free(&text);
	}
	tr_task_cancel(task);
}

int
tr_task_park(struct tr_task *task, lua_State *L, void (*cancel)(void *op), void *op, struct tr_ticket *ticket)
{
	struct tr_host *host = task->host;

	if (task->cancel != NULL) /* left by a wait that could not be passed on */
		stop_wait(task);
	if (task->waiting_since_ns == 0) {
		tr_task_keep_names(task);
		host->live++;
		task->waiting_since_ns = tr_mono_ns();
		if (task->deadline_ns > 0) {
			task->deadline_at_ns = task->waiting_since_ns + task->deadline_ns;
			tr_timer_start_at(
				tr_loop_wheel(host->loop), &task->deadline, task->deadline_at_ns, deadline_passed);
		}
	}
	task->state = TASK_WAITING;
	task->parked = L;
	task->cancel = cancel;
	task->op = op;
	ticket->task = task;
	ticket->generation = ++task->generation;
	if (L == task->L)
		return lua_yield(L, 0);
	lua_settop(L, 0); /* host.lua's coroutine.resume knows it by this and passes it outwards */
	lua_pushlightuserdata(L, &tr_park_key);
	return lua_yield(L, 1);
}

struct push_call {
	int (*push)(lua_State *L, void *arg);
	void *arg;
};

int
tr_l_push_protected(lua_State *L)
{
	const struct push_call *call = lua_touserdata(L, 1);

	lua_settop(L, 0);
	return call->push(L, call->arg);
}

bool
tr_task_wake(const struct tr_ticket *ticket, int (*push)(lua_State *L, void *arg), void *arg, bool raise)
{
	struct tr_task *task = ticket->task;

	if (task == NULL || task->state != TASK_WAITING || task->generation != ticket->generation || task->prev == NULL)
		return false;
	lua_State *L = task->host->L;
	int count = 0;

	task->cancel = NULL; /* the operation is over: its owner calls us */
	task->op = NULL;
	task->generation++;
	task->what[0] = '\0';
	task->what_now = NULL;
	unlink_waiting(task);
	if (push != NULL) {
		struct push_call call = {push, arg};
		int base = lua_gettop(L);

		tr_ref_push(L, task->host->push_ref); /* pushing a C function would make a new closure */
		lua_pushlightuserdata(L, &call);
		if (lua_pcall(L, 1, LUA_MULTRET, 0) != 0)
			raise = true;
		count = lua_gettop(L) - base;
	}
	if (raise) {
		if (count == 0)
			lua_pushnil(L);
		tr_task_resume_raising(task);
		return true;
	}
	if (!lua_checkstack(task->L, count)) {
		lua_pop(L, count);
		if (!tr_anchor_push(task->host, L, "too many results"))
			lua_pushnil(L);
		tr_task_resume_raising(task);
		return true;
	}
	lua_xmove(L, task->L, count);
	tr_task_resume(task, count);
	return true;
}

void
tr_task_cancel(struct tr_task *task)
{
	if (task->state != TASK_WAITING && task->state != TASK_RUNNING)
		return;
	if (task->ending == 0)
		task->ending = TR_ECANCELED;
	if (task->state != TASK_WAITING || task->prev == NULL)
		return; /* running below us on the stack: its next wait raises */
	unlink_waiting(task);
	stop_wait(task);
	lua_pushlightuserdata(task->host->L, &tr_cancel_key);
	tr_task_resume_raising(task);
}

void
tr_task_trouble(struct tr_task *task, const char *text)
{
	if (task->troubled != NULL)
		task->troubled(task->end_arg, text);
}

size_t
tr_host_task_count(const struct tr_host *host)
{
	size_t count = host->live;

	for (const struct tr_task *task = host->current; task != NULL; task = task->outer)
		count += task->waiting_since_ns == 0;
	return count;
}
