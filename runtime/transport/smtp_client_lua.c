#include "transport/smtp_client_lua.h"

#include <stdlib.h>
#include <unistd.h>

#include "policy/policy.h"
#include "queue/session_lua.h"
#include "transport/smtp_client.h"

#define CONN_TYPE "tr.smtp.connection"
#define FEW 8 /* recipients whose outcomes need no memory of their own */

/* On the C heap: it outlives the userdata while a task is parked on it. */
struct conn {
	struct tr_smtpc *smtp;
	struct tr_session *session; /* that has it; NULL: it has ended */
	struct tr_ticket ticket;    /* of the operation under way */
	bool busy;                  /* an operation is under way, and holds the connection */
	bool orphan;                /* the userdata is gone */
	uint32_t rcpt_count;        /* of the message that was sent last; 0: no results to report */
};

struct box {
	struct conn *conn; /* NULL: closed */
};

static struct conn *
check(lua_State *L)
{
	struct box *box = luaL_checkudata(L, 1, CONN_TYPE);

	if (box->conn == NULL)
		luaL_error(L, "the connection is closed");
	return box->conn;
}

static void
conn_free(struct conn *conn)
{
	if (conn->session != NULL)
		tr_session_lua_on_end(conn->session, NULL, NULL);
	tr_smtpc_free(conn->smtp);
	free(conn);
}

/* Also of a session that was cancelled while its connection was idle: the peer is not kept until Lua collects. */
static void
session_ended(void *arg)
{
	struct conn *conn = arg;

	conn->session = NULL;
	if (!conn->busy)
		tr_smtpc_cancel(conn->smtp);
}

/* --- making ------------------------------------------------------------------------------------------- */

static int
new_conn(lua_State *L, struct tr_session *session, const struct tr_smtpc_host *hosts, size_t count)
{
	const struct tr_path_config *path = session->path;
	struct box *box = lua_newuserdata(L, sizeof *box);
	char system_name[256] = "localhost";
	struct tr_smtpc_config config = {
		.connect_timeout_ns = path->connect_timeout_ns,
		.banner_timeout_ns = path->banner_timeout_ns,
		.ehlo_timeout_ns = path->ehlo_timeout_ns,
		.mail_from_timeout_ns = path->mail_from_timeout_ns,
		.rcpt_to_timeout_ns = path->rcpt_to_timeout_ns,
		.data_timeout_ns = path->data_timeout_ns,
		.data_dot_timeout_ns = path->data_dot_timeout_ns,
		.rset_timeout_ns = path->rset_timeout_ns,
		.max_recipients_per_batch = path->max_recipients_per_batch,
		.port = path->smtp_port,
		.enable_pipelining = path->enable_pipelining,
		.enable_rset = path->enable_rset,
		.use_lmtp = path->use_lmtp,
		.ignore_8bit_checks = path->ignore_8bit_checks,
		.ehlo_name = path->ehlo_domain,
		.hosts = hosts,
		.host_count = count,
	};

	box->conn = NULL;
	luaL_getmetatable(L, CONN_TYPE);
	lua_setmetatable(L, -2);
	if (config.ehlo_name == NULL) {
		gethostname(system_name, sizeof system_name - 1);
		system_name[sizeof system_name - 1] = '\0';
		config.ehlo_name = system_name;
	}
	box->conn = calloc(1, sizeof *box->conn);
	if (box->conn == NULL || tr_smtpc_new(tr_host_loop(tr_host_of(L)), tr_service(L, TR_SERVICE_DNS), &config,
					 &box->conn->smtp) != TR_OK) {
		free(box->conn);
		box->conn = NULL;
		return luaL_error(L, "smtp: out of memory");
	}
	box->conn->session = session;
	tr_session_lua_on_end(session, session_ended, box->conn);
	return 1;
}

/* new(session) -> connection | nil, message. The candidates: the queue's mx_list, or the domain literal of its routing
 * domain. */
