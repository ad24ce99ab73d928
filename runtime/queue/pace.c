/* Message rates: a session with a batch in hand takes a token of each, the slowest first, and sleeps until its slot. A
 * slot is reserved, so sessions go in the order in which they came and none races for a token. Where the wait would be
 * longer than idle_timeout, or a shared rate cannot be asked, the batch goes back to the front, untried, and the ready
 * queue closes until then.
 *
 * A session wakes after its slot, never before: by a fraction of a millisecond, or by many where the machine is loaded.
 * With a bucket of few tokens that time would be lost, at each slot again, and the rate never reached. So the next slot
 * is asked for as of the moment when this one should have gone out; what is late catches up, at most LATE_MAX_NS. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "queue/engine.h"
#include "queue/ready.h"
#include "queue/session.h"
#include "queue/worker.h"

#define LATE_MAX_NS (20 * TR_NS_PER_MS) /* of what a session overslept: so much does not get lost to the rate */
#define BACKEND_RETRY_NS TR_NS_PER_S
#define BACKEND_LINES_NS (60 * TR_NS_PER_S) /* between two lines of the log about it */

struct pace {
	struct session *session;
	struct ready_limits *limits; /* referenced while a batch is paced; NULL: none */
	uint32_t passed;             /* the first so many throttles gave a token */
	int64_t slot_ns;             /* of the latest of them */
	int64_t again_ns;            /* a shared one refused: asked again then */
	bool asking, answered;
	struct tr_shared_op op;
};

/* True if all tokens that can be given back were: nothing was sent. */
static void
forget(struct pace *pace)
{
	int64_t now_ns = tr_mono_ns();

	/* who asks or has passed has limits. NOLINTBEGIN(clang-analyzer-core.NullDereference) */
	if (pace->asking)
		tr_shared_cancel(pace->limits->shaping, &pace->op);
	while (pace->passed > 0) {
		struct tr_throttle *throttle = pace->limits->messages[--pace->passed];
		/* NOLINTEND(clang-analyzer-core.NullDereference) */

		if (!tr_throttle_is_shared(throttle))
			tr_throttle_give_back(throttle, now_ns);
	}
	limits_unref(pace->limits);
	pace->limits = NULL;
	pace->asking = pace->answered = false;
}

void
pace_end(struct session *session)
{
	if (session->pace != NULL && session->pace->limits != NULL)
		forget(session->pace);
	free(session->pace);
	session->pace = NULL;
}

/* May the session go on waiting? Then whoever ends that wakes it. */
static bool
may_wait(struct session *session, bool pacing)
{
	struct tr_ready *ready = session->pub.ready;
	bool may;

	pthread_mutex_lock(&ready->lock);
	may = !stopping(ready->engine) && atomic_load(&ready->state) == READY_OK && !atomic_load(&ready->suspended);
	session->pacing = pacing && may;
	pthread_mutex_unlock(&ready->lock);
	return may;
}

static enum tr_go
back(struct pace *pace)
{
	forget(pace);
	may_wait(pace->session, false);
	return TR_GO_BACK;
}

/* The wait is too long to hold a batch for. */
static enum tr_go
close_until(struct pace *pace, int64_t until_ns)
{
	struct tr_ready *ready = pace->session->pub.ready;

	pthread_mutex_lock(&ready->lock);
	if (ready->paced_until_ns < until_ns)
		ready->paced_until_ns = until_ns;
	pthread_mutex_unlock(&ready->lock);
	ready_kick(ready);
	return back(pace);
}

/* The shared rates cannot be asked: nothing goes, and nothing loses an attempt for it. */
static enum tr_go
hold(struct pace *pace, int64_t now_ns)
{
	struct tr_ready *ready = pace->session->pub.ready;
	const char *error = pace->op.error[0] != '\0' ? pace->op.error : tr_err_text(pace->op.err);
	bool tell;

	pthread_mutex_lock(&ready->lock);
	ready->hindrance = BACKEND;
	snprintf(ready->hindered_by, sizeof ready->hindered_by, "%s", error);
	ready->permit_after_ns = tr_max_i64(ready->permit_after_ns, now_ns + BACKEND_RETRY_NS);
	tell = ready->hindrance_told_ns == 0 || now_ns - ready->hindrance_told_ns >= BACKEND_LINES_NS;
	if (tell)
		ready->hindrance_told_ns = now_ns;
	pthread_mutex_unlock(&ready->lock);
	if (tell)
		tr_log(TR_LEVEL_WARN, "queue", "%s: nothing is sent, its shared message rate cannot be asked: %s",
			ready->name, error);
	return close_until(pace, now_ns + BACKEND_RETRY_NS);
}

static void
answered(struct tr_shared_op *op)
{
	struct pace *pace = tr_container_of(op, struct pace, op);
	struct tr_engine *engine = pace->session->pub.worker->engine;

	pace->asking = false;
	pace->answered = true;
	engine->ops.wake_session(engine->ops_arg, &pace->session->pub);
}

