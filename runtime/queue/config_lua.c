#include "queue/config_lua.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/options.h"
#include "shaping/spec.h"

#define QUEUE_TYPE "tr.queue_config"
#define PATH_TYPE "tr.path_config"

/* A configuration and, in its environment table, the readable view of it [1] and what was given [2]. */
enum { ENV_VIEW = 1, ENV_GIVEN };
struct box {
	void *config;
};

static const struct tr_key queue_keys[] = {
	{"retry_interval", 'd', false},
	{"max_retry_interval", 'd', false},
	{"max_age", 'd', false},
	{"egress_pool", 's', false},
	{"max_message_rate", 's', false},
	{"protocol", 't', false},
	{"reap_interval", 'd', false},
	{"refresh_interval", 'd', false},
	{"refresh_strategy", 's', false},
	{"strategy", 's', false},
	{"timerwheel_tick_interval", 'd', false},
	{"provider_name", 's', false},
	{"shrink_policy", 't', false},
};

/* What an option of make_egress_path does here: NOW is acted on, LATER is checked, kept in the view and named by a
 * warning. */
enum when { NOW, LATER, IGNORED };

static const struct path_key {
	struct tr_key key;
	enum when when;
} path_keys[] = {
	{{"connection_limit", '*', false}, NOW},
	{{"additional_connection_limits", 't', false}, LATER},
	{{"max_connection_rate", 's', false}, LATER},
	{{"max_message_rate", 's', false}, LATER},
	{{"additional_message_rate_throttles", 't', false}, LATER},
	{{"source_selection_rate", 's', false}, LATER},
	{{"additional_source_selection_rates", 't', false}, LATER},
	{{"max_ready", 'i', false}, NOW},
	{{"max_deliveries_per_connection", 'i', false}, NOW},
	{{"max_recipients_per_batch", 'i', false}, NOW},
	{{"consecutive_connection_failures_before_delay", 'i', false}, NOW},
	{{"idle_timeout", 'd', false}, NOW},
	{{"connect_timeout", 'd', false}, NOW},
	{{"banner_timeout", 'd', false}, NOW},
	{{"auth_timeout", 'd', false}, NOW},
	{{"ehlo_timeout", 'd', false}, NOW},
	{{"mail_from_timeout", 'd', false}, NOW},
	{{"rcpt_to_timeout", 'd', false}, NOW},
	{{"data_timeout", 'd', false}, NOW},
	{{"data_dot_timeout", 'd', false}, NOW},
	{{"rset_timeout", 'd', false}, NOW},
	{{"starttls_timeout", 'd', false}, NOW},
	{{"system_shutdown_timeout", 'd', false}, NOW},
	{{"dispatcher_progress_watchdog_timeout", 'd', false}, NOW},
	{{"refresh_strategy", 's', false}, NOW},
	{{"refresh_interval", 'd', false}, NOW},
	{{"provider_name", 's', false}, NOW},
	{{"dispatcher_wakeup_strategy", 's', false}, IGNORED},
	{{"maintainer_wakeup_strategy", 's', false}, IGNORED},
	{{"aggressive_connection_opening", 'b', false}, IGNORED},
	{{"readyq_pool_name", 's', false}, IGNORED},
	{{"low_memory_reduction_policy", 's', false}, IGNORED},
	{{"no_memory_reduction_policy", 's', false}, IGNORED},
	{{"reconnect_strategy", 's', false}, LATER},
	{{"try_next_host_on_transport_error", 'b', false}, LATER},
	{{"ignore_8bit_checks", 'b', false}, NOW},
	{{"enable_tls", 's', false}, LATER},
	{{"enable_mta_sts", 'b', false}, LATER},
	{{"enable_dane", 'b', false}, LATER},
	{{"enable_pipelining", 'b', false}, NOW},
	{{"enable_rset", 'b', false}, NOW},
	{{"tls_prefer_openssl", 'b', false}, IGNORED},
	{{"tls_certificate", '*', false}, LATER},
	{{"tls_private_key", '*', false}, LATER},
	{{"openssl_cipher_list", 's', false}, LATER},
	{{"openssl_cipher_suites", 's', false}, LATER},
	{{"openssl_options", 's', false}, LATER},
	{{"rustls_cipher_suites", 't', false}, IGNORED},
	{{"remember_broken_tls", 'd', false}, LATER},
	{{"opportunistic_tls_reconnect_on_failed_handshake", 'b', false}, LATER},
	{{"use_lmtp", 'b', false}, NOW},
	{{"smtp_port", 'i', false}, NOW},
	{{"smtp_auth_plain_username", 's', false}, LATER},
	{{"smtp_auth_plain_password", '*', false}, LATER},
	{{"allow_smtp_auth_plain_without_tls", 'b', false}, LATER},
	{{"allow_smtp_auth_plain_without_valid_certificate", 'b', false}, LATER},
	{{"ehlo_domain", 's', false}, NOW},
	{{"ip_lookup_strategy", 's', false}, LATER},
	{{"prohibited_hosts", 't', false}, LATER},
	{{"skip_hosts", 't', false}, LATER},
};

