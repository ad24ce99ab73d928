/* Sockets of the tools: addresses given on the command line, listening, connecting. The calls that may look
 * up a name block, so they are for set-up time. They print their errors. */
#ifndef TR_CLI_SOCKET_H
#define TR_CLI_SOCKET_H

#include <sys/socket.h>

#include "base/base.h"

struct tr_cli_addr {
	struct sockaddr_storage storage;
	socklen_t len;
	char text[80]; /* "127.0.0.1:25", "[::1]:25" */
};

/* "HOST:PORT", "[IPV6]:PORT", ":PORT" (loopback), "PORT". TR_OK or TR_EINVAL with a message printed. */
int tr_cli_addr_parse(const char *text, struct tr_cli_addr *out);
/* Binds and listens, not blocking; *addr then has the port that was chosen. A descriptor that the caller closes,
 * or TR_EIO with a message printed. */
int tr_cli_listen(struct tr_cli_addr *addr);
/* Takes the next connection of a listener: descriptor (not blocking, no delay), TR_EAGAIN when there is none,
 * TR_ENOSPC when the process has no descriptor left, TR_EIO for a connection that died while waiting. */
int tr_cli_accept(int listener);
/* Starts to connect: descriptor, or a negative tr_err (TR_EREFUSED, TR_EIO ...); prints nothing. */
int tr_cli_connect(const struct tr_cli_addr *addr);
/* Closes with a reset, dropping what is unsent. */
void tr_cli_reset(int fd);
/* Raises the soft limit of open files to the hard one. */
void tr_cli_raise_files(void);

#endif
