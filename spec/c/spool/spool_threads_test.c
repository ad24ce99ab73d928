/* Several workers put, load and end messages of one spool while it copies forward and recycles: for ThreadSanitizer,
 * and to see that a loader finds what moves under it. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/clock.h"
#include "bed.c"

enum { WORKERS = 3, ROUNDS = 300, KEPT = 24 };

struct worker {
	struct tr_spool *spool;
	struct tr_loop *loop;
	struct tr_change change;
	struct tr_load load;
	bool over;
	int status;
	unsigned number;
	uint32_t slots[KEPT];
	struct tr_message *messages[KEPT];
	int statuses[KEPT];
	uint32_t count, stamp[KEPT];
};

static void
change_done(struct tr_change *change, int status)
{
	struct worker *worker = tr_container_of(change, struct worker, change);

	worker->status = status;
	worker->over = true;
}

static void
load_done(struct tr_load *load)
{
	tr_container_of(load, struct worker, load)->over = true;
}

static bool
is_over(void *arg)
{
	return ((struct worker *)arg)->over;
}

static void
wait_over(struct worker *worker)
{
	NEED(tr_loop_run_until(worker->loop, is_over, worker, 60 * TR_NS_PER_S));
	worker->over = false;
}

static void
load_all(struct worker *worker)
{
	worker->load = (struct tr_load){.loop = worker->loop,
		.done = load_done,
		.count = worker->count,
		.slots = worker->slots,
		.messages = worker->messages,
		.status = worker->statuses};
	tr_spool_load(worker->spool, &worker->load);
	wait_over(worker);
	for (uint32_t i = 0; i < worker->count; i++) {
		char want[32];

		NEED(worker->statuses[i] == TR_OK);
		snprintf(want, sizeof want, "%u-%u ", worker->number, worker->stamp[i]);
		NEED(worker->messages[i]->body.len == 700);
		NEED(memcmp(worker->messages[i]->body.data, want, strlen(want)) == 0);
		tr_message_free(worker->messages[i]);
	}
}

static void
round_of(struct worker *worker, uint32_t round)
{
	struct tr_message *message = tr_message_new();
	char body[701];
	int n = snprintf(body, sizeof body, "%u-%u ", worker->number, round);

	memset(body + n, 'x', sizeof body - (size_t)n - 1);
	NEED(message != NULL && tr_message_set_data(message, (struct tr_str){body, 700}) == TR_OK);
	tr_change_init(&worker->change, worker->spool, worker->loop, change_done, NULL);
	worker->change.urgent = round % 2;
	if (worker->count == KEPT) { /* the newest but one goes, so that old ones stay behind */
		NEED(tr_change_done(&worker->change, worker->slots[KEPT - 1], TR_COL_DELIVERED, TR_REASON_NONE, 1) ==
			TR_OK);
		worker->count--;
	}
	NEED(tr_change_put(&worker->change, message, TR_STR("q"), TR_COL_ACCEPTED, 1) == TR_OK);
	worker->slots[worker->count] = message->slot;
	worker->stamp[worker->count++] = round;
	tr_spool_submit(&worker->change);
	wait_over(worker);
	NEED(worker->status == TR_OK);
	tr_message_free(message);
	if (round % 8 == 7)
		load_all(worker);
}

static void *
worker_main(void *arg)
{
	struct worker *worker = arg;

	tr_loop_enter(worker->loop);
	for (uint32_t round = 0; round < ROUNDS; round++)
		round_of(worker, round);
	load_all(worker);
	return NULL;
}

static void
workers_share_a_spool_that_moves(void **state)
{
	struct worker workers[WORKERS];
	pthread_t threads[WORKERS];
	struct tr_spool_figures figures;
	struct tr_ledger ledger;
	struct tr_buf text = {0};
	struct bed bed;

	bed_init(&bed, 8192);
	bed.config.floor_bytes = 8192;
	bed_open(&bed);
	for (unsigned i = 0; i < WORKERS; i++) {
		workers[i] = (struct worker){.spool = bed.spool, .number = i};
		NEED(tr_loop_new(&workers[i].loop) == TR_OK);
		NEED(pthread_create(&threads[i], NULL, worker_main, &workers[i]) == 0);
	}
	for (unsigned i = 0; i < WORKERS; i++) {
		NEED(pthread_join(threads[i], NULL) == 0);
		tr_loop_free(workers[i].loop);
	}
	tr_spool_figures(bed.spool, &figures);
	assert_true(figures.copied_bytes > 100000);
	assert_int_equal(figures.live_messages, WORKERS * KEPT);
	assert_int_equal(figures.damaged_frames, 0);
	assert_int_equal(tr_spool_ledger(bed.spool, &ledger), TR_OK);
	assert_true(tr_ledger_balances(&ledger, &text));
	tr_ledger_fini(&ledger);
	bed_fini(&bed);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(workers_share_a_spool_that_moves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
