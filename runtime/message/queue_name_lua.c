#include "message/message_lua.h"

static void
push_part(lua_State *L, bool has, struct tr_str part)
{
	if (has)
		lua_pushlstring(L, part.data != NULL ? part.data : "", part.len);
	else
		lua_pushnil(L);
}

void
tr_queue_name_push(lua_State *L, const struct tr_queue_name *name)
{
	push_part(L, true, name->domain);
	push_part(L, name->has_tenant, name->tenant);
	push_part(L, name->has_campaign, name->campaign);
}
