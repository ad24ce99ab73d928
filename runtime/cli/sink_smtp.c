#include "base/json.h"
#include "cli/dot_scan.h"
#include "cli/sink.h"

enum { MAX_LINE_BYTES = 4096, MAX_RCPTS = 100000 };

struct smtp_conn {
	struct tr_sink_conn base;
	struct tr_buf from, rcpts; /* rcpts: each with a NUL */
	struct tr_buf data;        /* only with --record-data */
	struct tr_dot_scan scan;
	uint64_t data_bytes; /* of the data so far, as it came */
	uint64_t id;         /* of the message last accepted, for its answer */
	bool in_mail, in_data;
	int rcpt_count;
};

static struct smtp_conn *
of(struct tr_sink_conn *base)
{
	return tr_container_of(base, struct smtp_conn, base);
}

/* --- answers --------------------------------------------------------------------------------- */

static void
say(struct smtp_conn *conn, const char *line)
{
	tr_buf_addz(&conn->base.sink->reply, line);
}

/* The code that --smtp-code gives this stage, counted; answers it if it is not `usual`. */
static int
choose(struct smtp_conn *conn, enum tr_sink_stage stage, int usual)
{
	struct tr_sink *sink = conn->base.sink;
	int code = tr_sink_choose(sink, &sink->stage[stage], usual);

	sink->stage_count[stage][code]++;
	if (code == usual)
		return code;
	tr_buf_addf(&sink->reply, "%d ", code);
	if (stage != TR_STAGE_CONNECT)
		tr_buf_addf(&sink->reply, "%d.0.0 ", code / 100);
	tr_buf_addf(&sink->reply, "tailrace sink answers %d to %s\r\n", code, tr_sink_stage_names[stage]);
	if (code == 421 || stage == TR_STAGE_CONNECT)
		conn->base.state = TR_SINK_CLOSING;
	return code;
}

static bool
refused(struct smtp_conn *conn, enum tr_sink_stage stage, int usual)
{
	return choose(conn, stage, usual) != usual;
}

static void
reset_transaction(struct smtp_conn *conn)
{
	conn->in_mail = false;
	conn->rcpt_count = 0;
	tr_buf_clear(&conn->from);
	tr_buf_clear(&conn->rcpts);
	if (conn->data.cap > TR_SINK_READ_BYTES)
		tr_buf_free(&conn->data);
	else
		tr_buf_clear(&conn->data);
}

/* --- a whole message --------------------------------------------------------------------------- */

static void
unstuff(struct tr_buf *data)
{
	size_t to = 0;
	char before = '\r', last = '\n'; /* the two bytes read last; the start counts as the start of a line */

	for (size_t at = 0; at < data->len; at++) {
		char c = data->data[at];

		if (c != '.' || last != '\n' || before != '\r')
			data->data[to++] = c;
		before = last;
		last = c;
	}
	data->len = to;
}

static void
record_mail(struct smtp_conn *conn, int64_t size, int code)
{
	struct tr_sink *sink = conn->base.sink;
	struct tr_buf *lines = &sink->lines;

	tr_buf_addz(lines, "{\"from\":");
	tr_json_add_string(lines, (struct tr_str){conn->from.data, conn->from.len});
	tr_buf_addz(lines, ",\"rcpts\":[");
	for (size_t at = 0; at < conn->rcpts.len;) {
		struct tr_str rcpt = tr_str(conn->rcpts.data + at);

		if (at > 0)
			tr_buf_addc(lines, ',');
		tr_json_add_string(lines, rcpt);
		at += rcpt.len + 1;
	}
	tr_buf_addf(lines, "],\"size\":%lld,\"code\":%d", (long long)size, code);
	if (sink->record_data) {
		tr_buf_addz(lines, ",\"data\":");
		tr_json_add_string(lines, (struct tr_str){conn->data.data, conn->data.len});
	}
	tr_buf_addz(lines, "}\n");
}

static void
answer_dot(struct smtp_conn *conn)
{
	struct tr_sink *sink = conn->base.sink;

	tr_buf_addz(&sink->reply, "250 OK ids=");
	tr_buf_add_u64(&sink->reply, conn->id);
	tr_buf_addz(&sink->reply, "\r\n");
}

