/* Reading inputs from a terminal, and the signals of a prompt. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/repl.h"
#include "cli/repl_edit.h"
#include "cli/repl_history.h"

volatile sig_atomic_t tr_repl_ends;
static pthread_t main_thread;
static void (*interrupt_fn)(void);

static void
on_signal(int number)
{
	if (!pthread_equal(pthread_self(), main_thread)) { /* the kernel may give it to any thread */
		pthread_kill(main_thread, number);
		return;
	}
	if (number != SIGINT)
		tr_repl_ends = 1;
	interrupt_fn();
}

void
tr_repl_signals(void (*interrupt)(void))
{
	struct sigaction action = {.sa_handler = on_signal};

	main_thread = pthread_self();
	interrupt_fn = interrupt;
	sigemptyset(&action.sa_mask);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
}

bool
tr_repl_colour(void)
{
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

	return isatty(STDOUT_FILENO) && (no == NULL || no[0] == '\0') && term != NULL && strcmp(term, "dumb") != 0;
}

void
tr_repl_print(struct tr_str text)
{
	fwrite(text.data, 1, text.len, stdout);
	fflush(stdout);
}

/* Reads one input of one line or more and evaluates it. */
static enum tr_repl_status
one_input(const struct tr_repl_ops *ops, void *arg, struct tr_edit *edit, struct tr_buf *input)
{
	char more[64];

	tr_buf_clear(input);
	for (;;) {
		const char *prompt = ops->prompt(arg);

		if (input->len > 0) {
			snprintf(more, sizeof more, "%*s> ", (int)strlen(prompt) - 2, "");
			prompt = more;
		}
		enum tr_edit_end end = tr_edit_read(edit, prompt, input);
		if (end == TR_EDIT_WAKE)
			return ops->wake(arg);
		if (end == TR_EDIT_ABORT)
			return TR_REPL_OK;
		if (end == TR_EDIT_END && (input->len == 0 || tr_repl_ends))
			return TR_REPL_QUIT;
		bool last = end == TR_EDIT_END;
		struct tr_str text = {input->data, input->len};
		while (text.len > 0 && strchr("\r\n", text.data[text.len - 1]) != NULL)
			text.len--;
		enum tr_repl_status status = ops->eval(arg, text, last);
		if (status != TR_REPL_INCOMPLETE) {
			tr_edit_remember(edit, text);
			return status;
		}
		if (input->failed)
			return TR_REPL_ERROR;
	}
}

int
tr_repl_loop(const struct tr_repl_ops *ops, void *arg, int fd, bool colour)
{
	char *history = tr_history_path();
	struct tr_edit_config config = {.history = history,
		.colour = colour,
		.complete = ops->complete,
		.resized = ops->resized,
		.arg = arg,
		.fd = fd};
	struct tr_buf input = {0};
	struct tr_edit *edit;
	enum tr_repl_status status = TR_REPL_OK;
	int err = tr_edit_new(&config, &edit);

	free(history);
	if (err != TR_OK) {
		fprintf(stderr, "tailrace repl: the terminal cannot be used (TERM=%s)\n",
			getenv("TERM") ? getenv("TERM") : "");
		return TR_EXIT_UNAVAILABLE;
	}
	while (status != TR_REPL_QUIT && !tr_repl_ends)
		status = one_input(ops, arg, edit, &input);
	tr_edit_free(edit);
	tr_buf_free(&input);
	return TR_EXIT_OK;
}
