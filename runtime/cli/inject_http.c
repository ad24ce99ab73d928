#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "cli/http_frame.h"
#include "cli/inject.h"

enum { READ_BYTES = 16 * 1024, MAX_ANSWER_BYTES = 16 * 1024 * 1024 };

enum phase {
	PHASE_OVER,  /* ended for good */
	PHASE_PAUSE, /* waits to connect again */
	PHASE_CONNECTING,
	PHASE_IDLE,  /* may send, waits for the rate */
	PHASE_ASKED, /* waits for the answer */
};

struct http_conn {
	struct tr_inject_conn base;
	struct ev_io io;
	struct tr_timer timer; /* the pause, or the deadline of the answer */
	struct tr_buf in, out;
	size_t out_at;      /* sent of out */
	struct tr_buf json; /* of the request being made */
	enum phase phase;
	int fd;            /* -1: none */
	int attempt;       /* to connect, since the last success */
	int64_t messages;  /* recipients of the request under way; 0: none */
	int64_t size;      /* of the message it carries */
	int64_t sent_here; /* messages on this connection */
	int64_t begun_ns;
};

static struct http_conn *conns; /* all of them: the command runs once in a process */

static void on_io(struct ev_loop *ev, struct ev_io *io, int events);
static void on_timer(struct tr_timer *timer);
static void next_request(struct tr_inject_conn *base);
static void lost(struct http_conn *conn, const char *why);

static struct tr_inject *
inject_of(struct http_conn *conn)
{
	return conn->base.inject;
}

static void
watch(struct http_conn *conn, int events)
{
	struct ev_loop *ev = inject_of(conn)->ev;

	if (ev_is_active(&conn->io) && (conn->io.events & (EV_READ | EV_WRITE)) == events)
		return;
	ev_io_stop(ev, &conn->io);
	ev_io_set(&conn->io, conn->fd, events);
	ev_io_start(ev, &conn->io);
}

static void
hang_up(struct http_conn *conn)
{
	struct tr_inject *inject = inject_of(conn);

	if (conn->fd >= 0) {
		ev_io_stop(inject->ev, &conn->io);
		close(conn->fd);
		conn->fd = -1;
	}
	tr_timer_stop(inject->wheel, &conn->timer);
	tr_buf_clear(&conn->in);
	tr_buf_clear(&conn->out);
	conn->out_at = 0;
}

static void
end(struct http_conn *conn)
{
	if (conn->phase == PHASE_OVER)
		return;
	hang_up(conn);
	conn->phase = PHASE_OVER;
	tr_inject_conn_over(&conn->base);
}

static void
connect_again(struct http_conn *conn)
{
	struct tr_inject *inject = inject_of(conn);

	if (tr_inject_over(inject)) {
		end(conn);
		return;
	}
	conn->sent_here = 0;
	conn->phase = PHASE_CONNECTING;
	conn->fd = tr_cli_connect(&inject->target);
	if (conn->fd < 0) {
		int err = conn->fd;

		conn->fd = -1;
		lost(conn, tr_err_text(err));
		return;
	}
	ev_io_init(&conn->io, on_io, conn->fd, EV_WRITE);
	ev_io_start(inject->ev, &conn->io);
	tr_timer_start(inject->wheel, &conn->timer, inject->timeout_ns, on_timer);
}

static void
lost(struct http_conn *conn, const char *why)
{
	struct tr_inject *inject = inject_of(conn);
	enum phase phase = conn->phase;

	if (conn->messages > 0) {
		/* Only when the last byte is not handed over can the server not have it. */
		if (conn->out_at == conn->out.len)
			inject->unknown += conn->messages;
		else
			tr_inject_give_back(inject, conn->messages);
		conn->messages = 0;
	}
	hang_up(conn);
	if (phase == PHASE_CONNECTING)
		inject->connect_failures++;
	else
		inject->lost_connections++;
	conn->phase = PHASE_PAUSE;
	if ((phase != PHASE_IDLE && !tr_inject_trouble(inject, "%s: %s", inject->target.text, why)) ||
		tr_inject_over(inject)) {
		end(conn);
		return;
	}
	tr_timer_start(inject->wheel, &conn->timer, tr_inject_backoff_ns(conn->attempt++), on_timer);
}

