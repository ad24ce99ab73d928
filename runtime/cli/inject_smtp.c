#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/inject.h"

enum { READ_BYTES = 16 * 1024, MAX_REPLY_BYTES = 64 * 1024 };

enum phase {
	PHASE_OVER,  /* ended for good */
	PHASE_PAUSE, /* waits to connect again */
	PHASE_CONNECTING,
	PHASE_BANNER,
	PHASE_EHLO,
	PHASE_HELO, /* EHLO was refused */
	PHASE_IDLE, /* may send, waits for the rate */
	PHASE_MAIL, /* MAIL, RCPT and DATA: `answered` says which is next */
	PHASE_DOT,  /* the data is on its way or waits for its answer */
	PHASE_RSET,
	PHASE_QUIT,
};

struct smtp_conn {
	struct tr_inject_conn base;
	struct ev_io io;
	struct tr_timer timer;             /* the pause, or the deadline of an answer */
	struct tr_buf in;                  /* answers, perhaps half of one */
	struct tr_buf out;                 /* commands and generated headers */
	size_t out_at;                     /* sent of it */
	const struct tr_inject_body *body; /* sent behind `out` when body_left > 0 */
	size_t body_left;
	struct tr_buf rcpts; /* of the message, each with a NUL */
	enum phase phase;
	int fd;      /* -1: none */
	int attempt; /* to connect, since the last success */
	bool pipelining, eight_bit, sizes, enhanced;
	bool has_message;
	int64_t number; /* of the message */
	int64_t size;   /* of it, with its headers */
	int64_t begun_ns;
	int64_t sent_here;   /* messages on this connection */
	int asked, answered; /* commands of the message: MAIL is 0, RCPT from 1 on, then DATA */
	int rcpts_ok;
	int refusal; /* first code that said no; 0: none */
	bool mail_ok;
};

static struct smtp_conn *conns; /* all of them: the command runs once in a process */

static void on_io(struct ev_loop *ev, struct ev_io *io, int events);
static void on_timer(struct tr_timer *timer);
static void next_message(struct tr_inject_conn *base);
static void lost(struct smtp_conn *conn, const char *why);

static struct tr_inject *
inject_of(struct smtp_conn *conn)
{
	return conn->base.inject;
}

static void
arm(struct smtp_conn *conn, int64_t delay_ns)
{
	tr_timer_start(inject_of(conn)->wheel, &conn->timer, delay_ns, on_timer);
}

static void
watch(struct smtp_conn *conn, int events)
{
	struct ev_loop *ev = inject_of(conn)->ev;

	if (ev_is_active(&conn->io) && (conn->io.events & (EV_READ | EV_WRITE)) == events)
		return;
	ev_io_stop(ev, &conn->io);
	ev_io_set(&conn->io, conn->fd, events);
	ev_io_start(ev, &conn->io);
}

static void
hang_up(struct smtp_conn *conn)
{
	struct tr_inject *inject = inject_of(conn);

	if (conn->fd >= 0) {
		ev_io_stop(inject->ev, &conn->io);
		close(conn->fd);
		conn->fd = -1;
	}
	tr_timer_stop(inject->wheel, &conn->timer);
	tr_buf_clear(&conn->in);
	tr_buf_clear(&conn->out);
	conn->out_at = 0;
	conn->body_left = 0;
}

static void
end(struct smtp_conn *conn)
{
	if (conn->phase == PHASE_OVER)
		return;
	hang_up(conn);
	conn->phase = PHASE_OVER;
	tr_inject_conn_over(&conn->base);
}

static void
connect_again(struct smtp_conn *conn)
{
	struct tr_inject *inject = inject_of(conn);

	if (tr_inject_over(inject)) {
		end(conn);
		return;
	}
	conn->sent_here = 0;
	conn->fd = tr_cli_connect(&inject->target);
	if (conn->fd < 0) {
		int err = conn->fd;

		conn->fd = -1;
		conn->phase = PHASE_CONNECTING;
		lost(conn, tr_err_text(err));
		return;
	}
	conn->phase = PHASE_CONNECTING;
	ev_io_init(&conn->io, on_io, conn->fd, EV_WRITE);
	ev_io_start(inject->ev, &conn->io);
	arm(conn, inject->timeout_ns);
}

