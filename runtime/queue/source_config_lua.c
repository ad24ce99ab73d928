/* kumo.make_egress_source and kumo.make_egress_pool. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "queue/config_view_lua.h"
#include "queue/source_config_lua.h"

#define SOURCE_TYPE "tr.egress_source"
#define POOL_TYPE "tr.egress_pool"
#define THRESHOLD_MAX 100000 /* moments of failures that are remembered */
#define SECRET_MAX 255       /* bytes: RFC 1929 */

static const struct tr_key source_keys[] = {
	{"name", 's', true},
	{"ehlo_domain", 's', false},
	{"source_address", 's', false},
	{"remote_port", 'i', false},
	{"ha_proxy_server", 's', false},
	{"ha_proxy_source_address", 's', false},
	{"socks5_proxy_server", 's', false},
	{"socks5_proxy_source_address", 's', false},
	{"socks5_proxy_username", 's', false},
	{"socks5_proxy_password", '*', false},
	{"suspend_when_unplumbed", 't', false},
	{"suspend_when_proxy_unhealthy", 't', false},
	{"ttl", 'd', false},
};

static const struct tr_key pool_keys[] = {{"name", 's', true}, {"entries", 't', false}, {"ttl", 'd', false}};

/* --- reading: all raise, naming the function and the key ---------------------------------------------------------- */

static char *
read_address(lua_State *L, const char *function, const char *key)
{
	char *text = config_copy_string(L, 1, key);
	unsigned char bytes[16];
	char copy[64];

	if (text == NULL || inet_pton(AF_INET, text, bytes) == 1 || inet_pton(AF_INET6, text, bytes) == 1)
		return text;
	snprintf(copy, sizeof copy, "%s", text);
	free(text);
	luaL_error(L, "%s: %s = '%s': an IP address is expected", function, key, copy);
	return NULL;
}

/* "host:port", "[ip]:port" */
static char *
read_server(lua_State *L, const char *function, const char *key)
{
	const char *text = tr_opt_string(L, 1, key, NULL, NULL), *colon;
	char *end = NULL;
	long port = 0;

	if (text == NULL)
		return NULL;
	colon = strrchr(text, ':');
	if (colon != NULL && colon[1] >= '0' && colon[1] <= '9')
		port = strtol(colon + 1, &end, 10);
	if (port < 1 || port > 65535 || *end != '\0' || colon == text ||
		(text[0] != '[' && memchr(text, ':', (size_t)(colon - text)) != NULL) ||
		(text[0] == '[' && colon[-1] != ']'))
		luaL_error(L, "%s: %s = '%s': HOST:PORT is expected, an IPv6 address in brackets", function, key, text);
	return config_copy_string(L, 1, key);
}

/* A file's name, or { key_data = BYTES }: as every key source. */
static char *
read_secret(lua_State *L, const char *function, const char *key)
{
	char bytes[SECRET_MAX + 2], *copy;
	const char *text;
	size_t len = 0;

	lua_getfield(L, 1, key);
	if (lua_isnil(L, -1)) {
		lua_pop(L, 1);
		return NULL;
	}
	if (lua_istable(L, -1)) {
		lua_getfield(L, -1, "key_data");
		if (lua_type(L, -1) != LUA_TSTRING)
			luaL_error(L, "%s: %s: the name of a file or { key_data = TEXT } is expected", function, key);
		text = lua_tolstring(L, -1, &len);
		if (len <= SECRET_MAX)
			memcpy(bytes, text, len);
		lua_pop(L, 1);
	} else if (lua_type(L, -1) == LUA_TSTRING) {
		FILE *file = fopen(lua_tostring(L, -1), "re");

		if (file == NULL)
			luaL_error(L, "%s: %s: %s: %s", function, key, lua_tostring(L, -1), strerror(errno));
		len = fread(bytes, 1, sizeof bytes, file);
		fclose(file);
		while (len > 0 && (bytes[len - 1] == '\n' || bytes[len - 1] == '\r'))
			len--;
	} else {
		luaL_error(L, "%s: %s: the name of a file or { key_data = TEXT } is expected, got %s", function, key,
			luaL_typename(L, -1));
	}
	lua_pop(L, 1);
	if (len < 1 || len > SECRET_MAX || memchr(bytes, '\0', len) != NULL)
		luaL_error(L, "%s: %s: 1 to %d bytes without NUL are expected", function, key, SECRET_MAX);
	copy = strndup(bytes, len);
	if (copy == NULL)
		luaL_error(L, "out of memory");
	return copy;
}

