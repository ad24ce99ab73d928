#include "base/json.h"
#include "cli/http_frame.h"
#include "cli/json_split.h"
#include "cli/sink.h"

struct http_conn {
	struct tr_sink_conn base;
	struct tr_buf body;       /* of chunks, decoded */
	struct tr_http_head head; /* of the request at the start of what is not consumed ... */
	bool have_head;           /* ... once it is complete */
	size_t chunk_at;
	int slow_status; /* SLOW: what to answer */
	bool slow_keep_alive;
};

static struct http_conn *
of(struct tr_sink_conn *base)
{
	return tr_container_of(base, struct http_conn, base);
}

/* --- what a request is worth ----------------------------------------------------------------- */

struct visit {
	struct tr_sink *sink;
	int status;
};

static void
count_id(struct tr_sink *sink, struct tr_str record)
{
	struct tr_str value = {NULL, 0};

	if (record.len > 0 && record.data[0] == '{')
		value = tr_json_get(record, sink->count_ids);
	if (value.data == NULL || tr_json_type(value) != TR_JSON_STRING || value.len < 2) {
		sink->ids_missing++;
		return;
	}
	value.data++; /* without its quotes; escapes may stay, they are the same in every copy */
	value.len -= 2;
	sink->ids_seen++;
	switch (tr_id_set_add(&sink->ids, value)) {
	case 1:
		break;
	case 0:
		sink->ids_duplicate++;
		break;
	default:
		sink->ids_uncounted++;
	}
}

static void
visit_record(void *arg, struct tr_str record)
{
	struct visit *visit = arg;
	struct tr_sink *sink = visit->sink;

	/* the walkers of base/json.h want valid JSON, and this comes from the network */
	size_t error_at;
	bool valid = tr_json_check(record, &error_at) == TR_OK;

	if (sink->count_ids != NULL && visit->status / 100 == 2) {
		if (valid)
			count_id(sink, record);
		else
			sink->ids_missing++;
	}
	if (sink->show)
		tr_sink_show_record(sink, record, valid, visit->status);
}

static void
record_request(struct tr_sink *sink, const char *data, const struct tr_http_head *head, struct tr_str body, int status)
{
	struct tr_buf *lines = &sink->lines;
	struct tr_str name, value;
	size_t at = head->fields_at;
	bool first = true;

	tr_buf_addz(lines, "{\"path\":");
	tr_json_add_string(lines, (struct tr_str){data + head->target_at, head->target_len});
	tr_buf_addf(lines, ",\"status\":%d,\"headers\":{", status);
	while (tr_http_field(data, head, &at, &name, &value)) {
		tr_buf_clear(&sink->text);
		for (size_t i = 0; i < name.len; i++) {
			char c = name.data[i];

			tr_buf_addc(&sink->text, c >= 'A' && c <= 'Z' ? (char)(c | 32) : c);
		}
		if (!first)
			tr_buf_addc(lines, ',');
		first = false;
		tr_json_add_string(lines, (struct tr_str){sink->text.data, sink->text.len});
		tr_buf_addc(lines, ':');
		tr_json_add_string(lines, value);
	}
	tr_buf_addz(lines, "},\"body\":");
	tr_json_add_string(lines, body);
	tr_buf_addz(lines, "}\n");
}

static void
add_answer(struct tr_sink *sink, int status, bool keep_alive)
{
	static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

	if (status == 200 && keep_alive) {
		tr_buf_add(&sink->reply, ok, sizeof ok - 1);
		return;
	}
	const char *reason = tr_sink_reason(status);

	tr_buf_addf(&sink->reply, "HTTP/1.1 %d %s\r\n", status, reason);
	if (sink->retry_after_s > 0 && (status == 429 || status == 503))
		tr_buf_addf(&sink->reply, "Retry-After: %lld\r\n", (long long)sink->retry_after_s);
	if (!keep_alive)
		tr_buf_addz(&sink->reply, "Connection: close\r\n");
	if (status == 204 || status == 304) /* these have no body and no length */
		tr_buf_addz(&sink->reply, "\r\n");
	else if (status == 200)
		tr_buf_addz(&sink->reply, "Content-Length: 0\r\n\r\n");
	else
		tr_buf_addf(&sink->reply, "Content-Type: text/plain\r\nContent-Length: %zu\r\n\r\n%d %s\n",
			strlen(reason) + 5, status, reason);
}

