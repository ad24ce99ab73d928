/* inline_io: what the threads of the spool do, done by the loop of the thread that has opened it, at once where a
 * thread would be woken and by a timer where it would sleep. One run is then like another, operation by operation.
 * While all is well no timer runs. */
#include "spool/internal.h"

#define LOOK_NS TR_NS_PER_S /* as often as the keeper's thread */

static void
look_again(struct tr_timer *timer)
{
	struct tr_spool *spool = tr_container_of(timer, struct tr_spool, inline_timer);

	inline_work(spool);
}

/* When something is to be tried again, or looked at. */
static void
rest(struct tr_spool *spool)
{
	struct tr_wheel *wheel;

	if (spool->inline_loop == NULL)
		return; /* this was the stop */
	wheel = tr_loop_wheel(spool->inline_loop);
	if (atomic_load(&spool->failing))
		tr_timer_start_at(wheel, &spool->inline_timer, spool->retry_at_ns, look_again);
	else if (spool->spare_error != TR_OK || atomic_load(&spool->full) || atomic_load(&spool->gone) ||
		 atomic_load(&spool->no_space))
		tr_timer_start_at(wheel, &spool->inline_timer, spool->looked_at_ns + LOOK_NS, look_again);
	else
		tr_timer_stop(wheel, &spool->inline_timer);
}

void
inline_work(struct tr_spool *spool)
{
	if (spool->inline_works)
		return; /* an answer that runs at once has handed over more: it is seen in the loop below */
	spool->inline_works = true;
	do {
		if (tr_mono_ns() - spool->looked_at_ns >= LOOK_NS) {
			spool->looked_at_ns = tr_mono_ns();
			spares_make(spool);
			space_check(spool);
		}
		commit_work(spool);
		spares_make_if_well(spool);
	} while (atomic_load(&spool->inbox) != NULL);
	spool->inline_works = false;
	rest(spool);
}

/* Without flush nobody waits for it, and it is held back as long as the thread would: a crash may come before. */
void
inline_handed_over(struct tr_spool *spool)
{
	int64_t due_ns = tr_mono_ns() + spool->config.pace_ns;

	if (!spool->config.no_flush || spool->config.pace_ns < 0 || spool->inline_loop == NULL || spool->inline_works ||
		atomic_load(&spool->n.pending_bytes) >= spool->config.group_bytes)
		inline_work(spool);
	else if (!tr_timer_running(&spool->inline_timer) || spool->inline_timer.due_ns > due_ns)
		tr_timer_start_at(tr_loop_wheel(spool->inline_loop), &spool->inline_timer, due_ns, look_again);
}

void
inline_start(struct tr_spool *spool)
{
	spool->inline_loop = tr_loop_current();
	spool->looked_at_ns = tr_mono_ns();
	tr_timer_start(tr_loop_wheel(spool->inline_loop), &spool->inline_timer, 0, look_again);
}

void
inline_stop(struct tr_spool *spool)
{
	if (spool->inline_loop != NULL)
		tr_timer_stop(tr_loop_wheel(spool->inline_loop), &spool->inline_timer);
	spool->inline_loop = NULL;
}
