/* The durable spool: one append-only log of segments with group commit. See docs/spool.md.
 *
 * Workers hand over changes; the commit thread, the only writer, puts all that wait into one group,
 * writes and syncs it, and posts each change back to its loop. Loader threads read messages back.
 * The index is the stubs in memory; recovery is one pass over the log. */
#ifndef TR_SPOOL_H
#define TR_SPOOL_H

#include <stdatomic.h>

#include "base/file.h"
#include "base/loop.h"
#include "message/message.h"
#include "spool/ledger.h"

struct tr_spool;

struct tr_spool_config {
	const char *meta_path;  /* directory of the log; created */
	const char *data_path;  /* directory of body files; created; may be the same */
	uint64_t segment_bytes; /* 0: 64 MiB; at least 4 KiB; a power of two up to 64 MiB */
	uint64_t change_bytes;  /* 0: 256 MiB; the most that one change may have; at most 512 MiB */
	uint64_t group_bytes;   /* 0: 4 MiB */
	uint64_t pending_bytes; /* 0: 64 MiB; above it tr_spool_pressure() is true */
	uint64_t reserve_bytes; /* 0: two segments; kept for outcomes when the disk fills */
	uint64_t floor_bytes;   /* 0: four segments; the log may be this large whatever lives */
	int64_t pace_ns;        /* the longest a change that nobody waits for is held back; 0: 10 ms; -1: not at all */
	int64_t urgent_gap_ns;  /* 0: 1 ms; the shortest time between two syncs */
	uint32_t body_file_bytes; /* 0: 256 KiB; a body above it is a file of its own */
	uint32_t loaders;         /* 0: 2 */
	bool inline_io; /* by who asks, not by the threads: for tests on the virtual clock, without their wakes */
	bool no_flush;  /* answer at hand-over, never sync */
	struct tr_space_limit min_free_space, min_free_inodes; /* zero: "10%" */
	uint64_t first_segment;                                /* 0: 1; number of the first segment of an empty log */
	uint32_t first_generation; /* 0: 1; generation of a new segment file; counts up when it is recycled */
};

/* One stored message: 56 bytes. `loc` is moved by the commit thread (copying forward); `when` and
 * `tries` are the owner's, read racily (but never torn) by the commit thread. */
struct tr_stub {
	uint64_t seq;
	_Atomic uint64_t loc;   /* segment:24 offset:20 (in steps of 64, of more in segments over 64 MiB) ordinal:20 */
	_Atomic uint64_t when;  /* due, wall ms << 16 | TR_STUB_OWNERS | flags */
	_Atomic uint64_t tries; /* created, wall ms << 16 | attempts */
	uint32_t next, prev;    /* slots: list of the owner (line or wheel); TR_NO_SLOT ends */
	uint32_t queue;         /* index of the owner's scheduled queue */
	uint32_t size;          /* stored bytes, body included */
	uint32_t order;         /* the owner's; as a start finds it: the key of TR_MSG_ORDERED, else 0 */
	uint16_t account;
	uint16_t units; /* recipients or records, saturating at 65535 (the log has the true number) */
};

/* --- open and recover --------------------------------------------------------------------- */

/* Opens the directories and takes their locks (TR_EAGAIN: another process has them), reads the log's
 * segment headers. An unknown version is TR_EVERSION and touches nothing. *error (malloc'ed, may be NULL)
 * tells what and where. */
int tr_spool_open(const struct tr_spool_config *config, struct tr_spool **out, char **error);

/* Intake also stops while the file system of this directory (of local logs, for instance) is below the limits. Before
 * tr_spool_recover(). TR_OK, TR_ENOMEM. */
int tr_spool_watch(struct tr_spool *spool, const char *dir, const struct tr_space_limit *space,
	const struct tr_space_limit *inodes);

