/* What became of the message that a session has sent by SMTP. */
#include "message/message_lua.h"
#include "transport/smtp_conn_lua.h"

#define FEW 8 /* recipients whose outcomes need no memory of their own */

static void
fill_outcome(const struct conn *conn, uint32_t index, struct tr_outcome *out)
{
	static const enum tr_outcome_kind kinds[] = {
		[TR_SMTPC_DELIVERED] = TR_OUT_DELIVERED,
		[TR_SMTPC_BOUNCED] = TR_OUT_BOUNCED,
		[TR_SMTPC_TRANSIENT] = TR_OUT_TRANSIENT,
	};
	struct tr_smtpc_result result;

	tr_smtpc_result(conn->smtp, index, &result);
	*out = (struct tr_outcome){
		.kind = kinds[result.kind],
		.response = {.code = result.code, .content = result.text, .command = result.command},
		.has_peer = true,
		.peer_name = tr_str(tr_smtpc_peer_name(conn->smtp)),
		.peer_addr = tr_str(tr_smtpc_peer_addr(conn->smtp)),
		.source_address = tr_str(tr_smtpc_local_addr(conn->smtp)),
		.delivery_protocol = TR_STR("ESMTP"),
		.retry_after_ns = -1,
		/* A refusal of one message says nothing of the host; silence, a broken connection and 421 do. */
		.gate_counts = result.kind == TR_SMTPC_DELIVERED || !result.said || result.code == 421,
	};
	tr_response_split_enhanced(&out->response);
	if (conn->source != NULL && conn->source->ha_proxy_server != NULL) {
		out->proxy_server = tr_str(conn->source->ha_proxy_server);
		out->proxy_protocol = TR_STR("haproxy");
	} else if (conn->source != NULL && conn->source->socks5_proxy_server != NULL) {
		out->proxy_server = tr_str(conn->source->socks5_proxy_server);
		out->proxy_protocol = TR_STR("socks5");
	}
}

/* connection:refusal(index) -> line | false | nil: what the peer said to recipient `index` (from 1); false if it was
 * 250 or nothing; nil after the last recipient. */
static int
l_refusal(lua_State *L)
{
	struct conn *conn = smtp_conn_check(L);
	lua_Integer index = luaL_checkinteger(L, 2);
	struct tr_smtpc_result result;
	struct tr_buf line = {0};
	struct tr_outcome outcome;

	if (index < 1 || index > conn->rcpt_count)
		return 0;
	tr_smtpc_result(conn->smtp, (uint32_t)index - 1, &result);
	if (!result.said || result.code == 250) {
		lua_pushboolean(L, false);
		return 1;
	}
	fill_outcome(conn, (uint32_t)index - 1, &outcome);
	tr_response_line(&outcome.response, &line);
	lua_pushlstring(L, line.data != NULL ? line.data : "", line.len);
	tr_buf_free(&line);
	return 1;
}

/* connection:rewrite(index, code) */
static int
l_rewrite(lua_State *L)
{
	struct conn *conn = smtp_conn_check(L);
	lua_Integer index = luaL_checkinteger(L, 2), code = luaL_checkinteger(L, 3);

	luaL_argcheck(L, index >= 1 && index <= conn->rcpt_count, 2, "a recipient of the message sent expected");
	luaL_argcheck(L, code >= 200 && code <= 599, 3, "200 to 599 expected");
	tr_smtpc_rewrite(conn->smtp, (uint32_t)index - 1, (int)code);
	return 0;
}

/* connection:queue(session) -> domain, tenant | nil, campaign | nil, routing domain: of the message in hand. */
static int
l_queue(lua_State *L)
{
	struct tr_message *message = tr_session_lua_hand(L, 2);
	struct tr_queue_name name = {0};

	smtp_conn_check(L);
	if (message == NULL)
		return luaL_error(L, "no message in hand");
	tr_queue_name_parse(tr_str(message->queue), &name);
	tr_queue_name_push(L, &name);
	if (name.has_routing)
		lua_pushlstring(L, name.routing_domain.data, name.routing_domain.len);
	else
		lua_pushvalue(L, -3);
	return 4;
}

