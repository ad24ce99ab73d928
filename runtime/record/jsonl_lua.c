/* tr.jsonl: segments of zstd lines, written as the local logs are and read while they grow. lua/kumo/jsonl.lua makes
 * kumo.jsonl of it. All of it is done in threads while the task waits. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include "base/clock.h"
#include "base/file.h"
#include "policy/offload.h"
#include "record/internal.h"
#include "record/record_lua.h"

#define WRITER "tr.jsonl_writer"
#define READER "tr.jsonl_reader"
#define IN_BYTES (128U * 1024)
#define LINE_MAX_BYTES (64U << 20) /* a longer line is damage */
#define CHUNK_BYTES (4U << 20)     /* lines of one read */

/* --- writing ---------------------------------------------------------------------------------------- */

struct writer { /* refs: the handle in Lua, and each operation; counted in the loop's thread */
	int refs;
	struct tr_loop *loop;
	pthread_mutex_t mutex; /* guards segments: one line at a time */
	struct tr_segments *segments;
	struct tr_metric *errors;
	struct tr_timer timer; /* makes written lines visible, ends segments by age */
	bool turning;
};

struct write_op {
	struct tr_offload offload;
	struct writer *writer;
	struct tr_buf line; /* empty: finish */
	bool ends, lost;
};

struct turn_job {
	struct tr_work work;
	struct writer *writer;
	int64_t next_ns;
};

struct finish_job {
	struct tr_work work;
	struct tr_segments *segments;
};

static void
finish_run(struct tr_work *work)
{
	struct finish_job *job = tr_container_of(work, struct finish_job, work);

	tr_segments_free(job->segments);
	job->segments = NULL;
}

static void
finish_done(struct tr_work *work)
{
	struct finish_job *job = tr_container_of(work, struct finish_job, work);

	tr_segments_free(job->segments); /* NULL: done */
	free(job);
}

static void
writer_unref(struct writer *writer)
{
	struct finish_job *job;

	if (writer == NULL || --writer->refs > 0)
		return;
	tr_timer_stop(tr_loop_wheel(writer->loop), &writer->timer);
	job = writer->segments != NULL ? malloc(sizeof *job) : NULL;
	if (job != NULL)
		job->segments = writer->segments;
	if (job == NULL || tr_work_start(writer->loop, &job->work, finish_run, finish_done) != TR_OK) {
		tr_segments_free(writer->segments);
		free(job);
	}
	pthread_mutex_destroy(&writer->mutex);
	free(writer);
}

static void turn_due(struct tr_timer *timer);

static void
arm(struct writer *writer, int64_t next_ns)
{
	int64_t now_ns = tr_mono_ns();

	if (next_ns == INT64_MAX || writer->turning)
		return;
	if (tr_timer_running(&writer->timer) && writer->timer.due_ns <= next_ns)
		return; /* lines that keep coming must not put it off */
	tr_timer_start(
		tr_loop_wheel(writer->loop), &writer->timer, tr_max_i64(next_ns - now_ns, TR_NS_PER_MS), turn_due);
}

static void
turn_run(struct tr_work *work)
{
	struct turn_job *job = tr_container_of(work, struct turn_job, work);

	pthread_mutex_lock(&job->writer->mutex);
	if (job->writer->segments != NULL) {
		tr_segments_turn(job->writer->segments, tr_mono_ns());
		job->next_ns = tr_segments_next_ns(job->writer->segments);
	}
	pthread_mutex_unlock(&job->writer->mutex);
}

static void
turn_done(struct tr_work *work)
{
	struct turn_job *job = tr_container_of(work, struct turn_job, work);

	job->writer->turning = false;
	if (!work->skipped)
		arm(job->writer, job->next_ns);
	writer_unref(job->writer);
	free(job);
}

static void
turn_due(struct tr_timer *timer)
{
	struct writer *writer = tr_container_of(timer, struct writer, timer);
	struct turn_job *job = calloc(1, sizeof *job);

	if (job == NULL)
		return; /* with the next line */
	job->writer = writer;
	job->next_ns = INT64_MAX;
	if (tr_work_start(writer->loop, &job->work, turn_run, turn_done) == TR_OK) {
		writer->refs++;
		writer->turning = true;
	} else {
		free(job);
	}
}

