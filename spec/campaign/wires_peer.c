#include <arpa/inet.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "memory.h"
#include "wires.h"

struct visit {
	const struct wire_peer *peer;
	struct wire_conn conn;
};

static SSL_CTX *context; /* of all peers with TLS */
static int ca_fd = -1;   /* its certificate, in memory */

/* For this machine, by itself. */
static void
make_context(void)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *cert = X509_new();
	X509_EXTENSION *names = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "IP:127.0.0.1,DNS:localhost");
	X509_NAME *name = X509_get_subject_name(cert);
	FILE *file;

	context = SSL_CTX_new(TLS_server_method());
	X509_set_version(cert, 2);
	X509_gmtime_adj(X509_getm_notBefore(cert), -86400);
	X509_gmtime_adj(X509_getm_notAfter(cert), 86400);
	X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"a server", -1, -1, 0);
	X509_set_issuer_name(cert, name);
	X509_set_pubkey(cert, key);
	X509_add_ext(cert, names, -1);
	X509_sign(cert, key, EVP_sha256());
	ca_fd = memfd_create("wires-ca", MFD_CLOEXEC);
	file = fdopen(dup(ca_fd), "w");
	if (file == NULL || PEM_write_X509(file, cert) != 1 || fclose(file) != 0)
		abort();
	SSL_CTX_use_certificate(context, cert);
	SSL_CTX_use_PrivateKey(context, key);
	X509_EXTENSION_free(names);
	X509_free(cert);
	EVP_PKEY_free(key);
}

/* Peers' threads run until the process ends: what OpenSSL keeps for them must not look like a leak of ours. */
void
wire_openssl(void)
{
	OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, NULL);
	if (OPENSSL_init_ssl(0, NULL) != 1 || RAND_status() != 1)
		abort();
}

const char *
wire_ca(void)
{
	static char path[32];

	if (context == NULL)
		make_context();
	snprintf(path, sizeof path, "/proc/self/fd/%d", ca_fd);
	return path;
}

static bool
more(struct wire_conn *conn)
{
	ssize_t got;

	if (conn->at == conn->len)
		conn->at = conn->len = 0;
	if (conn->len == sizeof conn->in)
		return false;
	got = conn->ssl != NULL ? SSL_read(conn->ssl, conn->in + conn->len, (int)(sizeof conn->in - conn->len))
				: read(conn->fd, conn->in + conn->len, sizeof conn->in - conn->len);
	if (got <= 0)
		return false;
	conn->len += (size_t)got;
	return true;
}

bool
wire_read(struct wire_conn *conn, void *out, size_t len)
{
	size_t have = 0;

	while (have < len) {
		size_t part = conn->len - conn->at < len - have ? conn->len - conn->at : len - have;

		memcpy((char *)out + have, conn->in + conn->at, part);
		conn->at += part;
		have += part;
		if (have < len && !more(conn))
			return false;
	}
	return true;
}

bool
wire_line(struct wire_conn *conn, char *out, size_t room)
{
	size_t len = 0;
	char byte;

	while (wire_read(conn, &byte, 1) && byte != '\n') {
		if (len + 1 < room)
			out[len++] = byte;
	}
	if (len > 0 && out[len - 1] == '\r')
		len--;
	out[len] = '\0';
	return conn->at > 0 && conn->in[conn->at - 1] == '\n';
}

void
wire_say(struct wire_conn *conn, const void *data, size_t len)
{
	ssize_t put =
		conn->ssl != NULL ? SSL_write(conn->ssl, data, (int)len) : send(conn->fd, data, len, MSG_NOSIGNAL);

	(void)put; /* the client is gone, and the next read says so */
}

bool
wire_secure(struct wire_conn *conn)
{
	conn->ssl = SSL_new(context);
	SSL_set_fd(conn->ssl, conn->fd);
	return SSL_accept(conn->ssl) == 1;
}

static void *
visited(void *arg)
{
	struct visit *visit = arg;
	struct wire_conn *conn = &visit->conn;

	memory_exempt(1);
	if (!visit->peer->tls || wire_secure(conn))
		visit->peer->serve(conn);
	SSL_free(conn->ssl);
	close(conn->fd);
	free(visit);
	return NULL;
}

static void *
accepting(void *arg)
{
	const struct wire_peer *peer = arg;
	pthread_t thread;
	int fd;

	memory_exempt(1);
	while ((fd = accept(peer->fd, NULL, NULL)) >= 0) {
		struct visit *visit = calloc(1, sizeof *visit);

		visit->peer = peer;
		visit->conn.fd = fd;
		if (pthread_create(&thread, NULL, visited, visit) != 0)
			abort();
		pthread_detach(thread);
	}
	return NULL;
}

/* It ends with the process. */
void
wire_peer_start(struct wire_peer *peer, void (*serve)(struct wire_conn *conn), bool tls)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof addr;
	pthread_t thread;

	*peer = (struct wire_peer){.serve = serve, .tls = tls};
	wire_openssl();
	if (tls)
		(void)wire_ca();
	peer->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(peer->fd, (struct sockaddr *)&addr, sizeof addr) != 0 || listen(peer->fd, 16) != 0 ||
		getsockname(peer->fd, (struct sockaddr *)&addr, &len) != 0)
		abort();
	peer->port = ntohs(addr.sin_port);
	if (pthread_create(&thread, NULL, accepting, peer) != 0)
		abort();
	pthread_detach(thread);
}
