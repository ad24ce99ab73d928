#include <stdio.h>

#include "base/json.h"
#include "cli/inject.h"

static double
seconds(const struct tr_inject *inject)
{
	return (double)(inject->ended_ns - inject->started_ns) / 1e9;
}

static double
rate(const struct tr_inject *inject)
{
	return seconds(inject) > 0 ? (double)inject->accepted / seconds(inject) : 0;
}

static void
report_json(struct tr_inject *inject)
{
	struct tr_buf out = {0};
	const struct {
		const char *key;
		int64_t value;
	} counts[] = {
		{"messages", inject->started},
		{"accepted", inject->accepted},
		{"refused", inject->refused},
		{"unknown", inject->unknown},
		{"partial", inject->partial},
		{"recipients", inject->recipients},
		{"recipients_refused", inject->recipients_refused},
		{"bytes", inject->bytes},
		{"ids", inject->ids_written},
		{"connections", inject->connects},
		{"connect_failures", inject->connect_failures},
		{"lost_connections", inject->lost_connections},
	};
	bool first = true;

	tr_buf_addc(&out, '{');
	for (size_t i = 0; i < TR_COUNT(counts); i++)
		tr_buf_addf(&out, "\"%s\":%lld,", counts[i].key, (long long)counts[i].value);
	tr_buf_addf(&out, "\"seconds\":%.3f,\"cpu_seconds\":%.3f,\"messages_per_second\":%.1f,", seconds(inject),
		tr_cpu_s(), rate(inject));
	tr_buf_addf(&out, "\"latency_ms\":{\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"max\":%.3f},\"codes\":{",
		tr_latency_ms(&inject->latency, 50), tr_latency_ms(&inject->latency, 90),
		tr_latency_ms(&inject->latency, 99), (double)inject->latency.max_ns / 1e6);
	for (int code = 0; code < TR_INJECT_CODES; code++) {
		if (inject->codes[code] == 0)
			continue;
		tr_buf_addf(&out, "%s\"%d\":%lld", first ? "" : ",", code, (long long)inject->codes[code]);
		first = false;
	}
	tr_buf_addz(&out, "}}\n");
	if (!out.failed)
		fwrite(out.data, 1, out.len, stdout);
	tr_buf_free(&out);
}

static void
report_text(const struct tr_inject *inject)
{
	printf("%s messages accepted, %s refused, %s unknown, in %.2f s: %.0f/s, %s bytes\n",
		tr_grouped(inject->accepted), tr_grouped(inject->refused), tr_grouped(inject->unknown), seconds(inject),
		rate(inject), tr_grouped(inject->bytes));
	for (int code = 0; code < TR_INJECT_CODES; code++)
		if (inject->codes[code] > 0)
			printf("  %d  %s\n", code, tr_grouped(inject->codes[code]));
	if (inject->recipients_refused > 0)
		printf("%s of the recipients were refused\n", tr_grouped(inject->recipients_refused));
	if (inject->partial > 0)
		printf("%s messages were accepted in part only\n", tr_grouped(inject->partial));
	if (inject->latency.count > 0)
		printf("latency: 50 %% within %.2f ms, 99 %% within %.2f ms, at most %.2f ms\n",
			tr_latency_ms(&inject->latency, 50), tr_latency_ms(&inject->latency, 99),
			(double)inject->latency.max_ns / 1e6);
	printf("%s connections, %s failed, %s lost; %.2f s of CPU\n", tr_grouped(inject->connects),
		tr_grouped(inject->connect_failures), tr_grouped(inject->lost_connections), tr_cpu_s());
}

void
tr_inject_report(struct tr_inject *inject)
{
	if (inject->json)
		report_json(inject);
	else if (!inject->quiet)
		report_text(inject);
	fflush(stdout);
}
