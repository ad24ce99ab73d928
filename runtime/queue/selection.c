/* Rates of source selection: each message that takes a lane takes a token of each. Tokens that are shared with other
 * nodes are asked for some at a time; meanwhile the messages wait in the line. Contract: egress-path.md section 2. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "queue/ready.h"
#include "queue/sched.h"
#include "queue/worker.h"

#define SHARED_MAX 64 /* tokens asked of the backend at once */
#define BACKEND_RETRY_NS TR_NS_PER_S

struct lane_selection {
	struct tr_sched *sched;
	struct ready_limits *limits; /* referenced: whose tokens these are */
	struct tr_shared_op op;
	uint32_t asked; /* index of the throttle that op is about */
	bool asking, failed;
	int64_t retry_at_ns; /* nothing is asked before */
	uint32_t tokens[];   /* by throttle: taken, not used */
};

void
selection_drop(struct lane *lane)
{
	struct lane_selection *selection = lane->selection;

	if (selection == NULL)
		return;
	if (selection->asking) {
		tr_shared_cancel(selection->sched->engine->shaping, &selection->op);
		sched_count(selection->sched, -1);
	}
	limits_unref(selection->limits);
	free(selection);
	lane->selection = NULL;
}

static void
answered(struct tr_shared_op *op)
{
	struct lane_selection *selection = tr_container_of(op, struct lane_selection, op);
	struct tr_sched *sched = selection->sched;
	int64_t now_ns = tr_mono_ns();

	selection->asking = false;
	selection->failed = op->err != TR_OK;
	if (selection->failed)
		selection->retry_at_ns = now_ns + BACKEND_RETRY_NS;
	else if (!op->result.throttled)
		selection->tokens[selection->asked] += (uint32_t)op->quantity;
	else if (op->result.remaining == 0)
		selection->retry_at_ns = now_ns + op->result.retry_after_ns;
	if (selection->failed)
		tr_log(TR_LEVEL_DEBUG, "queue", "queue %s: a rate of source selection cannot be asked for: %s",
			sched->name, op->error[0] != '\0' ? op->error : tr_err_text(op->err));
	sched_activate(sched);
	sched_count(sched, -1);
}

/* True: the answer will come. */
static bool
ask(struct lane_selection *selection, uint32_t index, uint32_t want)
{
	struct tr_sched *sched = selection->sched;
	const struct tr_throttle *throttle = selection->limits->selection[index];
	const struct tr_rate_spec *spec = tr_throttle_spec(throttle);
	uint64_t most = spec->burst < SHARED_MAX ? spec->burst : SHARED_MAX;

	if (selection->op.err == TR_OK && selection->op.result.throttled && selection->asked == index &&
		selection->op.result.remaining < most) /* what is left of a bucket, or one */
		most = selection->op.result.remaining > 0 ? selection->op.result.remaining : 1;
	selection->op = (struct tr_shared_op){.kind = TR_SHARED_THROTTLE,
		.key = tr_throttle_key(throttle),
		.spec = spec,
		.quantity = want < most ? want : most,
		.then = answered};
	selection->asked = index;
	selection->op.err = tr_shared_start(sched->engine->shaping, sched->home->loop, &selection->op);
	selection->asking = selection->op.err == TR_OK;
	if (selection->asking) {
		sched_count(sched, 1); /* while it is out */
	} else {
		selection->failed = true;
		selection->retry_at_ns = tr_mono_ns() + BACKEND_RETRY_NS;
	}
	return selection->asking;
}

static bool
any_shared(const struct ready_limits *limits)
{
	for (uint32_t i = 0; limits != NULL && i < limits->selection_count; i++) {
		if (tr_throttle_is_shared(limits->selection[i]))
			return true;
	}
	return false;
}

/* Of the limits that the path has now; NULL: none of them is shared. *no_memory: there should be one. */
static struct lane_selection *
current(struct lane *lane, bool *no_memory)
{
	struct lane_selection *selection = lane->selection;
	struct ready_limits *limits;

	pthread_mutex_lock(&lane->ready->lock);
	limits = lane->ready->limits;
	if (selection != NULL && selection->limits == limits) {
		pthread_mutex_unlock(&lane->ready->lock);
		return selection;
	}
	limits_ref(limits);
	pthread_mutex_unlock(&lane->ready->lock);
	selection_drop(lane);
	if (!any_shared(limits)) {
		limits_unref(limits);
		return NULL;
	}
	selection = calloc(1, sizeof *selection + limits->selection_count * sizeof selection->tokens[0]);
	if (selection == NULL) {
		limits_unref(limits);
		*no_memory = true;
		return NULL;
	}
	selection->sched = lane->sched;
	selection->limits = limits;
	lane->selection = selection;
	return selection;
}

enum lane_out
selection_take(struct lane *lane, uint32_t want, int64_t now_ns)
{
	bool no_memory = false;
	struct lane_selection *selection = current(lane, &no_memory);
	struct tr_throttle_result result;
	int64_t retry_after_ns;

	if (selection == NULL)
		return !no_memory && ready_source_selection(lane->ready, now_ns, &retry_after_ns) ? LANE_IN
												  : LANE_THROTTLED;
	if (selection->asking)
		return LANE_ASKING;
	for (uint32_t i = 0; i < selection->limits->selection_count; i++) {
		struct tr_throttle *throttle = selection->limits->selection[i];

		if (selection->tokens[i] > 0)
			continue;
		if (tr_throttle_is_shared(throttle)) {
			if (now_ns >= selection->retry_at_ns && ask(selection, i, want))
				return LANE_ASKING;
			if (!selection->failed || !tr_shaping_backend(lane->sched->engine->shaping)->fallback_local)
				return LANE_THROTTLED;
		}
		if (!tr_throttle_check(throttle, now_ns, 1, &result))
			return LANE_THROTTLED;
		selection->tokens[i] = 1;
	}
	for (uint32_t i = 0; i < selection->limits->selection_count; i++)
		selection->tokens[i]--;
	return LANE_IN;
}

bool
selection_asks(const struct lane *lane)
{
	return lane->selection != NULL && lane->selection->asking;
}

uint32_t
selection_most(const struct lane *lane, uint32_t want)
{
	const struct lane_selection *selection = lane->selection;

	for (uint32_t i = 0; selection != NULL && i < selection->limits->selection_count; i++) {
		uint32_t tokens = selection->tokens[i] > 0 ? selection->tokens[i] : SHARED_MAX;

		if (tr_throttle_is_shared(selection->limits->selection[i]) && tokens < want)
			want = tokens;
	}
	return want;
}
