/* What the server of a NATS connection says, and the stream that it comes by. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/json.h"
#include "transport/nats_internal.h"

enum {
	LINE_MAX_BYTES = 256 * 1024, /* INFO tells all servers of a cluster */
	ACK_MAX_BYTES = 1024 * 1024,
	INPUT_BYTES = LINE_MAX_BYTES + ACK_MAX_BYTES + 4, /* the largest message with its line ends fits */
	TOKENS_MAX = 6,
};

/* --- what the server says ----------------------------------------------------------------------------------------- */

static void
failed(struct tr_nats_connection *connection, int err, const char *fmt, ...)
{
	char text[256];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof text, fmt, args);
	va_end(args);
	if (connection->state == TR_NATS_UP)
		tr_nats_link_lost(connection, err, "the connection was lost: %s", text);
	else
		tr_nats_link_failed(connection, err, "%s", text);
}

/* INBOX.ENTRY-GENERATION; the entry still awaits it, else NULL. */
static struct tr_nats_entry *
find_entry(const struct tr_nats_connection *connection, struct tr_str subject)
{
	const char *at = subject.data + connection->inbox_len, *end = subject.data + subject.len;
	uint32_t numbers[2] = {0, 0};
	struct tr_nats_entry *entry;

	if (subject.len < connection->inbox_len + 4 ||
		memcmp(subject.data, connection->inbox, connection->inbox_len) != 0 || *at++ != '.')
		return NULL;
	for (int i = 0; i < 2; i++) {
		const char *first = at;

		for (; at < end && *at != '-'; at++) {
			char c = *at;
			uint32_t digit = c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10) : (uint32_t)(c - '0');

			if (digit > 15 || at - first == 8)
				return NULL;
			numbers[i] = numbers[i] << 4 | digit;
		}
		if (at == first || (i == 0 ? at++ == end : at != end))
			return NULL;
	}
	if (numbers[0] >= connection->settings.pending_max)
		return NULL;
	entry = &connection->entries[numbers[0]];
	return entry->batch != NULL && entry->generation == numbers[1] ? entry : NULL;
}

static void
on_message(struct tr_nats_connection *connection, struct tr_str subject, struct tr_str headers, struct tr_str body)
{
	const struct tr_nats_entry *entry = find_entry(connection, subject);
	struct tr_nats_result result = {.err = TR_OK};
	struct tr_buf memory = {0};

	if (entry == NULL)
		return; /* late, or from somebody who guesses */
	if (headers.len >= sizeof "NATS/1.0 503" - 1 && memcmp(headers.data, "NATS/1.0 503", 12) == 0) {
		result.err = TR_ENOENT;
		result.text = TR_STR("no responders: no stream takes this subject, or JetStream is not available");
	} else if (!entry->batch->pub.brief || !tr_nats_plain_ack(body)) {
		tr_nats_parse_ack(body, &result, &memory);
	}
	tr_nats_tell(entry->batch, entry->index, &result, &memory);
	tr_buf_free(&memory);
}

/* Begins TLS. */
static void
secure(struct tr_nats_connection *connection)
{
	const struct tr_nats_settings *settings = &connection->settings;
	const struct tr_nats_server *server = connection->server;
	const struct tr_tls_files files = {settings->ca_file.data, settings->cert_file.data, settings->key_file.data};
	struct tr_buf plain = {0}, wire = {0};
	const char *why = "";

	connection->tls =
		tr_tls_new_with(server->tls_name != NULL ? server->tls_name : server->host, true, &files, &why);
	if (connection->tls == NULL) {
		tr_nats_link_failed(connection, TR_EPROTO, "TLS: %s", why);
		return;
	}
	connection->state = TR_NATS_SECURING;
	if (tr_tls_feed(connection->tls, NULL, 0, &plain, &wire) != TR_OK) {
		tr_buf_free(&wire);
		tr_nats_link_failed(connection, TR_EPROTO, "%s", tr_tls_error(connection->tls));
		return;
	}
	tr_stream_write(connection->stream, wire.data, wire.len);
	tr_buf_free(&wire);
}

static bool
is_true(struct tr_str object, const char *name)
{
	return tr_str_eq(tr_json_get(object, name), TR_STR("true"));
}