static void
write_run(struct tr_offload *offload)
{
	struct write_op *op = tr_container_of(offload, struct write_op, offload);
	struct writer *writer = op->writer;
	int64_t before;

	pthread_mutex_lock(&writer->mutex);
	before = atomic_load(&writer->errors->value);
	if (writer->segments != NULL && op->ends) {
		tr_segments_free(writer->segments);
		writer->segments = NULL;
	} else if (writer->segments != NULL) {
		tr_segments_write(writer->segments, (struct tr_str){op->line.data, op->line.len}, NULL, tr_mono_ns());
	}
	op->lost = atomic_load(&writer->errors->value) != before;
	pthread_mutex_unlock(&writer->mutex);
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
		arm(op->writer, tr_mono_ns() + TR_NS_PER_S);
	writer_unref(op->writer);
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
	struct writer **handle = lua_newuserdata(L, sizeof(struct writer *));
	int err;

	*handle = NULL;
	luaL_getmetatable(L, WRITER);
	lua_setmetatable(L, -2);
	err = lua_toboolean(L, 6) ? tr_file_mkdirs(dir, 0755) : 0;
	if (err != 0)
		return tr_push_error(
			L, tr_err_from_errno(-err), "%s", strerror(-err)); /* NOLINT(concurrency-mt-unsafe) */
	*handle = calloc(1, sizeof **handle);
	if (*handle == NULL)
		return luaL_error(L, "out of memory");
	(*handle)->refs = 1;
	(*handle)->loop = tr_host_loop(tr_host_of(L));
	pthread_mutex_init(&(*handle)->mutex, NULL);
	(*handle)->errors = tr_metric_get(
		TR_COUNTER, "tailrace_jsonl_lost_lines", "lines of kumo.jsonl that were lost", "log_dir", dir, NULL);
	config.errors = (*handle)->errors;
	if (tr_segments_new(&config, &(*handle)->segments) != TR_OK)
		return luaL_error(L, "out of memory");
	return 1;
}

/* writer:write(line) and writer:finish() -> true, or nil, message, code */
static int
start_write(lua_State *L, bool ends)
{
	struct writer *writer = *(struct writer **)luaL_checkudata(L, 1, WRITER);
	struct tr_str line = {NULL, 0};
	struct write_op *op;

	if (!ends)
		line.data = luaL_checklstring(L, 2, &line.len);
	op = calloc(1, sizeof *op);
	if (op == NULL)
		return luaL_error(L, "out of memory");
	op->writer = writer;
	writer->refs++;
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
	struct writer **handle = luaL_checkudata(L, 1, WRITER);

	writer_unref(*handle);
	*handle = NULL;
	return 0;
}

/* --- reading --------------------------------------------------------------------------------------------- */

struct reader {
	int refs;
	bool busy;
	int fd;
	ZSTD_DCtx *zstd;
	char *in; /* IN_BYTES */
	ZSTD_inBuffer rest;
	struct tr_buf line; /* decoded, its end is not there yet */
};

struct read_op {
	struct tr_offload offload;
	struct reader *reader;
	struct tr_buf lines; /* each ends with a newline */
	size_t count, max;
	bool at_end, finished; /* nothing more now; nobody writes to it any more */
	int errnum;
	const char *text; /* of damage; static */
};

static void
reader_unref(struct reader *reader)
{
	if (reader == NULL || --reader->refs > 0)
		return;
	if (reader->fd >= 0)
		close(reader->fd);
	ZSTD_freeDCtx(reader->zstd);
	tr_buf_free(&reader->line);
	free(reader->in);
	free(reader);
}

/* Moves whole lines to the operation, as many as it wants; false: it has enough. */
static bool
take_lines(struct read_op *op)
{
	struct tr_buf *line = &op->reader->line;
	size_t at = 0;

	while (op->count < op->max && op->lines.len < CHUNK_BYTES) {
		const char *end = at < line->len ? memchr(line->data + at, '\n', line->len - at) : NULL;
		if (end == NULL)
			break;
		size_t len = (size_t)(end - line->data) + 1 - at;
		tr_buf_add(&op->lines, line->data + at, len);
		op->count++;
		at += len;
	}
	tr_buf_consume(line, at);
	return op->count < op->max && op->lines.len < CHUNK_BYTES;
}

