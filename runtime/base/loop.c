#include "base/loop.h"

#include <errno.h>
#include <ev.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/pulse.h"
#include "base/work.h"

/* Under the virtual clock, how long (real time) a loop sleeps before it asks again whether holds are out:
 * a hold may be dropped in another thread without a wake. */
#define BACKSTOP_S 0.002
/* How long (real time) tr_loop_run_until() waits for holds under the virtual clock at least, however small
 * its limit of virtual time: a slow disk must not fail a test, a lost hold must not hang it. */
#define HOLDS_AT_LEAST_NS (120 * TR_NS_PER_S)
#define FOREVER INT64_MAX
#define DESCRIPTORS 3 /* that libev needs for one: epoll, its wake-up, its timer */

struct tr_loop {
	struct ev_loop *ev;
	struct tr_wheel *wheel;
	ev_async mail_wake; /* sent by whoever finds the box empty */
	ev_timer sleep_end;
	int64_t sleep_end_ns;           /* what sleep_end is armed for; FOREVER: not armed */
	_Atomic(struct tr_mail *) mail; /* a stack: newest first */
	struct tr_defer *defer_first, **defer_last;
	struct tr_idle *idle_first, **idle_last;
	struct tr_turn_hook *hooks;     /* in order of addition */
	struct tr_turn_hook *next_hook; /* while hooks run: the one to be called next */
	unsigned own_events;            /* callbacks of mail_wake and sleep_end in this turn */
	unsigned events;                /* watcher callbacks in this turn, own ones included */
	bool in_ev;                     /* inside ev_run(): a post to ourselves needs a wake, too */
	bool orderly;                   /* mail waits for its turn: see run_mail_in_order() */
	bool hooks_due;                 /* work was or may have been done outside of a turn */
	bool stop;
};

static _Thread_local struct tr_loop *current;

static void
mail_wake_cb(struct ev_loop *ev, ev_async *watcher, int revents)
{
	struct tr_loop *loop = watcher->data;

	loop->own_events++; /* the box is emptied after ev_run() */
}

static void
sleep_end_cb(struct ev_loop *ev, ev_timer *watcher, int revents)
{
	struct tr_loop *loop = watcher->data;

	loop->own_events++;
	loop->sleep_end_ns = FOREVER; /* it does not repeat */
}

/* libev calls it instead of ev_invoke_pending(), so that we see whether anything happened. */
static void
invoke_pending(struct ev_loop *ev)
{
	struct tr_loop *loop = ev_userdata(ev);

	loop->events += ev_pending_count(ev);
	ev_invoke_pending(ev);
}

/* libev calls them around its wait: what is between two waits is one piece of work. */
static void
wait_begins(struct ev_loop *ev) EV_NOEXCEPT
{
	tr_pulse_rest();
}

static void
wait_ends(struct ev_loop *ev) EV_NOEXCEPT
{
	tr_pulse_work();
}

/* libev ends the process when it finds no descriptor for its wake-up. */
static int
probe_descriptors(void)
{
	int fds[DESCRIPTORS], count = 0, err = TR_OK;

	while (count < DESCRIPTORS && (fds[count] = eventfd(0, EFD_CLOEXEC)) >= 0)
		count++;
	if (count < DESCRIPTORS)
		err = tr_err_from_errno(errno);
	while (count > 0)
		close(fds[--count]);
	return err;
}

