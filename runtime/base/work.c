#include "base/work.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/pulse.h"

#define FINISH_S 5 /* real time that the end of a loop waits for what runs */

struct tr_work_port {
	struct tr_work_port *next;
	struct tr_loop *loop;                /* NULL: finished, and kept for the mail only */
	size_t queued, running;              /* not ended */
	struct tr_work *ended, **ended_last; /* done() is still to come */
	struct tr_mail mail;
	struct tr_defer defer;
	bool posted;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards all of this */
static pthread_cond_t more = PTHREAD_COND_INITIALIZER;   /* there is something in the queue */
static pthread_cond_t ended = PTHREAD_COND_INITIALIZER;  /* a thread has ended a work */
static struct tr_work *queue, **queue_last = &queue;
static size_t queue_length, thread_count, idle_count;
static struct tr_work_port *ports;

/* Calls done() for all that has ended. */
static void
deliver(struct tr_work *work)
{
	for (struct tr_work *next; work != NULL; work = next) {
		next = work->next;
		tr_hold_drop(); /* done() may wake a task, which may run for long */
		work->done(work);
	}
}

static struct tr_work *
take_ended(struct tr_work_port *port)
{
	struct tr_work *first = port->ended;

	port->ended = NULL;
	port->ended_last = &port->ended;
	return first;
}

static void
remove_port(struct tr_work_port *port)
{
	for (struct tr_work_port **at = &ports; *at != NULL; at = &(*at)->next) {
		if (*at == port) {
			*at = port->next;
			break;
		}
	}
	free(port);
}

/* Later in the turn than the mail, so that its hold is not out while done() runs what waited. */
static void
deliver_later(struct tr_defer *defer)
{
	struct tr_work_port *port = tr_container_of(defer, struct tr_work_port, defer);
	struct tr_work *first;

	pthread_mutex_lock(&lock);
	first = take_ended(port);
	pthread_mutex_unlock(&lock);
	deliver(first);
}

static void
mail_came(struct tr_mail *mail)
{
	struct tr_work_port *port = tr_container_of(mail, struct tr_work_port, mail);
	struct tr_loop *loop = port->loop;

	pthread_mutex_lock(&lock);
	port->posted = false;
	if (loop == NULL && port->running == 0)
		remove_port(port);
	pthread_mutex_unlock(&lock);
	if (loop != NULL)
		tr_loop_defer(loop, &port->defer, deliver_later);
}

/* The lock is held. */
static void
give_back(struct tr_work *work)
{
	struct tr_work_port *port = work->port;

	if (port->loop == NULL) { /* tr_work_finish() did not want to wait so long */
		tr_hold_drop();
		return;
	}
	work->next = NULL;
	*port->ended_last = work;
	port->ended_last = &work->next;
	if (!port->posted) {
		port->posted = true;
		tr_loop_post(port->loop, &port->mail);
	}
	pthread_cond_broadcast(&ended);
}

/* The lock is held, and the queue is not empty. */
static struct tr_work *
take_queued(void)
{
	struct tr_work *work = queue;

	queue = work->next;
	if (queue == NULL)
		queue_last = &queue;
	queue_length--;
	work->port->queued--;
	return work;
}

static void *
thread_main(void *arg)
{
	pthread_mutex_lock(&lock);
	for (;;) {
		while (queue == NULL) {
			idle_count++;
			pthread_cond_wait(&more, &lock);
			idle_count--;
		}
		struct tr_work *work = take_queued();
		work->port->running++;
		pthread_mutex_unlock(&lock);
		work->run(work);
		pthread_mutex_lock(&lock);
		work->port->running--;
		give_back(work);
	}
	return NULL;
}

/* The lock is held. False: there is no thread at all. */
static bool
want_thread(void)
{
	sigset_t all, old;
	pthread_t thread;

	if (idle_count >= queue_length || thread_count == TR_WORK_THREADS)
		return true;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are for the workers */
	if (pthread_create(&thread, NULL, thread_main, NULL) == 0) {
		pthread_detach(thread);
		thread_count++;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return thread_count > 0;
}

static struct tr_work_port *
port_of(struct tr_loop *loop)
{
	struct tr_work_port *port = ports;

	while (port != NULL && port->loop != loop)
		port = port->next;
	if (port == NULL && (port = calloc(1, sizeof *port)) != NULL) {
		port->loop = loop;
		port->ended_last = &port->ended;
		port->mail.fn = mail_came;
		port->next = ports;
		ports = port;
	}
	return port;
}

int
tr_work_start(struct tr_loop *loop, struct tr_work *work, void (*run)(struct tr_work *work),
	void (*done)(struct tr_work *work))
{
	int err = TR_ENOMEM;

	pthread_mutex_lock(&lock);
	*work = (struct tr_work){.port = port_of(loop), .run = run, .done = done};
	queue_length++;
	if (work->port != NULL && want_thread()) {
		tr_hold_take();
		work->port->queued++;
		*queue_last = work;
		queue_last = &work->next;
		pthread_cond_signal(&more);
		err = TR_OK;
	} else {
		queue_length--;
	}
	pthread_mutex_unlock(&lock);
	return err;
}

bool
tr_work_take_back(struct tr_work *work)
{
	struct tr_work **at;
	bool found;

	pthread_mutex_lock(&lock);
	for (at = &queue; *at != NULL && *at != work; at = &(*at)->next)
		;
	found = *at != NULL;
	if (found) {
		*at = work->next;
		if (queue_last == &work->next)
			queue_last = at;
		queue_length--;
		work->port->queued--;
	}
	pthread_mutex_unlock(&lock);
	if (found)
		tr_hold_drop();
	return found;
}

/* The lock is held: takes those of the port out of the queue, as ended. */
static void
skip_queued(struct tr_work_port *port)
{
	for (struct tr_work **at = &queue; *at != NULL;) {
		struct tr_work *work = *at;

		if (work->port != port) {
			at = &work->next;
			continue;
		}
		*at = work->next;
		if (queue_last == &work->next)
			queue_last = at;
		queue_length--;
		port->queued--;
		work->skipped = true;
		work->next = NULL;
		*port->ended_last = work;
		port->ended_last = &work->next;
	}
}

/* The lock is held. A disk that does not answer must not keep the process. */
static bool
wait_for_running(struct tr_work_port *port)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += FINISH_S;
	tr_pulse_rest();
	while (port->running > 0)
		if (pthread_cond_timedwait(&ended, &lock, &until) != 0)
			break;
	tr_pulse_work();
	return port->running == 0;
}

void
tr_work_finish(struct tr_loop *loop)
{
	struct tr_work_port *port;
	size_t late = 0;

	pthread_mutex_lock(&lock);
	for (port = ports; port != NULL && port->loop != loop; port = port->next)
		;
	while (port != NULL && (port->queued > 0 || port->running > 0 || port->ended != NULL)) {
		skip_queued(port);
		if (!wait_for_running(port)) {
			late = port->running;
			break;
		}
		struct tr_work *first = take_ended(port);
		pthread_mutex_unlock(&lock);
		deliver(first); /* which may start more */
		pthread_mutex_lock(&lock);
	}
	if (port != NULL) {
		tr_loop_undefer(loop, &port->defer);
		port->loop = NULL; /* its mail, if it is under way, frees the rest; a loop that goes does not run it */
		if (!port->posted && late == 0)
			remove_port(port);
	}
	pthread_mutex_unlock(&lock);
	if (late > 0)
		tr_log(TR_LEVEL_WARN, "work", "%zu operations on files did not end within %d s: left alone", late,
			FINISH_S);
}
