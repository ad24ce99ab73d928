/* The commit thread: collects what the workers hand over, decides when to write, what goes into a group,
 * and what becomes of a group that could not be written. */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "spool/internal.h"

#define BACKOFF_MIN_NS (50 * TR_NS_PER_MS)
#define BACKOFF_MAX_NS (1000 * TR_NS_PER_MS)
#define LAST_WAIT_NS (200 * TR_NS_PER_MS)
#define LAST_TRIES 8 /* of outcomes when the spool closes over a failing disk */

void
job_list_add(struct job_list *list, struct tr_job *job)
{
	job->mail.next = NULL;
	if (list->last != NULL)
		list->last->mail.next = &job->mail;
	else
		list->first = job;
	list->last = job;
	list->bytes += job->bytes;
}

struct tr_job *
job_list_take(struct job_list *list)
{
	struct tr_job *job = list->first;

	if (job == NULL)
		return NULL;
	list->first = job_next(job);
	if (list->first == NULL)
		list->last = NULL;
	list->bytes -= job->bytes;
	job->mail.next = NULL;
	return job;
}

static void
append(struct job_list *to, struct job_list *from)
{
	struct tr_job *job;

	while ((job = job_list_take(from)) != NULL)
		job_list_add(to, job);
}

/* --- sleeping and waking ------------------------------------------------------------------------------ */

void
commit_wake(struct tr_spool *spool)
{
	if (atomic_exchange(&spool->nap, NAP_NONE) == NAP_NONE)
		return;
	pthread_mutex_lock(&spool->nap_mu);
	pthread_cond_signal(&spool->nap_cond);
	pthread_mutex_unlock(&spool->nap_mu);
}

void
commit_hand_over(struct tr_spool *spool, struct tr_mail *newest, struct tr_mail *oldest, uint64_t bytes, bool urgent)
{
	struct tr_mail *head = atomic_load_explicit(&spool->inbox, memory_order_relaxed);
	int nap;

	do {
		oldest->next = head;
	} while (!atomic_compare_exchange_weak(&spool->inbox, &head, newest));
	if (spool->config.inline_io) {
		inline_handed_over(spool);
		return;
	}
	nap = atomic_load(&spool->nap); /* after the exchange, as the thread looks at the box after it set its nap */
	if (nap == NAP_IDLE || (nap == NAP_PACED && urgent) ||
		(nap != NAP_NONE && atomic_load_explicit(&spool->n.pending_bytes, memory_order_relaxed) >=
					    spool->config.group_bytes))
		commit_wake(spool);
	(void)bytes;
}

/* Threads wait in real time, whatever clock the runtime has: ns < 0 without end. True: the time is over. */
static bool
nap(struct tr_spool *spool, enum nap kind, int64_t ns)
{
	struct timespec until;
	int err = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	ns += until.tv_nsec;
	until.tv_sec += ns / TR_NS_PER_S;
	until.tv_nsec = ns % TR_NS_PER_S;
	tr_pulse_rest();
	pthread_mutex_lock(&spool->nap_mu);
	atomic_store(&spool->nap, kind);
	if (atomic_load(&spool->inbox) != NULL && kind != NAP_GAP) /* it came before the nap was seen */
		atomic_store(&spool->nap, NAP_NONE);
	while (atomic_load(&spool->nap) != NAP_NONE && err == 0 && !(kind != NAP_GAP && atomic_load(&spool->stopping)))
		err = pthread_cond_timedwait(&spool->nap_cond, &spool->nap_mu, &until);
	atomic_store(&spool->nap, NAP_NONE);
	pthread_mutex_unlock(&spool->nap_mu);
	tr_pulse_work();
	return err == ETIMEDOUT;
}

static void
collect(struct tr_spool *spool)
{
	struct tr_mail *mail = atomic_exchange(&spool->inbox, NULL), *next, *forward = NULL;

	for (; mail != NULL; mail = next) {
		next = mail->next;
		mail->next = forward;
		forward = mail;
	}
	for (mail = forward; mail != NULL; mail = next) {
		struct tr_job *job = tr_container_of(mail, struct tr_job, mail);

		next = mail->next;
		job_list_add(job->urgent ? &spool->urgent : &spool->normal, job);
	}
}

