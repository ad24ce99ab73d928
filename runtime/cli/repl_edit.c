#include "cli/repl_edit.h"

#include <errno.h>
#include <histedit.h>
#include <limits.h>
#include <locale.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

#include "cli/repl.h"
#include "cli/repl_history.h"

#define ABORT_CHAR 3 /* what SIGINT becomes: bound to abort_line */
#define WAKE_CHAR 29 /* the watched descriptor */

struct tr_edit {
	struct tr_edit_config config; /* history: a copy */
	EditLine *el;
	History *history;
	char prompt[64];
	enum tr_edit_end end;
	char pending[MB_LEN_MAX]; /* bytes of a character that are there */
	size_t pending_len;
	char *last; /* the input remembered last: a repetition is not kept */
};

#ifdef __SANITIZE_ADDRESS__
/* libedit keeps the names of added functions beyond el_end(): its leak, of some hundred bytes, once. */
const char *__lsan_default_suppressions(void);
const char *
__lsan_default_suppressions(void)
{
	return "leak:wcsdup\n";
}
#endif

static volatile sig_atomic_t interrupted, resized, continued;
static struct tr_edit *editing; /* libedit's prompt function has no argument */
static pthread_t reader;

/* Set by repl.c's handler for SIGINT, too: see tr_edit_read(). */
static void
on_signal(int number)
{
	if (!pthread_equal(pthread_self(), reader)) { /* the kernel may give it to any thread: this one does not wait */
		pthread_kill(reader, number);
		return;
	}
	if (number == SIGINT)
		interrupted = 1;
	else if (number == SIGWINCH)
		resized = 1;
	else if (number == SIGCONT)
		continued = 1;
}

