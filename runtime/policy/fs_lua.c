/* tr.fs: files and directories, read and written in threads of base/work.h while the task waits. lua/kumo/fs.lua makes
 * kumo.fs of it. What the file system did is told as nil, message, code. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "policy/fs_op.h"
#include "policy/library.h"

#define FILE_TYPE "tr.file"

static const char *const kind_names[] = {"open", "read", "write", "seek", "flush", "read", "stat", "list", "glob"};

/* --- results -------------------------------------------------------------------------------------- */

static void
push_stat(lua_State *L, const struct stat *stat)
{
	const struct {
		const char *name;
		double value;
	} fields[] = {
		{"len", (double)stat->st_size},
		{"size", (double)stat->st_size},
		{"dev", (double)stat->st_dev},
		{"ino", (double)stat->st_ino},
		{"mode", stat->st_mode},
		{"nlink", (double)stat->st_nlink},
		{"uid", stat->st_uid},
		{"gid", stat->st_gid},
		{"rdev", (double)stat->st_rdev},
		{"blksize", (double)stat->st_blksize},
		{"blocks", (double)stat->st_blocks},
		{"atime", (double)stat->st_atim.tv_sec},
		{"atime_ns", (double)stat->st_atim.tv_nsec},
		{"mtime", (double)stat->st_mtim.tv_sec},
		{"mtime_ns", (double)stat->st_mtim.tv_nsec},
		{"ctime", (double)stat->st_ctim.tv_sec},
		{"ctime_ns", (double)stat->st_ctim.tv_nsec},
	};
	const struct {
		const char *name;
		bool value;
	} flags[] = {
		{"is_file", S_ISREG(stat->st_mode)},
		{"is_dir", S_ISDIR(stat->st_mode)},
		{"is_symlink", S_ISLNK(stat->st_mode)},
		{"readonly", (stat->st_mode & 0222) == 0},
	};

	lua_newtable(L);
	for (size_t i = 0; i < TR_COUNT(fields); i++) {
		lua_pushnumber(L, fields[i].value);
		lua_setfield(L, -2, fields[i].name);
	}
	for (size_t i = 0; i < TR_COUNT(flags); i++) {
		lua_pushboolean(L, flags[i].value);
		lua_setfield(L, -2, flags[i].name);
	}
}

static int
push(lua_State *L, struct tr_offload *offload)
{
	struct tr_fs_op *op = tr_container_of(offload, struct tr_fs_op, offload);
	struct tr_fs_file **handle;
	const char *at = op->buf.data;

	if (op->buf.failed)
		op->errnum = ENOMEM;
	if (op->text != NULL)
		return tr_push_error(L, TR_ETOOBIG, "%s", op->text);
	if (op->errnum != 0)
		return tr_push_error(L, tr_err_from_errno(op->errnum), "%s",
			strerror(op->errnum)); /* NOLINT(concurrency-mt-unsafe) */
	switch (op->kind) {
	case TR_FS_OPEN:
		handle = lua_newuserdata(L, sizeof(struct tr_fs_file *));
		*handle = op->file;
		op->file->refs++;
		luaL_getmetatable(L, FILE_TYPE);
		lua_setmetatable(L, -2);
		break;
	case TR_FS_READ:
	case TR_FS_LOAD:
		lua_pushlstring(L, op->buf.data != NULL ? op->buf.data : "", op->buf.len);
		break;
	case TR_FS_WRITE:
	case TR_FS_SYNC:
		lua_pushboolean(L, 1);
		break;
	case TR_FS_SEEK:
		lua_pushnumber(L, (lua_Number)op->number);
		break;
	case TR_FS_STAT:
		push_stat(L, &op->stat);
		break;
	case TR_FS_LIST:
	case TR_FS_GLOB:
		lua_createtable(L, (int)op->count, 0);
		for (size_t i = 1; i <= op->count; i++) {
			lua_pushstring(L, at);
			lua_rawseti(L, -2, (int)i);
			at += strlen(at) + 1;
		}
		break;
	}
	return 1;
}

/* --- calls ------------------------------------------------------------------------------------------ */

static struct tr_fs_op *
new_op(lua_State *L, enum tr_fs_kind kind, const char *path)
{
	struct tr_fs_op *op = calloc(1, sizeof *op);

	if (op != NULL && path != NULL)
		op->path = strdup(path);
	if (op == NULL || (path != NULL && op->path == NULL)) {
		free(op);
		luaL_error(L, "out of memory");
		return NULL; /* not reached */
	}
	op->kind = kind;
	op->offload.run = tr_fs_op_run;
	op->offload.push = push;
	op->offload.free = tr_fs_op_free;
	return op;
}

static int
start(lua_State *L, struct tr_fs_op *op)
{
	char what[32];

	snprintf(what, sizeof what, "file %s ", kind_names[op->kind]);
	return tr_offload(L, &op->offload, TR_OFFLOAD_LIMIT_NS, what, op->path != NULL ? op->path : "");
}

/* A path has no NUL inside: C would cut it there. */
static const char *
check_path(lua_State *L, int idx)
{
	size_t len;
	const char *path = luaL_checklstring(L, idx, &len);

	luaL_argcheck(L, strlen(path) == len, idx, "a path without NUL expected");
	return path;
}

