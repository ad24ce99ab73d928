/* A worker's part: what it posts to others once a turn, its wheel of stubs, its housekeeping. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "queue/admin.h"
#include "queue/dead.h"
#include "queue/engine.h"
#include "queue/order.h"
#include "queue/outcome.h"
#include "queue/ready.h"
#include "queue/sched.h"
#include "queue/session.h"
#include "queue/worker.h"

struct tr_worker *
worker_here(struct tr_engine *engine)
{
	struct tr_loop *loop = tr_loop_current();

	for (uint32_t i = 0; i < engine->worker_count; i++) {
		if (engine->workers[i].loop == loop)
			return &engine->workers[i];
	}
	return NULL;
}

/* xoroshiro128+ (Blackman and Vigna, public domain): seeded per worker, the same seed, the same run */
double
tr_worker_random(struct tr_worker *worker)
{
	uint64_t a = worker->random[0], b = worker->random[1];
	uint64_t sum = a + b;

	b ^= a;
	worker->random[0] = ((a << 24) | (a >> 40)) ^ b ^ (b << 16);
	worker->random[1] = (b << 37) | (b >> 27);
	return (double)(sum >> 11) * 0x1.0p-53;
}

/* --- posts --------------------------------------------------------------------------------------------- */

static void
post_arrived(struct tr_mail *mail)
{
	struct post *post = tr_container_of(mail, struct post, mail);
	struct tr_worker *worker = post->to;
	struct tr_message *message;

	if (post->kind == POST_INSERT) {
		while ((message = list_pop(&post->messages)) != NULL)
			sched_insert(sched_of(worker->engine, message), message, post->reason);
	} else {
		sched_return(worker, &post->slots, post->kind == POST_FRONT);
	}
	free(post);
}

static struct post *
post_open(struct tr_worker *from, struct tr_worker *to, enum post_kind kind, const char *reason)
{
	struct post_chain *chain = &from->posts[to->index];
	struct post *post = chain->last;

	if (post != NULL && post->kind == kind && post->reason == reason)
		return post;
	post = calloc(1, sizeof *post);
	if (post == NULL)
		return NULL;
	post->mail.fn = post_arrived;
	post->to = to;
	post->kind = kind;
	post->reason = reason;
	post->slots = SLOT_LIST_EMPTY;
	if (chain->last != NULL)
		chain->last->mail.next = &post->mail;
	else
		chain->first = post;
	chain->last = post;
	if (!from->posted)
		tr_hold_take(); /* until the end of the turn */
	from->posted = true;
	return post;
}

void
worker_post_message(struct tr_worker *from, struct tr_worker *to, struct tr_message *message, const char *reason)
{
	struct post *post = post_open(from, to, POST_INSERT, reason);

	if (post == NULL) {
		tr_log(TR_LEVEL_ERROR, "queue", "no memory to hand a message to its worker: it has to wait");
		count_move(from->engine, IN_READY, IN_PARKED, 1);
		sched_count(sched_of(from->engine, message), -1); /* it is inserted once more */
		tr_stub_set_queue(tr_spool_stub(from->engine->spool, message->slot), NO_SCHED);
		list_add(&from->stranded, message);
		return;
	}
	list_add(&post->messages, message);
}

void
worker_post_slot(struct tr_worker *from, struct tr_worker *to, uint32_t slot, bool front)
{
	struct post *post = post_open(from, to, front ? POST_FRONT : POST_RETURN, NULL);

	if (post == NULL) {
		tr_log(TR_LEVEL_ERROR, "queue", "no memory to hand a stub to its worker: it has to wait");
		count_move(from->engine, IN_FLIGHT, IN_PARKED, 1);
		slots_add(from->engine->spool, &from->unposted, slot);
		return;
	}
	slots_add(from->engine->spool, &post->slots, slot);
}

void
worker_insert_again(struct tr_worker *worker)
{
	struct tr_engine *engine = worker->engine;
	struct message_list messages = worker->stranded;
	struct slot_list slots = worker->unposted;
	struct tr_message *message;

	worker->stranded = (struct message_list){NULL, NULL, 0};
	worker->unposted = SLOT_LIST_EMPTY;
	while ((message = list_pop(&messages)) != NULL) { /* what fails is in the lists again */
		count_add(engine, IN_PARKED, -1);
		tr_queue_insert(worker, message, "Received");
	}
	while (slots.count > 0) {
		uint32_t slot = slots_pop(engine->spool, &slots);

		count_move(engine, IN_PARKED, IN_FLIGHT, 1);
		worker_post_slot(worker, sched_at(engine, tr_spool_stub(engine->spool, slot)->queue)->home, slot, true);
	}
}