/* --- answers --------------------------------------------------------------------------------------------- */

struct answers { /* one chain a loop, so one wake a loop */
	struct tr_loop *loop;
	struct tr_mail *first, *last;
};

static void
post(struct answers *answers, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		tr_loop_post_chain(answers[i].loop, answers[i].first, answers[i].last);
}

static void
answer(struct tr_spool *spool, struct job_list *list, int status)
{
	struct answers answers[64];
	struct tr_job *job;
	uint32_t count = 0, i, holds = 0;

	while ((job = job_list_take(list)) != NULL) {
		holds++;
		job->status = status;
		atomic_fetch_sub_explicit(&spool->n.pending_bytes, job->bytes, memory_order_relaxed);
		if (status != TR_OK)
			atomic_fetch_add_explicit(&spool->n.refused, 1, memory_order_relaxed);
		for (i = 0; i < count && answers[i].loop != job->loop; i++)
			;
		if (i == count && count == TR_COUNT(answers)) {
			post(answers, count);
			count = i = 0;
		}
		if (i == count)
			answers[count++] = (struct answers){job->loop, &job->mail, &job->mail};
		else
			answers[i].last->next = &job->mail;
		answers[i].last = &job->mail;
	}
	post(answers, count);
	while (!spool->config.inline_io && holds-- > 0)
		tr_hold_drop();
}

/* --- groups ---------------------------------------------------------------------------------------------- */

/* Takes from `from` while the group stays within `limit` bytes; false when something stays behind. */
static bool
take(struct job_list *from, struct job_list *batch, uint64_t limit)
{
	while (from->first != NULL) {
		if (batch->first != NULL && batch->bytes + from->first->bytes > limit)
			return false;
		job_list_add(batch, job_list_take(from));
	}
	return true;
}

static void
take_batch(struct tr_spool *spool, struct job_list *batch)
{
	const struct tr_job *first = spool->kept.first != NULL     ? spool->kept.first
				     : spool->urgent.first != NULL ? spool->urgent.first
								   : spool->normal.first;
	uint64_t limit = spool->config.group_bytes, room = group_room(spool);

	if (room < first->bytes)
		room = group_room_fresh(spool);
	if (limit > room)
		limit = room;
	if (take(&spool->kept, batch, limit) && take(&spool->urgent, batch, limit))
		take(&spool->normal, batch, limit);
}

static void
split_intake(struct job_list *list, struct job_list *intake, struct job_list *outcomes)
{
	struct tr_job *job;

	while ((job = job_list_take(list)) != NULL)
		job_list_add(job->intake ? intake : outcomes, job);
}

static void
set_failing(struct tr_spool *spool, int err)
{
	if (!atomic_load(&spool->failing))
		tr_log(TR_LEVEL_ERROR, "spool", "cannot write to %s (%s): nothing new is taken until it works again",
			spool->meta, tr_err_text(err));
	atomic_store(&spool->last_error, err);
	atomic_store(&spool->failing, true);
	spool->backoff_ns = spool->backoff_ns == 0 ? BACKOFF_MIN_NS : tr_min_i64(spool->backoff_ns * 2, BACKOFF_MAX_NS);
	spool->retry_at_ns = tr_mono_ns() + spool->backoff_ns;
}

static void
set_working(struct tr_spool *spool)
{
	if (atomic_load(&spool->failing))
		tr_log(TR_LEVEL_INFO, "spool", "%s can be written again", spool->meta);
	atomic_store(&spool->failing, false);
	atomic_store(&spool->outcome_stuck, false);
	spool->backoff_ns = 0;
}

