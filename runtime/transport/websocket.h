/* The client's side of RFC 6455 without I/O: bytes in, messages out. The opening request and the check of its answer;
 * frames made and masked; frames read, joined and checked; pings answered, the closing handshake. No extensions.
 * One thread per object; nothing here waits.
 *
 * That a text message is UTF-8 is not checked: records are bytes, and the receiver decides. What the protocol itself
 * reads (control frames, codes and reasons of a close) is. */
#ifndef TR_WEBSOCKET_H
#define TR_WEBSOCKET_H

#include "base/buf.h"

enum tr_ws_opcode {
	TR_WS_CONTINUATION = 0,
	TR_WS_TEXT = 1,
	TR_WS_BINARY = 2,
	TR_WS_CLOSE = 8,
	TR_WS_PING = 9,
	TR_WS_PONG = 10,
};

enum {
	TR_WS_NORMAL = 1000,         /* the purpose is fulfilled */
	TR_WS_PROTOCOL_ERROR = 1002, /* the peer broke a rule */
	TR_WS_NO_STATUS = 1005,      /* never on the wire: the peer's close named no code */
	TR_WS_NOT_UTF8 = 1007,
	TR_WS_TOO_BIG = 1009,
	TR_WS_CONTROL_MAX = 125, /* bytes of a control frame's payload */
	TR_WS_KEY_BYTES = 25,    /* with NUL */
	TR_WS_ACCEPT_BYTES = 29, /* with NUL */
};

/* --- the opening handshake ---------------------------------------------------------------------------- */

/* A fresh Sec-WebSocket-Key. TR_OK, TR_EIO (no random bytes). */
int tr_ws_key(char out[TR_WS_KEY_BYTES]);
/* The Sec-WebSocket-Accept that belongs to a key. */
void tr_ws_accept(const char *key, char out[TR_WS_ACCEPT_BYTES]);
/* Adds the request. `host` with its port if that is not the scheme's; `target` is path and query. */
void tr_ws_request(struct tr_buf *out, struct tr_str host, struct tr_str target, const char *key);

/* What came in answer. TR_EAGAIN: not all of the head yet. TR_OK: 101, and all that belongs to it; *used bytes of
 * `in` were the head. TR_EPROTO otherwise, with the text in *error: "HTTP error: 404 Not Found" for an answer with
 * another status, else the rule that it breaks; *status is 0 if there is none. Interim answers (1xx) are passed over.
 */
struct tr_ws_answer {
	int status;
	struct tr_str head; /* header lines, borrowed from `in`; without the status line and the blank line */
	size_t used;
	char error[160];
};
int tr_ws_answer(struct tr_str in, const char *key, struct tr_ws_answer *out);

/* --- frames ------------------------------------------------------------------------------------------------- */

/* Adds one whole masked frame. TR_OK; TR_EIO: no random bytes; TR_ENOMEM. */
int tr_ws_frame(struct tr_buf *out, enum tr_ws_opcode opcode, struct tr_str payload);
/* Adds a close frame; code TR_WS_NO_STATUS: an empty one. */
int tr_ws_frame_close(struct tr_buf *out, int code, struct tr_str reason);

/* The reading side. Zero-initialise it, set max_message_bytes; ends with tr_ws_fini(). */
struct tr_ws {
	size_t max_message_bytes; /* of all fragments together; > 0 */

	/* The end, once next() has given TR_WS_ENDED. */
	int close_code;         /* the peer's, or ours if it broke a rule */
	char close_reason[124]; /* the same; NUL-terminated */
	bool failed;            /* a rule was broken, or memory is out: close_reason says what */
	bool ended;             /* nothing more is read */
	struct tr_buf reply;    /* frames to be sent: pongs, the answer to a close. The caller takes them out */
	uint8_t ping[8];        /* payload of our own pings: their pongs are no messages */
	bool pinged;            /* it was chosen */
	bool pinging;           /* our last ping is unanswered */

	/* inside */
	struct tr_buf message; /* fragments so far */
	bool fragmented;       /* a message has begun and is not complete */
	bool complete;         /* `message` was given out: forget it */
	uint8_t header[14];
	size_t header_len;
	bool in_payload;
	uint8_t opcode;
	bool fin;
	uint64_t left; /* bytes of the frame's payload that have not come */
	char control[TR_WS_CONTROL_MAX];
	size_t control_len;
};

enum tr_ws_result { TR_WS_MORE, TR_WS_MESSAGE, TR_WS_ENDED };
/* Reads from the front of *in, which moves on, up to the end of the next message. TR_WS_MORE: all bytes are used.
 * TR_WS_MESSAGE: *message is a text, a binary or the payload of a pong (not of our own ping's); borrowed until the next
 * call. TR_WS_ENDED: the peer closed or broke a rule; the close frame to be sent stands in `reply`. */
enum tr_ws_result tr_ws_next(struct tr_ws *ws, struct tr_str *in, struct tr_str *message);
/* Adds a ping of ours to `reply`. */
void tr_ws_ping(struct tr_ws *ws);
void tr_ws_fini(struct tr_ws *ws);

#endif