struct tr_recovered {
	uint32_t slot;
	struct tr_str queue; /* name as stored; borrowed for the call */
	uint16_t flags;      /* TR_MSG_UNDECIDED, TR_MSG_POLICY_ERROR, TR_MSG_LOG_RECORD */
};
struct tr_recovery {
	uint64_t segments, frames, messages, bytes, damaged_frames, damaged_bytes, torn_bytes, orphan_bodies;
	int64_t took_ns;
};
/* One pass over the log; then `each` for each live message in log order (this thread); then the threads
 * start. Damage is set aside into META/damaged/, counted and logged, never an error. Ends with the
 * ledger checked: a difference is logged and put into the column dropped{damaged}. */
int tr_spool_recover(struct tr_spool *spool, void (*each)(void *arg, const struct tr_recovered *message), void *arg,
	struct tr_recovery *stats);

/* The last commit, for a disk that may fail: what cannot be stored within some tries is given up, so that every
 * change is answered (on its loop, which must still run after this). Nothing may be submitted any more, and no loop
 * may run in another thread. */
void tr_spool_finish(struct tr_spool *spool);
bool tr_spool_under_way(const struct tr_spool *spool); /* a change is submitted and not answered */

/* Commits what waits, writes the ledger, stops the threads, syncs, closes, frees. No change may be under way
 * whose loop no longer runs. */
void tr_spool_close(struct tr_spool *spool);

/* --- changes -------------------------------------------------------------------------------- */

/* One state change: all of it survives a crash or none. Embed or allocate; zeroed by tr_change_init(). After
 * tr_spool_submit() it belongs to the spool until `done` runs on `loop`. */
struct tr_change {
	struct tr_mail mail;  /* spool's: hand-over and answer */
	struct tr_loop *loop; /* where done runs */
	void (*done)(struct tr_change *change, int status);
	void *owner; /* free for the caller */
	struct tr_spool *spool;
	bool urgent;    /* somebody waits for the answer */
	bool intake;    /* may be refused (TR_ENOSPC, TR_EIO); without it, it is retried until it is stored */
	uint32_t count; /* ops in it */
	size_t bytes;
	struct tr_job *job; /* spool's: the frames */
	bool failed;        /* it could not be built whole: done() is told so */
	int why;            /* the status then; 0: TR_ENOMEM */
};

/* For `loop` see tr_spool_submit(); `done` may free or reuse the change. A refused change has taken the slots of its
 * new messages back: set their message->slot to TR_NO_SLOT and seq to 0 before they are put again. */
void tr_change_init(struct tr_change *change, struct tr_spool *spool, struct tr_loop *loop,
	void (*done)(struct tr_change *change, int status), void *owner);
/* Nothing of it may be stored: done() is told `err` (< 0) when it is submitted. The first one counts. */
void tr_change_fail(struct tr_change *change, int err);
/* Drops a change that was not submitted, and gives back the slots of its new messages. */
void tr_change_abandon(struct tr_change *change);

/* Stores a message (new: gets slot and seq here, column TR_COL_ACCEPTED or TR_COL_MOVED_IN is counted; already
 * stored: replaced under its seq, column TR_COL_NONE). `queue` may be empty (undecided). The body is referenced,
 * not copied. The caller keeps the message. TR_OK, TR_ENOMEM, TR_ETOOBIG (as the following). */
int tr_change_put(struct tr_change *change, struct tr_message *message, struct tr_str queue, enum tr_column column,
	int64_t units);
/* New due time and attempt count of a stored message. flags as enum tr_message_flag. */
int tr_change_state(struct tr_change *change, uint32_t slot, int64_t due_ms, uint16_t attempts, uint16_t flags);
/* Gives a stored message to another account and makes it a new one of that: created and due at those moments, without
 * an attempt; its bytes stay where they are. flags as enum tr_message_flag, with TR_MSG_RENEWED if what it tells of
 * itself is not to be believed any more. Its units are counted as TR_COL_MOVED_OUT and TR_COL_MOVED_IN. The stub shows
 * all that once it is committed; until then it must not be loaded or be part of another change. */
