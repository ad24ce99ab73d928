/* Dead letters: log records that were refused for good or have expired, kept in the spool until they are replayed,
 * purged or crowded out. Each is a stored message of an account of its own, "dead:HOOK", with the flag TR_MSG_DEAD and,
 * in its metadata, `dead_letter`: what happened to it. It needs no engine, so that a stopped spool can be served, too.
 * Any thread unless said otherwise. See docs/dead-letters.md. */
#ifndef TR_DEAD_H
#define TR_DEAD_H

#include "spool/spool.h"

/* Beside them the store knows the records that are parked because policy failed (TR_MSG_POLICY_ERROR, with the text in
 * the metadata `policy_error`), in the hook's own account, so that they can be seen and dealt with the same way. */
struct tr_dead_store;
int tr_dead_new(struct tr_spool *spool, struct tr_dead_store **out); /* TR_OK, TR_ENOMEM */
void tr_dead_free(struct tr_dead_store *store);                      /* NULL is fine */

/* What a hook's store may hold; beyond it the oldest are dropped, which the ledger counts. 0: no bound. */
struct tr_dead_bounds {
	uint64_t max_count, max_bytes;
	int64_t max_age_ms; /* since it died */
	bool off;           /* its records end as bounced and expired instead */
};
extern const struct tr_dead_bounds tr_dead_default; /* 1,000,000 letters, 1 GiB, 30 days */
void tr_dead_configure(struct tr_dead_store *store, uint16_t hook_account, const struct tr_dead_bounds *bounds);
bool tr_dead_wanted(struct tr_dead_store *store, const struct tr_message *message);

/* Turns a log record that ends into a dead letter within the change: its stored form goes to the column `dead`, and the
 * message, which keeps its object, gets a new slot. `line`: the last answer. reason: "rejected", "expired". Once the
 * change is committed the caller hands the slot over by tr_dead_add(). TR_OK; else nothing was done. */
int tr_dead_put(struct tr_dead_store *store, struct tr_change *change, struct tr_message *message, const char *reason,
	struct tr_str line);
/* A letter or a parked record that is stored, also by a start: tr_recovered.flags. `queue`: where it came from. */
void tr_dead_add(struct tr_dead_store *store, uint32_t slot, struct tr_str queue);
/* A letter for people and programs: id, seq, size, letter (what happened to it), and the record's text if `payload`. */
void tr_dead_json(struct tr_buf *out, const struct tr_message *letter, struct tr_str info, bool payload);
/* Drops what is beyond the bounds, some hundred in a change, one after the other; own thread of `loop`. */
void tr_dead_trim(struct tr_dead_store *store, struct tr_loop *loop);
/* A JSON array of the names of the hooks that have letters or parked records. */
void tr_dead_hooks(struct tr_dead_store *store, struct tr_buf *out);
uint64_t tr_dead_count(const struct tr_dead_store *store); /* of letters */

/* --- jobs --------------------------------------------------------------------------------------------------- */

enum tr_dead_action { TR_DEAD_LOOK, TR_DEAD_REPLAY, TR_DEAD_PURGE };
enum tr_dead_kind { TR_DEAD_ALL, TR_DEAD_LETTERS, TR_DEAD_PARKED };
/* Goes through the letters and the parked records, the oldest of each hook first. One job at a time goes through those
 * of a hook: the others wait for it. Allocate it zeroed; it is the caller's again in done(). */
struct tr_dead_job {
	enum tr_dead_action action;
	enum tr_dead_kind kind;
	/* which: all that is given must fit */
	const char *hook;         /* its name */
	const uint8_t (*ids)[16]; /* of messages; NULL: any */
	uint32_t id_count;
	int64_t since_ms, until_ms; /* when it died, or of a parked one when it came, wall; 0: any */
	const char *reason;         /* "rejected", "expired", "policy_error" */
	uint64_t after_seq;         /* stored after this one; 0: any. For pages of one hook and one kind */
	uint64_t limit;             /* letters; 0: all */
	/* LOOK: for each; info is the metadata `dead_letter`, JSON */
	void (*each)(struct tr_dead_job *job, const struct tr_message *message, struct tr_str info);
	/* REPLAY: records that wait for their queue again, committed, in no list. Their bytes were not read. NULL: the
	 * next start puts them there */
	void (*moved)(struct tr_dead_job *job, const char *queue, const uint32_t *slots, uint32_t count);
	/* REPLAY: one that had to be written anew, committed; takes the message */
	void (*replayed)(struct tr_dead_job *job, struct tr_message *message);
	/* REPLAY: a parked record that is to be decided again; it is in no list. NULL: it stays, as the next start does
	 * that. */
	void (*again)(struct tr_dead_job *job, uint32_t slot);
	void (*done)(struct tr_dead_job *job); /* from the loop */
	void *owner;
	uint64_t matched; /* that fit */
	uint64_t parked;  /* of them: parked records */
	uint64_t refused; /* REPLAY: fit, too, but the disk did not take them: they stay, and the job ended there */
	int refused_err;
	uint64_t unreadable; /* letters that could not be read now; they stay */
	bool cut;            /* it ended early, as the engine stops */
	struct dead_work *work;
};
/* On the thread of `loop`. TR_OK: done() will come, and a stop of the engine waits for it. TR_ENOMEM; TR_ECANCELED: the
 * engine stops. */
int tr_dead_start(struct tr_dead_store *store, struct tr_loop *loop, struct tr_dead_job *job);

#endif
