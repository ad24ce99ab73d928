/* Throttles by GCRA. All that a throttle remembers is `tat`, the theoretical arrival time: the moment at which its
 * bucket will be full again. A token moves it by one interval, and it may stand at most `tolerance` (the bucket: burst
 * intervals) ahead of now. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "shaping/internal.h"

/* Moments and spans are kept in units of 1/16 ns, so that an interval of 33.3 ns is not off by a percent: 2^59 ns are
 * 18 years since the machine's start. Specs whose bucket takes longer to fill than SPAN_MAX count whole ns. */
#define FINE_SHIFT 4
#define SPAN_MAX (INT64_C(1) << 61)
#define NOW_MAX (INT64_C(1) << 59)

struct tr_throttle {
	struct named named;
	const struct tr_shaping *shaping;
	struct tr_rate_spec spec;
	int64_t interval;  /* >= 1, units between two tokens at the steady rate */
	int64_t tolerance; /* units; burst intervals, at most SPAN_MAX */
	uint8_t shift;     /* a unit is 2^-shift ns */
	/* Apart from what is only read: every decision of every worker writes here. */
	_Alignas(64) _Atomic int64_t tat; /* units, monotonic */
	_Alignas(64) char key[];
};

/* n * interval, at most SPAN_MAX. */
static int64_t
span(uint64_t n, int64_t interval)
{
	unsigned __int128 product = (unsigned __int128)n * (uint64_t)interval;

	return product > (uint64_t)SPAN_MAX ? SPAN_MAX : (int64_t)product;
}

static int64_t
interval_of(const struct tr_rate_spec *spec, int shift)
{
	unsigned __int128 period = (unsigned __int128)(uint64_t)spec->period_ns << shift;
	unsigned __int128 interval = (period + spec->quantity / 2) / spec->quantity;

	return interval < 1 ? 1 : interval > (uint64_t)SPAN_MAX ? SPAN_MAX : (int64_t)interval;
}

struct seed {
	const struct tr_shaping *shaping;
	const struct tr_rate_spec *spec;
};

/* The shift of its units. */
static uint8_t
measure(const struct tr_rate_spec *spec, int64_t *interval, int64_t *tolerance)
{
	*interval = interval_of(spec, FINE_SHIFT);
	*tolerance = span(spec->burst, *interval);
	if (*tolerance < SPAN_MAX)
		return FINE_SHIFT;
	*interval = interval_of(spec, 0);
	*tolerance = span(spec->burst, *interval);
	return 0;
}

double
tr_rate_interval_us(const struct tr_rate_spec *spec)
{
	int64_t interval, tolerance;
	uint8_t shift = measure(spec, &interval, &tolerance);

	return (double)interval / (double)(1 << shift) / 1e3;
}

static struct named *
make(struct tr_str key, const void *arg)
{
	const struct seed *seed = arg;
	const struct tr_rate_spec *spec = seed->spec;
	size_t size = (sizeof(struct tr_throttle) + key.len + 1 + 63) & ~(size_t)63;
	struct tr_throttle *throttle = aligned_alloc(64, size);

	if (throttle == NULL)
		return NULL;
	memset(throttle, 0, sizeof *throttle);
	throttle->shaping = seed->shaping;
	throttle->spec = *spec;
	throttle->shift = measure(spec, &throttle->interval, &throttle->tolerance);
	memcpy(throttle->key, key.data, key.len);
	throttle->key[key.len] = '\0';
	throttle->named.key = throttle->key;
	throttle->named.key_len = (uint32_t)key.len;
	return &throttle->named;
}

static int64_t
units(const struct tr_throttle *throttle, int64_t now_ns)
{
	return (now_ns < 0 ? 0 : tr_min_i64(now_ns, NOW_MAX)) << throttle->shift;
}

/* Rounded up: after that wait it is true. */
static int64_t
to_ns(const struct tr_throttle *throttle, int64_t span_units)
{
	return (span_units + ((INT64_C(1) << throttle->shift) - 1)) >> throttle->shift;
}

static bool
keep(struct named *named)
{
	struct tr_throttle *throttle = (struct tr_throttle *)named;

	return atomic_load_explicit(&throttle->tat, memory_order_relaxed) > units(throttle, tr_mono_ns());
}

static const struct kind kind = {.make = make, .keep = keep, .destroy = free};

int
tr_throttle_get(
	struct tr_shaping *shaping, struct tr_str name, const struct tr_rate_spec *spec, struct tr_throttle **out)
{
	const struct seed seed = {shaping, spec};
	char text[80], local[256], *key = local;
	size_t tail = (size_t)snprintf(text, sizeof text, ":%llu:%llu:%llu", (unsigned long long)spec->quantity,
		(unsigned long long)spec->burst, (unsigned long long)(spec->period_ns / TR_NS_PER_S));