int
tr_loop_new(struct tr_loop **out)
{
	struct tr_loop *loop = calloc(1, sizeof *loop);
	int err = TR_ENOMEM;

	*out = NULL;
	if (loop == NULL)
		return TR_ENOMEM;
	loop->sleep_end_ns = FOREVER;
	loop->defer_last = &loop->defer_first;
	loop->idle_last = &loop->idle_first;
	loop->hooks_due = true;
	atomic_init(&loop->mail, NULL);
	err = tr_wheel_new(tr_mono_ns(), &loop->wheel);
	if (err != TR_OK)
		goto fail;
	err = probe_descriptors();
	if (err != TR_OK)
		goto fail;
	loop->ev = ev_loop_new(EVFLAG_AUTO | EVFLAG_NOENV);
	if (loop->ev == NULL) {
		err = TR_EIO;
		goto fail;
	}
	ev_set_userdata(loop->ev, loop);
	ev_set_invoke_pending_cb(loop->ev, invoke_pending);
	ev_set_loop_release_cb(loop->ev, wait_begins, wait_ends);
	ev_async_init(&loop->mail_wake, mail_wake_cb);
	loop->mail_wake.data = loop;
	ev_async_start(loop->ev, &loop->mail_wake);
	ev_timer_init(&loop->sleep_end, sleep_end_cb, 0., 0.);
	loop->sleep_end.data = loop;
	*out = loop;
	return TR_OK;
fail:
	tr_wheel_free(loop->wheel);
	free(loop);
	return err;
}

void
tr_loop_free(struct tr_loop *loop)
{
	if (loop == NULL)
		return;
	tr_work_finish(loop);
	/* Mail that is still there is not run: its receivers are gone. Only its holds end. */
	for (struct tr_mail *mail = atomic_exchange(&loop->mail, NULL); mail != NULL; mail = mail->next)
		tr_hold_drop();
	ev_timer_stop(loop->ev, &loop->sleep_end);
	ev_async_stop(loop->ev, &loop->mail_wake);
	ev_loop_destroy(loop->ev);
	tr_wheel_free(loop->wheel);
	if (current == loop)
		current = NULL;
	free(loop);
}

struct ev_loop *
tr_loop_ev(struct tr_loop *loop)
{
	return loop->ev;
}

struct tr_wheel *
tr_loop_wheel(struct tr_loop *loop)
{
	return loop->wheel;
}

struct tr_loop *
tr_loop_current(void)
{
	return current;
}

void
tr_loop_enter(struct tr_loop *loop)
{
	current = loop;
}

void
tr_loop_stop(struct tr_loop *loop)
{
	loop->stop = true;
}

/* --- mail ------------------------------------------------------------------------------------------ */

void
tr_loop_post_chain(struct tr_loop *loop, struct tr_mail *first, struct tr_mail *last)
{
	struct tr_mail *newest = NULL, *head;

	last->next = NULL;
	for (struct tr_mail *mail = first, *next; mail != NULL; mail = next) { /* the box is newest first */
		next = mail->next;
		mail->next = newest;
		newest = mail;
		tr_hold_take();
	}
	head = atomic_load_explicit(&loop->mail, memory_order_relaxed);
	do {
		first->next = head;
	} while (!atomic_compare_exchange_weak_explicit(
		&loop->mail, &head, newest, memory_order_acq_rel, memory_order_relaxed));
	/* Only the first into an empty box wakes. Our own thread looks into the box before it sleeps. */
	if (head == NULL && (current != loop || loop->in_ev))
		ev_async_send(loop->ev, &loop->mail_wake);
}

void
tr_loop_post(struct tr_loop *loop, struct tr_mail *mail)
{
	tr_loop_post_chain(loop, mail, mail);
}

static bool
has_mail(struct tr_loop *loop)
{
	return atomic_load_explicit(&loop->mail, memory_order_acquire) != NULL;
}

static bool
run_mail(struct tr_loop *loop)
{
	struct tr_mail *mail, *oldest = NULL, *next;

	if (!has_mail(loop))
		return false;
	mail = atomic_exchange_explicit(&loop->mail, NULL, memory_order_acq_rel);
	for (; mail != NULL; mail = next) {
		next = mail->next;
		mail->next = oldest;
		oldest = mail;
	}
	for (mail = oldest; mail != NULL; mail = next) {
		next = mail->next;
		mail->fn(mail); /* may free it */
		tr_hold_drop();
	}
	return true;
}

static int
count_mail(struct tr_loop *loop)
{
	int count = 0;

	for (struct tr_mail *mail = atomic_load_explicit(&loop->mail, memory_order_acquire); mail != NULL;
		mail = mail->next)
		count++;
	return count;
}

/* Of mail from several threads only what one thread has sent is in order: the rest is brought into the order of the
 * functions, which the program's text gives. */