static void
handle(struct smtp_conn *conn)
{
	struct tr_sink *sink = conn->base.sink;
	/* the CR LF before the dot belongs to the message, ". CR LF" does not */
	int64_t size = (int64_t)(conn->data_bytes - conn->scan.stuffed - 3);
	bool reset = tr_sink_chance(sink, sink->reset_percent);
	bool garbage = !reset && tr_sink_chance(sink, sink->garbage_percent);
	int code = 250;

	conn->in_data = false;
	sink->smtp_bytes += size;
	if (reset) {
		sink->resets++;
		conn->base.state = TR_SINK_RESET;
		code = 0;
	} else if (garbage) {
		sink->garbage++;
		say(conn, "\x15\x03\x01 this is not SMTP \xff\xfe\r\n");
		conn->base.state = TR_SINK_CLOSING;
		code = 0;
	} else {
		code = choose(conn, TR_STAGE_DOT, 250);
	}
	if (code != 250) {
		sink->smtp_refused++;
	} else {
		sink->smtp_messages++;
		conn->id = (uint64_t)sink->smtp_messages;
		sink->smtp_recipients += conn->rcpt_count;
	}
	if (sink->record_fd >= 0) {
		if (sink->record_data) {
			conn->data.len -= conn->data.len >= 3 ? 3 : conn->data.len;
			unstuff(&conn->data);
		}
		record_mail(conn, size, code);
	}
	if (sink->show)
		tr_sink_show_mail(sink, (struct tr_str){conn->from.data, conn->from.len},
			tr_str(conn->rcpts.len > 0 ? conn->rcpts.data : ""), conn->rcpt_count, size, code);
	if (code == 250) {
		if (tr_sink_chance(sink, sink->slow_percent)) {
			sink->slow++;
			conn->base.state = TR_SINK_SLOW;
		} else {
			answer_dot(conn);
		}
	}
	reset_transaction(conn);
	tr_sink_check_until(sink);
}

/* --- commands ------------------------------------------------------------------------------------ */

static bool
starts(struct tr_str line, const char *verb)
{
	size_t len = strlen(verb);

	if (line.len < len)
		return false;
	for (size_t i = 0; i < len; i++) {
		char c = line.data[i];

		if ((c >= 'a' && c <= 'z' ? c - 32 : c) != verb[i])
			return false;
	}
	return line.len == len || line.data[len] == ' ' || verb[len - 1] == ':';
}

/* The address between < and > after `skip` bytes. false: there is none. */
static bool
path(struct tr_str line, size_t skip, struct tr_str *out)
{
	const char *open = memchr(line.data + skip, '<', line.len - skip);
	const char *close = open != NULL ? memchr(open, '>', line.len - (size_t)(open - line.data)) : NULL;

	if (close == NULL || memchr(open, '\0', (size_t)(close - open)) != NULL)
		return false;
	*out = (struct tr_str){open + 1, (size_t)(close - open - 1)};
	return true;
}

static void
command_mail(struct smtp_conn *conn, struct tr_str line)
{
	struct tr_str address;

	if (conn->in_mail) {
		say(conn, "503 5.5.1 one transaction at a time\r\n");
	} else if (conn->base.sink->ending) {
		say(conn, "421 4.3.2 the sink has what it waited for\r\n");
		conn->base.state = TR_SINK_CLOSING;
	} else if (!path(line, 10, &address)) {
		say(conn, "501 5.5.4 MAIL FROM:<address> expected\r\n");
	} else if (!refused(conn, TR_STAGE_MAIL, 250)) {
		conn->in_mail = true;
		tr_buf_add_str(&conn->from, address);
		say(conn, "250 2.1.0 OK\r\n");
	}
}

static void
command_rcpt(struct smtp_conn *conn, struct tr_str line)
{
	struct tr_str address;

	if (!conn->in_mail) {
		say(conn, "503 5.5.1 MAIL first\r\n");
	} else if (!path(line, 8, &address)) {
		say(conn, "501 5.5.4 RCPT TO:<address> expected\r\n");
	} else if (conn->rcpt_count == MAX_RCPTS) {
		say(conn, "452 4.5.3 too many recipients\r\n");
	} else if (!refused(conn, TR_STAGE_RCPT, 250)) {
		conn->rcpt_count++;
		tr_buf_add_str(&conn->rcpts, address);
		tr_buf_addc(&conn->rcpts, '\0');
		say(conn, "250 2.1.5 OK\r\n");
	}
}

