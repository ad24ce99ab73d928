/* What every file needs: results, container_of, small arithmetic. No state. */
#ifndef TR_BASE_H
#define TR_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define tr_container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define TR_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define TR_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

#define TR_NS_PER_S INT64_C(1000000000)
#define TR_NS_PER_MS INT64_C(1000000)

/* Results of C functions. The names are also the stable `code` that Lua gets ("ETIMEDOUT"). */
enum tr_err {
	TR_OK = 0,
	TR_EINVAL = -1, /* the caller's argument */
	TR_ENOMEM = -2,
	TR_EIO = -3,    /* a device or file failed */
	TR_ENOSPC = -4, /* disk or reserve is full */
	TR_ETIMEDOUT = -5,
	TR_ECANCELED = -6, /* the waiting task or the process is ending */
	TR_ENOENT = -7,
	TR_EEXIST = -8,
	TR_EAGAIN = -9,    /* a bound is reached: wait and try again */
	TR_ECLOSED = -10,  /* the peer or the object is closed */
	TR_EPROTO = -11,   /* the peer's bytes make no sense */
	TR_EVERSION = -12, /* stored by a newer version */
	TR_ECORRUPT = -13, /* stored bytes are damaged */
	TR_EREFUSED = -14, /* connection refused */
	TR_ETOOBIG = -15,
	TR_EACCES = -16, /* a rule of ours forbids it */
	TR_EMFILE = -17, /* the process, or the machine, has no file descriptor left */
};

/* "ETIMEDOUT" for TR_ETIMEDOUT; "EUNKNOWN" for anything else. Static. */
const char *tr_err_name(int err);
/* A short English text ("timed out"). Static. */
const char *tr_err_text(int err);
/* The tr_err nearest to an errno value; TR_EIO when there is none. */
int tr_err_from_errno(int errnum);
/* strerror() of an errno value of either sign, with what to do where that does not say it. */
const char *tr_errno_text(int errnum);

static inline int64_t
tr_min_i64(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static inline int64_t
tr_max_i64(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

#endif
