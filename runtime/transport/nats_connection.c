/* The thread of one NATS connection: connects, and hands messages to libnats one by one as long as there is room for
 * their acknowledgements. */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#include "base/clock.h"
#include "base/diag.h"
#include "transport/nats_internal.h"

#define RETRY_MIN_MS 100
#define RETRY_MAX_MS 4000

void
tr_nats_why(struct tr_nats_connection *connection, int err, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(connection->why, sizeof connection->why, fmt, args);
	va_end(args);
	connection->why_err = err;
}

/* --- the lock is held by all below, and released while they wait ------------------------------------------------- */

static void
pause_ms(struct tr_nats_connection *connection, int64_t ms)
{
	struct timespec until;
	int64_t ns;

	clock_gettime(CLOCK_REALTIME, &until);
	ns = until.tv_nsec + ms * TR_NS_PER_MS;
	until.tv_sec += ns / TR_NS_PER_S;
	until.tv_nsec = ns % TR_NS_PER_S;
	while (!connection->ending && pthread_cond_timedwait(&connection->work, &connection->nats->lock, &until) == 0)
		;
}

/* It is not connected and libnats does not try. */
static void
connect_once(struct tr_nats_connection *connection)
{
	const struct tr_nats_settings *settings = &connection->settings;
	struct tr_nats *nats = connection->nats;
	bool retry = settings->retry_connect || connection->was_connected, ok;

	connection->closed = false;
	connection->connected = false;
	pthread_mutex_unlock(&nats->lock);
	tr_nats_client_close(connection, false);
	ok = tr_nats_client_connect(connection);
	pthread_mutex_lock(&nats->lock);
	if (ok) {
		connection->was_connected = true;
		connection->failures = 0;
		tr_metric_add(nats->connects, 1);
		return;
	}
	connection->failures++;
	if (!retry) {
		tr_nats_fail_line(connection, connection->why_err, connection->why);
	} else if (settings->max_reconnects > 0 && connection->failures > settings->max_reconnects) {
		connection->dead = true;
	} else {
		int64_t ms = RETRY_MIN_MS;

		for (uint32_t i = 1; i < connection->failures && ms < RETRY_MAX_MS; i++)
			ms *= 2;
		pause_ms(connection, tr_min_i64(ms, RETRY_MAX_MS));
	}
}

static void
send_one(struct tr_nats_connection *connection, struct tr_nats_batch *batch)
{
	struct tr_nats *nats = connection->nats;
	uint32_t index = batch->sent++, generation = 0, entry = TR_NATS_NO_ENTRY;
	struct tr_nats_slot *slot = &batch->slots[index];
	natsStatus status;

	if (slot->await_ack) {
		struct tr_nats_entry *at;

		entry = slot->entry = connection->free_entry;
		at = &connection->entries[entry];
		connection->free_entry = at->next_free;
		at->batch = batch;
		at->index = index;
		generation = at->generation;
		connection->in_flight++;
		tr_metric_add(nats->in_flight, 1);
	}
	if (batch->sent == batch->pub.count)
		tr_nats_leave_line(batch);
	batch->busy = true;
	pthread_mutex_unlock(&nats->lock);
	status = tr_nats_client_publish(connection, batch, slot, entry, generation);
	pthread_mutex_lock(&nats->lock);
	batch->busy = false;
	connection->stalled = status != NATS_OK;
	if (slot->told) {
		if (batch->cancelled && batch->stage == TR_NATS_BUILDING)
			tr_nats_give_back(nats, batch); /* its owner has let go of it meanwhile */
	} else if (status != NATS_OK) {
		connection->closed = connection->closed || status == NATS_CONNECTION_CLOSED;
		tr_nats_tell_error(batch, index, tr_nats_err(status), status == NATS_MAX_PAYLOAD, "%s",
			status == NATS_MAX_PAYLOAD ? "the message is larger than the server's max_payload"
						   : natsStatus_GetText(status));
	} else if (!slot->await_ack) {
		struct tr_nats_result result = {.err = TR_OK};
		struct tr_buf none = {0};

		tr_nats_tell(batch, index, &result, &none);
	}
}

/* Does one thing for the first in line. False: there is nothing to do. */
static bool
step(struct tr_nats_connection *connection)
{
	const struct tr_nats_settings *settings = &connection->settings;
	struct tr_nats_batch *batch = connection->line;
	struct tr_nats_result ok = {.err = TR_OK};
	struct tr_buf none = {0};

	if (connection->closed && settings->max_reconnects > 0)
		connection->dead = true;
	if (connection->dead) {
		tr_nats_fail_line(connection, connection->why_err, connection->why);
		return false;
	}
	if (connection->nc == NULL || connection->closed) {
		if (batch == NULL && !settings->retry_connect && !connection->was_connected)
			return false;
		connect_once(connection);
		return true;
	}
	if (batch == NULL || !connection->connected)
		return false;
	if (batch->added == 0) {
		tr_nats_tell(batch, 0, &ok, &none);
	} else if (batch->sent == batch->pub.count) {
		tr_nats_leave_line(batch);
	} else if (batch->slots[batch->sent].told) {
		batch->sent++;
	} else if (batch->slots[batch->sent].await_ack && connection->in_flight >= settings->pending_max) {
		return false;
	} else {
		send_one(connection, batch);
	}
	return true;
}

static void *
connection_main(void *arg)
{
	struct tr_nats_connection *connection = arg;
	struct tr_nats *nats = connection->nats;
	bool flush;

	tr_nats_register(connection);
	pthread_mutex_lock(&nats->lock);
	while (!connection->ending) {
		if (!step(connection))
			pthread_cond_wait(&connection->work, &nats->lock);
	}
	flush = connection->connected && !connection->stalled;
	pthread_mutex_unlock(&nats->lock);
	tr_nats_client_close(connection, flush);
	tr_nats_unregister(connection);
	nats_ReleaseThreadMemory();
	pthread_mutex_lock(&nats->lock);
	connection->ended_next = nats->ended_connections;
	nats->ended_connections = connection;
	nats->threads--;
	tr_nats_wake(nats);
	pthread_cond_broadcast(&nats->ended);
	pthread_mutex_unlock(&nats->lock);
	return NULL;
}

int
tr_nats_thread_start(struct tr_nats_connection *connection)
{
	sigset_t all, old;
	int errnum;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are for the workers; libnats' threads inherit this */
	errnum = pthread_create(&connection->thread, NULL, connection_main, connection);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return errnum != 0 ? tr_err_from_errno(errnum) : TR_OK;
}
