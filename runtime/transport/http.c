#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "base/clock.h"
#include "base/diag.h"
#include "transport/http_internal.h"

enum {
	MAX_CONNECTIONS = 256, /* idle ones kept; the oldest goes first */
	MAX_IDLE_FLIGHTS = 64, /* handles a client keeps, each some KB */
	MAX_HOPS = 10,
	MAX_HEAD_BYTES = 256 * 1024, /* all header lines of one answer */
};

/* --- callbacks of curl: no Lua, nothing that starts or ends a request ------------------------------- */

static int
stop_for(struct tr_http_flight *flight, int err, const char *why)
{
	flight->why = why;
	flight->why_err = err;
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
		flight->truncated = !content->failed; /* the answer is known; the connection is not used again */
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

/* Called before each request on a connection; a second time when curl begins again because the reused connection was
 * dead. */
static int
on_prereq(void *arg, char *remote, char *local, int remote_port, int local_port)
{
	struct tr_http_flight *flight = arg;
	long sent = 0;

	if (flight->prereqs++ == 0 || flight->method == TR_HTTP_GET)
		return CURL_PREREQFUNC_OK;
	curl_easy_getinfo(flight->easy, CURLINFO_REQUEST_SIZE, &sent);
	if (sent == 0)
		return CURL_PREREQFUNC_OK;
	stop_for(flight, TR_ECLOSED, "connection closed before the answer, after the request was sent");
	return CURL_PREREQFUNC_ABORT;
}

static int
on_debug(CURL *easy, curl_infotype type, char *data, size_t len, void *arg)
{
	static const char *const marks[] = {"*", "<", ">", "< body", "> body", "< tls", "> tls"};
	char text[201];
	size_t count = len < sizeof text - 1 ? len : sizeof text - 1;

	if ((size_t)type >= TR_COUNT(marks) || type == CURLINFO_SSL_DATA_IN || type == CURLINFO_SSL_DATA_OUT)
		return 0;
	for (size_t i = 0; i < count; i++)
		text[i] = (unsigned char)data[i] >= 0x20 && (unsigned char)data[i] < 0x7f ? data[i] : '.';
	text[count] = '\0';
	tr_log(TR_LEVEL_TRACE, "http", "%p %s %zu bytes: %s", arg, marks[type], len, text);
	return 0;
}

/* --- flights -------------------------------------------------------------------------------------------- */

static void
flight_free(struct tr_http_flight *flight)
{
	curl_easy_cleanup(flight->easy);
	curl_url_cleanup(flight->parsed);
	tr_buf_free(&flight->url);
	tr_buf_free(&flight->header_text);
	free(flight->headers);
	free(flight);
}

static struct tr_http_flight *
flight_new(struct tr_http_client *client)
{
	struct tr_http_flight *flight = calloc(1, sizeof *flight);
	const struct tr_http_settings *settings = &client->settings;
	CURL *easy;

	if (flight == NULL)
		return NULL;
	easy = flight->easy = curl_easy_init();
	if (easy == NULL) {
		free(flight);
		return NULL;
	}
	flight->method = -1;
	tr_http_multi_prepare(client->http->multi, easy);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L); /* cancelling must not wait for the resolver's thread */
	curl_easy_setopt(easy, CURLOPT_PRIVATE, flight);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, flight->error);
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
	if (client->http->no_proxy)
		curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
	if (client->user_agent != NULL)
		curl_easy_setopt(easy, CURLOPT_USERAGENT, client->user_agent);
	if (settings->accept_invalid_certs) {
		curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 0L);
		curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 0L);
	}
	if (settings->verbose) {
		curl_easy_setopt(easy, CURLOPT_VERBOSE, 1L);
		curl_easy_setopt(easy, CURLOPT_DEBUGFUNCTION, on_debug);
		curl_easy_setopt(easy, CURLOPT_DEBUGDATA, flight);
	}
	return flight;
}

static bool
header_dropped(const struct tr_http_flight *flight, struct tr_str name)
{
	if (flight->drop_auth && (tr_str_ieq(name, TR_STR("authorization")) || tr_str_ieq(name, TR_STR("cookie")) ||
					 tr_str_ieq(name, TR_STR("proxy-authorization"))))
		return true;
	return flight->drop_body &&
	       (tr_str_ieq(name, TR_STR("content-type")) || tr_str_ieq(name, TR_STR("content-length")) ||
		       tr_str_ieq(name, TR_STR("content-encoding")) || tr_str_ieq(name, TR_STR("transfer-encoding")));
}

