#include "cli/repl_socket.h"

#include <errno.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/diag.h"
#include "cli/repl_socket_internal.h"

#define MAX_CLIENTS 8

static void
accepted(void *arg, int fd, const struct tr_sockaddr *peer)
{
	struct tr_repl_socket *socket = arg;
	struct ucred cred;
	socklen_t len = sizeof cred;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) != 0 || (cred.uid != geteuid() && cred.uid != 0)) {
		tr_log(TR_LEVEL_WARN, "repl", "user %ld (process %ld) may not use %s", (long)cred.uid, (long)cred.pid,
			socket->path);
		tr_repl_client_refuse(fd, "only the user of the process and root may attach");
		return;
	}
	if (socket->count >= MAX_CLIENTS) {
		tr_repl_client_refuse(fd, "there are 8 clients already");
		return;
	}
	tr_repl_client_new(socket, fd, &cred);
}

static void
part_stop(struct tr_run_part *part)
{
	struct tr_repl_socket *socket = tr_container_of(part, struct tr_repl_socket, part);
	struct stat st;

	if (socket->listener == NULL)
		return;
	tr_listener_free(socket->listener);
	socket->listener = NULL;
	/* Another process may have bound the name since. */
	if (lstat(socket->path, &st) == 0 && st.st_dev == socket->dev && st.st_ino == socket->ino)
		unlink(socket->path);
	for (struct tr_repl_client *client = socket->clients, *next; client != NULL; client = next) {
		next = client->next;
		tr_repl_client_dismiss(client, "the process stops");
	}
}

static bool
part_busy(struct tr_run_part *part)
{
	return tr_container_of(part, struct tr_repl_socket, part)->jobs != NULL;
}

static void
part_abort(struct tr_run_part *part)
{
	struct tr_repl_socket *socket = tr_container_of(part, struct tr_repl_socket, part);

	for (struct tr_repl_job *job = socket->jobs; job != NULL; job = job->next)
		tr_repl_job_cancel(job);
}

static void
part_free(struct tr_run_part *part)
{
	struct tr_repl_socket *socket = tr_container_of(part, struct tr_repl_socket, part);

	socket->freeing = true;
	part_stop(part);
	while (socket->jobs != NULL) { /* their tasks end with the hosts, their mails are run after that */
		struct tr_repl_job *job = socket->jobs;
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
	struct tr_repl_socket *socket = calloc(1, sizeof *socket);
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
