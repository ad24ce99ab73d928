/* One thread's event loop: libev, a timer wheel, a mailbox that other threads post to, and work
 * that is put off to later in the turn. Under the virtual clock it jumps to the next timer when
 * nothing is runnable and no hold is out.
 *
 * One turn: mail and I/O callbacks -> due timers -> deferred work, until none is left ->
 * turn-end hooks (hand changes to the commit thread, wake other workers) -> sleep. */
#ifndef TR_LOOP_H
#define TR_LOOP_H

#include "base/base.h"
#include "base/timer.h"

struct ev_loop;
struct tr_loop;

int tr_loop_new(struct tr_loop **out); /* TR_OK, TR_ENOMEM, TR_EMFILE, TR_EIO */
void tr_loop_free(struct tr_loop *loop);
struct ev_loop *tr_loop_ev(struct tr_loop *loop);
struct tr_wheel *tr_loop_wheel(struct tr_loop *loop);
/* The loop that runs in this thread, else NULL. */
struct tr_loop *tr_loop_current(void);
/* Makes `loop` this thread's loop without running it (set-up code before tr_loop_run). */
void tr_loop_enter(struct tr_loop *loop);

void tr_loop_run(struct tr_loop *loop);  /* until tr_loop_stop() */
void tr_loop_stop(struct tr_loop *loop); /* its own thread only; from others post a mail that does */
/* One turn without sleeping; under the virtual clock without jumping. Returns true if it did anything.
 * For tests. */
bool tr_loop_turn(struct tr_loop *loop);
/* Virtual clock: runs turns, jumping from timer to timer, until `delay_ns` has passed, waiting (in
 * real time) for holds to drop. */
void tr_loop_advance(struct tr_loop *loop, int64_t delay_ns);
/* Runs turns (virtual time may jump, by at most limit_ns in all; real time waits at most limit_ns)
 * until done(arg) is true; returns whether it became so. For tests. */
bool tr_loop_run_until(struct tr_loop *loop, bool (*done)(void *arg), void *arg, int64_t limit_ns);

/* --- mail: from any thread to a loop ------------------------------------------------------- */
struct tr_mail {
	struct tr_mail *next;
	void (*fn)(struct tr_mail *mail); /* runs in the loop's thread; may free the mail */
};
/* Lock-free; wakes the loop's thread at most once until it has emptied the box. Order is kept per
 * sender. Takes a hold until fn has run. */
void tr_loop_post(struct tr_loop *loop, struct tr_mail *mail);
/* A whole chain (linked by next, in order, last->next is set by the callee) with one wake. */
void tr_loop_post_chain(struct tr_loop *loop, struct tr_mail *first, struct tr_mail *last);

/* --- work put off to later in this turn: own thread only ------------------------------------- */
struct tr_defer {
	struct tr_defer *next;
	bool queued;
	void (*fn)(struct tr_defer *defer);
};
/* A second call before it ran changes nothing. */
void tr_loop_defer(struct tr_loop *loop, struct tr_defer *defer, void (*fn)(struct tr_defer *defer));
/* Takes it out of the queue again if it is in it (its memory is about to go). */
void tr_loop_undefer(struct tr_loop *loop, struct tr_defer *defer);

/* --- when there is nothing left to do ---------------------------------------------------------- */
struct tr_idle {
	struct tr_idle *next;
	bool queued;
	void (*fn)(struct tr_idle *idle);
};
/* Once, as soon as nothing is runnable: under the virtual clock before time moves, and when nothing is under way
 * outside either. One at a time: what it makes runnable runs before the next one. */
void tr_loop_idle(struct tr_loop *loop, struct tr_idle *idle, void (*fn)(struct tr_idle *idle));
void tr_loop_unidle(struct tr_loop *loop, struct tr_idle *idle);
/* Under the virtual clock: mail waits until nothing else is runnable and all that is under way in other threads has
 * been answered, and then runs in an order that does not depend on them, so that one run is like another. For a loop
 * that has no operations on real descriptors. */
void tr_loop_orderly(struct tr_loop *loop, bool orderly);

/* --- hooks at the end of each turn that did something ------------------------------------------ */
struct tr_turn_hook {
	struct tr_turn_hook *next;
	void (*fn)(struct tr_turn_hook *hook);
};
void tr_loop_add_turn_hook(struct tr_loop *loop, struct tr_turn_hook *hook);
void tr_loop_remove_turn_hook(struct tr_loop *loop, struct tr_turn_hook *hook);

#endif
