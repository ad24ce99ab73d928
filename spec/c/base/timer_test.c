#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/timer.h"

#define TIMERS 400
#define START_NS (TR_NS_PER_S * 5)

static uint64_t random_state = 42;

static uint64_t
random_u64(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

struct item {
	struct tr_timer timer;
	int64_t due_ns; /* the model: -1 not running */
};

static struct item items[TIMERS];
static struct tr_wheel *wheel;
static int64_t now_ns, last_tick;
static int fired;

static void
fire(struct tr_timer *timer)
{
	struct item *item = tr_container_of(timer, struct item, timer);

	assert_false(tr_timer_running(timer));
	assert_true(item->due_ns >= 0);                        /* it was to run ... */
	assert_true(item->due_ns <= now_ns);                   /* ... and not later than now */
	assert_true(item->due_ns / TR_NS_PER_MS >= last_tick); /* in order, 1 ms grain */
	last_tick = item->due_ns / TR_NS_PER_MS;
	item->due_ns = -1;
	fired++;
}

/* Delays of all sizes: 0 to some 100 years, and in bunches. */
static int64_t
random_delay(void)
{
	int bits = (int)(random_u64() % 62);
	int64_t delay_ns = (int64_t)(random_u64() & ((UINT64_C(1) << bits) - 1));

	if (random_u64() % 4 == 0)
		delay_ns = delay_ns / TR_NS_PER_MS % 300 * TR_NS_PER_MS;
	return tr_min_i64(delay_ns, INT64_MAX - now_ns);
}

static void
timers_agree_with_a_model(void **state)
{
	int64_t steps = 0;

	now_ns = START_NS;
	assert_int_equal(tr_wheel_new(now_ns, &wheel), TR_OK);
	for (int i = 0; i < TIMERS; i++)
		items[i] = (struct item){.due_ns = -1};
	for (int round = 0; round < 20000 && now_ns < INT64_MAX / 2; round++) {
		int64_t least = INT64_MAX, next_ns;
		size_t running = 0;

		for (int n = (int)(random_u64() % 8); n > 0; n--) {
			struct item *item = &items[random_u64() % TIMERS];

			if (random_u64() % 3 == 0) {
				tr_timer_stop(wheel, &item->timer);
				item->due_ns = -1;
			} else {
				item->due_ns = now_ns + random_delay();
				tr_timer_start_at(wheel, &item->timer, item->due_ns, fire);
			}
		}
		for (int i = 0; i < TIMERS; i++) {
			assert_int_equal(tr_timer_running(&items[i].timer), items[i].due_ns >= 0);
			if (items[i].due_ns < 0)
				continue;
			running++;
			least = tr_min_i64(least, items[i].due_ns);
		}
		assert_int_equal(tr_wheel_count(wheel), running);
		next_ns = tr_wheel_next_ns(wheel);
		assert_true(next_ns <= least);
		if (least / TR_NS_PER_MS / 256 == now_ns / TR_NS_PER_MS / 256)
			assert_true(next_ns == least); /* the lowest level is exact */
		switch (random_u64() % 4) {
		case 0:
			now_ns += (int64_t)(random_u64() % (3 * TR_NS_PER_MS));
			break;
		case 1:
			now_ns = tr_max_i64(now_ns, next_ns == INT64_MAX ? now_ns : next_ns);
			break;
		case 2:
			now_ns += (int64_t)(random_u64() % (TR_NS_PER_S * 40));
			break;
		default:
			break;
		}
		last_tick = 0;
		steps += tr_wheel_run(wheel, now_ns);
		for (int i = 0; i < TIMERS; i++)
			assert_true(items[i].due_ns < 0 || items[i].due_ns > now_ns);
	}
	assert_int_equal(steps, fired);
	assert_true(steps > 5000);
	tr_wheel_free(wheel);
	for (int i = 0; i < TIMERS; i++)
		assert_false(tr_timer_running(&items[i].timer));
}

static void
far_timers_fire_at_their_time(void **state)
{
	static const int64_t delays_ns[] = {1, TR_NS_PER_MS - 1, 255 * TR_NS_PER_MS, 256 * TR_NS_PER_MS,
		16384 * TR_NS_PER_MS, 86400 * TR_NS_PER_S, 60 * 86400 * TR_NS_PER_S,
		INT64_C(100) * 365 * 86400 * TR_NS_PER_S};

	for (size_t i = 0; i < TR_COUNT(delays_ns); i++) {
		struct item item = {.due_ns = START_NS + delays_ns[i]};
		int jumps = 0;

		assert_int_equal(tr_wheel_new(START_NS, &wheel), TR_OK);
		fired = 0;
		last_tick = 0;
		tr_timer_start_at(wheel, &item.timer, item.due_ns, fire);
		while (fired == 0) {
			now_ns = tr_wheel_next_ns(wheel);
			assert_true(now_ns <= START_NS + delays_ns[i]);
			tr_wheel_run(wheel, now_ns);
			assert_true(++jumps <= 7);
		}
		assert_true(now_ns == START_NS + delays_ns[i]);
		assert_true(tr_wheel_next_ns(wheel) == INT64_MAX);
		tr_wheel_free(wheel);
	}
}

static struct tr_timer first, second, third;
static char order[16];
static int order_len;

static void
note(struct tr_timer *timer)
{
	order[order_len++] = timer == &first ? '1' : timer == &second ? '2' : '3';
	order[order_len] = '\0';
}

static void
stop_third_and_restart(struct tr_timer *timer)
{
	note(timer);
	tr_timer_stop(wheel, &third);
	tr_timer_start_at(wheel, timer, 0, note); /* past: at the next run, not in this one */
}

static void
callbacks_may_stop_and_start(void **state)
{
	assert_int_equal(tr_wheel_new(START_NS, &wheel), TR_OK);
	tr_timer_start_at(wheel, &first, START_NS + 10, stop_third_and_restart);
	tr_timer_start_at(wheel, &second, START_NS + 10, note);
	tr_timer_start_at(wheel, &third, START_NS + 10, note);
	assert_int_equal(tr_wheel_run(wheel, START_NS + 9), 0);
	assert_int_equal(tr_wheel_run(wheel, START_NS + 10), 2);
	assert_string_equal(order, "12");
	assert_false(tr_timer_running(&third));
	assert_int_equal(tr_wheel_count(wheel), 1);
	assert_true(tr_wheel_next_ns(wheel) <= START_NS);
	assert_int_equal(tr_wheel_run(wheel, START_NS + 10), 1);
	assert_string_equal(order, "121");
	tr_wheel_free(wheel);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(timers_agree_with_a_model),
		cmocka_unit_test(far_timers_fire_at_their_time),
		cmocka_unit_test(callbacks_may_stop_and_start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