enum step { PASSED, ASKED, REFUSED, FAILED };

/* One throttle; *wait_ns of a refusal. */
static enum step
take_token(struct pace *pace, struct tr_throttle *throttle, int64_t now_ns, int64_t most_ns, int64_t *wait_ns)
{
	const struct tr_shaping *shaping = pace->limits->shaping;
	bool local = !tr_throttle_is_shared(throttle);

	if (!local && !pace->answered) {
		pace->op = (struct tr_shared_op){.kind = TR_SHARED_THROTTLE,
			.key = tr_throttle_key(throttle),
			.spec = tr_throttle_spec(throttle),
			.quantity = 1,
			.then = answered};
		pace->op.err = tr_shared_start(shaping, pace->session->pub.worker->loop, &pace->op);
		pace->asking = pace->op.err == TR_OK;
		if (pace->asking)
			return ASKED;
		pace->answered = true;
	}
	if (!local) {
		pace->answered = false;
		if (pace->op.err == TR_OK) {
			*wait_ns = pace->op.result.retry_after_ns;
			return pace->op.result.throttled ? REFUSED : PASSED;
		}
		if (!tr_shaping_backend(shaping)->fallback_local)
			return FAILED;
	}
	now_ns -= pace->session->late_ns;
	*wait_ns = tr_throttle_reserve(throttle, now_ns, most_ns);
	if (*wait_ns < 0) {
		*wait_ns = tr_max_i64(-*wait_ns - pace->session->late_ns, 0);
		return REFUSED;
	}
	pace->slot_ns = tr_max_i64(pace->slot_ns, now_ns + *wait_ns);
	return PASSED;
}

/* A batch goes out: one session alone need not feel its way any more, if the next token is near. */
static void
sent(struct pace *pace, int64_t now_ns)
{
	struct tr_ready *ready = pace->session->pub.ready;
	const struct tr_rate_spec *spec = tr_throttle_spec(pace->limits->messages[0]);
	bool wake = false;

	pace->session->late_ns = pace->slot_ns > 0 ? tr_min_i64(now_ns - pace->slot_ns, LATE_MAX_NS) : 0;
	pthread_mutex_lock(&ready->lock);
	pace->session->pacing = false;
	if (ready->paced_until_ns != 0 && ready->paced_until_ns <= now_ns &&
		(double)spec->period_ns / (double)spec->quantity < (double)pace->session->pub.path->idle_timeout_ns) {
		ready->paced_until_ns = 0;
		wake = true;
	}
	pthread_mutex_unlock(&ready->lock);
	if (wake)
		ready_kick(ready);
	limits_unref(pace->limits);
	pace->limits = NULL;
	pace->passed = 0;
}

enum tr_go
tr_session_pace(struct tr_session *pub, int64_t *wait_ns, const char **error)
{
	struct session *session = session_of(pub);
	struct pace *pace = session->pace;
	int64_t now_ns = tr_mono_ns(), idle_ns = pub->path->idle_timeout_ns;

	*error = NULL;
	*wait_ns = INT64_MAX;
	if (pace == NULL || pace->limits == NULL) { /* a new batch */
		if (session->limits == NULL || session->limits->message_count == 0)
			return TR_GO;
		if (pace == NULL && (pace = session->pace = calloc(1, sizeof *pace)) == NULL) {
			*error = "out of memory";
			return TR_GO_FAIL;
		}
		*pace = (struct pace){.session = session, .limits = limits_ref(session->limits)};
	}
	if (!may_wait(session, true))
		return back(pace);
	if (pace->asking)
		return TR_GO_WAIT;
	if (pace->again_ns > now_ns) {
		*wait_ns = pace->again_ns - now_ns;
		return TR_GO_WAIT;
	}
	/* set above, and may_wait() leaves them. NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
	while (pace->passed < pace->limits->message_count) {
		struct tr_throttle *throttle = pace->limits->messages[pace->passed];

		/* a wait of just idle_timeout is too long already */
		switch (take_token(pace, throttle, now_ns, idle_ns > 0 ? idle_ns - 1 : 0, wait_ns)) {
		case PASSED:
			pace->passed++;
			continue;
		case ASKED:
			*wait_ns = INT64_MAX;
			return TR_GO_WAIT;
		case REFUSED:
			if (*wait_ns >= idle_ns)
				return close_until(pace, now_ns + *wait_ns);
			pace->again_ns = now_ns + tr_max_i64(*wait_ns, TR_NS_PER_MS);
			*wait_ns = pace->again_ns - now_ns;
			return TR_GO_WAIT;
		case FAILED:
			return hold(pace, now_ns);
		}
	}
	if (pace->slot_ns > now_ns) {
		*wait_ns = pace->slot_ns - now_ns;
		return TR_GO_WAIT;
	}
	sent(pace, now_ns);
	return TR_GO;
}
