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

/* tr_buf_add for pieces whose length the compiler knows. */
static inline void
put(struct tr_buf *buf, const char *data, size_t len)
{
	if (!buf->failed && buf->cap - buf->len > len) {
		memcpy(buf->data + buf->len, data, len);
		buf->len += len;
	} else {
		tr_buf_add(buf, data, len);
	}
}
#define PUT(buf, literal) put((buf), (literal), sizeof(literal) - 1)

#define BYTES(c) (UINT64_C(0x0101010101010101) * (c))

/* Not zero if one of eight bytes is a control, '"', '\\' or not ASCII. It may also be for a few plain ones (after such
 * a byte). */
static inline uint64_t
is_special(uint64_t word)
{
	uint64_t quote = word ^ BYTES('"'), back = word ^ BYTES('\\');

	return ((word - BYTES(0x20)) | (quote - BYTES(1)) | (back - BYTES(1)) | word) & BYTES(0x80);
}

/* Plain ASCII is copied as it is, eight bytes at once; the rest is left to tr_json_add_string. */
static inline void
put_string(struct tr_buf *buf, struct tr_str str)
{
	uint64_t word;
	size_t at = 0;
	char *to;

	if (buf->failed || buf->cap - buf->len < str.len + 3) {
		tr_json_add_string(buf, str);
		return;
	}
	to = buf->data + buf->len;
	*to++ = '"';
	for (; at + 8 <= str.len; at += 8) {
		memcpy(&word, str.data + at, 8);
		if (is_special(word))
			goto special;
		memcpy(to + at, &word, 8);
	}
	if (at < str.len && str.len >= 8) { /* the last eight again */
		memcpy(&word, str.data + str.len - 8, 8);
		if (is_special(word))
			goto special;
		memcpy(to + str.len - 8, &word, 8);
	} else {
		for (; at < str.len; at++) {
			unsigned char c = (unsigned char)str.data[at];

			if (c < 0x20 || c >= 0x80 || c == '"' || c == '\\')
				goto special;
			to[at] = (char)c;
		}
	}
	to[str.len] = '"';
	buf->len += str.len + 2;
	return;
special: /* nothing was added: len is what it was */
	tr_json_add_string(buf, str);
}

static inline void
put_int(struct tr_buf *buf, int64_t value)
{
	char digits[24], *at = digits + sizeof digits;
	uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;

	do {
		*--at = (char)('0' + rest % 10);
		rest /= 10;
	} while (rest != 0);
	if (value < 0)
		*--at = '-';
	put(buf, at, (size_t)(digits + sizeof digits - at));
}

static inline void
put_string_or_null(struct tr_buf *buf, struct tr_str str)
{
	if (str.data != NULL)
		put_string(buf, str);
	else
		PUT(buf, "null");
}

/* Events come many a second: the day and second are formatted once. */
struct second {
	int64_t s;
	char text[20]; /* "2026-07-25T17:20:12" */
	bool known;
};

static void
put_time(struct tr_buf *buf, int64_t wall_ns, struct second *second)
{
	int64_t s = wall_ns / TR_NS_PER_S, frac = wall_ns % TR_NS_PER_S;
	char digits[11] = ".";
	int count = 9;

	if (frac < 0) {
		frac += TR_NS_PER_S;
		s--;
	}
	if (!second->known || second->s != s) {
		char text[32];

		(void)tr_rfc3339(s * TR_NS_PER_S, text);
		memcpy(second->text, text, 19);
		second->s = s;
		second->known = true;
	}
	PUT(buf, "\"");
	put(buf, second->text, 19);
	if (frac != 0) {
		int64_t rest = frac;

		for (int i = 9; i > 0; i--) {
			digits[i] = (char)('0' + rest % 10);
			rest /= 10;
		}
		if (frac % 1000 == 0)
			count = frac % 1000000 == 0 ? 3 : 6;
		put(buf, digits, (size_t)count + 1);
	}
	PUT(buf, "Z\"");
}

