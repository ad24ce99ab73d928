#include "shaping/spec.h"

#include <stdio.h>
#include <string.h>

/* Digits with `_` and `,` between them; stops at the first other byte. False: no digit, or too large. */
static bool
take_number(struct tr_str *text, uint64_t *out)
{
	uint64_t value = 0;
	size_t at = 0, digits = 0;

	for (; at < text->len; at++) {
		char c = text->data[at];
		/* ",max_burst" ends the number: a comma belongs to it only before a digit */
		if (c == '_' ||
			(c == ',' && at + 1 < text->len && text->data[at + 1] >= '0' && text->data[at + 1] <= '9'))
			continue;
		if (c < '0' || c > '9')
			break;
		if (value > (UINT64_MAX - 9) / 10)
			return false;
		value = value * 10 + (uint64_t)(c - '0');
		digits++;
	}
	text->data += at;
	text->len -= at;
	*out = value;
	return digits > 0;
}

int
tr_limit_spec_parse(struct tr_str text, struct tr_limit_spec *out)
{
	out->local = tr_str_take(&text, "local:");
	if (!take_number(&text, &out->limit) || text.len != 0 || out->limit == 0)
		return TR_EINVAL;
	return TR_OK;
}

static int64_t
unit_seconds(struct tr_str unit)
{
	static const struct {
		const char *name;
		int64_t seconds;
	} units[] = {
		{"s", 1},
		{"sec", 1},
		{"second", 1},
		{"m", 60},
		{"min", 60},
		{"minute", 60},
		{"h", 3600},
		{"hr", 3600},
		{"hour", 3600},
		{"d", 86400},
		{"day", 86400},
	};

	for (size_t i = 0; i < TR_COUNT(units); i++) {
		if (tr_str_eq(unit, tr_str(units[i].name)))
			return units[i].seconds;
	}
	return 0;
}

int
tr_rate_spec_parse(struct tr_str text, struct tr_rate_spec *out, const char **why)
{
	uint64_t factor = 1;
	struct tr_str unit;
	int64_t seconds;

	memset(out, 0, sizeof *out);
	out->local = tr_str_take(&text, "local:");
	if (!take_number(&text, &out->quantity) || out->quantity == 0) {
		*why = "a quantity of at least 1 is expected before the '/'";
		return TR_EINVAL;
	}
	if (!tr_str_take(&text, "/")) {
		*why = "'/' and a period are expected after the quantity, as in \"100/min\"";
		return TR_EINVAL;
	}
	if (text.len > 0 && text.data[0] >= '0' && text.data[0] <= '9' &&
		(!take_number(&text, &factor) || factor == 0)) {
		*why = "the number before the unit must be at least 1";
		return TR_EINVAL;
	}
	unit = text;
	while (text.len > 0 && text.data[0] != ',') {
		text.data++;
		text.len--;
	}
	unit.len -= text.len;
	seconds = unit_seconds(unit);
	if (seconds == 0) {
		*why = "the unit must be one of s, sec, second, m, min, minute, h, hr, hour, d, day (no plural)";
		return TR_EINVAL;
	}
	if (factor > (uint64_t)(INT64_MAX / TR_NS_PER_S / seconds)) {
		*why = "the period is too long";
		return TR_EINVAL;
	}
	out->period_ns = (int64_t)factor * seconds * TR_NS_PER_S;
	out->burst = out->quantity;
	if (text.len > 0) {
		if (!tr_str_take(&text, ",max_burst=") || !take_number(&text, &out->burst) || text.len != 0 ||
			out->burst == 0) {
			*why = "only ',max_burst=NUMBER' may follow the period";
			return TR_EINVAL;
		}
		out->has_burst = true;
	}
	return TR_OK;
}

size_t
tr_rate_spec_format(const struct tr_rate_spec *spec, char out[96])
{
	int64_t seconds = spec->period_ns / TR_NS_PER_S;
	char period[24], burst[40] = "";

	if (seconds == 1 || seconds == 60 || seconds == 3600 || seconds == 86400)
		snprintf(period, sizeof period, "%s",
			seconds == 1      ? "s"
			: seconds == 60   ? "m"
			: seconds == 3600 ? "h"
					  : "d");
	else
		snprintf(period, sizeof period, "%llds", (long long)seconds);
	if (spec->has_burst)
		snprintf(burst, sizeof burst, ",max_burst=%llu", (unsigned long long)spec->burst);
	return (size_t)snprintf(
		out, 96, "%s%llu/%s%s", spec->local ? "local:" : "", (unsigned long long)spec->quantity, period, burst);
}
