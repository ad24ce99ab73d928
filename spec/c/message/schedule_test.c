#include "message/schedule.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/clock.h"

static int64_t
ms(const char *text)
{
	int64_t wall_ns;

	assert_int_equal(tr_rfc3339_parse(text, strlen(text), &wall_ns), TR_OK);
	return wall_ns / TR_NS_PER_MS;
}

static void
windows(void **state)
{
	static const struct {
		const char *dow, *tz, *start, *end, *when, *want;
	} cases[] = {
		/* 2026-07-24 is a Friday */
		{"Mon,Tue,Wed,Thu,Fri", "UTC", "09:00:00", "17:00:00", "2026-07-24T08:00:00Z", "2026-07-24T09:00:00Z"},
		{"Mon,Tue,Wed,Thu,Fri", "UTC", "09:00:00", "17:00:00", "2026-07-24T16:59:59.999Z",
			"2026-07-24T16:59:59.999Z"},
		{"Mon,Tue,Wed,Thu,Fri", "UTC", "09:00:00", "17:00:00", "2026-07-24T17:00:00Z", "2026-07-27T09:00:00Z"},
		{"friday", "UTC", "09:00:00", "17:00:00", "2026-07-24T18:00:00Z", "2026-07-31T09:00:00Z"},
		{"FRI", "UTC", "10:00:00", "10:00:00", "2026-07-24T10:00:00.001Z", "2026-07-31T10:00:00Z"},
		/* the day counts in the zone, not in UTC */
		{"Sat", "Asia/Tokyo", "00:00:00", "01:00:00", "2026-07-24T14:00:00Z", "2026-07-24T15:00:00Z"},
		{"Fri", "America/New_York", "20:00:00", "23:59:59", "2026-07-25T01:00:00Z", "2026-07-25T01:00:00Z"},
		/* Berlin, clocks go forward on 2026-03-29 01:00Z and back on 2026-10-25 01:00Z */
		{"Sun,Sat", "Europe/Berlin", "09:00:00", "10:00:00", "2026-03-28T12:00:00Z", "2026-03-29T07:00:00Z"},
		{"Sun,Sat", "Europe/Berlin", "09:00:00", "10:00:00", "2026-10-24T12:00:00Z", "2026-10-25T08:00:00Z"},
		/* the start is skipped: the moment of the skip */
		{"Sun", "Europe/Berlin", "02:30:00", "04:00:00", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z"},
		/* all of the window is skipped: the next week */
		{"Sun", "Europe/Berlin", "02:10:00", "02:50:00", "2026-03-28T12:00:00Z", "2026-04-05T00:10:00Z"},
		/* the start comes twice: the first, but never before the moment asked for */
		{"Sun", "Europe/Berlin", "02:30:00", "04:00:00", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"},
		{"Sun", "Europe/Berlin", "02:30:00", "04:00:00", "2026-10-25T01:10:00Z", "2026-10-25T01:30:00Z"},
		/* far beyond the file's last transition */
		{"Mon", "Europe/Berlin", "09:00:00", "10:00:00", "2090-07-02T12:00:00Z", "2090-07-03T07:00:00Z"},
		{"Mon", "Australia/Sydney", "09:00:00", "10:00:00", "2090-01-01T12:00:00Z", "2090-01-01T22:00:00Z"},
		/* half-hour zone, half-hour change of the clocks */
		{"Mon", "Australia/Lord_Howe", "09:00:00", "10:00:00", "2026-07-26T12:00:00Z", "2026-07-26T22:30:00Z"},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_schedule schedule = {0};
		const char *error;
		char got[32];

		if (tr_schedule_set_window(&schedule, tr_str(cases[i].dow), tr_str(cases[i].tz), tr_str(cases[i].start),
			    tr_str(cases[i].end), &error) != TR_OK)
			fail_msg("case %zu: %s", i, error);
		tr_rfc3339(tr_schedule_adjust(&schedule, ms(cases[i].when)) * TR_NS_PER_MS, got);
		if (strcmp(got, cases[i].want) != 0)
			fail_msg("case %zu: %s in %s %s: got %s, expected %s", i, cases[i].when, cases[i].dow,
				cases[i].tz, got, cases[i].want);
		assert_true(tr_schedule_adjust(&schedule, ms(cases[i].want)) == ms(cases[i].want)); /* it stays there */
	}
}

static void
first_attempt_comes_before_the_window(void **state)
{
	struct tr_schedule schedule;
	const char *error;

	assert_int_equal(
		tr_schedule_parse(TR_STR("{\"first_attempt\":\"2026-07-25T00:00:00Z\",\"dow\":\"Mon\",\"tz\":\"UTC\","
					 "\"start\":\"09:00:00\",\"end\":\"10:00:00\"}"),
			&schedule, &error),
		TR_OK);
	assert_true(tr_schedule_adjust(&schedule, ms("2026-07-01T00:00:00Z")) == ms("2026-07-27T09:00:00Z"));
	schedule.dow_mask = 0;
	assert_true(tr_schedule_adjust(&schedule, ms("2026-07-01T00:00:00Z")) == ms("2026-07-25T00:00:00Z"));
	assert_true(tr_schedule_adjust(&schedule, ms("2026-08-01T00:00:00Z")) == ms("2026-08-01T00:00:00Z"));
}

static void
json_round_trip(void **state)
{
	static const char *const cases[] = {
		"{}",
		"{\"expires\":\"2026-11-25T18:22:10.5Z\"}",
		"{\"first_attempt\":\"2026-11-25T18:22:10Z\",\"expires\":\"2026-11-26T00:00:00Z\",\"dow\":\"Sun,Tue\","
		"\"tz\":\"Europe/Berlin\",\"start\":\"09:00:00\",\"end\":\"23:59:59\"}",
		"{\"dow\":\"Sat\",\"tz\":\"UTC\",\"start\":\"00:00:01\",\"end\":\"00:00:01\"}",
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_schedule schedule, again;
		struct tr_buf out = {0};
		const char *error;

		if (tr_schedule_parse(tr_str(cases[i]), &schedule, &error) != TR_OK)
			fail_msg("%s: %s", cases[i], error);
		tr_schedule_json(&schedule, &out);
		assert_int_equal(tr_schedule_parse((struct tr_str){out.data, out.len}, &again, &error), TR_OK);
		assert_memory_equal(&schedule, &again, sizeof schedule);
		if (i != 1) /* .5 is written as .500 */
			assert_true(tr_str_eq((struct tr_str){out.data, out.len}, tr_str(cases[i])));
		tr_buf_free(&out);
	}
}

static void
bad_schedules(void **state)
{
	static const struct {
		const char *json, *names;
	} cases[] = {
		{"[]", "object"},
		{"{\"first_attempt\":5}", "first_attempt"},
		{"{\"first_attempt\":\"soon\"}", "first_attempt"},
		{"{\"expires\":\"\"}", "expires"},
		{"{\"typo\":\"x\"}", "unknown key"},
		{"{\"dow\":\"Mon\",\"tz\":\"UTC\",\"start\":\"09:00:00\"}", "all of"},
		{"{\"dow\":\"\",\"tz\":\"UTC\",\"start\":\"09:00:00\",\"end\":\"10:00:00\"}", "dow"},
		{"{\"dow\":\"Mon, Tue\",\"tz\":\"UTC\",\"start\":\"09:00:00\",\"end\":\"10:00:00\"}", "dow"},
		{"{\"dow\":\"Mo\",\"tz\":\"UTC\",\"start\":\"09:00:00\",\"end\":\"10:00:00\"}", "dow"},
		{"{\"dow\":\"Mon\",\"tz\":\"UTC\",\"start\":\"9:00:00\",\"end\":\"10:00:00\"}", "start"},
		{"{\"dow\":\"Mon\",\"tz\":\"UTC\",\"start\":\"09:00:00\",\"end\":\"24:00:00\"}", "end"},
		{"{\"dow\":\"Mon\",\"tz\":\"UTC\",\"start\":\"11:00:00\",\"end\":\"10:00:00\"}", "end"},
		{"{\"dow\":\"Mon\",\"tz\":\"Mars/Olympus\",\"start\":\"09:00:00\",\"end\":\"10:00:00\"}", "tz"},
		{"{\"dow\":\"Mon\",\"tz\":\"../../../etc/passwd\",\"start\":\"09:00:00\",\"end\":\"10:00:00\"}", "tz"},
		{"{\"dow\":\"Mon\",\"tz\":\"Europe\",\"start\":\"09:00:00\",\"end\":\"10:00:00\"}", "tz"},
		{"{\"dow\":\"Mon\",\"tz\":\"tzdata\",\"start\":\"09:00:00\",\"end\":\"10:00:00\"}", "tz"},
		{"{\"dow\":\"Mon\",\"tz\":\"\",\"start\":\"09:00:00\",\"end\":\"10:00:00\"}", "tz"},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_schedule schedule;
		const char *error;

		assert_int_equal(tr_schedule_parse(tr_str(cases[i].json), &schedule, &error), TR_EINVAL);
		if (error == NULL || strstr(error, cases[i].names) == NULL)
			fail_msg("%s: %s", cases[i].json, error ? error : "no text");
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(windows),
		cmocka_unit_test(first_attempt_comes_before_the_window),
		cmocka_unit_test(json_round_trip),
		cmocka_unit_test(bad_schedules),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
