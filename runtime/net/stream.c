#include "net/stream_internal.h"

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/scripted.h"

#define INPUT_LIMIT (64 * 1024)
#define READ_MIN (16 * 1024) /* room for one read; the rest of a burst is read with twice as much each time */

static _Thread_local struct flusher *flushers;

static void deadline_due(struct tr_timer *timer);

static struct flusher *
flusher_get(struct tr_loop *loop)
{
	struct flusher *flusher;

	for (flusher = flushers; flusher != NULL; flusher = flusher->next) {
		if (flusher->loop == loop)
			return flusher;
	}
	flusher = calloc(1, sizeof *flusher);
	if (flusher == NULL)
		return NULL;
	flusher->loop = loop;
	flusher->hook.fn = tr_streami_flush_turn;
	flusher->next = flushers;
	flushers = flusher;
	tr_loop_add_turn_hook(loop, &flusher->hook);
	return flusher;
}

void
tr_streami_flusher_drop(struct flusher *flusher)
{
	struct flusher **at = &flushers;

	if (flusher->streams > 0)
		return;
	while (*at != NULL && *at != flusher)
		at = &(*at)->next;
	if (*at != NULL)
		*at = flusher->next;
	tr_loop_remove_turn_hook(flusher->loop, &flusher->hook);
	free(flusher);
}

void
tr_streami_mark_dirty(struct tr_stream *stream)
{
	if (stream->is_dirty)
		return;
	stream->is_dirty = true;
	stream->next_dirty = stream->flusher->dirty;
	stream->flusher->dirty = stream;
}

/* Virtual time stands still while the peer may answer or take bytes. */
void
tr_streami_update_hold(struct tr_stream *stream)
{
	bool want = !stream->dead && !stream->scripted &&
		    (stream->closing || stream->backlog > 0 ||
			    (!stream->paused && !stream->rests && !stream->ended && stream->end == 0));

	if (want == stream->held)
		return;
	stream->held = want;
	if (want)
		tr_hold_take();
	else
		tr_hold_drop();
}

static void
update_reading(struct tr_stream *stream)
{
	struct ev_loop *ev = tr_loop_ev(stream->flusher->loop);
	bool want = stream->shut ||
		    (!stream->dead && !stream->closing && !stream->paused && !stream->full && stream->end == 0);

	if (want)
		ev_io_start(ev, &stream->readable);
	else if (stream->dead || stream->closing || stream->end != 0)
		ev_io_stop(ev, &stream->readable); /* otherwise when an event comes: most pauses end before */
	tr_streami_update_hold(stream);
}