static void
warn_once(const char *function, const char *key)
{
	static _Atomic uint64_t warned[64]; /* by hash: a lost warning after a collision is harmless */
	uint64_t hash = tr_hash(key, strlen(key));
	_Atomic uint64_t *word = &warned[(hash >> 6) % TR_COUNT(warned)];
	uint64_t bit = UINT64_C(1) << (hash & 63);

	if ((atomic_fetch_or(word, bit) & bit) == 0)
		tr_log(TR_LEVEL_WARN, "config", "%s: option '%s' is checked but not acted on yet", function, key);
}

/* One of `names` (NULL-terminated); raises with the list otherwise. Returns its index, or def when the key is
 * absent. */
static int
opt_enum(lua_State *L, int idx, const char *function, const char *key, const char *const *names, int def)
{
	const char *text = tr_opt_string(L, idx, key, NULL, NULL);
	luaL_Buffer list;

	if (text == NULL)
		return def;
	for (int i = 0; names[i] != NULL; i++) {
		if (strcmp(text, names[i]) == 0)
			return i;
	}
	luaL_buffinit(L, &list);
	for (int i = 0; names[i] != NULL; i++) {
		if (i > 0)
			luaL_addstring(&list, ", ");
		luaL_addstring(&list, names[i]);
	}
	luaL_pushresult(&list);
	return luaL_error(L, "%s: %s = '%s': expected one of %s", function, key, text, lua_tostring(L, -1));
}

static void
check_rate(lua_State *L, int idx, const char *function, const char *key)
{
	struct tr_rate_spec spec;
	const char *why = NULL;
	size_t len;
	const char *text = tr_opt_string(L, idx, key, NULL, &len);

	if (text != NULL && tr_rate_spec_parse((struct tr_str){text, len}, &spec, &why) != TR_OK)
		luaL_error(L, "%s: %s = '%s': %s", function, key, text, why);
}

/* --- views ---------------------------------------------------------------------------------- */

static void
set_duration(lua_State *L, const char *key, int64_t ns)
{
	char text[64];
	size_t len = tr_duration_format(ns, text);

	lua_pushlstring(L, text, len);
	lua_setfield(L, -2, key);
}

/* The view: what was given, durations as text. Pushed. */
static void
push_view(lua_State *L, int idx, const struct tr_key *keys, size_t count, size_t stride)
{
	lua_newtable(L);
	for (size_t i = 0; i < count; i++) {
		const struct tr_key *key = (const struct tr_key *)((const char *)keys + i * stride);
		lua_getfield(L, idx, key->name);
		if (lua_isnil(L, -1)) {
			lua_pop(L, 1);
			continue;
		}
		if (key->type == 'd') {
			int64_t ns = tr_check_duration_ns(L, -1, "view", key->name);
			lua_pop(L, 1);
			set_duration(L, key->name, ns);
		} else {
			lua_setfield(L, -2, key->name);
		}
	}
}

static bool
is_absent(lua_State *L, const char *key)
{
	bool absent;

	lua_getfield(L, -1, key);
	absent = lua_isnil(L, -1);
	lua_pop(L, 1);
	return absent;
}

