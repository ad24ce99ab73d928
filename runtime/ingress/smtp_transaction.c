/* From 354 to the answer: collecting the text, the events of contract/smtp.md 1.6, trace headers, and the hand-over to
 * the shared intake. The answer is given after the commit. */
#include <stdlib.h>

#include "base/diag.h"
#include "ingress/intake.h"
#include "ingress/smtp_internal.h"

#define WINDOW_NS (2 * TR_NS_PER_S) /* over which it is seen how fast a text comes */

/* What is at the spool. Its strings and messages must stay until the commit, whatever becomes of the session. */
struct tr_smtp_intake {
	struct tr_smtp_session *session; /* NULL: gone, nobody waits for the answer */
	struct tr_worker *worker;
	struct tr_smtp_shared *shared;
	struct tr_receive *receive; /* until it is started */
	struct tr_blob *blob;       /* the text as it came: messages that still have it can use its file */
	uint64_t file_id;           /* of that file, 0: none */
	char *ehlo;
	char peer[64], session_id[37];
};

/* --- collecting --------------------------------------------------------------------------------------------------- */

int
tr_smtp_text_begin(struct tr_smtp_session *session)
{
	const struct tr_smtp_params *params = session->params;
	struct tr_smtp_text *text = calloc(1, sizeof *text);

	if (text == NULL)
		return TR_ENOMEM;
	tr_smtp_data_init(&text->scan, params->line_ends, params->line_limit, params->max_message_size);
	text->window_at_ns = tr_mono_ns();
	session->text = text;
	tr_smtp_size_input(session);
	return TR_OK;
}

void
tr_smtp_text_give_up(struct tr_smtp_text *text)
{
	tr_buf_free(&text->body);
	tr_intake_give(TR_INTAKE_MAIL, text->counted);
	text->counted = 0;
	if (text->file != NULL)
		tr_body_file_drop(text->file);
	text->file = NULL;
}

/* Room in the body for `len` more, counted as it is allocated. */
static bool
make_room(struct tr_smtp_session *session, size_t len)
{
	struct tr_buf *body = &session->text->body;
	size_t cap = body->cap + body->cap / 2, grows;
	char *data;

	if (body->data != NULL && body->cap - body->len >= len)
		return true;
	if (cap < body->len + len)
		cap = body->len + len;
	grows = cap - body->cap;
	if (!tr_smtp_take_memory(session, (int64_t)grows))
		return false;
	session->text->counted += (int64_t)grows;
	data = realloc(body->data, cap);
	if (data == NULL)
		return false;
	body->data = data;
	body->cap = cap;
	return true;
}

void
tr_smtp_text_add(void *arg, const char *run, size_t len)
{
	struct tr_smtp_session *session = arg;
	struct tr_smtp_text *text = session->text;
	int64_t now_ns = tr_mono_ns();
	int err = TR_OK;

	if (text->no_memory || text->no_space)
		return;
	if (now_ns - text->window_at_ns > WINDOW_NS) {
		text->window_at_ns = now_ns;
		text->window_bytes = 0;
	}
	text->window_bytes += (int64_t)len;
	if (!make_room(session, len)) {
		text->no_memory = true;
		tr_smtp_text_give_up(text);
		return;
	}
	tr_buf_add(&text->body, run, len);
	if (text->file != NULL) {
		err = tr_body_file_add(text->file, run, len);
	} else if (text->body.len > tr_spool_body_file_bytes(tr_smtp_spool(session))) {
		err = tr_body_file_new(tr_smtp_spool(session), &text->file);
		if (err == TR_OK)
			err = tr_body_file_add(text->file, text->body.data, text->body.len);
	}
	if (err != TR_OK) {
		text->no_space = true;
		tr_smtp_text_give_up(text);
	}
}

void
tr_smtp_text_free(struct tr_smtp_session *session)
{
	struct tr_smtp_text *text = session->text;

	if (text == NULL)
		return;
	session->text = NULL;
	tr_timer_stop(tr_loop_wheel(tr_worker_loop(session->worker)), &session->timer);
	tr_smtp_text_give_up(text);
	if (!session->dead)
		tr_smtp_size_input(session);
	tr_blob_unref(text->blob);
	for (uint32_t i = 0; i < text->count; i++)
		tr_message_free(text->messages[i]);
	free(text->messages);
	free(text->relayable);
	free(text);
}

