#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "base/clock.h"
#include "cli/inject.h"

enum { MAX_REPLY_BYTES = 64 * 1024 };

enum phase { /* while it is up */
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
	struct tr_buf rcpts; /* of the message, each with a NUL */
	enum phase phase;
	bool pipelining, eight_bit, sizes;
	bool has_message;
	int64_t number;      /* of the message */
	int64_t size;        /* of it, with its headers */
	int asked, answered; /* commands of the message: MAIL is 0, RCPT from 1 on, then DATA */
	int rcpts_ok;
	int refusal; /* first code that said no; 0: none */
	bool mail_ok;
};

static struct smtp_conn *conns; /* all of them: the command runs once in a process */

static void next_message(struct tr_inject_conn *base);

static struct smtp_conn *
of(struct tr_inject_conn *base)
{
	return tr_container_of(base, struct smtp_conn, base);
}

static struct tr_inject *
inject_of(struct smtp_conn *conn)
{
	return conn->base.inject;
}

static void
arm(struct smtp_conn *conn, int64_t delay_ns)
{
	tr_inject_arm(&conn->base, delay_ns);
}

static void
lost(struct smtp_conn *conn, const char *why)
{
	tr_inject_lost(&conn->base, why);
}

/* What becomes of its message depends on how far it got. */
static enum tr_inject_loss
leave(struct tr_inject_conn *base)
{
	struct smtp_conn *conn = of(base);

	if (conn->has_message) {
		conn->has_message = false;
		/* Only when the last byte is not handed over can the server not have it. */
		if (conn->phase == PHASE_DOT && base->body_left == 0 && conn->rcpts_ok > 0)
			base->inject->unknown++;
		else
			tr_inject_give_back(base->inject, 1);
	}
	if (base->state == TR_INJECT_CONNECTING || conn->phase <= PHASE_EHLO)
		return TR_INJECT_NOT_UP;
	return conn->phase == PHASE_QUIT   ? TR_INJECT_GOODBYE
	       : conn->phase == PHASE_IDLE ? TR_INJECT_IDLE
					   : TR_INJECT_BROKEN;
}

static void
ask(struct smtp_conn *conn, enum phase phase, const char *line)
{
	tr_buf_addz(&conn->base.out, line);
	conn->phase = phase;
	/* nothing hangs on the answer to QUIT */
	arm(conn, tr_min_i64(inject_of(conn)->timeout_ns, phase == PHASE_QUIT ? 2 * TR_NS_PER_S : INT64_MAX));
	tr_inject_flush(&conn->base);
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
	struct tr_buf *out = &conn->base.out;

	if (index == 0) {
		tr_buf_addz(out, "MAIL FROM:<");
		tr_buf_addz(out, inject->from);
		tr_buf_addc(out, '>');
		if (conn->sizes) {
			tr_buf_addz(out, " SIZE=");
			tr_buf_add_i64(out, conn->base.body->header_bytes + conn->base.body->size);
		}
		if (conn->eight_bit && conn->base.body->has_8bit)
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
	tr_inject_flush(&conn->base);
}

static void
next_message(struct tr_inject_conn *base)
{
	struct smtp_conn *conn = of(base);
	struct tr_inject *inject = base->inject;

	if (base->state != TR_INJECT_UP || conn->phase != PHASE_IDLE) /* lost while it waited for the rate */
		return;
	if (inject->messages_per_connection > 0 && conn->base.sent_here >= inject->messages_per_connection) {
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
	conn->base.body = tr_inject_body_of(inject, conn->number);
	conn->base.begun_ns = tr_mono_ns();
	conn->base.sent_here++;
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
	tr_latency_add(&inject->latency, now_ns - conn->base.begun_ns);
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
	tr_timer_stop(inject_of(conn)->wheel, &conn->base.timer); /* who waits for the rate waits for no answer */
	next_message(&conn->base);
}

static void
send_data(struct smtp_conn *conn)
{
	conn->phase = PHASE_DOT;
	if (conn->rcpts_ok == 0) { /* the server said 354 all the same: end it with nothing in it */
		tr_buf_addz(&conn->base.out, ".\r\n");
	} else {
		size_t before = conn->base.out.len;

		tr_inject_add_headers(
			inject_of(conn), conn->base.body, conn->number, tr_str(conn->rcpts.data), &conn->base.out);
		conn->size = (int64_t)(conn->base.out.len - before) + conn->base.body->size;
		conn->base.body_left = conn->base.body->bytes.len;
	}
	if (conn->base.out.failed) {
		lost(conn, "out of memory");
		return;
	}
	arm(conn, inject_of(conn)->timeout_ns);
	tr_inject_flush(&conn->base);
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
		conn->base.attempt = 0;
		go_on(conn, false);
		break;
	case PHASE_HELO:
		if (code != 250) {
			inject->codes[code]++;
			lost(conn, text);
			break;
		}
		conn->base.attempt = 0;
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

/* Handles the complete answers in conn->base.in. */
static void
take_replies(struct smtp_conn *conn)
{
	size_t used = 0;

	for (;;) {
		const char *start = conn->base.in.data + used;
		const char *newline = conn->base.in.len > used ? memchr(start, '\n', conn->base.in.len - used) : NULL;

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
		int fd = conn->base.fd;

		reply(conn, code, line);
		if (conn->base.fd != fd || conn->base.in.len == 0) /* hung up: the buffer is another one's */
			return;
	}
	if (used > 0)
		tr_buf_consume(&conn->base.in, used);
	if (conn->base.in.len > MAX_REPLY_BYTES)
		lost(conn, "an endless answer");
}

static void
connected(struct tr_inject_conn *base)
{
	of(base)->phase = PHASE_BANNER;
}

static void
received(struct tr_inject_conn *base)
{
	take_replies(of(base));
}

bool
tr_inject_smtp_start(struct tr_inject *inject)
{
	static const struct tr_inject_protocol protocol = {next_message, connected, received, leave};

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
tr_inject_smtp_free(struct tr_inject *inject)
{
	for (int64_t i = 0; conns != NULL && i < inject->connections; i++) {
		tr_inject_conn_fini(&conns[i].base);
		tr_buf_free(&conns[i].rcpts);
	}
	free(conns);
	conns = NULL;
}
