/* Texts of rates, limits and durations: what is read is in its range, and what it is written as is read as the same. */
#include "base/clock.h"
#include "shaping/spec.h"

#include "fuzz.h"

static void
rate(struct tr_str text)
{
	struct tr_rate_spec spec, again;
	const char *why = NULL;
	char written[96];

	if (tr_rate_spec_parse(text, &spec, &why) != TR_OK) {
		need(why != NULL && why[0] != '\0');
		return;
	}
	need(spec.quantity >= 1 && spec.burst >= 1 && spec.period_ns >= TR_NS_PER_S);
	size_t len = tr_rate_spec_format(&spec, written);
	need(len < sizeof written && strlen(written) == len);
	need(tr_rate_spec_parse((struct tr_str){written, len}, &again, &why) == TR_OK);
	need(again.quantity == spec.quantity && again.burst == spec.burst && again.period_ns == spec.period_ns &&
		again.local == spec.local);
}

static void
limit(struct tr_str text)
{
	struct tr_limit_spec spec;

	if (tr_limit_spec_parse(text, &spec) == TR_OK)
		need(spec.limit >= 1);
}

static void
duration(struct tr_str text)
{
	int64_t ns, again;
	char written[64];

	if (tr_duration_parse(text.data, text.len, &ns) != TR_OK)
		return;
	need(ns >= 0);
	size_t len = tr_duration_format(ns, written);
	need(len < sizeof written);
	need(tr_duration_parse(written, len, &again) == TR_OK);
	need(again == ns);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	char *copy = fuzz_copy(data, len);
	struct tr_str text = {copy, len};

	rate(text);
	limit(text);
	duration(text);
	free(copy);
	return 0;
}
