/* One websocket to a server, on a worker's loop. libcurl resolves, connects and does TLS (CURLOPT_CONNECT_ONLY), with
 * the same resolver, certificates and rules as kumo.http, for ws:// and wss:// alike; from then on the bytes are ours
 * (websocket.h). No proxy, no redirects. No Lua. Own thread only.
 *
 * Waiting: opening and closing have a deadline. On an open link every ping interval is checked that the peer was heard
 * (else it gets a ping, and an interval later the link fails) and that it takes what we write. Virtual time stands
 * still while a link opens or closes, bytes are to be written, or a ping is unanswered. */
#ifndef TR_WEBSOCKET_LINK_H
#define TR_WEBSOCKET_LINK_H

#include "base/loop.h"
#include "transport/websocket.h"

struct tr_ws_links; /* all of a loop */
struct tr_ws_link;

int tr_ws_links_new(struct tr_loop *loop, struct tr_ws_links **out); /* TR_OK, TR_ENOMEM */
/* NULL is fine. Links that are left are disconnected, changed() is not called; each must still be freed. */
void tr_ws_links_free(struct tr_ws_links *links);

struct tr_ws_settings {
	int64_t timeout_ns;       /* from connecting to the answer, and of a close; > 0 */
	int64_t ping_ns;          /* > 0 */
	size_t max_message_bytes; /* of a message that comes; > 0 */
};

/* One message, or the payload of a pong. Owned by who takes it; freed with free(). */
struct tr_ws_message {
	struct tr_ws_message *next;
	size_t len;
	char data[];
};

enum tr_ws_state { TR_WS_OPENING, TR_WS_OPEN, TR_WS_CLOSING, TR_WS_CLOSED };

/* Begins to connect. changed() is called from the loop, never from a function of ours, whenever there may be news:
 * another state, a message, fewer bytes to be written. It may free the link. TR_EINVAL: the URL (text in *why, static
 * or the link's; no link is made), TR_ENOMEM, TR_EIO. */
int tr_ws_link_open(struct tr_ws_links *links, const char *url, const struct tr_ws_settings *settings,
	void (*changed)(struct tr_ws_link *link, void *arg), void *arg, struct tr_ws_link **out, const char **why);
/* At once, without a closing handshake if it was open. NULL is fine. */
void tr_ws_link_free(struct tr_ws_link *link);

enum tr_ws_state tr_ws_link_state(const struct tr_ws_link *link);
bool tr_ws_link_opened(const struct tr_ws_link *link); /* it was open, whatever came then */
/* Once closed: TR_ECLOSED for an orderly end, else what it ended for, with a text. */
int tr_ws_link_error(const struct tr_ws_link *link, const char **text);
/* Of the answer to the opening request; status 0: none came. */
int tr_ws_link_answer(const struct tr_ws_link *link, struct tr_str *head);

/* The next message; NULL: none is there. What was received before the end can be taken after it. */
struct tr_ws_message *tr_ws_link_take(struct tr_ws_link *link);
bool tr_ws_link_waiting(const struct tr_ws_link *link); /* one is there */
/* TR_OK: it will be written; TR_ECLOSED: not open; TR_ENOMEM, TR_EIO. */
int tr_ws_link_send(struct tr_ws_link *link, bool binary, struct tr_str payload);
size_t tr_ws_link_backlog(const struct tr_ws_link *link); /* bytes not yet with the kernel */
/* Begins the closing handshake; TR_WS_CLOSED comes after the peer's answer or the timeout. Not open: nothing. */
void tr_ws_link_close(struct tr_ws_link *link);

#endif