/* --- loops over the messages ----------------------------------------------------------------------------------------
 */

/* Runs `step`, and what it asks for next, without nesting: many messages must not mean a deep stack. */
static void
step_run(struct tr_smtp_session *session, void (*step)(struct tr_smtp_session *session))
{
	session->step = step;
	if (session->stepping)
		return; /* the loop below takes it */
	session->stepping = true;
	while (session->step != NULL && !session->dead) {
		step = session->step;
		session->step = NULL;
		step(session);
	}
	session->stepping = false;
}

/* --- at the spool
 * ----------------------------------------------------------------------------------------------------- */

static void
free_intake(struct tr_smtp_intake *intake)
{
	if (intake == NULL)
		return;
	if (intake->session != NULL)
		intake->session->intake = NULL;
	tr_receive_free(intake->receive);
	tr_blob_unref(intake->blob);
	free(intake->ehlo);
	free(intake);
}

void
tr_smtp_intake_leave(struct tr_smtp_session *session)
{
	if (session->intake == NULL)
		return;
	session->intake->session = NULL;
	session->intake = NULL;
}

static void
refuse_storage(struct tr_smtp_session *session, int err)
{
	const char *host = session->params->hostname;

	if (err == TR_ETOOBIG)
		tr_smtp_reply(session, 552, "5.3.4 message too big", TR_SMTP_GO_ON);
	else if (err == TR_ENOMEM)
		tr_smtp_replyf(session, 452, TR_SMTP_GO_ON, "4.3.1 %s out of memory. Try later", host);
	else
		tr_smtp_replyf(session, 452, TR_SMTP_GO_ON, "4.3.1 %s disk is too full. Try later", host);
}

static void
answer_stored(struct tr_smtp_session *session, const struct tr_receive *receive)
{
	struct tr_buf text = {0};
	int64_t taken = 0;

	tr_buf_addz(&text, "OK ids=");
	for (uint32_t i = 0; i < receive->count; i++) {
		taken += !receive->items[i].log_only;
		if (i > 0)
			tr_buf_addc(&text, ' ');
		tr_buf_addz(&text, receive->items[i].id);
	}
	tr_buf_addc(&text, '\0');
	for (int i = 0; i < 2; i++)
		tr_metric_add(session->shared->messages[i], taken);
	session->fruitless = 0;
	session->paid = 0;
	if (taken == 0)
		tr_smtp_reply(session, 550, "5.7.1 relaying not permitted", TR_SMTP_GO_ON);
	else
		tr_smtp_reply(session, 250, text.failed ? "OK" : text.data, TR_SMTP_GO_ON);
	tr_buf_free(&text);
}

/* What was taken and is stored nowhere (queue "null", not relayable) leaves no file behind. */
static void
drop_unused_file(const struct tr_smtp_intake *intake, const struct tr_receive *receive)
{
	bool queued = false;

	for (uint32_t i = 0; i < receive->count; i++)
		queued = queued || receive->items[i].queued;
	if (intake->file_id != 0 && !queued)
		tr_body_file_forget(tr_engine_spool(tr_worker_engine(intake->worker)), intake->file_id);
}

static void
received(struct tr_receive *receive, int status)
{
	struct tr_smtp_intake *intake = receive->owner;
	struct tr_smtp_session *session = intake->session;
	const char *error = NULL;

	if (status == TR_OK) /* otherwise the receive has done so */
		drop_unused_file(intake, receive);
	if (session != NULL) {
		session->waiting = false;
		session->intake = NULL;
		intake->session = NULL;
		for (uint32_t i = 0; i < receive->count && error == NULL; i++)
			error = receive->items[i].error;
		if (status == TR_OK)
			answer_stored(session, receive);
		else if (status == TR_EINVAL)
			tr_smtp_trouble(session, error != NULL ? error : "a queue cannot be had");
		else
			refuse_storage(session, status);
	} else if (status != TR_OK) {
		tr_log(TR_LEVEL_WARN, "smtp_server", "messages whose client is gone were not stored: %s",
			tr_err_text(status));
	}
	free_intake(intake);
}

