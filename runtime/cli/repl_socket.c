#include "cli/repl_socket.h"

#include <errno.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/diag.h"
#include "cli/repl.h"
#include "cli/repl_frame.h"
#include "cli/server_internal.h"
#include "net/stream.h"

#define MAX_CLIENTS 8
#define MAX_OUTPUT (1 << 20)               /* bytes of one answer; the rest is counted */
#define UNREAD_LIMIT_NS (60 * TR_NS_PER_S) /* a client that does not take its answer is closed */
#define LINGER_NS TR_NS_PER_S

struct repl_socket;
struct client;

/* One call in a worker. Made and ended on worker 0, run on the worker; freed by whoever is last. */
struct job {
	_Atomic int refs;           /* worker 0, the mail under way, the cancel mail under way */
	struct job *next;           /* of the socket's list, worker 0 */
	struct client *client;      /* worker 0 only; NULL: it is gone */
	struct repl_socket *socket; /* worker 0 only; NULL: it is gone */
	struct tr_loop *home, *loop;
	struct tr_host *host;
	struct tr_mail mail, cancel;
	struct tr_repl_sink sink;
	struct tr_repl_call call;
	char *text;
	char kind; /* 'A' attach, 'E', 'C', 'D' detach */
	int64_t run_ns, timeout_ns;
	struct tr_buf out;
	uint64_t dropped; /* bytes of output that found no room */
	bool cancelled, done;
};

struct client {
	struct client *next;
	struct repl_socket *socket;
	struct tr_stream *stream;
	struct tr_timer unread; /* runs while it has not taken all that was written */
	struct job *job;        /* under way; NULL: none */
	uint32_t id, worker;
	int width;
	bool terminal, colour;
	bool greeted; /* it has said what its terminal is */
	bool *opened; /* by worker: it has a session there */
	char peer[64];
};

struct repl_socket {
	struct tr_run_part part; /* first */
	struct tr_server *server;
	struct tr_listener *listener;
	char path[sizeof((struct sockaddr_un *)0)->sun_path];
	char name[sizeof((struct sockaddr_un *)0)->sun_path + 16];
	dev_t dev; /* of the file that is ours */
	ino_t ino;
	struct client *clients;
	struct job *jobs;
	uint32_t count, next_id;
	int64_t run_ns, timeout_ns;
	bool freeing; /* the workers have ended: nothing is started in them */
};

/* --- jobs
 * ------------------------------------------------------------------------------------------------------------- */

static void
job_unref(struct job *job)
{
	if (atomic_fetch_sub(&job->refs, 1) > 1)
		return;
	tr_repl_call_fini(&job->call);
	tr_buf_free(&job->out);
	free(job->text);
	free(job);
}

static void
unlist(struct job *job)
{
	for (struct job **at = &job->socket->jobs; *at != NULL; at = &(*at)->next) {
		if (*at == job) {
			*at = job->next;
			break;
		}
	}
}

static void job_done(struct tr_mail *mail);

/* The worker's thread, at the end of the call. */
static void
job_ended(struct tr_repl_call *call)
{
	struct job *job = call->owner;

	tr_repl_sink_remove(&job->sink);
	job->done = true;
	job->mail.fn = job_done;
	tr_loop_post(job->home, &job->mail);
}

static void
job_write(struct tr_repl_sink *sink, struct tr_str text)
{
	struct job *job = tr_container_of(sink, struct job, sink);
	size_t room = MAX_OUTPUT - job->out.len;

	if (text.len > room) {
		job->dropped += text.len - room;
		text.len = room;
	}
	tr_buf_add(&job->out, text.data, text.len);
}

static void
job_run(struct tr_mail *mail)
{
	struct job *job = tr_container_of(mail, struct job, mail);
	int err = tr_repl_install(job->host);

	job->sink.write = job_write;
	tr_repl_sink_add(&job->sink);
	if (err == TR_OK)
		err = tr_repl_start(job->host, &job->call, job->run_ns, job->timeout_ns);
	if (err != TR_OK) {
		job->call.status = err;
		tr_buf_addf(&job->call.error, "%s", tr_err_text(err));
		tr_buf_addc(&job->call.error, '\0');
		tr_buf_addc(&job->call.result, '\0');
		job_ended(&job->call);
	}
}

static void
job_cancel(struct tr_mail *mail)
{
	struct job *job = tr_container_of(mail, struct job, cancel);

	if (!job->done && job->call.task != NULL)
		tr_task_cancel(job->call.task);
	job_unref(job);
}

