/* An HTTP/1.1 listener: libmicrohttpd on a loop, by its epoll descriptor. Reads whole requests, hands them on, and
 * sends the answer when it is given; the connection is suspended until then. No Lua, no routes. One thread: the loop's.
 *
 * The time-out of silent connections (IDLE_S) is libmicrohttpd's, by the real clock; a request that is being worked on
 * has none here. */
#ifndef TR_HTTP_SERVER_H
#define TR_HTTP_SERVER_H

#include "base/buf.h"
#include "base/loop.h"

struct tr_http_server;
struct tr_http_request;

struct tr_http_server_config {
	struct tr_loop *loop;
	const char *listen; /* "127.0.0.1:8000", "[::1]:8000"; port 0 chooses one */
	size_t body_limit;  /* bytes of a request's body; above: 413 without asking the handler */
	/* A complete request: answer with tr_http_request_answer(), at once or later. */
	void (*handle)(void *arg, struct tr_http_request *request);
	/* Is this address one of ours (they have places and memory of their own)? NULL: nobody's is. */
	bool (*knows)(void *arg, const char *peer);
	/* The header of a request is there: false refuses it with 401, before any of its body is read. NULL: all may.
	 */
	bool (*admits)(void *arg, const struct tr_http_request *request);
	void *arg;
};
/* Binds. TR_OK, TR_EINVAL (bad address), TR_EIO (cannot bind: *error, malloc'ed), TR_ENOMEM. */
int tr_http_server_new(const struct tr_http_server_config *config, struct tr_http_server **out, char **error);
/* Takes no new connections; idle ones are closed when they next end a request. */
void tr_http_server_stop(struct tr_http_server *server);
/* Requests that have been handed on and not been answered yet. */
uint32_t tr_http_server_busy(const struct tr_http_server *server);
/* Closes the connections of open requests; the handler's later answers go nowhere. */
void tr_http_server_abort(struct tr_http_server *server);
void tr_http_server_free(struct tr_http_server *server);                 /* aborts first; NULL is fine */
const char *tr_http_server_address(const struct tr_http_server *server); /* as bound, with the port */

/* Borrowed until the answer. */
const char *tr_http_request_method(const struct tr_http_request *request);
const char *tr_http_request_path(const struct tr_http_request *request); /* decoded, without the query */
const char *tr_http_request_header(const struct tr_http_request *request, const char *name); /* any case; NULL: none */
struct tr_str tr_http_request_body(const struct tr_http_request *request);
const char *tr_http_request_peer(const struct tr_http_request *request);  /* IP address without port */
bool tr_http_request_is_known(const struct tr_http_request *request);     /* config.knows() of its peer */
const char *tr_http_request_local(const struct tr_http_request *request); /* the same of our end */
/* Each query parameter, decoded. */
void tr_http_request_query(const struct tr_http_request *request,
	void (*each)(void *arg, struct tr_str name, struct tr_str value), void *arg);

/* Copies the body. content_type, header NAME and VALUE may be NULL. Exactly once a request; it may be gone afterwards.
 */
void tr_http_request_answer(struct tr_http_request *request, int status, const char *content_type, const char *name,
	const char *value, struct tr_str body);

#endif
