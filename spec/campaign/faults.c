#include "faults.h"

#include <errno.h>
#include <execinfo.h>
#include <lauxlib.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "base/diag.h"
#include "policy/internal.h"

#define LOG_BYTES (64 << 10) /* of the log's last lines, for a report */

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t len);
int __real_vasprintf(char **out, const char *fmt, va_list args);
void __real_tr_log_sink(void (*sink)(void *arg, enum tr_level level, const char *target, const char *text), void *arg);
lua_State *__real_luaL_newstate(void);
int __real_lua_resume(lua_State *L, int nargs);
int __real_tr_task_start(struct tr_host *host, const struct tr_task_call *call, struct tr_task **out);
bool __real_tr_task_wake(const struct tr_ticket *ticket, int (*push)(lua_State *L, void *arg), void *arg, bool raise);
void __real_tr_task_cancel(struct tr_task *task);
/* what the linker asks for */
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t len);
int __wrap_vasprintf(char **out, const char *fmt, va_list args);
int __wrap_asprintf(char **out, const char *fmt, ...);
void __wrap_tr_log_sink(void (*sink)(void *arg, enum tr_level level, const char *target, const char *text), void *arg);
lua_State *__wrap_luaL_newstate(void);
int __wrap_lua_resume(lua_State *L, int nargs);
int __wrap_tr_task_start(struct tr_host *host, const struct tr_task_call *call, struct tr_task **out);
bool __wrap_tr_task_wake(const struct tr_ticket *ticket, int (*push)(lua_State *L, void *arg), void *arg, bool raise);
void __wrap_tr_task_cancel(struct tr_task *task);

struct plan {                 /* of one kind of allocation */
	uint64_t count;       /* since arm() */
	uint64_t after, left; /* so many go well, then so many fail */
	bool armed;
};

struct campaign_board *campaign_board;
static _Thread_local bool watched; /* this thread's allocations count: the one that runs the loop */
static _Thread_local int script;   /* > 0: what runs is the script */
static struct tr_host *script_host;
static struct plan of_c, of_lua;
static uint64_t lines[TR_LEVEL_ERROR + 1];
static char log_text[LOG_BYTES + 1];
static size_t log_len;

