/* Moments, durations and addresses as numbers and bytes, for lua/kumo/time.lua and lua/kumo/cidr.lua. */
#include <arpa/inet.h>
#include <math.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "policy/internal.h"

/* A moment or span in Lua is whole seconds and 0..999999999 nanoseconds: one double could not hold both. */
static int
push_split(lua_State *L, int64_t ns)
{
	int64_t seconds = ns / TR_NS_PER_S;
	int64_t rest = ns % TR_NS_PER_S;

	if (rest < 0) {
		seconds--;
		rest += TR_NS_PER_S;
	}
	lua_pushnumber(L, (lua_Number)seconds);
	lua_pushnumber(L, (lua_Number)rest);
	return 2;
}

static int64_t
check_split(lua_State *L, int idx)
{
	lua_Number seconds = luaL_checknumber(L, idx);

	if (!(fabs(seconds) < 9.2e9))
		luaL_error(L, "time would overflow");
	return (int64_t)seconds * TR_NS_PER_S + (int64_t)luaL_checknumber(L, idx + 1);
}

static int
l_now(lua_State *L)
{
	return push_split(L, tr_wall_ns());
}

static int
l_rfc3339(lua_State *L)
{
	char text[32];

	lua_pushlstring(L, text, tr_rfc3339(check_split(L, 1), text));
	return 1;
}

static int
l_rfc3339_parse(lua_State *L)
{
	size_t len;
	const char *text = luaL_checklstring(L, 1, &len);
	int64_t ns;

	if (tr_rfc3339_parse(text, len, &ns) != TR_OK)
		return 0;
	return push_split(L, ns);
}

static int
l_rfc2822(lua_State *L)
{
	char text[40];

	tr_rfc5322_date(check_split(L, 1), text);
	lua_pushstring(L, text);
	return 1;
}

/* duration(value, function, what) */
static int
l_duration(lua_State *L)
{
	return push_split(L, tr_check_duration_ns(L, 1, luaL_checkstring(L, 2), luaL_checkstring(L, 3)));
}

static int
l_human(lua_State *L)
{
	char text[64];

	lua_pushlstring(L, text, tr_duration_format(check_split(L, 1), text));
	return 1;
}

/* ip_parse(text) -> 4 or 16 bytes, or nil */
static int
l_ip_parse(lua_State *L)
{
	const char *text = luaL_checkstring(L, 1);
	char bytes[16];

	if (inet_pton(AF_INET, text, bytes) == 1)
		lua_pushlstring(L, bytes, 4);
	else if (inet_pton(AF_INET6, text, bytes) == 1)
		lua_pushlstring(L, bytes, 16);
	else
		lua_pushnil(L);
	return 1;
}

static int
l_ip_text(lua_State *L)
{
	size_t len;
	const char *bytes = luaL_checklstring(L, 1, &len);
	char text[INET6_ADDRSTRLEN];

	luaL_argcheck(L, len == 4 || len == 16, 1, "4 or 16 bytes expected");
	lua_pushstring(L, inet_ntop(len == 4 ? AF_INET : AF_INET6, bytes, text, sizeof text));
	return 1;
}

/* ip_mask(bytes, prefix) -> the bytes with all bits after the first `prefix` cleared */
static int
l_ip_mask(lua_State *L)
{
	size_t len;
	const char *bytes = luaL_checklstring(L, 1, &len);
	int prefix = (int)luaL_checkinteger(L, 2);
	unsigned char out[16] = {0};

	luaL_argcheck(L, len == 4 || len == 16, 1, "4 or 16 bytes expected");
	luaL_argcheck(L, prefix >= 0 && prefix <= (int)len * 8, 2, "prefix out of range");
	for (int i = 0; i * 8 < prefix; i++) {
		int bits = prefix - i * 8;
		out[i] = (unsigned char)bytes[i] & (bits >= 8 ? 0xff : 0xff << (8 - bits));
	}
	lua_pushlstring(L, (char *)out, len);
	return 1;
}

/* observe_latency(label, seconds) */
static int
l_observe_latency(lua_State *L)
{
	struct tr_metric *metric = tr_metric_get(TR_HISTOGRAM, "user_lua_latency", "time between start_timer and done",
		"label", luaL_checkstring(L, 1), NULL);

	tr_metric_observe_ns(metric, (int64_t)(luaL_checknumber(L, 2) * TR_NS_PER_S));
	return 0; /* the reference stays: the series belongs to the policy */
}

void
tr_time_library(lua_State *L)
{
	static const luaL_Reg functions[] = {
		{"now", l_now},
		{"rfc3339", l_rfc3339},
		{"rfc3339_parse", l_rfc3339_parse},
		{"rfc2822", l_rfc2822},
		{"duration", l_duration},
		{"human", l_human},
		{"ip_parse", l_ip_parse},
		{"ip_text", l_ip_text},
		{"ip_mask", l_ip_mask},
		{"observe_latency", l_observe_latency},
		{NULL, NULL},
	};

	luaL_register(L, NULL, functions);
}
