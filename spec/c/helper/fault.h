/* A disk that fails on demand: a tr_file table over tr_file_real for tests. Any thread may do file
 * operations; the functions below belong to the test's thread. Errors of the helper itself abort.
 *
 * A crash at the Nth operation: fault_fail(FAULT_ANY, n, EIO, true); run until the code gives up; take it
 * down; fault_power_cut(seed); open again. */
#ifndef FAULT_H
#define FAULT_H

#include <stdbool.h>
#include <stdint.h>

enum fault_op {
	FAULT_OPEN = 1 << 0,
	FAULT_CLOSE = 1 << 1, /* a close that fails has closed all the same */
	FAULT_PREAD = 1 << 2,
	FAULT_PWRITEV = 1 << 3,
	FAULT_FDATASYNC = 1 << 4, /* what a failed sync left unwritten, a later one does not write */
	FAULT_TRUNCATE = 1 << 5,
	FAULT_ALLOCATE = 1 << 6,
	FAULT_RENAME = 1 << 7,
	FAULT_UNLINK = 1 << 8,
	FAULT_MKDIR = 1 << 9,
	FAULT_SYNC_DIR = 1 << 10,
	FAULT_STAT = 1 << 11,
	FAULT_LIST = 1 << 12,
	FAULT_SPACE = 1 << 13,
	FAULT_LOCK = 1 << 14,
	FAULT_CHMOD = 1 << 15,
	FAULT_ANY = 0xffff & ~FAULT_CLOSE,
	/* all that changes the disk or makes a change durable */
	FAULT_CHANGES = FAULT_OPEN | FAULT_PWRITEV | FAULT_FDATASYNC | FAULT_TRUNCATE | FAULT_ALLOCATE | FAULT_RENAME |
			FAULT_UNLINK | FAULT_MKDIR | FAULT_SYNC_DIR,
};

/* Puts the table in place of tr_file, with nothing to fail. Before any thread does file operations. What is
 * on the disk now counts as durable. */
void fault_install(void);
/* Restores tr_file and forgets everything. */
void fault_uninstall(void);

/* The nth (from 1) call from now of any operation in `mask` fails with errnum (positive), and all later ones
 * too if sticky. Up to 8 such rules at once. */
void fault_fail(unsigned mask, uint64_t nth, int errnum, bool sticky);
/* Calls of the operations in `mask` since install or reset, failed ones included. */
uint64_t fault_calls(unsigned mask);
/* Ends all rules, short writes and the budget, and sets the counts to 0. What is durable stays known. */
void fault_reset(void);
/* Each pwritev writes about a third of what it was given, at least a byte. */
void fault_short_writes(bool on);
/* Files may grow by this many bytes in all; then writes come short and fail with ENOSPC. Unlinking and
 * truncating give back. UINT64_MAX: no bound. space() tells of this disk while there is a bound. */
void fault_disk_budget(uint64_t bytes);

/* The power goes and comes back. Of what was written and not synced, a random choice of 512-byte sectors stays;
 * of names made, moved or removed since the last sync_dir() of their directory, the first few (random) stay.
 * Descriptors open for writing are dead: all but close gives EIO. The same seed after the same calls gives
 * the same disk. Rules are ended as by fault_reset(). */
void fault_power_cut(uint64_t seed);

#endif
