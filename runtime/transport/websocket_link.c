#include "transport/websocket_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"

enum {
	READ_BYTES = 16 * 1024, /* a TLS record at most, so that none is left half read inside of OpenSSL */
	READS_A_TURN = 16,
	QUEUE_BYTES = 4 * 1024 * 1024, /* reading stops when that many wait to be taken */
	MESSAGE_COST = 64,             /* what a message counts beside its bytes */
	BACKLOG_STOP = 1024 * 1024,    /* reading stops: pings must not be answered faster than the peer takes it */
};

static void act(struct tr_defer *defer);
static void look(struct tr_timer *timer);

/* --- life ------------------------------------------------------------------------------------------------ */

static struct tr_wheel *
wheel_of(const struct tr_ws_link *link)
{
	return tr_loop_wheel(link->links->loop);
}

void
tr_wsi_update_hold(struct tr_ws_link *link)
{
	bool want = link->easy != NULL && (link->state == TR_WS_OPENING || link->state == TR_WS_CLOSING ||
						  link->backlog > 0 || link->ws.pinging);

	if (want == link->held)
		return;
	link->held = want;
	if (want)
		tr_hold_take();
	else
		tr_hold_drop();
}

static void
tell(struct tr_ws_link *link)
{
	link->news = true;
	tr_loop_defer(link->links->loop, &link->again, act);
}

static void
drop_output(struct tr_ws_link *link)
{
	while (link->out != NULL) {
		struct chunk *chunk = link->out;

		link->out = chunk->next;
		free(chunk);
	}
	link->out_end = &link->out;
	link->backlog = 0;
}

/* The connection goes; what was received stays. */
static void
disconnect(struct tr_ws_link *link)
{
	struct ev_loop *ev;

	if (link->easy == NULL)
		return;
	ev = tr_loop_ev(link->links->loop);
	if (link->connected) { /* before curl closes their descriptor */
		ev_io_stop(ev, &link->readable);
		ev_io_stop(ev, &link->writable);
	}
	tr_timer_stop(wheel_of(link), &link->timer);
	tr_http_multi_remove(link->links->multi, link->easy);
	curl_easy_cleanup(link->easy);
	link->easy = NULL;
	drop_output(link);
	tr_buf_free(&link->in);
	tr_wsi_update_hold(link);
}

void
tr_wsi_end(struct tr_ws_link *link, int err, const char *fmt, ...)
{
	va_list args;

	if (link->state == TR_WS_CLOSED)
		return;
	link->state = TR_WS_CLOSED;
	link->err = err;
	va_start(args, fmt);
	vsnprintf(link->error, sizeof link->error, fmt, args);
	va_end(args);
	disconnect(link);
	tell(link);
}

void
tr_ws_link_free(struct tr_ws_link *link)
{
	struct tr_ws_message *message;

	if (link == NULL)
		return;
	disconnect(link);
	if (link->links != NULL) {
		tr_loop_undefer(link->links->loop, &link->again);
		*link->prev = link->next;
		if (link->next != NULL)
			link->next->prev = link->prev;
	}
	while ((message = link->first) != NULL) {
		link->first = message->next;
		free(message);
	}
	tr_ws_fini(&link->ws);
	tr_buf_free(&link->host);
	tr_buf_free(&link->target);
	tr_buf_free(&link->head);
	free(link);
}

/* --- writing --------------------------------------------------------------------------------------------- */

