/* The only source of time. Real: CLOCK_MONOTONIC and CLOCK_REALTIME. Virtual: one process-wide
 * pair of numbers that moves only by tr_clock_advance() and tr_clock_step(), for one worker.
 * Monotonic time is for rates, delays and ages in memory; wall time for stored moments. */
#ifndef TR_CLOCK_H
#define TR_CLOCK_H

#include "base/base.h"

int64_t tr_mono_ns(void); /* any thread; nanoseconds, never goes back */
int64_t tr_wall_ns(void); /* any thread; nanoseconds since 1970-01-01 UTC, may step */

static inline int64_t
tr_wall_ms(void)
{
	return tr_wall_ns() / TR_NS_PER_MS;
}

/* Switches the process to virtual time, with the given wall time and monotonic time 1 s.
 * To be called before any loop runs; there is no way back but tr_clock_real(). */
void tr_clock_virtual(int64_t wall_ns);
/* The same while loops may have timers: monotonic time goes on (from the next whole minute or so, so that one run is
 * like another), also afterwards, when tr_clock_real() goes back. */
void tr_clock_virtual_from_here(int64_t wall_ns);
void tr_clock_real(void);
bool tr_clock_is_virtual(void);
/* Moves both clocks forward; ns >= 0. Virtual only. The loop calls it; tests call tr_loop_advance(). */
void tr_clock_advance(int64_t ns);
/* A step of the wall clock alone (NTP, an operator): either sign. Virtual only. */
void tr_clock_step(int64_t ns);

/* A hold says: something is under way outside the timers (a commit, a load, a mailbox item, an
 * operation on a real descriptor), so virtual time must not jump yet. Counted; any thread.
 * Does nothing harmful under real time. */
void tr_hold_take(void);
void tr_hold_drop(void);
int tr_hold_count(void);

/* RFC 3339 UTC with `Z`, and the fewest of 0, 3, 6 or 9 fraction digits that lose nothing
 * (contract/log-record.md section 1). Writes at most 31 bytes and a NUL; returns the length. */
size_t tr_rfc3339(int64_t wall_ns, char out[32]);
/* Parses RFC 3339 with any offset. Returns TR_OK or TR_EINVAL. */
int tr_rfc3339_parse(const char *text, size_t len, int64_t *wall_ns);
/* RFC 5322 date in UTC ("Wed, 25 Nov 2026 18:22:10 +0000"); at most 40 bytes with NUL. */
size_t tr_rfc5322_date(int64_t wall_ns, char out[40]);

/* Durations as in contract/lua-modules.md 1.1: "1m 30s", "500ms", "2h". Digits alone, negative
 * and empty texts are TR_EINVAL. *ns is >= 0. */
int tr_duration_parse(const char *text, size_t len, int64_t *ns);
/* Human form ("1m 30s", "20m", "250ms"); returns the length, at most 63. */
size_t tr_duration_format(int64_t ns, char out[64]);

#endif
