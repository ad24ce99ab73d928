#include "ingress/http_server_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ev.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "ingress/http_framing.h"
#include "ingress/intake.h"
#include "ingress/smtp_session.h"
#include "net/address.h"

enum {
	IDLE_S = 60, /* a connection that is silent this long is closed */
	MAX_CONNECTIONS = 1024,
	MORE_CONNECTIONS = 64,        /* while those who were told to go are still there */
	CONNECTION_BYTES = 32 * 1024, /* header of a request, with libmicrohttpd's own needs */
};

static void arm(struct tr_http_server *server);

/* --- requests --------------------------------------------------------------------------------------- */

static enum tr_intake_kind
kind_of(const struct tr_http_request *request)
{
	return tr_http_request_is_known(request) ? TR_INTAKE_HTTP : TR_INTAKE_UNKNOWN;
}

static void
drop_body(struct tr_http_request *request)
{
	tr_buf_free(&request->body);
	tr_intake_give(kind_of(request), request->counted);
	request->counted = 0;
}

static void
request_free(struct tr_http_request *request)
{
	drop_body(request);
	if (request->response != NULL)
		MHD_destroy_response(request->response);
	free(request->path);
	free(request);
}

static void
address_text(const struct sockaddr *addr, char *out, size_t size)
{
	const void *ip = NULL;
	int family = addr != NULL ? addr->sa_family : AF_UNSPEC;

	out[0] = '\0';
	if (family == AF_INET) {
		ip = &((const struct sockaddr_in *)addr)->sin_addr;
	} else if (family == AF_INET6) {
		const struct in6_addr *six = &((const struct sockaddr_in6 *)addr)->sin6_addr;

		ip = six;
		if (IN6_IS_ADDR_V4MAPPED(six)) {
			ip = six->s6_addr + 12;
			family = AF_INET;
		}
	}
	if (ip != NULL && inet_ntop(family, ip, out, (socklen_t)size) == NULL)
		out[0] = '\0';
}

static void
set_addresses(struct tr_http_request *request)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
	struct sockaddr_storage local = {0};
	socklen_t len = sizeof local;

	address_text(info != NULL ? info->client_addr : NULL, request->peer, sizeof request->peer);
	info = MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	if (info != NULL && getsockname(info->connect_fd, (struct sockaddr *)&local, &len) == 0)
		address_text((struct sockaddr *)&local, request->local, sizeof request->local);
}

/* NULL value: none is wanted. */
static bool
add_header(struct MHD_Response *response, const char *name, const char *value)
{
	return name == NULL || value == NULL || MHD_add_response_header(response, name, value) == MHD_YES;
}

/* NULL: no memory. With a header less it would be another answer. */
static struct MHD_Response *
make_response(const char *content_type, const char *name, const char *value, struct tr_str body)
{
	struct MHD_Response *response =
		MHD_create_response_from_buffer(body.len, (void *)body.data, MHD_RESPMEM_MUST_COPY);

	if (response == NULL)
		return NULL;
	if (add_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, content_type) && add_header(response, name, value))
		return response;
	MHD_destroy_response(response);
	return NULL;
}

