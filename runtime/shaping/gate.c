#include "shaping/gate.h"

#define PACE_FIRST_NS (100 * TR_NS_PER_MS) /* the second attempt after the probe */
#define PACE_LAST_NS (TR_NS_PER_MS / 10)   /* a pace that no limit needs any more */
#define PACE_MOST_NS (10 * TR_NS_PER_S)
#define SLACK_NS (2 * TR_NS_PER_MS)   /* who waits for a start is woken by a timer of 1 ms */
#define GROWTH (1 / 1.1)              /* of the interval, per success: eight times as fast after 22 of them */
#define CAREFUL_GROWTH (1 / 1.002)    /* after a step back: a twentieth after 25 */
#define STEP_BACK (1 / 0.6)           /* too many fail */
#define TOO_MANY (65536 * 35 / 100)   /* more than one in seven has by chance */
#define AFTER_STEP (65536 * 15 / 100) /* what counts as seen then */
#define WEIGHT 16                     /* of what was seen before one attempt */
#define STEPS_MAX 2                   /* that many bring no success: it closes */

/* --- the pace of an opening gate -------------------------------------------------------------------------- */

static void
set_interval(struct tr_gate *gate, double ns)
{
	if (ns < PACE_LAST_NS) {
		gate->interval_ns = 0;
		gate->careful = false;
	} else {
		gate->interval_ns = ns > PACE_MOST_NS ? PACE_MOST_NS : (int64_t)ns;
	}
}

static void
pace_success(struct tr_gate *gate)
{
	gate->failing -= gate->failing / WEIGHT;
	gate->steps = 0;
	if (gate->concurrent < UINT32_MAX)
		gate->concurrent++;
	set_interval(gate, (double)gate->interval_ns * (gate->careful ? CAREFUL_GROWTH : GROWTH));
}

static void
step_back(struct tr_gate *gate, int64_t now_ns, double factor)
{
	set_interval(gate, (double)gate->interval_ns * factor);
	gate->careful = true;
	gate->failing = AFTER_STEP;
	gate->failures = 0;
	gate->concurrent = gate->concurrent > 2 ? gate->concurrent / 2 : 1;
	gate->next_at_ns = now_ns + gate->interval_ns;
	gate->stepped_at_ns = now_ns;
}

/* A failure while there is a pace. True: the gate must close. */
static bool
pace_failure(struct tr_gate *gate, const struct tr_gate_rules *rules, int64_t now_ns)
{
	gate->failing += (65536 - gate->failing) / WEIGHT;
	if (gate->failures >= rules->failures_to_close) {
		if (++gate->steps >= STEPS_MAX)
			return true;
		step_back(gate, now_ns, 2);
	} else if (gate->failing > TOO_MANY) {
		step_back(gate, now_ns, STEP_BACK);
	}
	return false;
}

uint32_t
tr_gate_room(const struct tr_gate *gate, int64_t now_ns)
{
	int64_t ahead_ns = now_ns + SLACK_NS - gate->next_at_ns;

	if (!tr_gate_is_paced(gate))
		return gate->state == TR_GATE_OPEN ? UINT32_MAX : 0;
	if (now_ns < gate->next_at_ns - SLACK_NS || ahead_ns < 0)
		return 0;
	if (ahead_ns > SLACK_NS) /* what was not used is lost */
		ahead_ns = SLACK_NS;
	return (uint32_t)(ahead_ns / gate->interval_ns) + 1;
}

/* --- the gate ----------------------------------------------------------------------------------------------- */

bool
tr_gate_enter(struct tr_gate *gate, int64_t now_ns, int64_t *wait_ns)
{
	*wait_ns = 0;
	switch (gate->state) {
	case TR_GATE_OPEN:
		if (gate->interval_ns == 0)
			return true;
		if (now_ns + SLACK_NS < gate->next_at_ns) {
			*wait_ns = gate->next_at_ns - now_ns;
			return false;
		}
		gate->next_at_ns = tr_max_i64(gate->next_at_ns, now_ns) + gate->interval_ns;
		return true;
	case TR_GATE_CLOSED:
		if (now_ns < gate->reopen_at_ns) {
			*wait_ns = gate->reopen_at_ns - now_ns;
			return false;
		}
		gate->state = TR_GATE_PROBING;
		return true;
	case TR_GATE_PROBING:
		break;
	}
	*wait_ns = INT64_MAX;
	return false;
}

void
tr_gate_success(struct tr_gate *gate)
{
	/* a send that began before the closing may still end well: what the peer asked for, or several failures
	 * in a row, count for more, and the probe is not far */
	if (gate->state == TR_GATE_CLOSED)
		return;
	if (gate->state == TR_GATE_PROBING) {
		if (gate->interval_ns == 0) {
			gate->interval_ns = PACE_FIRST_NS;
			gate->careful = false;
		}
		gate->failing = 0;
		gate->steps = 0;
		gate->concurrent = 1;
		gate->next_at_ns = 0; /* the next one at once: it has been answered */
	} else if (gate->interval_ns != 0) {
		pace_success(gate);
	}
	gate->state = TR_GATE_OPEN;
	gate->failures = 0;
	gate->closings = 0;
	gate->opened_for_ns = 0;
}

/* backoff_ns doubled per closing, with a jitter of a fifth to both sides so that many gates do not probe in step. */
static int64_t
backoff(const struct tr_gate *gate, const struct tr_gate_rules *rules, double random)
{
	int64_t base = rules->backoff_ns > 0 ? rules->backoff_ns : TR_NS_PER_S;
	int64_t most = tr_max_i64(rules->backoff_max_ns, base);

	for (uint32_t i = 0; i < gate->closings && base < most; i++)
		base = base > most / 2 ? most : base * 2;
	return (int64_t)((double)base * (0.8 + 0.4 * random));
}

bool
tr_gate_failure(struct tr_gate *gate, const struct tr_gate_rules *rules, int64_t now_ns, bool at_once,
	int64_t retry_after_ns, double random)
{
	int64_t floor_ns = retry_after_ns;

	if (rules->failures_to_close == 0)
		return false;
	if (rules->retry_after_max_ns > 0)
		floor_ns = tr_min_i64(floor_ns, rules->retry_after_max_ns);
	if (gate->failures < UINT32_MAX)
		gate->failures++;
	if (gate->state == TR_GATE_CLOSED) { /* a late failure: only a longer wish of the peer changes anything */
		if (floor_ns >= 0 && now_ns + floor_ns > gate->reopen_at_ns)
			gate->reopen_at_ns = now_ns + floor_ns;
		return false;
	}
	if (gate->state == TR_GATE_OPEN && !at_once && floor_ns < 0) {
		if (gate->interval_ns == 0 ? gate->failures < rules->failures_to_close
					   : !pace_failure(gate, rules, now_ns))
			return false;
	}
	if (gate->state == TR_GATE_PROBING || at_once)
		gate->interval_ns = 0; /* it is down, not in a hurry: the way back begins anew */
	else if (gate->interval_ns != 0)
		set_interval(gate, (double)gate->interval_ns * STEP_BACK);
	gate->careful = gate->interval_ns != 0;
	gate->opened_for_ns = tr_max_i64(backoff(gate, rules, random), floor_ns);
	gate->reopen_at_ns = now_ns + gate->opened_for_ns;
	gate->state = TR_GATE_CLOSED;
	if (gate->closings < UINT32_MAX)
		gate->closings++;
	return true;
}

void
tr_gate_abandon(struct tr_gate *gate)
{
	if (gate->state == TR_GATE_PROBING)
		gate->state = TR_GATE_CLOSED; /* reopen_at_ns has passed */
}
