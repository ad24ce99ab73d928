/* What the parts of the spool share. Nobody outside runtime/spool includes it.
 *
 * Who may touch what: the ring of segments, live counts and the current segment belong to the commit
 * thread (before it starts: to the thread that recovers); loaders look segments up under segs_mu, which
 * the commit thread takes when it changes the ring. Slots, extras, bodies and the ledger have locks of
 * their own, never held together with another. */
#ifndef TR_SPOOL_INTERNAL_H
#define TR_SPOOL_INTERNAL_H

#include <pthread.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/pulse.h"
#include "spool/frame.h"
#include "spool/spool.h"

/* 0 or more, or a negative errno, of an operation on files: TR_OK, TR_ENOSPC, TR_EMFILE, TR_ENOMEM, TR_EIO. */
static inline int
disk_error(ssize_t n)
{
	int err;

	if (n >= 0)
		return TR_OK;
	err = tr_err_from_errno((int)-n);
	return err == TR_ENOSPC || err == TR_EMFILE || err == TR_ENOMEM ? err : TR_EIO;
}

#define STUCK_AT "has been at one operation on the disk" /* what of the threads' pulses */

#define SLOT_CHUNK 4096
#define LOC_NONE UINT64_MAX       /* not in the log yet */
#define LOC_LOST (UINT64_MAX - 1) /* its bytes were found damaged and the segment is gone */

/* --- segments --------------------------------------------------------------------------------- */

struct segment {
	struct segment *next; /* in the list of spares */
	uint64_t number;
	uint64_t bytes; /* room for frames */
	uint64_t end;   /* good frames end here */
	uint64_t tail;  /* recovery: where the last group whose end frame fits begins */
	uint64_t limit; /* recovery: where they must end at most */
	uint64_t prev, prev_end, oldest;
	uint64_t log; /* 0: not known */
	uint64_t live_bytes;
	uint32_t generation, salt;
	uint32_t *slots;    /* by ordinal of a PUT: its stub, or TR_NO_SLOT when that died */
	uint32_t puts, cap; /* ordinals in use, room */
	uint32_t live;
	uint32_t refs; /* under segs_mu: the ring's and one a reading loader */
	int fd;
	bool failed;      /* a write or sync failed: never written again */
	bool holds_log;   /* it was told that a frame of it cannot be read, and that reclaiming waits for it */
	bool unsure;      /* without flush: a sync failed, so what is in the page cache may never have been written */
	bool limit_known; /* `limit` was told by the next segment */
	char name[40];
};

struct segment *segment_new(const char *name);
void segment_unref(struct tr_spool *spool, struct segment *segment);
/* Opens META/name; reads its header into *segment. TR_OK; TR_ECORRUPT: no valid header (fd is open);
 * TR_EVERSION; TR_EIO. */
int segment_open(struct tr_spool *spool, struct segment *segment, uint64_t *file_bytes, int flags);
void segment_header(const struct segment *segment, struct seg_header *out);
void segment_log_name(uint64_t number, char out[40]);
/* Reads and writes the same bytes, so that the kernel takes them for changed, as after a sync that has failed it does
 * not. What cannot be read stays as it is. 0 or -errno. */
int segment_write_again(struct tr_spool *spool, const struct segment *segment, uint64_t at, uint64_t len);
/* Syncs what a start has taken as committed; of the newest segment its header and last group are written once more. 0
 * or -errno of the sync. */
