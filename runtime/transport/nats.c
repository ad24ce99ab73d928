#include "transport/nats.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "transport/nats_internal.h"

#define IDLE_NS (60 * TR_NS_PER_S) /* an unused connection is kept for the next client */
#define WRITE_MS 4000
#define END_S 12 /* for the threads to end: a write that hangs and what libnats flushes at a close */

void
tr_nats_wake(struct tr_nats *nats)
{
	static const uint64_t one = 1;

	/* an eventfd is full only after 2^64 wakes that nobody saw */
	if (write(nats->fd, &one, sizeof one) < 0)
		tr_log(TR_LEVEL_ERROR, "nats", "eventfd: %s", strerror(errno));
}

/* --- the loop -------------------------------------------------------------------------------------------------- */

static void
connection_free(struct tr_nats_connection *connection)
{
	pthread_cond_destroy(&connection->work);
	tr_buf_free(&connection->header);
	free(connection->entries);
	free(connection->texts);
	free(connection->id);
	free(connection);
}

static void
free_ended(struct tr_nats *nats)
{
	struct tr_nats_connection *ended, *next;

	pthread_mutex_lock(&nats->lock);
	ended = nats->ended_connections;
	nats->ended_connections = NULL;
	pthread_mutex_unlock(&nats->lock);
	for (; ended != NULL; ended = next) {
		next = ended->ended_next;
		pthread_join(ended->thread, NULL); /* it has only to return; OpenSSL keeps something a thread */
		connection_free(ended);
	}
}

static void
readable(struct ev_loop *ev, ev_io *watcher, int revents)
{
	struct tr_nats *nats = tr_container_of(watcher, struct tr_nats, readable);
	uint64_t seen;

	if (read(nats->fd, &seen, sizeof seen) < 0 && errno != EAGAIN)
		tr_log(TR_LEVEL_ERROR, "nats", "eventfd: %s", strerror(errno));
	for (;;) { /* one by one: done() may cancel the next */
		struct tr_nats_batch *batch;
		bool cancelled = false, busy = false;

		pthread_mutex_lock(&nats->lock);
		batch = nats->done;
		if (batch != NULL) {
			nats->done = batch->line_next;
			if (nats->done == NULL)
				nats->done_end = &nats->done;
			batch->stage = TR_NATS_BUILDING; /* in no list */
			cancelled = batch->cancelled;
			busy = batch->busy;
		}
		pthread_mutex_unlock(&nats->lock);
		if (batch == NULL)
			break;
		tr_nats_batch_unlink(batch);
		if (!cancelled)
			batch->pub.done(&batch->pub);
		else if (!busy) /* else it comes back once more */
			tr_nats_batch_free(batch);
	}
	free_ended(nats);
}

/* --- connections ------------------------------------------------------------------------------------------------ */

static struct tr_str *
text_at(struct tr_nats_settings *settings, uint32_t index)
{
	struct tr_str *const texts[] = {&settings->username, &settings->password, &settings->token,
		&settings->credentials, &settings->name, &settings->inbox_prefix, &settings->ca_file,
		&settings->cert_file, &settings->key_file};

	if (index < settings->server_count)
		return &settings->servers[index];
	index -= settings->server_count;
	return index < TR_COUNT(texts) ? texts[index] : NULL;
}

/* The settings as one text: equal texts, one connection. */
static char *
identify(const struct tr_nats_settings *from)
{
	struct tr_nats_settings settings = *from;
	struct tr_buf out = {0};
	const struct tr_str *text;

	for (uint32_t i = 0; (text = text_at(&settings, i)) != NULL; i++) {
		tr_buf_addf(&out, "%zd:", text->data != NULL ? (ssize_t)text->len : (ssize_t)-1);
		if (text->data != NULL)
			tr_buf_add_str(&out, *text);
	}
	tr_buf_addf(&out, "%u,%d%d%d%d%d,%u,%u,%lld,%lld,%lld", from->server_count, from->tls, from->no_echo,
		from->ignore_discovered, from->retain_order, from->retry_connect, from->max_reconnects,
		from->pending_max, (long long)from->connect_timeout_ns, (long long)from->ping_interval_ns,
		(long long)from->request_timeout_ns);
	tr_buf_addc(&out, '\0');
	if (out.failed)
		tr_buf_free(&out);
	return out.data;
}

