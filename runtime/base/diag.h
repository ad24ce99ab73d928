/* Diagnostics: one line each on standard error (or a file), `TIME LEVEL target: text`. */
#ifndef TR_DIAG_H
#define TR_DIAG_H

#include "base/base.h"

enum tr_level { TR_LEVEL_TRACE, TR_LEVEL_DEBUG, TR_LEVEL_INFO, TR_LEVEL_WARN, TR_LEVEL_ERROR };

/* Any thread. `target` is a short literal: "spool", "queue", "lua", "smtp_server" ... A line that
 * repeats (same target and fmt) over 20 times a second is counted and summed up once a second. */
void tr_log(enum tr_level level, const char *target, const char *fmt, ...) TR_PRINTF(3, 4);
bool tr_log_enabled(enum tr_level level, const char *target);

/* "info", "tailrace=debug,lua=trace", "kumod=info" (an alias of everything but lua). TR_EINVAL for a bad
 * spec, which changes nothing. Default: info. */
int tr_log_filter(const char *spec);
/* Tests and `tailrace test` catch lines instead of printing them; NULL restores. */
void tr_log_sink(void (*sink)(void *arg, enum tr_level level, const char *target, const char *text), void *arg);

#endif
