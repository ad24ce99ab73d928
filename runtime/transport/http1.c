#include "transport/http1.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"
#include "transport/http_internal.h"

enum {
	SCRATCH_BYTES = 64 * 1024,
	READS = 16,           /* of one connection before others get their turn */
	MAX_IDLE = 256,       /* connections; the one idle for longest goes first */
	KEEP_IN_BYTES = 1024, /* a larger buffer for the beginning of a line is not kept */
};
#define CURT_NS TR_NS_PER_S         /* who ends a connection so soon after an answer may do it at once, too */
#define FRESH_NS (TR_NS_PER_MS / 2) /* a look at a socket is as good as a new one for so long */

/* --- connections ---------------------------------------------------------------------------------------- */

static void receive(struct tr_http1_conn *conn);
static void send_request(struct tr_http1_conn *conn);
static void idle_close(struct tr_http1_conn *conn);

static void
io_cb(struct ev_loop *ev, ev_io *io, int revents)
{
	struct tr_http1_conn *conn = tr_container_of(io, struct tr_http1_conn, io);

	if (!conn->connected) {
		tr_http1_dial_ready(conn);
	} else if (conn->flight == NULL) { /* closed by its peer, or it talks without having been asked */
		if (tr_mono_ns() - conn->idle_since_ns < CURT_NS)
			conn->place->curt = true;
		idle_close(conn);
	} else {
		if (revents & EV_WRITE)
			send_request(conn);
		if (revents & EV_READ)
			receive(conn);
	}
}

void
tr_http1_conn_watch(struct tr_http1_conn *conn, int events)
{
	struct ev_loop *ev = tr_loop_ev(conn->http1->loop);
	int fd = conn->io.fd;

	if (ev_is_active(&conn->io)) {
		if ((conn->io.events & (EV_READ | EV_WRITE)) == events)
			return;
		ev_io_stop(ev, &conn->io);
	}
	ev_io_init(&conn->io, io_cb, fd, events);
	ev_io_start(ev, &conn->io);
}

void
tr_http1_conn_free(struct tr_http1_conn *conn)
{
	ev_io_stop(tr_loop_ev(conn->http1->loop), &conn->io);
	close(conn->io.fd);
	if (conn->connected)
		conn->place->conns--;
	tr_http1_place_unref(conn->place);
	tr_buf_free(&conn->in);
	free(conn);
}

static void
idle_remove(struct tr_http1_conn *conn)
{
	struct tr_http1 *http1 = conn->http1;

	*conn->prev = conn->next;
	if (conn->next != NULL)
		conn->next->prev = conn->prev;
	*(conn->older != NULL ? &conn->older->newer : &http1->oldest) = conn->newer;
	*(conn->newer != NULL ? &conn->newer->older : &http1->newest) = conn->older;
	http1->idle_count--;
}

static void
idle_close(struct tr_http1_conn *conn)
{
	idle_remove(conn);
	tr_http1_conn_free(conn);
}

static void
sweep_cb(struct tr_timer *timer)
{
	struct tr_http1 *http1 = tr_container_of(timer, struct tr_http1, sweep);
	int64_t now_ns = tr_mono_ns(), due_ns = INT64_MAX;

	for (struct tr_http1_conn *conn = http1->oldest, *next; conn != NULL; conn = next) {
		int64_t end_ns = conn->idle_since_ns + conn->idle_ns;

		next = conn->newer;
		if (end_ns <= now_ns)
			idle_close(conn);
		else
			due_ns = tr_min_i64(due_ns, end_ns);
	}
	if (http1->idle_count > 0)
		tr_timer_start_at(tr_loop_wheel(http1->loop), timer, due_ns, sweep_cb);
}

