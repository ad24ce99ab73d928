#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "ingress/run_lua.h"

struct tr_run *
tr_run_check(lua_State *L, const char *function)
{
	struct tr_run *run = tr_service(L, TR_SERVICE_RUN);

	if (run == NULL || !run->configuring)
		luaL_error(L, "%s: may only be called while the events 'pre_init' and 'init' run", function);
	return run;
}

/* kumo.define_spool{name=, path=, ...}: contract queues.md section 9. The log lives in `meta`, body files in `data`. */
static int
l_define_spool(lua_State *L)
{
	static const char *const function = "kumo.define_spool";
	static const struct tr_key keys[] = {
		{"name", 's', true},
		{"path", 's', true},
		{"kind", 's', false},
		{"flush", 'b', false},
		{"rocks_params", 't', false},
		{"min_free_space", '*', false},
		{"min_free_inodes", '*', false},
	};
	struct tr_run *run = tr_run_check(L, function);
	const char *name, *path, *kind;
	char **target, *copy;

	luaL_checktype(L, 1, LUA_TTABLE);
	tr_check_options(L, 1, function, keys, TR_COUNT(keys));
	name = tr_opt_string(L, 1, "name", NULL, NULL);
	path = tr_opt_string(L, 1, "path", NULL, NULL);
	kind = tr_opt_string(L, 1, "kind", NULL, NULL);
	if (strcmp(name, "meta") != 0 && strcmp(name, "data") != 0)
		return luaL_error(L, "%s: name = '%s': expected 'data' or 'meta'", function, name);
	if (kind != NULL && strcmp(kind, "LocalDisk") != 0 && strcmp(kind, "RocksDB") != 0)
		return luaL_error(L, "%s: kind = '%s': expected 'LocalDisk' or 'RocksDB'", function, kind);
	target = name[0] == 'm' ? &run->meta_path : &run->data_path;
	if (*target != NULL)
		return luaL_error(L, "%s: the spool '%s' is defined twice", function, name);
	if (path[0] == '\0')
		return luaL_error(L, "%s: path must not be empty", function);
	if (name[0] == 'm') {
		/* Durable unless it is switched off in so many words: an absent `flush` is not a wish. */
		run->no_flush = !tr_opt_bool(L, 1, "flush", true);
		tr_opt_space_limit(L, 1, function, "min_free_space", &run->min_free_space);
		tr_opt_space_limit(L, 1, function, "min_free_inodes", &run->min_free_inodes);
	}
	if (kind != NULL && kind[0] == 'R' && !run->validating)
		tr_log(TR_LEVEL_WARN, "spool",
			"%s '%s': kind = 'RocksDB' is accepted, but the spool is a segment log; see docs/spool.md",
			function, name);
	lua_getfield(L, 1, "rocks_params");
	if (!lua_isnil(L, -1) && !run->validating)
		tr_log(TR_LEVEL_WARN, "spool", "%s '%s': rocks_params have no effect here", function, name);
	lua_pop(L, 1);
	copy = strdup(path);
	if (copy == NULL)
		return luaL_error(L, "out of memory");
	*target = copy;
	return 0;
}

int
luaopen_tr_run(lua_State *L)
{
	static const luaL_Reg kumo[] = {{"define_spool", l_define_spool}, {NULL, NULL}};

	lua_newtable(L);
	lua_newtable(L);
	luaL_setfuncs(L, kumo, 0);
	lua_setfield(L, -2, "kumo");
	return 1;
}