/* CONNECT, the inbox, and a PING whose PONG says that all is well. */
static void
greet(struct tr_nats_connection *connection, struct tr_str info)
{
	char why[256] = "out of memory";
	int err = tr_nats_login(&connection->settings, connection->server, info, &connection->out, why);

	if (err != TR_OK) {
		tr_buf_free(&connection->out);
		tr_nats_link_failed(connection, err == TR_EINVAL ? TR_EPROTO : err, "%s", why);
		return;
	}
	connection->state = TR_NATS_GREETING;
	tr_buf_addf(&connection->out, "SUB %s.* 1\r\nPING\r\n", connection->inbox);
	tr_nats_wire_flush(connection);
}

/* Nonsense leaves what there is: no message is refused for good by a limit that nobody has set. */
static void
limit_payload(struct tr_nats_connection *connection, struct tr_str number)
{
	int64_t limit = 0;

	for (size_t i = 0; i < number.len; i++) {
		if (number.data[i] < '0' || number.data[i] > '9' || limit > INT64_MAX / 10 - 1)
			return;
		limit = limit * 10 + (number.data[i] - '0');
	}
	if (limit > 0)
		connection->max_payload = limit;
}

static void
on_info(struct tr_nats_connection *connection, struct tr_str info)
{
	struct tr_str urls, key, url;
	size_t at = 0;

	if (tr_json_check(info, &at) != TR_OK || tr_json_type(info) != TR_JSON_OBJECT) {
		failed(connection, TR_EPROTO, "its INFO is no JSON object");
		return;
	}
	limit_payload(connection, tr_json_get(info, "max_payload"));
	urls = tr_json_get(info, "connect_urls");
	at = 0;
	if (urls.data != NULL && tr_json_type(urls) == TR_JSON_ARRAY && !connection->settings.ignore_discovered) {
		while (tr_json_next(urls, &at, &key, &url)) {
			if (tr_json_type(url) == TR_JSON_STRING && url.len > 2)
				tr_nats_link_found(connection, (struct tr_str){url.data + 1, url.len - 2});
		}
		tr_nats_link_found_all(connection);
	}
	if (connection->state != TR_NATS_INFO)
		return;
	if (!connection->settings.tls && !is_true(info, "tls_required")) {
		greet(connection, info);
	} else if (!is_true(info, "tls_required") && !is_true(info, "tls_available")) {
		tr_nats_link_failed(connection, TR_EPROTO, "the server has no TLS");
	} else {
		tr_buf_clear(&connection->plain); /* for the challenge, which is answered when it is secure */
		tr_buf_add_str(&connection->plain, info);
		secure(connection);
	}
}

/* Permissions Violation for Publish to "SUBJECT" */
static void
not_permitted(struct tr_nats_connection *connection)
{
	const char *to = strstr(connection->said, " to \""), *end = to != NULL ? strchr(to + 5, '"') : NULL;
	char text[sizeof connection->said + 20];

	if (strstr(connection->said, "ublish") == NULL || end == NULL)
		return;
	snprintf(text, sizeof text, "not permitted: %s", connection->said);
	tr_nats_fail_sent(connection, (struct tr_str){to + 5, (size_t)(end - to - 5)}, TR_EPROTO, text);
	connection->said[0] = '\0'; /* no reason of an end */
}

static void
on_error(struct tr_nats_connection *connection, struct tr_str text)
{
	char said[sizeof connection->said];

	while (text.len > 0 && (*text.data == ' ' || *text.data == '\'')) {
		text.data++;
		text.len--;
	}
	while (text.len > 0 && text.data[text.len - 1] == '\'')
		text.len--;
	snprintf(said, sizeof said, "%.*s", (int)tr_min_i64((int64_t)text.len, sizeof said - 1), text.data);
	for (char *at = said; *at != '\0'; at++) {
		if ((unsigned char)*at < ' ')
			*at = ' ';
	}
	memcpy(connection->said, said, sizeof said);
	if (connection->state != TR_NATS_UP) {
		tr_nats_link_failed(connection, TR_EPROTO, "%s", said);
		return;
	}
	tr_log(TR_LEVEL_WARN, "nats", "%s: %s", connection->server->shown, said);
	if (strncasecmp(said, "Permissions Violation", 21) == 0)
		not_permitted(connection);
}