static void
write_out(struct tr_ws_link *link)
{
	struct ev_loop *ev = tr_loop_ev(link->links->loop);

	while (link->out != NULL) {
		struct chunk *chunk = link->out;
		size_t sent = 0;
		CURLcode code = curl_easy_send(link->easy, chunk->data + chunk->at, chunk->len - chunk->at, &sent);

		if (code == CURLE_AGAIN) {
			ev_io_start(ev, &link->writable);
			tr_wsi_update_hold(link);
			return;
		}
		if (code != CURLE_OK) {
			if (!link->ws.ended) /* the peer's last word says more */
				tr_wsi_end(link, TR_ECLOSED, "connection lost while writing: %s",
					curl_easy_strerror(code));
			return;
		}
		link->wrote = true;
		chunk->at += sent;
		link->backlog -= sent;
		if (chunk->at < chunk->len)
			continue;
		link->out = chunk->next;
		if (link->out == NULL)
			link->out_end = &link->out;
		free(chunk);
	}
	ev_io_stop(ev, &link->writable);
	tr_wsi_update_hold(link);
}

static int
put(struct tr_ws_link *link, const struct tr_buf *bytes)
{
	struct chunk *chunk = malloc(sizeof *chunk + bytes->len);

	if (chunk == NULL)
		return TR_ENOMEM;
	*chunk = (struct chunk){.len = bytes->len};
	memcpy(chunk->data, bytes->data, bytes->len);
	*link->out_end = chunk;
	link->out_end = &chunk->next;
	link->backlog += bytes->len;
	return TR_OK;
}

/* Hands on what the protocol has to say: pongs, a close. */
static void
put_reply(struct tr_ws_link *link)
{
	if (link->ws.reply.len == 0)
		return;
	if (put(link, &link->ws.reply) != TR_OK)
		tr_wsi_end(link, TR_ENOMEM, "out of memory");
	tr_buf_clear(&link->ws.reply);
}

static void
writable_cb(struct ev_loop *ev, ev_io *watcher, int revents)
{
	struct tr_ws_link *link = watcher->data;

	write_out(link);
	if (link->state != TR_WS_CLOSED)
		tell(link);
}

/* --- reading ---------------------------------------------------------------------------------------------- */

static bool
full(const struct tr_ws_link *link)
{
	return link->queued >= QUEUE_BYTES || link->backlog >= BACKLOG_STOP;
}

static int
queue(struct tr_ws_link *link, struct tr_str text)
{
	struct tr_ws_message *message = malloc(sizeof *message + text.len);

	if (message == NULL)
		return TR_ENOMEM;
	message->next = NULL;
	message->len = text.len;
	if (text.len > 0)
		memcpy(message->data, text.data, text.len);
	*link->end = message;
	link->end = &message->next;
	link->queued += text.len + MESSAGE_COST;
	return TR_OK;
}

/* The peer has said its last word; ours is the reply. */
static void
ended(struct tr_ws_link *link)
{
	struct tr_ws *ws = &link->ws;

	if (link->state == TR_WS_OPEN) /* else our close is on its way already */
		put_reply(link);
	if (link->easy != NULL)
		write_out(
			link); /* what the kernel takes now: the server closes the connection, RFC 6455 section 7.1.1 */
	if (ws->failed)
		tr_wsi_end(link, ws->close_code == TR_WS_TOO_BIG ? TR_ETOOBIG : TR_EPROTO, "%s", ws->close_reason);
	else if (ws->close_code == TR_WS_NO_STATUS)
		tr_wsi_end(link, TR_ECLOSED, "closed by the peer");
	else
		tr_wsi_end(link, TR_ECLOSED, "closed by the peer: %d %s", ws->close_code, ws->close_reason);
}

static void
understand(struct tr_ws_link *link)
{
	struct tr_str in = {link->in.data, link->in.len}, message;
	enum tr_ws_result result = TR_WS_MORE;

	while (!full(link) && (result = tr_ws_next(&link->ws, &in, &message)) == TR_WS_MESSAGE) {
		if (queue(link, message) != TR_OK) {
			tr_wsi_end(link, TR_ENOMEM, "out of memory");
			return;
		}
		tell(link);
	}
	tr_buf_consume(&link->in, link->in.len - in.len);
	if (result == TR_WS_ENDED) {
		ended(link);
		return;
	}
	put_reply(link);
	if (link->backlog > 0 && link->easy != NULL)
		write_out(link);
	tr_wsi_update_hold(link);
}

