/* kumo.make_egress_path. Contract: egress-path.md section 3. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "queue/config_view_lua.h"
#include "queue/path_tls_lua.h"

#define FUNCTION "kumo.make_egress_path"

/* What an option of make_egress_path does here: NOW is acted on; LATER and NEVER are checked, kept in the view and
 * named by a warning: what is not there yet, and what there is nothing for that it could tune. */
enum when { NOW, LATER, NEVER };

static const struct path_key {
	struct tr_key key;
	enum when when;
} path_keys[] = {
	{{"connection_limit", '*', false}, NOW},
	{{"gate_failures", 'i', false}, NOW}, /* the four of the gate are this runtime's own */
	{{"gate_backoff", 'd', false}, NOW},
	{{"gate_max_backoff", 'd', false}, NOW},
	{{"gate_max_retry_after", 'd', false}, NOW},
	{{"additional_connection_limits", 't', false}, NOW},
	{{"max_connection_rate", 's', false}, NOW},
	{{"max_message_rate", 's', false}, NOW},
	{{"additional_message_rate_throttles", 't', false}, NOW},
	{{"source_selection_rate", 's', false}, NOW},
	{{"additional_source_selection_rates", 't', false}, NOW},
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
	{{"dispatcher_wakeup_strategy", 's', false}, NEVER},
	{{"maintainer_wakeup_strategy", 's', false}, NEVER},
	{{"aggressive_connection_opening", 'b', false}, NEVER},
	{{"readyq_pool_name", 's', false}, NEVER},
	{{"low_memory_reduction_policy", 's', false}, NEVER},
	{{"no_memory_reduction_policy", 's', false}, NEVER},
	{{"reconnect_strategy", 's', false}, NOW},
	{{"try_next_host_on_transport_error", 'b', false}, NOW},
	{{"ignore_8bit_checks", 'b', false}, NOW},
	{{"enable_tls", 's', false}, LATER},
	{{"enable_mta_sts", 'b', false}, LATER},
	{{"enable_dane", 'b', false}, LATER},
	{{"enable_pipelining", 'b', false}, NOW},
	{{"enable_rset", 'b', false}, NOW},
	{{"tls_prefer_openssl", 'b', false}, NEVER},
	{{"tls_certificate", '*', false}, LATER},
	{{"tls_private_key", '*', false}, LATER},
	{{"openssl_cipher_list", 's', false}, LATER},
	{{"openssl_cipher_suites", 's', false}, LATER},
	{{"openssl_options", 's', false}, LATER},
	{{"rustls_cipher_suites", 't', false}, NEVER},
	{{"remember_broken_tls", 'd', false}, LATER},
	{{"opportunistic_tls_reconnect_on_failed_handshake", 'b', false}, LATER},
	{{"use_lmtp", 'b', false}, NOW},
	{{"smtp_port", 'i', false}, NOW},
	{{"smtp_auth_plain_username", 's', false}, LATER},
	{{"smtp_auth_plain_password", '*', false}, LATER},
	{{"allow_smtp_auth_plain_without_tls", 'b', false}, LATER},
	{{"allow_smtp_auth_plain_without_valid_certificate", 'b', false}, LATER},
	{{"ehlo_domain", 's', false}, NOW},
	{{"ip_lookup_strategy", 's', false}, NOW},
	{{"prohibited_hosts", 't', false}, NOW},
	{{"skip_hosts", 't', false}, NOW},
};

/* Values of options that are a choice. */
static const char *const refresh_strategies[] = {"Ttl", "Epoch", NULL};
static const char *const tls_modes[] = {
	"Opportunistic", "OpportunisticInsecure", "Required", "RequiredInsecure", "Disabled", NULL};
#define TLS_DISABLED 4
static const char *const wakeups[] = {"Aggressive", "Relaxed", NULL};
static const char *const reductions[] = {"ShrinkDataAndMeta", "ShrinkData", "NoShrink", NULL};
static const char *const reconnects[] = {"ConnectNextHost", "ReconnectSameHost", "TerminateSession", NULL};
static const char *const ip_strategies[] = {
	"Ipv4AndIpv6", "Ipv4Only", "Ipv6Only", "Ipv6ThenIpv4", "Ipv4ThenIpv6", NULL};
