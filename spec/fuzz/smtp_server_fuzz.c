/* The ESMTP listener's session against a client that says anything, on a real engine. Recipients are taken, and every
 * message is refused once it is whole, so nothing is stored. The first byte tells in pieces of which length the bytes
 * come: the replies are the same as if they came at once, and the session ends with its client. */
#include "../c/queue/rig.h"

#include <errno.h>
#include <sys/socket.h>

#include "ingress/smtp_session.h"

#include "fuzz.h"

#define INPUT_MAX 8192 /* fits into a socket, whatever the system's default */
#define REPLIES_MAX (256 * 1024)
#define LIMIT_NS (3600 * TR_NS_PER_S)

static struct {
	struct rig rig;
	struct tr_smtp_shared shared;
	struct tr_smtp_crowd crowd;
	int fd; /* the client's end */
	char *replies;
	size_t len;
	uint64_t messages;
	bool ready;
} fuzz;

static struct tr_engine *
engine(void *arg)
{
	return fuzz.rig.engine;
}

static bool
wants(void *arg, struct tr_worker *worker, enum tr_smtp_event event)
{
	return event == TR_SMTP_ON_DOMAIN || event == TR_SMTP_ON_MESSAGE || event == TR_SMTP_ON_MAIL;
}

static void
fire(void *arg, struct tr_smtp_session *session, const struct tr_smtp_call *call)
{
	struct tr_smtp_domain domain = {.relay_to = true};
	struct tr_smtp_answer answer = {.reject_code = -1};

	if (call->event == TR_SMTP_ON_DOMAIN) {
		answer.domain = &domain;
	} else if (call->event == TR_SMTP_ON_MESSAGE) {
		need(call->message != NULL && call->message->rcpt_count > 0);
		for (uint32_t i = 0; i < call->message->rcpt_count; i++)
			need(strlen(call->message->rcpts[i].email) == call->message->rcpts[i].len);
		fuzz.messages++;
		answer.reject_code = 550;
		answer.reject_text = TR_STR("not here");
	}
	tr_smtp_session_answer(session, &answer);
}

static void
cancel(void *arg, struct tr_smtp_session *session)
{
}

static const struct tr_smtp_ops ops = {
	.engine = engine, .wants = wants, .fire = fire, .cancel = cancel, .gone = cancel};

static void
clean_up(void)
{
	char command[128];

	snprintf(command, sizeof command, "rm -rf %s", fuzz.rig.dir);
	need(system(command) == 0);
}

static void
set_up(void)
{
	static const char *const names[] = {"connections", "opened", "denied", "messages", "rejections"};

	if (fuzz.ready)
		return;
	fuzz.ready = true;
	rig_init(&fuzz.rig);
	atexit(clean_up);
	rig_open(&fuzz.rig);
	fuzz.shared.ops = &ops;
	fuzz.shared.params = tr_smtp_params_new();
	need(fuzz.shared.params != NULL);
	fuzz.shared.params->max_message_size = 2000;
	fuzz.shared.params->max_recipients_per_message = 3;
	for (int i = 0; i < 2; i++) {
		struct tr_metric **metrics[] = {&fuzz.shared.connections[i], &fuzz.shared.opened[i],
			&fuzz.shared.denied[i], &fuzz.shared.messages[i], &fuzz.shared.rejections[i]};

		for (size_t k = 0; k < TR_COUNT(metrics); k++)
			*metrics[k] = tr_metric_get(TR_GAUGE, names[k], "of the fuzzer", NULL);
	}
	fuzz.replies = malloc(REPLIES_MAX);
	need(fuzz.replies != NULL);
}

static bool
listen_to_it(void *arg)
{
	ssize_t n;

	while ((n = read(fuzz.fd, fuzz.replies + fuzz.len, REPLIES_MAX - fuzz.len)) > 0)
		fuzz.len += (size_t)n;
	need(fuzz.len < REPLIES_MAX);
	return atomic_load(&fuzz.shared.sessions) == 0 && (n == 0 || errno != EAGAIN);
}

static void
talk(const uint8_t *data, size_t len, size_t step)
{
	int fds[2];

	need(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
	fuzz.fd = fds[0];
	fuzz.len = 0;
	fuzz.messages = 0;
	atomic_fetch_add(&fuzz.shared.sessions, 1);
	tr_smtp_session_start(&fuzz.shared, tr_engine_worker(fuzz.rig.engine, 0), fds[1], &fuzz.crowd);
	for (size_t at = 0; at < len; at += step) {
		if (send(fuzz.fd, data + at, step < len - at ? step : len - at, MSG_NOSIGNAL) < 0)
			break; /* it has closed */
		tr_loop_turn(fuzz.rig.loops[0]);
	}
	shutdown(fuzz.fd, SHUT_WR);
	need(tr_loop_run_until(fuzz.rig.loops[0], listen_to_it, NULL, LIMIT_NS));
	close(fuzz.fd);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	char *whole;
	size_t whole_len;
	uint64_t messages;

	if (len < 1 || len > INPUT_MAX)
		return 0;
	set_up();
	fuzz.shared.params->line_ends = (enum tr_smtp_line_ends)((data[0] >> 5) % 3);
	talk(data + 1, len - 1, len);
	whole = fuzz_copy(fuzz.replies, fuzz.len);
	whole_len = fuzz.len;
	messages = fuzz.messages;
	talk(data + 1, len - 1, 7 * (1 + (data[0] & 31)));
	need(fuzz.messages == messages);
	need(fuzz.len == whole_len && memcmp(fuzz.replies, whole, whole_len) == 0);
	free(whole);
	return 0;
}
