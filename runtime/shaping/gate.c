#include "shaping/gate.h"

bool
tr_gate_enter(struct tr_gate *gate, int64_t now_ns, int64_t *wait_ns)
{
	*wait_ns = 0;
	switch (gate->state) {
	case TR_GATE_OPEN:
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
	if (gate->state == TR_GATE_OPEN && !at_once && floor_ns < 0 && gate->failures < rules->failures_to_close)
		return false;
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