static const struct {
	const char *key;
	const char *const *names;
} choices[] = {
	{"dispatcher_wakeup_strategy", wakeups},
	{"maintainer_wakeup_strategy", wakeups},
	{"low_memory_reduction_policy", reductions},
	{"no_memory_reduction_policy", reductions},
	{"ip_lookup_strategy", ip_strategies},
};

/* --- limits and rates --------------------------------------------------------------------------------------- */

static int
by_limit(const void *a, const void *b)
{
	const struct tr_named_limit *x = a, *y = b;

	return x->spec.limit != y->spec.limit ? (x->spec.limit < y->spec.limit ? -1 : 1) : strcmp(x->name, y->name);
}

static int
by_rate(const void *a, const void *b)
{
	const struct tr_named_rate *x = a, *y = b;
	double rx = (double)x->spec.quantity / (double)x->spec.period_ns;
	double ry = (double)y->spec.quantity / (double)y->spec.period_ns;

	return rx != ry ? (rx < ry ? -1 : 1) : strcmp(x->name, y->name);
}

/* Entries of the table on top of the stack, whose keys are checked; `key` is the option's name. */
static uint32_t
count_names(lua_State *L, const char *key)
{
	uint32_t count = 0;

	if (!lua_istable(L, -1))
		luaL_error(L, FUNCTION ": %s: a table of name = value is expected, got %s", key, luaL_typename(L, -1));
	for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1)) {
		const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;

		if (name == NULL || name[0] == '\0')
			luaL_error(L, FUNCTION ": %s: its keys are names, as in { ['example'] = ... }, got %s", key,
				name != NULL ? "an empty one" : luaL_typename(L, -2));
		if (strncmp(name, "kumomta.", 8) == 0)
			luaL_error(L,
				FUNCTION ": %s: names that begin with 'kumomta.' are reserved, take another than '%s'",
				key, name);
		count++;
	}
	return count;
}

static char *
copy_name(lua_State *L)
{
	char *copy = strdup(lua_tostring(L, -2));

	if (copy == NULL)
		luaL_error(L, "out of memory");
	return copy;
}

static void
read_limits(lua_State *L, int idx, struct tr_path_config *config)
{
	const char *key = "additional_connection_limits";
	uint32_t count;

	lua_getfield(L, idx, key);
	if (!lua_isnil(L, -1) && (count = count_names(L, key)) > 0) {
		config->limits = calloc(count, sizeof *config->limits);
		if (config->limits == NULL)
			luaL_error(L, "out of memory");
		for (lua_pushnil(L); lua_next(L, -2) != 0;) {
			const char *what = lua_pushfstring(L, "%s['%s']", key, lua_tostring(L, -2));

			lua_insert(L, -2); /* name, what, value */
			config_read_limit(L, FUNCTION, what, &config->limits[config->limit_count].spec);
			config->limits[config->limit_count].name = copy_name(L);
			config->limit_count++;
			lua_pop(L, 1); /* what */
		}
		qsort(config->limits, config->limit_count, sizeof *config->limits, by_limit);
	}
	lua_pop(L, 1);
}

static void
read_rates(lua_State *L, int idx, const char *key, struct tr_named_rate **rates, uint32_t *number)
{
	uint32_t count;

	lua_getfield(L, idx, key);
	if (!lua_isnil(L, -1) && (count = count_names(L, key)) > 0) {
		*rates = calloc(count, sizeof **rates);
		if (*rates == NULL)
			luaL_error(L, "out of memory");
		for (lua_pushnil(L); lua_next(L, -2) != 0;) {
			const char *what = lua_pushfstring(L, "%s['%s']", key, lua_tostring(L, -2));

			lua_insert(L, -2);
			config_read_rate(L, FUNCTION, what, &(*rates)[*number].spec);
			(*rates)[*number].name = copy_name(L);
			++*number;
			lua_pop(L, 1);
		}
		qsort(*rates, *number, sizeof **rates, by_rate);
	}
	lua_pop(L, 1);
}

