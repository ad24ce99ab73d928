/* kumo.make_queue_config */
#include <stdio.h>

#include "base/clock.h"
#include "queue/config_view_lua.h"

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
	{"max_waiting", 'i', false}, /* this one and the next two are ours */
	{"max_waiting_bytes", 'i', false},
	{"overflow", 's', false},
};

/* An array of { interval =, policy = }. */
static void
check_shrink_policy(lua_State *L, const char *function)
{
	static const struct tr_key keys[] = {{"interval", 'd', true}, {"policy", 's', true}};
	static const char *const policies[] = {"ShrinkDataAndMeta", "ShrinkData", "NoShrink", NULL};
	char what[96];

	lua_getfield(L, 1, "shrink_policy");
	if (lua_istable(L, -1)) {
		int count = 0, listed = (int)lua_objlen(L, -1);

		for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1))
			count++;
		if (count != listed)
			luaL_error(L, "%s: shrink_policy: an array of { interval =, policy = } is expected", function);
		for (int i = 1; i <= listed; i++) {
			snprintf(what, sizeof what, "%s: shrink_policy[%d]", function, i);
			lua_rawgeti(L, -1, i);
			tr_check_options(L, lua_gettop(L), what, keys, TR_COUNT(keys));
			config_opt_enum(L, lua_gettop(L), what, "policy", policies, 0);
			lua_pop(L, 1);
		}
	}
	lua_pop(L, 1);
}

/* There is one timer wheel, at 1 ms, and messages that wait have no body in memory. */
static void
name_idle_options(lua_State *L, const char *function)
{
	static const char *const idle[] = {"strategy", "timerwheel_tick_interval", "shrink_policy"};

	for (size_t i = 0; i < TR_COUNT(idle); i++) {
		lua_getfield(L, 1, idle[i]);
		if (!lua_isnil(L, -1))
			config_warn_once(
				function, idle[i], "it has no effect: there is nothing here that it could tune");
		lua_pop(L, 1);
	}
}

/* A number of at least 1; 0: it is not given. */
static uint64_t
opt_bound(lua_State *L, const char *function, const char *key)
{
	int64_t value;

	lua_getfield(L, 1, key);
	if (lua_isnil(L, -1)) {
		lua_pop(L, 1);
		return 0;
	}
	lua_pop(L, 1);
	value = tr_opt_int(L, 1, key, 0);
	if (value < 1)
		luaL_error(L, "%s: %s: a whole number of at least 1 is expected", function, key);
	return (uint64_t)value;
}

int
l_make_queue_config(lua_State *L)
{
	static const char *const overflows[] = {"spill", "shed_oldest", NULL};
	static const char *const strategies[] = {"Ttl", "Epoch", NULL};
	static const char *const wheels[] = {
		"TimerWheel", "SkipList", "SingletonTimerWheel", "SingletonTimerWheelV2", NULL};
	const char *function = "kumo.make_queue_config";
	struct tr_queue_config *config;
	struct config_box *box;

	lua_settop(L, 1);
	tr_check_options(L, 1, function, queue_keys, TR_COUNT(queue_keys));
	box = config_new_box(L, QUEUE_TYPE); /* owns the configuration from here, so raising leaks nothing */
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
	config->refresh_on_epoch = config_opt_enum(L, 1, function, "refresh_strategy", strategies, 0) == 1;
	config_opt_enum(L, 1, function, "strategy", wheels, 2);
	check_shrink_policy(L, function);
	name_idle_options(L, function);
	config->egress_pool = config_copy_string(L, 1, "egress_pool");
	config->provider = config_copy_string(L, 1, "provider_name");
	config_opt_rate(L, 1, function, "max_message_rate", &config->message_rate);
	config->max_waiting = opt_bound(L, function, "max_waiting");
	config->max_waiting_bytes = opt_bound(L, function, "max_waiting_bytes");
	config->shed_oldest = config_opt_enum(L, 1, function, "overflow", overflows, 0) == 1;
	if (config->shed_oldest && config->max_waiting == 0 && config->max_waiting_bytes == 0)
		return luaL_error(L, "%s: overflow = 'shed_oldest' needs max_waiting or max_waiting_bytes", function);
	config_read_protocol(L, 1, config);

	config_push_view(L, 1, queue_keys, TR_COUNT(queue_keys), sizeof queue_keys[0]);
	config_default_duration(L, "retry_interval", config->retry_interval_ns);
	config_default_duration(L, "max_age", config->max_age_ns);
	config_default_duration(L, "reap_interval", config->reap_interval_ns);
	config_default_duration(L, "refresh_interval", config->refresh_interval_ns);
	config_default_text(L, "refresh_strategy", strategies[0]);
	config_default_text(L, "strategy", wheels[2]);
	if (config_view_lacks(L, "protocol")) { /* { smtp = {} } */
		lua_createtable(L, 0, 1);
		lua_newtable(L);
		lua_setfield(L, -2, "smtp");
		lua_setfield(L, -2, "protocol");
	}
	config_set_environment(L, queue_keys, TR_COUNT(queue_keys), sizeof queue_keys[0]);
	return 1;
}
