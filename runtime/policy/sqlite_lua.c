/* tr.sqlite: SQLite databases, one statement a call, in threads of base/work.h while the task waits.
 * lua/kumo/sqlite.lua makes the module `sqlite` of it. What SQLite did is told as nil, message, code. */
#include <math.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "policy/library.h"
#include "policy/offload.h"

#define DATABASE "tr.sqlite"
#define RESULT_MAX (64U << 20)   /* bytes that one statement may give: they become Lua values at once */
#define STEPS_BETWEEN_LOOKS 1000 /* of SQLite's machine, until it looks whether somebody still waits */

struct db { /* refs: the handle in Lua, and each statement under way; counted in the loop's thread */
	int refs;
	sqlite3 *handle; /* its own mutex keeps statements of several tasks apart */
	struct tr_loop *loop;
};

struct value {
	char type; /* N nil, i integer, d real, s text */
	int64_t integer;
	double real;
	size_t text_at, len;
};

struct sql_op {
	struct tr_offload offload;
	struct db *db;
	bool opens;
	int busy_ms;
	char *sql; /* or the path */
	struct value *values;
	size_t *names_at; /* NULL: by position */
	size_t count;
	struct tr_buf text;    /* of values and names */
	struct tr_buf result;  /* rows: for each column its type, then 8 bytes or counted bytes */
	struct tr_buf columns; /* names, each with its NUL */
	int column_count;
	size_t rows;
	int64_t changes;
	_Atomic bool stop;
	int code; /* SQLite's; 0: done */
	struct tr_buf error;
};

/* --- closing ------------------------------------------------------------------------------------- */

struct close_job {
	struct tr_work work;
	sqlite3 *handle;
};

static void
close_run(struct tr_work *work)
{
	struct close_job *job = tr_container_of(work, struct close_job, work);

	sqlite3_close_v2(job->handle);
	job->handle = NULL;
}

static void
close_done(struct tr_work *work)
{
	struct close_job *job = tr_container_of(work, struct close_job, work);

	sqlite3_close_v2(job->handle); /* NULL: done */
	free(job);
}

/* The last one closes, which may write much, in a thread. */
static void
db_unref(struct db *db)
{
	struct close_job *job;

	if (db == NULL || --db->refs > 0)
		return;
	job = db->handle != NULL ? malloc(sizeof *job) : NULL;
	if (job != NULL)
		job->handle = db->handle;
	if (job == NULL || tr_work_start(db->loop, &job->work, close_run, close_done) != TR_OK) {
		sqlite3_close_v2(db->handle);
		free(job);
	}
	free(db);
}

static void
op_free(struct tr_offload *offload)
{
	struct sql_op *op = tr_container_of(offload, struct sql_op, offload);

	db_unref(op->db);
	tr_buf_free(&op->text);
	tr_buf_free(&op->result);
	tr_buf_free(&op->columns);
	tr_buf_free(&op->error);
	free(op->values);
	free(op->names_at);
	free(op->sql);
	free(op);
}

/* --- in a thread ------------------------------------------------------------------------------------ */

static void
fail(struct sql_op *op, int code, const char *text)
{
	op->code = code;
	tr_buf_addz(&op->error, text);
	tr_buf_addc(&op->error, '\0');
}

static int
look(void *arg)
{
	return atomic_load(&((struct sql_op *)arg)->stop);
}

static void
open_run(struct tr_offload *offload)
{
	struct sql_op *op = tr_container_of(offload, struct sql_op, offload);
	int code = sqlite3_open_v2(
		op->sql, &op->db->handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, NULL);

	if (code != SQLITE_OK) {
		fail(op, code, op->db->handle != NULL ? sqlite3_errmsg(op->db->handle) : sqlite3_errstr(code));
		return;
	}
	sqlite3_extended_result_codes(op->db->handle, 1);
	sqlite3_busy_timeout(op->db->handle, op->busy_ms);
}

