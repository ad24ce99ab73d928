#include "cli/repl_history.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

static bool
make_dirs(char *path)
{
	for (char *at = strchr(path + 1, '/'); at != NULL; at = strchr(at + 1, '/')) {
		*at = '\0';
		bool failed = mkdir(path, 0700) != 0 && errno != EEXIST;
		*at = '/';
		if (failed)
			return false;
	}
	return true;
}

char *
tr_history_path(void)
{
	const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	char *path = NULL;
	int len;

	if (state != NULL && state[0] == '/')
		len = asprintf(&path, "%s/tailrace/repl_history", state);
	else if (home != NULL && home[0] == '/')
		len = asprintf(&path, "%s/.local/state/tailrace/repl_history", home);
	else
		return NULL;
	if (len < 0)
		return NULL;
	if (!make_dirs(path)) {
		free(path);
		return NULL;
	}
	return path;
}

/* The descriptor that holds the lock, or -1: then the file is used without. */
static int
lock(const char *path)
{
	char *name = NULL;
	int fd;

	if (asprintf(&name, "%s.lock", path) < 0)
		return -1;
	fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	free(name);
	if (fd >= 0 && flock(fd, LOCK_EX) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static void
unlock(int fd)
{
	if (fd >= 0)
		close(fd);
}

static void
escape(struct tr_str input, struct tr_buf *out)
{
	for (size_t i = 0; i < input.len; i++) {
		if (input.data[i] == '\n')
			tr_buf_addz(out, "\\n");
		else if (input.data[i] == '\\')
			tr_buf_addz(out, "\\\\");
		else
			tr_buf_addc(out, input.data[i]);
	}
}

/* In place: it only becomes shorter. */
static void
unescape(char *line)
{
	char *to = line;

	for (const char *from = line; *from != '\0'; from++) {
		if (*from == '\\' && from[1] != '\0') {
			from++;
			*to++ = *from == 'n' ? '\n' : *from;
		} else {
			*to++ = *from;
		}
	}
	*to = '\0';
}

static void
write_all(int fd, struct tr_str text)
{
	while (text.len > 0) {
		ssize_t n = write(fd, text.data, text.len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		text.data += n;
		text.len -= (size_t)n;
	}
}

/* Puts the newest inputs, text[at..], in the place of the whole file. */
static void
shorten(const char *path, struct tr_str rest)
{
	char *name = NULL;
	int fd;

	if (asprintf(&name, "%s.new", path) < 0)
		return;
	fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd >= 0) {
		write_all(fd, rest);
		if (close(fd) != 0 || rename(name, path) != 0)
			unlink(name);
	}
	free(name);
}

void
tr_history_load(const char *path, void (*see)(void *arg, const char *input), void *arg)
{
	char *text = NULL, *at;
	size_t len = 0, lines = 0, skip;
	int held = lock(path);

	if (tr_file_slurp(path, &text, &len) != 0) {
		unlock(held);
		return;
	}
	for (size_t i = 0; i < len; i++)
		lines += text[i] == '\n';
	skip = lines > TR_HISTORY_INPUTS ? lines - TR_HISTORY_INPUTS : 0;
	at = text;
	for (size_t i = 0; i < skip; i++)
		at = (char *)memchr(at, '\n', (size_t)(text + len - at)) + 1;
	if (lines > 2 * TR_HISTORY_INPUTS)
		shorten(path, (struct tr_str){at, (size_t)(text + len - at)});
	unlock(held);
	while (at < text + len) {
		char *end = memchr(at, '\n', (size_t)(text + len - at));
		if (end == NULL) /* cut off by a crash */
			break;
		*end = '\0';
		if (strlen(at) == (size_t)(end - at)) {
			unescape(at);
			see(arg, at);
		}
		at = end + 1;
	}
	free(text);
}

bool
tr_history_add(const char *path, struct tr_str input)
{
	struct tr_buf line = {0};
	int held, fd;
	bool done = false;

	escape(input, &line);
	tr_buf_addc(&line, '\n');
	if (line.failed)
		return false;
	held = lock(path);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd >= 0) {
		done = write(fd, line.data, line.len) == (ssize_t)line.len;
		done = close(fd) == 0 && done;
	}
	unlock(held);
	tr_buf_free(&line);
	return done;
}