static void
set_default_duration(lua_State *L, const char *key, int64_t ns)
{
	if (is_absent(L, key))
		set_duration(L, key, ns);
}

static void
set_default_text(lua_State *L, const char *key, const char *text)
{
	if (!is_absent(L, key))
		return;
	lua_pushstring(L, text);
	lua_setfield(L, -2, key);
}

static void
set_default_number(lua_State *L, const char *key, uint32_t value)
{
	if (!is_absent(L, key))
		return;
	lua_pushnumber(L, value);
	lua_setfield(L, -2, key);
}

static void
set_default_bool(lua_State *L, const char *key, bool value)
{
	if (!is_absent(L, key))
		return;
	lua_pushboolean(L, value);
	lua_setfield(L, -2, key);
}

/* The view on the stack becomes part of the environment of the box at 2; options are at 1. */
static void
set_environment(lua_State *L, const struct tr_key *keys, size_t count, size_t stride)
{
	lua_createtable(L, 2, 0);
	lua_insert(L, -2);
	lua_rawseti(L, -2, ENV_VIEW);
	push_view(L, 1, keys, count, stride);
	lua_rawseti(L, -2, ENV_GIVEN);
	lua_setfenv(L, 2);
	lua_settop(L, 2);
}

static struct box *
new_box(lua_State *L, const char *type)
{
	struct box *box = lua_newuserdata(L, sizeof *box);

	box->config = NULL;
	luaL_getmetatable(L, type);
	lua_setmetatable(L, -2);
	return box;
}

int
l_make_queue_config(lua_State *L)
{
	static const char *const strategies[] = {"Ttl", "Epoch", NULL};
	static const char *const wheels[] = {
		"TimerWheel", "SkipList", "SingletonTimerWheel", "SingletonTimerWheelV2", NULL};
	const char *function = "kumo.make_queue_config";
	struct tr_queue_config *config;
	struct box *box;

	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	tr_check_options(L, 1, function, queue_keys, TR_COUNT(queue_keys));
	box = new_box(L, QUEUE_TYPE); /* owns the configuration from here, so raising leaks nothing */
	config = tr_queue_config_new();
	if (config == NULL)
		return luaL_error(L, "out of memory");
	box->config = config;
	config->retry_interval_ns = tr_opt_duration_ns(L, 1, function, "retry_interval", config->retry_interval_ns);
	config->max_retry_interval_ns =
		tr_opt_duration_ns(L, 1, function, "max_retry_interval", config->max_retry_interval_ns);
	config->max_age_ns = tr_opt_duration_ns(L, 1, function, "max_age", config->max_age_ns);
	config->reap_interval_ns = tr_opt_duration_ns(L, 1, function, "reap_interval", config->reap_interval_ns);
	config->refresh_interval_ns =
		tr_opt_duration_ns(L, 1, function, "refresh_interval", config->refresh_interval_ns);
	if (config->retry_interval_ns < TR_NS_PER_MS)
		return luaL_error(L, "%s: retry_interval must be at least 1ms", function);
	config->refresh_on_epoch = opt_enum(L, 1, function, "refresh_strategy", strategies, 0) == 1;
	opt_enum(L, 1, function, "strategy", wheels, 2); /* checked: there is one wheel here, at 1 ms */
	config->egress_pool = config_copy_string(L, 1, "egress_pool");
	config->provider = config_copy_string(L, 1, "provider_name");
	check_rate(L, 1, function, "max_message_rate");
	lua_getfield(L, 1, "max_message_rate");
	if (!lua_isnil(L, -1))
		warn_once(function, "max_message_rate");
	lua_pop(L, 1);
	config_read_protocol(L, 1, config);

	push_view(L, 1, queue_keys, TR_COUNT(queue_keys), sizeof queue_keys[0]);
	set_default_duration(L, "retry_interval", config->retry_interval_ns);
	set_default_duration(L, "max_age", config->max_age_ns);
	set_default_duration(L, "reap_interval", config->reap_interval_ns);
	set_default_duration(L, "refresh_interval", config->refresh_interval_ns);
	set_default_text(L, "refresh_strategy", strategies[0]);
	set_default_text(L, "strategy", wheels[2]);
	if (is_absent(L, "protocol")) { /* { smtp = {} } */
		lua_createtable(L, 0, 1);
		lua_newtable(L);
		lua_setfield(L, -2, "smtp");
		lua_setfield(L, -2, "protocol");
	}
	set_environment(L, queue_keys, TR_COUNT(queue_keys), sizeof queue_keys[0]);
	return 1;
}

