#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "cli/http_frame.h"
#include "cli/json_split.h"
#include "cli/sink.h"

enum state {
	STATE_OPEN,
	STATE_SLOW,    /* an answer is held back by the timer; nothing is read */
	STATE_HUNG,    /* what comes is thrown away */
	STATE_CLOSING, /* close when `out` is sent */
	STATE_RESET,   /* reset at the end of the callback */
};

struct tr_http_conn {
	struct ev_io io;
	struct tr_sink *sink;
	struct tr_http_conn *next, **prev;
	struct tr_timer timer;    /* STATE_SLOW: the answer; else the idle deadline */
	struct tr_buf in;         /* a request that is not complete; empty most of the time */
	struct tr_buf out;        /* answers that the socket did not take */
	struct tr_buf body;       /* of chunks, decoded */
	struct tr_http_head head; /* of the request at the start of what is not consumed ... */
	bool have_head;           /* ... once it is complete */
	size_t chunk_at;
	int64_t active_ns; /* last read, for the idle deadline */
	enum state state;
	int slow_status; /* STATE_SLOW: what to answer */
	bool slow_keep_alive;
	int fd;
};

static void on_io(struct ev_loop *ev, struct ev_io *io, int events);
static void on_idle(struct tr_timer *timer);

static void
http_close(struct tr_http_conn *conn)
{
	struct tr_sink *sink = conn->sink;

	ev_io_stop(sink->ev, &conn->io);
	tr_timer_stop(sink->wheel, &conn->timer);
	tr_buf_clear(&sink->reply); /* shared: nothing of this connection may reach the next */
	if (conn->state == STATE_RESET)
		tr_cli_reset(conn->fd);
	else
		close(conn->fd);
	*conn->prev = conn->next;
	if (conn->next != NULL)
		conn->next->prev = conn->prev;
	tr_buf_free(&conn->in);
	tr_buf_free(&conn->out);
	tr_buf_free(&conn->body);
	free(conn);
}

void
tr_sink_http_close_all(struct tr_sink *sink)
{
	while (sink->http_conns != NULL)
		http_close(sink->http_conns); /* NOLINT(clang-analyzer-unix.Malloc): it takes itself off the list */
}

void
tr_sink_http_open(struct tr_sink *sink, int fd)
{
	struct tr_http_conn *conn = calloc(1, sizeof *conn);

	if (conn == NULL) {
		sink->accept_failures++;
		close(fd);
		return;
	}
	conn->sink = sink;
	conn->fd = fd;
	conn->state = sink->hang ? STATE_HUNG : STATE_OPEN;
	conn->active_ns = tr_mono_ns();
	conn->next = sink->http_conns;
	conn->prev = &sink->http_conns;
	if (conn->next != NULL)
		conn->next->prev = &conn->next;
	sink->http_conns = conn;
	sink->http_connections++;
	sink->hung += sink->hang;
	ev_io_init(&conn->io, on_io, fd, EV_READ);
	ev_io_start(sink->ev, &conn->io);
	if (conn->state == STATE_OPEN)
		tr_timer_start(sink->wheel, &conn->timer, TR_SINK_IDLE_NS, on_idle);
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
handle(struct tr_http_conn *conn, const char *data, struct tr_str body)
{
	struct tr_sink *sink = conn->sink;
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
		conn->state = STATE_RESET;
		return;
	}
	if (garbage) {
		sink->garbage++;
		tr_buf_addz(&sink->reply, "\x15\x03\x01 this is not HTTP \xff\xfe\r\n\r\n");
		conn->state = STATE_CLOSING;
		return;
	}
	sink->status_count[status]++;
	if (tr_sink_chance(sink, sink->slow_percent)) {
		sink->slow++;
		conn->state = STATE_SLOW;
		conn->slow_status = status;
		conn->slow_keep_alive = head->keep_alive;
		return;
	}
	add_answer(sink, status, head->keep_alive);
	if (!head->keep_alive)
		conn->state = STATE_CLOSING;
}

static void
refuse(struct tr_http_conn *conn, int status)
{
	conn->sink->http_bad++;
	conn->sink->status_count[status]++;
	add_answer(conn->sink, status, false);
	conn->state = STATE_CLOSING;
}

