#include <stdlib.h>
#include <unistd.h>

#include "base/diag.h"
#include "ingress/intake.h"
#include "ingress/smtp_internal.h"

#define LINGER_NS (2 * TR_NS_PER_S)
#define REPLIES_MAX (16 * 1024) /* bytes of replies that a client has not taken; it is heard again when it has all */
#define COMMANDS_MAX (4 * 1024) /* bytes of commands that are read ahead of a client */
#define TEXTS_MAX (4 * 1024 * 1024) /* bytes of texts that are read at a time from all clients of a listener */
#define COMMANDS_A_TURN 32          /* then others have theirs */

static const struct tr_smtp_answer no_answer = {.reject_code = -1};

/* --- life --------------------------------------------------------------------------------------------------- */

static void
release(struct tr_defer *defer)
{
	struct tr_smtp_session *session = tr_container_of(defer, struct tr_smtp_session, release);

	for (uint8_t i = 0; i < session->domain_count; i++) {
		free(session->domains[i].name);
		tr_cidr_list_fini(&session->domains[i].domain.relay_from);
	}
	free(session->domains);
	free(session->relay_names[0]);
	free(session->relay_names[1]);
	free(session->ehlo);
	free(session->command_kept);
	free(session->trouble);
	tr_buf_free(&session->reply);
	tr_meta_fini(&session->meta);
	tr_smtp_params_unref(session->params);
	atomic_fetch_sub(&session->shared->sessions, 1); /* the last touch: the listener may go now */
	free(session);
}

/* Ends everything but the memory, which goes later in the turn: callers up the stack may still look at it. */
static void
end_session(struct tr_smtp_session *session, int64_t linger_ns)
{
	struct tr_smtp_shared *shared = session->shared;
	struct tr_loop *loop = tr_worker_loop(session->worker);

	if (session->dead)
		return;
	session->dead = true;
	if (session->then != NULL) {
		session->then = NULL;
		shared->ops->cancel(shared->ops_arg, session);
	}
	tr_timer_stop(tr_loop_wheel(loop), &session->timer);
	tr_smtp_intake_leave(session);
	tr_smtp_text_free(session);
	tr_smtp_clear_mail(session);
	tr_addr_fini(&session->rcpt);
	if (linger_ns >= 0)
		tr_stream_close(session->stream, linger_ns);
	else
		tr_stream_abort(session->stream);
	shared->ops->gone(shared->ops_arg, session);
	for (int i = 0; i < 2; i++)
		tr_metric_add(shared->connections[i], -1);
	tr_smtp_crowd_remove(session);
	tr_loop_defer(loop, &session->release, release);
}

void
tr_smtp_close(struct tr_smtp_session *session)
{
	/* while the process stops, nobody waits for what the client might still say */
	end_session(session, session->stopping ? 0 : LINGER_NS);
}

void
tr_smtp_session_abort(struct tr_smtp_session *session)
{
	end_session(session, -1);
}

static void
say_stopping(struct tr_smtp_session *session)
{
	struct tr_buf text = {0};

	tr_buf_addf(&text, "4.3.2 %s shutting down", session->params->hostname);
	tr_smtp_write_lines(session, 421, (struct tr_str){text.data, text.len});
	tr_buf_free(&text);
	tr_smtp_close(session);
}

void
tr_smtp_session_stop(struct tr_smtp_session *session)
{
	session->stopping = true;
	if ((!session->waiting || session->draining || (session->paused && session->state == TR_SMTP_AT_COMMAND)) &&
		!session->processing)
		say_stopping(session); /* it waits for nothing that could become mail */
}

struct tr_smtp_session *
tr_smtp_session_next(struct tr_smtp_session *session)
{
	return session->next;
}

/* --- waiting and going on --------------------------------------------------------------------------------------- */

static void
renew_deadline(struct tr_smtp_session *session)
{
	tr_stream_deadline(session->stream, session->params->client_timeout_ns);
}

void
tr_smtp_wait(struct tr_smtp_session *session)
{
	session->waiting = true;
}

