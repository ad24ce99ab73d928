/* One connection to a Redis server on a worker's loop: commands are pipelined, it reconnects by itself with growing
 * pauses. The protocol is read by hiredis. No Lua. Own thread only.
 *
 * While there is no connection yet, commands wait for it; while it is down they fail at once with what is wrong. An
 * idle connection that the server has closed is made again without a failure. It holds the virtual clock only while a
 * command or a connect is under way. */
#ifndef TR_REDIS_H
#define TR_REDIS_H

#include "base/buf.h"
#include "base/loop.h"

struct redisReply;
struct tr_redis;

struct tr_redis_settings {
	char *host; /* name or address; NULL: path */
	char *path; /* of a Unix socket */
	uint16_t port;
	char *user, *password; /* NULL: none */
	uint32_t db;
	bool tls, tls_insecure;      /* insecure: any certificate will do */
	int64_t connect_timeout_ns;  /* > 0; looking up the name, and connecting */
	int64_t wait_timeout_ns;     /* > 0; of a command for the connection */
	int64_t response_timeout_ns; /* > 0; of a command for its answer */
};
/* "redis://[user][:password@]host[:port][/db]", the same with "rediss://" and perhaps "#insecure" at the end for TLS,
 * "unix:PATH[?db=N]"; sets host to tls_insecure, each malloc'ed. TR_OK, TR_ENOMEM,
 * or TR_EINVAL with what is wrong in *why (static). */
int tr_redis_parse_url(struct tr_str url, struct tr_redis_settings *out, const char **why);
int tr_redis_copy_settings(const struct tr_redis_settings *from, struct tr_redis_settings *out); /* TR_OK, TR_ENOMEM */
void tr_redis_free_settings(struct tr_redis_settings *settings);                                 /* the texts */
/* "host:port", "/path": without user and password. Returns the length, at most 255. */
size_t tr_redis_name(const struct tr_redis_settings *settings, char out[256]);

/* Copies the settings; connects at the first command. changed(arg, true, NULL) and changed(arg, false, error) tell of
 * each change between connected and down; may be NULL. TR_OK, TR_ENOMEM. */
int tr_redis_new(struct tr_loop *loop, const struct tr_redis_settings *settings,
	void (*changed)(void *arg, bool up, const char *error), void *arg, struct tr_redis **out);
/* What is under way is told TR_ECANCELED. From inside a callback, too. NULL is fine. */
void tr_redis_free(struct tr_redis *redis);

/* One command. Embed it; its memory must stay until then(). */
struct tr_redis_call {
	struct tr_redis_call *next;
	int64_t deadline_ns;
	/* reply: borrowed, an error of the server among them; NULL: there is none, for the reason in err and error. */
	void (*then)(struct tr_redis_call *call, const struct redisReply *reply);
	int err;
	const char *error; /* borrowed */
};
/* TR_OK: then() comes once, from the loop, never from here. TR_ENOMEM: it does not. The arguments are copied. */
int tr_redis_start(struct tr_redis *redis, struct tr_redis_call *call, int argc, const struct tr_str *argv);

#endif
