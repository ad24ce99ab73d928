/* Shared by websocket_link.c and websocket_connect.c. */
#ifndef TR_WEBSOCKET_INTERNAL_H
#define TR_WEBSOCKET_INTERNAL_H

#include <curl/curl.h>
#include <ev.h>

#include "transport/http_multi.h"
#include "transport/websocket_link.h"

struct tr_ws_links {
	struct tr_loop *loop;
	struct tr_http_multi *multi; /* not that of the requests: its handles stay in it */
	struct tr_ws_link *first;
};

/* Bytes to be written. Their place does not change: OpenSSL wants a write that it could not end to be repeated with the
 * same bytes at the same place. */
struct chunk {
	struct chunk *next;
	size_t len, at;
	char data[];
};

struct tr_ws_link {
	struct tr_ws_links *links; /* NULL: they were freed */
	struct tr_ws_link *next, **prev;
	struct tr_ws_settings settings;
	void (*changed)(struct tr_ws_link *link, void *arg);
	void *arg;
	enum tr_ws_state state;
	bool opened; /* it was open */
	int err;
	char error[CURL_ERROR_SIZE + 128];
	char curl_error[CURL_ERROR_SIZE];

	CURL *easy; /* NULL: disconnected */
	bool connected;
	ev_io readable, writable;
	struct tr_timer timer; /* opening and closing: the deadline; open: the next look at the peer */
	struct tr_defer again; /* read on, or tell the owner, later in this turn */
	bool news;             /* changed() is due */
	bool heard, wrote;     /* since the last look */
	bool held;

	char key[TR_WS_KEY_BYTES];
	struct tr_buf host, target; /* of the request; NUL-terminated */
	struct tr_buf in;           /* not yet understood */
	struct tr_buf head;
	int status;
	struct tr_ws ws;
	struct tr_ws_message *first, **end;
	size_t queued; /* bytes, with MESSAGE_COST each */
	struct chunk *out, **out_end;
	size_t backlog;
};

/* --- websocket_link.c --- */
/* The end: closed, disconnected, the owner will hear of it. Once; later ones change nothing. */
void tr_wsi_end(struct tr_ws_link *link, int err, const char *fmt, ...) TR_PRINTF(3, 4);
void tr_wsi_late(struct tr_timer *timer); /* the deadline of opening and closing */
void tr_wsi_update_hold(struct tr_ws_link *link);
/* libcurl has connected: from now on the descriptor is watched here. Sends the bytes first. TR_OK, TR_ENOMEM. */
int tr_wsi_start(struct tr_ws_link *link, curl_socket_t fd, const struct tr_buf *bytes);

#endif