/* The connection is of no more use. What becomes of its message depends on how far it got. */
static void
lost(struct smtp_conn *conn, const char *why)
{
	struct tr_inject *inject = inject_of(conn);
	bool was_up = conn->phase > PHASE_EHLO;

	if (conn->has_message) {
		conn->has_message = false;
		/* Only when the last byte is not handed over can the server not have it. */
		if (conn->phase == PHASE_DOT && conn->body_left == 0 && conn->rcpts_ok > 0)
			inject->unknown++;
		else
			tr_inject_give_back(inject, 1);
	}
	hang_up(conn);
	if (conn->phase == PHASE_QUIT) { /* all is said and done */
		if (tr_inject_over(inject))
			end(conn);
		else
			connect_again(conn);
		return;
	}
	if (was_up)
		inject->lost_connections++;
	else
		inject->connect_failures++;
	bool idle = conn->phase == PHASE_IDLE;

	conn->phase = PHASE_PAUSE;
	if (!idle && !tr_inject_trouble(inject, "%s: %s", inject->target.text, why)) {
		end(conn);
		return;
	}
	if (tr_inject_over(inject)) {
		end(conn);
		return;
	}
	arm(conn, tr_inject_backoff_ns(conn->attempt++));
}

/* Sends what is there to send. false: the connection is lost, and conn may have gone on to another phase. */
static bool
flush(struct smtp_conn *conn)
{
	while (conn->out_at < conn->out.len || conn->body_left > 0) {
		struct iovec iov[2];
		int count = 0;
		size_t head = conn->out.len - conn->out_at;

		if (head > 0)
			iov[count++] = (struct iovec){conn->out.data + conn->out_at, head};
		if (conn->body_left > 0)
			iov[count++] = (struct iovec){
				conn->body->bytes.data + conn->body->bytes.len - conn->body_left, conn->body_left};
		ssize_t sent = writev(conn->fd, iov, count);

		if (sent < 0) {
			if (errno == EINTR)
				continue;
			if (errno == EAGAIN || errno == EWOULDBLOCK) {
				watch(conn, EV_READ | EV_WRITE);
				return true;
			}
			lost(conn, strerror(errno));
			return false;
		}
		size_t of_head = (size_t)sent < head ? (size_t)sent : head;

		conn->out_at += of_head;
		conn->body_left -= (size_t)sent - of_head;
	}
	tr_buf_clear(&conn->out);
	conn->out_at = 0;
	watch(conn, EV_READ);
	return true;
}

static void
ask(struct smtp_conn *conn, enum phase phase, const char *line)
{
	tr_buf_addz(&conn->out, line);
	conn->phase = phase;
	/* nothing hangs on the answer to QUIT */
	arm(conn, tr_min_i64(inject_of(conn)->timeout_ns, phase == PHASE_QUIT ? 2 * TR_NS_PER_S : INT64_MAX));
	flush(conn);
}

/* --- one message --------------------------------------------------------------------------------- */

static int
commands_of(const struct smtp_conn *conn)
{
	return (int)inject_of((struct smtp_conn *)conn)->rcpts_per_message + 2;
}

static void
add_command(struct smtp_conn *conn, int index, size_t *rcpt_at)
{
	struct tr_inject *inject = inject_of(conn);
	struct tr_buf *out = &conn->out;

	if (index == 0) {
		tr_buf_addz(out, "MAIL FROM:<");
		tr_buf_addz(out, inject->from);
		tr_buf_addc(out, '>');
		if (conn->sizes) {
			tr_buf_addz(out, " SIZE=");
			tr_buf_add_i64(out, conn->body->header_bytes + conn->body->size);
		}
		if (conn->eight_bit && conn->body->has_8bit)
			tr_buf_addz(out, " BODY=8BITMIME");
	} else if (index <= inject->rcpts_per_message) {
		struct tr_str rcpt = tr_str(conn->rcpts.data + *rcpt_at);

		*rcpt_at += rcpt.len + 1;
		tr_buf_addz(out, "RCPT TO:<");
		tr_buf_add_str(out, rcpt);
		tr_buf_addc(out, '>');
	} else {
		tr_buf_addz(out, "DATA");
	}
	tr_buf_addz(out, "\r\n");
}

