/* Peers that mean no good, many at once from one thread: the specs compile it with cc.
 *
 *   hostile connect HOST:PORT COUNT [OPTION...]     opens COUNT connections (all of 127.0.0.0/8 may be a source)
 *   hostile listen HOST:PORT [OPTION...]            answers whoever connects, once a byte has come
 *
 * Options: send=FILE  its bytes, once        repeat=FILE  its bytes after those, without end
 *          drip=MS    not at once but a byte each MS     read=no  never reads     from=ADDR  source address
 *          max=BYTES  no more than that on each connection
 * Prints "ready PORT" (listen), or "open N closed N" when every connection was made or refused and again when the
 * numbers change; ends when standard input does, with "sent BYTES received BYTES open N closed N". */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct text {
	char *data;
	size_t len;
};

struct peer {
	int fd;
	bool made, heard, shut;
	size_t at; /* of send, then of repeat */
	uint64_t total;
	int64_t due_ms; /* of the next byte */
};

static struct text first, again;
static int64_t drip_ms;
static bool reads = true, listening;
static uint64_t sent, received, most = UINT64_MAX;
static size_t open_count, closed_count, tried;
static int poller;

static int64_t
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static struct text
load(const char *path)
{
	struct text text = {NULL, 0};
	FILE *file = fopen(path, "rb");

	if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
		perror(path);
		exit(1);
	}
	text.len = (size_t)ftell(file);
	text.data = malloc(text.len + 1);
	rewind(file);
	if (fread(text.data, 1, text.len, file) != text.len)
		exit(1);
	fclose(file);
	return text;
}

static void
end(struct peer *peer)
{
	close(peer->fd);
	peer->fd = -1;
	open_count -= peer->made;
	closed_count++;
}

/* What is to be sent next; 0: nothing. */
static size_t
next(const struct peer *peer, const char **data)
{
	size_t len = 0;

	if (peer->at < first.len) {
		*data = first.data + peer->at;
		len = first.len - peer->at;
	} else if (again.len > 0) {
		size_t at = (peer->at - first.len) % again.len;

		*data = again.data + at;
		len = again.len - at;
	}
	return len > most - peer->total ? most - peer->total : len;
}

static void
watch(struct peer *peer, int op)
{
	const char *data;
	bool wants =
		!peer->made || (drip_ms == 0 && (!listening || peer->heard) && !peer->shut && next(peer, &data) > 0);
	struct epoll_event event = {
		.events = (reads || !peer->heard ? EPOLLIN : 0) | (wants ? EPOLLOUT : 0), .data.ptr = peer};

	epoll_ctl(poller, op, peer->fd, &event);
}

static void
give(struct peer *peer)
{
	const char *data;
	size_t len;

	for (int i = 0; i < 16 && (len = next(peer, &data)) > 0; i++) {
		ssize_t done = send(peer->fd, data, drip_ms > 0 ? 1 : len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (done < 0) {
			if (errno != EAGAIN)
				peer->shut = true; /* what the other side has said is still to be read */
			return;
		}
		peer->at += (size_t)done;
		peer->total += (uint64_t)done;
		sent += (uint64_t)done;
		if (drip_ms > 0)
			return;
	}
}

static void
take(struct peer *peer)
{
	static char waste[65536];
	ssize_t got = recv(peer->fd, waste, listening && !reads ? 1 : sizeof waste, MSG_DONTWAIT);

	if (got > 0) {
		peer->heard = true;
		received += (uint64_t)got;
	} else if (got == 0 || errno != EAGAIN) {
		end(peer);
	}
}

static void
add(int fd, bool made)
{
	struct peer *peer = calloc(1, sizeof *peer);

	peer->fd = fd;
	peer->made = made;
	open_count += made;
	watch(peer, EPOLL_CTL_ADD);
}

static void
serve(struct peer *peer, uint32_t events)
{
	if (!peer->made) {
		int err = 0;
		socklen_t len = sizeof err;

		getsockopt(peer->fd, SOL_SOCKET, SO_ERROR, &err, &len);
		if (err != 0) {
			end(peer);
			return;
		}
		peer->made = true;
		open_count++;
	}
	if (events & (EPOLLHUP | EPOLLERR)) {
		end(peer);
		return;
	}
	if (events & EPOLLIN)
		take(peer);
	if (peer->fd >= 0 && drip_ms == 0 && (!listening || peer->heard) && !peer->shut)
		give(peer);
	if (peer->fd >= 0)
		watch(peer, EPOLL_CTL_MOD);
}

static struct sockaddr_in
address(const char *text, int port)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	char host[64];
	const char *colon = strchr(text, ':');

	snprintf(host, sizeof host, "%.*s", (int)(colon ? colon - text : (long)strlen(text)), text);
	inet_pton(AF_INET, host, &addr.sin_addr);
	if (colon != NULL)
		addr.sin_port = htons((uint16_t)atoi(colon + 1));
	return addr;
}

