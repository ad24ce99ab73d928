/* The cache behind kumo.memoize: process-wide by name, values as bytes, bounded by count, oldest use out first. Any
 * thread; a mutex each cache. No Lua. */
#ifndef TR_POLICY_MEMO_H
#define TR_POLICY_MEMO_H

#include "base/buf.h"

struct tr_memo;

struct tr_memo_config {
	int64_t ttl_ns;
	size_t capacity; /* entries, >= 1 */
	bool with_epoch; /* entries of an older configuration epoch do not count */
	bool stale;      /* an expired entry is kept for tr_memo_get() to give as stale */
};

/* Finds or makes the cache; another configuration under the same name replaces it. A reference for the caller; NULL: no
 * memory. */
struct tr_memo *tr_memo_open(const char *name, const struct tr_memo_config *config);
void tr_memo_unref(struct tr_memo *memo); /* NULL is fine */

enum tr_memo_state { TR_MEMO_MISS, TR_MEMO_VALUE, TR_MEMO_ERROR, TR_MEMO_STALE };
/* Adds the bytes of the entry to out, unless it is a miss. */
enum tr_memo_state tr_memo_get(struct tr_memo *memo, struct tr_str key, struct tr_buf *out);
/* ttl_ns < 0: that of the cache. TR_OK or TR_ENOMEM, which leaves the cache without the key. */
int tr_memo_put(struct tr_memo *memo, struct tr_str key, struct tr_str value, bool error, int64_t ttl_ns);

#endif
