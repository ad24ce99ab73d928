/* https: whom a request trusts, and what a handshake can end with. The certificates are made here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "transport/http.h"

#define DAY_S 86400

static EVP_PKEY *key; /* of all of them */
static X509 *ca;
static char ca_path[64];

/* --- certificates ------------------------------------------------------------------------------------------- */

static void
extend(X509 *cert, int what, const char *value)
{
	X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, what, value);

	assert_non_null(extension);
	X509_add_ext(cert, extension, -1);
	X509_EXTENSION_free(extension);
}

/* Of these names ("DNS:localhost"; NULL: a CA), good from and to so many days from now, by `issuer` (NULL: itself). */
static X509 *
certificate(const char *names, X509 *issuer, int from_days, int to_days)
{
	static long serial;
	X509 *cert = X509_new();
	X509_NAME *name = X509_get_subject_name(cert);

	X509_set_version(cert, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(cert), ++serial);
	X509_gmtime_adj(X509_getm_notBefore(cert), (long)from_days * DAY_S);
	X509_gmtime_adj(X509_getm_notAfter(cert), (long)to_days * DAY_S);
	X509_NAME_add_entry_by_txt(
		name, "CN", MBSTRING_ASC, (const unsigned char *)(names != NULL ? "a server" : "a CA"), -1, -1, 0);
	X509_set_issuer_name(cert, issuer != NULL ? X509_get_subject_name(issuer) : name);
	X509_set_pubkey(cert, key);
	if (names != NULL)
		extend(cert, NID_subject_alt_name, names);
	else
		extend(cert, NID_basic_constraints, "critical,CA:TRUE");
	assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
	return cert;
}

static int
make_ca(void **state)
{
	FILE *file;
	int fd;

	key = EVP_EC_gen("P-256");
	ca = certificate(NULL, NULL, -1, 2);
	snprintf(ca_path, sizeof ca_path, "/tmp/tailrace-ca.XXXXXX");
	fd = mkstemp(ca_path);
	file = fd >= 0 ? fdopen(fd, "w") : NULL;
	assert_non_null(file);
	PEM_write_X509(file, ca);
	fclose(file);
	setenv("SSL_CERT_FILE", ca_path, 1);
	return 0;
}

static int
drop_ca(void **state)
{
	unlink(ca_path);
	X509_free(ca);
	EVP_PKEY_free(key);
	return 0;
}

/* --- the server --------------------------------------------------------------------------------------------- */

enum behaviour {
	ANSWERS, /* and ends the connection */
	SPEAKS_PLAINLY,
	HANGS_UP,
	HANGS_UP_AFTER_REQUEST,
	OLD_TLS,
	CUTS_THE_ANSWER,
	KEEPS,         /* answers, and waits for more */
	RESETS_LATER,  /* answers as one that keeps the connection, and resets it */
	REFUSES_EARLY, /* 413 to the head of the first request, 200 to all that comes then */
};

struct server {
	int fd;
	uint16_t port;
	X509 *cert;
	enum behaviour behaviour;
	pthread_t thread;
	_Atomic int requests, connections, ended;
	_Atomic bool go; /* for RESETS_LATER: the answer has arrived */
};

