/* What a session needs before it is opened: a lease of each set that its path names, the smallest first, and a token of
 * the connection rate. Local ones are decided at once; those that are shared with other nodes are asked for on the
 * session's loop. Who is refused is told when a place is free, or comes again at a moment; nobody sweeps. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "queue/engine.h"
#include "queue/ready.h"
#include "queue/session.h"
#include "queue/worker.h"

#define SHARED_RETRY_NS TR_NS_PER_S         /* other nodes do not tell when they give a lease back */
#define BACKEND_RETRY_NS (3 * TR_NS_PER_S)  /* it failed */
#define BACKEND_LINES_NS (60 * TR_NS_PER_S) /* between two lines of the log about that */
#define EXTEND_NS TR_NS_PER_S               /* a lease lives many minutes: an extension a second is enough */

struct permit {
	struct session *session;
	struct ready_limits *limits; /* referenced */
	uint32_t held;               /* the first so many leases */
	uint32_t extending;          /* index of the lease under way */
	struct tr_lease_set *turn;   /* referenced: a place of it is kept for this session; NULL: none */
	bool rated;                  /* a token of the connection rate was taken */
	bool asking;                 /* op is under way */
	bool lost;
	int64_t extended_at_ns;
	struct tr_shared_op op;
};

/* A lease on its way back. */
struct release {
	struct release *next, **prev;
	struct tr_worker *worker;
	struct ready_limits *limits; /* referenced: they keep the set */
	struct tr_lease_set *set;
	struct tr_shared_op op;
};

/* A place that was kept for this session is not needed. */
static void
decline(struct tr_lease_set **turn)
{
	if (*turn == NULL)
		return;
	tr_lease_decline(*turn);
	tr_lease_set_unref(*turn);
	*turn = NULL;
}

/* --- giving back ------------------------------------------------------------------------------------------ */

static void
release_done(struct release *release)
{
	struct tr_engine *engine = release->worker->engine;

	*release->prev = release->next;
	if (release->next != NULL)
		release->next->prev = release->prev;
	tr_lease_release(release->set);
	limits_unref(release->limits);
	free(release);
	busy_drop(engine);
}

static void
released(struct tr_shared_op *op)
{
	struct release *release = tr_container_of(op, struct release, op);

	if (op->err != TR_OK)
		tr_log(TR_LEVEL_WARN, "queue", "lease of %.*s could not be given back, it expires: %s",
			(int)op->key.len, op->key.data, op->error);
	release_done(release);
}

/* To the other nodes; without memory or backend it expires there. */
static void
release_shared(struct permit *permit, struct tr_lease_set *set)
{
	struct tr_worker *worker = permit->session->pub.worker;
	struct release *release = calloc(1, sizeof *release);

	if (release == NULL) {
		tr_lease_release(set);
		return;
	}
	release->worker = worker;
	release->limits = limits_ref(permit->limits);
	release->set = set;
	release->op = (struct tr_shared_op){.kind = TR_SHARED_RELEASE, .key = tr_lease_set_name(set), .then = released};
	memcpy(release->op.lease, permit->session->pub.uuid, sizeof release->op.lease);
	release->next = worker->releases;
	release->prev = &worker->releases;
	if (release->next != NULL)
		release->next->prev = &release->next;
	worker->releases = release;
	busy_add(worker->engine);
	if (tr_shared_start(permit->limits->shaping, worker->loop, &release->op) != TR_OK)
		release_done(release);
}

void
releases_free(struct tr_worker *worker)
{
	while (worker->releases != NULL) {
		tr_shared_cancel(worker->engine->shaping, &worker->releases->op);
		release_done(worker->releases);
	}
}

static void
release_all(struct permit *permit)
{
	while (permit->held > 0) {
		struct tr_lease_set *set = permit->limits->leases[--permit->held].set;

		if (tr_lease_set_is_shared(set))
			release_shared(permit, set);
		else
			tr_lease_release(set);
	}
}

void
permit_end(struct session *session)
{
	struct permit *permit = session->permit;

	if (permit == NULL)
		return;
	session->permit = NULL;
	if (permit->asking)
		tr_shared_cancel(permit->limits->shaping, &permit->op);
	release_all(permit);
	decline(&permit->turn);
	limits_unref(permit->limits);
	free(permit);
}

bool
permit_pending(const struct session *session)
{
	return session->permit != NULL && session->permit->asking && session->pub.task == NULL;
}

/* --- being refused ---------------------------------------------------------------------------------------- */

static void
told(struct tr_lease_waiter *waiter)
{
	struct tr_ready *ready = tr_container_of(waiter, struct tr_ready, lease_waiter);

	atomic_store(&ready->lease_told, true);
	ready_kick(ready);
}

