/* What comes in, for tests: a message as if by ESMTP, a log record as if something had happened. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cli/testing_internal.h"
#include "ingress/receive.h"

/* --- messages ----------------------------------------------------------------------------------------------------- */

struct reception {
	struct tr_ticket ticket;
	struct tr_receive *receive; /* while it is under way */
	bool ended, parked;
	int status;
	char id[33];
	char error[256];
};

static int
push_reception(lua_State *L, void *arg)
{
	const struct reception *reception = arg;

	if (reception->status == TR_OK && reception->error[0] == '\0') {
		lua_pushstring(L, reception->id);
		return 1;
	}
	lua_pushnil(L);
	lua_pushstring(L, reception->error);
	return 2;
}

static void
received(struct tr_receive *receive, int status)
{
	struct reception *reception = receive->owner;

	reception->receive = NULL;
	reception->ended = true;
	reception->status = status;
	memcpy(reception->id, receive->items[0].id, sizeof reception->id);
	snprintf(reception->error, sizeof reception->error, "%s",
		receive->items[0].error ? receive->items[0].error
		: status == TR_OK       ? ""
					: tr_err_text(status));
	if (!reception->parked)
		return;
	tr_task_wake(&reception->ticket, push_reception, reception, false);
	free(reception);
}

static void
reception_cancel(void *op)
{
	struct reception *reception = op;

	tr_receive_forget(reception->receive);
	free(reception);
}

/* meta: a table of texts at the top. */
static int
take_meta(lua_State *L, struct tr_meta *meta)
{
	int err = TR_OK;

	if (!lua_istable(L, -1))
		return TR_OK;
	for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1)) {
		struct tr_str key, value;

		if (lua_type(L, -2) != LUA_TSTRING || !lua_isstring(L, -1))
			continue;
		key = tr_str(lua_tostring(L, -2));
		value.data = lua_tolstring(L, -1, &value.len);
		if (err == TR_OK)
			err = tr_meta_set_string(meta, key, value);
	}
	return err;
}

static int
fill_message(lua_State *L, int idx, struct tr_message *message)
{
	size_t len;
	const char *text = tr_opt_string(L, idx, "from", "sender@example.com", &len);
	int err = tr_message_set_sender(message, (struct tr_str){text, len});

	lua_getfield(L, idx, "to");
	if (lua_istable(L, -1)) {
		for (int i = 1; err == TR_OK; i++) {
			lua_rawgeti(L, -1, i);
			if (lua_isnil(L, -1)) {
				lua_pop(L, 1);
				break;
			}
			text = lua_tolstring(L, -1, &len);
			err = text != NULL ? tr_message_add_rcpt(message, (struct tr_str){text, len}) : TR_EINVAL;
			lua_pop(L, 1);
		}
	} else if (err == TR_OK) {
		text = lua_isnil(L, -1) ? NULL : lua_tolstring(L, -1, &len);
		err = tr_message_add_rcpt(
			message, text != NULL ? (struct tr_str){text, len} : TR_STR("rcpt@example.org"));
	}
	lua_pop(L, 1);
	if (err == TR_OK) {
		text = tr_opt_string(L, idx, "data", "Subject: test\r\n\r\ntest\r\n", &len);
		err = tr_message_set_data(message, (struct tr_str){text, len});
	}
	if (err == TR_OK)
		err = tr_meta_set_string(&message->meta, TR_STR("reception_protocol"), TR_STR("ESMTP"));
	lua_getfield(L, idx, "meta");
	if (err == TR_OK)
		err = take_meta(L, &message->meta);
	lua_pop(L, 1);
	return err;
}

int
tr_testing_receive(lua_State *L)
{
	struct tr_testing *runtime = tr_testing_check(L);
	struct tr_task *task = tr_task_check(L);
	struct reception *reception;
	struct tr_receive *receive;
	int err = TR_ENOMEM;

	luaL_checktype(L, 2, LUA_TTABLE);
	receive = tr_receive_new(tr_engine_worker(tr_server_engine(runtime->server), 0), 1);
	if (receive != NULL)
		receive->items[0].message = tr_message_new();
	if (receive != NULL && receive->items[0].message != NULL)
		err = fill_message(L, 2, receive->items[0].message);
	reception = err == TR_OK ? calloc(1, sizeof *reception) : NULL;
	if (reception == NULL) {
		tr_receive_free(receive);
		return luaL_error(L, "receive: %s", tr_err_text(err == TR_OK ? TR_ENOMEM : err));
	}
	receive->flags = TR_RECEIVE_ALL_OR_NONE;
	receive->owner = reception;
	reception->receive = receive;
	tr_receive_start(receive, received);
	if (reception->ended) {
		int count = push_reception(L, reception);

		free(reception);
		return count;
	}
	reception->parked = true;
	tr_task_describe(task, "the reception of a message");
	return tr_task_park(task, L, reception_cancel, reception, &reception->ticket);
}

