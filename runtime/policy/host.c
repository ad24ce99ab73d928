/* Life of a host: the Lua state, its libraries, lua/host.lua and the policy file. */
#include <errno.h>
#include <luajit.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/diag.h"
#include "policy/internal.h"

#define DEFAULT_LIMIT_NS (5 * TR_NS_PER_S)
#define BOOT_LIMIT_NS (300 * TR_NS_PER_S)

struct tr_host *
tr_host_of(lua_State *L)
{
	void *host;

	lua_getallocf(L, &host);
	return host;
}

lua_State *
tr_host_state(struct tr_host *host)
{
	return host->L;
}

struct tr_loop *
tr_host_loop(struct tr_host *host)
{
	return host->loop;
}

void
tr_host_set_service(struct tr_host *host, enum tr_service_id id, void *service)
{
	host->service[id] = service;
}

void *
tr_host_service(struct tr_host *host, enum tr_service_id id)
{
	return host->service[id];
}

/* Runs when lua_close() collects the first userdata that was made, which it does last: LuaJIT only frees
 * its arena if the state has its own allocator again. Finalizers before it could still find the host. */
static int
l_last_gc(lua_State *L)
{
	tr_memory_release(tr_host_of(L), L);
	return 0;
}

static int
panic(lua_State *L)
{
	const char *text = lua_tostring(L, -1);

	tr_log(TR_LEVEL_ERROR, "lua", "error outside of a protected call: %s", text ? text : "(no text)");
	abort();
}

static int
take_ref(lua_State *L, const char *name)
{
	lua_getfield(L, -1, name);
	return tr_ref(L);
}

static int
set_up(lua_State *L)
{
	struct tr_host *host = tr_host_of(L);
	const struct tr_host_config *config = lua_touserdata(L, 1);

	lua_settop(L, 0);
	lua_newuserdata(L, 1);
	lua_newtable(L);
	lua_pushcfunction(L, l_last_gc);
	lua_setfield(L, -2, "__gc");
	lua_setmetatable(L, -2);
	lua_setfield(L, LUA_REGISTRYINDEX, "tr.last");

	luaL_openlibs(L);
	luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | (config->jit ? LUAJIT_MODE_ON : LUAJIT_MODE_OFF));
	tr_rejection_init(L);
	tr_anchor_init(L);
	lua_newtable(L);
	tr_json_set_array(L, -1); /* makes the metatable */
	lua_settop(L, 0);
	lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
	lua_getfield(L, -1, "package");
	lua_getfield(L, -1, "preload");
	for (const struct tr_module *module = config->modules; module != NULL && module->name != NULL; module++) {
		lua_pushcfunction(L, module->open);
		lua_setfield(L, -2, module->name);
	}
	lua_settop(L, 0);
	lua_pushboolean(L, 0);
	host->raise_ref = tr_ref(L);
	lua_pushcfunction(L, tr_l_push_protected);
	host->push_ref = tr_ref(L);

	lua_pushfstring(L, "%s/lua/host.lua", host->share_dir);
	if (luaL_loadfile(L, lua_tostring(L, -1)) != 0)
		return lua_error(L);
	tr_library_push(host);
	lua_call(L, 1, 1);
	host->body_ref = take_ref(L, "body");
	host->entry_ref = take_ref(L, "entry");
	lua_getfield(L, -1, "entry");
	host->dispatch_ref = take_ref(L, "dispatch");
	return 0;
}

static void
booted(void *arg, const struct tr_task_result *result)
{
	int *err = arg;

	*err = result->status == TR_OK ? TR_OK : TR_EIO;
	if (*err != TR_OK)
		tr_log(TR_LEVEL_ERROR, "lua", "the runtime's own modules do not load: %s", result->text);
}

int
tr_host_new(const struct tr_host_config *config, struct tr_host **out)
{
	struct tr_host *host = calloc(1, sizeof *host);
	int err = TR_ENOMEM;

	*out = NULL;
	if (host == NULL)
		return TR_ENOMEM;
	host->loop = config->loop;
	host->validating = config->validating;
	host->worker = config->worker;
	host->cut_why = "cancelled";
	host->limit_ns = BOOT_LIMIT_NS; /* our own modules end; how fast is a matter of the machine and its disk */
	atomic_init(&host->run_limit_ns, host->limit_ns);
	host->share_dir = strdup(config->share_dir);
	host->policy = config->policy ? strdup(config->policy) : NULL;
	if (host->share_dir == NULL || (config->policy != NULL && host->policy == NULL))
		goto fail;
	host->L = luaL_newstate();
	if (host->L == NULL)
		goto fail;
	if (!tr_memory_init(host, (size_t)config->memory_limit, config->memory_remedy)) {
		lua_close(host->L);
		host->L = NULL;
		goto fail;
	}
	lua_atpanic(host->L, panic);
	tr_watch_add(host);
	if (lua_cpcall(host->L, set_up, (void *)config) != 0) {
		const char *text = lua_tostring(host->L, -1);
		tr_log(TR_LEVEL_ERROR, "lua", "cannot set up the Lua host: %s", text ? text : "(no text)");
		err = TR_EIO;
		goto fail;
	}
	struct tr_task_call boot = {.entry = "boot", .end = booted, .end_arg = &err};
	err = TR_EIO; /* the modules must not wait */
	if (tr_task_start(host, &boot, NULL) != TR_OK)
		err = TR_ENOMEM;
	if (err != TR_OK)
		goto fail;
	if (config->measured)
		tr_memory_measure(host);
	host->limit_ns = config->handler_limit_ns > 0 ? config->handler_limit_ns : DEFAULT_LIMIT_NS;
	*out = host;
	return TR_OK;
fail:
	tr_host_free(host);
	return err;
}

void
tr_host_free(struct tr_host *host)
{
	if (host == NULL)
		return;
	host->closing = true;
	tr_tasks_free(host);
	tr_anchors_free(host);
	if (host->L != NULL) {
		tr_watch_remove(host);
		lua_close(host->L);
	}
	tr_memory_fini(host);
	free(host->event_name);
	free(host->cut_at);
	free(host->share_dir);
	free(host->policy);
	free(host);
}

struct load {
	void (*end)(void *arg, const char *error);
	void *arg;
	const char *path;
};

static int
push_path(lua_State *L, void *arg)
{
	struct load *load = arg;

	lua_pushstring(L, load->path);
	return 1;
}

static void
loaded(void *arg, const struct tr_task_result *result)
{
	struct load *load = arg;

	load->end(load->arg, result->status == TR_OK ? NULL : result->text);
	free(load);
}

void
tr_host_load(struct tr_host *host, void (*end)(void *arg, const char *error), void *arg)
{
	struct load *load;

	if (host->policy == NULL) {
		end(arg, NULL);
		return;
	}
	load = malloc(sizeof *load);
	if (load == NULL) {
		end(arg, "out of memory");
		return;
	}
	*load = (struct load){end, arg, host->policy};
	/* No event: handlers may be registered. */
	struct tr_task_call call = {.entry = "load",
		.push = push_path,
		.push_arg = load,
		.end = loaded,
		.end_arg = load,
		.ids = "loading the policy"};
	if (tr_task_start(host, &call, NULL) != TR_OK) {
		free(load);
		end(arg, "out of memory");
	}
}
