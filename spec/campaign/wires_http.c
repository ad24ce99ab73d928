#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "ingress/http_server.h"
#include "transport/http.h"
#include "transport/websocket_link.h"
#include "wires.h"

/* What is asked for, and what an endpoint must have seen of it: it says so. */
static const struct {
	enum tr_http_method method;
	const char *path, *mark, *answer;
} asked[] = {
	{TR_HTTP_POST, "/a", "one", "POST /a one"}, {TR_HTTP_PUT, "/b", "two", "PUT /b two"},
	{TR_HTTP_POST, "/moved", "three", "POST /a three"}, /* 307 to /a */
};

static bool
is_moved(const char *path)
{
	return strcmp(path, "/moved") == 0;
}

static void
serve(struct wire_conn *conn)
{
	char line[512], body[512], method[8], path[64], mark[64], text[200], answer[512];

	for (;;) {
		size_t len = 0;

		mark[0] = '\0';
		if (!wire_line(conn, line, sizeof line) || sscanf(line, "%7s %63s", method, path) != 2)
			return;
		do {
			if (!wire_line(conn, line, sizeof line))
				return;
			if (strncasecmp(line, "content-length:", 15) == 0)
				len = strtoul(line + 15, NULL, 10);
			if (strncasecmp(line, "x-mark: ", 8) == 0)
				snprintf(mark, sizeof mark, "%.63s", line + 8);
		} while (line[0] != '\0');
		if (len > sizeof body || !wire_read(conn, body, len))
			return;
		snprintf(text, sizeof text, "%s %s %s", method, path, mark);
		snprintf(answer, sizeof answer, "HTTP/1.1 %s\r\nContent-Length: %zu\r\n\r\n%s",
			is_moved(path) ? "307 Over there\r\nLocation: /a" : "200 OK", strlen(text), text);
		wire_say(conn, answer, strlen(answer));
	}
}

static void
changed(struct tr_ws_link *link, void *arg)
{
}

static void
done(struct tr_http_call *call)
{
	*(bool *)call->owner = true;
}

/* One request. It ends, and well or with a reason. Returns whether well. */
static bool
ask(struct tr_loop *loop, struct tr_http *http, struct tr_http_client *client, const char *base, size_t which)
{
	const struct tr_str headers[] = {{"X-Mark", 6}, tr_str(asked[which].mark)},
			    expected = tr_str(asked[which].answer);
	bool ended = false, well;
	char url[96];
	struct tr_http_call call = {.client = client,
		.method = asked[which].method,
		.url = url,
		.headers = headers,
		.header_count = 1,
		.headers_id = which + 1,
		.body = TR_STR("hello"),
		.timeout_ns = wire_is_calm() ? 0 : TR_NS_PER_S, /* libcurl may be left waiting for nothing */
		.done = done,
		.owner = &ended};
	int err;

	snprintf(url, sizeof url, "%s%s", base, asked[which].path);
	err = tr_http_start(http, &call);
	if (err == TR_OK) {
		if (!wire_wait(loop, &ended))
			wire_wrong("the request does not end");
		err = call.err;
	}
	well = err == TR_OK && call.status == 200;
	if (well ? !tr_str_eq((struct tr_str){call.content.data, call.content.len}, expected)
		 : err == TR_OK && call.status != 503) /* 503: a listener without memory */
		wire_wrong("%s: the answer is another one: %d, %.*s", expected.data, call.status, (int)call.content.len,
			call.content.data);
	if (err != TR_OK && err != TR_ENOMEM && call.error.len == 0 && wire_tells())
		wire_wrong("it ended as %s, and no text tells why", tr_err_name(err));
	tr_http_call_fini(&call);
	return well;
}

