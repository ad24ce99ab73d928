/* The prompt of a live process: a Unix socket of its user alone, on worker 0's loop. Inputs run as tasks of the worker
 * that a client has chosen, between its turns, with a limit of one run and one of all. lua/repl/locked.lua says what
 * they may do. */
#ifndef TR_REPL_SOCKET_H
#define TR_REPL_SOCKET_H

#include "cli/server.h"

#define TR_REPL_RUN_NS TR_NS_PER_S /* defaults */
#define TR_REPL_TIMEOUT_NS (30 * TR_NS_PER_S)

struct tr_repl_socket_config {
	const char *path;   /* absolute, shorter than a socket's name may be; copied */
	int64_t run_ns;     /* longest run of Lua between two waits */
	int64_t timeout_ns; /* of one input with its waits */
};

/* Binds and listens; the server's run owns it. From worker 0's thread before the workers run, or in `init`.
 * TR_OK; TR_EINVAL, TR_EEXIST (another process listens there) or TR_EIO with *error (malloc'ed). */
int tr_repl_socket_open(struct tr_server *server, const struct tr_repl_socket_config *config, char **error);

#endif