static enum MHD_Result
refuse(struct MHD_Connection *connection, unsigned status, const char *text)
{
	struct MHD_Response *response = make_response("text/plain", "Connection", "close", tr_str(text));
	enum MHD_Result result;

	if (response == NULL)
		return MHD_NO;
	result = add_header(response, "WWW-Authenticate",
			 status == MHD_HTTP_UNAUTHORIZED ? "Basic realm=\"tailrace\"" : NULL)
			 ? MHD_queue_response(connection, status, response)
			 : MHD_NO;
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result
refuse_size(struct MHD_Connection *connection)
{
	return refuse(connection, MHD_HTTP_CONTENT_TOO_LARGE, "Error: the request body exceeds request_body_limit\n");
}

static enum MHD_Result
send_answer(struct tr_http_request *request)
{
	if (request->response == NULL) /* no memory when the answer was made */
		return MHD_NO;
	return MHD_queue_response(request->connection, (unsigned)request->status, request->response);
}

static void
dismiss(struct tr_http_server *server, struct tr_http_place *place)
{
	if (place->request != NULL)
		drop_body(place->request);
	tr_http_crowd_dismiss(&server->crowd, place);
}

/* The places of connections. */
static void
on_connection(void *arg, struct MHD_Connection *connection, void **slot, enum MHD_ConnectionNotificationCode what)
{
	struct tr_http_server *server = arg;
	struct tr_http_place *place = *slot, *leaver;
	const union MHD_ConnectionInfo *info;
	char peer[64];

	if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
		if (place != NULL) {
			tr_http_crowd_remove(&server->crowd, place);
			free(place);
		}
		return;
	}
	info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	place = info != NULL ? calloc(1, sizeof *place) : NULL;
	if (place == NULL)
		return; /* its requests are refused */
	place->fd = info->connect_fd;
	info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
	address_text(info != NULL ? info->client_addr : NULL, peer, sizeof peer);
	place->known = server->config.knows != NULL && server->config.knows(server->config.arg, peer);
	*slot = place;
	tr_http_crowd_add(&server->crowd, place);
	while (tr_http_crowd_is_full(&server->crowd) || tr_intake_files_short(place->fd)) {
		bool files = !tr_http_crowd_is_full(&server->crowd);

		leaver = tr_http_crowd_oldest(&server->crowd);
		if (!server->complained) {
			tr_log(TR_LEVEL_WARN, "http_server",
				"%s: too many connections: those that have waited longest without a request are closed",
				server->address);
			server->complained = true;
		}
		if (leaver == NULL)
			break;
		dismiss(server, leaver);
		if (files)
			break; /* one for one: the descriptor comes back in a moment */
	}
}

static struct tr_http_place *
place_of(struct MHD_Connection *connection)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return info != NULL ? info->socket_context : NULL;
}

/* Room in the body for `len` more, from the budget of intake: a stranger gets it from another one who has waited
 * longer.
 */
static bool
make_room(struct tr_http_request *request, size_t len)
{
	struct tr_http_server *server = request->server;
	struct tr_http_place *place;
	size_t cap = request->body.cap;

	if (tr_buf_reserve(&request->body, len) == NULL)
		return false;
	len = request->body.cap - cap;
	if (len == 0)
		return true;
	if (tr_intake_is_short())
		tr_smtp_make_room();
	while (!tr_intake_take(kind_of(request), (int64_t)len)) {
		place = tr_http_crowd_oldest_body(&server->crowd, request->place->known, request->place);
		if (place == NULL || request->place->known)
			return false;
		dismiss(server, place);
	}
	request->counted += (int64_t)len;
	return true;
}

static void
hand_on(struct tr_http_request *request)
{
	struct tr_http_server *server = request->server;

	request->place->busy = true;
	request->stage = STAGE_HANDLING;
	request->next = server->open;
	request->prev = &server->open;
	if (request->next != NULL)
		request->next->prev = &request->next;
	server->open = request;
	server->busy++;
	tr_hold_take();
	server->config.handle(server->config.arg, request);
}

static bool
declared_too_big(const struct tr_http_server *server, struct MHD_Connection *connection)
{
	const char *length = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);

	return length != NULL && strtoull(length, NULL, 10) > server->config.body_limit;
}