static void
idle_add(struct tr_http1_conn *conn, int64_t idle_ns)
{
	struct tr_http1_place *place = conn->place;
	struct tr_http1 *http1 = conn->http1;

	conn->idle_since_ns = tr_mono_ns();
	conn->idle_ns = tr_min_i64(idle_ns, INT64_MAX / 4);
	conn->flight = NULL;
	conn->next = place->idle;
	conn->prev = &place->idle;
	if (conn->next != NULL)
		conn->next->prev = &conn->next;
	place->idle = conn;
	conn->older = http1->newest;
	conn->newer = NULL;
	*(conn->older != NULL ? &conn->older->newer : &http1->oldest) = conn;
	http1->newest = conn;
	if (++http1->idle_count > MAX_IDLE)
		idle_close(http1->oldest);
	/* The timer may be late for a connection of a client with a shorter time: it is not used then all the same. */
	if (!tr_timer_running(&http1->sweep))
		tr_timer_start_at(
			tr_loop_wheel(http1->loop), &http1->sweep, conn->idle_since_ns + conn->idle_ns, sweep_cb);
}

/* Closed by the peer, or with bytes that nobody asked for? Nothing had come when its answer was read, and later the
 * watcher would know: a new look is needed only if neither was just now, or if the peer's end often comes just then. */
static bool
is_stale(struct tr_http1_conn *conn, int64_t idle_for_ns)
{
	struct ev_loop *ev = tr_loop_ev(conn->http1->loop);
	char byte;

	if (!conn->place->curt && !ev_is_pending(&conn->io) &&
		((idle_for_ns < FRESH_NS && !tr_clock_is_virtual()) ||
			ev_time() - ev_now(ev) < (double)FRESH_NS / (double)TR_NS_PER_S))
		return false;
	return recv(conn->io.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
}

static struct tr_http1_conn *
idle_take(struct tr_http1_place *place, int64_t idle_ns, const struct tr_guard *guard)
{
	struct tr_http1_conn *next;
	int64_t now_ns;

	if (place->idle == NULL)
		return NULL;
	now_ns = tr_mono_ns();
	for (struct tr_http1_conn *conn = place->idle; conn != NULL; conn = next) {
		/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): what is closed leaves the list */
		int64_t idle_for_ns = now_ns - conn->idle_since_ns;

		next = conn->next;
		if (!tr_guard_allows(guard, &conn->addr))
			continue; /* another client's */
		if (idle_for_ns < tr_min_i64(idle_ns, conn->idle_ns) && !is_stale(conn, idle_for_ns)) {
			idle_remove(conn);
			return conn;
		}
		if (idle_for_ns >= idle_ns && idle_for_ns < conn->idle_ns)
			return NULL; /* good enough for another client; those behind it are older */
		idle_close(conn);
	}
	return NULL;
}

/* --- the end of a request ------------------------------------------------------------------------------- */

static void
failed_cb(struct tr_defer *defer)
{
	tr_http_flight_failed(tr_container_of(defer, struct tr_http_flight, own.failed));
}

void
tr_http1_fail(struct tr_http_flight *flight, int err, const char *fmt, ...)
{
	struct tr_http_call *call = flight->call;
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof text, fmt, args);
	va_end(args);
	call->err = err;
	call->status = 0;
	call->redirecting = flight->hops > 0;
	tr_buf_clear(&call->error);
	tr_buf_addz(&call->error, text);
	tr_loop_defer(flight->client->http->loop, &flight->own.failed, failed_cb);
}

/* Takes the connection from its flight and closes it. */
static struct tr_http_flight *
abandon(struct tr_http1_conn *conn)
{
	struct tr_http_flight *flight = conn->flight;

	flight->own.conn = NULL;
	tr_http1_conn_free(conn);
	return flight;
}

/* The idle connection was dead: once more on one that was not idle. */
static void
begin_again(struct tr_http1_conn *conn)
{
	struct tr_http1 *http1 = conn->http1;
	struct tr_http_flight *flight = abandon(conn);
	int err = tr_http1_dial(http1, flight);

	if (err != TR_OK)
		tr_http1_fail(flight, err, "%s", tr_err_text(err));
}

static void
complete(struct tr_http1_conn *conn, bool more)
{
	struct tr_http_flight *flight = conn->flight;
	struct tr_http1_request *request = &flight->own;
	char *location;
	int err;

	flight->call->status = conn->parser.status;
	request->conn = NULL;
	if (tr_http1_reusable(&conn->parser) && !more && conn->sent == request->head.len + request->body.len) {
		conn->reused = true;
		tr_buf_clear(&conn->in);
		if (conn->in.cap > KEEP_IN_BYTES)
			tr_buf_free(&conn->in);
		idle_add(conn, flight->client->settings.idle_ns);
	} else {
		tr_http1_conn_free(conn);
	}
	err = tr_http1_location(flight, &location);
	tr_http_flight_answered(flight, err, location);
}

