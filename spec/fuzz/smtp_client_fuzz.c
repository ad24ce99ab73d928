/* The SMTP client against a peer that says anything: connect and two messages over whatever connections that gives. The
 * first byte chooses pipelining, LMTP and the number of candidates; then come pieces that end with a zero byte, each
 * said when the client has said something. Time is virtual, so silence costs nothing. Every operation ends, and after
 * one that went through each recipient has a result. */
#include "base/clock.h"
#include "net/scripted.h"
#include "transport/smtp_client.h"

#include "fuzz.h"

#define LIMIT_NS (3600 * TR_NS_PER_S)
#define RCPTS 3

static struct {
	struct tr_loop *loop;
	struct tr_dns *dns;
	struct tr_scripted *script;
	struct tr_sockaddr at;
	struct fuzz_in in;
	struct tr_stream *peer; /* NULL: none */
	bool ended;
	int status;
} fuzz;

static void
hang_up(void)
{
	if (fuzz.peer != NULL)
		tr_stream_close(fuzz.peer, 0);
	fuzz.peer = NULL;
}

static void
say(void)
{
	const char *text;

	if (fuzz.in.at >= fuzz.in.end) {
		hang_up();
		return;
	}
	size_t len = fuzz_until(&fuzz.in, 0, &text);
	tr_stream_write(fuzz.peer, text, len);
}

static void
heard(struct tr_stream *stream, void *arg)
{
	struct tr_buf *input = tr_stream_input(stream);

	tr_buf_consume(input, input->len);
	say();
}

static void
gone(struct tr_stream *stream, int err, void *arg)
{
	hang_up();
}

static void
accepted(void *arg, const struct tr_scripted_end *end)
{
	static const struct tr_stream_handlers handlers = {heard, NULL, gone};

	hang_up();
	fuzz.peer = end->stream;
	tr_stream_set_handlers(fuzz.peer, &handlers, NULL);
	say();
}

static void
done(void *arg, int status)
{
	fuzz.ended = true;
	fuzz.status = status;
}

static bool
has_ended(void *arg)
{
	return fuzz.ended;
}

static void
set_up(void)
{
	if (fuzz.loop != NULL)
		return;
	tr_clock_virtual(INT64_C(1785000000) * TR_NS_PER_S);
	need(tr_loop_new(&fuzz.loop) == TR_OK);
	tr_loop_enter(fuzz.loop);
	need(tr_dns_new(fuzz.loop, &fuzz.dns) == TR_OK);
	need(tr_sockaddr_parse(TR_STR("192.0.2.1"), 25, &fuzz.at) == TR_OK);
	need(tr_scripted_new(fuzz.loop, accepted, NULL, &fuzz.script) == TR_OK);
	need(tr_scripted_set(fuzz.script, &fuzz.at, TR_SCRIPTED_OPEN) == TR_OK);
}

static void
wait_for_it(void)
{
	need(tr_loop_run_until(fuzz.loop, has_ended, NULL, LIMIT_NS));
}

static void
send_one(struct tr_smtpc *smtp, struct tr_message *message)
{
	fuzz.ended = false;
	tr_smtpc_send(smtp, message, done, NULL);
	wait_for_it();
	need(fuzz.status == TR_OK || fuzz.status == TR_EAGAIN);
	for (uint32_t i = 0; fuzz.status == TR_OK && i < message->rcpt_count; i++) {
		struct tr_smtpc_result result;
		char *copy;

		tr_smtpc_result(smtp, i, &result);
		need(result.text.data != NULL);
		copy = fuzz_copy(result.text.data, result.text.len);
		free(copy);
		need(result.kind != TR_SMTPC_DELIVERED || (result.code >= 200 && result.code <= 299));
		if (i == 1)
			tr_smtpc_rewrite(smtp, i, 451);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static const char body[] = "Subject: x\r\n\r\n.dot\r\nno end";
	struct tr_smtpc_host hosts[2];
	struct tr_smtpc *smtp = NULL;
	struct tr_message *message;
	uint8_t first;

	set_up();
	fuzz.in = (struct fuzz_in){data, data + len};
	first = fuzz_byte(&fuzz.in);
	for (size_t i = 0; i < 2; i++)
		hosts[i] = (struct tr_smtpc_host){.name = "mx.test", .port = 25, .addr = fuzz.at};
	struct tr_smtpc_config config = {
		.connect_timeout_ns = 5 * TR_NS_PER_S,
		.banner_timeout_ns = 5 * TR_NS_PER_S,
		.ehlo_timeout_ns = 5 * TR_NS_PER_S,
		.mail_from_timeout_ns = 5 * TR_NS_PER_S,
		.rcpt_to_timeout_ns = 5 * TR_NS_PER_S,
		.data_timeout_ns = 5 * TR_NS_PER_S,
		.data_dot_timeout_ns = 5 * TR_NS_PER_S,
		.rset_timeout_ns = TR_NS_PER_S,
		.max_recipients_per_batch = first & 8 ? 1 : 100,
		.port = 25,
		.enable_pipelining = (first & 1) != 0,
		.enable_rset = (first & 2) != 0,
		.use_lmtp = (first & 4) != 0,
		.reconnect = (enum tr_smtpc_reconnect)((first >> 4) % 3),
		.ehlo_name = "me.test",
		.hosts = hosts,
		.host_count = first & 128 ? 2 : 1,
	};
	message = tr_message_new();
	need(message != NULL && tr_message_set_sender(message, TR_STR("a@b.test")) == TR_OK);
	for (int i = 0; i < RCPTS; i++)
		need(tr_message_add_rcpt(message, TR_STR("c@d.test")) == TR_OK);
	need(tr_message_set_data(message, TR_STR(body)) == TR_OK);
	need(tr_smtpc_new(fuzz.loop, fuzz.dns, &config, &smtp) == TR_OK);
	fuzz.ended = false;
	tr_smtpc_connect(smtp, done, NULL);
	wait_for_it();
	need(fuzz.status == TR_OK || fuzz.status == TR_ECLOSED);
	(void)tr_smtpc_error(smtp);
	if (fuzz.status == TR_OK) {
		send_one(smtp, message);
		send_one(smtp, message);
	}
	tr_smtpc_close(smtp);
	tr_smtpc_free(smtp);
	hang_up();
	tr_message_free(message);
	for (int i = 0; i < 3; i++)
		tr_loop_turn(fuzz.loop);
	return 0;
}
