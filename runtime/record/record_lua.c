/* The functions that configure loggers. */
#include "record/record_lua.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/options.h"

/* --- options ---------------------------------------------------------------------------------------------------- */

#define FN_HOOK "kumo.configure_log_hook"
#define FN_DISPOSITION "kumo.configure_log_disposition_hook"
#define FN_LOCAL "kumo.configure_local_logs"

static char names_key, claims_key, compile_key; /* addresses in the registry */

/* A NULL-terminated list in a userdata, which is left on the stack. The strings stay anchored in the option table. */
static const char *const *
opt_list(lua_State *L, int idx, const char *function, const char *key)
{
	const char **list;
	size_t count;

	lua_getfield(L, idx, key);
	if (lua_isnil(L, -1)) {
		list = lua_newuserdata(L, sizeof *list);
		list[0] = NULL;
		lua_remove(L, -2);
		return list;
	}
	count = lua_objlen(L, -1);
	list = lua_newuserdata(L, (count + 1) * sizeof *list);
	for (size_t i = 0; i < count; i++) {
		lua_rawgeti(L, -2, (int)i + 1);
		if (lua_type(L, -1) != LUA_TSTRING)
			luaL_error(L, "%s: field '%s': element %d: string expected, got %s", function, key, (int)i + 1,
				luaL_typename(L, -1));
		list[i] = lua_tostring(L, -1);
		lua_pop(L, 1);
	}
	list[count] = NULL;
	lua_pushnil(L); /* a map or a list with holes would be read by halves */
	for (size_t seen = 0; lua_next(L, -3); lua_pop(L, 1))
		if (lua_type(L, -2) != LUA_TNUMBER || ++seen > count)
			luaL_error(L, "%s: field '%s': array of strings expected", function, key);
	lua_remove(L, -2);
	return list;
}

static void
check_template(lua_State *L, const char *function, const char *type, const char *text)
{
	lua_pushlightuserdata(L, &compile_key);
	lua_rawget(L, LUA_REGISTRYINDEX);
	lua_pushstring(L, text);
	lua_pushfstring(L, "%s: per_record.%s.template", function, type);
	lua_call(L, 2, 0); /* raises with the line */
}

static void
check_type_name(lua_State *L, const char *function)
{
	const char *names[TR_EVENT_TYPES + 2], *near, *name;

	if (lua_type(L, -2) != LUA_TSTRING)
		luaL_error(L, "%s: per_record: record type expected as key, got %s", function, luaL_typename(L, -2));
	name = lua_tostring(L, -2);
	if (strcmp(name, "Any") == 0 || tr_event_type_from_name(tr_str(name)) >= 0)
		return;
	for (int type = 0; type < TR_EVENT_TYPES; type++)
		names[type] = tr_event_type_name((enum tr_event_type)type);
	names[TR_EVENT_TYPES] = "Any";
	names[TR_EVENT_TYPES + 1] = NULL;
	near = tr_nearest(name, names);
	luaL_error(L, "%s: per_record: there is no record type '%s'%s%s%s", function, name,
		near != NULL ? " (did you mean '" : "", near != NULL ? near : "", near != NULL ? "'?)" : "");
}

/* The rule on top of the stack. */
static struct tr_per_record
read_rule(lua_State *L, const char *function, const char *type)
{
	static const struct tr_key keys[] = {{"enable", 'b', false}, {"suffix", 's', false}, {"log_dir", 's', false},
		{"template", 's', false}, {"segment_header", 's', false}};
	int idx = lua_gettop(L);
	struct tr_per_record rule = {0};

	tr_check_options(L, idx, function, keys, TR_COUNT(keys));
	rule.enable = tr_opt_bool(L, idx, "enable", true);
	rule.suffix = (char *)tr_opt_string(L, idx, "suffix", NULL, NULL);
	rule.log_dir = (char *)tr_opt_string(L, idx, "log_dir", NULL, NULL);
	rule.segment_header = (char *)tr_opt_string(L, idx, "segment_header", NULL, NULL);
	rule.template_text = (char *)tr_opt_string(L, idx, "template", NULL, NULL);
	if (rule.suffix != NULL && strchr(rule.suffix, '/') != NULL)
		luaL_error(L, "%s: per_record.%s.suffix: '%s' is part of a file name and cannot hold '/'", function,
			type, rule.suffix);
	if (rule.template_text != NULL)
		check_template(L, function, type, rule.template_text);
	return rule;
}