/* { trigger = "Immediate" | { Threshold = "N/period" }, duration = } */
static void
read_rule(lua_State *L, const char *function, const char *key, struct tr_suspend_rule *out)
{
	static const struct tr_key keys[] = {{"trigger", '*', false}, {"duration", 'd', true}};
	static const struct tr_key trigger_keys[] = {{"Threshold", 's', true}};
	struct tr_rate_spec spec;
	char what[128];
	int top = lua_gettop(L);

	lua_getfield(L, 1, key);
	if (lua_isnil(L, -1)) {
		lua_settop(L, top);
		return;
	}
	snprintf(what, sizeof what, "%s: %s", function, key);
	tr_check_options(L, top + 1, what, keys, TR_COUNT(keys));
	out->failures = 1;
	out->duration_ns = tr_opt_duration_ns(L, top + 1, what, "duration", 0);
	if (out->duration_ns < TR_NS_PER_MS)
		luaL_error(L, "%s: duration: more than nothing is expected", what);
	lua_getfield(L, top + 1, "trigger");
	if (lua_istable(L, -1)) {
		tr_check_options(L, top + 2, what, trigger_keys, TR_COUNT(trigger_keys));
		lua_getfield(L, top + 2, "Threshold");
		config_read_rate(L, what, "trigger: Threshold", &spec);
		if (spec.has_burst || spec.local || spec.quantity > THRESHOLD_MAX)
			luaL_error(
				L, "%s: trigger: Threshold: N/period is expected, N at most %d", what, THRESHOLD_MAX);
		out->failures = (uint32_t)spec.quantity;
		out->period_ns = spec.period_ns;
	} else if (!lua_isnil(L, -1) &&
		   (lua_type(L, -1) != LUA_TSTRING || strcmp(lua_tostring(L, -1), "Immediate") != 0)) {
		luaL_error(L, "%s: trigger: \"Immediate\" or { Threshold = \"N/period\" } is expected", what);
	}
	lua_settop(L, top);
}

static void
both(lua_State *L, const char *function, const void *a, const char *a_key, const void *b, const char *b_key)
{
	if ((a == NULL) != (b == NULL))
		luaL_error(L, "%s: %s and %s go together: %s is missing", function, a_key, b_key,
			a == NULL ? a_key : b_key);
}

/* --- views ---------------------------------------------------------------------------------------------------------
 */

static void
push_text(lua_State *L, const char *key, const char *text)
{
	if (text == NULL)
		return;
	lua_pushstring(L, text);
	lua_setfield(L, -2, key);
}

static void
push_rule(lua_State *L, const char *key, const struct tr_suspend_rule *rule)
{
	char text[64];

	if (rule->failures == 0)
		return;
	lua_createtable(L, 0, 2);
	config_default_duration(L, "duration", rule->duration_ns);
	if (rule->failures == 1 && rule->period_ns == 0) {
		push_text(L, "trigger", "Immediate");
	} else {
		lua_createtable(L, 0, 1);
		snprintf(text, sizeof text, "%u/%llus", rule->failures,
			(unsigned long long)(rule->period_ns / TR_NS_PER_S));
		push_text(L, "Threshold", text);
		lua_setfield(L, -2, "trigger");
	}
	lua_setfield(L, -2, key);
}

