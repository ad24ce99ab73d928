/* How far a long command is, on standard error: one line redrawn in place (with a bar when the end is known)
 * on a terminal, a plain line now and then otherwise. One thread. */
#ifndef TR_PROGRESS_H
#define TR_PROGRESS_H

#include "base/base.h"

struct tr_progress {
	bool enabled, terminal, drawn;
	const char *unit;    /* "messages"; a literal */
	int64_t total;       /* 0: unknown */
	int64_t interval_ns; /* between two drawings */
	int64_t start_ns;    /* of the first update; 0: none yet */
	int64_t last_ns, last_done;
	double rate; /* a second, smoothed */
};

/* enabled = false makes every other call do nothing. */
void tr_progress_init(struct tr_progress *progress, bool enabled, const char *unit, int64_t total);
/* Draws if the interval has passed since the last drawing. `detail` is a short text or NULL. */
void tr_progress_update(struct tr_progress *progress, int64_t now_ns, int64_t done, const char *detail);
/* Takes the line off the terminal, before anything else is printed; the next update draws it again. */
void tr_progress_clear(struct tr_progress *progress);
/* Draws the last state, with the rate over all, and leaves it standing. */
void tr_progress_finish(struct tr_progress *progress, int64_t now_ns, int64_t done, const char *detail);

/* Columns of the terminal that `fd` is; 0 if it is none. */
int tr_terminal_columns(int fd);
/* 1234567 -> "1,234,567" in one of eight static buffers, for printing. */
const char *tr_grouped(int64_t value);
/* Seconds of CPU that this process has taken. */
double tr_cpu_s(void);

#endif