/* Copies all texts, a NUL behind each. */
static bool
keep_settings(struct tr_nats_connection *connection, const struct tr_nats_settings *from)
{
	struct tr_nats_settings *to = &connection->settings;
	struct tr_str *text;
	size_t size = 1;
	char *at;

	*to = *from;
	for (uint32_t i = 0; (text = text_at(to, i)) != NULL; i++)
		size += text->len + 1;
	at = connection->texts = malloc(size);
	if (at == NULL)
		return false;
	for (uint32_t i = 0; (text = text_at(to, i)) != NULL; i++) {
		if (text->data == NULL)
			continue;
		memcpy(at, text->data, text->len);
		at[text->len] = '\0';
		text->data = at;
		at += text->len + 1;
	}
	return true;
}

static int
connection_make(struct tr_nats *nats, const struct tr_nats_settings *settings, struct tr_nats_connection *connection)
{
	uint32_t count = settings->pending_max;
	int err;

	connection->nats = nats;
	connection->line_end = &connection->line;
	connection->entries = calloc(count, sizeof connection->entries[0]);
	if (connection->entries == NULL || !keep_settings(connection, settings))
		return TR_ENOMEM;
	for (uint32_t i = 0; i < count; i++)
		connection->entries[i].next_free = i + 1 < count ? i + 1 : TR_NATS_NO_ENTRY;
	pthread_mutex_lock(&nats->lock);
	err = nats->ending ? TR_ECLOSED : tr_nats_thread_start(connection);
	nats->threads += err == TR_OK;
	pthread_mutex_unlock(&nats->lock);
	return err;
}

int
tr_nats_open(struct tr_nats *nats, const struct tr_nats_settings *settings, struct tr_nats_connection **out)
{
	char *id = identify(settings);
	struct tr_nats_connection *connection;
	bool dead = true;
	int err;

	*out = NULL;
	if (id == NULL)
		return TR_ENOMEM;
	for (connection = nats->connections; connection != NULL; connection = connection->next) {
		if (strcmp(connection->id, id) != 0)
			continue;
		pthread_mutex_lock(&nats->lock);
		dead = connection->dead;
		pthread_mutex_unlock(&nats->lock);
		if (dead)
			continue;
		free(id);
		tr_timer_stop(tr_loop_wheel(nats->loop), &connection->idle);
		connection->refs++;
		*out = connection;
		return TR_OK;
	}
	connection = calloc(1, sizeof *connection);
	if (connection == NULL) {
		free(id);
		return TR_ENOMEM;
	}
	connection->id = id;
	pthread_cond_init(&connection->work, NULL);
	err = connection_make(nats, settings, connection);
	if (err != TR_OK) {
		connection_free(connection);
		return err;
	}
	connection->refs = 1;
	connection->next = nats->connections;
	connection->prev = &nats->connections;
	if (nats->connections != NULL)
		nats->connections->prev = &connection->next;
	nats->connections = connection;
	*out = connection;
	return TR_OK;
}

/* Its thread closes it and gives it back to be freed. Nothing refers to it, or tr_nats_free() runs. */
static void
connection_end(struct tr_nats_connection *connection)
{
	struct tr_nats *nats = connection->nats;

	*connection->prev = connection->next;
	if (connection->next != NULL)
		connection->next->prev = connection->prev;
	tr_timer_stop(tr_loop_wheel(nats->loop), &connection->idle);
	pthread_mutex_lock(&nats->lock);
	connection->ending = true;
	pthread_cond_signal(&connection->work);
	pthread_mutex_unlock(&nats->lock);
}

static void
idle_too_long(struct tr_timer *timer)
{
	connection_end(tr_container_of(timer, struct tr_nats_connection, idle));
}

void
tr_nats_unref(struct tr_nats_connection *connection)
{
	if (connection != NULL && --connection->refs == 0 && !connection->nats->ending)
		tr_timer_start(tr_loop_wheel(connection->nats->loop), &connection->idle, IDLE_NS, idle_too_long);
}

