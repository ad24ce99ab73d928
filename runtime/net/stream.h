/* A byte stream over a socket on one loop, callback style. Reads go to a buffer that its owner consumes; writes are
 * collected and sent once at the end of the turn (one writev for a pipelined group). Each wait has a deadline in the
 * loop's wheel. The transport behind it is a function table: plain now, TLS and scripted peers fit beside it.
 * One thread. Callbacks may close the stream; it is freed after the turn. */
#ifndef TR_STREAM_H
#define TR_STREAM_H

#include "base/loop.h"
#include "net/address.h"

struct tr_stream;

struct tr_stream_handlers {
	/* New bytes lie in tr_stream_input(); called again when more come, also at EOF with what is left before
	 * closed(). */
	void (*data)(struct tr_stream *stream, void *arg);
	/* All written bytes are with the kernel (after the backlog was above the high-water mark, or was asked for).
	 * May be NULL. */
	void (*drained)(struct tr_stream *stream, void *arg);
	/* The end: TR_ECLOSED orderly EOF, TR_ETIMEDOUT the deadline, TR_EIO/TR_ECLOSED reset, TR_ENOMEM. Not after
	 * tr_stream_close(). Once. The owner still has to call tr_stream_close() or tr_stream_abort(), in it or later;
	 * after a deadline it may write last words before. */
	void (*closed)(struct tr_stream *stream, int err, void *arg);
};

/* Takes the descriptor (made non-blocking). NULL: no memory (fd closed). Holds the virtual clock while bytes may come
 * or go: not while it is paused or rests with nothing to send. */
struct tr_stream *tr_stream_new(struct tr_loop *loop, int fd, const struct tr_stream_handlers *handlers, void *arg);
void tr_stream_set_handlers(struct tr_stream *stream, const struct tr_stream_handlers *handlers, void *arg);
/* Connects, from `source` if not NULL; then(arg, stream, err): stream NULL with TR_EREFUSED, TR_ETIMEDOUT, TR_EIO ...
 * and text in *errno terms through err. *op may be cancelled until then. */
struct tr_connect;
struct tr_connect *tr_stream_connect(struct tr_loop *loop, const struct tr_sockaddr *to,
	const struct tr_sockaddr *source, int64_t timeout_ns,
	void (*then)(void *arg, struct tr_stream *stream, int err, int errnum), void *arg);
void tr_connect_cancel(struct tr_connect *op);

struct tr_buf *tr_stream_input(struct tr_stream *stream);                     /* consume with tr_buf_consume() */
void tr_stream_write(struct tr_stream *stream, const void *data, size_t len); /* copies */
/* Without a copy: keeps a reference of the blob until it is sent. */
void tr_stream_write_blob(struct tr_stream *stream, struct tr_blob *blob, const char *data, size_t len);
size_t tr_stream_backlog(const struct tr_stream *stream); /* bytes not yet with the kernel */
void tr_stream_flush(struct tr_stream *stream);           /* now, instead of at the turn's end */
void tr_stream_want_drained(struct tr_stream *stream);    /* drained() once the backlog, which is not 0, is gone */
/* At most `bytes` are buffered for the reader before reading stops (default 64 KiB); it goes on when consumed. */
void tr_stream_set_input_limit(struct tr_stream *stream, size_t bytes);
void tr_stream_pause(
	struct tr_stream *stream); /* stop reading (back-pressure); the peer's close is seen after resume */
void tr_stream_resume(struct tr_stream *stream); /* calls data() again later in this turn if bytes are buffered */
/* Yes: nothing is expected of the peer, which may speak all the same: bytes are read, and the virtual clock is not held
 * for them. */
void tr_stream_rest(struct tr_stream *stream, bool yes);
/* closed(TR_ETIMEDOUT) at now + ns unless set again or cleared (0). Reading does not renew it: the owner does, so that
 * a slow trickle cannot hold a command for ever. */
void tr_stream_deadline(struct tr_stream *stream, int64_t ns);
/* Closes once the backlog is sent (or after linger_ns), without callbacks. While the peer still sends, its bytes are
 * read away until its end or linger_ns, so that no reset overtakes the last words. linger_ns 0: what the kernel takes
 * now. */
void tr_stream_close(struct tr_stream *stream, int64_t linger_ns);
void tr_stream_abort(struct tr_stream *stream); /* RST, at once, without callbacks */
const struct tr_sockaddr *tr_stream_peer(struct tr_stream *stream);
const struct tr_sockaddr *tr_stream_local(struct tr_stream *stream);
/* True if the peer has closed or sent unexpected bytes (checked before an idle connection is used again). */
bool tr_stream_stale(struct tr_stream *stream);

/* A listening socket. Accepts on its loop and calls accepted() with the descriptor; the owner deals it out. When
 * descriptors run out (EMFILE) it pauses accepting for 100 ms, logged once. */
struct tr_listener;
int tr_listener_new(struct tr_loop *loop, const struct tr_sockaddr *at,
	void (*accepted)(void *arg, int fd, const struct tr_sockaddr *peer), void *arg, struct tr_listener **out,
	int *errnum);
const struct tr_sockaddr *tr_listener_local(
	struct tr_listener *listener); /* with the port that was chosen for port 0 */
void tr_listener_free(struct tr_listener *listener);

#endif
