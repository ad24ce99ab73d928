/* A loop and the NATS client of it, and what its tests have in common. */
#ifndef NATS_FIXTURE_H
#define NATS_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "transport/nats_internal.h"

#define LIMIT_NS (60 * TR_NS_PER_S) /* of what takes milliseconds unless the machine is busy */

static struct tr_loop *loop;
static struct tr_nats *nats;

static inline void
quiet(void *arg, enum tr_level level, const char *target, const char *text)
{
}

static inline int
setup(void **state)
{
	tr_log_sink(quiet, NULL);
	assert_int_equal(tr_loop_new(&loop), TR_OK);
	tr_loop_enter(loop);
	assert_int_equal(tr_nats_new(loop, NULL, &nats), TR_OK);
	return 0;
}

static inline int
teardown(void **state)
{
	tr_nats_free(nats);
	tr_loop_turn(loop); /* streams that were closed go at its end */
	assert_int_equal(tr_hold_count(), 0);
	tr_loop_free(loop);
	tr_log_sink(NULL, NULL);
	return 0;
}

/* *port 0 gets one. */
static inline int
listen_at(uint32_t address, uint16_t *port, int backlog)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(address), .sin_port = htons(*port)};
	socklen_t len = sizeof at;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
	assert_int_equal(listen(fd, backlog), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	*port = ntohs(at.sin_port);
	return fd;
}

/* A connection to one server of the name. */
static inline struct tr_nats_connection *
open_at(const char *host, uint16_t port, struct tr_nats_settings settings)
{
	struct tr_nats_connection *connection;
	char url[64];

	snprintf(url, sizeof url, "nats://%s:%u", host, port);
	settings.server_count = 1;
	settings.servers[0] = tr_str(url);
	assert_int_equal(tr_nats_open(nats, &settings, &connection), TR_OK);
	return connection;
}

static inline void
called(struct tr_nats_call *call)
{
	*(bool *)call->owner = true;
}

/* Starts the call; *done becomes true at its end. */
static inline void
call_start(struct tr_nats_call *call, bool *done)
{
	*done = false;
	call->done = called;
	call->owner = done;
	tr_nats_call_start(call);
}

static inline bool
is_done(void *arg)
{
	return *(bool *)arg;
}

#endif
