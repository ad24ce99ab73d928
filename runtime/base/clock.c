#include "base/clock.h"

#include <assert.h>
#include <stdatomic.h>
#include <time.h>

static _Atomic bool is_virtual;
static _Atomic int64_t virtual_mono_ns; /* both meaningful only while is_virtual */
static _Atomic int64_t virtual_wall_ns;
static _Atomic int64_t ahead_ns; /* of the system's monotonic clock: what virtual time has used up */
static _Atomic int holds;        /* >= 0 */

static int64_t
read_clock(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts); /* cannot fail for these ids */
	return (int64_t)ts.tv_sec * TR_NS_PER_S + ts.tv_nsec;
}

int64_t
tr_mono_ns(void)
{
	if (atomic_load_explicit(&is_virtual, memory_order_acquire))
		return atomic_load_explicit(&virtual_mono_ns, memory_order_relaxed);
	return read_clock(CLOCK_MONOTONIC) + atomic_load_explicit(&ahead_ns, memory_order_relaxed);
}

int64_t
tr_wall_ns(void)
{
	if (atomic_load_explicit(&is_virtual, memory_order_acquire))
		return atomic_load_explicit(&virtual_wall_ns, memory_order_relaxed);
	return read_clock(CLOCK_REALTIME);
}

void
tr_clock_virtual(int64_t wall_ns)
{
	atomic_store_explicit(&virtual_mono_ns, TR_NS_PER_S, memory_order_relaxed);
	atomic_store_explicit(&virtual_wall_ns, wall_ns, memory_order_relaxed);
	atomic_store_explicit(&is_virtual, true, memory_order_release);
}

#define ROUND_NS (60 * TR_NS_PER_S)

void
tr_clock_virtual_from_here(int64_t wall_ns)
{
	int64_t now_ns = tr_mono_ns();

	tr_clock_virtual(wall_ns);
	atomic_store_explicit(&virtual_mono_ns, (now_ns + ROUND_NS - 1) / ROUND_NS * ROUND_NS, memory_order_relaxed);
}

void
tr_clock_real(void)
{
	int64_t real_ns = read_clock(CLOCK_MONOTONIC);
	int64_t virtual_ns = atomic_load_explicit(&virtual_mono_ns, memory_order_relaxed);

	if (tr_clock_is_virtual() && virtual_ns > real_ns + atomic_load_explicit(&ahead_ns, memory_order_relaxed))
		atomic_store_explicit(&ahead_ns, virtual_ns - real_ns, memory_order_relaxed);
	atomic_store_explicit(&is_virtual, false, memory_order_release);
}

bool
tr_clock_is_virtual(void)
{
	return atomic_load_explicit(&is_virtual, memory_order_acquire);
}

void
tr_clock_advance(int64_t ns)
{
	assert(tr_clock_is_virtual() && ns >= 0);
	atomic_fetch_add_explicit(&virtual_mono_ns, ns, memory_order_relaxed);
	atomic_fetch_add_explicit(&virtual_wall_ns, ns, memory_order_relaxed);
}

void
tr_clock_step(int64_t ns)
{
	assert(tr_clock_is_virtual());
	atomic_fetch_add_explicit(&virtual_wall_ns, ns, memory_order_relaxed);
}

void
tr_hold_take(void)
{
	atomic_fetch_add_explicit(&holds, 1, memory_order_acq_rel);
}

void
tr_hold_drop(void)
{
	int before = atomic_fetch_sub_explicit(&holds, 1, memory_order_acq_rel);

	assert(before > 0);
	(void)before;
}

int
tr_hold_count(void)
{
	return atomic_load_explicit(&holds, memory_order_acquire);
}
