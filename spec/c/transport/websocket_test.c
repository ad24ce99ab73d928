/* The protocol of websockets, byte for byte: what a server may send in which pieces, and what it may not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transport/websocket.h"

#define KEY "dGhlIHNhbXBsZSBub25jZQ==" /* with its answer: RFC 6455 section 1.3 */
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
#define SWITCHES "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
#define GOOD SWITCHES "Sec-WebSocket-Accept: " ACCEPT "\r\nX-More: 1\r\n\r\n"
#define BYTES(literal) ((struct tr_str){(literal), sizeof(literal) - 1})

/* --- the opening handshake ------------------------------------------------------------------------------ */

static void
the_request(void **state)
{
	struct tr_buf out = {0};

	tr_ws_request(&out, TR_STR("h.test:81"), TR_STR("/a?b=c"), KEY);
	assert_true(tr_str_eq((struct tr_str){out.data, out.len},
		TR_STR("GET /a?b=c HTTP/1.1\r\nHost: h.test:81\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
		       "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " KEY "\r\n\r\n")));
	tr_buf_free(&out);
}

static void
keys_differ(void **state)
{
	char a[TR_WS_KEY_BYTES], b[TR_WS_KEY_BYTES], accept[TR_WS_ACCEPT_BYTES];

	assert_int_equal(tr_ws_key(a), TR_OK);
	assert_int_equal(tr_ws_key(b), TR_OK);
	assert_int_equal(strlen(a), 24);
	assert_string_not_equal(a, b);
	tr_ws_accept(KEY, accept);
	assert_string_equal(accept, ACCEPT);
}

static void
an_answer_in_pieces(void **state)
{
	static const char in[] = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" GOOD "\x81\x02hi";
	const size_t used = sizeof in - 1 - 4;
	struct tr_ws_answer answer;

	for (size_t len = 0; len < used; len++)
		assert_int_equal(tr_ws_answer((struct tr_str){in, len}, KEY, &answer), TR_EAGAIN);
	for (size_t len = used; len < sizeof in; len++) {
		assert_int_equal(tr_ws_answer((struct tr_str){in, len}, KEY, &answer), TR_OK);
		assert_int_equal(answer.used, used);
		assert_int_equal(answer.status, 101);
		assert_memory_equal(answer.head.data, "Upgrade:", 8);
		assert_memory_equal(answer.head.data + answer.head.len - 11, "X-More: 1\r\n", 11);
	}
	assert_int_equal(tr_ws_answer((struct tr_str){NULL, 0}, KEY, &answer), TR_EAGAIN);
}

static void
answers_that_will_not_do(void **state)
{
	static const struct {
		const char *in, *error;
		int status;
	} cases[] = {
		{"HTTP/1.1 404 Nope\r\nX: y\r\n\r\nbody", "HTTP error: 404 Not Found", 404},
		{"HTTP/1.1 503 x\r\n\r\n", "HTTP error: 503 Service Unavailable", 503},
		{"HTTP/1.1 799\r\n\r\n", "HTTP error: 799", 799},
		{"HTTP/1.1 200 OK\r\n\r\n", "HTTP error: 200 OK", 200},
		{"SSH-2.0-OpenSSH", "the answer is no HTTP", 0},
		{"HTTP/1.1 1x1 no\r\n\r\n", "the answer is no HTTP", 0},
		{"HTTP/1.1 101\r\nConnection: upgrade\r\nSec-WebSocket-Accept: " ACCEPT "\r\n\r\n",
			"the answer has no \"Upgrade: websocket\"", 101},
		{"HTTP/1.1 101\r\nUpgrade: websocket\r\nConnection: keep-alive\r\nSec-WebSocket-Accept: " ACCEPT
		 "\r\n\r\n",
			"the answer has no \"Connection: Upgrade\"", 101},
		{SWITCHES "\r\n", "the answer's Sec-WebSocket-Accept does not belong to our key", 101},
		{SWITCHES "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
			"the answer's Sec-WebSocket-Accept does not belong to our key", 101},
		{SWITCHES "Sec-WebSocket-Accept: " ACCEPT "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
			"the answer names an extension, and none was offered", 101},
		{SWITCHES "Sec-WebSocket-Accept: " ACCEPT "\r\nSec-WebSocket-Protocol: chat\r\n\r\n",
			"the answer names a subprotocol, and none was offered", 101},
	};
	struct tr_ws_answer answer;

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		assert_int_equal(tr_ws_answer(tr_str(cases[i].in), KEY, &answer), TR_EPROTO);
		assert_string_equal(answer.error, cases[i].error);
		assert_int_equal(answer.status, cases[i].status);
	}
}

