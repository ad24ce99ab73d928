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

static bool resume(struct tr_task *task, int nargs);

/* --- pool ------------------------------------------------------------------------------------ */

static int
make_coroutine(lua_State *L)
{
	struct tr_task *task = lua_touserdata(L, 1);
	lua_State *co = lua_newthread(L);

	task->ref = luaL_ref(L, LUA_REGISTRYINDEX);
	lua_rawgeti(co, LUA_REGISTRYINDEX, task->host->body_ref);
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

static int
make_event(lua_State *L)
{
	const char *event = lua_touserdata(L, 1);

	lua_pushliteral(L, "_KUMO_CURRENT_EVENT");
	lua_pushstring(L, event);
	lua_rawset(L, LUA_GLOBALSINDEX);
	return 0;
}

/* Sets _KUMO_CURRENT_EVENT, raw: a policy may have made globals strict. */
static void
set_event(struct tr_host *host, const char *event)
{
	if (event == NULL || (host->event_name != NULL && strcmp(host->event_name, event) == 0))
		return;
	size_t size = strlen(event) + 1;
	if (host->event_name == NULL || size > host->event_cap) {
		char *copy = realloc(host->event_name, size + 32);
		if (copy == NULL)
			return; /* the global keeps the former event: only a diagnostic suffers */
		if (host->event_name == NULL)
			copy[0] = '\0';
		host->event_name = copy;
		host->event_cap = size + 32;
	}
	if (host->event_name[0] == '\0') { /* the first makes the global, which needs memory */
		if (lua_cpcall(host->L, make_event, (void *)event) == 0)
			memcpy(host->event_name, event, size);
		else
			lua_pop(host->L, 1);
		return;
	}
	if (!tr_anchor_push(host, host->L, "_KUMO_CURRENT_EVENT"))
		return;
	if (!tr_anchor_push(host, host->L, event)) {
		lua_pop(host->L, 1);
		return;
	}
	memcpy(host->event_name, event, size);
	lua_rawset(host->L, LUA_GLOBALSINDEX);
}

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

const char *
tr_task_ids(const struct tr_task *task, char text[TR_IDS_BYTES])
{
	size_t len;

	if (task->ids == NULL || task->id == NULL)
		return task->ids;
	len = strnlen(task->ids, TR_IDS_BYTES - 34);
	memcpy(text, task->ids, len);
	text[len] = ' ';
	tr_uuid_hex(task->id, text + len + 1);
	return text;
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
									: "ran too long and caught the error");
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
		luaL_unref(host->L, LUA_REGISTRYINDEX, task->ref);
		task->ref = LUA_NOREF;
		task->L = NULL;
	}
	if (host->too_big)
		lua_gc(host->L, LUA_GCCOLLECT, 0);
	give_back(task);
}