/* open(path, mode) -> file */
static int
l_open(lua_State *L)
{
	static const struct {
		const char *name;
		int flags;
	} modes[] = {
		{"r", O_RDONLY},
		{"w", O_WRONLY | O_CREAT}, /* the reference does not truncate, but with w+ */
		{"a", O_WRONLY | O_CREAT | O_APPEND},
		{"r+", O_RDWR},
		{"w+", O_RDWR | O_CREAT | O_TRUNC},
		{"a+", O_RDWR | O_CREAT | O_APPEND},
	};
	const char *path = check_path(L, 1);
	const char *mode = luaL_checkstring(L, 2);
	struct tr_fs_op *op;

	for (size_t i = 0; i < TR_COUNT(modes); i++) {
		if (strcmp(mode, modes[i].name) != 0)
			continue;
		op = new_op(L, TR_FS_OPEN, path);
		op->flags = modes[i].flags;
		op->file = calloc(1, sizeof *op->file);
		if (op->file == NULL) {
			tr_fs_op_free(&op->offload);
			return luaL_error(L, "out of memory");
		}
		*op->file = (struct tr_fs_file){.fd = -1, .refs = 1};
		return start(L, op);
	}
	return luaL_argerror(L, 2, "'r', 'w', 'a', 'r+', 'w+' or 'a+' expected");
}

/* An operation on an open file, one at a time: position and descriptor are shared. Raises. */
static struct tr_fs_op *
file_op(lua_State *L, enum tr_fs_kind kind)
{
	struct tr_fs_file *file = *(struct tr_fs_file **)luaL_checkudata(L, 1, FILE_TYPE);
	struct tr_fs_op *op;

	if (file == NULL || file->closed)
		luaL_error(L, "the file is closed");
	if (file->busy)
		luaL_error(L, "another task is using the file");
	op = new_op(L, kind, NULL);
	op->file = file;
	file->refs++;
	file->busy = true;
	return op;
}

/* file:read([count]) */
static int
l_read(lua_State *L)
{
	lua_Number count = luaL_optnumber(L, 2, -1);
	struct tr_fs_op *op;

	luaL_argcheck(L, lua_isnoneornil(L, 2) || (count >= 0 && count <= (lua_Number)TR_FS_READ_MAX), 2,
		"0 to 268435456 bytes expected");
	op = file_op(L, TR_FS_READ);
	op->number = (int64_t)count;
	return start(L, op);
}

/* file:write(bytes) */
static int
l_write(lua_State *L)
{
	struct tr_str bytes;
	struct tr_fs_op *op;

	bytes.data = luaL_checklstring(L, 2, &bytes.len);
	op = file_op(L, TR_FS_WRITE);
	tr_buf_add_str(&op->buf, bytes);
	if (op->buf.failed) {
		tr_fs_op_free(&op->offload);
		return luaL_error(L, "out of memory");
	}
	return start(L, op);
}

/* file:seek(whence, offset) -> position */
static int
l_seek(lua_State *L)
{
	static const char *const names[] = {"set", "cur", "end", NULL};
	static const int whences[] = {SEEK_SET, SEEK_CUR, SEEK_END};
	int whence = luaL_checkoption(L, 2, "cur", names);
	lua_Number offset = luaL_optnumber(L, 3, 0);
	struct tr_fs_op *op;

	luaL_argcheck(L, offset > -9e15 && offset < 9e15, 3, "a whole number of bytes expected");
	op = file_op(L, TR_FS_SEEK);
	op->whence = whences[whence];
	op->number = (int64_t)offset;
	return start(L, op);
}

/* file:flush(): what was written is on the disk */
static int
l_flush(lua_State *L)
{
	return start(L, file_op(L, TR_FS_SYNC));
}

static int
l_close(lua_State *L)
{
	struct tr_fs_file **handle = luaL_checkudata(L, 1, FILE_TYPE);
	struct tr_fs_file *file = *handle;

	if (file != NULL) {
		file->closed = true;
		tr_fs_file_unref(file);
		*handle = NULL;
	}
	return 0;
}

/* load(path) -> its bytes */
static int
l_load(lua_State *L)
{
	struct tr_fs_op *op = new_op(L, TR_FS_LOAD, check_path(L, 1));

	op->number = -1;
	return start(L, op);
}

/* stat(path, follow) -> fields */
static int
l_stat(lua_State *L)
{
	const char *path = check_path(L, 1);
	bool follow = lua_toboolean(L, 2);
	struct tr_fs_op *op = new_op(L, TR_FS_STAT, path);

	op->follow = follow;
	return start(L, op);
}

/* list(path) -> paths in no order */
static int
l_list(lua_State *L)
{
	return start(L, new_op(L, TR_FS_LIST, check_path(L, 1)));
}

/* glob(pattern, base) -> paths in no order; without braces */
static int
l_glob(lua_State *L)
{
	const char *pattern = check_path(L, 1);
	struct tr_fs_op *op = new_op(L, TR_FS_GLOB, check_path(L, 2));

	tr_buf_addz(&op->buf, pattern);
	tr_buf_addc(&op->buf, '\0');
	if (op->buf.failed) {
		tr_fs_op_free(&op->offload);
		return luaL_error(L, "out of memory");
	}
	return start(L, op);
}

int
luaopen_tr_fs(lua_State *L)
{
	static const luaL_Reg functions[] = {
		{"open", l_open},
		{"load", l_load},
		{"stat", l_stat},
		{"list", l_list},
		{"glob", l_glob},
		{NULL, NULL},
	};
	static const luaL_Reg methods[] = {
		{"read", l_read},
		{"write", l_write},
		{"seek", l_seek},
		{"flush", l_flush},
		{"close", l_close},
		{"__gc", l_close},
		{NULL, NULL},
	};

	luaL_newmetatable(L, FILE_TYPE);
	lua_pushvalue(L, -1);
	lua_setfield(L, -2, "__index");
	luaL_register(L, NULL, methods);
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