/* The connection has ended before the answer was complete: errnum, or 0 for an orderly end. */
static void
ended(struct tr_http1_conn *conn, int errnum)
{
	struct tr_http1_parser *parser = &conn->parser;
	int send_errnum = conn->send_errnum;
	bool heard = conn->heard, reused = conn->reused;

	if (errnum == 0 && tr_http1_eof(parser)) {
		complete(conn, true);
		return;
	}
	if (!heard && reused && (conn->sent == 0 || conn->flight->method == TR_HTTP_GET)) {
		conn->place->curt = true;
		begin_again(conn);
		return;
	}
	enum tr_http1_state state = parser->state;
	unsigned long long left = parser->left;
	struct tr_http_flight *flight = abandon(conn);

	flight->own.place->curt = flight->own.place->curt || (!heard && reused);
	if (!heard && reused)
		tr_http1_fail(flight, TR_ECLOSED, "connection closed before the answer, after the request was sent");
	else if (!heard && send_errnum != 0)
		tr_http1_fail(
			flight, TR_ECLOSED, "Failed sending data to the peer: Send failure: %s", strerror(send_errnum));
	else if (errnum != 0)
		tr_http1_fail(flight, TR_ECLOSED, "Failure when receiving data from the peer: Recv failure: %s",
			strerror(errnum));
	else if (!heard)
		tr_http1_fail(
			flight, TR_ECLOSED, "Server returned nothing (no headers, no data): Empty reply from server");
	else if (state == TR_HTTP1_LENGTH)
		tr_http1_fail(flight, TR_ECLOSED,
			"Transferred a partial file: transfer closed with %llu bytes remaining to read", left);
	else
		tr_http1_fail(flight, TR_ECLOSED,
			"Transferred a partial file: transfer closed with outstanding read data remaining");
}

/* --- bytes ---------------------------------------------------------------------------------------------- */

static void
trace_sent(struct tr_http1_conn *conn, size_t from)
{
	struct tr_http1_request *request = &conn->flight->own;
	size_t head = request->head.len;

	if (from < head)
		tr_http_trace(conn->flight, ">", request->head.data + from, tr_min_i64(conn->sent, head) - from);
	if (conn->sent > head)
		tr_http_trace(conn->flight, "> body", request->body.data + (from > head ? from - head : 0),
			conn->sent - (from > head ? from : head));
}

static void
send_request(struct tr_http1_conn *conn)
{
	struct tr_http1_request *request = &conn->flight->own;
	size_t head = request->head.len, all = head + request->body.len, before = conn->sent;
	struct iovec parts[2];
	struct msghdr msg = {.msg_iov = parts};
	ssize_t got;

	if (conn->send_errnum != 0 || conn->sent == all)
		return;
	if (conn->sent < head)
		parts[msg.msg_iovlen++] = (struct iovec){request->head.data + conn->sent, head - conn->sent};
	if (request->body.len > 0) {
		size_t skip = conn->sent > head ? conn->sent - head : 0;

		parts[msg.msg_iovlen++] = (struct iovec){(char *)request->body.data + skip, request->body.len - skip};
	}
	do {
		got = sendmsg(conn->io.fd, &msg, MSG_NOSIGNAL);
	} while (got < 0 && errno == EINTR);
	if (got > 0)
		conn->sent += (size_t)got;
	if (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
		conn->send_errnum = errno; /* the peer may have answered before it closed: recv() tells how it ended */
	tr_http1_conn_watch(conn, conn->sent < all && conn->send_errnum == 0 ? EV_READ | EV_WRITE : EV_READ);
	if (conn->flight->client->settings.verbose)
		trace_sent(conn, before);
}

/* False: the connection is no longer ours. */
static bool
take(struct tr_http1_conn *conn, const char *data, size_t len)
{
	struct tr_http1_parser *parser = &conn->parser;
	struct tr_buf *in = &conn->in;
	const char *from = data;
	size_t all = len, used;
	int err;

	if (conn->flight->client->settings.verbose)
		tr_http_trace(conn->flight, "<", data, len);
	if (in->len > 0) {
		tr_buf_add(in, data, len);
		from = in->data;
		all = in->len;
	}
	conn->heard = true;
	err = in->failed ? TR_ENOMEM : tr_http1_feed(parser, from, all, &used);
	if (err == TR_OK && parser->state == TR_HTTP1_DONE) {
		complete(conn, used < all);
		return false;
	}
	if (err == TR_OK && in->len > 0) {
		tr_buf_consume(in, used);
	} else if (err == TR_OK && used < len) {
		tr_buf_add(in, data + used, len - used);
		err = in->failed ? TR_ENOMEM : TR_OK;
	}
	if (err != TR_OK) {
		const char *why = parser->why != NULL ? parser->why : "out of memory";

		tr_http1_fail(abandon(conn), err, "%s", why);
		return false;
	}
	return true;
}

static void
receive(struct tr_http1_conn *conn)
{
	char *scratch = conn->http1->scratch;

	for (int i = 0; i < READS; i++) {
		ssize_t got = recv(conn->io.fd, scratch, SCRATCH_BYTES, 0);

		if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK)) {
			ended(conn, got == 0 ? 0 : errno);
			return;
		}
		if (got < 0 && errno != EINTR)
			return;
		if (got > 0 && (!take(conn, scratch, (size_t)got) || got < SCRATCH_BYTES))
			return;
	}
}

