/* The queues: scheduled queues with timers and waiting lines, ready queues, sessions' side, outcomes.
 *
 * Each scheduled queue has a home worker (by the hash of its effective routing domain); only that thread touches its
 * line and timers. A ready queue is shared by all workers under its mutex. Messages pass between threads through
 * mailboxes (whole lists, once a turn) or the ready queue. Nothing is taken or moved before its last change is
 * committed. */
#ifndef TR_QUEUE_H
#define TR_QUEUE_H

#include "queue/config.h"
#include "queue/event.h"
#include "queue/source.h"
#include "shaping/shaping.h"
#include "spool/spool.h"

struct tr_engine;
struct tr_worker;
struct tr_sched;
struct tr_ready;
struct tr_session;
struct tr_outbox;

/* What the engine asks of those above it. All run on the worker's thread. `arg` of tr_engine_config. */
struct tr_queue_ops {
	/* Ask policy for the queue's configuration; answer with tr_sched_configured(), at once or later. */
	void (*resolve_queue)(void *arg, struct tr_worker *worker, struct tr_sched *sched);
	/* Ask policy for the path's configuration; answer with tr_ready_configured(). */
	void (*resolve_path)(void *arg, struct tr_worker *worker, struct tr_ready *ready);
	/* Find the site of an SMTP queue without mx_list (its mail exchangers); answer with tr_sched_site(), at once or
	 * later. NULL: every domain is a site of its own. */
	void (*resolve_site)(void *arg, struct tr_worker *worker, struct tr_sched *sched);
	/* Ask policy for the definition of a pool or a source; answer with tr_pool_configured(),
	 * tr_source_configured(). NULL: there are none. */
	void (*resolve_pool)(void *arg, struct tr_worker *worker, struct tr_pool *pool);
	void (*resolve_source)(void *arg, struct tr_worker *worker, struct tr_source *source);
	/* Start a session (a Lua task) for `session`, which is ready to be used. TR_OK or an error (counted as a failed
	 * session). It must end with tr_session_end(). */
	int (*open_session)(void *arg, struct tr_worker *worker, struct tr_session *session);
	/* Wake the session that waits in its idle or gate wait (tr_session_wait). */
	void (*wake_session)(void *arg, struct tr_session *session);
	/* Stop a session at the shutdown time-out. */
	void (*cancel_session)(void *arg, struct tr_session *session);
	/* What it does, for the log: whose messages it has; `whole`: also what it waits for and where its Lua stands.
	 * NULL: not known. */
	void (*describe_session)(void *arg, struct tr_session *session, bool whole, struct tr_buf *out);
	/* Policy has a throttle_insert_ready_queue handler: run it, then call then(then_arg, error). error NULL: the
	 * message's due_ms tells. The message stays owned by the queue. */
	bool (*wants_promote)(void *arg, struct tr_worker *worker);
	void (*promote)(void *arg, struct tr_worker *worker, struct tr_message *message,
		void (*then)(void *then_arg, const char *error), void *then_arg);
	/* Policy has a requeue_message handler: run it (response one-line, reasons NULL-terminated, delay_ns -1: none),
	 * then call then(then_arg, reject_code or -1, reject_text). */
	bool (*wants_requeue)(void *arg, struct tr_worker *worker);
	void (*requeue)(void *arg, struct tr_worker *worker, struct tr_message *message, struct tr_str response,
		const char *const *reasons, bool increment, int64_t delay_ns,
		void (*then)(void *then_arg, int reject_code, const char *reject_text), void *then_arg);
	/* Run the rebind_message handler (an error without one), then call then(then_arg, error). data: key, value,
	 * ..., NULL. */
	void (*rebind)(void *arg, struct tr_worker *worker, struct tr_message *message, const char *const *data,
		void (*then)(void *then_arg, const char *error), void *then_arg);
	/* Policy has a spool_message_enumerated handler: each recovered message is shown to it before it goes on. */
	bool (*wants_enumerated)(void *arg);
	void (*enumerated)(void *arg, struct tr_worker *worker, struct tr_message *message,
		void (*then)(void *then_arg, const char *error), void *then_arg);
	/* Make the log records of an event and add them to the outbox (runtime/record). */
	void (*emit)(void *arg, struct tr_outbox *outbox, const struct tr_event *event);
	/* Decide an undecided or parked record again (start-up, replay); runtime/record. Takes the message. */
	void (*decide)(void *arg, struct tr_worker *worker, struct tr_message *message);
	/* How many more records of that account decide() takes now without piling them up in memory. NULL: any number.
	 */
	uint32_t (*decide_room)(void *arg, uint16_t account);
	/* True if policy on this worker has a handler of that name (constructors). */
	bool (*has_handler)(void *arg, struct tr_worker *worker, const char *name);
};

