/* What a session may cost others. Work: commands that lead to no message and input that is thrown away are free for a
 * while, then they have a rate that all sessions of a worker share, so that any number of clients that talk nonsense
 * leaves most of the worker to those that bring mail. Memory: when it runs short, who holds much and is slow makes
 * room. */
#include "base/clock.h"
#include "base/diag.h"
#include "ingress/intake.h"
#include "ingress/smtp_internal.h"

#define FREE_UNITS 100                  /* since the last message that was stored */
#define UNIT_NS (TR_NS_PER_MS / 10)     /* then 10,000 a second and worker, of some 5 to 10 us each */
#define REFUSAL_UNITS 4                 /* it makes a log record */
#define UNITS_AT_ONCE 16                /* a wait for each one would cost more than the work */
#define UNIT_BYTES (4 * 1024)           /* of input that is thrown away */
#define AHEAD_NS (60 * TR_NS_PER_S)     /* no turn is further away */
#define SLOW_BYTES_PER_S INT64_C(16384) /* of a text */
#define SLOW_NS TR_NS_PER_S             /* seen for so long at least */
#define SMALL_BYTES INT64_C(65536)      /* who holds less gets room even from those who are fast ... */
#define MUCH 16                         /* ... if they hold so many times more */
#define IDLE_NS (10 * TR_NS_PER_S)  /* who says nothing for so long, or half of client_timeout, may lose its place */
#define LOOK_NS (10 * TR_NS_PER_MS) /* looking for somebody slow again, where there was none */

static _Thread_local struct tr_smtp_crowd *crowds; /* those with sessions */

void
tr_smtp_crowd_add(struct tr_smtp_session *session, struct tr_smtp_crowd *crowd)
{
	if (crowd->first == NULL) {
		crowd->next = crowds;
		crowds = crowd;
	}
	session->crowd = crowd;
	session->next = crowd->first;
	session->prev = &crowd->first;
	if (session->next != NULL)
		session->next->prev = &session->next;
	crowd->first = session;
}

void
tr_smtp_crowd_remove(struct tr_smtp_session *session)
{
	struct tr_smtp_crowd **at = &crowds;

	*session->prev = session->next;
	if (session->next != NULL)
		session->next->prev = session->prev;
	if (session->crowd->first != NULL)
		return;
	while (*at != NULL && *at != session->crowd)
		at = &(*at)->next;
	if (*at != NULL)
		*at = (*at)->next;
}

/* --- work ----------------------------------------------------------------------------------------------------- */

static void
charge(struct tr_smtp_session *session, uint32_t units)
{
	if (session->fruitless < FREE_UNITS)
		session->fruitless += units;
	else
		session->paid -= units;
}

void
tr_smtp_charge(struct tr_smtp_session *session, bool refused)
{
	charge(session, refused ? REFUSAL_UNITS : 1);
}

void
tr_smtp_charge_bytes(struct tr_smtp_session *session, size_t len)
{
	session->doomed_bytes += len;
	charge(session, (uint32_t)(session->doomed_bytes / UNIT_BYTES));
	session->doomed_bytes %= UNIT_BYTES;
}

static void
pause_ended(struct tr_timer *timer)
{
	struct tr_smtp_session *session = tr_container_of(timer, struct tr_smtp_session, timer);

	session->paused = session->pacing = false;
	tr_smtp_go_on(session);
}

void
tr_smtp_pause(struct tr_smtp_session *session, int64_t ns)
{
	session->paused = true;
	tr_smtp_wait(session);
	tr_timer_start(tr_loop_wheel(tr_worker_loop(session->worker)), &session->timer, ns, pause_ended);
}

bool
tr_smtp_may_go_on(struct tr_smtp_session *session)
{
	struct tr_smtp_crowd *crowd = session->crowd;
	int64_t now_ns, slot_ns, units;

	if (session->fruitless < FREE_UNITS || session->paid > 0)
		return true;
	if (tr_spool_pressure(tr_smtp_spool(session))) { /* refusals make records */
		session->pacing = true;
		tr_smtp_pause(session, TR_SMTP_PRESSURE_NS);
		return false;
	}
	now_ns = tr_mono_ns();
	slot_ns = crowd->slot_at_ns;
	if (slot_ns < now_ns)
		slot_ns = now_ns;
	else if (slot_ns > now_ns + AHEAD_NS)
		slot_ns = now_ns + AHEAD_NS;
	units = UNITS_AT_ONCE - session->paid;
	session->paid = UNITS_AT_ONCE;
	crowd->slot_at_ns = slot_ns + units * UNIT_NS;
	if (slot_ns == now_ns)
		return true;
	session->pacing = true;
	tr_smtp_pause(session, slot_ns - now_ns);
	return false;
}

/* --- memory --------------------------------------------------------------------------------------------------- */

static int64_t
holds(const struct tr_smtp_session *session)
{
	return session->rcpt_bytes + (session->text != NULL ? session->text->counted : 0);
}