static void
put_recipients(struct tr_buf *buf, const struct tr_event *event)
{
	const struct tr_message *message = event->message;
	uint32_t count = event->rcpts != NULL ? event->rcpt_count : message != NULL ? message->rcpt_count : 0;

	if (count == 0 && (message == NULL || event->type == TR_EV_REJECTION)) {
		PUT(buf, "\"\"");
		return;
	}
	if (count != 1)
		PUT(buf, "[");
	for (uint32_t i = 0; i < count; i++) {
		if (i > 0)
			PUT(buf, ",");
		put_string(buf, tr_addr_str(event->rcpts != NULL ? event->rcpts[i] : &message->rcpts[i]));
	}
	if (count != 1)
		PUT(buf, "]");
}

static void
put_queue(struct tr_buf *buf, const struct tr_event *event)
{
	const struct tr_message *message = event->message;
	struct tr_buf name = {0};
	const char *error;

	if (event->queue.data != NULL) {
		put_string(buf, event->queue);
	} else if (message == NULL) {
		PUT(buf, "\"\"");
	} else if (message->queue != NULL) {
		put_string(buf, tr_str(message->queue));
	} else if (tr_message_queue_name(message, &name, &error) == TR_OK) {
		put_string(buf, (struct tr_str){name.data, name.len});
	} else {
		put_string(buf, error != NULL ? tr_str(error) : TR_STR("no recipient"));
	}
	tr_buf_free(&name);
}

/* CRLF, lone CR and lone LF become one blank each. */
static void
put_one_line(struct tr_buf *buf, struct tr_str text)
{
	struct tr_buf line = {0};

	if (text.len == 0 || (memchr(text.data, '\n', text.len) == NULL && memchr(text.data, '\r', text.len) == NULL)) {
		put_string(buf, text);
		return;
	}
	for (size_t i = 0; i < text.len; i++) {
		char c = text.data[i];

		if (c == '\r' && i + 1 < text.len && text.data[i + 1] == '\n')
			continue;
		tr_buf_addc(&line, c == '\r' || c == '\n' ? ' ' : c);
	}
	tr_json_add_string(buf, (struct tr_str){line.data, line.len});
	if (line.failed)
		buf->failed = true;
	tr_buf_free(&line);
}

static void
put_response(struct tr_buf *buf, const struct tr_response *response)
{
	PUT(buf, ",\"response\":{\"code\":");
	put_int(buf, response->code);
	if (response->enhanced[0] != 0) {
		PUT(buf, ",\"enhanced_code\":{\"class\":");
		put_int(buf, response->enhanced[0]);
		PUT(buf, ",\"subject\":");
		put_int(buf, response->enhanced[1]);
		PUT(buf, ",\"detail\":");
		put_int(buf, response->enhanced[2]);
		PUT(buf, "},\"content\":");
	} else {
		PUT(buf, ",\"enhanced_code\":null,\"content\":");
	}
	put_one_line(buf, response->content);
	PUT(buf, ",\"command\":");
	put_string_or_null(buf, response->command);
	PUT(buf, "}");
}

static void
put_captured(struct tr_buf *buf, const struct tr_event *event, const struct tr_capture *capture)
{
	const struct tr_meta *meta = event->meta != NULL      ? event->meta
				     : event->message != NULL ? &event->message->meta
							      : NULL;
	const char *const *names = capture != NULL ? capture->meta : NULL;
	const char *const *headers = capture != NULL ? capture->headers : NULL;

	if (meta != NULL && names != NULL && names[0] != NULL) {
		PUT(buf, ",\"meta\":");
		tr_capture_meta_json(meta, names, buf);
	} else {
		PUT(buf, ",\"meta\":{}");
	}
	if (event->type != TR_EV_REJECTION && headers != NULL && headers[0] != NULL) {
		PUT(buf, ",\"headers\":");
		tr_capture_headers_json(event->message, headers, buf);
	} else {
		PUT(buf, ",\"headers\":{}");
	}
}