/* Handles the complete requests of data; returns how many bytes they were. */
static size_t
take(struct tr_http_conn *conn, const char *data, size_t len)
{
	struct tr_sink *sink = conn->sink;
	size_t used = 0;

	while (used < len && conn->state == STATE_OPEN && !sink->ending) {
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

static void on_slow(struct tr_timer *timer);

/* The end of every callback: answers leave, the state is acted upon. The connection may be gone after it. */
static void
settle(struct tr_http_conn *conn)
{
	struct tr_sink *sink = conn->sink;

	tr_sink_write_record(sink);
	if (conn->state == STATE_RESET) {
		tr_buf_clear(&sink->reply);
		http_close(conn);
		return;
	}
	if (sink->reply.len > 0 || conn->out.len > 0) {
		if (!tr_sink_send(sink, conn->fd, &conn->out)) {
			http_close(conn);
			return;
		}
	}
	if (conn->state == STATE_CLOSING && conn->out.len == 0) {
		shutdown(conn->fd, SHUT_WR); /* what the peer still sends must not turn our answer into a reset */
		http_close(conn);
		return;
	}
	/* Back-pressure: while a peer does not read its answers, or waits for a slow one, nothing is read. */
	int events = conn->out.len > 0 ? EV_WRITE : conn->state == STATE_SLOW || sink->ending ? 0 : EV_READ;
	int now = ev_is_active(&conn->io) ? conn->io.events & (EV_READ | EV_WRITE) : 0;

	if (events != now) {
		ev_io_stop(sink->ev, &conn->io);
		ev_io_set(&conn->io, conn->fd, events);
		if (events != 0)
			ev_io_start(sink->ev, &conn->io);
	}
	if (conn->state == STATE_SLOW && conn->timer.fn != on_slow)
		tr_timer_start(sink->wheel, &conn->timer, sink->slow_ns, on_slow);
}

static void
take_kept(struct tr_http_conn *conn)
{
	size_t used = take(conn, conn->in.data, conn->in.len);

	if (used > 0)
		tr_buf_consume(&conn->in, used);
}

static void
on_slow(struct tr_timer *timer)
{
	struct tr_http_conn *conn = tr_container_of(timer, struct tr_http_conn, timer);

	conn->state = conn->slow_keep_alive ? STATE_OPEN : STATE_CLOSING;
	add_answer(conn->sink, conn->slow_status, conn->slow_keep_alive);
	conn->active_ns = tr_mono_ns();
	tr_timer_start(conn->sink->wheel, &conn->timer, TR_SINK_IDLE_NS, on_idle);
	take_kept(conn);
	settle(conn);
}

static void
on_idle(struct tr_timer *timer)
{
	struct tr_http_conn *conn = tr_container_of(timer, struct tr_http_conn, timer);
	int64_t left_ns = conn->active_ns + TR_SINK_IDLE_NS - tr_mono_ns();

	if (left_ns > 0) { /* reads only note the time; the timer is moved here */
		tr_timer_start(conn->sink->wheel, timer, left_ns, on_idle);
		return;
	}
	conn->sink->idle_closed++;
	http_close(conn);
}

/* false: the connection ended. */
static bool
read_some(struct tr_http_conn *conn)
{
	struct tr_sink *sink = conn->sink;
	bool kept = conn->in.len > 0;
	size_t want = TR_SINK_READ_BYTES;
	char *to = sink->scratch;

	if (kept) { /* the rest of a request goes behind its start */
		if (conn->have_head && conn->head.content_length > 0) {
			size_t total = conn->head.len + (size_t)conn->head.content_length;

			if (total > conn->in.len + want)
				want = (size_t)tr_min_i64((int64_t)(total - conn->in.len), 4 << 20);
		}
		to = tr_buf_reserve(&conn->in, want);
		if (to == NULL)
			return false;
	}
	ssize_t got = read(conn->fd, to, want);

	if (got < 0)
		return errno == EAGAIN || errno == EINTR;
	if (got == 0)
		return false;
	tr_sink_touch(sink);
	conn->active_ns = sink->last_ns;
	if (conn->state == STATE_HUNG)
		return true;
	if (kept) {
		conn->in.len += (size_t)got;
		take_kept(conn);
	} else {
		size_t used = take(conn, to, (size_t)got);

		if (used < (size_t)got && (conn->state == STATE_OPEN || conn->state == STATE_SLOW))
			tr_buf_add(&conn->in, to + used, (size_t)got - used);
	}
	if (conn->in.failed)
		return false;
	if (conn->in.len == 0 && conn->in.cap > TR_SINK_READ_BYTES)
		tr_buf_free(&conn->in); /* big bodies must not stay with 10,000 idle connections */
	return true;
}

static void
on_io(struct ev_loop *ev, struct ev_io *io, int events)
{
	struct tr_http_conn *conn = tr_container_of(io, struct tr_http_conn, io);

	if ((events & EV_READ) && !read_some(conn)) {
		http_close(conn);
		return;
	}
	if ((events & EV_WRITE) && conn->state == STATE_OPEN && conn->in.len > 0) {
		if (!tr_sink_send(conn->sink, conn->fd, &conn->out)) {
			http_close(conn);
			return;
		}
		if (conn->out.len == 0)
			take_kept(conn);
	}
	settle(conn);
}
