/* Finds Lua that runs too long, and ends the process when a stop cannot. Threads that hang elsewhere: stuck.c.
 * A host counts its stretches of Lua (`stretch` is odd while one runs); the
 * watchdog thread looks every 100 ms of real time whether the number has moved, so that entering and
 * leaving Lua costs one atomic store and reads no clock. A stuck host's thread gets SIGURG: the handler
 * writes down event and ids, and sets a hook that raises at the next instruction. */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/diag.h"
#include "policy/internal.h"

#define LOOK_NS (100 * TR_NS_PER_MS)
#define REFUSED_NS TR_NS_PER_S /* a stretch of Lua that goes on for this long after it was interrupted does not end */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* guards what follows, and the hosts in the list */
static pthread_cond_t changed;
static struct tr_host *hosts;
static pthread_t thread;
static bool running, stopping;

/* The end of a process whose stop hangs. */
#define OVER_NS (60 * TR_NS_PER_S) /* of looks: in any case, so long after the time of the stop */
#define AGAIN_NS (2 * TR_NS_PER_S) /* asked to stop again: so much time at most */
#define UNTAKEN_NS TR_NS_PER_S     /* a signal that waits for so long is taken by nobody */
#define SELF_SIGNAL SIGRTMIN       /* of the timer that watches the watchdog */
#define SELF_TICKS 3               /* of it, one a second, without a look between */
static _Atomic int64_t stop_ns;    /* that a stop may take; 0: nobody can ask for one yet */
static _Atomic int64_t end_at_ns;  /* 0: never */
static _Atomic int end_status;
static timer_t self_timer;
static _Atomic bool self_timer_made;
static volatile sig_atomic_t looks, ticks, ticks_looks; /* this thread's, and its handler's */

static _Thread_local struct tr_host *volatile running_host; /* innermost; the signal handler reads it */
static _Thread_local struct tr_host *outer_hosts[8];        /* hosts that run below it in this thread */
static _Thread_local int outer_count;

void
tr_watch_enter(struct tr_host *host)
{
	if (running_host != NULL && outer_count < (int)TR_COUNT(outer_hosts))
		outer_hosts[outer_count++] = running_host;
	running_host = host;
	if (!pthread_equal(host->thread, pthread_self()))
		host->thread = pthread_self();
	atomic_fetch_add_explicit(&host->stretch, 1, memory_order_release);
}

void
tr_watch_leave(struct tr_host *host)
{
	atomic_fetch_add_explicit(&host->stretch, 1, memory_order_release);
	running_host = outer_count > 0 ? outer_hosts[--outer_count] : NULL;
	if (atomic_load_explicit(&host->interrupt, memory_order_relaxed) ||
		atomic_load_explicit(&host->cancel, memory_order_relaxed)) { /* it ended by itself just now */
		atomic_store(&host->interrupt, false);
		atomic_store(&host->cancel, false);
		tr_task_hook_off(host);
	}
}

/* Appends as much of text as fits; usable in a signal handler. */
static size_t
append(char *out, size_t at, size_t size, const char *text)
{
	while (text != NULL && *text != '\0' && at + 1 < size)
		out[at++] = *text++;
	out[at] = '\0';
	return at;
}

void
tr_watch_name(char *out, size_t size)
{
	struct tr_host *host = running_host;
	const struct tr_task *task = host != NULL ? host->current : NULL;
	char full[TR_IDS_BYTES];
	size_t at;

	out[0] = '\0';
	if (host == NULL)
		return;
	at = append(out, 0, size, "event ");
	at = append(out, at, size, task && task->event ? task->event : "(none)");
	at = append(out, at, size, " ");
	append(out, at, size, task ? tr_task_ids(task, full) : NULL);
}

static void
interrupt(int signal)
{
	struct tr_host *host = running_host;

	(void)signal;
	tr_stuck_answer();
	if (host == NULL || !atomic_load(&host->interrupt))
		return;
	if (atomic_load(&host->named) == 0) {
		tr_watch_name(host->stuck, sizeof host->stuck);
		atomic_store(&host->named, 1);
	}
	lua_sethook(host->L, tr_task_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKCOUNT, 1);
}

bool
tr_watch_cancel(void)
{
	struct tr_host *host = running_host;

	if (host == NULL)
		return false;
	atomic_store(&host->cancel, true);
	lua_sethook(host->L, tr_task_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKCOUNT, 1);
	return true;
}

