/* One event as JSON. Each record of each mail passes here, so keys are literals and plain strings are copied as they
 * are. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/json.h"
#include "record/internal.h"

static pthread_key_t scratch_key;
static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;
static _Thread_local struct tr_buf *scratch;

static void
scratch_end(void *arg)
{
	struct tr_buf *buf = arg;

	tr_buf_free(buf);
	free(buf);
	scratch = NULL;
}

static void
scratch_init(void)
{
	(void)pthread_key_create(&scratch_key, scratch_end); /* without a key the buffer lives as long as the process */
}

struct tr_buf *
tr_record_scratch(void)
{
	static _Thread_local struct tr_buf emergency; /* no memory for 32 bytes: it will not grow either */

	if (scratch == NULL) {
		pthread_once(&scratch_once, scratch_init);
		scratch = calloc(1, sizeof *scratch);
		if (scratch == NULL)
			return &emergency;
		(void)pthread_setspecific(scratch_key, scratch);
	}
	tr_buf_clear(scratch);
	return scratch;
}

/* Where the next byte goes: kept apart from the buffer while a record is made, so that it can stay in registers. */
struct out {
	struct tr_buf *buf;
	char *at, *end;
};

static inline struct out
out_open(struct tr_buf *buf)
{
	return (struct out){buf, buf->data + buf->len, buf->failed ? buf->data + buf->len : buf->data + buf->cap};
}

static inline void
out_close(const struct out *out)
{
	if (!out->buf->failed)
		out->buf->len = (size_t)(out->at - out->buf->data);
}

static char *
add_slowly(struct tr_buf *buf, char *at, const char *data, size_t len, bool as_json)
{
	if (!buf->failed)
		buf->len = (size_t)(at - buf->data);
	if (as_json)
		tr_json_add_string(buf, (struct tr_str){data, len});
	else
		tr_buf_add(buf, data, len);
	return buf->data + buf->len;
}

static inline void
put(struct out *out, const char *data, size_t len)
{
	if ((size_t)(out->end - out->at) > len) {
		memcpy(out->at, data, len);
		out->at += len;
	} else {
		char *at = add_slowly(out->buf, out->at, data, len, false);

		*out = out_open(out->buf);
		out->at = at;
	}
}
#define PUT(out, literal) put((out), (literal), sizeof(literal) - 1)

/* The first `len` bytes of `data`, which has `bytes` of them: a copy of a length that the compiler knows. */
static inline void
put_some(struct out *out, const char *data, size_t len, size_t bytes)
{
	if ((size_t)(out->end - out->at) > bytes) {
		memcpy(out->at, data, bytes);
		out->at += len;
	} else {
		put(out, data, len);
	}
}

#define BYTES(c) (UINT64_C(0x0101010101010101) * (c))

/* Not zero if one of eight bytes is a control, '"', '\\' or not ASCII. It may also be for a few plain ones (after such
 * a byte). */
static inline uint64_t
is_special(uint64_t word)
{
	uint64_t quote = word ^ BYTES('"'), back = word ^ BYTES('\\');

	return ((word - BYTES(0x20)) | (quote - BYTES(1)) | (back - BYTES(1)) | word) & BYTES(0x80);
}

/* Copies plain ASCII between quotes, eight bytes at once; NULL if it is not (what was written then does not count). */
static char *
copy_plain(char *to, struct tr_str str)
{
	uint64_t word, seen = 0;
	size_t at = 0;

	*to++ = '"';
	if (str.len >= 8) {
		for (; at + 8 <= str.len; at += 8) {
			memcpy(&word, str.data + at, 8);
			seen |= is_special(word);
			memcpy(to + at, &word, 8);
		}
		memcpy(&word, str.data + str.len - 8, 8); /* the last eight, some of them again */
		memcpy(to + str.len - 8, &word, 8);
	} else if (str.len >= 4) {
		uint32_t first, last;

		memcpy(&first, str.data, 4);
		memcpy(&last, str.data + str.len - 4, 4);
		memcpy(to, &first, 4);
		memcpy(to + str.len - 4, &last, 4);
		word = (uint64_t)last << 32 | first;
	} else {
		word = BYTES(' ');
		for (; at < str.len; at++) {
			to[at] = str.data[at];
			word = word << 8 | (unsigned char)str.data[at];
		}
	}
	if ((seen | is_special(word)) != 0)
		return NULL;
	to[str.len] = '"';
	return to + str.len + 1;
}