/* Resumes with `nargs` values on top of task->L. Returns true if the task waits, false if it has ended. */
static bool
resume(struct tr_task *task, int nargs)
{
	struct tr_host *host = task->host;
	struct tr_task *outer = host->current;

	task->outer = outer;
	task->state = TASK_RUNNING;
	host->current = task;
	set_event(host, task->event);
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
		set_event(host, outer->event);
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
	lua_rawgeti(task->L, LUA_REGISTRYINDEX, name != NULL ? host->dispatch_ref : host->entry_ref);
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
	if (resume(task, 3) && out != NULL)
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

/* Keeps event and ids beyond the start call. */
static void
copy_names(struct tr_task *task)
{
	char full[TR_IDS_BYTES];
	size_t event = task->event ? strlen(task->event) + 1 : 0;

	task->ids = tr_task_ids(task, full);
	task->id = NULL;
	size_t ids = task->ids ? strlen(task->ids) + 1 : 0;

	if (event + ids > task->text_cap) {
		char *text = realloc(task->text, event + ids + 64);
		if (text == NULL) {
			task->event = task->event ? "(unknown)" : NULL;
			task->ids = NULL;
			return;
		}
		task->text = text;
		task->text_cap = event + ids + 64;
	}
	if (event > 0)
		task->event = memcpy(task->text, task->event, event);
	if (ids > 0)
		task->ids = memcpy(task->text + event, task->ids, ids);
}

int
tr_task_park(struct tr_task *task, lua_State *L, void (*cancel)(void *op), void *op, struct tr_ticket *ticket)
{
	struct tr_host *host = task->host;

	if (task->cancel != NULL) /* left by a wait that could not be passed on */
		stop_wait(task);
	if (task->waiting_since_ns == 0) {
		copy_names(task);
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

/* Raises what is on top of host->L in the parked code: at the first instruction that the coroutine which
 * parked runs, i.e. where its host call returns. lua_resume() itself cannot raise. */
static void
resume_raising(struct tr_task *task)
{
	struct tr_host *host = task->host;

	lua_rawseti(host->L, LUA_REGISTRYINDEX, host->raise_ref);
	host->raise_in = task->parked;
	lua_sethook(host->L, tr_task_hook, LUA_MASKCOUNT, 1);
	resume(task, 0);
	if (host->raise_in != NULL) { /* no instruction was left to raise it at */
		host->raise_in = NULL;
		lua_sethook(host->L, NULL, 0, 0);
	}
}

/* Raises what no pcall of the policy catches. */
static void
cut_off(struct tr_host *host, lua_State *L)
{
	luaL_traceback(L, L, NULL, 0);
	free(host->cut_at);
	host->cut_at = strdup(lua_tostring(L, -1)); /* NULL: it is shown without */
	lua_pushlightuserdata(L, &tr_cancel_key);
	lua_error(L);
}

void
tr_task_hook(lua_State *L, lua_Debug *ar)
{
	struct tr_host *host = tr_host_of(L);

	if (host->raise_in != NULL) {
		if (host->raise_in != L)
			return; /* still on the way inwards through the policy's coroutines */
		host->raise_in = NULL;
		if (!atomic_load(&host->interrupt))
			lua_sethook(L, NULL, 0, 0);
		lua_rawgeti(L, LUA_REGISTRYINDEX, host->raise_ref);
		if (lua_type(L, -1) == LUA_TSTRING) {
			luaL_where(L, 0);
			lua_insert(L, -2);
			lua_concat(L, 2);
		}
		lua_error(L);
	}
	lua_sethook(L, NULL, 0, 0);
	if (host->too_big) /* garbage does not count */
		lua_gc(L, LUA_GCCOLLECT, 0);
	if (host->too_big) { /* until what raised has let go of it, nothing more is said: its handlers run, too */
		luaL_where(L, 0);
		lua_pushfstring(L, "more than %d MiB of memory are needed", (int)(host->memory_limit >> 20));
		lua_concat(L, 2);
		lua_error(L);
	}
	if (atomic_exchange(&host->cancel, false)) {
		if (host->current != NULL && host->current->ending == 0)
			host->current->ending = TR_ECANCELED;
		cut_off(host, L);
	}
	if (atomic_exchange(&host->interrupt, false)) {
		if (tr_task_interrupted(host, L))
			cut_off(host, L);
		luaL_where(L, 0);
		lua_pushfstring(L, "handler ran longer than %f s without waiting",
			(lua_Number)atomic_load_explicit(&host->run_limit_ns, memory_order_relaxed) / TR_NS_PER_S);
		lua_concat(L, 2);
		lua_error(L);
	}
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

		lua_rawgeti(
			L, LUA_REGISTRYINDEX, task->host->push_ref); /* pushing a C function would make a new closure */
		lua_pushlightuserdata(L, &call);
		if (lua_pcall(L, 1, LUA_MULTRET, 0) != 0)
			raise = true;
		count = lua_gettop(L) - base;
	}
	if (raise) {
		if (count == 0)
			lua_pushnil(L);
		resume_raising(task);
		return true;
	}
	if (!lua_checkstack(task->L, count)) {
		lua_pop(L, count);
		if (!tr_anchor_push(task->host, L, "too many results"))
			lua_pushnil(L);
		resume_raising(task);
		return true;
	}
	lua_xmove(L, task->L, count);
	resume(task, count);
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
	resume_raising(task);
}

void
tr_task_describe(struct tr_task *task, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(task->what, sizeof task->what, fmt, args);
	va_end(args);
}

void
tr_task_describe_by(struct tr_task *task, const char *(*what_now)(void *op))
{
	task->what_now = what_now;
}

void
tr_task_describe_text(struct tr_task *task, const char *what, const char *more)
{
	size_t len = strnlen(what, sizeof task->what - 1), rest = strnlen(more, sizeof task->what - 1 - len);

	memcpy(task->what, what, len);
	memcpy(task->what + len, more, rest);
	task->what[len + rest] = '\0';
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
