/* A network that a script plays, for tests and dry runs: while one is set in a thread, nothing that this thread's loops
 * connect to or look up reaches the real network. A connection is a pair of sockets inside the process: the transports
 * are the production ones up to their socket, and whoever has set the script talks at the other end. Nothing of it
 * holds the virtual clock: an answer that comes late is late in virtual time.
 *
 * AMQP, Kafka, websockets and odd URLs that libcurl alone understands have sockets of their own. Such URLs are refused
 * while a script is set; who sets one answers for the others, and for NATS, one level higher
 * (lua/scripted/clients.lua), or refuses them. */
#ifndef TR_NET_SCRIPTED_H
#define TR_NET_SCRIPTED_H

#include "net/dns_zone.h"
#include "net/stream.h"

enum tr_scripted_kind {
	TR_SCRIPTED_REAL,    /* the real network: no script is set, or this address is let through */
	TR_SCRIPTED_OPEN,    /* answers: accepted() gets the other end */
	TR_SCRIPTED_REFUSED, /* "connection refused" */
	TR_SCRIPTED_SILENT,  /* connecting does not end: the caller's time-out does */
};

/* The script's end of a connection. */
struct tr_scripted_end {
	struct tr_stream *stream;      /* now the receiver's, who sets handlers at once */
	struct tr_sockaddr at, client; /* what was connected to, and the address that it came from */
	int near_fd;                   /* of the client's end, for tr_scripted_reset() */
	unsigned long near_inode;
};

struct tr_scripted;
/* Sets a script for this thread; one at a time. accepted() runs from the loop, later in the turn of the connect.
 * TR_OK, TR_EINVAL (another one is set), TR_ENOMEM. */
int tr_scripted_new(struct tr_loop *loop, void (*accepted)(void *arg, const struct tr_scripted_end *end), void *arg,
	struct tr_scripted **out);
/* The real network again, for new connections; ends that were accepted are their owner's to close. NULL is fine. */
void tr_scripted_free(struct tr_scripted *script);

/* What is at an address (with port); set again, it changes. TR_OK or TR_ENOMEM. */
int tr_scripted_set(struct tr_scripted *script, const struct tr_sockaddr *at, enum tr_scripted_kind kind);
/* What is at addresses that were not set: TR_SCRIPTED_REFUSED at first. With TR_SCRIPTED_OPEN any name has an address,
 * too. */
void tr_scripted_otherwise(struct tr_scripted *script, enum tr_scripted_kind kind);
/* Gives a name (lower case) an address; several are kept in order. addr NULL: one of its own out of 198.18.0.0/16
 * unless it has some; an empty one: there is no such name. *out (may be NULL) is the first. TR_OK or TR_ENOMEM. */
int tr_scripted_name(
	struct tr_scripted *script, const char *name, const struct tr_sockaddr *addr, struct tr_sockaddr *out);
/* Adds a master file, as of the test resolver: for names that tr_scripted_name() was not called for. As tr_zones_add().
 */
int tr_scripted_zone(struct tr_scripted *script, struct tr_str text, char error[256]);
/* What was asked for and not scripted, "192.0.2.1:25" or "name example.org", since the last call: malloc'ed lines, the
 * caller frees; NULL: nothing (or no memory). Each is told once in a script's life. */
char *tr_scripted_strays(struct tr_scripted *script);
/* Connects to what is at an address, as a client of the outside: a listener of this process (tr_listener_new() binds in
 * the script while one is set), or a scripted peer. `client` may be NULL. TR_OK, TR_EREFUSED, TR_ENOMEM. */
int tr_scripted_dial(struct tr_scripted *script, const struct tr_sockaddr *to, const struct tr_sockaddr *client,
	struct tr_scripted_end *out);
/* "ip:port" of each listener, a line each; malloc'ed; NULL: none. */
char *tr_scripted_listeners(struct tr_scripted *script);

/* The peer resets the connection: the client reads ECONNRESET behind what was written. Closes the end's stream. */
void tr_scripted_reset(const struct tr_scripted_end *end);

/* --- for what connects and looks up, in the thread of a loop --- */
bool tr_scripted_on(void);
/* In place of socket() and connect(). REAL: do that; OPEN, SILENT: *fd is the caller's, non-blocking, with the result
 * of connecting to be seen when it becomes writable; *local (may be NULL) is the address it came from. */
enum tr_scripted_kind tr_scripted_connect(
	const struct tr_sockaddr *to, const struct tr_sockaddr *source, int *fd, struct tr_sockaddr *local);
/* A listener of this process. accepted() gets the descriptor of its end. *out is NULL if no script is set, or for a
 * local socket: the real one is meant. Port 0 gets one; *local is where it is. TR_OK, TR_ENOMEM. */
struct tr_scripted_listener;
int tr_scripted_listen(const struct tr_sockaddr *at,
	void (*accepted)(void *arg, int fd, const struct tr_sockaddr *peer), void *arg, struct tr_sockaddr *local,
	struct tr_scripted_listener **out);
void tr_scripted_unlisten(struct tr_scripted_listener *listener); /* NULL is fine; also after the script's end */
/* For tr_stream_new(): whether the descriptor is one that accepted() got, and its addresses. */
bool tr_scripted_claim(int fd, struct tr_sockaddr *peer, struct tr_sockaddr *local);
/* The answer to a question for a name; NULL: the script does not know it. final: nobody else is asked, so NXDOMAIN in
 * place of NULL, and the name is a stray. */
struct tr_dns_answer *tr_scripted_ask(const char *name, enum tr_dns_type type, bool final);

#endif
