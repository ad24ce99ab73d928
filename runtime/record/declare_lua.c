/* Hooks whose queue is declared: the handler that would name it needs not be asked. */
#include <stdlib.h>

#include "base/json.h"
#include "record/record_lua.h"

struct declared { /* a userdata of the state, which holds it in the registry */
	struct declared *next;
	const char *hook;      /* the recorder's pointer that matched last, which it never reuses: compared first */
	struct tr_known known; /* its texts lie behind, with the name */
	char name[];
};

#define FN "kumo.declare_hook_queue"

static char anchors_key; /* registry: list of them */

bool
tr_record_known_queue(struct tr_host *host, const char *hook, struct tr_known *out)
{
	struct declared *declared = tr_host_service(host, TR_SERVICE_DECLARED);

	for (; declared != NULL; declared = declared->next) {
		if (declared->hook != hook && strcmp(declared->name, hook) != 0)
			continue;
		declared->hook = hook;
		*out = declared->known;
		return true;
	}
	return false;
}

static bool
is_first_handler(lua_State *L, int idx)
{
	bool first;

	lua_getglobal(L, "require");
	lua_pushliteral(L, "tr.host");
	lua_call(L, 1, 1);
	lua_getfield(L, -1, "first_handler");
	lua_pushliteral(L, "should_enqueue_log_record");
	lua_call(L, 1, 1);
	first = lua_rawequal(L, -1, idx);
	lua_pop(L, 2);
	return first;
}

static void
add(lua_State *L, struct tr_str name, struct tr_str queue, struct tr_str json)
{
	struct tr_host *host = tr_host_of(L);
	struct declared *declared;
	char *at;

	lua_pushlightuserdata(L, &anchors_key);
	lua_rawget(L, LUA_REGISTRYINDEX);
	if (lua_isnil(L, -1)) {
		lua_pop(L, 1);
		lua_newtable(L);
		lua_pushlightuserdata(L, &anchors_key);
		lua_pushvalue(L, -2);
		lua_rawset(L, LUA_REGISTRYINDEX);
	}
	declared = lua_newuserdata(L, sizeof *declared + name.len + queue.len + json.len + 2);
	at = memcpy(declared->name, name.data, name.len + 1);
	at = memcpy(at + name.len + 1, queue.data, queue.len + 1);
	memcpy(at + queue.len + 1, json.data, json.len);
	declared->known = (struct tr_known){{at, queue.len}, {at + queue.len + 1, json.len}};
	declared->hook = NULL;
	lua_rawseti(L, -2, (int)lua_objlen(L, -2) + 1);
	lua_pop(L, 1);
	declared->next = tr_host_service(host, TR_SERVICE_DECLARED); /* first: what is declared again replaces it */
	tr_host_set_service(host, TR_SERVICE_DECLARED, declared);
}

int
tr_l_declare_hook_queue(lua_State *L)
{
	struct tr_str name = {0}, queue = {0};
	struct tr_str text;
	struct tr_buf json = {0};
	bool first;

	name.data = luaL_checklstring(L, 1, &name.len);
	queue.data = luaL_checklstring(L, 2, &queue.len);
	luaL_checktype(L, 3, LUA_TFUNCTION);
	lua_settop(L, 3);
	luaL_argcheck(L, queue.len > 0 && tr_utf8_valid(queue), 2, "the name of a queue expected");
	first = is_first_handler(L, 3);
	if (first) {
		tr_json_add_string(&json, queue);
		if (json.failed)
			return luaL_error(L, FN ": out of memory");
		lua_pushlstring(L, json.data, json.len); /* anchored: what follows may raise */
		tr_buf_free(&json);
		text.data = lua_tolstring(L, 4, &text.len);
		add(L, name, queue, text);
	}
	lua_pushboolean(L, first);
	return 1;
}