static void
answered(struct tr_ws_link *link)
{
	struct tr_ws_answer answer;
	int err = tr_ws_answer((struct tr_str){link->in.data, link->in.len}, link->key, &answer);

	if (err == TR_EAGAIN)
		return;
	link->status = answer.status;
	if (answer.status != 0)
		tr_buf_add_str(&link->head, answer.head);
	if (err != TR_OK) {
		tr_wsi_end(link, err, "%s", answer.error);
		return;
	}
	tr_buf_consume(&link->in, answer.used);
	link->state = TR_WS_OPEN;
	link->opened = true;
	link->heard = true;
	tr_timer_start(wheel_of(link), &link->timer, link->settings.ping_ns, look);
	tell(link);
	tr_wsi_update_hold(link);
}

static void
lost(struct tr_ws_link *link, CURLcode code)
{
	const char *what = code == CURLE_OK ? "connection closed" : curl_easy_strerror(code);

	if (link->state == TR_WS_CLOSING)
		tr_wsi_end(link, TR_ECLOSED, "closed"); /* the peer took a short cut: nothing is lost by it */
	else if (link->state == TR_WS_OPENING)
		tr_wsi_end(link, TR_ECLOSED, "%s before the answer", what);
	else
		tr_wsi_end(link, TR_ECLOSED, "%s without a closing handshake", what);
}

static void
read_in(struct tr_ws_link *link)
{
	for (int i = 0; i < READS_A_TURN && link->easy != NULL && !full(link); i++) {
		size_t got = 0;
		char *at = tr_buf_reserve(&link->in, READ_BYTES);
		CURLcode code;

		if (at == NULL) {
			tr_wsi_end(link, TR_ENOMEM, "out of memory");
			return;
		}
		code = curl_easy_recv(link->easy, at, READ_BYTES, &got);
		if (code == CURLE_AGAIN)
			break;
		if (code != CURLE_OK || got == 0) {
			lost(link, code);
			return;
		}
		link->in.len += got;
		link->heard = true;
		if (link->state == TR_WS_OPENING)
			answered(link);
		if (link->state == TR_WS_OPEN || link->state == TR_WS_CLOSING)
			understand(link);
	}
	if (link->easy == NULL)
		return;
	if (link->in.len == 0)
		tr_buf_free(&link->in); /* an idle link keeps no buffer */
	if (full(link))
		ev_io_stop(tr_loop_ev(link->links->loop), &link->readable);
	else
		ev_io_start(tr_loop_ev(link->links->loop), &link->readable);
}

static void
readable_cb(struct ev_loop *ev, ev_io *watcher, int revents)
{
	read_in(watcher->data);
}

int
tr_wsi_start(struct tr_ws_link *link, curl_socket_t fd, const struct tr_buf *bytes)
{
	ev_io_init(&link->readable, readable_cb, fd, EV_READ);
	ev_io_init(&link->writable, writable_cb, fd, EV_WRITE);
	link->readable.data = link->writable.data = link;
	link->connected = true;
	if (bytes->failed || put(link, bytes) != TR_OK)
		return TR_ENOMEM;
	ev_io_start(tr_loop_ev(link->links->loop), &link->readable);
	write_out(link);
	return TR_OK;
}

/* Reading goes on after there is room again, and the owner hears what is new. */
static void
act(struct tr_defer *defer)
{
	struct tr_ws_link *link = tr_container_of(defer, struct tr_ws_link, again);

	if (link->easy != NULL && link->connected && !full(link) && !ev_is_active(&link->readable)) {
		if (link->in.len > 0 && link->state != TR_WS_OPENING)
			understand(link);
		if (link->easy != NULL && !full(link))
			read_in(link);
	}
	if (!link->news)
		return;
	link->news = false;
	link->changed(link, link->arg); /* may free it */
}

/* --- deadlines ---------------------------------------------------------------------------------------------- */