/* The descriptor is closed now, the memory goes at the end of the turn. */
void
tr_streami_kill(struct tr_stream *stream, bool reset)
{
	struct tr_loop *loop = stream->flusher->loop;

	if (stream->dead)
		return;
	stream->dead = stream->closing = true;
	stream->shut = false;
	tr_streami_drop_output(stream);
	ev_io_stop(tr_loop_ev(loop), &stream->readable);
	tr_timer_stop(tr_loop_wheel(loop), &stream->deadline);
	tr_loop_undefer(loop, &stream->again);
	if (reset) {
		struct linger linger = {.l_onoff = 1, .l_linger = 0};
		setsockopt(stream->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
	}
	close(stream->fd);
	stream->fd = -1;
	tr_buf_free(&stream->in);
	tr_streami_update_hold(stream);
	tr_streami_mark_dirty(stream);
}

void
tr_streami_free(struct tr_stream *stream)
{
	struct flusher *flusher = stream->flusher;

	free(stream->peer);
	free(stream->local);
	free(stream);
	flusher->streams--;
}

/* --- callbacks ------------------------------------------------------------------------------------------- */

/* An idle stream keeps no buffer, and one with half a line a small one. */
static void
shrink_input(struct tr_stream *stream)
{
	struct tr_buf *in = &stream->in;

	if (in->len == 0) {
		tr_buf_free(in);
	} else if (in->cap >= READ_MIN && in->len < in->cap / 8) {
		size_t cap = (in->len + 127) & ~(size_t)63;
		char *data = realloc(in->data, cap);
		if (data != NULL) {
			in->data = data;
			in->cap = cap;
		}
	}
}

/* Offers what has come, then the end if there is one. */
static void
deliver(struct tr_stream *stream)
{
	if (stream->fresh && !stream->paused && !stream->closing && !stream->ended) {
		stream->fresh = false;
		stream->handlers->data(stream, stream->arg);
		if (stream->closing)
			return;
		shrink_input(stream);
	}
	if (stream->full && stream->in.len < stream->in_limit)
		stream->full = false;
	if (stream->end != 0 && !stream->paused && !stream->fresh && !stream->ended && !stream->closing) {
		stream->ended = true;
		update_reading(stream);
		stream->handlers->closed(stream, stream->end, stream->arg);
		return;
	}
	if (!stream->closing)
		update_reading(stream);
}

void
tr_streami_deliver_later(struct tr_defer *defer)
{
	struct tr_stream *stream = tr_container_of(defer, struct tr_stream, again);

	deliver(stream);
}

void
tr_streami_end(struct tr_stream *stream, int err)
{
	if (stream->end == 0)
		stream->end = err;
	update_reading(stream);
}

/* Reads what is there, up to the limit. */
void
tr_streami_read(struct tr_stream *stream)
{
	size_t want = READ_MIN;

	for (;;) {
		size_t room = stream->in_limit > stream->in.len ? stream->in_limit - stream->in.len : 0;
		char *at;
		ssize_t got;

		if (room == 0) {
			stream->full = true;
			return;
		}
		if (want > room)
			want = room;
		at = tr_buf_reserve(&stream->in, want);
		if (at == NULL) { /* no memory for the peer's bytes: the connection ends, the process goes on */
			tr_buf_clear(&stream->in);
			tr_streami_end(stream, TR_ENOMEM);
			return;
		}
		got = read(stream->fd, at, want);
		if (got > 0) {
			stream->in.len += (size_t)got;
			stream->fresh = true;
			if ((size_t)got < want)
				return;
			want *= 2;
		} else if (got == 0) {
			tr_streami_end(stream, TR_ECLOSED);
			return;
		} else if (errno == EINTR) {
			continue;
		} else {
			if (errno != EAGAIN && errno != EWOULDBLOCK)
				tr_streami_end(stream, errno == ECONNRESET || errno == EPIPE ? TR_ECLOSED : TR_EIO);
			return;
		}
	}
}

/* After tr_stream_close(): reads away what the peer still sends, so that our last words are not lost by a reset. */
void
tr_streami_discard(struct tr_stream *stream)
{
	char waste[4096];
	bool any = false;

	for (int i = 0; i < 16; i++) {
		ssize_t got = read(stream->fd, waste, sizeof waste);

		if (got > 0 || (got < 0 && errno == EINTR)) {
			any = true;
			continue;
		}
		if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) && (any || stream->shut))
			break;
		tr_streami_kill(stream, false); /* its end, an error, or a peer that has sent nothing since */
		return;
	}
	if (!stream->shut) {
		stream->shut = true;
		shutdown(stream->fd, SHUT_WR);
		update_reading(stream);
	}
}

static void
readable_cb(struct ev_loop *ev, ev_io *watcher, int revents)
{
	struct tr_stream *stream = watcher->data;

	if (stream->shut) {
		tr_streami_discard(stream);
		return;
	}
	if (stream->paused || stream->full || stream->end != 0) {
		ev_io_stop(ev, watcher);
		return;
	}
	tr_streami_read(stream);
	deliver(stream);
	if (!stream->closing && stream->in.len == 0)
		tr_buf_free(&stream->in);
}

/* --- life ---------------------------------------------------------------------------------------------------- */

struct tr_stream *
tr_stream_new(struct tr_loop *loop, int fd, const struct tr_stream_handlers *handlers, void *arg)
{
	struct tr_stream *stream = calloc(1, sizeof *stream);
	int flags = fcntl(fd, F_GETFL), on = 1;
	struct tr_sockaddr peer, local;

	if (stream == NULL || (stream->flusher = flusher_get(loop)) == NULL) {
		free(stream);
		close(fd);
		return NULL;
	}
	if (flags >= 0 && !(flags & O_NONBLOCK))
		fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* we collect writes ourselves */
	stream->flusher->streams++;
	stream->fd = fd;
	stream->handlers = handlers;
	stream->arg = arg;
	stream->in_limit = INPUT_LIMIT;
	ev_io_init(&stream->readable, readable_cb, fd, EV_READ);
	ev_io_init(&stream->writable, tr_streami_writable, fd, EV_WRITE);
	stream->readable.data = stream->writable.data = stream;
	if (tr_scripted_claim(fd, &peer, &local))
		tr_streami_scripted(stream, &peer, &local);
	update_reading(stream);
	return stream;
}

void
tr_stream_set_handlers(struct tr_stream *stream, const struct tr_stream_handlers *handlers, void *arg)
{
	stream->handlers = handlers;
	stream->arg = arg;
}

struct tr_buf *
tr_stream_input(struct tr_stream *stream)
{
	/* The owner is likely to consume: whether reading may go on is seen after it has. */
	if (stream->full && !stream->closing)
		tr_loop_defer(stream->flusher->loop, &stream->again, tr_streami_deliver_later);
	return &stream->in;
}

void
tr_stream_set_input_limit(struct tr_stream *stream, size_t bytes)
{
	stream->in_limit = bytes > 0 ? bytes : 1;
	stream->full = stream->in.len >= stream->in_limit;
	if (!stream->closing)
		update_reading(stream);
}