int segment_keep(struct tr_spool *spool, const struct segment *segment, bool newest);
char *spool_path(const char *dir, const char *name); /* malloc'ed, NULL: no memory */
/* Where PUT frames begin: at multiples of this, so that 20 bits tell the place in a segment of any size. */
static inline uint64_t
segment_align(uint64_t bytes)
{
	uint64_t align = PUT_ALIGN;

	while (bytes > align << 20)
		align *= 2;
	return align;
}
static inline uint64_t
loc_make(const struct segment *segment, uint64_t offset, uint32_t ordinal)
{
	return (segment->number & 0xffffff) << 40 | (offset / segment_align(segment->bytes)) << 20 | ordinal;
}
static inline uint64_t
loc_offset(uint64_t loc, uint64_t align)
{
	return ((loc >> 20) & 0xfffff) * align;
}
static inline uint32_t
loc_ordinal(uint64_t loc)
{
	return (uint32_t)(loc & 0xfffff);
}
struct segment *ring_get(const struct tr_spool *spool, uint64_t loc); /* NULL: not in the log */
int ring_add(struct tr_spool *spool, struct segment *segment);        /* TR_OK, TR_ENOMEM, TR_ETOOBIG */
void ring_remove_newest(struct tr_spool *spool);                      /* nothing was ever committed in it */
void ring_remove_oldest(struct tr_spool *spool);                      /* drops the ring's reference */
/* A PUT frame became live or died. */
int segment_reserve(struct tr_spool *spool, struct segment *segment, uint32_t more); /* room for more PUTs: TR_ENOMEM */
uint32_t segment_born(struct segment *segment, uint32_t slot, uint64_t bytes, struct tr_spool *spool); /* its ordinal */
void segment_died(struct tr_spool *spool, uint64_t loc, uint64_t bytes);

/* --- free space of other directories (spares.c) --- */
struct watched {
	struct watched *next;
	char *dir;
	struct tr_space_limit space, inodes;
};
void watched_free(struct tr_spool *spool);

/* --- slots ------------------------------------------------------------------------------------ */

struct slot_chunk {
	struct tr_stub stubs[SLOT_CHUNK];
	_Atomic uint64_t has_extra[SLOT_CHUNK / 64];
};
#define SLOT_CHUNKS (1u << 17) /* 536 million stubs */

struct extra { /* what few messages have and does not fit the stub */
	uint32_t slot;
	bool used;
	int64_t units;      /* the true number */
	uint64_t body_file; /* 0: none */
	uint64_t frame;     /* length of the payload without the body file */
};

int slots_init(struct tr_spool *spool);
void slots_fini(struct tr_spool *spool);
uint32_t slot_new(struct tr_spool *spool); /* TR_NO_SLOT: no memory; the stub is zero but loc = LOC_NONE */
void slot_free(struct tr_spool *spool, uint32_t slot);
void slot_free_many(struct tr_spool *spool, const uint32_t *slots, uint32_t count);
bool extra_get(const struct tr_spool *spool, uint32_t slot, struct extra *out);
int extra_set(struct tr_spool *spool, const struct extra *extra);
void extra_drop(struct tr_spool *spool, uint32_t slot);
int64_t slot_units(const struct tr_spool *spool, uint32_t slot);
uint64_t slot_length(const struct tr_spool *spool, uint32_t slot); /* of its PUT payload */
/* Fills units, size and extra of a stub. TR_OK or TR_ENOMEM (nothing changed). */
int slot_measure(
	struct tr_spool *spool, uint32_t slot, int64_t units, uint64_t length, uint64_t body_file, uint64_t body_len);

/* --- changes under way -------------------------------------------------------------------------- */

struct before { /* a stub as it was before a PUT again or a STATE: to go back to when that is refused */
	struct extra extra;
	bool had_extra;
	uint16_t units;
	uint32_t size;
	uint64_t when, tries;
};

/* Small, as thousands are under way: what only a message stored before needs is outside. */
struct op {
	uint8_t type; /* enum frame_type */
	uint8_t column, reason;
	uint8_t also; /* PUT: its units count in this column, too (what a COUNT would say); TR_COL_NONE: no other */
	uint16_t account;
	bool fresh; /* PUT of a message that was not stored yet */
	uint32_t slot;
	uint32_t crc;
	uint64_t seq;
	uint32_t at, len; /* payload's first part in the job's buffer; a COUNT has none */
	uint32_t total;   /* length of the payload */
	uint32_t offset;  /* commit thread: of a PUT in its segment */
	int64_t units;
	int64_t old_units;   /* PUT again, DONE: what was waiting before */
	uint64_t old_length; /* payload that dies with it */
	uint64_t old_body, body_file;
	struct before *before; /* PUT again, STATE: owned */
	struct tr_bytes body;  /* payload's second part, an owned reference */
};