/* Our list of header lines in one text and one array: curl only reads it. */
static int
set_headers(struct tr_http_flight *flight)
{
	static char no_expect[] = "Expect:", no_type[] = "Content-Type:"; /* what curl would add by itself */
	const struct tr_http_call *call = flight->call;
	struct tr_buf *text = &flight->header_text;
	bool has_type = false;
	uint32_t count = 0;
	char *at;

	if (call->headers_id != 0 && call->headers_id == flight->headers_id && !flight->drop_auth && !flight->drop_body)
		return TR_OK;
	flight->headers_id = flight->drop_auth || flight->drop_body ? 0 : call->headers_id;
	if (call->header_count + 2 > flight->header_cap) {
		uint32_t cap = call->header_count + 8;
		struct curl_slist *headers = realloc(flight->headers, cap * sizeof *headers);

		if (headers == NULL)
			return TR_ENOMEM;
		flight->headers = headers;
		flight->header_cap = cap;
	}
	tr_buf_clear(text);
	for (uint32_t i = 0; i < call->header_count; i++) {
		struct tr_str name = call->headers[2 * i], value = call->headers[2 * i + 1];

		if (header_dropped(flight, name))
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
		flight->headers[i] = (struct curl_slist){at, &flight->headers[i + 1]};
	flight->headers[count] = (struct curl_slist){no_expect, NULL};
	if (!has_type && flight->method != TR_HTTP_GET) {
		flight->headers[count].next = &flight->headers[count + 1];
		flight->headers[count + 1] = (struct curl_slist){no_type, NULL};
	}
	return curl_easy_setopt(flight->easy, CURLOPT_HTTPHEADER, flight->headers) == CURLE_OK ? TR_OK : TR_ENOMEM;
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
	curl_easy_setopt(flight->easy, CURLOPT_CURLU, parsed);
	curl_url_cleanup(flight->parsed);
	flight->parsed = parsed;
}

static int
set_url(struct tr_http_flight *flight, const char *url)
{
	const char *proxy = flight->client->http->env_proxy;
	bool proxied = proxy != NULL && strncasecmp(url, "http://", 7) == 0;

	if (proxied != flight->proxied) {
		curl_easy_setopt(flight->easy, CURLOPT_PROXY, proxied ? proxy : NULL);
		flight->proxied = proxied;
	}
	if (flight->url.len > 0 && strcmp(flight->url.data, url) == 0)
		return TR_OK;
	tr_buf_clear(&flight->url);
	tr_buf_add(&flight->url, url, strlen(url) + 1);
	if (flight->url.failed || curl_easy_setopt(flight->easy, CURLOPT_URL, url) != CURLE_OK)
		return TR_ENOMEM;
	set_parsed(flight, url);
	return TR_OK;
}

static int
launch(struct tr_http_flight *flight, const char *url, enum tr_http_method method)
{
	const struct tr_http_call *call = flight->call;
	CURL *easy = flight->easy;
	int err;

	if (flight->method != (int)method) {
		if (method == TR_HTTP_GET)
			curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
		else
			curl_easy_setopt(easy, CURLOPT_POST, 1L);
		curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, method == TR_HTTP_PUT ? "PUT" : NULL);
		flight->method = (int)method;
	}
	if (method != TR_HTTP_GET) {
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS, call->body.len > 0 ? call->body.data : "");
		curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->body.len);
	}
	flight->prereqs = 0;
	flight->error[0] = '\0';
	err = set_headers(flight);
	if (err == TR_OK)
		err = set_url(flight, url);
	return err == TR_OK ? tr_http_multi_add(flight->client->http->multi, easy) : err;
}

/* Takes it out of what is under way; the handle goes back to its client. */
static void
land(struct tr_http_flight *flight)
{
	struct tr_http_client *client = flight->client;
	struct tr_http *http = client->http;

	tr_timer_stop(tr_loop_wheel(http->loop), &flight->deadline);
	*flight->prev = flight->next;
	if (flight->next != NULL)
		flight->next->prev = flight->prev;
	http->in_flight--;
	tr_hold_drop();
	flight->call->flight = NULL;
	flight->call = NULL;
	flight->client = NULL;
	if (client->refs > 1 && client->idle_count < MAX_IDLE_FLIGHTS) {
		flight->next = client->idle;
		client->idle = flight;
		client->idle_count++;
	} else {
		flight_free(flight);
	}
	tr_http_client_unref(client);
}