static inline void
put_string(struct out *out, struct tr_str str)
{
	char *at = (size_t)(out->end - out->at) > str.len + 3 ? copy_plain(out->at, str) : NULL;

	if (at == NULL) {
		at = add_slowly(out->buf, out->at, str.data, str.len, true);
		*out = out_open(out->buf);
	}
	out->at = at;
}

static const char pairs[] =
	"00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748"
	"4950515253545556575859606162636465666768697071727374757677787980818283848586878889909192939495"
	"96979899";

/* The last `count` digits of the value, leading zeros included, before `end`. */
static inline void
digits_before(char *end, uint64_t value, int count)
{
	for (; count >= 2; count -= 2, value /= 100)
		memcpy(end -= 2, pairs + 2 * (value % 100), 2);
	if (count > 0)
		end[-1] = (char)('0' + value % 10);
}

static char *
int_before(char *end, int64_t value)
{
	uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;

	for (; rest >= 10; rest /= 100) {
		memcpy(end -= 2, pairs + 2 * (rest % 100), 2);
		if (rest < 100)
			goto sign;
	}
	*--end = (char)('0' + rest);
sign:
	if (value < 0)
		*--end = '-';
	return end;
}

static inline void
put_int(struct out *out, int64_t value)
{
	char digits[48], *end = digits + 24, *at; /* the rest is copied along */

	if (value >= 0 && value < 10) {
		char digit = (char)('0' + value);

		put(out, &digit, 1);
		return;
	}
	at = int_before(end, value);
	put_some(out, at, (size_t)(end - at), 24);
}

static inline void
put_string_or_null(struct out *out, struct tr_str str)
{
	if (str.data != NULL)
		put_string(out, str);
	else
		PUT(out, "null");
}

/* Events come many a second: the second is formatted once, as a number and as a date. */
struct second {
	int64_t s;
	char text[20]; /* "2026-07-25T17:20:12" */
	char number[24];
	uint8_t number_len;
	bool known;
};

static void
second_set(struct second *second, int64_t s)
{
	char text[32], digits[24], *at = int_before(digits + sizeof digits, s);

	(void)tr_rfc3339(s * TR_NS_PER_S, text);
	memcpy(second->text, text, 19);
	second->number_len = (uint8_t)(digits + sizeof digits - at);
	memcpy(second->number, at, second->number_len);
	second->s = s;
	second->known = true;
}

/* The moment as whole seconds, then under `key` as a date. */
static inline void
put_time(struct out *out, int64_t wall_ns, struct second *second, const char *key, size_t key_len)
{
	int64_t s = wall_ns / TR_NS_PER_S, frac = wall_ns % TR_NS_PER_S, day_s = s;
	char digits[10];

	if (frac < 0) {
		frac += TR_NS_PER_S;
		day_s--;
	}
	if (!second->known || second->s != day_s)
		second_set(second, day_s);
	if (s == day_s)
		put_some(out, second->number, second->number_len, sizeof second->number);
	else
		put_int(out, s);
	put(out, key, key_len);
	put(out, second->text, 19);
	if (frac != 0) {
		int count = frac % 1000 != 0 ? 9 : frac % 1000000 != 0 ? 6 : 3;

		digits[0] = '.';
		digits_before(digits + 10, (uint64_t)frac, 9);
		put_some(out, digits, (size_t)count + 1, sizeof digits);
	}
	PUT(out, "Z\"");
}
#define PUT_TIME(out, wall_ns, second, key) put_time((out), (wall_ns), (second), (key), sizeof(key) - 1)