static void
a_head_without_end(void **state)
{
	size_t len = 70 * 1024;
	char *text = malloc(len);
	struct tr_ws_answer answer;

	memset(text, 'x', len);
	memcpy(text, "HTTP/1.1 101 x\r\nA: ", 19);
	assert_int_equal(tr_ws_answer((struct tr_str){text, len}, KEY, &answer), TR_EPROTO);
	assert_string_equal(answer.error, "the head of the answer is too large");
	free(text);
}

static void
words_of_headers_in_any_case(void **state)
{
	struct tr_ws_answer answer;

	assert_int_equal(tr_ws_answer(TR_STR("HTTP/1.1 101 x\r\nupgrade: foo, WebSocket\r\nCONNECTION: keep-alive ,"
					     "UPGRADE\r\nsec-websocket-accept:" ACCEPT "\r\n\r\n"),
				 KEY, &answer),
		TR_OK);
}

/* --- frames of ours ------------------------------------------------------------------------------------------ */

static void
frames_are_masked(void **state)
{
	static const size_t lengths[] = {0, 1, 7, 8, 125, 126, 127, 65535, 65536, 100001};
	static const size_t headers[] = {2, 2, 2, 2, 2, 4, 4, 4, 10, 10};
	char *payload = malloc(100001);
	uint32_t masks[TR_COUNT(lengths)];

	for (size_t i = 0; i < 100001; i++)
		payload[i] = (char)(i * 7);
	for (size_t i = 0; i < TR_COUNT(lengths); i++) {
		struct tr_buf out = {0};
		const uint8_t *at;
		uint64_t len = 0;

		assert_int_equal(tr_ws_frame(&out, TR_WS_BINARY, (struct tr_str){payload, lengths[i]}), TR_OK);
		at = (const uint8_t *)out.data;
		assert_int_equal(out.len, headers[i] + 4 + lengths[i]);
		assert_int_equal(at[0], 0x82);
		assert_true(at[1] & 0x80);
		if (headers[i] == 2)
			len = at[1] & 0x7f;
		for (size_t k = 2; k < headers[i]; k++)
			len = len << 8 | at[k];
		assert_int_equal(len, lengths[i]);
		memcpy(&masks[i], at + headers[i], 4);
		for (size_t k = 0; k < lengths[i]; k++)
			assert_int_equal(at[headers[i] + 4 + k] ^ at[headers[i] + (k & 3)], (uint8_t)payload[k]);
		tr_buf_free(&out);
	}
	assert_memory_not_equal(masks, masks + TR_COUNT(masks) / 2, sizeof masks / 2); /* each frame has its own */
	free(payload);
}

/* --- frames of the server -------------------------------------------------------------------------------------- */

struct heard {
	char text[4096]; /* each message in brackets; '.' for the end */
	int close_code;
	bool failed;
	char reason[128];
	struct tr_buf reply; /* unmasked: opcode, length, payload of each frame */
};

/* Removes the mask of the frames that we want to send, so that they can be compared. */
static void
unmask(const struct tr_buf *frames, struct tr_buf *out)
{
	const uint8_t *at = (const uint8_t *)frames->data, *end = at + frames->len;

	while (at < end) {
		size_t len = at[1] & 0x7f;

		assert_true(at[1] & 0x80);
		assert_true(len < 126);
		tr_buf_addc(out, (char)at[0]);
		tr_buf_addc(out, (char)len);
		for (size_t i = 0; i < len; i++)
			tr_buf_addc(out, (char)(at[6 + i] ^ at[2 + (i & 3)]));
		at += 6 + len;
	}
}

/* Feeds the bytes in two pieces, cut at `cut`; with cut 0 each alone. */
static void
hear(struct tr_str bytes, size_t cut, size_t limit, struct heard *out)
{
	struct tr_ws ws = {.max_message_bytes = limit};
	size_t at = 0;

	memset(out, 0, sizeof *out);
	while (at < bytes.len) {
		size_t len = cut == 0 ? 1 : at < cut && cut < bytes.len ? cut - at : bytes.len - at;
		char *piece = malloc(len); /* exactly as much: AddressSanitizer sees a byte too far */
		struct tr_str in = {piece, len}, message;
		enum tr_ws_result result;

		memcpy(piece, bytes.data + at, len);
		at += len;
		while ((result = tr_ws_next(&ws, &in, &message)) == TR_WS_MESSAGE)
			snprintf(out->text + strlen(out->text), sizeof out->text - strlen(out->text), "[%.*s]",
				(int)message.len, message.data);
		assert_true(result == TR_WS_ENDED || in.len == 0);
		free(piece);
		if (result == TR_WS_ENDED) {
			strcat(out->text, ".");
			break;
		}
	}
	out->close_code = ws.close_code;
	out->failed = ws.failed;
	strcpy(out->reason, ws.close_reason);
	unmask(&ws.reply, &out->reply);
	tr_ws_fini(&ws);
}