static void
start_receive(struct tr_smtp_intake *intake)
{
	struct tr_receive *receive = intake->receive;

	intake->receive = NULL; /* it frees itself */
	tr_receive_start(receive, received);
}

static void
file_stored(void *arg, int status, uint64_t id)
{
	struct tr_smtp_intake *intake = arg;
	struct tr_smtp_session *session = intake->session;

	if (status == TR_OK && session != NULL) {
		intake->file_id = id;
		for (uint32_t i = 0; i < intake->receive->count; i++) {
			struct tr_message *message = intake->receive->items[i].message;
			if (message->body.blob == intake->blob)
				message->body_file = id;
		}
		start_receive(intake);
		return;
	}
	if (status == TR_OK) /* the client went away before anything was stored */
		tr_body_file_forget(tr_engine_spool(tr_worker_engine(intake->worker)), id);
	free_intake(intake);
	if (session != NULL) {
		session->waiting = false;
		refuse_storage(session, status);
	}
}

/* All is decided: hands the messages over. */
static void
store(struct tr_smtp_session *session)
{
	struct tr_smtp_text *text = session->text;
	struct tr_smtp_intake *intake = calloc(1, sizeof *intake);
	struct tr_receive *receive = intake != NULL ? tr_receive_new(session->worker, text->count) : NULL;
	bool use_file = false;

	if (receive == NULL) {
		free(intake);
		refuse_storage(session, TR_ENOMEM);
		return;
	}
	intake->session = session;
	intake->worker = session->worker;
	intake->shared = session->shared;
	intake->receive = receive;
	intake->blob = tr_blob_ref(text->blob);
	intake->ehlo = session->ehlo != NULL ? strdup(session->ehlo) : NULL;
	tr_sockaddr_text(tr_stream_peer(session->stream), false, intake->peer);
	memcpy(intake->session_id, tr_smtp_session_uuid(session), sizeof intake->session_id);
	receive->owner = intake;
	receive->flags = TR_RECEIVE_ALL_OR_NONE;
	receive->has_peer = true;
	receive->peer_name = tr_str(intake->ehlo != NULL ? intake->ehlo : "");
	receive->peer_addr = tr_str(intake->peer);
	receive->session_id = tr_str(intake->session_id);
	for (uint32_t i = 0; i < text->count; i++) {
		receive->items[i].message = text->messages[i];
		receive->items[i].log_only = !text->relayable[i];
		tr_message_revoke(text->messages[i]);
		use_file = use_file || (text->messages[i]->body.blob == text->blob && text->relayable[i]);
	}
	text->count = 0; /* they are the receive's */
	session->intake = intake;
	tr_smtp_wait(session);
	if (text->file != NULL && use_file) {
		struct tr_body_file *file = text->file;

		text->file = NULL;
		tr_body_file_finish(file, tr_worker_loop(session->worker), file_stored, intake);
	} else {
		start_receive(intake);
	}
}

/* --- trace headers
 * ------------------------------------------------------------------------------------------------------ */

/* Puts `head` before what the message has. TR_OK or TR_ENOMEM; ends `head`. */
static int
prepend(struct tr_message *message, struct tr_buf *head)
{
	struct tr_blob *blob;

	tr_buf_add(head, message->head.data, message->head.len);
	blob = head->failed ? NULL : tr_blob_new(head->data, head->len);
	tr_buf_free(head);
	if (blob == NULL)
		return TR_ENOMEM;
	tr_bytes_set(&message->head, blob);
	return TR_OK;
}

static void
finish_messages(struct tr_smtp_session *session)
{
	struct tr_smtp_text *text = session->text;

	for (uint32_t i = 0; i < text->count && session->params->supplemental_header; i++) {
		struct tr_buf head = {0};

		tr_smtp_supplemental_header(session, text->messages[i], &head);
		if (prepend(text->messages[i], &head) != TR_OK) {
			refuse_storage(session, TR_ENOMEM);
			return;
		}
	}
	store(session);
}