struct tr_job {
	struct tr_mail mail; /* back to the loop; next also links the lists of the commit thread */
	struct tr_spool *spool;
	struct tr_change *change; /* NULL: answered already (no_flush) */
	struct tr_loop *loop;
	int status;
	bool urgent, intake;
	int64_t since_ns; /* monotonic: hand-over */
	struct tr_buf buf;
	uint64_t bytes;  /* upper bound of what its frames take in a segment */
	uint64_t copied; /* the part of it that is copied to the group's buffer */
	uint32_t count, cap;
	struct op ops[];
};
#define BODY_REF_BYTES 4096 /* from this size on a part is written from where it is, not copied */

/* change.c: what a MOVE makes of a stub. */
void stub_move(struct tr_spool *spool, uint32_t slot, const struct move_payload *move);

/* job.c */
struct port;
void op_fini(struct op *op);
struct tr_job *job_new(struct port *port);                      /* NULL: no memory */
struct tr_job *job_grow(struct port *port, struct tr_job *job); /* full, not handed over; NULL: it stays as it is */
void job_recycle(struct port *port, struct tr_job *job);        /* loop's thread */
void job_free(struct tr_job *job);

struct job_list {
	struct tr_job *first, *last;
	uint64_t bytes;
};
static inline struct tr_job *
job_next(const struct tr_job *job)
{
	return job->mail.next == NULL ? NULL : tr_container_of(job->mail.next, struct tr_job, mail);
}
void job_list_add(struct job_list *list, struct tr_job *job);
struct tr_job *job_list_take(struct job_list *list);

struct port { /* the spool's end in one loop */
	struct port *next;
	struct tr_spool *spool;
	struct tr_loop *loop;
	struct tr_turn_hook hook;
	struct tr_defer defer;           /* makes the turn one that did something */
	struct tr_mail *newest, *oldest; /* this turn's jobs, linked from the newest back */
	uint64_t bytes;
	bool hooked, urgent;
	struct tr_job *spare, *large; /* ended jobs, with their buffers, for the next changes; linked by mail.next */
	size_t spare_bytes;           /* of both lists */
	struct tr_mail *answers,
		*answers_last; /* no_flush: told once the jobs are handed over, so that none overtakes */
};

struct port *port_get(struct tr_spool *spool, struct tr_loop *loop); /* made if new; NULL: no memory */
void port_turn_end(struct tr_turn_hook *hook);
void port_free_spare(struct port *port);
void port_flush(struct port *port); /* hands over what waits; loop's thread, or when that has ended */

enum nap { NAP_NONE, NAP_IDLE, NAP_PACED, NAP_GAP }; /* what the commit thread sleeps for */

/* --- bodies ----------------------------------------------------------------------------------------- */

struct body_ref {
	uint64_t id, bytes;
	uint32_t refs; /* puts of it that are stored or under way */
	bool committed;
};

void body_name(uint64_t id, char out[40]);
bool body_id(const char *name, uint64_t *id);                                       /* the inverse */
int body_hold(struct tr_spool *spool, uint64_t id, uint64_t bytes, bool committed); /* TR_OK, TR_ENOMEM */
void body_commit(struct tr_spool *spool, uint64_t id);
void body_release(struct tr_spool *spool, uint64_t id);   /* the last one unlinks, in a loader thread */
uint64_t body_bytes(struct tr_spool *spool, uint64_t id); /* 0: unknown */
/* A body of `len` bytes, checked. TR_OK, TR_EIO, TR_ECORRUPT, TR_ENOMEM */
int body_read(struct tr_spool *spool, uint64_t id, uint64_t len, struct tr_blob **out);
int body_seal(int fd, uint64_t len, uint32_t crc); /* writes what body_read() checks behind a body: 0 or -errno */
/* Lists DATA: the next free id; with `sweep` unlinks what nobody holds and counts it. */
int body_scan(struct tr_spool *spool, bool sweep, uint64_t *orphans);
void bodies_fini(struct tr_spool *spool);

/* --- work of the loader threads ------------------------------------------------------------------- */

struct task {
	struct task *next;
	void (*fn)(struct tr_spool *spool, struct task *task); /* ends the task's memory itself */
};
int tasks_start(struct tr_spool *spool);
void tasks_stop(struct tr_spool *spool); /* after everything that was posted */
void task_post(struct tr_spool *spool, struct task *task);

/* --- the spool --------------------------------------------------------------------------------------- */

