/* Option tables of the ESMTP listener and of listener domains (contract/smtp.md 1.1 and 1.2). */
#include <stdlib.h>

#include "ingress/smtp_server_lua.h"
#include "policy/policy.h"

#define GUARD "tr.smtp_params"
#define DOMAIN_TYPE "tr.smtp_domain"
#define MAX_LIMIT INT64_C(1000000000000)
#define MAX_DEPTH 8 /* of `peer` and `via` in one another */

/* --- lists ------------------------------------------------------------------------------------------------------- */

/* Adds the CIDR blocks of the list t[key], if there is one; clears what *list had. Raises. */
static void
read_cidrs(lua_State *L, int idx, const char *function, const char *key, struct tr_cidr_list *list)
{
	lua_getfield(L, idx, key);
	if (lua_isnil(L, -1)) {
		lua_pop(L, 1);
		return;
	}
	if (!lua_istable(L, -1))
		luaL_error(L, "%s: %s: a list of addresses and CIDR blocks is expected", function, key);
	tr_cidr_list_fini(list);
	for (int i = 1;; i++) {
		struct tr_cidr cidr;
		char hint[64];
		struct tr_str text;

		lua_rawgeti(L, -1, i);
		if (lua_isnil(L, -1))
			break;
		if (lua_type(L, -1) != LUA_TSTRING)
			luaL_error(L, "%s: %s[%d]: string expected, got %s", function, key, i, luaL_typename(L, -1));
		text.data = lua_tolstring(L, -1, &text.len);
		if (tr_cidr_parse(text, &cidr, hint) != TR_OK && hint[0] != '\0')
			luaL_error(L, "%s: %s[%d] = '%s' has host bits set: '%s' is meant?", function, key, i,
				text.data, hint);
		if (tr_cidr_parse(text, &cidr, NULL) != TR_OK)
			luaL_error(L, "%s: %s[%d] = '%s' is no address or CIDR block", function, key, i, text.data);
		if (tr_cidr_list_add(list, &cidr) != TR_OK)
			luaL_error(L, "%s: out of memory", function);
		lua_pop(L, 1);
	}
	lua_pop(L, 2);
}

/* t[key] as an index into the names (NULL-terminated); def if it is absent. Raises. */
static int
read_choice(lua_State *L, int idx, const char *function, const char *key, const char *const *names, int def)
{
	const char *value = tr_opt_string(L, idx, key, NULL, NULL);

	if (value == NULL)
		return def;
	for (int i = 0; names[i] != NULL; i++) {
		if (strcmp(names[i], value) == 0)
			return i;
	}
	luaL_error(L, "%s: %s = '%s': '%s', '%s'%s%s%s expected", function, key, value, names[0], names[1],
		names[2] != NULL ? ", '" : "", names[2] != NULL ? names[2] : "", names[2] != NULL ? "'" : "");
	return def;
}

static void
read_string(lua_State *L, int idx, const char *function, const char *key, char **target)
{
	size_t len;
	const char *value = tr_opt_string(L, idx, key, NULL, &len);
	char *copy;

	if (value == NULL)
		return;
	if (memchr(value, '\r', len) != NULL || memchr(value, '\n', len) != NULL || strlen(value) != len)
		luaL_error(L, "%s: %s: one line of text is expected", function, key);
	copy = strdup(value);
	if (copy == NULL)
		luaL_error(L, "%s: out of memory", function);
	free(*target);
	*target = copy;
}

static int64_t
read_limit(lua_State *L, int idx, const char *function, const char *key, int64_t least, int64_t def)
{
	int64_t value = tr_opt_int(L, idx, key, def);

	if (value < least || value > MAX_LIMIT)
		luaL_error(L, "%s: %s: a number from %d on is expected", function, key, (int)least);
	return value;
}

/* --- what is not there yet ------------------------------------------------------------------------------------------
 */

static void
refuse_unsupported(lua_State *L, int idx, const char *function)
{
	static const struct {
		const char *key;
		bool is_switch; /* false is fine */
	} missing[] = {
		{"tls_certificate", false},
		{"tls_private_key", false},
		{"tls_required_client_ca", false},
		{"deferred_queue", true},
		{"allow_xclient", true},
		{"require_proxy_protocol", true},
	};

	for (size_t i = 0; i < TR_COUNT(missing); i++) {
		lua_getfield(L, idx, missing[i].key);
		if (!lua_isnil(L, -1) && !(missing[i].is_switch && !lua_toboolean(L, -1)))
			luaL_error(L, "%s: %s is not supported by Tailrace yet", function, missing[i].key);
		lua_pop(L, 1);
	}
}

