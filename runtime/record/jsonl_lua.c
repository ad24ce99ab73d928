/* tr.jsonl: segments of zstd lines, written as the local logs are and read while they grow. lua/kumo/jsonl.lua makes
 * kumo.jsonl of it. All of it is done in threads while the task waits. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "base/file.h"
#include "policy/offload.h"
#include "record/jsonl.h"
#include "record/record_lua.h"
#include "record/segment_reader.h"

#define WRITER "tr.jsonl_writer"
#define READER "tr.jsonl_reader"

/* --- writing ---------------------------------------------------------------------------------------- */

struct write_op {
	struct tr_offload offload;
	struct tr_jsonl_writer *writer;
	struct tr_buf line; /* empty: finish */
	bool ends, lost;
};

static void
write_run(struct tr_offload *offload)
{
	struct write_op *op = tr_container_of(offload, struct write_op, offload);

	op->lost = op->ends ? !tr_jsonl_writer_finish(op->writer)
			    : !tr_jsonl_writer_write(op->writer, (struct tr_str){op->line.data, op->line.len});
}

static int
write_push(lua_State *L, struct tr_offload *offload)
{
	struct write_op *op = tr_container_of(offload, struct write_op, offload);

	if (op->lost)
		return tr_push_error(
			L, TR_EIO, "the segment cannot be written, lines of it are lost: the log says why");
	lua_pushboolean(L, 1);
	return 1;
}

static void
write_free(struct tr_offload *offload)
{
	struct write_op *op = tr_container_of(offload, struct write_op, offload);

	if (!op->ends)
		tr_jsonl_writer_show(op->writer);
	tr_jsonl_writer_unref(op->writer);
	tr_buf_free(&op->line);
	free(op);
}

/* writer(dir, suffix, max_bytes, max_age_s, level, makes_dir) -> writer, or nil, message, code */
static int
l_writer(lua_State *L)
{
	const char *dir = luaL_checkstring(L, 1);
	struct tr_segments_config config = {
		.dir = dir,
		.suffix = luaL_optstring(L, 2, ""),
		.max_bytes = (uint64_t)luaL_checknumber(L, 3),
		.max_age_ns = (int64_t)(luaL_checknumber(L, 4) * TR_NS_PER_S),
		.level = (int)luaL_checkinteger(L, 5),
		.label = "jsonl",
	};
	struct tr_jsonl_writer **handle = lua_newuserdata(L, sizeof(struct tr_jsonl_writer *));
	int err;

	*handle = NULL;
	luaL_getmetatable(L, WRITER);
	lua_setmetatable(L, -2);
	err = lua_toboolean(L, 6) ? tr_file_mkdirs(dir, 0755) : 0;
	if (err != 0)
		return tr_push_error(
			L, tr_err_from_errno(-err), "%s", strerror(-err)); /* NOLINT(concurrency-mt-unsafe) */
	if (tr_jsonl_writer_new(tr_host_loop(tr_host_of(L)), &config, handle) != TR_OK)
		return luaL_error(L, "out of memory");
	return 1;
}

/* writer:write(line) and writer:finish() -> true, or nil, message, code */
static int
start_write(lua_State *L, bool ends)
{
	struct tr_jsonl_writer *writer = *(struct tr_jsonl_writer **)luaL_checkudata(L, 1, WRITER);
	struct tr_str line = {NULL, 0};
	struct write_op *op;

	if (!ends)
		line.data = luaL_checklstring(L, 2, &line.len);
	op = calloc(1, sizeof *op);
	if (op == NULL)
		return luaL_error(L, "out of memory");
	op->writer = tr_jsonl_writer_ref(writer);
	op->ends = ends;
	tr_buf_add_str(&op->line, line);
	op->offload.run = write_run;
	op->offload.push = write_push;
	op->offload.free = write_free;
	if (op->line.failed) {
		write_free(&op->offload);
		return luaL_error(L, "out of memory");
	}
	return tr_offload(L, &op->offload, TR_OFFLOAD_LIMIT_NS, "jsonl write", "");
}

static int
l_write(lua_State *L)
{
	return start_write(L, false);
}

static int
l_finish(lua_State *L)
{
	return start_write(L, true);
}

static int
l_writer_gc(lua_State *L)
{
	struct tr_jsonl_writer **handle = luaL_checkudata(L, 1, WRITER);

	tr_jsonl_writer_unref(*handle);
	*handle = NULL;
	return 0;
}

/* --- reading --------------------------------------------------------------------------------------------- */

struct reader { /* of the handle and of the read under way, whoever ends last */
	int refs;
	bool busy;
	struct tr_segment_reader *segment; /* NULL: it could not be opened */
};