void
worker_flush(struct tr_worker *worker)
{
	if (!worker->posted)
		return;
	worker->posted = false;
	for (uint32_t i = 0; i < worker->engine->worker_count; i++) {
		struct post_chain chain = worker->posts[i];

		worker->posts[i] = (struct post_chain){NULL, NULL};
		if (chain.first != NULL)
			tr_loop_post_chain(worker->engine->workers[i].loop, &chain.first->mail, &chain.last->mail);
	}
	tr_hold_drop();
}

static void
turn_end(struct tr_turn_hook *hook)
{
	worker_flush(tr_container_of(hook, struct tr_worker, turn_hook));
}

/* --- timers of waiting messages ------------------------------------------------------------------------- */

bool
worker_check_clock(struct tr_worker *worker)
{
	int64_t offset_ms = tr_wall_ms() - tr_mono_ns() / TR_NS_PER_MS;
	int64_t step_ms = offset_ms - worker->wheel.offset_ms;

	if (!worker->started || (step_ms <= 1000 && step_ms >= -1000))
		return false;
	tr_log(TR_LEVEL_WARN, "queue", "the clock was set by %.1f s: retries keep their delays",
		(double)step_ms / 1000);
	slot_wheel_step(&worker->wheel, offset_ms);
	return true;
}

static void
wheel_due(struct tr_timer *timer)
{
	struct tr_worker *worker = tr_container_of(timer, struct tr_worker, wheel_timer);
	struct tr_engine *engine = worker->engine;
	int64_t now_ms = tr_mono_ns() / TR_NS_PER_MS, wall_ms = tr_wall_ms();
	int64_t to_line = 0, to_judge = 0;
	bool rules = atomic_load_explicit(&engine->rule_count[TR_ADMIN_BOUNCE], memory_order_relaxed) != 0 ||
		     atomic_load_explicit(&engine->rule_count[TR_ADMIN_SUSPEND], memory_order_relaxed) != 0;
	uint32_t slot;

	worker_check_clock(worker);
	for (int done = 0; done < 4096; done++) {
		struct tr_sched *sched;
		struct tr_stub *stub;

		slot = slot_wheel_pop(&worker->wheel, now_ms);
		if (slot == TR_NO_SLOT)
			break;
		stub = tr_spool_stub(engine->spool, slot);
		sched = sched_at(engine, stub->queue);
		if (stub_expiry_ms(sched, stub) <= wall_ms ||
			(rules && (admin_check(engine, TR_ADMIN_BOUNCE, sched, NULL, 0, NULL) ||
					  admin_check(engine, TR_ADMIN_SUSPEND, sched, NULL, 0, NULL)))) {
			judge_slot(worker, slot);
			atomic_fetch_sub_explicit(&sched->waiting, 1, memory_order_relaxed);
			to_judge++;
		} else {
			line_add(sched, slot, false);
			sched_activate(sched);
			to_line++;
		}
	}
	count_move(engine, IN_TIMERS, IN_LINE, to_line);
	count_move(engine, IN_TIMERS, IN_FLIGHT, to_judge);
	if (to_judge > 0)
		judge_start(worker);
	worker_arm_wheel(worker);
}

void
worker_arm_wheel(struct tr_worker *worker)
{
	int64_t next_ms;

	if (!worker->started || stopping(worker->engine))
		return;
	next_ms = slot_wheel_next_ms(&worker->wheel);
	if (next_ms == INT64_MAX)
		return;
	next_ms = tr_max_i64(next_ms, 0) * TR_NS_PER_MS;
	if (!tr_timer_running(&worker->wheel_timer) || worker->wheel_timer.due_ns > next_ms)
		tr_timer_start_at(tr_loop_wheel(worker->loop), &worker->wheel_timer, next_ms, wheel_due);
}

static void
housekeeping(struct tr_timer *timer)
{
	struct tr_worker *worker = tr_container_of(timer, struct tr_worker, housekeeping);

	if (stopping(worker->engine))
		return;
	if (worker_check_clock(worker))
		wheel_due(&worker->wheel_timer);
	sched_refresh_all(worker);
	ready_housekeeping(worker);
	admin_housekeeping(worker);
	if (worker->index == 0) {
		sources_housekeeping(worker->engine);
		tr_dead_trim(worker->engine->dead, worker->loop);
	}
	worker_ask_again(worker);
	worker_decide(worker);
	worker_insert_again(worker);
	tr_timer_start(tr_loop_wheel(worker->loop), timer, HOUSEKEEPING_NS, housekeeping);
}

/* --- life -------------------------------------------------------------------------------------------------- */