/* --- life ------------------------------------------------------------------------------------------------------- */

int
tr_nats_new(struct tr_loop *loop, struct tr_nats **out)
{
	static const char messages[] = "messages that were published to NATS",
			  flight[] = "messages that await their acknowledgement by NATS",
			  opened[] = "NATS connections opened";
	struct tr_nats *nats = calloc(1, sizeof *nats);

	*out = nats;
	if (nats == NULL)
		return TR_ENOMEM;
	nats->loop = loop;
	nats->write_ms = WRITE_MS;
	nats->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (nats->fd < 0) {
		free(nats);
		*out = NULL;
		return TR_EIO;
	}
	nats->done_end = &nats->done;
	pthread_mutex_init(&nats->lock, NULL);
	pthread_cond_init(&nats->ended, NULL);
	nats->acked = tr_metric_get(TR_COUNTER, "nats_messages", messages, "result", "acknowledged", NULL);
	nats->failed = tr_metric_get(TR_COUNTER, "nats_messages", messages, "result", "failed", NULL);
	nats->in_flight = tr_metric_get(TR_GAUGE, "nats_in_flight", flight, NULL);
	nats->connects = tr_metric_get(TR_COUNTER, "nats_connections", opened, NULL);
	ev_io_init(&nats->readable, readable, nats->fd, EV_READ);
	ev_io_start(tr_loop_ev(loop), &nats->readable);
	return TR_OK;
}

/* Waits for the threads; false: some hang, and what they use must stay. */
static bool
await_threads(struct tr_nats *nats)
{
	struct timespec until;
	uint32_t left;

	clock_gettime(CLOCK_REALTIME, &until); /* real threads, also under the virtual clock */
	until.tv_sec += END_S;
	pthread_mutex_lock(&nats->lock);
	while (nats->threads > 0) {
		if (pthread_cond_timedwait(&nats->ended, &nats->lock, &until) != 0)
			break;
	}
	left = nats->threads;
	pthread_mutex_unlock(&nats->lock);
	if (left > 0)
		tr_log(TR_LEVEL_WARN, "nats", "%u connections did not end within %d s", left, END_S);
	return left == 0;
}

/* Calls that nobody will hear of. Those that are cancelled are freed, the others by their owners. */
static void
give_up_calls(struct tr_nats *nats, bool ended)
{
	struct tr_nats_batch *batch;

	pthread_mutex_lock(&nats->lock);
	for (batch = nats->calls; batch != NULL; batch = batch->next) {
		for (uint32_t i = 0; i < batch->pub.count; i++) {
			if (!batch->slots[i].told)
				tr_nats_release(batch->connection, &batch->slots[i]);
			batch->slots[i].told = true;
		}
		tr_nats_leave_line(batch);
	}
	pthread_mutex_unlock(&nats->lock);
	if (!ended)
		return;
	while (nats->done != NULL) {
		batch = nats->done;
		nats->done = batch->line_next;
		if (batch->prev == NULL) /* its owner has freed it while the thread used it */
			tr_nats_batch_free(batch);
	}
	while (nats->calls != NULL) {
		batch = nats->calls;
		tr_nats_batch_unlink(batch);
		batch->connection = NULL;
		if (batch->cancelled)
			tr_nats_batch_free(batch);
	}
}

void
tr_nats_free(struct tr_nats *nats)
{
	bool ended;

	if (nats == NULL)
		return;
	nats->ending = true;
	ev_io_stop(tr_loop_ev(nats->loop), &nats->readable);
	while (nats->connections != NULL)
		connection_end(nats->connections);
	ended = await_threads(nats);
	give_up_calls(nats, ended);
	if (!ended)
		return; /* a thread that hangs uses it */
	free_ended(nats);
	close(nats->fd);
	pthread_mutex_destroy(&nats->lock);
	pthread_cond_destroy(&nats->ended);
	tr_metric_unref(nats->acked);
	tr_metric_unref(nats->failed);
	tr_metric_unref(nats->in_flight);
	tr_metric_unref(nats->connects);
	free(nats);
}