void
source_push_view(lua_State *L, const struct tr_source_config *config)
{
	lua_createtable(L, 0, 8);
	push_text(L, "name", config->name);
	push_text(L, "ehlo_domain", config->ehlo_domain);
	push_text(L, "source_address", config->source_address);
	if (config->remote_port != 0) {
		lua_pushinteger(L, config->remote_port);
		lua_setfield(L, -2, "remote_port");
	}
	push_text(L, "ha_proxy_server", config->ha_proxy_server);
	push_text(L, "ha_proxy_source_address", config->ha_proxy_source_address);
	push_text(L, "socks5_proxy_server", config->socks5_proxy_server);
	push_text(L, "socks5_proxy_source_address", config->socks5_proxy_source_address);
	push_text(L, "socks5_proxy_username", config->socks5_proxy_username); /* never the password */
	push_rule(L, "suspend_when_unplumbed", &config->unplumbed);
	push_rule(L, "suspend_when_proxy_unhealthy", &config->proxy_unhealthy);
	config_default_duration(L, "ttl", config->ttl_ns);
}

void
pool_push_view(lua_State *L, const struct tr_pool_config *config)
{
	lua_createtable(L, 0, 3);
	push_text(L, "name", config->name);
	config_default_duration(L, "ttl", config->ttl_ns);
	lua_createtable(L, (int)config->count, 0);
	for (uint32_t i = 0; i < config->count; i++) {
		lua_createtable(L, 0, 2);
		push_text(L, "name", config->entries[i].name);
		lua_pushnumber(L, config->entries[i].weight);
		lua_setfield(L, -2, "weight");
		lua_rawseti(L, -2, (int)i + 1);
	}
	tr_json_set_array(L, -1);
	lua_setfield(L, -2, "entries");
}

/* The view on the stack becomes that of the box at 2. */
static void
set_view(lua_State *L)
{
	lua_createtable(L, 1, 0);
	lua_insert(L, -2);
	lua_rawseti(L, -2, ENV_VIEW);
	lua_setfenv(L, 2);
	lua_settop(L, 2);
}

/* --- makers --------------------------------------------------------------------------------------------------------
 */

static struct tr_str
name_of(lua_State *L, const char *function)
{
	struct tr_str name;

	name.data = tr_opt_string(L, 1, "name", NULL, &name.len);
	if (name.len == 0 || strlen(name.data) != name.len)
		luaL_error(L, "%s: name: a name is expected", function);
	return name;
}

static int
l_make_egress_source(lua_State *L)
{
	const char *function = "kumo.make_egress_source";
	struct tr_source_config *config;
	struct config_box *box;
	int64_t port;

	lua_settop(L, 1);
	tr_check_options(L, 1, function, source_keys, TR_COUNT(source_keys));
	box = config_new_box(L, SOURCE_TYPE); /* owns the definition from here, so raising leaks nothing */
	box->config = config = tr_source_config_new(name_of(L, function));
	if (config == NULL)
		return luaL_error(L, "out of memory");
	config->ehlo_domain = config_copy_string(L, 1, "ehlo_domain");
	config->source_address = read_address(L, function, "source_address");
	port = tr_opt_int(L, 1, "remote_port", 0);
	lua_getfield(L, 1, "remote_port");
	if (port > 65535 || (port < 1 && !lua_isnil(L, -1)))
		return luaL_error(L, "%s: remote_port: a port from 1 to 65535 is expected", function);
	lua_pop(L, 1);
	config->remote_port = (uint16_t)port;
	config->ha_proxy_server = read_server(L, function, "ha_proxy_server");
	config->ha_proxy_source_address = read_address(L, function, "ha_proxy_source_address");
	config->socks5_proxy_server = read_server(L, function, "socks5_proxy_server");
	config->socks5_proxy_source_address = read_address(L, function, "socks5_proxy_source_address");
	config->socks5_proxy_username = config_copy_string(L, 1, "socks5_proxy_username");
	config->socks5_proxy_password = read_secret(L, function, "socks5_proxy_password");
	both(L, function, config->ha_proxy_server, "ha_proxy_server", config->ha_proxy_source_address,
		"ha_proxy_source_address");
	both(L, function, config->socks5_proxy_server, "socks5_proxy_server", config->socks5_proxy_source_address,
		"socks5_proxy_source_address");
	both(L, function, config->socks5_proxy_username, "socks5_proxy_username", config->socks5_proxy_password,
		"socks5_proxy_password");
	if (config->socks5_proxy_username != NULL &&
		(strlen(config->socks5_proxy_username) < 1 || strlen(config->socks5_proxy_username) > SECRET_MAX))
		return luaL_error(L, "%s: socks5_proxy_username: 1 to %d bytes are expected", function, SECRET_MAX);
	read_rule(L, function, "suspend_when_unplumbed", &config->unplumbed);
	read_rule(L, function, "suspend_when_proxy_unhealthy", &config->proxy_unhealthy);
	config->ttl_ns = tr_opt_duration_ns(L, 1, function, "ttl", config->ttl_ns);
	source_push_view(L, config);
	set_view(L);
	return 1;
}