/* Asks the next command, or all of them at once where pipelining is offered. */
static void
ask_more(struct smtp_conn *conn)
{
	size_t rcpt_at = 0;

	for (int i = 1; i < conn->asked && i <= inject_of(conn)->rcpts_per_message; i++)
		rcpt_at += strlen(conn->rcpts.data + rcpt_at) + 1;
	do
		add_command(conn, conn->asked++, &rcpt_at);
	while (conn->pipelining && conn->asked < commands_of(conn));
	flush(conn);
}

static void
next_message(struct tr_inject_conn *base)
{
	struct smtp_conn *conn = tr_container_of(base, struct smtp_conn, base);
	struct tr_inject *inject = inject_of(conn);

	if (conn->phase != PHASE_IDLE) /* lost while it waited for the rate */
		return;
	if (inject->messages_per_connection > 0 && conn->sent_here >= inject->messages_per_connection) {
		ask(conn, PHASE_QUIT, "QUIT\r\n");
		return;
	}
	if (tr_inject_take(base, 1) == 0) {
		if (tr_inject_over(inject))
			ask(conn, PHASE_QUIT, "QUIT\r\n");
		return;
	}
	conn->has_message = true;
	conn->number = inject->started - 1;
	conn->body = tr_inject_body_of(inject, conn->number);
	conn->begun_ns = tr_mono_ns();
	conn->sent_here++;
	conn->asked = conn->answered = conn->rcpts_ok = conn->refusal = 0;
	conn->mail_ok = false;
	tr_buf_clear(&conn->rcpts);
	for (int64_t i = 0; i < inject->rcpts_per_message; i++) {
		tr_inject_add_rcpt(inject, &conn->rcpts);
		tr_buf_addc(&conn->rcpts, '\0');
	}
	conn->phase = PHASE_MAIL;
	if (conn->rcpts.failed) {
		lost(conn, "out of memory");
		return;
	}
	arm(conn, inject->timeout_ns);
	ask_more(conn);
}

static void
count_outcome(struct smtp_conn *conn, int code)
{
	struct tr_inject *inject = inject_of(conn);
	int64_t now_ns = tr_mono_ns();

	conn->has_message = false;
	inject->codes[code]++;
	tr_latency_add(&inject->latency, now_ns - conn->begun_ns);
	if (code / 100 == 2) {
		inject->accepted++;
		inject->recipients += conn->rcpts_ok;
		inject->bytes += conn->size;
	} else {
		inject->refused++;
	}
}

static void
go_on(struct smtp_conn *conn, bool in_transaction)
{
	if (in_transaction) {
		ask(conn, PHASE_RSET, "RSET\r\n");
		return;
	}
	conn->phase = PHASE_IDLE;
	next_message(&conn->base);
}

static void
send_data(struct smtp_conn *conn)
{
	conn->phase = PHASE_DOT;
	if (conn->rcpts_ok == 0) { /* the server said 354 all the same: end it with nothing in it */
		tr_buf_addz(&conn->out, ".\r\n");
	} else {
		size_t before = conn->out.len;

		tr_inject_add_headers(inject_of(conn), conn->body, conn->number, tr_str(conn->rcpts.data), &conn->out);
		conn->size = (int64_t)(conn->out.len - before) + conn->body->size;
		conn->body_left = conn->body->bytes.len;
	}
	if (conn->out.failed) {
		lost(conn, "out of memory");
		return;
	}
	arm(conn, inject_of(conn)->timeout_ns);
	flush(conn);
}

