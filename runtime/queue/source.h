/* Egress sources and pools: what policy says about them, and the process-wide cache of the answers. A pool is resolved
 * when it and each source that it names are. Any thread, unless said otherwise. Contract: egress-path.md sections 1, 2.
 */
#ifndef TR_QUEUE_SOURCE_H
#define TR_QUEUE_SOURCE_H

#include <stdatomic.h>

#include "base/buf.h"

struct tr_engine;
struct tr_ready;
struct tr_source;
struct tr_pool;

/* When a source that does not work is left alone. */
struct tr_suspend_rule {
	uint32_t failures;   /* so many of them; 1: at once; 0: never */
	int64_t period_ns;   /* within that time; of no meaning for 1 */
	int64_t duration_ns; /* > 0; how long */
};

/* Shared and immutable; made by source_lua.c. */
struct tr_source_config {
	_Atomic uint32_t refs;
	char *name;
	char *ehlo_domain;                               /* NULL: none */
	char *source_address;                            /* literal; NULL: none */
	uint16_t remote_port;                            /* 0: none */
	char *ha_proxy_server, *ha_proxy_source_address; /* both or none; "host:port", literal */
	char *socks5_proxy_server, *socks5_proxy_source_address, *socks5_proxy_username, *socks5_proxy_password;
	struct tr_suspend_rule unplumbed, proxy_unhealthy;
	int64_t ttl_ns;
};
struct tr_source_config *tr_source_config_new(struct tr_str name); /* NULL: no memory */
struct tr_source_config *tr_source_config_ref(struct tr_source_config *config);
void tr_source_config_unref(struct tr_source_config *config); /* NULL is fine */

struct tr_pool_entry {
	char *name;
	uint32_t weight; /* 0: not used */
};
struct tr_pool_config {
	_Atomic uint32_t refs;
	char *name;
	struct tr_pool_entry *entries;
	uint32_t count;
	int64_t ttl_ns;
};
struct tr_pool_config *tr_pool_config_new(struct tr_str name, uint32_t count); /* entries zeroed; NULL: no memory */
struct tr_pool_config *tr_pool_config_ref(struct tr_pool_config *config);
void tr_pool_config_unref(struct tr_pool_config *config);                                 /* NULL is fine */
bool tr_pool_config_same(const struct tr_pool_config *a, const struct tr_pool_config *b); /* name and entries */

/* --- answers of policy (the ops resolve_source and resolve_pool), on the worker that was asked ----------------- */
struct tr_str tr_source_name(const struct tr_source *source);
struct tr_str tr_pool_name(const struct tr_pool *pool);
/* config (reference taken over), or NULL with the error's text, which is remembered for a minute. */
void tr_source_configured(struct tr_source *source, struct tr_source_config *config, const char *error);
void tr_pool_configured(struct tr_pool *pool, struct tr_pool_config *config, const char *error);

/* --- for policy that asks ------------------------------------------------------------------------------------------
 */
/* What the cache holds and may still be used: referenced, or NULL. *error: the remembered one, to be freed, or NULL. */
struct tr_source_config *tr_engine_cached_source(struct tr_engine *engine, struct tr_str name, char **error);
struct tr_pool_config *tr_engine_cached_pool(struct tr_engine *engine, struct tr_str name, char **error);
/* What policy was asked for by itself; the reference is taken over. config NULL: the error is remembered. */
void tr_engine_cache_source(
	struct tr_engine *engine, struct tr_str name, struct tr_source_config *config, const char *error);
void tr_engine_cache_pool(
	struct tr_engine *engine, struct tr_str name, struct tr_pool_config *config, const char *error);

/* --- for transports -------------------------------------------------------------------------------------------------
 */
/* The source of a ready queue as it is defined now, referenced; NULL: `unspecified`, which has no properties. */
struct tr_source_config *tr_ready_source_config(struct tr_ready *ready);
enum tr_source_trouble { TR_SOURCE_UNPLUMBED, TR_SOURCE_PROXY };
/* Its address could not be bound, or its proxy did not work. True if the source is suspended now: what waits goes to
 * other sources, and what the caller has is to be put back untried (TR_OUT_REQUEUE). */
bool tr_ready_source_failed(struct tr_ready *ready, enum tr_source_trouble trouble, const char *text);
/* Monotonic moment until which the source is left alone; 0: it is not. */
int64_t tr_ready_source_suspended_until(const struct tr_ready *ready);

#endif