/* --- the listener
 * -------------------------------------------------------------------------------------------------------- */

static int
guard_gc(lua_State *L)
{
	struct tr_smtp_params **guard = luaL_checkudata(L, 1, GUARD);

	tr_smtp_params_unref(*guard);
	*guard = NULL;
	return 0;
}

static struct tr_smtp_params *
push_guard(lua_State *L, const char *function, const struct tr_smtp_params *base)
{
	static const luaL_Reg meta[] = {{"__gc", guard_gc}, {NULL, NULL}};
	struct tr_smtp_params **guard = lua_newuserdata(L, sizeof *guard);

	*guard = NULL;
	tr_metatable(L, GUARD, meta, NULL);
	lua_setmetatable(L, -2);
	*guard = base != NULL ? tr_smtp_params_copy(base) : tr_smtp_params_new();
	if (*guard == NULL)
		luaL_error(L, "%s: out of memory", function);
	return *guard;
}

static bool
is_header_name(const char *name)
{
	if (*name == '\0' || strlen(name) > 60)
		return false;
	for (; *name != '\0'; name++) {
		if (*name <= ' ' || *name > '~' || *name == ':')
			return false;
	}
	return true;
}

static void
free_names(struct tr_smtp_params *params)
{
	for (char **name = params->include_meta; name != NULL && *name != NULL; name++)
		free(*name);
	free(params->include_meta);
	params->include_meta = NULL;
}

/* The table as a whole replaces: missing keys are defaults. It is on top of the stack. */
static void
read_trace_headers(lua_State *L, const char *function, struct tr_smtp_params *params)
{
	static const struct tr_key keys[] = {
		{"received_header", 'b', false},
		{"supplemental_header", 'b', false},
		{"header_name", 's', false},
		{"include_meta_names", 't', false},
	};
	int idx = lua_gettop(L);
	char *name;

	tr_check_options(L, idx, function, keys, TR_COUNT(keys));
	params->received_header = tr_opt_bool(L, idx, "received_header", true);
	params->supplemental_header = tr_opt_bool(L, idx, "supplemental_header", true);
	name = strdup("X-KumoRef");
	if (name == NULL)
		luaL_error(L, "%s: out of memory", function);
	free(params->header_name);
	params->header_name = name;
	read_string(L, idx, function, "header_name", &params->header_name);
	if (!is_header_name(params->header_name))
		luaL_error(L, "%s: trace_headers.header_name = '%s' is no name of a header field", function,
			params->header_name);
	free_names(params);
	lua_getfield(L, idx, "include_meta_names");
	if (lua_istable(L, -1)) {
		size_t count = lua_objlen(L, -1);

		params->include_meta = calloc(count + 1, sizeof *params->include_meta);
		if (params->include_meta == NULL)
			luaL_error(L, "%s: out of memory", function);
		for (size_t i = 0; i < count; i++) {
			lua_rawgeti(L, -1, (int)i + 1);
			if (lua_type(L, -1) != LUA_TSTRING)
				luaL_error(L, "%s: trace_headers.include_meta_names: a list of strings is expected",
					function);
			params->include_meta[i] = strdup(lua_tostring(L, -1));
			if (params->include_meta[i] == NULL)
				luaL_error(L, "%s: out of memory", function);
			lua_pop(L, 1);
		}
	}
	lua_pop(L, 1);
}

/* Merges key by key. The table is on top of the stack. */
static void
read_meta(lua_State *L, const char *function, struct tr_smtp_params *params)
{
	int idx = lua_gettop(L);

	lua_pushnil(L);
	while (lua_next(L, idx)) {
		struct tr_buf json = {0};
		const char *what = NULL;
		struct tr_str key;
		int err;

		if (lua_type(L, -2) != LUA_TSTRING)
			luaL_error(L, "%s: meta: the keys must be strings", function);
		key.data = lua_tolstring(L, -2, &key.len);
		err = tr_json_from_lua(L, -1, &json, &what);
		if (err == TR_OK)
			err = json.failed ? TR_ENOMEM
					  : tr_meta_set(&params->meta, key, (struct tr_str){json.data, json.len});
		tr_buf_free(&json);
		if (err != TR_OK)
			luaL_error(L, "%s: meta.%s: %s", function, key.data, what != NULL ? what : tr_err_text(err));
		lua_pop(L, 1);
	}
}

