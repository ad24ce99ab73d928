/* `tr.sim_disk`, the Lua binding of disk.h. The program has put the disk in place before any Lua runs. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "disk.h"
#include "policy/policy.h"

static const struct {
	const char *name;
	int number;
} errors[] = {{"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EMFILE", EMFILE}, {"ENFILE", ENFILE},
	{"EACCES", EACCES}, {"EPERM", EPERM}, {"EROFS", EROFS}, {"ENOENT", ENOENT}, {"ENOMEM", ENOMEM},
	{"ENOLCK", ENOLCK}, {"EFBIG", EFBIG}, {"EINTR", EINTR}, {"EINVAL", EINVAL}, {"ESTALE", ESTALE}};

/* reset(seed): an empty disk */
static int
l_reset(lua_State *L)
{
	disk_reset((uint64_t)luaL_checknumber(L, 1));
	return 0;
}

static unsigned
check_mask(lua_State *L, const char *name)
{
	if (strcmp(name, "any") == 0)
		return DISK_ANY;
	if (strcmp(name, "changes") == 0)
		return DISK_CHANGES;
	for (int i = 0; i < DISK_OPS; i++) {
		if (strcmp(name, disk_op_names[i]) == 0)
			return 1u << i;
	}
	return (unsigned)luaL_error(L, "sim_disk: no operation '%s'", name);
}

static int
check_errno(lua_State *L, const char *name)
{
	for (size_t i = 0; i < TR_COUNT(errors); i++) {
		if (strcmp(errors[i].name, name) == 0)
			return errors[i].number;
	}
	return luaL_error(L, "sim_disk: no error '%s'", name);
}

/* fail{op='write', errno='EIO', after=0, times=nil, short=, kill=, cut=}: after so many more of that operation ('any':
 * all but close; 'changes': what changes the disk) the next, so many times (nil: for ever) */
static int
l_fail(lua_State *L)
{
	static const struct tr_key keys[] = {{"op", 's', false}, {"errno", 's', false}, {"after", 'i', false},
		{"times", 'i', false}, {"short", 'b', false}, {"kill", 'b', false}, {"cut", 'b', false}};
	struct disk_rule rule;
	const char *name;
	int64_t after, times;

	luaL_checktype(L, 1, LUA_TTABLE);
	tr_check_options(L, 1, "sim_disk.fail", keys, TR_COUNT(keys));
	name = tr_opt_string(L, 1, "errno", NULL, NULL);
	after = tr_opt_int(L, 1, "after", 0);
	times = tr_opt_int(L, 1, "times", -1);
	luaL_argcheck(L, after >= 0 && times != 0, 1, "after >= 0 and times > 0 expected");
	rule = (struct disk_rule){
		.mask = check_mask(L, tr_opt_string(L, 1, "op", "any", NULL)),
		.after = (uint64_t)after,
		.times = times < 0 ? UINT64_MAX : (uint64_t)times,
		.errnum = name != NULL ? check_errno(L, name) : 0,
		.brief = tr_opt_bool(L, 1, "short", false),
		.kill = tr_opt_bool(L, 1, "kill", false),
		.cut = tr_opt_bool(L, 1, "cut", false),
	};
	if (rule.errnum == 0 && !rule.brief && !rule.kill && !rule.cut)
		return luaL_error(L, "sim_disk.fail: errno, short, kill or cut expected");
	disk_fail(&rule);
	return 0;
}

/* heal(): nothing fails any more */
static int
l_heal(lua_State *L)
{
	disk_heal();
	return 0;
}

/* capacity(bytes | nil: no bound) */
static int
l_capacity(lua_State *L)
{
	disk_capacity(lua_isnoneornil(L, 1) ? UINT64_MAX : (uint64_t)luaL_checknumber(L, 1));
	return 0;
}

/* used() -> bytes */
static int
l_used(lua_State *L)
{
	lua_pushnumber(L, (lua_Number)disk_used());
	return 1;
}

/* kill(): what runs is a ghost from now on */
static int
l_kill(lua_State *L)
{
	disk_kill();
	return 0;
}

/* cut(seed): the same, and what was not synced is lost in part */
static int
l_cut(lua_State *L)
{
	disk_cut((uint64_t)luaL_checknumber(L, 1));
	return 0;
}

/* is_ghost() -> from kill or cut (of a rule, too) to revive; what happens meanwhile never did */
static int
l_is_ghost(lua_State *L)
{
	lua_pushboolean(L, disk_is_ghost());
	return 1;
}

/* death() -> of a ghost: seconds (monotonic) when it died, whether by a power cut */
static int
l_death(lua_State *L)
{
	int64_t at_ns;
	bool cut;

	if (!disk_death(&at_ns, &cut))
		return 0;
	lua_pushnumber(L, (lua_Number)at_ns / 1e9);
	lua_pushboolean(L, cut);
	return 2;
}

/* write_back(): the kernel has written all that there is */
static int
l_write_back(lua_State *L)
{
	(void)L;
	disk_write_back();
	return 0;
}

/* lost() -> sectors of the log that no later sync writes, as one has failed */
static int
l_lost(lua_State *L)
{
	lua_pushnumber(L, (lua_Number)disk_lost("log-"));
	return 1;
}

/* forgive(): a later sync writes them */
static int
l_forgive(lua_State *L)
{
	(void)L;
	disk_forgive();
	return 0;
}

/* revive(): the disk is what kill or cut left */
static int
l_revive(lua_State *L)
{
	disk_revive();
	return 0;
}

/* ops() -> how many since reset, by kind; also `any`, `changes`, and `faults`, those that a rule was for */
static int
l_ops(lua_State *L)
{
	lua_newtable(L);
	for (int i = 0; i < DISK_OPS; i++) {
		lua_pushnumber(L, (lua_Number)disk_calls(1u << i));
		lua_setfield(L, -2, disk_op_names[i]);
	}
	lua_pushnumber(L, (lua_Number)disk_calls(DISK_ANY));
	lua_setfield(L, -2, "any");
	lua_pushnumber(L, (lua_Number)disk_calls(DISK_CHANGES));
	lua_setfield(L, -2, "changes");
	lua_pushnumber(L, (lua_Number)disk_faults());
	lua_setfield(L, -2, "faults");
	return 1;
}

/* clear_ops(): counts from 0 again */
static int
l_clear_ops(lua_State *L)
{
	disk_calls_clear();
	return 0;
}

/* digest() -> 16 hexadecimal digits of all paths and bytes */
static int
l_digest(lua_State *L)
{
	char text[20];

	snprintf(text, sizeof text, "%016llx", (unsigned long long)disk_digest());
	lua_pushstring(L, text);
	return 1;
}

/* open_files() -> descriptors that nobody has closed */
static int
l_open_files(lua_State *L)
{
	lua_pushinteger(L, (lua_Integer)disk_open_files());
	return 1;
}

int
luaopen_tr_sim_disk(lua_State *L)
{
	static const luaL_Reg functions[] = {
		{"reset", l_reset},
		{"fail", l_fail},
		{"heal", l_heal},
		{"capacity", l_capacity},
		{"used", l_used},
		{"kill", l_kill},
		{"cut", l_cut},
		{"is_ghost", l_is_ghost},
		{"death", l_death},
		{"write_back", l_write_back},
		{"lost", l_lost},
		{"forgive", l_forgive},
		{"revive", l_revive},
		{"ops", l_ops},
		{"clear_ops", l_clear_ops},
		{"digest", l_digest},
		{"open_files", l_open_files},
		{NULL, NULL},
	};

	lua_newtable(L);
	luaL_setfuncs(L, functions, 0);
	return 1;
}