static void
look(struct tr_host *host, int64_t since_ns)
{
	int64_t limit_ns = atomic_load_explicit(&host->run_limit_ns, memory_order_relaxed);
	uint64_t stretch = atomic_load_explicit(&host->stretch, memory_order_acquire);

	if (atomic_load(&host->named) == 1) {
		tr_log(TR_LEVEL_ERROR, "watchdog", "worker %u ran Lua for over %.1f s without waiting: %s",
			host->worker, (double)limit_ns / TR_NS_PER_S, host->stuck);
		host->told = true;
		atomic_store(&host->named, stretch == host->seen && stretch % 2 == 1 ? 2 : 0);
	}
	if (stretch != host->seen) {
		host->seen = stretch;
		host->seen_for_ns = 0;
		host->refused_for_ns = -1;
		host->told = false;
		if (atomic_load(&host->named) == 2)
			atomic_store(&host->named, 0);
		return;
	}
	host->seen_for_ns += since_ns;
	if (stretch % 2 == 0 || host->seen_for_ns < limit_ns)
		return;
	host->refused_for_ns = host->refused_for_ns < 0 ? 0 : host->refused_for_ns + since_ns;
	/* Again at each look until the stretch ends: the policy may have caught the error and gone on. */
	atomic_store(&host->interrupt, true);
	pthread_kill(host->thread, SIGURG);
}

static int64_t
real_now_ns(void) /* the true time also under the virtual clock: a stuck loop cannot move that one */
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * TR_NS_PER_S + now.tv_nsec;
}

/* --- the end of a stop that hangs ------------------------------------------------------------------------------- */

static void
end_now(int signal)
{
	(void)signal;
	_exit(atomic_load(&end_status));
}

/* What was answered is in the log, and nobody else will end the process. */
_Noreturn void
tr_watch_end(const char *fmt, ...)
{
	struct sigaction action = {.sa_handler = end_now};
	struct itimerspec soon = {{0, 0}, {1, 0}};
	char text[4096];
	va_list args;

	sigaction(SELF_SIGNAL, &action, NULL); /* what hangs may be whoever reads our standard error, or a lock */
	if (atomic_load(&self_timer_made))
		timer_settime(self_timer, 0, &soon, NULL);
	va_start(args, fmt);
	vsnprintf(text, sizeof text, fmt, args);
	va_end(args);
	tr_log(TR_LEVEL_ERROR, "watchdog", "%s", text);
	_exit(atomic_load(&end_status));
}

/* Once a second from the end of a stop's time on, in the watchdog's thread, wherever that is. */
static void
tick(int signal)
{
	(void)signal;
	if (looks != ticks_looks) {
		ticks_looks = looks;
		ticks = 0;
	} else if (++ticks >= SELF_TICKS) {
		_exit(atomic_load(&end_status)); /* it hangs in a line of its own */
	}
}

void
tr_watchdog_stops(int64_t ns, int status)
{
	atomic_store(&end_status, status);
	atomic_store(&stop_ns, ns);
}

void
tr_watchdog_stop_asked(void)
{
	int64_t now_ns = real_now_ns(), end_ns = atomic_load(&end_at_ns), ns = atomic_load(&stop_ns);
	int64_t new_ns = end_ns == 0 ? now_ns + ns : tr_min_i64(end_ns, now_ns + AGAIN_NS);
	struct itimerspec each = {{1, 0}, {new_ns / TR_NS_PER_S, new_ns % TR_NS_PER_S}};

	if (ns == 0)
		return;
	atomic_store(&end_at_ns, new_ns);
	if (atomic_load(&self_timer_made))
		timer_settime(self_timer, TIMER_ABSTIME, &each, NULL);
}

/* The thread that a signal is for may hang where it cannot take it. */
static void
look_for_signals(int64_t since_ns)
{
	static const int asking[] = {SIGTERM, SIGINT, SIGHUP};
	static int64_t waiting_ns;
	bool waits = false;
	sigset_t pending;

	sigpending(&pending); /* all are blocked in this thread: those that wait for any */
	for (size_t i = 0; i < TR_COUNT(asking); i++)
		waits |= sigismember(&pending, asking[i]) == 1;
	waiting_ns = waits ? waiting_ns + since_ns : 0;
	if (waiting_ns >= UNTAKEN_NS) {
		tr_watchdog_stop_asked();
		tr_log(TR_LEVEL_WARN, "watchdog", "asked to stop, by a signal that no thread takes");
	}
}

