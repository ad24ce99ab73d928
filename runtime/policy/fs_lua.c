/* tr.fs: files and directories, read and written in threads of base/work.h while the task waits. lua/kumo/fs.lua makes
 * kumo.fs of it. What the file system did is told as nil, message, code. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "policy/library.h"
#include "policy/offload.h"

#define FILE_TYPE "tr.file"
#define READ_MAX (INT64_C(256) << 20) /* bytes of one read: they all become one Lua string */
#define PATHS_MAX 100000              /* of a directory or a pattern */
#define DEPTH_MAX 64                  /* of directories under `**` */

struct file { /* shared by the handle in Lua and what is under way */
	int fd, refs;
	bool busy, closed; /* closed: by the policy; the descriptor goes when nothing is under way */
};

enum fs_kind { FS_OPEN, FS_READ, FS_WRITE, FS_SEEK, FS_SYNC, FS_LOAD, FS_STAT, FS_LIST, FS_GLOB };
static const char *const kind_names[] = {"open", "read", "write", "seek", "flush", "read", "stat", "list", "glob"};

struct fs_op {
	struct tr_offload offload;
	enum fs_kind kind;
	struct file *file;
	char *path;
	int flags, whence;
	bool follow;
	int64_t number;    /* bytes to read, position; < 0: all */
	struct tr_buf buf; /* to write, was read; for a list: paths, each with its NUL */
	size_t count;      /* of paths */
	struct stat stat;
	int errnum;       /* 0: done */
	const char *text; /* what is wrong, when it is not an errno; static */
};

static void
file_unref(struct file *file)
{
	if (file == NULL || --file->refs > 0)
		return;
	if (file->fd >= 0)
		close(file->fd);
	free(file);
}

static void
op_free(struct tr_offload *offload)
{
	struct fs_op *op = tr_container_of(offload, struct fs_op, offload);

	if (op->file != NULL)
		op->file->busy = false;
	file_unref(op->file);
	tr_buf_free(&op->buf);
	free(op->path);
	free(op);
}

/* --- in a thread -------------------------------------------------------------------------------- */

static void
read_bytes(struct fs_op *op, int fd)
{
	int64_t left = op->number < 0 ? READ_MAX + 1 : op->number;
	struct stat stat;

	if (fstat(fd, &stat) == 0 && S_ISREG(stat.st_mode) && op->number < 0)
		tr_buf_reserve(&op->buf, (size_t)tr_min_i64(stat.st_size + 1, READ_MAX)); /* in one piece */
	while (left > 0) {
		size_t want =
			(size_t)tr_min_i64(left, op->buf.cap - op->buf.len > 65536 ? op->buf.cap - op->buf.len : 65536);
		char *at = tr_buf_reserve(&op->buf, want);
		ssize_t got = at != NULL ? read(fd, at, want) : -1;

		if (at == NULL)
			errno = ENOMEM;
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			op->errnum = errno;
		if (got <= 0)
			return;
		op->buf.len += (size_t)got;
		left -= got;
	}
	if (op->number < 0)
		op->text = "more than 256 MiB: read it in parts";
}

static void
write_bytes(struct fs_op *op)
{
	for (size_t at = 0; at < op->buf.len;) {
		ssize_t done = write(op->file->fd, op->buf.data + at, op->buf.len - at);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0) {
			op->errnum = errno;
			return;
		}
		at += (size_t)done;
	}
}

static void
add_path(struct fs_op *op, const char *dir, const char *name)
{
	if (op->count >= PATHS_MAX) {
		op->text = "more than 100000 paths";
		return;
	}
	if (dir[0] != '\0')
		tr_buf_addf(&op->buf, "%s%s%s", dir, dir[strlen(dir) - 1] == '/' ? "" : "/", name);
	else
		tr_buf_addz(&op->buf, name);
	tr_buf_addc(&op->buf, '\0');
	op->count++;
}

static void
list_directory(struct fs_op *op)
{
	DIR *dir = opendir(op->path);
	const struct dirent *entry;

	if (dir == NULL) {
		op->errnum = errno;
		return;
	}
	while (errno = 0,
		op->text == NULL && (entry = readdir(dir)) != NULL) { /* NOLINT(concurrency-mt-unsafe): own DIR */
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			add_path(op, op->path, entry->d_name);
	}
	op->errnum = errno;
	closedir(dir);
}

static bool
is_directory(const char *path, bool follow)
{
	struct stat stat_;

	return (follow ? stat(path, &stat_) : lstat(path, &stat_)) == 0 && S_ISDIR(stat_.st_mode);
}

/* Adds what lies in `dir` ("": the working directory) and matches the rest of the pattern. A directory that cannot be
 * read holds nothing, as in a shell. */