/* Whether this one is to fail. */
static bool
fails(struct plan *plan)
{
	if (!plan->armed || !watched || script > 0)
		return false;
	plan->count++;
	if (plan->after > 0) {
		plan->after--;
		return false;
	}
	if (plan->left == 0)
		return false;
	plan->left--;
	atomic_fetch_add(&campaign_board->faults, 1);
	if (getenv("CAMPAIGN_TRACE") != NULL) { /* what it is: addr2line -e PROGRAM reads the offsets */
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
	return fails(&of_c) ? NULL : __real_malloc(size);
}

void *
__wrap_calloc(size_t count, size_t size)
{
	return fails(&of_c) ? NULL : __real_calloc(count, size);
}

void *
__wrap_realloc(void *memory, size_t size)
{
	return fails(&of_c) ? NULL : __real_realloc(memory, size);
}

char *
__wrap_strdup(const char *text)
{
	return fails(&of_c) ? NULL : __real_strdup(text);
}

char *
__wrap_strndup(const char *text, size_t len)
{
	return fails(&of_c) ? NULL : __real_strndup(text, len);
}

int
__wrap_vasprintf(char **out, const char *fmt, va_list args)
{
	if (!fails(&of_c))
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
	if (new_size > old_size && fails(&of_lua))
		return NULL;
	return __real_realloc(memory, new_size);
}

lua_State *
__wrap_luaL_newstate(void)
{
	return script_host == NULL ? __real_luaL_newstate() : lua_newstate(lua_allocator, NULL);
}

/* --- whose it is ---------------------------------------------------------------------------------------------------
 */

static int
enter(const struct tr_host *host)
{
	int outer = script;

	script = host == script_host && host != NULL;
	return outer;
}

int
__wrap_lua_resume(lua_State *L, int nargs)
{
	int outer = enter(tr_host_of(L)), status = __real_lua_resume(L, nargs);

	script = outer;
	return status;
}

int
__wrap_tr_task_start(struct tr_host *host, const struct tr_task_call *call, struct tr_task **out)
{
	int outer = enter(host), err = __real_tr_task_start(host, call, out);

	script = outer;
	return err;
}

bool
__wrap_tr_task_wake(const struct tr_ticket *ticket, int (*push)(lua_State *L, void *arg), void *arg, bool raise)
{
	int outer = ticket->task != NULL ? enter(ticket->task->host) : script;
	bool woken = __real_tr_task_wake(ticket, push, arg, raise);

	script = outer;
	return woken;
}

void
__wrap_tr_task_cancel(struct tr_task *task)
{
	int outer = enter(task->host);

	__real_tr_task_cancel(task);
	script = outer;
}

void
campaign_script_host(struct tr_host *host)
{
	script_host = host;
	watched = host != NULL;
}

/* --- the log: without memory ------------------------------------------------------------------------------------- */

static void
line_logged(void *arg, enum tr_level level, const char *target, const char *text)
{
	int len;

	(void)arg;
	lines[level]++;
	if (strstr(text, "outside of a protected call") != NULL) { /* it aborts now */
		void *frames[24];

		fprintf(stderr, "%s\n", text);
		backtrace_symbols_fd(frames, backtrace(frames, 24), STDERR_FILENO);
	}
	if (log_len > LOG_BYTES / 2) {
		memmove(log_text, log_text + log_len / 2, log_len - log_len / 2);
		log_len -= log_len / 2;
	}
	len = snprintf(log_text + log_len, LOG_BYTES - log_len, "%s %s: %.1000s\n",
		level == TR_LEVEL_ERROR  ? "ERROR"
		: level == TR_LEVEL_WARN ? "WARN"
					 : "info",
		target, text);
	log_len += (size_t)tr_min_i64(len, (int64_t)(LOG_BYTES - log_len - 1));
}

/* Nobody else gets them: to keep lines needs memory. */
void
__wrap_tr_log_sink(void (*sink)(void *arg, enum tr_level level, const char *target, const char *text), void *arg)
{
	(void)sink, (void)arg;
}

/* --- the module ----------------------------------------------------------------------------------------------------
 */

static void
plan_of(lua_State *L, struct plan *plan, int idx)
{
	*plan = (struct plan){.after = (uint64_t)luaL_checknumber(L, idx),
		.left = (uint64_t)luaL_checknumber(L, idx + 1),
		.armed = true};
}

/* arm('malloc' | 'lua', after, times): so many allocations go well, then so many fail. Counts from 0. */
static int
l_arm(lua_State *L)
{
	plan_of(L, strcmp(luaL_checkstring(L, 1), "lua") == 0 ? &of_lua : &of_c, 2);
	return 0;
}

/* disarm() -> allocations since arm: malloc's, Lua's */
static int
l_disarm(lua_State *L)
{
	of_c.armed = of_lua.armed = false;
	lua_pushnumber(L, (lua_Number)of_c.count);
	lua_pushnumber(L, (lua_Number)of_lua.count);
	return 2;
}

/* calm(): nothing fails any more, though it counts on */
static int
l_calm(lua_State *L)
{
	(void)L;
	of_c.left = of_lua.left = 0;
	return 0;
}

/* catch_log(): lines go nowhere and are counted from 0 */
static int
l_catch_log(lua_State *L)
{
	(void)L;
	memset(lines, 0, sizeof lines);
	log_len = 0;
	__real_tr_log_sink(line_logged, NULL);
	return 0;
}

/* log() -> lines of warnings and errors since catch_log(), the last lines as text */
static int
l_log(lua_State *L)
{
	lua_pushnumber(L, (lua_Number)(lines[TR_LEVEL_WARN] + lines[TR_LEVEL_ERROR]));
	lua_pushlstring(L, log_text, log_len);
	return 2;
}

/* total(count): how many cases the sweep has */
static int
l_total(lua_State *L)
{
	atomic_store(&campaign_board->total, (uint64_t)luaL_checknumber(L, 1));
	return 0;
}

/* begin(index, text): a case; whoever watches gives it so many seconds */
static int
l_begin(lua_State *L)
{
	snprintf(campaign_board->what, sizeof campaign_board->what, "%s", luaL_checkstring(L, 2));
	atomic_store(&campaign_board->next, (uint64_t)luaL_checknumber(L, 1) + 1);
	atomic_fetch_add(&campaign_board->cases, 1);
	alarm((unsigned)luaL_checknumber(L, 3));
	return 0;
}

/* done(): all cases of this process were run */
static int
l_done(lua_State *L)
{
	(void)L;
	atomic_store(&campaign_board->done, true);
	alarm(120); /* for what ends now */
	return 0;
}

/* faults(count): so many more were injected */
static int
l_faults(lua_State *L)
{
	atomic_fetch_add(&campaign_board->faults, (uint64_t)luaL_checknumber(L, 1));
	return 0;
}

/* wrong(text): the case under way has shown something that must not be */
static int
l_wrong(lua_State *L)
{
	atomic_fetch_add(&campaign_board->wrong, 1);
	fprintf(stderr, "WRONG %s\n%s\n", campaign_board->what, luaL_checkstring(L, 1));
	return 0;
}

/* cpu() -> seconds of this process */
static int
l_cpu(lua_State *L)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	lua_pushnumber(L, (lua_Number)now.tv_sec + (lua_Number)now.tv_nsec / 1e9);
	return 1;
}

int
luaopen_tr_campaign(lua_State *L)
{
	static const luaL_Reg functions[] = {
		{"arm", l_arm},
		{"disarm", l_disarm},
		{"calm", l_calm},
		{"catch_log", l_catch_log},
		{"log", l_log},
		{"total", l_total},
		{"begin", l_begin},
		{"done", l_done},
		{"faults", l_faults},
		{"wrong", l_wrong},
		{"cpu", l_cpu},
		{NULL, NULL},
	};

	lua_newtable(L);
	luaL_setfuncs(L, functions, 0);
	return 1;
}