/* SQLite's number of a parameter; 0: there is none. */
static int
parameter(sqlite3_stmt *statement, const struct sql_op *op, size_t i)
{
	return op->names_at != NULL ? sqlite3_bind_parameter_index(statement, op->text.data + op->names_at[i])
				    : (int)i + 1;
}

static int
bind(sqlite3_stmt *statement, const struct value *value, const char *text, int at)
{
	switch (value->type) {
	case 'i':
		return sqlite3_bind_int64(statement, at, value->integer);
	case 'd':
		return sqlite3_bind_double(statement, at, value->real);
	case 's':
		return sqlite3_bind_text64(
			statement, at, text + value->text_at, value->len, SQLITE_STATIC, SQLITE_UTF8);
	default:
		return sqlite3_bind_null(statement, at);
	}
}

static bool
bind_all(struct sql_op *op, sqlite3_stmt *statement)
{
	int expected = sqlite3_bind_parameter_count(statement);

	for (size_t i = 0; i < op->count; i++) {
		int at = parameter(statement, op, i);

		if (at == 0) {
			tr_buf_addf(&op->error, "the statement has no parameter %s", op->text.data + op->names_at[i]);
			fail(op, SQLITE_RANGE, "");
			return false;
		}
		if (at > expected) {
			tr_buf_addf(&op->error, "%zu values for a statement with %d parameters", op->count, expected);
			fail(op, SQLITE_RANGE, "");
			return false;
		}
		int code = bind(statement, &op->values[i], op->text.data, at);
		if (code != SQLITE_OK) {
			fail(op, code, sqlite3_errmsg(op->db->handle));
			return false;
		}
	}
	return true;
}

static void
add_row(struct sql_op *op, sqlite3_stmt *statement)
{
	for (int i = 0; i < op->column_count; i++) {
		double real;
		uint64_t bits;
		const void *bytes;

		switch (sqlite3_column_type(statement, i)) {
		case SQLITE_INTEGER:
			tr_buf_put_u8(&op->result, 'i');
			tr_buf_put_u64(&op->result, (uint64_t)sqlite3_column_int64(statement, i));
			break;
		case SQLITE_FLOAT:
			real = sqlite3_column_double(statement, i);
			memcpy(&bits, &real, sizeof bits);
			tr_buf_put_u8(&op->result, 'd');
			tr_buf_put_u64(&op->result, bits);
			break;
		case SQLITE_NULL:
			tr_buf_put_u8(&op->result, 'N');
			break;
		default: /* text and blobs */
			bytes = sqlite3_column_blob(statement, i);
			tr_buf_put_u8(&op->result, 's');
			tr_buf_put_bytes(&op->result, (struct tr_str){bytes != NULL ? bytes : "",
							      (size_t)sqlite3_column_bytes(statement, i)});
		}
	}
	op->rows++;
}

static void
step_all(struct sql_op *op, sqlite3_stmt *statement)
{
	int code;

	op->column_count = sqlite3_column_count(statement);
	for (int i = 0; i < op->column_count; i++) {
		tr_buf_addz(&op->columns, sqlite3_column_name(statement, i));
		tr_buf_addc(&op->columns, '\0');
	}
	while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
		add_row(op, statement);
		if (op->result.len > RESULT_MAX) {
			fail(op, SQLITE_TOOBIG, "the rows have more than 64 MiB: ask for fewer at a time");
			return;
		}
	}
	if (code != SQLITE_DONE)
		fail(op, code, sqlite3_errmsg(op->db->handle));
	op->changes = sqlite3_changes64(op->db->handle);
}

static void
execute_run(struct tr_offload *offload)
{
	struct sql_op *op = tr_container_of(offload, struct sql_op, offload);
	sqlite3 *handle = op->db->handle;
	sqlite3_stmt *statement = NULL;
	int code;

	/* messages and counts belong to the connection: nobody else's in between */
	sqlite3_mutex_enter(sqlite3_db_mutex(handle));
	sqlite3_progress_handler(handle, STEPS_BETWEEN_LOOKS, look, op);
	code = sqlite3_prepare_v2(handle, op->sql, -1, &statement, NULL);
	if (code != SQLITE_OK)
		fail(op, code, sqlite3_errmsg(handle));
	else if (statement == NULL)
		fail(op, SQLITE_MISUSE, "there is no statement");
	else if (bind_all(op, statement))
		step_all(op, statement);
	sqlite3_finalize(statement);
	sqlite3_progress_handler(handle, 0, NULL, NULL);
	sqlite3_mutex_leave(sqlite3_db_mutex(handle));
}