static bool
flush(struct http_conn *conn)
{
	while (conn->out_at < conn->out.len) {
		ssize_t sent = write(conn->fd, conn->out.data + conn->out_at, conn->out.len - conn->out_at);

		if (sent >= 0) {
			conn->out_at += (size_t)sent;
		} else if (errno == EAGAIN || errno == EWOULDBLOCK) {
			watch(conn, EV_READ | EV_WRITE);
			return true;
		} else if (errno != EINTR) {
			lost(conn, strerror(errno));
			return false;
		}
	}
	watch(conn, EV_READ);
	return true;
}

/* Sends the next request, waits for the rate, or ends. */
static void
next_request(struct tr_inject_conn *base)
{
	struct http_conn *conn = tr_container_of(base, struct http_conn, base);
	struct tr_inject *inject = inject_of(conn);

	if (conn->phase != PHASE_IDLE) /* lost while it waited for the rate */
		return;
	if (inject->messages_per_connection > 0 && conn->sent_here >= inject->messages_per_connection) {
		hang_up(conn);
		connect_again(conn);
		return;
	}
	int64_t number = inject->started;

	conn->messages = tr_inject_take(base, inject->batch);
	if (conn->messages == 0) {
		if (tr_inject_over(inject))
			end(conn);
		return;
	}
	const struct tr_inject_body *body = tr_inject_body_of(inject, number);
	struct tr_buf *json = &conn->json;
	struct tr_buf first = {0}, content = {0};

	tr_buf_clear(json);
	tr_buf_addz(json, "{\"envelope_sender\":");
	tr_json_add_string(json, tr_str(inject->from));
	tr_buf_addz(json, ",\"recipients\":[");
	for (int64_t i = 0; i < conn->messages; i++) {
		struct tr_buf rcpt = {0};

		tr_inject_add_rcpt(inject, &rcpt);
		tr_buf_addz(json, i > 0 ? ",{\"email\":" : "{\"email\":");
		tr_json_add_string(json, (struct tr_str){rcpt.data, rcpt.len});
		tr_buf_addc(json, '}');
		if (i == 0)
			first = rcpt;
		else
			tr_buf_free(&rcpt);
	}
	/* Static: braces in a file are text, no template */
	tr_buf_addz(json, "],\"template_dialect\":\"Static\",\"content\":");
	tr_inject_add_headers(inject, body, number, (struct tr_str){first.data, first.len}, &content);
	tr_buf_add(&content, body->bytes.data, body->bytes.len);
	tr_json_add_string(json, (struct tr_str){content.data, content.len});
	tr_buf_addc(json, '}');
	conn->size = (int64_t)content.len;
	tr_buf_clear(&conn->out);
	conn->out_at = 0;
	tr_buf_addf(&conn->out,
		"POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
		inject->path, inject->host, json->len);
	tr_buf_add(&conn->out, json->data, json->len);
	bool failed = first.failed || content.failed || json->failed || conn->out.failed;

	tr_buf_free(&first);
	tr_buf_free(&content);
	if (failed) {
		lost(conn, "out of memory");
		return;
	}
	conn->sent_here += conn->messages;
	conn->begun_ns = tr_mono_ns();
	conn->phase = PHASE_ASKED;
	tr_timer_start(inject->wheel, &conn->timer, inject->timeout_ns, on_timer);
	flush(conn);
}

static int64_t
number_of(struct tr_str object, const char *key)
{
	struct tr_str value = tr_json_get(object, key);

	return value.data != NULL && tr_json_type(value) == TR_JSON_NUMBER ? strtoll(value.data, NULL, 10) : -1;
}

static void
count_answer(struct http_conn *conn, int status, struct tr_str body)
{
	struct tr_inject *inject = inject_of(conn);
	int64_t accepted = 0;
	size_t error_at;

	if (status == 200) {
		accepted = conn->messages;
		if (body.len > 0 && body.data[0] == '{' && tr_json_check(body, &error_at) == TR_OK) {
			int64_t told = number_of(body, "success_count"); /* recipients fail one by one, with a 200 */

			accepted = told >= 0 ? tr_min_i64(told, conn->messages) : accepted;
		}
	}
	inject->codes[status]++;
	tr_latency_add(&inject->latency, tr_mono_ns() - conn->begun_ns);
	inject->accepted += accepted;
	inject->recipients += accepted;
	inject->refused += conn->messages - accepted;
	inject->recipients_refused += conn->messages - accepted;
	inject->bytes += conn->size * accepted;
	conn->messages = 0;
}