/* --- relaying, once more
 * ---------------------------------------------------------------------------------------------------- */

static void relay_one(struct tr_smtp_session *session);

static void
relay_answered(struct tr_smtp_session *session, bool allowed)
{
	struct tr_smtp_text *text = session->text;

	text->relayable[text->at++] = allowed;
	if (text->at < text->count)
		step_run(session, relay_one);
	else
		finish_messages(session);
}

static void
relay_one(struct tr_smtp_session *session)
{
	const struct tr_message *message = session->text->messages[session->text->at];

	tr_smtp_relay_check(session, tr_addr_domain(&message->sender),
		message->rcpt_count > 0 ? tr_addr_domain(&message->rcpts[0]) : TR_STR(""), relay_answered);
}

static void
check_relays(struct tr_smtp_session *session)
{
	session->text->at = 0;
	step_run(session, relay_one);
}

/* --- smtp_server_message_received
 * --------------------------------------------------------------------------------------------- */

static void message_one(struct tr_smtp_session *session);

static void
message_answered(struct tr_smtp_session *session, const struct tr_smtp_answer *answer)
{
	if (tr_smtp_refused(session, answer))
		return;
	if (++session->text->at < session->text->count)
		step_run(session, message_one);
	else
		check_relays(session);
}

static void
message_one(struct tr_smtp_session *session)
{
	struct tr_smtp_call call = {.event = TR_SMTP_ON_MESSAGE, .message = session->text->messages[session->text->at]};

	tr_smtp_fire(session, &call, message_answered);
}

static void
messages_made(struct tr_smtp_session *session)
{
	struct tr_smtp_text *text = session->text;

	text->relayable = calloc(text->count, sizeof *text->relayable);
	if (text->relayable == NULL) {
		refuse_storage(session, TR_ENOMEM);
		return;
	}
	for (uint32_t i = 0; i < text->count && session->params->received_header; i++) {
		struct tr_buf head = {0};

		tr_smtp_received_header(session, text->messages[i], &head);
		if (prepend(text->messages[i], &head) != TR_OK) {
			refuse_storage(session, TR_ENOMEM);
			return;
		}
	}
	text->at = 0;
	if (tr_smtp_wants(session, TR_SMTP_ON_MESSAGE))
		step_run(session, message_one);
	else
		check_relays(session);
}

/* --- batches
 * --------------------------------------------------------------------------------------------------------------------
 */

static void
split_answered(struct tr_smtp_session *session, const struct tr_smtp_answer *answer)
{
	struct tr_smtp_text *text = session->text;
	struct tr_message *base, **messages, hull;
	uint32_t most;
	int err;

	if (tr_smtp_refused(session, answer))
		return;
	base = text->messages[0];
	if (answer->split == NULL && base->rcpt_count == 1 && base->due_ms == 0 && base->schedule == NULL) {
		messages_made(session); /* the usual case: the message that is there */
		return;
	}
	most = answer->split != NULL ? answer->split_count : base->rcpt_count;
	messages = calloc(most > 0 ? most : 1, sizeof *messages);
	if (messages == NULL) {
		refuse_storage(session, TR_ENOMEM);
		return;
	}
	free(text->messages);
	text->messages = messages;
	text->count = 0;
	tr_message_revoke(base);
	hull = *base; /* the recipients stay aside while the rest is copied */
	base->rcpts = NULL;
	base->rcpt_count = 0;
	if (answer->split != NULL)
		err = tr_smtp_split_as_told(text, base, answer);
	else if (hull.rcpt_count == 0)
		err = TR_OK;
	else
		err = tr_smtp_split_by_default(text, base, session->params->by_domain, hull.rcpts, hull.rcpt_count);
	base->rcpts = hull.rcpts;
	base->rcpt_count = hull.rcpt_count;
	tr_message_free(base);
	if (err == TR_EINVAL)
		tr_smtp_trouble(session, "smtp_server_split_transaction: a recipient is no address");
	else if (err != TR_OK)
		refuse_storage(session, TR_ENOMEM);
	else if (text->count == 0)
		tr_smtp_reply(session, 550, "5.7.1 relaying not permitted", TR_SMTP_GO_ON);
	else
		messages_made(session);
}

