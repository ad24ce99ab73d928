#include <stdio.h>

#include "base/clock.h"
#include "base/json.h"
#include "cli/sink.h"

const char *
tr_sink_reason(int status)
{
	static const struct {
		int status;
		const char *reason;
	} reasons[] = {
		{200, "OK"},
		{201, "Created"},
		{202, "Accepted"},
		{204, "No Content"},
		{301, "Moved Permanently"},
		{302, "Found"},
		{304, "Not Modified"},
		{400, "Bad Request"},
		{401, "Unauthorized"},
		{403, "Forbidden"},
		{404, "Not Found"},
		{408, "Request Timeout"},
		{409, "Conflict"},
		{410, "Gone"},
		{413, "Content Too Large"},
		{415, "Unsupported Media Type"},
		{422, "Unprocessable Content"},
		{425, "Too Early"},
		{429, "Too Many Requests"},
		{500, "Internal Server Error"},
		{502, "Bad Gateway"},
		{503, "Service Unavailable"},
		{504, "Gateway Timeout"},
	};

	for (size_t i = 0; i < TR_COUNT(reasons); i++)
		if (reasons[i].status == status)
			return reasons[i].reason;
	return "Status";
}

/* From the first to the last thing that came: waiting before and after does not thin the rate. */
static double
active_s(const struct tr_sink *sink)
{
	return (double)(sink->last_ns - sink->first_ns) / 1e9;
}

static double
per_s(const struct tr_sink *sink, int64_t count)
{
	return sink->last_ns > sink->first_ns ? (double)count / active_s(sink) : 0;
}

static void
json_int(struct tr_buf *out, const char *key, int64_t value)
{
	if (out->data[out->len - 1] != '{')
		tr_buf_addc(out, ',');
	tr_json_add_key(out, key);
	tr_buf_add_i64(out, value);
}

static void
json_open(struct tr_buf *out, const char *key)
{
	if (out->data[out->len - 1] != '{')
		tr_buf_addc(out, ',');
	tr_json_add_key(out, key);
	tr_buf_addc(out, '{');
}

static void
json_codes(struct tr_buf *out, const char *key, const int64_t counts[TR_SINK_CODES])
{
	json_open(out, key);
	for (int code = 0; code < TR_SINK_CODES; code++) {
		char name[16];

		snprintf(name, sizeof name, "%d", code);
		if (counts[code] > 0)
			json_int(out, name, counts[code]);
	}
	tr_buf_addc(out, '}');
}

static void
report_json(struct tr_sink *sink)
{
	struct tr_buf *out = &sink->text;

	tr_buf_clear(out);
	if (tr_buf_reserve(out, 4096) == NULL)
		return;
	tr_buf_addf(out, "{\"seconds\":%.3f,\"active_seconds\":%.3f,\"cpu_seconds\":%.3f",
		(double)(tr_mono_ns() - sink->started_ns) / 1e9, active_s(sink), tr_cpu_s());
	json_int(out, "resets", sink->resets);
	json_int(out, "garbage", sink->garbage);
	json_int(out, "slow", sink->slow);
	json_int(out, "hung", sink->hung);
	json_int(out, "idle_closed", sink->idle_closed);
	json_int(out, "accept_failures", sink->accept_failures);
	json_int(out, "record_failures", sink->record_failures);
	if (sink->http.sink != NULL) {
		json_open(out, "http");
		json_int(out, "connections", sink->http_connections);
		json_int(out, "requests", sink->http_requests);
		json_int(out, "records", sink->records);
		json_int(out, "refused_records", sink->refused_records);
		json_int(out, "bytes", sink->http_bytes);
		json_int(out, "bad_requests", sink->http_bad);
		json_int(out, "malformed_bodies", sink->malformed_bodies);
		tr_buf_addf(out, ",\"requests_per_second\":%.1f,\"records_per_second\":%.1f",
			per_s(sink, sink->http_requests), per_s(sink, sink->records));
		json_codes(out, "status", sink->status_count);
		if (sink->count_ids != NULL) {
			json_open(out, "ids");
			json_int(out, "records", sink->ids_seen);
			json_int(out, "distinct", (int64_t)sink->ids.count);
			json_int(out, "duplicates", sink->ids_duplicate);
			json_int(out, "missing", sink->ids_missing);
			json_int(out, "uncounted", sink->ids_uncounted);
			tr_buf_addc(out, '}');
		}
		tr_buf_addc(out, '}');
	}
	if (sink->smtp.sink != NULL) {
		json_open(out, "smtp");
		json_int(out, "connections", sink->smtp_connections);
		json_int(out, "messages", sink->smtp_messages);
		json_int(out, "refused_messages", sink->smtp_refused);
		json_int(out, "recipients", sink->smtp_recipients);
		json_int(out, "bytes", sink->smtp_bytes);
		tr_buf_addf(out, ",\"messages_per_second\":%.1f", per_s(sink, sink->smtp_messages));
		json_open(out, "codes");
		for (int stage = 0; stage < TR_STAGES; stage++)
			json_codes(out, tr_sink_stage_names[stage], sink->stage_count[stage]);
		tr_buf_addz(out, "}}");
	}
	tr_buf_addz(out, "}\n");
	fwrite(out->data, 1, out->len, stdout);
}

