/* The memory of all that is being received and not yet stored: envelopes and texts of mail, bodies of HTTP requests.
 * One budget for the process, so that many peers together cannot take more than it; each kind says what it does at the
 * bound. Any thread, but for the setting. */
#ifndef TR_INTAKE_H
#define TR_INTAKE_H

#include <stdbool.h>
#include <stdint.h>

enum tr_intake_kind {
	TR_INTAKE_MAIL,
	TR_INTAKE_HTTP,    /* of trusted hosts, and of whoever has shown a password */
	TR_INTAKE_UNKNOWN, /* HTTP requests of others: an eighth of the budget at most */
	TR_INTAKE_KINDS,
};

#define TR_INTAKE_BYTES (INT64_C(512) * 1024 * 1024)

/* Before anything is received; bytes > 0. */
void tr_intake_set_limit(int64_t bytes);
/* Counts `bytes`; false: they do not fit and are not counted. */
bool tr_intake_take(enum tr_intake_kind kind, int64_t bytes);
void tr_intake_give(enum tr_intake_kind kind, int64_t bytes);
/* Three quarters are in use: who holds much and is slow should make room. */
bool tr_intake_is_short(void);

/* So few descriptors are left that a connection from outside, whose is `fd`, should be refused: the rest is for files
 * and for what the process itself connects to. A new descriptor has the lowest free number. */
bool tr_intake_files_short(int fd);

#endif