struct counters {
	_Atomic uint64_t live_messages, live_bytes, log_bytes, segments, free_segments, groups, changes, syncs,
		copied_bytes, pending_bytes, write_errors, sync_errors, refused, damaged_frames, chunks, slot_bytes;
};

struct file_id { /* which file a name means */
	dev_t dev;
	ino_t ino;
};

struct tr_spool {
	struct tr_spool_config config;
	char *meta, *data;
	int meta_lock, data_lock;     /* descriptors, -1: none */
	struct file_id lock_files[2]; /* of the lock files of meta and data: elsewhere now, and the directory is gone */
	uint64_t missing, headless;   /* segments that the log needs and has not; that have lost their header */
	void (*on_damage)(void *arg, const struct segment *segment, uint64_t offset, uint64_t len); /* tools; or NULL */
	void *on_damage_arg;
	uint64_t id;    /* of this object, for the threads' caches */
	bool read_only; /* tools: nothing is written */
	bool recovered; /* threads run */
	struct counters n;
	_Atomic uint64_t next_seq;

	/* segments */
	pthread_mutex_t segs_mu;
	struct segment **ring;             /* by number & (ring_cap - 1) */
	uint64_t ring_cap, oldest, newest; /* numbers; newest < oldest: empty */
	uint64_t told;           /* what the last group on disk says is the oldest: from there on the files are kept */
	struct segment *current; /* commit thread's: appended to, NULL: none good */
	uint64_t next_number;
	uint64_t log; /* in the headers of its segments: those of another spool are told by it */

	/* spare files, under spare_mu */
	pthread_mutex_t spare_mu;
	pthread_cond_t spare_wake;
	pthread_t keeper;
	struct segment *spares, *dropped; /* dropped: to be unlinked */
	uint64_t spare_tries;             /* attempts of the keeper to make one */
	struct segment *retired;          /* commit thread's: dead, waiting for the group that says so */
	uint32_t spare_count, reserve;    /* reserve: how many of them are kept for outcomes */
	uint64_t spare_serial;
	bool keeper_stop, keeper_runs, keeper_rests; /* rests: an outcome takes the place of spares */
	int spare_error;                             /* why the last new spare could not be made */
	_Atomic bool full;                           /* intake found no segment but the reserve */
	_Atomic int full_error;                      /* why there was no other */
	_Atomic bool gone;       /* a directory is not where it was: what is written now, a restart would not find */
	_Atomic bool no_space;   /* below min_free_space or min_free_inodes */
	struct watched *watched; /* other directories that count for no_space; fixed after the start */

	/* slots */
	pthread_mutex_t slots_mu, extra_mu;
	struct slot_chunk *_Atomic *chunks; /* SLOT_CHUNKS of them */
	uint32_t chunk_count, free_slot;    /* head of the free list, linked by stub.next */
	struct extra *extras;               /* open addressing, by slot */
	uint32_t extra_cap, extra_used;

	/* bodies */
	pthread_mutex_t body_mu;
	struct body_ref *bodies; /* open addressing, by id; 0: empty */
	uint32_t body_cap, body_used;
	_Atomic uint64_t next_body;

	/* ledger */
	pthread_mutex_t ledger_mu;
	struct tr_account *accounts;
	uint32_t account_count, accounts_logged; /* logged: commit thread's, known to the log */
	bool ledger_again;                       /* commit thread's: the segment has it once */
	uint64_t account_bytes;                  /* bound of a ledger frame */

	/* commit thread */
	pthread_t committer;
	pthread_mutex_t nap_mu;
	pthread_cond_t nap_cond;
	_Atomic int nap;               /* enum nap */
	struct tr_mail *_Atomic inbox; /* jobs from the newest back */
	_Atomic bool stopping;
	_Atomic bool failing;       /* the last write failed; intake is refused */
	_Atomic bool outcome_stuck; /* an outcome waits to be stored */
	_Atomic int last_error;
	_Atomic uint64_t outstanding; /* jobs submitted and not answered on their loop */
	/* without flush: messages that were to be stored again, and those of them that are */
	_Atomic uint64_t replaced_asked, replaced_done;
	struct job_list urgent, normal, kept; /* kept: outcomes of failed groups */
	int64_t last_sync_ns, retry_at_ns, backoff_ns;
	char *group_buf;
	size_t group_cap, group_len;
	struct iovec *iov;
	uint32_t iov_count, iov_cap;
	uint32_t copy_ordinal;          /* where reclaiming goes on in the oldest segment */
	uint64_t compact_credit;        /* bytes that reclaiming may copy: never more than twice what died or came */
	uint64_t last_number, last_end; /* newest segment that holds a good group, and where those end */
	uint64_t unsynced; /* without flush: number of the first segment with groups that nobody has synced; 0: none */
	int64_t settle_at_ns; /* and when to try that again after it has failed */
	uint64_t last_group_bytes;

