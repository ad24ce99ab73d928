/* The prompt of a live process. Shared by repl_socket.c (the socket, who may come in), repl_client.c (what is said over
 * a connection) and repl_job.c (calls in the workers). */
#ifndef TR_REPL_SOCKET_INTERNAL_H
#define TR_REPL_SOCKET_INTERNAL_H

#include <sys/stat.h>
#include <sys/un.h>

#include "cli/repl.h"
#include "cli/server_internal.h"
#include "net/stream.h"

struct tr_repl_socket;
struct tr_repl_client;

/* One call in a worker. Made and ended on worker 0, run on the worker; freed by whoever is last. */
struct tr_repl_job {
	_Atomic int refs;              /* worker 0, the mail under way, the cancel mail under way */
	struct tr_repl_job *next;      /* of the socket's list, worker 0 */
	struct tr_repl_client *client; /* worker 0 only; NULL: it is gone */
	struct tr_repl_socket *socket; /* worker 0 only; NULL: it is gone */
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

struct tr_repl_client {
	struct tr_repl_client *next;
	struct tr_repl_socket *socket;
	struct tr_stream *stream;
	struct tr_timer unread;  /* runs while it has not taken all that was written */
	struct tr_repl_job *job; /* under way; NULL: none */
	uint32_t id, worker;
	int width;
	bool terminal, colour;
	bool greeted; /* it has said what its terminal is */
	bool *opened; /* by worker: it has a session there */
	char peer[64];
};

struct tr_repl_socket {
	struct tr_run_part part; /* first */
	struct tr_server *server;
	struct tr_listener *listener;
	char path[sizeof((struct sockaddr_un *)0)->sun_path];
	char name[sizeof((struct sockaddr_un *)0)->sun_path + 16];
	dev_t dev; /* of the file that is ours */
	ino_t ino;
	struct tr_repl_client *clients;
	struct tr_repl_job *jobs;
	uint32_t count, next_id;
	int64_t run_ns, timeout_ns;
	bool freeing; /* the workers have ended: nothing is started in them */
};

/* --- repl_job.c --- */

/* Calls in a worker, for a client or (NULL) after it has gone. Of a client's call, tr_repl_client_answer() gets what
 * came of it. Worker 0. TR_OK or TR_ENOMEM. */
int tr_repl_job_start(struct tr_repl_client *client, struct tr_repl_socket *socket, uint32_t worker, uint32_t id,
	char kind, struct tr_str text);
/* Worker 0: the client interrupts, or is gone. What runs without a wait is ended by the watchdog. */
void tr_repl_job_cancel(struct tr_repl_job *job);

/* --- repl_client.c; worker 0 --- */

/* Takes the connection; says why and closes it where there is no memory. */
void tr_repl_client_new(struct tr_repl_socket *socket, int fd, const struct ucred *cred);
/* Says why and closes a connection that does not become a client. */
void tr_repl_client_refuse(int fd, const char *why);
/* Says why, closes it and cancels its call. */
void tr_repl_client_dismiss(struct tr_repl_client *client, const char *why);
void tr_repl_client_answer(struct tr_repl_client *client, struct tr_repl_job *job);
/* Goes on with what it has sent, after an answer; it may be gone afterwards. */
void tr_repl_client_read(struct tr_repl_client *client);

#endif