void
tr_stream_pause(struct tr_stream *stream)
{
	stream->paused = true;
	if (!stream->closing)
		update_reading(stream);
}

void
tr_stream_resume(struct tr_stream *stream)
{
	if (!stream->paused || stream->closing)
		return;
	stream->paused = false;
	if (stream->in.len > 0)
		stream->fresh = true;
	if (stream->fresh || stream->end != 0)
		tr_loop_defer(stream->flusher->loop, &stream->again, tr_streami_deliver_later);
	update_reading(stream);
}

void
tr_stream_rest(struct tr_stream *stream, bool yes)
{
	stream->rests = yes;
	if (!stream->closing)
		tr_streami_update_hold(stream);
}

static void
deadline_due(struct tr_timer *timer)
{
	struct tr_stream *stream = tr_container_of(timer, struct tr_stream, deadline);

	if (stream->closing) {
		tr_streami_kill(stream, false);
		return;
	}
	if (stream->ended)
		return;
	stream->ended = true;
	if (stream->end == 0)
		stream->end = TR_ETIMEDOUT;
	update_reading(stream);
	stream->handlers->closed(stream, TR_ETIMEDOUT, stream->arg);
}

void
tr_stream_deadline(struct tr_stream *stream, int64_t ns)
{
	struct tr_wheel *wheel = tr_loop_wheel(stream->flusher->loop);

	if (stream->closing)
		return;
	if (ns > 0)
		tr_timer_start(wheel, &stream->deadline, ns, deadline_due);
	else
		tr_timer_stop(wheel, &stream->deadline);
}

void
tr_stream_close(struct tr_stream *stream, int64_t linger_ns)
{
	struct tr_loop *loop = stream->flusher->loop;

	if (stream->closing)
		return;
	stream->closing = true;
	tr_loop_undefer(loop, &stream->again);
	if (stream->write_failed || stream->end == TR_EIO) {
		tr_streami_kill(stream, false);
		return;
	}
	if (linger_ns <= 0) {
		tr_streami_flush(stream);
		tr_streami_kill(stream, false);
		return;
	}
	tr_buf_free(&stream->in);
	update_reading(stream);
	tr_timer_start(tr_loop_wheel(loop), &stream->deadline, linger_ns, deadline_due);
	tr_streami_mark_dirty(stream); /* tr_streami_flush() goes on from there */
}

void
tr_stream_abort(struct tr_stream *stream)
{
	tr_streami_kill(stream, true);
}

/* --- addresses ------------------------------------------------------------------------------------------------ */

static const struct tr_sockaddr *
ask_addr(struct tr_stream *stream, struct tr_sockaddr **kept, int (*ask)(int, struct sockaddr *, socklen_t *))
{
	static const struct tr_sockaddr unknown;
	struct tr_sockaddr *addr = *kept;

	if (addr != NULL)
		return addr;
	addr = calloc(1, sizeof *addr);
	if (addr == NULL)
		return &unknown;
	addr->len = sizeof addr->ss;
	if (stream->fd < 0 || ask(stream->fd, (struct sockaddr *)&addr->ss, &addr->len) != 0) {
		free(addr);
		return &unknown;
	}
	*kept = addr;
	return addr;
}

static struct tr_sockaddr *
copy_addr(const struct tr_sockaddr *addr)
{
	struct tr_sockaddr *copy = malloc(sizeof *copy);

	if (copy != NULL)
		*copy = *addr;
	return copy; /* NULL: then it shows what the kernel says */
}

void
tr_streami_scripted(struct tr_stream *stream, const struct tr_sockaddr *peer, const struct tr_sockaddr *local)
{
	stream->scripted = true;
	free(stream->peer); /* of a descriptor that had this number before */
	free(stream->local);
	stream->peer = copy_addr(peer);
	stream->local = copy_addr(local);
	tr_streami_update_hold(stream);
}

static int
ask_peer(int fd, struct sockaddr *addr, socklen_t *len)
{
	return getpeername(fd, addr, len);
}

static int
ask_local(int fd, struct sockaddr *addr, socklen_t *len)
{
	return getsockname(fd, addr, len);
}

const struct tr_sockaddr *
tr_stream_peer(struct tr_stream *stream)
{
	return ask_addr(stream, &stream->peer, ask_peer);
}

const struct tr_sockaddr *
tr_stream_local(struct tr_stream *stream)
{
	return ask_addr(stream, &stream->local, ask_local);
}

bool
tr_stream_stale(struct tr_stream *stream)
{
	char byte;

	if (stream->closing || stream->end != 0 || stream->ended || stream->write_failed || stream->in.len > 0)
		return true;
	return recv(stream->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
}