static void
talk(struct server *server, SSL *ssl)
{
	static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
	static const char half[] = "HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\nok";
	static const char early[] = "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno";
	bool refuses = server->behaviour == REFUSES_EARLY && server->connections == 1;
	char request[4096];
	int len = 0;

	if (SSL_accept(ssl) != 1)
		return;
	if (refuses && SSL_read(ssl, request, sizeof request - 1) > 0)
		SSL_write(ssl, early, sizeof early - 1); /* nobody has taken in the rest so far */
again:
	while (len < (int)sizeof request - 1) {
		int got = SSL_read(ssl, request + len, (int)sizeof request - 1 - len);

		if (got <= 0)
			return;
		len += got;
		request[len] = '\0';
		if (strstr(request, "\r\n\r\nhello") != NULL)
			break;
		if (refuses) { /* the body, of which only an end may matter */
			int keep = len < 100 ? len : 100;

			memmove(request, request + len - keep, (size_t)keep);
			len = keep;
		}
	}
	atomic_fetch_add(&server->requests, 1);
	if (server->behaviour == HANGS_UP_AFTER_REQUEST)
		return;
	if (server->behaviour == CUTS_THE_ANSWER) {
		SSL_write(ssl, half, sizeof half - 1);
		return;
	}
	SSL_write(ssl, answer, sizeof answer - 1);
	len = 0;
	if (server->behaviour == KEEPS || server->behaviour == REFUSES_EARLY)
		goto again;
	if (server->behaviour == RESETS_LATER && server->connections == 1) {
		while (!server->go)
			sched_yield();
		setsockopt(SSL_get_fd(ssl), SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
	} else {
		SSL_shutdown(ssl);
	}
}

static void *
serve(void *arg)
{
	struct server *server = arg;
	SSL_CTX *context = SSL_CTX_new(TLS_server_method());
	int fd;

	if (server->behaviour == OLD_TLS) {
		SSL_CTX_set_security_level(context, 0);
		SSL_CTX_set_max_proto_version(context, TLS1_1_VERSION);
	}
	SSL_CTX_use_certificate(context, server->cert);
	SSL_CTX_use_PrivateKey(context, key);
	while ((fd = accept(server->fd, NULL, NULL)) >= 0) {
		atomic_fetch_add(&server->connections, 1);
		if (server->behaviour == SPEAKS_PLAINLY) {
			char byte;

			if (recv(fd, &byte, 1, 0) == 1)
				(void)!write(fd, "HTTP/1.1 400 Bad Request\r\n\r\n", 28);
		} else if (server->behaviour != HANGS_UP) {
			SSL *ssl = SSL_new(context);

			SSL_set_fd(ssl, fd);
			talk(server, ssl);
			SSL_free(ssl);
		}
		close(fd);
		atomic_fetch_add(&server->ended, 1);
	}
	SSL_CTX_free(context);
	return NULL;
}

static void
start_server(struct server *server, X509 *cert, enum behaviour behaviour)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof addr;

	*server = (struct server){.cert = cert, .behaviour = behaviour};
	server->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(server->fd, (struct sockaddr *)&addr, sizeof addr), 0);
	assert_int_equal(listen(server->fd, 16), 0);
	getsockname(server->fd, (struct sockaddr *)&addr, &len);
	server->port = ntohs(addr.sin_port);
	assert_int_equal(pthread_create(&server->thread, NULL, serve, server), 0);
}

static void
stop_server(struct server *server)
{
	shutdown(server->fd, SHUT_RDWR);
	pthread_join(server->thread, NULL);
	close(server->fd);
}

/* --- the client --------------------------------------------------------------------------------------------- */

static void
call_done(struct tr_http_call *call)
{
	*(bool *)call->owner = true;
}

static bool
is_true(void *arg)
{
	return *(bool *)arg;
}

struct caller {
	struct tr_loop *loop;
	struct tr_http *http;
	struct tr_http_client *client;
};

static void
start_caller(struct caller *caller, bool trusts_all)
{
	const struct tr_http_settings settings = {.timeout_ns = 60 * TR_NS_PER_S,
		.idle_ns = 90 * TR_NS_PER_S,
		.max_response_bytes = 1 << 20,
		.accept_invalid_certs = trusts_all};

	assert_int_equal(tr_loop_new(&caller->loop), TR_OK);
	tr_loop_enter(caller->loop);
	assert_int_equal(tr_http_new(caller->loop, &caller->http), TR_OK);
	assert_int_equal(tr_http_client_new(caller->http, &settings, &caller->client), TR_OK);
}

static void
stop_caller(struct caller *caller)
{
	tr_http_client_unref(caller->client);
	tr_http_free(caller->http);
	tr_loop_free(caller->loop);
}

/* Posts to https://HOST. `status` 0: an error. `text`: part of the error, or of the body. */
static void
post(struct caller *caller, const struct server *server, const char *host, struct tr_str body, int err, int status,
	const char *text)
{
	struct tr_http_call call = {.method = TR_HTTP_POST, .body = body, .done = call_done, .client = caller->client};
	const struct tr_buf *said;
	bool done = false;
	char url[64];

	snprintf(url, sizeof url, "https://%s:%u/in", host, server->port);
	call.url = url;
	call.owner = &done;
	assert_int_equal(tr_http_start(caller->http, &call), TR_OK);
	assert_true(tr_loop_run_until(caller->loop, is_true, &done, 120 * TR_NS_PER_S));
	said = err == TR_OK ? &call.content : &call.error;
	if (call.err != err || call.status != status || said->len == 0 ||
		memmem(said->data, said->len, text, strlen(text)) == NULL)
		fail_msg("%s: %s %d: %.*s", url, tr_err_name(call.err), call.status, (int)call.error.len,
			call.error.len > 0 ? call.error.data : "");
	tr_http_call_fini(&call);
}

/* Once, with a client of its own. */
static void
expect(const struct server *server, const char *host, bool trusts_all, int err, const char *text)
{
	struct caller caller;

	start_caller(&caller, trusts_all);
	post(&caller, server, host, TR_STR("hello"), err, err == TR_OK ? 200 : 0, text);
	stop_caller(&caller);
}

/* --- tests -------------------------------------------------------------------------------------------------- */

static void
trusts_a_server_that_is_who_it_says(void **state)
{
	X509 *cert = certificate("DNS:localhost,IP:127.0.0.1", ca, -1, 2);
	struct server server;

	start_server(&server, cert, ANSWERS);
	expect(&server, "localhost", false, TR_OK, "ok");
	expect(&server, "127.0.0.1", false, TR_OK, "ok");
	assert_int_equal(server.requests, 2);
	stop_server(&server);
	X509_free(cert);
}

