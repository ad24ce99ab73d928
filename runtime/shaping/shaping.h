/* The shaping of one process: named throttles and named sets of connection leases, shared by all its workers, and the
 * backend that shares them with other nodes. Arithmetic only: time is an argument, a backend is a function table.
 * One object a server, so that specs may run several in one process. Contract: egress-path.md sections 4 to 6. */
#ifndef TR_SHAPING_H
#define TR_SHAPING_H

#include "base/loop.h"
#include "shaping/spec.h"

struct tr_shaping;
struct tr_shaping_backend;

int tr_shaping_new(struct tr_shaping **out);      /* TR_OK, TR_ENOMEM */
void tr_shaping_free(struct tr_shaping *shaping); /* after all users; NULL is fine */

/* Before the loops run, once. From then on every spec without "local:" is shared. Taken: tr_shaping_free() frees it. */
void tr_shaping_set_backend(struct tr_shaping *shaping, const struct tr_shaping_backend *backend);
const struct tr_shaping_backend *tr_shaping_backend(const struct tr_shaping *shaping); /* NULL: none */

/* The runtime stops: who would begin a long wait should not. Any thread. */
void tr_shaping_close(struct tr_shaping *shaping);
bool tr_shaping_is_closing(const struct tr_shaping *shaping);

/* --- throttles (throttle.c) ------------------------------------------------------------------------------- */

/* GCRA on the next allowed time, one compare-and-swap. `burst` tokens may be taken at once, then one an interval
 * (period / quantity, to the nanosecond). Its key is "NAME:QUANTITY:BURST:PERIOD_S": another spec under the same name
 * starts afresh, and so does the same with "local:". Counted; any thread. */
struct tr_throttle;
int tr_throttle_get(struct tr_shaping *shaping, struct tr_str name, const struct tr_rate_spec *spec,
	struct tr_throttle **out); /* TR_OK, TR_ENOMEM; the caller holds a reference */
struct tr_throttle *tr_throttle_ref(struct tr_throttle *throttle);
/* NULL is fine. Its state is kept until the bucket would be full again by tr_mono_ns(). */
void tr_throttle_unref(struct tr_throttle *throttle);
struct tr_str tr_throttle_key(const struct tr_throttle *throttle);
const struct tr_rate_spec *tr_throttle_spec(const struct tr_throttle *throttle);
/* Microseconds between two tokens, rounded as the throttles of this process do: so that a backend decides alike. */
double tr_rate_interval_us(const struct tr_rate_spec *spec);
/* True if it is decided by the backend: then only tr_shared_* may be used. */
bool tr_throttle_is_shared(const struct tr_throttle *throttle);

struct tr_throttle_result {
	bool throttled;
	uint64_t limit;         /* tokens of a full bucket */
	uint64_t remaining;     /* tokens left */
	int64_t reset_after_ns; /* until it is full */
	int64_t retry_after_ns; /* 0 when allowed, else > 0, exact to the nanosecond */
};
/* Takes `quantity` tokens if they are there; now_ns is monotonic. More than the bucket holds are taken when it is full,
 * and overdraw it. */
bool tr_throttle_check(struct tr_throttle *throttle, int64_t now_ns, uint64_t quantity, struct tr_throttle_result *out);
/* Takes one token now or in the future, so that waiters never race for one: returns the nanoseconds to wait for it, 0:
 * now. If that were more than max_wait_ns nothing is taken and the wait is returned negated. Timers have a grain: who
 * was woken late and asks for the next token may give the moment at which it was due as now_ns (the wait counts from
 * there), or a bucket of one loses what its waiters overslept. */
int64_t tr_throttle_reserve(struct tr_throttle *throttle, int64_t now_ns, int64_t max_wait_ns);
/* A token that was reserved and not used. */
void tr_throttle_give_back(struct tr_throttle *throttle, int64_t now_ns);

/* --- leases (lease.c) --------------------------------------------------------------------------------------- */

/* A named set of concurrent uses. The limit is an argument of acquire: users of one name may bring different ones.
 * Local leases live until released. Counted; any thread. */
struct tr_lease_set;
int tr_lease_set_get(struct tr_shaping *shaping, struct tr_str name, bool local, struct tr_lease_set **out);
struct tr_lease_set *tr_lease_set_ref(struct tr_lease_set *set);
void tr_lease_set_unref(struct tr_lease_set *set);
struct tr_str tr_lease_set_name(const struct tr_lease_set *set);
bool tr_lease_set_is_shared(const struct tr_lease_set *set);
uint64_t tr_lease_set_count(const struct tr_lease_set *set); /* held in this process */
/* True: one more is held by the caller, who must release it. False: `limit` are held already. */
bool tr_lease_acquire(struct tr_lease_set *set, uint64_t limit);
void tr_lease_release(struct tr_lease_set *set); /* tells one waiter */
/* Who found the set full: told() is called once, from the releasing thread, when one was released since; it must do no
 * more than post a mail or kick. Embed it; `queued` is the set's. */