	/* hand-over */
	pthread_mutex_t port_mu;
	struct port *ports;

	/* inline_io */
	struct tr_loop *inline_loop; /* NULL: threads do it, or it is stopped */
	struct tr_timer inline_timer;
	int64_t looked_at_ns; /* at the free space */
	bool inline_works;

	/* loader threads */
	pthread_mutex_t task_mu;
	pthread_cond_t task_wake;
	struct task *task_first, *task_last;
	pthread_t *loaders;
	uint32_t loader_count;
	bool task_stop;
};

/* --- spares.c ---------------------------------------------------------------------------------------- */
int spares_start(struct tr_spool *spool);
void spares_stop(struct tr_spool *spool);
/* A file to write next; the last `reserve` only with `outcome`. TR_OK, or why there is none. */
int spare_take(struct tr_spool *spool, bool outcome, struct segment **out);
/* A file with room for `bytes`, for one group that no spare can hold; made here and now. Without `outcome` it takes
 * neither the place of the reserve nor the space that is to be left free; with it spares make way. TR_OK, TR_ENOSPC,
 * TR_EIO, TR_ENOMEM. */
int spare_make_large(struct tr_spool *spool, uint64_t bytes, bool outcome, struct segment **out);
/* A dead segment's file: kept as a spare or unlinked. Takes the reference. */
void spare_give(struct tr_spool *spool, struct segment *segment);
void spare_keep(struct tr_spool *spool, struct segment *segment); /* at a start: or it is unlinked, for its name */
void space_check(struct tr_spool *spool);
/* In place of the keeper, for inline_io: makes what is missing; only if the last try went well. */
void spares_make(struct tr_spool *spool);
void spares_make_if_well(struct tr_spool *spool);

/* --- current.c --------------------------------------------------------------------------------------- */
int current_begin(struct tr_spool *spool, uint64_t bytes, bool outcome); /* with room for so many; as spare_take() */
void current_give_up(struct tr_spool *spool);

/* --- inline.c ---------------------------------------------------------------------------------------- */
void inline_start(struct tr_spool *spool);
void inline_stop(struct tr_spool *spool);
void inline_work(struct tr_spool *spool); /* something is due, or asked for */
void inline_handed_over(struct tr_spool *spool);

/* --- ledger.c ---------------------------------------------------------------------------------------- */
void ledger_encode(struct tr_spool *spool, struct tr_buf *out); /* payload without the segment number */
bool ledger_decode(struct tr_spool *spool, struct tr_str payload);
void account_encode(struct tr_spool *spool, uint32_t index, struct tr_buf *out);
bool account_decode(struct tr_spool *spool, struct tr_str payload);
uint32_t ledger_bounds(struct tr_spool *spool, uint64_t *bytes); /* how many accounts; room that a ledger frame needs */
/* Under ledger_mu. */
void ledger_count(struct tr_spool *spool, uint16_t account, uint8_t column, uint8_t reason, int64_t units);
void ledger_wait(struct tr_spool *spool, uint16_t account, int64_t units);

/* --- group.c: one group on disk ------------------------------------------------------------------------ */
/* Bytes left in the current segment for frames of jobs; 0 without one, and in one that was made for one group. */
uint64_t group_room(const struct tr_spool *spool);
/* What a group of several jobs may use in a fresh segment. */
uint64_t group_room_fresh(struct tr_spool *spool);
/* A frame that is copied forward. */
struct moved {
	uint32_t slot;
	uint64_t from; /* loc it had */
	uint64_t seq;
	struct tr_str payload; /* prefix renewed */
	uint32_t crc;
	uint64_t offset; /* where it is now */
};
/* Writes and syncs one group of the jobs' frames and of `moved`, in the current segment or (when it does not fit
 * or none is good) a fresh one, which is as large as it needs; moves stubs and counts. With neither, the group holds
 * the ledger alone. On an error nothing of it counts and the segment is given up. */
