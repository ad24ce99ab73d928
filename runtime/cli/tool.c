#include "cli/tool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/server.h"
#include "shaping/shaping.h"

#define FOREVER_NS (100LL * 365 * 86400 * TR_NS_PER_S)

int
tr_tool_init(struct tr_tool *tool, struct tr_host_config *config)
{
	int err = tr_loop_new(&tool->loop);

	if (err != TR_OK)
		return err;
	tr_loop_enter(tool->loop);
	config->loop = tool->loop;
	config->share_dir = tr_share_dir();
	config->modules = tr_modules;
	err = tr_host_new(config, &tool->host);
	if (err == TR_OK)
		err = tr_transports_init(&tool->transports, tool->loop, tool->host, NULL);
	if (err == TR_OK)
		err = tr_shaping_new(&tool->shaping);
	if (err != TR_OK)
		return err;
	tr_host_set_service(tool->host, TR_SERVICE_SHAPING, tool->shaping);
	tr_host_set_service(tool->host, TR_SERVICE_RUN, &tool->run);
	return TR_OK;
}

static bool
has_ended(void *arg)
{
	return ((struct tr_tool *)arg)->ended;
}

static void
ended(void *arg, const struct tr_task_result *result)
{
	struct tr_tool *tool = arg;

	tool->ended = true;
	tool->status = result->status;
	tool->number = 0;
	if (result->status != TR_OK)
		tr_buf_addz(&tool->out, result->text);
	for (int i = result->status == TR_OK ? result->count : 0; i > 0; i--) {
		size_t len;
		const char *text;
		if (lua_type(result->L, -i) == LUA_TNUMBER) {
			tool->number = (int64_t)lua_tonumber(result->L, -i);
			continue;
		}
		text = lua_tolstring(result->L, -i, &len);
		if (text != NULL)
			tr_buf_add(&tool->out, text, len);
	}
}

int
tr_tool_call(struct tr_tool *tool, struct tr_task_call *call, int64_t limit_ns)
{
	struct tr_task *task = NULL;
	int err;

	tool->ended = false;
	tool->out.len = 0;
	call->end = ended;
	call->end_arg = tool;
	err = tr_task_start(tool->host, call, &task);
	if (err == TR_OK && !tool->ended &&
		!tr_loop_run_until(tool->loop, has_ended, tool, limit_ns > 0 ? limit_ns : FOREVER_NS)) {
		struct tr_buf waits = {0};
		tr_host_report(tool->host, &waits);
		tr_task_cancel(task);
		tool->out.len = 0;
		tr_buf_add(&tool->out, waits.data, waits.len);
		tr_buf_free(&waits);
	}
	return err == TR_OK && !tool->out.failed ? TR_OK : TR_ENOMEM;
}

void
tr_tool_fini(struct tr_tool *tool)
{
	if (tool->host != NULL)
		tr_host_set_service(tool->host, TR_SERVICE_RUN, NULL);
	tr_run_fini(&tool->run);
	tr_host_free(tool->host);
	tr_shaping_free(tool->shaping);
	tr_transports_fini(&tool->transports);
	if (tool->loop != NULL)
		tr_loop_free(tool->loop);
	tr_buf_free(&tool->out);
}

/* --- Ctrl-C --------------------------------------------------------------------------------------------------- */

#define EXIT_INTERRUPTED (128 + SIGINT)

static const char *interrupted_command;
static const char *volatile *interrupted_step;

static void
say(const char *text)
{
	if (write(STDERR_FILENO, text, strlen(text)) < 0)
		_exit(EXIT_INTERRUPTED);
}

static void
interrupted(int number)
{
	const char *step = *interrupted_step;

	(void)number;
	say("\ntailrace ");
	say(interrupted_command);
	say(": interrupted while it was at ");
	say(step != NULL ? step : "its start");
	say("\n");
	_exit(EXIT_INTERRUPTED);
}

void
tr_tool_interruptible(const char *command, const char *volatile *step)
{
	struct sigaction action = {.sa_handler = interrupted};

	interrupted_command = command;
	interrupted_step = step;
	sigemptyset(&action.sa_mask);
	sigaction(SIGINT, &action, NULL);
}

/* --- tr.tool: files, looked at and never changed ----------------------------------------------------------- */

/* list(directory) -> names without . and .., in no order; nil, message */
static int
l_list(lua_State *L)
{
	const char *path = luaL_checkstring(L, 1);
	DIR *dir = opendir(path);
	struct dirent *entry;
	int count = 0;

	if (dir == NULL)
		return tr_push_error(L, tr_err_from_errno(errno), "%s: %s", path, strerror(errno));
	lua_newtable(L);
	while ((entry = readdir(dir)) != NULL) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		lua_pushstring(L, entry->d_name);
		lua_rawseti(L, -2, ++count);
	}
	closedir(dir);
	return 1;
}

/* kind(path) -> 'file', 'directory' or 'other'; nil, message */
static int
l_kind(lua_State *L)
{
	const char *path = luaL_checkstring(L, 1);
	struct stat info;

	if (stat(path, &info) != 0)
		return tr_push_error(L, tr_err_from_errno(errno), "%s: %s", path, strerror(errno));
	lua_pushstring(L, S_ISREG(info.st_mode) ? "file" : S_ISDIR(info.st_mode) ? "directory" : "other");
	return 1;
}

/* writable(path) -> true, or nil and why not; asks for what the process may do, and does nothing */
static int
l_writable(lua_State *L)
{
	const char *path = luaL_checkstring(L, 1);

	if (faccessat(AT_FDCWD, path, W_OK | X_OK, AT_EACCESS) != 0)
		return tr_push_error(L, tr_err_from_errno(errno), "%s", strerror(errno));
	lua_pushboolean(L, 1);
	return 1;
}

/* configuring(yes): whether what only pre_init and init may do is allowed now. */
static int
l_configuring(lua_State *L)
{
	struct tr_run *run = tr_service(L, TR_SERVICE_RUN);

	if (run != NULL && run->validating)
		run->configuring = lua_toboolean(L, 1);
	return 0;
}

int
luaopen_tr_tool(lua_State *L)
{
	static const luaL_Reg functions[] = {{"list", l_list}, {"kind", l_kind}, {"writable", l_writable},
		{"configuring", l_configuring}, {NULL, NULL}};

	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