static uint32_t
split(struct tr_str line, struct tr_str tokens[TOKENS_MAX])
{
	const char *at = line.data, *end = at + line.len;
	uint32_t count = 0;

	while (count < TOKENS_MAX) {
		while (at < end && (*at == ' ' || *at == '\t'))
			at++;
		if (at == end)
			break;
		tokens[count].data = at;
		while (at < end && *at != ' ' && *at != '\t')
			at++;
		tokens[count].len = (size_t)(at - tokens[count].data);
		count++;
	}
	return count;
}

/* False: no number, or more than an acknowledgement has. */
static bool
read_size(struct tr_str text, size_t *out)
{
	*out = 0;
	for (size_t i = 0; i < text.len; i++) {
		if (text.data[i] < '0' || text.data[i] > '9')
			return false;
		*out = *out * 10 + (size_t)(text.data[i] - '0');
		if (*out > ACK_MAX_BYTES)
			return false;
	}
	return text.len > 0;
}

/* MSG subject sid [reply] bytes, HMSG subject sid [reply] header-bytes bytes. Returns the bytes of its body that were
 * used, or -1: more must come first. */
static ssize_t
take_message(struct tr_nats_connection *connection, struct tr_str line, const char *rest, size_t rest_len)
{
	struct tr_str tokens[TOKENS_MAX];
	uint32_t count = split(line, tokens), sizes = line.data[0] == 'H' ? 2 : 1;
	size_t header_len = 0, total;

	if (count < 3 + sizes || count > 4 + sizes || !read_size(tokens[count - 1], &total) ||
		(sizes == 2 && (!read_size(tokens[count - 2], &header_len) || header_len > total))) {
		failed(connection, TR_EPROTO, "a message that makes no sense");
		return 0;
	}
	if (rest_len < total + 2)
		return -1;
	if (memcmp(rest + total, "\r\n", 2) != 0) {
		failed(connection, TR_EPROTO, "a message that is not as long as it says");
		return 0;
	}
	on_message(connection, tokens[1], (struct tr_str){rest, header_len},
		(struct tr_str){rest + header_len, total - header_len});
	return (ssize_t)total + 2;
}

static bool
begins(struct tr_str line, const char *word)
{
	size_t len = strlen(word);

	return line.len >= len && strncasecmp(line.data, word, len) == 0;
}

/* Takes one line, with a body if it has one; returns the bytes used, 0: more must come, or the stream is gone. */
static size_t
take_line(struct tr_nats_connection *connection, const char *data, size_t len)
{
	const char *end = memchr(data, '\n', len);
	struct tr_str line = {data, 0};
	size_t used;

	if ((end != NULL ? (size_t)(end - data) : len) >= LINE_MAX_BYTES) { /* the same however it comes */
		failed(connection, TR_EPROTO, "a line that is too long");
		return 0;
	}
	if (end == NULL)
		return 0;
	used = (size_t)(end - data) + 1;
	line.len = used - 1;
	if (line.len > 0 && data[line.len - 1] == '\r')
		line.len--;
	if (begins(line, "MSG ") || begins(line, "HMSG ")) {
		ssize_t body = take_message(connection, line, end + 1, len - used);

		return body < 0 ? 0 : used + (size_t)body;
	}
	if (connection->state == TR_NATS_INFO && !begins(line, "INFO ") && !begins(line, "-ERR"))
		failed(connection, TR_EPROTO, "it does not speak as a NATS server");
	else if (begins(line, "INFO "))
		on_info(connection, (struct tr_str){line.data + 5, line.len - 5});
	else if (begins(line, "PING"))
		tr_nats_wire_pong(connection);
	else if (begins(line, "-ERR"))
		on_error(connection, (struct tr_str){line.data + 4, line.len - 4});
	else if (begins(line, "PONG") && connection->state == TR_NATS_GREETING)
		tr_nats_link_up(connection);
	else if (begins(line, "PONG"))
		connection->pings = 0;
	else if (!begins(line, "+OK"))
		failed(connection, TR_EPROTO, "what it says makes no sense");
	return used;
}