static void
command_data(struct smtp_conn *conn)
{
	if (!conn->in_mail) {
		say(conn, "503 5.5.1 MAIL first\r\n");
	} else if (conn->rcpt_count == 0) {
		say(conn, "554 5.5.1 no valid recipients\r\n");
	} else if (!refused(conn, TR_STAGE_DATA, 354)) {
		conn->in_data = true;
		conn->data_bytes = 0;
		tr_dot_scan_start(&conn->scan);
		say(conn, "354 go ahead\r\n");
	}
}

static void
command(struct smtp_conn *conn, struct tr_str line)
{
	if (starts(line, "MAIL FROM:")) {
		command_mail(conn, line);
	} else if (starts(line, "RCPT TO:")) {
		command_rcpt(conn, line);
	} else if (starts(line, "DATA")) {
		command_data(conn);
	} else if (starts(line, "EHLO")) {
		reset_transaction(conn);
		say(conn, "250-tailrace-sink\r\n250-PIPELINING\r\n250-SIZE 0\r\n250-8BITMIME\r\n"
			  "250-ENHANCEDSTATUSCODES\r\n250 SMTPUTF8\r\n");
	} else if (starts(line, "HELO")) {
		reset_transaction(conn);
		say(conn, "250 tailrace-sink\r\n");
	} else if (starts(line, "RSET")) {
		reset_transaction(conn);
		say(conn, "250 2.0.0 OK\r\n");
	} else if (starts(line, "NOOP")) {
		say(conn, "250 2.0.0 OK\r\n");
	} else if (starts(line, "VRFY")) {
		say(conn, "252 2.5.2 send some mail, I will take it\r\n");
	} else if (starts(line, "QUIT")) {
		say(conn, "221 2.0.0 bye\r\n");
		conn->base.state = TR_SINK_CLOSING;
	} else {
		say(conn, "500 5.5.2 unknown command\r\n");
	}
}

/* --- bytes ----------------------------------------------------------------------------------------- */

/* Handles the complete commands and data of `data`; returns how many bytes they were. */
static size_t
take(struct tr_sink_conn *base, const char *data, size_t len)
{
	struct smtp_conn *conn = of(base);
	size_t used = 0;

	while (used < len && conn->base.state == TR_SINK_OPEN) {
		const char *start = data + used;
		size_t have = len - used;

		if (conn->in_data) {
			size_t end = tr_dot_scan_take(&conn->scan, start, have);
			size_t taken = end > 0 ? end : have;

			conn->data_bytes += taken;
			if (conn->base.sink->record_data && conn->base.sink->record_fd >= 0 &&
				conn->data.len < TR_SINK_MAX_BODY_BYTES)
				tr_buf_add(&conn->data, start, taken);
			used += taken;
			if (end > 0)
				handle(conn);
			continue;
		}
		const char *newline = memchr(start, '\n', have);

		if (newline == NULL) {
			if (have > MAX_LINE_BYTES) {
				say(conn, "500 5.5.2 line too long\r\n");
				conn->base.state = TR_SINK_CLOSING;
			}
			break;
		}
		struct tr_str line = {start, (size_t)(newline - start)};

		used += line.len + 1;
		while (line.len > 0 && (line.data[line.len - 1] == '\r' || line.data[line.len - 1] == ' '))
			line.len--;
		command(conn, line);
	}
	return used;
}

static enum tr_sink_state
slow_over(struct tr_sink_conn *base)
{
	answer_dot(of(base));
	return TR_SINK_OPEN;
}

static bool
failed(const struct tr_sink_conn *base)
{
	const struct smtp_conn *conn = tr_container_of(base, const struct smtp_conn, base);

	return conn->from.failed || conn->rcpts.failed || conn->data.failed;
}

static void
fini(struct tr_sink_conn *base)
{
	struct smtp_conn *conn = of(base);

	tr_buf_free(&conn->from);
	tr_buf_free(&conn->rcpts);
	tr_buf_free(&conn->data);
}

void
tr_sink_smtp_open(struct tr_sink *sink, int fd)
{
	static const struct tr_sink_protocol protocol = {
		.size = sizeof(struct smtp_conn),
		.take = take,
		.slow_over = slow_over,
		.failed = failed,
		.fini = fini,
	};
	struct tr_sink_conn *base = tr_sink_open(sink, &protocol, fd);

	if (base == NULL)
		return;
	sink->smtp_connections++;
	if (base->state == TR_SINK_HUNG)
		return;
	if (!refused(of(base), TR_STAGE_CONNECT, 220))
		say(of(base), "220 tailrace-sink ESMTP\r\n");
	tr_sink_settle(base);
}
