/* Durations as people write them. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"

#define DAY_NS (86400 * TR_NS_PER_S)

static const struct unit {
	const char *name;
	int64_t ns;
} units[] = {
	{"ns", 1},
	{"nsec", 1},
	{"us", 1000},
	{"usec", 1000},
	{"ms", TR_NS_PER_MS},
	{"msec", TR_NS_PER_MS},
	{"s", TR_NS_PER_S},
	{"sec", TR_NS_PER_S},
	{"second", TR_NS_PER_S},
	{"seconds", TR_NS_PER_S},
	{"m", 60 * TR_NS_PER_S},
	{"min", 60 * TR_NS_PER_S},
	{"minute", 60 * TR_NS_PER_S},
	{"minutes", 60 * TR_NS_PER_S},
	{"h", 3600 * TR_NS_PER_S},
	{"hr", 3600 * TR_NS_PER_S},
	{"hour", 3600 * TR_NS_PER_S},
	{"hours", 3600 * TR_NS_PER_S},
	{"d", DAY_NS},
	{"day", DAY_NS},
	{"days", DAY_NS},
	{"w", 7 * DAY_NS},
	{"week", 7 * DAY_NS},
	{"weeks", 7 * DAY_NS},
	{"M", 2630016 * TR_NS_PER_S}, /* 30.44 days */
	{"month", 2630016 * TR_NS_PER_S},
	{"months", 2630016 * TR_NS_PER_S},
	{"y", 31557600 * TR_NS_PER_S}, /* 365.25 days */
	{"year", 31557600 * TR_NS_PER_S},
	{"years", 31557600 * TR_NS_PER_S},
};

static bool
is_blank(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool
is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static int64_t
unit_ns(const char *name, size_t len)
{
	for (size_t i = 0; i < TR_COUNT(units); i++) {
		if (strlen(units[i].name) == len && memcmp(units[i].name, name, len) == 0)
			return units[i].ns;
	}
	return 0;
}

int
tr_duration_parse(const char *text, size_t len, int64_t *ns)
{
	int64_t total = 0;
	size_t at = 0, parts = 0;

	for (;; parts++) {
		int64_t number = 0, part;

		while (at < len && is_blank(text[at]))
			at++;
		if (at == len)
			break;
		if (!is_digit(text[at]))
			return TR_EINVAL;
		for (; at < len && is_digit(text[at]); at++) {
			if (__builtin_mul_overflow(number, INT64_C(10), &number) ||
				__builtin_add_overflow(number, (int64_t)(text[at] - '0'), &number))
				return TR_EINVAL;
		}
		while (at < len && is_blank(text[at]))
			at++;
		size_t start = at;
		while (at < len && is_letter(text[at]))
			at++;
		int64_t each = unit_ns(text + start, at - start);
		if (each == 0 || __builtin_mul_overflow(number, each, &part) ||
			__builtin_add_overflow(total, part, &total))
			return TR_EINVAL;
	}
	if (parts == 0)
		return TR_EINVAL;
	*ns = total;
	return TR_OK;
}

size_t
tr_duration_format(int64_t ns, char out[64])
{
	static const struct {
		uint64_t ns;
		const char *name;
		bool word; /* takes an s in the plural */
	} parts[] = {
		{31557600 * UINT64_C(1000000000), "year", true},
		{2630016 * UINT64_C(1000000000), "month", true},
		{86400 * UINT64_C(1000000000), "day", true},
		{3600 * UINT64_C(1000000000), "h", false},
		{60 * UINT64_C(1000000000), "m", false},
		{UINT64_C(1000000000), "s", false},
		{1000000, "ms", false},
		{1000, "us", false},
		{1, "ns", false},
	};
	uint64_t left = ns < 0 ? -(uint64_t)ns : (uint64_t)ns;
	size_t len = 0;

	if (left == 0)
		return (size_t)snprintf(out, 64, "0s");
	if (ns < 0)
		out[len++] = '-';
	for (size_t i = 0; i < TR_COUNT(parts); i++) {
		uint64_t n = left / parts[i].ns;

		if (n == 0)
			continue;
		left -= n * parts[i].ns;
		len += (size_t)snprintf(out + len, 64 - len, "%s%" PRIu64 "%s%s", len > (ns < 0) ? " " : "", n,
			parts[i].name, parts[i].word && n > 1 ? "s" : "");
	}
	return len; /* the longest, 292 years and all parts, takes 55 */
}
