#include "transport/smtp_client_lua.h"

#include <stdlib.h>
#include <unistd.h>

#include "policy/policy.h"
#include "queue/session_lua.h"
#include "transport/smtp_conn_lua.h"

struct conn *
smtp_conn_check(lua_State *L)
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
	tr_session_untell(&conn->telling);
	tr_loop_undefer(tr_host_loop(conn->host), &conn->told);
	tr_smtp_plan_cancel(conn->plan);
	tr_smtpc_free(conn->smtp);
	tr_source_config_unref(conn->source);
	tr_buf_free(&conn->text);
	free(conn->domain);
	free(conn->hosts);
	free(conn);
}

static void
stop(struct conn *conn)
{
	tr_session_untell(&conn->telling);
	tr_loop_undefer(tr_host_loop(conn->host), &conn->told);
	tr_smtp_plan_cancel(conn->plan);
	conn->plan = NULL;
	if (conn->smtp != NULL)
		tr_smtpc_cancel(conn->smtp);
}

/* Also of a session that was cancelled while its connection was idle: the peer is not kept until Lua collects. */
static void
session_ended(void *arg)
{
	struct conn *conn = arg;

	conn->session = NULL;
	if (!conn->busy)
		stop(conn);
}

/* --- making ------------------------------------------------------------------------------------------- */

/* Addresses were checked when the source was made. */
static void
use_source(const struct tr_source_config *source, struct tr_smtpc_config *config)
{
	struct tr_dial_config *dial = &config->dial;

	if (config->ehlo_name == NULL)
		config->ehlo_name = source->ehlo_domain;
	config->remote_port = source->remote_port;
	if (source->source_address != NULL)
		tr_dial_address(source->source_address, &dial->source);
	if (source->ha_proxy_server != NULL) {
		dial->kind = TR_PROXY_HAPROXY;
		dial->server = source->ha_proxy_server;
		tr_dial_address(source->ha_proxy_source_address, &dial->proxy_source);
	} else if (source->socks5_proxy_server != NULL) {
		dial->kind = TR_PROXY_SOCKS5;
		dial->server = source->socks5_proxy_server;
		tr_dial_address(source->socks5_proxy_source_address, &dial->proxy_source);
		dial->username = source->socks5_proxy_username;
		dial->password = source->socks5_proxy_password;
	}
}

/* The connection object for hosts that are known now. TR_OK or TR_ENOMEM. */
static int
make_client(struct conn *conn, const struct tr_smtpc_host *hosts, size_t count)
{
	const struct tr_path_config *path = conn->session->path;
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
		.reconnect = (enum tr_smtpc_reconnect)path->reconnect,
		.ehlo_name = path->ehlo_domain,
		.hosts = hosts,
		.host_count = count,
	};

	conn->source = tr_ready_source_config(conn->session->ready);
	if (conn->source != NULL)
		use_source(conn->source, &config);
	if (config.ehlo_name == NULL) {
		gethostname(system_name, sizeof system_name - 1);
		system_name[sizeof system_name - 1] = '\0';
		config.ehlo_name = system_name;
	}
	return tr_smtpc_new(
		tr_host_loop(conn->host), tr_host_service(conn->host, TR_SERVICE_DNS), &config, &conn->smtp);
}

/* new(session) -> connection. */
static int
l_new(lua_State *L)
{
	struct tr_session *session = tr_session_lua_check(L, 1);
	struct box *box = lua_newuserdata(L, sizeof *box);

	box->conn = NULL;
	luaL_getmetatable(L, CONN_TYPE);
	lua_setmetatable(L, -2);
	if (tr_service(L, TR_SERVICE_DNS) == NULL)
		return luaL_error(L, "smtp: no resolver in this program");
	box->conn = calloc(1, sizeof *box->conn);
	if (box->conn == NULL)
		return luaL_error(L, "smtp: out of memory");
	box->conn->host = tr_host_of(L);
	box->conn->session = session;
	tr_session_lua_on_end(session, session_ended, box->conn);
	return 1;
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
	if (ending->conn->verdict != TR_PLAN_READY)
		lua_pushboolean(L, false);
	else
		lua_pushfstring(L, "failed to connect to any candidate hosts: %s",
			ending->conn->smtp != NULL ? tr_smtpc_error(ending->conn->smtp) : "out of memory");
	return 2;
}

int
smtp_conn_push_ok(lua_State *L, void *arg)
{
	lua_pushboolean(L, ((struct ending *)arg)->status == TR_OK);
	return 1;
}

void
smtp_conn_wake(struct conn *conn, int (*push)(lua_State *L, void *arg), int status)
{
	struct ending ending = {conn, status};
	struct tr_ticket ticket = conn->ticket;

	conn->busy = false;
	if (conn->orphan) { /* a task is parked on it, but nobody can use it any more: let it see the end all the same
			     */
		conn->orphan = false;
		tr_task_wake(&ticket, smtp_conn_push_ok, &(struct ending){conn, TR_ECLOSED}, false);
		conn_free(conn);
		return;
	}
	tr_task_wake(&ticket, push, &ending, false); /* runs Lua, which may do anything with the connection */
}

