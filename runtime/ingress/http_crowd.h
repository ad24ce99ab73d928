/* The connections of an HTTP listener, oldest first, so that when there are too many the one goes that has waited
 * longest without having a request answered. Known clients and strangers apart: strangers have three quarters of the
 * places. One thread. */
#ifndef TR_HTTP_CROWD_H
#define TR_HTTP_CROWD_H

#include <stdbool.h>
#include <stdint.h>

struct tr_http_place {
	struct tr_http_place *next, **prev;
	bool known;
	bool busy;    /* its request is being handled: it stays */
	bool leaving; /* it was closed, and is about to go */
	int fd;
	void *request; /* the one whose body comes; NULL: none */
};

struct tr_http_crowd {
	struct tr_http_place *first[2], **end[2]; /* strangers, known */
	uint32_t count[2];                        /* without those who leave */
	uint32_t most;
};

void tr_http_crowd_init(struct tr_http_crowd *crowd, uint32_t most);
/* As the youngest. Sets known and fd before; the rest is 0. */
void tr_http_crowd_add(struct tr_http_crowd *crowd, struct tr_http_place *place);
void tr_http_crowd_remove(struct tr_http_crowd *crowd, struct tr_http_place *place);
/* A request was answered: it is the youngest now. */
void tr_http_crowd_served(struct tr_http_crowd *crowd, struct tr_http_place *place);
/* Too many are there. */
bool tr_http_crowd_is_full(const struct tr_http_crowd *crowd);
/* Who should go: a stranger while there are some. NULL: all are busy. */
struct tr_http_place *tr_http_crowd_oldest(const struct tr_http_crowd *crowd);
/* The oldest of them, but `but`, with a body that is coming. NULL: none. */
struct tr_http_place *tr_http_crowd_oldest_body(
	const struct tr_http_crowd *crowd, bool known, const struct tr_http_place *but);
/* Closes its connection; libmicrohttpd sees that soon. */
void tr_http_crowd_dismiss(struct tr_http_crowd *crowd, struct tr_http_place *place);

#endif