static void
put_recipients(struct out *out, const struct tr_event *event)
{
	const struct tr_message *message = event->message;
	uint32_t count = event->rcpts != NULL ? event->rcpt_count : message != NULL ? message->rcpt_count : 0;

	if (count == 0 && (message == NULL || event->type == TR_EV_REJECTION)) {
		PUT(out, "\"\"");
		return;
	}
	if (count != 1)
		PUT(out, "[");
	for (uint32_t i = 0; i < count; i++) {
		if (i > 0)
			PUT(out, ",");
		put_string(out, tr_addr_str(event->rcpts != NULL ? event->rcpts[i] : &message->rcpts[i]));
	}
	if (count != 1)
		PUT(out, "]");
}

static void
put_queue(struct out *out, const struct tr_event *event)
{
	const struct tr_message *message = event->message;
	struct tr_buf name = {0};
	const char *error;

	if (event->queue.data != NULL) {
		put_string(out, event->queue);
	} else if (message == NULL) {
		PUT(out, "\"\"");
	} else if (message->queue != NULL) {
		put_string(out, tr_str(message->queue));
	} else if (tr_message_queue_name(message, &name, &error) == TR_OK) {
		put_string(out, (struct tr_str){name.data, name.len});
	} else {
		put_string(out, error != NULL ? tr_str(error) : TR_STR("no recipient"));
	}
	tr_buf_free(&name);
}

/* CRLF, lone CR and lone LF become one blank each. */
static void
put_one_line(struct out *out, struct tr_str text)
{
	struct tr_buf line = {0};

	if (text.len == 0 || (memchr(text.data, '\n', text.len) == NULL && memchr(text.data, '\r', text.len) == NULL)) {
		put_string(out, text);
		return;
	}
	for (size_t i = 0; i < text.len; i++) {
		char c = text.data[i];

		if (c == '\r' && i + 1 < text.len && text.data[i + 1] == '\n')
			continue;
		tr_buf_addc(&line, c == '\r' || c == '\n' ? ' ' : c);
	}
	put_string(out, (struct tr_str){line.data, line.len});
	if (line.failed)
		out->buf->failed = true;
	tr_buf_free(&line);
}

static void
put_response(struct out *out, const struct tr_response *response)
{
	PUT(out, ",\"response\":{\"code\":");
	put_int(out, response->code);
	if (response->enhanced[0] != 0) {
		PUT(out, ",\"enhanced_code\":{\"class\":");
		put_int(out, response->enhanced[0]);
		PUT(out, ",\"subject\":");
		put_int(out, response->enhanced[1]);
		PUT(out, ",\"detail\":");
		put_int(out, response->enhanced[2]);
		PUT(out, "},\"content\":");
	} else {
		PUT(out, ",\"enhanced_code\":null,\"content\":");
	}
	put_one_line(out, response->content);
	PUT(out, ",\"command\":");
	put_string_or_null(out, response->command);
	PUT(out, "}");
}

static void
put_captured(struct out *out, const struct tr_event *event, const struct tr_capture *capture)
{
	const struct tr_meta *meta = event->meta != NULL      ? event->meta
				     : event->message != NULL ? &event->message->meta
							      : NULL;
	const char *const *names = capture != NULL ? capture->meta : NULL;
	const char *const *headers = capture != NULL ? capture->headers : NULL;

	if (meta != NULL && names != NULL && names[0] != NULL) {
		PUT(out, ",\"meta\":");
		out_close(out);
		tr_capture_meta_json(meta, names, out->buf);
		*out = out_open(out->buf);
	} else {
		PUT(out, ",\"meta\":{}");
	}
	if (event->type != TR_EV_REJECTION && headers != NULL && headers[0] != NULL) {
		PUT(out, ",\"headers\":");
		out_close(out);
		tr_capture_headers_json(event->message, headers, out->buf);
		*out = out_open(out->buf);
	} else {
		PUT(out, ",\"headers\":{}");
	}
}