static uint32_t
read_connection_limit(lua_State *L, int idx, const char *function, uint32_t def)
{
	struct tr_limit_spec spec;
	size_t len;
	const char *text;

	lua_getfield(L, idx, "connection_limit");
	if (lua_istable(L, -1)) { /* { limit =, force_local = } */
		lua_getfield(L, -1, "limit");
		lua_replace(L, -2);
	}
	if (lua_isnil(L, -1)) {
		lua_pop(L, 1);
		return def;
	}
	if (lua_type(L, -1) != LUA_TSTRING && lua_type(L, -1) != LUA_TNUMBER)
		luaL_error(L, "%s: connection_limit: a number or a text such as \"local:10\" is expected, got %s",
			function, luaL_typename(L, -1));
	lua_pushvalue(L, -1); /* a copy: lua_tolstring would change the caller's number */
	text = lua_tolstring(L, -1, &len);
	if (tr_limit_spec_parse((struct tr_str){text, len}, &spec) != TR_OK || spec.limit > UINT32_MAX)
		luaL_error(L,
			"%s: connection_limit = '%s': a whole number of at least 1 is expected, as in 10 or "
			"\"local:10\"",
			function, text);
	lua_pop(L, 2);
	return (uint32_t)spec.limit;
}

static void
read_path(lua_State *L, int idx, struct tr_path_config *config)
{
	static const char *const strategies[] = {"Ttl", "Epoch", NULL};
	const char *function = "kumo.make_egress_path";

	config->connection_limit = read_connection_limit(L, idx, function, config->connection_limit);
	config->max_ready = config_opt_u32(L, idx, function, "max_ready", config->max_ready, 1);
	config->max_deliveries_per_connection = config_opt_u32(
		L, idx, function, "max_deliveries_per_connection", config->max_deliveries_per_connection, 1);
	config->max_recipients_per_batch =
		config_opt_u32(L, idx, function, "max_recipients_per_batch", config->max_recipients_per_batch, 1);
	config->consecutive_failures_before_delay = config_opt_u32(L, idx, function,
		"consecutive_connection_failures_before_delay", config->consecutive_failures_before_delay, 0);
	struct {
		const char *key;
		int64_t *ns;
	} durations[] = {
		{"idle_timeout", &config->idle_timeout_ns},
		{"connect_timeout", &config->connect_timeout_ns},
		{"banner_timeout", &config->banner_timeout_ns},
		{"auth_timeout", &config->auth_timeout_ns},
		{"ehlo_timeout", &config->ehlo_timeout_ns},
		{"mail_from_timeout", &config->mail_from_timeout_ns},
		{"rcpt_to_timeout", &config->rcpt_to_timeout_ns},
		{"data_timeout", &config->data_timeout_ns},
		{"data_dot_timeout", &config->data_dot_timeout_ns},
		{"rset_timeout", &config->rset_timeout_ns},
		{"starttls_timeout", &config->starttls_timeout_ns},
		{"system_shutdown_timeout", &config->system_shutdown_timeout_ns},
		{"dispatcher_progress_watchdog_timeout", &config->watchdog_timeout_ns},
		{"refresh_interval", &config->refresh_interval_ns},
	};
	for (size_t i = 0; i < TR_COUNT(durations); i++)
		*durations[i].ns = tr_opt_duration_ns(L, idx, function, durations[i].key, *durations[i].ns);
	config->refresh_on_epoch =
		opt_enum(L, idx, function, "refresh_strategy", strategies, config->refresh_on_epoch) == 1;
	if (config->provider == NULL)
		config->provider = config_copy_string(L, idx, "provider_name");
	if (config->ehlo_domain == NULL)
		config->ehlo_domain = config_copy_string(L, idx, "ehlo_domain");
	int64_t port = tr_opt_int(L, idx, "smtp_port", config->smtp_port);
	if (port < 1 || port > 65535)
		luaL_error(L, "%s: smtp_port: a port from 1 to 65535 is expected", function);
	config->smtp_port = (uint16_t)port;
	config->enable_pipelining = tr_opt_bool(L, idx, "enable_pipelining", config->enable_pipelining);
	config->enable_rset = tr_opt_bool(L, idx, "enable_rset", config->enable_rset);
	config->use_lmtp = tr_opt_bool(L, idx, "use_lmtp", config->use_lmtp);
	config->ignore_8bit_checks = tr_opt_bool(L, idx, "ignore_8bit_checks", config->ignore_8bit_checks);
}

