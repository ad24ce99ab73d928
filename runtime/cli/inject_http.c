#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "cli/http_frame.h"
#include "cli/inject.h"

enum { MAX_ANSWER_BYTES = 16 * 1024 * 1024 };

struct http_conn {
	struct tr_inject_conn base;
	struct tr_buf json; /* of the request being made */
	bool asked;         /* waits for the answer */
	int64_t messages;   /* recipients of the request under way; 0: none */
	int64_t size;       /* of the message it carries */
};

static struct http_conn *conns; /* all of them: the command runs once in a process */

static struct http_conn *
of(struct tr_inject_conn *base)
{
	return tr_container_of(base, struct http_conn, base);
}

static enum tr_inject_loss
leave(struct tr_inject_conn *base)
{
	struct http_conn *conn = of(base);
	bool asked = conn->asked;

	if (conn->messages > 0) {
		/* Only when the last byte is not handed over can the server not have it. */
		if (base->out_at == base->out.len)
			base->inject->unknown += conn->messages;
		else
			tr_inject_give_back(base->inject, conn->messages);
		conn->messages = 0;
	}
	conn->asked = false;
	return base->state == TR_INJECT_CONNECTING ? TR_INJECT_NOT_UP : asked ? TR_INJECT_BROKEN : TR_INJECT_IDLE;
}

/* Sends the next request, waits for the rate, or ends. */
static void
next_request(struct tr_inject_conn *base)
{
	struct http_conn *conn = of(base);
	struct tr_inject *inject = base->inject;

	if (base->state != TR_INJECT_UP || conn->asked) /* lost while it waited for the rate */
		return;
	if (inject->messages_per_connection > 0 && conn->base.sent_here >= inject->messages_per_connection) {
		tr_inject_connect(&conn->base);
		return;
	}
	int64_t number = inject->started;

	conn->messages = tr_inject_take(base, inject->batch);
	if (conn->messages == 0) {
		if (tr_inject_over(inject))
			tr_inject_end(base);
		return;
	}
	const struct tr_inject_body *body = tr_inject_body_of(inject, number);
	struct tr_buf *json = &conn->json;
	struct tr_buf first = {0}, content = {0};

	tr_buf_clear(json);
	tr_buf_addz(json, "{\"envelope_sender\":");
	tr_json_add_string(json, tr_str(inject->from));
	tr_buf_addz(json, ",\"recipients\":[");
	for (int64_t i = 0; i < conn->messages; i++) {
		struct tr_buf rcpt = {0};

		tr_inject_add_rcpt(inject, &rcpt);
		tr_buf_addz(json, i > 0 ? ",{\"email\":" : "{\"email\":");
		tr_json_add_string(json, (struct tr_str){rcpt.data, rcpt.len});
		tr_buf_addc(json, '}');
		if (i == 0)
			first = rcpt;
		else
			tr_buf_free(&rcpt);
	}
	/* Static: braces in a file are text, no template */
	tr_buf_addz(json, "],\"template_dialect\":\"Static\",\"content\":");
	tr_inject_add_headers(inject, body, number, (struct tr_str){first.data, first.len}, &content);
	tr_buf_add(&content, body->bytes.data, body->bytes.len);
	tr_json_add_string(json, (struct tr_str){content.data, content.len});
	tr_buf_addc(json, '}');
	conn->size = (int64_t)content.len;
	tr_buf_clear(&conn->base.out);
	conn->base.out_at = 0;
	tr_buf_addf(&conn->base.out,
		"POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
		inject->path, inject->host, json->len);
	tr_buf_add(&conn->base.out, json->data, json->len);
	bool failed = first.failed || content.failed || json->failed || conn->base.out.failed;

	tr_buf_free(&first);
	tr_buf_free(&content);
	if (failed) {
		tr_inject_lost(&conn->base, "out of memory");
		return;
	}
	conn->base.sent_here += conn->messages;
	conn->base.begun_ns = tr_mono_ns();
	conn->asked = true;
	tr_inject_arm(base, inject->timeout_ns);
	tr_inject_flush(base);
}

