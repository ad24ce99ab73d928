/* Brokers that block their publishers: who waits for them, and who hears of it. The threads' part: amqp_window.c. */
#include <stdio.h>
#include <string.h>

#include "transport/amqp_internal.h"

bool
tr_amqp_is_waited_for(const struct tr_amqp_batch *batch)
{
	const struct tr_amqp_connection *connection = batch->taker;

	return batch->pub.patient && batch->pool->settings.heartbeat_s > 0 &&
	       (connection->held_up[0] != '\0' ||
		       tr_amqp_real_ns() < connection->free_at_ns + batch->pub.publish_timeout_ns + TR_AMQP_GRACE_NS);
}

bool
tr_amqp_is_held_up(const struct tr_amqp_batch *batch)
{
	const struct tr_amqp *amqp = batch->pool->amqp;

	for (const struct tr_amqp_connection *each = amqp->connections; each != NULL && batch->pub.patient;
		each = each->next) {
		if (each->pool == batch->pool && each->held_up[0] != '\0')
			return true;
	}
	return false;
}

void
tr_amqp_set_held_up(struct tr_amqp_connection *connection, const char *text)
{
	struct tr_amqp *amqp = connection->pool->amqp;

	pthread_mutex_lock(&amqp->lock);
	if (text != NULL)
		snprintf(connection->held_up, sizeof connection->held_up, "%.*s", (int)sizeof connection->held_up - 1,
			text);
	else
		connection->held_up[0] = '\0';
	connection->free_at_ns = tr_amqp_real_ns();
	if (!amqp->held_up_changed)
		tr_amqp_wake(amqp->fd);
	amqp->held_up_changed = true;
	pthread_mutex_unlock(&amqp->lock);
}

/* lock held: what its broker says. .[0] 0: nothing */
static void
what_holds_up(const struct tr_amqp_batch *batch, char text[300])
{
	text[0] = '\0';
	if (batch->stage == TR_AMQP_TAKEN)
		memcpy(text, batch->taker->held_up, sizeof batch->taker->held_up);
	for (const struct tr_amqp_connection *each = batch->pool->amqp->connections;
		batch->stage == TR_AMQP_WAITING && each != NULL && text[0] == '\0'; each = each->next) {
		if (each->pool == batch->pool)
			memcpy(text, each->held_up, sizeof each->held_up);
	}
}

void
tr_amqp_tell_held_up(struct tr_amqp *amqp)
{
	char text[300];
	bool changed;

	pthread_mutex_lock(&amqp->lock);
	changed = amqp->held_up_changed;
	amqp->held_up_changed = false;
	pthread_mutex_unlock(&amqp->lock);
	for (struct tr_amqp_batch *batch = changed ? amqp->calls : NULL; batch != NULL; batch = batch->next) {
		if (!batch->pub.patient || batch->pub.held_up == NULL || batch->cancelled)
			continue;
		pthread_mutex_lock(&amqp->lock);
		what_holds_up(batch, text);
		pthread_mutex_unlock(&amqp->lock);
		if (text[0] == '\0' && !batch->told_held_up)
			continue;
		batch->told_held_up = text[0] != '\0';
		batch->pub.held_up(&batch->pub, text[0] != '\0' ? text : NULL);
	}
}