static void
finish(struct tr_http_flight *flight)
{
	struct tr_http_call *call = flight->call;

	land(flight);
	call->done(call);
}

/* --- the answer ------------------------------------------------------------------------------------- */

/* Goes on to where the answer points; false: the answer stands, or call->err is set. */
static bool
redirect(struct tr_http_flight *flight)
{
	struct tr_http_call *call = flight->call;
	char *location = NULL, *url;
	enum tr_http_method method = (enum tr_http_method)flight->method;
	int status = call->status, err;

	if (!flight->client->settings.redirects ||
		(status != 301 && status != 302 && status != 303 && status != 307 && status != 308))
		return false;
	curl_easy_getinfo(flight->easy, CURLINFO_REDIRECT_URL, &location);
	if (location == NULL)
		return false;
	if (flight->hops++ >= MAX_HOPS) {
		call->err = TR_EPROTO;
		call->redirecting = true;
		tr_buf_addz(&call->error, "too many redirects");
		return false;
	}
	if (status == 303 || (status <= 302 && method == TR_HTTP_POST)) {
		method = TR_HTTP_GET;
		flight->drop_body = true;
	}
	if (!tr_http_same_place(flight->url.data, location))
		flight->drop_auth = true;
	url = strdup(location); /* curl's own goes with the next setopt */
	tr_http_multi_remove(flight->client->http->multi, flight->easy);
	tr_buf_clear(&call->head);
	tr_buf_clear(&call->content);
	err = url != NULL ? launch(flight, url, method) : TR_ENOMEM;
	free(url);
	if (err != TR_OK) {
		call->err = err;
		call->redirecting = true;
		tr_buf_addz(&call->error, tr_err_text(err));
		finish(flight);
	}
	return true;
}

static void
on_done(void *arg, CURL *easy, CURLcode code)
{
	struct tr_http *http = arg;
	struct tr_http_flight *flight = NULL;
	long status = 0;

	curl_easy_getinfo(easy, CURLINFO_PRIVATE, &flight);
	if (code != CURLE_OK && !(code == CURLE_WRITE_ERROR && flight->truncated)) {
		tr_http_flight_fail(flight, code);
	} else {
		curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
		flight->call->status = (int)status;
		if (status < 100) { /* curl says OK where a connection ended early */
			flight->call->err = TR_EPROTO;
			tr_buf_addz(&flight->call->error, "no HTTP answer");
		} else if (redirect(flight)) {
			return;
		}
	}
	tr_http_multi_remove(http->multi, easy);
	finish(flight);
}

static void
deadline_cb(struct tr_timer *timer)
{
	struct tr_http_flight *flight = tr_container_of(timer, struct tr_http_flight, deadline);
	struct tr_http_call *call = flight->call;
	int64_t timeout_ns = call->timeout_ns > 0 ? call->timeout_ns : flight->client->settings.timeout_ns;

	call->err = TR_ETIMEDOUT;
	call->status = 0;
	call->redirecting = flight->hops > 0;
	tr_buf_addf(&call->error, "operation timed out after %.3g s", (double)timeout_ns / 1e9);
	tr_http_multi_remove(flight->client->http->multi, flight->easy);
	finish(flight);
}

/* --- calls ------------------------------------------------------------------------------------------ */

int
tr_http_start(struct tr_http *http, struct tr_http_call *call)
{
	struct tr_http_client *client = call->client;
	struct tr_http_flight *flight = client->idle;
	int64_t timeout_ns = call->timeout_ns > 0 ? call->timeout_ns : client->settings.timeout_ns;
	long connect_ms =
		(long)tr_min_i64(timeout_ns / TR_NS_PER_MS + 1000, INT32_MAX); /* a backstop; splits over addresses */
	int err;

	if (client->http != http)
		return TR_ECLOSED;
	call->err = TR_OK;
	call->status = 0;
	call->redirecting = call->building = false;
	tr_buf_clear(&call->head);
	tr_buf_clear(&call->content);
	tr_buf_clear(&call->error);
	if (flight != NULL) {
		client->idle = flight->next;
		client->idle_count--;
	} else {
		flight = flight_new(client);
		if (flight == NULL)
			return TR_ENOMEM;
	}
	if (flight->connect_ms != connect_ms) {
		curl_easy_setopt(flight->easy, CURLOPT_CONNECTTIMEOUT_MS, connect_ms);
		flight->connect_ms = connect_ms;
	}
	flight->client = client;
	flight->call = call;
	flight->hops = 0;
	flight->drop_body = flight->drop_auth = false;
	flight->why = NULL;
	flight->truncated = false;
	err = launch(flight, call->url, call->method);
	if (err != TR_OK) {
		flight_free(flight);
		return err;
	}
	tr_http_client_ref(client);
	call->flight = flight;
	flight->next = http->flights;
	flight->prev = &http->flights;
	if (flight->next != NULL)
		flight->next->prev = &flight->next;
	http->flights = flight;
	http->in_flight++;
	tr_hold_take();
	tr_timer_start(tr_loop_wheel(http->loop), &flight->deadline, timeout_ns, deadline_cb);
	return TR_OK;
}

