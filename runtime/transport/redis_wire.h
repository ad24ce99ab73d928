/* What is said to a Redis server, as bytes. */
#ifndef TR_REDIS_WIRE_H
#define TR_REDIS_WIRE_H

#include "transport/redis.h"

/* Adds a command; out->failed: no memory. */
void tr_redis_command(struct tr_buf *out, int argc, const struct tr_str *argv);
/* Adds the first commands of a connection: AUTH, SELECT, PING; returns how many. It may hold a password. */
uint32_t tr_redis_greeting(const struct tr_redis_settings *settings, struct tr_buf *out);

#endif