/* One whole request. Leaves the answer in sink->reply, or the connection in another state. */
static void
handle(struct http_conn *conn, const char *data, struct tr_str body)
{
	struct tr_sink *sink = conn->base.sink;
	const struct tr_http_head *head = &conn->head;
	int status = tr_sink_choose(sink, &sink->status, 200);
	bool reset = tr_sink_chance(sink, sink->reset_percent);
	bool garbage = !reset && tr_sink_chance(sink, sink->garbage_percent);
	bool accepted = status / 100 == 2 && !reset && !garbage;
	struct visit visit = {.sink = sink, .status = reset || garbage ? 0 : status};
	bool look = sink->show || (sink->count_ids != NULL && accepted);
	struct tr_str sent = body;

	body = tr_sink_plain(sink, data, head, body);

	struct tr_json_split split = tr_json_split(body, look ? visit_record : NULL, &visit);

	sink->http_requests++;
	sink->http_bytes += (int64_t)sent.len;
	sink->malformed_bodies += split.malformed;
	if (accepted)
		sink->records += split.records;
	else
		sink->refused_records += split.records;
	if (sink->record_fd >= 0)
		record_request(sink, data, head, body, visit.status);
	if (reset) {
		sink->resets++;
		conn->base.state = TR_SINK_RESET;
		return;
	}
	if (garbage) {
		sink->garbage++;
		tr_buf_addz(&sink->reply, "\x15\x03\x01 this is not HTTP \xff\xfe\r\n\r\n");
		conn->base.state = TR_SINK_CLOSING;
		return;
	}
	sink->status_count[status]++;
	if (tr_sink_chance(sink, sink->slow_percent)) {
		sink->slow++;
		conn->base.state = TR_SINK_SLOW;
		conn->slow_status = status;
		conn->slow_keep_alive = head->keep_alive;
		return;
	}
	add_answer(sink, status, head->keep_alive);
	if (!head->keep_alive)
		conn->base.state = TR_SINK_CLOSING;
}

static void
refuse(struct http_conn *conn, int status)
{
	conn->base.sink->http_bad++;
	conn->base.sink->status_count[status]++;
	add_answer(conn->base.sink, status, false);
	conn->base.state = TR_SINK_CLOSING;
}

/* Handles the complete requests of data; returns how many bytes they were. */
static size_t
take(struct tr_sink_conn *base, const char *data, size_t len)
{
	struct http_conn *conn = of(base);
	struct tr_sink *sink = base->sink;
	size_t used = 0;

	while (used < len && conn->base.state == TR_SINK_OPEN && !sink->ending) {
		const char *start = data + used;
		size_t have = len - used;
		struct tr_http_head *head = &conn->head;

		if (!conn->have_head) {
			if (*start == '\r' || *start == '\n') { /* RFC 9112 2.2: empty lines before a request */
				used++;
				continue;
			}
			int rc = tr_http_head(start, have, false, head);

			if (rc == TR_EAGAIN)
				break;
			if (rc == TR_OK && head->content_length > TR_SINK_MAX_BODY_BYTES)
				rc = TR_ETOOBIG;
			if (rc == TR_OK && head->chunked && head->content_length >= 0)
				rc = TR_EPROTO;
			if (rc != TR_OK) {
				refuse(conn, rc == TR_ETOOBIG ? 413 : 400);
				break;
			}
			conn->have_head = true;
			conn->chunk_at = head->len;
			tr_buf_clear(&conn->body);
		}
		struct tr_str body = {start + head->len, head->content_length > 0 ? (size_t)head->content_length : 0};
		size_t total = head->len + body.len;
		int rc = have >= total ? TR_OK : TR_EAGAIN;

		if (head->chunked) {
			rc = tr_http_chunks(start, have, &conn->chunk_at, &conn->body, TR_SINK_MAX_BODY_BYTES);
			body = (struct tr_str){conn->body.data, conn->body.len};
			total = conn->chunk_at;
			if (conn->body.failed)
				rc = TR_ETOOBIG;
		}
		if (rc == TR_EAGAIN) {
			if (head->expect_continue) {
				head->expect_continue = false;
				sink->http_continues++;
				tr_buf_addz(&sink->reply, "HTTP/1.1 100 Continue\r\n\r\n");
			}
			break;
		}
		if (rc != TR_OK) {
			refuse(conn, rc == TR_ETOOBIG ? 413 : 400);
			break;
		}
		handle(conn, start, body);
		if (conn->body.cap > TR_SINK_READ_BYTES)
			tr_buf_free(&conn->body);
		conn->have_head = false;
		used += total;
		tr_sink_check_until(sink);
	}
	return used;
}

static enum tr_sink_state
slow_over(struct tr_sink_conn *base)
{
	struct http_conn *conn = of(base);

	add_answer(base->sink, conn->slow_status, conn->slow_keep_alive);
	return conn->slow_keep_alive ? TR_SINK_OPEN : TR_SINK_CLOSING;
}

/* The rest of a big body in few reads. */
static size_t
want(const struct tr_sink_conn *base)
{
	const struct http_conn *conn = tr_container_of(base, const struct http_conn, base);

	if (conn->have_head && conn->head.content_length > 0) {
		size_t total = conn->head.len + (size_t)conn->head.content_length;

		if (total > base->in.len + TR_SINK_READ_BYTES)
			return (size_t)tr_min_i64((int64_t)(total - base->in.len), 4 << 20);
	}
	return TR_SINK_READ_BYTES;
}

static bool
failed(const struct tr_sink_conn *base)
{
	return false; /* a body that found no memory is refused */
}

static void
fini(struct tr_sink_conn *base)
{
	tr_buf_free(&of(base)->body);
}

void
tr_sink_http_open(struct tr_sink *sink, int fd)
{
	static const struct tr_sink_protocol protocol = {
		.size = sizeof(struct http_conn),
		.take = take,
		.slow_over = slow_over,
		.want = want,
		.failed = failed,
		.fini = fini,
		.idle_bytes = TR_SINK_READ_BYTES,
		.deaf_at_end = true,
	};

	if (tr_sink_open(sink, &protocol, fd) != NULL)
		sink->http_connections++;
}
