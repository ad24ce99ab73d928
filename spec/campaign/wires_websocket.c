/* Websockets: libcurl connects, then the bytes are ours. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "transport/websocket_link.h"
#include "wires.h"

static const char greeting[] = "\x81\x02hi";

/* Greets, and gives each frame back. */
static void
serve(struct wire_conn *conn)
{
	char line[512], key[TR_WS_KEY_BYTES] = "", accept[TR_WS_ACCEPT_BYTES], answer[256];
	uint8_t frame[2 + 4 + 125];

	do {
		if (!wire_line(conn, line, sizeof line))
			return;
		if (strncasecmp(line, "sec-websocket-key: ", 19) == 0)
			snprintf(key, sizeof key, "%.24s", line + 19);
	} while (line[0] != '\0');
	tr_ws_accept(key, accept);
	snprintf(answer, sizeof answer,
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
		"Sec-WebSocket-Accept: %s\r\n\r\n",
		accept);
	wire_say(conn, answer, strlen(answer));
	wire_say(conn, greeting, sizeof greeting - 1);
	while (wire_read(conn, frame, 6)) {
		size_t len = frame[1] & 0x7f;

		if (len > 125 || !wire_read(conn, frame + 6, len))
			return;
		for (size_t i = 0; i < len; i++)
			frame[6 + i] ^= frame[2 + (i & 3)];
		frame[4] = frame[0];
		frame[5] = (uint8_t)len;
		wire_say(conn, frame + 4, len + 2);
		if ((frame[0] & 0xf) == TR_WS_CLOSE)
			return;
	}
}

struct wait {
	struct tr_ws_link *link;
	bool for_end;
};

static bool
has_news(void *arg)
{
	const struct wait *wait = arg;

	return tr_ws_link_state(wait->link) == TR_WS_CLOSED ||
	       (!wait->for_end && tr_ws_link_state(wait->link) == TR_WS_OPEN && tr_ws_link_waiting(wait->link));
}

static void
changed(struct tr_ws_link *link, void *arg)
{
}

static bool
expect(struct tr_loop *loop, struct tr_ws_link *link, const char *text)
{
	struct wait wait = {link, false};
	struct tr_ws_message *message;
	const char *why = NULL;
	bool well;

	if (!tr_loop_run_until(loop, has_news, &wait, WIRE_LIMIT_NS))
		wire_wrong("\"%s\" does not come, nor an end", text);
	message = tr_ws_link_take(link);
	if (message == NULL) {
		int err = tr_ws_link_error(link, &why);

		if (err != TR_ENOMEM && (why == NULL || *why == '\0') && wire_tells())
			wire_wrong("it ended as %s, and no text tells why", tr_err_name(err));
		return false;
	}
	well = message->len == strlen(text) && memcmp(message->data, text, message->len) == 0;
	if (!well)
		wire_wrong("a message of %zu bytes in place of \"%s\"", message->len, text);
	free(message);
	return true;
}

/* A link from its beginning to its end. Returns whether it went well. */
static bool
talk(struct tr_loop *loop, struct tr_ws_links *links, const char *url)
{
	const struct tr_ws_settings settings = {wire_is_calm() ? WIRE_STEP_NS : TR_NS_PER_S, 60 * TR_NS_PER_S, 1 << 16};
	struct wait wait = {NULL, true};
	const char *why;
	bool well;
	int err = tr_ws_link_open(links, url, &settings, changed, NULL, &wait.link, &why);

	if (err != TR_OK) {
		if (err == TR_EINVAL)
			wire_wrong("the URL is refused: %s", why);
		return false;
	}
	well = expect(loop, wait.link, "hi") && tr_ws_link_send(wait.link, false, TR_STR("echo")) == TR_OK &&
	       expect(loop, wait.link, "echo");
	if (well) {
		tr_ws_link_close(wait.link);
		if (!tr_loop_run_until(loop, has_news, &wait, WIRE_LIMIT_NS))
			wire_wrong("it does not close");
	}
	tr_ws_link_free(wait.link);
	return well;
}

static void
life(struct tr_loop *loop, const char *scheme, bool tls)
{
	struct wire_peer peer;
	struct tr_ws_links *links;
	char url[64];

	wire_peer_start(&peer, serve, tls);
	if (tls)
		setenv("SSL_CERT_FILE", wire_ca(), 1);
	snprintf(url, sizeof url, "%s://127.0.0.1:%u/a?b=c", scheme, peer.port);
	wire_begin();
	WIRE_MAKE(tr_ws_links_new(loop, &links));
	(void)talk(loop, links, url);
	wire_calm();
	if (!talk(loop, links, url))
		wire_wrong("it does not work after the faults either");
	tr_ws_links_free(links);
}

static void
run_ws(struct tr_loop *loop)
{
	life(loop, "ws", false);
}

static void
run_wss(struct tr_loop *loop)
{
	life(loop, "wss", true);
}

const struct wire wire_ws = {"ws", run_ws}, wire_wss = {"wss", run_wss};
