/* What an answer, or the lack of one, means. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "transport/http_internal.h"

static int
err_of(CURLcode code, long os_errno)
{
	switch (code) {
	case CURLE_OUT_OF_MEMORY:
		return TR_ENOMEM;
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_COULDNT_RESOLVE_PROXY:
		return TR_ENOENT;
	case CURLE_COULDNT_CONNECT:
		return os_errno != 0 ? tr_err_from_errno((int)os_errno) : TR_EREFUSED;
	case CURLE_OPERATION_TIMEDOUT:
		return TR_ETIMEDOUT;
	case CURLE_SEND_ERROR:
	case CURLE_RECV_ERROR:
	case CURLE_GOT_NOTHING:
	case CURLE_PARTIAL_FILE:
		return TR_ECLOSED;
	case CURLE_FILESIZE_EXCEEDED:
		return TR_ETOOBIG;
	case CURLE_URL_MALFORMAT:
	case CURLE_UNSUPPORTED_PROTOCOL:
		return TR_EINVAL;
	default:
		return TR_EPROTO;
	}
}

void
tr_http_flight_fail(struct tr_http_flight *flight, CURLcode code)
{
	struct tr_http_call *call = flight->call;
	long os_errno = 0;

	call->status = 0;
	call->redirecting = flight->hops > 0;
	if (flight->curl.why != NULL) {
		call->err = flight->curl.why_err;
		tr_buf_addz(&call->error, flight->curl.why);
		return;
	}
	curl_easy_getinfo(flight->curl.easy, CURLINFO_OS_ERRNO, &os_errno);
	if (flight->curl.denied &&
		(code == CURLE_ABORTED_BY_CALLBACK || (code == CURLE_COULDNT_CONNECT && os_errno == 0))) {
		call->err = TR_EACCES;
		tr_buf_addz(&call->error, flight->curl.denial);
		return;
	}
	call->err = err_of(code, os_errno);
	if (call->err == TR_EINVAL && flight->curl.prereqs > 0)
		call->err = TR_EPROTO; /* it was the answer that made no sense */
	call->building = call->err == TR_EINVAL && flight->hops == 0;
	tr_buf_addz(&call->error, curl_easy_strerror(code));
	if (flight->curl.error[0] != '\0' && strcmp(flight->curl.error, curl_easy_strerror(code)) != 0)
		tr_buf_addf(&call->error, ": %s", flight->curl.error);
	if (code == CURLE_COULDNT_CONNECT && os_errno != 0)
		tr_buf_addf(&call->error, ": %s", strerror((int)os_errno));
}

const char *
tr_http_denial(const struct tr_sockaddr *addr, char text[160])
{
	char ip[64];

	tr_sockaddr_text(addr, false, ip);
	snprintf(text, 160, "not allowed to connect to %s: it is no public address (deny_private_addresses)", ip);
	return text;
}

bool
tr_http_url_denied(const struct tr_http_client *client, const char *text_url, char text[64])
{
	CURLU *url = curl_url();
	char *host = NULL;
	struct tr_sockaddr addr;
	bool denied =
		url != NULL && curl_url_set(url, CURLUPART_URL, text_url, CURLU_NON_SUPPORT_SCHEME) == CURLUE_OK &&
		curl_url_get(url, CURLUPART_HOST, &host, 0) == CURLUE_OK && *host != '/' &&
		tr_sockaddr_parse(tr_str(host), 80, &addr) == TR_OK && !tr_guard_allows(&client->settings.guard, &addr);

	if (denied)
		tr_sockaddr_text(&addr, false, text);
	curl_free(host);
	curl_url_cleanup(url);
	return denied;
}

/* *out is NULL where it has none. */
static CURLUcode
part_of(CURLU *url, CURLUPart part, char **out)
{
	CURLUcode code = curl_url_get(url, part, out, CURLU_DEFAULT_PORT);

	if (code != CURLUE_OK)
		*out = NULL;
	return code;
}

int
tr_http_same_place(const char *a, const char *b, bool *out)
{
	static const CURLUPart parts[] = {CURLUPART_HOST, CURLUPART_PORT};
	CURLU *url[2] = {curl_url(), curl_url()};
	CURLUcode code = CURLUE_OUT_OF_MEMORY;
	bool same = true;

	if (url[0] != NULL && url[1] != NULL)
		code = curl_url_set(url[0], CURLUPART_URL, a, 0);
	if (code == CURLUE_OK)
		code = curl_url_set(url[1], CURLUPART_URL, b, 0);
	for (size_t i = 0; i < TR_COUNT(parts) && code == CURLUE_OK; i++) {
		char *text[2] = {NULL, NULL};

		code = part_of(url[0], parts[i], &text[0]);
		if (code == CURLUE_OK)
			code = part_of(url[1], parts[i], &text[1]);
		same = same && code == CURLUE_OK && strcasecmp(text[0], text[1]) == 0;
		curl_free(text[0]);
		curl_free(text[1]);
	}
	curl_url_cleanup(url[0]);
	curl_url_cleanup(url[1]);
	*out = same && code == CURLUE_OK;
	return code == CURLUE_OUT_OF_MEMORY ? TR_ENOMEM : TR_OK;
}
