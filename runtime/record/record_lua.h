/* Policy's side of log records: the functions that configure loggers, and the events that decide about records. */
#ifndef TR_RECORD_LUA_H
#define TR_RECORD_LUA_H

#include "policy/policy.h"
#include "record/record.h"

/* All of ops, events_lua.c. A worker's data (tr_worker_set_data) must be its struct tr_host; the ops' argument is not
 * used. */
void tr_record_lua_ops(struct tr_record_ops *ops);
/* `require 'tr.record'`: functions merged into kumo. They configure the recorder of TR_SERVICE_RECORDER; without one (a
 * validation) they only check. Loggers that another worker's policy has added already are found, not added again. */
int luaopen_tr_record(lua_State *L);

int luaopen_tr_jsonl(lua_State *L); /* jsonl_lua.c */

/* kumo.declare_hook_queue(hook, queue, handler), declare_lua.c. */
int tr_l_declare_hook_queue(lua_State *L);
/* The queue of a declared hook; false: its handler has to be asked. */
bool tr_record_known_queue(struct tr_host *host, const char *hook, struct tr_known *out);

#endif
