/* What of an allocation fails: see memory.h. */
#include "memory.h"

#include <errno.h>
#include <execinfo.h>
#include <lauxlib.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "policy/internal.h"
#include "policy/reserve.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t len);
int __real_vasprintf(char **out, const char *fmt, va_list args);
lua_State *__real_luaL_newstate(void);
int __real_lua_resume(lua_State *L, int nargs);
int __real_tr_task_start(struct tr_host *host, const struct tr_task_call *call, struct tr_task **out);
bool __real_tr_task_wake(const struct tr_ticket *ticket, int (*push)(lua_State *L, void *arg), void *arg, bool raise);
void __real_tr_task_cancel(struct tr_task *task);
void *__real_tr_reserve_take(struct tr_reserve *reserve, size_t bytes);
/* what the linker asks for */
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t len);
int __wrap_vasprintf(char **out, const char *fmt, va_list args);
int __wrap_asprintf(char **out, const char *fmt, ...);
lua_State *__wrap_luaL_newstate(void);
int __wrap_lua_resume(lua_State *L, int nargs);
int __wrap_tr_task_start(struct tr_host *host, const struct tr_task_call *call, struct tr_task **out);
bool __wrap_tr_task_wake(const struct tr_ticket *ticket, int (*push)(lua_State *L, void *arg), void *arg, bool raise);
void __wrap_tr_task_cancel(struct tr_task *task);
void *__wrap_tr_reserve_take(struct tr_reserve *reserve, size_t bytes);

struct plan {                 /* of one kind of allocation */
	uint64_t count;       /* since memory_arm() */
	uint64_t after, left; /* so many go well, then so many fail */
	_Atomic bool armed;
};

static bool watch_all;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* plans, if threads are watched */
static _Thread_local bool watched; /* this thread's allocations count: the one that runs the loop */
static _Thread_local int exempt;   /* > 0: what runs is the script, or asks on its behalf */
static _Thread_local lua_State *running;
static struct tr_host *script_host;
static struct plan plans[2];
static bool no_reserve;
static void (*on_failure)(void);
static void (*on_reserve)(void);
static void (*on_each)(enum memory_kind kind, uint64_t n);

void
memory_on_failure(void (*fn)(void))
{
	on_failure = fn;
}

void
memory_without_reserve(void)
{
	no_reserve = true;
}

void
memory_on_reserve(void (*fn)(void))
{
	on_reserve = fn;
}

void
memory_on_each(void (*fn)(enum memory_kind kind, uint64_t n))
{
	on_each = fn;
}

void
memory_watch_all(void)
{
	watch_all = true;
}

void
memory_arm(enum memory_kind kind, uint64_t after, uint64_t times)
{
	pthread_mutex_lock(&lock);
	plans[kind] = (struct plan){.after = after, .left = times, .armed = true};
	pthread_mutex_unlock(&lock);
}

uint64_t
memory_disarm(enum memory_kind kind)
{
	uint64_t count;

	pthread_mutex_lock(&lock);
	plans[kind].armed = false;
	count = plans[kind].count;
	pthread_mutex_unlock(&lock);
	return count;
}

void
memory_calm(void)
{
	pthread_mutex_lock(&lock);
	plans[MEMORY_C].left = plans[MEMORY_LUA].left = 0;
	pthread_mutex_unlock(&lock);
}

bool
memory_armed(void)
{
	return (plans[MEMORY_C].armed && plans[MEMORY_C].left > 0) ||
	       (plans[MEMORY_LUA].armed && plans[MEMORY_LUA].left > 0);
}

lua_State *
memory_lua(void)
{
	return running;
}

bool
memory_counts(void)
{
	return (watched || watch_all) && exempt == 0;
}

int
memory_exempt(int level)
{
	int outer = exempt;

	exempt = level;
	return outer;
}

static bool
is_next(struct plan *plan)
{
	bool next = false;

	pthread_mutex_lock(&lock);
	if (plan->armed) {
		plan->count++;
		if (plan->after > 0) {
			plan->after--;
		} else if (plan->left > 0) {
			plan->left--;
			next = true;
		}
	}
	pthread_mutex_unlock(&lock);
	return next;
}