int group_write(
	struct tr_spool *spool, const struct job_list *jobs, struct moved *moved, uint32_t moved_count, bool outcome);
/* Without flush: syncs all groups that were not. Before a segment is given up, as copies of what it held and the ends
 * of it lie in them: else a power cut would take what was on disk for long. After a sync that failed the kernel takes
 * the pages for written, so they are written once more before the next try, a second later. TR_OK, TR_EIO. */
int group_settle(struct tr_spool *spool);

/* --- commit.c -------------------------------------------------------------------------------------------- */
int commit_start(struct tr_spool *spool);
void commit_stop(struct tr_spool *spool);
void commit_hand_over(
	struct tr_spool *spool, struct tr_mail *newest, struct tr_mail *oldest, uint64_t bytes, bool urgent);
void commit_wake(struct tr_spool *spool);
void commit_work(struct tr_spool *spool); /* in place of the thread, for inline_io: all that waits, now */
void job_finished(struct tr_mail *mail);  /* on the loop */

/* --- reclaim.c ------------------------------------------------------------------------------------------- */
/* Frees dead segments at the oldest end; copies a step of the oldest one when the log is too large. True when
 * there is more to do at once. */
bool reclaim_step(struct tr_spool *spool);

/* --- scan.c: reading a log, for recovery and the tools ---------------------------------------------------- */
struct scan_frame {
	struct frame_header header;
	struct tr_str payload; /* valid during the call */
	struct segment *segment;
	uint64_t offset;
};
struct scan {
	/* Committed frames in order, without END. TR_OK or an error that ends the scan. */
	int (*frame)(void *arg, const struct scan_frame *frame);
	/* Bytes of committed groups that make no sense. */
	void (*damage)(void *arg, struct segment *segment, uint64_t offset, uint64_t len, const char *bytes);
	void *arg;
	bool salvage; /* go on even where the device reads nothing */
	uint64_t frames, groups, damaged_frames, damaged_bytes, torn_bytes, bytes;
	uint64_t oldest; /* the largest that a group told */
	char *data;      /* the scan's window; scan_fini() frees it */
	uint64_t cap;
	void *pending;
	uint32_t pending_cap;
};
/* Walks one segment up to its limit and sets segment->end. */
int scan_segment(struct scan *scan, struct segment *segment);
void scan_fini(struct scan *scan);
/* Sets bad bytes aside as META/damaged/SEGMENT-OFFSET.bin; bytes NULL: reads them first. */
void damage_keep(struct tr_spool *spool, struct segment *segment, uint64_t offset, uint64_t len, const char *bytes);

/* --- listing.c: which files make the log ------------------------------------------------------------------- */
/* Segments of the log into the ring, other usable files into the spares. `headless` counts files whose header was
 * damaged. */
int listing_read(struct tr_spool *spool, uint64_t *headless, char **error);

/* --- recover.c ------------------------------------------------------------------------------------------- */
/* The pass over the log: stubs, segments' counts, ledger. Fills *queues (malloc'ed array of malloc'ed names) by
 * stub->queue. */
struct names {
	struct tr_str *names; /* data malloc'ed */
	uint32_t *table;      /* open addressing: index + 1 */
	uint32_t count, cap, table_cap, last;
};
uint32_t names_intern(struct names *names, struct tr_str name); /* UINT32_MAX: no memory */
void names_fini(struct names *names);
int recover_pass(struct tr_spool *spool, struct tr_recovery *stats, struct names *queues);

/* --- spool.c ------------------------------------------------------------------------------------------------ */
int spool_open(const struct tr_spool_config *config, bool read_only, struct tr_spool **out, char **error);

/* --- load.c ------------------------------------------------------------------------------------------------ */
/* Reads the PUT frame of a slot, checked; the caller frees *data, in which the payload lies. TR_OK, TR_EIO,
 * TR_ECORRUPT, TR_ENOMEM. */
int load_payload(struct tr_spool *spool, uint32_t slot, char **data, struct tr_str *payload);
int load_message(struct tr_spool *spool, uint32_t slot, bool envelope_only, struct tr_message **out); /* the tools */

#endif