#define COMMON_KEYS                                                                                                    \
	{"hostname", 's', false}, {"banner", 's', false}, {"relay_hosts", 't', false}, {"batch_handling", 's', false}, \
		{"tls_certificate", '*', false}, {"tls_private_key", '*', false},                                      \
		{"tls_required_client_ca", '*', false}, {"deferred_spool", 'b', false},                                \
		{"deferred_queue", 'b', false}, {"allow_xclient", 'b', false}, {"require_proxy_protocol", 'b', false}, \
		{"trace_headers", 't', false}, {"client_timeout", 'd', false},                                         \
		{"data_processing_timeout", 'd', false}, {"max_messages_per_connection", 'i', false},                  \
		{"max_recipients_per_message", 'i', false}, {"max_message_size", 'i', false},                          \
		{"data_buffer_size", 'i', false}, {"invalid_line_endings", 's', false},                                \
		{"line_length_hard_limit", 'i', false}, {"meta", 't', false}, {"peer", 't', false},                    \
	{                                                                                                              \
		"via", 't', false                                                                                      \
	}

static bool
given(lua_State *L, int idx, const char *key)
{
	bool there;

	lua_getfield(L, idx, key);
	there = !lua_isnil(L, -1);
	lua_pop(L, 1);
	return there;
}

static uint32_t
settings_given(lua_State *L, int idx)
{
	static const struct {
		const char *key;
		uint32_t bit;
	} settings[] = {
		{"hostname", TR_SMTP_HOSTNAME},
		{"banner", TR_SMTP_BANNER},
		{"relay_hosts", TR_SMTP_RELAY_HOSTS},
		{"batch_handling", TR_SMTP_BATCH_HANDLING},
		{"trace_headers", TR_SMTP_TRACE_HEADERS},
		{"client_timeout", TR_SMTP_CLIENT_TIMEOUT},
		{"data_processing_timeout", TR_SMTP_PROCESSING_TIMEOUT},
		{"max_messages_per_connection", TR_SMTP_MAX_MESSAGES},
		{"max_recipients_per_message", TR_SMTP_MAX_RECIPIENTS},
		{"max_message_size", TR_SMTP_MAX_SIZE},
		{"data_buffer_size", TR_SMTP_BUFFER_SIZE},
		{"invalid_line_endings", TR_SMTP_LINE_ENDS},
		{"line_length_hard_limit", TR_SMTP_LINE_LIMIT},
	};
	uint32_t set = 0;

	for (size_t i = 0; i < TR_COUNT(settings); i++)
		set |= given(L, idx, settings[i].key) ? settings[i].bit : 0;
	return set;
}

static void read_settings(lua_State *L, int idx, const char *function, struct tr_smtp_params *params, int depth);

