#include "net/stream.h"

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"

#define INPUT_LIMIT (64 * 1024)
#define READ_MIN (16 * 1024) /* room for one read; the rest of a burst is read with twice as much each time */
#define CHUNK_MIN 512        /* several replies of a pipelined group */
#define CHUNK_MAX (16 * 1024)
#define IOV_MAX_USED 32
#define HIGH_WATER (64 * 1024) /* drained() is called once after the backlog was above it */

/* A run of bytes to be written: either copied into `bytes`, or a part of a blob. */
struct chunk {
	struct chunk *next;
	struct tr_blob *blob; /* owned reference; NULL: in bytes */
	const char *data;     /* first byte not yet sent */
	size_t len;           /* left of it */
	size_t room;          /* free bytes behind data + len */
	char bytes[];
};

/* Per loop: the streams that have something to do when the turn ends. Lives while the loop has streams. */
struct flusher {
	struct flusher *next;
	struct tr_loop *loop;
	struct tr_turn_hook hook;
	struct tr_stream *dirty;
	size_t streams;
};

struct tr_stream {
	struct flusher *flusher;
	struct tr_stream *next_dirty;
	const struct tr_stream_handlers *handlers;
	void *arg;
	ev_io readable, writable;
	struct tr_timer deadline; /* the owner's; after tr_stream_close() the linger time */
	struct tr_defer again;    /* data() or closed() that must not run inside a call of the owner */
	struct tr_buf in;
	size_t in_limit;
	struct chunk *out, *out_last;
	size_t backlog;
	struct tr_sockaddr *peer, *local; /* asked for on demand */
	int fd;
	int end;    /* 0, or the error to be given to closed() once the input was offered */
	bool fresh; /* bytes in `in` that data() has not been called for */
	bool paused;
	bool full;    /* reading stopped at in_limit */
	bool ended;   /* closed() was called */
	bool closing; /* tr_stream_close() was called: no callbacks, only the backlog is left */
	bool shut;    /* closing, all is sent, waiting for the peer's end */
	bool dead;    /* freed at the end of the turn */
	bool is_dirty;
	bool was_high;
	bool write_failed; /* what is written from now on is dropped */
	bool held;
};

static _Thread_local struct flusher *flushers;

static void flush_turn(struct tr_turn_hook *hook);
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
	flusher->hook.fn = flush_turn;
	flusher->next = flushers;
	flushers = flusher;
	tr_loop_add_turn_hook(loop, &flusher->hook);
	return flusher;
}

static void
flusher_drop(struct flusher *flusher)
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

static void
mark_dirty(struct tr_stream *stream)
{
	if (stream->is_dirty)
		return;
	stream->is_dirty = true;
	stream->next_dirty = stream->flusher->dirty;
	stream->flusher->dirty = stream;
}

/* Virtual time stands still while the peer may answer or take bytes. */
static void
update_hold(struct tr_stream *stream)
{
	bool want = !stream->dead &&
		    (stream->closing || stream->backlog > 0 || (!stream->paused && !stream->ended && stream->end == 0));

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
	update_hold(stream);
}

static void
drop_output(struct tr_stream *stream)
{
	for (struct chunk *chunk = stream->out, *next; chunk != NULL; chunk = next) {
		next = chunk->next;
		tr_blob_unref(chunk->blob);
		free(chunk);
	}
	stream->out = stream->out_last = NULL;
	stream->backlog = 0;
	ev_io_stop(tr_loop_ev(stream->flusher->loop), &stream->writable);
}

/* The descriptor is closed now, the memory goes at the end of the turn. */
static void
kill_stream(struct tr_stream *stream, bool reset)
{
	struct tr_loop *loop = stream->flusher->loop;

	if (stream->dead)
		return;
	stream->dead = stream->closing = true;
	stream->shut = false;
	drop_output(stream);
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
	update_hold(stream);
	mark_dirty(stream);
}

static void
free_stream(struct tr_stream *stream)
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

static void
deliver_later(struct tr_defer *defer)
{
	struct tr_stream *stream = tr_container_of(defer, struct tr_stream, again);

	deliver(stream);
}

static void
end_stream(struct tr_stream *stream, int err)
{
	if (stream->end == 0)
		stream->end = err;
	update_reading(stream);
}