	*out = NULL;
	if (name.len + tail > sizeof local)
		key = malloc(name.len + tail);
	if (key == NULL)
		return TR_ENOMEM;
	memcpy(key, name.data, name.len);
	memcpy(key + name.len, text, tail);
	*out = (struct tr_throttle *)table_get(
		&shaping->throttles, &kind, (struct tr_str){key, name.len + tail}, spec->local ? 'l' : 's', &seed);
	if (key != local)
		free(key);
	return *out != NULL ? TR_OK : TR_ENOMEM;
}

struct tr_throttle *
tr_throttle_ref(struct tr_throttle *throttle)
{
	atomic_fetch_add_explicit(&throttle->named.refs, 1, memory_order_relaxed);
	return throttle;
}

void
tr_throttle_unref(struct tr_throttle *throttle)
{
	if (throttle != NULL)
		named_unref(&throttle->named, &kind);
}

struct tr_str
tr_throttle_key(const struct tr_throttle *throttle)
{
	return (struct tr_str){throttle->named.key, throttle->named.key_len};
}

const struct tr_rate_spec *
tr_throttle_spec(const struct tr_throttle *throttle)
{
	return &throttle->spec;
}

bool
tr_throttle_is_shared(const struct tr_throttle *throttle)
{
	return !throttle->spec.local && tr_shaping_backend(throttle->shaping) != NULL;
}

/* --- decisions ------------------------------------------------------------------------------------ */

static uint64_t
tokens_left(const struct tr_throttle *throttle, int64_t ahead)
{
	if (ahead <= 0)
		return throttle->spec.burst;
	if (ahead >= throttle->tolerance)
		return 0;
	uint64_t left = (uint64_t)((throttle->tolerance - ahead) / throttle->interval);
	return left < throttle->spec.burst ? left : throttle->spec.burst;
}

bool
tr_throttle_check(struct tr_throttle *throttle, int64_t now_ns, uint64_t quantity, struct tr_throttle_result *out)
{
	int64_t now = units(throttle, now_ns), cost = span(quantity, throttle->interval);
	/* More than the bucket holds would never be there: such a charge waits for a full bucket and overdraws it. */
	int64_t room = cost > throttle->tolerance ? cost : throttle->tolerance;
	int64_t tat = atomic_load_explicit(&throttle->tat, memory_order_relaxed);
	int64_t next;

	do {
		next = (tat > now ? tat : now) + cost;
		if (next - now > room) {
			*out = (struct tr_throttle_result){
				.throttled = true,
				.limit = throttle->spec.burst,
				.remaining = tokens_left(throttle, tat - now),
				.reset_after_ns = to_ns(throttle, tat - now),
				.retry_after_ns = to_ns(throttle, next - now - room),
			};
			return false;
		}
	} while (!atomic_compare_exchange_weak_explicit(
		&throttle->tat, &tat, next, memory_order_relaxed, memory_order_relaxed));
	*out = (struct tr_throttle_result){
		.limit = throttle->spec.burst,
		.remaining = tokens_left(throttle, next - now),
		.reset_after_ns = to_ns(throttle, next - now),
	};
	return true;
}

int64_t
tr_throttle_reserve(struct tr_throttle *throttle, int64_t now_ns, int64_t max_wait_ns)
{
	int64_t now = units(throttle, now_ns);
	int64_t max_wait = tr_min_i64(max_wait_ns < 0 ? 0 : max_wait_ns, SPAN_MAX >> throttle->shift)
			   << throttle->shift;
	int64_t tat = atomic_load_explicit(&throttle->tat, memory_order_relaxed);
	int64_t next, wait;

	do {
		next = (tat > now ? tat : now) + throttle->interval;
		wait = next - now - throttle->tolerance;
		if (wait > max_wait)
			return -to_ns(throttle, wait);
	} while (!atomic_compare_exchange_weak_explicit(
		&throttle->tat, &tat, next, memory_order_relaxed, memory_order_relaxed));
	return wait > 0 ? to_ns(throttle, wait) : 0;
}

void
tr_throttle_give_back(struct tr_throttle *throttle, int64_t now_ns)
{
	/* Below now it is a full bucket, which does not get fuller. */
	if (atomic_load_explicit(&throttle->tat, memory_order_relaxed) > units(throttle, now_ns))
		atomic_fetch_sub_explicit(&throttle->tat, throttle->interval, memory_order_relaxed);
}
