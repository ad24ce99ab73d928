/* The NATS client against a server that says anything: two calls of five messages. The first byte chooses settings, the
 * second the length of pieces; then come, where the settings say so, a credentials file up to a zero byte, and what the
 * server says. There a byte 31, n, c stands for n * 4 KiB of c, so that lines and bodies without end are short inputs.
 * It is given to the client as a whole and in pieces, in memory that ends where it ends (but for large ones). Time is
 * virtual.
 *
 * Both ways end alike, and each call ends; what is buffered stays below the limit at which reading would stop; a
 * message is published only if the server has said so to the subject that the client gave it, is written once at most,
 * and nothing at all goes out in the clear where TLS is wanted. */
#include <strings.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/json.h"
#include "net/scripted.h"
#include "net/stream_internal.h"
#include "transport/nats_internal.h"

#include "fuzz.h"

#define LIMIT_NS (3600 * TR_NS_PER_S)
#define SAID_MAX (1536u * 1024) /* more than the client keeps */
#define LARGE (8u * 1024)       /* goes in large pieces */

enum { TLS = 1, CREDENTIALS = 2, BRIEF = 4, NARROW = 8, HANGS_UP = 16, IGNORE = 32, RETRY = 64, NAMED = 128 };
enum { CALLS = 2, MESSAGES = 3, REPEAT = 31, TURNS = 3 };

/* Of nobody: something to trust, so that TLS begins without reading all that the system trusts. */
static const char authority[] = "-----BEGIN CERTIFICATE-----\n"
				"MIIBLjCB4aADAgECAhRfTsA31VxYJRYjJrJU/h+zPC1pMzAFBgMrZXAwDDEKMAgG\n"
				"A1UEAwwBeDAgFw0yNjExMjYwOTI0MDlaGA8yMTI2MTEwMjA5MjQwOVowDDEKMAgG\n"
				"A1UEAwwBeDAqMAUGAytlcAMhAJ6T5IZtJZDtYlsdESaoqQflO0pRNI40jULDOzAe\n"
				"W2TQo1MwUTAdBgNVHQ4EFgQUH2ucMMwcqHtPXAVPZI+/30DM+44wHwYDVR0jBBgw\n"
				"FoAUH2ucMMwcqHtPXAVPZI+/30DM+44wDwYDVR0TAQH/BAUwAwEB/zAFBgMrZXAD\n"
				"QQAnLVhnGoMQuF+AWH/ZjdwdTUG7ajKje6+6SGCdQGQBvL/6CutNy7sO5T5mJrgm\n"
				"ei20j+uBqlDS+rhs9KgQMmgP\n"
				"-----END CERTIFICATE-----\n";

static const char *const subjects[CALLS][MESSAGES] = {{"m0.0", "m0.1", "m0.2"}, {"m1.0", "m1.1"}};

static struct {
	struct tr_loop *loop;
	struct tr_dns *dns;
	struct tr_sockaddr at;
	int authority_fd, credentials_fd; /* of memory */
	char authority[32], credentials[32];
	uint8_t flags;
	struct tr_buf said; /* by the server, of this input */
} fuzz;

/* One way of telling it. */
struct way {
	struct tr_nats *nats;
	struct tr_nats_connection *connection;
	struct tr_nats_call *calls[CALLS];
	uint32_t done[CALLS];
	struct tr_stream *peer; /* NULL: none */
	uint32_t peers;
	struct tr_buf heard, story;
};

static void
no_line(void *arg, enum tr_level level, const char *target, const char *text)
{
}

static int
memory_file(char path[32])
{
	int fd = memfd_create("nats_fuzz", 0);

	need(fd >= 0);
	snprintf(path, 32, "/proc/self/fd/%d", fd);
	return fd;
}

static void
put(int fd, const void *data, size_t len)
{
	need(ftruncate(fd, 0) == 0 && pwrite(fd, data, len, 0) == (ssize_t)len);
}

