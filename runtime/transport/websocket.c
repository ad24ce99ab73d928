#include "transport/websocket.h"

#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/json.h"
#include "transport/http.h"

#define MAX_HEAD_BYTES (64 * 1024) /* of an answer to the opening request */
#define GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

/* --- the opening handshake ---------------------------------------------------------------------------- */

int
tr_ws_key(char out[TR_WS_KEY_BYTES])
{
	uint8_t nonce[16];

	if (RAND_bytes(nonce, sizeof nonce) != 1)
		return TR_EIO;
	EVP_EncodeBlock((unsigned char *)out, nonce, sizeof nonce);
	return TR_OK;
}

void
tr_ws_accept(const char *key, char out[TR_WS_ACCEPT_BYTES])
{
	char text[TR_WS_KEY_BYTES + sizeof GUID];
	uint8_t digest[SHA_DIGEST_LENGTH] = {0}; /* without memory: what no server answers */
	int len = snprintf(text, sizeof text, "%s%s", key, GUID);

	SHA1((const unsigned char *)text, (size_t)len, digest);
	EVP_EncodeBlock((unsigned char *)out, digest, sizeof digest);
}

void
tr_ws_request(struct tr_buf *out, struct tr_str host, struct tr_str target, const char *key)
{
	tr_buf_addz(out, "GET ");
	tr_buf_add_str(out, target);
	tr_buf_addz(out, " HTTP/1.1\r\nHost: ");
	tr_buf_add_str(out, host);
	tr_buf_addz(out, "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
			 "Sec-WebSocket-Key: ");
	tr_buf_addz(out, key);
	tr_buf_addz(out, "\r\n\r\n");
}

static int
bad_answer(struct tr_ws_answer *out, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(out->error, sizeof out->error, fmt, args);
	va_end(args);
	return TR_EPROTO;
}

/* The length of the head at the front, with its blank line; 0: it is not all there. */
static size_t
head_end(struct tr_str in)
{
	const char *end = in.len > 0 ? memmem(in.data, in.len, "\r\n\r\n", 4) : NULL;

	return end != NULL ? (size_t)(end - in.data) + 4 : 0;
}

/* "HTTP/1.1 101 ..." -> 101; -1: no status line of HTTP/1. */
static int
status_of(struct tr_str line)
{
	int status = 0;

	if (line.len < 12 || memcmp(line.data, "HTTP/1.", 7) != 0 || line.data[8] != ' ')
		return -1;
	for (size_t i = 9; i < 12; i++) {
		if (line.data[i] < '0' || line.data[i] > '9')
			return -1;
		status = status * 10 + (line.data[i] - '0');
	}
	return status >= 100 && (line.len == 12 || line.data[12] == ' ') ? status : -1;
}

/* One of the comma-separated words of any line of that name. */
static bool
has_token(struct tr_str head, struct tr_str wanted_name, struct tr_str wanted)
{
	struct tr_str name, value;

	for (size_t at = 0; tr_http_header_next(head, &at, &name, &value);) {
		if (!tr_str_ieq(name, wanted_name))
			continue;
		while (value.len > 0) {
			const char *comma = memchr(value.data, ',', value.len);
			size_t len = comma != NULL ? (size_t)(comma - value.data) : value.len;
			struct tr_str word = {value.data, len};

			while (word.len > 0 && (*word.data == ' ' || *word.data == '\t'))
				word = (struct tr_str){word.data + 1, word.len - 1};
			while (word.len > 0 && (word.data[word.len - 1] == ' ' || word.data[word.len - 1] == '\t'))
				word.len--;
			if (tr_str_ieq(word, wanted))
				return true;
			len += comma != NULL;
			value = (struct tr_str){value.data + len, value.len - len};
		}
	}
	return false;
}