static enum MHD_Result
on_access(void *arg, struct MHD_Connection *connection, const char *url, const char *method, const char *version,
	const char *data, size_t *len, void **slot)
{
	struct tr_http_server *server = arg;
	struct tr_http_request *request = *slot;

	if (request == NULL) {
		if (!tr_http_framing_is_plain(connection, method))
			return refuse(
				connection, MHD_HTTP_BAD_REQUEST, "Error: the length of the request is in doubt\n");
		if (declared_too_big(server, connection))
			return refuse_size(connection);
		request = calloc(1, sizeof *request);
		if (request == NULL)
			return MHD_NO;
		request->server = server;
		request->connection = connection;
		request->place = place_of(connection);
		request->method = method;
		request->path = strdup(url);
		if (request->path == NULL || request->place == NULL) {
			free(request->path);
			free(request);
			return MHD_NO;
		}
		request->known = request->place->known;
		set_addresses(request);
		if (server->config.admits != NULL && !server->config.admits(server->config.arg, request)) {
			request_free(request);
			return refuse(connection, MHD_HTTP_UNAUTHORIZED, "Error: you are not authorized to do that\n");
		}
		request->place->request = request;
		*slot = request;
		return MHD_YES;
	}
	if (*len > 0) {
		if (request->body.len + *len > server->config.body_limit) { /* chunked: no length was declared */
			if (!request->too_big)
				drop_body(request);
			request->too_big = true;
			request->dropped += *len;
			if (request->dropped > server->config.body_limit)
				return MHD_NO;
		} else if (request->place->leaving) {
			return MHD_NO;
		} else if (!request->too_big && !request->no_room) {
			if (make_room(request, *len)) {
				tr_buf_add(&request->body, data, *len);
			} else {
				drop_body(request);
				request->no_room = true;
			}
		}
		*len = 0;
		return MHD_YES;
	}
	if (request->too_big)
		return refuse_size(connection);
	if (request->no_room)
		return refuse(connection, MHD_HTTP_SERVICE_UNAVAILABLE,
			"Error: no memory for the request body. Try again later\n");
	if (request->stage == STAGE_BODY)
		hand_on(request);
	if (request->stage == STAGE_ANSWERED)
		return send_answer(request);
	if (request->aborted)
		return MHD_NO;
	if (!request->suspended) {
		request->suspended = true;
		MHD_suspend_connection(connection);
	}
	return MHD_YES;
}

static void
on_completed(void *arg, struct MHD_Connection *connection, void **slot, enum MHD_RequestTerminationCode why)
{
	struct tr_http_request *request = *slot;

	*slot = NULL;
	if (request == NULL)
		return;
	request->connection = NULL;
	request->ended = true;
	request->place->busy = false;
	request->place->request = NULL;
	if (!request->place->leaving)
		tr_http_crowd_served(&request->server->crowd, request->place);
	request->place = NULL;
	if (request->stage != STAGE_HANDLING) /* else whoever handles it still holds it */
		request_free(request);
}

static void
run_cb(struct tr_defer *defer)
{
	struct tr_http_server *server = tr_container_of(defer, struct tr_http_server, run);

	if (server->daemon == NULL)
		return;
	MHD_run(server->daemon);
	arm(server);
}

void
tr_http_request_answer(struct tr_http_request *request, int status, const char *content_type, const char *name,
	const char *value, struct tr_str body)
{
	struct tr_http_server *server = request->server;

	tr_hold_drop();
	if (server == NULL) {
		request_free(request);
		return;
	}
	*request->prev = request->next;
	if (request->next != NULL)
		request->next->prev = request->prev;
	server->busy--;
	request->stage = STAGE_ANSWERED;
	if (request->ended) {
		request_free(request);
		return;
	}
	request->status = status;
	request->response = make_response(content_type, name, value, body);
	if (request->suspended) {
		request->suspended = false;
		MHD_resume_connection(request->connection);
		tr_loop_defer(server->config.loop, &server->run, run_cb);
	}
}

/* --- the loop ------------------------------------------------------------------------------------------ */

static void
arm(struct tr_http_server *server)
{
	MHD_UNSIGNED_LONG_LONG timeout_ms;
	struct ev_loop *ev = tr_loop_ev(server->config.loop);

	ev_timer_stop(ev, &server->timer);
	if (MHD_get_timeout(server->daemon, &timeout_ms) == MHD_YES) {
		ev_timer_set(&server->timer, (double)timeout_ms / 1000., 0.);
		ev_timer_start(ev, &server->timer);
	}
}

static void
io_cb(struct ev_loop *ev, struct ev_io *io, int revents)
{
	run_cb(&tr_container_of(io, struct tr_http_server, io)->run);
}

static void
timer_cb(struct ev_loop *ev, struct ev_timer *timer, int revents)
{
	run_cb(&tr_container_of(timer, struct tr_http_server, timer)->run);
}

static void
on_log(void *arg, const char *fmt, va_list args)
{
	char text[400];
	size_t len;

	vsnprintf(text, sizeof text, fmt, args);
	len = strlen(text);
	while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '.'))
		text[--len] = '\0';
	tr_log(TR_LEVEL_DEBUG, "http_server", "%s", text);
}

/* --- start and end --------------------------------------------------------------------------------------- */