/* Requests with faults, then some without, on what is left of the client and its connections. */
static void
requests(struct tr_loop *loop, const char *base)
{
	const struct tr_http_settings settings = {.timeout_ns = WIRE_STEP_NS,
		.idle_ns = 90 * TR_NS_PER_S,
		.max_response_bytes = 1 << 20,
		.redirects = true};
	struct tr_http *http;
	struct tr_http_client *client;

	WIRE_MAKE(tr_http_new(loop, &http));
	WIRE_MAKE(tr_http_client_new(http, &settings, &client));
	for (size_t i = 0; i < TR_COUNT(asked); i++)
		(void)ask(loop, http, client, base, i);
	wire_calm();
	for (size_t i = TR_COUNT(asked); i-- > 0;) { /* the last one again first: what it has left must be sound */
		if (!ask(loop, http, client, base, i))
			wire_wrong("%s after the faults failed", asked[i].answer);
	}
	if (tr_http_in_flight(http) != 0)
		wire_wrong("%u requests are under way", tr_http_in_flight(http));
	tr_http_client_unref(client);
	tr_http_free(http);
}

/* What libcurl and OpenSSL do once in a process, without a peer that has begun before. OpenSSL may not recover from
 * that; whoever needs it is told, and nothing crashes. */
static void
run_begin(struct tr_loop *loop)
{
	const struct tr_http_settings settings = {.timeout_ns = TR_NS_PER_S, .max_response_bytes = 1};
	struct tr_http_client *client = NULL;
	struct tr_http *http = NULL;
	struct tr_ws_links *links = NULL;
	const struct tr_ws_settings ws = {TR_NS_PER_S, TR_NS_PER_S, 1};
	struct tr_ws_link *link = NULL;
	const char *why;
	int err[2];

	wire_begin();
	for (int i = 0; i < 2; i++) {
		if (i == 1)
			wire_calm();
		err[i] = http == NULL ? tr_http_new(loop, &http) : TR_OK;
		if (err[i] == TR_OK && client == NULL)
			err[i] = tr_http_client_new(http, &settings, &client);
		if (links == NULL && tr_ws_links_new(loop, &links) == TR_OK)
			(void)tr_ws_link_open(links, "wss://127.0.0.1:1/", &ws, changed, NULL, &link, &why);
	}
	if (err[0] != TR_OK && err[0] != TR_ENOMEM)
		wire_wrong("it ended as %s", tr_err_name(err[0]));
	if (err[0] == TR_OK && err[1] != TR_OK)
		wire_wrong("it worked, and then no more: %s", tr_err_name(err[1]));
	tr_ws_link_free(link);
	tr_ws_links_free(links);
	tr_http_client_unref(client);
	tr_http_free(http);
}

static void
run_http(struct tr_loop *loop)
{
	struct wire_peer peer;
	char url[64];

	wire_peer_start(&peer, serve, false);
	snprintf(url, sizeof url, "http://127.0.0.1:%u", peer.port);
	wire_begin();
	requests(loop, url);
}

static void
run_https(struct tr_loop *loop)
{
	struct wire_peer peer;
	char url[64];

	wire_peer_start(&peer, serve, true);
	setenv("SSL_CERT_FILE", wire_ca(), 1);
	snprintf(url, sizeof url, "https://127.0.0.1:%u", peer.port);
	wire_begin();
	requests(loop, url);
}

static void
answer(void *arg, struct tr_http_request *request)
{
	const char *mark = tr_http_request_header(request, "X-Mark"), *path = tr_http_request_path(request);
	struct tr_str body = tr_http_request_body(request);
	char text[200];

	if (body.len != 5)
		wire_wrong("a request with %zu bytes", body.len);
	snprintf(text, sizeof text, "%s %s %s", tr_http_request_method(request), path, mark != NULL ? mark : "nothing");
	tr_http_request_answer(request, is_moved(path) ? 307 : 200, "text/plain", is_moved(path) ? "Location" : "X-A",
		"/a", tr_str(text));
}

/* Both ends are ours. */
static void
run_listener(struct tr_loop *loop)
{
	struct tr_http_server_config config = {
		.listen = "127.0.0.1:0", .body_limit = 1000, .handle = answer, .loop = loop};
	struct tr_http_server *server;
	char url[64];

	wire_openssl();
	wire_begin();
	WIRE_MAKE(tr_http_server_new(&config, &server, NULL));
	snprintf(url, sizeof url, "http://%s", tr_http_server_address(server));
	requests(loop, url);
	tr_http_server_free(server);
}

const struct wire wire_begin_all = {"begin", run_begin}, wire_http = {"http", run_http},
		  wire_https = {"https", run_https}, wire_listener = {"listener", run_listener};
