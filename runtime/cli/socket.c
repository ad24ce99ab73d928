#include "cli/socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { BACKLOG = 4096 };

static void
set_text(struct tr_cli_addr *addr)
{
	char host[INET6_ADDRSTRLEN] = "?";

	if (addr->storage.ss_family == AF_INET6) {
		struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&addr->storage;

		inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
		snprintf(addr->text, sizeof addr->text, "[%s]:%u", host, ntohs(in6->sin6_port));
	} else {
		struct sockaddr_in *in = (struct sockaddr_in *)&addr->storage;

		inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
		snprintf(addr->text, sizeof addr->text, "%s:%u", host, ntohs(in->sin_port));
	}
}

int
tr_cli_addr_parse(const char *text, struct tr_cli_addr *out)
{
	char host[256] = "127.0.0.1";
	const char *port = text;
	const char *colon = strrchr(text, ':');
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
	struct addrinfo *found;

	if (colon != NULL) {
		size_t len = (size_t)(colon - text);
		const char *start = text;

		port = colon + 1;
		if (len >= 2 && text[0] == '[' && text[len - 1] == ']') {
			start++;
			len -= 2;
		}
		if (len > 0)
			snprintf(host, sizeof host, "%.*s", (int)len, start);
	}
	if (*port == '\0' || strspn(port, "0123456789") != strlen(port) || strlen(port) > 5 ||
		strtoul(port, NULL, 10) > 65535) {
		fprintf(stderr, "tailrace: bad address '%s': HOST:PORT expected\n", text);
		return TR_EINVAL;
	}
	int rc = getaddrinfo(host, port, &hints, &found);

	if (rc != 0) {
		fprintf(stderr, "tailrace: bad address '%s': %s\n", text, gai_strerror(rc));
		return TR_EINVAL;
	}
	memcpy(&out->storage, found->ai_addr, found->ai_addrlen);
	out->len = found->ai_addrlen;
	freeaddrinfo(found);
	set_text(out);
	return TR_OK;
}

int
tr_cli_listen(struct tr_cli_addr *addr)
{
	int one = 1;
	int fd = socket(addr->storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
		bind(fd, (struct sockaddr *)&addr->storage, addr->len) < 0 || listen(fd, BACKLOG) < 0) {
		fprintf(stderr, "tailrace: cannot listen on %s: %s\n", addr->text, strerror(errno));
		if (fd >= 0)
			close(fd);
		return TR_EIO;
	}
	addr->len = sizeof addr->storage;
	getsockname(fd, (struct sockaddr *)&addr->storage, &addr->len);
	set_text(addr);
	return fd;
}

int
tr_cli_accept(int listener)
{
	int one = 1;
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd >= 0) {
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		return fd;
	}
	if (errno == EAGAIN || errno == EWOULDBLOCK)
		return TR_EAGAIN;
	if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
		return TR_ENOSPC;
	return TR_EIO;
}

int
tr_cli_connect(const struct tr_cli_addr *addr)
{
	int one = 1;
	int fd = socket(addr->storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return tr_err_from_errno(errno);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (connect(fd, (const struct sockaddr *)&addr->storage, addr->len) < 0 && errno != EINPROGRESS) {
		int err = tr_err_from_errno(errno);

		close(fd);
		return err;
	}
	return fd;
}

void
tr_cli_reset(int fd)
{
	struct linger linger = {.l_onoff = 1, .l_linger = 0};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
	close(fd);
}

void
tr_cli_raise_files(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}
