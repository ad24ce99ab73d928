/* HTTP/1.1 requests on the worker's loop. Plain http is carried by http1.c, on sockets of our own; https, proxies and
 * what is unusual by libcurl (http_curl.c), one curl multi a worker. Each has one bounded cache of connections a
 * worker. Who carries a request is decided for each hop; both give the same answers, codes and texts, and the tests run
 * on both: TAILRACE_HTTP=curl in the environment leaves all to libcurl. No Lua. Own thread only. See
 * docs/http-client.md.
 *
 * Waiting: the deadline of a request is a timer in the worker's wheel; curl's own time-outs are off (connecting: a
 * backstop). A request takes a hold until it is done, because it works on real descriptors.
 *
 * Sending twice: when a reused connection turns out dead, the request is sent again on a fresh one only while nothing
 * of it was sent, or for GET; otherwise it fails with TR_ECLOSED and the caller decides. (curl 7.88 by itself would
 * also repeat what went out.) */
#ifndef TR_HTTP_H
#define TR_HTTP_H

#include "base/buf.h"
#include "base/loop.h"
#include "net/guard.h"

struct tr_http;        /* one a worker */
struct tr_http_client; /* settings and idle flights; counted */

int tr_http_new(struct tr_loop *loop, struct tr_http **out); /* TR_OK, TR_ENOMEM */
/* Cancels what is under way without calling done(). No client may be used after it, but each may still be unreferenced.
 */
void tr_http_free(struct tr_http *http);
uint32_t tr_http_in_flight(const struct tr_http *http);

struct tr_http_settings {
	const char *user_agent;    /* NULL: none sent; copied */
	int64_t timeout_ns;        /* of a call that sets none; > 0 */
	int64_t idle_ns;           /* a connection idle for longer is not used again */
	size_t max_response_bytes; /* body; > 0 */
	bool verbose;              /* bytes on the wire to the log, level trace, target "http" */
	bool accept_invalid_certs;
	bool redirects;         /* follow at most 10 */
	bool truncate_response; /* of a longer body the first max_response_bytes are kept, and it is no error */
	/* Of each address that is connected to, or to which a connection is open already: one that is not allowed is
	 * left out; where none is left the call fails with TR_EACCES. No proxy is used then: it would look names up by
	 * itself. `allow` is copied. */
	struct tr_guard guard;
};
/* TR_OK or TR_ENOMEM; the caller holds one reference. */
int tr_http_client_new(struct tr_http *http, const struct tr_http_settings *settings, struct tr_http_client **out);
struct tr_http_client *tr_http_client_ref(struct tr_http_client *client);
void tr_http_client_unref(struct tr_http_client *client); /* NULL is fine */

enum tr_http_method { TR_HTTP_GET, TR_HTTP_POST, TR_HTTP_PUT };

struct tr_http_flight; /* what is under way for a call */

/* One request and its answer. Embed or allocate zeroed; the caller owns it, must keep it until done() or
 * tr_http_cancel(), and ends it with tr_http_call_fini(). */
struct tr_http_call {
	/* the request; borrowed until done() */
	struct tr_http_client *client;
	enum tr_http_method method;
	const char *url;
	const struct tr_str *headers; /* name, value, name, value ...; checked by tr_http_header_ok */
	uint32_t header_count;        /* pairs */
	uint64_t headers_id;          /* not 0: the headers are those of every call with this id */
	struct tr_str body;           /* sent from where it lies */
	int64_t timeout_ns;           /* connecting to last byte of the answer; 0: the client's */
	void (*done)(struct tr_http_call *call);
	void *owner;
	/* the answer */
	int err;                       /* TR_OK: status and the bytes below are complete */
	int status;                    /* 100 to 999 */
	bool redirecting;              /* err came from following redirects */
	bool building;                 /* err came from the request itself: bad URL */
	struct tr_buf head;            /* header lines of the last answer, without the status line and the blank line */
	struct tr_buf content;         /* body */
	struct tr_buf error;           /* causes, "outer: inner"; empty when err is TR_OK */
	struct tr_http_flight *flight; /* ours; NULL: not under way */
};
/* TR_OK: done() will be called once, from the loop, never from here. TR_ENOMEM, TR_ECLOSED (tr_http_free ran): it will
 * not. */
int tr_http_start(struct tr_http *http, struct tr_http_call *call);
/* Ends it without done(); its connection is closed. Nothing happens if it is not under way. */
void tr_http_cancel(struct tr_http_call *call);
void tr_http_call_fini(struct tr_http_call *call); /* frees the answer */

/* Does the URL name an address itself, in any form that libcurl reads, and one that the client's guard does not allow?
 * Then that address in `text`. */
bool tr_http_url_denied(const struct tr_http_client *client, const char *url, char text[64]);

/* A URL in texts, logs and records is shown without its user and password: the bytes before them in *front, and what
 * comes behind (their end is left out, too) is returned. */
const char *tr_http_url_shown(const char *url, int *front);

/* A token and a value without line ends and NUL (RFC 9110 section 5). */
bool tr_http_header_ok(struct tr_str name, struct tr_str value);
/* First header of that name (any case) in `head`; .data NULL: none. */
struct tr_str tr_http_header(struct tr_str head, const char *name);
/* Next line of `head` from *at (start with 0), split and trimmed; false at the end. Lines without a colon are left out.
 */
bool tr_http_header_next(struct tr_str head, size_t *at, struct tr_str *name, struct tr_str *value);
/* The registered phrase ("Service Unavailable"); NULL for other codes. Static. */
const char *tr_http_reason(int status);

#endif
