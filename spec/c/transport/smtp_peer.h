/* A scripted SMTP peer on loopback in a thread of its own, for tests: one script per connection, in order.
 * Steps: "<MAIL" reads a line that must begin so, "<." reads a message up to its lone dot, ">250 ok\r\n" writes,
 * "?" nothing may be readable now, "H" reads until the other side ends, "P" waits for that without reading, "R"
 * resets. A script ends by closing. */
#ifndef SMTP_PEER_H
#define SMTP_PEER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define PEER_SCRIPTS 6

struct peer {
	int fd, port;
	const char *const *scripts[PEER_SCRIPTS]; /* each ends with NULL */
	pthread_t thread;
	_Atomic int closed; /* connections served */
	_Atomic bool ending;
	_Atomic long allowed; /* bytes */
	char in[1 << 16];
	size_t in_len;
	char *data; /* of the last message, dots undone, without the lone dot */
	size_t data_len;
	/* To be read after peer_stop(). */
	char lines[1 << 16]; /* all commands, one a line */
	char error[256];     /* a script that was not followed */
};

static inline bool
peer_more(struct peer *peer, int fd)
{
	ssize_t got = read(fd, peer->in + peer->in_len, sizeof peer->in - peer->in_len);

	if (got <= 0)
		return false;
	peer->in_len += (size_t)got;
	return true;
}

/* The next line without its CRLF; false at the end. */
static inline bool
peer_line(struct peer *peer, int fd, char *out, size_t room)
{
	char *end;
	size_t len;

	while ((end = memchr(peer->in, '\n', peer->in_len)) == NULL) {
		if (!peer_more(peer, fd))
			return false;
	}
	len = (size_t)(end - peer->in);
	snprintf(out, room, "%.*s", (int)(len > 0 && end[-1] == '\r' ? len - 1 : len), peer->in);
	peer->in_len -= len + 1;
	memmove(peer->in, end + 1, peer->in_len);
	return true;
}

static inline bool
peer_message(struct peer *peer, int fd)
{
	char *at, *hit, *end;
	size_t len = 0, cap = 1 << 16, from;
	char *raw = malloc(cap);

	for (;;) {
		if (peer->in_len == 0 && !peer_more(peer, fd)) {
			free(raw);
			return false;
		}
		while (len + peer->in_len + 1 > cap)
			raw = realloc(raw, cap *= 2);
		memcpy(raw + len, peer->in, peer->in_len);
		from = len > 4 ? len - 4 : 0;
		len += peer->in_len;
		peer->in_len = 0;
		if (len >= 3 && memcmp(raw, ".\r\n", 3) == 0) {
			end = raw;
			break;
		}
		hit = memmem(raw + from, len - from, "\r\n.\r\n", 5);
		if (hit != NULL) {
			end = hit + 2;
			break;
		}
	}
	peer->in_len = len - (size_t)(end + 3 - raw);
	memcpy(peer->in, end + 3, peer->in_len);
	free(peer->data);
	peer->data = malloc((size_t)(end - raw) + 1);
	peer->data_len = 0;
	for (at = raw; at < end; at++) {
		if (*at == '.' && (at == raw || at[-1] == '\n'))
			continue;
		peer->data[peer->data_len++] = *at;
	}
	free(raw);
	return true;
}

static inline bool
peer_step(struct peer *peer, int fd, const char *step)
{
	char line[1024];
	struct pollfd poller = {.fd = fd, .events = POLLIN};

	switch (*step) {
	case '<':
		if (strcmp(step, "<.") == 0)
			return peer_message(peer, fd);
		if (!peer_line(peer, fd, line, sizeof line))
			snprintf(line, sizeof line, "the end");
		else if (strlen(peer->lines) + strlen(line) + 2 < sizeof peer->lines)
			strcat(strcat(peer->lines, line), "\n");
		return strncmp(line, step + 1, strlen(step + 1)) == 0 ||
		       (snprintf(peer->error, sizeof peer->error, "%s expected, got %.100s", step, line), false);
	case '>':
		return send(fd, step + 1, strlen(step + 1), MSG_NOSIGNAL) == (ssize_t)strlen(step + 1);
	case '?':
		if (peer->in_len > 0 || poll(&poller, 1, 0) > 0)
			snprintf(peer->error, sizeof peer->error, "more came than was asked for");
		return peer->error[0] == '\0';
	case 'H':
		while (read(fd, line, sizeof line) > 0)
			;
		return true;
	case 'A':
		for (;;) {
			long most = atomic_load(&peer->allowed);
			ssize_t got;

			if (most <= 0 && poll(&poller, 1, 0) == 1 && (poller.revents & (POLLHUP | POLLERR)))
				return true;
			if (most <= 0) {
				sched_yield();
				continue;
			}
			got = read(fd, peer->in, most < (long)sizeof peer->in ? (size_t)most : sizeof peer->in);
			if (got <= 0)
				return true;
			atomic_fetch_sub(&peer->allowed, got);
		}
	case 'P':
		poller.events = POLLRDHUP;
		poll(&poller, 1, 60000);
		return true;
	default: {
		const struct linger now = {1, 0};

		setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
		return false;
	}
	}
}

static inline void *
peer_serve(void *arg)
{
	struct peer *peer = arg;

	for (int i = 0; i < PEER_SCRIPTS && peer->scripts[i] != NULL; i++) {
		const struct timeval limit = {.tv_sec = 60}; /* a test that went wrong ends all the same */
		int fd = accept(peer->fd, NULL, NULL);

		if (fd < 0 || atomic_load(&peer->ending)) {
			if (fd >= 0)
				close(fd);
			break;
		}
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
		peer->in_len = 0;
		for (const char *const *step = peer->scripts[i]; *step != NULL; step++) {
			if (!peer_step(peer, fd, *step))
				break;
		}
		close(fd);
		atomic_fetch_add(&peer->closed, 1);
	}
	return NULL;
}

/* A port of 127.0.0.1 that nobody listens on: it stays ours until the end of the program. */
static inline int
peer_dead_port(void)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof addr;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof addr), 0);
	getsockname(fd, (struct sockaddr *)&addr, &len);
	return ntohs(addr.sin_port);
}

static inline void
peer_start(struct peer *peer)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof addr;

	peer->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(peer->fd, (struct sockaddr *)&addr, sizeof addr), 0);
	assert_int_equal(listen(peer->fd, 16), 0);
	getsockname(peer->fd, (struct sockaddr *)&addr, &len);
	peer->port = ntohs(addr.sin_port);
	assert_int_equal(pthread_create(&peer->thread, NULL, peer_serve, peer), 0);
}

static inline void
peer_stop(struct peer *peer)
{
	atomic_store(&peer->ending, true);
	shutdown(peer->fd, SHUT_RDWR);
	pthread_join(peer->thread, NULL);
	close(peer->fd);
}

#endif
