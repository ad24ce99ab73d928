/* What tr.fs (fs_lua.c) does in a thread: one operation at a file or a directory. */
#ifndef TR_POLICY_FS_OP_H
#define TR_POLICY_FS_OP_H

#include <sys/stat.h>

#include "policy/offload.h"

#define TR_FS_READ_MAX (INT64_C(256) << 20) /* bytes of one read: they all become one Lua string */

struct tr_fs_file { /* shared by the handle in Lua and what is under way */
	int fd, refs;
	bool busy, closed; /* closed: by the policy; the descriptor goes when nothing is under way */
};

enum tr_fs_kind {
	TR_FS_OPEN,
	TR_FS_READ,
	TR_FS_WRITE,
	TR_FS_SEEK,
	TR_FS_SYNC,
	TR_FS_LOAD,
	TR_FS_STAT,
	TR_FS_LIST,
	TR_FS_GLOB
};

struct tr_fs_op {
	struct tr_offload offload;
	enum tr_fs_kind kind;
	struct tr_fs_file *file;
	char *path;
	int flags, whence;
	bool follow;
	int64_t number;    /* bytes to read, position; < 0: all */
	struct tr_buf buf; /* to write, was read; for a list: paths, each with its NUL */
	size_t count;      /* of paths */
	struct stat stat;
	int errnum;       /* 0: done */
	const char *text; /* what is wrong, when it is not an errno; static */
};

/* In a thread; the outcome is in the operation. */
void tr_fs_op_run(struct tr_offload *offload);
/* The loop's thread. */
void tr_fs_op_free(struct tr_offload *offload);
void tr_fs_file_unref(struct tr_fs_file *file); /* NULL is fine */

#endif