/* An answer to MAIL, RCPT or DATA. */
static void
envelope_reply(struct smtp_conn *conn, int code)
{
	struct tr_inject *inject = inject_of(conn);
	int index = conn->answered++;
	bool is_data = index == commands_of(conn) - 1;
	bool yes = is_data ? code == 354 : code / 100 == 2;

	if (!yes && conn->refusal == 0)
		conn->refusal = code;
	if (index == 0) {
		conn->mail_ok = yes;
	} else if (!is_data) {
		conn->rcpts_ok += yes;
		inject->recipients_refused += !yes && conn->mail_ok;
	}
	if (is_data && yes) {
		send_data(conn);
	} else if (is_data || (!conn->pipelining && !conn->mail_ok) ||
		   (!conn->pipelining && index == inject->rcpts_per_message && conn->rcpts_ok == 0)) {
		/* a refused DATA outweighs recipients that were refused before it, unless all were */
		count_outcome(conn, is_data && conn->rcpts_ok > 0 ? code : conn->refusal);
		go_on(conn, conn->mail_ok);
	} else if (conn->answered == conn->asked) {
		arm(conn, inject->timeout_ns);
		ask_more(conn);
	}
}

static void
dot_reply(struct smtp_conn *conn, int code, struct tr_str line)
{
	struct tr_inject *inject = inject_of(conn);

	if (conn->rcpts_ok == 0) {
		count_outcome(conn, conn->refusal);
	} else {
		count_outcome(conn, code);
		if (code == 250) {
			tr_inject_add_ids(inject, line);
			inject->partial += line.len > 12 && memcmp(line.data, "250 PARTIAL ", 12) == 0;
		}
	}
	go_on(conn, false);
}

/* --- answers ---------------------------------------------------------------------------------------- */

static void
read_extension(struct smtp_conn *conn, struct tr_str line)
{
	const char *word = line.data + 4;
	size_t len = line.len - 4;

	if (len == 10 && strncasecmp(word, "PIPELINING", 10) == 0)
		conn->pipelining = true;
	else if (len == 8 && strncasecmp(word, "8BITMIME", 8) == 0)
		conn->eight_bit = true;
	else if (len >= 4 && strncasecmp(word, "SIZE", 4) == 0 && (len == 4 || word[4] == ' '))
		conn->sizes = true;
}

/* The last line of an answer. */
static void
reply(struct smtp_conn *conn, int code, struct tr_str line)
{
	struct tr_inject *inject = inject_of(conn);
	char text[128];

	snprintf(text, sizeof text, "answered %.*s", (int)(line.len < 100 ? line.len : 100), line.data);
	if (code == 421 && conn->phase != PHASE_QUIT) { /* the server ends here; an answer to the dot is an outcome */
		if (conn->has_message && (conn->phase == PHASE_DOT || !inject->keep_going))
			count_outcome(conn, code);
		else if (!conn->has_message)
			inject->codes[code]++;
		lost(conn, text);
		return;
	}
	switch (conn->phase) {
	case PHASE_BANNER:
		if (code == 220) {
			inject->connects++;
			conn->pipelining = conn->eight_bit = conn->sizes = false;
			ask(conn, PHASE_EHLO, "EHLO tailrace-inject\r\n");
		} else {
			inject->codes[code]++;
			lost(conn, text);
		}
		break;
	case PHASE_EHLO:
		if (code != 250) {
			ask(conn, PHASE_HELO, "HELO tailrace-inject\r\n");
			break;
		}
		read_extension(conn, line);
		conn->attempt = 0;
		go_on(conn, false);
		break;
	case PHASE_HELO:
		if (code != 250) {
			inject->codes[code]++;
			lost(conn, text);
			break;
		}
		conn->attempt = 0;
		go_on(conn, false);
		break;
	case PHASE_MAIL:
		envelope_reply(conn, code);
		break;
	case PHASE_DOT:
		dot_reply(conn, code, line);
		break;
	case PHASE_RSET:
		go_on(conn, false);
		break;
	case PHASE_QUIT:
		lost(conn, "QUIT");
		break;
	default:
		lost(conn, "an answer to nothing that was asked");
		break;
	}
}

