/* The client of a live process's prompt: the line editor here, everything else there. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/cli.h"
#include "cli/repl.h"
#include "cli/repl_edit.h"
#include "cli/repl_frame.h"

#define ANSWER_LIMIT_MS 5000 /* of a process that does not greet or complete */

struct attached {
	int fd;
	bool terminal, colour;
	bool gone; /* the connection has ended */
	struct tr_buf in;
	char prompt[48];
	char status[32];
	struct tr_buf completion;
	char got; /* kind of the frame that was read last, of those that end a wait */
};

static volatile sig_atomic_t interrupted;

static void
interrupt(void)
{
	interrupted = 1;
}

static void
send_frame(struct attached *attached, char kind, struct tr_str text)
{
	struct tr_buf frame = {0};

	tr_repl_frame_add(&frame, kind, text);
	for (size_t at = 0; at < frame.len && !attached->gone;) {
		ssize_t n = send(attached->fd, frame.data + at, frame.len - at, MSG_NOSIGNAL);
		if (n > 0)
			at += (size_t)n;
		else if (errno != EINTR)
			break; /* what it said before it closed can still be read, and then its end */
	}
	tr_buf_free(&frame);
}

static void
say_terminal(struct attached *attached, int columns)
{
	char text[32];

	snprintf(text, sizeof text, "%d %d %d", columns, attached->terminal, attached->colour);
	send_frame(attached, 'W', tr_str(text));
}

static void
take_frame(struct attached *attached, const struct tr_repl_frame *frame)
{
	struct tr_str text = frame->text;
	const char *end;

	switch (frame->kind) {
	case 'O':
		tr_repl_print(text);
		return;
	case 'R':
		end = memchr(text.data, '\n', text.len);
		if (end == NULL)
			return;
		snprintf(attached->status, sizeof attached->status, "%.*s", (int)(end - text.data), text.data);
		if (end + 1 < text.data + text.len)
			snprintf(attached->prompt, sizeof attached->prompt, "%.*s",
				(int)(text.data + text.len - end - 1), end + 1);
		break;
	case 'C':
		tr_buf_clear(&attached->completion);
		tr_buf_add(&attached->completion, text.data, text.len);
		break;
	case 'X':
		fprintf(stderr, "tailrace repl: %.*s\n", (int)text.len, text.data);
		attached->gone = true;
		break;
	default: /* 'H' is for tools */
		break;
	}
	attached->got = frame->kind;
}

/* Reads what is there; waits for more if `wait`. False: the connection has ended. */
static bool
receive(struct attached *attached, int timeout_ms)
{
	struct pollfd fd = {attached->fd, POLLIN, 0};
	struct tr_repl_frame frame;
	char block[65536];
	ssize_t n;
	int got;

	if (attached->gone)
		return false;
	if (poll(&fd, 1, timeout_ms) <= 0)
		return true; /* nothing, or a signal */
	n = recv(attached->fd, block, sizeof block, MSG_DONTWAIT);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return true;
	if (n <= 0) {
		attached->gone = true;
		return false;
	}
	tr_buf_add(&attached->in, block, (size_t)n);
	while ((got = tr_repl_frame_next(&attached->in, &frame)) == 1) {
		take_frame(attached, &frame);
		tr_buf_consume(&attached->in, frame.size);
	}
	if (got < 0 || attached->in.failed)
		attached->gone = true;
	return !attached->gone;
}

/* Until a frame of that kind has come. Ctrl-C is passed on. limit_ms -1: for ever. */
static bool
await(struct attached *attached, char kind, int limit_ms)
{
	int waited_ms = 0;

	attached->got = 0;
	while (attached->got != kind) {
		if (!receive(attached, 100))
			return false;
		if (interrupted) {
			interrupted = 0;
			send_frame(attached, 'I', (struct tr_str){NULL, 0});
		}
		waited_ms += 100;
		if (tr_repl_ends || (limit_ms >= 0 && waited_ms > limit_ms))
			return false;
	}
	return true;
}