/* Worker 0: the client interrupts, or is gone. What runs without a wait is ended by the watchdog. */
static void
cancel(struct job *job)
{
	if (job->cancelled)
		return;
	job->cancelled = true;
	atomic_fetch_add(&job->refs, 1);
	job->cancel.fn = job_cancel;
	tr_loop_post(job->loop, &job->cancel);
}

static int
start_job(
	struct client *client, struct repl_socket *socket, uint32_t worker, uint32_t id, char kind, struct tr_str text)
{
	struct tr_worker_parts *parts = &socket->server->worker[worker];
	struct job *job = calloc(1, sizeof *job);

	if (job == NULL)
		return TR_ENOMEM;
	atomic_init(&job->refs, 1);
	job->text = strndup(text.data ? text.data : "", text.len); /* NUL bytes end an input */
	if (job->text == NULL) {
		free(job);
		return TR_ENOMEM;
	}
	job->client = client;
	job->socket = socket;
	job->home = socket->server->worker[0].loop;
	job->loop = parts->loop;
	job->host = parts->host;
	job->kind = kind;
	job->run_ns = socket->run_ns;
	job->timeout_ns = socket->timeout_ns;
	job->sink.id = id;
	job->call = (struct tr_repl_call){
		.op = kind == 'A'   ? "attach"
		      : kind == 'E' ? "eval"
		      : kind == 'W' ? "resize"
		      : kind == 'C' ? "complete"
				    : "close",
		.id = id,
		.end = job_ended,
		.owner = job,
	};
	if (kind == 'A') {
		job->call.has_options = true;
		job->call.terminal = client->terminal;
		job->call.colour = client->colour;
		job->call.width = client->width;
		job->call.peer = job->text;
		job->call.workers = (int)socket->server->workers;
	} else if (kind == 'W') {
		job->call.width = client->width;
	} else {
		bool flagged = kind == 'E' && job->text[0] != '\0';

		job->call.text = tr_str(job->text + (flagged ? 1 : 0));
		job->call.has_text = true;
		job->call.last = flagged && job->text[0] != '0';
		if (flagged && job->text[0] == '2')
			job->call.op = "script";
	}
	job->next = socket->jobs;
	socket->jobs = job;
	if (client != NULL)
		client->job = job;
	job->mail.fn = job_run;
	tr_loop_post(job->loop, &job->mail);
	return TR_OK;
}

/* --- clients
 * ---------------------------------------------------------------------------------------------------------- */

static void drop(struct client *client, const char *why);

static struct tr_wheel *
wheel_of(struct client *client)
{
	return tr_loop_wheel(client->socket->server->worker[0].loop);
}

static void
not_read(struct tr_timer *timer)
{
	struct client *client = tr_container_of(timer, struct client, unread);

	if (tr_stream_backlog(client->stream) > 0)
		drop(client, "it does not read its answer");
}

static void
send_frame(struct client *client, char kind, struct tr_str text)
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
drop(struct client *client, const char *why)
{
	struct repl_socket *socket = client->socket;

	tr_log(TR_LEVEL_INFO, "repl", "%s left: %s", client->peer, why);
	tr_timer_stop(wheel_of(client), &client->unread);
	for (struct client **at = &socket->clients; *at != NULL; at = &(*at)->next) {
		if (*at == client) {
			*at = client->next;
			break;
		}
	}
	socket->count--;
	if (client->job != NULL) {
		client->job->client = NULL;
		cancel(client->job);
	}
	for (uint32_t i = 0; i < socket->server->workers && !socket->freeing; i++)
		if (client->opened[i])
			start_job(NULL, socket, i, client->id, 'D', (struct tr_str){NULL, 0});
	tr_stream_close(client->stream, LINGER_NS);
	free(client->opened);
	free(client);
}

static void read_frames(struct client *client);

/* The client's session in its worker, made when it is not there. Its answer is an 'R' with the prompt. */
static int
open_session(struct client *client)
{
	bool there = client->opened[client->worker];

	client->opened[client->worker] = true;
	return start_job(client, client->socket, client->worker, client->id, there ? 'W' : 'A', tr_str(client->peer));
}