int
tr_ws_answer(struct tr_str in, const char *key, struct tr_ws_answer *out)
{
	char accept[TR_WS_ACCEPT_BYTES];
	struct tr_str rest = in, line, given;
	size_t len;

	*out = (struct tr_ws_answer){0};
	do {
		size_t known = rest.len < 7 ? rest.len : 7;
		const char *end;

		if (known > 0 && memcmp(rest.data, "HTTP/1.", known) != 0)
			return bad_answer(out, "the answer is no HTTP");
		len = head_end(rest);
		if (len == 0)
			break;
		end = memmem(rest.data, len, "\r\n", 2);
		line = (struct tr_str){rest.data, (size_t)(end - rest.data)};
		out->status = status_of(line);
		out->head = (struct tr_str){end + 2, len - line.len - 4};
		rest = (struct tr_str){rest.data + len, rest.len - len};
		if (out->status < 0) {
			out->status = 0;
			return bad_answer(out, "the answer is no HTTP");
		}
	} while (out->status != 101 && out->status < 200 && rest.len > 0);
	out->used = in.len - rest.len;
	if (out->status != 101 && out->status < 200) {
		out->status = 0;
		return in.len > MAX_HEAD_BYTES ? bad_answer(out, "the head of the answer is too large") : TR_EAGAIN;
	}
	if (out->status != 101) {
		const char *reason = tr_http_reason(out->status);

		return bad_answer(out, "HTTP error: %d%s%s", out->status, reason != NULL ? " " : "",
			reason != NULL ? reason : "");
	}
	if (!has_token(out->head, TR_STR("upgrade"), TR_STR("websocket")))
		return bad_answer(out, "the answer has no \"Upgrade: websocket\"");
	if (!has_token(out->head, TR_STR("connection"), TR_STR("upgrade")))
		return bad_answer(out, "the answer has no \"Connection: Upgrade\"");
	tr_ws_accept(key, accept);
	given = tr_http_header(out->head, "sec-websocket-accept");
	if (given.data == NULL || !tr_str_eq(given, tr_str(accept)))
		return bad_answer(out, "the answer's Sec-WebSocket-Accept does not belong to our key");
	if (tr_http_header(out->head, "sec-websocket-extensions").data != NULL)
		return bad_answer(out, "the answer names an extension, and none was offered");
	if (tr_http_header(out->head, "sec-websocket-protocol").data != NULL)
		return bad_answer(out, "the answer names a subprotocol, and none was offered");
	return TR_OK;
}

/* --- frames ------------------------------------------------------------------------------------------------- */

static void
mask_into(char *out, const char *in, size_t len, const uint8_t mask[4])
{
	uint64_t wide;
	size_t i = 0;

	memcpy(&wide, mask, 4);
	memcpy((char *)&wide + 4, mask, 4);
	for (; i + 8 <= len; i += 8) {
		uint64_t word;

		memcpy(&word, in + i, 8);
		word ^= wide;
		memcpy(out + i, &word, 8);
	}
	for (; i < len; i++)
		out[i] = (char)(in[i] ^ mask[i & 3]);
}

int
tr_ws_frame(struct tr_buf *out, enum tr_ws_opcode opcode, struct tr_str payload)
{
	uint8_t header[14], mask[4];
	size_t len = 2;
	char *at;

	if (RAND_bytes(mask, sizeof mask) != 1) /* unpredictable: RFC 6455 section 10.3 */
		return TR_EIO;
	header[0] = (uint8_t)(0x80 | opcode);
	if (payload.len < 126) {
		header[1] = (uint8_t)(0x80 | payload.len);
	} else if (payload.len <= UINT16_MAX) {
		header[1] = 0x80 | 126;
		header[len++] = (uint8_t)(payload.len >> 8);
		header[len++] = (uint8_t)payload.len;
	} else {
		header[1] = 0x80 | 127;
		for (int shift = 56; shift >= 0; shift -= 8)
			header[len++] = (uint8_t)((uint64_t)payload.len >> shift);
	}
	memcpy(header + len, mask, sizeof mask);
	len += sizeof mask;
	at = tr_buf_reserve(out, len + payload.len);
	if (at == NULL)
		return TR_ENOMEM;
	memcpy(at, header, len);
	mask_into(at + len, payload.data, payload.len, mask);
	out->len += len + payload.len;
	return TR_OK;
}

