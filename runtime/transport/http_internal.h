/* Shared by http.c (calls), http1*.c and http_curl.c (the two ways to carry them), http_answer.c. */
#ifndef TR_HTTP_INTERNAL_H
#define TR_HTTP_INTERNAL_H

#include <curl/curl.h>

#include "transport/http.h"
#include "transport/http1.h"
#include "transport/http_multi.h"

struct tr_http {
	struct tr_loop *loop;
	struct tr_http1 *http1; /* NULL: libcurl carries all */
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
	struct tr_cidr *allow; /* what settings.guard points to */
	uint32_t refs;
	struct tr_http_flight *idle;
	uint32_t idle_count;
};

/* An easy handle with what it needs, kept between requests, so that only what changed is set again. */
struct tr_http_easy {
	CURL *easy;                 /* NULL: libcurl was not yet needed */
	struct tr_buf url;          /* as set in the handle, NUL-terminated */
	CURLU *parsed;              /* the same for CURLOPT_CURLU, so that curl parses it once; NULL: curl parses it */
	uint64_t headers_id;        /* of the call whose headers are set; 0: none of those with an id */
	struct tr_buf header_text;  /* "Name: value" NUL ... */
	struct curl_slist *headers; /* header_cap of them, linked */
	uint32_t header_cap;
	int method;      /* as set in the handle; -1: not yet */
	long connect_ms; /* as set in the handle */
	bool proxied;    /* CURLOPT_PROXY is set */
	int prereqs;     /* requests begun within this transfer */
	bool truncated;  /* more body came than is kept */
	const char *why; /* what our callbacks stopped it for; NULL: nothing */
	int why_err;
	bool denied, fresh; /* by the guard; this time with no connection that was open already */
	char denial[160];
	char error[CURL_ERROR_SIZE];
};

/* A call under way; kept by its client for the next one. */
struct tr_http_flight {
	struct tr_http_client *client; /* a reference while under way */
	struct tr_http_call *call;     /* NULL: idle */
	struct tr_http_flight *next, **prev;
	struct tr_timer deadline;
	int method; /* of the request under way */
	int hops;
	bool drop_body, drop_auth; /* by a redirect */
	bool on_curl;              /* who carries it */
	bool held;                 /* the virtual clock: not if the network is scripted */
	struct tr_http1_request own;
	struct tr_http_easy curl;
};

/* --- http.c; from the loop only --- */
/* The answer is complete in flight->call. `location`, which is taken: where it redirects to, if that is to be followed.
 * err TR_ENOMEM: nobody knows. Nothing is under way for it any more. */
void tr_http_flight_answered(struct tr_http_flight *flight, int err, char *location);
void tr_http_flight_failed(struct tr_http_flight *flight);  /* call->err and error are set */
void tr_http_flight_to_curl(struct tr_http_flight *flight); /* http1 cannot carry it; nothing was sent */
/* May redirects of this answer be followed, and is it one? */
bool tr_http_flight_redirects(const struct tr_http_flight *flight);
bool tr_http_header_dropped(const struct tr_http_flight *flight, struct tr_str name); /* by a redirect */
void tr_http_trace(const void *id, const char *mark, const char *data, size_t len);

/* --- http_curl.c --- */
int tr_http_curl_new(struct tr_http *http); /* sets http->multi; TR_OK, TR_ENOMEM */
/* TR_OK, TR_ENOMEM. */
int tr_http_curl_launch(struct tr_http_flight *flight, const char *url, int64_t timeout_ns);
void tr_http_curl_stop(struct tr_http_flight *flight);
void tr_http_curl_free(struct tr_http_easy *curl);

/* --- http_answer.c --- */
/* Why the guard refuses an address, for errors; in `text`. */
const char *tr_http_denial(const struct tr_sockaddr *addr, char text[160]);
/* Fills the call's err and error from curl's result, or from what our callbacks said. */
void tr_http_flight_fail(struct tr_http_flight *flight, CURLcode code);
/* Whether two URLs have the same host and port. TR_OK, TR_ENOMEM. */
int tr_http_same_place(const char *a, const char *b, bool *out);

#endif
