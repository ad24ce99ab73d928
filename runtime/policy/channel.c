#include "policy/channel.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct item {
	struct item *next;
	size_t len;
	char bytes[];
};

struct tr_channel {
	struct tr_channel *next; /* all of them; under channels_lock, as refs */
	int refs;                /* the list holds none: an empty one goes with its last handle, a full one stays */
	char *name;
	pthread_mutex_t lock; /* guards what follows */
	size_t limit, length; /* limit 0: none */
	bool closed;
	struct item *first, **last;
	struct tr_channel_waiter *receiver; /* until its then() begins */
	struct tr_channel_waiter *senders, **senders_last;
};

static pthread_mutex_t channels_lock = PTHREAD_MUTEX_INITIALIZER;
static struct tr_channel *channels;

struct tr_channel *
tr_channel_open(const char *name, size_t limit)
{
	struct tr_channel *channel;

	pthread_mutex_lock(&channels_lock);
	for (channel = channels; channel != NULL && strcmp(channel->name, name) != 0; channel = channel->next)
		;
	if (channel == NULL && (channel = calloc(1, sizeof *channel)) != NULL) {
		channel->name = strdup(name);
		if (channel->name == NULL) {
			free(channel);
			channel = NULL;
		} else {
			pthread_mutex_init(&channel->lock, NULL);
			channel->limit = limit;
			channel->last = &channel->first;
			channel->senders_last = &channel->senders;
			channel->next = channels;
			channels = channel;
		}
	}
	if (channel != NULL)
		channel->refs++;
	pthread_mutex_unlock(&channels_lock);
	return channel;
}

struct tr_channel *
tr_channel_ref(struct tr_channel *channel)
{
	pthread_mutex_lock(&channels_lock);
	channel->refs++;
	pthread_mutex_unlock(&channels_lock);
	return channel;
}

void
tr_channel_unref(struct tr_channel *channel)
{
	struct tr_channel **at;

	if (channel == NULL)
		return;
	pthread_mutex_lock(&channels_lock);
	if (--channel->refs == 0 && channel->length == 0) {
		for (at = &channels; *at != channel; at = &(*at)->next)
			;
		*at = channel->next;
		pthread_mutex_destroy(&channel->lock);
		free(channel->name);
		free(channel);
	}
	pthread_mutex_unlock(&channels_lock);
}

static void
came(struct tr_mail *mail)
{
	struct tr_channel_waiter *waiter = tr_container_of(mail, struct tr_channel_waiter, mail);
	struct tr_channel *channel = waiter->channel;

	pthread_mutex_lock(&channel->lock);
	if (channel->receiver == waiter)
		channel->receiver = NULL;
	pthread_mutex_unlock(&channel->lock);
	waiter->then(waiter);
}

/* The lock is held. */
static void
wake_receiver(struct tr_channel *channel)
{
	struct tr_channel_waiter *waiter = channel->receiver;

	if (waiter == NULL || !waiter->waiting)
		return;
	waiter->waiting = false;
	tr_loop_post(waiter->loop, &waiter->mail);
}

static void
wake_sender(struct tr_channel *channel)
{
	struct tr_channel_waiter *waiter = channel->senders;

	if (waiter == NULL)
		return;
	channel->senders = waiter->next;
	if (channel->senders == NULL)
		channel->senders_last = &channel->senders;
	waiter->waiting = false;
	tr_loop_post(waiter->loop, &waiter->mail);
}

static bool
has_room(const struct tr_channel *channel)
{
	return channel->limit == 0 || channel->length < channel->limit;
}

int
tr_channel_send(struct tr_channel *channel, struct tr_str bytes)
{
	struct item *item = malloc(sizeof *item + bytes.len);
	int err = TR_OK;

	if (item == NULL)
		return TR_ENOMEM;
	item->next = NULL;
	item->len = bytes.len;
	memcpy(item->bytes, bytes.data, bytes.len);
	pthread_mutex_lock(&channel->lock);
	if (channel->closed) {
		err = TR_ECLOSED;
	} else if (!has_room(channel)) {
		err = TR_EAGAIN;
	} else {
		*channel->last = item;
		channel->last = &item->next;
		channel->length++;
		item = NULL;
		wake_receiver(channel);
		if (channel->limit > 0 && has_room(channel))
			wake_sender(channel); /* who was woken did not send: the next one may */
	}
	pthread_mutex_unlock(&channel->lock);
	free(item);
	return err;
}

int
tr_channel_receive(struct tr_channel *channel, struct tr_buf *out)
{
	struct item *item;
	int err = TR_OK;

	pthread_mutex_lock(&channel->lock);
	item = channel->first;
	if (item != NULL) {
		channel->first = item->next;
		if (channel->first == NULL)
			channel->last = &channel->first;
		channel->length--;
		wake_sender(channel);
	} else {
		err = channel->closed ? TR_ECLOSED : TR_EAGAIN;
	}
	pthread_mutex_unlock(&channel->lock);
	if (item != NULL)
		tr_buf_add(out, item->bytes, item->len);
	free(item);
	return err;
}

size_t
tr_channel_length(struct tr_channel *channel)
{
	size_t length;

	pthread_mutex_lock(&channel->lock);
	length = channel->length;
	pthread_mutex_unlock(&channel->lock);
	return length;
}

bool
tr_channel_closed(struct tr_channel *channel)
{
	bool closed;

	pthread_mutex_lock(&channel->lock);
	closed = channel->closed;
	pthread_mutex_unlock(&channel->lock);
	return closed;
}

void
tr_channel_close(struct tr_channel *channel)
{
	pthread_mutex_lock(&channel->lock);
	channel->closed = true;
	wake_receiver(channel);
	while (channel->senders != NULL)
		wake_sender(channel);
	pthread_mutex_unlock(&channel->lock);
}

int
tr_channel_wait(struct tr_channel *channel, struct tr_channel_waiter *waiter, bool receives, struct tr_loop *loop,
	void (*then)(struct tr_channel_waiter *waiter))
{
	int err = TR_OK;

	*waiter = (struct tr_channel_waiter){
		.mail.fn = came, .channel = channel, .loop = loop, .then = then, .receives = receives};
	pthread_mutex_lock(&channel->lock);
	if (receives && channel->receiver != NULL)
		err = TR_EEXIST;
	else if (channel->closed || (receives ? channel->length > 0 : has_room(channel)))
		err = TR_EAGAIN;
	else if (receives)
		channel->receiver = waiter;
	else {
		*channel->senders_last = waiter;
		channel->senders_last = &waiter->next;
	}
	waiter->waiting = err == TR_OK;
	pthread_mutex_unlock(&channel->lock);
	return err;
}

bool
tr_channel_leave(struct tr_channel_waiter *waiter)
{
	struct tr_channel *channel = waiter->channel;
	bool left;

	pthread_mutex_lock(&channel->lock);
	left = waiter->waiting;
	waiter->waiting = false;
	if (left && waiter->receives) {
		channel->receiver = NULL;
	} else if (left) {
		struct tr_channel_waiter **at = &channel->senders;
		while (*at != waiter)
			at = &(*at)->next;
		*at = waiter->next;
		if (*at == NULL)
			channel->senders_last = at;
	}
	pthread_mutex_unlock(&channel->lock);
	return left;
}
