#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/clock.h"
#include "base/options.h"

static void
durations_are_read(void **state)
{
	static const struct {
		const char *text;
		int64_t ns;
	} cases[] = {
		{"1ns", 1},
		{"7nsec", 7},
		{"2us", 2000},
		{"500ms", 500 * TR_NS_PER_MS},
		{"2h", 7200 * TR_NS_PER_S},
		{"1m 30s", 90 * TR_NS_PER_S},
		{"1m30s", 90 * TR_NS_PER_S},
		{" 5  minutes ", 300 * TR_NS_PER_S},
		{"1 day", 86400 * TR_NS_PER_S},
		{"2weeks", 14 * 86400 * TR_NS_PER_S},
		{"1M", 2630016 * TR_NS_PER_S},
		{"1m", 60 * TR_NS_PER_S},
		{"1year 1month", (31557600 + 2630016) * TR_NS_PER_S},
		{"0s", 0},
		{"9223372036854775807ns", INT64_MAX},
	};
	static const char *const bad[] = {"", " ", "60", "1m 30", "-1s", "s", "1x", "1 S", "1.5s", "1s,2s",
		"9223372036854775808ns", "300 years", "99999999999999999999s", "200y 200y"};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		int64_t ns = -1;

		assert_int_equal(tr_duration_parse(cases[i].text, strlen(cases[i].text), &ns), TR_OK);
		assert_true(ns == cases[i].ns);
	}
	for (size_t i = 0; i < TR_COUNT(bad); i++) {
		int64_t ns = 77;

		assert_int_equal(tr_duration_parse(bad[i], strlen(bad[i]), &ns), TR_EINVAL);
		assert_int_equal(ns, 77);
	}
}

static void
durations_are_written_and_read_back(void **state)
{
	static const struct {
		int64_t ns;
		const char *text;
	} cases[] = {
		{0, "0s"},
		{90 * TR_NS_PER_S, "1m 30s"},
		{1200 * TR_NS_PER_S, "20m"},
		{250 * TR_NS_PER_MS, "250ms"},
		{86400 * TR_NS_PER_S, "1day"},
		{2 * 86400 * TR_NS_PER_S + 1, "2days 1ns"},
		{-90 * TR_NS_PER_S, "-1m 30s"},
	};
	char text[64];
	int64_t ns;

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		assert_int_equal(tr_duration_format(cases[i].ns, text), strlen(cases[i].text));
		assert_string_equal(text, cases[i].text);
	}
	for (int64_t value = 1; value > 0 && value < INT64_MAX / 7; value = value * 7 + 3) {
		size_t len = tr_duration_format(value, text);

		assert_int_equal(tr_duration_parse(text, len, &ns), TR_OK);
		assert_true(ns == value);
	}
	assert_in_range(tr_duration_format(INT64_MIN, text), 1, 63);
}

static void
moments_are_written_and_read(void **state)
{
	static const struct {
		int64_t ns;
		const char *text;
	} cases[] = {
		{0, "1970-01-01T00:00:00Z"},
		{INT64_C(1795630930) * TR_NS_PER_S, "2026-11-25T18:22:10Z"},
		{INT64_C(1795630930123) * TR_NS_PER_MS, "2026-11-25T18:22:10.123Z"},
		{INT64_C(1795630930123456) * 1000, "2026-11-25T18:22:10.123456Z"},
		{INT64_C(1795630930123456700), "2026-11-25T18:22:10.123456700Z"},
		{INT64_C(951782400) * TR_NS_PER_S, "2000-02-29T00:00:00Z"},
		{-1, "1969-12-31T23:59:59.999999999Z"},
		{-TR_NS_PER_S, "1969-12-31T23:59:59Z"},
		{INT64_MAX, "2262-04-11T23:47:16.854775807Z"},
		{INT64_MIN, "1677-09-21T00:12:43.145224192Z"},
	};
	char text[32];
	int64_t ns;

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		assert_int_equal(tr_rfc3339(cases[i].ns, text), strlen(cases[i].text));
		assert_string_equal(text, cases[i].text);
		assert_int_equal(tr_rfc3339_parse(text, strlen(text), &ns), TR_OK);
		assert_true(ns == cases[i].ns);
	}
}

