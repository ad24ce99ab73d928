/* Calendar texts: RFC 3339 and RFC 5322 dates. Proleptic Gregorian, UTC. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"

#define DAY_S INT64_C(86400)

struct civil {
	int64_t year;
	int month, day; /* from 1 */
	int hour, minute, second;
	int weekday; /* 0: Sunday */
	int32_t ns;  /* 0 .. 999999999 */
};

static int64_t
floor_div(int64_t a, int64_t b)
{
	return a / b - (a % b < 0);
}

/* Days since 1970-01-01. Years start in March, so that the leap day is the last. */
static int64_t
days_from_civil(int64_t year, int month, int day)
{
	year -= month <= 2;
	int64_t era = floor_div(year, 400);
	int64_t year_of_era = year - era * 400;
	int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;

	return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719468;
}

static void
civil_from_ns(int64_t wall_ns, struct civil *out)
{
	int64_t seconds = floor_div(wall_ns, TR_NS_PER_S);
	int64_t days = floor_div(seconds, DAY_S);
	int in_day = (int)(seconds - days * DAY_S);

	out->ns = (int32_t)(wall_ns % TR_NS_PER_S + (wall_ns % TR_NS_PER_S < 0 ? TR_NS_PER_S : 0));
	out->hour = in_day / 3600;
	out->minute = in_day / 60 % 60;
	out->second = in_day % 60;
	out->weekday = (int)(((days + 4) % 7 + 7) % 7); /* 1970-01-01 was a Thursday */

	int64_t shifted = days + 719468;
	int64_t era = floor_div(shifted, 146097);
	int64_t day_of_era = shifted - era * 146097;
	int64_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
	int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
	int64_t month = (5 * day_of_year + 2) / 153;

	out->day = (int)(day_of_year - (153 * month + 2) / 5 + 1);
	out->month = (int)(month < 10 ? month + 3 : month - 9);
	out->year = year_of_era + era * 400 + (out->month <= 2);
}

static char *
put_digits(char *at, int64_t value, int digits)
{
	for (int i = digits; i-- > 0; value /= 10)
		at[i] = (char)('0' + value % 10);
	return at + digits;
}

size_t
tr_rfc3339(int64_t wall_ns, char out[32])
{
	struct civil civil;
	char *at = out;

	civil_from_ns(wall_ns, &civil); /* int64_t nanoseconds span the years 1677 to 2262 */
	at = put_digits(at, civil.year, 4);
	*at++ = '-';
	at = put_digits(at, civil.month, 2);
	*at++ = '-';
	at = put_digits(at, civil.day, 2);
	*at++ = 'T';
	at = put_digits(at, civil.hour, 2);
	*at++ = ':';
	at = put_digits(at, civil.minute, 2);
	*at++ = ':';
	at = put_digits(at, civil.second, 2);
	if (civil.ns != 0) {
		*at++ = '.';
		if (civil.ns % 1000000 == 0)
			at = put_digits(at, civil.ns / 1000000, 3);
		else if (civil.ns % 1000 == 0)
			at = put_digits(at, civil.ns / 1000, 6);
		else
			at = put_digits(at, civil.ns, 9);
	}
	*at++ = 'Z';
	*at = '\0';
	return (size_t)(at - out);
}

/* Reads exactly `digits` digits; false if they are not there. */
static bool
get_digits(const char **at, const char *end, int digits, int *value)
{
	int v = 0;

	if (end - *at < digits)
		return false;
	for (int i = 0; i < digits; i++) {
		char c = *(*at)++;

		if (c < '0' || c > '9')
			return false;
		v = v * 10 + (c - '0');
	}
	*value = v;
	return true;
}

static bool
get_char(const char **at, const char *end, const char *set)
{
	if (*at == end || **at == '\0' || strchr(set, **at) == NULL)
		return false;
	(*at)++;
	return true;
}

static int
days_in_month(int year, int month)
{
	static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;

	return days[month - 1] + (month == 2 && leap);
}

int
tr_rfc3339_parse(const char *text, size_t len, int64_t *wall_ns)
{
	const char *at = text, *end = text + len;
	int year, month, day, hour, minute, second;
	int64_t fraction_ns = 0, offset_s = 0;

	if (!get_digits(&at, end, 4, &year) || !get_char(&at, end, "-") || !get_digits(&at, end, 2, &month) ||
		!get_char(&at, end, "-") || !get_digits(&at, end, 2, &day) || !get_char(&at, end, "Tt ") ||
		!get_digits(&at, end, 2, &hour) || !get_char(&at, end, ":") || !get_digits(&at, end, 2, &minute) ||
		!get_char(&at, end, ":") || !get_digits(&at, end, 2, &second))
		return TR_EINVAL;
	/* second 60 is a leap second: the same moment as the next second 0 */
	if (month < 1 || month > 12 || day < 1 || day > days_in_month(year, month) || hour > 23 || minute > 59 ||
		second > 60)
		return TR_EINVAL;
	if (get_char(&at, end, ".")) {
		const char *first = at;
		int64_t scale = TR_NS_PER_S / 10;

		for (; at < end && *at >= '0' && *at <= '9'; at++, scale /= 10)
			fraction_ns += (*at - '0') * scale; /* what is finer than 1 ns is cut */
		if (at == first)
			return TR_EINVAL;
	}
	if (!get_char(&at, end, "Zz")) {
		int hours, minutes;
		bool west = at < end && *at == '-';

		if (!get_char(&at, end, "+-") || !get_digits(&at, end, 2, &hours) || !get_char(&at, end, ":") ||
			!get_digits(&at, end, 2, &minutes) || hours > 23 || minutes > 59)
			return TR_EINVAL;
		offset_s = (hours * 60 + minutes) * INT64_C(60);
		if (west)
			offset_s = -offset_s;
	}
	if (at != end)
		return TR_EINVAL;

	int64_t seconds = days_from_civil(year, month, day) * DAY_S + hour * 3600 + minute * 60 + second - offset_s;
	int64_t ns;
	if (seconds < 0 && fraction_ns > 0) { /* so that the product alone does not overflow at the low end */
		seconds++;
		fraction_ns -= TR_NS_PER_S;
	}
	if (__builtin_mul_overflow(seconds, TR_NS_PER_S, &ns) || __builtin_add_overflow(ns, fraction_ns, &ns))
		return TR_EINVAL;
	*wall_ns = ns;
	return TR_OK;
}

size_t
tr_rfc5322_date(int64_t wall_ns, char out[40])
{
	static const char days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
	static const char months[12][4] = {
		"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
	struct civil civil;

	civil_from_ns(wall_ns, &civil);
	return (size_t)snprintf(out, 40, "%s, %02d %s %04d %02d:%02d:%02d +0000", days[civil.weekday], civil.day,
		months[civil.month - 1], (int)civil.year, civil.hour, civil.minute, civil.second);
}