/* Handles the answer if it is complete. */
static void
take_answer(struct http_conn *conn)
{
	struct tr_http_head head;
	struct tr_buf decoded = {0};
	const char *data = conn->in.data;
	int rc = tr_http_head(data, conn->in.len, true, &head);

	if (rc == TR_OK && head.status / 100 == 1) { /* an interim answer */
		tr_buf_consume(&conn->in, head.len);
		if (conn->in.len > 0)
			take_answer(conn);
		return;
	}
	struct tr_str body = {data + head.len, head.content_length > 0 ? (size_t)head.content_length : 0};

	if (rc == TR_OK && head.chunked) {
		size_t at = head.len;

		rc = tr_http_chunks(data, conn->in.len, &at, &decoded, MAX_ANSWER_BYTES);
		body = (struct tr_str){decoded.data, decoded.len};
	} else if (rc == TR_OK && conn->in.len < head.len + body.len) {
		rc = body.len > MAX_ANSWER_BYTES ? TR_ETOOBIG : TR_EAGAIN;
	}
	if (rc == TR_EAGAIN) {
		tr_buf_free(&decoded);
		return;
	}
	if (rc != TR_OK) {
		tr_buf_free(&decoded);
		lost(conn, "the answer is no HTTP");
		return;
	}
	count_answer(conn, head.status, body);
	tr_buf_free(&decoded);
	tr_buf_clear(&conn->in);
	conn->phase = PHASE_IDLE;
	tr_timer_stop(inject_of(conn)->wheel, &conn->timer);
	if (!head.keep_alive) {
		hang_up(conn);
		connect_again(conn);
		return;
	}
	next_request(&conn->base);
}

static void
on_timer(struct tr_timer *timer)
{
	struct http_conn *conn = tr_container_of(timer, struct http_conn, timer);

	if (conn->phase == PHASE_PAUSE)
		connect_again(conn);
	else
		lost(conn, "no answer in time");
}

static void
on_io(struct ev_loop *ev, struct ev_io *io, int events)
{
	struct http_conn *conn = tr_container_of(io, struct http_conn, io);
	struct tr_inject *inject = inject_of(conn);

	if (conn->phase == PHASE_CONNECTING) {
		int error = 0;
		socklen_t len = sizeof error;

		getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &len);
		if (error != 0) {
			lost(conn, strerror(error));
			return;
		}
		inject->connects++;
		conn->attempt = 0;
		tr_timer_stop(inject->wheel, &conn->timer);
		conn->phase = PHASE_IDLE;
		watch(conn, EV_READ);
		next_request(&conn->base);
		return;
	}
	if ((events & EV_WRITE) && !flush(conn))
		return;
	if (!(events & EV_READ))
		return;
	char *to = tr_buf_reserve(&conn->in, READ_BYTES);

	if (to == NULL) {
		lost(conn, "out of memory");
		return;
	}
	ssize_t got = read(conn->fd, to, READ_BYTES);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) {
		lost(conn, got == 0 ? "the server closed the connection" : strerror(errno));
		return;
	}
	conn->in.len += (size_t)got;
	if (conn->phase == PHASE_ASKED)
		take_answer(conn);
	else
		lost(conn, "an answer to nothing that was asked");
}

bool
tr_inject_http_start(struct tr_inject *inject)
{
	inject->connections = tr_min_i64(inject->connections, (inject->count - 1) / inject->batch + 1);
	inject->open = inject->connections;
	conns = calloc((size_t)inject->connections, sizeof *conns);
	if (conns == NULL)
		return false;
	for (int64_t i = 0; i < inject->connections; i++) {
		conns[i].base.inject = inject;
		conns[i].base.start = next_request;
		conns[i].fd = -1;
		conns[i].phase = PHASE_PAUSE;
	}
	for (int64_t i = 0; i < inject->connections; i++)
		connect_again(&conns[i]);
	return true;
}

void
tr_inject_http_free(struct tr_inject *inject)
{
	for (int64_t i = 0; conns != NULL && i < inject->connections; i++) {
		hang_up(&conns[i]);
		tr_buf_free(&conns[i].in);
		tr_buf_free(&conns[i].out);
		tr_buf_free(&conns[i].json);
	}
	free(conns);
	conns = NULL;
}