/* --- blocks of addresses ------------------------------------------------------------------------------------ */

/* False: the option was not given. */
static bool
read_blocks(lua_State *L, int idx, const char *key, struct tr_cidr **blocks, uint32_t *number)
{
	uint32_t count;
	char hint[64];

	lua_getfield(L, idx, key);
	if (lua_isnil(L, -1)) {
		lua_pop(L, 1);
		return false;
	}
	if (!lua_istable(L, -1))
		luaL_error(L, FUNCTION ": %s: a list of addresses is expected, got %s", key, luaL_typename(L, -1));
	count = (uint32_t)lua_objlen(L, -1);
	free(*blocks);
	*number = 0;
	*blocks = calloc(count > 0 ? count : 1, sizeof **blocks);
	if (*blocks == NULL)
		luaL_error(L, "out of memory");
	for (uint32_t i = 0; i < count; i++) {
		struct tr_str text = {NULL, 0};

		lua_rawgeti(L, -1, (int)i + 1);
		if (lua_type(L, -1) == LUA_TSTRING)
			text.data = lua_tolstring(L, -1, &text.len);
		if (text.data == NULL || tr_cidr_parse(text, &(*blocks)[i], hint) != TR_OK)
			luaL_error(L,
				FUNCTION ": %s[%d]: an address or a block such as '10.0.0.0/8' is expected, got %s%s%s",
				key, (int)i + 1, text.data != NULL ? text.data : luaL_typename(L, -1),
				text.data != NULL && hint[0] != '\0' ? "; did you mean " : "",
				text.data != NULL ? hint : "");
		lua_pop(L, 1);
		*number = i + 1;
	}
	lua_pop(L, 1);
	return true;
}

static void
read_hosts(lua_State *L, int idx, struct tr_path_config *config)
{
	config->prohibited_given =
		read_blocks(L, idx, "prohibited_hosts", &config->prohibited_hosts, &config->prohibited_count);
	read_blocks(L, idx, "skip_hosts", &config->skip_hosts, &config->skip_count);
	config->ip_strategy =
		(uint8_t)config_opt_enum(L, idx, FUNCTION, "ip_lookup_strategy", ip_strategies, config->ip_strategy);
}

/* --- the options ---------------------------------------------------------------------------------------------- */

static void
read_gate(lua_State *L, int idx, struct tr_gate_rules *gate)
{
	gate->failures_to_close = config_opt_u32(L, idx, FUNCTION, "gate_failures", gate->failures_to_close, 0);
	gate->backoff_ns = tr_opt_duration_ns(L, idx, FUNCTION, "gate_backoff", gate->backoff_ns);
	gate->backoff_max_ns = tr_opt_duration_ns(L, idx, FUNCTION, "gate_max_backoff", gate->backoff_max_ns);
	gate->retry_after_max_ns =
		tr_opt_duration_ns(L, idx, FUNCTION, "gate_max_retry_after", gate->retry_after_max_ns);
	if (gate->backoff_ns < TR_NS_PER_MS)
		luaL_error(L, FUNCTION ": gate_backoff must be at least 1ms");
	if (gate->backoff_max_ns < gate->backoff_ns)
		luaL_error(L, FUNCTION ": gate_max_backoff must not be less than gate_backoff");
}