int tr_change_move(
	struct tr_change *change, uint32_t slot, uint16_t account, int64_t created_ms, int64_t due_ms, uint16_t flags);
/* Ends a stored message: `units` of its account go to `column`. Its slot is free again after done(). */
int tr_change_done(
	struct tr_change *change, uint32_t slot, enum tr_column column, enum tr_reason reason, int64_t units);
/* Counts without a message (offered, filtered; some recipients of a message that stays). */
int tr_change_count(
	struct tr_change *change, uint16_t account, enum tr_column column, enum tr_reason reason, int64_t units);

/* A change can be as large as it must be, up to change_bytes or 262,144 parts: more is TR_ETOOBIG. But one that needs
 * more than a segment makes the commit thread prepare one for it, and is in memory until it is stored: who can part
 * his work keeps within these two. */
uint64_t tr_change_room(const struct tr_change *change); /* payload bytes that still fit into half a segment */
bool tr_change_is_long(const struct tr_change *change);  /* an eighth of a segment: time to go on with another */

/* Hands over; own thread of change->loop. Handed to the commit thread at the end of the loop's turn, together with
 * the others of that turn. done() runs on the loop: TR_OK committed; TR_ENOSPC / TR_EIO refused (intake only), then
 * nothing of it is stored and the slots of its new messages are free again. Takes a hold until then. */
void tr_spool_submit(struct tr_change *change);

/* True while more than pending_bytes wait, or an outcome cannot be stored: stop reading sockets, take nothing. */
bool tr_spool_pressure(const struct tr_spool *spool);
/* Intake may be accepted: space above the limits, no failing disk. Cheap (a cached atomic, renewed every second). */
bool tr_spool_accepts(const struct tr_spool *spool, const char **why);

/* --- stubs ------------------------------------------------------------------------------------ */
struct tr_stub *tr_spool_stub(const struct tr_spool *spool, uint32_t slot);
/* Bits beside the flags that are the owner's and in memory only: tr_stub_set() keeps them, nobody stores them. */
#define TR_STUB_OWNERS UINT16_C(0xe000)
static inline int64_t
tr_stub_due_ms(const struct tr_stub *stub)
{
	return (int64_t)atomic_load_explicit(&stub->when, memory_order_relaxed) >> 16;
}
static inline uint16_t
tr_stub_flags(const struct tr_stub *stub)
{
	return (uint16_t)(atomic_load_explicit(&stub->when, memory_order_relaxed) & ~(uint64_t)TR_STUB_OWNERS);
}
static inline int64_t
tr_stub_created_ms(const struct tr_stub *stub)
{
	return (int64_t)(atomic_load_explicit(&stub->tries, memory_order_relaxed) >> 16);
}
static inline uint16_t
tr_stub_attempts(const struct tr_stub *stub)
{
	return (uint16_t)atomic_load_explicit(&stub->tries, memory_order_relaxed);
}
void tr_stub_set(struct tr_stub *stub, int64_t due_ms, uint16_t flags, uint16_t attempts);
/* A queue may still have a slot in its notes that was given back meanwhile: it looks whether its message is there. So
 * these two are written, and then read, whole, by other threads than the owner's, too. */
