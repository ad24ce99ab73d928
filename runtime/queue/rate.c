/* max_message_rate of a scheduled queue: how many of its messages go on now. What has no token waits in the line, with
 * no timer of its own and no attempt. Contract: queues.md section 4 step 4. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "queue/ready.h"
#include "queue/sched.h"
#include "queue/worker.h"

#define STEP_NS (10 * TR_NS_PER_MS) /* tokens of so long a time are taken together, if the bucket holds as many */
#define SHARED_MAX 64               /* tokens asked of the backend at once */
#define BACKEND_RETRY_NS TR_NS_PER_S

struct sched_rate {
	struct tr_sched *sched;
	struct tr_throttle *throttle; /* referenced */
	/* of a shared one */
	struct tr_shared_op op;
	bool asking;
	uint32_t tokens;     /* granted, not used */
	int64_t retry_at_ns; /* nothing is asked before */
	int64_t told_at_ns;  /* of the last line about a backend that fails */
};

static void
rate_free(struct sched_rate *rate)
{
	if (rate == NULL)
		return;
	if (rate->asking) {
		tr_shared_cancel(rate->sched->engine->shaping, &rate->op);
		sched_count(rate->sched, -1);
	}
	tr_throttle_unref(rate->throttle);
	free(rate);
}

void
rate_drop(struct tr_sched *sched)
{
	rate_free(sched->rate);
	sched->rate = NULL;
	sched->rate_waits = false;
}

void
rate_set(struct tr_sched *sched)
{
	const struct tr_rate_spec *spec = &sched->config->message_rate;
	struct tr_throttle *throttle = NULL;
	struct tr_buf name = {0};

	if (spec->quantity == 0) {
		rate_drop(sched);
		return;
	}
	tr_buf_addf(&name, "schedq-%s-message-rate", sched->name);
	if (!name.failed)
		tr_throttle_get(sched->engine->shaping, (struct tr_str){name.data, name.len}, spec, &throttle);
	tr_buf_free(&name);
	if (sched->rate != NULL && throttle == sched->rate->throttle) {
		tr_throttle_unref(throttle);
		return;
	}
	rate_drop(sched);
	sched->rate = throttle != NULL ? calloc(1, sizeof *sched->rate) : NULL;
	if (sched->rate == NULL) { /* asked again at the next refresh */
		tr_throttle_unref(throttle);
		tr_log(TR_LEVEL_ERROR, "queue", "queue %s: no memory for its max_message_rate", sched->name);
		return;
	}
	sched->rate->sched = sched;
	sched->rate->throttle = throttle;
}

/* --- shared --------------------------------------------------------------------------------------------------- */

static void
answered(struct tr_shared_op *op)
{
	struct sched_rate *rate = tr_container_of(op, struct sched_rate, op);
	struct tr_sched *sched = rate->sched;
	int64_t now_ns = tr_mono_ns();

	rate->asking = false;
	if (op->err != TR_OK) {
		rate->retry_at_ns = now_ns + BACKEND_RETRY_NS;
		if (rate->told_at_ns == 0 || now_ns - rate->told_at_ns >= 60 * TR_NS_PER_S) {
			rate->told_at_ns = now_ns;
			tr_log(TR_LEVEL_ERROR, "queue", "queue %s waits: its max_message_rate cannot be asked for: %s",
				sched->name, op->error[0] != '\0' ? op->error : tr_err_text(op->err));
		}
	} else if (!op->result.throttled) {
		rate->tokens += (uint32_t)op->quantity;
	} else {
		rate->retry_at_ns = now_ns + tr_max_i64(op->result.retry_after_ns, TR_NS_PER_MS);
	}
	if (rate->retry_at_ns > now_ns)
		sched_retry_in(sched, rate->retry_at_ns - now_ns);
	sched_activate(sched);
	sched_count(sched, -1);
}

static uint32_t take_local(struct sched_rate *rate, uint32_t want, int64_t now_ns);

