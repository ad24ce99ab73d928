/* Seven levels of slots: 256 of 1 ms, then six times 64 slots, each as wide as the whole level below.
 * That covers every int64_t of nanoseconds, so no timer is too far. A timer stands at the level of the
 * highest bit in which its tick differs from the wheel's; so all timers of a level come before all of the
 * next one, no slot index wraps, and the place of a timer can be told from its due time. When the wheel's
 * tick enters a slot of a higher level, its timers move down. */
#include "base/timer.h"

#include <assert.h>
#include <stdlib.h>

#include "base/clock.h"

#define LEVELS 7
#define LOW_BITS 8
#define HIGH_BITS 6
#define LOW_SLOTS (1 << LOW_BITS)
#define HIGH_SLOTS (1 << HIGH_BITS)
#define UNKNOWN INT64_MIN /* as a minimum: to be looked up again */

struct list {
	struct tr_timer *head;
	struct tr_timer **tail; /* the next field of the last, or &head: order of start is kept */
};

struct tr_wheel {
	int64_t tick;                      /* ms of monotonic time up to which all has been fired */
	size_t count;                      /* running timers */
	uint64_t low_used[LOW_SLOTS / 64]; /* bitmaps of slots that are not empty */
	uint64_t high_used[LEVELS - 1];
	int64_t low_min_ns[LOW_SLOTS]; /* earliest due_ns of a slot in use, or UNKNOWN */
	struct list low[LOW_SLOTS];
	struct list high[LEVELS - 1][HIGH_SLOTS];
	struct list firing; /* due in the run that is under way */
};

static void
list_init(struct list *list)
{
	list->head = NULL;
	list->tail = &list->head;
}

static void
list_append(struct list *list, struct tr_timer *timer)
{
	timer->next = NULL;
	timer->prev = list->tail;
	*list->tail = timer;
	list->tail = &timer->next;
}

/* Moves all of `from` behind `to`. */
static void
list_splice(struct list *to, struct list *from)
{
	if (from->head == NULL)
		return;
	*to->tail = from->head;
	from->head->prev = to->tail;
	to->tail = from->tail;
	list_init(from);
}

static void
list_unlink(struct list *list, struct tr_timer *timer)
{
	assert(timer->prev != NULL);
	*timer->prev = timer->next;
	if (timer->next != NULL)
		timer->next->prev = timer->prev;
	else
		list->tail = timer->prev;
	timer->prev = NULL;
	timer->next = NULL;
}

static int64_t
tick_of(int64_t ns)
{
	return ns > 0 ? ns / TR_NS_PER_MS : 0;
}

static int
shift_of(int level)
{
	return level == 0 ? 0 : LOW_BITS + (level - 1) * HIGH_BITS;
}

/* Where a timer for due_ns stands, given the present tick. */
static int
place(const struct tr_wheel *wheel, int64_t due_ns, int *slot)
{
	int64_t tick = tr_max_i64(tick_of(due_ns), wheel->tick);
	uint64_t differ = (uint64_t)(tick ^ wheel->tick);
	int level = 0;

	if (differ >> LOW_BITS != 0)
		level = 1 + (63 - LOW_BITS - __builtin_clzll(differ)) / HIGH_BITS;
	*slot = (int)(tick >> shift_of(level) & (level == 0 ? LOW_SLOTS - 1 : HIGH_SLOTS - 1));
	return level;
}

static void
insert(struct tr_wheel *wheel, struct tr_timer *timer)
{
	int slot, level = place(wheel, timer->due_ns, &slot);

	if (level > 0) {
		list_append(&wheel->high[level - 1][slot], timer);
		wheel->high_used[level - 1] |= UINT64_C(1) << slot;
		return;
	}
	if (wheel->low[slot].head == NULL)
		wheel->low_min_ns[slot] = timer->due_ns;
	else if (wheel->low_min_ns[slot] > timer->due_ns) /* UNKNOWN stays so */
		wheel->low_min_ns[slot] = timer->due_ns;
	list_append(&wheel->low[slot], timer);
	wheel->low_used[slot / 64] |= UINT64_C(1) << slot % 64;
}