static void
interrupt(struct tr_offload *offload)
{
	atomic_store(&tr_container_of(offload, struct sql_op, offload)->stop, true);
}

/* --- results ------------------------------------------------------------------------------------------ */

static int
tr_err_of(int code)
{
	switch (code & 0xff) {
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return TR_EAGAIN;
	case SQLITE_FULL:
		return TR_ENOSPC;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return TR_ECORRUPT;
	case SQLITE_NOMEM:
		return TR_ENOMEM;
	case SQLITE_TOOBIG:
		return TR_ETOOBIG;
	case SQLITE_CANTOPEN:
	case SQLITE_IOERR:
	case SQLITE_READONLY:
		return TR_EIO;
	default:
		return TR_EINVAL;
	}
}

static void
push_value(lua_State *L, struct tr_reader *in)
{
	char type = (char)tr_read_u8(in);
	struct tr_str text;
	uint64_t bits;
	double real;

	if (type == 's') {
		text = tr_read_bytes(in);
		lua_pushlstring(L, text.data, text.len);
	} else if (type == 'N') {
		lua_pushnil(L);
	} else {
		bits = tr_read_u64(in);
		memcpy(&real, &bits, sizeof real);
		lua_pushnumber(L, type == 'i' ? (lua_Number)(int64_t)bits : real);
	}
}

static void
push_rows(lua_State *L, const struct sql_op *op)
{
	struct tr_reader in = {op->result.data, op->result.data + op->result.len, false};

	lua_createtable(L, (int)op->rows, 0);
	tr_json_set_array(L, -1);
	for (size_t row = 1; row <= op->rows; row++) {
		const char *name = op->columns.data;

		if (op->column_count == 1) {
			push_value(L, &in);
		} else {
			lua_createtable(L, 0, op->column_count);
			for (int i = 0; i < op->column_count; i++, name += strlen(name) + 1) {
				push_value(L, &in);
				lua_setfield(L, -2, name);
			}
		}
		lua_rawseti(L, -2, (int)row);
	}
}

static int
push(lua_State *L, struct tr_offload *offload)
{
	struct sql_op *op = tr_container_of(offload, struct sql_op, offload);
	struct db **handle;

	if (op->error.failed || op->result.failed || op->columns.failed)
		return tr_push_error(L, TR_ENOMEM, "out of memory");
	if (op->code != 0)
		return tr_push_error(L, tr_err_of(op->code), "%s", op->error.data);
	if (op->opens) {
		handle = lua_newuserdata(L, sizeof(struct db *));
		*handle = op->db;
		op->db->refs++;
		luaL_getmetatable(L, DATABASE);
		lua_setmetatable(L, -2);
	} else if (op->column_count == 0) {
		lua_pushnumber(L, (lua_Number)op->changes);
	} else {
		push_rows(L, op);
	}
	return 1;
}

/* --- calls ---------------------------------------------------------------------------------------------- */

static struct sql_op *
new_op(lua_State *L, const char *sql, size_t count, bool named)
{
	struct sql_op *op = calloc(1, sizeof *op);
	bool good = op != NULL;

	if (good) {
		op->sql = strdup(sql);
		op->values = calloc(count + 1, sizeof *op->values);
		op->names_at = named ? calloc(count + 1, sizeof *op->names_at) : NULL;
		op->offload.push = push;
		op->offload.free = op_free;
		op->offload.interrupt = interrupt;
		good = op->sql != NULL && op->values != NULL && (!named || op->names_at != NULL);
	}
	if (!good) {
		if (op != NULL)
			op_free(&op->offload);
		luaL_error(L, "out of memory");
	}
	return op;
}