static void
data_answered(struct tr_smtp_session *session, const struct tr_smtp_answer *answer)
{
	struct tr_smtp_call call = {.event = TR_SMTP_ON_SPLIT};

	if (tr_smtp_refused(session, answer))
		return;
	call.message = session->text->messages[0];
	tr_smtp_fire(session, &call, split_answered);
}

/* --- the end of the text
 * ---------------------------------------------------------------------------------------------------------- */

static void
took_too_long(struct tr_timer *timer)
{
	struct tr_smtp_session *session = tr_container_of(timer, struct tr_smtp_session, timer);
	struct tr_smtp_shared *shared = session->shared;
	const char *phase = "rx";

	if (session->then != NULL) {
		if (shared->ops->late != NULL)
			shared->ops->late(shared->ops_arg, session);
		session->then = NULL;
		shared->ops->cancel(shared->ops_arg, session);
	} else if (session->intake != NULL) { /* it may still be stored: then the client sends it twice */
		tr_smtp_intake_leave(session);
		phase = "spool";
	}
	session->waiting = false;
	tr_smtp_replyf(session, 451, TR_SMTP_GO_ON, "4.4.5 data_processing_timeout exceeded (%s)", phase);
}

/* One message with everything in it. */
static int
make_base(struct tr_smtp_session *session)
{
	struct tr_smtp_text *text = session->text;
	struct tr_meta *meta = tr_smtp_session_meta(session);
	struct tr_message *base = tr_message_new();

	text->messages = calloc(1, sizeof *text->messages);
	text->blob = tr_blob_new(text->body.len > 0 ? text->body.data : "", text->body.len);
	tr_buf_free(&text->body);
	if (base == NULL || text->messages == NULL || text->blob == NULL || meta == NULL ||
		tr_meta_copy(meta, &base->meta) != TR_OK) {
		tr_message_free(base);
		return TR_ENOMEM;
	}
	tr_bytes_set(&base->body, tr_blob_ref(text->blob));
	base->sender = session->sender;
	base->rcpts = session->rcpts;
	base->rcpt_count = session->rcpt_count;
	session->sender = (struct tr_addr){0};
	session->rcpts = NULL;
	session->rcpt_count = 0;
	text->counted += session->rcpt_bytes;
	session->rcpt_bytes = 0;
	text->messages[text->count++] = base;
	return TR_OK;
}

void
tr_smtp_text_end(struct tr_smtp_session *session)
{
	struct tr_smtp_text *text = session->text;
	struct tr_smtp_call call = {.event = TR_SMTP_ON_DATA};
	int err;

	session->close_mail = true; /* of refusals of the input: they still tell the envelope */
	if (text->scan.too_big) {
		tr_smtp_reply(session, 552, "5.3.4 message too big", TR_SMTP_GO_ON);
		return;
	}
	if (text->scan.long_line) {
		tr_smtp_reply(session, 500, "5.2.3 line too long", TR_SMTP_GO_ON);
		return;
	}
	if (text->no_memory || text->no_space) {
		refuse_storage(session, text->no_memory ? TR_ENOMEM : TR_ENOSPC);
		return;
	}
	if (text->scan.lone && session->params->line_ends == TR_SMTP_LINES_DENY) {
		tr_smtp_clear_mail(session);
		tr_smtp_reply(session, 552, "5.6.0 message data must use CRLF for line endings", TR_SMTP_GO_ON);
		return;
	}
	err = make_base(session);
	tr_smtp_clear_mail(session);
	if (err != TR_OK) {
		refuse_storage(session, err);
		return;
	}
	tr_timer_start(tr_loop_wheel(tr_worker_loop(session->worker)), &session->timer,
		session->params->data_processing_timeout_ns, took_too_long);
	call.message = text->messages[0];
	tr_smtp_fire(session, &call, data_answered);
}
