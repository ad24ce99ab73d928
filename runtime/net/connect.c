/* Connecting a stream: see stream.h. */
#include <errno.h>
#include <ev.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/scripted.h"
#include "net/stream_internal.h"

struct tr_connect {
	struct tr_loop *loop;
	ev_io writable;
	struct tr_timer timer;
	struct tr_defer later; /* an end that is known before tr_stream_connect() returns */
	int fd, errnum;
	bool scripted;
	struct tr_sockaddr to, local; /* if scripted */
	void (*then)(void *arg, struct tr_stream *stream, int err, int errnum);
	void *arg;
};

/* Until the owner sets its own. */
static void
no_data(struct tr_stream *stream, void *arg)
{
}

static void
no_closed(struct tr_stream *stream, int err, void *arg)
{
}

static const struct tr_stream_handlers no_handlers = {no_data, NULL, no_closed};

static void
free_op(struct tr_connect *op)
{
	ev_io_stop(tr_loop_ev(op->loop), &op->writable);
	tr_timer_stop(tr_loop_wheel(op->loop), &op->timer);
	tr_loop_undefer(op->loop, &op->later);
	if (op->fd >= 0)
		close(op->fd);
	if (!op->scripted)
		tr_hold_drop();
	free(op);
}

static void
finish(struct tr_connect *op, int err, int errnum)
{
	void (*then)(void *, struct tr_stream *, int, int) = op->then;
	void *arg = op->arg;
	struct tr_stream *stream = NULL;

	ev_io_stop(tr_loop_ev(op->loop), &op->writable); /* before the stream watches the same descriptor */
	if (err == TR_OK) {
		stream = tr_stream_new(op->loop, op->fd, &no_handlers, NULL);
		op->fd = -1;
		if (stream == NULL)
			err = TR_ENOMEM;
		else if (op->scripted)
			tr_streami_scripted(stream, &op->to, &op->local);
	}
	free_op(op);
	then(arg, stream, err, errnum);
}

static int
err_of(int errnum)
{
	switch (errnum) {
	case 0:
		return TR_OK;
	case ECONNREFUSED:
		return TR_EREFUSED;
	case ETIMEDOUT:
		return TR_ETIMEDOUT;
	default:
		return tr_err_from_errno(errnum) == TR_EINVAL ? TR_EIO : tr_err_from_errno(errnum);
	}
}

static void
writable_cb(struct ev_loop *ev, ev_io *watcher, int revents)
{
	struct tr_connect *op = watcher->data;
	int errnum = 0;
	socklen_t len = sizeof errnum;

	if (!op->scripted && getsockopt(op->fd, SOL_SOCKET, SO_ERROR, &errnum, &len) != 0)
		errnum = errno;
	finish(op, err_of(errnum), errnum);
}

static void
timed_out(struct tr_timer *timer)
{
	finish(tr_container_of(timer, struct tr_connect, timer), TR_ETIMEDOUT, ETIMEDOUT);
}

static void
finish_later(struct tr_defer *later)
{
	struct tr_connect *op = tr_container_of(later, struct tr_connect, later);

	finish(op, err_of(op->errnum), op->errnum);
}

struct tr_connect *
tr_stream_connect(struct tr_loop *loop, const struct tr_sockaddr *to, const struct tr_sockaddr *source,
	int64_t timeout_ns, void (*then)(void *arg, struct tr_stream *stream, int err, int errnum), void *arg)
{
	struct tr_connect *op = calloc(1, sizeof *op);
	enum tr_scripted_kind kind;

	if (op == NULL)
		return NULL;
	op->loop = loop;
	op->then = then;
	op->arg = arg;
	kind = tr_scripted_connect(to, source, &op->fd, &op->local);
	if (kind != TR_SCRIPTED_REAL) {
		op->scripted = true;
		op->to = *to;
		ev_io_init(&op->writable, writable_cb, op->fd, EV_WRITE);
		op->writable.data = op;
		if (kind == TR_SCRIPTED_SILENT) {
			tr_timer_start(tr_loop_wheel(loop), &op->timer, timeout_ns, timed_out);
		} else {
			op->errnum = kind == TR_SCRIPTED_OPEN ? 0 : ECONNREFUSED;
			tr_loop_defer(loop, &op->later, finish_later);
		}
		return op;
	}
	tr_hold_take();
	op->fd = socket(to->ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	ev_io_init(&op->writable, writable_cb, op->fd, EV_WRITE);
	op->writable.data = op;
	if (op->fd < 0 || (source != NULL && bind(op->fd, (const struct sockaddr *)&source->ss, source->len) != 0)) {
		op->errnum = errno;
		tr_loop_defer(loop, &op->later, finish_later);
		return op;
	}
	int result = connect(op->fd, (const struct sockaddr *)&to->ss, to->len);
	if (result == 0 || (errno != EINPROGRESS && errno != EINTR)) {
		op->errnum = result == 0 ? 0 : errno;
		tr_loop_defer(loop, &op->later, finish_later);
		return op;
	}
	ev_io_start(tr_loop_ev(loop), &op->writable);
	tr_timer_start(tr_loop_wheel(loop), &op->timer, timeout_ns, timed_out);
	return op;
}

void
tr_connect_cancel(struct tr_connect *op)
{
	if (op != NULL)
		free_op(op);
}
