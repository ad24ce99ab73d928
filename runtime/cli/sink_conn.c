#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/sink.h"

static void on_idle(struct tr_timer *timer);
static void on_slow(struct tr_timer *timer);

static void
close_conn(struct tr_sink_conn *conn)
{
	struct tr_sink *sink = conn->sink;

	ev_io_stop(sink->ev, &conn->io);
	tr_timer_stop(sink->wheel, &conn->timer);
	tr_buf_clear(&sink->reply); /* shared: nothing of this connection may reach the next */
	if (conn->state == TR_SINK_RESET)
		tr_cli_reset(conn->fd);
	else
		close(conn->fd);
	*conn->prev = conn->next;
	if (conn->next != NULL)
		conn->next->prev = conn->prev;
	tr_buf_free(&conn->in);
	tr_buf_free(&conn->out);
	conn->protocol->fini(conn);
	free(conn);
}

void
tr_sink_close_all(struct tr_sink *sink)
{
	while (sink->conns != NULL)
		close_conn(sink->conns); /* NOLINT(clang-analyzer-unix.Malloc): it takes itself off the list */
}

void
tr_sink_settle(struct tr_sink_conn *conn)
{
	struct tr_sink *sink = conn->sink;

	tr_sink_write_record(sink);
	if (conn->state == TR_SINK_RESET) {
		close_conn(conn);
		return;
	}
	if ((sink->reply.len > 0 || conn->out.len > 0) && !tr_sink_send(sink, conn->fd, &conn->out)) {
		close_conn(conn);
		return;
	}
	if (conn->state == TR_SINK_CLOSING && conn->out.len == 0) {
		shutdown(conn->fd, SHUT_WR); /* what the peer still sends must not turn our answer into a reset */
		close_conn(conn);
		return;
	}
	/* Back-pressure: while a peer does not read its answers, or waits for a slow one, nothing is read. */
	bool deaf = conn->state == TR_SINK_SLOW || (sink->ending && conn->protocol->deaf_at_end);
	int events = conn->out.len > 0 ? EV_WRITE : deaf ? 0 : EV_READ;
	int now = ev_is_active(&conn->io) ? conn->io.events & (EV_READ | EV_WRITE) : 0;

	if (events != now) {
		ev_io_stop(sink->ev, &conn->io);
		ev_io_set(&conn->io, conn->fd, events);
		if (events != 0)
			ev_io_start(sink->ev, &conn->io);
	}
	if (conn->state == TR_SINK_SLOW && conn->timer.fn != on_slow)
		tr_timer_start(sink->wheel, &conn->timer, sink->slow_ns, on_slow);
}

static void
take_kept(struct tr_sink_conn *conn)
{
	size_t used = conn->protocol->take(conn, conn->in.data, conn->in.len);

	if (used > 0)
		tr_buf_consume(&conn->in, used);
}

static void
on_slow(struct tr_timer *timer)
{
	struct tr_sink_conn *conn = tr_container_of(timer, struct tr_sink_conn, timer);

	conn->state = conn->protocol->slow_over(conn);
	conn->active_ns = tr_mono_ns();
	tr_timer_start(conn->sink->wheel, &conn->timer, TR_SINK_IDLE_NS, on_idle);
	take_kept(conn);
	tr_sink_settle(conn);
}

static void
on_idle(struct tr_timer *timer)
{
	struct tr_sink_conn *conn = tr_container_of(timer, struct tr_sink_conn, timer);
	int64_t left_ns = conn->active_ns + TR_SINK_IDLE_NS - tr_mono_ns();

	if (left_ns > 0) { /* reads only note the time; the timer is moved here */
		tr_timer_start(conn->sink->wheel, timer, left_ns, on_idle);
		return;
	}
	conn->sink->idle_closed++;
	close_conn(conn);
}

/* false: the connection ended. */
static bool
read_some(struct tr_sink_conn *conn)
{
	struct tr_sink *sink = conn->sink;
	bool kept = conn->in.len > 0;
	size_t want = kept && conn->protocol->want != NULL ? conn->protocol->want(conn) : TR_SINK_READ_BYTES;
	/* the rest of something goes behind its start */
	char *to = kept ? tr_buf_reserve(&conn->in, want) : sink->scratch;

	if (to == NULL)
		return false;
	ssize_t got = read(conn->fd, to, want);

	if (got < 0)
		return errno == EAGAIN || errno == EINTR;
	if (got == 0)
		return false;
	tr_sink_touch(sink);
	conn->active_ns = sink->last_ns;
	if (conn->state == TR_SINK_HUNG)
		return true;
	if (kept) {
		conn->in.len += (size_t)got;
		take_kept(conn);
	} else {
		size_t used = conn->protocol->take(conn, to, (size_t)got);

		if (used < (size_t)got && (conn->state == TR_SINK_OPEN || conn->state == TR_SINK_SLOW))
			tr_buf_add(&conn->in, to + used, (size_t)got - used);
	}
	if (conn->in.len == 0 && conn->in.cap > conn->protocol->idle_bytes)
		tr_buf_free(&conn->in);
	return !conn->in.failed && !conn->protocol->failed(conn);
}

static void
on_io(struct ev_loop *ev, struct ev_io *io, int events)
{
	struct tr_sink_conn *conn = tr_container_of(io, struct tr_sink_conn, io);

	if ((events & EV_READ) && !read_some(conn)) {
		close_conn(conn);
		return;
	}
	if ((events & EV_WRITE) && conn->state == TR_SINK_OPEN && conn->in.len > 0) {
		if (!tr_sink_send(conn->sink, conn->fd, &conn->out)) {
			close_conn(conn);
			return;
		}
		if (conn->out.len == 0)
			take_kept(conn);
	}
	tr_sink_settle(conn);
}

struct tr_sink_conn *
tr_sink_open(struct tr_sink *sink, const struct tr_sink_protocol *protocol, int fd)
{
	struct tr_sink_conn *conn = calloc(1, protocol->size);

	if (conn == NULL) {
		sink->accept_failures++;
		close(fd);
		return NULL;
	}
	conn->sink = sink;
	conn->protocol = protocol;
	conn->fd = fd;
	conn->state = sink->hang ? TR_SINK_HUNG : TR_SINK_OPEN;
	conn->active_ns = tr_mono_ns();
	conn->next = sink->conns;
	conn->prev = &sink->conns;
	if (conn->next != NULL)
		conn->next->prev = &conn->next;
	sink->conns = conn;
	sink->hung += sink->hang;
	ev_io_init(&conn->io, on_io, fd, EV_READ);
	ev_io_start(sink->ev, &conn->io);
	if (conn->state == TR_SINK_OPEN)
		tr_timer_start(sink->wheel, &conn->timer, TR_SINK_IDLE_NS, on_idle);
	return conn;
}