/* The same whatever pieces it comes in. */
static void
expect(struct tr_str bytes, const char *text, int close_code, struct tr_str reply)
{
	for (size_t cut = 0; cut <= bytes.len; cut++) {
		struct heard heard;

		hear(bytes, cut, 1 << 20, &heard);
		assert_string_equal(heard.text, text);
		assert_int_equal(heard.close_code, close_code);
		assert_false(heard.failed);
		assert_true(tr_str_eq((struct tr_str){heard.reply.data, heard.reply.len}, reply));
		tr_buf_free(&heard.reply);
	}
}

static void
messages(void **state)
{
	expect(BYTES("\x81\x02hi\x82\x03\x01\x02\x03\x81\x00"), "[hi][\x01\x02\x03][]", 0, TR_STR(""));
}

static void
fragments_with_control_frames_between(void **state)
{
	expect(BYTES("\x01\x03Hel\x89\x04ping\x00\x00\x8a\x04pong\x00\x01l\x80\x01o\x81\x01x"), "[pong][Hello][x]", 0,
		BYTES("\x8a\x04ping"));
}

static void
lengths_of_each_form(void **state)
{
	static const size_t lengths[] = {125, 126, 65535, 65536};

	for (size_t i = 0; i < TR_COUNT(lengths); i++) {
		struct tr_ws ws = {.max_message_bytes = 65536};
		struct tr_buf frame = {0};
		struct tr_str in, message;
		size_t len = lengths[i];

		tr_buf_addc(&frame, (char)0x82);
		if (len < 126) {
			tr_buf_addc(&frame, (char)len);
		} else if (len < 65536) {
			tr_buf_add(&frame, "\x7e", 1);
			tr_buf_addc(&frame, (char)(len >> 8));
			tr_buf_addc(&frame, (char)len);
		} else {
			tr_buf_add(&frame, "\x7f\x00\x00\x00\x00\x00\x01\x00\x00", 9);
		}
		for (size_t k = 0; k < len; k++)
			tr_buf_addc(&frame, (char)k);
		in = (struct tr_str){frame.data, frame.len};
		assert_int_equal(tr_ws_next(&ws, &in, &message), TR_WS_MESSAGE);
		assert_int_equal(message.len, len);
		assert_memory_equal(message.data, frame.data + frame.len - len, len);
		assert_int_equal(tr_ws_next(&ws, &in, &message), TR_WS_MORE);
		tr_ws_fini(&ws);
		tr_buf_free(&frame);
	}
}

static void
closes(void **state)
{
	expect(BYTES("\x81\x01x\x88\x00"), "[x].", TR_WS_NO_STATUS, BYTES("\x88\x00"));
	expect(BYTES("\x88\x02\x03\xe8\x81\x01x"), ".", 1000, BYTES("\x88\x02\x03\xe8")); /* nothing after it counts */
	expect(BYTES("\x88\x06\x0f\xa0"
		     "bye!"),
		".", 4000, BYTES("\x88\x02\x0f\xa0"));
}

