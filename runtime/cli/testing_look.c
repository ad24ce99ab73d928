/* What a runtime under test shows of itself. */
#include <stddef.h>
#include <string.h>

#include "base/json.h"
#include "cli/testing.h"
#include "cli/testing_internal.h"

/* runtime:ledger() -> table by account, as in /api/tailrace/ledger. */
int
tr_testing_ledger(lua_State *L)
{
	struct tr_ledger ledger = {0};
	struct tr_buf json = {0};
	size_t at;

	if (tr_spool_ledger(tr_server_spool(tr_testing_check(L)->server), &ledger) != TR_OK)
		return luaL_error(L, "out of memory");
	tr_ledger_json(&ledger, &json);
	tr_ledger_fini(&ledger);
	tr_json_push(L, (struct tr_str){json.data, json.len}, false, &at);
	tr_buf_free(&json);
	return 1;
}

/* runtime:balances() -> true, or false and what does not balance */
int
tr_testing_balances(lua_State *L)
{
	struct tr_ledger ledger = {0};
	struct tr_buf differences = {0};
	bool fine;

	if (tr_spool_ledger(tr_server_spool(tr_testing_check(L)->server), &ledger) != TR_OK)
		return luaL_error(L, "out of memory");
	fine = tr_ledger_balances(&ledger, &differences);
	tr_ledger_fini(&ledger);
	lua_pushboolean(L, fine);
	lua_pushlstring(L, differences.data != NULL ? differences.data : "", differences.len);
	tr_buf_free(&differences);
	return 2;
}

void
tr_push_figures(lua_State *L, const struct tr_queue_figures *figures)
{
	const struct {
		const char *key;
		uint64_t value;
	} fields[] = {{"line", figures->line}, {"timers", figures->timers}, {"ready", figures->ready},
		{"in_flight", figures->in_flight}, {"undecided", figures->undecided}, {"parked", figures->parked},
		{"sessions", figures->sessions}};

	lua_createtable(L, 0, (int)TR_COUNT(fields));
	for (size_t i = 0; i < TR_COUNT(fields); i++) {
		lua_pushnumber(L, (lua_Number)fields[i].value);
		lua_setfield(L, -2, fields[i].key);
	}
}

/* runtime:figures() -> counts of the queues. */
int
tr_testing_figures(lua_State *L)
{
	struct tr_queue_figures figures;

	tr_engine_figures(tr_server_engine(tr_testing_check(L)->server), &figures);
	tr_push_figures(L, &figures);
	return 1;
}

/* runtime:spool() -> counts of the log; `accepts`: whether intake is taken, `pressure` */
int
tr_testing_spool(lua_State *L)
{
	struct tr_spool *spool = tr_server_spool(tr_testing_check(L)->server);
	struct tr_spool_figures figures;

#define FIELD(name)                                            \
	{                                                      \
#name, offsetof(struct tr_spool_figures, name) \
	}
	static const struct {
		const char *key;
		size_t at;
	} fields[] = {FIELD(live_messages), FIELD(live_bytes), FIELD(log_bytes), FIELD(segments), FIELD(free_segments),
		FIELD(groups), FIELD(changes), FIELD(syncs), FIELD(copied_bytes), FIELD(pending_bytes),
		FIELD(write_errors), FIELD(sync_errors), FIELD(refused), FIELD(damaged_frames)};
#undef FIELD

	tr_spool_figures(spool, &figures);
	lua_createtable(L, 0, (int)TR_COUNT(fields) + 2);
	for (size_t i = 0; i < TR_COUNT(fields); i++) {
		uint64_t value;

		memcpy(&value, (const char *)&figures + fields[i].at, sizeof value);
		lua_pushnumber(L, (lua_Number)value);
		lua_setfield(L, -2, fields[i].key);
	}
	lua_pushboolean(L, tr_spool_accepts(spool, NULL));
	lua_setfield(L, -2, "accepts");
	lua_pushboolean(L, tr_spool_pressure(spool));
	lua_setfield(L, -2, "pressure");
	return 1;
}

/* runtime:tasks() -> text: what of the policy runs or waits now */
int
tr_testing_tasks(lua_State *L)
{
	struct tr_buf text = {0};

	tr_host_report(tr_server_host(tr_testing_check(L)->server), &text);
	lua_pushlstring(L, text.data != NULL ? text.data : "", text.len);
	tr_buf_free(&text);
	return 1;
}
