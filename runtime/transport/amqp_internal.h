/* Shared by the loop's side (amqp.c, amqp_pool.c, amqp_call.c, amqp_alarm.c) and the threads (amqp_connection.c and
 * what it uses). */
#ifndef TR_AMQP_INTERNAL_H
#define TR_AMQP_INTERNAL_H

#include <ev.h>
#include <pthread.h>

#include "base/metrics.h"
#include "transport/amqp.h"

#define TR_AMQP_CHANNEL 1
#define TR_AMQP_GRACE_NS (500 * TR_NS_PER_MS) /* for a thread to see its own deadline before its socket is cut */

struct tr_amqp_slot { /* one message of a call */
	amqp_bytes_t exchange, routing_key;
	amqp_basic_properties_t properties;
	struct tr_bytes payload;
	bool mandatory, immediate, probe;
	/* the answer */
	bool told;
	enum tr_amqp_status status;
	int err;
	uint16_t reply_code;
	bool permanent;
	amqp_bytes_t text;
};

/* Messages of a call that are published one after the other: their tags go up from `base`. */
struct tr_amqp_run {
	struct tr_amqp_batch *batch;
	struct tr_amqp_run *next; /* of the window */
	uint32_t first, count;    /* slots of the call */
	uint32_t published, told;
	uint64_t base;
	int64_t deadline_ns; /* real; of the last confirm */
};

enum tr_amqp_stage { TR_AMQP_BUILDING, TR_AMQP_WAITING, TR_AMQP_TAKEN, TR_AMQP_DONE };
struct tr_amqp_batch {           /* a call with its messages */
	struct tr_amqp_call pub; /* first */
	struct tr_amqp_pool *pool;
	struct tr_amqp_batch *next, **prev; /* loop: all that are not freed; prev NULL: tr_amqp_free() has run */
	struct tr_amqp_batch *line_next;    /* lock: waiting, or done */
	enum tr_amqp_stage stage;           /* lock */
	struct tr_amqp_connection *taker;   /* lock; while TAKEN */
	bool cancelled, held;               /* loop */
	bool told_held_up;                  /* loop */
	struct tr_timer timer;
	uint32_t added;
	size_t bytes;           /* of its payloads */
	struct tr_amqp_run run; /* the thread's: all of it */
	amqp_pool_t memory;     /* texts, tables; the thread's while TAKEN */
	struct tr_amqp_slot slots[];
};

struct tr_amqp_pool {
	struct tr_amqp *amqp;
	struct tr_amqp_pool *next;
	char *id;                         /* the settings, canonical */
	struct tr_amqp_settings settings; /* texts are NUL-terminated, in `texts` */
	char *texts;
	uint32_t calls; /* loop: not yet freed */
	/* lock */
	struct tr_amqp_batch *line, **line_end;
	uint32_t connections;            /* that take calls */
	uint32_t threads;                /* of connections, those that say goodbye included */
	struct tr_amqp_connection *idle; /* that wait, and have room */
	uint32_t good_host;
};

struct tr_amqp_connection {
	struct tr_amqp_pool *pool;
	struct tr_amqp_connection *next, **prev; /* lock: all */
	struct tr_amqp_connection *idle_next;    /* lock */
	bool is_idle;                            /* lock */
	/* lock: its calls, given to it and not given back */
	const struct tr_amqp_batch *first; /* one of them; NULL: none */
	uint32_t messages;
	size_t bytes;
	bool busy;          /* lock: it does not look for more for a while */
	int fd;             /* lock: a duplicate of its socket, -1: none; others may shut it down */
	int wake_fd;        /* an eventfd: there is work, or the end */
	char held_up[300];  /* lock: it is blocked by the broker, which says this; "": it is not */
	int64_t free_at_ns; /* lock; real: when it was not blocked any more */
	/* its thread's */
	amqp_connection_state_t state; /* NULL: not connected */
	size_t frame_max;              /* bytes, head and end included */
	uint64_t tag;                  /* of the last message published on the channel */
	bool blocked;                  /* by the broker: its memory or disk is short */
	struct tr_buf out;             /* frames that are to be written */
	char why[256];                 /* of the last failure */
	int why_err;
	uint16_t why_code;
	char peer[300]; /* host:port */
};