int
tr_ws_frame_close(struct tr_buf *out, int code, struct tr_str reason)
{
	char payload[TR_WS_CONTROL_MAX];

	if (code == TR_WS_NO_STATUS)
		return tr_ws_frame(out, TR_WS_CLOSE, (struct tr_str){"", 0});
	payload[0] = (char)(code >> 8);
	payload[1] = (char)code;
	if (reason.len > sizeof payload - 2)
		reason.len = sizeof payload - 2;
	if (reason.len > 0)
		memcpy(payload + 2, reason.data, reason.len);
	return tr_ws_frame(out, TR_WS_CLOSE, (struct tr_str){payload, reason.len + 2});
}

/* --- reading -------------------------------------------------------------------------------------------------- */

/* The peer may not be listened to any more; it is told why. */
static enum tr_ws_result
fail(struct tr_ws *ws, int code, const char *why)
{
	ws->ended = ws->failed = true;
	ws->close_code = code;
	snprintf(ws->close_reason, sizeof ws->close_reason, "%s", why);
	(void)tr_ws_frame_close(&ws->reply, code, tr_str(why)); /* if it cannot be made the connection just ends */
	return TR_WS_ENDED;
}

static bool
close_code_ok(int code)
{
	if (code >= 3000)
		return code < 5000;
	return code >= 1000 && code <= 1014 && code != 1004 && code != TR_WS_NO_STATUS && code != 1006;
}

static enum tr_ws_result
peer_closes(struct tr_ws *ws)
{
	struct tr_str reason = {ws->control + 2, ws->control_len - 2};

	if (ws->control_len == 0) {
		ws->close_code = TR_WS_NO_STATUS;
	} else {
		if (ws->control_len == 1)
			return fail(ws, TR_WS_PROTOCOL_ERROR, "a close frame with half a code");
		ws->close_code = (uint8_t)ws->control[0] << 8 | (uint8_t)ws->control[1];
		if (!close_code_ok(ws->close_code))
			return fail(ws, TR_WS_PROTOCOL_ERROR, "a close code that must not be sent");
		if (!tr_utf8_valid(reason))
			return fail(ws, TR_WS_NOT_UTF8, "the reason of a close is no UTF-8");
		memcpy(ws->close_reason, reason.data, reason.len);
		ws->close_reason[reason.len] = '\0';
	}
	ws->ended = true;
	(void)tr_ws_frame_close(&ws->reply, ws->close_code, (struct tr_str){NULL, 0});
	return TR_WS_ENDED;
}

/* How many bytes the header has, as far as its first two say. */
static size_t
header_bytes(const struct tr_ws *ws)
{
	uint8_t len = ws->header_len < 2 ? 0 : ws->header[1] & 0x7f;

	return len == 126 ? 4 : len == 127 ? 10 : 2;
}

/* The rule that a complete header breaks; NULL: none. */
static const char *
header_fault(struct tr_ws *ws)
{
	const uint8_t *header = ws->header;

	ws->fin = header[0] & 0x80;
	ws->opcode = header[0] & 0x0f;
	ws->left = header[1] & 0x7f;
	if (header[0] & 0x70)
		return "a reserved bit is set";
	if (header[1] & 0x80)
		return "a server's frame is masked";
	if (ws->opcode >= TR_WS_CLOSE) {
		if (ws->opcode > TR_WS_PONG)
			return "an unknown opcode";
		if (!ws->fin)
			return "a control frame is fragmented";
		if (ws->left > TR_WS_CONTROL_MAX)
			return "a control frame is too long";
		return NULL;
	}
	if (ws->opcode > TR_WS_BINARY)
		return "an unknown opcode";
	if ((ws->opcode == TR_WS_CONTINUATION) != ws->fragmented)
		return ws->fragmented ? "a new message within a fragmented one" : "a continuation of nothing";
	if (ws->left == 126) {
		ws->left = (uint64_t)header[2] << 8 | header[3];
		if (ws->left < 126)
			return "a length is not in its shortest form";
	} else if (ws->left == 127) {
		ws->left = 0;
		for (size_t i = 2; i < 10; i++)
			ws->left = ws->left << 8 | header[i];
		if (ws->left > INT64_MAX)
			return "a length has its highest bit set";
		if (ws->left <= UINT16_MAX)
			return "a length is not in its shortest form";
	}
	return NULL;
}