/* The loop over the input has ended, or whatever ran instead of it. */
static void
rest(struct tr_smtp_session *session)
{
	if (session->dead || !session->waiting)
		return;
	tr_stream_deadline(session->stream, session->draining ? session->params->client_timeout_ns : 0);
	tr_stream_pause(session->stream);
	if (session->command.data != NULL && session->command_kept == NULL) {
		session->command_kept = strndup(session->command.data, session->command.len);
		session->command.data = session->command_kept;
	}
}

void
tr_smtp_go_on(struct tr_smtp_session *session)
{
	session->waiting = false;
	if (session->processing || session->dead)
		return;
	if (session->stopping) {
		say_stopping(session);
		return;
	}
	renew_deadline(session);
	tr_stream_resume(session->stream);
}

/* --- events --------------------------------------------------------------------------------------------------- */

const char *
tr_smtp_event_name(enum tr_smtp_event event)
{
	static const char *const names[] = {
		[TR_SMTP_ON_PARAMETERS] = "smtp_server_get_dynamic_parameters",
		[TR_SMTP_ON_CONNECT] = "smtp_server_connection_accepted",
		[TR_SMTP_ON_EHLO] = "smtp_server_ehlo",
		[TR_SMTP_ON_MAIL] = "smtp_server_mail_from",
		[TR_SMTP_ON_RCPT] = "smtp_server_rcpt_to",
		[TR_SMTP_ON_DOMAIN] = "get_listener_domain",
		[TR_SMTP_ON_DATA] = "smtp_server_data",
		[TR_SMTP_ON_SPLIT] = "smtp_server_split_transaction",
		[TR_SMTP_ON_MESSAGE] = "smtp_server_message_received",
		[TR_SMTP_ON_REPLY] = "smtp_server_rewrite_response",
	};

	return names[event];
}

bool
tr_smtp_wants(struct tr_smtp_session *session, enum tr_smtp_event event)
{
	return session->shared->ops->wants(session->shared->ops_arg, session->worker, event);
}

void
tr_smtp_fire(struct tr_smtp_session *session, const struct tr_smtp_call *call, tr_smtp_then *then)
{
	if (!tr_smtp_wants(session, call->event)) {
		then(session, &no_answer);
		return;
	}
	session->then = then;
	tr_smtp_wait(session);
	session->shared->ops->fire(session->shared->ops_arg, session, call);
}

void
tr_smtp_session_answer(struct tr_smtp_session *session, const struct tr_smtp_answer *answer)
{
	tr_smtp_then *then = session->then;

	if (session->dead || then == NULL) {
		tr_smtp_params_unref(answer->params);
		return;
	}
	session->then = NULL;
	session->waiting = false;
	then(session, answer); /* waits again, replies, or ends the session */
}

/* Room for a whole command line in any case; much more only for a text. */
void
tr_smtp_size_input(struct tr_smtp_session *session)
{
	size_t line = session->params->line_limit + 2, size = session->params->data_buffer_size;

	if (session->text == NULL) {
		size = size < COMMANDS_MAX ? size : COMMANDS_MAX;
	} else { /* many share a turn: others wait for it */
		size_t share = TEXTS_MAX / (atomic_load(&session->shared->sessions) + 1);

		share = share > COMMANDS_MAX ? share : COMMANDS_MAX;
		size = size < share ? size : share;
	}

	tr_stream_set_input_limit(session->stream, size > line ? size : line);
}

/* --- input ------------------------------------------------------------------------------------------------------ */

static void
do_text(struct tr_smtp_session *session, const char *bytes, size_t len, size_t *used)
{
	struct tr_smtp_text *text = session->text;
	bool ended = false;

	size_t done = tr_smtp_data_scan(&text->scan, bytes, len, tr_smtp_text_add, session, &ended);

	*used += done;
	if (text->no_memory || text->no_space || text->scan.too_big || text->scan.long_line)
		tr_smtp_charge_bytes(session, done);
	if (text->scan.lines != text->lines_seen || ended) {
		text->lines_seen = text->scan.lines;
		renew_deadline(session);
	}
	if (!ended)
		return;
	session->state = TR_SMTP_AT_WORK;
	tr_smtp_text_end(session);
}

