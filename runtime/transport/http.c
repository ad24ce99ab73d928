#include "transport/http.h"

#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "base/clock.h"
#include "base/diag.h"
#include "net/scripted.h"
#include "transport/http_internal.h"

enum {
	MAX_IDLE_FLIGHTS = 64, /* flights a client keeps, each some KB */
	MAX_HOPS = 10,
};

void
tr_http_trace(const void *id, const char *mark, const char *data, size_t len)
{
	char text[201];
	size_t count = len < sizeof text - 1 ? len : sizeof text - 1;

	for (size_t i = 0; i < count; i++)
		text[i] = (unsigned char)data[i] >= 0x20 && (unsigned char)data[i] < 0x7f ? data[i] : '.';
	text[count] = '\0';
	tr_log(TR_LEVEL_TRACE, "http", "%p %s %zu bytes: %s", id, mark, len, text);
}

/* --- flights -------------------------------------------------------------------------------------------- */

static void
flight_free(struct tr_http_flight *flight)
{
	tr_http1_request_free(&flight->own);
	tr_http_curl_free(&flight->curl);
	free(flight);
}

bool
tr_http_header_dropped(const struct tr_http_flight *flight, struct tr_str name)
{
	if (flight->drop_auth && (tr_str_ieq(name, TR_STR("authorization")) || tr_str_ieq(name, TR_STR("cookie")) ||
					 tr_str_ieq(name, TR_STR("proxy-authorization"))))
		return true;
	return flight->drop_body &&
	       (tr_str_ieq(name, TR_STR("content-type")) || tr_str_ieq(name, TR_STR("content-length")) ||
		       tr_str_ieq(name, TR_STR("content-encoding")) || tr_str_ieq(name, TR_STR("transfer-encoding")));
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
	if (flight->held)
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

static int64_t
timeout_of(const struct tr_http_flight *flight)
{
	return flight->call->timeout_ns > 0 ? flight->call->timeout_ns : flight->client->settings.timeout_ns;
}

static int
launch(struct tr_http_flight *flight, const char *url)
{
	struct tr_http *http = flight->client->http;
	int err = TR_EAGAIN;

	if (http->http1 == NULL && tr_scripted_on())
		tr_http1_new(http->loop, &http->http1); /* a script knows no proxy */
	if (http->http1 != NULL)
		err = tr_http1_launch(http->http1, flight, url);
	if (err == TR_EAGAIN && tr_scripted_on()) {
		flight->on_curl = false;
		tr_http1_fail(flight, TR_EINVAL, "%s is a URL for libcurl, which cannot be scripted", url);
		return TR_OK;
	}
	flight->on_curl = err == TR_EAGAIN;
	return flight->on_curl ? tr_http_curl_launch(flight, url, timeout_of(flight)) : err;
}

static void
stop(struct tr_http_flight *flight)
{
	if (flight->on_curl)
		tr_http_curl_stop(flight);
	else
		tr_http1_stop(flight->client->http->http1, flight);
}

/* --- the answer ------------------------------------------------------------------------------------- */

bool
tr_http_flight_redirects(const struct tr_http_flight *flight)
{
	int status = flight->call->status;

	return flight->client->settings.redirects &&
	       (status == 301 || status == 302 || status == 303 || status == 307 || status == 308);
}

/* A redirect that cannot be followed. */
static void
lost(struct tr_http_flight *flight, int err)
{
	flight->call->err = err;
	flight->call->redirecting = true;
	tr_buf_addz(&flight->call->error, tr_err_text(err));
	finish(flight);
}

/* Goes on to where the answer points. */
static void
redirect(struct tr_http_flight *flight, const char *location)
{
	struct tr_http_call *call = flight->call;
	const char *url = flight->on_curl ? flight->curl.url.data : flight->own.url.data;
	bool same;
	int err;

	if (flight->hops++ >= MAX_HOPS) {
		call->err = TR_EPROTO;
		call->redirecting = true;
		tr_buf_addz(&call->error, "too many redirects");
		finish(flight);
		return;
	}
	if (call->status == 303 || (call->status <= 302 && flight->method == TR_HTTP_POST)) {
		flight->method = TR_HTTP_GET;
		flight->drop_body = true;
	}
	err = tr_http_same_place(url, location, &same);
	if (err == TR_OK && !same)
		flight->drop_auth = true;
	tr_buf_clear(&call->head);
	tr_buf_clear(&call->content);
	if (err == TR_OK)
		err = launch(flight, location);
	if (err != TR_OK)
		lost(flight, err);
}

void
tr_http_flight_answered(struct tr_http_flight *flight, int err, char *location)
{
	if (err != TR_OK) {
		lost(flight, err);
		return;
	}
	if (location == NULL) {
		finish(flight);
		return;
	}
	redirect(flight, location);
	free(location);
}

void
tr_http_flight_failed(struct tr_http_flight *flight)
{
	finish(flight);
}

void
tr_http_flight_to_curl(struct tr_http_flight *flight)
{
	int err;

	if (tr_scripted_on()) {
		tr_http1_fail(flight, TR_EIO, "Couldn't resolve host name: Could not resolve host: %s",
			flight->own.place->name);
		return;
	}
	flight->on_curl = true;
	err = tr_http_curl_launch(flight, flight->own.url.data, timeout_of(flight));
	if (err != TR_OK) {
		flight->call->err = err;
		tr_buf_addz(&flight->call->error, tr_err_text(err));
		finish(flight);
	}
}

static void
deadline_cb(struct tr_timer *timer)
{
	struct tr_http_flight *flight = tr_container_of(timer, struct tr_http_flight, deadline);
	struct tr_http_call *call = flight->call;

	call->err = TR_ETIMEDOUT;
	call->status = 0;
	call->redirecting = flight->hops > 0;
	tr_buf_clear(&call->error);
	tr_buf_addf(&call->error, "operation timed out after %.3g s", (double)timeout_of(flight) / 1e9);
	stop(flight);
	finish(flight);
}

/* --- calls ------------------------------------------------------------------------------------------ */

int
tr_http_start(struct tr_http *http, struct tr_http_call *call)
{
	struct tr_http_client *client = call->client;
	struct tr_http_flight *flight = client->idle;
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
		flight = calloc(1, sizeof *flight);
		if (flight == NULL)
			return TR_ENOMEM;
	}
	flight->client = client;
	flight->call = call;
	flight->hops = 0;
	flight->drop_body = flight->drop_auth = false;
	flight->method = (int)call->method;
	err = launch(flight, call->url);
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
	flight->held = !tr_scripted_on();
	if (flight->held)
		tr_hold_take();
	tr_timer_start(tr_loop_wheel(http->loop), &flight->deadline, timeout_of(flight), deadline_cb);
	return TR_OK;
}