/* After something was taken out of a low slot whose due time was `due_ns`. */
static void
low_shrunk(struct tr_wheel *wheel, int slot, int64_t due_ns)
{
	if (wheel->low[slot].head == NULL)
		wheel->low_used[slot / 64] &= ~(UINT64_C(1) << slot % 64);
	else if (due_ns <= wheel->low_min_ns[slot])
		wheel->low_min_ns[slot] = UNKNOWN;
}

static int
first_low(const struct tr_wheel *wheel)
{
	for (int word = 0; word < LOW_SLOTS / 64; word++) {
		if (wheel->low_used[word] != 0)
			return word * 64 + __builtin_ctzll(wheel->low_used[word]);
	}
	return -1;
}

/* The earliest slot in use: its level, index, and the tick at which it begins. -1: the wheel is empty. */
static int
first_slot(const struct tr_wheel *wheel, int *slot, int64_t *tick)
{
	*slot = first_low(wheel);
	if (*slot >= 0) {
		*tick = (wheel->tick & ~(int64_t)(LOW_SLOTS - 1)) | *slot;
		return 0;
	}
	for (int level = 1; level < LEVELS; level++) {
		uint64_t used = wheel->high_used[level - 1];
		int shift = shift_of(level);

		if (used == 0)
			continue;
		*slot = __builtin_ctzll(used);
		*tick = (wheel->tick >> (shift + HIGH_BITS) << (shift + HIGH_BITS)) | ((int64_t)*slot << shift);
		return level;
	}
	return -1;
}

int
tr_wheel_new(int64_t now_ns, struct tr_wheel **out)
{
	struct tr_wheel *wheel = calloc(1, sizeof *wheel);

	*out = wheel;
	if (wheel == NULL)
		return TR_ENOMEM;
	wheel->tick = tick_of(now_ns);
	list_init(&wheel->firing);
	for (int slot = 0; slot < LOW_SLOTS; slot++)
		list_init(&wheel->low[slot]);
	for (int level = 1; level < LEVELS; level++) {
		for (int slot = 0; slot < HIGH_SLOTS; slot++)
			list_init(&wheel->high[level - 1][slot]);
	}
	return TR_OK;
}

static void
forget(struct list *list)
{
	while (list->head != NULL)
		list_unlink(list, list->head);
}

void
tr_wheel_free(struct tr_wheel *wheel)
{
	if (wheel == NULL)
		return;
	forget(&wheel->firing); /* owners may still ask tr_timer_running() */
	for (int slot = 0; slot < LOW_SLOTS; slot++)
		forget(&wheel->low[slot]);
	for (int level = 1; level < LEVELS; level++) {
		for (int slot = 0; slot < HIGH_SLOTS; slot++)
			forget(&wheel->high[level - 1][slot]);
	}
	free(wheel);
}

void
tr_timer_start_at(struct tr_wheel *wheel, struct tr_timer *timer, int64_t due_ns, tr_timer_fn *fn)
{
	tr_timer_stop(wheel, timer);
	timer->due_ns = due_ns;
	timer->fn = fn;
	insert(wheel, timer);
	wheel->count++;
}

void
tr_timer_start(struct tr_wheel *wheel, struct tr_timer *timer, int64_t delay_ns, tr_timer_fn *fn)
{
	int64_t due_ns;

	if (__builtin_add_overflow(tr_mono_ns(), delay_ns, &due_ns))
		due_ns = delay_ns < 0 ? 0 : INT64_MAX;
	tr_timer_start_at(wheel, timer, due_ns, fn);
}