static void
commit_batch(struct tr_spool *spool)
{
	struct job_list batch = {0}, intake = {0}, outcomes = {0};
	bool has_intake = false;
	int err, again;

	take_batch(spool, &batch);
	for (struct tr_job *job = batch.first; job != NULL && !has_intake; job = job_next(job))
		has_intake = job->intake;
	err = group_write(spool, &batch, NULL, 0, !has_intake);
	spool->last_sync_ns = tr_mono_ns();
	if (err == TR_OK) {
		set_working(spool);
		answer(spool, &batch, TR_OK);
		return;
	}
	/* The next segment's header tells where the good frames of this one end: only when that is on disk, a
	 * refused change cannot come back by a crash. So the seal is tried before anybody is told. */
	split_intake(&batch, &intake, &outcomes);
	if (spool->current == NULL || spool->current->failed || outcomes.first != NULL)
		again = group_write(spool, &outcomes, NULL, 0, true);
	else
		again = TR_OK; /* no file for intake; what is written is good */
	if (again == TR_OK) {
		set_working(spool);
		answer(spool, &outcomes, TR_OK);
	} else {
		set_failing(spool, again);
		if (outcomes.first != NULL) {
			struct job_list rest = spool->kept;

			spool->kept = (struct job_list){0};
			append(&outcomes, &rest); /* they were first in the queue */
			spool->kept = outcomes;
			atomic_store(&spool->outcome_stuck, true);
		}
	}
	answer(spool, &intake, err == TR_ENOSPC ? TR_ENOSPC : TR_EIO);
}

/* While the disk fails, intake is told at once. */
static void
refuse_intake(struct tr_spool *spool)
{
	struct job_list intake = {0}, rest = {0};
	int err = atomic_load(&spool->last_error);

	split_intake(&spool->urgent, &intake, &rest);
	spool->urgent = rest;
	rest = (struct job_list){0};
	split_intake(&spool->normal, &intake, &rest);
	spool->normal = rest;
	answer(spool, &intake, err == TR_ENOSPC ? TR_ENOSPC : TR_EIO);
}

static bool
any_job(const struct tr_spool *spool)
{
	return spool->kept.first != NULL || spool->urgent.first != NULL || spool->normal.first != NULL;
}

/* Monotonic moment of the next group, and what is slept for until then. */
static int64_t
due_at(const struct tr_spool *spool, enum nap *kind)
{
	uint64_t bytes = spool->urgent.bytes + spool->normal.bytes;

	*kind = NAP_PACED;
	if (tr_clock_is_virtual() || atomic_load(&spool->stopping) || bytes >= spool->config.group_bytes ||
		spool->kept.first != NULL) /* outcomes of a failed group that did not all fit into the next */
		return 0;
	if (spool->urgent.first != NULL) {
		*kind = NAP_GAP;
		return spool->last_sync_ns + spool->config.urgent_gap_ns;
	}
	return spool->normal.first->since_ns + spool->config.pace_ns;
}

/* While writes fail: waits, tries again what is kept, or whether the disk works at all. */
static void
retry(struct tr_spool *spool)
{
	int64_t wait_ns = spool->retry_at_ns - tr_mono_ns();
	int err;

	if (tr_clock_is_virtual() && !spool->config.inline_io)
		wait_ns = TR_NS_PER_MS;
	refuse_intake(spool);
	if (wait_ns > 0 && !atomic_load(&spool->stopping) &&
		(spool->config.inline_io || !nap(spool, NAP_IDLE, wait_ns)))
		return; /* woken: intake to be refused */
	if (any_job(spool)) {
		commit_batch(spool);
		return;
	}
	err = group_write(spool, NULL, NULL, 0, true);
	if (err == TR_OK)
		set_working(spool);
	else
		set_failing(spool, err);
}

void
commit_work(struct tr_spool *spool)
{
	collect(spool);
	if (atomic_load(&spool->failing)) {
		retry(spool);
		return;
	}
	while (any_job(spool) && !atomic_load(&spool->failing))
		commit_batch(spool);
	while (!atomic_load(&spool->failing) && reclaim_step(spool))
		;
}

static void
give_up(struct tr_spool *spool)
{
	uint64_t lost = 0;

	append(&spool->kept, &spool->urgent);
	append(&spool->kept, &spool->normal);
	for (struct tr_job *job = spool->kept.first; job != NULL; job = job_next(job))
		lost++;
	if (lost > 0)
		tr_log(TR_LEVEL_ERROR, "spool",
			"closed with %llu changes that could not be stored in %s (%s): after the "
			"next start their messages are as they were before",
			(unsigned long long)lost, spool->meta, tr_err_text(atomic_load(&spool->last_error)));
	answer(spool, &spool->kept, atomic_load(&spool->last_error));
}