/* One command line of what is there. False: none is complete. */
static bool
do_command(struct tr_smtp_session *session, const char *bytes, size_t len, size_t *used)
{
	const char *lf = len > 0 ? memchr(bytes, '\n', len) : NULL;
	size_t line = lf != NULL ? (size_t)(lf - bytes) : len;
	bool crlf = lf != NULL && line > 0 && lf[-1] == '\r';

	if (line - crlf > session->params->line_limit && (lf != NULL || line > session->params->line_limit + 1)) {
		/* told at its end, so that one line has one answer; its bytes are not kept */
		session->skipping = true;
	}
	if (lf == NULL) {
		if (session->skipping) {
			*used += len;
			tr_smtp_charge_bytes(session, len);
		}
		return false;
	}
	*used += line + 1;
	renew_deadline(session);
	session->heard_at_ns = tr_mono_ns();
	if (session->skipping) {
		session->skipping = false;
		tr_smtp_reply(session, 500, "5.2.3 line too long", TR_SMTP_GO_ON);
		return true;
	}
	session->command = (struct tr_str){bytes, line - crlf};
	if (!crlf)
		tr_smtp_reply(session, 500, "5.5.2 a command line must end with CRLF", TR_SMTP_GO_ON);
	else
		tr_smtp_do_line(session, session->command);
	return true;
}

static void
process(struct tr_smtp_session *session)
{
	struct tr_buf *in = tr_stream_input(session->stream);
	size_t used = 0;
	int commands = 0;

	if (session->processing || session->waiting)
		return;
	session->processing = true;
	while (!session->waiting && !session->dead && used < in->len) {
		const char *bytes = in->data + used;
		size_t len = in->len - used;

		if (tr_stream_backlog(session->stream) > REPLIES_MAX)
			tr_stream_flush(session->stream);
		if (tr_stream_backlog(session->stream) > REPLIES_MAX) { /* a client that sends and does not read */
			session->draining = true;
			tr_stream_want_drained(session->stream);
			tr_smtp_wait(session);
		} else if (session->state == TR_SMTP_AT_TEXT) {
			if (tr_spool_pressure(tr_smtp_spool(session)))
				tr_smtp_pause(session, TR_SMTP_PRESSURE_NS);
			else if (tr_smtp_may_go_on(session))
				do_text(session, bytes, len, &used);
		} else if (++commands > COMMANDS_A_TURN) {
			tr_smtp_pause(session, 0);
		} else if (tr_smtp_may_go_on(session) && !do_command(session, bytes, len, &used)) {
			break;
		}
	}
	session->processing = false;
	if (session->dead)
		return;
	rest(session); /* keeps what it needs of the input */
	tr_buf_consume(in, used);
	if (session->stopping && !session->waiting)
		say_stopping(session);
}

static void
on_data(struct tr_stream *stream, void *arg)
{
	process(arg);
}

static void
on_drained(struct tr_stream *stream, void *arg)
{
	struct tr_smtp_session *session = arg;

	if (!session->draining)
		return;
	session->draining = false;
	tr_smtp_go_on(session);
}

static void
on_closed(struct tr_stream *stream, int err, void *arg)
{
	struct tr_smtp_session *session = arg;

	if (err != TR_ETIMEDOUT) {
		tr_smtp_session_abort(session);
		return;
	}
	session->command = (struct tr_str){NULL, 0};
	tr_smtp_replyf(session, 421, TR_SMTP_CLOSE, "4.3.2 %s idle too long", session->params->hostname);
}

/* --- what others need to know of it ---------------------------------------------------------------------------------
 */

struct tr_spool *
tr_smtp_spool(struct tr_smtp_session *session)
{
	return tr_engine_spool(tr_worker_engine(session->worker));
}

void
tr_smtp_clear_mail(struct tr_smtp_session *session)
{
	for (uint32_t i = 0; i < session->rcpt_count; i++)
		tr_addr_fini(&session->rcpts[i]);
	tr_intake_give(TR_INTAKE_MAIL, session->rcpt_bytes);
	session->rcpt_bytes = 0;
	free(session->rcpts);
	session->rcpts = NULL;
	session->rcpt_count = 0;
	tr_addr_fini(&session->sender);
	session->in_mail = session->close_mail = false;
}

const char *
tr_smtp_session_uuid(struct tr_smtp_session *session)
{
	if (session->session_id[0] == '\0') {
		uint8_t id[16];

		tr_uuid4(id);
		tr_uuid_hyphenated(id, session->session_id);
	}
	return session->session_id;
}