static inline void
tr_stub_set_seq(struct tr_stub *stub, uint64_t seq)
{
	__atomic_store_n(&stub->seq, seq, __ATOMIC_RELAXED);
}
static inline void
tr_stub_set_queue(struct tr_stub *stub, uint32_t queue)
{
	__atomic_store_n(&stub->queue, queue, __ATOMIC_RELAXED);
}
static inline bool
tr_stub_is(const struct tr_stub *stub, uint32_t seq_low, uint32_t queue)
{
	return (uint32_t)__atomic_load_n(&stub->seq, __ATOMIC_RELAXED) == seq_low &&
	       __atomic_load_n(&stub->queue, __ATOMIC_RELAXED) == queue;
}
/* The account of a stored message changes by a move, while another thread may look at it. */
static inline uint16_t
tr_stub_account(const struct tr_stub *stub)
{
	return __atomic_load_n(&stub->account, __ATOMIC_RELAXED);
}
static inline uint16_t
tr_stub_owners(const struct tr_stub *stub)
{
	return (uint16_t)(atomic_load_explicit(&stub->when, memory_order_relaxed) & TR_STUB_OWNERS);
}
static inline void
tr_stub_set_owners(struct tr_stub *stub, uint16_t bits) /* within TR_STUB_OWNERS */
{
	uint64_t when = atomic_load_explicit(&stub->when, memory_order_relaxed);

	atomic_store_explicit(&stub->when, (when & ~(uint64_t)TR_STUB_OWNERS) | bits, memory_order_relaxed);
}

/* Slots of the messages created in that millisecond (wall), at most max: a guess, since they may be ended or stored
 * anew meanwhile. Looks at every stub. Any thread. */
uint32_t tr_spool_find(struct tr_spool *spool, int64_t created_ms, uint32_t *slots, uint32_t max);

/* --- loading ------------------------------------------------------------------------------------ */
/* Reads messages back. `slots` in log order is fastest (neighbours are read together). */
struct tr_load {
	struct tr_mail mail;
	struct tr_loop *loop;
	void (*done)(struct tr_load *load); /* on loop; messages[i] NULL and status[i] < 0 where it failed (TR_EIO: try
					       later, TR_ECORRUPT: its bytes are gone, TR_ENOMEM) */
	void *owner;
	uint32_t count;
	uint32_t *slots;              /* caller's, count of them */
	struct tr_message **messages; /* caller's array; filled; each message then belongs to the caller */
	int *status;                  /* caller's array */
	bool envelope_only;           /* do not read body files */
	bool not_ours;                /* they may end meanwhile: what is not found then is no damage */
};
void tr_spool_load(struct tr_spool *spool, struct tr_load *load); /* takes a hold until done */

/* --- bodies of their own file -------------------------------------------------------------------- */
struct tr_body_file;                                             /* while it is being written */
uint64_t tr_spool_body_file_bytes(const struct tr_spool *spool); /* for bodies above it */
int tr_body_file_new(struct tr_spool *spool, struct tr_body_file **out);
int tr_body_file_add(struct tr_body_file *file, const void *data, size_t len); /* page cache; TR_ENOSPC, TR_EIO */
/* Syncs on a loader thread, then done(arg, status, id) on `loop`; frees the file object. The file lives once a put
 * with message->body_file = id is committed, and until the last message that names it is done. */
void tr_body_file_finish(
	struct tr_body_file *file, struct tr_loop *loop, void (*done)(void *arg, int status, uint64_t id), void *arg);
void tr_body_file_drop(struct tr_body_file *file);             /* unlinks what was written */
void tr_body_file_forget(struct tr_spool *spool, uint64_t id); /* finished, but its put was refused */

/* --- ledger and figures --------------------------------------------------------------------------- */
/* Index of the account of that name, made if new. TR_EAGAIN when TR_ACCOUNTS_MAX are in use. Any thread. */
int tr_spool_account(struct tr_spool *spool, const char *name, uint16_t *out);
/* Its name, without memory; false: there is no such account. Any thread. */
bool tr_spool_account_name(struct tr_spool *spool, uint16_t account, char out[64]);
/* A copy of the committed ledger; the caller ends it with tr_ledger_fini(). Any thread. */
int tr_spool_ledger(struct tr_spool *spool, struct tr_ledger *out);

struct tr_spool_figures {
	uint64_t live_messages, live_bytes, log_bytes, segments, free_segments, groups, changes, syncs, copied_bytes;
	uint64_t pending_bytes, stub_bytes, write_errors, sync_errors, refused, damaged_frames;
};
void tr_spool_figures(const struct tr_spool *spool, struct tr_spool_figures *out);

#endif