static uint32_t
take_shared(struct sched_rate *rate, uint32_t want, int64_t now_ns)
{
	struct tr_sched *sched = rate->sched;
	const struct tr_shaping *shaping = sched->engine->shaping;
	const struct tr_rate_spec *spec = tr_throttle_spec(rate->throttle);
	uint32_t got = rate->tokens < want ? rate->tokens : want;
	uint64_t most = spec->burst < SHARED_MAX ? spec->burst : SHARED_MAX;

	rate->tokens -= got;
	if (got == want || rate->asking)
		return got;
	if (rate->op.err != TR_OK && tr_shaping_backend(shaping)->fallback_local)
		got += take_local(rate, want - got, now_ns);
	if (got == want || now_ns < rate->retry_at_ns)
		return got;
	/* After a refusal of several, one: a bucket that is never full enough must not starve the queue. */
	if (rate->op.err == TR_OK && rate->op.result.throttled)
		most = tr_max_i64(1, (int64_t)rate->op.result.remaining);
	rate->op = (struct tr_shared_op){.kind = TR_SHARED_THROTTLE,
		.key = tr_throttle_key(rate->throttle),
		.spec = spec,
		.quantity = want - got < most ? want - got : most,
		.then = answered};
	rate->op.err = tr_shared_start(shaping, sched->home->loop, &rate->op);
	if (rate->op.err == TR_OK) {
		rate->asking = true;
		sched_count(sched, 1); /* while it is out */
	} else {
		rate->retry_at_ns = now_ns + BACKEND_RETRY_NS;
		sched_retry_in(sched, BACKEND_RETRY_NS);
	}
	return got;
}

/* --- local ------------------------------------------------------------------------------------------------------ */

static uint32_t
take_local(struct sched_rate *rate, uint32_t want, int64_t now_ns)
{
	const struct tr_rate_spec *spec = tr_throttle_spec(rate->throttle);
	struct tr_throttle_result result;
	uint32_t got = spec->burst < want ? (uint32_t)spec->burst : want;
	int64_t interval_ns = spec->period_ns / (int64_t)spec->quantity, step;

	if (!tr_throttle_check(rate->throttle, now_ns, got, &result)) {
		got = result.remaining < got ? (uint32_t)result.remaining : 0;
		if (got > 0 && !tr_throttle_check(rate->throttle, now_ns, got, &result))
			got = 0;
	}
	if (got == want)
		return got;
	if (tr_throttle_check(rate->throttle, now_ns, 1, &result)) { /* it was just due */
		sched_retry_in(rate->sched, 0);
		return got + 1;
	}
	step = interval_ns > 0 ? STEP_NS / interval_ns : want;
	step = tr_min_i64(step, tr_min_i64((int64_t)(want - got), (int64_t)result.limit));
	sched_retry_in(rate->sched, result.retry_after_ns + (step > 1 ? (step - 1) * interval_ns : 0));
	return got;
}

uint32_t
rate_take(struct tr_sched *sched, uint32_t want)
{
	struct sched_rate *rate = sched->rate;
	int64_t now_ns = tr_mono_ns();
	uint32_t got;

	if (want == 0)
		return 0;
	got = tr_throttle_is_shared(rate->throttle) ? take_shared(rate, want, now_ns) : take_local(rate, want, now_ns);
	sched->rate_waits = got < want;
	return got;
}

int64_t
rate_next_token_ns(const struct tr_sched *sched, int64_t now_ns)
{
	if (tr_throttle_is_shared(sched->rate->throttle))
		return tr_max_i64(sched->rate->retry_at_ns - now_ns, 0);
	return limits_next_token_ns(sched->rate->throttle, now_ns);
}

void
rate_give_back(struct tr_sched *sched, uint32_t count)
{
	struct sched_rate *rate = sched->rate;

	if (rate == NULL || count == 0)
		return;
	if (tr_throttle_is_shared(rate->throttle)) {
		rate->tokens += count;
		return;
	}
	for (int64_t now_ns = tr_mono_ns(); count > 0; count--)
		tr_throttle_give_back(rate->throttle, now_ns);
}

void
rate_admit(struct tr_sched *sched)
{
	struct message_list admitted = {NULL, NULL, 0};
	uint32_t count;

	if (sched->incoming.count == 0)
		return;
	count = rate_take(sched, sched->incoming.count);
	if (count == sched->incoming.count)
		return;
	while (admitted.count < count)
		list_add(&admitted, list_pop(&sched->incoming));
	sched_spill(sched, &sched->incoming, false);
	sched->incoming = admitted;
}

bool
rate_is_shared(const struct tr_sched *sched)
{
	return sched->rate != NULL && tr_throttle_is_shared(sched->rate->throttle);
}