static void
report_text(struct tr_sink *sink)
{
	if (sink->http.sink != NULL) {
		printf("http: %s records accepted, %s refused, in %s requests on %s connections, %s bytes, %.0f "
		       "records/s\n",
			tr_grouped(sink->records), tr_grouped(sink->refused_records), tr_grouped(sink->http_requests),
			tr_grouped(sink->http_connections), tr_grouped(sink->http_bytes), per_s(sink, sink->records));
		for (int code = 0; code < TR_SINK_CODES; code++)
			if (sink->status_count[code] > 0)
				printf("  %d %-22s %s\n", code, tr_sink_reason(code),
					tr_grouped(sink->status_count[code]));
		if (sink->http_bad > 0)
			printf("  requests that made no sense  %s\n", tr_grouped(sink->http_bad));
		if (sink->malformed_bodies > 0)
			printf("  bodies that are no JSON      %s\n", tr_grouped(sink->malformed_bodies));
		if (sink->count_ids != NULL)
			printf("  %s: %s records, %s distinct, %s duplicates, %s without\n", sink->count_ids,
				tr_grouped(sink->ids_seen), tr_grouped((int64_t)sink->ids.count),
				tr_grouped(sink->ids_duplicate), tr_grouped(sink->ids_missing));
	}
	if (sink->smtp.sink != NULL) {
		printf("smtp: %s messages accepted, %s refused, %s recipients on %s connections, ",
			tr_grouped(sink->smtp_messages), tr_grouped(sink->smtp_refused),
			tr_grouped(sink->smtp_recipients), tr_grouped(sink->smtp_connections));
		printf("%s bytes, %.0f messages/s\n", tr_grouped(sink->smtp_bytes), per_s(sink, sink->smtp_messages));
		for (int stage = 0; stage < TR_STAGES; stage++)
			for (int code = 0; code < TR_SINK_CODES; code++)
				if (sink->stage_count[stage][code] > 0)
					printf("  %-8s %d  %s\n", tr_sink_stage_names[stage], code,
						tr_grouped(sink->stage_count[stage][code]));
	}
	if (sink->resets + sink->garbage + sink->slow + sink->hung > 0)
		printf("trouble made: %s resets, %s garbage, %s slow, %s hung\n", tr_grouped(sink->resets),
			tr_grouped(sink->garbage), tr_grouped(sink->slow), tr_grouped(sink->hung));
	if (sink->accept_failures + sink->record_failures > 0)
		printf("trouble met: %s failed accepts, %s failed writes of the record file\n",
			tr_grouped(sink->accept_failures), tr_grouped(sink->record_failures));
	printf("%.1f s, %.2f s of CPU\n", (double)(tr_mono_ns() - sink->started_ns) / 1e9, tr_cpu_s());
}

void
tr_sink_report(struct tr_sink *sink)
{
	if (sink->json)
		report_json(sink);
	else if (!sink->quiet)
		report_text(sink);
	fflush(stdout);
}

void
tr_sink_detail(struct tr_sink *sink, char *out, size_t size)
{
	int64_t refused = sink->refused_records + sink->smtp_refused;

	out[0] = '\0';
	if (refused > 0)
		snprintf(out, size, "%s refused", tr_grouped(refused));
}
