/* The client's side of TLS over bytes that somebody else carries: no descriptor, no loop, no waiting. At least TLS 1.2.
 * Certificates are checked against the system's (OpenSSL's SSL_CERT_FILE and SSL_CERT_DIR in its place), and against
 * the name. One thread. */
#ifndef TR_TLS_CLIENT_H
#define TR_TLS_CLIENT_H

#include "base/buf.h"

struct tr_tls;

/* `host`: the name or address that the certificate must be for, and that is told to the peer if it is a name. verify
 * false: any certificate will do. NULL: no memory, or no trust store that can be read. */
struct tr_tls *tr_tls_new(const char *host, bool verify);
/* PEM files; NULL: none. */
struct tr_tls_files {
	const char *ca;         /* whom to trust in place of the system's */
	const char *cert, *key; /* who we are, both or neither */
};
/* The same; NULL with a literal in *why: no memory, or a file that cannot be used. */
struct tr_tls *tr_tls_new_with(const char *host, bool verify, const struct tr_tls_files *files, const char **why);
void tr_tls_free(struct tr_tls *tls); /* NULL is fine */
/* Takes bytes of the peer (none at first, to begin): what they say is added to `plain`, what is to be sent to `wire`.
 * TR_OK; TR_ECLOSED: the peer has said its last word (plain may hold some before); TR_EPROTO: see tr_tls_error();
 * TR_ENOMEM. */
int tr_tls_feed(struct tr_tls *tls, const char *data, size_t len, struct tr_buf *plain, struct tr_buf *wire);
/* The handshake is over: it may write. */
bool tr_tls_is_ready(const struct tr_tls *tls);
/* Only when ready. TR_OK, TR_EPROTO, TR_ENOMEM. */
int tr_tls_write(struct tr_tls *tls, const char *data, size_t len, struct tr_buf *wire);
/* Why it failed: "its certificate is not accepted: self-signed certificate". Owned by tls. */
const char *tr_tls_error(const struct tr_tls *tls);

#endif