void
tr_record_encode(const struct tr_event *event, const char *nodeid, const char event_id[33],
	const struct tr_capture *capture, struct tr_buf *out)
{
	static _Thread_local struct second at_second, created_second;
	const struct tr_message *message = event->message;
	int64_t when_ns = event->when_ns != 0 ? event->when_ns : tr_wall_ns();
	int64_t created_ns = message != NULL ? message->created_ns : when_ns;
	struct tr_str protocol = {NULL, 0};

	(void)tr_buf_reserve(out, 1536); /* most records fit: no growing in between */
	PUT(out, "{\"type\":");
	put_string(out, tr_str(tr_event_type_name(event->type)));
	PUT(out, ",\"id\":\"");
	if (message != NULL) {
		char id[33];

		tr_uuid_hex(message->id, id);
		put(out, id, 32);
	}
	PUT(out, "\",\"event_id\":\"");
	put(out, event_id, 32);
	PUT(out, "\",\"sender\":");
	if (event->sender != NULL)
		put_string(out, tr_addr_str(event->sender));
	else if (message != NULL)
		put_string(out, tr_addr_str(&message->sender));
	else
		PUT(out, "\"\"");
	PUT(out, ",\"recipient\":");
	put_recipients(out, event);
	PUT(out, ",\"queue\":");
	put_queue(out, event);
	PUT(out, ",\"site\":");
	put_string(out, event->site);
	PUT(out, ",\"size\":");
	put_int(out, message != NULL && event->type != TR_EV_OOB && message->body.data != NULL
			     ? (int64_t)tr_message_size(message)
			     : 0);
	put_response(out, &event->response);
	PUT(out, ",\"peer_address\":");
	if (event->has_peer) {
		PUT(out, "{\"name\":");
		put_string(out, event->peer_name);
		PUT(out, ",\"addr\":");
		put_string(out, event->peer_addr);
		PUT(out, "}");
	} else {
		PUT(out, "null");
	}
	PUT(out, ",\"timestamp\":");
	put_int(out, when_ns / TR_NS_PER_S);
	PUT(out, ",\"event_time\":");
	put_time(out, when_ns, &at_second);
	PUT(out, ",\"created\":");
	put_int(out, created_ns / TR_NS_PER_S);
	PUT(out, ",\"created_time\":");
	put_time(out, created_ns, &created_second);
	PUT(out, ",\"num_attempts\":");
	put_int(out, event->num_attempts >= 0 ? event->num_attempts : message != NULL ? message->attempts : 0);
	PUT(out, ",\"bounce_classification\":\"Uncategorized\",\"egress_pool\":");
	put_string_or_null(out, event->egress_pool);
	PUT(out, ",\"egress_source\":");
	put_string_or_null(out, event->egress_source);
	PUT(out, ",\"source_address\":");
	if (event->source_address.data != NULL) {
		PUT(out, "{\"address\":");
		put_string(out, event->source_address);
		if (event->proxy_server.data != NULL) {
			PUT(out, ",\"server\":");
			put_string(out, event->proxy_server);
			PUT(out, ",\"protocol\":");
			put_string(out, event->proxy_protocol);
		}
		PUT(out, "}");
	} else {
		PUT(out, "null");
	}
	PUT(out, ",\"feedback_report\":null");
	put_captured(out, event, capture);
	PUT(out, ",\"delivery_protocol\":");
	put_string_or_null(out, event->delivery_protocol);
	PUT(out, ",\"reception_protocol\":");
	if (message != NULL)
		protocol = tr_meta_get(&message->meta, TR_STR("reception_protocol"));
	if (protocol.data != NULL && protocol.len > 0 && protocol.data[0] == '"')
		put(out, protocol.data, protocol.len); /* a JSON string already */
	else
		PUT(out, "null");
	PUT(out, ",\"nodeid\":");
	put_string(out, tr_str(nodeid));
	if (event->tls_cipher.data != NULL) {
		PUT(out, ",\"tls_cipher\":");
		put_string(out, event->tls_cipher);
	}
	if (event->tls_protocol.data != NULL) {
		PUT(out, ",\"tls_protocol_version\":");
		put_string(out, event->tls_protocol);
	}
	if (event->provider.data != NULL) {
		PUT(out, ",\"provider_name\":");
		put_string(out, event->provider);
	}
	if (event->session_id.data != NULL) {
		PUT(out, ",\"session_id\":");
		put_string(out, event->session_id);
	}
	PUT(out, "}");
}
