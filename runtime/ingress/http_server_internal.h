/* Shared by http_server.c (connections, requests, answers) and http_request.c (what a handler may ask of a request). */
#ifndef TR_HTTP_SERVER_INTERNAL_H
#define TR_HTTP_SERVER_INTERNAL_H

#include <ev.h>
#include <microhttpd.h>

#include "ingress/http_crowd.h"
#include "ingress/http_server.h"

struct tr_http_server {
	struct tr_http_server_config config;
	struct MHD_Daemon *daemon;
	struct ev_io io;
	struct ev_timer timer;
	struct tr_defer run; /* a suspended connection was resumed */
	struct tr_http_crowd crowd;
	bool complained;
	struct tr_http_request *open;
	uint32_t busy;
	bool quiet; /* stopped listening */
	int fd;     /* of the listener; -1: closed */
	char address[64];
};

enum stage { STAGE_BODY, STAGE_HANDLING, STAGE_ANSWERED };

struct tr_http_request {
	struct tr_http_server *server;
	struct tr_http_request *next, **prev; /* of those being handled */
	struct MHD_Connection *connection;    /* NULL: gone before the answer */
	enum stage stage;
	bool suspended;
	bool too_big;
	bool no_room; /* the budget of intake is used up */
	bool aborted; /* its connection is to be closed without an answer */
	bool ended;   /* libmicrohttpd is through with it */
	bool known;   /* of its place, which may be gone */
	const char *method;
	char *path;
	struct tr_buf body;
	int64_t counted;             /* of the budget of intake */
	struct tr_http_place *place; /* NULL: its connection is gone */
	size_t dropped;              /* bytes read beyond the limit */
	char peer[64], local[64];
	struct MHD_Response *response;
	int status;
};

#endif
