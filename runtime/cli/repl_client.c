/* A connection to the prompt of a live process (repl_frame.h says what travels): one input at a time, evaluated in the
 * worker that it has chosen. Worker 0. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/diag.h"
#include "cli/repl_frame.h"
#include "cli/repl_socket_internal.h"

#define UNREAD_LIMIT_NS (60 * TR_NS_PER_S) /* a client that does not take its answer is closed */
#define LINGER_NS TR_NS_PER_S

static void drop(struct tr_repl_client *client, const char *why);

static struct tr_wheel *
wheel_of(struct tr_repl_client *client)
{
	return tr_loop_wheel(client->socket->server->worker[0].loop);
}

static void
not_read(struct tr_timer *timer)
{
	struct tr_repl_client *client = tr_container_of(timer, struct tr_repl_client, unread);

	if (tr_stream_backlog(client->stream) > 0)
		drop(client, "it does not read its answer");
}

static void
send_frame(struct tr_repl_client *client, char kind, struct tr_str text)
{
	struct tr_buf frame = {0};

	tr_repl_frame_add(&frame, kind, text);
	if (!frame.failed)
		tr_stream_write(client->stream, frame.data, frame.len);
	tr_buf_free(&frame);
	tr_timer_stop(wheel_of(client), &client->unread);
	tr_timer_start(wheel_of(client), &client->unread, UNREAD_LIMIT_NS, not_read);
}

static void
drop(struct tr_repl_client *client, const char *why)
{
	struct tr_repl_socket *socket = client->socket;

	tr_log(TR_LEVEL_INFO, "repl", "%s left: %s", client->peer, why);
	tr_timer_stop(wheel_of(client), &client->unread);
	for (struct tr_repl_client **at = &socket->clients; *at != NULL; at = &(*at)->next) {
		if (*at == client) {
			*at = client->next;
			break;
		}
	}
	socket->count--;
	if (client->job != NULL) {
		client->job->client = NULL;
		tr_repl_job_cancel(client->job);
	}
	for (uint32_t i = 0; i < socket->server->workers && !socket->freeing; i++)
		if (client->opened[i])
			tr_repl_job_start(NULL, socket, i, client->id, 'D', (struct tr_str){NULL, 0});
	tr_stream_close(client->stream, LINGER_NS);
	free(client->opened);
	free(client);
}

/* The client's session in its worker, made when it is not there. Its answer is an 'R' with the prompt. */
static int
open_session(struct tr_repl_client *client)
{
	bool there = client->opened[client->worker];

	client->opened[client->worker] = true;
	return tr_repl_job_start(
		client, client->socket, client->worker, client->id, there ? 'W' : 'A', tr_str(client->peer));
}

/* The text of a failed or interrupted call goes behind its output. */
static void
add_failure(struct tr_repl_job *job)
{
	if (job->call.status == TR_ECANCELED || job->call.status == TR_ETIMEDOUT)
		tr_repl_why_cut(&job->call, NULL, &job->out);
	else
		tr_buf_addf(&job->out, "%s\n", job->call.error.data);
}

static void
answer(struct tr_repl_client *client, struct tr_repl_job *job)
{
	struct tr_buf status = {0};
	const char *result = job->call.result.data != NULL ? job->call.result.data : "";
	static const char worker[] = "worker ";

	if (job->call.status != TR_OK)
		add_failure(job);
	if (job->dropped > 0)
		tr_buf_addf(&job->out, "\n... %llu more bytes are not shown\n", (unsigned long long)job->dropped);
	for (size_t at = 0; at < job->out.len; at += TR_REPL_FRAME_MAX) {
		size_t len = job->out.len - at < TR_REPL_FRAME_MAX ? job->out.len - at : TR_REPL_FRAME_MAX;
		send_frame(client, 'O', (struct tr_str){job->out.data + at, len});
	}
	unsigned long number = strncmp(result, worker, sizeof worker - 1) == 0
				       ? strtoul(result + sizeof worker - 1, NULL, 10)
				       : UINT32_MAX;
	if (number < client->socket->server->workers) {
		client->worker = (uint32_t)number;
		if (open_session(client) == TR_OK)
			return;
		result = "error";
	}
	tr_buf_addf(&status, "%s\n%s", job->call.status == TR_OK ? result : "error", job->call.prompt);
	send_frame(client, 'R', (struct tr_str){status.data, status.len});
	tr_buf_free(&status);
}

void
tr_repl_client_answer(struct tr_repl_client *client, struct tr_repl_job *job)
{
	const struct tr_buf *result = &job->call.result;

	if (job->kind == 'C')
		send_frame(client, 'C', (struct tr_str){result->data, result->len > 0 ? result->len - 1 : 0});
	else
		answer(client, job);
}

