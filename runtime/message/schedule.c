#include "message/schedule.h"

#include "base/clock.h"
#include "base/diag.h"
#include "base/json.h"

#define DAY_S 86400

static const char *const day_names[7] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};

/* --- text ------------------------------------------------------------------------------------------ */

/* HH:MM:SS; false when it is none. */
static bool
parse_clock(struct tr_str text, uint32_t *out)
{
	int part[3];

	if (text.len != 8 || text.data[2] != ':' || text.data[5] != ':')
		return false;
	for (int i = 0; i < 3; i++) {
		char a = text.data[3 * i], b = text.data[3 * i + 1];

		if (a < '0' || a > '9' || b < '0' || b > '9')
			return false;
		part[i] = (a - '0') * 10 + (b - '0');
	}
	if (part[0] > 23 || part[1] > 59 || part[2] > 59)
		return false;
	*out = (uint32_t)(part[0] * 3600 + part[1] * 60 + part[2]);
	return true;
}

static bool
parse_days(struct tr_str text, uint8_t *mask)
{
	size_t at = 0;

	*mask = 0;
	while (at <= text.len) {
		const char *comma = at < text.len ? memchr(text.data + at, ',', text.len - at) : NULL;
		size_t end = comma != NULL ? (size_t)(comma - text.data) : text.len;
		struct tr_str day = {text.data + at, end - at};
		int found = -1;

		for (int i = 0; i < 7; i++)
			if (tr_str_ieq(day, tr_str(day_names[i])) || tr_str_ieq(day, (struct tr_str){day_names[i], 3}))
				found = i;
		if (found < 0)
			return false;
		*mask |= (uint8_t)(1u << found);
		at = end + 1;
	}
	return true;
}

int
tr_schedule_set_window(struct tr_schedule *schedule, struct tr_str dow, struct tr_str tz, struct tr_str start,
	struct tr_str end, const char **error)
{
	const struct tr_zone *zone;
	uint32_t start_s, end_s;
	uint8_t mask;
	int err;

	*error = NULL;
	if (!parse_days(dow, &mask))
		*error = "dow: a comma list without blanks of day names expected (Mon,Tue or monday,tuesday)";
	else if (!parse_clock(start, &start_s))
		*error = "start: HH:MM:SS expected";
	else if (!parse_clock(end, &end_s))
		*error = "end: HH:MM:SS expected";
	else if (start_s > end_s)
		*error = "end: must not be before start (a window cannot go over midnight)";
	if (*error != NULL)
		return TR_EINVAL;
	err = tr_zone_get(tz, &zone);
	if (err == TR_ENOMEM)
		*error = "out of memory";
	else if (err == TR_ENOENT)
		*error = "tz: no such time zone on this machine (an IANA name such as Europe/Berlin; is tzdata "
			 "installed?)";
	else if (err != TR_OK)
		*error = "tz: not the name of a readable time zone (an IANA name such as Europe/Berlin expected)";
	if (err != TR_OK)
		return err == TR_ENOMEM ? err : TR_EINVAL;
	schedule->dow_mask = mask;
	schedule->start_s = start_s;
	schedule->end_s = end_s;
	memset(schedule->tz, 0, sizeof schedule->tz);
	memcpy(schedule->tz, tz.data, tz.len); /* tr_zone_get() refuses names that do not fit */
	return TR_OK;
}

static int
moment_ms(struct tr_str text, int64_t *out)
{
	int64_t wall_ns;

	if (tr_rfc3339_parse(text.data, text.len, &wall_ns) != TR_OK)
		return TR_EINVAL;
	*out = wall_ns / TR_NS_PER_MS;
	return *out > 0 ? TR_OK : TR_EINVAL; /* 0 means none */
}

