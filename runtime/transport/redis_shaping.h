/* Throttles and connection leases that several nodes share, kept in Redis: the backend of runtime/shaping. Each worker
 * has a connection of its own, on which the questions of all its sessions are pipelined; each question is one script
 * and so one round trip. All times are the server's, so the nodes' clocks do not matter. */
#ifndef TR_REDIS_SHAPING_H
#define TR_REDIS_SHAPING_H

#include "shaping/shaping.h"
#include "transport/redis.h"

struct tr_redis_shaping;

/* Copies the settings; connects to nothing yet. fallback_local: decide locally while Redis is down. TR_OK, TR_ENOMEM.
 */
int tr_redis_shaping_new(const struct tr_redis_settings *settings, bool fallback_local, struct tr_redis_shaping **out);
/* Its operations take themselves back; loops must not run, or only the caller's. */
void tr_redis_shaping_free(struct tr_redis_shaping *shaping);
/* For tr_shaping_set_backend(), which takes it. */
const struct tr_shaping_backend *tr_redis_shaping_backend(struct tr_redis_shaping *shaping);
/* Asks the server whether it is there: call->then() as of tr_redis_start(). On the thread of `loop`. */
int tr_redis_shaping_ping(struct tr_redis_shaping *shaping, struct tr_loop *loop, struct tr_redis_call *call);

/* For tests. */
extern const char *const tr_redis_throttle_script;

#endif