static void
match(struct fs_op *op, const char *dir, const char *pattern, int depth)
{
	const char *slash = strchr(pattern, '/');
	char segment[256];
	size_t len = slash ? (size_t)(slash - pattern) : strlen(pattern);
	const char *rest = slash ? slash + strspn(slash, "/") : pattern + len;
	bool any_depth = len == 2 && memcmp(pattern, "**", 2) == 0;
	const struct dirent *entry;
	struct tr_buf path = {0};
	DIR *handle;

	if (len >= sizeof segment || depth > DEPTH_MAX || op->text != NULL)
		return;
	memcpy(segment, any_depth ? "*" : pattern, any_depth ? 1 : len);
	segment[any_depth ? 1 : len] = '\0';
	if (any_depth && *rest != '\0')
		match(op, dir, rest, depth + 1);               /* `**` as no directory at all */
	if (!any_depth && strpbrk(segment, "*?[\\") == NULL) { /* no pattern: no need to read the directory */
		tr_buf_addf(&path, "%s%s%s", dir, dir[0] == '\0' || dir[strlen(dir) - 1] == '/' ? "" : "/", segment);
		tr_buf_addc(&path, '\0');
		if (path.failed)
			op->errnum = ENOMEM;
		else if (*rest != '\0')
			match(op, path.data, rest, depth + 1);
		else if (access(path.data, F_OK) == 0)
			add_path(op, dir, segment);
		tr_buf_free(&path);
		return;
	}
	handle = opendir(dir[0] != '\0' ? dir : ".");
	while (handle != NULL && op->text == NULL && op->errnum == 0 &&
		(entry = readdir(handle)) != NULL) { /* NOLINT(concurrency-mt-unsafe): own DIR */
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
			fnmatch(segment, entry->d_name, FNM_PERIOD) != 0)
			continue;
		if (*rest == '\0')
			add_path(op, dir, entry->d_name);
		if (*rest == '\0' && !any_depth)
			continue;
		tr_buf_clear(&path);
		tr_buf_addf(
			&path, "%s%s%s", dir, dir[0] == '\0' || dir[strlen(dir) - 1] == '/' ? "" : "/", entry->d_name);
		tr_buf_addc(&path, '\0');
		if (path.failed)
			op->errnum = ENOMEM;
		else if (is_directory(path.data, !any_depth)) /* `**` follows no links: they may lead round */
			match(op, path.data, any_depth ? pattern : rest, depth + 1);
	}
	if (handle != NULL)
		closedir(handle);
	tr_buf_free(&path);
}

static void
run_glob(struct fs_op *op)
{
	struct tr_buf pattern = op->buf;
	const char *at = pattern.data;

	op->buf = (struct tr_buf){0};
	if (at[0] == '/') /* from the root, whatever the base is */
		match(op, "/", at + strspn(at, "/"), 0);
	else
		match(op, strcmp(op->path, ".") == 0 ? "" : op->path, at, 0);
	tr_buf_free(&pattern);
}

/* A pipe could block its thread for ever. */
static int
open_file(struct fs_op *op, int flags)
{
	int fd = open(op->path, flags | O_CLOEXEC | O_NONBLOCK, 0666);
	struct stat stat;

	if (fd < 0) {
		op->errnum = errno;
	} else if (fstat(fd, &stat) == 0 && (S_ISFIFO(stat.st_mode) || S_ISSOCK(stat.st_mode))) {
		op->text = "a pipe or socket is not a file";
		close(fd);
		fd = -1;
	}
	return fd;
}

