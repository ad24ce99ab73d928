/* A host with a bound of memory, or without memory: what grows is interrupted where it stands, one huge request is
 * refused, and the host goes on. */
#include "fixture.h"
#include "policy/internal.h"

#include <string.h>

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

static void
tells_what_to_do(void **state)
{
	struct fixture *f = fixture_new(
		POLICY, &(struct tr_host_config){.memory_limit = 16 << 20, .memory_remedy = "a larger one"});

	is_interrupted(f, "tables", ":8: ");
	assert_non_null(strstr(f->text, "are needed: a larger one"));
	assert_non_null(strstr(f->text, "in event 'tables'"));
	fixture_free(f);
}

/* --- without memory ---------------------------------------------------------------------------------------- */

static struct {
	lua_Alloc alloc; /* LuaJIT's own */
	size_t above;    /* only what is larger than this */
	uint64_t after, times;
	uint64_t count, refused;
} scarce;

static void *
scarce_alloc(void *arg, void *ptr, size_t old_size, size_t new_size)
{
	if (new_size > old_size && new_size > scarce.above) {
		uint64_t n = scarce.count++;

		if (n >= scarce.after && n - scarce.after < scarce.times) {
			scarce.refused++;
			return NULL;
		}
	}
	return scarce.alloc(arg, ptr, old_size, new_size);
}

static void
starve(struct fixture *f, uint64_t after, uint64_t times, size_t above)
{
	scarce.above = above;
	scarce.after = after;
	scarce.times = times;
	scarce.count = scarce.refused = 0;
	if (f->host->memory.alloc != scarce_alloc) {
		scarce.alloc = f->host->memory.alloc;
		f->host->memory.alloc = scarce_alloc;
	}
}

static const char STARVING[] =
	"local kumo = require 'kumo'\n"
	"kept = {}\n"
	"local function deep(n) if n > 0 then return 1 + deep(n - 1) end return 0 end\n"
	"local function work()\n"
	"  local t, texts = {}, {}\n"
	"  for i = 1, 40 do\n"
	"    local f = function() return i end\n"
	"    t[i], t['k' .. i] = { i, a = { f } }, ('%d'):format(f())\n"
	"  end\n"
	"  for i = 1, 3 do texts[#texts + 1] = table.concat({ i, deep(40 * i), tostring(t) }, '-') .. i end\n"
	"  local co = coroutine.wrap(function(...) local n = select('#', ...) deep(60) coroutine.yield(n) return n "
	"end)\n"
	"  co(1, 2, 3) co()\n"
	"  return assert(load 'local a, b = 1, { x = {} } return function() return a, b end')\n"
	"end\n"
	"kumo.on('work', function()\n"
	"  local a, b, c = 'a' .. #kept, { 1 }, function() return 'c' end\n"
	"  local ok, err = pcall(work)\n" /* what is outside must be as it was */
	"  assert(a == 'a' .. #kept and b[1] == 1 and c() == 'c')\n"
	"  if ok then return 'fine' end\n"
	"  error(err, 0)\n"
	"end)\n"
	"kumo.on('keep', function() for i = 1, 9000 do kept[i] = { i } end end)\n"
	"kumo.on('read', function() local n = 0 for i = 1, #kept do n = n + kept[i][1] end return n end)\n"
	"kumo.on('table', function()\n"
	"  local ok, err = pcall(function() local t = {} for i = 1, 1e8 do t[i] = i end end)\n"
	"  return ok, err\n"
	"end)\n"
	"kumo.on('text', function()\n"
	"  local ok, err = pcall(function() local s = 'x' for i = 1, 30 do s = s .. s end end)\n"
	"  return ok, err\n"
	"end)\n"
	"kumo.on('stubborn', function()\n"
	"  local all = {}\n"
	"  local function grow() while true do all[#all + 1] = { 1 } end end\n"
	"  while true do pcall(grow) end\n"
	"end)\n"
	"kumo.on('large', function() return pcall(string.rep, 'x', 1e7) end)\n";

static void
works_again(struct fixture *f)
{
	starve(f, 0, 0, 0);
	fixture_fire(f, "work", NULL, 0, NULL);
	assert_string_equal(f->text, "");
	assert_string_equal(f->result, "fine");
}