static void
set_up(void)
{
	if (fuzz.loop != NULL)
		return;
	tr_log_sink(no_line, NULL);
	tr_clock_virtual(INT64_C(1785000000) * TR_NS_PER_S);
	need(tr_loop_new(&fuzz.loop) == TR_OK);
	tr_loop_enter(fuzz.loop);
	need(tr_dns_new(fuzz.loop, &fuzz.dns) == TR_OK);
	need(tr_sockaddr_parse(TR_STR("192.0.2.1"), TR_NATS_PORT, &fuzz.at) == TR_OK);
	fuzz.authority_fd = memory_file(fuzz.authority);
	fuzz.credentials_fd = memory_file(fuzz.credentials);
	put(fuzz.authority_fd, authority, sizeof authority - 1);
}

/* --- the server --------------------------------------------------------------------------------------------------- */

static void
hang_up(struct way *way)
{
	if (way->peer != NULL)
		tr_stream_close(way->peer, 0);
	way->peer = NULL;
}

static void
heard(struct tr_stream *stream, void *arg)
{
	struct way *way = arg;
	struct tr_buf *input = tr_stream_input(stream);

	tr_buf_add(&way->heard, input->data, input->len);
	tr_buf_consume(input, input->len);
}

static void
gone(struct tr_stream *stream, int err, void *arg)
{
	hang_up(arg);
}

/* The first connection is told what the input says; later ones end at once. */
static void
accepted(void *arg, const struct tr_scripted_end *end)
{
	static const struct tr_stream_handlers handlers = {heard, NULL, gone};
	struct way *way = arg;

	if (way->peers++ > 0) {
		tr_stream_close(end->stream, 0);
		return;
	}
	way->peer = end->stream;
	tr_stream_set_handlers(way->peer, &handlers, way);
}

/* As if it had been read: at most so many bytes at a time. */
static void
say(const struct way *way, size_t step)
{
	struct tr_stream *stream = way->connection->stream;

	for (size_t at = 0; at < fuzz.said.len && way->connection->stream == stream;) {
		struct tr_buf *input = &stream->in;
		size_t len = fuzz.said.len - at;

		need(input->len < stream->in_limit); /* else it waits for bytes and reads none */
		if (len > step)
			len = step;
		if (len > stream->in_limit - input->len)
			len = stream->in_limit - input->len;
		tr_buf_add(input, fuzz.said.data + at, len);
		if (input->len <= LARGE) {
			char *exact = fuzz_copy(input->data, input->len);

			free(input->data);
			input->data = exact;
			input->cap = input->len;
		}
		at += len;
		stream->handlers->data(stream, stream->arg);
	}
}

/* --- the client --------------------------------------------------------------------------------------------------- */

static void
done(struct tr_nats_call *call)
{
	++*(uint32_t *)call->owner;
}

static bool
all_done(void *arg)
{
	const struct way *way = arg;

	return way->done[0] > 0 && way->done[1] > 0;
}

static bool
is_connected(void *arg)
{
	const struct way *way = arg;

	return way->connection->state == TR_NATS_INFO;
}

static void
start_call(struct way *way, int index)
{
	static const struct tr_str headers[] = {TR_STR("Nats-Msg-Id"), TR_STR("7")};
	struct tr_nats_call *call = tr_nats_call_new(way->connection, MESSAGES - (uint32_t)index);

	need(call != NULL);
	way->calls[index] = call;
	call->brief = (fuzz.flags & BRIEF) != 0;
	call->done = done;
	call->owner = &way->done[index];
	for (uint32_t i = 0; i < call->count; i++) {
		struct tr_nats_message message = {
			.subject = tr_str(subjects[index][i]),
			.payload = TR_STR("payload"),
			.headers = headers,
			.header_count = i == 1,
			.await_ack = index == 0 || i == 0,
		};

		need(tr_nats_call_add(call, &message) == TR_OK);
	}
	tr_nats_call_start(call);
}