/* t[key]: CIDR -> table of settings. */
static void
read_blocks(lua_State *L, int idx, const char *function, const char *key, struct tr_smtp_params *params, int depth)
{
	static const struct tr_key keys[] = {COMMON_KEYS};

	lua_getfield(L, idx, key);
	if (lua_isnil(L, -1)) {
		lua_pop(L, 1);
		return;
	}
	if (depth == MAX_DEPTH)
		luaL_error(L, "%s: %s: at most %d tables may stand in one another", function, key, MAX_DEPTH);
	luaL_checkstack(L, 10, function);
	for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1)) {
		struct tr_smtp_block *block;
		struct tr_str text = {NULL, 0};
		struct tr_cidr cidr;
		char hint[64] = "";

		if (lua_type(L, -2) == LUA_TSTRING)
			text.data = lua_tolstring(L, -2, &text.len);
		if (text.data == NULL || tr_cidr_parse(text, &cidr, hint) != TR_OK)
			luaL_error(L, "%s: %s['%s']: an address or a CIDR block is expected as the key%s%s%s", function,
				key, text.data != NULL ? text.data : luaL_typename(L, -2),
				hint[0] != '\0' ? ": host bits are set, '" : "", hint,
				hint[0] != '\0' ? "' is meant?" : "");
		if (!lua_istable(L, -1))
			luaL_error(L, "%s: %s['%s']: a table of settings is expected, got %s", function, key, text.data,
				luaL_typename(L, -1));
		tr_check_options(L, lua_gettop(L), function, keys, TR_COUNT(keys));
		refuse_unsupported(L, lua_gettop(L), function);
		block = calloc(1, sizeof *block);
		if (block == NULL || (block->params = tr_smtp_params_new()) == NULL) {
			free(block);
			luaL_error(L, "%s: out of memory", function);
			return;
		}
		block->cidr = cidr;
		block->via = key[0] == 'v';
		block->next = params->blocks;
		params->blocks = block; /* owned: what follows may raise */
		block->params->set = settings_given(L, lua_gettop(L));
		read_settings(L, lua_gettop(L), function, block->params, depth + 1);
	}
	lua_pop(L, 1);
}

static void
read_settings(lua_State *L, int idx, const char *function, struct tr_smtp_params *params, int depth)
{
	static const char *const batches[] = {"BifurcateAlways", "BatchByDomain", NULL};
	static const char *const ends[] = {"Deny", "Allow", "Fix", NULL}; /* enum tr_smtp_line_ends */

	read_string(L, idx, function, "hostname", &params->hostname);
	read_string(L, idx, function, "banner", &params->banner);
	read_cidrs(L, idx, function, "relay_hosts", &params->relay_hosts);
	params->by_domain = read_choice(L, idx, function, "batch_handling", batches, params->by_domain) == 1;
	params->line_ends = (enum tr_smtp_line_ends)read_choice(
		L, idx, function, "invalid_line_endings", ends, (int)params->line_ends);
	params->client_timeout_ns = tr_opt_duration_ns(L, idx, function, "client_timeout", params->client_timeout_ns);
	params->data_processing_timeout_ns =
		tr_opt_duration_ns(L, idx, function, "data_processing_timeout", params->data_processing_timeout_ns);
	if (params->client_timeout_ns == 0 || params->data_processing_timeout_ns == 0)
		luaL_error(L, "%s: client_timeout and data_processing_timeout must be more than 0", function);
	params->max_messages_per_connection = (uint64_t)read_limit(
		L, idx, function, "max_messages_per_connection", 1, (int64_t)params->max_messages_per_connection);
	params->max_recipients_per_message = (uint64_t)read_limit(
		L, idx, function, "max_recipients_per_message", 1, (int64_t)params->max_recipients_per_message);
	params->max_message_size =
		(uint64_t)read_limit(L, idx, function, "max_message_size", 1, (int64_t)params->max_message_size);
	params->data_buffer_size =
		(size_t)read_limit(L, idx, function, "data_buffer_size", 1, (int64_t)params->data_buffer_size);
	params->line_limit =
		(size_t)read_limit(L, idx, function, "line_length_hard_limit", 64, (int64_t)params->line_limit);
	lua_getfield(L, idx, "trace_headers");
	if (!lua_isnil(L, -1))
		read_trace_headers(L, function, params);
	lua_pop(L, 1);
	lua_getfield(L, idx, "meta");
	if (!lua_isnil(L, -1))
		read_meta(L, function, params);
	lua_pop(L, 1);
	read_blocks(L, idx, function, "peer", params, depth);
	read_blocks(L, idx, function, "via", params, depth);
}

struct tr_smtp_params *
tr_smtp_params_check(lua_State *L, int idx, const char *function, const struct tr_smtp_params *base,
	struct tr_smtp_listen_options *listen)
{
	static const struct tr_key keys[] = {{"listen", 's', false}, {"max_connections", 'i', false}, COMMON_KEYS};
	size_t top_keys = listen != NULL ? 0 : 2;
	struct tr_smtp_params *params;