void
tr_http_cancel(struct tr_http_call *call)
{
	struct tr_http_flight *flight = call->flight;

	if (flight == NULL)
		return;
	tr_http_multi_remove(flight->client->http->multi, flight->easy);
	land(flight);
}

void
tr_http_call_fini(struct tr_http_call *call)
{
	tr_buf_free(&call->head);
	tr_buf_free(&call->content);
	tr_buf_free(&call->error);
}

/* --- clients ---------------------------------------------------------------------------------------- */

int
tr_http_client_new(struct tr_http *http, const struct tr_http_settings *settings, struct tr_http_client **out)
{
	struct tr_http_client *client = calloc(1, sizeof *client);

	*out = NULL;
	if (client == NULL)
		return TR_ENOMEM;
	client->settings = *settings;
	client->settings.user_agent = NULL;
	if (settings->user_agent != NULL) {
		client->user_agent = strdup(settings->user_agent);
		if (client->user_agent == NULL) {
			free(client);
			return TR_ENOMEM;
		}
	}
	client->refs = 1;
	client->http = http;
	client->next = http->clients;
	client->prev = &http->clients;
	if (client->next != NULL)
		client->next->prev = &client->next;
	http->clients = client;
	*out = client;
	return TR_OK;
}

struct tr_http_client *
tr_http_client_ref(struct tr_http_client *client)
{
	client->refs++;
	return client;
}

static void
client_detach(struct tr_http_client *client)
{
	for (struct tr_http_flight *flight = client->idle, *next; flight != NULL; flight = next) {
		next = flight->next;
		flight_free(flight);
	}
	client->idle = NULL;
	client->idle_count = 0;
	*client->prev = client->next;
	if (client->next != NULL)
		client->next->prev = client->prev;
	client->http = NULL;
}

void
tr_http_client_unref(struct tr_http_client *client)
{
	if (client == NULL || --client->refs > 0)
		return;
	if (client->http != NULL)
		client_detach(client);
	free(client->user_agent);
	free(client);
}

int
tr_http_new(struct tr_loop *loop, struct tr_http **out)
{
	static const char *const proxy_names[] = {"http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"};
	struct tr_http *http = calloc(1, sizeof *http);
	const char *proxy = getenv("HTTP_PROXY");
	int err;

	*out = NULL;
	if (http == NULL)
		return TR_ENOMEM;
	http->loop = loop;
	if (proxy != NULL && *proxy != '\0' && getenv("http_proxy") == NULL && getenv("REQUEST_METHOD") == NULL)
		http->env_proxy = proxy;
	http->no_proxy = http->env_proxy == NULL;
	for (size_t i = 0; i < TR_COUNT(proxy_names); i++)
		http->no_proxy = http->no_proxy && getenv(proxy_names[i]) == NULL;
	err = tr_http_multi_new(loop, MAX_CONNECTIONS, on_done, http, &http->multi);
	if (err != TR_OK) {
		free(http);
		return err;
	}
	*out = http;
	return TR_OK;
}

void
tr_http_free(struct tr_http *http)
{
	if (http == NULL)
		return;
	for (struct tr_http_flight *flight = http->flights, *next; flight != NULL; flight = next) {
		next = flight->next;
		tr_http_cancel(flight->call);
	}
	for (struct tr_http_client *client = http->clients, *next; client != NULL; client = next) {
		next = client->next;
		client_detach(client);
	}
	tr_http_multi_free(http->multi);
	free(http);
}

uint32_t
tr_http_in_flight(const struct tr_http *http)
{
	return http->in_flight;
}