static void
trusts_no_other(void **state)
{
	static const struct {
		const char *names;
		bool self_signed;
		int from_days, to_days;
		const char *text;
	} cases[] = {
		{"DNS:other.example", false, -1, 2, "no alternative certificate subject name matches target host name"},
		{"DNS:localhost.example,DNS:*.localhost", false, -1, 2, "no alternative certificate subject name"},
		{"IP:127.0.0.2", false, -1, 2, "no alternative certificate subject name"},
		{"DNS:localhost,IP:127.0.0.1", true, -1, 2, "self-signed certificate"},
		{"DNS:localhost,IP:127.0.0.1", false, -3, -1, "certificate has expired"},
		{"DNS:localhost,IP:127.0.0.1", false, 1, 2, "certificate is not yet valid"},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		X509 *cert = certificate(
			cases[i].names, cases[i].self_signed ? NULL : ca, cases[i].from_days, cases[i].to_days);
		struct server server;

		start_server(&server, cert, ANSWERS);
		expect(&server, "localhost", false, TR_EPROTO, cases[i].text);
		expect(&server, "127.0.0.1", false, TR_EPROTO, cases[i].text);
		assert_int_equal(server.requests, 0); /* it was told nothing */
		expect(&server, "localhost", true, TR_OK, "ok");
		assert_int_equal(server.requests, 1);
		stop_server(&server);
		X509_free(cert);
	}
}

static void
says_how_a_handshake_or_an_answer_ended(void **state)
{
	static const struct {
		enum behaviour behaviour;
		int err, requests;
		const char *text;
	} cases[] = {
		{SPEAKS_PLAINLY, TR_EPROTO, 0, "SSL connect error: "},
		{HANGS_UP, TR_EPROTO, 0, "SSL connect error: "},
		{OLD_TLS, TR_EPROTO, 0, "SSL connect error: "},
		{HANGS_UP_AFTER_REQUEST, TR_ECLOSED, 1, "Server returned nothing"},
		{CUTS_THE_ANSWER, TR_ECLOSED, 1, "Transferred a partial file"},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		X509 *cert = certificate("DNS:localhost", ca, -1, 2);
		struct server server;

		start_server(&server, cert, cases[i].behaviour);
		expect(&server, "localhost", false, cases[i].err, cases[i].text);
		assert_int_equal(server.requests, cases[i].requests); /* never sent twice */
		stop_server(&server);
		X509_free(cert);
	}
}

/* The rest of the body is never sent, so what comes next must not be on that connection. */
static void
uses_no_connection_again_that_has_not_taken_the_body(void **state)
{
	X509 *cert = certificate("DNS:localhost", ca, -1, 2);
	size_t len = 30000000; /* more than the kernel takes */
	char *body = calloc(1, len);
	struct server server;
	struct caller caller;

	assert_non_null(body);
	start_server(&server, cert, REFUSES_EARLY);
	start_caller(&caller, false);
	post(&caller, &server, "localhost", (struct tr_str){body, len}, TR_OK, 413, "no");
	post(&caller, &server, "localhost", TR_STR("hello"), TR_OK, 200, "ok");
	assert_int_equal(server.connections, 2);
	assert_int_equal(server.requests, 1);
	post(&caller, &server, "localhost", TR_STR("hello"), TR_OK, 200, "ok");
	assert_int_equal(server.connections, 2); /* a good one is kept */
	stop_caller(&caller);
	stop_server(&server);
	X509_free(cert);
	free(body);
}

static void
sees_that_a_kept_connection_was_reset(void **state)
{
	X509 *cert = certificate("DNS:localhost", ca, -1, 2);
	struct server server;
	struct caller caller;

	start_server(&server, cert, RESETS_LATER);
	start_caller(&caller, false);
	post(&caller, &server, "localhost", TR_STR("hello"), TR_OK, 200, "ok");
	server.go = true;
	while (server.ended < 1)
		sched_yield();
	post(&caller, &server, "localhost", TR_STR("hello"), TR_OK, 200, "ok");
	assert_int_equal(server.connections, 2);
	assert_int_equal(server.requests, 2);
	stop_caller(&caller);
	stop_server(&server);
	X509_free(cert);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(trusts_a_server_that_is_who_it_says),
		cmocka_unit_test(trusts_no_other),
		cmocka_unit_test(says_how_a_handshake_or_an_answer_ended),
		cmocka_unit_test(uses_no_connection_again_that_has_not_taken_the_body),
		cmocka_unit_test(sees_that_a_kept_connection_was_reset),
	};

	signal(SIGPIPE, SIG_IGN);
	unsetenv("SSL_CERT_DIR");
	return cmocka_run_group_tests(tests, make_ca, drop_ca);
}
