/* A spool in a fresh directory with one loop, and a model of what it must hold: for the spool's tests.
 * Everything runs in the test's thread but the spool's own threads. */
#ifndef SPOOL_BED_H
#define SPOOL_BED_H

#include "spool/spool.h"

struct bed_message {
	uint64_t seq;
	uint32_t slot;
	int64_t units, due_ms;
	uint16_t attempts;
	char *body; /* malloc'ed */
	char queue[32];
	bool live;     /* acknowledged and not ended */
	bool doubtful; /* its last change was not answered with TR_OK: either state is right */
	uint64_t body_file;
	uint32_t outbox_of; /* message that was ended in the same change, UINT32_MAX: none */
	uint32_t with;      /* until it is stored the first message that was put in the same change, then itself */
};

struct bed {
	char dir[64], meta[80], data[80];
	struct tr_spool_config config;
	struct tr_spool *spool;
	struct tr_loop *loop;
	struct tr_recovery recovery;
	struct bed_message *messages;
	uint32_t count, cap;
	uint32_t under_way;
	int last_status;
	uint32_t ok, refused;
	uint64_t random;
	bool crashing;          /* the disk is dead: what is refused may be stored or not */
	bool damaged;           /* the ledger may have a loss */
	struct bed_file *saved; /* by bed_save() */
	uint32_t saved_count;
};

/* Makes the directories; small segments. The caller may change bed->config before bed_open(). */
void bed_init(struct bed *bed, uint64_t segment_bytes);
int bed_try_open(struct bed *bed); /* open and recover; the model's slots are renewed, nothing is compared */
void bed_open(struct bed *bed);    /* must succeed */
void bed_close(struct bed *bed);   /* after everything under way was answered */
void bed_fini(struct bed *bed);    /* closes, removes the directory */

uint64_t bed_random(struct bed *bed, uint64_t below);
/* Index of a new message in the model; submitted, not waited for. */
uint32_t bed_put(struct bed *bed, size_t body_bytes, bool intake, int64_t units);
void bed_done(struct bed *bed, uint32_t index, enum tr_column column);
void bed_state(struct bed *bed, uint32_t index, int64_t due_ms, uint16_t attempts);
/* Ends one message and puts `records` new ones, in one change. Returns the index of the first new one. */
uint32_t bed_outbox(struct bed *bed, uint32_t index, uint32_t records);
/* The same with bodies of that size and more (UINT32_MAX for index: intake, nothing ends); at most 80 records. */
uint32_t bed_many(struct bed *bed, uint32_t index, uint32_t records, size_t body_bytes);
void bed_wait(struct bed *bed); /* until everything is answered, or (crashing) outcomes are stuck */
uint32_t bed_live(const struct bed *bed);
uint32_t bed_pick(struct bed *bed); /* a random live, not doubtful message; UINT32_MAX: none */
/* Starts it and waits for its end; sets loop, done and owner. */
void bed_run_load(struct bed *bed, struct tr_load *load);
/* Loads it; the caller frees the message. */
int bed_load(struct bed *bed, uint32_t slot, struct tr_message **out);
/* After a recovery: what was acknowledged is there with its body, queue, due time and attempts; what was ended is
 * not; nothing else is; the ledger balances. */
void bed_check(struct bed *bed);
void bed_check_messages(struct bed *bed); /* without the ledger */
/* Keeps a copy of the spool's directories in memory / brings it back. */
void bed_save(struct bed *bed);
void bed_restore(struct bed *bed);

#endif