void
smtp_conn_connected(void *arg, int status)
{
	smtp_conn_wake(arg, push_connected, status);
}

static void
send_done(void *arg, int status)
{
	struct conn *conn = arg;

	if (status != TR_OK)
		conn->rcpt_count = 0;
	smtp_conn_wake(conn, smtp_conn_push_ok, status);
}

void
smtp_conn_cancelled(void *op)
{
	struct conn *conn = op;

	conn->busy = false;
	conn->rcpt_count = 0;
	stop(conn);
	if (conn->orphan)
		conn_free(conn);
}

/* It changes while a task is parked: the look-up, the connection, the banner ... */
static const char *
waits_for(void *op)
{
	const struct conn *conn = op;

	return conn->smtp != NULL ? tr_smtpc_waits_for(conn->smtp) : "smtp: the look-up of the hosts";
}

int
smtp_conn_park(lua_State *L, struct conn *conn, struct tr_task *task)
{
	conn->busy = true;
	tr_task_describe_by(task, waits_for);
	return tr_task_park(task, L, smtp_conn_cancelled, conn, &conn->ticket);
}

static double
random_of(void *arg)
{
	struct conn *conn = arg;

	return conn->session != NULL ? tr_worker_random(conn->session->worker) : 0;
}

static void
planned(void *arg, const struct tr_smtp_plan_result *result)
{
	struct conn *conn = arg;

	conn->plan = NULL;
	conn->verdict = result->kind;
	if (result->kind != TR_PLAN_READY) {
		tr_buf_addz(&conn->text, result->text);
		smtp_conn_wake(conn, push_connected, TR_ECLOSED);
	} else if (conn->session == NULL || make_client(conn, result->hosts, result->host_count) != TR_OK) {
		smtp_conn_wake(conn, push_connected, TR_ENOMEM);
	} else {
		tr_smtpc_connect(conn->smtp, smtp_conn_connected, conn);
	}
}

/* Of the message in hand: all that wait in the ready queue have its site. */
static struct tr_str
domain_of(const struct tr_session *session, const struct tr_message *message)
{
	struct tr_queue_name name = {0};

	if (message == NULL || message->queue == NULL)
		return tr_ready_routing_domain(session->ready);
	tr_queue_name_parse(tr_str(message->queue), &name);
	return name.has_routing ? name.routing_domain : name.domain;
}

/* connection:connect(session) -> true | nil, message | nil, false: there is nothing to connect to, see give_up(). The
 * candidates are the queue's mx_list, or the MX of the domain of the message in hand; they are tried in order. */
static int
l_connect(lua_State *L)
{
	struct conn *conn = smtp_conn_check(L);
	struct tr_session *session = tr_session_lua_check(L, 2);
	struct tr_message *message = tr_session_lua_hand(L, 2);
	struct tr_task *task = tr_task_check(L);
	const struct tr_queue_config *queue = session->queue;
	const struct tr_path_config *path = session->path;
	struct tr_str domain = domain_of(session, message), site = tr_ready_site(session->ready);
	bool by_mx = queue->mx_count == 0;
	struct tr_smtp_plan_config config = {
		.strategy = (enum tr_ip_strategy)path->ip_strategy,
		.skip = path->skip_hosts,
		.skip_count = path->skip_count,
		.timeout_ns = path->connect_timeout_ns,
		.random = random_of,
		.random_arg = conn,
	};

	if (conn->busy || conn->smtp != NULL || conn->domain != NULL || conn->hosts != NULL)
		return luaL_error(L, "the connection is in use");
	if (by_mx ||
		path->prohibited_given) { /* who writes an mx_list means its hosts, unless the path says otherwise */
		config.prohibited = path->prohibited_hosts;
		config.prohibited_count = path->prohibited_count;
	}
	if (by_mx) {
		conn->domain = strndup(domain.data != NULL ? domain.data : "", domain.len);
		config.domain = conn->domain;
		config.site = site.data; /* NUL-terminated, as all names of ready queues */
	} else {
		conn->hosts = calloc(queue->mx_count, sizeof *conn->hosts);
		for (uint32_t i = 0; conn->hosts != NULL && i < queue->mx_count; i++)
			conn->hosts[i] =
				(struct tr_smtpc_host){.name = queue->mx_list[i].host, .port = queue->mx_list[i].port};
		config.hosts = conn->hosts;
		config.host_count = queue->mx_count;
	}
	if (conn->domain != NULL || conn->hosts != NULL)
		conn->plan = tr_smtp_plan_start(tr_host_service(conn->host, TR_SERVICE_DNS), &config, planned, conn);
	if (conn->plan == NULL)
		return luaL_error(L, "smtp: out of memory");
	return smtp_conn_park(L, conn, task);
}