static void
hinder_locked(struct tr_ready *ready, enum hindrance why, struct tr_str what)
{
	ready->hindrance = why;
	snprintf(ready->hindered_by, sizeof ready->hindered_by, "%.*s", (int)what.len, what.data);
}

/* Waits for a place in the set, if it does not wait already and none is free. The set's lock is taken under the ready
 * queue's, here and in permit_unwait() alone, and told() takes neither. */
static void
wait_locked(struct tr_ready *ready, struct tr_lease_set *set, uint64_t limit)
{
	if (ready->lease_set != NULL)
		return;
	ready->lease_waiter.told = told;
	ready->lease_waiter.promise = !tr_lease_set_is_shared(set); /* other nodes keep no place for this one */
	if (!tr_lease_wait(set, limit, &ready->lease_waiter)) {
		ready_kick(ready); /* a place is free by now */
		return;
	}
	ready->lease_set = tr_lease_set_ref(set);
	atomic_fetch_add_explicit(&ready->refs, 1, memory_order_relaxed);
}

static enum permit_answer
refuse(struct permit *permit, enum hindrance why, struct tr_str what, int64_t after_ns)
{
	struct tr_ready *ready = permit->session->pub.ready;

	release_all(permit);
	decline(&permit->turn);
	if (permit->rated && !tr_throttle_is_shared(permit->limits->connection))
		tr_throttle_give_back(permit->limits->connection, tr_mono_ns());
	permit->rated = false;
	pthread_mutex_lock(&ready->lock);
	hinder_locked(ready, why, what);
	ready->permit_after_ns = tr_max_i64(ready->permit_after_ns, after_ns);
	pthread_mutex_unlock(&ready->lock);
	ready_kick(ready);
	return PERMIT_REFUSED;
}

/* By a set that is full; `shared`: as other nodes see it. */
static enum permit_answer
refuse_lease(struct permit *permit, const struct ready_lease *lease, int64_t retry_after_ns)
{
	struct tr_ready *ready = permit->session->pub.ready;
	bool shared = tr_lease_set_is_shared(lease->set);
	uint64_t limit = shared ? tr_lease_set_count(lease->set) : lease->limit;
	int64_t after_ns = 0;

	release_all(permit); /* before it waits: one of them may be of the set of another who waits for this one */
	pthread_mutex_lock(&ready->lock);
	wait_locked(ready, lease->set, limit);
	pthread_mutex_unlock(&ready->lock);
	if (shared)
		after_ns = tr_mono_ns() + tr_min_i64(tr_max_i64(retry_after_ns, 50 * TR_NS_PER_MS), SHARED_RETRY_NS);
	return refuse(permit, LEASES, tr_lease_set_name(lease->set), after_ns);
}

void
permit_unwait(struct tr_ready *ready)
{
	struct tr_lease_set *set, *turn;
	bool promised;

	pthread_mutex_lock(&ready->lock);
	set = ready->lease_set;
	turn = ready->lease_turn;
	if (set != NULL)
		tr_lease_unwait(set, &ready->lease_waiter);
	ready->lease_set = ready->lease_turn = NULL;
	promised = ready->lease_waiter.promise;
	pthread_mutex_unlock(&ready->lock);
	decline(&turn);
	if (set == NULL)
		return;
	if (atomic_exchange(&ready->lease_told, false)) { /* it was this one's turn */
		if (promised)
			tr_lease_decline(set);
		else
			tr_lease_tell(set);
	}
	tr_lease_set_unref(set);
	ready_unref(ready);
}

bool
permit_told(struct tr_ready *ready)
{
	struct tr_lease_set *before;

	if (!atomic_exchange(&ready->lease_told, false))
		return false;
	pthread_mutex_lock(&ready->lock);
	before = ready->lease_turn;
	ready->lease_turn = ready->lease_set;
	ready->lease_set = NULL;
	ready->permit_after_ns = 0;
	if (!ready->lease_waiter.promise) { /* only a reason to ask again */
		struct tr_lease_set *set = ready->lease_turn;

		ready->lease_turn = NULL;
		tr_lease_set_unref(set);
	}
	pthread_mutex_unlock(&ready->lock);
	decline(&before);
	return true;
}

void
permit_settle(struct tr_ready *ready, bool opened)
{
	struct tr_lease_set *turn = NULL;

	if (!opened) {
		pthread_mutex_lock(&ready->lock);
		turn = ready->lease_turn;
		ready->lease_turn = NULL;
		pthread_mutex_unlock(&ready->lock);
	}
	decline(&turn);
	ready_unref(ready);
}

/* --- asking ----------------------------------------------------------------------------------------------------- */