static void
handle(struct tr_repl_client *client, const struct tr_repl_frame *frame)
{
	char text[64];

	if (frame->kind == 'I') {
		if (client->job != NULL)
			tr_repl_job_cancel(client->job);
		return;
	}
	if (frame->kind == 'W') {
		snprintf(text, sizeof text, "%.*s", (int)(frame->text.len < 40 ? frame->text.len : 40),
			frame->text.data);
		long numbers[3];
		char *at = text;

		for (size_t i = 0; i < TR_COUNT(numbers); i++) {
			char *end;

			numbers[i] = strtol(at, &end, 10);
			if (end == at || numbers[i] < 0 || numbers[i] > 100000) {
				drop(client, "it does not speak this protocol");
				return;
			}
			at = end;
		}
		client->width = (int)numbers[0];
		client->terminal = numbers[1] != 0;
		client->colour = numbers[2] != 0;
		if (open_session(client) != TR_OK)
			drop(client, "out of memory");
		client->greeted = true;
		return;
	}
	if (!client->opened[client->worker] || (frame->kind != 'E' && frame->kind != 'C')) {
		drop(client, "it does not speak this protocol");
		return;
	}
	if (tr_repl_job_start(client, client->socket, client->worker, client->id, frame->kind, frame->text) != TR_OK)
		drop(client, "out of memory");
}

/* One input at a time: what comes while one is evaluated waits in the stream's buffer, but for an interrupt. The client
 * sends nothing else then. */
void
tr_repl_client_read(struct tr_repl_client *client)
{
	struct tr_repl_socket *socket = client->socket;
	uint32_t id = client->id;
	struct tr_repl_frame frame;

	for (;;) {
		struct tr_buf *in = tr_stream_input(client->stream);
		int got = tr_repl_frame_next(in, &frame);

		if (got < 0) {
			drop(client, "it does not speak this protocol");
			return;
		}
		if (got == 0 || (client->job != NULL && frame.kind != 'I'))
			return;
		/* A copy: the buffer is consumed first, since the client may be gone afterwards. */
		struct tr_buf text = {0};
		tr_buf_add(&text, frame.text.data, frame.text.len);
		frame.text = (struct tr_str){text.data, text.len};
		tr_buf_consume(in, frame.size);
		handle(client, &frame);
		tr_buf_free(&text);
		for (client = socket->clients; client != NULL && client->id != id;)
			client = client->next;
		if (client == NULL)
			return;
	}
}

static void
client_data(struct tr_stream *stream, void *arg)
{
	tr_repl_client_read(arg);
}

static void
client_closed(struct tr_stream *stream, int err, void *arg)
{
	drop(arg, "it closed the connection");
}

static const struct tr_stream_handlers client_handlers = {client_data, NULL, client_closed};

void
tr_repl_client_refuse(int fd, const char *why)
{
	struct tr_buf frame = {0};

	tr_repl_frame_add(&frame, 'X', tr_str(why));
	if (send(fd, frame.data, frame.len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		tr_log(TR_LEVEL_DEBUG, "repl", "a refused client did not wait for the reason");
	tr_buf_free(&frame);
	close(fd);
}

void
tr_repl_client_new(struct tr_repl_socket *socket, int fd, const struct ucred *cred)
{
	struct tr_server *server = socket->server;
	struct tr_repl_client *client = calloc(1, sizeof *client);
	struct tr_buf hello = {0};

	if (client != NULL)
		client->opened = calloc(server->workers, sizeof *client->opened);
	if (client == NULL || client->opened == NULL) {
		free(client);
		tr_repl_client_refuse(fd, "out of memory");
		return;
	}
	client->socket = socket;
	client->id = ++socket->next_id;
	client->width = 80;
	snprintf(client->peer, sizeof client->peer, "user %ld (process %ld)", (long)cred->uid, (long)cred->pid);
	client->stream = tr_stream_new(server->worker[0].loop, fd, &client_handlers, client);
	if (client->stream == NULL) {
		free(client->opened);
		free(client);
		return;
	}
	tr_stream_set_input_limit(client->stream, TR_REPL_FRAME_MAX + 16);
	client->next = socket->clients;
	socket->clients = client;
	socket->count++;
	tr_log(TR_LEVEL_INFO, "repl", "%s attached", client->peer);
	tr_buf_addf(&hello, "%s\n%ld\n%u\n%s", TR_VERSION, (long)getpid(), server->workers,
		server->policy != NULL ? server->policy : "");
	send_frame(client, 'H', (struct tr_str){hello.data, hello.len});
	tr_buf_free(&hello);
}

void
tr_repl_client_dismiss(struct tr_repl_client *client, const char *why)
{
	send_frame(client, 'X', tr_str(why));
	drop(client, why);
}