/* Each allocation of a handler, once, and all that follow it: once is made up for, and more ends in an error. */
static void
each_allocation_may_fail(void **state)
{
	struct fixture *f = fixture_new(STARVING, NULL);
	uint64_t all;

	assert_string_equal(f->load_error, "");
	works_again(f);
	all = scarce.count;
	assert_true(all > 200);
	for (uint64_t n = 0; n < all; n++) {
		for (uint64_t times = 1; times < UINT64_MAX; times = times == 1 ? 50 : UINT64_MAX) {
			struct tr_task_call call = {.end = fixture_end, .end_arg = f};

			lua_gc(f->host->L, LUA_GCCOLLECT, 0);
			starve(f, n, times, 0);
			if (tr_event_fire(f->host, "work", &call, NULL) != TR_OK)
				continue; /* a new coroutine */
			if (f->status == TR_OK)
				assert_string_equal(f->result, "fine");
			else
				assert_non_null(strstr(f->text, "not enough memory"));
			assert_true(times > 1 || f->status == TR_OK);
		}
		works_again(f);
	}
	fixture_free(f);
}

static void
what_lies_in_the_reserve_stays_whole(void **state)
{
	struct fixture *f = fixture_new(STARVING, NULL);

	starve(f, 0, UINT64_MAX, 0);
	fixture_fire(f, "keep", NULL, 0, NULL);
	assert_int_equal(f->status, TR_EINVAL);
	assert_non_null(strstr(f->text, "not enough memory"));
	for (int i = 0; i < 5; i++) { /* all that goes into it is long-lived: it is refilled */
		starve(f, 1000, 6000, 0);
		fixture_fire(f, "keep", NULL, 0, NULL);
		works_again(f);
	}
	fixture_fire(f, "keep", NULL, 0, NULL);
	fixture_fire(f, "read", NULL, 0, NULL);
	assert_string_equal(f->result, "40504500");
	fixture_free(f);
}

/* What an instruction asks for is never refused, as nothing would be in order then. */
static void
what_grows_ends_before_it_is_refused(void **state)
{
	struct fixture *f = fixture_new(STARVING, NULL);
	const char *const events[] = {"table", "text"};

	for (int i = 0; i < 2; i++) {
		for (size_t mib = 1; mib <= 64; mib *= 4) {
			starve(f, 0, UINT64_MAX, mib << 20);
			fixture_fire(f, events[i], NULL, 0, NULL);
			assert_string_equal(f->result, "false|not enough memory");
			assert_int_equal(scarce.refused, 2); /* tries, before and after the collection */
			works_again(f);
		}
	}
	fixture_free(f);
}

static void
a_large_request_is_refused(void **state)
{
	struct fixture *f = fixture_new(STARVING, NULL);

	starve(f, 0, UINT64_MAX, 1 << 20);
	fixture_fire(f, "large", NULL, 0, NULL);
	assert_string_equal(f->result, "false|not enough memory");
	works_again(f);
	fixture_free(f);
}

static void
who_catches_it_again_and_again_is_ended(void **state)
{
	struct fixture *f = fixture_new(STARVING, NULL);
	struct fixture *bound;

	starve(f, 1000, UINT64_MAX, 0);
	fixture_fire(f, "stubborn", NULL, 0, NULL);
	assert_int_equal(f->status, TR_EINVAL);
	assert_non_null(strstr(f->text, "found no memory and caught the error in event 'stubborn'"));
	assert_true(tr_host_memory_interrupts(f->host) >= 2);
	works_again(f);
	fixture_free(f);

	bound = fixture_new(STARVING, &BOUND);
	fixture_fire(bound, "stubborn", NULL, 0, NULL);
	assert_non_null(strstr(bound->text, "found no memory and caught the error in event 'stubborn'"));
	lua_gc(bound->host->L, LUA_GCCOLLECT, 0);
	assert_true(tr_host_memory(bound->host) < 16 << 20); /* given back */
	fixture_free(bound);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_grows_is_interrupted_where_it_stands),
		cmocka_unit_test(one_huge_request_is_refused),
		cmocka_unit_test(without_a_bound_there_is_none),
		cmocka_unit_test(tells_what_to_do),
		cmocka_unit_test(each_allocation_may_fail),
		cmocka_unit_test(what_lies_in_the_reserve_stays_whole),
		cmocka_unit_test(what_grows_ends_before_it_is_refused),
		cmocka_unit_test(a_large_request_is_refused),
		cmocka_unit_test(who_catches_it_again_and_again_is_ended),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
