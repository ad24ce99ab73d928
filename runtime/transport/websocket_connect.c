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

/* A part that a URL need not have: *out is NULL then. TR_OK, TR_ENOMEM. */
static int
part_of(CURLU *url, CURLUPart part, char **out)
{
	CURLUcode code = curl_url_get(url, part, out, 0);

	if (code != CURLUE_OK)
		*out = NULL;
	return code == CURLUE_OUT_OF_MEMORY ? TR_ENOMEM : TR_OK;
}

struct parts {
	char *scheme, *host, *port, *path, *query, *user, *fragment; /* curl's; NULL: it has none */
};

static int
read_parts(CURLU *url, struct parts *out)
{
	const struct {
		CURLUPart part;
		char **out;
	} wanted[] = {{CURLUPART_SCHEME, &out->scheme}, {CURLUPART_HOST, &out->host}, {CURLUPART_PORT, &out->port},
		{CURLUPART_PATH, &out->path}, {CURLUPART_QUERY, &out->query}, {CURLUPART_USER, &out->user},
		{CURLUPART_FRAGMENT, &out->fragment}};
	int err = TR_OK;

	for (size_t i = 0; i < TR_COUNT(wanted) && err == TR_OK; i++)
		err = part_of(url, wanted[i].part, wanted[i].out);
	return err;
}

static const char *
mistake_in(const struct parts *parts)
{
	if (parts->scheme == NULL || (strcmp(parts->scheme, "ws") != 0 && strcmp(parts->scheme, "wss") != 0))
		return "a URL that begins with ws:// or wss:// is expected";
	if (parts->host == NULL || *parts->host == '\0')
		return "the URL names no host";
	if (parts->user != NULL)
		return "a user name in the URL is not supported";
	if (parts->fragment != NULL)
		return "the URL of a websocket has no fragment";
	return NULL;
}

/* Host (with a port that is not the scheme's) and target of the request, and the URL that curl connects to. TR_OK,
 * TR_ENOMEM, TR_EINVAL with *why. */
static int
split_url(struct tr_ws_link *link, CURLU *url, const char *text, const char **why)
{
	CURLUcode code = curl_url_set(url, CURLUPART_URL, text, CURLU_NON_SUPPORT_SCHEME | CURLU_URLENCODE);
	struct parts parts = {0};
	int err = code == CURLUE_OUT_OF_MEMORY ? TR_ENOMEM : code != CURLUE_OK ? TR_EINVAL : TR_OK;

	*why = err == TR_EINVAL ? curl_url_strerror(code) : tr_err_text(TR_ENOMEM);
	if (err == TR_OK)
		err = read_parts(url, &parts);
	if (err == TR_OK && mistake_in(&parts) != NULL) {
		*why = mistake_in(&parts);
		err = TR_EINVAL;
	}
	if (err == TR_OK) {
		bool tls = strcmp(parts.scheme, "wss") == 0;

		tr_buf_addz(&link->host, parts.host);
		if (parts.port != NULL && strcmp(parts.port, tls ? "443" : "80") != 0)
			tr_buf_addf(&link->host, ":%s", parts.port);
		tr_buf_addc(&link->host, '\0');
		tr_buf_addz(&link->target, parts.path != NULL ? parts.path : "/");
		if (parts.query != NULL)
			tr_buf_addf(&link->target, "?%s", parts.query);
		tr_buf_addc(&link->target, '\0');
		if (link->host.failed || link->target.failed ||
			curl_url_set(url, CURLUPART_SCHEME, tls ? "https" : "http", 0) != CURLUE_OK)
			err = TR_ENOMEM;
	}
	curl_free(parts.scheme);
	curl_free(parts.host);
	curl_free(parts.port);
	curl_free(parts.path);
	curl_free(parts.query);
	curl_free(parts.user);
	curl_free(parts.fragment);
	return err;
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

static int
set_up(struct tr_ws_link *link, const char *url)
{
	CURL *easy = link->easy;

	if (tr_http_multi_prepare(link->links->multi, easy) != TR_OK ||
		!tr_http_multi_set_text(easy, CURLOPT_URL, url) || !tr_http_multi_set_text(easy, CURLOPT_NOPROXY, "*"))
		return TR_ENOMEM;
	curl_easy_setopt(easy, CURLOPT_PRIVATE, link);
	curl_easy_setopt(easy, CURLOPT_CONNECT_ONLY, 1L);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L); /* cancelling must not wait for the resolver's thread */
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, link->curl_error);
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L);       /* each link has its own */
	curl_easy_setopt(easy, CURLOPT_SSL_SESSIONID_CACHE, 0L); /* nobody comes back to it */
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
		(long)tr_min_i64(link->settings.timeout_ns / TR_NS_PER_MS + 1000, INT32_MAX)); /* a backstop */
	return TR_OK;
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
	err = split_url(link, parsed, url, why);
	if (err != TR_OK)
		goto fail;
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
	err = set_up(link, plain);
	curl_free(plain);
	if (err == TR_OK)
		err = tr_http_multi_add(links->multi, link->easy);
	if (err != TR_OK) {
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
