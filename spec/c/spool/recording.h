/* A spool that the engine has written, held in memory, and what a reader that shares no code with the engine makes of
 * its bytes, whole or damaged: for the campaign of damage. docs/spool.md is what it reads by. */
#ifndef SPOOL_RECORDING_H
#define SPOOL_RECORDING_H

#include "spool/spool.h"

struct rec_file {
	char name[64]; /* within META or DATA */
	bool data, dir;
	unsigned char *bytes; /* malloc'ed */
	size_t len;
};

struct rec_dir { /* files of META and DATA */
	struct rec_file files[256];
	uint32_t count;
};

struct rec_frame {
	uint32_t segment; /* index */
	uint32_t group;   /* counts within the segment */
	uint8_t type;
	uint64_t seq, at; /* at: in the file */
	uint32_t len;     /* header and payload */
	const unsigned char *payload;
	uint32_t payload_len;
};

struct rec_segment { /* of the undamaged spool, by number */
	uint64_t number, bytes, prev, prev_end, oldest;
	uint32_t generation, salt;
	const struct rec_file *file;
	uint32_t first, frames; /* in rec->frames */
};

struct recording {
	struct rec_dir dir;   /* as a stop or a kill has left it */
	struct rec_dir older; /* as it was some time before */
	struct rec_segment segments[128];
	uint32_t segment_count;
	struct rec_frame *frames;
	uint32_t frame_count, frame_cap;
	uint64_t segment_bytes;
};

/* What a reading found. */
struct rec_message {
	uint64_t seq;
	uint16_t account, attempts, flags;
	int64_t due_ms, units;
	char queue[64];
	uint64_t body_file, body_len;
	uint64_t segment; /* number of the one that holds it */
	bool live;
	bool body_lost; /* its body file is not what it was */
};
struct rec_reading {
	struct rec_message *messages;
	uint32_t count, cap;
	uint64_t damaged;  /* frames of committed groups that were hit, segments that are missing or lost: at least so
			      many places */
	bool ledger_sound; /* nothing that counts was lost behind the last ledger: the sum of the loss is told */
	bool silent;       /* the end of the log is not what it was, and that looks like a crash */
	int64_t waiting[16];
	bool named[16]; /* the account's name is told */
};

struct random {
	uint64_t state;
};
uint64_t rec_random(struct random *random, uint64_t below);

/* Writes a spool in `path` and records it: of a stop in order, or as a kill leaves it. rec_fini() frees it. */
struct recording *rec_make(const char *path, uint64_t seed);
void rec_fini(struct recording *rec);
/* Reads the damaged files. */
void rec_read(const struct recording *rec, const struct rec_dir *dir, struct rec_reading *out);
void rec_reading_fini(struct rec_reading *reading);

void rec_dir_copy(struct rec_dir *to, const struct rec_dir *from);
void rec_dir_fini(struct rec_dir *dir);
void rec_dir_load(struct rec_dir *dir, const char *path);       /* PATH/meta and PATH/data */
void rec_dir_save(const struct rec_dir *dir, const char *path); /* makes them */
struct rec_file *rec_dir_find(const struct rec_dir *dir, bool data, const char *name);
struct rec_file *rec_dir_add(struct rec_dir *dir, bool data, const char *name, const void *bytes, size_t len);
void rec_dir_remove(struct rec_dir *dir, struct rec_file *file);

#endif
