/* Requests that libcurl carries: https, proxies, and whatever is unusual. */
#include <stdlib.h>
#include <strings.h>

#include "transport/http_internal.h"

enum {
	MAX_CONNECTIONS = 256,       /* idle ones kept; the oldest goes first */
	MAX_HEAD_BYTES = 256 * 1024, /* all header lines of one answer */
};

/* --- callbacks of curl: no Lua, nothing that starts or ends a request ------------------------------- */

static int
stop_for(struct tr_http_flight *flight, int err, const char *why)
{
	flight->curl.why = why;
	flight->curl.why_err = err;
	return 0;
}

static size_t
on_body(char *data, size_t one, size_t len, void *arg)
{
	struct tr_http_flight *flight = arg;
	struct tr_buf *content = &flight->call->content;

	size_t room = flight->client->settings.max_response_bytes - content->len;

	if (len > room && flight->client->settings.truncate_response) {
		tr_buf_add(content, data, room);
		flight->curl.truncated = !content->failed; /* the answer is known; the connection is not used again */
		return 0;
	}
	if (len > room)
		return (size_t)stop_for(flight, TR_ETOOBIG, "response body exceeds max_response_bytes");
	tr_buf_add(content, data, len);
	if (content->failed)
		return (size_t)stop_for(flight, TR_ENOMEM, "out of memory");
	return len;
}

static size_t
on_header(char *data, size_t one, size_t len, void *arg)
{
	struct tr_http_flight *flight = arg;
	struct tr_buf *head = &flight->call->head;

	if (len >= 5 && memcmp(data, "HTTP/", 5) == 0) { /* a further answer: after 100, or a proxy's */
		tr_buf_clear(head);
		return len;
	}
	if (len <= 2 && (data[0] == '\r' || data[0] == '\n'))
		return len;
	if (head->len + len > MAX_HEAD_BYTES)
		return (size_t)stop_for(flight, TR_ETOOBIG, "response header is too large");
	tr_buf_add(head, data, len);
	if (head->failed)
		return (size_t)stop_for(flight, TR_ENOMEM, "out of memory");
	return len;
}

/* With a guard: the address of a new connection, right before it is connected to. */
static curl_socket_t
open_guarded(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	struct tr_http_flight *flight = arg;
	struct tr_sockaddr addr = {.len = (socklen_t)address->addrlen};

	memcpy(&addr.ss, &address->addr, address->addrlen < sizeof addr.ss ? address->addrlen : sizeof addr.ss);
	if (tr_guard_allows(&flight->client->settings.guard, &addr))
		return tr_http_multi_open(flight->client->http->multi, address);
	flight->curl.denied = true;
	tr_http_denial(&addr, flight->curl.denial);
	return CURL_SOCKET_BAD; /* curl tries the name's next address */
}

/* May the request go over this connection? One that another client has opened to a name leads to an address that this
 * client's guard has not seen. */
static bool
is_allowed(struct tr_http_flight *flight, const char *remote)
{
	const struct tr_guard *guard = &flight->client->settings.guard;
	struct tr_sockaddr addr = {.len = 0};

	if (!guard->deny_private)
		return true;
	if (tr_sockaddr_parse(tr_str(remote), 80, &addr) == TR_OK && tr_guard_allows(guard, &addr))
		return true;
	flight->curl.denied = true;
	tr_http_denial(&addr, flight->curl.denial);
	return false;
}

/* Called before each request on a connection; a second time when curl begins again because the reused connection was
 * dead. */
static int
on_prereq(void *arg, char *remote, char *local, int remote_port, int local_port)
{
	struct tr_http_flight *flight = arg;
	long sent = 0;

	if (!is_allowed(flight, remote))
		return CURL_PREREQFUNC_ABORT;
	if (flight->curl.prereqs++ == 0 || flight->method == TR_HTTP_GET)
		return CURL_PREREQFUNC_OK;
	curl_easy_getinfo(flight->curl.easy, CURLINFO_REQUEST_SIZE, &sent);
	if (sent == 0)
		return CURL_PREREQFUNC_OK;
	stop_for(flight, TR_ECLOSED, "connection closed before the answer, after the request was sent");
	return CURL_PREREQFUNC_ABORT;
}

static int
on_debug(CURL *easy, curl_infotype type, char *data, size_t len, void *arg)
{
	static const char *const marks[] = {"*", "<", ">", "< body", "> body"};

	if ((size_t)type < TR_COUNT(marks))
		tr_http_trace(arg, marks[type], data, len);
	return 0;
}

/* --- requests ------------------------------------------------------------------------------------------- */

void
tr_http_curl_free(struct tr_http_easy *curl)
{
	curl_easy_cleanup(curl->easy);
	curl_url_cleanup(curl->parsed);
	tr_buf_free(&curl->url);
	tr_buf_free(&curl->header_text);
	free(curl->headers);
}

static bool
bypasses_proxies(const struct tr_http_client *client)
{
	return client->http->no_proxy || client->settings.guard.deny_private;
}

