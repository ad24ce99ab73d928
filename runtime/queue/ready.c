/* Ready queues: what may be sent now, shared by all workers under one mutex each, and the room that their scheduled
 * queues wait for. */
#include <stdlib.h>

#include "base/clock.h"
#include "queue/admin.h"
#include "queue/engine.h"
#include "queue/outcome.h"
#include "queue/ready.h"
#include "queue/sched.h"
#include "queue/session.h"
#include "queue/worker.h"

#define SMALL_BYTES (256 * 1024) /* a ready queue may hold this much although all together hold too much */

/* --- room: all under the lock ------------------------------------------------------------------------------ */

static uint32_t
room_locked(const struct tr_ready *ready)
{
	struct tr_engine *engine = ready->engine;
	uint32_t taken = ready->messages.count + ready->reserved;
	uint32_t most;

	if (atomic_load(&ready->state) != READY_OK || atomic_load(&ready->suspended) || stopping(engine))
		return 0;
	most = ready->path->max_ready > 0 ? ready->path->max_ready : 1;
	if (taken >= most)
		return 0;
	if (ready->bytes > SMALL_BYTES &&
		atomic_load_explicit(&engine->ready_used, memory_order_relaxed) > (int64_t)engine->ready_bytes)
		return taken == 0 ? 1 : 0;
	return most - taken;
}

static void
wait_locked(struct tr_ready *ready, struct lane *lane)
{
	if (lane->waiting)
		return;
	lane->waiting = true;
	lane->next = NULL;
	if (ready->waiting == NULL)
		ready->waiting = lane;
	else
		*ready->waiting_end = lane;
	ready->waiting_end = &lane->next;
	ready->waiting_count++;
}

/* Gives room to waiting queues, in turn and in equal shares. Returns those to be kicked. */
struct tr_sched *
ready_grant_locked(struct tr_ready *ready)
{
	struct tr_sched *chain = NULL, **end = &chain;
	int state = atomic_load(&ready->state);
	/* Whoever waits for a suspension's end is not told of an error of the path before: it would only wait again. */
	bool answered = state == READY_REPLACED || (state == READY_ERROR && !atomic_load(&ready->suspended));
	uint32_t room = room_locked(ready), share, most;

	if (ready->waiting == NULL)
		return NULL;
	if (!answered) {
		most = state == READY_OK ? ready->path->max_ready : 0;
		if (room == 0 || (ready->messages.count > 0 && room < most / 2))
			return NULL;
	}
	share = room / ready->waiting_count;
	share = share < 1 ? 1 : share > LOAD_MAX ? LOAD_MAX : share;
	while (ready->waiting != NULL && (room > 0 || answered)) {
		struct lane *lane = ready->waiting;
		struct tr_sched *sched = lane->sched;
		uint32_t grant = share < room ? share : room;

		ready->waiting = lane->next;
		ready->waiting_count--;
		lane->waiting = false;
		lane->granted += grant;
		ready->reserved += grant;
		room -= grant;
		if (!atomic_exchange(&sched->kicked, true)) {
			sched->kick_next = NULL;
			*end = sched;
			end = &sched->kick_next;
		}
	}
	return chain;
}

void
ready_kick_chain(struct tr_sched *chain)
{
	while (chain != NULL) {
		struct tr_sched *next = chain->kick_next;

		sched_kick_marked(chain);
		chain = next;
	}
}

void
ready_unwait(struct lane *lane)
{
	struct tr_ready *ready = lane->ready;
	struct tr_sched *chain = NULL;

	pthread_mutex_lock(&ready->lock);
	for (struct lane **at = &ready->waiting; lane->waiting && *at != NULL; at = &(*at)->next) {
		if (*at != lane)
			continue;
		*at = lane->next;
		lane->next = NULL;
		lane->waiting = false;
		ready->waiting_count--;
		ready->waiting_end = &ready->waiting;
		for (struct lane *each = ready->waiting; each != NULL; each = each->next)
			ready->waiting_end = &each->next;
		break;
	}
	ready->reserved -= lane->granted;
	if (lane->granted > 0)
		chain = ready_grant_locked(ready); /* to the others */
	lane->granted = 0;
	pthread_mutex_unlock(&ready->lock);
	ready_kick_chain(chain);
}

