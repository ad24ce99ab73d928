/* Which requests are ours, and their bytes. */
#include <stdlib.h>

#include "net/scripted.h"
#include "transport/http1.h"
#include "transport/http_internal.h"

#define HTTP_PORT 80
#define HTTPS_PORT 443
#define DIGITS "0123456789"
#define LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

struct parts {
	struct tr_str authority; /* host with brackets, and port */
	struct tr_str host;      /* with brackets */
	uint16_t port, default_port;
	const char *target; /* "" or from the slash on */
};

/* Letters, digits, and what is no part of the URL's own syntax; libcurl's way with the rest (escapes, dot segments, odd
 * forms of IPv4, users, fragments, international names) is libcurl's. */
static bool
split_url(const char *url, struct parts *parts)
{
	/* with a script nothing leaves the process: it shows what would go inside of TLS */
	bool https = strncmp(url, "https://", 8) == 0 && tr_scripted_on();
	const char *at = url + (https ? 8 : 7), *c;
	unsigned long port = https ? HTTPS_PORT : HTTP_PORT;
	size_t len;

	if (!https && strncmp(url, "http://", 7) != 0)
		return false;
	parts->default_port = (uint16_t)port;
	if (*at == '[') {
		len = 1 + strspn(at + 1, DIGITS "abcdefABCDEF:.");
		if (at[len] != ']')
			return false;
		len++;
	} else {
		len = strspn(at, LETTERS DIGITS "-._");
		if (len == 0 || at[len - 1] == '.' || len > 253)
			return false;
	}
	parts->host = (struct tr_str){at, len};
	if (at[len] == ':') {
		size_t digits = strspn(at + len + 1, DIGITS);

		port = digits > 0 && digits <= 5 ? strtoul(at + len + 1, NULL, 10) : 0;
		if (port == 0 || port > UINT16_MAX)
			return false;
		len += 1 + digits;
	}
	parts->authority = (struct tr_str){at, len};
	parts->port = (uint16_t)port;
	parts->target = at + len;
	if (at[len] != '\0' && at[len] != '/')
		return false;
	for (c = parts->target; *c != '\0'; c++) {
		if (*c <= ' ' || *c >= 0x7f || *c == '#' || (*c == '/' && c[1] == '.'))
			return false;
	}
	return true;
}

static bool
is_literal(const struct parts *parts, struct tr_sockaddr *addr)
{
	return tr_sockaddr_parse(parts->authority, parts->default_port, addr) == TR_OK;
}

/* A name whose last label begins with a digit may be a number to libcurl: 127.1, 0x7f000001. */
static bool
like_number(struct tr_str host)
{
	const char *dot = memrchr(host.data, '.', host.len);
	char first = dot != NULL ? dot[1] : host.data[0];

	return (first >= '0' && first <= '9') || host.data[0] == '[';
}

static struct tr_http1_place *
place_get(struct tr_http1 *http1, const struct parts *parts)
{
	bool port_named = parts->port != parts->default_port, brackets = parts->host.data[0] == '[';
	struct tr_http1_place *place;
	struct tr_buf host = {0};

	tr_buf_add_str(&host, parts->host);
	if (port_named)
		tr_buf_addf(&host, ":%u", parts->port);
	tr_buf_addc(&host, '\0');
	for (place = http1->places; place != NULL && !host.failed; place = place->next) {
		if (place->port == parts->port && strcmp(place->host, host.data) == 0) {
			place->refs++;
			tr_buf_free(&host);
			return place;
		}
	}
	place = host.failed ? NULL : calloc(1, sizeof *place + host.len);
	if (place != NULL) {
		place->name = brackets ? strndup(parts->host.data + 1, parts->host.len - 2)
				       : strndup(parts->host.data, parts->host.len);
		place->refs = 1;
		place->port = parts->port;
		place->literal = is_literal(parts, &place->addr);
		memcpy(place->host, host.data, host.len);
	}
	tr_buf_free(&host);
	if (place == NULL || place->name == NULL) {
		free(place);
		return NULL;
	}
	place->next = http1->places;
	place->prev = &http1->places;
	if (place->next != NULL)
		place->next->prev = &place->next;
	http1->places = place;
	return place;
}

void
tr_http1_place_unref(struct tr_http1_place *place)
{
	if (place == NULL || --place->refs > 0)
		return;
	*place->prev = place->next;
	if (place->next != NULL)
		place->next->prev = place->prev;
	free(place->name);
	free(place);
}

static int
set_url(struct tr_http1 *http1, struct tr_http1_request *request, const char *url)
{
	struct tr_http1_place *place;
	struct tr_sockaddr addr;
	struct parts parts;

	if (request->url.len > 0 && strcmp(request->url.data, url) == 0)
		return TR_OK;
	request->fixed_len = 0;
	tr_buf_clear(&request->url);
	if (!split_url(url, &parts) || (like_number(parts.host) && !is_literal(&parts, &addr)))
		return TR_EAGAIN;
	place = place_get(http1, &parts);
	if (place == NULL)
		return TR_ENOMEM;
	tr_http1_place_unref(request->place);
	request->place = place;
	tr_buf_add(&request->url, url, strlen(url) + 1);
	if (request->url.failed) {
		tr_buf_free(&request->url);
		return TR_ENOMEM;
	}
	request->target_at = (size_t)(parts.target - url);
	return TR_OK;
}

/* --- the head ------------------------------------------------------------------------------------------- */