	luaL_checktype(L, idx, LUA_TTABLE);
	tr_check_options(L, idx, function, keys + top_keys, TR_COUNT(keys) - top_keys);
	refuse_unsupported(L, idx, function);
	params = push_guard(L, function, base);
	if (listen != NULL) {
		const char *at = tr_opt_string(L, idx, "listen", "127.0.0.1:2025", NULL);

		if (at[0] == '/' || tr_sockaddr_parse(tr_str(at), 0, &listen->listen) != TR_OK)
			luaL_error(
				L, "%s: listen = '%s': an address such as '127.0.0.1:2525' is expected", function, at);
		listen->max_connections =
			(uint32_t)tr_min_i64(read_limit(L, idx, function, "max_connections", 1, 32768), UINT32_MAX);
	}
	read_settings(L, idx, function, params, 0);
	return params;
}

/* --- listener domains
 * ------------------------------------------------------------------------------------------------------ */

static int
domain_gc(lua_State *L)
{
	struct tr_smtp_domain *domain = luaL_checkudata(L, 1, DOMAIN_TYPE);

	tr_cidr_list_fini(&domain->relay_from);
	return 0;
}

/* The options as given, with defaults, are the environment of the object. */
static int
domain_index(lua_State *L)
{
	luaL_checkudata(L, 1, DOMAIN_TYPE);
	lua_getfenv(L, 1);
	lua_pushvalue(L, 2);
	lua_rawget(L, -2);
	return 1;
}

static void
check_report_mode(lua_State *L, const char *function, const char *key)
{
	const char *text;

	lua_getfield(L, 1, key);
	text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
	if (lua_isnil(L, -1) || (lua_isboolean(L, -1) && !lua_toboolean(L, -1)) ||
		(text != NULL && strcmp(text, "Ignore") == 0)) {
		lua_pop(L, 1);
		return;
	}
	if (lua_isboolean(L, -1) ||
		(text != NULL && (strcmp(text, "LogThenRelay") == 0 || strcmp(text, "LogThenDrop") == 0)))
		luaL_error(L, "%s: %s is not supported by Tailrace yet: only 'Ignore' or false", function, key);
	luaL_error(L, "%s: %s: 'Ignore', 'LogThenRelay', 'LogThenDrop' or a boolean is expected", function, key);
}

int
tr_l_make_listener_domain(lua_State *L)
{
	static const char *const function = "kumo.make_listener_domain";
	static const struct tr_key keys[] = {
		{"relay_to", 'b', false},
		{"relay_from", 't', false},
		{"log_oob", '*', false},
		{"log_arf", '*', false},
		{"ttl", 'd', false},
	};
	static const luaL_Reg meta[] = {{"__gc", domain_gc}, {"__index", domain_index}, {NULL, NULL}};
	struct tr_smtp_domain *domain;

	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	tr_check_options(L, 1, function, keys, TR_COUNT(keys));
	check_report_mode(L, function, "log_oob");
	check_report_mode(L, function, "log_arf");
	domain = lua_newuserdata(L, sizeof *domain);
	memset(domain, 0, sizeof *domain);
	tr_metatable(L, DOMAIN_TYPE, meta, NULL);
	lua_setmetatable(L, -2);
	domain->relay_to = tr_opt_bool(L, 1, "relay_to", false);
	read_cidrs(L, 1, function, "relay_from", &domain->relay_from);
	lua_createtable(L, 0, 4);
	lua_pushboolean(L, domain->relay_to);
	lua_setfield(L, -2, "relay_to");
	lua_getfield(L, 1, "relay_from");
	if (lua_isnil(L, -1)) {
		lua_pop(L, 1);
		lua_newtable(L);
	}
	lua_setfield(L, -2, "relay_from");
	lua_pushliteral(L, "Ignore");
	lua_setfield(L, -2, "log_oob");
	lua_pushliteral(L, "Ignore");
	lua_setfield(L, -2, "log_arf");
	lua_setfenv(L, -2);
	return 1;
}

const struct tr_smtp_domain *
tr_smtp_domain_test(lua_State *L, int idx)
{
	const struct tr_smtp_domain *domain = lua_touserdata(L, idx);

	if (domain == NULL || lua_islightuserdata(L, idx) || !lua_getmetatable(L, idx))
		return NULL;
	luaL_getmetatable(L, DOMAIN_TYPE);
	if (!lua_rawequal(L, -1, -2))
		domain = NULL;
	lua_pop(L, 2);
	return domain;
}