static void
look_for_end(int64_t now_ns, int64_t since_ns, int64_t *over_ns)
{
	int64_t end_ns = atomic_load(&end_at_ns);

	if (end_ns == 0 && atomic_load(&stop_ns) != 0)
		look_for_signals(since_ns);
	if (end_ns == 0 || now_ns <= end_ns)
		return;
	for (const struct tr_host *host = hosts; host != NULL; host = host->next_watched) {
		if (host->refused_for_ns >= REFUSED_NS)
			tr_watch_end("worker %u cannot be interrupted, and the time of the stop is over: the process "
				     "ends at once: %s",
				host->worker, host->stuck);
	}
	*over_ns += since_ns;
	if (*over_ns >= OVER_NS)
		tr_watch_end("the time of the stop was over %.0f s ago, and it does not end: the process ends at once",
			(double)*over_ns / TR_NS_PER_S);
}

static void
make_self_timer(void)
{
	struct sigaction action = {.sa_handler = tick, .sa_flags = SA_RESTART};
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SELF_SIGNAL};
	sigset_t own;

	event._sigev_un._tid = gettid();
	sigaction(SELF_SIGNAL, &action, NULL);
	sigemptyset(&own);
	sigaddset(&own, SELF_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &own, NULL);
	if (timer_create(CLOCK_MONOTONIC, &event, &self_timer) == 0)
		atomic_store(&self_timer_made, true);
	else
		tr_log(TR_LEVEL_WARN, "watchdog", "its own timer cannot be made: %s",
			tr_err_text(tr_err_from_errno(errno)));
}

static void *
watch(void *arg)
{
	int64_t last_ns = real_now_ns(), over_ns = 0;

	pthread_setname_np(pthread_self(), "watchdog");
	make_self_timer();
	pthread_mutex_lock(&mutex);
	while (!stopping) {
		int64_t now_ns = real_now_ns(), since_ns = now_ns - last_ns;

		if (since_ns > 2 * LOOK_NS) /* this thread did not run either: a pause of the process or the machine */
			since_ns = 2 * LOOK_NS;
		last_ns = now_ns;
		looks = looks % 1000 + 1;
		for (struct tr_host *host = hosts; host != NULL; host = host->next_watched)
			look(host, since_ns);
		look_for_end(now_ns, since_ns, &over_ns);
		tr_stuck_look(since_ns, over_ns > 0);
		int64_t next_ns = now_ns + LOOK_NS;
		struct timespec next = {next_ns / TR_NS_PER_S, next_ns % TR_NS_PER_S};
		pthread_cond_timedwait(&changed, &mutex, &next);
	}
	pthread_mutex_unlock(&mutex);
	if (atomic_exchange(&self_timer_made, false))
		timer_delete(self_timer);
	return arg;
}

void
tr_watch_add(struct tr_host *host)
{
	pthread_mutex_lock(&mutex);
	host->next_watched = hosts;
	hosts = host;
	pthread_mutex_unlock(&mutex);
}

void
tr_watch_remove(struct tr_host *host)
{
	pthread_mutex_lock(&mutex);
	for (struct tr_host **at = &hosts; *at != NULL; at = &(*at)->next_watched) {
		if (*at == host) {
			*at = host->next_watched;
			break;
		}
	}
	pthread_mutex_unlock(&mutex);
}

int
tr_watchdog_start(void)
{
	struct sigaction action = {.sa_handler = interrupt, .sa_flags = SA_RESTART};
	pthread_condattr_t attr;
	sigset_t all, old;

	if (running)
		return TR_OK;
	sigemptyset(&action.sa_mask);
	if (sigaction(SIGURG, &action, NULL) != 0)
		return tr_err_from_errno(errno);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&changed, &attr);
	pthread_condattr_destroy(&attr);
	stopping = false;
	atomic_store(&end_at_ns, 0);
	atomic_store(&stop_ns, 0);
	tr_stuck_init();
	sigfillset(&all); /* the process's signals are for its main thread */
	pthread_sigmask(SIG_BLOCK, &all, &old);
	int err = pthread_create(&thread, NULL, watch, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err != 0) {
		pthread_cond_destroy(&changed);
		return tr_err_from_errno(err);
	}
	running = true;
	return TR_OK;
}

void
tr_watchdog_stop(void)
{
	if (!running)
		return;
	pthread_mutex_lock(&mutex);
	stopping = true;
	pthread_cond_signal(&changed);
	pthread_mutex_unlock(&mutex);
	pthread_join(thread, NULL);
	pthread_cond_destroy(&changed);
	running = false;
}
