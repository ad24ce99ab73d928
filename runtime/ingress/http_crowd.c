#include "ingress/http_crowd.h"

#include <stddef.h>
#include <sys/socket.h>

void
tr_http_crowd_init(struct tr_http_crowd *crowd, uint32_t most)
{
	*crowd = (struct tr_http_crowd){.most = most};
	for (int i = 0; i < 2; i++)
		crowd->end[i] = &crowd->first[i];
}

static void
append(struct tr_http_crowd *crowd, struct tr_http_place *place)
{
	place->next = NULL;
	place->prev = crowd->end[place->known];
	*place->prev = place;
	crowd->end[place->known] = &place->next;
}

static void
take_out(struct tr_http_crowd *crowd, struct tr_http_place *place)
{
	*place->prev = place->next;
	if (place->next != NULL)
		place->next->prev = place->prev;
	else
		crowd->end[place->known] = place->prev;
}

void
tr_http_crowd_add(struct tr_http_crowd *crowd, struct tr_http_place *place)
{
	append(crowd, place);
	crowd->count[place->known]++;
}

void
tr_http_crowd_remove(struct tr_http_crowd *crowd, struct tr_http_place *place)
{
	take_out(crowd, place);
	if (!place->leaving)
		crowd->count[place->known]--;
}

void
tr_http_crowd_served(struct tr_http_crowd *crowd, struct tr_http_place *place)
{
	take_out(crowd, place);
	append(crowd, place);
}

static bool
strangers_have_their_part(const struct tr_http_crowd *crowd)
{
	return crowd->count[false] > crowd->most / 4 * 3;
}

bool
tr_http_crowd_is_full(const struct tr_http_crowd *crowd)
{
	return crowd->count[false] + crowd->count[true] > crowd->most || strangers_have_their_part(crowd);
}

static struct tr_http_place *
oldest(const struct tr_http_crowd *crowd, bool known)
{
	struct tr_http_place *place = crowd->first[known];

	while (place != NULL && (place->busy || place->leaving))
		place = place->next;
	return place;
}

struct tr_http_place *
tr_http_crowd_oldest(const struct tr_http_crowd *crowd)
{
	struct tr_http_place *place = oldest(crowd, false);

	return place != NULL || strangers_have_their_part(crowd) ? place : oldest(crowd, true);
}

struct tr_http_place *
tr_http_crowd_oldest_body(const struct tr_http_crowd *crowd, bool known, const struct tr_http_place *but)
{
	struct tr_http_place *place = crowd->first[known];

	while (place != NULL && (place->busy || place->leaving || place->request == NULL || place == but))
		place = place->next;
	return place;
}

void
tr_http_crowd_dismiss(struct tr_http_crowd *crowd, struct tr_http_place *place)
{
	place->leaving = true;
	crowd->count[place->known]--;
	shutdown(place->fd, SHUT_RDWR);
}
