/* Shared by http.c and http_answer.c. */
#ifndef TR_HTTP_INTERNAL_H
#define TR_HTTP_INTERNAL_H

#include <curl/curl.h>

#include "transport/http.h"
#include "transport/http_multi.h"

struct tr_http {
	struct tr_loop *loop;
	struct tr_http_multi *multi;
	struct tr_http_client *clients;
	struct tr_http_flight *flights; /* under way */
	uint32_t in_flight;
	const char *env_proxy; /* HTTP_PROXY in capitals, which curl does not read; NULL: not set, or a CGI */
	bool no_proxy;         /* the environment names no proxy: curl need not look at it for each request */
};

struct tr_http_client {
	struct tr_http *http; /* NULL: freed */
	struct tr_http_client *next, **prev;
	struct tr_http_settings settings;
	char *user_agent;
	uint32_t refs;
	struct tr_http_flight *idle;
	uint32_t idle_count;
};

/* An easy handle with what it needs; kept by its client between requests, so that only what changed is set again. */
struct tr_http_flight {
	CURL *easy;
	struct tr_http_client *client; /* a reference while under way */
	struct tr_http_call *call;     /* NULL: idle */
	struct tr_http_flight *next, **prev;
	struct tr_timer deadline;
	struct tr_buf url;          /* as set in the handle, NUL-terminated */
	CURLU *parsed;              /* the same for CURLOPT_CURLU, so that curl parses it once; NULL: curl parses it */
	uint64_t headers_id;        /* of the call whose headers are set; 0: none of those with an id */
	struct tr_buf header_text;  /* "Name: value" NUL ... */
	struct curl_slist *headers; /* header_cap of them, linked */
	uint32_t header_cap;
	int method;      /* as set in the handle; -1: not yet */
	long connect_ms; /* as set in the handle */
	bool proxied;    /* CURLOPT_PROXY is set */
	int hops;
	int prereqs;               /* requests begun within this transfer */
	bool drop_body, drop_auth; /* by a redirect */
	bool truncated;            /* more body came than is kept */
	const char *why;           /* what our callbacks stopped it for; NULL: nothing */
	int why_err;
	char error[CURL_ERROR_SIZE];
};

/* Fills the call's err and error from curl's result, or from what our callbacks said. */
void tr_http_flight_fail(struct tr_http_flight *flight, CURLcode code);
/* Two URLs with the same host and port. */
bool tr_http_same_place(const char *a, const char *b);

#endif