static void
open_connection(struct way *way)
{
	struct tr_nats_settings settings = {
		.servers = {TR_STR("nats://u:p@192.0.2.1")},
		.server_count = 1,
		.tls = (fuzz.flags & TLS) != 0,
		.ca_file = tr_str(fuzz.authority),
		.credentials = tr_str(fuzz.flags & CREDENTIALS ? fuzz.credentials : NULL),
		.name = tr_str(fuzz.flags & NAMED ? "a\"b" : NULL),
		.ignore_discovered = (fuzz.flags & IGNORE) != 0,
		.retry_connect = (fuzz.flags & RETRY) != 0,
		.max_reconnects = 1,
		.pending_max = fuzz.flags & NARROW ? 2 : 8,
		.connect_timeout_ns = 5 * TR_NS_PER_S,
		.ping_interval_ns = 3 * TR_NS_PER_S,
		.request_timeout_ns = 20 * TR_NS_PER_S,
	};

	need(tr_nats_open(way->nats, &settings, &way->connection) == TR_OK);
	strcpy(way->connection->inbox, "I"); /* in place of a random one */
	way->connection->inbox_len = 1;
}

/* --- what must hold ----------------------------------------------------------------------------------------------- */

static bool
contains(const struct tr_buf *buf, const char *text)
{
	return buf->len > 0 && memmem(buf->data, buf->len, text, strlen(text)) != NULL;
}

/* The subject of MSG or HMSG, if the line is one; len 0: no. */
static struct tr_str
subject_of(const char *line, const char *end)
{
	size_t word = end - line >= 4 && strncasecmp(line, "MSG ", 4) == 0    ? 4
		      : end - line >= 5 && strncasecmp(line, "HMSG ", 5) == 0 ? 5
									      : 0;
	const char *from = line + word, *at;

	while (word > 0 && from < end && (*from == ' ' || *from == '\t'))
		from++;
	for (at = from; word > 0 && at < end && *at != ' ' && *at != '\t' && *at != '\n';)
		at++;
	return (struct tr_str){from, (size_t)(at - from)};
}

/* Up to eight hexadecimal digits; false: none, or more. */
static bool
read_hex(const char **at, uint32_t *out)
{
	size_t len = strspn(*at, "0123456789abcdef");

	*out = (uint32_t)strtoul(*at, NULL, 16);
	*at += len;
	return len >= 1 && len <= 8;
}

static bool
is_reply(struct tr_str subject, uint32_t entry, uint32_t generation)
{
	char text[64];
	const char *at = text + 2;
	uint32_t numbers[2];

	if (subject.len >= sizeof text)
		return false;
	memcpy(text, subject.data, subject.len);
	text[subject.len] = '\0';
	return strncmp(text, "I.", 2) == 0 && read_hex(&at, &numbers[0]) && *at++ == '-' &&
	       read_hex(&at, &numbers[1]) && at == text + subject.len && numbers[0] == entry &&
	       numbers[1] == generation;
}

/* Behind its line: as long as the line's last number says, and not "no responders". */
static bool
is_answer(const char *line, const char *end)
{
	const char *body = memchr(line, '\n', (size_t)(end - line)), *number = body;
	char text[16];
	size_t len;

	if (body++ == NULL)
		return false;
	while (number > line && (number[-1] == '\r' || number[-1] == ' ' || number[-1] == '\t'))
		number--;
	while (number > line && number[-1] >= '0' && number[-1] <= '9')
		number--;
	snprintf(text, sizeof text, "%.*s", (int)tr_min_i64(body - number, 15), number);
	len = strtoul(text, NULL, 10);
	return (size_t)(end - body) >= len + 2 && memcmp(body + len, "\r\n", 2) == 0 &&
	       memcmp(body, "NATS/1.0 503", len < 12 ? len + 1 : 12) != 0;
}

/* Has the server answered the message that was given this subject for it? */
static bool
was_answered(uint32_t entry, uint32_t generation)
{
	const char *end = fuzz.said.data + fuzz.said.len;

	for (const char *line = fuzz.said.data; line != NULL && line < end;) {
		if (is_reply(subject_of(line, end), entry, generation) && is_answer(line, end))
			return true;
		line = memchr(line, '\n', (size_t)(end - line));
		line = line != NULL ? line + 1 : NULL;
	}
	return false;
}

