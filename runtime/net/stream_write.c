/* The writing half of a stream: see stream.h. */
#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#include "net/stream_internal.h"

#define CHUNK_MIN 512 /* several replies of a pipelined group */
#define CHUNK_MAX (16 * 1024)
#define IOV_MAX_USED 32
#define HIGH_WATER (64 * 1024) /* drained() is called once after the backlog was above it */

void
tr_streami_drop_output(struct tr_stream *stream)
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

static void
sent(struct tr_stream *stream, size_t len)
{
	stream->backlog -= len;
	while (len > 0) {
		struct chunk *chunk = stream->out;
		/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): no more is sent than was there */
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
void
tr_streami_flush(struct tr_stream *stream)
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
		tr_streami_drop_output(stream);
		if (stream->closing) {
			tr_streami_kill(stream, false);
			return;
		}
		if (stream->end == 0 && !stream->paused && !stream->full)
			tr_streami_read(stream);
		tr_streami_end(stream, reset ? TR_ECLOSED : TR_EIO);
		tr_loop_defer(loop, &stream->again, tr_streami_deliver_later);
		return;
	}
	if (stream->out == NULL) {
		ev_io_stop(tr_loop_ev(loop), &stream->writable);
		if (stream->closing && !stream->shut)
			tr_streami_discard(stream);
	}
	tr_streami_update_hold(stream);
}

static void
flush_and_tell(struct tr_stream *stream)
{
	tr_streami_flush(stream);
	if (stream->out == NULL && stream->was_high && !stream->dead && !stream->closing && !stream->write_failed) {
		stream->was_high = false;
		if (stream->handlers->drained != NULL)
			stream->handlers->drained(stream, stream->arg);
	}
}

void
tr_streami_writable(struct ev_loop *ev, ev_io *watcher, int revents)
{
	struct tr_stream *stream = watcher->data;

	flush_and_tell(stream);
}

void
tr_streami_flush_turn(struct tr_turn_hook *hook)
{
	struct flusher *flusher = tr_container_of(hook, struct flusher, hook);

	while (flusher->dirty != NULL) {
		struct tr_stream *stream = flusher->dirty;

		flusher->dirty = stream->next_dirty;
		stream->is_dirty = false;
		if (!stream->dead && !ev_is_active(&stream->writable))
			flush_and_tell(stream);        /* the kernel may take even that much at once */
		if (stream->dead && !stream->is_dirty) /* else it is in the list again, and freed from there */
			tr_streami_free(stream);
	}
	tr_streami_flusher_drop(flusher);
}

static struct chunk *
add_chunk(struct tr_stream *stream, size_t room)
{
	struct chunk *chunk = malloc(sizeof *chunk + room);

	if (chunk == NULL) { /* half of a dialogue is worse than its end */
		stream->write_failed = true;
		tr_streami_end(stream, TR_ENOMEM);
		tr_loop_defer(stream->flusher->loop, &stream->again, tr_streami_deliver_later);
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
	tr_streami_mark_dirty(stream);
	tr_streami_update_hold(stream);
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
		tr_streami_flush(stream);
}

void
tr_stream_want_drained(struct tr_stream *stream)
{
	stream->was_high = true;
}
