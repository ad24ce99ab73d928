/* A session of a ready queue, its leases and its pace. Part of the room. `own`: only its worker's thread. */
#ifndef TR_QUEUE_SESSION_H
#define TR_QUEUE_SESSION_H

#include <stdatomic.h>

#include "queue/queue.h"

struct session {
	struct tr_session pub;                      /* first */
	struct session *ready_next, **ready_prev;   /* ready->lock: ready->all */
	struct session *idle_next, **idle_prev;     /* ready->lock */
	struct session *worker_next, **worker_prev; /* own */
	struct session *act_next;                   /* own: worker's list of what to open or wake */
	struct tr_mail open_mail, wake_mail;
	_Atomic bool wake_posted;
	_Atomic uint32_t refs;
	bool ended, saw_empty, settling; /* own */
	bool for_probe;                  /* ready->lock */
	uint64_t taken;
	uint32_t held;          /* messages with it now */
	struct tr_timer cancel; /* at stop */
	bool cancelled;
	bool named;                  /* in the line of another one, which is cancelled with it */
	bool pacing;                 /* ready->lock: waits for a rate with messages in hand */
	bool counted;                /* ready->lock: in gate_under_way */
	int64_t took_at_ns;          /* own: when it was counted */
	struct ready_limits *limits; /* own: of the last take; referenced */
	struct permit *permit;       /* own: leases; NULL: none */
	struct pace *pace;           /* own: a wait for a rate; NULL: none yet */
	char held_up[200];           /* own writes, under ready->lock: by its peer, and why; "": it is not */
	int64_t late_ns;             /* own: so much after its slot the last batch went out; 0: idle since then */
};
static inline struct session *
session_of(struct tr_session *session)
{
	return (struct session *)session;
}
/* Makes one for `worker`; ready->lock is held. NULL: no memory. */
struct session *session_new_locked(struct tr_ready *ready, struct tr_worker *worker);
/* True if no wake was on its way: then act_next is the caller's, who must call session_act(). Takes a reference for it.
 */
static inline bool
session_claim_wake(struct session *session)
{
	if (atomic_exchange(&session->wake_posted, true))
		return false;
	atomic_fetch_add_explicit(&session->refs, 1, memory_order_relaxed);
	return true;
}
void session_act(struct session *session, struct tr_worker *worker, bool open); /* later, on its worker */
void session_permitted(struct session *session); /* own: the answer of permit_ask() that came later */
void session_refused(struct session *session);   /* the other one: it is gone */
enum permit_answer { PERMIT_GRANTED, PERMIT_REFUSED, PERMIT_LATER };
/* Own: leases and a token of the connection rate for a session that is to be opened. */
enum permit_answer permit_ask(struct session *session);
bool permit_pending(const struct session *session);
void permit_end(struct session *session);   /* own: a question is cancelled, leases go back */
void permit_unwait(struct tr_ready *ready); /* home: does not wait for a place any more */
/* Home: true if a place was free that this queue waited for; then permit_settle() says whether a session was opened. */
bool permit_told(struct tr_ready *ready);
void permit_settle(struct tr_ready *ready, bool opened);
void pace_end(struct session *session); /* own: a question is cancelled, slots go back */
void releases_free(struct tr_worker *worker);
void session_unidle_locked(struct session *session);
void session_uncount_locked(struct session *session);
bool ready_held_back_locked(const struct tr_ready *ready);
void session_unref(struct session *session);
void sessions_settled(struct tr_worker *worker);
void sessions_close_all(struct tr_ready *ready, struct tr_worker *worker); /* wakes the idle: reason to end */

#endif
