/* Counters, gauges and histograms, process-wide, by name and labels. Updates are relaxed atomics
 * on a pointer that the caller keeps; look-ups take a lock and are for set-up time. */
#ifndef TR_METRICS_H
#define TR_METRICS_H

#include <stdatomic.h>

#include "base/buf.h"

enum tr_metric_kind { TR_COUNTER, TR_GAUGE, TR_HISTOGRAM };

struct tr_metric {
	_Atomic int64_t value; /* counter, gauge; count of a histogram */
	/* histogram: sum in ns and how many fell between the bounds .005 .01 .025 .05 .1 .25 .5 1 2.5 5 10 s;
	 * rendering makes them cumulative */
	_Atomic int64_t sum_ns;
	_Atomic int64_t bucket[11];
};

/* Finds or makes the series of `name` with 0 to 3 label pairs (name, value, ..., NULL). `help` is kept
 * by reference (literal). Never NULL: without memory it gives a shared dummy. Takes a reference;
 * tr_metric_unref() drops it, and a pruned series (queue gone) vanishes with its last reference. */
struct tr_metric *tr_metric_get(enum tr_metric_kind kind, const char *name, const char *help, ...)
	__attribute__((sentinel));
void tr_metric_unref(struct tr_metric *metric);

static inline void
tr_metric_add(struct tr_metric *metric, int64_t n)
{
	atomic_fetch_add_explicit(&metric->value, n, memory_order_relaxed);
}
static inline void
tr_metric_set(struct tr_metric *metric, int64_t value)
{
	atomic_store_explicit(&metric->value, value, memory_order_relaxed);
}
void tr_metric_observe_ns(struct tr_metric *metric, int64_t ns);
/* Value of a series for tests and Lua; 0 when there is none. Labels as in tr_metric_get. */
int64_t tr_metric_read(const char *name, ...) __attribute__((sentinel));

/* Called before each rendering, to set gauges that are computed (queue lengths). */
void tr_metrics_add_collector(void (*fn)(void *arg), void *arg);
void tr_metrics_remove_collector(void (*fn)(void *arg), void *arg);
/* Prometheus text / the JSON of contract/http-admin.md section 4, of names that start with `prefix`. */
void tr_metrics_text(struct tr_buf *out, const char *prefix);
void tr_metrics_json(struct tr_buf *out, const char *prefix);

#endif