static int
make_easy(struct tr_http_flight *flight)
{
	struct tr_http_client *client = flight->client;
	const struct tr_http_settings *settings = &client->settings;
	CURL *easy = flight->curl.easy = curl_easy_init();

	if (easy == NULL)
		return TR_ENOMEM;
	flight->curl.method = -1;
	if (tr_http_multi_prepare(client->http->multi, easy) != TR_OK ||
		(bypasses_proxies(client) && !tr_http_multi_set_text(easy, CURLOPT_NOPROXY, "*")) ||
		(client->user_agent != NULL && !tr_http_multi_set_text(easy, CURLOPT_USERAGENT, client->user_agent))) {
		curl_easy_cleanup(easy); /* half made it would go past a guard, or to whom nobody trusts */
		flight->curl.easy = NULL;
		return TR_ENOMEM;
	}
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L); /* cancelling must not wait for the resolver's thread */
	curl_easy_setopt(easy, CURLOPT_PRIVATE, flight);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, flight->curl.error);
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, flight);
	curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(easy, CURLOPT_HEADERDATA, flight);
	curl_easy_setopt(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_prereq);
	curl_easy_setopt(easy, CURLOPT_PREREQDATA, flight);
	if (!settings->truncate_response)
		curl_easy_setopt(easy, CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)settings->max_response_bytes);
	curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, (long)tr_max_i64(1, settings->idle_ns / TR_NS_PER_S));
	if (settings->guard.deny_private) {
		curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_guarded);
		curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, flight);
	}
	if (settings->accept_invalid_certs) {
		curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 0L);
		curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 0L);
	}
	if (settings->verbose) {
		curl_easy_setopt(easy, CURLOPT_VERBOSE, 1L);
		curl_easy_setopt(easy, CURLOPT_DEBUGFUNCTION, on_debug);
		curl_easy_setopt(easy, CURLOPT_DEBUGDATA, flight);
	}
	return TR_OK;
}

/* Our list of header lines in one text and one array: curl only reads it. */
static int
set_headers(struct tr_http_flight *flight)
{
	static char no_expect[] = "Expect:", no_type[] = "Content-Type:"; /* what curl would add by itself */
	const struct tr_http_call *call = flight->call;
	struct tr_buf *text = &flight->curl.header_text;
	bool has_type = false;
	uint32_t count = 0;
	char *at;

	if (call->headers_id != 0 && call->headers_id == flight->curl.headers_id && !flight->drop_auth &&
		!flight->drop_body)
		return TR_OK;
	flight->curl.headers_id = 0; /* until they are set */
	if (call->header_count + 2 > flight->curl.header_cap) {
		uint32_t cap = call->header_count + 8;
		struct curl_slist *headers = realloc(flight->curl.headers, cap * sizeof *headers);

		if (headers == NULL)
			return TR_ENOMEM;
		flight->curl.headers = headers;
		flight->curl.header_cap = cap;
	}
	tr_buf_clear(text);
	for (uint32_t i = 0; i < call->header_count; i++) {
		struct tr_str name = call->headers[2 * i], value = call->headers[2 * i + 1];

		if (tr_http_header_dropped(flight, name))
			continue;
		has_type = has_type || tr_str_ieq(name, TR_STR("content-type"));
		tr_buf_add_str(text, name);
		tr_buf_addz(text, value.len > 0 ? ": " : ";"); /* "Name;" is curl's form of an empty value */
		tr_buf_add(text, value.data, value.len);
		tr_buf_addc(text, '\0');
		count++;
	}
	if (text->failed)
		return TR_ENOMEM;
	at = text->data;
	for (uint32_t i = 0; i < count; i++, at += strlen(at) + 1)
		flight->curl.headers[i] = (struct curl_slist){at, &flight->curl.headers[i + 1]};
	flight->curl.headers[count] = (struct curl_slist){no_expect, NULL};
	if (!has_type && flight->method != TR_HTTP_GET) {
		flight->curl.headers[count].next = &flight->curl.headers[count + 1];
		flight->curl.headers[count + 1] = (struct curl_slist){no_type, NULL};
	}
	curl_easy_setopt(flight->curl.easy, CURLOPT_HTTPHEADER, flight->curl.headers); /* it takes the pointer */
	if (!flight->drop_auth && !flight->drop_body)
		flight->curl.headers_id = call->headers_id;
	return TR_OK;
}

/* Hands curl the URL in its parsed form: from a text it would parse, and print, it for each request. A URL that cannot
 * be parsed is left to curl, which says why. */
