/* kumo.http's mechanism on loopback, for its tests: a scripted server in a thread of its own, which follows one script
 * a connection, one connection after the other, and a client with a loop. */
#ifndef HTTP_PEER_H
#define HTTP_PEER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "transport/http.h"

/* One connection's script. Steps: R read one request, r what one read() gives, E read up to the end of the connection,
 * W write the next text, B the same byte by byte, w wait until the test sets `go`, C close, X reset, H hold until the
 * test ends. Without a last H it
 * ends by closing. */
struct script {
	const char *steps;
	const char *texts[6];
};

struct server {
	int fd;
	int port;
	const struct script *scripts;
	int count;
	pthread_t thread;
	_Atomic int connections, requests, closed;
	_Atomic bool ending, go;
	int held[512];
	_Atomic int held_count;
	char seen[8][4096]; /* the requests, in order */
};

static inline bool
read_request(struct server *server, int fd)
{
	int index = atomic_load(&server->requests);
	char *seen = server->seen[index % 8];
	size_t len = 0, want = 0;
	char drop[65536];

	memset(seen, 0, sizeof server->seen[0]);
	for (;;) {
		ssize_t got = read(fd, drop, sizeof drop);
		const char *end;

		if (got <= 0)
			return false;
		if (len < 4000)
			memcpy(seen + len, drop, (size_t)got < 4000 - len ? (size_t)got : 4000 - len);
		len += (size_t)got;
		end = strstr(seen, "\r\n\r\n");
		if (end != NULL && want == 0) {
			const char *field = strcasestr(seen, "\r\ncontent-length:");

			want = (size_t)(end + 4 - seen) +
			       (field != NULL && field < end ? strtoul(field + 17, NULL, 10) : 0);
		}
		if (want > 0 && len >= want)
			break;
	}
	atomic_store(&server->requests, index + 1);
	return true;
}

static inline void
follow(struct server *server, int fd, const struct script *script)
{
	const struct linger now = {1, 0};
	char waste[4096];
	int text = 0;

	for (const char *step = script->steps; *step != '\0'; step++) {
		if (*step == 'R' && !read_request(server, fd))
			break;
		if (*step == 'r' && read(fd, waste, sizeof waste) <= 0)
			break;
		if (*step == 'E') {
			while (read(fd, waste, sizeof waste) > 0)
				;
		}
		if (*step == 'B') {
			for (const char *data = script->texts[text++]; *data != '\0'; data++) {
				if (write(fd, data, 1) < 0)
					break;
			}
		}
		if (*step == 'W') {
			const char *data = script->texts[text++];

			if (write(fd, data, strlen(data)) < 0)
				break;
		}
		while (*step == 'w' && !atomic_load(&server->go) && !atomic_load(&server->ending))
			poll(NULL, 0, 1);
		if (*step == 'X')
			setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
		if (*step == 'H') {
			server->held[server->held_count] = fd;
			atomic_fetch_add(&server->held_count, 1);
			return;
		}
	}
	close(fd);
	atomic_fetch_add(&server->closed, 1);
}

static inline void *
serve(void *arg)
{
	struct server *server = arg;

	for (int i = 0; i < server->count; i++) {
		int fd = accept(server->fd, NULL, NULL);

		if (fd < 0 || atomic_load(&server->ending)) {
			if (fd >= 0)
				close(fd);
			break;
		}
		atomic_fetch_add(&server->connections, 1);
		follow(server, fd, &server->scripts[i]);
	}
	return NULL;
}

struct fixture {
	struct server server;
	struct tr_loop *loop;
	struct tr_http *http;
	struct tr_http_client *client;
	char url[64];
};

static inline void
start_server(struct server *server, const struct script *scripts, int count)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof addr;

	memset(server, 0, sizeof *server);
	server->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(server->fd, (struct sockaddr *)&addr, sizeof addr), 0);
	assert_int_equal(listen(server->fd, 512), 0);
	getsockname(server->fd, (struct sockaddr *)&addr, &len);
	server->port = ntohs(addr.sin_port);
	server->scripts = scripts;
	server->count = count;
	assert_int_equal(pthread_create(&server->thread, NULL, serve, server), 0);
}

static inline void
stop_server(struct server *server)
{
	atomic_store(&server->ending, true);
	shutdown(server->fd, SHUT_RDWR);
	pthread_join(server->thread, NULL);
	for (int i = 0; i < server->held_count; i++)
		close(server->held[i]);
	close(server->fd);
}

#define TIMEOUT_NS (60 * TR_NS_PER_S) /* of what takes milliseconds unless the machine is busy */
#define LIMIT_NS (2 * TIMEOUT_NS)

static const struct tr_http_settings plain = {
	.timeout_ns = TIMEOUT_NS, .idle_ns = 90 * TR_NS_PER_S, .max_response_bytes = 1 << 20, .redirects = true};

static inline void
set_up(struct fixture *fix, const struct script *scripts, int count, const struct tr_http_settings *settings)
{
	start_server(&fix->server, scripts, count);
	snprintf(fix->url, sizeof fix->url, "http://127.0.0.1:%d/in", fix->server.port);
	assert_int_equal(tr_loop_new(&fix->loop), TR_OK);
	tr_loop_enter(fix->loop);
	assert_int_equal(tr_http_new(fix->loop, &fix->http), TR_OK);
	assert_int_equal(tr_http_client_new(fix->http, settings, &fix->client), TR_OK);
}

static inline void
tear_down(struct fixture *fix)
{
	assert_int_equal(tr_http_in_flight(fix->http), 0);
	assert_int_equal(tr_hold_count(), 0);
	tr_http_client_unref(fix->client);
	tr_http_free(fix->http);
	stop_server(&fix->server);
	tr_loop_free(fix->loop);
}

static inline void
call_done(struct tr_http_call *call)
{
	++*(int *)call->owner;
}

static inline bool
is_one(void *arg)
{
	return *(int *)arg == 1;
}

static inline void
run(struct fixture *fix, struct tr_http_call *call, enum tr_http_method method, const char *url, const char *body)
{
	int done = 0;

	memset(call, 0, sizeof *call);
	call->client = fix->client;
	call->method = method;
	call->url = url;
	call->body = tr_str(body);
	call->done = call_done;
	call->owner = &done;
	assert_int_equal(tr_http_start(fix->http, call), TR_OK);
	assert_int_equal(done, 0);
	assert_true(tr_loop_run_until(fix->loop, is_one, &done, LIMIT_NS));
	assert_null(call->flight);
}

static inline void
assert_text(const struct tr_buf *buf, const char *text)
{
	assert_int_equal(buf->len, strlen(text));
	assert_memory_equal(buf->data, text, buf->len);
}

static inline void
assert_has(const struct tr_buf *buf, const char *part)
{
	if (buf->len == 0 || memmem(buf->data, buf->len, part, strlen(part)) == NULL)
		fail_msg("\"%.*s\" lacks \"%s\"", (int)buf->len, buf->data != NULL ? buf->data : "", part);
}

#define OK_2 "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

/* A request that must be answered by "ok". */
static inline void
expect_ok(struct fixture *fix, enum tr_http_method method, const char *url, const char *body)
{
	struct tr_http_call call;

	run(fix, &call, method, url, body);
	if (call.err != TR_OK)
		fail_msg("%s: %s: %.*s", url, tr_err_name(call.err), (int)call.error.len, call.error.data);
	assert_int_equal(call.status, 200);
	assert_text(&call.content, "ok");
	tr_http_call_fini(&call);
}

#endif