/* A frame is complete. TR_WS_MORE: go on with the next. */
static enum tr_ws_result
frame_done(struct tr_ws *ws, struct tr_str *message)
{
	struct tr_str control = {ws->control, ws->control_len};

	ws->in_payload = false;
	ws->header_len = 0;
	switch (ws->opcode) {
	case TR_WS_CLOSE:
		return peer_closes(ws);
	case TR_WS_PING:
		if (tr_ws_frame(&ws->reply, TR_WS_PONG, control) != TR_OK)
			return fail(ws, 1011, "out of memory");
		return TR_WS_MORE;
	case TR_WS_PONG:
		if (ws->pinged && tr_str_eq(control, (struct tr_str){(const char *)ws->ping, sizeof ws->ping})) {
			ws->pinging = false;
			return TR_WS_MORE;
		}
		*message = control;
		return TR_WS_MESSAGE;
	default:
		ws->fragmented = !ws->fin;
		if (!ws->fin)
			return TR_WS_MORE;
		*message = (struct tr_str){ws->message.len > 0 ? ws->message.data : "", ws->message.len};
		ws->complete = true;
		return TR_WS_MESSAGE;
	}
}

static void
take(struct tr_str *in, void *out, size_t len)
{
	if (len == 0)
		return;
	memcpy(out, in->data, len);
	*in = (struct tr_str){in->data + len, in->len - len};
}

/* True once the header is complete; otherwise all bytes are used or the connection failed. */
static bool
read_header(struct tr_ws *ws, struct tr_str *in)
{
	const char *fault;

	while (ws->header_len < header_bytes(ws) || ws->header_len < 2) {
		if (in->len == 0)
			return false;
		take(in, &ws->header[ws->header_len++], 1);
	}
	fault = header_fault(ws);
	if (fault != NULL) {
		fail(ws, TR_WS_PROTOCOL_ERROR, fault);
		return false;
	}
	if (ws->opcode < TR_WS_CLOSE && ws->left > ws->max_message_bytes - ws->message.len) {
		fail(ws, TR_WS_TOO_BIG, "the message is too large");
		return false;
	}
	ws->in_payload = true;
	ws->control_len = 0;
	return true;
}

enum tr_ws_result
tr_ws_next(struct tr_ws *ws, struct tr_str *in, struct tr_str *message)
{
	if (ws->complete) {
		ws->complete = false;
		tr_buf_free(&ws->message);
	}
	while (!ws->ended) {
		enum tr_ws_result result;
		size_t len;

		if (!ws->in_payload && !read_header(ws, in))
			break;
		len = ws->left < in->len ? (size_t)ws->left : in->len;
		ws->left -= len;
		if (ws->opcode >= TR_WS_CLOSE) {
			take(in, ws->control + ws->control_len, len);
			ws->control_len += len;
		} else if (len > 0) {
			tr_buf_add(&ws->message, in->data, len);
			if (ws->message.failed)
				return fail(ws, 1011, "out of memory");
			*in = (struct tr_str){in->data + len, in->len - len};
		}
		if (ws->left > 0)
			return TR_WS_MORE;
		result = frame_done(ws, message);
		if (result != TR_WS_MORE)
			return result;
	}
	return ws->ended ? TR_WS_ENDED : TR_WS_MORE;
}

void
tr_ws_ping(struct tr_ws *ws)
{
	if (!ws->pinged && RAND_bytes(ws->ping, sizeof ws->ping) != 1)
		return;
	ws->pinged = true;
	ws->pinging =
		tr_ws_frame(&ws->reply, TR_WS_PING, (struct tr_str){(const char *)ws->ping, sizeof ws->ping}) == TR_OK;
}

void
tr_ws_fini(struct tr_ws *ws)
{
	tr_buf_free(&ws->reply);
	tr_buf_free(&ws->message);
}