uint32_t
ready_reserve(struct lane *lane, uint32_t want)
{
	struct tr_ready *ready = lane->ready;
	struct tr_sched *chain = NULL;
	uint32_t places;
	bool grant = false;

	pthread_mutex_lock(&ready->lock);
	places = lane->granted;
	lane->granted = 0;
	if (places > want) {
		ready->reserved -= places - want;
		places = want;
		grant = true;
	} else if (places < want && ready->waiting == NULL) { /* else it would overtake */
		uint32_t room = room_locked(ready);
		uint32_t more = want - places < room ? want - places : room;

		ready->reserved += more;
		places += more;
	}
	if (places == 0) {
		wait_locked(ready, lane);
		grant = true; /* the path may have been answered since the caller looked: nobody would tell */
	}
	if (grant)
		chain = ready_grant_locked(ready);
	pthread_mutex_unlock(&ready->lock);
	ready_kick_chain(chain);
	return places;
}

uint32_t
ready_try(struct lane *lane, uint32_t want)
{
	struct tr_ready *ready = lane->ready;
	uint32_t places, room;

	pthread_mutex_lock(&ready->lock);
	places = lane->granted;
	lane->granted = 0;
	if (places < want && ready->waiting == NULL) { /* else it would overtake */
		room = room_locked(ready);
		room = want - places < room ? want - places : room;
		ready->reserved += room;
		places += room;
	}
	pthread_mutex_unlock(&ready->lock);
	return places;
}

void
ready_release(struct tr_ready *ready, uint32_t places)
{
	struct tr_sched *chain;

	if (places == 0)
		return;
	pthread_mutex_lock(&ready->lock);
	ready->reserved -= places;
	chain = ready_grant_locked(ready);
	pthread_mutex_unlock(&ready->lock);
	ready_kick_chain(chain);
}

void
ready_push(struct lane *lane, struct message_list *list, uint32_t held, bool more)
{
	struct tr_ready *ready = lane->ready;
	struct tr_sched *sched = lane->sched;
	struct tr_engine *engine = ready->engine;
	struct tr_sched *chain = NULL;
	uint64_t bytes = 0;
	uint32_t room, pushed = 0;
	int64_t expiry_ms = INT64_MAX;

	/* what is needed of the messages is read before the lock is taken */
	for (struct tr_message *message = list->head; message != NULL; message = message->next)
		expiry_ms = tr_min_i64(expiry_ms, message_expiry_ms(sched, message));
	pthread_mutex_lock(&ready->lock);
	held += lane->granted;
	lane->granted = 0;
	ready->reserved -= held;
	room = room_locked(ready);
	if (atomic_load(&ready->state) == READY_OK && !atomic_load(&ready->suspended)) {
		uint32_t most = ready->waiting == NULL && room > held ? room : held;

		while (pushed < most && list->head != NULL) {
			struct tr_message *message = list_pop(list);

			bytes += tr_spool_stub(engine->spool, message->slot)->size;
			message->owner_data = NULL;
			list_add(&ready->messages, message);
			pushed++;
		}
	}
	ready->bytes += bytes;
	if (pushed > 0 && expiry_ms < ready->expiry_ms)
		ready->expiry_ms = expiry_ms;
	if (list->head != NULL || more)
		wait_locked(ready, lane);
	if (more || pushed < held)
		chain = ready_grant_locked(ready);
	pthread_mutex_unlock(&ready->lock);
	atomic_fetch_add_explicit(&engine->ready_used, (int64_t)bytes, memory_order_relaxed);
	ready_kick_chain(chain);
	if (atomic_load(&ready->state) == READY_REPLACED)
		sched_activate(sched); /* to find the new one */
}

void
ready_shed(struct tr_ready *ready, const struct tr_sched *sched, uint64_t before_seq, uint32_t max,
	struct message_list *out)
{
	struct tr_engine *engine = ready->engine;
	struct tr_message **at, *message;
	struct tr_sched *chain = NULL;
	uint64_t freed = 0;

	pthread_mutex_lock(&ready->lock);
	at = &ready->messages.head;
	for (uint32_t looked = 0; looked < LOAD_MAX && out->count < max && (message = *at) != NULL; looked++) {
		if (message->seq >= before_seq || sched_of(engine, message) != sched) {
			at = &message->next;
			continue;
		}
		*at = message->next;
		if (ready->messages.end == &message->next)
			ready->messages.end = at;
		ready->messages.count--;
		freed += tr_spool_stub(engine->spool, message->slot)->size;
		list_add(out, message);
	}
	ready->bytes -= freed;
	atomic_fetch_sub_explicit(&engine->ready_used, (int64_t)freed, memory_order_relaxed);
	if (freed > 0)
		chain = ready_grant_locked(ready);
	pthread_mutex_unlock(&ready->lock);
	ready_kick_chain(chain);
}