/* What decides how the request or the connection is framed, or for which libcurl has rules of its own. */
static bool
is_for_curl(struct tr_str name)
{
	static const struct tr_str names[] = {{"host", 4}, {"content-length", 14}, {"transfer-encoding", 17},
		{"connection", 10}, {"expect", 6}, {"te", 2}, {"trailer", 7}, {"upgrade", 7}, {"keep-alive", 10},
		{"proxy-connection", 16}, {"proxy-authorization", 19}};

	for (size_t i = 0; i < TR_COUNT(names); i++) {
		if (tr_str_ieq(name, names[i]))
			return true;
	}
	return false;
}

static int
build_head(struct tr_http_flight *flight)
{
	static const char *const methods[] = {[TR_HTTP_GET] = "GET ", [TR_HTTP_POST] = "POST ", [TR_HTTP_PUT] = "PUT "};
	const struct tr_http_call *call = flight->call;
	const char *user_agent = flight->client->user_agent, *target = flight->own.url.data + flight->own.target_at;
	struct tr_buf *head = &flight->own.head;
	bool has_accept = false;

	for (uint32_t i = 0; i < call->header_count; i++) {
		struct tr_str name = call->headers[2 * i];

		if (tr_http_header_dropped(flight, name))
			continue;
		if (is_for_curl(name))
			return TR_EAGAIN;
		if (tr_str_ieq(name, TR_STR("accept")))
			has_accept = true;
		if (tr_str_ieq(name, TR_STR("user-agent")))
			user_agent = NULL;
	}
	tr_buf_clear(head);
	tr_buf_addz(head, methods[flight->method]);
	tr_buf_addz(head, *target != '\0' ? target : "/");
	tr_buf_addz(head, " HTTP/1.1\r\nHost: ");
	tr_buf_addz(head, flight->own.place->host);
	if (user_agent != NULL) {
		tr_buf_addz(head, "\r\nUser-Agent: ");
		tr_buf_addz(head, user_agent);
	}
	tr_buf_addz(head, has_accept ? "\r\n" : "\r\nAccept: */*\r\n");
	for (uint32_t i = 0; i < call->header_count; i++) {
		struct tr_str name = call->headers[2 * i], value = call->headers[2 * i + 1];

		if (tr_http_header_dropped(flight, name))
			continue;
		tr_buf_add_str(head, name);
		tr_buf_addz(head, value.len > 0 ? ": " : ":");
		tr_buf_add_str(head, value);
		tr_buf_addz(head, "\r\n");
	}
	tr_buf_addz(head, flight->method == TR_HTTP_GET ? "\r\n" : "Content-Length: ");
	return head->failed ? TR_ENOMEM : TR_OK;
}

int
tr_http1_prepare(struct tr_http1 *http1, struct tr_http_flight *flight, const char *url)
{
	struct tr_http1_request *request = &flight->own;
	const struct tr_http_call *call = flight->call;
	bool changed = flight->drop_auth || flight->drop_body;
	int err = set_url(http1, request, url);

	if (err != TR_OK)
		return err;
	if (request->fixed_len == 0 || request->method != flight->method || call->headers_id == 0 ||
		call->headers_id != request->headers_id || changed) {
		request->fixed_len = 0;
		err = build_head(flight);
		if (err != TR_OK) {
			tr_buf_free(&request->head);
			return err;
		}
		request->fixed_len = request->head.len;
		request->method = flight->method;
		request->headers_id = changed ? 0 : call->headers_id;
	}
	request->head.len = request->fixed_len;
	request->body = flight->method != TR_HTTP_GET ? call->body : (struct tr_str){NULL, 0};
	if (flight->method != TR_HTTP_GET) {
		tr_buf_add_u64(&request->head, request->body.len);
		tr_buf_add(&request->head, "\r\n\r\n", 4);
	}
	if (request->head.failed) {
		tr_buf_free(&request->head);
		request->fixed_len = 0;
		return TR_ENOMEM;
	}
	return TR_OK;
}

/* --- where an answer points to -------------------------------------------------------------------------- */

/* `text` as seen from `base`; *out NULL: it makes no sense. The caller frees it with curl_free(). */
static int
resolve(const char *base, const char *text, char **out)
{
	CURLU *url = curl_url();
	CURLUcode code = url != NULL ? curl_url_set(url, CURLUPART_URL, base, 0) : CURLUE_OUT_OF_MEMORY;

	if (code == CURLUE_OK)
		code = curl_url_set(url, CURLUPART_URL, text, CURLU_NON_SUPPORT_SCHEME);
	if (code == CURLUE_OK)
		code = curl_url_get(url, CURLUPART_URL, out, 0);
	curl_url_cleanup(url);
	if (code != CURLUE_OK)
		*out = NULL;
	return code == CURLUE_OUT_OF_MEMORY ? TR_ENOMEM : TR_OK;
}

int
tr_http1_location(const struct tr_http_flight *flight, char **out)
{
	const struct tr_http_call *call = flight->call;
	struct tr_str location;
	char *text, *resolved = NULL;
	int err;

	*out = NULL;
	if (!tr_http_flight_redirects(flight))
		return TR_OK;
	location = tr_http_header((struct tr_str){call->head.data, call->head.len}, "location");
	if (location.len == 0)
		return TR_OK;
	text = strndup(location.data, location.len);
	err = text != NULL ? resolve(flight->own.url.data, text, &resolved) : TR_ENOMEM;
	if (resolved != NULL) {
		free(text);
		text = strdup(resolved);
		curl_free(resolved);
	}
	if (text == NULL || err != TR_OK) {
		free(text);
		return TR_ENOMEM;
	}
	*out = text; /* as it is where it makes no sense: libcurl will say so */
	return TR_OK;
}

void
tr_http1_request_free(struct tr_http1_request *request)
{
	tr_http1_place_unref(request->place);
	request->place = NULL;
	tr_buf_free(&request->url);
	tr_buf_free(&request->head);
}
