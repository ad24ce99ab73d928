#include "shaping/gate.h"

#include <math.h>

#define PACE_FIRST_NS (100 * TR_NS_PER_MS) /* the second attempt after the probe */
#define PACE_LAST_NS (TR_NS_PER_MS / 10)   /* a pace that no limit needs any more */
#define PACE_MOST_NS (10 * TR_NS_PER_S)
#define SETTLE_NS TR_NS_PER_S       /* at that pace for so long: there is no limit */
#define SLACK_NS (2 * TR_NS_PER_MS) /* who waits for a start is woken by a timer of 1 ms */
#define EVEN_NS (4 * TR_NS_PER_MS)  /* from this interval on that does not matter, and even spaces do */
#define STEP 1.67                   /* of the interval, when nothing better is known */
#define STEP_MOST 4.0
#define SHARE 0.95                    /* of what got through at the pace that was too fast */
#define TOO_MANY (65536 * 35 / 100)   /* failures: one in seven has fewer by chance */
#define AFTER_STEP (65536 * 15 / 100) /* what counts as seen then */
#define WEIGHT 16                     /* of what was seen before one attempt */
#define WINDOW 16                     /* successes whose rate is measured */
#define WINDOW_MIN 8
#define TELLING 24                    /* attempts after a step that tell whether it helped */
#define VAIN_MAX 3                    /* so many steps that did not: the failures are random */
#define RANDOM_NS (300 * TR_NS_PER_S) /* as long as that is believed */
#define STEPS_MAX 2                   /* that many steps bring no success: it closes */
#define USUAL_WEIGHT 64 /* of what was seen before one attempt, in the share of an endpoint that fails at random */
#define RUN_BITS 16     /* a run of failures that comes by chance once in 2^16 attempts is none */
#define RUN_MAX 40
#define SAME_SHARE (65536 * 10 / 100)  /* above that of the slow pace: still at random */
#define OTHER_SHARE (65536 * 25 / 100) /* not at random any more */

/* --- the pace of an opening gate -------------------------------------------------------------------------- */

static void
set_interval(struct tr_gate *gate, double ns)
{
	gate->interval_ns = ns < PACE_LAST_NS ? PACE_LAST_NS : ns > PACE_MOST_NS ? PACE_MOST_NS : (int64_t)ns;
}

/* Per success. At first eight times as fast after 22 of them; after a step back it feels for the limit, which was near,
 * and becomes quicker when it does not meet it. */
static double
growth(const struct tr_gate *gate)
{
	if (!gate->careful || gate->since > 300)
		return 1 / 1.1;
	return gate->since > 200 ? 1 / 1.02 : gate->since > 100 ? 1 / 1.005 : 1 / 1.002;
}

static void
open_window(struct tr_gate *gate, int64_t now_ns)
{
	gate->window_at_ns = now_ns;
	gate->window_good = 0;
}

/* Did the last step back change anything? A limit lets the same number through at every pace above it, so its share of
 * successes grows as the interval did; failures at random keep theirs. Asked once, before the pace has grown again. */
static void
weigh_step(struct tr_gate *gate, int64_t now_ns)
{
	double limited = gate->good_share * gate->stretch, share = (double)gate->since / TELLING;

	if (gate->since + gate->bad != TELLING || gate->stretch < 1.25)
		return;
	if (share < (gate->good_share + (limited < 1 ? limited : 1)) / 2)
		gate->vain++;
	else if (gate->vain > 0)
		gate->vain--;
	if (gate->vain < VAIN_MAX)
		return;
	gate->vain = 0;
	gate->random_until_ns = now_ns + RANDOM_NS;
	gate->random_share = gate->usual = (uint32_t)(65536 * (1 - (share + gate->good_share) / 2));
	gate->careful = false;
}

static bool
fails_at_random(const struct tr_gate *gate, int64_t now_ns)
{
	return now_ns < gate->random_until_ns;
}

/* After each success, while failures are held for random: its share, with the run that has ended now. Is it at the full
 * pace what it was at the slow one, it has nothing to do with the pace, and that is believed for longer. */
static void
weigh_share(struct tr_gate *gate, int64_t now_ns)
{
	if (gate->random_until_ns == 0)
		return;
	for (uint32_t i = 0; i < gate->failures && i < RUN_MAX; i++)
		gate->usual += (65536 - gate->usual) / USUAL_WEIGHT;
	gate->usual -= gate->usual / USUAL_WEIGHT;
	if (gate->usual > gate->random_share + OTHER_SHARE)
		gate->random_until_ns = 0;
	else if (now_ns >= gate->random_until_ns)
		gate->random_until_ns = gate->usual <= gate->random_share + SAME_SHARE ? now_ns + RANDOM_NS : 0;
}

/* So many failures in a row close it. An endpoint that fails at random has runs of them while it works as well as ever:
 * one in two has five in a row after 60 attempts. */
static uint32_t
run_to_close(const struct tr_gate *gate, const struct tr_gate_rules *rules, int64_t now_ns)
{
	uint32_t run;

	if (!fails_at_random(gate, now_ns) || gate->usual == 0)
		return rules->failures_to_close;
	run = gate->usual >= 65536 * 3 / 4 ? RUN_MAX : (uint32_t)ceil(RUN_BITS / -log2(gate->usual / 65536.0));
	return run > rules->failures_to_close ? run : rules->failures_to_close;
}