static void
other_forms_of_moments_are_read(void **state)
{
	static const struct {
		const char *text;
		int64_t ns;
	} cases[] = {
		{"1970-01-01T02:00:00+02:00", 0},
		{"1969-12-31t19:30:00-04:30", 0},
		{"1970-01-01 00:00:01z", TR_NS_PER_S},
		{"1970-01-01T00:00:00.5Z", TR_NS_PER_S / 2},
		{"1970-01-01T00:00:00.1234567899Z", 123456789},
		{"2016-12-31T23:59:60Z", INT64_C(1483228800) * TR_NS_PER_S},
	};
	static const char *const bad[] = {"", "2026-11-25", "2026-11-25T18:22:10", "2026-13-25T18:22:10Z",
		"2026-00-25T18:22:10Z", "2026-02-29T18:22:10Z", "2026-11-31T18:22:10Z", "2026-11-25T24:22:10Z",
		"2026-11-25T18:60:10Z", "2026-11-25T18:22:61Z", "2026-11-25T18:22:10.Z", "2026-11-25T18:22:10+0100",
		"2026-11-25T18:22:10Z ", "2300-01-01T00:00:00Z", "1600-01-01T00:00:00Z", "2026-11-25T18:22:1\0Z"};
	int64_t ns;

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		assert_int_equal(tr_rfc3339_parse(cases[i].text, strlen(cases[i].text), &ns), TR_OK);
		assert_true(ns == cases[i].ns);
	}
	for (size_t i = 0; i < TR_COUNT(bad); i++)
		assert_int_equal(tr_rfc3339_parse(bad[i], strlen(bad[i]), &ns), TR_EINVAL);
}

static void
mail_dates_are_written(void **state)
{
	char text[40];

	tr_rfc5322_date(INT64_C(1795630930) * TR_NS_PER_S, text);
	assert_string_equal(text, "Wed, 25 Nov 2026 18:22:10 +0000");
	tr_rfc5322_date(-1, text);
	assert_string_equal(text, "Wed, 31 Dec 1969 23:59:59 +0000");
}

static void
virtual_time_moves_only_when_told(void **state)
{
	tr_clock_virtual(1000);
	assert_true(tr_clock_is_virtual());
	assert_true(tr_wall_ns() == 1000 && tr_mono_ns() == TR_NS_PER_S);
	tr_clock_advance(5);
	assert_true(tr_wall_ns() == 1005 && tr_mono_ns() == TR_NS_PER_S + 5);
	tr_clock_step(-1000);
	assert_true(tr_wall_ns() == 5 && tr_mono_ns() == TR_NS_PER_S + 5);
	tr_clock_real();
	assert_true(tr_wall_ns() > INT64_C(1600000000) * TR_NS_PER_S);
	int64_t before = tr_mono_ns();
	assert_true(tr_mono_ns() >= before);
}

static void
near_names_are_found(void **state)
{
	static const char *const names[] = {"max_retry_interval", "retry_interval", "max_age", "egress_pool", NULL};

	assert_string_equal(tr_nearest("max_agee", names), "max_age");
	assert_string_equal(tr_nearest("mxa_age", names), "max_age");
	assert_string_equal(tr_nearest("retry_intervall", names), "retry_interval");
	assert_string_equal(tr_nearest("egres_pol", names), "egress_pool");
	assert_null(tr_nearest("colour", names));
	assert_null(tr_nearest("", names));
}

static void
results_have_names(void **state)
{
	assert_string_equal(tr_err_name(TR_ETIMEDOUT), "ETIMEDOUT");
	assert_string_equal(tr_err_name(TR_ETOOBIG), "ETOOBIG");
	assert_string_equal(tr_err_name(TR_EACCES), "EACCES");
	assert_string_equal(tr_err_name(-1000), "EUNKNOWN");
	assert_string_equal(tr_err_name(1), "EUNKNOWN");
	assert_string_equal(tr_err_text(TR_ETIMEDOUT), "timed out");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(durations_are_read),
		cmocka_unit_test(durations_are_written_and_read_back),
		cmocka_unit_test(moments_are_written_and_read),
		cmocka_unit_test(other_forms_of_moments_are_read),
		cmocka_unit_test(mail_dates_are_written),
		cmocka_unit_test(virtual_time_moves_only_when_told),
		cmocka_unit_test(near_names_are_found),
		cmocka_unit_test(results_have_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