/* What was not given, in the view on the stack. */
static void
path_defaults(lua_State *L, const struct tr_path_config *config)
{
	set_default_number(L, "connection_limit", config->connection_limit);
	set_default_number(L, "max_ready", config->max_ready);
	set_default_number(L, "max_deliveries_per_connection", config->max_deliveries_per_connection);
	set_default_number(L, "max_recipients_per_batch", config->max_recipients_per_batch);
	set_default_number(
		L, "consecutive_connection_failures_before_delay", config->consecutive_failures_before_delay);
	set_default_number(L, "smtp_port", config->smtp_port);
	set_default_duration(L, "idle_timeout", config->idle_timeout_ns);
	set_default_duration(L, "connect_timeout", config->connect_timeout_ns);
	set_default_duration(L, "banner_timeout", config->banner_timeout_ns);
	set_default_duration(L, "auth_timeout", config->auth_timeout_ns);
	set_default_duration(L, "ehlo_timeout", config->ehlo_timeout_ns);
	set_default_duration(L, "mail_from_timeout", config->mail_from_timeout_ns);
	set_default_duration(L, "rcpt_to_timeout", config->rcpt_to_timeout_ns);
	set_default_duration(L, "data_timeout", config->data_timeout_ns);
	set_default_duration(L, "data_dot_timeout", config->data_dot_timeout_ns);
	set_default_duration(L, "rset_timeout", config->rset_timeout_ns);
	set_default_duration(L, "starttls_timeout", config->starttls_timeout_ns);
	set_default_duration(L, "refresh_interval", config->refresh_interval_ns);
	set_default_text(L, "refresh_strategy", "Ttl");
	set_default_bool(L, "enable_pipelining", config->enable_pipelining);
	set_default_bool(L, "enable_rset", config->enable_rset);
	set_default_bool(L, "use_lmtp", config->use_lmtp);
	set_default_bool(L, "ignore_8bit_checks", config->ignore_8bit_checks);
}

int
l_make_egress_path(lua_State *L)
{
	static const char *const tls[] = {
		"Opportunistic", "OpportunisticInsecure", "Required", "RequiredInsecure", "Disabled", NULL};
	static const char *const rates[] = {"max_connection_rate", "max_message_rate", "source_selection_rate"};
	const char *function = "kumo.make_egress_path";
	struct tr_key keys[TR_COUNT(path_keys)];
	struct box *box;

	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	for (size_t i = 0; i < TR_COUNT(path_keys); i++)
		keys[i] = path_keys[i].key;
	tr_check_options(L, 1, function, keys, TR_COUNT(keys));
	box = new_box(L, PATH_TYPE);
	box->config = tr_path_config_new(false);
	if (box->config == NULL)
		return luaL_error(L, "out of memory");
	read_path(L, 1, box->config);
	for (size_t i = 0; i < TR_COUNT(rates); i++)
		check_rate(L, 1, function, rates[i]);
	int mode = opt_enum(L, 1, function, "enable_tls", tls, 0);
	if (mode == 2 || mode == 3) /* silently sending in clear text would be the worst way to not support it */
		return luaL_error(L,
			"%s: enable_tls = '%s' cannot be honoured: TLS towards next hops is not supported yet",
			function, tls[mode]);
	for (size_t i = 0; i < TR_COUNT(path_keys); i++) {
		lua_getfield(L, 1, path_keys[i].key.name);
		if (!lua_isnil(L, -1) && path_keys[i].when == LATER && strcmp(path_keys[i].key.name, "enable_tls") != 0)
			warn_once(function, path_keys[i].key.name);
		lua_pop(L, 1);
	}
	push_view(L, 1, &path_keys[0].key, TR_COUNT(path_keys), sizeof path_keys[0]);
	path_defaults(L, box->config);
	set_default_text(L, "enable_tls", tls[0]);
	set_environment(L, &path_keys[0].key, TR_COUNT(path_keys), sizeof path_keys[0]);
	return 1;
}

