/* Shared by stream.c (life, reading) and stream_write.c. */
#ifndef TR_STREAM_INTERNAL_H
#define TR_STREAM_INTERNAL_H

#include <ev.h>

#include "net/stream.h"

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
	bool rests;   /* what comes is not waited for */
	bool full;    /* reading stopped at in_limit */
	bool ended;   /* closed() was called */
	bool closing; /* tr_stream_close() was called: no callbacks, only the backlog is left */
	bool shut;    /* closing, all is sent, waiting for the peer's end */
	bool dead;    /* freed at the end of the turn */
	bool is_dirty;
	bool was_high;
	bool write_failed; /* what is written from now on is dropped */
	bool held;
	bool scripted; /* holds no virtual time: its peer lives in this process */
};

/* --- stream.c --- */
void tr_streami_mark_dirty(struct tr_stream *stream);
void tr_streami_update_hold(struct tr_stream *stream);
void tr_streami_kill(struct tr_stream *stream, bool reset); /* closes now; the memory goes at the end of the turn */
void tr_streami_free(struct tr_stream *stream);
void tr_streami_flusher_drop(struct flusher *flusher); /* if it has no streams left */
void tr_streami_end(struct tr_stream *stream, int err);
void tr_streami_read(struct tr_stream *stream);
void tr_streami_discard(struct tr_stream *stream);
void tr_streami_deliver_later(struct tr_defer *defer);
/* One end of a pair inside of the process, with the addresses that it shall show. */
void tr_streami_scripted(struct tr_stream *stream, const struct tr_sockaddr *peer, const struct tr_sockaddr *local);
/* --- stream_write.c --- */
void tr_streami_drop_output(struct tr_stream *stream);
void tr_streami_flush(struct tr_stream *stream);
void tr_streami_flush_turn(struct tr_turn_hook *hook);
void tr_streami_writable(struct ev_loop *ev, ev_io *watcher, int revents);

#endif
