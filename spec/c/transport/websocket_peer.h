/* The server of the tests of websockets: a thread that follows one script for one connection, plain or with TLS. */
#ifndef WEBSOCKET_PEER_H
#define WEBSOCKET_PEER_H

#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport/websocket.h"

/* R: read the request and answer it with 101. N: with 404. W: write the next text. F: read one frame into `got`.
 * E: echo that many frames. Z: write a large message without reading. C: close. H: hold until the client closes. */
struct server {
	int fd, port;
	pthread_t thread;
	const char *steps;
	struct tr_str texts[4];
	SSL_CTX *tls; /* NULL: plain */
	SSL *ssl;
	int conn;
	char request[4096];
	char got[1024]; /* opcode (hex digit) and payload of each frame, with a blank behind */
	size_t large;
	_Atomic bool ended;
};

static inline ssize_t
get(struct server *server, void *data, size_t len)
{
	return server->ssl != NULL ? SSL_read(server->ssl, data, (int)len) : read(server->conn, data, len);
}

static inline bool
put(struct server *server, const void *data, size_t len)
{
	for (const char *at = data; len > 0;) {
		ssize_t put = server->ssl != NULL ? SSL_write(server->ssl, at, (int)len)
						  : send(server->conn, at, len, MSG_NOSIGNAL);

		if (put <= 0)
			return false;
		at += put;
		len -= (size_t)put;
	}
	return true;
}

static inline bool
get_all(struct server *server, void *data, size_t len)
{
	for (char *at = data; len > 0;) {
		ssize_t got = get(server, at, len);

		if (got <= 0)
			return false;
		at += got;
		len -= (size_t)got;
	}
	return true;
}

static inline bool
read_request(struct server *server)
{
	size_t len = 0;

	while (len < sizeof server->request - 1 && strstr(server->request, "\r\n\r\n") == NULL) {
		ssize_t got = get(server, server->request + len, 1);

		if (got <= 0)
			return false;
		len += (size_t)got;
	}
	return true;
}

static inline bool
shake_hands(struct server *server)
{
	char key[TR_WS_KEY_BYTES] = "", accept[TR_WS_ACCEPT_BYTES], answer[256];
	const char *field;

	if (!read_request(server))
		return false;
	field = strcasestr(server->request, "\r\nSec-WebSocket-Key: ");
	if (field == NULL || sscanf(field + 21, "%24s", key) != 1)
		return false;
	tr_ws_accept(key, accept);
	snprintf(answer, sizeof answer,
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Mark: 7\r\n"
		"Sec-WebSocket-Accept: %s\r\n\r\n",
		accept);
	return put(server, answer, strlen(answer));
}

/* One frame of the client, unmasked into data; its length, or -1. */
static inline long
read_frame(struct server *server, uint8_t *opcode, char *data, size_t room)
{
	uint8_t header[2], extra[8], mask[4];
	uint64_t len;

	if (!get_all(server, header, 2) || !(header[1] & 0x80))
		return -1;
	len = header[1] & 0x7f;
	if (len >= 126) {
		size_t more = len == 126 ? 2 : 8;

		if (!get_all(server, extra, more))
			return -1;
		len = 0;
		for (size_t i = 0; i < more; i++)
			len = len << 8 | extra[i];
	}
	if (!get_all(server, mask, 4) || len > room || !get_all(server, data, len))
		return -1;
	for (size_t i = 0; i < len; i++)
		data[i] = (char)(data[i] ^ mask[i & 3]);
	*opcode = header[0];
	return (long)len;
}

static inline bool
note_frame(struct server *server)
{
	char data[256];
	uint8_t opcode;
	long len = read_frame(server, &opcode, data, sizeof data);

	if (len < 0)
		return false;
	snprintf(server->got + strlen(server->got), sizeof server->got - strlen(server->got), "%X%.*s ", opcode & 0xf,
		(int)len, data);
	return true;
}

static inline bool
echo_frame(struct server *server)
{
	char *data = malloc(server->large + 10);
	uint8_t opcode;
	long len = read_frame(server, &opcode, data + 10, server->large);
	bool fine = len >= 0;

	if (fine) {
		size_t at = 0;

		data[0] = (char)opcode;
		data[1] = 127;
		for (int i = 0; i < 8; i++)
			data[2 + i] = (char)((uint64_t)len >> (56 - 8 * i));
		if (len < 126) {
			data[8] = (char)opcode;
			data[9] = (char)len;
			at = 8;
		} else if (len < 65536) {
			data[6] = (char)opcode;
			data[7] = 126;
			at = 6;
		}
		fine = put(server, data + at, (size_t)len + 10 - at);
	}
	free(data);
	return fine;
}

static inline bool
write_many(struct server *server)
{
	static char frame[1004] = "\x82\x7e\x03\xe8";

	for (size_t sent = 0; sent < server->large; sent += sizeof frame) {
		if (!put(server, frame, sizeof frame))
			return false;
	}
	return true;
}

static inline void
follow(struct server *server)
{
	static const char refusal[] = "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nX-Why: gone\r\n\r\nno";
	int text = 0;
	bool fine = true;
	char drop[256];

	for (const char *step = server->steps; *step != '\0' && fine; step++) {
		switch (*step) {
		case 'R':
			fine = shake_hands(server);
			break;
		case 'N':
			fine = read_request(server) && put(server, refusal, sizeof refusal - 1);
			break;
		case 'W':
			fine = put(server, server->texts[text].data, server->texts[text].len);
			text++;
			break;
		case 'F':
			fine = note_frame(server);
			break;
		case 'E':
			fine = echo_frame(server);
			break;
		case 'Z':
			fine = write_many(server);
			break;
		case 'H':
			while (get(server, drop, sizeof drop) > 0)
				;
			break;
		}
	}
}

static inline void *
serve(void *arg)
{
	struct server *server = arg;

	server->conn = accept(server->fd, NULL, NULL);
	if (server->conn >= 0) {
		if (server->tls != NULL) {
			server->ssl = SSL_new(server->tls);
			SSL_set_fd(server->ssl, server->conn);
		}
		if (server->ssl == NULL || SSL_accept(server->ssl) == 1) {
			follow(server);
			if (server->ssl != NULL)
				SSL_shutdown(server->ssl);
		}
		SSL_free(server->ssl);
		server->ssl = NULL;
		close(server->conn);
	}
	atomic_store(&server->ended, true);
	return NULL;
}

/* --- a certificate of our own for 127.0.0.1 --------------------------------------------------------------------- */

static inline SSL_CTX *
make_tls(const char *path)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *cert = X509_new();
	X509_NAME *name = X509_get_subject_name(cert);
	X509_EXTENSION *extension;
	SSL_CTX *tls = SSL_CTX_new(TLS_server_method());
	FILE *file = fopen(path, "w");

	assert_non_null(key);
	assert_non_null(file);
	X509_set_version(cert, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
	X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
	X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
	X509_set_pubkey(cert, key);
	X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"self", -1, -1, 0);
	X509_set_issuer_name(cert, name);
	extension = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "IP:127.0.0.1");
	X509_add_ext(cert, extension, -1);
	X509_EXTENSION_free(extension);
	assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
	PEM_write_X509(file, cert);
	fclose(file);
	assert_int_equal(SSL_CTX_use_certificate(tls, cert), 1);
	assert_int_equal(SSL_CTX_use_PrivateKey(tls, key), 1);
	X509_free(cert);
	EVP_PKEY_free(key);
	return tls;
}

#endif
