#include "transport/nats_settings_lua.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "policy/policy.h"

#define PENDING_MAX 1000000

static const struct tr_key connect_keys[] = {
	{"servers", 't', true},
	{"auth", 't', false},
	{"name", 's', false},
	{"no_echo", 'b', false},
	{"max_reconnects", 'i', false},
	{"connection_timeout", 'd', false},
	{"tls_required", 'b', false},
	{"tls_first", 'b', false},
	{"certificate", 's', false},
	{"client_cert", 's', false},
	{"client_key", 's', false},
	{"ping_interval", 'd', false},
	{"client_capacity", 'i', false},
	{"sender_capacity", 'i', false}, /* the documentation's name for it */
	{"inbox_prefix", 's', false},
	{"request_timeout", 'd', false},
	{"retry_on_initial_connect", 'b', false},
	{"ignore_discovered_servers", 'b', false},
	{"retain_servers_order", 'b', false},
};
static const struct tr_key auth_keys[] = {
	{"username", 's', false},
	{"password", 's', false},
	{"token", 's', false},
	{"credentials", 's', false},
};

static struct tr_str
opt_text(lua_State *L, int idx, const char *key)
{
	struct tr_str text = {NULL, 0};

	text.data = tr_opt_string(L, idx, key, NULL, &text.len);
	if (text.data != NULL && memchr(text.data, '\0', text.len) != NULL)
		luaL_error(L, CONNECT ": %s has a NUL byte", key);
	return text;
}

static int64_t
opt_time(lua_State *L, int idx, const char *key, int64_t def_s)
{
	int64_t ns = tr_opt_duration_ns(L, idx, CONNECT, key, def_s * TR_NS_PER_S);

	return tr_max_i64(tr_min_i64(ns, 86400 * TR_NS_PER_S), TR_NS_PER_MS);
}

static void
read_servers(lua_State *L, int idx, struct tr_nats_settings *out)
{
	lua_getfield(L, idx, "servers");
	for (size_t i = 1; i <= lua_objlen(L, -1); i++) {
		struct tr_str text;

		lua_rawgeti(L, -1, (int)i);
		if (lua_type(L, -1) != LUA_TSTRING || out->server_count == TR_NATS_SERVERS_MAX)
			luaL_error(L, CONNECT ": servers: a list of at most %d strings expected", TR_NATS_SERVERS_MAX);
		text.data = lua_tolstring(L, -1, &text.len); /* the list keeps it */
		if (memchr(text.data, '\0', text.len) != NULL)
			luaL_error(L, CONNECT ": servers: a NUL byte");
		out->servers[out->server_count++] = text;
		lua_pop(L, 1);
	}
	lua_pop(L, 1);
	if (out->server_count == 0)
		luaL_error(L, CONNECT ": servers: at least one expected");
}

static void
read_auth(lua_State *L, int auth, struct tr_nats_settings *out)
{
	const struct tr_str *texts[] = {&out->username, &out->password, &out->token};

	if (!lua_isnil(L, auth)) {
		tr_check_options(L, auth, CONNECT ": auth", auth_keys, TR_COUNT(auth_keys));
		out->username = opt_text(L, auth, "username"); /* the table keeps them */
		out->password = opt_text(L, auth, "password");
		out->token = opt_text(L, auth, "token");
		out->credentials = opt_text(L, auth, "credentials");
	}
	if ((out->username.data == NULL) != (out->password.data == NULL))
		luaL_error(L, CONNECT ": auth: either specify both of username and password or neither");
	for (size_t i = 0; i < TR_COUNT(texts); i++) {
		if (texts[i]->data != NULL && !tr_utf8_valid(*texts[i]))
			luaL_error(L, CONNECT ": auth: username, password and token must be UTF-8");
	}
}

static uint32_t
opt_count(lua_State *L, int idx, const char *key, int64_t def, int64_t min, int64_t max)
{
	int64_t number = tr_opt_int(L, idx, key, def);

	if (number < min || number > max)
		luaL_error(L, CONNECT ": %s: %d to %d expected", key, (int)min, (int)max);
	return (uint32_t)number;
}

void
nats_read_settings(lua_State *L, struct tr_nats_settings *out)
{
	struct tr_nats_settings settings = {0};

	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 2);
	tr_check_options(L, 1, CONNECT, connect_keys, TR_COUNT(connect_keys));
	read_servers(L, 1, &settings);
	read_auth(L, 2, &settings);
	settings.name = opt_text(L, 1, "name");
	settings.inbox_prefix = opt_text(L, 1, "inbox_prefix");
	if (settings.inbox_prefix.data != NULL &&
		(tr_nats_check_subject(settings.inbox_prefix) != NULL || settings.inbox_prefix.len > 200))
		luaL_error(L, CONNECT ": inbox_prefix: a subject of at most 200 bytes expected");
	if (tr_opt_bool(L, 1, "tls_first", false))
		luaL_error(L, CONNECT ": tls_first: TLS from the first byte on is not supported");
	settings.tls = tr_opt_bool(L, 1, "tls_required", false);
	settings.ca_file = opt_text(L, 1, "certificate");
	settings.cert_file = opt_text(L, 1, "client_cert");
	settings.key_file = opt_text(L, 1, "client_key");
	if ((settings.cert_file.data == NULL) != (settings.key_file.data == NULL))
		luaL_error(L, CONNECT ": either specify both of client_cert and client_key or neither");
	settings.no_echo = tr_opt_bool(L, 1, "no_echo", false);
	settings.ignore_discovered = tr_opt_bool(L, 1, "ignore_discovered_servers", false);
	settings.retain_order = tr_opt_bool(L, 1, "retain_servers_order", false);
	settings.retry_connect = tr_opt_bool(L, 1, "retry_on_initial_connect", false);
	settings.max_reconnects = opt_count(L, 1, "max_reconnects", 0, 0, INT32_MAX);
	settings.pending_max = opt_count(L, 1, "sender_capacity", 2048, 1, PENDING_MAX);
	settings.pending_max = opt_count(L, 1, "client_capacity", settings.pending_max, 1, PENDING_MAX);
	settings.connect_timeout_ns = opt_time(L, 1, "connection_timeout", 5);
	settings.ping_interval_ns = opt_time(L, 1, "ping_interval", 60);
	settings.request_timeout_ns = opt_time(L, 1, "request_timeout", 5);
	*out = settings;
}