static void answered(struct tr_shared_op *op);

static enum permit_answer
fail(struct permit *permit)
{
	struct tr_ready *ready = permit->session->pub.ready;
	int64_t now_ns = tr_mono_ns();
	bool tell;

	pthread_mutex_lock(&ready->lock);
	tell = ready->hindrance_told_ns == 0 || now_ns - ready->hindrance_told_ns >= BACKEND_LINES_NS;
	if (tell)
		ready->hindrance_told_ns = now_ns;
	pthread_mutex_unlock(&ready->lock);
	if (tell)
		tr_log(TR_LEVEL_WARN, "queue", "%s: no session is opened, the shared limits cannot be asked: %s",
			ready->name, permit->op.error[0] != '\0' ? permit->op.error : tr_err_text(permit->op.err));
	return refuse(permit, BACKEND,
		permit->op.error[0] != '\0' ? tr_str(permit->op.error) : tr_str(tr_err_text(permit->op.err)),
		now_ns + BACKEND_RETRY_NS);
}

static bool
start(struct permit *permit, enum tr_shared_kind kind, struct tr_str key)
{
	permit->op = (struct tr_shared_op){.kind = kind, .key = key, .then = answered};
	memcpy(permit->op.lease, permit->session->pub.uuid, sizeof permit->op.lease);
	permit->op.duration_ns = permit->limits->lease_ns;
	permit->op.quantity = 1;
	if (kind == TR_SHARED_THROTTLE)
		permit->op.spec = tr_throttle_spec(permit->limits->connection);
	else if (permit->held < permit->limits->lease_count)
		permit->op.limit = permit->limits->leases[permit->held].limit;
	permit->op.err = tr_shared_start(permit->limits->shaping, permit->session->pub.worker->loop, &permit->op);
	permit->asking = permit->op.err == TR_OK;
	return permit->asking;
}

static bool
falls_back(const struct permit *permit)
{
	return tr_shaping_backend(permit->limits->shaping)->fallback_local;
}

static enum permit_answer
check_rate(struct permit *permit)
{
	struct tr_throttle *connection = permit->limits->connection;
	struct tr_throttle_result result;
	int64_t now_ns = tr_mono_ns();

	permit->rated = tr_throttle_check(connection, now_ns, 1, &result);
	if (!permit->rated)
		return refuse(permit, CONNECTION_RATE, tr_throttle_key(connection), now_ns + result.retry_after_ns);
	return PERMIT_GRANTED;
}

static bool
acquire(struct permit *permit, const struct ready_lease *lease)
{
	bool got;

	if (permit->turn != lease->set)
		return tr_lease_acquire(lease->set, lease->limit);
	got = tr_lease_claim(lease->set, lease->limit);
	tr_lease_set_unref(permit->turn);
	permit->turn = NULL;
	return got;
}

static enum permit_answer
take_on(struct permit *permit)
{
	const struct ready_limits *limits = permit->limits;

	/* a local token can be given back, one of other nodes cannot: so it is asked for last */
	if (limits->connection != NULL && !permit->rated && !tr_throttle_is_shared(limits->connection) &&
		check_rate(permit) == PERMIT_REFUSED)
		return PERMIT_REFUSED;
	while (permit->held < limits->lease_count) {
		const struct ready_lease *lease = &limits->leases[permit->held];

		if (tr_lease_set_is_shared(lease->set)) {
			if (start(permit, TR_SHARED_ACQUIRE, tr_lease_set_name(lease->set)))
				return PERMIT_LATER;
			if (!falls_back(permit))
				return fail(permit);
		}
		if (!acquire(permit, lease))
			return refuse_lease(permit, lease, 0);
		permit->held++;
	}
	decline(&permit->turn); /* of a set that the path does not name any more */
	if (limits->connection != NULL && !permit->rated) {
		if (start(permit, TR_SHARED_THROTTLE, tr_throttle_key(limits->connection)))
			return PERMIT_LATER;
		if (!falls_back(permit))
			return fail(permit);
		if (check_rate(permit) == PERMIT_REFUSED)
			return PERMIT_REFUSED;
	}
	return PERMIT_GRANTED;
}

/* Of an ACQUIRE or THROTTLE. PERMIT_GRANTED: go on with the next. */
static enum permit_answer
take_answer(struct permit *permit)
{
	const struct tr_shared_op *op = &permit->op;
	const struct ready_lease *lease = &permit->limits->leases[permit->held];

	if (op->err != TR_OK && !falls_back(permit))
		return fail(permit);
	if (op->kind == TR_SHARED_THROTTLE) {
		if (op->err != TR_OK)
			return check_rate(permit);
		if (op->result.throttled)
			return refuse(permit, CONNECTION_RATE, op->key, tr_mono_ns() + op->result.retry_after_ns);
		permit->rated = true;
		return PERMIT_GRANTED;
	}
	if (op->err == TR_OK && !op->granted)
		return refuse_lease(permit, lease, op->retry_after_ns);
	if (!tr_lease_acquire(lease->set, op->err == TR_OK ? UINT64_MAX : lease->limit))
		return refuse_lease(permit, lease, 0);
	permit->held++;
	return PERMIT_GRANTED;
}

