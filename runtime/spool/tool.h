/* Work on a stopped spool: `tailrace spool check|stat|dump|repair`. All take the directory's lock. */
#ifndef TR_SPOOL_TOOL_H
#define TR_SPOOL_TOOL_H

#include "spool/spool.h"

/* Each returns TR_OK when the spool is sound, TR_ECORRUPT when damage was found (and reported), or another error with
 * *error set (malloc'ed). Text goes to `out` as lines for people, or JSON lines with `json`. */
int tr_spool_check(const char *meta_path, const char *data_path, bool json, struct tr_buf *out, char **error);
int tr_spool_stat(const char *meta_path, const char *data_path, bool json, struct tr_buf *out, char **error);
/* Every live message: id, seq, queue, due, attempts, size, sender, recipients; with `bodies` the bytes, too. */
int tr_spool_dump(const char *meta_path, const char *data_path, bool bodies, int (*emit)(void *arg, struct tr_str line),
	void *arg, char **error);
/* Writes a clean log of what is live into `target` (which must not exist), so the original stays untouched;
 * with target NULL replaces it in place and keeps the old segments in META/before-repair-TIME/. */
int tr_spool_repair(const char *meta_path, const char *data_path, const char *target, struct tr_buf *out, char **error);

#endif
