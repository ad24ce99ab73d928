/* The HTTP/1.1 client for plain http: sockets on the worker's loop, a pool of connections a worker. Inside of
 * runtime/transport: http.c asks tr_http1_launch() first and gives to libcurl what that does not take. No Lua, one
 * thread.
 *
 * A connection has one watcher, which stays on for reading while it lives: a request costs one sendmsg() and one
 * recv(), and no epoll_ctl(); a peer that closes an idle connection is noticed at once. */
#ifndef TR_HTTP1_H
#define TR_HTTP1_H

#include <ev.h>

#include "base/loop.h"
#include "net/dns.h"
#include "transport/http1_parse.h"

struct tr_http_flight;
struct tr_http1;
struct tr_http1_conn;
struct tr_http1_place;
struct tr_http1_dial;

/* What a flight keeps for its next request: one that is alike needs only a new length. */
struct tr_http1_request {
	struct tr_buf url;            /* NUL-terminated; empty: none yet */
	size_t target_at;             /* in it; at its end: "/" is meant */
	struct tr_http1_place *place; /* counted; of url */
	struct tr_buf head;           /* up to the value of Content-Length: fixed_len; then what changes */
	size_t fixed_len;             /* 0: to be built */
	uint64_t headers_id;          /* of the call whose headers are in it; 0: none with an id */
	int method;                   /* in it */
	struct tr_str body;           /* of the call; empty for GET */
	struct tr_http1_conn *conn;   /* that carries it; NULL: none */
	struct tr_http1_dial *dial;   /* while there is none yet */
	struct tr_defer failed;       /* the call has its error; to be finished from the loop */
};

int tr_http1_new(struct tr_loop *loop, struct tr_http1 **out); /* TR_OK, TR_ENOMEM */
void tr_http1_free(struct tr_http1 *http1);                    /* NULL is fine; no flight may be under way */

/* Begins the flight's request with flight->method and flight->call. TR_OK: tr_http_flight_answered(),
 * tr_http_flight_failed() or tr_http_flight_to_curl() will be called from the loop; TR_EAGAIN: it is one for libcurl;
 * TR_ENOMEM. */
int tr_http1_launch(struct tr_http1 *http1, struct tr_http_flight *flight, const char *url);
void tr_http1_stop(struct tr_http1 *http1, struct tr_http_flight *flight); /* closes what it uses */
void tr_http1_request_free(struct tr_http1_request *request);              /* of a flight that is not under way */

/* --- between http1.c, http1_dial.c and http1_request.c -------------------------------------------------- */

struct tr_http1 {
	struct tr_loop *loop;
	struct tr_dns *dns; /* NULL: no name was looked up yet */
	struct tr_http1_place *places;
	struct tr_http1_conn *oldest, *newest; /* idle connections by when they became so */
	uint32_t idle_count;
	struct tr_timer sweep; /* closes idle connections; runs while there are some */
	char *scratch;         /* for one recv() */
};

/* A host and port: what its connections share. Freed with its last reference: of a flight, or of a connection. */
struct tr_http1_place {
	struct tr_http1_place *next, **prev;
	uint32_t refs;
	uint32_t conns;             /* open ones, those that connect not counted */
	struct tr_http1_conn *idle; /* the last used first */
	struct tr_sockaddr addr;    /* if literal, or of a connection while there are some */
	bool literal;
	bool curt; /* has ended connections right after an answer, without saying so in it */
	uint16_t port;
	char *name;  /* to be looked up, in errors; no brackets */
	char host[]; /* the Host header */
};

struct tr_http1_conn {
	ev_io io;
	struct tr_http1 *http1;
	struct tr_http1_place *place;       /* counted */
	struct tr_http_flight *flight;      /* NULL: idle */
	struct tr_http1_conn *next, **prev; /* idle at the place, or attempt of a dial */
	struct tr_http1_conn *older, *newer;
	struct tr_sockaddr addr;
	int64_t idle_since_ns, idle_ns; /* monotonic; how long it may be so */
	size_t sent;                    /* bytes of the request that the kernel has taken */
	int send_errnum;                /* 0, or why the kernel takes no more */
	bool connected;
	bool reused;      /* not its first request */
	bool heard;       /* a byte of the answer has come */
	struct tr_buf in; /* the beginning of a line */
	struct tr_http1_parser parser;
};

/* --- http1_request.c: no I/O --- */
/* Makes url, place and head ready. TR_OK, TR_EAGAIN (for libcurl), TR_ENOMEM. */
int tr_http1_prepare(struct tr_http1 *http1, struct tr_http_flight *flight, const char *url);
void tr_http1_place_unref(struct tr_http1_place *place); /* NULL is fine */
/* Where a redirecting answer points to, if its redirects are followed: the caller frees it. NULL: nowhere. TR_OK,
 * TR_ENOMEM. */
int tr_http1_location(const struct tr_http_flight *flight, char **out);
/* --- http1_dial.c --- */
/* Looks up and connects; ends with tr_http1_connected(), or fails the flight, or hands it to libcurl. TR_ENOMEM. */
int tr_http1_dial(struct tr_http1 *http1, struct tr_http_flight *flight);
void tr_http1_dial_stop(struct tr_http_flight *flight); /* nothing under way is fine */
void tr_http1_dial_ready(struct tr_http1_conn *conn);   /* its watcher: it is connected, or has failed */
/* --- http1.c --- */
void tr_http1_connected(struct tr_http1_conn *conn); /* takes it; the dial is over */
void tr_http1_conn_free(struct tr_http1_conn *conn); /* closes it; it is in no list */
void tr_http1_conn_watch(struct tr_http1_conn *conn, int events);
/* Ends the flight with an error, later in this turn. */
void tr_http1_fail(struct tr_http_flight *flight, int err, const char *fmt, ...) TR_PRINTF(3, 4);

#endif