int
worker_init(struct tr_worker *worker, struct tr_engine *engine, struct tr_loop *loop, uint32_t index, uint64_t seed)
{
	worker->engine = engine;
	worker->loop = loop;
	worker->index = index;
	for (int i = 0; i < 2; i++) { /* splitmix64: any seed gives a good state */
		uint64_t z = seed + (index * 2 + (uint64_t)i + 1) * UINT64_C(0x9e3779b97f4a7c15);

		z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
		z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
		worker->random[i] = z ^ (z >> 31);
	}
	worker->posts = calloc(engine->worker_count, sizeof *worker->posts);
	worker->undecided = calloc(TR_ACCOUNTS_MAX, sizeof *worker->undecided);
	if (worker->posts == NULL || worker->undecided == NULL) {
		free(worker->posts);
		free(worker->undecided);
		worker->posts = NULL;
		return TR_ENOMEM;
	}
	slot_wheel_init(&worker->wheel, engine->spool);
	worker->active_end = &worker->active;
	worker->act_open_end = &worker->act_open;
	worker->act_wake_end = &worker->act_wake;
	worker->empty_end = &worker->empty;
	worker->judging = worker->enumerated = worker->ask_again = worker->unposted = SLOT_LIST_EMPTY;
	for (uint32_t i = 0; i < TR_ACCOUNTS_MAX; i++)
		worker->undecided[i] = SLOT_LIST_EMPTY;
	pthread_mutex_init(&worker->home_lock, NULL);
	worker->turn_hook.fn = turn_end;
	tr_loop_add_turn_hook(loop, &worker->turn_hook);
	return TR_OK;
}

void
worker_start(struct tr_worker *worker)
{
	if (worker->started || stopping(worker->engine))
		return;
	worker->started = true;
	slot_wheel_rebase(&worker->wheel, tr_wall_ms() - tr_mono_ns() / TR_NS_PER_MS);
	pthread_mutex_lock(&worker->home_lock);
	for (struct tr_sched *sched = worker->homes; sched != NULL; sched = sched->home_next) {
		order_start(sched);
		sched_activate(sched);
	}
	pthread_mutex_unlock(&worker->home_lock);
	worker_arm_wheel(worker);
	tr_timer_start(tr_loop_wheel(worker->loop), &worker->housekeeping, HOUSEKEEPING_NS, housekeeping);
	worker_undecided_start(worker);
	worker_decide(worker);
	worker_enumerate(worker);
}

void
worker_fini(struct tr_worker *worker)
{
	struct tr_timer *timers[] = {&worker->wheel_timer, &worker->housekeeping, &worker->sweep_timer,
		&worker->pressure_timer, &worker->stop_timer};

	if (worker->posts == NULL)
		return; /* never initialised */
	while (worker->stranded.head != NULL)
		tr_message_free(list_pop(&worker->stranded));
	releases_free(worker);
	for (size_t i = 0; i < TR_COUNT(timers); i++)
		tr_timer_stop(tr_loop_wheel(worker->loop), timers[i]);
	tr_loop_undefer(worker->loop, &worker->pump_defer);
	tr_loop_undefer(worker->loop, &worker->act_defer);
	tr_loop_undefer(worker->loop, &worker->empty_defer);
	tr_loop_remove_turn_hook(worker->loop, &worker->turn_hook);
	for (uint32_t i = 0; i < worker->engine->worker_count; i++) { /* what was never posted */
		struct post *post = worker->posts[i].first;

		while (post != NULL) {
			struct tr_mail *next = post->mail.next;
			struct tr_message *message;

			while ((message = list_pop(&post->messages)) != NULL)
				tr_message_free(message);
			free(post);
			post = next == NULL ? NULL : tr_container_of(next, struct post, mail);
		}
	}
	if (worker->posted)
		tr_hold_drop();
	free(worker->posts);
	free(worker->undecided);
	pthread_mutex_destroy(&worker->home_lock);
}

void
tr_queue_park(struct tr_worker *worker, struct tr_message *message)
{
	count_add(worker->engine, IN_PARKED, 1);
	tr_stub_set(tr_spool_stub(worker->engine->spool, message->slot), message->due_ms,
		message->flags | TR_MSG_POLICY_ERROR, message->attempts);
	tr_dead_add(worker->engine->dead, message->slot, tr_str(message->queue != NULL ? message->queue : ""));
	tr_message_free(message);
}

void
tr_queue_decide_again(struct tr_worker *worker, uint32_t slot)
{
	count_move(worker->engine, IN_PARKED, IN_UNDECIDED, 1);
	worker_undecided_add(worker, slot);
	worker_decide(worker);
}