struct tr_queue_config *
tr_queue_config_at(lua_State *L, int idx)
{
	struct box *box = luaL_testudata(L, idx, QUEUE_TYPE);

	return box ? box->config : NULL;
}

struct tr_path_config *
tr_path_config_at(lua_State *L, int idx)
{
	struct box *box = luaL_testudata(L, idx, PATH_TYPE);

	return box ? box->config : NULL;
}

struct tr_path_config *
tr_path_config_for_hook(lua_State *L, int idx)
{
	struct tr_path_config *config = tr_path_config_new(true);

	if (config == NULL)
		return NULL;
	lua_getfenv(L, idx);
	lua_rawgeti(L, -1, ENV_GIVEN); /* checked already: reading it again cannot raise */
	read_path(L, lua_gettop(L), config);
	lua_pop(L, 2);
	return config;
}

int
l_config_kind(lua_State *L)
{
	if (tr_queue_config_at(L, 1) != NULL)
		lua_pushliteral(L, "queue");
	else if (tr_path_config_at(L, 1) != NULL)
		lua_pushliteral(L, "path");
	else
		lua_pushnil(L);
	return 1;
}

/* --- metatables -------------------------------------------------------------------------------- */

static void
push_env_view(lua_State *L)
{
	lua_getfenv(L, 1);
	lua_rawgeti(L, -1, ENV_VIEW);
}

static int
l_index(lua_State *L)
{
	push_env_view(L);
	lua_pushvalue(L, 2);
	lua_rawget(L, -2);
	return 1;
}

static int
l_newindex(lua_State *L)
{
	return luaL_error(L, "a configuration object is read-only: set '%s' in the table given to kumo.make_*",
		lua_tostring(L, 2));
}

static int
l_pairs(lua_State *L)
{
	lua_getglobal(L, "next");
	push_env_view(L);
	lua_remove(L, -2);
	lua_pushnil(L);
	return 3;
}

static int
l_len(lua_State *L)
{
	lua_Integer n = 0;

	push_env_view(L);
	for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1))
		n++;
	lua_pushinteger(L, n);
	return 1;
}

static int
l_queue_gc(lua_State *L)
{
	struct box *box = lua_touserdata(L, 1);

	tr_queue_config_unref(box->config);
	box->config = NULL;
	return 0;
}

static int
l_path_gc(lua_State *L)
{
	struct box *box = lua_touserdata(L, 1);

	tr_path_config_unref(box->config);
	box->config = NULL;
	return 0;
}

void
tr_queue_config_register(lua_State *L)
{
	static const luaL_Reg shared[] = {
		{"__index", l_index},
		{"__newindex", l_newindex},
		{"__pairs", l_pairs},
		{"__len", l_len},
		{NULL, NULL},
	};

	luaL_newmetatable(L, QUEUE_TYPE);
	luaL_setfuncs(L, shared, 0);
	lua_pushcfunction(L, l_queue_gc);
	lua_setfield(L, -2, "__gc");
	luaL_newmetatable(L, PATH_TYPE);
	luaL_setfuncs(L, shared, 0);
	lua_pushcfunction(L, l_path_gc);
	lua_setfield(L, -2, "__gc");
	lua_pop(L, 2);
}
