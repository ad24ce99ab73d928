/* A hierarchical timer wheel with 1 ms ticks, driven by a loop. Starting and stopping cost a
 * few pointer moves, so every read, write and wait can have a deadline. One thread. */
#ifndef TR_TIMER_H
#define TR_TIMER_H

#include "base/base.h"

struct tr_timer;
typedef void tr_timer_fn(struct tr_timer *timer);

/* Embed it; zero-initialise it. It belongs to whoever embeds it and must be stopped before that
 * memory goes. In the callback the timer is already stopped and may be started again. */
struct tr_timer {
	struct tr_timer *next, **prev; /* prev == NULL: not running */
	int64_t due_ns;                /* monotonic */
	tr_timer_fn *fn;
};

struct tr_wheel; /* opaque */

int tr_wheel_new(int64_t now_ns, struct tr_wheel **out); /* TR_OK or TR_ENOMEM */
void tr_wheel_free(struct tr_wheel *wheel);              /* timers still in it are forgotten, not called */

/* (Re)starts the timer for the monotonic moment due_ns; a past moment fires at the next run. */
void tr_timer_start_at(struct tr_wheel *wheel, struct tr_timer *timer, int64_t due_ns, tr_timer_fn *fn);
/* The same, delay_ns from now (tr_mono_ns()). */
void tr_timer_start(struct tr_wheel *wheel, struct tr_timer *timer, int64_t delay_ns, tr_timer_fn *fn);
void tr_timer_stop(struct tr_wheel *wheel, struct tr_timer *timer); /* a stopped timer is fine */
static inline bool
tr_timer_running(const struct tr_timer *timer)
{
	return timer->prev != NULL;
}

/* The earliest moment at which something may be due; INT64_MAX when empty. Never later than the
 * true one, and exact when that is within the lowest level. */
int64_t tr_wheel_next_ns(const struct tr_wheel *wheel);
/* Fires all timers due at now_ns in order of due time (1 ms grain); returns how many. */
int tr_wheel_run(struct tr_wheel *wheel, int64_t now_ns);
/* How many timers run in it. */
size_t tr_wheel_count(const struct tr_wheel *wheel);

#endif
