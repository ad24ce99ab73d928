/* Where a queue's messages go: the option `protocol` of kumo.make_queue_config. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/options.h"
#include "queue/config_lua.h"

static const struct tr_key lua_keys[] = {
	{"constructor", 's', true}, {"batch_size", 'i', false}, {"min_batch_size", 'i', false},
	{"max_batch_latency", 'd', false}, {"max_batch_bytes", 'i', false}, /* ours */
};

char *
config_copy_string(lua_State *L, int idx, const char *key)
{
	const char *text = tr_opt_string(L, idx, key, NULL, NULL);
	char *copy;

	if (text == NULL)
		return NULL;
	copy = strdup(text);
	if (copy == NULL)
		luaL_error(L, "out of memory");
	return copy;
}

uint32_t
config_opt_u32(lua_State *L, int idx, const char *function, const char *key, uint32_t def, uint32_t min)
{
	int64_t value = tr_opt_int(L, idx, key, def);

	if (value < min || value > UINT32_MAX)
		luaL_error(L, "%s: %s = %s: a number from %d to 4294967295 is expected", function, key,
			(lua_getfield(L, idx, key), lua_tostring(L, -1)), (int)min);
	return (uint32_t)value;
}

/* "host", "host:port", "[ip]", "[ip]:port", "ip", or {name=, addr="ip[:port]"} at the top of the stack. */
static void
read_mx_entry(lua_State *L, struct tr_mx_entry *out, int number)
{
	char where[64];
	const char *text, *host, *host_end, *port = NULL;
	bool from_table = lua_istable(L, -1);

	snprintf(where, sizeof where, "kumo.make_queue_config: smtp.mx_list[%d]", number);
	if (from_table)
		lua_getfield(L, -1, "addr");
	if (lua_type(L, -1) != LUA_TSTRING)
		luaL_error(L, "%s: a string or {name=, addr=} is expected", where);
	text = lua_tostring(L, -1);
	host = text;
	if (text[0] == '[') {
		const char *close = strchr(text, ']');
		if (close == NULL)
			luaL_error(L, "%s: '%s' lacks its ']'", where, text);
		host = text + 1;
		host_end = close;
		if (close[1] == ':')
			port = close + 2;
		else if (close[1] != '\0')
			luaL_error(L, "%s: '%s': only :port may follow the ']'", where, text);
		out->literal = true;
	} else {
		const char *colon = strrchr(text, ':');
		bool v6 = colon != NULL && strchr(text, ':') != colon;
		host_end = v6 || colon == NULL ? text + strlen(text) : colon;
		if (colon != NULL && !v6)
			port = colon + 1;
		out->literal = v6 || strspn(text, "0123456789.") == (size_t)(host_end - text) || from_table;
	}
	if (port != NULL) {
		char *end;
		long value = strtol(port, &end, 10);
		if (*port == '\0' || *end != '\0' || value < 1 || value > 65535)
			luaL_error(L, "%s: '%s': a port from 1 to 65535 is expected", where, text);
		out->port = (uint16_t)value;
	}
	if (host == host_end)
		luaL_error(L, "%s: '%s' has no host", where, text);
	if (strncmp(host, "IPv6:", 5) == 0)
		host += 5;
	out->label = strdup(text);
	out->host = strndup(host, (size_t)(host_end - host));
	if (from_table)
		lua_pop(L, 1);
	if (out->label == NULL || out->host == NULL)
		luaL_error(L, "out of memory");
}

static void
read_smtp(lua_State *L, struct tr_queue_config *config)
{
	size_t count;

	config->protocol = TR_PROTO_SMTP;
	if (!lua_istable(L, -1))
		luaL_error(L,
			"kumo.make_queue_config: protocol.smtp: a table is expected, as in protocol = { smtp = {} }");
	lua_getfield(L, -1, "mx_list");
	if (lua_isnil(L, -1)) {
		lua_pop(L, 1);
		return;
	}
	if (!lua_istable(L, -1))
		luaL_error(L, "kumo.make_queue_config: smtp.mx_list: a list of hosts is expected");
	count = lua_objlen(L, -1);
	if (count > 0) {
		config->mx_list = calloc(count, sizeof *config->mx_list);
		if (config->mx_list == NULL)
			luaL_error(L, "out of memory");
	}
	for (size_t i = 0; i < count; i++) {
		lua_rawgeti(L, -1, (int)i + 1);
		config->mx_count = (uint32_t)i + 1; /* before it is filled: unref frees NULLs */
		read_mx_entry(L, &config->mx_list[i], (int)i + 1);
		lua_pop(L, 1);
	}
	lua_pop(L, 1);
}

static void
read_custom_lua(lua_State *L, struct tr_queue_config *config)
{
	const char *function = "kumo.make_queue_config: protocol.custom_lua";
	int idx = lua_gettop(L);

	if (!lua_istable(L, idx))
		luaL_error(L, "%s: a table is expected, as in { constructor = 'make.webhook' }", function);
	tr_check_options(L, idx, function, lua_keys, TR_COUNT(lua_keys));
	config->protocol = TR_PROTO_LUA;
	config->constructor = config_copy_string(L, idx, "constructor");
	config->batch_size = config_opt_u32(L, idx, function, "batch_size", 1, 1);
	config->min_batch_size = config_opt_u32(L, idx, function, "min_batch_size", 1, 1);
	config->max_batch_latency_ns = tr_opt_duration_ns(L, idx, function, "max_batch_latency", 0);
	config->max_batch_bytes = (uint64_t)tr_opt_int(L, idx, "max_batch_bytes", 0);
}

void
config_read_protocol(lua_State *L, int idx, struct tr_queue_config *config)
{
	static const char *const variants[] = {"smtp", "custom_lua", "maildir_path", "xfer", NULL};
	const char *found = NULL;

	lua_getfield(L, idx, "protocol");
	if (lua_isnil(L, -1)) {
		lua_pop(L, 1);
		return;
	}
	lua_pushnil(L);
	while (lua_next(L, -2) != 0) {
		const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;
		if (key != NULL && (strcmp(key, "smtp") == 0 || strcmp(key, "custom_lua") == 0)) {
			if (found != NULL)
				luaL_error(L,
					"kumo.make_queue_config: protocol: both '%s' and '%s' are given; one is "
					"expected",
					found, key);
			found = key;
			if (key[0] == 's')
				read_smtp(L, config);
			else
				read_custom_lua(L, config);
		} else if (key != NULL && (strcmp(key, "maildir_path") == 0 || strcmp(key, "xfer") == 0)) {
			luaL_error(L, "kumo.make_queue_config: protocol: '%s' is not supported by Tailrace", key);
		} else {
			const char *near = key ? tr_nearest(key, variants) : NULL;
			luaL_error(L,
				"kumo.make_queue_config: protocol: unknown variant '%s'%s%s%s, expected one of smtp, "
				"custom_lua",
				key ? key : luaL_typename(L, -2), near ? " (did you mean '" : "", near ? near : "",
				near ? "'?)" : "");
		}
		lua_pop(L, 1);
	}
	if (found == NULL)
		luaL_error(L, "kumo.make_queue_config: protocol: the table is empty; smtp = {} or custom_lua = {...} "
			      "is expected");
	lua_pop(L, 1);
}
