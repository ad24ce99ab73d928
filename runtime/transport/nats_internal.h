/* Shared by nats.c and nats_call.c (the loop's side), nats_connection.c (the thread of a connection) and nats_client.c
 * (what libnats is asked and says). */
#ifndef TR_NATS_INTERNAL_H
#define TR_NATS_INTERNAL_H

#include <ev.h>
#include <nats/nats.h>
#include <pthread.h>

#include "base/metrics.h"
#include "transport/nats.h"

#define TR_NATS_NO_ENTRY UINT32_MAX

struct tr_nats_slot {                  /* one message of a call */
	size_t subject_at, headers_at; /* in the call's text, NUL behind each */
	uint32_t header_count;
	uint32_t header_bytes; /* on the wire; 0: none */
	struct tr_bytes payload;
	bool await_ack;
	/* lock */
	bool told;
	uint32_t entry; /* of the connection's table while its acknowledgement is awaited */
	struct tr_nats_result result;
	struct tr_buf memory; /* texts of the result */
};

enum tr_nats_stage { TR_NATS_BUILDING, TR_NATS_LINE, TR_NATS_SENT, TR_NATS_DONE };
struct tr_nats_batch {           /* a call with its messages */
	struct tr_nats_call pub; /* first */
	struct tr_nats_connection *connection;
	struct tr_nats_batch *next, **prev; /* loop: all that were started */
	bool held;                          /* loop */
	struct tr_timer timer;
	int64_t limit_ns; /* of the timer */
	uint32_t added;
	struct tr_buf text;
	/* lock */
	enum tr_nats_stage stage;
	struct tr_nats_batch *line_next; /* in line, or done */
	uint32_t sent;                   /* the first so many were handed to libnats, or told before */
	uint32_t pending;                /* not told */
	bool busy;                       /* the thread reads a slot without the lock */
	bool cancelled;                  /* freed when it comes back */
	struct tr_nats_slot slots[];
};

/* What the subject of an acknowledgement names. */
struct tr_nats_entry {
	struct tr_nats_batch *batch; /* NULL: free */
	uint32_t index;
	uint32_t generation; /* a late acknowledgement is for nobody */
	uint32_t next_free;
};

struct tr_nats_connection {
	struct tr_nats *nats;
	struct tr_nats_connection *next, **prev; /* loop */
	uint32_t refs;                           /* loop: of clients and calls */
	struct tr_timer idle;
	uint64_t number; /* what callbacks of libnats know it by */
	char *id;        /* the settings, canonical */
	struct tr_nats_settings settings;
	char *texts;
	/* lock */
	pthread_cond_t work; /* something changed for the thread */
	struct tr_nats_batch *line, **line_end;
	struct tr_nats_entry *entries;
	uint32_t free_entry, in_flight;
	bool connected, closed; /* closed: libnats has given up */
	bool dead;              /* max_reconnects have failed: nothing is sent any more */
	bool ending;
	int why_err; /* of the last trouble */
	char why[300];
	struct tr_nats_connection *ended_next;
	pthread_t thread; /* loop: joined when it has ended */
	/* the thread's */
	natsConnection *nc;
	natsSubscription *inbox;
	char inbox_name[256];
	bool was_connected;
	bool stalled;      /* the last publish failed: no flush at the end */
	uint32_t failures; /* connects in a row */
	struct tr_buf header;
};

struct tr_nats {
	struct tr_loop *loop;
	struct tr_nats_connection *connections;
	struct tr_nats_batch *calls;
	bool ending;
	int fd;           /* an eventfd: something is done */
	int64_t write_ms; /* a server that takes no byte for so long is given up; before any connection */
	ev_io readable;
	struct tr_metric *acked, *failed, *in_flight, *connects;
	pthread_mutex_t lock;
	/* lock */
	pthread_cond_t ended; /* a thread has */
	uint32_t threads;
	struct tr_nats_connection *ended_connections; /* to be freed */
	struct tr_nats_batch *done, **done_end;
};

/* --- nats_call.c; the lock is held -------------------------------------------------------------------------------- */

/* The result of a slot that is not told; takes its memory. With the last one the batch is done. */
void tr_nats_tell(
	struct tr_nats_batch *batch, uint32_t index, const struct tr_nats_result *result, struct tr_buf *memory);
void tr_nats_tell_error(struct tr_nats_batch *batch, uint32_t index, int err, bool permanent, const char *fmt, ...)
	TR_PRINTF(5, 6);
/* All that were sent and are not acknowledged. subject not NULL: those of it only. */
void tr_nats_fail_sent(struct tr_nats_connection *connection, const char *subject, int err, const char *text);
void tr_nats_fail_line(struct tr_nats_connection *connection, int err, const char *text);
/* The batch comes back to the loop. */
void tr_nats_give_back(struct tr_nats *nats, struct tr_nats_batch *batch);
/* Its messages are all sent, or told. */
void tr_nats_leave_line(struct tr_nats_batch *batch);
/* Its acknowledgement, if any, is not awaited any more. */
void tr_nats_release(struct tr_nats_connection *connection, struct tr_nats_slot *slot);
/* Loop, no lock: it is under way no longer; it goes, and neither the thread nor its owner uses it. */
void tr_nats_batch_unlink(struct tr_nats_batch *batch);
void tr_nats_batch_free(struct tr_nats_batch *batch);

/* nats.c: the loop looks at what is done. */
void tr_nats_wake(struct tr_nats *nats);

/* --- nats_connection.c ---------------------------------------------------------------------------------------- */

int tr_nats_thread_start(struct tr_nats_connection *connection); /* TR_OK or an error */
/* lock held */
void tr_nats_why(struct tr_nats_connection *connection, int err, const char *fmt, ...) TR_PRINTF(3, 4);

/* --- nats_client.c: the thread only --------------------------------------------------------------------------- */

/* Callbacks of libnats find a connection by its number, because it may be gone by then. */
void tr_nats_register(struct tr_nats_connection *connection);
void tr_nats_unregister(struct tr_nats_connection *connection); /* after it no callback uses the connection */
/* Blocks. False: it has said why. */
bool tr_nats_client_connect(struct tr_nats_connection *connection);
void tr_nats_client_close(struct tr_nats_connection *connection, bool flush); /* NULL nc is fine */
/* Hands a message over with the entry as its reply subject (TR_NATS_NO_ENTRY: none). */
natsStatus tr_nats_client_publish(struct tr_nats_connection *connection, const struct tr_nats_batch *batch,
	const struct tr_nats_slot *slot, uint32_t entry, uint32_t generation);
int tr_nats_err(natsStatus status);

#endif