static int
l_new(lua_State *L)
{
	struct tr_session *session = tr_session_lua_check(L, 1);
	const struct tr_queue_config *queue = session->queue;
	struct tr_str domain = tr_ready_routing_domain(session->ready);
	struct tr_smtpc_host *hosts;
	char literal[64];

	if (tr_service(L, TR_SERVICE_DNS) == NULL)
		return luaL_error(L, "smtp: no resolver in this program");
	if (queue->mx_count == 0) {
		if (tr_smtpc_domain_literal(domain, literal))
			return new_conn(L, session, &(struct tr_smtpc_host){.name = literal}, 1);
		return tr_push_error(L, TR_ENOENT,
			"failed to connect to any candidate hosts: %.*s: MX look-ups are not available in this "
			"version; name the next hop in get_queue_config: protocol = { smtp = { mx_list = { 'HOST:PORT' "
			"} } }",
			(int)domain.len, domain.data);
	}
	hosts = lua_newuserdata(L, queue->mx_count * sizeof *hosts);
	for (uint32_t i = 0; i < queue->mx_count; i++)
		hosts[i] = (struct tr_smtpc_host){.name = queue->mx_list[i].host, .port = queue->mx_list[i].port};
	return new_conn(L, session, hosts, queue->mx_count);
}

/* --- waiting -------------------------------------------------------------------------------------------- */

struct ending {
	struct conn *conn;
	int status;
};

static int
push_connected(lua_State *L, void *arg)
{
	struct ending *ending = arg;

	if (ending->status == TR_OK) {
		lua_pushboolean(L, true);
		return 1;
	}
	lua_pushnil(L);
	lua_pushfstring(L, "failed to connect to any candidate hosts: %s", tr_smtpc_error(ending->conn->smtp));
	return 2;
}

static int
push_sent(lua_State *L, void *arg)
{
	lua_pushboolean(L, ((struct ending *)arg)->status == TR_OK);
	return 1;
}

static void
wake(struct conn *conn, int (*push)(lua_State *L, void *arg), int status)
{
	struct ending ending = {conn, status};
	struct tr_ticket ticket = conn->ticket;

	conn->busy = false;
	if (conn->orphan) { /* a task is parked on it, but nobody can use it any more: let it see the end all the same
			     */
		conn->orphan = false;
		tr_task_wake(&ticket, push_sent, &(struct ending){conn, TR_ECLOSED}, false);
		conn_free(conn);
		return;
	}
	tr_task_wake(&ticket, push, &ending, false); /* runs Lua, which may do anything with the connection */
}

static void
connect_done(void *arg, int status)
{
	wake(arg, push_connected, status);
}

static void
send_done(void *arg, int status)
{
	struct conn *conn = arg;

	if (status != TR_OK)
		conn->rcpt_count = 0;
	wake(conn, push_sent, status);
}

static void
cancelled(void *op)
{
	struct conn *conn = op;

	conn->busy = false;
	conn->rcpt_count = 0;
	tr_smtpc_cancel(conn->smtp);
	if (conn->orphan)
		conn_free(conn);
}

static int
park(lua_State *L, struct conn *conn, struct tr_task *task)
{
	conn->busy = true;
	tr_task_describe(task, "smtp: %s", tr_smtpc_waits_for(conn->smtp));
	return tr_task_park(task, L, cancelled, conn, &conn->ticket);
}

/* connection:connect() -> true | nil, message. Tries the candidates in order. */
static int
l_connect(lua_State *L)
{
	struct conn *conn = check(L);
	struct tr_task *task = tr_task_check(L);

	if (conn->busy)
		return luaL_error(L, "the connection is in use");
	tr_smtpc_connect(conn->smtp, connect_done, conn);
	return park(L, conn, task);
}

/* connection:send(session) -> true: the message in hand has results; false: the connection was lost before it was
 * tried, and no candidate is left. */