struct tr_engine_config {
	struct tr_spool *spool;
	struct tr_loop *const *loops; /* one per worker */
	uint32_t workers;
	const struct tr_queue_ops *ops;
	void *ops_arg;
	uint64_t seed;        /* of the jitter; the same seed, the same run */
	uint64_t ready_bytes; /* bound of message bytes in all ready queues; 0: 256 MiB */
	/* Throttles and leases of the process; outlives the engine. NULL: it makes its own. */
	struct tr_shaping *shaping;
};

int tr_engine_new(const struct tr_engine_config *config, struct tr_engine **out);
void tr_engine_free(struct tr_engine *engine); /* after all workers have left their loops */
struct tr_worker *tr_engine_worker(struct tr_engine *engine, uint32_t index);
struct tr_engine *tr_worker_engine(struct tr_worker *worker);
struct tr_loop *tr_worker_loop(struct tr_worker *worker);
uint32_t tr_worker_index(const struct tr_worker *worker);
struct tr_spool *tr_engine_spool(struct tr_engine *engine);
struct tr_dead_store *tr_engine_dead(struct tr_engine *engine); /* queue/dead.h */
void tr_worker_set_data(struct tr_worker *worker, void *data);  /* the host, for ops */
void *tr_worker_data(const struct tr_worker *worker);
double tr_worker_random(struct tr_worker *worker); /* [0,1), seeded */

/* Recovered messages (from tr_spool_recover, before the loops run); then start() lets timers and lines go, from inside
 * the worker's loop or before it runs. */
void tr_engine_recovered(struct tr_engine *engine, const struct tr_recovered *message);
void tr_engine_start(struct tr_engine *engine);
/* True from tr_engine_start() to tr_engine_stop(): intake may go on (if tr_spool_accepts() too). Any thread. */
bool tr_engine_is_open(const struct tr_engine *engine);

/* --- outbox: one state change and the records that it causes ----------------------------------- */
struct tr_outbox {
	struct tr_change change; /* first: add your own ops to it */
	struct tr_worker *worker;
	struct tr_message *records; /* hook messages to insert once committed; in order */
	struct tr_message **records_end;
	uint32_t pending; /* disposition hooks and full local logs that the change waits for */
	bool submitted;
	void (*done)(struct tr_outbox *outbox, int status); /* after commit (records are inserted already) or refusal */
	void *owner;
	void (*abandoned)(struct tr_outbox *outbox); /* in place of done(), for who has come in between; NULL: nobody */
};
void tr_outbox_init(struct tr_outbox *outbox, struct tr_worker *worker,
	void (*done)(struct tr_outbox *outbox, int status), void *owner);
void tr_outbox_emit(struct tr_outbox *outbox, const struct tr_event *event);
/* For record: a message whose put is in the change; inserted into its queue after the commit. */
void tr_outbox_add_record(struct tr_outbox *outbox, struct tr_message *record);
void tr_outbox_hold(struct tr_outbox *outbox);    /* pending++ */
void tr_outbox_release(struct tr_outbox *outbox); /* pending--; submits if it was asked to */
void tr_outbox_submit(
	struct tr_outbox *outbox); /* when pending is 0; an empty change is done without a commit, later in this turn */
void tr_outbox_abandon(struct tr_outbox *outbox); /* instead of submit */

/* --- putting messages in ---------------------------------------------------------------------- */
/* Makes sure that the queue exists and is configured: then(arg, error) on this worker, at once if it is (error NULL),
 * else later. error is policy's, cached 60 s (contract/events.md section 6). "null" is always fine. */
void tr_queue_resolve(
	struct tr_worker *worker, struct tr_str name, void (*then)(void *arg, const char *error), void *arg);
/* Puts a stored message (slot and queue name set) into its scheduled queue; takes it. `reason` starts the insert
 * context
 * ("Received"). Any worker. */
