/* Log records: from an event to JSON, to local log files and to the hooks' queues. */
#ifndef TR_RECORD_H
#define TR_RECORD_H

#include "queue/dead.h"
#include "queue/queue.h"

struct tr_recorder;
struct tr_logger;

struct tr_per_record { /* one type's settings, contract/log-record.md section 4 */
	bool enable;
	char *suffix, *log_dir, *segment_header; /* NULL: none */
	char *template_text;                     /* NULL: JSON */
};
enum tr_logger_kind { TR_LOGGER_FILE, TR_LOGGER_HOOK, TR_LOGGER_DISPOSITION };
struct tr_logger_config {
	enum tr_logger_kind kind;
	const char *name;                                /* hook name; file: its log_dir */
	const char *const *meta, *const *headers;        /* NULL-terminated patterns */
	struct tr_per_record per_record[TR_EVENT_TYPES]; /* `Any` already resolved; copied */
	const char *filter_event;                        /* file only; NULL: none */
	uint32_t back_pressure;
	bool deferred_spool;
	struct tr_dead_bounds dead; /* hook only: what it keeps of its dead letters */
	/* file only */
	const char *log_dir;
	uint64_t max_file_size;
	int64_t max_segment_duration_ns; /* 0: none */
	int compression_level;           /* 0: the library's default */
	struct tr_space_limit min_free_space, min_free_inodes;
};

/* One question to policy: should_enqueue_log_record(message, hook). Part of what the asker keeps. */
struct tr_decision {
	struct tr_message *record; /* stays the asker's; the handler may change its meta */
	const char *hook;
	/* Called exactly once, at once if the handler did not wait. error: text with traceback; tr_record_cancelled:
	 * the worker stops, the record stays stored undecided; NULL. May free the decision. */
	void (*then)(struct tr_decision *decision, bool keep, const char *error);
};

struct tr_known {                 /* the queue of a hook whose handler needs not be asked: borrowed */
	struct tr_str name, json; /* the same as a JSON string */
};

/* Policy's part, by events_lua.c. All on the worker's thread. */
struct tr_record_ops {
	/* False: ask with decide. NULL: always. */
	bool (*known_queue)(void *arg, struct tr_worker *worker, const char *hook, struct tr_known *out);
	void (*decide)(void *arg, struct tr_worker *worker, struct tr_decision *decision);
	/* log_disposition_NAME(message, record): then(then_arg) when it ended. */
	void (*dispose)(void *arg, struct tr_worker *worker, const struct tr_message *message, const char *hook,
		struct tr_str record_json, void (*then)(void *then_arg), void *then_arg);
	/* filter_event(message) of a local log: then(then_arg, write). */
	void (*filter)(void *arg, struct tr_worker *worker, const struct tr_message *message, const char *event,
		void (*then)(void *then_arg, bool write), void *then_arg);
	/* Render a template with the record; TR_OK or TR_EINVAL with a log line. */
	int (*render)(void *arg, struct tr_worker *worker, const char *template_text, struct tr_str record_json,
		struct tr_buf *out);
};

extern const char tr_record_cancelled[]; /* compared by address */

/* `spool` is used for accounts and changes and must outlive the recorder. */
/* spool may be NULL until tr_recorder_attach(): hooks are configured before the spool is open. */
int tr_recorder_new(struct tr_spool *spool, const struct tr_record_ops *ops, void *ops_arg, struct tr_recorder **out);
/* Gives the spool and each hook its ledger account. Before the first emit. TR_OK or TR_EAGAIN (too many accounts). */
int tr_recorder_attach(struct tr_recorder *recorder, struct tr_spool *spool);
/* Where the hooks' dead letters are: gives it their bounds, now and for hooks that come later. After attach. */
void tr_recorder_set_dead(struct tr_recorder *recorder, struct tr_dead_store *dead);
/* Ends the local logs' thread after what it holds is written and finished. After the policy hosts (no answer may come
 * any more), before the loops and the spool. */
void tr_recorder_free(struct tr_recorder *recorder);
void tr_recorder_set_nodeid(struct tr_recorder *recorder, const char *uuid);
/* Adds a logger before the start. TR_EEXIST: the hook name is taken; TR_EIO: log_dir cannot be made. *error: malloc'ed
 * text. */
int tr_recorder_add(struct tr_recorder *recorder, const struct tr_logger_config *config, char **error);
/* Index of a logger of exactly this configuration, from index `from` on; -1: none. A second worker finds what the first
 * one added. */
int tr_recorder_find(struct tr_recorder *recorder, const struct tr_logger_config *config, uint32_t from);
bool tr_recorder_has_hook(const struct tr_recorder *recorder, struct tr_str name);
/* Something is listening for that type: emit is worth calling (one load). */
bool tr_recorder_wants(const struct tr_recorder *recorder, enum tr_event_type type);

/* Shows each record, about records too, as JSON with all meta and headers, when it is made. For tools; before the
 * start.
 */
void tr_recorder_set_tap(struct tr_recorder *recorder,
	void (*tap)(void *arg, const struct tr_event *event, struct tr_str json), void *arg);

/* Lets the local logs finish segments by age. Cheap: call it at the end of a loop turn or from a timer. Any thread. */
void tr_recorder_tick(struct tr_recorder *recorder);

/* The `emit` of tr_queue_ops. */
void tr_recorder_emit(struct tr_recorder *recorder, struct tr_outbox *outbox, const struct tr_event *event);
/* The `decide` of tr_queue_ops: undecided or parked record, again. Takes the message. */
void tr_recorder_decide(struct tr_recorder *recorder, struct tr_worker *worker, struct tr_message *record);
/* The `decide_room`: how many more undecided records of an account are taken into memory now. */
uint32_t tr_recorder_room(struct tr_recorder *recorder, uint16_t account);

/* One record as JSON without newline: exactly contract/log-record.md section 1, plus "event_id" (32 hex digits) after
 * "id". */
struct tr_capture {
	const char *const *meta, *const *headers; /* NULL-terminated; NULL: none */
};
void tr_record_encode(const struct tr_event *event, const char *nodeid, const char event_id[33],
	const struct tr_capture *capture, struct tr_buf *out);

#endif
