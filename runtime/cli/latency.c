#include "cli/latency.h"

/* Values below 64 us have a slot each; above, each power of two is cut into 64. */
static unsigned
slot_of(uint64_t us)
{
	if (us < TR_LATENCY_SUB)
		return (unsigned)us;
	unsigned shift = 63 - (unsigned)__builtin_clzll(us) - 6;
	unsigned slot = (shift + 1) * TR_LATENCY_SUB + (unsigned)(us >> shift) - TR_LATENCY_SUB;

	return slot < TR_LATENCY_SLOTS ? slot : TR_LATENCY_SLOTS - 1;
}

static double
middle_of(unsigned slot)
{
	if (slot < TR_LATENCY_SUB)
		return (double)slot + 0.5;
	unsigned shift = slot / TR_LATENCY_SUB - 1;

	return ((double)(slot % TR_LATENCY_SUB + TR_LATENCY_SUB) + 0.5) * (double)(UINT64_C(1) << shift);
}

void
tr_latency_add(struct tr_latency *latency, int64_t ns)
{
	if (ns < 0)
		ns = 0;
	latency->slot[slot_of((uint64_t)ns / 1000)]++;
	latency->count++;
	latency->max_ns = tr_max_i64(latency->max_ns, ns);
}

double
tr_latency_ms(const struct tr_latency *latency, double percent)
{
	double wanted = (double)latency->count * percent / 100;
	uint64_t seen = 0;

	for (unsigned i = 0; i < TR_LATENCY_SLOTS && latency->count > 0; i++) {
		seen += latency->slot[i];
		if (seen > 0 && (double)seen >= wanted)
			return middle_of(i) / 1000;
	}
	return 0;
}
