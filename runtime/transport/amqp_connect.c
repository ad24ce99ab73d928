/* Connecting to a broker: TCP or TLS, login, a channel in confirm mode; and why something failed. */
#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "transport/amqp_internal.h"

#define CHANNEL TR_AMQP_CHANNEL
#define FRAME_MAX (128 * 1024)
#define SYSTEM_CA "/etc/ssl/certs/ca-certificates.crt"

/* Real time: this thread waits for a real socket, and a hold is out meanwhile. */
int64_t
tr_amqp_real_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * TR_NS_PER_S + now.tv_nsec;
}

static struct timeval
timeval_of(int64_t ns)
{
	ns = tr_max_i64(ns, 0);
	return (struct timeval){ns / TR_NS_PER_S, ns % TR_NS_PER_S / 1000};
}

/* --- why it failed ------------------------------------------------------------------------------------------ */

void
tr_amqp_why(struct tr_amqp_connection *connection, int err, uint16_t code, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(connection->why, sizeof connection->why, fmt, args);
	va_end(args);
	connection->why_err = err;
	connection->why_code = code;
}

static int
err_of(int status)
{
	switch (status) {
	case AMQP_STATUS_TIMEOUT:
	case AMQP_STATUS_HEARTBEAT_TIMEOUT:
		return TR_ETIMEDOUT;
	case AMQP_STATUS_NO_MEMORY:
		return TR_ENOMEM;
	case AMQP_STATUS_CONNECTION_CLOSED:
		return TR_ECLOSED;
	default:
		return TR_EIO;
	}
}

void
tr_amqp_why_status(struct tr_amqp_connection *connection, const char *what, int status)
{
	tr_amqp_why(connection, err_of(status), 0, "%s %s: %s", what, connection->peer, amqp_error_string2(status));
}

/* What an RPC of rabbitmq-c ended with. */
void
tr_amqp_why_reply(struct tr_amqp_connection *connection, const char *what, amqp_rpc_reply_t reply)
{
	if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION) {
		tr_amqp_why_status(connection, what, reply.library_error);
	} else if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION &&
		   reply.reply.id == AMQP_CONNECTION_CLOSE_METHOD) {
		const amqp_connection_close_t *closed = reply.reply.decoded;

		tr_amqp_why(connection, TR_EPROTO, closed->reply_code, "%s %s: %u %.*s", what, connection->peer,
			closed->reply_code, (int)closed->reply_text.len, (const char *)closed->reply_text.bytes);
	} else if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION && reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD) {
		const amqp_channel_close_t *closed = reply.reply.decoded;

		tr_amqp_why(connection, TR_EPROTO, closed->reply_code, "%s %s: %u %.*s", what, connection->peer,
			closed->reply_code, (int)closed->reply_text.len, (const char *)closed->reply_text.bytes);
	} else {
		tr_amqp_why(connection, TR_EPROTO, 0, "%s %s: unexpected answer", what, connection->peer);
	}
}

/* --- connecting --------------------------------------------------------------------------------------------- */

/* The socket of the state as others see it, to cut it; -1: none. A duplicate, because rabbitmq-c closes its own when it
 * likes, and the number may then be another's. False: it is to end now. */
static bool
publish_fd(struct tr_amqp_connection *connection, int fd)
{
	struct tr_amqp *amqp = connection->pool->amqp;
	bool go_on;

	if (fd >= 0)
		fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	pthread_mutex_lock(&amqp->lock);
	if (connection->fd >= 0)
		close(connection->fd);
	connection->fd = fd;
	go_on = !amqp->ending;
	pthread_mutex_unlock(&amqp->lock);
	return go_on;
}

void
tr_amqp_disconnect(struct tr_amqp_connection *connection)
{
	if (connection->state == NULL)
		return;
	publish_fd(connection, -1);
	amqp_destroy_connection(connection->state); /* closes the socket */
	connection->state = NULL;
	if (connection->blocked)
		tr_amqp_set_held_up(connection, NULL);
	connection->blocked = false;
	tr_buf_clear(&connection->out);
}

/* A clean goodbye, bounded. */
void
tr_amqp_close(struct tr_amqp_connection *connection)
{
	struct timeval limit = {1, 0};

	if (connection->state == NULL)
		return;
	amqp_set_rpc_timeout(connection->state, &limit);
	amqp_connection_close(connection->state, AMQP_REPLY_SUCCESS);
	tr_amqp_disconnect(connection);
}

static amqp_socket_t *
make_socket(struct tr_amqp_connection *connection)
{
	const struct tr_amqp_settings *settings = &connection->pool->settings;
	amqp_socket_t *tcp;
	const char *ca = settings->ca_file.data != NULL ? settings->ca_file.data : SYSTEM_CA;

	if (!settings->tls)
		return amqp_tcp_socket_new(connection->state);
	tcp = amqp_ssl_socket_new(connection->state);
	if (tcp == NULL)
		return NULL;
	amqp_ssl_socket_set_verify_peer(tcp, 1);
	amqp_ssl_socket_set_verify_hostname(tcp, 1);
	amqp_ssl_socket_set_ssl_versions(tcp, AMQP_TLSv1_2, AMQP_TLSvLATEST);
	if (amqp_ssl_socket_set_cacert(tcp, ca) != AMQP_STATUS_OK) {
		tr_amqp_why(connection, TR_EINVAL, 0, "root_ca_cert '%s' cannot be used", ca);
		return NULL;
	}
	if (settings->cert_file.data != NULL &&
		amqp_ssl_socket_set_key(tcp, settings->cert_file.data, settings->key_file.data) != AMQP_STATUS_OK) {
		tr_amqp_why(connection, TR_EINVAL, 0, "client_cert '%s' and client_private_key '%s' cannot be used",
			settings->cert_file.data, settings->key_file.data);
		return NULL;
	}
	return tcp;
}