struct tr_worker *
tr_smtp_session_worker(struct tr_smtp_session *session)
{
	return session->worker;
}

struct tr_smtp_params *
tr_smtp_session_params(struct tr_smtp_session *session)
{
	return session->params;
}

struct tr_smtp_params *
tr_smtp_session_params_for(struct tr_smtp_session *session, struct tr_smtp_params *from)
{
	return tr_smtp_params_for(from, tr_stream_peer(session->stream), tr_stream_local(session->stream));
}

const char *
tr_smtp_session_local(struct tr_smtp_session *session)
{
	static _Thread_local char text[64]; /* for the caller's next statement */

	tr_sockaddr_text(tr_stream_local(session->stream), true, text);
	return text;
}

const struct tr_sockaddr *
tr_smtp_session_peer(struct tr_smtp_session *session)
{
	return tr_stream_peer(session->stream);
}

void **
tr_smtp_session_slot(struct tr_smtp_session *session)
{
	return &session->slot;
}

struct tr_meta *
tr_smtp_session_meta(struct tr_smtp_session *session)
{
	char peer[64], local[64];
	int err;

	if (session->has_meta)
		return &session->meta;
	tr_sockaddr_text(tr_stream_peer(session->stream), true, peer);
	tr_sockaddr_text(tr_stream_local(session->stream), true, local);
	err = tr_meta_set_string(&session->meta, TR_STR("reception_protocol"), TR_STR("ESMTP"));
	if (err == TR_OK)
		err = tr_meta_set_string(&session->meta, TR_STR("received_via"), tr_str(local));
	if (err == TR_OK)
		err = tr_meta_set_string(&session->meta, TR_STR("received_from"), tr_str(peer));
	if (err == TR_OK)
		err = tr_meta_set_string(&session->meta, TR_STR("hostname"), tr_str(session->params->hostname));
	if (err == TR_OK && session->ehlo != NULL)
		err = tr_meta_set_string(&session->meta, TR_STR("ehlo_domain"), tr_str(session->ehlo));
	if (err == TR_OK)
		err = tr_meta_copy(&session->params->meta, &session->meta);
	if (err != TR_OK) {
		tr_meta_fini(&session->meta);
		return NULL;
	}
	session->has_meta = true;
	return &session->meta;
}

/* --- start ---------------------------------------------------------------------------------------------------------
 */

void
tr_smtp_session_start(struct tr_smtp_shared *shared, struct tr_worker *worker, int fd, struct tr_smtp_crowd *crowd)
{
	static const struct tr_stream_handlers handlers = {on_data, on_drained, on_closed};
	struct tr_smtp_session *session = calloc(1, sizeof *session);

	if (session == NULL) {
		close(fd);
		atomic_fetch_sub(&shared->sessions, 1);
		tr_log(TR_LEVEL_ERROR, "smtp_server", "%s: a connection was closed: out of memory", shared->text);
		return;
	}
	session->stream = tr_stream_new(tr_worker_loop(worker), fd, &handlers, session);
	if (session->stream == NULL) {
		free(session);
		atomic_fetch_sub(&shared->sessions, 1);
		tr_log(TR_LEVEL_ERROR, "smtp_server", "%s: a connection was closed: out of memory", shared->text);
		return;
	}
	session->shared = shared;
	session->worker = worker;
	session->params =
		tr_smtp_params_for(shared->params, tr_stream_peer(session->stream), tr_stream_local(session->stream));
	if (session->params == NULL) {
		tr_stream_abort(session->stream);
		free(session);
		atomic_fetch_sub(&shared->sessions, 1);
		tr_log(TR_LEVEL_ERROR, "smtp_server", "%s: a connection was closed: out of memory", shared->text);
		return;
	}
	session->heard_at_ns = tr_mono_ns();
	tr_smtp_crowd_add(session, crowd);
	for (int i = 0; i < 2; i++) {
		tr_metric_add(shared->connections[i], 1);
		tr_metric_add(shared->opened[i], 1);
	}
	session->stopping = atomic_load(&shared->stopping);
	tr_smtp_size_input(session);
	renew_deadline(session);
	session->processing = true;
	tr_smtp_greet(session);
	session->processing = false;
	rest(session);
}