/* open(path, busy_ms) -> database */
static int
l_open(lua_State *L)
{
	const char *path = luaL_checkstring(L, 1);
	int busy_ms = (int)luaL_checkinteger(L, 2);
	struct sql_op *op = new_op(L, path, 0, false);

	op->opens = true;
	op->busy_ms = busy_ms;
	op->offload.run = open_run;
	op->db = calloc(1, sizeof *op->db);
	if (op->db == NULL) {
		op_free(&op->offload);
		return luaL_error(L, "out of memory");
	}
	op->db->refs = 1;
	op->db->loop = tr_host_loop(tr_host_of(L));
	return tr_offload(L, &op->offload, TR_OFFLOAD_LIMIT_NS, "sqlite open ", path);
}

/* Copies values[i] at index `values`, with its name if there are names. */
static void
take_value(lua_State *L, struct sql_op *op, int i, int values, int names)
{
	struct value *value = &op->values[i];
	const char *text;

	if (names != 0) {
		lua_rawgeti(L, names, i + 1);
		op->names_at[i] = op->text.len;
		tr_buf_addc(&op->text, ':');
		tr_buf_addz(&op->text, lua_tostring(L, -1));
		tr_buf_addc(&op->text, '\0');
		lua_pop(L, 1);
	}
	lua_rawgeti(L, values, i + 1);
	value->type = 'N';
	if (lua_type(L, -1) == LUA_TNUMBER) {
		value->real = lua_tonumber(L, -1);
		value->type = value->real == floor(value->real) && fabs(value->real) < 9.2e18 ? 'i' : 'd';
		value->integer = value->type == 'i' ? (int64_t)value->real : 0;
	} else if (lua_type(L, -1) == LUA_TSTRING) {
		text = lua_tolstring(L, -1, &value->len);
		value->type = 's';
		value->text_at = op->text.len;
		tr_buf_add(&op->text, text, value->len);
		tr_buf_addc(&op->text, '\0');
	}
	lua_pop(L, 1);
}

/* db:execute(sql, limit_s, count, values, [names]) -> changes or rows */
static int
l_execute(lua_State *L)
{
	struct db *db = *(struct db **)luaL_checkudata(L, 1, DATABASE);
	const char *sql = luaL_checkstring(L, 2);
	double limit_s = luaL_checknumber(L, 3);
	int count = (int)luaL_checkinteger(L, 4);
	bool named = lua_istable(L, 6);
	struct sql_op *op;

	luaL_checktype(L, 5, LUA_TTABLE);
	if (db == NULL)
		return luaL_error(L, "connection was closed");
	luaL_argcheck(L, limit_s > 0 && limit_s < 9e9, 3, "a limit > 0 expected");
	luaL_argcheck(L, count >= 0 && count <= 32766, 4, "at most 32766 values expected");
	op = new_op(L, sql, (size_t)count, named);
	op->offload.run = execute_run;
	op->db = db;
	db->refs++;
	op->count = (size_t)count;
	for (int i = 0; i < count; i++)
		take_value(L, op, i, 5, named ? 6 : 0);
	if (op->text.failed) {
		op_free(&op->offload);
		return luaL_error(L, "out of memory");
	}
	return tr_offload(L, &op->offload, (int64_t)(limit_s * TR_NS_PER_S), "sqlite ", sql);
}

static int
l_close(lua_State *L)
{
	struct db **handle = luaL_checkudata(L, 1, DATABASE);
	struct db *db = *handle;

	*handle = NULL;
	db_unref(db);
	return 0;
}

int
luaopen_tr_sqlite(lua_State *L)
{
	static const luaL_Reg functions[] = {{"open", l_open}, {NULL, NULL}};
	static const luaL_Reg methods[] = {{"execute", l_execute}, {"close", l_close}, {"__gc", l_close}, {NULL, NULL}};

	luaL_newmetatable(L, DATABASE);
	lua_pushvalue(L, -1);
	lua_setfield(L, -2, "__index");
	luaL_register(L, NULL, methods);
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