static void
run_mail_in_order(struct tr_loop *loop)
{
	struct tr_mail *mail = atomic_exchange_explicit(&loop->mail, NULL, memory_order_acq_rel), *sorted = NULL, *next;

	for (; mail != NULL; mail = next) { /* newest first: before those of the same function */
		struct tr_mail **at = &sorted;

		next = mail->next;
		while (*at != NULL && (uintptr_t)(*at)->fn < (uintptr_t)mail->fn)
			at = &(*at)->next;
		mail->next = *at;
		*at = mail;
	}
	for (mail = sorted; mail != NULL; mail = next) {
		next = mail->next;
		mail->fn(mail); /* may free it */
		tr_hold_drop();
	}
}

/* --- deferred work and hooks ------------------------------------------------------------------------ */

void
tr_loop_defer(struct tr_loop *loop, struct tr_defer *defer, void (*fn)(struct tr_defer *defer))
{
	if (defer->queued)
		return;
	defer->queued = true;
	defer->fn = fn;
	defer->next = NULL;
	*loop->defer_last = defer;
	loop->defer_last = &defer->next;
}

void
tr_loop_undefer(struct tr_loop *loop, struct tr_defer *defer)
{
	if (!defer->queued)
		return;
	for (struct tr_defer **at = &loop->defer_first; *at != NULL; at = &(*at)->next) {
		if (*at != defer)
			continue;
		*at = defer->next;
		if (defer->next == NULL)
			loop->defer_last = at;
		break;
	}
	defer->queued = false;
	defer->next = NULL;
}

static bool
run_deferred(struct tr_loop *loop)
{
	bool did = false;

	while (loop->defer_first != NULL) {
		struct tr_defer *defer = loop->defer_first;

		loop->defer_first = defer->next;
		if (loop->defer_first == NULL)
			loop->defer_last = &loop->defer_first;
		defer->next = NULL;
		defer->queued = false;
		defer->fn(defer); /* may free it, or put it off again */
		did = true;
	}
	return did;
}

void
tr_loop_idle(struct tr_loop *loop, struct tr_idle *idle, void (*fn)(struct tr_idle *idle))
{
	if (idle->queued)
		return;
	idle->queued = true;
	idle->fn = fn;
	idle->next = NULL;
	*loop->idle_last = idle;
	loop->idle_last = &idle->next;
}

void
tr_loop_unidle(struct tr_loop *loop, struct tr_idle *idle)
{
	if (!idle->queued)
		return;
	for (struct tr_idle **at = &loop->idle_first; *at != NULL; at = &(*at)->next) {
		if (*at != idle)
			continue;
		*at = idle->next;
		if (idle->next == NULL)
			loop->idle_last = at;
		break;
	}
	idle->queued = false;
	idle->next = NULL;
}

static bool
run_idle(struct tr_loop *loop)
{
	struct tr_idle *idle = loop->idle_first;

	if (idle == NULL)
		return false;
	tr_loop_unidle(loop, idle);
	idle->fn(idle); /* may free it, or queue it again */
	loop->hooks_due = true;
	return true;
}

void
tr_loop_orderly(struct tr_loop *loop, bool orderly)
{
	loop->orderly = orderly;
}

void
tr_loop_add_turn_hook(struct tr_loop *loop, struct tr_turn_hook *hook)
{
	struct tr_turn_hook **at = &loop->hooks;

	while (*at != NULL)
		at = &(*at)->next;
	hook->next = NULL;
	*at = hook;
}

void
tr_loop_remove_turn_hook(struct tr_loop *loop, struct tr_turn_hook *hook)
{
	for (struct tr_turn_hook **at = &loop->hooks; *at != NULL; at = &(*at)->next) {
		if (*at != hook)
			continue;
		if (loop->next_hook == hook)
			loop->next_hook = hook->next;
		*at = hook->next;
		hook->next = NULL;
		return;
	}
}

static void
run_hooks(struct tr_loop *loop)
{
	for (struct tr_turn_hook *hook = loop->hooks; hook != NULL; hook = loop->next_hook) {
		loop->next_hook = hook->next;
		hook->fn(hook); /* may remove itself or others */
	}
	loop->next_hook = NULL;
}

