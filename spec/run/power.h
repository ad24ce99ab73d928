/* What power_shim.c writes of a process' file operations below one directory and of what it sends, and power_image.c
 * reads: one record after the other, `len` bytes of payload behind each. */
#ifndef POWER_H
#define POWER_H

#include <stdint.h>

enum power_kind {
	POWER_CREATE = 1, /* file; size: 1 if it was there before; payload: its name below the directory */
	POWER_WRITE,      /* file, at; payload: the bytes */
	POWER_ZEROS,      /* file, at, size: that many zeros */
	POWER_TRUNCATE,   /* file, size */
	POWER_SYNC,       /* file, at: number of the sync. Begins */
	POWER_SYNCED,     /* at: number of the sync that has ended well */
	POWER_SYNC_DIR,   /* at: number of the sync; payload: name of the directory. Begins */
	POWER_RENAME,     /* payload: from, NUL, to */
	POWER_UNLINK,     /* payload: name */
	POWER_MKDIR,      /* payload: name */
	POWER_SEND,       /* file: descriptor; payload: what the peer may have from now on */
};

struct power_record {
	uint32_t kind, file; /* file: a number for each that was ever made */
	uint64_t at, size;
	uint32_t len, reserved;
};

#endif