int
tr_edit_columns(void)
{
	struct winsize size;

	return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

static char *
prompt_of(EditLine *el)
{
	return editing->prompt;
}

/* One character from the bytes that are there: 1; 0: more are needed. Bytes that are none stand for themselves. */
static int
decode(struct tr_edit *edit, wchar_t *out)
{
	mbstate_t state = {0};
	size_t used = mbrtowc(out, edit->pending, edit->pending_len, &state);

	if (used == (size_t)-2 && edit->pending_len < sizeof edit->pending)
		return 0;
	if (used == (size_t)-1 || used == (size_t)-2) {
		*out = L'?';
		used = 1;
	} else if (used == 0) {
		used = 1;
	}
	memmove(edit->pending, edit->pending + used, edit->pending_len - used);
	edit->pending_len -= used;
	return 1;
}

/* libedit's: 1 and a character, 0 at the end, -1. */
static int
read_char(EditLine *el, wchar_t *out)
{
	struct tr_edit *edit = editing;
	struct pollfd fds[2] = {{STDIN_FILENO, POLLIN, 0}, {edit->config.fd, POLLIN, 0}};
	sigset_t block, old;

	for (;;) {
		if (edit->pending_len > 0 && decode(edit, out) == 1)
			return 1;
		/* Signals are let in only while it waits: none is missed between the look and the wait. */
		sigemptyset(&block);
		sigaddset(&block, SIGINT);
		sigaddset(&block, SIGWINCH);
		sigaddset(&block, SIGCONT);
		sigaddset(&block, SIGTERM);
		sigaddset(&block, SIGHUP);
		pthread_sigmask(SIG_BLOCK, &block, &old);
		if (tr_repl_ends) {
			pthread_sigmask(SIG_SETMASK, &old, NULL);
			return 0;
		}
		if (interrupted) {
			interrupted = 0;
			pthread_sigmask(SIG_SETMASK, &old, NULL);
			edit->pending_len = 0;
			*out = ABORT_CHAR;
			return 1;
		}
		if (resized || continued) {
			bool again = continued;
			resized = continued = 0;
			pthread_sigmask(SIG_SETMASK, &old, NULL);
			if (again) { /* the shell had the terminal: 1 alone would do nothing */
				el_set(el, EL_PREP_TERM, 0);
				el_set(el, EL_PREP_TERM, 1);
			}
			el_resize(el);
			if (edit->config.resized != NULL)
				edit->config.resized(edit->config.arg, tr_edit_columns());
			el_set(el, EL_REFRESH);
			continue;
		}
		int ready = ppoll(fds, edit->config.fd >= 0 ? 2 : 1, NULL, &old);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
		if (interrupted) /* a key that came with it is behind it */
			continue;
		if (ready < 0) {
			if (errno == EINTR)
				continue;
			return -1;
		}
		if (edit->config.fd >= 0 && fds[1].revents != 0) {
			edit->end = TR_EDIT_WAKE;
			*out = WAKE_CHAR;
			return 1;
		}
		ssize_t n = read(STDIN_FILENO, edit->pending + edit->pending_len, 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -1 : 0;
		edit->pending_len++;
	}
}

static unsigned char
abort_line(EditLine *el, int key)
{
	editing->end = TR_EDIT_ABORT;
	return CC_EOF;
}

static unsigned char
wake(EditLine *el, int key)
{
	editing->end = TR_EDIT_WAKE;
	return CC_EOF;
}

/* Prints the candidates in columns below the line. */
static void
print_columns(const char *text)
{
	size_t widest = 0, count = 0;

	for (const char *at = text; *at != '\0';) {
		size_t len = strcspn(at, "\n");
		widest = len > widest ? len : widest;
		count++;
		at += len + (at[len] == '\n');
	}
	size_t columns = (size_t)tr_edit_columns(), across = columns / (widest + 2);
	if (across == 0)
		across = 1;
	size_t rows = (count + across - 1) / across;
	const char **items = calloc(count + 1, sizeof *items);
	if (items == NULL)
		return;
	count = 0;
	for (const char *at = text; *at != '\0';) {
		size_t len = strcspn(at, "\n");
		items[count++] = at;
		at += len + (at[len] == '\n');
	}
	fputc('\n', stdout);
	for (size_t row = 0; row < rows; row++) {
		for (size_t i = row; i < count; i += rows) {
			int len = (int)strcspn(items[i], "\n");
			printf("%.*s%*s", len, items[i], i + rows < count ? (int)(widest + 2) - len : 0, "");
		}
		fputc('\n', stdout);
	}
	fflush(stdout);
	free(items);
}

static unsigned char
complete_word(EditLine *el, int key)
{
	struct tr_edit *edit = editing;
	const LineInfo *info = el_line(el);
	struct tr_buf out = {0};
	unsigned char result = CC_ERROR;

	if (edit->config.complete == NULL)
		return CC_ERROR;
	struct tr_str line = {info->buffer, (size_t)(info->cursor - info->buffer)};
	if (line.len == 0 || strspn(line.data, " \t") >= line.len) { /* at the start of a line, Tab indents */
		el_insertstr(el, "  ");
		return CC_REFRESH;
	}
	edit->config.complete(edit->config.arg, line, &out);
	tr_buf_addc(&out, '\0');
	if (!out.failed && out.len > 1) {
		char *list = strchr(out.data, '\n');

		if (list != NULL)
			*list++ = '\0';
		if (out.data[0] != '\0') {
			el_insertstr(el, out.data);
			result = CC_REFRESH;
		} else if (list != NULL && *list != '\0') {
			print_columns(list);
			result = CC_REDISPLAY;
		}
	}
	tr_buf_free(&out);
	return result;
}

static void
seen(void *arg, const char *input)
{
	struct tr_edit *edit = arg;
	HistEvent event;

	history(edit->history, &event, H_ENTER, input);
}

int
tr_edit_new(const struct tr_edit_config *config, struct tr_edit **out)
{
	struct tr_edit *edit = calloc(1, sizeof *edit);
	struct sigaction action = {.sa_handler = on_signal};
	HistEvent event;

	*out = NULL;
	if (edit == NULL)
		return TR_ENOMEM;
	edit->config = *config;
	edit->config.history = config->history ? strdup(config->history) : NULL;
	setlocale(LC_CTYPE, "");
	if (MB_CUR_MAX == 1) /* LANG=C: what is typed may be UTF-8 all the same */
		setlocale(LC_CTYPE, "C.UTF-8");
	edit->history = history_init();
	edit->el = el_init("tailrace", stdin, stdout, stderr);
	if (edit->el == NULL || edit->history == NULL) {
		tr_edit_free(edit);
		return TR_EIO;
	}
	editing = edit;
	history(edit->history, &event, H_SETSIZE, TR_HISTORY_INPUTS);
	if (edit->config.history != NULL)
		tr_history_load(edit->config.history, seen, edit);
	el_set(edit->el, EL_PROMPT_ESC, prompt_of, '\1');
	el_set(edit->el, EL_EDITOR, "emacs");
	el_set(edit->el, EL_HIST, history, edit->history);
	el_set(edit->el, EL_GETCFN, read_char);
	el_set(edit->el, EL_ADDFN, "tr-abort", "throw the input away", abort_line);
	el_set(edit->el, EL_ADDFN, "tr-wake", "the other end says something", wake);
	el_set(edit->el, EL_ADDFN, "tr-complete", "complete what stands before the cursor", complete_word);
	el_set(edit->el, EL_BIND, "^C", "tr-abort", NULL);
	el_set(edit->el, EL_BIND, "^]", "tr-wake", NULL);
	el_set(edit->el, EL_BIND, "^I", "tr-complete", NULL);
	el_set(edit->el, EL_BIND, "^R", "em-inc-search-prev", NULL);
	el_set(edit->el, EL_BIND, "\\e[1;5C", "em-next-word", NULL);
	el_set(edit->el, EL_BIND, "\\e[1;5D", "ed-prev-word", NULL);
	el_set(edit->el, EL_BIND, "\\e[3~", "ed-delete-next-char", NULL);
	el_set(edit->el, EL_BIND, "\\e[1~", "ed-move-to-beg", NULL);
	el_set(edit->el, EL_BIND, "\\e[4~", "ed-move-to-end", NULL);
	el_source(edit->el, NULL); /* ~/.editrc */
	reader = pthread_self();
	sigemptyset(&action.sa_mask);
	sigaction(SIGWINCH, &action, NULL);
	sigaction(SIGCONT, &action, NULL);
	*out = edit;
	return TR_OK;
}

void
tr_edit_free(struct tr_edit *edit)
{
	if (edit == NULL)
		return;
	if (edit->el != NULL)
		el_end(edit->el);
	if (edit->history != NULL)
		history_end(edit->history);
	free((char *)edit->config.history);
	free(edit->last);
	free(edit);
	editing = NULL;
}

enum tr_edit_end
tr_edit_read(struct tr_edit *edit, const char *prompt, struct tr_buf *line)
{
	struct sigaction mine = {.sa_handler = on_signal}, old;
	const char *text;
	int count = 0;

	snprintf(edit->prompt, sizeof edit->prompt, edit->config.colour ? "\1\033[1m\1%s\1\033[0m\1" : "%s", prompt);
	edit->end = TR_EDIT_LINE;
	interrupted = 0;
	sigemptyset(&mine.sa_mask);
	sigaction(SIGINT, &mine, &old);
	text = el_gets(edit->el, &count);
	sigaction(SIGINT, &old, NULL);
	if (edit->end != TR_EDIT_LINE) {
		el_reset(edit->el);
		if (edit->end == TR_EDIT_ABORT)
			fputs("^C", stdout);
		fputc('\n', stdout);
		fflush(stdout);
		return edit->end;
	}
	if (text == NULL || count <= 0) {
		fputc('\n', stdout);
		fflush(stdout);
		return TR_EDIT_END;
	}
	tr_buf_add(line, text, (size_t)count);
	return TR_EDIT_LINE;
}

void
tr_edit_remember(struct tr_edit *edit, struct tr_str input)
{
	HistEvent event;
	char *copy;

	while (input.len > 0 && strchr("\r\n", input.data[input.len - 1]) != NULL)
		input.len--;
	if (input.len == 0 || input.len > TR_HISTORY_INPUT_BYTES || input.data[0] == ' ' ||
		memchr(input.data, '\0', input.len) != NULL ||
		(edit->last != NULL && strlen(edit->last) == input.len &&
			memcmp(edit->last, input.data, input.len) == 0))
		return;
	copy = strndup(input.data, input.len);
	if (copy == NULL)
		return;
	free(edit->last);
	edit->last = copy;
	history(edit->history, &event, H_ENTER, copy);
	if (edit->config.history != NULL && !tr_history_add(edit->config.history, input)) {
		free((char *)edit->config.history); /* a full disk: this session keeps its own */
		edit->config.history = NULL;
	}
}