/* TLS was wanted, or the server has asked for it, and it has begun. */
static bool
is_secure(const struct way *way)
{
	return (fuzz.flags & TLS) != 0 || (way->heard.len > 0 && way->heard.data[0] == 0x16);
}

/* Where it was written, behind "PUB subject "; NULL: it was not. */
static const char *
written(const struct way *way, const char *subject)
{
	const char *end, *from, *at;
	char verb[16];

	if (way->heard.len == 0)
		return NULL;
	snprintf(verb, sizeof verb, "PUB %s ", subject);
	end = way->heard.data + way->heard.len;
	from = memmem(way->heard.data, way->heard.len, "\r\nSUB I.* 1\r\n", 13);
	at = from != NULL ? memmem(from, (size_t)(end - from), verb, strlen(verb)) : NULL;
	if (at == NULL)
		return NULL;
	at += strlen(verb);
	need(memmem(at, (size_t)(end - at), verb, strlen(verb)) == NULL);
	return at;
}

static void
check_result(const struct way *way, const struct tr_nats_result *result, const char *subject, bool await_ack)
{
	const char *at = written(way, subject);
	unsigned entry, generation;
	char *copy = fuzz_copy(result->text.data, result->text.len);

	free(copy);
	need(result->err == TR_OK || result->text.len > 0);
	need(result->err != TR_OK || (at != NULL && !is_secure(way)));
	need(!result->permanent || result->code != 0 || (result->err == TR_ETOOBIG && at == NULL));
	if (result->err != TR_OK || !await_ack)
		return;
	need(contains(&fuzz.said, "stream"));
	need(sscanf(at, "I.%x-%x ", &entry, &generation) == 2 && was_answered(entry, generation));
}

/* CONNECT {...}, the inbox, a PING */
static void
check_greeting(const struct way *way)
{
	const char *data = way->heard.data, *end;
	size_t error_at;

	if (is_secure(way)) {
		need(!contains(&way->heard, "CONNECT {") && !contains(&way->heard, "PUB "));
		return;
	}
	if (way->heard.len == 0)
		return;
	end = memchr(data, '\n', way->heard.len);
	need(end != NULL && end - data > 10 && end[-1] == '\r');
	if (memcmp(data, "PONG", 4) == 0)
		return; /* to a PING before INFO the connection ends */
	need(memcmp(data, "CONNECT ", 8) == 0);
	need(tr_json_check((struct tr_str){data + 8, (size_t)(end - data) - 9}, &error_at) == TR_OK);
	need(strncmp(end + 1, "SUB I.* 1\r\nPING\r\n", 17) == 0);
}

static void
tell_state(struct way *way)
{
	const struct tr_nats_connection *connection = way->connection;

	tr_buf_addf(&way->story, "state %d, stream %d, payload %lld, said %s, why %s\n", connection->state,
		connection->stream != NULL, (long long)connection->max_payload, connection->said, connection->why);
	for (const struct tr_nats_server *server = connection->servers; server != NULL; server = server->next)
		tr_buf_addf(&way->story, "server %s\n", server->shown);
}

static void
tell_results(struct way *way)
{
	struct tr_str rest = {way->heard.data, way->heard.len};

	for (int i = 0; i < CALLS; i++) {
		need(way->done[i] == 1);
		for (uint32_t k = 0; k < way->calls[i]->count; k++) {
			const char *subject = subjects[i][k];
			struct tr_nats_result result;

			tr_nats_call_result(way->calls[i], k, &result);
			check_result(way, &result, subject, i == 0 || k == 0);
			tr_buf_addf(&way->story, "%s: %d %u %d %llu %d ", subject, result.err, result.code,
				result.permanent, (unsigned long long)result.sequence, result.duplicate);
			tr_buf_add_str(&way->story, result.text);
			tr_buf_add_str(&way->story, result.stream);
			tr_buf_add_str(&way->story, result.domain);
			tr_buf_add_str(&way->story, result.value);
			tr_buf_addc(&way->story, '\n');
		}
	}
	while (rest.len >= 6 && memcmp(rest.data + rest.len - 6, "PING\r\n", 6) == 0)
		rest.len -= 6; /* when the time for one has come */
	tr_buf_add_str(&way->story, rest);
}