static int
l_make_egress_pool(lua_State *L)
{
	static const struct tr_key entry_keys[] = {{"name", 's', true}, {"weight", 'i', false}};
	const char *function = "kumo.make_egress_pool";
	struct tr_pool_config *config;
	struct config_box *box;
	struct tr_str name;
	size_t count = 0, keys = 0;

	lua_settop(L, 1);
	tr_check_options(L, 1, function, pool_keys, TR_COUNT(pool_keys));
	box = config_new_box(L, POOL_TYPE);
	name = name_of(L, function);
	lua_getfield(L, 1, "entries"); /* at 3 */
	if (lua_istable(L, 3)) {
		count = lua_objlen(L, 3);
		for (lua_pushnil(L); lua_next(L, 3) != 0; lua_pop(L, 1))
			keys++;
		if (keys != count)
			return luaL_error(L, "%s: entries: an array of { name =, weight = } is expected", function);
	}
	box->config = config = tr_pool_config_new(name, (uint32_t)count);
	if (config == NULL)
		return luaL_error(L, "out of memory");
	for (uint32_t i = 0; i < config->count; i++) {
		char what[64];
		int64_t weight;

		snprintf(what, sizeof what, "%s: entries[%u]", function, i + 1);
		lua_rawgeti(L, 3, (int)i + 1); /* at 4 */
		if (!lua_istable(L, 4))
			return luaL_error(L, "%s: { name =, weight = } is expected, got %s", what, luaL_typename(L, 4));
		tr_check_options(L, 4, what, entry_keys, TR_COUNT(entry_keys));
		weight = tr_opt_int(L, 4, "weight", 1);
		if (weight > UINT32_MAX)
			return luaL_error(L, "%s: weight: at most 4294967295 is expected", what);
		config->entries[i].name = config_copy_string(L, 4, "name");
		config->entries[i].weight = (uint32_t)weight;
		lua_settop(L, 3);
	}
	lua_settop(L, 2);
	config->ttl_ns = tr_opt_duration_ns(L, 1, function, "ttl", config->ttl_ns);
	pool_push_view(L, config);
	set_view(L);
	return 1;
}

static int
l_source_gc(lua_State *L)
{
	struct config_box *box = lua_touserdata(L, 1);

	tr_source_config_unref(box->config);
	box->config = NULL;
	return 0;
}

static int
l_pool_gc(lua_State *L)
{
	struct config_box *box = lua_touserdata(L, 1);

	tr_pool_config_unref(box->config);
	box->config = NULL;
	return 0;
}

struct tr_source_config *
source_config_at(lua_State *L, int idx)
{
	struct config_box *box = luaL_testudata(L, idx, SOURCE_TYPE);

	return box != NULL ? box->config : NULL;
}

struct tr_pool_config *
pool_config_at(lua_State *L, int idx)
{
	struct config_box *box = luaL_testudata(L, idx, POOL_TYPE);

	return box != NULL ? box->config : NULL;
}

void
source_config_register(lua_State *L)
{
	static const luaL_Reg kumo[] = {
		{"make_egress_source", l_make_egress_source},
		{"make_egress_pool", l_make_egress_pool},
		{NULL, NULL},
	};

	config_register_type(L, SOURCE_TYPE, l_source_gc);
	config_register_type(L, POOL_TYPE, l_pool_gc);
	lua_getfield(L, -1, "kumo");
	luaL_setfuncs(L, kumo, 0);
	lua_pop(L, 1);
}