/* --- turns ------------------------------------------------------------------------------------------- */

/* Arms the one libev timer so that ev_run() returns in wait_s seconds at the latest. */
static void
arm(struct tr_loop *loop, double wait_s, int64_t end_ns)
{
	ev_now_update(loop->ev); /* the delay counts from libev's idea of now */
	ev_timer_stop(loop->ev, &loop->sleep_end);
	ev_timer_set(&loop->sleep_end, wait_s, 0.);
	ev_timer_start(loop->ev, &loop->sleep_end);
	loop->sleep_end_ns = end_ns;
}

static void
disarm(struct tr_loop *loop)
{
	ev_timer_stop(loop->ev, &loop->sleep_end);
	loop->sleep_end_ns = FOREVER;
}

/* Prepares a sleep until the first timer is due, or until limit_ns. Returns the flag for ev_run(). */
static int
prepare_sleep(struct tr_loop *loop, int64_t limit_ns)
{
	if (loop->defer_first != NULL || loop->idle_first != NULL || has_mail(loop))
		return EVRUN_NOWAIT;
	if (tr_clock_is_virtual()) {
		if (tr_hold_count() > 0 || limit_ns != FOREVER || tr_wheel_count(loop->wheel) > 0)
			arm(loop, BACKSTOP_S, 0);
		else
			disarm(loop);
		return EVRUN_ONCE;
	}
	int64_t end_ns = tr_min_i64(tr_wheel_next_ns(loop->wheel), limit_ns);

	/* Armed for an earlier moment than needed costs one empty turn; arming anew at each turn costs more. A moment
	 * that is over and did not come says that the clock has stepped: libev's timer is for later now. */
	int64_t now_ns = tr_mono_ns();
	if (end_ns < loop->sleep_end_ns || (end_ns < FOREVER && loop->sleep_end_ns <= now_ns)) {
		int64_t wait_ns = end_ns - now_ns;

		if (wait_ns <= 0)
			return EVRUN_NOWAIT;
		arm(loop, (double)wait_ns / (double)TR_NS_PER_S, end_ns);
	}
	return EVRUN_ONCE;
}

/* One turn. `flag` says whether it may sleep first. Returns whether it did anything. */
static bool
turn(struct tr_loop *loop, int flag)
{
	bool did;

	loop->events = loop->own_events = 0;
	loop->in_ev = true;
	ev_run(loop->ev, flag);
	loop->in_ev = false;
	did = loop->events > loop->own_events;
	if (!loop->orderly || !tr_clock_is_virtual())
		did |= run_mail(loop);
	did |= tr_wheel_run(loop->wheel, tr_mono_ns()) > 0;
	did |= run_deferred(loop);
	if (did || loop->hooks_due) {
		loop->hooks_due = false;
		run_hooks(loop);
	}
	return did;
}

/* Moves the virtual clock to the next timer, at most to end_ns. False if there is no way to go. */
static bool
jump(struct tr_loop *loop, int64_t end_ns)
{
	int64_t now_ns = tr_mono_ns();
	int64_t next_ns = tr_min_i64(tr_wheel_next_ns(loop->wheel), end_ns);

	if (loop->defer_first != NULL || next_ns <= now_ns) /* hooks started it: due in the next turn */
		return loop->defer_first != NULL || next_ns < end_ns;
	if (loop->idle_first != NULL)
		return run_idle(loop);
	if (next_ns == FOREVER)
		return false;
	tr_clock_advance(next_ns - now_ns);
	return true;
}

/* Time that does not stand still while holds are out. Only for the bound of a test's wait. */
static int64_t
real_ns(struct tr_loop *loop)
{
	ev_now_update(loop->ev);
	return (int64_t)(ev_now(loop->ev) * (double)TR_NS_PER_S);
}

/* Empty turns of a tenth of a millisecond at least, in which a disk or another thread may be as slow as they like: then
 * some answer does not come. */
#define PATIENCE 50000

/* Whether everything that is under way has been answered. Waits a little if not; gives up after a while, for then
 * something is under way that needs this mail first. */