static void
look(struct tr_timer *timer)
{
	struct tr_ws_link *link = tr_container_of(timer, struct tr_ws_link, timer);
	double ping_s = (double)link->settings.ping_ns / 1e9;

	if (link->backlog > 0 && !link->wrote) {
		tr_wsi_end(link, TR_ETIMEDOUT, "nothing could be written for %.3g s", ping_s);
		return;
	}
	if (link->heard || full(link)) { /* full: it is us who do not listen */
		link->ws.pinging = false;
	} else if (link->ws.pinging) {
		tr_wsi_end(link, TR_ETIMEDOUT, "nothing was heard for %.3g s, and a ping was not answered", 2 * ping_s);
		return;
	} else {
		tr_ws_ping(&link->ws);
		put_reply(link);
	}
	if (link->state == TR_WS_CLOSED)
		return;
	link->heard = link->wrote = false;
	tr_timer_start(wheel_of(link), &link->timer, link->settings.ping_ns, look);
	write_out(link);
}

void
tr_wsi_late(struct tr_timer *timer)
{
	struct tr_ws_link *link = tr_container_of(timer, struct tr_ws_link, timer);
	double timeout_s = (double)link->settings.timeout_ns / 1e9;

	if (link->state == TR_WS_CLOSING)
		tr_wsi_end(link, TR_ETIMEDOUT, "the peer did not answer the close within %.3g s", timeout_s);
	else
		tr_wsi_end(link, TR_ETIMEDOUT, "operation timed out after %.3g s", timeout_s);
}

/* --- for the owner ---------------------------------------------------------------------------------------------- */

enum tr_ws_state
tr_ws_link_state(const struct tr_ws_link *link)
{
	return link->state;
}

bool
tr_ws_link_opened(const struct tr_ws_link *link)
{
	return link->opened;
}

int
tr_ws_link_error(const struct tr_ws_link *link, const char **text)
{
	*text = link->error;
	return link->err;
}

int
tr_ws_link_answer(const struct tr_ws_link *link, struct tr_str *head)
{
	*head = (struct tr_str){link->head.len > 0 ? link->head.data : "", link->head.len};
	return link->status;
}

struct tr_ws_message *
tr_ws_link_take(struct tr_ws_link *link)
{
	struct tr_ws_message *message = link->first;
	bool was_full = full(link);

	if (message == NULL)
		return NULL;
	link->first = message->next;
	if (link->first == NULL)
		link->end = &link->first;
	link->queued -= message->len + MESSAGE_COST;
	if (was_full && !full(link) && link->easy != NULL)
		tr_loop_defer(link->links->loop, &link->again, act);
	return message;
}

bool
tr_ws_link_waiting(const struct tr_ws_link *link)
{
	return link->first != NULL;
}

int
tr_ws_link_send(struct tr_ws_link *link, bool binary, struct tr_str payload)
{
	struct tr_buf frame = {0};
	int err;

	if (link->state != TR_WS_OPEN)
		return TR_ECLOSED;
	err = tr_ws_frame(&frame, binary ? TR_WS_BINARY : TR_WS_TEXT, payload);
	if (err == TR_OK)
		err = put(link, &frame);
	tr_buf_free(&frame);
	if (err == TR_OK)
		write_out(link);
	return err;
}

size_t
tr_ws_link_backlog(const struct tr_ws_link *link)
{
	return link->backlog;
}

void
tr_ws_link_close(struct tr_ws_link *link)
{
	if (link->state != TR_WS_OPEN)
		return;
	link->state = TR_WS_CLOSING;
	(void)tr_ws_frame_close(&link->ws.reply, TR_WS_NORMAL, (struct tr_str){"", 0}); /* else the timer ends it */
	put_reply(link);
	if (link->easy == NULL)
		return;
	tr_timer_start(wheel_of(link), &link->timer, link->settings.timeout_ns, tr_wsi_late);
	write_out(link);
}
