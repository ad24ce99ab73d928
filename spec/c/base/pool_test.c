#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <string.h>

#include "base/pool.h"

enum { BLOCKS = 3000 };

static void
blocks_of_all_sizes_are_whole(void **state)
{
	static const size_t sizes[] = {0, 1, 31, 32, 33, 352, 1535, 1536, 1537, 100000};
	static char *blocks[BLOCKS];

	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < BLOCKS; i++) {
			size_t size = sizes[i % 9];

			blocks[i] = tr_pool_get(size);
			assert_non_null(blocks[i]);
			memset(blocks[i], i & 127, size);
		}
		for (int i = 0; i < BLOCKS; i++) {
			size_t size = sizes[i % 9];

			for (size_t at = 0; at < size; at++)
				assert_int_equal(blocks[i][at], i & 127);
			tr_pool_put(blocks[i], size);
		}
	}
	tr_pool_put(NULL, 10);
}

static void
zeroed_blocks_are_zero_again(void **state)
{
	for (int round = 0; round < 3; round++) {
		char *block = tr_pool_zero(100);

		for (int i = 0; i < 100; i++)
			assert_int_equal(block[i], 0);
		memset(block, 'x', 100);
		tr_pool_put(block, 100);
	}
}

static void
larger_blocks_are_whole(void **state)
{
	for (int round = 0; round < 2; round++) {
		char *blocks[700];
		size_t count = 0;

		for (size_t size = 1530; size < 67000; size += size < 2100 || size > 65500 ? 1 + size % 7 : 701)
			if (count < 700) {
				blocks[count] = tr_pool_get(size);
				assert_non_null(blocks[count]);
				memset(blocks[count], (int)(count & 127), size);
				count++;
			}
		assert_in_range(count, 300, 699); /* all sizes were had */
		count = 0;
		for (size_t size = 1530; size < 67000; size += size < 2100 || size > 65500 ? 1 + size % 7 : 701) {
			assert_int_equal(blocks[count][0], count & 127);
			assert_int_equal(blocks[count][size - 1], count & 127);
			tr_pool_put(blocks[count++], size);
		}
	}
}

static void *
free_all(void *arg)
{
	void **blocks = arg;

	for (int i = 0; i < BLOCKS; i++)
		tr_pool_put(blocks[i], 64);
	return tr_pool_get(64); /* its end empties the pool: this block is ours */
}

static void
another_thread_may_free_them(void **state)
{
	static void *blocks[BLOCKS];
	pthread_t thread;
	void *last;

	for (int i = 0; i < BLOCKS; i++)
		blocks[i] = tr_pool_get(64);
	assert_int_equal(pthread_create(&thread, NULL, free_all, blocks), 0);
	assert_int_equal(pthread_join(thread, &last), 0);
	memset(last, 1, 64);
	tr_pool_put(last, 64);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blocks_of_all_sizes_are_whole),
		cmocka_unit_test(zeroed_blocks_are_zero_again),
		cmocka_unit_test(larger_blocks_are_whole),
		cmocka_unit_test(another_thread_may_free_them),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
