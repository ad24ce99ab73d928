/* Opening a websocket: the URL, and libcurl's part of the work. */
#include <stdlib.h>

#include "base/clock.h"
#include "transport/websocket_internal.h"

#define MAX_CONNECTIONS 1024 /* libcurl forgets none of them before that; each is of one link */

static int
err_of(CURLcode code, int errnum)
{
	switch (code) {
	case CURLE_OUT_OF_MEMORY:
		return TR_ENOMEM;
	case CURLE_COULDNT_RESOLVE_HOST:
		return TR_ENOENT;
	case CURLE_COULDNT_CONNECT:
		return errnum != 0 ? tr_err_from_errno(errnum) : TR_EREFUSED;
	case CURLE_OPERATION_TIMEDOUT:
		return TR_ETIMEDOUT;
	default:
		return TR_EPROTO;
	}
}

static void
not_connected(struct tr_ws_link *link, CURLcode code)
{
	bool detailed = link->curl_error[0] != '\0' && strcmp(link->curl_error, curl_easy_strerror(code)) != 0;
	long errnum = 0;

	curl_easy_getinfo(link->easy, CURLINFO_OS_ERRNO, &errnum);
	if (code != CURLE_COULDNT_CONNECT)
		errnum = 0;
	tr_wsi_end(link, err_of(code, (int)errnum), "%s%s%s%s%s", curl_easy_strerror(code), detailed ? ": " : "",
		detailed ? link->curl_error : "", errnum != 0 ? ": " : "", errnum != 0 ? strerror((int)errnum) : "");
}

static void
connected(void *arg, CURL *easy, CURLcode code)
{
	struct tr_ws_link *link = NULL;
	struct tr_buf request = {0};
	curl_socket_t fd = CURL_SOCKET_BAD;
	int err;

	curl_easy_getinfo(easy, CURLINFO_PRIVATE, &link);
	if (code != CURLE_OK) {
		not_connected(link, code);
		return;
	}
	curl_easy_getinfo(easy, CURLINFO_ACTIVESOCKET, &fd);
	if (fd == CURL_SOCKET_BAD) {
		tr_wsi_end(link, TR_EIO, "libcurl gave no connection");
		return;
	}
	tr_ws_request(&request, tr_str(link->host.data), tr_str(link->target.data), link->key);
	err = tr_wsi_start(link, fd, &request);
	tr_buf_free(&request);
	if (err != TR_OK)
		tr_wsi_end(link, err, "%s", tr_err_text(err));
}

/* Host (with a port that is not the scheme's) and target of the request, and the URL that curl connects to. */
static const char *
split_url(struct tr_ws_link *link, CURLU *url, const char *text)
{
	char *scheme = NULL, *host = NULL, *port = NULL, *path = NULL, *query = NULL, *user = NULL, *fragment = NULL;
	const char *why = NULL;
	CURLUcode code = curl_url_set(url, CURLUPART_URL, text, CURLU_NON_SUPPORT_SCHEME | CURLU_URLENCODE);

	if (code != CURLUE_OK)
		return curl_url_strerror(code);
	curl_url_get(url, CURLUPART_SCHEME, &scheme, 0);
	curl_url_get(url, CURLUPART_HOST, &host, 0);
	curl_url_get(url, CURLUPART_PORT, &port, 0);
	curl_url_get(url, CURLUPART_PATH, &path, 0);
	curl_url_get(url, CURLUPART_QUERY, &query, 0);
	if (scheme == NULL || (strcmp(scheme, "ws") != 0 && strcmp(scheme, "wss") != 0)) {
		why = "a URL that begins with ws:// or wss:// is expected";
	} else if (host == NULL || *host == '\0') {
		why = "the URL names no host";
	} else if (curl_url_get(url, CURLUPART_USER, &user, 0) == CURLUE_OK) {
		why = "a user name in the URL is not supported";
	} else if (curl_url_get(url, CURLUPART_FRAGMENT, &fragment, 0) == CURLUE_OK) {
		why = "the URL of a websocket has no fragment";
	} else {
		bool tls = strcmp(scheme, "wss") == 0;

		tr_buf_addz(&link->host, host);
		if (port != NULL && strcmp(port, tls ? "443" : "80") != 0)
			tr_buf_addf(&link->host, ":%s", port);
		tr_buf_addc(&link->host, '\0');
		tr_buf_addz(&link->target, path != NULL ? path : "/");
		if (query != NULL)
			tr_buf_addf(&link->target, "?%s", query);
		tr_buf_addc(&link->target, '\0');
		curl_url_set(url, CURLUPART_SCHEME, tls ? "https" : "http", 0);
		if (link->host.failed || link->target.failed)
			why = "out of memory";
	}
	curl_free(scheme);
	curl_free(host);
	curl_free(port);
	curl_free(path);
	curl_free(query);
	curl_free(user);
	curl_free(fragment);
	return why;
}