static void
run(struct tr_offload *offload)
{
	struct fs_op *op = tr_container_of(offload, struct fs_op, offload);
	int fd;

	switch (op->kind) {
	case FS_OPEN:
		op->file->fd = open_file(op, op->flags);
		break;
	case FS_READ:
		read_bytes(op, op->file->fd);
		break;
	case FS_WRITE:
		write_bytes(op);
		break;
	case FS_SEEK:
		op->number = lseek(op->file->fd, op->number, op->whence);
		op->errnum = op->number < 0 ? errno : 0;
		break;
	case FS_SYNC:
		op->errnum = fdatasync(op->file->fd) != 0 && errno != EINVAL ? errno : 0; /* EINVAL: a pipe */
		break;
	case FS_LOAD:
		fd = open_file(op, O_RDONLY);
		if (fd >= 0) {
			read_bytes(op, fd);
			close(fd);
		}
		break;
	case FS_STAT:
		op->errnum = (op->follow ? stat(op->path, &op->stat) : lstat(op->path, &op->stat)) != 0 ? errno : 0;
		break;
	case FS_LIST:
		list_directory(op);
		break;
	case FS_GLOB:
		run_glob(op);
		break;
	}
}

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
	struct fs_op *op = tr_container_of(offload, struct fs_op, offload);
	struct file **handle;
	const char *at = op->buf.data;

	if (op->buf.failed)
		op->errnum = ENOMEM;
	if (op->text != NULL)
		return tr_push_error(L, TR_ETOOBIG, "%s", op->text);
	if (op->errnum != 0)
		return tr_push_error(L, tr_err_from_errno(op->errnum), "%s",
			strerror(op->errnum)); /* NOLINT(concurrency-mt-unsafe) */
	switch (op->kind) {
	case FS_OPEN:
		handle = lua_newuserdata(L, sizeof(struct file *));
		*handle = op->file;
		op->file->refs++;
		luaL_getmetatable(L, FILE_TYPE);
		lua_setmetatable(L, -2);
		break;
	case FS_READ:
	case FS_LOAD:
		lua_pushlstring(L, op->buf.data != NULL ? op->buf.data : "", op->buf.len);
		break;
	case FS_WRITE:
	case FS_SYNC:
		lua_pushboolean(L, 1);
		break;
	case FS_SEEK:
		lua_pushnumber(L, (lua_Number)op->number);
		break;
	case FS_STAT:
		push_stat(L, &op->stat);
		break;
	case FS_LIST:
	case FS_GLOB:
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

static struct fs_op *
new_op(lua_State *L, enum fs_kind kind, const char *path)
{
	struct fs_op *op = calloc(1, sizeof *op);

	if (op != NULL && path != NULL)
		op->path = strdup(path);
	if (op == NULL || (path != NULL && op->path == NULL)) {
		free(op);
		luaL_error(L, "out of memory");
		return NULL; /* not reached */
	}
	op->kind = kind;
	op->offload.run = run;
	op->offload.push = push;
	op->offload.free = op_free;
	return op;
}

static int
start(lua_State *L, struct fs_op *op)
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
	struct fs_op *op;

	for (size_t i = 0; i < TR_COUNT(modes); i++) {
		if (strcmp(mode, modes[i].name) != 0)
			continue;
		op = new_op(L, FS_OPEN, path);
		op->flags = modes[i].flags;
		op->file = calloc(1, sizeof *op->file);
		if (op->file == NULL) {
			op_free(&op->offload);
			return luaL_error(L, "out of memory");
		}
		*op->file = (struct file){.fd = -1, .refs = 1};
		return start(L, op);
	}
	return luaL_argerror(L, 2, "'r', 'w', 'a', 'r+', 'w+' or 'a+' expected");
}

/* An operation on an open file, one at a time: position and descriptor are shared. Raises. */
static struct fs_op *
file_op(lua_State *L, enum fs_kind kind)
{
	struct file *file = *(struct file **)luaL_checkudata(L, 1, FILE_TYPE);
	struct fs_op *op;

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
	struct fs_op *op;

	luaL_argcheck(L, lua_isnoneornil(L, 2) || (count >= 0 && count <= (lua_Number)READ_MAX), 2,
		"0 to 268435456 bytes expected");
	op = file_op(L, FS_READ);
	op->number = (int64_t)count;
	return start(L, op);
}

/* file:write(bytes) */
static int
l_write(lua_State *L)
{
	struct tr_str bytes;
	struct fs_op *op;

	bytes.data = luaL_checklstring(L, 2, &bytes.len);
	op = file_op(L, FS_WRITE);
	tr_buf_add_str(&op->buf, bytes);
	if (op->buf.failed) {
		op_free(&op->offload);
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
	struct fs_op *op;

	luaL_argcheck(L, offset > -9e15 && offset < 9e15, 3, "a whole number of bytes expected");
	op = file_op(L, FS_SEEK);
	op->whence = whences[whence];
	op->number = (int64_t)offset;
	return start(L, op);
}

/* file:flush(): what was written is on the disk */
static int
l_flush(lua_State *L)
{
	return start(L, file_op(L, FS_SYNC));
}

static int
l_close(lua_State *L)
{
	struct file **handle = luaL_checkudata(L, 1, FILE_TYPE);
	struct file *file = *handle;

	if (file != NULL) {
		file->closed = true;
		file_unref(file);
		*handle = NULL;
	}
	return 0;
}

/* load(path) -> its bytes */
static int
l_load(lua_State *L)
{
	struct fs_op *op = new_op(L, FS_LOAD, check_path(L, 1));

	op->number = -1;
	return start(L, op);
}

/* stat(path, follow) -> fields */
static int
l_stat(lua_State *L)
{
	const char *path = check_path(L, 1);
	bool follow = lua_toboolean(L, 2);
	struct fs_op *op = new_op(L, FS_STAT, path);

	op->follow = follow;
	return start(L, op);
}

/* list(path) -> paths in no order */
static int
l_list(lua_State *L)
{
	return start(L, new_op(L, FS_LIST, check_path(L, 1)));
}

/* glob(pattern, base) -> paths in no order; without braces */
static int
l_glob(lua_State *L)
{
	const char *pattern = check_path(L, 1);
	struct fs_op *op = new_op(L, FS_GLOB, check_path(L, 2));

	tr_buf_addz(&op->buf, pattern);
	tr_buf_addc(&op->buf, '\0');
	if (op->buf.failed) {
		op_free(&op->offload);
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