/* connection:source_suspended(session, text) -> whether the source is left alone now, after a connect that failed for
 * its address or its proxy. What is in hand is then for other sources. */
static int
l_source_suspended(lua_State *L)
{
	struct conn *conn = smtp_conn_check(L);
	struct tr_session *session = tr_session_lua_check(L, 2);
	enum tr_dial_trouble trouble = conn->smtp != NULL ? tr_smtpc_trouble(conn->smtp) : TR_DIAL_TARGET;

	lua_pushboolean(L,
		trouble != TR_DIAL_TARGET && tr_ready_source_failed(session->ready,
						     trouble == TR_DIAL_PROXY ? TR_SOURCE_PROXY : TR_SOURCE_UNPLUMBED,
						     luaL_checkstring(L, 3)));
	return 1;
}

/* connection:give_up(session) -> whether the same is true of all that wait in the ready queue. Ends or gives back what
 * is in hand, as connect() has found. Contract: smtp.md sections 3.1 and 3.5. */
static int
l_give_up(lua_State *L)
{
	static const struct {
		enum tr_outcome_kind kind;
		int code;
		int enhanced[3];
		const char *reason;
	} verdicts[] = {
		[TR_PLAN_MOVED] = {TR_OUT_REQUEUE, 451, {4, 4, 4}, "ReadyQueueWasReaped"},
		[TR_PLAN_UNKNOWN] = {TR_OUT_TRANSIENT, 451, {4, 4, 4}, NULL},
		[TR_PLAN_NULL_MX] = {TR_OUT_BOUNCED, 556, {5, 1, 10}, "FailedDueToNullMx"},
		[TR_PLAN_NO_HOSTS] = {TR_OUT_TRANSIENT, 451, {4, 4, 4}, "MxResolvedToZeroHosts"},
		[TR_PLAN_PROHIBITED] = {TR_OUT_BOUNCED, 550, {5, 4, 4}, "MxWasProhibited"},
		[TR_PLAN_SKIPPED] = {TR_OUT_TRANSIENT, 451, {4, 4, 4}, "MxWasSkipped"},
	};
	struct conn *conn = smtp_conn_check(L);
	struct tr_session *session = tr_session_lua_check(L, 2);
	struct tr_message *message = tr_session_lua_hand(L, 2);
	struct tr_outcome outcome = {.delivery_protocol = TR_STR("ESMTP"), .retry_after_ns = -1};

	if (conn->verdict == TR_PLAN_READY || conn->text.data == NULL)
		return luaL_error(L, "the connection has hosts");
	outcome.kind = verdicts[conn->verdict].kind;
	outcome.response.code = verdicts[conn->verdict].code;
	memcpy(outcome.response.enhanced, verdicts[conn->verdict].enhanced, sizeof outcome.response.enhanced);
	outcome.response.content = (struct tr_str){conn->text.data, conn->text.len};
	outcome.reason = verdicts[conn->verdict].reason;
	if (conn->verdict == TR_PLAN_MOVED) {
		outcome.retry_after_ns = 1; /* to its line, and on to the new site at once */
		if (message != NULL && message->queue != NULL)
			tr_queue_forget_site(session->worker, tr_str(message->queue));
	}
	tr_session_lua_report(L, 2, &outcome);
	lua_pushboolean(L, conn->verdict > TR_PLAN_UNKNOWN);
	return 1;
}

/* connection:send(session) -> true: the message in hand has results; false: the connection was lost before it was
 * tried, and no candidate is left. */
static int
l_send(lua_State *L)
{
	struct conn *conn = smtp_conn_check(L);
	struct tr_message *message = tr_session_lua_hand(L, 2);
	struct tr_task *task = tr_task_check(L);

	if (conn->busy || conn->smtp == NULL)
		return luaL_error(L, conn->busy ? "the connection is in use" : "the connection is not open");
	if (message == NULL)
		return luaL_error(L, "no message in hand");
	conn->rcpt_count = message->rcpt_count;
	tr_smtpc_send(conn->smtp, message, send_done, conn);
	return smtp_conn_park(L, conn, task);
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
	if (conn->smtp != NULL)
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
	static const luaL_Reg methods[] = {{"connect", l_connect}, {"give_up", l_give_up},
		{"source_suspended", l_source_suspended}, {"send", l_send}, {"close", l_close}, {NULL, NULL}};

	luaL_newmetatable(L, CONN_TYPE);
	lua_pushcfunction(L, l_gc);
	lua_setfield(L, -2, "__gc");
	lua_newtable(L);
	luaL_register(L, NULL, methods);
	luaL_register(L, NULL, smtp_outcome_methods);
	lua_setfield(L, -2, "__index");
	lua_pop(L, 1);
	lua_newtable(L);
	luaL_register(L, NULL, functions);
	return 1;
}
