/* The thread of one AMQP connection: takes windows, and keeps heartbeats going between them. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/diag.h"
#include "transport/amqp_internal.h"

void
tr_amqp_connection_interrupt(struct tr_amqp_connection *connection)
{
	if (connection->fd >= 0)
		shutdown(connection->fd, SHUT_RDWR);
}

void
tr_amqp_join_idle(struct tr_amqp_connection *connection)
{
	if (connection->is_idle)
		return;
	connection->is_idle = true;
	connection->idle_next = connection->pool->idle;
	connection->pool->idle = connection;
}

void
tr_amqp_drain_wakes(struct tr_amqp_connection *connection)
{
	uint64_t count;

	if (read(connection->wake_fd, &count, sizeof count) < 0 && errno != EAGAIN)
		tr_log(TR_LEVEL_ERROR, "amqp", "eventfd: %s", strerror(errno));
}

void
tr_amqp_leave_idle(struct tr_amqp_connection *connection)
{
	for (struct tr_amqp_connection **at = &connection->pool->idle; connection->is_idle && *at != NULL;
		at = &(*at)->idle_next) {
		if (*at != connection)
			continue;
		*at = connection->idle_next;
		connection->is_idle = false;
		break;
	}
}

/* Waits for work, with the lock held and released meanwhile. NULL: the thread is to end. */
static struct tr_amqp_batch *
next_window(struct tr_amqp_connection *connection)
{
	struct tr_amqp_pool *pool = connection->pool;
	struct tr_amqp *amqp = pool->amqp;
	const struct tr_amqp_settings *settings = &pool->settings;
	int64_t idle_since_ns = tr_amqp_real_ns();
	struct tr_amqp_batch *window;

	while (!amqp->ending) {
		struct pollfd fds[2] = {
			{.fd = connection->wake_fd, .events = POLLIN}, {.fd = connection->fd, .events = POLLIN}};
		int64_t left_ns = idle_since_ns + settings->idle_timeout_ns - tr_amqp_real_ns();
		int64_t beat_ns = settings->heartbeat_s > 0 ? settings->heartbeat_s * TR_NS_PER_S / 2 : left_ns;

		window = tr_amqp_take(connection);
		if (window != NULL || left_ns <= 0)
			return window;
		tr_amqp_join_idle(connection);
		pthread_mutex_unlock(&amqp->lock);
		poll(fds, connection->state != NULL ? 2 : 1,
			(int)(tr_min_i64(left_ns, tr_max_i64(beat_ns, TR_NS_PER_S)) / TR_NS_PER_MS + 1));
		if (fds[0].revents & POLLIN)
			tr_amqp_drain_wakes(connection);
		tr_amqp_look_after(connection);
		pthread_mutex_lock(&amqp->lock);
	}
	return NULL;
}

static void *
connection_main(void *arg)
{
	struct tr_amqp_connection *connection = arg;
	struct tr_amqp_pool *pool = connection->pool;
	struct tr_amqp *amqp = pool->amqp;
	struct tr_amqp_batch *window;

	pthread_mutex_lock(&amqp->lock);
	while ((window = next_window(connection)) != NULL) {
		tr_amqp_leave_idle(connection);
		connection->busy = connection->state == NULL; /* it connects first */
		pthread_mutex_unlock(&amqp->lock);
		tr_amqp_publish(connection, window);
		pthread_mutex_lock(&amqp->lock);
	}
	tr_amqp_leave_idle(connection);
	connection->busy = true;
	pool->connections--; /* the next call starts another */
	pthread_mutex_unlock(&amqp->lock);
	tr_amqp_close(connection);
	pthread_mutex_lock(&amqp->lock);
	*connection->prev = connection->next;
	if (connection->next != NULL)
		connection->next->prev = connection->prev;
	pool->threads--; /* it may be freed from here on */
	close(connection->wake_fd);
	tr_buf_free(&connection->out);
	pthread_cond_broadcast(&amqp->ended);
	pthread_mutex_unlock(&amqp->lock);
	free(connection);
	return NULL;
}

int
tr_amqp_connection_start(struct tr_amqp_pool *pool)
{
	struct tr_amqp *amqp = pool->amqp;
	struct tr_amqp_connection *connection = calloc(1, sizeof *connection);
	sigset_t all, old;
	pthread_t thread;
	int errnum;

	if (connection == NULL)
		return TR_ENOMEM;
	connection->pool = pool;
	connection->fd = -1;
	connection->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (connection->wake_fd < 0) {
		errnum = errno;
		free(connection);
		return tr_err_from_errno(errnum);
	}
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are for the workers */
	errnum = pthread_create(&thread, NULL, connection_main, connection);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (errnum != 0) {
		close(connection->wake_fd);
		free(connection);
		return tr_err_from_errno(errnum);
	}
	pthread_detach(thread);
	connection->next = amqp->connections;
	connection->prev = &amqp->connections;
	if (amqp->connections != NULL)
		amqp->connections->prev = &connection->next;
	amqp->connections = connection;
	pool->connections++;
	pool->threads++;
	return TR_OK;
}
