/* Calls of the prompt in the workers of a live process: started and answered on worker 0, run on the worker. */
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "cli/repl_socket_internal.h"

#define MAX_OUTPUT (1 << 20) /* bytes of one answer; the rest is counted */

static void
unref(struct tr_repl_job *job)
{
	if (atomic_fetch_sub(&job->refs, 1) > 1)
		return;
	tr_repl_call_fini(&job->call);
	tr_buf_free(&job->out);
	free(job->text);
	free(job);
}

static void
unlist(struct tr_repl_job *job)
{
	for (struct tr_repl_job **at = &job->socket->jobs; *at != NULL; at = &(*at)->next) {
		if (*at == job) {
			*at = job->next;
			break;
		}
	}
}

/* Worker 0. */
static void
done(struct tr_mail *mail)
{
	struct tr_repl_job *job = tr_container_of(mail, struct tr_repl_job, mail);
	struct tr_repl_client *client = job->client;

	if (job->socket != NULL)
		unlist(job);
	if (client != NULL) {
		client->job = NULL;
		tr_repl_client_answer(client, job);
	}
	unref(job);
	if (client != NULL)
		tr_repl_client_read(client); /* what came meanwhile */
}

/* The worker's thread, at the end of the call. */
static void
ended(struct tr_repl_call *call)
{
	struct tr_repl_job *job = call->owner;

	tr_repl_sink_remove(&job->sink);
	job->done = true;
	job->mail.fn = done;
	tr_loop_post(job->home, &job->mail);
}

static void
write_out(struct tr_repl_sink *sink, struct tr_str text)
{
	struct tr_repl_job *job = tr_container_of(sink, struct tr_repl_job, sink);
	size_t room = MAX_OUTPUT - job->out.len;

	if (text.len > room) {
		job->dropped += text.len - room;
		text.len = room;
	}
	tr_buf_add(&job->out, text.data, text.len);
}

static void
run(struct tr_mail *mail)
{
	struct tr_repl_job *job = tr_container_of(mail, struct tr_repl_job, mail);
	int err = tr_repl_install(job->host);

	job->sink.write = write_out;
	tr_repl_sink_add(&job->sink);
	if (err == TR_OK)
		err = tr_repl_start(job->host, &job->call, job->run_ns, job->timeout_ns);
	if (err != TR_OK) {
		job->call.status = err;
		tr_buf_addf(&job->call.error, "%s", tr_err_text(err));
		tr_buf_addc(&job->call.error, '\0');
		tr_buf_addc(&job->call.result, '\0');
		ended(&job->call);
	}
}

static void
cancel_mail(struct tr_mail *mail)
{
	struct tr_repl_job *job = tr_container_of(mail, struct tr_repl_job, cancel);

	if (!job->done && job->call.task != NULL)
		tr_task_cancel(job->call.task);
	unref(job);
}

void
tr_repl_job_cancel(struct tr_repl_job *job)
{
	if (job->cancelled)
		return;
	job->cancelled = true;
	atomic_fetch_add(&job->refs, 1);
	job->cancel.fn = cancel_mail;
	tr_loop_post(job->loop, &job->cancel);
}

int
tr_repl_job_start(struct tr_repl_client *client, struct tr_repl_socket *socket, uint32_t worker, uint32_t id, char kind,
	struct tr_str text)
{
	struct tr_worker_parts *parts = &socket->server->worker[worker];
	struct tr_repl_job *job = calloc(1, sizeof *job);

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
		.end = ended,
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
	job->mail.fn = run;
	tr_loop_post(job->loop, &job->mail);
	return TR_OK;
}
