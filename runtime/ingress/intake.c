#include "ingress/intake.h"

#include <stdatomic.h>
#include <sys/resource.h>

#define FILES_KEPT 512 /* for outbound connections and files; a quarter of the limit if that is less */

static int64_t limit = TR_INTAKE_BYTES;
static _Atomic int64_t used[TR_INTAKE_KINDS], total;
static _Atomic int files_end; /* 0: not asked for yet */

void
tr_intake_set_limit(int64_t bytes)
{
	limit = bytes;
}

bool
tr_intake_take(enum tr_intake_kind kind, int64_t bytes)
{
	int64_t now = atomic_fetch_add_explicit(&total, bytes, memory_order_relaxed) + bytes;
	int64_t of_kind = atomic_fetch_add_explicit(&used[kind], bytes, memory_order_relaxed) + bytes;

	if (now <= limit && (kind != TR_INTAKE_UNKNOWN || of_kind <= limit / 8))
		return true;
	tr_intake_give(kind, bytes);
	return false;
}

void
tr_intake_give(enum tr_intake_kind kind, int64_t bytes)
{
	atomic_fetch_sub_explicit(&used[kind], bytes, memory_order_relaxed);
	atomic_fetch_sub_explicit(&total, bytes, memory_order_relaxed);
}

bool
tr_intake_is_short(void)
{
	return atomic_load_explicit(&total, memory_order_relaxed) > limit / 4 * 3;
}

bool
tr_intake_files_short(int fd)
{
	int end = atomic_load_explicit(&files_end, memory_order_relaxed);

	if (end == 0) {
		struct rlimit files;
		rlim_t most = getrlimit(RLIMIT_NOFILE, &files) == 0 ? files.rlim_cur : 1024;

		if (most > INT32_MAX)
			most = INT32_MAX;
		end = (int)(most - (most / 4 < FILES_KEPT ? most / 4 : FILES_KEPT));
		atomic_store_explicit(&files_end, end, memory_order_relaxed);
	}
	return fd >= end;
}