/* connection:report(session) -> whether another message may go over the connection. Ends the message in hand. */
static int
l_report(lua_State *L)
{
	struct conn *conn = smtp_conn_check(L);
	struct tr_message *message = tr_session_lua_hand(L, 2);
	struct tr_outcome few[FEW], *outcomes = few;

	if (message == NULL || conn->busy || message->rcpt_count != conn->rcpt_count)
		return luaL_error(L, "the message in hand is not the one that was sent");
	if (conn->rcpt_count > FEW)
		outcomes = lua_newuserdata(L, conn->rcpt_count * sizeof *outcomes);
	for (uint32_t i = 0; i < conn->rcpt_count; i++)
		fill_outcome(conn, i, &outcomes[i]);
	conn->rcpt_count = 0;
	tr_session_lua_report_rcpts(L, 2, outcomes);
	lua_pushboolean(L, tr_smtpc_usable(conn->smtp));
	return 1;
}

/* connection:goes_on(session) -> whether the message in hand is for the next host at once, as
 * try_next_host_on_transport_error says: what kept a recipient was the host, and there is another. */
static int
l_goes_on(lua_State *L)
{
	struct conn *conn = smtp_conn_check(L);
	struct tr_session *session = tr_session_lua_check(L, 2);
	bool goes_on = false;

	for (uint32_t i = 0; i < conn->rcpt_count && !goes_on; i++) {
		struct tr_smtpc_result result;

		tr_smtpc_result(conn->smtp, i, &result);
		goes_on = result.of_host;
	}
	lua_pushboolean(L, goes_on && session->path->try_next_host && tr_smtpc_has_next(conn->smtp));
	return 1;
}

static void
told_later(struct tr_defer *defer)
{
	struct conn *conn = tr_container_of(defer, struct conn, told);

	smtp_conn_wake(conn, smtp_conn_push_ok, conn->told_ok ? TR_OK : TR_ECLOSED);
}

static void
told(struct tr_telling *telling, struct tr_message *message)
{
	struct conn *conn = tr_container_of(telling, struct conn, telling);

	conn->told_ok = message != NULL;
	if (message != NULL)
		tr_session_lua_put(conn->session, message);
	tr_loop_defer(tr_host_loop(conn->host), &conn->told, told_later); /* this is no place for Lua */
}

/* connection:tell(session) -> true: records tell what became of each recipient, and those that are kept are in hand;
 * false: that could not be stored, nothing is in hand. */
static int
l_tell(lua_State *L)
{
	struct conn *conn = smtp_conn_check(L);
	struct tr_message *message = tr_session_lua_hand(L, 2);
	struct tr_task *task = tr_task_check(L);
	struct tr_outcome *outcomes;

	if (message == NULL || conn->busy || message->rcpt_count != conn->rcpt_count)
		return luaL_error(L, "the message in hand is not the one that was sent");
	outcomes = lua_newuserdata(L, conn->rcpt_count * sizeof *outcomes);
	for (uint32_t i = 0; i < conn->rcpt_count; i++)
		fill_outcome(conn, i, &outcomes[i]);
	conn->telling.told = told;
	if (!tr_session_lua_tell_rcpts(L, 2, outcomes, &conn->telling))
		return luaL_error(L, "smtp: out of memory");
	conn->rcpt_count = 0;
	conn->busy = true;
	tr_task_describe_text(task, "commit of outcomes", "");
	return tr_task_park(task, L, smtp_conn_cancelled, conn, &conn->ticket);
}

/* connection:next_host() -> true | nil, message. Leaves the host, and goes on to the next candidate that answers. */
static int
l_next_host(lua_State *L)
{
	struct conn *conn = smtp_conn_check(L);
	struct tr_task *task = tr_task_check(L);

	if (conn->busy || conn->smtp == NULL)
		return luaL_error(L, conn->busy ? "the connection is in use" : "the connection is not open");
	tr_smtpc_close(conn->smtp);
	tr_smtpc_connect(conn->smtp, smtp_conn_connected, conn);
	return smtp_conn_park(L, conn, task);
}

const luaL_Reg smtp_outcome_methods[] = {
	{"refusal", l_refusal},
	{"rewrite", l_rewrite},
	{"queue", l_queue},
	{"report", l_report},
	{"goes_on", l_goes_on},
	{"tell", l_tell},
	{"next_host", l_next_host},
	{NULL, NULL},
};