/* An entry of its own hides `Any` whole. Strings are borrowed from the option table. */
static void
read_per_record(lua_State *L, int idx, const char *function, struct tr_per_record *rules)
{
	struct tr_per_record any = {.enable = true};
	bool own[TR_EVENT_TYPES] = {false};

	lua_getfield(L, idx, "per_record");
	if (!lua_isnil(L, -1)) {
		for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
			const char *name;
			struct tr_per_record rule;
			int type;

			check_type_name(L, function);
			name = lua_tostring(L, -2);
			rule = read_rule(L, function, name);
			type = tr_event_type_from_name(tr_str(name));
			if (type < 0) {
				any = rule;
				continue;
			}
			rules[type] = rule;
			own[type] = true;
		}
	}
	lua_pop(L, 1);
	for (int type = 0; type < TR_EVENT_TYPES; type++)
		if (!own[type])
			rules[type] = any;
}

static uint32_t
opt_back_pressure(lua_State *L, int idx, const char *function)
{
	int64_t value = tr_opt_int(L, idx, "back_pressure", 128000);

	if (value < 1 || value > 100000000)
		luaL_error(L, "%s: back_pressure: 1 to 100000000 expected", function);
	return (uint32_t)value;
}

/* --- configuring
 * ------------------------------------------------------------------------------------------------------ */

/* A table of this state in the registry. */
static void
push_state_table(lua_State *L, void *key)
{
	lua_pushlightuserdata(L, key);
	lua_rawget(L, LUA_REGISTRYINDEX);
	if (!lua_isnil(L, -1))
		return;
	lua_pop(L, 1);
	lua_newtable(L);
	lua_pushlightuserdata(L, key);
	lua_pushvalue(L, -2);
	lua_rawset(L, LUA_REGISTRYINDEX);
}

static void
claim_name(lua_State *L, const char *function, const char *name)
{
	push_state_table(L, &names_key);
	lua_getfield(L, -1, name);
	if (!lua_isnil(L, -1))
		luaL_error(L, "%s: there is a log hook named '%s' already", function, name);
	lua_pop(L, 1);
	lua_pushboolean(L, 1);
	lua_setfield(L, -2, name);
	lua_pop(L, 1);
}

/* The logger of this configuration that another worker has added and this one has not counted yet; -1: none. */
static int
find_unclaimed(lua_State *L, struct tr_recorder *recorder, const struct tr_logger_config *config)
{
	int found = -1;
	bool claimed;

	do {
		found = tr_recorder_find(recorder, config, (uint32_t)(found + 1));
		lua_rawgeti(L, -1, found + 1);
		claimed = found >= 0 && !lua_isnil(L, -1);
		lua_pop(L, 1);
	} while (claimed);
	return found;
}

