/* An HTTP endpoint that looks at the order of what it gets: `order_sink PORT COUNT`. Every `"counter":N` (1 to COUNT)
 * of a request's body is a record. Ends, with one line of key=value, when all COUNT have come or on SIGTERM: `late` had
 * a higher number before them, `again` came twice, `bad` are requests that it could not read. The rate leaves out the
 * first and the last thousand: the wait for the first attempt, and the few that were tried before and wait for their
 * own time. One thread, poll(). */
#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "measure.h"

enum { MAX_CONNS = 64, BUFFER = 1 << 20, SKIPPED = 1000 };

static struct conn {
	char *data;
	size_t len;
} conns[MAX_CONNS];
static struct pollfd fds[MAX_CONNS + 1]; /* fds[0] listens, fds[i + 1] is conns[i] */
static long count, records, late, again, bad, highest;
static unsigned char *seen; /* a bit a number */
static int64_t first_ns, last_ns;
static volatile sig_atomic_t ending;

static void
asked_to_end(int number)
{
	ending = 1;
}

static void
record(long number)
{
	if (number < 1 || number > count) {
		bad++;
		return;
	}
	if (seen[number / 8] & 1 << number % 8) {
		again++;
		return;
	}
	seen[number / 8] |= (unsigned char)(1 << number % 8);
	late += number < highest;
	if (number > highest)
		highest = number;
	if (++records == SKIPPED)
		first_ns = tr_mono_ns();
	if (records == count - SKIPPED)
		last_ns = tr_mono_ns();
}

static void
read_body(const char *data, size_t len)
{
	static const char key[] = "\"counter\":";
	const char *end = data + len, *at;

	while ((at = memmem(data, (size_t)(end - data), key, sizeof key - 1)) != NULL) {
		data = at + sizeof key - 1;
		record(strtol(data, NULL, 10)); /* the buffer ends with a NUL */
	}
}

/* Takes whole requests from the front of the buffer. false: the bytes are no request. */
static bool
take_requests(struct conn *conn, int fd)
{
	static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", length[] = "\r\nContent-Length:";
	size_t at = 0;

	while (at < conn->len) {
		char *head = conn->data + at, *end = memmem(head, conn->len - at, "\r\n\r\n", 4), *field;
		size_t body;

		if (end == NULL)
			break;
		*end = '\0';
		field = strcasestr(head, length);
		*end = '\r';
		if (field == NULL)
			return false;
		body = strtoul(field + sizeof length - 1, NULL, 10);
		if (body > BUFFER / 2)
			return false;
		end += 4;
		if ((size_t)(end - conn->data) + body > conn->len)
			break;
		read_body(end, body);
		at = (size_t)(end - conn->data) + body;
		if (write(fd, answer, sizeof answer - 1) != (ssize_t)sizeof answer - 1)
			return false;
	}
	memmove(conn->data, conn->data + at, conn->len - at);
	conn->len -= at;
	conn->data[conn->len] = '\0';
	return true;
}

static void
read_more(int i)
{
	struct conn *conn = &conns[i];
	ssize_t got = read(fds[i + 1].fd, conn->data + conn->len, BUFFER - conn->len);
	bool fine = got > 0;

	if (fine) {
		conn->len += (size_t)got;
		conn->data[conn->len] = '\0';
		fine = take_requests(conn, fds[i + 1].fd) && conn->len < BUFFER;
		bad += !fine;
	}
	if (!fine) {
		close(fds[i + 1].fd);
		fds[i + 1].fd = -1;
	}
}

static void
accept_one(void)
{
	int fd = accept(fds[0].fd, NULL, NULL);

	for (int i = 0; fd >= 0 && i < MAX_CONNS; i++) {
		if (fds[i + 1].fd >= 0)
			continue;
		if (conns[i].data == NULL)
			conns[i].data = malloc(BUFFER + 1);
		if (conns[i].data == NULL)
			break;
		conns[i].len = 0;
		fds[i + 1] = (struct pollfd){.fd = fd, .events = POLLIN};
		return;
	}
	if (fd >= 0)
		close(fd);
}

static int
listen_on(int port)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;

	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
		bind(fd, (struct sockaddr *)&addr, sizeof addr) != 0 || listen(fd, 64) != 0)
		return -1;
	return fd;
}

int
main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = asked_to_end};
	double seconds;

	count = argc == 3 ? atol(argv[2]) : 0;
	if (count <= 2 * SKIPPED) {
		fprintf(stderr, "usage: order_sink PORT COUNT (more than %d)\n", 2 * SKIPPED);
		return 64;
	}
	seen = calloc((size_t)count / 8 + 1, 1);
	fds[0] = (struct pollfd){.fd = listen_on(atoi(argv[1])), .events = POLLIN};
	if (seen == NULL || fds[0].fd < 0) {
		perror("order_sink");
		return 69;
	}
	for (int i = 0; i < MAX_CONNS; i++)
		fds[i + 1].fd = -1;
	sigaction(SIGTERM, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	while (!ending && records < count) {
		if (poll(fds, MAX_CONNS + 1, -1) < 0)
			continue;
		for (int i = 0; i < MAX_CONNS; i++)
			if (fds[i + 1].fd >= 0 && fds[i + 1].revents != 0)
				read_more(i);
		if (fds[0].revents != 0)
			accept_one();
	}
	seconds = (double)(last_ns - first_ns) / 1e9;
	printf("records=%ld late=%ld again=%ld bad=%ld seconds=%.3f rate=%.0f cpu_us=%.2f\n", records, late, again, bad,
		seconds, seconds > 0 ? (double)(count - 2 * SKIPPED) / seconds : 0.,
		measure_cpu_us() / (double)records);
	for (int i = 0; i < MAX_CONNS; i++)
		free(conns[i].data);
	free(seen);
	return records == count ? 0 : 1;
}