static bool
decode(struct read_op *op)
{
	struct reader *reader = op->reader;
	char *at = tr_buf_reserve(&reader->line, IN_BYTES);
	ZSTD_outBuffer out = {at, IN_BYTES, 0};
	size_t result;

	if (at == NULL) {
		op->errnum = ENOMEM;
		return false;
	}
	result = ZSTD_decompressStream(reader->zstd, &out, &reader->rest);
	if (ZSTD_isError(result)) {
		op->text = ZSTD_getErrorName(result);
		return false;
	}
	reader->line.len += out.pos;
	if (reader->line.len > LINE_MAX_BYTES && memchr(reader->line.data, '\n', reader->line.len) == NULL) {
		op->text = "a line of more than 64 MiB";
		return false;
	}
	return true;
}

static void
read_run(struct tr_offload *offload)
{
	struct read_op *op = tr_container_of(offload, struct read_op, offload);
	struct reader *reader = op->reader;
	struct stat stat;
	ssize_t got;

	/* asked before the bytes: what is written in between is not missed */
	op->finished = fstat(reader->fd, &stat) == 0 && (stat.st_mode & 0222) == 0;
	while (take_lines(op)) {
		if (reader->rest.pos < reader->rest.size) {
			if (!decode(op))
				return;
			continue;
		}
		got = read(reader->fd, reader->in, IN_BYTES);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0) {
			op->errnum = errno;
			return;
		}
		if (got == 0) { /* zstd may still hold some */
			size_t before = reader->line.len;
			if (!decode(op))
				return;
			if (reader->line.len > before)
				continue;
			op->at_end = true;
			return;
		}
		reader->rest = (ZSTD_inBuffer){reader->in, (size_t)got, 0};
	}
}

static int
read_push(lua_State *L, struct tr_offload *offload)
{
	struct read_op *op = tr_container_of(offload, struct read_op, offload);
	const char *at = op->lines.data;

	if (op->lines.failed)
		op->errnum = ENOMEM;
	if (op->errnum != 0)
		return tr_push_error(L, tr_err_from_errno(op->errnum), "%s",
			strerror(op->errnum)); /* NOLINT(concurrency-mt-unsafe) */
	lua_createtable(L, (int)op->count, 0);
	for (size_t i = 1; i <= op->count; i++) {
		const char *end = memchr(at, '\n', op->lines.len - (size_t)(at - op->lines.data));
		lua_pushlstring(L, at, (size_t)(end - at));
		lua_rawseti(L, -2, (int)i);
		at = end + 1;
	}
	if (op->text != NULL) /* what was read before the damage counts */
		lua_pushfstring(L, "damaged: %s", op->text);
	else
		lua_pushstring(L, !op->at_end ? "more" : op->finished ? "finished" : "end");
	return 2;
}

static void
read_free(struct tr_offload *offload)
{
	struct read_op *op = tr_container_of(offload, struct read_op, offload);

	op->reader->busy = false;
	reader_unref(op->reader);
	tr_buf_free(&op->lines);
	free(op);
}

/* reader(path) -> reader, or nil, message, code */
static int
l_reader(lua_State *L)
{
	const char *path = luaL_checkstring(L, 1);
	struct reader **handle = lua_newuserdata(L, sizeof(struct reader *)), *reader;

	*handle = NULL;
	luaL_getmetatable(L, READER);
	lua_setmetatable(L, -2);
	reader = calloc(1, sizeof *reader);
	if (reader == NULL)
		return luaL_error(L, "out of memory");
	*handle = reader;
	reader->refs = 1;
	reader->zstd = ZSTD_createDCtx();
	reader->in = malloc(IN_BYTES);
	reader->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (reader->zstd == NULL || reader->in == NULL)
		return luaL_error(L, "out of memory");
	if (reader->fd < 0)
		return tr_push_error(
			L, tr_err_from_errno(errno), "%s", strerror(errno)); /* NOLINT(concurrency-mt-unsafe) */
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
