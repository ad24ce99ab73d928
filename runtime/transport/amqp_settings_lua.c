#include "transport/amqp_settings_lua.h"

#include <stdlib.h>
#include <string.h>

#include "policy/policy.h"

static const struct tr_key connection_keys[] = {
	{"host", 's', false},
	{"hosts", 't', false},
	{"port", 'i', false},
	{"username", 's', false},
	{"password", 's', false},
	{"vhost", 's', false},
	{"connection_name", 's', false},
	{"heartbeat", 'i', false},
	{"enable_tls", 'b', false},
	{"root_ca_cert", 's', false},
	{"client_cert", 's', false},
	{"client_private_key", 's', false},
	{"confirm_select", 'b', false}, /* confirms are always awaited */
	{"pool_size", 'i', false},
	{"connect_timeout", 'd', false},
	{"recycle_timeout", 'd', false}, /* no round trip is made before reuse */
	{"wait_timeout", 'd', false},
	{"publish_timeout", 'd', false},
	{"idle_timeout", 'd', false},
};

static struct tr_str
opt_text(lua_State *L, int idx, const char *key, const char *def)
{
	struct tr_str text = {NULL, 0};

	text.data = tr_opt_string(L, idx, key, NULL, &text.len);
	if (text.data == NULL)
		return tr_str(def);
	if (memchr(text.data, '\0', text.len) != NULL)
		luaL_error(L, PUBLISH ": connection: %s has a NUL byte", key);
	return text;
}

static uint16_t
check_port(lua_State *L, int64_t port, const char *what)
{
	if (port < 1 || port > 65535)
		luaL_error(L, PUBLISH ": connection: %s: a port from 1 to 65535 expected", what);
	return (uint16_t)port;
}

/* "host", "host:port", "[v6]:port" */
static void
read_host(lua_State *L, struct tr_str text, uint16_t port, struct tr_amqp_host *out)
{
	const char *end = text.data + text.len, *colon = NULL;

	for (const char *at = text.data; at < end; at++) {
		if (*at == ':')
			colon = colon == NULL || text.data[0] == '[' ? at : end; /* several: a bare IPv6 address */
	}
	out->name = text;
	out->port = port;
	if (colon != NULL && colon != end && (text.data[0] != '[' || colon[-1] == ']')) {
		out->name.len = (size_t)(colon - text.data);
		out->port = check_port(L, strtol(colon + 1, NULL, 10), "hosts");
	}
	if (out->name.len > 2 && out->name.data[0] == '[' && out->name.data[out->name.len - 1] == ']') {
		out->name.data++;
		out->name.len -= 2;
	}
	if (out->name.len == 0)
		luaL_error(L, PUBLISH ": connection: a host must not be empty");
}

static void
read_hosts(lua_State *L, int idx, struct tr_amqp_settings *settings)
{
	uint16_t port = check_port(L, tr_opt_int(L, idx, "port", 5672), "port");
	struct tr_str host = opt_text(L, idx, "host", NULL);

	if (host.data != NULL) {
		settings->hosts[0] = (struct tr_amqp_host){host, port};
		settings->host_count = 1;
		if (host.len == 0)
			luaL_error(L, PUBLISH ": connection: a host must not be empty");
	}
	lua_getfield(L, idx, "hosts");
	for (size_t i = 1; !lua_isnil(L, -1) && i <= lua_objlen(L, -1); i++) {
		struct tr_str text;

		lua_rawgeti(L, -1, (int)i);
		if (lua_type(L, -1) != LUA_TSTRING || settings->host_count == TR_AMQP_HOSTS_MAX)
			luaL_error(L, PUBLISH ": connection: hosts: a list of at most %d strings expected",
				TR_AMQP_HOSTS_MAX);
		text.data = lua_tolstring(L, -1, &text.len); /* the list keeps it */
		lua_pop(L, 1);
		read_host(L, text, port, &settings->hosts[settings->host_count++]);
	}
	lua_pop(L, 1);
	if (settings->host_count == 0)
		luaL_error(L, PUBLISH ": connection: host expected");
}

static int64_t
opt_time(lua_State *L, int idx, const char *key, int64_t def_s)
{
	int64_t ns = tr_opt_duration_ns(L, idx, PUBLISH ": connection", key, def_s * TR_NS_PER_S);

	return tr_max_i64(tr_min_i64(ns, 86400 * TR_NS_PER_S), TR_NS_PER_MS);
}

void
amqp_read_settings(lua_State *L, int idx, struct tr_amqp_settings *out)
{
	struct tr_amqp_settings settings = {0};
	int64_t number;

	tr_check_options(L, idx, PUBLISH ": connection", connection_keys, TR_COUNT(connection_keys));
	read_hosts(L, idx, &settings);
	settings.username = opt_text(L, idx, "username", "guest");
	settings.password = opt_text(L, idx, "password", "guest");
	settings.vhost = opt_text(L, idx, "vhost", "/");
	settings.connection_name = opt_text(L, idx, "connection_name", NULL);
	number = tr_opt_int(L, idx, "heartbeat", 60);
	if (number > UINT16_MAX)
		luaL_error(L, PUBLISH ": connection: heartbeat: 0 to 65535 seconds expected");
	settings.heartbeat_s = (uint16_t)number;
	settings.tls = tr_opt_bool(L, idx, "enable_tls", false);
	if (settings.tls) {
		settings.ca_file = opt_text(L, idx, "root_ca_cert", NULL);
		settings.cert_file = opt_text(L, idx, "client_cert", NULL);
		settings.key_file = opt_text(L, idx, "client_private_key", NULL);
		if ((settings.cert_file.data == NULL) != (settings.key_file.data == NULL))
			luaL_error(L, "Either both client_cert and client_private_key must be specified, or neither");
	}
	number = tr_opt_int(L, idx, "pool_size", 4);
	if (number < 1 || number > 1000)
		luaL_error(L, PUBLISH ": connection: pool_size: 1 to 1000 expected");
	settings.pool_size = (uint32_t)number;
	settings.connect_timeout_ns = opt_time(L, idx, "connect_timeout", 30);
	settings.wait_timeout_ns = opt_time(L, idx, "wait_timeout", 60);
	settings.publish_timeout_ns = opt_time(L, idx, "publish_timeout", 60);
	settings.idle_timeout_ns = opt_time(L, idx, "idle_timeout", 300);
	opt_time(L, idx, "recycle_timeout", 0);
	*out = settings;
}