struct read_op {
	struct tr_offload offload;
	struct reader *reader;
	size_t max;
	struct tr_segment_lines lines;
};

static void
reader_unref(struct reader *reader)
{
	if (reader == NULL || --reader->refs > 0)
		return;
	tr_segment_reader_free(reader->segment);
	free(reader);
}

static void
read_run(struct tr_offload *offload)
{
	struct read_op *op = tr_container_of(offload, struct read_op, offload);

	tr_segment_reader_read(op->reader->segment, op->max, &op->lines);
}

static int
read_push(lua_State *L, struct tr_offload *offload)
{
	static const char *const states[] = {"more", "end", "finished"};
	struct read_op *op = tr_container_of(offload, struct read_op, offload);
	const struct tr_segment_lines *lines = &op->lines;
	const char *at = lines->text.data;

	if (lines->state == TR_SEGMENT_FAILED)
		return tr_push_error(L, tr_err_from_errno(lines->errnum), "%s",
			strerror(lines->errnum)); /* NOLINT(concurrency-mt-unsafe) */
	lua_createtable(L, (int)lines->count, 0);
	for (size_t i = 1; i <= lines->count; i++) {
		const char *end = memchr(at, '\n', lines->text.len - (size_t)(at - lines->text.data));
		lua_pushlstring(L, at, (size_t)(end - at));
		lua_rawseti(L, -2, (int)i);
		at = end + 1;
	}
	if (lines->state == TR_SEGMENT_DAMAGED) /* what was read before the damage counts */
		lua_pushfstring(L, "damaged: %s", lines->damage);
	else
		lua_pushstring(L, states[lines->state]);
	return 2;
}

static void
read_free(struct tr_offload *offload)
{
	struct read_op *op = tr_container_of(offload, struct read_op, offload);

	op->reader->busy = false;
	reader_unref(op->reader);
	tr_buf_free(&op->lines.text);
	free(op);
}

/* reader(path) -> reader, or nil, message, code */
static int
l_reader(lua_State *L)
{
	const char *path = luaL_checkstring(L, 1);
	struct reader **handle = lua_newuserdata(L, sizeof(struct reader *));
	int fd;

	*handle = NULL;
	luaL_getmetatable(L, READER);
	lua_setmetatable(L, -2);
	*handle = calloc(1, sizeof **handle);
	if (*handle == NULL)
		return luaL_error(L, "out of memory");
	(*handle)->refs = 1;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return tr_push_error(
			L, tr_err_from_errno(errno), "%s", strerror(errno)); /* NOLINT(concurrency-mt-unsafe) */
	if (tr_segment_reader_new(fd, &(*handle)->segment) != TR_OK)
		return luaL_error(L, "out of memory");
	return 1;
}

/* reader:read(max) -> lines, "more" | "end" | "finished" | "damaged: why"; or nil, message, code */
static int
l_read(lua_State *L)
{
	struct reader *reader = *(struct reader **)luaL_checkudata(L, 1, READER);
	lua_Integer max = luaL_checkinteger(L, 2);
	struct read_op *op;

	luaL_argcheck(L, max >= 1 && max <= 1000000, 2, "1 to 1000000 expected");
	if (reader == NULL || reader->busy)
		return luaL_error(L, "the segment is closed, or read by another task");
	op = calloc(1, sizeof *op);
	if (op == NULL)
		return luaL_error(L, "out of memory");
	op->reader = reader;
	reader->refs++;
	reader->busy = true;
	op->max = (size_t)max;
	op->offload.run = read_run;
	op->offload.push = read_push;
	op->offload.free = read_free;
	return tr_offload(L, &op->offload, TR_OFFLOAD_LIMIT_NS, "jsonl read", "");
}

static int
l_reader_close(lua_State *L)
{
	struct reader **handle = luaL_checkudata(L, 1, READER);

	reader_unref(*handle);
	*handle = NULL;
	return 0;
}

int
luaopen_tr_jsonl(lua_State *L)
{
	static const luaL_Reg functions[] = {{"writer", l_writer}, {"reader", l_reader}, {NULL, NULL}};
	static const luaL_Reg writer[] = {
		{"write", l_write}, {"finish", l_finish}, {"__gc", l_writer_gc}, {NULL, NULL}};
	static const luaL_Reg reader[] = {
		{"read", l_read}, {"close", l_reader_close}, {"__gc", l_reader_close}, {NULL, NULL}};

	luaL_newmetatable(L, WRITER);
	lua_pushvalue(L, -1);
	lua_setfield(L, -2, "__index");
	luaL_register(L, NULL, writer);
	luaL_newmetatable(L, READER);
	lua_pushvalue(L, -1);
	lua_setfield(L, -2, "__index");
	luaL_register(L, NULL, reader);
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