void
tr_timer_stop(struct tr_wheel *wheel, struct tr_timer *timer)
{
	int slot, level;

	if (timer->prev == NULL)
		return;
	wheel->count--;
	level = place(wheel, timer->due_ns, &slot);
	if (level > 0) { /* in a higher slot it cannot be among those that fire now */
		list_unlink(&wheel->high[level - 1][slot], timer);
		if (wheel->high[level - 1][slot].head == NULL)
			wheel->high_used[level - 1] &= ~(UINT64_C(1) << slot);
		return;
	}
	/* A due timer may stand in `firing`; only for the last of a list does it matter which one it is. */
	if (wheel->firing.tail == &timer->next) {
		list_unlink(&wheel->firing, timer);
		return;
	}
	list_unlink(&wheel->low[slot], timer);
	low_shrunk(wheel, slot, timer->due_ns);
}

int64_t
tr_wheel_next_ns(const struct tr_wheel *wheel)
{
	int64_t tick;
	int slot, level;

	if (wheel->firing.head != NULL)
		return wheel->firing.head->due_ns;
	level = first_slot(wheel, &slot, &tick);
	if (level < 0)
		return INT64_MAX;
	if (level > 0)
		return tick * TR_NS_PER_MS;
	if (wheel->low_min_ns[slot] == UNKNOWN) {
		int64_t min_ns = INT64_MAX;

		for (const struct tr_timer *timer = wheel->low[slot].head; timer != NULL; timer = timer->next)
			min_ns = tr_min_i64(min_ns, timer->due_ns);
		((struct tr_wheel *)wheel)->low_min_ns[slot] = min_ns; /* a cache: not part of the value */
	}
	return wheel->low_min_ns[slot];
}

/* Moves the timers of the low slot of the present tick that are due at now_ns to `firing`. */
static void
take_due(struct tr_wheel *wheel, int slot, int64_t now_ns)
{
	struct list *list = &wheel->low[slot];
	struct tr_timer *timer = list->head, *next;
	int64_t min_ns = INT64_MAX;

	for (; timer != NULL; timer = next) {
		next = timer->next;
		if (timer->due_ns > now_ns) {
			min_ns = tr_min_i64(min_ns, timer->due_ns);
			continue;
		}
		list_unlink(list, timer);
		list_append(&wheel->firing, timer);
	}
	wheel->low_min_ns[slot] = min_ns;
	if (list->head == NULL)
		wheel->low_used[slot / 64] &= ~(UINT64_C(1) << slot % 64);
}

/* Brings the tick to that of now_ns and collects what is due on the way. */
static void
collect(struct tr_wheel *wheel, int64_t now_ns)
{
	int64_t target = tr_max_i64(tick_of(now_ns), wheel->tick), tick;
	int slot, level;

	while ((level = first_slot(wheel, &slot, &tick)) >= 0 && tick <= target) {
		wheel->tick = tr_max_i64(tick, wheel->tick);
		if (level > 0) {
			struct list moving;

			list_init(&moving);
			list_splice(&moving, &wheel->high[level - 1][slot]);
			wheel->high_used[level - 1] &= ~(UINT64_C(1) << slot);
			for (struct tr_timer *timer = moving.head, *next; timer != NULL; timer = next) {
				next = timer->next;
				insert(wheel, timer);
			}
		} else if (tick < target) {
			list_splice(&wheel->firing, &wheel->low[slot]);
			wheel->low_used[slot / 64] &= ~(UINT64_C(1) << slot % 64);
		} else {
			take_due(wheel, slot, now_ns);
			break; /* what is left of this millisecond is later than now_ns */
		}
	}
	wheel->tick = target;
}

int
tr_wheel_run(struct tr_wheel *wheel, int64_t now_ns)
{
	int fired = 0;

	collect(wheel, now_ns);
	while (wheel->firing.head != NULL) {
		struct tr_timer *timer = wheel->firing.head;

		list_unlink(&wheel->firing, timer);
		wheel->count--;
		fired++;
		timer->fn(timer); /* may free it, stop others, start new ones: those fire at the next run */
	}
	return fired;
}

size_t
tr_wheel_count(const struct tr_wheel *wheel)
{
	return wheel->count;
}
