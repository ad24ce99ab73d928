#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shaping/spec.h"

static void
limits(void **state)
{
	static const struct {
		const char *text;
		uint64_t limit; /* 0: refused */
		bool local;
	} cases[] = {
		{"10", 10, false},
		{"local:10", 10, true},
		{"1,000", 1000, false},
		{"local:1_000", 1000, true},
		{"0", 0, false},
		{"-1", 0, false},
		{"1.5", 0, false},
		{"", 0, false},
		{"ten", 0, false},
		{"10 ", 0, false},
		{"99999999999999999999999", 0, false},
		{"local:", 0, false},
	};
	struct tr_limit_spec spec;

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		int err = tr_limit_spec_parse(tr_str(cases[i].text), &spec);
		assert_int_equal(err, cases[i].limit ? TR_OK : TR_EINVAL);
		if (err == TR_OK) {
			assert_int_equal(spec.limit, cases[i].limit);
			assert_int_equal(spec.local, cases[i].local);
		}
	}
}

static void
rates(void **state)
{
	static const struct {
		const char *text;
		uint64_t quantity; /* 0: refused */
		int64_t period_s;
		uint64_t burst;
		bool local;
	} cases[] = {
		{"1000/s", 1000, 1, 1000, false},
		{"100/min", 100, 60, 100, false},
		{"local:100/hour", 100, 3600, 100, true},
		{"20/30min", 20, 1800, 20, false},
		{"5/2s", 5, 2, 5, false},
		{"1,000/d", 1000, 86400, 1000, false},
		{"100/h,max_burst=1", 100, 3600, 1, false},
		{"1_0/day,max_burst=2_0", 10, 86400, 20, false},
		{"0/s", 0, 0, 0, false},
		{"10", 0, 0, 0, false},
		{"10/seconds", 0, 0, 0, false},
		{"10/0s", 0, 0, 0, false},
		{"10/s,burst=1", 0, 0, 0, false},
		{"/s", 0, 0, 0, false},
		{"10/s,max_burst=0", 0, 0, 0, false},
		{"", 0, 0, 0, false},
	};
	struct tr_rate_spec spec;
	const char *why;

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		why = NULL;
		int err = tr_rate_spec_parse(tr_str(cases[i].text), &spec, &why);
		assert_int_equal(err, cases[i].quantity ? TR_OK : TR_EINVAL);
		if (err != TR_OK) {
			assert_non_null(why);
			continue;
		}
		assert_int_equal(spec.quantity, cases[i].quantity);
		assert_int_equal(spec.period_ns, cases[i].period_s * TR_NS_PER_S);
		assert_int_equal(spec.burst, cases[i].burst);
		assert_int_equal(spec.local, cases[i].local);
	}
}

static void
canonical_texts(void **state)
{
	static const char *const cases[][2] = {
		{"1,000/sec", "1000/s"},
		{"local:10/60s", "local:10/m"},
		{"20/30min,max_burst=1_0", "20/1800s,max_burst=10"},
		{"1/24h", "1/d"},
		{"18446744073709551605/106751d,max_burst=18446744073709551605",
			"18446744073709551605/9223286400s,max_burst=18446744073709551605"},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_rate_spec spec;
		const char *why;
		char text[96];

		assert_int_equal(tr_rate_spec_parse(tr_str(cases[i][0]), &spec, &why), TR_OK);
		assert_int_equal(tr_rate_spec_format(&spec, text), strlen(cases[i][1]));
		assert_string_equal(text, cases[i][1]);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(limits), cmocka_unit_test(rates), cmocka_unit_test(canonical_texts)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
