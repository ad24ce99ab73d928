/* What becomes of messages (outcome.c, report.c) and what they are asked before they go on (judge.c). Part of
 * the room. */
#ifndef TR_QUEUE_OUTCOME_H
#define TR_QUEUE_OUTCOME_H

#include "queue/lane.h"
#include "queue/order.h"
#include "queue/slots.h"

struct session;

/* --- outcomes ------------------------------------------------------------------------------------------------------
 */
struct retry_spec {
	bool increment;
	bool explained;   /* a TransientFailure was emitted: no Delayed */
	int64_t delay_ns; /* -1: the schedule's, or as the message's due_ms says (use_due) */
	bool use_due;
	const char *reasons[4];      /* NULL-terminated; literals */
	struct tr_response response; /* for the hook; borrowed for the call of op_retry() */
};
struct outcome_op {
	struct tr_outbox outbox; /* first */
	struct outcome_op *more; /* of what dies beyond the room of this change; submitted after it */
	struct tr_worker *worker;
	uint32_t count;            /* messages in it */
	int64_t units;             /* of the next op_end(); 0: all of the message's */
	struct message_list ended; /* freed once committed */
	struct message_list dead;  /* dead letters: owner_data is the queue that they were in */
	struct message_list kept;  /* their stubs go back to line or timers */
	struct message_list moved; /* to another queue */
	struct message_list parked;
	struct message_list todo;   /* transient, to be decided */
	struct tr_message *current; /* in the requeue hook */
	bool answered, looping;
	struct tr_sched *config_of; /* of whom config is, for a run of messages */
	struct tr_queue_config *config;
	struct retry_spec spec;
	struct tr_buf line;                 /* response for the hook */
	struct slot_list lost;              /* damaged stubs */
	struct slot_list died;              /* those that the letters in `dead` take the place of */
	struct tr_message *telling_message; /* of tr_session_tell_rcpts(); NULL: none */
	struct tr_telling *telling;         /* NULL: nobody waits for it any more */
	struct leavers *leavers;            /* what ends by it and holds a key */
};
/* Own, in endpoint.c: what the outcome says of the endpoint; before the messages are let go. */
void endpoint_outcome(struct session *session, const struct tr_outcome *outcome);
struct outcome_op *op_new(struct tr_worker *worker); /* NULL: no memory */
/* Own, in settle.c: after the commit; after a refusal. */
void op_settle(struct outcome_op *op);
void op_set_back(struct outcome_op *op, int status);
void op_end(struct outcome_op *op, struct tr_message *message, enum tr_column column, enum tr_reason reason);
/* Ends a message that was refused for good or has expired: a log record becomes a dead letter if its hook keeps them,
 * else the message goes to `column`. */
void op_die(struct outcome_op *op, struct tr_message *message, enum tr_column column, const char *reason,
	const struct tr_response *response);
void op_drop(struct outcome_op *op, uint32_t slot, enum tr_reason reason); /* a stub, unread; dropped{reason} */
void op_lost(struct outcome_op *op, uint32_t slot);
void op_park(struct outcome_op *op, struct tr_message *message);
void op_save(struct outcome_op *op, struct tr_message *message); /* dirty: stored again, then back */
/* Stored again if it is dirty, then told() has it. */
void op_tell(struct outcome_op *op, struct tr_message *message, struct tr_telling *telling);
/* With that due time, stored again if it is dirty, then back. */
void op_keep(struct outcome_op *op, struct tr_message *message, int64_t due_ms);
/* message->queue is another one: stored, then inserted there; op->spec.reasons[0] tells why. */
void op_move(struct outcome_op *op, struct tr_message *message);
void op_expire(struct outcome_op *op, struct tr_message *message, const char *site, int64_t due_ms);
void op_retry(struct outcome_op *op, struct message_list *list, const struct retry_spec *spec);
/* Of a queue, until the next call for another one. Any thread. */
const struct tr_queue_config *op_config(struct outcome_op *op, struct tr_sched *sched);
void op_submit(struct outcome_op *op);
void op_event_init(struct tr_event *event, enum tr_event_type type, const struct tr_message *message);
int64_t message_units(const struct tr_message *message);
int64_t message_expiry_ms(const struct tr_sched *sched, const struct tr_message *message);
void emit_delayed(struct outcome_op *op, const struct tr_message *message, const char *const *reasons, int64_t due_ms);

/* Checks of a loaded message before it may go on; what may not is put into the ops. */
enum judge_mode {
	JUDGE_INSERT,  /* administrator's bounce alone */
	JUDGE_TAKE,    /* and suspension, age; any worker */
	JUDGE_PROMOTE, /* and protocol, path errors; home */
};
struct judge {
	struct tr_worker *worker;
	bool in_flight; /* what is judged is counted so already; else it is moved from IN_READY */
	bool no_memory;
	struct outcome_op *end;
	struct message_list suspended, broken; /* transient: administrator, path error */
	const char *no_site;                   /* why `broken` ones are, if it is that; borrowed */
};
/* True if the message goes on; else it was taken. */
bool judge_message(
	struct judge *judge, struct tr_sched *sched, struct tr_message *message, enum judge_mode mode, int64_t now_ms);
/* ready: whose messages were being taken, NULL: on the way to it. */
void judge_finish(struct judge *judge, const struct tr_ready *ready);
void dead_attach(struct tr_dead_store *store, struct tr_engine *engine); /* a stop waits for what is under way in it */
void judge_start(struct tr_worker *worker);                              /* works on worker->judging */
void judge_slot(struct tr_worker *worker, uint32_t slot);                /* the caller moves it to IN_FLIGHT */
uint32_t judge_incoming(struct tr_sched *sched);       /* home: incoming ones to fresh or hooking, or to their end */
bool load_start(struct tr_sched *sched, uint32_t max); /* places are reserved by the lanes: `coming` */
void hook_start(struct tr_sched *sched);

#endif
