/* A worker: the queues and sessions of one thread, and what it sends to the others. Part of the room. `own`: only that
 * worker's thread. */
#ifndef TR_QUEUE_WORKER_H
#define TR_QUEUE_WORKER_H

#include <pthread.h>
#include <stdatomic.h>

#include "queue/lane.h"
#include "queue/slots.h"

#define SWEEP_MAX 512       /* stubs looked at per turn by a sweep */
#define UNSETTLED_MAX 16384 /* messages per worker whose outcome is not committed yet */

enum post_kind { POST_INSERT, POST_RETURN, POST_FRONT };
struct post {
	struct tr_mail mail;
	struct tr_worker *to;
	enum post_kind kind;
	const char *reason;
	struct message_list messages;
	struct slot_list slots;
};
struct post_chain {
	struct post *first, *last;
};
struct tr_worker {
	struct tr_engine *engine;
	struct tr_loop *loop;
	uint32_t index;
	void *data;
	uint64_t random[2];
	struct tr_turn_hook turn_hook;
	struct post_chain *posts; /* by worker */
	bool posted;
	struct slot_wheel wheel;
	struct tr_timer wheel_timer, housekeeping, sweep_timer, pressure_timer, stop_timer;
	struct tr_sched *active, **active_end;
	struct tr_defer pump_defer;
	struct tr_sched *sweeping;
	pthread_mutex_t home_lock; /* list of the queues at home here, for figures */
	struct tr_sched *homes;
	struct session *sessions;
	struct session *act_open, **act_open_end, *act_wake, **act_wake_end;
	struct tr_defer act_defer;
	struct tr_mail *empty, **empty_end; /* outboxes submitted without content, by change.mail */
	struct tr_defer empty_defer;
	struct slot_list judging;
	bool judge_loading;
	struct slot_list enumerated;      /* recovered, to be shown to spool_message_enumerated; IN_FLIGHT */
	struct slot_list *undecided;      /* by account, TR_ACCOUNTS_MAX of them */
	_Atomic uint32_t undecided_count; /* in all of them */
	uint32_t undecided_account;       /* whose turn it is */
	bool undecided_loading;
	struct slot_list ask_again; /* counted in undecided_of; the housekeeping hands them on */
	/* For want of memory in no queue, or not with the worker of theirs; IN_PARKED. The housekeeping tries again. */
	struct message_list stranded;
	struct slot_list unposted;
	struct tr_mail decide_mail;
	_Atomic bool decide_posted;
	uint64_t unsettled; /* messages with an uncommitted outcome */
	bool started;
	struct release *releases;     /* permit.c: leases on their way back to other nodes */
	struct bounce_sweep *bounces; /* admin.c */
	struct rebind_walk *rebinds;  /* rebind.c */
	struct tr_mail start_mail, stop_mail, hurry_mail, epoch_mail;
	_Atomic bool epoch_posted;
	struct { /* last queue looked up */
		struct tr_sched *sched;
	} last;
};
void worker_post_message(struct tr_worker *from, struct tr_worker *to, struct tr_message *message, const char *reason);
void worker_post_slot(struct tr_worker *from, struct tr_worker *to, uint32_t slot, bool front);
void worker_flush(struct tr_worker *worker); /* what would be posted at the end of the turn */
void worker_arm_wheel(struct tr_worker *worker);
bool worker_check_clock(struct tr_worker *worker); /* before a due time is put into the wheel; true: it was set */
void worker_start(struct tr_worker *worker);
int worker_init(
	struct tr_worker *worker, struct tr_engine *engine, struct tr_loop *loop, uint32_t index, uint64_t seed);
void worker_fini(struct tr_worker *worker);
void worker_decide(struct tr_worker *worker); /* undecided ones */
/* Those of the log, into the order in which they came to be: what keys they will have nobody knows before. */
void worker_undecided_start(struct tr_worker *worker);
void worker_ask_again(struct tr_worker *worker);    /* those whose decision was refused */
void worker_insert_again(struct tr_worker *worker); /* those that were stranded */
void worker_undecided_add(struct tr_worker *worker, uint32_t slot);
struct tr_worker *worker_here(struct tr_engine *engine); /* whose loop runs in this thread; NULL: none */
void worker_stop(struct tr_worker *worker);

#endif