static void
set_parsed(struct tr_http_flight *flight, const char *url)
{
	CURLU *parsed = curl_url();

	if (parsed != NULL &&
		curl_url_set(parsed, CURLUPART_URL, url, CURLU_GUESS_SCHEME | CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK) {
		curl_url_cleanup(parsed);
		parsed = NULL;
	}
	curl_easy_setopt(flight->curl.easy, CURLOPT_CURLU, parsed);
	curl_url_cleanup(flight->curl.parsed);
	flight->curl.parsed = parsed;
}

static int
set_url(struct tr_http_flight *flight, const char *url)
{
	const char *proxy = flight->client->http->env_proxy;
	bool proxied =
		proxy != NULL && !flight->client->settings.guard.deny_private && strncasecmp(url, "http://", 7) == 0;

	if (proxied != flight->curl.proxied) {
		if (!tr_http_multi_set_text(flight->curl.easy, CURLOPT_PROXY, proxied ? proxy : NULL))
			return TR_ENOMEM;
		flight->curl.proxied = proxied;
	}
	if (flight->curl.url.len > 0 && strcmp(flight->curl.url.data, url) == 0)
		return TR_OK;
	tr_buf_clear(&flight->curl.url);
	tr_buf_add(&flight->curl.url, url, strlen(url) + 1);
	if (flight->curl.url.failed || !tr_http_multi_set_text(flight->curl.easy, CURLOPT_URL, url)) {
		tr_buf_clear(&flight->curl.url); /* or the next request would go where the last one went */
		return TR_ENOMEM;
	}
	set_parsed(flight, url);
	return TR_OK;
}

/* Whether to leave out the connections that are open already. */
static void
set_fresh(struct tr_http_flight *flight, bool fresh)
{
	if (flight->curl.fresh != fresh)
		curl_easy_setopt(flight->curl.easy, CURLOPT_FRESH_CONNECT, fresh ? 1L : 0L);
	flight->curl.fresh = fresh;
}

int
tr_http_curl_launch(struct tr_http_flight *flight, const char *url, int64_t timeout_ns)
{
	const struct tr_http_call *call = flight->call;
	/* a backstop; splits over addresses */
	long connect_ms = (long)tr_min_i64(timeout_ns / TR_NS_PER_MS + 1000, INT32_MAX);
	enum tr_http_method method = (enum tr_http_method)flight->method;
	CURL *easy;
	int err;

	if (flight->curl.easy == NULL && make_easy(flight) != TR_OK)
		return TR_ENOMEM;
	easy = flight->curl.easy;
	if (flight->curl.connect_ms != connect_ms) {
		curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, connect_ms);
		flight->curl.connect_ms = connect_ms;
	}
	flight->curl.why = NULL;
	flight->curl.truncated = false;
	if (flight->curl.method != flight->method) {
		flight->curl.method = -1;
		if (method == TR_HTTP_GET)
			curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
		else
			curl_easy_setopt(easy, CURLOPT_POST, 1L);
		if (!tr_http_multi_set_text(easy, CURLOPT_CUSTOMREQUEST, method == TR_HTTP_PUT ? "PUT" : NULL))
			return TR_ENOMEM;
		flight->curl.method = flight->method;
	}
	if (method != TR_HTTP_GET) {
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS, call->body.len > 0 ? call->body.data : "");
		curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->body.len);
	}
	flight->curl.prereqs = 0;
	flight->curl.denied = false;
	set_fresh(flight, false);
	flight->curl.error[0] = '\0';
	err = set_headers(flight);
	if (err == TR_OK)
		err = set_url(flight, url);
	return err == TR_OK ? tr_http_multi_add(flight->client->http->multi, easy) : err;
}

void
tr_http_curl_stop(struct tr_http_flight *flight)
{
	tr_http_multi_remove(flight->client->http->multi, flight->curl.easy);
}

static void
on_done(void *arg, CURL *easy, CURLcode code)
{
	struct tr_http_flight *flight = NULL;
	char *location = NULL, *copy;
	long status = 0;

	curl_easy_getinfo(easy, CURLINFO_PRIVATE, &flight);
	if (code == CURLE_ABORTED_BY_CALLBACK && flight->curl.denied && !flight->curl.fresh) {
		tr_http_curl_stop(flight); /* it was an open one: the name may have addresses that are allowed */
		set_fresh(flight, true);
		flight->curl.denied = false;
		flight->curl.prereqs = 0;
		if (tr_http_multi_add(flight->client->http->multi, easy) == TR_OK)
			return;
		flight->curl.why = "out of memory";
		flight->curl.why_err = TR_ENOMEM;
		tr_http_flight_fail(flight, code);
		tr_http_flight_failed(flight);
		return;
	}
	if (code != CURLE_OK && !(code == CURLE_WRITE_ERROR && flight->curl.truncated)) {
		tr_http_flight_fail(flight, code);
		tr_http_curl_stop(flight);
		tr_http_flight_failed(flight);
		return;
	}
	curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
	flight->call->status = (int)status;
	if (status < 100) { /* curl says OK where a connection ended early */
		flight->call->err = TR_EPROTO;
		tr_buf_addz(&flight->call->error, "no HTTP answer");
		tr_http_curl_stop(flight);
		tr_http_flight_failed(flight);
		return;
	}
	if (tr_http_flight_redirects(flight))
		curl_easy_getinfo(easy, CURLINFO_REDIRECT_URL, &location);
	copy = location != NULL ? strdup(location) : NULL; /* curl's own goes with the next setopt */
	tr_http_curl_stop(flight);
	tr_http_flight_answered(flight, location != NULL && copy == NULL ? TR_ENOMEM : TR_OK, copy);
}

int
tr_http_curl_new(struct tr_http *http)
{
	return tr_http_multi_new(http->loop, MAX_CONNECTIONS, on_done, http, &http->multi);
}
