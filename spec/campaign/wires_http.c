#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "ingress/http_server.h"
#include "transport/http.h"
#include "wires.h"

static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

static void
serve(struct wire_conn *conn)
{
	char line[512], body[512];

	for (;;) {
		size_t len = 0;

		do {
			if (!wire_line(conn, line, sizeof line))
				return;
			if (strncasecmp(line, "content-length:", 15) == 0)
				len = strtoul(line + 15, NULL, 10);
		} while (line[0] != '\0');
		if (len > sizeof body || !wire_read(conn, body, len))
			return;
		wire_say(conn, ok, sizeof ok - 1);
	}
}

static void
done(struct tr_http_call *call)
{
	*(bool *)call->owner = true;
}

/* One request. It ends, and well or with a reason. Returns whether well. */
static bool
post(struct tr_loop *loop, struct tr_http *http, struct tr_http_client *client, const char *url)
{
	static const struct tr_str headers[] = {{"Content-Type", 12}, {"text/plain", 10}};
	bool ended = false, well;
	struct tr_http_call call = {.client = client,
		.method = TR_HTTP_POST,
		.url = url,
		.headers = headers,
		.header_count = 1,
		.body = TR_STR("hello"),
		.done = done,
		.owner = &ended};
	int err = tr_http_start(http, &call);

	if (err == TR_OK) {
		if (!wire_wait(loop, &ended))
			wire_wrong("the request does not end");
		err = call.err;
	}
	well = err == TR_OK && call.status == 200;
	if (well ? call.content.len != 2 : err == TR_OK && call.status != 503) /* 503: a listener without memory */
		wire_wrong("the answer is another one: %d, %zu bytes", call.status, call.content.len);
	if (err != TR_OK && err != TR_ENOMEM && call.error.len == 0 && wire_tells())
		wire_wrong("it ended as %s, and no text tells why", tr_err_name(err));
	tr_http_call_fini(&call);
	return well;
}

/* A request with faults, then some without, on what is left of the client and its connections. */
static void
requests(struct tr_loop *loop, const char *url)
{
	const struct tr_http_settings settings = {.timeout_ns = 10 * TR_NS_PER_S,
		.idle_ns = 90 * TR_NS_PER_S,
		.max_response_bytes = 1 << 20,
		.accept_invalid_certs = true};
	struct tr_http *http;
	struct tr_http_client *client;

	WIRE_MAKE(tr_http_new(loop, &http));
	WIRE_MAKE(tr_http_client_new(http, &settings, &client));
	for (int i = 0; i < 2; i++)
		(void)post(loop, http, client, url);
	wire_calm();
	for (int i = 0; i < 2; i++) {
		if (!post(loop, http, client, url))
			wire_wrong("request %d after the faults failed", i);
	}
	if (tr_http_in_flight(http) != 0)
		wire_wrong("%u requests are under way", tr_http_in_flight(http));
	tr_http_client_unref(client);
	tr_http_free(http);
}

static void
run_http(struct tr_loop *loop)
{
	struct wire_peer peer;
	char url[64];

	wire_peer_start(&peer, serve, false);
	snprintf(url, sizeof url, "http://127.0.0.1:%u/in", peer.port);
	wire_begin();
	requests(loop, url);
}

static void
run_https(struct tr_loop *loop)
{
	struct wire_peer peer;
	char url[64];

	wire_peer_start(&peer, serve, true);
	snprintf(url, sizeof url, "https://127.0.0.1:%u/in", peer.port);
	wire_begin();
	requests(loop, url);
}

static void
answer(void *arg, struct tr_http_request *request)
{
	struct tr_str body = tr_http_request_body(request);

	if (body.len != 5)
		wire_wrong("a request with %zu bytes", body.len);
	tr_http_request_answer(request, 200, "text/plain", "X-A", "1", TR_STR("ok"));
}

/* Both ends are ours. */
static void
run_listener(struct tr_loop *loop)
{
	struct tr_http_server_config config = {
		.listen = "127.0.0.1:0", .body_limit = 1000, .handle = answer, .loop = loop};
	struct tr_http_server *server;
	char url[64];

	wire_begin();
	WIRE_MAKE(tr_http_server_new(&config, &server, NULL));
	snprintf(url, sizeof url, "http://%s/in", tr_http_server_address(server));
	requests(loop, url);
	tr_http_server_free(server);
}

const struct wire wire_http = {"http", run_http}, wire_https = {"https", run_https},
		  wire_listener = {"listener", run_listener};