/* Handles the complete answers in conn->in. */
static void
take_replies(struct smtp_conn *conn)
{
	size_t used = 0;

	for (;;) {
		const char *start = conn->in.data + used;
		const char *newline = conn->in.len > used ? memchr(start, '\n', conn->in.len - used) : NULL;

		if (newline == NULL)
			break;
		struct tr_str line = {start, (size_t)(newline - start)};

		used += line.len + 1;
		while (line.len > 0 && line.data[line.len - 1] == '\r')
			line.len--;
		int code = 0;

		for (size_t i = 0; i < 3 && i < line.len && line.data[i] >= '0' && line.data[i] <= '9'; i++)
			code = code * 10 + (line.data[i] - '0');
		if (code < 200 || code >= TR_INJECT_CODES ||
			(line.len > 3 && line.data[3] != ' ' && line.data[3] != '-')) {
			lost(conn, "the answer is no SMTP");
			return;
		}
		if (line.len > 3 && line.data[3] == '-') {
			if (conn->phase == PHASE_EHLO)
				read_extension(conn, line);
			continue;
		}
		if (conn->phase == PHASE_EHLO && line.len <= 4)
			line = TR_STR("250 -");
		int fd = conn->fd;

		reply(conn, code, line);
		if (conn->fd != fd || conn->in.len == 0) /* hung up: the buffer is another one's */
			return;
	}
	if (used > 0)
		tr_buf_consume(&conn->in, used);
	if (conn->in.len > MAX_REPLY_BYTES)
		lost(conn, "an endless answer");
}

static void
on_timer(struct tr_timer *timer)
{
	struct smtp_conn *conn = tr_container_of(timer, struct smtp_conn, timer);

	if (conn->phase == PHASE_PAUSE)
		connect_again(conn);
	else if (conn->phase != PHASE_IDLE) /* who waits for the rate waits for no answer */
		lost(conn, "no answer in time");
}

static void
on_io(struct ev_loop *ev, struct ev_io *io, int events)
{
	struct smtp_conn *conn = tr_container_of(io, struct smtp_conn, io);

	if (conn->phase == PHASE_CONNECTING) {
		int error = 0;
		socklen_t len = sizeof error;

		getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &len);
		if (error != 0) {
			lost(conn, strerror(error));
			return;
		}
		conn->phase = PHASE_BANNER;
		watch(conn, EV_READ);
		return;
	}
	if ((events & EV_WRITE) && !flush(conn))
		return;
	if (!(events & EV_READ))
		return;
	char *to = tr_buf_reserve(&conn->in, READ_BYTES);

	if (to == NULL) {
		lost(conn, "out of memory");
		return;
	}
	ssize_t got = read(conn->fd, to, READ_BYTES);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) {
		lost(conn, got == 0 ? "the server closed the connection" : strerror(errno));
		return;
	}
	conn->in.len += (size_t)got;
	take_replies(conn);
}

bool
tr_inject_smtp_start(struct tr_inject *inject)
{
	conns = calloc((size_t)inject->connections, sizeof *conns);
	if (conns == NULL)
		return false;
	for (int64_t i = 0; i < inject->connections; i++) {
		conns[i].base.inject = inject;
		conns[i].base.start = next_message;
		conns[i].fd = -1;
		conns[i].phase = PHASE_PAUSE;
	}
	for (int64_t i = 0; i < inject->connections; i++)
		connect_again(&conns[i]);
	return true;
}

void
tr_inject_smtp_free(struct tr_inject *inject)
{
	for (int64_t i = 0; conns != NULL && i < inject->connections; i++) {
		hang_up(&conns[i]);
		tr_buf_free(&conns[i].in);
		tr_buf_free(&conns[i].out);
		tr_buf_free(&conns[i].rcpts);
	}
	free(conns);
	conns = NULL;
}
