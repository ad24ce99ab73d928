/* Whether a thread goes on. A thread that nobody else could replace says when it waits for work, and when it takes up a
 * piece of it: one store each, without a clock. Who wants to know looks now and then (policy/watchdog.c): one that is
 * at the same piece of work at each look for long is stuck. */
#ifndef TR_PULSE_H
#define TR_PULSE_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "base/base.h"

#define TR_PULSE_FRAMES 40

struct tr_pulse {              /* its memory must stay until tr_pulse_leave() */
	_Atomic uint64_t beat; /* odd: at work; another number at each change. Written by its thread */
	struct tr_pulse *next;
	char name[32];    /* "worker 1" */
	const char *what; /* of its work, "has not come back to its events"; static */
	pthread_t thread;
	pid_t tid;
	/* The watcher's, and of the handler of the signal that it sends: */
	uint64_t seen;       /* beat at the last look ... */
	int64_t seen_for_ns; /* ... and how long it has been that */
	int64_t cpu_from_ns; /* processor time of the thread when that began; -1: not known */
	int64_t asked_for_ns;
	bool told;
	_Atomic int asked; /* enum tr_pulse_asked */
	char doing[192];   /* filled by the handler, in the thread itself: event and ids; "": no Lua */
	void *frames[TR_PULSE_FRAMES];
	int frame_count;
};

enum tr_pulse_asked { TR_PULSE_UNASKED, TR_PULSE_ASKED, TR_PULSE_ANSWERED };

extern _Thread_local struct tr_pulse *tr_pulse_mine; /* NULL: nobody looks at this thread */

#define TR_PULSE_LOOP "has not come back to its events" /* of a thread that runs a loop */

/* Registers the calling thread, at work. "NAME WHAT for 10 s" is how it is told that it is stuck; what: static. */
void tr_pulse_enter(struct tr_pulse *pulse, const char *name, const char *what);
void tr_pulse_leave(struct tr_pulse *pulse); /* the same thread */

/* The calling thread takes up a piece of work, or the next one. */
static inline void
tr_pulse_work(void)
{
	struct tr_pulse *pulse = tr_pulse_mine;

	if (pulse != NULL) /* nobody else writes it */
		atomic_store_explicit(&pulse->beat, (atomic_load_explicit(&pulse->beat, memory_order_relaxed) + 2) | 1,
			memory_order_relaxed);
}

/* The calling thread waits for work, or for a thread that has a pulse of its own, or for no longer than a bound. */
static inline void
tr_pulse_rest(void)
{
	struct tr_pulse *pulse = tr_pulse_mine;

	if (pulse != NULL)
		atomic_store_explicit(&pulse->beat,
			(atomic_load_explicit(&pulse->beat, memory_order_relaxed) + 2) & ~UINT64_C(1),
			memory_order_relaxed);
}

/* pthread_join() of a thread that has a pulse. */
void tr_pulse_join(pthread_t thread);

/* Calls fn for each thread that has one; none of them can go meanwhile. */
void tr_pulse_each(void (*fn)(struct tr_pulse *pulse, void *arg), void *arg);

#endif