static int
l_send(lua_State *L)
{
	struct conn *conn = check(L);
	struct tr_message *message = tr_session_lua_hand(L, 2);
	struct tr_task *task = tr_task_check(L);

	if (conn->busy)
		return luaL_error(L, "the connection is in use");
	if (message == NULL)
		return luaL_error(L, "no message in hand");
	conn->rcpt_count = message->rcpt_count;
	tr_smtpc_send(conn->smtp, message, send_done, conn);
	return park(L, conn, task);
}

/* --- results -------------------------------------------------------------------------------------------- */

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
}

/* connection:refusal(index) -> line | false | nil: what the peer said to recipient `index` (from 1); false if it was
 * 250 or nothing; nil after the last recipient. */
static int
l_refusal(lua_State *L)
{
	struct conn *conn = check(L);
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
	struct conn *conn = check(L);
	lua_Integer index = luaL_checkinteger(L, 2), code = luaL_checkinteger(L, 3);

	luaL_argcheck(L, index >= 1 && index <= conn->rcpt_count, 2, "a recipient of the message sent expected");
	luaL_argcheck(L, code >= 200 && code <= 599, 3, "200 to 599 expected");
	tr_smtpc_rewrite(conn->smtp, (uint32_t)index - 1, (int)code);
	return 0;
}

static void
push_part(lua_State *L, bool has, struct tr_str part)
{
	if (has)
		lua_pushlstring(L, part.data, part.len);
	else
		lua_pushnil(L);
}

/* connection:queue(session) -> domain, tenant | nil, campaign | nil, routing domain: of the message in hand. */
static int
l_queue(lua_State *L)
{
	struct tr_message *message = tr_session_lua_hand(L, 2);
	struct tr_queue_name name = {0};

	check(L);
	if (message == NULL)
		return luaL_error(L, "no message in hand");
	tr_queue_name_parse(tr_str(message->queue), &name);
	push_part(L, true, name.domain.data != NULL ? name.domain : TR_STR(""));
	push_part(L, name.has_tenant, name.tenant);
	push_part(L, name.has_campaign, name.campaign);
	push_part(L, true,
		name.has_routing ? name.routing_domain : (name.domain.data != NULL ? name.domain : TR_STR("")));
	return 4;
}

/* connection:report(session) -> whether another message may go over the connection. Ends the message in hand. */
static int
l_report(lua_State *L)
{
	struct conn *conn = check(L);
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

/* --- end -------------------------------------------------------------------------------------------------- */

/* connection:close() says QUIT; may be called twice. */
static int
l_close(lua_State *L)
{
	struct box *box = luaL_checkudata(L, 1, CONN_TYPE);
	struct conn *conn = box->conn;

	if (conn == NULL)
		return 0;
	if (conn->busy)
		return luaL_error(L, "the connection is in use");
	box->conn = NULL;
	tr_smtpc_close(conn->smtp);
	conn_free(conn);
	return 0;
}

static int
l_gc(lua_State *L)
{
	struct box *box = luaL_checkudata(L, 1, CONN_TYPE);
	struct conn *conn = box->conn;

	box->conn = NULL;
	if (conn == NULL)
		return 0;
	if (conn->busy)
		conn->orphan = true;
	else
		conn_free(conn);
	return 0;
}

int
luaopen_tr_smtp_client(lua_State *L)
{
	static const luaL_Reg functions[] = {{"new", l_new}, {NULL, NULL}};
	static const luaL_Reg methods[] = {{"connect", l_connect}, {"send", l_send}, {"refusal", l_refusal},
		{"rewrite", l_rewrite}, {"queue", l_queue}, {"report", l_report}, {"close", l_close}, {NULL, NULL}};

	luaL_newmetatable(L, CONN_TYPE);
	lua_pushcfunction(L, l_gc);
	lua_setfield(L, -2, "__gc");
	lua_newtable(L);
	luaL_register(L, NULL, methods);
	lua_setfield(L, -2, "__index");
	lua_pop(L, 1);
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