struct tr_amqp {
	struct tr_loop *loop;
	struct tr_amqp_pool *pools;
	struct tr_amqp_batch *calls;
	int fd; /* an eventfd: something is done */
	ev_io readable;
	struct tr_metric *published, *refused, *connects;
	pthread_mutex_t lock;
	pthread_cond_t ended; /* a thread has */
	struct tr_amqp_connection *connections;
	struct tr_amqp_batch *done, **done_end;
	bool held_up_changed; /* of a connection */
	bool ending;
};

/* amqp_pool.c; the loop's. Nobody uses it any more. */
void tr_amqp_pool_free(struct tr_amqp_pool *pool);
/* amqp_call.c; the loop's */
static inline struct tr_amqp_batch *
tr_amqp_batch_of(struct tr_amqp_call *call)
{
	return (struct tr_amqp_batch *)call;
}
void tr_amqp_batch_rest(struct tr_amqp_batch *batch); /* nothing is under way for it any more */
void tr_amqp_batch_unlink(struct tr_amqp_batch *batch);

/* amqp_connection.c: starts a connection's thread; the lock is held. TR_OK or an error. */
int tr_amqp_connection_start(struct tr_amqp_pool *pool);
/* lock held: who has a call for it may wake it. */
void tr_amqp_join_idle(struct tr_amqp_connection *connection);
void tr_amqp_leave_idle(struct tr_amqp_connection *connection);
void tr_amqp_drain_wakes(struct tr_amqp_connection *connection);
/* lock held: takes what is waiting and goes with what the connection has: one exchange and one time-out. NULL: nothing.
 * Linked by line_next. */
struct tr_amqp_batch *tr_amqp_take(struct tr_amqp_connection *connection);
/* The thread gives back calls whose slots are all told; `first` is one of those that it still has, NULL: none. */
void tr_amqp_give_back(
	struct tr_amqp_connection *connection, struct tr_amqp_batch *calls, const struct tr_amqp_batch *first);
void tr_amqp_wake(int fd); /* an eventfd */
/* amqp_alarm.c: the broker takes no messages and says why; NULL: it does again. The loop hears of it. */
void tr_amqp_set_held_up(struct tr_amqp_connection *connection, const char *text);
/* Loop: it has heard of that, and tells the calls, which must not end by it. */
void tr_amqp_tell_held_up(struct tr_amqp *amqp);
/* lock held: it is with a connection that is blocked, or was a moment ago; a broker that is gone is seen by its
 * heartbeats. */
bool tr_amqp_is_waited_for(const struct tr_amqp_batch *batch);
/* lock held: it is patient, and its pool has a connection that is blocked. */
bool tr_amqp_is_held_up(const struct tr_amqp_batch *batch);
/* Whether it looks for calls before it waits the next time, as a rule. */
void tr_amqp_will_look(struct tr_amqp_connection *connection, bool will);
/* lock held: its thread blocks in the socket no longer. */
void tr_amqp_connection_interrupt(struct tr_amqp_connection *connection);

/* --- the threads' own ------------------------------------------------------------------------------------- */

/* Real time, ns, monotonic: these threads wait for real sockets, and a hold is out meanwhile. */
int64_t tr_amqp_real_ns(void);
/* What failed, for those whose messages it hits. */
void tr_amqp_why(struct tr_amqp_connection *connection, int err, uint16_t code, const char *fmt, ...) TR_PRINTF(4, 5);
void tr_amqp_why_status(struct tr_amqp_connection *connection, const char *what, int status); /* of rabbitmq-c */
void tr_amqp_why_reply(struct tr_amqp_connection *connection, const char *what, amqp_rpc_reply_t reply);
bool tr_amqp_connect(struct tr_amqp_connection *connection); /* to one of the hosts; false: see why */
void tr_amqp_disconnect(struct tr_amqp_connection *connection);
void tr_amqp_close(struct tr_amqp_connection *connection); /* with a goodbye of at most 1 s */
/* amqp_frames.c: both return a status of rabbitmq-c. Puts the frames of a message behind those that are to be written,
 * and writes when it is worth it. Not over TLS. */
int tr_amqp_put(struct tr_amqp_connection *connection, const struct tr_amqp_slot *slot, int64_t deadline_ns);
int tr_amqp_write(struct tr_amqp_connection *connection, int64_t deadline_ns); /* all that is left; real time */
/* amqp_window.c: publishes the calls and what comes meanwhile, and tells each of the slots. */
void tr_amqp_publish(struct tr_amqp_connection *connection, struct tr_amqp_batch *first);
/* Between two windows: heartbeats, and what a broker says to an idle client. */
void tr_amqp_look_after(struct tr_amqp_connection *connection);

#endif