static int64_t
number_of(struct tr_str object, const char *key)
{
	struct tr_str value = tr_json_get(object, key);

	return value.data != NULL && tr_json_type(value) == TR_JSON_NUMBER ? strtoll(value.data, NULL, 10) : -1;
}

static void
count_answer(struct http_conn *conn, int status, struct tr_str body)
{
	struct tr_inject *inject = conn->base.inject;
	int64_t accepted = 0;
	size_t error_at;

	if (status == 200) {
		accepted = conn->messages;
		if (body.len > 0 && body.data[0] == '{' && tr_json_check(body, &error_at) == TR_OK) {
			int64_t told = number_of(body, "success_count"); /* recipients fail one by one, with a 200 */

			accepted = told >= 0 ? tr_min_i64(told, conn->messages) : accepted;
		}
	}
	inject->codes[status]++;
	tr_latency_add(&inject->latency, tr_mono_ns() - conn->base.begun_ns);
	inject->accepted += accepted;
	inject->recipients += accepted;
	inject->refused += conn->messages - accepted;
	inject->recipients_refused += conn->messages - accepted;
	inject->bytes += conn->size * accepted;
	conn->messages = 0;
}

/* Handles the answer if it is complete. */
static void
take_answer(struct http_conn *conn)
{
	struct tr_http_head head;
	struct tr_buf decoded = {0};
	const char *data = conn->base.in.data;
	int rc = tr_http_head(data, conn->base.in.len, true, &head);

	if (rc == TR_OK && head.status / 100 == 1) { /* an interim answer */
		tr_buf_consume(&conn->base.in, head.len);
		if (conn->base.in.len > 0)
			take_answer(conn);
		return;
	}
	struct tr_str body = {data + head.len, head.content_length > 0 ? (size_t)head.content_length : 0};

	if (rc == TR_OK && head.chunked) {
		size_t at = head.len;

		rc = tr_http_chunks(data, conn->base.in.len, &at, &decoded, MAX_ANSWER_BYTES);
		body = (struct tr_str){decoded.data, decoded.len};
	} else if (rc == TR_OK && conn->base.in.len < head.len + body.len) {
		rc = body.len > MAX_ANSWER_BYTES ? TR_ETOOBIG : TR_EAGAIN;
	}
	if (rc == TR_EAGAIN) {
		tr_buf_free(&decoded);
		return;
	}
	if (rc != TR_OK) {
		tr_buf_free(&decoded);
		tr_inject_lost(&conn->base, "the answer is no HTTP");
		return;
	}
	count_answer(conn, head.status, body);
	tr_buf_free(&decoded);
	tr_buf_clear(&conn->base.in);
	conn->asked = false;
	tr_timer_stop(conn->base.inject->wheel, &conn->base.timer);
	if (!head.keep_alive) {
		tr_inject_connect(&conn->base);
		return;
	}
	next_request(&conn->base);
}

static void
connected(struct tr_inject_conn *base)
{
	base->inject->connects++;
	base->attempt = 0;
	tr_timer_stop(base->inject->wheel, &base->timer);
	next_request(base);
}

static void
received(struct tr_inject_conn *base)
{
	if (of(base)->asked)
		take_answer(of(base));
	else
		tr_inject_lost(base, "an answer to nothing that was asked");
}

bool
tr_inject_http_start(struct tr_inject *inject)
{
	static const struct tr_inject_protocol protocol = {next_request, connected, received, leave};

	inject->connections = tr_min_i64(inject->connections, (inject->count - 1) / inject->batch + 1);
	inject->open = inject->connections;
	conns = calloc((size_t)inject->connections, sizeof *conns);
	if (conns == NULL)
		return false;
	for (int64_t i = 0; i < inject->connections; i++)
		tr_inject_conn_init(&conns[i].base, inject, &protocol);
	for (int64_t i = 0; i < inject->connections; i++)
		tr_inject_connect(&conns[i].base);
	return true;
}

void
tr_inject_http_free(struct tr_inject *inject)
{
	for (int64_t i = 0; conns != NULL && i < inject->connections; i++) {
		tr_inject_conn_fini(&conns[i].base);
		tr_buf_free(&conns[i].json);
	}
	free(conns);
	conns = NULL;
}
