/* Listening sockets: see stream.h. */
#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/diag.h"
#include "net/scripted.h"
#include "net/stream.h"

#define BACKLOG 1024
#define ACCEPTS_PER_TURN 64 /* other work of the worker comes in between */
#define REST_NS (100 * TR_NS_PER_MS)

struct tr_listener {
	struct tr_loop *loop;
	ev_io readable;
	struct tr_timer rest; /* running: descriptors or memory ran out */
	struct tr_sockaddr local;
	void (*accepted)(void *arg, int fd, const struct tr_sockaddr *peer);
	void *arg;
	bool complained;
	struct tr_scripted_listener *scripted; /* NULL: a real socket */
};

static void
update(struct tr_listener *listener)
{
	if (listener->scripted != NULL)
		return; /* a script's clients are not held back */
	if (!tr_timer_running(&listener->rest))
		ev_io_start(tr_loop_ev(listener->loop), &listener->readable);
	else
		ev_io_stop(tr_loop_ev(listener->loop), &listener->readable);
}

static void
rested(struct tr_timer *timer)
{
	update(tr_container_of(timer, struct tr_listener, rest));
}

static void
rest(struct tr_listener *listener, int errnum)
{
	char text[64];

	if (!listener->complained) {
		tr_sockaddr_text(&listener->local, true, text);
		tr_log(TR_LEVEL_ERROR, "net", "%s: no connection can be accepted: %s; trying again every %d ms", text,
			tr_errno_text(errnum), (int)(REST_NS / TR_NS_PER_MS));
		listener->complained = true;
	}
	tr_timer_start(tr_loop_wheel(listener->loop), &listener->rest, REST_NS, rested);
	update(listener);
}

static void
readable_cb(struct ev_loop *ev, ev_io *watcher, int revents)
{
	struct tr_listener *listener = watcher->data;

	for (int i = 0; i < ACCEPTS_PER_TURN && ev_is_active(watcher); i++) {
		struct tr_sockaddr peer = {.len = sizeof peer.ss};
		int fd = accept4(watcher->fd, (struct sockaddr *)&peer.ss, &peer.len, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			listener->complained = false;
			listener->accepted(listener->arg, fd, &peer);
			continue;
		}
		switch (errno) {
		case EINTR:
		case ECONNABORTED:
		case EPROTO: /* that connection is gone already; others may wait */
		case EPERM:
		case ENETDOWN:
		case EHOSTUNREACH:
		case ENETUNREACH:
			continue;
		case EAGAIN:
			return;
		default:
			rest(listener, errno);
			return;
		}
	}
}

int
tr_listener_new(struct tr_loop *loop, const struct tr_sockaddr *at,
	void (*accepted)(void *arg, int fd, const struct tr_sockaddr *peer), void *arg, struct tr_listener **out,
	int *errnum)
{
	struct tr_listener *listener = calloc(1, sizeof *listener);
	int fd = -1, on = 1, err = TR_ENOMEM;

	*out = NULL;
	*errnum = ENOMEM;
	if (listener == NULL)
		return TR_ENOMEM;
	listener->loop = loop;
	listener->accepted = accepted;
	listener->arg = arg;
	if (tr_scripted_listen(at, accepted, arg, &listener->local, &listener->scripted) != TR_OK) {
		free(listener);
		return TR_ENOMEM;
	}
	if (listener->scripted != NULL) {
		*out = listener;
		return TR_OK;
	}
	fd = socket(at->ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		goto fail;
	if (at->ss.ss_family == AF_INET || at->ss.ss_family == AF_INET6)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(fd, (const struct sockaddr *)&at->ss, at->len) != 0 || listen(fd, BACKLOG) != 0)
		goto fail;
	listener->local.len = sizeof listener->local.ss;
	if (getsockname(fd, (struct sockaddr *)&listener->local.ss, &listener->local.len) != 0)
		goto fail;
	ev_io_init(&listener->readable, readable_cb, fd, EV_READ);
	listener->readable.data = listener;
	update(listener);
	*out = listener;
	return TR_OK;
fail:
	*errnum = errno;
	err = errno == EADDRINUSE ? TR_EEXIST : tr_err_from_errno(errno);
	if (fd >= 0)
		close(fd);
	free(listener);
	return err;
}

const struct tr_sockaddr *
tr_listener_local(struct tr_listener *listener)
{
	return &listener->local;
}

void
tr_listener_free(struct tr_listener *listener)
{
	if (listener == NULL)
		return;
	if (listener->scripted != NULL) {
		tr_scripted_unlisten(listener->scripted);
		free(listener);
		return;
	}
	ev_io_stop(tr_loop_ev(listener->loop), &listener->readable);
	tr_timer_stop(tr_loop_wheel(listener->loop), &listener->rest);
	close(listener->readable.fd);
	free(listener);
}