static void
add_logger(lua_State *L, const char *function, const struct tr_logger_config *config)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* two workers' init may run at once */
	struct tr_recorder *recorder = tr_service(L, TR_SERVICE_RECORDER);
	char *error = NULL;
	int err = TR_OK, found;
	bool validating;

	if (config->kind != TR_LOGGER_FILE)
		claim_name(L, function, config->name);
	lua_getglobal(L, "_VALIDATING_CONFIG");
	validating = lua_toboolean(L, -1);
	lua_pop(L, 1);
	if (recorder == NULL || validating ||
		(config->kind == TR_LOGGER_FILE && tr_service(L, TR_SERVICE_OFFLINE) != NULL))
		return;
	push_state_table(L, &claims_key);
	luaL_checkstack(L, 8, function);
	pthread_mutex_lock(&lock); /* nothing below raises until it is unlocked */
	found = find_unclaimed(L, recorder, config);
	if (found < 0) {
		err = tr_recorder_add(recorder, config, &error);
		if (err == TR_OK)
			found = find_unclaimed(L, recorder, config);
	}
	pthread_mutex_unlock(&lock);
	if (err != TR_OK) {
		lua_pushfstring(L, "%s: %s", function, error != NULL ? error : tr_err_text(err));
		free(error);
		luaL_where(L, 1);
		lua_insert(L, -2);
		lua_concat(L, 2);
		lua_error(L);
	}
	lua_pushboolean(L, 1);
	lua_rawseti(L, -2, found + 1);
	lua_pop(L, 1);
}

static const char *
check_name(lua_State *L, const char *function)
{
	size_t len;
	const char *name = tr_opt_string(L, 1, "name", NULL, &len);

	/* the name of a ledger account, and with "dead:" before it that of its dead letters */
	if (len == 0 || len > 58 || strlen(name) != len || strncmp(name, "dead:", 5) == 0)
		luaL_error(L, "%s: name: 1 to 58 characters that do not begin with 'dead:' expected", function);
	return name;
}

/* dead_letters = true | false | { max_count =, max_bytes =, max_age = }; ours. */
static void
read_dead_letters(lua_State *L, struct tr_dead_bounds *out)
{
	static const struct tr_key keys[] = {
		{"max_count", 'i', false}, {"max_bytes", 'i', false}, {"max_age", 'd', false}};
	const char *function = FN_HOOK ": dead_letters";

	*out = tr_dead_default;
	lua_getfield(L, 1, "dead_letters");
	if (lua_isboolean(L, -1)) {
		out->off = !lua_toboolean(L, -1);
	} else if (lua_istable(L, -1)) {
		int idx = lua_gettop(L);

		tr_check_options(L, idx, function, keys, TR_COUNT(keys));
		out->max_count = (uint64_t)tr_opt_int(L, idx, "max_count", (int64_t)out->max_count);
		out->max_bytes = (uint64_t)tr_opt_int(L, idx, "max_bytes", (int64_t)out->max_bytes);
		out->max_age_ms =
			tr_opt_duration_ns(L, idx, function, "max_age", out->max_age_ms * TR_NS_PER_MS) / TR_NS_PER_MS;
	} else if (!lua_isnil(L, -1)) {
		luaL_error(L, "%s: true, false or a table of bounds expected, got %s", function, luaL_typename(L, -1));
	}
	lua_pop(L, 1);
}

static int
l_configure_log_hook(lua_State *L)
{
	static const struct tr_key keys[] = {{"name", 's', true}, {"back_pressure", 'i', false}, {"meta", 't', false},
		{"headers", 't', false}, {"per_record", 't', false}, {"deferred_spool", 'b', false},
		{"dead_letters", '*', false}};
	struct tr_logger_config config = {.kind = TR_LOGGER_HOOK};

	lua_settop(L, 1);
	tr_check_options(L, 1, FN_HOOK, keys, TR_COUNT(keys));
	config.name = check_name(L, FN_HOOK);
	config.back_pressure = opt_back_pressure(L, 1, FN_HOOK);
	config.meta = opt_list(L, 1, FN_HOOK, "meta");
	config.headers = opt_list(L, 1, FN_HOOK, "headers");
	config.deferred_spool = tr_opt_bool(L, 1, "deferred_spool", false);
	read_dead_letters(L, &config.dead);
	read_per_record(L, 1, FN_HOOK, config.per_record);
	add_logger(L, FN_HOOK, &config);
	return 0;
}