struct tr_lease_waiter {
	struct tr_lease_waiter *next, **prev;
	uint64_t limit; /* the set's: of tr_lease_wait() */
	bool queued;
	bool promise; /* the place is kept for it: it must tr_lease_claim() or tr_lease_decline() it */
	void (*told)(struct tr_lease_waiter *waiter); /* must not call the set: its lock is held */
};
/* False if a place is free already (nothing is registered). Told is the first who could take a place by its own limit.
 */
bool tr_lease_wait(struct tr_lease_set *set, uint64_t limit, struct tr_lease_waiter *waiter);
/* After it told() does not run any more. */
void tr_lease_unwait(struct tr_lease_set *set, struct tr_lease_waiter *waiter);
/* Of a waiter with a promise, once it was told: as acquire, or not. Both pass on what is left. */
bool tr_lease_claim(struct tr_lease_set *set, uint64_t limit);
void tr_lease_decline(struct tr_lease_set *set);
/* Who was told and takes no place after all passes it on. Does nothing if none is free. */
void tr_lease_tell(struct tr_lease_set *set);

/* --- what is shared with other nodes (over a backend) -------------------------------------------------- */

enum tr_shared_kind { TR_SHARED_THROTTLE, TR_SHARED_ACQUIRE, TR_SHARED_EXTEND, TR_SHARED_RELEASE };
/* One question to the backend. Embed it zeroed; the caller keeps it until then() or tr_shared_cancel(). */
struct tr_shared_op {
	/* the question */
	enum tr_shared_kind kind;
	struct tr_str key;               /* of the throttle or the lease set; borrowed */
	const struct tr_rate_spec *spec; /* THROTTLE; borrowed */
	uint64_t quantity;               /* THROTTLE: tokens */
	uint64_t limit;                  /* ACQUIRE */
	uint8_t lease[16];               /* ACQUIRE, EXTEND, RELEASE: which one; a random UUID of the caller */
	int64_t duration_ns;             /* ACQUIRE, EXTEND: it expires after, when its holder is dead */
	void (*then)(struct tr_shared_op *op);
	/* the answer */
	int err;                          /* TR_OK; TR_EIO, TR_ETIMEDOUT ...: the backend failed, with error below */
	struct tr_throttle_result result; /* THROTTLE */
	bool granted;                     /* ACQUIRE, EXTEND */
	int64_t retry_after_ns;           /* ACQUIRE refused: until the earliest lease expires */
	char error[128];
	/* the backend's */
	void *flight;
};
struct tr_shaping_backend {
	void *arg;
	/* On a worker's thread; then() comes from its loop, never from inside of it. TR_OK or an error: then() will not
	 * come. The loop is that of the calling thread. */
	int (*start)(void *arg, struct tr_loop *loop, struct tr_shared_op *op);
	void (*cancel)(void *arg, struct tr_shared_op *op); /* then() is not called; a granted lease is released */
	void (*free)(void *arg);                            /* operations under way are forgotten */
	/* True: it does not answer, and why is in out. Any thread. NULL: nobody knows. */
	bool (*is_down)(void *arg, char out[256]);
	bool fallback_local; /* on failure the caller decides by the local algorithm instead of holding */
};
/* A lease of a shared set is counted here, too: after a granted ACQUIRE tr_lease_acquire(set, UINT64_MAX), and
 * tr_lease_release() once it is given back, which tells those of this process who wait. With fallback_local a failed
 * ACQUIRE is tr_lease_acquire() with the limit, and a failed THROTTLE is tr_throttle_check(). */
static inline int
tr_shared_start(const struct tr_shaping *shaping, struct tr_loop *loop, struct tr_shared_op *op)
{
	const struct tr_shaping_backend *backend = tr_shaping_backend(shaping);

	return backend->start(backend->arg, loop, op);
}
/* Nothing happens if it is not under way. */
static inline void
tr_shared_cancel(const struct tr_shaping *shaping, struct tr_shared_op *op)
{
	const struct tr_shaping_backend *backend = tr_shaping_backend(shaping);

	/* who cancels has it. NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
	if (op->flight != NULL)
		backend->cancel(backend->arg, op);
}

#endif
