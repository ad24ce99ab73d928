/* Errors that come from outside of the code that runs or waits: the count hook raises them in it. */
#include <stdlib.h>

#include "base/diag.h"
#include "policy/internal.h"

void
tr_task_resume_raising(struct tr_task *task)
{
	struct tr_host *host = task->host;

	lua_rawseti(host->L, LUA_REGISTRYINDEX, host->raise_ref);
	host->raise_in = task->parked;
	lua_sethook(host->L, tr_task_hook, LUA_MASKCOUNT, 1);
	tr_task_resume(task, 0);
	if (host->raise_in != NULL) { /* no instruction was left to raise it at */
		host->raise_in = NULL;
		tr_task_hook_off(host);
	}
}

void
tr_task_hook_off(struct tr_host *host)
{
	if (host->memory.alarm == 0)
		lua_sethook(host->L, NULL, 0, 0);
}

/* Raises what no pcall of the policy catches. */
static void
cut_off(struct tr_host *host, lua_State *L, const char *why)
{
	host->cut_why = why;
	luaL_traceback(L, L, NULL, 0);
	free(host->cut_at);
	host->cut_at = strdup(lua_tostring(L, -1)); /* NULL: it is shown without */
	lua_pushlightuserdata(L, &tr_cancel_key);
	lua_error(L);
}

static void
look_for_memory(struct tr_host *host, lua_State *L)
{
	unsigned state = tr_memory_look(host, L);

	if (state == 0)
		return;
	if (state & TR_MEMORY_AGAIN)
		cut_off(host, L, "found no memory and caught the error");
	if (state & TR_MEMORY_SHORT) {
		lua_pushliteral(L, "not enough memory"); /* LuaJIT keeps this text ready */
	} else {
		luaL_where(L, 0);
		lua_pushfstring(L, "more than %d MiB of memory are needed%s%s", (int)(host->memory.limit >> 20),
			host->memory.remedy != NULL ? ": " : "",
			host->memory.remedy != NULL ? host->memory.remedy : "");
		lua_concat(L, 2);
	}
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
			tr_task_hook_off(host);
		tr_ref_push(L, host->raise_ref);
		if (lua_type(L, -1) == LUA_TSTRING) {
			luaL_where(L, 0);
			lua_insert(L, -2);
			lua_concat(L, 2);
		}
		lua_error(L);
	}
	lua_sethook(L, NULL, 0, 0);
	if (host->memory.alarm != 0)
		look_for_memory(host, L);
	if (atomic_exchange(&host->cancel, false)) {
		if (host->current != NULL && host->current->ending == 0)
			host->current->ending = TR_ECANCELED;
		cut_off(host, L, "");
	}
	if (atomic_exchange(&host->interrupt, false)) {
		if (tr_task_interrupted(host, L))
			cut_off(host, L, "ran too long and caught the error");
		luaL_where(L, 0);
		lua_pushfstring(L, "handler ran longer than %f s without waiting",
			(lua_Number)atomic_load_explicit(&host->run_limit_ns, memory_order_relaxed) / TR_NS_PER_S);
		lua_concat(L, 2);
		lua_error(L);
	}
}
