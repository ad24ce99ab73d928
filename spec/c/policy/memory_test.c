/* A host with a bound of memory: what grows past it is interrupted where it stands, one huge request is refused, and
 * the host goes on. */
#include "fixture.h"

static const struct tr_host_config BOUND = {.memory_limit = 16 << 20};

static const char POLICY[] =
	"local kumo = require 'kumo'\n"
	"kumo.on('texts', function()\n"
	"  local s = 'x'\n"
	"  while true do s = s .. s end\n" /* line 4 */
	"end)\n"
	"kumo.on('tables', function()\n"
	"  local t = {}\n"
	"  for i = 1, 1e9 do t[i] = { i } end\n" /* line 8 */
	"end)\n"
	"kumo.on('huge', function() return #('x'):rep(60 * 1024 * 1024) + #('y'):rep(60 * 1024 * 1024) end)\n"
	"kumo.on('small', function() return 'fine' end)\n";

static void
is_interrupted(struct fixture *f, const char *event, const char *place)
{
	fixture_fire(f, event, NULL, 0, NULL);
	assert_int_equal(f->status, TR_EINVAL);
	assert_non_null(strstr(f->text, place));
	assert_non_null(strstr(f->text, "more than 16 MiB of memory are needed"));
}

static void
what_grows_is_interrupted_where_it_stands(void **state)
{
	struct fixture *f = fixture_new(POLICY, &BOUND);

	assert_string_equal(f->load_error, "");
	for (int i = 0; i < 3; i++) { /* each time anew: what was dropped is collected */
		is_interrupted(f, "texts", ":4: ");
		is_interrupted(f, "tables", ":8: ");
		fixture_fire(f, "small", NULL, 0, NULL);
		assert_string_equal(f->result, "fine");
	}
	fixture_free(f);
}

static void
one_huge_request_is_refused(void **state)
{
	struct fixture *f = fixture_new(POLICY, &BOUND);

	fixture_fire(f, "huge", NULL, 0, NULL);
	assert_int_equal(f->status, TR_EINVAL);
	assert_true(strstr(f->text, "not enough memory") != NULL || strstr(f->text, "MiB of memory") != NULL);
	fixture_fire(f, "small", NULL, 0, NULL);
	assert_string_equal(f->result, "fine");
	fixture_free(f);
}

static void
without_a_bound_there_is_none(void **state)
{
	struct fixture *f = fixture_new(POLICY, NULL);

	fixture_fire(f, "huge", NULL, 0, NULL);
	assert_int_equal(f->status, TR_OK);
	assert_string_equal(f->result, "125829120");
	fixture_free(f);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_grows_is_interrupted_where_it_stands),
		cmocka_unit_test(one_huge_request_is_refused),
		cmocka_unit_test(without_a_bound_there_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