/* True: what it holds could be taken from it. While we are at work for it, or make it wait, it is not to blame. */
static bool
is_open(const struct tr_smtp_session *session)
{
	if ((session->waiting && !session->pacing && !session->draining) || session->processing || session->dead)
		return false;
	return session->state == TR_SMTP_AT_COMMAND ||
	       (session->state == TR_SMTP_AT_TEXT && !session->text->no_memory && !session->text->no_space);
}

static bool
is_slow(const struct tr_smtp_session *session, int64_t now_ns)
{
	const struct tr_smtp_text *text = session->text;
	int64_t elapsed_ns;

	if (session->pacing || session->draining)
		return true;
	if (text == NULL)
		return now_ns - session->heard_at_ns >= SLOW_NS;
	elapsed_ns = now_ns - text->window_at_ns;
	return elapsed_ns >= SLOW_NS && text->window_bytes < elapsed_ns / TR_NS_PER_MS * SLOW_BYTES_PER_S / 1000;
}

static void
take_from(struct tr_smtp_session *session)
{
	tr_log(TR_LEVEL_WARN, "smtp_server",
		"%s: memory for what is being received is short: a client that holds %lld bytes of it has to make room",
		session->shared->text, (long long)holds(session));
	if (session->state == TR_SMTP_AT_TEXT) {
		session->text->no_memory = true; /* 452 once it ends */
		tr_smtp_text_give_up(session->text);
	} else {
		tr_smtp_replyf(
			session, 421, TR_SMTP_CLOSE, "4.3.2 %s load shedding. Try later", session->params->hostname);
	}
}

/* Of all sessions of this thread the slow one that holds most makes room; if that is little, any that holds at least
 * `much` (INT64_MAX: nobody who is fast, or holds little). False: there is none. */
static bool
make_room(int64_t much)
{
	static _Thread_local int64_t look_at_ns;
	struct tr_smtp_session *slowest = NULL, *largest = NULL;
	int64_t now_ns = tr_mono_ns(), most_slow = 0, most = much - 1;

	if (much == INT64_MAX && now_ns < look_at_ns && look_at_ns - now_ns <= LOOK_NS)
		return false;
	for (struct tr_smtp_crowd *crowd = crowds; crowd != NULL; crowd = crowd->next) {
		for (struct tr_smtp_session *session = crowd->first; session != NULL; session = session->next) {
			int64_t bytes = holds(session);

			if (bytes == 0 || !is_open(session))
				continue;
			if (bytes > most_slow && is_slow(session, now_ns)) {
				most_slow = bytes;
				slowest = session;
			}
			if (bytes > most) {
				most = bytes;
				largest = session;
			}
		}
	}
	if (most_slow < SMALL_BYTES && (largest != NULL || much == INT64_MAX))
		slowest = largest; /* little is not worth it */
	if (slowest == NULL) {
		look_at_ns = now_ns + LOOK_NS;
		return false;
	}
	take_from(slowest);
	return true;
}

bool
tr_smtp_make_room(void)
{
	return make_room(INT64_MAX);
}

bool
tr_smtp_take_memory(struct tr_smtp_session *session, int64_t bytes)
{
	struct tr_smtp_shared *shared = session->shared;
	bool taken = tr_intake_take(TR_INTAKE_MAIL, bytes);
	int64_t much = INT64_MAX, own = holds(session) + bytes;

	if (taken && !tr_intake_is_short())
		return true;
	if (!taken && own < SMALL_BYTES)
		much = own * MUCH;
	if (!make_room(much) && shared->make_room != NULL)
		shared->make_room(shared, session->worker);
	return taken || tr_intake_take(TR_INTAKE_MAIL, bytes);
}

/* --- places --------------------------------------------------------------------------------------------------- */

bool
tr_smtp_make_place(void)
{
	static _Thread_local int64_t look_at_ns;
	struct tr_smtp_session *oldest = NULL;
	int64_t now_ns = tr_mono_ns();

	if (now_ns < look_at_ns && look_at_ns - now_ns <= LOOK_NS)
		return false;
	for (struct tr_smtp_crowd *crowd = crowds; crowd != NULL; crowd = crowd->next) {
		for (struct tr_smtp_session *session = crowd->first; session != NULL; session = session->next) {
			int64_t idle_ns = tr_min_i64(IDLE_NS, session->params->client_timeout_ns / 2);

			if (session->state == TR_SMTP_AT_COMMAND && !session->in_mail && is_open(session) &&
				now_ns - session->heard_at_ns >= idle_ns &&
				(oldest == NULL || session->heard_at_ns < oldest->heard_at_ns))
				oldest = session;
		}
	}
	if (oldest == NULL) {
		look_at_ns = now_ns + LOOK_NS;
		return false;
	}
	oldest->stopping = true; /* its descriptor is needed: nobody waits until it has read why */
	tr_smtp_replyf(oldest, 421, TR_SMTP_CLOSE, "4.3.2 %s idle, and others wait", oldest->params->hostname);
	return true;
}
