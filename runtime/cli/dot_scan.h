/* Finds the end of SMTP data, CR LF . CR LF and nothing else, in pieces of any size. */
#ifndef TR_CLI_DOT_SCAN_H
#define TR_CLI_DOT_SCAN_H

#include "base/base.h"

struct tr_dot_scan {
	int matched;      /* bytes of CR LF . CR LF seen last; the start of the data counts as a CR LF: 2 */
	uint64_t stuffed; /* dots at the start of a line that the sender added */
};

static inline void
tr_dot_scan_start(struct tr_dot_scan *scan)
{
	*scan = (struct tr_dot_scan){.matched = 2};
}

/* Takes the next piece. Returns the offset behind the end of the data, or 0 if the piece does not hold it. */
size_t tr_dot_scan_take(struct tr_dot_scan *scan, const char *data, size_t len);

#endif