/* Reads what is there, up to the limit. */
static void
read_some(struct tr_stream *stream)
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
			end_stream(stream, TR_ENOMEM);
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
			end_stream(stream, TR_ECLOSED);
			return;
		} else if (errno == EINTR) {
			continue;
		} else {
			if (errno != EAGAIN && errno != EWOULDBLOCK)
				end_stream(stream, errno == ECONNRESET || errno == EPIPE ? TR_ECLOSED : TR_EIO);
			return;
		}
	}
}

/* After tr_stream_close(): reads away what the peer still sends, so that our last words are not lost by a reset. */
static void
discard_input(struct tr_stream *stream)
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
		kill_stream(stream, false); /* its end, an error, or a peer that has sent nothing since */
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
		discard_input(stream);
		return;
	}
	if (stream->paused || stream->full || stream->end != 0) {
		ev_io_stop(ev, watcher);
		return;
	}
	read_some(stream);
	deliver(stream);
	if (!stream->closing && stream->in.len == 0)
		tr_buf_free(&stream->in);
}

/* --- writing ----------------------------------------------------------------------------------------------- */

static void
sent(struct tr_stream *stream, size_t len)
{
	stream->backlog -= len;
	while (len > 0) {
		struct chunk *chunk = stream->out;
		size_t part = len < chunk->len ? len : chunk->len;

		chunk->data += part;
		chunk->len -= part;
		len -= part;
		if (chunk->len > 0)
			break;
		stream->out = chunk->next;
		if (stream->out == NULL)
			stream->out_last = NULL;
		tr_blob_unref(chunk->blob);
		free(chunk);
	}
}

/* Gives the kernel what it takes. A failure is told later in the turn; what the peer had said before it is read first.
 */
static void
flush(struct tr_stream *stream)
{
	struct tr_loop *loop = stream->flusher->loop;

	while (stream->out != NULL) {
		struct iovec iov[IOV_MAX_USED];
		size_t total = 0;
		int count = 0;
		ssize_t done;

		for (struct chunk *chunk = stream->out; chunk != NULL && count < IOV_MAX_USED; chunk = chunk->next) {
			iov[count].iov_base = (void *)chunk->data;
			iov[count++].iov_len = chunk->len;
			total += chunk->len;
		}
		struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)count};
		done = sendmsg(stream->fd, &msg, MSG_NOSIGNAL); /* writev that raises no SIGPIPE */
		if (done < 0 && errno == ENOTSOCK)
			done = writev(stream->fd, iov, count);
		if (done >= 0) {
			sent(stream, (size_t)done);
			if ((size_t)done == total)
				continue;
			ev_io_start(tr_loop_ev(loop), &stream->writable);
			break;
		}
		if (errno == EINTR)
			continue;
		if (errno == EAGAIN || errno == EWOULDBLOCK) {
			ev_io_start(tr_loop_ev(loop), &stream->writable);
			break;
		}
		bool reset = errno == EPIPE || errno == ECONNRESET;
		stream->write_failed = true;
		drop_output(stream);
		if (stream->closing) {
			kill_stream(stream, false);
			return;
		}
		if (stream->end == 0 && !stream->paused && !stream->full)
			read_some(stream);
		end_stream(stream, reset ? TR_ECLOSED : TR_EIO);
		tr_loop_defer(loop, &stream->again, deliver_later);
		return;
	}
	if (stream->out == NULL) {
		ev_io_stop(tr_loop_ev(loop), &stream->writable);
		if (stream->closing && !stream->shut)
			discard_input(stream);
	}
	update_hold(stream);
}

static void
writable_cb(struct ev_loop *ev, ev_io *watcher, int revents)
{
	struct tr_stream *stream = watcher->data;

	flush(stream);
	if (stream->out == NULL && stream->was_high && !stream->closing && !stream->write_failed) {
		stream->was_high = false;
		if (stream->handlers->drained != NULL)
			stream->handlers->drained(stream, stream->arg);
	}
}

static void
flush_turn(struct tr_turn_hook *hook)
{
	struct flusher *flusher = tr_container_of(hook, struct flusher, hook);

	while (flusher->dirty != NULL) {
		struct tr_stream *stream = flusher->dirty;

		flusher->dirty = stream->next_dirty;
		stream->is_dirty = false;
		if (!stream->dead && !ev_is_active(&stream->writable))
			flush(stream);
		if (stream->dead && !stream->is_dirty) /* else it is in the list again, and freed from there */
			free_stream(stream);
	}
	flusher_drop(flusher);
}