static amqp_table_entry_t
entry(const char *key, amqp_field_value_t value)
{
	return (amqp_table_entry_t){amqp_cstring_bytes(key), value};
}

static amqp_table_entry_t
bool_entry(const char *key)
{
	return entry(key, (amqp_field_value_t){.kind = AMQP_FIELD_KIND_BOOLEAN, .value.boolean = 1});
}

static amqp_table_entry_t
text_entry(const char *key, const char *text)
{
	return entry(key, (amqp_field_value_t){.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = amqp_cstring_bytes(text)});
}

/* Login, a channel, confirm mode. */
static bool
open_channel(struct tr_amqp_connection *connection)
{
	const struct tr_amqp_settings *settings = &connection->pool->settings;
	amqp_table_entry_t capabilities[] = {bool_entry("connection.blocked"), bool_entry("basic.nack"),
		bool_entry("publisher_confirms"), bool_entry("authentication_failure_close")};
	amqp_field_value_t capability_table = {
		.kind = AMQP_FIELD_KIND_TABLE, .value.table = {TR_COUNT(capabilities), capabilities}};
	amqp_table_entry_t properties[] = {entry("capabilities", capability_table), text_entry("product", "tailrace"),
		text_entry("connection_name",
			settings->connection_name.data != NULL ? settings->connection_name.data : "tailrace")};
	amqp_table_t table = {TR_COUNT(properties), properties};
	amqp_rpc_reply_t reply =
		amqp_login_with_properties(connection->state, settings->vhost.data, 0, FRAME_MAX, settings->heartbeat_s,
			&table, AMQP_SASL_METHOD_PLAIN, settings->username.data, settings->password.data);

	if (reply.reply_type != AMQP_RESPONSE_NORMAL) {
		tr_amqp_why_reply(connection, "login to", reply);
		return false;
	}
	if (amqp_channel_open(connection->state, CHANNEL) == NULL) {
		tr_amqp_why_reply(connection, "channel of", amqp_get_rpc_reply(connection->state));
		return false;
	}
	if (amqp_confirm_select(connection->state, CHANNEL) == NULL) {
		tr_amqp_why_reply(connection, "confirm mode of", amqp_get_rpc_reply(connection->state));
		return false;
	}
	connection->tag = 0;
	connection->frame_max = (size_t)amqp_get_frame_max(connection->state);
	return true;
}

/* rabbitmq-c does not say why a socket could not be opened: one more try does. */
static bool
is_refused(const struct tr_amqp_host *host)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
	struct timeval limit = {1, 0};
	char port[8];
	bool refused = false;

	snprintf(port, sizeof port, "%u", host->port);
	if (getaddrinfo(host->name.data, port, &hints, &found) != 0)
		return false;
	for (struct addrinfo *each = found; each != NULL && !refused; each = each->ai_next) {
		int fd = socket(each->ai_family, each->ai_socktype | SOCK_CLOEXEC, 0);

		if (fd < 0)
			break;
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
		refused = connect(fd, each->ai_addr, each->ai_addrlen) != 0 && errno == ECONNREFUSED;
		close(fd);
	}
	freeaddrinfo(found);
	return refused;
}

static bool
connect_host(struct tr_amqp_connection *connection, const struct tr_amqp_host *host)
{
	const struct tr_amqp_settings *settings = &connection->pool->settings;
	struct timeval limit = timeval_of(settings->connect_timeout_ns);
	amqp_socket_t *tcp;
	int status;

	snprintf(
		connection->peer, sizeof connection->peer, "%.*s:%u", (int)host->name.len, host->name.data, host->port);
	tr_amqp_why(connection, TR_ENOMEM, 0, "out of memory");
	connection->state = amqp_new_connection();
	tcp = connection->state != NULL ? make_socket(connection) : NULL;
	if (tcp == NULL) {
		tr_amqp_disconnect(connection);
		return false;
	}
	status = amqp_socket_open_noblock(tcp, host->name.data, host->port, &limit);
	if (status != AMQP_STATUS_OK) {
		if (status == AMQP_STATUS_SOCKET_ERROR && is_refused(host))
			tr_amqp_why(connection, TR_EREFUSED, 0, "connect to %s: connection refused", connection->peer);
		else
			tr_amqp_why_status(connection, "connect to", status);
		tr_amqp_disconnect(connection);
		return false;
	}
	amqp_set_handshake_timeout(connection->state, &limit);
	amqp_set_rpc_timeout(connection->state, &limit);
	if (!publish_fd(connection, amqp_get_sockfd(connection->state)) || !open_channel(connection)) {
		tr_amqp_disconnect(connection);
		return false;
	}
	tr_metric_add(connection->pool->amqp->connects, 1);
	return true;
}

bool
tr_amqp_connect(struct tr_amqp_connection *connection)
{
	struct tr_amqp_pool *pool = connection->pool;
	struct tr_amqp *amqp = pool->amqp;
	uint32_t first;

	pthread_mutex_lock(&amqp->lock);
	first = pool->good_host;
	pthread_mutex_unlock(&amqp->lock);
	for (uint32_t i = 0; i < pool->settings.host_count; i++) {
		uint32_t host = (first + i) % pool->settings.host_count;

		if (!connect_host(connection, &pool->settings.hosts[host]))
			continue;
		pthread_mutex_lock(&amqp->lock);
		pool->good_host = host;
		pthread_mutex_unlock(&amqp->lock);
		return true;
	}
	return false;
}
