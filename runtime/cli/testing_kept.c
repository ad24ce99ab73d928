/* What a runtime under test has made and said: log records and log lines, a line each, kept until they are taken. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cli/testing_internal.h"

#define KEPT_BYTES (256 << 20) /* of records and of log lines that nobody takes */

void
tr_testing_record_made(void *arg, const struct tr_event *event, struct tr_str json)
{
	struct tr_testing *runtime = arg;

	if (runtime->records.len > KEPT_BYTES)
		return;
	tr_buf_add_str(&runtime->records, json);
	tr_buf_addc(&runtime->records, '\n');
}

void
tr_testing_line_logged(void *arg, enum tr_level level, const char *target, const char *text)
{
	static const char *const names[] = {"TRACE", "DEBUG", "INFO", "WARN", "ERROR"};
	struct tr_testing *runtime = arg;
	char moment[32];

	tr_rfc3339(tr_wall_ns() / TR_NS_PER_MS * TR_NS_PER_MS, moment);
	if (runtime->echo)
		fprintf(stderr, "%s %-5s %s: %s\n", moment, names[level], target, text);
	if (level < runtime->log_level || runtime->log.len > KEPT_BYTES)
		return;
	tr_buf_addf(&runtime->log, "%s %-5s %s: ", moment, names[level], target);
	for (; *text != '\0'; text++) { /* one line of ours for each of theirs */
		if (*text == '\n')
			tr_buf_addz(&runtime->log, "\\n");
		else
			tr_buf_addc(&runtime->log, *text);
	}
	tr_buf_addc(&runtime->log, '\n');
}

/* Appends the lines to the list at idx. */
static int
take(lua_State *L, int idx, struct tr_buf *buf)
{
	const char *at = buf->data, *end = at + buf->len, *stop;
	int count;

	luaL_checktype(L, idx, LUA_TTABLE);
	count = (int)lua_objlen(L, idx);
	for (; buf->len > 0 && at < end; at = stop + 1) {
		stop = memchr(at, '\n', (size_t)(end - at)); /* the last one ends with it, too */
		lua_pushlstring(L, at, (size_t)(stop - at));
		lua_rawseti(L, idx, ++count);
	}
	tr_buf_clear(buf);
	return 0;
}

/* runtime:take_records(list): appends the JSON lines since the last call */
int
tr_testing_take_records(lua_State *L)
{
	struct tr_testing *runtime = luaL_checkudata(L, 1, TR_TESTING_TYPE);

	return take(L, 2, &runtime->records);
}

/* runtime:take_log(list): appends the lines since the last call */
int
tr_testing_take_log(lua_State *L)
{
	struct tr_testing *runtime = luaL_checkudata(L, 1, TR_TESTING_TYPE);

	return take(L, 2, &runtime->log);
}