enum key { FIRST_ATTEMPT, EXPIRES, DOW, TZ, START, END, KEYS };
static const struct {
	struct tr_str name;
	const char *not_string;
} keys[KEYS] = {
	[FIRST_ATTEMPT] = {{"first_attempt", 13}, "first_attempt: a string expected"},
	[EXPIRES] = {{"expires", 7}, "expires: a string expected"},
	[DOW] = {{"dow", 3}, "dow: a string expected"},
	[TZ] = {{"tz", 2}, "tz: a string expected"},
	[START] = {{"start", 5}, "start: a string expected"},
	[END] = {{"end", 3}, "end: a string expected"},
};

/* Applies the unescaped values; .data NULL where there is none. */
static int
apply(const struct tr_str value[KEYS], struct tr_schedule *out, const char **error)
{
	int window = 0;

	for (int k = DOW; k <= END; k++)
		window += value[k].data != NULL;
	if (value[FIRST_ATTEMPT].data != NULL && moment_ms(value[FIRST_ATTEMPT], &out->first_attempt_ms) != TR_OK)
		*error = "first_attempt: an RFC 3339 time expected (2026-11-25T18:22:10Z)";
	else if (value[EXPIRES].data != NULL && moment_ms(value[EXPIRES], &out->expires_ms) != TR_OK)
		*error = "expires: an RFC 3339 time expected (2026-11-25T18:22:10Z)";
	else if (window != 0 && window != 4)
		*error = "a delivery window needs all of dow, tz, start and end";
	if (*error != NULL)
		return TR_EINVAL;
	if (window == 0)
		return TR_OK;
	return tr_schedule_set_window(out, value[DOW], value[TZ], value[START], value[END], error);
}

int
tr_schedule_parse(struct tr_str json, struct tr_schedule *out, const char **error)
{
	struct tr_buf text[KEYS] = {{0}};
	struct tr_str value[KEYS] = {{NULL, 0}}, key, raw;
	size_t at = 0, bad;
	int err = TR_OK;

	*out = (struct tr_schedule){0};
	*error = NULL;
	if (tr_json_check(json, &bad) != TR_OK)
		*error = "not valid JSON";
	else if (tr_json_type(json) != TR_JSON_OBJECT)
		*error = "an object with first_attempt, expires, dow, tz, start, end expected";
	while (*error == NULL && tr_json_next(json, &at, &key, &raw)) {
		int k = 0;

		while (k < KEYS && !tr_str_eq(key, keys[k].name))
			k++;
		if (k == KEYS)
			*error = "unknown key; known are first_attempt, expires, dow, tz, start, end";
		else if (tr_json_type(raw) == TR_JSON_NULL)
			value[k].data = NULL;
		else if (tr_json_type(raw) != TR_JSON_STRING)
			*error = keys[k].not_string;
		else {
			tr_buf_clear(&text[k]);
			tr_buf_reserve(&text[k], 1); /* an empty text is not an absent one */
			if (tr_json_unescape(raw, &text[k]) != TR_OK)
				*error = keys[k].not_string;
			if (text[k].failed)
				err = TR_ENOMEM;
			value[k] = (struct tr_str){text[k].data, text[k].len};
		}
		if (err == TR_ENOMEM)
			*error = "out of memory";
	}
	if (*error != NULL)
		err = err == TR_ENOMEM ? err : TR_EINVAL;
	else
		err = apply(value, out, error);
	for (int k = 0; k < KEYS; k++)
		tr_buf_free(&text[k]);
	return err;
}

static void
add_moment(struct tr_buf *out, const char *key, int64_t ms)
{
	char text[32];

	if (ms == 0)
		return;
	if (out->len > 0 && out->data[out->len - 1] != '{')
		tr_buf_addc(out, ',');
	tr_json_add_key(out, key);
	tr_json_add_string(out, (struct tr_str){text, tr_rfc3339(ms * TR_NS_PER_MS, text)});
}

static void
add_clock(struct tr_buf *out, const char *key, uint32_t s)
{
	tr_buf_addc(out, ',');
	tr_json_add_key(out, key);
	tr_buf_addf(out, "\"%02u:%02u:%02u\"", s / 3600, s / 60 % 60, s % 60);
}