static int
l_configure_log_disposition_hook(lua_State *L)
{
	static const struct tr_key keys[] = {{"name", 's', true}, {"per_record", 't', false}};
	struct tr_logger_config config = {.kind = TR_LOGGER_DISPOSITION};

	lua_settop(L, 1);
	tr_check_options(L, 1, FN_DISPOSITION, keys, TR_COUNT(keys));
	config.name = check_name(L, FN_DISPOSITION);
	config.back_pressure = 1;
	read_per_record(L, 1, FN_DISPOSITION, config.per_record);
	add_logger(L, FN_DISPOSITION, &config);
	return 0;
}

static int
l_configure_local_logs(lua_State *L)
{
	static const struct tr_key keys[] = {{"log_dir", 's', true}, {"max_file_size", 'i', false},
		{"max_segment_duration", 'd', false}, {"compression_level", 'i', false}, {"back_pressure", 'i', false},
		{"meta", 't', false}, {"headers", 't', false}, {"per_record", 't', false}, {"filter_event", 's', false},
		{"min_free_space", '*', false}, {"min_free_inodes", '*', false}};
	struct tr_logger_config config = {
		.kind = TR_LOGGER_FILE, .min_free_space = {10.0, 0}, .min_free_inodes = {10.0, 0}};

	lua_settop(L, 1);
	tr_check_options(L, 1, FN_LOCAL, keys, TR_COUNT(keys));
	config.log_dir = tr_opt_string(L, 1, "log_dir", NULL, NULL);
	if (config.log_dir[0] == '\0')
		return luaL_error(L, "%s: log_dir: it is empty", FN_LOCAL);
	config.max_file_size = (uint64_t)tr_opt_int(L, 1, "max_file_size", 1000000000);
	if (config.max_file_size == 0)
		return luaL_error(L, "%s: max_file_size: at least 1 expected", FN_LOCAL);
	config.max_segment_duration_ns = tr_opt_duration_ns(L, 1, FN_LOCAL, "max_segment_duration", 0);
	config.compression_level = (int)tr_opt_int(L, 1, "compression_level", 0);
	if (config.compression_level > 22)
		return luaL_error(L, "%s: compression_level: 0 to 22 expected", FN_LOCAL);
	config.back_pressure = opt_back_pressure(L, 1, FN_LOCAL);
	config.meta = opt_list(L, 1, FN_LOCAL, "meta");
	config.headers = opt_list(L, 1, FN_LOCAL, "headers");
	config.filter_event = tr_opt_string(L, 1, "filter_event", NULL, NULL);
	tr_opt_space_limit(L, 1, FN_LOCAL, "min_free_space", &config.min_free_space);
	tr_opt_space_limit(L, 1, FN_LOCAL, "min_free_inodes", &config.min_free_inodes);
	read_per_record(L, 1, FN_LOCAL, config.per_record);
	add_logger(L, FN_LOCAL, &config);
	return 0;
}

int
luaopen_tr_record(lua_State *L)
{
	static const luaL_Reg functions[] = {
		{"configure_log_hook", l_configure_log_hook},
		{"configure_log_disposition_hook", l_configure_log_disposition_hook},
		{"configure_local_logs", l_configure_local_logs},
		{"declare_hook_queue", tr_l_declare_hook_queue},
		{NULL, NULL},
	};

	/* lua/kumo/record.lua: registers the entry that renders, returns the function that checks a template */
	lua_pushlightuserdata(L, &compile_key);
	lua_getglobal(L, "require");
	lua_pushliteral(L, "tr.host");
	lua_call(L, 1, 1);
	lua_getfield(L, -1, "internal");
	lua_pushliteral(L, "kumo.record");
	lua_call(L, 1, 1);
	lua_remove(L, -2);
	lua_rawset(L, LUA_REGISTRYINDEX);
	lua_newtable(L);
	luaL_setfuncs(L, functions, 0);
	return 1;
}
