/* A broker of AMQP 0-9-1 on loopback that follows a script, in a thread of its own: one script a connection, one
 * connection after the other. */
#ifndef AMQP_PEER_H
#define AMQP_PEER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Steps of a script. It reads: p the protocol header, k a frame, m a message (its three frames). It sends: s start, t
 * tune, o open-ok, c open-ok of the channel, f select-ok, a an ack of the next message, A one of all that were read, n
 * a nack, r the last message back, b blocked, u unblocked, g nonsense; x closes the channel for a message, X the
 * connection for reasons of its own. R resets. e reads until the other side ends. / and a step that sends: half of it,
 * then the end. h holds until the test ends, w until it sets `go`. At the end of a script it hangs up.
 */
#define AMQP_LOGIN "psktkkokckf"

struct amqp_peer {
	int fd;
	uint16_t port;
	const char *const *scripts;
	int count;
	pthread_t thread;
	_Atomic int connections, messages, ended; /* ended: connections */
	_Atomic bool ending, go;
	int held;
};

struct amqp_bytes {
	uint8_t data[512];
	size_t len;
};

static inline void
put(struct amqp_bytes *out, uint64_t value, int bytes)
{
	for (int i = bytes - 1; i >= 0; i--)
		out->data[out->len++] = (uint8_t)(value >> (8 * i));
}

static inline void
put_text(struct amqp_bytes *out, const char *text, int length_bytes)
{
	size_t len = strlen(text);

	put(out, len, length_bytes);
	memcpy(out->data + out->len, text, len);
	out->len += len;
}

/* Begins a frame; its length is set by end_frame(). */
static inline size_t
begin_frame(struct amqp_bytes *out, int type, int channel)
{
	put(out, (uint64_t)type, 1);
	put(out, (uint64_t)channel, 2);
	put(out, 0, 4);
	return out->len;
}

static inline void
end_frame(struct amqp_bytes *out, size_t from)
{
	uint32_t len = htonl((uint32_t)(out->len - from));

	memcpy(out->data + from - 4, &len, 4);
	put(out, 0xce, 1);
}

static inline size_t
begin_method(struct amqp_bytes *out, int channel, int class_id, int method)
{
	size_t from = begin_frame(out, 1, channel);

	put(out, (uint64_t)class_id, 2);
	put(out, (uint64_t)method, 2);
	return from;
}

static inline void
put_close(struct amqp_bytes *out, int code, const char *text)
{
	put(out, (uint64_t)code, 2);
	put_text(out, text, 1);
	put(out, 0, 4);
}

static inline void
put_return(struct amqp_bytes *out)
{
	size_t from = begin_method(out, 1, 60, 50);

	put(out, 312, 2);
	put_text(out, "NO_ROUTE", 1);
	put_text(out, "", 1);
	put_text(out, "events", 1);
	end_frame(out, from);
	from = begin_frame(out, 2, 1);
	put(out, 60, 2);
	put(out, 0, 2);
	put(out, 5, 8);
	put(out, 0, 2);
	end_frame(out, from);
	from = begin_frame(out, 3, 1);
	memcpy(out->data + out->len, "hello", 5);
	out->len += 5;
	end_frame(out, from);
}

/* What a step sends. `tag` is of the last message that was confirmed. */
static inline void
make_step(char step, uint64_t *tag, uint64_t messages, struct amqp_bytes *out)
{
	size_t from = 0;

	switch (step) {
	case 's':
		from = begin_method(out, 0, 10, 10);
		put(out, 0, 1);
		put(out, 9, 1);
		put(out, 0, 4);
		put_text(out, "PLAIN", 4);
		put_text(out, "en_US", 4);
		break;
	case 't':
		from = begin_method(out, 0, 10, 30);
		put(out, 2047, 2);
		put(out, 131072, 4);
		put(out, 0, 2);
		break;
	case 'o':
		from = begin_method(out, 0, 10, 41);
		put_text(out, "", 1);
		break;
	case 'c':
		from = begin_method(out, 1, 20, 11);
		put_text(out, "", 4);
		break;
	case 'f':
		from = begin_method(out, 1, 85, 11);
		break;
	case 'a':
	case 'A':
		*tag = step == 'a' ? *tag + 1 : messages;
		from = begin_method(out, 1, 60, 80);
		put(out, *tag, 8);
		put(out, step == 'A', 1);
		break;
	case 'n':
		from = begin_method(out, 1, 60, 120);
		put(out, ++*tag, 8);
		put(out, 0, 1);
		break;
	case 'r':
		put_return(out);
		return;
	case 'b':
		from = begin_method(out, 0, 10, 60);
		put_text(out, "low on disk", 1);
		break;
	case 'u':
		from = begin_method(out, 0, 10, 61);
		break;
	case 'x':
		from = begin_method(out, 1, 20, 40);
		put_close(out, 406, "PRECONDITION_FAILED - too large");
		break;
	case 'X':
		from = begin_method(out, 0, 10, 50);
		put_close(out, 320, "CONNECTION_FORCED - broker forced connection closure");
		break;
	default: /* g */
		put(out, 0x2a2a2a2a2a2a2a2a, 8);
		put(out, 0x2a2a2a2a2a2a2a2a, 8);
		return;
	}
	end_frame(out, from);
}