enum permit_answer
permit_ask(struct session *session)
{
	struct tr_ready *ready = session->pub.ready;
	struct tr_lease_set *turn;
	struct ready_limits *limits;
	struct permit *permit;

	pthread_mutex_lock(&ready->lock);
	limits = limits_ref(ready->limits);
	turn = ready->lease_turn;
	ready->lease_turn = NULL;
	pthread_mutex_unlock(&ready->lock);
	if (limits == NULL || (limits->lease_count == 0 && limits->connection == NULL)) {
		limits_unref(limits);
		decline(&turn);
		return PERMIT_GRANTED;
	}
	permit = calloc(1, sizeof *permit);
	if (permit == NULL) {
		limits_unref(limits);
		decline(&turn);
		pthread_mutex_lock(&ready->lock);
		ready->permit_after_ns = tr_max_i64(ready->permit_after_ns, tr_mono_ns() + TR_NS_PER_S);
		pthread_mutex_unlock(&ready->lock);
		return PERMIT_REFUSED;
	}
	permit->turn = turn;
	permit->session = session;
	permit->limits = limits;
	permit->extended_at_ns = tr_mono_ns();
	session->permit = permit;
	return take_on(permit);
}

/* --- living on ---------------------------------------------------------------------------------------------------- */

static bool
must_extend(const struct session *session)
{
	const struct permit *permit = session->permit;

	return permit != NULL && permit->limits->shared_leases &&
	       (permit->lost || permit->asking || tr_mono_ns() - permit->extended_at_ns >= EXTEND_NS);
}

bool
tr_session_is_paced(const struct tr_session *pub)
{
	const struct session *session = (const struct session *)pub;

	return (session->limits != NULL && session->limits->message_count > 0) ||
	       (session->permit != NULL && must_extend(session));
}

static void
extend_next(struct permit *permit)
{
	for (; permit->extending < permit->held; permit->extending++) {
		struct tr_lease_set *set = permit->limits->leases[permit->extending].set;

		if (tr_lease_set_is_shared(set) && start(permit, TR_SHARED_EXTEND, tr_lease_set_name(set)))
			return;
		if (tr_lease_set_is_shared(set) && !falls_back(permit))
			permit->lost = true;
	}
	permit->extended_at_ns = tr_mono_ns();
	permit->extending = 0;
}

enum tr_go
tr_session_extend(struct tr_session *pub, int64_t *wait_ns)
{
	struct session *session = session_of(pub);
	struct permit *permit = session->permit;

	*wait_ns = INT64_MAX;
	if (!must_extend(session))
		return TR_GO;
	if (!permit->asking && !permit->lost)
		extend_next(permit);
	if (permit->lost)
		return TR_GO_GONE;
	return permit->asking ? TR_GO_WAIT : TR_GO;
}

static void
extended(struct permit *permit)
{
	const struct tr_shared_op *op = &permit->op;
	struct tr_session *pub = &permit->session->pub;
	struct tr_engine *engine = pub->worker->engine;

	if (op->err == TR_OK ? !op->granted : !falls_back(permit)) {
		tr_log(TR_LEVEL_WARN, "queue", "%s: a session ends, its lease of %.*s could not be extended: %s",
			pub->ready->name, (int)op->key.len, op->key.data,
			op->err == TR_OK       ? "it has expired"
			: op->error[0] != '\0' ? op->error
					       : tr_err_text(op->err));
		permit->lost = true;
	}
	permit->extending++;
	if (!permit->lost)
		extend_next(permit);
	if (!permit->asking)
		engine->ops.wake_session(engine->ops_arg, pub);
}

static void
answered(struct tr_shared_op *op)
{
	struct permit *permit = tr_container_of(op, struct permit, op);
	struct session *session = permit->session;
	enum permit_answer answer;

	permit->asking = false;
	if (op->kind == TR_SHARED_EXTEND) {
		extended(permit);
		return;
	}
	answer = take_answer(permit);
	if (answer == PERMIT_GRANTED)
		answer = take_on(permit);
	if (answer == PERMIT_GRANTED)
		session_permitted(session);
	else if (answer == PERMIT_REFUSED)
		session_refused(session);
}