void
tr_http_cancel(struct tr_http_call *call)
{
	struct tr_http_flight *flight = call->flight;

	if (flight == NULL)
		return;
	stop(flight);
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
	client->settings.guard.allow = NULL;
	if (settings->guard.allow_count > 0) {
		size_t bytes = settings->guard.allow_count * sizeof *client->allow;

		client->allow = malloc(bytes);
		if (client->allow == NULL) {
			free(client->user_agent);
			free(client);
			return TR_ENOMEM;
		}
		memcpy(client->allow, settings->guard.allow, bytes);
		client->settings.guard.allow = client->allow;
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
	free(client->allow);
	free(client);
}

int
tr_http_new(struct tr_loop *loop, struct tr_http **out)
{
	static const char *const proxy_names[] = {"http_proxy", "all_proxy", "ALL_PROXY", "https_proxy", "HTTPS_PROXY"};
	enum { FOR_HTTP = 3 }; /* of them, the first */
	struct tr_http *http = calloc(1, sizeof *http);
	const char *proxy = getenv("HTTP_PROXY");
	const char *only = getenv("TAILRACE_HTTP");
	bool direct = only == NULL || strcmp(only, "curl") != 0;
	int err;

	*out = NULL;
	if (http == NULL)
		return TR_ENOMEM;
	http->loop = loop;
	if (proxy != NULL && *proxy != '\0' && getenv("http_proxy") == NULL && getenv("REQUEST_METHOD") == NULL)
		http->env_proxy = proxy;
	direct = direct && http->env_proxy == NULL;
	http->no_proxy = http->env_proxy == NULL;
	for (size_t i = 0; i < TR_COUNT(proxy_names); i++) {
		if (getenv(proxy_names[i]) == NULL)
			continue;
		http->no_proxy = false;
		direct = direct && i >= FOR_HTTP;
	}
	err = tr_http_curl_new(http);
	if (err == TR_OK && direct)
		err = tr_http1_new(loop, &http->http1);
	if (err != TR_OK) {
		tr_http_multi_free(http->multi);
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
	tr_http1_free(http->http1);
	tr_http_multi_free(http->multi);
	free(http);
}

uint32_t
tr_http_in_flight(const struct tr_http *http)
{
	return http->in_flight;
}