/* --- back to the lines ----------------------------------------------------------------------------------------------
 */

void
ready_return_to_lines(struct tr_worker *worker, struct message_list *list, bool in_flight)
{
	struct tr_engine *engine = worker->engine;
	struct outcome_op *save = NULL;
	struct slot_list local = SLOT_LIST_EMPTY;
	struct tr_message *message;

	if (!in_flight)
		count_move(engine, IN_READY, IN_FLIGHT, list->count);
	while ((message = list_pop(list)) != NULL) {
		struct tr_sched *sched = sched_of(engine, message);
		uint32_t slot = message->slot;

		tr_message_revoke(message);
		if ((message->flags & TR_MSG_DIRTY) && (save != NULL || (save = op_new(worker)) != NULL)) {
			op_save(save, message);
			continue;
		}
		tr_message_free(message);
		if (sched->home == worker)
			slots_add(engine->spool, &local, slot);
		else
			worker_post_slot(worker, sched->home, slot, true);
	}
	if (local.count > 0)
		sched_return(worker, &local, true);
	if (save != NULL)
		op_submit(save);
}

void
ready_drain(struct tr_ready *ready, struct tr_worker *worker)
{
	struct message_list list;

	pthread_mutex_lock(&ready->lock);
	list = ready->messages;
	ready->messages = (struct message_list){NULL, NULL, 0};
	atomic_fetch_sub_explicit(&ready->engine->ready_used, (int64_t)ready->bytes, memory_order_relaxed);
	ready->bytes = 0;
	ready->expiry_ms = INT64_MAX;
	pthread_mutex_unlock(&ready->lock);
	ready_return_to_lines(worker, &list, false);
}

void
ready_replace(struct tr_ready *ready, struct tr_worker *worker)
{
	struct tr_sched *chain;

	pthread_mutex_lock(&ready->lock);
	atomic_store(&ready->state, READY_REPLACED); /* stays in the table until its sessions have ended */
	chain = ready_grant_locked(ready);
	pthread_mutex_unlock(&ready->lock);
	ready_drain(ready, worker);
	ready_kick_chain(chain);
	sessions_close_all(ready, worker);
}

/* --- home: timers, kicks, housekeeping
 * -------------------------------------------------------------------------------- */

static void
look_after(struct tr_ready *ready)
{
	bool told = permit_told(ready);
	struct tr_sched *chain;
	int64_t now_ns = tr_mono_ns();

	if (atomic_load(&ready->suspended) && !admin_ready_suspended(ready->engine, ready->name, NULL))
		atomic_store(&ready->suspended, false);
	if (atomic_load(&ready->state) == READY_ERROR && now_ns >= ready->error_until_ns) {
		pthread_mutex_lock(&ready->lock);
		atomic_store(&ready->state, READY_RESOLVING);
		pthread_mutex_unlock(&ready->lock);
		ready_resolve(ready);
	}
	pthread_mutex_lock(&ready->lock);
	chain = ready_grant_locked(ready);
	pthread_mutex_unlock(&ready->lock);
	ready_kick_chain(chain);
	bool opened = ready_balance(ready, ready->home);
	if (told)
		permit_settle(ready, opened);
}

static void kicked(struct tr_ready *ready);

static void
timer_due(struct tr_timer *timer)
{
	kicked(tr_container_of(timer, struct tr_ready, timer)); /* there may be a later moment, too */
}

/* What a kick does: sets the timer for the moments that the state names, and looks after it. */
static void
kicked(struct tr_ready *ready)
{
	int64_t due_ns = INT64_MAX, until_ns = 0, now_ns = tr_mono_ns();

	pthread_mutex_lock(&ready->lock);
	int64_t moments[] = {ready->open_after_ns, ready->permit_after_ns, ready->paced_until_ns,
		ready->gate.state == TR_GATE_CLOSED ? ready->gate.reopen_at_ns : 0,
		tr_gate_is_paced(&ready->gate) && ready->messages.count > 0 ? ready->gate.next_at_ns : 0};
	for (size_t i = 0; i < TR_COUNT(moments); i++)
		if (moments[i] > now_ns)
			due_ns = tr_min_i64(due_ns, moments[i]);
	pthread_mutex_unlock(&ready->lock);
	if (atomic_load(&ready->state) == READY_ERROR)
		due_ns = tr_min_i64(due_ns, ready->error_until_ns);
	if (atomic_load(&ready->suspended) && admin_ready_suspended(ready->engine, ready->name, &until_ns))
		due_ns = tr_min_i64(due_ns, until_ns);
	if (due_ns != INT64_MAX && !stopping(ready->engine))
		tr_timer_start_at(tr_loop_wheel(ready->home->loop), &ready->timer, due_ns, timer_due);
	look_after(ready);
}