static enum tr_repl_status
evaluate(struct attached *attached, struct tr_str input, char how)
{
	struct tr_buf text = {0};

	if (input.len >= TR_REPL_FRAME_MAX) {
		fputs("error: an input of at most 1 MiB is taken\n", stdout);
		return TR_REPL_ERROR;
	}
	tr_buf_addc(&text, how);
	tr_buf_add(&text, input.data, input.len);
	interrupted = 0;
	send_frame(attached, 'E', (struct tr_str){text.data, text.len});
	tr_buf_free(&text);
	if (!await(attached, 'R', -1))
		return TR_REPL_QUIT;
	return strcmp(attached->status, "ok") == 0           ? TR_REPL_OK
	       : strcmp(attached->status, "incomplete") == 0 ? TR_REPL_INCOMPLETE
	       : strcmp(attached->status, "quit") == 0       ? TR_REPL_QUIT
							     : TR_REPL_ERROR;
}

static enum tr_repl_status
eval(void *arg, struct tr_str input, bool last)
{
	return evaluate(arg, input, last ? '1' : '0');
}

static void
complete(void *arg, struct tr_str line, struct tr_buf *out)
{
	struct attached *attached = arg;

	send_frame(attached, 'C', line);
	if (await(attached, 'C', ANSWER_LIMIT_MS))
		tr_buf_add(out, attached->completion.data, attached->completion.len);
}

static void
resized(void *arg, int columns)
{
	say_terminal(arg, columns); /* its answer comes when it comes */
}

static const char *
prompt(void *arg)
{
	return ((struct attached *)arg)->prompt;
}

static enum tr_repl_status
wake(void *arg)
{
	return receive(arg, 0) ? TR_REPL_OK : TR_REPL_QUIT;
}

static int
connect_to(const char *path, bool *refused)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	int fd;

	if (strlen(path) >= sizeof name.sun_path) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(name.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (const struct sockaddr *)&name, sizeof name) != 0) {
		int errnum = errno;
		close(fd);
		errno = errnum;
		*refused = errnum == ECONNREFUSED || errnum == ENOENT;
		return -1;
	}
	return fd;
}

int
tr_repl_attach(const char *path, const struct tr_arg_list *inputs, struct tr_str script, bool terminal)
{
	static const struct tr_repl_ops ops = {eval, complete, resized, prompt, wake};
	struct attached attached = {.terminal = terminal, .colour = terminal && tr_repl_colour(), .prompt = "> "};
	bool refused = false;
	int status = TR_EXIT_OK;

	attached.fd = connect_to(path, &refused);
	if (attached.fd < 0) {
		fprintf(stderr, "tailrace repl: %s: %s%s\n", path, strerror(errno),
			refused ? "; is a process running with --repl-socket or kumo.start_repl_socket?" : "");
		return TR_EXIT_UNAVAILABLE;
	}
	tr_repl_signals(interrupt);
	say_terminal(&attached, tr_edit_columns());
	if (!await(&attached, 'R', ANSWER_LIMIT_MS * 2)) {
		fprintf(stderr, "tailrace repl: the process at %s does not answer\n", path);
		status = TR_EXIT_UNAVAILABLE;
	} else if (terminal) {
		status = tr_repl_loop(&ops, &attached, attached.fd, attached.colour);
	} else if (inputs->count > 0) {
		for (size_t i = 0; i < inputs->count && status == TR_EXIT_OK && !attached.gone; i++)
			if (evaluate(&attached, tr_str(inputs->items[i]), '1') == TR_REPL_ERROR)
				status = TR_EXIT_FAILED;
	} else if (script.len > 0) {
		status = evaluate(&attached, script, '2') == TR_REPL_ERROR ? TR_EXIT_FAILED : TR_EXIT_OK;
	}
	if (attached.gone && status == TR_EXIT_OK && !terminal)
		status = TR_EXIT_FAILED;
	if (attached.gone && terminal)
		fputs("the process has closed the connection\n", stdout);
	close(attached.fd);
	tr_buf_free(&attached.in);
	tr_buf_free(&attached.completion);
	if (fflush(stdout) != 0 && status == TR_EXIT_OK)
		status = TR_EXIT_IOERR;
	return status;
}