/* --- requests ------------------------------------------------------------------------------------------- */

static void
carry(struct tr_http1_conn *conn, struct tr_http_flight *flight)
{
	const struct tr_http_settings *settings = &flight->client->settings;
	struct tr_http_call *call = flight->call;

	flight->own.conn = conn;
	conn->flight = flight;
	conn->sent = 0;
	conn->send_errnum = 0;
	conn->heard = false;
	tr_http1_parser_init(
		&conn->parser, &call->head, &call->content, settings->max_response_bytes, settings->truncate_response);
	send_request(conn);
}

void
tr_http1_connected(struct tr_http1_conn *conn)
{
	struct tr_http1_place *place = conn->place;

	conn->connected = true;
	place->conns++;
	if (!place->literal)
		place->addr = conn->addr;
	carry(conn, conn->flight);
}

int
tr_http1_launch(struct tr_http1 *http1, struct tr_http_flight *flight, const char *url)
{
	struct tr_http1_conn *conn;
	int err = tr_http1_prepare(http1, flight, url);

	if (err != TR_OK)
		return err;
	while ((conn = idle_take(flight->own.place, flight->client->settings.idle_ns,
			&flight->client->settings.guard)) != NULL) {
		carry(conn, flight);
		if (conn->send_errnum == 0 || conn->sent > 0)
			return TR_OK;
		abandon(conn); /* it died since the loop has looked, and the kernel has taken nothing */
	}
	return tr_http1_dial(http1, flight);
}

void
tr_http1_stop(struct tr_http1 *http1, struct tr_http_flight *flight)
{
	tr_loop_undefer(http1->loop, &flight->own.failed);
	tr_http1_dial_stop(flight);
	if (flight->own.conn != NULL)
		abandon(flight->own.conn);
}

int
tr_http1_new(struct tr_loop *loop, struct tr_http1 **out)
{
	struct tr_http1 *http1 = calloc(1, sizeof *http1);

	*out = NULL;
	if (http1 == NULL)
		return TR_ENOMEM;
	http1->loop = loop;
	http1->scratch = malloc(SCRATCH_BYTES);
	if (http1->scratch == NULL) {
		free(http1);
		return TR_ENOMEM;
	}
	*out = http1;
	return TR_OK;
}

void
tr_http1_free(struct tr_http1 *http1)
{
	if (http1 == NULL)
		return;
	while (http1->oldest != NULL)
		/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): what is closed leaves the list */
		idle_close(http1->oldest);
	tr_timer_stop(tr_loop_wheel(http1->loop), &http1->sweep);
	tr_dns_free(http1->dns);
	free(http1->scratch);
	free(http1);
}
