#include "transport/amqp_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"

#define WINDOW_MAX 1000                /* messages that a connection takes at once */
#define WINDOW_BYTES (8 * 1024 * 1024) /* unless a single call has more */
#define END_S 5                        /* for the threads to end */

/* --- the line -------------------------------------------------------------------------------------------------- */

/* lock held */
static bool
leave_line(struct tr_amqp_batch *batch)
{
	struct tr_amqp_pool *pool = batch->pool;

	for (struct tr_amqp_batch **at = &pool->line; *at != NULL; at = &(*at)->line_next) {
		if (*at != batch)
			continue;
		*at = batch->line_next;
		if (*at == NULL)
			pool->line_end = at;
		return true;
	}
	return false;
}

/* lock held */
static void
add_done(struct tr_amqp *amqp, struct tr_amqp_batch *batch)
{
	batch->stage = TR_AMQP_DONE;
	batch->taker = NULL;
	batch->line_next = NULL;
	*amqp->done_end = batch;
	amqp->done_end = &batch->line_next;
}

void
tr_amqp_wake(int fd)
{
	static const uint64_t one = 1;

	/* an eventfd is full only after 2^64 wakes that nobody saw */
	if (write(fd, &one, sizeof one) < 0)
		tr_log(TR_LEVEL_ERROR, "amqp", "eventfd: %s", strerror(errno));
}

void
tr_amqp_give_back(struct tr_amqp_connection *connection, struct tr_amqp_batch *calls, const struct tr_amqp_batch *first)
{
	struct tr_amqp *amqp = connection->pool->amqp;
	bool wake_loop;

	pthread_mutex_lock(&amqp->lock);
	wake_loop = amqp->done == NULL;
	while (calls != NULL) {
		struct tr_amqp_batch *next = calls->line_next;

		connection->messages -= calls->pub.count;
		connection->bytes -= calls->bytes;
		add_done(amqp, calls);
		calls = next;
	}
	connection->first = first;
	pthread_mutex_unlock(&amqp->lock);
	if (wake_loop)
		tr_amqp_wake(amqp->fd);
}

void
tr_amqp_will_look(struct tr_amqp_connection *connection, bool will)
{
	pthread_mutex_lock(&connection->pool->amqp->lock);
	connection->busy = !will;
	pthread_mutex_unlock(&connection->pool->amqp->lock);
}

/* Goes the call with what the connection has? One exchange a window: a broker closes the channel of who names one that
 * is not there. */
static bool
fits(const struct tr_amqp_connection *connection, const struct tr_amqp_batch *batch)
{
	const struct tr_amqp_batch *first = connection->first;
	const struct tr_amqp_slot *slot = &batch->slots[0];

	if (first == NULL)
		return true;
	return !slot->probe && !first->slots[0].probe && slot->exchange.len == first->slots[0].exchange.len &&
	       memcmp(slot->exchange.bytes, first->slots[0].exchange.bytes, slot->exchange.len) == 0 &&
	       batch->pub.publish_timeout_ns == first->pub.publish_timeout_ns &&
	       batch->pub.patient == first->pub.patient && connection->held_up[0] == '\0' &&
	       connection->messages + batch->pub.count <= WINDOW_MAX &&
	       connection->bytes + batch->bytes <= WINDOW_BYTES;
}

struct tr_amqp_batch *
tr_amqp_take(struct tr_amqp_connection *connection)
{
	struct tr_amqp_pool *pool = connection->pool;
	struct tr_amqp_batch *calls = NULL, **end = &calls, *batch;

	while ((batch = pool->line) != NULL && fits(connection, batch)) {
		pool->line = batch->line_next;
		if (pool->line == NULL)
			pool->line_end = &pool->line;
		connection->messages += batch->pub.count;
		connection->bytes += batch->bytes;
		if (connection->first == NULL)
			connection->first = batch;
		batch->line_next = NULL;
		batch->stage = TR_AMQP_TAKEN;
		batch->taker = connection;
		*end = batch;
		end = &batch->line_next;
	}
	return calls;
}

/* --- deadlines ---------------------------------------------------------------------------------------------- */

static void
fail_all(struct tr_amqp_batch *batch, int err, const char *text)
{
	for (uint32_t i = 0; i < batch->pub.count; i++) {
		struct tr_amqp_slot *slot = &batch->slots[i];

		slot->told = true;
		slot->status = TR_AMQP_FAILED;
		slot->err = err;
		slot->text = (amqp_bytes_t){strlen(text), (void *)text}; /* a literal */
	}
}

/* A thread that hangs in its socket, which rabbitmq-c cannot bound, gets out of it when that is cut; again, if it has
 * another by then, because its window is being parted. */