void
tr_record_encode(const struct tr_event *event, const char *nodeid, const char event_id[33],
	const struct tr_capture *capture, struct tr_buf *buf)
{
	static _Thread_local struct second at_second, created_second;
	const struct tr_message *message = event->message;
	int64_t when_ns = event->when_ns != 0 ? event->when_ns : tr_wall_ns();
	int64_t created_ns = message != NULL ? message->created_ns : when_ns;
	struct tr_str protocol = {NULL, 0};
	struct out out;

	(void)tr_buf_reserve(buf, 1536); /* most records fit: no growing in between */
	out = out_open(buf);
	PUT(&out, "{\"type\":");
	put_string(&out, tr_str(tr_event_type_name(event->type)));
	PUT(&out, ",\"id\":\"");
	if (message != NULL) {
		char id[33];

		tr_uuid_hex(message->id, id);
		put(&out, id, 32);
	}
	PUT(&out, "\",\"event_id\":\"");
	put(&out, event_id, 32);
	PUT(&out, "\",\"sender\":");
	if (event->sender != NULL)
		put_string(&out, tr_addr_str(event->sender));
	else if (message != NULL)
		put_string(&out, tr_addr_str(&message->sender));
	else
		PUT(&out, "\"\"");
	PUT(&out, ",\"recipient\":");
	put_recipients(&out, event);
	PUT(&out, ",\"queue\":");
	put_queue(&out, event);
	PUT(&out, ",\"site\":");
	put_string(&out, event->site);
	PUT(&out, ",\"size\":");
	put_int(&out, message != NULL && event->type != TR_EV_OOB && message->body.data != NULL
			      ? (int64_t)tr_message_size(message)
			      : 0);
	put_response(&out, &event->response);
	PUT(&out, ",\"peer_address\":");
	if (event->has_peer) {
		PUT(&out, "{\"name\":");
		put_string(&out, event->peer_name);
		PUT(&out, ",\"addr\":");
		put_string(&out, event->peer_addr);
		PUT(&out, "}");
	} else {
		PUT(&out, "null");
	}
	PUT(&out, ",\"timestamp\":");
	PUT_TIME(&out, when_ns, &at_second, ",\"event_time\":\"");
	PUT(&out, ",\"created\":");
	PUT_TIME(&out, created_ns, &created_second, ",\"created_time\":\"");
	PUT(&out, ",\"num_attempts\":");
	put_int(&out, event->num_attempts >= 0 ? event->num_attempts : message != NULL ? message->attempts : 0);
	PUT(&out, ",\"bounce_classification\":\"Uncategorized\",\"egress_pool\":");
	put_string_or_null(&out, event->egress_pool);
	PUT(&out, ",\"egress_source\":");
	put_string_or_null(&out, event->egress_source);
	PUT(&out, ",\"source_address\":");
	if (event->source_address.data != NULL) {
		PUT(&out, "{\"address\":");
		put_string(&out, event->source_address);
		if (event->proxy_server.data != NULL) {
			PUT(&out, ",\"server\":");
			put_string(&out, event->proxy_server);
			PUT(&out, ",\"protocol\":");
			put_string(&out, event->proxy_protocol);
		}
		PUT(&out, "}");
	} else {
		PUT(&out, "null");
	}
	PUT(&out, ",\"feedback_report\":null");
	put_captured(&out, event, capture);
	PUT(&out, ",\"delivery_protocol\":");
	put_string_or_null(&out, event->delivery_protocol);
	PUT(&out, ",\"reception_protocol\":");
	if (message != NULL)
		protocol = tr_meta_get(&message->meta, TR_STR("reception_protocol"));
	if (protocol.data != NULL && protocol.len > 0 && protocol.data[0] == '"')
		put(&out, protocol.data, protocol.len); /* a JSON string already */
	else
		PUT(&out, "null");
	PUT(&out, ",\"nodeid\":");
	put_string(&out, tr_str(nodeid));
	if (event->tls_cipher.data != NULL) {
		PUT(&out, ",\"tls_cipher\":");
		put_string(&out, event->tls_cipher);
	}
	if (event->tls_protocol.data != NULL) {
		PUT(&out, ",\"tls_protocol_version\":");
		put_string(&out, event->tls_protocol);
	}
	if (event->provider.data != NULL) {
		PUT(&out, ",\"provider_name\":");
		put_string(&out, event->provider);
	}
	if (event->session_id.data != NULL) {
		PUT(&out, ",\"session_id\":");
		put_string(&out, event->session_id);
	}
	PUT(&out, "}");
	out_close(&out);
}