/* Whether this one is to fail. */
static bool
fails(struct plan *plan)
{
	if (!plan->armed || !memory_counts())
		return false;
	if (on_each != NULL)
		on_each((enum memory_kind)(plan - plans), plan->count);
	if (!is_next(plan))
		return false;
	if (on_failure != NULL)
		on_failure();
	if (getenv("MEMORY_TRACE") != NULL) { /* what it is: addr2line -e PROGRAM reads the offsets */
		void *frames[24];

		backtrace_symbols_fd(frames, backtrace(frames, 24), STDERR_FILENO);
		fputs("--\n", stderr);
	}
	errno = ENOMEM;
	return true;
}

/* --- malloc and its like ---------------------------------------------------------------------------------- */

void *
__wrap_malloc(size_t size)
{
	return fails(&plans[MEMORY_C]) ? NULL : __real_malloc(size);
}

void *
__wrap_calloc(size_t count, size_t size)
{
	return fails(&plans[MEMORY_C]) ? NULL : __real_calloc(count, size);
}

void *
__wrap_realloc(void *memory, size_t size)
{
	return fails(&plans[MEMORY_C]) ? NULL : __real_realloc(memory, size);
}

char *
__wrap_strdup(const char *text)
{
	return fails(&plans[MEMORY_C]) ? NULL : __real_strdup(text);
}

char *
__wrap_strndup(const char *text, size_t len)
{
	return fails(&plans[MEMORY_C]) ? NULL : __real_strndup(text, len);
}

int
__wrap_vasprintf(char **out, const char *fmt, va_list args)
{
	if (!fails(&plans[MEMORY_C]))
		return __real_vasprintf(out, fmt, args);
	*out = (char *)1; /* it is undefined then: whoever uses it shall see */
	return -1;
}

int
__wrap_asprintf(char **out, const char *fmt, ...)
{
	va_list args;
	int result;

	va_start(args, fmt);
	result = __wrap_vasprintf(out, fmt, args);
	va_end(args);
	return result;
}

/* --- Lua's ------------------------------------------------------------------------------------------------------- */

static void *
lua_allocator(void *arg, void *memory, size_t old_size, size_t new_size)
{
	(void)arg;
	if (new_size == 0) {
		free(memory);
		return NULL;
	}
	if (new_size > old_size && fails(&plans[MEMORY_LUA]))
		return NULL;
	return __real_realloc(memory, new_size);
}

lua_State *
__wrap_luaL_newstate(void)
{
	lua_State *L;

	if (script_host == NULL)
		return __real_luaL_newstate();
	if (fails(&plans[MEMORY_LUA]))
		return NULL;
	exempt++; /* LuaJIT crashes when one of its first few finds no memory: it ends what it has not begun */
	L = lua_newstate(lua_allocator, NULL);
	exempt--;
	return L;
}

void *
__wrap_tr_reserve_take(struct tr_reserve *reserve, size_t bytes)
{
	void *out = no_reserve ? NULL : __real_tr_reserve_take(reserve, bytes);

	if (out != NULL && on_reserve != NULL)
		on_reserve();
	return out;
}

/* --- whose it is ---------------------------------------------------------------------------------------------------
 */

static int
enter(const struct tr_host *host)
{
	return memory_exempt(host == script_host && host != NULL);
}

int
__wrap_lua_resume(lua_State *L, int nargs)
{
	lua_State *outer_lua = running;
	int outer = enter(tr_host_of(L)), status;

	running = L;
	status = __real_lua_resume(L, nargs);
	running = outer_lua;
	exempt = outer;
	return status;
}

int
__wrap_tr_task_start(struct tr_host *host, const struct tr_task_call *call, struct tr_task **out)
{
	int outer = enter(host), err = __real_tr_task_start(host, call, out);

	exempt = outer;
	return err;
}

bool
__wrap_tr_task_wake(const struct tr_ticket *ticket, int (*push)(lua_State *L, void *arg), void *arg, bool raise)
{
	int outer = ticket->task != NULL ? enter(ticket->task->host) : exempt;
	bool woken = __real_tr_task_wake(ticket, push, arg, raise);

	exempt = outer;
	return woken;
}

void
__wrap_tr_task_cancel(struct tr_task *task)
{
	int outer = enter(task->host);

	__real_tr_task_cancel(task);
	exempt = outer;
}

void
memory_script_host(struct tr_host *host)
{
	script_host = host;
	watched = host != NULL;
}
