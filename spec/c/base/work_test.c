/* The pool of threads for work that would stall a loop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/work.h"

#define JOBS 500
#define LIMIT_NS (120 * TR_NS_PER_S)

static struct tr_loop *loop;
static pthread_t loop_thread;
static int done_count, skipped_count;
static _Atomic int run_count;
static sem_t gate;

struct job {
	struct tr_work work;
	int left; /* how often it starts itself again */
};

static void
run(struct tr_work *work)
{
	assert_false(pthread_equal(pthread_self(), loop_thread));
	run_count++;
}

static void
run_gated(struct tr_work *work)
{
	sem_wait(&gate);
	run_count++;
}

static void
done(struct tr_work *work)
{
	struct job *job = tr_container_of(work, struct job, work);

	assert_true(pthread_equal(pthread_self(), loop_thread));
	done_count++;
	skipped_count += work->skipped;
	if (job->left-- > 0)
		assert_int_equal(tr_work_start(loop, work, run, done), TR_OK);
	else
		free(job);
}

static struct job *
start(int left, void (*fn)(struct tr_work *work))
{
	struct job *job = calloc(1, sizeof *job);

	assert_non_null(job);
	job->left = left;
	assert_int_equal(tr_work_start(loop, &job->work, fn, done), TR_OK);
	return job;
}

static bool
all_done(void *arg)
{
	return done_count >= *(int *)arg;
}

static int
setup(void **state)
{
	loop_thread = pthread_self();
	done_count = skipped_count = run_count = 0;
	sem_init(&gate, 0, 0);
	return tr_loop_new(&loop);
}

static int
teardown(void **state)
{
	sem_destroy(&gate);
	return tr_hold_count();
}

static void
test_runs_all(void **state)
{
	int expected = JOBS * 2;

	for (int i = 0; i < JOBS; i++)
		start(1, run);
	assert_int_equal(done_count, 0); /* never from start */
	assert_true(tr_loop_run_until(loop, all_done, &expected, LIMIT_NS));
	assert_int_equal(run_count, expected);
	assert_int_equal(done_count, expected);
	tr_loop_free(loop);
}

static void
test_takes_back_what_has_not_begun(void **state)
{
	struct job *last;
	int expected = TR_WORK_THREADS;

	for (int i = 0; i < TR_WORK_THREADS; i++)
		start(0, run_gated);
	last = start(0, run_gated); /* no thread is left for it, unless one of them is new */
	assert_true(tr_work_take_back(&last->work));
	assert_false(tr_work_take_back(&last->work));
	free(last);
	for (int i = 0; i < TR_WORK_THREADS; i++)
		sem_post(&gate);
	assert_true(tr_loop_run_until(loop, all_done, &expected, LIMIT_NS));
	tr_loop_free(loop);
	assert_int_equal(run_count, expected);
}

static void *
open_gate(void *arg)
{
	for (int i = 0; i < TR_WORK_THREADS + 5; i++)
		sem_post(&gate);
	return NULL;
}

static void
test_end_of_the_loop(void **state)
{
	pthread_t opener;

	for (int i = 0; i < TR_WORK_THREADS + 5; i++)
		start(0, run_gated);
	pthread_create(&opener, NULL, open_gate, NULL);
	tr_loop_free(loop); /* waits for what runs, skips the rest */
	pthread_join(opener, NULL);
	assert_int_equal(done_count, TR_WORK_THREADS + 5);
	assert_int_equal(run_count + skipped_count, TR_WORK_THREADS + 5);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_runs_all, setup, teardown),
		cmocka_unit_test_setup_teardown(test_takes_back_what_has_not_begun, setup, teardown),
		cmocka_unit_test_setup_teardown(test_end_of_the_loop, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
