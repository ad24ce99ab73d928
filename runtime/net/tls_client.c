#include "net/tls_client.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>

#define PIECE 16384 /* bytes of a record */

struct tr_tls {
	SSL_CTX *context;
	SSL *ssl;      /* owns both ends below */
	BIO *in, *out; /* bytes from the peer, bytes for it */
	bool verify;
	char error[256];
};

static bool
expect_host(struct tr_tls *tls, const char *host)
{
	unsigned char address[16];
	X509_VERIFY_PARAM *param = SSL_get0_param(tls->ssl);

	if (inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1)
		return !tls->verify || X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1;
	return SSL_set_tlsext_host_name(tls->ssl, host) == 1 && (!tls->verify || SSL_set1_host(tls->ssl, host) == 1);
}

/* NULL: fine. */
static const char *
load_files(SSL_CTX *context, const struct tr_tls_files *files)
{
	if (files->ca != NULL ? SSL_CTX_load_verify_locations(context, files->ca, NULL) != 1
			      : SSL_CTX_set_default_verify_paths(context) != 1)
		return "the certificates to check it by cannot be read";
	if (files->cert != NULL && SSL_CTX_use_certificate_chain_file(context, files->cert) != 1)
		return "our certificate cannot be read";
	if (files->key != NULL && SSL_CTX_use_PrivateKey_file(context, files->key, SSL_FILETYPE_PEM) != 1)
		return "the key of our certificate cannot be read";
	return NULL;
}

struct tr_tls *
tr_tls_new(const char *host, bool verify)
{
	static const struct tr_tls_files none;
	const char *why;

	return tr_tls_new_with(host, verify, &none, &why);
}

struct tr_tls *
tr_tls_new_with(const char *host, bool verify, const struct tr_tls_files *files, const char **why)
{
	struct tr_tls *tls = calloc(1, sizeof *tls);

	*why = "out of memory";
	if (tls == NULL)
		return NULL;
	tls->verify = verify;
	tls->context = SSL_CTX_new(TLS_client_method());
	if (tls->context == NULL || SSL_CTX_set_min_proto_version(tls->context, TLS1_2_VERSION) != 1)
		goto fail;
	*why = load_files(tls->context, files);
	if (*why != NULL)
		goto fail;
	*why = "out of memory";
	tls->ssl = SSL_new(tls->context);
	tls->in = BIO_new(BIO_s_mem());
	tls->out = BIO_new(BIO_s_mem());
	if (tls->ssl == NULL || tls->in == NULL || tls->out == NULL) {
		BIO_free(tls->in);
		BIO_free(tls->out);
		goto fail;
	}
	SSL_set_bio(tls->ssl, tls->in, tls->out);
	SSL_set_connect_state(tls->ssl);
	SSL_set_verify(tls->ssl, verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
	if (expect_host(tls, host))
		return tls;
fail:
	ERR_clear_error();
	tr_tls_free(tls);
	return NULL;
}

void
tr_tls_free(struct tr_tls *tls)
{
	if (tls == NULL)
		return;
	SSL_free(tls->ssl);
	SSL_CTX_free(tls->context);
	free(tls);
}

static int
failed(struct tr_tls *tls)
{
	long verdict = SSL_get_verify_result(tls->ssl);
	char text[160] = "the peer does not speak TLS as it should";

	if (ERR_peek_error() != 0)
		ERR_error_string_n(ERR_peek_error(), text, sizeof text);
	if (tls->verify && verdict != X509_V_OK)
		snprintf(tls->error, sizeof tls->error, "its certificate is not accepted: %s",
			X509_verify_cert_error_string(verdict));
	else
		snprintf(tls->error, sizeof tls->error, "TLS: %s", text);
	ERR_clear_error();
	return TR_EPROTO;
}

static int
drain(struct tr_tls *tls, struct tr_buf *wire)
{
	char piece[PIECE];
	int n;

	while ((n = BIO_read(tls->out, piece, sizeof piece)) > 0)
		tr_buf_add(wire, piece, (size_t)n);
	return wire->failed ? TR_ENOMEM : TR_OK;
}

int
tr_tls_feed(struct tr_tls *tls, const char *data, size_t len, struct tr_buf *plain, struct tr_buf *wire)
{
	char piece[PIECE];
	int n, why = SSL_ERROR_WANT_READ, err;

	ERR_clear_error();
	if (len > INT32_MAX || (len > 0 && BIO_write(tls->in, data, (int)len) != (int)len))
		return TR_ENOMEM;
	if (!SSL_is_init_finished(tls->ssl) && (n = SSL_do_handshake(tls->ssl)) != 1)
		why = SSL_get_error(tls->ssl, n);
	if (SSL_is_init_finished(tls->ssl)) {
		while ((n = SSL_read(tls->ssl, piece, sizeof piece)) > 0)
			tr_buf_add(plain, piece, (size_t)n);
		why = SSL_get_error(tls->ssl, n);
	}
	err = drain(tls, wire); /* an alert says why it ends */
	if (plain->failed || err != TR_OK)
		return TR_ENOMEM;
	if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
		return TR_OK;
	return why == SSL_ERROR_ZERO_RETURN ? TR_ECLOSED : failed(tls);
}

bool
tr_tls_is_ready(const struct tr_tls *tls)
{
	return SSL_is_init_finished(tls->ssl);
}

int
tr_tls_write(struct tr_tls *tls, const char *data, size_t len, struct tr_buf *wire)
{
	ERR_clear_error();
	while (len > 0) {
		int n = SSL_write(tls->ssl, data, len > INT32_MAX ? INT32_MAX : (int)len);

		if (n <= 0)
			return failed(tls);
		data += n;
		len -= (size_t)n;
	}
	return drain(tls, wire);
}

const char *
tr_tls_error(const struct tr_tls *tls)
{
	return tls->error;
}