void tr_queue_insert(struct tr_worker *worker, struct tr_message *message, const char *reason);
/* The same for stored records that were not read, all of that queue (not "" nor "null"), and in none yet. Own thread of
 * `worker`. */
void tr_queue_insert_stored(struct tr_worker *worker, struct tr_str queue, const uint32_t *slots, uint32_t count);
/* A record that must not be sent (policy raised, hook or constructor gone): parked and counted; takes it. It is stored
 * already with TR_MSG_POLICY_ERROR. */
void tr_queue_park(struct tr_worker *worker, struct tr_message *message);
/* A parked record, out of the store of dead.h: policy is asked again, as at a start. Own thread of `worker`. */
void tr_queue_decide_again(struct tr_worker *worker, uint32_t slot);

/* --- answers of policy -------------------------------------------------------------------------- */
struct tr_str tr_sched_name(const struct tr_sched *sched);
void tr_sched_parts(const struct tr_sched *sched, struct tr_queue_name *out);
/* config (reference taken over) or NULL with error text. */
void tr_sched_configured(struct tr_sched *sched, struct tr_queue_config *config, const char *error);
/* The answer to resolve_site, on the home worker: the site, or NULL with what the records of its messages say
 * ("KumoMTA internal: ..."). Asked again after until_ns (monotonic). */
void tr_sched_site(struct tr_sched *sched, const char *site, int64_t until_ns, const char *error);
/* What a queue knows of its site is not true any more: it is asked again before the next message goes on. Any thread.
 */
void tr_queue_forget_site(struct tr_worker *worker, struct tr_str queue);
struct tr_str tr_ready_name(const struct tr_ready *ready);
struct tr_str tr_ready_site(const struct tr_ready *ready);
struct tr_str tr_ready_source(const struct tr_ready *ready);
struct tr_str tr_ready_routing_domain(const struct tr_ready *ready);
bool tr_ready_is_hook(
	const struct tr_ready *ready); /* TR_PROTO_LUA whose domain ends with .log_hook, or fed by log records */
void tr_ready_configured(struct tr_ready *ready, struct tr_path_config *config, const char *error);
/* The config epoch changed: resolve again what refreshes on it. */
void tr_engine_bump_epoch(struct tr_engine *engine);

/* --- sessions -------------------------------------------------------------------------------------- */
enum tr_take { /* why take gave nothing */
	TR_TAKE_GOT,
	TR_TAKE_EMPTY, /* wait with tr_session_wait, at most idle_timeout */
	TR_TAKE_GATE,  /* gate closed: end the session, the engine opens one for the probe */
	TR_TAKE_CLOSE, /* suspended, stopping, protocol changed, spool cannot store outcomes: end the session */
};
struct tr_session {
	struct tr_ready *ready;
	struct tr_worker *worker;
	struct tr_session *next; /* engine's lists */
	void *task;              /* for ops: what to wake */
	uint8_t uuid[16];
	char uuid_text[37];
	const struct tr_path_config *path;     /* reference held */
	const struct tr_queue_config *queue;   /* reference held */
	uint64_t delivered, transient, failed; /* messages */
	int64_t started_at_ns, phase_at_ns;    /* monotonic */
	const char *phase; /* literal: "Starting", "Idle", "AttemptingConnection", "DeliveringMessage" ... */
	bool idle;         /* in tr_session_wait */
	bool probing;      /* holds the gate's probe */
	bool idle_queued;
	bool failed_itself; /* by a defect, not by its peer: tr_session_end() lets a second pass before the next one */
};
/* Up to `max` messages (and, after the first, `max_bytes` of body; 0: no bound) into *list; each checked for bounce
 * rules and age. They belong to the session until their outcome. Returns how many; *why if 0. */
uint32_t tr_session_take(
	struct tr_session *session, uint32_t max, uint64_t max_bytes, struct tr_message **list, enum tr_take *why);
/* Registers as idle: wake_session will be called when there is work or reason to end. The caller waits with its own
 * deadline, and calls tr_session_unwait() when it goes on for another reason. Returns false if there is work
 * already. */
