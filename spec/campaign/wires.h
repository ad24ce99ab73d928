/* What tailrace-wires is made of: each transport over a real socket of the loopback, with the Nth allocation of ours
 * failing, or of a library's (libraries.h), in all threads but the peer's. */
#ifndef CAMPAIGN_WIRES_H
#define CAMPAIGN_WIRES_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/loop.h"

#define WIRE_LIMIT_NS (30 * TR_NS_PER_S)
#define WIRE_STEP_NS (10 * TR_NS_PER_S) /* more than a busy machine needs for anything here */

/* One life of a transport, in a process of its own. Between wire_begin() and wire_calm() allocations fail; then all
 * must work with what there is, or with a new one of what could not be made. */
struct wire {
	const char *name;
	void (*run)(struct tr_loop *loop);
};
extern const struct wire wire_begin_all, wire_dns, wire_http, wire_https, wire_listener, wire_smtp, wire_ws, wire_wss,
	wire_redis, wire_rediss, wire_nats, wire_natss, wire_amqp, wire_amqps, wire_kafka;

void wire_begin(void);
void wire_calm(void);
bool wire_is_calm(void);
/* Whether what fails must say why: there is memory for that, but for one. */
bool wire_tells(void);
/* Says what must not be, and ends the process. */
_Noreturn void wire_wrong(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* What failed before wire_calm() must not fail after it. */
#define WIRE_MAKE(call)                                                        \
	do {                                                                   \
		if ((call) != TR_OK) {                                         \
			wire_calm();                                           \
			if ((call) != TR_OK)                                   \
				wire_wrong("without a fault, too: %s", #call); \
		}                                                              \
	} while (0)

/* --- peers: a thread for each connection ------------------------------------------------------------------------- */

struct wire_conn {
	int fd;
	SSL *ssl; /* NULL: plain */
	char in[8192];
	size_t at, len;
};
/* Up to `len` bytes, all of them; false: the client has gone. */
bool wire_read(struct wire_conn *conn, void *out, size_t len);
bool wire_line(struct wire_conn *conn, char *out, size_t room); /* without its line end */
void wire_openssl(void);                  /* has begun, as in a server after its start: see the life "begin" */
bool wire_secure(struct wire_conn *conn); /* TLS from here on; false: the client does not want it */
void wire_say(struct wire_conn *conn, const void *data, size_t len);

struct wire_peer {
	int fd;
	uint16_t port;
	void (*serve)(struct wire_conn *conn); /* until the client goes; then it is closed */
	bool tls;
};
void wire_peer_start(struct wire_peer *peer, void (*serve)(struct wire_conn *conn), bool tls);
/* A file with the certificate of all peers with TLS. */
const char *wire_ca(void);

/* Whether *flag became true. */
bool wire_wait(struct tr_loop *loop, const bool *flag);
void wire_pause(struct tr_loop *loop, int64_t ns);

#endif