/* The text of a failed or interrupted call goes behind its output. */
static void
add_failure(struct job *job)
{
	if (job->call.status == TR_ECANCELED || job->call.status == TR_ETIMEDOUT)
		tr_repl_why_cut(&job->call, NULL, &job->out);
	else
		tr_buf_addf(&job->out, "%s\n", job->call.error.data);
}

static void
answer(struct client *client, struct job *job)
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

/* Worker 0. */
static void
job_done(struct tr_mail *mail)
{
	struct job *job = tr_container_of(mail, struct job, mail);
	struct client *client = job->client;

	if (job->socket != NULL)
		unlist(job);
	if (client != NULL) {
		client->job = NULL;
		if (job->kind == 'C')
			send_frame(client, 'C',
				(struct tr_str){job->call.result.data,
					job->call.result.len > 0 ? job->call.result.len - 1 : 0});
		else
			answer(client, job);
	}
	job_unref(job);
	if (client != NULL)
		read_frames(client); /* one that came meanwhile */
}

static void
handle(struct client *client, const struct tr_repl_frame *frame)
{
	char text[64];

	if (frame->kind == 'I') {
		if (client->job != NULL)
			cancel(client->job);
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
	if (start_job(client, client->socket, client->worker, client->id, frame->kind, frame->text) != TR_OK)
		drop(client, "out of memory");
}

/* One input at a time: what comes while one is evaluated waits in the stream's buffer, but for an interrupt. The client
 * sends nothing else then. */
static void
read_frames(struct client *client)
{
	struct repl_socket *socket = client->socket;
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
	read_frames(arg);
}

static void
client_closed(struct tr_stream *stream, int err, void *arg)
{
	drop(arg, "it closed the connection");
}

static const struct tr_stream_handlers client_handlers = {client_data, NULL, client_closed};

static void
refuse(int fd, const char *why)
{
	struct tr_buf frame = {0};

	tr_repl_frame_add(&frame, 'X', tr_str(why));
	if (send(fd, frame.data, frame.len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		tr_log(TR_LEVEL_DEBUG, "repl", "a refused client did not wait for the reason");
	tr_buf_free(&frame);
	close(fd);
}

static void
accepted(void *arg, int fd, const struct tr_sockaddr *peer)
{
	struct repl_socket *socket = arg;
	struct tr_server *server = socket->server;
	struct ucred cred;
	socklen_t len = sizeof cred;
	struct client *client;
	struct tr_buf hello = {0};

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) != 0 || (cred.uid != geteuid() && cred.uid != 0)) {
		tr_log(TR_LEVEL_WARN, "repl", "user %ld (process %ld) may not use %s", (long)cred.uid, (long)cred.pid,
			socket->path);
		refuse(fd, "only the user of the process and root may attach");
		return;
	}
	if (socket->count >= MAX_CLIENTS) {
		refuse(fd, "there are 8 clients already");
		return;
	}
	client = calloc(1, sizeof *client);
	if (client != NULL)
		client->opened = calloc(server->workers, sizeof *client->opened);
	if (client == NULL || client->opened == NULL) {
		free(client);
		refuse(fd, "out of memory");
		return;
	}
	client->socket = socket;
	client->id = ++socket->next_id;
	client->width = 80;
	snprintf(client->peer, sizeof client->peer, "user %ld (process %ld)", (long)cred.uid, (long)cred.pid);
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

/* --- the part
 * ----------------------------------------------------------------------------------------------------------- */

static void
part_stop(struct tr_run_part *part)
{
	struct repl_socket *socket = tr_container_of(part, struct repl_socket, part);
	struct stat st;

	if (socket->listener == NULL)
		return;
	tr_listener_free(socket->listener);
	socket->listener = NULL;
	/* Another process may have bound the name since. */
	if (lstat(socket->path, &st) == 0 && st.st_dev == socket->dev && st.st_ino == socket->ino)
		unlink(socket->path);
	for (struct client *client = socket->clients, *next; client != NULL; client = next) {
		next = client->next;
		send_frame(client, 'X', TR_STR("the process stops"));
		drop(client, "the process stops");
	}
}

static bool
part_busy(struct tr_run_part *part)
{
	return tr_container_of(part, struct repl_socket, part)->jobs != NULL;
}

static void
part_abort(struct tr_run_part *part)
{
	struct repl_socket *socket = tr_container_of(part, struct repl_socket, part);

	for (struct job *job = socket->jobs; job != NULL; job = job->next)
		cancel(job);
}

static void
part_free(struct tr_run_part *part)
{
	struct repl_socket *socket = tr_container_of(part, struct repl_socket, part);

	socket->freeing = true;
	part_stop(part);
	while (socket->jobs != NULL) { /* their tasks end with the hosts, their mails are run after that */
		struct job *job = socket->jobs;
		socket->jobs = job->next;
		job->socket = NULL;
	}
	free(socket);
}

static int fail(char **error, int err, const char *fmt, ...) TR_PRINTF(3, 4);

static int
fail(char **error, int err, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	if (vasprintf(error, fmt, args) < 0)
		*error = NULL;
	va_end(args);
	return err;
}

/* A socket that nobody listens at is left over from a process that was killed. */
static int
remove_stale(const struct tr_sockaddr *at, const char *path, char **error)
{
	struct stat st;
	int fd, errnum = 0;

	if (lstat(path, &st) != 0)
		return TR_OK; /* bind() tells what is wrong */
	if (!S_ISSOCK(st.st_mode))
		return fail(error, TR_EEXIST, "%s is there and is no socket", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (const struct sockaddr *)&at->ss, at->len) != 0)
		errnum = errno;
	if (fd >= 0)
		close(fd);
	if (errnum != ECONNREFUSED)
		return fail(error, TR_EEXIST,
			errnum == 0 ? "another process listens at %s" : "%s cannot be asked who listens", path);
	if (unlink(path) != 0)
		return fail(error, TR_EIO, "%s is left over and cannot be removed: %s", path, strerror(errno));
	return TR_OK;
}

/* The process becomes another user after `init` (--user): the socket is that user's. */
static bool
give_to_user(const struct tr_server *server, const char *path)
{
	const struct passwd *user = server->user != NULL && geteuid() == 0 ? getpwnam(server->user) : NULL;

	/* lchown(): whoever can write the directory must not make another file of it by a link. */
	return user == NULL ||
	       lchown(path, user->pw_uid, user->pw_gid) == 0; /* an unknown name is told when it becomes it */
}

int
tr_repl_socket_open(struct tr_server *server, const struct tr_repl_socket_config *config, char **error)
{
	struct repl_socket *socket = calloc(1, sizeof *socket);
	struct sockaddr_un *name;
	struct tr_sockaddr at = {0};
	struct stat st;
	mode_t mask;
	int err, errnum = 0;

	*error = NULL;
	if (socket == NULL)
		return TR_ENOMEM;
	name = (struct sockaddr_un *)&at.ss;
	if (config->path[0] != '/' || strlen(config->path) >= sizeof name->sun_path) {
		free(socket);
		return fail(error, TR_EINVAL, "%s: an absolute path of at most %zu characters is expected",
			config->path, sizeof name->sun_path - 1);
	}
	name->sun_family = AF_UNIX;
	memcpy(name->sun_path, config->path, strlen(config->path) + 1);
	at.len = sizeof *name;
	memcpy(socket->path, config->path, strlen(config->path) + 1);
	err = remove_stale(&at, socket->path, error);
	if (err != TR_OK) {
		free(socket);
		return err;
	}
	mask = umask(0177); /* never there for others, not even for a moment */
	err = tr_listener_new(server->worker[0].loop, &at, accepted, socket, &socket->listener, &errnum);
	umask(mask);
	if (err == TR_OK && (!give_to_user(server, socket->path) || lstat(socket->path, &st) != 0)) {
		err = TR_EIO;
		errnum = errno;
	} else if (err == TR_OK && (!S_ISSOCK(st.st_mode) || (st.st_mode & 0177) != 0)) {
		err = TR_EIO; /* somebody has put another file in its place */
		errnum = EPERM;
	}
	if (err != TR_OK) {
		tr_listener_free(socket->listener);
		free(socket);
		return fail(error, TR_EIO, "%s cannot be bound: %s", config->path, strerror(errnum));
	}
	socket->dev = st.st_dev;
	socket->ino = st.st_ino;
	socket->server = server;
	socket->run_ns = config->run_ns;
	socket->timeout_ns = config->timeout_ns;
	snprintf(socket->name, sizeof socket->name, "repl socket %s", socket->path);
	socket->part = (struct tr_run_part){
		.name = socket->name, .stop = part_stop, .busy = part_busy, .abort = part_abort, .free = part_free};
	tr_run_add(&server->run, &socket->part);
	tr_log(TR_LEVEL_INFO, "repl", "the prompt of this process is at %s", socket->path);
	return TR_OK;
}