static void *
commit_main(void *arg)
{
	struct tr_spool *spool = arg;
	struct tr_pulse pulse;
	int tries = 0;

	pthread_setname_np(pthread_self(), "spool-commit");
	tr_pulse_enter(&pulse, "the commit thread", STUCK_AT);
	for (;;) {
		bool stopping = atomic_load(&spool->stopping);
		enum nap kind;
		int64_t due, now;

		tr_pulse_work();
		collect(spool);
		if (atomic_load(&spool->failing)) {
			if (stopping && (!any_job(spool) || ++tries > LAST_TRIES))
				break;
			if (stopping)
				nap(spool, NAP_GAP,
					tr_clock_is_virtual() ? TR_NS_PER_MS
							      : tr_min_i64(spool->backoff_ns, LAST_WAIT_NS));
			retry(spool);
			continue;
		}
		if (!any_job(spool)) {
			if (stopping)
				break;
			if (!reclaim_step(spool))
				nap(spool, NAP_IDLE, 3600 * TR_NS_PER_S);
			continue;
		}
		due = due_at(spool, &kind);
		now = tr_mono_ns();
		if (due > now) {
			nap(spool, kind, due - now);
			continue;
		}
		commit_batch(spool);
		reclaim_step(spool);
	}
	give_up(spool);
	tr_pulse_leave(&pulse);
	return NULL;
}

int
commit_start(struct tr_spool *spool)
{
	spool->last_sync_ns = 0;
	if (spool->config.inline_io) {
		inline_start(spool);
		return TR_OK;
	}
	return pthread_create(&spool->committer, NULL, commit_main, spool) == 0 ? TR_OK : TR_ENOMEM;
}

void
commit_stop(struct tr_spool *spool)
{
	if (atomic_exchange(&spool->stopping, true))
		return; /* by tr_spool_finish() */
	if (spool->config.inline_io) {
		commit_work(spool);
		for (int tries = 0; any_job(spool) && tries < LAST_TRIES; tries++)
			commit_work(spool);
		inline_stop(spool);
		give_up(spool);
		return;
	}
	commit_wake(spool);
	pthread_mutex_lock(&spool->nap_mu);
	pthread_cond_signal(&spool->nap_cond);
	pthread_mutex_unlock(&spool->nap_mu);
	tr_pulse_join(spool->committer);
}

void
tr_spool_finish(struct tr_spool *spool)
{
	if (!spool->recovered)
		return;
	for (struct port *port = spool->ports; port != NULL; port = port->next)
		port_flush(port);
	commit_stop(spool);
}

bool
tr_spool_under_way(const struct tr_spool *spool)
{
	return atomic_load_explicit(&spool->outstanding, memory_order_acquire) > 0;
}

bool
tr_spool_pressure(const struct tr_spool *spool)
{
	return atomic_load_explicit(&spool->n.pending_bytes, memory_order_relaxed) > spool->config.pending_bytes ||
	       atomic_load_explicit(&spool->outcome_stuck, memory_order_relaxed);
}

bool
tr_spool_accepts(const struct tr_spool *spool, const char **why)
{
	const char *text = atomic_load_explicit(&spool->gone, memory_order_relaxed) ? "the spool's directory is gone"
			   : atomic_load_explicit(&spool->failing, memory_order_relaxed) ? "the spool cannot be written"
			   : atomic_load_explicit(&spool->no_space, memory_order_relaxed)
				   ? "too little free space for the spool"
			   : !atomic_load_explicit(&spool->full, memory_order_relaxed) ? NULL
			   : atomic_load_explicit(&spool->full_error, memory_order_relaxed) == TR_EMFILE
				   ? "the spool finds no file descriptor: too many open files"
				   : "the spool's disk is full";

	if (why != NULL)
		*why = text;
	return text == NULL;
}
