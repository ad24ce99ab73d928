#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "cli/inject.h"

enum { READ_BYTES = 16 * 1024 };

static void on_io(struct ev_loop *ev, struct ev_io *io, int events);
static void on_timer(struct tr_timer *timer);

void
tr_inject_arm(struct tr_inject_conn *conn, int64_t delay_ns)
{
	tr_timer_start(conn->inject->wheel, &conn->timer, delay_ns, on_timer);
}

static void
watch(struct tr_inject_conn *conn, int events)
{
	struct ev_loop *ev = conn->inject->ev;

	if (ev_is_active(&conn->io) && (conn->io.events & (EV_READ | EV_WRITE)) == events)
		return;
	ev_io_stop(ev, &conn->io);
	ev_io_set(&conn->io, conn->fd, events);
	ev_io_start(ev, &conn->io);
}

static void
hang_up(struct tr_inject_conn *conn)
{
	struct tr_inject *inject = conn->inject;

	if (conn->fd >= 0) {
		ev_io_stop(inject->ev, &conn->io);
		close(conn->fd);
		conn->fd = -1;
	}
	tr_timer_stop(inject->wheel, &conn->timer);
	tr_buf_clear(&conn->in);
	tr_buf_clear(&conn->out);
	conn->out_at = 0;
	conn->body_left = 0;
}

void
tr_inject_end(struct tr_inject_conn *conn)
{
	if (conn->state == TR_INJECT_OVER)
		return;
	hang_up(conn);
	conn->state = TR_INJECT_OVER;
	tr_inject_conn_over(conn);
}

void
tr_inject_connect(struct tr_inject_conn *conn)
{
	struct tr_inject *inject = conn->inject;
	int fd;

	hang_up(conn);
	if (tr_inject_over(inject)) {
		tr_inject_end(conn);
		return;
	}
	conn->sent_here = 0;
	conn->state = TR_INJECT_CONNECTING;
	fd = tr_cli_connect(&inject->target);
	if (fd < 0) {
		tr_inject_lost(conn, tr_err_text(fd));
		return;
	}
	conn->fd = fd;
	ev_io_init(&conn->io, on_io, fd, EV_WRITE);
	ev_io_start(inject->ev, &conn->io);
	tr_inject_arm(conn, inject->timeout_ns);
}

void
tr_inject_lost(struct tr_inject_conn *conn, const char *why)
{
	struct tr_inject *inject = conn->inject;
	enum tr_inject_loss loss = conn->protocol->lost(conn);

	hang_up(conn);
	if (loss == TR_INJECT_GOODBYE) {
		tr_inject_connect(conn); /* or it is over */
		return;
	}
	if (loss == TR_INJECT_NOT_UP)
		inject->connect_failures++;
	else
		inject->lost_connections++;
	conn->state = TR_INJECT_PAUSE;
	if ((loss != TR_INJECT_IDLE && !tr_inject_trouble(inject, "%s: %s", inject->target.text, why)) ||
		tr_inject_over(inject)) {
		tr_inject_end(conn);
		return;
	}
	tr_inject_arm(conn, tr_inject_backoff_ns(conn->attempt++));
}

bool
tr_inject_flush(struct tr_inject_conn *conn)
{
	while (conn->out_at < conn->out.len || conn->body_left > 0) {
		struct iovec iov[2];
		int count = 0;
		size_t head = conn->out.len - conn->out_at;

		if (head > 0)
			iov[count++] = (struct iovec){conn->out.data + conn->out_at, head};
		if (conn->body_left > 0)
			iov[count++] = (struct iovec){
				conn->body->bytes.data + conn->body->bytes.len - conn->body_left, conn->body_left};
		ssize_t sent = writev(conn->fd, iov, count);

		if (sent < 0) {
			if (errno == EINTR)
				continue;
			if (errno == EAGAIN || errno == EWOULDBLOCK) {
				watch(conn, EV_READ | EV_WRITE);
				return true;
			}
			tr_inject_lost(conn, strerror(errno));
			return false;
		}
		size_t of_head = (size_t)sent < head ? (size_t)sent : head;

		conn->out_at += of_head;
		conn->body_left -= (size_t)sent - of_head;
	}
	tr_buf_clear(&conn->out);
	conn->out_at = 0;
	watch(conn, EV_READ);
	return true;
}

static void
on_timer(struct tr_timer *timer)
{
	struct tr_inject_conn *conn = tr_container_of(timer, struct tr_inject_conn, timer);

	if (conn->state == TR_INJECT_PAUSE)
		tr_inject_connect(conn);
	else
		tr_inject_lost(conn, "no answer in time");
}

static void
on_connected(struct tr_inject_conn *conn)
{
	int error = 0;
	socklen_t len = sizeof error;

	getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &len);
	if (error != 0) {
		tr_inject_lost(conn, strerror(error));
		return;
	}
	conn->state = TR_INJECT_UP;
	watch(conn, EV_READ);
	conn->protocol->connected(conn);
}

static void
on_io(struct ev_loop *ev, struct ev_io *io, int events)
{
	struct tr_inject_conn *conn = tr_container_of(io, struct tr_inject_conn, io);

	if (conn->state == TR_INJECT_CONNECTING) {
		on_connected(conn);
		return;
	}
	if ((events & EV_WRITE) && !tr_inject_flush(conn))
		return;
	if (!(events & EV_READ))
		return;
	char *to = tr_buf_reserve(&conn->in, READ_BYTES);

	if (to == NULL) {
		tr_inject_lost(conn, "out of memory");
		return;
	}
	ssize_t got = read(conn->fd, to, READ_BYTES);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) {
		tr_inject_lost(conn, got == 0 ? "the server closed the connection" : strerror(errno));
		return;
	}
	conn->in.len += (size_t)got;
	conn->protocol->received(conn);
}

void
tr_inject_conn_init(struct tr_inject_conn *conn, struct tr_inject *inject, const struct tr_inject_protocol *protocol)
{
	conn->inject = inject;
	conn->protocol = protocol;
	conn->fd = -1;
	conn->state = TR_INJECT_PAUSE;
}

void
tr_inject_conn_fini(struct tr_inject_conn *conn)
{
	hang_up(conn);
	tr_buf_free(&conn->in);
	tr_buf_free(&conn->out);
}