static void
rules_that_are_broken(void **state)
{
	static const struct {
		struct tr_str bytes;
		int code;
		const char *reason;
	} cases[] = {
		{BYTES("\xc1\x01x"), 1002, "a reserved bit is set"},
		{BYTES("\x91\x01x"), 1002, "a reserved bit is set"},
		{BYTES("\x83\x01x"), 1002, "an unknown opcode"},
		{BYTES("\x8b\x01x"), 1002, "an unknown opcode"},
		{BYTES("\x81\x81"), 1002, "a server's frame is masked"},
		{BYTES("\x09\x01x"), 1002, "a control frame is fragmented"},
		{BYTES("\x08\x00"), 1002, "a control frame is fragmented"},
		{BYTES("\x89\x7e\x00\x7e"), 1002, "a control frame is too long"},
		{BYTES("\x80\x01x"), 1002, "a continuation of nothing"},
		{BYTES("\x01\x01x\x81\x01x"), 1002, "a new message within a fragmented one"},
		{BYTES("\x82\x7e\x00\x7d"), 1002, "a length is not in its shortest form"},
		{BYTES("\x82\x7f\x00\x00\x00\x00\x00\x00\xff\xff"), 1002, "a length is not in its shortest form"},
		{BYTES("\x82\x7f\x80\x00\x00\x00\x00\x00\xff\xff"), 1002, "a length has its highest bit set"},
		{BYTES("\x82\x7f\x00\x00\x00\x00\x00\x20\x00\x00"), 1009, "the message is too large"},
		{BYTES("\x88\x01\x03"), 1002, "a close frame with half a code"},
		{BYTES("\x88\x02\x03\xe7"), 1002, "a close code that must not be sent"}, /* 999 */
		{BYTES("\x88\x02\x03\xed"), 1002, "a close code that must not be sent"}, /* 1005 */
		{BYTES("\x88\x02\x03\xf7"), 1002, "a close code that must not be sent"}, /* 1015 */
		{BYTES("\x88\x02\x0b\xb7"), 1002, "a close code that must not be sent"}, /* 2999 */
		{BYTES("\x88\x02\x13\x88"), 1002, "a close code that must not be sent"}, /* 5000 */
		{BYTES("\x88\x04\x03\xe8\xc3("), 1007, "the reason of a close is no UTF-8"},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		for (size_t cut = 0; cut <= cases[i].bytes.len; cut++) {
			struct heard heard;

			hear(cases[i].bytes, cut, 1 << 20, &heard);
			assert_string_equal(heard.reason, cases[i].reason);
			assert_int_equal(heard.close_code, cases[i].code);
			assert_true(heard.failed);
			assert_int_equal(
				(uint8_t)heard.reply.data[heard.reply.len - strlen(cases[i].reason) - 4], 0x88);
			assert_int_equal((uint8_t)heard.reply.data[heard.reply.len - strlen(cases[i].reason) - 2],
				cases[i].code >> 8);
			tr_buf_free(&heard.reply);
		}
	}
}

static void
fragments_are_bounded_together(void **state)
{
	struct heard heard;

	hear(BYTES("\x01\x03"
		   "abc\x80\x02"
		   "de"),
		0, 5, &heard);
	assert_string_equal(heard.text, "[abcde]");
	tr_buf_free(&heard.reply);
	hear(BYTES("\x01\x03"
		   "abc\x89\x00\x80\x03"
		   "def"),
		0, 5, &heard);
	assert_string_equal(heard.text, ".");
	assert_int_equal(heard.close_code, TR_WS_TOO_BIG);
	tr_buf_free(&heard.reply);
}

static void
our_own_ping(void **state)
{
	struct tr_ws ws = {.max_message_bytes = 10};
	struct tr_buf sent = {0};
	struct tr_str in, message;
	char pong[10];

	tr_ws_ping(&ws);
	assert_true(ws.pinging);
	unmask(&ws.reply, &sent);
	assert_int_equal(sent.len, 10);
	assert_int_equal((uint8_t)sent.data[0], 0x89);
	memcpy(pong, sent.data, sizeof pong);
	pong[0] = (char)0x8a;
	in = (struct tr_str){pong, sizeof pong};
	assert_int_equal(tr_ws_next(&ws, &in, &message), TR_WS_MORE);
	assert_false(ws.pinging);
	in = BYTES("\x8a\x08whatever"); /* not ours */
	assert_int_equal(tr_ws_next(&ws, &in, &message), TR_WS_MESSAGE);
	tr_buf_free(&sent);
	tr_ws_fini(&ws);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_request),
		cmocka_unit_test(keys_differ),
		cmocka_unit_test(an_answer_in_pieces),
		cmocka_unit_test(answers_that_will_not_do),
		cmocka_unit_test(a_head_without_end),
		cmocka_unit_test(words_of_headers_in_any_case),
		cmocka_unit_test(frames_are_masked),
		cmocka_unit_test(messages),
		cmocka_unit_test(fragments_with_control_frames_between),
		cmocka_unit_test(lengths_of_each_form),
		cmocka_unit_test(closes),
		cmocka_unit_test(rules_that_are_broken),
		cmocka_unit_test(fragments_are_bounded_together),
		cmocka_unit_test(our_own_ping),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