static void
go(struct way *way, size_t step)
{
	struct tr_scripted *script;

	need(tr_scripted_new(fuzz.loop, accepted, way, &script) == TR_OK);
	need(tr_scripted_set(script, &fuzz.at, TR_SCRIPTED_OPEN) == TR_OK);
	need(tr_nats_new(fuzz.loop, fuzz.dns, &way->nats) == TR_OK);
	open_connection(way);
	for (int i = 0; i < CALLS; i++)
		start_call(way, i);
	need(tr_loop_run_until(fuzz.loop, is_connected, way, LIMIT_NS));
	say(way, step);
	tell_state(way);
	for (int i = 0; i < TURNS; i++) /* until it is heard */
		tr_loop_turn(fuzz.loop);
	if (fuzz.flags & HANGS_UP)
		hang_up(way);
	need(tr_loop_run_until(fuzz.loop, all_done, way, LIMIT_NS));
	need(way->connection->in_flight == 0 && way->connection->line == NULL && way->connection->max_payload > 0);
	check_greeting(way);
	tell_results(way);
	for (int i = 0; i < CALLS; i++)
		tr_nats_call_free(way->calls[i]);
	tr_nats_unref(way->connection);
	tr_nats_free(way->nats);
	hang_up(way);
	for (int i = 0; i < TURNS; i++)
		tr_loop_turn(fuzz.loop);
	tr_scripted_free(script);
	need(tr_hold_count() == 0);
}

static void
read_said(struct fuzz_in *in)
{
	fuzz.said = (struct tr_buf){0};
	while (in->at < in->end) {
		uint8_t c = *in->at++;
		size_t count = 1;

		if (c == REPEAT && in->end - in->at >= 2) {
			count = (size_t)fuzz_byte(in) * 4096;
			c = fuzz_byte(in);
		}
		if (fuzz.said.len + count > SAID_MAX)
			break;
		need(tr_buf_reserve(&fuzz.said, count + 1) != NULL);
		memset(fuzz.said.data + fuzz.said.len, c, count);
		fuzz.said.len += count;
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct fuzz_in in = {data, data + len};
	struct way whole = {0}, pieces = {0};
	const char *text;
	size_t step;

	set_up();
	fuzz.flags = fuzz_byte(&in);
	step = (size_t)fuzz_byte(&in) + 1;
	if (fuzz.flags & CREDENTIALS) {
		size_t text_len = fuzz_until(&in, 0, &text);

		put(fuzz.credentials_fd, text, text_len);
	}
	read_said(&in);
	if (fuzz.said.len > LARGE)
		step += 4 * LARGE;
	go(&whole, SAID_MAX);
	go(&pieces, step);
	/* A narrow client acknowledges to nobody what the server says before it has heard of it. TLS has random bytes.
	 */
	if ((fuzz.flags & NARROW) == 0 && !is_secure(&whole)) {
		bool same = tr_str_eq((struct tr_str){whole.story.data, whole.story.len},
			(struct tr_str){pieces.story.data, pieces.story.len});

		if (!same)
			fprintf(stderr, "--- as a whole\n%.*s\n--- in pieces\n%.*s\n", (int)whole.story.len,
				whole.story.data, (int)pieces.story.len, pieces.story.data);
		need(same);
	}
	tr_buf_free(&whole.heard);
	tr_buf_free(&whole.story);
	tr_buf_free(&pieces.heard);
	tr_buf_free(&pieces.story);
	tr_buf_free(&fuzz.said);
	return 0;
}