static void
taken_too_long(struct tr_timer *timer)
{
	struct tr_amqp_batch *batch = tr_container_of(timer, struct tr_amqp_batch, timer);
	struct tr_amqp *amqp = batch->pool->amqp;
	bool taken;

	pthread_mutex_lock(&amqp->lock);
	taken = batch->stage == TR_AMQP_TAKEN;
	if (taken && !tr_amqp_is_waited_for(batch))
		tr_amqp_connection_interrupt(batch->taker);
	pthread_mutex_unlock(&amqp->lock);
	if (taken)
		tr_timer_start(tr_loop_wheel(amqp->loop), timer, batch->pub.publish_timeout_ns + TR_AMQP_GRACE_NS,
			taken_too_long);
}

static void
waited_too_long(struct tr_timer *timer)
{
	struct tr_amqp_batch *batch = tr_container_of(timer, struct tr_amqp_batch, timer);
	struct tr_amqp *amqp = batch->pool->amqp;
	const struct tr_amqp_settings *settings = &batch->pool->settings;
	bool first = false, failed = false, waits;

	pthread_mutex_lock(&amqp->lock);
	waits = batch->stage == TR_AMQP_WAITING && tr_amqp_is_held_up(batch);
	if (!waits && batch->stage == TR_AMQP_WAITING && leave_line(batch)) {
		fail_all(batch, TR_ETIMEDOUT, "deadline has elapsed: no connection became free within wait_timeout");
		failed = true;
		first = amqp->done == NULL;
		add_done(amqp, batch);
	}
	pthread_mutex_unlock(&amqp->lock);
	if (first)
		tr_amqp_wake(amqp->fd);
	if (waits)
		tr_timer_start(tr_loop_wheel(amqp->loop), timer, batch->pub.wait_timeout_ns, waited_too_long);
	else if (!failed)
		tr_timer_start(tr_loop_wheel(amqp->loop), timer,
			settings->connect_timeout_ns * settings->host_count + batch->pub.publish_timeout_ns +
				TR_AMQP_GRACE_NS,
			taken_too_long);
}

/* --- start, end ---------------------------------------------------------------------------------------------- */

/* Sees to it that a connection takes the call. Returns what to wake, -1: nothing. */
static int
find_taker(struct tr_amqp_pool *pool, struct tr_amqp_batch *batch)
{
	struct tr_amqp *amqp = pool->amqp;
	int err;

	for (struct tr_amqp_connection *each = pool->idle; each != NULL; each = each->idle_next) {
		if (!fits(each, batch))
			continue;
		tr_amqp_leave_idle(each);
		return each->wake_fd;
	}
	for (struct tr_amqp_connection *each = amqp->connections; each != NULL; each = each->next) {
		if (each->pool == pool && !each->is_idle && !each->busy && fits(each, batch))
			return -1; /* it looks before it waits */
	}
	if (pool->connections >= pool->settings.pool_size)
		return -1;
	err = tr_amqp_connection_start(pool);
	if (err != TR_OK && pool->connections == 0 && leave_line(batch)) { /* else another will take it */
		fail_all(batch, err, "a thread for the connection cannot be started");
		if (amqp->done == NULL)
			tr_amqp_wake(amqp->fd);
		add_done(amqp, batch);
	}
	return -1;
}

void
tr_amqp_call_start(struct tr_amqp_call *call)
{
	struct tr_amqp_batch *batch = tr_amqp_batch_of(call);
	struct tr_amqp_pool *pool = batch->pool;
	struct tr_amqp *amqp = pool->amqp;
	int wake_fd;

	batch->held = true;
	tr_hold_take(); /* brokers live in real time */
	tr_timer_start(tr_loop_wheel(amqp->loop), &batch->timer, call->wait_timeout_ns, waited_too_long);
	pthread_mutex_lock(&amqp->lock);
	batch->stage = TR_AMQP_WAITING;
	batch->line_next = NULL;
	*pool->line_end = batch;
	pool->line_end = &batch->line_next;
	if (tr_amqp_is_held_up(batch)) { /* it hears of it in the next turn */
		amqp->held_up_changed = true;
		tr_amqp_wake(amqp->fd);
	}
	wake_fd = find_taker(pool, batch);
	if (wake_fd >= 0)
		tr_amqp_wake(wake_fd); /* under the lock: afterwards the connection may be gone */
	pthread_mutex_unlock(&amqp->lock);
}

void
tr_amqp_call_cancel(struct tr_amqp_call *call)
{
	struct tr_amqp_batch *batch = tr_amqp_batch_of(call);
	struct tr_amqp *amqp = batch->pool != NULL ? batch->pool->amqp : NULL;
	bool taken = false;

	if (amqp != NULL) { /* else tr_amqp_free() has given it up */
		pthread_mutex_lock(&amqp->lock);
		if (batch->stage == TR_AMQP_WAITING)
			leave_line(batch);
		taken = batch->stage == TR_AMQP_TAKEN || batch->stage == TR_AMQP_DONE;
		pthread_mutex_unlock(&amqp->lock);
	}
	if (!taken) {
		tr_amqp_call_free(call);
		return;
	}
	batch->cancelled = true; /* freed when it comes back */
	if (batch->held)
		tr_hold_drop();
	batch->held = false;
}