int
tr_ws_links_new(struct tr_loop *loop, struct tr_ws_links **out)
{
	struct tr_ws_links *links = calloc(1, sizeof *links);
	int err;

	*out = NULL;
	if (links == NULL)
		return TR_ENOMEM;
	links->loop = loop;
	err = tr_http_multi_new(loop, MAX_CONNECTIONS, connected, links, &links->multi);
	if (err != TR_OK) {
		free(links);
		return err;
	}
	*out = links;
	return TR_OK;
}

void
tr_ws_links_free(struct tr_ws_links *links)
{
	if (links == NULL)
		return;
	for (struct tr_ws_link *link = links->first; link != NULL; link = link->next) {
		tr_wsi_end(link, TR_ECANCELED, "the program is ending");
		tr_loop_undefer(links->loop, &link->again);
		link->links = NULL;
	}
	tr_http_multi_free(links->multi);
	free(links);
}

static void
set_up(struct tr_ws_link *link, const char *url)
{
	CURL *easy = link->easy;

	tr_http_multi_prepare(link->links->multi, easy);
	curl_easy_setopt(easy, CURLOPT_PRIVATE, link);
	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_CONNECT_ONLY, 1L);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L); /* cancelling must not wait for the resolver's thread */
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, link->curl_error);
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L); /* each link has its own */
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
		(long)tr_min_i64(link->settings.timeout_ns / TR_NS_PER_MS + 1000, INT32_MAX)); /* a backstop */
}

int
tr_ws_link_open(struct tr_ws_links *links, const char *url, const struct tr_ws_settings *settings,
	void (*changed)(struct tr_ws_link *link, void *arg), void *arg, struct tr_ws_link **out, const char **why)
{
	struct tr_ws_link *link = calloc(1, sizeof *link);
	CURLU *parsed = curl_url();
	char *plain = NULL;
	int err = TR_ENOMEM;

	*out = NULL;
	*why = tr_err_text(TR_ENOMEM);
	if (link == NULL || parsed == NULL)
		goto fail;
	*why = split_url(link, parsed, url);
	if (*why != NULL) {
		err = TR_EINVAL;
		goto fail;
	}
	err = tr_ws_key(link->key);
	*why = "no random bytes";
	if (err != TR_OK)
		goto fail;
	link->settings = *settings;
	link->changed = changed;
	link->arg = arg;
	link->ws.max_message_bytes = settings->max_message_bytes;
	link->end = &link->first;
	link->out_end = &link->out;
	link->links = links;
	err = TR_ENOMEM;
	*why = tr_err_text(err);
	link->easy = curl_easy_init();
	if (link->easy == NULL || curl_url_get(parsed, CURLUPART_URL, &plain, 0) != CURLUE_OK) {
		curl_easy_cleanup(link->easy);
		goto fail;
	}
	set_up(link, plain);
	curl_free(plain);
	if (tr_http_multi_add(links->multi, link->easy) != TR_OK) {
		curl_easy_cleanup(link->easy);
		goto fail;
	}
	curl_url_cleanup(parsed);
	link->next = links->first;
	link->prev = &links->first;
	if (link->next != NULL)
		link->next->prev = &link->next;
	links->first = link;
	tr_timer_start(tr_loop_wheel(links->loop), &link->timer, settings->timeout_ns, tr_wsi_late);
	tr_wsi_update_hold(link);
	*out = link;
	return TR_OK;

fail:
	curl_url_cleanup(parsed);
	if (link != NULL) {
		tr_buf_free(&link->host);
		tr_buf_free(&link->target);
		free(link);
	}
	return err;
}