static struct chunk *
add_chunk(struct tr_stream *stream, size_t room)
{
	struct chunk *chunk = malloc(sizeof *chunk + room);

	if (chunk == NULL) { /* half of a dialogue is worse than its end */
		stream->write_failed = true;
		end_stream(stream, TR_ENOMEM);
		tr_loop_defer(stream->flusher->loop, &stream->again, deliver_later);
		return NULL;
	}
	*chunk = (struct chunk){.data = chunk->bytes, .room = room};
	if (stream->out_last != NULL)
		stream->out_last->next = chunk;
	else
		stream->out = chunk;
	stream->out_last = chunk;
	return chunk;
}

static bool
may_write(struct tr_stream *stream)
{
	return !stream->closing && !stream->write_failed;
}

static void
written(struct tr_stream *stream, size_t len)
{
	stream->backlog += len;
	if (stream->backlog > HIGH_WATER)
		stream->was_high = true;
	mark_dirty(stream);
	update_hold(stream);
}

void
tr_stream_write(struct tr_stream *stream, const void *data, size_t len)
{
	const char *from = data;

	if (!may_write(stream) || len == 0)
		return;
	for (size_t left = len; left > 0;) {
		struct chunk *chunk = stream->out_last;
		size_t part;

		if (chunk == NULL || chunk->room == 0) {
			size_t room = left < CHUNK_MIN ? CHUNK_MIN : left;
			chunk = add_chunk(stream, room < CHUNK_MAX ? room : CHUNK_MAX);
			if (chunk == NULL) {
				len -= left;
				break;
			}
		}
		part = left < chunk->room ? left : chunk->room;
		memcpy((char *)chunk->data + chunk->len, from, part);
		chunk->len += part;
		chunk->room -= part;
		from += part;
		left -= part;
	}
	written(stream, len);
}

void
tr_stream_write_blob(struct tr_stream *stream, struct tr_blob *blob, const char *data, size_t len)
{
	struct chunk *chunk;

	if (!may_write(stream) || len == 0)
		return;
	if (len <= CHUNK_MIN) { /* cheaper to copy than to send on its own */
		tr_stream_write(stream, data, len);
		return;
	}
	chunk = add_chunk(stream, 0);
	if (chunk == NULL)
		return;
	chunk->blob = tr_blob_ref(blob);
	chunk->data = data;
	chunk->len = len;
	written(stream, len);
}

size_t
tr_stream_backlog(const struct tr_stream *stream)
{
	return stream->backlog;
}

void
tr_stream_flush(struct tr_stream *stream)
{
	if (!stream->dead && !ev_is_active(&stream->writable))
		flush(stream);
}

/* --- life ---------------------------------------------------------------------------------------------------- */

struct tr_stream *
tr_stream_new(struct tr_loop *loop, int fd, const struct tr_stream_handlers *handlers, void *arg)
{
	struct tr_stream *stream = calloc(1, sizeof *stream);
	int flags = fcntl(fd, F_GETFL), on = 1;

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
	ev_io_init(&stream->writable, writable_cb, fd, EV_WRITE);
	stream->readable.data = stream->writable.data = stream;
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
		tr_loop_defer(stream->flusher->loop, &stream->again, deliver_later);
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
		tr_loop_defer(stream->flusher->loop, &stream->again, deliver_later);
	update_reading(stream);
}

static void
deadline_due(struct tr_timer *timer)
{
	struct tr_stream *stream = tr_container_of(timer, struct tr_stream, deadline);

	if (stream->closing) {
		kill_stream(stream, false);
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
		kill_stream(stream, false);
		return;
	}
	if (linger_ns <= 0) {
		flush(stream);
		kill_stream(stream, false);
		return;
	}
	tr_buf_free(&stream->in);
	update_reading(stream);
	tr_timer_start(tr_loop_wheel(loop), &stream->deadline, linger_ns, deadline_due);
	mark_dirty(stream); /* flush() goes on from there */
}

void
tr_stream_abort(struct tr_stream *stream)
{
	kill_stream(stream, true);
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