void
tr_schedule_json(const struct tr_schedule *schedule, struct tr_buf *out)
{
	const char *gap = "\"";

	tr_buf_addc(out, '{');
	add_moment(out, "first_attempt", schedule->first_attempt_ms);
	add_moment(out, "expires", schedule->expires_ms);
	if (schedule->dow_mask != 0) {
		if (out->len > 0 && out->data[out->len - 1] != '{')
			tr_buf_addc(out, ',');
		tr_json_add_key(out, "dow");
		for (int i = 0; i < 7; i++) {
			if ((schedule->dow_mask & 1 << i) == 0)
				continue;
			tr_buf_addf(out, "%s%.3s", gap, day_names[i]);
			gap = ",";
		}
		tr_buf_addz(out, "\",");
		tr_json_add_key(out, "tz");
		tr_json_add_string(out, tr_str(schedule->tz));
		add_clock(out, "start", schedule->start_s);
		add_clock(out, "end", schedule->end_s);
	}
	tr_buf_addc(out, '}');
}

/* --- windows ------------------------------------------------------------------------------------------ */

static int64_t
floor_div(int64_t a, int64_t b)
{
	return a / b - (a % b < 0);
}

/* The first moment >= from at which the zone's clocks show `local` or, when they skip it, the moment of the skip. */
static int64_t
local_to_utc(const struct tr_zone *zone, int64_t local, int64_t from)
{
	int32_t before = tr_zone_offset(zone, local - 86400), after = tr_zone_offset(zone, local + 86400);
	int64_t first = local - tr_max_i64(before, after), second = local - tr_min_i64(before, after);
	bool first_shows = first + tr_zone_offset(zone, first) == local;
	bool second_shows = second + tr_zone_offset(zone, second) == local;

	if (first_shows && first >= from)
		return first;
	if (second_shows)
		return tr_max_i64(second, from);
	if (first_shows)
		return from;
	while (second - first > 1) { /* in a gap: the offset changes in (first, second] */
		int64_t middle = first + (second - first) / 2;

		if (tr_zone_offset(zone, middle) == before)
			first = middle;
		else
			second = middle;
	}
	return tr_max_i64(second, from);
}

int64_t
tr_schedule_adjust(const struct tr_schedule *schedule, int64_t when_ms)
{
	const struct tr_zone *zone;
	int64_t when_s, local, day;

	if (when_ms < schedule->first_attempt_ms)
		when_ms = schedule->first_attempt_ms;
	if (schedule->dow_mask == 0)
		return when_ms;
	if (tr_zone_get(tr_str(schedule->tz), &zone) != TR_OK) {
		/* it was there when the schedule was made: better at an odd hour than never */
		tr_log(TR_LEVEL_WARN, "schedule", "time zone %s cannot be read, its delivery windows are taken as UTC",
			schedule->tz);
		if (tr_zone_get(TR_STR("UTC"), &zone) != TR_OK)
			return when_ms;
	}
	when_s = floor_div(when_ms, 1000);
	local = when_s + tr_zone_offset(zone, when_s);
	day = floor_div(local, DAY_S);
	for (int i = 0; i <= 14;
		i++, day++) { /* a day of the window may fall into a gap of the clocks, hence 2 weeks */
		int64_t start = day * DAY_S + schedule->start_s, end = day * DAY_S + schedule->end_s, moment;

		if ((schedule->dow_mask & 1 << ((day + 4) % 7 + 7) % 7) == 0)
			continue;
		if (i == 0 && local >= start) {
			if (local < end || (local == start && when_ms % 1000 == 0))
				return when_ms;
			continue;
		}
		moment = local_to_utc(zone, start, when_s);
		int64_t shown = moment + tr_zone_offset(zone, moment);
		if (shown < end || shown == start)
			return tr_max_i64(moment * 1000, when_ms);
	}
	return when_ms;
}
