/* Work that would stall a worker (disk, SQL, digests of much data), done by a process-wide pool of threads. Threads are
 * started as they are needed, at most TR_WORK_THREADS, and stay. Holds the virtual clock from start to end. */
#ifndef TR_WORK_H
#define TR_WORK_H

#include "base/loop.h"

#define TR_WORK_THREADS 16

struct tr_work_port; /* of one loop: what is under way for it */

struct tr_work { /* embed it; its memory must stay until done() or tr_work_take_back() */
	struct tr_work *next;
	struct tr_work_port *port;
	void (*run)(struct tr_work *work);  /* in a thread of the pool */
	void (*done)(struct tr_work *work); /* then, in the loop's thread; may free it */
	bool skipped;                       /* in done(): run() did not, because the loop ends */
};

/* From the loop's thread. TR_OK: done() comes once, from the loop, never from here. TR_ENOMEM: it does not. */
int tr_work_start(struct tr_loop *loop, struct tr_work *work, void (*run)(struct tr_work *work),
	void (*done)(struct tr_work *work));
/* True if no thread has begun with it: it will not run, and done() will not be called. */
bool tr_work_take_back(struct tr_work *work);
/* tr_loop_free() calls it: waits at most 5 s for what runs, skips what does not yet, calls done() for both. */
void tr_work_finish(struct tr_loop *loop);

#endif