static inline bool
read_all(int fd, uint8_t *data, size_t len)
{
	return len == 0 || recv(fd, data, len, MSG_WAITALL) == (ssize_t)len;
}

static inline bool
read_frame(int fd)
{
	uint8_t head[7], waste[4096];
	uint32_t len;

	if (!read_all(fd, head, sizeof head))
		return false;
	memcpy(&len, head + 3, 4);
	len = ntohl(len) + 1;
	return len <= sizeof waste && read_all(fd, waste, len);
}

static inline void
follow_script(struct amqp_peer *peer, int fd, const char *script)
{
	uint64_t tag = 0, messages = 0;
	uint8_t header[8];

	for (const char *step = script; *step != '\0'; step++) {
		struct amqp_bytes out = {.len = 0};
		bool half = *step == '/';

		if (*step == 'h') {
			peer->held = fd;
			return;
		}
		if (*step == 'R')
			setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
		while (*step == 'e' && recv(fd, header, sizeof header, 0) > 0)
			;
		while (*step == 'w' && !atomic_load(&peer->go) && !atomic_load(&peer->ending))
			nanosleep(&(struct timespec){0, 1000000}, NULL);
		if (strchr("wRe", *step) != NULL)
			continue;
		if (*step == 'p' ? !read_all(fd, header, 8) : *step == 'k' ? !read_frame(fd) : false)
			break;
		if (*step == 'm') {
			if (!read_frame(fd) || !read_frame(fd) || !read_frame(fd))
				break;
			messages++;
			atomic_fetch_add(&peer->messages, 1);
		}
		if (strchr("pkm", *step) != NULL)
			continue;
		step += half;
		make_step(*step, &tag, messages, &out);
		if (send(fd, out.data, half ? out.len / 2 : out.len, MSG_NOSIGNAL) < 0 || half)
			break;
	}
	close(fd);
	atomic_fetch_add(&peer->ended, 1);
}

static inline void *
amqp_serve(void *arg)
{
	struct amqp_peer *peer = arg;

	for (int i = 0; i < peer->count; i++) {
		int fd = accept(peer->fd, NULL, NULL);

		if (fd < 0)
			break;
		atomic_fetch_add(&peer->connections, 1);
		follow_script(peer, fd, peer->scripts[i]);
	}
	return NULL;
}

static inline void
amqp_peer_start(struct amqp_peer *peer, const char *const *scripts, int count)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof addr;

	memset(peer, 0, sizeof *peer);
	peer->held = -1;
	peer->scripts = scripts;
	peer->count = count;
	peer->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(peer->fd, (struct sockaddr *)&addr, sizeof addr), 0);
	assert_int_equal(listen(peer->fd, 16), 0);
	assert_int_equal(getsockname(peer->fd, (struct sockaddr *)&addr, &len), 0);
	peer->port = ntohs(addr.sin_port);
	assert_int_equal(pthread_create(&peer->thread, NULL, amqp_serve, peer), 0);
}

/* After the client's end: a script may wait for its bytes. */
static inline void
amqp_peer_stop(struct amqp_peer *peer)
{
	shutdown(peer->fd, SHUT_RDWR);
	pthread_join(peer->thread, NULL);
	close(peer->fd);
	if (peer->held >= 0)
		close(peer->held);
}

#endif