static void
count(struct tr_amqp *amqp, const struct tr_amqp_batch *batch)
{
	uint32_t acked = 0;

	for (uint32_t i = 0; i < batch->pub.count; i++)
		acked += batch->slots[i].status == TR_AMQP_ACKED;
	tr_metric_add(amqp->published, acked);
	tr_metric_add(amqp->refused, batch->pub.count - acked);
}

static void
readable(struct ev_loop *ev, ev_io *watcher, int revents)
{
	struct tr_amqp *amqp = tr_container_of(watcher, struct tr_amqp, readable);
	struct tr_amqp_batch *batch;
	uint64_t seen;

	if (read(amqp->fd, &seen, sizeof seen) < 0 && errno != EAGAIN)
		tr_log(TR_LEVEL_ERROR, "amqp", "eventfd: %s", strerror(errno));
	tr_amqp_tell_held_up(amqp);
	for (;;) { /* one by one: done() may cancel the next */
		pthread_mutex_lock(&amqp->lock);
		batch = amqp->done;
		if (batch != NULL) {
			amqp->done = batch->line_next;
			if (amqp->done == NULL)
				amqp->done_end = &amqp->done;
			batch->stage = TR_AMQP_BUILDING; /* in no list */
		}
		pthread_mutex_unlock(&amqp->lock);
		if (batch == NULL)
			return;
		tr_amqp_batch_rest(batch);
		count(amqp, batch);
		if (batch->cancelled)
			tr_amqp_call_free(&batch->pub);
		else
			batch->pub.done(&batch->pub);
	}
}

int
tr_amqp_new(struct tr_loop *loop, struct tr_amqp **out)
{
	static const char messages[] = "messages that were published over AMQP", opened[] = "AMQP connections opened";
	struct tr_amqp *amqp = calloc(1, sizeof *amqp);

	*out = amqp;
	if (amqp == NULL)
		return TR_ENOMEM;
	amqp->loop = loop;
	amqp->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (amqp->fd < 0) {
		int err = tr_err_from_errno(errno);

		free(amqp);
		*out = NULL;
		return err;
	}
	amqp->done_end = &amqp->done;
	pthread_mutex_init(&amqp->lock, NULL);
	pthread_cond_init(&amqp->ended, NULL);
	amqp->published = tr_metric_get(TR_COUNTER, "amqp_messages", messages, "result", "confirmed", NULL);
	amqp->refused = tr_metric_get(TR_COUNTER, "amqp_messages", messages, "result", "failed", NULL);
	amqp->connects = tr_metric_get(TR_COUNTER, "amqp_connections", opened, NULL);
	ev_io_init(&amqp->readable, readable, amqp->fd, EV_READ);
	ev_io_start(tr_loop_ev(loop), &amqp->readable);
	return TR_OK;
}

/* Waits for the threads; false: some hang, and what they use must stay. */
static bool
await_threads(struct tr_amqp *amqp)
{
	struct timespec until;
	bool ended;

	clock_gettime(CLOCK_REALTIME, &until); /* real threads, also under the virtual clock */
	until.tv_sec += END_S;
	pthread_mutex_lock(&amqp->lock);
	amqp->ending = true;
	for (struct tr_amqp_connection *each = amqp->connections; each != NULL; each = each->next) {
		tr_amqp_connection_interrupt(each);
		tr_amqp_wake(each->wake_fd);
	}
	while (amqp->connections != NULL) {
		if (pthread_cond_timedwait(&amqp->ended, &amqp->lock, &until) != 0)
			break;
	}
	ended = amqp->connections == NULL;
	pthread_mutex_unlock(&amqp->lock);
	if (!ended)
		tr_log(TR_LEVEL_WARN, "amqp", "connections did not end within %d s", END_S);
	return ended;
}

void
tr_amqp_free(struct tr_amqp *amqp)
{
	bool ended;

	if (amqp == NULL)
		return;
	ev_io_stop(tr_loop_ev(amqp->loop), &amqp->readable);
	ended = await_threads(amqp);
	for (struct tr_amqp_batch *batch = amqp->calls, *next; batch != NULL; batch = next) {
		next = batch->next;
		tr_amqp_batch_unlink(batch);
		if (ended)
			batch->pool = NULL; /* its owner may still cancel it */
		if (batch->cancelled && ended)
			tr_amqp_call_free(&batch->pub);
	}
	if (!ended)
		return; /* a thread that hangs uses it */
	while (amqp->pools != NULL) {
		struct tr_amqp_pool *pool = amqp->pools;

		amqp->pools = pool->next;
		tr_amqp_pool_free(pool);
	}
	close(amqp->fd);
	pthread_mutex_destroy(&amqp->lock);
	pthread_cond_destroy(&amqp->ended);
	tr_metric_unref(amqp->published);
	tr_metric_unref(amqp->refused);
	tr_metric_unref(amqp->connects);
	free(amqp);
}