bool tr_session_wait(struct tr_session *session);
void tr_session_unwait(struct tr_session *session);
/* Rates and leases. Each is asked again after its wait: wait_ns, or less if wake_session comes (INT64_MAX: it will). */
enum tr_go {
	TR_GO,
	TR_GO_WAIT,
	TR_GO_BACK, /* not now: what is in hand is given back untried, and the queue is closed until then */
	TR_GO_GONE, /* a lease is lost: the session must end */
	TR_GO_FAIL, /* the shared backend could not be asked: a transient failure of what is in hand; *error says more
		     */
};
/* Must tr_session_pace() or tr_session_extend() be asked now? Cheap. */
bool tr_session_is_paced(const struct tr_session *session);
/* Before a batch in hand is sent: one token of each message rate. */
enum tr_go tr_session_pace(struct tr_session *session, int64_t *wait_ns, const char **error);
/* Before the next batch is taken: leases that are shared with other nodes live on. */
enum tr_go tr_session_extend(struct tr_session *session, int64_t *wait_ns);
/* Any arguments for the constructor: name of one live scheduled queue that feeds it. */
void tr_session_feeding(const struct tr_session *session, struct tr_buf *name);
void tr_session_connected(struct tr_session *session); /* a connect worked: failures in a row are over */
/* A connection failure (constructor raised, no host answered): counts for the gate and the consecutive rule; the held
 * messages get their outcomes by tr_session_report. at_once: refused. text: for the log. */
void tr_session_connect_failed(struct tr_session *session, bool at_once, struct tr_str text);
/* Its peer has said that it holds it up, and why; NULL: no more. For those who ask why; its phase begins anew after
 * that. */
void tr_session_held_up(struct tr_session *session, const char *text);
bool tr_session_is_held_up(const struct tr_session *session);
void tr_session_end(struct tr_session *session); /* frees it */

enum tr_outcome_kind {
	TR_OUT_DELIVERED,
	TR_OUT_BOUNCED,
	TR_OUT_TRANSIENT,
	TR_OUT_REQUEUE /* not tried: attempts stay */
};
struct tr_outcome {
	enum tr_outcome_kind kind;
	struct tr_response response;
	bool has_peer; /* peer_* below are known */
	struct tr_str peer_name, peer_addr, source_address, tls_cipher, tls_protocol;
	struct tr_str proxy_server, proxy_protocol; /* .data NULL: none; "haproxy", "socks5" */
	struct tr_str delivery_protocol;            /* "Lua", "ESMTP" */
	int64_t retry_after_ns;                     /* -1: not said */
	bool gate_at_once;                          /* closes the gate now */
	bool gate_counts;   /* counts for or against the gate (a reject of one record by a healthy endpoint: false) */
	const char *reason; /* insert context: of TR_OUT_TRANSIENT what stands before "LoggedTransientFailure", of
			     * TR_OUT_REQUEUE all of it, e.g. "DispatcherDrop". With retry_after_ns > 0 a Delayed
			     * record tells `response`; without, they wait where they were, and there is no record */
};
/* One outcome for `count` messages of this session; takes them. Records, ledger and the change follow; the session need
 * not wait. Whole message only. */
void tr_session_report(
	struct tr_session *session, struct tr_message *list, uint32_t count, const struct tr_outcome *outcome);
/* Outcomes by recipient (SMTP): outcome[i] is for message->rcpts[i]; equal ones share a record. Takes the message;
 * recipients with a transient outcome stay. */
void tr_session_report_rcpts(struct tr_session *session, struct tr_message *message, const struct tr_outcome *outcomes);
/* As tr_session_report_rcpts() where some outcome is transient, but the recipients that are kept stay with the session,
 * for another host at once: records are told, no attempt is counted. told() from the loop, when that is stored: the
 * message is the session's again; NULL: it could not be stored, and waits in its queue. False: no memory, nothing is
 * done. The struct is the caller's, and stays until told() or tr_session_untell(), which a session that ends calls: the
 * message then goes back to its queue. */
struct tr_telling {
	void (*told)(struct tr_telling *telling, struct tr_message *message);
	struct tr_session *session;
	struct outcome_op *op; /* NULL: nothing is under way */
};
bool tr_session_tell_rcpts(struct tr_session *session, struct tr_message *message, const struct tr_outcome *outcomes,
	struct tr_telling *telling);
void tr_session_untell(struct tr_telling *telling);
/* Bound of outcomes not yet committed: a session that finds this true waits (tr_session_wait_settled wakes by
 * wake_session). */
bool tr_session_must_settle(const struct tr_session *session);
/* Registers for that wake (once); false if there is nothing to wait for. tr_session_unwait() undoes it. */
bool tr_session_wait_settled(struct tr_session *session);

