/* The reserve: against a model, with pieces of all sizes that come and go in any order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "policy/reserve.h"

#define BYTES ((size_t)64 << 10)
#define SLOTS 300

struct piece {
	unsigned char *at;
	size_t bytes;
	unsigned char fill;
};

static uint32_t
random_number(uint32_t *state)
{
	*state = *state * 1664525 + 1013904223;
	return *state >> 8;
}

static size_t
random_size(uint32_t *state)
{
	return 1 + random_number(state) % (random_number(state) % 8 == 0 ? 9000 : 200);
}

static bool
is_whole(const struct piece *piece, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++) {
		if (piece->at[i] != piece->fill)
			return false;
	}
	return true;
}

static size_t
rounded(size_t bytes)
{
	return (bytes + 15) / 16 * 16;
}

static void
pieces_come_and_go(void **state)
{
	struct tr_reserve *reserve = tr_reserve_new(BYTES);
	struct piece pieces[SLOTS] = {{0}};
	uint32_t seed = 7, refused = 0, grown = 0;
	size_t used = 0;

	(void)state;
	assert_non_null(reserve);
	assert_int_equal(tr_reserve_bytes(reserve), BYTES);
	for (int i = 0; i < 20000; i++) {
		struct piece *piece = &pieces[random_number(&seed) % SLOTS];
		size_t bytes = random_size(&seed);

		if (piece->at == NULL) {
			piece->at = tr_reserve_take(reserve, bytes);
			if (piece->at == NULL) {
				refused++;
				assert_true(used > BYTES / 4 || bytes > BYTES / 2);
				continue;
			}
			assert_int_equal((uintptr_t)piece->at % 16, 0);
			assert_true(tr_reserve_holds(reserve, piece->at));
			assert_true(tr_reserve_holds(reserve, piece->at + bytes - 1));
			piece->bytes = bytes;
			used += rounded(bytes);
		} else if (random_number(&seed) % 3 == 0) {
			size_t old = piece->bytes;

			assert_true(is_whole(piece, old));
			if (tr_reserve_resize(reserve, piece->at, bytes)) {
				grown += bytes > old;
				assert_true(is_whole(piece, bytes < old ? bytes : old));
				used = used - rounded(old) + rounded(bytes);
				piece->bytes = bytes;
			} else {
				assert_true(bytes > old);
			}
		} else {
			assert_true(is_whole(piece, piece->bytes)); /* no other piece has touched it */
			tr_reserve_give(reserve, piece->at);
			used -= rounded(piece->bytes);
			piece->at = NULL;
			continue;
		}
		assert_int_equal(tr_reserve_length(reserve, piece->at), rounded(piece->bytes));
		assert_int_equal(tr_reserve_used(reserve), used);
		piece->fill = (unsigned char)i;
		memset(piece->at, piece->fill, piece->bytes);
	}
	assert_true(refused > 0 && grown > 0);
	for (int i = 0; i < SLOTS; i++) {
		if (pieces[i].at != NULL)
			tr_reserve_give(reserve, pieces[i].at);
	}
	assert_int_equal(tr_reserve_used(reserve), 0);
	unsigned char *all = tr_reserve_take(reserve, BYTES); /* nothing is in pieces any more */
	assert_non_null(all);
	assert_null(tr_reserve_take(reserve, 1));
	memset(all, 1, BYTES);
	assert_true(tr_reserve_resize(reserve, all, 1));
	assert_non_null(tr_reserve_take(reserve, BYTES - 16));
	tr_reserve_free(reserve);
}

static void
what_is_elsewhere_is_not_its(void **state)
{
	struct tr_reserve *reserve = tr_reserve_new(BYTES);
	unsigned char *first = tr_reserve_take(reserve, 16);

	(void)state;
	assert_false(tr_reserve_holds(reserve, NULL));
	assert_false(tr_reserve_holds(reserve, &reserve));
	assert_false(tr_reserve_holds(reserve, first - 1));
	assert_false(tr_reserve_holds(reserve, first + BYTES));
	assert_null(tr_reserve_take(reserve, BYTES));
	assert_null(tr_reserve_take(reserve, SIZE_MAX));
	tr_reserve_free(reserve);
	tr_reserve_free(NULL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pieces_come_and_go),
		cmocka_unit_test(what_is_elsewhere_is_not_its),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
