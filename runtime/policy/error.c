/* Errors: rejections, and the text of an error with traceback, event and ids. */
#include <stdio.h>

#include "policy/internal.h"

#define REJECTION "tr.rejection"
#define MAX_TABLE 1000 /* bytes shown of an error that is a table */
#define MAX_CAUSES 16  /* wrapped errors: more is a cycle */

struct rejection { /* a userdata */
	int code;
	int disconnect; /* enum tr_disconnect */
	char text[];    /* NUL-terminated */
};

static struct rejection *
to_rejection(lua_State *L, int idx)
{
	struct rejection *rejection = lua_touserdata(L, idx);

	if (rejection == NULL || lua_islightuserdata(L, idx) || !lua_getmetatable(L, idx))
		return NULL;
	luaL_getmetatable(L, REJECTION);
	if (!lua_rawequal(L, -1, -2))
		rejection = NULL;
	lua_pop(L, 2);
	return rejection;
}

bool
tr_is_rejection(lua_State *L, int idx, int *code, const char **text, int *disconnect)
{
	int top = lua_gettop(L);
	struct rejection *rejection = NULL;

	if (lua_type(L, idx) < LUA_TLIGHTUSERDATA || lua_type(L, idx) == LUA_TSTRING ||
		!lua_checkstack(L, MAX_CAUSES + 4))
		return false;
	lua_pushvalue(L, idx);
	for (int i = 0; i < MAX_CAUSES; i++) {
		rejection = to_rejection(L, -1);
		if (rejection != NULL || lua_type(L, -1) != LUA_TTABLE)
			break;
		if (!tr_anchor_push(
			    tr_host_of(L), L, "cause")) /* an error object of the policy that wraps another one */
			break;
		lua_rawget(L, -2);
	}
	lua_settop(L, top); /* the object stays reachable through the value at idx */
	if (rejection == NULL)
		return false;
	*code = rejection->code;
	*text = rejection->text;
	*disconnect = rejection->disconnect;
	return true;
}

/* reject(code, text, mode): mode is 0..2, see enum tr_disconnect. Raises. */
int
tr_l_reject(lua_State *L)
{
	lua_Number code = luaL_checknumber(L, 1);
	size_t len;
	const char *text = luaL_checklstring(L, 2, &len);
	int mode = (int)luaL_checkinteger(L, 3);

	luaL_argcheck(L, code >= 0 && code <= 65535 && code == (int)code, 1, "code: integer 0 to 65535 expected");
	struct rejection *rejection = lua_newuserdata(L, sizeof *rejection + len + 1);
	rejection->code = (int)code;
	rejection->disconnect = mode;
	memcpy(rejection->text, text, len + 1);
	luaL_getmetatable(L, REJECTION);
	lua_setmetatable(L, -2);
	return lua_error(L);
}

static int
l_tostring(lua_State *L)
{
	struct rejection *rejection = luaL_checkudata(L, 1, REJECTION);

	lua_pushfstring(L, "%d %s", rejection->code, rejection->text);
	return 1;
}

static int
l_index(lua_State *L)
{
	struct rejection *rejection = luaL_checkudata(L, 1, REJECTION);
	const char *key = luaL_checkstring(L, 2);

	if (strcmp(key, "code") == 0)
		lua_pushinteger(L, rejection->code);
	else if (strcmp(key, "message") == 0)
		lua_pushstring(L, rejection->text);
	else
		lua_pushnil(L);
	return 1;
}

static int
l_concat(lua_State *L)
{
	for (int i = 1; i <= 2; i++) {
		if (to_rejection(L, i) != NULL) {
			struct rejection *rejection = lua_touserdata(L, i);
			lua_pushfstring(L, "%d %s", rejection->code, rejection->text);
			lua_replace(L, i);
		}
	}
	lua_concat(L, 2);
	return 1;
}

static int error_text(lua_State *L);

void
tr_rejection_init(lua_State *L)
{
	static const luaL_Reg methods[] = {
		{"__tostring", l_tostring}, {"__index", l_index}, {"__concat", l_concat}, {NULL, NULL}};

	luaL_newmetatable(L, REJECTION);
	luaL_register(L, NULL, methods);
	lua_pop(L, 1);
	lua_pushcfunction(L, error_text);
	tr_host_of(L)->text_ref = tr_ref(L);
}

struct text_call {
	lua_State *from; /* dead coroutine */
	struct tr_buf *out;
};

/* As JSON; what cannot stand there is shown by its type. */
static void
add_table(lua_State *L, int idx, struct tr_buf *out)
{
	struct tr_buf json = {0};
	const char *what;

	if (tr_json_write(L, idx, &json, false, true, &what) == TR_OK)
		tr_buf_addf(out, "an error that is a table: %.*s%s", (int)(json.len > MAX_TABLE ? MAX_TABLE : json.len),
			json.data, json.len > MAX_TABLE ? "..." : "");
	else
		tr_buf_addz(out, "an error that is a table, which cannot be shown");
	tr_buf_free(&json);
}

/* The error value is argument 2. */
static int
error_text(lua_State *L)
{
	struct text_call *call = lua_touserdata(L, 1);
	size_t len;
	const char *text;

	if (lua_istable(L, 2) && !luaL_getmetafield(L, 2, "__tostring")) {
		add_table(L, 2, call->out); /* its address would tell nobody what went wrong */
	} else {
		lua_getglobal(L, "tostring");
		lua_pushvalue(L, 2);
		lua_call(L, 1, 1);
		text = lua_tolstring(L, -1, &len);
		tr_buf_add(call->out, text ? text : "(error)", text ? len : 7);
	}
	/* Where its stack could not grow, LuaJIT leaves a frame behind that cannot be read: it crashes. */
	if (lua_status(call->from) == LUA_ERRMEM)
		return 0;
	luaL_traceback(L, call->from, NULL, 0);
	text = lua_tolstring(L, -1, &len);
	tr_buf_addc(call->out, '\n');
	tr_buf_add(call->out, text, len);
	/* host.lua remembers the trace of the last coroutine of the policy that failed. */
	lua_getfield(L, LUA_REGISTRYINDEX, "tr.inner");
	if (lua_istable(L, -1)) {
		lua_rawgeti(L, -1, 1);
		bool same = lua_rawequal(L, -1, 2);
		lua_pop(L, 1);
		if (same) {
			lua_rawgeti(L, -1, 2);
			text = lua_tolstring(L, -1, &len);
			if (text != NULL) {
				tr_buf_addz(call->out, "\nin a coroutine of the policy, ");
				tr_buf_add(call->out, text, len);
			}
		}
	}
	return 0;
}

void
tr_error_text(struct tr_task *task, struct tr_buf *out)
{
	lua_State *L = task->host->L;
	struct text_call call = {task->L, out};
	char full[TR_IDS_BYTES];

	tr_ref_push(L, task->host->text_ref); /* pushing a C function would need memory */
	lua_pushlightuserdata(L, &call);
	lua_pushvalue(task->L, -1);
	lua_xmove(task->L, L, 1);
	if (lua_pcall(L, 2, 0, 0) != 0) { /* its __tostring raised, or there is no memory */
		tr_buf_clear(out);
		tr_buf_addz(out, lua_type(task->L, -1) == LUA_TSTRING ? lua_tostring(task->L, -1)
								      : "(an error object that cannot be shown)");
		lua_pop(L, 1);
	}
	if (task->event != NULL)
		tr_buf_addf(out, "\nin event '%s'", task->event);
	if (task->ids != NULL)
		tr_buf_addf(out, "%s%s", task->event != NULL ? ", " : "\nin ", tr_task_ids(task, full));
}