static int
bind_to(struct tr_http_server *server, char **error)
{
	struct tr_sockaddr addr;
	const int on = 1;

	if (tr_sockaddr_parse(tr_str(server->config.listen), 0, &addr) != TR_OK)
		return TR_EINVAL;
	server->fd = socket(addr.ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (server->fd < 0 || setsockopt(server->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
		bind(server->fd, (struct sockaddr *)&addr.ss, addr.len) != 0 || listen(server->fd, 512) != 0) {
		int err = errno;

		if (error != NULL &&
			asprintf(error, "cannot listen on %s: %s", server->config.listen, tr_errno_text(err)) < 0)
			*error = NULL;
		return TR_EIO;
	}
	if (getsockname(server->fd, (struct sockaddr *)&addr.ss, &addr.len) != 0)
		return TR_EIO;
	tr_sockaddr_text(&addr, true, server->address);
	return TR_OK;
}

int
tr_http_server_new(const struct tr_http_server_config *config, struct tr_http_server **out, char **error)
{
	struct tr_http_server *server = calloc(1, sizeof *server);
	const union MHD_DaemonInfo *info;
	int err;

	*out = NULL;
	if (error != NULL)
		*error = NULL;
	if (server == NULL)
		return TR_ENOMEM;
	server->config = *config;
	server->fd = -1;
	tr_http_crowd_init(&server->crowd, MAX_CONNECTIONS);
	err = bind_to(server, error);
	server->config.listen = NULL; /* the caller's */
	if (err != TR_OK)
		goto fail;
	errno = 0;
	server->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL,
		on_access, server, MHD_OPTION_EXTERNAL_LOGGER, on_log, server, MHD_OPTION_LISTEN_SOCKET, server->fd,
		MHD_OPTION_NOTIFY_COMPLETED, on_completed, server, MHD_OPTION_NOTIFY_CONNECTION, on_connection, server,
		MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S, MHD_OPTION_CONNECTION_LIMIT,
		(unsigned)(MAX_CONNECTIONS + MORE_CONNECTIONS), MHD_OPTION_CONNECTION_MEMORY_LIMIT,
		(size_t)CONNECTION_BYTES, MHD_OPTION_END);
	info = server->daemon != NULL ? MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
	if (info == NULL) {
		err = errno == EMFILE || errno == ENFILE ? TR_EMFILE : TR_ENOMEM;
		goto fail;
	}
	ev_io_init(&server->io, io_cb, info->epoll_fd, EV_READ);
	ev_io_start(tr_loop_ev(config->loop), &server->io);
	ev_timer_init(&server->timer, timer_cb, 0., 0.);
	arm(server);
	*out = server;
	return TR_OK;
fail:
	if (server->daemon != NULL)
		MHD_stop_daemon(server->daemon);
	else if (server->fd >= 0)
		close(server->fd);
	free(server);
	return err;
}

void
tr_http_server_stop(struct tr_http_server *server)
{
	MHD_socket fd;

	if (server->quiet)
		return;
	server->quiet = true;
	fd = MHD_quiesce_daemon(server->daemon);
	if (fd != MHD_INVALID_SOCKET)
		close(fd);
}

uint32_t
tr_http_server_busy(const struct tr_http_server *server)
{
	return server->busy;
}

void
tr_http_server_abort(struct tr_http_server *server)
{
	for (struct tr_http_request *request = server->open; request != NULL; request = request->next) {
		request->aborted = true;
		if (request->connection != NULL && request->suspended) {
			request->suspended = false;
			MHD_resume_connection(request->connection);
		}
	}
	tr_loop_defer(server->config.loop, &server->run, run_cb);
}

void
tr_http_server_free(struct tr_http_server *server)
{
	struct ev_loop *ev;

	if (server == NULL)
		return;
	ev = tr_loop_ev(server->config.loop);
	tr_http_server_stop(server);
	tr_http_server_abort(server);
	tr_loop_undefer(server->config.loop, &server->run);
	ev_io_stop(ev, &server->io);
	ev_timer_stop(ev, &server->timer);
	MHD_run(server->daemon);
	MHD_stop_daemon(server->daemon);
	for (struct tr_http_request *request = server->open; request != NULL; request = request->next)
		request->server = NULL; /* whoever handles it still answers */
	free(server);
}

const char *
tr_http_server_address(const struct tr_http_server *server)
{
	return server->address;
}