void
ready_kick_arrived(struct tr_mail *mail)
{
	struct tr_ready *ready = tr_container_of(mail, struct tr_ready, kick_mail);

	atomic_store(&ready->kicked, false);
	kicked(ready);
	ready_unref(ready);
}

void
ready_kick(struct tr_ready *ready)
{
	if (atomic_exchange(&ready->kicked, true))
		return;
	atomic_fetch_add_explicit(&ready->refs, 1, memory_order_relaxed);
	tr_loop_post(ready->home->loop, &ready->kick_mail); /* also from home: never deep inside a caller */
}

static void
expire_ready(struct tr_ready *ready)
{
	struct message_list keep = {NULL, NULL, 0}, gone = {NULL, NULL, 0};
	struct judge judge = {.worker = ready->home};
	int64_t now_ms = tr_wall_ms(), next_ms = INT64_MAX;
	struct tr_message *message;

	pthread_mutex_lock(&ready->lock);
	if (ready->expiry_ms <= now_ms) {
		while ((message = list_pop(&ready->messages)) != NULL) {
			int64_t expiry_ms = message_expiry_ms(sched_of(ready->engine, message), message);

			if (expiry_ms > now_ms) {
				next_ms = tr_min_i64(next_ms, expiry_ms);
				list_add(&keep, message);
			} else {
				uint32_t size = tr_spool_stub(ready->engine->spool, message->slot)->size;

				ready->bytes -= size;
				atomic_fetch_sub_explicit(&ready->engine->ready_used, size, memory_order_relaxed);
				list_add(&gone, message);
			}
		}
		ready->messages = keep;
		ready->expiry_ms = next_ms;
	}
	pthread_mutex_unlock(&ready->lock);
	while ((message = list_pop(&gone)) != NULL) {
		if (judge_message(&judge, sched_of(ready->engine, message), message, JUDGE_TAKE, now_ms)) {
			struct message_list one = {NULL, NULL, 0}; /* max_age was raised meanwhile */

			list_add(&one, message);
			ready_return_to_lines(ready->home, &one, false);
		}
	}
	judge_finish(&judge, ready);
}

void
ready_housekeeping(struct tr_worker *worker)
{
	struct tr_engine *engine = worker->engine;
	int64_t now_ns = tr_mono_ns();
	uint32_t epoch = atomic_load(&engine->epoch);
	struct tr_ready **mine = NULL;
	uint32_t count = 0, cap = 0;

	pthread_mutex_lock(&engine->ready_lock);
	for (uint32_t i = 0; i <= engine->ready_mask; i++) {
		struct tr_ready **at = &engine->ready_buckets[i];

		while (*at != NULL) {
			struct tr_ready *ready = *at;

			if (ready->home != worker) {
				at = &ready->hash_next;
			} else if (atomic_load_explicit(&ready->refs, memory_order_acquire) == 0 &&
				   ready->messages.count == 0) {
				*at = ready->hash_next; /* nobody can find it now */
				ready_free(ready);
			} else {
				if (count == cap) {
					uint32_t more = cap ? cap * 2 : 64;
					struct tr_ready **grown = realloc(mine, more * sizeof *grown);

					if (grown == NULL)
						break; /* the rest in ten seconds */
					mine = grown;
					cap = more;
				}
				atomic_fetch_add_explicit(&ready->refs, 1, memory_order_relaxed);
				mine[count++] = ready;
				at = &ready->hash_next;
			}
		}
	}
	pthread_mutex_unlock(&engine->ready_lock);
	for (uint32_t i = 0; i < count; i++) {
		struct tr_ready *ready = mine[i];
		const struct tr_path_config *path = ready->path; /* only home writes it */

		if (atomic_load_explicit(&ready->refs, memory_order_acquire) == 1)
			ready_drain(ready, worker); /* its queues send elsewhere now: what is left goes with them */
		if (path != NULL && atomic_load(&ready->state) == READY_OK &&
			(path->refresh_on_epoch ? ready->epoch != epoch
						: now_ns - ready->resolved_at_ns >= path->refresh_interval_ns))
			ready_resolve(ready);
		expire_ready(ready);
		if (ready->messages.count == 0)
			permit_unwait(ready); /* it must not be kept for that */
		kicked(ready);
		ready_unref(ready);
	}
	free(mine);
}
