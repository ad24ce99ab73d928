/* Connecting from a given address, or by a proxy that sends from one: HAProxy's protocol v2 (its "proxy-protocol.txt",
 * section 2.2) or SOCKS5 (RFC 1928, 1929). Callback style on one loop. */
#ifndef TR_TRANSPORT_DIAL_H
#define TR_TRANSPORT_DIAL_H

#include "net/dns.h"
#include "net/stream.h"

enum tr_proxy_kind { TR_PROXY_NONE, TR_PROXY_HAPROXY, TR_PROXY_SOCKS5 };
struct tr_dial_config {
	struct tr_sockaddr source; /* bound before the connect, to the proxy if there is one; len 0: any */
	enum tr_proxy_kind kind;
	const char *server;              /* "host:port" of the proxy; each of its addresses is tried */
	struct tr_sockaddr proxy_source; /* address that the proxy shall send from */
	const char *username, *password; /* SOCKS5; both NULL: none */
	int64_t timeout_ns;              /* of the connect, and again of the exchange with the proxy */
};

enum tr_dial_trouble {
	TR_DIAL_TARGET,    /* where it should go does not answer or refuses: another address may */
	TR_DIAL_UNPLUMBED, /* the source address is not on this machine */
	TR_DIAL_PROXY,     /* the proxy */
};
struct tr_dial_result {
	struct tr_stream *stream; /* now the receiver's, who sets handlers at once; perhaps with input; NULL: failed */
	enum tr_dial_trouble trouble;
	const char *text; /* why; valid in the call */
};

struct tr_dial;
/* config is borrowed until then() or the cancel. then() runs from the loop, never from inside of this call. NULL: no
 * memory. */
struct tr_dial *tr_dial_start(struct tr_loop *loop, struct tr_dns *dns, const struct tr_dial_config *config,
	const struct tr_sockaddr *to, void (*then)(void *arg, const struct tr_dial_result *result), void *arg);
void tr_dial_cancel(struct tr_dial *dial); /* NULL is fine */

/* A literal without port into *out, with port 0. TR_OK or TR_EINVAL. */
int tr_dial_address(const char *text, struct tr_sockaddr *out);

#endif
