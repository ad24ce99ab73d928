/* The gate of a ready queue: closes when its destination fails again and again, or says when to come back; opens by one
 * probe, and then bit by bit: attempts start one after the other at first, and each success brings the next one nearer,
 * until there is no bound any more. A destination that limits the rate is met on that way: when more than a third of
 * the attempts fail, or several in a row, the pace steps back and then grows slowly, so that it gets what it allows
 * instead of a burst at each opening. A share of failures below that changes nothing, nor does one that stays the same
 * however slow the pace is: that endpoint fails at random, and what closes the gate then is a run of failures too long
 * for its share. Pure arithmetic: time and randomness are arguments. Not
 * thread-safe: the ready queue's mutex guards it. */
#ifndef TR_GATE_H
#define TR_GATE_H

#include "base/base.h"

enum tr_gate_state { TR_GATE_OPEN, TR_GATE_CLOSED, TR_GATE_PROBING };

struct tr_gate {
	enum tr_gate_state state;
	uint32_t failures;     /* in a row, over all sessions */
	uint32_t closings;     /* in a row without a success: the exponent of the backoff */
	int64_t reopen_at_ns;  /* monotonic; when closed */
	int64_t opened_for_ns; /* last backoff, for reports */
	/* the way back; of meaning when open */
	int64_t interval_ns;   /* between the starts of two attempts; 0: no bound */
	int64_t next_at_ns;    /* monotonic; no start before */
	int64_t stepped_at_ns; /* what began before says nothing of the pace since */
	int64_t settled_at_ns; /* when the pace became as quick as any */
	int64_t window_at_ns;  /* successes are counted since */
	int64_t seen_ns;       /* between two of them in the window before; 0: not known */
	uint32_t window_good;
	uint32_t since;          /* successes since the last step back */
	uint32_t concurrent;     /* so many attempts at once, while there is an interval */
	uint32_t failing;        /* share of failures of late, in 1/65536 */
	uint32_t bad;            /* failures since the last step back */
	uint32_t vain;           /* steps that changed nothing, less those that did */
	double stretch;          /* of the interval, by the last step */
	double good_share;       /* of attempts, before the last step */
	int64_t random_until_ns; /* failures do not come from the pace, it was found: none steps back; 0: it was not */
	uint32_t random_share;   /* of failures, when that was found; in 1/65536 */
	uint32_t usual;          /* of failures since, without the present run of them */
	uint32_t steps;          /* steps back in a row without a success */
	bool careful;            /* it has stepped back: the pace grows slowly */
};

struct tr_gate_rules {
	uint32_t failures_to_close; /* 0: never closes */
	int64_t backoff_ns;         /* first closing; doubles */
	int64_t backoff_max_ns;
	int64_t retry_after_max_ns; /* cap of what a peer may ask for */
};

/* May an attempt start now? In the closed state, once reopen_at_ns has passed, exactly one caller gets true
 * (the probe) until its outcome is told. *wait_ns: how long until it is worth asking again; INT64_MAX while
 * a probe is out. */
bool tr_gate_enter(struct tr_gate *gate, int64_t now_ns, int64_t *wait_ns);
/* Open, but not without bound. */
static inline bool
tr_gate_is_paced(const struct tr_gate *gate)
{
	return gate->state == TR_GATE_OPEN && gate->interval_ns != 0;
}
/* How many attempts tr_gate_enter() would let start now. */
uint32_t tr_gate_room(const struct tr_gate *gate, int64_t now_ns);
void tr_gate_success(struct tr_gate *gate, int64_t now_ns);
/* A failed attempt. at_once: connection refused or the like closes now; retry_after_ns >= 0: the peer said
 * when, which closes now and is a floor of the wait; -1: it did not say. random in [0,1). Returns true if it closed. */
bool tr_gate_failure(struct tr_gate *gate, const struct tr_gate_rules *rules, int64_t now_ns, bool at_once,
	int64_t retry_after_ns, double random);
/* The probe ended without an outcome (its session was cancelled): the next caller may probe. */
void tr_gate_abandon(struct tr_gate *gate);

#endif