static bool
mail_is_complete(struct tr_loop *loop, int *patience)
{
	static const struct timespec pause = {0, 100000};

	if (tr_hold_count() <= count_mail(loop) || ++*patience > PATIENCE) {
		*patience = 0;
		return true;
	}
	if (*patience > 10) /* the other thread is about to answer */
		nanosleep(&pause, NULL);
	else
		sched_yield();
	return false;
}

/* Runs turns until done(arg), until tr_loop_stop() if `stoppable`, or until end_ns (monotonic) has come and
 * nothing is left to do. holds_until_ns is the real moment at which waiting for holds ends, too. Returns
 * whether done(arg) became true. */
static bool
drive(struct tr_loop *loop, bool stoppable, int64_t end_ns, int64_t holds_until_ns, bool (*done)(void *arg), void *arg)
{
	struct tr_loop *outer = current;
	int flag = EVRUN_NOWAIT;
	bool is_done = false;
	int patience = 0;

	current = loop;
	loop->hooks_due = true; /* for what was done before, outside of a turn */
	for (;;) {
		bool was_virtual = tr_clock_is_virtual();
		int holds = tr_hold_count(); /* before the turn: what was under way then is seen by the next one */
		bool did;

		if (stoppable && loop->stop)
			break;
		if (done != NULL && done(arg)) {
			is_done = true;
			break;
		}
		bool hooks_due = loop->hooks_due;

		did = turn(loop, flag);
		if (was_virtual && hooks_due) /* a hook may have sent what a peer on this loop is about to read */
			did = true;
		flag = EVRUN_NOWAIT;
		if (was_virtual != tr_clock_is_virtual()) /* switched in this turn */
			continue;
		if (was_virtual && !did && loop->orderly && has_mail(loop) && mail_is_complete(loop, &patience)) {
			run_mail_in_order(loop);
			loop->hooks_due = true;
			continue;
		}
		if (did)
			patience = 0;
		if (!was_virtual && !did && run_idle(loop))
			continue;
		if (!was_virtual) { /* what is ready ends the sleep at once: no turn to look for it is needed */
			if (!did && end_ns != FOREVER && tr_mono_ns() >= end_ns)
				break;
			flag = prepare_sleep(loop, end_ns);
		} else if (did) {
			continue;
		} else if (holds > 0 || tr_hold_count() > 0) {
			if (holds_until_ns != FOREVER && real_ns(loop) >= holds_until_ns)
				break;
			flag = prepare_sleep(loop, end_ns);
		} else if (!jump(loop, end_ns)) {
			if (end_ns != FOREVER)
				break;
			flag = prepare_sleep(loop, FOREVER);
		}
	}
	if (!stoppable)
		current = outer != NULL ? outer : loop;
	return is_done;
}

static int64_t
later(int64_t now_ns, int64_t delay_ns)
{
	return delay_ns > FOREVER - 1 - now_ns ? FOREVER - 1 : now_ns + tr_max_i64(delay_ns, 0);
}

void
tr_loop_run(struct tr_loop *loop)
{
	drive(loop, true, FOREVER, FOREVER, NULL, NULL);
	loop->stop = false;
}

bool
tr_loop_turn(struct tr_loop *loop)
{
	bool did;

	current = loop;
	loop->hooks_due = true;
	did = turn(loop, EVRUN_NOWAIT);
	if (!did && loop->orderly && tr_clock_is_virtual() && has_mail(loop)) {
		run_mail_in_order(loop);
		did = true;
	}
	return did;
}

void
tr_loop_advance(struct tr_loop *loop, int64_t delay_ns)
{
	drive(loop, false, later(tr_mono_ns(), delay_ns), FOREVER, NULL, NULL);
}

bool
tr_loop_run_until(struct tr_loop *loop, bool (*done)(void *arg), void *arg, int64_t limit_ns)
{
	int64_t holds_until_ns = later(real_ns(loop), tr_max_i64(limit_ns, HOLDS_AT_LEAST_NS));

	return drive(loop, false, later(tr_mono_ns(), limit_ns), holds_until_ns, done, arg);
}