/* Takes what is whole; returns how much, or the length if the stream is gone. */
static size_t
take(struct tr_nats_connection *connection, const char *data, size_t len)
{
	const struct tr_stream *stream = connection->stream;
	size_t at = 0, used;

	while (at < len && connection->state != TR_NATS_SECURING) {
		used = take_line(connection, data + at, len - at);
		if (connection->stream != stream)
			return len; /* its buffers are gone */
		if (used == 0)
			break;
		at += used;
	}
	return at;
}

/* --- the stream --------------------------------------------------------------------------------------------------- */

static void closed(struct tr_stream *stream, int err, void *arg);

/* Bytes of TLS. True: `plain` has what they say. *last: the server will say no more. */
static bool
decrypt(struct tr_nats_connection *connection, struct tr_buf *input, bool *last)
{
	bool was_ready = tr_tls_is_ready(connection->tls);
	struct tr_buf info = {0}, wire = {0};
	int err;

	if (!was_ready) { /* plain holds INFO */
		info = connection->plain;
		connection->plain = (struct tr_buf){0};
	}
	err = tr_tls_feed(connection->tls, input->data, input->len, &connection->plain, &wire);
	tr_buf_clear(input);
	if (wire.len > 0)
		tr_stream_write(connection->stream, wire.data, wire.len);
	connection->written += wire.len;
	tr_buf_free(&wire);
	*last = err == TR_ECLOSED;
	if (err != TR_OK && !*last) {
		failed(connection, err, "%s", err == TR_EPROTO ? tr_tls_error(connection->tls) : tr_err_text(err));
	} else if (!was_ready && tr_tls_is_ready(connection->tls)) {
		greet(connection, (struct tr_str){info.data, info.len});
	} else if (!was_ready) {
		connection->plain = info;
		return false; /* not yet */
	}
	tr_buf_free(&info);
	return (err == TR_OK || *last) && connection->tls != NULL;
}

static void
data(struct tr_stream *stream, void *arg)
{
	struct tr_nats_connection *connection = arg;
	struct tr_buf *input = tr_stream_input(stream);
	bool last = false;
	size_t used;

	if (connection->tls == NULL) {
		used = take(connection, input->data, input->len);
		if (connection->stream != stream)
			return;
		tr_buf_consume(input, used);
	} else if (decrypt(connection, input, &last)) {
		used = take(connection, connection->plain.data, connection->plain.len);
		if (connection->stream != stream)
			return;
		tr_buf_consume(&connection->plain, used);
	}
	if (last && connection->stream == stream) /* acknowledgements and reasons that came with the end count */
		closed(stream, TR_ECLOSED, connection);
	else if (connection->state == TR_NATS_UP)
		tr_nats_wire_pump(connection); /* acknowledgements have made room */
}

static void
drained(struct tr_stream *stream, void *arg)
{
	tr_nats_wire_pump(arg);
}

static void
closed(struct tr_stream *stream, int err, void *arg)
{
	struct tr_nats_connection *connection = arg;

	if (connection->state == TR_NATS_UP && connection->said[0] != '\0')
		tr_nats_link_lost(connection, TR_ECLOSED, "the connection was lost: %s", connection->said);
	else if (connection->state == TR_NATS_UP)
		tr_nats_link_lost(connection, TR_ECLOSED, "the connection was lost");
	else
		tr_nats_link_failed(connection, TR_ECLOSED, "it closed the connection");
}

void
tr_nats_read_start(struct tr_nats_connection *connection, struct tr_stream *stream)
{
	static const struct tr_stream_handlers handlers = {data, drained, closed};

	connection->state = TR_NATS_INFO;
	connection->stream = stream;
	connection->said[0] = '\0';
	connection->pings = 0;
	connection->written = connection->taken = 0;
	connection->max_payload = INT64_MAX;
	tr_stream_set_input_limit(stream, INPUT_BYTES);
	tr_stream_set_handlers(stream, &handlers, connection);
}

void
tr_nats_read_end(struct tr_nats_connection *connection, int64_t linger_ns)
{
	if (connection->stream == NULL)
		return;
	tr_timer_stop(tr_loop_wheel(connection->nats->loop), &connection->stall);
	tr_stream_close(connection->stream, linger_ns);
	connection->stream = NULL;
	tr_tls_free(connection->tls);
	connection->tls = NULL;
	tr_buf_free(&connection->plain);
	tr_buf_free(&connection->out);
}
