/* Parts of the room: capture, encoding, the local logs' thread, the hooks' decisions. */
#ifndef TR_RECORD_INTERNAL_H
#define TR_RECORD_INTERNAL_H

#include <pthread.h>

#include "base/metrics.h"
#include "record/record.h"

/* --- capture.c ---------------------------------------------------------------------------------- */
/* Patterns are NULL-terminated lists; NULL is an empty one. All add a whole JSON object. */
void tr_capture_meta_json(const struct tr_meta *meta, const char *const *patterns, struct tr_buf *out);
void tr_capture_headers_json(const struct tr_message *message, const char *const *patterns, struct tr_buf *out);
/* The same choice of keys, copied over what `to` has. TR_OK or TR_ENOMEM. */
int tr_capture_meta(const struct tr_meta *from, const char *const *patterns, struct tr_meta *to);

/* --- encode.c ----------------------------------------------------------------------------------- */
/* This thread's buffer, emptied; its memory is kept for the next use. Ends with the thread. */
struct tr_buf *tr_record_scratch(void);

/* --- local_log.c: the thread of the file loggers -------------------------------------------------- */
struct tr_local_logs; /* opaque */
struct tr_local_file; /* the segments of one file logger */

int tr_local_logs_new(struct tr_local_logs **out);
/* Writes what is queued, finishes the segments, ends the thread. */
void tr_local_logs_free(struct tr_local_logs *logs);
/* TR_EIO: a directory cannot be made, with *error. `label` is the metrics' logger name. Call before the first record.
 */
int tr_local_logs_add(struct tr_local_logs *logs, const struct tr_logger_config *config, const char *label,
	struct tr_local_file **out, char **error);
/* Hands one finished line over; takes no reference of its own from the caller's. `type` chooses suffix and directory.
 * If the queue is full the outbox is held until the line is written. Any thread. */
void tr_local_file_write(
	struct tr_local_file *file, enum tr_event_type type, struct tr_blob *line, struct tr_outbox *outbox);
/* A moment has passed: finish segments that are old enough. Any thread. */
void tr_local_logs_tick(struct tr_local_logs *logs);
/* Bytes that all file loggers together may have queued; for tests. */
void tr_local_logs_set_bound(struct tr_local_logs *logs, size_t bytes);

/* --- segment.c: one series of zstd segments; the thread of the local logs only ---------------------- */
struct tr_segments;

struct tr_segments_config {
	const char *dir, *suffix; /* copied */
	uint64_t max_bytes;       /* uncompressed, of a segment */
	int64_t max_age_ns;       /* 0: none */
	int level;                /* zstd's; 0: its default */
	const char *label;        /* for log lines; copied */
	struct tr_metric *errors; /* borrowed */
};
int tr_segments_new(const struct tr_segments_config *config, struct tr_segments **out);
void tr_segments_free(struct tr_segments *segments); /* finishes the open one */
bool tr_segments_are(const struct tr_segments *segments, const char *dir, const char *suffix);
/* One line at the moment now_ns (monotonic). `header` (may be NULL) starts a segment that this line opens. */
void tr_segments_write(struct tr_segments *segments, struct tr_str line, const char *header, int64_t now_ns);
/* Finishes the segment if it is old enough, and makes what was written visible, at most once a second. */
void tr_segments_turn(struct tr_segments *segments, int64_t now_ns);
/* When turn() has something to do next; INT64_MAX: nothing. */
int64_t tr_segments_next_ns(const struct tr_segments *segments);
/* Marks every regular file of a directory that does not start with a dot as finished (read-only). */
void tr_segments_mark_old(const char *dir);

/* --- recorder ------------------------------------------------------------------------------------ */
/* What a logger writes for a type: records of equal forms share their bytes. */
struct tr_form {
	uint32_t capture;          /* index in captures */
	const char *template_text; /* NULL: JSON; owned by the per_record of the first logger that has it */
};

#define TR_WAITING_MAX 256 /* records of a hook that wait in memory for their turn; more wait in the spool */

struct tr_waiting; /* hook.c: a record that waits for its turn at the policy */

