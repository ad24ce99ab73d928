/* A disk in memory that fails on demand: a tr_file table for tests. All that lies below DISK_ROOT is kept in memory,
 * other paths go to tr_file_real. It knows what is durable: a power cut takes what was not synced, in part, and names
 * whose directory was not synced. Any thread may do file operations, one mutex guards all; the functions below belong
 * to the test's thread. Errors of the helper itself abort.
 *
 * A crash without the end of the process: disk_kill() and disk_cut() put an image aside, and what still runs goes on
 * with a copy that nobody will look at (a ghost), so that it can be stopped in order. disk_revive() then makes the
 * image the disk. */
#ifndef SIM_DISK_H
#define SIM_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DISK_ROOT "/sim/"

enum disk_op {
	DISK_OPEN = 1 << 0,
	DISK_CLOSE = 1 << 1, /* a close that fails has closed all the same */
	DISK_READ = 1 << 2,
	DISK_WRITE = 1 << 3,
	DISK_SYNC = 1 << 4, /* what a failed sync left unwritten, a later one does not write */
	DISK_TRUNCATE = 1 << 5,
	DISK_ALLOCATE = 1 << 6,
	DISK_RENAME = 1 << 7,
	DISK_UNLINK = 1 << 8,
	DISK_MKDIR = 1 << 9,
	DISK_SYNC_DIR = 1 << 10,
	DISK_STAT = 1 << 11,
	DISK_LIST = 1 << 12,
	DISK_SPACE = 1 << 13,
	DISK_LOCK = 1 << 14,
	DISK_CHMOD = 1 << 15,
	DISK_OPS = 16,
	DISK_ANY = 0xffff & ~DISK_CLOSE,
	/* all that changes the disk or makes a change durable */
	DISK_CHANGES = DISK_OPEN | DISK_WRITE | DISK_SYNC | DISK_TRUNCATE | DISK_ALLOCATE | DISK_RENAME | DISK_UNLINK |
		       DISK_MKDIR | DISK_SYNC_DIR,
};
extern const char *const disk_op_names[DISK_OPS]; /* "open", "close", "read" ... by bit */

struct disk_rule {
	unsigned mask;  /* of enum disk_op */
	uint64_t after; /* so many calls of them go well first */
	uint64_t times; /* so many then do not; UINT64_MAX: all */
	int errnum;     /* positive; 0: they go well, but for what follows */
	bool brief;     /* reads and writes are cut to about a third, at least a byte */
	bool kill,
		cut; /* the process is killed, the power goes, within the operation: it is done, or not, or in part */
};

/* Puts the table in place of tr_file, with an empty disk. Before any thread does file operations. */
void disk_install(uint64_t seed);
/* Restores tr_file and forgets everything. No descriptor of the disk may be open. */
void disk_uninstall(void);
struct lua_State;
int luaopen_tr_sim_disk(struct lua_State *L); /* `require 'tr.sim_disk'` (disk_lua.c) */

/* An empty disk, without rules, a bound or counts. Descriptors that are open are dead. */
void disk_reset(uint64_t seed);

void disk_fail(const struct disk_rule *rule); /* up to 16 at once */
/* The nth (from 1) call from now of any operation in `mask` fails with errnum (positive); all later ones, too. */
void disk_fail_nth(unsigned mask, uint64_t nth, int errnum, bool for_ever);
void disk_heal(void); /* ends all rules */
/* Files may have this many bytes in all; then writes come short and fail with ENOSPC. UINT64_MAX: no bound. */
void disk_capacity(uint64_t bytes);
uint64_t disk_used(void);

/* A process that is killed now: the image has everything that was written. */
void disk_kill(void);
/* The power goes now. Of what was written and not synced a random choice of 512-byte sectors stays in the image; of
 * names made, moved or removed since the last sync of their directory, the first few (random) of each directory. The
 * same seed after the same calls gives the same image. */
void disk_cut(uint64_t seed);
/* The kernel has written all that there is, names included, though nobody has asked for it. */
void disk_write_back(void);
/* Sectors of files whose name begins so that no later sync writes, as one has failed. */
uint64_t disk_lost(const char *name);
void disk_forgive(void);  /* a later sync writes them */
bool disk_is_ghost(void); /* from kill or cut to revive */
/* Of a ghost: when it died, monotonic, and whether the power has gone; false: it is none. */
bool disk_death(int64_t *at_ns, bool *cut);
/* The image becomes the disk, without rules. Descriptors that are still open are dead: all but close gives EIO.
 * Without an image nothing happens. */
void disk_revive(void);

uint64_t disk_calls(unsigned mask); /* since install, reset or this; failed ones included */
uint64_t disk_faults(void);         /* of them, those that a rule was for */
void disk_calls_clear(void);
uint64_t disk_digest(void);   /* of all paths, lengths and bytes */
size_t disk_open_files(void); /* descriptors, the dead ones included */

#endif
