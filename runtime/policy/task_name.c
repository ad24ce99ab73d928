/* What a task is called: its event, also in _KUMO_CURRENT_EVENT, its ids, and what it waits for. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "message/message.h"
#include "policy/internal.h"

static int
make_event(lua_State *L)
{
	const char *event = lua_touserdata(L, 1);

	lua_pushliteral(L, "_KUMO_CURRENT_EVENT");
	lua_pushstring(L, event);
	lua_rawset(L, LUA_GLOBALSINDEX);
	return 0;
}

void
tr_event_name_set(struct tr_host *host, const char *event)
{
	if (event == NULL || (host->event_name != NULL && strcmp(host->event_name, event) == 0))
		return;
	size_t size = strlen(event) + 1;
	if (host->event_name == NULL || size > host->event_cap) {
		char *copy = realloc(host->event_name, size + 32);
		if (copy == NULL)
			return; /* the global keeps the former event: only a diagnostic suffers */
		if (host->event_name == NULL)
			copy[0] = '\0';
		host->event_name = copy;
		host->event_cap = size + 32;
	}
	if (host->event_name[0] == '\0') { /* the first makes the global, which needs memory */
		if (lua_cpcall(host->L, make_event, (void *)event) == 0)
			memcpy(host->event_name, event, size);
		else
			lua_pop(host->L, 1);
		return;
	}
	if (!tr_anchor_push(host, host->L, "_KUMO_CURRENT_EVENT"))
		return;
	if (!tr_anchor_push(host, host->L, event)) {
		lua_pop(host->L, 1);
		return;
	}
	memcpy(host->event_name, event, size);
	lua_rawset(host->L, LUA_GLOBALSINDEX);
}

const char *
tr_task_ids(const struct tr_task *task, char text[TR_IDS_BYTES])
{
	size_t len;

	if (task->ids == NULL || task->id == NULL)
		return task->ids;
	len = strnlen(task->ids, TR_IDS_BYTES - 34);
	memcpy(text, task->ids, len);
	text[len] = ' ';
	tr_uuid_hex(task->id, text + len + 1);
	return text;
}

void
tr_task_keep_names(struct tr_task *task)
{
	char full[TR_IDS_BYTES];
	size_t event = task->event ? strlen(task->event) + 1 : 0;

	task->ids = tr_task_ids(task, full);
	task->id = NULL;
	size_t ids = task->ids ? strlen(task->ids) + 1 : 0;

	if (event + ids > task->text_cap) {
		char *text = realloc(task->text, event + ids + 64);
		if (text == NULL) {
			task->event = task->event ? "(unknown)" : NULL;
			task->ids = NULL;
			return;
		}
		task->text = text;
		task->text_cap = event + ids + 64;
	}
	if (event > 0)
		task->event = memcpy(task->text, task->event, event);
	if (ids > 0)
		task->ids = memcpy(task->text + event, task->ids, ids);
}

void
tr_task_describe(struct tr_task *task, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(task->what, sizeof task->what, fmt, args);
	va_end(args);
}

void
tr_task_describe_by(struct tr_task *task, const char *(*what_now)(void *op))
{
	task->what_now = what_now;
}

void
tr_task_describe_text(struct tr_task *task, const char *what, const char *more)
{
	size_t len = strnlen(what, sizeof task->what - 1), rest = strnlen(more, sizeof task->what - 1 - len);

	memcpy(task->what, what, len);
	memcpy(task->what + len, more, rest);
	task->what[len + rest] = '\0';
}
