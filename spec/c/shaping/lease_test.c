#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "shaping/internal.h"

static struct tr_shaping *shaping;

static int
setup(void **state)
{
	return tr_shaping_new(&shaping);
}

static int
teardown(void **state)
{
	tr_shaping_free(shaping);
	return 0;
}

static struct tr_lease_set *
get(const char *name, bool local)
{
	struct tr_lease_set *set;

	assert_int_equal(tr_lease_set_get(shaping, tr_str(name), local, &set), TR_OK);
	return set;
}

static void
each_user_brings_a_limit(void **state)
{
	struct tr_lease_set *set = get("a", true);

	assert_true(tr_lease_acquire(set, 2));
	assert_true(tr_lease_acquire(set, 2));
	assert_false(tr_lease_acquire(set, 2));
	assert_true(tr_lease_acquire(set, 3));
	assert_int_equal(tr_lease_set_count(set), 3);
	tr_lease_release(set);
	assert_false(tr_lease_acquire(set, 2));
	tr_lease_release(set);
	assert_true(tr_lease_acquire(set, 2));
	tr_lease_release(set);
	tr_lease_release(set);
	assert_int_equal(tr_lease_set_count(set), 0);
	tr_lease_set_unref(set);
}

static void
one_set_a_name(void **state)
{
	struct tr_lease_set *a = get("a", true), *b = get("a", true), *shared = get("a", false),
			    *other = get("b", true);
	static const struct tr_shaping_backend backend = {0};

	assert_ptr_equal(a, b);
	assert_ptr_not_equal(a, shared);
	assert_ptr_not_equal(a, other);
	assert_true(tr_str_eq(tr_lease_set_name(a), TR_STR("a")));
	assert_false(tr_lease_set_is_shared(shared));
	tr_shaping_set_backend(shaping, &backend);
	assert_true(tr_lease_set_is_shared(shared));
	assert_false(tr_lease_set_is_shared(a));
	tr_lease_set_unref(tr_lease_set_ref(a));
	tr_lease_set_unref(a);
	tr_lease_set_unref(b);
	tr_lease_set_unref(shared);
	tr_lease_set_unref(other);
	tr_lease_set_unref(NULL);
	assert_int_equal(table_count(&shaping->leases), 0);
}

struct patient {
	struct tr_lease_waiter waiter;
	int told;
};

static void
told(struct tr_lease_waiter *waiter)
{
	tr_container_of(waiter, struct patient, waiter)->told++;
}

static void
a_release_tells_one_who_can_use_it(void **state)
{
	struct tr_lease_set *set = get("a", true);
	struct patient small = {.waiter = {.told = told}}, first = {.waiter = {.told = told}},
		       second = {.waiter = {.told = told}};

	for (int i = 0; i < 5; i++)
		assert_true(tr_lease_acquire(set, 5));
	assert_true(tr_lease_wait(set, 2, &small.waiter));
	assert_true(tr_lease_wait(set, 5, &first.waiter));
	assert_true(tr_lease_wait(set, 5, &second.waiter));
	tr_lease_release(set);
	assert_int_equal(small.told, 0);
	assert_int_equal(first.told, 1);
	assert_int_equal(second.told, 0);
	assert_false(first.waiter.queued);
	tr_lease_tell(set); /* the first does not want it any more */
	assert_int_equal(second.told, 1);
	assert_true(tr_lease_acquire(set, 5));
	assert_true(tr_lease_wait(set, 5, &first.waiter));
	tr_lease_unwait(set, &first.waiter);
	tr_lease_unwait(set, &first.waiter); /* twice is fine */
	tr_lease_release(set);
	assert_int_equal(first.told, 1);
	assert_false(tr_lease_wait(set, 5, &first.waiter)); /* there is one */
	assert_false(first.waiter.queued);
	for (int i = 0; i < 3; i++)
		tr_lease_release(set);
	assert_int_equal(small.told, 1);
	tr_lease_release(set);
	tr_lease_set_unref(set);
}

/* --- threads ---------------------------------------------------------------------------------------- */

#define THREADS 6
#define ROUNDS 4000
#define LIMIT 2

struct runner {
	struct tr_lease_waiter waiter;
	pthread_t thread;
	sem_t woken;
	int missed;
};

static _Atomic int inside;
static _Atomic int most;

static void
post(struct tr_lease_waiter *waiter)
{
	sem_post(&tr_container_of(waiter, struct runner, waiter)->woken);
}

static void *
use(void *arg)
{
	struct runner *runner = arg;
	struct tr_lease_set *set = get("race", true);

	for (int i = 0; i < ROUNDS; i++) {
		while (!tr_lease_acquire(set, LIMIT)) {
			if (!tr_lease_wait(set, LIMIT, &runner->waiter))
				continue;
			struct timespec until;

			if (i % 5 == 0) { /* one who gives up now and then, told or not */
				tr_lease_unwait(set, &runner->waiter);
				if (sem_trywait(&runner->woken) == 0)
					tr_lease_tell(set);
				continue;
			}
			clock_gettime(CLOCK_REALTIME, &until);
			until.tv_sec += 120;
			if (sem_timedwait(&runner->woken, &until) != 0) {
				runner->missed++;
				tr_lease_unwait(set, &runner->waiter);
			}
		}
		int now = atomic_fetch_add(&inside, 1) + 1, before = atomic_load(&most);

		while (now > before && !atomic_compare_exchange_weak(&most, &before, now)) {
		}
		if (i % 4 == 0)
			sched_yield();
		atomic_fetch_sub(&inside, 1);
		tr_lease_release(set);
	}
	tr_lease_set_unref(set);
	return NULL;
}

static void
nobody_sleeps_beside_a_free_place(void **state)
{
	struct runner runners[THREADS] = {0};

	for (int i = 0; i < THREADS; i++) {
		runners[i].waiter.told = post;
		sem_init(&runners[i].woken, 0, 0);
		assert_int_equal(pthread_create(&runners[i].thread, NULL, use, &runners[i]), 0);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(runners[i].thread, NULL);
		sem_destroy(&runners[i].woken);
		assert_int_equal(runners[i].missed, 0);
	}
	assert_in_range(atomic_load(&most), 1, LIMIT);
	assert_int_equal(table_count(&shaping->leases), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(each_user_brings_a_limit, setup, teardown),
		cmocka_unit_test_setup_teardown(one_set_a_name, setup, teardown),
		cmocka_unit_test_setup_teardown(a_release_tells_one_who_can_use_it, setup, teardown),
		cmocka_unit_test_setup_teardown(nobody_sleeps_beside_a_free_place, setup, teardown),
	};

	return cmocka_run_group_tests_name("lease", tests, NULL, NULL);
}
