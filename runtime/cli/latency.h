/* A histogram of times from 1 us to over an hour, within 2 % of the true value, in a fixed 16 KiB. */
#ifndef TR_CLI_LATENCY_H
#define TR_CLI_LATENCY_H

#include "base/base.h"

enum { TR_LATENCY_SUB = 64, TR_LATENCY_SLOTS = TR_LATENCY_SUB * 32 };

struct tr_latency { /* zero-initialised is empty */
	uint64_t slot[TR_LATENCY_SLOTS];
	uint64_t count;
	int64_t max_ns;
};

void tr_latency_add(struct tr_latency *latency, int64_t ns);
/* The time within which `percent` of the values lie, in milliseconds; 0 when there are none. */
double tr_latency_ms(const struct tr_latency *latency, double percent);

#endif
