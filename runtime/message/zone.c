/* Time zones from TZif files (RFC 8536), versions 1 to 4, with the rule in the footer for the time after the
 * last transition. The C library's own reader works on one zone a process. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "message/schedule.h"

#define ZONE_DIR "/usr/share/zoneinfo/"
#define NAME_MAX_BYTES 39 /* struct tr_schedule keeps the name */

/* A day of the year on which a POSIX rule changes the offset. */
struct rule_day {
	char kind; /* 'M': month, week, weekday; 'J': 1..365 without 29 February; 'N': 0..365 */
	int month, week, day;
	int32_t time_s; /* local, may be negative or above a day */
};

struct tr_zone {
	struct tr_zone *next;
	uint32_t count;
	int64_t *at;            /* transitions, ascending */
	int32_t *offset;        /* offset[i] is valid from at[i] */
	int32_t first;          /* before at[0] */
	bool has_rule, has_dst; /* the footer */
	int32_t std, dst;
	struct rule_day from, to; /* daylight saving time */
	char name[NAME_MAX_BYTES + 1];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct tr_zone *zones; /* guarded by lock; entries are never changed or freed */

static int64_t
big(const unsigned char *at, int bytes)
{
	uint64_t value = bytes == 8 || at[0] < 0x80 ? 0 : UINT64_MAX; /* sign */

	for (int i = 0; i < bytes; i++)
		value = value << 8 | at[i];
	return (int64_t)value;
}

/* --- POSIX TZ rule ------------------------------------------------------------------------------ */

static bool
rule_name(const char **text)
{
	const char *at = *text;

	if (*at == '<') {
		while (*at != '\0' && *at != '>')
			at++;
		if (*at++ != '>')
			return false;
	} else {
		while ((*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z'))
			at++;
	}
	if (at == *text)
		return false;
	*text = at;
	return true;
}

static bool
rule_int(const char **text, int max, int *out)
{
	int value = 0;
	const char *at = *text;

	if (*at < '0' || *at > '9')
		return false;
	for (; *at >= '0' && *at <= '9'; at++) {
		value = value * 10 + (*at - '0');
		if (value > max)
			return false;
	}
	*out = value;
	*text = at;
	return true;
}

/* [+-]h[h[h]][:mm[:ss]] */
static bool
rule_time(const char **text, int32_t *out)
{
	int sign = 1, h, m = 0, s = 0;

	if (**text == '+' || **text == '-')
		sign = *(*text)++ == '-' ? -1 : 1;
	if (!rule_int(text, 167, &h))
		return false;
	if (**text == ':') {
		(*text)++;
		if (!rule_int(text, 59, &m))
			return false;
		if (**text == ':') {
			(*text)++;
			if (!rule_int(text, 59, &s))
				return false;
		}
	}
	*out = sign * (h * 3600 + m * 60 + s);
	return true;
}

static bool
rule_date(const char **text, struct rule_day *out)
{
	*out = (struct rule_day){.kind = 'N', .time_s = 2 * 3600};
	if (*(*text)++ != ',')
		return false;
	if (**text == 'M') {
		(*text)++;
		out->kind = 'M';
		if (!rule_int(text, 12, &out->month) || out->month < 1 || *(*text)++ != '.' ||
			!rule_int(text, 5, &out->week) || out->week < 1 || *(*text)++ != '.' ||
			!rule_int(text, 6, &out->day))
			return false;
	} else {
		if (**text == 'J') {
			(*text)++;
			out->kind = 'J';
		}
		if (!rule_int(text, 365, &out->day) || (out->kind == 'J' && out->day < 1))
			return false;
	}
	if (**text != '/')
		return true;
	(*text)++;
	return rule_time(text, &out->time_s);
}

static bool
parse_rule(struct tr_zone *zone, const char *text)
{
	if (*text == '\0')
		return true; /* no rule: the last offset stays */
	if (!rule_name(&text) || !rule_time(&text, &zone->std))
		return false;
	zone->std = -zone->std; /* POSIX counts west of UTC */
	zone->has_rule = true;
	if (*text == '\0')
		return true;
	if (!rule_name(&text))
		return false;
	zone->dst = zone->std + 3600;
	if (*text != ',') {
		if (!rule_time(&text, &zone->dst))
			return false;
		zone->dst = -zone->dst;
	}
	zone->has_dst = true;
	return rule_date(&text, &zone->from) && rule_date(&text, &zone->to) && *text == '\0';
}

/* Days since 1970 of a civil date (proleptic Gregorian). */
static int64_t
civil_days(int64_t year, int month, int day)
{
	year -= month <= 2;
	int64_t era = (year >= 0 ? year : year - 399) / 400;
	int64_t yoe = year - era * 400;
	int64_t doy = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;

	return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static int64_t
year_of(int64_t days)
{
	int64_t year = 1970 + days / 366; /* at most a few short or long; corrected below */

	while (civil_days(year + 1, 1, 1) <= days)
		year++;
	while (civil_days(year, 1, 1) > days)
		year--;
	return year;
}

/* The moment in local seconds since 1970 at which the rule's day of that year switches. */
static int64_t
switch_local_s(const struct rule_day *rule, int64_t year)
{
	int64_t day;

	if (rule->kind == 'M') {
		int64_t first = civil_days(year, rule->month, 1);
		int64_t next = rule->month == 12 ? civil_days(year + 1, 1, 1) : civil_days(year, rule->month + 1, 1);
		int dow = (int)(((first + 4) % 7 + 7) % 7); /* 1970-01-01 was a Thursday */

		day = first + (rule->day - dow + 7) % 7 + (rule->week - 1) * 7;
		while (day >= next)
			day -= 7;
	} else {
		bool leap = civil_days(year, 3, 1) - civil_days(year, 2, 1) == 29;

		day = civil_days(year, 1, 1) + rule->day;
		if (rule->kind == 'J')
			day += (leap && rule->day >= 60 ? 1 : 0) - 1;
	}
	return day * 86400 + rule->time_s;
}

static int32_t
rule_offset(const struct tr_zone *zone, int64_t utc_s)
{
	int64_t local, days, from, to;

	if (!zone->has_dst)
		return zone->std;
	local = utc_s + zone->std;
	days = local / 86400 - (local % 86400 < 0);
	int64_t year = year_of(days);
	from = switch_local_s(&zone->from, year) - zone->std;
	to = switch_local_s(&zone->to, year) - zone->dst;
	bool dst = from < to ? utc_s >= from && utc_s < to : utc_s >= from || utc_s < to;
	return dst ? zone->dst : zone->std;
}

int32_t
tr_zone_offset(const struct tr_zone *zone, int64_t utc_s)
{
	uint32_t low = 0, high = zone->count;

	if (zone->count == 0 || utc_s >= zone->at[zone->count - 1]) {
		if (zone->has_rule)
			return rule_offset(zone, utc_s);
		return zone->count > 0 ? zone->offset[zone->count - 1] : zone->first;
	}
	if (utc_s < zone->at[0])
		return zone->first;
	while (high - low > 1) { /* at[low] <= utc_s < at[high] */
		uint32_t middle = low + (high - low) / 2;

		if (zone->at[middle] <= utc_s)
			low = middle;
		else
			high = middle;
	}
	return zone->offset[low];
}

/* --- TZif ---------------------------------------------------------------------------------------- */

struct counts {
	uint32_t isut, isstd, leap, time, type, chars;
	size_t bytes; /* of the data block */
};

static bool
read_header(const unsigned char *data, size_t len, int wide, struct counts *out)
{
	if (len < 44 || memcmp(data, "TZif", 4) != 0)
		return false;
	out->isut = (uint32_t)big(data + 20, 4);
	out->isstd = (uint32_t)big(data + 24, 4);
	out->leap = (uint32_t)big(data + 28, 4);
	out->time = (uint32_t)big(data + 32, 4);
	out->type = (uint32_t)big(data + 36, 4);
	out->chars = (uint32_t)big(data + 40, 4);
	if (out->isut > 65536 || out->isstd > 65536 || out->leap > 65536 || out->time > 65536 || out->type > 256 ||
		out->chars > 65536)
		return false;
	out->bytes = (size_t)out->time * (size_t)(wide + 1) + (size_t)out->type * 6 + out->chars +
		     (size_t)out->leap * (size_t)(wide + 4) + out->isstd + out->isut;
	return len - 44 >= out->bytes;
}

static int
parse_file(struct tr_zone *zone, const unsigned char *data, size_t len)
{
	struct counts counts;
	const unsigned char *types, *indices;
	int wide = 4;

	if (!read_header(data, len, 4, &counts))
		return TR_EINVAL;
	if (data[4] >= '2') { /* the second block has 64-bit times, and the footer */
		data += 44 + counts.bytes;
		len -= 44 + counts.bytes;
		wide = 8;
		if (!read_header(data, len, 8, &counts))
			return TR_EINVAL;
	}
	data += 44;
	len -= 44;
	if (counts.type == 0)
		return TR_EINVAL;
	indices = data + (size_t)counts.time * (size_t)wide;
	types = indices + counts.time;
	zone->first = (int32_t)big(types, 4);
	if (counts.time > 0) {
		zone->at = malloc(counts.time * sizeof *zone->at);
		zone->offset = malloc(counts.time * sizeof *zone->offset);
		if (zone->at == NULL || zone->offset == NULL)
			return TR_ENOMEM;
	}
	for (uint32_t i = 0; i < counts.time; i++) {
		zone->at[i] = big(data + (size_t)i * (size_t)wide, wide);
		if (indices[i] >= counts.type || (i > 0 && zone->at[i] <= zone->at[i - 1]))
			return TR_EINVAL;
		zone->offset[i] = (int32_t)big(types + indices[i] * 6, 4);
	}
	zone->count = counts.time;
	if (wide == 8) {
		const char *footer = (const char *)data + counts.bytes;
		size_t left = len - counts.bytes;
		char rule[128];
		const char *end = left > 1 && footer[0] == '\n' ? memchr(footer + 1, '\n', left - 1) : NULL;

		if (end == NULL || (size_t)(end - footer) > sizeof rule)
			return TR_EINVAL;
		memcpy(rule, footer + 1, (size_t)(end - footer) - 1);
		rule[end - footer - 1] = '\0';
		if (!parse_rule(zone, rule))
			return TR_EINVAL;
	}
	return TR_OK;
}

static bool
name_ok(struct tr_str name)
{
	if (name.len == 0 || name.len > NAME_MAX_BYTES || name.data[0] == '/')
		return false;
	for (size_t i = 0; i < name.len; i++) {
		char c = name.data[i];
		bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
			     c == '-' || c == '+' || c == '/';

		if (!plain) /* no dot either: no way out of the directory */
			return false;
	}
	return true;
}

static int
load(struct tr_str name, struct tr_zone **out)
{
	char path[sizeof ZONE_DIR + NAME_MAX_BYTES], *data = NULL;
	struct tr_zone *zone;
	size_t len = 0;
	int err;

	snprintf(path, sizeof path, ZONE_DIR "%.*s", (int)name.len, name.data);
	zone = calloc(1, sizeof *zone);
	if (zone == NULL)
		return TR_ENOMEM;
	memcpy(zone->name, name.data, name.len);
	err = tr_file_slurp(path, &data, &len);
	if (err == 0)
		err = parse_file(zone, (const unsigned char *)data, len);
	else if ((err == -ENOENT || err == -ENOTDIR) && tr_str_eq(name, TR_STR("UTC")))
		err = TR_OK; /* needs no file: all offsets are 0 */
	else
		err = err == -ENOENT || err == -ENOTDIR ? TR_ENOENT
		      : err == -EISDIR                  ? TR_EINVAL
							: tr_err_from_errno(-err);
	free(data);
	if (err != TR_OK) {
		free(zone->at);
		free(zone->offset);
		free(zone);
		return err;
	}
	*out = zone;
	return TR_OK;
}

int
tr_zone_get(struct tr_str name, const struct tr_zone **out)
{
	struct tr_zone *zone;
	int err = TR_OK;

	*out = NULL;
	if (!name_ok(name))
		return TR_EINVAL;
	pthread_mutex_lock(&lock);
	for (zone = zones; zone != NULL; zone = zone->next)
		if (tr_str_eq(tr_str(zone->name), name))
			break;
	if (zone == NULL) { /* reads the file with the lock held: a few kB, once a name */
		err = load(name, &zone);
		if (err == TR_OK) {
			zone->next = zones;
			zones = zone;
		}
	}
	pthread_mutex_unlock(&lock);
	*out = zone;
	return err;
}