static void
pace_success(struct tr_gate *gate, int64_t now_ns)
{
	gate->failing -= gate->failing / WEIGHT;
	gate->steps = 0;
	if (gate->concurrent < UINT32_MAX)
		gate->concurrent++;
	if (gate->since < UINT32_MAX)
		gate->since++;
	weigh_step(gate, now_ns);
	if (++gate->window_good >= WINDOW) {
		gate->seen_ns = (now_ns - gate->window_at_ns) / WINDOW;
		open_window(gate, now_ns);
	}
	if (gate->interval_ns > PACE_LAST_NS) {
		set_interval(gate, (double)gate->interval_ns * growth(gate));
		gate->settled_at_ns = now_ns;
	} else if (now_ns - gate->settled_at_ns >= SETTLE_NS) {
		gate->interval_ns = 0;
		gate->careful = false;
	}
}

/* To nearly what has got through of late: a limit lets no more through however much is sent. */
static void
step_back(struct tr_gate *gate, int64_t now_ns)
{
	double interval = (double)gate->interval_ns, seen = (double)gate->seen_ns;
	uint32_t count = gate->since + gate->bad;

	if (gate->window_good >= WINDOW_MIN) {
		double now_seen = (double)(now_ns - gate->window_at_ns) / gate->window_good;

		seen = seen > 0 && seen < now_seen ? seen : now_seen;
	}
	seen = seen > 0 ? seen / SHARE : interval * STEP;
	seen = seen < interval * 1.05 ? interval * 1.05 : seen > interval * STEP_MOST ? interval * STEP_MOST : seen;
	gate->good_share =
		count >= TELLING && count < 2 * TELLING ? (double)gate->since / count : 1 - gate->failing / 65536.0;
	gate->stretch = seen / interval;
	set_interval(gate, seen);
	gate->careful = true;
	gate->failing = AFTER_STEP;
	gate->failures = 0;
	gate->since = 0;
	gate->bad = 0;
	gate->seen_ns = 0;
	gate->concurrent = gate->concurrent > 2 ? gate->concurrent / 2 : 1;
	gate->next_at_ns = now_ns + gate->interval_ns;
	gate->stepped_at_ns = now_ns;
	open_window(gate, now_ns);
}

/* A failure while there is a pace. True: the gate must close. */
static bool
pace_failure(struct tr_gate *gate, const struct tr_gate_rules *rules, int64_t now_ns)
{
	bool told;

	gate->failing += (65536 - gate->failing) / WEIGHT;
	gate->bad++;
	weigh_step(gate, now_ns);
	if (fails_at_random(gate, now_ns))
		return gate->failures >= run_to_close(gate, rules, now_ns);
	if (gate->failures >= rules->failures_to_close && ++gate->steps >= STEPS_MAX)
		return true;
	/* a step that is not weighed yet shows nothing by its share alone */
	told = gate->stretch == 0 || gate->since + gate->bad >= TELLING;
	if (gate->failures >= rules->failures_to_close || (gate->failing > TOO_MANY && told))
		step_back(gate, now_ns);
	return false;
}

static int64_t
slack(const struct tr_gate *gate)
{
	return gate->interval_ns < EVEN_NS ? SLACK_NS : 0;
}

uint32_t
tr_gate_room(const struct tr_gate *gate, int64_t now_ns)
{
	int64_t ahead_ns = now_ns + slack(gate) - gate->next_at_ns;

	if (!tr_gate_is_paced(gate))
		return gate->state == TR_GATE_OPEN ? UINT32_MAX : 0;
	if (ahead_ns < 0)
		return 0;
	return (uint32_t)(tr_min_i64(ahead_ns, slack(gate)) / gate->interval_ns) + 1; /* what was not used is lost */
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
		if (now_ns + slack(gate) < gate->next_at_ns) {
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
tr_gate_success(struct tr_gate *gate, int64_t now_ns)
{
	/* a send that began before the closing may still end well: what the peer asked for, or several failures
	 * in a row, count for more, and the probe is not far */
	if (gate->state == TR_GATE_CLOSED)
		return;
	if (gate->state == TR_GATE_OPEN)
		weigh_share(gate, now_ns);
	if (gate->state == TR_GATE_PROBING) {
		if (gate->interval_ns == 0) {
			gate->interval_ns = PACE_FIRST_NS;
			gate->careful = false;
		}
		gate->failing = 0;
		gate->steps = 0;
		gate->concurrent = 1;
		gate->since = 0;
		gate->bad = 0;
		gate->stretch = 0;
		gate->seen_ns = 0;
		gate->next_at_ns = 0; /* the next one at once: it has been answered */
		open_window(gate, now_ns);
	} else if (gate->interval_ns != 0) {
		pace_success(gate, now_ns);
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
		if (gate->interval_ns == 0 ? gate->failures < run_to_close(gate, rules, now_ns)
					   : !pace_failure(gate, rules, now_ns))
			return false;
	}
	if (gate->state == TR_GATE_PROBING || at_once)
		gate->interval_ns = 0; /* it is down, not in a hurry: the way back begins anew */
	else if (gate->interval_ns != 0)
		set_interval(gate, (double)gate->interval_ns * STEP);
	gate->careful = gate->interval_ns != 0 && !fails_at_random(gate, now_ns);
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