struct tr_logger {
	enum tr_logger_kind kind;
	uint16_t index;
	struct tr_logger_config config; /* its numbers; its pointers are the copies below */
	char *name;
	char **meta, **headers; /* NULL-terminated; owned */
	struct tr_per_record per_record[TR_EVENT_TYPES];
	uint32_t form[TR_EVENT_TYPES];
	char *filter_event;         /* NULL: none */
	uint32_t back_pressure;     /* >= 1 */
	struct tr_local_file *file; /* file loggers */

	/* hooks */
	uint16_t account;
	pthread_mutex_t lock;     /* of the waiting list */
	_Atomic uint32_t running; /* handlers that wait for something; at most back_pressure, give or take a race */
	struct tr_waiting *first, *last; /* stored undecided, not started, in order */
	_Atomic uint32_t waiting;        /* length of that list; about TR_WAITING_MAX at most */
	_Atomic uint32_t leaving;        /* on their way to the spool, to be loaded again when there is room */

	struct tr_metric *full, *latency, *backlog, *policy_errors, *lost;
};

struct tr_recorder {
	struct tr_spool *spool;
	struct tr_dead_store *dead; /* NULL: not known yet */
	struct tr_record_ops ops;
	void *ops_arg;
	char nodeid[40];
	bool sealed;          /* attached: what follows does not change any more */
	bool dispositions;    /* there is a logger of that kind */
	pthread_mutex_t lock; /* of add; the rest does not change once records are made */
	struct tr_logger **loggers;
	uint32_t count;
	struct tr_capture *captures; /* distinct; they point into the loggers */
	uint32_t capture_count;
	struct tr_form *forms; /* distinct */
	uint32_t form_count;
	struct tr_local_logs *logs;                                               /* NULL: no file logger yet */
	_Atomic uint32_t wants;                                                   /* bit per enum tr_event_type */
	void (*tap)(void *arg, const struct tr_event *event, struct tr_str json); /* NULL: none */
	void *tap_arg;
};

/* OOB goes with the Reception of the same message (contract/log-record.md section 4). */
static inline bool
tr_logger_enabled(const struct tr_logger *logger, enum tr_event_type type)
{
	return logger->per_record[type == TR_EV_OOB ? TR_EV_RECEPTION : type].enable;
}

/* --- logger.c ---------------------------------------------------------------------------------------- */
struct tr_logger *tr_logger_new(const struct tr_logger_config *config); /* copies; NULL: no memory */
void tr_logger_free(struct tr_logger *logger);
bool tr_logger_same(const struct tr_logger *logger, const struct tr_logger_config *config);
bool tr_same_list(const char *const *a, const char *const *b); /* NULL is an empty list */
bool tr_same_text(const char *a, const char *b);               /* NULL equals NULL only */

/* --- record_message.c ---------------------------------------------------------------------------------- */
/* The message of an event for a hook; its body is `line`, which is `json` unless a template made it. NULL: no memory.
 */
struct tr_message *tr_record_message(const struct tr_logger *hook, const struct tr_event *event, struct tr_blob *line,
	struct tr_blob *json, int64_t now_ns);
/* Names the queue that the policy chose. On an error *error is a (static) text for the record's policy_error. */
int tr_record_choose_queue(struct tr_message *record, const char **error);
/* Flag, meta policy_error, counter and log line of a record that is to be parked. */
void tr_record_mark_parked(struct tr_logger *hook, struct tr_message *record, const char *error);
void tr_record_unmark(struct tr_message *record); /* undecided and parked no more */

/* --- undecided.c ------------------------------------------------------------------------------------- */
/* There is no memory to decide it: it stays in the log as it is, until later. Takes the record. */
void tr_record_ask_later(struct tr_worker *worker, struct tr_message *record);
/* Its hook is gone. Takes the record. */
void tr_record_park_orphan(struct tr_worker *worker, struct tr_message *record);

/* --- hook.c ------------------------------------------------------------------------------------------ */
/* One record for one hook: decided in this turn or stored undecided. `line` is the body, `json` the record without line
 * end (the same bytes unless a template made the body). */
/* line NULL: the template could not be rendered; the record is stored with `json` as its body and parked. */
void tr_hook_emit(struct tr_recorder *recorder, struct tr_logger *hook, struct tr_outbox *outbox,
	const struct tr_event *event, struct tr_blob *line, struct tr_blob *json, int64_t now_ns);
void tr_hook_drop_waiting(struct tr_logger *hook); /* drops what is not started: it is stored */

#endif
