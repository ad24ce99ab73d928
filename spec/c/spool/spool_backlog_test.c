/* A start over a million records that wait, in many segments: quick, small, in order, all of them there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "bed.c"

#ifdef __OPTIMIZE__
enum { COUNT = 1000000 };
#else /* no optimisation, and most often a sanitizer: a tenth */
enum { COUNT = 100000 };
#endif
enum { CHANGE = 2500 };
#define FIRST_DUE_MS INT64_C(1700000000000)

static void
text_of(char text[16], uint32_t index)
{
	snprintf(text, 16, "record-%07u", (unsigned)index);
}

static struct tr_str
queue_of(uint32_t index)
{
	return index % 3 == 0 ? TR_STR("one.hook") : TR_STR("another.hook");
}

static void
stored(struct tr_change *change, int status)
{
	NEED(status == TR_OK);
	*(bool *)change->owner = true;
}

static bool
is_true(void *arg)
{
	return *(bool *)arg;
}

/* In a process of its own, which ends with its memory. What is not synced is in the page cache, which is enough for the
 * next process. */
static void
fill(struct bed *bed)
{
	static struct tr_message *messages[CHANGE];
	static char texts[CHANGE][16];

	bed->config.no_flush = true;
	bed_open(bed);
	for (uint32_t at = 0; at < COUNT; at += CHANGE) {
		struct tr_change change;
		bool done = false;

		tr_change_init(&change, bed->spool, bed->loop, stored, &done);
		for (uint32_t i = 0; i < CHANGE; i++) {
			struct tr_message *message = tr_message_new();

			NEED(message != NULL);
			text_of(texts[i], at + i);
			NEED(tr_message_set_data(message, tr_str(texts[i])) == TR_OK);
			message->due_ms = FIRST_DUE_MS + at + i;
			NEED(tr_change_put(&change, message, queue_of(at + i), TR_COL_ACCEPTED, 1) == TR_OK);
			messages[i] = message;
		}
		tr_spool_submit(&change);
		NEED(tr_loop_run_until(bed->loop, is_true, &done, 60 * TR_NS_PER_S));
		for (uint32_t i = 0; i < CHANGE; i++)
			tr_message_free(messages[i]);
	}
	bed_close(bed);
}

/* The most that this process has had resident. */
static uint64_t
peak_bytes(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (uint64_t)usage.ru_maxrss * 1024;
}

struct start {
	struct bed *bed;
	uint32_t count;
	uint32_t first, middle, last; /* slots */
};

static void
found(void *arg, const struct tr_recovered *recovered)
{
	struct start *start = arg;
	struct tr_stub *stub = tr_spool_stub(start->bed->spool, recovered->slot);

	NEED(tr_stub_due_ms(stub) == FIRST_DUE_MS + start->count); /* in the order in which they were stored */
	NEED(tr_str_eq(recovered->queue, queue_of(start->count)));
	if (start->count == 0)
		start->first = recovered->slot;
	if (start->count == COUNT / 2)
		start->middle = recovered->slot;
	start->last = recovered->slot;
	start->count++;
}

static void
assert_text(struct bed *bed, uint32_t slot, uint32_t index)
{
	struct tr_message *message;
	struct tr_str body;
	char text[16];

	text_of(text, index);
	assert_int_equal(bed_load(bed, slot, &message), TR_OK);
	body = tr_bytes_str(&message->body);
	assert_int_equal(body.len, strlen(text));
	assert_memory_equal(body.data, text, body.len);
	tr_message_free(message);
}

static void
a_start_over_a_million_records(void **state)
{
	struct tr_spool_figures figures;
	struct tr_recovery recovery;
	struct tr_ledger ledger;
	struct tr_buf wrong = {0};
	struct bed bed;
	struct start start = {.bed = &bed};
	int64_t begin_ns;
	uint64_t idle_bytes;
	int status;
	pid_t child;

	bed_init(&bed, 4 << 20);
	child = fork();
	if (child == 0) {
		fill(&bed);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);

	idle_bytes = peak_bytes();
	begin_ns = tr_mono_ns();
	assert_int_equal(tr_spool_open(&bed.config, &bed.spool, NULL), TR_OK);
	assert_int_equal(tr_spool_recover(bed.spool, found, &start, &recovery), TR_OK);
	print_message("%d records in %d ms, %.1f bytes each at the most\n", COUNT,
		(int)((tr_mono_ns() - begin_ns) / TR_NS_PER_MS), (double)(peak_bytes() - idle_bytes) / COUNT);
	assert_int_equal(start.count, COUNT);
	assert_int_equal(recovery.messages, COUNT);
	assert_int_equal(recovery.damaged_frames, 0);
	assert_true(recovery.segments >= 5);
	assert_true(tr_mono_ns() - begin_ns < 20 * TR_NS_PER_S); /* it takes one: not linear is for ever */

	tr_spool_figures(bed.spool, &figures);
	assert_int_equal(figures.live_messages, COUNT);
	assert_true(figures.stub_bytes <= 64 * (uint64_t)COUNT);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	assert_true(peak_bytes() - idle_bytes <= 64 * (uint64_t)COUNT + (32 << 20));
#endif
	assert_text(&bed, start.first, 0);
	assert_text(&bed, start.middle, COUNT / 2);
	assert_text(&bed, start.last, COUNT - 1);
	assert_int_equal(tr_spool_ledger(bed.spool, &ledger), TR_OK);
	assert_true(tr_ledger_balances(&ledger, &wrong));
	tr_buf_free(&wrong);
	tr_ledger_fini(&ledger);
	bed_fini(&bed);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_start_over_a_million_records),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