/* Into `config` with its defaults. */
static void
read_path(lua_State *L, int idx, struct tr_path_config *config)
{
	struct tr_limit_spec limit;

	lua_getfield(L, idx, "connection_limit");
	if (lua_isnil(L, -1)) {
		lua_pop(L, 1);
	} else {
		config_read_limit(L, FUNCTION, "connection_limit", &limit);
		config->connection_limit = (uint32_t)limit.limit;
		config->connection_limit_local = limit.local;
	}
	read_limits(L, idx, config);
	config_opt_rate(L, idx, FUNCTION, "max_connection_rate", &config->connection_rate);
	config_opt_rate(L, idx, FUNCTION, "max_message_rate", &config->message_rate);
	config_opt_rate(L, idx, FUNCTION, "source_selection_rate", &config->selection_rate);
	read_rates(L, idx, "additional_message_rate_throttles", &config->message_rates, &config->message_rate_count);
	read_rates(
		L, idx, "additional_source_selection_rates", &config->selection_rates, &config->selection_rate_count);
	read_gate(L, idx, &config->gate);
	config->max_ready = config_opt_u32(L, idx, FUNCTION, "max_ready", config->max_ready, 1);
	config->max_deliveries_per_connection = config_opt_u32(
		L, idx, FUNCTION, "max_deliveries_per_connection", config->max_deliveries_per_connection, 1);
	config->max_recipients_per_batch =
		config_opt_u32(L, idx, FUNCTION, "max_recipients_per_batch", config->max_recipients_per_batch, 1);
	config->consecutive_failures_before_delay = config_opt_u32(L, idx, FUNCTION,
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
		*durations[i].ns = tr_opt_duration_ns(L, idx, FUNCTION, durations[i].key, *durations[i].ns);
	config->refresh_on_epoch = config_opt_enum(L, idx, FUNCTION, "refresh_strategy", refresh_strategies,
					   config->refresh_on_epoch) == 1;
	if (config->provider == NULL)
		config->provider = config_copy_string(L, idx, "provider_name");
	if (config->ehlo_domain == NULL)
		config->ehlo_domain = config_copy_string(L, idx, "ehlo_domain");
	int64_t port = tr_opt_int(L, idx, "smtp_port", config->smtp_port);
	if (port < 1 || port > 65535)
		luaL_error(L, FUNCTION ": smtp_port: a port from 1 to 65535 is expected");
	config->smtp_port = (uint16_t)port;
	config->enable_pipelining = tr_opt_bool(L, idx, "enable_pipelining", config->enable_pipelining);
	config->enable_rset = tr_opt_bool(L, idx, "enable_rset", config->enable_rset);
	config->use_lmtp = tr_opt_bool(L, idx, "use_lmtp", config->use_lmtp);
	config->ignore_8bit_checks = tr_opt_bool(L, idx, "ignore_8bit_checks", config->ignore_8bit_checks);
	config->reconnect =
		(uint8_t)config_opt_enum(L, idx, FUNCTION, "reconnect_strategy", reconnects, config->reconnect);
	config->try_next_host = tr_opt_bool(L, idx, "try_next_host_on_transport_error", config->try_next_host);
	read_hosts(L, idx, config);
}

/* What was not given, in the view on the stack. */
static void
path_defaults(lua_State *L, const struct tr_path_config *config)
{
	config_default_number(L, "connection_limit", config->connection_limit);
	config_default_number(L, "max_ready", config->max_ready);
	config_default_number(L, "max_deliveries_per_connection", config->max_deliveries_per_connection);
	config_default_number(L, "max_recipients_per_batch", config->max_recipients_per_batch);
	config_default_number(
		L, "consecutive_connection_failures_before_delay", config->consecutive_failures_before_delay);
	config_default_number(L, "gate_failures", config->gate.failures_to_close);
	config_default_duration(L, "gate_backoff", config->gate.backoff_ns);
	config_default_duration(L, "gate_max_backoff", config->gate.backoff_max_ns);
	config_default_duration(L, "gate_max_retry_after", config->gate.retry_after_max_ns);
	config_default_number(L, "smtp_port", config->smtp_port);
	config_default_duration(L, "idle_timeout", config->idle_timeout_ns);
	config_default_duration(L, "connect_timeout", config->connect_timeout_ns);
	config_default_duration(L, "banner_timeout", config->banner_timeout_ns);
	config_default_duration(L, "auth_timeout", config->auth_timeout_ns);
	config_default_duration(L, "ehlo_timeout", config->ehlo_timeout_ns);
	config_default_duration(L, "mail_from_timeout", config->mail_from_timeout_ns);
	config_default_duration(L, "rcpt_to_timeout", config->rcpt_to_timeout_ns);
	config_default_duration(L, "data_timeout", config->data_timeout_ns);
	config_default_duration(L, "data_dot_timeout", config->data_dot_timeout_ns);
	config_default_duration(L, "rset_timeout", config->rset_timeout_ns);
	config_default_duration(L, "starttls_timeout", config->starttls_timeout_ns);
	config_default_duration(L, "refresh_interval", config->refresh_interval_ns);
	config_default_text(L, "refresh_strategy", "Ttl");
	config_default_bool(L, "enable_pipelining", config->enable_pipelining);
	config_default_bool(L, "enable_rset", config->enable_rset);
	config_default_bool(L, "use_lmtp", config->use_lmtp);
	config_default_bool(L, "ignore_8bit_checks", config->ignore_8bit_checks);
	config_default_text(L, "reconnect_strategy", reconnects[config->reconnect]);
	config_default_bool(L, "try_next_host_on_transport_error", config->try_next_host);
	config_default_text(L, "ip_lookup_strategy", ip_strategies[config->ip_strategy]);
	if (config_view_lacks(L, "prohibited_hosts")) {
		lua_newtable(L);
		for (int i = 0; tr_path_prohibited[i] != NULL; i++) {
			lua_pushstring(L, tr_path_prohibited[i]);
			lua_rawseti(L, -2, i + 1);
		}
		lua_setfield(L, -2, "prohibited_hosts");
	}
}

/* What a warning says of an option that is not acted on; NULL: nothing is to be said. */
static const char *
effect_of(const struct path_key *key, int tls_mode)
{
	if (strcmp(key->key.name, "enable_tls") == 0)
		return tls_mode == TLS_DISABLED ? NULL
						: "there is no TLS towards next hops yet: mail goes in clear text";
	return key->when == LATER ? "it is checked but not acted on yet"
				  : "it has no effect: there is nothing here that it could tune";
}

int
l_make_egress_path(lua_State *L)
{
	struct tr_key keys[TR_COUNT(path_keys)];
	struct config_box *box;

	lua_settop(L, 1);
	for (size_t i = 0; i < TR_COUNT(path_keys); i++)
		keys[i] = path_keys[i].key;
	tr_check_options(L, 1, FUNCTION, keys, TR_COUNT(keys));
	box = config_new_box(L, PATH_TYPE);
	box->config = tr_path_config_new(false);
	if (box->config == NULL)
		return luaL_error(L, "out of memory");
	read_path(L, 1, box->config);
	for (size_t i = 0; i < TR_COUNT(choices); i++)
		config_opt_enum(L, 1, FUNCTION, choices[i].key, choices[i].names, 0);
	int mode = config_opt_enum(L, 1, FUNCTION, "enable_tls", tls_modes, 0);
	if (mode == 2 || mode == 3) /* silently sending in clear text would be the worst way to not support it */
		return luaL_error(L,
			FUNCTION ": enable_tls = '%s' cannot be honoured: TLS towards next hops is not supported yet",
			tls_modes[mode]);
	config_check_path_tls(L, 1);
	for (size_t i = 0; i < TR_COUNT(path_keys); i++) {
		lua_getfield(L, 1, path_keys[i].key.name);
		if (!lua_isnil(L, -1) && path_keys[i].when != NOW)
			config_warn_once(FUNCTION, path_keys[i].key.name, effect_of(&path_keys[i], mode));
		lua_pop(L, 1);
	}
	config_push_view(L, 1, &path_keys[0].key, TR_COUNT(path_keys), sizeof path_keys[0]);
	path_defaults(L, box->config);
	config_default_text(L, "enable_tls", tls_modes[0]);
	config_set_environment(L, &path_keys[0].key, TR_COUNT(path_keys), sizeof path_keys[0]);
	return 1;
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