/* --- admin ------------------------------------------------------------------------------------------ */
struct tr_admin_match { /* NULL: any */
	const char *campaign, *tenant, *domain, *routing_domain;
	const char *const *queue_names; /* NULL-terminated, overrides the rest */
};
enum tr_admin_kind { TR_ADMIN_BOUNCE, TR_ADMIN_SUSPEND, TR_ADMIN_SUSPEND_READY };
/* A rule for duration_ns. `ready_name` for TR_ADMIN_SUSPEND_READY. id: 36 characters. sweep: act on what waits now. */
int tr_admin_add(struct tr_engine *engine, enum tr_admin_kind kind, const struct tr_admin_match *match,
	const char *ready_name, const char *reason, int64_t duration_ns, bool suppress_logging, bool sweep,
	char id[37]);
bool tr_admin_delete(struct tr_engine *engine, enum tr_admin_kind kind, const char *id);
void tr_admin_list(
	struct tr_engine *engine, enum tr_admin_kind kind, struct tr_buf *json); /* array of contract/http-admin.md */

/* Acts once on what waits in the lines and timers of the matching queues, in the background: the metadata becomes
 * `data` (or what the rebind_message handler makes of it), and the message goes where that leads. */
struct tr_rebind {
	struct tr_admin_match match;
	const char *reason;
	const char *const *data; /* key, value, key, value ..., NULL */
	bool trigger_event, always_flush, suppress_logging;
};
int tr_admin_rebind(struct tr_engine *engine, const struct tr_rebind *request); /* TR_OK, TR_ENOMEM; any thread */

/* --- undecided records -------------------------------------------------------------------------------- */
/* A stored undecided record for which runtime/record has no room: it is freed, its stub waits until decide_room() says
 * so, behind the others of its account. Own thread of `worker`. */
void tr_queue_leave_undecided(struct tr_worker *worker, struct tr_message *message);
/* Policy has answered for one, and that could not be stored: it is decided again in a while. Own thread of `worker`. */
void tr_queue_ask_again(struct tr_worker *worker, uint32_t slot);
/* How many of an account wait so; any thread. */
uint32_t tr_queue_undecided(const struct tr_engine *engine, uint16_t account);
/* There is room again. Any thread. */
void tr_queue_decide_more(struct tr_engine *engine);

/* --- seeing ------------------------------------------------------------------------------------------- */
/* JSON of contract/http-admin.md, gathered on the queue's home worker; then(arg, json or NULL if unknown). */
void tr_queue_inspect(struct tr_worker *worker, struct tr_str name, uint32_t limit, bool want_body,
	void (*then)(void *arg, struct tr_str json), void *arg);
/* One message by its id, as it is stored; on this worker, then() later or at once. */
void tr_message_inspect(struct tr_worker *worker, const uint8_t id[16], bool want_body,
	void (*then)(void *arg, struct tr_str json), void *arg);
void tr_ready_inspect(
	struct tr_worker *worker, struct tr_str name, void (*then)(void *arg, struct tr_str json), void *arg);
/* What holds back a scheduled queue, a ready queue or a message (32 hexadecimal digits), in plain words: JSON
 * {"name":, "kind":"queue|ready|message", "holds":[{"kind":, "text":, "seconds":number or null}],
 * "ready_queues":[...]}, then(arg, json or NULL if unknown), at once or later. docs/shaping.md names the kinds. */
void tr_why(struct tr_worker *worker, struct tr_str name, void (*then)(void *arg, struct tr_str json), void *arg);
struct tr_queue_figures {
	uint64_t scheds, readies, line, timers, ready, in_flight, undecided, parked, sessions;
};
void tr_engine_figures(const struct tr_engine *engine, struct tr_queue_figures *out);
/* A line per ready queue with its sessions, for the stop report. */
void tr_engine_report(struct tr_engine *engine, struct tr_buf *out);

/* --- stop ------------------------------------------------------------------------------------------------ */
/* Takes nothing new; running sends may end; each session is cancelled after its system_shutdown_timeout or at the
 * deadline, whichever comes first, and named in the log. stopped(arg) on worker 0 when no session and no change is
 * left. deadline_ns is a monotonic moment; a second call may only bring it nearer. */
void tr_engine_stop(struct tr_engine *engine, int64_t deadline_ns, void (*stopped)(void *arg), void *arg);

#endif
