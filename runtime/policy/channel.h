/* Queues of bytes between tasks of any workers, process-wide by name. Who finds nothing to do is told, on its own loop,
 * when to try again. Any thread; a mutex each channel. No Lua. */
#ifndef TR_POLICY_CHANNEL_H
#define TR_POLICY_CHANNEL_H

#include "base/buf.h"
#include "base/loop.h"

struct tr_channel;

/* Finds or makes it: a reference for the caller. limit 0: none; of one that is there its own limit stays. NULL: no
 * memory. */
struct tr_channel *tr_channel_open(const char *name, size_t limit);
struct tr_channel *tr_channel_ref(struct tr_channel *channel);
void tr_channel_unref(struct tr_channel *channel); /* NULL is fine; what is in one is kept until it is opened again */

/* Copies. TR_OK, TR_EAGAIN (full), TR_ECLOSED, TR_ENOMEM. */
int tr_channel_send(struct tr_channel *channel, struct tr_str bytes);
/* The oldest, which the caller frees. TR_OK, TR_EAGAIN (empty), TR_ECLOSED (and empty). */
int tr_channel_receive(struct tr_channel *channel, struct tr_buf *out);
size_t tr_channel_length(struct tr_channel *channel);
bool tr_channel_closed(struct tr_channel *channel);
void tr_channel_close(struct tr_channel *channel); /* what is in it can still be received */

struct tr_channel_waiter { /* embed it */
	struct tr_mail mail;
	struct tr_channel_waiter *next;
	struct tr_channel *channel;
	struct tr_loop *loop;
	/* In the loop's thread, once, unless tr_channel_leave() was true: try again. */
	void (*then)(struct tr_channel_waiter *waiter);
	bool receives, waiting;
};
/* Waits for room or for something to receive. TR_OK: then() will come. TR_EAGAIN: it need not, try again at once.
 * TR_EEXIST: another one waits to receive. */
int tr_channel_wait(struct tr_channel *channel, struct tr_channel_waiter *waiter, bool receives, struct tr_loop *loop,
	void (*then)(struct tr_channel_waiter *waiter));
/* True: it does not wait any more, then() will not come. False: then() is on its way. */
bool tr_channel_leave(struct tr_channel_waiter *waiter);

#endif