int
main(int argc, char **argv)
{
	struct rlimit files;
	struct sockaddr_in to, from = {.sin_family = AF_INET};
	struct epoll_event events[256];
	struct peer **drippers = NULL;
	size_t count = 0, told_open = SIZE_MAX, told_closed = 0, in_flight;
	int listener = -1, option = 3, on = 1;

	if (argc < 3)
		return 2;
	signal(SIGPIPE, SIG_IGN);
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	poller = epoll_create1(0);
	to = address(argv[2], 0);
	listening = strcmp(argv[1], "listen") == 0;
	if (!listening)
		count = strtoul(argv[option++], NULL, 10);
	for (; option < argc; option++) {
		char *value = strchr(argv[option], '=') + 1;

		switch (argv[option][0] == 'r' ? argv[option][2] : argv[option][0]) {
		case 's':
			first = load(value);
			break;
		case 'p': /* repeat */
			again = load(value);
			break;
		case 'a': /* read */
			reads = strcmp(value, "no") != 0;
			break;
		case 'd':
			drip_ms = atoi(value);
			break;
		case 'm':
			most = strtoull(value, NULL, 10);
			break;
		case 'f':
			from = address(value, 0);
			break;
		}
	}
	if (listening) {
		socklen_t len = sizeof to;

		listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
		if (bind(listener, (struct sockaddr *)&to, sizeof to) != 0 || listen(listener, 1024) != 0)
			return 1;
		getsockname(listener, (struct sockaddr *)&to, &len);
		struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
		epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
		printf("ready %d\n", ntohs(to.sin_port));
		fflush(stdout);
	}
	struct epoll_event input = {.events = EPOLLIN, .data.ptr = &poller};
	epoll_ctl(poller, EPOLL_CTL_ADD, 0, &input);
	drippers = calloc(count + 4096, sizeof *drippers);
	size_t drip_count = 0;
	for (bool going = true; going;) {
		/* at most some hundred at a time wait to be accepted: the queue of the listener is finite */
		in_flight = listening ? 0 : tried - open_count - closed_count;
		while (!listening && tried < count && in_flight < 400) {
			int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

			tried++;
			if (fd < 0) {
				closed_count++;
				continue;
			}
			if (from.sin_addr.s_addr != 0) {
				setsockopt(fd, IPPROTO_IP, 24 /* IP_BIND_ADDRESS_NO_PORT */, &on, sizeof on);
				if (bind(fd, (struct sockaddr *)&from, sizeof from) != 0)
					perror("bind");
			}
			if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0 && errno != EINPROGRESS) {
				close(fd);
				closed_count++;
				continue;
			}
			add(fd, false);
			in_flight++;
		}
		int got = epoll_wait(poller, events, 256, drip_ms > 0 ? (int)drip_ms / 4 + 1 : 100);

		for (int i = 0; i < got; i++) {
			struct peer *peer = events[i].data.ptr;

			if (events[i].data.ptr == &poller) {
				char waste[64];

				going = read(0, waste, sizeof waste) > 0;
			} else if (peer == NULL) {
				int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);

				if (fd >= 0)
					add(fd, true);
			} else if (peer->fd >= 0) {
				bool was = peer->made && (!listening || peer->heard);

				serve(peer, events[i].events);
				if (drip_ms > 0 && peer->fd >= 0 && drip_count < count + 4096 &&
					((peer->made && (!listening || peer->heard)) != was || (!was && peer->made))) {
					peer->due_ms = now_ms();
					drippers[drip_count++] = peer;
				}
			}
		}
		for (size_t i = 0, now = (size_t)now_ms(); i < drip_count; i++) {
			if (drippers[i]->fd >= 0 && !drippers[i]->shut && drippers[i]->due_ms <= (int64_t)now) {
				drippers[i]->due_ms += drip_ms;
				give(drippers[i]);
			}
		}
		if (listening || tried < count || open_count + closed_count < count)
			continue;
		if (open_count != told_open || closed_count != told_closed) {
			printf("open %zu closed %zu\n", open_count, closed_count);
			fflush(stdout);
			told_open = open_count;
			told_closed = closed_count;
		}
	}
	printf("sent %llu received %llu open %zu closed %zu\n", (unsigned long long)sent, (unsigned long long)received,
		open_count, closed_count);
	return 0;
}