/* --- log records
 * ------------------------------------------------------------------------------------------------------ */

struct emission {
	struct tr_outbox outbox;
	struct tr_ticket ticket;
	struct tr_message *message;
	int status;
	bool ended, parked, cancelled;
};

static int
push_emission(lua_State *L, void *arg)
{
	const struct emission *emission = arg;

	if (emission->status == TR_OK) {
		lua_pushboolean(L, true);
		return 1;
	}
	return tr_push_error(L, emission->status, "event: %s", tr_err_text(emission->status));
}

static void
emitted(struct tr_outbox *outbox, int status)
{
	struct emission *emission = tr_container_of(outbox, struct emission, outbox);

	emission->ended = true;
	emission->status = status;
	tr_message_free(emission->message);
	emission->message = NULL;
	if (!emission->parked)
		return;
	if (!emission->cancelled)
		tr_task_wake(&emission->ticket, push_emission, emission, false);
	free(emission);
}

static void
emission_cancel(void *op)
{
	((struct emission *)op)->cancelled = true;
}

/* A text of a record at key; .data NULL: absent. Stays valid as long as the table. */
static struct tr_str
text_of(lua_State *L, const char *key)
{
	struct tr_str text = {NULL, 0};

	text.data = tr_opt_string(L, 2, key, NULL, &text.len);
	return text;
}

static void
fill_response(lua_State *L, struct tr_response *response)
{
	lua_getfield(L, 2, "response");
	if (lua_istable(L, -1)) {
		int top = lua_gettop(L);
		struct tr_str content = {"", 0}, command = {NULL, 0};
		const char *text = tr_opt_string(L, top, "content", NULL, &content.len);

		response->code = (int)tr_opt_int(L, top, "code", 0);
		if (text != NULL)
			content.data = text;
		command.data = tr_opt_string(L, top, "command", NULL, &command.len);
		response->content = content;
		response->command = command;
		tr_response_split_enhanced(response);
	}
	lua_pop(L, 1); /* the table of the options holds it */
}

/* runtime:event{type=, from=, to=, data=, meta=, queue=, site=, response={code=, content=}, ...} -> true once the hooks
 * have it; nil, text, code. The texts of option tables were checked by lua/kumo/test.lua. */
int
tr_testing_event(lua_State *L)
{
	struct tr_testing *runtime = tr_testing_check(L);
	struct tr_worker *worker = tr_engine_worker(tr_server_engine(runtime->server), 0);
	struct tr_task *task = tr_task_check(L);
	struct emission *emission;
	struct tr_event event = {.num_attempts = -1};
	int type, err;

	luaL_checktype(L, 2, LUA_TTABLE);
	type = tr_event_type_from_name(tr_str(tr_opt_string(L, 2, "type", "", NULL)));
	if (type < 0)
		return luaL_error(L, "event: type: no such record type");
	event.type = (enum tr_event_type)type;
	event.queue = text_of(L, "queue");
	event.site = text_of(L, "site");
	event.egress_pool = text_of(L, "egress_pool");
	event.egress_source = text_of(L, "egress_source");
	event.source_address = text_of(L, "source_address");
	event.delivery_protocol = text_of(L, "delivery_protocol");
	event.provider = text_of(L, "provider_name");
	event.peer_name = text_of(L, "peer_name");
	event.peer_addr = text_of(L, "peer_addr");
	event.has_peer = event.peer_addr.data != NULL;
	event.session_id = text_of(L, "session_id");
	fill_response(L, &event.response);
	event.num_attempts = (int)tr_opt_int(L, 2, "num_attempts", -1);

	emission = calloc(1, sizeof *emission);
	if (emission == NULL)
		return luaL_error(L, "out of memory");
	emission->message = tr_message_new();
	err = emission->message != NULL ? fill_message(L, 2, emission->message) : TR_ENOMEM;
	if (err != TR_OK) {
		tr_message_free(emission->message);
		free(emission);
		return luaL_error(L, "event: %s", tr_err_text(err));
	}
	event.message = emission->message;
	tr_outbox_init(&emission->outbox, worker, emitted, NULL);
	tr_outbox_emit(&emission->outbox, &event);
	tr_outbox_submit(&emission->outbox);
	if (emission->ended) {
		int count = push_emission(L, emission);

		free(emission);
		return count;
	}
	emission->parked = true;
	tr_task_describe(task, "the commit of a record");
	return tr_task_park(task, L, emission_cancel, emission, &emission->ticket);
}
